"""Owns connected components of a volume: which are large enough to keep, which cavities small enough to close."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

try:
    import cc3d
except ImportError:  # optional: several times faster than scipy.ndimage
    cc3d = None

HOLDER_MM3 = 2000.0
HOLDER_SHARE = 0.65
"""A piece this large whose 99th percentile is below this share of the main bone's median is no bone."""

Array = Any  # of NumPy or CuPy, whichever xp and nd are


def label(mask: Array, xp: Any, nd: Any, connectivity: int = 26) -> tuple[Array, int]:
    """Labels (z, y, x) of the components of a boolean volume, 0 = outside, and how many there are."""
    if cc3d is not None and xp is np:
        labels, count = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=connectivity, return_N=True)
        return labels, int(count)
    structure = xp.ones((3, 3, 3), bool) if connectivity == 26 else nd.generate_binary_structure(3, 1)
    labels, count = nd.label(mask, structure=structure)
    return labels, int(count)


def volumes(labels: Array, count: int, voxel_volumes: npt.NDArray[np.float64], xp: Any) -> Array:
    """(count + 1) mm3: the volume of each label, voxels counting what their slice stands for; 0 is outside."""
    sizes = xp.zeros(count + 1, xp.float64)
    for plane, each in zip(labels, voxel_volumes.tolist(), strict=True):
        sizes += each * xp.bincount(plane.reshape(-1), minlength=count + 1)
    return sizes


def keep_large(
    mask: Array,
    least_mm3: float,
    voxel_volumes: npt.NDArray[np.float64],
    xp: Any,
    nd: Any,
    field: Array | None = None,
) -> Array:
    """The boolean volume without its components (26 neighbours) of less than `least_mm3`.

    With a grey `field`, also without large components that are faint all through: head holders and tables of plastic,
    whose densest part stays well under what is usual in the bone beside them.
    """
    labels, count = label(mask, xp, nd)
    sizes = volumes(labels, count, voxel_volumes, xp)
    sizes[0] = 0
    keep = sizes >= least_mm3
    keep[0] = False
    if field is not None:
        for number in _faint(labels, sizes, field, xp):
            keep[number] = False
    return keep[labels]


def _faint(labels: Array, sizes: Array, field: Array, xp: Any) -> list[int]:
    large = xp.flatnonzero(sizes >= HOLDER_MM3).tolist()
    if len(large) < 2:
        return []
    densities = {}
    for number in large:
        values = field[labels == number].astype(xp.float32)
        densities[number] = float(xp.percentile(values, 50)), float(xp.percentile(values, 99))
    usual = densities[max(large, key=lambda number: float(sizes[number]) * densities[number][0])][0]
    return [number for number in large if densities[number][1] < HOLDER_SHARE * usual]


def close_small_cavities(
    mask: Array, most_mm3: float, voxel_volumes: npt.NDArray[np.float64], xp: Any, nd: Any
) -> Array:
    """The boolean volume with its enclosed cavities (6 neighbours) of less than `most_mm3` filled."""
    labels, count = label(~mask, xp, nd, connectivity=6)
    fill = volumes(labels, count, voxel_volumes, xp) < most_mm3
    fill[0] = True  # label 0 is the mask itself
    return fill[labels]


def bounding_box(mask: Array, margin: int, xp: Any = np) -> tuple[slice, slice, slice]:
    """Slices around everything that is set, with a margin cut at the array's border. ValueError when nothing is set."""
    box = []
    for axis in range(3):
        other = tuple(a for a in range(3) if a != axis)
        used = xp.flatnonzero(mask.any(axis=other))
        if len(used) == 0:
            raise ValueError("an empty mask has no bounding box")
        box.append(slice(max(0, int(used[0]) - margin), min(mask.shape[axis], int(used[-1]) + 1 + margin)))
    return box[0], box[1], box[2]
