"""Owns what findings on images have to be: of images of the task, in places that lie on them, with names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from analysis.api import BrokenContract, ImageFindings, Mark, OperatingPoint
from analysis.results import places
from analysis.results.contract_inputs import Inputs
from analysis.results.contract_terms import LABEL, SENTENCE, array, code, lengths, measurements, number, text

_POINTS: Mapping[str, tuple[int, float]] = {"point": (1, 1), "circle": (2, 2), "polygon": (3, math.inf)}
_MOST_POINTS = 8000  # of an outline: Graphic Data is FL, of which an element holds 65534 bytes (PS3.5 7.1.2)


def examine(value: ImageFindings, inputs: Inputs) -> None:
    """Raise BrokenContract where findings cannot become results, in words for their author."""
    image = value.image
    source = inputs.of_this_study(image.sop_instance_uid, "Findings")
    frames = int(source.get("NumberOfFrames") or 1)
    if image.frame_number is not None and not 1 <= image.frame_number <= frames:
        raise BrokenContract(f"Findings on frame {image.frame_number} of an image that has {frames}.")
    size = (int(source.get("Rows") or 0), int(source.get("Columns") or 0))
    if image.data.shape != size:
        raise BrokenContract(f"Findings on an image of {image.data.shape} pixels, of which the input has {size}.")
    lengths(value.spacing, "the spacing of image findings")
    text(value.summary, "The summary of image findings", most=SENTENCE)
    if value.operating_point is not None:
        _operating_point(value.operating_point)
    if value.marks and not value.analysed:
        raise BrokenContract("An image that was not analysed has no marks.")
    _names(value.marks)
    for mark in value.marks:
        _mark(mark, image.data.shape)


def _operating_point(value: OperatingPoint) -> None:
    number(value.threshold, "the threshold of an operating point")
    if value.false_per_image is not None:
        number(value.false_per_image, "the false marks an image of an operating point", 0)
    if value.basis:
        text(value.basis, "The basis of an operating point", most=SENTENCE)


def _names(marks: Sequence[Mark]) -> None:
    """Each mark has a name, and belongs to none, or to one of its image that belongs to none."""
    for mark in marks:
        text(mark.identifier, "The identifier of a mark", most=LABEL)
    parents = {mark.identifier: mark.parent for mark in marks}
    if len(parents) < len(marks):
        raise BrokenContract("Each mark of an image has an identifier of its own.")
    for name, parent in parents.items():
        if parent is not None and (parent not in parents or parent == name):
            raise BrokenContract(f"The parent of mark {name} is no other mark of its image.")
        if parent is not None and parents[parent] is not None:
            raise BrokenContract(f"The parent of mark {name} belongs to a mark itself: there are two levels, no more.")


def _mark(mark: Mark, shape: tuple[int, ...]) -> None:
    name = f"mark {mark.identifier}"
    if mark.shape not in _POINTS:
        raise BrokenContract(f"The shape of {name} is none of {', '.join(_POINTS)}.")
    points = array(mark.points, f"The points of {name}", (None, 2), "fiu")
    fewest, most = _POINTS[mark.shape]
    if not fewest <= len(points) <= min(most, _MOST_POINTS):
        raise BrokenContract(f"Mark {mark.identifier} has not the points of a {mark.shape}, but {len(points)}.")
    rows, columns = shape
    left, top, right, bottom = places.extent(mark)
    if not (0 <= (left + right) / 2 <= columns and 0 <= (top + bottom) / 2 <= rows):
        raise BrokenContract(f"Mark {mark.identifier} does not lie on its image of {columns} columns and {rows} rows.")
    if mark.shape == "circle" and not 0 < places.radius(mark) <= max(rows, columns):
        raise BrokenContract(f"Mark {mark.identifier} is a circle of no size, or larger than its image.")
    number(mark.score, f"the score of {name}", 0, 1)
    code(mark.finding, f"the finding of {name}")
    measurements(mark.measurements, name)
