"""The DICOM JSON model: what is written, what is refused, and that nothing is lost on the way round."""

from __future__ import annotations

import io
import random
from typing import Any

import dicom_data
import orjson
import pytest
import raw_dicom as raw
from pydicom import Dataset, dcmread

from pacs.dicom import json_model, part10, scanner
from pacs.dicom.json_model import BulkRef
from pacs.errors import InvalidInput, MalformedDataset


def one(vr: str, **content: Any) -> dict[str, Any]:
    return json_model.loads(orjson.dumps({"00111001": {"vr": vr, **content}}))["00111001"]


def test_bulk_addresses_begin_with_a_byte_that_no_text_has() -> None:
    metadata = {
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "ÿ"}]},
        "7FE00010": {"vr": "OW", "BulkDataURI": BulkRef("7FE00010")},
    }
    written = json_model.dumps(metadata)
    assert written.count(b"\xff") == 1
    assert b'"BulkDataURI":"\xff/bulkdata/7FE00010"' in written
    parsed = orjson.loads(written.replace(json_model.HERE, b"http://h/i"))
    assert parsed["7FE00010"]["BulkDataURI"] == "http://h/i/bulkdata/7FE00010"
    assert json_model.dumps_many([written, {}, b"{}"]) == b"[" + written + b",{},{}]"
    assert json_model.dumps_many([]) == b"[]"


def test_texts() -> None:
    metadata = {
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "A", "Phonetic": "P"}, None, {"Ideographic": "I"}]},
        "00280030": {"vr": "DS", "Value": [0.5, 1.0, "1E400"]},
        "00200013": {"vr": "IS", "Value": [7]},
        "00080060": {"vr": "CS"},
        "00081032": {"vr": "SQ", "Value": [{}]},
        "7FE00010": {"vr": "OW", "BulkDataURI": BulkRef("7FE00010")},
    }
    assert json_model.texts(metadata, "00100010") == ["A==P", "", "=I"]
    assert json_model.texts(metadata, "00280030") == ["0.5", "1", "1E400"]
    assert json_model.text(metadata, "00200013") == "7"
    for tag in ("00080060", "00081032", "7FE00010", "00080018"):
        assert json_model.texts(metadata, tag) == []
        assert json_model.text(metadata, tag) is None


@pytest.mark.filterwarnings("ignore")
def test_data_set_to_json_and_back_loses_nothing() -> None:
    compared = 0
    for path in raw.bundled_files():
        data = path.read_bytes()
        try:
            transfer_syntax_uid, offset = part10.split(memoryview(data))
            before = scanner.scan(memoryview(data)[offset:], transfer_syntax_uid)
        except MalformedDataset:
            continue
        if transfer_syntax_uid not in (raw.EXPLICIT, raw.IMPLICIT):
            continue
        places = {bulk.path: data[offset + bulk.offset : offset + bulk.offset + bulk.length] for bulk in before.bulk}
        ds = json_model.to_dataset(before.metadata, lambda ref, places=places: places[ref.path])
        again = dicom_data.dataset_bytes(ds)
        after = scanner.scan(memoryview(again), raw.EXPLICIT)
        assert after.metadata == before.metadata, path.name
        assert [again[bulk.offset : bulk.offset + bulk.length] for bulk in after.bulk] == list(places.values())
        assert json_model.loads(before.metadata_json().replace(b"\xff", b"x")).keys() == before.metadata.keys()
        compared += 1
    assert compared > 70


def test_from_dataset_says_what_the_scanner_says() -> None:
    inner = Dataset()
    inner.CodeValue, inner.CodeMeaning = "1", "Größe"
    ds = dicom_data.image(rows=2, columns=2, ProcedureCodeSequence=[inner], ReferencedImageSequence=[])
    ds.add_new(0x00111001, "FD", [1.5, float("nan"), float("inf")])
    ds.add_new(0x00111002, "SV", 2**60)
    ds.add_new(0x00111003, "AT", 0x00100010)
    ds.add_new(0x00111004, "LO", ["a", "", "b"])
    ds.add_new(0x00111005, "OB", b"abc")
    ds.SmallestImagePixelValue = 3
    ds.PatientName = "Adams^John=山田^太郎"
    made = json_model.from_dataset(ds)
    scanned = scanner.scan(memoryview(dicom_data.dataset_bytes(ds)), raw.EXPLICIT).metadata
    del made["7FE00010"], scanned["7FE00010"]
    assert made == scanned
    assert made["00280106"] == {"vr": "US", "Value": [3]}
    assert json_model.loads(json_model.dumps(made)) == made
    assert json_model.from_dataset(json_model.to_dataset(made)) == made


def test_to_dataset_writes_utf8() -> None:
    for metadata in (
        {"00100010": {"vr": "PN", "Value": [{"Alphabetic": "Ärzte"}]}},
        {"00081032": {"vr": "SQ", "Value": [{"00080104": {"vr": "LO", "Value": ["Größe"]}}]}},
        {"00080005": {"vr": "CS", "Value": ["ISO_IR 100"]}, "00100020": {"vr": "LO", "Value": ["x"]}},
    ):
        assert json_model.to_dataset(metadata).SpecificCharacterSet == "ISO_IR 192"
    plain = json_model.to_dataset({"00100020": {"vr": "LO", "Value": ["x"]}})
    assert "SpecificCharacterSet" not in plain
    with pytest.raises(InvalidInput) as caught:
        json_model.to_dataset({"00280010": {"vr": "IS", "Value": ["x"]}})
    assert caught.value.about == "00280010"


@pytest.mark.parametrize(
    ("vr", "given", "taken"),
    [
        ("IS", [1, "2", 3.0, None, ""], [1, "2", 3, None, None]),
        ("DS", ["0.5", 1, 2.5], ["0.5", 1, 2.5]),
        ("US", [1, "2", 3.0], [1, 2, 3]),
        ("SV", [str(2**60), 5], [str(2**60), 5]),
        ("FD", ["NaN", "-Infinity", "1.5", 2], ["NaN", "-Infinity", 1.5, 2]),
        ("AT", ["0010abcd"], ["0010ABCD"]),
        ("PN", [{"Phonetic": "p", "Alphabetic": "a"}, {}], [{"Alphabetic": "a", "Phonetic": "p"}, None]),
        ("PN", [{"Alphabetic": "a", "Ideographic": ""}], [{"Alphabetic": "a"}]),
        ("UT", ["a\\b"], ["a\\b"]),
        ("SQ", [{"0020000d": {}, "00080005": {}}], [{"00080005": {"vr": "CS"}, "0020000D": {"vr": "UI"}}]),
    ],
)  # fmt: skip
def test_input_that_is_taken(vr: str, given: list[Any], taken: list[Any]) -> None:
    assert one(vr, Value=given) == {"vr": vr, "Value": taken}


def test_input_without_value_and_with_odd_binary() -> None:
    for content in ({}, {"Value": []}, {"Value": [None]}, {"Value": [""]}, {"Value": None}):
        assert one("LO", **content) == {"vr": "LO"}
    assert one("OB", InlineBinary="YWJj") == {"vr": "OB", "InlineBinary": "YWJjAA=="}
    assert one("OB", BulkDataURI="http://elsewhere/x") == {"vr": "OB", "BulkDataURI": "http://elsewhere/x"}
    assert json_model.loads('[{"00100010": {}}]') == {"00100010": {"vr": "PN"}}
    assert json_model.loads('{"00100000": {"vr": "UL", "Value": [1]}}') == {}
    assert list(json_model.loads('{"0020000d": {"vr": "UI"}, "00080018": {"vr": "UI"}}')) == ["00080018", "0020000D"]
    assert len(json_model.loads_many("[{}, {}]")) == 2


@pytest.mark.parametrize(
    "entry",
    [
        {"vr": "XX", "Value": ["a"]},
        {"vr": 5},
        {"vr": "LO", "Value": "a"},
        {"vr": "LO", "Value": [1]},
        {"vr": "LO", "Value": ["a\\b"]},
        {"vr": "LO", "Value": [["a"]]},
        {"vr": "LT", "Value": ["a", "b"]},
        {"vr": "LO", "InlineBinary": "YWI="},
        {"vr": "OB", "Value": [1]},
        {"vr": "OB", "InlineBinary": "Y$I="},
        {"vr": "OB", "InlineBinary": 5},
        {"vr": "OB", "InlineBinary": "YWI=", "BulkDataURI": "x"},
        {"vr": "OB", "BulkDataURI": {}},
        {"vr": "SQ", "BulkDataURI": "x"},
        {"vr": "SQ", "Value": ["a"]},
        {"vr": "US", "Value": [65536]},
        {"vr": "US", "Value": [1.5]},
        {"vr": "US", "Value": [True]},
        {"vr": "US", "Value": ["x"]},
        {"vr": "FL", "Value": [{}]},
        {"vr": "FL", "Value": ["one"]},
        {"vr": "IS", "Value": [1.5]},
        {"vr": "IS", "Value": [1e300]},
        {"vr": "IS", "Value": [1 << 31]},
        {"vr": "FD", "Value": ["1e999"]},
        {"vr": "DS", "Value": [[]]},
        {"vr": "AT", "Value": ["1"]},
        {"vr": "PN", "Value": ["a^b"]},
        {"vr": "PN", "Value": [{"Other": "a"}]},
        {"vr": "PN", "Value": [{"Alphabetic": "a=b"}]},
        "text",
        None,
    ],
)
def test_input_that_is_refused_by_tag(entry: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        json_model.loads(orjson.dumps({"00111001": entry}))
    assert caught.value.about == "00111001"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[[]]", "5", "[]", "[{}, {}]", '{"PatientID": {"vr": "LO"}}', '{"00111001": {}}', b"\xff\xfe",
     '{"00111001": {"vr": "FD", "Value": [NaN]}}', '{"0020000d": {"vr": "UI"}, "0020000D": {"vr": "UI"}}',
     "[" * 100_000, '{"00081032": {"vr": "SQ", "Value": [' * 70 + "{}" + "]}}" * 70,
     '{"00111001": {"vr": "US", "Value": [' + "9" * 5000 + "]}}"],
)  # fmt: skip
def test_what_is_no_data_set(text: str | bytes) -> None:
    with pytest.raises(InvalidInput):
        json_model.loads(text)


def test_mutated_json_is_taken_or_refused_and_nothing_else() -> None:
    dice = random.Random(7)
    ds = dicom_data.image(rows=2, columns=2)
    ds.add_new(0x00111001, "FD", [1.5, 2.5])
    ds.add_new(0x00111002, "SV", 2**60)
    good = json_model.dumps(json_model.from_dataset(ds))
    pieces = [
        b"{}",
        b"[]",
        b"null",
        b"1e300",
        b"-1",
        b'"x"',
        b"[null]",
        b'"\\\\"',
        b"true",
        b'"SQ"',
        b'"US"',
        b'"PN"',
        b'"OB"',
    ]
    taken = 0
    for _ in range(3000):
        body = bytearray(good)
        for _ in range(dice.choice((1, 1, 3))):
            place = dice.randrange(len(body))
            if dice.random() < 0.5:
                body[place] = dice.randrange(32, 127)
            else:
                start = body.find(dice.choice((b"[", b'"', b"{")), place)
                end = body.find(b"]" if dice.random() < 0.5 else b",", start)
                if 0 <= start < end:
                    body[start:end] = dice.choice(pieces)
        try:
            metadata = json_model.loads(bytes(body))
            json_model.dumps(metadata)
            json_model.to_dataset(metadata)
        except InvalidInput:
            continue
        taken += 1
    assert taken > 100


def test_pydicom_reads_what_we_write() -> None:
    ds = dicom_data.image(PixelSpacing=[0.1, 0.2])
    metadata = scanner.scan(memoryview(dicom_data.dataset_bytes(ds)), raw.EXPLICIT).metadata
    del metadata["7FE00010"]
    theirs = Dataset.from_json(json_model.dumps(metadata).decode())
    del ds.PixelData
    assert theirs == ds
    assert dcmread(io.BytesIO(dicom_data.part10(theirs))).PatientName == "Synthetic^Sam"
