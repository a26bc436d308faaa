"""Where a mark is: its centre, how far it reaches, and its points as an image can hold them (PS3.3 C.18.6.1.2)."""

from __future__ import annotations

from typing import Any

import numpy as np

from analysis.api import Array, Mark

Extent = tuple[float, float, float, float]
"""(left, top, right, bottom) in image coordinates."""


def centre(mark: Mark) -> Array:
    """(column, row) of a point, of the middle of a circle, of the mean of an outline's points."""
    points = np.asarray(mark.points, np.float64)
    middle: Array = points.mean(axis=0) if mark.shape == "polygon" else points[0]
    return middle


def radius(mark: Mark) -> float:
    """Of a circle in pixels; 0 of anything else."""
    points = np.asarray(mark.points, np.float64)
    return float(np.hypot(*(points[1] - points[0]))) if mark.shape == "circle" else 0.0


def extent(mark: Mark) -> Extent:
    """The box around a mark."""
    points, reach = np.asarray(mark.points, np.float64), radius(mark)
    if mark.shape == "circle":
        points = points[:1]
    low, high = points.min(axis=0) - reach, points.max(axis=0) + reach
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def on_image(mark: Mark, shape: tuple[int, ...]) -> Array:
    """The points of a mark, all of them on its image of `shape` (rows, columns): float64 (n, 2).

    An outline that crosses the border follows it; of a circle that does, a point of its edge is named that lies on
    the image, so that it stays as large as it is.
    """
    corner = np.array([shape[1], shape[0]], np.float64)
    points = np.asarray(mark.points, np.float64)
    if mark.shape == "circle":
        edges = [points[1], *(points[0] + radius(mark) * np.array(step) for step in _STEPS)]
        edge = next((each for each in edges if _lies_on(each, corner)), points[1])
        points = np.stack([points[0], edge])
    clipped: Array = np.clip(points, 0.0, corner)
    return clipped


_STEPS = ((1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0))


def _lies_on(point: Array, corner: Any) -> bool:
    return bool((point >= 0).all() and (point <= corner).all())
