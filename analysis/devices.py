"""The GPUs of this machine as places for tasks: which there are, which is free, and how much memory a task has taken.

One task a device, over all worker processes of the machine: a device is held by a lock of the kernel, which takes it
back from a worker that was killed. Children see their device alone (CUDA_VISIBLE_DEVICES).
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.api import Resources
from pacs.errors import InvalidInput

CONTEXT_MB = 1024
"""What CUDA and its libraries take of a device for a process before the first array is there."""

ASK_S = 10.0
FAKE = "fake"
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Device:
    """One device. id: "cpu", "gpu:" and what CUDA_VISIBLE_DEVICES takes, or "fake:" and a number; memory_mb: its size.

    A fake device computes on NumPy and has the process's own memory for its memory: it shows where tasks are placed.
    """

    id: str
    memory_mb: int = 0

    @property
    def environment(self) -> dict[str, str]:
        """What a child process on this device has in its environment."""
        kind, _, name = self.id.partition(":")
        return {"CUDA_VISIBLE_DEVICES": name if kind in ("gpu", FAKE) else ""}

    def used_mb(self, pid: int) -> int:
        """What that process has taken of the device's memory, its CUDA context left out; 0 where nobody can tell."""
        kind, _, name = self.id.partition(":")
        if kind == FAKE:
            try:
                return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE >> 20
            except (OSError, IndexError, ValueError):
                return 0
        if kind != "gpu":
            return 0
        lines = _nvidia_smi("--query-compute-apps=pid,used_memory", "-i", name)
        used = sum(int(mb) for one, mb in lines if one == str(pid) and mb.isdigit())
        return max(0, used - CONTEXT_MB)


CPU = Device("cpu")


class Held:
    """A device that one task has to itself until `release`."""

    def __init__(self, device: Device, descriptor: int) -> None:
        self.device = device
        self._descriptor = descriptor

    @property
    def held(self) -> bool:
        """Whether it was not released yet."""
        return self._descriptor >= 0

    def release(self) -> None:
        """Let another task have it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Devices:
    """The devices that workers of this process may use, largest first."""

    def __init__(self, devices: Sequence[Device] = (), *, needed: bool = False, folder: Path | None = None) -> None:
        """`needed`: nothing that can use a device may run without one. `folder` holds the locks."""
        self.all = tuple(sorted(devices, key=lambda each: -each.memory_mb))
        self._needed = needed
        self._folder = folder or Path(tempfile.gettempdir())

    @classmethod
    def of(cls, device: str, gpus: str) -> Devices:
        """Those for the settings `device` and `gpus`. Raises InvalidInput."""
        listed = configured(gpus)
        return cls(() if device == "cpu" else listed, needed=device == "gpu")

    def take(self) -> Held | None:
        """The largest device that is free, held; None where none is."""
        for device in self.all:
            descriptor = self._locked(device)
            if descriptor is not None:
                return Held(device, descriptor)
        return None

    def place(self, resources: Resources, free: Device | None) -> Device | None:
        """Where a task may run now that `free` is the device to be had: a device, CPU, or None: not now, or not here.

        What can use a device waits for one, unless no device here is large enough; then it runs on the CPU if it can.
        """
        if not resources.gpu:
            return CPU
        large = [each for each in self.all if each.memory_mb >= resources.gpu_memory_mb]
        if large:
            return free if free is not None and free.memory_mb >= resources.gpu_memory_mb else None
        return CPU if resources.gpu_optional and not self._needed else None

    def ever(self, resources: Resources) -> bool:
        """Whether a task with these needs can ever run here."""
        return any(self.place(resources, each) is not None for each in (*self.all, None))

    def _locked(self, device: Device) -> int | None:
        path = self._folder / f"m3dicom-{re.sub('[^A-Za-z0-9-]', '-', device.id)}.lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)  # made by another user
            except OSError:
                return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return descriptor


def configured(gpus: str) -> list[Device]:
    """The devices that the setting `gpus` names. Raises InvalidInput.

    "auto" = those of `nvidia-smi` where CuPy is installed, "none", or a list "ID:MEMORY_MB,…", ID being an index or a
    UUID; IDs that begin with "fake" stand for devices that are not there.
    """
    if gpus == "none":
        return []
    if gpus == "auto":
        if importlib.util.find_spec("cupy") is None:
            return []  # a GPU that nothing here can compute on
        found = _nvidia_smi("--query-gpu=uuid,memory.total")
        return [Device(f"gpu:{uuid}", int(mb)) for uuid, mb in found if mb.isdigit()]
    devices = []
    for entry in filter(None, (part.strip() for part in gpus.split(","))):
        name, _, mb = entry.rpartition(":")
        if not re.fullmatch(r"[A-Za-z0-9-]+", name) or not mb.isdecimal():
            raise InvalidInput(f'setting gpus: {entry!r} is not ID:MEMORY_MB; "auto" and "none" are understood, too')
        fake = name.startswith(FAKE)
        devices.append(Device(f"{FAKE}:{name.removeprefix(FAKE)}" if fake else f"gpu:{name}", int(mb)))
    return devices


def _nvidia_smi(*question: str) -> list[list[str]]:
    """The rows of its answer; none where there is no such program or it fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, *question, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if not done.returncode]
