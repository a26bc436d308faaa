"""Durable transactions: one writer thread with group commit for SQLite, retried pooled transactions for PostgreSQL."""

from __future__ import annotations

import queue
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from pacs.errors import OutOfResources, Unavailable

T = TypeVar("T")
Work = Callable[[Connection], T]

_Waiting = tuple[Work[Any], Future[Any]]

MAX_BATCH = 64
MAX_TRIES = 20
_TRIES = {"40001": MAX_TRIES, "40P01": MAX_TRIES, "55P03": 2, "23505": 3}  # serialisation, deadlock, lock, unique race


class Writer(Protocol):
    """Runs a piece of work as one transaction; what it returns is durable when `transact` returns."""

    def transact(self, work: Work[T]) -> T:
        """What `work` returns, once its changes are durable; whatever it raises, with nothing changed."""

    def close(self) -> None:
        """Finish what was accepted, then refuse."""


def translated(error: Exception) -> Exception:
    """The error of ours that a database error means, or the error itself."""
    text = str(getattr(error, "orig", error)).lower()
    if "disk is full" in text or "no space left" in text or "disk full" in text:
        return OutOfResources("no space left for the index")
    if isinstance(error, OperationalError | PoolTimeout | sqlite3.OperationalError):
        return Unavailable(f"the index cannot be reached or is busy: {type(getattr(error, 'orig', error)).__name__}")
    return error


class GroupCommit:
    """One thread that takes all waiting work, a savepoint each, one COMMIT for all, then answers.

    With SQLite in WAL mode and synchronous=FULL a commit costs one fsync, which the whole batch shares. Whoever
    submits waits; nothing is visible to readers before the commit.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="index-writer", daemon=True)
        self._thread.start()

    def transact(self, work: Work[T]) -> T:
        if threading.current_thread() is self._thread:
            raise RuntimeError("transact called within a transaction: it would wait for itself")
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise Unavailable("the index is closed")
            self._queue.put((work, future))
        return future.result()

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            with self._engine.connect() as conn:
                while (batch := self._next_batch()) is not None:
                    self._commit(conn, batch)
        finally:
            with self._lock:
                self._closed = True
            # Nobody may wait for ever, whatever ended this thread.
            while not self._queue.empty():
                if (waiting := self._queue.get()) is not None:
                    waiting[1].set_exception(Unavailable("the index is closed"))

    def _next_batch(self) -> list[_Waiting] | None:
        """All that waits, at least one and at most `MAX_BATCH`; None at the end."""
        first = self._queue.get()
        if first is None:
            return None
        batch = [first]
        while len(batch) < MAX_BATCH and not self._queue.empty():
            following = self._queue.get()
            if following is None:
                self._queue.put(None)  # the last one, since nothing is accepted any more
                break
            batch.append(following)
        return batch

    def _commit(self, conn: Connection, batch: list[_Waiting]) -> None:
        if len(batch) == 1:
            self._alone(conn, batch[0])
            return
        outcomes: list[tuple[Any, BaseException | None]] = []
        try:
            with conn.begin():
                for work, _ in batch:
                    conn.exec_driver_sql("SAVEPOINT work")
                    try:
                        outcomes.append((work(conn), None))
                    except Exception as error:
                        outcomes.append((None, translated(error)))
                        conn.exec_driver_sql("ROLLBACK TO work")
                    conn.exec_driver_sql("RELEASE work")
        except Exception:
            # The transaction itself is lost (a full disk ends it): nothing of the batch happened, and whoever is
            # not to blame gets another chance.
            for waiting in batch:
                self._alone(conn, waiting)
            return
        for (_, future), (answer, failure) in zip(batch, outcomes, strict=True):
            if failure is None:
                future.set_result(answer)
            else:
                future.set_exception(failure)

    @staticmethod
    def _alone(conn: Connection, waiting: _Waiting) -> None:
        work, future = waiting
        try:
            with conn.begin():
                answer = work(conn)
        except Exception as error:
            future.set_exception(translated(error))
        else:
            future.set_result(answer)


class Pooled:
    """A transaction on a pooled connection, tried again after a serialisation failure, deadlock or unique race."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def transact(self, work: Work[T]) -> T:
        tries = 0
        while True:
            tries += 1
            try:
                with self._engine.begin() as conn:
                    return work(conn)
            except (DBAPIError, PoolTimeout) as error:
                state = getattr(getattr(error, "orig", None), "sqlstate", None)
                if tries >= _TRIES.get(str(state), 0):
                    if isinstance(error, IntegrityError):
                        raise
                    raise translated(error) from error
            time.sleep(random.uniform(0, min(0.005 * 2**tries, 0.3)))  # noqa: S311  jitter needs no secrecy

    def close(self) -> None:
        """Nothing is waiting here: every transaction belongs to its caller."""
