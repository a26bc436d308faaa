"""PS3.19 A.1: the Native DICOM Model, read back by another implementation."""

from __future__ import annotations

from xml.etree import ElementTree

import dicom_data
from dicomweb_client.web import _load_xml_dataset

from dicomweb.xml_model import dumps
from pacs.dicom.json_model import from_dataset

NATIVE = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"


def test_an_independent_reader_finds_the_same() -> None:
    ds = dicom_data.image(3, PixelData=None, StudyDescription="Müller", PatientComments='a <b> & "c"\r\nd')
    del ds.PatientName, ds.ReferringPhysicianName  # which that reader does not know
    root = ElementTree.fromstring(dumps(from_dataset(ds)).replace(b' xmlns="' + NATIVE[1:-1].encode() + b'"', b""))
    back = _load_xml_dataset(root)
    for element in ds:
        assert str(back[element.tag].value) == str(element.value), element.keyword


def test_names_values_bulk_data_and_private_elements() -> None:
    root = ElementTree.fromstring(
        dumps(
            {
                "00090010": {"vr": "LO", "Value": ["ME & YOU"]},
                "00091002": {"vr": "UN", "InlineBinary": "AAE="},
                "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^John^^Dr.", "Ideographic": "山田^太郎"}]},
                "00080008": {"vr": "CS", "Value": ["A", None, "B"]},
                "00081140": {"vr": "SQ", "Value": [{}, {"00081155": {"vr": "UI", "Value": ["1.2"]}}]},
                "00081030": {"vr": "LO"},
                "7FE00010": {"vr": "OW", "BulkDataURI": "http://h/a?b&c"},
            }
        )
    )
    found = {element.attrib["tag"]: element for element in root}
    assert found["00090002"].attrib == {"tag": "00090002", "vr": "UN", "privateCreator": "ME & YOU"}
    assert found["00090002"][0].text == "AAE="
    [name] = found["00100010"]
    parts = {child.tag.removeprefix(NATIVE): child.text for group in name for child in group if group.tag[-3:] == "tic"}
    assert parts == {"FamilyName": "Doe", "GivenName": "John", "NamePrefix": "Dr."}
    assert [(v.attrib["number"], v.text) for v in found["00080008"]] == [("1", "A"), ("2", None), ("3", "B")]
    assert [len(item) for item in found["00081140"]] == [0, 1]
    assert list(found["00081030"]) == []
    assert found["7FE00010"][0].attrib == {"uri": "http://h/a?b&c"}


def test_what_xml_cannot_hold_is_replaced() -> None:
    raw = dumps({"00081030": {"vr": "LO", "Value": ["a\x00b\x1bc\ud800"]}})
    assert ElementTree.fromstring(raw)[0][0].text == "a\ufffdb\ufffdc\ufffd"
