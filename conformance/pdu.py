"""The bytes of the DICOM upper layer and of command sets (PS3.8 section 9.3, PS3.7 section 6.3), as plain values.

Nothing here is lenient: a peer's bytes are taken apart exactly, so that a check can say what is wrong with them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from conformance.check import NoAnswer

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
PDU_NAMES: Final = {
    1: "A-ASSOCIATE-RQ", 2: "A-ASSOCIATE-AC", 3: "A-ASSOCIATE-RJ", 4: "P-DATA-TF", 5: "A-RELEASE-RQ",
    6: "A-RELEASE-RP", 7: "A-ABORT",
}  # fmt: skip
APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
IMPLICIT: Final = "1.2.840.10008.1.2"
EXPLICIT: Final = "1.2.840.10008.1.2.1"
NO_DATA_SET: Final = 0x0101

IMPLEMENTATION_CLASS_UID: Final = "2.25.285563902137218498470214672914126157017"
IMPLEMENTATION_VERSION_NAME: Final = "CONFORMANCE"

FIELDS: Final = {
    "CommandGroupLength": (0x0000, "UL"), "AffectedSOPClassUID": (0x0002, "UI"), "RequestedSOPClassUID": (0x0003, "UI"),
    "CommandField": (0x0100, "US"), "MessageID": (0x0110, "US"), "MessageIDBeingRespondedTo": (0x0120, "US"),
    "MoveDestination": (0x0600, "AE"), "Priority": (0x0700, "US"), "CommandDataSetType": (0x0800, "US"),
    "Status": (0x0900, "US"), "OffendingElement": (0x0901, "AT"), "ErrorComment": (0x0902, "LO"),
    "ErrorID": (0x0903, "US"), "AffectedSOPInstanceUID": (0x1000, "UI"), "RequestedSOPInstanceUID": (0x1001, "UI"),
    "EventTypeID": (0x1002, "US"), "AttributeIdentifierList": (0x1005, "AT"), "ActionTypeID": (0x1008, "US"),
    "NumberOfRemainingSuboperations": (0x1020, "US"), "NumberOfCompletedSuboperations": (0x1021, "US"),
    "NumberOfFailedSuboperations": (0x1022, "US"), "NumberOfWarningSuboperations": (0x1023, "US"),
    "MoveOriginatorApplicationEntityTitle": (0x1030, "AE"), "MoveOriginatorMessageID": (0x1031, "US"),
}  # fmt: skip
"""The command elements of PS3.7 table E.1-1 that the suite sends or reads: keyword, element of group 0000, VR."""
_BY_ELEMENT: Final = {element: (keyword, vr) for keyword, (element, vr) in FIELDS.items()}

Value = int | str | list[int]


class Malformed(NoAnswer):
    """Bytes that are not what PS3.7 or PS3.8 prescribes; says which rule."""


@dataclass(frozen=True)
class Context:
    """A presentation context to propose: an abstract syntax, transfer syntaxes, and the roles of the requestor.

    `scu` and `scp` are proposed by SCP/SCU role selection (PS3.7 D.3.3.4) unless both are None.
    """

    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...] = (IMPLICIT,)
    scu: bool | None = None
    scp: bool | None = None


@dataclass
class Accepted:
    """An A-ASSOCIATE-AC, taken apart."""

    called: str = ""
    calling: str = ""
    version: int = 0
    application_context: str = ""
    results: dict[int, tuple[int, str]] = field(default_factory=dict)
    max_length: int | None = None
    implementation_class_uid: str = ""
    implementation_version_name: str = ""
    window: tuple[int, int] | None = None
    roles: dict[str, tuple[bool, bool]] = field(default_factory=dict)
    extended: dict[str, bytes] = field(default_factory=dict)
    identity: bytes | None = None


def item(kind: int, body: bytes) -> bytes:
    """An item or sub-item of an A-ASSOCIATE PDU."""
    return struct.pack(">BBH", kind, 0, len(body)) + body


def pdu(kind: int, body: bytes) -> bytes:
    """A whole PDU."""
    return struct.pack(">BBI", kind, 0, len(body)) + body


def pdv(context_id: int, control: int, data: bytes) -> bytes:
    """A presentation data value item; control bit 0: command, bit 1: last fragment."""
    return struct.pack(">IBB", len(data) + 2, context_id, control) + data


def _uid(text: str) -> bytes:
    return struct.pack(">H", len(text)) + text.encode()


def user_items(
    contexts: Sequence[Context],
    *,
    max_length: int = 16384,
    window: tuple[int, int] | None = None,
    extended: Mapping[str, bytes] | None = None,
    identity: tuple[str, str] | None = None,
) -> bytes:
    """The sub-items of the user information item (PS3.7 annex D.3.3)."""
    out = item(0x51, struct.pack(">I", max_length)) + item(0x52, IMPLEMENTATION_CLASS_UID.encode())
    if window is not None:
        out += item(0x53, struct.pack(">HH", *window))
    for each in {each.abstract_syntax: each for each in contexts if (each.scu, each.scp) != (None, None)}.values():
        out += item(0x54, _uid(each.abstract_syntax) + bytes((bool(each.scu), bool(each.scp))))
    out += item(0x55, IMPLEMENTATION_VERSION_NAME.encode())
    for uid, information in (extended or {}).items():
        out += item(0x56, _uid(uid) + information)
    if identity is not None:
        name, secret = (part.encode() for part in identity)
        sized = struct.pack(">H", len(name)) + name + struct.pack(">H", len(secret)) + secret
        out += item(0x58, bytes((2, 1)) + sized)
    return out


def associate_request(called: str, calling: str, contexts: Sequence[Context], user: bytes, version: int = 1) -> bytes:
    """An A-ASSOCIATE-RQ; the contexts get the identifiers 1, 3, 5, … (PS3.8 section 9.3.2)."""
    body = struct.pack(">HH", version, 0) + called.ljust(16).encode() + calling.ljust(16).encode() + bytes(32)
    body += item(0x10, APPLICATION_CONTEXT.encode())
    for at, each in enumerate(contexts):
        names = item(0x30, each.abstract_syntax.encode())
        names += b"".join(item(0x40, syntax.encode()) for syntax in each.transfer_syntaxes)
        body += item(0x20, bytes((2 * at + 1, 0, 0, 0)) + names)
    return pdu(ASSOCIATE_RQ, body + item(0x50, user))


def associate_accept(request: bytes, results: Mapping[int, tuple[int, str]], user: bytes) -> bytes:
    """An A-ASSOCIATE-AC that answers the body of a request (PS3.8 section 9.3.3)."""
    body = struct.pack(">HH", 1, 0) + request[4:68] + item(0x10, APPLICATION_CONTEXT.encode())
    for number, (result, syntax) in results.items():
        body += item(0x21, bytes((number, 0, result, 0)) + item(0x40, syntax.encode()))
    return pdu(ASSOCIATE_AC, body + item(0x50, user))


def items(body: bytes, at: int = 0) -> list[tuple[int, bytes]]:
    """The items in `body` from `at` on: type and value of each. Raises Malformed where lengths do not fit."""
    found = []
    while at < len(body):
        if at + 4 > len(body):
            raise Malformed("an item header is cut off")
        kind, length = struct.unpack_from(">BxH", body, at)
        if at + 4 + length > len(body):
            raise Malformed(f"item {kind:02X}H is longer than what it lies in")
        found.append((kind, body[at + 4 : at + 4 + length]))
        at += 4 + length
    return found


def requested(body: bytes) -> tuple[list[tuple[int, str, list[str]]], list[tuple[int, bytes]]]:
    """Presentation contexts (identifier, abstract, transfer syntaxes) and user sub-items of an A-ASSOCIATE-RQ body."""
    contexts, user = list[tuple[int, str, list[str]]](), list[tuple[int, bytes]]()
    for kind, value in items(body, 68):
        if kind == 0x20:
            names = items(value, 4)
            abstract = next(name.decode() for sort, name in names if sort == 0x30)
            contexts.append((value[0], abstract, [name.decode() for sort, name in names if sort == 0x40]))
        elif kind == 0x50:
            user = items(value)
    return contexts, user


def read_accept(body: bytes) -> Accepted:
    """The body of an A-ASSOCIATE-AC. Raises Malformed."""
    if len(body) < 68:
        raise Malformed("an A-ASSOCIATE-AC of less than 68 bytes")
    out = Accepted(version=struct.unpack_from(">H", body)[0])
    out.called, out.calling = (body[at : at + 16].decode("ascii", "replace").strip(" \0") for at in (4, 20))
    for kind, value in items(body, 68):
        if kind == 0x10:
            out.application_context = value.decode("ascii", "replace")
        elif kind == 0x21:
            if len(value) < 4:
                raise Malformed("a presentation context item of less than 4 bytes")
            syntax = next((name for sort, name in items(value, 4) if sort == 0x40), b"")
            out.results[value[0]] = value[2], syntax.decode("ascii", "replace").rstrip("\0")
        elif kind == 0x50:
            for sort, inner in items(value):
                _read_user(out, sort, inner)
    return out


def _read_user(out: Accepted, kind: int, value: bytes) -> None:
    if kind == 0x51:
        (out.max_length,) = struct.unpack(">I", value)
    elif kind == 0x52:
        out.implementation_class_uid = value.decode("ascii", "replace")
    elif kind == 0x53:
        out.window = struct.unpack(">HH", value)
    elif kind in (0x54, 0x56):
        (length,) = struct.unpack_from(">H", value)
        uid, rest = value[2 : 2 + length].decode("ascii", "replace"), value[2 + length :]
        if kind == 0x56:
            out.extended[uid] = rest
        elif len(rest) != 2:
            raise Malformed("a role selection sub-item without its two roles")
        else:
            out.roles[uid] = bool(rest[0]), bool(rest[1])
    elif kind == 0x55:
        out.implementation_version_name = value.decode("ascii", "replace")
    elif kind == 0x59:
        out.identity = value


def encode_command(fields: Mapping[str, Value]) -> bytes:
    """A command set in Implicit VR Little Endian, with its group length (PS3.7 section 6.3.1)."""
    out = b""
    for element, vr, value in sorted((*FIELDS[keyword], value) for keyword, value in fields.items()):
        if isinstance(value, list):
            raw = b"".join(struct.pack("<HH", tag >> 16, tag & 0xFFFF) for tag in value)
        elif isinstance(value, int):
            raw = struct.pack("<H", value)
        else:
            raw = value.encode() + (b"\0" if vr == "UI" else b" ") * (len(value.encode()) & 1)
        out += struct.pack("<HHI", 0, element, len(raw)) + raw
    return struct.pack("<HHII", 0, 0, 4, len(out)) + out


def decode_command(raw: bytes) -> tuple[dict[str, Value], list[str]]:
    """The fields of a command set by keyword, and what is wrong with its encoding in words."""
    fields, faults, at, before = dict[str, Value](), list[str](), 0, -1
    while at < len(raw):
        if at + 8 > len(raw):
            raise Malformed("a command element is cut off")
        group, element, length = struct.unpack_from("<HHI", raw, at)
        value = raw[at + 8 : at + 8 + length]
        at += 8 + length
        if at > len(raw):
            raise Malformed(f"the value of ({group:04X},{element:04X}) is cut off")
        if group != 0:
            faults.append(f"({group:04X},{element:04X}) in a command set")
            continue
        if element <= before:
            faults.append(f"(0000,{element:04X}) is out of order")
        if length & 1:
            faults.append(f"(0000,{element:04X}) has an odd length")
        before = element
        keyword, vr = _BY_ELEMENT.get(element, (f"0000{element:04X}", ""))
        fields[keyword] = _value(vr, value)
    if fields.get("CommandGroupLength") != len(raw) - 12:
        faults.append(f"Command Group Length is {fields.get('CommandGroupLength')}, {len(raw) - 12} bytes follow")
    return fields, faults


def _value(vr: str, raw: bytes) -> Value:
    if vr == "US" and len(raw) == 2:
        return int.from_bytes(raw, "little")
    if vr == "UL" and len(raw) == 4:
        return int.from_bytes(raw, "little")
    if vr == "AT":
        words = struct.unpack(f"<{len(raw) // 2}H", raw[: len(raw) & ~1])
        return [high << 16 | low for high, low in zip(words[::2], words[1::2], strict=False)]
    return raw.decode("utf-8", "replace").rstrip(" \0")
