"""Memory that a disk takes as it is, past the kernel's cache: it begins on a huge page, where the machine has them.

A write of half a megabyte out of small pages is 129 of them to be held and told to the disk; out of a huge page it is
one, which halves what such a write costs.
"""

from __future__ import annotations

import ctypes
import mmap
from collections import deque
from contextlib import suppress

HUGE_PAGE = 2 << 20


class Memory:
    """`size` bytes from `start` on in `map`: this process's own, and zeros until somebody writes."""

    __slots__ = ("map", "start")

    def __init__(self, size: int) -> None:
        # Nothing of what lies around the bytes is ever touched, so that it takes no memory.
        self.map = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.start = -ctypes.addressof(ctypes.c_char.from_buffer(self.map)) % HUGE_PAGE
        with suppress(OSError):  # a kernel without huge pages
            self.map.madvise(mmap.MADV_HUGEPAGE)

    @property
    def watched(self) -> bool:
        """Whether somebody still looks at it."""
        try:
            self.map.resize(len(self.map))  # impossible under a view
        except BufferError:
            return True
        return False


class Buffers:
    """Memory of one size, used again and again: fresh memory costs page faults. Safe from any thread."""

    def __init__(self, size: int, kept: int = 8) -> None:
        """At most `kept` are kept while nobody uses them."""
        self._size = size
        self._free: deque[Memory] = deque(maxlen=kept)

    def take(self) -> Memory:
        """Memory with anything in it."""
        try:
            return self._free.pop()
        except IndexError:
            return Memory(self._size)

    def give(self, memory: Memory) -> None:
        """Have it back, unless somebody still looks at it."""
        if not memory.watched:
            self._free.append(memory)
