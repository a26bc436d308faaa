"""FROC curves against counts done by hand."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.evaluation import froc


def two_images() -> list[froc.Marks]:
    one = froc.match(
        np.array([[0.0, 0.0], [0.5, 0.0], [10.0, 10.0]]),
        np.array([0.9, 0.8, 0.6]),
        np.array([[0.0, 0.2], [20, 20]]),
        1.0,
    )
    other = froc.match(np.array([[5.0, 5.0], [1.0, 1.0]]), np.array([0.7, 0.3]), np.array([[1.0, 1.0]]), 1.0)
    return [one, other]


def test_a_mark_hits_the_nearest_lesion_within_reach() -> None:
    one, other = two_images()
    assert list(one.lesion) == [0, 0, -1]
    assert list(other.lesion) == [-1, 0]
    each = froc.match(np.array([[0.0, 3.0]]), np.array([1.0]), np.array([[0.0, 0.0], [0.0, 5.0]]), np.array([4.0, 1.0]))
    assert list(each.lesion) == [0]


def test_the_curve_counts_lesions_once_and_repeated_hits_not_as_false() -> None:
    curve = froc.curve(two_images())
    assert curve.sensitivity_at(0.0) == pytest.approx(1 / 3)
    assert curve.sensitivity_at(0.5) == pytest.approx(1 / 3)
    assert curve.sensitivity_at(1.0) == pytest.approx(2 / 3)
    assert curve.threshold_at(0.0) == pytest.approx(0.9)
    assert curve.threshold_at(1.0) == pytest.approx(0.3)


def test_nothing_marked_and_nothing_there() -> None:
    empty = froc.match(np.zeros((0, 2)), np.zeros(0), np.zeros((0, 2)), 1.0)
    curve = froc.curve([empty])
    assert curve.sensitivity_at(1.0) == 0.0
    assert curve.threshold_at(1.0) == float("inf")


def test_the_interval_holds_the_value_and_is_repeatable() -> None:
    rng = np.random.default_rng(0)
    images = [froc.Marks(rng.random(2), np.array([0 if rng.random() < 0.8 else -1, -1]), 1) for _ in range(30)]
    low, high = froc.interval(images, 1.0, rounds=100)
    assert low <= froc.curve(images).sensitivity_at(1.0) <= high
    assert (low, high) == froc.interval(images, 1.0, rounds=100)
