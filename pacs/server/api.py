"""What is not DICOM over HTTP: login, session, and the stream of events that the viewer listens to."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from pacs.errors import Unauthenticated
from pacs.json_api import TEXT, Body, Row
from pacs.server.http import SESSION_COOKIE, dumps, from_same_origin, problem, session_of, small_json

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.auth import Principal
    from pacs.index.changes import Change

MAX_BODY_BYTES = 4096
POLL_S = 0.2  # how often an event stream looks at the in-process counter, which costs nothing
LOOK_S = 1.0  # how often it asks the database anyway: other processes do not move our counter
HEARTBEAT_S = 15.0
MAX_ID_DIGITS = 18  # what fits the database's integers


class Login(Body):
    """The code of a one-time login link, or a bearer token."""

    code: str | None = None
    token: str | None = None


_SESSION = {"type": "object", "properties": {"name": TEXT, "rights": {"type": "array", "items": TEXT}}}
_EVENTS = """Server-sent events: `change` (`seq`, `kind`, the UIDs) for everything that is filed or removed, `workitem`
(`uid`, `state`, `label`, `plugin`, `progress`, `message`, `reason`) as tasks move. `Last-Event-ID` goes on
after a `seq`."""


def rows(archive: Archive, stopping: anyio.Event | None = None) -> list[Row]:
    """/api/login, /api/logout, /api/session and /api/events. `stopping` ends the event streams."""

    async def login(request: Request) -> Response:
        if request.headers.get("origin") is not None and not from_same_origin(request.headers):
            return problem(403, "Forbidden", "the request comes from another site")
        body = await small_json(request, MAX_BODY_BYTES)
        secret = body.get("code") or body.get("token")
        if not isinstance(secret, str):
            return problem(400, "Bad Request", 'a JSON object with "code" or "token" is needed')
        lifetime_s = archive.settings.session_hours * 3600
        try:
            session = await anyio.to_thread.run_sync(archive.auth.open_session, secret, lifetime_s)
        except Unauthenticated as error:
            return problem(401, "Unauthorized", error.reason)
        answer = Response(status_code=204)
        answer.set_cookie(
            SESSION_COOKIE,
            session,
            max_age=int(lifetime_s),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https" or archive.settings.public_url.startswith("https:"),
        )
        return answer

    async def logout(request: Request) -> Response:
        session = session_of(request.headers)
        if session is not None:
            if not from_same_origin(request.headers):
                return problem(403, "Forbidden", "the request comes from another site")
            await anyio.to_thread.run_sync(archive.auth.revoke, session)
        answer = Response(status_code=204)
        answer.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict")
        return answer

    async def session(request: Request) -> Response:
        principal: Principal = request.state.principal
        return JSONResponse({"name": principal.name, "rights": sorted(principal.rights)})

    async def events(request: Request) -> Response:
        last = request.headers.get("last-event-id", "")
        after = int(last) if last.isdecimal() and len(last) <= MAX_ID_DIGITS else None
        stream = _events(archive, request.state.authenticate, after, stopping)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    return [
        Row("POST", "/api/login", None, "Begin a session: a cookie of the browser.", "session", body=Login,
            endpoint=login, open=True, errors=(400, 401, 403)),
        Row("POST", "/api/logout", None, "End it.", "session", endpoint=logout, open=True, errors=(403,)),
        Row("GET", "/api/session", None, "Who asks, and what they may do.", "session", endpoint=session,
            answer=_SESSION),
        Row("GET", "/api/events", None, "What happens, as it happens.", "session", endpoint=events, answer=TEXT,
            media_type="text/event-stream", description=_EVENTS),
    ]  # fmt: skip


def _durable_changes(archive: Archive, after: int) -> Sequence[Change]:
    """What was told keeps its number: it is on the disk, whatever fails next (as in `dicomweb.changes.page`)."""
    found = archive.changes.after(after, 200)
    if found:
        archive.index.make_durable()
    return found


async def _events(
    archive: Archive, authenticate: Callable[[], Principal], after: int | None, stopping: anyio.Event | None
) -> AsyncIterator[str]:
    """Server-sent events: every change after `after` (None = from now on), and Workitems as they move.

    They end when `authenticate`, which tells who listens, raises Unauthenticated.
    """
    seq = await anyio.to_thread.run_sync(archive.changes.last) if after is None else after
    since = time.time() - 1.0
    seen: dict[str, float] = {}
    version, looked, spoke = -1, 0.0, time.monotonic()
    yield "retry: 2000\n\n"
    while stopping is None or not stopping.is_set():
        now = time.monotonic()
        if archive.events.version != version or now - looked >= LOOK_S:
            version, looked = archive.events.version, now
            try:
                principal = await anyio.to_thread.run_sync(authenticate)
            except Unauthenticated:
                return
            for change in await anyio.to_thread.run_sync(_durable_changes, archive, seq):
                seq = change.seq
                if principal.scope and change.scope != principal.scope:
                    continue
                body = {
                    "seq": change.seq,
                    "kind": change.kind,
                    "study_instance_uid": change.study_instance_uid,
                    "series_instance_uid": change.series_instance_uid,
                    "sop_instance_uid": change.sop_instance_uid,
                    "workitem_uid": change.workitem_uid,
                }
                yield f"id: {change.seq}\nevent: change\ndata: {dumps(body)}\n\n"
                spoke = now
            for item in await anyio.to_thread.run_sync(archive.worklist.moved_since, since, principal):
                if seen.get(item["uid"]) == item["updated_at"]:
                    continue
                seen[item["uid"]] = item["updated_at"]
                since = max(since, item["updated_at"] - 1.0)
                yield f"event: workitem\ndata: {dumps(item)}\n\n"
                spoke = now
            seen = {uid: at for uid, at in seen.items() if at >= since}
        if now - spoke >= HEARTBEAT_S:
            spoke = now
            yield ": still here\n\n"
        await anyio.sleep(POLL_S)
