"""SQLite's log brought into its database by a thread of its own, so that no commit has to wait for that.

Left to SQLite, the commit that makes the log long enough copies it, tens of milliseconds, while everybody waits. Here
the thread copies while others go on committing, and takes the turn to write only for what came meanwhile: then the log
begins anew. SQLite's own checkpoint is left for what this one does not see: single transactions of any length.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from pathlib import Path

from pacs import native
from pacs.index.turn import Turn

log = logging.getLogger(__name__)

WORKS = 700
"""After so many pieces of work the log is copied: each page is written once, however often it is in the log.

An arriving instance writes twelve pages. How long the log really is cannot be looked up: opening the file that tells,
and closing it, would let go of SQLite's locks on it.
"""

IDLE_WORKS = 64
"""So many are enough where for a moment nobody commits."""

LAST_RESORT_PAGES = 24_000
"""What SQLite itself is told."""

PAUSE_S = 0.1
IDLE_S = 1.0
BUSY_S = 10.0


class Checkpointer:
    """The thread for one database, begun with the first commit it is told of."""

    def __init__(self, database: Path, turn: Path) -> None:
        """`turn` is the lock file of those who write (`pacs.index.turn`)."""
        self._database = database
        self._turn = turn
        self._telling = threading.Lock()
        self._works = 0
        self._copied = 0
        self._news = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def committed(self, works: int) -> None:
        """Told of commits, and how many pieces of work were in them; by any thread."""
        with self._telling:
            self._works += works
            if not self._news.is_set():
                self._news.set()
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
                    self._thread.start()

    def close(self) -> None:
        """Return when the thread has ended, after the checkpoint in hand."""
        self._closed.set()
        self._news.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            turn = Turn(self._turn, native.load())
            connection = sqlite3.connect(self._database, BUSY_S, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            log.warning("the log of the index is left to SQLite: %s", error)
            return
        try:
            while not self._closed.wait(PAUSE_S):
                idle = not self._news.wait(IDLE_S)
                works = self._works
                if works - self._copied >= (IDLE_WORKS if idle else WORKS):
                    self._copy(connection, turn)
                    self._copied = works
                elif idle:
                    self._news.wait()
                self._news.clear()
        finally:
            connection.close()
            turn.close()

    @staticmethod
    def _copy(connection: sqlite3.Connection, turn: Turn) -> None:
        try:
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if not busy:  # else another process is at it
                with turn:
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:
            log.warning("the log of the index could not be copied, it is tried again: %s", error)
