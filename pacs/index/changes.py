"""The sequence of what happened: a row per news in the same transaction, read from durable cursors.

Sequence numbers become visible in their order: a reader that has seen `seq` never misses a lower one. SQLite has one
writer; on PostgreSQL whoever appends holds an advisory lock until the end of the transaction, so append last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Connection, bindparam, func, insert, select, update

from pacs.index import schema
from pacs.index.order import in_order
from pacs.index.statement import Statement

if TYPE_CHECKING:
    from pacs.index.engine import Index

KINDS = (
    "instance", "result", "stable", "workitem", "deleted",
    "replaced", "quarantined", "rejected", "restored", "corrected", "discrepancy",
)  # fmt: skip
FLOOR = "changes floor"
"""The name in the table `meta` of the sequence number up to which an index was made again from its store."""

_c = schema.change.c
_AFTER = Statement(
    select(
        _c.seq, _c.kind, _c.study_instance_uid, _c.series_instance_uid, _c.sop_instance_uid, _c.workitem_uid,
        _c.principal, _c.at, _c.fingerprint, _c.scope,
    ).where(_c.seq > bindparam("seq")).order_by(_c.seq).limit(bindparam("limit"))
)  # fmt: skip
"""In the order of the fields of `Change`."""
_APPEND = Statement(insert(schema.change), [c.name for c in schema.change.columns if c.name != "seq"])


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that happened. `at` is in Unix seconds; `fingerprint` is that of a study that became stable."""

    seq: int
    kind: str
    study_instance_uid: str | None
    series_instance_uid: str | None
    sop_instance_uid: str | None
    workitem_uid: str | None
    principal: str
    at: float
    fingerprint: str | None = None
    scope: str = ""


def row(
    kind: str,
    *,
    at: float,
    principal: str,
    scope: str = "",
    study_instance_uid: str | None = None,
    series_instance_uid: str | None = None,
    sop_instance_uid: str | None = None,
    workitem_uid: str | None = None,
    fingerprint: str | None = None,
) -> dict[str, object]:
    """One change as a row of the table, for `append_all`."""
    assert kind in KINDS
    return {
        "kind": kind,
        "at": at,
        "principal": principal,
        "scope": scope,
        "study_instance_uid": study_instance_uid,
        "series_instance_uid": series_instance_uid,
        "sop_instance_uid": sop_instance_uid,
        "workitem_uid": workitem_uid,
        "fingerprint": fingerprint,
    }


def append(conn: Connection, kind: str, *, at: float, principal: str, **values: str | None) -> None:
    """Append one change to the transaction of `conn`; do so after everything else in it. Values are those of `row`."""
    append_all(conn, [row(kind, at=at, principal=principal, **values)])  # type: ignore[arg-type]


def append_all(conn: Connection, rows: list[dict[str, object]]) -> None:
    """Append several changes, each made by `row`."""
    if rows:
        in_order(conn)
        _APPEND.each(conn, rows)


class Changes:
    """Reading what happened."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def after(self, seq: int, limit: int = 100) -> list[Change]:
        """At most `limit` changes with a sequence number beyond `seq`, in order."""
        return [Change(*row) for row in self._index.fetch(_AFTER, {"seq": seq, "limit": limit})]

    def last(self) -> int:
        """The highest sequence number, 0 when nothing happened yet."""
        with self._index.read() as conn:
            return int(conn.execute(select(func.coalesce(func.max(schema.change.c.seq), 0))).scalar_one())

    def cursor(self, name: str) -> int:
        """Where the reader `name` stands; one that never advanced stands at 0, or where a rebuild of the index ended.

        Rebuilt rows are told for those who follow the feed from outside; within the archive they are old news.
        """
        with self._index.read() as conn:
            seq = conn.execute(select(schema.cursor.c.seq).where(schema.cursor.c.name == name)).scalar()
            if seq is None:
                seq = conn.execute(select(schema.meta.c.value).where(schema.meta.c.name == FLOOR)).scalar()
        return int(seq or 0)

    def has_cursor(self, name: str) -> bool:
        """Whether the reader `name` ever advanced."""
        with self._index.read() as conn:
            return conn.execute(select(schema.cursor.c.seq).where(schema.cursor.c.name == name)).first() is not None

    def cursors(self, conn: Connection, prefix: str) -> list[int]:
        """Where the readers stand whose name begins so."""
        t = schema.cursor.c
        return list(conn.execute(select(t.seq).where(t.name.startswith(prefix, autoescape=True))).scalars())

    def advance(self, conn: Connection, name: str, seq: int) -> None:
        """Move the cursor `name` forward to `seq` in the transaction of `conn`; it never moves back."""
        t = schema.cursor
        moved = conn.execute(update(t).where(t.c.name == name, t.c.seq < seq).values(seq=seq)).rowcount
        if not moved and conn.execute(select(t.c.seq).where(t.c.name == name)).scalar() is None:
            conn.execute(insert(t).values(name=name, seq=seq))
