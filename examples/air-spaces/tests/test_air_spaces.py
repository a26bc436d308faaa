"""Two balls of air in a body of water: their volumes are known."""

from __future__ import annotations

import numpy as np
import pytest
from air_spaces import plugin

from analysis.api import Cancelled, NotAnalysable, Volume
from analysis.kit.context import LocalContext


def body(*balls: tuple[float, float, float, float], gaps: tuple[float, ...] = (1.0,)) -> Volume:
    """A cylinder of water, 64 mm wide and high, in a room of air, with balls of air (x, y, z, radius in mm) in it.

    gaps: distances between slices in mm, repeated; voxels are 0.5 mm within a slice.
    """
    steps = np.resize(gaps, 200)
    z = -40 + np.concatenate([[0.0], np.cumsum(steps)])
    z = z[z <= 40]
    y, x = (np.indices((160, 160)) - 79.5) * 0.5
    data = np.full((len(z), 160, 160), -1000, np.int16)
    for number, height in enumerate(z):
        data[number][np.hypot(x, y) < 32] = 0
        for across, down, middle, radius in balls:
            data[number][(x - across) ** 2 + (y - down) ** 2 + (height - middle) ** 2 < radius**2] = -1000
    positions = np.stack([np.full(len(z), x[0, 0]), np.full(len(z), y[0, 0]), z], axis=1)
    return Volume(
        data=data,
        positions=positions,
        row=np.array([1.0, 0.0, 0.0]),
        column=np.array([0.0, 1.0, 0.0]),
        spacing=(0.5, 0.5),
        sop_instance_uids=tuple(f"2.25.{n}" for n in range(1, len(z) + 1)),
        frame_of_reference_uid="2.25.99",
    )


def ball_ml(radius: float) -> float:
    """The volume of a ball of that radius in mm."""
    return 4 / 3 * np.pi * radius**3 / 1000


@pytest.mark.parametrize("gaps", [(1.0,), (1.0, 2.0), (0.6, 0.6, 1.5)])
def test_the_volumes_of_two_balls(gaps: tuple[float, ...]) -> None:
    ctx = LocalContext({"ct": body((-10, 0, -10, 12), (12, 5, 14, 8), gaps=gaps)})
    plugin.run(ctx, plugin.params())
    [group] = ctx["report"].groups
    total, largest = (each.value for each in group.measurements)
    assert total == pytest.approx(ball_ml(12) + ball_ml(8), rel=0.02)
    assert largest == pytest.approx(ball_ml(12), rel=0.02)


def test_small_parts_are_left_out() -> None:
    ctx = LocalContext({"ct": body((-10, 0, -10, 12), (12, 5, 14, 8))})
    plugin.run(ctx, plugin.params(smallest_ml=5))
    assert ctx["report"].groups[0].measurements[0].value == pytest.approx(ball_ml(12), rel=0.02)


def test_the_room_is_no_air_inside() -> None:
    with pytest.raises(NotAnalysable, match="No air inside the body"):
        plugin.run(LocalContext({"ct": body()}), plugin.params())


def test_stops_when_it_is_cancelled() -> None:
    with pytest.raises(Cancelled):
        plugin.run(LocalContext({"ct": body((0, 0, 0, 10))}, cancel_at=0.3), plugin.params())
