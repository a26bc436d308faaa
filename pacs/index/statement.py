"""SQL made once and run often: a SQLAlchemy Core statement whose text is kept for each dialect.

Building an expression, caching it and wrapping its result cost several times what SQLite needs to run it. On the path
of every arriving and every located instance the same statements run with other values: their text is compiled the
first time, and with SQLite it goes to the driver as it is.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Dialect, Table
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql.elements import CompilerElement

Values = Mapping[str, Any]
Found = Any
"""A row whose columns, by name, only its statement knows."""


class Statement:
    """A statement with named parameters; values go to the driver as they are (text, numbers, bytes)."""

    def __init__(self, statement: CompilerElement, columns: Sequence[str] | None = None) -> None:
        """`columns` are those that an INSERT sets; other statements name their parameters with `bindparam`."""
        self._statement = statement
        self._columns = None if columns is None else list(columns)
        self._compiled: dict[str, tuple[str, Callable[[Values], Any] | None, dict[str, Any]]] = {}
        self._row: Callable[[Sequence[Any]], Found] | None = None

    def prepare(self, dialect: Dialect) -> None:
        """Have its text before it is needed."""
        self._for(dialect)

    def _for(self, dialect: Dialect) -> tuple[str, Callable[[Values], Any] | None, dict[str, Any]]:
        """Its text, what makes the tuple of positional parameters (None where they are named), and its constants."""
        found = self._compiled.get(dialect.name)
        if found is None:
            compiled: Any = self._statement.compile(dialect=dialect, column_keys=self._columns)
            found = (
                str(compiled),
                _ordered(compiled.positiontup) if compiled.positional else None,
                {name: value for name, value in compiled.params.items() if not compiled.binds[name].required},
            )
            self._compiled[dialect.name] = found
        return found

    def _values(self, dialect: Dialect, values: Values) -> tuple[str, Any]:
        text, ordered, constants = self._compiled.get(dialect.name) or self._for(dialect)
        if constants:
            values = {**constants, **values}
        return text, values if ordered is None else ordered(values)

    def for_sqlite(self) -> tuple[str, tuple[str, ...]]:
        """Its text for SQLite, and the names of its parameters in their order: it has no constants of its own."""
        compiled: Any = self._statement.compile(dialect=sqlite.dialect(), column_keys=self._columns)
        return str(compiled), tuple(compiled.positiontup)

    def all(self, conn: Connection, values: Values) -> list[Found]:
        """The rows it returns for these values of the parameters; none for a statement that returns none."""
        dialect = conn.dialect
        if dialect.name == "sqlite":
            return self.on_driver(conn.connection.driver_connection, dialect, values)
        text, whole = self._values(dialect, values)
        result = conn.exec_driver_sql(text, whole)
        return list(result) if result.returns_rows else []

    def key(self, conn: Connection, values: Values) -> int:
        """The key of the row that it inserts, which an INSERT for PostgreSQL has to return; SQLite tells it anyway."""
        dialect = conn.dialect
        if dialect.name != "sqlite":
            ((key,),) = self.all(conn, values)
            return int(key)
        driver: Any = conn.connection.driver_connection
        text, whole = self._values(dialect, values)
        cursor = driver.execute(text, whole)
        key = cursor.lastrowid
        cursor.close()
        return int(key)

    def first(self, conn: Connection, values: Values) -> Found | None:
        """The first row, or None."""
        found = self.all(conn, values)
        return found[0] if found else None

    def first_on_driver(self, connection: Any, dialect: Dialect, values: Values) -> tuple[Any, ...] | None:
        """The first row as a plain tuple, by a connection of the SQLite driver."""
        cursor = connection.execute(*self._values(dialect, values))
        found: tuple[Any, ...] | None = cursor.fetchone()
        cursor.close()
        return found

    def on_driver(self, connection: Any, dialect: Dialect, values: Values) -> list[Found]:
        """The rows, by a connection of the SQLite driver."""
        cursor = connection.execute(*self._values(dialect, values))
        try:
            if cursor.description is None:
                return []
            if self._row is None:
                make: Any = namedtuple  # its fields are known only now, which no type can say
                self._row = make("row", [column[0] for column in cursor.description], rename=True)._make
            return list(map(self._row, cursor))
        finally:
            cursor.close()

    def each(self, conn: Connection, rows: Sequence[Values]) -> None:
        """Run it once for each row of values."""
        if not rows:
            return
        dialect = conn.dialect
        whole = [self._values(dialect, row)[1] for row in rows]
        text = self._compiled[dialect.name][0]
        if dialect.name == "sqlite":
            driver: Any = conn.connection.driver_connection
            driver.executemany(text, whole).close()
        else:
            conn.exec_driver_sql(text, whole)


def insert_of(conn: Connection) -> Callable[[Table], Any]:
    """INSERT as the database of `conn` has it, with ON CONFLICT; other dialects are not loaded."""
    if conn.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as insert_into_postgresql

        return insert_into_postgresql
    from sqlalchemy.dialects.sqlite import insert as insert_into_sqlite

    return insert_into_sqlite


def _ordered(names: Sequence[str]) -> Callable[[Values], Any]:
    """From named values to a tuple in this order."""
    if len(names) > 1:
        return itemgetter(*names)
    if not names:
        return lambda _: ()
    (name,) = names
    return lambda values: (values[name],)
