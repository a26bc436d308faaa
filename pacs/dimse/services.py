"""What the DIMSE services have in common: who asks, one operation per request, and the one that only answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pacs.auth import Principal
from pacs.dimse.messages import Response

if TYPE_CHECKING:
    from pacs.archive import Archive


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of an association, and what was agreed with them."""

    archive: Archive
    principal: Principal
    ae_title: str
    calling_ae_title: str
    relational: frozenset[str] = frozenset()
    fuzzy: frozenset[str] = frozenset()


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
