"""The shapes that DIMSE services have in common: who asks, one operation per request, and the row that offers it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pacs.auth import Principal
from pacs.dimse.link import Piece
from pacs.dimse.messages import Command, CommandField, Response
from pacs.dimse.negotiation import MESSAGE_SYNTAXES, Context, Extended, Policy, no_answer

if TYPE_CHECKING:
    from pacs.archive import Archive

Fields = Mapping[int, int | str | bytes]
"""A command set by element number of group 0000; Command Field, Message ID and Data Set Type are filled in."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request of our own on an association that a peer opened; `done` hears the response, or None for none.

    `done` runs on the association's thread, once, and must not wait for anything.
    """

    sop_class_uid: str
    field: CommandField
    fields: Fields
    dataset: Callable[[str], bytes] | None
    """The data set in the transfer syntax that was accepted for the context."""
    done: Callable[[Command | None], None]


class Line(Protocol):
    """The association as an operation sees it: a way to ask something of the peer that is asking us."""

    def accepted(self, sop_class_uid: str, *, peer_is_scp: bool = True) -> dict[str, int]:
        """Transfer syntax: id of the contexts accepted for this SOP class in which the peer has that role."""

    def request(
        self,
        context_id: int,
        command_field: CommandField,
        fields: Fields,
        pieces: Iterable[Piece] = (),
        length: int | None = None,
    ) -> Command:
        """The peer's response to a request sent from within `Operation.finish`, on the association's own thread.

        `length` is that of the data set in `pieces`; None where there is none. A C-CANCEL that comes meanwhile is kept
        for `cancelled`. Raises what ends the association, which an operation does not catch.
        """

    def offer(self, request: Request) -> bool:
        """From any thread: whether the association will send `request` when it is between messages.

        False where it has ended or no context is there in which the peer can be asked this.
        """


class NoLine:
    """The line of an operation that runs without an association: nothing was accepted, nothing is taken."""

    def accepted(self, sop_class_uid: str, *, peer_is_scp: bool = True) -> dict[str, int]:
        """No context."""
        return {}

    def request(
        self,
        context_id: int,
        command_field: CommandField,
        fields: Fields,
        pieces: Iterable[Piece] = (),
        length: int | None = None,
    ) -> Command:
        """Never a response."""
        raise RuntimeError("there is no association to ask on")

    def offer(self, request: Request) -> bool:
        """Not taken."""
        return False


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of an association, and what was agreed with them."""

    archive: Archive
    principal: Principal
    ae_title: str
    calling_ae_title: str
    relational: frozenset[str] = frozenset()
    fuzzy: frozenset[str] = frozenset()
    extended: Mapping[str, bytes] = field(default_factory=dict)
    """The extended negotiation as answered, by SOP class (PS3.7 D.3.3.5)."""
    line: Line = field(default_factory=NoLine)


class Operation(Protocol):
    """One request being performed. `write` gets the data set as it comes; then `finish` or, if broken off, `abort`."""

    def write(self, piece: memoryview) -> None:
        """Take the next bytes of the data set; they are gone afterwards. Never raises an ArchiveError."""

    def finish(self, cancelled: Callable[[], bool]) -> Iterator[Response]:
        """The responses; the last one is final. `cancelled` tells whether the peer has sent a C-CANCEL meanwhile."""

    def abort(self) -> None:
        """Undo what was begun: there will be no answer. Safe to call after `finish`."""


class Answer:
    """An operation that ignores its data set, if any, and answers one status."""

    def __init__(self, response: Response) -> None:
        self._response = response

    def write(self, piece: memoryview) -> None:
        """Forget `piece`."""

    def finish(self, cancelled: Callable[[], bool]) -> Iterator[Response]:
        """The one response."""
        yield self._response

    def abort(self) -> None:
        """Nothing was begun."""


Begin = Callable[[Peer, Context, Command], Operation]


def _nothing_more(uid: str, policy: Policy) -> bool:
    return False


def _no_welcome(peer: Peer) -> None:
    return None


@dataclass(frozen=True, slots=True, eq=False)
class Service:
    """One row of `pacs.dimse.services.SERVICES`: SOP classes that go together, and what may be asked of them.

    `scu` and `scp` are the roles that the requestor of the association may take (PS3.7 D.3.3.4); without a role
    selection it is SCU. An N-EVENT-REPORT is asked by the SCP, everything else by the SCU.
    """

    name: str
    sop_classes: frozenset[str]
    operations: Mapping[CommandField, Begin]
    scu: bool = True
    scp: bool = False
    extended: Extended = no_answer
    """The Service-class-application-information to answer (PS3.7 D.3.3.5)."""
    also: Callable[[str, Policy], bool] = _nothing_more
    """Whether a SOP class outside `sop_classes` belongs here as well."""
    syntaxes: Callable[[Policy], frozenset[str]] = lambda policy: MESSAGE_SYNTAXES
    """The transfer syntaxes that are accepted."""
    events: bool = False
    """Whether we report events to a peer that stays on the association."""
    eager: bool = False
    """Whether every response goes out at once, and not together with the next ones."""
    opened: Callable[[Peer], None] = _no_welcome
    """Told of every association that has a context of this row, once it is accepted."""
    checks_class: bool = True
    """Whether a request has to name the very SOP class of its context."""

    def claims(self, uid: str, policy: Policy) -> bool:
        """Whether this row serves the SOP class."""
        return uid in self.sop_classes or self.also(uid, policy)
