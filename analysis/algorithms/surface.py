"""Owns the steps from a grey volume and a label to a closed surface in millimetres of the patient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.algorithms import geometry
from analysis.algorithms.decimate import decimate
from analysis.algorithms.geometry import Grid
from analysis.algorithms.marching_cubes import marching_cubes
from analysis.algorithms.refine import refine
from analysis.algorithms.smoothing import Neighbours, taubin

Array = Any  # of NumPy or CuPy, whichever xp and nd are
Progress = Callable[[float, str], None]


def _silent(fraction: float, message: str) -> None:
    pass


@dataclass(frozen=True)
class Mesh:
    """A closed surface: vertices (n, 3) float32 mm in the patient frame, faces (m, 3) int32 wound outward.

    error_mm: the bound that decimation kept. volume_mm3, area_mm2: measured before decimation.
    """

    vertices: npt.NDArray[np.float32]
    faces: npt.NDArray[np.int32]
    error_mm: float
    volume_mm3: float
    area_mm2: float


def fine_surface(
    field: Array,
    mask: Array,
    iso: float,
    grid: Grid,
    xp: Any,
    nd: Any,
    *,
    refined: bool = True,
    progress: Progress = _silent,
) -> tuple[Array, Array]:
    """The surface of `mask` before decimation: vertices (n, 3) float64 mm and faces (m, 3) int32, outward.

    field: int16 (slices, rows, columns); voxels of `mask` must be above `iso` or be touched only by voxels of it.
    """
    iso = float(np.floor(iso)) + 0.5  # no integer voxel equals it, so no vertex lies on a voxel
    below, above = int(iso - 0.5), int(iso + 0.5)
    padded = xp.full(tuple(n + 2 for n in field.shape), min(below, -1000), xp.int16)
    inner = padded[1:-1, 1:-1, 1:-1]
    inner[...] = xp.where(mask, xp.maximum(field, above), xp.minimum(field, below))
    indices, faces = marching_cubes(padded, iso, xp)
    indices = indices.astype(xp.float64) - 1
    vertices = grid.to_patient(indices, xp)
    faces = geometry.outward(vertices, faces, xp)
    progress(0.2, "marched")
    neighbours = Neighbours(faces, len(vertices), xp)
    if refined:
        progress(0.3, "moving to the edges")
        vertices = refine(field, grid, indices, vertices, faces, neighbours, xp, nd)
    return taubin(vertices, neighbours, 2), faces


def surface(
    field: Array,
    mask: Array,
    iso: float,
    grid: Grid,
    *,
    error_mm: float,
    budget: int,
    refined: bool = True,
    xp: Any = np,
    nd: Any,
    progress: Progress = _silent,
) -> Mesh:
    """The closed surface of `mask` (slices, rows, columns) in the grey `field`, reduced to an error bound in mm.

    refined: whether vertices move from the threshold to the middle of the edge. budget: most triangles.
    """
    vertices, faces = fine_surface(field, mask, iso, grid, xp, nd, refined=refined, progress=progress)
    progress(0.6, "reducing")
    volume, area = geometry.volume(vertices, faces, xp), geometry.area(vertices, faces, xp)
    points, triangles, bound = decimate(vertices, faces, error_mm, budget, xp)
    progress(1.0, "done")
    host = (lambda a: a.get()) if hasattr(points, "get") else np.asarray
    return Mesh(
        vertices=host(points).astype(np.float32),
        faces=host(triangles).astype(np.int32),
        error_mm=bound,
        volume_mm3=volume,
        area_mm2=area,
    )
