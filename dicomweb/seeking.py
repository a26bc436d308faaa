"""Where bytes are in memory that is received into: by the C library, which leaves the interpreter to others meanwhile.

`bytearray.find` takes three times as long for a boundary of multipart bodies in the pixels of a CT, and all other
threads wait for it.
"""

from __future__ import annotations

import ctypes
from ctypes import c_char, c_size_t, c_void_p
from functools import cache
from typing import Any

WORTH_BYTES = 4096
"""In less, the way to the C library and back takes longer than the search."""


@cache
def _memmem() -> Any | None:
    """The function of POSIX.1-2024, None where the C library is older and has none."""
    try:
        found = ctypes.CDLL(None).memmem
    except (OSError, AttributeError, TypeError):
        return None
    found.argtypes, found.restype = (c_void_p, c_size_t, ctypes.c_char_p, c_size_t), c_void_p
    return found


class Sought:
    """Memory of a length that stays, and what is in it."""

    def __init__(self, size: int) -> None:
        self.memory = bytearray(size)
        self._held = (c_char * size).from_buffer(self.memory)
        self._address = ctypes.addressof(self._held)

    def find(self, wanted: bytes, start: int, end: int) -> int:
        """As `bytearray.find`, for 0 <= `start` and `end` <= the length."""
        search = _memmem()
        if search is None or end - start < WORTH_BYTES:
            return self.memory.find(wanted, start, end)
        found: int | None = search(self._address + start, end - start, wanted, len(wanted))
        return -1 if found is None else found - self._address
