"""Stored values to grey levels: modality, VOI and presentation steps as one table (PS3.4 N.2.1, PS3.3 C.11)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson

from pacs.dicom import json_model
from pacs.dicom.decode import PixelInfo
from pacs.dicom.late import numpy as np
from pacs.dicom.lookup import Metadata, Table, items, number, table, values
from pacs.errors import InvalidInput

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Gray = npt.NDArray[np.uint8]
    Floats = npt.NDArray[np.float64]

VOIFunction = Literal["linear", "linear-exact", "sigmoid"]

FUNCTIONS: Final[Mapping[str, VOIFunction]] = {
    "LINEAR": "linear",
    "LINEAR_EXACT": "linear-exact",
    "SIGMOID": "sigmoid",
}
_BLOCK: Final = 1 << 20
"""Pixels looked up at a time: an index takes 8 bytes a pixel."""


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

    def __call__(self, values: Floats) -> Floats:
        """Values as fractions of the output range, 0 to 1."""
        center, width = self.center, self.width
        if self.function == "sigmoid":
            return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700))))
        if self.function == "linear":
            center, width = center - 0.5, width - 1
        if width == 0:
            return (values > center).astype(np.float64)
        return np.clip((values - center) / width + 0.5, 0, 1)


def asked(window: Window | tuple[float, float, str] | None) -> Window | None:
    """The window that a request names. Raises InvalidInput for one that cannot be."""
    if window is None:
        return None
    if not isinstance(window, Window):
        center, width, function = window
        if function not in FUNCTIONS.values():
            raise InvalidInput("window function is not linear, linear-exact or sigmoid (PS3.18 8.3.5.1.4)")
        window = Window(float(center), float(width), function)  # type: ignore[arg-type]
    if not window.valid():
        raise InvalidInput("window width is too small (PS3.3 C.11.2.1.2)")
    return window


def levels(frame: Array, info: PixelInfo, metadata: Metadata, window: Window | None) -> Gray:
    """The grey levels of one decoded frame, 0 black to 255 white.

    `metadata` holds what `pacs.dicom.render.relevant` keeps of the instance for this frame. Without a window, neither
    asked for nor in the metadata, the frame's own smallest and largest value become black and white.
    """
    if frame.dtype.kind not in "iu" or frame.dtype.itemsize > 2:
        return _computed(frame, info, metadata, window)
    # Integers of up to 16 bits take their way through a table of all values: exact, and fast for large frames.
    ends = None
    if window is None and not _has_voi(metadata):
        ends = _ends(frame, info, metadata)
    found = _table(
        orjson.dumps(metadata, default=str, option=orjson.OPT_SORT_KEYS), info, frame.dtype.str, window, ends
    )
    return looked_up(found, frame)


def looked_up(levels: Gray, frame: Array) -> Gray:
    """The entry of a table for each element of an array of small integers; signs count as bits."""
    index = np.ascontiguousarray(frame).view(f"u{frame.dtype.itemsize}").reshape(-1)
    out = np.empty(index.shape, levels.dtype)
    for start in range(0, len(index), _BLOCK):
        levels.take(index[start : start + _BLOCK], out=out[start : start + _BLOCK], mode="wrap")  # none is beyond
    return out.reshape(frame.shape)


@lru_cache(maxsize=64)
def _table(
    document: bytes, info: PixelInfo, dtype: str, window: Window | None, ends: tuple[float, float] | None
) -> Gray:
    """The levels of all values of an integer type, in the order of their bit patterns."""
    kind = np.dtype(dtype)
    stored = np.arange(1 << (8 * kind.itemsize)).astype(f"u{kind.itemsize}").view(kind)
    metadata: Metadata = orjson.loads(document)
    shown = modality(stored, metadata)
    return _shown(shown, _padding(stored, metadata), info, metadata, window, ends)


def _computed(frame: Array, info: PixelInfo, metadata: Metadata, window: Window | None) -> Gray:
    shown = modality(frame, metadata)
    padding = _padding(frame, metadata)
    ends = None
    if window is None and not _has_voi(metadata):
        finite = shown[np.isfinite(shown) & (True if padding is None else ~padding)]
        ends = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    return _shown(shown, padding, info, metadata, window, ends)


def _shown(
    values: Floats,
    padding: npt.NDArray[np.bool_] | None,
    info: PixelInfo,
    metadata: Metadata,
    window: Window | None,
    ends: tuple[float, float] | None,
) -> Gray:
    fractions = window(values) if window is not None else voi(values, metadata)
    if fractions is None:
        fractions = _full_range(values, *(ends or (0.0, 0.0)))
    fractions = presentation(fractions, info, metadata)
    out: Gray = np.rint(np.nan_to_num(fractions) * 255).astype(np.uint8)
    if padding is not None:
        out = np.where(padding, np.uint8(0), out)
    return out


def groups(metadata: Metadata) -> list[Metadata]:
    """Where an enhanced object keeps what concerns this frame: its own group first, then the shared one."""
    return [*items(metadata, "52009230")[:1], *items(metadata, "52009229")[:1]]


def within(metadata: Metadata, sequence: str) -> list[Metadata]:
    """The data sets that may hold an attribute: the functional group of that name, then the instance itself."""
    return [*(item for group in groups(metadata) for item in items(group, sequence)[:1]), metadata]


def modality(stored: Array, metadata: Metadata) -> Floats:
    """Stored values to those that a window is given in (PS3.3 C.11.1)."""
    for item in items(metadata, "00283000")[:1]:
        lut = table(item, "00283002", "00283006")
        if lut is not None:
            return lut.beginning_within(stored)(stored).astype(np.float64)
    values = stored.astype(np.float64)
    for place in within(metadata, "00289145"):
        slope, intercept = number(place, "00281053"), number(place, "00281052")
        if slope is not None or intercept is not None:
            return values * (1.0 if slope is None else slope) + (intercept or 0.0)
    return values


def _voi_step(metadata: Metadata) -> Table | Window | None:
    """What the data set itself asks for: its VOI LUT, else its first window; None if it has neither."""
    for place in within(metadata, "00289132"):
        for item in items(place, "00283010")[:1]:
            lut = table(item, "00283002", "00283006")
            if lut is not None:
                return lut
        center, width = number(place, "00281050"), number(place, "00281051")
        if center is not None and width is not None:
            function = FUNCTIONS.get(json_model.text(place, "00281056") or "", "linear")
            window = Window(center, width, function)
            if window.valid():
                return window
    return None


def _has_voi(metadata: Metadata) -> bool:
    return _voi_step(metadata) is not None


def voi(values: Floats, metadata: Metadata) -> Floats | None:
    """Values after the data set's own VOI step as fractions, 0 to 1; None if it has none (PS3.3 C.11.2)."""
    step = _voi_step(metadata)
    if isinstance(step, Table):
        return step.beginning_within(values)(values).astype(np.float64) / step.top
    return None if step is None else step(values)


def presentation(fractions: Floats, info: PixelInfo, metadata: Metadata) -> Floats:
    """Fractions after the presentation step: MONOCHROME1, Presentation LUT Shape and Sequence (PS3.3 C.11.6)."""
    for item in items(metadata, "20500010")[:1]:
        lut = table(item, "00283002", "00283006")
        if lut is not None:
            # Its input is the whole range of what the VOI step gives, whatever that range is.
            index = np.rint(np.nan_to_num(fractions) * (len(lut.entries) - 1)) + lut.first
            return lut(index).astype(np.float64) / lut.top
    inverse = json_model.text(metadata, "20500020") == "INVERSE"
    return 1 - fractions if inverse or info.decoded().photometric == "MONOCHROME1" else fractions


def _ends(frame: Array, info: PixelInfo, metadata: Metadata) -> tuple[float, float]:
    """The smallest and largest of a frame's values after the modality step, padding left out."""
    if info.bits_stored == 1:
        frame = np.array([0, 1], frame.dtype)  # a mask of ones is white, not flat
    padding = _padding(frame, metadata)
    used = frame if padding is None else frame[~padding]
    if used.size == 0:
        return 0.0, 0.0
    ends = [used.min(), used.max()]
    if items(metadata, "00283000"):  # a table need not rise from one to the other
        ends = np.unique(used).tolist()
    through = modality(np.array(ends, frame.dtype), metadata)
    return float(through.min()), float(through.max())


def _full_range(values: Floats, low: float, high: float) -> Floats:
    """Black at the smallest of the values that are shown and white at the largest; all black if they are one."""
    if low == high:
        return np.zeros_like(values)
    fractions: Floats = np.clip((values - low) / (high - low), 0, 1)
    return fractions


_FLOAT_PADDING: Final = {4: ("00280122", "00280124"), 8: ("00280123", "00280125")}
"""Float and Double Float Pixel Padding Value and its Range Limit (PS3.3 C.7.6.24, C.7.6.25), by bytes a pixel."""


def _padding(frame: Array, metadata: Metadata) -> npt.NDArray[np.bool_] | None:
    """Where the frame is Pixel Padding Value, or within its range (PS3.3 C.7.5.1.1.2); None if nowhere."""
    tags = _FLOAT_PADDING[frame.dtype.itemsize] if frame.dtype.kind == "f" else ("00280120", "00280121")
    value, limit = (number(metadata, tag) for tag in tags)
    if value is None:
        return None
    low, high = (value, value) if limit is None else sorted((value, limit))
    if frame.dtype.kind == "f":
        low, high = (float(frame.dtype.type(end)) for end in (low, high))
    elif frame.dtype.kind == "i":  # Explicit VR files often have them as US, whatever the pixels are
        most = np.iinfo(frame.dtype).max
        low, high = sorted(end - 0x10000 if end > most else end for end in (low, high))
    found = (frame >= low) & (frame <= high)
    return found if bool(found.any()) else None


def supplemental(frame: Array, metadata: Metadata) -> npt.NDArray[np.bool_] | None:
    """Where a grey image has colour: values from the first one that its supplemental palette maps (PS3.3 C.7.6.19)."""
    first = values(metadata, "00281101")
    if len(first) != 3 or json_model.text(metadata, "00089205") not in ("COLOR", "MIXED"):
        return None
    found = frame >= first[1]
    return found if bool(found.any()) else None


_KEPT_OF_GROUPS: Final = ("00289132", "00289145")


def frame_groups(metadata: Metadata, frame_number: int) -> dict[str, Any]:
    """The functional groups that grey levels depend on, those of one frame as if it were the only one."""
    found: dict[str, Any] = {}
    per_frame = items(metadata, "52009230")
    chosen: Sequence[tuple[str, Sequence[Metadata]]] = (
        ("52009230", per_frame[frame_number - 1 : frame_number] if frame_number >= 1 else []),
        ("52009229", items(metadata, "52009229")[:1]),
    )
    for tag, own in chosen:
        kept = [{name: group[name] for name in _KEPT_OF_GROUPS if name in group} for group in own]
        if any(kept):
            found[tag] = {"vr": "SQ", "Value": kept}
    return found
