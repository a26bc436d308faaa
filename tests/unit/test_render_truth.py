"""Rendering details that files seldom have: overlays, supplemental palettes, presentation tables, animated pictures."""

from __future__ import annotations

import io
import shutil
import subprocess
from binascii import b2a_base64
from typing import Any

import numpy as np
import pytest
import raw_dicom as raw
from PIL import Image

from pacs.dicom import labels, part10, pictures, planes, report, scanner, viewport
from pacs.dicom.decode import PixelInfo, decode_frame
from pacs.dicom.lookup import table
from pacs.dicom.render import Extras, pixels, relevant, render
from pacs.dicom.viewport import Placement
from pacs.errors import ArchiveError, InvalidInput

Entry = dict[str, Any]
INFO = PixelInfo(raw.EXPLICIT, 16, 16, bits_stored=12, high_bit=11)
RAMP = (np.arange(256, dtype=np.uint16) * 16).reshape(16, 16)
WINDOW = (2048, 4096, "linear-exact")


def us(*values: int) -> Entry:
    return {"vr": "US", "Value": list(values)}


def cs(value: str) -> Entry:
    return {"vr": "CS", "Value": [value]}


def sequence(item: dict[str, Any]) -> Entry:
    return {"vr": "SQ", "Value": [item]}


def words(values: np.ndarray[Any, Any]) -> Entry:
    return {"vr": "OW", "InlineBinary": b2a_base64(values.astype("<u2").tobytes(), newline=False).decode()}


def packed(mask: np.ndarray[Any, Any]) -> Entry:
    raw_bits = np.packbits(mask.ravel().astype(np.uint8), bitorder="little").tobytes()
    return {"vr": "OW", "InlineBinary": b2a_base64(raw_bits, newline=False).decode()}


def png(frame: np.ndarray[Any, Any], info: PixelInfo, metadata: Entry, **how: Any) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(render(frame, info, metadata, media_type="image/png", **how))))


@pytest.mark.parametrize(("position", "order"), [(15, "<"), (12, "<"), (13, ">")])
def test_overlays_in_unused_bits(position: int, order: str) -> None:
    mask = np.zeros((16, 16), bool)
    mask[3:6, 2:9] = True
    syntax = raw.EXPLICIT if order == "<" else raw.BIG
    info = PixelInfo(syntax, 16, 16, bits_stored=12, high_bit=11)
    stored = (RAMP | mask.astype(np.uint16) << position).astype(f"{order}u2").tobytes()
    metadata = {"60020010": us(16), "60020011": us(16), "60020100": us(16), "60020102": us(position)}
    frame = decode_frame(stored, info)
    np.testing.assert_array_equal(frame, RAMP)
    shown = png(frame, info, metadata, window=WINDOW, stored=stored)
    plain = png(frame, info, {}, window=WINDOW)
    assert (shown[mask] == 255).all()
    np.testing.assert_array_equal(shown[~mask], plain[~mask])
    np.testing.assert_array_equal(
        png(frame, info, metadata, window=WINDOW, stored=stored, extras=Extras(overlays=False)), plain
    )
    # A bit of the value is no overlay, whatever a data set says.
    lying = metadata | {"60020102": us(5)}
    np.testing.assert_array_equal(png(frame, info, lying, window=WINDOW, stored=stored), plain)


@pytest.mark.parametrize(("origin", "rows", "columns"), [((1, 1), 16, 16), ((5, 9), 7, 5), ((-2, 12), 9, 9)])
def test_overlays_begin_where_they_say(origin: tuple[int, int], rows: int, columns: int) -> None:
    mask = np.random.default_rng(1).integers(0, 2, (3, rows, columns)).astype(bool)
    metadata = {
        "60000010": us(rows), "60000011": us(columns), "60000050": {"vr": "SS", "Value": list(origin)},
        "60000015": us(3), "60000051": us(2), "60003000": packed(mask),
    }  # fmt: skip
    for number in range(1, 6):
        expected = np.zeros((16, 16), bool)
        if 2 <= number <= 4:
            for row in range(rows):
                for column in range(columns):
                    y, x = row + origin[0] - 1, column + origin[1] - 1
                    if 0 <= y < 16 and 0 <= x < 16:
                        expected[y, x] = mask[number - 2, row, column]
        found = planes.drawn(metadata, INFO, number, None)
        assert (np.zeros((16, 16), bool) if found is None else found).tolist() == expected.tolist()
    short = metadata | {"60003000": packed(mask[:1])}
    assert planes.drawn(short, INFO, 4, None) is None


def test_supplemental_palettes_colour_the_upper_values() -> None:
    palette = np.random.default_rng(2).integers(0, 65536, (3, 96))
    metadata: Entry = {"00089205": cs("COLOR")}
    for place, entries in enumerate(palette, 1):
        metadata |= {f"0028110{place}": us(96, 4000, 16), f"0028120{place}": words(entries)}
    frame = RAMP.copy()
    frame[0] = np.arange(4000, 4096, 6)
    shown = pixels(frame, INFO, metadata, window=WINDOW)
    np.testing.assert_array_equal(shown[0], (palette[:, ::6] >> 8).T)
    gray = np.rint(np.clip((frame[1:15] - 2048.0) / 4096 + 0.5, 0, 1) * 255)
    np.testing.assert_array_equal(shown[1:15], np.repeat(gray[:, :, None], 3, 2))
    without = {tag: entry for tag, entry in metadata.items() if tag != "00089205"}
    assert pixels(frame, INFO, without, window=WINDOW).ndim == 2


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("entries", [256, 4096])
def test_presentation_tables(entries: int, bits: int) -> None:
    """Input is what the VOI step gives, spread over the entries; output is scaled to the display (PS3.3 C.11.6.1)."""
    curve = np.rint(np.linspace(0, 1, entries) ** 2 * ((1 << bits) - 1)).astype(int)
    metadata = {"20500010": sequence({"00283002": us(entries, 0, bits), "00283006": words(curve)})}
    fraction = RAMP.astype(float) / 4096
    expected = curve[np.rint(fraction * (entries - 1)).astype(int)] / ((1 << bits) - 1) * 255
    assert np.abs(pixels(RAMP, INFO, metadata, window=WINDOW) - expected).max() <= 0.5 + 1e-9


def test_signed_values_take_the_same_table() -> None:
    for bits in (8, 12, 16):
        low = -(1 << (bits - 1))
        kind = np.int8 if bits == 8 else np.int16
        values = np.linspace(low, -low - 1, 256).astype(kind).reshape(16, 16)
        info = PixelInfo(
            raw.EXPLICIT,
            16,
            16,
            bits_allocated=8 if bits == 8 else 16,
            bits_stored=bits,
            high_bit=bits - 1,
            signed=True,
        )
        expected = np.clip((values.astype(float) / 2 + 3) / 100 + 0.5, 0, 1) * 255
        rescale = {"00281053": {"vr": "DS", "Value": [0.5]}, "00281052": {"vr": "DS", "Value": [3]}}
        assert np.abs(pixels(values, info, rescale, window=(0, 100, "linear-exact")) - expected).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("bits", "offset", "narrow"), [(16, 6, False), (16, 3, False), (8, 3, True), (8, 6, False), (12, 6, False)]
)
def test_segmented_palettes_of_every_kind(bits: int, offset: int, narrow: bool) -> None:
    """PS3.3 C.7.9.2: a linear segment goes on from the last value, an indirect one names a byte offset.

    Some writers count entries instead of bytes, and some store segments of 8-bit entries as words.
    """
    start = [0, 1, 7, 1, 5, 57, 0, 2, 3, 4, 2, 2]
    if narrow:
        raw_bytes = bytes([*start, offset, 0, 0, 0])
        data = np.frombuffer(raw_bytes, "<u2")
    else:
        data = np.array([*start, offset, 0])
    lut = table({"a": us(15, 0, bits), "s": words(data)}, "a", "d", "s")
    assert lut is not None
    copied = [4 + round(step * 53 / 5) for step in range(1, 6)] + [3, 4]
    assert lut.entries.tolist() == [7, 17, 27, 37, 47, 57, 3, 4, *copied]


def test_cached_tables_do_not_mix_images_up() -> None:
    for slope in (1, 2, 3):
        for photometric in ("MONOCHROME2", "MONOCHROME1"):
            info = PixelInfo(raw.EXPLICIT, 16, 16, bits_stored=12, high_bit=11, photometric=photometric)
            metadata = {"00281053": {"vr": "DS", "Value": [slope]}, "00281052": {"vr": "DS", "Value": [0]}}
            expected = np.clip(RAMP.astype(float) * slope / 4096, 0, 1) * 255
            expected = 255 - expected if photometric == "MONOCHROME1" else expected
            assert np.abs(pixels(RAMP, info, metadata, window=WINDOW) - expected).max() <= 0.5 + 1e-9


def test_animations_keep_grey_levels() -> None:
    frames = [np.full((8, 8), level, np.uint8) for level in (0, 100, 255)]
    image = Image.open(io.BytesIO(pictures.animation_of([pictures.encoded(f, pictures.RAW) for f in frames], 40)))
    seen = []
    for number in range(3):
        image.seek(number)
        seen.append((int(np.asarray(image.convert("L"))[3, 3]), image.info["duration"]))
    assert seen == [(0, 40), (100, 40), (255, 40)]
    for broken in (b"", b"12345", pictures.encoded(frames[0], pictures.RAW)[:-1]):
        with pytest.raises(InvalidInput):
            pictures.bare(broken)


def test_placements_follow_one_another() -> None:
    turned = Placement().then((1, 0, -10), (0, 1, -20)).then((0, -1, 64), (1, 0, 0)).then((2, 0, 0), (0, 2, 0))
    assert turned(10, 20) == (128, 0)
    assert turned(12, 25) == (2 * (64 - 5), 4)
    assert turned.scale == 2
    part = viewport.region(np.arange(12, dtype=np.uint8).reshape(3, 4), -1, 1, 2, 4)
    assert part.tolist() == [[0, 4, 5], [0, 8, 9], [0, 0, 0]]


def test_words_never_leave_the_picture() -> None:
    metadata = {
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Ångström^" + "x" * 300}]},
        "00100020": cs("ID\u0007"),
    }
    lines = labels.patient(metadata)
    assert lines[0].startswith("Ångström x")
    for size in ((8, 8), (40, 300), (300, 40)):
        shown = labels.burnt_in(np.zeros(size, np.uint8), lines, lines)
        assert shown.shape == size
    colour = labels.burnt_in(np.zeros((200, 200, 3), np.uint8), lines, [])
    assert colour.max() == 255
    assert (colour[..., 0] == colour[..., 1]).all()


def test_deep_and_empty_reports() -> None:
    deep: Entry = {"0040A040": cs("TEXT"), "0040A160": cs("bottom")}
    for _ in range(80):
        deep = {"0040A040": cs("CONTAINER"), "0040A730": sequence(deep)}
    page = report.html(deep).decode()
    assert page.count("<ul>") == page.count("</ul>") == report.MAX_DEPTH
    assert page.count("<li>") == page.count("</li>") == report.MAX_DEPTH
    assert report.plain({}).decode().startswith("Report")


def test_only_what_matters_travels() -> None:
    groups = [
        {"00289132": sequence({"00281050": cs("1")}), "00209113": sequence({"00200032": cs("x")})} for _ in range(3)
    ]
    metadata = {"52009230": {"vr": "SQ", "Value": groups}, "00100010": cs("name"), "60000010": us(3)}
    kept, number = relevant(metadata, 2)
    assert number == 1
    assert set(kept) == {"52009230", "60000010"}
    assert kept["52009230"]["Value"] == [{"00289132": groups[1]["00289132"]}]


@pytest.mark.filterwarnings("ignore")
def test_grey_levels_are_those_of_dcmtk() -> None:
    """pydicom's native grayscale files, their own first window or the frame's range: DCMTK cuts off where we round."""
    program = shutil.which("dcmj2pnm")
    assert program, "dcmj2pnm is missing: install dcmtk"
    compared, decoded = 0, {}
    for path in raw.bundled_files():
        whole = path.read_bytes()
        try:
            transfer_syntax_uid, offset = part10.split(memoryview(whole))
            scan = scanner.scan(memoryview(whole)[offset:], transfer_syntax_uid)
            info = PixelInfo.from_metadata(scan.metadata, transfer_syntax_uid)
        except ArchiveError:
            continue
        native = scan.frames is not None and info.syntax.codec == "native" and not info.syntax.deflated
        if not native or not info.photometric.startswith("MONOCHROME"):
            continue
        assert scan.frames is not None
        stored = b"".join(whole[offset + at : offset + at + length] for at, length in scan.frames.spans(1))
        frame = decode_frame(scan.frames.cut_bits(1, stored), info)
        decoded[path.name] = frame
        if info.bits_allocated == 32 and not info.syntax.little_endian:
            continue  # DCMTK swaps OW in pairs of bytes, however long the values are
        how = ["+Wi", "1"] if "00281050" in scan.metadata else ["+Wm"]
        theirs = subprocess.run([program, *how, "-O", str(path)], check=True, capture_output=True, timeout=60).stdout
        expected = np.asarray(Image.open(io.BytesIO(theirs))).astype(int)
        assert np.abs(pixels(frame, info, scan.metadata) - expected).max() <= 1, path.name
        compared += 1
    assert compared >= 30
    np.testing.assert_array_equal(decoded["rtdose_expb_1frame.dcm"], decoded["rtdose_1frame.dcm"])
