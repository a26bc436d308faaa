"""What a plug-in is tried on: the phantom that its declared input asks for, and what real archives send besides.

Every case is a list of DICOM instances for each declared input. The phantom is shaped so that the input's own tests
(`When`) hold, so that a plug-in for MR angiographies is tried on "MR" slices.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.datadict import dictionary_VR

from analysis.api import AnyOf, Input, Manifest, When
from analysis.attribute_tests import holds
from analysis.evaluation import ct_phantom, mammogram_phantom
from pacs import uids

Instances = list[Dataset]
_PIXEL_TEXT = ("DS", "IS")


@dataclass(frozen=True)
class Case:
    """One trial: a name in words, the instances of each input, and whether a result is expected of it.

    expects_result: the plain phantom has to be analysed or refused in words like any other; only data that the author
    names himself (`--data`) has to give a result.
    """

    name: str
    inputs: Mapping[str, Instances]
    expects_result: bool = False


def cases(manifest: Manifest) -> Iterator[Case]:
    """The phantom first, then every odd form of it; deterministic."""
    plain = {each.name: _shaped(_phantom(each), each.where) for each in manifest.inputs}
    yield Case("the phantom", plain)
    if any(each.optional for each in manifest.inputs):
        needed = {each.name for each in manifest.inputs if not each.optional}
        yield Case("only what it needs", {name: given if name in needed else [] for name, given in plain.items()})
    for name, spoil in {**_FOR_ALL, **_for_loads(manifest)}.items():
        yield Case(name, {key: spoil(copy.deepcopy(instances)) for key, instances in plain.items()})


def from_files(manifest: Manifest, instances: Sequence[Dataset]) -> Case:
    """The author's own data, given to every input."""
    return Case("your data", {each.name: list(instances) for each in manifest.inputs}, expects_result=True)


def _for_loads(manifest: Manifest) -> dict[str, Callable[[Instances], Instances]]:
    return _FOR_VOLUMES if all(each.load == "volume" for each in manifest.inputs) else _FOR_IMAGES


def _phantom(wanted: Input) -> Instances:
    made = copy.deepcopy(_head() if wanted.load == "volume" else _breasts())
    return [_earlier(ds) for ds in made] if wanted.prior else made


def _earlier(ds: Dataset) -> Dataset:
    """The same of the patient's study a year before."""
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        if ds.get(keyword):
            setattr(ds, keyword, uids.derived("plug-in kit", "earlier", str(ds[keyword].value)))
    ds.StudyDate = f"{int(str(ds.StudyDate)[:4]) - 1}{str(ds.StudyDate)[4:]}"
    return ds


@cache
def _head() -> Instances:
    scan = ct_phantom.volume(ct_phantom.Phantom(scale=0.5), 72, 0.7)
    return ct_phantom.ct_series(scan, study="plug-in kit")


@cache
def _breasts() -> Instances:
    made = mammogram_phantom.phantom(11, size_mm=(60.0, 40.0), clusters=1, contrast=(9.0, 15.0), singles=0)
    return [mammogram_phantom.to_dataset(made, study="plug-in kit")]


def _shaped(instances: Instances, tests: Sequence[When | AnyOf]) -> Instances:
    """The instances with such values that the tests hold; of alternatives the first."""
    for test in tests:
        for ds in instances:
            _hold(ds, test.tests[0] if isinstance(test, AnyOf) else test)
    return instances


def _hold(ds: Dataset, test: When) -> None:
    *outer, last = test.attribute.split(".")
    for keyword in outer:
        if not ds.get(keyword):
            setattr(ds, keyword, [Dataset()])
        ds = ds[keyword].value[0]
    test = test.model_copy(update={"attribute": last})
    if test.op in ("ne", "like", "matches"):
        _hold_text(ds, test)
        return
    if test.op == "exists":
        if test.value is False:
            if test.attribute in ds:
                delattr(ds, test.attribute)
        elif not ds.get(test.attribute):
            setattr(ds, test.attribute, _any_value(test.attribute))
        return
    value = test.value[0] if test.op == "in" else test.value
    if test.op == "contains":
        here = ds.get(test.attribute)
        held = list(here) if isinstance(here, Sequence) and not isinstance(here, str) else [here] if here else []
        value = held if value in held else [*held, value]
    elif test.op in ("gt", "lt"):
        here = ds.get(test.attribute)
        if here is not None and float(here) != float(value) and (float(here) > float(value)) == (test.op == "gt"):
            return
        number = float(value)
        value = number + 1 if test.op == "gt" else number / 2 if number > 0 else number - 1
    elif test.op in ("ge", "le"):
        here = ds.get(test.attribute)
        if here is not None and (float(here) == float(value) or (float(here) > float(value)) == (test.op == "ge")):
            return
    vr = dictionary_VR(test.attribute)
    if vr in _PIXEL_TEXT and isinstance(value, float | int):
        value = f"{value:.10g}"
    setattr(ds, test.attribute, value)


def _hold_text(ds: Dataset, test: When) -> None:
    """Tests that many values pass: one is made up where none of the phantom does. No value is made from expressions."""
    if holds(test, [str(ds.get(test.attribute) or "")]) or test.op == "matches":
        return
    made = str(test.value).replace("*", "").replace("?", "X") if test.op == "like" else _any_value(test.attribute)
    setattr(ds, test.attribute, made)


def _any_value(keyword: str) -> Any:
    match dictionary_VR(keyword):
        case "DA":
            return "20260102"
        case "TM":
            return "101500"
        case "DT":
            return "20260102101500"
        case "UI":
            return uids.derived("plug-in kit", keyword)
        case "DS" | "IS" | "US" | "SS" | "UL" | "SL" | "FD" | "FL":
            return 1
        case "SQ":
            return [Dataset()]
    return "PHANTOM"


# What archives send besides ------------------------------------------------------------------------------------------


def _pixels(ds: Dataset) -> npt.NDArray[np.uint16]:
    return np.frombuffer(ds.PixelData, "<u2").reshape(ds.Rows, ds.Columns).copy()


def _painted(instances: Instances, paint: Callable[[npt.NDArray[np.uint16], Dataset], Any]) -> Instances:
    for ds in instances:
        ds.PixelData = np.ascontiguousarray(paint(_pixels(ds), ds), "<u2").tobytes()
    return instances


def _constant(instances: Instances) -> Instances:
    """Every pixel the same: an empty exposure."""
    return _painted(instances, lambda pixels, _: np.zeros_like(pixels))


def _saturated(instances: Instances) -> Instances:
    """Only the least and the greatest value, as a checkerboard."""
    return _painted(instances, lambda p, ds: (np.indices(p.shape).sum(axis=0) % 2) * ((1 << int(ds.BitsStored)) - 1))


def _noise(instances: Instances) -> Instances:
    """Nothing but noise over the whole range."""
    noise = np.random.default_rng(0)
    return _painted(instances, lambda p, ds: noise.integers(0, 1 << int(ds.BitsStored), p.shape))


def _tiny(instances: Instances) -> Instances:
    """Two rows of three pixels."""
    for ds in instances:
        small = _pixels(ds)[:2, :3]
        ds.Rows, ds.Columns = small.shape
        ds.PixelData = small.tobytes()
    return instances


def _colour(instances: Instances) -> Instances:
    """RGB, as a screenshot that was filed beside the images."""
    for ds in instances:
        grey = (_pixels(ds) >> max(0, int(ds.BitsStored) - 8)).astype(np.uint8)
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
        rgb = np.repeat(grey[..., None], 3, axis=2).tobytes()
        ds.PixelData = rgb + b"\0" * (len(rgb) % 2)
    return instances


def _cut_short(instances: Instances) -> Instances:
    """Half of the pixel data, as a transfer that broke off leaves it."""
    for ds in instances:
        ds.PixelData = ds.PixelData[: len(ds.PixelData) // 4 * 2]
    return instances


def _without(*keywords: str) -> Callable[[Instances], Instances]:
    def spoil(instances: Instances) -> Instances:
        for ds in instances:
            for keyword in keywords:
                if keyword in ds:
                    delattr(ds, keyword)
        return instances

    return spoil


def _inverted(instances: Instances) -> Instances:
    """MONOCHROME1: the same picture with its values turned round."""
    for ds in instances:
        ds.PhotometricInterpretation = "MONOCHROME1"
    return _painted(instances, lambda p, ds: ((1 << int(ds.BitsStored)) - 1) - p)


def _one(instances: Instances) -> Instances:
    return instances[:1]


def _doubled(instances: Instances) -> Instances:
    """Two slices in every place: two phases filed as one series."""
    again = copy.deepcopy(instances)
    for ds in again:
        ds.SOPInstanceUID = uids.derived("again", ds.SOPInstanceUID)
    return instances + again


def _gap(instances: Instances) -> Instances:
    """A third of the slices is missing in the middle."""
    third = len(instances) // 3
    return instances[:third] + instances[2 * third :]


def _backwards(instances: Instances) -> Instances:
    """In the reverse order of arrival: only their positions tell."""
    return instances[::-1]


_FOR_ALL: dict[str, Callable[[Instances], Instances]] = {
    "nothing but zeros": _constant,
    "only extreme values": _saturated,
    "noise": _noise,
    "six pixels": _tiny,
    "colour": _colour,
    "pixel data cut short": _cut_short,
    "no pixel data": _without("PixelData"),
    "no patient, no dates": _without(
        "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "SeriesDate",
        "SeriesTime", "ContentDate", "ContentTime", "AcquisitionDate", "AcquisitionTime", "AccessionNumber",
    ),
}  # fmt: skip
_FOR_VOLUMES: dict[str, Callable[[Instances], Instances]] = {
    "a single slice": _one,
    "two slices in every place": _doubled,
    "slices missing in the middle": _gap,
    "slices in reverse order": _backwards,
    "no positions": _without("ImagePositionPatient"),
    "no rescale": _without("RescaleSlope", "RescaleIntercept", "RescaleType"),
}
_FOR_IMAGES: dict[str, Callable[[Instances], Instances]] = {
    "MONOCHROME1": _inverted,
    "no pixel spacing": _without("ImagerPixelSpacing", "PixelSpacing"),
    "no laterality, no view": _without("ImageLaterality", "Laterality", "ViewPosition", "ViewCodeSequence"),
}
