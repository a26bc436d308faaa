"""HTTP/1.1 under limits that uvicorn does not set: how long a request's head may be, how slowly anything may come."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, cast
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from dicomweb.answers import Buffer
from dicomweb.bodies import LEND
from dicomweb.calls import MADE, TOLD
from pacs.server.awake import Awake
from pacs.server.heads import Head
from pacs.server.lending import WORTH_LENDING, LentBody
from pacs.server.prompt import Prompt
from pacs.server.shelf import REQUEST, Shelf

log = logging.getLogger("m3dicom.http")

HEAD_BYTES = 64 << 10
"""Longest request line and header fields together; more is answered with 431."""

HEAD_S = 20.0
"""How long a request's head may take, or a new connection stay silent."""

BODY_WINDOW_S = 30.0
BODY_BYTES_PER_S = 1000
"""A body that brings less than this over the window, while it is waited for, is given up."""

STALL_S = 300.0
"""How long a client may read nothing of what waits for it."""

LOOK_S = 2.0
"""How late a limit of time may be noticed."""

_TOO_LONG = b"431 Request Header Fields Too Large"
_NOT_CHUNKED = b"501 Not Implemented"  # RFC 9112 6.1

GATHERED_BYTES = 64 << 10
"""Pieces of an answer that are smaller together wait for the next ones of the same turn of the event loop."""


class Gathering:
    """A transport for the pieces of one answer: head and body leave in one system call, and wake the client once."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[Any] = []
        self._size = 0

    def write(self, data: Any) -> None:
        """As that of the transport, at the latest when this turn of the event loop is over."""
        if not data:
            return
        if not self._held:
            self._loop.call_soon(self.flush)
        self._held.append(data)
        self._size += len(data)
        if self._size >= GATHERED_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand on what was held back."""
        if self._held:
            held, self._held, self._size = self._held, [], 0
            if not self._transport.is_closing():
                self._transport.writelines(held)

    def is_closing(self) -> bool:
        """As that of the transport."""
        return self._transport.is_closing()

    def close(self) -> None:
        """As that of the transport, after what was held back."""
        self.flush()
        self._transport.close()


class BoundedHttp(HttpToolsProtocol):
    """One connection. Used by the event loop alone."""

    shelf: Shelf | None = None
    """Where answers may be ready; see `protocol`."""

    prompt: Prompt | None = None
    """Who may know an answer without waiting."""

    awake: Awake | None = None
    """What is told of answers that were at hand."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._head_since: float | None = self.loop.time()
        self._head_bytes = 0
        self._may_be_long = False
        self._in_body = self._was_paused = False
        self._waited = 0.0
        self._stalled, self._unsent = 0.0, 0
        self._body_bytes = 0
        self._answered = self._sent = False
        self._idle_since: float | None = None
        self._body_left = 0
        self._lent: LentBody | None = None
        self._unwanted = 0
        self._head: Head | None = None
        self._begun: dict[str, Any] | None = None
        self._gathering = Gathering(self.transport, self.loop)
        self._looking = self.loop.call_later(LOOK_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        self._looking.cancel()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        """The connection goes on as a WebSocket, whose keepalive watches it."""
        self._looking.cancel()
        super().handle_websocket_upgrade()

    def data_received(self, data: bytes) -> None:
        """Bytes of heads and bodies."""
        if self._unwanted and not (data := self._passed_over(data)):
            return
        of_a_body = self._in_body
        self._may_be_long = not of_a_body and self._head_bytes + len(data) > HEAD_BYTES
        begins = not of_a_body and (self._head_since is None or not self._head_bytes)
        if begins and self._head is not None and (self._is_at_hand(data) or self._is_given(self._head, data)):
            return
        self._sent = False
        super().data_received(data)
        if begins and self._sent:
            self._head = Head.of(data, tuple(self.headers), cast("dict[str, Any]", self.scope))
        if self._head_since is None or self.transport.is_closing():
            return
        if not of_a_body:  # else what came begins with the end of a body
            self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES:
            self._give_up("header fields of more than %d bytes", HEAD_BYTES, answer=_TOO_LONG)

    def on_message_begin(self) -> None:
        """The first byte of a request's head."""
        self._head_since, self._head_bytes = self.loop.time(), 0
        self._idle_since = None
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its last one. RFC 9112 3.2: a request names one host, and the links in its answer begin with that."""
        self._head_since = None
        hosts = sum([name == b"host" for name, _ in self.headers])
        if hosts > 1 or (not hosts and self.parser.get_http_version() == "1.1"):
            raise httptools.HttpParserError("not one Host")
        if self._may_be_long:
            self._refuse_long_head()
        if not self.url.startswith(b"/"):
            self._named_by_target()
        self._in_body, self._waited, self._body_bytes = True, 0.0, 0
        idle = self.cycle is None or self.cycle.response_complete
        if self._begun is not None:
            self.scope["state"].update(self._begun)
            self._begun = None
        elif self.shelf is not None and idle and self.parser.get_method() == b"GET":
            request = (self.url, tuple(self.headers), self.client and self.client[0])
            plain = self._is_plain()
            if plain and self._is_ready(request, self.scope["state"]):
                return
            self.scope["state"][REQUEST] = request
            if plain and self.prompt is not None and self._is_made(self.prompt):
                return
        if any(name == b"transfer-encoding" and value.lower() != b"chunked" for name, value in self.headers):
            self._give_up("a transfer coding that is not %s", "chunked", answer=_NOT_CHUNKED)
            raise httptools.HttpParserError("an unknown transfer coding")  # and nothing more of it is read
        self._body_left = 0
        if self.parser.get_method() == b"POST" and (length := self._length()) >= WORTH_LENDING:
            self._body_left = length
            self.scope["state"][LEND] = partial(self._lend, id(self.scope))
        super().on_headers_complete()
        if self.cycle is not None:
            self.cycle.transport = self._gathering  # type: ignore[assignment]

    def _refuse_long_head(self) -> None:
        """Nothing, or the end of a connection on which a head came at once that is too long."""
        if len(self.url) + sum([len(name) + len(value) + 4 for name, value in self.headers]) > HEAD_BYTES:
            self._give_up("header fields of more than %d bytes", HEAD_BYTES, answer=_TOO_LONG)
            raise httptools.HttpParserError("a head that is too long")

    def _named_by_target(self) -> None:
        """A target in absolute form names the host itself, whatever the field says (RFC 9112 3.2.2)."""
        target = httptools.parse_url(self.url)
        if target.host is not None:
            host = b"[%b]" % target.host if b":" in target.host else target.host
            named = host if target.port is None else b"%b:%d" % (host, target.port)
            self.headers[:] = [field for field in self.headers if field[0] != b"host"] + [(b"host", named)]

    def _is_plain(self) -> bool:
        """Whether the answer may go out here: nothing else is asked for than to have it and to go on."""
        if self.parser.get_http_version() != "1.1" or not self.parser.should_keep_alive() or self._has_body():
            return False
        return not (self.flow.write_paused or self.parser.should_upgrade())

    def _is_at_hand(self, data: bytes) -> bool:
        """Whether `data` is a request whose answer is at hand, and that went out."""
        assert self.shelf is not None
        whole = self.shelf.at_hand.find((self.client and self.client[0], data), self.server_state.default_headers)
        if whole is None or not self._is_free():
            return False
        self._unset_keepalive_if_required()
        self._send([whole])
        self.on_message_complete()
        if self.awake is not None:
            self.awake.answered(time.monotonic())
        return True

    def _is_free(self) -> bool:
        """Whether an answer may go out at once."""
        waiting = self.cycle is not None and not self.cycle.response_complete
        return not (waiting or self.flow.write_paused or self.transport.is_closing())

    def _is_given(self, head: Head, data: bytes) -> bool:
        """Whether `data` is another request with a head that is known, and was answered here."""
        asked = head.asked(data)
        if asked is None or not self._is_free():
            return False
        self._unset_keepalive_if_required()
        state: dict[str, Any] = {**self.app_state, TOLD: head.told}
        request = (asked, head.fields, self.client and self.client[0])
        if not self._is_ready(request, state, data):
            state[REQUEST] = request
            if self.prompt is None or not self._is_sent(self.prompt, head.scope(asked, state)):
                self._begun = state  # the long way goes on from here
                return False
        self.on_message_complete()
        return True

    def _is_ready(self, request: tuple[Any, ...], state: dict[str, Any], whole: bytes | None = None) -> bool:
        """Whether the answer was ready, and went out; the request is `whole` where nothing else came with it."""
        assert self.shelf is not None
        came_as = None if whole is None else (self.client and self.client[0], whole)
        ready = self.shelf.find(request, self.server_state.default_headers, state, came_as)
        if ready is None:
            return False
        self._send(ready)
        return True

    def _is_made(self, prompt: Prompt) -> bool:
        """Whether the answer could be made without waiting, and went out."""
        asked = httptools.parse_url(self.url)
        path = asked.path.decode("ascii")
        scope: Any = self.scope
        scope.update(
            method="GET", raw_path=asked.path, path=unquote(path) if "%" in path else path,
            query_string=asked.query or b"",
        )  # fmt: skip
        return self._is_sent(prompt, scope)

    def _is_sent(self, prompt: Prompt, scope: Any) -> bool:
        answer = prompt.answer(scope)
        if answer is None:
            return False
        if answer.more is not None:  # it is only begun: sent as it is made, by those who can wait
            scope["state"][MADE] = answer
            return False
        pieces = prompt.written(scope, answer, self.server_state.default_headers)
        if pieces is None:
            return False
        self._send(pieces)
        return True

    def _send(self, pieces: Sequence[Buffer]) -> None:
        self._gathering.flush()
        self.transport.writelines(pieces)
        self._answered = self._sent = True

    def _has_body(self) -> bool:
        return any(name in (b"content-length", b"transfer-encoding", b"expect") for name, _ in self.headers)

    def on_body(self, body: bytes) -> None:
        """Bytes of a body."""
        self._body_bytes += len(body)
        self._body_left -= len(body)
        super().on_body(body)

    def _length(self) -> int:
        """What the request says of the length of its body; 0 where it does not, or in more than one way."""
        said = [value for name, value in self.headers if name in (b"content-length", b"transfer-encoding")]
        return int(said[0]) if len(said) == 1 and said[0].isdigit() else 0

    def _lend(self, scope: int) -> LentBody | None:
        """The rest of the body of a request; None where there is little of it, or the connection cannot be lent."""
        cycle = self.cycle
        if id(cycle.scope) != scope or cycle.disconnected or not cycle.more_body or self._body_left < WORTH_LENDING:
            return None
        fd = self.transport.get_extra_info("socket").fileno()
        if fd < 0 or self.scheme != "http" or self.transport.is_closing():
            return None
        if cycle.waiting_for_100_continue:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            cycle.waiting_for_100_continue = False
        self.flow.pause_reading()
        first = bytes(cycle.body)
        cycle.body = bytearray()
        self._lent = LentBody(fd, first, self._body_left, (BODY_WINDOW_S, BODY_BYTES_PER_S), self._taken_back)
        return self._lent

    def _taken_back(self, lent: LentBody) -> None:
        """Go on behind the body: what has not been received of it is passed over."""
        self._lent = None
        if self.parser is None:  # the connection is gone
            return
        # The parser still waits for what others have received, and has nothing else in it.
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._unwanted = lent.left
        if lent.gone:
            self.transport.close()
        if self.transport.is_closing():
            return
        if not self._unwanted:
            self.on_message_complete()
        self.flow.resume_reading()

    def _passed_over(self, data: bytes) -> bytes:
        """What follows the rest of a body that nobody wants."""
        self._unset_keepalive_if_required()
        taken = min(self._unwanted, len(data))
        self._unwanted -= taken
        self._body_bytes += taken
        if not self._unwanted:
            self.on_message_complete()
        return data[taken:]

    def on_message_complete(self) -> None:
        """Its last one."""
        self._in_body = False
        if self._answered:
            self._answered = False
            self.server_state.total_requests += 1
            self._idle_since = self.loop.time()  # looked at now and then: a timer for each would cost more
            return
        super().on_message_complete()

    def shutdown(self) -> None:
        """The server stops: what was answered goes out first."""
        self._gathering.flush()
        super().shutdown()

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        if self._head_since is not None and self.loop.time() - self._head_since > HEAD_S:
            if self._head_bytes:
                self._give_up("no whole request within %d s", HEAD_S)
            else:  # opened in advance, as browsers do, or by who only looks whether somebody is here
                self.transport.close()
            return
        if self._idle_since is not None and self.loop.time() - self._idle_since > self.timeout_keep_alive:
            self.transport.close()
            return
        unsent = self.transport.get_write_buffer_size()
        self._stalled = self._stalled + LOOK_S if unsent and unsent == self._unsent else 0.0
        self._unsent = unsent
        if self._stalled >= STALL_S:
            log.warning("connection closed: nothing of what waits was read for %d s", STALL_S)
            self.transport.abort()  # to close it would wait for a reader
            return
        paused = self.flow.read_paused
        # While we do not read, the peer cannot send.
        if self._in_body and not paused and not self._was_paused and self._lent is None:
            self._waited += LOOK_S
        self._was_paused = paused
        if self._waited >= BODY_WINDOW_S:
            if self._in_body and self._body_bytes < BODY_BYTES_PER_S * self._waited:
                self._give_up("a body slower than %d bytes a second", BODY_BYTES_PER_S)
                return
            self._waited, self._body_bytes = 0.0, 0
        self._looking = self.loop.call_later(LOOK_S, self._look)

    def _give_up(self, why: str, limit: Any, *, answer: bytes = b"") -> None:
        log.warning(f"connection closed: {why}", limit)
        if answer:
            self.transport.write(b"HTTP/1.1 %b\r\nConnection: close\r\nContent-Length: 0\r\n\r\n" % answer)
        self.transport.close()


def protocol(shelf: Shelf, prompt: Prompt | None = None, awake: Awake | None = None) -> type[BoundedHttp]:
    """The protocol of connections whose answers may be ready on a shelf, or made at once."""
    return type("ShelvedHttp", (BoundedHttp,), {"shelf": shelf, "prompt": prompt, "awake": awake})
