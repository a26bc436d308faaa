"""HTTP connections under limits: heads that are too long or too slow, bodies that crawl."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from pacs.server import wire


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    async def length(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(sum([len(chunk) async for chunk in request.stream()])))

    async def place(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(request.url))

    async def much(request: Request) -> PlainTextResponse:
        return PlainTextResponse(b"much" * 10_000_000)

    listener = socket.create_server(("127.0.0.1", 0))
    app = Starlette(routes=[Route("/", length, methods=["GET", "POST"]), Route("/place", place), Route("/much", much)])
    config = uvicorn.Config(app, log_level="warning", lifespan="off", http=wire.BoundedHttp)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield listener.getsockname()
    server.should_exit = True
    thread.join(30)
    listener.close()


def answer(sock: socket.socket) -> bytes:
    """What comes until the server closes."""
    out = bytearray()
    try:
        while piece := sock.recv(65536):
            out += piece
    except ConnectionResetError:
        pass
    return bytes(out)


LAST = b"Connection: close\r\n\r\n"


@pytest.mark.parametrize(
    "fields", [b"X: " + b"a" * 200_000 + b"\r\n", b"".join(b"X-%d: y\r\n" % n for n in range(30_000))]
)
@pytest.mark.parametrize("before", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_heads_that_are_too_long(address: tuple[str, int], before: bytes, fields: bytes) -> None:
    with socket.create_connection(address, 60) as sock:
        sock.sendall(before)
        try:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n" + fields)
        except OSError:
            return  # closed while it was being sent
        got = answer(sock)
    assert b"200 OK" not in got.removeprefix(b"HTTP/1.1 200 OK") or before
    assert b" 431 " in got or got == b""


def test_long_bodies_and_heads_of_a_usual_length_pass(address: tuple[str, int]) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 30_000 + b"\r\nContent-Length: 3000000\r\n"
    with socket.create_connection(address, 60) as sock:
        for last in (b"\r\n", b"\r\n", LAST):
            sock.sendall(head + last + bytes(3_000_000))
        assert answer(sock).count(b"3000000") == 3


def test_a_whole_head_that_is_too_long(address: tuple[str, int]) -> None:
    with socket.create_connection(address, 60) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * wire.HEAD_BYTES + b"\r\n" + LAST)
        got = answer(sock)
    assert b" 431 " in got or got == b""  # closed with bytes unread, it may not have reached us


@pytest.mark.parametrize(
    ("target", "place"),
    [
        (b"/place", b"http://x/place"),
        (b"http://other.example:81/place?a=1", b"http://other.example:81/place?a=1"),
        (b"http://[::1]:81/place", b"http://[::1]:81/place"),
        (b"http://x/place", b"http://x/place"),
    ],
)
def test_a_target_in_absolute_form_names_the_host(address: tuple[str, int], target: bytes, place: bytes) -> None:
    with socket.create_connection(address, 60) as sock:
        sock.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n" + LAST)
        assert answer(sock).endswith(b"\r\n\r\n" + place)


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"gzip", b"identity"])
def test_transfer_codings_that_are_not_known(address: tuple[str, int], coding: bytes) -> None:
    body = b"5\r\nhello\r\n0\r\n\r\n"
    with socket.create_connection(address, 60) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: " + coding + b"\r\n\r\n" + body)
        assert answer(sock).startswith((b"HTTP/1.1 501 ", b"HTTP/1.1 400 "))
    with socket.create_connection(address, 60) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n" + LAST + body)
        assert answer(sock).endswith(b"\r\n\r\n5")


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost:"])
def test_slow_heads_are_dropped(
    address: tuple[str, int], sent: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wire, "HEAD_S", 0.2)
    monkeypatch.setattr(wire, "LOOK_S", 0.05)
    with socket.create_connection(address, 60) as sock:
        sock.sendall(sent)
        assert answer(sock) == b""
    assert bool(caplog.records) == bool(sent)  # who opens a connection in advance is none of the log's


def test_slow_bodies_are_dropped(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "BODY_WINDOW_S", 0.5)
    monkeypatch.setattr(wire, "LOOK_S", 0.05)
    with socket.create_connection(address, 60) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + bytes(100))
        assert answer(sock) == b""
    # who sends enough is waited for, however long it takes
    with socket.create_connection(address, 60) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 400000\r\n" + LAST)
        for _ in range(40):
            sock.sendall(bytes(10_000))
            time.sleep(0.03)
        assert answer(sock).endswith(b"400000")


def test_who_reads_nothing_is_dropped(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wire, "STALL_S", 0.5)
    monkeypatch.setattr(wire, "LOOK_S", 0.05)
    with socket.create_connection(address, 60) as sock:
        sock.sendall(b"GET /much HTTP/1.1\r\nHost: x\r\n\r\n")
        until = time.monotonic() + 60
        while not any("nothing of what waits was read" in record.getMessage() for record in caplog.records):
            assert time.monotonic() < until, "never dropped"
            time.sleep(0.05)
        assert len(answer(sock)) < 40_000_000
    monkeypatch.undo()
    with socket.create_connection(address, 60) as sock:
        sock.sendall(b"GET /much HTTP/1.1\r\nHost: x\r\n" + LAST)
        assert len(answer(sock)) > 40_000_000
