"""A TCP connection to an application entity, PDU by PDU, and the ways in which a conversation may end."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from types import TracebackType
from typing import Self

from conformance import pdu
from conformance.check import NoAnswer, NotSupported
from conformance.pdu import Malformed


class DimseFailure(NoAnswer):
    """The conversation went another way than asked for; the text says which."""


class Rejected(DimseFailure):
    """A-ASSOCIATE-RJ: result, source, reason (PS3.8 table 9-21)."""

    def __init__(self, result: int, source: int, reason: int) -> None:
        super().__init__(f"A-ASSOCIATE-RJ {result}/{source}/{reason}")
        self.codes = (result, source, reason)


class Aborted(DimseFailure):
    """A-ABORT: source, reason (PS3.8 table 9-26)."""

    def __init__(self, source: int, reason: int) -> None:
        super().__init__(f"A-ABORT source {source} reason {reason}")
        self.codes = (source, reason)


class Closed(DimseFailure):
    """The peer closed the connection."""


class Silent(DimseFailure):
    """The peer did not answer in time."""


class NotAccepted(NotSupported):
    """The peer did not accept the presentation context that is needed."""


@dataclass(frozen=True)
class Target:
    """The application entity under test, and how the suite presents itself to it."""

    aet: str
    host: str
    port: int
    calling: str = "CONFORMANCE"
    timeout_s: float = 30.0
    tls: ssl.SSLContext | None = field(default=None, compare=False)
    said: list[str] = field(default_factory=list, compare=False, repr=False)
    """What was said on the wire since a check began, a line each."""
    tell: Callable[[str], None] = field(default=lambda _: None, compare=False, repr=False)
    """Told the conversation so far, whenever it grows."""

    @property
    def conversation(self) -> str:
        """The last lines of what was said, equal ones in a row as one."""
        runs = [(line, len(list(same))) for line, same in groupby(self.said)]
        return "; ".join(line if count == 1 else f"{line} ({count} times)" for line, count in runs[-12:])

    def note(self, text: str) -> None:
        """Remember a line of the conversation."""
        self.said.append(text)
        self.tell(self.conversation)


class Connection:
    """A TCP connection on which PDUs are sent and read."""

    def __init__(self, target: Target, *, timeout_s: float | None = None) -> None:
        self.target = target
        try:
            self.sock = socket.create_connection((target.host, target.port), timeout_s or target.timeout_s)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if target.tls is not None:
                self.sock = target.tls.wrap_socket(self.sock, server_hostname=target.host)
        except OSError as error:
            raise Closed(f"no connection to {target.host}:{target.port}: {error}") from None
        self.over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        """Send bytes. Raises Closed, Silent."""
        try:
            self.sock.sendall(data)
        except TimeoutError:
            raise Silent("the peer took no bytes in time") from None
        except OSError as error:
            self.over = True
            raise Closed(f"the connection broke: {error}") from None

    def _read(self, count: int) -> bytes:
        out = bytearray()
        while len(out) < count:
            try:
                got = self.sock.recv(min(1 << 20, count - len(out)))
            except TimeoutError:
                raise Silent(f"no answer within {self.sock.gettimeout():g} s") from None
            except OSError as error:
                self.over = True
                raise Closed(f"the connection broke: {error}") from None
            if not got:
                self.over = True
                raise Closed("the connection was closed")
            out += got
        return bytes(out)

    def read_pdu(self) -> tuple[int, bytes]:
        """Type and body of the next PDU. Raises Rejected, Aborted, Closed, Silent, Malformed."""
        kind, _, length = struct.unpack(">BBI", self._read(6))
        if length > 1 << 28:
            raise Malformed(f"a PDU of type {kind:02X}H claims {length} bytes")
        body = self._read(length)
        if kind in (pdu.ABORT, pdu.ASSOCIATE_RJ):
            self.over = True
            if len(body) != 4:
                raise Malformed(f"{pdu.PDU_NAMES[kind]} of {len(body)} bytes, not 4")
            error = Aborted(body[2], body[3]) if kind == pdu.ABORT else Rejected(body[1], body[2], body[3])
            self.target.note(f"← {error}")
            raise error
        return kind, body

    def ending(self) -> DimseFailure:
        """How the peer ends the conversation: Aborted, Closed, Rejected, or Silent where it does not."""
        try:
            while True:
                self.read_pdu()
        except DimseFailure as end:
            return end
