"""A number of bytes that many share: whoever gets none of it takes the way that needs less memory."""

from __future__ import annotations

import threading


class Budget:
    """So many bytes for all. Safe from any thread; nobody ever waits."""

    def __init__(self, total: int) -> None:
        self._left = total
        self._lock = threading.Lock()

    def take(self, count: int) -> bool:
        """Whether `count` bytes were there; they are the caller's until `give`."""
        with self._lock:
            if count > self._left:
                return False
            self._left -= count
            return True

    def give(self, count: int) -> None:
        """Put `count` bytes back."""
        with self._lock:
            self._left += count

    @property
    def left(self) -> int:
        """How many bytes nobody has."""
        return self._left
