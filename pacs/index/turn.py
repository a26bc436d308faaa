"""Whose turn it is to write to a SQLite index that several processes share.

SQLite lets one connection write at a time and has the others poll, with sleeps that grow; under load some wait for ever
and others not at all. Here they queue in the kernel instead: whoever is about to begin a transaction takes the turn
first. It is a lock on a file beside the database, which the kernel takes back from a process that dies. The database
itself stays guarded by SQLite's own locks: the turn decides who waits, never what is true.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Self


class Turn:
    """A lock between processes, blocking; for one thread of each process at a time (whoever writes there)."""

    def __init__(self, path: Path) -> None:
        """Raises OSError where the file cannot be made."""
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def taken(self) -> bool:
        """Whether it could be had at once; then it is the caller's as with `with`, which may be entered again."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def __enter__(self) -> Self:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        return self

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the file; it stays, for the others."""
        os.close(self._fd)
