"""Graphic and text objects of presentation states drawn into a picture (PS3.3 C.10.5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pacs.dicom import labels
from pacs.dicom.json_model import text
from pacs.dicom.late import numpy as np
from pacs.dicom.lookup import Metadata, items, values
from pacs.dicom.viewport import Placement

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import ImageDraw

    Picture = npt.NDArray[np.uint8]

Point = tuple[float, float]

MAX_POINTS: Final = 10_000
_STEPS: Final = 72


@dataclass(frozen=True, slots=True)
class Layer:
    """One item of the Graphic Annotation Sequence, and the grey level of the layer that it is on."""

    item: Metadata
    level: int = 255


def drawn(picture: Picture, placement: Placement, layers: Sequence[Layer]) -> Picture:
    """The picture with the graphics on it; objects that make no sense are left out."""
    from PIL import Image, ImageDraw

    if not layers:
        return picture
    image = Image.fromarray(np.ascontiguousarray(picture))
    pen = _Pen(ImageDraw.Draw(image), image.size, placement)
    for layer in layers:
        for graphic in items(layer.item, "00700009"):
            pen.graphic(graphic, layer.level)
        for words in items(layer.item, "00700008"):
            pen.text(words, layer.level)
    return np.asarray(image)


class _Pen:
    def __init__(self, draw: ImageDraw.ImageDraw, size: tuple[int, int], placement: Placement) -> None:
        self.draw, self.size, self.placement = draw, size, placement
        self.width = max(1, round(max(size) / 700))

    def points(self, flat: Sequence[object], units: str | None) -> list[Point]:
        """Pairs of coordinates as points of the picture: pixels of the image, or fractions of the displayed area."""
        numbers = [float(value) for value in flat[: 2 * MAX_POINTS] if isinstance(value, int | float)]
        pairs = [(x, y) for x, y in zip(numbers[::2], numbers[1::2], strict=False) if math.isfinite(x + y)]
        if units == "DISPLAY":
            return [(x * self.size[0], y * self.size[1]) for x, y in pairs]
        return [self._bounded(self.placement(x, y)) for x, y in pairs]

    def _bounded(self, point: Point) -> Point:
        """Points far outside are brought nearer: drawing takes time with the length of a line."""
        return (
            min(max(point[0], -4.0 * self.size[0]), 5.0 * self.size[0]),
            min(max(point[1], -4.0 * self.size[1]), 5.0 * self.size[1]),
        )

    def graphic(self, item: Metadata, level: int) -> None:
        points = self.points(values(item, "00700022"), text(item, "00700005"))
        filled = text(item, "00700024") == "Y"
        match text(item, "00700023"), points:
            case "POINT", [(x, y), *_]:
                arm = 4 * self.width
                self.line([(x - arm, y), (x + arm, y)], level)
                self.line([(x, y - arm), (x, y + arm)], level)
            case "POLYLINE", [_, _, *_]:
                self.shape(points, level, filled and points[0] == points[-1])
            case "INTERPOLATED", [_, _, *_]:
                self.shape(_smooth(points), level, filled and points[0] == points[-1])
            case "CIRCLE", [center, edge, *_]:
                radius = math.dist(center, edge)
                self.shape(_ellipse(center, (radius, 0.0), (0.0, radius)), level, filled)
            case "ELLIPSE", [a, b, c, d, *_]:
                center = ((a[0] + b[0] + c[0] + d[0]) / 4, (a[1] + b[1] + c[1] + d[1]) / 4)
                major = ((b[0] - a[0]) / 2, (b[1] - a[1]) / 2)
                minor = ((d[0] - c[0]) / 2, (d[1] - c[1]) / 2)
                self.shape(_ellipse(center, major, minor), level, filled)

    def shape(self, points: Sequence[Point], level: int, filled: bool) -> None:
        if filled:
            self.draw.polygon(list(points), fill=self._ink(level))
        else:
            self.line(points, level)

    def line(self, points: Sequence[Point], level: int) -> None:
        """A line with a dark edge, so that it is seen on white."""
        edge = 0 if level > 127 else 255
        self.draw.line(list(points), fill=self._ink(edge), width=self.width + 2, joint="curve")
        self.draw.line(list(points), fill=self._ink(level), width=self.width, joint="curve")

    def text(self, item: Metadata, level: int) -> None:
        lines = (text(item, "00700006") or "").splitlines()[:50]
        corners = self.points([*values(item, "00700010"), *values(item, "00700011")], text(item, "00700003"))
        anchor = self.points(values(item, "00700014"), text(item, "00700004"))
        size = max(9.0, min(self.size) / 40)
        step = size * 1.3
        if len(corners) == 2:
            left, right = sorted((corners[0][0], corners[1][0]))
            top, bottom = sorted((corners[0][1], corners[1][1]))
            if lines and bottom - top > 4:
                step = min(step, (bottom - top) / len(lines))
                size = max(6.0, step / 1.3)
            start = (left, top)
            if anchor and text(item, "00700015") == "Y":
                near = (min(max(anchor[0][0], left), right), min(max(anchor[0][1], top), bottom))
                self.line([near, anchor[0]], level)
        elif anchor:
            start = (anchor[0][0] + size / 2, anchor[0][1] - size / 2)
            if text(item, "00700015") == "Y":
                self.line([anchor[0], (start[0], start[1] + size / 2)], level)
        else:
            return
        share = {"RIGHT": 1.0, "CENTER": 0.5}.get(text(item, "00700012") or "", 0.0)
        for index, line in enumerate(lines):
            room = right - left - labels.width(self.draw, line, size) if share and len(corners) == 2 else 0.0
            labels.words(self.draw, (start[0] + share * max(room, 0.0), start[1] + index * step), line, size, level)

    def _ink(self, level: int) -> int | tuple[int, int, int]:
        return level if self.draw.mode == "L" else (level, level, level)


def _ellipse(center: Point, major: Point, minor: Point) -> list[Point]:
    turns = [2 * math.pi * step / _STEPS for step in range(_STEPS + 1)]
    return [
        (
            center[0] + major[0] * math.cos(turn) + minor[0] * math.sin(turn),
            center[1] + major[1] * math.cos(turn) + minor[1] * math.sin(turn),
        )
        for turn in turns
    ]


def _smooth(points: Sequence[Point]) -> list[Point]:
    """A curve through the points (Catmull and Rom), eight pieces from one to the next."""
    if len(points) < 3 or len(points) > MAX_POINTS // 8:
        return list(points)
    closed = points[0] == points[-1]
    before = points[-2] if closed else points[0]
    after = points[1] if closed else points[-1]
    around = [before, *points, after]
    out: list[Point] = []
    for p0, p1, p2, p3 in zip(around, around[1:], around[2:], around[3:], strict=False):
        for step in range(8):
            t = step / 8
            out.append((_between(t, p0[0], p1[0], p2[0], p3[0]), _between(t, p0[1], p1[1], p2[1], p3[1])))
    return [*out, points[-1]]


def _between(t: float, a: float, b: float, c: float, d: float) -> float:
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t * t + (3 * b - a - 3 * c + d) * t**3)
