"""Command sets that hardly differ from one before: of a thousand C-STOREs in a row only number and SOP Instance change.

Decoding and encoding a command set field by field costs as much as all that TCP does for a small instance. Whoever
sends many sends them alike, so both ways a pattern is kept of the last one, and what it does not fit goes the long way
(`pacs.dimse.messages`): the outcome is the same, always.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from pacs.dimse.messages import (
    Command,
    CommandField,
    Response,
    decode_command,
    response_command,
    to_pdus,
)

_C_STORE = int(CommandField.C_STORE)
_ELEMENT = struct.Struct("<HHI")
_MESSAGE_ID, _INSTANCE = 0x0110, 0x1000
_NUMBER = struct.Struct("<H")
_RESPONDED_TO = _ELEMENT.pack(0, 0x0120, 2)
_SUCCESS = Response(0)


class Like(NamedTuple):
    """A message with gaps: its bytes, and where Message ID and SOP Instance UID are; the UID takes `room` bytes."""

    raw: bytes
    number_at: int
    uid_at: int
    room: int


class Reader:
    """Decodes the command sets of one association."""

    def __init__(self) -> None:
        self._pattern: tuple[int, bytes, bytes, bytes, int] | None = None
        self._command: Command | None = None

    @property
    def like(self) -> Like | None:
        """What C-STORE-RQs are like, if the last one fits."""
        if self._pattern is None:
            return None
        length, before, between, after, at = self._pattern
        uid = bytes(length - len(after) - at)
        return Like(b"".join((before, bytes(2), between, uid, after)), len(before), at, len(uid))

    def decode(self, raw: bytes | bytearray) -> Command:
        """What `messages.decode_command` makes of it. Raises ProtocolError likewise."""
        if self._pattern is not None:
            length, before, between, after, at = self._pattern
            number = len(before)
            # The same up to its number, up to its UID, and behind it: only their values may be others
            if (
                len(raw) == length
                and raw.startswith(before)
                and raw.startswith(between, number + 2)
                and raw.endswith(after)
            ):
                uid = raw[at : length - len(after)]
                if uid.isascii() and (text := uid.rstrip(b"\0 ").decode("ascii")):
                    return self._like_the_last(_NUMBER.unpack_from(raw, number)[0], text)
        command = decode_command(raw)
        self._learn(bytes(raw), command)
        return command

    def _like_the_last(self, message_id: int, uid: str) -> Command:
        assert self._command is not None
        last = self._command
        return Command(
            last.field,
            message_id,
            last.responded_to,
            last.has_dataset,
            last.sop_class_uid,
            uid,
            last.status,
            last.comment,
            last.mistyped,
            {**last.numbers, _MESSAGE_ID: message_id},
            {**last.texts, _INSTANCE: uid},
            last.attributes,
        )

    def _learn(self, raw: bytes, command: Command) -> None:
        """Keep the pattern of a sound C-STORE-RQ, in which the UID comes behind the number."""
        self._pattern = None
        if command.field != _C_STORE or command.mistyped or not command.texts.get(_INSTANCE):
            return
        places = dict[int, tuple[int, int]]()
        at = 0
        while at < len(raw):
            _, element, length = _ELEMENT.unpack_from(raw, at)
            places[element] = at + _ELEMENT.size, length
            at += _ELEMENT.size + length
        number, _ = places[_MESSAGE_ID]
        uid, length = places[_INSTANCE]
        if number < uid and 0 < length <= 64:
            self._pattern = len(raw), raw[:number], raw[number + 2 : uid], raw[uid + length :], uid
            self._command = command


class Replies:
    """Encodes the responses of one association."""

    def __init__(self, peer_max_length: int) -> None:
        self._peer_max_length = peer_max_length
        self._known: tuple[tuple[int, str, int], bytes, bytes] | None = None

    def encode(self, context_id: int, request: Command, response: Response) -> bytes:
        """The response as P-DATA-TF PDUs: what `messages.response_command` and `messages.to_pdus` make."""
        if request.field != _C_STORE or response != _SUCCESS or request.mistyped:
            return self._whole(context_id, request, response)
        uid = request.sop_instance_uid.encode("ascii")
        uid += b"\0" * (len(uid) & 1)
        kind = context_id, request.sop_class_uid, len(uid)
        if self._known is None or self._known[0] != kind:
            made = self._whole(context_id, request, response)
            one_pdu = int.from_bytes(made[2:6], "big") + 6 == len(made)
            if not uid or not one_pdu:
                return made
            number = made.index(_RESPONDED_TO) + len(_RESPONDED_TO)
            self._known = kind, made[:number], made[number + 2 : len(made) - len(uid)]
            return made
        _, before, between = self._known
        return b"".join((before, _NUMBER.pack(request.message_id or 0), between, uid))

    def like(self, context_id: int, room: int) -> Like | None:
        """What successful responses in this context are like, to requests whose UID takes so many bytes; if known."""
        if self._known is None:
            return None
        (known, _, length), before, between = self._known
        if known != context_id or length != room:
            return None
        return Like(
            b"".join((before, bytes(2), between, bytes(room))), len(before), len(before) + 2 + len(between), room
        )

    def _whole(self, context_id: int, request: Command, response: Response) -> bytes:
        command = response_command(request, response)
        return to_pdus(context_id, command, response.dataset, self._peer_max_length)
