"""A context for the unit tests of a plug-in: arrays in, emitted values out, in the test's own process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.ndimage

from analysis.api import Cancelled


class LocalContext:
    """What `run` is given (`analysis.api.Context`), on NumPy.

    emitted: (output name, value) in order. said: (fraction, message) of every `progress`. cancel_at: the fraction from
    which on `progress` raises Cancelled, as the host does once a task was cancelled.
    """

    def __init__(self, inputs: Mapping[str, Any], *, cancel_at: float | None = None) -> None:
        self.xp: Any = np
        self.nd: Any = scipy.ndimage
        self.backend = f"numpy {np.__version__}"
        self.inputs = inputs
        self.emitted: list[tuple[str, Any]] = []
        self.said: list[tuple[float, str]] = []
        self._cancel_at = cancel_at

    def progress(self, fraction: float, message: str = "") -> None:
        """Note it; raises Cancelled from `cancel_at` on."""
        self.said.append((float(fraction), message))
        if self._cancel_at is not None and fraction >= self._cancel_at:
            raise Cancelled

    def emit(self, output: str, value: Any) -> None:
        """Keep it."""
        self.emitted.append((output, value))

    def __getitem__(self, output: str) -> Any:
        """The value emitted for that output; KeyError when there is none, or more than one."""
        found = [value for name, value in self.emitted if name == output]
        if len(found) != 1:
            raise KeyError(output)
        return found[0]
