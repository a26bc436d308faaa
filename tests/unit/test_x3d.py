"""The X3D writer: complete, valid, small, and unmoved by hostile text; and its check sees what it should."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from analysis.algorithms import geometry
from analysis.algorithms.marching_cubes import marching_cubes
from analysis.evaluation.x3d_check import defects
from analysis.results import x3d
from analysis.results.encapsulated_stl import MalformedSTL, binary_stl, read_binary_stl
from analysis.results.segmentation import cielab, srgb


def ball(radius: float = 10.0) -> tuple[np.ndarray, np.ndarray]:
    axis = np.arange(30) - 14.5
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    vertices, faces = marching_cubes(radius - np.sqrt(z**2 + y**2 + x**2), 0.0)
    points = vertices[:, ::-1] * 1.3 + np.array([-120.5, 30.25, 1000.0])
    return points.astype(np.float32), geometry.outward(points, faces)


def write(*shapes: x3d.Shape, title: str = "Model") -> bytes:
    return b"".join(x3d.scene(title, shapes, {"StudyInstanceUID": ["1.2.3"], "Empty": []}))


def test_a_scene_has_every_triangle_where_it_was() -> None:
    vertices, faces = ball()
    scene = write(x3d.Shape("Seg_1", vertices, faces, (255, 0, 128), {"SegmentLabel": ["Bone"]}))
    assert defects(scene) == []
    root = ElementTree.fromstring(scene)
    transform, shape = root.find("Scene/Transform"), root.find("Scene/Transform/Shape/IndexedTriangleSet")
    assert transform is not None
    assert shape is not None
    scale, move = (np.array(transform.get(key, "").split(), float) for key in ("scale", "translation"))
    coordinate = shape.find("Coordinate")
    assert coordinate is not None
    points = np.array(coordinate.get("point", "").split(), float).reshape(-1, 3) * scale + move
    index = np.array(shape.get("index", "").split(), int).reshape(-1, 3)
    assert len(index) == len(faces)
    assert geometry.open_edges(index) == 0
    assert geometry.volume(points, index) == pytest.approx(geometry.volume(vertices, faces), rel=1e-3)
    centres, expected = points[index].mean(axis=1), vertices[faces].mean(axis=1)
    order, other = np.lexsort(np.round(centres, 0).T), np.lexsort(np.round(expected, 0).T)
    assert np.abs(centres[order].mean(axis=0) - expected[other].mean(axis=0)).max() < x3d.QUANTUM_MM


def test_the_first_view_sees_the_whole_model_from_the_front() -> None:
    vertices, faces = ball()
    root = ElementTree.fromstring(write(x3d.Shape("Seg_1", vertices, faces, (1, 2, 3))))
    view = root.find("Scene/Viewpoint")
    assert view is not None
    eye, centre = (np.array(view.get(key, "").split(), float) for key in ("position", "centerOfRotation"))
    np.testing.assert_allclose(centre, (vertices.min(axis=0) + vertices.max(axis=0)) / 2, atol=1)
    away = eye - centre
    assert away[1] < -13
    assert abs(away[0]) + abs(away[2]) < 1e-6
    assert view.get("description") == "Anterior"


def test_triangles_below_the_quantum_go_and_an_empty_scene_is_refused() -> None:
    vertices, faces = ball()
    tiny = (vertices[:3] - vertices[0]) * 1e-4 + vertices[0]
    both = np.concatenate([vertices, tiny])
    more = np.concatenate([faces, [[len(vertices), len(vertices) + 1, len(vertices) + 2]]])
    assert defects(write(x3d.Shape("Seg_1", both, more, (1, 2, 3)))) == []
    with pytest.raises(ValueError, match="triangle"):
        write(x3d.Shape("Seg_1", vertices, faces[:0], (1, 2, 3)))


def test_text_stays_text() -> None:
    vertices, faces = ball(4)
    wild = "<Script>'\"\\ & \x00\x1b \u202e\ud800 ]]>"
    scene = write(x3d.Shape("Seg_1", vertices, faces, (1, 2, 3), {"SegmentLabel": [wild, "b"]}), title=wild)
    assert defects(scene) == []
    root = ElementTree.fromstring(scene)
    strings = [each.get("value") for each in root.iter("MetadataString")]
    assert '"<Script>\'\\"\\\\ & \ufffd\ufffd \u202e\ufffd ]]>" "b"' in strings
    assert [each.tag for each in root.iter("Script")] == []


def test_the_schema_accepts_it() -> None:
    beside = Path(__file__).resolve().parents[2].parent / "shared/tools/x3d-schema/x3d-4.0-nodsig.xsd"
    path = Path(os.environ.get("M3DICOM_X3D_XSD", beside))
    if not path.is_file():
        pytest.skip("the X3D 4.0 schema is not at hand: set M3DICOM_X3D_XSD")
    from lxml import etree  # type: ignore[import-untyped]

    vertices, faces = ball()
    shapes = [x3d.Shape(f"Seg_{k}", vertices, faces, (9, 9, 9), {"SegmentLabel": ["a"]}) for k in (1, 2)]
    schema = etree.XMLSchema(etree.parse(path))
    assert schema.validate(etree.fromstring(write(*shapes))), schema.error_log


def test_the_check_sees_what_schemas_do_not() -> None:
    vertices, faces = ball(3)
    good = write(x3d.Shape("Seg_1", vertices, faces, (1, 2, 3), {"SegmentLabel": ["a"]})).decode()

    def broken(old: str, new: str) -> list[str]:
        assert old in good
        return defects(good.replace(old, new, 1).encode())

    assert broken("index='0 ", "index='99999 ")
    assert broken("index='0 1", "index='1 1")
    assert broken("index='", "index='0 ")
    assert broken("point='", "point='7 ")
    assert broken("point='", "point='nan 0 0 ")
    assert broken("containerField='value' ", "")
    assert broken("DEF='Model'", "DEF='Seg_1'")
    assert broken("<Shape ", "<Group USE='Nobody'/><Shape ")
    assert broken("<Shape ", "<Script/><Shape ")
    assert broken("<meta ", "<meta name='x' content='y'/><unit category='angle' name='d' conversionFactor='1'/><meta ")


def test_stl_reads_back_and_normals_point_outward() -> None:
    vertices, faces = ball()
    data = binary_stl(vertices, faces, "solid name")
    assert len(data) == 84 + 50 * len(faces)
    assert not data.startswith(b"solid")
    np.testing.assert_array_equal(read_binary_stl(data), vertices[faces])
    np.testing.assert_array_equal(read_binary_stl(data + b"\0"), vertices[faces])
    normal = np.frombuffer(data[84:96], "<f4")
    a, b, c = vertices[faces[0]]
    assert np.dot(normal, np.cross(b - a, c - a)) > 0
    assert np.linalg.norm(normal) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("cut", [0, 83, 84, 100])
def test_short_stl_is_refused(cut: int) -> None:
    vertices, faces = ball(3)
    with pytest.raises(MalformedSTL):
        read_binary_stl(binary_stl(vertices, faces)[:cut])


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (222, 205, 176), (255, 0, 0), (0, 128, 255)])
def test_colours_survive_cielab(colour: tuple[int, int, int]) -> None:
    lab = cielab(colour)
    assert all(0 <= value <= 65535 for value in lab)
    assert np.abs(np.array(srgb(lab)) - colour).max() <= 1


def test_white_is_white() -> None:
    lightness, a, b = cielab((255, 255, 255))
    assert lightness >= 65500
    assert abs(a - 32896) < 60  # 0 in the coding of PS3.3 C.10.7.1.1
    assert abs(b - 32896) < 60
