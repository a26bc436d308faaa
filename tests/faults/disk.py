"""A disk that is full when a test says so: a small file system of its own, or a limit on the size of files.

Mounting needs rights that a build machine may not give; without them the kernel's RLIMIT_FSIZE, set and lifted from
outside while the server runs, makes every write that would let a file grow fail.
"""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from faults.away import descendants


class Disk(Protocol):
    """A folder on a disk that can be filled, and emptied again."""

    folder: Path

    def fill(self, process: int) -> None:
        """Leave no room for the server whose process this is."""

    def free(self, process: int) -> None:
        """Make room again."""


class SmallFileSystem:
    """A tmpfs that is small, and large enough for all that a test sends again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, process: int) -> None:
        """Fill it with a file."""
        with (self.folder / "ballast").open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue

    def free(self, process: int) -> None:
        """Remove the file."""
        (self.folder / "ballast").unlink(missing_ok=True)


class LimitedFiles:
    """Any folder, for a server whose files may not grow: those of the process and of all that came from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, process: int) -> None:
        """No file may have a byte beyond the first 4096."""
        _limit(process, 4096)

    def free(self, process: int) -> None:
        """As it was."""
        _limit(process, None)


def _limit(process: int, size: int | None) -> None:
    hard = resource.prlimit(process, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(process, resource.RLIMIT_FSIZE, (hard if size is None else size, hard))
    for child in descendants(process, deep=False):  # asked for now: those that come later inherit it
        with suppress(ProcessLookupError):
            _limit(child, size)


@contextmanager
def small_file_system(folder: Path, mebibytes: int = 256) -> Iterator[Disk | None]:
    """A file system of so many MiB at `folder`, or None where this machine lets nobody mount one."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs"]
    try:
        mounted = os.geteuid() == 0 and not subprocess.run(["mount", *options, folder], capture_output=True).returncode
    except FileNotFoundError:
        mounted = False
    if not mounted:
        yield None
        return
    try:
        yield SmallFileSystem(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
