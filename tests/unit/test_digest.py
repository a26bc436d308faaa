"""What hashes bytes as they arrive, in C, against its reference; and what finds bytes in C against Python's own."""

from __future__ import annotations

import random
from ctypes import addressof, c_char

from pacs import native
from pacs.digest import Compiled, Plain, Running

DATA = random.Random(3).randbytes(300_000)
PIECES = (1, 7, 8192, 0, 100_000, 3, 131_072)


def came(hashing: Running, *, readonly: bool) -> tuple[bytes, list[bytes]]:
    at, kept, told = 0, bytearray(len(DATA)), []
    for number, count in enumerate(PIECES):
        piece = DATA[at : at + count]
        view = memoryview(piece if readonly else bytearray(piece))
        if number % 2:
            hashing.update(view)
            kept[at : at + count] = piece
        else:
            hashing.copied(view, memoryview(kept)[at : at + count])
        told += [hashing.digest(), hashing.digest(b"suffix")]
        at += count
    return bytes(kept[:at]), told


def test_what_comes_is_hashed_as_by_the_reference() -> None:
    library = native.load()
    assert library is not None, "the compiled part is missing: `make install` builds it"
    for readonly in (False, True):
        expected = came(Plain(), readonly=readonly)
        assert expected[0] == DATA[: sum(PIECES)]
        assert came(Compiled(library), readonly=readonly) == expected


def test_bytes_are_found_where_python_finds_them() -> None:
    library = native.load()
    assert library is not None, "the compiled part is missing: `make install` builds it"
    rng = random.Random(4)
    for size in (0, 1, 2, 31, 63, 64, 65, 127, 129, 1000, 5000):
        for length in (1, 2, 3, 9, 40, 70, 203):
            wanted = bytes(rng.choice(b"\r-") for _ in range(length))
            for _ in range(6):  # of bytes that are likely to be there in part, with and without all of them
                data = bytearray(rng.choice(b"\r-\0") for _ in range(size))
                if size >= length and rng.random() < 0.7:
                    at = rng.choice((0, size - length, rng.randrange(size - length + 1)))
                    data[at : at + length] = wanted
                held = c_char.from_buffer(data) if size else None
                found = library.m3_find(None if held is None else addressof(held), size, wanted, length)
                assert found == data.find(wanted), (size, length)
                del held
