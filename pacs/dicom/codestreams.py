"""What a compressed frame tells of itself: transfer syntax and Image Pixel Description, read from its headers. Pure.

Only headers are read, within bounds, so this needs no sandbox; the pixels themselves are decoded elsewhere.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pacs.dicom.transfer_syntaxes import TRANSFER_SYNTAXES
from pacs.errors import UnsupportedTransferSyntax

JPEG_BASELINE: Final = "1.2.840.10008.1.2.4.50"
JPEG_EXTENDED: Final = "1.2.840.10008.1.2.4.51"
JPEG_LOSSLESS: Final = "1.2.840.10008.1.2.4.57"
JPEG_LOSSLESS_SV1: Final = "1.2.840.10008.1.2.4.70"
JPEG_LS, JPEG_LS_NEAR = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"
JPEG_2000_LOSSLESS, JPEG_2000 = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"
HTJ2K_LOSSLESS, HTJ2K = "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.203"
RLE: Final = "1.2.840.10008.1.2.5"
AVC_4_1, AVC_4_2 = "1.2.840.10008.1.2.4.102", "1.2.840.10008.1.2.4.104"

MAX_MARKERS: Final = 4096
_JP2: Final = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
_SOC_SIZ: Final = b"\xff\x4f\xff\x51"


@dataclass(frozen=True, slots=True)
class Codestream:
    """One compressed frame: its syntax, the bare codestream, and, where headers tell, the attributes of its pixels.

    `attributes` are Rows, Columns and so on in the DICOM JSON model; empty for RLE, JPEG XL and video.
    """

    transfer_syntax_uid: str
    data: bytes | bytearray | memoryview
    attributes: dict[str, dict[str, Any]]


def read(data: bytes | bytearray | memoryview, media_type: str, transfer_syntax_uid: str = "") -> Codestream:
    """The codestream of a frame that came as `media_type`, in `transfer_syntax_uid` where that was said.

    Raises UnsupportedTransferSyntax for bytes that are no such codestream, contradict the syntax that was named, or
    are of a process that no transfer syntax of DICOM has.
    """
    found = _recognised(data)
    if found is None:
        implied = {"image/dicom-rle": RLE, "video/mp4": _video(data) if media_type == "video/mp4" else ""}
        uid = transfer_syntax_uid or implied.get(media_type, "")
        row = TRANSFER_SYNTAXES.get(uid)
        if row is None or not row.encapsulated or row.codec in ("jpeg", "jpegls", "jpeg2000", "htj2k"):
            raise UnsupportedTransferSyntax("compressed pixel data without a known transfer syntax", about=uid[:64])
        return Codestream(uid, data, {})
    if transfer_syntax_uid and not _alike(transfer_syntax_uid, found.transfer_syntax_uid):
        raise UnsupportedTransferSyntax("pixel data in another transfer syntax than it is said to be in",
                                        about=transfer_syntax_uid[:64])  # fmt: skip
    return Codestream(transfer_syntax_uid or found.transfer_syntax_uid, found.data, found.attributes)


def _recognised(data: bytes | bytearray | memoryview) -> Codestream | None:
    """The codestream where its first bytes are those of a JPEG or JPEG 2000 format, None for anything else."""
    head = bytes(data[:12])
    try:
        if head[:3] == b"\xff\xd8\xff":
            return _jpeg(data)
        return _jpeg2000(data) if head[:4] == _SOC_SIZ or head == _JP2 else None
    except (IndexError, struct.error):
        raise UnsupportedTransferSyntax("a codestream that is cut short in its headers") from None


def is_progressive(data: bytes | bytearray | memoryview) -> bool:
    """Whether this is a JPEG of a progressive process, for which there is no transfer syntax but retired ones."""
    return bytes(data[:3]) == b"\xff\xd8\xff" and any(marker == 0xC2 for marker, _ in _segments(data))


def _alike(named: str, found: str) -> bool:
    """Whether a codestream that looks like `found` may be called `named`: codec and losslessness have to agree."""
    one, other = TRANSFER_SYNTAXES.get(named), TRANSFER_SYNTAXES[found]
    if one is None or one.codec != other.codec:
        return False
    # A reversible codestream may be called by the name that allows both; baseline is a subset of extended.
    return one.lossy or not other.lossy


def described(
    rows: int, columns: int, samples: int, bits: int, photometric: str, *, signed: bool = False, lossy: bool = False
) -> dict[str, dict[str, Any]]:
    """The Image Pixel Description Macro (PS3.3 Table C.7-11c) of such a frame in the DICOM JSON model."""
    attributes: dict[str, dict[str, Any]] = {
        "00280002": {"vr": "US", "Value": [samples]},
        "00280004": {"vr": "CS", "Value": [photometric]},
        "00280010": {"vr": "US", "Value": [rows]},
        "00280011": {"vr": "US", "Value": [columns]},
        "00280100": {"vr": "US", "Value": [8 if bits <= 8 else 16]},
        "00280101": {"vr": "US", "Value": [bits]},
        "00280102": {"vr": "US", "Value": [bits - 1]},
        "00280103": {"vr": "US", "Value": [int(signed)]},
    }
    if samples > 1:
        attributes["00280006"] = {"vr": "US", "Value": [0]}
    if lossy:
        attributes["00282110"] = {"vr": "CS", "Value": ["01"]}
    return dict(sorted(attributes.items()))


def _segments(data: bytes | bytearray | memoryview) -> Iterator[tuple[int, bytes]]:
    """Marker and content of each segment of a JPEG up to the first scan header, that one included."""
    at = 2
    for _ in range(MAX_MARKERS):
        if at + 4 > len(data) or data[at] != 0xFF:
            return
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        yield marker, bytes(data[at + 4 : at + 2 + length])
        if marker == 0xDA:
            return
        at += 2 + length


def _jpeg(data: bytes | bytearray | memoryview) -> Codestream:
    process, frame, adobe, scan = 0, b"", None, b""
    for marker, content in _segments(data):
        if marker in (0xC0, 0xC1, 0xC2, 0xC3, 0xF7) and len(content) >= 9:
            process, frame = marker, content
        elif marker == 0xEE and content[:5] == b"Adobe" and len(content) >= 12:
            adobe = content[11]
        elif marker == 0xDA and len(content) >= 4 + 2 * content[0]:
            scan = content
    if not frame or not scan:
        raise UnsupportedTransferSyntax("a JPEG without the headers of a known process")
    precision, rows, columns, samples = struct.unpack_from(">BHHB", frame)
    if samples not in (1, 3) or not rows or not columns or len(frame) < 6 + 3 * samples:
        raise UnsupportedTransferSyntax("a JPEG with a number of components or of lines that no data set has")
    parameter = scan[1 + 2 * scan[0]]  # predictor of a lossless scan, NEAR of JPEG-LS
    subsampled = samples == 3 and frame[7] != frame[10]
    lossless = {0xC3: JPEG_LOSSLESS_SV1 if parameter == 1 else JPEG_LOSSLESS, 0xF7: JPEG_LS}
    if process in lossless:
        uid = JPEG_LS_NEAR if process == 0xF7 and parameter else lossless[process]
        photometric = "RGB"
    elif process in (0xC0, 0xC1):
        uid = JPEG_BASELINE if process == 0xC0 and precision == 8 else JPEG_EXTENDED
        photometric = "RGB" if adobe == 0 else "YBR_FULL_422" if subsampled else "YBR_FULL"
    else:
        raise UnsupportedTransferSyntax("a progressive JPEG, which no transfer syntax in force has")
    lossy = TRANSFER_SYNTAXES[uid].lossy
    photometric = photometric if samples == 3 else "MONOCHROME2"
    return Codestream(uid, data, described(rows, columns, samples, precision, photometric, lossy=lossy))


def _jpeg2000(data: bytes | bytearray | memoryview) -> Codestream:
    """ISO/IEC 15444-1 annexes A and I; DICOM takes the codestream without the JP2 boxes (PS3.5 A.4.4)."""
    bare = memoryview(data)[_codestream_box(data) :]
    if bytes(bare[:4]) != _SOC_SIZ or len(bare) < 42:
        raise UnsupportedTransferSyntax("a JPEG 2000 file without a codestream")
    (capabilities,) = struct.unpack_from(">H", bare, 6)
    right, bottom, left, top = struct.unpack_from(">4I", bare, 8)
    (samples,) = struct.unpack_from(">H", bare, 40)
    sizes = {bare[42 + 3 * each] for each in range(samples)} if len(bare) >= 42 + 3 * samples else set()
    rows, columns = bottom - top, right - left
    if samples not in (1, 3) or len(sizes) != 1 or not (0 < rows < 65536 and 0 < columns < 65536):
        raise UnsupportedTransferSyntax("a JPEG 2000 codestream of a shape that no data set has")
    size = sizes.pop()
    at = 4 + struct.unpack_from(">H", bare, 4)[0]
    for _ in range(MAX_MARKERS):
        if at + 4 > len(bare) or bare[at] != 0xFF or bare[at + 1] in (0x90, 0x52):
            break
        at += 2 + struct.unpack_from(">H", bare, at + 2)[0]
    if at + 14 > len(bare) or bytes(bare[at : at + 2]) != b"\xff\x52":
        raise UnsupportedTransferSyntax("a JPEG 2000 codestream without its coding style")
    mixed, reversible = bare[at + 8] == 1, bare[at + 13] == 1
    names = (HTJ2K_LOSSLESS, HTJ2K) if capabilities & 0x4000 else (JPEG_2000_LOSSLESS, JPEG_2000)
    photometric = ("YBR_RCT" if reversible else "YBR_ICT") if mixed else "RGB"
    attributes = described(
        rows, columns, samples, (size & 0x7F) + 1, photometric if samples == 3 else "MONOCHROME2",
        signed=size >= 0x80, lossy=not reversible,
    )  # fmt: skip
    return Codestream(names[not reversible], bare, attributes)


def _codestream_box(data: bytes | bytearray | memoryview) -> int:
    """Where the codestream begins: after the header of the first jp2c box, or at once where there are no boxes."""
    if bytes(data[:12]) != _JP2:
        return 0
    at = 12
    for _ in range(MAX_MARKERS):
        if at + 8 > len(data):
            break
        (length,) = struct.unpack_from(">I", data, at)
        header = 16 if length == 1 else 8
        if bytes(data[at + 4 : at + 8]) == b"jp2c":
            return at + header
        if length == 1 and at + 16 <= len(data):
            (length,) = struct.unpack_from(">Q", data, at + 8)
        if length < header:
            break
        at += length
    raise UnsupportedTransferSyntax("a JPEG 2000 file without a codestream")


def _video(data: bytes | bytearray | memoryview) -> str:
    """The transfer syntax of an MP4 file by the profile and level of its first H.264 track, empty where none is."""
    head = bytes(data[: 1 << 20]) + bytes(data[-(1 << 20) :])
    at = head.find(b"avcC")
    if at < 0 or at + 8 > len(head) or head[at + 4] != 1 or head[at + 5] not in (66, 77, 100):
        return ""
    return AVC_4_1 if head[at + 7] <= 41 else AVC_4_2 if head[at + 7] == 42 else ""
