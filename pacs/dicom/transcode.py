"""Stored frames and data sets in another transfer syntax: decoded for whoever cannot read them, or compressed anew."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from pacs.dicom import encode, json_model, lossy, scanner
from pacs.dicom.decode import SUBSAMPLED, PixelInfo, decode_frame, decode_stored, rle_words
from pacs.dicom.deflated import inflate
from pacs.dicom.encode import DEFLATED_FRAME, ENCODED, RLE
from pacs.dicom.late import numpy as np
from pacs.dicom.rewrite import Replacements, header, implicit_header, little_endian
from pacs.dicom.transfer_syntaxes import (
    DEFLATED_LITTLE_ENDIAN,
    EXPLICIT_LITTLE_ENDIAN,
    IMPLICIT_LITTLE_ENDIAN,
    TRANSFER_SYNTAXES,
)
from pacs.dicom.values import swapped, vrs
from pacs.errors import MalformedDataset, TooLarge, Undecodable, UnsupportedTransferSyntax

if TYPE_CHECKING:
    import numpy.typing as npt

MAX_VALUE_BYTES: Final = 0xFFFFFFFE
"""PS3.5 7.1: the longest value a native element can have."""

TARGETS: Final = (EXPLICIT_LITTLE_ENDIAN, *ENCODED, DEFLATED_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN)
"""What a data set can be turned into, where its pixels fit; the last one is for DIMSE alone."""

_HEADERS: Final = {EXPLICIT_LITTLE_ENDIAN: header, IMPLICIT_LITTLE_ENDIAN: implicit_header}


def explicit_le_frame(data: bytes, info: PixelInfo) -> bytes:
    """One frame as native little-endian bytes: rows x columns x samples x Bits Allocated, no padding (PS3.18 8.7.3).

    Stored native frames keep their bits, colour space and planes, only their bytes change order; compressed ones are
    decoded. What then holds instead of the stored attributes is in `changed_attributes`. Raises Undecodable or
    UnsupportedTransferSyntax.
    """
    info.check()
    if info.syntax.codec in ("native", "uncompressed", "deflate") and not _subsampled(data, info):
        if info.syntax.codec == "deflate":
            data = _inflated(data, info)
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
    # RLE keeps the words: what lies in their unused bits stays there.
    array = rle_words(data, info) if info.syntax.codec == "rle" else decode_stored(data, info)
    if info.bits_allocated == 1:
        return np.packbits(array.ravel(), bitorder="little").tobytes()
    if _planes(info) and info.samples > 1:
        array = array.transpose(2, 0, 1)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def transcoded_frame(data: bytes, info: PixelInfo, target_ts: str) -> bytes:
    """One frame in another transfer syntax: as `explicit_le_frame` gives it, or as a codestream (PS3.5 8.2, annex A).

    Bits that are no part of a value are lost, but in RLE, deflated and uncompressed frames. `encoded_attributes` says
    what then holds. Raises Undecodable; UnsupportedTransferSyntax where the pixels do not fit the target.
    """
    if target_ts == info.transfer_syntax_uid:
        return data
    if target_ts == EXPLICIT_LITTLE_ENDIAN:
        return explicit_le_frame(data, info)
    if target_ts not in ENCODED:
        raise UnsupportedTransferSyntax("no encoder for this transfer syntax", about=target_ts)
    encode.refuse(_before(info, target_ts), target_ts)
    if not ENCODED[target_ts].raw:
        array = decode_frame(data, info) if ENCODED[target_ts].lossy else decode_stored(data, info)
        return encode.encoded(array, _before(info, target_ts), target_ts)
    native = explicit_le_frame(data, info)
    if target_ts == RLE:
        return encode.rle(_as_planes(native, info), info)
    return encode.deflate(native) if target_ts == DEFLATED_FRAME else native


def _before(info: PixelInfo, target_ts: str) -> PixelInfo:
    """The attributes of what an encoder is given."""
    decoded = info.decoded()
    colour = ENCODED[target_ts].lossy and decoded.photometric.startswith("YBR")
    return replace(decoded, photometric="RGB") if colour else decoded


def _as_planes(native: bytes, info: PixelInfo) -> npt.NDArray[Any]:
    words = np.frombuffer(native, f"<u{info.bits_allocated // 8}")
    if info.samples == 1:
        return words.reshape(1, info.rows, info.columns)
    planar = info.planar and (info.syntax.codec == "native" or _planes(info))
    if planar:
        return words.reshape(info.samples, info.rows, info.columns)
    return words.reshape(info.rows, info.columns, info.samples).transpose(2, 0, 1)


def encoded_attributes(info: PixelInfo, target_ts: str, stored_frame_bytes: int | None = None) -> dict[str, Any]:
    """As `changed_attributes`, once `transcoded_frame` was applied."""
    if target_ts == info.transfer_syntax_uid:
        return {}
    if target_ts == EXPLICIT_LITTLE_ENDIAN or ENCODED[target_ts].raw:
        return changed_attributes(info, stored_frame_bytes)
    changed: dict[str, Any] = {}
    photometric = encode.photometric(_before(info, target_ts), target_ts)
    if photometric != info.photometric:
        changed["00280004"] = {"vr": "CS", "Value": [photometric]}
    if info.samples > 1 and info.planar:
        changed["00280006"] = {"vr": "US", "Value": [0]}
    if info.high_bit != info.bits_stored - 1:
        changed["00280102"] = {"vr": "US", "Value": [info.bits_stored - 1]}
    return changed


def _inflated(data: bytes, info: PixelInfo) -> bytes:
    try:
        return inflate(data, info.native_bytes + 1)
    except (TooLarge, MalformedDataset):
        raise Undecodable("frame cannot be inflated to what its image holds") from None


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
    """The whole data set in `target_ts`, one of TARGETS, or `source_ts` itself.

    Values keep their bytes. Pixel data is decoded or encoded and the attributes that then differ are written so, also
    the SOP Instance UID where the target is lossy (`lossy.retrieved_uid`); compressed icons become empty. Raises
    UnsupportedTransferSyntax for other targets, for syntaxes without a decoder, and where there are no pixels that fit
    the target; MalformedDataset and Undecodable for broken bytes.
    """
    return b"".join(transcoded_pieces(dataset, source_ts, target_ts, limits))


def transcoded_pieces(
    dataset: bytes | memoryview, source_ts: str, target_ts: str, limits: scanner.Limits = scanner.DEFAULT_LIMITS
) -> Iterator[bytes]:
    """`transcode_dataset` in pieces; of decoded frames, at most one of them is in memory."""
    if source_ts not in TRANSFER_SYNTAXES:
        raise UnsupportedTransferSyntax("unknown transfer syntax", about=source_ts)
    syntax = TRANSFER_SYNTAXES[source_ts]
    if target_ts == source_ts:
        yield bytes(dataset)
        return
    if target_ts not in TARGETS or syntax.codec is None:
        raise UnsupportedTransferSyntax(f"no way from {source_ts} to {target_ts}", about=target_ts)
    if target_ts == DEFLATED_LITTLE_ENDIAN:
        packed = encode.deflate(transcode_dataset(dataset, source_ts, EXPLICIT_LITTLE_ENDIAN, limits))
        yield packed + b"\0" * (len(packed) % 2)
        return
    data = memoryview(inflate(dataset, limits.inflated_bytes) if syntax.deflated else dataset)
    plain = source_ts if not syntax.deflated else EXPLICIT_LITTLE_ENDIAN
    scan = scanner.scan(data, plain, limits)
    replacements: Replacements = {}
    metadata = scan.metadata
    if target_ts in ENCODED:
        if scan.frames is None:
            raise UnsupportedTransferSyntax("there are no frames to be compressed", about=target_ts)
        replacements = _encoded(data, scan, PixelInfo.from_metadata(metadata, plain), target_ts)
    elif scan.frames is not None:
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
        header=_HEADERS.get(target_ts, header),
    )


def _stored_frames(data: memoryview, scan: scanner.Scan) -> Iterator[bytes]:
    table = scan.frames
    assert table is not None
    for number in range(1, table.number_of_frames + 1):
        joined = b"".join(bytes(data[offset : offset + length]) for offset, length in table.spans(number))
        yield table.cut_bits(number, joined)


def _decoded(data: memoryview, scan: scanner.Scan, info: PixelInfo) -> Replacements:
    """The pixel data, decoded as it is asked for, and the attributes that change with it."""
    assert scan.frames is not None
    bits = info.rows * info.columns * info.samples * info.bits_allocated
    total = (bits * scan.frames.number_of_frames + 7) // 8
    if total > MAX_VALUE_BYTES:
        raise UnsupportedTransferSyntax(f"{total} bytes of decoded pixels do not fit a value (PS3.5 7.1)")

    def pieces() -> Iterator[bytes]:
        frames = (explicit_le_frame(codestream, info) for codestream in _stored_frames(data, scan))
        if bits % 8:
            # PS3.5 8.1.1: one-bit frames follow each other without a gap.
            unpacked = [np.unpackbits(np.frombuffer(f, np.uint8), bitorder="little")[:bits] for f in frames]
            yield np.packbits(np.concatenate(unpacked), bitorder="little").tobytes()
        else:
            yield from frames
        if total % 2:
            yield b"\0"

    vr = b"OW" if info.bits_allocated > 8 else b"OB"
    out: dict[int, Any] = {0x7FE00010: (vr, total + total % 2, pieces())}
    return out | _changed(scan, info, changed_attributes(info))


def _changed(scan: scanner.Scan, info: PixelInfo, changed: dict[str, Any]) -> dict[int, Any]:
    out: dict[int, Any] = {}
    for tag, entry in changed.items():
        value = entry["Value"][0]
        raw = struct.pack("<H", value) if entry["vr"] == "US" else value.encode("ascii") + b" " * (len(value) % 2)
        out[int(tag, 16)] = (entry["vr"].encode("ascii"), len(raw), (raw,))
    if info.samples > 1 and json_model.text(scan.metadata, "00280006") is None:
        planar = struct.pack("<H", 0)
        out[0x00280006] = (b"US", 2, (planar,))
    return out


def _encoded(data: memoryview, scan: scanner.Scan, info: PixelInfo, target_ts: str) -> Replacements:
    """The pixel data as fragments, one for each frame, behind a Basic Offset Table where that can hold them (A.4)."""
    if not ENCODED[target_ts].raw and _overlay_in_pixels(scan.metadata):
        raise UnsupportedTransferSyntax("an overlay lies in bits that the codestream would not hold", about=target_ts)
    frames = [transcoded_frame(stored, info, target_ts) for stored in _stored_frames(data, scan)]
    lengths = [len(frame) + len(frame) % 2 for frame in frames]
    offsets = np.cumsum([0, *(length + 8 for length in lengths)])[:-1]
    table = offsets.astype("<u4").tobytes() if int(offsets[-1]) <= MAX_VALUE_BYTES else b""

    def pieces() -> Iterator[bytes]:
        yield struct.pack("<HHI", 0xFFFE, 0xE000, len(table)) + table
        for frame, length in zip(frames, lengths, strict=True):
            yield struct.pack("<HHI", 0xFFFE, 0xE000, length) + frame + b"\0" * (length - len(frame))
        yield struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)

    first = len(next(_stored_frames(data, scan)))
    out: dict[int, Any] = {0x7FE00010: (b"OB", 0xFFFFFFFF, pieces())}
    out |= _changed(scan, info, encoded_attributes(info, target_ts, first))
    if lossy.becomes_lossy(info.transfer_syntax_uid, target_ts):
        ratio = info.native_bytes * len(frames) / sum(map(len, frames))
        for tag, (vr, value) in lossy.attributes(scan.metadata, target_ts, ratio).items():
            out[tag] = (vr, len(value), (value,))
    return out


def _overlay_in_pixels(metadata: dict[str, Any]) -> bool:
    """Whether an overlay is kept in unused bits of the pixels, as it was done before 2004 (PS3.3 C.9.2)."""
    planes = [tag[:4] for tag in metadata if tag.startswith("60") and tag.endswith("0102")]
    return any(f"{plane}3000" not in metadata and json_model.text(metadata, f"{plane}0102") != "0" for plane in planes)
