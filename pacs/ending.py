"""How Workitems end before they are done: cancelled, superseded, or withdrawn because nobody wants them any more.

Rules, batches and people may ask for the very same; it is done once, as urgently as the most urgent of them wants it,
and stays as long as one of them does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import orjson
from sqlalchemy import Connection, insert

from pacs.audit import row as audit_row
from pacs.auth import SYSTEM, Principal, Right
from pacs.dicom import ups, ups_events, ups_task
from pacs.dicom.ups import Attributes, State
from pacs.errors import AlreadyCompleted, PerformerUnreachable
from pacs.index import schema, subscriptions, workitems
from pacs.index.workitems import WorkitemRow
from pacs.leases import Leases

ALREADY_COMPLETED = "The UPS is already COMPLETED."
ALREADY_CANCELED = "The UPS is already in the requested state of CANCELED."


class Ending(Leases):
    """Cancelling, superseding and withdrawing, with what each means for the others that want the same."""

    def request_cancel(
        self,
        uid: str,
        reason: str,
        principal: Principal,
        *,
        requesting_ae: str = "",
        request: Mapping[str, Any] | None = None,
        ended: str = "cancelled",
        superseded_by: str | None = None,
    ) -> str | None:
        """None, or the warning that it is CANCELED already (N-ACTION, PS3.4 CC.2.2, PS3.18 11.8).

        SCHEDULED ends at once; IN PROGRESS is asked of whoever performs it: a worker of ours, or everybody who is
        subscribed to the Workitem. `request` is the action information, of which reason code and contact are passed
        on; `ended` is one of `leases.ENDS`, `superseded_by` the Workitem that takes its place. Raises AlreadyCompleted,
        and PerformerUnreachable where nobody could be asked.
        """
        principal.require(Right.PROCESS)

        def work(conn: Connection) -> str | None:
            row = self._visible(conn, uid, principal, lock=True)
            return self._cancel(
                conn, row, reason, principal, requesting_ae=requesting_ae, request=request, ended=ended,
                superseded_by=superseded_by,
            )  # fmt: skip

        warned = self._index.transact(work)
        self._events.publish()
        return warned

    def _cancel(
        self,
        conn: Connection,
        row: WorkitemRow,
        reason: str,
        principal: Principal,
        *,
        requesting_ae: str = "",
        request: Mapping[str, Any] | None = None,
        ended: str = "cancelled",
        superseded_by: str | None = None,
    ) -> str | None:
        uid, now = row.uid, self._clock()
        said = reason.strip()[:1024] or "cancelled on request"
        if row.state is State.CANCELED:
            return ALREADY_CANCELED
        if row.state is State.COMPLETED:
            raise AlreadyCompleted(ALREADY_COMPLETED, about=uid)
        if row.state is State.IN_PROGRESS and row.worker is None and not subscriptions.watchers(conn, uid):
            raise PerformerUnreachable("the performer cannot be contacted: nobody watches the Workitem", about=uid)
        self._audit(conn, "workitem cancel requested", principal, uid, row.study_instance_uid)
        free = row.worker is not None and row.lease_token is None
        if row.state is State.SCHEDULED or free:
            self._end_canceled(conn, row, said, now, principal, request, ended, superseded_by)
        else:
            asked = {"cancel_requested": 1, "reason": said, "updated_at": now, "superseded_by": superseded_by}
            workitems.save(conn, uid, asked)
            given = {ups.REASON_FOR_CANCELLATION: ups.element("LT", said)} if reason.strip() else {}
            reports = [ups_events.cancel_requested(requesting_ae or principal.name[:16], {**(request or {}), **given})]
            self._news(conn, uid, row.study_instance_uid, principal.name, row.scope, now, reports)
        return None

    def supersede(self, uid: str, by: str) -> None:
        """Cancel a Workitem that is not finished, since another one works on a newer set of the same input.

        One that had failed is no dead letter any more; the results of one that is COMPLETED stay as they are, and are
        marked once the newer one has its own.
        """
        self._index.transact(partial(self.supersede_within, uid=uid, by=by))
        self._events.publish()

    def supersede_within(self, conn: Connection, uid: str, by: str) -> None:
        """`supersede` in a transaction of the caller's: nobody sees the newer one without what it means for others."""
        row, now = workitems.get(conn, uid, lock=True), self._clock()
        if row is None:
            return
        if row.state is State.COMPLETED:
            newer = workitems.get(conn, by, lock=True)
            if newer is not None and newer.state is State.COMPLETED:  # else the newer one marks it itself
                for old in workitems.mark_superseded(conn, [uid], by, now):
                    self._news(conn, uid, old.study_instance_uid, SYSTEM.name, old.scope, now)
        elif row.state is State.CANCELED:
            values = {"ended": "superseded", "superseded_by": by, "updated_at": now}
            workitems.save(conn, uid, values, workitems.t.ended == "failed")
        else:
            with suppress(PerformerUnreachable):
                said = f"superseded by {by}"
                self._cancel(conn, row, said, SYSTEM, ended="superseded", superseded_by=by)

    def lock(self, conn: Connection, kept: Attributes, older: Sequence[str] = ()) -> None:
        """Before a Workitem is added that takes the place of the `older`: nobody else changes these, or asks the same.

        What is locked later might be held by somebody who waits for us.
        """
        if (key := ups_task.request_key(kept)) is not None:
            workitems.alone_with(conn, key)
        workitems.lock(conn, older)

    def join(self, conn: Connection, uid: str, priority: str, rule: str | None = None) -> str | None:
        """The UID of the Workitem that does what `uid` was made for, wanted by one more; None where nobody does it.

        It is at least as urgent as `priority` from now on, and with `rule` that rule's as well as whoever's it was. It
        may be a request that took the place of `uid`. In a transaction of the caller's.
        """
        row = workitems.get(conn, uid, lock=True)
        while row is not None and row.state is State.CANCELED and row.superseded_by is not None:
            heir = workitems.get(conn, row.superseded_by, lock=True)
            if heir is None or heir.request_key != row.request_key:
                return None
            row = heir
        if row is None or row.state is State.CANCELED or row.cancel_requested:
            return None
        if row.uid != uid and row.state is State.COMPLETED:
            return None  # by whatever version was there
        values: dict[str, Any] = {"rule": rule} if rule is not None and row.rule is None else {}
        wanted = ups.PRIORITIES.index(priority)
        waits = row.state is State.SCHEDULED or (
            row.state is State.IN_PROGRESS and row.worker is not None and row.lease_token is None
        )
        if wanted < row.priority and waits:
            now = self._clock()
            moment = {ups.MODIFICATION_DATETIME: ups.element("DT", ups.dt(now))}
            kept = orjson.loads(row.raw) | {ups.PRIORITY: ups.element("CS", priority)} | moment
            kept = dict(sorted(kept.items()))
            values |= {"attributes": orjson.dumps(kept), "priority": wanted, "updated_at": now}
            workitems.index_values(conn, row.uid, kept)
        if values:
            workitems.save(conn, row.uid, values)
        if "priority" in values:
            self._news(conn, row.uid, row.study_instance_uid, SYSTEM.name, row.scope, self._clock())
        return row.uid

    def withdraw(self, uid: str, reason: str) -> bool:
        """Cancel what was made for a batch, unless it is finished or a rule wants it as well; whether it was cancelled.

        Nobody has said that it should not be done: its task key is free for whoever wants the same later.
        """

        def work(conn: Connection) -> bool:
            row = workitems.get(conn, uid, lock=True)
            if row is None or row.state.final or row.task_key is None or row.rule is not None:
                return False
            with suppress(PerformerUnreachable):
                self._cancel(conn, row, reason, SYSTEM)
                workitems.save(conn, uid, {"task_key": None})
                return True
            return False

        done = self._index.transact(work)
        self._events.publish()
        return done

    def _replace_waiting(
        self, conn: Connection, uid: str, values: Mapping[str, Any], principal: Principal, now: float
    ) -> None:
        """End what waits for the same as the new Workitem `uid`, unless that is more urgent, due sooner or lasts."""
        if values["request_key"] is None or _of_batch(values):  # which may be ended, and takes nobody's place
            return
        for row in workitems.same_request(conn, values["request_key"], principal.scope, State.SCHEDULED):
            sooner = values["not_before"] <= max(now, row.not_before or 0.0)
            expires, theirs = values["expires_at"], ups.moment(row.attributes, ups.EXPIRATION_DATETIME)
            lasting = expires is None or (theirs is not None and theirs <= expires)
            if row.uid != uid and values["priority"] <= row.priority and sooner and lasting:
                said = f"superseded by {uid}"
                self._end_canceled(conn, row, said, now, principal, ended="superseded", superseded_by=uid)

    def _audit(self, conn: Connection, event: str, principal: Principal, uid: str, study: str | None) -> None:
        made = audit_row(event, principal, "success", self._clock(), workitem_uid=uid, study_instance_uid=study)
        conn.execute(insert(schema.audit), [made])


def _of_batch(values: Mapping[str, Any]) -> bool:
    """Whether nobody but a batch has asked for the Workitem."""
    return values["task_key"] is not None and values["rule"] is None
