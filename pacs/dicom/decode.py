"""Frames decoded to arrays, from every still-image transfer syntax; sizes are checked before anything is allocated.

Runs on stored bytes that may be broken or hostile: in a server only inside `pacs.decoding`'s child processes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from pacs.dicom import json_model
from pacs.dicom.colour import rgb_from_ybr, rgb_from_ybr_422
from pacs.dicom.deflated import inflate
from pacs.dicom.late import imagecodecs
from pacs.dicom.late import numpy as np
from pacs.dicom.transfer_syntaxes import TRANSFER_SYNTAXES, TransferSyntax
from pacs.errors import TooLarge, Undecodable, UnsupportedTransferSyntax

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

MAX_FRAME_BYTES: Final = 1 << 30
"""A frame that decodes to more is refused: a whole-slide tile or a mammogram has some 1 to 100 MB."""

_EOI: Final = b"\xff\xd9"
"""The end of a JPEG, and of a JPEG 2000 codestream."""
_TAIL: Final = b"\x5a\xa5\x3c" * 64 + _EOI
"""Entropy-coded data that no codestream ends with."""

SUBSAMPLED: Final = ("YBR_FULL_422", "YBR_PARTIAL_422")


@dataclass(frozen=True, slots=True)
class PixelInfo:
    """The Image Pixel attributes of one instance (PS3.3 C.7.6.3), checked, with the syntax its frames are in."""

    transfer_syntax_uid: str
    rows: int
    columns: int
    samples: int = 1
    photometric: str = "MONOCHROME2"
    bits_allocated: int = 16
    bits_stored: int = 16
    high_bit: int = 15
    signed: bool = False
    planar: bool = False
    floating: bool = False
    words: bool = True
    """Whether native 8-bit data is OW, and so has its bytes swapped in pairs in Explicit VR Big Endian."""

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], transfer_syntax_uid: str) -> PixelInfo:
        """Out of the DICOM JSON model. Raises Undecodable, naming the tag, for what is missing or makes no sense."""
        bits = _number(metadata, "00280100", None)
        floating = next((size for tag, size in (("7FE00008", 32), ("7FE00009", 64)) if tag in metadata), 0)
        bits = floating or bits
        stored = bits if floating else _number(metadata, "00280101", bits)
        pixels = metadata.get("7FE00010", {})
        info = cls(
            transfer_syntax_uid,
            rows=_number(metadata, "00280010", None),
            columns=_number(metadata, "00280011", None),
            samples=_number(metadata, "00280002", 1),
            photometric=json_model.text(metadata, "00280004") or "MONOCHROME2",
            bits_allocated=bits,
            bits_stored=stored,
            high_bit=bits - 1 if floating else _number(metadata, "00280102", stored - 1),
            signed=not floating and _number(metadata, "00280103", 0) == 1,
            planar=_number(metadata, "00280006", 0) == 1,
            floating=bool(floating),
            words=pixels.get("vr") != "OB",
        )
        info.check()
        return info

    def check(self) -> None:
        """Raises Undecodable if no frame can have these attributes, or one would be larger than 1 GiB."""
        for good, tag in (
            (1 <= self.rows <= 1 << 24, "00280010"),
            (1 <= self.columns <= 1 << 24, "00280011"),
            (self.samples in (1, 3, 4), "00280002"),
            (self.bits_allocated in (1, 8, 16, 32, 64), "00280100"),
            (1 <= self.bits_stored <= self.bits_allocated, "00280101"),
            (self.bits_stored - 1 <= self.high_bit < self.bits_allocated, "00280102"),
            (self.rows * self.columns * self.samples * self.dtype.itemsize <= MAX_FRAME_BYTES, "00280010"),
            (not self.photometric.startswith(("RGB", "YBR")) or self.samples >= 3, "00280004"),
        ):
            if not good:
                raise Undecodable("image attribute out of range", about=tag)

    @property
    def syntax(self) -> TransferSyntax:
        """The row of the transfer syntax table. Raises UnsupportedTransferSyntax if there is none."""
        if self.transfer_syntax_uid not in TRANSFER_SYNTAXES:
            raise UnsupportedTransferSyntax("unknown transfer syntax", about=self.transfer_syntax_uid)
        return TRANSFER_SYNTAXES[self.transfer_syntax_uid]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of a decoded frame: the smallest that holds Bits Allocated, in native byte order."""
        if self.floating:
            return np.dtype(np.float32 if self.bits_allocated == 32 else np.float64)
        return np.dtype(f"{'i' if self.signed else 'u'}{max(1, self.bits_allocated // 8)}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a decoded frame."""
        return (self.rows, self.columns, self.samples) if self.samples > 1 else (self.rows, self.columns)

    @property
    def native_bytes(self) -> int:
        """Length of one native frame in bytes, rounded up."""
        return (self.rows * self.columns * self.samples * self.bits_allocated + 7) // 8

    def decoded(self) -> PixelInfo:
        """The attributes that hold for what `decode_stored` gives: the colour space may have changed."""
        kind = self.syntax.codec
        photometric = self.photometric
        if (
            (kind == "jpeg" and self.syntax.lossy and photometric.startswith("YBR"))
            or photometric in ("YBR_RCT", "YBR_ICT")
            or photometric in SUBSAMPLED
        ):
            photometric = "RGB"
        return replace(self, photometric=photometric, planar=False)


def _number(metadata: Mapping[str, Any], tag: str, default: int | None) -> int:
    match metadata.get(tag, {}).get("Value"):
        case [int(value)]:
            return value
        case None if default is not None:
            return default
    raise Undecodable("image attribute is missing or no single number", about=tag)


def decode_frame(data: bytes, info: PixelInfo) -> Array:
    """One frame as array (rows, columns) or (rows, columns, samples), stored values, colour as RGB.

    Palette colour stays indices. The dtype is `info.dtype`: signed values sign-extended from Bits Stored, bits that
    are no part of the value cleared. Raises Undecodable; UnsupportedTransferSyntax where no decoder is here.
    """
    array = decode_stored(data, info)
    photometric = info.decoded().photometric
    if photometric.startswith("YBR") and info.samples == 3:
        return rgb_from_ybr(array, info.bits_stored, partial="PARTIAL" in photometric)
    return array


def decode_stored(data: bytes, info: PixelInfo) -> Array:
    """As `decode_frame`, in the colour space that `info.decoded()` names."""
    info.check()
    codec = info.syntax.codec
    try:
        match codec:
            case None:
                raise UnsupportedTransferSyntax("no decoder for this transfer syntax", about=info.transfer_syntax_uid)
            case "native" | "uncompressed":
                return _native(data, info)
            case "deflate":
                return _native(inflate(data, info.native_bytes + 1), info)
            case "rle":
                return _values(rle_words(data, info), info)
            case "jpeg":
                array = _jpeg(data, info)
            case "jpegls":
                _same_geometry(info, *_jpeg_geometry(data)[:4])
                if _EOI not in data:  # entropy-coded data never has it; the decoder may search for seconds
                    raise Undecodable("JPEG-LS codestream is cut short")
                array = imagecodecs.jpegls_decode(data)
            case "jpegxl":
                array = imagecodecs.jpegxl_decode(data, numthreads=1)
            case _:
                _same_geometry(info, *_j2k_geometry(data))
                if codec == "htj2k":  # which would give components without a transform between them as planes
                    _whole_tiles(data)
                    array = imagecodecs.htj2k_decode(data, planar=False)
                else:
                    array = imagecodecs.jpeg2k_decode(data)
    except (Undecodable, UnsupportedTransferSyntax):
        raise
    except MemoryError:
        raise Undecodable("frame needs more memory than a decoder may have") from None
    except TooLarge:
        raise Undecodable("frame inflates to more than its image holds") from None
    except Exception as error:
        # Codecs have exception types of their own; their texts name no patient data, yet only the type is kept.
        raise Undecodable(f"{codec} codestream cannot be decoded: {type(error).__name__}") from None
    return _conformed(np.asarray(array), info)


def _conformed(array: Array, info: PixelInfo) -> Array:
    """What a codec gave, in the shape and type of `info`; values reinterpreted where only the sign was lost."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.shape != info.shape:
        raise Undecodable(f"codestream of shape {array.shape} for an image of {info.shape}")
    if array.dtype.kind not in "iu" or array.dtype.itemsize > max(info.dtype.itemsize, 2) or info.floating:
        raise Undecodable(f"codestream of type {array.dtype} for {info.bits_allocated} bits allocated")
    if info.signed and array.dtype.kind == "u":
        # JPEG-LS, lossless JPEG and some JPEG 2000 writers store two's complement as if unsigned.
        array = array.astype(f"u{info.dtype.itemsize}")
        return _extended(array, info)
    if not info.signed and array.dtype.kind == "i":
        return (array.astype(np.int64) & ((1 << info.bits_stored) - 1)).astype(info.dtype)
    fits = array.dtype.itemsize <= info.dtype.itemsize
    if fits:
        array = array.astype(info.dtype, copy=False)
    if info.syntax.lossy:
        # What was lost may carry a value beyond the range that Bits Stored allows.
        low = -(1 << (info.bits_stored - 1)) if info.signed else 0
        array = np.clip(array, low, low + (1 << info.bits_stored) - 1)
    elif not fits and array.size and int(array.max()) > np.iinfo(info.dtype).max:
        raise Undecodable("codestream holds values beyond Bits Allocated")
    return array.astype(info.dtype, copy=False)


def _extended(array: Array, info: PixelInfo) -> Array:
    """Unsigned words as signed values of Bits Stored bits, two's complement."""
    shift = array.dtype.itemsize * 8 - info.bits_stored
    signed: Array = (array << np.array(shift, array.dtype)).view(f"i{array.dtype.itemsize}") >> shift
    return signed


def _native(data: bytes, info: PixelInfo) -> Array:
    if info.photometric in SUBSAMPLED and info.samples == 3 and len(data) < info.native_bytes:
        need = info.rows * info.columns * 2
        if info.bits_allocated != 8 or info.columns % 2 or len(data) < need:
            raise Undecodable("subsampled frame that is too short, of odd width or not of 8 bits")
        raw = np.frombuffer(data, np.uint8, need)
        return rgb_from_ybr_422(raw, info.rows, info.columns, partial="PARTIAL" in info.photometric)
    if len(data) < info.native_bytes:
        raise Undecodable(f"frame has {len(data)} of {info.native_bytes} bytes")
    count = info.rows * info.columns * info.samples
    if info.bits_allocated == 1:
        bits = np.unpackbits(np.frombuffer(data, np.uint8, info.native_bytes), bitorder="little")
        return bits[:count].reshape(info.shape)
    order = "<" if info.syntax.little_endian else ">"
    if order == ">" and info.bits_allocated == 8 and info.words:
        if info.native_bytes % 2:
            raise Undecodable("big-endian words that end inside a frame of odd length")
        data = np.frombuffer(data, ">u2", info.native_bytes // 2).astype("<u2").tobytes()
    kind = "f" if info.floating else "u"
    array = np.frombuffer(data, f"{order}{kind}{info.bits_allocated // 8}", count)
    if info.planar and info.samples > 1:
        array = array.reshape(info.samples, info.rows, info.columns).transpose(1, 2, 0)
    array = array.reshape(info.shape)
    if info.floating:
        return array.astype(info.dtype)
    return _values(array.astype(array.dtype.newbyteorder("=")), info)


def _values(array: Array, info: PixelInfo) -> Array:
    """The values out of words as they are stored: Bits Stored bits up to High Bit, the others are no part of them."""
    low = info.high_bit + 1 - info.bits_stored
    if low:
        array = array >> np.array(low, array.dtype)
    if info.signed:
        return _extended(array, info)
    if info.bits_stored < info.bits_allocated:
        array = array & np.array((1 << info.bits_stored) - 1, array.dtype)
    return array


def rle_words(data: bytes, info: PixelInfo) -> Array:
    """The words of an RLE frame as they are stored, with the bits that are no part of a value. Raises Undecodable.

    PS3.5 annex G: one PackBits segment for each byte of each sample, most significant first.
    """
    if info.floating:
        raise Undecodable("RLE of floating point values")
    width = info.bits_allocated // 8
    pixels = info.rows * info.columns
    count = width * info.samples
    if info.bits_allocated == 1:
        raise Undecodable("RLE of one bit")
    if len(data) < 64 or struct.unpack_from("<I", data)[0] != count:
        raise Undecodable(f"RLE header does not name {count} segments")
    starts = [*struct.unpack_from(f"<{count}I", data, 4), len(data)]
    if starts[0] < 64 or any(late < early for early, late in pairwise(starts)):
        raise Undecodable("RLE segments out of order")
    out = np.empty((pixels, info.samples, width), np.uint8)
    for segment in range(count):
        try:
            piece = imagecodecs.packbits_decode(data[starts[segment] : starts[segment + 1]])
        except Exception as error:  # codecs have exception types of their own
            raise Undecodable(f"RLE segment {segment + 1} cannot be decoded: {type(error).__name__}") from None
        if len(piece) < pixels:
            raise Undecodable(f"RLE segment {segment + 1} holds {len(piece)} of {pixels} bytes")
        out[:, segment // width, segment % width] = np.frombuffer(piece, np.uint8, pixels)
    return out.view(f">u{width}").astype(f"u{width}").reshape(info.shape)


def _jpeg(data: bytes, info: PixelInfo) -> Array:
    rows, columns, components, precision, process, transform = _jpeg_geometry(data)
    _same_geometry(info, rows, columns, components, precision)
    if process == 0xC3 or components == 1:
        # Lossless (PS3.5 8.2.1): samples are what they are; the decoder must not turn colours.
        same = {1: "GRAYSCALE", 3: "RGB"}.get(components)

        def decoder(codestream: bytes) -> Array:
            try:
                return np.asarray(imagecodecs.jpeg8_decode(codestream, colorspace=same, outcolorspace=same))
            except imagecodecs.Jpeg8Error:
                return np.asarray(imagecodecs.ljpeg_decode(codestream))

        array = _whole_jpeg(data, decoder)
        if info.photometric.startswith("YBR") and info.syntax.lossy and components == 3:
            return rgb_from_ybr(array, info.bits_stored)
        return array
    # What the data set says rules, unless it says RGB and the codestream itself tells that it was transformed.
    space = "RGB" if info.photometric == "RGB" and transform is not True else "YCBCR"
    return _whole_jpeg(
        data, lambda codestream: np.asarray(imagecodecs.jpeg8_decode(codestream, colorspace=space, outcolorspace="RGB"))
    )


def _whole_jpeg(data: bytes, decoder: Callable[[bytes], Array]) -> Array:
    """What a decoder makes of a JPEG. Raises Undecodable for one that is cut short, which decoders fill up with grey.

    Some writers leave out the EOI marker: without one, a codestream is whole if nothing that follows it can matter.
    """
    array = decoder(data)
    if not data.rstrip(b"\0").endswith(_EOI) and not np.array_equal(array, decoder(data + _TAIL)):
        raise Undecodable("JPEG codestream is cut short")
    return array


def _whole_tiles(data: bytes) -> None:
    """Nothing, or Undecodable where a tile-part (ISO/IEC 15444-1 A.4.2) is longer than what there is of it."""
    at = data.find(b"\xff\x4f\xff\x51") + 2
    while at + 4 <= len(data):
        marker, length = struct.unpack_from(">HH", data, at)
        if marker == 0xFF90 and at + 12 <= len(data):
            (length,) = struct.unpack_from(">I", data, at + 6)
            if not length:  # as far as the end of the codestream
                if data.rstrip(b"\0").endswith(_EOI):
                    return
                break
            at += length
            if at in (len(data), len(data) - 1):  # without its last marker, yet whole
                return
        elif marker >> 8 != 0xFF or marker == 0xFFD9:
            return
        else:
            at += 2 + length
    if data[at : at + 2] != _EOI:
        raise Undecodable("JPEG 2000 codestream is cut short")


def _jpeg_geometry(data: bytes) -> tuple[int, int, int, int, int, bool | None]:
    """Rows, columns, components, precision, SOF marker, and whether a marker tells of a YCbCr transform (None: no)."""
    at = 2
    transform: bool | None = None
    if data[:2] != b"\xff\xd8":
        raise Undecodable("no JPEG codestream")
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        body = data[at + 4 : at + 2 + length]
        if marker in (0xC0, 0xC1, 0xC2, 0xC3, 0xF7) and len(body) >= 6:
            precision, rows, columns, components = struct.unpack_from(">BHHB", body)
            return rows, columns, components, precision, marker, transform
        if marker == 0xEE and body[:5] == b"Adobe" and len(body) >= 12:
            transform = body[11] == 1
        elif marker == 0xE0 and body[:5] == b"JFIF\0" and transform is None:
            transform = True
        elif marker in (0xDA, 0xD9):
            break
        at += 2 + length
    raise Undecodable("JPEG codestream without a frame header of a known process")


def _j2k_geometry(data: bytes) -> tuple[int, int, int, int]:
    """Rows, columns, components and precision of the SIZ marker (ISO/IEC 15444-1 A.5.1)."""
    at = data.find(b"\xff\x4f\xff\x51")
    if at < 0 or len(data) < at + 43:
        raise Undecodable("no JPEG 2000 codestream")
    right, bottom, left, top = struct.unpack_from(">4I", data, at + 8)
    (components,) = struct.unpack_from(">H", data, at + 40)
    return bottom - top, right - left, components, (data[at + 42] & 0x7F) + 1


def _same_geometry(info: PixelInfo, rows: int, columns: int, components: int, precision: int) -> None:
    if (rows, columns, components) != (info.rows, info.columns, info.samples):
        raise Undecodable(
            f"codestream of {rows} x {columns} x {components} for an image of "
            f"{info.rows} x {info.columns} x {info.samples}"
        )
    if precision > max(info.bits_allocated, 8):
        raise Undecodable(f"codestream of {precision} bits for {info.bits_allocated} bits allocated")
