"""The DIMSE services of the acceptor, a row each: what is negotiated and what is performed are read from here."""

from __future__ import annotations

from pacs.dimse import status
from pacs.dimse.commit_module import STORAGE_COMMITMENT
from pacs.dimse.commit_scp import CommitAction, CommitEvent
from pacs.dimse.find_scp import FindOperation
from pacs.dimse.messages import Command, CommandField, Response
from pacs.dimse.negotiation import FIND_CLASSES, VERIFICATION, Context, Policy, extended_query, extended_storage
from pacs.dimse.operation import Answer, Operation, Peer, Service
from pacs.dimse.retrieve_identifier import GET_CLASSES, MOVE_CLASSES
from pacs.dimse.retrieve_scp import GetOperation, MoveOperation, extended_retrieve
from pacs.dimse.store_scp import StoreOperation
from pacs.dimse.ups_scp import SERVICES as UPS_SERVICES


def _echo(peer: Peer, context: Context, command: Command) -> Operation:
    return Answer(Response(status.SUCCESS))


def _is_storage(uid: str, policy: Policy) -> bool:
    # Of those in no table: private ones, and newer ones under the arc of the Storage SOP Classes
    unknown = not uid.startswith("1.2.840.10008.") or uid.startswith("1.2.840.10008.5.1.4.1.1.")
    return uid in policy.storage or (policy.unknown_storage and unknown)


STORAGE = Service(
    "storage",
    frozenset(),
    {CommandField.C_STORE: StoreOperation},
    scp=True,  # of C-GET's sub-operations
    extended=extended_storage,
    also=_is_storage,
    syntaxes=lambda policy: frozenset(policy.transfer_syntaxes),
    checks_class=False,  # StoreOperation does
)

SERVICES: tuple[Service, ...] = (
    Service("verification", frozenset({VERIFICATION}), {CommandField.C_ECHO: _echo}),
    Service("query", FIND_CLASSES, {CommandField.C_FIND: FindOperation}, extended=extended_query),
    Service("get", GET_CLASSES, {CommandField.C_GET: GetOperation}, extended=extended_retrieve, eager=True),
    Service("move", MOVE_CLASSES, {CommandField.C_MOVE: MoveOperation}, extended=extended_retrieve, eager=True),
    Service(
        "commitment",
        frozenset({STORAGE_COMMITMENT}),
        {CommandField.N_ACTION: CommitAction, CommandField.N_EVENT_REPORT: CommitEvent},
        scp=True,  # whoever reports what we asked
        events=True,
    ),
    *UPS_SERVICES,
    STORAGE,  # the last: with unknown SOP classes it takes what nobody else claims
)


def begin(peer: Peer, context: Context, command: Command) -> Operation:
    """The operation that `command` asks for on `context`, or one that answers why there is none (PS3.7 annex C)."""
    service = context.service
    operation = service.operations.get(command.field) if service else None  # type: ignore[call-overload]
    asks_as_scp = command.field == CommandField.N_EVENT_REPORT
    if service is None or operation is None or not (context.scp if asks_as_scp else context.scu):
        return Answer(Response(status.UNRECOGNISED_OPERATION, "not an operation of this presentation context"))
    if service.checks_class and command.sop_class_uid != context.abstract_syntax:
        return Answer(Response(status.SOP_CLASS_NOT_SUPPORTED, "SOP class is not that of the presentation context"))
    begun: Operation = operation(peer, context, command)
    return begun
