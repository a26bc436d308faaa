"""Objects in memory: for tests and demonstrations, gone with the process."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pacs.buffers import Buffers
from pacs.errors import NotFound
from pacs.spool import MEMORY_BYTES, Spool
from pacs.storage.base import CHUNK, Locator, Placed, Unproven, small_name, span


class MemoryStore:
    """A dictionary behind a lock."""

    keyed = True

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}
        self._small: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._buffers = Buffers(MEMORY_BYTES)
        self._folder = Path(tempfile.mkdtemp(prefix="m3dicom-"))

    @property
    def spool_dir(self) -> Path:
        """A temporary folder, removed by `close`."""
        return self._folder

    def spool(self, reserve: int, limit: int | None) -> Spool:
        """A spool in that folder."""
        return Spool(self._folder, reserve=reserve, limit=limit, buffers=self._buffers)

    def redoes(self, make_durable: Callable[[], None]) -> bool:
        """No."""
        return False

    def put(self, key: str, spool: Spool, *, redo: bool = False, later: bool = False) -> Placed:
        """Keep the bytes."""
        with spool.view() as view:
            data = bytes(view)
        spool.discard()
        with self._lock:
            self._objects[key] = data
        return Placed(Locator(key, 0, len(data)))

    def settle(self, locator: Locator) -> None:
        """What is here is here."""

    def soon(self, locators: Sequence[Locator]) -> None:
        """They are in memory."""

    def read(self, locator: Locator, offset: int = 0, length: int | None = None) -> bytes:
        """`length` bytes from `offset` on."""
        offset, length = span(locator, offset, length)
        at = locator.offset + offset
        with self._lock:
            if (data := self._objects.get(locator.object_key)) is None:
                raise NotFound("no such object", about=locator.object_key)
        return data[at : at + length]

    def chunks(
        self, locator: Locator, offset: int = 0, length: int | None = None, size: int = CHUNK
    ) -> Iterator[bytes]:
        """The same range in pieces."""
        data = self.read(locator, offset, length)
        return (data[at : at + size] for at in range(0, len(data), size))

    def holds(self, locator: Locator) -> bool:
        """Whether it is here."""
        with self._lock:
            return len(self._objects.get(locator.object_key, b"")) >= locator.offset + locator.length > 0

    def recorded(self, locator: Locator) -> None:
        """None: nothing is written beside an object."""

    def delete(self, *locators: Locator) -> None:
        """Forget the objects."""
        with self._lock:
            for locator in locators:
                self._objects.pop(locator.object_key, None)

    def walk(self, prefix: str = "") -> Iterator[Locator]:
        """All that is kept."""
        with self._lock:
            return iter([Locator(k, 0, len(data)) for k, data in self._objects.items() if k.startswith(prefix)])

    def put_small(self, name: str, data: bytes) -> None:
        """Keep the bytes."""
        with self._lock:
            self._small[small_name(name)] = bytes(data)

    def read_small(self, name: str) -> bytes:
        """The bytes of that name."""
        with self._lock:
            if (data := self._small.get(name)) is None:
                raise NotFound("no such small object", about=name)
            return data

    def small(self, prefix: str = "", after: str = "") -> Iterator[str]:
        """The names, sorted."""
        with self._lock:
            return iter(sorted(name for name in self._small if name.startswith(prefix) and name > after))

    def delete_small(self, name: str) -> None:
        """Forget what has that name."""
        with self._lock:
            self._small.pop(name, None)

    def unproven(self) -> list[Unproven]:
        """Nothing: what `put` returned from was durable."""
        return []

    def proven(self) -> None:
        """Nothing was asked."""

    def check(self) -> None:
        """Memory is always there."""

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            self._objects.clear()
            self._small.clear()
        shutil.rmtree(self._folder, ignore_errors=True)
