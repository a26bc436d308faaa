"""Deliveries under way: sent in the background, a thread a destination, noted, followed up to the commitment.

A destination that does not answer is left alone for a while and never holds up another. What a crash cuts short is
leased again when its lease runs out, and sent again: at least once, and the same instance twice does no harm.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row

from pacs import audit
from pacs.auth import SYSTEM
from pacs.commitment import Failure
from pacs.destinations import Couriers, Destination, Outcome, pause_s
from pacs.errors import ArchiveError, NotFound
from pacs.index import deliveries as sql

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.retrieve import InstanceLocation

log = logging.getLogger(__name__)

SENT_AT_ONCE = 100
NOTED_AT_ONCE = 25
LEASE_S = 30.0
RENEWED_S = 10.0
DESTINATIONS_AT_ONCE = 8
MAX_REFUSALS = 8
ASKED_AGAIN_S = 900.0
"""A destination that has not reported on a commitment for this long is asked again."""


class Deliverer:
    """Sends what is due. Safe from any thread; `step` is called by the scheduler."""

    def __init__(
        self,
        archive: Archive,
        by_to: Mapping[str, Destination],
        couriers: Couriers,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._archive = archive
        self._index = archive.index
        self._by_to = by_to
        self._couriers = couriers
        self._clock = clock
        self._give_up_s = archive.settings.forward_give_up_hours * 3600
        self._lock = threading.Lock()
        self._busy: dict[str, str] = {}  # destination -> the token that holds what is being sent there
        self._paused: dict[str, tuple[float, int]] = {}  # destination -> (until, how often in a row)
        self._renewed = 0.0
        self._closed = threading.Event()
        self._pool = ThreadPoolExecutor(DESTINATIONS_AT_ONCE, thread_name_prefix="forward")
        if self._index.dialect == "sqlite":  # one server alone: whoever held a lease is no more
            self._index.transact(lambda conn: sql.reap(conn, math.inf))

    def close(self) -> None:
        """Send no more; what is under way is finished or given back."""
        self._closed.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def try_now(self, to: str) -> None:
        """Forget that the destination did not answer."""
        with self._lock:
            self._paused.pop(to, None)

    def step(self, now: float) -> None:
        """One round: leases kept, due deliveries sent in the background, commitments followed up."""
        if self._closed.is_set():
            return
        self._keep_leases(now)
        with self._index.read() as conn:
            waiting = sql.waiting_destinations(conn, now)
        for to in waiting:
            if not self._is_paused(to, now):
                self._start(to, self._send)
        self._follow_up(now)

    def _is_paused(self, to: str, now: float) -> bool:
        with self._lock:
            return self._paused.get(to, (0.0, 0))[0] > now

    def _keep_leases(self, now: float) -> None:
        if now - self._renewed < RENEWED_S:
            return
        self._renewed = now
        with self._lock:
            tokens = list(self._busy.values())

        def work(conn: Connection) -> None:
            if tokens:
                sql.renew(conn, tokens, now + LEASE_S)
            sql.reap(conn, now)

        self._index.transact(work)

    def _start(self, to: str, job: Callable[[str, str], None]) -> None:
        """Do `job` for a destination in the background, unless something is being done for it already."""
        token = uuid.uuid4().hex
        with self._lock:
            if to in self._busy or self._closed.is_set():
                return
            self._busy[to] = token

        def run() -> None:
            try:
                job(to, token)
            except ArchiveError as error:
                log.warning("deliveries to %s: %s; trying again", to, error)
                self._pause(to)
            except Exception:
                log.exception("deliveries to %s failed; trying again", to)
                self._pause(to)
            finally:
                with self._lock:
                    self._busy.pop(to, None)

        try:
            self._pool.submit(run)
        except RuntimeError:  # closed meanwhile
            with self._lock:
                self._busy.pop(to, None)

    def _pause(self, to: str) -> None:
        with self._lock:
            _, before = self._paused.get(to, (0.0, 0))
            self._paused[to] = (self._clock() + pause_s(before), before + 1)

    # --- sending, in the background ---

    def _send(self, to: str, token: str) -> None:
        destination = self._by_to.get(to)
        while not self._closed.is_set():
            rows = self._claim(to, token)
            if not rows:
                return
            if destination is None:
                gone = Outcome("", "refused", "this destination is no longer configured")
                self._note(token, [(row, gone) for row in rows], dead=True)
                continue
            if not self._send_batch(destination, token, rows):
                return

    def _claim(self, to: str, token: str) -> list[Row[Any]]:
        now = self._clock()
        return self._index.transact(lambda conn: sql.claim(conn, to, token, now, now + LEASE_S, SENT_AT_ONCE))

    def _send_batch(self, destination: Destination, token: str, rows: Sequence[Row[Any]]) -> bool:
        """Send what was claimed; whether to go on with more."""
        locations: list[InstanceLocation] = []
        by_uid: dict[str, Row[Any]] = {}
        for row in rows:
            try:
                location = self._locate(row)
            except NotFound as error:
                self._note(token, [(row, Outcome(row.sop_instance_uid, "refused", error.reason))], dead=True)
            else:
                locations.append(location)
                by_uid[row.sop_instance_uid] = row
        noted: list[tuple[Row[Any], Outcome]] = []
        reached = False
        trouble = "the destination did not answer for it"
        try:
            with closing(self._couriers(destination).send(locations)) as outcomes:
                for outcome in outcomes:
                    if outcome.sop_instance_uid not in by_uid:
                        continue
                    noted.append((by_uid.pop(outcome.sop_instance_uid), outcome))
                    if outcome.verdict == "later":
                        trouble = outcome.reason
                    else:
                        reached = True
                    if len(noted) >= NOTED_AT_ONCE:
                        self._note(token, noted)
                        noted = []
                    if self._closed.is_set():
                        trouble = "the server is stopping"
                        break
        except ArchiveError as error:
            trouble = error.reason
        except Exception as error:
            log.exception("deliveries to %s failed; trying again", destination.to)
            trouble = f"internal error: {type(error).__name__}"
        noted += [(row, Outcome(uid, "later", trouble)) for uid, row in by_uid.items()]
        self._note(token, noted)
        if reached or not locations:
            self.try_now(destination.to)
            return True
        self._pause(destination.to)
        log.warning("deliveries to %s wait: %s", destination.to, trouble)
        return False

    def _locate(self, row: Row[Any]) -> InstanceLocation:
        who = replace(SYSTEM, scope=row.scope)
        (location,) = self._archive.retrieve.locate(
            who, row.study_instance_uid, row.series_instance_uid, row.sop_instance_uid
        )
        if location.digest != row.digest:
            raise NotFound("another version replaced it before it was sent")
        return location

    def _note(self, token: str, noted: Sequence[tuple[Row[Any], Outcome]], *, dead: bool = False) -> None:
        """Keep the outcomes, durably."""
        if not noted:
            return
        now = self._clock()

        def work(conn: Connection) -> None:
            sent: dict[tuple[str, str], int] = {}
            for row, outcome in noted:
                values = self._values(row, outcome, now, dead=dead)
                if sql.settle(conn, row.id, token, now, **values) and outcome.verdict == "taken":
                    key = (row.study_instance_uid, row.destination)
                    sent[key] = sent.get(key, 0) + 1
                if values["state"] == "dead":
                    log.error("delivery %d of %s to %s is dead: %s", row.id, row.sop_instance_uid, row.destination,
                              values["reason"])  # fmt: skip
            audit.record_all(conn, [
                audit.row("DICOM Instances Transferred", SYSTEM, "success", now, study_instance_uid=study,
                          detail=f"{number} instances to {to}")
                for (study, to), number in sent.items()
            ])  # fmt: skip

        self._index.transact(work)
        self._archive.events.publish()

    def _values(self, row: Row[Any], outcome: Outcome, now: float, *, dead: bool) -> dict[str, Any]:
        if outcome.verdict == "taken":
            state = "sent" if row.commitment else "delivered"
            return {"state": state, "reason": outcome.reason, "not_before": now, "transaction_uid": None}
        refusals = row.refusals + (outcome.verdict == "refused")
        if dead or refusals >= MAX_REFUSALS or now - row.created_at > self._give_up_s:
            return {"state": "dead", "reason": outcome.reason, "refusals": refusals}
        not_before = now + pause_s(row.attempt - 1)
        return {"state": "pending", "reason": outcome.reason, "refusals": refusals, "not_before": not_before}

    # --- storage commitment, asked of the destination ---

    def _follow_up(self, now: float) -> None:
        with self._index.read() as conn:
            rows = sql.uncommitted(conn, now)
        to_ask = {row.destination for row in rows if row.transaction_uid is None}
        asked: dict[tuple[str, str], list[Row[Any]]] = {}
        for row in rows:
            if row.transaction_uid is not None:
                asked.setdefault((row.destination, row.transaction_uid), []).append(row)
        for (to, transaction_uid), members in asked.items():
            self._judge(to, transaction_uid, members, now)
        for to in to_ask:
            if not self._is_paused(to, now):
                self._start(to, self._ask)

    def _ask(self, to: str, _token: str) -> None:
        now = self._clock()
        destination = self._by_to.get(to)
        with self._index.read() as conn:
            rows = [row for row in sql.uncommitted(conn, now) if row.destination == to and row.transaction_uid is None]
            classes = {
                each.sop_instance_uid: each.sop_class_uid
                for each in sql.candidates(conn, [row.sop_instance_uid for row in rows])
            }
        keys = [row.id for row in rows]
        if destination is None:
            self._put(keys, state="dead", reason="this destination is no longer configured")
            return
        gone = [row.id for row in rows if row.sop_instance_uid not in classes]
        self._put(gone, state="delivered", reason="taken, and removed here before it was committed")
        rows = [row for row in rows if row.sop_instance_uid in classes]
        if not rows:
            return
        try:
            pairs = [(classes[row.sop_instance_uid], row.sop_instance_uid) for row in rows]
            transaction_uid = self._couriers(destination).ask_commitment(pairs)
        except ArchiveError as error:
            overdue = [row.id for row in rows if now - row.created_at > self._give_up_s]
            self._put(overdue, state="dead", reason=f"storage commitment: {error.reason}")
            self._put([row.id for row in rows], reason=f"storage commitment: {error.reason}")
            raise
        self._put(
            [row.id for row in rows],
            transaction_uid=transaction_uid, reason="waiting for storage commitment", not_before=now + 1.0,
        )  # fmt: skip

    def _judge(self, to: str, transaction_uid: str, rows: Sequence[Row[Any]], now: float) -> None:
        found = self._archive.commitments.outcome(transaction_uid, to)
        if found is not None and found.state == "answered":
            failures = {item.sop_instance_uid: item.failure for item in found.items}
            for row in rows:
                failure = failures.get(row.sop_instance_uid)
                if failure == "":
                    self._put([row.id], state="delivered", reason="committed")
                    continue
                reason = f"not committed: {failure or 'left out of the report'}"
                refusals = row.refusals + (failure != Failure.RESOURCES)  # a lack of resources passes
                state = "dead" if refusals >= MAX_REFUSALS or now - row.created_at > self._give_up_s else "pending"
                self._put([row.id], state=state, refusals=refusals, reason=reason, transaction_uid=None,
                          not_before=now + pause_s(row.attempt))  # fmt: skip
            self._archive.events.publish()
            return
        keys = [row.id for row in rows]
        overdue = [row.id for row in rows if now - row.created_at > self._give_up_s]
        if overdue:
            self._put(overdue, state="dead", reason="the destination never committed itself")
        silent = found is not None and now - found.created_at > ASKED_AGAIN_S
        if found is None or found.state in ("refused", "dead") or silent:
            self._put(keys, transaction_uid=None, not_before=now + pause_s(rows[0].attempt + 3))
        else:
            self._put(keys, not_before=now + 1.0)

    def _put(self, keys: Sequence[int], **values: Any) -> None:
        if keys:
            now = self._clock()
            self._index.transact(lambda conn: sql.put(conn, keys, now, **values))
