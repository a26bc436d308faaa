"""Owns X3D 4.0 in XML (ISO/IEC 19775-1, 19776-1): labelled surfaces in mm of the patient as one scene.

Coordinates are whole numbers of a quantum under one Transform, which halves the text and loses less than any scanner
resolves. Nothing is written that names a patient.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import quoteattr

import numpy as np
import numpy.typing as npt

from analysis.algorithms import geometry

try:
    import meshoptimizer
except ImportError:  # optional: an order of triangles that packs better
    meshoptimizer = None

MEDIA_TYPE = "model/x3d+xml"
QUANTUM_MM = 0.05
FIELD_OF_VIEW = 0.7854  # radians

_HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE X3D PUBLIC "ISO//Web3D//DTD X3D 4.0//EN" "https://www.web3d.org/specifications/x3d-4.0.dtd">
<X3D profile="{}" version="4.0" xmlns:xsd="http://www.w3.org/2001/XMLSchema-instance" \
xsd:noNamespaceSchemaLocation="https://www.web3d.org/specifications/x3d-4.0.xsd">
<head>
<unit category="length" name="millimetre" conversionFactor="0.001"/>
"""

_VIEWS = (
    # description, direction from the model to the eye (LPS), orientation of the camera
    ("Anterior", (0, -1, 0), "1 0 0 1.5708"),
    ("Left", (1, 0, 0), "0.57735 0.57735 0.57735 2.0944"),
    ("Posterior", (0, 1, 0), "0 0.70711 0.70711 3.14159"),
    ("Right", (-1, 0, 0), "0.57735 -0.57735 -0.57735 2.0944"),
    ("Superior", (0, 0, 1), "0 0 1 0"),
    ("Inferior", (0, 0, -1), "1 0 0 3.14159"),
)

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Shape:
    """One labelled surface: vertices (n, 3) mm LPS, faces (m, 3), sRGB colour, DICOM facts by keyword."""

    name: str  # DEF: an XML name, unique in the scene
    vertices: npt.NDArray[np.floating]
    faces: npt.NDArray[np.integer]
    colour: tuple[int, int, int]
    facts: Mapping[str, Sequence[str]] = field(default_factory=dict)


def scene(title: str, shapes: Sequence[Shape], facts: Mapping[str, Sequence[str]]) -> Iterator[bytes]:
    """The scene as pieces of a UTF-8 document. `facts`: DICOM attributes of the whole scene by keyword.

    Triangles that vanish at QUANTUM_MM are left out. ValueError for a scene without a triangle.
    """
    filled = [shape for shape in shapes if len(shape.faces)]
    if not filled:
        raise ValueError("a scene needs at least one triangle")
    low = np.min([shape.vertices.min(axis=0) for shape in filled], axis=0).astype(np.float64)
    high = np.max([shape.vertices.max(axis=0) for shape in filled], axis=0).astype(np.float64)
    low = np.floor(low)
    yield from opening(title, "Interchange", facts, low, high)
    step = number(QUANTUM_MM)
    translation = " ".join(map(number, low))
    yield f"<Transform DEF='Model' translation='{translation}' scale='{step} {step} {step}'>\n".encode()
    for shape in filled:
        yield from _shape(shape, low)
    yield b"</Transform>\n</Scene>\n</X3D>\n"


def opening(
    title: str, profile: str, facts: Mapping[str, Sequence[str]], low: npt.NDArray[np.float64],
    high: npt.NDArray[np.float64],
) -> Iterator[bytes]:  # fmt: skip
    """A scene up to where its content begins: head, facts, navigation, and viewpoints on its box (mm)."""
    yield _HEAD.format(profile).encode()
    yield f"<meta name={_quoted('title')} content={_quoted(title)}/>\n".encode()
    yield b'<meta name="generator" content="m3DICOM"/>\n</head>\n<Scene>\n'
    yield f"<WorldInfo title={_quoted(title)}>{_metadata(facts)}</WorldInfo>\n".encode()
    yield b"<NavigationInfo type='\"EXAMINE\" \"ANY\"' headlight='true'/>\n"
    yield "".join(_viewpoints(low, high)).encode()


def _viewpoints(low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]) -> Iterator[str]:
    centre = (low + high) / 2
    away = float(np.linalg.norm(high - low)) / 2 / math.sin(FIELD_OF_VIEW / 2)
    middle = " ".join(map(number, centre))
    for description, direction, orientation in _VIEWS:
        eye = " ".join(map(number, centre + np.asarray(direction) * away))
        yield (
            f"<Viewpoint DEF='View_{description}' description='{description}' position='{eye}' "
            f"orientation='{orientation}' centerOfRotation='{middle}' fieldOfView='{FIELD_OF_VIEW}'/>\n"
        )


def _shape(shape: Shape, low: npt.NDArray[np.float64]) -> Iterator[bytes]:
    points = np.rint((shape.vertices.astype(np.float64) - low) / QUANTUM_MM).astype(np.int64)
    points, faces = geometry.weld(points, np.asarray(shape.faces))
    points, faces = _ordered(*geometry.compact(points, faces)) if len(faces) else (points[:0], faces)
    colour = " ".join(f"{channel / 255:.4g}" for channel in shape.colour)
    yield f"<Shape DEF='{shape.name}'>{_metadata(shape.facts)}\n".encode()
    yield f"<Appearance><Material diffuseColor='{colour}' specularColor='0.1 0.1 0.1'/></Appearance>\n".encode()
    yield b"<IndexedTriangleSet solid='false' index='"
    yield _integers(faces)
    yield b"'><Coordinate point='"
    yield _integers(points)
    yield b"'/></IndexedTriangleSet></Shape>\n"


def _ordered(
    points: npt.NDArray[np.int64], faces: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """The same mesh with neighbouring triangles next to each other: a fifth less after gzip."""
    if meshoptimizer is None:
        return points, faces
    indices = np.ascontiguousarray(faces.reshape(-1), np.uint32)
    ordered = np.empty_like(indices)
    meshoptimizer.optimize_vertex_cache(ordered, indices, len(indices), len(points))
    _, first, inverse = np.unique(ordered, return_index=True, return_inverse=True)
    by_use = np.argsort(first, kind="stable")  # vertices in the order of their first use
    rank = np.empty(len(by_use), np.int32)
    rank[by_use] = np.arange(len(by_use), dtype=np.int32)
    return points[by_use], rank[inverse.reshape(-1)].reshape(-1, 3)


def _metadata(facts: Mapping[str, Sequence[str]]) -> str:
    """A MetadataSet with one MetadataString per fact; without containerField readers drop its values."""
    strings = "".join(
        f"<MetadataString containerField='value' name={_quoted(name)} value={_quoted(_mf_string(values))}/>"
        for name, values in facts.items()
        if values
    )
    return f"<MetadataSet containerField='metadata' name='DICOM'>{strings}</MetadataSet>" if strings else ""


def _mf_string(values: Sequence[str]) -> str:
    return " ".join('"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for value in values)


def _quoted(text: str) -> str:
    return quoteattr(_NOT_XML.sub("\ufffd", text))


def number(value: float) -> str:
    """A number as X3D text, to a thousandth."""
    return f"{round(float(value), 3):.10g}"


def _integers(values: npt.NDArray[np.integer]) -> bytes:
    return " ".join(map(str, values.reshape(-1).tolist())).encode()
