"""Rows of the index from an instance's metadata: searchable columns, the ready QIDO-RS result, what else is held.

A stored row is the JSON object that a search returns, ascending by tag, an empty attribute without Value (PS3.18
F.2.5); in its RetrieveURL the byte 0xFF stands for the service root.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from functools import cache, lru_cache
from typing import Any

import orjson

from pacs.dicom import json_model
from pacs.dicom.attributes import TABLE, Attribute, Level, Returned, by_tag, level_of, of_level
from pacs.dicom.json_model import HERE, BulkRef
from pacs.dicom.matching import fold, fold_name
from pacs.dicom.names import words

RETRIEVE_URL = "00081190"
SOP_CLASSES = "00080062"
TIMEZONE = "00080201"
STUDY_SERIES, STUDY_INSTANCES, SERIES_INSTANCES = "00201206", "00201208", "00201209"
_REQUEST_STEP, _REQUEST_PROCEDURE, _REQUEST = "00400009", "00401001", "00400275"
_TEXT_VRS = frozenset(("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "SH", "ST", "TM", "UC", "UI", "UR", "UT"))

Metadata = Mapping[str, Any]


@cache
def _sourced(level: Level) -> tuple[Attribute, ...]:
    """Attributes of the level that are taken from objects and have a column."""
    return tuple(a for a in TABLE if a.level is level and a.column and not a.computed and "." not in a.tag)


@cache
def _default(level: Level) -> tuple[Attribute, ...]:
    own = tuple(a for a in of_level(level) if a.returned is not Returned.ASKED and not a.computed)
    # PS3.18 Tables 10.6.3-3 to 10.6.3-5 have it at every level.
    timezone = by_tag(TIMEZONE) if level in (Level.SERIES, Level.IMAGE) else None
    return own if timezone is None else (*own, timezone)


@cache
def _plan(levels: tuple[Level, ...]) -> tuple[dict[str, Any], tuple[tuple[str, str, tuple[str, ...]], ...]]:
    """All columns of the levels, empty; then tag, VR and columns of what may fill them."""
    sourced = [attribute for level in levels for attribute in _sourced(level)]
    return {name: None for a in sourced for name in a.columns}, tuple((a.tag, a.vr, a.columns) for a in sourced)


def sourced(level: Level) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """Tag, VR and columns of what is searched at the level and taken from objects."""
    return _plan((level,))[1]


Columns = dict[str, "str | int | None"]
Folded = dict[str, tuple[Any, "str | int | None"]]
"""By tag: the entry that was folded last, and what came of it."""


def columns(metadata: Metadata, *levels: Level, before: Folded | None = None) -> Columns:
    """The searchable columns of the levels, folded for matching.

    `before` is the caller's memory: an entry that is the very one of the last time (see `pacs.dicom.repeats`) is not
    folded again.
    """
    empty, plan = _plan(levels)
    found = empty.copy()
    known = {} if before is None else before
    for tag, vr, names in plan:
        if (held := metadata.get(tag)) is None:
            continue
        if vr == "PN":
            text = json_model.text(metadata, tag) or ""
            found.update(zip(names, (*fold_name(text), words(text)), strict=True))
            continue
        last = known.get(tag)
        if last is None or last[0] is not held:
            last = known[tag] = held, folded(vr, json_model.text(metadata, tag))
        found[names[0]] = last[1]
    return found


folded = lru_cache(maxsize=4096)(fold)
"""`fold`, which remembers: instances share most of what is searched."""


def entry(metadata: Metadata, tag: str, vr: str) -> dict[str, Any] | None:
    """The JSON of one attribute, None where it is absent or not of the VR that belongs to it."""
    held = metadata.get(tag)
    if held is None or not isinstance(held, dict):
        return None
    written = held.get("vr")
    if written != vr and not (written in _TEXT_VRS and vr in _TEXT_VRS):
        return None
    return {"vr": vr, "Value": held["Value"]} if held.get("Value") else {"vr": vr}


def defaults(metadata: Metadata, *levels: Level) -> dict[str, Any]:
    """The attributes of the levels that a search returns unasked; those that are always returned may be empty."""
    found: dict[str, Any] = {}
    for level in levels:
        for attribute in _default(level):
            held = entry(metadata, attribute.tag, attribute.vr)
            if attribute.returned is Returned.ALWAYS:
                found[attribute.tag] = held or {"vr": attribute.vr}
            elif held is not None and "Value" in held and attribute.tag != _REQUEST:
                found[attribute.tag] = held
    if Level.SERIES in levels and (requests := _requests(metadata)):
        found[_REQUEST] = {"vr": "SQ", "Value": requests}
    return found


def _requests(metadata: Metadata) -> list[dict[str, Any]]:
    items = (metadata.get(_REQUEST) or {}).get("Value") or []
    wanted = (_REQUEST_STEP, _REQUEST_PROCEDURE)
    found = [{tag: held for tag in wanted if (held := entry(item, tag, "SH"))} for item in items if item]
    return [item for item in found if item]


def request_columns(metadata: Metadata) -> list[dict[str, str | int | None]]:
    """One row for each item of the Request Attributes Sequence (0040,0275)."""
    return [
        {
            "scheduled_procedure_step_id": fold("SH", json_model.text(item, _REQUEST_STEP)),
            "requested_procedure_id": fold("SH", json_model.text(item, _REQUEST_PROCEDURE)),
        }
        for item in _requests(metadata)
    ]


def others(metadata: Metadata, *levels: Level) -> bytes:
    """The other attributes of the levels, as JSON: what includefield may ask for."""
    unasked = {a.tag for level in levels for a in _default(level)}
    found = {
        tag: held
        for tag, held in metadata.items()
        if level_of(tag) in levels and tag not in unasked and tag != "00080005" and not holds_bulk(held)
    }
    requests = metadata.get(_REQUEST)
    if Level.SERIES in levels and requests and not holds_bulk(requests):
        items = requests.get("Value") or []
        if items != _requests(metadata):
            found[_REQUEST] = value("SQ", *items)  # the row has the two attributes of PS3.18 Table 10.6.3-4 alone
    return orjson.dumps(found)


def holds_bulk(held: Any) -> bool:
    """Whether the JSON of an attribute refers to bulk data, at any depth."""
    waiting = [held]
    while waiting:
        match waiting.pop():
            case BulkRef():
                return True
            case dict() as inner:
                if isinstance(inner.get("BulkDataURI"), str):
                    return True
                waiting += inner.values()
            case list() as inner:
                waiting += inner
    return False


def dumps(attributes: Mapping[str, Any], path: str | None) -> bytes:
    """The attributes as one JSON object, ascending by tag, with RetrieveURL = 0xFF and `path` unless that is None."""
    held = {tag: entry for tag, entry in attributes.items() if tag != RETRIEVE_URL}
    if path is not None:
        held[RETRIEVE_URL] = orjson.Fragment(b'{"vr":"UR","Value":["%b%b"]}' % (HERE, path.encode("ascii")))
    return orjson.dumps(dict(sorted(held.items())))


def recounted(row: bytes, tag: str, count: int) -> bytes:
    """A stored row with another number in one of its counts: what an arriving instance changes of its series."""
    start = b'"%b":{"vr":"IS","Value":[' % tag.encode("ascii")  # no text holds this: its quotes would be escaped
    at = row.index(start) + len(start)
    return b"%b%d%b" % (row[:at], count, row[row.index(b"]", at) :])


def names_classes(row: bytes, classes: Iterable[str]) -> bool:
    """Whether a study's row has all of them among its SOP Classes in Study."""
    at = row.index(_CLASSES_START)
    there = row[at : row.index(b"}", at)]  # UIDs: no brace among them
    return all(b'"%b"' % each.encode("ascii") in there for each in classes)


_CLASSES_START = b'"%b":' % SOP_CLASSES.encode("ascii")


def loads(row: bytes) -> dict[str, Any]:
    """The attributes of a stored row; RetrieveURL without its service root."""
    found: dict[str, Any] = orjson.loads(row.replace(HERE, b""))
    return found


def study_path(study_instance_uid: str) -> str:
    """The path of a study's resource below the service root (PS3.18 section 10.1)."""
    return f"/studies/{study_instance_uid}"


def series_path(study_instance_uid: str, series_instance_uid: str) -> str:
    """The path of a series' resource."""
    return f"/studies/{study_instance_uid}/series/{series_instance_uid}"


def instance_path(study_instance_uid: str, series_instance_uid: str, sop_instance_uid: str) -> str:
    """The path of an instance's resource."""
    return f"/studies/{study_instance_uid}/series/{series_instance_uid}/instances/{sop_instance_uid}"


def value(vr: str, *values: Any) -> dict[str, Any]:
    """The JSON of an attribute with these values."""
    return {"vr": vr, "Value": list(values)} if values else {"vr": vr}


def study_row(
    attributes: dict[str, Any], uid: str, modalities: list[str], classes: list[str], counts: tuple[int, int]
) -> bytes:
    """The row of a study with what the archive computes: `counts` are its series and instances."""
    attributes["00080056"] = value("CS", "ONLINE")
    attributes["00080061"] = value("CS", *sorted(modalities))
    attributes["00080062"] = value("UI", *sorted(classes))
    attributes["0020000D"] = value("UI", uid)
    attributes["00201206"] = value("IS", counts[0])
    attributes["00201208"] = value("IS", counts[1])
    return dumps(attributes, study_path(uid))


def series_row(attributes: dict[str, Any], study_instance_uid: str, uid: str, instances: int) -> bytes:
    """The row of a series with what the archive computes."""
    attributes["00080056"] = value("CS", "ONLINE")
    attributes["0020000D"] = value("UI", study_instance_uid)
    attributes["0020000E"] = value("UI", uid)
    attributes["00201209"] = value("IS", instances)
    return dumps(attributes, series_path(study_instance_uid, uid))


Written = dict[str, tuple[Any, bytes]]
"""By tag: the entry that was written last, and the member of a row that came of it; empty where it has none."""

_COMPUTED = ("00080056", RETRIEVE_URL, "00083002", "0020000D", "0020000E")


@cache
def _members() -> tuple[tuple[str, str, bool], ...]:
    """Tag, VR and whether it is there even without a value, of what an instance itself tells for its row."""
    sourced = {a.tag: (a.tag, a.vr, a.returned is Returned.ALWAYS) for a in _default(Level.IMAGE) if a.tag != _REQUEST}
    return tuple(row for tag, row in sorted(sourced.items()) if tag not in _COMPUTED)


def instance_row(
    metadata: Metadata, study: str, series: str, sop: str, transfer_syntax_uid: str, before: Written | None = None
) -> bytes:
    """The row of an instance; `before` is the caller's memory, as that of `columns`."""
    known = {} if before is None else before
    members = [
        b'"00080056":{"vr":"CS","Value":["ONLINE"]}',
        b'"00081190":{"vr":"UR","Value":["%b%b"]}' % (HERE, instance_path(study, series, sop).encode("ascii")),
        b'"00083002":{"vr":"UI","Value":["%b"]}' % transfer_syntax_uid.encode("ascii"),
        b'"0020000D":{"vr":"UI","Value":["%b"]}' % study.encode("ascii"),
        b'"0020000E":{"vr":"UI","Value":["%b"]}' % series.encode("ascii"),
    ]
    for tag, vr, always in _members():
        held = metadata.get(tag)
        last = known.get(tag)
        if last is None or last[0] is not held:
            last = known[tag] = held, _member(metadata, tag, vr, always)
        if last[1]:
            members.append(last[1])
    return b"{" + b",".join(sorted(members)) + b"}"  # their tags come first, and are in upper case


def instance_members(
    metadata: Metadata, study: str, series: str, transfer_syntax_uid: str, differing: Container[str]
) -> list[tuple[str, str, bytes | None, bool]]:
    """The members of an instance's row, ascending: tag, VR, and what is written whatever the instance.

    That is None for those that are `differing`, with whether they are there without a value, and for RetrieveURL.
    """
    fixed = {
        "00080056": ("CS", b'"00080056":{"vr":"CS","Value":["ONLINE"]}'),
        RETRIEVE_URL: ("UR", None),
        "00083002": ("UI", b'"00083002":{"vr":"UI","Value":["%b"]}' % transfer_syntax_uid.encode("ascii")),
        "0020000D": ("UI", b'"0020000D":{"vr":"UI","Value":["%b"]}' % study.encode("ascii")),
        "0020000E": ("UI", b'"0020000E":{"vr":"UI","Value":["%b"]}' % series.encode("ascii")),
    }
    found = [(tag, vr, written, True) for tag, (vr, written) in fixed.items()]
    for tag, vr, always in _members():
        found.append((tag, vr, None if tag in differing else _member(metadata, tag, vr, always), always))
    return sorted(found)


def _member(metadata: Metadata, tag: str, vr: str, always: bool) -> bytes:
    held = entry(metadata, tag, vr)
    if held is None or "Value" not in held:
        if not always:
            return b""
        held = {"vr": vr}
    return b'"%b":%b' % (tag.encode("ascii"), orjson.dumps(held))
