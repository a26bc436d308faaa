"""Owns the check of what no X3D schema sees: indices, counts, names and numbers of a scene that we wrote."""

from __future__ import annotations

import base64
import gzip
import math
import zlib
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

_BEYOND_INTERCHANGE = frozenset({"VolumeData", "SegmentedVolumeData", "ImageTexture3D", "Script", "Inline"})
_HEAD_ORDER = ("component", "unit", "meta")


def defects(document: bytes) -> list[str]:
    """What is wrong with an X3D scene beyond its schema; empty when nothing is. For documents of our own making."""
    root = ElementTree.fromstring(document)  # noqa: S314 - our own output, and expat loads nothing external
    names = [element.get("DEF") for element in root.iter() if element.get("DEF")]
    found = [f"DEF {name} twice" for name in sorted({str(name) for name in names if names.count(name) > 1})]
    head = root.find("head")
    order = (
        [_HEAD_ORDER.index(element.tag) for element in head if element.tag in _HEAD_ORDER] if head is not None else []
    )
    if order != sorted(order):
        found.append("head: component, unit and meta out of order")
    for element in root.iter():
        if element.get("USE") and element.get("USE") not in names:
            found.append(f"USE {element.get('USE')} of nothing")
        if element.tag in _BEYOND_INTERCHANGE and root.get("profile") == "Interchange":
            found.append(f"{element.tag} is beyond the profile")
        if element.tag.startswith("Metadata") and not element.get("containerField"):
            found.append(f"{element.tag} {element.get('name')} without containerField")
        if element.tag == "IndexedTriangleSet":
            found += _triangle_set(element)
        if element.tag == "VolumeData":
            found += _volume(element)
    return found


def _volume(element: ElementTree.Element) -> list[str]:
    """VolumeData has extent, and voxels of as many bytes as their header says."""
    found = []
    dimensions = [float(each) for each in (element.get("dimensions") or "").split()]
    if len(dimensions) != 3 or not all(math.isfinite(each) and each > 0 for each in dimensions):
        found.append("dimensions that are not three positive numbers")
    texture = element.find("ImageTexture3D")
    if texture is None or texture.get("containerField") != "voxels":
        return [*found, "a volume without voxels"]
    try:
        voxels = voxels_of(texture)
    except (ValueError, OSError, EOFError, zlib.error):
        return [*found, "voxels that cannot be read"]
    if min(voxels.shape) < 2:
        found.append("a volume without depth")
    return found


def voxels_of(texture: ElementTree.Element) -> npt.NDArray[np.uint8]:
    """(slices, rows, columns) of the NRRD file in the address of an ImageTexture3D. Raises ValueError, OSError."""
    address = (texture.get("url") or "").strip('"')
    data = base64.b64decode(address.partition("base64,")[2], validate=True)
    head, _, body = data.partition(b"\n\n")
    lines = head.decode("ascii").splitlines()
    if not lines or not lines[0].startswith("NRRD000"):
        raise ValueError("no NRRD")
    fields = dict(line.split(": ", 1) for line in lines[1:] if not line.startswith("#"))
    if (fields["type"], fields["encoding"], fields["dimension"]) != ("uint8", "gzip", "3"):
        raise ValueError("another kind of NRRD than is written")
    columns, rows, slices = (int(each) for each in fields["sizes"].split())
    return np.frombuffer(gzip.decompress(body), np.uint8).reshape(slices, rows, columns)


def _triangle_set(element: ElementTree.Element) -> list[str]:
    found = []
    coordinate = element.find("Coordinate")
    points = [float(each) for each in (coordinate.get("point") or "").split()] if coordinate is not None else []
    index = [int(each) for each in (element.get("index") or "").split()]
    if not index or not points:
        found.append("no triangles")
    if len(points) % 3:
        found.append("coordinates are no multiple of three")
    if len(index) % 3:
        found.append("indices are no multiple of three")
    if index and (min(index) < 0 or max(index) >= len(points) // 3):
        found.append("an index is out of range")
    if not all(map(math.isfinite, points)):
        found.append("a coordinate is not finite")
    if any(len({*index[i : i + 3]}) < 3 for i in range(0, len(index) - 2, 3)):
        found.append("a triangle without area")
    if len(set(index)) != len(points) // 3:
        found.append("a coordinate that no triangle uses")
    return found
