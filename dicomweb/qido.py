"""QIDO-RS (PS3.18 10.6): the six searches. Rows come ready from the index; only the service's own address is put in."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import orjson

from dicomweb import params, xml_model
from dicomweb.answers import Answer
from dicomweb.calls import HERE, Call
from dicomweb.media_types import DICOM_JSON, DICOM_XML, JSON, Offer
from dicomweb.multipart import Writer
from pacs.auth import Right
from pacs.dicom.attributes import Level

OFFERS = (Offer(DICOM_JSON, aliases=(JSON,)), Offer(DICOM_XML, multipart=True), Offer(DICOM_XML))


async def studies(call: Call) -> Answer:
    """GET /studies."""
    return await _search(call, Level.STUDY)


async def series(call: Call) -> Answer:
    """GET /series and /studies/{study}/series."""
    return await _search(call, Level.SERIES)


async def instances(call: Call) -> Answer:
    """GET /instances, /studies/{study}/instances and /studies/{study}/series/{series}/instances."""
    return await _search(call, Level.IMAGE)


async def _search(call: Call, level: Level) -> Answer:
    principal = call.principal(Right.QUERY)

    def answer() -> Answer:
        offer = call.choose(OFFERS, "results of a search")
        parents = (("study", "StudyInstanceUID"), ("series", "SeriesInstanceUID"))
        within = [(keyword, call.uid(name)) for name, keyword in parents if name in call.params]
        query, warnings = params.query(call.query, level, within)
        found = call.archive.query.search(query, principal)
        headers = [call.warning(text) for text in warnings]
        if found.remaining:
            headers.append(call.warning(f"There are {found.remaining} additional results that can be requested"))
        rows = [row.json for row in found.rows]
        if not rows:
            return Answer(204, headers=headers)  # 8.3.4.4.1, also for limit=0 and an offset beyond the end
        root = call.service_root.encode("ascii")
        if offer.media_type == DICOM_XML:
            documents = [xml_model.dumps(orjson.loads(row.replace(HERE, root))) for row in rows]
            return documents_answer(call, documents, multipart=offer.multipart, headers=headers)
        return call.text((b"[" + b",".join(rows) + b"]").replace(HERE, root), DICOM_JSON, headers)

    return await call.once(("search", level, len(call.params), kind(call.query)), answer)


def kind(asked: Sequence[tuple[str, str]]) -> Hashable:
    """What makes one search slower than another, for `Call.quickly`.

    Which keys it has, whether a pattern has to be looked for or all be told, and in how many digits how much is wanted.
    """
    return tuple([
        (name, len(value) if name in ("limit", "offset") else "*" in value or "?" in value or value == "all")
        for name, value in asked
    ])  # fmt: skip


def documents_answer(call: Call, documents: list[bytes], *, multipart: bool, headers: list[tuple[str, str]]) -> Answer:
    """XML documents as an answer, compressed where the client takes that.

    A multipart body, or the one document itself where `multipart` is not asked for. Blocks.
    """
    if len(documents) == 1 and not multipart:
        return call.text(documents[0], DICOM_XML, headers)
    writer = Writer(DICOM_XML)
    pieces = [piece for document in documents for piece in (writer.head(DICOM_XML), document)]
    return call.text(b"".join([*pieces, writer.close]), writer.content_type, headers)
