"""Owns what labels, surfaces, pictures and reports of a volume have to be."""

from __future__ import annotations

import numpy as np

from analysis.api import BrokenContract, LabelMap, Segment, Surface, Turntable, VolumeRendering, VolumeReport
from analysis.results.checks import payloads
from analysis.results.contract_inputs import Inputs
from analysis.results.contract_terms import above_zero, array, code, measurements, number, prose, text

_LONGEST = 65535  # Rows and Columns are US
_MOST_BYTES = (1 << 32) - 2  # PS3.5 7.1: of a value of defined length


def labels(value: LabelMap, inputs: Inputs) -> None:
    """Raise BrokenContract where a label map cannot become a Segmentation."""
    first = inputs.volume(value.volume, "Labels")
    if not isinstance(value.labels, np.ndarray) or value.labels.dtype != np.uint8:
        raise BrokenContract(f"Labels are uint8, not {getattr(value.labels, 'dtype', type(value.labels).__name__)}.")
    grid = (len(value.volume.sop_instance_uids), int(first.get("Rows") or 0), int(first.get("Columns") or 0))
    if value.labels.shape != grid:
        raise BrokenContract(f"The labels are {value.labels.shape}, and the slices of their volume {grid}.")
    used = {value for plane in value.labels for value in np.unique(plane).tolist()} - {0}
    if not used:
        raise BrokenContract("A label map without a voxel is no result: refuse with NotAnalysable, in words.")
    numbers = [segment.number for segment in value.segments]
    if not numbers or numbers != list(range(1, len(numbers) + 1)):
        raise BrokenContract(f"Segments are numbered 1, 2, 3 … without a gap, not {numbers[:8]}.")
    if used - set(numbers):
        raise BrokenContract(f"The labels have values that are no segment: {sorted(used - set(numbers))[:5]}.")
    if set(numbers) - used:
        raise BrokenContract(f"There are segments without a voxel: {sorted(set(numbers) - used)[:5]}.")
    for segment in value.segments:
        _segment(segment)


def surface(value: Surface, inputs: Inputs) -> None:
    """Raise BrokenContract where a surface cannot become a model."""
    inputs.volume(value.volume, "Surfaces")
    _segment(value.segment)
    what = f"of the surface of segment {value.segment.number}"
    vertices = array(value.vertices, f"The vertices {what}", (None, 3), "f")
    faces = array(value.faces, f"The faces {what}", (None, 3), "iu")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise BrokenContract(f"The faces {what} name a vertex that is not there: there are {len(vertices)}.")
    if float(np.abs(vertices).max()) > payloads.FARTHEST_MM:
        raise BrokenContract(f"The vertices {what} are not in mm: they lie beyond any patient.")
    number(value.error_mm, f"the error {what}", 0)


def rendering(value: VolumeRendering, inputs: Inputs) -> None:
    """Raise BrokenContract where a volume to look at cannot be looked at."""
    inputs.volume(value.volume, "Volumes to look at")
    _pixels(array(value.data, "The voxels of a volume to look at", (None, None, None), "u"))
    above_zero(value.pitch, "the pitch of a volume to look at")
    array(value.origin, "The coordinates of the origin of a volume to look at", (3,), "fiu")
    for name in ("low", "high", "threshold"):
        number(getattr(value, name), f"{name} of a volume to look at")
    if not value.low < value.high:
        raise BrokenContract("A volume to look at spans no values: low is not below high.")


def turntable(value: Turntable, inputs: Inputs) -> None:
    """Raise BrokenContract where a film shows nothing."""
    inputs.volume(value.volume, "Turntables")
    frames = array(value.frames, "The frames of a turntable", (None, None, None, 3), "u")
    _pixels(frames)
    above_zero(value.pitch, "the pitch of a turntable")
    if not frames.any():
        raise BrokenContract("There is nothing to be seen on the frames of a turntable.")


def report(value: VolumeReport, inputs: Inputs) -> None:
    """Raise BrokenContract where a report on segments has none, one twice, or none of their numbers."""
    inputs.volume(value.volume, "Reports")
    prose(value.conclusion, "The conclusion of a report")
    if not value.groups:
        raise BrokenContract("A report on segments without a segment says nothing.")
    numbers = [group.segment.number for group in value.groups]
    if len(set(numbers)) < len(numbers):
        raise BrokenContract("A report has the measurements of each segment in one group.")
    for group in value.groups:
        _segment(group.segment)
        if not group.measurements:
            raise BrokenContract(f"The report has no measurement of segment {group.segment.number}.")
        measurements(group.measurements, f"segment {group.segment.number}")


def _segment(segment: Segment) -> None:
    if isinstance(segment.number, bool) or not 1 <= segment.number <= 255:
        raise BrokenContract(f"The number of a segment is {segment.number}, not from 1 to 255.")
    text(segment.label, f"The label of segment {segment.number}")
    code(segment.category, f"the category of segment {segment.number}")
    code(segment.type, f"the type of segment {segment.number}")
    channels = tuple(segment.colour)
    if len(channels) != 3 or not all(0 <= each <= 255 for each in channels):
        raise BrokenContract(f"The colour of segment {segment.number} is not three numbers from 0 to 255.")


def _pixels(frames: np.ndarray) -> None:
    if frames.dtype != np.uint8:
        raise BrokenContract(f"Pictures are uint8, not {frames.dtype}.")
    if max(frames.shape[1:3]) > _LONGEST or frames.nbytes > _MOST_BYTES:
        raise BrokenContract(f"Pictures of {frames.shape} pixels are larger than an instance can hold.")
