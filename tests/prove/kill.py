"""The long runs of kill -9: 200 kills during ingest on each pair of store and index."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from faults.away import spread
from faults.kills import KillLoop, files_and_sqlite, s3_and_postgresql
from prove.registry import Result, Run, proof

KILLS = 200
POWER_LOSSES = 50
AWAY_S = 2.0
"""How long a killed server may be away: until a C-ECHO and a C-STORE of new associations are answered."""
IDLE = 0.1
"""A machine is otherwise idle while processes that have nothing to do with the proof have no more of it than this."""
HEAD = ("kills", "sent", "acknowledged", "lost", "half there", "count after re-send")


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
    book = loop.load.book
    kills = f"{loop.kills}, {loop.attendants_killed} of one attendant only"
    row = (kills, len(book.sent), loop.acknowledged, 0, 0, "stable")
    if rows is not None:
        run.note(f"- integrity_check is ok; all {rows} rows are those of a rebuild from the objects alone")
    run.note(f"- {there} instances were there before the re-send; other answers under way: {book.answers}")
    return Result((HEAD, row), "nothing acknowledged was lost, nothing half was seen; " + _judged(run, loop))


def _judged(run: Run, loop: KillLoop) -> str:
    """How long the server was away, in words. Raises AssertionError where that was too long.

    A start that had the machine for itself and its clients is judged by the clock. In one beside other work, the time
    is left out in which the thread that opens the doors could have run and others had the processors.
    """
    away = loop.away
    idle = [each for each in away if each.strangers <= IDLE]
    run.note(
        f"- seconds from kill -9 to an answer, least / median / most of {len(away)}, with the clients going on: C-ECHO "
        f"{spread(each.echo_s for each in away)}, C-STORE {spread(each.store_s for each in away)}, the doors of the "
        f"web, too: {spread(loop.ready_after)}"
    )
    run.note(
        f"- {len(idle)} of them on an otherwise idle machine: both {spread(each.s for each in idle)}; all, without the "
        f"time in which others had the processors: {spread(each.s - each.waited_s for each in away)}; CPU seconds of "
        f"all processes of the server by then: {spread(each.cpu_s for each in away)}"
    )
    late = [each for each in away if (each.s if each in idle else each.s - each.waited_s) > AWAY_S]
    assert not late, f"{len(late)} of {len(away)} starts took longer than {AWAY_S} s: {late[:3]}"
    how = f" ({len(idle)} of {len(away)} by the clock, the others without what others had of the processors)"
    return f"C-ECHO and C-STORE again within {AWAY_S:g} s" + how * (len(idle) < len(away))


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
