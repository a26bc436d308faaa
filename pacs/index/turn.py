"""Whose turn it is to write to a SQLite index that several threads and processes share.

SQLite lets one connection write at a time and has the others poll, with sleeps that grow; under load some wait for ever
and others not at all. Here they queue in the kernel instead: whoever is about to begin a transaction takes the turn
first. It is a lock on a file beside the database, which the kernel takes back from a process that dies, and with it one
among the threads of a process, which share that file. The database itself stays guarded by SQLite's own locks: the turn
decides who waits, never what is true.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from ctypes import byref, c_uint64
from pathlib import Path
from typing import Any, Self


class Turn:
    """A lock between threads and processes. With the compiled part it is one that C takes, too, by its `address`."""

    def __init__(self, path: Path, library: Any | None) -> None:
        """`library` is the compiled part (`pacs.native`), or None. Raises OSError where the file cannot be made."""
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._library = library
        self._mutex = threading.Lock()
        self.address = 0
        if library is not None:
            made = c_uint64()
            failure = library.m3_turn_open(self._fd, byref(made))
            if failure:
                os.close(self._fd)
                raise OSError(-failure, os.strerror(-failure))
            self.address = made.value

    def take(self, *, wait: bool = True) -> bool:
        """Whether the turn is the caller's now; without `wait` it is not where somebody else has it.

        The thread that took it has to `give` it, and must not take it again before. Raises OSError.
        """
        if self._library is None:
            return self._take(wait)
        while (taken := self._library.m3_turn_take(self.address, wait)) == -errno.EINTR:
            pass  # the handlers of signals run in between
        if taken < 0:
            raise OSError(-taken, os.strerror(-taken))
        return bool(taken)

    def _take(self, wait: bool) -> bool:
        if not self._mutex.acquire(blocking=wait):
            return False
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException as error:
            self._mutex.release()
            if not isinstance(error, BlockingIOError):
                raise
            return False
        return True

    def give(self) -> None:
        """Let others have it."""
        if self._library is not None:
            self._library.m3_turn_give(self.address)
            return
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        self._mutex.release()

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.give()

    def close(self) -> None:
        """Let go of the file, when nobody has the turn or waits for it; the file stays, for the others."""
        if self._library is not None:
            self._library.m3_turn_close(self.address)
        os.close(self._fd)
