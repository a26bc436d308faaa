"""Storage commitments: requests of others ("in") and of ours ("out"), the instances they list, and their SQL.

A request is "asked" until every instance of it is verified (in) or the peer has reported (out); then it is "due", and
"reported" once the peer took the report. "answered" and "refused" are the ends of what we asked, "dead" is a report
that nobody took. Functions take the connection of a transaction that the caller owns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Double,
    ForeignKey,
    Integer,
    Row,
    Table,
    UniqueConstraint,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy import Index as TableIndex

from pacs.index import aside, schema
from pacs.index.schema import _ID, _TEXT, metadata
from pacs.index.statement import Statement

commitment = Table(
    "commitment",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("direction", _TEXT, nullable=False),  # "in" or "out"
    Column("door", _TEXT, nullable=False),  # how it is reported: "dimse", or the name of another reporter
    Column("peer", _TEXT, nullable=False),  # AE title
    Column("transaction_uid", _TEXT, nullable=False),
    Column("serial", Integer, nullable=False),  # 0, or counted up for others under a Transaction UID already used
    Column("principal", _TEXT, nullable=False),
    Column("principal_kind", _TEXT, nullable=False),
    Column("scope", _TEXT, nullable=False),
    Column("state", _TEXT, nullable=False),
    Column("total", Integer, nullable=False),
    Column("attempt", Integer, nullable=False, default=0),
    Column("not_before", Double, nullable=False),
    Column("lease_token", _TEXT),
    Column("lease_until", Double),
    Column("message", _TEXT, nullable=False, default=""),
    Column("created_at", Double, nullable=False),
    Column("ended_at", Double),
    UniqueConstraint("direction", "peer", "transaction_uid", "serial"),
    TableIndex("commitment_due", "state", "not_before"),
)

commitment_instance = Table(
    "commitment_instance",
    metadata,
    Column("commitment_id", _ID, ForeignKey("commitment.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("sop_class_uid", _TEXT, nullable=False),
    Column("sop_instance_uid", _TEXT, nullable=False, index=True),
    Column("failure", _TEXT),  # NULL = not judged yet, "" = committed
    Column("study_instance_uid", _TEXT),  # where the asker says that it is, if they do
    Column("series_instance_uid", _TEXT),
)

PENDING = ("asked", "due")
c, i = commitment.c, commitment_instance.c
_IN_ONE_LIST = 500
_JUDGE = Statement(
    update(commitment_instance)
    .where(i.commitment_id == bindparam("of"), i.position == bindparam("at"))
    .values(failure=bindparam("why"))
)
_ADD = Statement(insert(commitment_instance), [column.name for column in commitment_instance.columns])


def add(
    conn: Connection,
    values: dict[str, Any],
    instances: Sequence[tuple[str, str]],
    failure: str | None,
    places: Sequence[tuple[str, str]] = (),
) -> int:
    """Insert a request and its (SOP Class UID, SOP Instance UID), all judged as `failure`; its id.

    `places` are the Study and Series Instance UID of each, where the asker names them.
    """
    row = {"attempt": 0, "message": "", "total": len(instances), **values}
    number = int(conn.execute(insert(commitment).values(**row).returning(c.id)).scalar_one())
    rows = [
        {"commitment_id": number, "position": at, "sop_class_uid": of, "sop_instance_uid": uid, "failure": failure,
         "study_instance_uid": study, "series_instance_uid": series}
        for at, ((of, uid), (study, series)) in enumerate(zip(instances, places or repeat((None, None)), strict=False))
    ]  # fmt: skip
    if rows:
        _ADD.each(conn, rows)
    return number


def under(conn: Connection, direction: str, peer: str, transaction_uid: str) -> Sequence[Row[Any]]:
    """The requests under a Transaction UID, in the order they came."""
    wanted = select(commitment).where(
        c.direction == direction, c.peer == peer, c.transaction_uid == transaction_uid
    )  # fmt: skip
    return conn.execute(wanted.order_by(c.serial).with_for_update()).all()


def waiting(conn: Connection, peer: str) -> int:
    """How many requests of a peer wait to be verified or reported."""
    wanted = select(func.count()).where(c.direction == "in", c.peer == peer, c.state.in_(PENDING))
    return int(conn.execute(wanted).scalar_one())


def instances(conn: Connection, number: int, *, unjudged: bool = False, limit: int | None = None) -> list[Row[Any]]:
    """The instances of a request, in their order."""
    wanted = select(commitment_instance).where(i.commitment_id == number).order_by(i.position)
    if unjudged:
        wanted = wanted.where(i.failure.is_(None))
    return list(conn.execute(wanted if limit is None else wanted.limit(limit)).all())


def judge(conn: Connection, number: int, verdicts: Iterable[tuple[int, str | None]]) -> None:
    """Note why instances (by position) are not committed, or that they are (""); None takes the verdict back."""
    rows = [{"of": number, "at": position, "why": why} for position, why in verdicts]
    if rows:
        _JUDGE.each(conn, rows)


def claim(conn: Connection, state: str, now: float, until: float, token: str, *, busy: Sequence[str]) -> list[Row[Any]]:
    """What of `state` is to be done now, leased until `until`: one request, or all that are due to one peer.

    Nothing of the peers in `busy`.
    """
    free = and_(
        c.direction == "in", c.state == state, c.not_before <= now, or_(c.lease_until.is_(None), c.lease_until <= now)
    )
    wanted = select(commitment).where(free).order_by(c.not_before, c.id).with_for_update(skip_locked=True)
    if busy:
        wanted = wanted.where(c.peer.not_in(busy))
    first = conn.execute(wanted.limit(1)).first()
    if first is None:
        return []
    rows = [first]
    if state == "due":
        rows = list(conn.execute(wanted.where(c.peer == first.peer, c.door == first.door).limit(50)).all())
    conn.execute(
        update(commitment).where(c.id.in_([row.id for row in rows])).values(lease_token=token, lease_until=until)
    )
    return rows


def renew(conn: Connection, number: int, token: str, until: float) -> bool:
    """Whether the lease was still held; it is longer now."""
    held = update(commitment).where(c.id == number, c.lease_token == token).values(lease_until=until)
    return conn.execute(held).rowcount == 1


def release_all(conn: Connection) -> None:
    """Give every lease back: for a process that is the only one, at its start."""
    conn.execute(update(commitment).where(c.lease_token.is_not(None)).values(lease_token=None, lease_until=None))


def put(conn: Connection, number: int, token: str | None, **values: Any) -> bool:
    """Set columns and give the lease back; whether it was held by `token` (None = by nobody who matters)."""
    held = update(commitment).where(c.id == number)
    if token is not None:
        held = held.where(c.lease_token == token)
    return conn.execute(held.values(**{"lease_token": None, "lease_until": None, **values})).rowcount == 1


def postpone(conn: Connection, peer: str, not_before: float) -> None:
    """Let nothing be reported to a peer earlier: it did not answer just now."""
    waiting = and_(c.direction == "in", c.state == "due", c.peer == peer, c.not_before < not_before)
    conn.execute(update(commitment).where(waiting, c.lease_token.is_(None)).values(not_before=not_before))


def listed(
    conn: Connection,
    states: Sequence[str],
    limit: int,
    *,
    direction: str | None = None,
    transaction_uid: str | None = None,
    peer: str | None = None,
    before: float | None = None,
) -> list[Row[Any]]:
    """Requests in these states (none = any), the newest first, each with the number of instances not committed."""
    failed = (
        select(func.count())
        .select_from(commitment_instance)
        .where(i.commitment_id == c.id, i.failure != "")
        .scalar_subquery()
    )
    conditions = [
        column == value
        for column, value in ((c.direction, direction), (c.transaction_uid, transaction_uid), (c.peer, peer))
        if value is not None
    ]
    if states:
        conditions.append(c.state.in_(states))
    if before is not None:
        conditions.append(c.created_at < before)
    wanted = select(commitment, failed.label("failed")).where(*conditions)
    return list(conn.execute(wanted.order_by(c.id.desc()).limit(limit)).all())


def is_in_use(conn: Connection, transaction_uid: str) -> bool:
    """Whether anybody has asked anything under a Transaction UID."""
    asked = select(c.id).where(c.direction == "in", c.transaction_uid == transaction_uid)
    return conn.execute(asked.limit(1)).first() is not None


def members(
    conn: Connection, study: str, series: str | None, sop_class: str | None, scope: str, limit: int
) -> list[tuple[str, str, str]]:
    """(Series Instance UID, SOP Class UID, SOP Instance UID) of at most `limit` instances of a study, or part of it."""
    n, r, s = schema.instance.c, schema.series.c, schema.study.c
    wanted = (
        select(r.series_instance_uid, n.sop_class_uid, n.sop_instance_uid)
        .join_from(schema.instance, schema.series, r.id == n.series_key)
        .join(schema.study, s.id == n.study_key)
        .where(s.study_instance_uid == study)
        .order_by(n.id)
        .limit(limit)
    )
    for column, value in ((r.series_instance_uid, series), (n.sop_class_uid, sop_class), (s.scope, scope or None)):
        if value is not None:
            wanted = wanted.where(column == value)
    return [(row[0], row[1], row[2]) for row in conn.execute(wanted)]


def stored(conn: Connection, uids: Sequence[str]) -> dict[str, Row[Any]]:
    """What is stored of these SOP Instance UIDs, by UID: class, place, digest, scope, study and series."""
    n, r, s = schema.instance.c, schema.series.c, schema.study.c
    found: dict[str, Row[Any]] = {}
    for at in range(0, len(uids), _IN_ONE_LIST):
        wanted = (
            select(
                n.id, n.sop_instance_uid, n.sop_class_uid, n.transfer_syntax_uid, n.object_key, n.object_offset,
                n.object_length, n.dataset_offset, n.digest, s.scope, s.study_instance_uid, r.series_instance_uid,
            )
            .join_from(schema.instance, schema.study, s.id == n.study_key)
            .join(schema.series, r.id == n.series_key)
            .where(n.sop_instance_uid.in_(uids[at : at + _IN_ONE_LIST]))
        )  # fmt: skip
        found |= {row.sop_instance_uid: row for row in conn.execute(wanted)}
    return found


def contested(conn: Connection, uids: Sequence[str], source_ae: str) -> set[str]:
    """Those under which `source_ae` has sent other content than is stored, and a person has not decided yet."""
    a = aside.aside.c
    found = set[str]()
    for at in range(0, len(uids), _IN_ONE_LIST):
        wanted = select(a.sop_instance_uid).where(
            a.sop_instance_uid.in_(uids[at : at + _IN_ONE_LIST]),
            a.state == aside.QUARANTINED,
            a.source_ae == source_ae,
        )
        found |= set(conn.execute(wanted).scalars())
    return found


def pending_studies(conn: Connection, study_uids: Sequence[str]) -> set[str]:
    """Those of the studies in which an instance waits to be committed, here or elsewhere."""
    n, s = schema.instance.c, schema.study.c
    found = set[str]()
    for at in range(0, len(study_uids), _IN_ONE_LIST):
        wanted = (
            select(s.study_instance_uid)
            .join_from(schema.study, schema.instance, n.study_key == s.id)
            .join(commitment_instance, i.sop_instance_uid == n.sop_instance_uid)
            .join(commitment, c.id == i.commitment_id)
            .where(s.study_instance_uid.in_(study_uids[at : at + _IN_ONE_LIST]), c.state.in_(PENDING))
            .distinct()
        )
        found |= set(conn.execute(wanted).scalars())
    return found


def forget(conn: Connection, before: float) -> int:
    """Delete what ended before; how many. A request that nobody took stays."""
    ended = select(c.id).where(c.state.in_(("reported", "answered", "refused")), c.ended_at < before).limit(1000)
    numbers = list(conn.execute(ended).scalars())
    if numbers:
        conn.execute(delete(commitment_instance).where(i.commitment_id.in_(numbers)))
        conn.execute(delete(commitment).where(c.id.in_(numbers)))
    return len(numbers)
