"""Bytes on their way in: counted, hashed, in memory while few, then in a file where the object store wants them.

A spool starts with room for the preamble and File Meta, which are ours and written last (`pacs.ingest`); the digest
covers what follows.
"""

from __future__ import annotations

import errno
import mmap
import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from pacs.buffers import Buffers, Memory
from pacs.digest import Running, running
from pacs.errors import OutOfResources, TooLarge, Unavailable

IN_MEMORY_BYTES = 1 << 20
MOST_LEAD_BYTES = mmap.PAGESIZE
"""Memory beyond that: for a store's own bytes in front of the object, and zeros behind it."""
MEMORY_BYTES = IN_MEMORY_BYTES + MOST_LEAD_BYTES
"""What a spool wants of its `Buffers`."""

SUFFIX = ".part"


def failed(error: OSError, what: str) -> OutOfResources | Unavailable:
    """The error of ours that a failed write means."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return OutOfResources(f"no space left to {what}")
    return Unavailable(f"cannot {what}: {os.strerror(error.errno or errno.EIO)}")


def sweep(folder: Path, older_than_s: float = 0.0) -> int:
    """How many files of aborted arrivals were removed from `folder`: those not written to for `older_than_s`."""
    removed = 0
    for path in folder.glob(f"*{SUFFIX}"):
        try:
            if path.stat().st_mtime <= time.time() - older_than_s:
                path.unlink()
                removed += 1
        except FileNotFoundError:
            continue
    return removed


class Backing(Protocol):
    """Where a spool keeps bytes that are too many for memory: from `base` on in the file `fd`."""

    @property
    def fd(self) -> int:
        """The descriptor to write to."""

    @property
    def base(self) -> int:
        """Where the first byte belongs."""

    def grown(self, size: int) -> None:
        """Told how many bytes there are by now."""

    def drop(self) -> None:
        """Let go of it, and of what was written."""


class TemporaryFile:
    """A file of its own in the spool's folder."""

    base = 0

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{uuid.uuid4().hex}{SUFFIX}"
        self.fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def grown(self, size: int) -> None:
        """It grows by itself."""

    def drop(self) -> None:
        """Close and remove it."""
        os.close(self.fd)
        self._path.unlink(missing_ok=True)


class Lent:
    """Bytes that a store writes from where they are, until it gives the memory back."""

    __slots__ = ("_buffers", "_memory", "view")

    def __init__(self, view: memoryview, memory: Memory, buffers: Buffers) -> None:
        self.view = view
        self._memory = memory
        self._buffers = buffers

    def give_back(self) -> None:
        """Others may use the memory. Once."""
        self.view.release()
        self._buffers.give(self._memory)


class Spool:
    """One arriving object. Not for several threads at once."""

    def __init__(
        self,
        folder: Path,
        *,
        reserve: int = 0,
        lead: int = 0,
        limit: int | None = None,
        backing: Callable[[], Backing] | None = None,
        buffers: Buffers | None = None,
    ) -> None:
        """`reserve` bytes are left free in front; more than `limit` bytes behind them raise TooLarge.

        `backing` is asked for a place once the bytes are too many for memory; by default a file in `folder`. In memory
        `lead` bytes come before the reserve, for the store alone (`blocks`).
        """
        self._new_backing = backing or (lambda: TemporaryFile(folder))
        self._buffers = buffers or Buffers(MEMORY_BYTES)
        self._memory: Memory | None = self._buffers.take()
        self._buffer = self._memory.map
        self._start = start = self._memory.start + lead
        self._buffer[start : start + reserve] = bytes(reserve)
        self._limit = limit
        self._hash = running()
        self._map: mmap.mmap | None = None
        self._mapped_from = 0
        self.backing: Backing | None = None
        self.lead = lead
        self.reserve = reserve
        self.size = reserve

    def room(self, wanted: int) -> memoryview | None:
        """Memory for the next bytes, at most `wanted` of them, to be announced by `filled`; None where there is none.

        What is received straight into it is copied once less.
        """
        if self._memory is None:
            return None
        if self.size == IN_MEMORY_BYTES and self.backing is None:
            self._leave_memory()
        at, end = self._start, self._start + IN_MEMORY_BYTES
        if self.backing is None:
            at += self.size
        return memoryview(self._buffer)[at : min(at + wanted, end)]

    def filled(self, count: int) -> None:
        """The next `count` bytes are where `room` said. Raises TooLarge, OutOfResources or Unavailable."""
        assert self._memory is not None
        self._admit(count)
        at = self._start + (self.size if self.backing is None else 0)
        with memoryview(self._buffer) as whole, whole[at : at + count] as view:
            self._hash.update(view)
            if self.backing is None:
                self.size += count
            else:
                self._append(view)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes; they may be reused afterwards. Raises TooLarge, OutOfResources or Unavailable."""
        view = memoryview(data).cast("B")
        self._admit(len(view))
        if self.backing is None:
            assert self._memory is not None
            if self.size + len(view) <= IN_MEMORY_BYTES:
                at = self._start + self.size
                with memoryview(self._buffer) as whole, whole[at : at + len(view)] as to:
                    self._hash.copied(view, to)
                self.size += len(view)
                return
            self._leave_memory()
        self._hash.update(view)
        self._append(view)

    def exchange(self, memory: Memory, count: int, hashed: Running) -> Memory:
        """Our memory for one of the same size that has the first `count` bytes where they belong, and their hash.

        Only before anything else came. Raises TooLarge.
        """
        assert self._memory is not None
        assert self.size == self.reserve
        self._admit(count)
        ours, self._memory, self._hash = self._memory, memory, hashed
        self._buffer, self._start = memory.map, memory.start + self.lead
        self.size += count
        return ours

    def _admit(self, count: int) -> None:
        if self._limit is not None and self.size - self.reserve + count > self._limit:
            raise TooLarge(f"more than {self._limit} bytes")

    def _leave_memory(self) -> None:
        assert self._memory is not None
        try:
            self.backing = self._new_backing()
        except OSError as error:
            raise failed(error, "spool an object") from error
        size, self.size = self.size, 0
        with memoryview(self._buffer) as whole, whole[self._start : self._start + size] as held:
            self._append(held)

    def _append(self, view: memoryview) -> None:
        assert self.backing is not None
        fd, base = self.backing.fd, self.backing.base
        try:
            while view:
                count = os.pwrite(fd, view, base + self.size)
                self.size += count
                view = view[count:]
        except OSError as error:
            raise failed(error, "spool an object") from error
        self.backing.grown(self.size)

    def digest(self, suffix: bytes = b"") -> str:
        """The BLAKE3, in hex, of everything written after the reserve, then `suffix`."""
        return self._hash.digest(suffix).hex()

    def plain_digest(self) -> bytes:
        """The BLAKE3 of everything written after the reserve."""
        return self._hash.digest()

    def fill_reserve(self, header: bytes) -> None:
        """Write the reserved bytes in front."""
        assert len(header) == self.reserve
        if self.backing is None:
            assert self._memory is not None
            self._buffer[self._start : self._start + self.reserve] = header
            return
        try:
            os.pwrite(self.backing.fd, header, self.backing.base)
        except OSError as error:
            raise failed(error, "spool an object") from error

    def view(self) -> memoryview:
        """All bytes, the reserve included, without a copy; release it before `discard`."""
        if self.backing is None:
            assert self._memory is not None
            return memoryview(self._buffer)[self._start : self._start + self.size].toreadonly()
        base = self.backing.base
        if self._map is None or len(self._map) != base - self._mapped_from + self.size:
            self._mapped_from = base // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
            length = base - self._mapped_from + self.size
            self._map = mmap.mmap(self.backing.fd, length, prot=mmap.PROT_READ, offset=self._mapped_from)
        return memoryview(self._map)[base - self._mapped_from :]

    def lend(self, size: int) -> Lent:
        """Lead and all bytes, and zeros up to a multiple of `size`, beginning on a page: the caller's from now on.

        Only for what is in memory; nothing is left here.
        """
        memory = self._memory
        assert memory is not None
        assert self.backing is None
        begin, end = memory.start, self._start + self.size
        whole = begin - (begin - end) // size * size
        self._buffer[end:whole] = bytes(whole - end)
        self._memory = None
        self.size = 0
        return Lent(memoryview(self._buffer)[begin:whole], memory, self._buffers)

    def taken(self) -> None:
        """Told by a store that has made the backing its own: it is no longer ours to drop."""
        self.backing = None
        self.discard()

    def discard(self) -> None:
        """Let go of the bytes, unless a store has taken them. May be called again."""
        self.size = 0
        if self._memory is not None:
            self._buffers.give(self._memory)
            self._memory = None
        if self._map is not None:
            with suppress(BufferError):  # somebody still looks at it: it goes with the last view
                self._map.close()
            self._map = None
        if self.backing is not None:
            backing, self.backing = self.backing, None
            backing.drop()

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()
