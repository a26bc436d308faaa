"""What brings batches to their end: studies are looked at, Workitems made and followed, and the report filed.

Everything is a row (`pacs.index.batches`): a batch goes on after a restart, in whichever server takes its lease. What
is made twice is made once: a Workitem's UID derives from its task.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import Connection, Row

from analysis import batch_plan, batch_report
from analysis.api import NotAnalysable, Params
from analysis.reports_read import metadata, result
from pacs import audit
from pacs.auth import ALL_RIGHTS, Principal
from pacs.dicom import ups
from pacs.errors import ArchiveError, Forbidden
from pacs.index import batches as sql
from pacs.index import workitems

if TYPE_CHECKING:
    from analysis.registry import Installed, Registry
    from pacs.archive import Archive
    from pacs.dicom.matching import Query

log = logging.getLogger("m3dicom.batch")

LEASE_S = 60.0
STUDIES_AT_ONCE = 50
WORKITEMS_A_STEP = 50
STEP_S = 2.0  # after which a round leaves the rest to the next: others wait for the scheduler, too

WITHDRAWN = "its batch was cancelled"

Parse = Callable[[str], "Query"]
"""Reads "ModalitiesInStudy=CT&StudyDate=20200101-" as a search of studies. Raises InvalidQuery."""


class BatchLoop:
    """Does what the rows of batches ask for; `step` is called by the scheduler."""

    def __init__(
        self,
        archive: Archive,
        registry: Registry,
        parse: Parse,
        *,
        clock: Callable[[], float] = time.time,
        step_s: float = STEP_S,
        patience_s: float | None = None,
    ) -> None:
        """A batch that needs another version of its plug-in is left for `patience_s` to servers that may have it; None
        where there may be others: a minute, else no time at all."""
        self._archive = archive
        self._index = archive.index
        self._registry = registry
        self._parse = parse
        self._clock = clock
        self._step_s = step_s
        alone = archive.index.dialect == "sqlite"
        self._patience_s = patience_s if patience_s is not None else 0.0 if alone else LEASE_S
        self._versions = {each.id: each.manifest.version for each in registry}
        self._token = secrets.token_hex(16)
        self._reporting: dict[int, threading.Thread] = {}
        self._served = 0  # the batch that had the last turn

    def step(self, now: float) -> None:
        """One round for every batch whose lease this process has or gets."""
        with self._index.read() as conn:
            if not sql.any_live(conn):
                return
        until = time.monotonic() + self._step_s
        lease = (self._token, now, now + LEASE_S, self._versions, self._patience_s)
        rows = self._index.transact(lambda conn: sql.claim(conn, *lease))
        rows.sort(key=lambda row: (row.id <= self._served, row.id))  # who had no turn in the last round comes first
        for turn, row in enumerate(rows):
            began = time.monotonic()
            if turn and began > until:
                return
            self._served = row.id
            try:
                self._go_on(row, now, began + (until - began) / (len(rows) - turn))
            except ArchiveError as error:
                log.warning("batch %d: %s; trying again", row.id, error)
            except Exception:  # of one batch is none of the others', nor of what the scheduler does next
                log.exception("batch %d: trying again", row.id)

    def close(self) -> None:
        """Let others go on; a report that is being made is made again."""
        for thread in self._reporting.values():
            thread.join(timeout=5)
        self._index.transact(lambda conn: sql.release(conn, self._token, self._clock()))

    def _go_on(self, row: Row[Any], now: float, until: float) -> None:
        installed = self._registry.get(row.plugin)
        if installed is None:
            self._end(row, now, "paused", f"its plug-in {row.plugin} is not installed here")
            return
        if installed.manifest.version != row.version:
            self._end(row, now, "paused", other_version(row, installed.manifest.version))
            return
        try:
            params = installed.params(orjson.loads(row.parameters))
        except NotAnalysable as error:
            self._end(row, now, "failed", str(error))
            return
        asker = Principal(row.principal, "system", ALL_RIGHTS, row.scope)
        if row.state == "planning":
            self._plan(row, installed, params, asker, now, until)
        elif row.state == "running":
            self._follow(row, now)
            self._make(row, installed, params, asker, now, until)
        elif row.id not in self._reporting or not self._reporting[row.id].is_alive():
            self._reporting[row.id] = threading.Thread(
                target=self._report, args=(row, installed, params), name=f"batch-{row.id}", daemon=True
            )
            self._reporting[row.id].start()

    def _plan(
        self, row: Row[Any], installed: Installed, params: Params, asker: Principal, now: float, until: float
    ) -> None:
        if not row.studies:
            found = batch_plan.studies(self._archive, self._parse(row.query), asker)
            state = "planning" if found else "reporting"

            def note(conn: Connection) -> None:
                if sql.save(conn, row.id, now, self._held("planning"), state=state, studies=len(found)):
                    sql.add_studies(conn, row.id, found)

            self._index.transact(note)
            return
        planned = row.planned
        while planned < row.studies:
            with self._index.read() as conn:
                some = sql.next_studies(conn, row.id, planned, STUDIES_AT_ONCE)
            items: list[dict[str, Any]] = []
            unchanged = 0
            for study in some:
                for task in batch_plan.planned(
                    self._archive, installed, params, study, asker, only_changed=bool(row.only_changed)
                ):
                    if task.standing == "unchanged":
                        unchanged += 1
                        continue
                    items.append(_item(row.id, task, now))
            planned += len(some)

            def note_items(
                conn: Connection, items: list[dict[str, Any]] = items, planned: int = planned, more: int = unchanged
            ) -> bool:
                state = "running" if planned >= row.studies else "planning"
                values = {"state": state, "planned": planned, "unchanged": sql.b.unchanged + more}
                if not sql.save(conn, row.id, now, self._held("planning"), sql.b.planned < planned, **values):
                    return False
                sql.add_items(conn, items)
                if row.priority != ups.PRIORITIES[-1]:
                    there = [item["workitem_uid"] for item in items if item["state"] == "open"]
                    for each in workitems.lock(conn, there):
                        self._archive.worklist.join(conn, each.uid, row.priority)
                return True

            if not some or not self._index.transact(note_items):
                return
            if time.monotonic() > until:
                break
        self._archive.events.publish()

    def _held(self, state: str) -> Any:
        return (sql.b.lease_token == self._token) & (sql.b.state == state)

    def _make(
        self, row: Row[Any], installed: Installed, params: Params, asker: Principal, now: float, until: float
    ) -> None:
        """As many Workitems as rate, number at once and patience allow, and one in any case."""
        with self._index.read() as conn:
            free = row.at_once - sql.count(conn, row.id, "open")
            waiting = sql.items(conn, row.id, "waiting", limit=max(0, min(free, WORKITEMS_A_STEP)))
        next_at = float(row.next_at)
        study, tasks = "", list[batch_plan.Planned]()  # of a study with a task for each image it is planned once
        for turn, item in enumerate(waiting):
            if (row.rate_per_minute and now < next_at) or (turn and time.monotonic() > until):
                return
            next_at = max(next_at, now - 1.0) + 60 / row.rate_per_minute if row.rate_per_minute else next_at
            if item.study_instance_uid != study:
                study = item.study_instance_uid
                tasks = list(
                    batch_plan.planned(self._archive, installed, params, study, asker, only_changed=False)
                )  # fmt: skip
            if not self._schedule(row, item, tasks, installed, params, asker, now, next_at):
                return
        if waiting:
            return
        with self._index.read() as conn:
            left = sql.items(conn, row.id, "waiting", "open", limit=1)
        if not left:
            self._index.transact(lambda conn: sql.save(conn, row.id, now, self._held("running"), state="reporting"))

    def _schedule(
        self, row: Row[Any], item: Row[Any], tasks: Sequence[batch_plan.Planned], installed: Installed, params: Params,
        asker: Principal, now: float, next_at: float,
    ) -> bool:  # fmt: skip
        """Make the Workitem of an item; False where the batch was paused or cancelled meanwhile."""
        uid = ""
        values: dict[str, Any] = {"state": "failed", "reason": "its input is not stored here any more"}
        task = next((each for each in tasks if each.inputs[0].target == item.target), None)
        if task is not None:
            try:
                uid = batch_plan.create(
                    self._archive, installed, params, task, asker, priority=row.priority,
                    round_=f"{row.uid} {row.round}", now=now,
                )  # fmt: skip
                values = {"state": "open", "reason": "", "workitem_uid": uid, "made": int(task.standing == "new"),
                          "previous_uid": task.previous_uid}  # fmt: skip
            except Forbidden as error:
                values = {"state": "failed", "reason": error.reason}

        def note(conn: Connection) -> bool:
            if not sql.save(conn, row.id, now, self._held("running"), next_at=next_at):
                return False
            sql.set_item(conn, item.id, now, **values)
            return True

        if self._index.transact(note):
            return True
        with self._index.read() as conn:
            found = sql.get(conn, row.id)
        if uid and values.get("made") and found is not None and found.state == "cancelled":
            self._archive.worklist.withdraw(uid, WITHDRAWN)
        return False

    def _follow(self, row: Row[Any], now: float) -> None:
        """Note what became of open items."""
        with self._index.read() as conn:
            ended = sql.ended(conn, row.id)
        if not ended:
            return

        def note(conn: Connection) -> None:
            for found in ended:
                key, state, reason = found.id, found.state, found.reason
                if state == "CANCELED" and found.superseded_by is not None:  # what took its place does it as well
                    sql.set_item(conn, key, now, workitem_uid=found.superseded_by, made=0)
                    continue
                ends = {"COMPLETED": "completed", "CANCELED": "canceled", None: "failed"}
                words = (reason or "") if state else "its Workitem was removed"
                sql.set_item(conn, key, now, state=ends[state], reason="" if state == "COMPLETED" else words)
            sql.save(conn, row.id, now)

        self._index.transact(note)
        self._archive.events.publish()

    # --- the end ---

    def _report(self, row: Row[Any], installed: Installed, params: Params) -> None:
        try:
            made, study, instance = self._reported(row, installed, params)
            values = {"report": orjson.dumps(made), "report_study_uid": study, "report_instance_uid": instance}
        except ArchiveError as error:
            log.warning("batch %d: no report: %s; trying again", row.id, error)
            return
        except Exception:
            log.exception("batch %d: no report", row.id)
            self._end(row, self._clock(), "failed", "its report could not be made; the log tells more")
            return
        self._end(row, self._clock(), "done", "", **values)

    def _reported(
        self, row: Row[Any], installed: Installed, params: Params
    ) -> tuple[dict[str, Any], str | None, str | None]:
        with self._index.read() as conn:
            items = sql.items(conn, row.id)
        results, old = [], []
        for item in items:
            found = result(self._index, item.workitem_uid, item.label, item.target) if item.workitem_uid else None
            if found is None:
                continue
            results.append(found)
            old.append(result(self._index, item.previous_uid, item.label, item.target) if item.previous_uid else None)
        from analysis import batch_document  # pydicom and highdicom: a server does without until it writes a document

        report = batch_report.make(installed, params, results, old)
        table = batch_report.TABLE.dump_python
        made = {
            "table": table(report.table, mode="json"), "changes": table(report.changes, mode="json"),
            "by": report.by, "note": report.note,
        }  # fmt: skip
        filed = metadata(self._index, [row.report_instance_uid]) if row.report_instance_uid else {}
        if filed and row.report and orjson.loads(row.report) == orjson.loads(orjson.dumps(made)):
            return made, row.report_study_uid, row.report_instance_uid  # the report that is there says just that
        study, instance = batch_document.file(self._archive, row, installed, params, report, results, filed)
        return made, study, instance

    def _end(self, row: Row[Any], now: float, state: str, reason: str, **values: Any) -> None:
        def work(conn: Connection) -> None:
            mine = sql.b.lease_token == self._token
            ended: dict[str, Any] = {"state": state, "reason": reason, "lease_token": None, "lease_until": None}
            if state != "paused":
                ended["ended_at"] = now
            if sql.save(conn, row.id, now, mine, sql.b.state.in_(sql.LIVE), **ended, **values):
                asker = Principal(row.principal, "system", scope=row.scope)
                audited(conn, f"batch {state}", asker, row.id, now, reason)

        self._index.transact(work)
        self._archive.events.publish()


def _item(number: int, task: batch_plan.Planned, now: float) -> dict[str, Any]:
    states = {"new": "waiting", "there": "completed", "open": "open"}
    return {
        "batch_id": number, "state": states[task.standing], "study_instance_uid": task.study_instance_uid,
        "target": task.inputs[0].target, "label": task.inputs[0].label, "task_key": task.key,
        "workitem_uid": task.workitem_uid, "previous_uid": task.previous_uid, "updated_at": now,
    }  # fmt: skip


def other_version(row: Row[Any], version: str) -> str:
    """Why a batch cannot go on with this version of its plug-in, and what can be done."""
    return (
        f"it was made for {row.plugin} {row.version}, and {version} is installed here: resume it with version "
        f"{version} to do all of it with that, or make a new batch"
    )


def audited(
    conn: Connection, event: str, principal: Principal, number: int, now: float, detail: str = "",
    outcome: str = "success",
) -> None:  # fmt: skip
    """Note what was done with a batch, in the transaction that does it."""
    words = f"batch {number}{': ' if detail else ''}{detail}"
    audit.record_all(conn, [audit.row(event, principal, outcome, now, detail=words)])
