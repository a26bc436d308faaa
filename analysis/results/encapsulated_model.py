"""Owns what all encapsulated 3D models share (PS3.3 A.85, C.24, C.35): place, label, references and origin."""

from __future__ import annotations

from pydicom import Dataset

from analysis.api import MILLIMETRE, Code, Surface
from analysis.results import provenance
from analysis.results.provenance import RunInfo
from analysis.results.segmentation import cielab, tracking_uid

_MODEL_TITLES = {
    "CT": Code("85040-4", "LN", "CT 3D CAM model"),
    "MR": Code("85041-2", "LN", "MR 3D CAM model"),
    "US": Code("129018", "DCM", "US 3D CAM model"),
}
_MIXED = Code("129019", "DCM", "Mixed Modality 3D CAM model")
_PLANNING = Code("129013", "DCM", "Planning Intent")


def fill(
    ds: Dataset, run: RunInfo, value: Surface, media_type: str, document: bytes, segmentation: Dataset | None,
    edited: bool,
) -> Dataset:  # fmt: skip
    """`ds`, of which SOP class, instance and series are set, with the model of one surface, finished."""
    sources = run.instances(value.volume.sop_instance_uids)
    segment = value.segment
    ds.InstanceNumber = segment.number
    ds.FrameOfReferenceUID = sources[0].get("FrameOfReferenceUID") or value.volume.frame_of_reference_uid
    ds.PositionReferenceIndicator = sources[0].get("PositionReferenceIndicator", "")
    ds.DocumentTitle = f"{segment.label} surface"
    ds.ContentDescription = f"{segment.label}, within {value.error_mm:.2g} mm of the full surface"[:64]
    ds.RecommendedDisplayCIELabValue = cielab(segment.colour)
    ds.RecommendedPresentationOpacity = 1.0
    # Which label this is, in the words of the Segmentation (Standard Extended, PS3.2 3.11). A Segment Sequence would
    # have to start at segment 1 in every object, so the number is the Instance Number.
    ds.TrackingID, ds.TrackingUID = segment.label, tracking_uid(run, segment)
    ds.PrimaryAnatomicStructureSequence = provenance.sequence(provenance.code(segment.type))
    return shared(ds, run, sources, media_type, document, segmentation, edited)


def shared(
    ds: Dataset, run: RunInfo, sources: list[Dataset], media_type: str, document: bytes, segmentation: Dataset | None,
    edited: bool,
) -> Dataset:  # fmt: skip
    """`ds` with the Encapsulated Document and Manufacturing 3D Model modules, finished; also for what is no surface."""
    ds.ContentDate, ds.ContentTime = run.date, run.time
    ds.AcquisitionDateTime = _acquired(sources[0])
    ds.BurnedInAnnotation, ds.RecognizableVisualFeatures = "NO", _recognizable(sources[0])
    title = _MODEL_TITLES.get(str(sources[0].get("Modality", "")), _MIXED)
    ds.ConceptNameCodeSequence = provenance.sequence(provenance.code(title))
    ds.SourceInstanceSequence = provenance.sequence(*map(provenance.reference, sources))
    ds.MIMETypeOfEncapsulatedDocument = media_type
    ds.EncapsulatedDocumentLength = len(document)
    ds.EncapsulatedDocument = document + b"\0" * (len(document) % 2)
    ds.MeasurementUnitsCodeSequence = provenance.sequence(provenance.code(MILLIMETRE))
    ds.ModelModification, ds.ModelMirroring = ("YES" if edited else "NO"), "NO"
    ds.ModelUsageCodeSequence = provenance.sequence(provenance.code(_PLANNING))
    ds.ModelGroupUID = run.uid("model group")
    ds.DerivationAlgorithmSequence = provenance.sequence(provenance.algorithm(run))
    referenced = [*sources, *([segmentation] if segmentation is not None else [])]
    ds.ReferencedSeriesSequence = provenance.sequence(*provenance.referenced_series(referenced))
    return provenance.finish(ds, run, sources[0])


def _acquired(source: Dataset) -> str:
    if source.get("AcquisitionDateTime"):
        return str(source.AcquisitionDateTime)
    return str(source.get("AcquisitionDate") or "") + str(source.get("AcquisitionTime") or "")


def _recognizable(source: Dataset) -> str:
    """A head's surface may show a face; what the source says of itself holds for what is made of it."""
    return str(source.get("RecognizableVisualFeatures") or "YES")
