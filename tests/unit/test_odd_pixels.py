"""Pixels that are legal and rare, or common and wrong: what is shown of them is right, or is refused."""

from __future__ import annotations

import io
from binascii import b2a_base64
from typing import Any

import numpy as np
import pytest
import raw_dicom as raw
from PIL import Image

from pacs.decoding import _decoded_and_rendered
from pacs.dicom import presentation
from pacs.dicom.decode import PixelInfo, decode_frame, decode_stored
from pacs.dicom.encode import ENCODED, RLE
from pacs.dicom.render import Extras, render
from pacs.dicom.transcode import explicit_le_frame, transcoded_frame
from pacs.errors import Undecodable, UnsupportedTransferSyntax

Entry = dict[str, Any]
JPEG_LS, J2K, HTJ2K = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201"
SERIES = np.arange(256)


def us(*values: int) -> Entry:
    return {"vr": "US", "Value": list(values)}


def ds(*values: float) -> Entry:
    return {"vr": "DS", "Value": list(values)}


def lut(first: int, bits: int, entries: np.ndarray[Any, Any]) -> Entry:
    data = b2a_base64(entries.astype("<u2").tobytes(), newline=False).decode()
    item = {"00283002": us(len(entries), first, bits), "00283006": {"vr": "OW", "InlineBinary": data}}
    return {"vr": "SQ", "Value": [item]}


def info(shape: tuple[int, ...], bits: int = 16, syntax: str = raw.EXPLICIT, **more: Any) -> PixelInfo:
    allocated = more.pop("bits_allocated", 8 if bits <= 8 else 16)
    attributes = {"bits_allocated": allocated, "bits_stored": bits, "high_bit": bits - 1} | more
    return PixelInfo(syntax, *shape, **attributes)


def png(frame: np.ndarray[Any, Any], metadata: Entry, **more: Any) -> list[int]:
    bits = frame.dtype.itemsize * 8
    about = info(frame.shape, bits, bits_allocated=bits, signed=frame.dtype.kind == "i", **more)
    return np.asarray(Image.open(io.BytesIO(render(frame, about, metadata, media_type="image/png")))).ravel().tolist()


@pytest.mark.parametrize(("high_bit", "signed"), [(11, False), (15, False), (13, True), (15, True)])
def test_rle_keeps_words_of_which_only_some_bits_are_values(high_bit: int, signed: bool) -> None:
    values = np.random.default_rng(3).integers(-2048 if signed else 0, 2048, (9, 7)).astype("i2" if signed else "u2")
    words = (values.view("u2") & 0xFFF) << (high_bit - 11)
    words |= ~np.uint16(0xFFF << (high_bit - 11))  # every other bit is set
    plain = info((9, 7), 12, high_bit=high_bit, signed=signed)
    packed = transcoded_frame(words.tobytes(), plain, RLE)
    told = info((9, 7), 12, RLE, high_bit=high_bit, signed=signed)
    np.testing.assert_array_equal(decode_frame(packed, told), values)
    assert explicit_le_frame(packed, told) == words.tobytes()
    for target in (JPEG_LS, J2K, HTJ2K):
        out = transcoded_frame(packed, told, target)
        np.testing.assert_array_equal(decode_frame(out, info((9, 7), 12, target, signed=signed)), values)


def test_overlays_in_unused_bits_of_rle_are_drawn() -> None:
    words = np.arange(64, dtype=np.uint16).reshape(8, 8)
    words[2, 3] |= 0x8000
    metadata = {"60000010": us(8), "60000011": us(8), "60000100": us(16), "60000102": us(15)}
    packed = transcoded_frame(words.tobytes(), info((8, 8), 12), RLE)
    how = {"media_type": "image/png", "window": (2048, 4096, "linear-exact")}
    shown = np.asarray(Image.open(io.BytesIO(_decoded_and_rendered(packed, info((8, 8), 12, RLE), metadata, how))))
    assert np.argwhere(shown == 255).tolist() == [[2, 3]]


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_table_entries_beyond_the_bits_of_the_descriptor(bits: int) -> None:
    shown = png(SERIES.astype(np.uint16).reshape(16, 16), {"00283010": lut(0, bits, SERIES * 16)})
    assert shown == [round(entry * 16 * 255 / 4095) for entry in range(256)]


@pytest.mark.parametrize(("kind", "low", "first"), [("i2", -128, 65408), ("i2", -128, -128), ("u2", 1000, 1000)])
@pytest.mark.parametrize("step", ["00283000", "00283010"])
def test_tables_that_do_not_begin_at_zero(kind: str, low: int, first: int, step: str) -> None:
    frame = (SERIES + low).astype(kind).reshape(16, 16)
    metadata = {step: lut(first, 16, SERIES * 257), "00281050": ds(32767.5), "00281051": ds(65535)}
    metadata["00281056"] = {"vr": "CS", "Value": ["LINEAR_EXACT"]}
    assert png(frame, metadata) == SERIES.tolist()


@pytest.mark.parametrize(
    ("kind", "far", "shown"), [("i2", 32767, 255), ("i2", -32768, 0), ("u2", 3, 0), ("u2", 65535, 255)]
)
def test_values_beyond_a_table_take_its_nearest_end(kind: str, far: int, shown: int) -> None:
    metadata = {"00283000": lut(-100 if kind == "i2" else 1000, 16, SERIES * 257)}
    metadata |= {"00281050": ds(32768), "00281051": ds(65536)}
    assert png(np.full((2, 2), far, kind), metadata) == [shown] * 4


def test_padding_of_signed_pixels_written_as_unsigned() -> None:
    frame = np.array([[-2000, -2000], [0, 1000]], np.int16)
    assert png(frame, {"00280120": us(63536)}) == [0, 0, 0, 255]
    assert png(np.array([[-2000, -1990], [0, 1000]], np.int16), {"00280120": us(63536), "00280121": us(63556)}) == [
        0, 0, 0, 255,
    ]  # fmt: skip


@pytest.mark.parametrize(("kind", "tags"), [("f4", ("00280122", "00280124")), ("f8", ("00280123", "00280125"))])
def test_padding_of_floating_point_pixels(kind: str, tags: tuple[str, str]) -> None:
    frame = np.array([[-3.4e38, -1e30], [0, 1]], kind)
    one, other = ({"vr": "FL", "Value": [float(value)]} for value in frame[0])
    assert png(frame, {tags[0]: one, tags[1]: other}, floating=True) == [0, 0, 0, 255]
    frame[0, 1] = 0.5
    assert png(frame, {tags[0]: one}, floating=True) == [0, 128, 0, 255]


@pytest.mark.parametrize("target", [each for each, encoder in ENCODED.items() if not encoder.raw])
def test_frames_that_are_cut_short_are_no_pictures(target: str) -> None:
    frame = np.random.default_rng(5).integers(0, 256, (48, 40)).astype(np.uint8)
    there = transcoded_frame(frame.tobytes(), info((48, 40), 8), target)
    about = info((48, 40), 8, target)
    whole = decode_stored(there, about)
    np.testing.assert_array_equal(decode_stored(there + b"\0", about), whole)
    for part in (0.4, 0.7, 0.95):
        with pytest.raises(Undecodable):
            decode_stored(there[: int(len(there) * part)], about)
    if target[-3:] in (".50", ".51", ".57", ".70", "201", "202", "203"):  # only the last marker is missing
        assert there.endswith(b"\xff\xd9")
        np.testing.assert_array_equal(decode_stored(there[:-2], about), whole)


@pytest.mark.parametrize("target", [each for each, encoder in ENCODED.items() if not encoder.lossy])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (3, 1)])
@pytest.mark.parametrize("colour", ["MONOCHROME2", "RGB", "YBR_FULL"])
def test_the_smallest_frames(target: str, shape: tuple[int, int], colour: str) -> None:
    samples = 1 if colour == "MONOCHROME2" else 3
    frame = np.random.default_rng(7).integers(0, 256, (*shape, samples)).astype(np.uint8)
    plain = info(shape, 8, samples=samples, photometric=colour)
    out = transcoded_frame(frame.tobytes(), plain, target)
    changed = ENCODED[target].colour if colour == "RGB" else colour
    back = decode_stored(out, info(shape, 8, target, samples=samples, photometric=changed))
    np.testing.assert_array_equal(back.ravel(), frame.ravel())


@pytest.mark.parametrize("target", [each for each, encoder in ENCODED.items() if not encoder.lossy])
@pytest.mark.parametrize(
    ("bits", "high_bit", "samples", "signed"),
    [(8, 7, 1, False), (8, 7, 1, True), (8, 15, 3, False), (16, 15, 3, False)],
)
def test_wide_words_of_few_values_and_colour(target: str, bits: int, high_bit: int, samples: int, signed: bool) -> None:
    words = np.random.default_rng(9).integers(0, 1 << bits, (6, 5, samples)).astype(np.uint16) << (high_bit + 1 - bits)
    more: Entry = {"samples": samples, "signed": signed, "bits_allocated": 16}
    more["photometric"] = "MONOCHROME2" if samples == 1 else "YBR_FULL"
    plain = info((6, 5), bits, high_bit=high_bit, **more)
    out = transcoded_frame(words.tobytes(), plain, target)
    about = info((6, 5), bits, target, high_bit=high_bit if ENCODED[target].raw else bits - 1, **more)
    np.testing.assert_array_equal(decode_stored(out, about), decode_stored(words.tobytes(), plain))


def test_a_frame_that_grows_is_refused_with_a_reason() -> None:
    with pytest.raises(UnsupportedTransferSyntax, match="grows"):
        transcoded_frame(b"\1\2", info((1, 1), 12), JPEG_LS)


@pytest.mark.parametrize("media_type", ["image/png", "image/jpeg"])
def test_presentation_states_carry_the_profile_that_was_asked_for(media_type: str) -> None:
    frame = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for asked, there in ((None, False), ("no", False), ("yes", True), ("srgb", True), ("displayp3", True)):
        picture = presentation.render(
            frame, info((8, 8), 8), {}, {}, sop_instance_uid="1.2", media_type=media_type,
            extras=Extras(iccprofile=asked),
        )  # fmt: skip
        assert ("icc_profile" in Image.open(io.BytesIO(picture)).info) is there
