"""SQLite's log is copied into the database beside the commits, by no commit, and begins anew."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import Connection

from pacs.index import checkpoint
from pacs.index.engine import Index, open_index

PATIENCE_S = 60.0


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for a database whose log is copied early and often."""
    monkeypatch.setattr(checkpoint, "WORKS", 40)
    monkeypatch.setattr(checkpoint, "IDLE_WORKS", 1)
    monkeypatch.setattr(checkpoint, "IDLE_S", 0.05)
    monkeypatch.setattr(checkpoint, "PAUSE_S", 0.01)
    return tmp_path / "index.db"


def write(conn: Connection) -> int:
    """One more row of about a page; how many there are."""
    conn.exec_driver_sql("CREATE TABLE IF NOT EXISTS filling (id INTEGER PRIMARY KEY, bytes BLOB)")
    conn.exec_driver_sql("INSERT INTO filling (bytes) VALUES (randomblob(3500))")
    return int(conn.exec_driver_sql("SELECT count(*) FROM filling").scalar_one())


def log_of(database: Path) -> int:
    return database.with_name("index.db-wal").stat().st_size


def test_the_log_begins_anew_while_others_write(database: Path) -> None:
    indexes: list[Index] = [open_index(f"sqlite:///{database}") for _ in range(2)]  # as two processes have them
    ended = threading.Event()
    counts: list[int] = []
    failures: list[BaseException] = []

    def run(index: Index) -> None:
        try:
            while not ended.is_set():
                counts.append(index.transact(write))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in indexes]
    for thread in threads:
        thread.start()
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and not failures:
        # Each row is at least two pages in the log: when there are four times as many bytes, it has begun anew.
        if counts and 8192 * len(counts) > 4 * log_of(database) and len(counts) > 300:
            break
        time.sleep(0.05)
    ended.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert failures == []
    assert 8192 * len(counts) > 4 * log_of(database)
    assert sorted(counts) == list(range(1, len(counts) + 1))
    for index in indexes:
        index.close()
    with sqlite3.connect(database) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert conn.execute("SELECT count(*) FROM filling").fetchone() == (len(counts),)
    conn.close()


def test_an_idle_moment_is_used(database: Path) -> None:
    index = open_index(f"sqlite:///{database}")
    before = database.stat().st_size
    for _ in range(30):  # fewer than make a busy thread begin
        index.transact(write)
    until = time.monotonic() + PATIENCE_S
    while database.stat().st_size < before + 30 * 3500 and time.monotonic() < until:
        time.sleep(0.02)
    assert database.stat().st_size >= before + 30 * 3500
    index.close()
