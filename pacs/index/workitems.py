"""The SQL of Workitems: rows as values, the conditional updates that claim, keep and end a lease, and the search.

What people search by is kept beside each Workitem, a row per value (`pacs.dicom.ups_match.KEPT`): a search narrows
by the index of that table and never reads Workitems that one of its keys rules out.

Functions take the connection of a transaction that the caller owns. "Ours" is a Workitem that a worker of ours has
performed: `worker` is set. It is free again, though IN PROGRESS, while it has no `lease_token`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson
from sqlalchemy import (
    TEXT,
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    ForeignKey,
    Index,
    Integer,
    Row,
    Table,
    Text,
    and_,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    text,
    update,
)

from pacs.dicom import ups, ups_match
from pacs.dicom.matching import Criterion, Empty, Fuzzy, Item, Moments, Single, Wildcard
from pacs.dicom.ups import Attributes, State
from pacs.index import schema
from pacs.index.search import compare

_TEXT = Text().with_variant(TEXT(collation="C"), "postgresql")

workitem_value = Table(
    "workitem_value",
    schema.metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("workitem_uid", _TEXT, ForeignKey("workitem.uid", ondelete="CASCADE"), nullable=False, index=True),
    Column("path", _TEXT, nullable=False),
    Column("value", _TEXT, nullable=False),
    Index("workitem_value_found", "path", "value", "workitem_uid"),
)

workitem_gone = Table("workitem_gone", schema.metadata, Column("uid", _TEXT, primary_key=True))
"""UIDs of Workitems that were removed."""

t = schema.workitem.c
_SAME = 0x6D33  # of advisory locks: those by request keys
_v = workitem_value.c

_SUMMARY = (
    t.uid, t.state, t.label, t.plugin, t.study_instance_uid, t.progress, t.message, t.reason, t.updated_at, t.ended,
    t.superseded_by,
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
    losses: int = 0
    failing_since: float | None = None
    not_before: float | None = None
    rule: str | None = None
    request_key: str | None = None
    ended: str | None = None
    superseded_by: str | None = None
    needs_version: str = ""

    @cached_property
    def attributes(self) -> Attributes:
        """The Workitem as anybody may see it: with its state, and with the progress that our worker reported."""
        kept: Attributes = orjson.loads(self.raw)
        if self.worker is not None and self.state is State.IN_PROGRESS:
            kept = ups.with_progress(kept, round(self.progress), self.message)
        if self.superseded_by is not None and self.state is State.COMPLETED:
            kept = ups.with_progress(kept, 100, f"superseded by {self.superseded_by}")
        return kept | {ups.PROCEDURE_STEP_STATE: ups.element("CS", self.state.value)}


def row(found: Row[Any]) -> WorkitemRow:
    """A row of the whole table as a value."""
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
        losses=m["losses"] or 0,
        failing_since=m["failing_since"],
        not_before=m["not_before"],
        rule=m["rule"],
        request_key=m["request_key"],
        ended=m["ended"],
        superseded_by=m["superseded_by"],
        needs_version=m["needs_version"],
    )


def add(conn: Connection, values: Mapping[str, Any]) -> None:
    """Insert a row."""
    conn.execute(insert(schema.workitem).values(**values))


def get(conn: Connection, uid: str, *, lock: bool = False) -> WorkitemRow | None:
    """The row of that Workitem UID; with `lock` nobody else can change it until the transaction ends."""
    wanted = select(schema.workitem).where(t.uid == uid)
    found = conn.execute(wanted.with_for_update() if lock else wanted).first()
    return None if found is None else row(found)


def of_task(conn: Connection, task_key: str) -> str | None:
    """The UID of the Workitem with that task key."""
    found: str | None = conn.execute(select(t.uid).where(t.task_key == task_key)).scalar()
    return found


def of_plugin(conn: Connection, plugin: str, study_instance_uid: str, *, requested: bool = False) -> list[WorkitemRow]:
    """Workitems for that plug-in and study that a rule made (they have a task key), oldest first; or all."""
    wanted = select(schema.workitem).where(t.plugin == plugin, t.study_instance_uid == study_instance_uid)
    if not requested:
        wanted = wanted.where(t.task_key.is_not(None))
    return [row(found) for found in conn.execute(wanted.order_by(t.created_at, t.uid))]


def alone_with(conn: Connection, request_key: str) -> None:
    """Let nobody else come or end with the same request until the transaction ends: each sees those before it.

    SQLite has one writer; on PostgreSQL it is an advisory lock. Before any lock on a Workitem, or two transactions may
    wait for each other.
    """
    if conn.dialect.name == "postgresql":
        conn.execute(text("SELECT pg_advisory_xact_lock(:kind, hashtext(:key))"), {"kind": _SAME, "key": request_key})


def lock(conn: Connection, uids: Sequence[str]) -> list[WorkitemRow]:
    """The rows of these Workitems, in the order of their UIDs; nobody else can change them until the transaction ends.

    For what changes several: once there is news of one, no lock may be waited for (`pacs.index.order`).
    """
    wanted = select(schema.workitem).where(t.uid.in_(uids)).order_by(t.uid)
    return [row(found) for found in conn.execute(wanted.with_for_update())] if uids else []


def same_request(conn: Connection, request_key: str, scope: str, state: State) -> list[WorkitemRow]:
    """Workitems in that state that ask for the same: plug-in, parameters, and inputs as they are named.

    Whoever changes what others see of it has to be `alone_with` the request.
    """
    wanted = select(schema.workitem).where(t.request_key == request_key, t.scope == scope, t.state == state)
    return [row(found) for found in conn.execute(wanted.order_by(t.created_at, t.uid).with_for_update())]


def owners(conn: Connection, sop_instance_uids: Sequence[str]) -> list[str]:
    """The Workitems whose results these instances are."""
    i = schema.instance.c
    wanted = select(i.result_of).where(i.sop_instance_uid.in_(sop_instance_uids), i.result_of.is_not(None)).distinct()
    return [str(uid) for uid in conn.execute(wanted).scalars()]


def mark_superseded(conn: Connection, uids: Sequence[str], by: str, now: float) -> list[WorkitemRow]:
    """Note that `by` made the results that replace those of these COMPLETED Workitems; the ones that were marked."""
    if not uids:
        return []
    marked = (
        update(schema.workitem)
        .where(t.uid.in_(uids), t.state == State.COMPLETED, t.superseded_by.is_(None), t.uid != by)
        .values(superseded_by=by, updated_at=now)
        .returning(schema.workitem)
    )
    return [row(found) for found in conn.execute(marked)]


def expiring(conn: Connection, now: float, limit: int = 100) -> list[str]:
    """UIDs of Workitems that nobody began before their Expiration DateTime."""
    wanted = select(t.uid).where(t.expires_at.is_not(None), t.expires_at <= now, t.state == State.SCHEDULED)
    return list(conn.execute(wanted.order_by(t.expires_at).limit(limit)).scalars())


def save(conn: Connection, uid: str, values: Mapping[str, Any], *conditions: ColumnElement[bool]) -> bool:
    """Change the row of `uid` where `conditions` hold; whether they did."""
    return conn.execute(update(schema.workitem).where(t.uid == uid, *conditions).values(**values)).rowcount == 1


# The lease -----------------------------------------------------------------------------------------------------------


def claimable(now: float) -> ColumnElement[bool]:
    """Whether a worker of ours may take it."""
    free = and_(t.state == State.IN_PROGRESS, t.worker.is_not(None), t.lease_token.is_(None))
    return and_(
        or_(t.state == State.SCHEDULED, free),
        t.cancel_requested == 0,
        or_(t.not_before.is_(None), t.not_before <= now),
    )


def leased(token: str) -> ColumnElement[bool]:
    """The fence: true only while `token` holds the lease."""
    return and_(t.lease_token == token, t.state == State.IN_PROGRESS)


def expired(conn: Connection, now: float) -> list[WorkitemRow]:
    """Leases that ran out. A Workitem claimed by an outside performer has no lease and is never among them."""
    wanted = select(schema.workitem).where(
        t.state == State.IN_PROGRESS, t.lease_token.is_not(None), t.lease_until < now
    )
    return [row(found) for found in conn.execute(wanted.order_by(t.lease_until).limit(100))]


AHEAD_S = 60.0
"""A change further ahead of the clock than this means that the clock was put back; less may be another host's."""


def ahead(conn: Connection, now: float) -> list[str]:
    """UIDs of Workitems, not in their final state, that were changed in what is the future by now."""
    open_ = t.state.in_((State.SCHEDULED, State.IN_PROGRESS))
    return list(conn.execute(select(t.uid).where(t.updated_at > now + AHEAD_S, open_).limit(100)).scalars())


def put_back(conn: Connection, uid: str, now: float) -> None:
    """Let what waits for a moment after its last change wait as long from now on: the clock was put back since.

    A start that somebody has asked for stays as it is.
    """
    row = get(conn, uid, lock=True)
    if row is None or row.state.final or row.updated_at <= now + AHEAD_S:
        return
    by = row.updated_at - now
    values: dict[str, Any] = {"updated_at": now, "created_at": min(row.created_at, now), "offered_at": None}
    if row.lease_until is not None:
        values["lease_until"] = row.lease_until - by
    if row.failing_since is not None:
        values["failing_since"] = min(row.failing_since, now)
    if row.not_before is not None and (row.worker is not None or row.not_before <= row.created_at + 1.0):
        values["not_before"] = row.not_before - by
    save(conn, uid, values)


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


_OWN = {
    ups.SOP_INSTANCE_UID: t.uid,
    ups.PROCEDURE_STEP_STATE: t.state,
    ups.STUDY_INSTANCE_UID: t.study_instance_uid,  # also where only an input or the request names the study
}
"""Paths that a column of the Workitem answers, and nothing else."""


def index_values(conn: Connection, uid: str, attributes: Mapping[str, Any]) -> None:
    """Keep what the Workitem can be found by, in place of what was kept of it."""
    conn.execute(delete(workitem_value).where(_v.workitem_uid == uid))
    rows = [{"workitem_uid": uid, "path": path, "value": value} for path, value in ups_match.kept(attributes)]
    if rows:
        conn.execute(insert(workitem_value), rows)


def search(
    conn: Connection, wanted: ups_match.Search, scope: str, limit: int | None, offset: int
) -> tuple[list[WorkitemRow], int]:
    """At most `limit` matching rows from `offset` on, newest first, and how many match in all."""
    conditions = [_condition(conn.dialect.name, path, criterion) for path, criterion in wanted.leaves]
    known: list[ColumnElement[bool]] = [condition for condition in conditions if condition is not None]
    if scope:
        known.append(t.scope == scope)
    found = select(schema.workitem).where(*known).order_by(t.created_at.desc(), t.uid.desc())
    if len(known) - bool(scope) == len(conditions) and all(_is_single(key.criterion) for key in wanted.keys):
        total = conn.execute(select(func.count()).select_from(schema.workitem).where(*known)).scalar_one()
        page = found.offset(offset) if limit is None else found.offset(offset).limit(limit)
        return [row(each) for each in conn.execute(page)], int(total)
    checked = tuple(key for key in wanted.keys if key.attribute.tag not in _OWN)
    exact = ups_match.Search((), checked)
    matching = [each for each in map(row, conn.execute(found)) if exact.fits(each.attributes)]
    return (matching[offset:] if limit is None else matching[offset : offset + limit]), len(matching)


def _is_single(criterion: Criterion) -> bool:
    """Whether matching each leaf is matching the whole: nothing has to be true of one and the same item."""
    while isinstance(criterion, Item):
        if len(criterion.keys) > 1:
            return False
        criterion = criterion.keys[0][1]
    return True


def _condition(dialect: str, path: str, criterion: Criterion) -> ColumnElement[bool] | None:
    """What the index says of a leaf, None where it says nothing; a name of several groups is left to the Workitem."""
    if path in _OWN:
        return compare(dialect, criterion, (_OWN[path],))
    named = isinstance(criterion, Single | Wildcard) and criterion.vr == "PN"
    text = (
        criterion.value
        if isinstance(criterion, Single)
        else criterion.pattern
        if isinstance(criterion, Wildcard)
        else ""
    )
    if path not in ups_match.KEPT or isinstance(criterion, Moments | Item) or (named and "=" in str(text)):
        return None
    if isinstance(criterion, Empty):
        return ~exists().where(_v.workitem_uid == t.uid, _v.path == path)
    kept = path + ups_match.WORDS if isinstance(criterion, Fuzzy) else path
    columns = (_v.value,) * 4  # groups of a name and its words are rows here, not columns
    return t.uid.in_(select(_v.workitem_uid).where(_v.path == kept, compare(dialect, criterion, columns)))


def ended_before(conn: Connection, moment: float, limit: int = 500) -> list[str]:
    """UIDs of Workitems that reached their final state before `moment`, oldest first."""
    final = t.state.in_((State.COMPLETED, State.CANCELED))
    wanted = select(t.uid).where(final, t.updated_at < moment).order_by(t.updated_at).limit(limit)
    return list(conn.execute(wanted).scalars())


def remove(conn: Connection, uid: str) -> None:
    """Delete the row, and what it can be found by; that it was there is remembered."""
    conn.execute(delete(workitem_value).where(_v.workitem_uid == uid))
    conn.execute(delete(schema.workitem).where(t.uid == uid))
    if not is_gone(conn, uid):
        conn.execute(insert(workitem_gone).values(uid=uid))


def is_gone(conn: Connection, uid: str) -> bool:
    """Whether a Workitem with this UID was removed."""
    return conn.execute(select(workitem_gone.c.uid).where(workitem_gone.c.uid == uid)).first() is not None
