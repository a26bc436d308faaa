"""Faults of what the good server lacks: a worklist and performed steps, made in the proxy first; versions; TLS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from faults.breaking_proxy import Break, Instead, Message
from faults.planted import Fault
from pydicom import Dataset

from conformance import pdu
from conformance.dimse import encode

WORKLIST, PERFORMED = "1.2.840.10008.5.1.4.31", "1.2.840.10008.3.1.2.3.3"


def _accepted(body: bytes) -> bytes:
    """An A-ASSOCIATE-AC in which every context that was refused is accepted."""
    out = body[:68]
    for kind, value in pdu.items(body, 68):
        refused = kind == 0x21 and value[2]
        out += pdu.item(kind, value[:2] + b"\0\0" + pdu.item(0x40, pdu.IMPLICIT.encode()) if refused else value)
    return out


def serving(abstract_syntax: str, serve: Callable[[Message], tuple[Message, ...]]) -> Break:
    """A service that the server refuses, answered here."""
    return Break(accept=_accepted, ask=lambda m: Instead(serve(m)) if m.abstract_syntax == abstract_syntax else None)


def _response(asked: Message, status: int, ds: Dataset | None = None, **fields: Any) -> Message:
    """A response to a request."""
    made = {
        "CommandField": asked.fields["CommandField"] | 0x8000, "MessageIDBeingRespondedTo": asked.fields["MessageID"],
        "CommandDataSetType": 1, "Status": status, **fields,
    }  # fmt: skip
    raw = None if ds is None else encode(ds, pdu.IMPLICIT)
    return Message(asked.context_id, made, raw, pdu.IMPLICIT, asked.abstract_syntax, asked.memory)


def _worklist(steps: int) -> Callable[[Message], tuple[Message, ...]]:
    """One entry with so many Scheduled Procedure Steps."""

    def serve(asked: Message) -> tuple[Message, ...]:
        entry, step = Dataset(), Dataset()
        step.Modality, step.ScheduledProcedureStepID = "CT", "ZZ1"
        entry.PatientName, entry.ScheduledProcedureStepSequence = "ZZ^Scheduled", [step] * steps
        return (_response(asked, 0xFF00, entry), _response(asked, 0))

    return serve


def _performed(again: int, late: int, error: int) -> Callable[[Message], tuple[Message, ...]]:
    """Performed procedure steps: the status of one that is made twice, and of one that is changed after its end."""

    def serve(asked: Message) -> tuple[Message, ...]:
        first = asked.name not in asked.memory
        asked.memory[asked.name] = True
        if first:
            return (_response(asked, 0),)
        if asked.name == "N-CREATE-RQ":
            return (_response(asked, again),)
        return (_response(asked, late, **({"ErrorID": error} if error else {})),)

    return serve


def _no_bit_but_the_first(body: bytes) -> bytes:
    """As a server would read an A-ASSOCIATE-RQ that takes a Protocol-version with other bits for none of its own."""
    version = int.from_bytes(body[:2], "big")
    return (version if version == 1 else 2).to_bytes(2, "big") + body[2:]


STEPS = serving(PERFORMED, _performed(0x0111, 0x0110, 0xA710))

SERVICES = (
    Fault("two steps in one entry", "J38", serving(WORKLIST, _worklist(2)), ground=serving(WORKLIST, _worklist(1))),
    Fault("an entry without a step", "J38", serving(WORKLIST, _worklist(0)), ground=serving(WORKLIST, _worklist(1))),
    Fault("a step twice", "L15", serving(PERFORMED, _performed(0, 0x0110, 0xA710)), ground=STEPS),
    Fault("a step changes after its end", "L15", serving(PERFORMED, _performed(0x0111, 0, 0)), ground=STEPS),
    Fault("a step's end is no reason", "L15", serving(PERFORMED, _performed(0x0111, 0x0110, 0)), ground=STEPS),
    Fault("other bits of the version are tested", "K08c", Break(propose=_no_bit_but_the_first)),
    Fault("TLS 1.0", "O03", Break(old_tls=True)),
    Fault("plain DICOM on the port of TLS", "K26", Break(plain=True)),
)
