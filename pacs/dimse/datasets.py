"""Small data sets on their way out: the DICOM JSON model as bytes, in any transfer syntax of messages. Pure."""

from __future__ import annotations

import struct
import zlib
from base64 import b64decode
from collections.abc import Callable, Mapping
from typing import Any, Final

from pacs.dicom import json_model
from pacs.dicom.transfer_syntaxes import TRANSFER_SYNTAXES
from pacs.dicom.values import swapped, vrs

CHARACTER_SET: Final = "00080005"


def encode(attributes: Mapping[str, Any], transfer_syntax_uid: str) -> bytes:
    """A whole data set, its text in UTF-8 with the Specific Character Set that says so where there is need."""
    writer = Writer(transfer_syntax_uid)
    rest = {tag: entry for tag, entry in attributes.items() if tag != CHARACTER_SET}
    raw = writer.dataset({tag: entry for tag, entry in rest.items() if tag > CHARACTER_SET})
    if not writer.ascii:
        raw = writer.element(CHARACTER_SET, {"vr": "CS", "Value": ["ISO_IR 192"]}) + raw
    raw = writer.dataset({tag: entry for tag, entry in rest.items() if tag < CHARACTER_SET}) + raw
    return deflated(raw) if TRANSFER_SYNTAXES[transfer_syntax_uid].deflated else raw


def deflated(raw: bytes) -> bytes:
    """The bytes of a data set as Deflated Explicit VR Little Endian has them, of even length (PS3.5 A.5)."""
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    raw = deflate.compress(raw) + deflate.flush()
    return raw + b"\0" * (len(raw) & 1)


class Writer:
    """Writes elements in one transfer syntax and one codec; `ascii` turns false where text needed more than ASCII."""

    def __init__(self, transfer_syntax_uid: str, codec: str = "utf-8") -> None:
        syntax = TRANSFER_SYNTAXES[transfer_syntax_uid]
        self.ascii = True
        self._codec = codec
        self._explicit = syntax.explicit
        self._order = "<" if syntax.little_endian else ">"

    def dataset(self, elements: Mapping[str, Any]) -> bytes:
        """The elements, ascending by tag."""
        return b"".join(self.element(tag, elements[tag]) for tag in sorted(elements))

    def element(self, tag: str, entry: Mapping[str, Any]) -> bytes:
        """One element. Raises UnicodeEncodeError for text that the codec cannot say."""
        order, vr = self._order, str(entry["vr"])
        if vr == "SQ":
            raw = b"".join(
                struct.pack(f"{order}HHI", 0xFFFE, 0xE000, len(item)) + item
                for item in map(self.dataset, entry.get("Value") or ())
            )
        else:
            raw = self._value(vr, tag, entry)
            self.ascii &= vr not in _TEXT_VRS or raw.isascii()
        group, element = int(tag[:4], 16), int(tag[4:], 16)
        if not self._explicit:
            return struct.pack("<HHI", group, element, len(raw)) + raw
        if vr not in _LONG_VRS and len(raw) > 0xFFFE:
            vr = "UN"  # PS3.5 6.2.2: what does not fit a 16-bit length
        head = struct.pack(f"{order}HH2s", group, element, vr.encode("ascii"))
        length = struct.pack(f"{order}2xI", len(raw)) if vr in _LONG_VRS else struct.pack(f"{order}H", len(raw))
        return head + length + raw

    def _value(self, vr: str, tag: str, entry: Mapping[str, Any]) -> bytes:
        """The bytes of a DICOM JSON value, padded to even length (PS3.5 6.2)."""
        order = self._order
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
        single = len(values) == 1 and isinstance(first, str)
        text = first if single else "\\".join(json_model.texts({tag: entry}, tag))
        raw = text.encode(self._codec if vr in _TEXT_VRS else "utf-8")
        return raw + (b"\0" if vr == "UI" else b" ") * (len(raw) & 1)


_TEXT_VRS: Final = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
_LONG_VRS: Final = frozenset(vr.name for vr in vrs(True).values() if vr.long)
_NUMBERS: Final[dict[str, tuple[str, Callable[[Any], int | float]]]] = {
    "US": ("H", int), "SS": ("h", int), "UL": ("I", int), "SL": ("i", int), "UV": ("Q", int), "SV": ("q", int),
    "FL": ("f", float), "FD": ("d", float),
}  # fmt: skip
