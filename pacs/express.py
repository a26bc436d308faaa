"""Instances that a peer stores one like the other: taken, filed and answered by the library alone.

Of the thousand C-STOREs of an association most differ in a few values from the one before. Once some have come the
usual way (`pacs.ingest`), all that they have in common is written down for `pacs/native/express.c`, which does the same
for those that follow without the interpreter. What is not exactly like them comes back here, and goes the usual way.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from ctypes import addressof, c_char
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson

from pacs import alike, filing
from pacs.alike import Kept
from pacs.buffers import Memory
from pacs.dicom.attributes import Level
from pacs.dicom.json_model import HERE
from pacs.errors import ArchiveError
from pacs.index import joining, rows
from pacs.index.joiner import LOOKUP, Joiner
from pacs.native import structures
from pacs.native.structures import NOWHERE, Value
from pacs.spool import IN_MEMORY_BYTES
from pacs.storage import arrival
from pacs.storage.arrival import HEAD_BYTES
from pacs.storage.records import HEADER_BYTES, aligned
from pacs.storage.strips import Strip

if TYPE_CHECKING:
    from pacs.dicom.repeats import Following
    from pacs.events import Events
    from pacs.index.engine import Index
    from pacs.ingest import Prepared
    from pacs.storage.files import FileStore
    from pacs.young import Series

STRIP_BYTES: Final = 8 << 20
STRIP_RECORDS: Final = 64
"""A strip is made for so many records, up to so many bytes."""

_SETTLED: Final = frozenset(
    ("00080005", "00080014", "00080016", "00100020", "00100021", "0020000D", "0020000E",
     "00280002", "00280004", "00280008", "00280010", "00280011", "00280100")
)  # fmt: skip
"""What rules more than the element itself: who decodes text, whose study it is, where the frames are."""

_FRAME_OFFSET: Final = 4
"""Where in `FrameTable.to_bytes` the place of native pixel data is."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Of the archive, what is needed here."""

    store: FileStore
    index: Index
    events: Events
    young: Series
    news: Callable[[Prepared, str], tuple[Mapping[str, object], Mapping[str, object]]]
    """The rows of audit and changes that tell of an arrival in a study of some access scope."""
    limit: int
    """Longest data set that is accepted."""


class Like(Protocol):
    """A message with gaps for Message ID and SOP Instance UID."""

    @property
    def raw(self) -> bytes:
        """All of it."""

    @property
    def number_at(self) -> int:
        """Where the number is."""

    @property
    def uid_at(self) -> int:
        """Where the UID is."""

    @property
    def room(self) -> int:
        """How long the UID is, padded."""


class Express:
    """The passage of one association's instances through the library. For the thread of that association."""

    def __init__(self, parts: Parts, library: Any, joiner: Joiner) -> None:
        """`joiner` writes to the index."""
        self._parts = parts
        self._library = library
        self._room = ctypes.create_string_buffer(structures.room(library))
        self._followed = structures.Followed()
        self._packed = ctypes.create_string_buffer(structures.PACKED_ROOM)
        self.terms = structures.Express.from_buffer(self._room)
        """What the library is told, and tells."""
        self.address = addressof(self.terms)
        self._kept, self._name = Kept(), Kept()
        self._learned: object = None
        self._asked: tuple[Like, Like] | None = None
        self._unfit: object = None
        self._strip: Strip | None = None
        self._memory: Memory | None = None
        self._pin: c_char | None = None
        self._length = self._taken = 0
        self.terms.followed, self.terms.packed = addressof(self._followed), addressof(self._packed)
        self.terms.joiner = joiner.address

    # --- what instances are like ---

    def learn(self, stored: Prepared, known: Following | None) -> bool:
        """Whether those that follow may be taken: they are like `stored`, which followed the pattern `known`."""
        pattern = stored.entry.scan.pattern
        if pattern is None or pattern is self._unfit or known is None or known.whole.pattern is not pattern:
            return False
        if self._learned is pattern:
            return True
        self._learned = None
        self._kept = Kept()
        if not self._written_down(stored, known):
            self._unfit = pattern
            return False
        self._learned = pattern
        self._length = stored.entry.locator.length
        self._parts.young.forget(stored.series_instance_uid)
        return True

    def _written_down(self, stored: Prepared, known: Following) -> bool:
        entry, terms, kept = stored.entry, self.terms, self._kept
        scan = entry.scan
        differing = known.whole.pattern.differing
        if differing & _SETTLED or entry.arrival.result_of is not None or len(scan.bulk) != 1:
            return False
        here = self._here(entry)
        if here is None:
            return False
        values = self._values(stored, here)
        places = {name: at for at, name in enumerate(joining.COLUMNS)}
        columns = {tag: (vr, places[f"i_{names[0]}"]) for tag, vr, names in rows.sourced(Level.IMAGE)
                   if tag in differing and tag != alike.SOP_INSTANCE_UID}  # fmt: skip
        members = rows.instance_members(
            scan.metadata, scan.study_instance_uid, scan.series_instance_uid, entry.transfer_syntax_uid, differing
        )
        address = HERE + rows.instance_path(scan.study_instance_uid, scan.series_instance_uid, "").encode("ascii")
        pattern = alike.pattern(known, columns, members, address, kept)
        if pattern is None:
            return False
        terms.pattern = ctypes.pointer(kept.hold(pattern))
        self._write_row(values, places, here, entry, kept)
        self._write_head(entry, kept)
        bulk = scan.bulk[0]
        start = orjson.dumps([bulk.path, bulk.vr])[:-1]
        terms.bulk_before, terms.bulk_before_size = kept.at(b"[" + start + b","), len(start) + 2
        end = b",%d]]" % bulk.length
        terms.bulk_behind, terms.bulk_behind_size = kept.at(end), len(end)
        terms.frames_size = 0
        if entry.frames is not None:
            if len(entry.frames) > len(terms.frames_like):
                return False
            terms.frames_size, terms.frames_at = len(entry.frames), _FRAME_OFFSET
            terms.frames_like[: len(entry.frames)] = list(entry.frames)
        return True

    def _here(self, entry: filing.Entry) -> Any:
        """Study and series of the entry as the index has them; None where they are gone, or of another patient."""
        scan = entry.scan
        which = {
            "study": scan.study_instance_uid, "series": scan.series_instance_uid, "sop": scan.sop_instance_uid
        }  # fmt: skip
        found = self._parts.index.fetch(joining.HERE, which)
        if not found or found[0].series_id is None:
            return None
        return None if (found[0].patient_id, found[0].issuer_of_patient_id) != entry.patient else found[0]

    def _values(self, stored: Prepared, here: Any) -> dict[str, Any]:
        """All that is told of one that joins; what the library sets is that of `stored`."""
        told = zip("iac", (filing.instance_row(stored.entry, here.id, here.series_id),
                           *self._parts.news(stored, here.scope)), strict=True)  # fmt: skip
        values = {f"{prefix}_{name}": value for prefix, row in told for name, value in row.items()}
        values |= {"series": here.series_id, "study": here.id}
        return {name: values.get(name) for name in joining.COLUMNS}

    def _write_row(
        self, values: dict[str, Any], places: dict[str, int], here: Any, entry: filing.Entry, kept: Kept
    ) -> None:
        terms, scan, names = self.terms, entry.scan, LOOKUP
        which = {
            "study": scan.study_instance_uid, "series": scan.series_instance_uid, "sop": scan.sop_instance_uid,
            "study_key": here.id, "series_key": here.series_id,
        }  # fmt: skip
        columns = kept.hold((Value * len(values))(*(_value(each, kept) for each in values.values())))
        lookup = kept.hold((Value * len(names))(*(_value(which[name], kept) for name in names)))
        terms.lookup = lookup
        found = [at for at, name in enumerate(names) if name == "sop"]
        terms.lookup_uids[:] = [*found, *[NOWHERE] * (4 - len(found))]
        terms.uids[:] = [places[f"{prefix}_sop_instance_uid"] for prefix in "iac"]
        terms.times[:] = [places["i_created_at"], places["a_at"], places["c_at"]]
        for name in ("row", "digest", "bulk", "frames"):
            setattr(terms, name, places[f"i_{name}"])
        terms.offset, terms.length = places["i_object_offset"], places["i_object_length"]
        terms.json = places["json"]
        self._columns, self._object_key = columns, places["i_object_key"]
        terms.joining = structures.Joining(
            lookup, len(lookup), columns, len(columns),
            *(places[name] for name in ("series_row", "series_instances", "study_row", "study_instances", "last")),
            *(_value(each, kept) for each in (here.scope, *entry.patient, scan.sop_class_uid)),
        )  # fmt: skip

    def _write_head(self, entry: filing.Entry, kept: Kept) -> None:
        terms = self.terms
        before, behind = arrival.around(entry.scan.sop_class_uid, entry.transfer_syntax_uid, entry.arrival.source_ae)
        facts = orjson.dumps(replace(entry.arrival, at=0.0)).removesuffix(b"0.0}")
        suffix = arrival.content_suffix(entry.transfer_syntax_uid)
        for name, text in (("before", before), ("behind", behind), ("facts", facts), ("suffix", suffix)):
            setattr(terms, name, kept.at(text))
            setattr(terms, f"{name}_size", len(text))

    def answers(self, request: Like, reply: Like) -> None:
        """Told what their command sets are like, and the responses."""
        terms = self.terms
        if self._asked == (request, reply):
            return
        self._asked = request, reply
        self._reply = ctypes.create_string_buffer(reply.raw, len(reply.raw))
        self._request = request.raw
        terms.like, terms.like_size = ctypes.cast(ctypes.c_char_p(self._request), ctypes.c_void_p), len(request.raw)
        terms.number_at, terms.uid_at, terms.uid_room = request.number_at, request.uid_at, request.room
        terms.reply, terms.reply_size = addressof(self._reply), len(reply.raw)
        terms.reply_number_at, terms.reply_uid_at = reply.number_at, reply.uid_at

    def unsent(self) -> bytes:
        """What is left of the last response."""
        return self._reply.raw[len(self._reply) - self.terms.unsent :]

    # --- where they go ---

    def open(self) -> bool:
        """Whether there is a place for them, still or anew. Followed by `close`."""
        self.terms.size = self.terms.stage = 0
        if self._memory is not None and self._strip is not None:
            self._name_object(self._strip)
            return True
        self.close()
        context = self._parts.store.writes.take()
        if context is None:
            return False
        self.terms.write = context
        self._memory = self._parts.store.buffers.take()
        self._pin = c_char.from_buffer(self._memory.map, self._memory.start)
        self.terms.memory = addressof(self._pin)
        self.terms.room = min(IN_MEMORY_BYTES - HEAD_BYTES, self._parts.limit)
        return self.renew()

    def renew(self) -> bool:
        """Whether there is a strip that holds the next record."""
        terms, store = self.terms, self._parts.store
        record = aligned(HEADER_BYTES + max(HEAD_BYTES + terms.size, self._length))
        try:
            if self._strip is not None:
                self._leave_strip()
            strip = store.strip(max(record, min(STRIP_RECORDS * record, STRIP_BYTES)))
        except ArchiveError:  # who stores the usual way is told
            return False
        if strip is None:
            return False
        self._strip = strip
        terms.fd, terms.strip, terms.strip_end = strip.fd, strip.at, strip.end
        terms.nonce[:] = list(strip.nonce)
        self._name_object(strip)
        return True

    def _name_object(self, strip: Strip) -> None:
        self._name = Kept()
        self._columns[self._object_key] = _value(strip.name, self._name)

    def _leave_strip(self) -> None:
        strip, self._strip = self._strip, None
        if strip is not None:
            strip.close(self.terms.strip)

    def stored(self) -> None:
        """Told of each instance that was stored."""
        self._parts.index.joined(1)
        self._parts.events.publish()

    def has_taken(self) -> bool:
        """Whether instances went through since this was asked last."""
        before, self._taken = self._taken, self.terms.stored
        return before != self._taken

    def dataset(self) -> memoryview:
        """What has come of a data set, valid until `close`."""
        assert self._memory is not None
        start = self._memory.start + HEADER_BYTES + HEAD_BYTES
        return memoryview(self._memory.map)[start : start + self.terms.size]

    def undo(self) -> None:
        """Leave nothing of an instance that goes the usual way after all."""
        if self.terms.erase_size and self._strip is not None:
            self._strip.erase(self.terms.strip, self.terms.erase_size)
            self.terms.strip += self.terms.erase_size
            self.terms.erase_size = 0
            self._learned = None  # study or series may have gone elsewhere: the next one is not written in vain, too

    def close(self) -> None:
        """Give back what `open` took. May be called again."""
        self._leave_strip()
        self._pin = None
        memory, self._memory = self._memory, None
        if memory is not None:
            self._parts.store.buffers.give(memory)
            self._parts.store.writes.give(self.terms.write)


def _value(value: Any, kept: Kept) -> Value:
    """What SQLite is to be told."""
    match value:
        case None:
            return Value(structures.NULL)
        case int():
            return Value(structures.INTEGER, 0, (value,))
        case float():
            made = Value(structures.REAL)
            made.real = value
            return made
        case str():
            raw = value.encode()
            made = Value(structures.TEXT, len(raw))
            made.bytes = kept.at(raw)
            return made
        case _:
            made = Value(structures.BLOB, len(value))
            made.bytes = kept.at(bytes(value))
            return made
