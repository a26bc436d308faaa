"""Verdicts read again out of their documents: of those that come from elsewhere, and of all when the index is new.

The document is the truth; a row goes with it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import Connection, select

from analysis.api import CODE_SCHEME, Code
from analysis.reports_read import (
    CODE,
    DEVICE_SERIAL_NUMBER,
    SOFTWARE_VERSIONS,
    TEXT,
    TRACKING_ID,
    TRACKING_UID,
    UID,
    concept,
    findings,
    groups,
    items,
    metadata,
    text_of,
)
from analysis.verdict_models import VERDICT
from pacs.dicom import ups
from pacs.errors import ArchiveError
from pacs.index import schema
from pacs.index import verdicts as sql
from pacs.uids import IMPLEMENTATION_CLASS_UID

if TYPE_CHECKING:
    from pacs.archive import Archive

log = logging.getLogger("m3dicom.verdicts")

CURSOR = "verdicts"
NEWS_AT_ONCE = 1000
COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
PREDECESSORS = "0040A360"
COMMENT = "121106"
CAME, GONE = ("instance", "result", "restored"), ("deleted", "rejected", "replaced")


class VerdictReader:
    """Follows the news of one archive; `step` is called by the scheduler."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._index = archive.index

    def step(self, now: float) -> None:
        """Read verdicts out of documents that have arrived, and forget those whose documents are gone."""
        changes = self._archive.changes
        if not changes.has_cursor(CURSOR):
            last = changes.last()
            self._read(self._documents())
            self._index.transact(partial(changes.advance, name=CURSOR, seq=last))
            return
        batch = changes.after(changes.cursor(CURSOR), NEWS_AT_ONCE)
        if not batch:
            return
        came = [
            c.sop_instance_uid for c in batch if c.kind in ("instance", "result", "restored") and c.sop_instance_uid
        ]
        self._read(self._documents(came))
        deleted = any(c.kind in ("deleted", "rejected", "replaced") for c in batch)

        def work(conn: Connection) -> None:
            if deleted:
                sql.forget_gone(conn)
            changes.advance(conn, name=CURSOR, seq=batch[-1].seq)

        self._index.transact(work)

    def _documents(self, among: Sequence[str] | None = None) -> list[str]:
        """SOP Instance UIDs of SRs of ours, of these or of all, that are no results of a task."""
        i = schema.instance.c
        ours = select(i.sop_instance_uid).where(
            i.sop_class_uid == COMPREHENSIVE_3D_SR, i.result_of == IMPLEMENTATION_CLASS_UID
        )
        found: list[str] = []
        with self._index.read() as conn:
            if among is None:
                return list(conn.execute(ours).scalars())
            for at in range(0, len(among), 500):
                some = list(among[at : at + 500])
                found += conn.execute(ours.where(i.sop_instance_uid.in_(some))).scalars()
        return found

    def _read(self, documents: Sequence[str]) -> None:
        for at in range(0, len(documents), 100):
            for uid, raw in metadata(self._index, documents[at : at + 100]).items():
                try:
                    values = self._values(uid, raw)
                except (ArchiveError, KeyError, IndexError, AttributeError, ValueError) as error:
                    log.warning("no verdict can be read out of %s: %s", uid, type(error).__name__)
                    continue
                if values is not None:
                    self._index.transact(partial(_add, values=values))

    def _values(self, uid: str, raw: dict[str, Any]) -> dict[str, Any] | None:
        group = next(groups(raw), None)
        if group is None:
            return None
        said = [concept(each, CODE) for each in items(group) if _is_verdict(concept(each))]
        verdict = next((code.value for code in said if code is not None), None)
        predecessor = next(iter((raw.get(PREDECESSORS) or {}).get("Value") or ()), None)
        if verdict not in sql.VERDICTS or predecessor is None:
            return None
        report_uid = str(predecessor["00081115"]["Value"][0]["00081199"]["Value"][0]["00081155"]["Value"][0])
        report = metadata(self._index, [report_uid]).get(report_uid, {})
        observer = raw["0040A073"]["Value"][0]
        corrected: dict[str, Any] = {"measurements": []} if verdict == "corrected" else {}
        study = str(ups.value(raw, "0020000D"))
        when = ups.from_dt(str(ups.value(observer, "0040A030")))
        with self._index.read() as conn:
            scope = conn.execute(
                select(schema.study.c.scope).where(schema.study.c.study_instance_uid == study)
            ).scalar()
        return {
            "sop_instance_uid": uid, "series_instance_uid": str(ups.value(raw, "0020000E")),
            "study_instance_uid": study, "report_uid": report_uid, "findings": len(findings(report)),
            "tracking_uid": text_of(group, TRACKING_UID, UID), "tracking_id": text_of(group, TRACKING_ID, TEXT),
            "verdict": verdict, "comment": text_of(group, COMMENT, TEXT), "corrected": orjson.dumps(corrected),
            "plugin": str(ups.value(report, DEVICE_SERIAL_NUMBER) or ""),
            "version": str(ups.value(report, SOFTWARE_VERSIONS) or ""),
            "reader": str(observer["0040A075"]["Value"][0]["Alphabetic"]).rstrip("^"), "scope": scope or "", "at": when,
        }  # fmt: skip


def _add(conn: Connection, values: dict[str, Any]) -> None:
    sql.add(conn, values)


def _is_verdict(name: Code | None) -> bool:
    return name is not None and (name.value, name.scheme) == (VERDICT.value, CODE_SCHEME)
