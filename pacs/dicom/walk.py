"""The pass over the bytes of a data set nobody vouches for: one iterative walk with caps (PS3.5 section 7, A.4)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from pacs.dicom import dictionary
from pacs.dicom.charsets import Decoder, decoder
from pacs.dicom.json_model import BulkRef
from pacs.dicom.transfer_syntaxes import TransferSyntax
from pacs.dicom.values import VR, inline_binary, vrs
from pacs.errors import MalformedDataset, TooLarge

_UNDEFINED: Final = 0xFFFFFFFF
_PIXEL_DATA: Final = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))
_LOOKUP_TABLES: Final = frozenset((0x00283006, *range(0x00281201, 0x00281204), *range(0x00281221, 0x00281224)))
_LOOKUP_TABLE_BYTES: Final = 1 << 17
_CHARACTER_SET: Final = 0x00080005
_SPECIAL: Final = _PIXEL_DATA | {_CHARACTER_SET}
WINDOW: Final = 32 << 10
"""What is walked as bytes, whose slices cost half of a view's; the header of most objects fits."""
FIRST: Final = 0x0002FFFF
"""Below every tag that may be in a data set."""
_PIXEL_REPRESENTATION: Final = "00280103"
_ITEM: Final = 0xFFFEE000
_ITEM_DELIMITER: Final = 0xFFFEE00D
_SEQUENCE_DELIMITER: Final = 0xFFFEE0DD
_ITEM_BYTES: Final = b"\xfe\xff\x00\xe0"

_US_OR_SS: Final = VR("US", False, vrs(True)[b"US"].read, swap=2, width=2)
"""Not yet decided: Pixel Representation will tell (PS3.6; in implicit data sets only)."""
_CHOICES: Final = {"OB or OW": b"OW", "US or OW": b"OW", "US or SS or OW": b"OW"}
"""PS3.5 annex A.1: implicit pixel, overlay and lookup table data are OW."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a data set may cost."""

    inline_bytes: int = 1024
    """Longer values become bulk data; pixel data always does."""
    inline_text_bytes: int = 1 << 16
    """The same for text, which clients expect to find in place."""
    metadata_bytes: int = 64 << 20
    """What is held inline, all values together; each element and item counts as its share of so many bytes."""
    elements: int = 1_000_000
    depth: int = 64
    inflated_bytes: int = 4 << 30


DEFAULT_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class BulkValue:
    """A value kept out of the metadata: `length` bytes at `offset` of the (inflated) data set, as they are there.

    For encapsulated pixel data these are its items, offset table first, without the sequence delimiter (PS3.5 A.4).
    """

    path: str
    vr: str
    offset: int
    length: int


@dataclass(slots=True)
class _Level:
    """An open sequence, with the state of the data set around it to come back to."""

    elements: dict[str, Any]
    last: int
    ordered: bool
    end: int
    undefined: bool
    prefix: str
    decode: Decoder
    explicit: bool
    little: bool
    entry: dict[str, Any]
    items: list[dict[str, Any]]
    sequence_end: int
    sequence_undefined: bool
    path: str


@dataclass(slots=True)
class Begun:
    """A walk as it stands before a top-level element: what came before it is known, and nothing of it is bulk data."""

    elements: dict[str, Any]
    position: int
    last: int
    decode: Decoder
    budget: int
    """What is left for the metadata."""


Mark = tuple[int, int, str, "Row | None", int]
"""Where a top-level element begins, its tag and digits; its row where it is a plain one; the budget left before it."""


def _malformed(reason: str, tag: int, at: int) -> MalformedDataset:
    return MalformedDataset(f"{reason} at offset {at}", about=f"{tag:08X}")


def _too_much(limits: Limits) -> TooLarge:
    return TooLarge(f"metadata beyond {limits.elements} elements or {limits.metadata_bytes} bytes")


class Walk:
    """The state of one pass."""

    def __init__(
        self, data: memoryview, syntax: TransferSyntax, limits: Limits, marks: list[Mark] | None = None
    ) -> None:
        """`marks` is told where each top-level element begins."""
        self.data = data
        self.marks = marks
        self.ordered = True
        """Whether the top-level elements came in ascending order."""
        self.decode = decoder(())
        """What reads text at the top level."""
        self.syntax = syntax
        self.limits = limits
        self.bulk: list[BulkValue] = []
        self.pixels: BulkValue | None = None
        """Top-level pixel data, native or encapsulated."""
        self.offset_table: tuple[int, ...] = ()
        self.fragments: list[int] = []
        self.first_fragment = 0
        self.either: list[tuple[dict[str, Any], bytes, list[dict[str, Any]]]] = []
        """Elements that are US or SS: their entry, bytes, and the data sets around them, innermost first."""

    def run(self, begun: Begun | None = None) -> dict[str, Any]:
        """The metadata of the whole data set. One long function on purpose: this loop is what ingest waits for."""
        data, limits, marks = self.data, self.limits, self.marks
        inline_bytes, inline_text_bytes = limits.inline_bytes, limits.inline_text_bytes
        names = dictionary.names()
        explicit, little = self.syntax.explicit, self.syntax.little_endian
        known, bare, uint32 = _layout(little)
        header, tag_of, plain, unusual = plain_of(explicit, little, inline_bytes, inline_text_bytes)
        size = len(data)
        source: Any = data if begun is not None else bytes(data[:WINDOW])
        near, reach = begun is None, len(source)
        stack: list[_Level] = []
        root: dict[str, Any] = {}
        elements = root
        last, ordered, prefix, decode = FIRST, True, "", decoder(())
        position, end, undefined = 0, size, False
        budget, cost = limits.metadata_bytes, limits.metadata_bytes // limits.elements
        if begun is not None:
            elements = root = begun.elements
            position, last, decode, budget = begun.position, begun.last, begun.decode, begun.budget
        marked = None if marks is None else root
        while True:
            opened = False
            while position < end:
                start = position + 8
                if start > reach and near:
                    source, near, reach = data, False, size
                try:
                    first, length = header(source, position)
                except struct.error:
                    raise MalformedDataset(f"{end - position} bytes at offset {position} are no element") from None
                row = plain(first) or unusual(first)
                if row is not None:
                    # Most elements: in order, small, of a VR with 16-bit length. Whatever is odd goes the long way.
                    tag, key, name, reader, limit = row
                    stop = start + length
                    if last < tag and stop <= end and length <= limit:
                        if stop > reach:
                            source, near, reach = data, False, size
                        budget -= cost + length
                        if budget < 0:
                            raise _too_much(limits)
                        try:
                            piece = source[start:stop]
                            values = reader(piece if near else piece.tobytes(), decode) if length else None
                            elements[key] = {"vr": name, "Value": values} if values else {"vr": name}
                            if elements is marked and marks is not None:
                                marks.append((position, tag, key, row, budget + cost + length))
                            last, position = tag, stop
                            continue
                        except struct.error:
                            pass
                group, number = tag_of(first)
                letters = first[4:]
                tag = group << 16 | number
                if end - position < 8:
                    raise MalformedDataset(f"{end - position} bytes at offset {position} are no element")
                if group == 0xFFFE:
                    if tag == _ITEM_DELIMITER and undefined:
                        position += 8
                        undefined, end = False, position
                        break
                    raise _malformed("item or delimiter out of place", tag, position)
                budget -= cost
                if budget < 0:
                    raise _too_much(limits)
                as_implicit = False
                vr = known.get(letters) if explicit else None
                if vr is None:
                    vr, length, start, as_implicit = self._unnamed(tag, letters, explicit, little, position, end)
                elif vr.long:
                    start = position + 12
                    if start > end:
                        raise _malformed("element cut off", tag, position)
                    (length,) = uint32(data, position + 8)
                    if vr.name == "UN" and little:
                        vr, as_implicit = self._resolved(tag, vr, length, start, end)
                else:
                    start = position + 8
                key = names[tag]
                if elements is marked and marks is not None:
                    marks.append((position, tag, key, None, budget + cost))
                if tag <= last:
                    ordered = ordered and last == FIRST
                    if key in elements:
                        raise _malformed("element given twice", tag, position)
                last = tag
                if group == 0 or group == 2:
                    raise _malformed("command or File Meta element inside a data set", tag, position)
                if length == _UNDEFINED:
                    if vr.name == "UN":
                        vr, as_implicit = known[b"SQ"], True
                    elif vr.name != "SQ":
                        if not self.syntax.encapsulated or vr.name not in ("OB", "OW"):
                            raise _malformed(f"undefined length with VR {vr.name}", tag, position)
                        elements[key] = {"vr": vr.name, "BulkDataURI": BulkRef(prefix + key)}
                        position = self._encapsulated(tag, vr.name, prefix + key, start, end)
                        continue
                elif length > end - start:
                    raise _malformed(f"length {length} runs past the {end - start} bytes that are left", tag, position)
                elif vr.name != "SQ" or length == 0:
                    position = start + length
                    if number == 0:  # group length, retired (PS3.5 7.2)
                        pass
                    elif length == 0:
                        elements[key] = {"vr": vr.name}
                    elif tag in _PIXEL_DATA or (
                        length > inline_bytes
                        and not (vr.text and length <= inline_text_bytes)
                        and not (tag in _LOOKUP_TABLES and length <= _LOOKUP_TABLE_BYTES)
                    ):
                        value = BulkValue(prefix + key, vr.name, start, length)
                        self.bulk.append(value)
                        elements[key] = {"vr": vr.name, "BulkDataURI": BulkRef(value.path)}
                        if tag in _PIXEL_DATA and not stack:
                            self._native(value)
                    else:
                        budget -= length
                        raw = data[start:position].tobytes()
                        read = vr.read
                        if read is None:
                            elements[key] = {"vr": vr.name, "InlineBinary": inline_binary(raw, vr.swap, little)}
                        elif length % vr.width:
                            elements[key] = {"vr": "UN", "InlineBinary": inline_binary(raw, 1, little)}
                        else:
                            values = read(raw, decode)
                            if tag == _CHARACTER_SET:
                                decode = decoder(tuple(str(value or "") for value in values or ()))
                                values = values and ["ISO_IR 192"]  # what the JSON itself is in (PS3.18 F.2)
                            elements[key] = entry = {"vr": vr.name, "Value": values} if values else {"vr": vr.name}
                            if vr is _US_OR_SS:
                                around = [elements, *(level.elements for level in reversed(stack))]
                                self.either.append((entry, raw, around))
                    continue
                # A sequence opens.
                if len(stack) >= limits.depth:
                    raise _malformed(f"sequences nested deeper than {limits.depth}", tag, position)
                items: list[dict[str, Any]] = []
                elements[key] = entry = {"vr": "SQ", "Value": items}
                open_ended = length == _UNDEFINED
                stack.append(
                    _Level(
                        elements, last, ordered, end, undefined, prefix, decode, explicit, little, entry, items,
                        end if open_ended else start + length, open_ended, prefix + key,
                    )
                )  # fmt: skip
                if as_implicit:
                    explicit, little = False, True
                    known, bare, uint32 = _layout(little)
                    header, tag_of, plain, unusual = plain_of(explicit, little, inline_bytes, inline_text_bytes)
                position, opened = start, True
                break
            if not opened:
                # A data set, or an item of a sequence, is complete.
                if undefined:
                    raise MalformedDataset(f"item without a delimiter at offset {position}")
                if not ordered:
                    elements = dict(sorted(elements.items()))
                    if stack:
                        stack[-1].items[-1] = elements
                    else:
                        root = elements
                if not stack:
                    self.ordered, self.decode = ordered, decode
                    break
            # A sequence goes on with its next item, or ends.
            level = stack[-1]
            more = position < level.sequence_end
            if more:
                if level.sequence_end - position < 8:
                    raise MalformedDataset(f"sequence ends inside an item header at offset {position}", about=key)
                group, number, length = bare(data, position)
                position += 8
                if group == 0xFFFE and number == 0xE000:
                    budget -= cost
                    if budget < 0:
                        raise _too_much(limits)
                    undefined = length == _UNDEFINED
                    end = level.sequence_end if undefined else position + length
                    if end > level.sequence_end:
                        raise MalformedDataset(
                            f"item of {length} bytes at offset {position - 8} runs past its sequence"
                        )
                    elements, last, ordered, decode = {}, FIRST, True, level.decode
                    level.items.append(elements)
                    prefix = f"{level.path}/{len(level.items)}/"
                elif group == 0xFFFE and number == 0xE0DD and level.sequence_undefined:
                    more = False
                else:
                    raise _malformed("neither item nor delimiter in a sequence", group << 16 | number, position - 8)
            elif level.sequence_undefined:
                raise MalformedDataset(f"sequence without a delimiter at offset {position}")
            if not more:
                stack.pop()
                if not level.items:
                    del level.entry["Value"]
                elements, last, ordered, end, undefined = (
                    level.elements, level.last, level.ordered, level.end, level.undefined
                )  # fmt: skip
                prefix, decode = level.prefix, level.decode
                if (explicit, little) != (level.explicit, level.little):
                    explicit, little = level.explicit, level.little
                    known, bare, uint32 = _layout(little)
                    header, tag_of, plain, unusual = plain_of(explicit, little, inline_bytes, inline_text_bytes)
        self._decide()
        return root

    def _unnamed(
        self, tag: int, letters: bytes, explicit: bool, little: bool, position: int, end: int
    ) -> tuple[VR, int, int, bool]:
        """VR, length, start of the value and whether a sequence in it is implicit, where no known VR is written."""
        known, _, uint32 = _layout(little)
        if explicit and letters.isalpha() and letters.isupper():
            # PS3.5 7.1.2: VRs still to come have 32-bit lengths.
            if end - position < 12:
                raise _malformed("element cut off", tag, position)
            return known[b"UN"], uint32(self.data, position + 8)[0], position + 12, False
        # Some writers fall back to implicit elements inside explicit data sets; so do readers then.
        (length,) = uint32(self.data, position + 4)
        vr = self._resolved(tag, known[b"UN"], length, position + 8, end)[0] if little else known[b"UN"]
        return vr, length, position + 8, explicit

    def _resolved(self, tag: int, unknown: VR, length: int, start: int, end: int) -> tuple[VR, bool]:
        """The dictionary's VR for an element whose VR is not written or is UN, and whether its items are implicit."""
        spelled = dictionary.vr(tag)
        if spelled is None:
            return unknown, True
        if spelled == "SQ" and length != _UNDEFINED and length and bytes(self.data[start : start + 4]) != _ITEM_BYTES:
            return unknown, True
        if spelled == "US or SS":
            return _US_OR_SS, True
        return vrs(True).get(_CHOICES.get(spelled) or spelled.encode("ascii"), unknown), True

    def _decide(self) -> None:
        """Settles US or SS by the Pixel Representation of the nearest data set that has one."""
        signed = vrs(True)[b"SS"].read
        for entry, raw, around in self.either:
            near = next((each[_PIXEL_REPRESENTATION] for each in around if _PIXEL_REPRESENTATION in each), None)
            if near is not None and near.get("Value") == [1] and signed is not None:
                entry["vr"], entry["Value"] = "SS", signed(raw, decoder(()))

    def _native(self, value: BulkValue) -> None:
        if self.syntax.encapsulated:
            raise _malformed("pixel data of defined length in an encapsulated syntax", 0x7FE00010, value.offset)
        self.pixels = self.pixels or value

    def _encapsulated(self, tag: int, vr: str, path: str, start: int, end: int) -> int:
        """Walks the fragments of one value (PS3.5 A.4) and notes them; the position behind its delimiter."""
        position = start
        lengths: list[int] = []
        unpack = struct.Struct("<HHI").unpack_from
        while True:
            if end - position < 8:
                raise _malformed("encapsulated value without a delimiter", tag, position)
            group, number, length = unpack(self.data, position)
            position += 8
            if group << 16 | number == _SEQUENCE_DELIMITER:
                break
            if group << 16 | number != _ITEM:
                raise _malformed("neither fragment nor delimiter in an encapsulated value", tag, position - 8)
            if length > end - position:
                raise _malformed(f"fragment of {length} bytes runs past the end", tag, position - 8)
            if len(lengths) > self.limits.elements:
                raise TooLarge(f"more than {self.limits.elements} fragments")
            lengths.append(length)
            position += length
        value = BulkValue(path, vr, start, position - 8 - start)
        self.bulk.append(value)
        if path in ("7FE00010", "7FE00008", "7FE00009"):
            if not lengths:
                raise _malformed("encapsulated pixel data without an offset table item", tag, start)
            entries = lengths[0] // 4
            self.pixels = value
            self.offset_table = struct.unpack_from(f"<{entries}I", self.data, start + 8)
            self.fragments = lengths[1:]
            self.first_fragment = start + 8 + lengths[0] + 8
        return position


@cache
def _layout(little: bool) -> tuple[dict[bytes, VR], Callable[..., Any], Callable[..., Any]]:
    """VRs by letters, and the readers of an item header and of a length."""
    order = "<" if little else ">"
    return vrs(little), struct.Struct(order + "HHI").unpack_from, struct.Struct(order + "I").unpack_from


Row = tuple[int, str, str, Callable[..., Any], int]
"""Tag, its digits, VR, reader and largest inline length."""


@cache
def plain_of(
    explicit: bool, little: bool, inline_bytes: int, inline_text_bytes: int
) -> tuple[Callable[..., Any], Callable[..., Any], Callable[[bytes], Row | None], Callable[[bytes], Row | None]]:
    """How an element is told by its first bytes: tag and VR, or in implicit data sets the tag.

    The readers of a header (first bytes and length) and of the tag in it; then what knows the elements with a VR of
    16-bit length (in implicit ones: of just one VR), from a table for attributes of the dictionary, or for any tag.
    What neither knows is for others to judge.
    """
    order = "<" if little else ">"
    header, tag_of = struct.Struct(order + ("6sH" if explicit else "4sI")), struct.Struct(order + "HH")
    rows = {
        letters: (vr.name, vr.read, inline_text_bytes if vr.text else inline_bytes)
        for letters, vr in vrs(little).items()
        if vr.read is not None and not (explicit and vr.long)
    }
    names = dictionary.names()
    table: dict[bytes, Row] = {}
    for tag, key in names.items():
        letters = str(dictionary.vr(tag)).encode("ascii")
        if letters in rows and FIRST < tag < 0xFFFE0000 and tag & 0xFFFF and tag not in _SPECIAL:
            table[tag_of.pack(tag >> 16, tag & 0xFFFF) + (letters if explicit else b"")] = (tag, key, *rows[letters])

    def unusual(first: bytes) -> Row | None:
        if not explicit or first[4:] not in rows:
            return None
        group, number = tag_of.unpack_from(first)
        tag = group << 16 | number
        if not number or tag >= 0xFFFE0000 or tag in _SPECIAL:
            return None
        return tag, names[tag], *rows[first[4:]]

    return header.unpack_from, tag_of.unpack_from, table.get, unusual


def warm() -> None:
    """Make the tables of the usual transfer syntaxes now, which the first data set would wait for (50 ms)."""
    for explicit in (True, False):
        plain_of(explicit, True, DEFAULT_LIMITS.inline_bytes, DEFAULT_LIMITS.inline_text_bytes)
