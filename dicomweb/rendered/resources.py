"""The rendered and thumbnail resources of studies, series and instances (PS3.18 10.4.1.1.3, 10.4.1.1.4).

As a body by itself there is one representative; as a multipart answer every frame of every image is a part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dicomweb import frames
from dicomweb.answers import BATCH_BYTES, Answer, Buffer, pull
from dicomweb.calls import Call
from dicomweb.media_types import NotAcceptable, Offer
from dicomweb.multipart import Writer
from dicomweb.rendered import documents, images, states
from dicomweb.rendered.images import GIF, image_offers, is_image
from dicomweb.rendered.parameters import Rendering, chosen, parse_viewport, rendering, warnings
from pacs.dicom import labels, pictures
from pacs.errors import NotFound, Undecodable

if TYPE_CHECKING:
    from pacs.retrieve import InstanceLocation

THUMBNAIL = (128, 128)
THUMBNAIL_TYPES = ("image/jpeg", "image/png", "image/gif")
_MODELS = ("1.2.840.10008.5.1.4.1.1.104.3",)
_VOLUMES, X3D = ("1.2.840.10008.5.1.4.1.1.7.2",), "model/x3d+xml"


async def instances(call: Call) -> Answer:
    """GET .../rendered of an instance, series or study.

    The default is a picture: of the first frame of the instance, or of the image in the middle of the series or study.
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
        return await _rendition(call, locations, offer.media_type)
    if offer.media_type not in pictures.MEDIA_TYPES:
        return await documents.given(call, next(each for each in held if each.media_type == offer.media_type))
    if not shown:
        return await _presented(call, presented, how, offer)
    if offer.multipart:
        every = [(each, range(1, each.frames.number_of_frames + 1)) for each in shown if each.frames is not None]
        return await images.parts(call, every, how, offer.media_type)
    chosen_one = shown[len(shown) // 2]
    several = chosen_one.frames is not None and chosen_one.frames.number_of_frames > 1
    if offer.media_type == GIF and several and "instance" in call.params:
        image = await call.cpu(images.animated, call, chosen_one, how)
        return Answer(200, GIF, [image], warnings(call, how, GIF))
    return await images.one(call, chosen_one, 1, how, offer.media_type)


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
        return Answer(
            200, offer.media_type, [await call.cpu(states.drawn, call, *every[0], how, offer.media_type)], said
        )
    writer = Writer(offer.media_type)

    def pieces() -> Iterator[Buffer]:
        for target in every:
            image = states.drawn(call, *target, how, offer.media_type)
            yield writer.head(offer.media_type)
            yield image
        yield writer.close

    made = pieces()
    answer = Answer(200, writer.content_type, await call.cpu(pull, made), said)
    if sum(map(len, answer.body)) >= BATCH_BYTES:
        answer.more, answer.limiter = made, call.web.cpu
    return answer


async def thumbnail(call: Call) -> Answer:
    """GET .../thumbnail of a study, series, instance or frame: a small picture, an icon for what is no image.

    Nothing is burnt in. Of several instances it is the image in the middle, of several frames that of the middle.
    """
    viewport = call.parameter("viewport")
    how = Rendering(viewport=THUMBNAIL if viewport is None else parse_viewport(viewport))
    wanted = frames.numbers(call.params["frames"]) if "frames" in call.params else []
    offer = chosen(call, [Offer(media_type) for media_type in THUMBNAIL_TYPES])
    locations = await images.located(call)
    if wanted:
        frames.check(locations[0], wanted)

    def made() -> bytes:
        shown = [location for location in locations if is_image(location)]
        if shown and shown[len(shown) // 2].frames is not None:
            location = shown[len(shown) // 2]
            count = location.frames.number_of_frames if location.frames is not None else 1
            number = wanted[0] if wanted else (count + 1) // 2
            return images.drawn(call.archive, location, number, how, offer.media_type, overlays=False)
        assert how.viewport is not None
        metadata = frames.attributes(call.archive, locations[0])
        return pictures.encoded(labels.icon(metadata, *how.viewport[:2]), offer.media_type)

    return Answer(200, offer.media_type, [await call.cpu(made)])
