"""Elements written by hand, right or wrong, where a test needs bytes that no writer would make."""

from __future__ import annotations

import struct
from pathlib import Path

import pydicom

EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
BIG = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
BASELINE = "1.2.840.10008.1.2.4.50"
LONG = ("OB", "OW", "OF", "OD", "OL", "OV", "SQ", "UN", "UT", "UC", "UR", "SV", "UV")
UNDEFINED = 0xFFFFFFFF


def element(tag: int, vr: str, value: bytes = b"", *, length: int | None = None, order: str = "<") -> bytes:
    """One explicit element; `length` overrides the true one."""
    size = len(value) if length is None else length
    if vr in LONG:
        return struct.pack(order + "HH2sHI", tag >> 16, tag & 0xFFFF, vr.encode(), 0, size) + value
    return struct.pack(order + "HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), size) + value


def implicit(tag: int, value: bytes = b"", *, length: int | None = None) -> bytes:
    """One implicit element, item or delimiter."""
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value) if length is None else length) + value


def item(content: bytes = b"", *, length: int | None = None, order: str = "<") -> bytes:
    """One item; of undefined length, with its delimiter, for length=UNDEFINED."""
    size = len(content) if length is None else length
    tail = struct.pack(order + "HHI", 0xFFFE, 0xE00D, 0) if size == UNDEFINED else b""
    return struct.pack(order + "HHI", 0xFFFE, 0xE000, size) + content + tail


SEQUENCE_END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)

IDENTIFIERS = element(0x00080016, "UI", b"1.2.840.10008.5.1.4.1.1.7\0") + element(0x00080018, "UI", b"1.2.3.4\0")
PARENTS = element(0x0020000D, "UI", b"1.2.3\0") + element(0x0020000E, "UI", b"1.2.3.5\0")


def dataset(between: bytes = b"", after: bytes = b"", before: bytes = b"") -> bytes:
    """The four UIDs with elements before (group 0008), between (0009 to 001F) and after (0020,000F on) them."""
    return before + IDENTIFIERS + between + PARENTS + after


def bundled_files() -> list[Path]:
    """The Part 10 files that come inside the pydicom package; nothing is downloaded."""
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.read_bytes()[128:132] == b"DICM")


def bundled(name: str) -> Path:
    """One of them by name."""
    return Path(pydicom.__file__).parent / "data" / "test_files" / name
