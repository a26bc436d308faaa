"""What data sets that arrive one after another have in common: it is read once, and compared from then on.

The instances of a series differ in a few elements. What is equal byte for byte, at the same place among the others,
means the same: runs of such elements are compared whole, and their metadata are taken as they are. Elements that were
seen to differ are read each time. Where anything else is found, the walk goes on as if nothing were known, so that the
metadata are always those of `pacs.dicom.walk` alone.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, NamedTuple

from pacs.dicom import json_model
from pacs.dicom.charsets import Decoder, decoder
from pacs.dicom.transfer_syntaxes import TransferSyntax
from pacs.dicom.walk import DEFAULT_LIMITS, FIRST, WINDOW, Begun, BulkValue, Mark, Row, Walk, plain_of

_CHARACTER_SET: Final = 0x00080005
_SERIES: Final = "0020000E"
_IN_VAIN: Final = 8
"""After so many data sets in a row that were not as expected, only every eighth is learned from."""

_SLACK: Final = 1024
"""So much longer the next header may be and still be found as expected."""

_COST: Final = DEFAULT_LIMITS.metadata_bytes // DEFAULT_LIMITS.elements
"""What an element takes of the budget besides its length. A window full of them is far from taking all."""


@dataclass(eq=False, slots=True)
class Pattern:
    """What data sets are all like: the same elements, and the same in them but for those that are `differing`.

    Whoever finds anything out of the others alone may keep it in `memory`, under a name of its own: it holds for the
    next data set that follows the pattern. Belongs to one thread.
    """

    differing: frozenset[str]
    memory: dict[str, Any] = field(default_factory=dict)


Walked = tuple[Walk, dict[str, Any], "bytes | None", Pattern | None]
"""The walk, the metadata, their JSON where most of it was there already, and the pattern that all of it follows."""


@dataclass(frozen=True, slots=True)
class _Step:
    """A run of elements that stay as they are, and behind it one that does not (None at the end)."""

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

    steps: tuple[tuple[bytes, bytes, str, str, Callable[..., Any], int, Decoder, bytes], ...]
    """A run; then of the element behind it its first bytes, digits, VR, reader and longest value; what reads its text;
    and the JSON up to its entry."""
    run: bytes
    json: bytes
    """The last run, and the JSON from there to the end."""
    elements: dict[str, Any]
    """In order; of those that differ, what the first one had."""
    tail: Tail
    pattern: Pattern


@dataclass(frozen=True, slots=True)
class _Known:
    """The header of a data set, in steps."""

    syntax: TransferSyntax
    steps: tuple[_Step, ...]
    reach: int
    """How much of the next data set is looked at: what is not touched need not come into the caches."""
    elements: dict[str, bytes]
    """All of it, element by element."""
    differing: frozenset[str]
    series: object
    whole: Whole | None
    """The same once more where steps and tail are all there is."""


class Following(NamedTuple):
    """A data set from its first byte to its last, for who looks at the next ones in another way (`pacs.express`)."""

    syntax: TransferSyntax
    reach: int
    whole: Whole


class Repeats:
    """The memory of one thread: what the data set before looked like."""

    def __init__(self) -> None:
        self._known: _Known | None = None
        self._in_vain = 0

    @property
    def following(self) -> Following | None:
        """What data sets that followed the pattern of the last one are like; None where none can be expected to."""
        known = self._known
        return None if known is None or known.whole is None else Following(known.syntax, known.reach, known.whole)

    def worth_it(self) -> None:
        """Told that others have followed what was learned: the next surprise is learned from, too."""
        self._in_vain = 0

    def walk(self, data: memoryview, syntax: TransferSyntax) -> Walked:
        """What `Walk` tells of the data set, inflated, under the default limits; raises what it raises.

        Values are shared with the metadata of other data sets: nobody may change them.
        """
        known = self._known
        if known is None or known.syntax is not syntax:
            return self._learned(data, syntax, None)
        source = bytes(data[: known.reach])
        if known.whole is not None and (followed := _followed(known.whole, source, data, syntax)) is not None:
            self._in_vain = 0
            return followed
        begun, json, expected = _compared(known, source)
        if expected:
            self._in_vain = 0
        else:
            self._in_vain += 1
            if self._in_vain < _IN_VAIN or self._in_vain % _IN_VAIN == 0:
                return self._learned(data, syntax, known)
        walk = Walk(data, syntax, DEFAULT_LIMITS)
        count = len(begun.elements)
        metadata = walk.run(begun)
        if not walk.ordered:
            return walk, metadata, None, None
        if len(metadata) > count:
            json.append(json_model.dumps(dict(list(metadata.items())[count:]))[1:-1])
        return walk, metadata, b"{" + b",".join(json) + b"}", None

    def _learned(self, data: memoryview, syntax: TransferSyntax, before: _Known | None) -> Walked:
        marks: list[Mark] = []
        walk = Walk(data, syntax, DEFAULT_LIMITS, marks)
        metadata = walk.run()
        self._known = known = _known(walk, metadata, marks, before) if walk.ordered else None
        return walk, metadata, None, None if known is None or known.whole is None else known.whole.pattern


def _compared(known: _Known, source: bytes) -> tuple[Begun, list[bytes], bool]:
    """How far the walk has come by what is known, the JSON of that, and whether all was as expected."""
    header = _header(known.syntax)
    elements: dict[str, Any] = {}
    json: list[bytes] = []
    position, last, decode, budget = 0, FIRST, decoder(()), DEFAULT_LIMITS.metadata_bytes
    expected = True
    for step in known.steps:
        stop = position + len(step.run)
        if source[position:stop] != step.run:
            expected = False
            break
        elements.update(step.held)
        if step.json:
            json.append(step.json)
        position, last, decode, budget = stop, step.last, step.decode, budget - step.cost
        if step.differs is None:
            break
        begins, (tag, key, name, read, limit) = step.differs
        try:
            first, length = header(source, position)
            start = position + 8
            stop = start + length
            expected = first == begins and length <= limit and stop <= len(source)
            values = read(source[start:stop], decode) if expected and length else None
        except struct.error:
            expected = False
        if not expected:
            break
        elements[key] = entry = {"vr": name, "Value": values} if values else {"vr": name}
        json.append(b'"%b":%b' % (key.encode("ascii"), json_model.dumps(entry)))
        position, last, budget = stop, tag, budget - _COST - length
    return Begun(elements, position, last, decode, budget), json, expected


def _followed(known: Whole, source: bytes, data: memoryview, syntax: TransferSyntax) -> Walked | None:
    """The walk of a data set that is what was expected, to its last byte; None for any other."""
    header = _header(syntax)
    elements, json, position = known.elements.copy(), list[bytes](), 0
    for run, begins, key, name, read, limit, decode, text in known.steps:
        if not source.startswith(run, position):
            return None
        try:
            first, length = header(source, position + len(run))
            start = position + len(run) + 8
            position = start + length
            if first != begins or length > limit or position > len(source):
                return None
            values = read(source[start:position], decode) if length else None
        except struct.error:
            return None
        elements[key] = entry = {"vr": name, "Value": values} if values else {"vr": name}
        json.append(text)
        json.append(json_model.dumps(entry))
    tail = known.tail
    place = position + len(known.run) + len(tail.header)
    if not source.startswith(known.run, position) or place + tail.length != len(data):
        return None
    if source[position + len(known.run) : place] != tail.header:
        return None
    json.append(known.json)
    walk = Walk(data, syntax, DEFAULT_LIMITS)
    walk.pixels = BulkValue(tail.path, tail.vr, place, tail.length)
    walk.bulk.append(walk.pixels)
    return walk, elements, b"".join(json), known.pattern


def _header(syntax: TransferSyntax) -> Callable[..., Any]:
    limits = DEFAULT_LIMITS
    return plain_of(syntax.explicit, syntax.little_endian, limits.inline_bytes, limits.inline_text_bytes)[0]


def _whole(steps: Sequence[_Step], tail: Tail) -> Whole | None:
    """Steps and tail as one; None where a step ends in what was not understood."""
    made = []
    elements: dict[str, Any] = {}
    json = b"{"
    for step in steps[:-1]:
        if step.differs is None:
            return None
        begins, (_, key, name, read, limit) = step.differs
        json += (step.json + b"," if step.json else b"") + b'"%b":' % key.encode("ascii")
        made.append((step.run, begins, key, name, read, limit, step.decode, json))
        elements |= step.held
        elements[key] = None
        json = b","
    last = steps[-1]
    json += (last.json + b"," if last.json else b"") + tail.json + b"}"
    elements |= last.held
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


def _known(walk: Walk, metadata: dict[str, Any], marks: Sequence[Mark], before: _Known | None) -> _Known:
    """The header that was just walked, as what the next one is compared with."""
    odd = _odd(walk, metadata)
    usable = list[tuple[int, int, Mark]]()
    for mark, following in pairwise((*marks, None)):
        end = len(walk.data) if following is None else following[0]
        if end > WINDOW or mark is None or mark[2] in odd:
            break
        usable.append((mark[0], end, mark))
    header = bytes(walk.data[: usable[-1][1]]) if usable else b""
    elements = {mark[2]: header[start:end] for start, end, mark in usable}
    series = metadata.get(_SERIES)
    differing = frozenset[str]()
    if before is not None:
        differing = before.differing
        if before.series == series:  # what differs between two series need not within one
            differing |= {key for key, raw in elements.items() if before.elements.get(key, raw) != raw}

    steps = list[_Step]()
    decode, last, run_from, budget = decoder(()), FIRST, 0, DEFAULT_LIMITS.metadata_bytes
    held: dict[str, Any] = {}
    tail: Tail | None = None

    def step(end: int, left: int, differs: tuple[bytes, Row] | None) -> None:
        members = json_model.dumps(held)[1:-1]
        steps.append(_Step(header[run_from:end], dict(held), members, budget - left, last, decode, differs))
        held.clear()

    for start, end, (_, tag, key, row, left) in usable:
        if key in differing:
            if row is None:
                step(start, left, None)
                break
            step(start, left, (header[start : start + (6 if walk.syntax.explicit else 4)], row))
            run_from, last, budget = end, tag, left - _COST - (end - start - 8)
            continue
        if key in metadata:
            held[key] = metadata[key]
        last = tag
        if tag == _CHARACTER_SET:
            decode = walk.decode
    else:
        step(len(header), next((mark[4] for mark in marks if mark[0] == len(header)), budget), None)
        tail = _tail(walk, metadata, len(header))
    whole = None if tail is None else _whole(steps, tail)
    return _Known(walk.syntax, tuple(steps), len(header) + _SLACK, elements, differing, series, whole)


def _odd(walk: Walk, metadata: dict[str, Any]) -> set[str]:
    """The elements that their bytes alone do not tell: bulk data has a place, and whether US or SS, others decide."""
    found = {value.path[:8] for value in walk.bulk}
    if walk.either:
        undecided = {id(entry) for entry, _, _ in walk.either}
        found |= {key for key, entry in metadata.items() if entry["vr"] == "SQ" or id(entry) in undecided}
    return found
