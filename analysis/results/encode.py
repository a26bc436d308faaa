"""Owns the way from what a plug-in emitted to the result objects of its task."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom import Dataset

from analysis.api import Emitted, ImageFindings, LabelMap, Surface, VolumeReport
from analysis.results import provenance
from analysis.results.provenance import RunInfo


def encode(run: RunInfo, emitted: Sequence[tuple[str, Emitted]]) -> list[Dataset]:
    """All result objects of a task, finished and naming one another, for what was emitted as (output name, value).

    Labels become one Segmentation, each surface an Encapsulated STL, reports SRs, image findings what
    `findings_report` makes of them. ValueError when a report on segments comes without their labels.
    """
    from analysis.results import encapsulated_stl, measurement_report, segmentation

    values = [value for _, value in emitted]
    results: list[Dataset] = []
    labels = [segmentation.encode(run, value) for value in values if isinstance(value, LabelMap)]
    if len(labels) > 1:
        raise ValueError("a task emits one label map")
    results += labels
    models = [
        encapsulated_stl.encode(run, value, labels[0] if labels else None)
        for value in values
        if isinstance(value, Surface)
    ]
    results += models
    for value in values:
        if isinstance(value, VolumeReport):
            if not labels:
                raise ValueError("a report on segments needs the label map that holds them")
            results.append(measurement_report.encode(run, value, labels[0], models))
    findings = [value for value in values if isinstance(value, ImageFindings)]
    if findings:
        from analysis.results import findings_report

        results += findings_report.encode(run, findings)
    provenance.relate(results)
    return results
