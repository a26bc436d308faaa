"""The metadata of one instance on its way into the index: bytes in zlib's format (RFC 1950), made quickly.

Two implementations, `compiled` and `plain`; what they make is not the same, and reads the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from ctypes import addressof, c_char
from typing import Any, Final

from pacs import native

Packer = Callable[[bytes], bytes]
"""From a text to what zlib makes that text of. For one thread."""

SMALL: Final = 64 << 10
"""Longer ones are worth zlib's tables."""

_ROOM: Final = SMALL + SMALL // 8 + 16


def plain(text: bytes) -> bytes:
    """Packed by zlib; its window of 8 KiB and small tables leave more of the caches to others."""
    packer = zlib.compressobj(1, wbits=13, memLevel=6)
    return packer.compress(text) + packer.flush()


def compiled(library: Any) -> Packer:
    """What packs small texts by `pacs/native/pack.c`."""
    room = bytearray(_ROOM)
    first = c_char.from_buffer(room)  # keeps the place where it is
    place, pack, view = addressof(first), library.m3_pack, memoryview(room)

    def packed(text: bytes) -> bytes:
        if len(text) > SMALL:
            return plain(text)
        return view[: pack(text, len(text), place, _ROOM)].tobytes()

    return packed


def packer() -> Packer:
    """The quickest there is."""
    library = native.load()
    return plain if library is None else compiled(library)
