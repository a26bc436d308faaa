"""Errors as HTTP answers: the only file that knows which status code each error of the archive gets (PS3.18 8.5)."""

from __future__ import annotations

import logging
import traceback
from http import HTTPStatus

import orjson

from dicomweb.media_types import NotAcceptable, UnsupportedEncoding, UnsupportedMediaType
from pacs.commitment import Failure
from pacs.errors import (
    ArchiveError,
    Conflict,
    Corrupt,
    DatasetMismatch,
    DuplicateInstance,
    Forbidden,
    Gone,
    InvalidInput,
    InvalidUID,
    MalformedDataset,
    NotFound,
    OutOfResources,
    TooLarge,
    TransactionMismatch,
    Unauthenticated,
    Unavailable,
    Undecodable,
    UnsupportedClass,
    UnsupportedTransferSyntax,
)

log = logging.getLogger("m3dicom.dicomweb")

PROBLEM = "application/problem+json"
RETRY_AFTER_S = 5


class RangeNotSatisfiable(ArchiveError):
    """A byte range that begins beyond the end; `about` is the length in bytes."""


# Failure Reason (0008,1197) of an instance that is not committed (PS3.3 C.14.1.1).
COMMITMENT_REASONS: dict[str, int] = {
    Failure.PROCESSING: 0x0110,
    Failure.NO_SUCH_INSTANCE: 0x0112,
    Failure.RESOURCES: 0x0213,
    Failure.CLASS_NOT_SUPPORTED: 0x0122,
    Failure.CLASS_CONFLICT: 0x0119,
    Failure.DUPLICATE_TRANSACTION: 0x0131,
}

# The first class of an error's ancestry that stands here decides.
STATUS: dict[type[ArchiveError], int] = {
    InvalidInput: 400,
    MalformedDataset: 500,  # of a body it is told instance by instance; here it is about what is stored
    UnsupportedTransferSyntax: 406,  # over HTTP it only says that what is stored cannot be had in the syntax asked for
    NotAcceptable: 406,
    UnsupportedMediaType: 415,
    RangeNotSatisfiable: 416,
    NotFound: 404,
    Gone: 410,
    Conflict: 409,
    TransactionMismatch: 400,  # PS3.18 11.6.3 and 11.7.3
    Unauthenticated: 401,
    Forbidden: 403,
    TooLarge: 413,
    OutOfResources: 507,
    Unavailable: 503,
    Undecodable: 406,  # no failure of the server's, and as it is stored it can be had
    Corrupt: 500,
    ArchiveError: 500,
}

# Failure Reason (0008,1197) of one instance (PS3.18 Annex I.2.2, PS3.7 Annex C, PS3.4 B.2.3).
OUT_OF_RESOURCES = 0xA700
MISMATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000
TRANSFER_SYNTAX_NOT_SUPPORTED = 0xC122
PROCESSING_FAILURE = 0x0110
DUPLICATE = 0x0111
CLASS_NOT_SUPPORTED = 0x0122
REASONS: dict[type[ArchiveError], int] = {
    DuplicateInstance: DUPLICATE,
    DatasetMismatch: MISMATCH,
    UnsupportedClass: CLASS_NOT_SUPPORTED,
    InvalidUID: CANNOT_UNDERSTAND,
    MalformedDataset: CANNOT_UNDERSTAND,
    InvalidInput: CANNOT_UNDERSTAND,
    UnsupportedTransferSyntax: TRANSFER_SYNTAX_NOT_SUPPORTED,
    TooLarge: OUT_OF_RESOURCES,
    OutOfResources: OUT_OF_RESOURCES,
    Unavailable: OUT_OF_RESOURCES,
    ArchiveError: PROCESSING_FAILURE,
}


def status(error: ArchiveError) -> int:
    """The HTTP status code of an error."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def failure_reason(error: ArchiveError) -> int:
    """The Failure Reason (0008,1197) of an instance that could not be stored."""
    return next(REASONS[kind] for kind in type(error).__mro__ if kind in REASONS)


def problem(code: int, detail: str, about: str = "") -> bytes:
    """The body of an error answer (RFC 9457)."""
    body = {"type": "about:blank", "title": HTTPStatus(code).phrase, "status": code, "detail": detail}
    return orjson.dumps(body | ({"about": about} if about else {}))


def detail(error: ArchiveError) -> str:
    """What the body of an error answer says: the reason, and where there is a way out, that."""
    if isinstance(error, Undecodable):
        return (
            f"this cannot be made of what is stored: {error.reason}; "
            "as it is stored it can be had with transfer-syntax=*"
        )
    return error.reason


def extra_headers(error: ArchiveError) -> list[tuple[str, str]]:
    """What the status of this error wants besides a body."""
    match error:
        case Unavailable():
            return [("Retry-After", str(RETRY_AFTER_S))]
        case Unauthenticated():
            return [("WWW-Authenticate", 'Bearer realm="m3dicom"')]
        case UnsupportedEncoding():
            return [("Accept-Encoding", "identity")]  # RFC 9110 12.5.3
        case RangeNotSatisfiable():
            return [("Content-Range", f"bytes */{error.about}")]
        case _:
            return []


def report(error: BaseException, method: str, route: str) -> None:
    """A line in the log that says where it failed, without the message: a foreign error may quote patient data."""
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames[-6:]))
    log.error("%s %s failed: %s at %s", method, route, type(error).__name__, where)
