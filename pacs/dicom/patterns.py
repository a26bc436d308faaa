"""What is known of the data sets of a series: the elements of the last one, and the steps in which the next is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, NamedTuple

from pacs.dicom import json_model
from pacs.dicom.charsets import Decoder, decoder
from pacs.dicom.transfer_syntaxes import TransferSyntax
from pacs.dicom.walk import DEFAULT_LIMITS, FIRST, WINDOW, Mark, Row, Walk

CHARACTER_SET: Final = 0x00080005
SERIES: Final = "0020000E"
ELEMENT_COST: Final = DEFAULT_LIMITS.metadata_bytes // DEFAULT_LIMITS.elements
"""What an element takes of the budget besides its length. A window full of them is far from taking all."""


@dataclass(eq=False, slots=True)
class Pattern:
    """What data sets are all like: the same elements, and the same in them but for those that are `differing`.

    Whoever finds anything out of the others alone may keep it in `memory`, under a name of its own: it holds for the
    next data set that follows the pattern. Belongs to one thread.
    """

    differing: frozenset[str]
    memory: dict[str, Any] = field(default_factory=dict)


class Element(NamedTuple):
    """A top-level element as it came, and what it means."""

    raw: bytes
    tag: int
    key: str
    row: Row | None
    """How it is read, where it is a plain one."""
    held: dict[str, Any] | None
    """Its entry of the metadata; None for one that has none, a group length."""
    cost: int
    """What it takes of the budget."""


Follow = tuple[bytes, bytes, str, str, Callable[..., Any], int, Decoder, bytes]
"""A run; then of the element behind it its first bytes, digits, VR, reader and longest value; what reads its text; and
the JSON up to its entry."""


@dataclass(frozen=True, slots=True)
class Step:
    """A run of elements that stay as they are, and behind it one that does not (None at the end)."""

    elements: tuple[Element, ...]
    run: bytes
    held: dict[str, Any]
    json: bytes
    """The members of `held`, joined by commas."""
    cost: int
    """What the run takes of the budget."""
    last: int
    """The tag before what follows the run."""
    decode: Decoder
    """What reads text behind the run."""
    differs: tuple[bytes, Row] | None
    follow: Follow | None
    """The same once more, for `Whole`."""


@dataclass(frozen=True, slots=True)
class Tail:
    """Native pixel data that follow the last step and end the data set."""

    header: bytes
    """Their tag, VR and length."""
    path: str
    vr: str
    length: int
    entry: dict[str, Any]
    json: bytes


@dataclass(frozen=True, slots=True)
class Whole:
    """A data set from its first byte to its last, for the quick look that most of them stand."""

    steps: tuple[Follow, ...]
    run: bytes
    json: bytes
    """The last run, and the JSON from there to the end."""
    elements: dict[str, Any]
    """In order; of those that differ, what the first one had."""
    tail: Tail
    pattern: Pattern


@dataclass(frozen=True, slots=True)
class Known:
    """The header of a data set, in steps."""

    syntax: TransferSyntax
    steps: tuple[Step, ...]
    length: int
    """Of the header."""
    elements: dict[str, Element]
    """All of it, in order."""
    differing: frozenset[str]
    series: object
    whole: Whole | None
    """The same once more where steps and tail are all there is."""


def learned(walk: Walk, metadata: dict[str, Any], marks: Sequence[Mark], before: Known | None) -> Known:
    """The header of what was just walked, as what the next one is compared with; `before` is that of the last one."""
    odd = _odd(walk, metadata)
    elements: dict[str, Element] = {}
    header = 0
    for mark, following in pairwise((*marks, None)):
        if mark is None or mark[2] in odd:
            break
        (start, tag, key, row, budget), end = mark, len(walk.data) if following is None else following[0]
        if end > WINDOW:
            break
        cost = 0 if following is None else budget - following[4]
        elements[key] = Element(bytes(walk.data[start:end]), tag, key, row, metadata.get(key), cost)
        header = end
    return known(walk.syntax, elements, walk.decode, metadata.get(SERIES), before, _tail(walk, metadata, header))


def known(
    syntax: TransferSyntax, elements: dict[str, Element], charset: Decoder, series: object, before: Known | None,
    tail: Tail | None,
) -> Known:  # fmt: skip
    """What is known once a data set of these elements came, whose text `charset` reads and which `tail` ends."""
    differing = frozenset[str]()
    if before is not None:
        differing = before.differing
        if before.series == series:  # what differs between two series need not within one
            there = before.elements
            differing |= {key for key, each in elements.items() if key in there and there[key].raw != each.raw}
    steps, complete = _steps(syntax, elements, charset, differing, () if before is None else before.steps)
    whole = _whole(steps, tail) if complete and tail is not None else None
    length = sum(len(each.raw) for each in elements.values())
    return Known(syntax, steps, length, elements, differing, series, whole)


def _steps(
    syntax: TransferSyntax, elements: dict[str, Element], charset: Decoder, differing: frozenset[str],
    before: Sequence[Step],
) -> tuple[tuple[Step, ...], bool]:  # fmt: skip
    """The elements in steps, those of `before` where they are still right; whether that is all of them."""
    steps = list[Step]()
    decode, last, run = decoder(()), FIRST, list[Element]()

    def step(differs: tuple[bytes, Row] | None) -> None:
        parts, at = tuple(run), len(steps)
        same = before[at] if at < len(before) else None
        if (
            same is not None and same.elements == parts and same.differs == differs and same.last == last
            and same.decode is decode
        ):  # fmt: skip
            steps.append(same)
        else:
            steps.append(_step(parts, last, decode, differs, first=not at))
        run.clear()

    for each in elements.values():
        if each.key in differing:
            if each.row is None:
                step(None)
                return tuple(steps), False
            step((each.raw[: 6 if syntax.explicit else 4], each.row))
        else:
            run.append(each)
            if each.tag == CHARACTER_SET:
                decode = charset
        last = each.tag
    step(None)
    return tuple(steps), True


def _step(
    elements: tuple[Element, ...], last: int, decode: Decoder, differs: tuple[bytes, Row] | None, *, first: bool
) -> Step:
    run = b"".join([each.raw for each in elements])
    held = {each.key: each.held for each in elements if each.held is not None}
    json = json_model.dumps(held)[1:-1]
    follow = None
    if differs is not None:
        begins, (_, key, name, read, limit) = differs
        text = (b"{" if first else b",") + (json + b"," if json else b"") + b'"%b":' % key.encode("ascii")
        follow = run, begins, key, name, read, limit, decode, text
    return Step(elements, run, held, json, sum(each.cost for each in elements), last, decode, differs, follow)


def _whole(steps: Sequence[Step], tail: Tail) -> Whole:
    """Steps and tail as one."""
    made = list[Follow]()
    elements: dict[str, Any] = {}
    for step in steps:
        elements |= step.held
        if step.follow is not None:
            made.append(step.follow)
            elements[step.follow[2]] = None
    last = steps[-1]
    json = (b"," if made else b"{") + (last.json + b"," if last.json else b"") + tail.json + b"}"
    elements[tail.path] = tail.entry
    return Whole(tuple(made), last.run, json, elements, tail, Pattern(frozenset(key for _, _, key, *_ in made)))


def _tail(walk: Walk, metadata: dict[str, Any], at: int) -> Tail | None:
    """What ends the data set that was just walked, if native pixel data begin at `at` and do."""
    pixels = walk.pixels
    if pixels is None or walk.syntax.encapsulated or not at < pixels.offset <= at + 12:
        return None
    if pixels.offset + pixels.length != len(walk.data):
        return None
    entry = metadata[pixels.path]
    json = json_model.dumps({pixels.path: entry})[1:-1]
    return Tail(bytes(walk.data[at : pixels.offset]), pixels.path, pixels.vr, pixels.length, entry, json)


def _odd(walk: Walk, metadata: dict[str, Any]) -> set[str]:
    """The elements that their bytes alone do not tell: bulk data has a place, and whether US or SS, others decide."""
    found = {value.path[:8] for value in walk.bulk}
    if walk.either:
        undecided = {id(entry) for entry, _, _ in walk.either}
        found |= {key for key, entry in metadata.items() if entry["vr"] == "SQ" or id(entry) in undecided}
    return found
