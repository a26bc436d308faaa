"""Wake-ups within one process: whoever waits for news is told that there may be some.

The truth about what happened is the `change` table; a wake-up that is lost costs one polling interval, never news.
"""

from __future__ import annotations

import threading


class Events:
    """A counter that only grows, with a condition to wait on. Safe from any thread."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._version = 0
        self.closed = False
        """Whether the server stops: nobody should wait any longer."""

    @property
    def version(self) -> int:
        """How often `publish` was called."""
        with self._condition:
            return self._version

    def publish(self) -> None:
        """Wake everybody who waits."""
        with self._condition:
            self._version += 1
            self._condition.notify_all()

    def wait(self, seen: int, timeout_s: float) -> int:
        """The version, as soon as it is beyond `seen`, at the latest after `timeout_s`."""
        with self._condition:
            self._condition.wait_for(lambda: self._version > seen, timeout_s)
            return self._version

    def close(self) -> None:
        """Wake everybody who waits, since the server stops."""
        self.closed = True
        self.publish()
