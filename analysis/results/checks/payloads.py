"""Owns the check of encapsulated 3D models: that the bytes are the mesh they claim to be, and a sound one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from analysis.results.encapsulated_obj import MalformedOBJ, read_mtl, read_obj
from analysis.results.encapsulated_stl import MalformedSTL, read_binary_stl

_PREFIX = "1.2.840.10008.5.1.4.1.1.104."
_MEDIA_TYPES: Mapping[str, str] = MappingProxyType(
    {_PREFIX + "3": "model/stl", _PREFIX + "4": "model/obj", _PREFIX + "5": "model/mtl"}
)
FARTHEST_MM = 1e5
"""From the origin of a frame of reference to anything of a patient."""
_LEAST_AREA_MM2 = 1e-12
_MOST_OPEN = 1e-4  # of its area: what looks one way is, in a closed surface, what looks the other way
_MOST_SLIVERS = 0.01  # of all triangles: decimation leaves a few that have no area in float32


def defects(ds: Dataset) -> Iterator[str]:
    """What is wrong with an encapsulated model, in words; nothing for what is none."""
    kind = str(ds.get("SOPClassUID"))
    if kind not in _MEDIA_TYPES:
        return
    if str(ds.get("MIMETypeOfEncapsulatedDocument")) != _MEDIA_TYPES[kind]:
        yield "the MIME type is not that of the SOP class"
    document = bytes(ds.get("EncapsulatedDocument") or b"")
    length = int(ds.get("EncapsulatedDocumentLength") or 0)
    if length + length % 2 != len(document):
        yield f"{len(document)} bytes of a document of {length}"
    try:
        if kind.endswith(".5"):
            read_mtl(document)
            return
        if kind.endswith(".4"):
            points, faces = read_obj(document)
            corners = points[faces]
        else:
            corners = read_binary_stl(document)
    except (MalformedSTL, MalformedOBJ) as error:
        yield f"no model: {error}"
        return
    yield from _mesh(corners)


def _mesh(corners: npt.NDArray[np.float32]) -> Iterator[str]:
    """What is wrong with a mesh (triangles, 3, 3) in mm, in words.

    It is not empty, within a patient's reach, closed as far as its area tells, with an inside that is inside.
    """
    if not len(corners):
        yield "a model without a triangle"
        return
    if float(np.abs(corners).max()) > FARTHEST_MM:
        yield "a coordinate beyond any patient"
        return
    exact = corners.astype(np.float64)
    normals: npt.NDArray[Any] = np.cross(exact[:, 1] - exact[:, 0], exact[:, 2] - exact[:, 0])
    areas = np.linalg.norm(normals, axis=1)
    if (areas < _LEAST_AREA_MM2).mean() > _MOST_SLIVERS:
        yield "triangles without area"
    if float(np.linalg.norm(normals.sum(axis=0))) > _MOST_OPEN * float(areas.sum()):
        yield "the surface is not closed"
    centred = exact - exact.reshape(-1, 3).mean(axis=0)
    if float((centred[:, 0] * normals).sum()) <= 0:
        yield "the surface is inside out: its volume is not positive"
