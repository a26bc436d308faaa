"""SQLite's log, written a transaction at a time: what a killed process leaves holds all that was committed."""

from __future__ import annotations

import random
import resource
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from servers import missing

from pacs import native
from pacs.index import wal

Connect = Callable[[str], sqlite3.Connection]

TABLES = 6


def test_the_compiled_part_is_used_where_it_was_built() -> None:
    assert wal.available() == (native.load() is not None)


@pytest.fixture(params=["together", "one by one"])
def connect(request: pytest.FixtureRequest) -> Connect:
    """How the writer opens the database."""
    if request.param == "together":
        if not wal.available():
            missing("the compiled part (python -m pacs.native.make)")
        return wal.connect
    return lambda path: sqlite3.connect(path, check_same_thread=False)


def opened(connect: Connect, path: Path, *, cache: int = -2000, page: int = 4096) -> sqlite3.Connection:
    connection = connect(str(path))
    connection.isolation_level = None
    # Where pages leave the cache and a savepoint is undone, SQLite (3.40) leaves a log that a kill makes unreadable
    small = (f"page_size={page}", f"cache_size={cache}", "cache_spill=OFF")
    for pragma in (*small, "journal_mode=WAL", "wal_autocheckpoint=0"):
        connection.execute(f"PRAGMA {pragma}")
    for number in range(TABLES):
        connection.execute(f"CREATE TABLE IF NOT EXISTS t{number} (id INTEGER PRIMARY KEY, held BLOB)")
    return connection


def left_by_a_kill(path: Path, folder: Path) -> dict[str, list[tuple[int, bytes]]]:
    """The rows of a copy of what the files hold now, opened by SQLite alone; its shared memory is gone."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", folder / f"index.db{suffix}")
    copy = sqlite3.connect(folder / "index.db")
    try:
        assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return rows(copy)
    finally:
        copy.close()


def rows(connection: sqlite3.Connection) -> dict[str, list[tuple[int, bytes]]]:
    return {f"t{n}": connection.execute(f"SELECT id, held FROM t{n} ORDER BY id").fetchall() for n in range(TABLES)}


def changes(connection: sqlite3.Connection, chance: random.Random, *, savepoints: bool = True) -> None:
    """Some changes of some tables, some of them undone."""
    for _ in range(chance.randrange(1, 12)):
        table = f"t{chance.randrange(TABLES)}"
        blob = chance.randbytes(chance.choice((10, 300, 3000, 20000)))
        match chance.randrange(5 if savepoints else 4):
            case 0 | 1:
                connection.execute(f"INSERT INTO {table} (held) VALUES (?)", (blob,))
            case 2:
                connection.execute(f"UPDATE {table} SET held = ? WHERE id % 3 = ?", (blob, chance.randrange(3)))
            case 3:
                connection.execute(f"DELETE FROM {table} WHERE id % 7 = ?", (chance.randrange(7),))
            case _:
                connection.execute("SAVEPOINT inner_one")
                connection.execute(f"UPDATE {table} SET held = zeroblob(9000)")
                connection.execute("ROLLBACK TO inner_one")
                connection.execute("RELEASE inner_one")


@pytest.mark.parametrize(
    ("cache", "page"),
    [(-2000, 4096), (4, 4096), (-2000, 512), (3, 16384)],
    ids=["usual", "small cache", "small pages", "large pages"],
)
def test_what_was_committed_is_there_after_a_kill(connect: Connect, tmp_path: Path, cache: int, page: int) -> None:
    path, chance = tmp_path / "index.db", random.Random(f"{cache} {page}")
    ours = opened(connect, path, cache=cache, page=page)
    others = opened(connect, path, cache=cache, page=page)
    reader = sqlite3.connect(path)
    for turn in range(40):
        writer = chance.choice((ours, ours, ours, others))
        before = rows(reader)
        writer.execute("BEGIN IMMEDIATE")
        changes(writer, chance)
        if chance.random() < 0.2:
            writer.execute("ROLLBACK")
            assert rows(reader) == before
        else:
            expected = rows(writer)
            writer.execute("COMMIT")
            assert rows(reader) == expected
            if turn % 4 == 0:
                assert left_by_a_kill(path, tmp_path / "copy") == expected
        if chance.random() < 0.15:
            chance.choice((ours, others, reader)).execute(
                f"PRAGMA wal_checkpoint({chance.choice(('PASSIVE', 'RESTART', 'TRUNCATE'))})"
            ).fetchall()
        if chance.random() < 0.1:
            writer.execute(f"PRAGMA synchronous={chance.choice(('FULL', 'NORMAL'))}")
    expected = rows(reader)
    assert left_by_a_kill(path, tmp_path / "copy") == expected
    for each in (ours, others, reader):
        each.close()
    with sqlite3.connect(path) as plain:
        assert rows(plain) == expected
    plain.close()


def test_a_log_that_cannot_grow_fails_the_transaction_and_nothing_else(connect: Connect, tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    writer = opened(connect, path)
    writer.execute("INSERT INTO t0 (held) VALUES (?)", (b"before",))
    room = Path(f"{path}-wal").stat().st_size + 30_000
    before, action = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        writer.execute("BEGIN IMMEDIATE")
        for number in range(TABLES):
            writer.execute(f"INSERT INTO t{number} (held) VALUES (?)", (bytes(8000),))
        with pytest.raises(sqlite3.OperationalError):
            writer.execute("COMMIT")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, action)
    if writer.in_transaction:
        writer.execute("ROLLBACK")
    assert left_by_a_kill(path, tmp_path / "copy")["t0"] == [(1, b"before")]
    writer.execute("INSERT INTO t1 (held) VALUES (?)", (b"behind",))
    after = left_by_a_kill(path, tmp_path / "copy")
    assert (after["t0"], after["t1"]) == ([(1, b"before")], [(1, b"behind")])
    writer.close()


def test_pages_that_leave_the_cache_early_may_fail_their_transaction_and_nothing_else(tmp_path: Path) -> None:
    if not wal.available():
        missing("the compiled part (python -m pacs.native.make)")
    path, chance, failed = tmp_path / "index.db", random.Random(1), 0
    writers = [opened(wal.connect, path, cache=3) for _ in range(2)]
    for writer in writers:
        writer.execute("PRAGMA cache_spill=1")
    reader = sqlite3.connect(path)
    for _ in range(40):
        writer, expected = chance.choice(writers), rows(reader)
        try:
            writer.execute("BEGIN IMMEDIATE")
            changes(writer, chance, savepoints=False)
            held = rows(writer)
            if chance.random() < 0.7:
                writer.execute("COMMIT")
                expected = held
            else:
                writer.execute("ROLLBACK")
        except sqlite3.OperationalError:
            failed += 1
            if writer.in_transaction:
                writer.execute("ROLLBACK")
        assert rows(reader) == expected
        assert left_by_a_kill(path, tmp_path / "copy") == expected
    assert 0 < failed < 40
    for each in (*writers, reader):
        each.close()


def test_a_folder_may_have_any_name(connect: Connect, tmp_path: Path) -> None:
    folder = tmp_path / "odd ?#%41&vfs=x ü"
    folder.mkdir()
    writer = opened(connect, folder / "index.db")
    writer.execute("INSERT INTO t0 (held) VALUES (?)", (b"x",))
    assert sorted(each.name for each in folder.iterdir()) == ["index.db", "index.db-shm", "index.db-wal"]
    writer.close()
