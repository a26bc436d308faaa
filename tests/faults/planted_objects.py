"""Faults of result objects, a row each: what a report, a segmentation or a model may have wrong."""

from __future__ import annotations

from collections.abc import Callable

from faults.planted import Fault
from pydicom import Dataset

from conformance import objects

SEG, STL, SR = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.104.3", "1.2.840.10008.5.1.4.1.1.88.34"


def of(sop_class: str, change: Callable[[Dataset], object]) -> Callable[[list[Dataset]], None]:
    """Change the result of one class."""

    def work(results: list[Dataset]) -> None:
        for ds in results:
            if sop_class == ds.SOPClassUID:
                change(ds)

    return work


def without(*keywords: str) -> Callable[[Dataset], None]:
    """Forget attributes wherever they are."""

    def work(ds: Dataset) -> None:
        for each in list(objects.items(ds)):
            for keyword in keywords:
                if keyword in each:
                    delattr(each, keyword)

    return work


def _prune(name: tuple[str, str]) -> Callable[[Dataset], None]:
    """Forget the content items of a name."""

    def work(ds: Dataset) -> None:
        for each in list(objects.items(ds)):
            if "ContentSequence" in each:
                each.ContentSequence = [item for item in each.ContentSequence if objects.concept(item) != name]

    return work


def _elsewhere(ds: Dataset) -> None:
    for each in objects.content(ds):
        for item in each.get("ReferencedSOPSequence") or []:
            item.ReferencedSOPInstanceUID = "2.25.1"
    for each in objects.items(ds):
        if "ReferencedSOPInstanceUID" in each:
            each.ReferencedSOPInstanceUID = "2.25.1"


def _ninth_segment(ds: Dataset) -> None:
    for each in objects.items(ds):
        if "ReferencedSegmentNumber" in each:
            each.ReferencedSegmentNumber = 9


def _shared_series(results: list[Dataset]) -> None:
    for ds in results:
        ds.SeriesInstanceUID = results[0].SeriesInstanceUID


def _capture(results: list[Dataset]) -> None:
    """A picture that derives from images, and says of which neither that nor whether words are burnt in."""
    ds = Dataset()
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "Modality", "StudyDate"):
        setattr(ds, keyword, results[0][keyword].value)
    ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "2.25.71", "2.25.72"
    ds.ImageType = ["DERIVED", "SECONDARY"]
    results.append(ds)


def _mark_outside(ds: Dataset) -> None:
    """A point far beside an image that the report refers to (PS3.3 C.18.6)."""
    image = next(each for each in objects.items(ds) if "ReferencedSOPClassUID" in each)
    point, shown, reference = Dataset(), Dataset(), Dataset()
    reference.ReferencedSOPClassUID = image.ReferencedSOPClassUID
    reference.ReferencedSOPInstanceUID = image.ReferencedSOPInstanceUID
    shown.RelationshipType, shown.ValueType, shown.ReferencedSOPSequence = "SELECTED FROM", "IMAGE", [reference]
    point.RelationshipType, point.ValueType, point.GraphicType = "CONTAINS", "SCOORD", "POINT"
    point.GraphicData, point.ContentSequence = [100_000.0, 5.0], [shown]
    ds.ContentSequence = [*ds.ContentSequence, point]


RESULTS = (
    Fault("a capture says nothing of its origin", "N11", objects=_capture),
    Fault("a mark beside its image", "N12", objects=of(SR, _mark_outside), absent=True),
    Fault("a Type 1 attribute is missing", "N01", objects=of(SEG, without("ContentLabel"))),
    Fault("a Type 2 attribute is missing", "N01", objects=of(SR, without("AccessionNumber"))),
    Fault("no template", "N04", objects=of(SR, without("ContentTemplateSequence"))),
    Fault("no language", "N04", objects=of(SR, _prune(("121049", "DCM")))),
    Fault("no device", "N04", objects=of(SR, _prune(("121012", "DCM")))),
    Fault("items without relationship", "N04a", objects=of(SR, without("RelationshipType"))),
    Fault("no algorithm", "N05", objects=of(SR, _prune(("111001", "DCM")))),
    Fault("numbers without unit", "N05a", objects=of(SR, without("MeasurementUnitsCodeSequence"))),
    Fault("references to nothing", "N06", objects=of(SR, _elsewhere)),
    Fault("no evidence", "N07", objects=of(SR, without("CurrentRequestedProcedureEvidenceSequence"))),
    Fault("another patient", "N08", objects=of(SR, lambda ds: setattr(ds, "PatientID", "ZZ-OTHER"))),
    Fault("one series for everything", "N08", objects=_shared_series),
    Fault("frames are miscounted", "N09", objects=of(SEG, lambda ds: setattr(ds, "NumberOfFrames", 3))),
    Fault("frames of no segment", "N09", objects=of(SEG, _ninth_segment)),
    Fault("no positions", "N09", objects=of(SEG, without("PlanePositionSequence"))),
    Fault("segments of no kind", "N09", objects=of(SEG, without("SegmentedPropertyTypeCodeSequence"))),
    Fault("nobody made the segments", "N09", objects=of(SEG, without("SegmentAlgorithmName"))),
    Fault("a name that was not read", "N14", objects=of(SEG, lambda ds: setattr(ds, "PatientName", "ZZ\ufffd"))),
    Fault("a result twice", "N15", objects=lambda results: results.append(results[0])),
    Fault("a model cut short", "N13",
          objects=of(STL, lambda ds: setattr(ds, "EncapsulatedDocument", ds.EncapsulatedDocument[:1000]))),
)  # fmt: skip
