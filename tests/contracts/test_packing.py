"""What packs metadata: whatever the text, zlib makes it of what both implementations made."""

from __future__ import annotations

import random
import zlib
from ctypes import c_char

import pytest

from pacs import native, packing
from pacs.packing import SMALL, Packer


@pytest.fixture(params=["plain", "compiled"])
def packer(request: pytest.FixtureRequest) -> Packer:
    if request.param == "plain":
        return packing.plain
    library = native.load()
    assert library is not None, "the compiled part is missing: `make install` builds it"
    return packing.compiled(library)


def texts() -> list[bytes]:
    rng = random.Random(3)
    found = [b"", b"a", b"abc", b"abcd", bytes(range(256)) * 3, b"\xff" * 5000, b"ab" * 4000]
    found += [rng.randbytes(count) for count in (1, 7, 1000, SMALL - 1, SMALL, SMALL + 1, 3 * SMALL)]
    found += [bytes(rng.choices(b'{"Value":[0123456789.-]}', k=count)) for count in (50, 3000, 40_000)]
    for period in (3, 4, 5, 257, 258, 259, 32_767, 32_768, 32_769):  # lengths and distances at their ends
        found.append((rng.randbytes(period) * (70_000 // period + 1))[: min(SMALL, period * 3 + 17)])
    for length in range(3, 262):  # a match of every length, and what follows it
        once = rng.randbytes(length)
        found.append(b"." + once + rng.randbytes(3) + once + b"end")
    for distance in range(1, 600):
        found.append(b"wxyz" + rng.randbytes(distance) + b"wxyzwxyz")
    return found


def test_every_text_comes_back(packer: Packer) -> None:
    for text in texts():
        packed = packer(text)
        assert zlib.decompress(packed) == text, f"{len(text)} bytes"
        assert len(packed) <= len(text) + len(text) // 8 + 16


def test_metadata_becomes_much_smaller(packer: Packer) -> None:
    text = b"{%s}" % b",".join(b'"%08X":{"vr":"DS","Value":[%d.5]}' % (tag, tag % 977) for tag in range(4000, 4060))
    assert len(packer(text)) < len(text) / 3


def test_a_room_too_small_is_refused() -> None:
    library = native.load()
    assert library is not None
    room = bytearray(64)
    place = (c_char * 64).from_buffer(room)
    assert library.m3_pack(bytes(64), 64, place, 64) == 0
    assert not any(room)
