"""WADO-URI (PS3.18 chapter 9): one instance named in a query, as a DICOM object or as a picture.

Its parameters are another way of spelling those of WADO-RS, so a request is turned into the one of WADO-RS that means
the same and answered by the same handler; only what a parameter may be together with is decided here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from dicomweb import frames, rendered, wado
from dicomweb.answers import Answer
from dicomweb.calls import Call
from dicomweb.media_types import DICOM, NotAcceptable, ranges
from pacs import uids
from pacs.auth import Right
from pacs.errors import InvalidInput

if TYPE_CHECKING:
    from pacs.retrieve import InstanceLocation

RENDERING = (
    "frameNumber", "rows", "columns", "region", "windowCenter", "windowWidth", "imageQuality", "annotation",
    "imageAnnotation", "presentationUID", "presentationSeriesUID",
)  # fmt: skip
OF_OBJECTS = ("anonymize", "transferSyntax")
PARAMETERS = ("requestType", "studyUID", "seriesUID", "objectUID", "contentType", "charset", *RENDERING, *OF_OBJECTS)
MAX_SIDE = 16_384


async def retrieve(call: Call) -> Answer:
    """GET ?requestType=WADO&studyUID=…: the instance as it was asked for (9.4, 9.5).

    Raises InvalidInput for parameters that are missing, wrong, or cannot be together, NotFound for an instance that
    is not here, NotAcceptable for what it cannot be had as.
    """
    if call.parameter("requestType") != "WADO":
        raise InvalidInput("requestType has to be WADO (PS3.18 9.1.2.1.1)", about="requestType")
    named = {part: _uid(call, f"{name}UID") for part, name in _PARTS}
    given = [name for name in RENDERING if call.parameter(name) is not None]
    types = call.parameter("contentType")
    header = ",".join(call.headers.getlist("accept"))
    asked = ranges(types) if types is not None else ranges(header)
    asked.sort(key=lambda each: (-each.q, each.position))
    plain = ", ".join(f"{each.media_type};q={each.q:g}" for each in asked if each.media_type != DICOM)
    as_object = any(each.media_type == DICOM and each.q > 0 for each in asked)
    if as_object and asked[0].media_type == DICOM and (types is not None or not given):
        return await _object(call, named, given)
    if not plain and (types is not None or header):
        raise NotAcceptable("no media type that this service has is acceptable")
    if call.parameter("transferSyntax") is not None:
        raise InvalidInput("transferSyntax is for application/dicom alone (9.4.1.2.3)", about="transferSyntax")
    if call.parameter("anonymize") is not None:
        _anonymize(call)
    try:
        return await _picture(call, named, plain or "*/*")
    except NotAcceptable:
        # What cannot be shown is had as it is, unless that is not wanted.
        if given or not (as_object or types is None):
            raise
        return await _object(call, named, given)


_PARTS = (("study", "study"), ("series", "series"), ("instance", "object"))


def _uid(call: Call, name: str) -> str:
    value = call.parameter(name)
    if not value:
        raise InvalidInput(f"{name} is needed (PS3.18 9.1.2.1)", about=name)
    return uids.checked(value, name)


def _anonymize(call: Call) -> None:
    if call.parameter("anonymize") != "yes":
        raise InvalidInput("the only value of anonymize is yes (9.4.1.2.1)", about="anonymize")
    raise NotAcceptable("this server does not de-identify what it gives out")


def _turned(call: Call, named: dict[str, str], query: dict[str, str], accept: str) -> Call:
    """The WADO-RS request that means the same."""
    headers = [(name, value) for name, value in call.scope["headers"] if name != b"accept"]
    scope = {
        **call.scope,
        "path_params": named,
        "query_string": urlencode(query).encode("ascii"),
        "headers": [*headers, (b"accept", accept.encode("latin-1"))],
    }
    return Call(call.web, scope, call.receive)


async def _object(call: Call, named: dict[str, str], given: list[str]) -> Answer:
    """The instance as a Part 10 object (9.4), in Explicit VR Little Endian or the transfer syntax asked for."""
    if given:
        raise InvalidInput("parameters of pictures cannot be used with application/dicom (9.4)", about=given[0])
    if call.parameter("anonymize") is not None:
        _anonymize(call)
    accept, ts = DICOM, call.parameter("transferSyntax")
    if ts is not None:
        accept = f"{DICOM}; transfer-syntax={uids.checked(ts, 'transferSyntax')}"
    return await wado.objects(_turned(call, named, {}, accept))


async def _picture(call: Call, named: dict[str, str], accept: str) -> Answer:
    """The instance, or one frame of it, rendered (9.5)."""
    principal = call.principal(Right.READ)
    [location] = await call.io(call.archive.retrieve.locate, principal, *named.values())
    query = {}
    frame = call.parameter("frameNumber")
    if frame is not None:
        named = named | {"frames": str(_frame(frame, location))}
    if annotation := call.parameter("annotation", "imageAnnotation"):
        query["annotation"] = annotation
    if quality := call.parameter("imageQuality"):
        query["quality"] = quality
    if window := _window(call):
        query["window"] = window
    if any(call.parameter(name) is not None for name in ("rows", "columns", "region")):
        query["viewport"] = await call.io(_viewport, call, location)
    turned = _turned(call, named, query, accept)
    state = await _state(call, named["study"])
    if state is not None:
        return await _presented(turned, state, location, 1 if frame is None else int(frame))
    return await (rendered.instances(turned) if frame is None else rendered.frame(turned))


async def _state(call: Call, study: str) -> InstanceLocation | None:
    """The presentation state that is to be applied (9.5.1.2.7), None where none is."""
    series, instance = call.parameter("presentationSeriesUID"), call.parameter("presentationUID")
    if (series is None) != (instance is None):
        raise InvalidInput("presentationSeriesUID and presentationUID go together", about="presentationUID")
    if series is None or instance is None:
        return None
    named = uids.checked(series, "presentationSeriesUID"), uids.checked(instance, "presentationUID")
    [state] = await call.io(call.archive.retrieve.locate, call.principal(Right.READ), study, *named)
    if not rendered.is_state(state):
        raise InvalidInput("this is no presentation state that can be applied", about=state.sop_instance_uid)
    return state


async def _presented(turned: Call, state: InstanceLocation, location: InstanceLocation, number: int) -> Answer:
    how = rendered.rendering(turned)
    offer = rendered.chosen(turned, rendered.image_offers(multipart=False))
    presented = await turned.io(rendered.targets, turned, state)
    if not any(image.sop_instance_uid == location.sop_instance_uid for image, _ in presented):
        raise InvalidInput("the presentation state is of other images", about=state.sop_instance_uid)
    image = await turned.cpu(rendered.presented, turned, state, location, number, how, offer.media_type)
    return Answer(200, offer.media_type, [image], rendered.warnings(turned, how, offer.media_type))


def _frame(text: str, location: InstanceLocation) -> int:
    count = location.frames.number_of_frames if location.frames is not None else 0
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 9 else 0
    if not 1 <= number <= count:
        raise InvalidInput(f"frameNumber is 1 to {count} here (9.5.2.1)", about="frameNumber")
    return number


def _window(call: Call) -> str | None:
    center, width = call.parameter("windowCenter"), call.parameter("windowWidth")
    if (center is None) != (width is None):
        raise InvalidInput("windowCenter and windowWidth go together (9.5.1.2.6)", about="windowCenter")
    return None if center is None else f"{center},{width},linear"


def _viewport(call: Call, location: InstanceLocation) -> str:
    """`rows`, `columns` and `region` in terms of the viewport of WADO-RS (8.3.5.1.3). Blocks."""
    metadata = frames.attributes(call.archive, location)
    height, width = (_dimension(metadata, tag) for tag in ("00280010", "00280011"))
    left, top, right, bottom = _region(call.parameter("region"))
    part = (round(left * width), round(top * height), round((right - left) * width), round((bottom - top) * height))
    part_width, part_height = max(1, part[2]), max(1, part[3])
    rows, columns = _side(call, "rows"), _side(call, "columns")
    if rows is None and columns is None:
        rows, columns = part_height, part_width
    elif rows is None and columns is not None:
        rows = max(1, min(MAX_SIDE, math.ceil(columns * part_height / part_width)))
    elif columns is None and rows is not None:
        columns = max(1, min(MAX_SIDE, math.ceil(rows * part_width / part_height)))
    whole = (part[0], part[1], part_width, part_height)
    return ",".join(map(str, (columns, rows, *(whole if call.parameter("region") is not None else ()))))


def _dimension(metadata: dict[str, object], tag: str) -> int:
    entry = metadata.get(tag)
    values = entry.get("Value") if isinstance(entry, dict) else None
    if not values:
        raise NotAcceptable("this is no image", about=tag)
    return int(values[0])


def _side(call: Call, name: str) -> int | None:
    text = call.parameter(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 1 <= int(text) <= MAX_SIDE):
        raise InvalidInput(f"{name} is 1 to {MAX_SIDE} (9.5.1.2.4)", about=name)
    return int(text)


def _region(text: str | None) -> tuple[float, float, float, float]:
    """Left, top, right and bottom as parts of the image, 0 to 1 (9.5.1.2.5)."""
    if text is None:
        return 0.0, 0.0, 1.0, 1.0
    try:
        left, top, right, bottom = (float(part) for part in text.split(","))
    except ValueError:
        raise InvalidInput("region is four decimals", about="region") from None
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise InvalidInput("region is left, top, right, bottom within 0 to 1", about="region")
    return left, top, right, bottom
