"""Owns the check of pixels, frames and segments: that lengths, numbers, places and pointers of an image agree."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.tag import Tag

_VECTORS = ("SliceLocationVector", "FrameLabelVector", "FrameTimeVector", "PageNumberVector")
_COLOURS = {1: ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"), 3: ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT")}
_NATIVE = ("1.2.840.10008.1.2.1",)


def defects(ds: Dataset) -> Iterator[str]:
    """What is wrong with the picture that a data set is, in words; nothing for what is no picture."""
    if "Rows" not in ds:
        return
    yield from _pixels(ds)
    yield from _words(ds)
    frames = ds.get("PerFrameFunctionalGroupsSequence")
    if frames is not None and len(frames) != int(ds.get("NumberOfFrames") or 1):
        yield f"{len(frames)} items of functional groups for {ds.get('NumberOfFrames')} frames"
    yield from _increment(ds)
    if frames is not None:
        yield from _places(ds)
        yield from _dimensions(ds)
    if "SegmentSequence" in ds:
        yield from _segments(ds)


def _pixels(ds: Dataset) -> Iterator[str]:
    """PS3.3 C.7.6.3: the description fits itself and the length of the pixel data."""
    samples, stored = int(ds.get("SamplesPerPixel") or 0), int(ds.get("BitsStored") or 0)
    allocated, high = int(ds.get("BitsAllocated") or 0), int(ds.get("HighBit") or 0)
    if ds.get("PhotometricInterpretation") not in _COLOURS.get(samples, ()):
        yield f"Photometric Interpretation does not fit {samples} samples per pixel"
    if not 0 < stored <= allocated or high != stored - 1:
        yield "Bits Allocated, Bits Stored and High Bit do not fit one another"
    if str(ds.file_meta.get("TransferSyntaxUID")) in _NATIVE and "PixelData" in ds:
        count = int(ds.Rows) * int(ds.Columns) * samples * int(ds.get("NumberOfFrames") or 1)
        length = -(-count * allocated // 8)
        if len(ds.PixelData) != length + length % 2:
            yield f"{len(ds.PixelData)} bytes of Pixel Data for {length}"
    width = ds.get("WindowWidth")
    if width is not None and any(float(each) < 1 for each in np.atleast_1d(width)):
        yield "a window narrower than 1 (PS3.3 C.11.2)"
    spacing = ds.get("PixelSpacing")
    if spacing is not None and (len(spacing) != 2 or min(float(mm) for mm in spacing) <= 0):
        yield "Pixel Spacing is not two positive numbers"


def _words(ds: Dataset) -> Iterator[str]:
    """PS3.3 C.7.6.1.1.1 and C.7.6.1.1.2: what the picture is of, and which way it lies."""
    kind = [str(each) for each in np.atleast_1d(ds.get("ImageType") or [])]
    if kind[:1] not in (["DERIVED"], ["ORIGINAL"]) or kind[1:2] not in (["PRIMARY"], ["SECONDARY"]):
        yield "Image Type says neither original nor derived, or neither primary nor secondary"
    for letters in np.atleast_1d(ds.get("PatientOrientation") or []):
        if set(str(letters)) - set("LRAPHFUIDVETMOB"):
            yield "Patient Orientation has letters that are no direction"


def _increment(ds: Dataset) -> Iterator[str]:
    """PS3.3 C.7.6.6: what the Frame Increment Pointer points to is there, and a vector has a value per frame."""
    pointer = ds.get("FrameIncrementPointer")
    if pointer is None:
        return
    if int(ds.get("NumberOfFrames") or 1) == 1:
        yield "a Frame Increment Pointer for one frame (C.8.6.3)"
    for tag in pointer if isinstance(pointer, list) else [pointer]:
        if Tag(tag) not in ds:
            yield "the Frame Increment Pointer points to what is not there"
    for keyword in _VECTORS:
        if ds.get(keyword) is not None and len(np.atleast_1d(ds[keyword].value)) != int(ds.get("NumberOfFrames") or 1):
            yield f"{keyword} has not one value per frame"


def _groups(ds: Dataset, sequence: str, keyword: str) -> list[Any]:
    """A value of the functional groups for every frame, from its own groups or the shared ones; None where missing."""
    [shared] = ds.get("SharedFunctionalGroupsSequence") or [Dataset()]
    found = []
    for frame in ds.PerFrameFunctionalGroupsSequence:
        items = frame.get(sequence) or shared.get(sequence) or [Dataset()]
        found.append(items[0].get(keyword))
    return found


def _places(ds: Dataset) -> Iterator[str]:
    """PS3.3 C.7.6.16.2: every frame lies somewhere; no two of one segment in the same place."""
    if "FrameOfReferenceUID" not in ds:
        return
    positions = _groups(ds, "PlanePositionSequence", "ImagePositionPatient")
    orientations = _groups(ds, "PlaneOrientationSequence", "ImageOrientationPatient")
    spacings = _groups(ds, "PixelMeasuresSequence", "PixelSpacing")
    segments = _groups(ds, "SegmentIdentificationSequence", "ReferencedSegmentNumber")
    if any(each is None or len(each) != 3 for each in positions):
        yield "a frame without its position"
        return
    if any(each is None or len(each) != 6 for each in orientations):
        yield "a frame without its orientation"
        return
    if any(each is None or len(each) != 2 or min(map(float, each)) <= 0 for each in spacings):
        yield "a frame without a positive pixel spacing"
    axes = np.array([[float(each) for each in six] for six in orientations])
    rows, columns = axes[:, :3], axes[:, 3:]
    lengths = np.concatenate([np.linalg.norm(rows, axis=1), np.linalg.norm(columns, axis=1)])
    if np.abs(lengths - 1).max() > 1e-3 or np.abs((rows * columns).sum(axis=1)).max() > 1e-3:
        yield "Image Orientation (Patient) holds no two perpendicular unit vectors"
    places = [
        (segment, *(round(float(c), 4) for c in place)) for segment, place in zip(segments, positions, strict=True)
    ]
    if len(set(places)) < len(places):
        yield "two frames of one segment lie in the same place"


def _dimensions(ds: Dataset) -> Iterator[str]:
    """PS3.3 C.7.6.17: every frame has an index for every dimension, and all of them belong to a known organization."""
    if "DimensionIndexSequence" not in ds:
        return
    known = {str(item.DimensionOrganizationUID) for item in ds.get("DimensionOrganizationSequence") or ()}
    if any(str(item.get("DimensionOrganizationUID")) not in known for item in ds.DimensionIndexSequence):
        yield "a dimension of an organization that is not described"
    values = _groups(ds, "FrameContentSequence", "DimensionIndexValues")
    wanted = len(ds.DimensionIndexSequence)
    indices = [tuple(int(each) for each in np.atleast_1d(value)) if value is not None else () for value in values]
    if any(len(each) != wanted for each in indices):
        yield f"a frame without its {wanted} dimension index values"
    elif len(set(indices)) < len(indices):
        yield "two frames with the same dimension index values"
    elif any(min(each) < 1 for each in indices):
        yield "a dimension index value below 1"


def _segments(ds: Dataset) -> Iterator[str]:
    """PS3.3 C.8.20.2: segments are numbered one by one, and frames or pixels name those there are."""
    numbers = [int(item.get("SegmentNumber") or 0) for item in ds.SegmentSequence]
    labelmap = ds.get("SegmentationType") == "LABELMAP"
    if any(b - a != 1 for a, b in pairwise(numbers)) and not labelmap:
        yield "segment numbers do not rise by one"
    if len(set(numbers)) < len(numbers):
        yield "two segments of one number"
    if numbers and numbers[0] != 1 and not (labelmap and numbers[0] == 0):
        yield "segment numbers do not start at 1"
    tracked = [str(item.get("TrackingUID")) for item in ds.SegmentSequence if item.get("TrackingUID")]
    if len(set(tracked)) < len(tracked):
        yield "two segments of one Tracking UID"
    if labelmap:
        used = set(np.unique(np.frombuffer(ds.PixelData, np.uint8 if ds.BitsAllocated == 8 else "<u2")).tolist())
        strangers = used - set(numbers) - {0}
        if strangers:
            yield "pixels name a segment that is not described"
        return
    named = _groups(ds, "SegmentIdentificationSequence", "ReferencedSegmentNumber")
    if any(each is None or int(each) not in numbers for each in named):
        yield "a frame names a segment that is not described"
    elif set(numbers) - {int(each) for each in named}:
        yield "a segment without a frame"
