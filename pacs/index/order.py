"""Sequence numbers that become visible in their order: a reader that has seen one never misses a lower one."""

from __future__ import annotations

from sqlalchemy import Connection, text

_ADVISORY_LOCK = 0x6D334443


def in_order(conn: Connection) -> None:
    """Hold back whoever else gives sequence numbers until this transaction ends; the last thing to do in it.

    SQLite has one writer anyway; on PostgreSQL it is an advisory lock.
    """
    if conn.dialect.name == "postgresql":
        conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
