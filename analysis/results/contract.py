"""What a plug-in may hand out (contract 1), looked at before it is encoded: faults are told to its author in words.

What would be lost without a word, or would say what is not so, ends the task here: `analysis.api.BrokenContract`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from pydicom import Dataset

from analysis.api import (
    BrokenContract,
    Emitted,
    ImageFindings,
    LabelMap,
    Output,
    Segment,
    Surface,
    Turntable,
    VolumeRendering,
    VolumeReport,
)
from analysis.results import contract_images, contract_volumes
from analysis.results.contract_inputs import Inputs

_KINDS = frozenset(("SEG", "M3D", "SR", "PR", "KO"))
_CHECKS: Mapping[type, Callable[[Any, Inputs], None]] = {
    LabelMap: contract_volumes.labels,
    Surface: contract_volumes.surface,
    VolumeRendering: contract_volumes.rendering,
    Turntable: contract_volumes.turntable,
    VolumeReport: contract_volumes.report,
    ImageFindings: contract_images.examine,
}


def examine(emitted: Sequence[tuple[str, Emitted]], sources: Sequence[Dataset]) -> None:
    """Raise BrokenContract where something that was emitted as (output name, value) cannot become a result.

    sources: the inputs of the task, without pixel data; the first is of the study that the results will lie in.
    """
    inputs, values = Inputs(sources), [value for _, value in emitted]
    kinds = {type(value) for value in values}
    if VolumeReport in kinds and LabelMap not in kinds:
        raise BrokenContract(
            "The plug-in emitted a report on segments (VolumeReport) without the label map that holds them."
        )
    for name, value in emitted:
        check = next((check for kind, check in _CHECKS.items() if isinstance(value, kind)), None)
        if check is None:
            raise BrokenContract(f"The plug-in emitted as {name!r} what is no result: {type(value).__name__}.")
        try:
            check(value, inputs)
        except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise BrokenContract(
                f"What the plug-in emitted as {name!r} does not have the types of analysis.api: {type(error).__name__}."
            ) from error
    _once(values)
    _of_one_label_map(values)


def complete(declared: Iterable[Output], results: Iterable[Dataset]) -> None:
    """Raise BrokenContract where a kind that the manifest declares, and that is not optional, was not made."""
    made = {str(ds.Modality) if ds.Modality in _KINDS else "SC" for ds in results}
    missing = sorted({output.kind for output in declared if not output.optional} - made)
    if missing:
        raise BrokenContract(
            f"The plug-in handed out less than its manifest says; declared, and not made: {missing[0]}."
        )


def _once(values: Sequence[Emitted]) -> None:
    """Each of these becomes objects whose UIDs derive from what it is: a second would be the same ones again."""
    seen: set[tuple[str, Hashable]] = set()
    for value in values:
        which: Hashable = ()
        if isinstance(value, Surface):
            which = value.segment.number
        elif isinstance(value, ImageFindings):
            which = (value.image.sop_instance_uid, value.image.frame_number)
        key = (type(value).__name__, which)
        if key in seen:
            of = {"Surface": f"surface of segment {which}", "ImageFindings": "findings on one image"}
            raise BrokenContract(f"The plug-in emitted more than one {of.get(key[0], key[0])}.")
        seen.add(key)


def _of_one_label_map(values: Sequence[Emitted]) -> None:
    """Surfaces and reports are of the segments that the label map has, where there is one; a report needs it."""
    known: dict[int, Segment] = {}
    for value in values:
        if isinstance(value, LabelMap):
            known = {segment.number: segment for segment in value.segments}
    for value in values:
        used: list[Segment] = []
        if isinstance(value, VolumeReport):
            used = [group.segment for group in value.groups]
        elif isinstance(value, Surface) and known:
            used = [value.segment]
        for segment in used:
            if segment.number not in known:
                raise BrokenContract(f"Segment {segment.number} is none of those of the label map.")
            if segment != known[segment.number]:
                raise BrokenContract(f"Segment {segment.number} is another here than in the label map.")
