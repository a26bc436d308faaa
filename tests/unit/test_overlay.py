"""Corrections on the way out: bytes and metadata tell the same, what was before is told, all else keeps its bytes."""

from __future__ import annotations

import io
from typing import Any

import dicom_data
import pydicom
import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from pacs.dicom import overlay, part10, scanner
from pacs.dicom.overlay import Revision

NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
AT = 1_700_000_000.25


def revision(number: int = 1, **changes: Any) -> Revision:
    made: dict[str, Any] = {}
    for keyword, value in changes.items():
        tag = f"{pydicom.datadict.tag_for_keyword(keyword):08X}"
        vr = pydicom.datadict.dictionary_VR(tag)
        if value is None:
            made[tag] = None
        elif value == "":
            made[tag] = {"vr": vr}
        else:
            made[tag] = {"vr": vr, "Value": [{"Alphabetic": value} if vr == "PN" else value]}
    return Revision(number, AT + number, "M3DICOM operator", made)


def read(data: bytes, ts: str) -> Dataset:
    return pydicom.dcmread(io.BytesIO(part10.header("1.2.840.10008.5.1.4.1.1.2", "1.2.3", ts) + data))


def run(data: bytes, ts: str, *revisions: Revision, step: int = 1 << 20) -> bytes:
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    return b"".join(overlay.corrected(pieces, ts, revisions, "CT1"))


@pytest.mark.parametrize("ts", NATIVE)
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_bytes_and_metadata_tell_the_same(ts: str, step: int) -> None:
    ds = dicom_data.image(
        IssuerOfPatientID="HOSPITAL", RequestAttributesSequence=Sequence([dicom_data.image(5), Dataset()])
    )
    ds.add_new(0x00091010, "UN", b"private!")
    data = dicom_data.dataset_bytes(ds, ts)
    revisions = (
        revision(1, PatientID="NEW-1", PatientName="Right^Rita", IssuerOfPatientID=None, PatientSex=""),
        revision(2, PatientID="NEW-2", StudyDescription="Other", PatientAge="040Y"),
    )
    made = run(data, ts, *revisions, step=step)
    told = scanner.scan(made, ts).metadata
    assert told == overlay.applied(scanner.scan(data, ts).metadata, revisions, "CT1")
    again = read(made, ts)
    assert (again.PatientID, str(again.PatientName), again.PatientSex) == ("NEW-2", "Right^Rita", "")
    assert "IssuerOfPatientID" not in again
    first, second = again.OriginalAttributesSequence
    before = first.ModifiedAttributesSequence[0]
    assert (before.PatientID, str(before.PatientName)) == ("SYN-1", "Synthetic^Sam")
    assert (before.IssuerOfPatientID, before.PatientSex) == ("HOSPITAL", "O")
    assert second.ModifiedAttributesSequence[0].PatientID == "NEW-1"
    assert "PatientAge" not in second.ModifiedAttributesSequence[0]
    assert first.ReasonForTheAttributeModification == "CORRECT"
    assert first.ModifyingSystem == "M3DICOM operator"
    assert first.SourceOfPreviousValues == "CT1"
    assert str(first.AttributeModificationDateTime) == "20231114221321.250000+0000"
    original = read(data, ts)
    for element in original:
        if element.keyword not in ("PatientID", "PatientName", "IssuerOfPatientID", "PatientSex", "StudyDescription"):
            assert again[element.tag].value == element.value, element.tag


def test_everything_behind_the_front_keeps_its_bytes() -> None:
    data = dicom_data.dataset_bytes(dicom_data.image(rows=64, columns=64))
    made = run(data, ExplicitVRLittleEndian, revision(PatientID="NEW"))
    at = data.index(b"\xe0\x7f\x10\x00")
    assert made.endswith(data[at:])
    assert made.count(b"SYN-1") == 1  # in Modified Attributes Sequence only


def test_what_changes_nothing_leaves_the_bytes_alone() -> None:
    data = dicom_data.dataset_bytes(dicom_data.image())
    same = revision(PatientID="SYN-1", PatientName="Synthetic^Sam", IssuerOfPatientID=None)
    assert run(data, ExplicitVRLittleEndian, same) == data
    metadata = scanner.scan(data, ExplicitVRLittleEndian).metadata
    assert overlay.applied(metadata, (same,)) == metadata


def test_items_that_were_there_stay_before_ours() -> None:
    old = Dataset()
    old.ModifyingSystem, old.AttributeModificationDateTime = "OLD", "2020"
    old.SourceOfPreviousValues, old.ReasonForTheAttributeModification = "", "COERCE"
    old.ModifiedAttributesSequence = Sequence([Dataset()])
    for ts in NATIVE:
        for undefined in (False, True):
            ds = dicom_data.image(OriginalAttributesSequence=Sequence([old]))
            ds["OriginalAttributesSequence"].is_undefined_length = undefined
            again = read(run(dicom_data.dataset_bytes(ds, ts), ts, revision(PatientID="NEW")), ts)
            assert [each.ModifyingSystem for each in again.OriginalAttributesSequence] == ["OLD", "M3DICOM operator"]


@pytest.mark.parametrize("ts", NATIVE)
@pytest.mark.parametrize(
    ("terms", "held", "new"),
    [
        ("ISO_IR 192", "Äußerst^Ökonomisch", "山田^太郎"),
        ("ISO_IR 100", "Äußerst^Ökonomisch", "Größer^Übel"),
        ("ISO_IR 100", "Äußerst^Ökonomisch", "山田^太郎"),
        ("ISO_IR 144", "Люкceмбypг", "Äußerst^Ökonomisch"),
        (None, "Plain^Pat", "Äußerst^Ökonomisch"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎", "Größer^Übel"),
    ],
)
def test_any_name_can_be_written_into_any_character_set(ts: str, terms: Any, held: str, new: str) -> None:
    inner = Dataset()
    inner.RequestedProcedureDescription = held.partition("=")[2] or held
    ds = dicom_data.image(
        SpecificCharacterSet=terms, PatientName=held, RequestAttributesSequence=Sequence([inner]),
        ImageComments=held.partition("=")[2] or held,
    )  # fmt: skip
    again = read(run(dicom_data.dataset_bytes(ds, ts), ts, revision(PatientName=new)), ts)
    again.decode()
    assert str(again.PatientName) == new
    assert str(again.OriginalAttributesSequence[0].ModifiedAttributesSequence[0].PatientName) == held
    comment = held.partition("=")[2] or held
    assert again.ImageComments == comment
    assert again.RequestAttributesSequence[0].RequestedProcedureDescription == comment
    assert again.PixelData == ds.PixelData


def test_sequences_of_undefined_length_are_walked_over() -> None:
    inner = dicom_data.image(3)
    for each in (1, 2, 3):
        outer = Dataset()
        outer.ReferencedSeriesSequence = Sequence([inner, Dataset()])
        outer["ReferencedSeriesSequence"].is_undefined_length = True
        inner = outer
        inner.InstanceNumber = each
    for ts in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian):
        ds = dicom_data.image(ReferencedStudySequence=Sequence([inner]))
        ds["ReferencedStudySequence"].is_undefined_length = True
        data = dicom_data.dataset_bytes(ds, ts)
        again = read(run(data, ts, revision(PatientID="NEW"), step=13), ts)
        assert again.ReferencedStudySequence == read(data, ts).ReferencedStudySequence


def test_stored_metadata_keeps_its_addresses() -> None:
    data = dicom_data.dataset_bytes(dicom_data.image(rows=64, columns=64))
    scan = scanner.scan(data, ExplicitVRLittleEndian)
    one = revision(PatientID="NEW")
    made = overlay.applied_json(scan.metadata_json(), (one,), "CT1")
    assert b'"BulkDataURI":"\xff/bulkdata/7FE00010"' in made
    assert b"NEW" in made


def test_revisions_survive_the_index() -> None:
    both = (revision(1, PatientID="A", IssuerOfPatientID=None), revision(2, PatientName="Ä"))
    assert overlay.loads(overlay.dumps(both)) == both
    assert overlay.loads(None) == ()
