"""Free-response curves: how many lesions are found at how many false marks an image, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Marks:
    """The marks of one image after scoring: score of each, index of the lesion it hits or -1, number of lesions."""

    score: Array
    lesion: Array
    lesions: int


def match(points: Array, score: Array, truth: Array, reach: Array | float) -> Marks:
    """Marks of one image. points (n, 2), truth (m, 2) and reach (one, or one per truth) in the same unit.

    A mark hits the nearest lesion within that lesion's reach; what hits none is false.
    """
    points, truth = np.asarray(points, float).reshape(-1, 2), np.asarray(truth, float).reshape(-1, 2)
    lesion = np.full(len(points), -1)
    if len(truth) and len(points):
        distance = np.hypot(*(points[:, None] - truth[None]).transpose(2, 0, 1))
        distance = np.where(distance <= np.broadcast_to(reach, len(truth)), distance, np.inf)
        nearest = distance.argmin(axis=1)
        lesion = np.where(np.isfinite(distance[np.arange(len(points)), nearest]), nearest, -1)
    return Marks(np.asarray(score, float), lesion, len(truth))


@dataclass(frozen=True)
class Curve:
    """Operating points from strict to loose: threshold, false marks an image, share of the lesions found."""

    threshold: Array
    false_per_image: Array
    sensitivity: Array

    def sensitivity_at(self, false_per_image: float) -> float:
        """The largest sensitivity with at most so many false marks an image; 0 where there is none."""
        below = self.false_per_image <= false_per_image + 1e-12
        return float(self.sensitivity[below].max()) if below.any() else 0.0

    def threshold_at(self, false_per_image: float) -> float:
        """The loosest threshold with at most so many false marks an image; infinity where there is none."""
        below = np.flatnonzero(self.false_per_image <= false_per_image + 1e-12)
        return float(self.threshold[below[-1]]) if len(below) else float("inf")


def curve(images: Sequence[Marks]) -> Curve:
    """The FROC curve of all images together. A lesion counts once, at its best mark; repeated hits are not false."""
    total = sum(image.lesions for image in images)
    best: list[float] = []
    false: list[Array] = []
    for image in images:
        false.append(image.score[image.lesion < 0])
        best += [float(image.score[image.lesion == hit].max()) for hit in np.unique(image.lesion[image.lesion >= 0])]
    wrong = np.sort(np.concatenate(false)) if false else np.zeros(0)
    right = np.sort(np.asarray(best))
    threshold = np.unique(np.concatenate([wrong, right]))[::-1]
    false_per_image = (len(wrong) - np.searchsorted(wrong, threshold, "left")) / max(len(images), 1)
    sensitivity = (len(right) - np.searchsorted(right, threshold, "left")) / max(total, 1)
    return Curve(threshold, false_per_image, sensitivity)


def interval(
    images: Sequence[Marks], false_per_image: float, *, rounds: int = 500, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap interval, over images, of the sensitivity at so many false marks an image."""
    rng = np.random.default_rng(seed)
    values = [
        curve([images[index] for index in rng.integers(len(images), size=len(images))]).sensitivity_at(false_per_image)
        for _ in range(rounds)
    ]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
