"""Plug-ins for tests of the platform: one that counts voxels, and one that goes wrong in every way it is asked to."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from analysis.api import (
    NO_UNIT,
    Code,
    Context,
    Image,
    Input,
    LabelMap,
    Manifest,
    Measurement,
    NotAnalysable,
    Output,
    Params,
    Resources,
    Segment,
    SegmentMeasurements,
    Surface,
    Volume,
    VolumeReport,
    When,
)

DENSE = Segment(
    1, "Dense", Code("49755003", "SCT", "Morphologically Abnormal Structure"), Code("272673000", "SCT", "Bone")
)


class CountParams(Params):
    """A threshold in HU."""

    threshold: float = Field(300, ge=-1024, le=3071, title="Threshold", json_schema_extra={"unit": "[hnsf'U]"})
    pause_s: float = Field(0, ge=0, title="Pause")


class Count:
    """Voxels above a threshold, as labels and a report."""

    manifest: ClassVar[Manifest] = Manifest(
        id="count",
        version="1.0",
        title="Count",
        inputs=(Input(name="series", where=(When(attribute="Modality", value="CT"),), min_instances=3),),
        outputs=(Output(name="labels", kind="SEG"), Output(name="report", kind="SR")),
        resources=Resources(memory_mb=1500, timeout_s=60),
    )
    params: ClassVar[type[Params]] = CountParams

    def run(self, ctx: Context, params: CountParams) -> None:
        """Emit a LabelMap and a VolumeReport."""
        volume: Volume = ctx.inputs["series"]
        print("noise on standard output must not disturb the host")
        ctx.progress(0.5, "counting")
        time.sleep(params.pause_s)
        labels = (volume.data > params.threshold).astype(np.uint8)
        count = Measurement(Code("count", "99M3DICOM", "Voxels above threshold"), float(labels.sum()), NO_UNIT)
        ctx.emit("labels", LabelMap(volume, labels, (DENSE,)))
        ctx.emit("report", VolumeReport(volume, (SegmentMeasurements(DENSE, (count,)),)))


class OddParams(Params):
    """What to do wrong."""

    what: Literal[
        "crash", "exit", "spin", "spin-in-c", "eat", "refuse", "babble", "raise", "slow", "undeclared", "deaf"
    ]


class Odd:
    """Goes wrong as asked."""

    manifest: ClassVar[Manifest] = Manifest(
        id="odd",
        version="1.0",
        title="Odd",
        inputs=(Input(name="series"),),
        outputs=(Output(name="labels", kind="SEG", optional=True),),
        resources=Resources(memory_mb=500, timeout_s=4),
        auto=False,
    )
    params: ClassVar[type[Params]] = OddParams

    def run(self, ctx: Context, params: OddParams) -> None:
        """One way of many."""
        match params.what:
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "exit":
                os._exit(3)
            case "spin":
                while True:
                    pass
            case "spin-in-c":
                re.match(r"(a+)+$", "a" * 64 + "b")  # holds the interpreter lock for ages
            case "eat":
                eaten = np.ones(72 << 20)  # of 8 bytes: at once, however busy the machine is
                while eaten.size:
                    time.sleep(0.01)
            case "refuse":
                raise NotAnalysable("the series shows no bone at all")
            case "babble":
                ctx.progress(float("nan"), "half \udc80, nothing \0")
                time.sleep(0.4)  # until it was written
                raise NotAnalysable("half \udc80, nothing \0" + "." * 5000)
            case "raise":
                raise KeyError("Synthetic^Sam")
            case "slow" | "deaf":
                for step in range(40):
                    if params.what == "slow":
                        ctx.progress(step / 40, f"step {step}")
                    time.sleep(0.06)
            case "undeclared":
                ctx.emit("other", LabelMap(ctx.inputs["series"], np.zeros(1, np.uint8), ()))


class Patient(Odd):
    """The same with a minute for it: what ends it is not the time, however busy the machine is."""

    manifest: ClassVar[Manifest] = Odd.manifest.model_copy(
        update={"id": "patient", "resources": Resources(memory_mb=500, timeout_s=60)}
    )


class ViewParams(Params):
    """Nothing to set."""


class Views:
    """Takes each mammogram of its own; emits nothing."""

    manifest: ClassVar[Manifest] = Manifest(
        id="views",
        version="1.0",
        title="Views",
        inputs=(
            Input(
                name="image",
                level="instance",
                load="images",
                where=(
                    When(attribute="SOPClassUID", op="in", value=["1.2.840.10008.5.1.4.1.1.1.2"]),
                    When(attribute="PixelData", op="exists", value=False),
                ),
            ),
        ),
        outputs=(),
        resources=Resources(memory_mb=1500, timeout_s=60),
    )
    params: ClassVar[type[Params]] = ViewParams

    def run(self, ctx: Context, params: ViewParams) -> None:
        """Look at the one image."""
        images: tuple[Image, ...] = ctx.inputs["image"]
        assert len(images) == 1
        ctx.progress(1.0)


class EndlessParams(Params):
    """How to be busy for ever. `mark` stands in the command line of what it starts."""

    how: Literal["python", "c", "family"]
    mark: str


class Endless:
    """Busy for ever, and never asks whether it was cancelled."""

    manifest: ClassVar[Manifest] = Manifest(
        id="endless",
        version="1.0",
        title="Endless",
        inputs=(Input(name="series"),),
        outputs=(Output(name="labels", kind="SEG", optional=True),),
        resources=Resources(memory_mb=1500, timeout_s=600),
        auto=False,
    )
    params: ClassVar[type[Params]] = EndlessParams

    def run(self, ctx: Context, params: EndlessParams) -> None:
        """Never return."""
        ctx.emit("labels", LabelMap(ctx.inputs["series"], np.ones(ctx.inputs["series"].data.shape, np.uint8), (DENSE,)))
        if params.how == "family":
            # It runs away: into a session of its own, from a parent that ends at once.
            away = "import os\nif not os.fork():\n    while True: pass"
            subprocess.Popen([sys.executable, "-c", away, params.mark], start_new_session=True)
        ctx.progress(0.5, "busy")
        if params.how == "c":
            re.match(r"(a+)+$", "a" * 64 + "b")
        while True:
            pass


class Nothing(Params):
    """Nothing to set."""


CHANGE = Code("change", "99M3DICOM", "Change of voxels above threshold")


class Compare:
    """Voxels above 300 HU, now and in an earlier study where there is one."""

    manifest: ClassVar[Manifest] = Manifest(
        id="compare",
        version="1.0",
        title="Compare",
        inputs=(
            Input(name="series", where=(When(attribute="Modality", value="CT"),), min_instances=3),
            Input(name="prior", where=(When(attribute="Modality", value="CT"),), min_instances=3,
                  prior=True, optional=True),
        ),
        outputs=(Output(name="labels", kind="SEG"), Output(name="report", kind="SR")),
        resources=Resources(memory_mb=1500, timeout_s=60),
    )  # fmt: skip
    params: ClassVar[type[Params]] = Nothing

    def run(self, ctx: Context, params: Nothing) -> None:
        """Emit the difference."""
        now: Volume = ctx.inputs["series"]
        before: Volume | None = ctx.inputs["prior"]
        change = float((now.data > 300).sum()) - (0.0 if before is None else float((before.data > 300).sum()))
        measured = (SegmentMeasurements(DENSE, (Measurement(CHANGE, change, NO_UNIT),)),)
        ctx.emit("labels", LabelMap(now, (now.data > 300).astype(np.uint8), (DENSE,)))
        ctx.emit("report", VolumeReport(now, measured, "first" if before is None else "follow-up"))


class Review:
    """Looks at the report of "count" and writes a second one about the same series."""

    manifest: ClassVar[Manifest] = Manifest(
        id="review",
        version="1.0",
        title="Review",
        inputs=(
            Input(name="report", level="instance", load="datasets", results_of="count",
                  where=(When(attribute="Modality", value="SR"),)),
            Input(name="series", where=(When(attribute="Modality", value="CT"),)),
        ),
        outputs=(Output(name="labels", kind="SEG"), Output(name="report", kind="SR")),
        resources=Resources(memory_mb=1500, timeout_s=60),
    )  # fmt: skip
    params: ClassVar[type[Params]] = Nothing

    def run(self, ctx: Context, params: Nothing) -> None:
        """Emit what was read in the report."""
        (report,) = ctx.inputs["report"]
        read = report.ContentTemplateSequence[0].TemplateIdentifier
        measured = (SegmentMeasurements(DENSE, (Measurement(CHANGE, float(len(report.ContentSequence)), NO_UNIT),)),)
        volume: Volume = ctx.inputs["series"]
        ctx.emit("labels", LabelMap(volume, (volume.data > 300).astype(np.uint8), (DENSE,)))
        ctx.emit("report", VolumeReport(volume, measured, f"read TID {read}"))


class Each:
    """Takes every result of "count" alone, and makes nothing of it."""

    manifest: ClassVar[Manifest] = Manifest(
        id="each",
        version="1.0",
        title="Each",
        inputs=(Input(name="result", level="instance", load="datasets", results_of="count"),),
        outputs=(Output(name="labels", kind="SEG", optional=True),),
    )
    params: ClassVar[type[Params]] = Nothing

    def run(self, ctx: Context, params: Nothing) -> None:
        """Nothing."""


ENDLESS = {"endless": "task_plugins:Endless"}

BUILDING = {"compare": "task_plugins:Compare", "review": "task_plugins:Review"}
"""Plug-ins that take more than what arrived."""

TARGETS = {
    "count": "task_plugins:Count",
    "odd": "task_plugins:Odd",
    "patient": "task_plugins:Patient",
    "views": "task_plugins:Views",
}


class NewerCount(Count):
    """The same, one version later."""

    manifest: ClassVar[Manifest] = Count.manifest.model_copy(update={"version": "2.0"})


class InsideOut:
    """Makes a surface whose triangles face inwards: a model that the host has to hold back."""

    manifest: ClassVar[Manifest] = Manifest(
        id="inside-out",
        version="1.0",
        title="Inside out",
        inputs=(Input(name="series", where=(When(attribute="Modality", value="CT"),)),),
        outputs=(Output(name="surface", kind="M3D"), Output(name="labels", kind="SEG")),
        resources=Resources(memory_mb=1500, timeout_s=60),
    )
    params: ClassVar[type[Params]] = Nothing

    def run(self, ctx: Context, params: Nothing) -> None:
        """Emit a tetrahedron, its corners in the wrong order, and labels that are in order."""
        volume: Volume = ctx.inputs["series"]
        corners = np.array([[0, 0, 0], [9, 0, 0], [0, 9, 0], [0, 0, 9]], np.float32)
        faces = np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]], np.int32)
        ctx.emit("surface", Surface(volume, DENSE, corners, faces, 0.1))
        ctx.emit("labels", LabelMap(volume, (volume.data > 300).astype(np.uint8), (DENSE,)))
