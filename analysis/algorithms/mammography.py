"""Detects microcalcifications and their clusters in one mammogram: mask, candidates, features, forests, clusters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.algorithms import breast_mask, candidates, clusters, features
from analysis.algorithms.forest import Forest

CONTEXT_MM = (1.5, 3.0, 5.0)
MEMBER = 0.15
"""A candidate counts as a calcification from this probability on."""

SHOWN = 0.3
"""Members below this support their cluster but are not named, as long as the fewest asked for remain."""

FORMAT = 1


@dataclass(frozen=True)
class Model:
    """Trained data, all plain arrays: two forests and the logistic weights of the cluster score."""

    version: str
    first: Forest
    second: Forest
    mean: np.ndarray[Any, Any]
    scale: np.ndarray[Any, Any]
    weights: np.ndarray[Any, Any]

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any], xp: Any) -> Model:
        """The model in the arrays of a model file; raises ValueError when it was made for other features."""
        if int(arrays["format"]) != FORMAT or tuple(map(str, arrays["names"])) != features.NAMES:
            raise ValueError("the model data were made for another version of the features")
        return cls(
            version=str(arrays["version"]),
            first=Forest.from_arrays(arrays, "first_", xp),
            second=Forest.from_arrays(arrays, "second_", xp),
            mean=np.asarray(arrays["cluster_mean"], np.float64),
            scale=np.asarray(arrays["cluster_scale"], np.float64),
            weights=np.asarray(arrays["cluster_weights"], np.float64),
        )


@dataclass(frozen=True)
class Described:
    """Candidates of one image, before any judgement.

    points: float64 (n, 2), (row, column) in pixels of the full image, (0, 0) the centre of the first pixel.
    height: (n,). table: (n, features). diameter: (n,) mm, of the region above half the peak.
    """

    points: np.ndarray[Any, np.dtype[np.float64]]
    height: np.ndarray[Any, Any]
    table: np.ndarray[Any, Any]
    diameter: np.ndarray[Any, Any]


@dataclass(frozen=True)
class Detection:
    """What was found in one image.

    points: float64 (n, 2), (row, column) in pixels, (0, 0) the centre of the first pixel. probability, diameter (mm):
    (n,). clusters: highest score first, members index the arrays. breast: False where no breast was found.
    """

    points: np.ndarray[Any, np.dtype[np.float64]]
    probability: np.ndarray[Any, Any]
    diameter: np.ndarray[Any, Any]
    clusters: tuple[clusters.Cluster, ...]
    breast: bool = True


def describe(
    image: Any, spacing: float, xp: Any, nd: Any, report: Callable[[float], None] = lambda _: None
) -> Described | None:
    """Candidates and their features, or None where no breast is found.

    image: (rows, columns), bright tissue high. spacing: mm per pixel, equal along both axes.
    """
    image = xp.asarray(image)
    breast = breast_mask.find(image, spacing, xp, nd)
    if breast is None:
        return None
    report(0.15)
    field = candidates.prepare(image, spacing, breast, xp, nd)
    report(0.5)
    found = candidates.find(field, xp, nd)
    report(0.65)
    table = features.describe(field, found, xp, nd, lambda: report(0.7))
    points = (found.positions + 0.5) * field.factor - 0.5 + np.asarray(field.origin, np.float64)
    area = table[:, features.NAMES.index("region_area")]
    return Described(points, found.height, table, 2 * np.sqrt(area / np.pi))


def context(points: np.ndarray[Any, Any], probability: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What the first forest says about the surroundings of each candidate: float32 (n, 9). points in mm."""
    from scipy.spatial import cKDTree  # 40 MB, which only those who compute should pay

    count = len(points)
    out = np.zeros((count, 9), np.float32)
    out[:, 0] = probability
    out[:, 8] = probability.sum() - probability
    pairs = cKDTree(points).query_pairs(CONTEXT_MM[-1], output_type="ndarray") if count > 1 else np.zeros((0, 2), int)
    if not len(pairs):
        return out
    both = np.concatenate([pairs, pairs[:, ::-1]])
    distance = np.hypot(*(points[both[:, 0]] - points[both[:, 1]]).T)
    value = probability[both[:, 1]]
    for place, reach in enumerate(CONTEXT_MM):
        out[:, 1 + place] = np.bincount(both[:, 0], value * (distance <= reach), minlength=count)
    # The four most probable neighbours within 5 mm, in order; 0 where there are fewer.
    order = np.lexsort((-value, both[:, 0]))
    owner, best = both[order, 0], value[order]
    starts = np.searchsorted(owner, np.arange(count))
    for rank in range(4):
        line = np.minimum(starts + rank, len(owner) - 1)
        out[:, 4 + rank] = np.where((starts + rank < len(owner)) & (owner[line] == np.arange(count)), best[line], 0)
    return out


def separate(
    points: np.ndarray[Any, Any], probability: np.ndarray[Any, Any], diameter: np.ndarray[Any, Any]
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Indices of the calcifications: probable enough, and each counted once however many maxima it has.

    A less probable candidate is dropped when it lies within 0.35 mm, or within the more probable one's own size.
    """
    from scipy.spatial import cKDTree  # 40 MB, which only those who compute should pay

    likely = np.flatnonzero(probability >= MEMBER)
    order = likely[np.argsort(-probability[likely], kind="stable")]
    if not len(order):
        return order
    reach = np.clip(0.6 * diameter[order], 0.35, 0.9)
    alive = np.ones(len(order), bool)
    for place, near in enumerate(cKDTree(points[order]).query_ball_point(points[order], reach)):
        if alive[place]:
            later = np.asarray(near)
            alive[later[later > place]] = False
    return np.sort(order[alive])


def group(
    points: np.ndarray[Any, Any],
    probability: np.ndarray[Any, Any],
    described: Described,
    *,
    minimum: int = 3,
    link: float = 4.0,
) -> tuple[list[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """Groups of calcifications (index arrays, most probable first) and one row of features each. points in mm."""
    likely = separate(points, probability, described.diameter)
    height = described.height
    found = [likely[members] for members in clusters.single_link(points[likely], link, minimum)]
    found = [members[np.argsort(-probability[members], kind="stable")] for members in found]
    rows = [clusters.features(points[m], probability[m], height[m], len(likely)) for m in found]
    return found, np.array(rows).reshape(-1, len(clusters.FEATURE_NAMES))


def detect(
    image: Any,
    spacing: float,
    model: Model,
    xp: Any,
    nd: Any,
    *,
    minimum: int = 3,
    link: float = 4.0,
    report: Callable[[float], None] = lambda _: None,
) -> Detection:
    """Calcifications and all clusters of at least `minimum` within `link` mm of each other, whatever their score.

    image: (rows, columns), bright tissue high. spacing: mm per pixel.
    """
    described = describe(image, spacing, xp, nd, report)
    if described is None or len(described.height) == 0:
        nothing = np.zeros(0)
        return Detection(np.zeros((0, 2)), nothing, nothing, (), breast=described is not None)
    report(0.85)
    millimetres = described.points * spacing
    first = candidates.host(model.first.probability(described.table, xp))
    both = np.concatenate([described.table, context(millimetres, first)], axis=1)
    probability = candidates.host(model.second.probability(both, xp)).astype(np.float64)
    found, rows = group(millimetres, probability, described, minimum=minimum, link=link)
    scores = clusters.score(rows, model.mean, model.scale, model.weights)
    named = [
        clusters.Cluster(tuple(map(int, m[: max(minimum, int((probability[m] >= SHOWN).sum()))])), float(s))
        for m, s in zip(found, scores, strict=True)
    ]
    report(1.0)
    return Detection(described.points, probability, described.diameter, tuple(clusters.ranked(named)))
