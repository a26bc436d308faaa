"""Frame tables: native, bit-packed, and encapsulated with every way of telling frames apart."""

from __future__ import annotations

import struct

import dicom_data
import numpy as np
import pytest
import raw_dicom as raw
from pydicom import dcmread
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames

from pacs.dicom import frames, part10, scanner
from pacs.errors import MalformedDataset, NotFound

JPEG = b"\xff\xd8\xff\xe0"


def frame(data: bytes, table: frames.FrameTable, number: int) -> bytes:
    joined = b"".join(data[offset : offset + length] for offset, length in table.spans(number))
    return table.cut_bits(number, joined)


def encapsulated(value: bytes, number_of_frames: int, before: bytes = b"") -> tuple[bytes, frames.FrameTable]:
    count = str(number_of_frames).encode()
    data = raw.dataset(
        after=raw.element(0x00280008, "IS", count + b" " * (len(count) % 2))
        + before
        + raw.element(0x7FE00010, "OB", value + raw.SEQUENCE_END, length=raw.UNDEFINED)
    )
    table = scanner.scan(memoryview(data), raw.BASELINE).frames
    assert table is not None
    return data, table


def test_native_frames() -> None:
    pixels = np.arange(3 * 4 * 5, dtype="<u2").reshape(3, 4, 5)
    ds = dicom_data.image(rows=4, columns=5, NumberOfFrames=3, PixelData=pixels.tobytes())
    data = dicom_data.dataset_bytes(ds)
    table = scanner.scan(memoryview(data), raw.EXPLICIT).frames
    assert table is not None
    for number in (1, 2, 3):
        assert frame(data, table, number) == pixels[number - 1].tobytes()
    for number in (0, 4, -1):
        with pytest.raises(NotFound):
            table.spans(number)
    assert frames.FrameTable.from_bytes(table.to_bytes()) == table


@pytest.mark.parametrize(("rows", "columns", "count"), [(3, 3, 5), (4, 4, 2), (1, 1, 9), (7, 5, 8)])
def test_one_bit_frames_are_cut_bit_by_bit(rows: int, columns: int, count: int) -> None:
    masks = np.random.default_rng(0).integers(0, 2, (count, rows, columns), dtype=np.uint8)
    packed = np.packbits(masks.ravel(), bitorder="little").tobytes()
    ds = dicom_data.image(
        rows=rows, columns=columns, NumberOfFrames=count, BitsAllocated=1, BitsStored=1, HighBit=0,
        PixelData=packed + b"\0" * (len(packed) % 2),
    )  # fmt: skip
    data = dicom_data.dataset_bytes(ds)
    table = scanner.scan(memoryview(data), raw.EXPLICIT).frames
    assert table is not None
    for number in range(1, count + 1):
        mask = np.packbits(masks[number - 1].ravel(), bitorder="little").tobytes()
        assert frame(data, table, number) == mask


@pytest.mark.parametrize(("keyword", "dtype"), [("FloatPixelData", "<f4"), ("DoubleFloatPixelData", "<f8")])
def test_float_pixel_data(keyword: str, dtype: str) -> None:
    pixels = np.linspace(0, 1, 24).reshape(2, 3, 4).astype(dtype)
    ds = dicom_data.image(rows=3, columns=4, NumberOfFrames=2, PixelData=None, **{keyword: pixels.tobytes()})
    data = dicom_data.dataset_bytes(ds)
    table = scanner.scan(memoryview(data), raw.EXPLICIT).frames
    assert table is not None
    assert frame(data, table, 2) == pixels[1].tobytes()


def test_subsampled_colour_counts_two_samples() -> None:
    ds = dicom_data.image(
        rows=2, columns=4, SamplesPerPixel=3, PhotometricInterpretation="YBR_FULL_422", PlanarConfiguration=0,
        BitsAllocated=8, BitsStored=8, HighBit=7, NumberOfFrames=2, PixelData=bytes(range(32)),
    )  # fmt: skip
    data = dicom_data.dataset_bytes(ds)
    table = scanner.scan(memoryview(data), raw.EXPLICIT).frames
    assert table is not None
    assert frame(data, table, 2) == bytes(range(16, 32))


@pytest.mark.parametrize(
    "attributes",
    [
        {"PixelData": b"\0" * (16 * 12 * 2 - 2)},
        {"NumberOfFrames": 2},
        {"Rows": 0},
        {"BitsAllocated": 0},
        {"SamplesPerPixel": 65535},
        {"Rows": [16, 16]},
        {"Columns": None},
    ],
)
def test_pixel_data_that_does_not_fit_its_image_is_refused(attributes: dict[str, object]) -> None:
    data = dicom_data.dataset_bytes(dicom_data.image(**attributes))
    with pytest.raises(MalformedDataset):
        scanner.scan(memoryview(data), raw.EXPLICIT)


def test_objects_without_pixels_have_no_table() -> None:
    assert scanner.scan(memoryview(raw.dataset()), raw.EXPLICIT).frames is None
    data = dicom_data.dataset_bytes(dicom_data.image(PixelData=b""))
    assert scanner.scan(memoryview(data), raw.EXPLICIT).frames is None


def test_one_fragment_for_each_frame_with_and_without_offset_table() -> None:
    codestreams = [JPEG + bytes([n]) * (2 * n) for n in (3, 1, 2)]
    for has_bot in (True, False):
        data, table = encapsulated(encapsulate(codestreams, has_bot=has_bot), 3)
        for number, expected in enumerate(codestreams, 1):
            assert frame(data, table, number) == expected
        assert frames.FrameTable.from_bytes(table.to_bytes()) == table


@pytest.mark.parametrize("has_bot", [True, False])
def test_frames_in_several_fragments(has_bot: bool) -> None:
    codestreams = [JPEG + bytes([n]) * 60 for n in (3, 1, 2)]
    data, table = encapsulated(encapsulate(codestreams, fragments_per_frame=4, has_bot=has_bot), 3)
    again = frames.FrameTable.from_bytes(table.to_bytes())
    for number, expected in enumerate(codestreams, 1):
        assert len(table.spans(number)) == 4
        assert frame(data, table, number) == frame(data, again, number) == expected


def test_extended_offset_table() -> None:
    codestreams = [JPEG + bytes([n]) * 60 for n in (3, 1)]
    value, offsets, lengths = encapsulate_extended(codestreams)
    before = raw.element(0x7FE00001, "OV", offsets) + raw.element(0x7FE00002, "OV", lengths)
    data, table = encapsulated(value, 2, before)
    assert [frame(data, table, number) for number in (1, 2)] == codestreams
    # The second frame without a telling start, in two fragments: only the table knows.
    parts = [JPEG + b"\1" * 4, b"\2" * 8, b"\3" * 8]
    value = raw.item() + b"".join(raw.item(part) for part in parts)
    data, table = encapsulated(value, 2, raw.element(0x7FE00001, "OV", struct.pack("<2Q", 0, 16)))
    assert frame(data, table, 2) == b"\2" * 8 + b"\3" * 8


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (raw.item(), 1),
        (b"", 1),
        (raw.item() + raw.item(JPEG), 2),
        (raw.item() + raw.item(b"ab") * 3, 2),
        (raw.item(struct.pack("<2I", 0, 999)) + raw.item(b"ab") * 3, 2),
    ],
)
def test_fragments_that_cannot_be_told_apart_are_refused(value: bytes, count: int) -> None:
    with pytest.raises(MalformedDataset):
        encapsulated(value, count)


def test_fragment_lies_are_refused() -> None:
    for value in (raw.item() + raw.item(length=1 << 30), raw.item() + raw.item(length=raw.UNDEFINED), b"\0" * 16):
        with pytest.raises(MalformedDataset):
            encapsulated(value, 1)
    with pytest.raises(MalformedDataset):
        scanner.scan(memoryview(raw.dataset(after=raw.element(0x7FE00010, "OB", JPEG))), raw.BASELINE)


def test_video_is_one_stream() -> None:
    data = raw.dataset(
        after=raw.element(0x00280008, "IS", b"25")
        + raw.element(0x7FE00010, "OB", raw.item() + raw.item(b"ab") * 3 + raw.SEQUENCE_END, length=raw.UNDEFINED)
    )
    table = scanner.scan(memoryview(data), "1.2.840.10008.1.2.4.102").frames
    assert table is not None
    assert frame(data, table, 1) == b"ababab"


@pytest.mark.filterwarnings("ignore")
def test_frames_of_bundled_files_equal_pydicoms() -> None:
    compared = 0
    for path in raw.bundled_files():
        data = path.read_bytes()
        try:
            transfer_syntax_uid, offset = part10.split(memoryview(data))
            table = scanner.scan(memoryview(data)[offset:], transfer_syntax_uid).frames
        except MalformedDataset:
            continue
        if table is None or not table.encapsulated:
            continue
        ds = dcmread(path)
        count = int(ds.get("NumberOfFrames", 1) or 1)
        assert table.number_of_frames == count
        for number, expected in enumerate(generate_frames(ds.PixelData, number_of_frames=count), 1):
            assert frame(data[offset:], table, number) == expected, path.name
        compared += 1
    assert compared > 25


def test_not_a_table() -> None:
    for raw_bytes in (b"", b"x" * 40, b"FTE1" + b"\xff" * 24):
        with pytest.raises(MalformedDataset):
            frames.FrameTable.from_bytes(raw_bytes)
