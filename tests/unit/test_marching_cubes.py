"""Marching cubes: closed on any volume, and where the surface is known, there."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree
from skimage.measure import euler_number
from skimage.measure import marching_cubes as reference

from analysis.algorithms import geometry
from analysis.algorithms.marching_cubes import marching_cubes


def ball(radius: float, size: int) -> np.ndarray:
    """Signed distance to a sphere in the middle of a cube, positive inside."""
    axis = np.arange(size) - (size - 1) / 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    return np.asarray(radius - np.sqrt(z**2 + y**2 + x**2), np.float32)


def padded(values: np.ndarray) -> np.ndarray:
    return np.pad(values, 1, constant_values=min(values.min() - 1, 0))


def test_a_sphere_has_its_volume_and_area() -> None:
    vertices, faces = marching_cubes(ball(15.2, 40), 0.0)
    right_handed = vertices[:, ::-1]  # (x, y, z)
    faces = geometry.outward(right_handed, faces)
    assert geometry.open_edges(faces) == 0
    assert len(vertices) - len(faces) * 3 // 2 + len(faces) == 2  # Euler: one closed surface without handles
    assert geometry.volume(right_handed, faces) == pytest.approx(4 / 3 * np.pi * 15.2**3, rel=0.004)
    assert geometry.area(right_handed, faces) == pytest.approx(4 * np.pi * 15.2**2, rel=0.004)
    distance = np.linalg.norm(vertices - 19.5, axis=1) - 15.2
    assert np.abs(distance).max() < 0.02


@pytest.mark.parametrize("seed", range(4))
def test_noise_is_closed_and_oriented(seed: int) -> None:
    values = padded(np.random.default_rng(seed).normal(size=(13, 17, 11)))
    vertices, faces = marching_cubes(values, 0.1)
    assert geometry.open_edges(faces) == 0
    assert len(np.unique(faces)) == len(vertices)


@pytest.mark.parametrize("shape", [(2, 2, 2), (2, 9, 5), (7, 3, 2)])
def test_all_cases_of_small_volumes_are_closed(shape: tuple[int, int, int]) -> None:
    random = np.random.default_rng(7)
    for _ in range(50):
        values = padded((random.random(shape) > 0.5).astype(np.int16) * 100)
        assert geometry.open_edges(marching_cubes(values, 49.5)[1]) == 0


def test_every_cell_case_alone_is_closed() -> None:
    for case in range(1, 256):
        corners = np.array([case >> bit & 1 for bit in range(8)], np.int16).reshape(2, 2, 2) * 100
        vertices, faces = marching_cubes(padded(corners), 50)
        assert geometry.open_edges(faces) == 0
        assert len(vertices) > 0


def test_it_agrees_with_another_implementation() -> None:
    random = np.random.default_rng(3)
    values = ball(9.3, 28) + random.normal(0, 0.2, (28, 28, 28)).astype(np.float32)
    vertices, faces = marching_cubes(values, 0.05)
    others, other_faces, *_ = reference(values, 0.05)
    assert len(vertices) == len(others)
    assert cKDTree(others).query(vertices)[0].max() < 1e-4
    assert geometry.volume(vertices, faces) == pytest.approx(-geometry.volume(others, other_faces), rel=2e-3)


def test_inside_corners_across_a_diagonal_stay_apart() -> None:
    values = np.zeros((3, 4, 4), np.int16)
    values[1, 1, 1] = values[1, 2, 2] = 100
    vertices, faces = marching_cubes(padded(values), 50)
    euler = len(vertices) - len(faces) * 3 // 2 + len(faces)
    assert euler == 2 * euler_number(values > 50, connectivity=1) == 4


def test_nothing_inside_gives_an_empty_mesh() -> None:
    vertices, faces = marching_cubes(np.zeros((4, 4, 4), np.int16), 50)
    assert vertices.shape == (0, 3)
    assert faces.shape == (0, 3)
