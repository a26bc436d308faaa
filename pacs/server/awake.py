"""Processors kept from sleeping while a client asks again as soon as it is answered, as long as nobody else wants them.

On a virtual machine a processor that has nothing to do goes back to the host, and to have it again takes longer than
the answer: a client that asks for one thing after the other waits for little else. `pacs/native/awake.c` is what keeps
it: a thread of the lowest priority, which ends itself where more wants to run than there are processors.
"""

from __future__ import annotations

import logging
import os
import threading
from ctypes import byref
from pathlib import Path
from typing import Any

from pacs import native

log = logging.getLogger(__name__)

SOON_S = 0.0005
"""A request that comes within so long of the last answer comes at once."""

KEPT_S = 0.002
"""How long a processor is kept for the next one."""

TOGETHER_S = 0.000025
"""Requests that follow one another more closely come over several connections, and nothing sleeps then."""

ENOUGH, MOST = 64, 128
"""After so many requests that came at once; and how many of them are remembered."""

LATE, CROWD = 16, 4
"""How many of those a request outweighs that came late, or together with others."""


class Awake:
    """The thread, and when it has something to do. Used by the event loop alone."""

    def __init__(self) -> None:
        self._library = native.load()
        processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        self._may = self._library is not None and processors > 1 and not is_rationed()
        self._state = native.Awake(processors=processors)
        self._thread: threading.Thread | None = None
        self._at_once = 0
        self._last = 0.0

    @property
    def given_up(self) -> int:
        """How often others wanted the processors."""
        return int(self._state.given_up)

    def answered(self, now: float) -> None:
        """A request was answered at a moment of `time.monotonic`."""
        since, self._last = now - self._last, now
        self._at_once += 1 if TOGETHER_S < since < SOON_S else -CROWD if since < SOON_S else -LATE
        if self._at_once < ENOUGH:
            self._at_once = max(0, self._at_once)
            return
        self._at_once = min(MOST, self._at_once)
        if not self._may or now < self._state.rested:
            return
        self._state.until = now + KEPT_S
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=(self._library,), name="awake", daemon=True)
            self._thread.start()
        elif self._state.asleep and self._library is not None:
            self._library.m3_awake_rouse(byref(self._state))

    def _run(self, library: Any) -> None:
        failure = library.m3_awake_run(byref(self._state))
        if failure:
            self._may = False
            log.info("processors may sleep between requests: %s", os.strerror(failure))

    def close(self) -> None:
        """End the thread."""
        self._may, self._state.ended = False, 1
        if self._thread is not None and self._library is not None:
            self._library.m3_awake_rouse(byref(self._state))
            self._thread.join()


def is_rationed(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> bool:
    """Whether this process gets only so much computing time, so that what is spent on nothing is missing elsewhere."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return False
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base, name = (root / "cpu", "cpu.cfs_quota_us") if controllers else (root, "cpu.max")
        group = base / path.lstrip("/")
        for each in (group, *group.parents):
            if each == root.parent:
                break
            try:
                ration = (each / name).read_text().split()[0]
            except (OSError, IndexError):
                continue
            if ration not in ("max", "-1"):
                return True
    return False
