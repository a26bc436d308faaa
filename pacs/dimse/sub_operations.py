"""What C-GET, C-MOVE and deliveries do for each instance: read ahead, verify, fit to what the peer accepts, count.

The next instances are read, verified against their digest and, where the peer wants another transfer syntax, made
over in a thread of their own while the peer is still busy with the last one. An instance is sent only once all of its
bytes were found right: one that is corrupt, or cannot be told in any syntax the peer accepts, fails with its reason.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from pacs.dicom.transfer_syntaxes import EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN, TRANSFER_SYNTAXES
from pacs.dimse import status
from pacs.dimse.messages import Tag
from pacs.errors import ArchiveError, Corrupt, PeerRefused, TooLarge

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.retrieve import InstanceLocation

log = logging.getLogger(__name__)

WHOLE_BYTES: Final = 32 << 20
"""Instances up to this size are held in memory while others leave room for them; longer ones, and those that find no
room, are read twice: to be verified and to be sent."""

TRANSCODED_BYTES: Final = 1 << 30
"""Longest data set that is made over into another transfer syntax."""

AHEAD: Final = 2
Item = TypeVar("Item", bound="Sendable")
MAX_LOGGED: Final = 100
MAX_COUNT: Final = 0xFFFF  # the counts are US


def _nothing() -> None:
    """Nothing is held."""


class Sendable(Protocol):
    """What has to be known of an instance to send it; an InstanceLocation, or a file."""

    @property
    def sop_class_uid(self) -> str: ...

    @property
    def sop_instance_uid(self) -> str: ...

    @property
    def transfer_syntax_uid(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """An instance ready to be sent in `context_id`, or why it cannot be."""

    location: Sendable
    context_id: int = 0
    pieces: Iterable[bytes | memoryview] = ()
    length: int = 0
    error: ArchiveError | None = None
    done: Callable[[], None] = _nothing
    """To be called once it is sent, or will not be: gives back the memory that it holds."""


@dataclass(slots=True)
class Tally:
    """The counts of sub-operations, and what failed (PS3.4 C.4.2.1.6)."""

    total: int
    completed: int = 0
    warnings: int = 0
    failed: list[str] = field(default_factory=list)
    reason: str = ""
    """Why the first one failed."""

    @property
    def remaining(self) -> int:
        """Sub-operations that were neither performed nor given up."""
        return self.total - self.completed - self.warnings - len(self.failed)

    def take(self, uid: str, code: int, comment: str = "") -> None:
        """Count the peer's answer to one instance (PS3.4 B.2.3)."""
        if code == 0:
            self.completed += 1
        elif code in (0x0001, 0x0107, 0x0116) or code >> 12 == 0xB:
            self.warnings += 1
        else:
            self.fail(uid, f"refused with {code:04X}H {status.comment(comment)}".strip())

    def fail(self, uid: str, reason: str) -> None:
        """Count an instance that could not be sent or was not taken."""
        if len(self.failed) < MAX_LOGGED:
            log.warning("instance %s could not be sent: %s", uid, reason)
        self.reason = self.reason or reason
        self.failed.append(uid)

    @property
    def taken(self) -> int:
        """How many the peer has taken."""
        return self.completed + self.warnings

    def fields(self, *, remaining: bool) -> dict[int, int | str | bytes]:
        """The counts as elements of a response; how many remain is said only while there is something to go on with."""
        counts: dict[int, int | str | bytes] = {
            Tag.COMPLETED_SUB_OPERATIONS: min(self.completed, MAX_COUNT),
            Tag.FAILED_SUB_OPERATIONS: min(len(self.failed), MAX_COUNT),
            Tag.WARNING_SUB_OPERATIONS: min(self.warnings, MAX_COUNT),
        }
        if remaining:
            counts[Tag.REMAINING_SUB_OPERATIONS] = min(self.remaining, MAX_COUNT)
        return counts

    @property
    def words(self) -> str:
        """The outcome for an audit row or a log."""
        return f"{self.taken} of {self.total} sent, {len(self.failed)} failed"


def prepare(archive: Archive, location: InstanceLocation, accepted: Mapping[str, int]) -> Prepared:
    """The instance as this peer takes it: as stored where it can be, else in a native syntax. Never raises."""
    held = archive.retrieve.held
    try:
        stored = location.transfer_syntax_uid
        target = choose(stored, accepted)
        if target == stored:
            if location.size <= WHOLE_BYTES and held.take(location.size):
                try:
                    data = archive.retrieve.dataset(location)
                except BaseException:
                    held.give(location.size)
                    raise
                return Prepared(location, accepted[target], (data,), len(data), done=lambda: held.give(location.size))
            length = sum(map(len, archive.retrieve.pieces(location)))  # read to its end: verified
            return Prepared(location, accepted[target], archive.retrieve.pieces(location), length)
        if location.size > TRANSCODED_BYTES:
            raise TooLarge(f"too long to be made over into {TRANSFER_SYNTAXES[target].name}")
        data = transcoded(archive, archive.retrieve.dataset(location), stored, target)
        return Prepared(location, accepted[target], (data,), len(data))
    except ArchiveError as error:
        return Prepared(location, error=error)
    except Exception as error:
        log.exception("an instance cannot be prepared for sending")
        return Prepared(location, error=Corrupt(f"internal error: {type(error).__name__}"))


def transcoded(archive: Archive, dataset: bytes, source: str, target: str) -> bytes:
    """The data set in `target`; codecs run in the sandboxed children. Raises UnsupportedTransferSyntax, Undecodable."""
    from pacs.dicom.transcode import transcode_dataset  # NumPy, which the doors' process is better off without

    if TRANSFER_SYNTAXES[source].encapsulated and archive.decoding is not None:
        return archive.decoding.transcode(dataset, source, target)
    return transcode_dataset(dataset, source, target)


def choose(stored: str, accepted: Mapping[str, int]) -> str:
    """The transfer syntax to send in. Raises PeerRefused where the peer accepts none that we can make."""
    if stored in accepted:
        return stored
    syntax = TRANSFER_SYNTAXES.get(stored)
    if syntax is not None and syntax.codec is not None:
        for target in (EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN):
            if target in accepted:
                return target
    if not accepted:
        raise PeerRefused("the peer does not accept this SOP class")
    name = syntax.name if syntax is not None else stored
    raise PeerRefused(f"the peer does not accept {name}, nor what can be made of it")


def read_ahead(
    items: Sequence[Item], prepared: Callable[[Item], Prepared], ahead: int = AHEAD
) -> Generator[Prepared, None, None]:
    """Every instance prepared, in order, a few of them in advance. Close the iterator to stop early."""
    if len(items) == 1:  # nothing to overlap with
        one = prepared(items[0])
        try:
            yield one
        finally:
            one.done()
        return
    ready: queue.Queue[Prepared] = queue.Queue(ahead)
    stopped = threading.Event()

    def work() -> None:
        for item in items:
            if stopped.is_set():
                return
            ready.put(prepared(item))

    thread = threading.Thread(target=work, name="dimse read-ahead", daemon=True)
    thread.start()
    try:
        for _ in items:
            one = ready.get()
            try:
                yield one
            finally:
                one.done()
    finally:
        stopped.set()
        while thread.is_alive() or not ready.empty():
            try:
                ready.get(timeout=0.01).done()
            except queue.Empty:
                thread.join(0.05)
