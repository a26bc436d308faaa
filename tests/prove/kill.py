"""The long runs of kill -9: 200 kills during ingest on each pair of store and index."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from faults.kills import KillLoop, files_and_sqlite, s3_and_postgresql
from prove.registry import Result, Run, proof

KILLS = 200
POWER_LOSSES = 50
HEAD = ("kills", "sent", "acknowledged", "lost", "half there", "ready again: median s", "max s", "count after re-send")


def _loop(run: Run, backend: Callable[[], AbstractContextManager[dict[str, str]]]) -> Result:
    with tempfile.TemporaryDirectory(prefix="m3prove") as folder, backend() as settings:
        loop = KillLoop(Path(folder) / "data", settings)
        try:
            for _ in run.rounds(KILLS):
                loop.turn()
            there = loop.finish()
        finally:
            loop.close()
        rows = None if "M3DICOM_INDEX" in settings else loop.compare()
    book, (median, longest) = loop.load.book, loop.times()
    kills = f"{loop.kills}, {loop.attendants_killed} of one attendant only"
    row = (kills, len(book.sent), loop.acknowledged, 0, 0, f"{median:.2f}", f"{longest:.2f}", "stable")
    if rows is not None:
        run.note(f"- integrity_check is ok; all {rows} rows are those of a rebuild from the objects alone")
    run.note(f"- {there} instances were there before the re-send; other answers under way: {book.answers}")
    return Result((HEAD, row), "nothing acknowledged was lost, nothing half was seen")


@proof("kill-files", "kill -9 during ingest on files and SQLite: nothing acknowledged is lost, nothing half is there.")
def kill_files(run: Run) -> Result:
    """DIMSE and STOW-RS clients, a kill in the middle, a restart, every byte compared."""
    return _loop(run, files_and_sqlite)


@proof("kill-s3", "kill -9 during ingest on S3 and PostgreSQL: nothing acknowledged is lost, nothing half is there.")
def kill_s3(run: Run) -> Result:
    """The same with the bytes in S3 (rclone) and the index in PostgreSQL."""
    return _loop(run, s3_and_postgresql)


@proof("power", "Power loss during ingest: bytes never synced are taken away; nothing acknowledged is among them.")
def power(run: Run) -> Result:
    """kill -9 with every write and sync recorded; what no sync covered is zeroed, torn, cut off or kept by chance."""
    with tempfile.TemporaryDirectory(prefix="m3prove") as folder, files_and_sqlite() as settings:
        loop = KillLoop(Path(folder) / "data", settings, power=True)
        try:
            for _ in run.rounds(POWER_LOSSES):
                loop.turn()
            loop.finish()
        finally:
            loop.close()
    book, lost = loop.load.book, loop.lost
    head = ("power losses", "sent", "acknowledged", "lost", "unsynced ranges taken", "names", "writes to SQLite's log")
    taken = (sum(each.ranges for each in lost), sum(each.names for each in lost), loop.log_writes_lost)
    row = (loop.kills, len(book.sent), loop.acknowledged, 0, *taken)
    return Result((head, row), "nothing acknowledged was lost, no row without its bytes after the start")
