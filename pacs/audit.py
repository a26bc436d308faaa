"""Who did what, when, with which outcome: rows written in the very transaction that did it.

UIDs and counts are recorded, patient data never (45 CFR 164.312(b); PS3.15 A.5 names the events).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select

from pacs.auth import Principal
from pacs.index import schema
from pacs.index.engine import Index
from pacs.index.statement import Statement


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One recorded event; `at` is in Unix seconds."""

    seq: int
    at: float
    event: str
    principal: str
    principal_kind: str
    outcome: str
    study_instance_uid: str | None
    series_instance_uid: str | None
    sop_instance_uid: str | None
    workitem_uid: str | None
    detail: str


_RECORD = Statement(insert(schema.audit), [c.name for c in schema.audit.columns if c.name != "seq"])


class Audit:
    """Recording and reading events."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def record(
        self,
        conn: Connection,
        event: str,
        principal: Principal,
        outcome: str = "success",
        *,
        study_instance_uid: str | None = None,
        series_instance_uid: str | None = None,
        sop_instance_uid: str | None = None,
        workitem_uid: str | None = None,
        detail: str = "",
    ) -> None:
        """Add one event to the transaction of `conn`."""
        record_all(
            conn,
            [
                row(
                    event, principal, outcome, time.time(),
                    study_instance_uid=study_instance_uid, series_instance_uid=series_instance_uid,
                    sop_instance_uid=sop_instance_uid, workitem_uid=workitem_uid, detail=detail,
                )
            ],
        )  # fmt: skip

    def query(self, event: str | None = None, limit: int = 1000) -> list[AuditEvent]:
        """The newest events first, of one kind if given."""
        t = schema.audit
        wanted = select(t).order_by(t.c.seq.desc()).limit(limit)
        if event is not None:
            wanted = wanted.where(t.c.event == event)
        with self._index.read() as conn:
            return [AuditEvent(**r._mapping) for r in conn.execute(wanted)]


def record_all(conn: Connection, rows: list[dict[str, object]]) -> None:
    """Add several events, each made by `row`, to the transaction of `conn`."""
    _RECORD.each(conn, rows)


def row(
    event: str, principal: Principal, outcome: str, at: float, *, detail: str = "", **uids: str | None
) -> dict[str, object]:
    """A row for the audit table, for those who insert several at once."""
    none = dict.fromkeys(("study_instance_uid", "series_instance_uid", "sop_instance_uid", "workitem_uid"))
    return {
        "event": event, "principal": principal.name, "principal_kind": principal.kind, "outcome": outcome, "at": at,
        "detail": detail, **none, **uids,
    }  # fmt: skip
