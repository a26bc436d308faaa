"""DICOM JSON from strangers: checked against PS3.18 annex F, element by element, before anything uses it."""

from __future__ import annotations

import math
import re
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable
from typing import Any, Final

import orjson

from pacs.dicom import dictionary
from pacs.errors import InvalidInput

Reader = Callable[[str, str, Any], Any]
"""From tag, VR and a parsed value to the checked value."""

MAX_DEPTH: Final = 64
_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,5})?|NaN|-?Infinity")
_WHOLE = re.compile(r"[+-]?[0-9]{1,20}")
_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")
_SINGLE_TEXT: Final = frozenset(("LT", "ST", "UT", "UR"))
_TEXT: Final = frozenset(("AE", "AS", "CS", "DA", "DT", "LO", "SH", "TM", "UC", "UI")) | _SINGLE_TEXT
_FLOAT32: Final = float.fromhex("0x1.FFFFFFp127")
"""The first number that rounds to infinity in 32 bits."""
_BINARY: Final = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN"))
_RANGES: Final = {
    "US": (0, 0xFFFF), "SS": (-0x8000, 0x7FFF), "UL": (0, 0xFFFFFFFF), "SL": (-0x80000000, 0x7FFFFFFF),
    "UV": (0, (1 << 64) - 1), "SV": (-(1 << 63), (1 << 63) - 1),
}  # fmt: skip


def loads(raw: bytes | str) -> dict[str, Any]:
    """One data set in the DICOM JSON model: an object, or an array that holds just one.

    Comes back with tags in upper case and ascending, without group lengths, empty values as None, no empty "Value",
    and InlineBinary of even length. BulkDataURI stays text for the caller to resolve or refuse; it is never fetched.
    Raises InvalidInput naming the tag.
    """
    found = loads_many(raw)
    if len(found) != 1:
        raise InvalidInput(f"one JSON data set expected, {len(found)} found")
    return found[0]


def loads_many(raw: bytes | str) -> list[dict[str, Any]]:
    """Every data set of a JSON array, or the one of an object; each as `loads` gives it."""
    try:
        parsed = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"not JSON: {error.msg} at line {error.lineno}") from None
    if isinstance(parsed, dict):
        parsed = [parsed]
    if not isinstance(parsed, list) or not all(isinstance(each, dict) for each in parsed):
        raise InvalidInput("not a JSON object or an array of them (PS3.18 F.2.1)")
    return [checked(each) for each in parsed]


def checked(dataset: dict[str, Any], depth: int = 0) -> dict[str, Any]:
    """A parsed JSON data set as `loads` gives it. Recursion ends at 64 levels, beyond which InvalidInput is raised."""
    if depth > MAX_DEPTH:
        raise InvalidInput(f"sequences nested deeper than {MAX_DEPTH}")
    out: dict[str, Any] = {}
    for name, entry in dataset.items():
        if not _TAG.fullmatch(name):
            raise InvalidInput("attribute name is not eight hexadecimal digits (PS3.18 F.2.2)", about=name[:64])
        tag = name.upper()
        if tag in out:
            raise InvalidInput("attribute given twice", about=tag)
        if not tag.endswith("0000"):
            out[tag] = _entry(tag, entry, depth)
    return dict(sorted(out.items()))


def _entry(tag: str, entry: Any, depth: int) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise InvalidInput("attribute is no JSON object", about=tag)
    vr = entry.get("vr") or dictionary.vr(int(tag, 16))
    given = [key for key in ("Value", "InlineBinary", "BulkDataURI") if entry.get(key) is not None]
    if len(given) > 1:
        raise InvalidInput(f"both {given[0]} and {given[1]} (PS3.18 F.2.2)", about=tag)
    if not isinstance(vr, str) or not (vr in _BINARY or vr in _READERS):
        raise InvalidInput("unknown VR", about=tag)
    if not given:
        return {"vr": vr}
    value = entry[given[0]]
    if given == ["BulkDataURI"]:
        if not isinstance(value, str) or not value or vr == "SQ":
            raise InvalidInput("BulkDataURI is no text, or given for a sequence", about=tag)
        return {"vr": vr, "BulkDataURI": value}
    if given == ["InlineBinary"]:
        if vr not in _BINARY:
            raise InvalidInput(f"InlineBinary for VR {vr}", about=tag)
        return {"vr": vr, "InlineBinary": _base64(tag, value)} if value else {"vr": vr}
    if not isinstance(value, list) or vr in _BINARY:
        raise InvalidInput(f"Value is no array, or given for VR {vr}", about=tag)
    if vr == "SQ":
        if not all(isinstance(each, dict) for each in value):
            raise InvalidInput("item of a sequence is no JSON object", about=tag)
        return {"vr": vr, "Value": [checked(each, depth + 1) for each in value]} if value else {"vr": vr}
    if vr in _SINGLE_TEXT and len(value) > 1:
        raise InvalidInput(f"VR {vr} has only one value", about=tag)
    read = _READERS[vr]
    values = [None if each is None or each == "" else read(tag, vr, each) for each in value]
    if values in ([], [None]):
        return {"vr": vr}
    if None in values and (vr in _RANGES or vr in ("AT", "FL", "FD")):
        raise InvalidInput(f"an empty value among several of VR {vr}, which has none", about=tag)
    return {"vr": vr, "Value": values}


def _base64(tag: str, value: Any) -> str:
    try:
        raw = a2b_base64("".join(value.split()), strict_mode=True)
    except (AttributeError, ValueError, Base64Error):
        raise InvalidInput("InlineBinary is no base64", about=tag) from None
    return b2a_base64(raw + b"\0" * (len(raw) % 2), newline=False).decode("ascii")


def _text(tag: str, vr: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"value of VR {vr} is no text", about=tag)
    if "\\" in value and vr not in _SINGLE_TEXT:
        raise InvalidInput("backslash inside one of several values (PS3.5 6.2)", about=tag)
    text = value.rstrip("\0")  # padding that somebody has taken along
    if "\0" in text:
        raise InvalidInput("a NUL within text (PS3.5 6.1.3)", about=tag)
    return text


def _name(tag: str, vr: str, value: Any) -> dict[str, str] | None:
    if not isinstance(value, dict):
        raise InvalidInput("PN is no object of component groups (PS3.18 F.2.2)", about=tag)
    groups: dict[str, str] = {}
    for group, text in value.items():
        if group not in _GROUPS or not isinstance(text, str) or any(each in text for each in "=\\\0"):
            raise InvalidInput("PN with an unknown component group, or one that is no plain text", about=tag)
        if text:
            groups[group] = text
    return {group: groups[group] for group in _GROUPS if group in groups} or None


def _integer(tag: str, vr: str, value: Any) -> int | str:
    low, high = _RANGES[vr]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidInput(f"value is no integer of VR {vr}", about=tag)
    return value if abs(value) <= 1 << 53 else str(value)


def _integer_string(tag: str, vr: str, value: Any) -> int | str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str) or (isinstance(value, str) and "\\" in value):
        raise InvalidInput("value of VR IS is no integer", about=tag)
    if isinstance(value, int) and not -(1 << 31) <= value < 1 << 31:
        raise InvalidInput("value of VR IS is beyond 32 bits (PS3.5 6.2)", about=tag)
    return value


def _decimal_string(tag: str, vr: str, value: Any) -> int | float | str:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InvalidInput("value of VR DS is no number", about=tag)
    if isinstance(value, str) and "\\" in value:
        raise InvalidInput("backslash inside one of several values (PS3.5 6.2)", about=tag)
    return value


def _float(tag: str, vr: str, value: Any) -> int | float | str:
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        if value.strip().endswith(("NaN", "Infinity")):
            return value.strip()
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidInput(f"value of VR {vr} is no number", about=tag)
    if vr == "FL" and abs(value) >= _FLOAT32:
        raise InvalidInput("value of VR FL is beyond 32 bits (PS3.5 6.2)", about=tag)
    return value


def _tag(tag: str, vr: str, value: Any) -> str:
    if not isinstance(value, str) or not _TAG.fullmatch(value):
        raise InvalidInput("value of VR AT is not eight hexadecimal digits", about=tag)
    return value.upper()


def _sequence(tag: str, vr: str, value: Any) -> Any:
    raise InvalidInput("sequence where none can be", about=tag)


_READERS: Final[dict[str, Reader]] = {
    "PN": _name, "IS": _integer_string, "DS": _decimal_string, "FL": _float, "FD": _float, "AT": _tag, "SQ": _sequence,
    **dict.fromkeys(_RANGES, _integer), **dict.fromkeys(_TEXT, _text),
}  # fmt: skip
