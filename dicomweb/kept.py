"""Answers that are given again while nothing has changed, and which look-ups are quick enough for the event loop.

Both serve the embedded index alone: SQLite tells in microseconds whether anybody, in any process, has committed a
change, and answers most questions in less time than handing them to a thread takes.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")

KEPT_BYTES = 96 << 20
LARGEST_BYTES = 24 << 20
"""Of one answer that is kept."""

QUICK_S = 0.002
"""After a look-up that took longer, the next of its kind is made in a thread."""
KINDS = 4096


class Kept(Generic[T]):
    """Values by key and version, the least recently used go first beyond a number of bytes. Safe from any thread."""

    def __init__(self, limit: int = KEPT_BYTES, largest: int = LARGEST_BYTES) -> None:
        self._limit = limit
        self._largest = largest
        self._lock = threading.Lock()
        self._held: OrderedDict[Hashable, tuple[Hashable, T, int]] = OrderedDict()
        self._total = 0

    @property
    def bytes_held(self) -> int:
        """How much is kept now."""
        return self._total

    def get(self, key: Hashable, version: Hashable) -> T | None:
        """What was kept under a key, if it is of this version; what is of another one is forgotten."""
        with self._lock:
            found = self._held.get(key)
            if found is None:
                return None
            if found[0] != version:
                self._drop(key)
                return None
            self._held.move_to_end(key)
            return found[1]

    def put(self, key: Hashable, version: Hashable, value: T, size: int) -> None:
        """Keep a value of `size` bytes; its version was asked for before it was made."""
        if size > self._largest:
            return
        with self._lock:
            if key in self._held:
                self._drop(key)
            self._held[key] = version, value, size
            self._total += size
            while self._total > self._limit:
                self._drop(next(iter(self._held)))

    def _drop(self, key: Hashable) -> None:
        self._total -= self._held.pop(key)[2]


class Pace:
    """Which kinds of work have proven quick: the last one of the kind was, wherever it was done."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._quick: dict[int, bool] = {}  # by hash: a kind may hold all that a request says

    def is_quick(self, kind: Hashable) -> bool:
        """Whether work of this kind may be done without a thread; one that nobody knows may not."""
        return self._quick.get(hash(kind), False)

    def timed(self, kind: Hashable, work: Callable[[], T]) -> T:
        """What the work returns or raises; how long it took decides where the next of its kind is done."""
        began = self._clock()
        try:
            return work()
        finally:
            if len(self._quick) >= KINDS:
                self._quick.clear()
            self._quick[hash(kind)] = self._clock() - began < QUICK_S
