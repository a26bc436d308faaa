"""Objects as local files, durable by a contract of our own: file data synced, renamed into place, folders synced."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pacs import spool as spooling
from pacs.errors import NotFound, Unavailable
from pacs.spool import Spool
from pacs.storage.base import CHUNK, Locator, Placed, small_name, span

_KNOWN_FOLDERS = 100_000
_ATTEMPTS = 5


class FileStore:
    """Objects under `root/objects`, small ones under `root/small`, arriving bytes under `root/spool`."""

    def __init__(self, root: Path) -> None:
        self._objects = root / "objects"
        self._small = root / "small"
        self._spool = root / "spool"
        try:
            for folder in (self._objects, self._small, self._spool):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self._objects.stat().st_dev != self._spool.stat().st_dev:
                raise Unavailable(f"{self._objects} and {self._spool} must be on one file system")
            _sync_folder(root)
            _sync_folder(root.resolve().parent)
        except OSError as error:
            raise spooling.failed(error, f"use the folder {root}") from error
        spooling.sweep(self._spool)
        self._folders = threading.Lock()  # an empty folder is not removed while an object moves into it
        self._durable = {self._objects, self._small}  # folders whose own entries are known to be on the disk

    @property
    def spool_dir(self) -> Path:
        """The spool folder."""
        return self._spool

    def spool(self, reserve: int, limit: int | None) -> Spool:
        """A spool in that folder."""
        return Spool(self._spool, reserve=reserve, limit=limit)

    def put(self, key: str, spool: Spool) -> Placed:
        """Store the bytes; on return file, name and every new folder above it are on the disk."""
        length = spool.size
        self._put_file(self._objects / key, spool)
        return Placed(Locator(key, 0, length))

    def settle(self, locator: Locator) -> None:
        """What is here is on the disk."""

    def _put_file(self, target: Path, spool: Spool) -> None:
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
            self._durable = {self._objects, self._small}
        self._durable.add(folder)

    def read(self, locator: Locator, offset: int = 0, length: int | None = None) -> bytes:
        """`length` bytes from `offset` on."""
        return b"".join(self.chunks(locator, offset, length, max(locator.length, 1)))

    def chunks(
        self, locator: Locator, offset: int = 0, length: int | None = None, size: int = CHUNK
    ) -> Iterator[bytes]:
        """The same range in pieces."""
        offset, length = span(locator, offset, length)
        pieces = self._pieces(self._open(locator.object_key), locator.offset + offset, length, size)
        next(pieces)  # started, so that it closes the file even if nobody ever reads on
        return pieces

    @staticmethod
    def _pieces(fd: int, offset: int, length: int, size: int) -> Iterator[bytes]:
        try:
            yield b""
            while length > 0:
                try:
                    piece = os.pread(fd, min(size, length), offset)
                except OSError as error:
                    raise Unavailable(f"cannot read an object: {os.strerror(error.errno or 5)}") from error
                if not piece:
                    return
                yield piece
                offset += len(piece)
                length -= len(piece)
        finally:
            os.close(fd)

    def _open(self, key: str) -> int:
        try:
            return os.open(self._objects / key, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise NotFound("no such object", about=key) from None
        except OSError as error:
            raise Unavailable(f"cannot open an object: {os.strerror(error.errno or 5)}") from error

    def holds(self, locator: Locator) -> bool:
        """Whether it is here, in its length."""
        try:
            return (self._objects / locator.object_key).stat().st_size >= locator.offset + locator.length
        except OSError:
            return False

    def delete(self, *locators: Locator) -> None:
        """Remove the files, and their folders when they are empty."""
        for locator in locators:
            self._delete(self._objects / locator.object_key, above=2)

    def _delete(self, path: Path, above: int = 0) -> None:
        try:
            path.unlink(missing_ok=True)
            with self._folders:
                for folder in list(path.parents)[:above]:
                    folder.rmdir()
                    self._durable.discard(folder)
        except OSError as error:
            if not isinstance(error, FileNotFoundError) and path.exists():
                raise spooling.failed(error, "remove an object") from error

    def walk(self, prefix: str = "") -> Iterator[Locator]:
        """All files whose key starts with `prefix`."""
        for study in sorted(os.listdir(self._objects)):
            if not (study.startswith(prefix) or prefix.startswith(study)):
                continue
            for key in _files_below(self._objects / study, self._objects):
                if key.startswith(prefix):
                    with suppress(FileNotFoundError):
                        yield Locator(key, 0, (self._objects / key).stat().st_size)

    def put_small(self, name: str, data: bytes) -> None:
        """Store the bytes; on return file and name are on the disk."""
        with Spool(self._spool) as spool:
            spool.write(data)
            self._put_file(self._small / small_name(name), spool)

    def read_small(self, name: str) -> bytes:
        """The bytes of that name."""
        try:
            return (self._small / small_name(name)).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise NotFound("no such small object", about=name) from None
        except OSError as error:
            raise Unavailable(f"cannot read an object: {os.strerror(error.errno or 5)}") from error

    def small(self, prefix: str = "") -> Iterator[str]:
        """The names, sorted."""
        return iter(sorted(name for name in _files_below(self._small, self._small) if name.startswith(prefix)))

    def delete_small(self, name: str) -> None:
        """Remove what has that name."""
        self._delete(self._small / small_name(name))

    def check(self) -> None:
        """Nothing, or Unavailable or OutOfResources when nothing can be written."""
        with Spool(self._spool) as probe:
            probe.write(b"m3DICOM")
            probe.persist()

    def close(self) -> None:
        """Nothing is held open."""


def _files_below(folder: Path, root: Path) -> Iterator[str]:
    """The path of every file below `folder`, relative to `root`."""
    for at, _, names in os.walk(folder):
        inside = Path(at).relative_to(root).as_posix()
        yield from (name if inside == "." else f"{inside}/{name}" for name in names)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
