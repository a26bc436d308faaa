"""Answers of several parts, some of which cannot be had: they are left out while the answer can still say so.

Then it is 206 instead of 200 (PS3.18 Table 8.5-1), with a Warning that names them. Where 200 has been said, the
connection ends without the end of the body, and who asks again is told at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from dicomweb.answers import BATCH_BYTES, Answer, Buffer
from dicomweb.calls import Call
from dicomweb.media_types import NotAcceptable
from dicomweb.multipart import Writer
from pacs.errors import ArchiveError, Corrupt, Undecodable, UnsupportedTransferSyntax

if TYPE_CHECKING:
    from pacs.retrieve import InstanceLocation

FORESEEN_BYTES = 8 << 20
"""What is decoded or encoded of a long answer before its headers go out, while few are being sent."""
FORESEEN_PARTS = 16
"""How many parts at most: so many slices of a CT are FORESEEN_BYTES. Nobody wants to wait for a thousand pictures."""
SENT_FROM_BYTES = 4096
"""What is decoded leaves part by part: each takes far longer to make than to send."""
KNOWN_FOR_S = 600
"""How long it is known that something cannot be decoded: a decoder may also have been short of time or memory."""
NAMED = 5
TRIED = 8
"""How many are tried where one of several is wanted."""

Said = list[tuple[str, str]]
"""Header fields that say what an answer goes without."""

NOT_TO_BE_HAD = (Undecodable, Corrupt, NotAcceptable, UnsupportedTransferSyntax)
"""What one part may fail with while others are sound."""

T = TypeVar("T")
Candidate = TypeVar("Candidate")


class LeftOut:
    """What an answer with `of` of `what` goes without, each by its name."""

    def __init__(self, call: Call, of: int, what: str) -> None:
        self._call = call
        self._of = of
        self._what = what
        self.errors: dict[str, ArchiveError] = {}

    @property
    def status(self) -> int:
        """What the answer says."""
        return 206 if self.errors else 200

    def known(self, location: InstanceLocation, key: Hashable) -> ArchiveError | None:
        """Why it is known that something of an instance cannot be had; None where that is not known.

        A key of None is of what needs no decoding.
        """
        damage = self._call.archive.retrieve.damage(location)
        if damage is not None:
            return damage
        found = None if key is None else self._call.web.undecodable.get(key, None)
        if found is None or found[2] < time.monotonic():
            return None
        kind, reason, _ = found
        return kind(reason, about=location.sop_instance_uid)

    def remember(self, key: Hashable, error: ArchiveError) -> None:
        """Note for those who ask next that this could not be had. Damage is noted with the instance, not here."""
        if isinstance(error, NOT_TO_BE_HAD) and not isinstance(error, Corrupt):
            found = type(error), error.reason, time.monotonic() + KNOWN_FOR_S
            self._call.web.undecodable.put(key, None, found, 1000)

    def said(self) -> Said:
        """The Warning of an answer that lacks something."""
        if not self.errors:
            return []
        named = ", ".join(list(self.errors)[:NAMED])
        told = f"{len(self.errors)} or more of {self._of} {self._what} are left out"
        return [self._call.warning(f"{told}, among them {named}: {_why(list(self.errors.values()))}")]


@dataclass(frozen=True, slots=True)
class Part:
    """What is given whole or not at all: its `name` in a Warning, and the `pieces` that are sent, heads included.

    `key` is what it is remembered by where it cannot be decoded.
    """

    name: str
    location: InstanceLocation
    key: Hashable
    pieces: Callable[[], Iterator[Buffer]]


def answer(
    call: Call,
    writer: Writer,
    parts: Sequence[Part],
    what: str,
    headers: Sequence[tuple[str, str]] = (),
    *,
    without: Mapping[str, ArchiveError] | None = None,
    decoded: bool,
    positional: bool = False,
) -> Answer:
    """The parts in their order, without those that cannot be had. Blocks.

    `what` they are is for a Warning, which also names those of `without`. Parts that are `decoded` are made ahead, as
    far as there is memory; others hardly ever fail. Of `positional` parts, which a client knows by their place alone,
    none may be missing. Raises what the first fails with where there are no others, or they are positional.
    """
    left = LeftOut(call, len(parts) + len(without or {}), what)
    left.errors |= without or {}
    wanted: list[Part] = []
    for part in parts:
        error = left.known(part.location, part.key)
        if error is None:
            wanted.append(part)
        elif positional:
            raise error
        else:
            left.errors[part.name] = error
    budget = call.archive.retrieve.haste
    held = FORESEEN_BYTES if decoded and budget.take(FORESEEN_BYTES) else 0
    making = _Making(left, wanted, writer)
    try:
        first = making.ahead(held or BATCH_BYTES, positional=positional)
    except BaseException:
        budget.give(held)
        raise
    said = [*headers, *left.said()]
    if making.ended:
        budget.give(held)
        return Answer(left.status, writer.content_type, first, said)
    more = _given_back(making.rest(), lambda: budget.give(held))
    if not decoded:
        return Answer(left.status, writer.content_type, first, said, more=more, limiter=call.web.io)
    return Answer(left.status, writer.content_type, first, said, more=more, limiter=call.web.cpu, batch=SENT_FROM_BYTES)


class _Making:
    """The parts being made: first ahead, where one may still be left out, then the rest."""

    def __init__(self, left: LeftOut, parts: Sequence[Part], writer: Writer) -> None:
        self._left = left
        self._parts = iter(parts)
        self._writer = writer
        self._begun: tuple[Part, Iterator[Buffer]] | None = None
        self.ended = False

    def ahead(self, most: int, *, positional: bool) -> list[Buffer]:
        """About `most` bytes of whole parts and the beginning of one, and at most FORESEEN_PARTS; all, where less."""
        made: list[Buffer] = []
        size = count = 0
        for part in self._parts:
            own: list[Buffer] = []
            pieces = part.pieces()
            try:
                for piece in pieces:
                    own.append(piece)
                    size += len(piece)
                    if size >= most:
                        break
                else:
                    pieces = iter(())
            except NOT_TO_BE_HAD as error:
                self._left.remember(part.key, error)
                if positional:
                    raise
                self._left.errors[part.name] = error
                size -= sum(map(len, own))
                continue
            made += own
            count += 1
            if size >= most or count >= FORESEEN_PARTS:
                self._begun = part, pieces
                return made
        if not count:
            raise next(iter(self._left.errors.values()))
        self.ended = True
        return [*made, self._writer.close]

    def rest(self) -> Iterator[Buffer]:
        """What follows; what fails here ends the answer before its end, and is known the next time."""
        assert self._begun is not None
        part, pieces = self._begun
        while True:
            try:
                yield from pieces
            except ArchiveError as error:
                self._left.remember(part.key, error)
                raise
            following = next(self._parts, None)
            if following is None:
                break
            part, pieces = following, following.pieces()
        yield self._writer.close


def _given_back(pieces: Iterator[Buffer], give: Callable[[], None]) -> Iterator[Buffer]:
    """`pieces`; `give` is called in the end, also where nobody asks for the first one."""

    def whole() -> Iterator[Buffer]:
        try:
            yield b""
            yield from pieces
        finally:
            give()

    begun = whole()
    next(begun)
    return begun


def first_of(
    call: Call, candidates: Iterable[tuple[str, Candidate]], make: Callable[[Candidate], T]
) -> tuple[T, list[tuple[str, str]]]:
    """What `make` makes of the first candidate that it can be made of, and the Warning that names those before it.

    Candidates go by a name each and are looked for only as they are tried. Raises what the first one fails with where
    none can be had. Blocks.
    """
    failed: dict[str, ArchiveError] = {}
    for name, candidate in islice(candidates, TRIED):
        try:
            made = make(candidate)
        except NOT_TO_BE_HAD as error:
            failed[name] = error
            continue
        if not failed:
            return made, []
        told = f"This is {name}, instead of {', '.join(list(failed)[:NAMED])}: {_why(list(failed.values()))}"
        return made, [call.warning(told)]
    raise next(iter(failed.values()))


def from_the_middle(values: Sequence[T], middle: int) -> list[T]:
    """The value at `middle`, then those beside it, as many as are tried."""
    near = range(max(0, middle - TRIED), min(len(values), middle + TRIED + 1))
    return [values[at] for at in sorted(near, key=lambda at: abs(at - middle))[:TRIED]]


def _why(errors: Sequence[ArchiveError]) -> str:
    reasons = {
        Corrupt: "the stored bytes are damaged",
        Undecodable: "they cannot be decoded; transfer-syntax=* gives them",
        NotAcceptable: "they cannot be had in the media types asked for",
        UnsupportedTransferSyntax: "they do not fit into the transfer syntax asked for",
    }
    return "; ".join(words for kind, words in reasons.items() if any(isinstance(error, kind) for error in errors))
