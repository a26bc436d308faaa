"""Tasks as the people who run the platform see them: what waits, what ended how and why, and dead letters.

A dead letter is a Workitem that ended CANCELED because a task failed for good. It is requeued as a new Workitem that
replaces it (a final state is final, PS3.4 CC.1.1), or discarded: both are in the audit trail.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, insert, select

from pacs import uids
from pacs.audit import row as audit_row
from pacs.auth import Principal, Right
from pacs.dicom import ups, ups_task
from pacs.dicom.ups import State
from pacs.errors import InvalidInput, NotFound, StateConflict
from pacs.index import changes, schema, workitems
from pacs.index.workitems import WorkitemRow
from pacs.leases import ENDS
from pacs.workforce import Post, Workforce, awaited
from pacs.worklist import NOT_READY, Worklist

LISTED_AT_MOST = 1000
DEAD = "failed"
"""What `ended` says of a dead letter."""


@dataclass(frozen=True, slots=True)
class Task:
    """A Workitem for a plug-in of ours, and what is known beside it. Times are in Unix seconds.

    waits_for: of one that no worker has, what it waits for besides its turn, in words.
    """

    uid: str
    state: str
    plugin: str
    version: str | None
    rule: str | None
    label: str
    priority: str
    study_instance_uid: str | None
    progress: int
    message: str
    reason: str
    ended: str | None
    superseded_by: str | None
    attempt: int
    worker: str | None
    start_at: float | None
    waits_for: str
    created_at: float
    updated_at: float
    principal: str


class Tasks:
    """What can be seen and done of tasks besides UPS."""

    def __init__(
        self, worklist: Worklist, workforce: Workforce | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        """`workforce`, where it is known, tells which tasks nobody takes."""
        self._worklist = worklist
        self._workforce = workforce
        self._index = worklist.index
        self._clock = clock

    def listed(
        self,
        principal: Principal,
        *,
        ended: str | None = None,
        state: str | None = None,
        plugin: str | None = None,
        study: str | None = None,
        before: float | None = None,
        limit: int = 100,
    ) -> list[Task]:
        """At most `limit` tasks, the last changed first, that changed before `before`. Raises InvalidInput."""
        principal.require(Right.QUERY)
        if ended is not None and ended not in ENDS:
            raise InvalidInput(f"ended is one of {', '.join(ENDS)}")
        if not 1 <= limit <= LISTED_AT_MOST:
            raise InvalidInput(f"limit is 1 to {LISTED_AT_MOST}")
        t = schema.workitem.c
        wanted = select(schema.workitem).where(t.plugin.is_not(None))
        given: tuple[tuple[Any, str | None], ...] = (
            (t.ended, ended),
            (t.state, None if state is None else ups.state_named(state).value),
            (t.plugin, plugin),
            (t.study_instance_uid, study),
            (t.scope, principal.scope or None),
        )
        wanted = wanted.where(*(column == value for column, value in given if value is not None))
        if before is not None:
            wanted = wanted.where(t.updated_at < before)
        with self._index.read() as conn:
            found = conn.execute(wanted.order_by(t.updated_at.desc(), t.uid).limit(limit)).all()
        return self._told([workitems.row(each) for each in found])

    def get(self, uid: str, principal: Principal) -> Task:
        """One task. Raises NotFound."""
        principal.require(Right.QUERY)
        with self._index.read() as conn:
            row = self._visible(conn, uid, principal)
        return self._told([row])[0]

    def _told(self, rows: Sequence[WorkitemRow]) -> list[Task]:
        now = self._clock()
        posts = None
        if self._workforce is not None and any(_is_free(row) for row in rows):
            posts = self._workforce.present(now)
        return [_task(row, _waits_for(row, posts, now)) for row in rows]

    def requeue(self, named: Sequence[str], principal: Principal, *, plugin: str | None = None) -> dict[str, str]:
        """The new Workitem of each dead letter: those that are `named`, or all of `plugin`.

        Raises NotFound, and StateConflict for one that is no dead letter.
        """
        principal.require(Right.PROCESS)
        made = {}
        for uid in self._letters(named, principal, plugin):
            try:
                made[uid] = self._again(uid, principal)
            except StateConflict:
                if named:
                    raise  # of all those of a plug-in, somebody else has taken up this one meanwhile
        return made

    def discard(self, named: Sequence[str], principal: Principal, *, plugin: str | None = None) -> list[str]:
        """The dead letters that are none any more: those that are `named`, or all of `plugin`."""
        principal.require(Right.PROCESS)
        found = self._letters(named, principal, plugin)

        def work(conn: Connection) -> None:
            workitems.lock(conn, found)
            for uid in found:
                row = self._dead(conn, uid, principal)
                workitems.save(conn, uid, {"ended": "discarded"})
                self._note(conn, "dead letter discarded", uid, row, principal)

        self._index.transact(work)
        return found

    def _again(self, uid: str, principal: Principal) -> str:
        new = uids.new()

        def work(conn: Connection) -> None:
            row = self._dead(conn, uid, principal, lock=True)
            now = self._clock()
            asked = ups.created(ups_task.again(row.attributes, uid, now), new, now)
            values = {"task_key": None, "superseded_by": new, "ended": "superseded", "updated_at": now}
            workitems.save(conn, uid, values)  # what rules look for is the new one from now on
            theirs = replace(principal, scope=row.scope)
            # Whatever version is there now may do it: often that is why it is taken up again.
            self._worklist.add(conn, new, asked, theirs, task=row.task_key, version=None, rule=row.rule)
            self._note(conn, "dead letter requeued", uid, row, principal)

        self._index.transact(work)
        self._worklist.wake()
        return new

    def _letters(self, named: Sequence[str], principal: Principal, plugin: str | None) -> list[str]:
        if bool(named) == (plugin is not None):
            raise InvalidInput("name dead letters, or a plug-in all of whose dead letters are meant")
        if named:
            with self._index.read() as conn:
                for uid in named:
                    self._dead(conn, uid, principal)
            return list(dict.fromkeys(named))
        t = schema.workitem.c
        wanted = select(t.uid).where(t.ended == DEAD, t.plugin == plugin)
        if principal.scope:
            wanted = wanted.where(t.scope == principal.scope)
        with self._index.read() as conn:
            return list(conn.execute(wanted.order_by(t.updated_at)).scalars())

    def _dead(self, conn: Connection, uid: str, principal: Principal, *, lock: bool = False) -> WorkitemRow:
        row = self._visible(conn, uid, principal, lock=lock)
        if row.state is not State.CANCELED or row.ended != DEAD:
            raise StateConflict("this task is no dead letter", about=uid)
        return row

    def _visible(self, conn: Connection, uid: str, principal: Principal, *, lock: bool = False) -> WorkitemRow:
        row = workitems.get(conn, uid, lock=lock)
        if row is None or row.plugin is None or (principal.scope and row.scope != principal.scope):
            raise NotFound("no such task", about=uid)
        return row

    def _note(self, conn: Connection, event: str, uid: str, row: WorkitemRow, principal: Principal) -> None:
        now = self._clock()
        made = audit_row(event, principal, "success", now, workitem_uid=uid, study_instance_uid=row.study_instance_uid)
        conn.execute(insert(schema.audit), [made])
        changes.append(
            conn, "workitem", at=now, principal=principal.name, scope=row.scope,
            study_instance_uid=row.study_instance_uid, workitem_uid=uid,
        )  # fmt: skip


def _is_free(row: WorkitemRow) -> bool:
    """Whether it waits for a worker of ours."""
    return row.state is State.SCHEDULED or (
        row.state is State.IN_PROGRESS and row.worker is not None and row.lease_token is None
    )


def _waits_for(row: WorkitemRow, posts: Sequence[Post] | None, now: float) -> str:
    if not _is_free(row):
        return ""
    if row.not_before == NOT_READY:
        return f"its inputs are {ups.value(row.attributes, ups.INPUT_READINESS_STATE) or 'not ready'}"
    if row.not_before is not None and row.not_before > now:
        return "its time"
    return "" if posts is None else awaited(row.plugin or "", row.needs_version, posts)


def _task(row: WorkitemRow, waits_for: str) -> Task:
    return Task(
        uid=row.uid,
        state=row.state.value,
        plugin=row.plugin or "",
        version=row.version,
        rule=row.rule,
        label=str(ups.value(row.attributes, ups.LABEL) or ""),
        priority=ups.PRIORITIES[row.priority],
        study_instance_uid=row.study_instance_uid,
        progress=round(row.progress),
        message=row.message,
        reason=row.reason,
        ended=row.ended,
        superseded_by=row.superseded_by,
        attempt=row.attempt,
        worker=row.worker,
        start_at=ups.moment(row.attributes, ups.START_DATETIME),
        waits_for=waits_for,
        created_at=row.created_at,
        updated_at=row.updated_at,
        principal=row.principal,
    )
