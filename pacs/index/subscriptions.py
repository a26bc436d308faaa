"""Who watches which Workitems, and the events that wait for them: tables and their SQL (PS3.4 CC.2.3, CC.2.4).

An event is a row per receiver, written in the transaction of what it tells; it goes when it was taken. Within the
rows of one receiver the order of `seq` is the order in which things happened (`pacs.index.order`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import (
    TEXT,
    BigInteger,
    Column,
    Connection,
    Double,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    and_,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from pacs.dicom.ups import Attributes
from pacs.dicom.ups_events import GLOBAL_UID, EventType, Report
from pacs.index import schema
from pacs.index.order import in_order

_TEXT = Text().with_variant(TEXT(collation="C"), "postgresql")
_ID = BigInteger().with_variant(Integer, "sqlite")

NONE, WITHOUT_LOCK, WITH_LOCK = range(3)
"""Global Subscription State of an AE (PS3.4 CC.2.3.1)."""

receiver = Table(
    "ups_receiver",
    schema.metadata,
    Column("ae_title", _TEXT, primary_key=True),
    Column("owner", _TEXT, nullable=False, index=True),  # the principal who may listen for it over HTTP
    Column("global_state", Integer, nullable=False),
    Column("matching", LargeBinary),  # JSON of the matching keys of a filtered global subscription
    Column("scope", _TEXT, nullable=False),  # what the global subscription covers
    Column("lease", _TEXT),  # who sends to it now
    Column("lease_until", Double),
    Column("not_before", Double, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("trouble", _TEXT, nullable=False),
)

subscription = Table(
    "ups_subscription",
    schema.metadata,
    Column("workitem_uid", _TEXT, primary_key=True),
    Column("ae_title", _TEXT, primary_key=True),
    Column("deletion_lock", Integer, nullable=False),
    Column("named", Integer, nullable=False),  # the Workitem itself was named: goes before what is said globally
    Index("ups_subscription_receiver", "ae_title"),
)

event = Table(
    "ups_event",
    schema.metadata,
    Column("seq", _ID, primary_key=True, autoincrement=True),
    Column("ae_title", _TEXT, nullable=False),
    Column("workitem_uid", _TEXT, nullable=False),
    Column("type", Integer, nullable=False),
    Column("information", LargeBinary, nullable=False),  # DICOM JSON
    Column("at", Double, nullable=False),
    Index("ups_event_waiting", "ae_title", "seq"),
    sqlite_autoincrement=True,
)

listening = Table(
    "ups_listening",
    schema.metadata,
    Column("ae_title", _TEXT, primary_key=True),
    Column("process", _TEXT, primary_key=True),  # one that has connections of the AE's open (PS3.18 8.10)
    Column("until", Double, nullable=False),
)

_r, _s, _e, _w, _l = receiver.c, subscription.c, event.c, schema.workitem.c, listening.c

LISTENERS = "listeners"
"""Who sends to a receiver while any process has a connection of its open: all of these, and nobody else."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event that waits for one receiver. `seq` only grows; `at` is in Unix seconds."""

    seq: int
    workitem_uid: str
    type: EventType
    information: Attributes
    at: float


@dataclass(frozen=True, slots=True)
class Global:
    """A receiver that is subscribed to what comes: with a deletion lock or not, and what it has to match."""

    ae_title: str
    lock: bool
    keys: dict[str, str] | None
    scope: str


# Subscribing ---------------------------------------------------------------------------------------------------------


def know(conn: Connection, ae_title: str, owner: str) -> None:
    """Make the row of a receiver, unless it is there."""
    if owner_of(conn, ae_title) is None:
        values = {"owner": owner, "global_state": NONE, "scope": "", "not_before": 0.0, "failures": 0, "trouble": ""}
        conn.execute(insert(receiver).values(ae_title=ae_title, **values))


def owner_of(conn: Connection, ae_title: str) -> str | None:
    """Who may listen for a receiver over HTTP; None where there is no such receiver."""
    found: str | None = conn.execute(select(_r.owner).where(_r.ae_title == ae_title)).scalar()
    return found


def disown(conn: Connection, ae_title: str) -> None:
    """Forget a receiver that is subscribed to nothing and for which nothing waits."""
    held = [exists().where(table.c.ae_title == _r.ae_title) for table in (subscription, event)]
    idle = [~has for has in held]
    conn.execute(delete(receiver).where(_r.ae_title == ae_title, _r.global_state == NONE, *idle))


def owned_by(conn: Connection, owner: str) -> list[str]:
    """The receivers for which a principal may listen."""
    return list(conn.execute(select(_r.ae_title).where(_r.owner == owner).order_by(_r.ae_title)).scalars())


def is_global(conn: Connection, ae_title: str) -> bool:
    """Whether the receiver is subscribed to Workitems to come."""
    return conn.execute(select(_r.global_state).where(_r.ae_title == ae_title)).scalar() not in (None, NONE)


def set_global(conn: Connection, ae_title: str, state: int, keys: dict[str, str] | None, scope: str) -> None:
    """Set what the receiver is subscribed to of Workitems to come."""
    packed = None if keys is None else orjson.dumps(keys)
    values = {"global_state": state, "matching": packed, "scope": scope}
    conn.execute(update(receiver).where(_r.ae_title == ae_title).values(**values))


def globals_(conn: Connection) -> list[Global]:
    """Everybody who is subscribed to what comes."""
    found = conn.execute(select(_r.ae_title, _r.global_state, _r.matching, _r.scope).where(_r.global_state != NONE))
    return [
        Global(title, state == WITH_LOCK, None if packed is None else orjson.loads(packed), scope)
        for title, state, packed, scope in found
    ]


def subscribe(conn: Connection, uids: Iterable[str], ae_title: str, *, lock: bool, named: bool) -> None:
    """Subscribe a receiver to Workitems; a subscription that names one is not replaced by one that does not."""
    for uid in uids:
        here = and_(_s.workitem_uid == uid, _s.ae_title == ae_title)
        held = conn.execute(select(_s.named).where(here)).scalar()
        values = {"deletion_lock": int(lock), "named": int(named)}
        if held is None:
            conn.execute(insert(subscription).values(workitem_uid=uid, ae_title=ae_title, **values))
        elif named or not held:
            conn.execute(update(subscription).where(here).values(**values))


def subscribe_all(conn: Connection, ae_title: str, *, lock: bool, scope: str) -> None:
    """Subscribe a receiver to every Workitem there is, except where one was named before."""
    conn.execute(update(subscription).where(_s.ae_title == ae_title, _s.named == 0).values(deletion_lock=int(lock)))
    here = exists().where(_s.workitem_uid == _w.uid, _s.ae_title == ae_title)
    rest = select(_w.uid, literal(ae_title), literal(int(lock)), literal(0)).where(~here)
    if scope:
        rest = rest.where(_w.scope == scope)
    conn.execute(insert(subscription).from_select(["workitem_uid", "ae_title", "deletion_lock", "named"], rest))


def subscriptions_of(conn: Connection, ae_title: str) -> dict[str, bool]:
    """UID of each Workitem that the receiver is subscribed to: whether it holds a deletion lock."""
    found = conn.execute(select(_s.workitem_uid, _s.deletion_lock).where(_s.ae_title == ae_title))
    return {uid: bool(lock) for uid, lock in found}


def unsubscribe(conn: Connection, uid: str | None, ae_title: str) -> int:
    """How many subscriptions were ended, all of the receiver's for None; events that wait are forgotten too."""
    ended = []
    for table in (subscription, event):
        here = [table.c.ae_title == ae_title, *([table.c.workitem_uid == uid] if uid is not None else [])]
        ended.append(conn.execute(delete(table).where(*here)).rowcount)
    return ended[0]


def forget(conn: Connection, uid: str) -> None:
    """End all subscriptions to a Workitem that is removed. Events that wait are still to be told."""
    conn.execute(delete(subscription).where(_s.workitem_uid == uid))


def watchers(conn: Connection, uid: str) -> list[str]:
    """The receivers that are subscribed to a Workitem."""
    return list(conn.execute(select(_s.ae_title).where(_s.workitem_uid == uid).order_by(_s.ae_title)).scalars())


def locked(conn: Connection, uid: str) -> bool:
    """Whether a deletion lock is on the Workitem."""
    return conn.execute(select(_s.ae_title).where(_s.workitem_uid == uid, _s.deletion_lock == 1)).first() is not None


def everybody(conn: Connection) -> list[str]:
    """The receivers that are subscribed to anything."""
    here = exists().where(_s.ae_title == _r.ae_title)
    return list(
        conn.execute(select(_r.ae_title).where(or_(_r.global_state != NONE, here)).order_by(_r.ae_title)).scalars()
    )


# Events --------------------------------------------------------------------------------------------------------------


def publish(conn: Connection, uid: str, receivers: Sequence[str], reports: Sequence[Report], at: float) -> None:
    """Let the reports wait for each receiver. Do so after everything else in the transaction."""
    rows = [
        {"ae_title": ae_title, "workitem_uid": uid, "type": int(report.type), "at": at,
         "information": orjson.dumps(report.information)}
        for report in reports
        for ae_title in receivers
    ]  # fmt: skip
    if rows:
        in_order(conn)
        conn.execute(insert(event), rows)


def waiting_for(
    conn: Connection, ae_title: str, after: int, limit: int, *, scope: str = "", owner: str | None = None
) -> list[Event]:
    """Events for a receiver beyond the sequence number `after`, in order; with a scope those of its Workitems alone.

    With an owner only while the receiver is theirs: in one statement with the events, so that a receiver that was
    nobody's a moment ago and is somebody else's by now tells nothing.
    """
    wanted = select(event).where(_e.ae_title == ae_title, _e.seq > after).order_by(_e.seq).limit(limit)
    if owner is not None:
        wanted = wanted.where(exists().where(_r.ae_title == ae_title, _r.owner == owner))
    if scope:  # what the server says of itself is everybody's
        within = exists().where(_w.uid == _e.workitem_uid, _w.scope == scope)
        wanted = wanted.where(or_(_e.workitem_uid == GLOBAL_UID, within))
    return [
        Event(row.seq, row.workitem_uid, EventType(row.type), orjson.loads(row.information), row.at)
        for row in conn.execute(wanted)
    ]


def taken(conn: Connection, ae_title: str, upto: int) -> None:
    """Forget a receiver's events up to that sequence number, and that there was trouble."""
    conn.execute(delete(event).where(_e.ae_title == ae_title, _e.seq <= upto))
    values = {"failures": 0, "not_before": 0.0, "trouble": ""}
    conn.execute(update(receiver).where(_r.ae_title == ae_title, _r.failures > 0).values(**values))


def due(conn: Connection, now: float, limit: int) -> list[str]:
    """Receivers for whom events wait, whom nobody sends to now, and who are not to be left alone for a while."""
    free = or_(_r.lease_until.is_(None), _r.lease_until < now)
    has = exists().where(_e.ae_title == _r.ae_title)
    return list(conn.execute(select(_r.ae_title).where(free, _r.not_before <= now, has).limit(limit)).scalars())


def lease(conn: Connection, ae_title: str, owner: str, now: float, until: float) -> bool:
    """Whether `owner` alone sends to the receiver until then; it may extend what it holds."""
    free = or_(_r.lease_until.is_(None), _r.lease_until < now, _r.lease == owner)
    changed = update(receiver).where(_r.ae_title == ae_title, free).values(lease=owner, lease_until=until)
    return conn.execute(changed).rowcount == 1


def release(conn: Connection, ae_title: str, owner: str) -> None:
    """Let others send to the receiver."""
    here = update(receiver).where(_r.ae_title == ae_title, _r.lease == owner)
    conn.execute(here.values(lease=None, lease_until=None))


def lease_to_listeners(conn: Connection, ae_title: str, process: str, now: float, until: float) -> bool:
    """Whether those who have connections of the receiver's open send to it, `process` one of them until then."""
    if not lease(conn, ae_title, LISTENERS, now, until):
        return False
    conn.execute(delete(listening).where(_l.ae_title == ae_title, or_(_l.process == process, _l.until < now)))
    conn.execute(insert(listening).values(ae_title=ae_title, process=process, until=until))
    return True


def stop_listening(conn: Connection, ae_title: str, process: str, now: float) -> None:
    """Let others send to the receiver when `process` was the last one with a connection of its."""
    conn.execute(select(_r.ae_title).where(_r.ae_title == ae_title).with_for_update())  # two last ones would both stay
    last = ~exists().where(_l.ae_title == ae_title, _l.process != process, _l.until >= now)
    here = update(receiver).where(_r.ae_title == ae_title, _r.lease == LISTENERS, last)
    conn.execute(here.values(lease=None, lease_until=None))
    conn.execute(delete(listening).where(_l.ae_title == ae_title, _l.process == process))


def postpone(conn: Connection, ae_title: str, not_before: float, trouble: str) -> None:
    """Leave the receiver alone until then, since it could not be reached."""
    here = update(receiver).where(_r.ae_title == ae_title)
    conn.execute(here.values(not_before=not_before, trouble=trouble, failures=_r.failures + 1))


def failures(conn: Connection, ae_title: str) -> int:
    """How often in a row the receiver could not be reached."""
    return int(conn.execute(select(_r.failures).where(_r.ae_title == ae_title)).scalar() or 0)


def stale(conn: Connection, before: float) -> dict[str, int]:
    """How many events of each receiver have waited since before that moment."""
    found = conn.execute(select(_e.ae_title, func.count()).where(_e.at < before).group_by(_e.ae_title))
    return {row[0]: int(row[1]) for row in found}


def drop(conn: Connection, ae_title: str, before: float) -> None:
    """Forget the events of a receiver from before that moment."""
    conn.execute(delete(event).where(_e.ae_title == ae_title, _e.at < before))


def overview(conn: Connection) -> list[dict[str, Any]]:
    """Every receiver: ae_title, global_state, waiting events, failures and trouble."""
    waiting = select(_e.ae_title, func.count().label("waiting")).group_by(_e.ae_title).subquery()
    wanted = (
        select(
            _r.ae_title, _r.global_state, _r.failures, _r.trouble, func.coalesce(waiting.c.waiting, 0).label("waiting")
        )
        .select_from(receiver.outerjoin(waiting, waiting.c.ae_title == _r.ae_title))
        .order_by(_r.ae_title)
    )
    return [dict(row._mapping) for row in conn.execute(wanted)]
