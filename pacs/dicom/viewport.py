"""Part of a picture, turned, mirrored and scaled into a viewport, and where its points then are (PS3.18 8.3.5.1.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pacs.dicom.late import numpy as np
from pacs.errors import InvalidInput

if TYPE_CHECKING:
    import numpy.typing as npt

    Picture = npt.NDArray[np.uint8]

MAX_VIEWPORT: Final = 16384


@dataclass(frozen=True, slots=True)
class Placement:
    """Where points of an image lie in the picture made of it: x = a * column + b * row + c, and y likewise."""

    x: tuple[float, float, float] = (1, 0, 0)
    y: tuple[float, float, float] = (0, 1, 0)

    def __call__(self, column: float, row: float) -> tuple[float, float]:
        """A point of the image, (0, 0) being the corner of its first pixel, in the picture's pixels."""
        return (
            self.x[0] * column + self.x[1] * row + self.x[2],
            self.y[0] * column + self.y[1] * row + self.y[2],
        )

    @property
    def scale(self) -> float:
        """How many pixels of the picture a pixel of the image is wide and high, on average."""
        return float(abs(self.x[0] * self.y[1] - self.x[1] * self.y[0]) ** 0.5)

    def then(self, x: tuple[float, float, float], y: tuple[float, float, float]) -> Placement:
        """This placement followed by another."""

        def line(outer: tuple[float, float, float]) -> tuple[float, float, float]:
            a, b, c = outer
            return (
                a * self.x[0] + b * self.y[0],
                a * self.x[1] + b * self.y[1],
                a * self.x[2] + b * self.y[2] + c,
            )

        return Placement(line(x), line(y))


def fitted(picture: Picture, viewport: Sequence[int]) -> Picture:
    """The picture, or the source region of it, scaled to fit within a viewport, its aspect ratio kept.

    `viewport` is (width, height) or (width, height, left, top, source width, source height); negative source extents
    mirror. Raises InvalidInput.
    """
    if len(viewport) not in (2, 6):
        raise InvalidInput("viewport has neither 2 nor 6 numbers (PS3.18 8.3.5.1.3)")
    width, height = viewport[0], viewport[1]
    if not (1 <= width <= MAX_VIEWPORT and 1 <= height <= MAX_VIEWPORT):
        raise InvalidInput(f"viewport is not within 1 to {MAX_VIEWPORT}")
    if len(viewport) == 6:
        x, y, source_width, source_height = viewport[2:]
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + abs(source_width), picture.shape[1]), min(y + abs(source_height), picture.shape[0])
        if right <= left or bottom <= top:
            raise InvalidInput("viewport region lies outside of the image")
        picture = picture[top:bottom, left:right]
        picture = picture[:, ::-1] if source_width < 0 else picture
        picture = picture[::-1] if source_height < 0 else picture
    return scaled(picture, *fitting(picture.shape, width, height))


def fitting(shape: tuple[int, ...], width: int, height: int, pixel_aspect: float = 1.0) -> tuple[int, int]:
    """The largest (width, height) within a viewport that keeps the aspect ratio of a (rows, columns) picture.

    `pixel_aspect` is how much higher than wide its pixels are.
    """
    rows, columns = shape[0] * pixel_aspect, shape[1]
    scale = min(width / columns, height / rows)
    return max(1, min(width, round(columns * scale))), max(1, min(height, round(rows * scale)))


def scaled(picture: Picture, width: int, height: int) -> Picture:
    """The picture at another size: averaged where it shrinks by half and more, else interpolated."""
    rows, columns = picture.shape[:2]
    if (width, height) == (columns, rows):
        return picture
    from PIL import Image

    small = min(width / columns, height / rows) <= 0.5
    method = Image.Resampling.BOX if small else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).resize((width, height), method))


def region(picture: Picture, left: int, top: int, right: int, bottom: int) -> Picture:
    """The pixels from (left, top) up to, not with, (right, bottom); black where the picture has none."""
    shape = (bottom - top, right - left, *picture.shape[2:])
    out: npt.NDArray[Any] = np.zeros(shape, picture.dtype)
    rows = slice(max(top, 0), min(bottom, picture.shape[0]))
    columns = slice(max(left, 0), min(right, picture.shape[1]))
    if rows.start < rows.stop and columns.start < columns.stop:
        out[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = picture[rows, columns]
    return out
