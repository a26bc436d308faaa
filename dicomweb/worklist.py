"""UPS-RS (PS3.18 11): Workitems created, searched, retrieved, changed, claimed, finished and cancelled.

A refusal says what is wrong in its body, and in a Warning the sentence that the standard has for it.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from dicomweb import errors, params, xml_input, xml_model
from dicomweb.answers import Answer
from dicomweb.calls import MAX_JSON_BYTES, Call
from dicomweb.media_types import (
    DICOM_JSON,
    DICOM_XML,
    JSON,
    Offer,
    UnsupportedMediaType,
    parse,
)  # fmt: skip
from dicomweb.params import FLAGS, count, flag
from dicomweb.qido import documents_answer
from pacs.auth import Right
from pacs.dicom import dictionary, ups
from pacs.dicom.json_model import dumps_many, loads
from pacs.dicom.matching import Options
from pacs.errors import (
    ArchiveError,
    InvalidInput,
    InvalidQuery,
    PerformerUnreachable,
    StateConflict,
    TransactionMismatch,
)

RETRIEVED = (Offer(DICOM_JSON, aliases=(JSON,)), Offer(DICOM_XML))
FOUND = (*RETRIEVED, Offer(DICOM_XML, multipart=True))
TRANSACTION_PARAMETERS = ("transaction", "transaction-uid", "Transaction-uid")  # 2014c, 2019b and 2025e spell it so
MAX_RESULTS = 1000
MAX_KEYS = 64
_TAG = re.compile(r"[0-9A-Fa-f]{8}")

CREATED_MODIFIED = "The Workitem was created with modifications."
UID_MISSING = "The Transaction UID is missing."
UID_INCORRECT = "The Transaction UID is incorrect."
INCONSISTENT_UPDATE = "The submitted request is inconsistent with the current state of the Workitem."
INCONSISTENT_STATE = "The submitted request is inconsistent with the state of the UPS Instance."
COMPLETED = "The UPS is already COMPLETED."
UNREACHABLE = "The performer cannot be contacted."


async def create(call: Call) -> Answer:
    """POST /workitems (11.4): 201 with the address of the new Workitem. The UID may be the bare query, or workitem=."""
    principal = call.principal(Right.PROCESS)
    named = call.parameter("workitem", "uid", "AffectedSOPInstanceUID") or _bare(call)
    attributes = await payload(call)
    if named is None:
        given = ups.value(attributes, ups.SOP_INSTANCE_UID)
        named = str(given) if given else None
    root = call.service_root  # before anything is created: it refuses Host headers that are none
    uid = await call.io(call.archive.worklist.create, attributes, named, principal)
    address = f"{root}/workitems/{uid}"
    headers = [("Location", address), ("Content-Location", address)]
    if ups.modified(attributes, uid):
        headers.append(call.warning(CREATED_MODIFIED))
    return Answer(201, headers=headers)


async def search(call: Call) -> Answer:
    """GET /workitems (11.9): 200, or 204 where nothing matches; a Warning tells how many more there are."""
    principal = call.principal(Right.QUERY)
    offer = call.choose(FOUND)
    keys: dict[str, str] = {}
    limit: int | None = None
    offset = 0
    ignored: list[str] = []
    flags: dict[str, str] = {}
    for name, value in call.query:
        if name == "limit":
            limit = count(name, value)
        elif name == "offset":
            offset = count(name, value)
        elif name in FLAGS:
            flags[name] = value
        elif name == "includefield":
            ignored += params.unknown_fields(value)  # all that there is comes anyway
        elif not add_key(keys, name, value):
            ignored += params.ignored(name, None)
    if len(keys) > MAX_KEYS:
        raise InvalidQuery(f"more than {MAX_KEYS} matching keys")
    for name in ("limit", "offset", *FLAGS):
        call.parameter(name)
    fuzzy, empty_values, multiple_values = (flag(flags, name) for name in FLAGS)
    options = Options(fuzzy=fuzzy, empty_values=empty_values, multiple_values=multiple_values)
    capped = MAX_RESULTS if limit is None else min(limit, MAX_RESULTS)
    items, remaining = await call.io(call.archive.worklist.search, keys, capped, offset, principal, options)
    headers = [call.warning(text) for text in ignored[: params.MAX_WARNINGS]]
    if remaining:
        headers.append(call.warning(f"There are {remaining} additional results that can be requested"))
    if not items:
        return Answer(204, headers=headers)
    if offer.media_type == DICOM_XML:
        documents = [xml_model.dumps(item) for item in items]
        return await call.io(partial(documents_answer, multipart=offer.multipart, headers=headers), call, documents)
    return await call.io(call.text, dumps_many(items), DICOM_JSON, headers)


async def retrieve(call: Call) -> Answer:
    """GET /workitems/{workitem} (11.5): the Workitem, never with its Transaction UID; 410 where it was removed."""
    principal = call.principal(Right.QUERY)
    offer = call.choose(RETRIEVED)
    uid = call.uid("workitem")
    item = await call.io(call.archive.worklist.retrieve, uid, principal)
    headers = [("Content-Location", f"{call.service_root}/workitems/{uid}")]
    if offer.media_type == DICOM_XML:
        return await call.io(call.text, xml_model.dumps(item), DICOM_XML, headers)
    return await call.io(call.text, dumps_many([item]), DICOM_JSON, headers)


async def update(call: Call) -> Answer:
    """PUT or POST /workitems/{workitem} (11.6): 200; 400 and a Warning where state or Transaction UID forbid it."""
    principal = call.principal(Right.PROCESS)
    uid = call.uid("workitem")
    transaction = call.parameter(*TRANSACTION_PARAMETERS) or _bare(call)
    attributes = await payload(call)
    in_payload = ups.value(attributes, ups.TRANSACTION_UID)
    if in_payload is not None and transaction is None:
        transaction = str(in_payload)
    attributes.pop(ups.TRANSACTION_UID, None)
    address = f"{call.service_root}/workitems/{uid}"
    try:
        await call.io(call.archive.worklist.update, uid, attributes, transaction, principal)
    except TransactionMismatch as error:
        return refused(call, 400, error, UID_INCORRECT if transaction else UID_MISSING)
    except StateConflict as error:
        return refused(call, 400, error, INCONSISTENT_UPDATE)
    return Answer(200, headers=[("Content-Location", address)])


async def change_state(call: Call) -> Answer:
    """PUT /workitems/{workitem}/state (11.7): 200; 400 for a wrong Transaction UID, 409 where the state forbids it."""
    principal = call.principal(Right.PROCESS)
    uid = call.uid("workitem")
    attributes = await payload(call)
    state = ups.value(attributes, ups.PROCEDURE_STEP_STATE)
    if not isinstance(state, str):
        raise InvalidInput("Procedure Step State is missing", about=ups.PROCEDURE_STEP_STATE)
    given = ups.value(attributes, ups.TRANSACTION_UID)
    transaction = str(given) if given is not None else call.parameter(*TRANSACTION_PARAMETERS)
    headers = [("Content-Location", f"{call.service_root}/workitems/{uid}")]
    try:
        warned = await call.io(call.archive.worklist.change_state, uid, state, transaction, principal)
    except TransactionMismatch as error:
        return refused(call, 400, error, UID_INCORRECT if transaction else UID_MISSING)
    except StateConflict as error:
        return refused(call, 409, error, INCONSISTENT_STATE)
    return Answer(200, headers=[*headers, *([call.warning(warned)] if warned else [])])


async def request_cancel(call: Call) -> Answer:
    """POST /workitems/{workitem}/cancelrequest (11.8): 202; 409 where it is COMPLETED or nobody can be asked."""
    principal = call.principal(Right.PROCESS)
    uid = call.uid("workitem")
    attributes = await payload(call, optional=True)
    reason = ups.value(attributes, ups.REASON_FOR_CANCELLATION)
    requester = call.params.get("requester") or call.parameter("requester") or ""
    try:
        asked = partial(call.archive.worklist.request_cancel, uid, str(reason or ""), principal, request=attributes)
        warned = await call.io(partial(asked, requesting_ae=requester[:16]))
    except StateConflict as error:
        return refused(call, 409, error, UNREACHABLE if isinstance(error, PerformerUnreachable) else COMPLETED)
    return Answer(202, headers=[call.warning(warned)] if warned else [])


def refused(call: Call, code: int, error: ArchiveError, warning: str) -> Answer:
    """The answer to what a Workitem's state forbids: the reason, and the standard's own words as a Warning."""
    return Answer(code, errors.PROBLEM, [errors.problem(code, error.reason)], [call.warning(warning)])


async def payload(call: Call, *, optional: bool = False, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The data set in the request's body, in DICOM JSON or as a Native DICOM Model; empty where `optional` and absent.

    Raises UnsupportedMediaType, TooLarge, and InvalidInput for what is no data set.
    """
    call.refuse_encoding()
    try:
        media_type, _ = parse(call.headers.get("content-type", ""))
    except InvalidInput:
        media_type = DICOM_JSON if optional else ""
    if media_type not in (DICOM_JSON, JSON, DICOM_XML):
        raise UnsupportedMediaType("a body of type application/dicom+json or application/dicom+xml is needed")
    body = await call.body(limit)
    if optional and not body.strip():
        return {}
    return await call.io(xml_input.loads if media_type == DICOM_XML else loads, body)


def add_key(keys: dict[str, str], name: str, value: str) -> bool:
    """Whether `name` is a matching key, which is noted under its path of tags; what is none is left alone.

    Raises InvalidQuery for one that is there already.
    """
    path = _path(name)
    if path is None:
        return False
    if path in keys:
        raise InvalidQuery("a matching key is given more than once", about=path)
    keys[path] = value
    return True


def _bare(call: Call) -> str | None:
    """A UID that is the query itself, or one of its parts, without a name. Raises InvalidInput for several."""
    found = [name for name, value in call.query if not value and name[:1].isdigit()]
    if len(found) > 1:
        raise InvalidInput("several UIDs are given")
    return found[0] if found else None


def _path(name: str) -> str | None:
    """Tags joined by dots for a matching key of keywords or tags; None for what is none, which is ignored."""
    parts = []
    for part in name.split("."):
        if _TAG.fullmatch(part):
            tag = int(part, 16)
        else:
            known = dictionary.tag(part)
            if known is None:
                return None
            tag = known
        parts.append(f"{tag:08X}")
    return None if dictionary.vr(int(parts[-1], 16)) in (None, "SQ") else ".".join(parts)
