"""Owns the way from what a plug-in emitted to the result objects of its task."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pydicom import Dataset

from analysis.api import (
    Emitted,
    ImageFindings,
    LabelMap,
    Surface,
    Turntable,
    VolumeRendering,
    VolumeReport,
)
from analysis.results import contract, relations
from analysis.results.provenance import RunInfo
from pacs.settings import RESULT_FORMS

LABELMAP, OBJ = "LABELMAP", "OBJ"
FORMS = RESULT_FORMS
"""Further forms of results, beside those that any PACS reads (`Settings.result_forms`)."""


def encode(run: RunInfo, emitted: Sequence[tuple[str, Emitted]], forms: Collection[str] = ()) -> list[Dataset]:
    """All result objects of a task, finished and naming one another, for what was emitted as (output name, value).

    Labels become one Segmentation, each surface an Encapsulated STL, volumes and turntables multi-frame Secondary
    Captures, reports SRs, image findings what `findings_report` makes of them. `forms`: those of FORMS that are made
    too. BrokenContract where what was emitted cannot become results.
    """
    from analysis.results import (
        encapsulated_obj,
        encapsulated_stl,
        measurement_report,
        multiframe_capture,
        segmentation,
    )

    contract.examine(emitted, run.sources)
    values = [value for _, value in emitted]
    results: list[Dataset] = []
    maps = [value for value in values if isinstance(value, LabelMap)]
    labels = [segmentation.encode(run, value) for value in maps]
    results += labels
    if LABELMAP in forms:
        results += [segmentation.encode(run, value, kind=segmentation.LABELMAP) for value in maps]
    surfaces = [value for value in values if isinstance(value, Surface)]
    models = [encapsulated_stl.encode(run, value, labels[0] if labels else None) for value in surfaces]
    results += models
    if OBJ in forms:
        results += encapsulated_obj.encode(run, surfaces, labels[0] if labels else None)
    results += [multiframe_capture.encode_volume(run, value) for value in values if isinstance(value, VolumeRendering)]
    results += [multiframe_capture.encode_turntable(run, value) for value in values if isinstance(value, Turntable)]
    for value in values:
        if isinstance(value, VolumeReport):
            results.append(measurement_report.encode(run, value, labels[0], models))
    findings = [value for value in values if isinstance(value, ImageFindings)]
    if findings:
        from analysis.results import findings_report

        results += findings_report.encode(run, findings)
    relations.relate(results, run.sources)
    return results
