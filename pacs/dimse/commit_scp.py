"""Storage Commitment Push Model at our acceptor (PS3.4 annex J): requests taken as SCP, reports taken as SCU."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pacs.auth import Right
from pacs.dimse import commit_module, status
from pacs.dimse.commit_module import MAX_LENGTH, REQUEST, WELL_KNOWN_INSTANCE
from pacs.dimse.messages import Command, Response, Tag
from pacs.dimse.negotiation import Context
from pacs.dimse.operation import Peer
from pacs.errors import NotFound, TooLarge


class _Message:
    """A request whose data set is small enough to be kept whole; subclasses perform it."""

    def __init__(self, peer: Peer, context: Context, command: Command) -> None:
        self._peer = peer
        self._context = context
        self._command = command
        self._dataset = bytearray()

    def write(self, piece: memoryview) -> None:
        """The next bytes of the data set; those beyond the limit are forgotten."""
        if len(self._dataset) <= MAX_LENGTH:
            self._dataset += piece

    def finish(self, cancelled: Callable[[], bool]) -> Iterator[Response]:
        """The one response, once what it says is durable."""
        refusal = self._refusal()
        if refusal is None:
            try:
                refusal = self._perform()
            except Exception as error:
                refusal = status.n_failure(error)
        yield refusal

    def abort(self) -> None:
        """Nothing was begun that would need undoing."""

    def _refusal(self) -> Response | None:
        command = self._command
        if command.mistyped:
            return Response(status.MISTYPED_ARGUMENT, "command element of a wrong length", command.mistyped)
        if command.sop_instance_uid != WELL_KNOWN_INSTANCE:
            return Response(status.NO_SUCH_INSTANCE, "not the well-known SOP Instance of Storage Commitment")
        if not command.has_dataset:
            return Response(status.INVALID_ARGUMENT_VALUE, "no data set")
        if len(self._dataset) > MAX_LENGTH:
            return status.n_failure(TooLarge(f"data set of more than {MAX_LENGTH} bytes"))
        return None

    def _perform(self) -> Response:
        raise NotImplementedError


class CommitAction(_Message):
    """N-ACTION "request storage commitment" (PS3.4 J.3.2): a durable row, then success; the verdict comes as event."""

    def _perform(self) -> Response:
        action = self._command.numbers.get(Tag.ACTION_TYPE_ID)
        if action != REQUEST:
            return Response(
                status.NO_SUCH_ACTION, "Action Type ID is not 1", fields=_echoed(Tag.ACTION_TYPE_ID, action)
            )
        peer = self._peer
        peer.principal.require(Right.STORE)
        transaction_uid, instances = commit_module.read_request(bytes(self._dataset), self._context.transfer_syntax)
        peer.archive.commitments.accept(
            transaction_uid, instances, peer=peer.calling_ae_title, principal=peer.principal, origin=peer.line
        )
        return Response(status.SUCCESS, fields=_echoed(Tag.ACTION_TYPE_ID, action))


class CommitEvent(_Message):
    """N-EVENT-REPORT of an archive that we asked (PS3.4 J.3.3): success once its verdict is kept."""

    def _perform(self) -> Response:
        event = self._command.numbers.get(Tag.EVENT_TYPE_ID)
        if event not in (commit_module.ALL_COMMITTED, commit_module.SOME_FAILED):
            return Response(status.NO_SUCH_EVENT_TYPE, "Event Type ID is neither 1 nor 2")
        report = commit_module.read_report(bytes(self._dataset), self._context.transfer_syntax)
        try:
            self._peer.archive.commitments.answered(
                self._peer.calling_ae_title, report.transaction_uid, report.committed, report.failed
            )
        except NotFound:
            return Response(status.INVALID_ARGUMENT_VALUE, "unknown Transaction UID")
        return Response(status.SUCCESS, fields=_echoed(Tag.EVENT_TYPE_ID, event))


def _echoed(tag: Tag, number: int | None) -> dict[int, int | str | bytes]:
    return {} if number is None else {tag: number}
