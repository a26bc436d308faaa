"""What is no image, for people: reports as HTML or text, and documents, models and videos as they were put in."""

from __future__ import annotations

from binascii import a2b_base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dicomweb import frames
from dicomweb.answers import BATCH_BYTES, Answer, Buffer, pull
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
            return await _streamed(call, document, ((bulk.offset, size),))
    entry = (await call.io(filled, call.archive, location, {_DOCUMENT: metadata.get(_DOCUMENT)})).get(_DOCUMENT)
    raw = a2b_base64(entry["InlineBinary"]) if isinstance(entry, dict) and "InlineBinary" in entry else b""
    if not raw:
        raise NotFound("the document is empty", about=location.sop_instance_uid)
    return Answer(200, document.media_type, [raw[:length] if 0 < length <= len(raw) else raw], _headers(document))


def _headers(document: Document) -> list[tuple[str, str]]:
    return list(_SAFE) if document.media_type.startswith("text/") else []


async def _streamed(call: Call, document: Document, spans: tuple[tuple[int, int], ...]) -> Answer:
    pieces = _read(call.archive, document.location, spans)
    answer = Answer(200, document.media_type, await call.io(pull, pieces), _headers(document))
    total = sum(length for _, length in spans)
    if sum(map(len, answer.body)) >= BATCH_BYTES:
        answer.more, answer.length, answer.limiter = pieces, total, call.web.io
    return answer


def _read(archive: Archive, location: InstanceLocation, spans: tuple[tuple[int, int], ...]) -> Iterator[Buffer]:
    for offset, length in spans:
        for at in range(0, length, PIECE_BYTES):
            yield archive.retrieve.read(location, offset + at, min(PIECE_BYTES, length - at))
