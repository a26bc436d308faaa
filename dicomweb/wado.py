"""WADO-RS (PS3.18 10.4): studies, series and instances as DICOM objects, and their metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import orjson

from dicomweb import xml_model
from dicomweb.answers import BATCH_BYTES, Answer, Buffer, pull
from dicomweb.calls import HERE, Call
from dicomweb.media_types import DICOM, DICOM_JSON, DICOM_XML, JSON, Offer
from dicomweb.multipart import Writer
from dicomweb.qido import documents_answer
from pacs.auth import Right
from pacs.dicom import part10
from pacs.dicom.transcode import transcoded_pieces
from pacs.dicom.transfer_syntaxes import EXPLICIT_LITTLE_ENDIAN, TRANSFER_SYNTAXES, TransferSyntax

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.retrieve import InstanceLocation

METADATA = (Offer(DICOM_JSON, aliases=(JSON,)), Offer(DICOM_XML, multipart=True), Offer(DICOM_XML))
AS_STORED = "*"


def locate(call: Call) -> list[InstanceLocation]:
    """The instances that the path names, for one who may read. Blocks. Raises NotFound."""
    principal = call.principal(Right.READ)
    study = call.uid("study")
    series = call.uid("series") if "series" in call.params else None
    instance = call.uid("instance") if "instance" in call.params else None
    return call.archive.retrieve.locate(principal, study, series, instance)


def address(root: str, location: InstanceLocation) -> str:
    """The URL of an instance."""
    return (
        f"{root}/studies/{location.study_instance_uid}/series/{location.series_instance_uid}"
        f"/instances/{location.sop_instance_uid}"
    )


def syntax_of(location: InstanceLocation) -> TransferSyntax:
    """The table row of what an instance is stored in."""
    return TRANSFER_SYNTAXES[location.transfer_syntax_uid]


def served_as_stored(syntax: TransferSyntax) -> str:
    """The transfer syntax that `transfer-syntax=*` gives.

    Implicit VR Little Endian and Explicit VR Big Endian never leave over HTTP (PS3.18 8.7.3.5.2), so everything
    native goes out in Explicit VR Little Endian.
    """
    return EXPLICIT_LITTLE_ENDIAN if syntax.codec == "native" else syntax.uid


def object_offers(locations: Sequence[InstanceLocation], *, single: bool) -> list[Offer]:
    """What these instances can be had in: all in Explicit VR Little Endian where we can decode them, or as stored.

    Where not all can be decoded, as stored is also the default: lossy video has no other form (PS3.18 8.7.3.5).
    """
    syntaxes = {syntax_of(location) for location in locations}
    stored = {served_as_stored(syntax) for syntax in syntaxes}
    offers = []
    decodable = all(syntax.codec is not None for syntax in syntaxes)
    if decodable:
        only = stored == {EXPLICIT_LITTLE_ENDIAN}
        offers.append(Offer(DICOM, True, EXPLICIT_LITTLE_ENDIAN, default=True, as_stored=only))
    if stored != {EXPLICIT_LITTLE_ENDIAN}:
        kept = stored.pop() if len(stored) == 1 else AS_STORED
        offers.append(Offer(DICOM, True, kept, default=not decodable, as_stored=True))
    if single:
        offers += [Offer(o.media_type, False, o.transfer_syntax, o.default, o.as_stored) for o in offers]
    return offers


async def objects(call: Call) -> Answer:
    """GET of a study, series or instance: multipart, or for one instance also the object alone."""
    locations = await call.io(locate, call)
    offer = call.choose(object_offers(locations, single="instance" in call.params))
    targets = [
        served_as_stored(syntax_of(location)) if offer.transfer_syntax != EXPLICIT_LITTLE_ENDIAN
        else EXPLICIT_LITTLE_ENDIAN
        for location in locations
    ]  # fmt: skip
    as_it_is = all(loc.transfer_syntax_uid == target for loc, target in zip(locations, targets, strict=True))
    writer = Writer(DICOM) if offer.multipart else None
    pieces = _objects(call.archive, locations, targets, writer)
    # Made before the headers go out, so that what cannot be read or decoded is an honest error.
    limiter = call.web.io if as_it_is else call.web.cpu
    first = await (call.io if as_it_is else call.cpu)(pull, pieces)
    content_type = writer.content_type if writer else f"{DICOM}; transfer-syntax={targets[0]}"
    if sum(map(len, first)) < BATCH_BYTES:
        return Answer(200, content_type, first)
    return Answer(200, content_type, first, more=pieces, limiter=limiter)


def _objects(
    archive: Archive, locations: Sequence[InstanceLocation], targets: Sequence[str], writer: Writer | None
) -> Iterator[Buffer]:
    for location, target in zip(locations, targets, strict=True):
        if writer is not None:
            yield writer.head(f"{DICOM}; transfer-syntax={target}")
        if location.transfer_syntax_uid == target:
            yield from archive.retrieve.part10(location)
        else:
            made = _transcoded(archive, location, target)
            first = next(made)  # before anything of this part goes out
            yield part10.header(location.sop_class_uid, location.sop_instance_uid, target)
            yield first
            yield from made
    if writer is not None:
        yield writer.close


def _transcoded(archive: Archive, location: InstanceLocation, target: str) -> Iterator[Buffer]:
    dataset, ts = archive.retrieve.dataset(location), location.transfer_syntax_uid
    syntax = syntax_of(location)
    if syntax.codec == "native" and not syntax.deflated:
        yield from transcoded_pieces(dataset, ts, target)  # only the byte order or the VRs: no codec looks at it
    else:
        yield archive.decoding.transcode(dataset, ts, target)


async def metadata(call: Call) -> Answer:
    """GET .../metadata: everything but bulk data, from the index alone; 304 where nothing has changed."""
    call.principal(Right.READ)
    offer = call.choose(METADATA)
    root = call.service_root

    def answer() -> Answer:
        locations = locate(call)
        tag = entity_tag(root, offer, locations)
        headers = [("ETag", tag)]
        if matches(call.headers.get("if-none-match", ""), tag):
            return Answer(304, headers=headers)
        documents = [
            raw.replace(HERE, address(root, location).encode("ascii"))
            for location, raw in zip(locations, call.archive.retrieve.metadata(locations), strict=True)
        ]
        if offer.media_type == DICOM_XML:
            xml = [xml_model.dumps(orjson.loads(document)) for document in documents]
            return documents_answer(xml, multipart=offer.multipart, headers=headers)
        return call.text(b"[" + b",".join(documents) + b"]", DICOM_JSON, headers)

    return await call.io(answer)


def matches(header: str, tag: str) -> bool:
    """Whether an If-None-Match header names `tag`, by weak comparison, or any (RFC 9110 13.1.2)."""
    named = [each.strip().removeprefix("W/") for each in header.split(",")]
    return "*" in named or tag.removeprefix("W/") in named


def entity_tag(root: str, offer: Offer, locations: Sequence[InstanceLocation]) -> str:
    """What changes with every instance added, removed, replaced or corrected. Weak: compression does not change it."""
    whole = hashlib.sha256(f"{root} {offer.media_type} {offer.multipart}".encode())
    for location in locations:
        whole.update(location.version.encode())
        whole.update(location.sop_instance_uid.encode())
    return f'W/"{whole.hexdigest()[:32]}"'
