"""The data sets of Storage Commitment (PS3.3 C.14, PS3.4 Tables J.3-1 and J.3-3), read and written. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pacs import uids
from pacs.commitment import Failure, Item
from pacs.dicom import json_model, scanner
from pacs.dimse import datasets, status
from pacs.errors import InvalidInput, TooLarge

STORAGE_COMMITMENT: Final = "1.2.840.10008.1.20.1"
WELL_KNOWN_INSTANCE: Final = "1.2.840.10008.1.20.1.1"
REQUEST: Final = 1
"""Action Type ID of "request storage commitment"."""

ALL_COMMITTED: Final = 1
SOME_FAILED: Final = 2
"""Event Type IDs."""

MAX_LENGTH: Final = 32 << 20
"""Bytes of a request or report: 100,000 instances take about 20 MiB."""

TRANSACTION_UID: Final = "00081195"
RETRIEVE_AE_TITLE: Final = "00080054"
REFERENCED: Final = "00081199"
FAILED: Final = "00081198"
SOP_CLASS: Final = "00081150"
SOP_INSTANCE: Final = "00081155"
REASON: Final = "00081197"

_LIMITS: Final = scanner.Limits(
    inline_bytes=1 << 16,
    metadata_bytes=256 << 20,
    elements=1_000_000,
    depth=4,
    inflated_bytes=MAX_LENGTH,
)
_FAILURES: Final = {code: failure for failure, code in status.FAILURE_REASONS.items()}


@dataclass(frozen=True, slots=True)
class Report:
    """What an N-EVENT-REPORT says: the SOP Instance UIDs committed, and why others are not."""

    transaction_uid: str
    committed: tuple[str, ...]
    failed: Mapping[str, str]


def read_request(raw: bytes | memoryview, transfer_syntax_uid: str) -> tuple[str, list[tuple[str, str]]]:
    """Transaction UID and (SOP Class UID, SOP Instance UID) pairs of an N-ACTION; what is listed twice is there once.

    Raises InvalidInput naming the attribute, MalformedDataset, TooLarge.
    """
    attributes = _read(raw, transfer_syntax_uid)
    items = attributes.get(REFERENCED, {}).get("Value") or []
    if not items:
        raise InvalidInput("Referenced SOP Sequence has no item", about=REFERENCED)
    pairs = dict.fromkeys((_uid(item, SOP_CLASS), _uid(item, SOP_INSTANCE)) for item in items)
    return _uid(attributes, TRANSACTION_UID), list(pairs)


def request(transaction_uid: str, instances: Sequence[tuple[str, str]], transfer_syntax_uid: str) -> bytes:
    """The data set of an N-ACTION for these (SOP Class UID, SOP Instance UID) pairs."""
    return datasets.encode(
        {
            TRANSACTION_UID: _ui(transaction_uid),
            REFERENCED: {"vr": "SQ", "Value": [_reference(*each) for each in instances]},
        },
        transfer_syntax_uid,
    )


def read_report(raw: bytes | memoryview, transfer_syntax_uid: str) -> Report:
    """What an N-EVENT-REPORT says. Raises InvalidInput naming the attribute, MalformedDataset, TooLarge."""
    attributes = _read(raw, transfer_syntax_uid)
    committed = tuple(_uid(item, SOP_INSTANCE) for item in attributes.get(REFERENCED, {}).get("Value") or [])
    failed = {}
    for item in attributes.get(FAILED, {}).get("Value") or []:
        code = (item.get(REASON, {}).get("Value") or [0])[0]
        known = _FAILURES.get(code) if isinstance(code, int) else None
        why = known or (f"failure reason {code:04X}H" if isinstance(code, int) and code else Failure.PROCESSING)
        failed[_uid(item, SOP_INSTANCE)] = str(why)
    return Report(_uid(attributes, TRANSACTION_UID), committed, failed)


def report(transaction_uid: str, items: Sequence[Item], ae_title: str, transfer_syntax_uid: str) -> bytes:
    """The data set of an N-EVENT-REPORT; what is not committed is in the Failed SOP Sequence with its reason."""
    attributes: dict[str, Any] = {TRANSACTION_UID: _ui(transaction_uid)}
    done = [_reference(item.sop_class_uid, item.sop_instance_uid) for item in items if item.failure == ""]
    failed = [
        _reference(item.sop_class_uid, item.sop_instance_uid) | {REASON: {"vr": "US", "Value": [_code(item.failure)]}}
        for item in items
        if item.failure != ""
    ]
    if done:
        attributes[RETRIEVE_AE_TITLE] = {"vr": "AE", "Value": [ae_title]}
        attributes[REFERENCED] = {"vr": "SQ", "Value": done}
    if failed:
        attributes[FAILED] = {"vr": "SQ", "Value": failed}
    return datasets.encode(attributes, transfer_syntax_uid)


def _code(failure: str | None) -> int:
    return next((code for known, code in status.FAILURE_REASONS.items() if known == failure), status.PROCESSING_FAILURE)


def _read(raw: bytes | memoryview, transfer_syntax_uid: str) -> dict[str, Any]:
    if len(raw) > MAX_LENGTH:
        raise TooLarge(f"more than {MAX_LENGTH} bytes")
    return scanner.read(raw, transfer_syntax_uid, _LIMITS)


def _uid(attributes: Mapping[str, Any], tag: str) -> str:
    try:
        return uids.checked(json_model.text(attributes, tag) or "", "UID")
    except InvalidInput:
        raise InvalidInput("missing, or not a UID", about=tag) from None


def _ui(uid: str) -> dict[str, Any]:
    return {"vr": "UI", "Value": [uid]}


def _reference(sop_class_uid: str, sop_instance_uid: str) -> dict[str, Any]:
    return {SOP_CLASS: _ui(sop_class_uid), SOP_INSTANCE: _ui(sop_instance_uid)}
