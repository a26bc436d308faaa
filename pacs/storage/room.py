"""Room in a segment ahead of its records: blocks set aside, and blocks that hold zeros already.

A write into blocks that have been written before changes no metadata of the file system: to make it durable the disk
has to take the bytes, and nothing else. So a thread writes zeros ahead of where records end, more of them the more
arrives, and gives way on a disk that has enough to do.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from pacs.buffers import HUGE_PAGE, Memory
from pacs.storage import kernel
from pacs.storage.records import BLOCK, aligned

STEP_BYTES = 16 << 20
"""How much is set aside at a time where nothing is written ahead."""

PIECE_BYTES = 4 << 20
"""How much is written ahead at a time."""

MOST_BYTES = 64 << 20
"""So far ahead of the last record at most, and no further than four times what has come."""

ROOMY_BYTES = 1 << 30
"""With less than that free on the disk nothing is set aside: the index needs its last blocks, too."""

SLOW_S = 0.04
"""A disk that takes longer for a piece is left to those who store, until for a moment nobody does."""

_ZEROS = Memory(HUGE_PAGE)
"""Never written to: the kernel has one page of zeros for all who ask."""


class Room:
    """The room of one segment. Its methods want the segment's lock held, but for `write_ahead`, which takes it."""

    def __init__(self, fd: int, direct: int | None, end: int, changed: threading.Condition, *, eager: bool) -> None:
        """`direct` is a descriptor that writes past the page cache, None where nothing can be written ahead.

        Nothing is beyond `end`; who is `eager` goes as far ahead as can be from the start.
        """
        self._fd = fd
        self._direct = direct
        self._end = aligned(end)
        self._changed = changed
        self._eager = eager
        self._aside = BLOCK
        self._ready = BLOCK  # blocks up to here hold zeros, or records
        self._claimed = 0  # up to here zeros are being written now
        zeros = memoryview(_ZEROS.map)[_ZEROS.start : _ZEROS.start + HUGE_PAGE]
        self._piece = [zeros] * (PIECE_BYTES // HUGE_PAGE) if direct is not None else []

    def have(self, at: int, end: int) -> None:
        """Have blocks from `at` to `end`, where a record or a region begins; the write itself tells of a full disk."""
        while end > self._ready and at < self._claimed:
            self._changed.wait()  # zeros on their way might come after the record
        if end > max(self._aside, self._ready):
            at = max(at, self._aside)
            wanted = max(STEP_BYTES, aligned(end - at))
            if self._roomy():
                with suppress(OSError):
                    kernel.preallocate(self._fd, at, wanted)
            self._aside = at + wanted

    def forget(self, at: int) -> None:
        """Told that the file ends at `at` now."""
        self._aside = self._ready = at

    def lacks(self, tail: int) -> bool:
        """Whether something should be written ahead of the records that end at `tail`."""
        wanted = MOST_BYTES if self._eager else min(4 * tail, MOST_BYTES)
        return bool(self._piece) and not self._claimed and self._ready < min(tail + wanted, self._end)

    def close(self) -> None:
        """Return when nothing is being written ahead; nothing will be."""
        self._piece = []
        while self._claimed:
            self._changed.wait()

    def _roomy(self) -> bool:
        try:
            disk = os.fstatvfs(self._fd)
        except OSError:
            return False
        return disk.f_bavail * disk.f_frsize >= ROOMY_BYTES

    def write_ahead(self, tail: Callable[[], int]) -> float:
        """How many seconds it took to write a piece of zeros; where that fails, nothing is tried again."""
        begun = time.monotonic()
        with self._changed:
            piece = self._piece
            if not piece:
                return 0.0
            at = max(self._ready, tail())
            self._claimed = end = min(at + PIECE_BYTES, max(self._end, at + BLOCK))
        done = False
        try:
            if self._direct is not None and self._roomy():
                kernel.preallocate(self._direct, at, end - at)
                done = _write(self._direct, piece, at, end)
        except OSError:
            pass  # the disk is full or broken: those who store are told
        finally:
            with self._changed:
                self._claimed = 0
                if done:
                    self._ready = end
                else:
                    self._piece = []
                self._changed.notify_all()
        return time.monotonic() - begun


def _write(direct: int, piece: list[memoryview], at: int, end: int) -> bool:
    parts, left = list[memoryview](), end - at
    while left:
        parts.append(piece[len(parts)][:left])
        left -= len(parts[-1])
    written = os.pwritev(direct, parts, at)
    os.fdatasync(direct)
    return written == end - at


class Roomed(Protocol):
    """A segment, as whoever writes ahead in it sees it."""

    @property
    def tail(self) -> int:
        """Where its records end."""

    @property
    def wants_room(self) -> bool:
        """Whether something should be written ahead."""

    def write_ahead(self) -> float:
        """How many seconds it took to write a piece."""


class Ahead:
    """A thread that writes ahead in the segment that it was last told of; there is none until then."""

    def __init__(self) -> None:
        self._told = threading.Event()
        self._closed = threading.Event()
        self._segment: Roomed | None = None
        self._thread: threading.Thread | None = None

    def look(self, segment: Roomed) -> None:
        """Told of a segment that wants room; by one thread at a time."""
        self._segment = segment
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="room", daemon=True)
            self._thread.start()
        self._told.set()

    def close(self) -> None:
        """Return when the thread has ended, after the piece in hand."""
        self._closed.set()
        self._told.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while self._told.wait():
            self._told.clear()
            while not self._closed.is_set() and (segment := self._segment) is not None and segment.wants_room:
                before = segment.tail
                if segment.write_ahead() > SLOW_S:
                    while (now := segment.tail) != before and not self._closed.wait(SLOW_S):
                        before = now
            if self._closed.is_set():
                return
