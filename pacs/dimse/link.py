"""The requestor's end of one association (PS3.8): connecting, proposing, whole messages out and in, release and abort.

One thread, blocking, and bounded in time everywhere: connecting, the answer to the proposal, every PDU, every response.
Whatever the peer does ends as PeerUnreachable, PeerRefused or PeerFailed.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from pacs.dimse.messages import MAX_COMMAND_LENGTH, MAX_SENT_LENGTH, Command, decode_command
from pacs.dimse.negotiation import MIN_PEER_LENGTH
from pacs.dimse.tls import fingerprint_of
from pacs.dimse.transport import LARGE_BUFFER, MIN_BYTES_PER_S, Disconnected, Stalled, Transport
from pacs.dimse.upper_layer import (
    HEADER_LENGTH,
    RELEASE_REQUEST,
    AbortReason,
    AbortSource,
    AssociateAccept,
    AssociateRequest,
    PDUType,
    ProtocolError,
    Rejection,
    check_length,
    decode_accept,
    decode_header,
    encode_abort,
    encode_request,
)
from pacs.errors import Corrupt, PeerFailed, PeerRefused, PeerUnreachable

Piece = bytes | bytearray | memoryview

PDU_S = 15.0
LINGER_S = 1.0
RELEASE_S = 5.0
WHY_REJECTED = {
    Rejection.APPLICATION_CONTEXT.value: "application context not supported",
    Rejection.CALLING_AE_TITLE.value: "it does not know our AE title",
    Rejection.CALLED_AE_TITLE.value: "it is not the AE title that was called",
    Rejection.PROTOCOL_VERSION.value: "protocol version not supported",
    Rejection.TEMPORARY_CONGESTION.value: "temporary congestion",
    Rejection.LOCAL_LIMIT_EXCEEDED.value: "its limit of associations is reached",
}


@dataclass(frozen=True, slots=True)
class Remote:
    """Another application entity: its title and address, and how to speak TLS with it (None = plain).

    With `certificate` (SHA-256, hex) it has to show that one.
    """

    title: str
    host: str
    port: int
    tls: ssl.SSLContext | None = None
    certificate: str = ""

    def __str__(self) -> str:
        return f"{self.title}@{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds allowed for connecting (TCP and TLS), for the answer to the proposal, and for each response."""

    connect_s: float = 10.0
    associate_s: float = 30.0
    response_s: float = 120.0


class Link:
    """An association that we requested. Made by `connect`; closed by `release` or `abort`, whichever comes first."""

    def __init__(self, remote: Remote, transport: Transport, timeouts: Timeouts, security: str = "") -> None:
        self.remote = remote
        self.security = security
        self._transport = transport
        self._timeouts = timeouts
        self._max_received = LARGE_BUFFER
        self._pdu_left = 0
        self.max_length = MAX_SENT_LENGTH
        self.open = True

    # --- beginning and end ---

    def associate(self, request: AssociateRequest) -> AssociateAccept:
        """The peer's acceptance of `request`. Raises PeerRefused where it rejects, and PeerUnreachable, PeerFailed."""
        self._max_received = request.user.max_length or LARGE_BUFFER
        with self.words("answer our request"):
            self._transport.send(encode_request(request))
            self._transport.expect(self._timeouts.associate_s)
            kind, length = decode_header(self._transport.take(HEADER_LENGTH))
            check_length(kind, length, 0)
            body = bytes(self._transport.take(length))
            if kind == PDUType.ASSOCIATE_RJ:
                self._close()
                raise PeerRefused(f"{self.remote} rejects the association: {_rejected(body)}")
            if kind == PDUType.ABORT:
                self._close()
                raise PeerRefused(f"{self.remote} aborts instead of accepting the association")
            if kind != PDUType.ASSOCIATE_AC:
                raise ProtocolError(f"PDU type {kind} instead of A-ASSOCIATE-AC", AbortReason.UNEXPECTED_PDU)
            accept = decode_accept(body)
            if 0 < accept.user.max_length < MIN_PEER_LENGTH:
                raise ProtocolError(f"reads PDUs of {accept.user.max_length} bytes only")
        self.max_length = min(accept.user.max_length or MAX_SENT_LENGTH, MAX_SENT_LENGTH)
        return accept

    def release(self) -> None:
        """End the association in order; a peer that does not answer to that is left. Never raises."""
        if not self.open:
            return
        with suppress(Disconnected, Stalled, ProtocolError):
            self._transport.send(RELEASE_REQUEST)
            deadline = time.monotonic() + RELEASE_S
            while (left := deadline - time.monotonic()) > 0:
                self._transport.expect(left)
                kind, length = decode_header(self._transport.take(HEADER_LENGTH))
                check_length(kind, length, self._max_received)
                self._transport.take(length)
                if kind != PDUType.DATA:
                    break
        self._close()

    def abort(self, source: AbortSource = AbortSource.USER, reason: AbortReason = AbortReason.NOT_SPECIFIED) -> None:
        """End the association at once. Never raises."""
        if self.open:
            with suppress(Disconnected, Stalled):
                self._transport.send(encode_abort(source, reason))
            self.open = False
            self._transport.linger(LINGER_S, sending=False)

    def interrupt(self) -> None:
        """From another thread: let whatever waits for the peer end now, as PeerUnreachable."""
        self._transport.interrupt(at_once=True)

    def _close(self) -> None:
        self.open = False
        self._transport.close()

    # --- messages ---

    def send(self, context_id: int, command: bytes, pieces: Iterable[Piece] = (), length: int | None = None) -> None:
        """A message: its command set and, where `length` is given, a data set of so many bytes in `pieces`.

        Raises PeerUnreachable and PeerFailed. An error raised by `pieces` leaves a message that cannot be ended: the
        association is aborted and the error goes on.
        """
        with self.words("take a message"):
            try:
                send_message(self._transport, message_parts(context_id, command, pieces, length, self.max_length))
            except (Disconnected, Stalled):
                raise
            except BaseException:
                self._close()
                raise

    def command(self, wait_s: float | None = None) -> tuple[int, Command]:
        """The next command set and its presentation context, awaited for `wait_s` (the response time if None)."""
        with self.words("answer"):
            raw, first, last = bytearray(), 0, False
            while not last:
                patience = PDU_S if first else (self._timeouts.response_s if wait_s is None else wait_s)
                context_id, control, length = self._next_fragment(patience)
                if (first and context_id != first) or not control & 1:
                    raise ProtocolError("a command fragment was due", AbortReason.UNEXPECTED_PARAMETER)
                if len(raw) + length > MAX_COMMAND_LENGTH:
                    raise ProtocolError("command set too long")
                first = context_id
                self._transport.pump(length, raw.extend)
                last = bool(control & 2)
            return first, decode_command(raw)

    def dataset(self, context_id: int, sink: Callable[[memoryview], object]) -> None:
        """Hand the data set that follows a command set to `sink`, piece by piece."""
        with self.words("send a data set"):
            self._transport.meter(True)
            last = False
            while not last:
                found, control, length = self._next_fragment(PDU_S)
                if found != context_id or control & 1:
                    raise ProtocolError("a data set fragment was due", AbortReason.UNEXPECTED_PARAMETER)
                self._transport.pump(length, sink)
                last = bool(control & 2)
            self._transport.meter(False)

    @property
    def pending(self) -> bool:
        """Whether something of the peer's is there to be read. Raises PeerUnreachable where the connection is gone."""
        with self.words("stay"):
            return bool(self._pdu_left) or self._transport.pending()

    def readable(self, within_s: float) -> bool:
        """Whether something of the peer's is there within this time. Raises PeerUnreachable where it is gone."""
        with self.words("stay"):
            return bool(self._pdu_left) or self._transport.readable(None, within_s)

    def _next_fragment(self, wait_s: float) -> tuple[int, int, int]:
        transport = self._transport
        while not self._pdu_left:
            transport.expect(wait_s)
            kind, length = decode_header(transport.take(HEADER_LENGTH))
            check_length(kind, length, self._max_received)
            transport.expect(max(PDU_S, length / MIN_BYTES_PER_S))
            if kind == PDUType.ABORT:
                self._close()
                raise PeerFailed(f"{self.remote} aborts the association")
            if kind != PDUType.DATA:
                raise ProtocolError(f"PDU type {kind} within an association", AbortReason.UNEXPECTED_PDU)
            self._pdu_left = length
        if self._pdu_left < HEADER_LENGTH:
            raise ProtocolError("P-DATA-TF with bytes that are no fragment")
        length, context_id, control = struct.unpack(">IBB", transport.take(HEADER_LENGTH))
        if not 2 <= length <= self._pdu_left - 4:
            raise ProtocolError("fragment is longer than its PDU")
        self._pdu_left -= length + 4
        return context_id, control, length - 2

    @contextmanager
    def words(self, doing: str) -> Iterator[None]:
        """Turns what can go wrong on the wire into errors that name the peer; the association is over then."""
        if not self.open:
            raise PeerUnreachable(f"the association with {self.remote} is over")
        try:
            yield
        except Disconnected:
            self._close()
            raise PeerUnreachable(f"{self.remote} closed the connection instead of going on to {doing}") from None
        except Stalled:
            self.abort(AbortSource.PROVIDER)
            raise PeerUnreachable(f"{self.remote} does not {doing} in time") from None
        except ProtocolError as error:
            self.abort(error.source, error.reason)
            raise PeerFailed(f"{self.remote} breaks the protocol: {error}") from None


def connect(remote: Remote, timeouts: Timeouts) -> Link:
    """A connection to `remote` without an association yet. Raises PeerUnreachable, and PeerRefused where TLS fails."""
    try:
        sock = socket.create_connection((remote.host, remote.port), timeouts.connect_s)
    except (OSError, UnicodeError) as error:
        why = (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
        raise PeerUnreachable(f"cannot connect to {remote}: {why}") from None
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if remote.tls is not None:
            sock = wrapped = remote.tls.wrap_socket(sock, server_hostname=remote.host)
            if remote.certificate and fingerprint_of(wrapped) != remote.certificate:
                sock.close()
                raise PeerRefused(f"{remote} shows another TLS certificate than the configured one")
    except ssl.SSLError as error:
        sock.close()
        raise PeerRefused(f"no TLS with {remote}: {error.reason or error}") from None
    except OSError as error:
        sock.close()
        raise PeerUnreachable(f"no TLS with {remote}: {error}") from None
    security = ""
    if isinstance(sock, ssl.SSLSocket) and (cipher := sock.cipher()) is not None:
        security = f"{sock.version()} {cipher[0]}"
    return Link(remote, Transport(sock), timeouts, security)


def send_message(transport: Transport, message: Iterable[list[Piece]]) -> None:
    """Send a message made by `message_parts`. Whatever breaks it off, nothing follows on this connection.

    An A-ABORT behind a fragment that was cut short would be read as the rest of that fragment.
    """
    try:
        for parts in message:
            transport.send_all(parts)
    except BaseException:
        transport.spoil()
        raise


def message_parts(
    context_id: int, command: bytes, pieces: Iterable[Piece], length: int | None, max_length: int
) -> Iterator[list[Piece]]:
    """A message as P-DATA-TF PDUs of at most `max_length` bytes, in lists to be sent as they are; nothing is copied.

    Raises Corrupt where `pieces` are not `length` bytes in all: the message begun cannot be ended.
    """
    room = (max_length - 6) & ~1
    parts = list[Piece]()
    for at in range(0, len(command), room):
        part = command[at : at + room]
        parts += (fragment_header(context_id, len(part), 3 if at + room >= len(command) else 1), part)
    if length is None:
        yield parts
        return
    whole = fragment_header(context_id, room, 0)
    begun, left = 0, length  # `left` counts what has no header yet; `begun` what the last header still waits for
    if not length:
        parts.append(fragment_header(context_id, 0, 2))
    for piece in pieces:
        view, at = memoryview(piece), 0
        while at < len(view):
            if not begun:
                begun = min(room, left)
                if not begun:
                    raise Corrupt("the data set has more bytes than were announced")
                left -= begun
                parts.append(whole if left else fragment_header(context_id, begun, 2))
            taken = min(begun, len(view) - at)
            parts.append(view[at : at + taken])
            at += taken
            begun -= taken
        yield parts
        parts = []
    if begun or left:
        raise Corrupt("the data set has fewer bytes than were announced")
    if parts:
        yield parts


def fragment_header(context_id: int, length: int, control: int) -> bytes:
    """The twelve bytes before a fragment that fills its PDU (PS3.8 9.3.5)."""
    return struct.pack(">BxIIBB", PDUType.DATA, length + 6, length + 2, context_id, control)


def _rejected(body: bytes) -> str:
    result, source, reason = body[1], body[2], body[3]
    why = WHY_REJECTED.get((result, source, reason)) or WHY_REJECTED.get(
        (3 - result, source, reason), "no reason given"
    )
    return f"{why} ({'for now' if result == 2 else 'for good'}; result {result}, source {source}, reason {reason})"
