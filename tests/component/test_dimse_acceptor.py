"""The DIMSE door under bad manners: whatever a peer does is answered, aborted or dropped, and C-ECHO works on."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dicom_data
import pytest
from dimse_client import (
    CT,
    EXPLICIT,
    IMPLICIT,
    STUDY_FIND,
    VERIFICATION,
    Aborted,
    Association,
    Connection,
    Rejected,
    associate_request,
    command,
    implicit,
    item,
    pdu,
    pdv,
)

from pacs.archive import Archive, open_archive
from pacs.auth import Auth
from pacs.dimse import acceptor as acceptor_module
from pacs.dimse import fragments as fragments_module
from pacs.dimse import transport as transport_module
from pacs.dimse.acceptor import Acceptor, serve
from pacs.settings import AE, Settings
from pacs.storage.files import FileStore

CONTEXTS = ((CT, (EXPLICIT,)), (VERIFICATION, (IMPLICIT,)), (STUDY_FIND, (IMPLICIT,)))
Door = Callable[..., Acceptor]


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    archive = open_archive(Settings(data=tmp_path))
    yield archive.with_services(auth=Auth(archive.index))
    archive.close()


@pytest.fixture
def door(archive: Archive) -> Iterator[Door]:
    """Open doors to the archive, with settings changed; all are closed at the end."""
    opened: list[Acceptor] = []

    def opener(**changes: Any) -> Acceptor:
        settings = replace(archive.settings, **changes)
        changed = archive.with_services(settings=settings, auth=Auth(archive.index, settings.aes))
        opened.append(serve(changed, host="127.0.0.1", port=0, ae_title="M3DICOM"))
        return opened[-1]

    yield opener
    for each in opened:
        each.close(0)


def echoes(acceptor: Acceptor) -> None:
    began = time.monotonic()
    with Association(acceptor.address) as assoc:
        assert assoc.echo() == 0
    assert time.monotonic() - began < 3


def stored_objects(archive: Archive) -> tuple[int, int]:
    """How many objects there are, and how many half ones."""
    assert isinstance(archive.store, FileStore)
    spooled = sum(path.is_file() for path in archive.store.spool_dir.rglob("*"))
    return len(list(archive.store.walk())), spooled + archive.store.arriving


def slice_bytes(seed: int = 0, size: int = 64) -> tuple[str, bytes]:
    ds = dicom_data.image(seed, size, size)
    return ds.SOPInstanceUID, dicom_data.dataset_bytes(ds)


# --- association ------------------------------------------------------------------------------------------------------


def test_echo_and_release(door: Door) -> None:
    with Association(door().address) as assoc:
        assert [assoc.echo() for _ in range(3)] == [0, 0, 0]


def test_titles(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    acceptor = door(aes=(AE("FRIEND"), AE("ELSEWHERE", host="192.0.2.1")))
    with Association(acceptor.address, calling="FRIEND") as assoc:
        assert assoc.echo() == 0
    for request, why in (
        ({"called": "OTHER", "calling": "FRIEND"}, (1, 1, 7)),
        ({"calling": "STRANGER"}, (1, 1, 3)),
        ({"calling": "ELSEWHERE"}, (1, 1, 3)),
        ({"calling": "FRIEND", "application": "1.2.3"}, (1, 1, 2)),
        ({"calling": "FRIEND", "version": 2}, (1, 2, 2)),
    ):
        with pytest.raises(Rejected) as caught:
            Association(acceptor.address, **request)
        assert caught.value.args == why
    assert "'STRANGER' to 'M3DICOM' from 127.0.0.1 rejected: CALLING_AE_TITLE" in caplog.text


def test_refused_contexts_leave_the_others(door: Door) -> None:
    contexts = (("1.2.840.10008.5.1.1.9", (IMPLICIT,)), (CT, ("1.2.3",)), (VERIFICATION, (IMPLICIT,)))
    with Association(door().address, contexts=contexts) as assoc:
        assert assoc.results == [3, 4, 0]
        assert assoc.echo() == 0


def test_user_identity_is_ignored_and_window_answered(door: Door) -> None:
    items = item(0x58, b"\2\1\0\4user\0\4pass") + item(0x53, b"\0\0\0\0")
    with Association(door().address, user_items=items) as assoc:
        user = dict(assoc.user)
        assert 0x59 not in user
        assert user[0x53] == b"\0\1\0\1"
        assert user[0x55].startswith(b"M3DICOM")


# --- bytes that break the rules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", (0, 0)),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", (0, 0)),
        (struct.pack(">BBI", 1, 0, 0xFFFFFFFF), (0, 0)),
        (struct.pack(">BBI", 1, 0, 10) + bytes(10), (0, 0)),
        (pdu(4, pdv(1, 3, b"xx")), (0, 0)),
        (pdu(5, bytes(4)), (0, 0)),
        (pdu(1, random.Random(1).randbytes(300)), (0, 0)),
        (pdu(7, bytes(4)), None),
        (b"", None),
    ],
)
def test_not_a_request(door: Door, sent: bytes, answer: tuple[int, int] | None) -> None:
    acceptor = door()
    with Connection(acceptor.address) as connection:
        connection.send(sent)
        if not sent:
            connection.sock.shutdown(socket.SHUT_WR)
        assert connection.ended() == answer
    echoes(acceptor)


COMMAND = command({0x0002: VERIFICATION, 0x0100: 0x30, 0x0110: 1, 0x0800: 0x0101})
STORE = command({0x0002: CT, 0x0100: 1, 0x0110: 1, 0x0700: 0, 0x0800: 1, 0x1000: "1.2.3"})


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (struct.pack(">BBI", 4, 0, 0xFFFFFFFF), (2, 6)),
        (struct.pack(">BBI", 4, 0, 1 << 30), (2, 6)),
        (struct.pack(">BBI", 4, 0, 4) + bytes(4), (2, 6)),
        (struct.pack(">BBI", 9, 0, 4) + bytes(4), (2, 1)),
        (struct.pack(">BBI", 5, 0, 0xFFFFFF), (2, 6)),
        (associate_request(), (2, 2)),
        (pdu(6, bytes(4)), (2, 2)),
        (pdu(4, struct.pack(">IBB", 0xFFFFFFFF, 3, 3)), (2, 6)),
        (pdu(4, struct.pack(">IBB", 1, 3, 3)), (2, 6)),
        (pdu(4, struct.pack(">IBB", 2, 3, 1) + b"\0\0"), (2, 6)),
        (pdu(4, struct.pack(">IBB", 100, 3, 3) + b"short"), (2, 6)),
        (pdu(4, pdv(99, 3, COMMAND)), (2, 6)),
        (pdu(4, pdv(2, 3, COMMAND)), (2, 6)),
        (pdu(4, pdv(3, 2, b"data set")), (2, 5)),
        (pdu(4, pdv(1, 3, STORE) + pdv(3, 2, b"other context")), (2, 5)),
        (pdu(4, pdv(1, 3, STORE) + pdv(1, 3, STORE)), (2, 5)),
        (pdu(4, pdv(3, 1, COMMAND[:20]) + pdv(1, 3, COMMAND[20:])), (2, 6)),
        (pdu(4, pdv(3, 1, bytes(40_000))) * 2, (2, 6)),
        (pdu(4, pdv(3, 3, b"")), (0, 0)),
        (pdu(4, pdv(3, 3, COMMAND[:-3])), (0, 0)),
        (pdu(4, pdv(3, 3, command({0x0100: 0x8030, 0x0120: 1, 0x0800: 0x0101}))), (0, 0)),
        (pdu(4, pdv(3, 3, command({0x0100: 0x30, 0x0800: 0x0101}))), (0, 0)),
        (pdu(7, bytes(4)), None),
    ],
)
def test_broken_conversations_are_aborted(
    door: Door, archive: Archive, sent: bytes, answer: tuple[int, int] | None
) -> None:
    acceptor = door()
    with Association(acceptor.address, contexts=CONTEXTS) as assoc:
        assoc.send(sent)
        assert assoc.ended() == answer
    echoes(acceptor)
    assert stored_objects(archive) == (0, 0)


def test_truncated_fragment_then_silence(door: Door, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fragments_module, "PDU_S", 0.3)
    monkeypatch.setattr(transport_module, "TICK_S", 0.1)
    with Association(door().address, contexts=CONTEXTS) as assoc:
        assoc.send(pdu(4, pdv(1, 3, STORE)) + pdu(4, pdv(1, 2, bytes(1000)))[:500])
        assert assoc.ended() == (2, 0)
    assert stored_objects(archive) == (0, 0)


def test_request_byte_by_byte(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    acceptor = door()
    with Connection(acceptor.address) as connection:
        for byte in associate_request():
            connection.send(bytes((byte,)))
        assert connection.read_pdu()[0] == 2
    monkeypatch.setattr(acceptor_module, "FIRST_PDU_S", 0.5)
    with Connection(acceptor.address) as connection:
        began = time.monotonic()
        with pytest.raises(ConnectionError):  # noqa: PT012
            for byte in associate_request() + bytes(1000):
                connection.send(bytes((byte,)))
                time.sleep(0.02)
        assert time.monotonic() - began < 3


def test_message_byte_by_byte(door: Door) -> None:
    with Association(door().address, contexts=CONTEXTS) as assoc:
        for byte in pdu(4, pdv(3, 1, COMMAND[:30])) + pdu(4, pdv(3, 3, COMMAND[30:])):
            assoc.send(bytes((byte,)))
        assert assoc.response()[0][0x0900] == 0


def test_many_fragments_in_one_pdu(door: Door) -> None:
    uid, data = slice_bytes()
    acceptor = door()
    with Association(acceptor.address, contexts=CONTEXTS) as assoc:
        store = command({0x0002: CT, 0x0100: 1, 0x0110: 1, 0x0700: 0, 0x0800: 1, 0x1000: uid})
        pieces = [pdv(1, 1, store[:10]), pdv(1, 3, store[10:])]
        pieces += [pdv(1, 2 if at + 100 >= len(data) else 0, data[at : at + 100]) for at in range(0, len(data), 100)]
        assoc.send(pdu(4, b"".join(pieces)))
        assert assoc.response()[0][0x0900] == 0


def test_too_slow_a_message(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (transport_module, fragments_module):
        monkeypatch.setattr(module, "RATE_WINDOW_S", 0.5)
    with Association(door().address, contexts=CONTEXTS) as assoc:
        assoc.send(pdu(4, pdv(1, 3, STORE)))
        began = time.monotonic()
        with pytest.raises(ConnectionError):  # noqa: PT012
            while time.monotonic() - began < 10:
                assoc.send(pdu(4, pdv(1, 0, bytes(10))))
                time.sleep(0.02)


def test_idle_association(door: Door) -> None:
    acceptor = door(association_idle_s=0.5)
    with Association(acceptor.address) as assoc:
        assert assoc.echo() == 0
        assert assoc.ended() == (2, 0)


def test_random_conversations_do_no_harm(door: Door, archive: Archive) -> None:
    acceptor, dice = door(), random.Random(5)
    whole = (
        associate_request(contexts=CONTEXTS) + pdu(4, pdv(3, 3, COMMAND)) + pdu(4, pdv(1, 3, STORE) + pdv(1, 2, b"x"))
    )
    for _ in range(150):
        mutant = bytearray(whole)
        for _ in range(dice.randint(1, 5)):
            mutant[dice.randrange(len(mutant))] = dice.randrange(256)
        with contextlib.suppress(Rejected, ConnectionError), Connection(acceptor.address, timeout=20) as connection:
            connection.send(bytes(mutant))
            connection.sock.shutdown(socket.SHUT_WR)
            connection.ended()
    echoes(acceptor)
    assert stored_objects(archive) == (0, 0)


# --- crowds -----------------------------------------------------------------------------------------------------------


def test_silent_crowd_keeps_nobody_out(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor_module, "MAX_WAITING", 100)
    acceptor = door()
    silent = [Connection(acceptor.address) for _ in range(150)]
    try:
        echoes(acceptor)
        half = [Connection(acceptor.address) for _ in range(50)]
        silent += half
        for each in half:
            each.send(associate_request()[:60])
        echoes(acceptor)
        assert acceptor.associations <= 2
    finally:
        for each in silent:
            each.sock.close()


def test_limits_reject_for_now_but_answer_echo(door: Door) -> None:
    acceptor = door(max_associations=4, max_associations_per_host=3)
    held = [Association(acceptor.address, contexts=CONTEXTS) for _ in range(3)]
    with pytest.raises(Rejected) as caught:
        Association(acceptor.address, contexts=CONTEXTS)
    assert caught.value.args == (2, 3, 2)
    for _ in range(5):
        echoes(acceptor)
    with held.pop():
        pass
    deadline = time.monotonic() + 5
    while acceptor.associations > 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    with Association(acceptor.address, contexts=CONTEXTS) as assoc:
        assert assoc.echo() == 0
    for each in held:
        each.sock.close()


def test_a_flood_is_answered_or_refused(door: Door) -> None:
    acceptor = door(max_associations_per_host=50)
    outcomes: list[str] = []
    barrier = threading.Barrier(30)

    def visit() -> None:
        barrier.wait()
        for _ in range(5):
            try:
                with Association(acceptor.address, contexts=CONTEXTS, timeout=10) as assoc:
                    assert assoc.echo() == 0
                    outcomes.append("echo")
            except Rejected as rejected:
                outcomes.append(str(rejected.args))

    threads = [threading.Thread(target=visit) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(outcomes) == 150
    assert set(outcomes) <= {"echo", "(2, 3, 2)"}
    echoes(acceptor)


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("polite", [True, False])
def test_broken_off_in_the_middle_leaves_nothing(door: Door, archive: Archive, polite: bool) -> None:
    acceptor = door()
    first, data = slice_bytes(0)
    second, large = slice_bytes(1, 1024)
    assoc = Association(acceptor.address, contexts=CONTEXTS)
    assert assoc.store(CT, first, data)[0x0900] == 0
    message = assoc.store_message(CT, second, large)
    assoc.send(message[: 9 * 131072])
    deadline = time.monotonic() + 10
    while stored_objects(archive)[1] == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert stored_objects(archive) == (1, 1)
    if polite:
        assoc.send(message[9 * 131072 : 10 * 131078 + 200])
    assoc.sock.close()
    while acceptor.associations and time.monotonic() < deadline:
        time.sleep(0.01)
    assert stored_objects(archive) == (1, 0)
    echoes(acceptor)


def test_close_lets_a_message_end_and_aborts_the_idle(door: Door, archive: Archive) -> None:
    acceptor = door()
    uid, data = slice_bytes(2, 256)
    idle = Association(acceptor.address)
    busy = Association(acceptor.address, contexts=CONTEXTS)
    message = busy.store_message(CT, uid, data)
    busy.send(message[:5000])
    time.sleep(0.2)
    closing = threading.Thread(target=acceptor.close, args=(10,))
    closing.start()
    with pytest.raises(Aborted):
        idle.response()
    with pytest.raises(ConnectionError):
        socket.create_connection(acceptor.address, 1)
    busy.send(message[5000:])
    assert busy.response()[0][0x0900] == 0
    with pytest.raises(Aborted):
        busy.response()
    closing.join(5)
    assert not closing.is_alive()
    assert not acceptor.alive
    assert stored_objects(archive)[0] == 1
    idle.sock.close()
    busy.sock.close()


def test_close_cuts_what_does_not_end(door: Door, archive: Archive) -> None:
    acceptor = door()
    uid, data = slice_bytes(2, 256)
    assoc = Association(acceptor.address, contexts=CONTEXTS)
    assoc.send(assoc.store_message(CT, uid, data)[:5000])
    time.sleep(0.2)
    began = time.monotonic()
    acceptor.close(0.3)
    assert time.monotonic() - began < 3
    assert acceptor.associations == 0
    assert stored_objects(archive) == (0, 0)
    assoc.sock.close()


def test_find_while_the_peer_does_something_else(door: Door) -> None:
    with Association(door().address, contexts=CONTEXTS) as assoc:
        find = command({0x0002: STUDY_FIND, 0x0100: 0x20, 0x0110: 1, 0x0700: 0, 0x0800: 1})
        echo = pdv(3, 3, COMMAND)
        assoc.send(pdu(4, pdv(5, 3, find) + pdv(5, 2, implicit({0x00080052: "STUDY"})) + echo))
        assert assoc.ended() == (0, 0)
