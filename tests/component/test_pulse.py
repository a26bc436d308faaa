"""The pulse of an index: it changes with every commit, of whichever process, and with nothing else."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from servers import unless
from sqlalchemy import text

from pacs.index import pulse, wal
from pacs.index.engine import Index, open_index

pytestmark = unless(wal.functions(("sqlite3_exec",)) is not None, "SQLite is inside of Python")

ELSEWHERE = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA wal_autocheckpoint=0")
for line in sys.stdin:
    db.execute(line)
    print("done", flush=True)
"""


def made(tmp_path: Path) -> tuple[Index, pulse.Pulse]:
    index = open_index(f"sqlite:///{tmp_path / 'index.db'}")
    found = index.pulse()
    assert found is not None
    assert index.pulse() is found
    return index, found


def test_every_commit_is_seen_and_nothing_else(tmp_path: Path) -> None:
    index, found = made(tmp_path)
    try:
        quiet = found.beat()
        with index.read() as conn:
            conn.execute(text("SELECT count(*) FROM cursor")).all()
        with pytest.raises(ZeroDivisionError):
            index.transact(lambda conn: conn.execute(text("INSERT INTO cursor VALUES ('a', 1)")) and 1 // 0)
        assert found.beat() == quiet, "nothing was committed"
        seen = {quiet}
        for number in range(20):
            index.transact(lambda conn, n=number: conn.execute(text(f"INSERT INTO cursor VALUES ('c{n}', 1)")) and None)
            seen.add(found.beat())
        assert len(seen) == 21
    finally:
        index.close()
    assert found.beat() is None


def test_commits_of_another_process_are_seen_and_those_under_way_are_not(tmp_path: Path) -> None:
    index, found = made(tmp_path)
    path = str(tmp_path / "index.db")
    with subprocess.Popen(
        [sys.executable, "-c", ELSEWHERE, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None

        def run(statement: str) -> bool:
            """Whether the pulse was another one when the other process had run it."""
            before = found.beat()
            print(statement, file=other.stdin, flush=True)
            assert other.stdout is not None
            assert other.stdout.readline() == "done\n"
            return found.beat() != before

        assert not run("BEGIN IMMEDIATE")
        assert not run("INSERT INTO cursor VALUES ('other', 1)")
        assert run("COMMIT")
        assert run("UPDATE cursor SET seq = 2")
        run("PRAGMA wal_checkpoint(TRUNCATE)")  # it may change then: who looks again finds the same version
        assert run("UPDATE cursor SET seq = 3")
        assert not run("SELECT count(*) FROM cursor")
        other.stdin.close()
    index.close()


def test_whoever_finds_it_unchanged_reads_what_was_committed(tmp_path: Path) -> None:
    """A reader that sees the same pulse before and after has read the very state that the pulse stands for."""
    index, found = made(tmp_path)
    index.transact(lambda conn: conn.execute(text("INSERT INTO cursor VALUES ('n', 0)")) and None)
    ended = threading.Event()

    def write() -> None:
        for _ in range(300):
            index.transact(lambda conn: conn.execute(text("UPDATE cursor SET seq = seq + 1")) and None)
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    told: dict[bytes, int] = {}
    try:
        while not ended.is_set():
            before = found.beat()
            with index.read() as conn:
                seq = conn.execute(text("SELECT seq FROM cursor WHERE name = 'n'")).scalar_one()
            if before is not None and found.beat() == before:
                assert told.setdefault(before, seq) == seq
    finally:
        writer.join()
        index.close()


def test_where_it_cannot_be_had_there_is_none(tmp_path: Path) -> None:
    assert pulse.opened(tmp_path / "nothing" / "index.db") is None
    plain = tmp_path / "plain.db"
    subprocess.run(
        [sys.executable, "-c", f"import sqlite3; sqlite3.connect({str(plain)!r}).execute('CREATE TABLE t (x)')"],
        check=True,
    )
    assert pulse.opened(plain) is None, "a database without a log"
