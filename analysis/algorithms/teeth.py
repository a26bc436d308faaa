"""Owns telling teeth from bone by density and shape, and saying no where what is dense does not look like teeth."""

from __future__ import annotations

from typing import Any

import numpy as np

from analysis.algorithms.components import label, volumes
from analysis.algorithms.geometry import Grid
from analysis.algorithms.threshold import half_maximum

Array = Any  # of NumPy or CuPy, whichever xp and nd are

DENSE_HU = 1500.0
"""Above this, enamel and dentine stand out of most cortical bone."""
ENAMEL_HU = 1900.0
"""The densest part of a tooth reaches this; cortical bone rarely does."""
SMALLEST_MM3, LARGEST_MM3 = 30.0, 2500.0
LONGEST_MM, THINNEST_RADIUS_MM = 32.0, 1.2
COARSEST_GAP_MM = 1.6
FEWEST = 4
"""Fewer such pieces than this are petrous bone, implants or markers rather than a row of teeth."""


def find_teeth(field: Array, bone: Array, grid: Grid, xp: Any, nd: Any) -> tuple[Array, float] | None:
    """The teeth in `bone` (both (slices, rows, columns)) and the half maximum in HU around them, or None.

    A tooth is a compact, thick piece above DENSE_HU that reaches ENAMEL_HU; None when there are fewer than FEWEST, or
    when slices are so far apart that a patch of dense cortical bone could pass for one.
    """
    if float(np.median(grid.gaps)) > COARSEST_GAP_MM:
        return None
    labels, count = label(bone & (field > DENSE_HU), xp, nd)
    if count < FEWEST:
        return None
    sizes = volumes(labels, count, grid.voxel_volumes(), xp)
    sizes[0] = 0
    fitting = (sizes >= SMALLEST_MM3) & (sizes <= LARGEST_MM3)
    boxes = nd.find_objects(xp.where(fitting[labels], labels, 0).astype(xp.int32))
    compact = [
        number
        for number, box in enumerate(boxes, 1)
        if box is not None
        and _extent(box, grid) <= LONGEST_MM
        and float(field[box][labels[box] == number].max()) >= ENAMEL_HU
        and _radius(labels[box] == number, box, grid, xp, nd) >= THINNEST_RADIUS_MM
    ]
    if len(compact) < FEWEST:
        return None
    keep = xp.zeros(count + 1, bool)
    keep[xp.asarray(compact)] = True
    seeds = keep[labels]
    middle = min(half_maximum(field, seeds, DENSE_HU, xp, nd, limits=(0.0, DENSE_HU)), DENSE_HU)
    return nd.binary_dilation(seeds) & (field > np.floor(middle) + 0.5), middle


def without_teeth(bone: Array, teeth: Array, nd: Any) -> Array:
    """`bone` with the teeth and their blurred rim of two voxels taken out."""
    return bone & ~nd.binary_dilation(teeth, iterations=2)


def _extent(box: tuple[slice, slice, slice], grid: Grid) -> float:
    """The longest side in mm of a box along slices, rows and columns."""
    z, y, x = box
    along = float(grid.gaps[z.start : max(z.start, z.stop - 1)].sum())
    longest: float = max(along, (y.stop - y.start) * grid.spacing[0], (x.stop - x.start) * grid.spacing[1])
    return longest


def _radius(piece: Array, box: tuple[slice, slice, slice], grid: Grid, xp: Any, nd: Any) -> float:
    """The radius in mm of the largest ball inside a piece."""
    gaps = grid.gaps[box[0].start : max(box[0].start + 1, box[0].stop - 1)]
    padded = xp.pad(piece, 1)
    return float(nd.distance_transform_edt(padded, sampling=(float(gaps.mean()), *grid.spacing)).max())
