"""C-FIND identifiers (PS3.4 C.4.1.1): from the peer's bytes to a Query, and from matching rows to bytes.

Pure. Identifiers are read by our own bounded scanner and written by the small encoder here, in any of the four
transfer syntaxes that a context for them may have.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from pacs.dicom import charsets, dictionary, json_model, matching, scanner
from pacs.dicom.attributes import LEVELS, Attribute, Level, by_tag, held, level_of
from pacs.dicom.transfer_syntaxes import TRANSFER_SYNTAXES
from pacs.dicom.values import vrs
from pacs.dimse.datasets import Writer, deflated
from pacs.dimse.negotiation import PATIENT_ROOT_FIND, STUDY_ROOT_FIND
from pacs.errors import DatasetMismatch

MAX_IDENTIFIER_LENGTH: Final = 1 << 20
MAX_KEYS: Final = 256
_LIMITS: Final = scanner.Limits(
    inline_bytes=MAX_IDENTIFIER_LENGTH,
    inline_text_bytes=MAX_IDENTIFIER_LENGTH,
    metadata_bytes=MAX_IDENTIFIER_LENGTH,
    depth=8,
    elements=4096,
    inflated_bytes=MAX_IDENTIFIER_LENGTH,
)

CHARACTER_SET: Final = "00080005"
LEVEL: Final = "00080052"
RETRIEVE_AE_TITLE: Final = "00080054"
INSTANCE_AVAILABILITY: Final = "00080056"
TIMEZONE_OFFSET: Final = "00080201"
_ABOUT_THE_QUERY: Final = frozenset(
    {CHARACTER_SET, LEVEL, "00080053", RETRIEVE_AE_TITLE, INSTANCE_AVAILABILITY, TIMEZONE_OFFSET}
)
_LONG: Final = frozenset(name for name, vr in vrs(True).items() if vr.long)
_COUNTS: Final = frozenset({"00201200", "00201202", "00201204"})  # of a patient: known at that level only
_OFFSET: Final = re.compile(r"[+-]\d{4}")
_NOT_SERVED: Final = frozenset({"00081190"})  # Retrieve URL: only a web client has the address it starts with

UNIQUE_KEYS: Final = {
    Level.PATIENT: "00100020",
    Level.STUDY: "0020000D",
    Level.SERIES: "0020000E",
    Level.IMAGE: "00080018",
}
ROOTS: Final = {PATIENT_ROOT_FIND: LEVELS, STUDY_ROOT_FIND: LEVELS[1:]}


@dataclass(frozen=True, slots=True)
class Wanted:
    """An attribute that the response has to have; `inside` names what is wanted of a sequence's items, empty is all."""

    tag: str
    vr: str
    inside: tuple[Wanted, ...] = ()


@dataclass(frozen=True, slots=True)
class FindRequest:
    """What a C-FIND identifier asks for. `complete` is false where an optional key of it is not supported."""

    level: Level
    keys: tuple[matching.MatchKey, ...]
    wanted: tuple[Wanted, ...]
    complete: bool
    character_set: str = "ISO_IR 192"
    """Defined Term of the character set of the answers, where they fit it."""

    @property
    def include(self) -> frozenset[str]:
        """The tags that rows have to hold."""
        return frozenset(wanted.tag for wanted in self.wanted) - _ABOUT_THE_QUERY


def decode(identifier: bytes | memoryview, transfer_syntax_uid: str) -> dict[str, Any]:
    """The identifier as DICOM JSON model. Raises MalformedDataset, TooLarge.

    Its Specific Character Set is what the peer declared, though the text here is no longer in it.
    """
    found = scanner.read(identifier, transfer_syntax_uid, _LIMITS)
    if CHARACTER_SET in found:
        found[CHARACTER_SET] = {"vr": "CS", "Value": _declared(bytes(identifier), transfer_syntax_uid)}
    return found


def _declared(raw: bytes, transfer_syntax_uid: str) -> list[str]:
    """The values of Specific Character Set in a data set that can be read; [""] where it is not among the first."""
    syntax, at = TRANSFER_SYNTAXES[transfer_syntax_uid], 0
    if syntax.deflated:
        raw = zlib.decompressobj(wbits=-zlib.MAX_WBITS).decompress(raw, 1 << 16)
    order = "<" if syntax.little_endian else ">"
    while at + 8 <= len(raw):
        group, element = struct.unpack_from(f"{order}HH", raw, at)
        if syntax.explicit and raw[at + 4 : at + 6] not in _LONG:
            (length,), head = struct.unpack_from(f"{order}H", raw, at + 6), 8
        else:
            head = 12 if syntax.explicit else 8
            (length,) = struct.unpack_from(f"{order}I", raw.ljust(at + head, b"\0"), at + head - 4)
        if (group, element) >= (0x0008, 0x0005):
            if (group, element) != (0x0008, 0x0005):
                break
            return [term.strip(" \0") for term in raw[at + head : at + head + length].decode("latin-1").split("\\")]
        at += head + length
    return [""]


def understand(
    identifier: Mapping[str, Any],
    sop_class_uid: str,
    *,
    relational: bool,
    options: matching.Options = matching.PLAIN,
) -> FindRequest:
    """What `identifier` asks for under this information model (PS3.4 C.6.1, C.6.2).

    Raises DatasetMismatch where it breaks the model (level, unique keys above it, unless `relational`) and
    InvalidQuery where a key has no meaning. With `relational`, keys of lower levels ask for entities that have such
    a child; the values themselves are of many children and not returned.
    """
    levels = ROOTS[sop_class_uid]
    names = json_model.texts(identifier, LEVEL)
    level = next((level for level in levels if names == [level]), None)
    if level is None:
        raise DatasetMismatch("Query/Retrieve Level is missing or not of this model", about=LEVEL)
    if len(identifier) > MAX_KEYS:
        raise DatasetMismatch(f"more than {MAX_KEYS} keys")
    if not relational:
        for above in levels[: levels.index(level)]:
            _check_unique(identifier, UNIQUE_KEYS[above])
    reader = _Reader(replace(options, offset=offset_of(identifier)))
    asked, complete = list[Wanted](), True
    for tag, entry in identifier.items():
        if int(tag[:4], 16) & 1 or tag in _ABOUT_THE_QUERY:
            if tag in (INSTANCE_AVAILABILITY, TIMEZONE_OFFSET):
                asked.append(Wanted(tag, entry["vr"]))
            complete &= tag in _ABOUT_THE_QUERY  # private keys are optional ones, and neither matched nor returned
            continue
        lower = LEVELS.index(level_of(tag)) > LEVELS.index(level)
        if tag < CHARACTER_SET or tag in _NOT_SERVED or lower or (tag in _COUNTS and level is not Level.PATIENT):
            if lower and relational:
                reader.lower(tag, entry)
            complete = False
            continue
        inside, matched = reader.read(tag, entry)
        row = by_tag(tag)
        asked.append(Wanted(tag, row.vr if row is not None else _vr(tag, entry), inside))
        complete &= matched
    keys = matching.combined(reader.keys) if options.date_and_time else tuple(reader.keys)
    return FindRequest(level, keys, tuple(asked), complete, character_set(identifier))


def offset_of(identifier: Mapping[str, Any]) -> str:
    """The time zone of DT keys that name none (PS3.3 C.12.1.1.8), "" where the identifier says nothing of it."""
    offset = json_model.text(identifier, TIMEZONE_OFFSET) or ""
    return offset if _OFFSET.fullmatch(offset) else ""


def _check_unique(identifier: Mapping[str, Any], tag: str) -> None:
    values = json_model.texts(identifier, tag)
    if len(values) != 1 or not values[0] or "*" in values[0] or "?" in values[0]:
        raise DatasetMismatch("a unique key above the level is missing or not a single value", about=tag)


def character_set(identifier: Mapping[str, Any]) -> str:
    """The one character set without escapes in which the peer asks; UTF-8 in every other case."""
    terms = json_model.texts(identifier, CHARACTER_SET)
    return terms[0] if len(terms) == 1 and charsets.encoder(terms[0]) else "ISO_IR 192"


class _Reader:
    """Reads the keys of an identifier one by one into what they match."""

    def __init__(self, options: matching.Options) -> None:
        self.keys = list[matching.MatchKey]()
        self._options = options

    def read(self, tag: str, entry: Mapping[str, Any]) -> tuple[tuple[Wanted, ...], bool]:
        """What is wanted of a sequence's items, and whether the key is supported."""
        row = by_tag(tag)
        if entry["vr"] == "SQ" or (row is not None and row.vr == "SQ"):
            return self._sequence(tag, entry)
        if row is None and (vr := _vr(tag, entry)) not in matching.UNMATCHED_VRS:
            row = held(tag, vr)
        criterion = self._criterion(row, tag, entry)
        if row is not None and criterion is not None:
            if not isinstance(criterion, matching.Universal):
                self.keys.append(matching.MatchKey(row, criterion))
            return (), True
        return (), False

    def lower(self, tag: str, entry: Mapping[str, Any]) -> None:
        """Take a key of a lower level than is asked for, if a column answers it."""
        row = by_tag(tag)
        criterion = self._criterion(row, tag, entry) if row is not None and row.matchable else None
        if row is not None and criterion is not None and not isinstance(criterion, matching.Universal):
            self.keys.append(matching.MatchKey(row, criterion))

    def _criterion(self, row: Attribute | None, tag: str, entry: Mapping[str, Any]) -> matching.Criterion | None:
        """What the key asks for, None where it cannot be matched."""
        text = "\\".join(json_model.texts({tag: entry}, tag))
        if not text.strip(" \0"):
            return matching.Universal() if not ({"InlineBinary", "BulkDataURI"} & entry.keys()) else None
        return None if row is None else matching.parse(row, text, self._options)

    def _sequence(self, tag: str, entry: Mapping[str, Any]) -> tuple[tuple[Wanted, ...], bool]:
        """A sequence matches by one item that has all the keys of the item given (PS3.4 C.2.2.2.6)."""
        item, inside, complete = _one_item(tag, entry), list[Wanted](), True
        columns, others = list[matching.MatchKey](), list[tuple[str, matching.Criterion]]()
        for inner, value in item.items():
            row = by_tag(f"{tag}.{inner}")
            nested = _vr(inner, value) == "SQ"
            inside.append(Wanted(inner, _vr(inner, value), _wanted_inside(value) if nested else ()))
            criterion = (
                self._item(inner, value)
                if nested
                else self._criterion(row or held(inner, _vr(inner, value)), inner, value)
            )
            if criterion is None:
                complete = False
            elif not isinstance(criterion, matching.Universal):
                others.append((inner, criterion))
                if row is not None:
                    columns.append(matching.MatchKey(row, criterion))
        if others and len(columns) == len(others):
            self.keys += columns
        elif others:
            self.keys.append(matching.MatchKey(by_tag(tag) or held(tag, "SQ"), matching.Item(tuple(others))))
        return tuple(inside), complete

    def _item(self, tag: str, entry: Mapping[str, Any]) -> matching.Criterion | None:
        keys = list[tuple[str, matching.Criterion]]()
        for inner, value in _one_item(tag, entry).items():
            vr = _vr(inner, value)
            found = self._item(inner, value) if vr == "SQ" else self._criterion(held(inner, vr), inner, value)
            if found is None:
                return None
            if not isinstance(found, matching.Universal):
                keys.append((inner, found))
        return matching.Item(tuple(keys)) if keys else matching.Universal()


def _one_item(tag: str, entry: Mapping[str, Any]) -> Mapping[str, Any]:
    items: list[Mapping[str, Any]] = entry.get("Value") or []
    if len(items) > 1:
        raise DatasetMismatch("a sequence key has more than one item", about=tag)
    return items[0] if items else {}


def wanted(identifier: Mapping[str, Any]) -> tuple[Wanted, ...]:
    """What the keys of an identifier, or of one item, ask to be returned; private ones ask for nothing."""
    asked = ((tag, entry) for tag, entry in identifier.items() if tag > CHARACTER_SET and not int(tag[:4], 16) & 1)
    return tuple(Wanted(tag, _vr(tag, entry), _wanted_inside(entry)) for tag, entry in asked)


def _wanted_inside(entry: Mapping[str, Any]) -> tuple[Wanted, ...]:
    return wanted((entry.get("Value") or [{}])[0]) if entry["vr"] == "SQ" else ()


def _vr(tag: str, entry: Mapping[str, Any]) -> str:
    spelled = dictionary.vr(int(tag, 16)) or str(entry["vr"])
    return spelled if len(spelled) == 2 else str(entry["vr"])


class ResponseEncoder:
    """Encodes matching rows as the identifiers of one C-FIND's pending responses, in one transfer syntax.

    Text is in the character set of the request where that is a single one without escapes and can say it, else UTF-8.
    """

    def __init__(self, request: FindRequest, transfer_syntax_uid: str, ae_title: str = "") -> None:
        """`ae_title` is that of the archive, for entities that can be retrieved from it; empty for others."""
        known = {LEVEL: ("CS", request.level.value), RETRIEVE_AE_TITLE: ("AE", ae_title)} if ae_title else {}
        if ae_title and any(wanted.tag == INSTANCE_AVAILABILITY for wanted in request.wanted):
            known[INSTANCE_AVAILABILITY] = ("CS", "ONLINE")
        self._deflated = TRANSFER_SYNTAXES[transfer_syntax_uid].deflated
        self._term = request.character_set
        self._writers = (
            Writer(transfer_syntax_uid, charsets.encoder(self._term) or "utf-8"), Writer(transfer_syntax_uid)
        )  # fmt: skip
        fixed = {tag: self._writers[1].element(tag, {"vr": vr, "Value": [text]}) for tag, (vr, text) in known.items()}
        asked = {wanted.tag: wanted for wanted in request.wanted if wanted.tag not in fixed}
        self._plan: list[bytes | Wanted] = [fixed.get(tag) or asked[tag] for tag in sorted(fixed.keys() | asked.keys())]

    def encode(self, attributes: Mapping[str, Any]) -> bytes:
        """The response identifier for one match, from its DICOM JSON: what was asked for, empty where unknown."""
        try:
            raw = self._encoded(attributes, self._writers[0], self._term)
        except UnicodeEncodeError:
            raw = self._encoded(attributes, self._writers[1], "ISO_IR 192")
        return deflated(raw) if self._deflated else raw

    def _encoded(self, attributes: Mapping[str, Any], writer: Writer, term: str) -> bytes:
        parts = list[bytes]()
        writer.ascii = True
        for step in self._plan:
            if isinstance(step, bytes):
                parts.append(step)
                continue
            found = attributes.get(step.tag)
            if step.tag == TIMEZONE_OFFSET and not (found or {}).get("Value"):
                continue  # PS3.4 C.4.1.1.3.2: never of zero length
            parts.append(writer.element(step.tag, _selected(found, step)))
        if not writer.ascii:  # PS3.4 C.4.1.1.3.2: included only where it is needed; no key comes before it
            parts.insert(0, writer.element(CHARACTER_SET, {"vr": "CS", "Value": [term]}))
        return b"".join(parts)


def _selected(found: Mapping[str, Any] | None, wanted: Wanted) -> Mapping[str, Any]:
    """`found` cut down to what is wanted of it; an attribute without value where there is nothing to give."""
    if not found or not ({"Value", "InlineBinary"} & found.keys()):
        return {"vr": wanted.vr}
    if found["vr"] != "SQ" or not wanted.inside:
        return found
    return {
        "vr": "SQ",
        "Value": [{each.tag: _selected(item.get(each.tag), each) for each in wanted.inside} for item in found["Value"]],
    }
