"""Bringing the database to the schema this version knows: made when empty, refused when newer."""

from __future__ import annotations

from sqlalchemy import Connection, insert, inspect, select, text

from pacs.errors import Unavailable
from pacs.index import aside, commitments, corrections, damage, deliveries, journal, schema, subscriptions, workitems

TOPICS = (schema, damage, journal, aside, corrections, commitments, deliveries, workitems, subscriptions)
"""Modules whose import puts their tables on the one metadata."""

HALF_BUILT = "rebuilding"
"""The name in the table `meta` of an index that is being made again and is not whole yet (`pacs.rebuild`)."""

ADVISORY_LOCK = 0x6D334449  # several processes may start at once on PostgreSQL


def migrate(conn: Connection) -> int:
    """The schema version of the database, once it is the one of this code.

    Raises Unavailable when the database was written by a newer version.
    """
    if conn.dialect.name == "postgresql":
        conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
    if not inspect(conn).has_table(schema.meta.name):
        schema.metadata.create_all(conn)
        conn.execute(insert(schema.meta).values(name="schema", value=str(schema.SCHEMA_VERSION)))
        return schema.SCHEMA_VERSION
    version = int(conn.execute(select(schema.meta.c.value).where(schema.meta.c.name == "schema")).scalar_one())
    if version != schema.SCHEMA_VERSION:
        raise Unavailable(f"the index has schema {version}; this version knows {schema.SCHEMA_VERSION}")
    return version


def is_half_built(conn: Connection) -> bool:
    """Whether the index is being made again from its store, or that was cut short."""
    return conn.execute(select(schema.meta.c.value).where(schema.meta.c.name == HALF_BUILT)).first() is not None
