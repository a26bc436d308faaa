"""C-STORE as SCP (PS3.4 annex B, PS3.7 9.1.1): fragments go straight to ingest; success is said when all is durable."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pacs import uids
from pacs.auth import Right
from pacs.dimse import status
from pacs.dimse.messages import Command, Response, Tag
from pacs.dimse.negotiation import Context
from pacs.dimse.operation import Peer
from pacs.dimse.upper_layer import AbortReason, AbortSource, ProtocolError
from pacs.errors import InvalidUID

if TYPE_CHECKING:
    from pacs.ingest import Receiving
    from pacs.spool import Spool

log = logging.getLogger(__name__)

DISCARD_LIMIT = 256 << 20
"""How much of a data set is still read after it was refused; a peer that sends more is cut off."""


class StoreOperation:
    """One instance on its way in. What is refused is read to its end and answered, never left hanging."""

    def __init__(self, peer: Peer, context: Context, command: Command) -> None:
        self._peer = peer
        self._sop_instance_uid = command.sop_instance_uid
        self._receiving: Receiving | None = None
        self._discarded = 0
        self._failure = self._refusal(context, command)
        if self._failure is None:
            try:
                peer.principal.require(Right.STORE)
                self._receiving = peer.archive.ingest.receive(
                    context.transfer_syntax, command.sop_class_uid, command.sop_instance_uid, peer.calling_ae_title
                )
            except Exception as error:
                self._failure = status.failure(error)

    def room(self, wanted: int) -> memoryview | None:
        """Where the next bytes may be received, or None: they go to `write`."""
        if self._receiving is None:
            return None
        try:
            return self._receiving.room(wanted)
        except Exception as error:
            self._fail(error)
            return None

    def filled(self, count: int) -> None:
        """The next bytes are where `room` said."""
        if self._receiving is not None:
            try:
                self._receiving.filled(count)
            except Exception as error:
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._failure = status.failure(error)
        self.abort()

    def taken_over(self, give: Callable[[Spool], bool]) -> bool:
        """Whether the first bytes of the data set are where they belong, as `give` has it; else they go to `write`."""
        if self._receiving is None:
            return False
        try:
            return give(self._receiving.spool)
        except Exception as error:
            self._fail(error)
            return False

    def write(self, piece: memoryview) -> None:
        """The next bytes of the data set. Raises ProtocolError where a refused one does not end."""
        if self._receiving is not None:
            try:
                self._receiving.write(piece)
                return
            except Exception as error:
                self._fail(error)
        self._discarded += len(piece)
        if self._discarded > DISCARD_LIMIT:
            raise ProtocolError("refused data set goes on", AbortReason.NOT_SPECIFIED, AbortSource.USER)

    def finish(self, cancelled: Callable[[], bool]) -> Iterator[Response]:
        """0000H once the instance is durable, or why it was not stored."""
        if self._failure is None and self._receiving is not None:
            receiving, self._receiving = self._receiving, None
            try:
                self._peer.archive.ingest.store(receiving, principal=self._peer.principal)
            except Exception as error:
                self._failure = status.failure(error)
                receiving.abort()
        if self._failure is not None:
            uid = self._sop_instance_uid if uids.is_valid(self._sop_instance_uid) else "an instance without a valid UID"
            source, why = self._peer.calling_ae_title, self._failure.comment
            log.warning("C-STORE of %s from %r refused: %04XH %s", uid, source, self._failure.status, why)
        yield self._failure or Response(status.SUCCESS)

    def abort(self) -> None:
        """Leave nothing of an instance that did not arrive whole."""
        receiving, self._receiving = self._receiving, None
        if receiving is not None:
            receiving.abort()

    @staticmethod
    def _refusal(context: Context, command: Command) -> Response | None:
        if command.mistyped:
            return Response(
                status.MISTYPED_ARGUMENT, "command element of a wrong length or repertoire", command.mistyped
            )
        if command.sop_class_uid != context.abstract_syntax:
            return Response(status.SOP_CLASS_NOT_SUPPORTED, "SOP class was not negotiated for this context")
        try:
            uids.checked(command.sop_instance_uid, "Affected SOP Instance UID")
        except InvalidUID as error:
            return Response(
                status.INVALID_OBJECT_INSTANCE, status.comment(error.reason), (Tag.AFFECTED_SOP_INSTANCE_UID,)
            )
        if not command.has_dataset:
            return Response(status.CANNOT_UNDERSTAND, "C-STORE request without a data set", (Tag.DATASET_TYPE,))
        return None
