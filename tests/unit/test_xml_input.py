"""PS3.19 A.1: Native DICOM Model documents of strangers, read into the DICOM JSON model."""

from __future__ import annotations

import dicom_data
import pytest

from dicomweb.xml_input import loads
from dicomweb.xml_model import dumps
from pacs.dicom.json_model import from_dataset
from pacs.errors import InvalidInput

EVERY_KIND = {
    "00080008": {"vr": "CS", "Value": ["A", None, "B"]},
    "00080016": {"vr": "UI", "Value": ["1.2"]},
    "00081030": {"vr": "LO"},
    "00081140": {"vr": "SQ", "Value": [{}, {"00081155": {"vr": "UI", "Value": ["1.2.3"]}}]},
    "00090010": {"vr": "LO", "Value": ["ME & YOU"]},
    "00091002": {"vr": "UN", "InlineBinary": "AAEC"},
    "00091003": {
        "vr": "SQ",
        "Value": [{"00090010": {"vr": "LO", "Value": ["YOU"]}, "00091001": {"vr": "LO", "Value": ["deep"]}}],
    },
    "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^John^^Dr.", "Ideographic": "山田^太郎"}, None]},
    "00104000": {"vr": "LT", "Value": ["a <b> &\r\n c\\d"]},
    "00280010": {"vr": "US", "Value": [512]},
    "00720078": {"vr": "UL", "Value": [4294967295]},
    "00082111": {"vr": "ST", "Value": [" kept "]},
    "7FE00010": {"vr": "OW", "BulkDataURI": "http://h/a?b&c"},
}
HEAD = '<NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM">'


def document(inside: str) -> bytes:
    return f"{HEAD}{inside}</NativeDicomModel>".encode()


def test_what_is_written_is_read_again() -> None:
    back = loads(dumps(EVERY_KIND))
    expected = dict(sorted(EVERY_KIND.items())) | {"00091002": {"vr": "UN", "InlineBinary": "AAECAA=="}}  # even length
    assert back == expected


def test_a_whole_data_set_is_read_again() -> None:
    metadata = from_dataset(dicom_data.image(3, PixelData=None, PatientName="Müller^Jörg", StudyDescription="ü"))
    back = loads(dumps(metadata))
    assert list(back) == list(metadata)
    for tag, entry in metadata.items():
        assert [str(value) for value in back[tag].get("Value", [])] == [str(value) for value in entry.get("Value", [])]


def test_keywords_and_no_namespace() -> None:
    modality = b'<DicomAttribute keyword="Modality"><Value number="1">CT</Value></DicomAttribute>'
    found = loads(b"<NativeDicomModel>" + modality + b"</NativeDicomModel>")
    assert found == {"00080060": {"vr": "CS", "Value": ["CT"]}}


def test_private_elements_get_a_block() -> None:
    one = '<DicomAttribute tag="00090001" vr="LO" privateCreator="{}"><Value number="1">{}</Value></DicomAttribute>'
    taken = '<DicomAttribute tag="00090010" vr="LO"><Value number="1">FIRST</Value></DicomAttribute>'
    assert loads(document(one.format("SECOND", "b") + taken + one.format("FIRST", "a"))) == {
        "00090010": {"vr": "LO", "Value": ["FIRST"]},
        "00090011": {"vr": "LO", "Value": ["SECOND"]},
        "00091001": {"vr": "LO", "Value": ["a"]},
        "00091101": {"vr": "LO", "Value": ["b"]},
    }


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"<html/>",
        HEAD.encode(),
        b'<!DOCTYPE x [<!ENTITY a "aaaa">]>' + document(""),
        b'<!DOCTYPE NativeDicomModel SYSTEM "file:///etc/passwd">' + document(""),
        b'<?xml-stylesheet href="x"?>' + document(""),
        b'<?xml version="1.0" encoding="nobody-knows"?>' + document(""),
        b'<?xml version="1.0" encoding="gb2312"?>' + document(""),
        document('<DicomAttribute vr="LO"/>'),
        document('<DicomAttribute tag="0008103" vr="LO"/>'),
        document('<DicomAttribute tag="00081030" vr="XX"><Value number="1">a</Value></DicomAttribute>'),
        document('<DicomAttribute tag="00081030" vr="LO"/><DicomAttribute tag="00081030" vr="LO"/>'),
        document('<DicomAttribute tag="00081030" vr="LO"><Value number="0">a</Value></DicomAttribute>'),
        document('<DicomAttribute tag="00081030" vr="LO"><Value number="999999">a</Value></DicomAttribute>'),
        document('<DicomAttribute tag="00081030" vr="LO"><Value number="1"><Value/></Value></DicomAttribute>'),
        document('<DicomAttribute tag="00280010" vr="US"><Value number="1">wide</Value></DicomAttribute>'),
        document('<DicomAttribute tag="00080060" vr="CS" privateCreator="ME"/>'),
        document('<DicomAttribute tag="00420011" vr="OB"><BulkData uri="a"/><BulkData uri="b"/></DicomAttribute>'),
        document('<DicomAttribute tag="00420011" vr="OB"><InlineBinary>%%%</InlineBinary></DicomAttribute>'),
        document('<DicomAttribute tag="00081140" vr="SQ"><Item number="1">' * 70),
    ],
)
def test_documents_that_are_none(raw: bytes) -> None:
    with pytest.raises(InvalidInput):
        loads(raw)
