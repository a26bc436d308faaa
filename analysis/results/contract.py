"""What a plug-in may hand out (contract 1), looked at before it is encoded: faults are told to its author in words.

What would be lost without a word, or would say what is not so, ends the task here: `analysis.api.BrokenContract`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from pydicom import Dataset

from analysis.api import (
    Array,
    BrokenContract,
    Emitted,
    ImageFindings,
    LabelMap,
    Mark,
    Output,
    Surface,
    Turntable,
    VolumeRendering,
    VolumeReport,
)

_KINDS = frozenset(("SEG", "M3D", "SR", "PR", "KO"))
_POINTS: Mapping[str, tuple[int, float]] = {"point": (1, 1), "circle": (2, 2), "polygon": (3, math.inf)}


def examine(emitted: Sequence[tuple[str, Emitted]]) -> None:
    """Raise BrokenContract where something that was emitted as (output name, value) cannot become a result."""
    for name, value in emitted:
        if not isinstance(value, Emitted):
            raise BrokenContract(f"The plug-in emitted as {name!r} what is no result: {type(value).__name__}.")
        if isinstance(value, LabelMap):
            _labels(value)
        elif isinstance(value, ImageFindings):
            _marks(value.marks)
        elif isinstance(value, Turntable):
            _picture(value.frames, 4, value.pitch)
        elif isinstance(value, VolumeRendering):
            _picture(value.data, 3, value.pitch)
            if not value.low < value.high:
                raise BrokenContract("A volume to look at spans no values: low is not below high.")
    maps = [value for _, value in emitted if isinstance(value, LabelMap)]
    known = {segment.number for value in maps for segment in value.segments}
    for _, value in emitted if maps else ():  # `encode` says what lacks where there is none
        if isinstance(value, VolumeReport):
            _numbers(value)
        used = [value.segment] if isinstance(value, Surface) else []
        used += [group.segment for group in value.groups] if isinstance(value, VolumeReport) else []
        for segment in used:
            if segment.number not in known:
                raise BrokenContract(f"Segment {segment.number} is none of those of the label map.")


def complete(declared: Iterable[Output], results: Iterable[Dataset]) -> None:
    """Raise BrokenContract where a kind that the manifest declares, and that is not optional, was not made."""
    made = {str(ds.Modality) if ds.Modality in _KINDS else "SC" for ds in results}
    missing = sorted({output.kind for output in declared if not output.optional} - made)
    if missing:
        raise BrokenContract(
            f"The plug-in handed out less than its manifest says; declared, and not made: {missing[0]}."
        )


def _labels(value: LabelMap) -> None:
    labels, slices = np.asarray(value.labels), len(value.volume.sop_instance_uids)
    if labels.shape != value.volume.data.shape or len(labels) != slices:
        raise BrokenContract(f"The labels are {labels.shape}, and their volume {value.volume.data.shape}.")
    used = {value for plane in labels for value in np.unique(plane).tolist()} - {0}
    if not used:
        raise BrokenContract("A label map without a voxel is no result: refuse with NotAnalysable, in words.")
    numbers = [segment.number for segment in value.segments]
    if not numbers or numbers != list(range(1, len(numbers) + 1)):
        raise BrokenContract(f"Segments are numbered 1, 2, 3 … without a gap, not {numbers[:8]}.")
    if not used <= set(numbers):
        raise BrokenContract(f"The labels have values that are no segment: {sorted(used - set(numbers))[:5]}.")


def _numbers(value: VolumeReport) -> None:
    if not value.groups:
        raise BrokenContract("A report on segments without a segment says nothing.")
    for group in value.groups:
        for measured in group.measurements:
            if not math.isfinite(float(measured.value)):
                raise BrokenContract(f"A measurement is no number: {measured.name.meaning}.")


def _picture(data: Array, dimensions: int, pitch: float) -> None:
    if data.dtype != np.uint8 or data.ndim != dimensions or (dimensions == 4 and data.shape[-1] != 3):
        raise BrokenContract(f"Pictures are uint8, not {data.dtype} of the shape {data.shape}.")
    if not data.size or (dimensions == 4 and not data.any()):
        raise BrokenContract("There is nothing to be seen on the pictures.")
    if not 0 < pitch < math.inf:
        raise BrokenContract("Pictures have a pitch above 0 mm.")


def _marks(marks: Sequence[Mark]) -> None:
    known = [mark.identifier for mark in marks]
    if len(set(known)) < len(known) or not all(known):
        raise BrokenContract("Each mark of an image has an identifier of its own.")
    for mark in marks:
        if mark.parent is not None and (mark.parent not in known or mark.parent == mark.identifier):
            raise BrokenContract(f"The parent of mark {mark.identifier} is no other mark of its image.")
        points = np.asarray(mark.points, np.float64)
        fewest, most = _POINTS[mark.shape]
        if points.ndim != 2 or not fewest <= len(points) <= most or not np.isfinite(points).all():
            raise BrokenContract(f"Mark {mark.identifier} has not the points of a {mark.shape}.")
        if not 0 <= mark.score <= 1:
            raise BrokenContract(f"The score of mark {mark.identifier} is not from 0 to 1.")
