"""Matching keys of a worklist search, on any attribute of a Workitem (PS3.4 C.2.2.2, CC.2.8)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.datadict import dictionary_VR

from pacs.dicom import ups
from pacs.errors import InvalidInput, InvalidQuery

_PATH = re.compile(r"[0-9A-F]{8}(\.[0-9A-F]{8})*")
_MOMENT = r"\d{4}(?:\d{2}){0,5}(?:\.\d{1,6})?(?:[+-](?:0\d|1[0-4])[0-5]\d)?"
_RANGE = re.compile(rf"(?P<low>{_MOMENT})?-(?P<high>{_MOMENT})?")


@dataclass(frozen=True)
class Criterion:
    """What one key asks for. `values`: the literal values of which one must be there, None for anything else."""

    values: tuple[str, ...] | None
    test: Callable[[str], bool]

    def matches(self, found: Sequence[Any]) -> bool:
        """Whether one of the values found in a Workitem matches."""
        return any(self.test(_text(each)) for each in found)


def parse(path: str, text: str) -> Criterion:
    """The criterion that a matching key states. Raises InvalidQuery for an unknown tag or a value out of form."""
    if _PATH.fullmatch(path) is None:
        raise InvalidQuery("a matching key is a path of tags", about=path[:64] if path.isprintable() else "")
    try:
        vr = dictionary_VR(int(path[-8:], 16))
    except KeyError:
        raise InvalidQuery("unknown attribute", about=path) from None
    if vr == "SQ":
        raise InvalidQuery("a sequence is matched by the attributes in its items", about=path)
    if vr == "UI":
        wanted = tuple(re.split(r"[,\\]", text))
        return Criterion(wanted, wanted.__contains__)
    if vr in ("DT", "DA"):
        return _between(path, text)
    if vr in ("DS", "IS", "FD", "FL", "US", "UL", "SS", "SL"):
        try:
            number = float(text)
        except ValueError:
            raise InvalidQuery("not a number", about=path) from None
        return Criterion(None, lambda found: float(found) == number)
    flags = re.IGNORECASE if vr == "PN" else 0
    if "*" in text or "?" in text or vr == "PN":
        pattern = re.compile("".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in text), flags | re.DOTALL)
        return Criterion(None, lambda found: pattern.fullmatch(found) is not None)
    return Criterion((text,), text.__eq__)


def _between(path: str, text: str) -> Criterion:
    spanned = _RANGE.fullmatch(text)
    if spanned is not None and not re.fullmatch(_MOMENT, text):
        low, high = spanned["low"], spanned["high"]
    elif re.fullmatch(_MOMENT, text):
        low = high = text
    else:
        raise InvalidQuery("not a date, date and time, or range of them", about=path)
    try:
        first = ups.from_dt(low) if low else float("-inf")
        last = _end(high) if high else float("inf")
    except InvalidInput as error:
        raise InvalidQuery(error.reason, about=path) from error
    return Criterion(None, lambda found: _within(found, first, last))


def _within(found: str, first: float, last: float) -> bool:
    try:
        return first <= ups.from_dt(found) < last
    except InvalidInput:
        return False


def _end(text: str) -> float:
    """The moment after the last one that a DT of that precision covers."""
    digits = re.split(r"[.+-]", text)[0]
    if "." in text or len(digits) >= 14:
        return ups.from_dt(text) + (1e-6 if "." in text else 1.0)
    rest = text[len(digits) :]
    if len(digits) >= 8:
        return ups.from_dt(text) + {8: 86_400.0, 10: 3_600.0, 12: 60.0}[len(digits)]
    year, month = int(digits[:4]), int(digits[4:6] or 12)
    return ups.from_dt(f"{year + month // 12:04d}{month % 12 + 1:02d}{rest}")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("Alphabetic", ""))
    return str(value)
