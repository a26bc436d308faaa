"""What a reader says becomes a verified SR in the archive and a row to count, in one transaction.

Imported by whoever writes the first verdict: pydicom and highdicom are nothing that a server holds without need.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
from pydicom import Dataset
from sqlalchemy import Connection, Row

from analysis import verdict_document as document
from analysis.api import Code
from analysis.reports_read import (
    DEVICE_SERIAL_NUMBER,
    SOFTWARE_VERSIONS,
    TEXT,
    TRACKING_ID,
    TRACKING_UID,
    UID,
    Item,
    findings,
    groups,
    is_report,
    metadata,
    text_of,
)
from analysis.verdict_choices import choices
from analysis.verdict_fields import corrections, form, without_verdict
from analysis.verdict_models import Form, NewVerdict, Other, Verdict, told
from analysis.verdict_reading import is_finding, place, verdict_of
from pacs import audit, uids
from pacs.auth import ALL_RIGHTS, Principal, Right
from pacs.dicom import ups
from pacs.errors import DuplicateInstance, InvalidInput, NotFound
from pacs.index import verdicts as sql

if TYPE_CHECKING:
    from pacs.archive import Archive

log = logging.getLogger("m3dicom.verdicts")

ROWS, COLUMNS, NUMBER_OF_FRAMES = "00280010", "00280011", "00280008"
MOST = 65_535.0  # rows and columns of any image
_PLACE = {"shape", "points", "image", "frame"}


class VerdictWriter:
    """Writes the verdicts of one archive. Safe from any thread."""

    def __init__(self, archive: Archive, clock: Callable[[], float]) -> None:
        self._archive = archive
        self._index = archive.index
        self._clock = clock
        self._one = threading.Lock()  # two servers at once make two documents: the later counts

    def say(self, principal: Principal, given: NewVerdict) -> Verdict:
        """The verdict, durable. Saying again what one said last changes nothing.

        Raises Forbidden, NotFound for a report or finding that is not here, and InvalidInput for what cannot be said.
        """
        principal.require(Right.PROCESS)
        principal.require(Right.READ)
        _meant(given)
        raw = self._report(principal, given.report)
        report = document.dataset(raw)
        with self._one:
            group, changed = self._group(principal, raw, report, given)
            tracking_uid, tracking_id = document.tracking(group)
            with self._index.read() as conn:
                before = sql.latest(conn, given.report, tracking_uid, principal.name)
            # What was missed is told by its Tracking Identifier: the same place may be said to be something else.
            if before is not None and (
                before.verdict, before.comment, orjson.loads(before.corrected), before.tracking_id
            ) == (given.verdict, given.comment, changed, tracking_id):  # fmt: skip
                return told(before, True)
            return self._file(principal, raw, report, group, given, changed, tracking_uid, tracking_id, before)

    def form(self, principal: Principal, report_uid: str, tracking_uid: str) -> Form:
        """What of a finding can be corrected. Raises Forbidden, NotFound and InvalidInput."""
        principal.require(Right.READ)
        raw = self._report(principal, report_uid)
        group = self.finding(raw, report_uid, tracking_uid)
        with self._index.read() as conn:
            last = sql.latest(conn, report_uid, tracking_uid, principal.name)
        own: Item | None = None
        if last is not None and last.verdict == "corrected":
            said_last = metadata(self._index, [last.sop_instance_uid]).get(last.sop_instance_uid, {})
            own = next(groups(said_last), None)
        return Form(
            report_uid=report_uid, tracking_uid=tracking_uid, tracking_id=text_of(group, TRACKING_ID, TEXT),
            place=bool(place(group)), fields=form(group, own, partial(choices, report=[raw])),
        )  # fmt: skip

    def _file(
        self, principal: Principal, raw: dict[str, Any], report: Dataset, group: Dataset, given: NewVerdict,
        changed: dict[str, Any], tracking_uid: str, tracking_id: str, before: Row[Any] | None,
    ) -> Verdict:  # fmt: skip
        now = self._clock()
        words = orjson.dumps([given.verdict, given.comment, changed, tracking_id]).decode()
        key = (given.report, tracking_uid, principal.name, words, before.sop_instance_uid if before else "")
        uid = uids.derived("verdict", *key)
        with self._index.read() as conn:
            number = 1 + len(sql.listed(conn, "", sql.v.report_uid == given.report, sql.v.reader == principal.name))
        ds = document.encode(
            report, group, uid=uid, verdict=given.verdict, comment=given.comment, reader=principal.name,
            number=number, when=now,
            also=[self._image(principal, report, given.image, given.points, given.frame)] if given.image else [],
        )  # fmt: skip
        values = {
            "sop_instance_uid": uid, "series_instance_uid": str(ds.SeriesInstanceUID),
            "study_instance_uid": str(ds.StudyInstanceUID), "report_uid": given.report,
            "findings": len(findings(raw)), "tracking_uid": tracking_uid, "tracking_id": tracking_id,
            "verdict": given.verdict, "comment": given.comment, "corrected": orjson.dumps(changed),
            "plugin": str(ups.value(raw, DEVICE_SERIAL_NUMBER) or ""), "reader": principal.name,
            "version": str(ups.value(raw, SOFTWARE_VERSIONS) or ""), "scope": principal.scope, "at": now,
            "finding": int(is_finding(raw, tracking_uid)),
        }  # fmt: skip

        def also(conn: Connection) -> None:
            sql.add(conn, values)
            detail = f"finding {tracking_uid} {given.verdict}"
            record = audit.row("finding judged", principal, "success", now, detail=detail, sop_instance_uid=uid,
                               study_instance_uid=str(ds.StudyInstanceUID),
                               series_instance_uid=str(ds.SeriesInstanceUID))  # fmt: skip
            audit.record_all(conn, [record])

        ingest = self._archive.ingest
        writer = Principal(principal.name, principal.kind, ALL_RIGHTS, principal.scope)
        with ingest.receive_part10() as receiving:
            receiving.write(document.part10(ds))
            try:
                ingest.file([ingest.prepare(receiving, principal=writer)], also)
            except DuplicateInstance:  # the same was said at the same time through another server
                log.info("verdict %s is here already", uid)
        self._archive.events.publish()
        with self._index.read() as conn:
            row = sql.known(conn, uid)
        if row is None:
            raise NotFound("the verdict is not here yet; say it again", about=uid)
        return told(row, True)

    def _report(self, principal: Principal, uid: str) -> dict[str, Any]:
        raw = self._visible(principal, uid)
        if not is_report(raw):
            raise InvalidInput("that is no measurement report (PS3.16 TID 1500)", about=uid)
        if verdict_of(raw) is not None:
            raise InvalidInput("that is a reader's verdict; the report that it judges can be judged", about=uid)
        return raw

    def _visible(self, principal: Principal, uid: str) -> dict[str, Any]:
        raw = metadata(self._index, [uids.checked(uid, "SOP Instance UID")]).get(uid)
        if raw is None or not self._archive.query.may_see(principal, str(ups.value(raw, "0020000D") or "")):
            raise NotFound("no such instance", about=uid)
        return raw

    def _group(
        self, principal: Principal, raw: Item, report: Dataset, given: NewVerdict
    ) -> tuple[Dataset, dict[str, Any]]:
        """The finding's group as the reader leaves it, and what of it is corrected or missed."""
        told_of = given.model_dump(mode="json", include=_PLACE)
        where = {name: value for name, value in told_of.items() if value}
        if given.shape == "polygon" and given.points and given.points[0] == given.points[-1]:
            where["points"].pop()  # as the document says it again
        others: list[Other] = [*given.measurements, *given.codes, *given.texts]
        if given.verdict == "missed":
            if others:
                raise InvalidInput("a missed finding has no measurements, codes or texts to correct")
            return self._missed(principal, raw, report, given), where
        found = self.finding(raw, given.report, given.tracking_uid)
        if given.image or given.frame or given.finding:
            raise InvalidInput("only a finding that was missed is given its image, frame and finding")
        if given.verdict != "corrected":
            if others or given.points or given.shape:
                raise InvalidInput("only a verdict that is corrected has other values or points")
            return document.dataset(found), {}
        if not others and not given.points:
            raise InvalidInput("what is corrected: measurements, codes, texts, or shape and points")
        changed = document.corrected(found, others)
        group = document.dataset(changed)
        if given.points or given.shape:
            self._inside(group, given.points)
            group = document.placed(group, given.shape or "", given.points)
        return group, {**corrections(changed, found), **where}

    def finding(self, raw: Item, report: str, tracking_uid: str | None) -> Item:
        """The group (DICOM JSON) of a finding of the report, or of one that a reader had added. Raises NotFound."""
        if not tracking_uid:
            raise InvalidInput('"tracking_uid" names the finding')
        return _finding(raw, tracking_uid) or self._added(report, tracking_uid)

    def _inside(self, group: Dataset, points: list[tuple[float, float]]) -> None:
        """InvalidInput for points that lie outside the image that the finding is on."""
        named = [str(e.value) for e in group.iterall() if points and e.keyword == "ReferencedSOPInstanceUID"]
        images = [raw for raw in metadata(self._index, named).values() if ups.value(raw, ROWS) is not None]
        within = [(float(ups.value(raw, COLUMNS)), float(ups.value(raw, ROWS))) for raw in images] or [(MOST, MOST)]
        if not all(0 <= x <= columns and 0 <= y <= rows for columns, rows in within for x, y in points):
            raise InvalidInput("a point lies outside the image")

    def _added(self, report: str, tracking_uid: str) -> Item:
        """The group of a finding that a reader had added."""
        with self._index.read() as conn:
            rows = sql.listed(
                conn, "", sql.v.report_uid == report, sql.v.tracking_uid == tracking_uid, sql.v.verdict == "missed"
            )
        known = metadata(self._index, [row.sop_instance_uid for row in rows])
        for row in reversed(rows):  # what its reader says of it last
            for group in groups(known.get(row.sop_instance_uid, {})):
                return without_verdict(group)
        raise NotFound("the report has no finding of that Tracking UID", about=tracking_uid)

    def _missed(self, principal: Principal, raw: Item, report: Dataset, given: NewVerdict) -> Dataset:
        if given.finding is None or given.image is None or given.shape is None:
            raise InvalidInput('a missed finding has "finding", "image", "shape" and "points"')
        if given.tracking_uid:
            uids.checked(given.tracking_uid, "tracking_uid")
            if _finding(raw, given.tracking_uid) is not None:
                raise InvalidInput("the report has that finding; it can be accepted, rejected or corrected")
        image = self._image(principal, report, given.image, given.points, given.frame)
        finding = Code(given.finding.value, given.finding.scheme, given.finding.meaning)
        where = orjson.dumps([given.image, given.frame, given.points]).decode()
        uid = given.tracking_uid or uids.derived("missed", given.report, principal.name, where)
        return document.missed(
            uid, f"Missed: {finding.meaning}"[:64], finding, given.shape, given.points, image, given.frame
        )

    def _image(
        self, principal: Principal, report: Dataset, uid: str, points: list[tuple[float, float]], frame: int | None
    ) -> Dataset:
        """What a document says of an image that it refers to. Raises NotFound and InvalidInput."""
        raw = self._visible(principal, uid)
        if ups.value(raw, "0020000D") != report.StudyInstanceUID:
            raise InvalidInput("the image is not of the report's study", about=uid)
        rows, columns = ups.value(raw, ROWS), ups.value(raw, COLUMNS)
        if rows is None or columns is None:
            raise InvalidInput("that is no image", about=uid)
        frames = int(ups.value(raw, NUMBER_OF_FRAMES) or 1)
        if (frame is None and frames > 1) or (frame is not None and frame > frames):
            raise InvalidInput(f'"frame" is one of 1 to {frames}', about=uid)
        if not all(0 <= x <= float(columns) and 0 <= y <= float(rows) for x, y in points):
            raise InvalidInput("a point lies outside the image")
        series = str(ups.value(raw, "0020000E"))
        return document.instance(str(ups.value(raw, "00080016")), uid, str(report.StudyInstanceUID), series)


def _finding(report: Item, tracking_uid: str) -> Item | None:
    """The report's own group with that Tracking UID."""
    return next((each for each in groups(report) if text_of(each, TRACKING_UID, UID) == tracking_uid), None)


def _meant(given: NewVerdict) -> None:
    """InvalidInput for a code that has another meaning in PS3.16 than the reader gives it."""
    from analysis.results import meanings  # its tables are large

    for code in (*([given.finding] if given.finding else []), *(each.value for each in given.codes)):
        meant = meanings.contradicted(code.scheme, code.value, code.meaning)
        if meant:
            raise InvalidInput(f'{code.value} of {code.scheme} means "{meant}", not what is said')
