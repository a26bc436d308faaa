"""Durable transactions: one writer thread with group commit for SQLite, retried pooled transactions for PostgreSQL."""

from __future__ import annotations

import os
import queue
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from pacs.errors import OutOfResources, Unavailable
from pacs.index.turn import Turn

T = TypeVar("T")
Work = Callable[[Connection], T]
"""A piece of work. One whose class has a static method `together(conn, works) -> list[T | None]` is done in one go with
its neighbours of the same class: an answer each, or None for one that wrote nothing and has to be done by itself."""

MAX_BATCH = 64
MAX_TRIES = 20
_TRIES = {"40001": MAX_TRIES, "40P01": MAX_TRIES, "55P03": 2, "23505": 3}  # serialisation, deadlock, lock, unique race


class Pending(Generic[T]):
    """What submitted work comes to, once it is durable. Lighter than a Future, of which one an instance was felt."""

    __slots__ = ("_answer", "_done", "_failure")

    def __init__(self) -> None:
        self._done = threading.Lock()
        self._done.acquire()
        self._answer: T | None = None
        self._failure: BaseException | None = None

    def result(self) -> T:
        """Wait; what the work returned, durable now. Raises what it raised, with nothing changed."""
        with self._done:
            if self._failure is not None:
                raise self._failure
            return self._answer  # type: ignore[return-value]

    def succeed(self, answer: T) -> None:
        """Told once by the writer."""
        self._answer = answer
        self._done.release()

    def fail(self, failure: BaseException) -> None:
        """Told once by the writer."""
        self._failure = failure
        self._done.release()


_Waiting = tuple[Work[Any], Pending[Any], bool]
"""Work, whom it is told to, and whether it can be done again."""


class Writer(Protocol):
    """Runs a piece of work as one transaction; what it returns is durable when it is given."""

    def submit(self, work: Work[T], *, redoable: bool = False) -> Pending[T]:
        """The work on its way; other things may be done before `result()` is asked for.

        Of `redoable` work the writer may leave it to the caller to do it again after a power failure, until
        `make_durable` was called: all of it that was done before some moment, or what was done up to it.
        """

    def make_durable(self) -> None:
        """Return when all that was done before is on the disk, redoable or not. Raises Unavailable."""

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
    """One thread that takes all waiting work, one COMMIT for all, then answers.

    With SQLite in WAL mode and synchronous=FULL a commit costs one fsync, which the whole batch shares; a batch of
    nothing but redoable work is committed with NORMAL, without it. Whoever submits waits; nothing is visible to
    readers before the commit.
    """

    def __init__(self, engine: Engine, wal: Path, turn: Turn) -> None:
        """`wal` is the write-ahead log of the database, `turn` what other processes that write to it have, too."""
        self._engine = engine
        self._wal = wal
        self._turn = turn
        self._full = True  # how the connection was opened
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="index-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Work[T], *, redoable: bool = False) -> Pending[T]:
        if threading.current_thread() is self._thread:
            raise RuntimeError("a transaction within a transaction: it would wait for itself")
        pending: Pending[T] = Pending()
        with self._lock:
            if self._closed:
                raise Unavailable("the index is closed")
            self._queue.put((work, pending, redoable))
        return pending

    def make_durable(self) -> None:
        # SQLite keeps no locks on its log, so closing it here lets go of none (as it would with the database).
        try:
            fd = os.open(self._wal, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:  # all is in the database itself, which SQLite synced before it removed the log
            return
        except OSError as error:
            raise Unavailable(f"cannot sync the index: {error.strerror}") from error
        try:
            os.fdatasync(fd)
        except OSError as error:
            raise Unavailable(f"cannot sync the index: {error.strerror}") from error
        finally:
            os.close(fd)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join()
        self._turn.close()
        self.make_durable()

    def _run(self) -> None:
        try:
            with self._engine.connect() as conn:
                while (first := self._queue.get()) is not None:
                    with self._turn:
                        self._commit(conn, self._batch(first))
        finally:
            with self._lock:
                self._closed = True
            # Nobody may wait for ever, whatever ended this thread.
            while not self._queue.empty():
                if (waiting := self._queue.get()) is not None:
                    waiting[1].fail(Unavailable("the index is closed"))

    def _batch(self, first: _Waiting) -> list[_Waiting]:
        """It and all that waits behind it, at most `MAX_BATCH`."""
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
        runs = [(how, [work for work, _, _ in run]) for how, run in groupby(batch, _together)]
        try:
            self._sync_on_commit(conn, not all(redoable for _, _, redoable in batch))
            with _transaction(conn):
                outcomes = [each for how, works in runs for each in _outcomes(conn, how, works, only=len(runs) == 1)]
        except Exception:
            # The transaction itself is lost (a full disk ends it): nothing of the batch happened, and whoever is
            # not to blame gets another chance.
            for waiting in batch:
                self._alone(conn, waiting)
            return
        for (_, pending, _), (answer, failure) in zip(batch, outcomes, strict=True):
            if failure is None:
                pending.succeed(answer)
            else:
                pending.fail(failure)

    def _alone(self, conn: Connection, waiting: _Waiting) -> None:
        work, pending, redoable = waiting
        try:
            self._sync_on_commit(conn, not redoable)
            with _transaction(conn):
                answer = work(conn)
        except Exception as error:
            pending.fail(translated(error))
        else:
            pending.succeed(answer)

    def _sync_on_commit(self, conn: Connection, wanted: bool) -> None:
        if wanted is not self._full:
            driver: Any = conn.connection.driver_connection
            driver.execute(f"PRAGMA synchronous={'FULL' if wanted else 'NORMAL'}").close()
            self._full = wanted


def _together(waiting: _Waiting) -> Any:
    return getattr(type(waiting[0]), "together", None)


_Outcome = tuple[Any, BaseException | None]


def _outcomes(conn: Connection, together: Any, works: Sequence[Work[Any]], *, only: bool) -> Iterator[_Outcome]:
    """What each piece of work came to, in order: in one go where that is possible, else in a savepoint each.

    Works that are the `only` ones of the transaction need no savepoint to go together: nobody else is hurt.
    """
    answers: Sequence[Any] = [None] * len(works)
    if together is not None and len(works) > 1:
        if only:
            answers = together(conn, works)
        else:
            done, failure = _saved(conn, lambda conn: together(conn, works))
            answers = answers if failure is not None else done
    for work, answer in zip(works, answers, strict=True):
        yield (answer, None) if answer is not None else _saved(conn, work)


def _saved(conn: Connection, work: Work[Any]) -> _Outcome:
    """What the work came to; when it raised, nothing of it stays."""
    driver: Any = conn.connection.driver_connection
    driver.execute("SAVEPOINT work").close()
    outcome: _Outcome
    try:
        outcome = work(conn), None
    except Exception as error:
        outcome = None, translated(error)
        driver.execute("ROLLBACK TO work").close()
    driver.execute("RELEASE work").close()
    return outcome


@contextmanager
def _transaction(conn: Connection) -> Iterator[None]:
    """A SQLite transaction, begun on the driver: SQLAlchemy's own way there costs as much as an INSERT."""
    driver: Any = conn.connection.driver_connection
    driver.execute("BEGIN IMMEDIATE").close()
    try:
        yield
        conn.commit() if conn.in_transaction() else driver.commit()
    except BaseException:
        # A COMMIT that failed, as on a full disk, leaves SQLAlchemy with a transaction that is neither active nor gone.
        conn.rollback()
        driver.rollback()
        raise


class Pooled:
    """A transaction on a pooled connection, tried again after a serialisation failure, deadlock or unique race."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def submit(self, work: Work[T], *, redoable: bool = False) -> Pending[T]:
        """Done at once: every transaction belongs to the thread that asks for it."""
        pending: Pending[T] = Pending()
        try:
            pending.succeed(self._transact(work))
        except Exception as error:
            pending.fail(error)
        return pending

    def _transact(self, work: Work[T]) -> T:
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

    def make_durable(self) -> None:
        """All is: synchronous_commit is on."""

    def close(self) -> None:
        """Nothing is waiting here: every transaction belongs to its caller."""
