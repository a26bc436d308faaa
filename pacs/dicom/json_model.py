"""The DICOM JSON model (PS3.18 annex F): written from metadata, asked for values, and the doors to reading it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from pacs.dicom.json_input import loads, loads_many

if TYPE_CHECKING:
    from pacs.dicom.json_dataset import from_dataset, to_dataset

__all__ = [
    "HERE",
    "BulkRef",
    "dumps",
    "dumps_many",
    "from_dataset",
    "loads",
    "loads_many",
    "text",
    "texts",
    "to_dataset",
]

HERE = b"\xff"
"""Stands in stored JSON for an address that only the edge knows; 0xFF never occurs in UTF-8 (RFC 3629)."""


@dataclass(frozen=True, slots=True)
class BulkRef:
    """The value of a BulkDataURI that names a value of the same instance: tags and item numbers joined by "/"."""

    path: str


def __getattr__(name: str) -> Any:
    """pydicom is only loaded where somebody has to do with its data sets: it takes 40 MB of memory."""
    if name not in ("from_dataset", "to_dataset"):
        raise AttributeError(name)
    from pacs.dicom import json_dataset

    return getattr(json_dataset, name)


def _unknown(value: object) -> orjson.Fragment:
    if isinstance(value, BulkRef):
        return orjson.Fragment(b'"' + HERE + b"/bulkdata/" + value.path.encode("ascii") + b'"')
    raise TypeError


def dumps(metadata: Mapping[str, Any]) -> bytes:
    """The metadata as one JSON object, UTF-8; addresses of bulk data begin with the byte 0xFF (`HERE`)."""
    return orjson.dumps(metadata, default=_unknown, option=orjson.OPT_PASSTHROUGH_DATACLASS)


def dumps_many(objects: Iterable[bytes | Mapping[str, Any]]) -> bytes:
    """One JSON array of objects, those that are bytes already taken as they are."""
    return b"[" + b",".join(each if isinstance(each, bytes) else dumps(each) for each in objects) + b"]"


def texts(metadata: Mapping[str, Any], tag: str) -> list[str]:
    """The values of an attribute as DICOM text, one for each value and "" for an empty one; [] where there is none.

    `tag` is eight hexadecimal digits, upper case. A PN comes back as "Alphabetic=Ideographic=Phonetic" without
    trailing "=" (PS3.5 6.2.1); numbers as the shortest text that reads back equal. Sequences and bulk data give [].
    """
    entry = metadata.get(tag)
    if not isinstance(entry, dict):
        return []
    values = entry.get("Value")
    if not isinstance(values, list) or entry.get("vr") == "SQ":
        return []
    return [_text(value) for value in values]


def text(metadata: Mapping[str, Any], tag: str) -> str | None:
    """The first value of an attribute as DICOM text, or None where it is absent or empty."""
    entry = metadata.get(tag)
    if not isinstance(entry, dict) or entry.get("vr") == "SQ":
        return None
    values = entry.get("Value")
    return (_text(values[0]) or None) if isinstance(values, list) and values else None


def _text(value: Any) -> str:
    if value.__class__ is str:
        return str(value)
    match value:
        case None:
            return ""
        case str():
            return value
        case dict():
            groups = (value.get("Alphabetic", ""), value.get("Ideographic", ""), value.get("Phonetic", ""))
            return "=".join(map(str, groups)).rstrip("=")
        case float() if value.is_integer() and abs(value) < 1e15:
            return str(int(value))
        case _:
            return str(value)
