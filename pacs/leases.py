"""The performing side of the worklist: leases beside the Workitems that workers of ours take, keep and end.

The standard knows no way back from IN PROGRESS and no FAILED, so lease, attempt and retry are columns beside the
Workitem: it stays IN PROGRESS over a re-run, and a failure ends CANCELED with its reason. A Workitem that an outside
performer has claimed has no lease here and is left alone. At-least-once running, exactly-once effect.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
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
from pacs.index import changes, subscriptions, waiting, workitems
from pacs.index.engine import Index
from pacs.index.workitems import WorkitemRow
from pacs.subscriptions import Subscriptions

T = TypeVar("T")

AHEAD = 64
"""Workitems of a lane that are announced before they are taken: more than it has workers, as a rule."""

RETRY_AFTER_S = 2.0
"""The wait after each lost worker but the first, times their number: a task that kills must not take all along."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 600.0
"""The wait after the first failure whose cause may pass, and the longest; each is three times the one before."""

ENDS = ("completed", "cancelled", "superseded", "refused", "failed", "expired", "discarded")
"""Why a Workitem is in its final state: `refused` by the plug-in in words, `failed` is a dead letter, `discarded` was
one."""


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


def pause(failures: int) -> float:
    """Seconds to wait after so many failures in a row whose cause may pass."""
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 3.0 ** min(max(0, failures - 1), 20))


def _asked(row: WorkitemRow) -> str:
    """Why a Workitem ends that was asked to: by a newer one that replaces it, or by somebody."""
    return "superseded" if row.superseded_by is not None else "cancelled"


class Leases(Subscriptions):
    """Leases on the Workitems of one archive. Safe from any thread; `now` is in Unix seconds."""

    def __init__(
        self,
        index: Index,
        events: Events,
        *,
        max_attempts: int = 3,
        retry_hours: float = 4.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(index, events, clock=clock)
        self._max_attempts = max_attempts
        self._retry_s = retry_hours * 3600

    def claim(
        self, plugins: Collection[str] | Mapping[str, str], worker: str, now: float, lease_s: float
    ) -> Claim | None:
        """The most urgent Workitem for one of `plugins`, now leased until `now + lease_s`; None where none waits.

        A mapping names the version of each: what was made for another one is left to those who have that.
        """
        if not plugins:
            return None
        token, transaction_uid = secrets.token_hex(16), uids.new()

        def work(conn: Connection) -> WorkitemRow | None:
            among = waiting.taken_by(conn, plugins)
            row = waiting.claim(conn, among, worker, token, transaction_uid, now, now + lease_s)
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
        *,
        version: str | None = None,
    ) -> T | None:
        """COMPLETED, with the Output Information Sequence, in the one transaction that files the results.

        `file(also)` makes the results visible and runs `also(connection)` in the same transaction; what it returns is
        returned. `version` is that of the plug-in. Raises StateConflict, with nothing made visible, when the lease was
        lost or cancelling was asked for.
        """

        request_key = ups_task.request_key(claim.attributes)

        def also(conn: Connection) -> None:
            if request_key is not None:
                workitems.alone_with(conn, request_key)  # of two that end at once the second sees the first
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
                "lease_token": None, "lease_until": None, "updated_at": now, "ended": "completed",
            } | ({} if version is None else {"version": version})  # fmt: skip
            workitems.save(conn, claim.uid, values, workitems.leased(claim.token))
            self._outdate(conn, row, outputs, claim.started, now)
            after = kept | {ups.PROCEDURE_STEP_STATE: ups.element("CS", State.COMPLETED)}
            reports = ups_events.changes(row.attributes, after)
            self._news(conn, claim.uid, row.study_instance_uid, claim.worker, row.scope, now, reports)

        done = self._index.transact(also) if file is None else file(also)
        self._events.publish()
        return done

    def fail(
        self, claim: Claim, reason: str, now: float, retry: bool = False, *, lost: bool = False, refused: bool = False
    ) -> None:
        """Give the Workitem up: CANCELED with `reason`, or with `retry`, for a cause that may pass, tried again.

        Such tries go on, further and further apart, for `retry_hours` from the first failure. With `lost`, the task
        may itself be what its process died of: it is tried `max_attempts` times. `refused`: by the plug-in, in words;
        anything else that ends here is a dead letter. Does nothing when the lease was lost.
        """

        def work(conn: Connection) -> None:
            row = workitems.get(conn, claim.uid, lock=True)
            if row is None or row.lease_token != claim.token or row.state is not State.IN_PROGRESS:
                return
            if row.cancel_requested:
                self._end_canceled(conn, row, row.reason or reason, now, SYSTEM, ended=_asked(row))
            elif retry and lost:
                self._lost(conn, row, reason, now)
            elif retry and now - (row.failing_since or now) < self._retry_s:
                self._free(conn, row, reason, now, pause(row.attempt - row.losses), row.failing_since or now)
            else:
                tried = f" (tried {row.attempt} times)" if retry else ""
                self._end_canceled(conn, row, reason + tried, now, SYSTEM, ended="refused" if refused else "failed")

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
            found = {row.uid: row.lease_token for row in workitems.expired(conn, now)}
            for row in workitems.lock(conn, list(found)):
                if row.lease_token != found[row.uid] or (row.lease_until or now) >= now:
                    continue  # its worker was heard of in between
                reaped += 1
                if row.cancel_requested:
                    self._end_canceled(conn, row, row.reason, now, SYSTEM, ended=_asked(row))
                else:
                    self._lost(conn, row, "its worker was lost", now)
            return reaped

        self._put_back(now)
        with self._index.read() as conn:
            if not workitems.expired(conn, now):
                return 0
        reaped = self._index.transact(work)
        self._events.publish()
        return reaped

    def due_offers(self, now: float, again_after_s: float = 10.0) -> list[Offer]:
        """Workitems that wait for a worker and were not announced for `again_after_s`; they now count as announced.

        The first `AHEAD` of each lane alone: whoever hears one takes what is behind it as well.
        """
        before = now - again_after_s
        with self._index.read() as conn:
            due = waiting.unannounced(conn, now, before, AHEAD)
        found = self._index.transact(lambda conn: waiting.announced(conn, due, now, before)) if due else []
        return [Offer(uid, plugin, attempt, int(now * 1000)) for uid, plugin, attempt in found]

    def expire(self, now: float) -> int:
        """How many Workitems nobody had begun by their Expiration DateTime (0040,4008): each is CANCELED."""
        with self._index.read() as conn:
            found = workitems.expiring(conn, now)

        def work(conn: Connection) -> int:
            ended = 0
            for row in workitems.lock(conn, found):
                if row.state is State.SCHEDULED:
                    moment = ups.value(row.attributes, ups.EXPIRATION_DATETIME)
                    self._end_canceled(conn, row, f"expired: not begun by {moment}", now, SYSTEM, ended="expired")
                    ended += 1
            return ended

        if not found:
            return 0
        ended = self._index.transact(work)
        self._events.publish()
        return ended

    def _put_back(self, now: float) -> None:
        """Where the clock was put back, let nothing wait until it is again as late as it was."""
        with self._index.read() as conn:
            found = workitems.ahead(conn, now)

        def work(conn: Connection) -> None:
            for uid in sorted(found):
                workitems.put_back(conn, uid, now)

        if found:
            self._index.transact(work)

    # Within a transaction

    def _lost(self, conn: Connection, row: WorkitemRow, why: str, now: float) -> None:
        """Tried again while attempts are left: nobody knows whether the task is what the worker or process died of."""
        losses = row.losses + 1
        if losses < self._max_attempts:
            self._free(conn, replace(row, losses=losses), why, now, RETRY_AFTER_S * (losses - 1), row.failing_since)
        else:
            self._end_canceled(conn, row, f"{why} {losses} times", now, SYSTEM, ended="failed")

    def _free(
        self, conn: Connection, row: WorkitemRow, why: str, now: float, pause_s: float, failing_since: float | None
    ) -> None:
        again = f" in {pause_s:.0f} s" if pause_s else ""
        message = f"waiting for a worker, attempt {row.attempt + 1}{again}: {why}"
        values = {
            "lease_token": None, "lease_until": None, "offered_at": None, "progress": 0.0, "message": message,
            "not_before": now + pause_s, "updated_at": now, "losses": row.losses, "failing_since": failing_since,
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
        ended: str = "cancelled",
        superseded_by: str | None = None,
    ) -> None:
        kept = ups.canceled(row.attributes, reason, now, request)
        values = {
            "state": State.CANCELED, "attributes": orjson.dumps(kept), "reason": reason, "lease_token": None,
            "lease_until": None, "message": "", "updated_at": now, "ended": ended,
            "superseded_by": superseded_by or row.superseded_by,
        }  # fmt: skip
        workitems.save(conn, row.uid, values)
        after = kept | {ups.PROCEDURE_STEP_STATE: ups.element("CS", State.CANCELED)}
        reports = ups_events.changes(row.attributes, after)
        self._news(conn, row.uid, row.study_instance_uid, by.name, row.scope, now, reports)

    def _outdate(
        self, conn: Connection, row: WorkitemRow, outputs: Sequence[ups_task.References], started: float, now: float
    ) -> None:
        """Mark the COMPLETED Workitems whose results those of `row` replace.

        They are the ones that it names in its Replaced Procedure Step Sequence, and requests for the same that had
        other results: an older version of the plug-in, or fewer instances. Of these the one that began last has seen
        most: where that is not `row`, which took longer, it is `row` that is marked.
        """
        older = [
            str(ups.value(item, ups.REFERENCED_SOP_INSTANCE_UID))
            for item in ups.items(row.attributes, ups.REPLACED_PROCEDURE_STEP_SEQUENCE)
        ]
        made = {sop for each in outputs for _, sop in each.instances}
        if row.request_key is not None:
            for other in workitems.same_request(conn, row.request_key, row.scope, State.COMPLETED):
                theirs = {sop for each in ups_task.outputs_of(other.attributes) for _, sop in each.instances}
                if not theirs or theirs == made or other.superseded_by is not None:
                    continue
                if (ups_task.started_at(other.attributes) or 0.0) > started:
                    workitems.mark_superseded(conn, [row.uid], other.uid, now)  # its own end is told anyway
                else:
                    older.append(other.uid)
        for other in workitems.mark_superseded(conn, older, row.uid, now):
            self._news(conn, other.uid, other.study_instance_uid, SYSTEM.name, other.scope, now)

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
