"""Owns pictures of a volume: a small cubic grid of 8-bit values in the patient's axes, and views around it by rays.

Both run alike on NumPy and CuPy. What is made here is to be looked at, never to be measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.algorithms.geometry import Grid

Array = Any  # of NumPy or CuPy, whichever xp and nd are

MOST_VOXELS = 160  # along an edge: 4 million voxels, which a browser loads and a processor renders within seconds
_BODY_SHARE = 0.02  # of the 8-bit values, above which a voxel is part of the patient or of what lies beside
_AMBIENT, _DIFFUSE, _SHINE = 0.3, 0.7, 0.25


@dataclass(frozen=True)
class Cube:
    """A volume on a cubic grid along the patient's axes.

    data: uint8 (slices, rows, columns) along +z (superior), +y (posterior), +x (left). origin: (x, y, z) mm of the
    centre of the first voxel. pitch: mm from voxel to voxel. low, high: what 0 and 255 stand for, in the volume's unit.
    """

    data: Array
    origin: npt.NDArray[np.float64]
    pitch: float
    low: float
    high: float


def cube(
    field: Array, grid: Grid, low: float, high: float, xp: Any, nd: Any, *, most_voxels: int = MOST_VOXELS
) -> Cube:
    """The field resampled to cubic voxels, as `Cube`; linear between voxels, the mean of those it is coarser than.

    Tilted and unevenly spaced slices end up where they are in the patient. What is outside of the scan is 0, so is what
    hangs together with the patient nowhere, such as a table.
    """
    corners = _corners(grid, field.shape)
    extent = np.ptp(corners, axis=0)
    finest = min(*grid.spacing, float(np.median(grid.gaps)))
    pitch = max(finest, float(extent.max()) / (most_voxels - 1))
    field, grid = _coarser(field, grid, pitch, xp)
    shape = [max(2, round(float(extent[axis]) / pitch) + 1) for axis in (2, 1, 0)]
    origin = corners.min(axis=0)
    scale = 255.0 / (high - low)
    data = xp.zeros(shape, xp.uint8)
    x = xp.asarray(origin[0] + pitch * np.arange(shape[2]))[None, :]
    y = xp.asarray(origin[1] + pitch * np.arange(shape[1]))[:, None]
    along = grid.positions @ grid.normal
    order = np.argsort(along)
    planes, slices = xp.asarray(along[order]), xp.asarray(order.astype(np.float64))
    for k in range(shape[0]):
        z = origin[2] + pitch * k
        n, r, c = grid.normal, grid.row, grid.column
        depth = n[0] * x + n[1] * y + n[2] * z
        place = xp.interp(depth.ravel(), planes, slices).reshape(depth.shape)
        outside = (depth < planes[0] - pitch / 2) | (depth > planes[-1] + pitch / 2)
        below = xp.clip(place.astype(xp.int64), 0, len(order) - 2)
        share = place - below
        positions = xp.asarray(grid.positions)
        at = positions[below] * (1 - share)[..., None] + positions[below + 1] * share[..., None]
        dx, dy, dz = x - at[..., 0], y - at[..., 1], z - at[..., 2]
        row = (c[0] * dx + c[1] * dy + c[2] * dz) / grid.spacing[0]
        column = (r[0] * dx + r[1] * dy + r[2] * dz) / grid.spacing[1]
        values = nd.map_coordinates(
            field, xp.stack([place, row, column]), order=1, mode="constant", cval=float(low), output=xp.float32
        )
        values = xp.where(outside, low, values)
        data[k] = xp.clip((values - low) * scale + 0.5, 0, 255).astype(xp.uint8)
    return Cube(_largest(data, xp, nd), origin, pitch, float(low), float(high))


def _corners(grid: Grid, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    ends = [(k, y, x) for k in (0, shape[0] - 1) for y in (0, shape[1] - 1) for x in (0, shape[2] - 1)]
    return np.asarray(grid.to_patient(np.array(ends, np.float64)), np.float64)


def _coarser(field: Array, grid: Grid, pitch: float, xp: Any) -> tuple[Array, Grid]:
    """Means over as many rows, columns and slices as fit into the pitch: thin structures fade, they do not flicker."""
    steps = (float(np.median(grid.gaps)), *grid.spacing)
    # At least two of each remain, however thin the slab is.
    deep, down, across = (max(1, min(int(pitch / mm), n // 2)) for mm, n in zip(steps, field.shape, strict=True))
    if (deep, down, across) == (1, 1, 1):
        return field, grid
    slices, rows, columns = len(field) // deep, field.shape[1] // down, field.shape[2] // across
    used = field[: slices * deep, : rows * down, : columns * across]
    blocks = used.reshape(slices, deep, rows, down, columns, across).mean(axis=(1, 3, 5), dtype=xp.float32)
    shift = grid.row * (grid.spacing[1] * (across - 1) / 2) + grid.column * (grid.spacing[0] * (down - 1) / 2)
    positions = grid.positions[: slices * deep].reshape(slices, deep, 3).mean(axis=1) + shift
    return blocks, Grid(positions, grid.row, grid.column, (grid.spacing[0] * down, grid.spacing[1] * across))


def _largest(data: Array, xp: Any, nd: Any) -> Array:
    """`data` with the largest thing in it alone: the patient, without table and head holder where these lie apart."""
    labels, count = nd.label(data > 255 * _BODY_SHARE)
    if int(count) < 2:
        return data
    sizes = xp.bincount(labels.ravel())
    sizes[0] = 0
    keep = labels == sizes.argmax()
    return data * nd.binary_dilation(keep, iterations=2)


def transfer(low: float, high: float, bone: float) -> npt.NDArray[np.float32]:
    """(256, 4) red, green, blue and opacity per voxel, 0 to 1, for the values of a Cube from `low` to `high` HU.

    Soft tissue is a veil; from `bone` HU on things are solid.
    """
    hu = low + (high - low) * np.arange(256) / 255
    firm = max(bone, 150.0)
    veil, dense = min(0.0, firm - 150), max(1500.0, 2 * firm)
    places = [veil - 150, veil, firm - 100, firm - 99, firm, dense]
    red, green, blue = (
        [0.9, 0.9, 0.8, 0.95, 0.95, 1.0],
        [0.65, 0.65, 0.45, 0.88, 0.88, 1.0],
        [0.5, 0.5, 0.35, 0.75, 0.75, 0.98],
    )
    opaque = [0.0, 0.02, 0.02, 0.03, 0.5, 0.9]
    return np.stack([np.interp(hu, places, each) for each in (red, green, blue, opaque)], axis=1).astype(np.float32)


def turntable(
    scene: Cube, transfer: npt.NDArray[np.float32], views: int, xp: Any, nd: Any,
    progress: Callable[[float], None] = lambda _: None,
) -> npt.NDArray[np.uint8]:  # fmt: skip
    """Pictures from all sides of the patient: uint8 (views, rows, columns, 3), superior up, each pixel `pitch` mm.

    The first is from anterior, the eye then goes round by the patient's left. Parallel rays, front to back, lit from
    the eye. transfer: (256, 4) red, green, blue and opacity per voxel, 0 to 1, by the value of a voxel.
    """
    smooth = nd.gaussian_filter(scene.data.astype(xp.float32), 0.7)
    gz, gy, gx = (xp.gradient(smooth, axis=axis) for axis in range(3))
    length = xp.sqrt(gx * gx + gy * gy + gz * gz) + 1e-6
    # Columns along z lie together in memory: a ray step fetches whole columns, four at a time.
    values = _padded(scene.data.transpose(1, 2, 0), xp)
    normals = [_padded((127 * g / length).astype(xp.int8).transpose(1, 2, 0), xp) for g in (gx, gy)]
    opacity, colours = xp.asarray(transfer[:, 3]), xp.asarray(np.ascontiguousarray(transfer[:, :3]))
    busy = nd.binary_dilation((opacity[values] > 0).any(axis=2), iterations=1)
    made = []
    for view in range(views):
        progress(view / views)
        angle = 2 * np.pi * view / views
        picture = _cast(values, normals, busy, opacity, colours, float(np.sin(angle)), float(np.cos(angle)), xp)
        made.append(picture.get() if hasattr(picture, "get") else picture)
    return np.stack(made)


def _padded(array: Array, xp: Any) -> Array:
    """A copy with an empty column all round, where rays outside of the volume end up."""
    out = xp.zeros((array.shape[0] + 2, array.shape[1] + 2, array.shape[2]), array.dtype)
    out[1:-1, 1:-1] = array
    return out


def _cast(
    values: Array, normals: list[Array], busy: Array, opacity: Array, colours: Array, sin: float, cos: float, xp: Any
) -> Array:
    """One picture: uint8 (slices, across, 3). The eye looks along (-sin, cos) in x, y; (cos, sin) is to its right."""
    rows, columns, height = values.shape
    side = int(np.ceil(np.hypot(rows - 2, columns - 2)))
    across = xp.arange(side, dtype=xp.float32) - (side - 1) / 2
    clear = xp.ones((side, height), xp.float32)
    light = xp.zeros((side, height, 3), xp.float32)
    for step in range(side):
        deep = step - (side - 1) / 2
        x = (columns - 1) / 2 + cos * across - sin * deep
        y = (rows - 1) / 2 + sin * across + cos * deep
        inside = (x > 0) & (x < columns - 1) & (y > 0) & (y < rows - 1)
        ix = xp.clip(x.astype(xp.int32), 0, columns - 2)
        iy = xp.clip(y.astype(xp.int32), 0, rows - 2)
        hit = xp.flatnonzero(inside & busy[iy, ix])
        if not len(hit):
            continue
        ix, iy = ix[hit], iy[hit]
        fx, fy = (x[hit] - ix)[:, None], (y[hit] - iy)[:, None]
        near = values[iy, ix] * (1 - fx) + values[iy, ix + 1] * fx
        far = values[iy + 1, ix] * (1 - fx) + values[iy + 1, ix + 1] * fx
        sample = (near * (1 - fy) + far * fy + 0.5).astype(xp.uint8)
        here = clear[hit]
        share = here * opacity[sample]
        facing = xp.abs(normals[0][iy, ix] * (-sin / 127) + normals[1][iy, ix] * (cos / 127))
        shade = _AMBIENT + _DIFFUSE * facing + _SHINE * facing**16
        light[hit] += (share * shade)[..., None] * colours[sample]
        clear[hit] = here - share
    picture = xp.clip(light * 255 + 0.5, 0, 255).astype(xp.uint8)
    return xp.ascontiguousarray(picture.transpose(1, 0, 2)[::-1])
