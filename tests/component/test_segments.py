"""Segments on a real disk: shared syncs, holes, full disks, failing ones, and kill -9 between any two steps."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dicom_data
import pytest
from sqlalchemy import func, select

from pacs import uids
from pacs.archive import open_archive
from pacs.audit import Audit
from pacs.auth import SYSTEM
from pacs.dicom.attributes import Level
from pacs.dicom.matching import Query
from pacs.digest import Digest
from pacs.errors import DuplicateInstance, NotFound, OutOfResources, Unavailable
from pacs.events import Events
from pacs.index import schema
from pacs.index.engine import open_index
from pacs.ingest import Ingest
from pacs.settings import Settings
from pacs.spool import IN_MEMORY_BYTES
from pacs.storage import records, segments
from pacs.storage.arrival import HEAD_BYTES
from pacs.storage.base import Locator, Placed
from pacs.storage.files import FileStore
from pacs.storage.records import BLOCK, HEADER_BYTES
from pacs.storage.underway import Underway, Writes

PATIENCE_S = 60.0


@cache
def content(number: int, length: int) -> bytes:
    return random.Random(number).randbytes(length)


def place(store: FileStore, data: bytes, *, redo: bool = False) -> Placed:
    with store.spool(10, None) as spool:
        for at in range(10, len(data), 300_000):
            spool.write(data[at : at + 300_000])
        spool.fill_reserve(data[:10])
        return store.put("key", spool, redo=redo)


def put(store: FileStore, data: bytes) -> Locator:
    placed = place(store, data)
    placed.wait()
    return placed.locator


@contextmanager
def opened(root: Path, **options: Any) -> Iterator[FileStore]:
    store = FileStore(root, **options)
    yield store
    store.close()


def names(root: Path, suffix: str) -> list[str]:
    return sorted(path.name for path in (root / "objects").glob(f"*{suffix}"))


def reopened(root: Path) -> FileStore:
    """The store after a crash, with what was left unproven verified and agreed with."""
    store = FileStore(root)
    store.unproven()
    store.proven()
    assert names(root, ".open") == []
    return store


def test_objects_share_a_segment_and_a_closed_store_is_sealed(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        here = [put(store, content(n, 5000 + n)) for n in range(10)]
        assert len({each.object_key for each in here}) == 1
        assert names(tmp_path, ".open") == [here[0].object_key.replace(".seg", ".open")]
        assert len(names(tmp_path, ".seg")) == 1
    assert names(tmp_path, ".open") == []
    with opened(tmp_path) as store:
        assert store.unproven() == []
        for n, locator in enumerate(here):
            assert store.read(locator) == content(n, 5000 + n)
        assert put(store, b"more than ten bytes").object_key != here[0].object_key
    path = tmp_path / "objects" / here[0].object_key
    assert path.stat().st_blocks * 512 < path.stat().st_size + 4 * BLOCK  # what was set aside is given back


def test_large_objects_are_written_where_they_stay(tmp_path: Path) -> None:
    large = content(1, 3 * IN_MEMORY_BYTES + 5)
    with opened(tmp_path) as store:
        first = put(store, large)
        inode = (tmp_path / "objects" / first.object_key).stat().st_ino
        with store.spool(10, None) as aborted:
            aborted.write(large)
        second = put(store, large)
        assert (first.object_key, inode) == (
            second.object_key,
            (tmp_path / "objects" / second.object_key).stat().st_ino,
        )
        small = put(store, content(2, 100))
        assert small.object_key != first.object_key
        assert sorted(map(str, store.walk())) == sorted(map(str, (first, second, small)))
        assert store.read(second) == large
        assert list(store.spool_dir.iterdir()) == []


def test_many_that_wait_share_one_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(tmp_path, direct=False)
    put(store, content(0, 100))
    begun, go_on = threading.Event(), threading.Event()
    syncs = []
    real = os.fdatasync

    def slow(fd: int) -> None:
        syncs.append(fd)
        begun.set()
        assert go_on.wait(PATIENCE_S)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    threads = [threading.Thread(target=place(store, content(1, 100)).wait)]
    threads[0].start()
    assert begun.wait(PATIENCE_S)
    placed = [place(store, content(n, 5000)) for n in range(2, 20)]  # the sync that runs began too early for these
    threads += [threading.Thread(target=each.wait) for each in placed]
    for thread in threads[1:]:
        thread.start()
    go_on.set()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert len(syncs) == 2
    monkeypatch.undo()
    store.close()


def test_full_segments_are_sealed_under_many_writers(tmp_path: Path) -> None:
    failures: list[BaseException] = []
    here: dict[int, Locator] = {}
    with opened(tmp_path, segment_bytes=64 << 10) as store:

        def run(first: int) -> None:
            try:
                for number in range(first, first + 40):
                    here[number] = put(store, content(number, 3000 + 13 * number))
                    if number % 5 == 0:
                        store.delete(here.pop(number))
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=run, args=(1000 * n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert len(names(tmp_path, ".seg")) > 5
        assert len(names(tmp_path, ".open")) <= 1
        assert sorted(map(str, store.walk())) == sorted(map(str, here.values()))
    with opened(tmp_path) as store:
        for number, locator in here.items():
            assert store.read(locator) == content(number, 3000 + 13 * number)


def test_what_is_deleted_gives_its_blocks_back(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        here = [put(store, content(n, 100_000)) for n in range(10)]
    path = tmp_path / "objects" / here[0].object_key
    before = path.stat().st_blocks * 512
    with opened(tmp_path) as store:
        store.delete(*here[2:8])
        assert path.stat().st_blocks * 512 <= before - 6 * 100_000
        assert list(store.walk()) == [here[0], here[1], here[8], here[9]]
        pieces = store.chunks(here[9], size=1000)
        next(pieces)
        store.delete(here[0], here[1], here[8])
        assert store.read(here[9]) == content(9, 100_000)
        store.delete(here[9])
        assert not path.exists()
        with pytest.raises(NotFound):
            list(pieces)


def test_bytes_that_look_like_a_record_are_none(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        first = put(store, content(1, 6000))
        raw = (tmp_path / "objects" / first.object_key).read_bytes()[: 3 * BLOCK]
        forged = bytes(BLOCK - HEADER_BYTES) + raw[BLOCK : 3 * BLOCK] + raw[:BLOCK] + raw[BLOCK:]
        second = put(store, forged)  # whole records of this very segment, each on a block boundary
        third = put(store, content(3, 100))
    with opened(tmp_path) as store:
        assert list(store.walk()) == [first, second, third]
        store.delete(second)
        assert list(store.walk()) == [first, third]


@pytest.mark.parametrize("direct", [True, False])
def test_a_full_disk_harms_nobody(tmp_path: Path, direct: bool) -> None:
    with opened(tmp_path, segment_bytes=2 << 20, direct=direct) as store:
        here = [put(store, content(n, 400_000)) for n in range(3)]
        size = here[-1].offset + here[-1].length
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 150_000, hard))
        try:
            for length in (400_000, 2_000_000):
                with pytest.raises(OutOfResources, match="no space left"):
                    place(store, content(9, length))
            assert [store.read(each) for each in here] == [content(n, 400_000) for n in range(3)]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert list(store.walk()) == here
        after = put(store, content(10, 400_000))
        large = put(store, content(11, 2_000_000))
        assert sorted(map(str, store.walk())) == sorted(map(str, [*here, after, large]))
    with opened(tmp_path) as store:
        assert store.unproven() == []
        assert store.read(after) == content(10, 400_000)
        assert store.read(large) == content(11, 2_000_000)


class FailingSync:
    """Whatever makes segments durable, `os.fdatasync` and synced writes, failing while it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failing = False
        self._real = os.fdatasync, os.pwritev
        monkeypatch.setattr(os, "fdatasync", self._sync)
        monkeypatch.setattr(os, "pwritev", self._write)
        landed = Underway.end
        monkeypatch.setattr(Underway, "end", lambda underway: self._landed(landed(underway)))

    def _fails(self, fd: int) -> bool:
        return self.failing and os.readlink(f"/proc/self/fd/{fd}").endswith(segments.SUFFIX)

    def _landed(self, count: int) -> int:
        if self.failing:
            raise OSError(errno.EIO, "broken")
        return count

    def _sync(self, fd: int) -> None:
        if self._fails(fd):
            raise OSError(errno.EIO, "broken")
        self._real[0](fd)

    def _write(self, fd: int, parts: Any, offset: int, flags: int = 0) -> int:
        if flags & os.RWF_DSYNC and self._fails(fd):
            self._real[1](fd, parts, offset)  # it is there, but for how long?
            raise OSError(errno.EIO, "broken")
        return self._real[1](fd, parts, offset, flags)


@pytest.mark.parametrize("direct", [True, False])
def test_a_failed_sync_is_never_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direct: bool) -> None:
    sync = FailingSync(monkeypatch)
    store = FileStore(tmp_path, direct=direct)
    before = put(store, content(0, 5000))
    lost = place(store, content(1, 5000))
    sync.failing = True
    for _ in range(2):
        with pytest.raises(Unavailable, match="sync an object"):
            lost.wait()
    with pytest.raises(Unavailable):
        store.settle(lost.locator)
    sync.failing = False
    with pytest.raises(Unavailable):
        lost.wait()  # the kernel forgets, we do not
    after = put(store, content(2, 5000))
    assert after.object_key != before.object_key
    assert [store.read(before), store.read(after)] == [content(0, 5000), content(2, 5000)]
    store.close()
    assert names(tmp_path, ".open") == [before.object_key.replace(".seg", ".open")]


def test_a_synced_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = FailingSync(monkeypatch)
    archive = open_archive(Settings(data=tmp_path))
    send(archive.ingest, 0)
    sync.failing = True
    with pytest.raises(Unavailable, match="store an object"):
        send(archive.ingest, 1)
    sync.failing = False
    assert len(list(archive.store.walk())) == 1
    assert len(instances(archive.index)) == 1
    send(archive.ingest, 1)  # to another segment: what the first one holds since is not known
    assert len({each.object_key for each in archive.store.walk()}) == 2
    archive.close()
    assert len(names(tmp_path, ".open")) == 1
    archive = open_archive(Settings(data=tmp_path))
    found = archive.retrieve.locate(SYSTEM, uids.derived("study", 0))
    assert [archive.retrieve.dataset(each) for each in found] == [image_bytes(n) for n in range(2)]
    archive.close()


def test_segments_are_written_ahead_and_give_it_back(tmp_path: Path) -> None:
    """Where this file system lets nobody write past the page cache there is nothing to see, and all else holds."""
    here: list[Locator] = []
    with opened(tmp_path, segment_bytes=20 << 20) as store:

        def run(first: int) -> None:
            for number in range(first, first + 12):
                with store.spool(10, None) as spool:
                    spool.write(content(number, 500_000 + 17 * number))
                    placed = store.put("key", spool, redo=number % 3 != 0)
                placed.wait()
                here.append(placed.locator)
                assert store.read(placed.locator)[10:] == content(number, 500_000 + 17 * number)
                placed.filed()

        threads = [threading.Thread(target=run, args=(100 * n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert len(here) == 48
        assert sorted(map(str, store.walk())) == sorted(map(str, here))
    assert names(tmp_path, ".open") == []
    for name in names(tmp_path, ".seg"):
        end = max(each.offset + each.length for each in here if each.object_key == name)
        assert (tmp_path / "objects" / name).stat().st_size < end + BLOCK
    with opened(tmp_path) as store:
        assert sorted(map(str, store.walk())) == sorted(map(str, here))


def image_bytes(number: int) -> bytes:
    return bytes(dicom_data.dataset_bytes(dicom_data.image(number)))


def send(ingest: Ingest, number: int) -> None:
    receiving = ingest.receive("1.2.840.10008.1.2.1")
    receiving.write(image_bytes(number))
    ingest.store(receiving, principal=SYSTEM)


class Held:
    """Writes that were begun and that the disk does only when it is let."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.awaited, self.let = threading.Event(), threading.Event()
        monkeypatch.setattr(Writes, "begin", lambda _, *write: self._begun(*write))

    def _begun(self, fd: int, view: memoryview, at: int) -> Any:
        def end() -> int:
            self.awaited.set()
            assert self.let.wait(PATIENCE_S)
            return os.pwritev(fd, [view], at, os.RWF_DSYNC)

        return SimpleNamespace(end=end)


def test_nobody_sees_an_instance_before_its_bytes_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = open_archive(Settings(data=tmp_path))
    send(archive.ingest, 0)
    held = Held(monkeypatch)
    thread = threading.Thread(target=send, args=(archive.ingest, 1))
    thread.start()
    assert held.awaited.wait(PATIENCE_S)
    count = select(func.count()).select_from(schema.instance)
    with archive.index.read() as conn:
        assert conn.execute(count).scalar() == 1
    held.let.set()
    thread.join(PATIENCE_S)
    with archive.index.read() as conn:
        assert conn.execute(count).scalar() == 2
    archive.close()


def test_memory_is_nobody_elses_while_it_is_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path) as store:
        held = Held(monkeypatch)
        first = place(store, content(1, 9_000), redo=True)
        second = put(store, content(2, 9_000))
        gone = place(store, content(3, 9_000), redo=True)
        held.let.set()
        gone.withdraw()
        first.wait()
        first.filed()
        assert store.read(first.locator) == content(1, 9_000)
        assert store.read(second) == content(2, 9_000)
        with pytest.raises(NotFound):
            store.read(gone.locator)
        again = place(store, content(4, 9_000), redo=True)
        again.filed()  # which waits as well
        assert store.read(again.locator) == content(4, 9_000)


def test_a_row_whose_bytes_were_not_synced_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sync = FailingSync(monkeypatch)
    monkeypatch.setattr(segments, "_open_direct", lambda path: None)
    archive = open_archive(Settings(data=tmp_path))
    send(archive.ingest, 0)
    sync.failing = True
    with pytest.raises(Unavailable, match="sync an object"):
        send(archive.ingest, 1)
    sync.failing = False
    assert "taken back" in caplog.text
    study = uids.derived("study", 0)
    assert [each.sop_instance_uid for each in archive.retrieve.locate(SYSTEM, study)] == [
        dicom_data.image(0).SOPInstanceUID
    ]
    (row,) = archive.query.search(Query(Level.STUDY), SYSTEM).rows
    assert row.attributes["00201208"]["Value"] == [1]
    newest = Audit(archive.index).query()[0]
    assert (newest.outcome, newest.sop_instance_uid) == ("failure", dicom_data.image(1).SOPInstanceUID)
    assert newest.detail.startswith("taken back")
    assert [change.kind for change in archive.changes.after(0)] == ["instance", "instance", "deleted"]
    send(archive.ingest, 1)
    assert len(archive.retrieve.locate(SYSTEM, study)) == 2
    archive.close()


def _say(writer: int, said: tuple[Any, ...]) -> None:
    os.write(writer, (json.dumps(said) + "\n").encode())


def forked(run: Callable[[Callable[..., None]], None]) -> tuple[list[Any], int]:
    """What a child process said with the function it was given, and how it ended (a signal is negative)."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            run(lambda *said: _say(writer, said))
            os._exit(0)
        except BaseException as error:
            _say(writer, ("failed", repr(error)))
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as lines:
        said = [json.loads(line) for line in lines if line.endswith("\n")]
    return said, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


WRITES = ("pwritev", "pwrite")
STEPS = (*WRITES, "fdatasync", "fsync", "ftruncate", "unlink", "rename", "open")


def dying_at(step: int, half: bool) -> None:
    """Make this process kill itself before the given step; with `half`, after half of what the given write writes."""
    left = step

    def wrapped(name: str, real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                if half:
                    parts = arguments[1] if name == "pwritev" else [arguments[1]]
                    whole = b"".join(bytes(part) for part in parts)
                    # Past the page cache only whole blocks could be written.
                    again = os.open(f"/proc/self/fd/{arguments[0]}", os.O_WRONLY)
                    pwrite(again, whole[: len(whole) // 2], arguments[2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return call

    pwrite = os.pwrite
    for name in WRITES if half else STEPS:
        setattr(os, name, wrapped(name, getattr(os, name)))


LENGTHS = (9_000, 1_300_000, 30, 200_000, 1_100_000, 5_000)


def work(root: Path, step: int, half: bool, say: Callable[..., None]) -> None:
    store = FileStore(root, segment_bytes=150_000)
    dying_at(step, half)
    kept: list[tuple[int, Locator]] = []
    for number, length in enumerate(LENGTHS):
        here = put(store, content(number, length))
        say("put", number, here.object_key, here.offset, here.length)
        kept.append((number, here))
        if number % 3 == 2:
            gone, there = kept.pop(0)
            say("deleting", gone)
            store.delete(there)
            say("deleted", gone)
    store.close()
    say("closed")


@pytest.mark.parametrize("half", [False, True])
def test_a_process_killed_between_any_two_steps_leaves_a_sound_store(tmp_path: Path, half: bool) -> None:
    contents = {hashlib.sha256(content(n, length)).digest() for n, length in enumerate(LENGTHS)}
    step = ended = 0
    while not ended:
        step += 1
        root = tmp_path / f"step{step}"
        root.mkdir()
        said, status = forked(lambda say, root=root, step=step: work(root, step, half, say))  # type: ignore[misc]
        assert status in (0, -signal.SIGKILL), said
        ended = status == 0
        put_here = {number: Locator(*rest) for what, number, *rest in (s for s in said if s[0] == "put")}
        deleting = {s[1] for s in said if s[0] == "deleting"}
        deleted = {s[1] for s in said if s[0] == "deleted"}
        for _ in range(2):  # a start may be cut short as well
            with opened(root) as store:
                for unproven in store.unproven():
                    assert all(offset > unproven.since for offset, _ in unproven.sound)
        store = reopened(root)
        for number, locator in put_here.items():
            if number in deleted:
                assert not store.holds(locator)
            elif number not in deleting:
                assert store.holds(locator)
                assert store.read(locator) == content(number, LENGTHS[number])
        there = list(store.walk())
        assert all(hashlib.sha256(store.read(locator)).digest() in contents for locator in there)
        assert len(put_here) - len(deleting) <= len(there) <= len(put_here) - len(deleted) + 1
        again = put(store, content(99, 7000))
        store.close()
        with opened(root) as store:
            assert store.unproven() == []
            assert store.read(again) == content(99, 7000)
    assert step > (15 if half else 40)
    assert ["closed"] in said


def crashed(root: Path, count: int = 6) -> list[Locator]:
    """Where objects lie in the one segment of a process that was killed."""

    def run(say: Callable[..., None]) -> None:
        store = FileStore(root)
        for number in range(count):
            here = put(store, content(number, 20_000))
            say(here.object_key, here.offset, here.length)
        os.kill(os.getpid(), signal.SIGKILL)

    said, _ = forked(run)
    assert len(said) == count
    return [Locator(*each) for each in said]


def zero(path: Path, offset: int, length: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(length))


@pytest.mark.parametrize(
    ("harm", "lost"),
    [
        (lambda path, here: zero(path, here[3].offset - HEADER_BYTES, BLOCK), {3}),
        (lambda path, here: zero(path, here[3].offset + 9000, 512), {3}),
        (lambda path, here: zero(path, here[3].offset, 1), {3}),
        (lambda path, here: os.truncate(path, here[5].offset + 19_999), {5}),
        (lambda path, here: os.truncate(path, here[4].offset + 2), {4, 5}),
        (lambda path, here: os.truncate(path, here[4].offset - HEADER_BYTES), {4, 5}),
        (lambda path, here: path.write_bytes(path.read_bytes() + content(50, 50_000)), set()),
        (lambda path, here: zero(path, here[2].offset, here[5].offset - here[2].offset), {2, 3, 4, 5}),
        (lambda path, here: zero(path, 0, BLOCK), {0, 1, 2, 3, 4, 5}),
    ],
)
def test_what_is_torn_is_found_and_never_served(tmp_path: Path, harm: Any, lost: set[int]) -> None:
    here = crashed(tmp_path)
    harm(tmp_path / "objects" / here[0].object_key, here)
    for _ in range(2):
        store = FileStore(tmp_path)
        (unproven,) = store.unproven()
        assert unproven.sound == {(e.offset, e.length) for n, e in enumerate(here) if n not in lost}
        assert unproven.since <= here[0].offset
        store.close()
    store = reopened(tmp_path)
    if lost != set(range(6)):
        assert list(store.walk()) == [each for n, each in enumerate(here) if n not in lost]
    for number, locator in enumerate(here):
        if number not in lost:
            assert store.read(locator) == content(number, 20_000)
        elif len(lost) < 6:
            with pytest.raises(NotFound):
                store.read(locator)
    store.close()


@pytest.mark.parametrize("written", [True, False])
def test_zeros_of_any_length_hide_no_record_behind_them(tmp_path: Path, written: bool) -> None:
    """Segments are written ahead; who came later may be on the disk while who came before is not."""
    nonce, path = b"n" * records.NONCE_BYTES, tmp_path / "segment"
    places = []
    with path.open("w+b") as file:
        file.write(records.first_block(nonce))
        for gap in (0, 1, 2, 255, 256, 257, 512, 1023):
            file.write(bytes(gap * BLOCK)) if written else file.seek(gap * BLOCK, os.SEEK_CUR)
            places.append(file.tell())
            data = content(gap, 5000)
            file.write(records.header(nonce, file.tell(), len(data), b"", Digest(data).digest()) + data)
            file.seek(records.aligned(file.tell()))
        file.write(bytes(700 * BLOCK))
        file.flush()
        found = list(segments.walk_records(file.fileno(), nonce, os.fstat(file.fileno()).st_size))
    assert [each.at for each in found] == places


def test_who_asks_for_what_a_crash_left_is_not_taken_for_its_writer(tmp_path: Path) -> None:
    """A command beside a server that starts looks at the same markers; nothing may stay unverified for that."""
    here = crashed(tmp_path)
    probe = os.open(segments.marker_of(tmp_path / "objects" / here[0].object_key), os.O_RDWR)
    try:
        fcntl.flock(probe, fcntl.LOCK_SH | fcntl.LOCK_NB)  # as another process asks
        store = FileStore(tmp_path)
    finally:
        os.close(probe)
    assert [each.object_key for each in store.unproven()] == [here[0].object_key]
    store.close()


def test_only_what_the_mark_does_not_cover_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "MARK_BYTES", 4 << 20)
    count = segments.MARK_BYTES // 20_000 + 20
    here = crashed(tmp_path, count)
    path = tmp_path / "objects" / here[0].object_key
    since = segments.marked(segments.marker_of(path).read_bytes())
    assert BLOCK < since <= here[-1].offset
    store = FileStore(tmp_path)
    (unproven,) = store.unproven()
    assert unproven.since == since
    assert unproven.sound == {(each.offset, each.length) for each in here if each.offset >= since}
    assert len(unproven.sound) < count
    store.close()


def test_rows_whose_bytes_a_crash_took_are_taken_back_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def run(say: Callable[..., None]) -> None:
        store = FileStore(tmp_path)
        index = open_index(Settings(data=tmp_path).index_url)
        ingest = Ingest(store, index, Events(), Settings())
        for number in range(4):
            send(ingest, number)
        with index.read() as conn:
            i = schema.instance.c
            for row in conn.execute(select(i.object_key, i.object_offset, i.object_length).order_by(i.id)):
                say(*row)
        os.kill(os.getpid(), signal.SIGKILL)

    said, _ = forked(run)
    here = [Locator(*each) for each in said]
    assert len(here) == 4
    with (tmp_path / "objects" / here[2].object_key).open("r+b") as file:
        file.seek(here[2].offset + HEAD_BYTES + 200)
        file.write(b"\xa5" * 20)
    archive = open_archive(Settings(data=tmp_path))
    assert "1 objects were not written to their end" in caplog.text
    assert f"{dicom_data.image(2).SOPInstanceUID} is taken back" in caplog.text
    found = archive.retrieve.locate(SYSTEM, uids.derived("study", 0))
    assert [archive.retrieve.dataset(each) for each in found] == [image_bytes(n) for n in (0, 1, 3)]
    (row,) = archive.query.search(Query(Level.STUDY), SYSTEM).rows
    assert row.attributes["00201208"]["Value"] == [3]
    assert [event.outcome for event in Audit(archive.index).query()] == ["failure"] + ["success"] * 4
    send(archive.ingest, 2)
    assert len(archive.retrieve.locate(SYSTEM, uids.derived("study", 0))) == 4
    archive.close()
    assert names(tmp_path, ".open") == []


def test_processes_write_segments_of_their_own(tmp_path: Path) -> None:
    go_on, told = os.pipe(), os.pipe()

    def run(say: Callable[..., None]) -> None:
        store = FileStore(tmp_path)
        placed = place(store, content(1, 5000))
        here = placed.locator
        os.write(told[1], (json.dumps([here.object_key, here.offset, here.length]) + "\n").encode())
        os.read(go_on[0], 1)
        os.kill(os.getpid(), signal.SIGKILL)

    thread = threading.Thread(target=forked, args=(run,))
    thread.start()
    try:
        with os.fdopen(told[0]) as lines:
            theirs = Locator(*json.loads(lines.readline()))
        with opened(tmp_path) as store:
            assert store.unproven() == []  # theirs is held by a living process
            ours = put(store, content(2, 5000))
            assert ours.object_key != theirs.object_key
            store.settle(theirs)
            assert store.read(theirs) == content(1, 5000)
            store.delete(theirs)
            assert list(store.walk()) == [ours]
    finally:
        os.write(go_on[1], b"!")
        thread.join(PATIENCE_S)
        for fd in (go_on[0], go_on[1], told[1]):
            os.close(fd)
    store = FileStore(tmp_path)
    assert [each.object_key for each in store.unproven()] == [theirs.object_key]
    store.close()


def test_the_mark_waits_for_what_has_to_be_filed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    durable: list[int] = []
    store = FileStore(tmp_path)
    here: list[Placed] = []
    marks: list[int] = []
    monkeypatch.setattr(segments, "MARK_BYTES", 4 << 20)

    def mark() -> int:
        path = tmp_path / "objects" / here[0].locator.object_key
        return segments.marked(segments.marker_of(path).read_bytes())

    assert store.redoes(lambda: durable.append(mark()))

    def put_redo(number: int) -> None:
        with store.spool(10, None) as spool:
            spool.write(content(number, 900_000))
            here.append(store.put("key", spool, redo=True))
        here[-1].wait()
        marks.append(mark())

    for number in range(8):
        put_redo(number)
    assert durable == []
    assert set(marks) == {BLOCK}
    for each in here[:6]:
        each.filed()
    here[7].filed()
    put_redo(8)
    assert durable == [BLOCK]  # asked before the mark moved
    assert marks[-1] == here[6].locator.offset - HEADER_BYTES
    for each in here[6:]:
        each.filed()
    store.close()
    assert len(durable) == 2
    assert names(tmp_path, ".open") == []


def instances(index: Any) -> list[tuple[str, str]]:
    with index.read() as conn:
        return [
            tuple(row) for row in conn.execute(select(schema.instance.c.sop_instance_uid, schema.instance.c.digest))
        ]


def test_rows_that_a_power_failure_took_are_filed_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The index as it was on the disk earlier, the segments as they were when all had been answered."""
    kept, data = tmp_path / "kept", tmp_path / "data"
    kept.mkdir()

    def run(say: Callable[..., None]) -> None:
        archive = open_archive(Settings(data=data))
        send(archive.ingest, 0)
        archive.index.make_durable()
        for path in data.glob("index.db*"):
            shutil.copy(path, kept)
        for number in range(1, 4):
            send(archive.ingest, number)
        receiving = archive.ingest.receive("1.2.840.10008.1.2.1")
        receiving.write(dicom_data.dataset_bytes(dicom_data.image(1, PatientID="OTHER")))
        try:
            archive.ingest.store(receiving, principal=SYSTEM)
        except DuplicateInstance:
            say("refused")
        receiving = archive.ingest.receive("1.2.840.10008.1.2.1")
        receiving.write(dicom_data.dataset_bytes(dicom_data.image(9)))
        archive.ingest.prepare(receiving, principal=SYSTEM)  # and never filed
        say(*instances(archive.index))
        os.kill(os.getpid(), signal.SIGKILL)

    (refused, filed), status = forked(run)
    assert (refused, status) == (["refused"], -signal.SIGKILL)
    assert len(filed) == 4
    for path in data.glob("index.db*"):
        path.unlink()
    for path in kept.iterdir():
        if not path.name.endswith("-shm"):
            shutil.copy(path, data)
    for turn in range(2):
        archive = open_archive(Settings(data=data))
        assert sorted(instances(archive.index)) == sorted(tuple(each) for each in filed)
        found = archive.retrieve.locate(SYSTEM, uids.derived("study", 0))
        assert [archive.retrieve.dataset(each) for each in found] == [image_bytes(n) for n in range(4)]
        (row,) = archive.query.search(Query(Level.STUDY), SYSTEM).rows
        assert row.attributes["00201208"]["Value"] == [4]
        assert [change.kind for change in archive.changes.after(0)] == ["instance"] * 4
        assert [event.outcome for event in Audit(archive.index).query()] == ["success"] * 4
        assert ("3 instances are filed again" in caplog.text) is (turn == 0)
        caplog.clear()
        archive.close()
