"""C-GET and C-MOVE as SCP (PS3.4 C.4.2, C.4.3; PS3.7 9.1.3, 9.1.4), Patient Root and Study Root, at every level."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from pacs import audit
from pacs.auth import Right
from pacs.dimse import identifiers, remotes, retrieve_identifier, status
from pacs.dimse.messages import Command, CommandField, Response, Tag
from pacs.dimse.negotiation import Context, Policy
from pacs.dimse.operation import Peer
from pacs.dimse.requestor import Move, Remote
from pacs.dimse.sending import Sender
from pacs.dimse.sub_operations import Tally, prepare, read_ahead
from pacs.errors import NotFound, OutOfResources, TooLarge, Unavailable
from pacs.selection import Selection, locate

if TYPE_CHECKING:
    from pacs.retrieve import InstanceLocation

log = logging.getLogger(__name__)

PENDING_S = 0.05
"""How often a pending response tells the counts, after the first few instances, which are told one by one."""

TOLD_ONE_BY_ONE = 4


class _Retrieval:
    """One C-GET or C-MOVE: its identifier on the way in, then a sub-operation per instance."""

    name = ""

    def __init__(self, peer: Peer, context: Context, command: Command) -> None:
        self._peer = peer
        self._context = context
        self._command = command
        self._priority = command.numbers.get(Tag.PRIORITY, 0)
        self._identifier = bytearray()
        self._refusal: Response | None = None
        if command.mistyped:
            self._refusal = Response(status.MISTYPED_ARGUMENT, "command element of a wrong length", command.mistyped)
        elif not command.has_dataset:
            self._refusal = Response(status.CANNOT_UNDERSTAND, "request without identifier", (Tag.DATASET_TYPE,))

    def write(self, piece: memoryview) -> None:
        """The next bytes of the identifier; those beyond the limit are forgotten."""
        if len(self._identifier) <= identifiers.MAX_IDENTIFIER_LENGTH:
            self._identifier += piece

    def abort(self) -> None:
        """Nothing is left behind: what was sent was sent."""

    def finish(self, cancelled: Callable[[], bool]) -> Iterator[Response]:
        """Pending responses with the counts, then the final one."""
        if self._refusal is not None:
            yield self._refusal
            return
        try:
            self._peer.principal.require(Right.READ)
            selection = self._selection()
            if (refusal := self._cannot_send()) is not None:
                yield refusal
                return
            locations = locate(self._peer.archive.index, self._peer.principal, selection)
        except (Unavailable, OutOfResources, TooLarge) as error:
            yield Response(status.UNABLE_TO_COUNT_MATCHES, status.comment(error.reason))
            return
        except Exception as error:
            yield status.failure(error)
            return
        tally = Tally(len(locations))
        if not locations:
            yield Response(status.SUCCESS, fields=tally.fields(remaining=False))
            return
        self._audit("Begin Transferring DICOM Instances", locations, "success", f"{tally.total} instances")
        stopped, ended, said = False, False, -math.inf
        try:
            with closing(self._sending(locations, tally)) as sending:
                for _ in sending:
                    if not tally.remaining:
                        continue
                    if stopped := cancelled():
                        break
                    now = time.monotonic()
                    if now - said >= PENDING_S or tally.total - tally.remaining <= TOLD_ONE_BY_ONE:
                        said = now
                        yield Response(status.PENDING, fields=tally.fields(remaining=True))
            ended = not stopped
        finally:
            outcome = "success" if ended and not tally.failed else "failure"
            why = "" if ended else ", cancelled" if stopped else ", broken off"
            self._audit("DICOM Instances Transferred", locations, outcome, tally.words + why)
        yield self._final(tally, stopped)

    def _final(self, tally: Tally, stopped: bool) -> Response:
        if stopped:
            code = status.CANCEL
        elif tally.failed and not tally.taken:
            code = status.UNABLE_TO_PERFORM_SUB_OPERATIONS
        elif tally.failed or tally.warnings:
            code = status.SUB_OPERATIONS_FAILED
        else:
            code = status.SUCCESS
        listed = None
        if tally.failed:
            listed = retrieve_identifier.failed_list(tally.failed, self._context.transfer_syntax)
        return Response(
            code, status.comment(tally.reason), dataset=listed, fields=tally.fields(remaining=code == status.CANCEL)
        )

    def _selection(self) -> Selection:
        if len(self._identifier) > identifiers.MAX_IDENTIFIER_LENGTH:
            raise TooLarge(f"identifier of more than {identifiers.MAX_IDENTIFIER_LENGTH} bytes")
        abstract = self._context.abstract_syntax
        identifier = identifiers.decode(bytes(self._identifier), self._context.transfer_syntax)
        relational = self._peer.extended.get(abstract, b"")[:1] == b"\1"
        return retrieve_identifier.understand(identifier, abstract, relational=relational)

    def _audit(self, event: str, locations: list[InstanceLocation], outcome: str, detail: str) -> None:
        now, to = time.time(), f"{self.name} to {self._destination}: {detail}"
        rows = [
            audit.row(event, self._peer.principal, outcome, now, study_instance_uid=uid, detail=to)
            for uid in dict.fromkeys(each.study_instance_uid for each in locations)
        ]
        try:
            self._peer.archive.index.transact(lambda conn: audit.record_all(conn, rows))
        except Exception as error:  # reading goes on where the index cannot be written; the log has it at least
            status.report("cannot write the audit of a transfer", error)
            log.warning("%s: %s, %s, %d studies", event, outcome, to, len(rows))

    @property
    def _destination(self) -> str:
        raise NotImplementedError

    def _cannot_send(self) -> Response | None:
        raise NotImplementedError

    def _sending(self, locations: list[InstanceLocation], tally: Tally) -> Generator[None, None, None]:
        raise NotImplementedError


class GetOperation(_Retrieval):
    """C-GET: the instances come back on the association that asked, in contexts where the peer is SCP."""

    name = "C-GET"

    @property
    def _destination(self) -> str:
        return self._peer.calling_ae_title

    def _cannot_send(self) -> Response | None:
        return None

    def _sending(self, locations: list[InstanceLocation], tally: Tally) -> Generator[None, None, None]:
        line = self._peer.line
        accepted = {uid: line.accepted(uid) for uid in {each.sop_class_uid for each in locations}}
        archive = self._peer.archive
        with closing(read_ahead(locations, lambda each: prepare(archive, each, accepted[each.sop_class_uid]))) as ready:
            for prepared in ready:
                location = prepared.location
                if prepared.error is not None:
                    tally.fail(location.sop_instance_uid, prepared.error.reason)
                else:
                    fields: dict[int, int | str | bytes] = {
                        Tag.AFFECTED_SOP_CLASS_UID: location.sop_class_uid,
                        Tag.AFFECTED_SOP_INSTANCE_UID: location.sop_instance_uid,
                        Tag.PRIORITY: self._priority,
                    }
                    answer = line.request(
                        prepared.context_id, CommandField.C_STORE, fields, prepared.pieces, prepared.length
                    )
                    code = status.PROCESSING_FAILURE if answer.status is None else answer.status
                    tally.take(location.sop_instance_uid, code, answer.comment)
                yield


class MoveOperation(_Retrieval):
    """C-MOVE: the instances go to a third AE, which has to be configured with its address."""

    name = "C-MOVE"

    def __init__(self, peer: Peer, context: Context, command: Command) -> None:
        super().__init__(peer, context, command)
        self._remote: Remote | None = None

    @property
    def _destination(self) -> str:
        return self._command.texts.get(Tag.MOVE_DESTINATION, "")

    def _cannot_send(self) -> Response | None:
        try:
            self._remote = remotes.known(self._peer.archive.settings, self._destination)
        except NotFound as error:
            return Response(status.MOVE_DESTINATION_UNKNOWN, status.comment(error.reason), (Tag.MOVE_DESTINATION,))
        return None

    def _sending(self, locations: list[InstanceLocation], tally: Tally) -> Generator[None, None, None]:
        assert self._remote is not None
        move = Move(self._peer.calling_ae_title, self._command.message_id or 0)
        sender = Sender(self._peer.archive, self._remote, self._peer.ae_title, self._priority, move)
        return sender.send(locations, tally)


def extended_retrieve(asked: bytes, policy: Policy) -> bytes:
    """Relational retrieval, as asked (PS3.4 C.5.2.1); what follows it is not supported."""
    able = bytes((policy.relational,)).ljust(len(asked), b"\0")
    return bytes(a & b for a, b in zip(asked, able, strict=False))
