"""What a data set has to say once its pixels lost something on the way out (PS3.3 C.7.6.1.1.5, C.12.4)."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pacs import uids
from pacs.dicom.encode import ENCODED
from pacs.dicom.json_model import texts
from pacs.dicom.lookup import items
from pacs.dicom.rewrite import header

_UNCOMPRESSED_PREDECESSOR: Final = ("121320", "DCM", "Uncompressed predecessor")
_LOSSY_COMPRESSION: Final = ("113040", "DCM", "Lossy Compression")
_DESCRIPTION: Final = "Lossy compression on retrieval"


def becomes_lossy(source_ts: str, target_ts: str) -> bool:
    """Whether pixels lose something on the way from one transfer syntax to the other."""
    return source_ts != target_ts and target_ts in ENCODED and ENCODED[target_ts].lossy


def retrieved_uid(sop_instance_uid: str, source_ts: str, target_ts: str) -> str:
    """The SOP Instance UID of an instance once it is in `target_ts`: its own, or another if it is compressed lossily.

    A derived image whose pixels differ is another instance (PS3.3 C.7.6.1.1.3); the same wish gives the same UID.
    """
    if not becomes_lossy(source_ts, target_ts):
        return sop_instance_uid
    return uids.derived(sop_instance_uid, "lossy compression on retrieval", target_ts)


def attributes(metadata: Mapping[str, Any], target_ts: str, ratio: float) -> dict[int, tuple[bytes, bytes]]:
    """Elements to write, tag to VR and value, for an instance compressed `ratio` to 1 into the lossy `target_ts`.

    Earlier compressions stay on record: ratio and method are added to what is there.
    """
    uid, sop_class = (next(iter(texts(metadata, tag)), "") for tag in ("00080018", "00080016"))
    out: dict[int, tuple[bytes, bytes]] = {
        0x00080018: (b"UI", _uid(uids.derived(uid, "lossy compression on retrieval", target_ts))),
        0x00282110: (b"CS", b"01"),
        0x00282112: (b"DS", _joined([*texts(metadata, "00282112"), f"{ratio:.6g}"])),
        0x00282114: (b"CS", _joined([*texts(metadata, "00282114"), ENCODED[target_ts].method])),
    }
    kind = texts(metadata, "00080008")
    if kind:
        out[0x00080008] = (b"CS", _joined(["DERIVED", *kind[1:]]))
    if not texts(metadata, "00082111"):
        out[0x00082111] = (b"ST", _joined([_DESCRIPTION]))
    # A sequence that is there tells of an earlier step and stays as it is.
    if not items(metadata, "00082112"):
        source = _element(0x00081150, b"UI", _uid(sop_class)) + _element(0x00081155, b"UI", _uid(uid))
        source += _element(0x0040A170, b"SQ", _item(_code(_UNCOMPRESSED_PREDECESSOR)))
        out[0x00082112] = (b"SQ", _item(source))
    if not items(metadata, "00089215"):
        out[0x00089215] = (b"SQ", _item(_code(_LOSSY_COMPRESSION)))
    return out


def _joined(values: Sequence[str]) -> bytes:
    raw = "\\".join(values).encode("ascii", "replace")
    return raw + b" " * (len(raw) % 2)


def _uid(value: str) -> bytes:
    return value.encode("ascii") + b"\0" * (len(value) % 2)


def _element(tag: int, vr: bytes, value: bytes) -> bytes:
    return header(tag, vr, len(value)) + value


def _item(content: bytes) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content


def _code(code: tuple[str, str, str]) -> bytes:
    value, scheme, meaning = (_joined([part]) for part in code)
    return (
        _element(0x00080100, b"SH", value) + _element(0x00080102, b"SH", scheme) + _element(0x00080104, b"LO", meaning)
    )
