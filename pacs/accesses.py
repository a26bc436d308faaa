"""Who looked at which study: what reading writes into the audit, without making anybody wait (PS3.15 A.5.3.2).

A viewer that scrolls through a study asks for it thousands of times. One row says it: for each principal, study and
quarter of an hour, written by a thread of its own within about a second of the first of these requests. A crash in
that second loses the row; an index that cannot be written delays it, and keeps nobody from an image.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from pacs import audit
from pacs.auth import Principal
from pacs.errors import ArchiveError
from pacs.index.engine import Index

log = logging.getLogger(__name__)

EVENT = "DICOM Instances Accessed"
WINDOW_S = 900.0
"""What is asked again within one of these, which begin at full quarters of an hour, is the same access."""
LOOK_S = 1.0
MAX_WAITING = 100_000


class Accesses:
    """Noting what is read, and writing it down. Safe from any thread; `note` never waits for the index."""

    def __init__(self, index: Index, *, clock: Callable[[], float] = time.time) -> None:
        self._index = index
        self._clock = clock
        self._lock = threading.Lock()
        self._window = 0
        self._known: set[tuple[str, str, str]] = set()
        self._waiting: list[dict[str, object]] = []
        self._writing = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def note(self, principal: Principal, study_instance_uid: str) -> None:
        """The principal reads something of the study. The server's own work is audited where it is done."""
        now = self._clock()
        window = window_of(now)
        key = (principal.kind, principal.name, study_instance_uid)
        if (window == self._window and key in self._known) or principal.kind == "system":
            return
        with self._lock:
            if window != self._window:
                self._window, self._known = window, set()
            if key in self._known:
                return
            self._known.add(key)
            self._waiting.append(audit.row(EVENT, principal, "success", now, study_instance_uid=study_instance_uid))
            if len(self._waiting) > MAX_WAITING:
                del self._waiting[0]
                log.error("audit: an access is lost, since the index cannot be written")
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._run, name="accesses", daemon=True)
                self._thread.start()

    def flush(self) -> None:
        """Write what waits, now. Raises ArchiveError where the index cannot be written; then it waits on."""
        with self._writing:
            with self._lock:
                rows, self._waiting = self._waiting, []
            if not rows:
                return
            try:
                self._index.transact(lambda conn: audit.record_all(conn, rows))
            except BaseException:
                with self._lock:
                    self._waiting[:0] = rows
                raise

    def close(self) -> None:
        """Write what waits, and nothing after that."""
        self._closed.set()
        thread = self._thread
        if thread is not None:
            thread.join()
        self._try()

    def _run(self) -> None:
        while not self._closed.wait(LOOK_S):
            self._try()

    def _try(self) -> None:
        try:
            self.flush()
        except ArchiveError as error:
            log.error("audit: accesses cannot be written now: %s", error)


def window_of(now: float) -> int:
    """The number of the quarter of an hour that a moment in Unix seconds is in."""
    return int(now // WINDOW_S)
