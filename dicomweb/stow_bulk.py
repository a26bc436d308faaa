"""Bulk data of a store request (PS3.18 10.5.1): kept on disk until the instances are put together out of it.

Values go into one temporary file as they arrive, so that a video of gigabytes costs no memory; each is read back in
pieces while its data set is written.
"""

from __future__ import annotations

import io
import mmap
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pacs.errors import TooLarge
from pacs.spool import failed

PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Bulk:
    """One value: its media type, the transfer syntax its part names or "", and where its bytes lie."""

    heap: Heap
    media_type: str
    transfer_syntax_uid: str
    start: int
    length: int

    def reader(self, skip: int = 0, *, even: bool = False) -> io.BufferedReader:
        """Its bytes after `skip` as a seekable file; with `even`, a zero is added to an odd number of them."""
        pad = (self.length - skip) % 2 if even else 0
        return io.BufferedReader(_Window(self.heap, self.start + skip, self.length - skip, pad), PIECE_BYTES)

    def view(self) -> memoryview:
        """Its bytes; only those that are looked at are read."""
        return self.heap.view()[self.start : self.start + self.length]


class Heap:
    """The values of one request. Not for several threads at once; to be closed."""

    def __init__(self, folder: Path, limit: int) -> None:
        """A file without a name in `folder`; more than `limit` bytes raise TooLarge."""
        self._limit = limit
        self._map: mmap.mmap | None = None
        self.size = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  (closed by `close`)
        except OSError as error:
            raise failed(error, "spool a request") from error

    @property
    def fd(self) -> int:
        """The descriptor of the file."""
        return self._file.fileno()

    def write(self, data: memoryview) -> None:
        """Append bytes. Raises TooLarge, OutOfResources or Unavailable."""
        self.size += len(data)
        if self.size > self._limit:
            raise TooLarge(f"bulk data of more than {self._limit} bytes")
        try:
            while data:
                data = data[os.write(self.fd, data) :]
        except OSError as error:
            raise failed(error, "spool a request") from error

    def view(self) -> memoryview:
        """All bytes, once they are complete."""
        if not self.size:
            return memoryview(b"")
        if self._map is None:
            self._map = mmap.mmap(self.fd, self.size, prot=mmap.PROT_READ)
        return memoryview(self._map)

    def close(self) -> None:
        """Let go of the bytes."""
        self._file.close()  # the mapping goes with the last view of it


class _Window(io.RawIOBase):
    """A part of a heap, followed by `pad` zeros, as a file."""

    def __init__(self, heap: Heap, start: int, length: int, pad: int) -> None:
        self._heap = heap
        self._start = start
        self._length = length
        self._end = length + pad
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._end}[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._at >= self._length:
            count = max(0, min(len(buffer), self._end - self._at))
            buffer[:count] = bytes(count)
        else:
            wanted = min(len(buffer), self._length - self._at)
            # A slice of a view is the memory itself, a slice of a bytearray (`io.RawIOBase.readall`) would be a copy.
            count = os.preadv(self._heap.fd, [memoryview(buffer)[:wanted]], self._start + self._at)
        self._at += count
        return count


def total(values: Sequence[Bulk]) -> int:
    """How many bytes these values have together."""
    return sum(each.length for each in values)
