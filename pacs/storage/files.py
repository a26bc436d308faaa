"""Objects on local files, in segments that many share; small ones, which have names, in files of their own.

An arriving object of moderate size is appended to the segment that all threads share, and one sync serves all that
wait; a large one is written while it arrives, to a segment that it has for itself meanwhile. Deleting punches a hole;
a segment in which nothing lives is removed. Several processes may use one folder: each writes segments of its own.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pacs import spool as spooling
from pacs.buffers import Buffers
from pacs.errors import NotFound, OutOfResources, Unavailable
from pacs.spool import Backing, Spool
from pacs.storage import records, segments
from pacs.storage.base import CHUNK, Locator, Placed, Recorded, Unproven, small_name, span
from pacs.storage.records import ALIVE, BLOCK, HEADER_BYTES, Record
from pacs.storage.room import Ahead
from pacs.storage.segments import MARKER, Landing, Region, Segment, SegmentClosed, sync_folder
from pacs.storage.strips import Strip
from pacs.storage.underway import Writes

log = logging.getLogger(__name__)

SEGMENT_BYTES = 256 << 20
"""A segment is sealed when it has become this long; one large object may make it longer."""

_IDLE_LANES = 4
_OPEN_FILES = 128
_FETCHED = 128 << 10
_VERIFIED_AT_ONCE = 4
_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


@dataclass(frozen=True, slots=True)
class InSegment(Placed):
    """An object in a segment, at a place of its own: `withdraw` removes it."""

    store: FileStore
    segment: Segment
    landing: Landing | int
    """The ticket of its sync, or what gives it."""

    def land(self) -> None:
        """Return when it can be read."""
        self._ticket()

    def wait(self) -> None:
        """Return when a sync has covered it."""
        self.segment.wait(self._ticket())
        self.store.tidy()

    def filed(self) -> None:
        """Its rows are committed: once the index is durable, a crash cannot take them."""
        with suppress(OutOfResources, Unavailable):  # nothing of it is left
            self._ticket()
        self.segment.filed(self.locator.offset - HEADER_BYTES)
        self.store.tidy()

    def withdraw(self) -> None:
        """Remove it; it comes back with a crash, as an orphan, unless another sync follows."""
        with suppress(OutOfResources, Unavailable):
            self._ticket()
            self.store.forget(self.locator)
        self.filed()

    def _ticket(self) -> int:
        return self.landing if isinstance(self.landing, int) else self.landing.land()


class Lane(Region):
    """A region for one large object, in a segment that goes back to the others when it is done."""

    __slots__ = ("_store",)

    def __init__(self, store: FileStore, segment: Segment) -> None:
        region = segment.region()
        super().__init__(segment, region.at)
        self._store = store

    def drop(self) -> None:
        """Forget what was written."""
        self.segment.drop(self.at)
        self._store.give_back(self.segment)


class _File:
    """A segment opened for reading; closed when nobody has it any more."""

    __slots__ = ("fd",)

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        with suppress(AttributeError):
            os.close(self.fd)


class FileStore:
    """Objects under `root/objects`, small ones under `root/small`, arriving bytes under `root/spool`."""

    keyed = False
    """Objects lie in segments, one behind the other."""

    def __init__(
        self, root: Path, segment_bytes: int = SEGMENT_BYTES, *, alone: bool = True, direct: bool = True
    ) -> None:
        """With `alone` what a crash left in the spool is swept away: nobody else may be using it.

        Without `direct` everything goes through the page cache, as on a file system that has nothing else.
        """
        self._objects, self._small, self._spool = (root / name for name in ("objects", "small", "spool"))
        self._segment_bytes = segment_bytes
        try:
            for folder in (self._objects, self._small, self._spool):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            sync_folder(root)
            sync_folder(root.resolve().parent)
        except OSError as error:
            raise spooling.failed(error, f"use the folder {root}") from error
        if alone:
            spooling.sweep(self._spool)
        self._lock = threading.Lock()
        self._buffers = Buffers(spooling.MEMORY_BYTES)
        self._writes = Writes()
        self._direct = direct
        self._ahead = Ahead()
        self._make_durable: Callable[[], None] = lambda: None
        self._shared: Segment | None = None
        self._lanes: deque[Segment] = deque()
        self._retired: deque[Segment] = deque()
        self._active: dict[str, Segment] = {}
        self._deleting = threading.Lock()
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._crashed = [name for name in self._marked() if not self._is_held(name)]
        self._claims: list[int] = []

    # What arrives

    @property
    def spool_dir(self) -> Path:
        """The spool folder."""
        return self._spool

    def spool(self, reserve: int, limit: int | None) -> Spool:
        """A spool that writes straight to a segment once it is too large for memory."""
        return Spool(
            self._spool, reserve=reserve, lead=HEADER_BYTES, limit=limit, backing=self._lane, buffers=self._buffers
        )

    @property
    def arriving(self) -> int:
        """How many objects are being written to segments now."""
        return sum(segment.writing for segment in list(self._active.values()))

    def _lane(self) -> Backing:
        with self._lock:
            segment = self._lanes.popleft() if self._lanes else None
        return Lane(self, segment or self._new_segment())

    def _new_segment(self, *, eager: bool = False, direct: bool = False) -> Segment:
        try:
            segment = Segment(
                self._objects, lambda: self._make_durable(), direct=direct, end=self._segment_bytes, eager=eager,
                writes=self._writes,
            )  # fmt: skip
        except OSError as error:
            raise spooling.failed(error, "store an object") from error
        self._active[segment.name] = segment
        return segment

    def give_back(self, segment: Segment) -> None:
        """Let others have a lane's segment, or retire it when it is full or broken, or there are enough."""
        with self._lock:
            keep = self._usable(segment) and len(self._lanes) < _IDLE_LANES
            (self._lanes if keep else self._retired).append(segment)
        self.tidy()

    def tidy(self) -> None:
        """Seal the segments to which nothing is added, once all in them is filed."""
        if self._retired:
            with self._lock:
                done = [segment for segment in self._retired if segment.idle]
                for segment in done:
                    self._retired.remove(segment)
            for segment in done:
                self._seal(segment)

    def _usable(self, segment: Segment) -> bool:
        return segment.failure is None and segment.tail < self._segment_bytes

    def _seal(self, segment: Segment) -> None:
        try:
            segment.seal()
        except (Unavailable, OutOfResources) as error:
            log.error("segment %s: %s; the next start verifies it", segment.name, error)
        self._active.pop(segment.name, None)

    def redoes(self, make_durable: Callable[[], None]) -> bool:
        """Yes: the records behind the mark are the log from which the index is made whole."""
        self._make_durable = make_durable
        return True

    def put(self, key: str, spool: Spool, *, redo: bool = False, later: bool = False) -> Placed:
        """Append the bytes to a segment, or finish the one they are in already."""
        landing: Landing | int
        if isinstance(spool.backing, Lane) and spool.backing.segment.name in self._active:
            segment, (record, landing) = self._finish(spool, spool.backing, redo)
        else:
            assert spool.lead == HEADER_BYTES, "a spool of this store"
            segment, (record, landing) = self._append(spool, redo, later)
        return InSegment(Locator(segment.name, record.offset, record.length), self, segment, landing)

    def _append(self, spool: Spool, redo: bool, later: bool) -> tuple[Segment, tuple[Record, Landing | int]]:
        size, digest = spool.size, spool.plain_digest()
        lent = spool.lend(BLOCK)
        while True:
            segment = self._current()
            try:
                return segment, segment.append(lent, size, spool.reserve, digest, redo=redo, later=later)
            except SegmentClosed:
                continue

    def _current(self) -> Segment:
        """The segment that all threads append to now. Raises OutOfResources or Unavailable."""
        with self._lock:
            segment = self._shared
            if segment is None or not self._usable(segment):
                if segment is not None:
                    self._retired.append(segment)
                self._shared = None
                segment = self._shared = self._new_segment(eager=segment is not None, direct=self._direct)
            if segment.wants_room:
                self._ahead.look(segment)
            return segment

    def strip(self, length: int) -> Strip | None:
        """Blocks of that length for one writer; None where nothing can be written past the page cache.

        Raises OutOfResources or Unavailable.
        """
        while True:
            segment = self._current()
            fd = segment.direct
            if fd is None:
                return None
            try:
                return Strip(self, segment, fd, length)
            except SegmentClosed:
                continue

    @property
    def buffers(self) -> Buffers:
        """Memory for arriving objects, which begins where a write past the page cache may."""
        return self._buffers

    @property
    def writes(self) -> Writes:
        """What begins writes past the page cache."""
        return self._writes

    def _finish(self, spool: Spool, lane: Lane, redo: bool) -> tuple[Segment, tuple[Record, int]]:
        try:
            head = os.pread(lane.fd, spool.reserve, lane.base)
        except OSError as error:
            raise spooling.failed(error, "store an object") from error
        size, digest = spool.size, spool.plain_digest()
        spool.taken()
        try:
            return lane.segment, lane.segment.finish(lane.at, head, size, digest, redo=redo)
        finally:
            self.give_back(lane.segment)

    def settle(self, locator: Locator) -> None:
        """Return when the bytes are on the disk, whichever process has put them."""
        segment = self._active.get(locator.object_key)
        if segment is not None:
            segment.settle(locator.offset + locator.length)
            return
        path = self._objects / locator.object_key
        if segments.marker_of(path).exists():
            try:
                _sync_file(path)
            except FileNotFoundError:
                return
            except OSError as error:
                raise spooling.failed(error, "sync an object") from error

    # What is there

    def _open(self, name: str) -> _File:
        with self._lock:
            found = self._files.get(name)
            if found is not None:
                self._files.move_to_end(name)
                return found
        try:
            opened = _File(self._objects / name)
        except _MISSING:
            raise NotFound("no such object", about=name) from None
        except OSError as error:
            raise _unreadable(error) from error
        with self._lock:
            self._files[name] = opened
            if len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)
        return opened

    def read(self, locator: Locator, offset: int = 0, length: int | None = None) -> bytes:
        """`length` bytes from `offset` on."""
        return self._read(self._open(locator.object_key), locator, *span(locator, offset, length))

    @staticmethod
    def _read(file: _File, locator: Locator, offset: int, length: int) -> bytes:
        fd, at = file.fd, locator.offset + offset
        try:
            data = os.pread(fd, length, at) if length else b""
            while 0 < len(data) < length and (more := os.pread(fd, length - len(data), at + len(data))):
                data += more
            # Looked at last: whoever deletes it, marks it first.
            alive = os.pread(fd, len(ALIVE), locator.offset - HEADER_BYTES) == ALIVE
        except (OSError, ValueError) as error:
            raise _unreadable(error) from error
        if not alive:
            raise NotFound("no such object", about=locator.object_key)
        return data

    def soon(self, locators: Sequence[Locator]) -> None:
        """Have the kernel read them into its page cache, neighbours at once."""
        name, begin, end = "", 0, 0
        for each in (*locators, None):
            if each is not None and each.object_key == name and 0 <= each.offset - HEADER_BYTES - end < BLOCK:
                end = each.offset + each.length
                continue
            if name:
                self._fetch(name, begin, end)
            if each is not None:
                name, begin, end = each.object_key, each.offset - HEADER_BYTES, each.offset + each.length

    def _fetch(self, name: str, begin: int, end: int) -> None:
        with suppress(NotFound, Unavailable, OSError):  # whoever reads it will say so
            file = self._open(name)
            for at in range(begin, end, _FETCHED):  # the kernel cuts longer ranges short
                os.posix_fadvise(file.fd, at, min(_FETCHED, end - at), os.POSIX_FADV_WILLNEED)

    def chunks(
        self, locator: Locator, offset: int = 0, length: int | None = None, size: int = CHUNK
    ) -> Iterator[bytes]:
        """The same range in pieces."""
        file = self._open(locator.object_key)
        offset, length = span(locator, offset, length)
        return self._pieces(self._read(file, locator, offset, min(size, length)), file, locator, (offset, length, size))

    def _pieces(self, piece: bytes, file: _File, locator: Locator, where: tuple[int, int, int]) -> Iterator[bytes]:
        offset, length, size = where
        while piece:
            yield piece
            offset, length = offset + len(piece), length - len(piece)
            piece = self._read(file, locator, offset, min(size, length)) if length else b""

    def _record(self, fd: int, locator: Locator) -> Record | None:
        """The record of an object, alive or dead; None where there is none of its length."""
        nonce = records.nonce_of(os.pread(fd, BLOCK, 0))
        at = locator.offset - HEADER_BYTES
        if nonce is None or at < BLOCK:
            return None
        found = records.parse(os.pread(fd, HEADER_BYTES, at), nonce, at)
        return found if found is not None and found.length == locator.length else None

    def holds(self, locator: Locator) -> bool:
        """Whether a living record of that length is there."""
        try:
            fd = self._open(locator.object_key).fd
            found = self._record(fd, locator)
            whole = os.fstat(fd).st_size >= locator.offset + locator.length
        except NotFound:
            return False
        except OSError as error:
            raise _unreadable(error) from error
        return found is not None and found.alive and whole

    def recorded(self, locator: Locator) -> Recorded:
        """What the header of the object's record says."""
        try:
            found = self._record(self._open(locator.object_key).fd, locator)
        except OSError as error:
            raise _unreadable(error) from error
        if found is None:
            raise NotFound("no such object", about=locator.object_key)
        return Recorded(found.reserve_check, found.digest)

    def walk(self, prefix: str = "") -> Iterator[Locator]:
        """Every living record of every segment whose name starts with `prefix`."""
        for name in sorted(os.listdir(self._objects)):
            if not name.endswith(segments.SUFFIX) or not name.startswith(prefix):
                continue
            with suppress(NotFound):
                yield from self._walk(name)

    def _walk(self, name: str) -> Iterator[Locator]:
        file = self._open(name)
        nonce = records.nonce_of(os.pread(file.fd, BLOCK, 0))
        if nonce is not None:
            active = self._active.get(name)
            end = os.fstat(file.fd).st_size if active is None else active.readable_end()
            for record in segments.walk_records(file.fd, nonce, end):
                yield Locator(name, record.offset, record.length)

    def sealed(self) -> Iterator[list[Locator]]:
        """The living records of each segment that nobody writes and no crash left, the newest segment first."""
        names = set(os.listdir(self._objects))
        for name in sorted(names, reverse=True):
            if name.endswith(segments.SUFFIX) and not segments.marker_of(self._objects / name).exists():
                with suppress(NotFound):
                    yield list(self._walk(name))

    # What goes

    def delete(self, *locators: Locator) -> None:
        """Mark the records dead, give their blocks back, and make that durable, once for each segment."""
        by_name: dict[str, list[Locator]] = {}
        for locator in locators:
            by_name.setdefault(locator.object_key, []).append(locator)
        for name, several in by_name.items():
            try:
                self._delete(name, several, durable=True)
            except OSError as error:
                raise spooling.failed(error, "remove an object") from error

    def forget(self, locator: Locator) -> None:
        """Delete one object without waiting for the disk."""
        with suppress(OSError):
            self._delete(locator.object_key, [locator], durable=False)

    def _delete(self, name: str, locators: Sequence[Locator], *, durable: bool) -> None:
        path = self._objects / name
        with self._deleting:
            try:
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except _MISSING:
                return
            try:
                for locator in locators:
                    found = self._record(fd, locator)
                    if found is not None:  # a dead one too: a crash may have kept its blocks
                        segments.erase(fd, found.at, found.end - found.at)
                if name not in self._active and not segments.marker_of(path).exists() and self._is_empty(fd):
                    self._unlink(path)
                elif durable:
                    os.fdatasync(fd)
            finally:
                os.close(fd)

    @staticmethod
    def _is_empty(fd: int) -> bool:
        nonce = records.nonce_of(os.pread(fd, BLOCK, 0))
        return nonce is not None and next(segments.walk_records(fd, nonce, os.fstat(fd).st_size), None) is None

    def _unlink(self, path: Path) -> None:
        path.unlink()
        with self._lock:
            self._files.pop(path.name, None)
        sync_folder(self._objects)

    # What a crash left

    def _marked(self) -> list[str]:
        names = (name for name in sorted(os.listdir(self._objects)) if name.endswith(MARKER))
        return [name.removesuffix(MARKER) + segments.SUFFIX for name in names]

    def _is_held(self, name: str) -> bool:
        """Whether the process that writes this segment is alive.

        Asked with a shared lock: two who ask at once, a server that starts and a scrub, are not taken for its writer.
        """
        try:
            fd = os.open(segments.marker_of(self._objects / name), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(fd)
        return False

    def unproven(self) -> list[Unproven]:
        """The segments that a crash left, each verified behind what was known to be durable."""
        try:
            self._crashed = [name for name in self._crashed if self._claim(name)]
            with ThreadPoolExecutor(_VERIFIED_AT_ONCE) as threads:  # they read, hash and sync without the interpreter
                return list(threads.map(partial(segments.recover, self._objects), self._crashed))
        except OSError as error:
            raise spooling.failed(error, "verify what a crash left") from error

    def _claim(self, name: str) -> bool:
        """Whether it is ours to verify, until `proven`; waits for another process that does, and has done it then."""
        try:
            fd = os.open(segments.marker_of(self._objects / name), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        self._claims.append(fd)
        fcntl.flock(fd, fcntl.LOCK_EX)
        return os.fstat(fd).st_nlink > 0

    def proven(self) -> None:
        """Told when the index agrees with what `unproven` found: those segments are sealed."""
        try:
            for name in self._crashed:
                segments.marker_of(self._objects / name).unlink(missing_ok=True)
            if self._crashed:
                sync_folder(self._objects)
        except OSError as error:
            raise spooling.failed(error, "verify what a crash left") from error
        finally:
            self._let_go()
        self._crashed = []

    def _let_go(self) -> None:
        while self._claims:
            os.close(self._claims.pop())

    # Small ones

    def put_small(self, name: str, data: bytes) -> None:
        """Store the bytes in a file of that name; on return it and the folders above it are on the disk."""
        target = self._small / small_name(name)
        draft = self._spool / f"{uuid.uuid4().hex}{spooling.SUFFIX}"
        try:
            with draft.open("xb") as file:
                file.write(data)
                file.flush()
                os.fdatasync(file.fileno())
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            draft.replace(target)
            for folder in [path for path in target.parents if path.is_relative_to(self._small)]:
                sync_folder(folder)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise spooling.failed(error, "store a small object") from error

    def read_small(self, name: str) -> bytes:
        """The bytes of that name."""
        try:
            return (self._small / small_name(name)).read_bytes()
        except _MISSING:
            raise NotFound("no such small object", about=name) from None
        except OSError as error:
            raise _unreadable(error) from error

    def small(self, prefix: str = "", after: str = "") -> Iterator[str]:
        """The names, sorted."""
        found: list[str] = []
        root = len(os.fspath(self._small)) + 1
        for folder, _, names in os.walk(self._small):
            inside = f"{folder[root:]}/" if len(folder) > root else ""
            found += [whole for name in names if (whole := inside + name).startswith(prefix) and whole > after]
        return iter(sorted(found))

    def delete_small(self, name: str) -> None:
        """Remove the file; its folder stays for the next."""
        path = self._small / small_name(name)
        try:
            path.unlink()
            sync_folder(path.parent)
        except _MISSING:
            return
        except OSError as error:
            raise spooling.failed(error, "remove a small object") from error

    def check(self) -> None:
        """Nothing, or Unavailable or OutOfResources when nothing can be written."""
        probe = self._spool / f"{uuid.uuid4().hex}{spooling.SUFFIX}"
        try:
            with probe.open("xb") as file:
                file.write(b"m3DICOM")
                file.flush()
                os.fdatasync(file.fileno())
        except OSError as error:
            raise spooling.failed(error, "store an object") from error
        finally:
            probe.unlink(missing_ok=True)

    def close(self) -> None:
        """Seal every segment: what was put is durable then."""
        self._ahead.close()
        with self._lock:
            self._shared = None
            self._lanes.clear()
            self._retired.clear()
            self._files.clear()
        for segment in list(self._active.values()):
            self._seal(segment)
        self._let_go()


def _sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)


def _unreadable(error: Exception) -> Unavailable | OutOfResources:
    code = error.errno if isinstance(error, OSError) else None
    return Unavailable(f"cannot read an object: {os.strerror(code or 5)}")
