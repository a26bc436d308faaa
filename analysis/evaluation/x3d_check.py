"""Owns the check of what no X3D schema sees: indices, counts, names and numbers of a scene that we wrote."""

from __future__ import annotations

import math
from xml.etree import ElementTree

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
    return found


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
