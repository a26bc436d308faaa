"""Durable writes past the page cache that go on while whoever began them does something else.

The kernel does it (io_submit(2)): no thread is woken and no lock of the interpreter asked for. Where the compiled part
is missing or the kernel refuses, nothing is begun, and the caller writes by itself.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections import deque
from typing import Any

from pacs import native

_NEVER = (errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP)


class Underway:
    """One write that was begun. Its memory is left alone until `end` has returned."""

    __slots__ = ("_context", "_free", "_library")

    def __init__(self, library: Any, context: int, free: deque[int]) -> None:
        self._library = library
        self._context = context
        self._free = free

    def end(self) -> int:
        """Wait; how many bytes are on the disk. To be called once. Raises OSError."""
        count = self._library.m3_write_end(self._context)
        self._free.append(self._context)
        if count < 0:
            raise OSError(-count, os.strerror(-count))
        return int(count)


class Writes:
    """Begins writes. Safe from any thread; belongs to the process that made it, which does not fork."""

    def __init__(self) -> None:
        self._library = native.load()
        self._free: deque[int] = deque()

    def take(self) -> int | None:
        """What one write after the other may be begun with, until it is given back; None where nothing can."""
        if self._library is None:
            return None
        try:
            return self._free.pop()
        except IndexError:
            made = ctypes.c_uint64()
            return None if self._library.m3_write_open(ctypes.byref(made)) else made.value

    def give(self, context: int) -> None:
        """Have back what `take` gave; no write is under way."""
        self._free.append(context)

    def begin(self, fd: int, view: memoryview, at: int) -> Underway | None:
        """The write of `view`, which has to stay as it is meanwhile; None where nothing could be begun.

        `fd` was opened with O_DIRECT; memory, length and place are whole blocks.
        """
        library, context = self._library, self.take()
        if library is None or context is None:
            return None
        address = ctypes.addressof(ctypes.c_char.from_buffer(view))
        failure = library.m3_write_begin(context, fd, address, len(view), at)
        if not failure:
            return Underway(library, context, self._free)
        self._free.append(context)
        if -failure in _NEVER:
            self._library = None
        return None
