"""From stored instances to what a plug-in is given: headers read, slices put in their places, images decoded.

Runs in the child process. What cannot be one volume is refused in words (NotAnalysable), never resampled or guessed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread

from analysis import pixels
from analysis.api import Array, Image, NotAnalysable, Volume

MIN_SLICES = 2
SAME_PLACE_MM = 0.01
_ORIENTATION_DIGITS = 3
_SPACING_DIGITS = 4

Progress = Callable[[float], None]
_Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Instance:
    """One stored instance: where its Part 10 file lies, and its data set without pixel data."""

    path: Path
    header: Dataset

    @property
    def frames(self) -> int:
        """Number of frames, 1 where it is not multi-frame."""
        return int(self.header.get("NumberOfFrames") or 1)


@dataclass(frozen=True)
class _Slice:
    """One slice on its way into a volume. Directions are unit vectors, position and spacing are in mm."""

    instance: Instance
    frame: int  # counted from 1
    position: _Vector
    row: _Vector
    column: _Vector
    spacing: tuple[float, float]
    slope: float
    intercept: float
    image_type: tuple[str, ...]

    @property
    def kind(self) -> tuple[Any, ...]:
        """What all slices of one volume share."""
        h = self.instance.header
        orientation = tuple(np.round([*self.row, *self.column], _ORIENTATION_DIGITS) + 0.0)
        spacing = tuple(round(mm, _SPACING_DIGITS) for mm in self.spacing)
        return (orientation, spacing, int(h.Rows), int(h.Columns), str(h.get("FrameOfReferenceUID") or ""))


def read(path: Path) -> Instance:
    """The instance at `path`, without its pixel data. Raises NotAnalysable where pydicom cannot read it."""
    try:
        return Instance(path, dcmread(path, stop_before_pixels=True))
    except Exception as error:
        raise NotAnalysable("an instance of the input cannot be read") from error


def datasets(instances: Sequence[Instance]) -> tuple[Dataset, ...]:
    """Each instance as a whole data set, in the order given. Raises NotAnalysable where pydicom cannot read one."""
    try:
        return tuple(dcmread(each.path) for each in instances)
    except Exception as error:
        raise NotAnalysable("an instance of the input cannot be read") from error


# Volumes -------------------------------------------------------------------------------------------------------------


def volume(instances: Sequence[Instance], progress: Progress = lambda _: None) -> tuple[Volume, tuple[Instance, ...]]:
    """The slices of one series as a Volume, and the instances that it is made of.

    Localisers are left out. Slices are ordered along the normal of ImageOrientationPatient (PS3.3 C.7.6.2.1.1) and
    each keeps its position, so gantry tilt and uneven gaps stay true. Raises NotAnalysable in words for mixed
    orientations or sizes, two slices in one place, a slice that is missing its place, colour, or too few slices.
    """
    slices = [each for instance in instances if "Rows" in instance.header for each in _slices(instance)]
    slices = [s for s in slices if "LOCALIZER" not in s.image_type] or slices
    if len(slices) < MIN_SLICES:
        raise NotAnalysable(f"a volume needs at least {MIN_SLICES} slices; the series has {len(slices)}")
    slices = _of_one_kind(slices)
    normal = np.cross(slices[0].row, slices[0].column)
    slices.sort(key=lambda s: float(normal @ s.position))
    _check_places(np.array([normal @ s.position for s in slices]))
    first = slices[0]
    made = Volume(
        data=_values(slices, progress),
        positions=np.array([s.position for s in slices]),
        row=first.row,
        column=first.column,
        spacing=first.spacing,
        sop_instance_uids=tuple(str(s.instance.header.SOPInstanceUID) for s in slices),
        frame_of_reference_uid=str(first.instance.header.get("FrameOfReferenceUID") or ""),
        attributes=pixels.attributes(first.instance.path),
    )
    used = {id(s.instance): s.instance for s in slices}
    return made, tuple(used.values())


def _of_one_kind(slices: list[_Slice]) -> list[_Slice]:
    """The slices of the one volume among them; an unmarked scout or two beside it are left out."""
    kinds = Counter(s.kind for s in slices)
    [(kind, count), *others] = kinds.most_common()
    strays = sum(n for _, n in others)
    if strays and (strays > 2 or count < 10 * strays):
        differ = [
            name
            for i, name in enumerate(("orientations", "pixel spacings", "rows", "columns", "frames of reference"))
            if len({k[i] for k in kinds}) > 1
        ]
        raise NotAnalysable(f"the series is no single volume: its slices have different {' and '.join(differ)}")
    return [s for s in slices if s.kind == kind]


def _check_places(along: _Vector) -> None:
    gaps = np.diff(along)
    doubles = int((gaps < SAME_PLACE_MM).sum())
    if doubles:
        raise NotAnalysable(
            f"{doubles} slices lie where another one lies: the series holds several phases or reconstructions"
        )
    median = float(np.median(gaps))
    widest = float(gaps.max())
    if widest > 15 and widest > 6 * median:
        raise NotAnalysable(f"slices are missing: a gap of {widest:.1f} mm in a series with {median:.2f} mm steps")


def _slices(instance: Instance) -> list[_Slice]:
    h = instance.header
    if int(h.get("SamplesPerPixel") or 1) != 1:
        raise NotAnalysable("the images are in colour")
    frames: Sequence[Dataset] = h.get("PerFrameFunctionalGroupsSequence") or [Dataset()]
    shared = next(iter(h.get("SharedFunctionalGroupsSequence") or ()), Dataset())
    if len(frames) != instance.frames:
        raise NotAnalysable("a multi-frame instance without the place of each frame")
    return [_slice(instance, number, frame, shared) for number, frame in enumerate(frames, 1)]


def _slice(instance: Instance, number: int, frame: Dataset, shared: Dataset) -> _Slice:
    h = instance.header

    def find(sequence: str, keyword: str) -> Any:
        """From the frame's functional groups, the shared ones (PS3.3 C.7.6.16), or the header of a single frame."""
        for groups in (frame, shared):
            for item in groups.get(sequence) or ():
                if item.get(keyword) is not None:
                    return item[keyword].value
        return h.get(keyword)

    position = _numbers(find("PlanePositionSequence", "ImagePositionPatient"), 3, "ImagePositionPatient")
    orientation = _numbers(find("PlaneOrientationSequence", "ImageOrientationPatient"), 6, "ImageOrientationPatient")
    spacing = _numbers(find("PixelMeasuresSequence", "PixelSpacing"), 2, "PixelSpacing")
    row, column = orientation[:3], orientation[3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if min(lengths) < 0.9 or max(lengths) > 1.1 or abs(row @ column) > 0.01:
        raise NotAnalysable("ImageOrientationPatient holds no two perpendicular directions")
    if min(spacing) <= 0:
        raise NotAnalysable("PixelSpacing is not positive")
    slope = find("PixelValueTransformationSequence", "RescaleSlope")
    intercept = find("PixelValueTransformationSequence", "RescaleIntercept")
    image_type = find("CTImageFrameTypeSequence", "FrameType") or h.get("ImageType") or ()
    return _Slice(
        instance, number, position, row / lengths[0], column / lengths[1], (float(spacing[0]), float(spacing[1])),
        1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept),
        (image_type,) if isinstance(image_type, str) else tuple(map(str, image_type)),
    )  # fmt: skip


def _numbers(found: Any, count: int, keyword: str) -> _Vector:
    try:
        numbers = np.array([float(each) for each in found])
    except (TypeError, ValueError):
        numbers = np.zeros(0)
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise NotAnalysable(f"an image without {keyword}: its place in the patient is not known")
    return numbers


def _values(slices: Sequence[_Slice], progress: Progress) -> Array:
    """(slices, rows, columns): stored values through the modality LUT (PS3.3 C.11.1).

    int16 where that is exact for every slice (what CT scanners write), else float32.
    """
    h = slices[0].instance.header
    shape = (len(slices), int(h.Rows), int(h.Columns))
    if all(s.slope.is_integer() and s.intercept.is_integer() for s in slices):
        data: Array = np.empty(shape, np.int16)
        if _fill(data, slices, progress):
            return data
    data = np.empty(shape, np.float32)
    _fill(data, slices, progress)
    return data


def _fill(data: Array, slices: Sequence[_Slice], progress: Progress) -> bool:
    """Decode every slice into its place, several at one time; False when a value does not fit into int16."""
    by_instance: dict[int, list[int]] = {}
    for place, each in enumerate(slices):
        by_instance.setdefault(id(each.instance), []).append(place)
    exact = data.dtype == np.int16

    def fill(places: list[int]) -> bool:
        instance = slices[places[0]].instance
        frames = pixels.frames(instance.path, [slices[place].frame for place in places])
        for place, frame in zip(places, frames, strict=True):
            if frame.shape != data.shape[1:]:
                raise NotAnalysable("the images are in colour, or of another size than their headers say")
            each = slices[place]
            values = pixels.modality(frame, instance.header, each.slope, each.intercept, exact=exact)
            if exact and (values.min() < -32768 or values.max() > 32767):
                return False
            data[place] = values
        return True

    # Decoders let go of the interpreter lock; as many threads as this process may use for arrays.
    with ThreadPoolExecutor(int(os.environ.get("OMP_NUM_THREADS", "1"))) as threads:
        jobs = [threads.submit(fill, places) for places in by_instance.values()]
        try:
            for done, job in enumerate(jobs, 1):
                if not job.result():
                    return False
                progress(done / len(jobs))
        finally:
            for job in jobs:
                job.cancel()
    return True


# Images --------------------------------------------------------------------------------------------------------------


def images(instances: Sequence[Instance], progress: Progress = lambda _: None) -> tuple[Image, ...]:
    """Each frame of each instance as an Image, ordered by series, instance number and frame.

    Stored values, uint16 or int16; colour (a digitised film saved as RGB) becomes its luminance. Raises NotAnalysable
    where an instance has no pixel data that can be decoded.
    """
    usable = [i for i in instances if "Rows" in i.header]
    if not usable:
        raise NotAnalysable("the input holds no images")
    usable.sort(key=lambda i: (str(i.header.SeriesInstanceUID), int(i.header.get("InstanceNumber") or 0)))
    made: list[Image] = []
    for number, instance in enumerate(usable, 1):
        h = instance.header
        image = Image(
            data=np.empty(0),
            spacing=_spacing(h),
            inverted=h.get("PhotometricInterpretation") == "MONOCHROME1",
            sop_instance_uid=str(h.SOPInstanceUID),
            attributes=pixels.attributes(instance.path),
        )
        numbers = range(1, instance.frames + 1)
        for frame_number, frame in zip(numbers, pixels.frames(instance.path, numbers), strict=True):
            data = pixels.grey(frame)
            made.append(replace(image, data=data, frame_number=frame_number if instance.frames > 1 else None))
        progress(number / len(usable))
    return tuple(made)


def _spacing(h: Dataset) -> tuple[float, float] | None:
    """(rows, columns) in mm: calibrated PixelSpacing before the detector's own (PS3.3 10.7.1.3)."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        try:
            down, across = (float(each) for each in h.get(keyword) or ())
        except (TypeError, ValueError):
            continue
        if down > 0 and across > 0:
            return down, across
    return None
