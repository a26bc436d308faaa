"""A frame as a picture for people: modality, VOI and presentation steps, viewport, JPEG or PNG (PS3.4 N.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import imagecodecs
import numpy as np
import numpy.typing as npt

from pacs.dicom import json_model
from pacs.dicom.decode import PixelInfo
from pacs.dicom.lookup import Metadata, Table, items, number, table
from pacs.errors import InvalidInput, Undecodable

Array = npt.NDArray[Any]
Gray = npt.NDArray[np.uint8]
VOIFunction = Literal["linear", "linear-exact", "sigmoid"]

MAX_VIEWPORT: Final = 16384
MEDIA_TYPES: Final = ("image/jpeg", "image/png")


@dataclass(frozen=True, slots=True)
class Window:
    """A VOI window over values after the modality step (PS3.3 C.11.2.1.2, C.11.2.1.3)."""

    center: float
    width: float
    function: VOIFunction = "linear"

    def valid(self) -> bool:
        """PS3.3 C.11.2.1.2: the width is at least 1 for linear, above 0 for the others."""
        finite = np.isfinite(self.center) and np.isfinite(self.width)
        return bool(finite and (self.width >= 1 if self.function == "linear" else self.width > 0))

    def __call__(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Values as fractions of the output range, 0 to 1."""
        center, width = self.center, self.width
        if self.function == "sigmoid":
            return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700))))
        if self.function == "linear":
            center, width = center - 0.5, width - 1
        if width == 0:
            return (values > center).astype(np.float64)
        return np.clip((values - center) / width + 0.5, 0, 1)


def render(
    frame: Array,
    info: PixelInfo,
    metadata: Metadata,
    *,
    frame_number: int = 1,
    window: Window | tuple[float, float, str] | None = None,
    viewport: Sequence[int] | None = None,
    quality: int = 90,
    media_type: str = "image/jpeg",
) -> bytes:
    """The picture of one decoded frame (as `decode_frame` gives it), in 8 bits a channel.

    `window` overrules what the data set asks for; `viewport` is (width, height) or (width, height, x, y, source width,
    source height) as PS3.18 8.3.5.1.3 has it: the aspect ratio is kept, a negative source extent mirrors. `quality` is
    1 to 100, for JPEG. Raises InvalidInput for parameters out of range.
    """
    if not 1 <= quality <= 100:
        raise InvalidInput("quality is not within 1 to 100 (PS3.18 8.3.5.1.2)")
    if media_type not in MEDIA_TYPES:
        raise InvalidInput(f"no pictures of type {media_type}")
    picture = pixels(frame, info, metadata, frame_number=frame_number, window=window)
    if viewport is not None:
        picture = fitted(picture, viewport)
    picture = np.ascontiguousarray(picture)
    if media_type == "image/png":
        return bytes(imagecodecs.png_encode(picture))
    return bytes(imagecodecs.jpeg8_encode(picture, quality))


def pixels(
    frame: Array,
    info: PixelInfo,
    metadata: Metadata,
    *,
    frame_number: int = 1,
    window: Window | tuple[float, float, str] | None = None,
) -> Gray:
    """The display values: uint8 (rows, columns) for grayscale, (rows, columns, 3) RGB for colour."""
    photometric = info.decoded().photometric
    if photometric == "PALETTE COLOR":
        return _palette(frame, metadata)
    if frame.ndim == 3:
        colour = frame[:, :, :3]
        if info.bits_stored > 8:
            colour = colour >> (info.bits_stored - 8)
        elif info.bits_stored < 8:
            colour = np.rint(colour.astype(np.float32) * (255 / ((1 << info.bits_stored) - 1)))
        return colour.astype(np.uint8)
    return _grayscale(frame, info, metadata, frame_number, photometric, _asked(window))


_RELEVANT: Final = frozenset(
    (
        *("00280004", "00280120", "00280121", "00281050", "00281051", "00281052", "00281053", "00281056", "20500020"),
        *("00283000", "00283010", "52009229"),
        *(f"0028{table}{place}" for table in ("110", "120", "122") for place in (1, 2, 3)),
    )
)


def relevant(metadata: Metadata, frame_number: int) -> tuple[dict[str, Any], int]:
    """The part of the metadata that the picture of one frame depends on, and the frame's number within that part."""
    wanted = {tag: metadata[tag] for tag in _RELEVANT & metadata.keys()}
    own = items(metadata, "52009230")[frame_number - 1 : frame_number] if frame_number >= 1 else []
    return wanted | ({"52009230": {"vr": "SQ", "Value": own}} if own else {}), 1


def _asked(window: Window | tuple[float, float, str] | None) -> Window | None:
    if window is None:
        return None
    if not isinstance(window, Window):
        center, width, function = window
        if function not in ("linear", "linear-exact", "sigmoid"):
            raise InvalidInput("window function is not linear, linear-exact or sigmoid (PS3.18 8.3.5.1.4)")
        window = Window(float(center), float(width), function)  # type: ignore[arg-type]
    if not window.valid():
        raise InvalidInput("window width is too small (PS3.3 C.11.2.1.2)")
    return window


def _grayscale(
    frame: Array, info: PixelInfo, metadata: Metadata, frame_number: int, photometric: str, window: Window | None
) -> Gray:
    groups = _functional_groups(metadata, frame_number)
    padding = _padding(frame, metadata)
    # Integers of up to 16 bits take their way through a table of all values: exact, and fast for large frames.
    small = frame.dtype.kind in "iu" and frame.dtype.itemsize <= 2
    low = int(np.iinfo(frame.dtype).min) if small else 0
    stored: Array = np.arange(low, int(np.iinfo(frame.dtype).max) + 1) if small else frame
    values = _modality(stored, metadata, groups)
    fractions = None if window is None else window(values)
    if fractions is None:
        fractions = _voi(values, metadata, groups)
    if fractions is None:
        shown = frame if padding is None else frame[~padding]
        if info.bits_stored == 1:
            shown = np.array([0, 1], frame.dtype)  # a mask of ones is white, not flat
        # The modality step of large and float frames was applied to the frame itself, that of others to the table.
        ends = values[shown.astype(np.intp) - low] if small else values[True if padding is None else ~padding]
        fractions = _full_range(values, ends)
    if photometric == "MONOCHROME1" or json_model.text(metadata, "20500020") == "INVERSE":
        fractions = 1 - fractions
    levels = np.rint(np.nan_to_num(fractions) * 255).astype(np.uint8)
    out: Gray = levels[frame.astype(np.intp) - low] if small else levels
    if padding is not None:
        out = np.where(padding, np.uint8(0), out)
    return out


def _functional_groups(metadata: Metadata, frame_number: int) -> list[Metadata]:
    """Where an enhanced object keeps what concerns this frame: its own group first, then the shared one."""
    per_frame = items(metadata, "52009230")
    own = per_frame[frame_number - 1 : frame_number] if frame_number >= 1 else []
    return [
        *own,
        *items(metadata, "52009229")[:1],
    ]


def _within(metadata: Metadata, groups: Sequence[Metadata], sequence: str) -> list[Metadata]:
    """The data sets that may hold an attribute: the functional group of that name, then the instance itself."""
    return [*(item for group in groups for item in items(group, sequence)[:1]), metadata]


def _modality(stored: Array, metadata: Metadata, groups: Sequence[Metadata]) -> npt.NDArray[np.float64]:
    """Stored values to those that a window is given in (PS3.3 C.11.1)."""
    for item in items(metadata, "00283000")[:1]:
        lut = table(item, "00283002", "00283006")
        if lut is not None:
            return lut(stored).astype(np.float64)
    values = stored.astype(np.float64)
    for place in _within(metadata, groups, "00289145"):
        slope, intercept = number(place, "00281053"), number(place, "00281052")
        if slope is not None or intercept is not None:
            return values * (1.0 if slope is None else slope) + (intercept or 0.0)
    return values


def _voi(
    values: npt.NDArray[np.float64], metadata: Metadata, groups: Sequence[Metadata]
) -> npt.NDArray[np.float64] | None:
    """What the data set itself asks for, as fractions: its VOI LUT, else its first window; None if it has neither."""
    for place in _within(metadata, groups, "00289132"):
        for item in items(place, "00283010")[:1]:
            lut: Table | None = table(item, "00283002", "00283006")
            if lut is not None:
                return lut(values).astype(np.float64) / ((1 << lut.bits) - 1)
        center, width = number(place, "00281050"), number(place, "00281051")
        if center is not None and width is not None:
            names: Mapping[str, VOIFunction] = {"SIGMOID": "sigmoid", "LINEAR_EXACT": "linear-exact"}
            window = Window(center, width, names.get(json_model.text(place, "00281056") or "", "linear"))
            if window.valid():
                return window(values)
    return None


def _full_range(values: npt.NDArray[np.float64], shown: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Black at the smallest of the values that are shown and white at the largest; all black if they are one."""
    finite = shown[np.isfinite(shown)]
    if finite.size == 0 or finite.min() == finite.max():
        return np.zeros_like(values)
    fractions: npt.NDArray[np.float64] = np.clip((values - finite.min()) / (finite.max() - finite.min()), 0, 1)
    return fractions


def _padding(frame: Array, metadata: Metadata) -> npt.NDArray[np.bool_] | None:
    """Where the frame is Pixel Padding Value, or within its range (PS3.3 C.7.5.1.1.2); None if nowhere."""
    value, limit = number(metadata, "00280120"), number(metadata, "00280121")
    if value is None:
        return None
    low, high = (value, value) if limit is None else sorted((value, limit))
    found = (frame >= low) & (frame <= high)
    return found if bool(found.any()) else None


def _palette(frame: Array, metadata: Metadata) -> Gray:
    """PS3.3 C.7.6.3.1.5 and 1.6: each index to its red, green and blue, the upper 8 bits of longer entries."""
    channels = []
    for place in range(1, 4):
        lut = table(metadata, f"0028110{place}", f"0028120{place}", f"0028122{place}")
        if lut is None:
            raise Undecodable("palette is missing or not whole", about=f"0028120{place}")
        # Descriptors that say 16 bits over entries that never leave the lower 8 are a known mistake.
        wide = lut.bits > 8 and int(lut.entries.max()) > 255
        colours = lut(frame.astype(np.int64))
        channels.append((colours >> 8 if wide else colours & 0xFF).astype(np.uint8))
    return np.stack(channels, axis=-1)


def fitted(picture: Gray, viewport: Sequence[int]) -> Gray:
    """The picture, or the source region of it, scaled to fit within a viewport, its aspect ratio kept."""
    if len(viewport) not in (2, 6):
        raise InvalidInput("viewport has neither 2 nor 6 numbers (PS3.18 8.3.5.1.3)")
    width, height = viewport[0], viewport[1]
    if not (1 <= width <= MAX_VIEWPORT and 1 <= height <= MAX_VIEWPORT):
        raise InvalidInput(f"viewport is not within 1 to {MAX_VIEWPORT}")
    if len(viewport) == 6:
        x, y, source_width, source_height = viewport[2:]
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + abs(source_width), picture.shape[1]), min(y + abs(source_height), picture.shape[0])
        if right <= left or bottom <= top:
            raise InvalidInput("viewport region lies outside of the image")
        picture = picture[top:bottom, left:right]
        picture = picture[:, ::-1] if source_width < 0 else picture
        picture = picture[::-1] if source_height < 0 else picture
    rows, columns = picture.shape[:2]
    scale = min(width / columns, height / rows)
    size = max(1, min(width, round(columns * scale))), max(1, min(height, round(rows * scale)))
    if size == (columns, rows):
        return picture
    from PIL import Image

    method = Image.Resampling.BOX if scale <= 0.5 else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).resize(size, method))
