"""Overlay planes: the graphics that an image carries in groups 60xx (PS3.3 C.9.2, PS3.5 8.1.2)."""

from __future__ import annotations

from binascii import a2b_base64
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from pacs.dicom.decode import PixelInfo
from pacs.dicom.late import numpy as np
from pacs.dicom.lookup import Metadata, number, values

if TYPE_CHECKING:
    import numpy.typing as npt

    Mask = npt.NDArray[np.bool_]

GROUPS: Final = tuple(f"{group:04X}" for group in range(0x6000, 0x6020, 2))
"""Sixteen planes at most (PS3.5 7.6)."""
MAX_PIXELS: Final = 1 << 25


def tags(metadata: Metadata) -> list[str]:
    """The attributes of overlay planes that there are."""
    return [tag for tag in metadata if tag[:4] in GROUPS]


def drawn(metadata: Metadata, info: PixelInfo, frame_number: int, stored: bytes | None) -> Mask | None:
    """Where the overlays of one frame are, (rows, columns) of the image; None where it has none.

    `stored` are the frame's native bytes, where there are any, for planes of the old kind in unused bits of the pixels.
    Planes that make no sense are left out: an image is worth more than its overlay.
    """
    found: Mask | None = None
    for group in GROUPS:
        if f"{group}0100" not in metadata and f"{group}3000" not in metadata:
            continue
        plane = _own(metadata, group, frame_number) if f"{group}3000" in metadata else _embedded(
            metadata, group, info, stored
        )  # fmt: skip
        for mask, top, left in plane:
            found = np.zeros((info.rows, info.columns), bool) if found is None else found
            _put(found, mask, top, left)
    return found


def _own(metadata: Metadata, group: str, frame_number: int) -> Iterator[tuple[Mask, int, int]]:
    rows, columns = (int(number(metadata, group + element) or 0) for element in ("0010", "0011"))
    frames = int(number(metadata, group + "0015") or 1)
    first = int(number(metadata, group + "0051") or 1)
    # One plane without a place among the frames belongs to all of them.
    index = 0 if group + "0015" not in metadata else frame_number - first
    entry: Any = metadata.get(group + "3000")
    if not (0 < rows * columns <= MAX_PIXELS and 0 <= index < frames) or "InlineBinary" not in entry:
        return
    bits = np.frombuffer(a2b_base64(entry["InlineBinary"]), np.uint8)
    start = index * rows * columns
    if len(bits) * 8 < start + rows * columns:
        return
    part = np.unpackbits(bits[start // 8 : (start + rows * columns + 7) // 8], bitorder="little")
    mask = part[start % 8 : start % 8 + rows * columns].reshape(rows, columns).astype(bool)
    yield mask, *_origin(metadata, group)


def _embedded(metadata: Metadata, group: str, info: PixelInfo, stored: bytes | None) -> Iterator[tuple[Mask, int, int]]:
    position = number(metadata, group + "0102")
    whole = info.bits_allocated in (8, 16) and info.samples == 1
    if stored is None or position is None or not whole or not 0 <= position < info.bits_allocated:
        return
    low = info.high_bit + 1 - info.bits_stored
    if low <= position <= info.high_bit:
        return  # a bit of the values
    order = "<" if info.syntax.little_endian else ">"
    words = np.frombuffer(stored, f"{order}u{info.bits_allocated // 8}", info.rows * info.columns)
    yield (words >> int(position) & 1).astype(bool).reshape(info.rows, info.columns), *_origin(metadata, group)


def _origin(metadata: Metadata, group: str) -> tuple[int, int]:
    """Row and column of the image, counted from 0, at which the plane begins."""
    origin = values(metadata, group + "0050")
    if len(origin) == 2 and all(isinstance(each, int) for each in origin):
        return origin[0] - 1, origin[1] - 1
    return 0, 0


def _put(onto: Mask, mask: Mask, top: int, left: int) -> None:
    bottom, right = min(top + mask.shape[0], onto.shape[0]), min(left + mask.shape[1], onto.shape[1])
    above, before = max(top, 0), max(left, 0)
    if bottom > above and right > before:
        onto[above:bottom, before:right] |= mask[above - top : bottom - top, before - left : right - left]
