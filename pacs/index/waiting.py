"""The heads of the queues: which Workitems of a plug-in come next, without reading the thousands that wait behind them.

A lane is what waits for one plug-in in one version, or in any: a stretch of the index `workitem_claim`, in the order of
priority and age, so taking its first entry costs the same with ten tasks as with a million. Functions take the
connection of a transaction of the caller.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, TextClause, and_, bindparam, func, or_, select, text, tuple_, update

from pacs.dicom.ups import State
from pacs.index import schema, workitems
from pacs.index.workitems import WorkitemRow, t

TRIED = 8
"""How many heads a claim looks at: on PostgreSQL others may be taking the first ones at the same time."""

Lane = tuple[str, str]
"""A plug-in, and the version of it that is needed: "" where any will do."""

_COLUMNS = "uid, plugin, priority, created_at, attempt, offered_at"
_ORDER = "ORDER BY priority, created_at, uid"


@lru_cache(64)
def _heads(lanes: int) -> TextClause:
    """The statement for so many lanes: a walk along the index for each, and one for what was handed back."""
    # Built of column names and numbers alone; every value is bound.
    due = "cancel_requested = 0 AND (not_before IS NULL OR not_before <= :now)"
    arms = [
        f"SELECT * FROM (SELECT {_COLUMNS} FROM workitem WHERE state = 'SCHEDULED' "  # noqa: S608
        f"AND plugin = :p{n} AND needs_version = :v{n} AND {due} {_ORDER} LIMIT :most) AS w{n}"
        for n in range(lanes)
    ]
    pairs = " OR ".join(f"plugin = :p{n} AND needs_version = :v{n}" for n in range(lanes))
    arms.append(
        f"SELECT * FROM (SELECT {_COLUMNS} FROM workitem WHERE state = 'IN PROGRESS' "  # noqa: S608
        f"AND ({pairs}) AND {due} AND worker IS NOT NULL AND lease_token IS NULL {_ORDER} LIMIT :most"
        ") AS again"
    )
    return text(f"SELECT * FROM ({' UNION ALL '.join(arms)}) AS heads {_ORDER}")  # noqa: S608


def heads(conn: Connection, among: Sequence[Lane], now: float, most: int) -> Sequence[Any]:
    """At least the `most` first Workitems that could run now, in order: uid, plugin, …, attempt, offered_at of each."""
    if not among:
        return []
    values: dict[str, Any] = {"now": now, "most": most}
    for n, (plugin, version) in enumerate(among):
        values |= {f"p{n}": plugin, f"v{n}": version}
    return conn.execute(_heads(len(among)), values).all()


def taken_by(conn: Connection, plugins: Collection[str] | Mapping[str, str]) -> list[Lane]:
    """The lanes of a worker that has these plug-ins: each in the version that is named, without names in any."""
    if isinstance(plugins, Mapping):
        return [lane for plugin, version in plugins.items() for lane in ((plugin, ""), (plugin, version))]
    return [lane for lane in lanes(conn) if lane[0] in plugins]


def claim(
    conn: Connection, among: Sequence[Lane], worker: str, token: str, transaction_uid: str, now: float, until: float
) -> WorkitemRow | None:
    """The most urgent, then oldest, Workitem that is free, now leased to `worker`: a conditional UPDATE."""
    for head in heads(conn, among, now, TRIED):
        free = select(t.uid).where(t.uid == head.uid, workitems.claimable(now))
        found = conn.execute(
            update(schema.workitem)
            # PostgreSQL: of two claims at once one takes the row and the other the next, without waiting
            .where(t.uid == free.with_for_update(skip_locked=True).scalar_subquery(), workitems.claimable(now))
            .values(
                state=State.IN_PROGRESS,
                attempt=t.attempt + 1,
                lease_token=token,
                lease_until=until,
                worker=worker,
                transaction_uid=func.coalesce(t.transaction_uid, transaction_uid),
                progress=0.0,
                message="",
                updated_at=now,
            )
            .returning(schema.workitem)
        ).first()
        if found is not None:
            return workitems.row(found)
    return None


def lanes(conn: Connection) -> list[Lane]:
    """The lanes that have Workitems which are not in their final state."""
    found: set[Lane] = set()
    for state in (State.SCHEDULED, State.IN_PROGRESS):
        last: Lane | None = ("", "")
        while last is not None:  # a step along the index for each lane, not for each Workitem
            wanted = (
                select(t.plugin, t.needs_version)
                .where(t.state == state, tuple_(t.plugin, t.needs_version) > last)
                .order_by(t.plugin, t.needs_version)
                .limit(1)
            )
            row = conn.execute(wanted).first()
            last = None if row is None else (str(row[0]), str(row[1]))
            found.update(() if last is None else (last,))
    return sorted(found)


def unannounced(conn: Connection, now: float, offered_before: float, ahead: int) -> list[str]:
    """Of the first `ahead` Workitems of each lane, the UIDs of those that were not announced since."""
    due = []
    for lane in lanes(conn):
        for head in heads(conn, [lane], now, ahead):
            if head.offered_at is None or head.offered_at <= offered_before:
                due.append(str(head.uid))
    return due


def stranded(conn: Connection, lane: Lane, limit: int) -> list[WorkitemRow]:
    """The first Workitems of a lane that no worker has."""
    free = or_(t.state == State.SCHEDULED, and_(t.state == State.IN_PROGRESS, t.lease_token.is_(None)))
    wanted = select(schema.workitem).where(t.plugin == lane[0], t.needs_version == lane[1], free)
    return [workitems.row(each) for each in conn.execute(wanted.order_by(t.created_at, t.uid).limit(limit))]


_MARK = (
    update(schema.workitem)
    .where(
        t.uid == bindparam("of"),
        or_(t.offered_at.is_(None), t.offered_at <= bindparam("before")),
        and_(t.lease_token.is_(None), t.state.in_((State.SCHEDULED, State.IN_PROGRESS))),
    )
    .values(offered_at=bindparam("at"))
    .returning(t.uid, t.plugin, t.attempt)
)


def announced(conn: Connection, uids: Sequence[str], now: float, offered_before: float) -> list[tuple[str, str, int]]:
    """(UID, plug-in, attempt) of those that nobody else has announced meanwhile; they count as announced now."""
    made = []
    for uid in uids:
        found = conn.execute(_MARK, {"of": uid, "before": offered_before, "at": now}).first()
        if found is not None:
            made.append((str(found[0]), str(found[1]), int(found[2])))
    return made
