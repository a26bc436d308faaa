"""A plug-in for the chaos suite: labels what is denser than a threshold, after a pause in which it may be killed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from analysis.api import (
    Code,
    Context,
    Input,
    LabelMap,
    Manifest,
    Output,
    Params,
    Resources,
    Segment,
    Volume,
    When,
)

DENSE = Segment(
    1, "Dense", Code("49755003", "SCT", "Morphologically Abnormal Structure"), Code("272673000", "SCT", "Bone")
)


class TallyParams(Params):
    """A threshold in HU."""

    threshold: float = Field(300, ge=-2000, le=4000, title="Threshold", json_schema_extra={"unit": "[hnsf'U]"})


class Tally:
    """One Segmentation a task."""

    manifest: ClassVar[Manifest] = Manifest(
        id="tally",
        version="1.0",
        title="Tally",
        inputs=(Input(name="series", where=(When(attribute="Modality", value="CT"),)),),
        outputs=(Output(name="labels", kind="SEG"),),
        resources=Resources(memory_mb=1500, timeout_s=120),
    )
    params: ClassVar[type[Params]] = TallyParams

    def run(self, ctx: Context, params: TallyParams) -> None:
        """Emit a LabelMap."""
        volume: Volume = ctx.inputs["series"]
        until = time.monotonic() + params.threshold % 7 * 0.05
        while time.monotonic() < until:
            ctx.progress(0.5, "waiting to be killed")
            time.sleep(0.02)
        labels = (volume.data > params.threshold).astype(np.uint8)
        ctx.emit("labels", LabelMap(volume, labels, (DENSE,)))


def installed(folder: Path) -> dict[str, str]:
    """The environment of a process in which this is an installed plug-in: a distribution of its own in `folder`."""
    info = folder / "chaos_plugin-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: chaos-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[m3dicom.plugins]\ntally = chaos_plugin:Tally\n")
    paths = [str(folder), str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
