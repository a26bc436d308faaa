"""What the objects of a store say of themselves, read by several processes at once into files beside the index.

The first half of a rebuild: every object is read whole, held against the digest in its name, scanned as it was when it
arrived, and what its rows will hold is staged in SQLite files, one a process, so that nothing of weight passes between
processes and a scan that was cut short goes on where it stopped.
"""

from __future__ import annotations

import multiprocessing
import queue
import re
import shutil
import signal
import sqlite3
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import orjson

from pacs import filing
from pacs.archive import open_store
from pacs.dicom import json_model, part10, scanner
from pacs.digest import Digest
from pacs.errors import ArchiveError, Corrupt, MalformedDataset, Unavailable
from pacs.settings import Settings
from pacs.spool import Spool
from pacs.storage.arrival import HEAD_BYTES, arrival, content_suffix
from pacs.storage.base import Locator, ObjectStore, Recorded

_BATCH = 64
_GOOD_FOR_S = 86_400  # an interrupted scan is taken up again within a day; later too much may have happened to trust it
_SPOOLED_BYTES = 16 << 20  # larger objects go through a file: several processes hold one each
_NAMED_DIGEST = re.compile(r"-([0-9a-f]{64})$")
_STAGE = """
CREATE TABLE IF NOT EXISTS object (
    n INTEGER PRIMARY KEY, at REAL, sop TEXT, digest TEXT, study TEXT, series TEXT, sop_class TEXT, ts TEXT,
    principal TEXT, scope TEXT, source_ae TEXT, result_of TEXT,
    columns BLOB, row BLOB, json BLOB, frames BLOB, bulk BLOB);
CREATE TABLE IF NOT EXISTS refused (n INTEGER PRIMARY KEY, reason TEXT);
"""
_PLAN = """
CREATE TABLE IF NOT EXISTS todo (
    n INTEGER PRIMARY KEY AUTOINCREMENT, object_key TEXT, object_offset INTEGER, object_length INTEGER, listing TEXT,
    UNIQUE (object_key, object_offset));
"""


@dataclass(frozen=True, slots=True)
class Refused:
    """An object that is there and cannot be used, with the reason."""

    locator: Locator
    reason: str


@dataclass(slots=True)
class Progress:
    """How far something is; `total` is 0 while it is not known."""

    done: int = 0
    total: int = 0
    bytes: int = 0
    refused: int = 0


Tell = Callable[[Progress], None]


class Seen(threading.local):
    """What a thread has read before: of an object like the last one little is new."""

    def __init__(self) -> None:
        self.repeats = scanner.Repeats()
        self.before = filing.Before()


def entry(store: ObjectStore, locator: Locator, seen: Seen | None = None) -> filing.Entry:
    """What the rows of a stored object hold, from its bytes alone.

    Raises Corrupt where they do not match the digest in the object's name, MalformedDataset and its kin where they are
    no object of ours, NotFound and Unavailable.
    """
    recorded = store.recorded(locator)
    if locator.length <= _SPOOLED_BYTES:
        return _entry(memoryview(store.read(locator)), locator, recorded, seen)
    with Spool(store.spool_dir) as spool:
        for chunk in store.chunks(locator):
            spool.write(chunk)
        with spool.view() as view:
            return _entry(view, locator, recorded, seen)


def _entry(whole: memoryview, locator: Locator, recorded: Recorded | None, seen: Seen | None) -> filing.Entry:
    if len(whole) != locator.length or len(whole) < HEAD_BYTES:
        raise Corrupt("the object is shorter than it was stored")
    with whole[HEAD_BYTES:] as dataset:
        hashed = Digest(dataset)
        came = bytes(whole[:HEAD_BYTES])
        if recorded is not None and (hashed.digest(), zlib.crc32(came)) != (recorded.digest, recorded.head):
            raise Corrupt("the object does not match the digest that was stored with it")
        facts = arrival(came)
        ts, offset = part10.split(whole)
        if offset != HEAD_BYTES:
            raise MalformedDataset("the head of the object is not one of ours")
        hashed.update(content_suffix(ts))
        digest = hashed.hexdigest()
        if (named := _NAMED_DIGEST.search(locator.object_key)) and named[1] != digest:
            raise Corrupt("the object does not match the digest in its name")
        if seen is None:
            return filing.Entry(scanner.scan(dataset, ts), ts, digest, locator, HEAD_BYTES, facts)
        scan = scanner.scan(dataset, ts, repeats=seen.repeats)
        return filing.Entry(scan, ts, digest, locator, HEAD_BYTES, facts, seen.before)


def _staged(n: int, made: filing.Entry) -> tuple[Any, ...]:
    scan, came = made.scan, made.arrival
    return (
        n, came.at, scan.sop_instance_uid, made.digest, scan.study_instance_uid, scan.series_instance_uid,
        scan.sop_class_uid, made.transfer_syntax_uid, came.principal, came.scope, came.source_ae, came.result_of,
        orjson.dumps(made.columns), made.row, made.json, made.frames, made.bulk,
    )  # fmt: skip


# In a process of its own ---------------------------------------------------------------------------------------------


_Task = list[tuple[int, str, int, int]]


def _work(settings: Settings, stage: Path, threads: int, tasks: Any, answers: Any) -> None:
    """Scan batches until None comes; each answer is (objects, bytes, refused), or the reason why all must end."""
    try:
        store, seen = open_store(settings, cached=False), Seen()
        staging = _open(stage)
        staging.executescript(_STAGE)
        with ThreadPoolExecutor(threads) as pool:
            while (task := tasks.get()) is not None:
                one = partial(_scan, store, seen)
                found = list(pool.map(one, task) if threads > 1 else map(one, task))
                good = [row for row in found if len(row) > 2]
                bad = [row for row in found if len(row) == 2]
                marks = ",".join("?" * 17)
                with staging:
                    staging.executemany(f"INSERT OR REPLACE INTO object VALUES ({marks})", good)  # noqa: S608
                    staging.executemany("INSERT OR REPLACE INTO refused VALUES (?, ?)", bad)
                answers.put((len(found), sum(each[3] for each in task), len(bad)))
        staging.close()
        store.close()
    except ArchiveError as error:
        answers.put(str(error))
    except KeyboardInterrupt:
        answers.put("interrupted")


def _scan(store: ObjectStore, seen: Seen, task: tuple[int, str, int, int]) -> tuple[Any, ...]:
    n, key, offset, length = task
    try:
        return _staged(n, entry(store, Locator(key, offset, length), seen))
    except Unavailable:
        raise
    except ArchiveError as error:
        return (n, str(error))


def _open(path: Path) -> sqlite3.Connection:
    made = sqlite3.connect(path)
    made.execute("PRAGMA journal_mode=WAL")
    made.execute("PRAGMA synchronous=OFF")  # what a power failure spoils is scanned again
    return made


# The whole scan ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Staging:
    """A folder with what was scanned: `plan.db` says what is to be, `stage-N.db` what was."""

    folder: Path

    @property
    def stages(self) -> list[Path]:
        """The files of the scanning processes."""
        return sorted(self.folder.glob("stage-*.db"))

    def open(self) -> sqlite3.Connection:
        """The plan with every stage attached as s0, s1, …; the view `seen` shows all objects, `bad` all refused."""
        plan = _open(self.folder / "plan.db")
        plan.executescript(_PLAN)
        stages = self.stages
        for number, path in enumerate(stages):
            plan.execute(f"ATTACH ? AS s{number}", (str(path),))
            plan.executescript(_STAGE.replace("EXISTS ", f"EXISTS s{number}."))
        each = [f"SELECT {n} AS stage, * FROM s{n}" for n in range(len(stages))]  # noqa: S608  names of our own
        objects = " UNION ALL ".join(f"{one}.object" for one in each)
        refused = " UNION ALL ".join(f"{one}.refused" for one in each)
        if stages:
            plan.execute(f"CREATE TEMP VIEW seen AS {objects}")
            plan.execute(f"CREATE TEMP VIEW bad AS {refused}")
        return plan


def scan(settings: Settings, store: ObjectStore, staging: Staging, *, processes: int, tell: Tell) -> None:
    """Stage everything in the store that is not staged yet.

    Raises Unavailable when the store cannot be read or a process is lost; what was staged stays for the next call.
    """
    if (staging.folder / "plan.db").exists() and time.time() - staging.folder.stat().st_ctime > _GOOD_FOR_S:
        shutil.rmtree(staging.folder)
    staging.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for number in range(processes):
        made = _open(staging.folder / f"stage-{number}.db")
        made.executescript(_STAGE)
        made.close()
    plan = staging.open()
    progress = Progress()
    try:
        _list(store, plan, progress, tell)
        for number in range(len(staging.stages)):  # what went since an earlier, interrupted scan
            for table in ("object", "refused"):
                plan.execute(f"DELETE FROM s{number}.{table} WHERE n NOT IN (SELECT n FROM todo)")  # noqa: S608
        plan.commit()
        progress.total = plan.execute("SELECT count(*) FROM todo").fetchone()[0]
        progress.done, progress.refused = plan.execute(
            "SELECT (SELECT count(*) FROM seen) + (SELECT count(*) FROM bad), (SELECT count(*) FROM bad)"
        ).fetchone()
        tell(progress)
        if progress.done < progress.total:
            waiting = (
                "SELECT n, object_key, object_offset, object_length FROM todo "
                "WHERE n NOT IN (SELECT n FROM seen) AND n NOT IN (SELECT n FROM bad) ORDER BY n"
            )
            found = plan.execute(waiting)
            _run(settings, staging, processes, _told(store, found), progress, tell)
    finally:
        plan.close()


def _list(store: ObjectStore, plan: sqlite3.Connection, progress: Progress, tell: Tell) -> None:
    """Write down what the store holds; by 16 listings at once, which a remote store answers in parallel."""
    found: queue.SimpleQueue[list[Locator] | BaseException | None] = queue.SimpleQueue()

    def listing(prefix: str) -> None:
        try:
            some: list[Locator] = []
            for locator in store.walk(prefix):
                some.append(locator)
                if len(some) == 1000:
                    found.put(some)
                    some = []
            found.put(some)
        except BaseException as error:
            found.put(error)
        else:
            found.put(None)

    # Keys begin with a hexadecimal digit, those of segments with a letter: every first character is asked for once.
    groups = "0123456789abcdefghijklmnopqrstuvwxyz"
    listing_id = uuid.uuid4().hex
    with ThreadPoolExecutor(16) as pool, plan:
        for group in groups:
            pool.submit(listing, group)
        left = len(groups)
        while left:
            got = found.get()
            if isinstance(got, BaseException):
                raise got
            if got is None:
                left -= 1
                continue
            rows = [(each.object_key, each.offset, each.length, listing_id) for each in got]
            plan.executemany(
                "INSERT INTO todo (object_key, object_offset, object_length, listing) VALUES (?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET listing = excluded.listing",
                rows,
            )
            progress.total += len(rows)
            tell(progress)
        plan.execute("DELETE FROM todo WHERE listing <> ?", (listing_id,))


def _told(store: ObjectStore, found: sqlite3.Cursor) -> Iterator[_Task]:
    """Batches of tasks, of which the store knows a little before they are begun."""
    while task := found.fetchmany(_BATCH):
        store.soon([Locator(*each[1:]) for each in task])
        yield task


def _run(
    settings: Settings, staging: Staging, processes: int, tasks: Iterator[_Task], progress: Progress, tell: Tell
) -> None:
    context = multiprocessing.get_context("spawn")
    waiting: Any = context.Queue()
    answers: Any = context.Queue()
    threads = 8 if settings.objects.startswith("s3://") else 1
    workers: list[BaseProcess] = [
        context.Process(
            target=_work, args=(settings, staging.folder / f"stage-{n}.db", threads, waiting, answers), daemon=True
        )
        for n in range(processes)
    ]
    # Ctrl-C is for this process, which ends its workers: they get a mask that keeps it from them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        for worker in workers:
            worker.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    out = 0
    try:
        for task in tasks:
            waiting.put(task)
            out += 1
            if out > 2 * processes:
                _answer(answers, workers, progress, tell)
                out -= 1
        for _ in range(out):
            _answer(answers, workers, progress, tell)
        for _ in workers:
            waiting.put(None)
        for worker in workers:
            worker.join(60)
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
                worker.join(10)
        waiting.cancel_join_thread()


def _answer(answers: Any, workers: list[BaseProcess], progress: Progress, tell: Tell) -> None:
    while True:
        try:
            got = answers.get(timeout=1)
            break
        except queue.Empty:
            if any(worker.exitcode is not None for worker in workers):
                raise Unavailable("a scanning process was lost; run it again, it goes on where it stopped") from None
    if isinstance(got, str):
        raise Unavailable(got)
    objects, size, refused = got
    progress.done += objects
    progress.bytes += size
    progress.refused += refused
    tell(progress)


def metadata_of(json: bytes) -> dict[str, Any]:
    """The metadata of stored JSON (uncompressed), good for rows of study and series."""
    made: dict[str, Any] = orjson.loads(json.replace(json_model.HERE, b""))
    return made
