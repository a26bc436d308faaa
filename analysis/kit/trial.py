"""One run of a plug-in on one case, in a child process as the host starts it: what came out, and what it took."""

from __future__ import annotations

import logging
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from analysis.api import NotAnalysable
from analysis.kit.cases import Case
from analysis.kit.watched import VARIABLE
from analysis.process import Child, Limits, TaskFailed, TaskStopped
from analysis.registry import Installed, job_key
from pacs import uids

WHEN = 1767348900.0  # 2026-01-02 10:15 UTC
RUNNING_AT = 0.1
"""The progress from which on a plug-in runs: before it, its input is read (`analysis.child`)."""

PATIENCE_S = 2.0
_WATCHED = "analysis.kit.watched:plugin"


@dataclass
class Outcome:
    """How a run ended. results: the objects; defects: why the host would quarantine some of them.

    words: of a refusal or failure; places: in the code, of an error.
    seconds: of the run; seconds_to_stop: from the request to stop until it stopped; memory_mb: the peak of the process.
    """

    how: Literal["result", "refused", "failed", "stopped"]
    words: str = ""
    results: list[Dataset] = field(default_factory=list)
    defects: list[str] = field(default_factory=list)
    places: str = ""
    seconds: float = 0.0
    seconds_to_stop: float = 0.0
    memory_mb: int = 0


class Bench:
    """Runs of one plug-in, with a warm process between them. Close it."""

    def __init__(self, installed: Installed, device: str = "cpu", threads: int = 1) -> None:
        self._installed = installed
        self._device = device
        self._threads = threads
        self._child: Child | None = None

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.fresh()

    def fresh(self) -> None:
        """End the process: the next run starts in a new one."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def run(
        self, case: Case, params: dict[str, Any], *, when: float = WHEN, stop_at: float | None = None,
        patience_s: float = PATIENCE_S,
    ) -> Outcome:  # fmt: skip
        """The outcome on one case.

        With `stop_at` it is asked to stop once its progress (0 to 1) is beyond that, or after it ran for `patience_s`
        seconds: not every plug-in reports.
        """
        if self._child is None or not self._child.reusable:
            self.fresh()
            self._child = Child(_WATCHED, self._device, self._threads, {VARIABLE: self._installed.target})
        watch = _Watch(self._child, stop_at, patience_s)
        resources = self._installed.manifest.resources
        heard = _Heard()
        logger = logging.getLogger("m3dicom.child")
        logger.addHandler(heard)
        logger.propagate, propagated = False, logger.propagate  # what it says goes into the finding
        try:
            with tempfile.TemporaryDirectory(prefix="plug-in-") as folder:
                task = self._task(case, params, when, Path(folder))
                try:
                    made = self._child.run(task, Limits(resources.timeout_s, resources.memory_mb), watch)
                    outcome = Outcome("result", results=[dcmread(each["path"]) for each in made])
                    outcome.defects = [words for each in made for words in each["defects"]]
                except NotAnalysable as error:
                    outcome = Outcome("refused", str(error))
                except TaskStopped:
                    outcome = Outcome("stopped")
                except TaskFailed as error:
                    outcome = Outcome("failed", str(error), places="\n".join(heard.lines))
        finally:
            logger.removeHandler(heard)
            logger.propagate = propagated
        now = time.monotonic()
        outcome.seconds = now - watch.began
        outcome.seconds_to_stop = now - watch.asked if watch.asked else 0.0
        outcome.memory_mb = watch.peak >> 20
        return outcome

    def _task(self, case: Case, params: dict[str, Any], when: float, folder: Path) -> dict[str, Any]:
        inputs = []
        digests = []
        for name, instances in case.inputs.items():
            files = []
            for number, ds in enumerate(instances):
                path = folder / f"{name}-{number:06d}.dcm"
                _write(ds, path)
                digests.append(f"{name} {ds.get('SOPInstanceUID')}")
                files.append(str(path))
            inputs.append({"name": name, "files": files})
        out = folder / "out"
        out.mkdir()
        manifest = self._installed.manifest
        return {
            "workitem_uid": uids.derived("plug-in kit", case.name),
            "task_key": job_key(manifest, self._installed.params(params), digests),
            "params": self._installed.params(params).model_dump(mode="json"),
            "input_digests": digests,
            "when": when,
            "out": str(out),
            "inputs": inputs,
        }


class _Watch:
    """The parent's eye on a run: its peak of memory, and the request to stop."""

    def __init__(self, child: Child, stop_at: float | None, patience_s: float) -> None:
        self._child = child
        self._stop_at = stop_at
        self._patience_s = patience_s
        self._running_since = 0.0
        self.began = time.monotonic()
        self.asked = 0.0
        self.peak = 0

    def __call__(self, progress: float, words: str) -> Literal["continue", "stop"]:
        if words == "starting" and progress == 0.0:
            self.began = time.monotonic()  # the clock of a task runs from when its process is ready
            return "continue"
        self.peak = max(self.peak, self._child.memory_bytes())
        if self._stop_at is None:
            return "continue"
        now = time.monotonic()
        if progress >= RUNNING_AT:
            self._running_since = self._running_since or now
        silent = self._running_since and now - self._running_since >= self._patience_s
        if progress <= self._stop_at and not silent:
            return "continue"
        self.asked = self.asked or now
        return "stop"


class _Heard(logging.Handler):
    """Keeps the places in the code that an error came from."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _write(ds: Dataset, path: Path) -> None:
    if "TransferSyntaxUID" not in getattr(ds, "file_meta", Dataset()):
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True)
