"""Readers' verdicts on true results: the document, what counts, what is refused, and the table made again."""

from __future__ import annotations

import copy
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
from analysis.api import Code
from analysis.batch import Batches
from analysis.registry import Registry
from analysis.reports_read import findings, metadata
from analysis.results import content, provenance
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


CONCEPT = {"value": "1", "scheme": "99X", "meaning": "One"}


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
    assert "SeriesDate" not in ds, "its series holds what is said later, too"
    assert "SeriesTime" not in ds
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


def test_what_was_missed_may_be_said_to_be_something_else(reading: Reading) -> None:
    first = reading.say("missed", **missed(reading))
    mass = {"value": "4147007", "scheme": "SCT", "meaning": "Mass"}
    told = reading.say("missed", **(missed(reading) | {"finding": mass}))
    assert told.tracking_uid == first.tracking_uid
    assert told.tracking_id == "Missed: Mass"
    assert reading.say("missed", **(missed(reading) | {"finding": mass})) == told
    assert [each.counts for each in reading.verdicts.listed(ANN)] == [False, True]
    form = reading.verdicts.form(ANN, told.report_uid, told.tracking_uid)
    assert {"Mass"} == {each.value.meaning for each in form.fields if each.meaning == "Finding"}


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
        ("missed", {"finding": {"value": "121071", "scheme": "DCM", "meaning": "Banana"}}, 'means "Finding"'),
        ("accepted", {"frame": 1}, "only a finding that was missed"),
        ("accepted", {"shape": "point"}, "only a verdict that is corrected"),
        ("corrected", {"measurements": [{"code": "x", "scheme": "99X", "value": 1}] * 2}, "no measurement x"),
        (
            "corrected",
            {"codes": [{"code": "x", "scheme": "99X", "value": {"value": "1", "scheme": "99X", "meaning": "1"}}]},
            "no coded value x",
        ),
        ("corrected", {"texts": [{"code": "112039", "scheme": "DCM", "value": "Bones"}]}, "no text 112039"),
        ("accepted", {"texts": [{"code": "x", "scheme": "99X", "value": "y"}]}, "only a verdict that is corrected"),
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


ASSESSMENT = content.code("CONTAINS", Code("111005", "DCM", "Assessment Category"),
                          Code("MA.II.A.5.4A", "BI", "4A - Low suspicion"))  # fmt: skip
REMARK = content.text("CONTAINS", Code("121106", "DCM", "Comment"), "Seen in one view only")
SITES = [
    content.code("HAS CONCEPT MOD", Code("363698007", "SCT", "Finding Site"), Code(value, "SCT", meaning))
    for value, meaning in (("76752008", "Breast"), ("91397008", "Mammary region"))
]
IMAGE = content.container("CONTAINS", Code("125007", "DCM", "Measurement Group"), [
    content.text("HAS OBS CONTEXT", Code("112039", "DCM", "Tracking Identifier"), "Image 1"),
    content.uid("HAS OBS CONTEXT", Code("112040", "DCM", "Tracking Unique Identifier"), "2.25.77"),
    content.code("CONTAINS", Code("111017", "DCM", "CAD Processing and Findings Summary"),
                 Code("111241", "DCM", "All algorithms succeeded; without findings")),
])  # fmt: skip


@pytest.fixture
def assessed(tmp_path: Path, study: tuple[list[Dataset], list[Dataset]]) -> Iterator[Reading]:
    """A report whose first finding has an assessment, words and two sites, and that says something of an image."""
    images, results = study
    made_of = next(ds for ds in results if ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34")
    report = dcmread(io.BytesIO(dicom_data.part10(made_of)))
    container = next(each for each in report.ContentSequence if each.get("ConceptNameCodeSequence")
                     and each.ConceptNameCodeSequence[0].CodeValue == "126010")  # fmt: skip
    container.ContentSequence[0].ContentSequence.extend(copy.deepcopy([ASSESSMENT, REMARK, *SITES]))
    container.ContentSequence.append(copy.deepcopy(IMAGE))
    made = Reading(tmp_path, images, [report])
    yield made
    made.archive.close()


CATEGORY = {"code": "111005", "scheme": "DCM",
            "value": {"value": "397143007", "scheme": "SCT", "meaning": "3 - Probably Benign"}}  # fmt: skip
WORDS = {"code": "121106", "scheme": "DCM", "value": "Seen in both views\r\nand before"}


def test_whatever_a_finding_says_is_corrected(assessed: Reading) -> None:
    volume = assessed.findings[0].measurements[0]
    number = {"code": volume.name.value, "scheme": volume.name.scheme, "value": volume.value - 4}
    site = {"code": "363698007", "scheme": "SCT",
            "value": {"value": "a value of more than 16 letters", "scheme": "99X", "meaning": "Axilla"}}  # fmt: skip
    with pytest.raises(InvalidInput, match='has 2 of coded value 363698007 of SCT: "position" says which'):
        assessed.say("corrected", codes=[site])
    with pytest.raises(InvalidInput, match="that is what the finding says"):
        assessed.say("corrected", texts=[{**WORDS, "value": "Seen in one view only"}])
    with pytest.raises(InvalidInput, match="corrected twice"):
        assessed.say("corrected", texts=[WORDS, {**WORDS, "position": 1}])
    given: dict[str, Any] = {"measurements": [number], "codes": [CATEGORY, {**site, "position": 2}], "texts": [WORDS]}
    told = assessed.say("corrected", **given, comment="compared with the year before")
    found = assessed.document(told)
    of_group: dict[str, list[Dataset]] = {}
    for each in group(found).ContentSequence:
        of_group.setdefault(each.ConceptNameCodeSequence[0].CodeMeaning, []).append(each)
    (category,) = of_group["Assessment Category"]
    assert (category.ConceptCodeSequence[0].CodeValue, category.ConceptCodeSequence[0].CodingSchemeDesignator) == (
        "397143007", "SCT",
    )  # fmt: skip
    first, second = of_group["Finding Site"]
    assert first.ConceptCodeSequence[0].CodeMeaning == "Breast"
    assert second.ConceptCodeSequence[0].LongCodeValue == "a value of more than 16 letters"
    assert "CodeValue" not in second.ConceptCodeSequence[0]
    assert [each.TextValue for each in of_group["Comment"]] == [WORDS["value"], "compared with the year before"]
    assert told.corrected["codes"][0] == {
        **CATEGORY, "meaning": "Assessment Category", "unit": "",
        "was": {"value": "MA.II.A.5.4A", "scheme": "BI", "meaning": "4A - Low suspicion"},
    }  # fmt: skip
    assert told.corrected["codes"][1]["position"] == 2
    assert told.comment == "compared with the year before"
    assert told.corrected["texts"][0]["was"] == "Seen in one view only"
    assert assessed.say("corrected", **given, comment="compared with the year before") == told
    (line,) = assessed.verdicts.accuracy(ANN)
    assert (line.corrected, line.corrected_numbers, line.corrected_codes, line.corrected_texts) == (1, 1, 1, 1)
    numbers, *_ = (each for each in assessed.verdicts.corrections(ANN) if each.kind == "number")
    assert (numbers.name, numbers.mean_difference) == (volume.name.meaning, pytest.approx(-4))
    codes = {each.name: each.most_often for each in assessed.verdicts.corrections(ANN) if each.kind == "code"}
    assert codes["Assessment Category"] == "4A - Low suspicion → 3 - Probably Benign (1)"
    # All of it is in the document, and is read out of it again.
    before = assessed.verdicts.listed(ANN)
    assessed.archive.index.transact(lambda conn: conn.execute(delete(rows)))
    VerdictReader(assessed.archive).step(0.0)
    assert assessed.verdicts.listed(ANN) == before


def test_the_form_has_what_can_be_corrected_and_what_was(assessed: Reading) -> None:
    uid, finding = str(assessed.report.SOPInstanceUID), assessed.findings[0].tracking_uid
    form = assessed.verdicts.form(ANN, uid, finding)
    by_name = {(each.meaning, each.position): each for each in form.fields}
    assert not form.place
    assert not {"Tracking Identifier", "Algorithm Name", "Algorithm Version"} & {name for name, _ in by_name}
    category = by_name["Assessment Category", 1]
    assert [each.meaning[:2] for each in category.choices] == [
        "0 ", "1 ", "2 ", "3 ", "4 ", "4A", "4B", "4C", "5 ", "6 ",
    ]  # fmt: skip
    assert (category.value, category.of) == (category.now, 1)
    assert {each.meaning for each in by_name["Finding Site", 2].choices} == {"Breast", "Mammary region"}
    number = next(each for each in form.fields if each.kind == "number")
    assert number.value == assessed.findings[0].measurements[0].value
    assessed.say("corrected", codes=[CATEGORY])
    (own,) = (each for each in assessed.verdicts.form(ANN, uid, finding).fields if each.code == "111005")
    (others,) = (each for each in assessed.verdicts.form(BOB, uid, finding).fields if each.code == "111005")
    assert (own.value, own.now) == (category.value, category.choices[3])
    assert others == category
    with pytest.raises(NotFound):
        assessed.verdicts.form(ANN, uid, "1.2.3")
    with pytest.raises(Forbidden):
        assessed.verdicts.form(Principal("eve", "token", frozenset({Right.QUERY})), uid, finding)


def test_what_is_said_of_an_image_is_no_finding(assessed: Reading) -> None:
    assessed.say("accepted")
    with_findings = {"value": "111242", "scheme": "DCM", "meaning": "All algorithms succeeded; with findings"}
    told = assessed.say("corrected", tracking_uid="2.25.77",
                        codes=[{"code": "111017", "scheme": "DCM", "value": with_findings}])  # fmt: skip
    assert not told.finding
    (line,) = assessed.verdicts.accuracy(ANN)
    assert (line.judged, line.corrected, line.statements, line.statements_accepted) == (1, 0, 1, 0)
    uid = str(assessed.report.SOPInstanceUID)
    (field,) = assessed.verdicts.form(ANN, uid, "2.25.77").fields
    assert {each.value for each in field.choices} == {"111241", "111242", "111243", "111244", "111245"}


def test_a_verdict_that_comes_before_its_report_waits_for_it(assessed: Reading, tmp_path: Path) -> None:
    told = assessed.say("corrected", codes=[CATEGORY])
    statement = assessed.say("accepted", tracking_uid="2.25.77")
    expected = assessed.verdicts.listed(ANN)
    archive = open_archive(Settings(data=tmp_path / "elsewhere"))
    verdicts, reader = Verdicts(archive), VerdictReader(archive)

    def store(ds: Dataset) -> None:
        receiving = archive.ingest.receive_part10()
        receiving.write(dicom_data.part10(ds))
        archive.ingest.store(receiving, principal=ANN)
        reader.step(0.0)

    reader.step(0.0)
    for each in (told, statement):
        store(assessed.document(each))
    assert [each.plugin for each in verdicts.listed(ANN)] == ["", ""]
    store(assessed.report)
    assert verdicts.listed(ANN) == expected
    (line,) = verdicts.accuracy(ANN)
    assert (line.plugin, line.corrected, line.statements) == ("bone-surface", 1, 1)
    archive.close()


def test_independent_validators_find_no_error(reading: Reading, tmp_path: Path) -> None:
    volume = reading.findings[0].measurements[0]
    corrected = [{"code": volume.name.value, "scheme": volume.name.scheme, "value": 20.25}]
    said = [reading.say("accepted"), reading.say("rejected", who=BOB)]
    said.append(reading.say("corrected", 0, measurements=corrected, comment="smaller"))
    said.append(reading.say("missed", **missed(reading)))
    kind = {"value": "38199008", "scheme": "SCT", "meaning": "Tooth"}
    said.append(reading.say("corrected", 0, codes=[{"code": "121071", "scheme": "DCM", "value": kind}]))
    folder = tmp_path / "sr"
    folder.mkdir()
    for number, each in enumerate(said):
        (folder / f"verdict{number}.dcm").write_bytes(dicom_data.part10(reading.document(each)))
    found = subprocess.run(
        ["bash", SCRIPT, "--strict", "--skip-set", folder], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "SR/KO 5" in found.stdout
