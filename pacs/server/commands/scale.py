"""`m3dicom scale`: workers are started where tasks wait and sent home where none do, here or by a hook of yours."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import logging
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pacs.server.commands import common

if TYPE_CHECKING:
    from analysis.scaling import Policy
    from pacs.server.commands import Verbs
    from pacs.settings import Settings
    from pacs.workforce import Queued, Workforce

log = logging.getLogger("m3dicom.scale")

STOP_S = 30.0
DAY_S = 86400.0
HOOK_S = 60.0


def add(verbs: Verbs) -> None:
    """The verb `scale`."""
    parser = verbs.add_parser("scale", help="start and stop workers by what waits, beside servers on PostgreSQL and S3")
    common(parser)
    parser.add_argument("--plugins", metavar="ID,ID", default="", help="only for these; default: all installed")
    parser.add_argument("--least", type=int, default=0, metavar="N", help="workers of each plug-in at any time (0)")
    parser.add_argument("--most", type=int, default=2, metavar="N", help="workers of each plug-in at most (2)")
    parser.add_argument("--per-worker", type=int, default=4, metavar="N", help="tasks that one worker can have (4)")
    parser.add_argument("--oldest-s", type=float, default=60, metavar="S", help="one more if a task waits longer (60)")
    parser.add_argument("--idle-s", type=float, default=60, metavar="S", help="one less if none waits so long (60)")
    parser.add_argument("--every-s", type=float, default=5, metavar="S", help="how often to look (5)")
    parser.add_argument("--hook", metavar="COMMAND", help="called with PLUGIN WAITING OLDEST_S WANTED HAVE instead")
    parser.set_defaults(run=_scale)


def _scale(chosen: argparse.Namespace) -> int:
    from analysis.registry import Registry
    from analysis.scaling import Policy
    from pacs import settings as settings_module
    from pacs.errors import ArchiveError, InvalidInput
    from pacs.index.engine import open_index
    from pacs.server import possible
    from pacs.workforce import Workforce

    settings = settings_module.load(chosen.config, os.environ, {"data": chosen.data})
    possible.refuse_impossible(settings, doors_open=False)
    plugins = tuple(filter(None, (p.strip() for p in chosen.plugins.split(",")))) or (
        Registry.load(commands=settings.commands).ids
    )
    policy = Policy(chosen.per_worker, chosen.oldest_s, chosen.idle_s, chosen.least, chosen.most)
    if policy.per_worker < 1 or not 0 <= policy.least <= policy.most:
        raise InvalidInput("--per-worker is at least 1, and --least between 0 and --most")
    if not (0 < chosen.every_s <= DAY_S and 0 <= policy.oldest_s < math.inf and 0 <= policy.idle_s < math.inf):
        raise InvalidInput("--every-s is more than 0 and at most a day, --oldest-s and --idle-s are 0 or more")
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.set())
    index = open_index(settings.index_url)
    workforce = Workforce(index, shared=True)
    fleet = Hook(chosen.hook) if chosen.hook else Fleet(settings, chosen.config)
    scaler = Scaler(workforce, plugins, policy, fleet)
    try:
        while True:
            try:
                scaler.step(time.time())
            except ArchiveError as error:
                log.warning("%s; looking again", error)
            if asked.wait(chosen.every_s):
                return 0
    finally:
        fleet.close()
        index.close()


class Scaler:
    """Looks at the queues, and says to a fleet how many workers of each plug-in there should be."""

    def __init__(self, workforce: Workforce, plugins: Sequence[str], policy: Policy, fleet: Fleet | Hook) -> None:
        self._workforce = workforce
        self._plugins = plugins
        self._policy = policy
        self._fleet = fleet
        self._calm_since: dict[str, float] = {}

    def step(self, now: float) -> None:
        """One round. Raises Unavailable where the database cannot be asked."""
        from analysis.scaling import wanted
        from pacs.workforce import Queued

        queues = {queue.plugin: queue for queue in self._workforce.queues(now)}
        for plugin in self._plugins:
            queue = queues.get(plugin) or Queued(plugin, 0, 0.0, 0, 0, 0, ())
            if queue.waiting:
                self._calm_since[plugin] = now
            calm_s = now - self._calm_since.setdefault(plugin, now)
            have = self._fleet.have(queue)
            self._fleet.want(queue, wanted(queue, have, calm_s, self._policy), have)


class Fleet:
    """Worker processes of this machine, one plug-in each. They end with the scaler."""

    def __init__(self, settings: Settings, config: Path | None) -> None:
        self._folder = settings.data / "fleet"
        self._config = config
        self._environment = os.environ | {"M3DICOM_PLUGIN_FOLDER": str(settings.commands.absolute())}
        self._processes: dict[str, list[subprocess.Popen[bytes]]] = {}

    def have(self, queue: Queued) -> int:
        """How many run."""
        alive = [each for each in self._processes.get(queue.plugin, []) if each.poll() is None]
        self._processes[queue.plugin] = alive
        return len(alive)

    def want(self, queue: Queued, wanted: int, have: int) -> None:
        """Start what is missing; tell the youngest to stop where there are too many: they hand back what they have."""
        processes = self._processes[queue.plugin]
        for _ in range(wanted - have):
            log.info("%s: %d wait, the oldest %.0f s: one worker more", queue.plugin, queue.waiting, queue.oldest_s)
            processes.append(self._start(queue.plugin, len(processes)))
        for _ in range(have - wanted):
            log.info("%s: nothing waits: one worker less", queue.plugin)
            _end([processes.pop()])

    def _start(self, plugin: str, number: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "pacs.server.cli", "worker", "--plugins", plugin]
        command += ["--data", str(self._folder / f"{plugin}-{number}")]
        command += ["--config", str(self._config)] if self._config else []
        libc, pr_set_pdeathsig = ctypes.CDLL(None), 1
        return subprocess.Popen(
            command, env=self._environment, preexec_fn=lambda: libc.prctl(pr_set_pdeathsig, signal.SIGTERM)
        )

    def close(self) -> None:
        """Tell all of them to stop, and wait for them."""
        _end([each for processes in self._processes.values() for each in processes])


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for each in processes:
        each.terminate()
    for each in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            each.wait(STOP_S)
        if each.poll() is None:
            each.kill()
            each.wait()


class Hook:
    """A command of somebody else's that starts and stops workers, on any machine."""

    def __init__(self, command: str) -> None:
        self._command = shlex.split(command)

    def have(self, queue: Queued) -> int:
        """How many workers say that they are there."""
        return len(queue.posts)

    def want(self, queue: Queued, wanted: int, have: int) -> None:
        """Call it, each round in which there are too many or too few; that it fails is said and nothing else."""
        if wanted == have:
            return
        numbers = [queue.plugin, str(queue.waiting), f"{queue.oldest_s:.0f}", str(wanted), str(have)]
        try:
            done = subprocess.run([*self._command, *numbers], timeout=HOOK_S, check=False)
            if done.returncode:
                log.warning("the hook ended with status %d", done.returncode)
        except (OSError, subprocess.TimeoutExpired) as error:
            log.warning("the hook failed: %s", type(error).__name__)

    def close(self) -> None:
        """Nothing is held."""
