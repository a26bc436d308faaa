"""The change feed, an extension beside PS3.18: what happened in the archive, in order, to be read from any point on.

Every entry has a sequence number; who has read up to one asks for what is beyond it, as an answer, as an answer that
waits for news, or on a WebSocket. Entries name things by UID and hold no patient data.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import anyio
import anyio.to_thread
import orjson
from starlette.types import Scope

from dicomweb.answers import Answer
from dicomweb.calls import Call
from dicomweb.media_types import JSON, Offer
from dicomweb.params import count
from dicomweb.websocket import Door, Feed, again, news
from pacs.auth import Principal, Right
from pacs.errors import Gone, InvalidQuery

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.index.changes import Change

OFFERS = (Offer(JSON),)
LIMIT = 100
MAX_LIMIT = 1000
MAX_WAIT_S = 60
MAX_DIGITS = 18  # what fits the integers of the database
_SCAN = 500
_PARAMETERS = frozenset({"since", "limit", "wait", "accept", "charset"})
_FOR_ADMINISTRATORS = frozenset({"quarantined", "discrepancy"})
_NAMES = ("study_instance_uid", "series_instance_uid", "sop_instance_uid", "workitem_uid", "fingerprint")


@dataclass(frozen=True, slots=True)
class Page:
    """Entries in order, the sequence number up to which everything was looked at, and whether there is more."""

    entries: list[dict[str, Any]]
    last: int
    more: bool


async def retrieve(call: Call) -> Answer:
    """GET /changes: `since` a sequence number (or "now"), at most `limit` entries, waiting `wait` seconds for any.

    The answer says in `last` from where to go on. 410 where `since` is beyond the feed, which then has begun anew.
    """
    principal = call.principal(Right.QUERY)
    call.choose(OFFERS)
    unknown = {name for name, _ in call.query} - _PARAMETERS
    if unknown:  # who misspells `since` would get everything again, each time
        raise InvalidQuery(f"the parameters are {', '.join(sorted(_PARAMETERS))}")
    since = await start(call.archive, call.parameter("since") or "0")
    limit = min(count("limit", call.parameter("limit") or str(LIMIT)), MAX_LIMIT)
    wait_s = min(count("wait", call.parameter("wait") or "0"), MAX_WAIT_S)
    found = await call.io(page, call.archive, principal, since, limit)
    if wait_s and limit and not found.entries:
        with anyio.move_on_after(wait_s):
            async for _ in news(call.archive):
                principal = await _again(call, principal)
                found = await call.io(page, call.archive, principal, found.last, limit)
                if found.entries:
                    break
    body = orjson.dumps({"changes": found.entries, "last": found.last, "more": found.more})
    link = f'<{call.service_root}/changes?since={found.last}>; rel="next"'
    return await call.io(call.text, body, JSON, [("Link", link)])


async def _again(call: Call, principal: Principal) -> Principal:
    """Who asks, as of now: a wait may outlive the credential. Raises Unauthenticated where it was revoked."""
    authenticate = call.scope.get("state", {}).get("authenticate")
    return principal if authenticate is None else await call.io(authenticate)


async def start(archive: Archive, since: str) -> int:
    """The sequence number that `since` means. Raises InvalidQuery, and Gone for one that was never given."""
    last = await anyio.to_thread.run_sync(archive.changes.last)
    if since == "now":
        await anyio.to_thread.run_sync(archive.index.make_durable)
        return last
    if not (since.isascii() and since.isdecimal()) or len(since) > MAX_DIGITS:
        raise InvalidQuery("since is neither a sequence number nor now", about="since")
    if int(since) > last:
        raise Gone("the feed has begun anew since that sequence number: read it from 0", about="since")
    return int(since)


def page(archive: Archive, principal: Principal, since: int, limit: int) -> Page:
    """At most `limit` entries beyond `since` that the principal may see. Blocks.

    They are on the disk: what is filed again after a power failure must not get numbers that somebody has passed.
    """
    found = _page(archive, principal, since, limit)
    if found.last > since:
        archive.index.make_durable()
    return found


def _page(archive: Archive, principal: Principal, since: int, limit: int) -> Page:
    entries: list[dict[str, Any]] = []
    last = since
    while True:
        found = archive.changes.after(last, _SCAN)
        for change in found:
            if is_visible(change, principal):
                if len(entries) == limit:
                    return Page(entries, last, more=True)
                entries.append(entry(change))
            last = change.seq
        if len(found) < _SCAN:
            return Page(entries, last, more=False)


def is_visible(change: Change, principal: Principal) -> bool:
    """Whether the principal may hear of it: of what is within their scope, of what is kept aside as administrator."""
    if principal.scope and change.scope != principal.scope:
        return False
    return change.kind not in _FOR_ADMINISTRATORS or Right.ADMIN in principal.rights


def entry(change: Change) -> dict[str, Any]:
    """One change as JSON: seq, kind, at (UTC), and the UIDs that it is about."""
    at = datetime.fromtimestamp(change.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    named = {name: value for name in _NAMES if (value := getattr(change, name)) is not None}
    return {"seq": change.seq, "kind": change.kind, "at": at, **named}


class ChangeFeed(Door):
    """The entries beyond the sequence number `since`, by default from now on."""

    async def _feed(self, scope: Scope, principal: Principal) -> Feed:
        query = dict(parse_qsl(scope.get("query_string", b"").decode("ascii", "replace")))
        since = await start(self.archive, query.get("since", "now"))
        return Entries(self, principal, scope["state"].get("authenticate"), since)


class Entries(Feed):
    """Entries as they come; a client that is cut off goes on from the last sequence number it has."""

    def __init__(
        self, door: Door, principal: Principal, authenticate: Callable[[], Principal] | None, since: int
    ) -> None:
        self._door = door
        self._principal = principal
        self._authenticate = authenticate
        self._since = since

    async def messages(self) -> AsyncGenerator[str, None]:
        """One entry each."""
        archive, limiter = self._door.archive, self._door.web.io
        async for _ in news(archive):
            self._principal = await again(self._door, self._principal, self._authenticate)
            more = True
            while more:
                read = partial(page, archive, self._principal, self._since, LIMIT)
                found = await anyio.to_thread.run_sync(read, limiter=limiter)
                for each in found.entries:
                    yield orjson.dumps(each).decode()
                self._since, more = found.last, found.more
