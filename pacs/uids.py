"""Unique identifiers (PS3.5 section 9 and annex B): what a valid one is, and how ours are made."""

from __future__ import annotations

import hashlib
import re
import uuid
from functools import lru_cache

from pacs.errors import InvalidUID

IMPLEMENTATION_CLASS_UID = "2.25.213105632719416331381203150180243246641"
"""Names this implementation in File Meta and association negotiation (PS3.7 D.3.3.2)."""

IMPLEMENTATION_VERSION_NAME = "M3DICOM_0_1"

_UID = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")
_LENIENT_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
MAX_UID_LENGTH = 64


def is_valid(text: str) -> bool:
    """Whether `text` is a UID by the letter of PS3.5 section 9.1."""
    return len(text) <= MAX_UID_LENGTH and _UID.fullmatch(text) is not None


@lru_cache(maxsize=256)  # each instance of a series comes with the same three
def checked(text: str, what: str = "UID") -> str:
    """`text` itself, once it is safe to use as an identifier.

    Leading zeros in a component are tolerated, since real archives hold such UIDs and refusing them would lose
    images; everything else PS3.5 section 9.1 forbids raises InvalidUID.
    """
    if len(text) > MAX_UID_LENGTH or _LENIENT_UID.fullmatch(text) is None:
        raise InvalidUID(f"{what} is not a valid UID", about=text[:MAX_UID_LENGTH] if text.isprintable() else "")
    return text


def new() -> str:
    """A fresh UID under the UUID root (PS3.5 annex B.2)."""
    return f"2.25.{uuid.uuid4().int}"


def derived(key: str, *names: str | int) -> str:
    """The UID that always belongs to `key` and `names`: the same inputs give the same UID on every machine.

    `key` is any text (a task key). PS3.5 annex B.2 allows a UUID-derived UID of whatever version; this one is made
    from a SHA-256 with the version-8 layout of RFC 9562 section 5.8.
    """
    digest = hashlib.sha256("\0".join([key, *map(str, names)]).encode()).digest()
    raw = bytearray(digest[:16])
    raw[6] = raw[6] & 0x0F | 0x80
    raw[8] = raw[8] & 0x3F | 0x80
    return f"2.25.{int.from_bytes(raw)}"
