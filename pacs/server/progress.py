"""How far a long command is, on stderr: count, megabytes, rate and the time that is left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

_EVERY_S = 0.2
_EVERY_S_IN_A_LOG = 15.0
_WIDTH = 24


class Bar:
    """A line that is written over and over on a terminal, and now and then in a log."""

    def __init__(self, what: str, *, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """`what` is what is counted: "objects", "files"."""
        self._what = what
        self._out = out or sys.stderr
        self._clock = clock
        self._terminal = self._out.isatty()
        self._started = clock()
        self._next = self._started + (0 if self._terminal else _EVERY_S_IN_A_LOG)
        self._first: int | None = None
        self._last = ""

    def show(self, done: int, total: int = 0, bytes_done: int = 0, refused: int = 0) -> None:
        """Say how far it is; `total` is 0 where nobody knows. Cheap when it was said just now."""
        if self._first is None:
            self._first = done  # what an earlier run did is no measure of speed
        now = self._clock()
        self._last = self._line(done, total, bytes_done, refused, now)
        if now >= self._next:
            self._next = now + (_EVERY_S if self._terminal else _EVERY_S_IN_A_LOG)
            self._write(self._last)

    def _line(self, done: int, total: int, bytes_done: int, refused: int, now: float) -> str:
        spent = max(now - self._started, 1e-9)
        rate = (done - (self._first or 0)) / spent
        parts = []
        if total:
            full = min(_WIDTH * done // total, _WIDTH)
            parts += [f"[{'#' * full}{'.' * (_WIDTH - full)}]", f"{100 * done // total:3} %", f"{done:,}/{total:,}"]
        else:
            parts.append(f"{done:,}")
        parts.append(self._what)
        if bytes_done:
            parts.append(f"{bytes_done / 1e6:,.0f} MB")
        parts.append(f"{rate:,.0f}/s")
        if total and rate > 0 and done < total:
            parts.append(f"{_duration((total - done) / rate)} left")
        if refused:
            parts.append(f"{refused:,} refused")
        return " ".join(parts)

    def _write(self, line: str) -> None:
        self._out.write(f"\r\x1b[K{line}" if self._terminal else f"{line}\n")
        self._out.flush()

    def end(self) -> None:
        """Leave the last line where it is."""
        if self._last:
            self._write(self._last)
            if self._terminal:
                self._out.write("\n")
                self._out.flush()
        self._last = ""


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02} h"
