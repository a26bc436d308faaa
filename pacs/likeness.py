"""What instances alike have in common, written down for the library, which stores those that follow by itself.

Of the thousand instances that a peer sends most differ in a few values from the one before. Once some have come the
usual way (`pacs.ingest`), the library is told what the rest of them is: JSON, rows, head of the object
(`pacs/native/record.c`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import orjson

from pacs import alike, filing
from pacs.alike import Kept
from pacs.dicom.attributes import Level
from pacs.dicom.json_model import HERE
from pacs.dicom.repeats import Following, Repeats
from pacs.index import joining, rows
from pacs.index.joiner import LOOKUP
from pacs.native import structures
from pacs.native.structures import NOWHERE, Value
from pacs.storage import arrival

if TYPE_CHECKING:
    from pacs.dicom.patterns import Pattern
    from pacs.events import Events
    from pacs.index.engine import Index
    from pacs.ingest import Prepared
    from pacs.storage.files import FileStore
    from pacs.young import Series

_SETTLED: Final = frozenset(
    ("00080005", "00080014", "00080016", "00100020", "00100021", "0020000D", "0020000E",
     "00280002", "00280004", "00280008", "00280010", "00280011", "00280100")
)  # fmt: skip
"""What rules more than the element itself: who decodes text, whose study it is, where the frames are."""

_FRAME_OFFSET: Final = 4
"""Where in `FrameTable.to_bytes` the place of native pixel data is."""

_PLACES: Final = {name: at for at, name in enumerate(joining.COLUMNS)}
_SET: Final = frozenset(
    ("i_sop_instance_uid", "a_sop_instance_uid", "c_sop_instance_uid", "i_created_at", "a_at", "c_at", "i_row",
     "i_digest", "i_object_key", "i_object_offset", "i_object_length", "i_bulk", "json")
)  # fmt: skip
"""What the library sets of each instance (`m3_tell`)."""
_WANTED: Final = tuple((name, name not in _SET) for name in joining.COLUMNS)


class Seen:
    """What was stored before by one who stores one after the other: a client sends one series after the other."""

    def __init__(self) -> None:
        self.repeats = Repeats()
        self.before = filing.Before()


@dataclass(frozen=True, slots=True)
class Parts:
    """Of the archive, what is needed here."""

    store: FileStore
    index: Index
    events: Events
    young: Series
    keys: filing.Keys
    news: Callable[[Prepared, str], tuple[Mapping[str, object], Mapping[str, object]]]
    """The rows of audit and changes that tell of an arrival in a study of some access scope."""
    limit: int
    """Longest data set that is accepted."""


class Likeness:
    """What those that follow `stored` have in common with it. For one thread at a time."""

    def __init__(self, parts: Parts, stored: Prepared, pattern: Pattern, before: Likeness | None = None) -> None:
        """`before` is that of the last series, with which it has much in common."""
        self._parts = parts
        self._kept, self._joining = Kept(), Kept()
        self._before = None if before is None else before._columns
        self._columns: Columns | None = None
        self._joins = False
        self.stored: Final = stored
        self.pattern: Final = pattern
        """Which those that follow keep to."""
        self.terms: Final = structures.Alike()
        """What the library is told."""

    def joins(self) -> bool:
        """Whether they may join: study and series are here, and of this patient. The library knows them then."""
        if not self._joins:
            uid = self.stored.series_instance_uid
            known, patient = self._parts.keys.get(uid), self.stored.entry.patient
            if known is None or known.patient != patient:
                known = filing.looked_up(self._parts.index, self.stored.entry.scan)
            scope = self.stored.entry.arrival.scope
            if known is not None and known.patient == patient and scope in ("", known.scope):
                self._joining = Kept()
                self._write_row(known, self._joining)
                self._joins = True
        self._parts.young.forget(self.stored.series_instance_uid)  # nobody tells of each of them
        return self._joins

    def look_again(self) -> None:
        """Told when one could not join: its study or series may not be what they were."""
        self._joins = False
        self._parts.keys.pop(self.stored.series_instance_uid, None)

    def _written_down(self, known: Following) -> bool:
        entry, terms, kept = self.stored.entry, self.terms, self._kept
        scan = entry.scan
        differing = known.whole.pattern.differing
        if differing & _SETTLED or entry.arrival.result_of is not None or len(scan.bulk) != 1:
            return False
        columns = {tag: (vr, _PLACES[f"i_{names[0]}"]) for tag, vr, names in rows.sourced(Level.IMAGE)
                   if tag in differing and tag != alike.SOP_INSTANCE_UID}  # fmt: skip
        members = rows.instance_members(
            scan.metadata, scan.study_instance_uid, scan.series_instance_uid, entry.transfer_syntax_uid, differing
        )
        address = HERE + rows.instance_path(scan.study_instance_uid, scan.series_instance_uid, "").encode("ascii")
        pattern = alike.pattern(known, columns, members, address, kept)
        if pattern is None:
            return False
        terms.pattern = ctypes.pointer(kept.hold(pattern))
        self._write_head(entry)
        bulk = scan.bulk[0]
        start = orjson.dumps([bulk.path, bulk.vr])[:-1]
        terms.bulk_before, terms.bulk_before_size = kept.at(b"[" + start + b","), len(start) + 2
        end = b",%d]]" % bulk.length
        terms.bulk_behind, terms.bulk_behind_size = kept.at(end), len(end)
        if entry.frames is not None:
            if len(entry.frames) > len(terms.frames_like):
                return False
            terms.frames_size, terms.frames_at = len(entry.frames), _FRAME_OFFSET
            terms.frames_like[: len(entry.frames)] = list(entry.frames)
        terms.uids[:] = [_PLACES[f"{prefix}_sop_instance_uid"] for prefix in "iac"]
        terms.times[:] = [_PLACES["i_created_at"], _PLACES["a_at"], _PLACES["c_at"]]
        for name in ("row", "digest", "bulk", "frames"):
            setattr(terms, name, _PLACES[f"i_{name}"])
        terms.key, terms.json = _PLACES["i_object_key"], _PLACES["json"]
        terms.offset, terms.length = _PLACES["i_object_offset"], _PLACES["i_object_length"]
        return True

    def _write_head(self, entry: filing.Entry) -> None:
        terms = self.terms
        before, behind = arrival.around(entry.scan.sop_class_uid, entry.transfer_syntax_uid, entry.arrival.source_ae)
        facts = orjson.dumps(replace(entry.arrival, at=0.0)).removesuffix(b"0.0}")
        suffix = arrival.content_suffix(entry.transfer_syntax_uid)
        for name, text in (("before", before), ("behind", behind), ("facts", facts), ("suffix", suffix)):
            setattr(terms, name, self._kept.at(text))
            setattr(terms, f"{name}_size", len(text))

    def _values(self, known: filing.Known) -> list[Any]:
        """All that is told of one that joins, but for what the library sets."""
        told = zip("iac", (filing.instance_row(self.stored.entry, known.study, known.series),
                           *self._parts.news(self.stored, known.scope)), strict=True)  # fmt: skip
        values = {f"{prefix}_{name}": value for prefix, row in told for name, value in row.items()}
        values |= {"series": known.series, "study": known.study}
        return [values.get(name) if wanted else None for name, wanted in _WANTED]

    def _write_row(self, known: filing.Known, kept: Kept) -> None:
        terms, entry, names = self.terms, self.stored.entry, LOOKUP
        scan = entry.scan
        which = {
            "study": scan.study_instance_uid, "series": scan.series_instance_uid, "sop": scan.sop_instance_uid,
            "study_key": known.study, "series_key": known.series,
        }  # fmt: skip
        self._columns, self._before = Columns(self._values(known), self._columns or self._before), None
        columns = self._columns.array
        lookup = kept.hold((Value * len(names))(*(value_of(which[name], kept) for name in names)))
        terms.lookup = lookup
        found = [at for at, name in enumerate(names) if name == "sop"]
        terms.lookup_uids[:] = [*found, *[NOWHERE] * (4 - len(found))]
        terms.joining = structures.Joining(
            lookup, len(lookup), columns, len(columns),
            *(_PLACES[name] for name in ("series_row", "series_instances", "study_row", "study_instances", "last")),
            *(value_of(each, kept) for each in (known.scope, *entry.patient, scan.sop_class_uid)),
        )  # fmt: skip


class Columns:
    """The values of a row for SQLite. Of two rows in a row most are the same, and are not made again."""

    def __init__(self, values: list[Any], before: Columns | None) -> None:
        self._values = values
        self._kept: list[Kept | None]
        self._as_made: bytes
        if before is None:
            self.array: Any = (Value * len(values))()
            self._kept, old = [None] * len(values), [None] * len(values)
        else:
            self.array = (Value * len(values)).from_buffer_copy(before._as_made)
            self._kept, old = before._kept.copy(), before._values
        for at, (value, last) in enumerate(zip(values, old, strict=True)):
            if value is not last and (value != last or value.__class__ is not last.__class__):
                self._kept[at] = kept = Kept()
                self.array[at] = value_of(value, kept)
        self._as_made = bytes(self.array)  # the library writes to the array


def learned(parts: Parts, stored: Prepared, known: Following | None, before: Likeness | None = None) -> Likeness | None:
    """What those that follow have in common with `stored`, which followed the pattern `known`; None for nothing.

    `before` is what those before had in common, if anything.
    """
    pattern = stored.entry.scan.pattern
    if pattern is None or known is None or known.whole.pattern is not pattern:
        return None
    made = Likeness(parts, stored, pattern, before)
    return made if made._written_down(known) else None


def value_of(value: Any, kept: Kept) -> Value:
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
