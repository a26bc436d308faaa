"""Trains the microcalcification model on synthetic mammograms alone and prints how it does on others it never saw.

    python -m analysis.evaluation.train_microcalcification [--images 240] [--seed 1] [--out FILE]

Needs scikit-learn (extra `train`). Equal arguments give an equal model on the same versions of the libraries.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from analysis.algorithms import clusters, features, mammography
from analysis.evaluation import froc, implants, mammogram_phantom
from analysis.plugins.microcalcification import MEASURED_STEP

Array = np.ndarray[Any, Any]

HIT_MM = 0.45
FOLDS = 3
ROUNDS, LEAVES = 130, 16
MEMBERS = 2
HIGH, KEEP_HIGH, KEEP_LOW = 5.5, 0.4, 0.07
DEFAULT_OUT = Path(__file__).parent.parent / "plugins" / "microcalcification_model.npz"


@dataclass(frozen=True)
class Example:
    """One analysed image with its truth."""

    described: mammography.Described
    truth: implants.Truth
    spacing: float
    film: bool = False


def examples(seeds: Sequence[int], contrast: tuple[float, float], drawn_in: float = 0.5) -> Iterator[Example]:
    """Analysed synthetic images, one per seed: 0 to 4 clusters each, detectors and breasts of all kinds.

    contrast: of the calcifications. drawn_in: share of the images whose clusters are put into the finished picture
    (contrast in its own finest detail, as with real backgrounds) and not into the breast before it is imaged.
    """
    for seed in seeds:
        rng = np.random.default_rng([seed, 7])
        acquisition = mammogram_phantom.random_acquisition(rng)
        late = bool(rng.random() < drawn_in)
        count = int(rng.choice([0, 1, 2, 3, 4]))
        phantom = mammogram_phantom.phantom(
            seed,
            size_mm=(float(rng.uniform(80, 130)), float(rng.uniform(45, 85))),
            acquisition=acquisition,
            view="MLO" if rng.random() < 0.4 else "CC",
            clusters=0 if late else count,
            contrast=contrast,
            singles=0 if late else int(rng.integers(0, 4)),
        )
        pixels, truth = phantom.pixels, phantom.truth
        if late:
            pixels, truth = implants.implant(
                pixels, acquisition.spacing, _well_inside(phantom), rng, inverted=acquisition.inverted,
                clusters=count, contrast=contrast, singles=int(rng.integers(0, 4)),
            )  # fmt: skip
        bright = pixels.max() - pixels if acquisition.inverted else pixels
        described = mammography.describe(bright, acquisition.spacing, np, ndimage)
        if described is not None:
            yield Example(described, truth, acquisition.spacing, acquisition.film)


def _well_inside(phantom: mammogram_phantom.Phantom) -> Array:
    """Where clusters may lie: 4 mm from skin and image border."""
    pitch = 4 * phantom.acquisition.spacing
    small = np.pad(phantom.mask[::4, ::4], 1)
    far = ndimage.distance_transform_edt(small)[1:-1, 1:-1] * pitch > 4
    rows, columns = phantom.mask.shape
    result: Array = np.repeat(np.repeat(far, 4, axis=0), 4, axis=1)[:rows, :columns]
    return result


def labels(example: Example) -> Array:
    """1 for candidates on a calcification, 0 for others."""
    truth = np.array([(c.row, c.column) for c in example.truth.calcifications]).reshape(-1, 2)
    if not len(truth) or not len(example.described.points):
        return np.zeros(len(example.described.points), np.int64)
    reach = np.array([max(0.3, 0.5 * c.diameter) for c in example.truth.calcifications])
    distance, nearest = cKDTree(truth).query(example.described.points)
    result: Array = (distance * example.spacing <= reach[nearest]).astype(np.int64)
    return result


def _sample(rng: np.random.Generator, target: Array, height: Array) -> tuple[Array, Array]:
    """Indices of all positives and of a share of the negatives, more of the high ones, and the weights that make up
    for it."""
    share = np.where(target == 1, 1.0, np.where(height > HIGH, KEEP_HIGH, KEEP_LOW))
    picked = np.flatnonzero(rng.random(len(target)) < share)
    return picked, 1 / share[picked]


def _fit(table: Array, target: Array, weight: Array, seed: int, members: int = 1) -> list[Any]:
    """`members` boosted classifiers that differ in their random choice of features."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return [
        HistGradientBoostingClassifier(
            max_iter=ROUNDS, learning_rate=0.07, max_leaf_nodes=LEAVES, min_samples_leaf=30, l2_regularization=5.0,
            max_features=0.25, early_stopping=False, random_state=seed + 1000 * member,
        ).fit(table, target, weight)
        for member in range(members)
    ]  # fmt: skip


def flatten(fitted: Sequence[Any], prefix: str) -> dict[str, Array]:
    """Fitted scikit-learn classifiers as the arrays that `Forest.from_arrays` reads: the mean of their log odds."""
    feature, threshold, left, value, roots, depth = [], [], [], [], [], 0
    offset = 0
    for classifier in fitted:
        for (predictor,) in classifier._predictors:
            nodes = predictor.nodes
            # Children are laid out again so that the right one follows the left: one index less to keep.
            order, place = [0], {0: 0}
            for node in order:
                if not nodes["is_leaf"][node]:
                    for child in (int(nodes["left"][node]), int(nodes["right"][node])):
                        place[child] = len(order)
                        order.append(child)
            inner = nodes["is_leaf"][order] == 0
            feature.append(np.where(inner, nodes["feature_idx"][order].astype(np.int64), -1))
            threshold.append(np.where(inner, nodes["num_threshold"][order], 0))
            left.append(
                [offset + place[int(nodes["left"][n])] if keep else 0 for n, keep in zip(order, inner, strict=True)]
            )
            value.append(np.where(inner, 0, nodes["value"][order]) / len(fitted))
            roots.append(offset)
            offset += len(order)
            depth = max(depth, int(nodes["depth"].max()))
    # Rounding down to float32 keeps `value <= threshold` as it was for float32 samples.
    exact = np.concatenate(threshold)
    single = exact.astype(np.float32)
    single = np.where(single > exact, np.nextafter(single, np.float32(-np.inf)), single)
    return {
        f"{prefix}feature": np.concatenate(feature).astype(np.int8),
        f"{prefix}threshold": single,
        f"{prefix}left": np.concatenate(left).astype(np.int32),
        f"{prefix}value": np.concatenate(value).astype(np.float32),
        f"{prefix}roots": np.array(roots, np.int32),
        f"{prefix}depth": np.array(depth),
        f"{prefix}bias": np.array(np.mean([float(c._baseline_prediction[0, 0]) for c in fitted])),
    }


def _stacked(data: Sequence[Example], first: Sequence[Array]) -> list[Array]:
    return [
        np.concatenate([e.described.table, mammography.context(e.described.points * e.spacing, p)], axis=1)
        for e, p in zip(data, first, strict=True)
    ]


def cluster_hits(example: Example, groups: Sequence[Array]) -> tuple[Array, Array, Array]:
    """Centre of each group, centres of the true clusters (mm), and the reach of each: its radius and 1 mm."""
    points = example.described.points * example.spacing
    centres = np.array([points[group].mean(axis=0) for group in groups]).reshape(-1, 2)
    truth = np.array([(c.row, c.column) for c in example.truth.clusters]).reshape(-1, 2) * example.spacing
    reach = np.array([c.radius + 1 for c in example.truth.clusters])
    return centres, truth, reach


def train(data: Sequence[Example], seed: int, version: str) -> dict[str, Array]:
    """The arrays of a model file.

    The second forest and the cluster score learn from what forests said about images they had not seen (three folds).
    """
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(seed)
    targets = [labels(example) for example in data]
    picks = [_sample(rng, t, e.described.height) for t, e in zip(targets, data, strict=True)]
    fold = np.arange(len(data)) % FOLDS
    tables = [example.described.table for example in data]

    def fitted(rows: Sequence[Array], members: Array, seed: int, count: int = 1) -> list[Any]:
        table = np.concatenate([rows[i][picks[i][0]] for i in members])
        target = np.concatenate([targets[i][picks[i][0]] for i in members])
        weight = np.concatenate([picks[i][1] for i in members])
        return _fit(table, target, weight, seed, count)

    def unseen(rows: Sequence[Array], base: int) -> list[Array]:
        out: list[Array] = [np.zeros(0)] * len(rows)
        for number in range(FOLDS):
            (forest,) = fitted(rows, np.flatnonzero(fold != number), base + number)
            for i in map(int, np.flatnonzero(fold == number)):
                out[i] = forest.predict_proba(rows[i])[:, 1]
        return out

    first = fitted(tables, np.arange(len(data)), seed, MEMBERS)
    stacked = _stacked(data, unseen(tables, seed + 10))
    second = fitted(stacked, np.arange(len(data)), seed + 1, MEMBERS)
    probability = unseen(stacked, seed + 20)

    rows, hit = [], []
    for example, p in zip(data, probability, strict=True):
        points = example.described.points * example.spacing
        groups, table = mammography.group(points, p, example.described)
        marks = froc.match(
            *cluster_hits(example, groups)[:1], np.zeros(len(groups)), *cluster_hits(example, groups)[1:]
        )
        rows.append(table)
        hit.append(marks.lesion >= 0)
    table, found = np.concatenate(rows), np.concatenate(hit)
    mean, scale = table.mean(axis=0), np.maximum(table.std(axis=0), 1e-6)
    logistic = LogisticRegression(C=0.3, max_iter=1000).fit((table - mean) / scale, found)
    return {
        "format": np.array(mammography.FORMAT),
        "version": np.array(version),
        "names": np.array(features.NAMES),
        "cluster_mean": mean,
        "cluster_scale": scale,
        "cluster_weights": np.append(logistic.coef_[0], logistic.intercept_[0]),
        **flatten(first, "first_"),
        **flatten(second, "second_"),
    }


@dataclass(frozen=True)
class Result:
    """Marks of every image, for the two FROC curves, and the pairs (score, hit) for calibration."""

    clusters: list[froc.Marks]
    singles: list[froc.Marks]


def evaluate(data: Sequence[Example], model: mammography.Model) -> Result:
    """Marks of `model` on `data`. A hit is within 0.45 mm (calcification), or the cluster's radius and 1 mm."""
    by_cluster, by_single = [], []
    for example in data:
        points = example.described.points * example.spacing
        first = model.first.probability(example.described.table, np)
        both = np.concatenate([example.described.table, mammography.context(points, first)], axis=1)
        p = model.second.probability(both, np).astype(np.float64)
        groups, table = mammography.group(points, p, example.described)
        scores = clusters.score(table, model.mean, model.scale, model.weights)
        centres, truth, reach = cluster_hits(example, groups)
        by_cluster.append(froc.match(centres, scores, truth, reach))
        grains = np.array([(c.row, c.column) for c in example.truth.calcifications]).reshape(-1, 2) * example.spacing
        by_single.append(froc.match(points, p, grains, HIT_MM))
    return Result(by_cluster, by_single)


def table(result: Result) -> str:
    """The figures of the model card, as text."""
    lines = []
    curve = froc.curve(result.clusters)
    for rate in (0.05, 0.1, 0.2, 0.5, 1.0):
        low, high = froc.interval(result.clusters, rate)
        lines.append(
            f"clusters at {rate:4.2f} FP/image: {curve.sensitivity_at(rate):.3f} "
            f"(95 % {low:.3f} to {high:.3f}), score >= {curve.threshold_at(rate):.3f}"
        )
    single = froc.curve(result.singles)
    lines += [f"calcifications at {rate:g} FP/image: {single.sensitivity_at(rate):.3f}" for rate in (0.5, 1, 5, 20)]
    score = np.concatenate([marks.score for marks in result.clusters])
    hit = np.concatenate([marks.lesion >= 0 for marks in result.clusters])
    lines.append(f"calibration error of the cluster score: {calibration_error(score, hit):.3f}")
    count = round(1 / MEASURED_STEP)
    false = [float((score[~hit] >= step / count).sum()) / len(result.clusters) for step in range(count)]
    lines.append(f"false marks an image from score 0 in steps of {MEASURED_STEP:g}: {', '.join(map(str, false))}")
    return "\n".join(lines)


def calibration_error(score: Array, hit: Array, bins: int = 10) -> float:
    """Expected calibration error: mean distance of score and hit rate over `bins` equal steps of the score."""
    step = np.minimum((score * bins).astype(int), bins - 1)
    parts = [
        abs(score[step == b].mean() - hit[step == b].mean()) * (step == b).mean()
        for b in range(bins)
        if (step == b).any()
    ]
    return float(sum(parts))


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, write, evaluate on held-out images, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=240, help="synthetic images to train on")
    parser.add_argument("--held-out", type=int, default=80, help="synthetic images to evaluate on")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    options = parser.parse_args(arguments)
    began = time.monotonic()
    start = options.seed * 100_000
    data = list(examples(range(start, start + options.images), (3.5, 13.0)))
    print(f"{len(data)} images analysed after {time.monotonic() - began:.0f} s", flush=True)
    arrays = train(data, options.seed, f"synthetic-{options.seed}.{options.images}")
    np.savez_compressed(options.out, **arrays)  # type: ignore[arg-type]
    size = options.out.stat().st_size
    print(f"model of {size / 1000:.0f} kB written after {time.monotonic() - began:.0f} s", flush=True)
    model = mammography.Model.from_arrays(arrays, np)
    print(f"held out: {options.held_out} images, contrast 5 to 12 local deviations")
    held = range(start + 50_000, start + 50_000 + options.held_out)
    unseen = list(examples(held, (5.0, 12.0), drawn_in=1.0))
    for name, part in (
        ("all", unseen),
        ("detectors", [example for example in unseen if not example.film]),
        ("films", [example for example in unseen if example.film]),
    ):
        print(f"{name}: {len(part)} images, {sum(len(e.truth.clusters) for e in part)} clusters")
        print(table(evaluate(part, model)), flush=True)
    print(f"done after {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
