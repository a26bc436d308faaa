"""Rendering against a float64 reference written straight from the standard, and against pydicom."""

from __future__ import annotations

import io
import math
from binascii import b2a_base64
from typing import Any

import imagecodecs
import numpy as np
import pytest
import raw_dicom as raw
from PIL import Image
from pydicom import dcmread
from pydicom.pixels import apply_color_lut, apply_voi_lut, pixel_array

from pacs.dicom import part10, render, scanner
from pacs.dicom.decode import PixelInfo, decode_frame
from pacs.dicom.render import Window
from pacs.errors import InvalidInput, Undecodable

Entry = dict[str, Any]


def ds(*values: float | int) -> Entry:
    return {"vr": "DS", "Value": list(values)}


def us(*values: int) -> Entry:
    return {"vr": "US", "Value": list(values)}


def cs(value: str) -> Entry:
    return {"vr": "CS", "Value": [value]}


def ow(values: np.ndarray[Any, Any]) -> Entry:
    return {"vr": "OW", "InlineBinary": b2a_base64(values.astype("<u2").tobytes(), newline=False).decode()}


RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)
INFO = PixelInfo(raw.EXPLICIT, 64, 64, bits_stored=12, high_bit=11)


def reference(x: float, center: float, width: float, function: str) -> float:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3 word by word, for one value, output 0 to 255."""
    if function == "sigmoid":
        return 255 / (1 + math.exp(min(700, -4 * (x - center) / width)))
    if function == "linear-exact":
        if x <= center - width / 2:
            return 0
        if x > center + width / 2:
            return 255
        return ((x - center) / width + 0.5) * 255
    if x <= center - 0.5 - (width - 1) / 2:
        return 0
    if x > center - 0.5 + (width - 1) / 2:
        return 255
    return ((x - (center - 0.5)) / (width - 1) + 0.5) * 255


def close(picture: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> None:
    assert picture.dtype == np.uint8
    assert np.abs(picture.astype(float) - expected).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("function", ["linear", "linear-exact", "sigmoid"])
@pytest.mark.parametrize(("center", "width"), [(40, 400), (1000.5, 1), (2048, 4096), (0, 2), (-500, 37.5)])
@pytest.mark.parametrize("signed", [False, True])
def test_windows_to_the_letter(function: str, center: float, width: float, signed: bool) -> None:
    frame = RAMP.astype(np.int16) - 2048 if signed else RAMP
    info = PixelInfo(raw.EXPLICIT, 64, 64, bits_stored=12, high_bit=11, signed=signed)
    metadata = {"00281053": ds(0.5), "00281052": ds(-100)}
    expected = np.vectorize(lambda x: reference(x * 0.5 - 100, center, width, function), otypes=[float])(frame)
    close(render.pixels(frame, info, metadata, window=(center, width, function)), expected)
    names = {"linear": "LINEAR", "linear-exact": "LINEAR_EXACT", "sigmoid": "SIGMOID"}
    stated = metadata | {"00281050": ds(center, 1), "00281051": ds(width, 1), "00281056": cs(names[function])}
    close(render.pixels(frame, info, stated), expected)


def test_monochrome1_and_inverse_turn_it_round() -> None:
    window = Window(2048, 4096)
    upright = render.pixels(RAMP, INFO, {}, window=window)
    for info, metadata in (
        (PixelInfo(raw.EXPLICIT, 64, 64, bits_stored=12, high_bit=11, photometric="MONOCHROME1"), {}),
        (INFO, {"20500020": cs("INVERSE")}),
    ):
        turned = render.pixels(RAMP, info, metadata, window=window)
        assert np.abs(turned.astype(int) + upright - 255).max() <= 1


def test_without_a_window_the_frame_fills_the_range() -> None:
    frame = RAMP // 8 + 100
    close(render.pixels(frame, INFO, {}), (frame - 100.0) / 511 * 255)
    # An impossible window counts as none.
    close(render.pixels(frame, INFO, {"00281050": ds(1), "00281051": ds(0)}), (frame - 100.0) / 511 * 255)
    assert not render.pixels(np.full_like(frame, 7), INFO, {}).any()


def test_padding_is_black_and_not_in_the_range() -> None:
    frame = RAMP % 512 + 1000
    frame[0, :5] = 4000
    frame[1, :5] = 3990
    metadata = {"00280120": us(4000), "00280121": us(3990)}
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        info = PixelInfo(raw.EXPLICIT, 64, 64, bits_stored=12, high_bit=11, photometric=photometric)
        picture = render.pixels(frame, info, metadata)
        assert not picture[:2, :5].any()
        expected = (frame[2:] - 1000.0) / 511 * 255
        close(picture[2:], 255 - expected if photometric == "MONOCHROME1" else expected)


def test_float_and_32_bit_frames() -> None:
    frame = np.linspace(-1, 3, 64 * 64, dtype=np.float32).reshape(64, 64)
    info = PixelInfo(raw.EXPLICIT, 64, 64, bits_allocated=32, bits_stored=32, high_bit=31, floating=True)
    close(render.pixels(frame, info, {}), (frame.astype(float) + 1) / 4 * 255)
    close(render.pixels(frame, info, {}, window=(1, 2, "linear-exact")), np.clip(frame.astype(float) / 2, 0, 1) * 255)
    frame[3, 3] = np.nan
    assert render.pixels(frame, info, {})[3, 3] == 0
    dose = (np.arange(64 * 64, dtype=np.uint32) * 1_000_000).reshape(64, 64)
    large = PixelInfo(raw.EXPLICIT, 64, 64, bits_allocated=32, bits_stored=32, high_bit=31)
    close(render.pixels(dose, large, {}), dose / dose.max() * 255)
    close(render.pixels(dose, large, {"00280120": us(0)})[1:], (dose[1:] - 1e6) / (dose.max() - 1e6) * 255)


def test_masks_show_one_as_white() -> None:
    info = PixelInfo(raw.EXPLICIT, 2, 2, bits_allocated=1, bits_stored=1, high_bit=0)
    mask = np.array([[1, 1], [1, 1]], np.uint8)
    assert (render.pixels(mask, info, {}) == 255).all()
    assert (render.pixels(mask * 0, info, {}) == 0).all()


def test_modality_and_voi_tables() -> None:
    modality = {"00283002": us(0, 0, 16), "00283006": ow(np.arange(65536)[::-1])}
    frame = np.array([[0, 65535], [100, 200]], np.uint16)
    info = PixelInfo(raw.EXPLICIT, 2, 2)
    metadata: dict[str, Any] = {
        "00283000": {"vr": "SQ", "Value": [modality]},
        "00281050": ds(32768),
        "00281051": ds(65536),
    }
    expected = np.vectorize(lambda x: reference(65535 - x, 32768, 65536, "linear"), otypes=[float])(frame)
    close(render.pixels(frame, info, metadata), expected)
    entries = np.array([0, 1023, 512, 5])
    voi = {"00283002": {"vr": "SS", "Value": [4, -1, 10]}, "00283006": us(*entries.tolist())}
    signed = PixelInfo(raw.EXPLICIT, 1, 6, signed=True)
    values = np.array([[-5, -1, 0, 1, 2, 9]], np.int16)
    picture = render.pixels(
        values, signed, {"00283010": {"vr": "SQ", "Value": [voi]}, "00281050": ds(1), "00281051": ds(9)}
    )
    close(picture, np.array([[0, 0, 1023, 512, 5, 5]]) / 1023 * 255)


def test_functional_groups_of_the_frame_rule() -> None:
    def group(center: float, slope: float) -> Entry:
        return {
            "00289132": {"vr": "SQ", "Value": [{"00281050": ds(center), "00281051": ds(256)}]},
            "00289145": {"vr": "SQ", "Value": [{"00281052": ds(10), "00281053": ds(slope)}]},
        }

    metadata = {
        "52009229": {"vr": "SQ", "Value": [group(500, 1)]},
        "52009230": {"vr": "SQ", "Value": [group(100, 2), {}]},
    }
    for number, center, slope in ((1, 100, 2), (2, 500, 1)):
        expected = np.vectorize(lambda x, c=center, s=slope: reference(x * s + 10, c, 256, "linear"), otypes=[float])(
            RAMP
        )
        close(render.pixels(RAMP, INFO, metadata, frame_number=number), expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "examples_overlay.dcm", "MR_small_jp2klossless.dcm"])
def test_grayscale_files_as_pydicom_windows_them(name: str) -> None:
    frame, info, metadata = loaded(name)
    theirs = dcmread(raw.bundled(name))
    arr = theirs.pixel_array.astype(np.float64)
    arr = arr * float(theirs.get("RescaleSlope", 1)) + float(theirs.get("RescaleIntercept", 0))
    if "WindowCenter" in theirs:
        theirs.BitsStored, theirs.PixelRepresentation = 8, 0  # what pydicom takes the output range from
        arr = apply_voi_lut(arr, theirs)
        arr = (arr - float(theirs.get("RescaleIntercept", 0))) / float(theirs.get("RescaleSlope", 1))
        expected = arr
    else:
        arr = arr[arr != theirs.PixelPaddingValue] if "PixelPaddingValue" in theirs else arr
        expected = None
    picture = render.pixels(frame, info, metadata)
    if expected is not None:
        assert np.abs(picture - expected).max() <= 1
    else:
        assert picture.max() == 255


def loaded(name: str) -> tuple[np.ndarray[Any, Any], PixelInfo, dict[str, Any]]:
    data = raw.bundled(name).read_bytes()
    transfer_syntax_uid, offset = part10.split(memoryview(data))
    scan = scanner.scan(memoryview(data)[offset:], transfer_syntax_uid)
    assert scan.frames is not None
    stored = b"".join(data[offset + at : offset + at + length] for at, length in scan.frames.spans(1))
    info = PixelInfo.from_metadata(scan.metadata, transfer_syntax_uid)
    return decode_frame(stored, info), info, scan.metadata


@pytest.mark.filterwarnings("ignore")
def test_palette_as_pydicom_colours_it() -> None:
    frame, info, metadata = loaded("examples_palette.dcm")
    ours = render.pixels(frame, info, metadata)
    theirs = dcmread(raw.bundled("examples_palette.dcm"))
    expected = apply_color_lut(theirs.pixel_array, theirs)
    np.testing.assert_array_equal(ours, expected >> 8 if expected.dtype == np.uint16 else expected)
    del metadata["00281202"]
    with pytest.raises(Undecodable):
        render.pixels(frame, info, metadata)


def test_segmented_palette() -> None:
    # Discrete 0, 10; linear over 4 to 50; then the first segment once more (PS3.3 C.7.9.2).
    segments = ow(np.array([0, 2, 0, 10, 1, 4, 50, 2, 1, 0, 0]))
    metadata: dict[str, Any] = {f"0028110{place}": us(8, 0, 8) for place in (1, 2, 3)}
    metadata |= {f"0028122{place}": segments for place in (1, 2, 3)}
    info = PixelInfo(raw.EXPLICIT, 1, 8, bits_allocated=8, bits_stored=8, high_bit=7, photometric="PALETTE COLOR")
    picture = render.pixels(np.arange(8, dtype=np.uint8).reshape(1, 8), info, metadata)
    assert picture[0, :, 0].tolist() == [0, 10, 20, 30, 40, 50, 0, 10]


@pytest.mark.filterwarnings("ignore")
def test_colour_goes_through() -> None:
    frame, info, metadata = loaded("examples_ybr_color.dcm")
    expected = pixel_array(raw.bundled("examples_ybr_color.dcm"), index=0)
    np.testing.assert_array_equal(render.pixels(frame, info, metadata), expected)
    deep = PixelInfo(raw.EXPLICIT, 1, 1, samples=3, photometric="RGB", bits_stored=16)
    assert render.pixels(np.array([[[65535, 256, 255]]], np.uint16), deep, {}).tolist() == [[[255, 1, 0]]]


def test_pictures_are_what_they_say() -> None:
    png = render.render(RAMP, INFO, {}, media_type="image/png")
    np.testing.assert_array_equal(imagecodecs.png_decode(png), render.pixels(RAMP, INFO, {}))
    sizes = []
    for quality in (10, 95):
        jpeg = render.render(RAMP, INFO, {}, quality=quality)
        image = Image.open(io.BytesIO(jpeg))
        assert (image.format, image.size, image.mode) == ("JPEG", (64, 64), "L")
        sizes.append(len(jpeg))
    assert sizes[0] < sizes[1]
    assert np.abs(np.asarray(image).astype(int) - render.pixels(RAMP, INFO, {})).max() <= 8
    colour = PixelInfo(raw.EXPLICIT, 8, 8, samples=3, photometric="RGB", bits_allocated=8, bits_stored=8, high_bit=7)
    jpeg = render.render(np.full((8, 8, 3), (200, 30, 90), np.uint8), colour, {})
    assert np.abs(np.asarray(Image.open(io.BytesIO(jpeg))).astype(int) - (200, 30, 90)).max() <= 4


@pytest.mark.parametrize(
    ("viewport", "size"),
    [((32, 32), (32, 16)), ((200, 50), (100, 50)), ((1, 1), (1, 1)), ((40, 20), (40, 20)),
     ((20, 20, 0, 0, 20, 20), (20, 20)), ((10, 10, 30, 10, 100, 100), (10, 10))],
)  # fmt: skip
def test_viewport_keeps_the_aspect_ratio(viewport: tuple[int, ...], size: tuple[int, int]) -> None:
    picture = np.zeros((20, 40), np.uint8)
    assert render.fitted(picture, viewport).shape == (size[1], size[0])


def test_viewport_cuts_and_mirrors() -> None:
    picture = np.arange(200, dtype=np.uint8).reshape(10, 20)
    np.testing.assert_array_equal(render.fitted(picture, (4, 3, 5, 2, 4, 3)), picture[2:5, 5:9])
    np.testing.assert_array_equal(render.fitted(picture, (4, 3, 5, 2, -4, -3)), picture[2:5, 5:9][::-1, ::-1])
    half = render.fitted(np.full((10, 20, 3), 77, np.uint8), (10, 10))
    assert half.shape == (5, 10, 3)
    assert (half == 77).all()


@pytest.mark.parametrize(
    "parameters",
    [
        {"quality": 0}, {"quality": 101}, {"media_type": "image/bmp"}, {"viewport": (0, 5)}, {"viewport": (5,)},
        {"viewport": (1 << 20, 5)}, {"viewport": (5, 5, 64, 0, 5, 5)}, {"viewport": (5, 5, 0, 0, 0, 5)},
        {"window": (1, 0.5, "linear")}, {"window": (1, 0, "sigmoid")}, {"window": (1, 2, "cubic")},
        {"window": (float("nan"), 2, "linear")}, {"window": (1, float("inf"), "linear")},
    ],
)  # fmt: skip
def test_parameters_out_of_range(parameters: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        render.render(RAMP, INFO, {}, **parameters)
