"""Encoding: every syntax we can write, read back by ourselves, by pydicom's decoders and by DCMTK's and GDCM's."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import codestreams
import numpy as np
import pytest
import raw_dicom as raw
from pydicom import Dataset, dcmread
from pydicom.pixels import pixel_array

from pacs.dicom import lossy, part10, scanner
from pacs.dicom.decode import PixelInfo, decode_frame
from pacs.dicom.encode import ENCODED
from pacs.dicom.transcode import TARGETS, transcode_dataset, transcoded_frame
from pacs.errors import UnsupportedTransferSyntax

LOSSLESS = [ts for ts, encoder in ENCODED.items() if not encoder.lossy]
LOSSY = [ts for ts, encoder in ENCODED.items() if encoder.lossy]
KINDS = ["u8", "u12", "u16", "s12", "s16", "rgb"]
READERS = {
    codestreams.LOSSLESS: ("dcmdjpeg",),
    codestreams.LOSSLESS14: ("dcmdjpeg",),
    codestreams.BASELINE: ("dcmdjpeg",),
    codestreams.JPEG_LS: ("dcmdjpls",),
    codestreams.RLE: ("dcmdrle",),
    codestreams.J2K: ("gdcmconv", "--raw"),
}


def read(data: bytes, transfer_syntax_uid: str) -> Dataset:
    """pydicom's view of data set bytes."""
    return dcmread(io.BytesIO(part10.header("1.2.840.10008.5.1.4.1.1.7", "1.2.3", transfer_syntax_uid) + data))


def source(kind: str, count: int = 2, **more: Any) -> tuple[list[np.ndarray[Any, Any]], bytes]:
    first, attributes = codestreams.pixels(kind, 70, 52)
    frames = [first, first[::-1].copy(), first[:, ::-1].copy()][:count]
    return frames, codestreams.dataset(frames, attributes | more, raw.EXPLICIT)


@pytest.mark.parametrize("target", LOSSLESS)
@pytest.mark.parametrize("kind", KINDS)
def test_lossless_there_and_back(kind: str, target: str) -> None:
    frames, data = source(kind)
    there = transcode_dataset(data, raw.EXPLICIT, target)
    before, after = (scanner.scan(memoryview(d), ts).metadata for d, ts in ((data, raw.EXPLICIT), (there, target)))
    different = {tag for tag in before.keys() | after.keys() if before.get(tag) != after.get(tag)}
    assert different <= {"7FE00010", "00280004"}
    colour = ENCODED[target].colour if kind == "rgb" else "MONOCHROME2"
    assert after["00280004"]["Value"] == [colour]
    back = transcode_dataset(there, target, raw.EXPLICIT)
    assert read(back, raw.EXPLICIT).PixelData == b"".join(frame.tobytes() for frame in frames)
    assert scanner.scan(memoryview(back), raw.EXPLICIT).metadata == before


def precision(codestream: bytes) -> int:
    """Bits of a sample as the codestream itself says."""
    siz = codestream.find(b"\xff\x4f\xff\x51")
    if siz >= 0:
        return (codestream[siz + 42] & 0x7F) + 1
    at = 2
    while codestream[at + 1] not in (0xC0, 0xC1, 0xC3, 0xF7):
        at += 2 + struct.unpack_from(">H", codestream, at + 2)[0]
    return codestream[at + 4]


@pytest.mark.parametrize(
    "target", [ts for ts in LOSSLESS if ts[18:] in ("4.201", "4.202", "4.90", "4.80", "4.70", "4.57")]
)
@pytest.mark.parametrize(("kind", "bits"), [("u8", 8), ("u12", 12), ("s12", 12), ("u16", 16)])
def test_codestreams_state_bits_stored(kind: str, bits: int, target: str) -> None:
    frame, attributes = codestreams.pixels(kind, 33, 20)
    info = PixelInfo(raw.EXPLICIT, 33, 20, bits_allocated=attributes["BitsAllocated"], bits_stored=bits,
                     high_bit=bits - 1, signed=bool(attributes["PixelRepresentation"]))  # fmt: skip
    assert precision(transcoded_frame(frame.tobytes(), info, target)) == bits


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", [codestreams.RLE, codestreams.JPEG_LS, codestreams.J2K, codestreams.HTJ2K])
def test_pydicom_reads_it(target: str, kind: str) -> None:
    frames, data = source(kind)
    ds = read(transcode_dataset(data, raw.EXPLICIT, target), target)
    if target == codestreams.HTJ2K:  # pydicom has no decoder for it here: OpenJPEG reads it as JPEG 2000
        ds.file_meta.TransferSyntaxUID = codestreams.J2K
    np.testing.assert_array_equal(pixel_array(ds, raw=True), np.stack(frames))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", list(READERS))
def test_strangers_read_it(target: str, kind: str, tmp_path: Path) -> None:
    """DCMTK's and GDCM's decoders give back what we encoded."""
    command = READERS[target]
    if target == codestreams.BASELINE and kind not in ("u8", "rgb"):
        return
    if command[0] == "gdcmconv" and kind == "s12":
        return  # GDCM extends no signs of less than the bits allocated
    assert shutil.which(command[0]), f"{command[0]} is missing: install dcmtk and libgdcm-tools"
    frames, data = source(kind, 1)
    coded = tmp_path / "coded.dcm"
    body = transcode_dataset(data, raw.EXPLICIT, target)
    uid = lossy.retrieved_uid(str(read(data, raw.EXPLICIT).SOPInstanceUID), raw.EXPLICIT, target)
    coded.write_bytes(part10.header("1.2.840.10008.5.1.4.1.1.2", uid, target) + body)
    plain = tmp_path / "plain.dcm"
    subprocess.run([*command, str(coded), str(plain)], check=True, capture_output=True, timeout=60)
    ds = dcmread(plain)
    theirs = ds.pixel_array
    if ds.get("PlanarConfiguration") == 1 and theirs.shape[0] == 3:
        theirs = theirs.transpose(1, 2, 0)
    if ENCODED[target].lossy:
        smooth = (
            np.abs(theirs.astype(int) - frames[0])[..., :2] if kind == "rgb" else np.abs(theirs.astype(int) - frames[0])
        )
        assert np.median(smooth) <= 3
    else:
        np.testing.assert_array_equal(theirs, frames[0])


@pytest.mark.parametrize("target", LOSSY)
@pytest.mark.parametrize("kind", ["u8", "u12", "u16"])
def test_lossy_comes_close_and_says_so(kind: str, target: str) -> None:
    frames, data = source(kind)
    bits = {"u8": 8, "u12": 12, "u16": 16}[kind]
    if bits > ENCODED[target].bits[1]:
        with pytest.raises(UnsupportedTransferSyntax):
            transcode_dataset(data, raw.EXPLICIT, target)
        return
    before = read(data, raw.EXPLICIT)
    there = transcode_dataset(data, raw.EXPLICIT, target)
    ds = read(there, target)
    uid = str(before.SOPInstanceUID)
    assert ds.SOPInstanceUID == lossy.retrieved_uid(uid, raw.EXPLICIT, target) != uid
    assert there == transcode_dataset(data, raw.EXPLICIT, target)
    assert (ds.LossyImageCompression, ds.LossyImageCompressionMethod) == ("01", ENCODED[target].method)
    assert ds.LossyImageCompressionRatio > 1
    assert ds.ImageType == ["DERIVED", "PRIMARY", "AXIAL"]
    assert ds.SourceImageSequence[0].ReferencedSOPInstanceUID == uid
    assert ds.SourceImageSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == "121320"
    assert ds.DerivationCodeSequence[0].CodeValue == "113040"
    assert (ds.StudyInstanceUID, ds.PatientName) == (before.StudyInstanceUID, before.PatientName)
    back = pixel_array(read(transcode_dataset(there, target, raw.EXPLICIT), raw.EXPLICIT), raw=True).astype(int)
    assert np.abs(back - np.stack(frames)).max() <= max(2, 0.006 * (1 << bits))
    # Compressed once more, both compressions are told.
    again = codestreams.NEAR if target != codestreams.NEAR else codestreams.J2K_LOSSY
    twice = read(transcode_dataset(there, target, again), again)
    assert twice.LossyImageCompressionMethod == [ENCODED[target].method, ENCODED[again].method]
    assert len(twice.LossyImageCompressionRatio) == 2
    assert twice.SourceImageSequence[0].ReferencedSOPInstanceUID == uid


def test_lossless_keeps_the_identity() -> None:
    assert lossy.retrieved_uid("1.2.3", raw.EXPLICIT, codestreams.HTJ2K) == "1.2.3"
    assert lossy.retrieved_uid("1.2.3", codestreams.BASELINE, codestreams.BASELINE) == "1.2.3"


@pytest.mark.parametrize("target", LOSSY)
def test_lossy_leaves_signs_and_palettes_alone(target: str) -> None:
    for kind, more in (("s12", {}), ("u8", {"PhotometricInterpretation": "PALETTE COLOR"})):
        with pytest.raises(UnsupportedTransferSyntax) as caught:
            transcode_dataset(source(kind, 1, **more)[1], raw.EXPLICIT, target)
        assert caught.value.about == target


@pytest.mark.parametrize("colour", ["RGB", "YBR_FULL"])
@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("target", list(ENCODED))
def test_colour_planes_and_spaces(target: str, planar: int, colour: str) -> None:
    frame, attributes = codestreams.pixels("rgb", 64, 48)
    frame[..., 2] = frame[..., 0]  # smooth: what subsampling cannot change much
    attributes |= {"PhotometricInterpretation": colour}
    whole = codestreams.dataset([frame], attributes, raw.EXPLICIT)
    if planar:
        attributes["PlanarConfiguration"] = 1
        planes = np.ascontiguousarray(frame.transpose(2, 0, 1))
        whole = codestreams.dataset([planes], attributes, raw.EXPLICIT, Rows=64, Columns=48)
    there = transcode_dataset(whole, raw.EXPLICIT, target)
    metadata = scanner.scan(memoryview(there), target).metadata
    assert metadata["00280006"]["Value"] == [planar if ENCODED[target].raw else 0]

    def shown(data: bytes, ts: str) -> np.ndarray[Any, Any]:
        scan = scanner.scan(memoryview(data), ts)
        assert scan.frames is not None
        stored = b"".join(data[at : at + length] for at, length in scan.frames.spans(1))
        return decode_frame(stored, PixelInfo.from_metadata(scan.metadata, ts)).astype(int)

    error = np.abs(shown(there, target) - shown(whole, raw.EXPLICIT))
    # Where chroma is halved, colours that exist in YBR alone come back clipped.
    assert (np.median(error) <= 3) if ENCODED[target].lossy else (error == 0).all()


def test_a_bit_a_pixel() -> None:
    """One-bit frames that do not end on a byte, deflated one by one and joined again without a gap (PS3.5 8.1.1)."""
    masks = np.random.default_rng(1).integers(0, 2, (3, 5, 5), np.uint8)
    packed = np.packbits(masks.ravel(), bitorder="little").tobytes()
    first, attributes = codestreams.pixels("u8", 5, 5)
    ds = read(codestreams.dataset([first], attributes, raw.EXPLICIT), raw.EXPLICIT)
    ds.BitsAllocated = ds.BitsStored = 1
    ds.HighBit, ds.NumberOfFrames = 0, 3
    ds.PixelData = packed + b"\0" * (len(packed) % 2)
    data = codestreams.written(ds, raw.EXPLICIT)
    for target in (codestreams.DEFLATED_FRAME, codestreams.UNCOMPRESSED):
        there = transcode_dataset(data, raw.EXPLICIT, target)
        back = read(transcode_dataset(there, target, raw.EXPLICIT), raw.EXPLICIT)
        assert back.PixelData == ds.PixelData
    with pytest.raises(UnsupportedTransferSyntax):
        transcode_dataset(data, raw.EXPLICIT, codestreams.RLE)


def test_what_does_not_fit() -> None:
    _, data = source("u16", 1)
    ds = read(data, raw.EXPLICIT)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 32, 32, 31
    ds.PixelData = np.arange(70 * 52, dtype="<u4").tobytes()
    wide = codestreams.written(ds, raw.EXPLICIT)
    with pytest.raises(UnsupportedTransferSyntax):
        transcode_dataset(wide, raw.EXPLICIT, codestreams.JPEG_LS)
    rle = transcode_dataset(wide, raw.EXPLICIT, codestreams.RLE)
    assert read(transcode_dataset(rle, codestreams.RLE, raw.EXPLICIT), raw.EXPLICIT).PixelData == ds.PixelData
    text = (
        raw.implicit(0x00080018, b"1.2.3.4\0")
        + raw.implicit(0x0020000D, b"1.2.3\0")
        + raw.implicit(0x0020000E, b"1.2\0")
    )
    with pytest.raises(UnsupportedTransferSyntax):
        transcode_dataset(raw.implicit(0x00080016, b"1.2\0") + text, raw.IMPLICIT, codestreams.HTJ2K)


def test_overlays_in_unused_bits_are_not_lost() -> None:
    frame, attributes = codestreams.pixels("u12", 8, 8)
    marked = frame | 0x8000
    data = codestreams.dataset([marked], attributes, raw.EXPLICIT)
    ds = read(data, raw.EXPLICIT)
    ds.add_new(0x60000010, "US", 8)
    ds.add_new(0x60000100, "US", 16)
    ds.add_new(0x60000102, "US", 15)
    data = codestreams.written(ds, raw.EXPLICIT)
    with pytest.raises(UnsupportedTransferSyntax, match="overlay"):
        transcode_dataset(data, raw.EXPLICIT, codestreams.J2K)
    for target in (codestreams.UNCOMPRESSED, codestreams.DEFLATED_FRAME):
        there = transcode_dataset(data, raw.EXPLICIT, target)
        stored = read(transcode_dataset(there, target, raw.EXPLICIT), raw.EXPLICIT)
        assert stored.PixelData[:2] == marked.tobytes()[:2]


def test_offset_tables_name_every_frame() -> None:
    _, data = source("u12", 3)
    there = transcode_dataset(data, raw.EXPLICIT, codestreams.JPEG_LS)
    scan = scanner.scan(memoryview(there), codestreams.JPEG_LS)
    assert scan.frames is not None
    starts = [scan.frames.spans(number)[0][0] for number in (1, 2, 3)]
    at = there.index(b"\xfe\xff\x00\xe0", there.index(b"\xe0\x7f\x10\x00"))
    assert struct.unpack_from("<I", there, at + 4) == (12,)
    assert [offset + starts[0] for offset in struct.unpack_from("<3I", there, at + 8)] == starts


def test_deflated_data_sets() -> None:
    _, data = source("u12")
    packed = transcode_dataset(data, raw.EXPLICIT, raw.DEFLATED)
    assert len(packed) % 2 == 0
    assert len(packed) < len(data)
    assert transcode_dataset(packed, raw.DEFLATED, raw.EXPLICIT) == data
    assert read(packed, raw.DEFLATED).PixelData == read(data, raw.EXPLICIT).PixelData
    assert set(TARGETS) >= {raw.EXPLICIT, raw.DEFLATED, raw.IMPLICIT, *ENCODED}
