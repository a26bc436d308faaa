"""SQL made once and run often: a SQLAlchemy Core statement whose text is kept for each dialect.

Building and caching an expression costs more than SQLite needs to run it; on the path of every arriving instance the
same statements run with other values, so their text is compiled the first time and sent as it is afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, CursorResult, Dialect, Row
from sqlalchemy.sql.elements import CompilerElement

Values = Mapping[str, Any]
Found = Row[*tuple[Any, ...]]
"""A row of a result whose columns only its statement knows."""


class Statement:
    """A statement with named parameters; values go to the driver as they are (text, numbers, bytes)."""

    def __init__(self, statement: CompilerElement, columns: Sequence[str] | None = None) -> None:
        """`columns` are those that an INSERT sets; other statements name their parameters with `bindparam`."""
        self._statement = statement
        self._columns = None if columns is None else list(columns)
        self._compiled: dict[str, tuple[str, list[str] | None, dict[str, Any]]] = {}

    def _for(self, dialect: Dialect) -> tuple[str, list[str] | None, dict[str, Any]]:
        found = self._compiled.get(dialect.name)
        if found is None:
            compiled: Any = self._statement.compile(dialect=dialect, column_keys=self._columns)
            names = list(compiled.positiontup) if compiled.positional else None
            found = self._compiled[dialect.name] = (str(compiled), names, dict(compiled.params))
        return found

    def run(self, conn: Connection, values: Values) -> CursorResult[*tuple[Any, ...]]:
        """The result for these values of the parameters."""
        text, names, constants = self._for(conn.dialect)
        whole = {**constants, **values}
        return conn.exec_driver_sql(text, whole if names is None else tuple(whole[name] for name in names))

    def run_all(self, conn: Connection, rows: Sequence[Values]) -> None:
        """Run it once for each row of values."""
        if not rows:
            return
        text, names, constants = self._for(conn.dialect)
        whole = [{**constants, **row} for row in rows]
        if names is None:
            conn.exec_driver_sql(text, whole)
        else:
            conn.exec_driver_sql(text, [tuple(row[name] for name in names) for row in whole])
