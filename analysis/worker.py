"""Workers: threads that wait for the bell, claim a Workitem, run it and look again, embedded or in `m3dicom worker`."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from analysis.devices import Device, Devices
from analysis.metrics import TaskMetrics
from analysis.queue import Bell, Queue
from analysis.registry import Registry
from analysis.runner import Runner, sweep
from pacs.errors import ArchiveError, InvalidInput
from pacs.workforce import Post

if TYPE_CHECKING:
    from pacs.archive import Archive

log = logging.getLogger("m3dicom.worker")


class Worker:
    """`settings.workers` threads, each with its own runner and warm child processes."""

    def __init__(
        self,
        archive: Archive,
        registry: Registry,
        port: Queue,
        *,
        plugins: Sequence[str] = (),
        slots: int | None = None,
        name: str = "",
        devices: Devices | None = None,
    ) -> None:
        """`plugins` are the ids that it takes, none given = all. Raises InvalidInput for one that cannot run here."""
        self._archive = archive
        self._registry = registry
        self._queue = port
        settings = archive.settings
        self.devices = Devices.of(settings.device, settings.gpus) if devices is None else devices
        self._resources = {each.id: each.manifest.resources for each in registry}
        self.plugins = self._servable(plugins)
        self._versions = {each.id: each.manifest.version for each in registry if each.id in self.plugins}
        self._slots = settings.workers if slots is None else slots
        self._name = name or f"{socket.gethostname()}-{os.getpid()}"
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._runners: list[Runner] = []
        self._bell: Bell | None = None
        self._busy: set[str] = set()
        self.metrics = TaskMetrics()

    def _servable(self, wanted: Sequence[str]) -> tuple[str, ...]:
        servable = tuple(p for p in wanted or self._registry.ids if self.devices.ever(self._resources[p]))
        for plugin in wanted:
            if plugin not in servable:
                needed = self._resources[plugin].gpu_memory_mb
                size = f" with {needed} MB" if needed else ""
                raise InvalidInput(f"plug-in {plugin} needs a GPU{size}, and no device here will do")
        return servable

    def start(self) -> None:
        """Begin to take tasks."""
        if not self._slots or not self.plugins:
            return
        sweep(self._archive.settings.data / "scratch")
        self._bell = self._queue.bell(self.plugins, self._slots)
        for number in range(self._slots):
            name = f"{self._name}-{number}"
            thread = threading.Thread(target=self._run, args=(name, self._bell), name=f"worker-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    @property
    def post(self) -> Post:
        """What it says of itself to those who want to know who takes which tasks."""
        held = ",".join(each.id for each in self.devices.all)
        return Post(self._name, self._versions if self._slots else {}, held or "cpu", self._slots)

    @property
    def alive(self) -> bool:
        """Whether every thread that was started still runs."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def warm(self) -> int:
        """How many child processes are there."""
        return sum(len(runner.children) for runner in self._runners)

    @property
    def states(self) -> list[tuple[Device, bool, int]]:
        """Its devices: whether a task of this process has it, and the MB that its processes have taken."""
        children = [each for runner in self._runners for each in runner.children]
        return [
            (each, each.id in self._busy, sum(each.used_mb(pid) for device, pid in children if device == each.id))
            for each in self.devices.all
        ]

    def stop(self, timeout_s: float = 10.0) -> None:
        """Take no more tasks and hand back the ones in hand, for other workers to take at once."""
        self._stop.set()
        if self._bell is not None:
            self._bell.close()
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _run(self, name: str, bell: Bell) -> None:
        runner = Runner(self._archive, self._registry)
        self._runners.append(runner)
        try:
            while not self._stop.is_set():
                dealt_with = bell.wait(self._queue.poll_s)
                try:
                    while not self._stop.is_set() and self._one(name, runner):
                        pass
                finally:
                    dealt_with()
        finally:
            runner.close()

    def _one(self, name: str, runner: Runner) -> bool:
        """Whether there was a task to do."""
        held = self.devices.take()
        try:
            free = None if held is None else held.device
            places = {p: self.devices.place(self._resources[p], free) for p in self.plugins}
            lease_s = self._archive.settings.lease_s
            now = {plugin: self._versions[plugin] for plugin, place in places.items() if place is not None}
            claim = self._archive.worklist.claim(now, name, time.time(), lease_s)
            if claim is None:
                return False
            place = places[claim.plugin]
            if held is not None and place is not held.device:
                held.release()
            elif held is not None:
                self._busy.add(held.device.id)
            began = time.monotonic()
            outcome = runner.run(claim, self._stop, place)
            self.metrics.ended(claim.plugin, outcome, time.monotonic() - began)
        except ArchiveError as error:
            log.warning("worker %s: %s; looking again", name, error)
            self._stop.wait(1.0)
            return False
        except Exception:  # a worker thread must not die of anything
            log.exception("worker %s failed; looking again", name)
            self._stop.wait(1.0)
            return False
        finally:
            if held is not None:
                if held.held:
                    self._busy.discard(held.device.id)
                held.release()
        return True
