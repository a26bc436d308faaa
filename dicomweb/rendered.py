"""WADO-RS rendered resources (PS3.18 10.4.1.1.3): images as JPEG or PNG, other objects by renditions handed in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dicomweb import frames
from dicomweb.answers import Answer
from dicomweb.calls import Call
from dicomweb.media_types import JPEG, PNG, NotAcceptable, Offer
from dicomweb.multipart import Writer
from dicomweb.wado import locate, syntax_of
from pacs.dicom.decode import PixelInfo
from pacs.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from pacs.retrieve import InstanceLocation

WINDOW_FUNCTIONS = ("linear", "linear-exact", "sigmoid")
DEFAULT_QUALITY = 90
MAX_VIEWPORT = 16_384
WHOLE = 1 << 24  # more pixels than any image has: cut to its edge
MAX_RENDERED_FRAMES = 64
IGNORED = ("annotation", "iccprofile")


@dataclass(frozen=True, slots=True)
class Rendering:
    """How an image is to be shown (PS3.18 8.3.5.1).

    `window` is centre, width and VOI LUT function; `viewport` is width and height in pixels, then, where given, the
    source region: left, top, width, height in pixels of the image, negative width or height for a flip.
    """

    window: tuple[float, float, str] | None = None
    viewport: tuple[int, ...] | None = None
    quality: int = DEFAULT_QUALITY


def rendering(call: Call) -> Rendering:
    """The rendering parameters of a request. Raises InvalidInput."""
    window, viewport, quality = (call.parameter(name) for name in ("window", "viewport", "quality"))
    return Rendering(
        None if window is None else parse_window(window),
        None if viewport is None else parse_viewport(viewport),
        DEFAULT_QUALITY if quality is None else parse_quality(quality),
    )


def parse_window(text: str) -> tuple[float, float, str]:
    """Centre, width and VOI LUT function out of "centre,width[,function]" (8.3.5.1.4). Raises InvalidInput."""
    parts = [part.strip() for part in text.split(",")]
    if not 2 <= len(parts) <= 3:
        raise InvalidInput("window is centre, width and function", about="window")
    center, width = _numbers(parts[:2], "window")
    function = parts[2].lower() if len(parts) == 3 else "linear"
    if function not in WINDOW_FUNCTIONS:
        raise InvalidInput("the window's function is linear, linear-exact or sigmoid", about="window")
    if width < 1 if function == "linear" else width <= 0:
        raise InvalidInput("the window has no width (PS3.3 C.11.2.1.2)", about="window")
    return center, width, function


def parse_viewport(text: str) -> tuple[int, ...]:
    """Width and height, and the source region where given, out of "vw,vh[,sx,sy,sw,sh]" (8.3.5.1.3).

    Empty members of a region stand for its defaults: the left or top edge, and all that there is. Raises InvalidInput.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in (2, 6):
        raise InvalidInput("viewport is width and height, or these and a region of four numbers", about="viewport")
    width, height = _numbers(parts[:2], "viewport")
    if not (1 <= width <= MAX_VIEWPORT and 1 <= height <= MAX_VIEWPORT and width % 1 == height % 1 == 0):
        raise InvalidInput(f"the viewport's sides are 1 to {MAX_VIEWPORT} whole pixels", about="viewport")
    defaults = ("0", "0", str(WHOLE), str(WHOLE))
    region = _numbers([part or default for part, default in zip(parts[2:], defaults, strict=False)], "viewport")
    if any(abs(number) > WHOLE for number in region):
        raise InvalidInput("the viewport's region is no part of any image", about="viewport")
    return (int(width), int(height), *map(round, region))


def parse_quality(text: str) -> int:
    """1 to 100 (8.3.5.1.2). Raises InvalidInput."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 3 and 1 <= int(text) <= 100):
        raise InvalidInput("quality is a whole number from 1 to 100", about="quality")
    return int(text)


def _numbers(parts: Sequence[str], about: str) -> list[float]:
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        raise InvalidInput(f"{about} is a list of numbers", about=about) from None
    if not all(map(math.isfinite, numbers)):
        raise InvalidInput(f"{about} is a list of finite numbers", about=about)
    return numbers


def is_image(location: InstanceLocation) -> bool:
    """Whether we can show its frames."""
    return location.frames is not None and syntax_of(location).codec is not None


def image_offers(*, multipart: bool) -> list[Offer]:
    """The media types of rendered images, the default first."""
    return [Offer(media_type, multipart) for media_type in (JPEG, PNG)]


async def frame(call: Call) -> Answer:
    """GET .../frames/{frames}/rendered: the frame as an image; several frames as parts, in their order."""
    wanted = frames.numbers(call.params["frames"])
    if len(wanted) > MAX_RENDERED_FRAMES:
        raise InvalidInput(f"at most {MAX_RENDERED_FRAMES} frames are rendered at a time")
    how = rendering(call)
    [location] = await call.io(locate, call)
    frames.check(location, wanted)
    if not is_image(location):
        raise NotAcceptable("this pixel data cannot be rendered here", about=location.sop_instance_uid)
    offer = call.choose(image_offers(multipart=len(wanted) > 1))
    images = [await call.cpu(render, call, location, number, how, offer.media_type) for number in wanted]
    if not offer.multipart:
        return Answer(200, offer.media_type, images, _ignored(call))
    writer = Writer(offer.media_type)
    parts = [piece for image in images for piece in (writer.head(offer.media_type), image)]
    return Answer(200, writer.content_type, [*parts, writer.close], _ignored(call))


async def instances(call: Call) -> Answer:
    """GET .../rendered of an instance, series or study.

    Images: the first frame of the instance, or of the one in the middle of the series or study, as a representative.
    A rendition, where one is asked for by its media type or nothing is an image: of all the instances together.
    """
    how = rendering(call)
    locations = await call.io(locate, call)
    images = [location for location in locations if is_image(location)]
    offers = [*(image_offers(multipart=False) if images else ()), *map(Offer, call.web.renditions)]
    offer = call.choose(offers)
    rendition = call.web.renditions.get(offer.media_type)
    if rendition is not None:
        try:
            body = await call.cpu(rendition, call.archive, locations)
        except NotFound as error:
            raise NotAcceptable(f"this cannot be had as {offer.media_type}", about=error.about) from error
        return await call.cpu(call.text, body, offer.media_type, _ignored(call))
    shown = images[len(images) // 2]
    image = await call.cpu(render, call, shown, 1, how, offer.media_type)
    return Answer(200, offer.media_type, [image], _ignored(call))


def _ignored(call: Call) -> list[tuple[str, str]]:
    given = sorted({name for name, _ in call.query if name in IGNORED})
    return [call.warning(f"The {name} parameter is not supported and has been ignored.") for name in given]


def render(call: Call, location: InstanceLocation, number: int, how: Rendering, media_type: str) -> bytes:
    """One frame as an image file. Blocks. Raises Undecodable and InvalidInput."""
    metadata = frames.attributes(call.archive, location)
    return call.archive.decoding.render(
        call.archive.retrieve.frame(location, number),
        PixelInfo.from_metadata(metadata, location.transfer_syntax_uid),
        metadata,
        frame_number=number,
        window=how.window,
        viewport=how.viewport,
        quality=how.quality,
        media_type=media_type,
    )
