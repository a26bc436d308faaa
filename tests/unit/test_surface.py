"""Geometry, thresholds, components, decimation and surfaces against formulas and other implementations."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage as nd
from skimage.filters import threshold_multiotsu

from analysis.algorithms import components, decimate, geometry, smoothing, threshold
from analysis.algorithms.geometry import Grid
from analysis.algorithms.marching_cubes import marching_cubes
from analysis.algorithms.surface import fine_surface, surface
from analysis.evaluation.surface_error import surface_error


def tilted_grid(slices: int = 40, spacing: tuple[float, float] = (0.7, 0.5)) -> Grid:
    """Oblique slices that lean, with gaps that change."""
    turn = np.array([[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, 1.0]])
    column = turn @ np.array([0.0, np.cos(0.3), np.sin(0.3)])
    gaps = np.where(np.arange(slices) % 10 < 5, 0.6, 1.1)
    positions = np.zeros((slices, 3))
    positions[:, 2] = np.cumsum(gaps)
    return Grid(positions + np.array([5.0, -7.0, 11.0]), turn[:, 0], column, spacing)


def upright(slices: int, spacing: float) -> Grid:
    positions = np.zeros((slices, 3))
    positions[:, 2] = np.arange(slices) * spacing
    return Grid(positions, np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), (spacing, spacing))


def sampled(grid: Grid, shape: tuple[int, int, int], centre: np.ndarray, radius: float) -> np.ndarray:
    """A blurred ball of 1000 HU in 0 HU on a grid, int16."""
    indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).reshape(-1, 3)
    distance = np.linalg.norm(grid.to_patient(indices) - centre, axis=1) - radius
    return np.asarray(np.rint(1000 * np.clip(0.5 - distance / 2, 0, 1)), np.int16).reshape(shape)


def test_indices_become_millimetres_slice_by_slice() -> None:
    grid = tilted_grid()
    at = grid.to_patient(np.array([[3.0, 0, 0], [3.25, 0, 0], [3.0, 2, 4], [-1.0, 0, 0], [40.0, 0, 0]]))
    np.testing.assert_allclose(at[0], grid.positions[3])
    np.testing.assert_allclose(at[1], 0.75 * grid.positions[3] + 0.25 * grid.positions[4])
    np.testing.assert_allclose(at[2], grid.positions[3] + 4 * 0.5 * grid.row + 2 * 0.7 * grid.column)
    np.testing.assert_allclose(at[3], 2 * grid.positions[0] - grid.positions[1])
    np.testing.assert_allclose(at[4], 2 * grid.positions[39] - grid.positions[38])


def test_directions_are_the_derivative_of_positions() -> None:
    grid = tilted_grid()
    random = np.random.default_rng(0)
    indices = random.uniform(0.2, 0.8, (50, 3)) + random.integers(0, 38, (50, 3))
    direction = random.normal(size=(50, 3))
    steps = grid.index_directions(indices, direction)
    small = 1e-3
    moved = (grid.to_patient(indices + small * steps) - grid.to_patient(indices)) / small
    np.testing.assert_allclose(moved, direction, rtol=1e-6, atol=1e-6)


def test_a_crop_keeps_places_and_slices_keep_their_share() -> None:
    grid = tilted_grid()
    cropped = grid.crop((slice(4, 20), slice(3, 9), slice(6, 12)))
    inside = np.array([[2.5, 1, 2]])
    np.testing.assert_allclose(cropped.to_patient(inside), grid.to_patient(inside + np.array([[4, 3, 6]])))
    gaps = grid.gaps
    assert grid.slice_thickness().sum() == pytest.approx(gaps.sum() + (gaps[0] + gaps[-1]) / 2)


def box(a: float, b: float, c: float) -> tuple[np.ndarray, np.ndarray]:
    vertices, faces = marching_cubes(np.pad(np.ones((1, 1, 1)), 1), 0.5)
    shape = vertices[:, ::-1] - vertices.mean(axis=0)  # an octahedron with half axis 0.5
    return (shape * [2 * a, 2 * b, 2 * c]).astype(np.float32), geometry.outward(shape, faces)


def test_volume_and_area_of_an_octahedron() -> None:
    vertices, faces = box(3, 4, 5)
    assert len(faces) == 8
    assert geometry.volume(vertices + 100, faces) == pytest.approx(4 / 3 * 3 * 4 * 5, rel=1e-5)
    side = np.linalg.norm(np.cross([-3, 4, 0], [-3, 0, 5])) / 2
    assert geometry.area(vertices, faces) == pytest.approx(8 * side, rel=1e-6)
    assert geometry.volume(vertices, faces[:, ::-1]) < 0
    normals = geometry.vertex_normals(vertices, faces)
    assert ((normals * vertices).sum(axis=1) > 0).all()


def test_welding_joins_equal_corners_and_drops_flat_triangles() -> None:
    vertices, faces = box(1, 1, 1)
    loose = vertices[faces.reshape(-1)]
    numbers = np.arange(len(loose)).reshape(-1, 3)
    points, welded = geometry.weld(loose, numbers)
    assert len(points) == 6
    assert geometry.open_edges(welded) == 0
    assert len(geometry.weld(np.zeros((6, 3), np.int64), np.arange(6).reshape(-1, 3))[1]) == 0


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_multi_otsu_is_that_of_scikit_image(classes: int) -> None:
    random = np.random.default_rng(1)
    values = np.concatenate([random.normal(m, 80, n) for m, n in ((-900, 9000), (40, 6000), (800, 900), (2200, 200))])
    counts, edges = np.histogram(values, threshold.BINS, threshold.HISTOGRAM_RANGE_HU)
    centres = (edges[1:] + edges[:-1]) / 2
    expected = threshold_multiotsu(hist=(counts, centres), classes=classes)
    found = threshold.multi_otsu(counts, centres, classes)
    np.testing.assert_allclose(found, expected, atol=16.0)  # the other one names bins, not the border between them


def test_the_histogram_is_numpys() -> None:
    values = np.random.default_rng(2).integers(-2000, 4000, (3, 20, 20)).astype(np.int16)
    counts, centres = threshold.histogram(values)
    low, high = threshold.HISTOGRAM_RANGE_HU
    expected, edges = np.histogram(np.clip(values, low, high - 1), threshold.BINS, (low, high))
    np.testing.assert_array_equal(counts, expected)
    np.testing.assert_allclose(centres, (edges[1:] + edges[:-1]) / 2)


def test_half_maximum_lies_between_bone_and_soft_tissue() -> None:
    disc = np.hypot(*np.mgrid[-40:40, -40:40]) < 20
    volume = np.where(disc, 900.0, 50.0)[None].repeat(12, axis=0)
    volume[:, :, :20] = -1000  # air beside it
    blurred = np.rint(nd.gaussian_filter(volume, (0, 1.2, 1.2))).astype(np.int16)
    assert threshold.half_maximum(blurred, blurred > 300, 300, np, nd) == pytest.approx(475, abs=25)
    dry = np.where(blurred < 60, -1000, blurred).astype(np.int16)
    assert threshold.half_maximum(dry, dry > 300, 333, np, nd) == threshold.BONE_RANGE_HU[0]
    assert threshold.half_maximum(dry, dry > 3000, 333, np, nd) == 333


def test_a_head_holder_is_no_bone() -> None:
    field = np.random.default_rng(5).normal(0, 20, (30, 40, 40))
    field[:, 5:25, 5:25] += 800
    field[:, 30:35, :] += 350  # plastic
    field[3:5, 27:29, 3:8] += 330  # a small faint piece of bone
    field = field.astype(np.int16)
    kept = components.keep_large(field > 225, 10, np.ones(30), np, nd, field)
    assert kept[:, 5:25, 5:25].all()
    assert not kept[:, 30:35].any()
    assert kept[3:5, 27:29, 3:8].any()
    assert components.keep_large(field > 225, 10, np.ones(30), np, nd)[:, 31:34].all()


@pytest.mark.parametrize("fast", [True, False])
def test_components_are_weighed_slice_by_slice(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fast:
        monkeypatch.setattr(components, "cc3d", None)
    mask = np.zeros((6, 8, 8), bool)
    mask[0:2, 0:2, 0:2] = True
    mask[2, 2, 2] = True  # touches by a corner
    mask[4:6, 5:8, 5:8] = True
    mask[4, 6, 6] = False  # an open dent, no cavity: it lies in the first slice of the block
    share = np.array([1.0, 1, 1, 1, 2, 2])
    kept = components.keep_large(mask, 20, share, np, nd)
    assert kept[4:6].sum() == mask[4:6].sum()
    assert not kept[:3].any()
    hollow = np.ones((5, 5, 5), bool)
    hollow[2, 2, 2] = False
    assert components.close_small_cavities(hollow, 2, np.ones(5), np, nd).all()
    assert not components.close_small_cavities(hollow, 0.5, np.ones(5), np, nd).all()
    assert components.bounding_box(kept, 1) == (slice(3, 6), slice(4, 8), slice(4, 8))
    with pytest.raises(ValueError, match="empty"):
        components.bounding_box(np.zeros((2, 2, 2), bool), 1)


def test_slabs_of_a_gaussian_are_the_whole_gaussian(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).integers(-1000, 3000, (50, 9, 9)).astype(np.int16)
    whole = np.rint(nd.gaussian_filter(values.astype(np.float32), (1.1, 0.7, 0), truncate=3.0, mode="nearest"))
    monkeypatch.setattr(smoothing, "_SLAB", 7)
    np.testing.assert_array_equal(smoothing.gaussian(values, (1.1, 0.7, 0.1), np, nd), whole.astype(np.int16))


def test_a_ball_on_leaning_slices_with_uneven_gaps_is_a_ball() -> None:
    grid = tilted_grid()
    shape = (40, 60, 70)
    centre = grid.to_patient(np.array([[19.0, 30, 35]]))[0]
    volume = sampled(grid, shape, centre, 10.0)
    mesh = surface(volume, volume > 500, 500, grid, error_mm=0.05, budget=100_000, nd=nd)
    error = surface_error(mesh.vertices, mesh.faces, lambda p: np.linalg.norm(p - centre, axis=-1) - 10.0)
    assert error.mean < 0.03
    assert mesh.volume_mm3 == pytest.approx(4 / 3 * np.pi * 1000, rel=0.005)
    assert mesh.area_mm2 == pytest.approx(4 * np.pi * 100, rel=0.01)
    assert mesh.error_mm == 0.05
    assert geometry.volume(mesh.vertices, mesh.faces) > 0
    assert geometry.open_edges(mesh.faces) == 0


@pytest.mark.parametrize("mirrored", [False, True])
def test_winding_is_outward_whatever_the_handedness(mirrored: bool) -> None:
    grid = upright(24, 1.0)
    if mirrored:
        grid = Grid(grid.positions[::-1], grid.row, grid.column, grid.spacing)
    volume = sampled(grid, (24, 24, 24), np.array([11.5, 11.5, 11.5]), 8.0)
    vertices, faces = fine_surface(volume, volume > 500, 500, grid, np, nd)
    assert geometry.volume(vertices, faces) == pytest.approx(4 / 3 * np.pi * 512, rel=0.01)


def test_what_reaches_the_border_is_closed_there() -> None:
    grid = upright(10, 1.0)
    volume = np.full((10, 10, 10), 1000, np.int16)
    vertices, faces = fine_surface(volume, volume > 500, 500, grid, np, nd, refined=False)
    assert geometry.open_edges(faces) == 0
    assert vertices.min() > -1
    assert vertices.max() < 10


@pytest.mark.parametrize("wrong", [250, 750])
def test_refining_repairs_a_wrong_threshold(wrong: int) -> None:
    grid = upright(36, 1.0)
    centre = np.array([17.5, 17.2, 17.9])
    indices = np.stack(np.meshgrid(*3 * [np.arange(36)], indexing="ij"), axis=-1).reshape(-1, 3)
    inside = np.linalg.norm(grid.to_patient(indices) - centre, axis=1) - 12
    volume = np.rint(1000 / (1 + np.exp(inside * 2.0))).astype(np.int16).reshape(36, 36, 36)

    def distance(points: np.ndarray) -> np.ndarray:
        return np.asarray(np.linalg.norm(points - centre, axis=-1) - 12)

    vertices, faces = fine_surface(volume, volume > wrong, wrong, grid, np, nd, refined=False)
    rough = surface_error(vertices, faces, distance)
    vertices, faces = fine_surface(volume, volume > wrong, wrong, grid, np, nd)
    fine = surface_error(vertices, faces, distance)
    assert abs(rough.bias) > 0.4
    assert abs(fine.bias) < 0.35 * abs(rough.bias)


@pytest.mark.parametrize("collapse", [True, False])
def test_decimation_keeps_its_bound_and_its_budget(collapse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not collapse:
        monkeypatch.setattr(decimate, "meshoptimizer", None)
    grid = upright(44, 1.0)
    centre = np.array([21.5, 21.5, 21.5])
    volume = sampled(grid, (44, 44, 44), centre, 16.0)
    vertices, faces = fine_surface(volume, volume > 500, 500, grid, np, nd)

    def distance(points: np.ndarray) -> np.ndarray:
        return np.asarray(np.linalg.norm(points - centre, axis=-1) - 16.0)

    points, triangles, bound = decimate.decimate(vertices, faces, 0.2, 100_000)
    assert bound == 0.2
    assert len(triangles) < 0.6 * len(faces)
    error = surface_error(points, triangles, distance)
    assert error.largest < 0.25
    assert abs(error.bias) < 0.02  # as much outside as inside, on a convex surface too
    assert len(np.unique(triangles)) == len(points)
    _, triangles, bound = decimate.decimate(vertices, faces, 0.001, 500)
    assert len(triangles) <= 500
    assert 0.001 < bound < 2


def attributes() -> Iterator[tuple[str, str]]:
    """Every `xp.…` and `nd.…` that the algorithms use, dotted."""
    folder = Path(geometry.__file__).parent
    for path in sorted(folder.glob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            chain = []
            while isinstance(node, ast.Attribute):
                chain.append(node.attr)
                node = node.value
            if isinstance(node, ast.Name) and node.id in ("xp", "nd") and chain:
                yield node.id, ".".join(reversed(chain))


def test_backends_have_all_that_the_algorithms_use() -> None:
    used = sorted(set(attributes()))
    assert ("xp", "searchsorted") in used
    homes: dict[str, list[object]] = {"xp": [np], "nd": [nd]}
    if importlib.util.find_spec("cupy") is not None:
        import cupy
        import cupyx.scipy.ndimage

        homes["xp"].append(cupy)
        homes["nd"].append(cupyx.scipy.ndimage)
    for name, dotted in used:
        for home in homes[name]:
            found = home
            for part in dotted.split("."):
                assert hasattr(found, part), f"{home} has no {dotted}"
                found = getattr(found, part)
