"""The worklist: Unified Procedure Steps for anybody (PS3.4 annex CC, PS3.18 section 11).

What a worker of ours does with a Workitem (claim, heartbeat, completion) is `pacs.leases`, how one ends before it is
done `pacs.ending`; this builds on both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
from sqlalchemy import Connection

from pacs import uids
from pacs.auth import SYSTEM, Principal, Right
from pacs.dicom import ups, ups_events, ups_match, ups_task
from pacs.dicom.matching import PLAIN, Options
from pacs.dicom.ups import Attributes, State
from pacs.ending import Ending
from pacs.errors import Conflict
from pacs.index import rule_waits, subscriptions, workitems
from pacs.index.engine import Index
from pacs.index.workitems import WorkitemRow

NOT_READY = 1e15
"""`not_before` of a Workitem whose inputs are not all there (Input Readiness State): no worker takes it."""


@dataclass(frozen=True)
class Hold:
    """Why a request is not READY yet: `rule` looks after it, as it does after what it waits for with a study."""

    rule: str
    study_instance_uid: str
    why: str


class Worklist(Ending):
    """The worklist of one archive. Safe from any thread; every change is durable when a method returns."""

    judge: Callable[[Attributes], Hold | None] | None = None
    """Looks at what is requested, or changed, before it is kept: raises InvalidInput for what can never be done, and
    says what it has to wait for."""

    def create(
        self,
        attributes: Mapping[str, Any],
        uid: str | None,
        principal: Principal,
        task: str | None = None,
        *,
        version: str | None = None,
        rule: str | None = None,
        again: str | None = None,
    ) -> str:
        """The Workitem UID of a new Workitem (N-CREATE, PS3.18 11.4).

        With `task`, a task key, creating it again returns the UID of the one that is there, as urgent as both. Where
        that one ended CANCELED and there is `again`, a new one with that UID is made in its place. A Workitem that
        waits and asks a plug-in of ours for the same, no more urgently, no sooner and for no longer, is replaced by the
        new one, unless a batch alone wants that.
        `version` is that of the plug-in it is made for, and only workers that have it take it; without, any does.
        `rule` is noted beside it. Raises InvalidInput, InvalidUID, Forbidden, and Conflict where the UID is taken
        (0111H).
        """
        principal.require(Right.PROCESS)
        uid = uids.checked(uid, "Workitem UID") if uid else uids.new()
        kept = ups.created(attributes, uid, self._clock())
        hold = self.judge(kept) if self.judge is not None and task is None else None
        kept = _held(kept) if hold else kept

        def work(conn: Connection) -> tuple[str, bool]:
            known = workitems.of_task(conn, task) if task is not None else None
            heir = None if known is None else self.join(conn, known, str(ups.value(kept, ups.PRIORITY)))
            if known is not None and (heir is not None or again is None):
                return heir or known, False
            new = uid
            if workitems.get(conn, uid) is not None:
                if again is None:
                    raise Conflict("a Workitem with this UID exists already", about=uid)
                if workitems.get(conn, again) is not None:
                    return again, False
                new = again
            if known is not None:
                workitems.save(conn, known, {"task_key": None})
            named = kept | {ups.SOP_INSTANCE_UID: ups.element("UI", new)}
            self.add(conn, new, named, principal, task=task, version=version, rule=rule)
            if known is not None:
                self.supersede_within(conn, known, new)  # no dead letter any more
            self._hold(conn, new, hold, principal.scope)
            return new, True

        made, is_new = self._index.transact(work)
        if is_new:
            self.wake()
        return made

    def add(
        self,
        conn: Connection,
        uid: str,
        kept: Attributes,
        principal: Principal,
        *,
        task: str | None,
        version: str | None,
        rule: str | None,
    ) -> None:
        """The second half of `create`, in a transaction of the caller's: `kept` is what `ups.created` has made."""
        now = self._clock()
        self.lock(conn, kept)
        values = {
            "uid": uid, "state": State.SCHEDULED, "task_key": task, "attributes": orjson.dumps(kept),
            "attempt": 0, "progress": 0.0, "message": "", "reason": "", "cancel_requested": 0, "revision": 0,
            "created_at": now, "updated_at": now, "principal": principal.name, "scope": principal.scope,
            "version": version, "needs_version": version or "", "rule": rule,
        } | _columns(kept)  # fmt: skip
        workitems.add(conn, values)
        workitems.index_values(conn, uid, kept)
        self._replace_waiting(conn, uid, values, principal, now)
        self._audit(conn, "workitem created", principal, uid, values["study_instance_uid"])
        self._news(conn, uid, values["study_instance_uid"], principal.name, principal.scope, now)
        self._told_of_new(conn, uid, kept, principal.scope, now)

    def wake(self) -> None:
        """Let those look who wait for news."""
        self._events.publish()

    @property
    def index(self) -> Index:
        """The index that the worklist is a part of."""
        return self._index

    def retrieve(self, uid: str, principal: Principal) -> Attributes:
        """The Workitem as DICOM JSON, never with its Transaction UID (N-GET, PS3.18 11.5). Raises NotFound."""
        principal.require(Right.QUERY)
        with self._index.read() as conn:
            return self._visible(conn, uid, principal).attributes

    def search(
        self,
        keys: Mapping[str, str],
        limit: int | None,
        offset: int,
        principal: Principal,
        options: Options = PLAIN,
    ) -> tuple[list[Attributes], int]:
        """At most `limit` matching Workitems from `offset` on, newest first, and how many there are beyond them.

        `keys` maps a path of tags joined by dots ("00741000", "00404018.00080100") to the text of a matching key:
        as in a query of the archive (PS3.4 C.2.2.2). Raises InvalidQuery.
        """
        principal.require(Right.QUERY)
        wanted = ups_match.search(keys, options)
        with self._index.read() as conn:
            rows, total = workitems.search(conn, wanted, principal.scope, limit, offset)
        return [row.attributes for row in rows], max(0, total - offset - len(rows))

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
            hold = None
            if self.judge is not None and attributes.keys() & {ups.PARAMETERS_SEQUENCE, ups.INPUT_READINESS_STATE}:
                hold = self.judge(kept)
            if hold and ups.value(row.attributes, ups.INPUT_READINESS_STATE) != "READY":
                kept = _held(kept)
                self._hold(conn, uid, hold, row.scope)
            percent, message, _ = ups.progress_of(kept)
            values = {"attributes": orjson.dumps(kept), "updated_at": now, "progress": percent, "message": message}
            workitems.save(conn, uid, values | _columns(kept))
            workitems.index_values(conn, uid, kept)
            after = replace(row, raw=orjson.dumps(kept)).attributes
            reports = ups_events.changes(row.attributes, after)
            self._news(conn, uid, row.study_instance_uid, principal.name, row.scope, now, reports)

        self._index.transact(work)
        self._events.publish()

    def make_ready(self, uid: str, inputs: Sequence[ups_task.References], comment: str) -> bool:
        """Whether a Workitem that waited for its inputs is READY now: with `inputs` after its own, and a comment."""
        now = self._clock()

        def work(conn: Connection) -> bool:
            row = workitems.get(conn, uid, lock=True)
            if row is None or row.state is not State.SCHEDULED or row.not_before != NOT_READY:
                return False
            kept = orjson.loads(row.raw)
            own = ups.items(kept, ups.INPUT_INFORMATION_SEQUENCE)
            words = "\r\n".join(filter(None, (str(ups.value(kept, ups.COMMENTS) or ""), comment)))
            kept |= {
                ups.INPUT_INFORMATION_SEQUENCE: ups.element("SQ", *own, *map(ups_task.reference_item, inputs)),
                ups.INPUT_READINESS_STATE: ups.element("CS", "READY"),
                ups.COMMENTS: ups.element("LT", words[:10240]) if words else ups.element("LT"),
                ups.MODIFICATION_DATETIME: ups.element("DT", ups.dt(now)),
            }
            kept = dict(sorted(kept.items()))
            values = {"attributes": orjson.dumps(kept), "updated_at": now, "offered_at": None}
            workitems.save(conn, uid, values | _columns(kept))
            workitems.index_values(conn, uid, kept)
            reports = ups_events.changes(row.attributes, replace(row, raw=orjson.dumps(kept)).attributes)
            self._news(conn, uid, row.study_instance_uid, SYSTEM.name, row.scope, now, reports)
            return True

        done = self._index.transact(work)
        self._events.publish()
        return done

    def _hold(self, conn: Connection, uid: str, hold: Hold | None, scope: str) -> None:
        if hold is not None:
            now = self._clock()
            rule_waits.put(conn, hold.rule, hold.study_instance_uid, uid, scope, now, now, hold.why)

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
                values["ended"] = target.value.lower() if target is State.COMPLETED else "cancelled"
                kept = ups.finalised(orjson.loads(row.raw), target, now)
                percent, message, reason = ups.progress_of(kept)
                values |= {"attributes": orjson.dumps(kept), "progress": percent, "message": message, "reason": reason}
            workitems.save(conn, uid, values)
            self._audit(conn, f"workitem {target.value.lower()}", principal, uid, row.study_instance_uid)
            after = replace(row, state=target, raw=values.get("attributes", row.raw)).attributes
            reports = ups_events.changes(row.attributes, after)
            self._news(conn, uid, row.study_instance_uid, principal.name, row.scope, now, reports)
            return None

        warned = self._index.transact(work)
        self._events.publish()
        return warned

    def of_plugin(self, plugin: str, study_instance_uid: str, *, requested: bool = False) -> list[WorkitemRow]:
        """Workitems that a rule made for that plug-in and study, oldest first; with `requested` all others as well."""
        with self._index.read() as conn:
            return workitems.of_plugin(conn, plugin, study_instance_uid, requested=requested)

    def forget(self, now: float, days: float) -> int:
        """How many Workitems were removed: in their final state for that long, and under no deletion lock."""
        with self._index.read() as conn:
            ended = workitems.ended_before(conn, now - days * 86_400)
            found = [uid for uid in ended if not subscriptions.locked(conn, uid)]

        def work(conn: Connection) -> int:
            removed = 0
            for uid in found:
                row = workitems.get(conn, uid, lock=True)
                if row is not None and not subscriptions.locked(conn, uid):
                    subscriptions.forget(conn, uid)
                    workitems.remove(conn, uid)
                    self._audit(conn, "workitem removed", SYSTEM, uid, row.study_instance_uid)
                    removed += 1
            return removed

        return self._index.transact(work) if found else 0


def _held(kept: Attributes) -> Attributes:
    return kept | {ups.INPUT_READINESS_STATE: ups.element("CS", "INCOMPLETE")}


def _columns(kept: Attributes) -> dict[str, Any]:
    """What the table keeps of a Workitem's attributes to find it and to order the work."""
    start = ups.moment(kept, ups.START_DATETIME)
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
        "scheduled_at": None if start is None else ups.dt(start),
        "priority": ups.PRIORITIES.index(ups.value(kept, ups.PRIORITY)),
        "study_instance_uid": next((str(uid) for uid in studies if uid), None),
        "not_before": start if ready else NOT_READY,
        "expires_at": ups.moment(kept, ups.EXPIRATION_DATETIME),
        "request_key": ups_task.request_key(kept),
    }
