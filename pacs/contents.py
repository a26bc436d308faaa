"""What an instance says, however it is encoded: its values as JSON and the digests of its bulk data, to be compared."""

from __future__ import annotations

import hashlib
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pacs.dicom import dictionary, json_model, scanner
from pacs.dicom.deflated import inflate
from pacs.dicom.transfer_syntaxes import TRANSFER_SYNTAXES
from pacs.index import rows

MAX_TEXT = 200


@dataclass(frozen=True, slots=True)
class Content:
    """What one instance holds: its metadata, and length and SHA-256 of each bulk value by path, as text."""

    metadata: dict[str, Any]
    transfer_syntax_uid: str
    bulk: dict[str, str]


def of(
    data: bytes | memoryview, transfer_syntax_uid: str, scan: scanner.Scan | None = None, *,
    inflated_bytes: int = scanner.DEFAULT_LIMITS.inflated_bytes,
) -> Content:  # fmt: skip
    """What a data set holds; `scan` is what the scanner found, where it is known.

    Raises MalformedDataset, and TooLarge for a deflated one of more than `inflated_bytes`.
    """
    scan = scan or scanner.scan(data, transfer_syntax_uid)
    if TRANSFER_SYNTAXES[transfer_syntax_uid].deflated:
        data = inflate(data, inflated_bytes)
    whole = memoryview(data)
    bulk = {each.path: _sum(whole[each.offset : each.offset + each.length]) for each in scan.bulk}
    return Content(rows.loads(scan.metadata_json()), transfer_syntax_uid, bulk)


def comparable(one: str, other: str) -> bool:
    """Whether bulk data has the same bytes in both transfer syntaxes: pixel data is native, words in the same order."""
    syntaxes = [TRANSFER_SYNTAXES[uid] for uid in (one, other)]
    return one == other or not any(each.encapsulated or not each.little_endian for each in syntaxes)


def same(one: Content, other: Content) -> bool:
    """Whether two encodings say the same: every value and all bulk data."""
    return one.bulk == other.bulk and _said(one.metadata) == _said(other.metadata)


def differences(held: Content, mine: Content) -> dict[str, dict[str, str | None]]:
    """What is not equal, by keyword or tag; bulk data within sequences by path, binary values by length and SHA-256."""
    found: dict[str, dict[str, str | None]] = {}
    if held.transfer_syntax_uid != mine.transfer_syntax_uid:
        found["TransferSyntaxUID"] = {"held": held.transfer_syntax_uid, "aside": mine.transfer_syntax_uid}
    for tag in sorted(held.metadata.keys() | mine.metadata.keys()):
        first, other = held.metadata.get(tag, {}), mine.metadata.get(tag, {})
        told = {"held": _text(held, tag), "aside": _text(mine, tag)}
        if told["held"] != told["aside"] or (first != other and "BulkDataURI" not in first):
            found[dictionary.keyword(int(tag, 16)) or tag] = told
    for path in sorted(held.bulk.keys() | mine.bulk.keys()):
        told = {"held": held.bulk.get(path), "aside": mine.bulk.get(path)}
        if "/" in path and told["held"] != told["aside"]:
            found[path] = told
    return found


def _said(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata without what the encoding decides: whether pixels are bytes or words, and where bulk data is."""
    found: dict[str, Any] = {}
    for tag, entry in metadata.items():
        vr = "OW" if entry["vr"] == "OB" else entry["vr"]
        if "BulkDataURI" in entry:
            found[tag] = None
        elif vr == "SQ":
            found[tag] = [_said(item) for item in entry.get("Value", ())]
        else:
            found[tag] = (vr, entry.get("Value", []), entry.get("InlineBinary", ""))
    return found


def _sum(value: bytes | memoryview) -> str:
    return f"{len(value)} bytes, SHA-256 {hashlib.sha256(value).hexdigest()}"


def _text(content: Content, tag: str) -> str | None:
    entry = content.metadata.get(tag)
    if entry is None:
        return None
    if entry.get("vr") == "SQ":
        return f"({len(entry.get('Value', ()))} items)"
    if "InlineBinary" in entry:
        return _sum(b64decode(entry["InlineBinary"]))
    if "BulkDataURI" in entry:
        return content.bulk.get(tag, "(cannot be read)")
    return "\\".join(json_model.texts(content.metadata, tag))[:MAX_TEXT]
