"""Draws one cluster enlarged, with a circle and the id of every calcification in it, none over another.

Ids stand beside their circles where there is room for all, else in two columns beside the enlarged part, each with a
line to its circle.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.api import Mark
from analysis.results.drawing import AMBER, CYAN, WHITE, Box, Canvas
from analysis.results.places import centre

Array = np.ndarray[Any, Any]
Place = tuple[float, float, float, float]

IDS = 10.0
_RING = 5.0
_TURNS = 16
_AWAY = (1.3, 2.0, 3.0)  # of the ring's radius, from its centre to a label


def label_width(canvas: Canvas, members: Sequence[Mark], size: float = IDS) -> int:
    """How wide a column of the members' ids is, in pixels."""
    widest: int = max((canvas.text_size(each.identifier, size)[0] for each in members), default=0)
    return widest + 6 * int(canvas.unit)


def draw(
    canvas: Canvas, grey: Array, square: Box, members: Sequence[Mark], factor: int, middle: tuple[float, float],
    reach: float, *, size: float = IDS, scale_mm: float = 0.0,
) -> None:  # fmt: skip
    """The square of `reach` pixels of `grey` round `middle` (x, y), enlarged into `square`, with the members' ids.

    factor: pixels of the image for one of `grey`. size: of the ids. scale_mm: pixels of `grey` for a millimetre, of
    which a scale is drawn.
    """
    corner = np.array(middle) - reach / 2
    inset = canvas.inset(square, (corner[0], corner[1], corner[0] + reach, corner[1] + reach), AMBER, grey)
    zoom = inset.zoom
    spots = [((centre(each) / factor - inset.corner) * zoom + square[:2], each) for each in members]
    radius = _RING * canvas.unit
    places = _beside(canvas, square, spots, radius, size)
    lines = places is None
    if places is None:
        places = _columns(canvas, square, spots, size)
    for (spot, _), place in zip(spots, places, strict=True):
        if lines:
            _line(canvas, spot, place, radius)
    canvas.restore([spot for spot, _ in spots], radius, inset)
    for spot, _ in spots:
        canvas.circle(float(spot[0]), float(spot[1]), radius, CYAN, 0.6)
    for (_, mark), place in zip(spots, places, strict=True):
        box = (round(place[0]), round(place[1]), round(place[2]), round(place[3]))
        canvas.words(box, mark.identifier, CYAN, size)
    _scale(canvas, square, zoom, scale_mm, size)


def _beside(
    canvas: Canvas, square: Box, spots: Sequence[tuple[Array, Mark]], radius: float, size: float
) -> list[Place] | None:
    """A place beside each circle, inside of the square, over no other label and no circle; None where one has none."""
    edge = radius + 2 * canvas.unit
    taken = [(x - edge, y - edge, x + edge, y + edge) for (x, y), _ in spots]
    mark_size = 16 * canvas.unit
    taken.append((square[0], square[3] - mark_size, square[2], square[3]))  # the scale's
    places = []
    for (x, y), mark in spots:
        width, height = canvas.text_size(mark.identifier, size)
        for turn in range(_TURNS * len(_AWAY)):
            angle, away = turn % _TURNS * 2 * np.pi / _TURNS, radius * _AWAY[turn // _TURNS]
            middle = x + np.cos(angle) * (away + width / 2), y + np.sin(angle) * (away + height / 2)
            place = (middle[0] - width / 2, middle[1] - height / 2, middle[0] + width / 2, middle[1] + height / 2)
            if (
                place[0] >= square[0] and place[1] >= square[1] and place[2] <= square[2] and place[3] <= square[3]
                and not any(_overlap(place, other) for other in taken)
            ):  # fmt: skip
                taken.append(place)
                places.append(place)
                break
        else:
            return None
    return places


def _columns(canvas: Canvas, square: Box, spots: Sequence[tuple[Array, Mark]], size: float) -> list[Place]:
    """A place for each in the columns left and right of the square, as level with its spot as the others let it."""
    order = sorted(range(len(spots)), key=lambda n: float(spots[n][0][0]))
    half = (len(order) + 1) // 2
    gap = 3 * canvas.unit
    places: dict[int, Place] = {}
    for left, column in ((True, order[:half]), (False, order[half:])):
        column = sorted(column, key=lambda n: float(spots[n][0][1]))
        sizes = [canvas.text_size(spots[number][1].identifier, size) for number in column]
        step = min(max((high for _, high in sizes), default=0) + gap / 2, (square[3] - square[1]) / max(len(column), 1))
        levels = [float(spots[number][0][1]) for number in column]
        for row in range(len(levels)):
            levels[row] = max(levels[row], square[1] + step / 2, levels[row - 1] + step if row else 0.0)
        for row in reversed(range(len(levels))):
            levels[row] = min(levels[row], square[3] - step * (len(levels) - row - 0.5))
        for number, (width, height), level in zip(column, sizes, levels, strict=True):
            x = square[0] - gap - width if left else square[2] + gap
            places[number] = (x, level - height / 2, x + width, level + height / 2)
    return [places[number] for number in range(len(spots))]


def _line(canvas: Canvas, spot: Array, place: Place, radius: float) -> None:
    x, y = float(spot[0]), float(spot[1])
    end = (place[2] if place[2] < x else place[0], (place[1] + place[3]) / 2)
    length = max(float(np.hypot(end[0] - x, end[1] - y)), 1.0)
    start = (x + (end[0] - x) * radius / length, y + (end[1] - y) * radius / length)
    canvas.line([start, end], CYAN, 0.3)


def _scale(canvas: Canvas, square: Box, zoom: float, scale_mm: float, size: float) -> None:
    """How much larger it is, and a scale of a millimetre where that is asked for."""
    gap = 3 * canvas.unit
    text = f"x{zoom:.1f}" if not scale_mm else "1 mm"
    width, height = canvas.text_size(text, size)
    left, bottom = square[0] + gap, square[3] - gap
    canvas.words((left, bottom - height, left + width, bottom), text, WHITE, size)
    if scale_mm:
        start = left + width + gap
        canvas.line([(start, bottom - height // 2), (start + scale_mm * zoom, bottom - height // 2)], WHITE)


def _overlap(a: Place, b: Place) -> bool:
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])
