"""What an object store is: durable, write-once bytes at places that say nothing about a patient."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from pacs.spool import Spool

CHUNK = 1 << 20
SMALL_PREFIX = "small/"
_SMALL_NAME = re.compile(r"[a-z0-9_-][a-z0-9._-]*(/[a-z0-9_-][a-z0-9._-]*)*")


@dataclass(frozen=True, slots=True)
class Locator:
    """Where an object lies: `length` bytes from `offset` on under a key, which objects in one segment share."""

    object_key: str
    offset: int
    length: int


def object_key(study_instance_uid: str, series_instance_uid: str, sop_instance_uid: str, digest: str) -> str:
    """The key of an instance: hashes of its UIDs, never the UIDs, and the digest of its content.

    No key is a directory of another, equal content has an equal key, and other content never overwrites it.
    """
    study, series = _hidden_often(study_instance_uid), _hidden_often(series_instance_uid)
    return f"{study}/{series}/{_hidden(sop_instance_uid)}-{digest}"


def _hidden(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:20]


_hidden_often = lru_cache(maxsize=256)(_hidden)
"""For those that come again with each instance."""


@dataclass(frozen=True, slots=True)
class Placed:
    """What `ObjectStore.put` did: the bytes can be read at `locator` once `land` returns, and are durable after `wait`.

    This base is for stores whose `put` returns only when the bytes are durable, at a key that equal content shares.
    """

    locator: Locator

    def land(self) -> None:
        """Return when the bytes can be read. Raises OutOfResources or Unavailable, as `wait`."""

    def wait(self) -> None:
        """Return when the bytes are durable. Raises OutOfResources or Unavailable when they are not and never will."""

    def filed(self) -> None:
        """Told, before anybody is answered, that the instance has been committed, or that it never will be."""

    def withdraw(self) -> None:
        """Give the bytes back: their instance is not filed. Where equal content shares its place, they stay."""


@dataclass(frozen=True, slots=True)
class Unproven:
    """What a crash left unproven under one key: `sound` are offset and length of the objects that stood the test.

    Those in `redo` were put to be filed at once: where the index lost their rows, they are filed again.
    """

    object_key: str
    since: int
    sound: frozenset[tuple[int, int]]
    redo: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Recorded:
    """CRC-32 of an object's head, which was reserved in its spool, and BLAKE3 of all that is behind it."""

    head: int
    digest: bytes


def small_name(name: str) -> str:
    """The name of a small object, or ValueError where it is not lower-case words between slashes."""
    if not _SMALL_NAME.fullmatch(name):
        raise ValueError(f"not the name of a small object: {name!r}")
    return name


class ObjectStore(Protocol):
    """Bytes that never change, found by their locator. Safe from any thread. Keys are made by `object_key`.

    Every method raises Unavailable when the store cannot be reached; reading raises NotFound for what is not there, or
    no longer, and writing OutOfResources when there is no space left.
    """

    @property
    def spool_dir(self) -> Path:
        """A folder for arriving bytes that are too many for memory."""

    def spool(self, reserve: int, limit: int | None) -> Spool:
        """A place for arriving bytes that `put` can take over with the fewest copies; the arguments are Spool's."""

    def redoes(self, make_durable: Callable[[], None]) -> bool:
        """Whether the store remembers what was put with `redo`, until `make_durable` was called after it was filed.

        If so, the index need not sync its commits one by one: what a power failure takes of them is filed again from
        what `unproven` finds.
        """

    @property
    def keyed(self) -> bool:
        """Whether `put` asks for the key: where objects lie one behind the other, nobody need make one."""

    def put(self, key: str, spool: Spool, *, redo: bool = False, later: bool = False) -> Placed:
        """Store the spooled bytes: readable on return, durable after `Placed.wait`. Uses the spool up.

        Whoever puts with `redo` has to tell `Placed.filed`, unless it withdraws. With `redo` or `later` they are
        readable only after `Placed.land`, which has to be called: nobody may see the instance before. Putting the same
        content again is harmless; it may be kept twice, each time at a locator of its own.
        """

    def settle(self, locator: Locator) -> None:
        """Return when bytes that somebody else has put are durable. Raises Unavailable when they never will be."""

    def read(self, locator: Locator, offset: int = 0, length: int | None = None) -> bytes:
        """`length` bytes from `offset` of the object on, or all that follows; fewer at the end of the object."""

    def soon(self, locators: Sequence[Locator]) -> None:
        """Told that these objects are read next, in this order; a store may begin to fetch them. Does not wait."""

    def chunks(
        self, locator: Locator, offset: int = 0, length: int | None = None, size: int = CHUNK
    ) -> Iterator[bytes]:
        """The same range in pieces of at most `size` bytes. NotFound is raised by the call, not while iterating."""

    def holds(self, locator: Locator) -> bool:
        """Whether an object of that length is there. Its bytes are not looked at."""

    def recorded(self, locator: Locator) -> Recorded | None:
        """What the store itself wrote down about an object when it was put; None where it writes nothing down.

        Raises NotFound.
        """

    def delete(self, *locators: Locator) -> None:
        """Remove objects, durably on return; nothing happens for those that are not there."""

    def walk(self, prefix: str = "") -> Iterator[Locator]:
        """Every stored object whose `object_key` starts with `prefix`, those that share a segment too.

        In no order, and without reading them; what is put or deleted meanwhile may or may not be among them.
        """

    def put_small(self, name: str, data: bytes) -> None:
        """Store some bytes under a name, durable on return; they replace what had that name."""

    def read_small(self, name: str) -> bytes:
        """The bytes of that name. Raises NotFound."""

    def small(self, prefix: str = "", after: str = "") -> Iterator[str]:
        """The names that start with `prefix`, sorted; only those behind the name `after`."""

    def delete_small(self, name: str) -> None:
        """Remove what has that name, if anything does."""

    def unproven(self) -> list[Unproven]:
        """Where a crash may have left rows without their bytes: objects at or behind `since`, each verified by now."""

    def proven(self) -> None:
        """Told when the index agrees with what `unproven` found; it is not asked again then."""

    def check(self) -> None:
        """Nothing, or Unavailable with the reason why the store cannot be used."""

    def close(self) -> None:
        """Make durable what was put and let go of connections and descriptors."""


def span(locator: Locator, offset: int, length: int | None) -> tuple[int, int]:
    """Offset and length of a range within an object, the length cut where the object ends."""
    left = max(locator.length - offset, 0)
    return offset, left if length is None else min(length, left)
