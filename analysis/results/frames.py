"""Owns the slices of a volume as single images, which is what highdicom takes a volume from, and their references.

A slice may be a frame of a multi-frame instance (Enhanced CT and MR, PS3.3 C.7.6.16), and a volume may be of several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset
from pydicom.uid import CTImageStorage

from analysis.api import Volume
from analysis.results import inherited, provenance
from analysis.results.provenance import RunInfo
from pacs import uids

_GROUPS = (
    ("PlanePositionSequence", "ImagePositionPatient"),
    ("PlaneOrientationSequence", "ImageOrientationPatient"),
    ("PixelMeasuresSequence", "PixelSpacing"),
    ("PixelMeasuresSequence", "SliceThickness"),
)
_OF_MANY = (
    "NumberOfFrames", "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence",
    "DimensionIndexSequence", "DimensionOrganizationSequence",
)  # fmt: skip
_SAME_PLACE_MM = 0.01


@dataclass(frozen=True)
class Slice:
    """A slice: its instance, the frame in it (None in an instance that is one image), and the image it is taken for."""

    source: Dataset
    frame: int | None
    image: Dataset


def slices(run: RunInfo, volume: Volume) -> list[Slice]:
    """The slices of a volume in its order. KeyError when the run does not know one."""
    made = []
    for uid, position in zip(volume.sop_instance_uids, volume.positions, strict=True):
        source = run.source(uid)
        frames = source.get("PerFrameFunctionalGroupsSequence")
        if frames is None:
            made.append(Slice(source, None, inherited.with_type_2(source)))
        else:
            number = _at(source, position)
            made.append(Slice(source, number, _single(source, number)))
    return made


def refer(ds: Dataset, used: Sequence[Slice]) -> None:
    """Let an object that was made of `used` as single images refer to the frames that they are."""
    frames = {str(each.image.SOPInstanceUID): each for each in used if each.frame is not None}
    if not frames:
        return
    whole = {str(each.source.SOPInstanceUID): each.source for each in used}
    listed = [item for item, _ in zip(ds.SourceImageSequence, whole, strict=False)]
    for item, source in zip(listed, whole.values(), strict=True):
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    ds.SourceImageSequence = provenance.sequence(*listed)
    ds.ReferencedSeriesSequence = provenance.sequence(*provenance.referenced_series(whole.values()))
    for groups in (*ds.get("SharedFunctionalGroupsSequence", ()), *ds.get("PerFrameFunctionalGroupsSequence", ())):
        for derivation in groups.get("DerivationImageSequence", ()):
            for item in derivation.get("SourceImageSequence", ()):
                meant = frames[str(item.ReferencedSOPInstanceUID)]
                item.ReferencedSOPClassUID = meant.source.SOPClassUID
                item.ReferencedSOPInstanceUID = meant.source.SOPInstanceUID
                item.ReferencedFrameNumber = meant.frame


def _at(source: Dataset, position: np.ndarray) -> int:
    """The number of the frame that lies there, counted from 1."""
    places = np.array([_value(source, number, *_GROUPS[0]) for number in _numbers(source)], np.float64)
    away = np.linalg.norm(places - position, axis=1)
    if float(away.min()) > _SAME_PLACE_MM:
        raise KeyError("no frame lies where the volume has a slice")
    return int(away.argmin()) + 1


def _numbers(source: Dataset) -> range:
    return range(1, len(source.PerFrameFunctionalGroupsSequence) + 1)


def _value(source: Dataset, number: int, sequence: str, keyword: str) -> object:
    """From the frame's functional groups, the shared ones, or the header."""
    shared = source.get("SharedFunctionalGroupsSequence") or [Dataset()]
    for groups in (source.PerFrameFunctionalGroupsSequence[number - 1], shared[0]):
        for item in groups.get(sequence) or ():
            if item.get(keyword) is not None:
                return item[keyword].value
    return source.get(keyword)


def _single(source: Dataset, number: int) -> Dataset:
    image = inherited.with_type_2(source)
    for keyword in _OF_MANY:
        image.pop(keyword, None)
    for keyword in ("SOPClassUID", "SOPInstanceUID"):
        image.pop(keyword, None)  # assigning to an element that is there would change the source
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, uids.derived("frame", source.SOPInstanceUID, number)
    for sequence, keyword in _GROUPS:
        value = _value(source, number, sequence, keyword)
        image.pop(keyword, None)
        if value is not None:
            setattr(image, keyword, value)
    return image
