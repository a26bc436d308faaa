"""What is reported of Workitems to those who watch them: event types and their information (PS3.4 Table CC.2.4-1).

Pure: a report follows from a Workitem before and after, so that every way in which one changes tells the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from pacs.dicom import ups
from pacs.dicom.ups import Attributes, State, element

GLOBAL_UID = "1.2.840.10008.5.1.4.34.5"
"""UPS Global Subscription SOP Instance: the worklist itself, where a single Workitem could be named."""

FILTERED_GLOBAL_UID = "1.2.840.10008.5.1.4.34.5.1"

CONTACT_URI = "0074100A"
CONTACT_DISPLAY_NAME = "0074100C"
PROGRESS_PARAMETERS_SEQUENCE = "00741007"
COMMUNICATIONS_URI_SEQUENCE = "00741008"
RECEIVING_AE = "00741234"
REQUESTING_AE = "00741236"
DELETION_LOCK = "00741230"
SCP_STATUS = "00741242"
SUBSCRIPTION_LIST_STATUS = "00741244"
UPS_LIST_STATUS = "00741246"
SCHEDULED_STATION_NAME_CODE_SEQUENCE = "00404025"
SCHEDULED_HUMAN_PERFORMERS_SEQUENCE = "00404034"
HUMAN_PERFORMER_CODE_SEQUENCE = "00404009"
HUMAN_PERFORMERS_ORGANIZATION = "00404036"

CANCEL_INFORMATION = (
    ups.REASON_FOR_CANCELLATION, ups.DISCONTINUATION_REASON_CODE_SEQUENCE, CONTACT_URI, CONTACT_DISPLAY_NAME,
)  # fmt: skip
"""What a cancel request may say and its event passes on (PS3.4 Table CC.2.2-1)."""

_PROGRESS = (ups.PROGRESS, ups.PROGRESS_DESCRIPTION, PROGRESS_PARAMETERS_SEQUENCE, COMMUNICATIONS_URI_SEQUENCE)
_ASSIGNED = (SCHEDULED_STATION_NAME_CODE_SEQUENCE, SCHEDULED_HUMAN_PERFORMERS_SEQUENCE)


class EventType(IntEnum):
    """Event Type ID."""

    STATE_REPORT = 1
    CANCEL_REQUESTED = 2
    PROGRESS_REPORT = 3
    SCP_STATUS_CHANGE = 4
    ASSIGNED = 5


@dataclass(frozen=True, slots=True)
class Report:
    """One event: its type, and its information in the DICOM JSON model."""

    type: EventType
    information: Attributes


def state_report(attributes: Mapping[str, Any]) -> Report:
    """Where the Workitem stands, and why it was cancelled if it was."""
    state = ups.value(attributes, ups.PROCEDURE_STEP_STATE)
    information = {
        ups.INPUT_READINESS_STATE: element("CS", ups.value(attributes, ups.INPUT_READINESS_STATE)),
        ups.PROCEDURE_STEP_STATE: element("CS", state),
    }
    if state == State.CANCELED:
        progress = _progress(attributes)
        known = (ups.REASON_FOR_CANCELLATION, ups.DISCONTINUATION_REASON_CODE_SEQUENCE)
        information |= {tag: progress[tag] for tag in known if ups.value(progress, tag) is not None}
    return Report(EventType.STATE_REPORT, dict(sorted(information.items())))


def changes(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> list[Report]:
    """What is to be reported of a Workitem that was created (`before` is None) or changed (PS3.4 CC.2.4.3)."""
    reports = []
    states = [None if each is None else ups.value(each, ups.PROCEDURE_STEP_STATE) for each in (before, after)]
    if states == [State.SCHEDULED, State.CANCELED]:
        # PS3.4 CC.2.2.3: the provider itself takes it first, since no other way leads there
        reports.append(state_report({**after, ups.PROCEDURE_STEP_STATE: element("CS", State.IN_PROGRESS)}))
    ready = [None if each is None else ups.value(each, ups.INPUT_READINESS_STATE) for each in (before, after)]
    if states[0] != states[1] or ready[0] != ready[1]:
        reports.append(state_report(after))
    old, new = ({} if before is None else _progress(before)), _progress(after)
    if any(old.get(tag) != new.get(tag) for tag in _PROGRESS):
        shown = {tag: new[tag] for tag in _PROGRESS if tag in new}
        reports.append(Report(EventType.PROGRESS_REPORT, {ups.PROGRESS_SEQUENCE: element("SQ", shown)}))
    assigned = any(ups.items(after, tag) != ([] if before is None else ups.items(before, tag)) for tag in _ASSIGNED)
    if assigned:
        reports.append(_assigned(after))
    return reports


def cancel_requested(requesting_ae: str, request: Mapping[str, Any]) -> Report:
    """Somebody asks for the end of a Workitem that is performed elsewhere."""
    said = {tag: request[tag] for tag in CANCEL_INFORMATION if ups.value(request, tag) is not None}
    return Report(
        EventType.CANCEL_REQUESTED, dict(sorted({**said, REQUESTING_AE: element("AE", requesting_ae)}.items()))
    )


def status_change(status: str) -> Report:
    """The server is "RESTARTED", with its worklist and subscriptions as they were, or "GOING DOWN"."""
    information = {SCP_STATUS: element("CS", status)}
    if status == "RESTARTED":
        information |= {tag: element("CS", "WARM START") for tag in (SUBSCRIPTION_LIST_STATUS, UPS_LIST_STATUS)}
    return Report(EventType.SCP_STATUS_CHANGE, information)


def _progress(attributes: Mapping[str, Any]) -> Attributes:
    return next(iter(ups.items(attributes, ups.PROGRESS_SEQUENCE)), {})


def _assigned(attributes: Mapping[str, Any]) -> Report:
    information: Attributes = {}
    if ups.items(attributes, SCHEDULED_STATION_NAME_CODE_SEQUENCE):
        information[SCHEDULED_STATION_NAME_CODE_SEQUENCE] = attributes[SCHEDULED_STATION_NAME_CODE_SEQUENCE]
    performers = ups.items(attributes, SCHEDULED_HUMAN_PERFORMERS_SEQUENCE)
    codes = [code for each in performers for code in ups.items(each, HUMAN_PERFORMER_CODE_SEQUENCE)]
    if codes:
        information[HUMAN_PERFORMER_CODE_SEQUENCE] = element("SQ", *codes)
    organization = next(
        (found for each in performers if (found := ups.value(each, HUMAN_PERFORMERS_ORGANIZATION))), None
    )
    if organization:
        information[HUMAN_PERFORMERS_ORGANIZATION] = element("LO", organization)
    return Report(EventType.ASSIGNED, dict(sorted(information.items())))
