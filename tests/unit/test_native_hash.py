"""BLAKE3 in C against the package `blake3`, on either path, whatever the size and however it comes in pieces."""

from __future__ import annotations

import random
from ctypes import byref, create_string_buffer, sizeof
from typing import Any

import pytest
from blake3 import blake3

from pacs import native
from pacs.native import Hash

DATA = random.Random(1).randbytes((1 << 20) + 70_000)
CHUNK, GROUP, SUBTREE = 1024, 8 * 1024, 128 * 1024
ENDS = (0, 64, CHUNK, 2 * CHUNK, 3 * CHUNK, GROUP, 2 * GROUP, 31 * CHUNK, 100 * CHUNK, SUBTREE, 2 * SUBTREE, 1 << 20)
SIZES = sorted({0, 1, *(size + by for size in ENDS for by in (-1, 0, 1, 63, 64, 65) if size + by >= 0)})


class Hashing:
    """What C makes of what was fed so far."""

    def __init__(self, library: Any, lanes: int) -> None:
        self.library, self.state = library, Hash.from_buffer_copy(b"\xa5" * sizeof(Hash))
        library.m3_hash_begin(byref(self.state))
        self.state.lanes = min(lanes, self.state.lanes)  # without AVX2 both are the portable path

    def feed(self, data: bytes) -> None:
        self.library.m3_hash_feed(byref(self.state), data, len(data))

    def digest(self) -> bytes:
        out = create_string_buffer(32)
        self.library.m3_hash_end(byref(self.state), out)
        return out.raw


@pytest.fixture(params=[4, 8], ids=["portable", "avx2"])
def lanes(request: pytest.FixtureRequest) -> int:
    assert isinstance(request.param, int)
    return request.param


@pytest.fixture
def library() -> Any:
    found = native.load()
    assert found is not None, "the compiled part is missing: `make install` builds it"
    return found


def test_every_size_at_once(library: Any, lanes: int) -> None:
    for size in SIZES:
        hashing = Hashing(library, lanes)
        hashing.feed(DATA[:size])
        assert hashing.digest() == blake3(DATA[:size]).digest(), f"{size} bytes"


def test_the_same_in_pieces_of_one_size(library: Any, lanes: int) -> None:
    for piece in (1000, CHUNK, GROUP - 1, GROUP, GROUP + 1, 65_524, SUBTREE):
        hashing, other = Hashing(library, lanes), blake3()
        for at in range(0, len(DATA), piece):
            hashing.feed(DATA[at : at + piece])
            other.update(DATA[at : at + piece])
        assert hashing.digest() == other.digest(), f"pieces of {piece} bytes"


def test_the_end_may_be_asked_for_anywhere(library: Any, lanes: int) -> None:
    rng = random.Random(2)
    for _ in range(150):
        hashing, other = Hashing(library, lanes), blake3()
        at = 0
        for _ in range(rng.randrange(16)):
            size = rng.choice((0, 1, 64, CHUNK, GROUP, SUBTREE, rng.randrange(3000), rng.randrange(100_000)))
            hashing.feed(DATA[at : at + size])
            other.update(DATA[at : at + size])
            at = min(at + size, len(DATA))
            if rng.random() < 0.4:
                assert hashing.digest() == other.digest(), f"{at} bytes"
        assert hashing.digest() == other.digest() == hashing.digest(), f"{at} bytes"


def test_python_knows_the_structure_as_c_does(library: Any, lanes: int) -> None:
    hashing = Hashing(library, lanes)
    hashing.feed(DATA[: SUBTREE + GROUP + 5])
    state = hashing.state
    assert (state.chunks, state.held, state.waiting, state.depth) == (136, 5, 8, 1)
    assert bytes(state.rest[:6]) == DATA[SUBTREE + GROUP :][:5] + b"\xa5"
    hashing.feed(DATA[: GROUP - 6])
    assert bytes(state.rest[GROUP - 2 :]) == DATA[GROUP - 7 :][:1] + b"\xa5"  # its last byte is the structure's


def test_nothing_is_written_behind_the_digest(library: Any, lanes: int) -> None:
    hashing = Hashing(library, lanes)
    hashing.feed(DATA[:5000])
    out = create_string_buffer(b"\xa5" * 40, 40)
    library.m3_hash_end(byref(hashing.state), out)
    assert out.raw == blake3(DATA[:5000]).digest() + b"\xa5" * 8


def test_data_may_begin_at_any_address(library: Any, lanes: int) -> None:
    memory = create_string_buffer(DATA[:20_000], 20_000)
    for offset in (1, 3, 8, 17, 31):
        hashing = Hashing(library, lanes)
        library.m3_hash_feed(byref(hashing.state), byref(memory, offset), 20_000 - offset)
        assert hashing.digest() == blake3(DATA[offset:20_000]).digest()
