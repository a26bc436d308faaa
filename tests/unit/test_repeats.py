"""Data sets read with a memory of the one before are the same, element by element and error by error, as without."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import dicom_data
import pytest
import raw_dicom as raw
from pydicom import Dataset
from pydicom.sequence import Sequence

from pacs.dicom import patterns, scanner
from pacs.dicom.repeats import Repeats
from pacs.dicom.transfer_syntaxes import TRANSFER_SYNTAXES
from pacs.errors import ArchiveError


def outcome(scan: Callable[[], scanner.Scan]) -> tuple[object, ...]:
    try:
        found = scan()
    except ArchiveError as error:
        return type(error), str(error)
    return found, list(found.metadata), found.metadata_json()


def same(data: bytes, syntax: str, repeats: Repeats) -> bool:
    """Whether it was stored at all; fails where the memory makes a difference."""
    alone = outcome(lambda: scanner.scan(memoryview(data), syntax))
    assert outcome(lambda: scanner.scan(memoryview(data), syntax, repeats=repeats)) == alone
    return isinstance(alone[0], scanner.Scan)


def item(number: int) -> Dataset:
    made = Dataset()
    made.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    made.ReferencedSOPInstanceUID = f"1.2.3.{number}"
    made.PatientName = "Müller^Jörg"
    return made


def series(count: int, **values: object) -> list[Dataset]:
    """Slices with text in a character set, private elements, bulk data and sequences, equal and differing ones."""
    made = []
    for number in range(count):
        ds = dicom_data.image(number, **values)
        ds.SpecificCharacterSet = "ISO_IR 100"
        ds.PatientName = "Müller^Jörg"
        ds.ImageComments = f"Größe {number}"
        ds.SmallestImagePixelValue = number
        ds.ReferencedStudySequence = Sequence([item(1)])
        if number % 5 == 4:
            ds.SourceImageSequence = Sequence([item(number), item(2)])
        block = ds.private_block(0x0029, "M3D TEST", create=True)
        block.add_new(0x10, "OB", bytes(2000))
        block.add_new(0x11, "LO", "ä" * (number % 3))
        made.append(ds)
    return made


@pytest.mark.parametrize("syntax", [raw.EXPLICIT, raw.IMPLICIT, raw.BIG, raw.DEFLATED])
def test_a_series_is_read_the_same_with_a_memory(syntax: str) -> None:
    repeats = Repeats()
    slices = series(12) + series(6, PatientName="Other", StudyDescription="x" * 60)
    for ds in [*slices, *reversed(slices), *(ds for pair in zip(slices, reversed(slices), strict=True) for ds in pair)]:
        assert same(dicom_data.dataset_bytes(ds, syntax), syntax, repeats)


def spoilt(rng: random.Random, data: bytes) -> Iterator[bytes]:
    """The same with its header damaged in some way."""
    header = data[:3000]
    at = rng.randrange(len(header))
    yield data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    yield data[: rng.randrange(len(data))]
    other = rng.randrange(len(header))
    yield data[: min(at, other)] + data[max(at, other) :]
    yield data[: max(at, other)] + data[min(at, other) :]
    yield data[:at] + rng.randbytes(rng.randrange(1, 40)) + data[at:]


@pytest.mark.parametrize("syntax", [raw.EXPLICIT, raw.IMPLICIT])
@pytest.mark.parametrize("seed", range(4))
def test_damaged_data_sets_between_sound_ones_make_no_difference(syntax: str, seed: int) -> None:
    rng = random.Random(seed)
    repeats = Repeats()
    slices = [dicom_data.dataset_bytes(ds, syntax) for ds in series(10)]
    stored = 0
    for _ in range(60):
        stored += same(rng.choice(slices), syntax, repeats)
        for damaged in spoilt(rng, rng.choice(slices)):
            same(damaged, syntax, repeats)
    assert stored == 60


@pytest.mark.parametrize("syntax", [raw.EXPLICIT, raw.IMPLICIT, raw.BIG])
def test_whatever_ends_a_data_set_makes_no_difference(syntax: str) -> None:
    """Pixel data that end the slices before: spoilt, cut short, longer, elsewhere, followed by more, or not there."""
    rng, repeats = random.Random(5), Repeats()
    slices = [dicom_data.dataset_bytes(dicom_data.image(number), syntax) for number in range(12)]
    long = 12 if syntax != raw.IMPLICIT else 8
    taken = 0
    for turn in range(400):
        data = rng.choice(slices)
        taken += same(data, syntax, repeats)
        begin = len(data) - 16 * 12 * 2 - long
        other = bytearray(data)
        match turn % 7:
            case 0:
                other[begin + rng.randrange(long)] ^= 1 << rng.randrange(8)
            case 1:
                del other[-rng.randrange(1, 20) :]
            case 2:
                other += bytes(rng.randrange(1, 20))
            case 3:
                other += data[begin:]
            case 4:
                del other[begin:]
            case 5:
                other[begin:begin] = data[begin:]
            case _:
                other[begin:] = other[begin : begin + long - 4] + bytes(4)
        same(bytes(other), syntax, repeats)
    assert taken == 400


def elements(data: bytes) -> list[bytes]:
    """The elements of an explicit data set with short values, whole."""
    found, at = [], 0
    while at < len(data):
        end = at + 8 + int.from_bytes(data[at + 6 : at + 8], "little")
        found.append(data[at:end])
        at = end
    return found


def test_elements_left_out_put_in_and_moved_make_no_difference() -> None:
    """The same bytes elsewhere may mean something else: behind another character set, or out of order."""
    ds = series(1)[0]
    for keyword in ("PixelData", "ReferencedStudySequence", "NumberOfFrames"):
        if keyword in ds:
            delattr(ds, keyword)
    del ds[0x0029, 0x1010]
    plain = elements(dicom_data.dataset_bytes(ds))
    assert b"".join(plain) == dicom_data.dataset_bytes(ds)
    latin, cyrillic = (b"\x08\x00\x05\x00CS\x0a\x00ISO_IR " + number for number in (b"100", b"144"))
    assert latin in plain
    repeats, rng = Repeats(), random.Random(7)
    for _ in range(300):
        made = [each.replace(latin, rng.choice((latin, latin, cyrillic, b""))) for each in plain]
        for _ in range(rng.randrange(3)):
            gone = made.pop(rng.randrange(len(made)))
            if rng.random() < 0.5:
                made.insert(rng.randrange(len(made)), gone)
        same(b"".join(made), raw.EXPLICIT, repeats)
        same(b"".join(plain), raw.EXPLICIT, repeats)


def test_what_is_equal_is_not_read_again() -> None:
    """The point of it all: of a series that was seen, only what differs is read."""
    repeats = Repeats()
    syntax = TRANSFER_SYNTAXES[raw.EXPLICIT]
    first, second, third = (
        repeats.walk(memoryview(dicom_data.dataset_bytes(ds)), syntax) for ds in series(3, StudyDescription="y")
    )
    assert first[2] is second[2] is None
    assert third[2] is not None
    assert third[1]["00081030"] is second[1]["00081030"]
    assert third[1]["00080018"] != second[1]["00080018"]


def of_series(number: int, count: int, **values: object) -> list[Dataset]:
    """Slices that nothing but native pixel data ends: what is the same within a series is another in the next one."""
    made = []
    for each in range(count):
        ds = dicom_data.image(each, SeriesInstanceUID=f"1.2.{number}", SeriesNumber=number, **values)
        ds.SpecificCharacterSet = "ISO_IR 100"
        ds.PatientName = "Müller^Jörg" if number % 2 else "Doe"
        ds.SeriesDescription = "ä" * number
        ds.ReferencedStudySequence = Sequence([item(turn) for turn in range(number % 3)])
        ds.ReferencedStudySequence.is_undefined_length = number % 4 > 1
        ds.private_block(0x0029, "M3D TEST", create=True).add_new(0x10, "OB", bytes(number % 3 * 2))
        made.append(ds)
    return made


@pytest.mark.parametrize("syntax", [raw.EXPLICIT, raw.IMPLICIT, raw.BIG])
def test_the_next_series_is_read_by_what_is_known_of_the_last(syntax: str, monkeypatch: pytest.MonkeyPatch) -> None:
    walked = list[object]()
    learned = patterns.learned

    def counted(*args: Any) -> patterns.Known:
        walked.append(args)
        return learned(*args)

    monkeypatch.setattr(patterns, "learned", counted)
    repeats = Repeats()
    for number in range(12):
        for ds in of_series(number, 3):
            assert same(dicom_data.dataset_bytes(ds, syntax), syntax, repeats)
            repeats.worth_it()
        whole = repeats.following
        assert whole is not None
    assert len(walked) <= 2


@pytest.mark.parametrize("syntax", [raw.EXPLICIT, raw.IMPLICIT])
@pytest.mark.parametrize("seed", range(2))
def test_damage_from_one_series_to_the_next_makes_no_difference(syntax: str, seed: int) -> None:
    rng = random.Random(seed)
    repeats = Repeats()
    slices = [dicom_data.dataset_bytes(ds, syntax) for number in range(6) for ds in of_series(number, 2)]
    for _ in range(25):
        assert same(rng.choice(slices), syntax, repeats)
        repeats.worth_it()
        for damaged in spoilt(rng, rng.choice(slices)):
            same(rng.choice(slices), syntax, repeats)
            repeats.worth_it()
            same(damaged, syntax, repeats)
            repeats.worth_it()


def test_from_one_series_to_the_next_only_what_differs_is_read() -> None:
    repeats = Repeats()
    one, two = of_series(1, 3), of_series(2, 2)
    for ds in one:
        scanner.scan(dicom_data.dataset_bytes(ds), raw.EXPLICIT, repeats=repeats)
    before, after, next_one = (
        scanner.scan(dicom_data.dataset_bytes(ds), raw.EXPLICIT, repeats=repeats) for ds in (one[0], *two)
    )
    assert after.metadata["00080060"] is before.metadata["00080060"]
    assert after.metadata["0020000E"] != before.metadata["0020000E"]
    assert after.metadata["00081110"] != before.metadata["00081110"]
    assert after.pattern is not None
    assert after.pattern is not before.pattern
    assert next_one.pattern is after.pattern
