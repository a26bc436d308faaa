"""What an object store is: durable, write-once bytes under keys that say nothing about a patient."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pacs.spool import Spool

CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Locator:
    """Where bytes lie: `length` bytes from `offset` on within one object, so that objects may share a segment."""

    object_key: str
    offset: int
    length: int


def object_key(study_instance_uid: str, series_instance_uid: str, sop_instance_uid: str, digest: str) -> str:
    """The key of an instance: hashes of its UIDs, never the UIDs, and the digest of its content.

    No key is a directory of another, equal content has an equal key, and other content never overwrites it.
    """
    study, series, sop = (
        hashlib.sha256(uid.encode()).hexdigest()[:20]
        for uid in (study_instance_uid, series_instance_uid, sop_instance_uid)
    )
    return f"{study}/{series}/{sop}-{digest}"


class ObjectStore(Protocol):
    """Bytes under keys. Safe from any thread. Keys are made by `object_key`.

    Every method raises Unavailable when the store cannot be reached; reading raises NotFound for a key that is not
    there and writing OutOfResources when there is no space left.
    """

    @property
    def spool_dir(self) -> Path:
        """A folder for arriving bytes, on the same file system where that saves a copy."""

    def put(self, key: str, spool: Spool) -> None:
        """Store the spooled bytes, durable on return. Uses the spool up; putting the same content again is harmless."""

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """`length` bytes from `offset` on, or all that follows; fewer at the end of the object."""

    def chunks(self, key: str, offset: int = 0, length: int | None = None, size: int = CHUNK) -> Iterator[bytes]:
        """The same range in pieces of at most `size` bytes. NotFound is raised by the call, not while iterating."""

    def size(self, key: str) -> int:
        """The length of the object in bytes."""

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens when it is not there."""

    def keys(self, prefix: str = "") -> Iterator[str]:
        """All keys that start with `prefix`, in no order."""

    def check(self) -> None:
        """Nothing, or Unavailable with the reason why the store cannot be used."""

    def close(self) -> None:
        """Let go of connections and descriptors."""
