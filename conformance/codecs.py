"""Frames encoded in every transfer syntax, and their encapsulation (PS3.5 annex A), for data of the suite's own.

RLE and the deflated syntaxes are written here; the others need the package `imagecodecs`, and are left out without it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

Array = npt.NDArray[Any]

_P = "1.2.840.10008.1.2"
ILE, ELE, DEFLATED, EBE = _P, f"{_P}.1", f"{_P}.1.99", f"{_P}.2"
UNCOMPRESSED, RLE, DEFLATED_FRAME = f"{_P}.1.98", f"{_P}.5", f"{_P}.8.1"
BASELINE, EXTENDED, LOSSLESS14, LOSSLESS = f"{_P}.4.50", f"{_P}.4.51", f"{_P}.4.57", f"{_P}.4.70"
JPEG_LS, JPEG_LS_NEAR, J2K, J2K_LOSSY = f"{_P}.4.80", f"{_P}.4.81", f"{_P}.4.90", f"{_P}.4.91"
HTJ2K, HTJ2K_LOSSY, JXL, JXL_LOSSY = f"{_P}.4.201", f"{_P}.4.203", f"{_P}.4.110", f"{_P}.4.112"

UNENCODED = (ILE, ELE, DEFLATED, EBE)
NAMES = {
    ILE: "Implicit VR Little Endian", ELE: "Explicit VR Little Endian", DEFLATED: "Deflated Explicit VR Little Endian",
    EBE: "Explicit VR Big Endian", UNCOMPRESSED: "Encapsulated Uncompressed", RLE: "RLE Lossless",
    DEFLATED_FRAME: "Deflated Image Frame", BASELINE: "JPEG Baseline", EXTENDED: "JPEG Extended",
    LOSSLESS14: "JPEG Lossless", LOSSLESS: "JPEG Lossless SV1", JPEG_LS: "JPEG-LS Lossless",
    JPEG_LS_NEAR: "JPEG-LS Near-lossless", J2K: "JPEG 2000 Lossless", J2K_LOSSY: "JPEG 2000", HTJ2K: "HTJ2K Lossless",
    HTJ2K_LOSSY: "HTJ2K", JXL: "JPEG XL Lossless", JXL_LOSSY: "JPEG XL",
}  # fmt: skip
LOSSY = (BASELINE, EXTENDED, JPEG_LS_NEAR, J2K_LOSSY, HTJ2K_LOSSY, JXL_LOSSY)


def encode_frames(pixels: Array, syntax: str, ds: Dataset) -> tuple[bytes, ...]:
    """Each frame as a codestream. Raises LookupError where no encoder for the syntax is installed."""
    bits = int(ds.get("BitsStored", 8))
    return tuple(_encode(np.ascontiguousarray(frame), syntax, bits) for frame in pixels)


def _encode(frame: Array, syntax: str, bits: int) -> bytes:
    if syntax == RLE:
        return rle(frame)
    if syntax == DEFLATED_FRAME:
        packer = zlib.compressobj(wbits=-15)
        return packer.compress(frame.tobytes()) + packer.flush()
    if syntax == UNCOMPRESSED:
        return frame.tobytes()
    try:
        codecs = import_module("imagecodecs")
    except ImportError as error:
        raise LookupError(f"no encoder for {NAMES.get(syntax, syntax)}: install imagecodecs") from error
    return bytes(_imagecodecs(codecs, frame, syntax, bits))


def _imagecodecs(codecs: Any, frame: Array, syntax: str, bits: int) -> Any:
    unsigned = frame.view(f"u{frame.dtype.itemsize}") & np.array((1 << bits) - 1, f"u{frame.dtype.itemsize}")
    match syntax:
        case "1.2.840.10008.1.2.4.50":
            return codecs.jpeg8_encode(unsigned, 95, subsampling="444")
        case "1.2.840.10008.1.2.4.51":
            return codecs.jpeg8_encode(unsigned, 98, bitspersample=12)
        case "1.2.840.10008.1.2.4.57" | "1.2.840.10008.1.2.4.70":
            return codecs.ljpeg_encode(unsigned, bitspersample=bits)
        case "1.2.840.10008.1.2.4.80":
            return codecs.jpegls_encode(unsigned)
        case "1.2.840.10008.1.2.4.81":
            return codecs.jpegls_encode(unsigned, level=2)
        case "1.2.840.10008.1.2.4.90":
            return codecs.jpeg2k_encode(frame, codecformat="J2K", reversible=True, bitspersample=bits)
        case "1.2.840.10008.1.2.4.91":
            return codecs.jpeg2k_encode(frame, level=50, codecformat="J2K")
        case "1.2.840.10008.1.2.4.201":
            return codecs.htj2k_encode(frame, reversible=True)
        case "1.2.840.10008.1.2.4.203":
            return codecs.htj2k_encode(frame, reversible=False, level=0.001)
        case "1.2.840.10008.1.2.4.110":
            return codecs.jpegxl_encode(unsigned, lossless=True)
        case "1.2.840.10008.1.2.4.112":
            return codecs.jpegxl_encode(unsigned, level=95)
    raise LookupError(f"no encoder for {syntax}")


def decode(codestream: bytes, syntax: str) -> Array:
    """The pixels of one codestream, to compare with. Raises LookupError where no decoder is installed."""
    try:
        codecs = import_module("imagecodecs")
    except ImportError as error:
        raise LookupError("no decoder: install imagecodecs") from error
    names = {
        BASELINE: "jpeg8", EXTENDED: "jpeg8", LOSSLESS14: "ljpeg", LOSSLESS: "ljpeg", JPEG_LS: "jpegls",
        JPEG_LS_NEAR: "jpegls", J2K: "jpeg2k", J2K_LOSSY: "jpeg2k", HTJ2K: "jpeg2k", HTJ2K_LOSSY: "jpeg2k",
        JXL: "jpegxl", JXL_LOSSY: "jpegxl", "image/jpeg": "jpeg8", "image/png": "png", "image/gif": "gif",
    }  # fmt: skip
    if syntax not in names:
        raise LookupError(f"no decoder for {syntax}")
    return np.asarray(getattr(codecs, f"{names[syntax]}_decode")(codestream))


def rle(frame: Array) -> bytes:
    """One frame in RLE (PS3.5 annex G): a segment for each byte of each sample, most significant first, row by row."""
    width = frame.dtype.itemsize
    samples = frame[..., None] if frame.ndim == 2 else frame
    segments = []
    for sample in range(samples.shape[2]):
        plane = np.ascontiguousarray(samples[:, :, sample])
        octets = plane.view(np.uint8).reshape(*plane.shape, width)
        for byte in reversed(range(width)):
            packed = b"".join(_pack_bits(row.tobytes()) for row in octets[:, :, byte])
            segments.append(packed + b"\0" * (len(packed) % 2))
    offsets, at = [], 64
    for segment in segments:
        offsets.append(at)
        at += len(segment)
    header = struct.pack("<16I", len(segments), *offsets, *[0] * (15 - len(segments)))
    return header + b"".join(segments)


def _pack_bits(row: bytes) -> bytes:
    out, at = bytearray(), 0
    while at < len(row):
        run = 1
        while at + run < len(row) and run < 128 and row[at + run] == row[at]:
            run += 1
        if run > 2:
            out += bytes((257 - run, row[at]))
            at += run
            continue
        start = at
        while at < len(row) and at - start < 128 and not (at + 2 < len(row) and row[at] == row[at + 1] == row[at + 2]):
            at += 1
        out += bytes((at - start - 1,)) + row[start:at]
    return bytes(out)


def unpack_rle(stream: bytes, pixels: int, samples: int, width: int) -> bytes:
    """The native bytes of an RLE frame of any server's making, colour by pixel, little endian."""
    count, *offsets = struct.unpack_from("<16I", stream)
    if count != samples * width:
        raise ValueError(f"{count} segments for {samples} samples of {width} bytes")
    planes = []
    for start, end in zip(offsets, [*offsets[1:count], len(stream)], strict=False):
        out, at = bytearray(), start
        while at < end and len(out) < pixels:
            code = stream[at]
            if code < 128:
                out += stream[at + 1 : at + 2 + code]
                at += 2 + code
            elif code > 128:
                out += stream[at + 1 : at + 2] * (257 - code)
                at += 2
            else:
                at += 1
        planes.append(np.frombuffer(bytes(out[:pixels]), np.uint8))
    ordered = [planes[sample * width + byte] for sample in range(samples) for byte in reversed(range(width))]
    return np.stack(ordered, axis=-1).tobytes()


def encapsulated(frames: Sequence[bytes], fragments: int, offsets: str) -> tuple[bytes, tuple[bytes, bytes] | None]:
    """The items of encapsulated Pixel Data, and the Extended Offset Table with its lengths where that is asked."""
    body, starts, lengths = b"", [], []
    for frame in frames:
        starts.append(len(body))
        lengths.append(len(frame))
        size = -(-len(frame) // fragments)
        size += size % 2
        for at in range(0, len(frame), size):
            piece = frame[at : at + size]
            piece += b"\0" * (len(piece) % 2)
            body += struct.pack("<HHI", 0xFFFE, 0xE000, len(piece)) + piece
    basic = struct.pack(f"<{len(starts)}I", *starts) if offsets == "basic" else b""
    value = struct.pack("<HHI", 0xFFFE, 0xE000, len(basic)) + basic + body
    if offsets != "extended":
        return value, None
    return value, (struct.pack(f"<{len(starts)}Q", *starts), struct.pack(f"<{len(lengths)}Q", *lengths))
