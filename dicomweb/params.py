"""The query parameters of a search (PS3.18 8.3.4) read into a `pacs.dicom.matching.Query`. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from pacs.dicom import dictionary
from pacs.dicom.attributes import LEVELS, Attribute, Level, by_keyword, by_tag, held, level_of
from pacs.dicom.matching import (
    ALL,
    PLAIN,
    UNMATCHED_VRS,
    All,
    Criterion,
    Item,
    MatchKey,
    Options,
    Query,
    Universal,
    combined,
    parse,
)
from pacs.errors import InvalidQuery

MAX_KEYS = 64
REMEMBERED_NAME = 64  # characters; a longer name is looked up each time
MAX_DIGITS = 9
MAX_RESULTS = 20_000  # of one answer; what remains is told in a Warning
MAX_WARNINGS = 16

_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_NEVER_MATCHED = frozenset({"00080005", "00081190"})  # the character set (PS3.4 C.2.2.2), and an address of this server
_OF_THE_ANSWER = frozenset({"accept", "charset"})  # PS3.18 8.3.3
_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,64}")
FLAGS = ("fuzzymatching", "emptyvaluematching", "multiplevaluematching")


def query(
    pairs: Sequence[tuple[str, str]], level: Level, within: Sequence[tuple[str, str]] = ()
) -> tuple[Query, tuple[str, ...]]:
    """What is searched for at `level`, and warnings about what was asked for and is not done.

    `pairs` are the decoded parameters, `within` the keyword and UID of each parent that the path names. Names that
    are no attribute, as keys or to be included, and attributes that no key can match here are ignored with a warning:
    whoever misspelt one would else take everybody's studies for those of one patient. A date and its time that are
    both ranges are one range; several values ask for any of them, or for all of them with multiplevaluematching.
    Raises InvalidQuery for a value without meaning and for anything given twice.
    """
    keys: list[MatchKey] = []
    seen: set[str] = set()
    items: dict[str, dict[str, Criterion]] = {}
    beside: dict[str, dict[str, Criterion]] = {}  # keys in sequences that columns answer
    include: set[str] = set()
    everything = False
    once: dict[str, str] = {}
    warnings: list[str] = []
    options = _options(pairs)
    for name, value in pairs:
        if name == "includefield":
            everything = everything or "all" in fields_of(value)
            include |= {tag for field in fields_of(value) if (tag := _tag(field)) is not None}
            warnings += unknown_fields(value)
        elif name in ("limit", "offset", *FLAGS):
            if name in once:
                raise InvalidQuery("a parameter is given more than once", about=name)
            once[name] = value
        else:
            path, attribute = _known_key(name, level) if len(name) <= REMEMBERED_NAME else _key(name, level)
            if path is not None and attribute is None and value.strip(" ") in ("", "*"):
                include.add(path[:8])  # universal matching (PS3.4 C.2.2.2.3): of a sequence, too
            elif attribute is None or path is None:
                warnings += ignored(name, _tag(name) if path is None else path)
            elif path in seen:
                raise InvalidQuery("a matching key is given more than once", about=attribute.keyword)
            else:
                seen.add(path)
                criterion = parse(attribute, value, options)
                include.add(path[:8])
                if "." in path and not attribute.matchable:
                    items.setdefault(path[:8], {})[path[9:]] = criterion
                else:
                    keys.append(MatchKey(attribute, criterion))
                    if "." in path:
                        beside.setdefault(path[:8], {})[path[9:]] = criterion
    keys += [
        MatchKey(by_tag(tag) or held(tag, "SQ"), _item(inside | beside.get(tag, {}))) for tag, inside in items.items()
    ]
    if len(keys) > MAX_KEYS:
        raise InvalidQuery(f"more than {MAX_KEYS} matching keys")
    if once:
        for name in FLAGS:
            flag(once, name)
    fields_asked: frozenset[str] | Literal[All.ALL] = ALL if everything else frozenset(include)
    return (
        Query(
            level,
            (*(_parent(keyword, uid) for keyword, uid in within), *(combined(keys) if len(keys) > 1 else keys)),
            fields_asked,
            min(count("limit", once["limit"]), MAX_RESULTS) if "limit" in once else MAX_RESULTS,
            count("offset", once.get("offset", "0")),
        ),
        tuple(dict.fromkeys(warnings))[:MAX_WARNINGS],
    )


def _options(pairs: Sequence[tuple[str, str]]) -> Options:
    asked = [name for name in FLAGS if (name, "true") in pairs]
    if not asked:
        return PLAIN
    return Options(
        fuzzy="fuzzymatching" in asked, empty_values="emptyvaluematching" in asked,
        multiple_values="multiplevaluematching" in asked,
    )  # fmt: skip


def ignored(name: str, path: str | None) -> list[str]:
    """What is said of a parameter that no search matches by; nothing of those that are about the answer.

    `path` are the tags that its name was read as, None for a name that is no attribute.
    """
    if path is not None:
        return [f"The key {_spelled(path)} cannot be matched here and has been ignored."]
    if name in _OF_THE_ANSWER:
        return []
    return [f"{_shown('parameter', name)} is nothing that can be matched here and has been ignored."]


def fields_of(value: str) -> list[str]:
    """What an includefield names (8.3.4.3)."""
    return [field.strip() for field in value.split(",")]


def unknown_fields(value: str) -> list[str]:
    """What is said of an includefield that names what is no attribute; it is ignored."""
    unknown = [field for field in fields_of(value) if field not in ("", "all") and _tag(field) is None]
    return [f"{_shown('includefield', field)} is no attribute and has been ignored." for field in unknown]


def _shown(kind: str, name: str) -> str:
    return f"The {kind} {name}" if _PLAIN.fullmatch(name) else f"A{'n' if kind[0] == 'i' else ''} {kind}"


def _key(name: str, level: Level) -> tuple[str | None, Attribute | None]:
    """The path of tags that a name stands for, and the attribute as it is matched; None for what it is not."""
    path = _path(name)
    return path, None if path is None else _matched(path, level)


_known_key = lru_cache(maxsize=2048)(_key)


def _matched(path: str, level: Level) -> Attribute | None:
    """The attribute at a path of tags as it is matched at `level`, None where it cannot be."""
    row = by_tag(path)
    if row is not None and row.matchable:
        return row
    vr = dictionary.vr(int(path[-8:], 16))
    lower = LEVELS.index(level_of(path[:8])) > LEVELS.index(level)
    if vr is None or len(vr) > 2 or vr == "SQ" or vr in UNMATCHED_VRS or lower or path[:8] in _NEVER_MATCHED:
        return None
    if any(dictionary.vr(int(tag, 16)) != "SQ" for tag in path.split(".")[:-1]):
        return None
    return held(path[-8:], vr) if "." in path else row or held(path, vr)


def _item(inside: dict[str, Criterion]) -> Criterion:
    """One item that has all of these: paths below a sequence, and what each has to match."""
    direct = [(path, criterion) for path, criterion in inside.items() if "." not in path]
    deeper: dict[str, dict[str, Criterion]] = {}
    for path, criterion in inside.items():
        head, _, rest = path.partition(".")
        if rest:
            deeper.setdefault(head, {})[rest] = criterion
    keys = [*direct, *((head, _item(rest)) for head, rest in deeper.items())]
    wanted = tuple((tag, criterion) for tag, criterion in keys if not isinstance(criterion, Universal))
    return Item(wanted) if wanted else Universal()


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


def _path(name: str) -> str | None:
    """Tags joined by dots for keywords or tags joined by dots, None where one of them is neither."""
    tags = [_tag(part) for part in name.split(".")]
    return None if None in tags else ".".join(tag for tag in tags if tag is not None)


def _spelled(path: str) -> str:
    row = by_tag(path)
    return row.keyword if row is not None else path


def _tag(name: str) -> str | None:
    """Eight upper-case digits for a tag or keyword, of the outermost one where a path is given; None if it is none."""
    head = name.partition(".")[0]
    if _TAG.fullmatch(head):
        return head.upper()
    row = by_keyword(head)
    if row is not None:
        return row.tag
    tag = dictionary.tag(head)
    return None if tag is None else f"{tag:08X}"
