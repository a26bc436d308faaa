"""How a request wants its pictures: the query parameters of rendered resources, read and checked (PS3.18 8.3.5.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from dicomweb.calls import Call
from dicomweb.media_types import NotAcceptable, Offer, negotiate
from pacs.dicom import icc, labels, pictures
from pacs.errors import InvalidInput

WINDOW_FUNCTIONS = ("linear", "linear-exact", "sigmoid")
ICC_PROFILES = ("no", "yes", *icc.SPACES)
DEFAULT_QUALITY = 90
MAX_VIEWPORT = 16_384
WHOLE = 1 << 24  # more pixels than any image has: cut to its edge


@dataclass(frozen=True, slots=True)
class Rendering:
    """How an image is to be shown (PS3.18 8.3.5.1).

    `window` is centre, width and VOI LUT function; `viewport` is width and height in pixels, then, where given, the
    source region: left, top, width, height in pixels of the image, negative width or height for a flip. `annotation`
    holds the keywords that we know, `unknown` the others.
    """

    window: tuple[float, float, str] | None = None
    viewport: tuple[int, ...] | None = None
    quality: int = DEFAULT_QUALITY
    annotation: tuple[str, ...] = ()
    iccprofile: str | None = None
    unknown: tuple[str, ...] = ()


def rendering(call: Call) -> Rendering:
    """The rendering parameters of a request. Raises InvalidInput."""
    window, viewport, quality = (call.parameter(name) for name in ("window", "viewport", "quality"))
    annotation, unknown = parse_annotation(call.parameter("annotation") or "")
    iccprofile = call.parameter("iccprofile")
    return Rendering(
        None if window is None else parse_window(window),
        None if viewport is None else parse_viewport(viewport),
        DEFAULT_QUALITY if quality is None else parse_quality(quality),
        annotation,
        None if iccprofile is None else parse_iccprofile(iccprofile),
        unknown,
    )


def parse_annotation(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The keywords that we know, and those that we do not, which only earn a warning (8.3.5.1.1)."""
    given = [part.strip() for part in text.split(",") if part.strip()]
    known = tuple(keyword for keyword in labels.KEYWORDS if keyword in given)
    return known, tuple(keyword for keyword in given if keyword not in labels.KEYWORDS)


def parse_iccprofile(text: str) -> str:
    """One of ICC_PROFILES (8.3.5.1.5). Raises InvalidInput."""
    if text not in ICC_PROFILES:
        raise InvalidInput(f"iccprofile is one of {', '.join(ICC_PROFILES)}", about="iccprofile")
    return text


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
        if not all(part.isascii() and "_" not in part for part in parts):  # which only Python takes for numbers
            raise ValueError
        numbers = [float(part) for part in parts]
    except ValueError:
        raise InvalidInput(f"{about} is a list of numbers", about=about) from None
    if not all(map(math.isfinite, numbers)):
        raise InvalidInput(f"{about} is a list of finite numbers", about=about)
    return numbers


def chosen(call: Call, offers: Sequence[Offer]) -> Offer:
    """The offer to make. Raises NotAcceptable, which lists what there is."""
    try:
        return _negotiated(tuple(offers), *call.accept)
    except NotAcceptable:
        names = dict.fromkeys(f"multipart of {o.media_type}" if o.multipart else o.media_type for o in offers)
        there = f"; there is {', '.join(names)}" if names else ""
        raise NotAcceptable(f"none of the acceptable media types can be had of this{there}") from None


@lru_cache(maxsize=256)
def _negotiated(offers: tuple[Offer, ...], header: str | None, asked: tuple[str, ...]) -> Offer:
    return negotiate(offers, header, asked)


def warnings(call: Call, how: Rendering, media_type: str) -> list[tuple[str, str]]:
    """Warning headers for what was asked and is not done."""
    said = []
    if how.unknown:
        said.append(f"The following annotation values are not supported: {','.join(how.unknown)}")
    if how.iccprofile not in (None, "no") and media_type not in pictures.WITH_PROFILE:
        said.append(f"{media_type} is given without a colour profile.")
    return [call.warning(text) for text in said]
