"""Owns what becomes of findings on images: pictures, presentation states, key images, and reports over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from highdicom import sr
from pydicom import Dataset

from analysis.api import Code, ImageFindings, Mark, Measurement
from analysis.results import (
    key_object,
    mammography_cad_sr,
    marked_frames,
    measurement_report,
    places,
    presentation_state,
    secondary_capture,
)
from analysis.results.marked_picture import DISCLAIMER, threshold_words
from analysis.results.measurement_report import concept
from analysis.results.provenance import RunInfo

CERTAINTY = Code("111012", "DCM", "Certainty of Finding")
PERCENT = Code("%", "UCUM", "Percent")
SUMMARY = Code("111017", "DCM", "CAD Processing and Findings Summary")
WITHOUT_FINDINGS = Code("111241", "DCM", "All algorithms succeeded; without findings")
NOT_ANALYSED = Code("111245", "DCM", "No algorithms succeeded; without findings")
WITH_FINDINGS = Code("111242", "DCM", "All algorithms succeeded; with findings")


def encode(run: RunInfo, findings: Sequence[ImageFindings]) -> list[Dataset]:
    """All result objects of these findings, finished.

    A Secondary Capture of each image and a TID 1500 report over all; a presentation state of each image with marks, a
    multi-frame Secondary Capture of those without and with marks, and a Key Object that names those images and then
    all the rest; for mammograms a Mammography CAD SR too. The same marks under the same ids.
    """
    captures = [secondary_capture.encode(run, each) for each in findings]
    made = [*captures, report(run, findings, captures)]
    marked = [each for each in findings if each.marks]
    made += [presentation_state.encode(run, each) for each in marked if _is_grey(run, each)]
    if mammography_cad_sr.possible(run, findings):
        made.append(mammography_cad_sr.encode(run, findings))
    if marked:
        pictures = [picture for each, picture in zip(findings, captures, strict=True) if each.marks]
        made.append(marked_frames.encode(run, marked, pictures))
        images = [run.source(each.image.sop_instance_uid) for each in marked]
        made.append(key_object.encode(run, _each_once(images), conclusion(marked, images), made))
    return made


def report(run: RunInfo, findings: Sequence[ImageFindings], captures: Sequence[Dataset]) -> Dataset:
    """The Comprehensive 3D SR (TID 1500), finished.

    Every mark is a group (TID 1410) with the id of the picture as Tracking Identifier, its place on the source image
    as SCOORD, certainty in percent and the algorithm. Every image has a group (TID 1501) whose qualitative evaluation
    says with or without findings, or that nothing was analysed: "nothing found" is never left to be guessed. The
    captures are further evidence.
    """
    images = [run.source(each.image.sop_instance_uid) for each in findings]
    groups: list[Any] = []
    for number, each in enumerate(findings, 1):
        groups.append(_whole_image(run, each, number))
        groups += [_group(run, each, mark) for mark in each.marks]
    return measurement_report.report(
        run,
        groups,
        evidence=[_named(ds) for ds in (*images, *captures)],
        images=_each_once(images),
        conclusion=conclusion(findings, images),
        description=f"{run.plugin_title}: findings",
    )


def conclusion(findings: Sequence[ImageFindings], images: Sequence[Dataset]) -> str:
    """One sentence for all images, then one for each, named by side and view."""
    total = sum(1 for each in findings for mark in each.marks if mark.parent is None)
    seen = sum(each.analysed for each in findings)
    lines = []
    if seen:
        lines.append(f"{total or 'No'} finding{'s' if total != 1 else ''} on {seen} image{'s' if seen != 1 else ''}.")
    if seen < len(findings):
        lines.append(f"Not analysed: {len(findings) - seen} image{'s' if len(findings) - seen != 1 else ''}.")
    for number, (each, ds) in enumerate(zip(findings, images, strict=True), 1):
        name = " ".join(filter(None, (str(ds.get("ImageLaterality") or ""), str(ds.get("ViewPosition") or ""))))
        lines.append(f"Image {number}{f' ({name})' if name else ''}: {each.summary}.")
    points = dict.fromkeys(each.operating_point for each in findings if each.operating_point is not None)
    lines += [f"{'. '.join(filter(None, threshold_words(point)))}." for point in points]
    return " ".join([*lines, f"{DISCLAIMER}."])


def _is_grey(run: RunInfo, findings: ImageFindings) -> bool:
    """A grayscale presentation state is of no colour image (PS3.4 N.2); its marks are in the pictures and reports."""
    return int(run.source(findings.image.sop_instance_uid).get("SamplesPerPixel") or 1) == 1


def _each_once(images: Sequence[Dataset]) -> list[Dataset]:
    """Of an instance with findings on several frames there is one."""
    return list({str(ds.SOPInstanceUID): ds for ds in images}.values())


def _named(ds: Dataset) -> Dataset:
    """The UIDs of an instance and nothing else: highdicom parses all dates of its evidence and real ones may be wrong;
    patient and study are copied from the source as they are when the report is finished."""
    named = Dataset()
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(named, keyword, ds[keyword].value)
    return named


def _whole_image(run: RunInfo, findings: ImageFindings, number: int) -> Any:
    source = run.source(findings.image.sop_instance_uid)
    frames = [findings.image.frame_number] if findings.image.frame_number is not None else None
    outcome = WITH_FINDINGS if findings.marks else WITHOUT_FINDINGS if findings.analysed else NOT_ANALYSED
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=run.uid("track whole", findings.image.sop_instance_uid, findings.image.frame_number or 0),
            identifier=f"Image {number}",
        ),
        algorithm_id=measurement_report.algorithm_identification(run),
        qualitative_evaluations=[sr.QualitativeEvaluation(concept(SUMMARY), concept(outcome))],
        source_images=[sr.SourceImageForMeasurementGroup(source.SOPClassUID, source.SOPInstanceUID, frames)],
    )


def _group(run: RunInfo, findings: ImageFindings, mark: Mark) -> Any:
    source = run.source(findings.image.sop_instance_uid)
    frames = [findings.image.frame_number] if findings.image.frame_number is not None else None
    region = sr.ImageRegion(
        graphic_type=_GRAPHIC_TYPES[mark.shape],
        graphic_data=places.on_image(mark, findings.image.data.shape),
        source_image=sr.SourceImageForRegion(source.SOPClassUID, source.SOPInstanceUID, frames),
    )
    certainty = Measurement(CERTAINTY, round(100 * mark.score, 1), PERCENT)
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=mammography_cad_sr.tracking_uid(run, findings, mark), identifier=mark.identifier
        ),
        referenced_region=region,
        finding_type=concept(mark.finding),
        algorithm_id=measurement_report.algorithm_identification(run),
        measurements=measurement_report.measurements([certainty, *mark.measurements]),
    )


_GRAPHIC_TYPES = {
    "point": sr.GraphicTypeValues.POINT,
    "circle": sr.GraphicTypeValues.CIRCLE,
    "polygon": sr.GraphicTypeValues.POLYLINE,
}
