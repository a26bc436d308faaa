"""The worklist: Unified Procedure Steps for anybody (PS3.4 annex CC, PS3.18 section 11).

What a worker of ours does with a Workitem (claim, heartbeat, completion) is `pacs.leases`, which this builds on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from sqlalchemy import Connection, insert

from pacs import uids
from pacs.audit import row as audit_row
from pacs.auth import SYSTEM, Principal, Right
from pacs.dicom import ups, ups_match, ups_task
from pacs.dicom.ups import Attributes, State
from pacs.errors import Conflict, NotFound, StateConflict
from pacs.index import schema, workitems
from pacs.index.workitems import WorkitemRow
from pacs.leases import Leases

NOT_READY = 1e15
"""`not_before` of a Workitem whose inputs are not all there (Input Readiness State): no worker takes it."""

ALREADY_COMPLETED = "The UPS is already COMPLETED."
ALREADY_CANCELED = "The UPS is already in the requested state of CANCELED."

_PLUGIN = f"{ups.WORKITEM_CODE_SEQUENCE}.{ups.CODE_VALUE}"

# Matching keys that a column answers; all others are matched on the Workitem itself.
_COLUMNS = {
    ups.SOP_INSTANCE_UID: "uid",
    ups.PROCEDURE_STEP_STATE: "state",
    ups.STUDY_INSTANCE_UID: "study_instance_uid",
    ups.PATIENT_ID: "patient_id",
    ups.LABEL: "label",
    _PLUGIN: "plugin",
}


class Worklist(Leases):
    """The worklist of one archive. Safe from any thread; every change is durable when a method returns."""

    def create(
        self, attributes: Mapping[str, Any], uid: str | None, principal: Principal, task: str | None = None
    ) -> str:
        """The Workitem UID of a new Workitem (N-CREATE, PS3.18 11.4).

        With `task`, a task key, creating it again returns the UID of the one that is there. Raises InvalidInput,
        InvalidUID, Forbidden, and Conflict where the UID is taken (0111H).
        """
        principal.require(Right.PROCESS)
        now = self._clock()
        uid = uids.checked(uid, "Workitem UID") if uid else uids.new()
        kept = ups.created(attributes, uid, now)
        values = {
            "uid": uid, "state": State.SCHEDULED, "task_key": task, "attributes": orjson.dumps(kept),
            "attempt": 0, "progress": 0.0, "message": "", "reason": "", "cancel_requested": 0, "revision": 0,
            "created_at": now, "updated_at": now, "principal": principal.name, "scope": principal.scope,
        } | _columns(kept)  # fmt: skip

        def work(conn: Connection) -> tuple[str, bool]:
            known = workitems.of_task(conn, task) if task is not None else None
            if known is not None:
                return known, False
            if workitems.get(conn, uid) is not None:
                raise Conflict("a Workitem with this UID exists already", about=uid)
            workitems.add(conn, values)
            self._audit(conn, "workitem created", principal, uid, values["study_instance_uid"])
            self._news(conn, uid, values["study_instance_uid"], principal.name, principal.scope, now)
            return uid, True

        made, is_new = self._index.transact(work)
        if is_new:
            self._events.publish()
        return made

    def retrieve(self, uid: str, principal: Principal) -> Attributes:
        """The Workitem as DICOM JSON, never with its Transaction UID (N-GET, PS3.18 11.5). Raises NotFound."""
        principal.require(Right.QUERY)
        with self._index.read() as conn:
            return self._visible(conn, uid, principal).attributes

    def search(
        self, keys: Mapping[str, str], limit: int | None, offset: int, principal: Principal
    ) -> tuple[list[Attributes], int]:
        """At most `limit` matching Workitems from `offset` on, newest first, and how many there are beyond them.

        `keys` maps a path of tags joined by dots ("00741000", "00404018.00080100") to the text of a matching key:
        single value, UID list, range of dates, wild cards (PS3.4 C.2.2.2). Raises InvalidQuery.
        """
        principal.require(Right.QUERY)
        criteria = {path: ups_match.parse(path, text) for path, text in keys.items() if text not in ("", "*")}
        with self._index.read() as conn:
            columns = dict(_COLUMNS)
            if _PLUGIN in criteria and workitems.any_foreign(conn):
                del columns[_PLUGIN]  # the column knows our own codes only
            equal = {columns[p]: c.values for p, c in criteria.items() if p in columns and c.values is not None}
            rest = {path: c for path, c in criteria.items() if path not in columns or c.values is None}
            if not rest:
                rows, total = workitems.search(conn, equal, principal.scope, limit, offset)
                return [row.attributes for row in rows], max(0, total - offset - len(rows))
            rows, _ = workitems.search(conn, equal, principal.scope, None, 0)
        found = [
            attributes
            for attributes in (row.attributes for row in rows)
            if all(criterion.matches(list(ups.values_at(attributes, path))) for path, criterion in rest.items())
        ]
        page = found[offset:] if limit is None else found[offset : offset + limit]
        return page, max(0, len(found) - offset - len(page))

    def plugins_of(self, keys: Mapping[str, str], principal: Principal) -> list[tuple[str, str]]:
        """(UID, plug-in) of the matching Workitems that are for a plug-in of ours."""
        found, _ = self.search(keys, None, 0, principal)
        named = ((str(ups.value(each, ups.SOP_INSTANCE_UID)), ups_task.plugin_of(each)) for each in found)
        return [(uid, plugin) for uid, plugin in named if plugin is not None]

    def moved_since(self, since: float, principal: Principal) -> list[dict[str, Any]]:
        """Summaries of the Workitems that changed at or after `since` (Unix seconds), oldest change first.

        Keys: uid, state, label, plugin, study_instance_uid, progress (0 to 100), message, reason, updated_at.
        """
        principal.require(Right.QUERY)
        with self._index.read() as conn:
            return workitems.moved_since(conn, since, principal.scope)

    def update(
        self, uid: str, attributes: Mapping[str, Any], transaction_uid: str | None, principal: Principal
    ) -> None:
        """Change attributes (N-SET, PS3.18 11.6). Raises NotFound, StateConflict, TransactionMismatch, InvalidInput."""
        principal.require(Right.PROCESS)
        now = self._clock()

        def work(conn: Connection) -> None:
            row = self._visible(conn, uid, principal, lock=True)
            ups.check_update(row.state, row.transaction_uid, transaction_uid)
            kept = ups.updated(orjson.loads(row.raw), attributes, now)
            percent, message, _ = ups.progress_of(kept)
            values = {"attributes": orjson.dumps(kept), "updated_at": now, "progress": percent, "message": message}
            workitems.save(conn, uid, values | _columns(kept))
            self._news(conn, uid, row.study_instance_uid, principal.name, row.scope, now)

        self._index.transact(work)
        self._events.publish()

    def change_state(self, uid: str, state: str, transaction_uid: str | None, principal: Principal) -> str | None:
        """None, or the warning that it is in that state already (N-ACTION, PS3.18 11.7).

        Raises InvalidInput for an unknown state, NotFound, StateConflict, TransactionMismatch.
        """
        principal.require(Right.PROCESS)
        target = ups.state_named(state)
        if transaction_uid:
            uids.checked(transaction_uid, "Transaction UID")
        now = self._clock()

        def work(conn: Connection) -> str | None:
            row = self._visible(conn, uid, principal, lock=True)
            warning = ups.transition(row.state, target, row.transaction_uid, transaction_uid)
            if warning is not None:
                return warning
            values: dict[str, Any] = {"state": target, "updated_at": now, "transaction_uid": transaction_uid}
            if target.final:
                kept = ups.finalised(orjson.loads(row.raw), target, now)
                percent, message, reason = ups.progress_of(kept)
                values |= {"attributes": orjson.dumps(kept), "progress": percent, "message": message, "reason": reason}
            workitems.save(conn, uid, values)
            self._audit(conn, f"workitem {target.value.lower()}", principal, uid, row.study_instance_uid)
            self._news(conn, uid, row.study_instance_uid, principal.name, row.scope, now)
            return None

        warned = self._index.transact(work)
        self._events.publish()
        return warned

    def request_cancel(self, uid: str, reason: str, principal: Principal) -> str | None:
        """None, or the warning that it is CANCELED already (N-ACTION, PS3.18 11.8).

        SCHEDULED ends at once; IN PROGRESS is asked of whoever performs it. Raises StateConflict for COMPLETED.
        """
        principal.require(Right.PROCESS)
        now = self._clock()
        said = reason.strip()[:1024] or "cancelled on request"

        def work(conn: Connection) -> str | None:
            row = self._visible(conn, uid, principal, lock=True)
            if row.state is State.CANCELED:
                return ALREADY_CANCELED
            if row.state is State.COMPLETED:
                raise StateConflict(ALREADY_COMPLETED, about=uid)
            self._audit(conn, "workitem cancel requested", principal, uid, row.study_instance_uid)
            free = row.worker is not None and row.lease_token is None
            if row.state is State.SCHEDULED or free:
                self._end_canceled(conn, row, said, now, principal)
            else:
                workitems.save(conn, uid, {"cancel_requested": 1, "reason": said, "updated_at": now})
                self._news(conn, uid, row.study_instance_uid, principal.name, row.scope, now)
            return None

        warned = self._index.transact(work)
        self._events.publish()
        return warned

    def of_plugin(self, plugin: str, study_instance_uid: str) -> list[WorkitemRow]:
        """Workitems that a rule made for that plug-in and study, oldest first."""
        with self._index.read() as conn:
            return workitems.of_plugin(conn, plugin, study_instance_uid)

    def supersede(self, uid: str, by: str) -> None:
        """Cancel a Workitem that is not finished, since another one works on a newer set of the same input."""
        try:
            self.request_cancel(uid, f"superseded by {by}", SYSTEM)
        except Conflict:
            return  # finished in between: its results stay, and the newer Workitem names it

    @staticmethod
    def _visible(conn: Connection, uid: str, principal: Principal, *, lock: bool = False) -> WorkitemRow:
        row = workitems.get(conn, uid, lock=lock)
        if row is None or (principal.scope and row.scope != principal.scope):
            raise NotFound("no such Workitem", about=uid if uids.is_valid(uid) else "")
        return row

    def _audit(self, conn: Connection, event: str, principal: Principal, uid: str, study: str | None) -> None:
        made = audit_row(event, principal, "success", self._clock(), workitem_uid=uid, study_instance_uid=study)
        conn.execute(insert(schema.audit), [made])


def _columns(kept: Attributes) -> dict[str, Any]:
    """What the table keeps of a Workitem's attributes to find it and to order the work."""
    start = ups.from_dt(str(ups.value(kept, ups.START_DATETIME)))
    ready = ups.value(kept, ups.INPUT_READINESS_STATE) == "READY"
    studies = (
        next(ups.values_at(kept, path), None)
        for path in (
            ups.STUDY_INSTANCE_UID,
            f"{ups.INPUT_INFORMATION_SEQUENCE}.{ups.STUDY_INSTANCE_UID}",
            f"0040A370.{ups.STUDY_INSTANCE_UID}",
        )
    )
    patient_id = ups.value(kept, ups.PATIENT_ID)
    return {
        "plugin": ups_task.plugin_of(kept),
        "label": str(ups.value(kept, ups.LABEL)),
        "patient_id": None if patient_id is None else str(patient_id),
        "scheduled_at": ups.dt(start),
        "priority": ups.PRIORITIES.index(ups.value(kept, ups.PRIORITY)),
        "study_instance_uid": next((str(uid) for uid in studies if uid), None),
        "not_before": start if ready else NOT_READY,
    }
