"""C-FIND identifiers (PS3.4 C.4.1.1): from the peer's bytes to a Query, and from matching rows to bytes.

Pure. Identifiers are read by our own bounded scanner and written by the small encoder here, in any of the four
transfer syntaxes that a context for them may have.
"""

from __future__ import annotations

import struct
import zlib
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pacs.dicom import dictionary, json_model, matching, scanner
from pacs.dicom.attributes import LEVELS, Attribute, Level, by_tag, level_of
from pacs.dicom.transfer_syntaxes import TRANSFER_SYNTAXES
from pacs.dicom.values import swapped, vrs
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

    @property
    def include(self) -> frozenset[str]:
        """The tags that rows have to hold."""
        return frozenset(wanted.tag for wanted in self.wanted) - _ABOUT_THE_QUERY


def decode(identifier: bytes | memoryview, transfer_syntax_uid: str) -> dict[str, Any]:
    """The identifier as DICOM JSON model. Raises MalformedDataset, TooLarge."""
    return scanner.read(identifier, transfer_syntax_uid, _LIMITS)


def understand(identifier: Mapping[str, Any], sop_class_uid: str, *, relational: bool) -> FindRequest:
    """What `identifier` asks for under this information model (PS3.4 C.6.1, C.6.2).

    Raises DatasetMismatch where it breaks the model (level, unique keys above it, unless `relational`) and
    InvalidQuery where a key has no meaning.
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
    keys, wanted, complete = list[matching.MatchKey](), list[Wanted](), True
    for tag, entry in identifier.items():
        if int(tag[:4], 16) & 1 or tag in _ABOUT_THE_QUERY:
            if tag in (INSTANCE_AVAILABILITY, TIMEZONE_OFFSET):
                wanted.append(Wanted(tag, entry["vr"]))
            continue
        row = by_tag(tag)
        if tag < CHARACTER_SET or tag in _NOT_SERVED or LEVELS.index(level_of(tag)) > LEVELS.index(level):
            complete = False
            continue
        if entry["vr"] == "SQ" or (row is not None and row.vr == "SQ"):
            inside, matched = _sequence(tag, entry, keys)
            wanted.append(Wanted(tag, "SQ", inside))
            complete &= matched
            continue
        wanted.append(Wanted(tag, row.vr if row is not None else _vr(tag, entry)))
        complete &= _match(row, entry, tag, keys)
    return FindRequest(level, tuple(keys), tuple(wanted), complete)


def _check_unique(identifier: Mapping[str, Any], tag: str) -> None:
    values = json_model.texts(identifier, tag)
    if len(values) != 1 or not values[0] or "*" in values[0] or "?" in values[0]:
        raise DatasetMismatch("a unique key above the level is missing or not a single value", about=tag)


def _match(row: Attribute | None, entry: Mapping[str, Any], tag: str, keys: list[matching.MatchKey]) -> bool:
    """Add the key if it matches something; whether it is supported."""
    text = "\\".join(json_model.texts({tag: entry}, tag))
    if not text.strip(" \0"):
        return True
    if row is None or not row.matchable:
        return False
    criterion = matching.parse(row, text)
    if not isinstance(criterion, matching.Universal):
        keys.append(matching.MatchKey(row, criterion))
    return True


def _sequence(tag: str, entry: Mapping[str, Any], keys: list[matching.MatchKey]) -> tuple[tuple[Wanted, ...], bool]:
    """What is wanted of a sequence, and whether its keys are supported (PS3.4 C.2.2.2.6: one item at most)."""
    items = entry.get("Value") or []
    if len(items) > 1:
        raise DatasetMismatch("a sequence key has more than one item", about=tag)
    inside, complete = list[Wanted](), True
    for inner, value in (items[0] if items else {}).items():
        row = by_tag(f"{tag}.{inner}")
        inside.append(Wanted(inner, row.vr if row is not None else _vr(inner, value)))
        complete &= value["vr"] != "SQ" and _match(row, value, inner, keys)
    return tuple(inside), complete


def _vr(tag: str, entry: Mapping[str, Any]) -> str:
    spelled = dictionary.vr(int(tag, 16)) or str(entry["vr"])
    return spelled if len(spelled) == 2 else str(entry["vr"])


class ResponseEncoder:
    """Encodes matching rows as the identifiers of one C-FIND's pending responses, in one transfer syntax."""

    def __init__(self, request: FindRequest, transfer_syntax_uid: str, ae_title: str) -> None:
        self._syntax = TRANSFER_SYNTAXES[transfer_syntax_uid]
        self._order = "<" if self._syntax.little_endian else ">"
        self._ascii = True
        known = {LEVEL: ("CS", request.level.value), RETRIEVE_AE_TITLE: ("AE", ae_title)}
        if any(wanted.tag == INSTANCE_AVAILABILITY for wanted in request.wanted):
            known[INSTANCE_AVAILABILITY] = ("CS", "ONLINE")
        fixed = {tag: self._element(tag, {"vr": vr, "Value": [text]}) for tag, (vr, text) in known.items()}
        asked = {wanted.tag: wanted for wanted in request.wanted if wanted.tag not in fixed}
        self._plan: list[bytes | Wanted] = [fixed.get(tag) or asked[tag] for tag in sorted(fixed.keys() | asked.keys())]
        self._character_set = self._element(CHARACTER_SET, {"vr": "CS", "Value": ["ISO_IR 192"]})

    def encode(self, attributes: Mapping[str, Any]) -> bytes:
        """The response identifier for one match, from its DICOM JSON: what was asked for, empty where unknown."""
        parts = list[bytes]()
        self._ascii = True
        for step in self._plan:
            if isinstance(step, bytes):
                parts.append(step)
                continue
            found = attributes.get(step.tag)
            if step.tag == TIMEZONE_OFFSET and not (found or {}).get("Value"):
                continue  # PS3.4 C.4.1.1.3.2: never of zero length
            parts.append(self._element(step.tag, _selected(found, step)))
        if not self._ascii:  # PS3.4 C.4.1.1.3.2: included only where it is needed; no key comes before it
            parts.insert(0, self._character_set)
        raw = b"".join(parts)
        if self._syntax.deflated:
            deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
            raw = deflate.compress(raw) + deflate.flush()
            raw += b"\0" * (len(raw) & 1)
        return raw

    def _dataset(self, elements: Mapping[str, Any]) -> bytes:
        return b"".join(self._element(tag, elements[tag]) for tag in sorted(elements))

    def _element(self, tag: str, entry: Mapping[str, Any]) -> bytes:
        order, vr = self._order, str(entry["vr"])
        if vr == "SQ":
            raw = b"".join(
                struct.pack(f"{order}HHI", 0xFFFE, 0xE000, len(item)) + item
                for item in map(self._dataset, entry.get("Value") or ())
            )
        else:
            raw = _value(vr, tag, entry, order)
            self._ascii &= vr not in _TEXT_VRS or raw.isascii()
        group, element = int(tag[:4], 16), int(tag[4:], 16)
        if not self._syntax.explicit:
            return struct.pack("<HHI", group, element, len(raw)) + raw
        if vr not in _LONG_VRS and len(raw) > 0xFFFE:
            vr = "UN"  # PS3.5 6.2.2: what does not fit a 16-bit length
        head = struct.pack(f"{order}HH2s", group, element, vr.encode("ascii"))
        length = struct.pack(f"{order}2xI", len(raw)) if vr in _LONG_VRS else struct.pack(f"{order}H", len(raw))
        return head + length + raw


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


_TEXT_VRS: Final = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
_LONG_VRS: Final = frozenset(vr.name for vr in vrs(True).values() if vr.long)
_NUMBERS: Final[dict[str, tuple[str, Callable[[Any], int | float]]]] = {
    "US": ("H", int), "SS": ("h", int), "UL": ("I", int), "SL": ("i", int), "UV": ("Q", int), "SV": ("q", int),
    "FL": ("f", float), "FD": ("d", float),
}  # fmt: skip


def _value(vr: str, tag: str, entry: Mapping[str, Any], order: str) -> bytes:
    """The bytes of a DICOM JSON value, padded to even length (PS3.5 6.2)."""
    if "InlineBinary" in entry:
        raw = b64decode(entry["InlineBinary"])
        unit = vrs(True)[vr.encode("ascii")].swap
        return swapped(raw, unit) if order == ">" and unit > 1 else raw
    values = entry.get("Value") or ()
    if not values:
        return b""
    if vr in _NUMBERS:
        code, number = _NUMBERS[vr]
        return struct.pack(f"{order}{len(values)}{code}", *map(number, values))
    if vr == "AT":
        return b"".join(struct.pack(f"{order}HH", int(value[:4], 16), int(value[4:], 16)) for value in values)
    first = values[0]
    text = first if len(values) == 1 and isinstance(first, str) else "\\".join(json_model.texts({tag: entry}, tag))
    raw = text.encode("utf-8")
    return raw + (b"\0" if vr == "UI" else b" ") * (len(raw) & 1)
