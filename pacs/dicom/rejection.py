"""Rejection notes: Key Object Selection Documents that say which instances are not to be used any more.

PS3.16 CID 7011 names the reasons; IHE RAD "Imaging Object Change Management" says what they ask of an archive.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pacs.dicom import json_model

KEY_OBJECT_SELECTION: Final = "1.2.840.10008.5.1.4.1.1.88.59"
REASONS: Final = {
    "113001": "Rejected for Quality Reasons",
    "113037": "Rejected for Patient Safety Reasons",
    "113038": "Incorrect Modality Worklist Entry",
    "113039": "Data Retention Policy Expired",
}
EXPIRED: Final = "113039"
"""The one reason that asks for removal rather than for hiding."""


@dataclass(frozen=True, slots=True)
class Note:
    """What a rejection note rejects: (study, series, SOP Instance UID) of each instance, and why."""

    code: str
    instances: tuple[tuple[str, str, str], ...]

    @property
    def reason(self) -> str:
        """The meaning of its code."""
        return REASONS[self.code]


def note(sop_class_uid: str, metadata: Mapping[str, Any]) -> Note | None:
    """The rejection note that a data set is, or None. Its title is Concept Name Code Sequence (0040,A043)."""
    if sop_class_uid != KEY_OBJECT_SELECTION:
        return None
    for item in _items(metadata, "0040A043"):
        code = json_model.text(item, "00080100")
        if code in REASONS and json_model.text(item, "00080102") == "DCM":
            return Note(code, tuple(dict.fromkeys(_references(metadata))))
    return None


def _references(metadata: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for study in _items(metadata, "0040A375"):
        for series in _items(study, "00081115"):
            for instance in _items(series, "00081199"):
                uids = (json_model.text(study, "0020000D"), json_model.text(series, "0020000E"))
                sop = json_model.text(instance, "00081155")
                if uids[0] and uids[1] and sop:
                    yield uids[0], uids[1], sop


def _items(metadata: Mapping[str, Any], tag: str) -> list[Mapping[str, Any]]:
    held = metadata.get(tag)
    return [] if not isinstance(held, dict) or held.get("vr") != "SQ" else [i for i in held.get("Value", ()) if i]
