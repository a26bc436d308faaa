"""Workers that say that they are there, and what waits for them: the table `worker`, and queues counted by plug-in.

Functions take the connection of a transaction that the caller owns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Column, Connection, Double, Integer, Table, and_, case, delete, func, insert, select, update

from pacs.dicom.ups import State
from pacs.index import schema
from pacs.index.schema import _TEXT, metadata

worker = Table(
    "worker",
    metadata,
    Column("name", _TEXT, primary_key=True),
    Column("plugins", _TEXT, nullable=False),  # JSON: the version of each by its id
    Column("device", _TEXT, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("seen_at", Double, nullable=False, index=True),
)


def seen(conn: Connection, name: str, values: Mapping[str, Any]) -> None:
    """Note that a worker is there."""
    changed = conn.execute(update(worker).where(worker.c.name == name).values(**values))
    if not changed.rowcount:
        conn.execute(insert(worker).values(name=name, **values))


def gone(conn: Connection, name: str) -> None:
    """Forget a worker."""
    conn.execute(delete(worker).where(worker.c.name == name))


def silent(conn: Connection, before: float) -> None:
    """Forget those that were not heard of since `before`."""
    conn.execute(delete(worker).where(worker.c.seen_at < before))


def present(conn: Connection, since: float) -> Sequence[Mapping[str, Any]]:
    """Those that were heard of since then, by name."""
    found = conn.execute(select(worker).where(worker.c.seen_at >= since).order_by(worker.c.name))
    return [dict(row._mapping) for row in found]


def dead(conn: Connection) -> dict[str, int]:
    """By plug-in, the tasks that were given up."""
    t = schema.workitem.c
    wanted = select(t.plugin, func.count()).where(t.ended == "failed", t.plugin.is_not(None)).group_by(t.plugin)
    return {row[0]: row[1] for row in conn.execute(wanted)}


def queues(conn: Connection, now: float) -> Sequence[Mapping[str, Any]]:
    """By plug-in and needs_version: waiting, oldest (Unix seconds since when the first of these could run, None),
    later, running."""
    t = schema.workitem.c
    ours = and_(t.state == State.IN_PROGRESS, t.worker.is_not(None))
    free = and_((t.state == State.SCHEDULED) | (ours & t.lease_token.is_(None)), t.cancel_requested == 0)
    since = func.coalesce(t.not_before, t.created_at)
    due = free & (since <= now)

    def count(condition: Any) -> Any:
        return func.sum(case((condition, 1), else_=0))

    wanted = (
        select(
            t.plugin,
            t.needs_version,
            count(due).label("waiting"),
            func.min(case((due, case((since > t.created_at, since), else_=t.created_at)))).label("oldest"),
            count(free & (since > now)).label("later"),
            count(ours & t.lease_token.is_not(None)).label("running"),
        )
        .where(t.plugin.is_not(None), t.state.in_((State.SCHEDULED, State.IN_PROGRESS)))
        .group_by(t.plugin, t.needs_version)
        .order_by(t.plugin, t.needs_version)
    )
    return [dict(row._mapping) for row in conn.execute(wanted)]
