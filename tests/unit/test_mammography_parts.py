"""Breast mask, candidates, texture, trees and clusters against shapes whose answer is known."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from analysis.algorithms import breast_mask, candidates, clusters, features, mammography, texture
from analysis.algorithms.forest import Forest

SPACING = 0.2


def half_disc(radius_mm: float = 40, spacing: float = SPACING) -> np.ndarray[Any, Any]:
    """A flat breast of 2000 on air of 100 against the left border, with a little noise."""
    rng = np.random.default_rng(0)
    rows, columns = round(100 / spacing), round(60 / spacing)
    y, x = np.mgrid[:rows, :columns] * spacing
    image = np.where(np.hypot(y - 50, x) < radius_mm, 2000.0, 100.0)
    return image + rng.normal(0, 8, image.shape)


def test_the_breast_is_found_with_its_area_and_box() -> None:
    breast = breast_mask.find(half_disc(), SPACING, np, ndimage)
    assert breast is not None
    assert breast.area_mm2 == pytest.approx(np.pi * 40**2 / 2, rel=0.03)
    assert breast.box[2] == 0
    assert breast.box[3] * SPACING == pytest.approx(40, abs=1.0)
    middle = breast.edge_mm[breast.edge_mm.shape[0] // 2]
    # The distance counts from the image border too: half-way between chest wall and skin it is largest.
    assert middle.max() == pytest.approx(20, abs=1.0)


@pytest.mark.parametrize("artefact", ["line", "label", "frame"])
def test_lines_labels_and_frames_are_no_breast(artefact: str) -> None:
    image = half_disc()
    if artefact == "line":
        image[:, -20:-8] = 3000  # 2.4 mm wide, all along
    elif artefact == "label":
        image[20:40, -70:-10] = 4000
    else:
        image[:8], image[-8:], image[:, -8:] = 4000, 4000, 4000
    breast = breast_mask.find(image, SPACING, np, ndimage)
    assert breast is not None
    assert breast.area_mm2 == pytest.approx(np.pi * 40**2 / 2, rel=0.05)
    assert breast.box[3] * SPACING < 42


@pytest.mark.parametrize("image", [np.zeros((300, 300)), np.full((300, 300), 7.0), np.ones((4, 4))])
def test_no_breast_is_none(image: np.ndarray[Any, Any]) -> None:
    assert breast_mask.find(image, SPACING, np, ndimage) is None


@pytest.mark.parametrize("spacing", [0.05, 0.1, 0.2])
def test_a_spot_is_found_where_it_is_at_every_pixel_size(spacing: float) -> None:
    image = half_disc(spacing=spacing)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] * spacing
    for row, column in ((40.0, 15.0), (60.0, 22.0)):
        image += 400 * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * 0.15**2))
    described = mammography.describe(image, spacing, np, ndimage)
    assert described is not None
    best = described.points[:2] * spacing
    order = np.argsort(best[:, 0])
    np.testing.assert_allclose(best[order], [[40, 15], [60, 22]], atol=0.12)
    assert described.table.shape == (len(described.height), len(features.NAMES))
    assert np.isfinite(described.table).all()


def test_brightness_and_contrast_of_the_display_change_no_feature() -> None:
    image = half_disc(spacing=0.1)
    image[400:402, 100:102] += 300
    one = mammography.describe(image, 0.1, np, ndimage)
    other = mammography.describe(3 * image + 500, 0.1, np, ndimage)
    assert one is not None
    assert other is not None
    np.testing.assert_allclose(one.points[:50], other.points[:50], atol=1e-6)
    np.testing.assert_allclose(one.table[:50], other.table[:50], rtol=0.02, atol=0.05)


def test_working_size_stays_between_bounds() -> None:
    for spacing in (0.025, 0.05, 0.0541, 0.07, 0.085, 0.094, 0.1, 0.11):
        assert 0.054 < spacing * candidates.working_factor(spacing) < 0.1101
    assert candidates.working_factor(0.2) == 1


def test_co_occurrence_agrees_with_scikit_image() -> None:
    skimage = pytest.importorskip("skimage.feature")
    patch = np.random.default_rng(3).normal(size=(1, 20, 20))
    low, high = patch.min(), patch.max()
    grey = np.minimum((patch[0] - low) / (high - low) * 8, 7).astype(np.uint8)
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    matrix = skimage.graycomatrix(grey, [1], angles, levels=8, symmetric=True).sum(axis=(2, 3), dtype=float)
    matrix = (matrix / matrix.sum())[:, :, None, None]
    ours = texture.glcm(patch, np)[0]
    for column, name in enumerate(("contrast", "homogeneity", "ASM", "correlation")):
        assert ours[column] == pytest.approx(skimage.graycoprops(matrix, name)[0, 0], abs=1e-5)


def test_local_binary_patterns_agree_with_scikit_image() -> None:
    skimage = pytest.importorskip("skimage.feature")
    patch = np.random.default_rng(4).integers(0, 255, (1, 18, 18)).astype(np.uint8)
    # scikit-image interpolates on a circle; on a plain ring of pixels only flat and single-step patterns agree, so
    # the comparison is with a loop over the definition.
    ring = [(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)]
    counts = np.zeros(10)
    for y in range(1, 17):
        for x in range(1, 17):
            bits = [int(patch[0, y + dy, x + dx] >= patch[0, y, x]) for dy, dx in ring]
            changes = sum(bits[i] != bits[i - 1] for i in range(8))
            counts[sum(bits) if changes <= 2 else 9] += 1
    np.testing.assert_allclose(texture.lbp(patch.astype(np.float32), np)[0], counts / 256, atol=1e-6)
    assert skimage is not None


def test_trees_add_their_log_odds() -> None:
    arrays = {
        "t_feature": np.array([0, -1, 1, -1, -1, 1, -1, -1]),
        "t_threshold": np.array([0.5, 0, 2.0, 0, 0, -1.0, 0, 0], np.float32),
        "t_left": np.array([1, 0, 3, 0, 0, 6, 0, 0]),
        "t_value": np.array([0, -1.0, 0, 0.5, 2.0, 0, 0.25, -0.25], np.float32),
        "t_roots": np.array([0, 5]),
        "t_depth": np.array(2),
        "t_bias": np.array(-0.1),
    }
    forest = Forest.from_arrays(arrays, "t_", np)
    samples = np.array([[0.5, 0.0], [0.6, 2.0], [0.6, 2.1], [0.0, -1.0]])
    odds = np.array([-1.0 - 0.25, 0.5 - 0.25, 2.0 - 0.25, -1.0 + 0.25]) - 0.1
    np.testing.assert_allclose(forest.probability(samples, np), 1 / (1 + np.exp(-odds)), atol=1e-6)
    assert forest.probability(np.zeros((0, 2)), np).shape == (0,)


def test_single_link_joins_neighbours_and_leaves_small_groups_out() -> None:
    chain = [(0.0, float(step)) for step in range(0, 12, 3)]
    pair = [(50.0, 0.0), (50.0, 1.0)]
    found = clusters.single_link(np.array([*chain, *pair]), 4.0, 3)
    assert [list(group) for group in found] == [[0, 1, 2, 3]]
    assert clusters.single_link(np.array(pair), 4.0, 3) == []
    assert [list(group) for group in clusters.single_link(np.array(pair), 4.0, 2)] == [[0, 1]]


def test_an_outline_keeps_its_distance_and_is_closed() -> None:
    points = np.array([[0.0, 0.0], [10.0, 0.0], [4.0, 7.0]])
    line = clusters.outline(points, 2.0)
    np.testing.assert_array_equal(line[0], line[-1])
    steps = np.linspace(0, 1, 50)[:, None]
    dense = np.concatenate([a + (b - a) * steps for a, b in itertools.pairwise(line)])
    nearest = np.hypot(*(dense[:, None] - points[None]).transpose(2, 0, 1)).min(axis=1)
    assert nearest.min() > 1.9
    assert clusters.outline(points[:1], 2.0).shape == (17, 2)


def test_context_counts_neighbours_and_ranks_them() -> None:
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.5], [30.0, 0.0]])
    p = np.array([0.9, 0.5, 0.2, 0.7])
    first = mammography.context(points, p)[0]
    np.testing.assert_allclose(first, [0.9, 0.5, 0.7, 0.7, 0.5, 0.2, 0, 0, 1.4], atol=1e-6)
    np.testing.assert_allclose(mammography.context(points, p)[3], [0.7, 0, 0, 0, 0, 0, 0, 0, 1.6], atol=1e-6)
    assert mammography.context(np.zeros((0, 2)), np.zeros(0)).shape == (0, 9)


def test_one_calcification_counts_once() -> None:
    points = np.array([[0.0, 0.0], [0.0, 0.3], [0.0, 0.6], [5.0, 5.0]])
    kept = mammography.separate(points, np.array([0.9, 0.8, 0.7, 0.1]), np.full(4, 0.2))
    assert list(kept) == [0, 2]
    assert list(mammography.separate(points, np.array([0.9, 0.8, 0.7, 0.1]), np.full(4, 1.2))) == [0]
