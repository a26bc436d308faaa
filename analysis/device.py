"""Where arrays are computed: CuPy on a GPU that proves itself, else NumPy; chosen once per process."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

from pacs.errors import Unavailable


@dataclass(frozen=True)
class Backend:
    """An array module and its ndimage, with the description that results carry."""

    name: str  # "cpu" or "gpu"
    xp: Any
    nd: ModuleType
    description: str  # "numpy 2.4.6" or "cupy 14.2.0 on NVIDIA H200, CUDA 13.0"

    def limit(self, memory_mb: int) -> None:
        """Let arrays take no more of the device's memory than this from now on; 0 = all of it."""
        if self.name == "gpu":
            self.xp.get_default_memory_pool().set_limit(size=memory_mb << 20)

    def free(self) -> None:
        """Give the device's memory back that no array holds any more."""
        if self.name == "gpu":
            self.xp.get_default_memory_pool().free_all_blocks()
            self.xp.get_default_pinned_memory_pool().free_all_blocks()


def choose(setting: str = "auto") -> Backend:
    """The backend for "auto", "cpu", "gpu", or an `analysis.devices.Device.id`.

    Raises Unavailable where a GPU is asked for and none works.
    """
    kind, _, name = setting.partition(":")
    if kind == "cpu":
        return _numpy()
    if kind == "fake":
        return replace(_numpy(), description=f"numpy {np.__version__} as device {name}")
    try:
        return _cupy()
    except Exception as error:  # no CuPy, no driver, no device, a wrong sum: all mean the same
        if kind == "gpu":
            raise Unavailable(f"no usable GPU: {type(error).__name__}: {error}") from error
        return _numpy()


def _numpy() -> Backend:
    nd = importlib.import_module("scipy.ndimage")
    return Backend("cpu", np, nd, f"numpy {np.__version__}")


def _cupy() -> Backend:
    cupy: Any = importlib.import_module("cupy")
    count = cupy.cuda.runtime.getDeviceCount()  # raises where there is no driver
    if count < 1:
        raise RuntimeError("no device")
    total = int(cupy.arange(1000, dtype=cupy.int64).sum())
    if total != 499_500:
        raise RuntimeError(f"the device adds up to {total}")
    nd = importlib.import_module("cupyx.scipy.ndimage")
    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    cuda = cupy.cuda.runtime.runtimeGetVersion()
    return Backend("gpu", cupy, nd, f"cupy {cupy.__version__} on {name}, CUDA {cuda // 1000}.{cuda % 1000 // 10}")
