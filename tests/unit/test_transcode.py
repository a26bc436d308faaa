"""Decoding and transcoding: against what was encoded, and against pydicom's own decoders."""

from __future__ import annotations

import io
import random
import zlib
from typing import Any

import codestreams
import numpy as np
import pytest
import raw_dicom as raw
from pydicom import Dataset, dcmread
from pydicom.pixels import pixel_array

from pacs.dicom import part10, scanner
from pacs.dicom.decode import PixelInfo, decode_frame
from pacs.dicom.transcode import changed_attributes, explicit_le_frame, little_endian_value, transcode_dataset
from pacs.errors import ArchiveError, InvalidUID, MalformedDataset, TooLarge, Undecodable, UnsupportedTransferSyntax

LOSSLESS = [
    *(raw.EXPLICIT, raw.IMPLICIT, raw.BIG, raw.DEFLATED, codestreams.RLE, codestreams.JPEG_LS, codestreams.J2K),
    *(codestreams.HTJ2K, codestreams.HTJ2K_RPCL, codestreams.LOSSLESS14, codestreams.LOSSLESS, codestreams.JXL),
    *(codestreams.DEFLATED_FRAME, codestreams.UNCOMPRESSED),
]
KINDS = ["u8", "u12", "u16", "s12", "s16", "rgb"]


def frame_of(data: bytes, transfer_syntax_uid: str, number: int) -> tuple[bytes, PixelInfo]:
    if transfer_syntax_uid == raw.DEFLATED:
        data, transfer_syntax_uid = zlib.decompress(data, -15), raw.EXPLICIT
    scan = scanner.scan(memoryview(data), transfer_syntax_uid)
    assert scan.frames is not None
    joined = b"".join(data[offset : offset + length] for offset, length in scan.frames.spans(number))
    return scan.frames.cut_bits(number, joined), PixelInfo.from_metadata(scan.metadata, transfer_syntax_uid)


def read(data: bytes) -> Dataset:
    """pydicom's view of Explicit VR Little Endian data set bytes."""
    header = part10.header("1.2.840.10008.5.1.4.1.1.7", "1.2.3", raw.EXPLICIT)
    return dcmread(io.BytesIO(header + data))


@pytest.mark.parametrize("transfer_syntax_uid", LOSSLESS)
@pytest.mark.parametrize("kind", KINDS)
def test_lossless_syntaxes_give_back_every_value(kind: str, transfer_syntax_uid: str) -> None:
    first, attributes = codestreams.pixels(kind, 20, 18)
    frames = [first, first[::-1].copy()]
    data = codestreams.dataset(frames, attributes, transfer_syntax_uid)
    for number, expected in enumerate(frames, 1):
        stored, info = frame_of(data, transfer_syntax_uid, number)
        decoded = decode_frame(stored, info)
        assert decoded.dtype == expected.dtype
        np.testing.assert_array_equal(decoded, expected)
        assert explicit_le_frame(stored, info) == expected.tobytes()
        assert changed_attributes(info, len(stored)) == {}
    ds = read(transcode_dataset(data, transfer_syntax_uid, raw.EXPLICIT))
    np.testing.assert_array_equal(pixel_array(ds, raw=True), np.stack(frames))
    assert ds.PixelData == b"".join(frame.tobytes() for frame in frames)
    assert ds.PatientName == "Synthetic^Sam"


@pytest.mark.parametrize(
    ("transfer_syntax_uid", "kind", "error"),
    [
        (codestreams.NEAR, "u16", 2),
        (codestreams.J2K_LOSSY, "u8", 3),
        (codestreams.HTJ2K_LOSSY, "u12", 40),
        (codestreams.BASELINE, "u8", 2),
        (codestreams.BASELINE, "rgb", 6),
        (codestreams.EXTENDED, "u12", 6),
        (codestreams.JXL_LOSSY, "u8", 6),
    ],
)
def test_lossy_syntaxes_come_close(transfer_syntax_uid: str, kind: str, error: int) -> None:
    frame, attributes = codestreams.pixels(kind, 64, 48)
    if transfer_syntax_uid == codestreams.BASELINE and kind == "rgb":
        attributes["PhotometricInterpretation"] = "YBR_FULL"
    data = codestreams.dataset([frame], attributes, transfer_syntax_uid)
    stored, info = frame_of(data, transfer_syntax_uid, 1)
    assert np.abs(decode_frame(stored, info).astype(int) - frame.astype(int)).max() <= error
    ds = read(transcode_dataset(data, transfer_syntax_uid, raw.EXPLICIT))
    assert ds.PhotometricInterpretation == ("RGB" if kind == "rgb" else "MONOCHROME2")
    assert np.abs(pixel_array(ds, raw=True).astype(int) - frame.astype(int)).max() <= error


@pytest.mark.filterwarnings("ignore")
def test_bundled_files_decode_as_in_pydicom_and_transcode_true() -> None:
    decoded = 0
    for path in raw.bundled_files():
        whole = path.read_bytes()
        try:
            transfer_syntax_uid, offset = part10.split(memoryview(whole))
            scan = scanner.scan(memoryview(whole)[offset:], transfer_syntax_uid)
        except (MalformedDataset, InvalidUID):
            continue
        data = whole[offset:]
        try:
            out = transcode_dataset(data, transfer_syntax_uid, raw.EXPLICIT)
        except Undecodable:
            # Its codestream holds a sequence delimiter in place of its width: nobody can decode it.
            assert path.name == "JPEG2000-embedded-sequence-delimiter.dcm"
            continue
        after = scanner.scan(memoryview(out), raw.EXPLICIT)
        different = {tag for tag in after.metadata if after.metadata[tag] != scan.metadata.get(tag)}
        assert different <= {"00280004", "7FE00010"}, (path.name, different)
        assert scan.metadata.keys() - after.metadata.keys() <= {"7FE00001", "7FE00002"}
        if scan.frames is None:
            continue
        try:
            expected = pixel_array(dcmread(path), raw=False)
        except (RuntimeError, ValueError):
            continue  # a syntax or file that pydicom has no decoder for here
        np.testing.assert_array_equal(pixel_array(read(out), raw=False), expected, path.name)
        decoded += 1
    assert decoded >= 80


def test_fewer_bits_in_the_codestream_than_in_the_image() -> None:
    frame, _ = codestreams.pixels("u8", 16, 16)
    for transfer_syntax_uid in (codestreams.BASELINE, codestreams.J2K, codestreams.J2K_LOSSY, codestreams.JPEG_LS):
        info = PixelInfo(transfer_syntax_uid, 16, 16, bits_stored=12, high_bit=11)
        decoded = decode_frame(codestreams.encoded(frame, transfer_syntax_uid, 8), info)
        assert decoded.dtype == np.uint16
        assert np.abs(decoded.astype(int) - frame).max() <= 3


def test_native_subsampled_colour_becomes_rgb() -> None:
    path = raw.bundled("SC_ybr_full_422_uncompressed.dcm")
    whole = path.read_bytes()
    transfer_syntax_uid, offset = part10.split(memoryview(whole))
    stored, info = frame_of(whole[offset:], transfer_syntax_uid, 1)
    expected = pixel_array(path)  # pydicom turns it into RGB
    assert explicit_le_frame(stored, info) == expected.tobytes()
    assert changed_attributes(info, len(stored)) == {"00280004": {"vr": "CS", "Value": ["RGB"]}}


def test_planes_stay_planes_as_the_data_set_says() -> None:
    frame, attributes = codestreams.pixels("rgb", 6, 4)
    attributes["PlanarConfiguration"] = 1
    data = codestreams.dataset([frame.transpose(2, 0, 1).copy()], {**attributes}, raw.EXPLICIT)
    scan = scanner.scan(memoryview(data), raw.EXPLICIT)
    info = PixelInfo.from_metadata(scan.metadata | {
        "00280010": {"vr": "US", "Value": [6]}, "00280011": {"vr": "US", "Value": [4]}}, raw.EXPLICIT)  # fmt: skip
    stored = frame.transpose(2, 0, 1).tobytes()
    np.testing.assert_array_equal(decode_frame(stored, info), frame)
    assert explicit_le_frame(stored, info) == stored
    rle, rle_info = frame_of(codestreams.dataset([frame], attributes, codestreams.RLE), codestreams.RLE, 1)
    assert explicit_le_frame(rle, rle_info) == stored
    jls, jls_info = frame_of(codestreams.dataset([frame], attributes, codestreams.JPEG_LS), codestreams.JPEG_LS, 1)
    assert explicit_le_frame(jls, jls_info) == frame.tobytes()
    assert changed_attributes(jls_info) == {"00280006": {"vr": "US", "Value": [0]}}


def test_unused_bits_are_no_part_of_a_value() -> None:
    values = np.array([[0x1FFF, 0x8001]], "<u2")
    info = PixelInfo(raw.EXPLICIT, 1, 2, bits_stored=12, high_bit=11)
    np.testing.assert_array_equal(decode_frame(values.tobytes(), info), [[0xFFF, 1]])
    signed = PixelInfo(raw.EXPLICIT, 1, 2, bits_stored=12, high_bit=11, signed=True)
    np.testing.assert_array_equal(decode_frame(values.tobytes(), signed), [[-1, 1]])
    high = PixelInfo(raw.EXPLICIT, 1, 2, bits_stored=12, high_bit=15)
    np.testing.assert_array_equal(decode_frame(values.tobytes(), high), [[0x1FF, 0x800]])
    assert explicit_le_frame(values.tobytes(), high) == values.tobytes()


def test_sequences_privates_and_odd_lengths_survive_transcoding() -> None:
    inner = raw.implicit(0x00280103, b"\1\0") + raw.implicit(0x00280106, b"\xff\xff")
    body = (
        raw.implicit(0x00080016, b"1.2.840.10008.5.1.4.1.1.7\0")
        + raw.implicit(0x00080018, b"1.2.3.4\0")
        + raw.implicit(0x00081032, raw.item(raw.implicit(0x00080100, b"C1"), length=raw.UNDEFINED) + raw.item())
        + raw.implicit(0x00090000, b"\1\0\0\0")
        + raw.implicit(0x00090010, b"ACME")
        + raw.implicit(0x00091001, raw.item(raw.implicit(0x00091002, b"ab")) + raw.SEQUENCE_END, length=raw.UNDEFINED)
        + raw.implicit(0x00104000, b"\xfc odd")
        + raw.implicit(0x0020000D, b"1.2.3\0")
        + raw.implicit(0x0020000E, b"1.2.3.5\0")
        + raw.implicit(0x00409096, raw.item(inner))
        + raw.implicit(0x0040A160, b"t" * 70000)
    )
    before = scanner.scan(memoryview(body), raw.IMPLICIT).metadata
    out = transcode_dataset(body, raw.IMPLICIT, raw.EXPLICIT)
    after = scanner.scan(memoryview(out), raw.EXPLICIT).metadata
    assert after == before
    assert after["00409096"]["Value"][0]["00280106"] == {"vr": "SS", "Value": [-1]}
    assert read(out).ProcedureCodeSequence[0].CodeValue == "C1"
    assert transcode_dataset(body, raw.IMPLICIT, raw.IMPLICIT) == body
    back = transcode_dataset(out, raw.EXPLICIT, raw.IMPLICIT)
    assert scanner.scan(memoryview(back), raw.IMPLICIT).metadata == before


def test_ways_that_do_not_exist() -> None:
    frame, attributes = codestreams.pixels("u8", 4, 4)
    data = codestreams.dataset([frame], attributes, codestreams.RLE)
    for source, target in (
        (codestreams.RLE, raw.BIG), ("1.2.840.10008.1.2.4.102", raw.EXPLICIT), ("1.2.3", raw.EXPLICIT)
    ):  # fmt: skip
        with pytest.raises(UnsupportedTransferSyntax):
            transcode_dataset(data, source, target)


def test_bulk_values_come_out_little_endian() -> None:
    assert little_endian_value(b"\1\2\3\4", "OW", raw.BIG) == b"\2\1\4\3"
    assert little_endian_value(b"\1\2\3\4", "OW", raw.BIG, bits_allocated=32) == b"\4\3\2\1"
    assert little_endian_value(b"\1\2\3\4", "OF", raw.BIG) == b"\4\3\2\1"
    assert little_endian_value(b"\1\2\3\4", "OB", raw.BIG) == b"\1\2\3\4"
    assert little_endian_value(b"\1\2\3\4", "OW", raw.EXPLICIT) == b"\1\2\3\4"


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 0}, {"rows": 1 << 25}, {"columns": 65535, "rows": 65535}, {"samples": 2}, {"bits_allocated": 12},
        {"bits_stored": 17}, {"bits_stored": 0}, {"high_bit": 3}, {"photometric": "RGB"}, {"columns": 19},
        {"samples": 3}, {"rows": 21}, {"bits_allocated": 8, "bits_stored": 8, "high_bit": 7},
    ],
)  # fmt: skip
@pytest.mark.parametrize("transfer_syntax_uid", [codestreams.J2K, codestreams.RLE, codestreams.JPEG_LS, raw.EXPLICIT])
def test_attributes_that_lie_are_undecodable(transfer_syntax_uid: str, change: dict[str, Any]) -> None:
    frame, _ = codestreams.pixels("u16", 20, 18)
    values: dict[str, Any] = {"rows": 20, "columns": 18} | change
    if transfer_syntax_uid == raw.EXPLICIT and change.get("bits_allocated") == 8:
        return  # fewer bytes than there are is no lie that can be noticed
    data = (
        codestreams.encoded(frame, transfer_syntax_uid, 16) if transfer_syntax_uid != raw.EXPLICIT else frame.tobytes()
    )
    with pytest.raises(Undecodable):
        decode_frame(data, PixelInfo(transfer_syntax_uid, **values))


def test_missing_image_attributes_are_named() -> None:
    with pytest.raises(Undecodable) as caught:
        PixelInfo.from_metadata({"00280100": {"vr": "US", "Value": [8]}}, raw.EXPLICIT)
    assert caught.value.about == "00280010"


def test_broken_codestreams_never_give_an_array() -> None:
    frame, _ = codestreams.pixels("u8", 24, 24)
    info = {"rows": 24, "columns": 24, "bits_allocated": 8, "bits_stored": 8, "high_bit": 7}
    for transfer_syntax_uid in [each for each in LOSSLESS if each not in (raw.IMPLICIT, raw.BIG, raw.DEFLATED)]:
        good = codestreams.encoded(frame, transfer_syntax_uid, 8)
        for broken in (b"", good[:1], good[:20], b"\0" * 200, b"\xff" * 200):
            if transfer_syntax_uid in (raw.EXPLICIT, codestreams.UNCOMPRESSED) or broken == good:
                broken = broken[:100]
            with pytest.raises(Undecodable):
                decode_frame(broken, PixelInfo(transfer_syntax_uid, **info))


def test_mutants_of_data_sets_transcode_or_raise_what_is_promised() -> None:
    dice = random.Random(5)
    frame, attributes = codestreams.pixels("u12", 8, 8)
    seeds = [(ts, codestreams.dataset([frame], attributes, ts)) for ts in (raw.IMPLICIT, raw.BIG, codestreams.RLE)]
    good = 0
    for _ in range(1500):
        transfer_syntax_uid, data = dice.choice(seeds)
        body = bytearray(data)
        for _ in range(dice.choice((1, 2))):
            body[dice.randrange(len(body))] = dice.choice((0, 255, 254, dice.randrange(256)))
        try:
            out = transcode_dataset(bytes(body), transfer_syntax_uid, raw.EXPLICIT)
        except (MalformedDataset, InvalidUID, TooLarge, UnsupportedTransferSyntax, Undecodable) as error:
            assert isinstance(error, ArchiveError)  # noqa: PT017
            continue
        scanner.scan(memoryview(out), raw.EXPLICIT)
        good += 1
    assert good > 300
