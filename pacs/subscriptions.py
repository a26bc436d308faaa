"""Watching the worklist: subscriptions of AEs, and the events that wait for each of them (PS3.4 CC.2.3, CC.2.4).

Protocol-free. What happens to a Workitem and what is told of it are one transaction, so nothing is lost by a crash;
whoever delivers (an association, a WebSocket) leases a receiver, reads its events in order and says what was taken.
An event that nobody took for `event_hours` is dropped, and the audit trail says so.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, insert

from pacs import uids
from pacs.audit import row as audit_row
from pacs.auth import SYSTEM, Principal, Right
from pacs.dicom import ups_events, ups_match
from pacs.dicom.ups import Attributes
from pacs.dicom.ups_events import FILTERED_GLOBAL_UID, GLOBAL_UID, Report
from pacs.errors import ActionUnsuitable, Forbidden, Gone, InvalidInput, NotFound
from pacs.events import Events
from pacs.index import schema, subscriptions, workitems
from pacs.index.engine import Index
from pacs.index.subscriptions import Event
from pacs.index.workitems import WorkitemRow

log = logging.getLogger(__name__)

RETRY_S = (5.0, 15.0, 60.0, 300.0, 900.0)
"""How long a receiver is left alone after it could not be reached once, twice, ...; the last one from then on."""

_GLOBAL = (GLOBAL_UID, FILTERED_GLOBAL_UID)


class Subscriptions:
    """The subscriptions of one worklist. Safe from any thread; every change is durable when a method returns."""

    def __init__(self, index: Index, events: Events, *, clock: Callable[[], float] = time.time) -> None:
        self._index = index
        self._events = events
        self._clock = clock
        self._present: dict[str, weakref.WeakSet[Any]] = {}
        self._lock = threading.Lock()

    # --- what an AE asks for ---

    def subscribe(
        self,
        uid: str,
        receiver: str,
        principal: Principal,
        *,
        lock: bool = False,
        keys: Mapping[str, str] | None = None,
    ) -> None:
        """Report events of a Workitem to the AE `receiver` from now on (PS3.4 CC.2.3, PS3.18 11.10).

        `uid` names one Workitem, or with GLOBAL_UID all that are there and all to come, or with FILTERED_GLOBAL_UID
        those of them that match `keys` (paths as in `Worklist.search`). A deletion lock keeps the Workitem beyond
        its final state. State Reports of how things stand go first: of the Workitem, or with a lock of all
        (CC.2.4.3). Raises NotFound, Forbidden for an AE that is somebody else's, and InvalidInput for an AE title that
        is none or keys without meaning.
        """
        principal.require(Right.QUERY)
        _check_title(receiver)
        now = self._clock()
        if uid == FILTERED_GLOBAL_UID and not keys:
            raise InvalidInput("a filtered subscription needs matching keys", about=uid)
        wanted = ups_match.search(keys or {}) if uid == FILTERED_GLOBAL_UID else None

        def work(conn: Connection) -> None:
            if uid not in _GLOBAL:
                row = self._visible(conn, uid, principal, lock=True)
                _own(conn, receiver, principal)
                subscriptions.subscribe(conn, [uid], receiver, lock=lock, named=True)
                subscriptions.publish(conn, uid, [receiver], [ups_events.state_report(row.attributes)], now)
                return
            _own(conn, receiver, principal)
            state = subscriptions.WITH_LOCK if lock else subscriptions.WITHOUT_LOCK
            subscriptions.set_global(conn, receiver, state, dict(keys or {}) if wanted else None, principal.scope)
            shown: list[WorkitemRow] = []
            if wanted is not None:
                shown, _ = workitems.search(conn, wanted, principal.scope, None, 0)
                subscriptions.subscribe(conn, [row.uid for row in shown], receiver, lock=lock, named=False)
            else:
                subscriptions.subscribe_all(conn, receiver, lock=lock, scope=principal.scope)
                if lock:
                    shown, _ = workitems.search(conn, ups_match.search({}), principal.scope, None, 0)
            for row in reversed(shown if lock else []):
                subscriptions.publish(conn, row.uid, [receiver], [ups_events.state_report(row.attributes)], now)

        self._index.transact(work)
        self._events.publish()

    def unsubscribe(self, uid: str, receiver: str, principal: Principal) -> bool:
        """Whether anything ended: report nothing more of a Workitem, or with a global UID of any.

        With its last subscription the AE is nobody's again. PS3.4 CC.2.3, PS3.18 11.11. Raises NotFound, and Forbidden
        for an AE that is somebody else's.
        """
        principal.require(Right.QUERY)

        def work(conn: Connection) -> bool:
            _check_owner(conn, receiver, principal)
            if uid not in _GLOBAL:
                self._visible(conn, uid, principal)
                ended = subscriptions.unsubscribe(conn, uid, receiver) > 0
            else:
                was = subscriptions.is_global(conn, receiver)
                subscriptions.set_global(conn, receiver, subscriptions.NONE, None, "")
                ended = subscriptions.unsubscribe(conn, None, receiver) > 0 or was
            subscriptions.disown(conn, receiver)
            return ended

        return self._index.transact(work)

    def suspend(self, uid: str, receiver: str, principal: Principal) -> bool:
        """Whether anything ended: subscribe the AE to no more Workitems to come; it stays with those that are there.

        PS3.4 CC.2.3, PS3.18 11.12. Raises ActionUnsuitable where `uid` names one Workitem, and Forbidden.
        """
        principal.require(Right.QUERY)
        if uid not in _GLOBAL:
            raise ActionUnsuitable("only a global subscription can be suspended", about=uid)

        def work(conn: Connection) -> bool:
            _check_owner(conn, receiver, principal)
            was = subscriptions.is_global(conn, receiver)
            subscriptions.set_global(conn, receiver, subscriptions.NONE, None, "")
            return was

        return self._index.transact(work)

    def listen(self, receiver: str, principal: Principal) -> None:
        """Nothing, where the principal may hear the events of the AE, or where that is nobody's yet.

        To listen makes nobody an owner, so that whoever comes first cannot keep an AE from those whose it is: only a
        subscription does. Who listens on is to be asked again. Raises Forbidden, and InvalidInput for an AE title that
        is none.
        """
        principal.require(Right.QUERY)
        _check_title(receiver)
        with self._index.read() as conn:
            _check_owner(conn, receiver, principal)

    def receivers_of(self, principal: Principal) -> list[str]:
        """The AE titles for which the principal subscribed first."""
        with self._index.read() as conn:
            return subscriptions.owned_by(conn, principal.name)

    def subscriptions_of(self, receiver: str) -> dict[str, bool]:
        """UID of each Workitem that the AE is subscribed to: whether it holds a deletion lock."""
        with self._index.read() as conn:
            return subscriptions.subscriptions_of(conn, receiver)

    # --- what delivers ---

    def arrived(self, receiver: str, way: object) -> None:
        """The AE can be told of events over `way` for as long as that is there; what it is, only its user knows."""
        with self._lock:
            self._present.setdefault(receiver, weakref.WeakSet()).add(way)
            for title in [title for title, ways in self._present.items() if not ways]:
                del self._present[title]

    def anybody_present(self) -> bool:
        """Whether any AE has a way on which it hears of events."""
        with self._lock:
            return any(self._present.values())

    def ways_to(self, receiver: str) -> list[Any]:
        """What `arrived` was given for the AE and is still there."""
        with self._lock:
            return list(self._present.get(receiver, ()))

    def events_for(
        self, receiver: str, after: int = 0, limit: int = 100, *, listener: Principal = SYSTEM
    ) -> list[Event]:
        """Events that wait for the AE beyond the sequence number `after`, in the order in which they happened.

        Nothing for a listener who may not act for the AE at the moment of reading, and only what is within the
        listener's scope: whoever subscribed the AE, and to whatever, nobody hears of others' patients.
        """
        owner = None if _speaks_for_all(listener) else listener.name
        with self._index.read() as conn:
            return subscriptions.waiting_for(conn, receiver, after, limit, scope=listener.scope, owner=owner)

    def taken(self, receiver: str, upto: int) -> None:
        """The AE has all events up to that sequence number."""
        self._index.transact(lambda conn: subscriptions.taken(conn, receiver, upto))

    def begin_delivery(self, receiver: str, owner: str, now: float, lease_s: float) -> bool:
        """Whether `owner` is the only one who sends to the AE for that long; it may ask again to go on."""
        return self._index.transact(lambda conn: subscriptions.lease(conn, receiver, owner, now, now + lease_s))

    def end_delivery(self, receiver: str, owner: str) -> None:
        """`owner` sends no more."""
        self._index.transact(lambda conn: subscriptions.release(conn, receiver, owner))

    def begin_listening(self, receiver: str, process: str, now: float, lease_s: float) -> bool:
        """Whether the AE's open connections alone are sent to for that long, those of `process` among them.

        It asks again to go on; while `begin_delivery` is somebody's, nobody may.
        """
        until = now + lease_s
        return self._index.transact(lambda conn: subscriptions.lease_to_listeners(conn, receiver, process, now, until))

    def end_listening(self, receiver: str, process: str, now: float) -> None:
        """`process` has no connection of the AE's any more; after the last one others may send."""
        self._index.transact(lambda conn: subscriptions.stop_listening(conn, receiver, process, now))

    def due_receivers(self, now: float, limit: int = 100) -> list[str]:
        """AE titles of those for whom events wait and to whom nobody sends."""
        with self._index.read() as conn:
            return subscriptions.due(conn, now, limit)

    def unreachable(self, receiver: str, trouble: str, now: float) -> float:
        """The seconds for which the AE is left alone, since it could not be reached; longer each time."""

        def work(conn: Connection) -> float:
            wait = RETRY_S[min(subscriptions.failures(conn, receiver), len(RETRY_S) - 1)]
            subscriptions.postpone(conn, receiver, now + wait, trouble[:200])
            return wait

        return self._index.transact(work)

    def refused(self, receiver: str, event: Event, why: str) -> None:
        """Drop an event that the AE does not want; the audit trail keeps that it was so."""

        def work(conn: Connection) -> None:
            subscriptions.taken(conn, receiver, event.seq)
            self._say_dropped(conn, receiver, event.workitem_uid, f"{receiver}: {event.type.name}: {why}")

        self._index.transact(work)
        log.warning("Workitem event for %s dropped: %s", receiver, why, extra={"workitem_uid": event.workitem_uid})

    def drop_stale(self, now: float, hours: float) -> int:
        """How many events were dropped, since nobody took them for so long."""
        with self._index.read() as conn:
            if not subscriptions.stale(conn, now - hours * 3600):
                return 0

        def work(conn: Connection) -> int:
            found = subscriptions.stale(conn, now - hours * 3600)
            for receiver, count in found.items():
                subscriptions.drop(conn, receiver, now - hours * 3600)
                said = f"{receiver}: {count} events not taken for {hours:g} hours"
                self._say_dropped(conn, receiver, None, said)
                log.warning("Workitem events dropped: %s", said)
            return sum(found.values())

        return self._index.transact(work)

    def announce(self, status: str, now: float) -> None:
        """Tell everybody who watches anything that the server is "RESTARTED" or "GOING DOWN" (PS3.4 CC.2.4.3)."""

        def work(conn: Connection) -> None:
            report = ups_events.status_change(status)
            subscriptions.publish(conn, GLOBAL_UID, subscriptions.everybody(conn), [report], now)

        self._index.transact(work)
        self._events.publish()

    # --- within the transaction of what happens ---

    def _told(self, conn: Connection, uid: str, reports: Sequence[Report], now: float) -> None:
        """Let the reports wait for everybody who watches the Workitem. The last thing in a transaction."""
        if reports:
            subscriptions.publish(conn, uid, subscriptions.watchers(conn, uid), reports, now)

    def _told_of_new(self, conn: Connection, uid: str, attributes: Attributes, scope: str, now: float) -> None:
        """Subscribe those to a new Workitem who are subscribed to what comes, and tell them of it."""
        for each in subscriptions.globals_(conn):
            covered = not each.scope or each.scope == scope
            if covered and (each.keys is None or ups_match.search(each.keys).fits(attributes)):
                subscriptions.subscribe(conn, [uid], each.ae_title, lock=each.lock, named=False)
        self._told(conn, uid, ups_events.changes(None, attributes), now)

    def _say_dropped(self, conn: Connection, receiver: str, uid: str | None, why: str) -> None:
        made = audit_row("workitem events dropped", SYSTEM, "failure", self._clock(), workitem_uid=uid, detail=why)
        conn.execute(insert(schema.audit), [made])

    @staticmethod
    def _visible(conn: Connection, uid: str, principal: Principal, *, lock: bool = False) -> WorkitemRow:
        row = workitems.get(conn, uid, lock=lock)
        if row is None or (principal.scope and row.scope != principal.scope):
            about = uid if uids.is_valid(uid) else ""
            if row is None and not principal.scope and workitems.is_gone(conn, uid):
                raise Gone("the Workitem was removed some time after its end", about=about)
            raise NotFound("no such Workitem", about=about)
        return row


def _own(conn: Connection, receiver: str, principal: Principal) -> None:
    """Nothing, where the principal may act for the AE; one that nobody knew is theirs from now on. Raises Forbidden.

    AEs speak for one another, as PS3.4 CC.2.3 has it; what is asked for by DIMSE belongs to the Receiving AE itself.
    """
    _check_owner(conn, receiver, principal)
    subscriptions.know(conn, receiver, receiver if principal.kind == "ae" else principal.name)


def _check_owner(conn: Connection, receiver: str, principal: Principal) -> None:
    owner = subscriptions.owner_of(conn, receiver)
    if owner not in (None, principal.name) and not _speaks_for_all(principal):
        raise Forbidden("events of this AE are somebody else's", about=receiver)


def _speaks_for_all(principal: Principal) -> bool:
    return principal.kind in ("ae", "system") or Right.ADMIN in principal.rights


def _check_title(text: str) -> None:
    if (
        not 1 <= len(text) <= 16
        or not all(" " <= char <= "~" and char != "\\" for char in text)
        or text != text.strip()
    ):
        raise InvalidInput("Receiving AE is no AE title", about=ups_events.RECEIVING_AE)
