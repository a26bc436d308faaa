"""HTTP/1.1 under limits that uvicorn does not set: how long a request's head may be, how slowly anything may come."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = logging.getLogger("m3dicom.http")

HEAD_BYTES = 64 << 10
"""Longest request line and header fields together; more is answered with 431."""

HEAD_S = 20.0
"""How long a request's head may take, or a new connection stay silent."""

BODY_WINDOW_S = 30.0
BODY_BYTES_PER_S = 1000
"""A body that brings less than this over the window, while it is waited for, is given up."""

LOOK_S = 2.0
"""How late a limit of time may be noticed."""


class BoundedHttp(HttpToolsProtocol):
    """One connection. Used by the event loop alone."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._head_since: float | None = self.loop.time()
        self._head_bytes = 0
        self._in_body = self._was_paused = False
        self._waited = 0.0
        self._body_bytes = 0
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
        of_a_body = self._in_body
        super().data_received(data)
        if self._head_since is None or self.transport.is_closing():
            return
        if not of_a_body:  # else what came begins with the end of a body
            self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES:
            self._give_up("header fields of more than %d bytes", HEAD_BYTES, answer=True)

    def on_message_begin(self) -> None:
        """The first byte of a request's head."""
        self._head_since, self._head_bytes = self.loop.time(), 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its last one."""
        self._head_since = None
        self._in_body, self._waited, self._body_bytes = True, 0.0, 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Bytes of a body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Its last one."""
        self._in_body = False
        super().on_message_complete()

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        if self._head_since is not None and self.loop.time() - self._head_since > HEAD_S:
            self._give_up("no whole request within %d s", HEAD_S)
            return
        paused = self.flow.read_paused
        # While we do not read, the peer cannot send.
        if self._in_body and not paused and not self._was_paused:
            self._waited += LOOK_S
        self._was_paused = paused
        if self._waited >= BODY_WINDOW_S:
            if self._in_body and self._body_bytes < BODY_BYTES_PER_S * self._waited:
                self._give_up("a body slower than %d bytes a second", BODY_BYTES_PER_S)
                return
            self._waited, self._body_bytes = 0.0, 0
        self._looking = self.loop.call_later(LOOK_S, self._look)

    def _give_up(self, why: str, limit: Any, *, answer: bool = False) -> None:
        log.warning(f"connection closed: {why}", limit)
        if answer:
            self.transport.write(
                b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            )
        self.transport.close()
