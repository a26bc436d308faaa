"""C-STOREs that the library takes by itself, one after the other (`pacs.express`), seen from their association."""

from __future__ import annotations

from collections.abc import Callable, Container
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from pacs import native
from pacs.dimse.fragments import PDU_S, CompiledIncoming, Incoming
from pacs.dimse.repeated import Reader, Replies
from pacs.dimse.store_scp import StoreOperation
from pacs.dimse.transport import Disconnected, Transport
from pacs.native import structures

if TYPE_CHECKING:
    from pacs.express import Express
    from pacs.ingest import Ingest


class Came(NamedTuple):
    """A message that goes the usual way: its command set, and what gives an operation its data set, once."""

    context_id: int
    command_set: bytearray
    dataset: Callable[[StoreOperation], None] | None = None


class Passing:
    """Takes what it can. For the thread of the association, but for `busy`."""

    def __init__(
        self, express: Express, ingest: Ingest, transport: Transport, incoming: CompiledIncoming,
        reader: Reader, replies: Replies,
    ) -> None:  # fmt: skip
        self._express = express
        self._ingest = ingest
        self._transport = transport
        self._incoming = incoming
        self._reader, self._replies = reader, replies
        self._library = native.load()
        incoming.lend(express.terms)

    @property
    def busy(self) -> bool:
        """Whether a message is being taken."""
        return bool(self._express.terms.busy)

    def ready(self, context_id: int) -> bool:
        """Whether what follows may be taken: it is in this context, and like what was stored last."""
        if self._incoming.within or not self._ingest.is_like(self._express):
            return False
        terms, request = self._express.terms, self._reader.like
        reply = None if request is None else self._replies.like(context_id, request.room)
        if request is None or reply is None:
            return False
        self._express.answers(request, reply)
        terms.context = context_id
        return True

    def take(self, contexts: Container[int], draining: Callable[[], bool], begun: Callable[[], None]) -> Came | None:
        """Take messages until one comes that has to go the usual way; None where for a while none came.

        `contexts` are those that were accepted; `begun` is told when a message goes on here. Raises Disconnected, also
        where the association is to end, Stalled, Released or ProtocolError.
        """
        express, terms = self._express, self._express.terms
        if not express.open():
            return None
        try:
            while True:
                passage = self._incoming.passage(self._library, express.address)
                express.tell()
                if passage == structures.STORED:
                    if terms.unsent:
                        self._transport.send(express.unsent())
                    if draining():
                        raise Disconnected
                    continue
                if passage == structures.STRIP and express.renew():
                    continue
                if passage == structures.WITHIN and self._ingest.learns_anew(express):
                    continue
                if passage == structures.NOTHING:
                    return None
                begun()
                return self._handed_over(passage, contexts)
        finally:
            terms.busy = 0

    def close(self) -> None:
        """Give back what `take` has taken: nothing is expected. May be called again."""
        self._express.close()

    def _handed_over(self, passage: int, contexts: Container[int]) -> Came:
        express, terms = self._express, self._express.terms
        if passage == structures.BEFORE:
            return Came(*self._incoming.judged(terms.outcome, contexts, PDU_S, lambda: None))
        express.undo()
        rest = partial(self._incoming.rest, terms.outcome, terms.context)

        def give(operation: StoreOperation) -> None:
            if not operation.taken_over(express.give):
                with express.dataset() as held:
                    operation.write(held)
            rest(operation)

        return Came(terms.context, self._incoming.command_set(terms.like_size), give)


def passing(
    ingest: Ingest, transport: Transport, incoming: Incoming, reader: Reader, replies: Replies
) -> Passing | None:
    """What takes C-STOREs of this association, where the library can."""
    if not isinstance(incoming, CompiledIncoming):
        return None
    express = ingest.express()
    return None if express is None else Passing(express, ingest, transport, incoming, reader, replies)
