"""Arrivals that contradict what is known: stored, since nothing may be lost, and listed until a person settles them.

Two kinds. "patient": the instance names another Patient ID than its study, which has one patient (PS3.3 A.1.2);
searches show it under the patient of the study, its own bytes unchanged. "series": its Series Instance UID is known in
another study; it stays in the study that it names. Each is audited, told in the change feed, and listed once.
"""

from __future__ import annotations

import hashlib
import time
from typing import Any

import orjson
from sqlalchemy import Connection, insert, select, update

from pacs import audit, filing
from pacs.auth import Principal, Right
from pacs.dicom import json_model
from pacs.errors import Conflict, NotFound
from pacs.index import changes, schema
from pacs.index import corrections as corrected
from pacs.index.aside import discrepancy
from pacs.index.engine import Index


def note(conn: Connection, entry: filing.Entry, filed: filing.Filed, principal: Principal) -> None:
    """Record what `filed` says contradicts what is here, unless that was recorded before."""
    scan = entry.scan
    if filed.other_patient and (held := _patient(conn, entry)) is not None:
        found = [json_model.text(scan.metadata, tag) or "" for tag in ("00100020", "00100021")]
        _add(conn, "patient", entry, filed, principal, {"found": found, "held": list(held)})
    if filed.known_series:
        s, r = schema.study.c, schema.series.c
        others = (
            select(s.study_instance_uid)
            .join_from(schema.series, schema.study, s.id == r.study_key)
            .where(r.series_instance_uid == scan.series_instance_uid, s.study_instance_uid != scan.study_instance_uid)
            .order_by(s.id)
        )
        studies = conn.execute(others).scalars().all()
        _add(conn, "series", entry, filed, principal, {"found": scan.study_instance_uid, "held": list(studies)})


def _patient(conn: Connection, entry: filing.Entry) -> tuple[str, str] | None:
    """Patient ID and issuer of the study, None where they are those of the entry as the study was received."""
    uid = entry.scan.study_instance_uid
    t = corrected.corrected_study
    raw = conn.execute(select(t.c.base).where(t.c.study_instance_uid == uid)).scalar()
    s = schema.study.c
    row = conn.execute(select(s.patient_id, s.issuer_of_patient_id).where(s.study_instance_uid == uid)).one()
    if raw is not None:
        base = orjson.loads(raw)["columns"]
        if not filing.other_patient(entry.patient, (base["patient_id"], base["issuer_of_patient_id"])):
            return None
    return row.patient_id or "", row.issuer_of_patient_id or ""


def _add(
    conn: Connection, kind: str, entry: filing.Entry, filed: filing.Filed, principal: Principal, facts: dict[str, Any]
) -> None:
    scan, at = entry.scan, entry.arrival.at
    same = orjson.dumps([kind, scan.study_instance_uid, scan.series_instance_uid, facts])
    mark = hashlib.sha256(same).hexdigest()
    if conn.execute(select(discrepancy.c.id).where(discrepancy.c.mark == mark)).first() is not None:
        return
    uids = {
        "study_instance_uid": scan.study_instance_uid,
        "series_instance_uid": scan.series_instance_uid,
        "sop_instance_uid": scan.sop_instance_uid,
    }
    conn.execute(
        insert(discrepancy).values(
            **uids, kind=kind, facts=orjson.dumps(facts), mark=mark, principal=principal.name,
            source_ae=entry.arrival.source_ae, at=at,
        )
    )  # fmt: skip
    words = {"patient": "another Patient ID than its study", "series": "a Series UID known in another study"}
    told = audit.row("Discrepancy", principal, "minor failure", at, detail=words[kind], **uids)
    audit.record_all(conn, [told])
    news = changes.row("discrepancy", at=at, principal=principal.name, scope=filed.scope, **uids)
    changes.append_all(conn, [news])


class Discrepancies:
    """What a person sees of them. Safe from any thread."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def listed(self, principal: Principal, *, settled: bool = False) -> list[dict[str, Any]]:
        """Those that nobody has settled (or all), the newest first. Raises Forbidden."""
        principal.require(Right.ADMIN)
        t, s = discrepancy, schema.study.c
        wanted = select(t).order_by(t.c.id.desc()).limit(1000)
        if not settled:
            wanted = wanted.where(t.c.settled_at.is_(None))
        if principal.scope:
            mine = select(s.study_instance_uid).where(s.scope == principal.scope)
            wanted = wanted.where(t.c.study_instance_uid.in_(mine))
        with self._index.read() as conn:
            found = conn.execute(wanted).all()
        hidden = ("facts", "mark")
        return [
            {name: value for name, value in row._mapping.items() if name not in hidden} | orjson.loads(row.facts)
            for row in found
        ]

    def settle(self, principal: Principal, number: int) -> None:
        """Mark one as looked at. Raises Forbidden, NotFound, and Conflict where somebody has done so."""
        principal.require(Right.ADMIN)
        if number not in {each["id"] for each in self.listed(principal, settled=True)}:
            raise NotFound("no such discrepancy", about=str(number))
        t, now = discrepancy, time.time()

        def work(conn: Connection) -> None:
            mine = update(t).where(t.c.id == number, t.c.settled_at.is_(None))
            if not conn.execute(mine.values(settled_at=now, settled_by=principal.name)).rowcount:
                raise Conflict("it is settled already", about=str(number))
            uid = conn.execute(select(t.c.study_instance_uid).where(t.c.id == number)).scalar_one()
            detail = f"discrepancy {number} settled"
            audit.record_all(
                conn, [audit.row("Discrepancy", principal, "success", now, detail=detail, study_instance_uid=uid)]
            )

        self._index.transact(work)
