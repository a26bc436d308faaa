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


RESULTS = (
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
