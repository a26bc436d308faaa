"""Volumes made ready to be looked at: where things are on the cubic grid, and on which side of each picture."""

from __future__ import annotations

import numpy as np
import scipy.ndimage

from analysis.algorithms import volume_rendering
from analysis.algorithms.geometry import Grid

TRANSFER = volume_rendering.transfer(-250, 2000, 400)


def grid(slices: int, gap: float = 1.0, tilt: float = 0.0) -> Grid:
    """Slices whose rows lean by `tilt` degrees about the left-right axis."""
    angle = np.radians(tilt)
    positions = np.zeros((slices, 3))
    positions[:, 2] = gap * np.arange(slices)
    return Grid(positions, np.array([1.0, 0, 0]), np.array([0, np.cos(angle), np.sin(angle)]), (1.0, 1.0))


def test_a_ball_stays_where_it_is_whatever_the_slices_are() -> None:
    for gap, tilt in ((1.0, 0.0), (2.0, 0.0), (1.0, 20.0)):
        where = grid(40 if gap == 1 else 20, gap, tilt)
        k, r, c = np.indices((len(where.positions), 40, 40)).reshape(3, -1)
        places = where.to_patient(np.stack([k, r, c], axis=1).astype(float))
        centre = where.to_patient(np.array([[20 / gap, 20.0, 12.0]]))[0]
        field = np.where(np.linalg.norm(places - centre, axis=1) < 5, 1000.0, -1000.0)
        field = field.reshape(-1, 40, 40).astype(np.float32)
        cube = volume_rendering.cube(field, where, -250, 2000, np, scipy.ndimage)
        found = np.array(scipy.ndimage.center_of_mass(cube.data))[::-1] * cube.pitch + cube.origin
        np.testing.assert_allclose(found, centre, atol=0.5)
        values = cube.low + cube.data / 255 * (cube.high - cube.low)
        assert abs(values.max() - 1000) < 10


def test_what_lies_beside_the_patient_is_left_out() -> None:
    field = np.full((30, 40, 40), -1000, np.float32)
    field[5:25, 8:25, 8:30] = 40
    field[:, 36:38, :] = 300  # a table
    cube = volume_rendering.cube(field, grid(30), -250, 2000, np, scipy.ndimage)
    assert cube.data[15, 15, 15] > 0
    assert not cube.data[:, 34:].any()


def test_a_thin_slab_has_pictures_too() -> None:
    """Three slices that lie closer than a voxel of the cube."""
    field = np.full((3, 200, 200), -1000, np.float32)
    field[:, 50:150, 50:150] = 1000
    cube = volume_rendering.cube(field, grid(3, 0.2), -250, 2000, np, scipy.ndimage, most_voxels=40)
    assert cube.data.shape[0] == 2
    assert volume_rendering.turntable(cube, TRANSFER, 2, np, scipy.ndimage).any()


def test_fine_slices_become_means() -> None:
    noise = np.random.default_rng(1).normal(500, 200, (60, 60, 60)).astype(np.float32)
    cube = volume_rendering.cube(noise, grid(60), -250, 2000, np, scipy.ndimage, most_voxels=20)
    inside = cube.low + cube.data[2:-2, 2:-2, 2:-2] / 255 * (cube.high - cube.low)
    assert max(cube.data.shape) == 20
    assert abs(inside.mean() - 500) < 10
    assert inside.std() < 60


def test_each_view_shows_the_side_it_says() -> None:
    """Balls at the left, in front and on top: seen from anterior, left, posterior and right."""
    z, y, x = np.indices((40, 40, 40))
    data = np.zeros((40, 40, 40), np.uint8)
    for at in ((20, 20, 32), (20, 6, 20), (34, 20, 20)):
        data[(z - at[0]) ** 2 + (y - at[1]) ** 2 + (x - at[2]) ** 2 < 16] = 200
    scene = volume_rendering.Cube(data, np.zeros(3), 1.0, -250, 2000)
    frames = volume_rendering.turntable(scene, TRANSFER, 4, np, scipy.ndimage).max(axis=3)
    middle = frames.shape[2] // 2

    def seen(view: int, row: int, column: int) -> bool:
        return bool(frames[view, row - 2 : row + 3, column - 2 : column + 3].min() > 60)

    for view in range(4):
        assert seen(view, 39 - 34, middle)  # on top in every picture
    left, front = 12, 14
    assert seen(0, 19, middle + left)  # from anterior the left is at the right of the picture
    assert not seen(0, 19, middle - left)
    assert seen(1, 19, middle - front)  # from the left, what is in front is at the left
    assert seen(2, 19, middle - left)
    assert seen(3, 19, middle + front)
