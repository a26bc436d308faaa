"""What is wrong with the store, as far as anybody has looked: objects that are missing, spoilt or of no use.

An instance with a row here is quarantined: it stays listed, and reading it is answered with Corrupt until a scrub finds
its bytes whole again (`pacs.scrub`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    ForeignKey,
    Table,
    UniqueConstraint,
    delete,
    func,
    insert,
    select,
)

from pacs.index import aside, schema
from pacs.index.schema import _ID, _TEXT, metadata

damage = Table(
    "damage",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("instance_key", _ID, ForeignKey("instance.id", ondelete="CASCADE"), unique=True),  # NULL: no row owns it
    Column("object_key", _TEXT, nullable=False),
    Column("object_offset", BigInteger, nullable=False),
    Column("object_length", BigInteger, nullable=False),
    Column("kind", _TEXT, nullable=False),  # "missing", "corrupt", or "unusable": no object of ours, or a rival's
    Column("reason", _TEXT, nullable=False),
    Column("found_at", Double, nullable=False),
    UniqueConstraint("object_key", "object_offset"),
)


@dataclass(frozen=True, slots=True)
class Damage:
    """One case. The UIDs are None where no instance owns the object; `found_at` is in Unix seconds."""

    kind: str
    reason: str
    found_at: float
    object_key: str
    object_offset: int
    object_length: int
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None
    sop_instance_uid: str | None = None
    kept_aside: str | None = None
    """Why nobody sees it, of `pacs.index.aside.STATES`; None for an instance."""


def record(conn: Connection, values: dict[str, Any]) -> bool:
    """Add a case or bring it up to date; whether it is new. `values` are the columns but the key."""
    here = (damage.c.object_key == values["object_key"], damage.c.object_offset == values["object_offset"])
    old = conn.execute(select(damage.c.found_at).where(*here)).scalar()
    conn.execute(delete(damage).where(*here))
    conn.execute(insert(damage).values(values | ({} if old is None else {"found_at": old})))
    return old is None


def forget(conn: Connection, object_key: str, object_offset: int) -> bool:
    """Close the case of an object; whether there was one."""
    here = (damage.c.object_key == object_key, damage.c.object_offset == object_offset)
    return conn.execute(delete(damage).where(*here)).rowcount > 0


def listed(conn: Connection, limit: int | None = None) -> Sequence[Damage]:
    """Every open case, oldest first."""
    s, r, i, d, a = schema.study.c, schema.series.c, schema.instance.c, damage.c, aside.aside.c
    wanted = (
        select(
            d.kind, d.reason, d.found_at, d.object_key, d.object_offset, d.object_length,
            func.coalesce(s.study_instance_uid, a.study_instance_uid).label("study_instance_uid"),
            func.coalesce(r.series_instance_uid, a.series_instance_uid).label("series_instance_uid"),
            func.coalesce(i.sop_instance_uid, a.sop_instance_uid).label("sop_instance_uid"),
            a.state.label("kept_aside"),
        )
        .select_from(damage)
        .outerjoin(schema.instance, i.id == d.instance_key)
        .outerjoin(schema.series, r.id == i.series_key)
        .outerjoin(schema.study, s.id == i.study_key)
        .outerjoin(aside.aside, (a.object_key == d.object_key) & (a.object_offset == d.object_offset))
        .order_by(d.found_at, d.id)
        .limit(limit)
    )  # fmt: skip
    return [Damage(**row._mapping) for row in conn.execute(wanted)]
