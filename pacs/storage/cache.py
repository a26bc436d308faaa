"""A local read cache in front of a remote store: blocks of objects as files, the least recently used go first.

Objects never change under their key, so what is cached never expires. The folder starts empty: without a sync its
files would not be trustworthy after a power failure. Each block is held against a checksum taken when it came.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import uuid
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from pacs.spool import Spool
from pacs.storage.base import CHUNK, Locator, ObjectStore, Placed, Recorded, Unproven, span

BLOCK = 1 << 20


class CachedStore:
    """An object store whose reads are kept in `folder`, at most `limit` bytes of them."""

    def __init__(self, remote: ObjectStore, folder: Path, limit: int, block: int = BLOCK) -> None:
        self._remote = remote
        self._folder = folder
        self._limit = limit
        self._block = block
        self._lock = threading.Lock()
        self._sizes: OrderedDict[str, tuple[int, int]] = OrderedDict()  # bytes and CRC-32
        self._total = 0
        self._deletions = 0
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def remote(self) -> ObjectStore:
        """The store behind the cache, for those who have to know what it really holds."""
        return self._remote

    @property
    def spool_dir(self) -> Path:
        """The remote store's."""
        return self._remote.spool_dir

    @property
    def cached_bytes(self) -> int:
        """How much is cached now."""
        with self._lock:
            return self._total

    def spool(self, reserve: int, limit: int | None) -> Spool:
        """The remote store's."""
        return self._remote.spool(reserve, limit)

    def redoes(self, make_durable: Callable[[], None]) -> bool:
        """As the remote store."""
        return self._remote.redoes(make_durable)

    @property
    def keyed(self) -> bool:
        """As the remote store."""
        return self._remote.keyed

    def put(self, key: str, spool: Spool, *, redo: bool = False, later: bool = False) -> Placed:
        """Hand the bytes on."""
        return self._remote.put(key, spool, redo=redo, later=later)

    def settle(self, locator: Locator) -> None:
        """The remote store knows."""
        self._remote.settle(locator)

    def soon(self, locators: Sequence[Locator]) -> None:
        """The remote store is told; what is read once is not worth a place here."""
        self._remote.soon(locators)

    def read(self, locator: Locator, offset: int = 0, length: int | None = None) -> bytes:
        """`length` bytes from `offset` on, from whole blocks; blocks next to each other are fetched at once."""
        offset, length = span(locator, offset, length)
        if length == 0:
            return self._remote.read(locator, offset, 0)
        first, last = offset // self._block, (offset + length - 1) // self._block
        blocks: dict[int, bytes] = {}
        missing: list[int] = []
        for number in range(first, last + 1):
            held = self._held(locator, number)
            if held is None:
                missing.append(number)
            else:
                blocks[number] = held
        if missing:
            start, deletions = missing[0], self._deletions
            data = self._remote.read(locator, start * self._block, (missing[-1] + 1 - start) * self._block)
            for number in range(start, missing[-1] + 1):
                at = (number - start) * self._block
                blocks[number] = data[at : at + self._block]
                if number in missing and blocks[number]:
                    self._keep(locator, number, blocks[number], deletions)
        skipped = offset - first * self._block
        whole = blocks[first] if first == last else b"".join(blocks[number] for number in range(first, last + 1))
        return whole[skipped : skipped + length]

    @staticmethod
    def _name(locator: Locator, number: int) -> str:
        where = f"{locator.object_key} {locator.offset}"
        return f"{hashlib.sha256(where.encode()).hexdigest()[:40]}-{number}"

    def _held(self, locator: Locator, number: int) -> bytes | None:
        """The block, if it is here and as it came; one that is not is forgotten."""
        name = self._name(locator, number)
        with self._lock:
            known = self._sizes.get(name)
            if known is None:
                return None
            self._sizes.move_to_end(name)
        try:
            data = (self._folder / name).read_bytes()
        except OSError:
            data = b""
        if (len(data), zlib.crc32(data)) == known:
            return data
        with self._lock:
            if self._sizes.get(name) == known:
                self._drop(name)
        return None

    def _keep(self, locator: Locator, number: int, data: bytes, deletions: int) -> None:
        """Keep a block, unless something was deleted since it was asked for: that may have been this object."""
        name = self._name(locator, number)
        path = self._folder / f"{name}.{uuid.uuid4().hex}"
        with self._lock:
            if len(data) > self._limit or deletions != self._deletions:
                return
            if name in self._sizes:
                self._drop(name)
            while self._total + len(data) > self._limit:
                if not self._sizes:
                    return  # all the room is taken by blocks that are being written
                self._drop(next(iter(self._sizes)))
            self._total += len(data)  # room is taken before it is filled: the bound holds however many write
        try:
            path.write_bytes(data)
            with self._lock:
                if name in self._sizes or deletions != self._deletions:
                    raise OSError  # somebody else was quicker, or it was deleted meanwhile
                os.replace(path, self._folder / name)
                self._sizes[name] = len(data), zlib.crc32(data)
        except OSError:  # a full disk only costs the cache
            with suppress(OSError):
                path.unlink(missing_ok=True)
            with self._lock:
                self._total -= len(data)

    def _drop(self, name: str) -> None:
        self._total -= self._sizes.pop(name)[0]
        with suppress(OSError):
            (self._folder / name).unlink(missing_ok=True)

    def chunks(
        self, locator: Locator, offset: int = 0, length: int | None = None, size: int = CHUNK
    ) -> Iterator[bytes]:
        """The same range in pieces, through the cache."""
        offset, length = span(locator, offset, length)
        return self._pieces(self.read(locator, offset, min(size, length)), locator, offset, length, size)

    def _pieces(self, piece: bytes, locator: Locator, offset: int, length: int, size: int) -> Iterator[bytes]:
        while piece:
            yield piece
            offset, length = offset + len(piece), length - len(piece)
            piece = self.read(locator, offset, min(size, length)) if length else b""

    def holds(self, locator: Locator) -> bool:
        """The remote store knows."""
        return self._remote.holds(locator)

    def recorded(self, locator: Locator) -> Recorded | None:
        """What the remote store says."""
        return self._remote.recorded(locator)

    def delete(self, *locators: Locator) -> None:
        """Remove the objects there and here."""
        self._remote.delete(*locators)
        starts = tuple(self._name(locator, 0).removesuffix("0") for locator in locators)
        with self._lock:
            self._deletions += 1
            for name in [name for name in self._sizes if name.startswith(starts)]:
                self._drop(name)

    def walk(self, prefix: str = "") -> Iterator[Locator]:
        """What the remote store has."""
        return self._remote.walk(prefix)

    def put_small(self, name: str, data: bytes) -> None:
        """Hand the bytes on."""
        self._remote.put_small(name, data)

    def read_small(self, name: str) -> bytes:
        """Always from the remote store: small objects may change."""
        return self._remote.read_small(name)

    def small(self, prefix: str = "", after: str = "") -> Iterator[str]:
        """What the remote store has."""
        return self._remote.small(prefix, after)

    def delete_small(self, name: str) -> None:
        """Remove it there."""
        self._remote.delete_small(name)

    def unproven(self) -> list[Unproven]:
        """The remote store knows."""
        return self._remote.unproven()

    def proven(self) -> None:
        """Told the remote store."""
        self._remote.proven()

    def check(self) -> None:
        """The remote store's check."""
        self._remote.check()

    def close(self) -> None:
        """Close the remote store and empty the folder."""
        self._remote.close()
        shutil.rmtree(self._folder, ignore_errors=True)
