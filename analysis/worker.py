"""Workers: threads that wait for the bell, claim a Workitem, run it and look again, embedded or in `m3dicom worker`."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from analysis.queue import Bell, Queue
from analysis.registry import Registry
from analysis.runner import Runner, sweep
from pacs.errors import ArchiveError

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
    ) -> None:
        self._archive = archive
        self._registry = registry
        self._queue = port
        self.plugins = tuple(plugins) or registry.ids
        self._slots = archive.settings.workers if slots is None else slots
        self._name = name or f"{socket.gethostname()}-{os.getpid()}"
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._bell: Bell | None = None

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
    def alive(self) -> bool:
        """Whether every thread that was started still runs."""
        return all(thread.is_alive() for thread in self._threads)

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
        try:
            lease_s = self._archive.settings.lease_s
            claim = self._archive.worklist.claim(self.plugins, name, time.time(), lease_s)
            if claim is None:
                return False
            runner.run(claim, self._stop)
        except ArchiveError as error:
            log.warning("worker %s: %s; looking again", name, error)
            self._stop.wait(1.0)
            return False
        except Exception:  # a worker thread must not die of anything
            log.exception("worker %s failed; looking again", name)
            self._stop.wait(1.0)
            return False
        return True
