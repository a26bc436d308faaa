"""Reading what is stored: one look-up says where an instance lies, ranged reads fetch what is wanted of it.

Of a corrected study, metadata and whole data sets are given as corrected (`pacs.dicom.overlay`); digests are those
of the stored bytes, and so are the offsets by which frames and bulk data are read.
"""

from __future__ import annotations

import hashlib
import time
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from itertools import chain, islice

import orjson
from sqlalchemy import bindparam, select

from pacs.accesses import Accesses
from pacs.ahead import ReadAhead
from pacs.auth import Principal, Right
from pacs.budget import Budget
from pacs.dicom import overlay, part10
from pacs.dicom.deflated import inflate
from pacs.dicom.frames import FrameTable
from pacs.dicom.scanner import BulkValue, Limits
from pacs.dicom.transfer_syntaxes import TRANSFER_SYNTAXES
from pacs.digest import Digest
from pacs.errors import Corrupt, NotFound
from pacs.index import corrections, schema
from pacs.index.damage import damage
from pacs.index.engine import Index
from pacs.index.statement import Found, Statement
from pacs.storage.arrival import content_digest, content_suffix
from pacs.storage.base import CHUNK, Locator, ObjectStore

_KEYS_IN_ONE_LIST = 500
HELD_BYTES = 256 << 20
PIECE = 256 << 10
"""Of an object that is sent: small, since many may be sent at once."""
HASTE_BYTES = 32 << 20
_DAMAGE_KNOWN_FOR_S = 2.0
_METADATA = Statement(
    select(schema.instance_metadata.c.json).where(schema.instance_metadata.c.instance_key == bindparam("key"))
)
_DAMAGED = select(damage.c.instance_key).where(damage.c.instance_key.is_not(None))


@cache
def _locate(by_series: bool, by_instance: bool, by_scope: bool, places: bool = True) -> Statement:
    """The rows of instances in their order, with where their bytes are if `places`."""
    s, r, i = schema.study.c, schema.series.c, schema.instance.c
    known = (
        s.study_instance_uid, r.series_instance_uid, i.sop_instance_uid, i.digest, i.source_ae, i.id,
        corrections.OVERLAY.scalar_subquery().label("overlay"),
    )  # fmt: skip
    where = (
        i.sop_class_uid, i.transfer_syntax_uid, i.object_key, i.object_offset, i.object_length, i.dataset_offset,
        i.frames, i.bulk,
    )  # fmt: skip
    wanted = (
        select(*known, *(where if places else ()))
        .join_from(schema.instance, schema.series, r.id == i.series_key)
        .join(schema.study, s.id == i.study_key)
        .where(s.study_instance_uid == bindparam("study"))
        .order_by(r.series_number.nulls_last(), r.id, i.instance_number.nulls_last(), i.id)
    )  # fmt: skip
    if by_series:
        wanted = wanted.where(r.series_instance_uid == bindparam("series"))
    if by_instance:
        wanted = wanted.where(i.sop_instance_uid == bindparam("sop"))
    if by_scope:
        wanted = wanted.where(s.scope == bindparam("scope"))
    return Statement(wanted)


@dataclass(frozen=True, slots=True)
class Edition:
    """One instance as it is now: enough to tell whether its metadata is still what it was, and to read it."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    digest: str
    source_ae: str
    instance_key: int
    overlay: bytes | None

    @property
    def version(self) -> str:
        """What changes whenever the instance would be given differently."""
        return _version(self.digest, self.overlay)


@dataclass(frozen=True, slots=True)
class InstanceLocation:
    """One instance and where its bytes are. `size` is that of its data set as stored, before any correction."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    locator: Locator
    dataset_offset: int
    digest: str
    size: int
    frames: FrameTable | None
    bulk: tuple[BulkValue, ...]
    source_ae: str
    instance_key: int
    overlay: bytes | None = None
    """The corrections of its study, as `pacs.dicom.overlay.loads` reads them."""

    @property
    def version(self) -> str:
        """What changes whenever the instance would be given differently."""
        return _version(self.digest, self.overlay)

    @property
    def deflated(self) -> bool:
        """Whether frames and bulk data are counted in an inflated data set."""
        return TRANSFER_SYNTAXES[self.transfer_syntax_uid].deflated


class Retrieve:
    """Reading from index and store. Safe from any thread."""

    def __init__(
        self, store: ObjectStore, index: Index, ahead: ReadAhead | None = None, accesses: Accesses | None = None
    ) -> None:
        """`ahead` is for a store that takes its time to answer; `accesses` is told who reads what."""
        self._store = store
        self._accesses = accesses
        self._ahead = ahead
        self._index = index
        self.held = Budget(HELD_BYTES)
        """What instances that are being sent may hold in memory."""
        self.haste = Budget(HASTE_BYTES)
        """What the pieces of long answers may hold above the least that they can do with."""
        self._damaged: tuple[float, frozenset[int]] = (0.0, frozenset())

    def locate(
        self, principal: Principal, study: str, series: str | None = None, instance: str | None = None
    ) -> list[InstanceLocation]:
        """The instances of a study, series or one instance that the principal may see, by series and instance number.

        Raises NotFound when there are none, and Forbidden.
        """
        return [
            InstanceLocation(
                study_instance_uid=row.study_instance_uid,
                series_instance_uid=row.series_instance_uid,
                sop_instance_uid=row.sop_instance_uid,
                sop_class_uid=row.sop_class_uid,
                transfer_syntax_uid=row.transfer_syntax_uid,
                locator=Locator(row.object_key, row.object_offset, row.object_length),
                dataset_offset=row.dataset_offset,
                digest=row.digest,
                size=row.object_length - row.dataset_offset,
                frames=None if row.frames is None else FrameTable.from_bytes(row.frames),
                bulk=tuple(BulkValue(*each) for each in orjson.loads(row.bulk)),
                source_ae=row.source_ae,
                instance_key=row.id,
                overlay=row.overlay,
            )
            for row in self._rows(principal, study, series, instance, places=True)
        ]

    def editions(
        self, principal: Principal, study: str, series: str | None = None, instance: str | None = None
    ) -> list[Edition]:
        """The same instances, in the same order, without where they lie; raises the same."""
        return [
            Edition(
                row.study_instance_uid, row.series_instance_uid, row.sop_instance_uid, row.digest, row.source_ae,
                row.id, row.overlay,
            )
            for row in self._rows(principal, study, series, instance, places=False)
        ]  # fmt: skip

    def _rows(
        self, principal: Principal, study: str, series: str | None, instance: str | None, *, places: bool
    ) -> list[Found]:
        principal.require(Right.READ)
        values = {"study": study, "series": series, "sop": instance, "scope": principal.scope}
        statement = _locate(series is not None, instance is not None, bool(principal.scope), places)
        found = self._index.fetch(statement, {name: value for name, value in values.items() if value})
        if not found:
            raise NotFound("nothing is stored here", about=instance or series or study)
        if self._accesses is not None:
            self._accesses.note(principal, study)
        return found

    def part10(self, location: InstanceLocation, *, as_received: bool = False, piece: int = PIECE) -> Iterator[bytes]:
        """The instance as a Part 10 file, in pieces: a fresh header, then the data set, corrected unless `as_received`.

        `piece` is the most bytes that are read at a time.

        NotFound is raised at once; Corrupt instead of the last piece when the stored bytes do not match their digest.
        """
        header = part10.header(
            location.sop_class_uid, location.sop_instance_uid, location.transfer_syntax_uid, location.source_ae
        )
        self._refuse_damaged(location)
        chunks = self._store.chunks(location.locator, location.dataset_offset, location.size, piece)
        if location.overlay is None or as_received:
            return self._verified(location, header, chunks)
        return chain((header,), _corrected(location, self._verified(location, b"", chunks)))

    def all_part10(
        self, locations: Sequence[InstanceLocation], piece: int = PIECE
    ) -> Generator[Iterator[bytes], None, None]:
        """`part10` of each instance, to be read to its end before the next; what comes next is fetched meanwhile."""
        if self._ahead is None:
            yield from (self.part10(location, piece=piece) for location in locations)
            return
        fetched = self._ahead.fetch(
            (min(CHUNK, location.size - at), partial(self._chunk, location, at))
            for location in locations
            for at in range(0, location.size, CHUNK)
        )
        with closing(fetched):
            for location in locations:
                chunks = islice(fetched, -(-location.size // CHUNK))
                header = part10.header(
                    location.sop_class_uid, location.sop_instance_uid, location.transfer_syntax_uid, location.source_ae
                )
                if location.overlay is None:
                    yield self._verified(location, header, chunks)
                else:
                    yield chain((header,), _corrected(location, self._verified(location, b"", chunks)))

    def _chunk(self, location: InstanceLocation, at: int) -> bytes:
        return self._stored(location, at, min(CHUNK, location.size - at))

    def close(self) -> None:
        """Let go of what fetches ahead."""
        if self._ahead is not None:
            self._ahead.close()

    def pieces(self, location: InstanceLocation) -> Iterator[bytes]:
        """The data set in its stored transfer syntax, in pieces of bounded size; corrected and raises as `part10`."""
        self._refuse_damaged(location)
        chunks = self._store.chunks(location.locator, location.dataset_offset, location.size, PIECE)
        return _corrected(location, self._verified(location, b"", chunks))

    @staticmethod
    def _verified(location: InstanceLocation, header: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
        digest = Digest()
        held = header
        left = location.size
        for chunk in chunks:
            yield held
            digest.update(chunk)
            left -= len(chunk)
            held = chunk
        digest.update(content_suffix(location.transfer_syntax_uid))
        if left or digest.hexdigest() != location.digest:
            raise _corrupt(location)
        yield held

    def dataset(self, location: InstanceLocation) -> bytes:
        """The data set in its stored transfer syntax, corrected where its study is.

        Raises Corrupt when the stored bytes do not match their digest.
        """
        data = self._received(location)
        return data if location.overlay is None else b"".join(_corrected(location, iter((data,))))

    def _received(self, location: InstanceLocation) -> bytes:
        data = self._stored(location, 0, location.size)
        if content_digest(data, location.transfer_syntax_uid) != location.digest:
            raise _corrupt(location)
        return data

    def read(self, location: InstanceLocation, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` of the (inflated) data set. Raises Corrupt where they are missing."""
        if location.deflated:
            return self._whole(location)[offset : offset + length]
        return self._stored(location, offset, length)

    def _stored(self, location: InstanceLocation, offset: int, length: int) -> bytes:
        self._refuse_damaged(location)
        data = self._store.read(location.locator, location.dataset_offset + offset, length)
        if len(data) != length or offset + length > location.size:
            raise _corrupt(location)
        return data

    def _refuse_damaged(self, location: InstanceLocation) -> None:
        """Nothing, or Corrupt for an instance that a scrub has quarantined: frames have no digest of their own."""
        if (error := self.damage(location)) is not None:
            raise error

    def damage(self, location: InstanceLocation) -> Corrupt | None:
        """Why an instance cannot be read that a scrub has quarantined, as it was known seconds ago; None for others."""
        asked, keys = self._damaged
        now = time.monotonic()
        if now - asked > _DAMAGE_KNOWN_FOR_S:
            with self._index.read() as conn:
                keys = frozenset(conn.execute(_DAMAGED).scalars())
            self._damaged = now, keys
        if location.instance_key not in keys:
            return None
        return Corrupt("the stored bytes are damaged; the instance is quarantined", about=location.sop_instance_uid)

    def _whole(self, location: InstanceLocation) -> bytes:
        data = self._received(location)
        return inflate(data, Limits().inflated_bytes) if location.deflated else data

    def metadata(self, locations: Sequence[InstanceLocation | Edition]) -> list[bytes]:
        """The DICOM JSON of each instance, in order; the byte 0xFF stands for the instance's own address."""
        found = self._packed([location.instance_key for location in locations])
        for location in locations:
            if location.instance_key not in found:
                raise NotFound("removed just now", about=location.sop_instance_uid)
        return [_metadata(location, zlib.decompress(found[location.instance_key])) for location in locations]

    def _packed(self, keys: Sequence[int]) -> dict[int, bytes]:
        """The metadata of instances as they are held, by key."""
        held = schema.instance_metadata.c
        if len(keys) == 1:
            return {key: row.json for key in keys for row in self._index.fetch(_METADATA, {"key": key})}
        found: dict[int, bytes] = {}
        with self._index.read() as conn:
            for at in range(0, len(keys), _KEYS_IN_ONE_LIST):
                some = held.instance_key.in_(keys[at : at + _KEYS_IN_ONE_LIST])
                wanted = select(held.instance_key, held.json).where(some)
                found |= {row.instance_key: row.json for row in conn.execute(wanted)}
        return found

    def frame(self, location: InstanceLocation, number: int) -> bytes:
        """One frame, counted from 1: its codestream as stored, or its native pixels (PS3.5 section 8 and annex A).

        Raises NotFound where there is no such frame and Corrupt where its bytes are missing.
        """
        if location.frames is None:
            raise NotFound("the instance has no frames", about=location.sop_instance_uid)
        spans = location.frames.spans(number)
        first, end = spans[0][0], spans[-1][0] + spans[-1][1]
        data = self.read(location, first, end - first)
        if len(spans) > 1:
            data = b"".join(data[offset - first : offset - first + length] for offset, length in spans)
        return location.frames.cut_bits(number, data)

    def bulkdata(self, location: InstanceLocation, path: str) -> bytes:
        """The bulk value at a path of the metadata's BulkDataURI, as stored. Raises NotFound."""
        for value in location.bulk:
            if value.path == path:
                return self.read(location, value.offset, value.length)
        raise NotFound("no such bulk data", about=location.sop_instance_uid)


def _corrected(location: InstanceLocation, pieces: Iterator[bytes]) -> Iterator[bytes]:
    if location.overlay is None:
        return pieces
    revisions = _revisions(location.overlay)
    return overlay.corrected(pieces, location.transfer_syntax_uid, revisions, location.source_ae)


def _version(digest: str, overlay: bytes | None) -> str:
    return digest if overlay is None else hashlib.sha256(digest.encode() + overlay).hexdigest()


def _metadata(location: InstanceLocation | Edition, json: bytes) -> bytes:
    if location.overlay is None:
        return json
    return overlay.applied_json(json, _revisions(location.overlay), location.source_ae)


@lru_cache(maxsize=256)
def _revisions(raw: bytes) -> tuple[overlay.Revision, ...]:
    return overlay.loads(raw)


def _corrupt(location: InstanceLocation) -> Corrupt:
    return Corrupt("the stored bytes do not match their digest", about=location.sop_instance_uid)
