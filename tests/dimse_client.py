"""A DIMSE peer for tests that can also misbehave: its own plain encoding, nothing of the server's."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
VERIFICATION = "1.2.840.10008.1.1"
PATIENT_FIND = "1.2.840.10008.5.1.4.1.2.1.1"
STUDY_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
CT = "1.2.840.10008.5.1.4.1.1.2"

UID_TAGS = frozenset({0x0002, 0x0003, 0x1000, 0x1001})
Fields = Mapping[int, int | str | bytes]


class Aborted(Exception):
    """The server sent an A-ABORT: source and reason."""


class Rejected(Exception):
    """The server sent an A-ASSOCIATE-RJ: result, source, reason."""


def item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBI", kind, 0, len(body)) + body


def command(fields: Fields) -> bytes:
    """A command set, Implicit VR Little Endian."""
    out = b""
    for element in sorted(fields):
        value = fields[element]
        if isinstance(value, int):
            raw = struct.pack("<H", value)
        else:
            raw = value.encode() if isinstance(value, str) else value
            raw += (b"\0" if element in UID_TAGS else b" ") * (len(raw) & 1)
        out += struct.pack("<HHI", 0, element, len(raw)) + raw
    return struct.pack("<HHII", 0, 0, 4, len(out)) + out


def decode_command(raw: bytes) -> dict[int, Any]:
    out: dict[int, Any] = {}
    at = 0
    while at < len(raw):
        _, element, size = struct.unpack_from("<HHI", raw, at)
        value = raw[at + 8 : at + 8 + size]
        at += 8 + size
        if element in UID_TAGS or element == 0x0902:
            out[element] = value.rstrip(b"\0 ").decode()
        else:
            out[element] = struct.unpack("<H", value)[0] if size == 2 else value
    return out


def pdv(context_id: int, control: int, data: bytes) -> bytes:
    return struct.pack(">IBB", len(data) + 2, context_id, control) + data


def implicit(elements: Mapping[int, str | bytes]) -> bytes:
    """An identifier in Implicit VR Little Endian from tag: text."""
    out = b""
    for tag in sorted(elements):
        value = elements[tag]
        raw = value.encode() if isinstance(value, str) else value
        raw += (b"\0" if tag in (0x0020000D, 0x0020000E, 0x00080018) else b" ") * (len(raw) & 1)
        out += struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(raw)) + raw
    return out


def associate_request(
    called: str = "M3DICOM",
    calling: str = "TESTER",
    contexts: Sequence[tuple[str, Sequence[str]]] = ((VERIFICATION, (IMPLICIT,)),),
    *,
    max_length: int = 131072,
    user_items: bytes = b"",
    version: int = 1,
    application: str = "1.2.840.10008.3.1.1.1",
) -> bytes:
    """An A-ASSOCIATE-RQ PDU; the contexts get the identifiers 1, 3, 5, …"""
    body = struct.pack(">HH", version, 0) + called.ljust(16).encode() + calling.ljust(16).encode() + bytes(32)
    body += item(0x10, application.encode())
    for at, (abstract, syntaxes) in enumerate(contexts):
        names = item(0x30, abstract.encode()) + b"".join(item(0x40, each.encode()) for each in syntaxes)
        body += item(0x20, bytes((2 * at + 1, 0, 0, 0)) + names)
    user = item(0x51, struct.pack(">I", max_length)) + item(0x52, b"1.2.826.0.1.3680043.8.498.77.2") + user_items
    return pdu(1, body + item(0x50, user))


class Connection:
    """A TCP connection to the server, with PDUs read off it."""

    def __init__(self, address: tuple[str, int], timeout: float = 30.0) -> None:
        self.sock = self.connect(address, timeout)
        self.over = False

    def connect(self, address: tuple[str, int], timeout: float) -> socket.socket:
        """The socket to talk through."""
        sock = socket.create_connection(address, timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def read(self, count: int) -> bytes:
        out = bytearray()
        while len(out) < count:
            got = self.sock.recv(min(1 << 20, count - len(out)))
            if not got:
                raise ConnectionError("the server closed the connection")
            out += got
        return bytes(out)

    def read_pdu(self) -> tuple[int, bytes]:
        kind, length = struct.unpack(">BxI", self.read(6))
        body = self.read(length)
        if kind == 7:
            raise Aborted(body[2], body[3])
        if kind == 3:
            raise Rejected(body[1], body[2], body[3])
        return kind, body

    def ended(self) -> tuple[int, ...] | None:
        """How the server ends the conversation: (source, reason) of its A-ABORT, or None where it just closes."""
        self.over = True
        try:
            while True:
                self.read_pdu()
        except Aborted as aborted:
            return tuple(aborted.args)
        except ConnectionError:
            return None


class Association(Connection):
    """An accepted association."""

    def __init__(self, address: tuple[str, int], timeout: float = 30.0, **request: Any) -> None:
        super().__init__(address, timeout)
        contexts = request.get("contexts", ((VERIFICATION, (IMPLICIT,)),))
        self.message_id = 0
        self.results: list[int] = []
        self.accepted: dict[str, tuple[int, str]] = {}
        self.user: list[tuple[int, bytes]] = []
        self.max_length = 0
        try:
            self.send(associate_request(**request))
            kind, body = self.read_pdu()
        except BaseException:
            self.sock.close()
            raise
        assert kind == 2
        at = 68
        while at < len(body):
            kind, length = struct.unpack_from(">BxH", body, at)
            sub = body[at + 4 : at + 4 + length]
            at += 4 + length
            if kind == 0x21:
                self.results.append(sub[2])
                if sub[2] == 0:
                    syntax = sub[8 : 8 + struct.unpack_from(">H", sub, 6)[0]].decode()
                    self.accepted[contexts[sub[0] // 2][0]] = (sub[0], syntax)
            elif kind == 0x50:
                inner = 0
                while inner < length:
                    sub_kind, sub_length = struct.unpack_from(">BxH", sub, inner)
                    self.user.append((sub_kind, sub[inner + 4 : inner + 4 + sub_length]))
                    inner += 4 + sub_length
        self.max_length = struct.unpack(">I", dict(self.user)[0x51])[0]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None and not self.over:
                with contextlib.suppress(OSError):
                    self.release()
        finally:
            self.sock.close()

    def release(self) -> None:
        """Ends the association; what the server sends before it has read the request is passed over (PS3.8 AR-6)."""
        self.send(pdu(5, bytes(4)))
        while (kind := self.read_pdu()[0]) == 4:
            pass
        assert kind == 6, f"PDU type {kind}"

    def next_id(self) -> int:
        self.message_id += 1
        return self.message_id

    def message(self, context_id: int, command_set: bytes, dataset: bytes | None = None) -> bytes:
        """The PDUs of a message, as long as the server takes them."""
        room = min(self.max_length, 131072) - 6
        out = bytearray()
        for raw, bit in ((command_set, 1), (dataset, 0)):
            if raw is None:
                continue
            for at in range(0, len(raw) or 1, room):
                part = raw[at : at + room]
                out += pdu(4, pdv(context_id, bit | (2 if at + room >= len(raw) else 0), part))
        return bytes(out)

    def response(self) -> tuple[dict[int, Any], bytes]:
        """The fields and data set of the next message."""
        parts, fields = (bytearray(), bytearray()), dict[int, Any]()
        while True:
            kind, body = self.read_pdu()
            assert kind == 4, f"PDU type {kind}"
            at = 0
            while at < len(body):
                length, _, control = struct.unpack_from(">IBB", body, at)
                parts[control & 1].extend(body[at + 6 : at + 4 + length])
                at += 4 + length
                if control & 2 and control & 1:
                    fields = decode_command(bytes(parts[1]))
                if control & 2 and (not control & 1 or fields[0x0800] == 0x0101):
                    return fields, bytes(parts[0])

    def echo(self) -> int:
        """The status of a C-ECHO."""
        fields = {0x0002: VERIFICATION, 0x0100: 0x30, 0x0110: self.next_id(), 0x0800: 0x0101}
        self.send(self.message(self.accepted[VERIFICATION][0], command(fields)))
        return int(self.response()[0][0x0900])

    def store_message(self, sop_class: str, sop_instance: str, dataset: bytes) -> bytes:
        fields: dict[int, int | str | bytes] = {
            0x0002: sop_class, 0x0100: 1, 0x0110: self.next_id(), 0x0700: 0, 0x0800: 1, 0x1000: sop_instance,
        }  # fmt: skip
        return self.message(self.accepted[sop_class][0], command(fields), dataset)

    def store(self, sop_class: str, sop_instance: str, dataset: bytes) -> dict[int, Any]:
        """The fields of the C-STORE response."""
        self.send(self.store_message(sop_class, sop_instance, dataset))
        return self.response()[0]

    def request_find(self, identifier: bytes, model: str = STUDY_FIND) -> int:
        """Send a C-FIND request; its message id."""
        number = self.next_id()
        fields: Fields = {0x0002: model, 0x0100: 0x20, 0x0110: number, 0x0700: 0, 0x0800: 1}
        self.send(self.message(self.accepted[model][0], command(fields), identifier))
        return number

    def find(self, identifier: bytes, model: str = STUDY_FIND) -> tuple[dict[int, Any], list[tuple[int, bytes]]]:
        """The fields of the final response, and status and identifier of each pending one."""
        self.request_find(identifier, model)
        pending = []
        while True:
            fields, dataset = self.response()
            if fields[0x0900] not in (0xFF00, 0xFF01):
                return fields, pending
            pending.append((fields[0x0900], dataset))
