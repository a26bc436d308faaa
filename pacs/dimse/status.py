"""DIMSE status codes (PS3.7 annex C, PS3.4 B.2.3 and C.4.1.1.4): the one place that knows them.

Turns an error of `pacs.errors` into a status, an Error Comment that says why and, where it is about one, the tag of
the Offending Element. Comments carry no patient data, since errors do not.
"""

from __future__ import annotations

import logging
import re
import traceback

from pacs import errors
from pacs.commitment import Failure
from pacs.dimse.messages import Response

log = logging.getLogger(__name__)

SUCCESS = 0x0000
PENDING = 0xFF00
PENDING_WITHOUT_OPTIONAL_KEYS = 0xFF01
CANCEL = 0xFE00
PROCESSING_FAILURE = 0x0110
NO_SUCH_INSTANCE = 0x0112
NO_SUCH_EVENT_TYPE = 0x0113
INVALID_ARGUMENT_VALUE = 0x0115
DUPLICATE_INSTANCE = 0x0111
INVALID_OBJECT_INSTANCE = 0x0117
NO_SUCH_CLASS = 0x0118
SOP_CLASS_NOT_SUPPORTED = 0x0122
NOT_AUTHORISED = 0x0124
NO_SUCH_ACTION = 0x0123
UNRECOGNISED_OPERATION = 0x0211
MISTYPED_ARGUMENT = 0x0212
RESOURCE_LIMITATION = 0x0213
OUT_OF_RESOURCES = 0xA700
UNABLE_TO_COUNT_MATCHES = 0xA701
UNABLE_TO_PERFORM_SUB_OPERATIONS = 0xA702
MOVE_DESTINATION_UNKNOWN = 0xA801
SUB_OPERATIONS_FAILED = 0xB000
DATASET_MISMATCH = 0xA900
IDENTIFIER_MISMATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000

TABLE: tuple[tuple[type[errors.ArchiveError], int], ...] = (
    (errors.DatasetMismatch, DATASET_MISMATCH),
    (errors.UnsupportedClass, SOP_CLASS_NOT_SUPPORTED),
    (errors.InvalidInput, CANNOT_UNDERSTAND),
    (errors.DuplicateInstance, DUPLICATE_INSTANCE),
    (errors.OutOfResources, OUT_OF_RESOURCES),
    (errors.TooLarge, OUT_OF_RESOURCES),
    (errors.Unavailable, OUT_OF_RESOURCES),  # asking again later may work, which is what A7xx tells a peer
    (errors.AccessDenied, NOT_AUTHORISED),
)
FAILURE_REASONS: dict[Failure, int] = {
    Failure.PROCESSING: 0x0110,
    Failure.NO_SUCH_INSTANCE: 0x0112,
    Failure.RESOURCES: 0x0213,
    Failure.CLASS_NOT_SUPPORTED: 0x0122,
    Failure.CLASS_CONFLICT: 0x0119,
    Failure.DUPLICATE_TRANSACTION: 0x0131,
}
"""Failure Reason (0008,1197) of Storage Commitment (PS3.3 C.14.1.1)."""

_N_TABLE: tuple[tuple[type[errors.ArchiveError], int], ...] = (
    (errors.InvalidInput, INVALID_ARGUMENT_VALUE),
    (errors.NotFound, NO_SUCH_INSTANCE),
    (errors.TooLarge, RESOURCE_LIMITATION),
    (errors.OutOfResources, RESOURCE_LIMITATION),
    (errors.Unavailable, RESOURCE_LIMITATION),
    (errors.AccessDenied, NOT_AUTHORISED),
)
WARNING_MODIFIED = 0xB300
WARNING_OPTIONAL_ATTRIBUTES = 0x0001
ALREADY_CANCELED = 0xB304
ALREADY_COMPLETED = 0xB306
MISSING_ATTRIBUTE = 0x0120

UPS_TABLE: tuple[tuple[type[errors.ArchiveError], int], ...] = (
    (errors.AlreadyFinal, 0xC300),
    (errors.TransactionMismatch, 0xC301),
    (errors.AlreadyInProgress, 0xC302),
    (errors.NeverScheduledAgain, 0xC303),
    (errors.FinalStateUnmet, 0xC304),
    (errors.UnknownReceiver, 0xC308),
    (errors.NotFound, 0xC307),
    (errors.NotScheduled, 0xC309),
    (errors.NotInProgress, 0xC310),
    (errors.AlreadyCompleted, 0xC311),
    (errors.PerformerUnreachable, 0xC312),
    (errors.ActionUnsuitable, 0xC314),
    (errors.Conflict, DUPLICATE_INSTANCE),
    (errors.MissingValue, 0x0121),
    (errors.MissingAttribute, MISSING_ATTRIBUTE),
    (errors.InvalidUID, INVALID_OBJECT_INSTANCE),
    (errors.InvalidInput, 0x0106),
    *((kind, code) for kind, code in _N_TABLE if kind not in (errors.InvalidInput, errors.NotFound)),
)
"""PS3.4 Tables CC.2.1-2, CC.2.2-2, CC.2.3-3, CC.2.5-2, CC.2.6-1 and CC.2.7-1."""

_TAG = re.compile(r"\(?([0-9A-Fa-f]{4}),?([0-9A-Fa-f]{4})\)?")


def failure(error: Exception) -> Response:
    """The response that says `error`; one that is not ours is logged and answered as a processing failure."""
    if not isinstance(error, errors.ArchiveError):
        report("a DIMSE service failed", error)
        return Response(PROCESSING_FAILURE, "internal error, see the log of the server")
    code = next((code for kind, code in TABLE if isinstance(error, kind)), PROCESSING_FAILURE)
    tag = _TAG.fullmatch(error.about) or (
        _TAG.search(error.reason) if code in (CANNOT_UNDERSTAND, DATASET_MISMATCH) else None
    )
    return Response(code, comment(error.reason), (int(tag[1] + tag[2], 16),) if tag else ())


def n_failure(error: Exception) -> Response:
    """The same for the services whose statuses are those of PS3.7 10.1 (N-ACTION, N-EVENT-REPORT)."""
    if not isinstance(error, errors.ArchiveError):
        return failure(error)
    code = next((code for kind, code in _N_TABLE if isinstance(error, kind)), PROCESSING_FAILURE)
    return Response(code, comment(error.reason))


def ups_failure(error: Exception) -> Response:
    """The same for Unified Procedure Steps (PS3.4 CC.2)."""
    if not isinstance(error, errors.ArchiveError):
        return failure(error)
    code = next((code for kind, code in UPS_TABLE if isinstance(error, kind)), PROCESSING_FAILURE)
    return Response(code, comment(error.reason))


def report(what: str, error: Exception) -> None:
    """Log an error that nobody foresaw: its type and where it happened, not its text, which may hold patient data."""
    log.error("%s: %s\n%s", what, type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))


def comment(text: str) -> str:
    """`text` as an Error Comment (VR LO): at most 64 characters of the default repertoire, no backslash."""
    return "".join(char if " " <= char <= "~" and char != "\\" else " " for char in text)[:64].strip()
