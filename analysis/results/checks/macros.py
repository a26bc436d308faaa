"""Owns what items and values have to be wherever they occur in a result: macros of PS3.3 by the sequence they are in,
enumerated values by attribute, and attributes that are left out sooner than left empty."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from analysis.results.checks.modules import REFERENCE, Condition, Module, required
from analysis.results.checks.modules import Attribute as A

_ALGORITHM = required("AlgorithmFamilyCodeSequence", "AlgorithmName", "AlgorithmVersion")


def _unless(*keywords: str) -> Condition:
    """Whether an item has none of these."""
    return lambda item: not any(keyword in item for keyword in keywords)


def _with(keyword: str) -> Condition:
    """Whether an item has this."""
    return lambda item: keyword in item


MACROS: Mapping[str, Module] = MappingProxyType(
    {
        "RelatedSeriesSequence": (
            *required("StudyInstanceUID", "SeriesInstanceUID"),
            A("PurposeOfReferenceCodeSequence", "2"),
        ),
        "CurrentRequestedProcedureEvidenceSequence": required("StudyInstanceUID", "ReferencedSeriesSequence"),
        "PertinentOtherEvidenceSequence": required("StudyInstanceUID", "ReferencedSeriesSequence"),
        "ReferencedSeriesSequence": (
            *required("SeriesInstanceUID"),
            A("ReferencedInstanceSequence", "1C", when=_unless("ReferencedSOPSequence", "ReferencedImageSequence")),
        ),
        "ContentTemplateSequence": required("MappingResource", "TemplateIdentifier"),
        "ReferencedInstanceSequence": REFERENCE,
        "ReferencedImageSequence": REFERENCE,
        "ReferencedSOPSequence": REFERENCE,
        "SourceInstanceSequence": REFERENCE,
        "SourceImageSequence": REFERENCE,
        "DerivationImageSequence": (
            A("DerivationCodeSequence", "1"),
            A("SourceImageSequence", "2", items=required("PurposeOfReferenceCodeSequence")),
        ),
        "AlgorithmIdentificationSequence": _ALGORITHM,
        "DerivationAlgorithmSequence": _ALGORITHM,
        "SegmentationAlgorithmIdentificationSequence": _ALGORITHM,
        "DimensionIndexSequence": required("DimensionIndexPointer", "FunctionalGroupPointer"),
        "PixelMeasuresSequence": required("PixelSpacing", "SliceThickness"),
        "PlanePositionSequence": required("ImagePositionPatient"),
        "PlaneOrientationSequence": required("ImageOrientationPatient"),
        "RealWorldValueMappingSequence": (
            *required("LUTExplanation", "LUTLabel", "MeasurementUnitsCodeSequence"),
            *(
                A(f"RealWorldValue{name}", "1C", when=_unless("RealWorldValueLUTData"))
                for name in ("FirstValueMapped", "LastValueMapped", "Intercept", "Slope")
            ),
        ),
        "GraphicObjectSequence": required(
            "GraphicAnnotationUnits", "GraphicDimensions", "NumberOfGraphicPoints", "GraphicData", "GraphicType"
        ),
        "TextObjectSequence": (
            A("UnformattedTextValue", "1"),
            A("AnchorPointAnnotationUnits", "1C", when=_with("AnchorPoint")),
            A("AnchorPointVisibility", "1C", when=_with("AnchorPoint")),
            A("BoundingBoxAnnotationUnits", "1C", when=_with("BoundingBoxTopLeftHandCorner")),
        ),
        "DisplayedAreaSelectionSequence": (
            A("PresentationPixelAspectRatio", "1C", when=_unless("PresentationPixelSpacing")),
        ),
    }
)
"""What an item of such a sequence holds, in whatever object and however deep it lies."""

_YES_NO = ("YES", "NO")
_UNITS = ("PIXEL", "DISPLAY", "MATRIX")
ENUMERATED: Mapping[str, Collection[str]] = MappingProxyType(
    {
        "SpatialLocationsPreserved": ("YES", "NO", "REORIENTED_ONLY"),
        "SegmentsOverlap": ("YES", "NO", "UNDEFINED"),
        "PresentationLUTShape": ("IDENTITY", "INVERSE"),
        "LossyImageCompression": ("00", "01"),
        "BurnedInAnnotation": _YES_NO,
        "RecognizableVisualFeatures": _YES_NO,
        "Laterality": ("L", "R"),
        "ImageLaterality": ("L", "R", "B", "U"),
        "PixelSpacingCalibrationType": ("GEOMETRY", "FIDUCIAL"),
        "GraphicAnnotationUnits": _UNITS,
        "BoundingBoxAnnotationUnits": _UNITS,
        "AnchorPointAnnotationUnits": _UNITS,
        "AnchorPointVisibility": ("Y", "N"),
        "GraphicFilled": ("Y", "N"),
        "BoundingBoxTextHorizontalJustification": ("LEFT", "RIGHT", "CENTER"),
        "PreliminaryFlag": ("PRELIMINARY", "FINAL"),
        "ContinuityOfContent": ("SEPARATE", "CONTINUOUS"),
    }
)
"""Enumerated values; what an input says itself may be repeated."""

NEVER_EMPTY = frozenset(
    {
        "SpecificCharacterSet", "WindowCenter", "WindowWidth", "SliceThickness", "SpacingBetweenSlices",
        "SliceLocationVector", "FrameTime", "ReferencedSeriesSequence", "RelatedSeriesSequence", "SourceImageSequence",
        "RealWorldValueMappingSequence", "SegmentationAlgorithmIdentificationSequence", "DerivationAlgorithmSequence",
        "AlgorithmNameCodeSequence", "ModelUsageCodeSequence", "PresentationLUTShape", "RescaleSlope",
        "RescaleIntercept", "RescaleType", "SoftcopyVOILUTSequence", "PresentationPixelAspectRatio", "AnchorPoint",
        "AnchorPointVisibility", "GraphicFilled", "ReferencedImageSequence", "TextObjectSequence",
        "GraphicObjectSequence", "ContentTemplateSequence", "FloatingPointValue",
    }
)  # fmt: skip
"""Of Type 1C, or a sequence that has an item where it is there at all."""

TOGETHER = (("WindowCenter", "WindowWidth"), ("RescaleIntercept", "RescaleSlope"), ("RescaleSlope", "RescaleType"))
"""Attributes of which none is there without the other (PS3.3 C.11.1, C.11.2)."""

POSITIVE = frozenset({"SliceThickness", "SpacingBetweenSlices", "NominalScannedPixelSpacing", "FrameTime"})
