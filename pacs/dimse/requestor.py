"""The SCU of every DIMSE service we use: an association requested by us, and one method per operation (PS3.7).

    with Requestor.open(Remote("PACS", "10.0.0.7", 104), "M3DICOM", [(VERIFICATION, [IMPLICIT_LE])]) as assoc:
        assoc.echo()

A status that says failure comes back as a Reply; PeerUnreachable, PeerRefused and PeerFailed are raised where there is
no reply to give. An instance is used by one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

from pacs.dimse import link
from pacs.dimse.link import Piece, Remote, Timeouts
from pacs.dimse.messages import NO_DATASET, RESPONSE, Command, CommandField, Tag, encode_command
from pacs.dimse.negotiation import VERIFICATION, Context
from pacs.dimse.replies import Event, Move, Reply, Sink
from pacs.dimse.upper_layer import (
    MAX_CONTEXTS,
    AssociateAccept,
    AssociateRequest,
    ContextResult,
    ProposedContext,
    Role,
    UserIdentity,
    UserInformation,
)
from pacs.errors import PeerFailed, PeerRefused
from pacs.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

__all__ = ["Event", "Move", "Remote", "Reply", "Requestor", "Sink", "Timeouts"]

Fields = Mapping[int, int | str | bytes]

MAX_LENGTH = 256 << 10
MAX_IDENTIFIER_LENGTH = 16 << 20
_MEDIUM = 0
_WHY_NOT = {
    ContextResult.USER_REJECTION: "refused",
    ContextResult.NO_REASON: "refused without a reason",
    ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED: "not supported",
    ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED: "supported in none of the transfer syntaxes proposed",
}


class Requestor:
    """An association with `remote`; use it in a `with`: released at its end, aborted if that is by an exception."""

    def __init__(self, wire: link.Link, contexts: Sequence[ProposedContext], accept: AssociateAccept) -> None:
        self.remote = wire.remote
        self.accept = accept
        self._link = wire
        self._message_id = 0
        self.on_event: Callable[[Event], int] = lambda event: 0x0000
        """Takes an N-EVENT-REPORT of the peer and gives the status to answer (PS3.4 J.3.3)."""

        answers = {answer.id: answer for answer in accept.contexts}
        self.contexts: dict[int, Context] = {}
        self._refused: dict[str, ContextResult] = {}
        for proposed in contexts:
            answer = answers.get(proposed.id)
            if answer is None or answer.result is not ContextResult.ACCEPTANCE:
                self._refused[proposed.abstract_syntax] = answer.result if answer else ContextResult.NO_REASON
            elif answer.transfer_syntax not in proposed.transfer_syntaxes:
                self._link.abort()
                raise PeerFailed(f"{self.remote} accepts a transfer syntax that was not proposed")
            else:
                self.contexts[proposed.id] = Context(proposed.id, proposed.abstract_syntax, answer.transfer_syntax)

    @classmethod
    def open(
        cls,
        remote: Remote,
        calling_ae_title: str,
        contexts: Iterable[tuple[str, Sequence[str]]],
        *,
        roles: Iterable[Role] = (),
        extended: Iterable[tuple[str, bytes]] = (),
        identity: UserIdentity | None = None,
        timeouts: Timeouts | None = None,
    ) -> Self:
        """An association in which at most 128 `contexts` (abstract syntax, transfer syntaxes) are proposed.

        Raises PeerUnreachable, PeerRefused (TLS, or the association rejected) and PeerFailed. A context that is not
        accepted is no error here: `accepted` and `context` tell.
        """
        proposed = tuple(
            ProposedContext(2 * at + 1, abstract, tuple(syntaxes)) for at, (abstract, syntaxes) in enumerate(contexts)
        )
        if not 1 <= len(proposed) <= MAX_CONTEXTS:
            raise ValueError(f"{len(proposed)} presentation contexts; 1 to {MAX_CONTEXTS} fit an association")
        user = UserInformation(
            max_length=MAX_LENGTH,
            implementation_class_uid=IMPLEMENTATION_CLASS_UID,
            implementation_version_name=IMPLEMENTATION_VERSION_NAME,
            roles=tuple(roles),
            extended=tuple(extended),
            identity=identity,
        )
        wire = link.connect(remote, timeouts or Timeouts())
        try:
            request = AssociateRequest(remote.title, calling_ae_title, proposed, user)
            return cls(wire, proposed, wire.associate(request))
        except BaseException:
            wire.abort()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None or issubclass(kind, PeerRefused | GeneratorExit):
            self._link.release()
        else:
            self._link.abort()

    @property
    def alive(self) -> bool:
        """Whether the association can still be used, as far as we know."""
        return self._link.open

    @property
    def security(self) -> str:
        """The TLS version and cipher in use; empty for a plain connection."""
        return self._link.security

    def release(self) -> None:
        """End the association in order. Never raises."""
        self._link.release()

    def abort(self) -> None:
        """End the association at once. Never raises."""
        self._link.abort()

    def interrupt(self) -> None:
        """From another thread: end whatever waits for the peer."""
        self._link.interrupt()

    # --- contexts ---

    def accepted(self, abstract_syntax: str) -> dict[str, int]:
        """The transfer syntaxes accepted for an abstract syntax, with the context of each."""
        return {
            each.transfer_syntax: each.id for each in self.contexts.values() if each.abstract_syntax == abstract_syntax
        }

    def context(self, abstract_syntax: str, transfer_syntax: str | None = None) -> Context:
        """An accepted context of this abstract (and transfer) syntax. Raises PeerRefused, saying why there is none."""
        for each in self.contexts.values():
            if each.abstract_syntax == abstract_syntax and transfer_syntax in (None, each.transfer_syntax):
                return each
        why = _WHY_NOT.get(self._refused.get(abstract_syntax, ContextResult.ACCEPTANCE), "not accepted as proposed")
        raise PeerRefused(f"{self.remote}: SOP class is {why}", about=abstract_syntax)

    # --- operations ---

    def echo(self) -> Reply:
        """The reply to a C-ECHO (PS3.7 9.1.5)."""
        return self.call(self.context(VERIFICATION), {Tag.COMMAND_FIELD: CommandField.C_ECHO})

    def store(
        self,
        context: Context,
        sop_instance_uid: str,
        pieces: Iterable[Piece],
        length: int,
        *,
        sop_class_uid: str = "",
        priority: int = _MEDIUM,
        move: Move | None = None,
    ) -> Reply:
        """The reply to a C-STORE (PS3.7 9.1.1) of `length` bytes in `pieces`, encoded as `context` says."""
        self.send_store(
            context, sop_instance_uid, pieces, length, sop_class_uid=sop_class_uid, priority=priority, move=move
        )
        return self.reply()

    def send_store(
        self,
        context: Context,
        sop_instance_uid: str,
        pieces: Iterable[Piece],
        length: int,
        *,
        sop_class_uid: str = "",
        priority: int = _MEDIUM,
        move: Move | None = None,
    ) -> None:
        """The first half of `store`; `reply` is the second. In between, the caller may prepare the next instance."""
        self._message_id = message_id = self._message_id % 0xFFFF + 1
        command = store_command(
            sop_class_uid or context.abstract_syntax, sop_instance_uid, message_id, priority=priority, move=move
        )
        self._link.send(context.id, command, pieces, length)

    def find(self, context: Context, identifier: bytes, priority: int = _MEDIUM) -> Generator[Reply, None, None]:
        """The replies to a C-FIND (PS3.7 9.1.2), the last one final. Closing the iterator early cancels the query."""
        fields: Fields = {Tag.COMMAND_FIELD: CommandField.C_FIND, Tag.PRIORITY: priority}
        return self._replies(context, fields, identifier, None)

    def move(
        self, context: Context, identifier: bytes, destination: str, priority: int = _MEDIUM
    ) -> Generator[Reply, None, None]:
        """The replies to a C-MOVE (PS3.7 9.1.4) to the AE title `destination`, the last one final."""
        fields: Fields = {
            Tag.COMMAND_FIELD: CommandField.C_MOVE,
            Tag.PRIORITY: priority,
            Tag.MOVE_DESTINATION: destination,
        }
        return self._replies(context, fields, identifier, None)

    def get(
        self,
        context: Context,
        identifier: bytes,
        receive: Callable[[Command, Context], Sink],
        priority: int = _MEDIUM,
    ) -> Generator[Reply, None, None]:
        """The replies to a C-GET (PS3.7 9.1.3), the last one final; `receive` gives a Sink for each instance sent."""
        fields: Fields = {Tag.COMMAND_FIELD: CommandField.C_GET, Tag.PRIORITY: priority}
        return self._replies(context, fields, identifier, receive)

    def action(
        self, context: Context, sop_instance_uid: str, action_type_id: int, dataset: bytes | None = None
    ) -> Reply:
        """The reply to an N-ACTION (PS3.7 10.1.4)."""
        fields: Fields = {
            Tag.COMMAND_FIELD: CommandField.N_ACTION,
            Tag.REQUESTED_SOP_CLASS_UID: context.abstract_syntax,
            Tag.REQUESTED_SOP_INSTANCE_UID: sop_instance_uid,
            Tag.ACTION_TYPE_ID: action_type_id,
        }
        return self.call(context, fields, dataset)

    def event_report(
        self, context: Context, sop_instance_uid: str, event_type_id: int, dataset: bytes | None = None
    ) -> Reply:
        """The reply to an N-EVENT-REPORT (PS3.7 10.1.1)."""
        fields: Fields = {
            Tag.COMMAND_FIELD: CommandField.N_EVENT_REPORT,
            Tag.AFFECTED_SOP_INSTANCE_UID: sop_instance_uid,
            Tag.EVENT_TYPE_ID: event_type_id,
        }
        return self.call(context, fields, dataset)

    def has_event(self, within_s: float) -> bool:
        """Whether something of the peer's comes within this time. Raises PeerUnreachable."""
        return self._link.readable(within_s)

    def wait_event(self, within_s: float) -> Event:
        """The next N-EVENT-REPORT of the peer on this association, given to `on_event` and answered.

        Raises PeerUnreachable where none comes in time.
        """
        return self._event(*self._link.command(within_s))

    def _event(self, context_id: int, command: Command) -> Event:
        if command.field != CommandField.N_EVENT_REPORT or context_id not in self.contexts:
            self._link.abort()
            raise PeerFailed(f"{self.remote} sends command {command.field:04X}H instead of N-EVENT-REPORT")
        dataset = self._dataset(context_id) if command.has_dataset else b""
        event_type_id = command.numbers.get(Tag.EVENT_TYPE_ID, 0)
        syntax = self.contexts[context_id].transfer_syntax
        event = Event(command.sop_class_uid, command.sop_instance_uid, event_type_id, dataset, syntax)
        self._answer(context_id, command, self.on_event(event))
        return event

    def call(self, context: Context, fields: Fields, dataset: bytes | None = None) -> Reply:
        """The reply to any request that has one response; Message ID and data set type are filled in."""
        self._send(context, fields, dataset)
        return self.reply()

    def reply(self) -> Reply:
        """The next response, which has to be to the last request; an event may come before it."""
        context_id, command = self._link.command()
        while command.field == CommandField.N_EVENT_REPORT:
            self._event(context_id, command)
            context_id, command = self._link.command()
        return self._response(context_id, command)

    # --- inside ---

    def _send(self, context: Context, fields: Fields, dataset: bytes | None) -> None:
        self._message_id = message_id = self._message_id % 0xFFFF + 1
        whole: dict[int, int | str | bytes] = {
            Tag.MESSAGE_ID: message_id,
            Tag.DATASET_TYPE: NO_DATASET if dataset is None else 0x0001,
            **fields,
        }
        if Tag.REQUESTED_SOP_CLASS_UID not in fields:
            whole.setdefault(Tag.AFFECTED_SOP_CLASS_UID, context.abstract_syntax)
        pieces = () if dataset is None else (dataset,)
        self._link.send(context.id, encode_command(whole), pieces, None if dataset is None else len(dataset))

    def _response(self, context_id: int, command: Command) -> Reply:
        if not command.field & RESPONSE or command.responded_to != self._message_id:
            self._link.abort()
            raise PeerFailed(f"{self.remote} sends command {command.field:04X}H instead of a response to ours")
        return Reply(command, self._dataset(context_id) if command.has_dataset else None)

    def _dataset(self, context_id: int) -> bytes:
        whole = bytearray()

        def keep(piece: memoryview) -> None:
            if len(whole) + len(piece) > MAX_IDENTIFIER_LENGTH:
                self._link.abort()
                raise PeerFailed(f"{self.remote} sends a data set of more than {MAX_IDENTIFIER_LENGTH} bytes")
            whole.extend(piece)

        self._link.dataset(context_id, keep)
        return bytes(whole)

    def _replies(
        self,
        context: Context,
        fields: Fields,
        identifier: bytes,
        receive: Callable[[Command, Context], Sink] | None,
    ) -> Generator[Reply, None, None]:
        self._send(context, fields, identifier)
        cancelled = False
        while True:
            context_id, command = self._link.command()
            if receive is not None and command.field == CommandField.C_STORE:
                self._receive(context_id, command, receive)
                continue
            reply = self._response(context_id, command)
            if not reply.pending:
                if not cancelled:
                    yield reply
                return
            if not cancelled:
                try:
                    yield reply
                except GeneratorExit:
                    cancelled = True
                    self.cancel(context)

    def cancel(self, context: Context) -> None:
        """Ask for the end of the query or retrieval that runs on `context` (PS3.7 9.3.2.3)."""
        fields: dict[int, int | str | bytes] = {
            Tag.COMMAND_FIELD: CommandField.C_CANCEL,
            Tag.MESSAGE_ID_BEING_RESPONDED_TO: self._message_id,
            Tag.DATASET_TYPE: NO_DATASET,
        }
        self._link.send(context.id, encode_command(fields))

    def _receive(self, context_id: int, command: Command, receive: Callable[[Command, Context], Sink]) -> None:
        context = self.contexts.get(context_id)
        if context is None or not command.has_dataset:
            self._link.abort()
            raise PeerFailed(f"{self.remote} sends a C-STORE that nobody agreed to")
        sink = receive(command, context)
        try:
            self._link.dataset(context_id, sink.write)
            status = sink.finish()
        except BaseException:
            sink.abort()
            raise
        self._answer(context_id, command, status)

    def _answer(self, context_id: int, command: Command, status: int) -> None:
        fields: dict[int, int | str | bytes] = {
            Tag.COMMAND_FIELD: command.field | RESPONSE,
            Tag.MESSAGE_ID_BEING_RESPONDED_TO: command.message_id or 0,
            Tag.DATASET_TYPE: NO_DATASET,
            Tag.STATUS: status,
            Tag.AFFECTED_SOP_CLASS_UID: command.sop_class_uid,
            Tag.AFFECTED_SOP_INSTANCE_UID: command.sop_instance_uid,
        }
        if command.field == CommandField.N_EVENT_REPORT:
            fields[Tag.EVENT_TYPE_ID] = command.numbers.get(Tag.EVENT_TYPE_ID, 0)
        self._link.send(context_id, encode_command(fields))


def store_command(
    sop_class_uid: str, sop_instance_uid: str, message_id: int, *, priority: int = _MEDIUM, move: Move | None = None
) -> bytes:
    """The command set of a C-STORE request (PS3.7 9.3.1.1)."""
    fields: dict[int, int | str | bytes] = {
        Tag.AFFECTED_SOP_CLASS_UID: sop_class_uid,
        Tag.COMMAND_FIELD: CommandField.C_STORE,
        Tag.MESSAGE_ID: message_id,
        Tag.PRIORITY: priority,
        Tag.DATASET_TYPE: 0x0001,
        Tag.AFFECTED_SOP_INSTANCE_UID: sop_instance_uid,
    }
    if move is not None:
        fields[Tag.MOVE_ORIGINATOR_AE_TITLE] = move.originator_ae_title
        fields[Tag.MOVE_ORIGINATOR_MESSAGE_ID] = move.message_id
    return encode_command(fields)
