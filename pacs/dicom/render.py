"""A frame as a picture for people: the steps of PS3.4 N.2 in their order, then viewport, words and file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pacs.dicom import grayscale, icc, labels, pictures, planes
from pacs.dicom.decode import PixelInfo
from pacs.dicom.grayscale import Window
from pacs.dicom.late import numpy as np
from pacs.dicom.lookup import Metadata, table
from pacs.dicom.pictures import MEDIA_TYPES, RAW
from pacs.dicom.viewport import fitted
from pacs.errors import InvalidInput, Undecodable

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Picture = npt.NDArray[np.uint8]

__all__ = ["MEDIA_TYPES", "Extras", "Window", "fitted", "pixels", "relevant", "render"]

_WHITE: Final = 255


@dataclass(frozen=True, slots=True)
class Extras:
    """What a picture has besides its pixels.

    `top` and `bottom` are lines to burn in; `iccprofile` what was asked for, with `profile` as the image's own;
    `overlays` whether its overlay planes are drawn, which count the frames by `number`.
    """

    top: tuple[str, ...] = ()
    bottom: tuple[str, ...] = ()
    iccprofile: str | None = None
    profile: bytes | None = None
    overlays: bool = True
    number: int = 1


PLAIN: Final = Extras()


def render(
    frame: Array,
    info: PixelInfo,
    metadata: Metadata,
    *,
    frame_number: int = 1,
    window: Window | tuple[float, float, str] | None = None,
    viewport: Sequence[int] | None = None,
    quality: int = 90,
    media_type: str = "image/jpeg",
    extras: Extras = PLAIN,
    stored: bytes | None = None,
) -> bytes:
    """The picture of one decoded frame (as `decode_frame` gives it), in 8 bits a channel.

    `window` overrules what the data set asks for; `viewport` is (width, height) or (width, height, x, y, source width,
    source height) as PS3.18 8.3.5.1.3 has it: the aspect ratio is kept, a negative source extent mirrors. `quality` is
    1 to 100, for JPEG. `stored` are native bytes, in which old overlays lie. Raises InvalidInput for parameters out of
    range and Undecodable for palettes or profiles that are none.
    """
    if not 1 <= quality <= 100:
        raise InvalidInput("quality is not within 1 to 100 (PS3.18 8.3.5.1.2)")
    if media_type not in (*MEDIA_TYPES, RAW):
        raise InvalidInput(f"no pictures of type {media_type}")
    picture = pixels(frame, info, metadata, frame_number=frame_number, window=window)
    picture, profile = icc.coloured(picture, extras.iccprofile, extras.profile)
    if extras.overlays:
        picture = overlaid(picture, info, metadata, extras.number, stored)
    if viewport is not None:
        picture = fitted(picture, viewport)
    picture = labels.burnt_in(picture, extras.top, extras.bottom)
    return pictures.encoded(picture, media_type, quality, profile)


def pixels(
    frame: Array,
    info: PixelInfo,
    metadata: Metadata,
    *,
    frame_number: int = 1,
    window: Window | tuple[float, float, str] | None = None,
) -> Picture:
    """The display values: uint8 (rows, columns) for grayscale, (rows, columns, 3) RGB for colour."""
    if info.decoded().photometric == "PALETTE COLOR":
        return _palette(frame, metadata)
    if frame.ndim == 3:
        colour = frame[:, :, :3]
        if info.bits_stored > 8:
            colour = colour >> (info.bits_stored - 8)
        elif info.bits_stored < 8:
            colour = np.rint(colour.astype(np.float32) * (255 / ((1 << info.bits_stored) - 1)))
        return colour.astype(np.uint8)
    needed, _ = relevant(metadata, frame_number, overlays=False, palettes=False)
    gray = grayscale.levels(frame, info, needed, grayscale.asked(window))
    coloured = grayscale.supplemental(frame, metadata)
    if coloured is None:
        return gray
    return np.where(coloured[:, :, None], _palette(frame, metadata), gray[:, :, None])


_GRAY: Final = frozenset(
    (
        *("00280120", "00280121", "00281050", "00281051", "00281052", "00281053", "00281056", "20500010", "20500020"),
        *("00280122", "00280123", "00280124", "00280125", "00283000", "00283010"),
    )
)
_PALETTES: Final = frozenset(
    ("00089205", *(f"0028{table}{place}" for table in ("110", "120", "122") for place in (1, 2, 3)))
)


def relevant(
    metadata: Metadata, frame_number: int, *, overlays: bool = True, palettes: bool = True
) -> tuple[dict[str, Any], int]:
    """The part of the metadata that the picture of one frame depends on, and the frame's number within that part.

    Functional groups are cut to the frame's own, so that its number among them is 1; overlays keep the number.
    """
    tags = (_GRAY | _PALETTES if palettes else _GRAY) & metadata.keys()
    wanted = {tag: metadata[tag] for tag in tags} | grayscale.frame_groups(metadata, frame_number)
    if overlays:
        wanted |= {tag: metadata[tag] for tag in planes.tags(metadata)}
    return wanted, 1


def overlaid(picture: Picture, info: PixelInfo, metadata: Metadata, frame_number: int, stored: bytes | None) -> Picture:
    """The picture with the overlay planes of the metadata in white; pixels still are those of the image."""
    if not planes.tags(metadata):
        return picture
    mask = planes.drawn(metadata, info, frame_number, stored)
    if mask is None or not mask.any():
        return picture
    picture = picture.copy()
    picture[mask] = _WHITE
    return picture


def _palette(frame: Array, metadata: Metadata) -> Picture:
    """PS3.3 C.7.6.3.1.5 and 1.6: each index to its red, green and blue, the upper 8 bits of longer entries."""
    channels = []
    for place in range(1, 4):
        lut = table(metadata, f"0028110{place}", f"0028120{place}", f"0028122{place}")
        if lut is None:
            raise Undecodable("palette is missing or not whole", about=f"0028120{place}")
        # Descriptors that say 16 bits over entries that never leave the lower 8 are a known mistake.
        wide = lut.bits > 8 and int(lut.entries.max()) > 255
        colours = lut(frame.astype(np.int64))
        channels.append((colours >> 8 if wide else colours & 0xFF).astype(np.uint8))
    return np.stack(channels, axis=-1)
