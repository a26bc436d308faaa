"""The performing side of the worklist: leases beside the Workitems that workers of ours take, keep and end.

The standard knows no way back from IN PROGRESS and no FAILED, so lease, attempt and retry are columns beside the
Workitem: it stays IN PROGRESS over a re-run, and a failure ends CANCELED with its reason. A Workitem that an outside
performer has claimed has no lease here and is left alone. At-least-once running, exactly-once effect.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import orjson
from sqlalchemy import Connection

from pacs import uids
from pacs.auth import SYSTEM, Principal
from pacs.dicom import ups, ups_events, ups_task
from pacs.dicom.ups import Attributes, State
from pacs.dicom.ups_events import Report
from pacs.errors import StateConflict
from pacs.events import Events
from pacs.index import changes, subscriptions, workitems
from pacs.index.engine import Index
from pacs.index.workitems import WorkitemRow
from pacs.subscriptions import Subscriptions

T = TypeVar("T")

RETRY_AFTER_S = 2.0
"""The wait before attempt n is tried again, times n: a worker that dies of the task must not take all others along."""


@dataclass(frozen=True)
class Claim:
    """A Workitem leased to one worker. `token` is the fence: once the lease is lost nothing can be written with it."""

    uid: str
    token: str
    worker: str
    attempt: int
    lease_s: float
    plugin: str
    attributes: Attributes
    started: float
    principal: str
    scope: str
    study_instance_uid: str | None


@dataclass(frozen=True)
class Offer:
    """A Workitem that waits for a worker, to be announced on the queue of its plug-in."""

    uid: str
    plugin: str
    attempt: int
    epoch: int


class Leases(Subscriptions):
    """Leases on the Workitems of one archive. Safe from any thread; `now` is in Unix seconds."""

    def __init__(
        self, index: Index, events: Events, *, max_attempts: int = 3, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(index, events, clock=clock)
        self._max_attempts = max_attempts

    def claim(self, plugins: Sequence[str], worker: str, now: float, lease_s: float) -> Claim | None:
        """The most urgent Workitem for one of `plugins`, now leased until `now + lease_s`; None where none waits."""
        if not plugins:
            return None
        token, transaction_uid = secrets.token_hex(16), uids.new()

        def work(conn: Connection) -> WorkitemRow | None:
            row = workitems.claim(conn, plugins, worker, token, transaction_uid, now, now + lease_s)
            if row is not None:
                first = row.transaction_uid == transaction_uid  # a later attempt goes on where it was IN PROGRESS
                reports = [ups_events.state_report(row.attributes)] if first else []
                self._news(conn, row.uid, row.study_instance_uid, worker, row.scope, now, reports)
            return row

        row = self._index.transact(work)
        if row is None:
            return None
        self._events.publish()
        assert row.plugin is not None
        return Claim(
            uid=row.uid,
            token=token,
            worker=worker,
            attempt=row.attempt,
            lease_s=lease_s,
            plugin=row.plugin,
            attributes=row.attributes,
            started=now,
            principal=row.principal,
            scope=row.scope,
            study_instance_uid=row.study_instance_uid,
        )

    def heartbeat(
        self, claim: Claim, now: float, progress: float = 0.0, message: str = ""
    ) -> Literal["continue", "cancel", "lost"]:
        """Extend the lease, note the progress (0 to 1), and learn whether to go on."""
        values = {
            "lease_until": now + claim.lease_s,
            "progress": min(max(progress, 0.0), 1.0) * 100,
            "message": message[:1024],
            "updated_at": now,
        }
        if not self._index.transact(lambda conn: self._save_leased(conn, claim, values, now)):
            return "lost"
        self._events.publish()
        return self.verdict(claim)

    def verdict(self, claim: Claim) -> Literal["continue", "cancel", "lost"]:
        """Whether to go on, without extending the lease: one read."""
        with self._index.read() as conn:
            row = workitems.get(conn, claim.uid)
        if row is None or row.lease_token != claim.token or row.state is not State.IN_PROGRESS:
            return "lost"
        return "cancel" if row.cancel_requested else "continue"

    def complete(
        self,
        claim: Claim,
        outputs: Sequence[ups_task.References],
        now: float,
        file: Callable[[Callable[[Connection], None]], T] | None = None,
    ) -> T | None:
        """COMPLETED, with the Output Information Sequence, in the one transaction that files the results.

        `file(also)` makes the results visible and runs `also(connection)` in the same transaction; what it returns is
        returned. Raises StateConflict, with nothing made visible, when the lease was lost or cancelling was asked for.
        """

        def also(conn: Connection) -> None:
            row = workitems.get(conn, claim.uid, lock=True)
            if row is None or row.lease_token != claim.token or row.state is not State.IN_PROGRESS:
                raise StateConflict("the lease was lost: another worker has the Workitem", about=claim.uid)
            if row.cancel_requested:
                raise StateConflict("the Workitem was cancelled", about=claim.uid)
            kept = ups.with_progress(orjson.loads(row.raw), 100, "")
            kept = ups_task.performed(kept, outputs, station=claim.worker, started=claim.started, ended=now)
            kept = ups.finalised(kept, State.COMPLETED, now)
            values = {
                "state": State.COMPLETED, "attributes": orjson.dumps(kept), "progress": 100.0, "message": "",
                "lease_token": None, "lease_until": None, "updated_at": now,
            }  # fmt: skip
            workitems.save(conn, claim.uid, values, workitems.leased(claim.token))
            after = kept | {ups.PROCEDURE_STEP_STATE: ups.element("CS", State.COMPLETED)}
            reports = ups_events.changes(row.attributes, after)
            self._news(conn, claim.uid, row.study_instance_uid, claim.worker, row.scope, now, reports)

        done = self._index.transact(also) if file is None else file(also)
        self._events.publish()
        return done

    def fail(self, claim: Claim, reason: str, now: float, retry: bool = False) -> None:
        """Give the Workitem up: to be tried again while attempts are left, else CANCELED with `reason`.

        Does nothing when the lease was lost.
        """

        def work(conn: Connection) -> None:
            row = workitems.get(conn, claim.uid, lock=True)
            if row is None or row.lease_token != claim.token or row.state is not State.IN_PROGRESS:
                return
            if row.cancel_requested:
                self._end_canceled(conn, row, row.reason or reason, now, SYSTEM)
            elif retry and row.attempt < self._max_attempts:
                self._free(conn, row, reason, now)
            else:
                self._end_canceled(conn, row, reason, now, SYSTEM)

        self._index.transact(work)
        self._events.publish()

    def release(self, claim: Claim, now: float) -> None:
        """Hand the Workitem back at once, as a worker does that stops; the attempt does not count."""
        values = {
            "lease_token": None, "lease_until": None, "attempt": workitems.t.attempt - 1, "offered_at": None,
            "not_before": now, "progress": 0.0, "message": "waiting for a worker", "updated_at": now,
        }  # fmt: skip
        self._index.transact(lambda conn: self._save_leased(conn, claim, values, now))
        self._events.publish()

    def reap(self, now: float) -> int:
        """How many leases had run out: each Workitem is free again, or CANCELED when its attempts are used up."""

        def work(conn: Connection) -> int:
            reaped = 0
            for seen in workitems.expired(conn, now):
                row = workitems.get(conn, seen.uid, lock=True)
                if row is None or row.lease_token != seen.lease_token or (row.lease_until or now) >= now:
                    continue  # its worker was heard of in between
                reaped += 1
                if row.cancel_requested:
                    self._end_canceled(conn, row, row.reason, now, SYSTEM)
                elif row.attempt < self._max_attempts:
                    self._free(conn, row, "its worker was lost", now)
                else:
                    self._end_canceled(conn, row, f"its worker was lost {row.attempt} times", now, SYSTEM)
            return reaped

        with self._index.read() as conn:
            if not workitems.expired(conn, now):
                return 0
        reaped = self._index.transact(work)
        self._events.publish()
        return reaped

    def due_offers(self, now: float, again_after_s: float = 10.0) -> list[Offer]:
        """Workitems that wait for a worker and were not announced for `again_after_s`; they now count as announced."""
        found = self._index.transact(lambda conn: workitems.offer(conn, now, now - again_after_s))
        return [Offer(uid, plugin, attempt, int(now * 1000)) for uid, plugin, attempt in found]

    # Within a transaction

    def _free(self, conn: Connection, row: WorkitemRow, why: str, now: float) -> None:
        message = f"waiting for a worker, attempt {row.attempt + 1}: {why}"
        values = {
            "lease_token": None, "lease_until": None, "offered_at": None, "progress": 0.0, "message": message,
            "not_before": now + RETRY_AFTER_S * (row.attempt - 1), "updated_at": now,
        }  # fmt: skip
        workitems.save(conn, row.uid, values)
        reports = ups_events.changes(row.attributes, replace(row, progress=0.0, message=message).attributes)
        self._news(conn, row.uid, row.study_instance_uid, SYSTEM.name, row.scope, now, reports)

    def _save_leased(self, conn: Connection, claim: Claim, values: Mapping[str, object], now: float) -> bool:
        """Change what is noted of the progress; whether the lease is still held."""
        watched = bool(subscriptions.watchers(conn, claim.uid))
        before = workitems.get(conn, claim.uid) if watched else None
        if not workitems.save(conn, claim.uid, values, workitems.leased(claim.token)):
            return False
        after = workitems.get(conn, claim.uid) if watched else None
        if before is not None and after is not None:
            self._told(conn, claim.uid, ups_events.changes(before.attributes, after.attributes), now)
        return True

    def _end_canceled(
        self,
        conn: Connection,
        row: WorkitemRow,
        reason: str,
        now: float,
        by: Principal,
        request: Mapping[str, object] | None = None,
    ) -> None:
        kept = ups.canceled(row.attributes, reason, now, request)
        values = {
            "state": State.CANCELED, "attributes": orjson.dumps(kept), "reason": reason, "lease_token": None,
            "lease_until": None, "message": "", "updated_at": now,
        }  # fmt: skip
        workitems.save(conn, row.uid, values)
        after = kept | {ups.PROCEDURE_STEP_STATE: ups.element("CS", State.CANCELED)}
        reports = ups_events.changes(row.attributes, after)
        self._news(conn, row.uid, row.study_instance_uid, by.name, row.scope, now, reports)

    def _news(
        self,
        conn: Connection,
        uid: str,
        study: str | None,
        principal: str,
        scope: str,
        now: float,
        reports: Sequence[Report] = (),
    ) -> None:
        """What happened, for those who read changes, and what is reported of it to those who watch the Workitem."""
        changes.append(
            conn, "workitem", at=now, principal=principal, scope=scope, study_instance_uid=study, workitem_uid=uid
        )
        self._told(conn, uid, reports, now)
