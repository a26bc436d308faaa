"""Unified Procedure Steps at our acceptor (PS3.4 annex CC): Push, Pull, Watch and Query, on `archive.worklist`.

The Workitems are those of UPS-RS, with the same effects. All of them are of the UPS Push SOP Class, whichever of the
classes was negotiated (PS3.4 CC.3.1). Events go out by `pacs.dimse.ups_events`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from pacs.dicom import json_model, ups
from pacs.dicom.attributes import Level
from pacs.dicom.ups import Attributes, State
from pacs.dicom.ups_events import CANCEL_INFORMATION, DELETION_LOCK, RECEIVING_AE
from pacs.dimse import datasets, identifiers, remotes, status
from pacs.dimse.find_scp import CANCEL_EVERY_ROWS, PAGE_ROWS, FindOperation
from pacs.dimse.identifiers import CHARACTER_SET, Wanted
from pacs.dimse.messages import Command, CommandField, Response, Tag
from pacs.dimse.negotiation import Context, Policy
from pacs.dimse.operation import Answer, Begin, Operation, Peer, Service
from pacs.errors import InvalidInput, MissingAttribute, NotFound, TooLarge, UnknownReceiver

PUSH: Final = ups.UPS_PUSH_SOP_CLASS_UID
WATCH: Final = "1.2.840.10008.5.1.4.34.6.2"
PULL: Final = "1.2.840.10008.5.1.4.34.6.3"
EVENT: Final = "1.2.840.10008.5.1.4.34.6.4"
QUERY: Final = "1.2.840.10008.5.1.4.34.6.5"
UPS_CLASSES: Final = frozenset({PUSH, WATCH, PULL, EVENT, QUERY})

_ABOUT_THE_QUERY: Final = frozenset({CHARACTER_SET, ups.TIMEZONE_OFFSET, ups.TRANSACTION_UID})
MAX_LENGTH: Final = identifiers.MAX_IDENTIFIER_LENGTH


class _Message:
    """A request whose data set is small enough to be kept whole; subclasses perform it."""

    def __init__(self, peer: Peer, context: Context, command: Command) -> None:
        self._peer = peer
        self._worklist = peer.archive.worklist
        self._context = context
        self._command = command
        self._dataset = bytearray()

    def write(self, piece: memoryview) -> None:
        """The next bytes of the data set; those beyond the limit are forgotten."""
        if len(self._dataset) <= MAX_LENGTH:
            self._dataset += piece

    def finish(self, cancelled: Callable[[], bool]) -> Iterator[Response]:
        """The one response, once what it says is durable."""
        command = self._command
        if command.mistyped:
            yield Response(status.MISTYPED_ARGUMENT, "command element of a wrong length", command.mistyped)
            return
        try:
            yield self._perform()
        except Exception as error:
            yield status.ups_failure(error)

    def abort(self) -> None:
        """Nothing was begun that would need undoing."""

    @property
    def _uid(self) -> str:
        return self._command.sop_instance_uid

    def _attributes(self) -> Attributes:
        """The data set as DICOM JSON, without what says how it is encoded."""
        if len(self._dataset) > MAX_LENGTH:
            raise TooLarge(f"data set of more than {MAX_LENGTH} bytes")
        if not self._command.has_dataset:
            return {}
        found = identifiers.decode(bytes(self._dataset), self._context.transfer_syntax)
        return {tag: entry for tag, entry in found.items() if tag != CHARACTER_SET and not tag.endswith("0000")}

    def _perform(self) -> Response:
        raise NotImplementedError


class Create(_Message):
    """N-CREATE (PS3.4 CC.2.5): the UID is that of the request, or one of ours."""

    def _perform(self) -> Response:
        given = self._attributes()
        uid = self._worklist.create(given, self._uid or None, self._peer.principal)
        code = status.WARNING_MODIFIED if ups.modified(given, uid) else status.SUCCESS
        return Response(code, fields={Tag.AFFECTED_SOP_INSTANCE_UID: uid})


class Get(_Message):
    """N-GET (PS3.4 CC.2.7): the attributes asked for, all where none is named; never the Transaction UID."""

    def _perform(self) -> Response:
        held = self._worklist.retrieve(self._uid, self._peer.principal)
        asked = self._command.attributes
        found = {tag: held[tag] for tag in asked if tag in held} if asked else held
        complete = all(tag in held or tag == CHARACTER_SET for tag in asked)
        code = status.SUCCESS if complete else status.WARNING_OPTIONAL_ATTRIBUTES
        return Response(code, dataset=datasets.encode(found, self._context.transfer_syntax) or None)


class Set(_Message):
    """N-SET (PS3.4 CC.2.6): each attribute given replaces the one there; the Transaction UID shows who may."""

    def _perform(self) -> Response:
        attributes = self._attributes()
        transaction = ups.value(attributes, ups.TRANSACTION_UID)
        attributes.pop(ups.TRANSACTION_UID, None)
        self._worklist.update(self._uid, attributes, transaction, self._peer.principal)
        return Response(status.SUCCESS)


class Action(_Message):
    """N-ACTION: change the state, ask for the end, or watch (PS3.4 CC.2.1 to CC.2.3), as the SOP class allows."""

    def _perform(self) -> Response:
        number = self._command.numbers.get(Tag.ACTION_TYPE_ID, 0)
        action = _ACTIONS.get(number)
        fields: dict[int, int | str | bytes] = {Tag.ACTION_TYPE_ID: number}
        if action is None or number not in _ACTIONS_OF[self._context.abstract_syntax]:
            return Response(status.NO_SUCH_ACTION, "no action of this SOP class", fields=fields)
        return Response(action(self, self._attributes()), fields=fields)

    def _change_state(self, given: Attributes) -> int:
        state = _required(given, ups.PROCEDURE_STEP_STATE)
        transaction = ups.value(given, ups.TRANSACTION_UID)
        already = self._worklist.change_state(self._uid, state, transaction, self._peer.principal)
        if already is None:
            return status.SUCCESS
        return status.ALREADY_CANCELED if state == State.CANCELED else status.ALREADY_COMPLETED

    def _request_cancel(self, given: Attributes) -> int:
        reason = str(ups.value(given, ups.REASON_FOR_CANCELLATION) or "")
        request = {tag: given[tag] for tag in CANCEL_INFORMATION if tag in given}
        already = self._worklist.request_cancel(
            self._uid, reason, self._peer.principal, requesting_ae=self._peer.calling_ae_title, request=request
        )
        return status.SUCCESS if already is None else status.ALREADY_CANCELED

    def _subscribe(self, given: Attributes) -> int:
        receiver = self._receiver(given)
        if not self._is_known(receiver):
            raise UnknownReceiver("no way to the Receiving AE is known", about=RECEIVING_AE)
        lock = str(ups.value(given, DELETION_LOCK) or "FALSE").upper()
        if lock not in ("TRUE", "FALSE"):
            raise InvalidInput("Deletion Lock is neither TRUE nor FALSE", about=DELETION_LOCK)
        keys = dict(_keys({tag: entry for tag, entry in given.items() if tag not in (RECEIVING_AE, DELETION_LOCK)}))
        self._worklist.subscribe(self._uid, receiver, self._peer.principal, lock=lock == "TRUE", keys=keys)
        return status.SUCCESS

    def _unsubscribe(self, given: Attributes) -> int:
        self._worklist.unsubscribe(self._uid, self._receiver(given), self._peer.principal)
        return status.SUCCESS

    def _suspend(self, given: Attributes) -> int:
        self._worklist.suspend(self._uid, self._receiver(given), self._peer.principal)
        return status.SUCCESS

    def _receiver(self, given: Attributes) -> str:
        return _required(given, RECEIVING_AE).strip()

    def _is_known(self, receiver: str) -> bool:
        if receiver == self._peer.calling_ae_title or self._worklist.ways_to(receiver):
            return True
        try:
            remotes.known(self._peer.archive.settings, receiver)
        except NotFound:
            return False
        return True


_ACTIONS: Mapping[int, Callable[[Action, Attributes], int]] = {
    1: Action._change_state,
    2: Action._request_cancel,
    3: Action._subscribe,
    4: Action._unsubscribe,
    5: Action._suspend,
}
_ACTIONS_OF: Mapping[str, frozenset[int]] = {
    PUSH: frozenset({2}),
    PULL: frozenset({1}),
    WATCH: frozenset({2, 3, 4, 5}),
}


def _required(given: Attributes, tag: str) -> str:
    found = ups.value(given, tag)
    if not isinstance(found, str) or not found.strip():
        raise MissingAttribute("a required attribute is missing", about=tag)
    return found


class Find(FindOperation):
    """C-FIND (PS3.4 CC.2.8): Workitems by any of their attributes, newest first."""

    def _request(self) -> identifiers.FindRequest:
        identifier = self._read()
        self._keys = dict(_keys(identifier))
        self._offset = identifiers.offset_of(identifier)
        always = {tag: Wanted(tag, "UI") for tag in (ups.SOP_CLASS_UID, ups.SOP_INSTANCE_UID)}
        wanted = always | {each.tag: each for each in identifiers.wanted(identifier) if each.tag != ups.TRANSACTION_UID}
        # A Workitem belongs to no level of the Query/Retrieve model
        return identifiers.FindRequest(
            Level.IMAGE, (), tuple(wanted.values()), complete=True, character_set=identifiers.character_set(identifier)
        )

    def _encoder(self, request: identifiers.FindRequest) -> identifiers.ResponseEncoder:
        return identifiers.ResponseEncoder(request, self._context.transfer_syntax)

    def _pages(self, request: identifiers.FindRequest) -> Iterator[list[dict[str, Any]]]:
        offset, remaining = 0, 1
        options = replace(self._agreed()[1], offset=self._offset)
        while remaining:
            found, remaining = self._peer.archive.worklist.search(
                self._keys, PAGE_ROWS, offset, self._peer.principal, options
            )
            for first in range(0, len(found), CANCEL_EVERY_ROWS):
                yield found[first : first + CANCEL_EVERY_ROWS]
            offset += len(found)


def _keys(identifier: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Path of tags and text of every key that has a value; private ones and those about the query are none."""
    for tag, entry in identifier.items():
        if int(tag[:4], 16) & 1 or tag.endswith("0000") or tag in _ABOUT_THE_QUERY:
            continue
        values = entry.get("Value") or []
        if entry["vr"] == "SQ":
            if len(values) > 1:
                raise InvalidInput("a sequence key has more than one item", about=tag)
            yield from _keys(values[0] if values else {}, f"{path}{tag}.")
        elif text := "\\".join(json_model.texts({tag: entry}, tag)).strip(" \0"):
            yield path + tag, text


def extended_ups(asked: bytes, policy: Policy) -> bytes:
    """Of what was asked: fuzzy names, empty and several values; date and time as one means nothing to a Workitem."""
    return bytes(a & b for a, b in zip(asked, (1, 1, policy.fuzzy, 0, 0, 1, 1), strict=False))


def _of_ups(operation: Begin) -> Begin:
    """The operation, for requests that name a UPS SOP class: UPS Push, or leniently the one negotiated."""

    def begin(peer: Peer, context: Context, command: Command) -> Operation:
        if command.sop_class_uid not in UPS_CLASSES:
            return Answer(Response(status.NO_SUCH_CLASS, "not a UPS SOP class"))
        return operation(peer, context, command)

    return begin


def _welcome(peer: Peer) -> None:
    """An association for events: whoever opened it hears over it of what it watches."""
    if peer.archive.worklist is not None and peer.line.accepted(EVENT, peer_is_scp=False):
        peer.archive.worklist.arrived(peer.calling_ae_title, peer.line)


def _service(name: str, uid: str, **operations: Begin) -> Service:
    fields = {CommandField[field.upper()]: _of_ups(operation) for field, operation in operations.items()}
    return Service(name, frozenset({uid}), fields, extended=extended_ups, checks_class=False)


SERVICES: tuple[Service, ...] = (
    _service("ups push", PUSH, n_create=Create, n_get=Get, n_action=Action),
    _service("ups pull", PULL, c_find=Find, n_get=Get, n_set=Set, n_action=Action),
    _service("ups watch", WATCH, c_find=Find, n_get=Get, n_action=Action),
    _service("ups query", QUERY, c_find=Find),
    Service("ups event", frozenset({EVENT}), {}, events=True, opened=_welcome),
)
"""PS3.4 Tables CC.2-1 to CC.2-5."""
