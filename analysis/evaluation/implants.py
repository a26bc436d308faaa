"""Plans clusters of calcifications and renders them, with exact truth, into any mammogram background."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Calcification:
    """row, column: pixels, (0, 0) the centre of the first pixel. diameter in mm. contrast: peak over the noise of the
    background, in standard deviations at 0.1 mm. cluster: counted from 0, -1 for one that stands alone."""

    row: float
    column: float
    diameter: float
    contrast: float
    cluster: int


@dataclass(frozen=True)
class ClusterTruth:
    """row, column: centre in pixels. radius in mm. contrast: what its calcifications have on average."""

    row: float
    column: float
    radius: float
    contrast: float
    count: int


@dataclass(frozen=True)
class Truth:
    """All that was put into one image."""

    calcifications: tuple[Calcification, ...] = ()
    clusters: tuple[ClusterTruth, ...] = ()


def plan(
    rng: np.random.Generator,
    allowed: Array,
    spacing: float,
    *,
    clusters: int,
    contrast: tuple[float, float] = (5.0, 12.0),
    singles: int = 0,
    apart_mm: float = 18.0,
) -> Truth:
    """Clusters placed at random where `allowed` (rows, columns; bool) holds.

    5 to 18 calcifications a cluster, radius 2 to 6 mm, diameter log-normal about 0.25 mm within 0.12 to 0.6,
    contrast of each log-normal about that of its cluster. Fewer clusters come back where there is no room.
    """
    rows, columns = np.nonzero(allowed)
    centres: list[ClusterTruth] = []
    grains: list[Calcification] = []
    for _ in range(40 * clusters):
        if len(centres) == clusters or not len(rows):
            break
        pick = int(rng.integers(len(rows)))
        row, column = float(rows[pick]), float(columns[pick])
        if any(np.hypot(row - c.row, column - c.column) * spacing < apart_mm for c in centres):
            continue
        radius, count = float(rng.uniform(2, 6)), int(rng.integers(5, 19))
        strength = float(rng.uniform(*contrast))
        placed = _scatter(rng, allowed, (row, column), radius / spacing, count, 0.35 / spacing)
        if len(placed) < 5:
            continue
        number = len(centres)
        centres.append(ClusterTruth(row, column, radius, strength, len(placed)))
        grains += [
            Calcification(r, c, _diameter(rng), strength * float(np.exp(rng.normal(0, 0.2))), number) for r, c in placed
        ]
    for _ in range(singles):
        if len(rows):
            pick = int(rng.integers(len(rows)))
            strength = float(rng.uniform(contrast[0], contrast[1] * 1.5))
            grains.append(Calcification(float(rows[pick]), float(columns[pick]), _diameter(rng), strength, -1))
    return Truth(tuple(grains), tuple(centres))


def _diameter(rng: np.random.Generator) -> float:
    return float(np.clip(0.25 * np.exp(rng.normal(0, 0.35)), 0.12, 0.6))


def _scatter(
    rng: np.random.Generator, allowed: Array, centre: tuple[float, float], radius: float, count: int, apart: float
) -> list[tuple[float, float]]:
    """Points in an ellipse, at least `apart` pixels from each other and inside `allowed`."""
    angle, squeeze = rng.uniform(0, np.pi), rng.uniform(0.3, 1.0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    out: list[tuple[float, float]] = []
    for _ in range(20 * count):
        if len(out) == count:
            break
        offset = rng.normal(0, 0.5, 2)
        if np.hypot(*offset) > 1:
            continue
        row, column = turn @ (offset * (1, squeeze)) * radius + centre
        r, c = round(row), round(column)
        if not (0 <= r < allowed.shape[0] and 0 <= c < allowed.shape[1] and allowed[r, c]):
            continue
        if all(np.hypot(row - y, column - x) >= apart for y, x in out):
            out.append((float(row), float(column)))
    return out


def grain(rng: np.random.Generator, diameter: float, spacing: float, shift: tuple[float, float]) -> Array:
    """Chord length through one rough ellipsoid, 1 at its thickest, float32 on an odd square of pixels.

    diameter and spacing in mm; shift: (row, column) of its centre from the centre of the square, in pixels. Sampled
    five times finer than the pixels, so that grains smaller than a pixel keep their volume.
    """
    fine = 5
    reach = int(np.ceil(0.9 * diameter / spacing)) + 2
    size = (2 * reach + 1) * fine
    axis = (np.arange(size) - (size - 1) / 2) / fine
    y, x = np.meshgrid(axis - shift[0], axis - shift[1], indexing="ij")
    angle, stretch = rng.uniform(0, np.pi), np.exp(rng.normal(0, 0.2))
    u = (np.cos(angle) * y + np.sin(angle) * x) * stretch
    v = (np.cos(angle) * x - np.sin(angle) * y) / stretch
    theta = np.arctan2(u, v)
    radius = np.ones_like(theta)
    for wave in range(2, 6):
        radius += rng.normal(0, 0.25 / wave) * np.cos(wave * theta + rng.uniform(0, 2 * np.pi))
    inside = 1 - (u * u + v * v) / (np.maximum(radius, 0.4) * diameter / 2 / spacing) ** 2
    chord = np.sqrt(np.maximum(inside, 0))
    mean: Array = chord.reshape(2 * reach + 1, fine, 2 * reach + 1, fine).mean(axis=(1, 3)).astype(np.float32)
    return mean


def layer(rng: np.random.Generator, shape: tuple[int, int], spacing: float, truth: Truth, blur_mm: float) -> Array:
    """All calcifications of `truth` on one plane, float32, in units of the noise: the peak is each one's contrast.

    blur_mm: sigma of the detector's blur, applied here (0 for none; then blur the sum yourself). The contrast is what
    a grain of 0.25 mm or more keeps; smaller ones lose height to the blur, as they do on a detector.
    """
    plane = np.zeros(shape, np.float32)
    for calcification in truth.calcifications:
        r, c = round(calcification.row), round(calcification.column)
        stamp = grain(rng, calcification.diameter, spacing, (calcification.row - r, calcification.column - c))
        reach = stamp.shape[0] // 2
        r0, r1, c0, c1 = (
            max(0, r - reach),
            min(shape[0], r + reach + 1),
            max(0, c - reach),
            min(shape[1], c + reach + 1),
        )
        cut = stamp[r0 - r + reach : r1 - r + reach, c0 - c + reach : c1 - c + reach]
        plane[r0:r1, c0:c1] = np.maximum(plane[r0:r1, c0:c1], cut * np.float32(calcification.contrast))
    return ndimage.gaussian_filter(plane, blur_mm / spacing) if blur_mm > 0 else plane


def local_noise(image: Array, spacing: float, box_mm: float = 6.0) -> Array:
    """Local standard deviation of what is finer than 0.35 mm, at 0.1 mm resolution, float32, shape of `image`."""
    fine = (
        ndimage.gaussian_filter(image.astype(np.float32), 0.04 / spacing)
        if spacing < 0.08
        else image.astype(np.float32)
    )
    high = fine - ndimage.gaussian_filter(fine, 0.35 / spacing)
    limit = 4 * 1.4826 * np.median(np.abs(high[high != 0])) if np.any(high) else 1.0
    # The running sum of the box filter can end a hair below zero over flat air.
    power = ndimage.uniform_filter(np.minimum(high * high, limit**2), max(3, round(box_mm / spacing)))
    result: Array = np.sqrt(np.maximum(power, 0))
    return result


def implant(
    image: Array, spacing: float, allowed: Array, rng: np.random.Generator, *, inverted: bool = False, **options: Any
) -> tuple[Array, Truth]:
    """`image` with clusters put in, in its own type and range, and the truth.

    allowed: bool, where centres may lie; options as for `plan`. Contrast counts in local standard deviations of the
    image's finest detail; blur 0.06 mm. inverted: a higher value is darker (MONOCHROME1).
    """
    truth = plan(rng, allowed, spacing, **options)
    added = layer(rng, image.shape[:2], spacing, truth, 0.06) * local_noise(image, spacing)
    out = image.astype(np.float32) + (-added if inverted else added)
    if not np.issubdtype(image.dtype, np.integer):
        return out.astype(image.dtype), truth
    low, high = int(image.min()), int(image.max())
    return np.clip(np.rint(out), low, high).astype(image.dtype), truth
