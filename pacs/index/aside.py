"""Objects that are kept and that nobody sees: quarantined newcomers, replaced versions, rejected instances.

A row holds everything the instance's own row would need besides what its bytes tell; the bytes are the object's. One
content (SOP Instance UID and digest) is either an instance or aside, never both. Discrepancies are told here as well:
arrivals that were stored although their patient or study is not the one that is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Index,
    LargeBinary,
    Table,
    UniqueConstraint,
    bindparam,
    delete,
    insert,
    select,
)

from pacs.index.schema import _ID, _TEXT, metadata
from pacs.index.statement import Found, Statement

QUARANTINED, REPLACED, REJECTED = "quarantined", "replaced", "rejected"
STATES = (QUARANTINED, REPLACED, REJECTED)

aside = Table(
    "aside",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("state", _TEXT, nullable=False),
    Column("study_instance_uid", _TEXT, nullable=False, index=True),
    Column("series_instance_uid", _TEXT, nullable=False),
    Column("sop_instance_uid", _TEXT, nullable=False),
    Column("sop_class_uid", _TEXT, nullable=False),
    Column("transfer_syntax_uid", _TEXT, nullable=False),
    Column("digest", _TEXT, nullable=False),
    Column("object_key", _TEXT, nullable=False),
    Column("object_offset", BigInteger, nullable=False),
    Column("object_length", BigInteger, nullable=False),
    Column("dataset_offset", BigInteger, nullable=False),
    Column("principal", _TEXT, nullable=False),  # who sent it
    Column("scope", _TEXT, nullable=False),
    Column("source_ae", _TEXT, nullable=False),
    Column("result_of", _TEXT),
    Column("received_at", Double, nullable=False),
    Column("at", Double, nullable=False),  # since when it is aside
    Column("by", _TEXT, nullable=False),  # who set it aside
    Column("reason", _TEXT, nullable=False),  # in words; never patient data
    Column("note_uid", _TEXT),  # SOP Instance UID of the Key Object that rejected it
    UniqueConstraint("sop_instance_uid", "digest"),
    Index("aside_object", "object_key", "object_offset"),
    Index("aside_state", "state", "at"),
    sqlite_autoincrement=True,
)

discrepancy = Table(
    "discrepancy",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("kind", _TEXT, nullable=False),  # "patient": other Patient ID; "series": Series UID known in another study
    Column("study_instance_uid", _TEXT, nullable=False, index=True),
    Column("series_instance_uid", _TEXT, nullable=False),
    Column("sop_instance_uid", _TEXT, nullable=False),  # the first instance that showed it
    Column("facts", LargeBinary, nullable=False),  # JSON: what was found and what is held; may name a patient
    Column("mark", _TEXT, nullable=False, unique=True),  # digest of what is the same of its repetitions
    Column("principal", _TEXT, nullable=False),
    Column("source_ae", _TEXT, nullable=False),
    Column("at", Double, nullable=False),
    Column("settled_at", Double),
    Column("settled_by", _TEXT),
    sqlite_autoincrement=True,
)

COLUMNS = tuple(str(c.name) for c in aside.columns if c.name != "id")
_INSERT = Statement(insert(aside).returning(aside.c.id), COLUMNS)
_FOUND = Statement(
    select(aside).where(aside.c.sop_instance_uid == bindparam("uid"), aside.c.digest == bindparam("digest"))
)
_DROP = Statement(
    delete(aside)
    .where(aside.c.sop_instance_uid == bindparam("uid"), aside.c.digest == bindparam("digest"))
    .returning(aside.c.id)
)


def add(conn: Connection, row: dict[str, Any]) -> int:
    """The id of a new row; one of the same content goes before."""
    drop(conn, row["sop_instance_uid"], row["digest"])
    ((found,),) = _INSERT.all(conn, row)
    return int(found)


def drop(conn: Connection, sop_instance_uid: str, digest: str) -> bool:
    """Forget that this content is aside; its bytes stay. Whether it was, once nobody else is about to drop it."""
    return bool(_DROP.all(conn, {"uid": sop_instance_uid, "digest": digest}))


def of_content(conn: Connection, sop_instance_uid: str, digest: str) -> Found | None:
    """The row of this content, or None."""
    return _FOUND.first(conn, {"uid": sop_instance_uid, "digest": digest})


def of_id(conn: Connection, number: int, state: str | None = None) -> Found | None:
    """One row by its id, of one state where given."""
    wanted = select(aside).where(aside.c.id == number)
    return conn.execute(wanted if state is None else wanted.where(aside.c.state == state)).first()


def listed(
    conn: Connection, state: str | None = None, *, instance: str | None = None, study: str | None = None,
    limit: int = 1000,
) -> Sequence[Found]:  # fmt: skip
    """Rows, the newest first, of one state, instance or study where given."""
    wanted = select(aside).order_by(aside.c.id.desc()).limit(limit)
    if state is not None:
        wanted = wanted.where(aside.c.state == state)
    if instance is not None:
        wanted = wanted.where(aside.c.sop_instance_uid == instance)
    if study is not None:
        wanted = wanted.where(aside.c.study_instance_uid == study)
    return conn.execute(wanted).all()


def as_dict(row: Found) -> dict[str, Any]:
    """A row as `add` takes it: every column but the id."""
    return {name: getattr(row, name) for name in COLUMNS}
