"""The framing of objects in a segment: a header before each, so that a segment can be read without an index.

A segment is a file of blocks. Its first block names it; each record begins on a block of its own: a header, then the
object. Nothing shares a block with a neighbour, so neither a torn write nor a deletion harms one. The header carries a
number that only this segment has, its own position, and the digest of the object: stale bytes of a former file, bytes
of an object that look like a header, and an object that was not written to its end are all recognised.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from pacs.digest import Digest

BLOCK = 4096
NONCE_BYTES = 16

_FILE = struct.Struct("<8s16sI")
_FILE_MAGIC = b"m3Dseg\0\1"
_RECORD = struct.Struct("<16sQQIII32sI")
_REDO = 1
ALIVE = b"m3Drec\0\1"
DEAD = b"m3Dgone\1"
HEADER_BYTES = len(ALIVE) + _RECORD.size


def aligned(offset: int) -> int:
    """The first block boundary at or after `offset`."""
    return -(-offset // BLOCK) * BLOCK


def first_block(nonce: bytes) -> bytes:
    """The first block of a segment."""
    start = _FILE.pack(_FILE_MAGIC, nonce, zlib.crc32(nonce))
    return start.ljust(BLOCK, b"\0")


def nonce_of(block: bytes) -> bytes | None:
    """The number of the segment that begins with this block, or None where it is none."""
    if len(block) < _FILE.size:
        return None
    magic, nonce, check = _FILE.unpack_from(block)
    return nonce if magic == _FILE_MAGIC and check == zlib.crc32(nonce) else None


@dataclass(frozen=True, slots=True)
class Record:
    """One record: where its header begins, and the object behind it."""

    at: int
    length: int
    reserve: int
    reserve_check: int
    digest: bytes
    alive: bool = True
    redo: bool = False
    """Whether its instance is to be filed again where a crash took the rows."""

    @property
    def offset(self) -> int:
        """Where the object begins."""
        return self.at + HEADER_BYTES

    @property
    def end(self) -> int:
        """Where the next record may begin."""
        return aligned(self.offset + self.length)


def header(
    nonce: bytes, at: int, length: int, reserve: bytes | memoryview, digest: bytes, *, redo: bool = False
) -> bytes:
    """The header of a record at offset `at`; `digest` is the BLAKE3 of the object behind its first bytes `reserve`."""
    flags = _REDO if redo else 0
    body = _RECORD.pack(nonce, at, length, len(reserve), zlib.crc32(reserve), flags, digest, 0)[:-4]
    return ALIVE + body + struct.pack("<I", zlib.crc32(body))


def parse(raw: bytes, nonce: bytes, at: int) -> Record | None:
    """The record whose header these bytes are; None where they are no header of this segment at this place."""
    if len(raw) < HEADER_BYTES or raw[: len(ALIVE)] not in (ALIVE, DEAD):
        return None
    body = raw[len(ALIVE) : HEADER_BYTES - 4]
    found, position, length, reserve, reserve_check, flags, digest, check = _RECORD.unpack_from(raw, len(ALIVE))
    if check != zlib.crc32(body) or found != nonce or position != at or reserve > length:
        return None
    return Record(at, length, reserve, reserve_check, digest, raw.startswith(ALIVE), bool(flags & _REDO))


class Check:
    """Whether an object, given piece by piece, is the one that a record's header describes."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._crc = 0
        self._seen = 0
        self._hash = Digest()

    def feed(self, piece: bytes) -> None:
        """The next bytes of the object."""
        split = max(self._record.reserve - self._seen, 0)
        self._crc = zlib.crc32(piece[:split], self._crc)
        self._hash.update(piece[split:])
        self._seen += len(piece)

    def passed(self) -> bool:
        """Whether all bytes came and are sound."""
        record = self._record
        return (
            self._seen == record.length and self._crc == record.reserve_check and self._hash.digest() == record.digest
        )
