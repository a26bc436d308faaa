"""One association from its request to its end (PS3.8 section 9, PS3.7 section 8): one thread, one message at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from pacs.dimse import identity, negotiation, status
from pacs.dimse.fragments import PDU_S, Released, incoming
from pacs.dimse.link import Piece, message_parts, send_message
from pacs.dimse.messages import (
    MAX_SENT_LENGTH,
    NO_DATASET,
    RESPONSE,
    Command,
    CommandField,
    Tag,
    encode_command,
)
from pacs.dimse.negotiation import Context, Negotiated, Policy
from pacs.dimse.operation import Fields, Operation, Peer, Request
from pacs.dimse.outgoing import Outgoing
from pacs.dimse.passing import Passing, passing
from pacs.dimse.repeated import Reader, Replies
from pacs.dimse.services import begin
from pacs.dimse.store_scp import StoreOperation
from pacs.dimse.transport import TICK_S, Disconnected, Stalled, Transport
from pacs.dimse.upper_layer import (
    RELEASE_RESPONSE,
    AbortReason,
    AbortSource,
    AssociateRequest,
    ProtocolError,
    Rejection,
    encode_abort,
    encode_accept,
    encode_reject,
)
from pacs.errors import AccessDenied, Unauthenticated

if TYPE_CHECKING:
    from pacs.archive import Archive

log = logging.getLogger(__name__)

ARTIM_S = 2.0
"""How long the peer has to close the connection after its association has ended (PS3.8 9.1.5)."""

ANSWER_S = 120.0
"""How long a peer may take to answer a request that it asked for itself, such as a sub-operation of C-GET."""

EMPTY_AFTER_S = 5.0
"""A data set of which nothing has come so long after the DIMSE-N request that announces it is empty: some libraries
announce an empty one, and send none."""

_MAY_BE_EMPTY = frozenset({CommandField.N_SET, CommandField.N_ACTION, CommandField.N_CREATE})

BATCH_LENGTH = 32 << 10
"""Pending responses are sent together once they are this long; between two sends a C-CANCEL is looked for."""


class Association(threading.Thread):
    """Serves one accepted connection whose A-ASSOCIATE-RQ has been read, until either side ends it."""

    def __init__(
        self,
        transport: Transport,
        request: AssociateRequest,
        *,
        archive: Archive,
        policy: Policy,
        address: str,
        idle_s: float,
        tls: bool = False,
        certificate: str = "",
        on_end: Callable[[Association], None],
    ) -> None:
        super().__init__(name=f"dimse {address}", daemon=True)
        self.address = address
        self.busy = True
        self._transport = transport
        self._request = request
        self._archive = archive
        self._policy = policy
        self._idle_s = idle_s
        self._tls = tls
        self._certificate = certificate
        self._on_end = on_end
        self._draining = False
        self._contexts: dict[int, Context] = {}
        self._incoming = incoming(transport, policy.max_length)
        self._operation: Operation | None = None
        self._outgoing = Outgoing()
        self._reader, self._replies = Reader(), Replies(request.user.max_length)
        self._passing: Passing | None = None
        self._stored_in = 0
        self._last_message_id = 0
        self._running: Command | None = None
        self._cancel_seen = False

    # --- what operations ask of it (pacs.dimse.operation.Line) ---

    def accepted(self, sop_class_uid: str, *, peer_is_scp: bool = True) -> dict[str, int]:
        """Transfer syntax: id of the contexts accepted for this SOP class in which the peer has that role."""
        return {
            context.transfer_syntax: context.id
            for context in self._contexts.values()
            if context.abstract_syntax == sop_class_uid and (context.scp if peer_is_scp else context.scu)
        }

    def offer(self, request: Request) -> bool:
        """From any thread: whether the association will send `request` when it is between messages."""
        contexts = self.accepted(request.sop_class_uid, peer_is_scp=_asks_scp(request.field))
        return bool(contexts) and self._outgoing.offer(request)

    def request(
        self,
        context_id: int,
        command_field: CommandField,
        fields: Fields,
        pieces: Iterable[Piece] = (),
        length: int | None = None,
    ) -> Command:
        """The peer's response to a request sent from within an operation; its data set, if any, is read and dropped."""
        number = self._send_request(context_id, command_field, fields, pieces, length)
        while True:
            context, command = self._read_command(ANSWER_S)
            if command.field & RESPONSE and command.responded_to == number:
                self._drop_dataset(context, command)
                return command
            self._take_while_running(context, command)

    def drain(self) -> None:
        """From another thread: finish the message being performed, if any, then abort."""
        self._draining = True
        if not (self.busy or (self._passing is not None and self._passing.busy)):
            self._transport.interrupt(at_once=False)

    def cut(self) -> None:
        """From another thread: end now."""
        self._draining = True
        self._transport.interrupt(at_once=True)

    def run(self) -> None:
        """Negotiate, serve, end; leaves nothing behind, whatever the peer does."""
        last: bytes | None = None
        try:
            self._converse()
        except Released:
            last = RELEASE_RESPONSE
        except _Refused as refused:
            calling, called = self._request.calling_ae_title, self._request.called_ae_title
            log.warning("association %r to %r from %s rejected: %s", calling, called, self.address, refused)
            last = encode_reject(refused.rejection)
        except ProtocolError as error:
            log.warning("association aborted: %s", error, extra={"address": self.address})
            last = encode_abort(error.source, error.reason)
        except Stalled:
            log.warning("association aborted: the peer is too slow or silent", extra={"address": self.address})
            last = encode_abort(AbortSource.PROVIDER)
        except Disconnected:
            last = encode_abort(AbortSource.PROVIDER) if self._draining else None
        except Exception as error:
            status.report("an association failed", error)
            last = encode_abort(AbortSource.PROVIDER)
        finally:
            if self._passing is not None:
                self._passing.close()
            self._abort_operation()
            self._outgoing.close()
            self._say_goodbye(last)

    def _converse(self) -> None:
        negotiated, peer = self._negotiate()
        self._contexts = negotiated.contexts
        self._transport.send(encode_accept(negotiated.accept))
        has_events = any(context.service and context.service.events for context in self._contexts.values())
        for service in {context.service for context in self._contexts.values() if context.service}:
            service.opened(peer)
        if not has_events:
            self._passing = passing(self._archive.ingest, self._transport, self._incoming, self._reader, self._replies)
        while True:
            self.busy = False
            if self._draining:
                raise Disconnected
            if has_events:
                self._send_offered()
            context, command, dataset = self._next()
            if command.field & RESPONSE:
                self._take_response(context, command)
            elif command.field != CommandField.C_CANCEL:  # PS3.7 9.3.2.3: with nothing to cancel, it means nothing
                self._perform(peer, context, command, dataset)

    def _next(self) -> tuple[Context, Command, Callable[[StoreOperation], None] | None]:
        """The next message that is to be performed here; what gives its data set, where that has begun to come."""
        passing = self._passing
        if passing is not None and passing.ready(self._stored_in):
            came = passing.take(self._contexts, lambda: self._draining, self._begun)
            if came is not None:
                if came.dataset is None:  # who knows how long it takes: a strip is not kept over that
                    passing.close()
                return self._contexts[came.context_id], self._reader.decode(came.command_set), came.dataset
        if passing is not None:
            passing.close()
        return *self._read_command(self._idle_s), None

    def _negotiate(self) -> tuple[Negotiated, Peer]:
        request = self._request
        rejection = negotiation.refusal(request, self._policy.ae_title)
        if rejection is not None:
            raise _Refused(rejection)
        try:
            auth = self._archive.auth
            ae = auth.ae(
                request.calling_ae_title,
                request.called_ae_title,
                self.address,
                tls=self._tls,
                certificate=self._certificate,
            )
            principal, response = identity.judge(request.user.identity, self._archive.settings.dimse_identity, ae, auth)
        except Unauthenticated as error:
            raise _Refused(Rejection.NO_REASON, error.reason) from error
        except AccessDenied as error:
            raise _Refused(Rejection.CALLING_AE_TITLE, error.reason) from error
        except Exception as error:
            status.report("cannot judge a calling AE title", error)
            raise _Refused(Rejection.TEMPORARY_CONGESTION) from error
        negotiated = negotiation.negotiate(request, self._policy, response)
        peer = Peer(
            self._archive,
            principal,
            self._policy.ae_title,
            request.calling_ae_title,
            negotiated.relational,
            negotiated.fuzzy,
            negotiated.extended,
            self,
        )
        return negotiated, peer

    def _send_offered(self) -> None:
        """Send what others want to be asked here, until the peer says something itself or is silent for too long."""
        deadline = time.monotonic() + self._idle_s
        while not self._incoming.within:
            self._outgoing.expire()
            if (request := self._outgoing.next()) is not None:
                self.busy = True
                contexts = self.accepted(request.sop_class_uid, peer_is_scp=_asks_scp(request.field))
                syntax, context_id = next(iter(contexts.items()))
                dataset = None if request.dataset is None else request.dataset(syntax)
                # Noted before it is sent: whoever waits hears of an association that breaks meanwhile
                self._outgoing.sent(self._last_message_id % 0xFFFF + 1, request)
                pieces, length = ((), None) if dataset is None else ((dataset,), len(dataset))
                self._send_request(context_id, request.field, request.fields, pieces, length)
                self.busy = False
            if self._transport.readable(self._outgoing.bell(), min(TICK_S, deadline - time.monotonic())):
                return
            if self._draining:
                raise Disconnected
            if time.monotonic() >= deadline:
                raise Stalled

    def _perform(
        self, peer: Peer, context: Context, command: Command, dataset: Callable[[StoreOperation], None] | None
    ) -> None:
        operation = self._operation = begin(peer, context, command)
        self._running, self._cancel_seen = command, False
        if command.has_dataset:
            if isinstance(operation, StoreOperation):
                if dataset is None:
                    self._incoming.into(context.id, operation)
                else:
                    dataset(operation)
                self._stored_in = context.id
            elif command.field not in _MAY_BE_EMPTY or self._incoming.begins(EMPTY_AFTER_S):
                self._incoming.dataset(context.id, operation.write)
        out = bytearray()
        batch = 1 if context.service is not None and context.service.eager else BATCH_LENGTH
        for response in operation.finish(self._cancelled):
            out += self._replies.encode(context.id, command, response)
            if len(out) >= batch:
                self._transport.send(out)
                out = bytearray()
        self._operation = self._running = None
        self._transport.send(out)

    def _send_request(
        self, context_id: int, command_field: CommandField, fields: Fields, pieces: Iterable[Piece], length: int | None
    ) -> int:
        self._last_message_id = self._last_message_id % 0xFFFF + 1
        whole = {
            **fields,
            Tag.COMMAND_FIELD: command_field,
            Tag.MESSAGE_ID: self._last_message_id,
            Tag.DATASET_TYPE: NO_DATASET if length is None else 0x0001,
        }
        limit = min(self._request.user.max_length or MAX_SENT_LENGTH, MAX_SENT_LENGTH)
        send_message(self._transport, message_parts(context_id, encode_command(whole), pieces, length, limit))
        return self._last_message_id

    def _read_command(self, wait_s: float) -> tuple[Context, Command]:
        context_id, raw = self._incoming.command(self._contexts, wait_s, self._begun)
        return self._contexts[context_id], self._reader.decode(raw)

    def _begun(self) -> None:
        self.busy = True

    def _drop_dataset(self, context: Context, command: Command) -> None:
        if command.has_dataset:
            self._incoming.dataset(context.id, len)

    def _take_response(self, context: Context, command: Command) -> None:
        self._drop_dataset(context, command)
        if not self._outgoing.answered(command):
            raise ProtocolError("a response to nothing", AbortReason.NOT_SPECIFIED, AbortSource.USER)

    def _take_while_running(self, context: Context, command: Command) -> None:
        """What may come besides what is waited for: a C-CANCEL, or the response to an event."""
        if command.field & RESPONSE:
            self._take_response(context, command)
        elif command.field != CommandField.C_CANCEL:
            # PS3.7 D.3.3.3: one operation at a time was agreed
            raise ProtocolError("a second operation", AbortReason.NOT_SPECIFIED, AbortSource.USER)
        elif self._running is not None and command.responded_to == self._running.message_id:
            self._cancel_seen = True

    def _cancelled(self) -> bool:
        """Whether the peer has sent a C-CANCEL for what runs; little else may come now."""
        while not self._cancel_seen and (self._incoming.within or self._transport.pending()):
            self._take_while_running(*self._read_command(PDU_S))
        return self._cancel_seen

    def _abort_operation(self) -> None:
        operation, self._operation = self._operation, None
        if operation is not None:
            try:
                operation.abort()
            except Exception as error:
                status.report("cannot abort an operation", error)

    def _say_goodbye(self, last: bytes | None) -> None:
        if last is not None:
            with suppress(Disconnected, Stalled):
                self._transport.send(last)
        self._on_end(self)
        if last is not None:
            self._transport.linger(ARTIM_S, sending=last is RELEASE_RESPONSE)
        self._transport.close()


def _asks_scp(field: CommandField) -> bool:
    # An event goes from the SCP to the SCU, anything else from the SCU to the SCP
    return field != CommandField.N_EVENT_REPORT


class _Refused(Exception):
    """The association is not accepted."""

    def __init__(self, rejection: Rejection, why: str = "") -> None:
        super().__init__(f"{rejection.name}: {why}" if why else rejection.name)
        self.rejection = rejection
