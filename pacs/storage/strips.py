"""Strips: stretches of a segment that one writer fills by himself, record by record, without asking anybody."""

from __future__ import annotations

import errno
from contextlib import suppress
from typing import TYPE_CHECKING

from pacs import spool as spooling
from pacs.storage import kernel
from pacs.storage.segments import Segment, erase

if TYPE_CHECKING:
    from pacs.storage.files import FileStore


class Strip:
    """Blocks from `at` to `end` of a segment, all zeros; what is written there counts as durable once it is closed.

    Its writer writes past the page cache, durably each time, and files what he wrote before he closes it: until then
    a start after a crash verifies the whole of it.
    """

    def __init__(self, store: FileStore, segment: Segment, fd: int, length: int) -> None:
        """`fd` writes to the segment past the page cache. Raises SegmentClosed, OutOfResources or Unavailable."""
        self._store = store
        self._segment = segment
        self.fd = fd
        self.at = segment.begin_strip(length)
        self.end = self.at + length

    @property
    def name(self) -> str:
        """The key of the objects in it."""
        return self._segment.name

    @property
    def nonce(self) -> bytes:
        """What the headers of its records carry."""
        return self._segment.nonce

    def erase(self, at: int, length: int) -> None:
        """Leave nothing of a record that could not be filed; where even that fails, the segment is not used again."""
        try:
            erase(self._segment.fd, at, length)
        except OSError as error:
            self._segment.failure = spooling.failed(error, "store an object")

    def broken(self) -> None:
        """Told that the disk failed: what it holds of the segment is not known, which is not used again."""
        self._segment.failure = spooling.failed(OSError(errno.EIO, "failed"), "store an object")

    def close(self, used: int) -> None:
        """Give back what is behind `used`. Once; all in it is filed, or erased."""
        if not self._segment.end_strip(self.at, used, self.end):
            with suppress(OSError):  # costs room on the disk, nothing else
                kernel.punch_hole(self._segment.fd, used, self.end - used)
        self._store.tidy()
