"""A proxy in front of an S3 server that spoils requests on purpose: refuses, lies, cuts, resets, hangs, corrupts.

In a test `Proxy.fault` decides for each request; as a program (`python proxy.py PORT UPSTREAM_PORT CONTROL_PORT`) the
control door does: PUT /FAULT/PERCENT sets what happens from now on, GET / tells how often each fault has struck.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = {
    "503": "refused with 503 Slow Down, nothing handed on",
    "lost": "handed on and done, then answered with 500",
    "cut": "handed on and done, then the connection is reset instead of an answer",
    "reset": "the connection is reset, nothing handed on",
    "hang": "handed on and done, and never answered",
    "stall": "half of the answer, and nothing more",
    "short": "half of the answer, and the connection is closed",
    "corrupt": "one bit of what is read is wrong, its length is right",
}
_OF_THE_CONNECTION = {"connection", "transfer-encoding", "content-length", "server", "date"}


@dataclass(frozen=True)
class Request:
    """What a fault is decided on."""

    number: int
    method: str
    path: str
    range: str = ""


Fault = Callable[[Request], str | None]


def sometimes(name: str, share: float, seed: int = 1, methods: tuple[str, ...] = ()) -> Fault:
    """The fault `name` for this share of the requests (with these methods, where given)."""
    dice, lock = random.Random(seed), threading.Lock()

    def fault(request: Request) -> str | None:
        with lock:
            struck = dice.random() < share
        return name if struck and (not methods or request.method in methods) else None

    return fault


class Proxy:
    """Hands requests on to the server on a loopback port, unless `fault` says otherwise.

    `before` is called with each request, without a lock, before anything is done: it may count, wait or sleep.
    """

    before: Callable[[Request], object] | None = None

    def __init__(self, upstream_port: int, fault: Fault | None = None, port: int = 0) -> None:
        self.fault = fault
        self.struck: Counter[str] = Counter()
        self._upstream = upstream_port
        self._lock = threading.Lock()
        self._number = 0
        self._closing = threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def _handle(self) -> None:
                proxy._handle(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: object) -> None:
                """A client that goes away is no error here."""

        self._server = Server(("127.0.0.1", port), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; what hangs ends."""
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handle(self, client: BaseHTTPRequestHandler) -> None:
        body = client.rfile.read(int(client.headers.get("Content-Length") or 0))
        with self._lock:
            self._number += 1
            request = Request(self._number, client.command, client.path, client.headers.get("Range", ""))
            name = self.fault(request) if self.fault else None
            if name:
                self.struck[name] += 1
        if self.before is not None:
            self.before(request)
        if name == "503":
            _answer(client, 503, {"Retry-After": "1"}, b"<Error><Code>SlowDown</Code></Error>")
        elif name == "reset":
            _reset(client)
        else:
            status, headers, data = self._ask(client, body)
            self._spoil(client, name, status, headers, data)

    def _ask(self, client: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        upstream = http.client.HTTPConnection("127.0.0.1", self._upstream, timeout=60)
        try:
            # The Host header stays as it came: it is signed.
            upstream.request(client.command, client.path, body, dict(client.headers.items()))
            answer = upstream.getresponse()
            data = answer.read()
        finally:
            upstream.close()
        kept = {key: value for key, value in answer.getheaders() if key.lower() not in _OF_THE_CONNECTION}
        if client.command == "HEAD":
            kept["Content-Length"] = answer.getheader("Content-Length") or "0"
        return answer.status, kept, data

    def _spoil(
        self, client: BaseHTTPRequestHandler, name: str | None, status: int, headers: dict[str, str], data: bytes
    ) -> None:
        if name == "lost":
            _answer(client, 500, {}, b"")
        elif name == "cut":
            _reset(client)
        elif name == "hang":
            self._closing.wait()
        elif name in ("stall", "short"):
            _answer(client, status, {**headers, "Content-Length": str(max(len(data), 2))}, data[: len(data) // 2])
            if name == "stall":
                self._closing.wait()
            client.close_connection = True
        else:
            if name == "corrupt" and data:
                spoilt = bytearray(data)
                spoilt[len(data) * 2 // 3] ^= 4
                data = bytes(spoilt)
            _answer(client, status, headers, data)


def _answer(client: BaseHTTPRequestHandler, status: int, headers: dict[str, str], data: bytes) -> None:
    client.send_response(status)
    for name, value in ({"Content-Length": str(len(data))} | headers).items():
        client.send_header(name, value)
    client.end_headers()
    client.wfile.write(data)
    client.wfile.flush()


def _reset(client: BaseHTTPRequestHandler) -> None:
    client.close_connection = True
    client.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # the handler's files hold the socket too: only when they are closed does the reset go out
    client.rfile.close()
    client.connection.close()


def main() -> None:
    """Run until interrupted, with a control door."""
    port, upstream, control = map(int, sys.argv[1:4])
    proxy = Proxy(upstream, port=port)

    class Control(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            name, _, percent = self.path.strip("/").partition("/")
            known = name in FAULTS and percent.isdigit()
            if known or name == "none":
                proxy.fault = sometimes(name, int(percent) / 100) if known else None
            _answer(self, 204 if known or name == "none" else 404, {}, b"")

        def do_GET(self) -> None:
            _answer(self, 200, {"Content-Type": "application/json"}, json.dumps(proxy.struck).encode())

    ThreadingHTTPServer(("127.0.0.1", control), Control).serve_forever()


if __name__ == "__main__":
    main()
