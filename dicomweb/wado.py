"""WADO-RS (PS3.18 10.4): studies, series and instances as DICOM objects, and their metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import orjson
from anyio import CapacityLimiter

from dicomweb import frames, offers, several, xml_model
from dicomweb.answers import BATCH_BYTES, WHOLE_BYTES, Answer, Buffer, pull
from dicomweb.calls import HERE, VARY, Call
from dicomweb.media_types import DICOM, DICOM_JSON, DICOM_XML, JSON, Offer, accepts_gzip
from dicomweb.multipart import Writer
from dicomweb.offers import AS_STORED, in_company_of, served_as_stored
from dicomweb.places import address, locate, syntax_of
from dicomweb.qido import documents_answer
from dicomweb.several import LeftOut
from pacs.auth import Right
from pacs.dicom import part10
from pacs.dicom.encode import ENCODED, refuse
from pacs.dicom.lossy import retrieved_uid
from pacs.dicom.transcode import transcoded_pieces
from pacs.dicom.transfer_syntaxes import EXPLICIT_LITTLE_ENDIAN
from pacs.errors import ArchiveError, Undecodable, UnsupportedTransferSyntax
from pacs.retrieve import PIECE

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.retrieve import Edition, InstanceLocation

LARGE_BATCH_BYTES = 2 << 20
"""What is made at a time of an answer while few are being sent: each step costs the same, however long it is."""
LARGE_HELD_BYTES = 4 * LARGE_BATCH_BYTES

_NOT_MADE = (Undecodable, UnsupportedTransferSyntax)

METADATA = (Offer(DICOM_JSON, aliases=(JSON,)), Offer(DICOM_XML, multipart=True), Offer(DICOM_XML))


async def objects(call: Call) -> Answer:
    """GET of a study, series or instance: multipart, or for one instance also the object alone."""
    alone = "instance" in call.params

    def look() -> Answer | Parts:
        locations = locate(call)
        stored = frozenset(location.transfer_syntax_uid for location in locations)
        images = any(location.frames is not None for location in locations)
        wanted = call.choose(offers.of_objects(stored, images=images, single=alone))
        parts = Parts(call, locations, wanted)
        return parts.begin(call.web.io) if parts.as_they_are else parts

    # What is made of a few hundred kilobytes in the page cache takes less time than handing it to a thread.
    local = alone and call.archive.settings.objects == "files"
    found = await (call.quickly("instance", look) if local else call.io(look))
    return found if isinstance(found, Answer) else await call.cpu(found.begin, call.web.cpu)


class Parts:
    """The parts of one answer: an instance each, in the transfer syntax that was agreed on.

    One of several that is quarantined, cannot be decoded or does not fit into the transfer syntax is left out where the
    answer can still say so.
    """

    def __init__(self, call: Call, locations: Sequence[InstanceLocation], offer: Offer) -> None:
        self._call = call
        self._archive = call.archive
        self._locations = locations
        self._targets = [_target(location, offer.transfer_syntax) for location in locations]
        self._writer = Writer(DICOM) if offer.multipart else None
        pairs = zip(locations, self._targets, strict=True)
        self.as_they_are = all(location.transfer_syntax_uid == target for location, target in pairs)
        """Whether all of them leave as they are stored."""
        self._batch = BATCH_BYTES
        self._complete = False
        """Whether 200 has been said."""
        self._made = 0
        self._left_out = LeftOut(call, len(locations), "instances")

    def begin(self, limiter: CapacityLimiter) -> Answer:
        """The answer; its beginning is made, so that what cannot be read or decoded is an honest error. Blocks."""
        self._leave_out_what_is_known()
        self._refuse_what_does_not_fit()
        budget = self._archive.retrieve.haste
        foresight = len(self._locations) > 1 and not self.as_they_are and budget.take(several.FORESEEN_BYTES)
        pieces = self._pieces(several.FORESEEN_BYTES if foresight else 0)
        least = several.FORESEEN_BYTES if foresight else WHOLE_BYTES
        first = pull(pieces, least)
        if self._left_out.errors and not self._made:
            raise next(iter(self._left_out.errors.values()))
        content_type = self._writer.content_type if self._writer else f"{DICOM}; transfer-syntax={self._targets[0]}"
        status = self._left_out.status
        self._complete = status == 200
        if sum(map(len, first)) < least:
            return Answer(status, content_type, [*first, *pieces], self._left_out.said())
        return Answer(
            status, content_type, first, self._left_out.said(), more=pieces, length=self._length(), limiter=limiter,
            batch=self._batch,
        )  # fmt: skip

    def _refuse_what_does_not_fit(self) -> None:
        """Leave out of several images those that do not fit: a later one must not turn out to be impossible."""
        for location, target in self._pairs() if len(self._locations) > 1 else ():
            if target in ENCODED and location.transfer_syntax_uid != target:
                try:
                    refuse(frames.pixel_info(self._archive, location), target)
                except _NOT_MADE as error:
                    self._leave_out(location, target, error)

    def _length(self) -> int | None:
        """Bytes of the whole body, where that is known before they are made."""
        if not self.as_they_are or any(location.overlay is not None for location in self._locations):
            return None
        length = 0 if self._writer is None else len(self._writer.close)
        for location, target in self._pairs():
            length += len(self._head(target)) + location.size + len(
                part10.header(location.sop_class_uid, location.sop_instance_uid, target, location.source_ae)
            )  # fmt: skip
        return length

    def _head(self, target: str) -> bytes:
        return b"" if self._writer is None else self._writer.head(f"{DICOM}; transfer-syntax={target}")

    def _pieces(self, held: int) -> Iterator[Buffer]:
        """All that is sent: in large pieces for the first readers, in small ones for those who come while many read.

        What has been `held` of the budget is given back in the end.
        """
        budget = self._archive.retrieve.haste
        try:
            long = sum(location.size for location in self._locations) > LARGE_HELD_BYTES
            if not long or not budget.take(LARGE_HELD_BYTES):
                yield from self._framed(PIECE)
                return
            held += LARGE_HELD_BYTES
            self._batch = LARGE_BATCH_BYTES
            yield from self._framed(LARGE_BATCH_BYTES)
        finally:
            budget.give(held)

    def _framed(self, piece: int) -> Iterator[Buffer]:
        pairs = self._pairs()
        as_stored = [location for location, target in pairs if location.transfer_syntax_uid == target]
        with closing(self._archive.retrieve.all_part10(as_stored, piece)) as stored:
            for location, target in pairs:
                if location.transfer_syntax_uid == target:
                    yield self._head(target)
                    self._made += 1
                    yield from next(stored)
                    continue
                made = _transcoded(self._archive, location, target)
                try:
                    first = next(made)  # before anything of this part goes out
                except _NOT_MADE as error:
                    self._leave_out(location, target, error)
                    continue
                self._made += 1
                yield self._head(target)
                uid = retrieved_uid(location.sop_instance_uid, location.transfer_syntax_uid, target)
                yield part10.header(location.sop_class_uid, uid, target)
                yield first
                yield from made
        if self._writer is not None:
            yield self._writer.close

    def _leave_out_what_is_known(self) -> None:
        """Of several instances, do without those that are quarantined or could not be decoded lately."""
        for location, target in self._pairs() if len(self._locations) > 1 else ():
            made = location.transfer_syntax_uid != target
            error = self._left_out.known(location, (location.digest, target) if made else None)
            if error is not None:
                self._left_out.errors[location.sop_instance_uid] = error

    def _pairs(self) -> list[tuple[InstanceLocation, str]]:
        """The instances that are not left out so far, each with its transfer syntax."""
        pairs = zip(self._locations, self._targets, strict=True)
        return [pair for pair in pairs if pair[0].sop_instance_uid not in self._left_out.errors]

    def _leave_out(self, location: InstanceLocation, target: str, error: ArchiveError) -> None:
        """Go on without this instance. Raises the error where the answer cannot say so any more, or has no others."""
        if len(self._locations) == 1:
            raise error
        self._left_out.remember((location.digest, target), error)
        if self._complete:
            raise error
        self._left_out.errors[location.sop_instance_uid] = error


def _target(location: InstanceLocation, wanted: str | None) -> str:
    stored = syntax_of(location)
    if wanted is None or wanted == AS_STORED:
        return served_as_stored(stored)
    return wanted if location.frames is not None else in_company_of(wanted, stored)


def _transcoded(archive: Archive, location: InstanceLocation, target: str) -> Iterator[Buffer]:
    dataset, ts = archive.retrieve.dataset(location), location.transfer_syntax_uid
    syntax = syntax_of(location)
    if syntax.codec == "native" and not syntax.deflated and target == EXPLICIT_LITTLE_ENDIAN:
        yield from transcoded_pieces(dataset, ts, target)  # only the byte order or the VRs: no codec looks at it
    else:
        yield archive.decoding.transcode(dataset, ts, target)


async def metadata(call: Call) -> Answer:
    """GET .../metadata: everything but bulk data, from the index alone; 304 where nothing has changed."""
    principal = call.principal(Right.READ)
    study = call.uid("study")
    series, instance = (call.uid(name) if name in call.params else None for name in ("series", "instance"))

    def look() -> Answer | Callable[[], Answer]:
        offer = call.choose(METADATA)
        editions = call.archive.retrieve.editions(principal, study, series, instance)
        tag = entity_tag(call.service_root, offer, editions)
        headers = [("ETag", tag)]
        if matches(call.headers.get("if-none-match", ""), tag):
            return Answer(304, headers=[*headers, VARY])
        # The tag tells all that the body depends on, so that a body outlives changes of other studies.
        key = (tag, accepts_gzip(call.headers.get("accept-encoding")))
        answer = call.web.kept.get(key, None)
        return partial(_described, call, editions, offer, key) if answer is None else answer

    return await call.once(("metadata", len(call.params)), look)


def _described(call: Call, editions: Sequence[Edition], offer: Offer, key: tuple[str, bool]) -> Answer:
    root = call.service_root
    documents = [
        raw.replace(HERE, address(root, edition).encode("ascii"))
        for edition, raw in zip(editions, call.archive.retrieve.metadata(editions), strict=True)
    ]
    headers = [("ETag", key[0])]
    if offer.media_type == DICOM_XML:
        xml = [xml_model.dumps(orjson.loads(document)) for document in documents]
        answer = documents_answer(call, xml, multipart=offer.multipart, headers=headers)
    else:
        answer = call.text(b"[" + b",".join(documents) + b"]", DICOM_JSON, headers)
    call.web.kept.put(key, None, answer, 1000 + sum(map(len, answer.body)))
    return answer


def matches(header: str, tag: str) -> bool:
    """Whether an If-None-Match header names `tag`, by weak comparison, or any (RFC 9110 13.1.2)."""
    named = [each.strip().removeprefix("W/") for each in header.split(",")]
    return "*" in named or tag.removeprefix("W/") in named


def entity_tag(root: str, offer: Offer, editions: Sequence[Edition]) -> str:
    """What changes with every instance added, removed, replaced or corrected. Weak: compression does not change it."""
    whole = hashlib.sha256(f"{root} {offer.media_type} {offer.multipart}".encode())
    for edition in editions:
        whole.update(f"{edition.instance_key} {edition.version} {edition.sop_instance_uid}".encode())
    return f'W/"{whole.hexdigest()[:32]}"'
