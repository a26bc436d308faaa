"""Plug-ins that each break one rule of the contract, for the judge that has to notice."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from analysis.api import (
    Code,
    Context,
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

CT = (When(attribute="Modality", value="CT"),)
DENSE = Segment(1, "Dense", Code("91723000", "SCT", "Anatomical Structure"), Code("272673000", "SCT", "Bone"))
ML = Code("mL", "UCUM", "milliliter")


class Behaved:
    """Labels what is dense and reports its share; the others differ in one thing."""

    manifest: ClassVar[Manifest] = Manifest(
        id="behaved",
        version="1",
        title="Behaved",
        inputs=(Input(name="scan", where=CT),),
        outputs=(Output(name="labels", kind="SEG"), Output(name="report", kind="SR")),
        resources=Resources(memory_mb=1000, timeout_s=60),
    )
    params: ClassVar[type[Params]] = Params

    def run(self, ctx: Context, params: Any) -> None:
        """Emit labels and a report."""
        volume: Volume = ctx.inputs["scan"]
        ctx.progress(0.5)
        ctx.emit("labels", LabelMap(volume, self.labels(volume), (DENSE,)))
        share = Measurement(Code("118565006", "SCT", "Volume"), 1.0, ML)
        ctx.emit("report", VolumeReport(volume, (SegmentMeasurements(DENSE, (share,)),)))

    def labels(self, volume: Volume) -> Any:
        """What is dense."""
        return (volume.data > 300).astype(np.uint8)


class Connects(Behaved):
    def labels(self, volume: Volume) -> Any:
        with socket.socket() as there:
            there.connect_ex(("127.0.0.1", 9))
        return super().labels(volume)


class Denies(Behaved):
    def labels(self, volume: Volume) -> Any:
        try:
            socket.create_connection(("127.0.0.1", 9))
        except Exception:  # as those do who report home and do not mind whether it works
            return super().labels(volume)


class Writes(Behaved):
    def labels(self, volume: Volume) -> Any:
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"notes")
        return super().labels(volume)


class Starts(Behaved):
    def labels(self, volume: Volume) -> Any:
        subprocess.run(["true"], check=True)
        return super().labels(volume)


class Raises(Behaved):
    def labels(self, volume: Volume) -> Any:
        return 1 // (volume.data.ndim - 3)


class Dies(Behaved):
    def labels(self, volume: Volume) -> Any:
        os.kill(os.getpid(), signal.SIGSEGV)


class Hoards(Behaved):
    manifest: ClassVar[Manifest] = Behaved.manifest.model_copy(update={"resources": Resources(memory_mb=400)})

    def labels(self, volume: Volume) -> Any:
        hoard = np.ones(1 << 27)
        time.sleep(60)
        return hoard


class Dawdles(Behaved):
    manifest: ClassVar[Manifest] = Behaved.manifest.model_copy(update={"resources": Resources(timeout_s=1)})

    def labels(self, volume: Volume) -> Any:
        time.sleep(60)


class Keeps(Behaved):
    def run(self, ctx: Context, params: Any) -> None:
        """Forget the report."""
        volume: Volume = ctx.inputs["scan"]
        ctx.emit("labels", LabelMap(volume, self.labels(volume), (DENSE,)))


class Mumbles(Behaved):
    def labels(self, volume: Volume) -> Any:
        raise NotAnalysable("no")


class Refuses(Behaved):
    def labels(self, volume: Volume) -> Any:
        raise NotAnalysable("This series shows nothing that can be measured.")


class Omits(Behaved):
    """A report on segments without the label map that holds them."""

    def run(self, ctx: Context, params: Any) -> None:
        """Hand over the report alone."""
        ctx.emit("report", VolumeReport(ctx.inputs["scan"], ()))


class Understates(Behaved):
    """Its report goes by an output that is declared as another kind."""

    manifest: ClassVar[Manifest] = Behaved.manifest.model_copy(
        update={"outputs": (Output(name="labels", kind="SEG"), Output(name="report", kind="SEG"))}
    )


class Smuggles(Behaved):
    def run(self, ctx: Context, params: Any) -> None:
        """Hand over a surface as a report."""
        super().run(ctx, params)
        corners = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)], np.float32)
        faces = np.array([(0, 2, 1), (0, 1, 3), (1, 2, 3), (0, 3, 2)], np.int32)
        ctx.emit("report", Surface(ctx.inputs["scan"], DENSE, corners, faces, 0.1))


class Gambles(Behaved):
    def labels(self, volume: Volume) -> Any:
        return np.random.default_rng().integers(0, 2, volume.data.shape, np.uint8)


class Ignores(Behaved):
    def run(self, ctx: Context, params: Any) -> None:
        """Report progress once, then compute without another word."""
        ctx.progress(0.5)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            np.linalg.norm(np.ones(1000))


class Silent(Behaved):
    def run(self, ctx: Context, params: Any) -> None:
        """Say nothing at all for a long time."""
        time.sleep(60)


class Particular(Behaved):
    manifest: ClassVar[Manifest] = Behaved.manifest.model_copy(
        update={
            "inputs": (
                Input(
                    name="scan",
                    where=(
                        When(attribute="Modality", value="MR"),
                        When(attribute="BodyPartExamined", op="in", value=["KNEE", "HIP"]),
                        When(attribute="ImageType", op="contains", value="FAT"),
                        When(attribute="MagneticFieldStrength", op="ge", value=3),
                        When(attribute="PatientName", op="exists"),
                        When(attribute="KVP", op="exists", value=False),
                    ),
                ),
            )
        }
    )


class _Needs(Params):
    level: float


class _Unspeakable(Params):
    shape: str = Field("round", title="Round\\oval")
    colour: str = Field("red", title="")
    depth: float = Field(1.0, ge=0, le=2, title="Depth " * 20, json_schema_extra={"unit": "mm\n"})


class Mislabels(Behaved):
    manifest: ClassVar[Manifest] = Behaved.manifest.model_copy(update={"title": "C:\\plug-ins"})
    params: ClassVar[type[Params]] = _Unspeakable


class Boasts(Behaved):
    manifest: ClassVar[Manifest] = Behaved.manifest.model_copy(update={"inputs": (Input(name="scan"),)})
    params: ClassVar[type[Params]] = _Needs
