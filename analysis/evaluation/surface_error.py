"""Owns how far a mesh is from the truth: exact distances at points spread evenly over its surface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class SurfaceError:
    """Distances in mm between a mesh and the true surface: `bias` is positive where the mesh lies outside."""

    mean: float
    bias: float
    p95: float
    largest: float


def sample(vertices: Array, faces: Array, count: int, seed: int = 0) -> npt.NDArray[np.float64]:
    """(count, 3) points on the mesh, uniform by area."""
    random = np.random.default_rng(seed)
    a, b, c = (vertices[faces[:, i]].astype(np.float64) for i in range(3))
    areas = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    chosen = random.choice(len(faces), size=count, p=areas / areas.sum())
    u, v = random.random((2, count, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    a, b, c = a[chosen], b[chosen], c[chosen]
    return np.asarray(a + u * (b - a) + v * (c - a))


def surface_error(
    vertices: Array, faces: Array, signed_distance: Callable[[Array], Array], count: int = 50_000
) -> SurfaceError:
    """The error of a mesh (mm) against a truth given as signed distance in mm, negative inside."""
    distance = signed_distance(sample(vertices, faces, count))
    size = np.abs(distance)
    return SurfaceError(
        mean=float(size.mean()),
        bias=float(distance.mean()),
        p95=float(np.quantile(size, 0.95)),
        largest=float(size.max()),
    )
