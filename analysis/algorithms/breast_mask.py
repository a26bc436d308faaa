"""Finds the breast in a projection mammogram: everything that is neither air, label, frame nor a stray bright line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MASK_SPACING_MM = 0.4
"""The mask is made at about this pixel size: the skin line needs no more, and it costs nothing."""

OPENING_MM = 2.5
"""Half the width of what is cut off the breast: view labels, film frames, a detector's bright edge line."""

FRAME_FRACTION = 0.12
"""A film frame reaches at most this far into the image."""


@dataclass(frozen=True)
class Breast:
    """Where the breast is.

    mask: boolean at the reduced size, each element covering `factor` x `factor` pixels. edge_mm: float32 of the same
    shape, distance in mm to the nearest place outside the breast or outside the image. box: (row start, row stop,
    column start, column stop) in pixels of the full image, aligned to `factor`. area_mm2: size of the breast.
    """

    mask: Any
    edge_mm: Any
    factor: int
    box: tuple[int, int, int, int]
    area_mm2: float


def block_mean(image: Any, factor: int, xp: Any) -> Any:
    """`image` averaged over factor x factor blocks, float32; rows and columns that fill no block are dropped."""
    if factor == 1:
        return image.astype(xp.float32)
    rows, columns = image.shape[0] // factor, image.shape[1] // factor
    blocks = image[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
    return blocks.mean(axis=(1, 3), dtype=xp.float32)


def otsu(values: Any, xp: Any, bins: int = 256) -> float:
    """The threshold that separates `values` best into two classes of least variance within (Otsu 1979)."""
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return low
    counts, edges = xp.histogram(values, bins=bins, range=(low, high))
    weights = counts.astype(xp.float64)
    centres = 0.5 * (edges[:-1] + edges[1:])
    below = xp.cumsum(weights)
    above = below[-1] - below
    first = xp.cumsum(weights * centres)
    mean_below = first / xp.maximum(below, 1)
    mean_above = (first[-1] - first) / xp.maximum(above, 1)
    between = below * above * (mean_below - mean_above) ** 2
    return float(edges[int(xp.argmax(between)) + 1])


def _inside_frame(small: Any, xp: Any) -> tuple[int, int, int, int]:
    """The part of a film that is not covered by a bright frame: lines along a border that are bright all along.

    A pectoral muscle can be bright at the chest wall, but never over three quarters of a whole line.
    """
    bright = small > float(small.min()) + 0.92 * (float(small.max()) - float(small.min()))
    rows, columns = small.shape
    by_row, by_column = bright.mean(axis=1), bright.mean(axis=0)

    def depth(fractions: Any) -> int:
        reach = int(fractions.size * FRAME_FRACTION)
        lines = xp.nonzero(fractions[:reach] > 0.6)[0]
        # What is still bright at the full reach is tissue at the chest wall, not a frame.
        ends = lines.size and int(lines[-1]) < reach - 1 and float(fractions[: int(lines[-1]) + 1].max()) > 0.75
        return int(lines[-1]) + 2 if ends else 0

    top, bottom, left, right = depth(by_row), depth(by_row[::-1]), depth(by_column), depth(by_column[::-1])
    return top, rows - bottom, left, columns - right


def _threshold(values: Any, xp: Any) -> float:
    """A level between air and tissue: above the spread of the air, well below fat."""
    split = otsu(values, xp)
    air = values[values < split]
    if air.size == 0:
        return split
    level = float(xp.median(air))
    # A second split of the dark class finds air where dense tissue took the first one for itself.
    if float(air.max()) > level and (values >= split).mean() < 0.25:
        lower = otsu(air, xp)
        darker = air[air < lower]
        if darker.size > 0.2 * values.size:
            split, air, level = lower, darker, float(xp.median(darker))
    spread = 1.4826 * float(xp.median(xp.abs(air - level)))
    return min(max(level + 6 * spread, level + 0.3 * (split - level)), split)


def _ball(radius: float, xp: Any) -> Any:
    reach = int(radius)
    y, x = xp.mgrid[-reach : reach + 1, -reach : reach + 1]
    return x * x + y * y <= radius * radius


def _opened(mask: Any, radius: float, nd: Any) -> Any:
    """Morphological opening with a disc through two distance maps: the cost does not grow with the radius."""
    padded_core = nd.distance_transform_edt(mask) > radius
    if not bool(padded_core.any()):
        return padded_core
    return nd.distance_transform_edt(~padded_core) <= radius


def _continued(mask: Any, pad: int, xp: Any) -> Any:
    """`mask` with a border of `pad` that goes on where the last `pad` lines are all set.

    The chest wall lies on the image border and must not be rounded off by an opening; a thin frame line must be.
    """
    out = xp.pad(mask, ((pad, pad), (0, 0)))
    out[:pad] = mask[:pad].all(axis=0)
    out[-pad:] = mask[-pad:].all(axis=0)
    out = xp.pad(out, ((0, 0), (pad, pad)))
    out[:, :pad] = out[:, pad : 2 * pad].all(axis=1)[:, None]
    out[:, -pad:] = out[:, -2 * pad : -pad].all(axis=1)[:, None]
    return out


def find(image: Any, spacing: float, xp: Any, nd: Any) -> Breast | None:
    """The breast in `image` (rows, columns; bright tissue high), or None where there is none.

    spacing: mm per pixel. The largest bright component after an opening of 2.5 mm, without film frames, holes filled.
    """
    factor = max(1, round(MASK_SPACING_MM / spacing))
    small = block_mean(image, factor, xp)
    if min(small.shape) < 8 or float(small.max()) <= float(small.min()):
        return None
    pitch = spacing * factor
    top, bottom, left, right = _inside_frame(small, xp)
    tissue = xp.zeros(small.shape, dtype=bool)
    inner = small[top:bottom, left:right]
    tissue[top:bottom, left:right] = inner > _threshold(inner, xp)
    pad = int(OPENING_MM / pitch) + 1
    opened = _opened(_continued(tissue, pad, xp), OPENING_MM / pitch, nd)[pad:-pad, pad:-pad]
    labels, count = nd.label(opened & tissue)
    if count == 0:
        return None
    sizes = xp.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    mask = nd.binary_fill_holes(labels == int(xp.argmax(sizes)))
    area = float(mask.sum()) * pitch * pitch
    if area < 400.0:  # less than 4 cm2 is a label, not a breast
        return None
    padded = xp.pad(mask, 1)
    edge = nd.distance_transform_edt(padded)[1:-1, 1:-1].astype(xp.float32) * xp.float32(pitch)
    rows, columns = xp.nonzero(mask.any(axis=1))[0], xp.nonzero(mask.any(axis=0))[0]
    box = (
        int(rows[0]) * factor,
        (int(rows[-1]) + 1) * factor,
        int(columns[0]) * factor,
        (int(columns[-1]) + 1) * factor,
    )
    return Breast(mask, edge, factor, box, area)
