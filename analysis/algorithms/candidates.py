"""Finds places that may be a microcalcification: local maxima of differences of Gaussians over the local noise.

Every length is in mm. Images finer than 0.055 mm are averaged to about 0.1 mm first, so that one model serves
detectors from 0.025 to 0.11 mm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.algorithms.breast_mask import Breast, block_mean

SCALES_MM = (0.07, 0.11, 0.17, 0.26, 0.40)
"""Inner Gaussian of each difference of Gaussians; the outer one is 1.6 times as wide."""

RATIO = 1.6
NOISE_BOX_MM = 6.0
EDGE_MM = 0.8
"""Nothing is looked for nearer to the skin line or the image border than this and twice the scale."""

MIN_HEIGHT = 2.6
"""Candidates rise at least so many local root mean squares above their surroundings."""

LIMIT = 2500
_COARSE = 3  # this scale and the ones above it are computed at half size


@dataclass(frozen=True)
class Field:
    """The breast box of one image at working resolution.

    image: float32 (rows, columns), bright tissue high, smoothed by the finest Gaussian. spacing: mm per element.
    factor: pixels of the full image per element. origin: (row, column) in the full image. noise: float32, local root
    mean square of the finest difference of Gaussians at 1/`noise_factor` of the working resolution. edge_mm at the
    same resolution as noise. level: float32 at that resolution, smoothed brightness. responses: per scale a pair
    (response over noise, factor relative to the working resolution).
    """

    image: Any
    spacing: float
    factor: int
    origin: tuple[int, int]
    noise: Any
    noise_factor: int
    edge_mm: Any
    level: Any
    responses: tuple[tuple[Any, int], ...]


@dataclass(frozen=True)
class Candidates:
    """positions: float64 (n, 2), (row, column) in working resolution. height: (n,) largest response. scale: (n,) its
    index in SCALES_MM. heights: (n, 5) response at each scale. All on the host, highest first."""

    positions: np.ndarray[Any, np.dtype[np.float64]]
    height: np.ndarray[Any, np.dtype[np.float32]]
    scale: np.ndarray[Any, np.dtype[np.int64]]
    heights: np.ndarray[Any, np.dtype[np.float32]]


def host(array: Any) -> Any:
    """`array` as a numpy array, from whatever device it lies on."""
    return array.get() if hasattr(array, "get") else np.asarray(array)


def working_factor(spacing: float) -> int:
    """How many pixels are averaged into one working element, so that its size ends at 0.055 to 0.11 mm."""
    return max(1, int(0.11 / spacing + 1e-6))


def _resized(small: Any, shape: tuple[int, int], factor: int, xp: Any) -> Any:
    """`small` repeated factor times along both axes, cut or continued to `shape`."""
    out = xp.repeat(xp.repeat(small, factor, axis=0), factor, axis=1)[: shape[0], : shape[1]]
    missing = (shape[0] - out.shape[0], shape[1] - out.shape[1])
    return xp.pad(out, ((0, missing[0]), (0, missing[1])), mode="edge") if any(missing) else out


def _local_rms(difference: Any, inside: Any, factor: int, box: float, xp: Any, nd: Any) -> Any:
    """Root mean square of `difference` over a box (in reduced elements), large values clipped, air left out.

    Clipping twice keeps the calcifications themselves, and fibres, from raising the noise they are compared with.
    """
    squared = difference * difference
    weight = nd.uniform_filter(inside.astype(xp.float32), box, mode="constant")
    weight = xp.maximum(weight, 1e-3)
    core = block_mean(squared, factor, xp)[: inside.shape[0], : inside.shape[1]]
    typical = float(xp.median(core[inside])) if bool(inside.any()) else 0.0
    ceiling = xp.full(inside.shape, 9.0 * typical + 1e-12, dtype=xp.float32)
    mean = ceiling
    for _ in range(2):
        clipped = xp.minimum(squared, _resized(ceiling, squared.shape, factor, xp))
        core = block_mean(clipped, factor, xp)[: inside.shape[0], : inside.shape[1]]
        mean = nd.uniform_filter(xp.where(inside, core, 0), box, mode="constant") / weight
        ceiling = 9.0 * mean + 1e-12
    return xp.sqrt(xp.maximum(mean, 0.1 * typical + 1e-12)).astype(xp.float32)


def prepare(image: Any, spacing: float, breast: Breast, xp: Any, nd: Any) -> Field:
    """The responses at all scales over the box of the breast. image: (rows, columns), bright tissue high."""
    factor = working_factor(spacing)
    r0, r1, c0, c1 = breast.box
    grid = breast.factor
    work = block_mean(image[r0:r1, c0:c1], factor, xp)
    pitch = spacing * factor
    # Air beside the breast would ring at the skin line: it is lifted to the local brightness of the breast's rim.
    inside_small = breast.mask[r0 // grid : r1 // grid, c0 // grid : c1 // grid]
    edge_small = breast.edge_mm[r0 // grid : r1 // grid, c0 // grid : c1 // grid]
    noise_factor = max(1, round(0.4 / pitch))
    shape = (max(1, work.shape[0] // noise_factor), max(1, work.shape[1] // noise_factor))
    rows = xp.minimum(xp.arange(shape[0]) * noise_factor * factor // grid, inside_small.shape[0] - 1)
    columns = xp.minimum(xp.arange(shape[1]) * noise_factor * factor // grid, inside_small.shape[1] - 1)
    inside, edge = inside_small[rows[:, None], columns[None, :]], edge_small[rows[:, None], columns[None, :]]
    box = max(3, round(NOISE_BOX_MM / (pitch * noise_factor)))

    responses: list[tuple[Any, int]] = []
    previous = first = nd.gaussian_filter(work, SCALES_MM[0] / pitch, truncate=3.0)
    noise = None
    for index, scale in enumerate(SCALES_MM):
        if index < _COARSE:
            outer = nd.gaussian_filter(work, scale * RATIO / pitch, truncate=3.0)
            inner, reduced, blocks = previous, 1, noise_factor
            previous = outer
        else:
            half = block_mean(work, 2, xp)
            inner = nd.gaussian_filter(half, scale / (2 * pitch), truncate=3.0)
            outer = nd.gaussian_filter(half, scale * RATIO / (2 * pitch), truncate=3.0)
            reduced, blocks = 2, max(1, noise_factor // 2)
        difference = inner - outer
        target = (difference.shape[0] // blocks, difference.shape[1] // blocks)
        same = inside if target == shape else _fitted(inside, target, xp)
        rms = _local_rms(difference, same & (_fitted(edge, target, xp) > EDGE_MM), blocks, box, xp, nd)
        if noise is None:
            noise = rms
        responses.append((difference / _resized(rms, difference.shape, blocks, xp), reduced))
    assert noise is not None
    level = nd.gaussian_filter(block_mean(work, noise_factor, xp)[: shape[0], : shape[1]], 2.0)
    return Field(first, pitch, factor, (r0, c0), noise, noise_factor, edge, level, tuple(responses))


def _fitted(small: Any, shape: tuple[int, int], xp: Any) -> Any:
    """`small` sampled to the nearest of `shape`."""
    rows = xp.minimum(xp.arange(shape[0]) * small.shape[0] // shape[0], small.shape[0] - 1)
    columns = xp.minimum(xp.arange(shape[1]) * small.shape[1] // shape[1], small.shape[1] - 1)
    return small[rows[:, None], columns[None, :]]


def at(array: Any, positions: Any, factor: int, xp: Any) -> Any:
    """`array`, reduced by `factor`, at (row, column) positions of the working resolution, nearest element."""
    index = xp.minimum((xp.asarray(positions) / factor).astype(xp.int64), xp.asarray(array.shape)[None, :] - 1)
    return array[index[:, 0], index[:, 1]]


def find(field: Field, xp: Any, nd: Any, limit: int = LIMIT, report: Callable[[], None] = lambda: None) -> Candidates:
    """At most `limit` local maxima over all scales, at least a scale's width apart, highest first."""
    found: list[np.ndarray[Any, Any]] = []
    for index, (response, reduced) in enumerate(field.responses):
        report()
        reach = max(1, round(0.1 / (field.spacing * reduced)))
        peak = (response == nd.maximum_filter(response, size=2 * reach + 1)) & (response > MIN_HEIGHT)
        rows, columns = xp.nonzero(peak)
        if rows.size == 0:
            continue
        centres = (xp.stack([rows, columns], axis=1) + 0.5) * reduced
        # The step at the skin line reaches as far in as the Gaussian is wide.
        far = at(field.edge_mm, centres, field.noise_factor, xp) > EDGE_MM + 2 * SCALES_MM[index]
        table = xp.concatenate(
            [centres - 0.5, response[rows, columns][:, None], xp.full((rows.size, 1), index)], axis=1
        )
        table = host(table[far])
        found.append(table[np.argsort(-table[:, 2], kind="stable")][: 2 * limit])
    if not found or not sum(map(len, found)):
        nothing = np.zeros(0, np.float32)
        return Candidates(np.zeros((0, 2)), nothing, np.zeros(0, np.int64), np.zeros((0, len(SCALES_MM)), np.float32))
    table = np.concatenate(found)
    table = table[np.lexsort((table[:, 1], table[:, 0], -table[:, 2]))]
    kept = table[_apart(table, field.spacing)][:limit]
    positions = np.ascontiguousarray(kept[:, :2])
    heights = np.stack([_strongest(response, reduced, positions, xp) for response, reduced in field.responses], axis=1)
    return Candidates(positions, kept[:, 2].astype(np.float32), kept[:, 3].astype(np.int64), heights)


def _apart(table: np.ndarray[Any, Any], spacing: float) -> np.ndarray[Any, Any]:
    """Which rows stay when each takes away lower ones within 0.25 mm, or within its own width if that is more."""
    widths = np.maximum(0.25, np.asarray(SCALES_MM)[table[:, 3].astype(int)] * 1.4)
    from scipy.spatial import cKDTree  # 40 MB, which only those who compute should pay

    tree = cKDTree(table[:, :2] * spacing)
    alive = np.ones(len(table), bool)
    for index, near in enumerate(tree.query_ball_point(table[:, :2] * spacing, widths)):
        if alive[index]:
            lower = np.asarray(near)
            alive[lower[lower > index]] = False
    return np.flatnonzero(alive)


def _strongest(response: Any, reduced: int, positions: Any, xp: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The largest response within one element of each position."""
    index = (xp.asarray(positions) / reduced + (0.5 if reduced == 1 else 0.25)).astype(xp.int64)
    best = None
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            y = xp.clip(index[:, 0] + dy, 0, response.shape[0] - 1)
            x = xp.clip(index[:, 1] + dx, 0, response.shape[1] - 1)
            value = response[y, x]
            best = value if best is None else xp.maximum(best, value)
    result: np.ndarray[Any, np.dtype[np.float32]] = host(best).astype(np.float32)
    return result
