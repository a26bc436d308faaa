"""Durable transactions: one writer at a time with group commit for SQLite, retried pooled ones for PostgreSQL."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from pacs.errors import OutOfResources, Unavailable
from pacs.index.checkpoint import Checkpointer
from pacs.index.joiner import Joiner
from pacs.index.turn import Turn

T = TypeVar("T")
Work = Callable[[Connection], T]
"""A piece of work. One whose class has a static method `together(conn, works) -> list[T | None]` is done in one go with
its neighbours of the same class: an answer each, or None for one that wrote nothing and has to be done by itself. One
with a method `ready` is told when it has to wait for somebody else's transaction first."""

MAX_BATCH = 64
ROUNDS = 2
"""So many batches are written in a row by one who came for himself, while nobody sleeps who could take over."""
MAX_TRIES = 20
_TRIES = dict.fromkeys(("40001", "40P01", "23505"), MAX_TRIES) | {"55P03": 2}  # serialisation, deadlock, unique; lock


class Pending(Generic[T]):
    """What submitted work comes to, once it is durable. Lighter than a Future, of which one an instance was felt."""

    __slots__ = ("_answer", "_before", "_bell", "_failure", "done")

    def __init__(self, before: Callable[[Pending[Any]], None] | None = None) -> None:
        """`before` is called by whoever asks for the result while there is none; it returns when there is."""
        self._before = before
        self._answer: T | None = None
        self._failure: BaseException | None = None
        self._bell: threading.Lock | None = None
        self.done = False

    def result(self) -> T:
        """Wait; what the work returned, durable now. Raises what it raised, with nothing changed."""
        if not self.done and self._before is not None:
            self._before(self)
        if self._failure is not None:
            raise self._failure
        return self._answer  # type: ignore[return-value]

    def succeed(self, answer: T) -> None:
        """Told once."""
        self._answer = answer
        self.done = True
        self.wake()

    def fail(self, failure: BaseException) -> None:
        """Told once."""
        self._failure = failure
        self.done = True
        self.wake()

    @property
    def awaited(self) -> bool:
        """Whether somebody sleeps until `wake` is called."""
        return self._bell is not None

    def prepare_sleep(self) -> threading.Lock:
        """What the caller is going to acquire in order to sleep until `wake` is called."""
        self._bell = threading.Lock()
        self._bell.acquire()
        return self._bell

    def sleep(self, bell: threading.Lock) -> None:
        """Return when it is done, or `wake` was called since `bell` was prepared."""
        if not self.done:  # which is told before the bell is looked for: one of the two is seen
            bell.acquire()

    def wake(self) -> None:
        """Let whoever sleeps look again."""
        bell, self._bell = self._bell, None
        if bell is not None:
            bell.release()


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

    def joiner(self) -> Joiner | None:
        """By which C alone writes instances that join their series, or None where it cannot."""

    def joined(self, count: int) -> None:
        """Told how many instances were written by it."""

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
    """One thread at a time takes all waiting work, one COMMIT for all, then everybody answers.

    Whoever comes while nobody writes, writes: a switch of threads would cost as much as a statement. What comes
    meanwhile waits and goes together next, done by one of those who wait for it. With SQLite in WAL mode and
    synchronous=FULL a commit costs one fsync, which the whole batch shares; a batch of nothing but redoable work is
    committed with NORMAL, without it. Nothing is visible to readers before the commit.
    """

    def __init__(
        self, engine: Engine, wal: Path, turn: Turn, checkpoints: Checkpointer, joiner: Callable[[], Joiner | None]
    ) -> None:
        """`wal` is the write-ahead log of the database; all who write to it take the `turn`; `joiner` opens one."""
        self._engine = engine
        self._wal = wal
        self._turn = turn
        self._checkpoints = checkpoints
        self._open_joiner: Callable[[], Joiner | None] | None = joiner  # until it was asked for
        self._joiner: Joiner | None = None
        self._joining = threading.Lock()
        self._full = True  # how the connection was opened
        self._queue: deque[_Waiting] = deque()
        self._lock = threading.Lock()
        self._writer: int | None = None  # the thread that writes now
        self._conn: Connection | None = None
        self._closed = False

    def submit(self, work: Work[T], *, redoable: bool = False) -> Pending[T]:
        me = threading.get_ident()
        if self._writer == me:
            raise RuntimeError("a transaction within a transaction: it would wait for itself")
        pending: Pending[T] = Pending(self._await)
        with self._lock:
            if self._closed:
                raise Unavailable("the index is closed")
            self._queue.append((work, pending, redoable))
            free = self._writer is None
            if free:
                self._writer = me
        if free:
            self._write()
        return pending

    def _await(self, pending: Pending[Any]) -> None:
        """Return when it is done: by us, unless somebody else writes and takes it along."""
        while True:
            with self._lock:
                if pending.done:
                    return
                free = self._writer is None
                if free:
                    self._writer = threading.get_ident()
                else:
                    bell = pending.prepare_sleep()
            if free:
                self._write()
            else:
                pending.sleep(bell)

    def _write(self) -> None:
        """Do what waits, as the one who writes; then it is somebody else's turn."""
        batch = list[_Waiting]()
        try:
            for _ in range(ROUNDS):
                batch = [self._queue.popleft() for _ in range(min(len(self._queue), MAX_BATCH))]
                if batch:
                    if self._conn is None:
                        self._conn = self._engine.connect()
                    if not self._turn.take(wait=False):
                        _prepare(batch)
                        self._turn.take()
                    try:
                        self._commit(self._conn, batch)
                    finally:
                        self._turn.give()
                    self._checkpoints.committed(len(batch))
                if not self._queue or any(pending.awaited for _, pending, _ in list(self._queue)):
                    break
        except Exception as error:
            for _, pending, _ in batch:
                if not pending.done:
                    pending.fail(translated(error))
        finally:
            for _, pending, _ in batch:
                if not pending.done:  # whatever ended us: nobody may wait for ever
                    pending.fail(Unavailable("the index is being closed"))
            with self._lock:
                self._writer = None
                heir = next((pending for _, pending, _ in self._queue if pending.awaited), None)
                if heir is not None:
                    heir.wake()

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

    def joiner(self) -> Joiner | None:
        with self._joining:
            if self._open_joiner is not None:
                self._joiner, self._open_joiner = self._open_joiner(), None
            return self._joiner

    def joined(self, count: int) -> None:
        self._checkpoints.committed(count)

    def close(self) -> None:
        last: Pending[None] = Pending(self._await)
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._queue.append((lambda _: None, last, True))
        last.result()
        with self._joining:
            self._open_joiner = None
            if self._joiner is not None:
                self._joiner.close()
        self._checkpoints.close()
        if self._conn is not None:
            self._conn.close()
        self._turn.close()
        self.make_durable()

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
            driver: Any = conn.connection.driver_connection
            driver.execute("BEGIN IMMEDIATE").close()
            try:
                answer = work(conn)
                conn.commit() if conn.in_transaction() else driver.commit()
            except BaseException:
                _undo(conn)
                raise
        except Exception as error:
            pending.fail(translated(error))
        else:
            pending.succeed(answer)

    def _sync_on_commit(self, conn: Connection, wanted: bool) -> None:
        if wanted is not self._full:
            driver: Any = conn.connection.driver_connection
            driver.execute(f"PRAGMA synchronous={'FULL' if wanted else 'NORMAL'}").close()
            self._full = wanted


def _prepare(batch: Sequence[_Waiting]) -> None:
    """Let work that can get ready do so while somebody else writes: what it raises, it raises again in its turn."""
    for work, _, _ in batch:
        ready = getattr(work, "ready", None)
        if ready is not None:
            with suppress(Exception):
                ready()


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
        _undo(conn)
        raise


def _undo(conn: Connection) -> None:
    """End a transaction with nothing of it left."""
    # A COMMIT that failed, as on a full disk, leaves SQLAlchemy with a transaction that is neither active nor gone.
    conn.rollback()
    driver: Any = conn.connection.driver_connection
    driver.rollback()


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

    def joiner(self) -> None:
        """None: PostgreSQL is asked by its driver alone."""

    def joined(self, count: int) -> None:
        """Nothing has to be done for it."""

    def close(self) -> None:
        """Nothing is waiting here: every transaction belongs to its caller."""
