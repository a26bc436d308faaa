"""What PS3.3 demands of result objects (reports, segmentations, captures, models), as tables and walks.

Pure functions of data sets; `conformance.checks.results` fetches them and judges.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pydicom import Dataset

ARC: Final = "1.2.840.10008.5.1.4.1.1."
SEGMENTATION: Final = f"{ARC}66.4"
SECONDARY: Final = (f"{ARC}7", f"{ARC}7.1", f"{ARC}7.2", f"{ARC}7.3", f"{ARC}7.4")
STL: Final = f"{ARC}104.3"
DOCUMENTS: Final = (f"{ARC}104.1", f"{ARC}104.2", STL, f"{ARC}104.4", f"{ARC}104.5")
PRESENTATION: Final = (f"{ARC}11.1", f"{ARC}11.2")
KEY_OBJECTS: Final = f"{ARC}88.59"
MAMMOGRAPHY_CAD: Final = f"{ARC}88.50"
REPORTS: Final = (f"{ARC}88.11", f"{ARC}88.22", f"{ARC}88.33", f"{ARC}88.34", MAMMOGRAPHY_CAD, f"{ARC}88.65")
WITH_TREE: Final = (*REPORTS, KEY_OBJECTS)
RESULTS: Final = (SEGMENTATION, *SECONDARY, *DOCUMENTS, *PRESENTATION, *WITH_TREE)

_COMMON: Final = {
    1: "SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID Modality",
    2: "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime ReferringPhysicianName StudyID "
    "AccessionNumber",
}
_TREE: Final = {
    1: "SeriesNumber InstanceNumber ContentDate ContentTime ValueType ConceptNameCodeSequence ContinuityOfContent "
    "ContentSequence",
    2: "ReferencedPerformedProcedureStepSequence Manufacturer",
}
_TABLES: Final[tuple[tuple[tuple[str, ...], dict[int, str]], ...]] = (
    (RESULTS, _COMMON),
    (WITH_TREE, _TREE),
    (REPORTS, {1: "CompletionFlag VerificationFlag", 2: "PerformedProcedureCodeSequence"}),
    ((KEY_OBJECTS,), {1: "CurrentRequestedProcedureEvidenceSequence", 2: ""}),
    ((SEGMENTATION,), {
        1: "SeriesNumber InstanceNumber ImageType ContentLabel SegmentationType SegmentSequence SamplesPerPixel "
        "PhotometricInterpretation PixelRepresentation Rows Columns BitsAllocated BitsStored HighBit NumberOfFrames "
        "LossyImageCompression Manufacturer ManufacturerModelName DeviceSerialNumber SoftwareVersions ContentDate "
        "ContentTime DimensionOrganizationSequence SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence "
        "PixelData",
        2: "ContentDescription",
    }),
    (SECONDARY, {1: "ConversionType Rows Columns SamplesPerPixel PhotometricInterpretation BitsAllocated PixelData",
                 2: "InstanceNumber"}),
    (DOCUMENTS, {1: "InstanceNumber BurnedInAnnotation MIMETypeOfEncapsulatedDocument EncapsulatedDocument",
                 2: "ContentDate ContentTime AcquisitionDateTime DocumentTitle ConceptNameCodeSequence"}),
    ((STL,), {1: "MeasurementUnitsCodeSequence FrameOfReferenceUID Manufacturer ManufacturerModelName "
              "DeviceSerialNumber SoftwareVersions", 2: ""}),
    (PRESENTATION, {1: "InstanceNumber ContentLabel PresentationCreationDate PresentationCreationTime "
                    "ReferencedSeriesSequence DisplayedAreaSelectionSequence PresentationLUTShape",
                    2: "ContentDescription Manufacturer"}),
)  # fmt: skip
"""Type 1 and Type 2 attributes at the top level of the IODs' mandatory modules (PS3.3 annex A)."""


def missing(ds: Dataset) -> list[str]:
    """The attributes that the object's IOD demands and that it lacks, in words."""
    found = []
    for classes, attributes in _TABLES:
        if str(ds.get("SOPClassUID")) in classes:
            found += [f"{key} (Type 1)" for key in attributes[1].split() if not _has(ds, key)]
            found += [f"{key} (Type 2)" for key in attributes[2].split() if key not in ds]
    return found


def _has(ds: Dataset, keyword: str) -> bool:
    if keyword == "PresentationLUTShape" and "PresentationLUTSequence" in ds:
        return True  # one of the two (PS3.3 C.11.6)
    return keyword in ds and not ds[keyword].is_empty


def items(ds: Dataset) -> Iterator[Dataset]:
    """The data set and every item in it, from the top."""
    yield ds
    for element in ds:
        if element.VR == "SQ":
            for each in element.value:
                yield from items(each)


_NOT_INSTANCES: Final = frozenset({
    "ReferencedStudySequence", "ReferencedPatientSequence", "ReferencedPerformedProcedureStepSequence",
    "ReferencedRequestSequence", "RequestAttributesSequence", "ReferencedVisitSequence",
})  # fmt: skip


def references(ds: Dataset) -> set[tuple[str, str]]:
    """(SOP Class UID, SOP Instance UID) of every instance that the object refers to, at any depth."""
    found = set()
    if "ReferencedSOPInstanceUID" in ds and "ReferencedSOPClassUID" in ds:
        found.add((str(ds.ReferencedSOPClassUID), str(ds.ReferencedSOPInstanceUID)))
    for element in ds:
        if element.VR == "SQ" and element.keyword not in _NOT_INSTANCES:
            for each in element.value:
                found |= references(each)
    return found


def tree_references(ds: Dataset) -> set[tuple[str, str]]:
    """(SOP Class UID, SOP Instance UID) of what the content tree refers to."""
    return {pair for each in ds.get("ContentSequence") or [] for pair in references(each)}


def evidence(ds: Dataset) -> set[tuple[str, str]]:
    """(SOP Class UID, SOP Instance UID) of what the evidence sequences list (PS3.3 C.17.2.3)."""
    found = set()
    for keyword in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence"):
        for study in ds.get(keyword) or []:
            for series in study.get("ReferencedSeriesSequence") or []:
                for each in series.get("ReferencedSOPSequence") or []:
                    found.add((str(each.get("ReferencedSOPClassUID")), str(each.get("ReferencedSOPInstanceUID"))))
    return found


def concept(item: Dataset) -> tuple[str, str]:
    """Code value and scheme of a content item's concept name."""
    name = next(iter(item.get("ConceptNameCodeSequence") or []), Dataset())
    return str(name.get("CodeValue", "")), str(name.get("CodingSchemeDesignator", ""))


def content(ds: Dataset) -> Iterator[Dataset]:
    """Every content item below the root."""
    for each in ds.get("ContentSequence") or []:
        yield each
        yield from content(each)


def template(ds: Dataset) -> str:
    """The template of the root, empty where it names none of DCMR's."""
    given = next(iter(ds.get("ContentTemplateSequence") or []), Dataset())
    return str(given.get("TemplateIdentifier", "")) if given.get("MappingResource") == "DCMR" else ""
