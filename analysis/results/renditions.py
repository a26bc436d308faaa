"""Owns what stored results look like in other media types: 3D models as X3D and glTF scenes, volumes as X3D."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from analysis.algorithms import volume_rendering
from analysis.results import gltf, x3d, x3d_volume
from pacs.dicom.json_model import text, texts
from pacs.errors import NotFound, TooLarge, Undecodable

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.retrieve import InstanceLocation

Made = TypeVar("Made")

MOST_TRIANGLES = 1_000_000  # 20 s of one core; models of ours have an eighth of it
MOST_VOXELS = 32_000_000
FARTHEST_MM = 1e6
_VOLUME = "1.2.840.10008.5.1.4.1.1.7.2"
_ENCAPSULATED_STL, _SEGMENTATION = "1.2.840.10008.5.1.4.1.1.104.3", "1.2.840.10008.5.1.4.1.1.66.4"
_DOCUMENT = "00420011"
_MM_PER_UNIT = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001}
_COLOUR = (222, 205, 176)


def x3d_scene(archive: Archive, locations: Sequence[InstanceLocation]) -> bytes:
    """The X3D scene of the Encapsulated STL instances among `locations`, one shape each; without any, of their volume.

    Raises NotFound where there is neither, Undecodable for bytes that are no binary STL or no volume of ours, TooLarge
    beyond MOST_TRIANGLES.
    """
    if not any(location.sop_class_uid == _ENCAPSULATED_STL for location in locations):
        volumes = [location for location in locations if location.sop_class_uid == _VOLUME]
        if volumes:
            return _volume_scene(archive, volumes[0])
    return b"".join(_made(lambda *scene: list(x3d.scene(*scene)), archive, locations))


def gltf_scene(archive: Archive, locations: Sequence[InstanceLocation]) -> bytes:
    """The same scene as binary glTF. Raises as `x3d_scene`."""
    return _made(gltf.scene, archive, locations)


def _made(
    scene: Callable[[str, list[x3d.Shape], dict[str, Sequence[str]]], Made],
    archive: Archive,
    locations: Sequence[InstanceLocation],
) -> Made:
    models = [location for location in locations if location.sop_class_uid == _ENCAPSULATED_STL]
    if not models:
        raise NotFound("there is no 3D model here", about=locations[0].series_instance_uid if locations else "")
    shapes: list[x3d.Shape] = []
    first: Mapping[str, Any] = {}
    triangles = 0
    for number, (location, raw) in enumerate(zip(models, archive.retrieve.metadata(models), strict=True), 1):
        metadata = json.loads(raw.replace(b"\xff", b""))
        first = first or metadata
        corners = _corners(_document(archive, location, metadata), metadata, location)
        triangles += len(corners)
        if triangles > MOST_TRIANGLES:
            raise TooLarge(f"more than {MOST_TRIANGLES} triangles in one scene", about=location.series_instance_uid)
        shapes.append(_shape(number, corners, metadata))
    title = text(first, "0008103E") or "3D models"
    try:
        return scene(title, shapes, _scene_facts(first))
    except ValueError as error:
        raise Undecodable("the models have no triangles", about=models[0].series_instance_uid) from error


def _volume_scene(archive: Archive, location: InstanceLocation) -> bytes:
    """The multi-frame Secondary Capture of a volume as an X3D volume: its slices in place, as opaque as bone is."""
    [raw] = archive.retrieve.metadata([location])
    metadata = json.loads(raw.replace(b"\xff", b""))
    shared, mapping = _item(metadata, "52009229"), _item(metadata, "00409096")
    measures, plane = _item(shared, "00289110"), _item(shared, "00209116")
    places = [
        _numbers(_item(frame, "00209113"), "00200032") for frame in metadata.get("52009230", {}).get("Value") or []
    ]
    shape = tuple(int(text(metadata, tag) or 0) for tag in ("00280008", "00280010", "00280011"))
    spacing, slope = _numbers(measures, "00280030"), _numbers(mapping, "00409225")
    low, gap = _numbers(mapping, "00409224"), _numbers(measures, "00180088")
    axes = _numbers(plane, "00200037")
    lacking = not (slope and low and len(spacing) == 2 and gap and axes == [1, 0, 0, 0, 1, 0])
    if lacking or len(places) != shape[0] or any(len(place) != 3 for place in places) or min(shape) < 2:
        raise NotFound("this is no volume along the axes of the patient", about=location.sop_instance_uid)
    if shape[0] * shape[1] * shape[2] > MOST_VOXELS:
        raise TooLarge(f"more than {MOST_VOXELS} voxels in one scene", about=location.series_instance_uid)
    data = b"".join(archive.retrieve.frame(location, number) for number in range(1, shape[0] + 1))
    if len(data) != shape[0] * shape[1] * shape[2]:
        raise Undecodable("frames of another size than they say", about=location.sop_instance_uid)
    bone = (_numbers(metadata, "00281050") or [128.0])[0] * slope[0] + low[0]
    looks = volume_rendering.transfer(low[0], low[0] + 255 * slope[0], bone)[:, 3]
    opacity = np.rint(255 * looks).astype(np.uint8)[np.frombuffer(data, np.uint8).reshape(shape)]
    title = text(metadata, "0008103E") or "Volume"
    facts = {**_scene_facts(metadata), "SOPInstanceUID": texts(metadata, "00080018")[:1]}
    step = (spacing[1], spacing[0], gap[0])
    return b"".join(x3d_volume.scene(title, opacity, np.array(places[0]), step, _COLOUR, facts))


def _numbers(item: Mapping[str, Any], tag: str) -> list[float]:
    values = item.get(tag, {}).get("Value") or []
    return [float(each) for each in values if isinstance(each, int | float)]


def _document(archive: Archive, location: InstanceLocation, metadata: Mapping[str, Any]) -> bytes:
    if any(value.path == _DOCUMENT for value in location.bulk):
        return archive.retrieve.bulkdata(location, _DOCUMENT)
    return base64.b64decode(metadata.get(_DOCUMENT, {}).get("InlineBinary") or "")


def _corners(data: bytes, metadata: Mapping[str, Any], location: InstanceLocation) -> npt.NDArray[np.float32]:
    """(triangles, 3, 3) mm."""
    # Encoders of results, 50 MB with what they need: only where somebody asks for a model
    from analysis.results.encapsulated_stl import MalformedSTL, read_binary_stl

    try:
        corners = read_binary_stl(data)
    except MalformedSTL as error:
        raise Undecodable(f"no binary STL: {error}", about=location.sop_instance_uid) from error
    unit = text(_item(metadata, "004008EA"), "00080100") or "mm"
    if unit not in _MM_PER_UNIT:
        raise Undecodable("the model's unit is no length", about=location.sop_instance_uid)
    if len(corners) and float(np.abs(corners).max()) * _MM_PER_UNIT[unit] > FARTHEST_MM:
        raise Undecodable("a coordinate is beyond any patient", about=location.sop_instance_uid)
    return corners * np.float32(_MM_PER_UNIT[unit])


def _shape(number: int, corners: npt.NDArray[np.float32], metadata: Mapping[str, Any]) -> x3d.Shape:
    label = text(metadata, "00620020") or text(metadata, "00420010") or f"Model {number}"
    structure = _item(metadata, "00082228")
    code = [text(structure, tag) or "" for tag in ("00080100", "00080102", "00080104")]
    facts = {
        "SegmentLabel": [label],
        "SegmentNumber": texts(metadata, "00200013")[:1],
        "TrackingUID": texts(metadata, "00620021")[:1],
        "SOPInstanceUID": texts(metadata, "00080018")[:1],
        "SegmentedPropertyTypeCode": code if any(code) else [],
        "ContentDescription": texts(metadata, "00700081")[:1],
    }
    faces = np.arange(3 * len(corners), dtype=np.int32).reshape(-1, 3)
    return x3d.Shape(f"Seg_{number}", corners.reshape(-1, 3), faces, _colour(metadata), facts)


def _scene_facts(metadata: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """What names the scene's place in the archive: UIDs of study, series, sources and sister results, no patient."""
    referenced = metadata.get("00081115", {}).get("Value") or []
    instances = [item for series in referenced for item in series.get("0008114A", {}).get("Value") or []]
    labels = [text(item, "00081155") or "" for item in instances if text(item, "00081150") == _SEGMENTATION]
    related = metadata.get("00081250", {}).get("Value") or []
    return {
        "StudyInstanceUID": texts(metadata, "0020000D")[:1],
        "SeriesInstanceUID": texts(metadata, "0020000E")[:1],
        "FrameOfReferenceUID": texts(metadata, "00200052")[:1],
        "SourceSeriesInstanceUID": [text(series, "0020000E") or "" for series in referenced[:1]],
        "SegmentationSOPInstanceUID": labels[:1],
        "RelatedSeriesInstanceUID": [text(series, "0020000E") or "" for series in related],
        "ManufacturerModelName": texts(metadata, "00081090")[:1],
        "DeviceSerialNumber": texts(metadata, "00181000")[:1],
        "SoftwareVersions": texts(metadata, "00181020"),
        "CoordinateSystem": ["LPS"],
    }


def _item(metadata: Mapping[str, Any], tag: str) -> Mapping[str, Any]:
    items = metadata.get(tag, {}).get("Value") or [{}]
    return items[0] if isinstance(items[0], dict) else {}


def _colour(metadata: Mapping[str, Any]) -> tuple[int, int, int]:
    value = metadata.get("0062000D", {}).get("Value") or []
    if len(value) != 3 or not all(isinstance(each, int) and 0 <= each <= 65535 for each in value):
        return _COLOUR
    from analysis.results.segmentation import srgb

    return srgb(value)
