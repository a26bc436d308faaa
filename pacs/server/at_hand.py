"""Answers in one piece, by the bytes of their requests, for as long as nobody has committed anything.

Who asks for the same thing again sends the same bytes. What was given out from the shelf lies here as it went over the
wire: neither request nor credential is looked at again, since the same bytes of the same client were, a moment ago.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pacs.index.engine import Index

HELD_BYTES = 16 << 20
LARGEST_BYTES = 256 << 10
"""Of one answer: a longer one takes so long to send that what is saved here does not count."""

OVERHEAD_BYTES = 500

Fields = Sequence[tuple[bytes, bytes]]
"""Header fields that all answers have: they change once a second, and are another object then."""


@dataclass(slots=True)
class _Answer:
    since: float
    until: float
    common: Fields | None
    whole: bytes
    status: bytes
    rest: bytes


class AtHand:
    """What is at hand. Used by the event loop alone."""

    def __init__(self, index: Index, lines: Callable[[Fields], bytes], clock: Callable[[], float] = time.time) -> None:
        """`lines` are header fields that all answers have, as they go over the wire."""
        pulse = index.pulse()
        self.beat: Callable[[], bytes | None] = (lambda: None) if pulse is None else pulse.beat
        """What is there now of the index; None where nobody knows."""
        self._lines = lines
        self._clock = clock
        self._held: dict[tuple[str | None, bytes], _Answer] = {}
        self._of: bytes | None = None
        self._total = 0

    def find(self, came_as: tuple[str | None, bytes], common: Fields) -> bytes | None:
        """The whole answer to a request, by who sent it (the address) and its bytes, or None."""
        found = self._held.get(came_as)
        if found is None or self.beat() != self._of or not found.since <= self._clock() < found.until:
            return None
        if found.common is not common:
            found.common, found.whole = common, found.status + self._lines(common) + found.rest
        return found.whole

    def put(
        self, came_as: tuple[str | None, bytes], of: bytes, within: tuple[float, float], status: bytes, rest: bytes
    ) -> None:
        """Keep an answer, its first line and all behind the common fields, for the time `within` (Unix seconds).

        `of` is what `beat` was before the answer was found to be that of the index as it is.
        """
        size = len(came_as[1]) + 2 * len(rest) + OVERHEAD_BYTES
        if len(rest) > LARGEST_BYTES:
            return
        if of != self._of or self._total + size > HELD_BYTES:
            self._held.clear()
            self._of, self._total = of, 0
        if came_as not in self._held:
            self._total += size
        self._held[came_as] = _Answer(*within, None, b"", status, rest)
