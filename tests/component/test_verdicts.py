"""Readers' verdicts on true results: the document, what counts, what is refused, and the table made again."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dicom_data
import pytest
import result_objects
from pydantic import ValidationError
from pydicom import Dataset, dcmread
from sqlalchemy import delete

from analysis import batch_routes, verdict_routes
from analysis.batch import Batches
from analysis.registry import Registry
from analysis.reports_read import findings, metadata
from analysis.results import provenance
from analysis.verdict_models import NewVerdict, Verdict
from analysis.verdict_reading import VerdictReader
from analysis.verdicts import Verdicts
from pacs.archive import Archive, open_archive
from pacs.auth import ALL_RIGHTS, Principal, Right
from pacs.errors import Forbidden, InvalidInput, NotFound
from pacs.index.verdicts import verdict as rows
from pacs.settings import Settings

ANN = Principal("ann", "session", ALL_RIGHTS)
BOB = Principal("bob", "session", ALL_RIGHTS)
SCRIPT = Path(__file__).resolve().parents[1] / "validate_results.sh"


class Reading:
    """An archive that holds a study and what bone-surface made of it, and what readers say."""

    def __init__(self, folder: Path, images: list[Dataset], results: list[Dataset]) -> None:
        self.archive: Archive = open_archive(Settings(data=folder / "data"))
        self.report = next(ds for ds in results if ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34")
        for ds in (images[0], self.report):
            receiving = self.archive.ingest.receive_part10()
            receiving.write(provenance.part10(ds) if ds is self.report else dicom_data.part10(ds))
            self.archive.ingest.store(receiving, principal=ANN)
        self.image = images[0]
        uid = str(self.report.SOPInstanceUID)
        self.findings = findings(metadata(self.archive.index, [uid])[uid])
        self.now = 1_800_000_000.0
        self.verdicts = Verdicts(self.archive, clock=self._tick)

    def _tick(self) -> float:
        self.now += 1
        return self.now

    def say(self, verdict: str, number: int = 0, who: Principal = ANN, **more: Any) -> Verdict:
        tracking = None if verdict == "missed" else self.findings[number].tracking_uid
        given = {"report": str(self.report.SOPInstanceUID), "verdict": verdict, "tracking_uid": tracking, **more}
        return self.verdicts.say(who, NewVerdict(**given))

    def document(self, told: Verdict) -> Dataset:
        (location,) = self.archive.retrieve.locate(
            ANN, told.study_instance_uid, told.series_instance_uid, told.sop_instance_uid
        )
        return dcmread(io.BytesIO(b"".join(self.archive.retrieve.part10(location))))


@pytest.fixture(scope="module")
def study() -> tuple[list[Dataset], list[Dataset]]:
    return result_objects.study_with_results()


@pytest.fixture
def reading(tmp_path: Path, study: tuple[list[Dataset], list[Dataset]]) -> Iterator[Reading]:
    made = Reading(tmp_path, *study)
    yield made
    made.archive.close()


def missed(reading: Reading) -> dict[str, Any]:
    return {
        "image": str(reading.image.SOPInstanceUID), "shape": "circle", "points": [(5, 5), (8, 5)],
        "finding": {"value": "125605004", "scheme": "SCT", "meaning": "Fracture of bone"},
    }  # fmt: skip


def group(ds: Dataset) -> Dataset:
    measurements = next(each for each in ds.ContentSequence if each.get("ContinuityOfContent"))
    found: Dataset = measurements.ContentSequence[0]
    return found


def test_what_the_document_says(reading: Reading) -> None:
    volume = reading.findings[0].measurements[0]
    corrected = {"code": volume.name.value, "scheme": volume.name.scheme, "value": 1234.5}
    told = reading.say("corrected", measurements=[corrected], comment="counted again")
    ds = reading.document(told)
    assert (ds.VerificationFlag, ds.CompletionFlag) == ("VERIFIED", "COMPLETE")
    (observer,) = ds.VerifyingObserverSequence
    assert (str(observer.VerifyingObserverName), bool(observer.VerificationDateTime)) == ("ann^", True)
    (before,) = ds.PredecessorDocumentsSequence
    (series,) = before.ReferencedSeriesSequence
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == reading.report.SOPInstanceUID
    assert (ds.PatientID, ds.StudyInstanceUID) == (reading.report.PatientID, reading.report.StudyInstanceUID)
    said = group(ds)
    number = next(each for each in said.ContentSequence if each.ValueType == "NUM")
    assert number.MeasuredValueSequence[0].NumericValue == 1234.5
    tracked = next(each for each in said.ContentSequence if each.ValueType == "UIDREF")
    assert reading.findings[0].tracking_uid == tracked.UID
    *_, verdict, comment = said.ContentSequence
    assert verdict.ConceptCodeSequence[0].CodeValue == "corrected"
    assert comment.TextValue == "counted again"
    person = next(each for each in ds.ContentSequence if each.ValueType == "PNAME")
    assert str(person.PersonName) == "ann^"


def test_said_twice_is_said_once_and_the_latest_counts(reading: Reading) -> None:
    first = reading.say("accepted")
    assert reading.say("accepted") == first
    second = reading.say("rejected")
    third = reading.say("accepted")
    assert len({first.sop_instance_uid, second.sop_instance_uid, third.sop_instance_uid}) == 3
    reading.say("rejected", who=BOB)
    told = reading.verdicts.listed(ANN, study=str(reading.report.StudyInstanceUID))
    assert [(each.reader, each.verdict, each.counts) for each in told] == [
        ("ann", "accepted", False), ("ann", "rejected", False), ("ann", "accepted", True), ("bob", "rejected", True),
    ]  # fmt: skip
    (line,) = reading.verdicts.accuracy(ANN)
    assert (line.plugin, line.readers, line.judged, line.accepted, line.rejected) == ("bone-surface", 2, 2, 1, 1)
    assert line.findings == len(reading.findings)
    (only,) = reading.verdicts.accuracy(ANN, reader="bob")
    assert (only.judged, only.rejected) == (1, 1)
    events = [each.detail for each in reading.archive.audit.query("finding judged")]
    assert len(events) == 4
    assert all(reading.findings[0].tracking_uid in each for each in events)


def test_what_was_missed_counts_for_sensitivity_until_it_is_withdrawn(reading: Reading) -> None:
    reading.say("accepted")
    told = reading.say("missed", **missed(reading))
    (line,) = reading.verdicts.accuracy(ANN)
    assert line.sensitivity is not None
    assert (line.missed, line.sensitivity.value) == (1, 0.5)
    region = next(each for each in group(reading.document(told)).ContentSequence if each.ValueType == "SCOORD")
    assert (region.GraphicType, list(region.GraphicData)) == ("CIRCLE", [5, 5, 8, 5])
    withdrawn = NewVerdict(report=told.report_uid, tracking_uid=told.tracking_uid, verdict="rejected")
    reading.verdicts.say(ANN, withdrawn)
    (line,) = reading.verdicts.accuracy(ANN)
    assert (line.missed, line.judged) == (0, 1)


@pytest.mark.parametrize(
    ("verdict", "more", "words"),
    [
        ("accepted", {"tracking_uid": None}, "names the finding"),
        ("accepted", {"points": [(1, 1)]}, "only a verdict that is corrected"),
        ("corrected", {}, "what is corrected"),
        ("corrected", {"measurements": [{"code": "x", "scheme": "99X", "value": 1}]}, "no measurement x"),
        ("corrected", {"shape": "point", "points": [(1, 1)]}, "no outline"),
        ("missed", {}, "a missed finding has"),
        ("missed", {"points": [(5, 5)]}, "a circle 2"),
        ("missed", {"points": [(5, 5), (5000, 5)]}, "outside the image"),
        ("missed", {"points": [(5, 5), (5, 5)]}, "another point on its edge"),
        ("missed", {"shape": "polygon", "points": [(5, 5), (9, 5), (5, 5)]}, "3 corners"),
        ("missed", {"frame": 2}, '"frame" is one of 1 to 1'),
        ("missed", {"measurements": [{"code": "x", "scheme": "99X", "value": 1}]}, "has no measurements"),
        ("missed", {"tracking_uid": "abc"}, "not a valid UID"),
        ("accepted", {"frame": 1}, "only a finding that was missed"),
        ("accepted", {"shape": "point"}, "only a verdict that is corrected"),
        ("corrected", {"measurements": [{"code": "x", "scheme": "99X", "value": 1}] * 2}, "corrected twice"),
    ],
)
def test_what_cannot_be_said(reading: Reading, verdict: str, more: dict[str, Any], words: str) -> None:
    given = {**(missed(reading) if verdict == "missed" and more else {}), **more}
    with pytest.raises(InvalidInput, match=words):
        reading.say(verdict, **given)
    assert reading.verdicts.listed(ANN) == []


@pytest.mark.parametrize(
    "more",
    [
        {"comment": "bell \a"}, {"comment": "\x1b$B"}, {"comment": "\0"}, {"finding": {"value": "1\\2"}},
        {"finding": {"scheme": "99\\X"}}, {"finding": {"meaning": "two\nlines"}}, {"finding": {"value": " "}},
    ],
)  # fmt: skip
def test_what_no_document_can_carry_is_refused(more: dict[str, Any]) -> None:
    given: dict[str, Any] = {"report": "1.2", "verdict": "missed", **more}
    coded = {"value": "125605004", "scheme": "SCT", "meaning": 'Fracture of bone, "old"'}
    assert NewVerdict(**{**given, "comment": "two\r\nlines\\, Ärzte", "finding": coded})
    with pytest.raises(ValidationError):
        NewVerdict(**{**given, "finding": {**coded, **more.get("finding", {})}})


def test_neither_a_verdict_nor_what_is_there_already_is_judged_as_missed(reading: Reading) -> None:
    told = reading.say("accepted")
    with pytest.raises(InvalidInput, match="a reader's verdict"):
        reading.say("rejected", report=told.sop_instance_uid)
    with pytest.raises(InvalidInput, match="the report has that finding"):
        reading.say("missed", **{**missed(reading), "tracking_uid": told.tracking_uid})
    assert reading.say("accepted", measurements=[], points=[]) == told  # as the viewer says it


def test_numbers_that_decimal_strings_cannot_hold(reading: Reading) -> None:
    name = reading.findings[0].measurements[0].name
    for value in (-1.234567891e-300, 1 / 3, 1e22):
        told = reading.say("corrected", measurements=[{"code": name.value, "scheme": name.scheme, "value": value}])
        said = next(each for each in group(reading.document(told)).ContentSequence if each.ValueType == "NUM")
        (measured,) = said.MeasuredValueSequence
        assert len(str(measured.NumericValue)) <= 16
        assert measured.get("FloatingPointValue", float(measured.NumericValue)) == value


def test_what_others_say_of_a_missed_finding_is_nothing_of_the_plugin(reading: Reading) -> None:
    told = reading.say("missed", **missed(reading))
    of_it: dict[str, Any] = {"report": told.report_uid, "tracking_uid": told.tracking_uid}
    for who, verdict, expected in ((ANN, "accepted", 1), (BOB, "accepted", 2), (BOB, "rejected", 1)):
        reading.verdicts.say(who, NewVerdict(verdict=verdict, **of_it))
        (line,) = reading.verdicts.accuracy(ANN)
        assert (line.missed, line.judged, line.accepted, line.precision) == (expected, 0, 0, None)
    (line,) = reading.verdicts.accuracy(ANN, reader="bob")
    assert (line.missed, line.judged) == (0, 0)


def test_who_may_say_what_of_what(reading: Reading) -> None:
    with pytest.raises(Forbidden):
        reading.say("accepted", who=Principal("eve", "token", frozenset({Right.QUERY})))
    with pytest.raises(NotFound):
        reading.say("accepted", who=Principal("eve", "token", ALL_RIGHTS, "another ward"))
    with pytest.raises(NotFound, match="no finding of that"):
        reading.say("accepted", tracking_uid="1.2.3.4")
    with pytest.raises(InvalidInput, match="no measurement report"):
        reading.verdicts.say(
            ANN, NewVerdict(report=str(reading.image.SOPInstanceUID), tracking_uid="1.2", verdict="accepted")
        )


def test_what_findings_say_takes_the_right_to_read(reading: Reading) -> None:
    asking = Principal("eve", "token", frozenset({Right.QUERY, Right.PROCESS}))
    batches = Batches(reading.archive, Registry([]), lambda _: pytest.fail("nothing is searched"))
    table = {
        (row.method, row.path): row for row in (*verdict_routes.rows(reading.verdicts), *batch_routes.rows(batches))
    }
    for path in ("/api/verdicts", "/api/batches/{id}/report"):
        with pytest.raises(Forbidden):
            table["GET", path].call(asking, {"id": "1"}, {}, b"")
    assert table["GET", "/api/accuracy"].call(asking, {}, {}, b"") == []


def test_the_table_is_read_again_out_of_the_documents(reading: Reading) -> None:
    reading.say("accepted")
    reading.say("rejected", who=BOB, comment="an artefact")
    name = reading.findings[0].measurements[0].name
    number = {"code": name.value, "scheme": name.scheme, "value": 1 / 3}
    reading.say("corrected", measurements=[number])
    told = reading.say("missed", **missed(reading))
    outline = {"shape": "polygon", "points": [(5.1, 5), (9.7, 5), (5, 11.3)]}
    moved = reading.say("corrected", tracking_uid=told.tracking_uid, **outline)
    assert moved.corrected == {"shape": "polygon", "points": [[5.1, 5], [9.7, 5], [5, 11.3]]}
    before = reading.verdicts.listed(ANN)
    accuracy = reading.verdicts.accuracy(ANN)
    reading.archive.index.transact(lambda conn: conn.execute(delete(rows)))
    assert reading.verdicts.accuracy(ANN) == []
    reader = VerdictReader(reading.archive)
    reader.step(0.0)
    assert reading.verdicts.listed(ANN) == before
    assert reading.verdicts.accuracy(ANN) == accuracy
    assert reading.say("corrected", tracking_uid=told.tracking_uid, **outline) == moved
    # A document that is removed takes its verdict along.
    reading.archive.removal.delete(ANN, told.study_instance_uid, told.series_instance_uid, told.sop_instance_uid)
    reader.step(0.0)
    assert [each.verdict for each in reading.verdicts.listed(ANN)] == ["accepted", "rejected", "corrected", "corrected"]


def test_independent_validators_find_no_error(reading: Reading, tmp_path: Path) -> None:
    volume = reading.findings[0].measurements[0]
    corrected = [{"code": volume.name.value, "scheme": volume.name.scheme, "value": 20.25}]
    said = [reading.say("accepted"), reading.say("rejected", who=BOB)]
    said.append(reading.say("corrected", 0, measurements=corrected, comment="smaller"))
    said.append(reading.say("missed", **missed(reading)))
    folder = tmp_path / "sr"
    folder.mkdir()
    for number, each in enumerate(said):
        (folder / f"verdict{number}.dcm").write_bytes(dicom_data.part10(reading.document(each)))
    found = subprocess.run(
        ["bash", SCRIPT, "--strict", "--skip-set", folder], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "SR/KO 4" in found.stdout
