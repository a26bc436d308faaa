"""The File Meta Information around a data set (PS3.10 section 7.1): ours written, anybody's read, a chunk at a time."""

from __future__ import annotations

import re
import struct
from functools import lru_cache

from pacs.errors import MalformedDataset
from pacs.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

PREAMBLE_LENGTH = 132
"""Bytes before the first File Meta element: the 128 of the preamble and "DICM"."""

MAX_META_LENGTH = 1 << 17
"""More File Meta than this is refused; real ones hold some 200 bytes, private information included."""

_LONG_VRS = frozenset((b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UN", b"UT", b"UC", b"UR", b"SV", b"UV"))
_SHORT = struct.Struct("<HH2sH")
_UINT32 = struct.Struct("<I")
_WANTED = {0x0002: "sop_class_uid", 0x0003: "sop_instance_uid", 0x0010: "transfer_syntax_uid"}
_UID_TEXT = re.compile(rb"[0-9.]{1,64}")


def element(number: int, vr: bytes, value: bytes) -> bytes:
    """One element of the File Meta group, its value padded to even length (PS3.10 section 7.1)."""
    value += b"\0" * (len(value) % 2) if vr in (b"UI", b"OB") else b" " * (len(value) % 2)
    if vr == b"OB":
        return struct.pack("<HH2sHI", 2, number, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", 2, number, vr, len(value)) + value


_element = lru_cache(maxsize=256)(element)
"""For those that come again with each instance: all but one."""


def header(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, source_ae: str = "") -> bytes:
    """Preamble (zeros), "DICM" and a File Meta group of ours for one data set; the data set's bytes follow it.

    `source_ae` becomes Source Application Entity Title (0002,0016) where given. PS3.10 Table 7.1-1.
    """
    group = (
        _element(0x0001, b"OB", b"\0\1")
        + _element(0x0002, b"UI", sop_class_uid.encode("ascii"))
        + _element(0x0003, b"UI", sop_instance_uid.encode("ascii"))
        + _element(0x0010, b"UI", transfer_syntax_uid.encode("ascii"))
        + _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID.encode("ascii"))
        + _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME.encode("ascii"))
    )
    if source_ae.strip():
        group += _element(0x0016, b"AE", source_ae.strip().encode("ascii", "replace")[:16])
    return b"\0" * 128 + b"DICM" + _element(0x0000, b"UL", _UINT32.pack(len(group))) + group


class HeaderReader:
    """Reads preamble and File Meta from chunks of any size and hands on what follows.

    `transfer_syntax_uid`, `sop_class_uid` and `sop_instance_uid` are empty until the group is complete; the last two
    may stay empty, since real files leave them out. `header_length` then is the number of bytes before the data set.
    """

    def __init__(self) -> None:
        self.transfer_syntax_uid = ""
        self.sop_class_uid = ""
        self.sop_instance_uid = ""
        self.header_length = 0
        self.sop_instance_uid_at = 0
        """Where its value begins; 0 where there is none."""
        self._held = bytearray()
        self._position = PREAMBLE_LENGTH
        self._group_end = 0

    @property
    def complete(self) -> bool:
        """Whether the data set has begun."""
        return self.header_length > 0

    @property
    def header(self) -> bytes:
        """Preamble and File Meta Information, once it is complete."""
        return bytes(self._held[: self.header_length])

    def feed(self, chunk: bytes | bytearray | memoryview) -> memoryview | None:
        """The data set bytes in `chunk`, or None while File Meta is still incomplete.

        What comes back may be empty, and shares memory with `chunk` once the header is behind. Raises
        MalformedDataset for anything that is no Part 10 file.
        """
        if self.header_length:
            return memoryview(chunk)
        self._held += chunk
        if not self._walk(final=False):
            return None
        return memoryview(bytes(self._held))[self.header_length :]

    def finish(self) -> None:
        """To be called at the end of the input: raises MalformedDataset if no complete header was seen."""
        if not self.header_length and not self._walk(final=True):
            raise MalformedDataset("the file ends within its File Meta Information")

    def _walk(self, *, final: bool) -> bool:
        held = self._held
        if len(held) >= PREAMBLE_LENGTH and held[128:132] != b"DICM":
            raise MalformedDataset("no DICM prefix after 128 bytes: not a Part 10 file (PS3.10 section 7.1)")
        while True:
            at = self._position
            if self._group_end and at >= self._group_end:
                if at > self._group_end:
                    raise MalformedDataset("File Meta group length ends inside an element", about="00020000")
                return self._done()
            if len(held) < at + 12:
                # A group without its length ends where another group begins, so more has to be seen unless that is all.
                if final and len(held) >= PREAMBLE_LENGTH and not self._group_end and self.transfer_syntax_uid:
                    return self._done()
                return False
            group, number, vr, length = _SHORT.unpack_from(held, at)
            if group != 2:
                if self._group_end:
                    raise MalformedDataset(f"group {group:04X} within File Meta at offset {at}", about="00020000")
                return self._done()
            if not (vr.isalpha() and vr.isupper()):
                raise MalformedDataset(f"File Meta element without a VR at offset {at}", about=f"0002{number:04X}")
            start = at + 8
            if vr in _LONG_VRS:
                (length,) = _UINT32.unpack_from(held, at + 8)
                start = at + 12
            end = start + length
            if end > PREAMBLE_LENGTH + MAX_META_LENGTH or (self._group_end and end > self._group_end):
                raise MalformedDataset(f"length {length} at offset {at} runs past File Meta", about=f"0002{number:04X}")
            if len(held) < end:
                return False
            self._take(number, vr, bytes(held[start:end]), end)
            self._position = end

    def _take(self, number: int, vr: bytes, value: bytes, end: int) -> None:
        if number == 0:
            if vr != b"UL" or len(value) != 4 or end != PREAMBLE_LENGTH + 12:
                raise MalformedDataset("File Meta group length is no UL at the front", about="00020000")
            (length,) = _UINT32.unpack(value)
            if length > MAX_META_LENGTH:
                raise MalformedDataset(f"File Meta of {length} bytes", about="00020000")
            self._group_end = end + length
        elif number in _WANTED:
            text = value.rstrip(b"\0 ")
            if getattr(self, _WANTED[number]):
                raise MalformedDataset("element given twice in File Meta", about=f"0002{number:04X}")
            if text and not _UID_TEXT.fullmatch(text):
                raise MalformedDataset("no UID in File Meta", about=f"0002{number:04X}")
            setattr(self, _WANTED[number], text.decode("ascii"))
            if number == 0x0003:
                self.sop_instance_uid_at = end - len(value)

    def _done(self) -> bool:
        if not self.transfer_syntax_uid:
            raise MalformedDataset("File Meta names no transfer syntax", about="00020010")
        self.header_length = self._position
        return True


def split(part10: memoryview) -> tuple[str, int]:
    """Transfer syntax UID and the offset of the data set in a whole Part 10 file. Raises MalformedDataset."""
    reader = HeaderReader()
    if reader.feed(part10[: PREAMBLE_LENGTH + MAX_META_LENGTH + 12]) is None:
        reader.finish()
    return reader.transfer_syntax_uid, reader.header_length
