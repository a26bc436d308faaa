"""Owns the media types that results can be had in besides DICOM; what makes them is loaded with the first of them.

A server that nobody asks for a 3D model holds neither NumPy nor the libraries of meshes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.retrieve import InstanceLocation

Rendition = Callable[["Archive", list["InstanceLocation"]], bytes]


def x3d_scene(archive: Archive, locations: list[InstanceLocation]) -> bytes:
    """`analysis.results.renditions.x3d_scene`."""
    from analysis.results import renditions

    return renditions.x3d_scene(archive, locations)


def gltf_scene(archive: Archive, locations: list[InstanceLocation]) -> bytes:
    """`analysis.results.renditions.gltf_scene`."""
    from analysis.results import renditions

    return renditions.gltf_scene(archive, locations)


RENDITIONS: Mapping[str, Rendition] = MappingProxyType({"model/x3d+xml": x3d_scene, "model/gltf-binary": gltf_scene})
