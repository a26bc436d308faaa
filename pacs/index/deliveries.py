"""Deliveries of the return path: which instance goes to which destination, how far that is, and the SQL of it.

A delivery is "pending" until somebody leases it, "sending" meanwhile, "sent" once the destination took the instance
and still has to commit itself to keep it, and ends "delivered" or "dead". Functions take the connection of a
transaction that the caller owns. Times are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Double,
    Index,
    Integer,
    Row,
    Table,
    UniqueConstraint,
    and_,
    func,
    or_,
    select,
    update,
)

from pacs.index import schema
from pacs.index.schema import _ID, _TEXT, metadata
from pacs.index.statement import insert_of

delivery = Table(
    "delivery",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("destination", _TEXT, nullable=False),  # AE title or DICOMweb root
    Column("rule", _TEXT, nullable=False),  # name of the [[forward]] entry or AE title that asked for it
    Column("study_instance_uid", _TEXT, nullable=False, index=True),
    Column("series_instance_uid", _TEXT, nullable=False),
    Column("sop_instance_uid", _TEXT, nullable=False, index=True),
    Column("digest", _TEXT, nullable=False),
    Column("scope", _TEXT, nullable=False),
    Column("principal", _TEXT, nullable=False),  # who asked
    Column("state", _TEXT, nullable=False),
    Column("commitment", Integer, nullable=False, default=0),  # 1 = delivered only once committed
    Column("transaction_uid", _TEXT, index=True),
    Column("attempt", Integer, nullable=False, default=0),
    Column("refusals", Integer, nullable=False, default=0),  # how many of the attempts the destination refused
    Column("not_before", Double, nullable=False),
    Column("lease_token", _TEXT, index=True),
    Column("lease_until", Double),
    Column("reason", _TEXT, nullable=False, default=""),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    # The same content goes to a destination once, however often news of it are read.
    UniqueConstraint("destination", "sop_instance_uid", "digest"),
    Index("delivery_due", "state", "destination", "not_before"),
    sqlite_autoincrement=True,
)

OPEN = ("pending", "sending", "sent")
STATES = (*OPEN, "delivered", "dead")

d = delivery.c
_IN_ONE_LIST = 500


def candidates(conn: Connection, sop_instance_uids: Sequence[str]) -> list[Row[Any]]:
    """What rules look at, of instances that are here: UIDs, digest, Modality, SOP Class, source, plug-in."""
    s, r, i, w = schema.study.c, schema.series.c, schema.instance.c, schema.workitem
    wanted = (
        select(
            s.study_instance_uid, s.scope, r.series_instance_uid, r.modality, i.sop_instance_uid, i.sop_class_uid,
            i.digest, i.source_ae, i.result_of, w.c.plugin,
        )
        .join_from(schema.instance, schema.series, r.id == i.series_key)
        .join(schema.study, s.id == i.study_key)
        .outerjoin(w, w.c.uid == i.result_of)
    )  # fmt: skip
    found: list[Row[Any]] = []
    for at in range(0, len(sop_instance_uids), _IN_ONE_LIST):
        found += conn.execute(wanted.where(i.sop_instance_uid.in_(sop_instance_uids[at : at + _IN_ONE_LIST])))
    return found


def add(conn: Connection, rows: Sequence[Mapping[str, Any]], *, again: bool = False) -> int:
    """How many deliveries were noted. One that is known stays as it is; with `again` one that has ended starts anew."""
    insert_into = insert_of(conn)
    changed = 0
    for row in rows:
        new = insert_into(delivery).values(**row)
        target = [d.destination, d.sop_instance_uid, d.digest]
        if again:
            fresh = {name: row[name] for name in ("rule", "principal", "state", "commitment", "created_at")}
            anew = {
                **fresh,
                "not_before": row["not_before"],
                "updated_at": row["updated_at"],
                "attempt": 0,
                "refusals": 0,
            }
            new = new.on_conflict_do_update(
                index_elements=target,
                set_={**anew, "reason": "", "transaction_uid": None, "lease_token": None, "lease_until": None},
                where=d.state.in_(("delivered", "dead")),
            )
        else:
            new = new.on_conflict_do_nothing(index_elements=target)
        changed += conn.execute(new).rowcount
    return changed


def waiting_destinations(conn: Connection, now: float) -> list[str]:
    """Destinations for which something is due."""
    due = select(d.destination).where(d.state == "pending", d.not_before <= now).distinct()
    return list(conn.execute(due).scalars())


def claim(conn: Connection, destination: str, token: str, now: float, until: float, limit: int) -> list[Row[Any]]:
    """At most `limit` due deliveries to one destination, the oldest first, now leased under `token`."""
    due = and_(d.destination == destination, d.state == "pending", d.not_before <= now)
    oldest = select(d.id).where(due).order_by(d.id).limit(limit).with_for_update(skip_locked=True)
    keys = list(conn.execute(oldest).scalars())
    taken = (
        update(delivery)
        .where(d.id.in_(keys), d.state == "pending")
        .values(state="sending", lease_token=token, lease_until=until, attempt=d.attempt + 1, updated_at=now)
        .returning(delivery)
    )
    return sorted(conn.execute(taken), key=lambda row: row.id)


def renew(conn: Connection, tokens: Iterable[str], until: float) -> None:
    """Keep what these tokens hold."""
    conn.execute(update(delivery).where(d.lease_token.in_(list(tokens))).values(lease_until=until))


def reap(conn: Connection, now: float) -> int:
    """How many deliveries became free again because whoever sent them is silent."""
    lost = and_(d.state == "sending", or_(d.lease_until < now, d.lease_until.is_(None)))
    free = update(delivery).where(lost).values(state="pending", lease_token=None, lease_until=None, updated_at=now)
    return conn.execute(free).rowcount


def settle(conn: Connection, key: int, token: str, now: float, **values: Any) -> bool:
    """End the sending of one delivery; False where the lease was lost meanwhile."""
    ended = (
        update(delivery)
        .where(d.id == key, d.lease_token == token)
        .values(lease_token=None, lease_until=None, updated_at=now, **values)
    )
    return conn.execute(ended).rowcount == 1


def put(conn: Connection, keys: Sequence[int], now: float, **values: Any) -> None:
    """Change deliveries that nobody holds."""
    for at in range(0, len(keys), _IN_ONE_LIST):
        these = update(delivery).where(d.id.in_(list(keys[at : at + _IN_ONE_LIST])), d.lease_token.is_(None))
        conn.execute(these.values(updated_at=now, **values))


def uncommitted(conn: Connection, now: float, limit: int = 500) -> list[Row[Any]]:
    """Deliveries that were sent, and whose destination has to be asked, or asked about, now."""
    sent = and_(d.state == "sent", d.not_before <= now)
    return list(conn.execute(select(delivery).where(sent).order_by(d.id).limit(limit)))


def listed(
    conn: Connection, *, state: str | None = None, study: str | None = None, after: int = 0, limit: int = 100
) -> list[Row[Any]]:
    """Deliveries with an id beyond `after`, in order."""
    conditions = [d.id > after]
    if state is not None:
        conditions.append(d.state == state)
    if study is not None:
        conditions.append(d.study_instance_uid == study)
    return list(conn.execute(select(delivery).where(*conditions).order_by(d.id).limit(limit)))


def counts(conn: Connection) -> list[Row[Any]]:
    """(destination, state, number, age of the oldest) of all deliveries."""
    grouped = select(d.destination, d.state, func.count().label("number"), func.min(d.created_at).label("oldest"))
    return list(conn.execute(grouped.group_by(d.destination, d.state).order_by(d.destination, d.state)))


def revive(conn: Connection, now: float, keys: Sequence[int] | None = None, destination: str | None = None) -> int:
    """How many dead letters are tried again: those with these ids, those for a destination, or all."""
    conditions = [d.state == "dead"]
    if keys is not None:
        conditions.append(d.id.in_(list(keys)))
    if destination is not None:
        conditions.append(or_(d.destination == destination, d.rule == destination))
    anew = {"state": "pending", "attempt": 0, "refusals": 0, "reason": ""}
    times = dict.fromkeys(("not_before", "created_at", "updated_at"), now)
    return conn.execute(update(delivery).where(*conditions).values(**anew, **times)).rowcount


def pending_studies(conn: Connection, study_instance_uids: Sequence[str]) -> set[str]:
    """Those of the studies of which something still has to be delivered."""
    found: set[str] = set()
    for at in range(0, len(study_instance_uids), _IN_ONE_LIST):
        some = list(study_instance_uids[at : at + _IN_ONE_LIST])
        held = select(d.study_instance_uid).where(d.study_instance_uid.in_(some), d.state.in_(OPEN)).distinct()
        found |= set(conn.execute(held).scalars())
    return found
