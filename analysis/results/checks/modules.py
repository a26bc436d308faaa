"""Owns the tables of what must be in a result: modules of PS3.3 with types and values, by SOP class.

Only what is required is here: Type 1 and 2, and Type 1C and 2C whose condition an object itself tells.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from pydicom import Dataset

Type = Literal["1", "2", "1C", "2C"]
Condition = Callable[[Dataset], bool]


@dataclass(frozen=True)
class Attribute:
    """One attribute of a module. values: the enumerated ones; when: for 1C and 2C; items: of the sequence's items."""

    keyword: str
    type: Type
    values: Collection[str | int] = ()
    when: Condition | None = None
    items: tuple[Attribute, ...] = ()


Module = tuple[Attribute, ...]
A = Attribute


def required(*keywords: str) -> Module:
    """Attributes of Type 1."""
    return tuple(A(keyword, "1") for keyword in keywords)


def known(*keywords: str) -> Module:
    """Attributes of Type 2."""
    return tuple(A(keyword, "2") for keyword in keywords)


def says(keyword: str, *values: str) -> Condition:
    """Whether an attribute has one of these values."""
    return lambda ds: str(ds.get(keyword)) in values


def _without_place(ds: Dataset) -> bool:
    """PS3.3 C.7.6.1: where no frame says how it lies in the patient."""
    shared = ds.get("SharedFunctionalGroupsSequence") or [Dataset()]
    return "ImageOrientationPatient" not in ds and "PlaneOrientationSequence" not in shared[0]


REFERENCE = required("ReferencedSOPClassUID", "ReferencedSOPInstanceUID")
_EVIDENCE = (
    A("StudyInstanceUID", "1"),
    A(
        "ReferencedSeriesSequence", "1",
        items=(A("SeriesInstanceUID", "1"), A("ReferencedSOPSequence", "1", items=REFERENCE)),
    ),
)  # fmt: skip
_REFERENCED_SERIES = (A("SeriesInstanceUID", "1"), A("ReferencedInstanceSequence", "1", items=REFERENCE))

PATIENT = known("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
STUDY = (
    *required("StudyInstanceUID"),
    *known("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"),
)
SERIES = (*required("Modality", "SeriesInstanceUID"), *known("SeriesNumber"))
EQUIPMENT = known("Manufacturer")
ENHANCED_EQUIPMENT = required("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions")
SOP_COMMON = (
    *required("SOPClassUID", "SOPInstanceUID"),
    A("CodingSchemeIdentificationSequence", "1", items=required("CodingSchemeDesignator")),
    A(
        "ContributingEquipmentSequence", "1",
        items=(A("PurposeOfReferenceCodeSequence", "1"), A("Manufacturer", "1")),
    ),
)  # fmt: skip
"""Coding scheme and contributing equipment are ours to require: they hold where codes and results come from."""
FRAME_OF_REFERENCE = (*required("FrameOfReferenceUID"), *known("PositionReferenceIndicator"))

IMAGE = (*known("InstanceNumber"), A("PatientOrientation", "2C", when=_without_place))
PIXELS = (
    *required("SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored"),
    *required("HighBit", "PixelData"),
    A("PixelRepresentation", "1", (0, 1)),
    A("PlanarConfiguration", "1C", (0, 1), lambda ds: int(ds.get("SamplesPerPixel") or 1) > 1),
)
DERIVED = (
    A("ImageType", "1"),
    A("SourceImageSequence", "1", items=(*REFERENCE, A("PurposeOfReferenceCodeSequence", "1"))),
    A("DerivationDescription", "1"),
)
"""Ours to require of pictures: what they were made of, and how."""
SC_EQUIPMENT = (A("ConversionType", "1", ("DV", "DI", "DF", "WSD", "SD", "SI", "DRW", "SYN")),)
MULTI_FRAME = (
    A("NumberOfFrames", "1"),
    # PS3.3 C.7.6.6 and C.8.6.3: of one frame there is nothing that could follow; see `images` for the contrary
    A("FrameIncrementPointer", "1C", when=lambda ds: int(ds.get("NumberOfFrames") or 1) > 1),
)
IN_PLACE = (
    *required("InstanceNumber", "ContentDate", "ContentTime"),
    A("SharedFunctionalGroupsSequence", "1"),
    A("PerFrameFunctionalGroupsSequence", "1", items=required("PlanePositionSequence")),
)
"""Functional groups, with a place for every frame (PS3.3 C.7.6.16)."""
SC_MULTI_FRAME = (
    A("BurnedInAnnotation", "1", ("YES", "NO")),
    *(
        A(keyword, "1C", values, says("PhotometricInterpretation", "MONOCHROME2"))
        for keyword, values in (
            ("RescaleIntercept", ()),
            ("RescaleSlope", ()),
            ("RescaleType", ()),
            ("PresentationLUTShape", ("IDENTITY",)),
        )
    ),
)

_CODED_SEGMENT = (
    A("SegmentNumber", "1"),
    A("SegmentLabel", "1"),
    A("SegmentedPropertyCategoryCodeSequence", "1"),
    A("SegmentedPropertyTypeCodeSequence", "1"),
    A("SegmentAlgorithmType", "1", ("AUTOMATIC", "SEMIAUTOMATIC", "MANUAL")),
    A("SegmentAlgorithmName", "1C", when=says("SegmentAlgorithmType", "AUTOMATIC", "SEMIAUTOMATIC")),
    A("TrackingID", "1C", when=lambda item: "TrackingUID" in item),
    A("TrackingUID", "1C", when=lambda item: "TrackingID" in item),
)
SEGMENTATION = (
    A("Modality", "1", ("SEG",)),
    A("SeriesNumber", "1"),
    A("ImageType", "1"),
    A("SamplesPerPixel", "1", (1,)),
    A("PhotometricInterpretation", "1", ("MONOCHROME2", "PALETTE COLOR")),
    A("PixelRepresentation", "1", (0,)),
    A("LossyImageCompression", "1", ("00", "01")),
    A("SegmentSequence", "1", items=_CODED_SEGMENT),
    A("ContentLabel", "1"),
    A("ContentDescription", "2"),
    *required("InstanceNumber", "ContentDate", "ContentTime", "NumberOfFrames"),
    A("SharedFunctionalGroupsSequence", "1"),
    A("PerFrameFunctionalGroupsSequence", "1"),
    A("DimensionOrganizationSequence", "1", items=required("DimensionOrganizationUID")),
    A("DimensionIndexSequence", "1", items=required("DimensionOrganizationUID", "DimensionIndexPointer")),
    A("ReferencedSeriesSequence", "1", items=_REFERENCED_SERIES),
)
BINARY = (
    A("SegmentationType", "1", ("BINARY", "FRACTIONAL")),
    A("BitsAllocated", "1", (1, 8)),
    A("MaximumFractionalValue", "1C", when=says("SegmentationType", "FRACTIONAL")),
)
LABELMAP = (A("SegmentationType", "1", ("LABELMAP",)), A("BitsAllocated", "1", (8, 16)))

DOCUMENT = (
    A("Modality", "1", ("M3D",)),
    A("SeriesNumber", "1"),
    A("InstanceNumber", "1"),
    *known("ContentDate", "ContentTime", "AcquisitionDateTime", "ConceptNameCodeSequence", "DocumentTitle"),
    A("BurnedInAnnotation", "1", ("YES", "NO")),
    *required("EncapsulatedDocument", "MIMETypeOfEncapsulatedDocument"),
    A("SourceInstanceSequence", "1", items=REFERENCE),
    A("MeasurementUnitsCodeSequence", "1"),
    A("ModelModification", "1", ("YES", "NO")),
    A("ModelMirroring", "1", ("YES", "NO")),
    A("ReferencedSeriesSequence", "1", items=_REFERENCED_SERIES),
)

SR_DOCUMENT = (
    A("Modality", "1", ("SR",)),
    *required("SeriesNumber", "InstanceNumber", "ContentDate", "ContentTime"),
    *known("ReferencedPerformedProcedureStepSequence", "PerformedProcedureCodeSequence"),
    A("CompletionFlag", "1", ("COMPLETE", "PARTIAL")),
    A("VerificationFlag", "1", ("UNVERIFIED", "VERIFIED")),
    A(
        "VerifyingObserverSequence", "1C", when=says("VerificationFlag", "VERIFIED"),
        items=required("VerifyingObserverName", "VerifyingOrganization", "VerificationDateTime"),
    ),
    A("CurrentRequestedProcedureEvidenceSequence", "1", items=_EVIDENCE),
)  # fmt: skip
SR_ROOT = (
    A("ValueType", "1", ("CONTAINER",)),
    A("ConceptNameCodeSequence", "1"),
    A("ContinuityOfContent", "1", ("SEPARATE", "CONTINUOUS")),
    A("ContentTemplateSequence", "1", items=required("MappingResource", "TemplateIdentifier")),
    A("ContentSequence", "1"),
)
KEY_OBJECT = (
    A("Modality", "1", ("KO",)),
    *required("SeriesNumber", "InstanceNumber", "ContentDate", "ContentTime"),
    *known("ReferencedPerformedProcedureStepSequence"),
    A("CurrentRequestedProcedureEvidenceSequence", "1", items=_EVIDENCE),
)

PRESENTATION = (
    A("Modality", "1", ("PR",)),
    *required("InstanceNumber", "ContentLabel", "PresentationCreationDate", "PresentationCreationTime"),
    *known("ContentDescription", "ContentCreatorName"),
    A(
        "ReferencedSeriesSequence", "1",
        items=(A("SeriesInstanceUID", "1"), A("ReferencedImageSequence", "1", items=REFERENCE)),
    ),
    A(
        "DisplayedAreaSelectionSequence", "1",
        items=(
            *required("DisplayedAreaTopLeftHandCorner", "DisplayedAreaBottomRightHandCorner"),
            A("PresentationSizeMode", "1", ("SCALE TO FIT", "TRUE SIZE", "MAGNIFY")),
        ),
    ),
    A("GraphicLayerSequence", "1", items=required("GraphicLayer", "GraphicLayerOrder")),
    A("GraphicAnnotationSequence", "1", items=required("GraphicLayer")),
    A("PresentationLUTShape", "1C", ("IDENTITY", "INVERSE"), lambda ds: "PresentationLUTSequence" not in ds),
)  # fmt: skip

_ALL = PATIENT + STUDY + SERIES + EQUIPMENT + SOP_COMMON
_SC = _ALL + IMAGE + PIXELS + DERIVED + SC_EQUIPMENT
_SEG = _ALL + ENHANCED_EQUIPMENT + FRAME_OF_REFERENCE + IMAGE + PIXELS + SEGMENTATION
_M3D = _ALL + ENHANCED_EQUIPMENT + DOCUMENT
_SR = _ALL + SR_DOCUMENT + SR_ROOT
_PREFIX = "1.2.840.10008.5.1.4.1.1."

IODS: Mapping[str, Module] = MappingProxyType(
    {
        _PREFIX + "7": _SC,
        _PREFIX + "7.2": _SC + MULTI_FRAME + SC_MULTI_FRAME + FRAME_OF_REFERENCE + IN_PLACE,
        _PREFIX + "7.4": _SC + MULTI_FRAME + SC_MULTI_FRAME,
        _PREFIX + "66.4": _SEG + BINARY,
        _PREFIX + "66.7": _SEG + LABELMAP,
        _PREFIX + "104.3": _M3D + FRAME_OF_REFERENCE,
        _PREFIX + "104.4": _M3D + FRAME_OF_REFERENCE,
        _PREFIX + "104.5": _M3D,
        _PREFIX + "88.34": _SR,
        _PREFIX + "88.50": _SR,
        _PREFIX + "88.59": _ALL + KEY_OBJECT + SR_ROOT,
        _PREFIX + "11.1": _ALL + PRESENTATION,
    }
)
"""What an instance of each SOP class must hold. Others are checked for what holds for every instance."""
