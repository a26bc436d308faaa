"""Whatever a peer sends, both receivers of DIMSE messages understand the same: the reference and the compiled one."""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from dimse_client import pdu, pdv

from pacs import native
from pacs.dimse import fragments, transport
from pacs.dimse.fragments import CompiledIncoming, Incoming, Released
from pacs.dimse.transport import Disconnected, Stalled, Transport
from pacs.dimse.upper_layer import RELEASE_REQUEST, ProtocolError

MAX_LENGTH = 1 << 18
CONTEXTS = (1, 3)
KINDS = ("reference", "compiled")


@dataclass
class Place:
    """Takes a data set into memory, `rooms` at a time; from `refuse_at` on only its `write` is left."""

    rooms: int = 1 << 20
    refuse_at: int | None = None
    came: bytearray = field(default_factory=bytearray)
    written: int = 0
    _room: bytearray = field(default_factory=bytearray)

    def room(self, wanted: int) -> memoryview | None:
        if self.refuse_at is not None and len(self.came) >= self.refuse_at:
            return None
        self._room = bytearray(min(wanted, self.rooms))
        return memoryview(self._room)

    def filled(self, count: int) -> None:
        assert 0 < count <= len(self._room)
        self.came += self._room[:count]

    def write(self, piece: memoryview) -> None:
        self.came += piece
        self.written += len(piece)


def incoming(kind: str, sock: socket.socket) -> Incoming:
    transport = Transport(sock)
    if kind == "reference":
        return Incoming(transport, MAX_LENGTH)
    library = native.load()
    assert library is not None, "the compiled part is missing: `make install` builds it"
    return CompiledIncoming(transport, MAX_LENGTH, library)


def understood(kind: str, sent: Sequence[bytes], places: Sequence[Place | None]) -> list[object]:
    """Every command set and data set that is made of what is sent, piece by piece, and how it ends.

    `places` has a place for each data set, or None for one that is thrown away.
    """
    ours, theirs = socket.socketpair()

    def peer() -> None:
        with theirs:
            for piece in sent:
                try:
                    theirs.sendall(piece)
                except OSError:
                    return

    sender = threading.Thread(target=peer)
    sender.start()
    found: list[object] = []
    begun: list[int] = []
    try:
        receiver = incoming(kind, ours)
        for place in places:
            context_id, raw = receiver.command(CONTEXTS, 30, lambda: begun.append(1))
            assert begun, "nobody was told that a command set came"
            found.append((context_id, bytes(raw), receiver.within))
            if place is None:
                thrown = bytearray()
                receiver.dataset(context_id, thrown.extend)
                found.append(bytes(thrown))
            else:
                receiver.into(context_id, place)
                found.append(bytes(place.came))
        receiver.command(CONTEXTS, 30, lambda: None)
    except (ProtocolError, Released, Disconnected, Stalled) as error:
        reason = (error.source, error.reason) if isinstance(error, ProtocolError) else ()
        found.append((type(error).__name__, str(error), reason))
    finally:
        ours.close()
        sender.join(60)
    return found


def message(raw: bytes, data: bytes, *, context_id: int = 1, room: int = 1 << 14, joined: bool = False) -> bytes:
    """A command set and a data set in fragments of at most `room` bytes; `joined`: as many as fit in one PDU."""
    pieces = []
    for whole, kind in ((raw, 1), (data, 0)):
        for at in range(0, len(whole) or 1, room):
            last = 2 if at + room >= len(whole) else 0
            pieces.append(pdv(context_id, kind | last, whole[at : at + room]))
    if joined:
        return pdu(4, b"".join(pieces))
    return b"".join(pdu(4, piece) for piece in pieces)


def split(whole: bytes, rng: random.Random) -> list[bytes]:
    """The bytes as the network may deliver them."""
    cuts = sorted(rng.randrange(len(whole) + 1) for _ in range(rng.choice((0, 1, 3, 9))))
    return [whole[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


RNG = random.Random(11)
LARGE = RNG.randbytes(600_001)
SMALL = RNG.randbytes(8_000)
COMMAND = RNG.randbytes(140)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (message(COMMAND, LARGE, room=MAX_LENGTH - 6), LARGE),
        (message(COMMAND, LARGE, room=16_378), LARGE),
        (message(COMMAND, LARGE, room=1 << 17), LARGE),
        (message(COMMAND, SMALL, room=100), SMALL),
        (message(COMMAND, SMALL, room=1), SMALL),
        (message(COMMAND, SMALL, joined=True), SMALL),
        (message(COMMAND, b""), b""),
        (message(COMMAND, SMALL) + pdu(4, pdv(1, 0, b"")), SMALL),
        (pdu(4, pdv(1, 3, COMMAND)) + pdu(4, pdv(1, 0, b"ab") + pdv(1, 0, b"") + pdv(1, 2, b"")), b"ab"),
        (pdu(4, pdv(1, 3, COMMAND)) + pdu(4, pdv(1, 0, b"") + pdv(1, 0xFC, b"ab")) + pdu(4, pdv(1, 0xFE, b"")), b"ab"),
    ],
    ids=["max", "16k", "128k", "100", "1", "joined", "empty", "one too many", "empty last", "reserved bits"],
)  # fmt: skip
def test_a_message_comes_whole(kind: str, sent: bytes, expected: bytes) -> None:
    for place in (Place(), Place(rooms=1000), None):
        command_set, dataset, *rest = understood(kind, [sent], [place])
        assert isinstance(command_set, tuple)
        assert command_set[:2] == (1, COMMAND)
        assert dataset == expected
        assert len(rest) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_long_command_sets_and_refused_data_sets(kind: str) -> None:
    long = RNG.randbytes(50_000)
    sent = message(long, SMALL) + message(COMMAND, LARGE, context_id=3) + message(long, SMALL, room=2047)
    refused = Place(refuse_at=300_000)
    found = understood(kind, [sent], [Place(), refused, Place(refuse_at=0)])
    assert [found[0][1], found[1], found[2][:2], found[3], found[4][1], found[5]] == [
        long, SMALL, (3, COMMAND), LARGE, long, SMALL,
    ]  # fmt: skip
    assert 0 < refused.written <= 300_001


START = pdu(4, pdv(1, 3, COMMAND))
ODD = {
    "command of an unknown context": pdu(4, pdv(5, 3, COMMAND)),
    "context changes within a command": pdu(4, pdv(1, 1, b"ab")) + pdu(4, pdv(3, 3, b"cd")),
    "command of context 0": pdu(4, pdv(0, 3, COMMAND)),
    "data set first": pdu(4, pdv(1, 2, b"ab")),
    "data set within a command": pdu(4, pdv(1, 1, b"ab") + pdv(1, 2, b"cd")),
    "command too long": b"".join(pdu(4, pdv(1, 1, bytes(60_000))) for _ in range(2)),
    "command too long at once": pdu(4, pdv(1, 3, bytes(66_000))),
    "command within a data set": START + pdu(4, pdv(1, 0, b"ab")) + START,
    "another context within a data set": START + pdu(4, pdv(1, 0, b"ab")) + pdu(4, pdv(3, 2, b"cd")),
    "release": RELEASE_REQUEST,
    "release within a data set": START + pdu(4, pdv(1, 0, SMALL)) + RELEASE_REQUEST,
    "abort": pdu(7, bytes(4)),
    "abort within a data set": START + pdu(4, pdv(1, 0, b"ab")) + pdu(7, bytes(4)),
    "abort within a command": pdu(4, pdv(1, 1, b"ab")) + pdu(7, bytes(4)),
    "release of a wrong length": pdu(5, bytes(3)),
    "associate request": pdu(1, bytes(100)),
    "unknown PDU": START + pdu(9, bytes(4)),
    "PDU longer than offered": START + struct.pack(">BBI", 4, 0, MAX_LENGTH + 1) + bytes(100),
    "PDU of four gigabytes": START + struct.pack(">BBI", 4, 0, 0xFFFFFFFF),
    "PDU too short for a fragment": START + pdu(4, b"\0\0\0\0\0"),
    "nothing in a PDU": START + pdu(4, b""),
    "bytes behind the last fragment": START + pdu(4, pdv(1, 2, b"ab") + b"\0\0\0"),
    "bytes behind a fragment": START + pdu(4, pdv(1, 0, b"ab") + b"\0\0\0"),
    "fragment longer than its PDU": START + pdu(4, struct.pack(">IBB", 100, 1, 2) + b"ab"),
    "fragment one byte longer than its PDU": START + pdu(4, struct.pack(">IBB", 5, 1, 2) + b"ab"),
    "fragment of four gigabytes": START + pdu(4, struct.pack(">IBB", 0xFFFFFFFF, 1, 0) + b"ab"),
    "fragment of length 1": START + pdu(4, struct.pack(">IBB", 1, 1, 2) + b"ab"),
    "fragment of length 0": START + pdu(4, struct.pack(">IBB", 0, 1, 2) + b"ab"),
    "closed within a PDU header": START + b"\4\0\0",
    "closed within a fragment header": START + pdu(4, pdv(1, 0, b"ab"))[:9],
    "closed within a fragment": START + pdu(4, pdv(1, 0, SMALL))[:-1],
    "closed within a command": START[:-1],
    "closed between fragments": START + pdu(4, pdv(1, 0, SMALL)),
    "closed at once": b"",
}


@pytest.mark.parametrize("sent", ODD.values(), ids=ODD.keys())
def test_what_is_odd_ends_alike(sent: bytes) -> None:
    for place in (Place, lambda: Place(rooms=1), lambda: None):
        reference = understood("reference", [sent], [place()])
        assert isinstance(reference[-1], tuple)
        assert reference[-1][0] in ("ProtocolError", "Released", "Disconnected")
        assert understood("compiled", [sent], [place()]) == reference


@pytest.mark.parametrize("seed", range(40))
def test_any_bytes_are_understood_alike(seed: int) -> None:
    """Messages cut up, joined and damaged at random, delivered in any pieces."""
    rng = random.Random(seed)
    whole, places = b"", list[tuple[int, int | None] | None]()
    for _ in range(rng.randrange(1, 4)):
        raw = rng.randbytes(rng.choice((1, 140, 2047, 2048, 2049, 9000)))
        data = rng.randbytes(rng.choice((0, 1, 100, 8000, 140_000, 300_000)))
        room = (
            rng.choice((7, 500, 4096, 16_378, 100_000))
            if len(data) < 10_000
            else rng.choice((16_378, 131_066, 262_000))
        )
        joined = len(raw) + len(data) + 100 * (2 + (len(raw) + len(data)) // room) < MAX_LENGTH and rng.random() < 0.5
        whole += message(raw, data, context_id=rng.choice((1, 3)), room=room, joined=joined)
        places.append(rng.choice((None, (rng.choice((1 << 20, 4096, 999)), rng.choice((None, None, 0, 5000))))))
    if rng.random() < 0.6:
        damaged = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(min(len(damaged), 4000))] = rng.randrange(256)
        whole = bytes(damaged)
    pieces = split(whole, rng)

    def fresh() -> list[Place | None]:
        return [None if place is None else Place(*place) for place in places]

    assert understood("compiled", pieces, fresh()) == understood("reference", pieces, fresh())


@pytest.mark.parametrize("kind", KINDS)
def test_silence_ends_it(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fragments, "SILENCE_S", 0.1)
    monkeypatch.setattr(transport, "TICK_S", 0.1)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        receiver = incoming(kind, ours)
        theirs.sendall(START + pdu(4, pdv(1, 0, b"ab")))
        receiver.command(CONTEXTS, 60, lambda: None)
        with pytest.raises(Stalled):
            receiver.into(1, Place())
        with pytest.raises(Stalled):
            receiver.command(CONTEXTS, 0.1, lambda: None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_wait_ends_when_the_server_does(kind: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        transport_ended = threading.Event()
        receiver = incoming(kind, ours)

        def wait() -> None:
            try:
                receiver.command(CONTEXTS, 600, lambda: None)
            except Disconnected:
                transport_ended.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        receiver._transport.interrupt(at_once=False)
        waiting.join(60)
        assert transport_ended.is_set()
