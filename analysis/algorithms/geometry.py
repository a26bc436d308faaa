"""Owns the way from voxel indices to millimetres of the patient, slice by slice, and how meshes are measured there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = Any  # of NumPy or CuPy, whichever xp and nd are


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a stack of slices are; nothing is assumed of the gaps or of the direction of stacking.

    positions: (slices, 3) mm, centre of the first voxel of each slice. row, column: unit vectors along increasing
    column and row index. spacing: (between rows, between columns) mm. Indices are (slice, row, column), fractions
    allowed.
    """

    positions: npt.NDArray[np.float64]
    row: npt.NDArray[np.float64]
    column: npt.NDArray[np.float64]
    spacing: tuple[float, float]

    @property
    def normal(self) -> npt.NDArray[np.float64]:
        """Unit vector of the slices: row cross column (PS3.3 C.7.6.2.1.1)."""
        return np.cross(self.row, self.column)

    @property
    def steps(self) -> npt.NDArray[np.float64]:
        """(slices - 1, 3) mm: from each slice to the next."""
        return np.diff(self.positions, axis=0)

    @property
    def gaps(self) -> npt.NDArray[np.float64]:
        """(slices - 1) mm: distance between the planes of neighbouring slices."""
        return np.abs(self.steps @ self.normal)

    def slice_thickness(self) -> npt.NDArray[np.float64]:
        """(slices) mm: half the way to both neighbours, what one voxel of a slice stands for."""
        gaps = self.gaps
        ends = np.concatenate([gaps[:1], gaps, gaps[-1:]])
        return np.asarray((ends[:-1] + ends[1:]) / 2)

    def voxel_volumes(self) -> npt.NDArray[np.float64]:
        """(slices) mm3: the volume that one voxel of each slice stands for."""
        return self.slice_thickness() * self.spacing[0] * self.spacing[1]

    def crop(self, box: tuple[slice, slice, slice]) -> Grid:
        """The grid of the voxels in a box (slices, rows, columns)."""
        across = self.row * (self.spacing[1] * box[2].start) + self.column * (self.spacing[0] * box[1].start)
        return Grid(self.positions[box[0]] + across, self.row, self.column, self.spacing)

    def to_patient(self, indices: Array, xp: Any = np) -> Array:
        """Patient coordinates (n, 3) float64 mm of fractional indices (n, 3) in (slice, row, column).

        Linear between the true positions of neighbouring slices, so exact for gantry tilt and uneven gaps; beyond the
        first and last slice the nearest step goes on.
        """
        z = indices[:, 0].astype(xp.float64)
        below = xp.clip(xp.floor(z).astype(xp.int64), 0, len(self.positions) - 2)
        part = (z - below)[:, None]
        positions = xp.asarray(self.positions)
        origin = positions[below] * (1 - part) + positions[below + 1] * part
        along_row = indices[:, 2:3] * (xp.asarray(self.row) * self.spacing[1])
        return origin + along_row + indices[:, 1:2] * (xp.asarray(self.column) * self.spacing[0])

    def index_directions(self, indices: Array, directions: Array, xp: Any = np) -> Array:
        """Directions (n, 3) in mm as index steps (slice, row, column) per mm at these fractional indices."""
        steps = self.steps
        axes = np.empty((len(steps), 3, 3))
        axes[:, :, 0] = steps
        axes[:, :, 1] = self.column * self.spacing[0]
        axes[:, :, 2] = self.row * self.spacing[1]
        inverse = xp.asarray(np.linalg.inv(axes))
        below = xp.clip(xp.floor(indices[:, 0]).astype(xp.int64), 0, len(steps) - 1)
        return xp.einsum("nij,nj->ni", inverse[below], directions)


def triangle_vectors(vertices: Array, faces: Array, xp: Any = np) -> Array:
    """(m, 3) float64 mm2: half the cross product of each triangle's edges, so its area along its outward normal."""
    a, b, c = (vertices[faces[:, i]].astype(xp.float64) for i in range(3))
    return xp.cross(b - a, c - a) / 2


def volume(vertices: Array, faces: Array, xp: Any = np) -> float:
    """Enclosed volume in mm3 by the divergence theorem; negative when the winding is inward."""
    origin = vertices.mean(axis=0, dtype=xp.float64)  # keeps the sum's terms small
    centres = sum(vertices[faces[:, i]].astype(xp.float64) for i in range(3)) / 3 - origin
    return float((centres * triangle_vectors(vertices, faces, xp)).sum() / 3)


def area(vertices: Array, faces: Array, xp: Any = np) -> float:
    """Surface area in mm2."""
    return float(xp.sqrt((triangle_vectors(vertices, faces, xp) ** 2).sum(axis=1)).sum())


def outward(vertices: Array, faces: Array, xp: Any = np) -> Array:
    """`faces` wound so that the enclosed volume is positive."""
    return faces if volume(vertices, faces, xp) >= 0 else xp.ascontiguousarray(faces[:, ::-1])


def vertex_normals(vertices: Array, faces: Array, xp: Any = np) -> Array:
    """(n, 3) float64 unit normals, triangles weighted by area; zero where nothing meets a vertex."""
    vectors = triangle_vectors(vertices, faces, xp)
    normals = xp.empty((len(vertices), 3), xp.float64)
    corners = faces.reshape(-1)
    for axis in range(3):
        normals[:, axis] = xp.bincount(corners, weights=xp.repeat(vectors[:, axis], 3), minlength=len(vertices))
    length = xp.sqrt((normals**2).sum(axis=1, keepdims=True))
    return normals / xp.maximum(length, 1e-30)


def open_edges(faces: Array, xp: Any = np) -> int:
    """How many edges are not used exactly once in each direction: 0 for a closed, oriented surface."""
    start, end = faces.reshape(-1), xp.roll(faces, -1, axis=1).reshape(-1)
    size = int(faces.max()) + 1 if len(faces) else 1
    forward, count = xp.unique(start.astype(xp.int64) * size + end, return_counts=True)
    backward = xp.unique(end.astype(xp.int64) * size + start)
    alone = len(forward) + len(backward) - 2 * int(xp.isin(forward, backward).sum())
    return alone + int((count > 1).sum())


def compact(vertices: Array, faces: Array, xp: Any = np) -> tuple[Array, Array]:
    """The mesh with only the vertices that its faces use."""
    used, inverse = xp.unique(faces.reshape(-1), return_inverse=True)
    return vertices[used], inverse.reshape(faces.shape).astype(xp.int32)


def weld(vertices: Array, faces: Array, xp: Any = np) -> tuple[Array, Array]:
    """The mesh with equal vertices (n, 3) made one and triangles that became lines or points left out."""
    order = xp.lexsort(vertices.T[::-1])
    ordered = vertices[order]
    first = xp.ones(len(ordered), bool)
    first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    number = xp.empty(len(ordered), xp.int32)
    number[order] = xp.cumsum(first, dtype=xp.int32) - 1
    welded = number[faces]
    a, b, c = welded[:, 0], welded[:, 1], welded[:, 2]
    return ordered[first], welded[(a != b) & (b != c) & (a != c)]
