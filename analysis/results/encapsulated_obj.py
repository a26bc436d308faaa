"""Owns surfaces as DICOM Encapsulated OBJ (PS3.3 A.85.2), one instance per label, in mm of the patient.

Their colours are one Encapsulated MTL (A.85.3) that all of them name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.uid import EncapsulatedMTLStorage, EncapsulatedOBJStorage

from analysis.api import Segment, Surface
from analysis.results import encapsulated_model, provenance
from analysis.results.provenance import RunInfo

KIND, MATERIALS = "OBJ", "MTL"
MTL_NAME = "materials.mtl"
_NOT_NAME = re.compile(r"[^A-Za-z0-9_-]+")


def encode(run: RunInfo, surfaces: Sequence[Surface], segmentation: Dataset | None = None) -> list[Dataset]:
    """The Encapsulated MTL and one Encapsulated OBJ per surface, finished, the latter naming the former."""
    if not surfaces:
        return []
    sources = run.instances(surfaces[0].volume.sop_instance_uids)
    library = Dataset()
    library.SOPClassUID, library.SOPInstanceUID = EncapsulatedMTLStorage, run.instance_uid(MATERIALS)
    # A series of its own: colours lie in no frame of reference, the surfaces do (PS3.3 A.85.3).
    provenance.series(library, run, MATERIALS, "M3D", f"{run.plugin_title}: colours (MTL)")
    library.InstanceNumber = 1
    library.DocumentTitle = "Colours of the surfaces"
    text = mtl([each.segment for each in surfaces])
    encapsulated_model.shared(library, run, sources, "model/mtl", text, None, False)
    made = [library]
    for surface in surfaces:
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = EncapsulatedOBJStorage, run.instance_uid(KIND, surface.segment.number)
        provenance.series(ds, run, KIND, "M3D", f"{run.plugin_title}: 3D models (OBJ)")
        reference = provenance.reference(library)
        reference.RelativeURIReferenceWithinEncapsulatedDocument = MTL_NAME
        ds.ReferencedInstanceSequence = provenance.sequence(reference)
        encapsulated_model.fill(
            ds, run, surface, "model/obj", obj(surface.vertices, surface.faces, surface.segment), segmentation, False
        )
        made.append(ds)
    return made


def material(segment: Segment) -> str:
    """The name of a segment's material: one word of letters, digits, "_" and "-"."""
    return f"{_NOT_NAME.sub('_', segment.label)}_{segment.number}"


def obj(vertices: npt.NDArray[np.float32], faces: npt.NDArray[np.int32], segment: Segment) -> bytes:
    """A mesh as Wavefront OBJ in ASCII; coordinates to the shortest text that reads back as the same float32."""
    lines = [f"# m3DICOM, mm, LPS\nmtllib {MTL_NAME}\no {material(segment)}\nusemtl {material(segment)}"]
    lines += [f"v {x!s} {y!s} {z!s}" for x, y, z in np.asarray(vertices, np.float32)]
    lines += [f"f {a} {b} {c}" for a, b, c in np.asarray(faces, np.int64) + 1]
    return ("\n".join(lines) + "\n").encode("ascii")


def mtl(segments: Sequence[Segment]) -> bytes:
    """The materials of these segments as Wavefront MTL in ASCII."""
    lines = ["# m3DICOM"]
    for segment in segments:
        tint = " ".join(f"{channel / 255:.4f}" for channel in segment.colour)
        lines += [f"newmtl {material(segment)}", f"Kd {tint}", "Ka 0 0 0", "Ks 0.1 0.1 0.1", "Ns 20", "d 1", "illum 2"]
    return ("\n".join(lines) + "\n").encode("ascii")


class MalformedOBJ(ValueError):
    """Text that is no triangle mesh in OBJ, or no MTL."""


def read_obj(data: bytes) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The vertices and triangles of an OBJ of this kind; MalformedOBJ in words for anything else."""
    vertices: list[list[float]] = []
    faces: list[list[int]] = []
    try:
        for number, line in enumerate(data.rstrip(b"\0").decode("ascii").splitlines(), 1):
            words = line.split()
            if not words or words[0].startswith("#") or words[0] in ("mtllib", "o", "g", "usemtl", "s", "vn"):
                continue
            if words[0] == "v" and len(words) == 4:
                vertices.append([float(word) for word in words[1:]])
            elif words[0] == "f" and len(words) == 4:
                faces.append([int(word.split("/")[0]) - 1 for word in words[1:]])
            else:
                raise MalformedOBJ(f"line {number} is neither a vertex nor a triangle")
    except (UnicodeDecodeError, ValueError) as error:
        raise error if isinstance(error, MalformedOBJ) else MalformedOBJ("a line cannot be read") from None
    points, triangles = np.array(vertices, np.float32), np.array(faces, np.int64)
    if not len(points) or not len(triangles):
        raise MalformedOBJ("no triangles")
    if not np.isfinite(points).all():
        raise MalformedOBJ("a coordinate is not finite")
    if triangles.min() < 0 or triangles.max() >= len(points):
        raise MalformedOBJ("a triangle names a vertex that is not there")
    return points, triangles


def read_mtl(data: bytes) -> dict[str, tuple[float, float, float]]:
    """The diffuse colour, 0 to 1, of every material of an MTL; MalformedOBJ for anything else."""
    colours: dict[str, tuple[float, float, float]] = {}
    name = ""
    try:
        for line in data.rstrip(b"\0").decode("ascii").splitlines():
            words = line.split()
            if words and words[0] == "newmtl":
                [name] = words[1:]
            elif words and words[0] == "Kd":
                red, green, blue = (float(word) for word in words[1:])
                if not name or not all(0 <= each <= 1 for each in (red, green, blue)):
                    raise ValueError
                colours[name] = (red, green, blue)
    except (UnicodeDecodeError, ValueError):
        raise MalformedOBJ("the materials cannot be read") from None
    if not colours:
        raise MalformedOBJ("no material")
    return colours
