"""C-FIND identifiers in every syntax: read, understood, refused, written (PS3.4 C.4.1, C.6), judged by pydicom."""

from __future__ import annotations

import contextlib
import io
import random
import zlib
from typing import Any

import pytest
from dimse_client import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT, PATIENT_FIND, STUDY_FIND, implicit
from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from pacs.dicom import matching
from pacs.dicom.attributes import Level
from pacs.dimse import identifiers
from pacs.errors import ArchiveError, DatasetMismatch, InvalidQuery, MalformedDataset, TooLarge

SYNTAXES = {IMPLICIT: (True, True), EXPLICIT: (False, True), BIG_ENDIAN: (False, False), DEFLATED: (False, True)}


def written(ds: Dataset, syntax: str) -> bytes:
    out = DicomBytesIO()
    out.is_implicit_VR, out.is_little_endian = SYNTAXES[syntax]
    write_dataset(out, ds)
    raw = out.getvalue()
    if syntax == DEFLATED:
        squeeze = zlib.compressobj(wbits=-15)
        raw = squeeze.compress(raw) + squeeze.flush()
    return raw


def read(raw: bytes, syntax: str) -> Dataset:
    if syntax == DEFLATED:
        raw = zlib.decompress(raw, -15)
    return read_dataset(io.BytesIO(raw), *SYNTAXES[syntax])


def asked(sop_class: str = STUDY_FIND, *, relational: bool = False, **keys: Any) -> identifiers.FindRequest:
    ds = Dataset()
    for keyword, value in keys.items():
        setattr(ds, keyword, value)
    identifier = identifiers.decode(written(ds, IMPLICIT), IMPLICIT)
    return identifiers.understand(identifier, sop_class, relational=relational)


def criteria(request: identifiers.FindRequest) -> dict[str, matching.Criterion]:
    return {key.attribute.keyword: key.criterion for key in request.keys}


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_identifiers_in_every_syntax_mean_the_same(syntax: str) -> None:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.QueryRetrieveLevel = "SERIES"
    ds.StudyInstanceUID = "1.2.3"
    ds.PatientName = "Müller^*"
    ds.Modality = ["CT", "MG"]
    ds.SeriesNumber = 3
    inner = Dataset()
    inner.RequestedProcedureID = "RP1"
    ds.RequestAttributesSequence = [inner]
    request = identifiers.understand(identifiers.decode(written(ds, syntax), syntax), STUDY_FIND, relational=False)
    assert request.level is Level.SERIES
    assert request.complete
    assert criteria(request) == {
        "StudyInstanceUID": matching.UIDList(("1.2.3",)),
        "PatientName": matching.Wildcard("PN", "müller^*"),
        "Modality": matching.AnyOf((matching.Single("CS", "CT"), matching.Single("CS", "MG"))),
        "SeriesNumber": matching.Single("IS", 3),
        "RequestAttributesSequence.RequestedProcedureID": matching.Single("SH", "RP1"),
    }
    assert request.include == {"0020000D", "00100010", "00080060", "00200011", "00400275"}


def test_sets_of_characters_are_read_as_declared() -> None:
    def name(charset: str, raw: bytes) -> matching.Criterion:
        identifier = {0x00080052: "STUDY", 0x00080005: charset, 0x00100010: raw}
        request = identifiers.understand(
            identifiers.decode(implicit(identifier), IMPLICIT), STUDY_FIND, relational=False
        )
        return criteria(request)["PatientName"]

    wanted = matching.Single("PN", "äneas^rüdiger")
    assert name("ISO_IR 100", "Äneas^Rüdiger".encode("latin-1")) == wanted
    assert name("ISO_IR 192", "Äneas^Rüdiger".encode()) == wanted
    assert name("", "Äneas^Rüdiger".encode("latin-1")) == wanted
    assert name("GB18030", "王^小东".encode("gb18030")) == matching.Single("PN", "王^小东")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("sop_class", [PATIENT_FIND, STUDY_FIND])
def test_levels(sop_class: str) -> None:
    unique = {"PatientID": "P", "StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.3"}
    for level in ("PATIENT", "STUDY", "SERIES", "IMAGE"):
        if level == "PATIENT" and sop_class == STUDY_FIND:
            with pytest.raises(DatasetMismatch):
                asked(sop_class, QueryRetrieveLevel=level)
        else:
            assert asked(sop_class, QueryRetrieveLevel=level, **unique).level.value == level
    for wrong in (None, "", "IMAGES", "study", "STUDY\\SERIES"):
        with pytest.raises(DatasetMismatch) as caught:
            asked(sop_class, **({} if wrong is None else {"QueryRetrieveLevel": wrong}), **unique)
        assert caught.value.about == "00080052"


@pytest.mark.parametrize(
    ("sop_class", "keys", "missing"),
    [
        (STUDY_FIND, {"QueryRetrieveLevel": "SERIES"}, "0020000D"),
        (STUDY_FIND, {"QueryRetrieveLevel": "SERIES", "StudyInstanceUID": ""}, "0020000D"),
        (STUDY_FIND, {"QueryRetrieveLevel": "SERIES", "StudyInstanceUID": ["1.2", "1.3"]}, "0020000D"),
        (STUDY_FIND, {"QueryRetrieveLevel": "IMAGE", "StudyInstanceUID": "1.2"}, "0020000E"),
        (PATIENT_FIND, {"QueryRetrieveLevel": "STUDY"}, "00100020"),
        (PATIENT_FIND, {"QueryRetrieveLevel": "STUDY", "PatientID": "A*"}, "00100020"),
    ],
)
def test_hierarchy(sop_class: str, keys: dict[str, Any], missing: str) -> None:
    with pytest.raises(DatasetMismatch) as caught:
        asked(sop_class, **keys)
    assert caught.value.about == missing
    assert asked(sop_class, relational=True, **keys).level.value == keys["QueryRetrieveLevel"]


def test_keys_that_are_not_supported_are_left_out_and_said() -> None:
    lower = asked(QueryRetrieveLevel="STUDY", PatientID="", Modality="CT", RetrieveURL="")
    assert not lower.complete
    assert lower.include == {"00100020"}
    unmatched = asked(QueryRetrieveLevel="STUDY", NumberOfPatientRelatedStudies="4", PatientSize="")
    assert not unmatched.complete
    assert unmatched.keys == ()
    assert unmatched.include == {"00101020"}
    held = asked(QueryRetrieveLevel="STUDY", NumberOfStudyRelatedInstances="4", PatientSize="1.80")
    assert held.complete
    assert criteria(held) == {
        "NumberOfStudyRelatedInstances": matching.Single("IS", 4),
        "PatientSize": matching.Single("DS", 1.8),
    }
    any_attribute = asked(
        QueryRetrieveLevel="IMAGE", StudyInstanceUID="1.2", SeriesInstanceUID="1.3", KVP=None, SliceThickness=None
    )
    assert any_attribute.complete
    assert {"00180060", "00180050"} <= any_attribute.include


def test_private_keys_group_lengths_and_query_data_are_no_keys() -> None:
    elements: dict[int, Any] = {
        0x00080000: b"\4\0\0\0", 0x00080052: "STUDY", 0x00080054: "AE", 0x00100000: b"\4\0\0\0"
    }  # fmt: skip
    for private in ({}, {0x00091001: "x"}):
        raw = implicit(dict(sorted((elements | private).items())))
        request = identifiers.understand(identifiers.decode(raw, IMPLICIT), STUDY_FIND, relational=False)
        assert (request.keys, request.wanted, request.complete) == ((), (), not private)


@pytest.mark.parametrize(
    "keys",
    [
        {"StudyDate": "2026*"},
        {"StudyInstanceUID": "1.2.*"},
        {"StudyDate": "not a date"},
        {"PatientName": "x" * 5000},
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_keys_without_meaning(keys: dict[str, Any]) -> None:
    with pytest.raises(InvalidQuery):
        asked(QueryRetrieveLevel="STUDY", **keys)


def test_sequence_keys() -> None:
    two = [Dataset(), Dataset()]
    with pytest.raises(DatasetMismatch):
        asked(QueryRetrieveLevel="SERIES", StudyInstanceUID="1.2", RequestAttributesSequence=two)
    empty = asked(QueryRetrieveLevel="SERIES", StudyInstanceUID="1.2", RequestAttributesSequence=[])
    assert empty.wanted[-1] == identifiers.Wanted("00400275", "SQ")


@pytest.mark.parametrize(
    ("raw", "syntax", "error"),
    [
        (b"\x08", IMPLICIT, MalformedDataset),
        (implicit({0x00080052: "STUDY"})[:-2], IMPLICIT, MalformedDataset),
        (b"\x08\0\x52\0\xff\xff\xff\x7f", IMPLICIT, MalformedDataset),
        (b"not deflated at all", DEFLATED, MalformedDataset),
        (zlib.compress(bytes(64 << 20), 9, -15), DEFLATED, TooLarge),
        (b"\x08\0\x40\x11\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\xff\xff\xff\xff\x08\0\x40\x11\xff\xff\xff\xff" * 5000,
         IMPLICIT, MalformedDataset),
    ],
)  # fmt: skip
def test_bytes_that_are_no_identifier(raw: bytes, syntax: str, error: type[ArchiveError]) -> None:
    with pytest.raises(error):
        identifiers.decode(raw, syntax)


def test_mutants_of_an_identifier() -> None:
    dice = random.Random(3)
    ds = Dataset()
    ds.QueryRetrieveLevel, ds.PatientName, ds.StudyDate, ds.StudyInstanceUID = "STUDY", "A*", "20260101-", "1.2"
    ds.RequestAttributesSequence = [Dataset()]
    ds.RequestAttributesSequence[0].RequestedProcedureID = "X"
    for syntax in (IMPLICIT, EXPLICIT, BIG_ENDIAN):
        whole = written(ds, syntax)
        for _ in range(4_000):
            mutant = bytearray(whole)
            for _ in range(dice.randint(1, 3)):
                mutant[dice.randrange(len(mutant))] = dice.randrange(256)
            with contextlib.suppress(ArchiveError):
                request = identifiers.understand(identifiers.decode(bytes(mutant), syntax), STUDY_FIND, relational=True)
                identifiers.ResponseEncoder(request, syntax, "M3DICOM").encode({})


MATCH = {
    "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎"}]},
    "00100020": {"vr": "LO", "Value": ["SYN-1"]},
    "00080061": {"vr": "CS", "Value": ["CT", "SR"]},
    "0020000D": {"vr": "UI", "Value": ["1.2.3"]},
    "00201208": {"vr": "IS", "Value": [12]},
    "00101020": {"vr": "DS", "Value": [1.82]},
    "00081032": {
        "vr": "SQ",
        "Value": [{"00080100": {"vr": "SH", "Value": ["C1"]}, "00080104": {"vr": "LO", "Value": ["Meaning"]}}],
    },
    "00081190": {"vr": "UR", "Value": ["/studies/1.2.3"]},
}


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_responses_hold_what_was_asked_for(syntax: str) -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "", ""
    request = asked(
        QueryRetrieveLevel="STUDY", PatientName="", PatientID="", ModalitiesInStudy="", StudyInstanceUID="",
        NumberOfStudyRelatedInstances=None, PatientSize=None, StudyDescription="", InstanceAvailability="",
        TimezoneOffsetFromUTC="", ProcedureCodeSequence=[code],
    )  # fmt: skip
    raw = identifiers.ResponseEncoder(request, syntax, "M3DICOM").encode(MATCH)
    assert len(raw) % 2 == 0
    ds = read(raw, syntax)
    assert ds.SpecificCharacterSet == "ISO_IR 192"
    assert (ds.QueryRetrieveLevel, ds.RetrieveAETitle, ds.InstanceAvailability) == ("STUDY", "M3DICOM", "ONLINE")
    assert str(ds.PatientName) == "Yamada^Tarou=山田^太郎"
    assert list(ds.ModalitiesInStudy) == ["CT", "SR"]
    assert (ds.StudyInstanceUID, ds.NumberOfStudyRelatedInstances, float(ds.PatientSize)) == ("1.2.3", 12, 1.82)
    assert ds["StudyDescription"].value in ("", None)
    assert "TimezoneOffsetFromUTC" not in ds
    assert "RetrieveURL" not in ds
    (item,) = ds.ProcedureCodeSequence
    assert item.CodeValue == "C1"
    assert item["CodingSchemeDesignator"].value in ("", None)
    assert "CodeMeaning" not in item
    if syntax != DEFLATED:
        assert written(ds, syntax) == raw


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize(
    ("terms", "name", "answered"),
    [
        ("ISO_IR 100", "Müller^Änne", "ISO_IR 100"), ("ISO_IR 144", "Люкceмбypг", "ISO_IR 144"),
        ("GB18030", "Wang^XiaoDong=王^小东", "GB18030"), ("ISO_IR 192", "山田^太郎", "ISO_IR 192"),
        ("ISO_IR 100", "山田^太郎", "ISO_IR 192"), ("ISO_IR 6", "Müller", "ISO_IR 192"), (None, "Müller", "ISO_IR 192"),
        (["", "ISO 2022 IR 87"], "山田", "ISO_IR 192"), ("ISO_IR 999", "Müller", "ISO_IR 192"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_answers_are_in_the_character_set_of_the_request_where_it_can_say_them(
    syntax: str, terms: Any, name: str, answered: str
) -> None:
    ds = Dataset()
    if terms is not None:
        ds.SpecificCharacterSet = terms
    ds.QueryRetrieveLevel, ds.PatientName, ds.StudyDescription = "STUDY", "", ""
    request = identifiers.understand(identifiers.decode(written(ds, syntax), syntax), STUDY_FIND, relational=False)
    encoder = identifiers.ResponseEncoder(request, syntax, "AET")
    for _ in range(2):
        raw = encoder.encode({"00100010": {"vr": "PN", "Value": [pn(name)]}})
        found = read(raw, syntax)
        found.decode()
        assert (found.SpecificCharacterSet, str(found.PatientName)) == (answered, name)
        assert found.StudyDescription == ""


def pn(name: str) -> dict[str, str]:
    return dict(zip(("Alphabetic", "Ideographic", "Phonetic"), name.split("="), strict=False))


def test_plain_ascii_needs_no_character_set() -> None:
    request = asked(QueryRetrieveLevel="STUDY", PatientID="")
    ds = read(identifiers.ResponseEncoder(request, IMPLICIT, "M3DICOM").encode(MATCH), IMPLICIT)
    assert "SpecificCharacterSet" not in ds


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
def test_values_of_every_kind(syntax: str) -> None:
    ds = Dataset()
    ds.Rows, ds.PixelAspectRatio = 512, ["1", "2"]
    ds.FrameIncrementPointer = 0x00181063
    ds.ReferencePixelX0, ds.RecommendedDisplayFrameRateInFloat, ds.EventTimeOffset = -5, 1.5, 2.25
    ds.RedPaletteColorLookupTableData = b"\1\2\3\4"
    ds.ImageComments = "line\\with backslash"
    model = ds.to_json_dict()
    wanted = tuple(identifiers.Wanted(tag, entry["vr"]) for tag, entry in model.items())
    request = identifiers.FindRequest(Level.IMAGE, (), wanted, True)
    raw = identifiers.ResponseEncoder(request, syntax, "M3DICOM").encode(model)
    back = read(raw, syntax)
    for tag in ("QueryRetrieveLevel", "RetrieveAETitle"):
        del back[tag]
    if syntax == BIG_ENDIAN:  # pydicom leaves OW as it is
        assert back.RedPaletteColorLookupTableData == b"\2\1\4\3"
        back.RedPaletteColorLookupTableData = ds.RedPaletteColorLookupTableData
    assert back.to_json_dict() == model


def test_a_value_too_long_for_its_vr_is_not_cut() -> None:
    long = {"00104000": {"vr": "LT", "Value": ["x" * 70_000]}}
    request = identifiers.FindRequest(Level.STUDY, (), (identifiers.Wanted("00104000", "LT"),), True)
    ds = read(identifiers.ResponseEncoder(request, EXPLICIT, "M3DICOM").encode(long), EXPLICIT)
    assert len(ds[0x00104000].value) == 70_000
