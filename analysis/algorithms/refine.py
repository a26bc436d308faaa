"""Owns the last fraction of a voxel: vertices move along their normal to the middle of the edge they lie on."""

from __future__ import annotations

from typing import Any

import numpy as np

from analysis.algorithms.geometry import Grid, vertex_normals
from analysis.algorithms.smoothing import Neighbours

Array = Any  # of NumPy or CuPy, whichever xp and nd are

_CHUNK = 200_000  # vertices at once
_AVERAGES = 8
_PASSES = 2  # the second starts where the profile is centred on the edge


def edge_offsets(field: Array, grid: Grid, indices: Array, normals: Array, reach: float, xp: Any, nd: Any) -> Array:
    """(n) float64 mm along `normals` (n, 3) to the middle of the grey edge around each index (n, 3).

    The profile of `field` is read over +-`reach` mm. The middle is the centre of the falling slope around the vertex,
    weighted towards it, so that the edge of a neighbouring bone does not pull. Vertices without a slope stay.
    """
    steps = np.linspace(-1.0, 1.0, 17)
    middle = (steps[1:] + steps[:-1]) / 2
    bell = np.exp(-0.5 * (middle / 0.5) ** 2)
    offsets = xp.zeros(len(indices), xp.float64)
    for start in range(0, len(indices), _CHUNK):
        part = slice(start, start + _CHUNK)
        direction = grid.index_directions(indices[part], normals[part], xp) * reach
        at = indices[part, :, None] + direction[:, :, None] * xp.asarray(steps)
        profile = nd.map_coordinates(
            field, at.transpose(1, 0, 2).reshape(3, -1), order=1, mode="nearest", output=xp.float32
        ).reshape(-1, len(steps))
        slope = xp.maximum(profile[:, :-1] - profile[:, 1:], 0) ** 2 * xp.asarray(bell)
        total = slope.sum(axis=1)
        offsets[part] = xp.where(total > 0, (slope * xp.asarray(middle)).sum(axis=1) / xp.maximum(total, 1e-9), 0)
    return offsets * reach


def refine(
    field: Array, grid: Grid, indices: Array, vertices: Array, faces: Array, neighbours: Neighbours, xp: Any, nd: Any
) -> Array:
    """(n, 3) float64 mm: `vertices` moved to the edge that they lie on; `indices` are the same points in `field`.

    Moves are averaged over neighbours, since a threshold is wrong alike over a patch of bone while noise is not.
    """
    reach = 2.0 * max(grid.spacing)
    for _ in range(_PASSES):
        normals = vertex_normals(vertices, faces, xp)
        offsets = edge_offsets(field, grid, indices, normals, reach, xp, nd)
        for _ in range(_AVERAGES):
            offsets = 0.5 * offsets + 0.5 * neighbours.mean(offsets)
        moves = normals * xp.clip(offsets, -reach / 2, reach / 2)[:, None]
        indices = indices + grid.index_directions(indices, moves, xp)
        vertices = vertices + moves
    return vertices
