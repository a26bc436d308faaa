"""The glTF writer, read by another implementation: every triangle, upright, in metres, with its facts."""

from __future__ import annotations

import io
import json
import struct

import numpy as np
import pytest
import trimesh

from analysis.algorithms import geometry
from analysis.algorithms.marching_cubes import marching_cubes
from analysis.results import gltf
from analysis.results.x3d import Shape


def ball(radius: float = 10.0) -> tuple[np.ndarray, np.ndarray]:
    axis = np.arange(30) - 14.5
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    vertices, faces = marching_cubes(radius - np.sqrt(z**2 + y**2 + x**2), 0.0)
    points = vertices[:, ::-1] * 1.3 + np.array([-120.5, 30.25, 1000.0])
    return points.astype(np.float32), geometry.outward(points, faces)


def chunks(glb: bytes) -> tuple[dict, bytes]:
    magic, version, length = struct.unpack_from("<4sII", glb)
    assert (magic, version, length) == (b"glTF", 2, len(glb))
    size, kind = struct.unpack_from("<I4s", glb, 12)
    assert (size % 4, kind) == (0, b"JSON")
    rest, name = struct.unpack_from("<I4s", glb, 20 + size)
    assert (rest % 4, name, 28 + size + rest) == (0, b"BIN\0", len(glb))
    return json.loads(glb[20 : 20 + size]), glb[28 + size :]


def test_another_reader_sees_the_surfaces_upright_in_metres() -> None:
    vertices, faces = ball()
    shapes = [
        Shape("Seg_1", vertices, faces, (255, 0, 128), {"SegmentLabel": ["Bone"], "TrackingUID": ["1.2.3"]}),
        Shape("Seg_2", vertices + np.float32([0, -50, 0]), faces, (10, 200, 30), {"SegmentLabel": ["Zähne <1>"]}),
    ]
    glb = gltf.scene("Model & more", shapes, {"StudyInstanceUID": ["1.2.3"], "Empty": []})
    scene = trimesh.load_scene(io.BytesIO(glb), file_type="glb")
    assert len(scene.geometry) == 2
    upright = np.stack([vertices[:, 0], vertices[:, 2], -vertices[:, 1]], axis=1) / 1000
    for node, moved in (("Bone", (0, 0, 0)), ("Zähne <1>", (0, 0, 0.05))):
        matrix, name = scene.graph[node]
        mesh = scene.geometry[name].copy()
        mesh.apply_transform(matrix)
        assert mesh.is_watertight
        assert mesh.volume == pytest.approx(geometry.volume(vertices, faces) / 1e9, rel=2e-3)
        np.testing.assert_allclose(
            mesh.bounds, [(upright + moved).min(axis=0), (upright + moved).max(axis=0)], atol=1e-4
        )
        outward = mesh.vertices - mesh.bounds.mean(axis=0)
        assert (np.einsum("ij,ij->i", outward, mesh.vertex_normals) > 0).all()
    document, data = chunks(glb)
    assert document["scenes"][0]["extras"] == {"DICOM": {"StudyInstanceUID": ["1.2.3"]}}
    assert document["nodes"][0]["extras"]["DICOM"]["TrackingUID"] == ["1.2.3"]
    assert document["materials"][0]["pbrMetallicRoughness"]["baseColorFactor"] == pytest.approx([1, 0, 0.21586, 1])
    normals = document["accessors"][document["meshes"][0]["primitives"][0]["attributes"]["NORMAL"]]
    view = document["bufferViews"][normals["bufferView"]]
    stored = np.frombuffer(data, "<f4", normals["count"] * 3, view["byteOffset"]).reshape(-1, 3)
    np.testing.assert_allclose(np.linalg.norm(stored, axis=1), 1, atol=1e-5)


def test_nothing_to_show() -> None:
    empty = Shape("Seg_1", np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32), (1, 2, 3))
    with pytest.raises(ValueError, match="triangle"):
        gltf.scene("Model", [empty], {})
    vertices, faces = ball(5)
    one = gltf.scene("Model", [empty, Shape("Seg_2", vertices, faces, (1, 2, 3))], {})
    assert len(chunks(one)[0]["meshes"]) == 1
