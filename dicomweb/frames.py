"""WADO-RS frames (PS3.18 10.4.1.1.6): single frames, in the order asked for, decoded or as their stored codestream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import orjson

from dicomweb.answers import BATCH_BYTES, Answer, Buffer, pull
from dicomweb.calls import HERE, Call
from dicomweb.media_types import OCTET_STREAM, Offer
from dicomweb.multipart import Writer
from dicomweb.wado import locate, syntax_of
from pacs.dicom.decode import PixelInfo
from pacs.dicom.transfer_syntaxes import EXPLICIT_BIG_ENDIAN, EXPLICIT_LITTLE_ENDIAN
from pacs.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.retrieve import InstanceLocation

MAX_FRAMES = 10_000


def numbers(text: str) -> list[int]:
    """The frame numbers of a path, counted from 1, in their order. Raises InvalidInput."""
    found = text.split(",")
    if len(found) > MAX_FRAMES or not all(each.isascii() and each.isdecimal() and len(each) <= 9 for each in found):
        raise InvalidInput("a list of frame numbers is needed: digits, joined by commas")
    frames = [int(each) for each in found]
    if 0 in frames:
        raise InvalidInput("frames are counted from 1")
    return frames


def check(location: InstanceLocation, frames: Sequence[int]) -> None:
    """Nothing, or NotFound where the instance has no frames or not so many."""
    if location.frames is None:
        raise NotFound("the instance has no frames", about=location.sop_instance_uid)
    beyond = max(frames)
    if beyond > location.frames.number_of_frames:
        raise NotFound(f"frame {beyond} of {location.frames.number_of_frames}", about=location.sop_instance_uid)


def offers(location: InstanceLocation, *, single: bool) -> list[Offer]:
    """What the frames of an instance can be had in (PS3.18 Table 8.7.3-5).

    Uncompressed by default where we can decode them. The stored codestream goes by its own media type, and also
    answers `application/octet-stream; transfer-syntax=*`, which is what viewers ask for.
    """
    syntax = syntax_of(location)
    made = []
    if syntax.codec is not None:
        native = not syntax.encapsulated
        made.append(Offer(OCTET_STREAM, True, EXPLICIT_LITTLE_ENDIAN, default=True, as_stored=native))
    if syntax.encapsulated and syntax.media_type is not None:
        unlike = syntax.media_type != OCTET_STREAM
        aliases = (OCTET_STREAM,) if unlike else ()
        # A range without transfer-syntax names the stored codestream only by its own media type.
        default = unlike or syntax.codec is None
        made.append(Offer(syntax.media_type, True, syntax.uid, default=default, as_stored=True, aliases=aliases))
    if single:
        made += [Offer(o.media_type, False, o.transfer_syntax, o.default, o.as_stored, o.aliases) for o in made]
    return made


def pixel_info(archive: Archive, location: InstanceLocation) -> PixelInfo:
    """What the decoder has to know of an instance. Blocks. Raises MalformedDataset."""
    return PixelInfo.from_metadata(attributes(archive, location), location.transfer_syntax_uid)


def attributes(archive: Archive, location: InstanceLocation) -> dict[str, object]:
    """The metadata of an instance as DICOM JSON; addresses of bulk data begin with "/bulkdata". Blocks."""
    found: dict[str, object] = orjson.loads(archive.retrieve.metadata([location])[0].replace(HERE, b""))
    return found


async def retrieve(call: Call) -> Answer:
    """GET .../frames/{frames}: multipart, or for one frame also the frame alone."""
    wanted = numbers(call.params["frames"])

    def look() -> Answer | tuple[InstanceLocation, Offer]:
        [location] = locate(call)
        check(location, wanted)
        offer = call.choose(offers(location, single=len(wanted) == 1))
        return (location, offer) if must_decode(location, offer) else begin(call, location, wanted, offer)

    found = await call.io(look)
    return found if isinstance(found, Answer) else await call.cpu(begin, call, found[0], wanted, found[1])


def must_decode(location: InstanceLocation, offer: Offer) -> bool:
    """Whether the stored bytes of a frame are not what `offer` says."""
    ts = location.transfer_syntax_uid
    return offer.transfer_syntax != ts and (syntax_of(location).encapsulated or ts == EXPLICIT_BIG_ENDIAN)


def begin(call: Call, location: InstanceLocation, wanted: Sequence[int], offer: Offer) -> Answer:
    """The answer with these frames as `offer` says; its first batch is made. Blocks."""
    decoding = must_decode(location, offer)
    content_type = f"{offer.media_type}; transfer-syntax={offer.transfer_syntax}"
    writer = Writer(offer.media_type) if offer.multipart else None
    made = pieces(call.archive, location, wanted, decode=decoding, head=writer.head(content_type) if writer else None)
    whole = _closed(made, writer)
    # The first frame is made before the headers go out, so that a broken one is an honest error.
    first = pull(whole)
    answer = Answer(200, writer.content_type if writer else content_type, first)
    if sum(map(len, first)) >= BATCH_BYTES and len(wanted) > 1:
        answer.more, answer.limiter = whole, call.web.cpu if decoding else call.web.io
    elif writer is not None:
        answer.body = [*first, *whole]
    return answer


def _closed(made: Iterator[Buffer], writer: Writer | None) -> Iterator[Buffer]:
    yield from made
    if writer is not None:
        yield writer.close


def pieces(
    archive: Archive, location: InstanceLocation, wanted: Sequence[int], *, decode: bool, head: bytes | None
) -> Iterator[Buffer]:
    """Each frame, with `head` before it where given; decoded to Explicit VR Little Endian where `decode`. Blocks."""
    info = pixel_info(archive, location) if decode else None
    for number in wanted:
        data = archive.retrieve.frame(location, number)
        made = data if info is None else archive.decoding.explicit_le_frame(data, info)
        if head is not None:
            yield head
        yield made
