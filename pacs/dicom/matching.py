"""Matching keys (PS3.4 C.2.2.2): how a key is read, how values are folded for comparing, and what matches what.

The index stores folded values and compares them in SQL (`pacs.index.search`); `matches` says the same in Python and
is the reference for it. Names of persons are compared without regard to case, each component group on its own, a
key of one group against any of the three; everything else is compared exactly, leading and trailing spaces aside.
What goes beyond that (fuzzy names, date and time as one, empty values) is asked for with `Options`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from math import isfinite
from typing import Any, Final, Literal

from pacs.dicom import dictionary, json_model, names
from pacs.dicom.attributes import DATE_AND_TIME, Attribute, Level
from pacs.errors import InvalidQuery

WILDCARD_VRS = frozenset(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"))
RANGE_VRS = frozenset(("DA", "TM", "DT"))
INTEGER_VRS = frozenset(("IS", "US"))
DECIMAL_VRS = frozenset(("DS", "FL", "FD", "SS", "SL", "UL", "SV", "UV"))
MULTIPLE_VRS = frozenset(("AE", "AS", "AT", "CS", "LO", "PN", "SH", "UC"))
"""Where several values of a key may ask for all of them (PS3.4 C.2.2.2.8)."""
UNMATCHED_VRS = frozenset(("AT", "OB", "OD", "OF", "OL", "OV", "OW", "UN"))
"""Values that are no text: keys of these are not matched."""

MAX_KEY_LENGTH = 4096
MAX_UIDS = 10_000
MAX_VALUES = 256

_OF_ONE_WORD = frozenset(("AE", "CS", "DA", "DS", "DT", "IS", "LO", "PN", "SH", "TM"))

_DA = re.compile(r"(\d{4})(\.?)(\d{2})\2(\d{2})")
_TM = re.compile(r"(\d{2})(?:(:?)(\d{2})(?:\2(\d{2})(?:\.(\d{1,6}))?)?)?")
_DT = re.compile(r"(\d{4})(?:(\d{2})(?:(\d{2})(?:(\d{2})(?:(\d{2})(?:(\d{2})(?:\.(\d{1,6}))?)?)?)?)?)?([+-]\d{4})?")
_UID = re.compile(r"[0-9.]{1,64}")
_INTEGER = re.compile(r"[+-]?\d{1,12}")


@dataclass(frozen=True, slots=True)
class Universal:
    """Every entity matches, also one without a value (PS3.4 C.2.2.2.3)."""


@dataclass(frozen=True, slots=True)
class Empty:
    """Entities whose attribute is empty or absent match (PS3.4 C.2.2.2.7)."""


@dataclass(frozen=True, slots=True)
class Single:
    """The folded value is equal (PS3.4 C.2.2.2.1); for VR PN the groups are joined by "="."""

    vr: str
    value: str | int | float


@dataclass(frozen=True, slots=True)
class Wildcard:
    """The folded value fits a pattern of `*` and `?` (PS3.4 C.2.2.2.4)."""

    vr: str
    pattern: str


@dataclass(frozen=True, slots=True)
class Range:
    """The folded value lies between the ends, both included; None is open (PS3.4 C.2.2.2.5)."""

    vr: str
    low: str | None
    high: str | None
    span: bool = field(default=False, compare=False)
    """Whether it is what one value of low precision covers ("0830"), and not a range that was asked for."""


@dataclass(frozen=True, slots=True)
class Moments:
    """A date and the `time` attribute beside it, as one, lie between the ends; None is open (PS3.4 C.2.2.2.5.4)."""

    time: Attribute
    low: tuple[str, str] | None
    high: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class Fuzzy:
    """The words of a name fit all of these patterns (`pacs.dicom.names`, PS3.4 C.2.2.2.1.1)."""

    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UIDList:
    """The UID is one of these (PS3.4 C.2.2.2.2)."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """One of several keys given as the values of one attribute matches: what the standard leaves undefined."""

    choices: tuple[Single | Wildcard | Range | Fuzzy | Empty, ...]


@dataclass(frozen=True, slots=True)
class AllOf:
    """Each of several keys given as the values of one attribute matches one of its values (PS3.4 C.2.2.2.8)."""

    choices: tuple[Single | Wildcard | Range | Fuzzy | Empty, ...]


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a sequence has attributes, by tag, that match all of these (PS3.4 C.2.2.2.6)."""

    keys: tuple[tuple[str, Criterion], ...]


Criterion = Universal | Empty | Single | Wildcard | Range | Moments | Fuzzy | UIDList | AnyOf | AllOf | Item


@dataclass(frozen=True, slots=True)
class Options:
    """What was agreed beyond plain matching (PS3.4 C.5.1.1, PS3.18 8.3.4): by negotiation, or by parameters."""

    fuzzy: bool = False
    date_and_time: bool = False
    empty_values: bool = False
    multiple_values: bool = False
    offset: str = ""
    """Timezone Offset From UTC of the request: what a DT key without an offset of its own is in."""


PLAIN: Final = Options()


class All(Enum):
    """The includefield value "all"."""

    ALL = "all"


ALL: Final = All.ALL


@dataclass(frozen=True, slots=True)
class MatchKey:
    """One attribute and what it has to match."""

    attribute: Attribute
    criterion: Criterion


@dataclass(frozen=True, slots=True)
class Query:
    """What to search for at which level, and what to return.

    `include` are tags of eight hex digits beyond those returned by default. `limit` None is no limit. `with_upper`
    says whether attributes of the levels above are returned too; None means where the key does not name the one
    study (and series) that is searched.
    """

    level: Level
    keys: tuple[MatchKey, ...] = ()
    include: frozenset[str] | Literal[All.ALL] = frozenset()
    limit: int | None = None
    offset: int = 0
    with_upper: bool | None = None


def parse(attribute: Attribute, text: str, options: Options = PLAIN) -> Criterion:
    """What a key's text asks for, by the VR of its attribute; `text` may hold several values joined by a backslash.

    Several values ask for any of them, which without an agreement would have no meaning; where multiple value matching
    was agreed, all of them have to be there, if the attribute can have several (PS3.4 C.2.2.2.8).

    Raises InvalidQuery, naming the attribute, for what has no meaning: a wildcard where the VR allows none, half a
    date, a letter in a UID.
    """
    text = text.strip(" \0")
    if not text:
        return Universal()
    if options.empty_values and text == '""':
        return Empty()
    if text == "*":
        # PS3.4 C.2.2.2.4: equivalent to universal matching. Other VRs have no wildcards, but no value "*" either.
        return Universal()
    if (
        not text.isprintable()
        and any(unicodedata.category(c) == "Cc" for c in text)
        and attribute.vr not in ("LT", "ST", "UT")
    ):
        raise _invalid(attribute, "control characters")
    if attribute.vr in _OF_ONE_WORD and text.isalnum() and text.isascii() and len(text) <= MAX_KEY_LENGTH:
        return _parse_one(attribute, text, options)  # nothing in it could separate values
    if attribute.vr == "UI":
        uids = tuple(dict.fromkeys(part for each in re.split(r"[\\,]", text) if (part := each.strip(" \0"))))
        if len(uids) > MAX_UIDS:
            raise _invalid(attribute, f"more than {MAX_UIDS} UIDs")
        if not all(map(_UID.fullmatch, uids)):
            raise _invalid(attribute, "not a UID or a list of them")
        return UIDList(uids) if uids else Universal()
    if len(text) > MAX_KEY_LENGTH:
        raise _invalid(attribute, f"longer than {MAX_KEY_LENGTH} characters")
    if attribute.vr == "SQ":
        raise _invalid(attribute, "a sequence is matched by its items")
    # A comma cannot occur in a Code String, and web clients send lists of modalities with it.
    parts = (
        [text]
        if attribute.vr in ("LT", "ST", "UT", "UR")
        else re.split(r"[\\,]" if attribute.vr == "CS" else r"\\", text)
    )
    if len(parts) > MAX_VALUES:
        raise _invalid(attribute, f"more than {MAX_VALUES} values")
    choices = [_parse_one(attribute, part.strip(" "), options) for part in parts if part.strip(" ")]
    if not choices or any(isinstance(choice, Universal) for choice in choices):
        return Universal()
    several = tuple(c for c in choices if not isinstance(c, Universal))
    if len(several) == 1:
        return several[0]
    together = (
        options.multiple_values and attribute.vr in MULTIPLE_VRS and dictionary.multiple(int(attribute.tag[-8:], 16))
    )
    return AllOf(several) if together else AnyOf(several)


def _parse_one(
    attribute: Attribute, text: str, options: Options
) -> Universal | Empty | Single | Wildcard | Range | Fuzzy:
    vr = attribute.vr
    if options.empty_values and text == '""':
        return Empty()
    if vr in RANGE_VRS:
        return _parse_range(attribute, text, options.offset if vr == "DT" else "")
    if vr in INTEGER_VRS:
        if not _INTEGER.fullmatch(text):
            raise _invalid(attribute, "not a whole number")
        return Single(vr, int(text))
    if vr in DECIMAL_VRS:
        number = _decimal(text)
        if number is None:
            raise _invalid(attribute, "not a number")
        return Single(vr, number)
    folded = "=".join(_fold_group(group) for group in text.split("=")) if vr == "PN" else text
    if vr == "PN" and options.fuzzy and (fitting := names.patterns(text)):
        return Fuzzy(fitting)
    if vr in WILDCARD_VRS and ("*" in folded or "?" in folded):
        if not folded.strip("*="):
            return Universal()
        return Wildcard(vr, re.sub(r"\*+", "*", folded))
    if vr == "PN" and not folded.strip("="):
        return Universal()
    return Single(vr, folded)


def _parse_range(attribute: Attribute, text: str, offset: str) -> Single | Range:
    vr = attribute.vr
    value = _span(vr, text, offset)
    if value is not None:
        low, high = value
        return Single(vr, low) if low == high else Range(vr, low, high, span=True)
    for at in [i for i, c in enumerate(text) if c == "-"]:
        left, right = text[:at].strip(), text[at + 1 :].strip()
        first = _span(vr, left, offset) if left else (None, None)
        last = _span(vr, right, offset) if right else (None, None)
        if first is not None and last is not None and (left or right):
            return Range(vr, first[0], last[1])
    raise _invalid(
        attribute, {"DA": "not a date or range", "TM": "not a time or range"}.get(vr, "not a date-time or range")
    )


def _invalid(attribute: Attribute, why: str) -> InvalidQuery:
    return InvalidQuery(f"{attribute.keyword}: {why}", about=attribute.tag)


def _span(vr: str, text: str, offset: str = "") -> tuple[str, str] | None:
    """The first and last instant that a date, time or date-time of any precision covers, folded; None if it is none."""
    match vr:
        case "DA":
            found = _DA.fullmatch(text)
            if not found or not (1 <= int(found[3]) <= 12 and 1 <= int(found[4]) <= 31):
                return None
            return (found[1] + found[3] + found[4],) * 2
        case "TM":
            found = _TM.fullmatch(text)
            if not found:
                return None
            hour, minute, second, fraction = found[1], found[3], found[4], found[5]
            if int(hour) > 23 or int(minute or 0) > 59 or int(second or 0) > 60:
                return None
            first = f"{hour}{minute or '00'}{second or '00'}.{(fraction or '').ljust(6, '0')}"
            last = f"{hour}{minute or '59'}{second or '59'}.{(fraction or '').ljust(6, '9')}"
            return first, last
        case _:
            return _datetime_span(text, offset)


def _datetime_span(text: str, default_offset: str) -> tuple[str, str] | None:
    found = _DT.fullmatch(text)
    if not found:
        return None
    year, month, day, hour, minute, second, fraction, offset = found.groups()
    offset = offset or default_offset
    shift = timedelta(0)
    if offset:
        # PS3.5 6.2: the offset is -1200 to +1400; anything else after a minus is the end of a range.
        hours, minutes = int(offset[1:3]), int(offset[3:])
        if minutes > 59 or hours * 100 + minutes > (1200 if offset[0] == "-" else 1400):
            return None
        shift = timedelta(hours=hours, minutes=minutes) * (-1 if offset[0] == "-" else 1)
    try:
        first = datetime(
            int(year), int(month or 1), int(day or 1), int(hour or 0), int(minute or 0), min(int(second or 0), 59),
            int((fraction or "").ljust(6, "0")),
        )  # fmt: skip
        if fraction:
            last = first + timedelta(microseconds=10 ** (6 - len(fraction)) - 1)
        elif hour:
            step = timedelta(seconds=1) if second else timedelta(minutes=1) if minute else timedelta(hours=1)
            last = first + step - timedelta(microseconds=1)
        elif day:
            last = first + timedelta(days=1) - timedelta(microseconds=1)
        else:
            following = (first.year + 1, 1) if not month or month == "12" else (first.year, first.month + 1)
            last = first.replace(year=following[0], month=following[1]) - timedelta(microseconds=1)
        return tuple((t - shift).strftime("%Y%m%d%H%M%S.%f").rjust(21, "0") for t in (first, last))  # type: ignore[return-value]
    except (ValueError, OverflowError):
        return None


def _fold_group(text: str) -> str:
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return "^".join(component.strip(" ") for component in text.split("^")).rstrip("^")


def fold_name(text: str) -> tuple[str | None, str | None, str | None]:
    """The alphabetic, ideographic and phonetic group of a person's name, as they are compared; None where empty."""
    groups = [_fold_group(group.replace("\0", "")) or None for group in text.split("=")[:3]]
    groups += [None] * (3 - len(groups))
    return groups[0], groups[1], groups[2]


def fold(vr: str, text: str | None) -> str | int | None:
    """A value as it is compared and stored in the index; None where it is empty or has no meaning for its VR.

    Dates become YYYYMMDD, times HHMMSS.FFFFFF, date-times 14 digits and a fraction (in UTC where they have an
    offset), whole numbers integers. For VR PN use `fold_name`.
    """
    text = (text or "").replace("\0", "").strip(" ")
    if not text:
        return None
    if vr in RANGE_VRS:
        span = _span(vr, text)
        return None if span is None else span[0]
    if vr in INTEGER_VRS:
        return int(text) if _INTEGER.fullmatch(text) else None
    return text


def _decimal(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if isfinite(number) else None


def name_groups(key: str) -> list[tuple[tuple[int, ...], str]]:
    """Which component groups (0 to 2) a folded name key is compared with: any of those in each entry must fit it."""
    groups = key.split("=")
    if len(groups) == 1:
        return [((0, 1, 2), groups[0])]
    return [((at,), group) for at, group in enumerate(groups[:3]) if group.strip("*")]


def matches(criterion: Criterion, values: Sequence[str]) -> bool:
    """Whether an attribute with these values, as DICOM text, matches: the reference for the index."""
    match criterion:
        case Universal():
            return True
        case Empty():
            return not any(value.strip(" \0") for value in values)
        case AnyOf(choices):
            return any(matches(choice, values) for choice in choices)
        case AllOf(choices):
            return all(matches(choice, values) for choice in choices)
        case Fuzzy(patterns):
            kept = [found for each in values if (found := names.words(each))]
            return any(all(fits(pattern, found) for pattern in patterns) for found in kept)
        case UIDList(uids):
            return any(value.strip(" \0") in uids for value in values)
        case Single("PN", value):
            return any(_name_matches(str(value), each) for each in values)
        case Wildcard("PN", pattern):
            return any(_name_matches(pattern, each) for each in values)
        case Single(vr, value) if vr in DECIMAL_VRS:
            return any(_decimal(each) == value for each in values)
        case Single(vr, value):
            return any(fold(vr, each) == value for each in values)
        case Wildcard(vr, pattern):
            return any(fits(pattern, folded) for each in values if isinstance(folded := fold(vr, each), str))
        case Moments() | Item():
            raise TypeError("matched on attributes, not on the values of one")
        case Range(vr, low, high):
            return any(
                (low is None or low <= folded) and (high is None or folded <= high)
                for each in values
                if isinstance(folded := fold(vr, each), str)
            )


def matches_in(key: MatchKey, attributes: Mapping[str, Any]) -> bool:
    """Whether a data set in the DICOM JSON model matches, by its first value where it is a date beside a time."""
    tag, criterion = key.attribute.tag, key.criterion
    if isinstance(criterion, Moments):
        date = fold("DA", json_model.text(attributes, tag))
        time = fold("TM", json_model.text(attributes, criterion.time.tag))
        return date is not None and within(criterion, str(date), None if time is None else str(time))
    return _fits_at(tag, criterion, attributes)


def _fits_at(tag: str, criterion: Criterion, attributes: Mapping[str, Any]) -> bool:
    if isinstance(criterion, Item):
        held = (attributes.get(tag) or {}).get("Value") or ()
        return any(all(_fits_at(inner, each, item) for inner, each in criterion.keys) for item in held if item)
    if isinstance(criterion, Empty):
        return not any(json_model.texts(attributes, tag)) and not (attributes.get(tag) or {}).get("Value")
    return matches(criterion, json_model.texts(attributes, tag))


def within(moments: Moments, date: str, time: str | None) -> bool:
    """Whether a folded date and time lie between the ends. Without a time only the days between them are sure."""
    if time is None:
        return (moments.low is None or moments.low[0] < date) and (moments.high is None or date < moments.high[0])
    return (moments.low is None or moments.low <= (date, time)) and (
        moments.high is None or (date, time) <= moments.high
    )


def combined(keys: Iterable[MatchKey]) -> tuple[MatchKey, ...]:
    """The keys, with each date and its time as one where both ask for a range of the same form (PS3.4 C.2.2.2.5.4)."""
    by_tag = {key.attribute.tag: key for key in keys}
    for date_tag, time_tag in DATE_AND_TIME:
        date, time = by_tag.get(date_tag), by_tag.get(time_tag)
        if date is None or time is None:
            continue
        match date.criterion, time.criterion:
            case Range("DA", d1, d2, span=False), Range("TM", t1, t2, span=False) if (d1 is None) is (t1 is None) and (
                d2 is None
            ) is (t2 is None):
                low = (d1, t1) if d1 is not None and t1 is not None else None
                high = (d2, t2) if d2 is not None and t2 is not None else None
                by_tag[date_tag] = MatchKey(date.attribute, Moments(time.attribute, low, high))
                del by_tag[time_tag]
    return tuple(by_tag.values())


def _name_matches(key: str, value: str) -> bool:
    name = fold_name(value)
    return all(
        any(group is not None and fits(pattern, group) for group in (name[at] for at in places))
        for places, pattern in name_groups(key)
    )


def fits(pattern: str, text: str) -> bool:
    """Whether `text` fits a pattern of `*` (any characters) and `?` (one), in time of the product of their lengths."""
    p = t = 0
    star, mark = -1, 0
    while t < len(text):
        if p < len(pattern) and pattern[p] == "*":
            star, mark = p, t
            p += 1
        elif p < len(pattern) and pattern[p] in ("?", text[t]):
            p += 1
            t += 1
        elif star >= 0:
            mark += 1
            p, t = star + 1, mark
        else:
            return False
    return all(c == "*" for c in pattern[p:])
