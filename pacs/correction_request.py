"""What a person may ask to be corrected, and how: attributes and values checked before anything is touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pacs import uids
from pacs.dicom import json_model
from pacs.dicom.attributes import TABLE, Attribute, Level, by_keyword, by_tag
from pacs.dicom.matching import fold
from pacs.errors import InvalidInput

KINDS = ("merge", "patient", "relink", "study")
Changes = Mapping[str, dict[str, Any] | None]
"""Tag to its DICOM JSON, None for an attribute that goes."""

_NAME_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


@dataclass(frozen=True, slots=True)
class Request:
    """What a person asks for. `kind` says which of the others are needed.

    merge: all studies of `patient_id` (and `issuer`), and those that come later, become those of `into_patient_id`.
    patient: `changes` for all studies of `patient_id`. relink: the study becomes one of `into_patient_id`, known here
    or described by `changes`. study: `changes` for one study. `changes` has keywords of PS3.6 (or tags) and their
    values as text, None for an attribute that is to go.
    """

    kind: str
    reason: str
    study_instance_uid: str = ""
    patient_id: str = ""
    issuer: str = ""
    into_patient_id: str = ""
    into_issuer: str = ""
    changes: Mapping[str, str | None] | None = None


def correctable() -> list[Attribute]:
    """The attributes that can be corrected: of patient and study level, text, and no UID."""
    return [
        a
        for a in TABLE
        if a.level in (Level.PATIENT, Level.STUDY)
        and not a.computed
        and "." not in a.tag
        and a.vr not in ("SQ", "UI", "UR")
        and a.tag != "00080201"
    ]


def checked(request: Request) -> Changes:
    """The changes as DICOM JSON. Raises InvalidInput for a request that cannot be."""
    if request.kind not in KINDS:
        raise InvalidInput(f"kind is one of {', '.join(KINDS)}")
    if not request.reason.strip() or len(request.reason) > 200:
        raise InvalidInput("a reason of at most 200 characters is needed")
    needed = {
        "merge": ("patient_id", "into_patient_id"),
        "patient": ("patient_id", "changes"),
        "relink": ("study_instance_uid", "into_patient_id"),
        "study": ("study_instance_uid", "changes"),
    }[request.kind]
    for name in needed:
        if not getattr(request, name):
            raise InvalidInput(f"{name} is needed for {request.kind}")
    if request.kind == "merge":
        if request.changes:
            raise InvalidInput("a merge takes over the other patient's attributes and no others")
        same = fold("LO", request.patient_id) == fold("LO", request.into_patient_id)
        if same and fold("LO", request.issuer) == fold("LO", request.into_issuer):
            raise InvalidInput("a patient cannot be merged into itself")
    if request.study_instance_uid:
        uids.checked(request.study_instance_uid, "Study Instance UID")
    allowed = {a.tag: a for a in correctable()}
    given: dict[str, dict[str, Any] | None] = {}
    for name, text in (request.changes or {}).items():
        row = by_keyword(name) or by_tag(name)
        if row is None or row.tag not in allowed:
            raise InvalidInput("no attribute that can be corrected", about=name[:64])
        if request.kind in ("patient", "relink") and row.level is not Level.PATIENT:
            raise InvalidInput("no attribute of a patient", about=row.keyword)
        given[row.tag] = None if text is None else entry(row, text)
    return given


def entry(row: Attribute, text: str) -> dict[str, Any]:
    """The DICOM JSON of a text for an attribute. Raises InvalidInput for what its VR cannot hold (PS3.5 6.2)."""
    from pydicom import config  # 40 MB, which few ever need
    from pydicom.valuerep import validate_value

    single = row.vr in ("LT", "ST", "UT")
    allowed = "\r\n\t\f" if single else ""
    if not isinstance(text, str) or any(ord(char) < 32 and char not in allowed for char in text):
        raise InvalidInput("a value has to be text without control characters", about=row.keyword)
    parts = [text] if single else text.split("\\")
    try:
        for each in parts:
            validate_value(row.vr, each, config.RAISE)
    except ValueError as error:
        raise InvalidInput(f"value that VR {row.vr} cannot hold", about=row.keyword) from error
    values: list[Any] = list(parts)
    if not any(values):
        return {"vr": row.vr}
    if row.vr == "PN":
        groups = [zip(_NAME_GROUPS, each.split("="), strict=False) for each in values]
        values = [{name: part for name, part in group if part} or None for group in groups]
    elif row.vr == "DS":
        values = [float(each) if each else None for each in values]
    return {"vr": row.vr, "Value": values}


def spoken(entries: Changes) -> dict[str, str | None]:
    """Attributes as keywords and text, None for one that is absent; a sequence as a word."""
    found: dict[str, str | None] = {}
    for tag, held in sorted(entries.items()):
        row = by_tag(tag)
        name = tag if row is None else row.keyword
        if held is None:
            found[name] = None
        elif held.get("vr") == "SQ":
            found[name] = f"({len(held.get('Value', ()))} items)"
        else:
            found[name] = "\\".join(json_model.texts(entries, tag))
    return found
