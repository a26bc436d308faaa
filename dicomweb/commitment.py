"""Storage commitment over the web (PS3.18 13, Annex J): asked under a Transaction UID, answered at once or looked up.

What is committed was read again, every byte, before it is said (`pacs.committing`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import anyio

from dicomweb import errors, xml_model
from dicomweb.answers import Answer
from dicomweb.calls import Call
from dicomweb.media_types import DICOM_JSON, DICOM_XML, JSON, Offer
from dicomweb.qido import documents_answer
from dicomweb.worklist import payload
from pacs import uids
from pacs.auth import Principal, Right
from pacs.commitment import Commitment, Commitments, Item
from pacs.dicom import ups
from pacs.dicom.json_model import dumps_many
from pacs.dicom.ups import element, items
from pacs.errors import InvalidInput, OutOfResources, Unavailable

if TYPE_CHECKING:
    from pacs.archive import Archive

DOOR = "web"
OFFERS = (Offer(DICOM_JSON, aliases=(JSON,)), Offer(DICOM_XML), Offer(DICOM_XML, multipart=True))
MAX_BYTES = 64 << 20
WAIT_S = 5.0
"""How long a request is waited for before the client is asked to come back."""

LOOK_S = 0.1
RETRY_AFTER_S = 5

STUDIES = "00081110"
FAILED_STUDIES = "0008119B"
SERIES = "00081115"
BY_CLASS = "00081112"
INSTANCES = "0008114A"
REFERENCED = ups.REFERENCED_SOP_SEQUENCE
FAILED = "00081198"
REASON = "00081197"
SOP_CLASS = ups.REFERENCED_SOP_CLASS_UID
SOP_INSTANCE = ups.REFERENCED_SOP_INSTANCE_UID
STUDY, SERIES_UID = ups.STUDY_INSTANCE_UID, ups.SERIES_INSTANCE_UID


async def request(call: Call) -> Answer:
    """POST /commitment-requests/{transaction} (13.4): 200 with what is committed, or 202 while that is verified.

    409 where the Transaction UID is in use, 503 where too much waits already.
    """
    principal = call.principal(Right.STORE)
    offer = call.choose(OFFERS)
    transaction = call.uid("transaction")
    attributes = await payload(call, limit=MAX_BYTES)
    if ups.value(attributes, ups.TRANSACTION_UID) not in (None, transaction):
        raise InvalidInput("the Transaction UID differs from that in the address", about=ups.TRANSACTION_UID)
    try:
        await call.io(_accept, call.archive, principal, transaction, attributes)
    except OutOfResources as error:
        raise Unavailable(error.reason) from None
    found = await _found(call, principal, transaction)
    with anyio.move_on_after(WAIT_S):
        while found.state == "asked":
            await anyio.sleep(LOOK_S)
            found = await _found(call, principal, transaction)
    return await call.io(_answer, call, offer, found)


async def check(call: Call) -> Answer:
    """GET the same (13.5): 200 with what is committed, 202 while that is verified, 404 where nothing was asked."""
    principal = call.principal(Right.STORE)
    offer = call.choose(OFFERS)
    return await call.io(_answer, call, offer, await _found(call, principal, call.uid("transaction")))


async def _found(call: Call, principal: Principal, transaction: str) -> Commitment:
    return await call.io(call.archive.commitments.asked, transaction, DOOR, principal)


def _accept(archive: Archive, principal: Principal, transaction: str, attributes: Mapping[str, Any]) -> None:
    listed = list(dict.fromkeys(_listed(archive.commitments, principal, attributes)))
    archive.commitments.accept(
        transaction,
        [(each.sop_class_uid, each.sop_instance_uid) for each in listed],
        peer=principal.name,
        principal=principal,
        door=DOOR,
        places=[(each.study_instance_uid, each.series_instance_uid) for each in listed],
        once=True,
    )


def _answer(call: Call, offer: Offer, found: Commitment) -> Answer:
    if found.state == "asked":
        return Answer(202, headers=[("Retry-After", str(RETRY_AFTER_S))])
    body = response(found.items)
    if offer.media_type == DICOM_XML:
        return documents_answer(call, [xml_model.dumps(body)], multipart=offer.multipart, headers=[])
    return call.text(dumps_many([body]), DICOM_JSON)


# The request (Annex J.1) ---------------------------------------------------------------------------------------------


def _listed(commitments: Commitments, principal: Principal, attributes: Mapping[str, Any]) -> Iterator[Item]:
    """What a Storage Commitment Request Module lists, by instance or by study, series and class.

    A level that is not spelt out stands for everything that is stored of it; where that is nothing, for itself.
    Raises InvalidInput naming the attribute that is missing.
    """
    for reference in items(attributes, REFERENCED):
        yield Item(_uid(reference, SOP_CLASS), _uid(reference, SOP_INSTANCE))
    for study in items(attributes, STUDIES):
        within = _uid(study, STUDY)
        yield from _below(commitments, principal, study, within)


def _below(commitments: Commitments, principal: Principal, study: Mapping[str, Any], within: str) -> Iterator[Item]:
    if not items(study, SERIES):
        yield from _stored(commitments, principal, within)
    for series in items(study, SERIES):
        uid = _uid(series, SERIES_UID)
        if not items(series, BY_CLASS):
            yield from _stored(commitments, principal, within, uid)
        for of_class in items(series, BY_CLASS):
            sop_class = _uid(of_class, SOP_CLASS)
            if not items(of_class, INSTANCES):
                yield from _stored(commitments, principal, within, uid, sop_class)
            for reference in items(of_class, INSTANCES):
                yield Item(sop_class, _uid(reference, SOP_INSTANCE), None, within, uid)


def _stored(
    commitments: Commitments, principal: Principal, study: str, series: str = "", sop_class: str = ""
) -> Iterator[Item]:
    found = commitments.members(principal, study, series or None, sop_class or None)
    if not found:
        yield Item(sop_class, "", None, study, series)
    for of_series, of_class, uid in found:
        yield Item(of_class, uid, None, study, of_series)


def _uid(attributes: Mapping[str, Any], tag: str) -> str:
    found = ups.value(attributes, tag)
    if not isinstance(found, str) or not uids.is_valid(found):
        raise InvalidInput("missing, or not a UID", about=tag)
    return found


# The response (Annex J.2) --------------------------------------------------------------------------------------------


def response(listed: Sequence[Item]) -> dict[str, Any]:
    """The Storage Commitment Response Module, in the form in which each instance was asked for."""
    made: dict[str, Any] = {}
    for tag, studies, committed in ((REFERENCED, STUDIES, True), (FAILED, FAILED_STUDIES, False)):
        judged = [item for item in listed if (item.failure == "") is committed]
        plain = [_reference(item, SOP_CLASS, SOP_INSTANCE) for item in judged if not item.study_instance_uid]
        placed = [item for item in judged if item.study_instance_uid]
        if plain:
            made[tag] = element("SQ", *plain)
        if placed:
            made[studies] = element("SQ", *_tree(placed))
    return dict(sorted(made.items()))


def _tree(placed: Sequence[Item]) -> list[dict[str, Any]]:
    """Items by study, series and class; a level of which nothing is stored says itself why that failed."""
    grouped: dict[str, dict[str, dict[str, list[Item]]]] = {}
    for item in placed:
        of_series = grouped.setdefault(item.study_instance_uid, {}).setdefault(item.series_instance_uid, {})
        of_series.setdefault(item.sop_class_uid, []).append(item)
    return [
        {STUDY: element("UI", study)} | _level(SERIES, SERIES_UID, {
            uid: _level(BY_CLASS, SOP_CLASS, {
                sop_class: _instances(found) for sop_class, found in classes.items()
            }) for uid, classes in series.items()
        }) for study, series in grouped.items()
    ]  # fmt: skip


def _level(sequence: str, tag: str, inside: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """A sequence with an item for each UID; what has none is about the level above."""
    own = inside.get("", {})
    named = [{tag: element("UI", uid)} | rest for uid, rest in inside.items() if uid]
    return dict(sorted((own | ({sequence: element("SQ", *named)} if named else {})).items()))


def _instances(found: Sequence[Item]) -> dict[str, Any]:
    named = [_reference(item, SOP_INSTANCE) for item in found if item.sop_instance_uid]
    nothing = next((item for item in found if not item.sop_instance_uid), None)
    own = {} if nothing is None else {REASON: _reason(nothing)}
    return own | ({INSTANCES: element("SQ", *named)} if named else {})


def _reference(item: Item, *tags: str) -> dict[str, Any]:
    values = {SOP_CLASS: item.sop_class_uid, SOP_INSTANCE: item.sop_instance_uid}
    made = {tag: element("UI", values[tag]) for tag in tags}
    return made if item.failure == "" else dict(sorted((made | {REASON: _reason(item)}).items()))


def _reason(item: Item) -> dict[str, Any]:
    return element("US", errors.COMMITMENT_REASONS.get(item.failure or "", errors.PROCESSING_FAILURE))
