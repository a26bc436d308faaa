"""One data set out of its metadata and bulk data (PS3.18 10.5.1, 10.5.2): pixels encapsulated, or made native.

What the pixels themselves tell may be left out of the metadata (the Image Pixel Description Macro); where both tell
something else, the instance is refused rather than corrected.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dicomweb.media_types import OCTET_STREAM
from dicomweb.stow_bulk import Bulk, total
from pacs.dicom import codestreams, consumer_images
from pacs.dicom.json_model import text
from pacs.dicom.transfer_syntaxes import EXPLICIT_LITTLE_ENDIAN, TRANSFER_SYNTAXES
from pacs.errors import InvalidInput, TooLarge

if TYPE_CHECKING:
    from pydicom import Dataset

    from pacs.ingest import Receiving

PIXEL_DATA, NUMBER_OF_FRAMES, DOCUMENT, DOCUMENT_LENGTH = "7FE00010", "00280008", "00420011", "00420015"
# Not of the data set: where it was found (PS3.18 Table 10.6.3-5), and what the encoding makes anew.
NOT_STORED = ("00080056", "00081190", "00083002")
MAX_INLINE = 16 << 20  # of a value that is text or numbers
MAX_UNKNOWN = 256 << 20  # of a value of VR UN, which is held in memory
PIECE_BYTES = 1 << 20
_BINARY = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN"))
_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
_ONE_TEXT = ("LT", "ST", "UT", "UR")

Values = Mapping[str, Sequence[Bulk]]
"""The bulk data of a body: its parts by Content-Location."""

Decode = Callable[..., bytes]
"""`DecodingPool.run`: a function and its arguments, run where it may crash."""


def write(metadata: Mapping[str, Any], bulk: Values, receiver: Callable[[str], Receiving], decode: Decode) -> Receiving:
    """The instance, written to what `receiver` gives for its transfer syntax; to be prepared or aborted.

    Raises InvalidInput where a value is missing or contradicts the metadata, UnsupportedTransferSyntax for compressed
    pixel data that cannot be told, Undecodable for pictures that are none.
    """
    kept = {tag: entry for tag, entry in metadata.items() if tag not in NOT_STORED and not tag.startswith("0002")}
    if strange := next((tag for tag in kept if tag < "0004" or tag >= "FFFE"), None):
        raise InvalidInput("no element of a data set (PS3.5 7.1)", about=strange)
    ts, pixels = EXPLICIT_LITTLE_ENDIAN, None
    frames = bulk.get(kept.get(PIXEL_DATA, {}).get("BulkDataURI", ""), ())
    if frames and _compressed(frames[0]):
        ts, pixels = _pixels(kept, frames, text(metadata, "00083002") or "", decode)
    _document(kept, bulk)
    ds = _dataset(_with_values(kept, bulk), bulk)
    if pixels is not None:
        ds.add_new(0x7FE00010, "OB" if ts != EXPLICIT_LITTLE_ENDIAN or ds.BitsAllocated == 8 else "OW", pixels)
        ds["PixelData"].is_undefined_length = ts != EXPLICIT_LITTLE_ENDIAN
    receiving = receiver(ts)
    try:
        _written(ds, receiving)
    except BaseException:
        receiving.abort()
        raise
    return receiving


def _compressed(first: Bulk) -> bool:
    row = TRANSFER_SYNTAXES.get(first.transfer_syntax_uid)
    return first.media_type != OCTET_STREAM or (row is not None and row.encapsulated)


def _pixels(kept: dict[str, Any], parts: Sequence[Bulk], named: str, decode: Decode) -> tuple[str, io.BufferedIOBase]:
    """Transfer syntax and value of compressed pixel data; what it tells of itself is put into `kept`."""
    media_type = parts[0].media_type
    view = parts[0].view()
    if media_type in ("image/png", "image/gif") or (media_type == "image/jpeg" and codestreams.is_progressive(view)):
        attributes: dict[str, Any] = {}
        native: list[memoryview] = []
        for part in parts:
            attributes, made = consumer_images.split(decode(consumer_images.native, bytes(part.view()), media_type))
            native.append(made)
        if len(parts) > 1:
            attributes[NUMBER_OF_FRAMES] = {"vr": "IS", "Value": [len(parts)]}
        _agree(kept, attributes, list(attributes))
        return EXPLICIT_LITTLE_ENDIAN, io.BytesIO(b"".join(native) + b"\0" * (sum(map(len, native)) % 2))
    from pydicom.encaps import encapsulate_buffer  # 40 MB, which few ever need

    readers = []
    first: codestreams.Codestream | None = None
    for part in parts:
        ts = part.transfer_syntax_uid or (named if named in TRANSFER_SYNTAXES else "")
        found = codestreams.read(part.view(), part.media_type, ts)
        if first is not None and (found.transfer_syntax_uid, found.attributes) != (
            first.transfer_syntax_uid,
            first.attributes,
        ):
            raise InvalidInput("frames that are not alike", about=PIXEL_DATA)
        first = first or found
        readers.append(part.reader(part.length - len(found.data), even=True))
    assert first is not None
    video = TRANSFER_SYNTAXES[first.transfer_syntax_uid].video
    attributes = dict(first.attributes)
    if not video and (len(parts) > 1 or NUMBER_OF_FRAMES in kept):
        attributes[NUMBER_OF_FRAMES] = {"vr": "IS", "Value": [len(parts)]}
    _agree(kept, attributes, ["00280002", NUMBER_OF_FRAMES, "00280010", "00280011"])
    whole: io.BufferedIOBase = encapsulate_buffer(readers, has_bot=total(parts) + 8 * len(parts) < 1 << 32)
    return first.transfer_syntax_uid, whole


def _agree(kept: dict[str, Any], told: Mapping[str, Any], strict: Sequence[str]) -> None:
    """Put what the pixels tell where the metadata tells nothing; raises InvalidInput where `strict` ones differ."""
    for tag, entry in told.items():
        given = kept.get(tag, {}).get("Value")
        if not given:
            kept[tag] = dict(entry)
        elif tag in strict and [str(value) for value in given] != [str(value) for value in entry["Value"]]:
            raise InvalidInput("the pixel data tells something else", about=tag)


def _document(kept: dict[str, Any], bulk: Values) -> None:
    """Encapsulated Document Length and MIME Type, where a document came as a part and they were left out."""
    [*parts] = bulk.get(kept.get(DOCUMENT, {}).get("BulkDataURI", ""), ())
    if len(parts) != 1:
        return
    kept.setdefault(DOCUMENT_LENGTH, {"vr": "UL", "Value": [parts[0].length]})
    if parts[0].media_type != OCTET_STREAM:
        kept.setdefault("00420012", {"vr": "LO", "Value": [parts[0].media_type]})


def _with_values(dataset: Mapping[str, Any], bulk: Values) -> dict[str, Any]:
    """The metadata with text and numbers in place of their addresses; those of binary values stay."""
    out: dict[str, Any] = {}
    for tag, entry in dataset.items():
        out[tag] = entry
        if entry["vr"] == "SQ" and entry.get("Value"):
            out[tag] = {"vr": "SQ", "Value": [_with_values(item, bulk) for item in entry["Value"]]}
        elif "BulkDataURI" in entry and entry["vr"] not in _BINARY:
            out[tag] = {"vr": entry["vr"], "Value": _values(tag, entry["vr"], _one(bulk, entry["BulkDataURI"]))}
        elif entry["vr"] == "UN" and "BulkDataURI" in entry and _one(bulk, entry["BulkDataURI"]).length > MAX_UNKNOWN:
            raise TooLarge(f"a value of VR UN of more than {MAX_UNKNOWN} bytes")
    return out


def _values(tag: str, vr: str, value: Bulk) -> list[Any]:
    if value.length > MAX_INLINE:
        raise TooLarge(f"text or numbers of more than {MAX_INLINE} bytes")
    raw = bytes(value.view())
    if kind := _NUMBERS.get(vr):
        size = struct.calcsize(kind)
        return list(struct.unpack(f"<{len(raw) // size}{kind}", raw[: len(raw) // size * size]))
    try:
        string = raw.decode("utf-8").rstrip("\0 ")
    except UnicodeDecodeError:
        raise InvalidInput("bulk data of text is no UTF-8", about=tag) from None
    return [string] if vr in _ONE_TEXT else list(string.split("\\"))


def _one(bulk: Values, address: str) -> Bulk:
    found = bulk.get(address, ())
    if not found:
        raise InvalidInput("a BulkDataURI is not the Content-Location of any part")
    if len(found) > 1:
        raise InvalidInput("a value that is no compressed pixel data came in several parts")
    return found[0]


def _dataset(metadata: Mapping[str, Any], bulk: Values) -> Dataset:
    from pacs.dicom.json_dataset import to_dataset

    # Native frames may come one by one, too: their bytes follow each other in the value.
    frames = bulk.get(metadata.get(PIXEL_DATA, {}).get("BulkDataURI", ""), ())
    plain = {tag: entry for tag, entry in metadata.items() if tag != PIXEL_DATA or not frames}
    ds = to_dataset(plain, lambda address: _one(bulk, address).reader(even=True))
    if frames and not _compressed(frames[0]):
        from pydicom import DataElement
        from pydicom.tag import Tag

        value: Any = frames[0].reader(even=True)
        if len(frames) > 1:
            value = io.BytesIO(b"".join(part.view() for part in frames) + b"\0" * (total(frames) % 2))
        ds.add(DataElement(Tag(0x7FE00010), metadata[PIXEL_DATA]["vr"], value))
    return ds


class _Sink:
    """The file that pydicom writes to: an arriving object, in pieces of some size."""

    def __init__(self, receiving: Receiving) -> None:
        self._receiving = receiving
        self._held = bytearray()
        self._passed = 0

    def write(self, data: bytes) -> int:
        self._held += data
        if len(self._held) >= PIECE_BYTES:
            self.flush()
        return len(data)

    def flush(self) -> None:
        self._receiving.write(self._held)
        self._passed += len(self._held)
        self._held.clear()

    def tell(self) -> int:
        return self._passed + len(self._held)

    def seek(self, *_: int) -> int:
        raise io.UnsupportedOperation("written once, from front to back")


def _written(ds: Dataset, receiving: Receiving) -> None:
    from pydicom import dcmwrite

    out = _Sink(receiving)
    try:
        dcmwrite(out, ds, implicit_vr=False, little_endian=True)
    except (ValueError, TypeError, OverflowError, struct.error, NotImplementedError) as error:
        raise InvalidInput(f"a value that cannot be encoded: {type(error).__name__}") from None
    out.flush()
