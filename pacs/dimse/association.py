"""One association from its request to its end (PS3.8 section 9, PS3.7 section 8): one thread, one message at a time."""

from __future__ import annotations

import logging
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from pacs.dimse import negotiation, status
from pacs.dimse.find_scp import FindOperation
from pacs.dimse.messages import (
    MAX_COMMAND_LENGTH,
    RESPONSE,
    Command,
    CommandField,
    Response,
    decode_command,
    response_command,
    to_pdus,
)
from pacs.dimse.negotiation import FIND_CLASSES, VERIFICATION, Context, Negotiated, Policy
from pacs.dimse.services import Answer, Operation, Peer
from pacs.dimse.states import Action, State, on_pdu
from pacs.dimse.store_scp import StoreOperation
from pacs.dimse.transport import MIN_BYTES_PER_S, Disconnected, Stalled, Transport
from pacs.dimse.upper_layer import (
    HEADER_LENGTH,
    RELEASE_RESPONSE,
    AbortReason,
    AbortSource,
    AssociateRequest,
    ProtocolError,
    Rejection,
    check_length,
    decode_header,
    encode_abort,
    encode_accept,
    encode_reject,
)
from pacs.errors import AccessDenied

if TYPE_CHECKING:
    from pacs.archive import Archive

log = logging.getLogger(__name__)

PDU_S = 15.0
"""How long a PDU may take from its header to its last byte; longer ones get the time that the minimum rate gives."""

SILENCE_S = 30.0
"""How long a peer may pause between two PDUs of one message."""

ARTIM_S = 2.0
"""How long the peer has to close the connection after its association has ended (PS3.8 9.1.5)."""

BATCH_LENGTH = 32 << 10
"""Pending responses are sent together once they are this long; between two sends a C-CANCEL is looked for."""


class _Released(Exception):
    """The peer asked for the release of the association."""


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
        self._on_end = on_end
        self._draining = False
        self._contexts: dict[int, Context] = {}
        self._pdu_left = 0
        self._operation: Operation | None = None

    def drain(self) -> None:
        """From another thread: finish the message being performed, if any, then abort."""
        self._draining = True
        if not self.busy:
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
        except _Released:
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
            self._abort_operation()
            self._say_goodbye(last)

    def _converse(self) -> None:
        negotiated, peer = self._negotiate()
        self._contexts = negotiated.contexts
        self._transport.send(encode_accept(negotiated.accept))
        while True:
            self.busy = False
            if self._draining:
                raise Disconnected
            context, command = self._read_command(self._idle_s)
            if (
                command.field != CommandField.C_CANCEL
            ):  # PS3.7 9.3.2.3: without an operation to cancel, it means nothing
                self._perform(peer, context, command)

    def _negotiate(self) -> tuple[Negotiated, Peer]:
        request = self._request
        rejection = negotiation.refusal(request, self._policy.ae_title)
        if rejection is not None:
            raise _Refused(rejection)
        try:
            principal = self._archive.auth.ae(request.calling_ae_title, request.called_ae_title, self.address)
        except AccessDenied as error:
            raise _Refused(Rejection.CALLING_AE_TITLE) from error
        except Exception as error:
            status.report("cannot judge a calling AE title", error)
            raise _Refused(Rejection.TEMPORARY_CONGESTION) from error
        negotiated = negotiation.negotiate(request, self._policy)
        peer = Peer(
            self._archive,
            principal,
            self._policy.ae_title,
            request.calling_ae_title,
            negotiated.relational,
            negotiated.fuzzy,
        )
        return negotiated, peer

    def _perform(self, peer: Peer, context: Context, command: Command) -> None:
        operation = self._operation = begin(peer, context, command)
        if command.has_dataset:
            write, pump = operation.write, self._transport.pump
            self._transport.meter(True)
            last = False
            while not last:
                context_id, control, length = self._next_fragment(SILENCE_S)
                if context_id != context.id or control & 1:
                    raise ProtocolError("a data set fragment was due", AbortReason.UNEXPECTED_PARAMETER)
                pump(length, write)
                last = bool(control & 2)
            self._transport.meter(False)
        out = bytearray()
        for response in operation.finish(lambda: self._cancelled(command)):
            out += to_pdus(
                context.id, response_command(command, response), response.dataset, self._request.user.max_length
            )
            if len(out) >= BATCH_LENGTH:
                self._transport.send(out)
                out = bytearray()
        self._operation = None
        self._transport.send(out)

    def _read_command(self, wait_s: float) -> tuple[Context, Command]:
        raw = bytearray()
        first, last = 0, False
        while not last:
            context_id, control, length = self._next_fragment(SILENCE_S if first else wait_s)
            self.busy = True
            if context_id not in self._contexts or (first and context_id != first):
                raise ProtocolError(f"presentation context {context_id} is not the one, or none that was accepted")
            if not control & 1:
                raise ProtocolError("data set before its command set", AbortReason.UNEXPECTED_PARAMETER)
            if len(raw) + length > MAX_COMMAND_LENGTH:
                raise ProtocolError("command set too long")
            if not first:
                first = context_id
                self._transport.meter(True)
            self._transport.pump(length, raw.extend)
            last = bool(control & 2)
        self._transport.meter(False)
        command = decode_command(raw)
        if command.field & RESPONSE:
            raise ProtocolError("a response to nothing", AbortReason.NOT_SPECIFIED, AbortSource.USER)
        return self._contexts[first], command

    def _next_fragment(self, wait_s: float) -> tuple[int, int, int]:
        """The context, control header and length of the next fragment; its bytes are the next to be taken."""
        transport = self._transport
        if not self._pdu_left:
            transport.expect(wait_s)
            kind, length = decode_header(transport.take(HEADER_LENGTH))
            check_length(kind, length, self._policy.max_length)
            transport.expect(max(PDU_S, length / MIN_BYTES_PER_S))
            match on_pdu(State.ESTABLISHED, kind)[0]:
                case Action.DATA:
                    self._pdu_left = length
                case Action.RELEASE:
                    transport.take(length)
                    raise _Released
                case Action.ABORTED:
                    raise Disconnected
                case _:
                    raise ProtocolError(f"PDU type {kind} within an association", AbortReason.UNEXPECTED_PDU)
        if self._pdu_left < HEADER_LENGTH:
            raise ProtocolError("P-DATA-TF with bytes that are no fragment")
        length, context_id, control = struct.unpack(">IBB", transport.take(HEADER_LENGTH))
        if not 2 <= length <= self._pdu_left - 4:
            raise ProtocolError("fragment is longer than its PDU")
        self._pdu_left -= length + 4
        return context_id, control, length - 2

    def _cancelled(self, running: Command) -> bool:
        """Whether the peer has sent a C-CANCEL for `running`; anything else it could send now breaks the rules."""
        while self._pdu_left or self._transport.pending():
            _, command = self._read_command(PDU_S)
            if command.field != CommandField.C_CANCEL:
                # PS3.7 D.3.3.3: one operation at a time was agreed
                raise ProtocolError("a second operation", AbortReason.NOT_SPECIFIED, AbortSource.USER)
            if command.responded_to == running.message_id:
                return True
        return False

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


class _Refused(Exception):
    """The association is not accepted."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection.name)
        self.rejection = rejection


def begin(peer: Peer, context: Context, command: Command) -> Operation:
    """The operation that `command` asks for on `context`, or one that answers why there is none (PS3.7 annex C)."""
    abstract = context.abstract_syntax
    match command.field:
        case CommandField.C_ECHO if abstract == VERIFICATION:
            same = command.sop_class_uid == VERIFICATION
            return Answer(Response(status.SUCCESS) if same else _WRONG_CLASS)
        case CommandField.C_FIND if abstract in FIND_CLASSES:
            return FindOperation(peer, context, command) if command.sop_class_uid == abstract else Answer(_WRONG_CLASS)
        case CommandField.C_STORE if abstract not in FIND_CLASSES and abstract != VERIFICATION:
            return StoreOperation(peer, context, command)
    return Answer(Response(status.UNRECOGNISED_OPERATION, "not an operation of this presentation context"))


_WRONG_CLASS = Response(status.SOP_CLASS_NOT_SUPPORTED, "SOP class is not that of the presentation context")
