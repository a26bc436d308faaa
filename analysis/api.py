"""Plug-in contract 1: what a plug-in declares, what it is given, and what it may emit.

A distribution offers objects of the shape `Plugin` in the entry-point group `m3dicom.plugins`. A plug-in touches no
network, disk or clock: it reads `ctx.inputs`, computes with `ctx.xp`/`ctx.nd`, reports through `ctx.progress` and
hands results to `ctx.emit`; the host owns I/O, DICOM encoding, provenance, retries and UIDs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

CODE_SCHEME = "99M3DICOM"
"""Coding Scheme Designator of our own codes: plug-in ids and parameter names."""


_NAME = r"^[^\\\x00-\x1f\x7f]*[^\\\x00-\x20\x7f]$"
"""What LO can hold (PS3.5 6.2): something, without backslashes and controls."""


# What a plug-in declares ---------------------------------------------------------------------------------------------


class When(BaseModel):
    """A test of one DICOM attribute, by keyword, on the first instance of the candidate input."""

    model_config = ConfigDict(frozen=True)

    attribute: str  # a keyword of PS3.6, or several joined by dots into sequences
    op: Literal["eq", "ne", "in", "lt", "le", "gt", "ge", "like", "matches", "exists", "contains"] = "eq"
    value: Any = None


class AnyOf(BaseModel):
    """Holds when one of its tests does."""

    model_config = ConfigDict(frozen=True)

    tests: tuple[When, ...] = Field(min_length=1)


class Input(BaseModel):
    """One input of a task: what matches it, and in which form it is handed over."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")  # names a file, too
    level: Literal["study", "series", "instance"] = "series"  # one task per match on this level
    load: Literal["volume", "images", "datasets"] = "volume"
    where: tuple[When | AnyOf, ...] = ()  # what the rule on arrival takes; a request may name anything that loads
    min_instances: int = 1
    results_of: str = ""  # results of the plug-in with this id: the rule runs when one of its tasks is COMPLETED
    prior: bool = False  # of an earlier study of the same patient, which the rule looks for
    optional: bool = False  # the task runs without it, and finds None under its name


class Output(BaseModel):
    """One kind of result object that the plug-in may emit."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")  # names a file, too
    kind: Literal["SEG", "M3D", "SR", "SC", "PR", "KO"]
    optional: bool = False


class Resources(BaseModel):
    """What one task needs; the host enforces deadline and memory."""

    model_config = ConfigDict(frozen=True)

    gpu: bool = False  # uses a device through xp/nd where there is one: one task a device
    gpu_optional: bool = True  # runs without a device as well; else only workers that have one take its tasks
    gpu_memory_mb: int = 0  # what it needs of a device's memory, and all it gets; 0 = a device of any size, all of it
    memory_mb: int = 4096
    timeout_s: int = 900
    output_mb: int = Field(default=4096, ge=1)  # what a command may write, all its files together
    output_files: int = Field(default=1000, ge=1)  # and how many files and folders


class Params(BaseModel):
    """Typed parameters: subclass with fields that carry title, description, bounds and `json_schema_extra={"unit": …}`.

    Becomes the JSON Schema, the viewer's form, the Scheduled Processing Parameters and the recorded parameters.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


class Manifest(BaseModel):
    """What the host knows of a plug-in without running it."""

    model_config = ConfigDict(frozen=True)

    api: Literal[1] = 1
    id: str = Field(pattern=r"^[a-z][a-z0-9_.-]{2,63}$")
    version: str = Field(pattern=_NAME, max_length=64)
    title: str = Field(pattern=_NAME, max_length=64)  # of the device, the algorithm, and of code meanings: LO
    description: str = ""
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    resources: Resources = Resources()
    auto: bool = True  # runs by itself when a study that matches has become stable

    @model_validator(mode="after")
    def _checked(self) -> Self:
        names = [each.name for each in self.inputs]
        if not names or len(set(names)) < len(names):
            raise ValueError("a plug-in has inputs, each with a name of its own")
        if self.inputs[0].prior or self.inputs[0].optional:
            raise ValueError("the first input is what the task is about: neither prior nor optional")
        if any(each.results_of == self.id for each in self.inputs):
            raise ValueError("a plug-in does not take its own results")
        return self


# What a plug-in is given ---------------------------------------------------------------------------------------------

Array: TypeAlias = "npt.NDArray[Any]"


@dataclass(frozen=True)
class Volume:
    """The slices of one series, each in its own place; no resampling.

    data: (slices, rows, columns) float32 or int16, modality LUT applied (PS3.3 C.11.1): Hounsfield units for CT.
    positions: (slices, 3) float64, mm in the patient frame (LPS), centre of the first pixel of each slice, ordered
    along the normal, so gantry tilt and uneven gaps stay true. row, column: unit vectors along increasing column index
    and row index (ImageOrientationPatient). spacing: (between rows, between columns) in mm (PixelSpacing).
    """

    data: Array
    positions: npt.NDArray[np.float64]
    row: npt.NDArray[np.float64]
    column: npt.NDArray[np.float64]
    spacing: tuple[float, float]
    sop_instance_uids: tuple[str, ...]
    frame_of_reference_uid: str
    attributes: Mapping[str, Any] = field(default_factory=dict)  # DICOM JSON model of the first slice


@dataclass(frozen=True)
class Image:
    """One projection image.

    data: (rows, columns) stored values, uint16 or int16 as decoded; bright tissue is high once `inverted` is respected.
    spacing: (rows, columns) mm from PixelSpacing or ImagerPixelSpacing, None where the header has neither.
    inverted: True for MONOCHROME1 (a higher stored value is darker).
    """

    data: Array
    spacing: tuple[float, float] | None
    inverted: bool
    sop_instance_uid: str
    frame_number: int | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)  # DICOM JSON model


class Context(Protocol):
    """What the host gives to `run`."""

    xp: Any  # numpy or cupy
    nd: Any  # scipy.ndimage or cupyx.scipy.ndimage
    backend: str  # "numpy …" or "cupy … on <device>", as written into the results
    inputs: Mapping[str, Any]  # per Input.name a Volume, or a tuple of Image or pydicom Dataset; None = not there

    def progress(self, fraction: float, message: str = "") -> None:
        """Report 0 to 1 and a few words; raises Cancelled when the task was cancelled."""

    def emit(self, output: str, value: Emitted) -> None:
        """Hand over a result for the declared output of that name."""


class Cancelled(Exception):
    """Raised out of `progress` once the task was cancelled."""


class NotAnalysable(Exception):
    """Raised by a plug-in to refuse its input, in words that a clinician can read. Never retried."""


class BrokenContract(Exception):
    """Raised by the host where what was emitted cannot become results; its words are for the plug-in's author."""


class Plugin(Protocol):
    """A plug-in: a manifest, a parameter model and the work."""

    manifest: ClassVar[Manifest]
    params: ClassVar[type[Params]]

    def run(self, ctx: Context, params: Any) -> None:
        """Do the work of one task."""


# What a plug-in may emit ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Code:
    """A coded concept (PS3.3 section 8)."""

    value: str
    scheme: str
    meaning: str


MILLIMETRE = Code("mm", "UCUM", "millimeter")
NO_UNIT = Code("1", "UCUM", "no units")


@dataclass(frozen=True)
class Segment:
    """One label of a label map and of its surface."""

    number: int  # counted from 1
    label: str
    category: Code
    type: Code
    colour: tuple[int, int, int] = (222, 205, 176)  # sRGB, 0 to 255


@dataclass(frozen=True)
class LabelMap:
    """Labels on the grid of an input Volume: uint8 (slices, rows, columns), 0 = none. Becomes a Segmentation."""

    volume: Volume
    labels: npt.NDArray[np.uint8]
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Surface:
    """The closed surface of one segment: vertices (n, 3) float32 in mm (LPS), faces (m, 3) int32, outward.

    Becomes an Encapsulated STL and part of the X3D scene. `error_mm` is the bound that decimation kept.
    """

    volume: Volume
    segment: Segment
    vertices: npt.NDArray[np.float32]
    faces: npt.NDArray[np.int32]
    error_mm: float


@dataclass(frozen=True)
class VolumeRendering:
    """A volume made ready to be looked at: uint8 (slices, rows, columns) on a cubic grid along +z, +y, +x (LPS).

    origin: mm (x, y, z) of the centre of the first voxel; pitch: mm from voxel to voxel; low, high: the HU that 0 and
    255 stand for; threshold: the HU from which things are solid. Becomes a multi-frame Secondary Capture in the frame
    of reference of `volume`, and an X3D volume.
    """

    volume: Volume
    data: npt.NDArray[np.uint8]
    origin: npt.NDArray[np.float64]
    pitch: float
    low: float
    high: float
    threshold: float


@dataclass(frozen=True)
class Turntable:
    """Pictures from all sides, the first from anterior and then round by the patient's left, superior up.

    frames: uint8 (views, rows, columns, 3); pitch: mm per pixel. Becomes a multi-frame true colour Secondary Capture.
    """

    volume: Volume
    frames: npt.NDArray[np.uint8]
    pitch: float


@dataclass(frozen=True)
class Measurement:
    """A number with its meaning and unit (PS3.16 TID 300)."""

    name: Code
    value: float
    unit: Code


@dataclass(frozen=True)
class SegmentMeasurements:
    """What was measured of one segment (PS3.16 TID 1411). Emitted together as a Report."""

    segment: Segment
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True)
class VolumeReport:
    """Becomes a TID 1500 measurement report that refers to the Segmentation of the same task."""

    volume: Volume
    groups: tuple[SegmentMeasurements, ...]
    conclusion: str = ""


@dataclass(frozen=True)
class Mark:
    """One finding on an image.

    identifier: the id in picture, report and viewer ("CL1", "MC3"). shape: "point", "circle" or "polygon"; points:
    (n, 2) float64 of (column, row) in PS3.3 C.18.6 image coordinates, where (0.5, 0.5) is the centre of the first
    pixel; one point for "point", centre and one point on the edge for "circle", closed outline for "polygon".
    score: 0 to 1. parent: identifier of the mark it belongs to.
    """

    identifier: str
    finding: Code
    shape: Literal["point", "circle", "polygon"]
    points: npt.NDArray[np.float64]
    score: float
    parent: str | None = None
    measurements: Sequence[Measurement] = ()


@dataclass(frozen=True)
class OperatingPoint:
    """From which score on marks are shown, and what that costs. basis: on what it was measured, or why it was not."""

    threshold: float
    false_per_image: float | None  # false marks an image; None = not known
    basis: str = ""


@dataclass(frozen=True)
class ImageFindings:
    """All marks on one image, also when there are none.

    Becomes a Secondary Capture and part of a TID 1500 report; with marks, a presentation state, an entry of the Key
    Object and frames of a multi-frame Secondary Capture too; on mammograms, part of a Mammography CAD SR.
    """

    image: Image
    marks: tuple[Mark, ...]
    summary: str  # in words: "2 clusters, 11 calcifications" or "No calcification clusters found"
    spacing: tuple[float, float] = (1.0, 1.0)  # mm (rows, columns) that the analysis used
    operating_point: OperatingPoint | None = None
    analysed: bool = True  # False: it could not be, as `summary` says; "nothing found" would be untrue


Emitted = LabelMap | Surface | VolumeRendering | Turntable | VolumeReport | ImageFindings


# What a batch hands to a plug-in that reduces it ----------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """A finding or measured segment as the report of a task says it. `identifier` is its id in picture and report."""

    tracking_uid: str
    identifier: str
    finding: Code | None
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True)
class TaskResult:
    """What one task of a batch gave; no patient data. `target`: UID of the study, series or instance it worked on."""

    study_instance_uid: str
    target: str
    label: str
    workitem_uid: str
    completed: bool
    reason: str  # why it was not completed
    version: str
    parameters: Mapping[str, Any]
    findings: tuple[Finding, ...]
    conclusion: str
    sop_instance_uids: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """What a batch comes to: becomes CSV, and an SR in the archive. Cells are texts, numbers or None."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | int | None, ...], ...]
    summary: str = ""  # in words, a sentence or two


class Reducing(Plugin, Protocol):
    """A plug-in with a word to say on a whole batch."""

    def reduce(self, ctx: Context, results: Sequence[TaskResult], params: Any) -> Table:
        """One table of all results; `ctx` has no inputs and emits nothing."""
