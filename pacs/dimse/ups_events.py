"""N-EVENT-REPORTs of Workitems on their way to AEs (PS3.4 CC.2.4): over their own association, or one that we open.

Each AE has one thread at a time, which sends its events in order and goes on after the answer. An AE that cannot be
reached is tried again, later each time; an event that it refuses again and again is dropped and audited.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from queue import Empty, Queue
from typing import TYPE_CHECKING

from pacs.dicom.ups import UPS_PUSH_SOP_CLASS_UID
from pacs.dimse import datasets, remotes
from pacs.dimse.messages import Command, CommandField, Tag
from pacs.dimse.negotiation import EXPLICIT_LE, IMPLICIT_LE
from pacs.dimse.operation import Line, Request
from pacs.dimse.outgoing import RESPONSE_S
from pacs.dimse.requestor import Requestor
from pacs.dimse.upper_layer import Role
from pacs.dimse.ups_scp import EVENT
from pacs.errors import ArchiveError, NotFound, PeerFailed, PeerRefused, PeerUnreachable

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.index.subscriptions import Event

log = logging.getLogger(__name__)

THREADS = 8
LEASE_S = 180.0
"""How long nobody else sends to an AE to whom this process began to send; longer than any answer is waited for."""

PAGE = 50
TRIES = 3
LAST_WORDS_S = 2.0
"""How long a stopping server takes to say so."""


Tell = Callable[["Event"], int]
"""Tells one event and gives the status that the AE answers. Raises a Peer error where it does not answer."""


class EventCourier:
    """Delivers what waits for AEs that can be reached by DIMSE. Others are left to whoever can reach them.

    With `calls` it opens associations, says that the server starts and stops, and drops what is too old: once in a
    server. Without, it only uses the associations that AEs have opened with this process.
    """

    def __init__(self, archive: Archive, *, calls: bool = True) -> None:
        self._archive = archive
        self._calls = calls
        self._worklist = archive.worklist
        self._pool = ThreadPoolExecutor(THREADS, "workitem events")
        self._lock = threading.Lock()
        self._busy: dict[str, Future[None]] = {}
        self._refusals: dict[tuple[str, int], int] = {}
        self._announced = self._closed = False
        self._swept_at = 0.0

    def step(self, now: float) -> None:
        """Begin to send what waits; never waits itself. The first time it says that the server has started."""
        if self._closed:
            return
        if not self._calls:
            self._begin(now)
            return
        if not self._announced:
            self._worklist.announce("RESTARTED", now)
            self._announced = True
        if now - self._swept_at > 60:
            self._swept_at = now
            settings = self._archive.settings
            self._worklist.drop_stale(now, settings.event_hours)
            if settings.workitem_days > 0:
                self._worklist.forget(now, settings.workitem_days)
        self._begin(now)

    def _begin(self, now: float) -> None:
        if not self._calls and not self._worklist.anybody_present():
            return
        for receiver in self._worklist.due_receivers(now):
            with self._lock:
                if receiver not in self._busy and self._can_reach(receiver):
                    self._busy[receiver] = self._pool.submit(self._deliver, receiver)

    def close(self) -> None:
        """Say that the server stops, to whom that can be said at once; the rest is told after the next start."""
        if self._closed:
            return
        self._closed = True
        deadline = time.monotonic() + LAST_WORDS_S
        try:
            if self._announced:
                self._worklist.announce("GOING DOWN", time.time())
            while self._announced and (left := deadline - time.monotonic()) > 0:
                self._begin(time.time())
                with self._lock:
                    running = list(self._busy.values())
                if not running:
                    break
                wait(running, left)
        except ArchiveError as error:
            log.warning("Workitem events: %s", error)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _can_reach(self, receiver: str) -> bool:
        if self._worklist.ways_to(receiver) or not self._calls:
            return bool(self._worklist.ways_to(receiver))
        try:
            remotes.known(self._archive.settings, receiver)
        except NotFound:
            return False
        return True

    def _deliver(self, receiver: str) -> None:
        owner = secrets.token_hex(8)
        try:
            if self._worklist.begin_delivery(receiver, owner, time.time(), LEASE_S):
                try:
                    self._send_all(receiver, owner)
                finally:
                    self._worklist.end_delivery(receiver, owner)
        except ArchiveError as error:
            log.warning("Workitem events for %s: %s", receiver, error)
        except Exception:
            log.exception("Workitem events for %s failed; trying again", receiver)
        finally:
            with self._lock:
                self._busy.pop(receiver, None)

    def _send_all(self, receiver: str, owner: str) -> None:
        """Send what waits: over associations that the AE has opened to hear of it, else over one of ours."""
        for line in self._worklist.ways_to(receiver):
            try:
                self._send(receiver, owner, _over(line))
                return
            except PeerUnreachable:
                continue  # that association is over
        if not self._calls:
            return
        try:
            with _association(self._archive, receiver) as tell:
                self._send(receiver, owner, tell)
        except (PeerUnreachable, PeerRefused, PeerFailed, NotFound) as error:
            seconds = self._worklist.unreachable(receiver, error.reason, time.time())
            log.warning("Workitem events for %s: %s; again in %g s", receiver, error.reason, seconds)

    def _send(self, receiver: str, owner: str, tell: Tell) -> None:
        while events := self._worklist.events_for(receiver, limit=PAGE):
            for event in events:
                if not self._taken(receiver, event, tell(event)):
                    return
            if not self._worklist.begin_delivery(receiver, owner, time.time(), LEASE_S):
                return

    def _taken(self, receiver: str, event: Event, status: int) -> bool:
        """Whether the next event may follow; one that was refused too often is given up."""
        if status == 0 or status >> 12 == 0xB or status in (0x0001, 0x0107, 0x0116):
            self._worklist.taken(receiver, event.seq)
            self._refusals.pop((receiver, event.seq), None)
            return True
        tries = self._refusals.get((receiver, event.seq), 0) + 1
        if tries >= TRIES:
            self._refusals.pop((receiver, event.seq), None)
            self._worklist.refused(receiver, event, f"answered {status:04X}H {tries} times")
            return True
        self._refusals[receiver, event.seq] = tries
        self._worklist.unreachable(receiver, f"answered {status:04X}H", time.time())
        return False


def _fields(event: Event) -> dict[int, int | str | bytes]:
    return {
        Tag.AFFECTED_SOP_CLASS_UID: UPS_PUSH_SOP_CLASS_UID,  # whatever was negotiated (PS3.4 CC.2.4.3)
        Tag.AFFECTED_SOP_INSTANCE_UID: event.workitem_uid,
        Tag.EVENT_TYPE_ID: int(event.type),
    }


def _over(line: Line) -> Tell:
    """Tells over an association that the AE has opened."""

    def tell(event: Event) -> int:
        answered: Queue[Command | None] = Queue()
        request = Request(
            EVENT,
            CommandField.N_EVENT_REPORT,
            _fields(event),
            lambda syntax: datasets.encode(event.information, syntax),
            answered.put,
        )
        if not line.offer(request):
            raise PeerUnreachable("the association is over")
        try:
            response = answered.get(timeout=RESPONSE_S * 2)
        except Empty:
            response = None
        if response is None:
            raise PeerUnreachable("no answer on the association")
        return 0x0110 if response.status is None else response.status

    return tell


@contextmanager
def _association(archive: Archive, receiver: str) -> Iterator[Tell]:
    """Tells over an association that we open, as SCP of UPS Event (PS3.4 CC.3.1)."""
    remote = remotes.known(archive.settings, receiver)
    contexts = [(EVENT, [EXPLICIT_LE, IMPLICIT_LE])]
    with Requestor.open(
        remote, archive.settings.aet.strip(), contexts, roles=[Role(EVENT, scu=False, scp=True)]
    ) as assoc:
        context = assoc.context(EVENT)

        def tell(event: Event) -> int:
            dataset = datasets.encode(event.information, context.transfer_syntax)
            fields = {Tag.COMMAND_FIELD: CommandField.N_EVENT_REPORT, **_fields(event)}
            return assoc.call(context, fields, dataset).status

        yield tell
