"""Groups calcifications into clusters and says how likely each cluster is real."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

FEATURE_NAMES = ("log_count", "best", "third", "sum_ten", "mean", "log_area", "height_third", "crowd")


@dataclass(frozen=True)
class Cluster:
    """members: indices of its calcifications, most probable first. score: 0 to 1."""

    members: tuple[int, ...]
    score: float


def single_link(points: np.ndarray[Any, Any], link: float, minimum: int) -> list[np.ndarray[Any, Any]]:
    """Groups of at least `minimum` points in which each is at most `link` from another: index arrays.

    points: (n, 2) in mm. With links of 4 mm any three linked calcifications lie within 1 cm2.
    """
    if len(points) < minimum:
        return []
    from scipy.sparse import coo_array  # 40 MB, which only those who compute should pay
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    pairs = cKDTree(points).query_pairs(link, output_type="ndarray")
    ones = np.ones(len(pairs), bool)
    graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(len(points), len(points)))
    count, labels = connected_components(graph, directed=False)
    groups = [np.flatnonzero(labels == label) for label in range(count)]
    return [group for group in groups if len(group) >= minimum]


def features(
    points: np.ndarray[Any, Any], probability: np.ndarray[Any, Any], height: np.ndarray[Any, Any], total: int
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Eight numbers of one cluster, as FEATURE_NAMES. points in mm; total: candidates above the limit in the image."""
    ranked = np.sort(probability)[::-1]
    span = np.ptp(points, axis=0) + 1.0
    return np.array(
        [
            np.log(len(points)), ranked[0], ranked[2] if len(ranked) > 2 else 0.0, ranked[:10].sum(), ranked.mean(),
            np.log(span[0] * span[1]), np.sort(height)[::-1][min(2, len(height) - 1)], np.log1p(total - len(points)),
        ]
    )  # fmt: skip


def score(
    rows: np.ndarray[Any, Any], mean: np.ndarray[Any, Any], scale: np.ndarray[Any, Any], weights: np.ndarray[Any, Any]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Logistic probability of each row of cluster features; weights hold the intercept last."""
    if len(rows) == 0:
        return np.zeros(0)
    line = (rows - mean) / scale @ weights[:-1] + weights[-1]
    result: np.ndarray[Any, np.dtype[np.float64]] = 1 / (1 + np.exp(-np.clip(line, -30, 30)))
    return result


def outline(points: np.ndarray[Any, Any], margin: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Closed polygon (m, 2) around `points` (n, 2) at distance `margin`, first corner repeated at the end.

    The convex hull of discs around the points, drawn with sixteen corners a disc; never crosses a point.
    """
    from scipy.spatial import ConvexHull, QhullError

    angles = np.arange(16) * (np.pi / 8)
    circle = np.stack([np.sin(angles), np.cos(angles)], axis=1) * margin
    cloud = (points[:, None, :] + circle[None]).reshape(-1, 2)
    try:
        corners = cloud[ConvexHull(cloud).vertices]
    except QhullError:  # only with a margin of zero and points in one line
        corners = cloud
    return np.concatenate([corners, corners[:1]])


def ranked(clusters: Sequence[Cluster]) -> list[Cluster]:
    """Highest score first; equal scores in the order of their first member, so that ids are stable between runs."""
    return sorted(clusters, key=lambda cluster: (-cluster.score, cluster.members))
