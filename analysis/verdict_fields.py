"""What of a finding a reader can correct, and what a reader has corrected: numbers, codes and texts of its group.

Pure functions of content items as DICOM JSON (PS3.16 TID 1410, 1411, 1501), whatever system wrote them. An item is
known by the kind of its value, its concept name, and its place among those of the same name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from analysis.api import Code
from analysis.reports_read import (
    CODE,
    CONTENT,
    FLOAT,
    MEASURED,
    NUMBER,
    TEXT,
    TRACKING_ID,
    UNITS,
    VALUE_TYPE,
    Item,
    concept,
    items,
)
from analysis.verdict_models import VERDICT, CodedValue, Correctable
from pacs.dicom import ups

Kind = Literal["number", "code", "text"]
KINDS: dict[str, Kind] = {"NUM": "number", "CODE": "code", "TEXT": "text"}
LISTS: dict[Kind, str] = {"number": "measurements", "code": "codes", "text": "texts"}
"""Where corrections of each kind stand in `NewVerdict`."""

COMMENT = ("121106", "DCM")
_VERDICT = (VERDICT.value, VERDICT.scheme)
_NO_FINDING = {
    (TRACKING_ID, "DCM"),
    ("111001", "DCM"),  # Algorithm Name
    ("111002", "DCM"),  # Algorithm Parameters
    ("111003", "DCM"),  # Algorithm Version
}
"""What a group says of how it came about: nothing that a reader could know better."""


@dataclass(frozen=True)
class Said:
    """One thing that a finding says. `position`: its place among items of the same kind and name, from 1."""

    kind: Kind
    name: Code
    position: int
    value: float | str | Code
    unit: str
    item: Item

    @property
    def key(self) -> tuple[Kind, str, str, int]:
        """What it is, whatever its value."""
        return self.kind, self.name.value, self.name.scheme, self.position


def said(group: Item) -> Iterator[Said]:
    """What a finding says that can be corrected, in order."""
    seen: Counter[tuple[str, str, str]] = Counter()
    for each in split(group)[0]:
        kind, name = KINDS.get(str(ups.value(each, VALUE_TYPE))), concept(each)
        if kind is None or name is None or _key(each) in _NO_FINDING:
            continue
        value, unit = _value(kind, each)
        if value is None:
            continue
        seen[kind, name.value, name.scheme] += 1
        yield Said(kind, name, seen[kind, name.value, name.scheme], value, unit, each)


def form(group: Item, own: Item | None, choices: Any) -> list[Correctable]:
    """The fields of a form for the group; `own` is the group as the reader has corrected it last.

    `choices(name, value)` are the codes that may stand there instead.
    """
    now = {each.key: each.value for each in said(own)} if own is not None else {}
    everything = list(said(group))
    several = Counter((each.kind, each.name.value, each.name.scheme) for each in everything)
    return [
        Correctable(
            kind=each.kind,
            code=each.name.value,
            scheme=each.name.scheme,
            meaning=each.name.meaning or each.name.value,
            position=each.position,
            of=several[each.kind, each.name.value, each.name.scheme],
            value=told(each.value),
            now=told(now.get(each.key, each.value)),
            unit=each.unit,
            choices=[_coded(code) for code in choices(each.name, each.value)] if isinstance(each.value, Code) else [],
        )
        for each in everything
    ]


def corrections(group: Item, before: Item) -> dict[str, list[dict[str, Any]]]:
    """What is another value in `group` than it was `before`, by the lists of `NewVerdict`, with what it was."""
    was = {each.key: each.value for each in said(before)}
    found: dict[str, list[dict[str, Any]]] = {}
    for each in said(group):
        if same(was.get(each.key), each.value):
            continue
        entry: dict[str, Any] = {"code": each.name.value, "scheme": each.name.scheme, "meaning": each.name.meaning}
        if each.position > 1:
            entry["position"] = each.position
        entry |= {"value": plain(each.value), "was": plain(was.get(each.key)), "unit": each.unit}
        found.setdefault(LISTS[each.kind], []).append(entry)
    return found


def without_verdict(group: Item) -> Item:
    """The group of a verdict's document without the verdict and its comment."""
    return {**group, CONTENT: {"vr": "SQ", "Value": split(group)[0]}}


def comment(group: Item) -> str:
    """What the reader remarks, "" for nothing; a comment of the finding itself stands before the verdict."""
    remarks = (each for each in split(group)[1] if _key(each) == COMMENT)
    return next((str(ups.value(each, TEXT) or "") for each in remarks), "")


def split(group: Item) -> tuple[list[Item], list[Item]]:
    """What the finding says, and what the reader says of it: the items from the verdict on."""
    found = items(group)
    at = next((number for number, each in enumerate(found) if _key(each) == _VERDICT), len(found))
    return found[:at], found[at:]


def same(one: float | str | Code | None, other: float | str | Code | None) -> bool:
    """Whether two values say the same; a code does by value and scheme, however its meaning is written."""
    if isinstance(one, Code) and isinstance(other, Code):
        return (one.value, one.scheme) == (other.value, other.scheme)
    return one == other


def told(value: float | str | Code) -> float | str | CodedValue:
    """A value as the API tells it."""
    return _coded(value) if isinstance(value, Code) else value


def _coded(code: Code) -> CodedValue:
    return CodedValue(value=code.value, scheme=code.scheme, meaning=code.meaning)


def plain(value: float | str | Code | None) -> Any:
    """A value as JSON."""
    if isinstance(value, Code):
        return {"value": value.value, "scheme": value.scheme, "meaning": value.meaning}
    return value


def _key(item: Item) -> tuple[str, str]:
    name = concept(item)
    return (name.value, name.scheme) if name is not None else ("", "")


def _value(kind: Kind, item: Item) -> tuple[float | str | Code | None, str]:
    if kind == "code":
        return concept(item, CODE), ""
    if kind == "text":
        return str(ups.value(item, TEXT) or "") or None, ""
    measured: Item = next(iter((item.get(MEASURED) or {}).get("Value") or ()), {})
    raw = ups.value(measured, FLOAT)
    raw = ups.value(measured, NUMBER) if raw is None else raw
    unit = concept(measured, UNITS)
    return (None if raw is None else float(raw)), unit.value if unit is not None and unit.value != "1" else ""
