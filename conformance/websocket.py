"""A WebSocket client (RFC 6455) as small as the checks of events need: opening, text, ping and close."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import ssl
import struct
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from conformance.check import NoAnswer

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Refused(Exception):
    """The server answered the opening with something else than 101; the text has its status line."""


class Socket:
    """An open connection. Use it as a context manager."""

    def __init__(
        self,
        url: str,
        headers: Sequence[tuple[str, str]] = (),
        *,
        timeout_s: float = 30.0,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """Open it; `url` begins with ws or wss (or http, https). Raises Refused, NoAnswer."""
        parts = urlsplit(url)
        secure = parts.scheme in ("wss", "https")
        port = parts.port or (443 if secure else 80)
        key = base64.b64encode(os.urandom(16)).decode()
        self.request = f"GET {url}\nUpgrade: websocket"
        lines = [
            f"GET {parts.path or '/'}{'?' + parts.query if parts.query else ''} HTTP/1.1", f"Host: {parts.netloc}",
            "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13",
            *(f"{name}: {value}" for name, value in headers),
        ]  # fmt: skip
        self._buffer = b""
        try:
            self._socket: socket.socket = socket.create_connection((parts.hostname or "", port), timeout_s)
            if secure:
                wrapper = context or ssl.create_default_context()
                self._socket = wrapper.wrap_socket(self._socket, server_hostname=parts.hostname)
            self._socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
            while b"\r\n\r\n" not in self._buffer:
                self._receive()
        except OSError as error:
            raise NoAnswer(f"{url}: {error}") from error
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        status = head.split(b"\r\n")[0].decode("latin-1")
        self.fields = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:])
        }
        if " 101 " not in f"{status} ":
            self._socket.close()
            raise Refused(status)
        wanted = base64.b64encode(hashlib.sha1((key + GUID).encode(), usedforsecurity=False).digest()).decode()
        self.accepted = self.fields.get("sec-websocket-accept") == wanted

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Say good-bye and hang up."""
        try:
            self._send(8, struct.pack(">H", 1000))
        except OSError:
            pass
        finally:
            self._socket.close()

    def text(self, timeout_s: float) -> str | None:
        """The next text message; None when none came in time. Raises NoAnswer when the server hangs up."""
        until = time.monotonic() + timeout_s
        message = b""
        while (left := until - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                code, final, content = self._frame()
            except TimeoutError:
                return None
            except OSError as error:
                raise NoAnswer(f"the WebSocket broke: {error}") from error
            if code == 9:
                self._send(10, content)
            elif code == 8:
                raise NoAnswer("the server closed the WebSocket")
            elif code in (0, 1, 2):
                message += content
                if final:
                    return message.decode("utf-8")
        return None

    def _frame(self) -> tuple[int, bool, bytes]:
        first, second = self._take(2)
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", self._take(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", self._take(8))
        return first & 0x0F, bool(first & 0x80), self._take(length)

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._receive()
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def _receive(self) -> None:
        more = self._socket.recv(65536)
        if not more:
            raise ConnectionError("the server hung up")
        self._buffer += more

    def _send(self, code: int, content: bytes) -> None:
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(content))
        self._socket.sendall(bytes((0x80 | code, 0x80 | len(content))) + mask + masked)
