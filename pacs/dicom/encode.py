"""Frames as codestreams: one encoder for each transfer syntax that we can write, and what it takes: ENCODED.

Lossless ones give back every value. Codestreams state the precision that the data set has in Bits Stored (PS3.5 8.2).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pacs.dicom.decode import PixelInfo
from pacs.dicom.late import imagecodecs
from pacs.dicom.late import numpy as np
from pacs.errors import UnsupportedTransferSyntax

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Encode = Callable[[Array, PixelInfo], bytes]

JPEG_QUALITY: Final = 95
JPEG_2000_PSNR_DB: Final = (55.0, 70.0)
"""Of up to 8 bits and of more, which are looked at in a narrow window."""
HTJ2K_STEP: Final = 0.0005
"""Of the quantization, as a part of the range of values."""
NEAR: Final = 2
"""The largest error of a JPEG-LS near-lossless value, in steps of the stored values; 1 below 12 bits."""
SMALLEST_SIDE: Final = 64
"""PS3.5 A.4.12: an HTJ2K codestream with RPCL options can be had so small, at least."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """What one transfer syntax takes, and how a frame gets into it.

    `bits` are those of Bits Stored; a `lossy` one takes no signs and no palette indices, whose neighbours mean other
    things, and colour as RGB. `raw` ones take native bytes as they are, of any kind, and leave every attribute as it
    was. `method` is the value of Lossy Image Compression Method (PS3.3 C.7.6.1.1.5.1), `colour` the photometric
    interpretation that RGB becomes.
    """

    encode: Encode
    bits: tuple[int, int] = (2, 16)
    lossy: bool = False
    raw: bool = False
    colour: str = "RGB"
    method: str = ""


def refuse(info: PixelInfo, target_ts: str) -> None:
    """Nothing, or UnsupportedTransferSyntax where frames of such attributes do not fit into `target_ts`."""
    encoder = ENCODED.get(target_ts)
    if encoder is None:
        raise UnsupportedTransferSyntax("no encoder for this transfer syntax", about=target_ts)
    if encoder.raw:
        fits = target_ts != RLE or (info.bits_allocated >= 8 and not info.floating)
        fits = fits and info.samples * max(1, info.bits_allocated // 8) <= 15
    else:
        low, high = encoder.bits
        fits = not info.floating and info.bits_allocated in (8, 16) and low <= info.bits_stored <= high
        fits = fits and info.samples in (1, 3)
        fits = fits and not (encoder.lossy and (info.signed or info.photometric == "PALETTE COLOR"))
        fits = fits and not (encoder.lossy and info.photometric.startswith("YBR"))
    if not fits:
        raise UnsupportedTransferSyntax("pixel data of this kind does not fit the transfer syntax", about=target_ts)


def encoded(array: Array, info: PixelInfo, target_ts: str) -> bytes:
    """The codestream of one frame: stored values as `decode_stored` gives them, with the attributes that hold for it.

    Raises UnsupportedTransferSyntax for what `refuse` refuses.
    """
    refuse(info, target_ts)
    return ENCODED[target_ts].encode(np.ascontiguousarray(array), info)


def photometric(info: PixelInfo, target_ts: str) -> str:
    """The Photometric Interpretation of frames with `info` once they are in `target_ts` (PS3.5 8.2)."""
    return ENCODED[target_ts].colour if info.photometric == "RGB" else info.photometric


def rle(planes: Array, info: PixelInfo) -> bytes:
    """PS3.5 annex G: array (samples, rows, columns) as one PackBits segment for each byte, each row by itself."""
    width = info.bits_allocated // 8
    high_first = (
        planes.astype(f">u{width}", order="C").view(np.uint8).reshape(info.samples, info.rows, info.columns, width)
    )
    segments = []
    for sample in range(info.samples):
        for byte in range(width):
            rows = high_first[sample, :, :, byte].copy()  # which NumPy may call contiguous as it is, the codec not
            piece = bytes(imagecodecs.packbits_encode(rows, axis=-1))
            segments.append(piece + b"\0" * (len(piece) % 2))
    starts, at = [], 64
    for piece in segments:
        starts.append(at)
        at += len(piece)
    return struct.pack("<16I", len(segments), *starts, *([0] * (15 - len(starts)))) + b"".join(segments)


def deflate(data: bytes) -> bytes:
    """PS3.5 A.4.13: the native frame in a deflate stream of its own."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def _unsigned(array: Array, info: PixelInfo) -> Array:
    """Two's complement in Bits Stored bits, for codecs that know no signs."""
    if array.dtype.kind == "u":
        return array
    words: Array = array.view(f"u{array.dtype.itemsize}")
    masked: Array = words & np.array((1 << info.bits_stored) - 1, words.dtype)
    return masked


def _narrowed(array: Array, info: PixelInfo) -> Array:
    """Unsigned values in the smallest type for Bits Stored, which is what codecs go by."""
    return _unsigned(array, info).astype(np.uint8 if info.bits_stored <= 8 else np.uint16, copy=False)


def _is_rgb(info: PixelInfo) -> bool:
    return info.photometric == "RGB"


def _jpeg_baseline(array: Array, info: PixelInfo) -> bytes:
    if info.samples == 1:
        return bytes(imagecodecs.jpeg8_encode(array, JPEG_QUALITY))
    return bytes(imagecodecs.jpeg8_encode(array, JPEG_QUALITY, subsampling="422"))


def _jpeg_extended(array: Array, info: PixelInfo) -> bytes:
    if info.samples == 1 and info.bits_stored > 8:
        return bytes(imagecodecs.jpeg8_encode(array.astype(np.uint16), JPEG_QUALITY, bitspersample=12))
    return _jpeg_baseline(array.astype(np.uint8), info)


def _jpeg_lossless(array: Array, info: PixelInfo) -> bytes:
    space = None if info.samples == 1 else "RGB"  # whatever the components are, they are not to be transformed
    return bytes(
        imagecodecs.jpeg8_encode(
            _narrowed(array, info),
            lossless=True,
            predictor=1,
            bitspersample=info.bits_stored,
            colorspace=space,
            outcolorspace=space,
        )
    )


def _jpeg_ls(array: Array, info: PixelInfo, error: int = 0) -> bytes:
    import jpeg_ls  # CharLS with the precision as a parameter, which imagecodecs takes from the array's type

    pixels = np.ascontiguousarray(_narrowed(array, info))
    try:
        return bytes(
            jpeg_ls.encode_pixel_data(
                pixels.tobytes(),
                lossy_error=error,
                rows=info.rows,
                columns=info.columns,
                samples_per_pixel=info.samples,
                bits_stored=info.bits_stored,
                planar_configuration=0,
            )
        )
    except RuntimeError:
        # It gives its output no more room than the frame has; the headers of a tiny one, or noise, may need it.
        if info.bits_stored not in (8, 16):
            raise UnsupportedTransferSyntax(
                "a frame that grows when it is compressed", about=info.photometric
            ) from None
        return bytes(imagecodecs.jpegls_encode(pixels, error))


def _near_lossless(array: Array, info: PixelInfo) -> bytes:
    return _jpeg_ls(array, info, NEAR if info.bits_stored >= 12 else 1)


def _jpeg_2000(array: Array, info: PixelInfo, **how: Any) -> bytes:
    levels = max(1, min(6, min(info.rows, info.columns).bit_length()))
    return bytes(
        imagecodecs.jpeg2k_encode(
            array, codecformat="J2K", bitspersample=info.bits_stored, mct=_is_rgb(info), resolutions=levels, **how
        )
    )


def _jpeg_2000_lossless(array: Array, info: PixelInfo) -> bytes:
    return _jpeg_2000(array, info, reversible=True)


def _jpeg_2000_lossy(array: Array, info: PixelInfo) -> bytes:
    return _jpeg_2000(array, info, reversible=False, level=JPEG_2000_PSNR_DB[info.bits_stored > 8])


def _htj2k(array: Array, info: PixelInfo, **how: Any) -> bytes:
    if info.samples == 1:
        return bytes(imagecodecs.htj2k_encode(array, **how))
    if _is_rgb(info):
        return bytes(imagecodecs.htj2k_encode(array, rgb=True, **how))
    if info.columns == 1:  # planes of one column would be taken for one image of as many rows as there are planes
        return bytes(imagecodecs.htj2k_encode(array, rgb=False, planar=False, **how))
    planes = np.ascontiguousarray(array.transpose(2, 0, 1))
    return bytes(imagecodecs.htj2k_encode(planes, rgb=False, planar=True, **how))


def _htj2k_lossless(array: Array, info: PixelInfo, **how: Any) -> bytes:
    """The encoder takes its precision from the array's type: where Bits Stored is less, that is told it otherwise.

    Unsigned values go in with the level shift taken off (ISO/IEC 15444-1 G.1), as signed ones, which have none; what
    comes out is the codestream of unsigned values of fewer bits but for the precision in its SIZ marker segment.
    """
    spare = info.bits_allocated - info.bits_stored
    if not spare:
        return _htj2k(array, info, reversible=True, **how)
    middle = 0 if info.signed else 1 << (info.bits_stored - 1)
    shifted = (array.astype(np.int32) - middle).astype(f"i{array.dtype.itemsize}")
    out = bytearray(_htj2k(shifted, info, reversible=True, **how))
    siz = out.index(b"\xff\x4f\xff\x51")
    for sample in range(info.samples):
        out[siz + 42 + 3 * sample] = info.bits_stored - 1 | (0x80 if info.signed else 0)
    return bytes(out)


def _htj2k_rpcl(array: Array, info: PixelInfo) -> bytes:
    """PS3.5 A.4.12: progression RPCL (the encoder's own), tile-part lengths, and levels down to a thumbnail."""
    levels = max(1, (max(info.rows, info.columns) - 1) // SMALLEST_SIDE).bit_length() + 1
    return _htj2k_lossless(array, info, tlm=True, resolutions=max(6, levels))


def _htj2k_lossy(array: Array, info: PixelInfo) -> bytes:
    # The step is a part of the range of the array's type: as fine, for fewer bits, as for all of them.
    step = HTJ2K_STEP / (1 << (info.bits_allocated - info.bits_stored))
    return _htj2k(array, info, reversible=False, level=step)


def _jpeg_xl_lossless(array: Array, info: PixelInfo) -> bytes:
    return bytes(
        imagecodecs.jpegxl_encode(
            _narrowed(array, info),
            lossless=True,
            effort=3,
            bitspersample=info.bits_stored,
            usecontainer=False,
            numthreads=1,
        )
    )


def _raw(array: Array, info: PixelInfo) -> bytes:
    raise NotImplementedError  # pacs.dicom.transcode takes the native bytes


RLE: Final = "1.2.840.10008.1.2.5"
DEFLATED_FRAME: Final = "1.2.840.10008.1.2.8.1"
UNCOMPRESSED: Final = "1.2.840.10008.1.2.1.98"

# fmt: off
ENCODED: Final[dict[str, Encoder]] = {
    "1.2.840.10008.1.2.4.201": Encoder(_htj2k_lossless, colour="YBR_RCT"),
    "1.2.840.10008.1.2.4.202": Encoder(_htj2k_rpcl, colour="YBR_RCT"),
    "1.2.840.10008.1.2.4.90": Encoder(_jpeg_2000_lossless, colour="YBR_RCT"),
    "1.2.840.10008.1.2.4.80": Encoder(_jpeg_ls),
    "1.2.840.10008.1.2.4.70": Encoder(_jpeg_lossless),
    "1.2.840.10008.1.2.4.57": Encoder(_jpeg_lossless),
    "1.2.840.10008.1.2.4.110": Encoder(_jpeg_xl_lossless, bits=(8, 16)),
    RLE: Encoder(_raw, raw=True),
    DEFLATED_FRAME: Encoder(_raw, raw=True),
    UNCOMPRESSED: Encoder(_raw, raw=True),
    "1.2.840.10008.1.2.4.50": Encoder(_jpeg_baseline, (8, 8), True, colour="YBR_FULL_422", method="ISO_10918_1"),
    "1.2.840.10008.1.2.4.51": Encoder(_jpeg_extended, (8, 12), True, colour="YBR_FULL_422", method="ISO_10918_1"),
    "1.2.840.10008.1.2.4.81": Encoder(_near_lossless, (8, 16), True, method="ISO_14495_1"),
    "1.2.840.10008.1.2.4.91": Encoder(_jpeg_2000_lossy, (8, 16), True, colour="YBR_ICT", method="ISO_15444_1"),
    "1.2.840.10008.1.2.4.203": Encoder(_htj2k_lossy, (8, 16), True, colour="YBR_ICT", method="ISO_15444_15"),
}
# fmt: on
