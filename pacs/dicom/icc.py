"""Colour profiles of rendered pictures: which one a request means, and colours turned into it (PS3.18 8.3.5.1.5)."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from pacs.dicom.late import imagecodecs
from pacs.dicom.late import numpy as np
from pacs.errors import Undecodable

if TYPE_CHECKING:
    import numpy.typing as npt

SPACES: Final = ("srgb", "adobergb", "rommrgb", "displayp3")
"""Spaces that colours can be turned into. "yes" keeps the colours and names their profile, "no" names none."""
MAX_PROFILE_BYTES: Final = 4 << 20

_D50, _D65 = (0.3457, 0.3585), (0.3127, 0.3290)
_ROMM = (0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001)
_DISPLAY_P3 = (0.680, 0.320, 0.265, 0.690, 0.150, 0.060)


@cache
def profile(space: str) -> bytes:
    """The ICC profile of one of SPACES."""
    match space:
        case "rommrgb":  # ISO 22028-2
            return bytes(imagecodecs.cms_profile("rgb", whitepoint=_D50, primaries=_ROMM, gamma=1.8))
        case "displayp3":  # the primaries of SMPTE RP 431-2 under D65, with the curve of sRGB
            encoded = np.linspace(0, 1, 1024)
            linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
            curve = np.rint(linear * 65535).astype(np.uint16)
            return bytes(imagecodecs.cms_profile("rgb", whitepoint=_D65, primaries=_DISPLAY_P3, transferfunction=curve))
        case _:
            return bytes(imagecodecs.cms_profile(space))


def usable(own: bytes | None) -> bytes | None:
    """The profile that an image carries, if it is one of RGB: 'RGB ' stands at byte 16 (ICC.1 7.2.8)."""
    fits = own is not None and 128 < len(own) <= MAX_PROFILE_BYTES and own[36:40] == b"acsp" and own[16:20] == b"RGB "
    return own if fits else None


def coloured(
    picture: npt.NDArray[np.uint8], asked: str | None, own: bytes | None
) -> tuple[npt.NDArray[np.uint8], bytes | None]:
    """The picture in the colours asked for, and the profile to embed; None for none.

    `asked` is "no", "yes", one of SPACES, or None where nothing was asked: then there is no profile. `own` is the
    profile of the image; colours without one are taken for sRGB. Raises Undecodable for a profile that is none.
    """
    if asked is None or asked == "no":
        return picture, None
    own = usable(own)
    if asked == "yes":
        if picture.ndim == 2:
            picture = np.repeat(picture[:, :, None], 3, axis=2)
        return picture, own or profile("srgb")
    if picture.ndim == 2:
        picture = np.repeat(picture[:, :, None], 3, axis=2)
        own = None  # grey levels are no colours of an input device
    if own is None and asked == "srgb":
        return picture, profile("srgb")
    try:
        turned: npt.NDArray[Any] = imagecodecs.cms_transform(
            np.ascontiguousarray(picture),
            own or profile("srgb"),
            profile(asked),
            colorspace="rgb",
            outcolorspace="rgb",
            outdtype=np.uint8,
        )
    except Exception:  # codecs have exception types of their own
        raise Undecodable("the image's ICC profile cannot be used", about="00282000") from None
    return turned, profile(asked)
