"""Tests of DICOM attributes as people write them: "SliceThickness <= 1.5", "Modality = CT or Modality = PT".

    KEYWORD = VALUE        KEYWORD != VALUE       KEYWORD in VALUE, VALUE
    KEYWORD < NUMBER       (also <=, >, >=; ages such as 018Y count in years)
    KEYWORD like PATTERN   with * and ?, whatever the case
    KEYWORD matches REGEX  a regular expression of the whole value
    KEYWORD contains VALUE any of several values
    KEYWORD exists         KEYWORD missing

A value with spaces at its ends, or with " or " in it, stands in double quotes.
"""

from __future__ import annotations

import re
from re import _constants as parts  # type: ignore[attr-defined]  # what `re` parses an expression into
from re import _parser  # type: ignore[attr-defined]
from typing import Any

from analysis.api import AnyOf, When
from analysis.attribute_tests import LONGEST_MATCHED, tags_of
from pacs.errors import InvalidInput

_SYMBOLS = {"=": "eq", "!=": "ne", "<=": "le", ">=": "ge", "<": "lt", ">": "gt"}
_WORDS = ("in", "like", "matches", "contains", "exists", "missing")
_TEST = re.compile(
    r"\s*(?P<attribute>[A-Za-z0-9.]+)\s*(?:(?P<symbol>!=|<=|>=|=|<|>)|\s(?P<word>[a-z]+)\b)\s*(?P<value>.*?)\s*",
    re.DOTALL,
)
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_REPEATS = (parts.MAX_REPEAT, parts.MIN_REPEAT, parts.POSSESSIVE_REPEAT)
MOST_WAYS = (LONGEST_MATCHED + 1) ** 3
"""Three repetitions without a bound; a part of a second for the longest text."""


def parsed(text: str) -> When | AnyOf:
    """The test that the text says. Raises InvalidInput in words."""
    tests = tuple(_one(part) for part in _alternatives(text))
    return tests[0] if len(tests) == 1 else AnyOf(tests=tests)


def written(test: When | AnyOf) -> str:
    """The test as it is written, for people to read."""
    if isinstance(test, AnyOf):
        return " or ".join(written(each) for each in test.tests)
    if test.op == "exists":
        return f"{test.attribute} {'exists' if test.value is not False else 'missing'}"
    symbol = next((symbol for symbol, op in _SYMBOLS.items() if op == test.op), test.op)
    value = ", ".join(map(str, test.value)) if isinstance(test.value, list | tuple) else test.value
    return f"{test.attribute} {symbol} {value}"


def _alternatives(text: str) -> list[str]:
    """The parts between " or ", of which none is within quotes."""
    hidden = _QUOTED.sub(lambda found: "x" * len(found[0]), text)
    cuts = [(found.start(), found.end()) for found in re.finditer(r"\sor\s", hidden)]
    starts = [0, *(end for _, end in cuts)]
    ends = [*(start for start, _ in cuts), len(text)]
    return [text[start:end] for start, end in zip(starts, ends, strict=True)]


def _one(text: str) -> When:
    found = _TEST.fullmatch(text)
    op = "" if found is None else _SYMBOLS.get(found["symbol"] or "", found["word"] or "")
    if found is None or (found["word"] and op not in _WORDS):
        raise InvalidInput(
            f"{text.strip()!r} is no test: KEYWORD, then one of {', '.join((*_SYMBOLS, *_WORDS))}, then a value"
        )
    attribute, raw = found["attribute"], found["value"]
    tags_of(attribute)
    if op in ("exists", "missing"):
        if raw:
            raise InvalidInput(f"{text.strip()!r}: nothing follows {op!r}")
        return When(attribute=attribute, op="exists", value=op == "exists")
    if not raw:
        raise InvalidInput(f"{text.strip()!r}: a value is missing")
    value: Any = _value(raw) if op != "in" else [_value(part) for part in _listed(raw)]
    if op == "matches":
        _check_expression(value)
    if op in ("lt", "le", "gt", "ge") and not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)|\d{3}[DWMY]", value):
        raise InvalidInput(f"{text.strip()!r}: {value!r} is no number")
    return When.model_validate({"attribute": attribute, "op": op, "value": _plain(value)})


def _plain(value: Any) -> Any:
    """Numbers as numbers, so that 5.0 equals 5 (a value of VR DS or IS)."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return float(value) if isinstance(value, str) and re.fullmatch(r"-?\d+\.\d+", value) else value


def _listed(raw: str) -> list[str]:
    hidden = _QUOTED.sub(lambda found: "x" * len(found[0]), raw)
    cuts = [at for at, char in enumerate(hidden) if char == ","]
    return [raw[start:end].strip() for start, end in zip([0, *(c + 1 for c in cuts)], [*cuts, len(raw)], strict=True)]


def _value(raw: str) -> str:
    return re.sub(r"\\(.)", r"\1", raw[1:-1]) if _QUOTED.fullmatch(raw) else raw


def _check_expression(text: str) -> None:
    """Nothing, or InvalidInput for an expression that is none, or that some value would keep busy for ages."""
    try:
        tree = _parser.parse(text)
    except re.error as error:
        raise InvalidInput(f"{text!r} is no regular expression: {error}") from None
    if _ways(tree) > MOST_WAYS:
        raise InvalidInput(f"{text!r} has repetitions that some texts take ages with; make it simpler")


def _ways(tree: Any) -> int:
    """In how many ways a text can be tried against the expression at most, stopped soon after `MOST_WAYS`."""
    ways = 1
    for op, argument in tree:
        if op in _REPEATS:
            least, most, inner = argument
            most = min(int(most), LONGEST_MATCHED)
            each = _ways(inner)
            ways *= (most - min(int(least), most) + 1) * each**most
        elif op is parts.BRANCH:
            ways *= sum(map(_ways, argument[1]))
        else:
            for inner in _inner(argument):
                ways *= _ways(inner)
        if ways > MOST_WAYS:
            return ways
    return ways


def _inner(argument: Any) -> list[Any]:
    """The parsed expressions within an argument of one."""
    if isinstance(argument, _parser.SubPattern):
        return [argument]
    if isinstance(argument, list | tuple):
        return [found for each in argument for found in _inner(each)]
    return []
