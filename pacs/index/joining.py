"""An instance that joins a series which is here already, on SQLite: its six writes as one statement.

Most of what a small write costs is not SQLite's work but the way there: six calls of the driver, each with its cursor
and its values. A view that holds nothing stands for the arrival, and its trigger does the writes; both are temporary
and belong to the connection that writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import Table, bindparam, func, select

from pacs.index import schema
from pacs.index.statement import Statement

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Counted:
    """A study or series row with one instance more."""

    key: int
    row: bytes
    instances: int


_s, _r, _i, _t = schema.study.c, schema.series.c, schema.instance.c, schema.tombstone.c
_BURIED = select(func.min(_t.id)).where(_t.sop_instance_uid == bindparam("sop"))
_here = (
    select(
        _s.id, _s.scope, _s.row, _s.number_of_series, _s.number_of_instances, _s.last_instance_at, _s.stable_at,
        _s.fingerprint, _s.patient_id, _s.issuer_of_patient_id, _s.created_at,
        _r.id.label("series_id"), _r.row.label("series_row"), _r.number_of_instances.label("series_instances"),
        _r.created_at.label("series_created_at"), _i.id.label("held"),
        _BURIED.scalar_subquery().label("buried"),
    )
    .join_from(
        schema.study, schema.series, (_r.study_key == _s.id) & (_r.series_instance_uid == bindparam("series")),
        isouter=True,
    )
    .outerjoin(schema.instance, _i.sop_instance_uid == bindparam("sop"))
    .where(_s.study_instance_uid == bindparam("study"))
)  # fmt: skip
HERE: Final = Statement(_here)
"""What is here of an arriving instance: its study, and with it its series and whatever is held under its UID."""
STILL_HERE: Final = Statement(_here.where(_s.id == bindparam("study_key"), _r.id == bindparam("series_key")))
"""The same by keys that were found before, without the two indexes of UIDs; nothing where they are no longer right."""


def _names(table: Table, key: str) -> tuple[str, ...]:
    return tuple(column.name for column in table.columns if column.name != key)


_INSTANCE, _AUDIT, _CHANGE = _names(schema.instance, "id"), _names(schema.audit, "seq"), _names(schema.change, "seq")
_OWN: Final = ("json", "series", "series_row", "series_instances", "study", "study_row", "study_instances", "last")
COLUMNS: Final = (
    *(f"i_{name}" for name in _INSTANCE), *(f"a_{name}" for name in _AUDIT), *(f"c_{name}" for name in _CHANGE), *_OWN
)  # fmt: skip
"""The parameters of `JOIN`: columns of `instance` (i_), `audit` (a_) and `change` (c_), and what the others get."""


def _insert(table: str, names: tuple[str, ...], prefix: str) -> str:
    columns = ", ".join(f'"{name}"' for name in names)
    return f"INSERT INTO {table} ({columns}) VALUES ({', '.join(f'NEW.{prefix}_{name}' for name in names)});"  # noqa: S608


SETUP: Final = (
    f"CREATE TEMP VIEW joining ({', '.join(COLUMNS)}) AS SELECT {', '.join('NULL' for _ in COLUMNS)}",
    f"""CREATE TEMP TRIGGER joins INSTEAD OF INSERT ON joining BEGIN
    {_insert("instance", _INSTANCE, "i")}
    INSERT INTO instance_metadata (instance_key, json) VALUES (last_insert_rowid(), NEW.json);
    UPDATE series SET "row" = NEW.series_row, number_of_instances = NEW.series_instances WHERE id = NEW.series;
    UPDATE study SET "row" = NEW.study_row, number_of_instances = NEW.study_instances, last_instance_at = NEW.last
        WHERE id = NEW.study;
    {_insert("audit", _AUDIT, "a")}
    {_insert("change", _CHANGE, "c")}
    END""",  # noqa: S608  names of columns
)
"""What a connection that writes is prepared with."""

JOIN: Final = f"INSERT INTO joining VALUES ({', '.join('?' for _ in COLUMNS)})"  # noqa: S608  names of columns
_instance, _audit, _change = itemgetter(*_INSTANCE), itemgetter(*_AUDIT), itemgetter(*_CHANGE)


def join(
    driver: Any, instance: Row, json: bytes, series: Counted, study: Counted, last_instance_at: float,
    audit: Row, change: Row,
) -> None:  # fmt: skip
    """Write all rows of an arrival, on the driver's connection and in its transaction. Raises sqlite3.Error."""
    driver.execute(
        JOIN,
        (
            *_instance(instance), *_audit(audit), *_change(change), json,
            series.key, series.row, series.instances, study.key, study.row, study.instances, last_instance_at,
        ),
    ).close()  # fmt: skip
