"""Colour spaces of pixel data turned into RGB (PS3.3 C.7.6.3.1.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pacs.dicom.late import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

_FULL = ((1.0, 0.0, 1.402), (1.0, -0.344136286, -0.714136286), (1.0, 1.772, 0.0))
_PARTIAL = (
    (1.164383562, 0.0, 1.596026786),
    (1.164383562, -0.391762290, -0.812967647),
    (1.164383562, 2.017232143, 0.0),
)
"""ITU-R BT.601 with the head and foot room of YBR_PARTIAL_422 (retired)."""


def rgb_from_ybr(array: Array, bits: int, partial: bool = False) -> Array:
    """RGB of array (rows, columns, 3) with Y, Cb, Cr in `bits` bits; same shape and dtype, rounded and clipped."""
    middle, top = float(1 << (bits - 1)), float((1 << bits) - 1)
    foot = 16.0 * (1 << (bits - 8)) if partial and bits >= 8 else 0.0
    shifted = array.astype(np.float32) - np.array([foot, middle, middle], np.float32)
    rgb = shifted @ np.array(_PARTIAL if partial else _FULL, np.float32).T
    clipped: Array = np.clip(np.rint(rgb), 0, top).astype(array.dtype)
    return clipped


def rgb_from_ybr_422(raw: npt.NDArray[np.uint8], rows: int, columns: int, partial: bool = False) -> Array:
    """RGB (rows, columns, 3) of native YBR_FULL_422: for each two pixels Y1, Y2, Cb, Cr, the chroma shared."""
    pairs = raw.reshape(rows, columns // 2, 4)
    full = np.empty((rows, columns, 3), np.uint8)
    full[:, 0::2, 0], full[:, 1::2, 0] = pairs[:, :, 0], pairs[:, :, 1]
    for channel in (1, 2):
        full[:, :, channel] = np.repeat(pairs[:, :, channel + 1], 2, axis=1)
    return rgb_from_ybr(full, 8, partial)
