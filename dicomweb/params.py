"""The query parameters of a search (PS3.18 8.3.4) read into a `pacs.dicom.matching.Query`. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from pydicom.datadict import tag_for_keyword

from pacs.dicom.attributes import Attribute, Level, by_keyword, by_tag
from pacs.dicom.matching import ALL, All, MatchKey, Query, parse
from pacs.errors import InvalidQuery

MAX_KEYS = 64
MAX_DIGITS = 9
MAX_RESULTS = 20_000  # of one answer; what remains is told in a Warning

_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_NOT_SUPPORTED = "The {} parameter is not supported. Only literal matching has been performed."


def query(
    pairs: Sequence[tuple[str, str]], level: Level, within: Sequence[tuple[str, str]] = ()
) -> tuple[Query, tuple[str, ...]]:
    """What is searched for at `level`, and warnings about what was asked for and is not done.

    `pairs` are the decoded parameters, `within` the keyword and UID of each parent that the path names. Names that
    are no attribute are ignored; attributes that no key can match here are ignored with a warning. Raises InvalidQuery
    for a value without meaning and for anything given twice.
    """
    keys: dict[str, MatchKey] = {}
    include: set[str] = set()
    everything = False
    once: dict[str, str] = {}
    warnings: list[str] = []
    empty_values = ("emptyvaluematching", "true") in pairs
    for name, value in pairs:
        if name == "includefield":
            fields = [field.strip() for field in value.split(",")]
            everything = everything or "all" in fields
            include |= {tag for field in fields if (tag := _tag(field)) is not None}
        elif name in ("limit", "offset", "fuzzymatching", "emptyvaluematching", "multiplevaluematching"):
            if name in once:
                raise InvalidQuery("a parameter is given more than once", about=name)
            once[name] = value
        else:
            attribute = _attribute(name)
            if attribute is None:
                tag = _tag(name)
                if tag is not None:
                    warnings.append(f"The key {tag} is not supported and has been ignored.")
            elif not attribute.matchable:
                warnings.append(f"The key {attribute.keyword} cannot be matched here and has been ignored.")
            elif attribute.tag in keys:
                raise InvalidQuery("a matching key is given more than once", about=attribute.keyword)
            else:
                criterion = parse(attribute, value, empty_value_matching=empty_values)
                keys[attribute.tag] = MatchKey(attribute, criterion)
                include.add(attribute.tag[:8])
    if len(keys) > MAX_KEYS:
        raise InvalidQuery(f"more than {MAX_KEYS} matching keys")
    if flag(once, "multiplevaluematching"):
        warnings.append(_NOT_SUPPORTED.format("multiplevaluematching"))
    flag(once, "emptyvaluematching")
    fields_asked: frozenset[str] | Literal[All.ALL] = ALL if everything else frozenset(include)
    return (
        Query(
            level,
            (*(_parent(keyword, uid) for keyword, uid in within), *keys.values()),
            fields_asked,
            min(count("limit", once["limit"]), MAX_RESULTS) if "limit" in once else MAX_RESULTS,
            count("offset", once.get("offset", "0")),
            flag(once, "fuzzymatching"),
        ),
        tuple(warnings),
    )


def count(name: str, value: str) -> int:
    """A non-negative whole number (PS3.18 8.3.4.4: uint). Raises InvalidQuery."""
    if not (value.isascii() and value.isdecimal()) or len(value) > MAX_DIGITS:
        raise InvalidQuery(f"{name} is no unsigned integer", about=name)
    return int(value)


def flag(given: dict[str, str], name: str) -> bool:
    """A parameter that is "true" or "false", false where it is absent. Raises InvalidQuery."""
    value = given.get(name, "false")
    if value not in ("true", "false"):
        raise InvalidQuery(f"{name} is neither true nor false", about=name)
    return value == "true"


def _parent(keyword: str, uid: str) -> MatchKey:
    attribute = by_keyword(keyword)
    assert attribute is not None
    return MatchKey(attribute, parse(attribute, uid))


def _attribute(name: str) -> Attribute | None:
    """The row of a keyword or tag, or of several joined by dots in either form."""
    row = by_keyword(name)
    if row is not None:
        return row
    tags = [_tag(part) for part in name.split(".")]
    return None if None in tags else by_tag(".".join(tag for tag in tags if tag is not None))


def _tag(name: str) -> str | None:
    """Eight upper-case digits for a tag or keyword, of the outermost one where a path is given; None if it is none."""
    head = name.partition(".")[0]
    if _TAG.fullmatch(head):
        return head.upper()
    row = by_keyword(head)
    if row is not None:
        return row.tag
    tag = tag_for_keyword(head) if head else None  # the dictionary has a nameless entry
    return None if tag is None else f"{tag:08X}"
