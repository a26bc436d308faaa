"""Which codes a reader may choose instead of the one that a finding has: lists of PS3.16, and the report's own codes.

The lists are those that readers choose from; a code that stands in none of them can still be given by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

from pydicom.sr.codedict import codes

from analysis.api import Code
from analysis.reports_read import CODE, Item, concept, groups
from analysis.verdict_fields import said

BIRADS = (
    Code("397138000", "SCT", "0 - Incomplete - Need additional imaging evaluation +/- priors"),
    Code("397140005", "SCT", "1 - Negative"),
    Code("397141009", "SCT", "2 - Benign"),
    Code("397143007", "SCT", "3 - Probably Benign"),
    Code("397144001", "SCT", "4 - Suspicious"),
    Code("MA.II.A.5.4A", "BI", "4A - Low suspicion"),
    Code("MA.II.A.5.4B", "BI", "4B - Intermediate suspicion"),
    Code("MA.II.A.5.4C", "BI", "4C - Moderate suspicion"),
    Code("397145000", "SCT", "5 - Highly suggestive of malignancy"),
    Code("MA.II.A.5.6", "BI", "6 - Known biopsy proven malignancy"),
)
"""CID 6027, Assessment from BI-RADS, which pydicom does not carry."""

CONTEXT_GROUPS = (
    # What was done, how sure, how severe
    6047, 6042, 222, 3716, 7036,
    # Assessments: CAD-RADS, C-RADS, PI-RADS, RECIST
    3020, 6200, 6324, 6328, 6329, 6330, 6331, 6332, 6144, 6145,
    # Mammography: composition, shape, margin, density, calcifications, findings
    6000, 6004, 6006, 6008, 6010, 6012, 6014, 6016,
    # Chest and colon: border, contents, opacity, texture, calcification, place
    6101, 6106, 6114, 6119, 6120, 6122, 6123, 6124, 6128, 6132, 6203, 6209, 6210,
    # Side; category and type of what was segmented
    244, 7150, 7166, 7191,
)  # fmt: skip
"""The lists of PS3.16 that a value is looked for in; the shortest that has it is the one to choose from."""

ASSESSMENTS = {("111005", "DCM"), ("111413", "DCM")}  # Assessment Category, Overall Assessment (TID 4206, 4210)


def choices(name: Code, value: Code, report: Sequence[Item]) -> list[Code]:
    """What may stand for `value` under that name, `value` among them; without a list only what `report` has there."""
    found: dict[tuple[str, str], Code] = {}
    listed = _list_of(value.value, value.scheme)
    if not listed and (name.value, name.scheme) in ASSESSMENTS:
        listed = BIRADS
    for each in (value, *_elsewhere(name, report), *listed):
        found.setdefault((each.value, each.scheme), each)
    if not listed:
        return list(found.values())
    order = {(each.value, each.scheme): number for number, each in enumerate(listed)}
    return sorted(found.values(), key=lambda each: order.get((each.value, each.scheme), -1))


def _elsewhere(name: Code, report: Sequence[Item]) -> Iterator[Code]:
    """What other findings of the report have under that name."""
    for each in report:
        for group in groups(each):
            for item in said(group):
                code = concept(item.item, CODE)
                if item.kind == "code" and code is not None and (item.name.value, item.name.scheme) == (
                    name.value, name.scheme,
                ):  # fmt: skip
                    yield code


@cache
def _list_of(value: str, scheme: str) -> tuple[Code, ...]:
    """The shortest list that has the code, () where none has."""
    having = [each for each in _lists() if any((code.value, code.scheme) == (value, scheme) for code in each)]
    return min(having, key=len, default=())


@cache
def _lists() -> tuple[tuple[Code, ...], ...]:
    found: list[tuple[Code, ...]] = [BIRADS]
    for number in CONTEXT_GROUPS:
        members = getattr(codes, f"CID{number}").concepts.values()
        made = [Code(each.value, each.scheme_designator, each.meaning) for each in members]
        found.append(tuple(sorted(made, key=lambda each: (each.meaning.casefold(), each.value))))
    return tuple(found)
