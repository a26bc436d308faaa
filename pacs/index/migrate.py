"""Bringing the database to the schema this version knows: made when empty, refused when newer."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, inspect, select, text

from pacs.errors import Unavailable
from pacs.index import (
    aside,
    batches,
    commitments,
    corrections,
    damage,
    deliveries,
    journal,
    rule_waits,
    schema,
    subscriptions,
    verdicts,
    workers,
    workitems,
)

TOPICS = (
    schema, damage, journal, aside, corrections, commitments, deliveries, workitems, subscriptions, workers, batches,
    verdicts, rule_waits,
)  # fmt: skip
"""Modules whose import puts their tables on the one metadata."""

HALF_BUILT = "rebuilding"
"""The name in the table `meta` of an index that is being made again and is not whole yet (`pacs.rebuild`)."""

RESTORING = "restoring"
"""The name in `meta` of an index that was put back from a backup and does not know yet what came after it."""

ADVISORY_LOCK = 0x6D334449  # several processes may start at once on PostgreSQL


def migrate(conn: Connection) -> int:
    """The schema version of the database, once it is the one of this code.

    Raises Unavailable when the database was made by another version.
    """
    if conn.dialect.name == "postgresql":
        conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
    if not inspect(conn).has_table(schema.meta.name):
        schema.create_all(conn)
        conn.execute(insert(schema.meta).values(name="schema", value=str(schema.SCHEMA_VERSION)))
        return schema.SCHEMA_VERSION
    version = int(conn.execute(select(schema.meta.c.value).where(schema.meta.c.name == "schema")).scalar_one())
    if version != schema.SCHEMA_VERSION:
        raise Unavailable(f"the index has schema {version}; this version knows {schema.SCHEMA_VERSION}")
    if lacking := _lacking(conn):
        raise Unavailable(f"the index is of another version, without {lacking}: `m3dicom rebuild` makes it again")
    return version


def _lacking(conn: Connection) -> str:
    """The first table or column that the database should have and does not, in words; "" when it has all."""
    found = inspect(conn).get_multi_columns()
    held = {name: {column["name"] for column in columns} for (_, name), columns in found.items()}
    for table in schema.metadata.sorted_tables:
        if table.name not in held:
            return f"table {table.name}"
        for column in table.columns:
            if column.name not in held[table.name]:
                return f"column {table.name}.{column.name}"
    return ""


def is_half_built(conn: Connection) -> bool:
    """Whether the index is being made again from its store, or that was cut short."""
    return conn.execute(select(schema.meta.c.value).where(schema.meta.c.name == HALF_BUILT)).first() is not None


def unfinished(conn: Connection) -> tuple[str, str] | None:
    """Why nobody may open the index, and the command that completes it; None when it is whole."""
    marks = set(conn.execute(select(schema.meta.c.name)).scalars())
    if HALF_BUILT in marks:
        return "the index is being made again, or that was cut short", "m3dicom rebuild"
    if RESTORING in marks:
        return "a restore of the index was cut short before it had what came after the backup", "m3dicom rebuild --add"
    return None


def mark_restoring(conn: Connection) -> None:
    """Let nobody open the index until it has caught up with its store."""
    unmark_restoring(conn)
    conn.execute(insert(schema.meta).values(name=RESTORING, value="1"))


def unmark_restoring(conn: Connection) -> None:
    """The index has caught up with its store."""
    conn.execute(delete(schema.meta).where(schema.meta.c.name == RESTORING))
