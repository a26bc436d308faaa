"""DIMSE messages (PS3.7): command sets in Implicit VR Little Endian, and their way into P-DATA-TF PDUs.

Pure. A command set that cannot be read as one raises ProtocolError; a field that is merely of the wrong kind is listed
in `Command.mistyped`, so that the service can still answer.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as attribute
from enum import IntEnum

from pacs.dimse.upper_layer import AbortReason, AbortSource, PDUType, ProtocolError

MAX_COMMAND_LENGTH = 64 << 10
NO_DATASET = 0x0101  # PS3.7 annex E: Command Data Set Type that says "none"; every other value says "there is one"
MAX_SENT_LENGTH = 256 << 10
"""Longest P-DATA-TF sent to a peer that would take more, or any."""


class Tag(IntEnum):
    """Command elements (PS3.7 E.1), group 0000 left out."""

    AFFECTED_SOP_CLASS_UID = 0x0002
    REQUESTED_SOP_CLASS_UID = 0x0003
    COMMAND_FIELD = 0x0100
    MESSAGE_ID = 0x0110
    MESSAGE_ID_BEING_RESPONDED_TO = 0x0120
    MOVE_DESTINATION = 0x0600
    PRIORITY = 0x0700
    DATASET_TYPE = 0x0800
    STATUS = 0x0900
    OFFENDING_ELEMENT = 0x0901
    ERROR_COMMENT = 0x0902
    ERROR_ID = 0x0903
    AFFECTED_SOP_INSTANCE_UID = 0x1000
    REQUESTED_SOP_INSTANCE_UID = 0x1001
    EVENT_TYPE_ID = 0x1002
    ATTRIBUTE_IDENTIFIER_LIST = 0x1005
    ACTION_TYPE_ID = 0x1008
    REMAINING_SUB_OPERATIONS = 0x1020
    COMPLETED_SUB_OPERATIONS = 0x1021
    FAILED_SUB_OPERATIONS = 0x1022
    WARNING_SUB_OPERATIONS = 0x1023
    MOVE_ORIGINATOR_AE_TITLE = 0x1030
    MOVE_ORIGINATOR_MESSAGE_ID = 0x1031


_UID_TAGS = frozenset({0x0002, 0x0003, 0x1000, 0x1001})
_AE_TAGS = frozenset({0x0600, 0x1030})
_US_TAGS = frozenset(
    {0x0100, 0x0110, 0x0120, 0x0700, 0x0800, 0x0900, 0x0903, 0x1002, 0x1008, 0x1031, *range(0x1020, 0x1024)}
)


class CommandField(IntEnum):
    """Requests (PS3.7 E.1); a response is its request with the bit RESPONSE set."""

    C_STORE = 0x0001
    C_GET = 0x0010
    C_FIND = 0x0020
    C_MOVE = 0x0021
    C_ECHO = 0x0030
    N_EVENT_REPORT = 0x0100
    N_GET = 0x0110
    N_SET = 0x0120
    N_ACTION = 0x0130
    N_CREATE = 0x0140
    N_DELETE = 0x0150
    C_CANCEL = 0x0FFF


RESPONSE = 0x8000


@dataclass(frozen=True, slots=True)
class Command:
    """A command set as received; an absent or mistyped number is None, an absent or mistyped text empty.

    `numbers` and `texts` hold every element that could be read, for those that only one service has.
    """

    field: int
    message_id: int | None
    responded_to: int | None
    has_dataset: bool
    sop_class_uid: str
    sop_instance_uid: str
    status: int | None
    comment: str
    mistyped: tuple[int, ...]
    numbers: Mapping[int, int] = attribute(default_factory=dict)
    texts: Mapping[int, str] = attribute(default_factory=dict)
    attributes: tuple[str, ...] = ()
    """The tags of an Attribute Identifier List, eight hex digits each (PS3.7 10.1.2)."""


@dataclass(frozen=True, slots=True)
class Response:
    """What a service answers: a status, whatever says more about it, and an encoded data set where there is one.

    `fields` are further elements of the command set, such as the counts of sub-operations.
    """

    status: int
    comment: str = ""
    offending: tuple[int, ...] = ()
    dataset: bytes | None = None
    fields: Mapping[int, int | str | bytes] = attribute(default_factory=dict)


def decode_command(raw: bytes | bytearray | memoryview) -> Command:
    """The command set in `raw`. Raises ProtocolError where the peer's user cannot be answered at all.

    That is: elements that do not fit, leave group 0000 or come twice; no Command Field; a request without Message ID.
    """
    numbers, texts, mistyped = dict[int, int](), dict[int, str](), list[int]()
    attributes: tuple[str, ...] = ()
    at, end, seen = 0, len(raw), set[int]()
    while at < end:
        if at + 8 > end:
            raise _unusable("command element cut short")
        group, element, length = struct.unpack_from("<HHI", raw, at)
        at += 8
        if group or length > end - at or element in seen:
            raise _unusable(f"element ({group:04X},{element:04X}) has no place in a command set")
        seen.add(element)
        value = bytes(raw[at : at + length])
        at += length
        if element in _US_TAGS:
            if length == 2:
                numbers[element] = value[0] | value[1] << 8
            else:
                mistyped.append(element)
        elif element in _UID_TAGS or element == Tag.ERROR_COMMENT:
            text = value.rstrip(b"\0 ")
            if text.isascii() and len(text) <= 64:
                texts[element] = text.decode("ascii")
            else:
                mistyped.append(element)
        elif element == Tag.ATTRIBUTE_IDENTIFIER_LIST:
            if length % 4:
                mistyped.append(element)
            else:
                pairs = struct.iter_unpack("<HH", value)
                attributes = tuple(f"{high:04X}{low:04X}" for high, low in pairs)
        elif element in _AE_TAGS:
            texts[element] = value.decode("latin-1").strip(" \0")[:16]
    command_field, message_id = numbers.get(Tag.COMMAND_FIELD), numbers.get(Tag.MESSAGE_ID)
    if command_field is None:
        raise _unusable("command set without Command Field")
    responded_to = numbers.get(Tag.MESSAGE_ID_BEING_RESPONDED_TO)
    about_another = command_field & RESPONSE or command_field == CommandField.C_CANCEL
    if (responded_to if about_another else message_id) is None:
        raise _unusable("command set without Message ID")
    return Command(
        command_field,
        message_id,
        responded_to,
        numbers.get(Tag.DATASET_TYPE, NO_DATASET) != NO_DATASET,
        texts.get(Tag.AFFECTED_SOP_CLASS_UID) or texts.get(Tag.REQUESTED_SOP_CLASS_UID, ""),
        texts.get(Tag.AFFECTED_SOP_INSTANCE_UID) or texts.get(Tag.REQUESTED_SOP_INSTANCE_UID, ""),
        numbers.get(Tag.STATUS),
        texts.get(Tag.ERROR_COMMENT, ""),
        tuple(mistyped),
        numbers,
        texts,
        attributes,
    )


def encode_command(fields: Mapping[int, int | str | bytes]) -> bytes:
    """A command set of `fields` (element number: US, text or raw bytes), with its group length."""
    parts = []
    for element in sorted(fields):
        value = fields[element]
        if isinstance(value, int):
            raw = struct.pack("<H", value)
        else:
            raw = value.encode("ascii") if isinstance(value, str) else value
            if len(raw) & 1:
                raw += b"\0" if element in _UID_TAGS else b" "
        parts.append(struct.pack("<HHI", 0, element, len(raw)) + raw)
    body = b"".join(parts)
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def response_command(request: Command, response: Response) -> bytes:
    """The command set that answers `request` with `response` (PS3.7 9.3, 10.3)."""
    fields: dict[int, int | str | bytes] = {
        Tag.COMMAND_FIELD: request.field | RESPONSE,
        Tag.MESSAGE_ID_BEING_RESPONDED_TO: request.message_id or 0,
        Tag.DATASET_TYPE: NO_DATASET if response.dataset is None else 0x0001,
        Tag.STATUS: response.status,
    }
    if request.sop_class_uid:
        fields[Tag.AFFECTED_SOP_CLASS_UID] = request.sop_class_uid
    if request.sop_instance_uid and request.field != CommandField.C_FIND:
        fields[Tag.AFFECTED_SOP_INSTANCE_UID] = request.sop_instance_uid
    if response.offending:
        pairs = (half for tag in response.offending for half in (tag >> 16, tag & 0xFFFF))
        fields[Tag.OFFENDING_ELEMENT] = struct.pack(f"<{2 * len(response.offending)}H", *pairs)
    if response.comment:
        fields[Tag.ERROR_COMMENT] = response.comment
    fields.update(response.fields)
    return encode_command(fields)


def to_pdus(context_id: int, command: bytes, dataset: bytes | None, peer_max_length: int) -> bytes:
    """A whole message as consecutive P-DATA-TF PDUs, none longer than the peer reads (0 = any; PS3.8 D.1)."""
    room = min(peer_max_length or MAX_SENT_LENGTH, MAX_SENT_LENGTH) - 6
    out = bytearray()
    for raw, is_command in ((command, 1), (dataset, 0)):
        if raw is None:
            continue
        for at in range(0, len(raw) or 1, room - room % 2):
            part = raw[at : at + room - room % 2]
            last = 2 if at + len(part) == len(raw) else 0
            out += struct.pack(">BxIIBB", PDUType.DATA, len(part) + 6, len(part) + 2, context_id, last | is_command)
            out += part
    return bytes(out)


def _unusable(what: str) -> ProtocolError:
    # The upper layer is content, its user is not: PS3.8 Table 9-26 has no reason for that
    return ProtocolError(what, AbortReason.NOT_SPECIFIED, AbortSource.USER)
