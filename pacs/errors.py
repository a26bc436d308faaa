"""Every error of the archive, protocol-free: one tree, drawn here.

    ArchiveError
    ├── InvalidInput                 what was asked or sent is wrong in itself
    │   ├── InvalidUID
    │   ├── InvalidQuery
    │   ├── MalformedDataset         the bytes are no data set we can understand
    │   ├── DatasetMismatch          the data set contradicts the request around it
    │   ├── MissingAttribute         a required attribute is not there
    │   │   └── MissingValue         it is there, and empty
    │   ├── NotScheduled             a Workitem to be created is not SCHEDULED
    │   ├── UnsupportedTransferSyntax
    │   └── UnsupportedClass         of a SOP Class whose instances are not stored
    ├── NotFound
    │   ├── Gone                     it was here once
    │   └── UnknownReceiver          nobody can send Workitem events there
    ├── Conflict                     right in itself, but not with what is here
    │   ├── DuplicateInstance        other content under a known SOP Instance UID
    │   │   └── Quarantined          kept aside until a person decides
    │   ├── StateConflict            a Workitem's state forbids it (PS3.4 CC.1.1)
    │   │   ├── AlreadyFinal         it may no longer be updated
    │   │   ├── AlreadyInProgress
    │   │   ├── NeverScheduledAgain  only its creation makes it SCHEDULED
    │   │   ├── NotInProgress
    │   │   ├── FinalStateUnmet      what the final state needs is missing
    │   │   ├── AlreadyCompleted     too late to ask for its end
    │   │   └── PerformerUnreachable nobody is there who could be asked to end it
    │   ├── TransactionMismatch      a Workitem's Transaction UID is missing or wrong
    │   └── ActionUnsuitable         this cannot be done with what it is asked of
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


class UnsupportedClass(InvalidInput):
    """An instance of a SOP Class that is nothing to store, as Verification is (PS3.7 C.4.1, status 0122H)."""


class MissingAttribute(InvalidInput):
    """A required attribute is not there (PS3.7 C.4.2, status 0120H)."""


class MissingValue(MissingAttribute):
    """A required attribute is there without a value (PS3.7 C.4.2, status 0121H)."""


class NotScheduled(InvalidInput):
    """A Workitem that is to be created has another state than SCHEDULED (PS3.4 Table CC.2.5-2)."""


class NotFound(ArchiveError):
    """Nothing of that name is here, or nothing that the asker may see."""


class Gone(NotFound):
    """It was here once, and was removed."""


class UnknownReceiver(NotFound):
    """Workitem events are to go to an AE that we know no way to (PS3.4 Table CC.2.3-3)."""


class Conflict(ArchiveError):
    """Right in itself, but not together with what is already here."""


class DuplicateInstance(Conflict):
    """Other content is stored under this SOP Instance UID; the first stays."""


class Quarantined(DuplicateInstance):
    """The same, but the newcomer is kept aside until a person decides; nobody sees it until then."""

    def __init__(self, sop_instance_uid: str) -> None:
        super().__init__("kept aside for a person: other content is held under this UID", about=sop_instance_uid)


class StateConflict(Conflict):
    """The Workitem's state forbids this (PS3.4 Table CC.1.1-2)."""


class AlreadyFinal(StateConflict):
    """The Workitem is COMPLETED or CANCELED and may no longer be updated."""


class AlreadyInProgress(StateConflict):
    """The Workitem is performed already."""


class NeverScheduledAgain(StateConflict):
    """A Workitem becomes SCHEDULED by being created, and in no other way."""


class NotInProgress(StateConflict):
    """The Workitem is not performed yet."""


class FinalStateUnmet(StateConflict):
    """What the final state needs has not been given (PS3.4 Table CC.2.5-3)."""


class AlreadyCompleted(StateConflict):
    """The Workitem cannot be cancelled: it is COMPLETED."""


class PerformerUnreachable(StateConflict):
    """Nobody is subscribed to the Workitem who could be asked to end it."""


class TransactionMismatch(Conflict):
    """The Transaction UID is missing or is not the one that the Workitem was claimed with (PS3.4 CC.2.1)."""


class ActionUnsuitable(Conflict):
    """The action is not for this instance (PS3.4 Table CC.2.3-3)."""


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
