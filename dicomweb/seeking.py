"""Where bytes are in memory that is received into: found in C, which leaves the interpreter to others meanwhile.

`bytearray.find` takes thirty times as long for a boundary of multipart bodies in the pixels of a CT, and all other
threads wait for it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import c_char, c_size_t, c_void_p
from functools import cache

from pacs import native

WORTH_BYTES = 4096
"""In less, the way to C and back takes longer than the search."""

Search = Callable[[int, int, bytes, int], int | None]
"""From an address, so many bytes from there, what is looked for and its length to where it is; see `_searches`."""


@cache
def _searches() -> tuple[Search, bool] | None:
    """What searches, and whether it tells an offset, or -1: else it tells an address, or None."""
    library = native.load()
    if library is not None:
        return library.m3_find, True
    try:
        found = ctypes.CDLL(None).memmem  # POSIX.1-2024
    except (OSError, AttributeError, TypeError):  # the C library is older
        return None
    found.argtypes, found.restype = (c_void_p, c_size_t, ctypes.c_char_p, c_size_t), c_void_p
    return found, False


class Sought:
    """Memory of a length that stays, and what is in it."""

    def __init__(self, size: int) -> None:
        self.memory = bytearray(size)
        self._held = (c_char * size).from_buffer(self.memory)
        self._address = ctypes.addressof(self._held)

    def find(self, wanted: bytes, start: int, end: int) -> int:
        """As `bytearray.find`, for 0 <= `start` and `end` <= the length."""
        searches = _searches()
        if searches is None or end - start < WORTH_BYTES:
            return self.memory.find(wanted, start, end)
        search, tells_offset = searches
        found = search(self._address + start, end - start, wanted, len(wanted))
        if tells_offset:
            return -1 if found is None or found < 0 else start + found
        return -1 if found is None else found - self._address
