"""C-GET and C-MOVE identifiers (PS3.4 C.4.2.1.4, C.4.3.1.3): what they select, and the list of what failed.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pacs import uids
from pacs.dicom import json_model
from pacs.dicom.attributes import LEVELS, Level
from pacs.dimse import datasets
from pacs.dimse.identifiers import LEVEL, UNIQUE_KEYS
from pacs.errors import DatasetMismatch, InvalidUID
from pacs.selection import Selection

PATIENT_ROOT_MOVE: Final = "1.2.840.10008.5.1.4.1.2.1.2"
PATIENT_ROOT_GET: Final = "1.2.840.10008.5.1.4.1.2.1.3"
STUDY_ROOT_MOVE: Final = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_ROOT_GET: Final = "1.2.840.10008.5.1.4.1.2.2.3"
MOVE_CLASSES: Final = frozenset({PATIENT_ROOT_MOVE, STUDY_ROOT_MOVE})
GET_CLASSES: Final = frozenset({PATIENT_ROOT_GET, STUDY_ROOT_GET})
_ROOTS: Final = {
    PATIENT_ROOT_MOVE: LEVELS,
    PATIENT_ROOT_GET: LEVELS,
    STUDY_ROOT_MOVE: LEVELS[1:],
    STUDY_ROOT_GET: LEVELS[1:],
}


def understand(identifier: Mapping[str, Any], sop_class_uid: str, *, relational: bool) -> Selection:
    """What `identifier` selects under this information model.

    The unique key of the level is there, with one Patient ID or any number of UIDs; those above it are single values
    and, unless `relational`, all there. Other keys have no meaning in a retrieval and are ignored. Raises
    DatasetMismatch, about the tag that breaks the model.
    """
    levels = _ROOTS[sop_class_uid]
    names = json_model.texts(identifier, LEVEL)
    level = next((level for level in levels if names == [level]), None)
    if level is None:
        raise DatasetMismatch("Query/Retrieve Level is missing or not of this model", about=LEVEL)
    keys = dict[Level, tuple[str, ...]]()
    for each in levels[: levels.index(level) + 1]:
        tag = UNIQUE_KEYS[each]
        values = tuple(value for value in json_model.texts(identifier, tag) if value)
        if each is level and not values:
            raise DatasetMismatch("the unique key of the level is missing", about=tag)
        if not values and not relational:
            raise DatasetMismatch("a unique key above the level is missing", about=tag)
        if len(values) > 1 and (each is not level or each is Level.PATIENT):
            raise DatasetMismatch("a unique key that is to be a single value has several", about=tag)
        if each is not Level.PATIENT:
            for value in values:
                _check_uid(value, tag)
        keys[each] = values
    return Selection(
        level,
        next(iter(keys.get(Level.PATIENT, ())), ""),
        keys.get(Level.STUDY, ()),
        keys.get(Level.SERIES, ()),
        keys.get(Level.IMAGE, ()),
    )


def _check_uid(value: str, tag: str) -> None:
    try:
        uids.checked(value, "unique key")
    except InvalidUID as error:
        raise DatasetMismatch(
            "a unique key is no UID; neither wildcards nor ranges select anything", about=tag
        ) from error


def failed_list(failed: Sequence[str], transfer_syntax_uid: str) -> bytes:
    """The identifier that lists what failed: Failed SOP Instance UID List (0008,0058) (PS3.4 C.4.2.1.4.2)."""
    return datasets.encode({"00080058": {"vr": "UI", "Value": list(failed)}}, transfer_syntax_uid)
