"""Owns noise removal: volumes before the threshold, values that live on a mesh after it."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any  # of NumPy or CuPy, whichever xp and nd are

_SLAB = 48  # slices at once: bounds the float32 copy to a fraction of the volume


def gaussian(values: Array, sigma: tuple[float, float, float], xp: Any, nd: Any) -> Array:
    """An integer volume smoothed by a Gaussian of `sigma` voxels per axis, as int16.

    Rounded to int16 so that every backend thresholds the same numbers; axes with less than a quarter voxel are left as
    they are, since a sampled kernel that narrow does nothing but shift rounding.
    """
    used = tuple(s if s >= 0.25 else 0.0 for s in sigma)
    halo = int(3 * used[0] + 0.5)
    out = xp.empty(values.shape, xp.int16)
    for start in range(0, len(values), _SLAB):
        first, last = max(0, start - halo), min(len(values), start + _SLAB + halo)
        slab = nd.gaussian_filter(values[first:last].astype(xp.float32), used, truncate=3.0, mode="nearest")
        stop = min(len(values), start + _SLAB)
        out[start:stop] = xp.clip(xp.rint(slab[start - first : stop - first]), -32768, 32767)
    return out


class Neighbours:
    """The edges of a mesh, for averages over the vertices next to a vertex."""

    def __init__(self, faces: Array, vertex_count: int, xp: Any = np) -> None:
        self._xp = xp
        start = faces.reshape(-1)  # in a closed mesh every neighbour is reached once, walking each triangle one way
        end = xp.roll(faces, -1, axis=1).reshape(-1)
        order = xp.argsort(start, kind="stable")
        self._start, self._end = start[order], end[order]
        self._degree = xp.maximum(xp.bincount(start, minlength=vertex_count), 1)
        self._count = vertex_count

    def mean(self, values: Array) -> Array:
        """(n) or (n, k): the mean of each vertex's neighbours."""
        xp = self._xp
        if values.ndim == 1:
            return xp.bincount(self._start, weights=values[self._end], minlength=self._count) / self._degree
        return xp.stack([self.mean(values[:, k]) for k in range(values.shape[1])], axis=1)


def taubin(vertices: Array, neighbours: Neighbours, passes: int, shrink: float = 0.5, swell: float = -0.53) -> Array:
    """(n, 3) vertices smoothed without loss of volume (Taubin 1995)."""
    for _ in range(passes):
        for factor in (shrink, swell):
            vertices = vertices + factor * (neighbours.mean(vertices) - vertices)
    return vertices
