"""Whether a test of a DICOM attribute holds for its values: functions of values, whatever strangers put into them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from analysis.api import When
from pacs.dicom import dictionary
from pacs.errors import InvalidInput


def tags_of(path: str) -> list[int]:
    """The tags of keywords of PS3.6 (or of eight hexadecimal digits each) joined by dots. Raises InvalidInput."""
    found = []
    for word in path.split("."):
        tag = int(word, 16) if re.fullmatch("[0-9A-Fa-f]{8}", word) else dictionary.tag(word)
        if tag is None:
            raise InvalidInput(f"{word!r} is no keyword of PS3.6")
        found.append(tag)
    return found


LONGEST_MATCHED = 128
"""Characters of a value that a regular expression is shown: texts come from strangers, and may be long."""


def holds(test: When, values: Sequence[str]) -> bool:
    """Whether the test holds for the values of its attribute; numbers and ages compare as numbers.

    Besides "contains" (any value) and "exists", what is tested is the first value; without one, nothing holds but "ne"
    and the absence that "exists" with False asks for.
    """
    present = [value for value in values if value != ""]
    if test.op == "exists":
        return bool(present) == (test.value is not False)
    if not present:
        return test.op == "ne"
    match test.op:
        case "eq":
            return _equal(present[0], test.value)
        case "ne":
            return not _equal(present[0], test.value)
        case "in":
            return any(_equal(present[0], each) for each in test.value)
        case "contains":
            return any(_equal(value, test.value) for value in present)
        case "like":
            return like(str(test.value), present[0])
        case "matches":
            return re.fullmatch(str(test.value), present[0][:LONGEST_MATCHED]) is not None
    number, bound = _number(present[0]), _number(str(test.value))
    if number is None or bound is None:
        return False
    match test.op:
        case "lt":
            return number < bound
        case "le":
            return number <= bound
        case "gt":
            return number > bound
    return number >= bound


_AGE = re.compile("([0-9]{3})([DWMY])")
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}


def _number(value: str) -> float | None:
    """The number that a value says: of an age (VR AS, PS3.5 6.2) in years."""
    age = _AGE.fullmatch(value)
    try:
        return float(value) if age is None else int(age[1]) * _YEARS[age[2]]
    except ValueError:
        return None


def like(pattern: str, value: str) -> bool:
    """Whether the value matches a pattern with * and ? (PS3.4 C.2.2.2.4), whatever the case; linear in both."""
    pattern, value = pattern.casefold(), value.casefold()
    at = in_pattern = 0
    star, resume = -1, 0
    while at < len(value):
        if in_pattern < len(pattern) and pattern[in_pattern] in ("?", value[at]) and pattern[in_pattern] != "*":
            at, in_pattern = at + 1, in_pattern + 1
        elif in_pattern < len(pattern) and pattern[in_pattern] == "*":
            star, resume = in_pattern, at
            in_pattern += 1
        elif star >= 0:
            resume += 1
            at, in_pattern = resume, star + 1
        else:
            return False
    return all(char == "*" for char in pattern[in_pattern:])


def _equal(value: str, wanted: Any) -> bool:
    if isinstance(wanted, bool) or not isinstance(wanted, int | float):
        return value == str(wanted)
    try:
        return float(value) == wanted
    except ValueError:
        return False
