"""Verdicts read again out of their documents: of those that come from elsewhere, and of all when the index is new.

The document is the truth; a row goes with it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
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
    VALUE_TYPE,
    Item,
    concept,
    findings,
    groups,
    items,
    metadata,
    text_of,
)
from analysis.verdict_fields import comment, corrections
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
REFERENCED, REFERENCED_INSTANCE, REFERENCED_FRAME = "00081199", "00081155", "00081160"
GRAPHIC_TYPE, GRAPHIC_DATA = "00700023", "00700022"
SHAPES = {"POINT": "point", "CIRCLE": "circle", "POLYLINE": "polygon"}
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
        came = [c.sop_instance_uid for c in batch if c.kind in CAME and c.sop_instance_uid]
        self._read(self._documents(came))
        with self._index.read() as conn:  # on reports that have come only now
            waiting = sql.waiting(conn, came)
        self._read(waiting, sql.settle)
        deleted = any(c.kind in GONE for c in batch)

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
                return list(conn.execute(ours.order_by(i.id)).scalars())
            for at in range(0, len(among), 500):
                some = list(among[at : at + 500])
                found += conn.execute(ours.where(i.sop_instance_uid.in_(some))).scalars()
        return found

    def _read(self, documents: Sequence[str], note: Callable[..., object] = sql.add) -> None:
        for at in range(0, len(documents), 100):
            for uid, raw in metadata(self._index, documents[at : at + 100]).items():
                try:
                    values = self._values(uid, raw)
                except (ArchiveError, KeyError, IndexError, AttributeError, ValueError) as error:
                    log.warning("no verdict can be read out of %s: %s", uid, type(error).__name__)
                    continue
                if values is not None:
                    self._index.transact(partial(note, values=values))

    def _values(self, uid: str, raw: dict[str, Any]) -> dict[str, Any] | None:
        group, verdict = next(groups(raw), None), verdict_of(raw)
        if group is None:
            return None
        predecessor = next(iter((raw.get(PREDECESSORS) or {}).get("Value") or ()), None)
        if verdict not in sql.VERDICTS or predecessor is None:
            return None
        report_uid = str(predecessor["00081115"]["Value"][0]["00081199"]["Value"][0]["00081155"]["Value"][0])
        report = metadata(self._index, [report_uid]).get(report_uid, {})
        observer = raw["0040A073"]["Value"][0]
        finding = text_of(group, TRACKING_UID, UID)
        corrected = missed_at(group) if verdict == "missed" else {}
        if verdict == "corrected":
            corrected = changes(group, self._judged(report_uid, report, finding))
        study = str(ups.value(raw, "0020000D"))
        when = ups.from_dt(str(ups.value(observer, "0040A030")))
        with self._index.read() as conn:
            scope = conn.execute(
                select(schema.study.c.scope).where(schema.study.c.study_instance_uid == study)
            ).scalar()
        return {
            "sop_instance_uid": uid, "series_instance_uid": str(ups.value(raw, "0020000E")),
            "study_instance_uid": study, "report_uid": report_uid, "findings": len(findings(report)),
            "tracking_uid": finding, "tracking_id": text_of(group, TRACKING_ID, TEXT),
            "verdict": verdict, "comment": comment(group), "corrected": orjson.dumps(corrected),
            "plugin": str(ups.value(report, DEVICE_SERIAL_NUMBER) or ""),
            "version": str(ups.value(report, SOFTWARE_VERSIONS) or ""),
            "reader": str(observer["0040A075"]["Value"][0]["Alphabetic"]).rstrip("^"), "scope": scope or "", "at": when,
            "finding": int(is_finding(report, finding)),
        }  # fmt: skip

    def _judged(self, report_uid: str, report: Item, finding: str) -> Item:
        """The group as the reader found it: of the report, or as some reader had added it; {} where it is not here."""
        with self._index.read() as conn:
            added = sql.listed(
                conn, "", sql.v.report_uid == report_uid, sql.v.tracking_uid == finding, sql.v.verdict == "missed"
            )
        found = metadata(self._index, [row.sop_instance_uid for row in added])
        of_all = (group for each in (report, *found.values()) for group in groups(each))
        return next((group for group in of_all if text_of(group, TRACKING_UID, UID) == finding), {})


def is_finding(report: Item, tracking_uid: str) -> bool:
    """Whether a finding is judged, or what the report says of an image or of the whole: a group of neither."""
    named = {text_of(each, TRACKING_UID, UID) for each in groups(report)}
    return tracking_uid not in named or any(each.tracking_uid == tracking_uid for each in findings(report))


def verdict_of(report: Item) -> str | None:
    """What a reader says in this document, None where it is no verdict."""
    for group in groups(report):
        for each in items(group):
            if _is_verdict(concept(each)) and (said := concept(each, CODE)) is not None:
                return said.value
    return None


def changes(group: Item, before: Item) -> dict[str, Any]:
    """What a reader has changed of a finding, as `NewVerdict` has it: numbers, codes and texts, and its place."""
    here, there = place(group), place(before)
    return {**corrections(group, before), **(here if here != there else {})}


def missed_at(group: Item) -> dict[str, Any]:
    """Where a reader has seen what was missed, as `NewVerdict` has it."""
    found = place(group)
    for region in _regions(group):
        for selected in items(region):
            for image in (selected.get(REFERENCED) or {}).get("Value") or ():
                found["image"] = ups.value(image, REFERENCED_INSTANCE)
                if (frame := ups.value(image, REFERENCED_FRAME)) is not None:
                    found["frame"] = int(frame)
    return found


def place(group: Item) -> dict[str, Any]:
    """Shape and points of the one outline of a finding, {} where it has none or several."""
    regions = _regions(group)
    shape = SHAPES.get(str(ups.value(regions[0], GRAPHIC_TYPE))) if len(regions) == 1 else None
    if shape is None:
        return {}
    numbers = [float(f"{float(each):.7g}") for each in regions[0].get(GRAPHIC_DATA, {}).get("Value") or ()]
    points = [list(point) for point in zip(numbers[::2], numbers[1::2], strict=False)]
    if shape == "polygon" and points[-1:] == points[:1]:
        points.pop()  # a document closes it
    return {"shape": shape, "points": points}


def _regions(group: Item) -> list[Item]:
    return [each for each in items(group) if ups.value(each, VALUE_TYPE) == "SCOORD"]


def _is_verdict(name: Code | None) -> bool:
    return name is not None and (name.value, name.scheme) == (VERDICT.value, CODE_SCHEME)
