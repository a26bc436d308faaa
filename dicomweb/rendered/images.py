"""Frames of images as pictures: what of the metadata they need, drawn by the decoders, one or many at a time."""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from dicomweb import frames, several
from dicomweb.answers import Answer, Buffer
from dicomweb.calls import Call
from dicomweb.media_types import NotAcceptable, Offer
from dicomweb.multipart import Writer
from dicomweb.places import address, locate, syntax_of
from dicomweb.rendered.parameters import Rendering, chosen, rendering, warnings
from pacs.dicom import icc, labels, pictures
from pacs.dicom import render as drawing
from pacs.dicom.decode import PixelInfo
from pacs.dicom.lookup import items, number
from pacs.dicom.transcode import little_endian_value
from pacs.errors import InvalidInput, Undecodable

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.retrieve import InstanceLocation

GIF = "image/gif"
MAX_RENDERED_FRAMES = 64
MAX_ANIMATED_FRAMES = 256
MAX_ANIMATED_PIXELS = 1 << 26
MAX_FILLED_BYTES = 32 << 20
"""Tables, overlays and profiles of one image that are kept as bulk data."""

_BULK = "/bulkdata/"
_ICC, _OPTICAL_PATHS = "00282000", "00480105"
_REPRESENTATIVE = "00286010"


def is_image(location: InstanceLocation) -> bool:
    """Whether we can show its frames."""
    return location.frames is not None and syntax_of(location).codec is not None


def image_offers(*, multipart: bool = False) -> list[Offer]:
    """The media types of rendered images, the default first (PS3.18 Table 8.7.4-1)."""
    return [Offer(media_type, multipart) for media_type in pictures.MEDIA_TYPES]


async def frame(call: Call) -> Answer:
    """GET .../frames/{frames}/rendered: the frame as an image; several frames as parts, in their order."""
    wanted = frames.numbers(call.params["frames"])
    if len(wanted) > MAX_RENDERED_FRAMES:
        raise InvalidInput(f"at most {MAX_RENDERED_FRAMES} frames are rendered at a time")
    how = rendering(call)
    [location] = await located(call)
    frames.check(location, wanted)
    if not is_image(location):
        raise NotAcceptable("this pixel data cannot be rendered here", about=location.sop_instance_uid)
    offers = image_offers(multipart=True) if len(wanted) > 1 else [*image_offers(), *image_offers(multipart=True)]
    offer = chosen(call, offers)
    if offer.multipart:
        return await parts(call, [(location, wanted)], how, offer.media_type, positional=True)
    return await one(call, [(location, wanted[0])], how, offer.media_type)


async def located(call: Call) -> list[InstanceLocation]:
    """The instances that the path names, for one who may read. Raises NotFound."""
    if "instance" in call.params:
        return await call.quickly("rendered", lambda: locate(call))
    return await call.io(locate, call)


async def one(
    call: Call, candidates: Iterable[tuple[InstanceLocation, int]], how: Rendering, media_type: str
) -> Answer:
    """The frame of the first of these images that can be drawn, as the body itself."""
    drawn = partial(_drawn_of, call, how, media_type)
    image, said = await call.cpu(several.first_of, call, map(_named, candidates), drawn)
    return Answer(200, media_type, [image], [*warnings(call, how, media_type), *said])


def _drawn_of(call: Call, how: Rendering, media_type: str, candidate: tuple[InstanceLocation, int]) -> bytes:
    return render(call, *candidate, how, media_type)


def _named(candidate: tuple[InstanceLocation, int]) -> tuple[str, tuple[InstanceLocation, int]]:
    return name_of(*candidate), candidate


def name_of(location: InstanceLocation, number: int) -> str:
    """What a Warning calls a frame."""
    return location.sop_instance_uid if count(location) == 1 else f"frame {number} of {location.sop_instance_uid}"


def count(location: InstanceLocation) -> int:
    """How many frames there are; 1 of what has none."""
    return location.frames.number_of_frames if location.frames is not None else 1


def representative(archive: Archive, location: InstanceLocation) -> int:
    """The number of the frame that stands for all: the one that says so (PS3.3 C.7.6.9), else the middle one. Blocks.

    The first frame of a volume, of a rotation or of what contrast runs into is often black.
    """
    there = count(location)
    said = number(frames.attributes(archive, location), _REPRESENTATIVE) if there > 1 else None
    return int(said) if said and 1 <= said <= there else (there + 1) // 2


def representatives(
    archive: Archive, images: Sequence[InstanceLocation], *, alone: bool
) -> Iterator[tuple[InstanceLocation, int]]:
    """What may stand for these images, the best first: the representative frame of the one in the middle. Blocks.

    Where there is one `alone`, those beside that frame follow, else the images beside that image.
    """
    if alone:
        numbers = range(1, count(images[0]) + 1)
        for each in several.from_the_middle(numbers, representative(archive, images[0]) - 1):
            yield images[0], each
    else:
        for image in several.from_the_middle(images, len(images) // 2):
            yield image, representative(archive, image)


async def parts(
    call: Call,
    wanted: Sequence[tuple[InstanceLocation, Sequence[int]]],
    how: Rendering,
    media_type: str,
    *,
    positional: bool = False,
) -> Answer:
    """The frames of each instance as parts; `positional` where the client told their numbers, in their order."""
    writer = Writer(media_type)

    def part(location: InstanceLocation, number: int) -> several.Part:
        def pieces() -> Iterator[Buffer]:
            image = render(call, location, number, how, media_type)
            yield writer.head(media_type, f"{address(call.service_root, location)}/frames/{number}/rendered")
            yield image

        key = (location.digest, "rendered", number)
        return several.Part(name_of(location, number), location, key, pieces)

    every = [part(location, number) for location, numbers in wanted for number in numbers]
    said = warnings(call, how, media_type)
    making = partial(several.answer, call, writer, every, "pictures", said, decoded=True, positional=positional)
    return await call.cpu(making)


def render(call: Call, location: InstanceLocation, number: int, how: Rendering, media_type: str) -> bytes:
    """One frame as an image file. Blocks. Raises Undecodable and InvalidInput."""
    return drawn(call.archive, location, number, how, media_type)


def drawn(
    archive: Archive, location: InstanceLocation, number: int, how: Rendering, media_type: str, *, overlays: bool = True
) -> bytes:
    """As `render`; without `overlays` nothing is drawn over the image."""
    metadata = frames.attributes(archive, location)
    needed, _ = drawing.relevant(metadata, number, overlays=overlays)
    return archive.decoding.render(
        archive.retrieve.frame(location, number),
        described(metadata, location),
        filled(archive, location, needed),
        frame_number=1,  # of the one that `needed` is for
        window=how.window,
        viewport=how.viewport,
        quality=how.quality,
        media_type=media_type,
        extras=replace(extras(archive, location, metadata, number, how), overlays=overlays, number=number),
    )


def described(metadata: Mapping[str, Any], location: InstanceLocation) -> PixelInfo:
    """How an image's pixels lie. Raises NotAcceptable where they do in a way of which no picture is made here.

    Twelve bits allocated, which only editions before 2014 had, or what no frame can be, are no failure of the server's.
    """
    try:
        return PixelInfo.from_metadata(metadata, location.transfer_syntax_uid)
    except Undecodable as error:
        raise NotAcceptable(f"this cannot be rendered: {error.reason}", about=error.about) from error


def extras(
    archive: Archive, location: InstanceLocation, metadata: Mapping[str, Any], number: int, how: Rendering
) -> drawing.Extras:
    """Words and colour profile of a picture."""
    top = labels.patient(metadata) if "patient" in how.annotation else []
    bottom = labels.technique(metadata, number, count(location)) if "technique" in how.annotation else []
    own = None
    if how.iccprofile is not None and how.iccprofile != "no":
        places = [metadata, *items(metadata, _OPTICAL_PATHS)[:1]]
        entry = next((place[_ICC] for place in places if _ICC in place), None)
        own = None if entry is None else icc.usable(_value(archive, location, entry))
    return drawing.Extras(tuple(top), tuple(bottom), how.iccprofile, own)


def animated(call: Call, location: InstanceLocation, how: Rendering) -> bytes:
    """All frames of an instance as one animated GIF. Blocks. Raises NotAcceptable where they are too many."""
    assert location.frames is not None
    count = location.frames.number_of_frames
    metadata = frames.attributes(call.archive, location)
    info = described(metadata, location)
    size = how.viewport[0] * how.viewport[1] if how.viewport else info.rows * info.columns
    if count > MAX_ANIMATED_FRAMES or count * size > MAX_ANIMATED_PIXELS:
        raise NotAcceptable(f"{count} frames are too many for one GIF: ask for some of them, or for a smaller viewport")
    made = [drawn(call.archive, location, n, how, pictures.RAW) for n in range(1, count + 1)]
    return call.archive.decoding.run(pictures.animation_of, made, frame_time_ms(metadata))


def frame_time_ms(metadata: Mapping[str, Any]) -> float:
    """How long a frame is shown: as recommended, as recorded, or a tenth of a second (PS3.3 C.7.6.5)."""
    rate = number(metadata, "00082144") or number(metadata, "00180040")
    time = 1000 / rate if rate else number(metadata, "00181063")
    return min(max(time or 100.0, 20.0), 10_000.0)


def filled(archive: Archive, location: InstanceLocation, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata with its bulk data in it, base64: tables and overlays too long to be held inline. Blocks."""
    left = MAX_FILLED_BYTES

    def copied(place: Mapping[str, Any]) -> dict[str, Any]:
        return {tag: entry_of(entry) for tag, entry in place.items()}

    def entry_of(entry: Any) -> Any:
        nonlocal left
        if not isinstance(entry, dict):
            return entry
        if "BulkDataURI" in entry:
            value = _value(archive, location, entry, left)
            left -= len(value)
            return {"vr": entry["vr"], "InlineBinary": b2a_base64(value, newline=False).decode("ascii")}
        if entry.get("vr") == "SQ":
            return {"vr": "SQ", "Value": [copied(item) for item in items({"": entry}, "")]}
        return entry

    return copied(metadata)


def _value(
    archive: Archive, location: InstanceLocation, entry: Mapping[str, Any], most: int = MAX_FILLED_BYTES
) -> bytes:
    """The bytes of a value, little endian, wherever it is; nothing where it is larger than `most`."""
    if "InlineBinary" in entry:
        return a2b_base64(entry["InlineBinary"])
    path = str(entry.get("BulkDataURI", "")).rpartition(_BULK)[2]
    for bulk in location.bulk:
        if bulk.path == path and bulk.length <= most:
            raw = archive.retrieve.bulkdata(location, path)
            return little_endian_value(raw, bulk.vr, location.transfer_syntax_uid)
    return b""
