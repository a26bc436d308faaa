"""What a server stands on before it has loaded much: its data folder, held, and where its attendants come from.

The nursery of attendants is forked here, so that they have in memory what they need and nothing of the rest.
"""

from __future__ import annotations

import fcntl
import logging
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from pacs.errors import InvalidInput

if TYPE_CHECKING:
    from pacs.dimse import crew
    from pacs.server.attendant import Attendant, Nursery
    from pacs.settings import Settings

log = logging.getLogger("m3dicom.server")

MAX_FILES = 8192
MOST_ATTENDANTS = 4
"""More of them were no faster for four associations on two cores, and each takes memory."""

ATTENDANTS_GONE_S = 20.0
"""How long a start waits for what is left of a server that was killed; the kernel ends it at once."""

StartAttendant = Callable[[socket.socket], "crew.Process"]


def prepare(settings: Settings, stack: ExitStack) -> StartAttendant:
    """What starts an attendant, with the data folder held until `stack` is closed. Raises InvalidInput."""
    _allow_many_files()
    return _nursery(settings, *stack.enter_context(sole_owner(settings)), stack)


@contextmanager
def sole_owner(settings: Settings) -> Iterator[tuple[int, int]]:
    """Hold the data folder: two servers on the same local files or SQLite index would undo one another's work.

    The second of its two locks goes on to attendants: they hold it until the last of them is gone, also when the server
    was killed. Yields the descriptors of both; the first is the server's alone. Raises InvalidInput when another server
    holds the folder, or it cannot be used.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    with ExitStack() as stack:
        try:
            settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
            server = os.open(settings.data / "server.lock", flags, 0o600)
            stack.callback(os.close, server)
            attendants = os.open(settings.data / "attendants.lock", flags, 0o600)
            stack.callback(os.close, attendants)
        except OSError as error:
            raise InvalidInput(f"setting data: {settings.data} cannot be used: {error.strerror}") from error
        for descriptor, patience_s in ((server, 0.0), (attendants, ATTENDANTS_GONE_S)):
            deadline = time.monotonic() + patience_s
            while not _locked(descriptor):
                if time.monotonic() >= deadline:
                    raise InvalidInput(f"another server already runs on the data folder {settings.data}")
                time.sleep(0.01)
        yield server, attendants


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def attendants(settings: Settings) -> int:
    """How many processes serve DIMSE associations besides the server; 0 where it serves them itself."""
    count = settings.dimse_processes or min(len(os.sched_getaffinity(0)), MOST_ATTENDANTS)
    return count if settings.dimse and count > 1 else 0


def _nursery(settings: Settings, ours: int, theirs: int, stack: ExitStack) -> StartAttendant:
    """What starts an attendant; a nursery that has died, and all attendants with it, is replaced.

    Of the locks of `sole_owner`, attendants hold `theirs` and never `ours`.
    """
    nurseries: list[Nursery] = []
    if attendants(settings):
        from pacs.server.attendant import Nursery

        alone = threading.active_count() == 1
        nurseries.append(Nursery.forked(settings, [ours]) if alone else Nursery.started([theirs]))

    def start(line: socket.socket) -> Attendant:
        try:
            return nurseries[-1].start(line)
        except OSError as error:
            from pacs.server.attendant import Nursery

            log.error("DIMSE attendants: %s; trying again", error.strerror)
            nurseries.append(Nursery.started([theirs]))
            return nurseries[-1].start(line)

    def close() -> None:
        for each in nurseries:
            each.close()

    stack.callback(close)
    return start


def _allow_many_files() -> None:
    """Raise the soft limit on descriptors: every association and every stored object in flight takes some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(MAX_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
