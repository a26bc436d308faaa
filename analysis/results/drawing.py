"""Draws marks, words and magnified insets into an RGB picture without covering what is looked at.

Lines have a dark halo, words lie on air where there is air, and everything scales with the picture, so that it can
still be read at half its size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Array = np.ndarray[Any, Any]
Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels, right and bottom exclusive."""

AMBER: Colour = (255, 196, 0)
CYAN: Colour = (90, 220, 255)
WHITE: Colour = (235, 235, 235)
HALO: Colour = (0, 0, 0)
_MOST_JUDGED = 300
_CELL = 8  # the map of what is taken has one element for so many pixels


@dataclass(frozen=True)
class Inset:
    """A part of a picture, enlarged. box: where; zoom: how often; corner: the (x, y) of the picture at its own."""

    box: Box
    picture: Image.Image
    zoom: float
    corner: tuple[int, int]


class Canvas:
    """A grey picture (rows, columns; uint8) that is drawn on in colour.

    `air`: bool of the same shape, where words may go; without it nothing is known to be free. `unit`: the line width
    in pixels. Words are in proportion to the picture, so that those of a mammogram can be read at half its size.
    """

    def __init__(self, grey: Array, air: Array | None = None) -> None:
        self.grey = grey
        self._untouched = Image.fromarray(grey)
        self.image = self._untouched.convert("RGB")
        self.draw = ImageDraw.Draw(self.image)
        self.height, self.width = grey.shape
        self.unit: int = max(1, round(max(grey.shape) / 1400))
        self._letters = max(1.0, max(grey.shape) / 1280)
        self._fonts: dict[float, Any] = {}
        rows, columns = -(-self.height // _CELL), -(-self.width // _CELL)
        if air is None:
            self._taken = np.ones((rows, columns), bool)
        else:
            padded = np.pad(~air, ((0, rows * _CELL - self.height), (0, columns * _CELL - self.width)))
            self._taken = padded.reshape(rows, _CELL, columns, _CELL).mean(axis=(1, 3)) > 0.02

    def font(self, size: float) -> Any:
        """The built-in typeface, `size` pixels high in a picture of 1280 pixels and in proportion in larger ones."""
        if size not in self._fonts:
            self._fonts[size] = ImageFont.load_default(size * self._letters)
        return self._fonts[size]

    def text_size(self, text: str, size: float) -> tuple[int, int]:
        """(width, height) in pixels of `text`, which may have several lines."""
        left, top, right, bottom = self.draw.multiline_textbbox((0, 0), text, self.font(size), spacing=3 * self.unit)
        return int(right - min(left, 0)) + 1, int(bottom - min(top, 0)) + 1

    def place(
        self, size: tuple[int, int], near: tuple[float, float], level: float = 1.0,
        good: Callable[[Box], bool] | None = None,
    ) -> Box | None:  # fmt: skip
        """The free box of that (width, height) whose middle is nearest to `near` (x, y), or None.

        level: how much more a step up or down counts than one to the side; captions keep the order of what they name.
        good: of some hundred boxes, nearest first, the first of which it says yes is taken, if there is one.
        """
        gap = 6 * self.unit
        cells_x, cells_y = (-(-(length + 2 * gap) // _CELL) for length in size)
        rows, columns = self._taken.shape
        if cells_y > rows or cells_x > columns:
            return None
        total = np.pad(self._taken.astype(np.int32).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        covered = (
            total[cells_y:, cells_x:]
            - total[:-cells_y, cells_x:]
            - total[cells_y:, :-cells_x]
            + total[:-cells_y, :-cells_x]
        )
        y, x = np.nonzero(covered == 0)
        fits = (x * _CELL + size[0] + 2 * gap <= self.width) & (y * _CELL + size[1] + 2 * gap <= self.height)
        y, x = y[fits], x[fits]
        if not len(y):
            return None
        middle_x, middle_y = (x + cells_x / 2) * _CELL, (y + cells_y / 2) * _CELL
        distance = (middle_x - near[0]) ** 2 + level * (middle_y - near[1]) ** 2

        def box(number: int) -> Box:
            left, top = int(x[number]) * _CELL + gap, int(y[number]) * _CELL + gap
            return left, top, left + size[0], top + size[1]

        if good is not None:
            ranked = np.argsort(distance, kind="stable")
            for number in ranked[:: max(1, len(ranked) // _MOST_JUDGED)]:
                if good(box(int(number))):
                    return box(int(number))
        return box(int(np.argmin(distance)))

    def taken(self, instead: Array | None = None) -> Array:
        """A copy of what is taken; with `instead`, such a copy of before, that is so again."""
        if instead is not None:
            self._taken = instead.copy()
        return self._taken.copy()

    def take(self, box: Box, margin: int = 0) -> None:
        """Mark a box as used: nothing else is placed there."""
        left, top, right, bottom = box
        rows = slice(max(0, top - margin) // _CELL, -(-max(0, bottom + margin) // _CELL))
        self._taken[rows, max(0, left - margin) // _CELL : -(-max(0, right + margin) // _CELL)] = True

    def line(self, points: Sequence[tuple[float, float]], colour: Colour, width: float = 1.0) -> None:
        """A line through (x, y) points, `width` line widths wide, with its halo."""
        broad = max(1, round(width * self.unit))
        self.draw.line(list(points), fill=HALO, width=broad + 2 * max(1, self.unit // 2), joint="curve")
        self.draw.line(list(points), fill=colour, width=broad, joint="curve")

    def circle(self, x: float, y: float, radius: float, colour: Colour, width: float = 1.0) -> None:
        """A circle with its halo; `radius` in pixels, to the inner edge of the line."""
        broad, halo = max(1, round(width * self.unit)), max(1, self.unit // 2)
        for grow, fill, line in ((broad + halo, HALO, broad + 2 * halo), (broad, colour, broad)):
            reach = radius + grow
            self.draw.ellipse((x - reach, y - reach, x + reach, y + reach), outline=fill, width=line)

    def restore(self, points: Sequence[Array], radius: float, inset: Inset | None = None) -> None:
        """The untouched picture again within `radius` pixels of (x, y) points, or of an inset what it enlarges."""
        picture = self._untouched if inset is None else inset.picture
        corner = (0, 0) if inset is None else inset.box[:2]
        for x, y in points:
            left, top = max(corner[0], int(x - radius)), max(corner[1], int(y - radius))
            right = min(corner[0] + picture.width, int(x + radius) + 1)
            bottom = min(corner[1] + picture.height, int(y + radius) + 1)
            if right <= left or bottom <= top:
                continue
            part = picture.crop((left - corner[0], top - corner[1], right - corner[0], bottom - corner[1]))
            disc = Image.new("L", part.size, 0)
            ImageDraw.Draw(disc).ellipse(
                (x - radius - left, y - radius - top, x + radius - left, y + radius - top), 255
            )
            self.image.paste(part.convert("RGB"), (left, top), disc)

    def brackets(self, box: tuple[float, float, float, float], colour: Colour, width: float = 1.5) -> None:
        """The four corners of a rectangle (left, top, right, bottom): open, so that it hides as little as it can."""
        left, top, right, bottom = box
        arm_x, arm_y = 0.3 * (right - left), 0.3 * (bottom - top)
        for x, dx in ((left, arm_x), (right, -arm_x)):
            for y, dy in ((top, arm_y), (bottom, -arm_y)):
                self.line([(x + dx, y), (x, y), (x, y + dy)], colour, width)

    def words(self, box: Box, text: str, colour: Colour, size: float) -> None:
        """Text in a box that `place` gave, on a dark ground, and the box taken."""
        self.draw.multiline_text(
            box[:2], text, fill=colour, font=self.font(size), spacing=3 * self.unit,
            stroke_width=max(1, self.unit), stroke_fill=HALO,
        )  # fmt: skip
        self.take(box, 4 * self.unit)

    def inset(
        self, box: Box, source: tuple[float, float, float, float], frame: Colour, grey: Array | None = None
    ) -> Inset:
        """The part `source` (left, top, right, bottom) of the untouched picture, enlarged into `box`, its own contrast.

        grey: another picture of which it is a part. Bicubic, so that single pixels do not look like structures.
        """
        grey = self.grey if grey is None else grey
        left, top, right, bottom = (round(value) for value in source)
        part = np.zeros((bottom - top, right - left), np.float32)
        inside = grey[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
        part[max(0, -top) :, max(0, -left) :][: inside.shape[0], : inside.shape[1]] = inside
        low, high = np.percentile(inside, [1, 99.9])
        part = np.clip((part - low) / max(high - low, 1.0), 0, 1) * 230
        width, height = box[2] - box[0], box[3] - box[1]
        enlarged = Image.fromarray(part.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
        self.image.paste(enlarged.convert("RGB"), box[:2])
        self.draw.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline=frame, width=max(1, self.unit))
        self.take(box, 4 * self.unit)
        return Inset(box, enlarged, width / max(1, right - left), (left, top))

    def pixels(self) -> Array:
        """What was drawn, uint8 (rows, columns, 3)."""
        return np.asarray(self.image)
