"""The suite as the other side: an AE that takes C-STORE, C-ECHO and N-EVENT-REPORT on a port of its own.

It is what C-MOVE sends to and where reports of storage commitment and events of Workitems arrive when the server
opens an association for them.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from conformance import pdu
from conformance.dimse import COMMANDS, VERIFICATION, Message
from conformance.pdu import Malformed, Value

STORAGE_ARC: Final = "1.2.840.10008.5.1.4.1.1."
COMMITMENT: Final = "1.2.840.10008.1.20.1"
UPS_EVENT: Final = "1.2.840.10008.5.1.4.34.6.4"
BY_EVENT: Final = frozenset({COMMITMENT, UPS_EVENT})
"""SOP classes of which the suite is the SCU although the server opens the association."""


@dataclass(frozen=True)
class Arrived:
    """A request that came: who called, what was said."""

    calling: str
    called: str
    message: Message
    association: int


@dataclass
class Manners:
    """How the suite answers; checks change it for a while."""

    transfer_syntaxes: tuple[str, ...] = ()
    """The only ones accepted for Storage; any where empty."""
    store_status: Callable[[Message], int] = field(default=lambda message: 0)


class Listener:
    """Accepts associations until closed; what arrives is kept in the order of arrival."""

    def __init__(self, port: int, host: str = "") -> None:
        """Raises OSError where the port is taken."""
        self.manners = Manners()
        self.arrived: list[Arrived] = []
        self.faults: list[str] = []
        self._changed = threading.Condition()
        self._socket = socket.create_server((host, port), backlog=16)
        self.port: int = self._socket.getsockname()[1]
        self._associations = 0
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True, name="conformance-scp").start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Take no more, and end what is open."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for each in list(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def mark(self) -> int:
        """How much has arrived so far."""
        with self._changed:
            return len(self.arrived)

    def wait(self, found: Callable[[list[Arrived]], bool], since: int = 0, timeout_s: float = 30) -> list[Arrived]:
        """What arrived after `since`, as soon as `found` holds of it or the time is over."""
        until = time.monotonic() + timeout_s
        with self._changed:
            while not found(self.arrived[since:]) and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            return self.arrived[since:]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        self._open.add(connection)
        try:
            with connection:
                connection.settimeout(120)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _Conversation(self, connection).run()
        except Malformed as error:
            with self._changed:
                self.faults.append(str(error))
        except (OSError, EOFError):
            pass  # the peer broke off: what had arrived by then is what a check sees
        finally:
            self._open.discard(connection)

    def take(self, calling: str, called: str, message: Message, association: int) -> None:
        """Keep what arrived."""
        with self._changed:
            self.arrived.append(Arrived(calling, called, message, association))
            self._changed.notify_all()

    def number(self) -> int:
        """A number for a new association."""
        with self._changed:
            self._associations += 1
            return self._associations


class _Conversation:
    """One association, from request to release."""

    def __init__(self, listener: Listener, connection: socket.socket) -> None:
        self._listener = listener
        self._connection = connection
        self._syntaxes: dict[int, str] = {}
        self._parts: tuple[bytearray, bytearray] = bytearray(), bytearray()
        self._fields: dict[str, Value] = {}
        self._faults: list[str] = []

    def run(self) -> None:
        """Answer until it is over."""
        kind, body = self._read()
        if kind != pdu.ASSOCIATE_RQ:
            raise Malformed(f"{pdu.PDU_NAMES.get(kind, kind)} first")
        self._called, self._calling = (body[at : at + 16].decode("ascii", "replace").strip() for at in (4, 20))
        self._number = self._listener.number()
        self._connection.sendall(self._agree(body))
        while True:
            kind, body = self._read()
            if kind == pdu.RELEASE_RQ:
                self._connection.sendall(pdu.pdu(pdu.RELEASE_RP, bytes(4)))
                return
            if kind == pdu.ABORT:
                return
            if kind != pdu.P_DATA:
                raise Malformed(f"{pdu.PDU_NAMES.get(kind, kind)} in an association")
            self._data(body)

    def _read(self) -> tuple[int, bytes]:
        kind, _, length = struct.unpack(">BBI", self._exactly(6))
        return kind, self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        out = bytearray()
        while len(out) < count:
            got = self._connection.recv(min(1 << 20, count - len(out)))
            if not got:
                raise EOFError
            out += got
        return bytes(out)

    def _agree(self, request: bytes) -> bytes:
        contexts, user = pdu.requested(request)
        only, results = self._listener.manners.transfer_syntaxes, dict[int, tuple[int, str]]()
        for number, abstract, syntaxes in contexts:
            storage = abstract.startswith(STORAGE_ARC)
            taken = [each for each in syntaxes if not only or not storage or each in only]
            if not storage and abstract not in BY_EVENT | {VERIFICATION}:
                results[number] = 3, pdu.IMPLICIT
            elif not taken:
                results[number] = 4, pdu.IMPLICIT
            else:
                results[number] = 0, taken[0]
                self._syntaxes[number] = taken[0]
        # The proposed roles come back as they were: the suite plays whatever is left (PS3.7 D.3.3.4)
        roles = b"".join(pdu.item(kind, value) for kind, value in user if kind == 0x54)
        return pdu.associate_accept(request, results, pdu.user_items(()) + roles)

    def _data(self, body: bytes) -> None:
        at = 0
        while at < len(body):
            if at + 6 > len(body):
                raise Malformed("a PDV item is cut off")
            length, number, control = struct.unpack_from(">IBB", body, at)
            self._parts[control & 1].extend(body[at + 6 : at + 4 + length])
            at += 4 + length
            if control & 3 == 3:
                self._fields, self._faults = pdu.decode_command(bytes(self._parts[1]))
            if control & 2 and (not control & 1 or self._fields.get("CommandDataSetType") == pdu.NO_DATA_SET):
                raw = None if control & 1 else bytes(self._parts[0])
                self._message(Message(number, self._fields, self._faults, raw, self._syntaxes.get(number, "")))
                self._parts = bytearray(), bytearray()

    def _message(self, message: Message) -> None:
        field = message.number("CommandField")
        status = 0
        if field == COMMANDS["C-STORE"]:
            status = self._listener.manners.store_status(message)
        elif field not in (COMMANDS["C-ECHO"], COMMANDS["N-EVENT-REPORT"]):
            status = 0x0211
        answer: dict[str, Value] = {
            "CommandField": (field or 0) | 0x8000, "MessageIDBeingRespondedTo": message.number("MessageID") or 0,
            "CommandDataSetType": pdu.NO_DATA_SET, "Status": status,
        }  # fmt: skip
        for keyword in ("AffectedSOPClassUID", "AffectedSOPInstanceUID", "EventTypeID"):
            if keyword in message.fields:
                answer[keyword] = message.fields[keyword]
        self._listener.take(self._calling, self._called, message, self._number)
        encoded = pdu.encode_command(answer)
        self._connection.sendall(pdu.pdu(pdu.P_DATA, pdu.pdv(message.context_id, 3, encoded)))
