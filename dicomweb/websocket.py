"""Connections over which we tell what happens (RFC 6455, PS3.18 8.10.4): who may open one, and when it ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from dicomweb import cors, errors, links
from dicomweb.calls import Web
from pacs.auth import Principal, Right
from pacs.errors import ArchiveError, Forbidden, Unauthenticated, Unavailable

if TYPE_CHECKING:
    from pacs.archive import Archive

PING_S = 10.0
PONG_S = 10.0
"""The keepalive that the HTTP server is to be run with: a connection without an answer for so long is lost."""

CERTAIN_S = PING_S + PONG_S + 5.0
"""What was sent so long ago, on a connection that is still there, has arrived."""

POLL_S = 0.2
"""How often the counter of this process is looked at, which costs nothing."""

LOOK_S = 1.0
"""How often the index is asked whether anything was committed: other processes do not move our counter."""

SURE_S = 5.0
"""How often it is looked for news in any case, and whether the credential is still good."""

MAX_SOCKETS = 1000
MAX_MESSAGE_BYTES = 4096
"""What a client may send at once; nothing it sends has a meaning."""

BEARER = "bearer."
"""Begins the subprotocol by which a page of a browser, which cannot set header fields, gives its token."""

IN_ORDER = (1000, 1001)  # 1005, a goodbye without a code, is also what the server says of a loss
GOING_AWAY, POLICY, FAILED = 1001, 1008, 1011


class Ended(Exception):
    """The connection is to be closed by us, with this code."""

    def __init__(self, code: int) -> None:
        self.code = code


class Feed:
    """What is sent over one connection, in order."""

    def messages(self) -> AsyncGenerator[str, None]:
        """Texts as they are due, until the server stops; the next one is asked for when one is on its way.

        Raises Ended.
        """
        raise NotImplementedError

    async def end(self, in_order: bool) -> None:
        """The connection is over; `in_order` says whether the client has said goodbye."""


class Door:
    """One WebSocket address: who asks is judged, then a feed is sent until either side ends it.

    Who asks is expected in the ASGI state as `principal`, and `authenticate` there to ask again. Subclasses make the
    feed; a message from the client means nothing.
    """

    def __init__(self, web: Web) -> None:
        self.web = web
        self.archive = web.archive
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        try:
            feed = await self._feed(scope, self._judged(scope))
        except ArchiveError as error:
            await _refuse(scope, send, error)
            return
        self._open += 1
        in_order = False
        try:
            await send({"type": "websocket.accept", "subprotocol": _subprotocol(scope)})
            in_order = await self._run(feed, receive, send)
        finally:
            self._open -= 1
            with anyio.CancelScope(shield=True):
                await feed.end(in_order)

    async def _feed(self, scope: Scope, principal: Principal) -> Feed:
        """What is to be sent. Raises ArchiveError for what the client may not have."""
        raise NotImplementedError

    def _judged(self, scope: Scope) -> Principal:
        principal = scope.get("state", {}).get("principal")
        if not isinstance(principal, Principal):
            raise Unauthenticated("a credential is needed")
        self._check_origin(scope, principal)
        principal.require(Right.QUERY)
        if self._open >= MAX_SOCKETS:
            raise Unavailable(f"{MAX_SOCKETS} connections are open")
        return principal

    def _check_origin(self, scope: Scope, principal: Principal) -> None:
        """Only pages of ours, or of origins that may use the service, get a connection (RFC 6455 10.2)."""
        settings, headers = self.archive.settings, Headers(scope=scope)
        origin = headers.get("origin")
        by_cookie = principal.kind == "session"
        if origin is None:
            if by_cookie:  # a cookie comes with whatever a browser asks, so it has to say for whom
                raise Forbidden("a connection by cookie needs an Origin")
            return
        reached = settings.public_url or links.base(scope, headers, self.web.proxies)
        if _host(origin) in (_host(reached), headers.get("host", "").lower()) and _host(origin):
            return
        allowed = cors.checked(settings.cors_origins) - ({cors.ANY} if by_cookie else set())
        if not cors.is_allowed(origin, allowed):
            raise Forbidden("pages of this origin may not open a connection; see the setting cors_origins")

    async def _run(self, feed: Feed, receive: Receive, send: Send) -> bool:
        """Whether the client ended it in order."""
        left: int | None = None

        async def listen() -> None:
            nonlocal left
            while (message := await receive())["type"] != "websocket.disconnect":
                pass
            left = message.get("code", 1006)
            group.cancel_scope.cancel()

        code = GOING_AWAY
        async with anyio.create_task_group() as group:
            group.start_soon(listen)
            try:
                async with aclosing(feed.messages()) as messages:
                    async for text in messages:
                        await send({"type": "websocket.send", "text": text})
            except Ended as ended:
                code = ended.code
            except OSError:  # the client is gone
                code = 0
            except Exception as error:
                errors.report(error, "WEBSOCKET", type(self).__name__)
                code = FAILED
            if code:
                with anyio.move_on_after(5):
                    await send({"type": "websocket.close", "code": code})
            group.cancel_scope.cancel()
        return left in IN_ORDER


async def again(door: Door, principal: Principal, authenticate: Callable[[], Principal] | None) -> Principal:
    """Who asks, as of now. Raises Ended where the credential was revoked or has expired."""
    if authenticate is None:
        return principal
    try:
        return await anyio.to_thread.run_sync(authenticate, limiter=door.web.io)
    except Unauthenticated:
        raise Ended(POLICY) from None


def _host(url: str) -> str:
    """Host and port of an origin or a URL in lower case; empty where there is none."""
    try:
        return urlsplit(url.lower()).netloc
    except ValueError:  # "http://[": nobody's
        return ""


def _subprotocol(scope: Scope) -> str | None:
    """The first one offered that is no credential; browsers want one of theirs back."""
    offered: list[str] = scope.get("subprotocols", [])
    return next((name for name in offered if not name.startswith(BEARER)), offered[0] if offered else None)


async def _refuse(scope: Scope, send: Send, error: ArchiveError) -> None:
    """Answer the handshake with a status and a problem, where the server can; else it becomes a plain 403."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": POLICY})
        return
    code = errors.status(error)
    body = errors.problem(code, error.reason, error.about)
    fields = [("content-type", errors.PROBLEM), *errors.extra_headers(error)]
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in fields]
    await send({"type": "websocket.http.response.start", "status": code, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})


async def news(archive: Archive) -> AsyncIterator[None]:
    """A turn at once and whenever there may be news, at the latest after SURE_S; ends when the server stops.

    A thousand connections that wait are to cost next to nothing: an index that tells that nobody has committed
    anything is not asked more.
    """
    told, seen, waited, idle = archive.events.version, archive.index.version(), 0.0, 0.0
    yield
    while not archive.events.closed:
        await anyio.sleep(POLL_S)
        waited, idle = waited + POLL_S, idle + POLL_S
        if archive.events.version == told and waited < LOOK_S:
            continue
        now = archive.index.version()
        if archive.events.version != told or now is None or now != seen or idle >= SURE_S:
            told, seen, idle = archive.events.version, now, 0.0
            yield
        waited = 0.0
