#!/usr/bin/env python3
"""CPU of the digest of a CT, by the package `blake3` and by `pacs/native/hash.c`: from the caches, and from memory.

    python digest.py

Thread CPU in us for 526 kB: least and median. "Whole": fed at once; "pieces": as it comes from a peer, 64 kB each.
"""

import sys
import time
from collections.abc import Callable
from ctypes import addressof, byref, c_char, create_string_buffer
from pathlib import Path
from statistics import median

from blake3 import blake3

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pacs import native

SIZE, COUNT, ROUNDS = 526_000, 300, 5
PIECE = 1 << 16


def main() -> None:
    library = native.load()
    if library is None:
        raise SystemExit("the part in C is not built: `make install` does it")
    memory = bytearray(b"\xa5\x00\x17" * (SIZE * COUNT // 3 + 1))
    view, begin = memoryview(memory), addressof((c_char * len(memory)).from_buffer(memory))
    state, out = native.Hash(), create_string_buffer(32)

    def by_package(at: int) -> bytes:
        return blake3(view[at : at + SIZE]).digest()

    def in_c(at: int, pieces: range, lanes: int = 0) -> bytes:
        library.m3_hash_begin(byref(state))
        state.lanes = lanes or state.lanes
        for piece in pieces:
            library.m3_hash_feed(byref(state), begin + at + piece, min(pieces.step, SIZE - piece))
        library.m3_hash_end(byref(state), out)
        return out.raw

    whole, pieces = range(0, SIZE, SIZE), range(0, SIZE, PIECE)
    ways: dict[str, Callable[[int], bytes]] = {
        "package": by_package,
        "C, whole": lambda at: in_c(at, whole),
        "C, pieces": lambda at: in_c(at, pieces),
        "C, without AVX2": lambda at: in_c(at, whole, 4),
    }
    print(f"{'':20}{'caches':>16}{'memory':>16}")
    taken = {(name, cold): [] for name in ways for cold in (False, True)}
    for _ in range(ROUNDS):
        for name, digest in ways.items():
            for cold in (False, True):
                for turn in range(COUNT):
                    begun = time.thread_time_ns()
                    digest(turn * SIZE if cold else 0)
                    taken[name, cold].append((time.thread_time_ns() - begun) / 1000)
    for name, digest in ways.items():
        assert digest(SIZE) == by_package(SIZE), name
        row = (f"{min(taken[name, cold]):.0f} {median(taken[name, cold]):.0f}" for cold in (False, True))
        print(f"{name:20}" + "".join(f"{cell:>16}" for cell in row))


if __name__ == "__main__":
    main()
