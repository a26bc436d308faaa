"""What is no image, for people: reports as HTML or text, and documents, models and videos as they were put in."""

from __future__ import annotations

from binascii import a2b_base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dicomweb import frames
from dicomweb.answers import BATCH_BYTES, Answer, Buffer, pull
from dicomweb.bulkdata import byte_range
from dicomweb.calls import Call
from dicomweb.media_types import Offer
from dicomweb.places import syntax_of
from dicomweb.rendered.images import filled
from pacs.dicom import report
from pacs.dicom.lookup import number
from pacs.errors import NotFound

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.retrieve import InstanceLocation

HTML, PLAIN = "text/html", "text/plain"
ENCAPSULATED = {
    "1.2.840.10008.5.1.4.1.1.104.1": "application/pdf",
    "1.2.840.10008.5.1.4.1.1.104.2": "text/xml",
    "1.2.840.10008.5.1.4.1.1.104.3": "model/stl",
    "1.2.840.10008.5.1.4.1.1.104.4": "model/obj",
    "1.2.840.10008.5.1.4.1.1.104.5": "model/mtl",
}
"""Encapsulated PDF, CDA, STL, OBJ and MTL Storage: the media type of what is in them (PS3.18 8.7.4)."""

PIECE_BYTES = 1 << 20
_TEXT = ("text/xml", "model/obj", "model/mtl")
_DOCUMENT, _LENGTH = "00420011", "00420015"
# A page out of what somebody sent must not do more than be looked at; browsers show no PDF under such a rule.
_SAFE = [("Content-Security-Policy", "sandbox; default-src 'none'; style-src 'unsafe-inline'")]


@dataclass(frozen=True, slots=True)
class Document:
    """One representation of one instance that is no image."""

    media_type: str
    location: InstanceLocation

    def offer(self) -> Offer:
        """As a body by itself."""
        return Offer(self.media_type)


def documents(location: InstanceLocation) -> list[Document]:
    """What an instance can be had as, the default first; [] for images and for what nobody can look at."""
    if location.sop_class_uid.startswith(report.PREFIX):
        return [Document(HTML, location), Document(PLAIN, location)]
    if location.sop_class_uid in ENCAPSULATED:
        return [Document(ENCAPSULATED[location.sop_class_uid], location)]
    syntax = syntax_of(location)
    if syntax.video and location.frames is not None and syntax.media_type is not None:
        return [Document(syntax.media_type, location)]
    return []


async def given(call: Call, document: Document) -> Answer:
    """The representation. Raises NotFound where a document has nothing in it."""
    location = document.location
    if document.media_type in (HTML, PLAIN) and location.sop_class_uid.startswith(report.PREFIX):
        metadata = await call.io(frames.attributes, call.archive, location)
        body = await call.cpu(report.html if document.media_type == HTML else report.plain, metadata)
        return await call.io(call.text, body, f"{document.media_type}; charset=utf-8", list(_SAFE))
    if syntax_of(location).video:
        spans = location.frames.spans(1) if location.frames is not None else ()
        return await _streamed(call, document, tuple(spans))
    metadata = await call.io(frames.attributes, call.archive, location)
    length = int(number(metadata, _LENGTH) or 0)
    for bulk in location.bulk:
        if bulk.path == _DOCUMENT:
            # Encapsulated Document Length says how much is left without the padding (PS3.3 C.24.2).
            size = length if 0 < length <= bulk.length else bulk.length
            if not length and document.media_type in _TEXT:
                last = await call.io(call.archive.retrieve.read, location, bulk.offset + size - 1, 1)
                size -= bytes(last) == b"\0"
            return await _streamed(call, document, ((bulk.offset, size),))
    entry = (await call.io(filled, call.archive, location, {_DOCUMENT: metadata.get(_DOCUMENT)})).get(_DOCUMENT)
    raw = a2b_base64(entry["InlineBinary"]) if isinstance(entry, dict) and "InlineBinary" in entry else b""
    if not raw:
        raise NotFound("the document is empty", about=location.sop_instance_uid)
    raw = raw[:length] if 0 < length <= len(raw) else raw
    if not length and document.media_type in _TEXT:
        raw = raw.removesuffix(b"\0")  # the padding of an odd length, which no reader of XML takes
    answer, start, end = _asked(call, document, len(raw))
    answer.body = [raw[start:end]]
    return answer


def _headers(document: Document) -> list[tuple[str, str]]:
    return list(_SAFE) if document.media_type.startswith("text/") else []


def _asked(call: Call, document: Document, length: int) -> tuple[Answer, int, int]:
    """The head of an answer, and which bytes of the whole are its body: players and readers of PDF ask for ranges.

    Raises RangeNotSatisfiable.
    """
    tag = f'"{document.location.digest[:32]}-{length:x}"'
    found = byte_range(call.headers.get("range") if call.headers.get("if-range", tag) == tag else None, length)
    start, end = found or (0, length)
    headers = [*_headers(document), ("ETag", tag), ("Accept-Ranges", "bytes")]
    if found is None:
        return Answer(200, document.media_type, headers=headers), start, end
    headers.append(("Content-Range", f"bytes {start}-{end - 1}/{length}"))
    return Answer(206, document.media_type, headers=headers), start, end


async def _streamed(call: Call, document: Document, spans: tuple[tuple[int, int], ...]) -> Answer:
    answer, start, end = _asked(call, document, sum(length for _, length in spans))
    pieces = _read(call.archive, document.location, cut(spans, start, end))
    answer.body = await call.io(pull, pieces)
    if sum(map(len, answer.body)) >= BATCH_BYTES:
        answer.more, answer.length, answer.limiter = pieces, end - start, call.web.io
    return answer


def cut(spans: Iterable[tuple[int, int]], start: int, end: int) -> list[tuple[int, int]]:
    """The parts of spans (offset, length) that hold the bytes from `start` to `end`, not included, of all together."""
    found, at = [], 0
    for offset, length in spans:
        first, last = max(start - at, 0), min(end - at, length)
        if first < last:
            found.append((offset + first, last - first))
        at += length
    return found


def _read(archive: Archive, location: InstanceLocation, spans: Iterable[tuple[int, int]]) -> Iterator[Buffer]:
    for offset, length in spans:
        for at in range(0, length, PIECE_BYTES):
            yield archive.retrieve.read(location, offset + at, min(PIECE_BYTES, length - at))
