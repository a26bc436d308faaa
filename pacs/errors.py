"""Every error of the archive, protocol-free: one tree, drawn here.

    ArchiveError
    ├── InvalidInput                 what was asked or sent is wrong in itself
    │   ├── InvalidUID
    │   ├── InvalidQuery
    │   ├── MalformedDataset         the bytes are no data set we can understand
    │   ├── DatasetMismatch          the data set contradicts the request around it
    │   └── UnsupportedTransferSyntax
    ├── NotFound
    ├── Conflict                     right in itself, but not with what is here
    │   ├── DuplicateInstance        other content under a known SOP Instance UID
    │   ├── StateConflict            a Workitem's state forbids it (PS3.4 CC.1.1)
    │   └── TransactionMismatch      a Workitem's Transaction UID is missing or wrong
    ├── AccessDenied
    │   ├── Unauthenticated
    │   └── Forbidden
    ├── TooLarge
    ├── OutOfResources               no space left
    ├── Unavailable                  a store, index or queue cannot be reached
    │   └── PeerUnreachable          another system does not answer, or no longer
    ├── PeerRefused                  another system answers, and says no
    ├── PeerFailed                   another system breaks the protocol or fails
    ├── Undecodable                  pixel data that no decoder here can read
    └── Corrupt                      stored bytes no longer match their digest

Only `dicomweb/errors.py` knows HTTP status codes and only `pacs/dimse/status.py` knows DIMSE ones. A reason never
carries patient data: UIDs, tags and numbers are fine.
"""

from __future__ import annotations


class ArchiveError(Exception):
    """An error with a reason a person can read and, where there is one, the UID or tag that it is about."""

    def __init__(self, reason: str, *, about: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.about = about

    def __str__(self) -> str:
        return f"{self.reason} ({self.about})" if self.about else self.reason


class InvalidInput(ArchiveError):
    """What was asked or sent is wrong in itself."""


class InvalidUID(InvalidInput):
    """Not a UID as PS3.5 section 9.1 defines it."""


class InvalidQuery(InvalidInput):
    """A matching key, range or paging value that cannot be understood (PS3.4 C.2.2.2)."""


class MalformedDataset(InvalidInput):
    """Bytes that are no data set: wrong lengths, nesting beyond the limit, missing identifiers."""


class DatasetMismatch(InvalidInput):
    """The data set contradicts the command or address it came with (PS3.4 B.2.3, status A900H)."""


class UnsupportedTransferSyntax(InvalidInput):
    """A transfer syntax that is not in the table, or that cannot be turned into the one asked for."""


class NotFound(ArchiveError):
    """Nothing of that name is here, or nothing that the asker may see."""


class Conflict(ArchiveError):
    """Right in itself, but not together with what is already here."""


class DuplicateInstance(Conflict):
    """Other content is stored under this SOP Instance UID; the first stays."""


class StateConflict(Conflict):
    """The Workitem's state forbids this (PS3.4 Table CC.1.1-2)."""


class TransactionMismatch(Conflict):
    """The Transaction UID is missing or is not the one that the Workitem was claimed with (PS3.4 CC.2.1)."""


class AccessDenied(ArchiveError):
    """The principal may not do this."""


class Unauthenticated(AccessDenied):
    """Nobody we know: no credential, or one that is wrong or expired."""


class Forbidden(AccessDenied):
    """Somebody we know, without the right for this."""


class TooLarge(ArchiveError):
    """More than the configured limit."""


class OutOfResources(ArchiveError):
    """No space left to store it (PS3.4 B.2.3, status A700H)."""


class Unavailable(ArchiveError):
    """A part that is needed cannot be reached now; asking again later may work."""


class PeerUnreachable(Unavailable):
    """Another system cannot be connected to, does not answer in time, or the connection broke."""


class PeerRefused(ArchiveError):
    """Another system answers and says no: to the connection, to what was proposed on it, or to the request."""


class PeerFailed(ArchiveError):
    """Another system aborted, broke the protocol or reported a failure of its own."""


class Undecodable(ArchiveError):
    """Pixel data that cannot be decoded: broken, hostile, or in a syntax without a decoder here."""


class Corrupt(ArchiveError):
    """Stored bytes do not match the digest taken when they arrived."""
