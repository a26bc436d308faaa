"""Objects as local files, durable by a contract of our own: file data synced, renamed into place, folders synced."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

from pacs import spool as spooling
from pacs.errors import NotFound, Unavailable
from pacs.spool import Spool
from pacs.storage.base import CHUNK

_KNOWN_FOLDERS = 100_000
_ATTEMPTS = 5


class FileStore:
    """Objects under `root/objects`, arriving bytes under `root/spool`, both on one file system."""

    def __init__(self, root: Path) -> None:
        self._objects = root / "objects"
        self._spool = root / "spool"
        try:
            for folder in (self._objects, self._spool):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self._objects.stat().st_dev != self._spool.stat().st_dev:
                raise Unavailable(f"{self._objects} and {self._spool} must be on one file system")
            _sync_folder(root)
            _sync_folder(root.resolve().parent)
        except OSError as error:
            raise spooling.failed(error, f"use the folder {root}") from error
        spooling.sweep(self._spool)
        self._folders = threading.Lock()  # an empty folder is not removed while an object moves into it
        self._durable = {self._objects}  # folders whose own entries are known to be on the disk

    @property
    def spool_dir(self) -> Path:
        """The spool folder."""
        return self._spool

    def put(self, key: str, spool: Spool) -> None:
        """Store the bytes; on return file, name and every new folder above it are on the disk."""
        target = self._objects / key
        path = spool.persist()
        try:
            for attempt in range(_ATTEMPTS):
                try:
                    with self._folders:
                        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                        os.rename(path, target)
                    break
                except (FileNotFoundError, FileExistsError):
                    # Another process removed the folder, which was empty, at this very moment.
                    if attempt == _ATTEMPTS - 1:
                        raise
            spool.moved()
            _sync_folder(target.parent)
            self._sync_above(target.parent)
        except OSError as error:
            raise spooling.failed(error, "store an object") from error

    def _sync_above(self, folder: Path) -> None:
        """Return when the entry of `folder`, and of every folder above it, is on the disk."""
        if folder in self._durable:
            return
        _sync_folder(folder.parent)
        self._sync_above(folder.parent)
        if len(self._durable) > _KNOWN_FOLDERS:
            self._durable = {self._objects}
        self._durable.add(folder)

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """`length` bytes from `offset` on."""
        fd = self._open(key)
        try:
            wanted = max(os.fstat(fd).st_size - offset, 0) if length is None else length
            first = os.pread(fd, wanted, offset)
            if len(first) == wanted or not first:
                return first
            pieces = [first]
            got = len(first)
            while got < wanted and (more := os.pread(fd, wanted - got, offset + got)):
                pieces.append(more)
                got += len(more)
            return b"".join(pieces)
        except OSError as error:
            raise Unavailable(f"cannot read an object: {os.strerror(error.errno or 5)}") from error
        finally:
            os.close(fd)

    def chunks(self, key: str, offset: int = 0, length: int | None = None, size: int = CHUNK) -> Iterator[bytes]:
        """The same range in pieces."""
        pieces = self._pieces(self._open(key), offset, length, size)
        next(pieces)  # started, so that it closes the file even if nobody ever reads on
        return pieces

    @staticmethod
    def _pieces(fd: int, offset: int, length: int | None, size: int) -> Iterator[bytes]:
        try:
            yield b""
            while length is None or length > 0:
                try:
                    piece = os.pread(fd, size if length is None else min(size, length), offset)
                except OSError as error:
                    raise Unavailable(f"cannot read an object: {os.strerror(error.errno or 5)}") from error
                if not piece:
                    return
                yield piece
                offset += len(piece)
                length = None if length is None else length - len(piece)
        finally:
            os.close(fd)

    def _open(self, key: str) -> int:
        try:
            return os.open(self._objects / key, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise NotFound("no such object", about=key) from None
        except OSError as error:
            raise Unavailable(f"cannot open an object: {os.strerror(error.errno or 5)}") from error

    def size(self, key: str) -> int:
        """The length of the object."""
        fd = self._open(key)
        try:
            return os.fstat(fd).st_size
        finally:
            os.close(fd)

    def delete(self, key: str) -> None:
        """Remove the file, and its folders when they are empty."""
        path = self._objects / key
        try:
            path.unlink(missing_ok=True)
            with self._folders:
                for folder in (path.parent, path.parent.parent):
                    folder.rmdir()
                    self._durable.discard(folder)
        except OSError as error:
            if not isinstance(error, FileNotFoundError) and path.exists():
                raise spooling.failed(error, "remove an object") from error

    def keys(self, prefix: str = "") -> Iterator[str]:
        """All keys that start with `prefix`."""
        for study in sorted(os.listdir(self._objects)):
            if not (study.startswith(prefix) or prefix.startswith(study)):
                continue
            for folder, _, names in os.walk(self._objects / study):
                inside = Path(folder).relative_to(self._objects).as_posix()
                yield from (key for name in names if (key := f"{inside}/{name}").startswith(prefix))

    def check(self) -> None:
        """Nothing, or Unavailable or OutOfResources when nothing can be written."""
        with Spool(self._spool) as probe:
            probe.write(b"m3DICOM")
            probe.persist()

    def close(self) -> None:
        """Nothing is held open."""


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
