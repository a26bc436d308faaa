"""Stored pixel data and data sets in a native little-endian syntax, for whoever cannot read them as they are stored."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from pacs.dicom import json_model, scanner
from pacs.dicom.decode import SUBSAMPLED, PixelInfo, decode_stored
from pacs.dicom.deflated import inflate
from pacs.dicom.rewrite import Replacements, header, implicit_header, little_endian
from pacs.dicom.transfer_syntaxes import EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN, TRANSFER_SYNTAXES
from pacs.dicom.values import swapped, vrs
from pacs.errors import Undecodable, UnsupportedTransferSyntax

MAX_VALUE_BYTES: Final = 0xFFFFFFFE
"""PS3.5 7.1: the longest value a native element can have."""

_HEADERS: Final = {EXPLICIT_LITTLE_ENDIAN: header, IMPLICIT_LITTLE_ENDIAN: implicit_header}


def explicit_le_frame(data: bytes, info: PixelInfo) -> bytes:
    """One frame as native little-endian bytes: rows x columns x samples x Bits Allocated, no padding (PS3.18 8.7.3).

    Stored native frames keep their bits, colour space and planes, only their bytes change order; compressed ones are
    decoded. What then holds instead of the stored attributes is in `changed_attributes`. Raises Undecodable or
    UnsupportedTransferSyntax.
    """
    info.check()
    if info.syntax.codec == "native" and not _subsampled(data, info):
        if len(data) < info.native_bytes:
            raise Undecodable(f"frame has {len(data)} of {info.native_bytes} bytes")
        frame = bytes(data[: info.native_bytes])
        if info.syntax.little_endian or info.bits_allocated < 8:
            return frame
        if info.bits_allocated > 8:
            return swapped(frame, info.bits_allocated // 8)
        if info.words and info.native_bytes % 2:
            raise Undecodable("big-endian words that end inside a frame of odd length")
        return swapped(frame, 2) if info.words else frame
    array = decode_stored(data, info)
    if info.bits_allocated == 1:
        return np.packbits(array.ravel(), bitorder="little").tobytes()
    if _planes(info) and info.samples > 1:
        array = array.transpose(2, 0, 1)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def _subsampled(data: bytes, info: PixelInfo) -> bool:
    return info.photometric in SUBSAMPLED and len(data) < info.native_bytes


def _planes(info: PixelInfo) -> bool:
    """RLE is made of planes anyway: decoded, it keeps the Planar Configuration that its data set states."""
    return info.planar and info.syntax.codec in ("rle", "uncompressed", "deflate")


def changed_attributes(info: PixelInfo, stored_frame_bytes: int | None = None) -> dict[str, Any]:
    """The attributes, in the DICOM JSON model, that differ once `explicit_le_frame` was applied; {} if none do.

    `stored_frame_bytes` is the length of a native frame: some writers say YBR_FULL_422 and yet store every sample.
    """
    decoded = info.decoded()
    if info.syntax.codec == "native" and (
        info.photometric not in SUBSAMPLED or (stored_frame_bytes or 0) >= info.native_bytes
    ):
        return {}
    changed: dict[str, Any] = {}
    if decoded.photometric != info.photometric:
        changed["00280004"] = {"vr": "CS", "Value": [decoded.photometric]}
    if info.samples > 1 and info.planar and not _planes(info):
        changed["00280006"] = {"vr": "US", "Value": [0]}
    return changed


def little_endian_value(raw: bytes, vr: str, transfer_syntax_uid: str, bits_allocated: int = 16) -> bytes:
    """A stored bulk value in little endian, as bulk data goes over the web (PS3.18 8.7.3.3).

    `bits_allocated` matters for OW pixel data only.
    """
    syntax = TRANSFER_SYNTAXES[transfer_syntax_uid]
    row = vrs(True).get(vr.encode("ascii"))
    if syntax.little_endian or row is None or row.swap == 1:
        return raw
    return swapped(raw, max(2, bits_allocated // 8) if vr == "OW" else row.swap)


def transcode_dataset(
    dataset: bytes | memoryview, source_ts: str, target_ts: str, limits: scanner.Limits = scanner.DEFAULT_LIMITS
) -> bytes:
    """The whole data set in `target_ts`: Explicit or Implicit VR Little Endian, or `source_ts` itself.

    Values keep their bytes. Compressed pixel data is decoded and the attributes that then differ are written so;
    compressed icons become empty. Raises UnsupportedTransferSyntax for other targets, for syntaxes without a decoder,
    and where the pixels do not fit a value; MalformedDataset and Undecodable for broken bytes.
    """
    return b"".join(transcoded_pieces(dataset, source_ts, target_ts, limits))


def transcoded_pieces(
    dataset: bytes | memoryview, source_ts: str, target_ts: str, limits: scanner.Limits = scanner.DEFAULT_LIMITS
) -> Iterator[bytes]:
    """`transcode_dataset` in pieces, at most one decoded frame of them in memory."""
    if source_ts not in TRANSFER_SYNTAXES:
        raise UnsupportedTransferSyntax("unknown transfer syntax", about=source_ts)
    syntax = TRANSFER_SYNTAXES[source_ts]
    if target_ts == source_ts:
        yield bytes(dataset)
        return
    if target_ts not in _HEADERS or syntax.codec is None:
        raise UnsupportedTransferSyntax(f"no way from {source_ts} to {target_ts}", about=target_ts)
    data = memoryview(inflate(dataset, limits.inflated_bytes) if syntax.deflated else dataset)
    plain = source_ts if not syntax.deflated else EXPLICIT_LITTLE_ENDIAN
    scan = scanner.scan(data, plain, limits)
    replacements: Replacements = {}
    metadata = scan.metadata
    if scan.frames is not None:
        if syntax.encapsulated:
            replacements = _decoded(data, scan, PixelInfo.from_metadata(metadata, plain))
    elif syntax.encapsulated and "7FE00010" in metadata:
        raise Undecodable("pixel data without frames")
    number = metadata.get("00280103", {}).get("Value")
    bits = metadata.get("00280100", {}).get("Value")
    yield from little_endian(
        data,
        TRANSFER_SYNTAXES[plain],
        replacements,
        signed=number == [1],
        bits_allocated=bits[0] if isinstance(bits, list) and isinstance(bits[0], int) else 16,
        header=_HEADERS[target_ts],
    )


def _decoded(data: memoryview, scan: scanner.Scan, info: PixelInfo) -> Replacements:
    """The pixel data, decoded as it is asked for, and the attributes that change with it."""
    table = scan.frames
    assert table is not None
    total = info.native_bytes * table.number_of_frames
    if info.bits_allocated == 1:
        raise UnsupportedTransferSyntax("one-bit frames are not unpacked from a compressed data set")
    if total > MAX_VALUE_BYTES:
        raise UnsupportedTransferSyntax(f"{total} bytes of decoded pixels do not fit a value (PS3.5 7.1)")

    def pieces() -> Iterator[bytes]:
        for number in range(1, table.number_of_frames + 1):
            codestream = b"".join(bytes(data[offset : offset + length]) for offset, length in table.spans(number))
            yield explicit_le_frame(codestream, info)
        if total % 2:
            yield b"\0"

    vr = b"OW" if info.bits_allocated > 8 else b"OB"
    out: dict[int, Any] = {0x7FE00010: (vr, total + total % 2, pieces())}
    for tag, entry in changed_attributes(info).items():
        value = entry["Value"][0]
        raw = struct.pack("<H", value) if entry["vr"] == "US" else value.encode("ascii") + b" " * (len(value) % 2)
        out[int(tag, 16)] = (entry["vr"].encode("ascii"), len(raw), (raw,))
    if info.samples > 1 and json_model.text(scan.metadata, "00280006") is None:
        planar = struct.pack("<H", 0)
        out[0x00280006] = (b"US", 2, (planar,))
    return out
