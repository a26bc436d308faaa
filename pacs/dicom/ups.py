"""The Unified Procedure Step by the letter: states, required attributes and what may be changed when (PS3.4 annex CC).

Everything here is a function of values: a Workitem is its DICOM JSON model, `now` is an argument. Refusals carry the
texts of PS3.18 section 11 and PS3.4 CC.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pacs import uids
from pacs.dicom import dictionary
from pacs.errors import (
    AlreadyFinal,
    AlreadyInProgress,
    FinalStateUnmet,
    InvalidInput,
    InvalidUID,
    MissingAttribute,
    MissingValue,
    NeverScheduledAgain,
    NotInProgress,
    NotScheduled,
    TransactionMismatch,
)

UPS_PUSH_SOP_CLASS_UID = "1.2.840.10008.5.1.4.34.6.1"

SPECIFIC_CHARACTER_SET = "00080005"
SOP_CLASS_UID = "00080016"
SOP_INSTANCE_UID = "00080018"
CODE_VALUE = "00080100"
CODING_SCHEME_DESIGNATOR = "00080102"
CODE_MEANING = "00080104"
LONG_CODE_VALUE = "00080119"
TRANSACTION_UID = "00081195"
TIMEZONE_OFFSET = "00080201"
REFERENCED_SOP_SEQUENCE = "00081199"
REFERENCED_SOP_CLASS_UID = "00081150"
REFERENCED_SOP_INSTANCE_UID = "00081155"
PATIENT_NAME = "00100010"
PATIENT_ID = "00100020"
STUDY_INSTANCE_UID = "0020000D"
SERIES_INSTANCE_UID = "0020000E"
START_DATETIME = "00404005"
EXPIRATION_DATETIME = "00404008"
MODIFICATION_DATETIME = "00404010"
COMMENTS = "00400400"
WORKITEM_CODE_SEQUENCE = "00404018"
PERFORMED_WORKITEM_CODE_SEQUENCE = "00404019"
INPUT_INFORMATION_SEQUENCE = "00404021"
PERFORMED_STATION_NAME_CODE_SEQUENCE = "00404028"
OUTPUT_INFORMATION_SEQUENCE = "00404033"
INPUT_READINESS_STATE = "00404041"
PERFORMED_START_DATETIME = "00404050"
PERFORMED_END_DATETIME = "00404051"
CANCELLATION_DATETIME = "00404052"
PROCEDURE_STEP_STATE = "00741000"
PROGRESS_SEQUENCE = "00741002"
PROGRESS = "00741004"
PROGRESS_DESCRIPTION = "00741006"
DISCONTINUATION_REASON_CODE_SEQUENCE = "0074100E"
PRIORITY = "00741200"
WORKLIST_LABEL = "00741202"
LABEL = "00741204"
PARAMETERS_SEQUENCE = "00741210"
PERFORMED_PARAMETERS_SEQUENCE = "00741212"
PERFORMED_PROCEDURE_SEQUENCE = "00741216"
REPLACED_PROCEDURE_STEP_SEQUENCE = "00741224"
REASON_FOR_CANCELLATION = "00741238"

Attributes = dict[str, Any]
"""One data set in the DICOM JSON model (PS3.18 annex F)."""


class State(StrEnum):
    """Procedure Step State (0074,1000), PS3.4 Figure CC.1.1-1."""

    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"

    @property
    def final(self) -> bool:
        """Whether nothing can follow."""
        return self in (State.COMPLETED, State.CANCELED)


def state_named(text: str) -> State:
    """The state of that name. Raises InvalidInput."""
    try:
        return State(text)
    except ValueError:
        raise InvalidInput(f"Procedure Step State is one of {', '.join(State)}", about=PROCEDURE_STEP_STATE) from None


PRIORITIES = ("HIGH", "MEDIUM", "LOW")

# PS3.4 Table CC.2.5-3, N-CREATE column: must be there with a value.
TYPE_1: dict[str, str] = {
    PROCEDURE_STEP_STATE: "Procedure Step State",
    PRIORITY: "Scheduled Procedure Step Priority",
    LABEL: "Procedure Step Label",
    START_DATETIME: "Scheduled Procedure Step Start DateTime",
    INPUT_READINESS_STATE: "Input Readiness State",
}
# The same column: must be there, may be empty. A request that leaves one out is completed with the empty attribute.
TYPE_2: dict[str, str] = {
    "00081080": "LO",  # Admitting Diagnoses Description
    "00081084": "SQ",  # Admitting Diagnoses Code Sequence
    PATIENT_NAME: "PN",
    PATIENT_ID: "LO",
    "00100030": "DA",  # Patient's Birth Date
    "00100040": "CS",  # Patient's Sex
    "00101002": "SQ",  # Other Patient IDs Sequence
    "00380010": "LO",  # Admission ID
    "00380014": "SQ",  # Issuer of Admission ID Sequence
    "0040A370": "SQ",  # Referenced Request Sequence
    "00400400": "LT",  # Comments on the Scheduled Procedure Step
    WORKITEM_CODE_SEQUENCE: "SQ",
    INPUT_INFORMATION_SEQUENCE: "SQ",
    "00404025": "SQ",  # Scheduled Station Name Code Sequence
    "00404026": "SQ",  # Scheduled Station Class Code Sequence
    "00404027": "SQ",  # Scheduled Station Geographic Location Code Sequence
    WORKLIST_LABEL: "LO",
    PARAMETERS_SEQUENCE: "SQ",
    PROGRESS_SEQUENCE: "SQ",
    PERFORMED_PROCEDURE_SEQUENCE: "SQ",
}
# The same column, "shall be empty": these belong to whoever performs the step.
EMPTY_AT_CREATION: dict[str, str] = {
    TRANSACTION_UID: "Transaction UID",
    PROGRESS_SEQUENCE: "Procedure Step Progress Information Sequence",
    PERFORMED_PROCEDURE_SEQUENCE: "Unified Procedure Step Performed Procedure Sequence",
}
# N-SET column, "not allowed": identity, state and the relationship to patient and order are fixed at creation.
FIXED: dict[str, str] = {
    SOP_CLASS_UID: "SOP Class UID",
    SOP_INSTANCE_UID: "SOP Instance UID",
    TRANSACTION_UID: "Transaction UID",
    PROCEDURE_STEP_STATE: "Procedure Step State",
    PATIENT_NAME: "Patient's Name",
    PATIENT_ID: "Patient ID",
    "00100030": "Patient's Birth Date",
    "00100040": "Patient's Sex",
    "00380010": "Admission ID",
    "0040A370": "Referenced Request Sequence",
}
# Final state column, code P, inside Unified Procedure Step Performed Procedure Sequence: what COMPLETED needs.
PERFORMED_FINAL: dict[str, str] = {
    PERFORMED_STATION_NAME_CODE_SEQUENCE: "Performed Station Name Code Sequence",
    PERFORMED_START_DATETIME: "Performed Procedure Step Start DateTime",
    PERFORMED_WORKITEM_CODE_SEQUENCE: "Performed Workitem Code Sequence",
    PERFORMED_END_DATETIME: "Performed Procedure Step End DateTime",
}


# Reading the DICOM JSON model ----------------------------------------------------------------------------------------


def value(attributes: Mapping[str, Any], tag: str) -> Any:
    """The first value of `tag`, or None where it is absent or empty."""
    element = attributes.get(tag)
    values = element.get("Value") if isinstance(element, Mapping) else None
    return values[0] if isinstance(values, list) and values else None


def items(attributes: Mapping[str, Any], tag: str) -> list[Attributes]:
    """The items of a sequence; none where it is absent or empty."""
    element = attributes.get(tag)
    values = element.get("Value") if isinstance(element, Mapping) else None
    return [item for item in values if isinstance(item, dict)] if isinstance(values, list) else []


def element(vr: str, *values: Any) -> dict[str, Any]:
    """One element of the DICOM JSON model; without values it is empty."""
    return {"vr": vr, "Value": list(values)} if values else {"vr": vr}


def values_at(attributes: Mapping[str, Any], path: str) -> Iterator[Any]:
    """Every value under a path of tags joined by dots ("00404018.00080100"), through all items on the way."""
    head, _, rest = path.partition(".")
    found = attributes.get(head)
    values = found.get("Value") if isinstance(found, Mapping) else None
    for each in values if isinstance(values, list) else ():
        if not rest:
            yield each
        elif isinstance(each, Mapping):
            yield from values_at(each, rest)


def dt(now: float) -> str:
    """Seconds since 1970 as a DT value in UTC (PS3.5 section 6.2)."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y%m%d%H%M%S.%f+0000")


def moment(attributes: Mapping[str, Any], tag: str) -> float | None:
    """Seconds since 1970 of a DT attribute of the Workitem, None where it has none. Raises InvalidInput.

    Without an offset of its own it is in the time zone that the Workitem names (PS3.3 C.12.1.1.8), else in UTC.
    """
    text = value(attributes, tag)
    return None if text is None else from_dt(str(text), zone_of(attributes))


_OFFSET = re.compile(r"[+-](0[0-9]|1[01])[0-5][0-9]|-1200|[+]1[23][0-5][0-9]|[+]1400")


def zone_of(attributes: Mapping[str, Any]) -> str:
    """Timezone Offset From UTC (0008,0201), "+0000" where it is absent. Raises InvalidInput for what is none."""
    zone = str(value(attributes, TIMEZONE_OFFSET) or "+0000").strip()
    if not _OFFSET.fullmatch(zone):
        raise InvalidInput("Timezone Offset From UTC is &ZZXX, -1200 to +1400", about=TIMEZONE_OFFSET)
    return zone


def from_dt(text: str, zone: str = "+0000") -> float:
    """Seconds since 1970 of a DT value, without an offset taken as in `zone`. Raises InvalidInput."""
    digits, offset = text.strip(), zone
    if not digits.isascii():  # strptime reads the digits of every script
        raise InvalidInput("not a DT value (PS3.5 section 6.2)")
    for sign in "+-":
        if sign in digits:
            digits, _, rest = digits.partition(sign)
            offset = sign + rest
    if not _OFFSET.fullmatch(offset):
        raise InvalidInput("not a DT value (PS3.5 section 6.2): its offset is &ZZXX, -1200 to +1400")
    whole, _, fraction = digits.partition(".")
    padded = whole + "00000101000000"[len(whole) :]
    try:
        found = datetime.strptime(f"{padded}.{(fraction or '0'):0<6}{offset}", "%Y%m%d%H%M%S.%f%z").timestamp()
        datetime.fromtimestamp(found, UTC)  # which has to be within the years 1 to 9999 in UTC too
        return found
    except (ValueError, OverflowError) as error:
        raise InvalidInput("not a DT value (PS3.5 section 6.2)") from error


# Creating ------------------------------------------------------------------------------------------------------------


def created(attributes: Mapping[str, Any], uid: str, now: float) -> Attributes:
    """The Workitem as it is kept: what was asked for, checked and completed (PS3.4 CC.2.5, N-CREATE).

    Raises MissingAttribute that names every one that is missing, NotScheduled for another state, and InvalidInput for
    attributes that must be empty at creation.
    """
    state = value(attributes, PROCEDURE_STEP_STATE)
    if state is not None and state != State.SCHEDULED:
        raise NotScheduled("the submitted value of Procedure Step State is not SCHEDULED", about=PROCEDURE_STEP_STATE)
    missing = [f"{name} ({tag})" for tag, name in TYPE_1.items() if value(attributes, tag) in (None, "")]
    if missing:
        kind = MissingValue if TYPE_1.keys() <= attributes.keys() else MissingAttribute
        raise kind(f"required and missing: {', '.join(missing)}", about=", ".join(sorted(TYPE_1)))
    filled = [f"{name} ({tag})" for tag, name in EMPTY_AT_CREATION.items() if value(attributes, tag) is not None]
    if filled:
        raise InvalidInput(f"must be empty at creation: {', '.join(filled)}")
    named = value(attributes, SOP_INSTANCE_UID)
    if named is not None and named != uid:
        raise InvalidInput("SOP Instance UID of the payload differs from the Workitem UID of the request", about=uid)
    _check_values(attributes)
    kept = {tag: element(vr) for tag, vr in TYPE_2.items()} | dict(attributes)
    kept.pop(TRANSACTION_UID, None)
    kept |= {
        SPECIFIC_CHARACTER_SET: element("CS", "ISO_IR 192"),
        SOP_CLASS_UID: element("UI", UPS_PUSH_SOP_CLASS_UID),
        SOP_INSTANCE_UID: element("UI", uid),
        MODIFICATION_DATETIME: element("DT", dt(now)),
    }
    if value(kept, WORKLIST_LABEL) is None:
        kept[WORKLIST_LABEL] = element("LO", "M3DICOM")  # Type 2/1: the SCP gives it a value
    return dict(sorted(kept.items()))


def modified(given: Mapping[str, Any], uid: str) -> bool:
    """Whether values of a request to create are kept otherwise than they were given (PS3.4 CC.2.5.4, warning B300).

    What becomes of the Workitem afterwards does not count: a worker may have claimed it before the answer is made.
    """
    kept = created(given, uid, 0.0)
    return any(
        entry.get("Value") and kept.get(tag) != entry for tag, entry in given.items() if tag != SPECIFIC_CHARACTER_SET
    )


def _check_values(attributes: Mapping[str, Any]) -> None:
    for tag, entry in attributes.items():
        vr = dictionary.vr(int(tag, 16))
        if vr is not None and (vr == "SQ") != (entry.get("vr") == "SQ") and entry.get("Value"):
            raise InvalidInput("a sequence where none can be, or none where one has to be", about=tag)
    priority = value(attributes, PRIORITY)
    if priority is not None and priority not in PRIORITIES:
        raise InvalidInput("Scheduled Procedure Step Priority is HIGH, MEDIUM or LOW", about=PRIORITY)
    ready = value(attributes, INPUT_READINESS_STATE)
    if ready is not None and ready not in ("READY", "UNAVAILABLE", "INCOMPLETE"):
        raise InvalidInput("Input Readiness State is READY, UNAVAILABLE or INCOMPLETE", about=INPUT_READINESS_STATE)
    zone = zone_of(attributes)
    for tag in (START_DATETIME, EXPIRATION_DATETIME):
        given = value(attributes, tag)
        if given is not None:
            if not isinstance(given, str):
                raise InvalidInput("not a DT value (PS3.5 section 6.2)", about=tag)
            from_dt(given, zone)
    _check_uids(attributes)


def _check_uids(attributes: Mapping[str, Any]) -> None:
    """Nothing, or InvalidInput for a UID at any depth that is none: nobody could ever find what it refers to."""
    for tag, entry in attributes.items():
        values = entry.get("Value") if isinstance(entry, Mapping) else None
        for each in values if isinstance(values, list) else ():
            if isinstance(each, Mapping):
                _check_uids(each)
            elif "UI" in (entry.get("vr"), dictionary.vr(int(tag, 16))) and each not in (None, ""):
                try:
                    uids.checked(each if isinstance(each, str) else "")
                except InvalidUID:
                    # Not InvalidUID, which says of a DIMSE request that the Workitem's own UID is none.
                    name = dictionary.keyword(int(tag, 16)) or tag
                    raise InvalidInput(f"a value of {name} is no UID", about=tag) from None


# Changing ------------------------------------------------------------------------------------------------------------


def check_update(state: State, recorded: str | None, given: str | None) -> None:
    """Nothing, where an update is allowed now; raises AlreadyFinal or TransactionMismatch."""
    if state.final:
        raise AlreadyFinal("the Workitem may no longer be updated")
    if state is State.IN_PROGRESS:
        _check_transaction(recorded, given)
    elif given:
        raise TransactionMismatch("the Transaction UID is incorrect: the Workitem is not claimed yet")


def updated(attributes: Mapping[str, Any], update: Mapping[str, Any], now: float) -> Attributes:
    """`attributes` after `update`: each element given replaces the one there, sequences as a whole (PS3.4 CC.2.6).

    Raises InvalidInput for attributes that are fixed at creation, unless they say what is there already.
    """
    fixed = [f"{name} ({tag})" for tag, name in FIXED.items() if tag in update and update[tag] != attributes.get(tag)]
    if fixed:
        raise InvalidInput(f"may not be changed by an update: {', '.join(fixed)}")
    emptied = [f"{name} ({tag})" for tag, name in TYPE_1.items() if tag in update and value(update, tag) in (None, "")]
    if emptied:
        raise InvalidInput(f"may not be emptied: {', '.join(emptied)}")
    _check_values(update)
    ours = {SPECIFIC_CHARACTER_SET: element("CS", "ISO_IR 192"), MODIFICATION_DATETIME: element("DT", dt(now))}
    return dict(sorted({**attributes, **update, **ours}.items()))


def _check_transaction(recorded: str | None, given: str | None) -> None:
    if not given:
        raise TransactionMismatch("the Transaction UID is missing")
    if given != recorded:
        raise TransactionMismatch("the Transaction UID is incorrect")


def transition(state: State, target: State, recorded: str | None, given: str | None) -> str | None:
    """None where `state` may become `target` now, or the warning that it is there already (PS3.4 Table CC.1.1-2).

    Raises a StateConflict or TransactionMismatch. The first claim records the Transaction UID that it brings.
    """
    if target is State.SCHEDULED:
        raise NeverScheduledAgain("a Workitem only becomes SCHEDULED by being created")
    if state is State.SCHEDULED:
        if not given:
            raise TransactionMismatch("the Transaction UID is missing")
        if target is State.IN_PROGRESS:
            return None
        raise NotInProgress("the Workitem is not yet IN PROGRESS")
    _check_transaction(recorded, given)
    if state is State.IN_PROGRESS:
        if target is State.IN_PROGRESS:
            raise AlreadyInProgress("the Workitem is already IN PROGRESS")
        return None
    if state is target:
        return f"The UPS is already in the requested state of {target}."
    raise AlreadyFinal("the Workitem may no longer be updated")


def finalised(attributes: Mapping[str, Any], target: State, now: float) -> Attributes:
    """`attributes` fit for the final state `target` (PS3.4 Table CC.2.5-3, final state column).

    COMPLETED: raises FinalStateUnmet that names what the performer has not given. CANCELED: when and why are
    filled in where the performer has not given them.
    """
    kept = dict(attributes)
    if target is State.COMPLETED:
        performed = items(kept, PERFORMED_PROCEDURE_SEQUENCE)
        lacking = [
            f"{name} ({tag})"
            for tag, name in PERFORMED_FINAL.items()
            if not performed or value(performed[0], tag) is None
        ]
        if not performed or OUTPUT_INFORMATION_SEQUENCE not in performed[0]:
            lacking.append(f"Output Information Sequence ({OUTPUT_INFORMATION_SEQUENCE})")
        if lacking:
            raise FinalStateUnmet(f"final state requirements are not met; missing: {', '.join(lacking)}")
        return kept
    return canceled(kept, "", now)


def canceled(
    attributes: Mapping[str, Any], reason: str, now: float, request: Mapping[str, Any] | None = None
) -> Attributes:
    """`attributes` with when and why the step ended without success; what is there already is kept.

    `request` is the action information of the request that it ends by: its reason code is taken over.
    """
    progress = dict(next(iter(items(attributes, PROGRESS_SEQUENCE)), {}))
    if value(progress, CANCELLATION_DATETIME) is None:
        progress[CANCELLATION_DATETIME] = element("DT", dt(now))
    if not items(progress, DISCONTINUATION_REASON_CODE_SEQUENCE) and items(
        request or {}, DISCONTINUATION_REASON_CODE_SEQUENCE
    ):
        progress[DISCONTINUATION_REASON_CODE_SEQUENCE] = (request or {})[DISCONTINUATION_REASON_CODE_SEQUENCE]
    if not items(progress, DISCONTINUATION_REASON_CODE_SEQUENCE):
        progress[DISCONTINUATION_REASON_CODE_SEQUENCE] = element(
            "SQ", code("110513", "DCM", "Discontinued for unspecified reason")
        )
    if reason:
        progress[REASON_FOR_CANCELLATION] = element("LT", reason)
    changed = {
        PROGRESS_SEQUENCE: element("SQ", dict(sorted(progress.items()))),
        MODIFICATION_DATETIME: element("DT", dt(now)),
    }
    return dict(sorted({**attributes, **changed}.items()))


def with_progress(attributes: Mapping[str, Any], percent: int, message: str) -> Attributes:
    """`attributes` with Procedure Step Progress (0074,1004) in percent and its description (0074,1006)."""
    progress = dict(next(iter(items(attributes, PROGRESS_SEQUENCE)), {}))
    progress[PROGRESS] = element("DS", percent)
    progress[PROGRESS_DESCRIPTION] = element("ST", message) if message else element("ST")
    return {**attributes, PROGRESS_SEQUENCE: element("SQ", dict(sorted(progress.items())))}


def progress_of(attributes: Mapping[str, Any]) -> tuple[int, str, str]:
    """Percent (0 to 100), description and reason for cancellation, as far as they are given."""
    progress: Attributes = next(iter(items(attributes, PROGRESS_SEQUENCE)), {})
    try:
        percent = round(float(value(progress, PROGRESS) or 0))
    except (TypeError, ValueError, OverflowError):  # the last one for "1e400"
        percent = 0
    texts = [value(progress, tag) for tag in (PROGRESS_DESCRIPTION, REASON_FOR_CANCELLATION)]
    return min(max(percent, 0), 100), str(texts[0] or ""), str(texts[1] or "")


def code(code_value: str, scheme: str, meaning: str) -> Attributes:
    """An item of a code sequence (PS3.3 section 8.8); a value beyond 16 characters is a Long Code Value."""
    tag, vr = (CODE_VALUE, "SH") if len(code_value) <= 16 else (LONG_CODE_VALUE, "UC")
    item = {
        tag: element(vr, code_value),
        CODING_SCHEME_DESIGNATOR: element("SH", scheme),
        CODE_MEANING: element("LO", meaning[:64]),
    }
    return dict(sorted(item.items()))


def code_value(item: Mapping[str, Any]) -> tuple[str, str]:
    """Value and scheme of a code sequence item; empty where it has none."""
    found = value(item, CODE_VALUE) or value(item, LONG_CODE_VALUE) or ""
    return str(found), str(value(item, CODING_SCHEME_DESIGNATOR) or "")
