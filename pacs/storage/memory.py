"""Objects in memory: for tests and demonstrations, gone with the process."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from pacs.errors import NotFound
from pacs.spool import Spool
from pacs.storage.base import CHUNK


class MemoryStore:
    """A dictionary behind a lock."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._folder = Path(tempfile.mkdtemp(prefix="m3dicom-"))

    @property
    def spool_dir(self) -> Path:
        """A temporary folder, removed by `close`."""
        return self._folder

    def put(self, key: str, spool: Spool) -> None:
        """Keep the bytes."""
        with spool.view() as view:
            data = bytes(view)
        spool.discard()
        with self._lock:
            self._objects[key] = data

    def _get(self, key: str) -> bytes:
        with self._lock:
            if (data := self._objects.get(key)) is None:
                raise NotFound("no such object", about=key)
            return data

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """`length` bytes from `offset` on."""
        return self._get(key)[offset : None if length is None else offset + length]

    def chunks(self, key: str, offset: int = 0, length: int | None = None, size: int = CHUNK) -> Iterator[bytes]:
        """The same range in pieces."""
        data = self.read(key, offset, length)
        return (data[at : at + size] for at in range(0, len(data), size))

    def size(self, key: str) -> int:
        """The length of the object."""
        return len(self._get(key))

    def delete(self, key: str) -> None:
        """Forget the object."""
        with self._lock:
            self._objects.pop(key, None)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """All keys that start with `prefix`."""
        with self._lock:
            return iter([key for key in self._objects if key.startswith(prefix)])

    def check(self) -> None:
        """Memory is always there."""

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            self._objects.clear()
        shutil.rmtree(self._folder, ignore_errors=True)
