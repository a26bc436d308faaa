"""Attributes corrected on the way out: stored bytes stay as they came, what leaves says what was before.

A revision sets or removes top-level attributes; each leaves an item in the Original Attributes Sequence (0400,0561)
with the values of that very instance before it, by whom and when (PS3.3 C.12.1.1.9). The same is done to metadata
(`applied`) and to bytes (`corrected`), of which only the front, up to (0400,0561), is touched.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from pacs.dicom import json_model
from pacs.dicom.charsets import decoder
from pacs.dicom.deflated import inflate
from pacs.dicom.json_model import BulkRef
from pacs.dicom.transfer_syntaxes import EXPLICIT_LITTLE_ENDIAN, TRANSFER_SYNTAXES, TransferSyntax
from pacs.dicom.values import vrs
from pacs.dicom.walk import DEFAULT_LIMITS
from pacs.errors import MalformedDataset

ORIGINAL_ATTRIBUTES: Final = "04000561"
REASON: Final = "CORRECT"
"""Reason for the Attribute Modification (0400,0565): replaced because it was wrong (PS3.3 C.12.1.1.9)."""

_ORIGINAL: Final = 0x04000561
_CHARACTER_SET: Final = 0x00080005
_BEFORE_PIXELS: Final = 0x7FDFFFFF
_UNDEFINED: Final = 0xFFFFFFFF
_WINDOW: Final = 1 << 14
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UTF8: Final = "ISO_IR 192"


@dataclass(frozen=True, slots=True)
class Revision:
    """One correction as it applies to a study: `changes` is tag to its DICOM JSON, or None for one that goes."""

    id: int
    at: float
    system: str
    """Modifying System (0400,0563): who made it, at most 64 characters."""
    changes: Mapping[str, Mapping[str, Any] | None]

    def modified_at(self) -> str:
        """Attribute Modification DateTime (0400,0562), in UTC."""
        return f"{datetime.fromtimestamp(self.at, UTC):%Y%m%d%H%M%S.%f}+0000"


def dumps(revisions: Iterable[Revision]) -> bytes:
    """The revisions as JSON, for the index."""
    return orjson.dumps([{"id": r.id, "at": r.at, "system": r.system, "changes": r.changes} for r in revisions])


def loads(raw: bytes | None) -> tuple[Revision, ...]:
    """The revisions out of the index; none for None."""
    return () if raw is None else tuple(Revision(**each) for each in orjson.loads(raw))


def merged(revisions: Iterable[Revision]) -> dict[str, Mapping[str, Any] | None]:
    """What holds after all of them, for every tag that one of them changed."""
    found: dict[str, Mapping[str, Any] | None] = {}
    for revision in revisions:
        found |= revision.changes
    return found


def applied(metadata: Mapping[str, Any], revisions: Sequence[Revision], source: str = "") -> dict[str, Any]:
    """DICOM JSON metadata after the revisions, ascending. `source` is Source of Previous Values (0400,0564)."""
    found = dict(metadata)
    for revision in revisions:
        before = {tag: found[tag] for tag, new in revision.changes.items() if tag in found and found[tag] != new}
        changed = bool(before)
        for tag, new in revision.changes.items():
            if new is None:
                found.pop(tag, None)
            elif found.get(tag) != new:
                found[tag] = dict(new)
                changed = True
        if changed:
            item = _facts(revision, source) | {"04000550": {"vr": "SQ", "Value": [dict(sorted(before.items()))]}}
            held = found.get(ORIGINAL_ATTRIBUTES, {}).get("Value", [])
            found[ORIGINAL_ATTRIBUTES] = {"vr": "SQ", "Value": [*held, dict(sorted(item.items()))]}
    return dict(sorted(found.items()))


def applied_json(raw: bytes, revisions: Sequence[Revision], source: str = "") -> bytes:
    """`applied` for stored metadata, in which the byte 0xFF stands for the instance's own address."""
    metadata = orjson.loads(raw.replace(json_model.HERE, b""))
    _refer(metadata)
    return json_model.dumps(applied(metadata, revisions, source))


def _refer(metadata: dict[str, Any]) -> None:
    """Make the addresses of bulk data again what they were before they were text."""
    for entry in metadata.values():
        uri = entry.get("BulkDataURI")
        if isinstance(uri, str) and uri.startswith("/bulkdata/"):
            entry["BulkDataURI"] = BulkRef(uri.removeprefix("/bulkdata/"))
        elif entry.get("vr") == "SQ":
            for item in entry.get("Value", ()):
                _refer(item)


def _facts(revision: Revision, source: str) -> dict[str, dict[str, Any]]:
    source = source.strip()
    return {
        "04000562": {"vr": "DT", "Value": [revision.modified_at()]},
        "04000563": {"vr": "LO", "Value": [revision.system[:64]]},
        "04000564": {"vr": "LO", "Value": [source]} if source else {"vr": "LO"},
        "04000565": {"vr": "CS", "Value": [REASON]},
    }


def corrected(
    pieces: Iterable[bytes], transfer_syntax_uid: str, revisions: Sequence[Revision], source: str = ""
) -> Iterator[bytes]:
    """The data set after the revisions, in the same transfer syntax, in pieces.

    Elements keep their bytes; group lengths at the front go (retired, PS3.5 7.2). Text that the data set's character
    set cannot hold makes all its text UTF-8. A deflated data set is held in memory. Raises MalformedDataset.
    """
    syntax = TRANSFER_SYNTAXES[transfer_syntax_uid]
    if syntax.deflated:
        plain = inflate(b"".join(pieces), DEFAULT_LIMITS.inflated_bytes)
        made = b"".join(corrected([plain], EXPLICIT_LITTLE_ENDIAN, revisions, source))
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        packed = packer.compress(made) + packer.flush()
        yield packed + b"\0" * (len(packed) % 2)
        return
    changes = merged(revisions)
    last = max([_ORIGINAL, *(int(tag, 16) for tag in changes)])
    front = _Front(syntax)
    incoming = _Source(pieces)
    front.read(incoming, last)
    terms = front.character_set()
    if any(_encoded(terms, text) is None for text in _texts(revisions, source)):
        front.read(incoming, _BEFORE_PIXELS)
        front.to_utf8()
        terms = (_UTF8,)
    yield front.revised(revisions, terms, source)
    yield from incoming.rest()


def _texts(revisions: Iterable[Revision], source: str) -> Iterator[str]:
    yield source
    for revision in revisions:
        yield revision.system
        for tag, entry in revision.changes.items():
            if entry is not None:
                yield from json_model.texts({tag: entry}, tag)


def _encoded(terms: Sequence[str], text: str) -> bytes | None:
    """`text` in a character set, None where it has no place there.

    Code extensions (PS3.5 6.1.2.5) count as no place: UTF-8 says the same without escape sequences.
    """
    if text.isascii():
        return text.encode("ascii")
    if len(terms) != 1 or "2022" in terms[0] or terms[0] in ("", "ISO_IR 6"):
        return None

    from pydicom import charset  # only here: it takes memory that most servers never need

    try:
        raw = text.encode(charset.convert_encodings(list(terms))[0])
    except (UnicodeError, LookupError):
        return None
    return raw if decoder(tuple(terms))(raw) == text else None


class _Source:
    """Pieces taken a little at a time, so that of a large one only its beginning is copied."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._held = memoryview(b"")

    def take(self) -> memoryview | None:
        """The next bytes, None at the end."""
        while not self._held:
            piece = next(self._pieces, None)
            if piece is None:
                return None
            self._held = memoryview(piece)
        taken, self._held = self._held[:_WINDOW], self._held[_WINDOW:]
        return taken

    def rest(self) -> Iterator[bytes]:
        """What was not taken."""
        if self._held:
            yield bytes(self._held)
        yield from self._pieces


class _Incomplete(Exception):
    """More bytes are needed to know where an element ends."""


class _Front:
    """The elements at the front of a data set, each with its bytes, and what was read beyond them."""

    def __init__(self, syntax: TransferSyntax) -> None:
        self._explicit, self._little = syntax.explicit, syntax.little_endian
        self._order = "<" if syntax.little_endian else ">"
        self._elements: list[tuple[int, bytes]] = []
        self._beyond = b""

    def read(self, source: _Source, last: int) -> None:
        """Take elements up to and with tag `last`. Raises MalformedDataset where the bytes end inside one."""
        buffer, at = bytearray(self._beyond), 0
        while True:
            try:
                while at < len(buffer):
                    if self._header(buffer, at, self._explicit, self._little)[0] > last:
                        self._beyond = bytes(buffer[at:])
                        return
                    tag, _, end = self._element(buffer, at, self._explicit, self._little)
                    self._elements.append((tag, bytes(buffer[at:end])))
                    at = end
            except _Incomplete:
                pass
            piece = source.take()
            if piece is None:
                if at < len(buffer):
                    raise MalformedDataset(f"data set ends inside an element at offset {at}")
                self._beyond = b""
                return
            buffer += piece

    def _header(self, data: bytearray, at: int, explicit: bool, little: bool) -> tuple[int, bytes, int, int]:
        """Tag, VR (empty where it is implicit), length, and where the value begins."""
        order = "<" if little else ">"
        try:
            group, number = struct.unpack_from(order + "HH", data, at)
            tag = group << 16 | number
            if explicit and group != 0xFFFE:
                vr = bytes(data[at + 4 : at + 6])
                known = vrs(True).get(vr)
                if known is not None and not known.long:
                    return tag, vr, struct.unpack_from(order + "H", data, at + 6)[0], at + 8
                if len(vr) == 2 and vr.isalpha() and vr.isupper():
                    return tag, vr, struct.unpack_from(order + "I", data, at + 8)[0], at + 12
            return tag, b"", struct.unpack_from(order + "I", data, at + 4)[0], at + 8
        except struct.error:
            raise _Incomplete from None

    def _element(self, data: bytearray, at: int, explicit: bool, little: bool) -> tuple[int, bytes, int]:
        """Tag, VR and end of the element at `at`."""
        tag, vr, length, start = self._header(data, at, explicit, little)
        if length != _UNDEFINED:
            if start + length > len(data):
                raise _Incomplete
            return tag, vr, start + length
        return tag, vr, self._undefined(data, start, explicit and vr != b"UN", little or vr == b"UN")

    def _undefined(self, data: bytearray, at: int, explicit: bool, little: bool) -> int:
        """Where a value of undefined length ends, delimiter included; iterative, since depth is not ours to trust."""
        open_: list[tuple[bool, bool, bool]] = [(True, explicit, little)]  # (a sequence, or one of its items), how
        while open_:
            sequence, explicit, little = open_[-1]
            tag, vr, length, start = self._header(data, at, explicit, little)
            at = start
            if tag in (_SEQUENCE_END, _ITEM_END):
                open_.pop()
            elif sequence or length != _UNDEFINED:
                if length == _UNDEFINED:
                    open_.append((False, explicit, little))
                else:
                    at = start + length
                    if at > len(data):
                        raise _Incomplete
            else:
                unknown = vr == b"UN"  # PS3.5 6.2.2: what is inside is Implicit VR Little Endian
                open_.append((True, explicit and not unknown, little or unknown))
        return at

    def character_set(self) -> tuple[str, ...]:
        """Specific Character Set (0008,0005), () where there is none."""
        for tag, raw in self._elements:
            if tag == _CHARACTER_SET:
                text = raw[8:].decode("ascii", "replace").rstrip(" \0")
                return tuple(term.strip() for term in text.split("\\")) if text else ()
        return ()

    def to_utf8(self) -> None:
        """Write all text again in UTF-8, in nested data sets too."""
        from pydicom.filebase import DicomBytesIO
        from pydicom.filereader import read_dataset
        from pydicom.filewriter import write_dataset

        implicit = not self._explicit
        raw = b"".join(each for _, each in self._elements)
        ds = read_dataset(io.BytesIO(raw), implicit, self._little)
        ds.decode()
        ds.SpecificCharacterSet = _UTF8
        waiting = [ds]
        while waiting:
            for element in waiting.pop():
                if element.VR == "SQ":
                    for item in element.value:
                        item.pop("SpecificCharacterSet", None)
                        waiting.append(item)
        made = DicomBytesIO()
        made.is_implicit_VR, made.is_little_endian = implicit, self._little
        write_dataset(made, ds, _UTF8)
        beyond, self._beyond, self._elements = self._beyond, made.getvalue(), []
        self.read(_Source(()), _BEFORE_PIXELS)
        self._beyond = beyond

    def revised(self, revisions: Sequence[Revision], terms: Sequence[str], source: str) -> bytes:
        """The front after the revisions, with what was read beyond it."""
        held: dict[int, bytes] = {tag: raw for tag, raw in self._elements if tag & 0xFFFF}
        for revision in revisions:
            before = b""
            changed = False
            for name, entry in sorted(revision.changes.items()):
                tag = int(name, 16)
                old = held.get(tag)
                new = None if entry is None else self._make(tag, entry, terms)
                if (old is None and new is None) or (old is not None and new is not None and self._same(old, new)):
                    continue
                changed = True
                before += old or b""
                if new is None:
                    held.pop(tag, None)
                else:
                    held[tag] = new
            if changed:
                held[_ORIGINAL] = self._remembering(held.get(_ORIGINAL), revision, before, terms, source)
        return b"".join(raw for _, raw in sorted(held.items())) + self._beyond

    def _same(self, old: bytes, new: bytes) -> bool:
        def value(raw: bytes) -> bytes:
            return raw[self._header(bytearray(raw), 0, self._explicit, self._little)[3] :].rstrip(b" \0")

        return value(old) == value(new)

    def _make(self, tag: int, entry: Mapping[str, Any], terms: Sequence[str]) -> bytes:
        vr = str(entry["vr"])
        texts = json_model.texts({"": entry}, "")
        raw = b"\\".join(_encoded(terms, text) or b"" for text in texts)
        return self._write(tag, vr.encode("ascii"), raw + (b"\0" if vr == "UI" else b" ") * (len(raw) % 2))

    def _write(self, tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
        length = len(value) if length is None else length
        names = struct.pack(self._order + "HH", tag >> 16, tag & 0xFFFF)
        if not self._explicit:
            return names + struct.pack(self._order + "I", length) + value
        if vrs(True)[vr].long:
            return names + vr + b"\0\0" + struct.pack(self._order + "I", length) + value
        return names + vr + struct.pack(self._order + "H", length) + value

    def _bare(self, tag: int, length: int) -> bytes:
        return struct.pack(self._order + "HHI", tag >> 16, tag & 0xFFFF, length)

    def _sequence(self, tag: int, items: bytes) -> bytes:
        """A sequence of undefined length with these items."""
        return self._write(tag, b"SQ", items + self._bare(_SEQUENCE_END, 0), _UNDEFINED)

    def _item(self, content: bytes) -> bytes:
        return self._bare(_ITEM, _UNDEFINED) + content + self._bare(_ITEM_END, 0)

    def _remembering(
        self, held: bytes | None, revision: Revision, before: bytes, terms: Sequence[str], source: str
    ) -> bytes:
        """The Original Attributes Sequence with one more item, after those that it has."""
        items = b""
        if held is not None:
            _, vr, length, start = self._header(bytearray(held), 0, self._explicit, self._little)
            if vr in (b"SQ", b""):
                items = held[start : len(held) - (8 if length == _UNDEFINED else 0)]
        content = self._sequence(0x04000550, self._item(before))
        for name, entry in _facts(revision, source).items():
            content += self._make(int(name, 16), entry, terms)
        return self._sequence(_ORIGINAL, items + self._item(content))
