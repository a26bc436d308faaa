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
SMALLEST_MM3, LARGEST_MM3 = 30.0, 2500.0
LONGEST_MM = 32.0
FEWEST = 4
"""Fewer dense, compact pieces than this are petrous bone, implants or markers rather than a row of teeth."""


def find_teeth(field: Array, bone: Array, grid: Grid, xp: Any, nd: Any) -> tuple[Array, float] | None:
    """The teeth in `bone` (both (slices, rows, columns)) and the half maximum in HU around them, or None.

    A tooth is a compact piece above DENSE_HU; None when there are fewer than FEWEST, since cortical bone is dense too.
    """
    labels, count = label(bone & (field > DENSE_HU), xp, nd)
    if count < FEWEST:
        return None
    sizes = volumes(labels, count, grid.voxel_volumes(), xp)
    sizes[0] = 0
    fitting = (sizes >= SMALLEST_MM3) & (sizes <= LARGEST_MM3)
    boxes = nd.find_objects(xp.where(fitting[labels], labels, 0).astype(xp.int32))
    compact = [number for number, box in enumerate(boxes, 1) if box is not None and _extent(box, grid) <= LONGEST_MM]
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
