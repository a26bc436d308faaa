"""Pictures as files: JPEG, PNG, GIF (also animated) and JPEG 2000, with a colour profile where one is to be named."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from pacs.dicom.late import imagecodecs
from pacs.dicom.late import numpy as np
from pacs.errors import InvalidInput

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image

    Picture = npt.NDArray[np.uint8]
    """(rows, columns) of grey levels or (rows, columns, 3) of RGB."""

MEDIA_TYPES: Final = ("image/jpeg", "image/png", "image/gif", "image/jp2")
WITH_PROFILE: Final = ("image/jpeg", "image/png")
RAW: Final = "application/x-pixels"
"""Not a file, but what `bare` reads: for pictures that are parts of something larger."""

_RAW_HEADER = struct.Struct("<IIB")
_ICC_PIECE: Final = 65_519


def encoded(picture: Picture, media_type: str, quality: int = 90, profile: bytes | None = None) -> bytes:
    """The picture as a file; `quality`, 1 to 100, is for JPEG and JPEG 2000. Raises InvalidInput for other types."""
    picture = np.ascontiguousarray(picture)
    match media_type:
        case "image/jpeg":
            return _jpeg_with(bytes(imagecodecs.jpeg8_encode(picture, quality)), profile)
        case "image/png":
            return _png_with(bytes(imagecodecs.png_encode(picture)), profile)
        case "image/gif":
            return animation([picture])
        case "image/jp2":
            # 30 to 60 dB; whoever asks for everything gets everything.
            how: dict[str, Any] = {"reversible": True} if quality == 100 else {"level": 30 + quality * 0.3}
            return bytes(imagecodecs.jpeg2k_encode(picture, codecformat="JP2", **how))
        case "application/x-pixels":
            shape = picture.shape
            return _RAW_HEADER.pack(shape[0], shape[1], 1 if picture.ndim == 2 else 3) + picture.tobytes()
    raise InvalidInput(f"no pictures of type {media_type}")


def bare(raw: bytes) -> Picture:
    """The picture out of bytes of the type RAW. Raises InvalidInput."""
    if len(raw) < _RAW_HEADER.size:
        raise InvalidInput("no bare picture")
    rows, columns, samples = _RAW_HEADER.unpack_from(raw)
    if len(raw) != _RAW_HEADER.size + rows * columns * samples:
        raise InvalidInput("no bare picture")
    flat = np.frombuffer(raw, np.uint8, offset=_RAW_HEADER.size)
    return flat.reshape((rows, columns) if samples == 1 else (rows, columns, samples))


def animation(pictures: Sequence[Picture], frame_time_ms: float = 100.0) -> bytes:
    """The pictures, all of one size, as a GIF: one as it is, several one after the other, again and again.

    Grey levels keep their values; colours are reduced to the 256 that fit best. A GIF counts hundredths of a second,
    and viewers show none faster than 50 a second.
    """
    images = [_paletted(picture) for picture in pictures]
    out = io.BytesIO()
    if len(images) == 1:
        images[0].save(out, "GIF")
    else:
        duration = max(20, round(frame_time_ms / 10) * 10)
        images[0].save(out, "GIF", save_all=True, append_images=images[1:], duration=duration, loop=0, optimize=False)
    return out.getvalue()


def animation_of(raws: Sequence[bytes], frame_time_ms: float) -> bytes:
    """`animation` of pictures as RAW."""
    return animation([bare(raw) for raw in raws], frame_time_ms)


def _paletted(picture: Picture) -> Image.Image:
    from PIL import Image

    if picture.ndim == 2:
        return Image.fromarray(picture)
    return Image.fromarray(picture).quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG)


def _jpeg_with(jpeg: bytes, profile: bytes | None) -> bytes:
    """The profile in APP2 segments behind the first one (ICC.1 annex B.4)."""
    if profile is None:
        return jpeg
    pieces = [profile[at : at + _ICC_PIECE] for at in range(0, len(profile), _ICC_PIECE)]
    segments = b"".join(
        struct.pack(">HH", 0xFFE2, len(piece) + 16) + b"ICC_PROFILE\0" + bytes((number, len(pieces))) + piece
        for number, piece in enumerate(pieces, 1)
    )
    at = 2 + (2 + struct.unpack_from(">H", jpeg, 4)[0] if jpeg[2:4] == b"\xff\xe0" else 0)
    return jpeg[:at] + segments + jpeg[at:]


def _png_with(png: bytes, profile: bytes | None) -> bytes:
    """The profile in an iCCP chunk behind the header (ISO/IEC 15948 11.3.3.3)."""
    if profile is None:
        return png
    body = b"iCCPICC profile\0\0" + zlib.compress(profile)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return png[:33] + chunk + png[33:]
