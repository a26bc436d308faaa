"""The rendered and thumbnail resources of studies, series and instances (PS3.18 10.4.1.1.3, 10.4.1.1.4).

As a body by itself there is one representative; as a multipart answer every frame of every image is a part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from dicomweb import frames, several
from dicomweb.answers import Answer, Buffer
from dicomweb.calls import Call
from dicomweb.media_types import NotAcceptable, Offer
from dicomweb.multipart import Writer
from dicomweb.rendered import documents, images, states
from dicomweb.rendered.images import GIF, image_offers, is_image
from dicomweb.rendered.parameters import Rendering, chosen, parse_viewport, rendering, warnings
from pacs.dicom import labels, pictures
from pacs.errors import ArchiveError, Corrupt, NotFound, Undecodable

if TYPE_CHECKING:
    from pacs.retrieve import InstanceLocation

THUMBNAIL = (128, 128)
THUMBNAIL_TYPES = ("image/jpeg", "image/png", "image/gif")
_MODELS = ("1.2.840.10008.5.1.4.1.1.104.3",)
_VOLUMES, X3D = ("1.2.840.10008.5.1.4.1.1.7.2",), "model/x3d+xml"


async def instances(call: Call) -> Answer:
    """GET .../rendered of an instance, series or study.

    The default is a picture: of the image in the middle of the series or study, of an image with several frames the
    representative one; where that cannot be drawn, of the nearest that can, which a Warning says.
    Where there is no image it is what a presentation state presents, a report or a document. Models that are asked
    for by their media type, or are all that there is, are of all the instances together.
    """
    how = rendering(call)
    locations = await images.located(call)
    shown = [location for location in locations if is_image(location)]
    presented = [location for location in locations if states.is_state(location)]
    held = [document for location in locations for document in documents.documents(location)]
    renditions = list(call.web.renditions) if any(each.sop_class_uid in _MODELS for each in locations) else []
    if not renditions and any(each.sop_class_uid in _VOLUMES for each in locations):
        renditions = [each for each in call.web.renditions if each == X3D]
    offers = [
        *(image_offers() if shown or presented else ()),
        *map(Offer, renditions),
        *dict.fromkeys(document.offer() for document in held),
        *(image_offers(multipart=True) if shown or presented else ()),
    ]
    offer = chosen(call, offers)
    if offer.media_type in renditions:
        try:
            return await _rendition(call, locations, offer.media_type)
        except NotAcceptable as error:
            # A model that no scene can be made of, one in the text form for example, is still given as it was put in.
            offers = [each for each in offers if each.media_type not in renditions]
            try:
                offer = chosen(call, offers)
            except NotAcceptable:
                raise error from None
    if offer.media_type not in pictures.MEDIA_TYPES:
        return await _document(call, [each for each in held if each.media_type == offer.media_type])
    if not shown:
        return await _presented(call, presented, how, offer)
    if offer.multipart:
        every = [(each, range(1, each.frames.number_of_frames + 1)) for each in shown if each.frames is not None]
        return await images.parts(call, every, how, offer.media_type)
    alone = "instance" in call.params
    if alone and offer.media_type == GIF and images.count(shown[0]) > 1:
        image = await call.cpu(images.animated, call, shown[0], how)
        return Answer(200, GIF, [image], warnings(call, how, GIF))
    return await images.one(call, images.representatives(call.archive, shown, alone=alone), how, offer.media_type)


async def _document(call: Call, held: Sequence[documents.Document]) -> Answer:
    """The first of these documents that can be had, and a Warning where it is not the first."""
    failed: list[ArchiveError] = []
    for document in held[: several.TRIED]:
        try:
            answer = await documents.given(call, document)
        except (NotFound, Corrupt, Undecodable) as error:
            failed.append(error)
            continue
        if failed:
            told = f"This is {document.location.sop_instance_uid}; {len(failed)} before it cannot be had"
            answer.headers.append(call.warning(told))
        return answer
    raise failed[0]


async def _rendition(call: Call, locations: list[InstanceLocation], media_type: str) -> Answer:
    try:
        body = await call.cpu(call.web.renditions[media_type], call.archive, locations)
    except (NotFound, Undecodable) as error:  # also a model that is no model: none of the server's failures
        raise NotAcceptable(f"this cannot be had as {media_type}: {error.reason}", about=error.about) from error
    return await call.cpu(call.text, body, media_type)


async def _presented(call: Call, presented: Sequence[InstanceLocation], how: Rendering, offer: Offer) -> Answer:
    states.check(how)

    def wanted() -> list[tuple[InstanceLocation, InstanceLocation, int]]:
        found = [(state, *target) for state in presented for target in states.targets(call, state)]
        return found if offer.multipart else found[:1]

    every = await call.io(wanted)
    said = warnings(call, how, offer.media_type)
    if not offer.multipart:
        candidates = [(images.name_of(*target[1:]), target) for target in every]

        def drawn(target: tuple[InstanceLocation, InstanceLocation, int]) -> bytes:
            return states.drawn(call, *target, how, offer.media_type)

        image, more = await call.cpu(several.first_of, call, candidates, drawn)
        return Answer(200, offer.media_type, [image], [*said, *more])
    writer = Writer(offer.media_type)

    def part(state: InstanceLocation, location: InstanceLocation, number: int) -> several.Part:
        def pieces() -> Iterator[Buffer]:
            image = states.drawn(call, state, location, number, how, offer.media_type)
            yield writer.head(offer.media_type)
            yield image

        key = (state.digest, location.digest, "presented", number)
        return several.Part(images.name_of(location, number), location, key, pieces)

    parts = [part(*target) for target in every]
    return await call.cpu(partial(several.answer, call, writer, parts, "pictures", said, decoded=True))


async def thumbnail(call: Call) -> Answer:
    """GET .../thumbnail of a study, series, instance or frame: a small picture, an icon for what is no image.

    Nothing is burnt in. It is of the same image and frame as the picture (10.4.3.3.4 asks for a "meaningful" one).
    """
    viewport = call.parameter("viewport")
    how = Rendering(viewport=THUMBNAIL if viewport is None else parse_viewport(viewport))
    wanted = frames.numbers(call.params["frames"]) if "frames" in call.params else []
    offer = chosen(call, [Offer(media_type) for media_type in THUMBNAIL_TYPES])
    locations = await images.located(call)
    if wanted:
        frames.check(locations[0], wanted)

    shown = [location for location in locations if is_image(location)]
    if not shown:

        def icon() -> bytes:
            assert how.viewport is not None
            metadata = frames.attributes(call.archive, locations[0])
            return pictures.encoded(labels.icon(metadata, *how.viewport[:2]), offer.media_type)

        return Answer(200, offer.media_type, [await call.cpu(icon)])
    candidates: Iterable[tuple[InstanceLocation, int]] = [(shown[0], number) for number in wanted[:1]]
    if not wanted:
        candidates = images.representatives(call.archive, shown, alone="instance" in call.params)

    def drawn(candidate: tuple[InstanceLocation, int]) -> bytes:
        return images.drawn(call.archive, *candidate, how, offer.media_type, overlays=False)

    named = ((images.name_of(*candidate), candidate) for candidate in candidates)
    image, said = await call.cpu(several.first_of, call, named, drawn)
    return Answer(200, offer.media_type, [image], said)
