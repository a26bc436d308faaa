"""Draws the findings of one image into its picture: marks on the tissue, words, ids and enlarged clusters on air.

One glyph a cluster and one a calcification, told apart by colour and by shape; each id in the picture is the Tracking
Identifier of the reports. Where the air has no room for an enlarged cluster, its caption says which ids it holds, and
`details` draws it large on a page of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom import Dataset

from analysis.api import ImageFindings, Mark, OperatingPoint
from analysis.results import places
from analysis.results.cluster_inset import draw, label_width
from analysis.results.drawing import AMBER, CYAN, WHITE, Box, Canvas
from analysis.results.provenance import RunInfo

Array = np.ndarray[Any, Any]
Extent = tuple[float, float, float, float]

DISCLAIMER = "CADe result, not for primary diagnosis"
PLAIN = "Without marks, not for primary diagnosis"
_CIRCLE_MM = 2.2
_MARGIN_MM = 2.0
_LEAST_MM = 8.0  # of tissue in an enlarged cluster
_SHARES = (0.36, 0.3, 0.25, 0.21, 0.17)  # of the shorter side of the picture, for an enlarged cluster
_MOST_TRIED = 6
_TEXT, _SMALL, _TINY = 17.0, 13.0, 9.0
_LARGE_IDS = 14.0  # where clusters have a page of their own


@dataclass(frozen=True)
class Picture:
    """What is drawn on. grey: uint8 (rows, columns) as displayed; factor: its pixels are so many of the image's."""

    run: RunInfo
    findings: ImageFindings
    source: Dataset
    grey: Array
    factor: int = 1

    @property
    def pitch(self) -> float:
        """mm from pixel to pixel."""
        return self.findings.spacing[1] * self.factor

    @property
    def chest_left(self) -> bool:
        """Whether the breast comes from the left of the picture."""
        half = self.grey.shape[1] // 2
        return float(self.grey[:, :half].mean()) >= float(self.grey[:, half:].mean())

    @property
    def name(self) -> str:
        """Side and view in short, "R MLO"; "" where the image does not say."""
        return " ".join(filter(None, (laterality(self.source), str(self.source.get("ViewPosition") or ""))))

    def groups(self) -> list[tuple[Mark, list[Mark]]]:
        """The marks that stand by themselves, each with those that belong to it."""
        marks = self.findings.marks
        return [(each, [m for m in marks if m.parent == each.identifier]) for each in marks if each.parent is None]


def paint(picture: Picture) -> Array:
    """The picture with its marks: uint8 (rows, columns, 3)."""
    canvas = _canvas(picture)
    _header(canvas, picture, marked=True)
    _scale_bar(canvas, picture)
    captions = _captions(canvas, picture)
    for each in captions:  # lines first: whatever else is drawn lies over them
        each.leader(canvas)
    for mark in picture.findings.marks:
        if mark.shape == "polygon":
            margin = _MARGIN_MM / picture.pitch if mark.parent is None else 0.0
            canvas.brackets(_extent(mark, picture.factor, margin), AMBER)
        else:
            x, y = places.centre(mark) / picture.factor
            radius = max(places.radius(mark) / picture.factor, _CIRCLE_MM / 2 / picture.pitch)
            canvas.circle(float(x), float(y), radius, CYAN)
    # Circles cross one another: whatever they run over, the calcifications themselves stay as they were.
    points = [places.centre(m) / picture.factor for m in picture.findings.marks if m.shape != "polygon"]
    canvas.restore(points, 0.4 / picture.pitch)
    for each in captions:
        each.draw(canvas)
    return canvas.pixels()


def plain(picture: Picture) -> Array:
    """The same picture without marks, to be compared with the marked one: header and scale bar in the same places."""
    canvas = _canvas(picture)
    _header(canvas, picture, marked=False)
    _scale_bar(canvas, picture)
    return canvas.pixels()


def details(picture: Picture, shape: tuple[int, int]) -> list[tuple[str, Array]]:
    """Pages of that (rows, columns) with all clusters of `picture`, which is not reduced, enlarged and every id on it.

    Each with a short name, "R MLO CL1-CL4"; none where no mark has others that belong to it.
    """
    groups = [(mark, members) for mark, members in picture.groups() if members]
    rows, columns = shape
    across = 2 if columns >= 900 else 1
    width = columns // across
    down = max(1, round(rows / width))
    pages = []
    for start in range(0, len(groups), across * down):
        some = groups[start : start + across * down]
        canvas = Canvas(np.zeros(shape, np.uint8))
        gap = 6 * canvas.unit
        for place, (mark, members) in enumerate(some):
            left, top = place % across * width, place // across * (rows // down)
            text = f"{picture.name}   {_words(mark, members, False)}".strip()
            high = canvas.text_size(text, _TEXT)[1] + 2 * gap
            side = min(width - 2 * (label_width(canvas, members, _LARGE_IDS) + gap), rows // down - high - 2 * gap)
            middle, reach = _region(mark, picture)
            square = (left + (width - side) // 2, top + high, left + (width + side) // 2, top + high + side)
            draw(
                canvas, picture.grey, square, members, picture.factor, middle, reach,
                size=_LARGE_IDS, scale_mm=1 / picture.pitch,
            )  # fmt: skip
            canvas.words((left + gap, top + gap, left + width, top + high), text, AMBER, _TEXT)
        ids = dict.fromkeys((some[0][0].identifier, some[-1][0].identifier))
        pages.append((" ".join(filter(None, (picture.name, "-".join(ids)))), canvas.pixels()))
    return pages


def _canvas(picture: Picture) -> Canvas:
    grey = picture.grey
    return Canvas(grey, grey < max(24, int(np.percentile(grey[::9, ::9], 10)) + 12))


def threshold_words(point: OperatingPoint) -> tuple[str, str]:
    """The threshold and how many false marks an image it costs, and on what that was measured."""
    if point.false_per_image is None:
        return f"Threshold {point.threshold:g}, FP/image not known", point.basis
    return f"Threshold {point.threshold:g}, {point.false_per_image:.2g} FP/image", point.basis


def percent(score: float) -> str:
    """A score of 0 to 1 in words; only what is certain is 100 %."""
    return f"{100 * score:.0f} %" if score == 1 or score < 0.995 else ">99 %"


def laterality(source: Dataset) -> str:
    """The side that an image shows, "" where it does not say."""
    text = str(source.get("ImageLaterality") or source.get("Laterality") or "")
    return text if text in ("L", "R", "B") else ""


# Words in the corners ------------------------------------------------------------------------------------------------


def _header(canvas: Canvas, picture: Picture, *, marked: bool) -> None:
    date = str(picture.source.get("ContentDate") or picture.source.get("StudyDate") or "")
    when = f"{date[:4]}-{date[4:6]}-{date[6:8]}" if len(date) == 8 else ""
    run, point = picture.run, picture.findings.operating_point
    lines = [
        "   ".join(filter(None, (picture.name, when))),
        f"{run.plugin_title} {run.plugin_version}",
        *(threshold_words(point) if point is not None and marked else ()),
        *((picture.findings.summary, DISCLAIMER) if marked else (PLAIN,)),
    ]
    text = "\n".join(filter(None, lines))
    far = canvas.width if picture.chest_left else 0
    for size in (_TEXT, _SMALL, _TINY):
        for form in (text, text.replace(", ", ",\n")):
            box = canvas.place(canvas.text_size(form, size), (far, 0))
            if box is not None:
                canvas.words(box, form, WHITE, size)
                return
    # The breast fills the picture: the corner farthest from the chest wall costs least.
    width, height = canvas.text_size(text, _TINY)
    left = max(0, canvas.width - width - 6 * canvas.unit) if far else 6 * canvas.unit
    canvas.words((left, 6 * canvas.unit, left + width, 6 * canvas.unit + height), text, WHITE, _TINY)


def _scale_bar(canvas: Canvas, picture: Picture) -> None:
    far = canvas.width if picture.chest_left else 0
    length = next((mm for mm in (20, 10, 5, 2) if mm / picture.pitch < 0.25 * canvas.width), 1)
    pixels, text = round(length / picture.pitch), f"{length} mm"
    width, height = canvas.text_size(text, _SMALL)
    rise = 8 * canvas.unit
    size = (max(pixels, width), height + 2 * rise)
    box = canvas.place(size, (far, canvas.height))
    if box is None:
        left = canvas.width - size[0] - 6 * canvas.unit if far else 6 * canvas.unit
        top = canvas.height - size[1] - 6 * canvas.unit
        box = (left, top, left + size[0], top + size[1])
    left, _, _, bottom = box
    ends = (left, bottom - canvas.unit), (left + pixels, bottom - canvas.unit)
    canvas.line([(ends[0][0], bottom - rise), ends[0], ends[1], (ends[1][0], bottom - rise)], WHITE)
    canvas.words((left, box[1], left + width, box[1] + height), text, WHITE, _SMALL)
    canvas.take(box, 4 * canvas.unit)


# Captions ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Caption:
    """The words on one cluster, where they stand, and the enlarged cluster above them where there is room for it."""

    picture: Picture
    mark: Mark
    members: Sequence[Mark]
    box: Box
    side: int  # of the enlarged cluster in pixels; 0 = none

    def leader(self, canvas: Canvas) -> None:
        """A thin line from the caption's side that faces the brackets to their nearest side, never into them."""
        start, end = _line(canvas, self.box, _outer(self.mark, self.picture))
        canvas.line([start, end], AMBER, 0.5)

    def draw(self, canvas: Canvas) -> None:
        left, top, right, bottom = self.box
        if self.side:
            middle, reach = _region(self.mark, self.picture)
            inset = left + (right - left - self.side) // 2
            square = (inset, top, inset + self.side, top + self.side)
            draw(canvas, self.picture.grey, square, self.members, self.picture.factor, middle, reach)
            top += self.side + 4 * canvas.unit
        canvas.words((left, top, right, bottom), _words(self.mark, self.members, not self.side), AMBER, _TEXT)


def _captions(canvas: Canvas, picture: Picture) -> list[_Caption]:
    """A caption for every cluster, all of them enlarged where there is room, else as many as possible."""
    groups = picture.groups()
    most = sum(1 for _, members in groups if members)
    tries = [(most, share) for share in _SHARES]
    tries += [(count, _SHARES[-1]) for count in range(min(most - 1, _MOST_TRIED), 0, -1)]
    free = canvas.taken()
    for count, share in tries if most else ():
        made = _placed(canvas, picture, groups, count, round(share * min(canvas.width, canvas.height)))
        if made is not None:
            return made
        canvas.taken(free)
    return _placed(canvas, picture, groups, 0, 0) or []


def _placed(
    canvas: Canvas, picture: Picture, groups: Sequence[tuple[Mark, list[Mark]]], count: int, side: int
) -> list[_Caption] | None:
    """Captions, the first `count` with the cluster `side` pixels large; None where that does not fit."""
    extents = [_outer(mark, picture) for mark, _ in groups]
    made: list[_Caption] = []
    lines: list[tuple[tuple[float, float], tuple[float, float]]] = []
    # The enlarged ones take most room and come first, yet in the order of their ids.
    for number, (mark, members) in enumerate(groups):
        enlarged = side if members and number < count else 0
        if enlarged and enlarged < 1.2 * _region(mark, picture)[1]:
            return None
        width, height = canvas.text_size(_words(mark, members, not enlarged), _TEXT)
        if enlarged:
            width = max(width, side + 2 * label_width(canvas, members))
            height += side + 4 * canvas.unit
        mine = extents[number]
        others = [each for each in extents if each is not mine] + [_wide(each.box) for each in made]
        clear = _is_clear(canvas, mine, others, lines)
        middle = ((mine[0] + mine[2]) / 2, (mine[1] + mine[3]) / 2)
        box = canvas.place((width, height), middle, 6.0, clear)
        if box is None and enlarged:
            return None
        if box is None:  # no air at all: beside the brackets, towards the skin
            x = mine[2] + 4 * canvas.unit if picture.chest_left else mine[0] - width - 4 * canvas.unit
            left = int(min(max(0, x), canvas.width - width))
            top = int(min(max(0, mine[1]), canvas.height - height))
            box = (left, top, left + width, top + height)
        canvas.take(box, 4 * canvas.unit)
        lines.append(_line(canvas, box, mine))
        made.append(_Caption(picture, mark, members, box, enlarged))
    return made


def _is_clear(
    canvas: Canvas, mine: Extent, others: Sequence[Extent], lines: Sequence[tuple[tuple[float, float], ...]]
) -> Callable[[Box], bool]:
    """Whether the line from a box to my brackets runs over no other cluster, no caption and no other line."""

    def clear(box: Box) -> bool:
        start, end = _line(canvas, box, mine)
        return not any(_enters(start, end, each) for each in others) and not any(
            _crosses(start, end, a, b) for a, b in lines
        )

    return clear


def _enters(start: tuple[float, float], end: tuple[float, float], box: Extent) -> bool:
    """Whether a line runs through a box (Liang and Barsky)."""
    low, high = 0.0, 1.0
    for axis in (0, 1):
        step, near, far = end[axis] - start[axis], box[axis] - start[axis], box[axis + 2] - start[axis]
        if step == 0:
            if near > 0 or far < 0:
                return False
            continue
        low, high = max(low, min(near / step, far / step)), min(high, max(near / step, far / step))
    return low <= high


def _crosses(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float], d: tuple[float, float]) -> bool:
    def side(p: tuple[float, float], q: tuple[float, float], r: tuple[float, float]) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0


def _line(canvas: Canvas, box: Box, extent: Extent) -> tuple[tuple[float, float], tuple[float, float]]:
    gap = 3 * canvas.unit
    middle = ((extent[0] + extent[2]) / 2, (extent[1] + extent[3]) / 2)
    x = min(max(middle[0], box[0] - gap), box[2] + gap)
    inside = box[0] - gap < x < box[2] + gap
    y = (box[1] - gap if middle[1] < box[1] else box[3] + gap) if inside else (box[1] + box[3]) / 2
    return (x, y), (min(max(x, extent[0]), extent[2]), min(max(y, extent[1]), extent[3]))


def _words(mark: Mark, members: Sequence[Mark], with_ids: bool) -> str:
    """Id, score and count of a cluster, and on request which ids its calcifications have."""
    text = f"{mark.identifier}   {percent(mark.score)}" + (f"   {len(members)} MC" if members else "")
    if with_ids and members:
        ids = dict.fromkeys((members[0].identifier, members[-1].identifier))
        text += f"\n{' to '.join(ids)}"
    return text


def _wide(box: Box) -> Extent:
    return float(box[0]), float(box[1]), float(box[2]), float(box[3])


def _outer(mark: Mark, picture: Picture) -> Extent:
    return _extent(mark, picture.factor, _MARGIN_MM / picture.pitch)


def _extent(mark: Mark, factor: int, margin: float) -> Extent:
    """(left, top, right, bottom) around a mark, in pixels of the picture."""
    left, top, right, bottom = (each / factor for each in places.extent(mark))
    return left - margin, top - margin, right + margin, bottom + margin


def _region(mark: Mark, picture: Picture) -> tuple[tuple[float, float], float]:
    """Middle and side, in pixels, of the square that an enlarged cluster shows."""
    left, top, right, bottom = _outer(mark, picture)
    side = max(_LEAST_MM / picture.pitch, right - left, bottom - top)
    return ((left + right) / 2, (top + bottom) / 2), side
