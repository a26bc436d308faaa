"""Searching Workitems: matching keys on any attribute, and what the index keeps of a Workitem (PS3.4 CC.2.8).

A search is answered by the index as far as it goes, which narrows; `Search.fits` says exactly what matches.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pacs.dicom import dictionary, json_model, matching, names, ups
from pacs.dicom.attributes import held
from pacs.dicom.matching import PLAIN, Criterion, Item, MatchKey, Options, Universal
from pacs.errors import InvalidQuery

_PATH = re.compile(r"[0-9A-F]{8}(\.[0-9A-F]{8})*")
_OFFSET = re.compile(r"[+-][0-9]{4}$", re.ASCII)

_REQUEST = "0040A370"  # Referenced Request Sequence
KEPT: tuple[str, ...] = (
    ups.PATIENT_NAME, ups.PATIENT_ID, "00100021", "00100030", "00100040", "00380010",
    ups.PRIORITY, ups.LABEL, ups.WORKLIST_LABEL, ups.INPUT_READINESS_STATE,
    ups.START_DATETIME, ups.MODIFICATION_DATETIME, "00404008", "00404011",  # ... Expiration, Expected Completion
    *(f"{sequence}.{tag}" for sequence in (
        ups.WORKITEM_CODE_SEQUENCE, "00404025", "00404026", "00404027", "00081084", "00404034.00404009",
    ) for tag in (ups.CODE_VALUE, ups.CODING_SCHEME_DESIGNATOR)),
    f"{ups.INPUT_INFORMATION_SEQUENCE}.{ups.STUDY_INSTANCE_UID}",
    f"{ups.INPUT_INFORMATION_SEQUENCE}.{ups.SERIES_INSTANCE_UID}",
    f"{ups.REPLACED_PROCEDURE_STEP_SEQUENCE}.{ups.REFERENCED_SOP_INSTANCE_UID}",
    *(f"{_REQUEST}.{tag}" for tag in (ups.STUDY_INSTANCE_UID, "00080050", "00401001", "00402016", "00402017")),
)  # fmt: skip
"""Paths whose values the index keeps: the matching keys of PS3.4 Table CC.2.5-3 that people search by."""

WORDS = "~"
"""What the words of a name are kept under, behind its path."""

MAX_KEPT = 256


@dataclass(frozen=True, slots=True)
class Search:
    """Matching keys: each leaf with its path, and the whole of them as they apply to a Workitem."""

    leaves: tuple[tuple[str, Criterion], ...]
    keys: tuple[MatchKey, ...]

    def fits(self, attributes: Mapping[str, Any]) -> bool:
        """Whether a Workitem matches."""
        zoned = in_its_zone(attributes)
        return all(matching.matches_in(key, zoned) for key in self.keys)


def search(keys: Mapping[str, str], options: Options = PLAIN) -> Search:
    """What these keys ask for: a path of tags joined by dots to the text of each. Raises InvalidQuery.

    Keys within one sequence have to match in one item (PS3.4 C.2.2.2.6).
    """
    leaves = [
        (path, found) for path, text in keys.items() if not isinstance(found := _parse(path, text, options), Universal)
    ]
    return Search(tuple(leaves), tuple(_tree(leaves)))


def _tree(leaves: Sequence[tuple[str, Criterion]]) -> list[MatchKey]:
    by_head: dict[str, list[tuple[str, Criterion]]] = {}
    for path, criterion in leaves:
        head, _, rest = path.partition(".")
        by_head.setdefault(head, []).append((rest, criterion))
    keys = []
    for head, inside in by_head.items():
        nested = tuple((key.attribute.tag, key.criterion) for key in _tree(inside)) if inside[0][0] else ()
        attribute = held(head, dictionary.vr(int(head, 16)) or "UN")
        keys.append(MatchKey(attribute, Item(nested) if nested else inside[0][1]))
    return keys


def _parse(path: str, text: str, options: Options) -> Criterion:
    if _PATH.fullmatch(path) is None:
        raise InvalidQuery("a matching key is a path of tags", about=path[:64] if path.isprintable() else "")
    tag = path[-8:]
    vr = dictionary.vr(int(tag, 16))
    if vr is None or vr in matching.UNMATCHED_VRS or len(vr) > 2:
        raise InvalidQuery("unknown attribute, or one that is not matched", about=path)
    if vr == "SQ" and text:
        raise InvalidQuery("a sequence is matched by the attributes in its items", about=path)
    return matching.parse(held(tag, vr), text, options)


def in_its_zone(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """The Workitem with an offset at each DT value that has none: its own Timezone Offset From UTC (PS3.3 C.12.1.1.8).

    Without one they stay as they are, which is matched as UTC.
    """
    zone = str(ups.value(attributes, ups.TIMEZONE_OFFSET) or "").strip()
    return _in_zone(attributes, zone) if _OFFSET.fullmatch(zone) else attributes


def _in_zone(attributes: Mapping[str, Any], zone: str) -> dict[str, Any]:
    moved = dict(attributes)
    for tag, element in attributes.items():
        values = element.get("Value") if isinstance(element, Mapping) else None
        if not isinstance(values, list):
            continue
        if element.get("vr") == "DT":
            moved[tag] = {**element, "Value": [_with_offset(each, zone) for each in values]}
        elif element.get("vr") == "SQ":
            inner = [_in_zone(each, zone) if isinstance(each, Mapping) else each for each in values]
            moved[tag] = {**element, "Value": inner}
    return moved


def _with_offset(value: Any, zone: str) -> Any:
    if not isinstance(value, str) or not value.strip() or _OFFSET.search(value.strip()):
        return value
    return value.strip() + zone


def kept(attributes: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(path, folded value) of everything that the index keeps of a Workitem."""
    attributes = in_its_zone(attributes)
    found: dict[tuple[str, str], None] = {}
    for path in KEPT:
        vr = dictionary.vr(int(path[-8:], 16)) or "UN"
        for value in ups.values_at(attributes, path):
            (text,) = json_model.texts({"0": {"vr": vr, "Value": [value]}}, "0")
            if vr == "PN":
                folded = [group for group in matching.fold_name(text) if group]
                found |= {(path, group): None for group in folded}
                if (spoken := names.words(text)) is not None:
                    found[path + WORDS, spoken] = None
            elif (plain := matching.fold(vr, text)) is not None:
                found[path, str(plain)] = None
    return list(found)[:MAX_KEPT]
