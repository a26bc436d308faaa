"""Owns fewer triangles: as few as an error bound in mm allows, and never more than a budget."""

from __future__ import annotations

from typing import Any

import numpy as np

from analysis.algorithms.geometry import compact, triangle_vectors, vertex_normals

try:
    import meshoptimizer
except ImportError:  # optional: edge collapse in C++; without it vertices are clustered by array code
    meshoptimizer = None

Array = Any  # of NumPy or CuPy, whichever xp and nd are


def decimate(vertices: Array, faces: Array, error_mm: float, budget: int, xp: Any = np) -> tuple[Array, Array, float]:
    """The mesh (mm) with as few triangles as `error_mm` allows, and the bound in mm that was kept.

    More than `budget` triangles loosen the bound as far as needed; the bound returned says how far.
    """
    if meshoptimizer is not None and xp is np:
        return _collapse(vertices, faces, error_mm, budget)
    return _cluster_to_budget(vertices, faces, error_mm, budget, xp)


def _collapse(vertices: Array, faces: Array, error_mm: float, budget: int) -> tuple[Array, Array, float]:
    points = np.ascontiguousarray(vertices - vertices.mean(axis=0), np.float32)
    indices = np.ascontiguousarray(faces.reshape(-1), np.uint32)

    def simplify(bound: float, target: int) -> tuple[Array, float]:
        out, reached = np.empty_like(indices), np.zeros(1, np.float32)
        count = meshoptimizer.simplify(
            out, indices, points,
            target_index_count=target,
            target_error=bound,
            options=meshoptimizer.SIMPLIFY_ERROR_ABSOLUTE,
            result_error=reached,
        )  # fmt: skip
        return out[:count].reshape(-1, 3).astype(np.int32), float(reached[0])

    chosen, bound = simplify(error_mm, 0)[0], error_mm
    if len(chosen) > budget:
        chosen, bound = simplify(float(np.ptp(points, axis=0).max()), 3 * budget)
        bound = max(bound, error_mm)
    reduced, triangles = compact(vertices, chosen)
    return _balance(reduced, triangles, vertices, faces, 2 * bound), triangles, bound


def _balance(points: Array, triangles: Array, vertices: Array, faces: Array, most_mm: float) -> Array:
    """(n, 3) `points` moved along their normals so that the triangles lie as much outside as inside the full surface.

    Collapsing keeps vertices of the full surface, so on a convex part every triangle cuts through it. A triangle's
    middle lies off by some height; on a smooth surface three quarters of that are its mean over the triangle.
    """
    vectors = triangle_vectors(points, triangles)
    sizes = np.linalg.norm(vectors, axis=1)
    facing = vectors / np.maximum(sizes, 1e-30)[:, None]
    middles = points[triangles].mean(axis=1)
    from scipy.spatial import cKDTree  # 40 MB, which only those who compute should pay

    _, nearest = cKDTree(vertices).query(middles)
    heights = ((vertices[nearest] - middles) * facing).sum(axis=1)
    alike = (vertex_normals(vertices, faces)[nearest] * facing).sum(axis=1) > 0.5  # not the other side of a thin wall
    heights = np.where(alike, np.clip(heights, -most_mm, most_mm), 0)
    corners, weights = triangles.reshape(-1), np.repeat(sizes, 3)
    total = np.bincount(corners, weights=weights, minlength=len(points))
    height = np.bincount(corners, weights=weights * np.repeat(heights, 3), minlength=len(points))
    moves = 0.75 * height / np.maximum(total, 1e-30)
    return points + vertex_normals(points, triangles) * moves[:, None]


def _cluster_to_budget(
    vertices: Array, faces: Array, error_mm: float, budget: int, xp: Any
) -> tuple[Array, Array, float]:
    bound = error_mm
    while True:
        # A vertex at the quadric's minimum of a cell of 6 times the bound stays within about the bound on smooth bone.
        reduced, triangles = cluster(vertices, faces, 6 * bound, xp)
        if len(triangles) <= budget:
            return reduced, triangles, bound
        bound *= 1.25


def cluster(vertices: Array, faces: Array, cell_mm: float, xp: Any = np) -> tuple[Array, Array]:
    """The mesh with all vertices in a cubic cell of `cell_mm` made one, placed by the quadric of the triangles around
    them (Lindstrom 2000), and triangles that lost a corner left out."""
    low = vertices.min(axis=0)
    cell = xp.floor((vertices - low) / cell_mm).astype(xp.int64)
    size = cell.max(axis=0) + 1
    key = (cell[:, 2] * size[1] + cell[:, 1]) * size[0] + cell[:, 0]
    _, group = xp.unique(key, return_inverse=True)
    group = group.reshape(-1)
    count = int(group.max()) + 1
    members = xp.bincount(group, minlength=count)[:, None]
    centre = xp.stack([xp.bincount(group, weights=vertices[:, a], minlength=count) for a in range(3)], 1) / members
    vectors = triangle_vectors(vertices, faces, xp)
    length = xp.sqrt((vectors**2).sum(axis=1))
    normal = vectors / xp.maximum(length, 1e-30)[:, None]
    anchor = vertices[faces[:, 0]].astype(xp.float64)
    quadric, right = xp.zeros((count, 3, 3)), xp.zeros((count, 3))
    for corner in range(3):
        owner = group[faces[:, corner]]
        height = (normal * (anchor - centre[owner])).sum(axis=1) * length  # planes relative to the cell's centre
        for i in range(3):
            right[:, i] += xp.bincount(owner, weights=height * normal[:, i], minlength=count)
            for j in range(i, 3):
                quadric[:, i, j] += xp.bincount(owner, weights=length * normal[:, i] * normal[:, j], minlength=count)
    for i, j in ((1, 0), (2, 0), (2, 1)):
        quadric[:, i, j] = quadric[:, j, i]
    trace = quadric[:, 0, 0] + quadric[:, 1, 1] + quadric[:, 2, 2]
    quadric += xp.eye(3) * (1e-2 * trace + 1e-12)[:, None, None]  # flat cells keep the centre along the plane
    move = xp.linalg.solve(quadric, right[:, :, None])[:, :, 0]
    move = xp.clip(move, -cell_mm / 2, cell_mm / 2)
    triangles = group[faces]
    a, b, c = triangles[:, 0], triangles[:, 1], triangles[:, 2]
    triangles = triangles[(a != b) & (b != c) & (a != c)]
    turned = xp.argmin(triangles, axis=1)  # the same triangle met twice is kept once
    triangles = xp.stack([triangles[xp.arange(len(triangles)), (turned + k) % 3] for k in range(3)], axis=1)
    triangles = xp.unique(triangles, axis=0) if len(triangles) else triangles
    return compact((centre + move).astype(xp.float32), triangles, xp)
