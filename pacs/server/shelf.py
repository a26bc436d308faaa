"""Answers of searches and metadata, ready as bytes, for the same request of the same caller while nothing has changed.

A work list is asked for again and again, and mostly nothing has happened since. What is on the shelf was made by the
whole application; it is given out before that is asked only if the index has not changed since and the credential has
just been looked up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dicomweb.answers import Buffer
from dicomweb.calls import MADE_OF, SEEN
from dicomweb.kept import Kept
from pacs.accesses import WINDOW_S, window_of
from pacs.errors import ArchiveError
from pacs.server.at_hand import AtHand, Fields

if TYPE_CHECKING:
    from pacs.auth import Auth, Principal
    from pacs.index.engine import Index

REQUEST, CREDENTIAL = "request", "credential"
"""In the ASGI state: what a request is on the shelf by, and who asks, as `Auth.authenticate` takes it."""

OVERHEAD_BYTES = 1000
REMEMBERED = 4096
"""Requests that are known to have been asked."""

FIELD_BYTES = 160
"""What a header field of a request takes besides its text."""


@dataclass(frozen=True, slots=True)
class _Ready:
    status: bytes
    fields: bytes
    body: bytes
    credential: tuple[str, str]
    principal: Principal
    window: int
    """When it was made, as the audit counts: who reads a study in the next one stands in it again."""


class Shelf:
    """What is ready. Used by the event loop alone."""

    def __init__(self, index: Index, auth: Auth, *, clock: Callable[[], float] = time.time) -> None:
        self._index = index
        self._clock = clock
        self._auth = auth
        self._ready: Kept[_Ready] = Kept()
        self._common: tuple[Fields, bytes] = (), b""
        self.at_hand = AtHand(index, self.lines, clock)
        """What was given out lately to who sends the same bytes again."""
        self._asked: dict[int, None] = {}  # by hash: what was asked for lately, and is worth keeping the next time

    def find(
        self,
        request: Hashable,
        common: Fields,
        state: MutableMapping[str, Any] | None = None,
        came_as: tuple[str | None, bytes] | None = None,
    ) -> list[bytes] | None:
        """The answer to a request as it goes over the wire, with the header fields that all answers have; or None.

        What version of the index was looked at is left in the request's ASGI `state`. What is found will be `at_hand`
        for whom and the bytes that the request `came_as`.
        """
        beat = None if came_as is None else self.at_hand.beat()  # before it is asked what the index is like
        try:
            version = self._index.version()
        except ArchiveError:  # let the application say so
            return None
        if state is not None:
            state[SEEN] = version
        found = None if version is None else self._ready.get(request, version)
        if found is None or found.window != window_of(self._clock()):
            return None
        principal = self._auth.remembered(*found.credential)
        if principal is not found.principal and principal != found.principal:
            return None
        if came_as is not None and beat is not None:
            until = min((found.window + 1) * WINDOW_S, self._auth.remembered_until(*found.credential))
            within = found.window * WINDOW_S, until
            self.at_hand.put(came_as, beat, within, found.status, b"%b\r\n%b" % (found.fields, found.body))
        return [b"%b%b%b\r\n" % (found.status, self.lines(common), found.fields), found.body]

    def lines(self, common: Fields) -> bytes:
        """The header fields that all answers have, as they go over the wire; they change once a second."""
        if common is not self._common[0]:
            self._common = common, b"".join([b"%b: %b\r\n" % field for field in common])
        return self._common[1]

    def put(self, scope: Scope, start: Message, body: bytes) -> None:
        """Keep an answer that was sent, if it was made of the index alone and its request came over the wire."""
        self.keep(scope, start["status"], b"".join([b"%b: %b\r\n" % field for field in start["headers"]]), [body])

    def keep(self, scope: Scope, status: int, fields: bytes, pieces: Sequence[Buffer]) -> None:
        """The same, with the header fields as they go over the wire."""
        state = scope.get("state", {})
        request, version, credential = state.get(REQUEST), state.get(MADE_OF), state.get(CREDENTIAL)
        if request is None or version is None or credential is None or not self._asked_again(request):
            return
        body = b"".join(pieces)
        ready = _Ready(status_line(status), fields, body, credential, state["principal"], window_of(self._clock()))
        self._ready.put(request, version, ready, _asked_bytes(scope) + len(fields) + len(body))

    def _asked_again(self, request: Hashable) -> bool:
        """Whether a request was answered lately: of what is asked once, keeping costs more than it saves."""
        asked = hash(request)
        if asked in self._asked:
            return True
        if len(self._asked) >= REMEMBERED:
            self._asked.clear()
        self._asked[asked] = None
        return False


@cache
def status_line(status: int) -> bytes:
    """The first line of an answer."""
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode("ascii")


def _asked_bytes(scope: Scope) -> int:
    """What is kept of a request: all of it, and its head may be longer than the answer."""
    head = sum(len(name) + len(value) + FIELD_BYTES for name, value in scope["headers"])
    return OVERHEAD_BYTES + head + len(scope["raw_path"]) + len(scope["query_string"])


class Shelving:
    """ASGI middleware, the outermost: puts answers on the shelf as they leave."""

    def __init__(self, app: ASGIApp, shelf: Shelf) -> None:
        self.app = app
        self.shelf = shelf

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if REQUEST not in scope.get("state", ()):
            await self.app(scope, receive, send)
            return
        start: Message = {}
        pieces: list[bytes] = []

        async def watched(message: Message) -> None:
            nonlocal start
            await send(message)  # first: what the server refuses to send is not kept
            if message["type"] == "http.response.start":
                start = message
            elif scope["state"].get(MADE_OF) is not None and start.get("status") in (200, 204):
                pieces.append(message.get("body", b""))
                if not message.get("more_body", False):
                    self.shelf.put(scope, start, b"".join(pieces))

        await self.app(scope, receive, watched)
