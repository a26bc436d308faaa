"""The requestor against peers that refuse, break the protocol, say nothing or never stop: errors in words, in time."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from dimse_client import CT, EXPLICIT, IMPLICIT, STUDY_FIND, VERIFICATION, command, item, pdu, pdv

from pacs.archive import open_archive
from pacs.auth import Auth
from pacs.dimse import link
from pacs.dimse.acceptor import serve
from pacs.dimse.link import message_parts
from pacs.dimse.requestor import Remote, Requestor, Timeouts
from pacs.errors import Corrupt, PeerFailed, PeerRefused, PeerUnreachable
from pacs.settings import Settings

SHORT = Timeouts(connect_s=5.0, associate_s=0.3, response_s=0.3)
PATIENT = Timeouts(connect_s=60.0, associate_s=60.0, response_s=60.0)
CONTEXTS = [(VERIFICATION, [IMPLICIT]), (CT, [EXPLICIT]), (STUDY_FIND, [IMPLICIT])]
ACCEPTED = tuple((1 + 2 * at, 0, syntaxes[0]) for at, (_, syntaxes) in enumerate(CONTEXTS))


def accept(contexts: tuple[tuple[int, int, str], ...] = ACCEPTED, max_length: int = 16384) -> bytes:
    body = struct.pack(">HH", 1, 0) + b"PEER".ljust(16) + b"TESTER".ljust(16) + bytes(32)
    body += item(0x10, b"1.2.840.10008.3.1.1.1")
    for number, result, syntax in contexts:
        body += item(0x21, bytes((number, 0, result, 0)) + item(0x40, syntax.encode()))
    return pdu(2, body + item(0x50, item(0x51, struct.pack(">I", max_length)) + item(0x52, b"1.2.3")))


def response(field: int, status: int, message_id: int = 1, dataset: bool = False) -> bytes:
    return command({0x0100: field | 0x8000, 0x0120: message_id, 0x0800: 1 if dataset else 0x0101, 0x0900: status})


def message(context_id: int, raw: bytes) -> bytes:
    return pdu(4, pdv(context_id, 3, raw))


Script = Callable[[socket.socket], None]
Peer = Callable[[Script], Remote]


def whole_pdu(sock: socket.socket) -> tuple[int, bytes]:
    def exactly(count: int) -> bytes:
        out = b""
        while len(out) < count:
            got = sock.recv(count - len(out))
            if not got:
                raise ConnectionError
            out += got
        return out

    kind, length = struct.unpack(">BxI", exactly(6))
    return kind, exactly(length)


@pytest.fixture(autouse=True)
def no_lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "LINGER_S", 0.05)  # these peers never close


@pytest.fixture
def peer() -> Iterator[Peer]:
    """Listen, read one A-ASSOCIATE-RQ and do what the script says; the connection stays open until the end."""
    opened: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def listening(script: Script) -> Remote:
        listener = socket.create_server(("127.0.0.1", 0))
        opened.append(listener)

        def run() -> None:
            with suppress(OSError, ConnectionError):
                sock, _ = listener.accept()
                opened.append(sock)
                assert whole_pdu(sock)[0] == 1
                script(sock)

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()
        return Remote("PEER", "127.0.0.1", listener.getsockname()[1])

    yield listening
    for each in opened:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
    for thread in threads:
        thread.join(60)


def answering(first: bytes, *later: bytes) -> Script:
    """Answer the request for an association, then each P-DATA-TF that comes with the next of these."""

    def script(sock: socket.socket) -> None:
        sock.sendall(first)
        for each in later:
            assert whole_pdu(sock)[0] == 4
            sock.sendall(each)
        while whole_pdu(sock)[0] != 5:
            pass
        sock.sendall(pdu(6, bytes(4)))

    return script


def test_our_own_door(tmp_path: Path) -> None:
    archive = open_archive(Settings(data=tmp_path))
    acceptor = serve(archive.with_services(auth=Auth(archive.index)), host="127.0.0.1", port=0, ae_title="PEER")
    try:
        with Requestor.open(Remote("PEER", *acceptor.address), "TESTER", [*CONTEXTS, ("1.2.3", [IMPLICIT])]) as assoc:
            assert [assoc.echo().status for _ in range(3)] == [0, 0, 0]
            assert assoc.accepted(CT) == {EXPLICIT: 3}
            assert assoc.accepted("1.2.3") == {}
            with pytest.raises(PeerRefused, match="SOP class is not supported"):
                assoc.context("1.2.3")
        assert not assoc.alive
        with pytest.raises(PeerUnreachable, match="is over"):
            assoc.echo()
    finally:
        acceptor.close(0)
        archive.close()


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (pdu(3, bytes((0, 1, 1, 3))), PeerRefused, "it does not know our AE title .for good"),
        (pdu(3, bytes((0, 2, 3, 2))), PeerRefused, "its limit of associations is reached .for now"),
        (pdu(3, bytes((0, 9, 9, 9))), PeerRefused, "no reason given"),
        (pdu(7, bytes(4)), PeerRefused, "aborts instead of accepting"),
        (pdu(4, bytes(6)), PeerFailed, "breaks the protocol"),
        (pdu(6, bytes(4)), PeerFailed, "instead of A-ASSOCIATE-AC"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", PeerFailed, "unknown PDU type 72"),
        (struct.pack(">BBI", 2, 0, 0xFFFFFFFF), PeerFailed, "A-ASSOCIATE of 4294967295 bytes"),
        (pdu(2, bytes(68) + b"\x21\0\xff\xff"), PeerFailed, "longer than what holds it"),
        (accept(max_length=7), PeerFailed, "reads PDUs of 7 bytes only"),
        (accept(((3, 0, IMPLICIT),)), PeerFailed, "a transfer syntax that was not proposed"),
        (b"", PeerUnreachable, "does not answer our request in time"),
        (accept()[:40], PeerUnreachable, "does not answer our request in time"),
    ],
)
def test_answers_to_the_request(peer: Peer, answer: bytes, error: type[Exception], words: str) -> None:
    remote = peer(lambda sock: sock.sendall(answer))
    with pytest.raises(error, match=words) as raised:
        Requestor.open(remote, "TESTER", CONTEXTS, timeouts=SHORT if error is PeerUnreachable else PATIENT)
    assert "PEER@127.0.0.1" in str(raised.value)


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (message(1, response(0x30, 0, message_id=7)), PeerFailed, "instead of a response to ours"),
        (message(1, command({0x0002: VERIFICATION, 0x0100: 0x30, 0x0110: 1, 0x0800: 0x0101})), PeerFailed, "0030H"),
        (message(1, b"\xff" * 30), PeerFailed, "has no place in a command set"),
        (pdu(4, pdv(1, 2, b"data set first")), PeerFailed, "a command fragment was due"),
        (pdu(4, struct.pack(">IBB", 0xFFFFFFFF, 1, 3)), PeerFailed, "fragment is longer than its PDU"),
        (struct.pack(">BBI", 4, 0, 1 << 30), PeerFailed, "P-DATA-TF of 1073741824 bytes"),
        (pdu(5, bytes(4)), PeerFailed, "PDU type 5 within an association"),
        (pdu(7, bytes(4)), PeerFailed, "aborts the association"),
        (b"".join(pdu(4, pdv(1, 1, b"\0" * 16000)) for _ in range(5)), PeerFailed, "command set too long"),
        (b"", PeerUnreachable, "does not answer in time"),
        (message(1, response(0x30, 0))[:-3], PeerUnreachable, "does not answer in time"),
    ],
)
def test_answers_to_a_message(
    peer: Peer, monkeypatch: pytest.MonkeyPatch, answer: bytes, error: type[Exception], words: str
) -> None:
    monkeypatch.setattr(link, "PDU_S", 0.3 if error is PeerUnreachable else 60.0)
    remote = peer(answering(accept(), answer))
    times = Timeouts(connect_s=60, associate_s=60, response_s=0.3 if error is PeerUnreachable else 60)
    with Requestor.open(remote, "TESTER", CONTEXTS, timeouts=times) as assoc:
        with pytest.raises(error, match=words):
            assoc.echo()
        assert not assoc.alive


def test_a_failure_is_a_reply(peer: Peer) -> None:
    remote = peer(answering(accept(), message(1, response(0x30, 0x0110))))
    with Requestor.open(remote, "TESTER", CONTEXTS, timeouts=PATIENT) as assoc:
        reply = assoc.echo()
        assert (reply.status, reply.ok, reply.words) == (0x0110, False, "0110H")
        assert assoc.alive


def test_pieces_of_another_length_than_announced_are_never_a_message(peer: Peer) -> None:
    cases = (([b"12", b"34"], "fewer bytes"), ([b"123456", b"78"], "more bytes"))
    for pieces, words in cases:
        got, over = bytearray(), threading.Event()

        def script(sock: socket.socket, got: bytearray = got, over: threading.Event = over) -> None:
            sock.sendall(accept())
            while piece := sock.recv(65536):
                got += piece
            over.set()

        remote = peer(script)
        with Requestor.open(remote, "TESTER", CONTEXTS, timeouts=PATIENT) as assoc:
            with pytest.raises(Corrupt, match=words):
                assoc.store(assoc.context(CT), "1.2.3", pieces, 6 if words == "fewer bytes" else 7)
            assert not assoc.alive
        assert over.wait(60)
        at = 6 + struct.unpack_from(">I", got, 2)[0]
        assert at < len(got) < at + 6 + struct.unpack_from(">I", got, at + 2)[0]  # cut short, and nothing behind it


def test_a_data_set_without_end_is_cut_off(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    from pacs.dimse import requestor

    monkeypatch.setattr(requestor, "MAX_IDENTIFIER_LENGTH", 100_000)

    def script(sock: socket.socket) -> None:
        sock.sendall(accept())
        whole_pdu(sock)
        sock.sendall(message(5, response(0x20, 0xFF00, dataset=True)))
        while True:
            sock.sendall(pdu(4, pdv(5, 0, bytes(16000))))

    remote = peer(script)
    with (
        Requestor.open(remote, "TESTER", CONTEXTS, timeouts=PATIENT) as assoc,
        pytest.raises(PeerFailed, match="a data set of more than 100000 bytes"),
    ):
        list(assoc.find(assoc.context(STUDY_FIND), b""))


def test_interrupted_from_another_thread(peer: Peer) -> None:
    asked = threading.Event()

    def script(sock: socket.socket) -> None:
        sock.sendall(accept())
        whole_pdu(sock)
        asked.set()
        whole_pdu(sock)

    with Requestor.open(peer(script), "TESTER", CONTEXTS, timeouts=PATIENT) as assoc:
        threading.Thread(target=lambda: asked.wait(60) and assoc.interrupt(), daemon=True).start()
        with pytest.raises(PeerUnreachable, match="closed the connection"):
            assoc.echo()


@pytest.mark.parametrize("max_length", [16, 17, 4096, 65536])
@pytest.mark.parametrize("length", [0, 1, 9, 10, 11, 4090, 4091, 12288])
@pytest.mark.parametrize("step", [7, 4090, 1 << 20])
def test_messages_are_cut_as_the_peer_reads_them(max_length: int, length: int, step: int) -> None:
    data = bytes(range(256)) * (length // 256 + 1)
    data = data[:length]
    pieces = [data[at : at + step] for at in range(0, length, step)]
    raw = b"".join(b"".join(parts) for parts in message_parts(3, b"C" * 30, pieces, length, max_length))
    at, commands, dataset, ended = 0, b"", b"", False
    while at < len(raw):
        kind, size = struct.unpack_from(">BxI", raw, at)
        assert kind == 4
        assert 6 <= size <= max_length
        inner, context, control = struct.unpack_from(">IBB", raw, at + 6)
        assert (inner, context) == (size - 4, 3)
        fragment = raw[at + 12 : at + 6 + size]
        assert not ended
        if control & 1:
            commands += fragment
        else:
            dataset += fragment
            ended = bool(control & 2)
            assert ended or len(fragment) % 2 == 0
        at += 6 + size
    assert (commands, dataset, ended) == (b"C" * 30, data, True)
