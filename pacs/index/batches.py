"""Batches: one plug-in over many studies, what of them is done, and the SQL of it.

A batch is "planning" while its studies are looked at, "running" or "paused" while tasks are made of them, "reporting"
while its report is made, and ends "done", "cancelled" or "failed". An item is "waiting", "open" while its Workitem is
not finished, and ends as that did ("completed", "canceled") or "failed" where none could be made. Functions take the
connection of a transaction that the caller owns. Times are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Row,
    Table,
    UniqueConstraint,
    and_,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from pacs.index import schema, workitems
from pacs.index.schema import _ID, _TEXT, metadata
from pacs.index.statement import insert_of

batch = Table(
    "batch",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("uid", _TEXT, nullable=False, unique=True),  # what the UIDs of its report derive from
    Column("state", _TEXT, nullable=False, index=True),
    Column("plugin", _TEXT, nullable=False),
    Column("version", _TEXT, nullable=False),
    Column("query", _TEXT, nullable=False),  # as of QIDO-RS: ModalitiesInStudy=CT&StudyDate=20200101-
    Column("parameters", LargeBinary, nullable=False),  # JSON, all of them
    Column("priority", _TEXT, nullable=False),
    Column("rate_per_minute", Double),  # NULL = no limit
    Column("at_once", Integer, nullable=False),  # at most so many Workitems that are not finished
    Column("only_changed", Integer, nullable=False),
    Column("principal", _TEXT, nullable=False),
    Column("scope", _TEXT, nullable=False),
    Column("reason", _TEXT, nullable=False, default=""),
    Column("round", Integer, nullable=False, default=0),  # how often it was resumed to try again
    Column("studies", Integer, nullable=False, default=0),  # that match the query
    Column("planned", Integer, nullable=False, default=0),  # of these, looked at
    Column("unchanged", Integer, nullable=False, default=0),  # left out: the result is there
    Column("next_at", Double, nullable=False, default=0.0),  # when the rate allows the next Workitem
    Column("lease_token", _TEXT),
    Column("lease_until", Double),
    Column("report", LargeBinary),  # JSON
    Column("report_study_uid", _TEXT),
    Column("report_instance_uid", _TEXT),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("ended_at", Double),
    sqlite_autoincrement=True,
)

batch_study = Table(
    "batch_study",
    metadata,
    Column("batch_id", _ID, ForeignKey("batch.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("study_instance_uid", _TEXT, nullable=False),
)
"""Studies that are still to be looked at."""

batch_item = Table(
    "batch_item",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("batch_id", _ID, ForeignKey("batch.id", ondelete="CASCADE"), nullable=False),
    Column("state", _TEXT, nullable=False),
    Column("study_instance_uid", _TEXT, nullable=False),
    Column("target", _TEXT, nullable=False),  # UID of the study, series or instance
    Column("label", _TEXT, nullable=False),
    Column("task_key", _TEXT, nullable=False),
    Column("workitem_uid", _TEXT, index=True),
    Column("made", Integer, nullable=False, default=0),  # 1 = the Workitem was made for this batch
    Column("previous_uid", _TEXT),  # Workitem of the results that there were before
    Column("reason", _TEXT, nullable=False, default=""),
    Column("updated_at", Double, nullable=False),
    UniqueConstraint("batch_id", "task_key"),
    Index("batch_item_next", "batch_id", "state", "id"),
    sqlite_autoincrement=True,
)

LIVE = ("planning", "running", "reporting")
STATES = (*LIVE, "paused", "done", "cancelled", "failed")
ITEM_STATES = ("waiting", "open", "completed", "canceled", "failed", "cancelled")

b, i = batch.c, batch_item.c
_IN_ONE_LIST = 500
_TOLD = (*(column for column in batch.c if column is not b.report), b.report.is_not(None).label("has_report"))
"""What is told of a batch; its report may be megabytes."""


def add(conn: Connection, values: Mapping[str, Any]) -> int:
    """The id of a new batch."""
    made: int = conn.execute(insert(batch).values(**values).returning(b.id)).scalar_one()
    return made


def get(conn: Connection, number: int, *, lock: bool = False) -> Row[Any] | None:
    """The batch of that id; with `lock` nobody else changes it until the transaction ends."""
    wanted = select(*_TOLD).where(b.id == number)
    return conn.execute(wanted.with_for_update() if lock else wanted).first()


def report(conn: Connection, number: int) -> bytes | None:
    """The report of a batch, None where there is none."""
    return conn.execute(select(b.report).where(b.id == number)).scalar()


def save(conn: Connection, number: int, now: float, *conditions: Any, **values: Any) -> bool:
    """Change a batch where the conditions hold; whether they did."""
    changed = update(batch).where(b.id == number, *conditions).values(updated_at=now, **values)
    return conn.execute(changed).rowcount == 1


def listed(conn: Connection, scope: str, state: str | None, before: int | None, limit: int) -> list[Row[Any]]:
    """Batches, the newest first."""
    wanted = select(*_TOLD).order_by(b.id.desc()).limit(limit)
    if scope:
        wanted = wanted.where(b.scope == scope)
    if state is not None:
        wanted = wanted.where(b.state == state)
    if before is not None:
        wanted = wanted.where(b.id < before)
    return list(conn.execute(wanted))


def counts(conn: Connection, numbers: Sequence[int]) -> dict[int, dict[str, int]]:
    """How many items of each batch are in each state."""
    wanted = select(i.batch_id, i.state, func.count()).where(i.batch_id.in_(list(numbers)))
    found: dict[int, dict[str, int]] = {number: {} for number in numbers}
    for number, state, count in conn.execute(wanted.group_by(i.batch_id, i.state)):
        found[number][state] = count
    return found


# The loop ------------------------------------------------------------------------------------------------------------


def claim(
    conn: Connection, token: str, now: float, until: float, versions: Mapping[str, str], patience_s: float
) -> list[Row[Any]]:
    """The batches that want something done, oldest first, now leased under `token`; it may hold them already.

    Those that need another of the `versions` of plug-ins are left to others for `patience_s`.
    """
    free = or_(b.lease_token.is_(None), b.lease_until < now, b.lease_token == token)
    ours = [and_(b.plugin == plugin, b.version == version) for plugin, version in versions.items()]
    nobodys = func.coalesce(b.lease_until, b.updated_at) <= now - patience_s
    taken = update(batch).where(b.state.in_(LIVE), free, or_(nobodys, *ours))
    taken = taken.values(lease_token=token, lease_until=until)
    return sorted(conn.execute(taken.returning(batch)), key=lambda row: row.id)


def any_live(conn: Connection) -> bool:
    """Whether a batch wants something done."""
    return conn.execute(select(b.id).where(b.state.in_(LIVE)).limit(1)).first() is not None


def release(conn: Connection, token: str, now: float) -> None:
    """Let others go on with what this token holds."""
    conn.execute(update(batch).where(b.lease_token == token).values(lease_token=None, lease_until=now))


def add_studies(conn: Connection, number: int, study_instance_uids: Sequence[str]) -> None:
    """Note the studies that are to be looked at."""
    rows = [
        {"batch_id": number, "position": position, "study_instance_uid": uid}
        for position, uid in enumerate(study_instance_uids)
    ]
    if rows:
        conn.execute(insert(batch_study), rows)


def next_studies(conn: Connection, number: int, after: int, limit: int) -> list[str]:
    """The next studies to be looked at; `after` were."""
    s = batch_study.c
    wanted = select(s.study_instance_uid).where(s.batch_id == number, s.position >= after)
    return list(conn.execute(wanted.order_by(s.position).limit(limit)).scalars())


def add_items(conn: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Note items; those that are known stay as they are."""
    insert_into = insert_of(conn)
    for row in rows:
        conn.execute(insert_into(batch_item).values(**row).on_conflict_do_nothing())


def items(conn: Connection, number: int, *states: str, after: int = 0, limit: int | None = None) -> list[Row[Any]]:
    """Items of a batch in these states (none = all) with an id beyond `after`, in order."""
    wanted = select(batch_item).where(i.batch_id == number, i.id > after).order_by(i.id)
    if states:
        wanted = wanted.where(i.state.in_(states))
    return list(conn.execute(wanted if limit is None else wanted.limit(limit)))


def set_item(conn: Connection, key: int, now: float, **values: Any) -> None:
    """Change an item."""
    conn.execute(update(batch_item).where(i.id == key).values(updated_at=now, **values))


def handed_over(conn: Connection, number: int, workitem_uid: str, now: float) -> bool:
    """Whether another batch waits for that Workitem, too: it is that one's from now on, to be ended with it."""
    live = select(b.id).where(b.state.in_((*LIVE, "paused")))
    wanted = (
        update(batch_item)
        .where(i.workitem_uid == workitem_uid, i.state == "open", i.batch_id != number, i.batch_id.in_(live))
        .values(made=1, updated_at=now)
    )
    return conn.execute(wanted).rowcount > 0


def count(conn: Connection, number: int, state: str) -> int:
    """How many items of the batch are in that state."""
    wanted = select(func.count()).select_from(batch_item).where(i.batch_id == number, i.state == state)
    return conn.execute(wanted).scalar_one()


def ended(conn: Connection, number: int) -> list[Row[Any]]:
    """(id, state, reason, superseded_by) of the open items whose Workitems are finished, or gone."""
    w = schema.workitem.c
    wanted = (
        select(i.id, w.state, w.reason, w.superseded_by)
        .select_from(batch_item.outerjoin(schema.workitem, w.uid == i.workitem_uid))
        .where(i.batch_id == number, i.state == "open", or_(w.state.in_(("COMPLETED", "CANCELED")), w.uid.is_(None)))
    )
    return list(conn.execute(wanted))


def workitems_of(conn: Connection, plugin: str, study_instance_uid: str) -> list[workitems.WorkitemRow]:
    """All Workitems for a plug-in and a study, whoever asked for them, oldest first."""
    w = schema.workitem.c
    wanted = select(schema.workitem).where(w.plugin == plugin, w.study_instance_uid == study_instance_uid)
    return [workitems.row(found) for found in conn.execute(wanted.order_by(w.created_at, w.uid))]


def durations(conn: Connection, plugin: str, limit: int = 50) -> list[workitems.WorkitemRow]:
    """The Workitems of a plug-in that were completed last."""
    w = schema.workitem.c
    wanted = select(schema.workitem).where(w.plugin == plugin, w.state == "COMPLETED")
    return [workitems.row(found) for found in conn.execute(wanted.order_by(w.updated_at.desc()).limit(limit))]


def forget_items(conn: Connection, number: int) -> None:
    """Forget the items of a batch: it is planned anew."""
    conn.execute(delete(batch_item).where(i.batch_id == number))


def again(conn: Connection, number: int, now: float, *states: str) -> int:
    """How many items of the batch in these states wait again."""
    waiting = update(batch_item).where(and_(i.batch_id == number, i.state.in_(states)))
    return conn.execute(waiting.values(state="waiting", reason="", updated_at=now)).rowcount
