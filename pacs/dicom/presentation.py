"""Softcopy presentation states: what they say of an image, and the picture with it (PS3.3 A.33, C.10, C.11; PS3.4 N).

A state takes the place of the image's own modality, VOI and presentation steps; then come shutter, the overlays that it
activates, turning and mirroring, displayed area and graphics. Masks and blending are not drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from pacs.dicom import graphics, icc, labels, pictures, planes
from pacs.dicom.decode import PixelInfo
from pacs.dicom.grayscale import modality
from pacs.dicom.json_model import text
from pacs.dicom.late import numpy as np
from pacs.dicom.lookup import Metadata, items, number, values
from pacs.dicom.render import Extras, overlaid, pixels
from pacs.dicom.viewport import Placement, fitting, region, scaled
from pacs.errors import InvalidInput, Undecodable

if TYPE_CHECKING:
    import numpy.typing as npt

    Picture = npt.NDArray[np.uint8]

SOP_CLASSES: Final = ("1.2.840.10008.5.1.4.1.1.11.1", "1.2.840.10008.5.1.4.1.1.11.2")
"""Grayscale and Color Softcopy Presentation State Storage."""
_GROUPS: Final = frozenset(("0018", "0028", "0070", "2050"))
MAX_AREA: Final = 1 << 26
_DROPPED: Final = frozenset(
    (
        *("00283000", "00283010", "00281050", "00281051", "00281052", "00281053", "00281056", "20500010", "20500020"),
        *("52009229", "52009230"),
    )
)


@dataclass(frozen=True, slots=True)
class Referenced:
    """One image that a state is for; `frames` is empty where it is for all of them."""

    series_instance_uid: str
    sop_instance_uid: str
    frames: tuple[int, ...] = ()


def referenced(state: Metadata) -> list[Referenced]:
    """The images of a state, in its order (PS3.3 C.11.11)."""
    found = []
    for series in items(state, "00081115"):
        for image in items(series, "00081140"):
            frames = tuple(int(value) for value in values(image, "00081160") if isinstance(value, int | float))
            found.append(Referenced(text(series, "0020000E") or "", text(image, "00081155") or "", frames))
    return found


def needed(state: Metadata) -> dict[str, Any]:
    """The part of a state's metadata that pictures depend on."""
    active = activated(state)
    return {tag: entry for tag, entry in state.items() if tag[:4] in _GROUPS or tag[:4] in active}


def activated(state: Metadata) -> list[str]:
    """The overlay groups that a state shows (PS3.3 C.11.7): those for which it names a layer, and no others."""
    return [group for group in planes.GROUPS if text(state, f"{group}1001")]


def overlays(image: Metadata, state: Metadata) -> dict[str, Any]:
    """The planes to draw: the state's own of an activated group, where it has one in place of the image's."""
    out: dict[str, Any] = {}
    for group in activated(state):
        source = state if f"{group}3000" in state else image
        out |= {tag: entry for tag, entry in source.items() if tag[:4] == group}
    return out


def concerns(item: Metadata, sop_instance_uid: str, frame_number: int) -> bool:
    """Whether an item of a state is for a frame: it names it, or its image, or none at all."""
    images = items(item, "00081140")
    if not images:
        return True
    for image in images:
        if text(image, "00081155") == sop_instance_uid:
            frames = values(image, "00081160")
            if not frames or frame_number in frames:
                return True
    return False


def applied(image: Metadata, state: Metadata, sop_instance_uid: str, frame_number: int) -> dict[str, Any]:
    """The image's metadata with the state's modality, VOI and presentation steps instead of its own."""
    out = {tag: entry for tag, entry in image.items() if tag not in _DROPPED}
    out |= {tag: state[tag] for tag in ("00283000", "00281052", "00281053", "20500010", "20500020") if tag in state}
    for item in items(state, "00283110"):
        if concerns(item, sop_instance_uid, frame_number):
            out |= {tag: item[tag] for tag in ("00283010", "00281050", "00281051", "00281056") if tag in item}
            break
    return out


def render(
    frame: npt.NDArray[Any],
    info: PixelInfo,
    image: Metadata,
    state: Metadata,
    *,
    sop_instance_uid: str,
    frame_number: int = 1,
    viewport: Sequence[int] | None = None,
    quality: int = 90,
    media_type: str = "image/jpeg",
    extras: Extras,
    stored: bytes | None = None,
) -> bytes:
    """The picture of one decoded frame as a state presents it. Raises InvalidInput and Undecodable.

    Without a viewport a pixel stays a pixel, but where pixels are no squares or the state asks for a magnification.
    `stored` are native bytes, in which old overlays lie.
    """
    if viewport is not None and len(viewport) != 2:
        raise InvalidInput("a presentation state names the region itself (PS3.18 8.3.5.1.3.2)", about="viewport")
    shown = applied(image, state, sop_instance_uid, frame_number)
    gray = info.decoded().photometric.startswith("MONOCHROME")
    if gray and info.decoded().photometric == "MONOCHROME1":
        # The state's shape rules: an image of MONOCHROME1 has a state that says INVERSE.
        info = replace(info, photometric="MONOCHROME2")
    if gray and not items(shown, "00283010") and "00281050" not in shown:
        shown |= _whole_range(info, shown)
    picture = pixels(frame, info, shown)
    picture, profile = icc.coloured(picture, extras.iccprofile, extras.profile)
    picture = _shuttered(picture, state)
    picture = overlaid(picture, info, overlays(image, state), frame_number, stored)
    area = _displayed_area(state, sop_instance_uid, frame_number, picture.shape)
    picture, placement = _placed(picture, area, state, viewport)
    picture = graphics.drawn(picture, placement, list(_graphics(state, sop_instance_uid, frame_number)))
    picture = labels.burnt_in(picture, extras.top, extras.bottom)
    return pictures.encoded(picture, media_type, quality, profile)


def _whole_range(info: PixelInfo, shown: Metadata) -> dict[str, Any]:
    """A state without a VOI step shows all that the modality step can give (PS3.3 C.11.8: identity)."""
    low = -(1 << (info.bits_stored - 1)) if info.signed else 0
    high = low + (1 << info.bits_stored) - 1
    ends = modality(np.array([low, high]), shown)
    width = max(float(abs(ends[1] - ends[0])), 1.0)
    return {
        "00281050": {"vr": "DS", "Value": [float(ends.sum()) / 2]},
        "00281051": {"vr": "DS", "Value": [width]},
        "00281056": {"vr": "CS", "Value": ["LINEAR_EXACT"]},
    }


def _shuttered(picture: Picture, state: Metadata) -> Picture:
    """What lies outside of the display shutter gets its presentation value (PS3.3 C.7.6.11)."""
    shapes = [value for value in values(state, "00181600") if isinstance(value, str)]
    if not shapes:
        return picture
    from PIL import Image, ImageDraw

    rows, columns = picture.shape[:2]
    inside = np.ones((rows, columns), bool)
    for shape in shapes:
        mask = Image.new("1", (columns, rows))
        draw = ImageDraw.Draw(mask)
        edges = [number(state, tag) for tag in ("00181602", "00181606", "00181604", "00181608")]
        center = values(state, "00181610")
        radius = number(state, "00181612")
        points = [float(value) for value in values(state, "00181620")]
        if shape == "RECTANGULAR" and None not in edges:
            left, top, right, bottom = (int(edge or 0) - 1 for edge in edges)
            if right < left or bottom < top:
                continue
            draw.rectangle((left, top, right, bottom), fill=1)
        elif shape == "CIRCULAR" and len(center) == 2 and radius is not None:
            row, column = float(center[0]) - 1, float(center[1]) - 1
            draw.ellipse((column - radius, row - radius, column + radius, row + radius), fill=1)
        elif shape == "POLYGONAL" and len(points) >= 6:
            pairs = zip(points[1::2], points[::2], strict=False)
            draw.polygon([(column - 1, row - 1) for column, row in pairs], fill=1)
        else:
            continue
        inside &= np.asarray(mask)
    value = int(number(state, "00181622") or 0) >> 8  # P-values of 16 bits
    out = picture.copy()
    out[~inside] = min(value, 255)
    return out


@dataclass(frozen=True, slots=True)
class _Area:
    """Part of an image, edges in whole pixels from 0 on, right and bottom not included, and how it is shown."""

    left: int
    top: int
    right: int
    bottom: int
    pixel_aspect: float = 1.0
    magnification: float | None = None


def _displayed_area(state: Metadata, sop_instance_uid: str, frame_number: int, shape: tuple[int, ...]) -> _Area:
    """PS3.3 C.10.4: corners as pixels counted from 1, both included, and perhaps outside of the image."""
    whole = _Area(0, 0, shape[1], shape[0])
    for item in items(state, "0070005A"):
        if not concerns(item, sop_instance_uid, frame_number):
            continue
        first, last = values(item, "00700052"), values(item, "00700053")
        if len(first) != 2 or len(last) != 2:
            return whole
        columns, rows = sorted((int(first[0]), int(last[0]))), sorted((int(first[1]), int(last[1])))
        area = (columns[0] - 1, rows[0] - 1, columns[1], rows[1])
        if (area[2] - area[0]) * (area[3] - area[1]) > MAX_AREA:
            raise Undecodable("the displayed area is larger than any image", about="0070005A")
        magnification = number(item, "00700103") if text(item, "00700100") == "MAGNIFY" else None
        return _Area(*area, _pixel_aspect(item), magnification)
    return whole


def _pixel_aspect(item: Metadata) -> float:
    """How much higher than wide a pixel is, within what a picture can show."""
    pair = values(item, "00700101") or values(item, "00700102")
    try:
        aspect = float(pair[0]) / float(pair[1])
    except (IndexError, TypeError, ValueError, ZeroDivisionError):
        return 1.0
    return aspect if 0.05 <= aspect <= 20 else 1.0


def _placed(
    picture: Picture, area: _Area, state: Metadata, viewport: Sequence[int] | None
) -> tuple[Picture, Placement]:
    """The displayed area turned, mirrored and scaled, and where the points of the image are in it."""
    picture = region(picture, area.left, area.top, area.right, area.bottom)
    placement = Placement().then((1, 0, -area.left), (0, 1, -area.top))
    aspect = area.pixel_aspect
    for _ in range(int(number(state, "00700042") or 0) // 90 % 4):
        height = picture.shape[0]
        picture = np.rot90(picture, -1)  # clockwise
        placement = placement.then((0, -1, height), (1, 0, 0))
        aspect = 1 / aspect
    if text(state, "00700041") == "Y":
        placement = placement.then((-1, 0, picture.shape[1]), (0, 1, 0))
        picture = picture[:, ::-1]
    rows, columns = picture.shape[:2]
    if viewport is not None:
        width, height = fitting(picture.shape, viewport[0], viewport[1], aspect)
    else:
        factor = min(max(area.magnification or 1.0, 0.05), 8.0)
        # Pixels that are no squares are only ever made larger, so that none gets lost.
        width = round(columns * factor * max(1.0, 1 / aspect))
        height = round(rows * factor * max(1.0, aspect))
        width, height = fitting((height, width), min(width, 8192), min(height, 8192))
    placement = placement.then((width / columns, 0, 0), (0, height / rows, 0))
    return scaled(picture, width, height), placement


def _graphics(state: Metadata, sop_instance_uid: str, frame_number: int) -> Iterator[graphics.Layer]:
    """The annotations for one frame, from the lowest layer up (PS3.3 C.10.5, C.10.7)."""
    layers: Mapping[str, Metadata] = {text(layer, "00700002") or "": layer for layer in items(state, "00700060")}

    def order(item: Metadata) -> float:
        return number(layers.get(text(item, "00700002") or "", {}), "00700062") or 0

    for item in sorted(items(state, "00700001"), key=order):
        if concerns(item, sop_instance_uid, frame_number):
            level = number(layers.get(text(item, "00700002") or "", {}), "00700066")
            yield graphics.Layer(item, 255 if level is None else min(255, int(level) >> 8))
