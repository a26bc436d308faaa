"""Plug-ins for tests of devices: each needs another one, and one takes more than it says."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

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
)

DENSE = Segment(
    1, "Dense", Code("49755003", "SCT", "Morphologically Abnormal Structure"), Code("272673000", "SCT", "Bone")
)


class NoParams(Params):
    """Nothing to set."""


class Labels:
    """One Segmentation, with the resources that it is made with."""

    params: ClassVar[type[Params]] = NoParams

    def __init__(self, id: str, **resources: Any) -> None:
        self.manifest = Manifest(
            id=id,
            version="1.0",
            title=id,
            inputs=(Input(name="series"),),
            outputs=(Output(name="labels", kind="SEG", optional=True),),
            resources=Resources(memory_mb=8000, timeout_s=60, **resources),
            auto=False,
        )

    def run(self, ctx: Context, params: NoParams) -> None:
        """Emit a LabelMap."""
        volume = ctx.inputs["series"]
        ctx.emit("labels", LabelMap(volume, (volume.data > 0).astype(np.uint8), (DENSE,)))


class Greedy(Labels):
    """Takes more and more."""

    def run(self, ctx: Context, params: NoParams) -> None:
        """Never end."""
        taken = []
        while len(taken) < 60:
            taken.append(np.ones(4 << 20))
            time.sleep(0.01)
        time.sleep(60)


class Parent(Labels):
    """Starts a process that would live for ever in a session of its own, with as much memory as is asked for."""

    def run(self, ctx: Context, params: NoParams) -> None:
        """Never end."""
        size = int(os.environ["MEMORY_MB"])
        code = f"import time; held = b'x' * ({size} << 20); time.sleep(600)"
        child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
        Path(os.environ["PID_FILE"]).write_text(f"{child.pid}\n")
        time.sleep(600)


anywhere = Labels("anywhere", gpu=True)
only_gpu = Labels("only-gpu", gpu=True, gpu_optional=False)
needs_16_gb = Labels("needs-16-gb", gpu=True, gpu_memory_mb=16_000)
needs_a_cluster = Labels("needs-a-cluster", gpu=True, gpu_optional=False, gpu_memory_mb=900_000)
needs_a_cluster_or_cpu = Labels("needs-a-cluster-or-cpu", gpu=True, gpu_memory_mb=900_000)
on_cpu = Labels("on-cpu")
greedy = Greedy("greedy", gpu=True, gpu_memory_mb=600)
parent = Parent("parent")
