"""Values of every VR, from bytes to what the DICOM JSON model holds (PS3.5 section 6.2, PS3.18 annex F.2)."""

from __future__ import annotations

import math
import re
import struct
from binascii import b2a_base64
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, lru_cache
from typing import Any, Final

from pacs.dicom.charsets import Decoder

Reader = Callable[[bytes, Decoder], list[Any] | None]
"""From a value's bytes and the decoder of its character set to the JSON values; None is empty."""

INTEGER: Final = re.compile(r"[+-]?[0-9]{1,12}")
DECIMAL: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,5})?")
_PAD = " \0"
_EXACT_DIGITS = 15  # every decimal of so many digits survives as a float64 (IEEE 754)


@dataclass(frozen=True, slots=True)
class VR:
    """How one VR is laid out and read. `read` is None for what has no Value: sequences and binary."""

    name: str
    long: bool
    read: Reader | None
    swap: int = 1
    """Bytes of the unit that byte order applies to."""
    width: int = 1
    """Bytes of one value; 1 where any length goes."""
    text: bool = False
    """Text that the model cannot hold as BulkDataURI, or that clients expect inline (PS3.18 F.2.6)."""


def _codes(raw: bytes, _: Decoder) -> list[Any] | None:
    text = str(raw, "latin-1").strip(_PAD)
    if "\\" in text:
        return [part.strip(_PAD) or None for part in text.split("\\")]
    return [text] if text else None


def _strings(raw: bytes, decode: Decoder) -> list[Any] | None:
    text = decode(raw).rstrip(_PAD)
    if "\\" in text:
        return [part.rstrip(_PAD) or None for part in text.split("\\")]
    return [text] if text else None


def _string(raw: bytes, decode: Decoder) -> list[Any] | None:
    text = decode(raw).rstrip(_PAD)
    return [text] if text else None


def _uri(raw: bytes, _: Decoder) -> list[Any] | None:
    text = str(raw, "latin-1").rstrip(_PAD)
    return [text] if text else None


def person_name(text: str) -> dict[str, str] | None:
    """The component groups of one PN that are not empty, by name (PS3.5 6.2.1, PS3.18 F.2.2); None if all are."""
    if "=" not in text:
        name = text.rstrip(_PAD)
        return {"Alphabetic": name} if name else None
    groups = zip(("Alphabetic", "Ideographic", "Phonetic"), text.split("="), strict=False)
    return {name: group.rstrip(_PAD) for name, group in groups if group.rstrip(_PAD)} or None


def _names(raw: bytes, decode: Decoder) -> list[Any] | None:
    text = decode(raw).rstrip(_PAD)
    return [person_name(part) for part in text.split("\\")] if text else None


@lru_cache(maxsize=8192)
def integer_string(text: str) -> int | str | None:
    """One IS as a number, or as it is where the standard does not allow such text (PS3.5 6.2)."""
    return (int(text) if INTEGER.fullmatch(text) else text) or (0 if text else None)


@lru_cache(maxsize=8192)
def decimal_string(text: str) -> float | str | None:
    """One DS as a number where a float64 holds exactly what was written, else the text."""
    if not text:
        return None
    if not DECIMAL.fullmatch(text):
        return text
    number = float(text)
    if not math.isfinite(number) or (len(text) > _EXACT_DIGITS and Decimal(repr(number)) != Decimal(text)):
        return text
    return number


def _integer_strings(raw: bytes, _: Decoder) -> list[Any] | None:
    text = str(raw, "latin-1").strip(_PAD)
    if "\\" in text:
        return [integer_string(part.strip(_PAD)) for part in text.split("\\")]
    return [integer_string(text)] if text else None


def _decimal_strings(raw: bytes, _: Decoder) -> list[Any] | None:
    text = str(raw, "latin-1").strip(_PAD)
    if "\\" in text:
        return [decimal_string(part.strip(_PAD)) for part in text.split("\\")]
    return [decimal_string(text)] if text else None


def json_float(value: float) -> float | str:
    """The number, or "NaN", "Infinity", "-Infinity": JSON has no numbers for these (RFC 8259 section 6)."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def json_integer(value: int) -> int | str:
    """The number, or its digits where a float64 reader would lose some (PS3.18 Table F.2.3-1, SV and UV)."""
    return value if -(1 << 53) <= value <= 1 << 53 else str(value)


def _numbers(order: str, code: str, convert: Callable[[Any], Any] | None = None) -> Reader:
    one = struct.Struct(order + code)

    def read(raw: bytes, _: Decoder) -> list[Any] | None:
        if len(raw) == one.size:
            values: list[Any] = list(one.unpack(raw))
        else:
            values = list(struct.unpack(f"{order}{len(raw) // one.size}{code}", raw))  # struct.error unless whole
        return [convert(value) for value in values] if convert else values

    return read


def _tags(order: str) -> Reader:
    def read(raw: bytes, _: Decoder) -> list[Any] | None:
        return [f"{group:04X}{element:04X}" for group, element in struct.iter_unpack(order + "HH", raw)]

    return read


def inline_binary(raw: bytes, swap: int, little_endian: bool) -> str:
    """Base64 of the value in little endian (PS3.18 F.2.7), padded to even length (F.1)."""
    if not little_endian and swap > 1:
        raw = swapped(raw, swap)
    return b2a_base64(raw + b"\0" * (len(raw) % 2), newline=False).decode("ascii")


def swapped(raw: bytes | memoryview, unit: int) -> bytes:
    """The bytes with each unit of `unit` bytes reversed; an incomplete last unit stays as it is."""
    whole = len(raw) - len(raw) % unit
    out = bytearray(raw)
    for place in range(unit):
        out[place:whole:unit] = raw[unit - 1 - place : whole : unit]
    return bytes(out)


@cache
def vrs(little_endian: bool) -> dict[bytes, VR]:
    """Every VR of PS3.5 Table 6.2-1 by its two letters, for one byte order."""
    order = "<" if little_endian else ">"
    rows = [VR(name, False, _codes, text=True) for name in ("AE", "AS", "CS", "DA", "DT", "TM", "UI")]
    rows += [VR(name, False, _strings, text=True) for name in ("LO", "SH")]
    rows += [VR(name, False, _string, text=True) for name in ("LT", "ST")]
    rows += [
        VR("PN", False, _names, text=True),
        VR("UC", True, _strings, text=True),
        VR("UT", True, _string, text=True),
        VR("UR", True, _uri, text=True),
        VR("IS", False, _integer_strings),
        VR("DS", False, _decimal_strings),
        VR("AT", False, _tags(order), swap=2, width=4),
        VR("US", False, _numbers(order, "H"), swap=2, width=2),
        VR("SS", False, _numbers(order, "h"), swap=2, width=2),
        VR("UL", False, _numbers(order, "I"), swap=4, width=4),
        VR("SL", False, _numbers(order, "i"), swap=4, width=4),
        VR("FL", False, _numbers(order, "f", json_float), swap=4, width=4),
        VR("FD", False, _numbers(order, "d", json_float), swap=8, width=8),
        VR("SV", True, _numbers(order, "q", json_integer), swap=8, width=8),
        VR("UV", True, _numbers(order, "Q", json_integer), swap=8, width=8),
        VR("SQ", True, None),
    ]
    binary = {"OB": 1, "OD": 8, "OF": 4, "OL": 4, "OV": 8, "OW": 2, "UN": 1}
    rows += [VR(name, True, None, swap=unit) for name, unit in binary.items()]
    return {row.name.encode("ascii"): row for row in rows}
