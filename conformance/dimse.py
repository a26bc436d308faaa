"""A DICOM application entity of the suite's own: the requesting side, exact on the wire and with nothing hidden.

One thread, no state machine beyond what a check does: a check sees each message as it came, with its presentation
context, its command set and what is wrong with its encoding.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from conformance import pdu
from conformance.pdu import Accepted, Context, Malformed, Value
from conformance.wire import Connection, DimseFailure, NotAccepted, Target

DEFLATED: Final = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
VERIFICATION: Final = "1.2.840.10008.1.1"

COMMANDS: Final = {
    "C-STORE": 0x0001, "C-GET": 0x0010, "C-FIND": 0x0020, "C-MOVE": 0x0021, "C-ECHO": 0x0030, "N-EVENT-REPORT": 0x0100,
    "N-GET": 0x0110, "N-SET": 0x0120, "N-ACTION": 0x0130, "N-CREATE": 0x0140, "N-DELETE": 0x0150, "C-CANCEL": 0x0FFF,
}  # fmt: skip
"""Command Field of each request (PS3.7 table E.1-1); a response has bit 15 set."""
_NAMES: Final = {number: name for name, number in COMMANDS.items()}
_REQUESTED: Final = frozenset({"N-GET", "N-SET", "N-ACTION", "N-DELETE"})
PENDING: Final = frozenset({0xFF00, 0xFF01})


@dataclass(frozen=True)
class Message:
    """One DIMSE message as it came."""

    context_id: int
    fields: dict[str, Value]
    faults: list[str]
    raw: bytes | None
    transfer_syntax: str

    @property
    def status(self) -> int:
        """The Status; -1 where there is none."""
        value = self.fields.get("Status")
        return value if isinstance(value, int) else -1

    @property
    def name(self) -> str:
        """The kind of message: C-FIND-RSP."""
        number = self.fields.get("CommandField")
        if not isinstance(number, int):
            return "a message without Command Field"
        return f"{_NAMES.get(number & 0x7FFF, hex(number))}-{'RSP' if number & 0x8000 else 'RQ'}"

    def number(self, keyword: str) -> int | None:
        """An integer field, None where there is none."""
        value = self.fields.get(keyword)
        return value if isinstance(value, int) else None

    def dataset(self) -> Dataset:
        """The data set, decoded; an empty one where there is none."""
        return decode(self.raw, self.transfer_syntax) if self.raw else Dataset()

    def __str__(self) -> str:
        parts = [self.name] + ([f"{self.status:04X}H"] if "Status" in self.fields else [])
        parts += [f"({self.fields[key]})" for key in ("ErrorComment",) if self.fields.get(key)]
        return " ".join(parts)


def encode(ds: Dataset, transfer_syntax: str) -> bytes:
    """A data set in a transfer syntax."""
    fp = DicomBytesIO()
    fp.is_implicit_VR = transfer_syntax == pdu.IMPLICIT
    fp.is_little_endian = transfer_syntax != BIG_ENDIAN
    write_dataset(fp, ds)
    raw: bytes = fp.getvalue()
    if transfer_syntax == DEFLATED:
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        raw = packer.compress(raw) + packer.flush()
        raw += b"\0" * (len(raw) & 1)
    return raw


def decode(raw: bytes, transfer_syntax: str) -> Dataset:
    """The data set in `raw`, every element read."""
    if transfer_syntax == DEFLATED:
        raw = zlib.decompressobj(wbits=-zlib.MAX_WBITS).decompress(raw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a value is worth is for the checks to say
        ds: Dataset = read_dataset(io.BytesIO(raw), transfer_syntax == pdu.IMPLICIT, transfer_syntax != BIG_ENDIAN)
        ds.decode()
    return ds


def associate(target: Target, *contexts: Context, **options: Any) -> Association:
    """An association with these contexts. Raises Rejected, Aborted, Closed, Silent, Malformed."""
    return Association(target, contexts, **options)


class Association(Connection):
    """An accepted association."""

    def __init__(
        self,
        target: Target,
        contexts: Sequence[Context],
        *,
        timeout_s: float | None = None,
        called: str | None = None,
        calling: str | None = None,
        max_length: int = 16384,
        **user: Any,
    ) -> None:
        super().__init__(target, timeout_s=timeout_s)
        self.contexts = tuple(contexts)
        self.largest_pdu = 0
        self.on_request: Callable[[Message], None] = self._refuse
        self._message_id = 0x1200
        items = pdu.user_items(contexts, max_length=max_length, **user)
        request = pdu.associate_request(called or target.aet, calling or target.calling, contexts, items)
        try:
            self.send(request)
            target.note(f"→ A-ASSOCIATE-RQ, {len(contexts)} presentation contexts")
            kind, body = self.read_pdu()
            if kind != pdu.ASSOCIATE_AC:
                raise Malformed(f"{pdu.PDU_NAMES.get(kind, kind)} as an answer to A-ASSOCIATE-RQ")
            self.accepted: Accepted = pdu.read_accept(body)
        except BaseException:
            self.sock.close()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None and not self.over:
                self.release()
        except (DimseFailure, Malformed):
            pass  # whoever wants to judge the release calls it
        finally:
            self.sock.close()

    def release(self) -> None:
        """Release in order (PS3.8 section 7.2). Raises Malformed where something else than A-RELEASE-RP comes."""
        self.over = True
        self.send(pdu.pdu(pdu.RELEASE_RQ, bytes(4)))
        kind, _ = self.read_pdu()
        if kind != pdu.RELEASE_RP:
            raise Malformed(f"{pdu.PDU_NAMES.get(kind, kind)} as an answer to A-RELEASE-RQ")

    def abort(self) -> None:
        """Abort, and close the connection."""
        self.over = True
        self.send(pdu.pdu(pdu.ABORT, bytes(4)))
        self.sock.close()

    def context(self, abstract_syntax: str, transfer_syntax: str | None = None) -> tuple[int, str]:
        """Identifier and transfer syntax of an accepted context. Raises NotAccepted."""
        for at, each in enumerate(self.contexts):
            result, syntax = self.accepted.results.get(2 * at + 1, (-1, ""))
            fits = transfer_syntax in (None, syntax)
            if each.abstract_syntax == abstract_syntax and result == 0 and fits:
                return 2 * at + 1, syntax
        raise NotAccepted(f"no presentation context for {abstract_syntax} {transfer_syntax or ''}".rstrip())

    def accepts(self, abstract_syntax: str) -> bool:
        """Whether a context of this abstract syntax was accepted."""
        try:
            return bool(self.context(abstract_syntax))
        except NotAccepted:
            return False

    def next_id(self) -> int:
        """A fresh Message ID."""
        self._message_id += 3
        return self._message_id

    @property
    def last_id(self) -> int:
        """The Message ID of the last request."""
        return self._message_id

    def transmit(self, context_id: int, fields: dict[str, Value], data: bytes | None = None) -> None:
        """Send a message in PDUs as long as the peer takes them."""
        limit = self.accepted.max_length or 65536
        room = max(2, min(limit, 65536) - 6) & ~1
        out = bytearray()
        for raw, command in ((pdu.encode_command(fields), 1), (data, 0)):
            if raw is None:
                continue
            for at in range(0, len(raw) or 1, room):
                last = 2 if at + room >= len(raw) else 0
                out += pdu.pdu(pdu.P_DATA, pdu.pdv(context_id, command | last, raw[at : at + room]))
        self.send(bytes(out))

    def receive(self) -> Message:
        """The next message. Raises Malformed where PDUs break PS3.8 or the command set PS3.7."""
        parts: tuple[bytearray, bytearray] = bytearray(), bytearray()
        fields: dict[str, Value] = {}
        faults: list[str] = []
        context = 0
        while True:
            kind, body = self.read_pdu()
            self.largest_pdu = max(self.largest_pdu, len(body))
            if kind != pdu.P_DATA:
                raise Malformed(f"{pdu.PDU_NAMES.get(kind, kind)} where a message was due")
            at = 0
            while at < len(body):
                if at + 6 > len(body):
                    raise Malformed("a PDV item is cut off")
                length, number, control = struct.unpack_from(">IBB", body, at)
                if length < 2 or at + 4 + length > len(body):
                    raise Malformed(f"a PDV item of {length} bytes does not fit its PDU")
                if context not in (0, number):
                    faults.append(f"fragments on the contexts {context} and {number}")
                context = number
                parts[control & 1].extend(body[at + 6 : at + 4 + length])
                at += 4 + length
                if control & 3 == 3:
                    fields, wrong = pdu.decode_command(bytes(parts[1]))
                    faults += wrong
                if control & 2 and (not control & 1 or fields.get("CommandDataSetType") == pdu.NO_DATA_SET):
                    raw = bytes(parts[0]) if not control & 1 else None
                    syntax = self.accepted.results.get(context, (0, pdu.IMPLICIT))[1]
                    message = Message(context, fields, faults, raw, syntax)
                    self.target.note(f"← {message}")
                    return message

    def request(
        self,
        command: str,
        abstract_syntax: str,
        dataset: Dataset | bytes | None = None,
        *,
        transfer_syntax: str | None = None,
        sop_class: str | None = None,
        **fields: Value,
    ) -> Iterator[Message]:
        """Every response to a request, the final one last. Sub-operations of C-GET go to `on_request`."""
        context_id, syntax = self.context(abstract_syntax, transfer_syntax)
        raw = encode(dataset, syntax) if isinstance(dataset, Dataset) else dataset
        number = self.next_id()
        name = "RequestedSOPClassUID" if command in _REQUESTED else "AffectedSOPClassUID"
        whole: dict[str, Value] = {
            name: sop_class or abstract_syntax, "CommandField": COMMANDS[command], "MessageID": number,
            "CommandDataSetType": pdu.NO_DATA_SET if raw is None else 1, **fields,
        }  # fmt: skip
        if command in ("C-STORE", "C-FIND", "C-MOVE", "C-GET"):
            whole.setdefault("Priority", 0)
        self.transmit(context_id, whole, raw)
        self.target.note(f"→ {command}-RQ on {abstract_syntax}")
        return self._responses(number)

    def _responses(self, number: int) -> Iterator[Message]:
        while True:
            message = self.receive()
            if message.name.endswith("-RQ"):
                self.on_request(message)
                continue
            yield message
            if message.status not in PENDING:
                return

    def ask(self, command: str, abstract_syntax: str, dataset: Dataset | bytes | None = None, **fields: Any) -> Message:
        """The final response to a request."""
        return list(self.request(command, abstract_syntax, dataset, **fields))[-1]

    def store(self, sop_class: str, instance: str, dataset: Dataset | bytes, **fields: Any) -> Message:
        """The response to a C-STORE."""
        return self.ask("C-STORE", sop_class, dataset, AffectedSOPInstanceUID=instance, **fields)

    def cancel(self, abstract_syntax: str) -> None:
        """C-CANCEL of the last request (PS3.7 section 9.3.2.3)."""
        context_id, _ = self.context(abstract_syntax)
        fields: dict[str, Value] = {
            "CommandField": COMMANDS["C-CANCEL"], "MessageIDBeingRespondedTo": self._message_id,
            "CommandDataSetType": pdu.NO_DATA_SET,
        }  # fmt: skip
        self.transmit(context_id, fields)
        self.target.note("→ C-CANCEL-RQ")

    def answer(self, message: Message, status: int, **fields: Value) -> None:
        """Answer a request of the peer."""
        given = message.fields
        whole: dict[str, Value] = {
            "CommandField": int(message.number("CommandField") or 0) | 0x8000,
            "MessageIDBeingRespondedTo": int(message.number("MessageID") or 0),
            "CommandDataSetType": pdu.NO_DATA_SET, "Status": status,
        }  # fmt: skip
        for keyword in ("AffectedSOPClassUID", "AffectedSOPInstanceUID", "EventTypeID"):
            if keyword in given:
                whole[keyword] = given[keyword]
        self.transmit(message.context_id, {**whole, **fields})

    def _refuse(self, message: Message) -> None:
        self.answer(message, 0x0211)
