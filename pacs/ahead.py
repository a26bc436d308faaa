"""Fetching what will be needed next while what came is used: reads of a store that takes its time to answer, in order.

Requests overlap as far as a number of threads and of bytes, shared by all who read, allow. Who gets no bytes still has
one request of its own, so that many readers slow each other down and none stands still.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from pacs.budget import Budget

REQUESTS = 16
BYTES = 48 << 20


class ReadAhead:
    """Threads and bytes for all readers of one store. Safe from any thread."""

    def __init__(self, requests: int = REQUESTS, size: int = BYTES) -> None:
        self._pool = ThreadPoolExecutor(requests, "read-ahead")
        self._budget = Budget(size)
        self._requests = requests

    def fetch(self, reads: Iterable[tuple[int, Callable[[], bytes]]]) -> Generator[bytes, None, None]:
        """What each read returns, in their order; each comes with its size. Raises what a read raises, in its turn."""
        waiting = iter(reads)
        underway: deque[tuple[int, bool, Future[bytes]]] = deque()
        following = next(waiting, None)
        try:
            while underway or following is not None:
                while following is not None and len(underway) < self._requests:
                    size, read = following
                    taken = self._budget.take(size)
                    if not taken and underway:
                        break
                    underway.append((size, taken, self._pool.submit(read)))
                    following = next(waiting, None)
                size, taken, future = underway[0]
                try:
                    yield future.result()
                finally:
                    underway.popleft()
                    if taken:
                        self._budget.give(size)
        finally:
            self._abandon(underway)

    def _abandon(self, underway: Iterable[tuple[int, bool, Future[bytes]]]) -> None:
        """Let go of what nobody waits for any more; a read that runs ends by itself."""
        for size, taken, future in underway:
            future.cancel()
            if taken:
                self._budget.give(size)

    def close(self) -> None:
        """End the threads, after the reads that run."""
        self._pool.shutdown(wait=True, cancel_futures=True)
