"""STOW-RS of metadata and bulk data (PS3.18 10.5.1): DICOM JSON and the values that its BulkDataURIs name.

Every value has to be a part of the same body: an address is never fetched.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dicomweb.answers import BATCH_BYTES
from dicomweb.calls import Call
from dicomweb.media_types import DICOM_JSON, OCTET_STREAM, parse
from dicomweb.multipart import Event, Parser, PartBegin, PartEnd
from dicomweb.store_results import Failure
from pacs.dicom.json_model import loads_many, text
from pacs.dicom.transfer_syntaxes import EXPLICIT_LITTLE_ENDIAN, TRANSFER_SYNTAXES
from pacs.errors import ArchiveError, InvalidInput, TooLarge, UnsupportedTransferSyntax

if TYPE_CHECKING:
    from pydicom import Dataset

    from pacs.archive import Archive
    from pacs.auth import Principal
    from pacs.ingest import Prepared

MAX_BYTES = 256 << 20  # of one body: its values are held in memory until the data sets are put together
PIXEL_DATA = "7FE00010"
# Not of the data set: where it was found (PS3.18 Table 10.6.3-5), and what the encoding makes anew.
NOT_STORED = ("00080056", "00081190", "00083002")


@dataclass(slots=True)
class Bulk:
    """One value: its media type, its transfer syntax where the part names one, its bytes."""

    media_type: str
    transfer_syntax_uid: str | None
    data: bytearray


class Collector:
    """Metadata and values of one body, as its parts come."""

    def __init__(self) -> None:
        self.metadata: list[bytearray] = []
        self.bulk: dict[str, Bulk] = {}
        self._target = bytearray()
        self._left = MAX_BYTES

    def take(self, events: Iterable[Event]) -> None:
        """Keep what these events bring. Raises InvalidInput and TooLarge."""
        for event in events:
            if isinstance(event, PartBegin):
                self._begin(event.headers)
            elif isinstance(event, PartEnd):
                self._target = bytearray()
            else:
                self._left -= len(event)
                if self._left < 0:
                    raise TooLarge(f"metadata and bulk data of more than {MAX_BYTES} bytes")
                self._target += event

    def _begin(self, headers: Mapping[str, str]) -> None:
        media_type, parameters = parse(headers.get("content-type", DICOM_JSON))
        self._target = bytearray()
        if media_type == DICOM_JSON:
            self.metadata.append(self._target)
            return
        location = headers.get("content-location", "")
        if not location or location in self.bulk:
            raise InvalidInput("a part with bulk data needs a Content-Location of its own")
        self.bulk[location] = Bulk(media_type, parameters.get("transfer-syntax"), self._target)


async def read(call: Call, parser: Parser, principal: Principal, study: str | None) -> list[Prepared | Failure]:
    """The instances that the body describes, durable but not yet visible, or why not."""
    collector = Collector()
    batch: list[bytes] = []
    size = 0
    async for chunk in call.chunks():
        batch.append(chunk)
        size += len(chunk)
        if size >= BATCH_BYTES:
            await call.io(_feed, collector, parser, batch)
            batch, size = [], 0
    await call.io(_feed, collector, parser, batch)
    parser.finish()
    return await call.io(_prepare_all, call.archive, collector, principal, study)


def _feed(collector: Collector, parser: Parser, batch: list[bytes]) -> None:
    for chunk in batch:
        collector.take(parser.feed(chunk))


def _prepare_all(
    archive: Archive, collector: Collector, principal: Principal, study: str | None
) -> list[Prepared | Failure]:
    described = [metadata for raw in collector.metadata for metadata in loads_many(bytes(raw))]
    done: list[Prepared | Failure] = []
    for metadata in described:
        sop_class_uid, sop_instance_uid = text(metadata, "00080016") or "", text(metadata, "00080018") or ""
        try:
            ts, dataset = encoded(metadata, collector.bulk)
            with archive.ingest.receive(ts) as receiving:
                receiving.write(dataset)
                done.append(archive.ingest.prepare(receiving, principal=principal, study_instance_uid=study))
        except ArchiveError as error:
            done.append(Failure(sop_class_uid, sop_instance_uid, error))
    return done


def encoded(metadata: Mapping[str, Any], bulk: Mapping[str, Bulk]) -> tuple[str, memoryview]:
    """Transfer syntax and data set bytes of one instance.

    Raises InvalidInput where a value is missing, UnsupportedTransferSyntax for compressed pixel data whose transfer
    syntax is not named or that has several frames, whose borders one part cannot tell.
    """
    from pydicom.encaps import encapsulate  # 40 MB, which few ever need

    from pacs.dicom.json_dataset import to_dataset

    used: list[Bulk] = []

    def value(address: str) -> bytes:
        found = bulk.get(address)
        if found is None:
            raise InvalidInput("a BulkDataURI is not the Content-Location of any part")
        used.append(found)
        return bytes(found.data) + b"\0" * (len(found.data) % 2)

    kept = {tag: entry for tag, entry in metadata.items() if tag not in NOT_STORED and not tag.startswith("0002")}
    if strange := next((tag for tag in kept if tag < "0004" or tag >= "FFFE"), None):
        raise InvalidInput("no element of a data set (PS3.5 7.1)", about=strange)
    ds = to_dataset(kept, value)
    ts = EXPLICIT_LITTLE_ENDIAN
    pixels = bulk.get(metadata.get(PIXEL_DATA, {}).get("BulkDataURI", ""))
    if pixels is not None and pixels.media_type != OCTET_STREAM:
        ts = pixels.transfer_syntax_uid or text(metadata, "00083002") or ""
        if ts not in TRANSFER_SYNTAXES or not TRANSFER_SYNTAXES[ts].encapsulated or ds.get("NumberOfFrames", 1) > 1:
            raise UnsupportedTransferSyntax("compressed pixel data of one frame and a known transfer syntax is needed")
        ds[0x7FE00010].VR = "OB"
        ds.PixelData = encapsulate([bytes(pixels.data)])
        ds["PixelData"].is_undefined_length = True
    return ts, _written(ds)


def _written(ds: Dataset) -> memoryview:
    from pydicom import dcmwrite

    out = io.BytesIO()
    dcmwrite(out, ds, implicit_vr=False, little_endian=True)
    return out.getbuffer()
