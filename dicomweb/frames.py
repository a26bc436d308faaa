"""WADO-RS frames (PS3.18 10.4.1.1.6): single frames, in the order asked for, decoded or as their stored codestream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import orjson

from dicomweb import several
from dicomweb.answers import BATCH_BYTES, Answer, Buffer, pull
from dicomweb.calls import HERE, Call
from dicomweb.media_types import Offer, negotiate
from dicomweb.multipart import Writer
from dicomweb.offers import of_frames
from dicomweb.places import locate, syntax_of
from pacs.dicom.decode import PixelInfo
from pacs.dicom.transfer_syntaxes import EXPLICIT_BIG_ENDIAN, EXPLICIT_LITTLE_ENDIAN
from pacs.errors import InvalidInput, NotFound, Undecodable

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


def pixel_info(archive: Archive, location: InstanceLocation) -> PixelInfo:
    """What the decoder has to know of an instance. Blocks. Raises MalformedDataset."""
    return PixelInfo.from_metadata(attributes(archive, location), location.transfer_syntax_uid)


def attributes(archive: Archive, location: InstanceLocation) -> dict[str, object]:
    """The metadata of an instance as DICOM JSON; addresses of bulk data begin with "/bulkdata". Blocks."""
    found: dict[str, object] = orjson.loads(archive.retrieve.metadata([location])[0].replace(HERE, b""))
    return found


@lru_cache(maxsize=1024)
def _chosen(ts: str, single: bool, header: str | None, asked: tuple[str, ...]) -> Offer:
    return negotiate(of_frames(ts, single=single), header, asked)


def choose(call: Call, location: InstanceLocation, *, single: bool) -> Offer:
    """What the frames of an instance are sent in. Raises NotAcceptable."""
    return _chosen(location.transfer_syntax_uid, single, *call.accept)


async def retrieve(call: Call) -> Answer:
    """GET .../frames/{frames}: multipart, or for one frame also the frame alone."""
    wanted = numbers(call.params["frames"])

    def look() -> Answer | tuple[InstanceLocation, Offer]:
        [location] = locate(call)
        check(location, wanted)
        offer = choose(call, location, single=len(wanted) == 1)
        return (location, offer) if target(location, offer) else begin(call, location, wanted, offer)

    # A frame in the page cache is there sooner than a thread.
    local = len(wanted) == 1 and call.archive.settings.objects == "files"
    found = await (call.quickly("frame", look) if local else call.io(look))
    return found if isinstance(found, Answer) else await call.cpu(begin, call, found[0], wanted, found[1])


def target(location: InstanceLocation, offer: Offer) -> str | None:
    """The transfer syntax that frames have to be brought into for `offer`, None where they are stored like that."""
    ts, wanted = location.transfer_syntax_uid, offer.transfer_syntax
    if wanted == ts or (wanted == EXPLICIT_LITTLE_ENDIAN and is_native(location) and ts != EXPLICIT_BIG_ENDIAN):
        return None
    return wanted


def is_native(location: InstanceLocation) -> bool:
    """Whether the frames are no codestreams."""
    return not syntax_of(location).encapsulated


def begin(call: Call, location: InstanceLocation, wanted: Sequence[int], offer: Offer) -> Answer:
    """The answer with these frames as `offer` says; its first batch is made. Blocks.

    Frames go by their place in the answer: where one cannot be had, and that is found before the answer begins, there
    is none.
    """
    into = target(location, offer)
    content_type = f"{offer.media_type}; transfer-syntax={offer.transfer_syntax}"
    writer = Writer(offer.media_type) if offer.multipart else None
    head = writer.head(content_type) if writer else None
    if writer is not None and into is not None and len(wanted) > 1:
        info = pixel_info(call.archive, location)
        parts = [_part(call.archive, location, number, into, info, head or b"") for number in wanted]
        return several.answer(call, writer, parts, "frames", decoded=True, positional=True)
    whole = _closed(pieces(call.archive, location, wanted, into=into, head=head), writer)
    # The first frame is made before the headers go out, so that a broken one is an honest error.
    first = pull(whole)
    answer = Answer(200, writer.content_type if writer else content_type, first)
    if sum(map(len, first)) >= BATCH_BYTES and len(wanted) > 1:
        answer.more, answer.limiter = whole, call.web.cpu if into else call.web.io
    elif writer is not None:
        answer.body = [*first, *whole]
    return answer


def _part(
    archive: Archive, location: InstanceLocation, number: int, into: str, info: PixelInfo, head: bytes
) -> several.Part:
    def pieces() -> Iterator[Buffer]:
        try:
            made = _made(archive, location, number, into, info)
        except Undecodable as error:
            raise Undecodable(f"frame {number}: {error.reason}", about=location.sop_instance_uid) from error
        yield head
        yield made

    return several.Part(f"frame {number}", location, (location.digest, "frame", number, into), pieces)


def _closed(made: Iterator[Buffer], writer: Writer | None) -> Iterator[Buffer]:
    yield from made
    if writer is not None:
        yield writer.close


def pieces(
    archive: Archive, location: InstanceLocation, wanted: Sequence[int], *, into: str | None, head: bytes | None
) -> Iterator[Buffer]:
    """Each frame, with `head` before it where given; in the transfer syntax `into`, None = as it is stored. Blocks.

    Raises UnsupportedTransferSyntax where frames of this kind do not fit into it.
    """
    info = None if into is None else pixel_info(archive, location)
    for number in wanted:
        made = _made(archive, location, number, into, info)
        if head is not None:
            yield head
        yield made


def _made(
    archive: Archive, location: InstanceLocation, number: int, into: str | None, info: PixelInfo | None
) -> Buffer:
    data = archive.retrieve.frame(location, number)
    if info is None or into is None:
        return data
    if into == EXPLICIT_LITTLE_ENDIAN:
        return archive.decoding.explicit_le_frame(data, info)
    return archive.decoding.frame(data, info, into)
