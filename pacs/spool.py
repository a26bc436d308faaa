"""Bytes on their way in: counted, hashed and kept in memory while small, then in a file beside the object store.

A spool starts with room for the preamble and File Meta, which are ours and written last (`pacs.ingest`); the digest
covers what follows.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import time
import uuid
from contextlib import suppress
from pathlib import Path

from pacs.errors import OutOfResources, TooLarge, Unavailable

IN_MEMORY_BYTES = 1 << 20
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


class Spool:
    """One arriving object. Not for several threads at once."""

    def __init__(self, folder: Path, *, reserve: int = 0, limit: int | None = None) -> None:
        """`reserve` bytes are left free in front; more than `limit` bytes behind them raise TooLarge."""
        self._folder = folder
        self._limit = limit
        self._hash = hashlib.sha256()
        self._memory: bytearray | None = bytearray(reserve)
        self._map: mmap.mmap | None = None
        self._fd = -1
        self.path: Path | None = None
        self.reserve = reserve
        self.size = reserve

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes; they may be reused afterwards. Raises TooLarge, OutOfResources or Unavailable."""
        view = memoryview(data).cast("B")
        if self._limit is not None and self.size - self.reserve + len(view) > self._limit:
            raise TooLarge(f"more than {self._limit} bytes")
        self._hash.update(view)
        if self._memory is not None:
            if self.size + len(view) <= IN_MEMORY_BYTES:
                self._memory += view
                self.size += len(view)
                return
            self._to_file(self._memory)
        self._write_file(view)
        self.size += len(view)

    def _to_file(self, memory: bytearray) -> None:
        try:
            self.path = self._folder / f"{uuid.uuid4().hex}{SUFFIX}"
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise failed(error, "spool an object") from error
        self._memory = None
        self._write_file(memoryview(memory))

    def _write_file(self, view: memoryview) -> None:
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise failed(error, "spool an object") from error

    def digest(self, suffix: bytes = b"") -> str:
        """The SHA-256, in hex, of everything written after the reserve, then `suffix`."""
        whole = self._hash.copy()
        whole.update(suffix)
        return whole.hexdigest()

    def fill_reserve(self, header: bytes) -> None:
        """Write the reserved bytes in front."""
        assert len(header) == self.reserve
        if self._memory is not None:
            self._memory[: self.reserve] = header
        else:
            try:
                os.pwrite(self._fd, header, 0)
            except OSError as error:
                raise failed(error, "spool an object") from error

    def view(self) -> memoryview:
        """All bytes, the reserve included, without a copy; release it before `discard`."""
        if self._memory is not None:
            return memoryview(self._memory).toreadonly()
        if self._map is None or len(self._map) != self.size:
            self._map = mmap.mmap(self._fd, self.size, prot=mmap.PROT_READ)
        return memoryview(self._map)

    def persist(self) -> Path:
        """The file that holds all bytes, once its data is on the disk; for a store that then renames it."""
        if self._memory is not None:
            self._to_file(self._memory)
        assert self.path is not None
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise failed(error, "store an object") from error
        return self.path

    def moved(self) -> None:
        """Told by a store that has renamed the file: it is no longer ours to remove."""
        self.path = None
        self.discard()

    def discard(self) -> None:
        """Let go of the bytes; a file that was not moved is removed. May be called again."""
        self._memory = bytearray() if self._memory is not None else None
        if self._map is not None:
            with suppress(BufferError):  # somebody still looks at it: it goes with the last view
                self._map.close()
            self._map = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            self.path = None

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()
