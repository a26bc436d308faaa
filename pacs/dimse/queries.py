"""Identifiers as SCU: what a person types as KEYWORD=VALUE becomes one, and responses become DICOM JSON again. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pacs.dicom import dictionary
from pacs.dicom.attributes import Level
from pacs.dimse import datasets, identifiers
from pacs.dimse.identifiers import LEVEL, UNIQUE_KEYS
from pacs.errors import InvalidInput

PATIENT_ROOT, STUDY_ROOT = "1.2.840.10008.5.1.4.1.2.1.", "1.2.840.10008.5.1.4.1.2.2."
FIND, MOVE, GET = "1", "2", "3"
SHOWN: Final[Mapping[Level, tuple[str, ...]]] = {
    Level.PATIENT: ("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    Level.STUDY: (
        "PatientID", "PatientName", "StudyDate", "StudyTime", "ModalitiesInStudy", "AccessionNumber",
        "StudyDescription", "NumberOfStudyRelatedInstances", "StudyInstanceUID",
    ),
    Level.SERIES: (
        "Modality", "SeriesNumber", "SeriesDescription", "NumberOfSeriesRelatedInstances", "SeriesInstanceUID",
    ),
    Level.IMAGE: ("InstanceNumber", "SOPClassUID", "SOPInstanceUID"),
}  # fmt: skip
"""What is asked for at a level when nothing is named."""


def model(level: Level, operation: str, *, patient_root: bool = False) -> str:
    """The SOP Class for a query or retrieval: Study Root, unless the level or the asker wants the Patient Root."""
    return (PATIENT_ROOT if patient_root or level is Level.PATIENT else STUDY_ROOT) + operation


def parse(words: Sequence[str]) -> dict[str, str]:
    """KEYWORD=VALUE, KEYWORD alone, or GGGGEEEE for a keyword, in the order given. Raises InvalidInput, naming it."""
    found: dict[str, str] = {}
    for word in words:
        name, _, value = word.partition("=")
        for part in name.split("."):
            tag(part)
        found[name] = value
    return found


def tag(name: str) -> str:
    """The tag of a keyword of PS3.6 or of eight hexadecimal digits, as eight of these. Raises InvalidInput."""
    digits = name.replace(",", "").strip("()")
    if len(digits) == 8 and all(digit in "0123456789abcdefABCDEF" for digit in digits):
        return digits.upper()
    number = dictionary.tag(name)
    if number is None:
        raise InvalidInput(f"{name!r} is neither a keyword of PS3.6 nor a tag of eight hexadecimal digits")
    return f"{number:08X}"


def identifier(level: Level, keys: Mapping[str, str], transfer_syntax_uid: str) -> bytes:
    """The identifier for these keys (a name with a dot is a key within a sequence's item); no value is "return it"."""
    whole: dict[str, Any] = {LEVEL: {"vr": "CS", "Value": [str(level)]}}
    for name, value in keys.items():
        into = whole
        *outer, last = (tag(part) for part in name.split("."))
        for each in outer:
            into = into.setdefault(each, {"vr": "SQ", "Value": [{}]})["Value"][0]
        vr = (dictionary.vr(int(last, 16)) or "LO")[:2]
        into[last] = {"vr": vr, "Value": [{}]} if vr == "SQ" else {"vr": vr, "Value": [value] if value else []}
    try:
        return datasets.encode(whole, transfer_syntax_uid)
    except (ValueError, TypeError) as error:
        raise InvalidInput("a value is not of the kind that its attribute has") from error


def unique_keys(
    patient: str = "", studies: Sequence[str] = (), series: Sequence[str] = (), instances: Sequence[str] = ()
) -> tuple[Level, dict[str, str]]:
    """The level and keys of a retrieval: those of its lowest level may be several. Raises InvalidInput for none."""
    given = {
        Level.PATIENT: [patient] if patient else [],
        Level.STUDY: list(studies),
        Level.SERIES: list(series),
        Level.IMAGE: list(instances),
    }
    named = [level for level, values in given.items() if values]
    if not named:
        raise InvalidInput("say what to retrieve: --patient, --study, --series or --instance")
    lowest = named[-1]
    for level in named[:-1]:
        if len(given[level]) > 1:
            raise InvalidInput(f"only one {level.lower()} can be named above the {lowest.lower()} level")
    return lowest, {UNIQUE_KEYS[level]: "\\".join(given[level]) for level in named}


def decoded(dataset: bytes | None, transfer_syntax_uid: str) -> dict[str, Any]:
    """A response's identifier as DICOM JSON; {} for none. Raises MalformedDataset."""
    return identifiers.decode(dataset, transfer_syntax_uid) if dataset else {}
