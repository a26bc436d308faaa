"""Describes each candidate by numbers: height over the noise, profile, shape, lines, texture, surroundings.

All features are in mm or in multiples of the local noise, so that they mean the same for every detector, exposure and
presentation look-up table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from analysis.algorithms import texture
from analysis.algorithms.candidates import Candidates, Field, at, host

PATCH_MM = 0.1
REACH = 16  # patches reach 1.6 mm to each side
CHUNK = 400
RINGS_MM = ((0.0, 0.08), (0.08, 0.16), (0.16, 0.26), (0.26, 0.38), (0.38, 0.55), (0.55, 0.8), (0.8, 1.1), (1.1, 1.55))
HESSIAN_MM = (0.14, 0.28)
NEIGHBOURS_MM = (1.5, 3.0, 5.0)

NAMES = (
    *(f"height_{index}" for index in range(5)), "height", "scale",
    *(f"ring_{index}" for index in range(8)), "drop", "contrast_to_spread", "spread_near", "spread_far", "skewness",
    *(f"hessian_{size}_{name}" for size in range(2) for name in ("large", "small", "ratio")),
    "coherence", "line_strongest", "line_opposite", "line_mean", "line_ratio",
    "region_area", "region_perimeter", "region_compactness", "region_elongation", "region_extent", "region_mean",
    "region_edge_gradient", "region_open",
    *texture.GLCM_NAMES, *texture.LBP_NAMES,
    "edge_mm", "level", "slope", "noise",
    *(f"neighbours_{index}" for index in range(3)), *(f"height_sum_{index}" for index in range(3)),
    "nearest_mm", "third_mm", "rank",
)  # fmt: skip


def _grid(xp: Any) -> tuple[Any, Any, Any]:
    offset = xp.arange(-REACH, REACH + 1, dtype=xp.float32) * PATCH_MM
    y, x = xp.meshgrid(offset, offset, indexing="ij")
    return y, x, xp.sqrt(y * y + x * x)


def patches(field: Field, positions: Any, xp: Any, nd: Any) -> Any:
    """Square patches of 3.3 mm around (row, column) positions, sampled every 0.1 mm: float32 (n, 33, 33)."""
    step = PATCH_MM / field.spacing
    offset = xp.arange(-REACH, REACH + 1, dtype=xp.float32) * step
    centres = xp.asarray(positions, dtype=xp.float32)
    size = offset.size
    rows = xp.broadcast_to((centres[:, 0, None] + offset)[:, :, None], (len(centres), size, size))
    columns = xp.broadcast_to((centres[:, 1, None] + offset)[:, None, :], (len(centres), size, size))
    points = xp.stack([rows.ravel(), columns.ravel()])
    return nd.map_coordinates(field.image, points, order=1, mode="nearest").reshape(-1, size, size)


def _masked_mean(values: Any, mask: Any, xp: Any) -> Any:
    weights = mask.astype(xp.float32)
    return (values * weights).sum(axis=(1, 2)) / weights.sum()


def _profile(patch: Any, distance: Any, xp: Any) -> tuple[list[Any], Any]:
    """Ring means, contrasts and spreads; and the mean of the ring that serves as background."""
    background = (distance > 0.55) & (distance < 1.3)
    level = _masked_mean(patch, background, xp)
    above = patch - level[:, None, None]
    rings = [_masked_mean(above, (distance >= low) & (distance < high), xp) for low, high in RINGS_MM]
    near = (distance > 0.35) & (distance < 0.8)
    mean_near = _masked_mean(patch, near, xp)
    spread_near = xp.sqrt(_masked_mean((patch - mean_near[:, None, None]) ** 2, near, xp))
    spread_far = xp.sqrt(_masked_mean(above**2, background, xp))
    skewness = _masked_mean(above**3, background, xp) / xp.maximum(spread_far, 1e-3) ** 3
    peak = rings[0]
    out = [*rings, rings[0] - rings[4], (peak - mean_near + level) / xp.maximum(spread_near, 1e-3)]
    return [*out, spread_near, spread_far, skewness], above


def _hessian(above: Any, nd: Any, xp: Any) -> list[Any]:
    """Eigenvalues of the Hessian at the centre, at two physical sizes: two large negative ones mean a blob."""
    out: list[Any] = []
    cut = above[:, 4:-4, 4:-4]
    middle = cut.shape[1] // 2
    for size in HESSIAN_MM:
        sigma = size / PATCH_MM
        small = nd.gaussian_filter(cut, (0, sigma, sigma), truncate=3.0)[:, middle - 1 : middle + 2, :]
        small = small[:, :, middle - 1 : middle + 2] * sigma**2
        yy = small[:, 2, 1] - 2 * small[:, 1, 1] + small[:, 0, 1]
        xx = small[:, 1, 2] - 2 * small[:, 1, 1] + small[:, 1, 0]
        xy = 0.25 * (small[:, 2, 2] - small[:, 2, 0] - small[:, 0, 2] + small[:, 0, 0])
        half, root = 0.5 * (yy + xx), xp.sqrt(0.25 * (yy - xx) ** 2 + xy * xy)
        large, weak = half - root, half + root
        out += [large, weak, weak / xp.minimum(large, -1e-3)]
    return out


def _coherence(above: Any, xp: Any) -> Any:
    """Coherence of the structure tensor over the patch, 0 for no direction, 1 for straight lines."""
    gy = above[:, 2:, 1:-1] - above[:, :-2, 1:-1]
    gx = above[:, 1:-1, 2:] - above[:, 1:-1, :-2]
    yy, xx, xy = (gy * gy).mean(axis=(1, 2)), (gx * gx).mean(axis=(1, 2)), (gy * gx).mean(axis=(1, 2))
    return xp.sqrt((yy - xx) ** 2 + 4 * xy * xy) / xp.maximum(yy + xx, 1e-9)


def _lines(above: Any, peak: Any, xp: Any) -> list[Any]:
    """Brightness along sixteen rays from 0.4 to 1.3 mm: a fibre or a crossing has bright rays, a calcification none."""
    rays = []
    for turn in range(16):
        angle = np.pi * turn / 8
        steps = np.arange(4, 14)
        rows = np.rint(REACH + steps * np.sin(angle)).astype(int)
        columns = np.rint(REACH + steps * np.cos(angle)).astype(int)
        rays.append(above[:, xp.asarray(rows), xp.asarray(columns)].mean(axis=1))
    ray = xp.stack(rays, axis=1)
    opposite = xp.minimum(ray, xp.roll(ray, 8, axis=1)).max(axis=1)
    strongest = ray.max(axis=1)
    return [strongest, opposite, xp.abs(ray).mean(axis=1), strongest / xp.maximum(peak, 0.5)]


def _region(above: Any, peak: Any, grid: tuple[Any, Any, Any], xp: Any) -> list[Any]:
    """Shape of the connected region above half the peak that holds the centre."""
    y, x, distance = grid
    bright = above > 0.5 * peak[:, None, None]
    region = bright & (distance < 0.12)
    for _ in range(14):
        grown = region.copy()
        grown[:, 1:] |= region[:, :-1]
        grown[:, :-1] |= region[:, 1:]
        grown[:, :, 1:] |= region[:, :, :-1]
        grown[:, :, :-1] |= region[:, :, 1:]
        region = grown & bright
    cell = PATCH_MM * PATCH_MM
    flags = region.astype(xp.float32)
    count = xp.maximum(flags.sum(axis=(1, 2)), 1)
    inner = region[:, 1:-1, 1:-1] & region[:, :-2, 1:-1] & region[:, 2:, 1:-1]
    inner &= region[:, 1:-1, :-2] & region[:, 1:-1, 2:]
    rim = flags.copy()
    rim[:, 1:-1, 1:-1] -= inner
    perimeter = rim.sum(axis=(1, 2))
    cy, cx = (flags * y).sum(axis=(1, 2)) / count, (flags * x).sum(axis=(1, 2)) / count
    yy = (flags * (y - cy[:, None, None]) ** 2).sum(axis=(1, 2)) / count + cell / 12
    xx = (flags * (x - cx[:, None, None]) ** 2).sum(axis=(1, 2)) / count + cell / 12
    xy = (flags * (y - cy[:, None, None]) * (x - cx[:, None, None])).sum(axis=(1, 2)) / count
    half, root = 0.5 * (yy + xx), xp.sqrt(0.25 * (yy - xx) ** 2 + xy * xy)
    extent = xp.where(region, distance[None], 0).max(axis=(1, 2))
    gradient = xp.zeros_like(above)
    gradient[:, 1:-1, 1:-1] = xp.hypot(
        above[:, 2:, 1:-1] - above[:, :-2, 1:-1], above[:, 1:-1, 2:] - above[:, 1:-1, :-2]
    )
    return [
        count * cell, perimeter * PATCH_MM, perimeter * perimeter / count,
        xp.sqrt((half + root) / xp.maximum(half - root, 1e-5)), extent,
        (above * flags).sum(axis=(1, 2)) / count / xp.maximum(peak, 0.5),
        (gradient * rim).sum(axis=(1, 2)) / xp.maximum(perimeter, 1),
        (region & (distance > 1.3)).sum(axis=(1, 2)) * cell,
    ]  # fmt: skip


def _surroundings(candidates: Candidates, spacing: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    """How many candidates lie near, how high they are together, how far the nearest is: (n, 9)."""
    from scipy.spatial import cKDTree  # 40 MB, which only those who compute should pay

    points, count = candidates.positions * spacing, len(candidates.height)
    out = np.zeros((count, 9), np.float32)
    tree = cKDTree(points)
    weight = np.maximum(candidates.height - 3.0, 0)
    strong = candidates.height > 4.5
    for index, reach in enumerate(NEIGHBOURS_MM):
        pairs = tree.query_pairs(reach, output_type="ndarray")
        if len(pairs):
            both = np.concatenate([pairs, pairs[:, ::-1]])
            out[:, index] = np.bincount(both[:, 0], strong[both[:, 1]], minlength=count)
            out[:, 3 + index] = np.bincount(both[:, 0], weight[both[:, 1]], minlength=count)
    distances, _ = cKDTree(points[strong]).query(points, k=4) if strong.sum() >= 4 else (np.full((count, 4), 20.0), 0)
    distances = np.minimum(np.asarray(distances), 20.0)
    # A strong candidate finds itself first.
    out[:, 6] = np.where(strong, distances[:, 1], distances[:, 0])
    out[:, 7] = np.where(strong, distances[:, 3], distances[:, 2])
    out[:, 8] = np.argsort(np.argsort(-candidates.height, kind="stable"), kind="stable") / max(count, 1)
    return out


def describe(
    field: Field, candidates: Candidates, xp: Any, nd: Any, report: Callable[[], None] = lambda: None
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """One row per candidate, float32 (n, len(NAMES)), on the host."""
    count = len(candidates.height)
    if count == 0:
        return np.zeros((0, len(NAMES)), np.float32)
    grid = _grid(xp)
    blocks = []
    centres = candidates.positions + 0.5
    noise = at(field.noise, centres, field.noise_factor, xp)
    edge = at(field.edge_mm, centres, field.noise_factor, xp)
    level = at(field.level, centres, field.noise_factor, xp)
    inside = field.edge_mm > 0
    low, high = (float(value) for value in xp.percentile(field.level[inside], xp.asarray([5.0, 95.0])))
    typical = float(xp.median(field.noise[inside]))
    for start in range(0, count, CHUNK):
        report()
        part = slice(start, start + CHUNK)
        patch = patches(field, candidates.positions[part], xp, nd) / noise[part, None, None]
        profile, above = _profile(patch, grid[2], xp)
        peak = xp.maximum(above[:, REACH - 1 : REACH + 2, REACH - 1 : REACH + 2].mean(axis=(1, 2)), 0.1)
        slope = _slope(above, grid, xp)
        columns = [*profile, *_hessian(above, nd, xp), _coherence(above, xp), *_lines(above, peak, xp)]
        columns += _region(above, peak, grid, xp)
        table = xp.stack([column.astype(xp.float32) for column in columns], axis=1)
        textures = xp.concatenate(
            [texture.glcm(above[:, 6:-6, 6:-6], xp), texture.lbp(above[:, 8:-8, 8:-8], xp)], axis=1
        )
        near = xp.stack([edge[part], (level[part] - low) / max(high - low, 1e-9), slope, noise[part] / typical], axis=1)
        blocks.append(host(xp.concatenate([table, textures, near], axis=1)))
    own = np.column_stack([candidates.heights, candidates.height, candidates.scale.astype(np.float32)])
    around = _surroundings(candidates, field.spacing)
    result: np.ndarray[Any, np.dtype[np.float32]] = np.concatenate(
        [own, np.concatenate(blocks), around], axis=1, dtype=np.float32
    )
    return result


def _slope(above: Any, grid: tuple[Any, Any, Any], xp: Any) -> Any:
    """Steepness of the plane through the patch, in noise per mm: large beside the skin line and edges of muscle."""
    y, x, _ = grid
    norm = (y * y).sum()
    return xp.hypot((above * y).sum(axis=(1, 2)) / norm, (above * x).sum(axis=(1, 2)) / norm)
