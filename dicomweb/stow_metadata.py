"""STOW-RS of metadata and bulk data (PS3.18 10.5.1): DICOM JSON or XML, and the values that its BulkDataURIs name.

Every value has to be a part of the same body: an address is never fetched. Parts with one Content-Location are the
frames of one value, in their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

import orjson

from dicomweb import xml_input
from dicomweb.calls import Call
from dicomweb.media_types import DICOM_JSON, DICOM_XML, parse
from dicomweb.multipart import Event, PartBegin, PartEnd
from dicomweb.store_results import Failure
from dicomweb.stow_bulk import Bulk, Heap
from dicomweb.stow_instances import write
from pacs.dicom import json_input
from pacs.dicom.json_model import text
from pacs.errors import ArchiveError, InvalidInput, TooLarge

if TYPE_CHECKING:
    from dicomweb.stow import Reader
    from pacs.archive import Archive
    from pacs.auth import Principal
    from pacs.ingest import Prepared

MAX_METADATA_BYTES = 64 << 20  # of one body: they are held in memory, unlike bulk data
METADATA = (DICOM_JSON, DICOM_XML)


class Collector:
    """Metadata and values of one body, as its parts come."""

    def __init__(self, heap: Heap, root_type: str) -> None:
        """`root_type` is what a part without a Content-Type is (RFC 2387: the type of the whole)."""
        self.metadata: list[tuple[str, bytearray]] = []
        self.bulk: dict[str, list[Bulk]] = {}
        self._heap = heap
        self._root_type = root_type
        self._target: bytearray | None = None
        self._part: tuple[str, str, str, int] | None = None
        self._left = MAX_METADATA_BYTES

    def take(self, events: Iterable[Event]) -> None:
        """Keep what these events bring. Raises InvalidInput, TooLarge, OutOfResources and Unavailable."""
        for event in events:
            if isinstance(event, PartBegin):
                self._begin(event.headers)
            elif isinstance(event, PartEnd):
                self._end()
            elif self._target is None:
                self._heap.write(event)
            else:
                self._left -= len(event)
                if self._left < 0:
                    raise TooLarge(f"metadata of more than {MAX_METADATA_BYTES} bytes")
                self._target += event

    def _begin(self, headers: Mapping[str, str]) -> None:
        media_type, parameters = parse(headers.get("content-type", self._root_type))
        self._target = self._part = None
        if media_type in METADATA:
            self._target = bytearray()
            self.metadata.append((media_type, self._target))
            return
        location = headers.get("content-location", "").strip("<>")
        if not location:
            raise InvalidInput("a part with bulk data needs a Content-Location")
        self._part = location, media_type, parameters.get("transfer-syntax", ""), self._heap.size

    def _end(self) -> None:
        if self._part is not None:
            location, media_type, ts, start = self._part
            value = Bulk(self._heap, media_type, ts, start, self._heap.size - start)
            self.bulk.setdefault(location, []).append(value)
        self._target = self._part = None


async def read(
    call: Call, reader: Reader, root_type: str, principal: Principal, study: str | None
) -> list[Prepared | Failure]:
    """The instances that the body describes, durable but not yet visible, or why not."""
    settings = call.archive.settings
    with closing(await call.io(Heap, settings.data, settings.max_object_bytes)) as heap:
        collector = Collector(heap, root_type)
        async for batch in call.batches():
            await call.io(_feed, collector, reader, batch)
        await call.io(_feed, collector, reader, [], last=True)
        return await call.io(_prepare_all, call.archive, collector, principal, study)


def _feed(collector: Collector, reader: Reader, batch: list[bytes], *, last: bool = False) -> None:
    for chunk in batch:
        collector.take(reader.feed(chunk))
    if last:
        collector.take(reader.finish() or ())


def _described(collector: Collector) -> list[dict[str, Any]]:
    """What each part of metadata describes, not yet checked: raises InvalidInput for what is no JSON or XML at all."""
    found: list[dict[str, Any]] = []
    for media_type, raw in collector.metadata:
        if media_type == DICOM_XML:
            found.append(xml_input.loads(raw))
            continue
        try:
            parsed = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise InvalidInput(f"not JSON: {error.msg} at line {error.lineno}") from None
        several = parsed if isinstance(parsed, list) else [parsed]
        if not all(isinstance(each, dict) for each in several):
            raise InvalidInput("not a JSON object or an array of them (PS3.18 F.2.1)")
        found += several
    return found


def _prepare_all(
    archive: Archive, collector: Collector, principal: Principal, study: str | None
) -> list[Prepared | Failure]:
    done: list[Prepared | Failure] = []
    for raw in _described(collector):
        metadata: dict[str, Any] = {}
        try:
            metadata = json_input.checked(raw)
            done.append(_prepared(archive, metadata, collector.bulk, principal, study))
        except ArchiveError as error:
            named = (text(metadata, "00080016") or "", text(metadata, "00080018") or "")
            done.append(Failure(*named, error))
    return done


def _prepared(
    archive: Archive,
    metadata: Mapping[str, Any],
    bulk: Mapping[str, list[Bulk]],
    principal: Principal,
    study: str | None,
) -> Prepared:
    def receiver(ts: str) -> Any:
        return archive.ingest.receive(ts)

    with write(metadata, bulk, receiver, archive.decoding.run) as receiving:
        return archive.ingest.prepare(receiving, principal=principal, study_instance_uid=study)
