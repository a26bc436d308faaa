"""Storage Commitment towards peers: our reports as SCP, on their association or one of ours, and our own requests.

Role selection as PS3.4 J.3.3 has it: whoever opens an association to report proposes the role SCP for itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pacs import uids
from pacs.commitment import Commitment
from pacs.dimse import commit_module, remotes, status
from pacs.dimse.commit_module import ALL_COMMITTED, SOME_FAILED, STORAGE_COMMITMENT, WELL_KNOWN_INSTANCE
from pacs.dimse.messages import Command, CommandField, Tag
from pacs.dimse.negotiation import EXPLICIT_LE, IMPLICIT_LE
from pacs.dimse.operation import Line, Request
from pacs.dimse.requestor import Event, Remote, Requestor, Timeouts
from pacs.dimse.upper_layer import Role
from pacs.errors import ArchiveError, NotFound, PeerFailed, PeerRefused, PeerUnreachable

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.settings import AE

PATIENCE = Timeouts(connect_s=5.0, associate_s=10.0, response_s=60.0)
CONTEXTS = [(STORAGE_COMMITMENT, [EXPLICIT_LE, IMPLICIT_LE])]

Taken = Callable[[Commitment], None]
Failed = Callable[[Commitment, str], None]


class EventReporter:
    """Reports to AEs: on the association of the request while it is open, else on one that we open."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._ae_title = archive.settings.aet.strip()
        self._lock = threading.Lock()
        self._open: set[Requestor] = set()
        self._closed = False

    def report(self, due: Sequence[Commitment], origins: Mapping[int, object], taken: Taken, failed: Failed) -> None:
        """As `pacs.committing.Reporter`."""
        reachable = self._reachable(due[0].peer)
        rest = list[Commitment]()
        for each in due:
            # A peer that did not answer on its own association is tried on one of ours, and then the other way again
            there = each.attempt % 2 == 0 or not reachable
            if not (there and self._offered(each, origins.get(each.id), taken, failed)):
                rest.append(each)
        if rest:
            self._on_our_own(rest, taken, failed)

    def close(self) -> None:
        """From another thread: let reports that wait for a peer fail."""
        with self._lock:
            self._closed = True
            for each in self._open:
                each.interrupt()

    def _reachable(self, title: str) -> bool:
        try:
            remotes.known(self._archive.settings, title)
        except NotFound:
            return False
        return True

    def _offered(self, commitment: Commitment, line: object, taken: Taken, failed: Failed) -> bool:
        """Whether the peer's own association will take the report; if that comes to nothing, one of ours is tried."""
        if line is None:
            return False

        def done(response: Command | None) -> None:
            if response is not None and _is_success(response.status):
                taken(commitment)
                return
            why = "the association ended" if response is None else f"it answered {response.status or 0:04X}H"
            failed(commitment, f"on its own association: {why}")

        offer: Line = line  # type: ignore[assignment]
        fields: dict[int, int | str | bytes] = {
            Tag.AFFECTED_SOP_CLASS_UID: STORAGE_COMMITMENT,
            Tag.AFFECTED_SOP_INSTANCE_UID: WELL_KNOWN_INSTANCE,
            Tag.EVENT_TYPE_ID: _event(commitment),
        }
        return offer.offer(
            Request(
                STORAGE_COMMITMENT, CommandField.N_EVENT_REPORT, fields, lambda ts: self._dataset(commitment, ts), done
            )
        )

    def _on_our_own(self, due: Sequence[Commitment], taken: Taken, failed: Failed) -> None:
        remote = remotes.known(self._archive.settings, due[0].peer)
        role = Role(STORAGE_COMMITMENT, scu=False, scp=True)
        with self._association(remote, role) as assoc:
            answered = {each.sop_class_uid: each for each in assoc.accept.user.roles}.get(STORAGE_COMMITMENT)
            if answered is not None and not answered.scp:
                raise PeerRefused(f"{remote} does not let us be SCP of Storage Commitment")
            context = assoc.context(STORAGE_COMMITMENT)
            for each in due:
                reply = assoc.event_report(
                    context, WELL_KNOWN_INSTANCE, _event(each), self._dataset(each, context.transfer_syntax)
                )
                if _is_success(reply.status):
                    taken(each)
                else:
                    failed(each, f"it answered {reply.words}")

    @contextmanager
    def _association(self, remote: Remote, role: Role) -> Iterator[Requestor]:
        with Requestor.open(remote, self._ae_title, CONTEXTS, roles=[role], timeouts=PATIENCE) as assoc:
            with self._lock:
                if self._closed:
                    raise PeerUnreachable("stopping")
                self._open.add(assoc)
            try:
                yield assoc
            finally:
                with self._lock:
                    self._open.discard(assoc)

    def _dataset(self, commitment: Commitment, transfer_syntax_uid: str) -> bytes:
        return commit_module.report(commitment.transaction_uid, commitment.items, self._ae_title, transfer_syntax_uid)


def request(
    archive: Archive, ae: AE, instances: Sequence[tuple[str, str]], *, wait_s: float = 0.0, transaction_uid: str = ""
) -> str:
    """The Transaction UID under which `ae` has taken a request for (SOP Class UID, SOP Instance UID) pairs.

    Its report comes to our acceptor, or within `wait_s` on this association; `archive.commitments.outcome` tells.
    Raises PeerUnreachable, PeerRefused, PeerFailed; what the peer did not take is noted as refused.
    """
    number = transaction_uid or uids.new()
    commitments = archive.commitments
    commitments.asking(ae.title.strip(), instances, number)
    try:
        with Requestor.open(remotes.remote(archive.settings, ae), archive.settings.aet.strip(), CONTEXTS) as assoc:
            assoc.on_event = _taker(archive, assoc.remote.title)
            context = assoc.context(STORAGE_COMMITMENT)
            reply = assoc.action(
                context,
                WELL_KNOWN_INSTANCE,
                commit_module.REQUEST,
                commit_module.request(number, instances, context.transfer_syntax),
            )
            if not _is_success(reply.status):
                raise PeerFailed(f"{assoc.remote} does not take the request: {reply.words}")
            _wait(assoc, archive, number, wait_s)
    except ArchiveError as error:
        found = commitments.outcome(number, ae.title.strip())
        if found is None or found.state != "answered":  # the verdict may have come before the trouble
            commitments.refused(ae.title.strip(), number, error.reason)
            raise
    return number


def _taker(archive: Archive, title: str) -> Callable[[Event], int]:
    """Keeps what `title` reports on an association of ours, and gives the status to answer."""

    def take(event: Event) -> int:
        try:
            report = commit_module.read_report(event.dataset, event.transfer_syntax)
            archive.commitments.answered(title, report.transaction_uid, report.committed, report.failed)
        except ArchiveError as error:
            return status.n_failure(error).status
        return status.SUCCESS

    return take


def _wait(assoc: Requestor, archive: Archive, transaction_uid: str, wait_s: float) -> None:
    """Take the peer's report on the association of the request, for at most `wait_s`."""
    deadline = time.monotonic() + wait_s
    while (left := deadline - time.monotonic()) > 0:
        found = archive.commitments.outcome(transaction_uid, assoc.remote.title)  # it may have come to our acceptor
        if found is None or found.state != "asked":
            return
        if assoc.has_event(min(left, 0.5)):
            assoc.wait_event(left)


def _event(commitment: Commitment) -> int:
    return ALL_COMMITTED if commitment.complete else SOME_FAILED


def _is_success(code: int | None) -> bool:
    # PS3.7 annex C: success, or done with a warning
    return code == 0 or code in (0x0001, 0x0107, 0x0116) or (code is not None and code >> 12 == 0xB)
