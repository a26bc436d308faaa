"""Owns surfaces as DICOM Encapsulated STL (PS3.3 A.85.1): one instance per label, binary STL in mm of the patient."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.uid import EncapsulatedSTLStorage

from analysis.api import Segment, Surface
from analysis.results import encapsulated_model, provenance
from analysis.results.provenance import RunInfo

KIND = "M3D"
_FACET = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_HEADER = 84


def instance_uid(run: RunInfo, segment: Segment) -> str:
    """SOP Instance UID of the model of one segment of a task."""
    return run.instance_uid(KIND, segment.number)


def encode(run: RunInfo, value: Surface, segmentation: Dataset | None = None, edited: bool = False) -> Dataset:
    """The Encapsulated STL of one surface, finished. `segmentation`: the finished Segmentation it belongs to."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = EncapsulatedSTLStorage, instance_uid(run, value.segment)
    provenance.series(ds, run, KIND, "M3D", f"{run.plugin_title}: 3D models")
    stl = binary_stl(value.vertices, value.faces, value.segment.label)
    return encapsulated_model.fill(ds, run, value, "model/stl", stl, segmentation, edited)


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
