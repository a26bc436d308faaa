"""What goes before the data set in a stored object: preamble and File Meta of ours, with how the object arrived.

The arrival facts are Private Information (0002,0100) and (0002,0102) of PS3.10 Table 7.1-1, so an object is a legal
Part 10 file and a store can be read without its index. The head always has the same length: objects of equal content
are laid out equally, whoever sent them, and one may replace the other. Clients are given a fresh header without it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from functools import lru_cache

import orjson

from pacs.dicom import part10
from pacs.digest import Digest
from pacs.errors import MalformedDataset
from pacs.uids import IMPLEMENTATION_CLASS_UID

HEAD_BYTES = 1024
_CREATOR = IMPLEMENTATION_CLASS_UID + ".1"
_GROUP_LENGTH_AT = part10.PREAMBLE_LENGTH + 8
_FACTS = struct.Struct("<HH2sHI")


@dataclass(frozen=True, slots=True)
class Arrival:
    """How an object came: what the index knows beyond the data set itself. `at` is in Unix seconds."""

    principal: str
    scope: str
    source_ae: str
    result_of: str | None
    at: float


def content_suffix(transfer_syntax_uid: str) -> bytes:
    """What is hashed after the data set: the digest of an instance covers its transfer syntax too."""
    return b"\0" + transfer_syntax_uid.encode("ascii")


def content_digest(dataset: bytes | memoryview, transfer_syntax_uid: str) -> str:
    """The digest of an instance, in hex."""
    whole = Digest(dataset)
    whole.update(content_suffix(transfer_syntax_uid))
    return whole.hexdigest()


def head(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, arrival: Arrival) -> bytes:
    """The `HEAD_BYTES` bytes that go before the data set in its object."""
    before, behind = around(sop_class_uid, transfer_syntax_uid, arrival.source_ae)
    uid = part10.element(0x0003, b"UI", sop_instance_uid.encode("ascii"))
    room = HEAD_BYTES - len(before) - len(uid) - len(behind) - _FACTS.size
    facts = orjson.dumps(arrival)
    if len(facts) > room:  # only names of absurd length: the scope rules access and has to stay
        facts = orjson.dumps(replace(arrival, principal=""))
    if len(facts) > room:
        raise MalformedDataset("names of principal and scope are too long to be recorded", about=sop_instance_uid)
    return b"".join((before, uid, behind, _FACTS.pack(2, 0x0102, b"OB", 0, room), facts.ljust(room)))


@lru_cache(maxsize=64)
def around(sop_class_uid: str, transfer_syntax_uid: str, source_ae: str) -> tuple[bytes, bytes]:
    """What goes before and behind the SOP Instance UID, up to the arrival facts, in the heads of a series."""
    whole = part10.header(sop_class_uid, "", transfer_syntax_uid, source_ae)
    gap = part10.element(0x0003, b"UI", b"")
    at = whole.index(gap, part10.PREAMBLE_LENGTH)
    creator = part10.element(0x0100, b"UI", _CREATOR.encode("ascii"))
    before = bytearray(whole[:at])
    struct.pack_into("<I", before, _GROUP_LENGTH_AT, HEAD_BYTES - _GROUP_LENGTH_AT - 4)
    return bytes(before), whole[at + len(gap) :] + creator


def arrival(head_bytes: bytes) -> Arrival:
    """The arrival facts in the first `HEAD_BYTES` bytes of an object. Raises MalformedDataset where there are none."""
    at = head_bytes.rfind(struct.pack("<HH2sH", 2, 0x0102, b"OB", 0), 0, HEAD_BYTES)
    try:
        if at < 0:
            raise ValueError
        return Arrival(**orjson.loads(head_bytes[at + 12 : HEAD_BYTES]))
    except (ValueError, TypeError):
        raise MalformedDataset("no arrival facts in the File Meta Information", about="00020102") from None
