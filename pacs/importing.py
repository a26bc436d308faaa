"""Folders of files becoming instances: found, recognised as DICOM or not, and handed in by several threads.

For archives that are being migrated. Part 10 files are taken with and without preamble, and bare data sets in the
little endian syntaxes. The same content again is success, so an import that was cut short is simply run again.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from pacs.auth import CLINICAL_RIGHTS, Principal
from pacs.dicom import part10
from pacs.errors import ArchiveError, InvalidInput, OutOfResources, Unavailable
from pacs.ingest import Ingest
from pacs.rescan import Progress, Tell

PRINCIPAL = Principal("import", "system", CLINICAL_RIGHTS)
CHUNK = 1 << 20
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DIRECTORY = b"1.2.840.10008.1.3.10"
_PREAMBLE = b"\0" * 128 + b"DICM"
_SETTLED_FAILURES = 20  # in a row that say "not now": whoever takes the files is gone

Became = Literal["stored", "same", "refused", "no DICOM", "unreadable", "not tried"]


@dataclass(frozen=True, slots=True)
class Told:
    """What became of one file, with the reason where it is not stored."""

    path: Path
    became: Became
    reason: str = ""


@dataclass(slots=True)
class Counts:
    """How many files became what."""

    files: int = 0
    bytes: int = 0
    of: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        """Files that are DICOM, or may be, and are not stored."""
        return self.of["refused"] + self.of["unreadable"] + self.of["not tried"]


class Taker(Protocol):
    """Whoever stores the files: this process, or a server."""

    def take(self, pieces: Iterator[bytes], size: int) -> Literal["stored", "same"]:
        """Store one Part 10 file of so many bytes. Raises ArchiveError with the reason why not."""


class Direct:
    """Stores into an archive of this process."""

    def __init__(self, ingest: Ingest) -> None:
        self._ingest = ingest

    def take(self, pieces: Iterator[bytes], size: int) -> Literal["stored", "same"]:
        """What became of it."""
        with self._ingest.receive_part10() as receiving:
            for piece in pieces:
                receiving.write(piece)
            outcome = self._ingest.store(receiving, principal=PRINCIPAL).outcome
        if outcome == "quarantined":
            raise InvalidInput("other content is stored under this SOP Instance UID; this one is quarantined")
        return "same" if outcome == "same" else "stored"


def files(folders: Iterable[Path]) -> Iterator[tuple[Path, int]]:
    """Every regular file below the folders, or named itself, with its size; in order within a folder."""
    for folder in folders:
        if not folder.is_dir():
            with_size = _size(folder)
            if with_size is not None:
                yield folder, with_size
            continue
        for at, below, names in os.walk(folder):
            below.sort()
            for name in sorted(names):
                path = Path(at, name)
                size = _size(path)
                if size is not None:
                    yield path, size


def _size(path: Path) -> int | None:
    """Its size; None for what is no regular file. What cannot be looked at counts as empty and is told when opened."""
    try:
        found = path.stat()
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def missing_head(first: bytes) -> bytes | None:
    """What has to go before a file that begins so to make it a Part 10 file; None where it is no DICOM at all.

    Empty for a Part 10 file. Raises InvalidInput for a DICOMDIR.
    """
    if first[128:132] == b"DICM":
        if DIRECTORY in first[132:400]:
            raise InvalidInput("a DICOMDIR: not needed, the files that it lists are found by themselves")
        return b""
    if first[:4] == b"DICM":
        return _PREAMBLE[:128]
    if first[:2] == b"\2\0" and first[4:6].isalpha() and first[4:6].isupper():  # with or without a group length
        return _PREAMBLE
    group, element = int.from_bytes(first[:2], "little"), int.from_bytes(first[2:4], "little")
    if len(first) < 8 or group != 0x0008 or element > 0x0018:
        return None
    if first[4:6].isalpha() and first[4:6].isupper():
        return part10.header("", "", EXPLICIT)
    return part10.header("", "", IMPLICIT) if int.from_bytes(first[4:8], "little") <= 0x1000 else None


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            yield piece


@contextmanager
def _dropped_if_interrupted(pool: ThreadPoolExecutor) -> Iterator[None]:
    """Let go of what no thread has begun when it ends by an exception, Ctrl-C above all."""
    try:
        yield
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


class Import:
    """One import: several threads hand files to a taker; every file is told of once."""

    def __init__(self, taker: Taker, *, threads: int, tell: Callable[[Told], None]) -> None:
        """`tell` is called for every file that is not stored, from one thread at a time."""
        self._taker = taker
        self._threads = threads
        self._tell = tell
        self._lock = threading.Lock()
        self._away = 0
        self.counts = Counts()

    def run(self, folders: list[Path], show: Tell) -> Counts:
        """The counts, once every file was tried. Files after the taker went away are told as not tried."""
        progress = Progress()
        counting = threading.Thread(target=self._count, args=(folders, progress), daemon=True)
        counting.start()
        waiting: set[Future[None]] = set()
        with ThreadPoolExecutor(self._threads, thread_name_prefix="import") as pool, _dropped_if_interrupted(pool):
            for path, size in files(folders):
                waiting.add(pool.submit(self._one, path, size))
                if len(waiting) >= 4 * self._threads:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for each in done:
                        each.result()
                progress.done, progress.bytes, progress.refused = (
                    self.counts.files, self.counts.bytes, self.counts.failed,
                )  # fmt: skip
                show(progress)
            for each in waiting:
                each.result()
        counting.join()
        show(Progress(self.counts.files, self.counts.files, self.counts.bytes, self.counts.failed))
        return self.counts

    @staticmethod
    def _count(folders: list[Path], progress: Progress) -> None:
        """The total, for whoever watches; a walk is quick beside what is done with the files."""
        progress.total = sum(1 for _ in files(folders))

    def _one(self, path: Path, size: int) -> None:
        told = self._try(path, size)
        with self._lock:
            self.counts.files += 1
            self.counts.bytes += size
            self.counts.of[told.became] += 1
            if told.became not in ("stored", "same"):
                self._tell(told)

    def _try(self, path: Path, size: int) -> Told:
        if self._away >= _SETTLED_FAILURES:
            return Told(path, "not tried", "the archive could not be reached any more")
        try:
            pieces = _pieces(path)
            first = next(pieces, b"")
        except OSError as error:
            return Told(path, "unreadable", error.strerror or str(error))
        try:
            head = missing_head(first)
            if head is None:
                return Told(path, "no DICOM", "neither a Part 10 file nor a data set" if first else "an empty file")
        except InvalidInput as error:
            return Told(path, "no DICOM", error.reason)
        try:
            became = self._taker.take(_joined(head, first, pieces), len(head) + size)
        except OSError as error:
            return Told(path, "unreadable", error.strerror or str(error))
        except ArchiveError as error:
            self._away = self._away + 1 if isinstance(error, Unavailable | OutOfResources) else 0
            return Told(path, "refused", str(error))
        self._away = 0
        return Told(path, became)


def _joined(head: bytes, first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield head + first
    yield from rest
