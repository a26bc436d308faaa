"""What data sets that arrive one after another have in common: it is read once, and compared from then on.

The instances of a series differ in a few elements. What is equal byte for byte, at the same place among the others,
means the same: runs of such elements are compared whole, and their metadata are taken as they are. Elements that were
seen to differ are read each time. Where anything else is found, the walk goes on as if nothing were known, so that the
metadata are always those of `pacs.dicom.walk` alone.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from pacs.dicom import json_model, patterns
from pacs.dicom.charsets import Decoder, decoder
from pacs.dicom.patterns import CHARACTER_SET, ELEMENT_COST, SERIES, Element, Known, Pattern, Tail, Whole
from pacs.dicom.transfer_syntaxes import TransferSyntax
from pacs.dicom.walk import DEFAULT_LIMITS, FIRST, WINDOW, Begun, BulkValue, Mark, Walk, plain_of
from pacs.errors import ArchiveError

_IN_VAIN: Final = 8
"""After so many data sets in a row that were not as expected, only every eighth is learned from."""

_SLACK: Final = 1024
"""So much longer the next header may be and still be found as expected."""

Walked = tuple[Walk, dict[str, Any], "bytes | None", Pattern | None]
"""The walk, the metadata, their JSON where most of it was there already, and the pattern that all of it follows."""


class Following(NamedTuple):
    """A data set from its first byte to its last, for who looks at the next ones in another way (`pacs.express`)."""

    syntax: TransferSyntax
    reach: int
    whole: Whole


class Repeats:
    """The memory of one thread: what the data set before looked like."""

    def __init__(self) -> None:
        self._known: Known | None = None
        self._in_vain = 0

    @property
    def following(self) -> Following | None:
        """What data sets that followed the pattern of the last one are like; None where none can be expected to."""
        known = self._known
        if known is None or known.whole is None:
            return None
        return Following(known.syntax, known.length + _SLACK, known.whole)

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
        source = bytes(data[: known.length + _SLACK])
        if known.whole is not None and (followed := _followed(known.whole, source, data, syntax)) is not None:
            self._in_vain = 0
            return followed
        begun, json, expected = _compared(known, source)
        if expected:
            self._in_vain = 0
        else:
            self._in_vain += 1
            if self._in_vain < _IN_VAIN or self._in_vain % _IN_VAIN == 0:
                return self._carried(known, source, data) or self._learned(data, syntax, known)
        walk = Walk(data, syntax, DEFAULT_LIMITS)
        count = len(begun.elements)
        metadata = walk.run(begun)
        if not walk.ordered:
            return walk, metadata, None, None
        if len(metadata) > count:
            json.append(json_model.dumps(dict(list(metadata.items())[count:]))[1:-1])
        return walk, metadata, b"{" + b",".join(json) + b"}", None

    def _carried(self, known: Known, source: bytes, data: memoryview) -> Walked | None:
        """The walk of a data set with other values in the same elements, which is learned from; None for others."""
        if known.whole is None or (elements := _elements(known, source)) is None:
            return None
        tail, metadata = known.whole.tail, {each.key: each.held for each in elements if each.held is not None}
        walk = _ended(tail, source, sum([len(each.raw) for each in elements]), data, known.syntax)
        if walk is None:
            return None
        charset, series = known.steps[-1].decode, metadata.get(SERIES)
        there = {each.key: each for each in elements}
        self._known = known = patterns.known(known.syntax, there, charset, series, known, tail)
        metadata[tail.path] = tail.entry
        return walk, metadata, None, None if known.whole is None else known.whole.pattern

    def _learned(self, data: memoryview, syntax: TransferSyntax, before: Known | None) -> Walked:
        marks: list[Mark] = []
        walk = Walk(data, syntax, DEFAULT_LIMITS, marks)
        metadata = walk.run()
        self._known = known = patterns.learned(walk, metadata, marks, before) if walk.ordered else None
        return walk, metadata, None, None if known is None or known.whole is None else known.whole.pattern


def _compared(known: Known, source: bytes) -> tuple[Begun, list[bytes], bool]:
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
        position, last, budget = stop, tag, budget - ELEMENT_COST - length
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
    if not source.startswith(known.run, position):
        return None
    walk = _ended(known.tail, source, position + len(known.run), data, syntax)
    if walk is None:
        return None
    json.append(known.json)
    return walk, elements, b"".join(json), known.pattern


def _ended(tail: Tail, source: bytes, position: int, data: memoryview, syntax: TransferSyntax) -> Walk | None:
    """The walk of a data set of which nothing but this tail comes from `position` on; None where it does not."""
    place = position + len(tail.header)
    if not source.startswith(tail.header, position) or place + tail.length != len(data):
        return None
    walk = Walk(data, syntax, DEFAULT_LIMITS)
    walk.pixels = BulkValue(tail.path, tail.vr, place, tail.length)
    walk.bulk.append(walk.pixels)
    return walk


def _header(syntax: TransferSyntax) -> Callable[..., Any]:
    limits = DEFAULT_LIMITS
    return plain_of(syntax.explicit, syntax.little_endian, limits.inline_bytes, limits.inline_text_bytes)[0]


def _elements(known: Known, source: bytes) -> list[Element] | None:
    """The elements of a data set that has those that are known, some with other values; None for any other."""
    found = list[Element]()
    position, decode = 0, decoder(())
    for step in known.steps:
        parts = step.elements
        if source.startswith(step.run, position):
            found += parts
            position, decode, parts = position + len(step.run), step.decode, ()
        for each in parts if step.differs is None else (*parts, known.elements[step.differs[1][1]]):
            same = source.startswith(each.raw, position)
            element = each if same else _again(each, source, position, decode, known.syntax)
            if element is None:
                return None
            found.append(element)
            position += len(element.raw)
            if element.tag == CHARACTER_SET:
                decode = step.decode
    return found if position <= WINDOW else None


def _again(before: Element, source: bytes, position: int, decode: Decoder, syntax: TransferSyntax) -> Element | None:
    """The element at `position`, of the tag and VR of the one before; None where it is another, or has to be judged."""
    raw, tag, key, row, _, _ = before
    if row is None:
        return _unusual(before, source, position, decode, syntax)
    _, _, name, read, limit = row
    try:
        first, length = _header(syntax)(source, position)
        stop = position + 8 + length
        if not raw.startswith(first) or length > limit or stop > len(source):
            return None
        values = read(source[position + 8 : stop], decode) if length else None
    except struct.error:
        return None
    entry = {"vr": name, "Value": values} if values else {"vr": name}
    return Element(source[position:stop], tag, key, row, entry, ELEMENT_COST + length)


class _Met(Exception):
    """A walk has come to the second element."""


class _UpToTheSecond(list[Mark]):
    """Ends a walk where the second top-level element begins."""

    def append(self, mark: Mark) -> None:
        super().append(mark)
        if len(self) > 1:
            raise _Met


def _unusual(before: Element, source: bytes, position: int, decode: Decoder, syntax: TransferSyntax) -> Element | None:
    """The same for a sequence, or whatever else only the walk reads."""
    if before.tag == CHARACTER_SET:
        return None
    marks = _UpToTheSecond()
    walk = Walk(memoryview(source)[position:], syntax, DEFAULT_LIMITS, marks)
    begun = Begun({}, 0, FIRST, decode, DEFAULT_LIMITS.metadata_bytes)
    try:
        walk.run(begun)
    except _Met:
        pass
    except ArchiveError:  # maybe it is only cut off here
        return None
    else:
        return None
    (_, tag, key, row, budget), (end, _, _, _, left) = marks
    if tag != before.tag or row is not None or walk.bulk or walk.either:
        return None
    return Element(source[position : position + end], tag, key, None, begun.elements.get(key), budget - left)
