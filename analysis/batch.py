"""Batches, as people ask for them: a plug-in over all studies of a query, looked at before, followed, paused, ended.

What is asked here becomes rows; `analysis.batch_loop` does what they say.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import Connection, Row

from analysis import batch_plan
from analysis.api import NotAnalysable, Params
from analysis.batch_loop import WITHDRAWN, Parse, audited, other_version
from analysis.batch_models import Batch, Item, NewBatch, Preview
from pacs import uids
from pacs.auth import Principal, Right
from pacs.errors import Conflict, Forbidden, InvalidInput, NotFound
from pacs.index import batches as sql

if TYPE_CHECKING:
    from analysis.registry import Installed, Registry
    from pacs.archive import Archive
    from pacs.dicom.matching import Query

EXAMPLES = 100


class Batches:
    """Batches of one archive, for those who ask for them. Safe from any thread."""

    def __init__(
        self, archive: Archive, registry: Registry, parse: Parse, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._archive = archive
        self._index = archive.index
        self._registry = registry
        self._parse = parse
        self._clock = clock

    def preview(self, principal: Principal, wanted: NewBatch) -> Preview:
        """What such a batch would do now, without doing it. Raises InvalidInput and Forbidden."""
        installed, params, query = self._checked(principal, wanted)
        counts: Counter[str] = Counter()
        examples: list[dict[str, str]] = []
        replacing = 0
        studies = batch_plan.studies(self._archive, query, principal)
        for study in studies:
            for task in batch_plan.planned(
                self._archive, installed, params, study, principal, only_changed=wanted.only_changed
            ):
                counts[task.standing] += 1
                if task.standing == "new":
                    replacing += task.previous_uid is not None
                    if len(examples) < EXAMPLES:
                        examples.append({"study_instance_uid": study, "label": task.inputs[0].label})
        estimate = batch_plan.estimate_s(self._archive, installed.id, counts["new"], wanted.rate_per_minute)
        return Preview(
            plugin=installed.id, version=installed.manifest.version, studies=len(studies), tasks=counts.total(),
            to_run=counts["new"], there=counts["there"], open=counts["open"], unchanged=counts["unchanged"],
            replacing=replacing, estimate_s=estimate, examples=examples,
        )  # fmt: skip

    def create(self, principal: Principal, wanted: NewBatch) -> Batch:
        """A new batch, about to be planned. Raises InvalidInput for what no batch can be, and Forbidden."""
        installed, params, _ = self._checked(principal, wanted)
        now = self._clock()
        values = {
            "uid": uids.new(), "state": "planning", "plugin": installed.id, "version": installed.manifest.version,
            "query": wanted.query, "parameters": orjson.dumps(params.model_dump(mode="json")),
            "priority": wanted.priority, "rate_per_minute": wanted.rate_per_minute, "at_once": wanted.at_once,
            "only_changed": int(wanted.only_changed), "principal": principal.name, "scope": principal.scope,
            "reason": "", "created_at": now, "updated_at": now, "next_at": now,
        }  # fmt: skip

        def work(conn: Connection) -> int:
            number = sql.add(conn, values)
            audited(conn, "batch created", principal, number, now, f"plug-in {installed.id}")
            return number

        number = self._index.transact(work)
        self._archive.events.publish()
        return self.one(principal, number)

    def listed(
        self, principal: Principal, state: str | None = None, before: int | None = None, limit: int = 50
    ) -> list[Batch]:
        """Batches that the principal may see, the newest first."""
        with self._index.read() as conn:
            rows = sql.listed(conn, principal.scope, state, before, limit)
            counts = sql.counts(conn, [row.id for row in rows])
        return [self._told(principal, row, counts[row.id]) for row in rows]

    def one(self, principal: Principal, number: int) -> Batch:
        """One of them. Raises NotFound."""
        with self._index.read() as conn:
            row = _visible(conn, principal, number)
            counts = sql.counts(conn, [number])[number]
        return self._told(principal, row, counts)

    def items(
        self, principal: Principal, number: int, state: str | None = None, after: int = 0, limit: int = 100
    ) -> list[Item]:
        """Its tasks in order. Raises NotFound."""
        with self._index.read() as conn:
            _visible(conn, principal, number)
            rows = sql.items(conn, number, *([state] if state else []), after=after, limit=limit)
        return [Item(**{name: row._mapping[name] for name in Item.model_fields}) for row in rows]

    def pause(self, principal: Principal, number: int) -> Batch:
        """Make no more Workitems; those that there are go on. Raises NotFound, Forbidden and Conflict."""
        return self._move(principal, number, "paused", ("planning", "running"), "batch paused")

    def resume(self, principal: Principal, number: int, version: str | None = None) -> Batch:
        """Go on. What failed or was cancelled is tried again.

        A batch is bound to the version of the plug-in that it was made with. With `version`, another one, all of it is
        planned afresh with that, on the studies that were selected then. Raises NotFound, Forbidden for a batch of
        somebody else, InvalidInput for a version that is not installed, and Conflict where nothing is left to do.
        """
        now = self._clock()
        self._may_change(principal, number, "batch resumed")

        def work(conn: Connection) -> list[str]:
            row = _visible(conn, principal, number, lock=True)
            if row.state not in ("paused", "cancelled", "done", "failed"):
                raise Conflict(f"there is nothing to resume: it is {row.state}", about=f"batch {number}")
            there = self._version(row, version)
            if there != row.version:
                return self._afresh(conn, row, there, now)
            again = 0
            if row.state != "paused":
                again = sql.again(conn, number, now, "failed", "canceled", "cancelled")
            unplanned = row.planned < row.studies or (not row.studies and row.state != "done")
            if not (again or unplanned or sql.count(conn, number, "waiting") or row.state == "paused"):
                raise Conflict(f"there is nothing to resume: it is {row.state}", about=f"batch {number}")
            state = "planning" if unplanned else "running"
            sql.save(conn, number, now, state=state, reason="", round=row.round + bool(again), ended_at=None)
            return []

        def noted(conn: Connection) -> list[str]:
            left = work(conn)
            audited(conn, "batch resumed", principal, number, now, f"version {version}" if version else "")
            return left

        for uid in self._index.transact(noted):
            if not self._handed_over(number, uid, now):
                self._archive.worklist.withdraw(uid, WITHDRAWN)
        self._archive.events.publish()
        return self.one(principal, number)

    def _handed_over(self, number: int, workitem_uid: str, now: float) -> bool:
        return self._index.transact(lambda conn: sql.handed_over(conn, number, workitem_uid, now))

    def _version(self, row: Row[Any], version: str | None) -> str:
        """The version to go on with. Raises InvalidInput and Conflict, in words."""
        installed = self._registry.get(row.plugin)
        here = installed.manifest.version if installed is not None else None
        about = f"batch {row.id}"
        if here is None:
            raise Conflict(f"its plug-in {row.plugin} is not installed here", about=about)
        if version is not None and version != here:
            raise InvalidInput(f"version {version} of {row.plugin} is not installed here, but {here}", about=about)
        if version is None and here != row.version:
            raise Conflict(other_version(row, here), about=about)
        return here

    def _afresh(self, conn: Connection, row: Row[Any], version: str, now: float) -> list[str]:
        """Plan all of it again, with another version; UIDs of Workitems of ours for which nobody waits now."""
        installed = self._registry.get(row.plugin)
        assert installed is not None
        try:
            params = installed.params(orjson.loads(row.parameters))
        except NotAnalysable as error:
            raise InvalidInput(f"version {version} does not take its parameters: {error}") from None
        left = [item.workitem_uid for item in sql.items(conn, row.id, "open") if item.made and item.workitem_uid]
        sql.forget_items(conn, row.id)
        sql.save(
            conn, row.id, now, state="planning", reason="", version=version, planned=0, unchanged=0, ended_at=None,
            round=row.round + 1, parameters=orjson.dumps(params.model_dump(mode="json")),
        )  # fmt: skip
        return left

    def cancel(self, principal: Principal, number: int) -> Batch:
        """End it: its Workitems that are not finished are cancelled, too. Raises NotFound, Forbidden and Conflict."""
        self._may_change(principal, number, "batch cancelled")
        with self._index.read() as conn:  # a server that was killed in the middle may have left some
            left = sql.items(conn, number, "waiting", "open", limit=1)
        among = ("planning", "running", "paused", "reporting", *(["cancelled"] if left else []))
        told = self._move(principal, number, "cancelled", among, "batch cancelled")
        now = self._clock()
        with self._index.read() as conn:
            open_items = sql.items(conn, number, "open")
        for item in open_items:
            if item.made and item.workitem_uid and not self._handed_over(number, item.workitem_uid, now):
                self._archive.worklist.withdraw(item.workitem_uid, WITHDRAWN)

        def work(conn: Connection) -> None:
            for item in sql.items(conn, number, "waiting", "open"):
                sql.set_item(conn, item.id, now, state="cancelled", reason="the batch was cancelled")

        self._index.transact(work)
        return told.model_copy(update={"items": self.one(principal, number).items})

    def report(self, principal: Principal, number: int) -> dict[str, Any]:
        """Its report: "table", "changes", "by" and "note". Raises NotFound while there is none."""
        with self._index.read() as conn:
            _visible(conn, principal, number)
            report = sql.report(conn, number)
        if report is None:
            raise NotFound("there is no report yet", about=f"batch {number}")
        found: dict[str, Any] = orjson.loads(report)
        return found

    def _checked(self, principal: Principal, wanted: NewBatch) -> tuple[Installed, Params, Query]:
        principal.require(Right.PROCESS)
        principal.require(Right.QUERY)
        installed = self._registry.get(wanted.plugin)
        if installed is None:
            raise InvalidInput(f"no such plug-in; installed are {', '.join(self._registry.ids)}")
        if wanted.version not in (None, installed.manifest.version):
            raise InvalidInput(f"installed is version {installed.manifest.version} of {installed.id}")
        try:
            params = installed.params(wanted.parameters)
        except NotAnalysable as error:
            raise InvalidInput(str(error)) from None
        return installed, params, self._parse(wanted.query)

    def _may_change(self, principal: Principal, number: int, event: str) -> None:
        """Nothing, or Forbidden for a batch of somebody else, which is audited. Raises NotFound."""
        with self._index.read() as conn:
            row = _visible(conn, principal, number)
        if not _owns(principal, row):
            self._index.transact(
                lambda conn: audited(
                    conn, event, principal, number, self._clock(), f"refused, it is of {row.principal}", "failure"
                )
            )
            raise Forbidden(f"it is of {row.principal}: only who asked for it and administrators may do that")

    def _move(self, principal: Principal, number: int, state: str, among: Sequence[str], event: str) -> Batch:
        now = self._clock()
        self._may_change(principal, number, event)

        def work(conn: Connection) -> None:
            row = _visible(conn, principal, number, lock=True)
            if row.state not in among:
                raise Conflict(f"it is {row.state}", about=f"batch {number}")
            ended = {"ended_at": now} if state == "cancelled" else {}
            sql.save(conn, number, now, state=state, lease_token=None, lease_until=None, **ended)
            audited(conn, event, principal, number, now)

        self._index.transact(work)
        self._archive.events.publish()
        return self.one(principal, number)

    def _told(self, principal: Principal, row: Row[Any], counts: Mapping[str, int]) -> Batch:
        m = row._mapping
        total = sum(counts.values())
        finished = total - counts.get("waiting", 0) - counts.get("open", 0)
        left = total - finished
        progress = finished / total if total else float(row.state == "done")
        if row.studies and row.planned < row.studies:
            progress *= row.planned / row.studies
        live = row.state in (*sql.LIVE, "paused")
        estimate = (
            batch_plan.estimate_s(self._archive, row.plugin, left, row.rate_per_minute) if live and left else None
        )
        own = {
            "parameters": orjson.loads(row.parameters), "only_changed": bool(row.only_changed), "items": dict(counts),
            "progress": round(progress, 4), "estimate_s": estimate, "report": bool(row.has_report),
            "query": row.query if _owns(principal, row) else None, "mine": _owns(principal, row),
        }  # fmt: skip
        return Batch(**{name: m[name] for name in Batch.model_fields if name not in own}, **own)


def _owns(principal: Principal, row: Row[Any]) -> bool:
    """Whether it is the principal's batch, or an administrator asks: who may end it, and read whom it searches for."""
    return principal.name == row.principal or Right.ADMIN in principal.rights


def _visible(conn: Connection, principal: Principal, number: int, *, lock: bool = False) -> Row[Any]:
    row = sql.get(conn, number, lock=lock)
    if row is None or (principal.scope and row.scope != principal.scope):
        raise NotFound("no such batch", about=str(number))
    return row
