"""WADO-RS bulk data and pixel data (PS3.18 10.4.1.1.5, .6): values at the addresses in metadata, and ranges of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dicomweb import frames, several
from dicomweb.answers import Answer, Buffer, pull
from dicomweb.calls import Call
from dicomweb.errors import RangeNotSatisfiable
from dicomweb.media_types import OCTET_STREAM, NotAcceptable, Offer
from dicomweb.multipart import Writer
from dicomweb.places import address, locate, syntax_of
from dicomweb.wado import matches
from pacs.dicom.transfer_syntaxes import EXPLICIT_BIG_ENDIAN, EXPLICIT_LITTLE_ENDIAN
from pacs.dicom.values import swapped, vrs
from pacs.errors import ArchiveError, InvalidInput, NotFound

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.dicom.scanner import BulkValue
    from pacs.retrieve import InstanceLocation

VALUE = (Offer(OCTET_STREAM, transfer_syntax=EXPLICIT_LITTLE_ENDIAN, as_stored=True),
         Offer(OCTET_STREAM, True, EXPLICIT_LITTLE_ENDIAN, as_stored=True))  # fmt: skip
PIXEL_DATA = ("7FE00010", "7FE00008", "7FE00009")
PIECE_BYTES = 1 << 20

_PATH = re.compile(r"[0-9A-Fa-f]{8}(/[0-9]{1,9}/[0-9A-Fa-f]{8})*")
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.IGNORECASE)


async def value(call: Call) -> Answer:
    """GET .../bulkdata/{path}: the value, little endian, or a byte range; compressed pixel data as frames."""
    path = call.params["path"].upper()
    if _PATH.fullmatch(path) is None:
        raise InvalidInput("tags and item numbers joined by slashes are needed")

    def look() -> tuple[InstanceLocation, BulkValue]:
        [location] = locate(call)
        found = next((bulk for bulk in location.bulk if bulk.path == path), None)
        if found is None:
            raise NotFound("no such bulk data", about=location.sop_instance_uid)
        return location, found

    location, bulk = await call.io(look)
    if is_compressed(location, bulk):
        return await _frames(call, location)
    offer = call.choose(VALUE)
    tag = entity_tag(location, bulk, offer)
    headers = [("ETag", tag), ("Vary", "Accept")]
    if matches(call.headers.get("if-none-match", ""), tag):
        return Answer(304, headers=headers)
    if offer.multipart:
        # A range of a multipart body would be one of its delimiters and headers too: the whole is given instead.
        writer = Writer(OCTET_STREAM)
        head = writer.head(OCTET_STREAM, f"{address(call.service_root, location)}/bulkdata/{bulk.path}")
        length = len(head) + bulk.length + len(writer.close)
        pieces = _framed(head, read(call.archive, location, bulk, 0, bulk.length), writer.close)
        return await _answer(call, Answer(200, writer.content_type, headers=headers), pieces, length)
    asked = call.headers.get("range") if call.headers.get("if-range", tag) == tag else None
    found = byte_range(asked, bulk.length)
    start, end = found or (0, bulk.length)
    partial = found is not None  # also of all bytes: players ask for `bytes=0-` to learn whether they can seek
    headers.append(("Accept-Ranges", "bytes"))
    if partial:
        headers.append(("Content-Range", f"bytes {start}-{end - 1}/{bulk.length}"))
    answer = Answer(206 if partial else 200, OCTET_STREAM, headers=headers)
    return await _answer(call, answer, read(call.archive, location, bulk, start, end), end - start)


def entity_tag(location: InstanceLocation, bulk: BulkValue, offer: Offer) -> str:
    """What stays as long as the value does. Strong where the same bytes are sent each time, as If-Range wants it."""
    whole = hashlib.sha256(f"{location.digest} {bulk.path}".encode()).hexdigest()[:32]
    return f'W/"{whole}m"' if offer.multipart else f'"{whole}"'


async def _answer(call: Call, answer: Answer, pieces: Iterator[Buffer], length: int) -> Answer:
    answer.body = await call.io(pull, pieces)
    if length > sum(map(len, answer.body)):
        answer.more, answer.length, answer.limiter = pieces, length, call.web.io
    return answer


def _framed(head: bytes, content: Iterator[Buffer], close: bytes) -> Iterator[Buffer]:
    yield head
    yield from content
    yield close


def byte_range(header: str | None, length: int) -> tuple[int, int] | None:
    """Start and end (not included) of the one range asked for, or None for the whole (RFC 9110 14.2).

    Several ranges and other units are answered with the whole. Raises RangeNotSatisfiable.
    """
    found = _RANGE.fullmatch((header or "").replace(" ", ""))
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        start, end = max(0, length - int(found[2])), length
    else:
        start, end = int(found[1]), min(length, int(found[2]) + 1) if found[2] else length
        if found[2] and int(found[2]) < start:
            return None
    if start >= length:
        raise RangeNotSatisfiable("the range begins beyond the end", about=str(length))
    return start, end


def is_compressed(location: InstanceLocation, bulk: BulkValue) -> bool:
    """Whether a value is pixel data in fragments, which has no bytes of its own to be served."""
    return bulk.path in PIXEL_DATA and syntax_of(location).encapsulated


def read(archive: Archive, location: InstanceLocation, bulk: BulkValue, start: int, end: int) -> Iterator[Buffer]:
    """The bytes from `start` up to `end` of a value, little endian, in pieces. Blocks."""
    word = word_bytes(archive, location, bulk)
    if location.deflated:
        yield archive.retrieve.read(location, bulk.offset + start, end - start)
        return
    for at in range(start, end, PIECE_BYTES):
        stop = min(at + PIECE_BYTES, end)
        first, last = at - at % word, min(bulk.length, stop + -stop % word)
        data = archive.retrieve.read(location, bulk.offset + first, last - first)
        yield data if word == 1 else swapped(data, word)[at - first : stop - first]


def word_bytes(archive: Archive, location: InstanceLocation, bulk: BulkValue) -> int:
    """How many bytes of a value change places to make it little endian; 1 where it is so already."""
    row = vrs(True).get(bulk.vr.encode("ascii"))
    if location.transfer_syntax_uid != EXPLICIT_BIG_ENDIAN or row is None:
        return 1
    if bulk.vr == "OW" and bulk.path in PIXEL_DATA:
        return max(2, frames.pixel_info(archive, location).bits_allocated // 8)
    return row.swap


async def _frames(call: Call, location: InstanceLocation) -> Answer:
    """All frames of an instance whose pixel data is compressed, one part each (PS3.18 8.7.3.3.2)."""
    if location.frames is None:
        raise NotFound("the instance has no frames", about=location.sop_instance_uid)
    count = location.frames.number_of_frames
    offer = frames.choose(call, location, single=count == 1)
    return await call.cpu(frames.begin, call, location, range(1, count + 1), offer)


async def values(call: Call) -> Answer:
    """GET .../bulkdata of an instance, series or study: each bulk value a part, compressed pixel data by frame."""
    return await _all(call, pixel_data_only=False)


async def pixel_data(call: Call) -> Answer:
    """GET .../pixeldata of an instance, series or study: top-level pixel data, compressed ones frame by frame."""
    return await _all(call, pixel_data_only=True)


async def _all(call: Call, *, pixel_data_only: bool) -> Answer:
    def look() -> list[tuple[InstanceLocation, BulkValue]]:
        return [
            (location, bulk)
            for location in locate(call)
            for bulk in location.bulk
            if not pixel_data_only or bulk.path in PIXEL_DATA
        ]

    wanted = await call.io(look)
    if not wanted:
        raise NotFound("there is no bulk data here")
    chosen: list[tuple[InstanceLocation, BulkValue, Offer]] = []
    without: dict[str, ArchiveError] = {}
    for location, bulk in wanted:
        try:
            chosen.append((location, bulk, _offer(call, location, bulk)))
        except NotAcceptable as error:
            without[_name(location, bulk)] = error
    if not chosen:
        raise next(iter(without.values()))
    writer = Writer(chosen[0][2].media_type)
    decoded = any(_is_decoded(*each) for each in chosen)
    parts = [_part(call, writer, *each) for each in chosen]
    return await call.cpu(several.answer, call, writer, parts, "values", without=without, decoded=decoded)


def _offer(call: Call, location: InstanceLocation, bulk: BulkValue) -> Offer:
    """How a value is given: the media type is chosen for each (8.7.8.1), frames have one for each transfer syntax.

    Raises NotAcceptable.
    """
    return frames.choose(call, location, single=False) if is_compressed(location, bulk) else call.choose(VALUE[1:])


def _name(location: InstanceLocation, bulk: BulkValue) -> str:
    return location.sop_instance_uid if bulk.path in PIXEL_DATA else f"{bulk.path} of {location.sop_instance_uid}"


def _is_decoded(location: InstanceLocation, bulk: BulkValue, offer: Offer) -> bool:
    return is_compressed(location, bulk) and frames.target(location, offer) is not None


def _part(call: Call, writer: Writer, location: InstanceLocation, bulk: BulkValue, offer: Offer) -> several.Part:
    """One value; of compressed pixel data all frames or none, since their place tells which they are."""
    at = f"{address(call.service_root, location)}/bulkdata/{bulk.path}"

    def pieces() -> Iterator[Buffer]:
        if is_compressed(location, bulk) and location.frames is not None:
            count = location.frames.number_of_frames
            head = writer.head(f"{offer.media_type}; transfer-syntax={offer.transfer_syntax}", at)
            into = frames.target(location, offer)
            yield from frames.pieces(call.archive, location, range(1, count + 1), into=into, head=head)
        else:
            yield writer.head(OCTET_STREAM, at)
            yield from read(call.archive, location, bulk, 0, bulk.length)

    key = (location.digest, "frames", offer.transfer_syntax) if _is_decoded(location, bulk, offer) else None
    return several.Part(_name(location, bulk), location, key, pieces)
