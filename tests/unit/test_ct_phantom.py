"""The CT phantom is what it says: its distances, volumes and areas agree, and its slices lie where they say."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.evaluation import ct_phantom
from analysis.evaluation.ct_phantom import Phantom

LAYOUTS: tuple[ct_phantom.Layout, ...] = ("upright", "tilted", "uneven")


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    return np.random.default_rng(0).uniform(-48, 48, (400_000, 3))


def test_volumes_and_areas_agree_with_the_distances(points: np.ndarray) -> None:
    phantom = Phantom()
    bone, teeth = phantom.bone_distance(points), phantom.teeth_distance(points)
    cube = 96.0**3
    assert (bone < 0).mean() * cube == pytest.approx(phantom.bone_volume, rel=0.02)
    assert (teeth < 0).mean() * cube == pytest.approx(phantom.teeth_volume, rel=0.1)
    assert (np.abs(bone) < 0.4).mean() * cube / 0.8 == pytest.approx(phantom.bone_area, rel=0.02)
    assert np.minimum(bone, teeth)[(bone < 0) & (teeth < 0)].size == 0


def test_distances_have_slope_one(points: np.ndarray) -> None:
    phantom = Phantom()
    step = 1e-4
    for distance in (phantom.bone_distance, phantom.teeth_distance):
        near = points[np.abs(distance(points)) < 1]
        gradient = np.stack(
            [(distance(near + step * axis) - distance(near - step * axis)) / (2 * step) for axis in np.eye(3)], axis=1
        )
        length = np.linalg.norm(gradient, axis=1)
        assert np.quantile(np.abs(length - 1), 0.99) < 1e-3


def test_it_scales() -> None:
    half = Phantom(0.5)
    assert half.bone_volume == pytest.approx(Phantom().bone_volume / 8)
    assert half.bone_distance(np.array([[1.0, 2.0, 3.0]])) == pytest.approx(
        Phantom().bone_distance(np.array([[2.0, 4.0, 6.0]])) / 2
    )


def test_edges_are_half_way_at_distance_zero() -> None:
    phantom = Phantom()
    at = np.array([[0.0, 4.0, 20.0 + 26.5]])  # top of the cranium, in soft tissue
    assert phantom.bone_distance(at) == pytest.approx(0, abs=1e-9)
    assert phantom.hounsfield(at) == pytest.approx((ct_phantom.CRANIUM_HU + ct_phantom.SOFT_HU) / 2, abs=1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_slices_are_sampled_where_they_lie(layout: ct_phantom.Layout) -> None:
    phantom = Phantom(0.4)
    scan = ct_phantom.volume(phantom, 40, 1.0, layout, noise_hu=0)
    k, row, column = len(scan.data) // 2, 11, 23
    place = scan.positions[k] + column * scan.spacing[1] * scan.row + row * scan.spacing[0] * scan.column
    assert scan.data[k, row, column] == pytest.approx(phantom.hounsfield(place[None])[0], abs=0.51)
    steps = np.diff(scan.positions, axis=0)
    assert (steps[:, :2] == 0).all()
    assert (np.ptp(steps[:, 2]) > 0.5) == (layout == "uneven")
    assert (abs(scan.column[2]) > 0.3) == (layout == "tilted")


def test_equal_seeds_give_equal_instances() -> None:
    first, second = (ct_phantom.volume(Phantom(0.4), 24, 1.6) for _ in range(2))
    other = ct_phantom.volume(Phantom(0.4), 24, 1.6, seed=1)
    series = ct_phantom.ct_series(first)
    assert series == ct_phantom.ct_series(second)
    assert not {ds.SOPInstanceUID for ds in series} & {ds.SOPInstanceUID for ds in ct_phantom.ct_series(other)}
    ds = series[7]
    stored = np.frombuffer(ds.PixelData, "<u2").reshape(ds.Rows, ds.Columns)
    np.testing.assert_array_equal(stored.astype(int) * ds.RescaleSlope + ds.RescaleIntercept, first.data[7])
    assert stored.max() < 4096
