"""Bodies that are read from their connection: what arrives is what was sent, and the connection goes on behind it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dicom_data
import pytest
from dicomweb_server import multipart
from lending_door import MULTIPART, Door, answers, opened

from pacs.server import lending, wire


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    with opened(tmp_path) as made:
        yield made


def large(number: int) -> bytes:
    """A file of about half a megabyte."""
    return dicom_data.part10(dicom_data.image(number, 512, 512))


BODY = multipart([large(1), large(2), large(3)], "b")


def in_pieces(sock: socket.socket, raw: bytes, size: int) -> None:
    for at in range(0, len(raw), size):
        sock.sendall(raw[at : at + size])
        if size < lending.WORTH_LENDING:
            time.sleep(0.002)  # so that the pieces arrive as pieces


class Counted(lending.LentBody):
    """One that counts what came by it."""

    came = 0

    def receive(self, room: memoryview, wanted: Callable[[], bool]) -> int:
        count = super().receive(room, wanted)
        Counted.came += count
        return count


@pytest.mark.parametrize("piece", [len(BODY) + 1000, 100_000, 30_011])
def test_what_was_sent_arrives_and_the_connection_goes_on(
    door: Door, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "LentBody", Counted)
    monkeypatch.setattr(Counted, "came", 0)
    with door.connection() as sock:
        in_pieces(sock, door.head(len(BODY)) + BODY, piece)
        sock.sendall(door.search)
        [(stored, _), (found, rows)] = answers(sock)
    assert (stored, found, len(json.loads(rows))) == (200, 200, 3)
    assert Counted.came > len(BODY) // 2, "the body came as messages"
    for row in json.loads(rows):
        [at] = door.archive.retrieve.locate(
            door.archive.auth.authenticate(door.token),
            row["0020000D"]["Value"][0], row["0020000E"]["Value"][0], row["00080018"]["Value"][0],
        )  # fmt: skip
        assert b"".join(door.archive.retrieve.pieces(at)) in BODY


def test_several_bodies_in_one_go(door: Door) -> None:
    bodies = [multipart([large(number)], "b") for number in range(1, 5)]
    with door.connection() as sock:
        sock.sendall(b"".join(door.head(len(body)) + body for body in bodies) + door.search)
        told = answers(sock)
    assert [status for status, _ in told] == [200] * 5
    assert len(json.loads(told[-1][1])) == 4


@pytest.mark.parametrize("alone", [False, True])
def test_one_that_is_asked_for_first(door: Door, alone: bool) -> None:
    body, kind = (large(1), "application/dicom") if alone else (BODY, MULTIPART)
    with door.connection() as sock:
        sock.sendall(door.head(len(body), kind, "Expect: 100-continue"))
        assert sock.recv(1000).startswith(b"HTTP/1.1 100 ")
        sock.sendall(body + door.search)
        assert [status for status, _ in answers(sock)] == [200, 200]


def test_one_of_unknown_length(door: Door) -> None:
    with door.connection() as sock:
        chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (BODY[:200_000], BODY[200_000:])]
        sock.sendall(door.head(None) + b"".join(chunks) + b"0\r\n\r\n" + door.search)
        assert [status for status, _ in answers(sock)] == [200, 200]


def test_what_nobody_wants_is_passed_over(door: Door) -> None:
    spoilt = BODY.replace(b"\r\n--b\r\n", b"\r\n--b no boundary\r\n")
    with door.connection() as sock:
        sock.sendall(door.head(len(spoilt)) + spoilt + door.search)
        assert [status for status, _ in answers(sock)] == [400, 204]


def test_a_client_that_leaves_halfway_leaves_nothing_behind(door: Door) -> None:
    with door.connection() as sock:
        sock.sendall(door.head(len(BODY)) + BODY[:-100_000])
    with door.connection() as sock:
        sock.sendall(door.search)
        assert [status for status, _ in answers(sock)] == [204]
    until = time.monotonic() + 60
    while door.archive.store.arriving:  # type: ignore[attr-defined]
        assert time.monotonic() < until, "somebody still waits for the rest"
        time.sleep(0.01)
    with door.connection() as sock:
        sock.sendall(door.head(len(BODY)) + BODY + door.search)
        assert [status for status, _ in answers(sock)] == [200, 200]


def test_a_body_that_does_not_come_is_given_up(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "BODY_WINDOW_S", 0.2)
    with door.connection() as sock:
        sock.sendall(door.head(len(BODY)) + BODY[:200_000])
        reader = sock.makefile("rb")
        assert b" 400 " in reader.readline()


def test_a_body_that_comes_too_slowly_is_given_up(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "BODY_WINDOW_S", 0.5)
    monkeypatch.setattr(wire, "BODY_BYTES_PER_S", 1 << 30)
    with door.connection() as sock:
        sock.sendall(door.head(len(BODY)) + BODY[:1000])
        sock.settimeout(0.02)
        until = time.monotonic() + 60
        said = b""
        for at in range(1000, len(BODY)):
            assert time.monotonic() < until, "nobody minds"
            sock.sendall(BODY[at : at + 1])
            try:
                said = sock.recv(1000)
            except TimeoutError:
                continue
            break
    assert b" 400 " in said
