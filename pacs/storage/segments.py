"""Segments: files to which arriving objects are appended, many threads at once, and synced together.

A segment that is being written has a marker beside it, NAME.open: locked by its process, and telling up to where all is
known to be on the disk. A marker that nobody holds is what a crash left: the records behind its mark are verified by
`recover`. A segment without a marker is sealed: all of it is on the disk and nothing is added to it any more.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import secrets
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pacs import spool as spooling
from pacs.errors import OutOfResources, Unavailable
from pacs.spool import Lent
from pacs.storage import kernel, records
from pacs.storage.base import Unproven
from pacs.storage.records import BLOCK, HEADER_BYTES, Record
from pacs.storage.room import STEP_BYTES, Room
from pacs.storage.underway import Underway, Writes

log = logging.getLogger(__name__)

SUFFIX, MARKER, NEW_MARKER = ".seg", ".open", ".new"
MARK_BYTES = 32 << 20
"""How much may be durable without the marker saying so: what a start after a crash reads again."""

WORTH_STARTING = 128 << 10
"""From this length on the disk is told to begin before anybody waits for it."""

_READ = 1 << 20
_ZEROS = bytes(_READ)
_NEAR = 64 << 10


class Landing:
    """A record on its way to the disk. Whoever wants to read it or to see it durable waits for it to `land`.

    Safe from any thread.
    """

    __slots__ = ("_at", "_failure", "_length", "_lent", "_lock", "_segment", "_ticket", "_underway")

    def __init__(self, segment: Segment, at: int, length: int, lent: Lent, underway: Underway) -> None:
        self._segment = segment
        self._at = at
        self._length = length
        self._lent = lent
        self._underway: Underway | None = underway
        self._lock = threading.Lock()
        self._ticket = 0
        self._failure: OutOfResources | Unavailable | None = None

    def land(self) -> int:
        """Wait until it can be read; the ticket to wait for its durability with.

        Raises OutOfResources or Unavailable, each time; nothing of it is left then.
        """
        with self._lock:
            if self._underway is not None:
                try:
                    self._ticket = self._segment.landed(self._at, self._length, self._lent.view, self._underway)
                except (OutOfResources, Unavailable) as error:
                    self._failure = error
                finally:
                    self._underway = None
                    self._lent.give_back()
        if self._failure is not None:
            raise self._failure
        return self._ticket


class SegmentClosed(Exception):
    """The segment was sealed meanwhile: there is another one."""


class Segment:
    """One segment that is being written. Several threads may append; a region of unknown length wants it alone."""

    def __init__(
        self,
        folder: Path,
        make_durable: Callable[[], None] = lambda: None,
        *,
        direct: bool = False,
        end: int = 0,
        eager: bool = False,
        writes: Writes | None = None,
    ) -> None:
        """A new one, its name durable; `make_durable` is called before the marker moves. Raises OSError.

        With `direct` objects are written past the page cache, where the file system can; nothing is written ahead
        beyond `end` then, and as far as can be for who is `eager` (`pacs.storage.room`).
        """
        self._make_durable = make_durable
        self.nonce = secrets.token_bytes(records.NONCE_BYTES)
        self.name = f"{time.time_ns():016x}-{self.nonce.hex()[:8]}{SUFFIX}"
        self._path = folder / self.name
        self._marker_path = self._path.with_suffix(NEW_MARKER)
        self._marker = os.open(self._marker_path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Nobody may find a marker that is not locked yet: it would be taken for what a crash left.
            self._marker_path = self._marker_path.rename(marker_of(self._path))
            self.fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                _write_all(self.fd, [records.first_block(self.nonce)], 0)
                os.fdatasync(self.fd)
                sync_folder(folder)
                self._direct = _open_direct(self._path) if direct else None
            except BaseException:
                os.close(self.fd)
                self._path.unlink()
                raise
        except BaseException:
            os.close(self._marker)
            self._marker_path.unlink()
            raise
        self._writes = writes or Writes()
        self._changed = threading.Condition()
        self._room = Room(self.fd, self._direct, end, self._changed, eager=eager)
        self._tail = BLOCK
        self._writing: set[int] = set()  # where records begin that are not written yet
        self._unsynced: set[int] = set()  # where records begin that are written and wait for a sync
        self._unfiled: set[int] = set()  # where records begin that would have to be filed again
        self._started = self._finished = 0  # syncs, counted
        self._syncing = self._closed = False
        self._durable = self._marked = BLOCK
        self.failure: OutOfResources | Unavailable | None = None
        """Why nothing may be appended any more: a sync failed, and what the disk holds since is not known."""

    @property
    def tail(self) -> int:
        """Where the next record would begin."""
        return self._tail

    @property
    def wants_room(self) -> bool:
        """Whether something should be written ahead."""
        return not self._closed and self._room.lacks(self._tail)

    def write_ahead(self) -> float:
        """How many seconds it took to write a piece of zeros behind the records."""
        return self._room.write_ahead(lambda: self._tail)

    def append(
        self, lent: Lent, length: int, reserve: int, digest: bytes, *, redo: bool = False, later: bool = False
    ) -> tuple[Record, Landing | int]:
        """The record of an object, and the ticket to `wait` for its durability with; or what gives it, once it lands.

        What was lent are whole blocks: room for a header, the object of that `length`, zeros. The memory is given
        back. Who puts with `redo` or for `later` may find it on its way to where it is durable, else it is readable
        now. Raises SegmentClosed, with the memory still the caller's, OutOfResources or Unavailable; nothing is left
        then.
        """
        blocks = lent.view
        with self._changed:
            at = self._begin(len(blocks))
            if redo:
                self._unfiled.add(at)
            self._tail = at + len(blocks)
        with blocks[HEADER_BYTES : HEADER_BYTES + reserve] as head:
            header = records.header(self.nonce, at, length, head, digest, redo=redo)
        blocks[:HEADER_BYTES] = header
        record, direct = Record(at, length, reserve, 0, digest), self._direct
        if (redo or later) and direct is not None and (begun := self._writes.begin(direct, blocks, at)) is not None:
            return record, Landing(self, at, length, lent, begun)
        try:
            if direct is None:
                return record, self._write(blocks, at, length)
            flags = os.RWF_DSYNC if redo else 0
            write = partial(os.pwritev, direct, [blocks], at, flags)
            return record, self._written_past(write, blocks, at, length, durable=redo)
        finally:
            lent.give_back()

    def landed(self, at: int, length: int, blocks: memoryview, underway: Underway) -> int:
        """The ticket of a record whose write has been begun, once that has ended. Raises as `append`."""
        return self._written_past(underway.end, blocks, at, length, durable=True)

    def _written_past(
        self, write: Callable[[], int], blocks: memoryview, at: int, length: int, *, durable: bool
    ) -> int:
        """The ticket of a record that `write` tries to write past the page cache. Raises as `append`."""
        try:
            if write() == len(blocks):
                return self._written(at, durable=durable)
        except OSError as error:
            if error.errno == errno.EIO:
                self.failure = spooling.failed(error, "store an object")
            if error.errno != errno.EINVAL:  # this file system wants more than whole blocks
                raise self._lost(error, at, length) from error
        return self._write(blocks, at, length)

    def _write(self, blocks: memoryview, at: int, length: int) -> int:
        """The ticket of a record written through the page cache. Raises as `append`."""
        whole = HEADER_BYTES + length
        try:
            _write_all(self.fd, [blocks[:whole]], at)
        except OSError as error:
            raise self._lost(error, at, length) from error
        if whole >= WORTH_STARTING:
            kernel.start_writing(self.fd, at, whole)
        return self._written(at)

    def _lost(self, error: OSError, at: int, length: int) -> OutOfResources | Unavailable:
        """What a write that failed means; nothing of the record is left."""
        self._spoil(at, length)
        return spooling.failed(error, "store an object")

    def _begin(self, length: int) -> int:
        """Where a record of that many bytes begins, with room for it; the lock is held. Raises SegmentClosed."""
        while True:
            if self._closed:
                raise SegmentClosed
            at = self._tail
            self._room.have(at, at + length)
            if at == self._tail:  # nobody was quicker while zeros were waited for
                break
        self._writing.add(at)
        return at

    def _written(self, at: int, *, durable: bool = False) -> int:
        """The ticket of a record that has been written whole; what is `durable` waits for nothing."""
        with self._changed:
            self._writing.discard(at)
            if durable:
                self._durable = max(self._durable, self._unproven())
                self._mark()
                ticket = 0
            else:
                self._unsynced.add(at)
                ticket = self._started + 1  # a sync that runs now may have begun before the last byte
            self._changed.notify_all()
            return ticket

    def _unproven(self) -> int:
        """Where the first record begins that may not be on the disk, or the next one would; with the lock held."""
        return min(min(self._writing, default=self._tail), min(self._unsynced, default=self._tail))

    def _spoil(self, at: int, length: int) -> None:
        """Leave nothing of a record that could not be written; a segment where even that fails is not used again."""
        try:
            erase(self.fd, at, records.aligned(HEADER_BYTES + length))
        except OSError as error:
            self.failure = spooling.failed(error, "store an object")
        self.filed(at)
        with self._changed:
            self._writing.discard(at)
            self._changed.notify_all()

    def filed(self, at: int) -> None:
        """Told that the record which begins there need not be filed again, once the index is durable."""
        if at in self._unfiled:
            with self._changed:
                self._unfiled.discard(at)
                self._changed.notify_all()

    @property
    def direct(self) -> int | None:
        """What writes past the page cache, None where the file system cannot."""
        return self._direct

    def begin_strip(self, length: int) -> int:
        """Where blocks begin that are left to one writer (`pacs.storage.strips`). Raises SegmentClosed."""
        with self._changed:
            at = self._begin(length)
            self._tail = at + length
            return at

    def end_strip(self, at: int, used: int, end: int) -> bool:
        """Told that records up to `used` are durable and filed; whether what is behind them is given to others."""
        with self._changed:
            last = self._tail == end
            if last:
                self._tail = used
            self._writing.discard(at)
            self._durable = max(self._durable, self._unproven())
            self._mark()
            self._changed.notify_all()
            return last or used == end

    def region(self) -> Region:
        """Room for one object of unknown length, with nobody else appending until it is finished or dropped."""
        with self._changed:
            return Region(self, self._begin(HEADER_BYTES))

    def finish(self, at: int, head: bytes, length: int, digest: bytes, *, redo: bool = False) -> tuple[Record, int]:
        """The record of a region whose object has been written behind its first bytes, and the ticket to wait with."""
        try:
            header = records.header(self.nonce, at, length, head, digest, redo=redo)
            _write_all(self.fd, [header, head], at)
        except OSError as error:
            self.drop(at)
            raise spooling.failed(error, "store an object") from error
        with self._changed:
            if redo:
                self._unfiled.add(at)
            self._tail = records.aligned(at + HEADER_BYTES + length)
        return Record(at, length, len(head), 0, digest), self._written(at)

    def drop(self, at: int) -> None:
        """Forget a region and what was written to it."""
        with suppress(OSError):
            os.ftruncate(self.fd, at)
        with self._changed:
            self._room.forget(at)
            self._writing.discard(at)
            self._changed.notify_all()

    def set_aside(self, end: int) -> None:
        """Have blocks for a region that grows to `end`."""
        with self._changed:
            self._room.have(self._tail, end)

    def wait(self, ticket: int) -> None:
        """Return once a sync has ended that began after the ticket was given; whoever comes first does it for all.

        Raises OutOfResources or Unavailable when it failed: what was not durable before never counts as durable.
        """
        with self._changed:
            while self._finished < ticket:
                if self.failure is not None:
                    raise type(self.failure)(self.failure.reason)
                if self._syncing:
                    self._changed.wait()
                    continue
                self._syncing = True
                self._started += 1
                mine = self._started
                proven = min(self._writing, default=self._tail)
                covered = set(self._unsynced)
                self._changed.release()
                failure: OutOfResources | Unavailable | None = None
                try:
                    os.fdatasync(self.fd)
                except OSError as error:
                    failure = spooling.failed(error, "sync an object")
                finally:
                    self._changed.acquire()
                    self._syncing = False
                    self._changed.notify_all()
                if failure is None:
                    self._finished = mine
                    self._unsynced -= covered
                    self._durable = max(self._durable, proven)
                    self._mark()
                else:
                    self.failure = failure

    def _mark(self) -> None:
        """Let the marker tell how far all is durable, the rows included; with the lock held."""
        proven = min(self._durable, min(self._unfiled, default=self._durable))
        if self.failure is None and proven >= self._marked + MARK_BYTES:
            with suppress(OSError, Unavailable, OutOfResources):  # only costs reading more after a crash
                self._make_durable()  # of what was filed: looked at before, done after
                os.pwrite(self._marker, marker_text(proven), 0)
                self._marked = proven

    def settle(self, end: int) -> None:
        """Return when all up to `end` is durable."""
        if self._durable < end:
            with self._changed:
                ticket = self._started + 1
            self.wait(ticket)

    @property
    def writing(self) -> int:
        """How many records are being written."""
        return len(self._writing)

    @property
    def idle(self) -> bool:
        """Whether nothing in it is being written or waits to be filed."""
        return not self._writing and not self._unfiled

    def readable_end(self) -> int:
        """Up to where every record has been written whole."""
        with self._changed:
            return min(self._writing, default=self._tail)

    def seal(self, patience_s: float = 10.0) -> None:
        """Make everything durable and add nothing any more.

        Raises Unavailable or OutOfResources where that fails, or somebody is still writing; the marker stays then, and
        the next start verifies.
        """
        with self._changed:
            self._closed = True
            self._room.close()
            if not self._changed.wait_for(lambda: not self._writing and not self._unfiled, patience_s):
                raise Unavailable("an object is still being written or filed")
            ticket = self._started + 1
        self.wait(ticket)
        self._make_durable()
        try:
            size = min(os.fstat(self.fd).st_size, self._tail)
            os.ftruncate(self.fd, size)  # gives back what was set aside or written ahead
            if next(walk_records(self.fd, self.nonce, size), None) is None:
                self._path.unlink()
            self._marker_path.unlink()
            sync_folder(self._path.parent)
        except OSError as error:
            raise spooling.failed(error, "seal a segment") from error
        os.close(self.fd)
        if self._direct is not None:
            os.close(self._direct)
        os.close(self._marker)


@dataclass(slots=True)
class Region:
    """Where in a segment an object of unknown length is being written; what a spool writes to."""

    segment: Segment
    at: int
    started: int = 0

    @property
    def fd(self) -> int:
        """The segment's descriptor."""
        return self.segment.fd

    @property
    def base(self) -> int:
        """Where the object begins in it."""
        return self.at + HEADER_BYTES

    def grown(self, size: int) -> None:
        """Told how long the object is by now: blocks are set aside, and the disk begins to write what is there."""
        self.segment.set_aside(self.base + size + STEP_BYTES // 2)
        whole = size // _READ * _READ
        if whole > self.started:
            kernel.start_writing(self.fd, self.base + self.started, whole - self.started)
            self.started = whole


def marker_of(path: Path) -> Path:
    """The marker beside a segment."""
    return path.with_suffix(MARKER)


def marker_text(durable: int) -> bytes:
    """What a marker holds: up to where all is durable, with a checksum."""
    number = b"%020d" % durable
    return b"%s %08x\n" % (number, zlib.crc32(number))


def marked(text: bytes) -> int:
    """Up to where a marker says that all is durable; the first record's place where it says nothing sound."""
    number, _, check = text.strip().partition(b" ")
    if number.isdigit() and check == b"%08x" % zlib.crc32(number):
        return max(int(number), BLOCK)
    return BLOCK


def walk_records(fd: int, nonce: bytes, end: int, start: int = BLOCK) -> Iterator[Record]:
    """The living records whose headers lie in a range of a segment, from block to block; holes are passed over."""
    at, wanted = start, HEADER_BYTES
    held, since = b"", start
    while at < end:
        raw = held[at - since : at - since + HEADER_BYTES]
        if len(raw) < HEADER_BYTES:
            held, since = os.pread(fd, wanted, at), at
            raw = held[:HEADER_BYTES]
        record = records.parse(raw, nonce, at)
        if record is not None:
            # Small objects lie so near that the disk gives many headers for the time of one.
            wanted = _READ if record.length <= _NEAR else HEADER_BYTES
            if record.alive:
                yield record
            at = record.end
            continue
        at = _next_data(fd, at + BLOCK, end)


def _next_data(fd: int, at: int, end: int) -> int:
    """The next block at or behind `at` that may hold anything; holes are passed over, and zeros written ahead."""
    wanted = BLOCK  # most often there is something at once
    while at < end:
        try:
            at = max(at, os.lseek(fd, at, os.SEEK_DATA) // BLOCK * BLOCK)
        except OSError:  # no data follows
            return end
        piece = os.pread(fd, wanted, at)
        if not piece:
            return end
        if piece != _ZEROS[: len(piece)]:  # compared at once: zeros written ahead may be a whole segment long
            return at + next(i for i in range(0, len(piece), BLOCK) if piece[i : i + BLOCK].strip(b"\0"))
        at, wanted = at + len(piece), _READ
    return end


def erase(fd: int, at: int, length: int) -> None:
    """Make a record of that place and length dead and give its blocks back, where the file system can."""
    if os.fstat(fd).st_size > at:
        _write_all(fd, [records.DEAD], at)  # at once and whole, unlike the hole
        kernel.punch_hole(fd, at, length)


def recover(folder: Path, name: str) -> Unproven:
    """The records behind the mark of a segment, verified; what is not sound is erased. May be done again.

    Raises OSError.
    """
    path = folder / name
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return Unproven(name, 0, frozenset())
    try:
        nonce = records.nonce_of(os.pread(fd, BLOCK, 0))
        if nonce is None:
            return Unproven(name, 0, frozenset())
        size = os.fstat(fd).st_size
        since = min(marked(marker_of(path).read_bytes()), records.aligned(size))
        sound: set[tuple[int, int]] = set()
        redo: list[tuple[int, int]] = []
        proven = since
        torn = 0
        for record in walk_records(fd, nonce, size, since):
            if record.at > proven:
                erase(fd, proven, record.at - proven)
            if _is_sound(fd, record):
                sound.add((record.offset, record.length))
                if record.redo:
                    redo.append((record.offset, record.length))
            else:
                erase(fd, record.at, record.end - record.at)
                torn += 1
            proven = record.end
        if size > proven:
            os.ftruncate(fd, proven)
        os.fdatasync(fd)
        if torn:
            log.error("segment %s: %d objects were not written to their end and are removed", name, torn)
        log.info("segment %s: %d objects verified after a crash", name, len(sound))
        return Unproven(name, since, frozenset(sound), tuple(redo))
    finally:
        os.close(fd)


def _is_sound(fd: int, record: Record) -> bool:
    check = records.Check(record)
    at, left = record.offset, record.length
    while left and (piece := os.pread(fd, min(left, _READ), at)):
        check.feed(piece)
        at, left = at + len(piece), left - len(piece)
    return check.passed()


def _open_direct(path: Path) -> int | None:
    """A descriptor that writes past the page cache, None where the file system has none."""
    try:
        return os.open(path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return None
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, parts: list[bytes | memoryview], at: int) -> None:
    """Write the parts one behind the other, from `at` on."""
    done = os.pwritev(fd, parts, at)
    whole = sum(map(len, parts))
    if done == whole:
        return
    for part in parts:
        view = memoryview(part)
        skip = min(done, len(view))
        view, done, at = view[skip:], done - skip, at + skip
        while view:
            count = os.pwrite(fd, view, at)
            view, at = view[count:], at + count
