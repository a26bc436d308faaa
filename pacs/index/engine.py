"""The index database: how it is opened, read from and written to, the same on SQLite and PostgreSQL."""

from __future__ import annotations

import random
import sqlite3
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, PoolProxiedConnection, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from pacs import native
from pacs.errors import InvalidInput, Unavailable
from pacs.index import joiner, joining, pulse, wal
from pacs.index.checkpoint import LAST_RESORT_PAGES, Checkpointer
from pacs.index.joiner import Joiner
from pacs.index.migrate import migrate
from pacs.index.pulse import Pulse
from pacs.index.statement import Found, Statement, Values
from pacs.index.turn import Turn
from pacs.index.writer import GroupCommit, Pending, Pooled, T, Work, Writer, translated

BUSY_TIMEOUT_MS = 10_000
_PRAGMAS = (f"busy_timeout={BUSY_TIMEOUT_MS}", "foreign_keys=ON", "temp_store=MEMORY")
STATEMENT_TIMEOUT_MS = 15_000
STALLED_MS = 60_000
"""PostgreSQL ends a transaction of which it has heard nothing for so long: a process that was stopped holds locks that
everybody waits for, and must find when it wakes that its transaction is no more."""
_SPARE = 8


class Index:
    """The index of one archive. Safe from any thread."""

    def __init__(self, reader: Engine, writer: Writer, engines: tuple[Engine, ...]) -> None:
        self._reader = reader
        self._writer = writer
        self._engines = engines
        # Connections of `fetch`, kept out of the pool between two calls: its check-out costs more than the look-up.
        self._spare: deque[PoolProxiedConnection] = deque()
        # `version` is told by one and the same connection: each has numbers of its own.
        self._watching = reader.raw_connection() if reader.dialect.name == "sqlite" else None
        self._pulse: Pulse | None = None

    @property
    def dialect(self) -> str:
        """ "sqlite" or "postgresql"."""
        return self._reader.dialect.name

    def transact(self, work: Work[T]) -> T:
        """What `work(connection)` returns, once its changes are durable; whatever it raises, with nothing changed.

        The work may run more than once (after a conflict, or when others spoilt the transaction it shared) and on
        another thread: it must touch nothing but the connection. Raises Unavailable or OutOfResources when the database
        fails.
        """
        return self._writer.submit(work).result()

    def submit(self, work: Work[T], *, redoable: bool = False) -> Pending[T]:
        """The same on its way, for those who have something to do meanwhile: its `result()` is what `transact` returns.

        On PostgreSQL it is done at once. What is `redoable` may be lost in a power failure until `make_durable` was
        called: the caller does it again then, from what else is durable.
        """
        return self._writer.submit(work, redoable=redoable)

    def make_durable(self) -> None:
        """Return when all that was answered before is on the disk, redoable or not. Raises Unavailable."""
        self._writer.make_durable()

    def joiner(self) -> Joiner | None:
        """By which C alone writes instances that join their series, or None where it cannot; the same each time."""
        return self._writer.joiner()

    def joined(self, count: int) -> None:
        """Told how many instances were written by the joiner since it was told last."""
        self._writer.joined(count)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection for reading: on SQLite one snapshot for as long as it is held."""
        try:
            with self._reader.connect() as conn:
                yield conn
        except (DBAPIError, PoolTimeout) as error:
            raise translated(error) from error

    def fetch(self, statement: Statement, values: Values) -> list[Found]:
        """The rows of one statement, read on a connection of its own."""
        if self.dialect != "sqlite":
            with self.read() as conn:
                return statement.all(conn, values)
        try:
            connection = self._spared() or self._reader.raw_connection()
            try:
                found = statement.on_driver(connection.driver_connection, self._reader.dialect, values)
            except BaseException:
                connection.close()
                raise
            if len(self._spare) < _SPARE:
                self._spare.append(connection)
            else:
                connection.close()
        except (sqlite3.Error, DBAPIError, PoolTimeout) as error:
            raise translated(error) from error
        return found

    def _spared(self) -> PoolProxiedConnection | None:
        try:
            return self._spare.pop()
        except IndexError:
            return None

    def version(self) -> int | None:
        """A number that stays for as long as nobody, in any process, has committed a change; None where none is known.

        Asking costs microseconds and never waits. PostgreSQL has no such number.
        """
        if self._watching is None:
            return None
        driver: Any = self._watching.driver_connection
        try:
            return int(driver.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error as error:
            raise translated(error) from error

    def pulse(self) -> Pulse | None:
        """What changes with each commit, asked without a call of the system; None where it cannot be had.

        It ends with the index. To be asked for once, by one thread.
        """
        if self._watching is not None and self._pulse is None and self._reader.url.database is not None:
            self._pulse = pulse.opened(Path(self._reader.url.database))
        return self._pulse

    def close(self) -> None:
        """Finish accepted transactions and let go of the database."""
        self._writer.close()
        if self._pulse is not None:
            self._pulse.close()
        if self._watching is not None:
            self._watching.close()
        while (connection := self._spared()) is not None:
            connection.close()
        for engine in self._engines:
            engine.dispose()


def open_index(url: str) -> Index:
    """The index at a SQLAlchemy URL: `sqlite:////path/index.db` or `postgresql+psycopg://…`; makes the schema.

    Raises InvalidInput for another database and Unavailable where it cannot be reached.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise InvalidInput("setting index: not a database URL") from error
    match parsed.get_backend_name():
        case "sqlite":
            return _open_sqlite(parsed)
        case "postgresql":
            return _open_postgresql(parsed)
        case other:
            raise InvalidInput(f"setting index: no support for {other}; use sqlite or postgresql+psycopg://")


def _migrated(engine: Engine) -> None:
    try:
        with engine.begin() as conn:
            migrate(conn)
    except BaseException as error:
        engine.dispose()
        if not isinstance(error, DBAPIError):
            raise
        raise Unavailable(f"the index cannot be opened: {type(error.orig).__name__}: {error.orig}") from error


def _open_sqlite(url: URL) -> Index:
    if not url.database or url.database == ":memory:":
        raise InvalidInput("setting index: SQLite needs a file")
    path = url.database
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"the index cannot be opened: {error.strerror}") from error
    with suppress(OSError):  # SQLite says it better
        Path(path).touch(mode=0o600)  # its log beside it gets the same mode

    def engine(begin: str, pragmas: tuple[str, ...], setup: tuple[str, ...] = (), **options: Any) -> Engine:
        made = create_engine(url, connect_args={"check_same_thread": False}, **options)

        @event.listens_for(made, "connect")
        def _connected(connection: Any, _record: Any) -> None:
            connection.isolation_level = None  # transactions are begun by us, below
            for pragma in (*_PRAGMAS, *pragmas):
                _execute_patiently(connection, f"PRAGMA {pragma}")
            for statement in setup:
                connection.execute(statement).close()

        @event.listens_for(made, "begin")
        def _begun(conn: Connection) -> None:
            if not conn.connection.driver_connection.in_transaction:  # type: ignore[union-attr]
                conn.exec_driver_sql(begin)

        return made

    # FULL: a commit is on the disk when it returns, also after a power failure.
    log = ("journal_mode=WAL", "journal_size_limit=67108864", f"wal_autocheckpoint={LAST_RESORT_PAGES}")
    # No page leaves the cache before its transaction ends: where a savepoint is undone after that, SQLite (3.40) leaves
    # a log that a kill makes unreadable (tests/component/test_wal.py).
    durable = (*log, "synchronous=FULL", "cache_size=-65536", "cache_spill=OFF")
    writing = engine(
        "BEGIN IMMEDIATE", durable, joining.SETUP, pool_size=1, max_overflow=0, creator=lambda: wal.connect(path)
    )
    lock = Path(f"{path}-turn")
    try:
        turn = Turn(lock, native.load())
    except OSError as error:
        raise Unavailable(f"the index cannot be opened: {error.strerror}") from error
    try:
        with turn:
            _migrated(writing)
    except BaseException:
        turn.close()
        raise
    fast = ("query_only=ON", "cache_size=-16384", "mmap_size=268435456")
    reading = engine("BEGIN", fast, pool_size=16, max_overflow=48, pool_timeout=30, pool_reset_on_return="rollback")
    checkpoints = Checkpointer(Path(path), lock)
    writer = GroupCommit(
        writing, Path(f"{path}-wal"), turn, checkpoints, lambda: joiner.opened(Path(path), turn, (*_PRAGMAS, *durable))
    )
    return Index(reading, writer, (reading, writing))


def _execute_patiently(connection: sqlite3.Connection, statement: str) -> None:
    """Run a statement, tried again while the database is locked, for as long as the busy timeout.

    A change of the journal mode needs the file for itself and does not ask the busy handler: of several processes that
    open a new database at once, one makes the change and the others have to come again.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute(statement).close()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
            if time.monotonic() > deadline:
                raise
        time.sleep(random.uniform(0.001, 0.02))  # noqa: S311  jitter needs no secrecy


def _open_postgresql(url: URL) -> Index:
    if url.get_driver_name() != "psycopg":
        url = url.set(drivername="postgresql+psycopg")
    options = f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c lock_timeout={BUSY_TIMEOUT_MS} -c synchronous_commit=on"
    options += f" -c idle_in_transaction_session_timeout={STALLED_MS}"
    if find_spec("psycopg") is None:
        raise InvalidInput("setting index: PostgreSQL needs the extra m3dicom[postgresql]")
    engine = create_engine(
        url,
        pool_size=8,
        max_overflow=24,
        pool_timeout=30,
        pool_pre_ping=True,
        connect_args={"options": options, "connect_timeout": 5, "application_name": "m3dicom"},
    )
    _migrated(engine)
    return Index(engine, Pooled(engine), (engine,))
