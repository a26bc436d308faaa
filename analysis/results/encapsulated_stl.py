"""Owns surfaces as DICOM Encapsulated STL (PS3.3 A.85.1): one instance per label, binary STL in mm of the patient."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.uid import EncapsulatedSTLStorage

from analysis.api import MILLIMETRE, Code, Segment, Surface
from analysis.results import provenance
from analysis.results.provenance import RunInfo
from analysis.results.segmentation import cielab, tracking_uid

KIND = "M3D"
_MODEL_TITLES = {
    "CT": Code("85040-4", "LN", "CT 3D CAM model"),
    "MR": Code("85041-2", "LN", "MR 3D CAM model"),
    "US": Code("129018", "DCM", "US 3D CAM model"),
}
_MIXED = Code("129019", "DCM", "Mixed Modality 3D CAM model")
_PLANNING = Code("129013", "DCM", "Planning Intent")

_FACET = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_HEADER = 84


def instance_uid(run: RunInfo, segment: Segment) -> str:
    """SOP Instance UID of the model of one segment of a task."""
    return run.instance_uid(KIND, segment.number)


def encode(run: RunInfo, value: Surface, segmentation: Dataset | None = None, edited: bool = False) -> Dataset:
    """The Encapsulated STL of one surface, finished. `segmentation`: the finished Segmentation it belongs to."""
    sources = [run.source(uid) for uid in value.volume.sop_instance_uids]
    segment = value.segment
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = EncapsulatedSTLStorage, instance_uid(run, segment)
    provenance.series(ds, run, KIND, "M3D", f"{run.plugin_title}: 3D models")
    ds.InstanceNumber = segment.number
    ds.FrameOfReferenceUID = sources[0].get("FrameOfReferenceUID") or value.volume.frame_of_reference_uid
    ds.PositionReferenceIndicator = sources[0].get("PositionReferenceIndicator", "")
    ds.ContentDate, ds.ContentTime = run.date, run.time
    ds.AcquisitionDateTime = _acquired(sources[0])
    ds.BurnedInAnnotation, ds.RecognizableVisualFeatures = "NO", _recognizable(sources[0])
    ds.DocumentTitle = f"{segment.label} surface"
    title = _MODEL_TITLES.get(str(sources[0].get("Modality", "")), _MIXED)
    ds.ConceptNameCodeSequence = provenance.sequence(provenance.code(title))
    ds.SourceInstanceSequence = provenance.sequence(*map(provenance.reference, sources))
    ds.MIMETypeOfEncapsulatedDocument = "model/stl"
    stl = binary_stl(value.vertices, value.faces, segment.label)
    ds.EncapsulatedDocumentLength = len(stl)
    ds.EncapsulatedDocument = stl + b"\0" * (len(stl) % 2)
    ds.MeasurementUnitsCodeSequence = provenance.sequence(provenance.code(MILLIMETRE))
    ds.ModelModification, ds.ModelMirroring = ("YES" if edited else "NO"), "NO"
    ds.ModelUsageCodeSequence = provenance.sequence(provenance.code(_PLANNING))
    ds.ModelGroupUID = run.uid("model group")
    ds.ContentDescription = f"{segment.label}, within {value.error_mm:.2g} mm of the full surface"[:64]
    ds.RecommendedDisplayCIELabValue = cielab(segment.colour)
    ds.RecommendedPresentationOpacity = 1.0
    # Which label this is, in the words of the Segmentation (Standard Extended, PS3.2 3.11). A Segment Sequence would
    # have to start at segment 1 in every object, so the number is the Instance Number.
    ds.TrackingID, ds.TrackingUID = segment.label, tracking_uid(run, segment)
    ds.PrimaryAnatomicStructureSequence = provenance.sequence(provenance.code(segment.type))
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


def binary_stl(vertices: npt.NDArray[np.float32], faces: npt.NDArray[np.int32], name: str = "") -> bytes:
    """A closed mesh as binary STL: 80 bytes of header, the count, 50 bytes per facet; units are the caller's.

    The header never starts with "solid", which readers take for the text form.
    """
    corners = np.asarray(vertices, np.float32)[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).astype(np.float64)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    facets = np.zeros(len(faces), _FACET)
    facets["normal"], facets["corners"] = normals, corners
    header = f"m3DICOM mm LPS {name}".encode("ascii", "replace")[:80].ljust(80)
    return header + len(faces).to_bytes(4, "little") + facets.tobytes()


class MalformedSTL(ValueError):
    """Bytes that are no binary STL."""


def read_binary_stl(data: bytes | memoryview) -> npt.NDArray[np.float32]:
    """The corners (facets, 3, 3) of a binary STL; MalformedSTL when lengths lie or a coordinate is not finite."""
    if len(data) < _HEADER:
        raise MalformedSTL("shorter than the header of a binary STL")
    count = int.from_bytes(data[80:_HEADER], "little")
    if len(data) - _HEADER < count * _FACET.itemsize:
        raise MalformedSTL(f"{count} facets do not fit into {len(data)} bytes")
    if len(data) - _HEADER - count * _FACET.itemsize > 1:  # one byte of padding is DICOM's
        raise MalformedSTL(f"{len(data)} bytes are more than {count} facets")
    facets = np.frombuffer(data, _FACET, count, _HEADER)
    corners = np.ascontiguousarray(facets["corners"])
    if not np.isfinite(corners).all():
        raise MalformedSTL("a coordinate is not finite")
    return corners
