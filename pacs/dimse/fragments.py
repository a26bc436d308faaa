"""Whole command sets and data sets out of P-DATA-TF PDUs at the acceptor's end of an association (PS3.8 9.3.5, E.2).

Two implementations: `Incoming` is the reference. `CompiledIncoming` leaves what is due to `pacs/native/wire.c`, a call
for a whole command set or some 100 kB of a data set, and judges like the reference whatever else comes.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Container
from ctypes import addressof, byref, c_char, pointer
from typing import Any, Final, Protocol

from pacs import native
from pacs.dimse.messages import MAX_COMMAND_LENGTH
from pacs.dimse.states import Action, State, on_pdu
from pacs.dimse.transport import (
    MIN_BYTES_PER_S,
    RATE_WINDOW_S,
    Disconnected,
    Sink,
    Stalled,
    Transport,
)
from pacs.dimse.upper_layer import HEADER_LENGTH, AbortReason, ProtocolError, check_length, decode_header
from pacs.native.structures import Express

PDU_S: Final = 15.0
"""How long a PDU may take from its header to its last byte; longer ones get the time that the minimum rate gives."""

SILENCE_S: Final = 30.0
"""How long a peer may pause between two PDUs of one message."""

LARGE_FRAGMENT: Final = 64 << 10

ENOUGH: Final = 128 << 10
"""So much is received before it is looked at: it is still in the caches then, and the peer sends on meanwhile."""

_COMMAND_ROOM: Final = 2048
_FRAGMENT = struct.Struct(">IBB")


class Released(Exception):
    """The peer asked for the release of the association."""


class Drain(Protocol):
    """What takes a data set that has no place of its own."""

    def __call__(self, piece: memoryview, /) -> object:
        """Take the next bytes; they are gone afterwards."""


class Incoming:
    """Messages as they come, on a transport that nobody else reads from meanwhile. Used by one thread."""

    def __init__(self, transport: Transport, max_length: int) -> None:
        """`max_length` is that of a P-DATA-TF, as it was offered."""
        self._transport = transport
        self._max_length = max_length
        self._pdu_left = 0

    @property
    def within(self) -> bool:
        """Whether a PDU is under way: more is known to come."""
        return bool(self._pdu_left)

    def command(self, contexts: Container[int], wait_s: float, begun: Callable[[], None]) -> tuple[int, bytearray]:
        """The presentation context and the bytes of the next command set, which may begin within `wait_s`.

        `begun` is told when its first fragment has come. Raises ProtocolError, Released, Disconnected or Stalled.
        """
        return self._command(contexts, wait_s, begun, 0, bytearray())

    def _command(
        self, contexts: Container[int], wait_s: float, begun: Callable[[], None], first: int, raw: bytearray
    ) -> tuple[int, bytearray]:
        last = False
        while not last:
            context_id, control, length = self._fragment(SILENCE_S if first else wait_s)
            begun()
            if context_id not in contexts or (first and context_id != first):
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
        return first, raw

    def into(self, context_id: int, sink: Sink) -> None:
        """The whole data set of a message to its sink: to where the sink has room, else to its `write`.

        Raises ProtocolError, Released, Disconnected or Stalled.
        """
        self._dataset(context_id, lambda length: self._transport.pour(length, sink))

    def dataset(self, context_id: int, drain: Drain) -> None:
        """The whole data set of a message, piece by piece. Raises what `into` raises."""
        self._dataset(context_id, lambda length: self._transport.pump(length, drain))

    def begins(self, within_s: float) -> bool:
        """Whether something of what follows comes within this time, or has come. Raises Disconnected."""
        until = time.monotonic() + within_s
        while not self._pdu_left and not self._transport.readable(None, until - time.monotonic()):
            if time.monotonic() >= until:
                return False
        return True

    def _dataset(self, context_id: int, take: Callable[[int], None]) -> None:
        self._transport.meter(True)
        last, length = False, 0
        while not last:
            # Between large fragments no more than headers is read, so that what follows is received where it stays
            ahead = 2 * HEADER_LENGTH if length >= LARGE_FRAGMENT else None
            found, control, length = self._fragment(SILENCE_S, ahead)
            if found != context_id or control & 1:
                raise ProtocolError("a data set fragment was due", AbortReason.UNEXPECTED_PARAMETER)
            take(length)
            last = bool(control & 2)
        self._transport.meter(False)

    def _fragment(self, wait_s: float, ahead: int | None = None) -> tuple[int, int, int]:
        """The context, control header and length of the next fragment; its bytes are the next to be taken."""
        transport = self._transport
        if not self._pdu_left:
            transport.expect(wait_s)
            kind, length = decode_header(transport.take(HEADER_LENGTH, ahead))
            check_length(kind, length, self._max_length)
            transport.expect(max(PDU_S, length / MIN_BYTES_PER_S))
            match on_pdu(State.ESTABLISHED, kind)[0]:
                case Action.DATA:
                    self._pdu_left = length
                case Action.RELEASE:
                    transport.take(length)
                    raise Released
                case Action.ABORTED:
                    raise Disconnected
                case _:
                    raise ProtocolError(f"PDU type {kind} within an association", AbortReason.UNEXPECTED_PDU)
        if self._pdu_left < HEADER_LENGTH:
            raise ProtocolError("P-DATA-TF with bytes that are no fragment")
        length, context_id, control = _FRAGMENT.unpack(transport.take(HEADER_LENGTH, ahead))
        if not 2 <= length <= self._pdu_left - 4:
            raise ProtocolError("fragment is longer than its PDU")
        self._pdu_left -= length + 4
        return context_id, control, length - 2


class CompiledIncoming(Incoming):
    """The same, with what is due received by the library."""

    def __init__(self, transport: Transport, max_length: int, library: Any) -> None:
        super().__init__(transport, max_length)
        self._wire = native.Wire(max_pdu=max_length)
        self._patience = native.Patience(SILENCE_S, PDU_S, RATE_WINDOW_S, MIN_BYTES_PER_S)
        self._room = bytearray(_COMMAND_ROOM)
        self._held = c_char.from_buffer(self._room)
        self._at_room = addressof(self._held)
        self._receive_command, self._receive_dataset = library.m3_command, library.m3_dataset
        self._wire_at, self._patience_at = byref(self._wire), byref(self._patience)

    def command(self, contexts: Container[int], wait_s: float, begun: Callable[[], None]) -> tuple[int, bytearray]:
        """What the reference says."""
        wire = self._wire
        self._transport.lend(wire)
        wire.pdu_left = self._pdu_left
        wire.context = wire.last = wire.piece_left = 0
        outcome = self._receive_command(self._wire_at, self._patience_at, wait_s, self._at_room, _COMMAND_ROOM)
        self._pdu_left = wire.pdu_left
        self._transport.returned(wire)
        return self.judged(outcome, contexts, wait_s, begun)

    def judged(
        self, outcome: int, contexts: Container[int], wait_s: float, begun: Callable[[], None]
    ) -> tuple[int, bytearray]:
        """What the library's reception of a command set came to, as `command` tells it."""
        wire = self._wire
        context_id = wire.context
        if outcome == native.DONE:
            begun()
            if context_id not in contexts:
                raise ProtocolError(f"presentation context {context_id} is not the one, or none that was accepted")
            return context_id, self._room[: wire.filled]
        _broken(outcome)
        raw = self._room[: wire.filled]
        if not context_id:  # the fragment that came is none of a command set, or no fragment came
            return self._command(contexts, wait_s, begun, 0, raw)
        begun()
        if context_id not in contexts:
            raise ProtocolError(f"presentation context {context_id} is not the one, or none that was accepted")
        self._transport.meter(True)
        if wire.piece_left:  # of a command set longer than any that we have a use for
            if len(raw) + wire.piece_left > MAX_COMMAND_LENGTH:
                raise ProtocolError("command set too long")
            self._transport.pump(wire.piece_left, raw.extend)
            if wire.last:
                self._transport.meter(False)
                return context_id, raw
        return self._command(contexts, wait_s, begun, context_id, raw)

    def into(self, context_id: int, sink: Sink) -> None:
        """What the reference says."""
        wire = self._wire
        wire.pdu_left, wire.piece_left, wire.last = self._pdu_left, 0, 0
        wire.waited, wire.received = 0.0, 0
        self.rest(native.MORE, context_id, sink)

    def rest(self, outcome: int, context_id: int, sink: Sink) -> None:
        """The rest of a data set, where the library's reception of it has come to `outcome`."""
        wire, transport = self._wire, self._transport
        while outcome == native.MORE:
            place = sink.room(ENOUGH)
            if place is None:
                break
            with place:
                here = c_char.from_buffer(place)
                transport.lend(wire)
                outcome = self._receive_dataset(self._wire_at, self._patience_at, context_id, byref(here), len(place))
                del here
            transport.returned(wire)
            self._pdu_left = wire.pdu_left
            if wire.filled:
                sink.filled(wire.filled)
        if outcome == native.DONE:
            return
        _broken(outcome)
        transport.meter(True)
        transport.pour(wire.piece_left, sink)
        if not wire.last:
            self._dataset(context_id, lambda length: transport.pour(length, sink))

    def lend(self, terms: Express) -> None:
        """Tell the library where messages come from, and where command sets go."""
        terms.wire, terms.patience = pointer(self._wire), pointer(self._patience)
        terms.command, terms.command_room = self._at_room, _COMMAND_ROOM

    def passage(self, library: Any, address: int) -> int:
        """What `m3_express` comes to for the next message."""
        self._transport.lend(self._wire)
        self._wire.pdu_left = self._pdu_left
        found: int = library.m3_express(address)
        self._pdu_left = self._wire.pdu_left
        self._transport.returned(self._wire)
        return found

    def command_set(self, size: int) -> bytearray:
        """The command set of that length that the library has received last."""
        return self._room[:size]


def _broken(outcome: int) -> None:
    """Raises what the outcome of a call means, unless there is something to go on with."""
    if outcome == native.STALLED:
        raise Stalled
    if outcome in (native.CLOSED, native.FAILED):
        raise Disconnected


def incoming(transport: Transport, max_length: int) -> Incoming:
    """What receives messages on this transport: the library where there is one, and no TLS that has to be undone."""
    library = native.load()
    if library is None or transport.encrypted:
        return Incoming(transport, max_length)
    return CompiledIncoming(transport, max_length, library)
