"""The framing of objects in segments: every lie about a record is noticed."""

from __future__ import annotations

import zlib

import pytest

from pacs.digest import Digest
from pacs.storage import records
from pacs.storage.records import BLOCK, HEADER_BYTES, Check, Record
from pacs.storage.segments import marked, marker_text

NONCE = bytes(range(16))
HEAD, REST = b"head of the object", b"and what is behind it" * 50
LENGTH = len(HEAD) + len(REST)


def header() -> bytes:
    return records.header(NONCE, 2 * BLOCK, LENGTH, HEAD, Digest(REST).digest())


def parsed() -> Record:
    found = records.parse(header(), NONCE, 2 * BLOCK)
    assert found is not None
    return found


def test_a_header_tells_where_and_what_the_object_is() -> None:
    record = parsed()
    assert (record.at, record.length, record.reserve, record.alive) == (2 * BLOCK, LENGTH, len(HEAD), True)
    assert record.offset == 2 * BLOCK + HEADER_BYTES
    assert record.end == 3 * BLOCK
    dead = records.parse(records.DEAD + header()[len(records.DEAD) :], NONCE, 2 * BLOCK)
    assert dead is not None
    assert not dead.alive
    assert dead.end == record.end


def test_a_header_with_any_other_byte_is_none() -> None:
    raw = header()
    for at in range(HEADER_BYTES):
        changed = bytearray(raw)
        changed[at] ^= 0x10
        assert records.parse(bytes(changed), NONCE, 2 * BLOCK) is None
    assert records.parse(raw, NONCE, 3 * BLOCK) is None  # moved
    assert records.parse(raw, bytes(16), 2 * BLOCK) is None  # of another segment
    assert records.parse(raw[:-1], NONCE, 2 * BLOCK) is None
    assert records.parse(bytes(HEADER_BYTES), NONCE, 2 * BLOCK) is None


@pytest.mark.parametrize("step", [1, 7, 18, 19, 5000])
def test_an_object_is_checked_in_pieces(step: int) -> None:
    whole = HEAD + REST

    def passes(data: bytes) -> bool:
        check = Check(parsed())
        for at in range(0, len(data), step):
            check.feed(data[at : at + step])
        return check.passed()

    assert passes(whole)
    assert not passes(whole[:-1])
    assert not passes(whole + b"\0")
    for at in (0, len(HEAD) - 1, len(HEAD), len(whole) - 1):
        changed = bytearray(whole)
        changed[at] ^= 1
        assert not passes(bytes(changed))


def test_a_segment_has_a_name_of_its_own() -> None:
    first = records.first_block(NONCE)
    assert len(first) == BLOCK
    assert records.nonce_of(first) == NONCE
    for wrong in (b"", bytes(BLOCK), first[:20], b"x" + first[1:], first[:12] + b"x" + first[13:]):
        assert records.nonce_of(wrong) is None


def test_a_marker_that_was_not_written_whole_says_nothing() -> None:
    assert marked(marker_text(123456789)) == 123456789
    for wrong in (b"", b"123456789", marker_text(123456789)[:-3], b"9" + marker_text(123456789)[1:], b"\0" * 30):
        assert marked(wrong) == BLOCK
    assert marked(marker_text(1)) == BLOCK
    assert zlib.crc32(b"%020d" % 5) != zlib.crc32(b"%020d" % 6)
