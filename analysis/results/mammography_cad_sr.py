"""Owns the Mammography CAD SR (PS3.3 A.35.5, PS3.16 TID 4000): what a reading workstation draws over the mammograms.

The same marks as in the TID 1500 report and the marked picture, in the form that mammography workstations have read for
twenty years. Templates and what validators insist on beyond them: findings hang off the impression by CONTAINS;
references count from 1 at the root; no findings still needs the whole document.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from pydicom import Dataset
from pydicom.uid import MammographyCADSRStorage

from analysis.api import NO_UNIT, Array, Code, ImageFindings, Mark, Measurement
from analysis.results import content, inherited, places, provenance
from analysis.results.content import ACQUISITION, CONTAINS, INFERRED, MODIFIER, OBSERVATION, PROPERTY
from analysis.results.provenance import RunInfo

KIND = "CAD"
MICROMETRE = Code("um", "UCUM", "micrometer")
PERCENT = Code("%", "UCUM", "Percent")

_LATERALITY: Mapping[str, Code] = MappingProxyType(
    {"R": Code("73056007", "SCT", "Right breast"), "L": Code("80248007", "SCT", "Left breast")}
)
VIEWS: Mapping[str, Code] = MappingProxyType(
    {
        "CC": Code("399162004", "SCT", "cranio-caudal"),
        "MLO": Code("399368009", "SCT", "medio-lateral oblique"),
        "ML": Code("399260004", "SCT", "medial-lateral"),
        "LM": Code("399352003", "SCT", "latero-medial"),
        "LMO": Code("399099002", "SCT", "latero-medial oblique"),
        "FB": Code("399196006", "SCT", "caudo-cranial"),
        "SIO": Code("399188001", "SCT", "superolateral to inferomedial oblique"),
        "ISO": Code("441555000", "SCT", "inferomedial to superolateral oblique"),
        "XCCL": Code("399192008", "SCT", "cranio-caudal exaggerated laterally"),
        "XCCM": Code("399101009", "SCT", "cranio-caudal exaggerated medially"),
    }
)
"""PS3.16 CID 4014, by the View Position that means the same (PS3.3 C.8.11.7)."""

_TITLE = Code("111036", "DCM", "Mammography CAD Report")
_LANGUAGE = Code("121049", "DCM", "Language of Content Item and Descendants")
_ENGLISH = Code("en-US", "RFC5646", "English (United States)")
_LIBRARY = Code("111028", "DCM", "Image Library")
_SUMMARY = Code("111017", "DCM", "CAD Processing and Findings Summary")
_WITHOUT = Code("111241", "DCM", "All algorithms succeeded; without findings")
_WITH = Code("111242", "DCM", "All algorithms succeeded; with findings")
_PARTLY_WITHOUT = Code("111243", "DCM", "Not all algorithms succeeded; without findings")
_PARTLY_WITH = Code("111244", "DCM", "Not all algorithms succeeded; with findings")
_NONE = Code("111245", "DCM", "No algorithms succeeded; without findings")
_IMPRESSION = Code("111034", "DCM", "Individual Impression/Recommendation")
_INTENT = Code("111056", "DCM", "Rendering Intent")
_REQUIRED = Code("111150", "DCM", "Presentation Required: Rendering device is expected to present")
_OPTIONAL = Code("111151", "DCM", "Presentation Optional: Rendering device may present")
_FINDING = Code("111059", "DCM", "Single Image Finding")
_CLUSTER = Code("129769006", "SCT", "Calcification Cluster")
_CALCIFICATION = Code("129770007", "SCT", "Individual Calcification")
_ALGORITHM = Code("111001", "DCM", "Algorithm Name")
_VERSION = Code("111003", "DCM", "Algorithm Version")
_PARAMETERS = Code("111002", "DCM", "Algorithm Parameters")
_CERTAINTY = Code("111012", "DCM", "Certainty of Finding")
_CENTER = Code("111010", "DCM", "Center")
_OUTLINE = Code("111041", "DCM", "Outline")
_TYPE = Code("111009", "DCM", "Calcification Type")
_MICRO = Code("44771000", "SCT", "Microcalcifications of the breast")
_DISTRIBUTION = Code("111008", "DCM", "Calcification Distribution")
_GROUPED = Code("129766004", "SCT", "Grouped calcification distribution")
_COUNT = Code("111038", "DCM", "Number of calcifications")
_DETECTIONS = Code("111064", "DCM", "Summary of Detections")
_SUCCESSFUL = Code("111063", "DCM", "Successful Detections")
_UNSUCCESSFUL = Code("111025", "DCM", "Failed Detections")
_DETECTION = Code("111022", "DCM", "Detection Performed")
_ANALYSES = Code("111065", "DCM", "Summary of Analyses")
_SUCCEEDED = Code("111222", "DCM", "Succeeded")
_PARTIALLY = Code("111223", "DCM", "Partially Succeeded")
_FAILED = Code("111224", "DCM", "Failed")
_NOT_ATTEMPTED = Code("111225", "DCM", "Not Attempted")

_AT_LIBRARY = (1, 2)  # the root's second item; image n of it is (1, 2, n)


def possible(run: RunInfo, findings: Sequence[ImageFindings]) -> bool:
    """Whether the images are mammograms of which side and view are known, as TID 4020 requires of each.

    Marks other than clusters with their calcifications and single calcifications have no place in this writer, nor
    have the frames of a tomosynthesis.
    """
    if any(each.image.frame_number is not None for each in findings):
        return False
    sources = [run.source(each.image.sop_instance_uid) for each in findings]
    return all(
        ds.get("Modality") == "MG" and _side(ds) is not None and _view(ds) is not None for ds in sources
    ) and all(_has_place(mark, each) for each in findings for mark in each.marks)


def _has_place(mark: Mark, findings: ImageFindings) -> bool:
    is_cluster = mark.parent is None and any(each.parent == mark.identifier for each in findings.marks)
    return _is(mark, _CLUSTER if is_cluster else _CALCIFICATION)


def _is(mark: Mark, finding: Code) -> bool:
    return (mark.finding.value, mark.finding.scheme) == (finding.value, finding.scheme)


def encode(run: RunInfo, findings: Sequence[ImageFindings]) -> Dataset:
    """The finished report on these images; only where `possible`."""
    images = [run.source(each.image.sop_instance_uid) for each in findings]
    impressions = [
        made for number, each in enumerate(findings, 1) for made in _impressions(run, each, (*_AT_LIBRARY, number))
    ]
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = MammographyCADSRStorage, run.instance_uid(KIND)
    ds.StudyInstanceUID, ds.InstanceNumber = images[0].StudyInstanceUID, 1
    provenance.series(ds, run, KIND, "SR", f"{run.plugin_title}: CAD report")
    ds.ReferencedPerformedProcedureStepSequence = provenance.sequence()
    ds.PerformedProcedureCodeSequence = provenance.sequence()
    ds.CurrentRequestedProcedureEvidenceSequence = provenance.sequence(provenance.evidence(images))
    ds.CompletionFlag, ds.VerificationFlag, ds.PreliminaryFlag = "COMPLETE", "UNVERIFIED", "PRELIMINARY"
    ds.ContentDate, ds.ContentTime = run.date, run.time
    content.document(
        ds,
        _TITLE,
        "4000",
        [
            content.code(MODIFIER, _LANGUAGE, _ENGLISH),
            content.container(
                CONTAINS, _LIBRARY, [_library_entry(each, ds) for each, ds in zip(findings, images, strict=True)]
            ),
            content.code(CONTAINS, _SUMMARY, _outcome(findings), impressions),
            content.code(CONTAINS, _DETECTIONS, _success(findings), _detections(run, findings)),
            content.code(CONTAINS, _ANALYSES, _NOT_ATTEMPTED),
        ],
    )
    return provenance.finish(ds, run, images[0])


# The image library (TID 4020) ----------------------------------------------------------------------------------------


def _library_entry(findings: ImageFindings, source: Dataset) -> Dataset:
    side, view = _side(source), _view(source)
    assert side is not None
    assert view is not None
    items = [
        content.code(ACQUISITION, Code("111027", "DCM", "Image Laterality"), side),
        content.code(ACQUISITION, Code("111031", "DCM", "Image View"), view),
    ]
    orientation = [str(value) for value in source.get("PatientOrientation") or ()]
    if len(orientation) == 2 and all(orientation):
        items.append(content.text(ACQUISITION, Code("111044", "DCM", "Patient Orientation Row"), orientation[0]))
        items.append(content.text(ACQUISITION, Code("111043", "DCM", "Patient Orientation Column"), orientation[1]))
    for keyword, name in (
        ("StudyDate", Code("111060", "DCM", "Study Date")),
        ("StudyTime", Code("111061", "DCM", "Study Time")),
        ("ContentDate", Code("111018", "DCM", "Content Date")),
        ("ContentTime", Code("111019", "DCM", "Content Time")),
    ):
        value = inherited.lawful_text(source, keyword)
        if value:
            make = content.date if keyword.endswith("Date") else content.time
            items.append(make(ACQUISITION, name, value))
    down, across = findings.spacing
    for name, mm in (
        (Code("111026", "DCM", "Horizontal Pixel Spacing"), across),
        (Code("111066", "DCM", "Vertical Pixel Spacing"), down),
    ):
        items.append(content.number(ACQUISITION, Measurement(name, round(1000 * mm, 3), MICROMETRE)))
    return content.image(CONTAINS, source, items)


def _side(source: Dataset) -> Code | None:
    return _LATERALITY.get(str(source.get("ImageLaterality") or source.get("Laterality") or ""))


def _view(source: Dataset) -> Code | None:
    known = {code.value: code for code in VIEWS.values()}
    for item in source.get("ViewCodeSequence") or ():
        if item.get("CodeValue") in known:
            return known[item.CodeValue]
    return VIEWS.get(str(source.get("ViewPosition") or ""))


# Findings (TID 4003, 4006, 4010) -------------------------------------------------------------------------------------


def _impressions(run: RunInfo, findings: ImageFindings, where: Sequence[int]) -> Iterator[Dataset]:
    """The clusters of an image, which are to be shown, and apart from them what lies by itself, which may be."""
    alone = [mark for mark in findings.marks if mark.parent is None]
    clusters = [_cluster(run, findings, where, mark) for mark in alone if _is(mark, _CLUSTER)]
    singles = [_calcification(run, findings, where, mark, CONTAINS) for mark in alone if _is(mark, _CALCIFICATION)]
    for found, intent in ((clusters, _REQUIRED), (singles, _OPTIONAL)):
        if found:
            yield content.container(INFERRED, _IMPRESSION, [_intent(intent), *found])


def _intent(intent: Code = _REQUIRED) -> Dataset:
    return content.code(MODIFIER, _INTENT, intent)


def _algorithm(run: RunInfo) -> list[Dataset]:
    parameters = "; ".join(f"{name}={value}" for name, value in run.parameter_texts().items())
    return [
        content.text(PROPERTY, _ALGORITHM, run.plugin_title),
        content.text(PROPERTY, _VERSION, run.plugin_version),
        content.text(PROPERTY, _PARAMETERS, parameters),
    ]


def _certainty(mark: Mark) -> Dataset:
    return content.number(PROPERTY, Measurement(_CERTAINTY, round(100 * mark.score, 1), PERCENT))


def _cluster(run: RunInfo, findings: ImageFindings, where: Sequence[int], mark: Mark) -> Dataset:
    members = [each for each in findings.marks if each.parent == mark.identifier]
    points = places.on_image(mark, findings.image.data.shape)
    centre = np.mean([places.centre(each) for each in members], axis=0)
    items = [
        _intent(),
        *_algorithm(run),
        content.text(OBSERVATION, Code("112039", "DCM", "Tracking Identifier"), mark.identifier),
        content.uid(
            OBSERVATION, Code("112040", "DCM", "Tracking Unique Identifier"), tracking_uid(run, findings, mark)
        ),
        _certainty(mark),
        content.coordinates(PROPERTY, _CENTER, "POINT", _inside(centre, findings), where),
    ]
    if mark.shape == "polygon":
        items.append(content.coordinates(PROPERTY, _OUTLINE, "POLYLINE", points.ravel().tolist(), where))
    items += [
        content.code(PROPERTY, _TYPE, _MICRO),
        content.code(PROPERTY, _DISTRIBUTION, _GROUPED),
        content.number(PROPERTY, Measurement(_COUNT, len(members), NO_UNIT)),
        *(_calcification(run, findings, where, each, INFERRED) for each in members),
    ]
    return content.code(CONTAINS, _FINDING, _CLUSTER, items)


def _calcification(
    run: RunInfo, findings: ImageFindings, where: Sequence[int], mark: Mark, relationship: str
) -> Dataset:
    items = [
        _intent(_REQUIRED if mark.parent is not None else _OPTIONAL),
        *_algorithm(run)[:2],
        content.text(OBSERVATION, Code("112039", "DCM", "Tracking Identifier"), mark.identifier),
        content.uid(
            OBSERVATION, Code("112040", "DCM", "Tracking Unique Identifier"), tracking_uid(run, findings, mark)
        ),
        _certainty(mark),
        content.coordinates(PROPERTY, _CENTER, "POINT", _inside(places.centre(mark), findings), where),
        content.code(PROPERTY, _TYPE, _MICRO),
    ]
    return content.code(relationship, _FINDING, _CALCIFICATION, items)


def tracking_uid(run: RunInfo, findings: ImageFindings, mark: Mark) -> str:
    """The UID under which every object of the task knows this mark."""
    frame = findings.image.frame_number
    return run.uid("track", findings.image.sop_instance_uid, mark.identifier, *([frame] if frame is not None else []))


def _inside(place: Array, findings: ImageFindings) -> list[float]:
    rows, columns = findings.image.data.shape
    return [float(each) for each in np.clip(place, 0.0, [columns, rows])]


# What was done (TID 4015, 4017) --------------------------------------------------------------------------------------


def _outcome(findings: Sequence[ImageFindings]) -> Code:
    """CID 6047: an image that could not be analysed is never without findings."""
    found, analysed = any(each.marks for each in findings), [each.analysed for each in findings]
    if all(analysed):
        return _WITH if found else _WITHOUT
    if not any(analysed):
        return _NONE
    return _PARTLY_WITH if found else _PARTLY_WITHOUT


def _success(findings: Sequence[ImageFindings]) -> Code:
    """CID 6042."""
    analysed = [each.analysed for each in findings]
    return _SUCCEEDED if all(analysed) else _PARTIALLY if any(analysed) else _FAILED


def _detections(run: RunInfo, findings: Sequence[ImageFindings]) -> list[Dataset]:
    """Which detections succeeded, and which failed, each on which images of the library."""
    made = []
    for name, analysed in ((_SUCCESSFUL, True), (_UNSUCCESSFUL, False)):
        where = [(*_AT_LIBRARY, n) for n, each in enumerate(findings, 1) if each.analysed is analysed]
        if where:
            images = [content.by_reference(PROPERTY, each) for each in where]
            kinds = (_CLUSTER, _CALCIFICATION)
            items = [content.code(CONTAINS, _DETECTION, kind, [*_algorithm(run), *images]) for kind in kinds]
            made.append(content.container(INFERRED, name, items))
    return made
