"""The SQL of Workitems: rows as values, the conditional updates that claim, keep and end a lease, and the search.

Functions take the connection of a transaction that the caller owns. "Ours" is a Workitem that a worker of ours has
performed: `worker` is set. It is free again, though IN PROGRESS, while it has no `lease_token`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, Row, and_, func, insert, or_, select, update

from pacs.dicom import ups
from pacs.dicom.ups import Attributes, State
from pacs.index import schema

t = schema.workitem.c

_SUMMARY = (
    t.uid, t.state, t.label, t.plugin, t.study_instance_uid, t.progress, t.message, t.reason, t.updated_at,
)  # fmt: skip


@dataclass(frozen=True)
class WorkitemRow:
    """One row of the table; `attributes` is its DICOM JSON without Transaction UID, state not yet up to date."""

    uid: str
    state: State
    plugin: str | None
    version: str | None
    priority: int
    study_instance_uid: str | None
    task_key: str | None
    raw: bytes
    transaction_uid: str | None
    attempt: int
    lease_token: str | None
    lease_until: float | None
    worker: str | None
    progress: float
    message: str
    reason: str
    cancel_requested: bool
    created_at: float
    updated_at: float
    principal: str
    scope: str

    @cached_property
    def attributes(self) -> Attributes:
        """The Workitem as anybody may see it: with its state, and with the progress that our worker reported."""
        kept: Attributes = orjson.loads(self.raw)
        if self.worker is not None and self.state is State.IN_PROGRESS:
            kept = ups.with_progress(kept, round(self.progress), self.message)
        return kept | {ups.PROCEDURE_STEP_STATE: ups.element("CS", self.state.value)}


def _row(found: Row[Any]) -> WorkitemRow:
    m = found._mapping
    return WorkitemRow(
        uid=m["uid"],
        state=State(m["state"]),
        plugin=m["plugin"],
        version=m["version"],
        priority=m["priority"],
        study_instance_uid=m["study_instance_uid"],
        task_key=m["task_key"],
        raw=bytes(m["attributes"]),
        transaction_uid=m["transaction_uid"],
        attempt=m["attempt"],
        lease_token=m["lease_token"],
        lease_until=m["lease_until"],
        worker=m["worker"],
        progress=m["progress"] or 0.0,
        message=m["message"] or "",
        reason=m["reason"] or "",
        cancel_requested=bool(m["cancel_requested"]),
        created_at=m["created_at"],
        updated_at=m["updated_at"],
        principal=m["principal"],
        scope=m["scope"],
    )


def add(conn: Connection, values: Mapping[str, Any]) -> None:
    """Insert a row."""
    conn.execute(insert(schema.workitem).values(**values))


def get(conn: Connection, uid: str, *, lock: bool = False) -> WorkitemRow | None:
    """The row of that Workitem UID; with `lock` nobody else can change it until the transaction ends."""
    wanted = select(schema.workitem).where(t.uid == uid)
    found = conn.execute(wanted.with_for_update() if lock else wanted).first()
    return None if found is None else _row(found)


def of_task(conn: Connection, task_key: str) -> str | None:
    """The UID of the Workitem with that task key."""
    found: str | None = conn.execute(select(t.uid).where(t.task_key == task_key)).scalar()
    return found


def of_plugin(conn: Connection, plugin: str, study_instance_uid: str) -> list[WorkitemRow]:
    """Workitems for that plug-in and study that a rule made (they have a task key), oldest first."""
    wanted = select(schema.workitem).where(
        t.plugin == plugin, t.study_instance_uid == study_instance_uid, t.task_key.is_not(None)
    )
    return [_row(found) for found in conn.execute(wanted.order_by(t.created_at, t.uid))]


def save(conn: Connection, uid: str, values: Mapping[str, Any], *conditions: ColumnElement[bool]) -> bool:
    """Change the row of `uid` where `conditions` hold; whether they did."""
    return conn.execute(update(schema.workitem).where(t.uid == uid, *conditions).values(**values)).rowcount == 1


# The lease -----------------------------------------------------------------------------------------------------------


def _claimable(now: float) -> ColumnElement[bool]:
    free = and_(t.state == State.IN_PROGRESS, t.worker.is_not(None), t.lease_token.is_(None))
    return and_(
        or_(t.state == State.SCHEDULED, free),
        t.cancel_requested == 0,
        or_(t.not_before.is_(None), t.not_before <= now),
    )


def claim(
    conn: Connection, plugins: Sequence[str], worker: str, token: str, transaction_uid: str, now: float, until: float
) -> WorkitemRow | None:
    """The most urgent, then oldest, Workitem that is free, now leased to `worker`: one conditional UPDATE."""
    wanted = (
        select(t.uid)
        .where(t.plugin.in_(plugins), _claimable(now))
        .order_by(t.priority, t.created_at, t.uid)
        .limit(1)
        .with_for_update(skip_locked=True)  # PostgreSQL: two claims at once take different rows
    )
    found = conn.execute(
        update(schema.workitem)
        .where(t.uid == wanted.scalar_subquery(), _claimable(now))
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
    return None if found is None else _row(found)


def leased(token: str) -> ColumnElement[bool]:
    """The fence: true only while `token` holds the lease."""
    return and_(t.lease_token == token, t.state == State.IN_PROGRESS)


def expired(conn: Connection, now: float) -> list[WorkitemRow]:
    """Leases that ran out. A Workitem claimed by an outside performer has no lease and is never among them."""
    wanted = select(schema.workitem).where(
        t.state == State.IN_PROGRESS, t.lease_token.is_not(None), t.lease_until < now
    )
    return [_row(found) for found in conn.execute(wanted.order_by(t.lease_until).limit(100))]


def offer(conn: Connection, now: float, offered_before: float, limit: int = 500) -> list[tuple[str, str, int]]:
    """(UID, plug-in, attempt) of free Workitems of plug-ins that were not offered since; marks them as offered."""
    wanted = (
        select(t.uid)
        .where(t.plugin.is_not(None), _claimable(now), or_(t.offered_at.is_(None), t.offered_at <= offered_before))
        .order_by(t.priority, t.created_at)
        .limit(limit)
    )
    uids = list(conn.execute(wanted).scalars())
    if not uids:
        return []
    marked = (
        update(schema.workitem)
        .where(t.uid.in_(uids), or_(t.offered_at.is_(None), t.offered_at <= offered_before))
        .values(offered_at=now)
        .returning(t.uid, t.plugin, t.attempt)
    )
    return [(uid, plugin, attempt) for uid, plugin, attempt in conn.execute(marked)]


# Reading -------------------------------------------------------------------------------------------------------------


def moved_since(conn: Connection, since: float, scope: str, limit: int = 1000) -> list[dict[str, Any]]:
    """Summaries of Workitems that changed at or after `since`, oldest change first."""
    wanted = select(*_SUMMARY).where(t.updated_at >= since)
    if scope:
        wanted = wanted.where(t.scope == scope)
    found = conn.execute(wanted.order_by(t.updated_at, t.uid).limit(limit))
    return [
        {**row._mapping, "progress": round(row.progress or 0), "message": row.message or "", "reason": row.reason or ""}
        for row in found
    ]


def any_foreign(conn: Connection) -> bool:
    """Whether there is a Workitem that asks for something that is no plug-in of ours."""
    return conn.execute(select(t.uid).where(t.plugin.is_(None)).limit(1)).first() is not None


def search(
    conn: Connection, equal: Mapping[str, Iterable[str]], scope: str, limit: int | None, offset: int
) -> tuple[list[WorkitemRow], int]:
    """Rows whose columns have one of the given values, newest first, and how many there are in all."""
    conditions: list[ColumnElement[bool]] = [
        schema.workitem.c[name].in_(list(values)) for name, values in equal.items()
    ]
    if scope:
        conditions.append(t.scope == scope)
    total = conn.execute(select(func.count()).select_from(schema.workitem).where(*conditions)).scalar_one()
    wanted = select(schema.workitem).where(*conditions).order_by(t.created_at.desc(), t.uid).offset(offset)
    found = conn.execute(wanted if limit is None else wanted.limit(limit))
    return [_row(row) for row in found], int(total)
