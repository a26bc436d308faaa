"""Owns glTF 2.0 in one binary file (ISO/IEC 12113): labelled surfaces in mm of the patient as a scene in metres.

The patient stands upright: left is +X, superior is +Y, anterior is +Z. Nothing is written that names a patient.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.algorithms import geometry
from analysis.results.x3d import QUANTUM_MM, Shape

MEDIA_TYPE = "model/gltf-binary"

_MAGIC, _VERSION, _JSON, _BIN = 0x46546C67, 2, 0x4E4F534A, 0x004E4942
_FLOAT, _UINT32 = 5126, 5125
_VERTICES, _INDICES = 34962, 34963
# LPS mm to metres with Y up, column by column.
_UPRIGHT = [0.001, 0, 0, 0, 0, 0, -0.001, 0, 0, 0.001, 0, 0, 0, 0, 0, 1]


def scene(title: str, shapes: Sequence[Shape], facts: Mapping[str, Sequence[str]]) -> bytes:
    """The file. `facts`: DICOM attributes of the whole scene by keyword; those of a shape go with its node.

    Vertices that are nearer than QUANTUM_MM become one, so that surfaces are smooth. ValueError for a scene without a
    triangle.
    """
    buffer = _Buffer()
    nodes: list[dict[str, Any]] = []
    meshes: list[dict[str, Any]] = []
    materials: list[dict[str, Any]] = []
    for shape in shapes:
        points, faces = _welded(shape)
        if not len(faces):
            continue
        number = len(meshes)
        attributes = {
            "POSITION": buffer.add(points, _VERTICES),
            "NORMAL": buffer.add(_normals(points, faces), _VERTICES),
        }
        primitive = {"attributes": attributes, "indices": buffer.add(faces.reshape(-1), _INDICES), "material": number}
        label = next(iter(shape.facts.get("SegmentLabel", ())), shape.name)
        meshes.append({"name": shape.name, "primitives": [primitive]})
        materials.append(_material(label, shape.colour))
        nodes.append({"name": label, "mesh": number, "extras": _facts(shape.facts)})
    if not nodes:
        raise ValueError("a scene needs at least one triangle")
    root = {"name": title, "matrix": _UPRIGHT, "children": list(range(len(nodes)))}
    document = {
        "asset": {"version": "2.0", "generator": "m3DICOM"},
        "scene": 0,
        "scenes": [{"name": title, "nodes": [len(nodes)], "extras": _facts(facts)}],
        "nodes": [*nodes, root],
        "meshes": meshes,
        "materials": materials,
        "accessors": buffer.accessors,
        "bufferViews": buffer.views,
        "buffers": [{"byteLength": len(buffer.data)}],
    }
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    length = 12 + 8 + len(text) + 8 + len(buffer.data)
    return b"".join(
        (
            struct.pack("<III", _MAGIC, _VERSION, length),
            struct.pack("<II", len(text), _JSON),
            text,
            struct.pack("<II", len(buffer.data), _BIN),
            buffer.data,
        )
    )


class _Buffer:
    """Arrays one behind the other, with what says where they are."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, int]] = []
        self.accessors: list[dict[str, Any]] = []

    def add(self, array: npt.NDArray[Any], target: int) -> int:
        """The number of the accessor of these vectors or indices."""
        accessor: dict[str, Any] = {"bufferView": len(self.views), "count": len(array)}
        if array.ndim == 2:
            accessor |= {"componentType": _FLOAT, "type": "VEC3"}
            accessor |= {"min": array.min(axis=0).tolist(), "max": array.max(axis=0).tolist()}
            raw = array.astype("<f4").tobytes()
        else:
            accessor |= {"componentType": _UINT32, "type": "SCALAR"}
            raw = array.astype("<u4").tobytes()
        self.views.append({"buffer": 0, "byteOffset": len(self.data), "byteLength": len(raw), "target": target})
        self.accessors.append(accessor)
        self.data += raw
        return len(self.accessors) - 1


def _welded(shape: Shape) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.integer]]:
    if not len(shape.faces):
        return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)
    low = np.floor(shape.vertices.min(axis=0).astype(np.float64))
    points = np.rint((shape.vertices.astype(np.float64) - low) / QUANTUM_MM).astype(np.int64)
    points, faces = geometry.weld(points, np.asarray(shape.faces))
    if len(faces):
        points, faces = geometry.compact(points, faces)
    return (points * QUANTUM_MM + low).astype(np.float32), faces


def _normals(points: npt.NDArray[np.float32], faces: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
    """One direction for each vertex: of the triangles around it, the larger ones counting more."""
    corners = points[faces].astype(np.float64)
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = np.stack(
        [np.bincount(faces.reshape(-1), np.repeat(across[:, axis], 3), len(points)) for axis in range(3)], axis=1
    )
    length = np.linalg.norm(total, axis=1, keepdims=True)
    out = np.where(length > 0, total / np.where(length > 0, length, 1), [0.0, 0.0, 1.0])
    return out.astype(np.float32)


def _material(name: str, colour: tuple[int, int, int]) -> dict[str, Any]:
    """Matt, and seen from both sides; glTF counts colours linearly."""
    srgb = np.array(colour) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return {
        "name": name,
        "doubleSided": True,
        "pbrMetallicRoughness": {
            "baseColorFactor": [*(round(float(each), 5) for each in linear), 1.0],
            "metallicFactor": 0.0,
            "roughnessFactor": 0.8,
        },
    }


def _facts(facts: Mapping[str, Sequence[str]]) -> dict[str, dict[str, list[str]]]:
    return {"DICOM": {name: list(values) for name, values in facts.items() if values}}
