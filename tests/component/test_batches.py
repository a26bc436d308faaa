"""Batches on a real index, with the clock in the test's hand: pace, pause, restart, cancel, and nothing twice."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dicom_data
import pytest
from dicomweb_server import As, over_http
from pydantic import ValidationError
from sqlalchemy import select
from starlette.applications import Starlette
from task_plugins import TARGETS

from analysis.api import Code, Finding, Measurement, Table, TaskResult
from analysis.batch import Batches
from analysis.batch_loop import BatchLoop
from analysis.batch_models import NewBatch
from analysis.batch_report import as_csv, changes, reduced
from analysis.batch_routes import rows
from analysis.registry import Installed, Registry
from analysis.reports_read import metadata
from analysis.trigger import Trigger
from pacs import uids
from pacs.archive import Archive, open_archive
from pacs.auth import ALL_RIGHTS, Principal, Right
from pacs.dicom import ups
from pacs.errors import Conflict, Forbidden, InvalidInput, InvalidQuery, NotFound
from pacs.index import batches as sql
from pacs.index import schema
from pacs.server import cli
from pacs.server.api_mount import mount
from pacs.server.compose import study_query
from pacs.settings import Settings
from pacs.tasks import Tasks
from pacs.worklist import Worklist

ANN = Principal("ann", "token", ALL_RIGHTS)
STUDIES = 6
NOW = 1_800_000_000.0


class Host:
    """An archive with a few CT studies, and batches whose clock is `now`."""

    def __init__(self, folder: Path) -> None:
        self.archive: Archive = open_archive(Settings(data=folder / "data"))
        self.archive = self.archive.with_services(worklist=Worklist(self.archive.index, self.archive.events))
        self.registry = Registry.load(TARGETS)
        self.now = NOW
        for study in range(STUDIES):
            for ds in dicom_data.series(3):
                ds.StudyInstanceUID, ds.SeriesInstanceUID = uids.derived("b", study), uids.derived("b series", study)
                ds.SOPInstanceUID, ds.PatientID = uids.derived("b", study, int(ds.InstanceNumber)), f"B{study}"
                receiving = self.archive.ingest.receive_part10()
                receiving.write(dicom_data.part10(ds))
                self.archive.ingest.store(receiving, principal=ANN)
        self.batches = Batches(self.archive, self.registry, study_query, clock=lambda: self.now)
        self.loop = self.new_loop()
        self.trigger = Trigger(self.archive, self.registry)
        self.tasks = Tasks(self.archive.worklist)

    def new_loop(self) -> BatchLoop:
        return BatchLoop(self.archive, self.registry, study_query, clock=lambda: self.now, step_s=300)

    def steps(self, number: int = 3, loop: BatchLoop | None = None) -> None:
        for _ in range(number):
            (loop or self.loop).step(self.now)

    def rules_look(self) -> int:
        """Let the studies come to rest and the rules of the plug-in look; how many Workitems they made."""
        self.archive.settle.claim_stable(self.now)
        return self.trigger.step(self.now)

    def workitems(self) -> list[dict[str, Any]]:
        return self.archive.worklist.search({}, None, 0, ANN)[0]

    def work(self, number: int = 100) -> int:
        """Complete at most so many Workitems; how many there were."""
        for done in range(number):
            claim = self.archive.worklist.claim(["count"], "w", self.now, 30)
            if claim is None:
                return done
            self.archive.worklist.complete(claim, (), self.now)
        return number

    def finish(self, batch: int) -> None:
        """Steps until it is over; its report is made on a thread."""
        for _ in range(2000):
            self.steps(1)
            if self.batches.one(ANN, batch).state in ("done", "failed"):
                return
            for thread in self.loop._reporting.values():
                thread.join(60)
        raise AssertionError(self.batches.one(ANN, batch))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.loop.close()
    made.trigger.close()
    made.archive.close()


def new(**more: Any) -> NewBatch:
    return NewBatch(**{"plugin": "count", "query": "ModalitiesInStudy=CT", **more})


def test_all_studies_of_a_query_once(host: Host) -> None:
    batch = host.batches.create(ANN, new()).id
    host.steps()
    assert len(host.workitems()) == STUDIES
    assert all(ups.value(each, ups.PRIORITY) == "LOW" for each in host.workitems())
    host.steps()
    assert host.batches.one(ANN, batch).items == {"open": STUDIES}
    assert host.work() == STUDIES
    host.finish(batch)
    told = host.batches.one(ANN, batch)
    assert (told.state, told.items, told.progress) == ("done", {"completed": STUDIES}, 1.0)
    # The same again: everything is there, no Workitem is made.
    again = host.batches.create(ANN, new()).id
    host.finish(again)
    assert host.batches.one(ANN, again).items == {"completed": STUDIES}
    assert len(host.workitems()) == STUDIES
    unchanged = host.batches.create(ANN, new(only_changed=True)).id
    host.finish(unchanged)
    assert host.batches.one(ANN, unchanged).unchanged == STUDIES
    # Other parameters: compared with what was there, but not replacing it.
    other = host.batches.create(ANN, new(parameters={"threshold": 500}, only_changed=True)).id
    host.steps()
    assert len(host.workitems()) == 2 * STUDIES
    assert all(item.previous_uid for item in host.batches.items(ANN, other))
    assert not any(ups.REPLACED_PROCEDURE_STEP_SEQUENCE in each for each in host.workitems())


def test_results_with_other_parameters_are_in_nobodys_way(host: Host) -> None:
    first = host.batches.create(ANN, new()).id
    host.steps()
    host.work()
    host.finish(first)
    made = {item.target: item.workitem_uid for item in host.batches.items(ANN, first)}
    other = host.batches.create(ANN, new(parameters={"threshold": 500})).id
    host.steps()
    host.work()
    host.finish(other)
    *_, late = dicom_data.series(4)
    late.StudyInstanceUID, late.SeriesInstanceUID = uids.derived("b", 0), uids.derived("b series", 0)
    late.SOPInstanceUID, late.PatientID = uids.derived("b", 0, "late"), "B0"
    receiving = host.archive.ingest.receive_part10()
    receiving.write(dicom_data.part10(late))
    host.archive.ingest.store(receiving, principal=ANN)
    assert host.batches.preview(ANN, new()).to_run == 1
    assert host.batches.preview(ANN, new(only_changed=True)).unchanged == STUDIES
    newer = Registry([_with_version(host, "1.1")])
    host.loop.close()
    host.loop = BatchLoop(host.archive, newer, study_query, clock=lambda: host.now, step_s=300)
    anew = Batches(host.archive, newer, study_query, clock=lambda: host.now).create(ANN, new(only_changed=True)).id
    host.steps()
    assert {item.target: item.previous_uid for item in host.batches.items(ANN, anew)} == made
    assert sum(ups.REPLACED_PROCEDURE_STEP_SEQUENCE in each for each in host.workitems()) == STUDIES


def test_a_task_that_two_batches_wait_for_ends_with_the_second(host: Host) -> None:
    first, second = (host.batches.create(ANN, new()).id for _ in range(2))
    host.steps(4)
    assert len(host.workitems()) == STUDIES
    host.batches.cancel(ANN, first)
    host.steps()
    assert host.batches.one(ANN, second).items == {"open": STUDIES}
    assert {ups.value(each, ups.PROCEDURE_STEP_STATE) for each in host.workitems()} == {"SCHEDULED"}
    host.batches.cancel(ANN, second)
    assert {ups.value(each, ups.PROCEDURE_STEP_STATE) for each in host.workitems()} == {"CANCELED"}


def states(host: Host) -> dict[str, list[str]]:
    """The Workitems in each state, the first first."""
    found: dict[str, list[str]] = {}
    for each in sorted(host.archive.worklist.of_plugin("count", uids.derived("b", 0)), key=lambda row: row.created_at):
        found.setdefault(each.state.value, []).append(each.uid)
    return found


def test_what_a_rule_wants_as_well_has_its_priority_and_outlives_the_batch(host: Host) -> None:
    batch = host.batches.create(ANN, new(query=f"StudyInstanceUID={uids.derived('b', 0)}")).id
    host.steps()
    (uid,) = states(host)["SCHEDULED"]
    assert host.rules_look() == STUDIES - 1  # of the first the task is there
    held = host.archive.worklist.retrieve(uid, ANN)
    assert ups.value(held, ups.PRIORITY) == "MEDIUM"
    task = host.tasks.get(uid, ANN)
    assert (task.priority, task.rule) == ("MEDIUM", "count")
    assert host.archive.worklist.search({ups.PRIORITY: "LOW"}, None, 0, ANN)[0] == []
    host.batches.cancel(ANN, batch)
    assert host.batches.one(ANN, batch).items == {"cancelled": 1}
    assert states(host) == {"SCHEDULED": [uid]}
    assert host.work() == STUDIES
    host.batches.resume(ANN, batch)
    host.finish(batch)
    assert host.batches.one(ANN, batch).items == {"completed": 1}
    assert states(host) == {"COMPLETED": [uid]}


def test_what_a_rule_has_made_is_no_batch_s_to_end_but_to_hasten(host: Host) -> None:
    assert host.rules_look() == STUDIES
    batch = host.batches.create(ANN, new(priority="HIGH")).id
    host.steps()
    assert host.batches.one(ANN, batch).items == {"open": STUDIES}
    assert {ups.value(each, ups.PRIORITY) for each in host.workitems()} == {"HIGH"}
    assert len(host.workitems()) == STUDIES
    host.batches.cancel(ANN, batch)
    assert {ups.value(each, ups.PROCEDURE_STEP_STATE) for each in host.workitems()} == {"SCHEDULED"}


@pytest.mark.parametrize("running", [False, True])
def test_a_batch_that_was_cancelled_before_the_rule_looked_leaves_nothing_in_its_way(host: Host, running: bool) -> None:
    batch = host.batches.create(ANN, new(query=f"StudyInstanceUID={uids.derived('b', 0)}")).id
    host.steps()
    claim = host.archive.worklist.claim(["count"], "w", host.now, 30) if running else None
    host.batches.cancel(ANN, batch)
    assert host.rules_look() == STUDIES
    (made,) = states(host)["SCHEDULED"]
    assert host.tasks.get(made, ANN).priority == "MEDIUM"
    if claim is not None:
        with pytest.raises(Conflict):
            host.archive.worklist.complete(claim, (), host.now)
        host.archive.worklist.fail(claim, "stopped", host.now)
    assert len(states(host)["SCHEDULED"]) == 1
    assert host.rules_look() == 0
    host.batches.resume(ANN, batch)
    host.steps()
    assert [item.workitem_uid for item in host.batches.items(ANN, batch)] == [made]
    host.batches.cancel(ANN, batch)
    assert states(host)["SCHEDULED"] == [made]


def test_what_somebody_cancelled_himself_no_rule_makes_again(host: Host) -> None:
    host.batches.create(ANN, new())
    host.steps()
    (uid,) = states(host)["SCHEDULED"]
    host.archive.worklist.request_cancel(uid, "not this one", ANN)
    assert host.rules_look() == 0
    assert states(host) == {"CANCELED": [uid]}


def test_a_batch_ends_no_request_and_follows_one_that_takes_its_place(host: Host) -> None:
    """A person's request is not to be lost with a batch that somebody else cancels."""
    worklist = host.archive.worklist
    batch = host.batches.create(ANN, new(priority="MEDIUM")).id
    host.steps()
    (made,) = states(host)["SCHEDULED"]
    held = worklist.retrieve(made, ANN)
    request = {tag: held[tag] for tag in held if tag not in (ups.SOP_CLASS_UID, ups.SOP_INSTANCE_UID)}
    asked = worklist.create(request, None, EVE)
    assert host.tasks.get(made, ANN).superseded_by == asked
    host.steps()
    assert asked in [item.workitem_uid for item in host.batches.items(ANN, batch, "open")]
    other = host.batches.create(ANN, new(priority="HIGH")).id
    host.steps()
    assert host.tasks.get(asked, ANN).state == "SCHEDULED"
    for each in (batch, other):
        host.batches.cancel(ANN, each)
    assert [each.uid for each in host.tasks.listed(ANN, state="SCHEDULED")] == [asked]


def test_a_rate_is_kept_and_lost_time_is_not_made_up_for(host: Host) -> None:
    batch = host.batches.create(ANN, new(rate_per_minute=60)).id
    host.steps(20)
    assert len(host.workitems()) == 1
    host.now += 1.1
    host.steps(20)
    assert len(host.workitems()) == 2
    host.now += 3600
    host.steps(20)
    assert len(host.workitems()) <= 4
    assert host.batches.one(ANN, batch).items["waiting"] >= STUDIES - 4


def test_at_once(host: Host) -> None:
    host.batches.create(ANN, new(at_once=2))
    host.steps(5)
    assert len(host.workitems()) == 2
    assert host.work(1) == 1
    host.steps(5)
    assert len(host.workitems()) == 3


def test_pause_and_a_restart_lose_nothing(host: Host) -> None:
    batch = host.batches.create(ANN, new(rate_per_minute=60)).id
    host.steps(5)
    host.batches.pause(ANN, batch)
    host.now += 100
    host.steps(5)
    assert len(host.workitems()) == 1
    with pytest.raises(Conflict):
        host.batches.pause(ANN, batch)
    host.batches.resume(ANN, batch)
    # Another server goes on once the lease of the first has run out.
    host.steps(1)
    other = host.new_loop()
    host.steps(3, other)
    made = len(host.workitems())
    host.now += 61
    for _ in range(10):
        host.now += 1
        host.steps(1, other)
    assert len(host.workitems()) == STUDIES > made
    assert len({ups.value(each, ups.SOP_INSTANCE_UID) for each in host.workitems()}) == STUDIES
    other.close()


def test_cancel_ends_its_workitems_and_resume_tries_again(host: Host) -> None:
    batch = host.batches.create(ANN, new(at_once=3)).id
    host.steps(4)
    assert host.work(1) == 1
    host.steps(1)
    told = host.batches.cancel(ANN, batch)
    assert told.state == "cancelled"
    states = [ups.value(each, ups.PROCEDURE_STEP_STATE) for each in host.workitems()]
    assert sorted(states).count("CANCELED") == len(states) - 1
    assert host.batches.one(ANN, batch).items == {"completed": 1, "cancelled": STUDIES - 1}
    host.steps(4)
    assert len(host.workitems()) == len(states)
    host.batches.resume(ANN, batch)
    for _ in range(6):
        host.steps(3)
        host.work()
    host.finish(batch)
    assert host.batches.one(ANN, batch).items == {"completed": STUDIES}
    with pytest.raises(Conflict, match="nothing to resume"):
        host.batches.resume(ANN, batch)


def test_a_cancel_that_was_cut_short_is_asked_for_again(host: Host) -> None:
    batch = host.batches.create(ANN, new()).id
    host.steps()
    assert host.batches.one(ANN, batch).items == {"open": STUDIES}
    ended = {"state": "cancelled", "lease_token": None, "lease_until": None}  # and the server was killed here
    host.archive.index.transact(lambda conn: sql.save(conn, batch, host.now, **ended))
    host.batches.cancel(ANN, batch)
    assert host.batches.one(ANN, batch).items == {"cancelled": STUDIES}
    assert {ups.value(each, ups.PROCEDURE_STEP_STATE) for each in host.workitems()} == {"CANCELED"}
    with pytest.raises(Conflict):
        host.batches.cancel(ANN, batch)


def test_every_batch_has_its_turn(host: Host) -> None:
    """However long one takes: here each is out of time as soon as it begins."""
    loop = BatchLoop(host.archive, host.registry, study_query, clock=lambda: host.now, step_s=0)
    both = [host.batches.create(ANN, new()).id, host.batches.create(ANN, new(query="PatientID=B*")).id]
    host.steps(8, loop)
    assert [host.batches.one(ANN, each).items.get("open") for each in both] == [2, 2]
    loop.close()


def test_a_batch_that_cannot_go_on_ends_and_holds_up_no_other(host: Host) -> None:
    odd, other = (host.batches.create(ANN, new()).id for _ in range(2))
    host.archive.index.transact(lambda conn: sql.save(conn, odd, host.now, parameters=b'{"steps": "none"}'))
    host.steps()
    told = host.batches.one(ANN, odd)
    assert (told.state, "the parameters cannot be used" in told.reason) == ("failed", True)
    assert host.batches.one(ANN, other).items == {"open": STUDIES}
    host.archive.index.transact(lambda conn: sql.save(conn, odd, host.now, state="running", parameters=b"no JSON"))
    host.work()
    host.finish(other)
    assert host.batches.one(ANN, other).items == {"completed": STUDIES}


EVE = Principal("eve", "token", ALL_RIGHTS - {Right.ADMIN})


def test_only_who_asked_and_administrators_end_it_and_read_the_query(host: Host) -> None:
    batch = host.batches.create(EVE, new(query="PatientName=Doe^Jane"))
    assert (batch.query, batch.mine) == ("PatientName=Doe^Jane", True)
    mel = Principal("mel", "token", ALL_RIGHTS - {Right.ADMIN})
    (told,) = host.batches.listed(mel)
    assert (told.query, told.mine, told.principal) == (None, False, "eve")
    for what in (host.batches.pause, host.batches.cancel, host.batches.resume):
        with pytest.raises(Forbidden, match="it is of eve"):
            what(mel, batch.id)
    refused = [each for each in host.archive.audit.query() if each.outcome == "failure"]
    assert {(each.event, each.principal) for each in refused} == {
        ("batch paused", "mel"), ("batch cancelled", "mel"), ("batch resumed", "mel"),
    }  # fmt: skip
    assert not any("Doe" in each.detail for each in host.archive.audit.query())
    assert host.batches.pause(ANN, batch.id).state == "paused"
    assert host.batches.one(ANN, batch.id).query == "PatientName=Doe^Jane"
    assert host.batches.cancel(EVE, batch.id).state == "cancelled"


def test_a_batch_is_bound_to_the_version_that_it_was_made_with(host: Host) -> None:
    with pytest.raises(InvalidInput, match=r"installed is version 1\.0"):
        host.batches.create(ANN, new(version="0.9"))
    batch = host.batches.create(ANN, new(version="1.0", at_once=4)).id
    host.steps(4)
    assert host.work(2) == 2
    newer = Registry([_with_version(host, "1.1")])
    later = Batches(host.archive, newer, study_query, clock=lambda: host.now)
    host.loop.close()
    host.loop = BatchLoop(host.archive, newer, study_query, clock=lambda: host.now, step_s=300)
    host.steps(1)
    told = later.one(ANN, batch)
    assert told.state == "paused"
    assert "was made for count 1.0, and 1.1 is installed here: resume it with version 1.1" in told.reason
    with pytest.raises(Conflict, match=r"resume it with version 1\.1"):
        later.resume(ANN, batch)
    with pytest.raises(InvalidInput, match="not installed here"):
        later.resume(ANN, batch, "2.0")
    assert later.resume(ANN, batch, "1.1").version == "1.1"
    states = [ups.value(each, ups.PROCEDURE_STEP_STATE) for each in host.workitems()]
    assert sorted(states) == ["CANCELED", "CANCELED", "COMPLETED", "COMPLETED"], "nobody waits for the old version"
    for _ in range(4):
        host.steps(3)
        host.work()
    host.finish(batch)
    assert later.one(ANN, batch).items == {"completed": STUDIES}
    table = later.report(ANN, batch)["table"]
    assert len(table["rows"]) == STUDIES
    replaced = [each for each in host.workitems() if ups.REPLACED_PROCEDURE_STEP_SEQUENCE in each]
    assert len(replaced) == 2, "what the older version had done"


def _with_version(host: Host, version: str) -> Installed:
    known = host.registry.get("count")
    assert known is not None
    plugin = type(known.plugin)()
    plugin.manifest = known.manifest.model_copy(update={"version": version})  # type: ignore[misc]
    return Installed(known.target, plugin)


def test_a_batch_is_left_to_the_server_that_has_its_version(host: Host) -> None:
    others = (host.archive, Registry([_with_version(host, "1.1")]), study_query)
    other = BatchLoop(*others, clock=lambda: host.now, step_s=300, patience_s=60)
    batch = host.batches.create(ANN, new(at_once=2)).id
    for _ in range(4):
        host.steps(1, other)
        host.steps(1)
        host.now += 20
    assert host.batches.one(ANN, batch).items == {"open": 2, "waiting": STUDIES - 2}
    host.now += 500
    host.steps(1)
    host.loop.close()  # and nobody else has it
    host.steps(2, other)
    assert host.batches.one(ANN, batch).state == "running"
    host.now += 61
    host.steps(1, other)
    told = host.batches.one(ANN, batch)
    assert (told.state, "1.1 is installed here" in told.reason) == ("paused", True)
    other.close()


def test_a_batch_that_is_resumed_has_one_report(host: Host) -> None:
    batch = host.batches.create(ANN, new()).id
    host.steps()

    def fail_one() -> None:
        claim = host.archive.worklist.claim(["count"], "w", host.now, 30)
        assert claim is not None
        host.archive.worklist.fail(claim, "no bone at all", host.now)

    def filed() -> list[str]:
        with host.archive.index.read() as conn:
            wanted = select(schema.instance.c.sop_instance_uid).where(
                schema.instance.c.sop_class_uid == "1.2.840.10008.5.1.4.1.1.88.22"
            )
            return list(conn.execute(wanted.order_by(schema.instance.c.id)).scalars())

    fail_one()
    host.work()
    host.finish(batch)
    (first,) = filed()
    # It fails again: the report would say the same, and there is no second one.
    host.batches.resume(ANN, batch)
    host.steps(1)
    fail_one()
    host.finish(batch)
    assert filed() == [first]
    assert host.batches.one(ANN, batch).report_instance_uid == first
    # Now it succeeds: the new report names the old one as its predecessor.
    host.batches.resume(ANN, batch)
    host.steps(1)
    assert host.work() == 1
    host.finish(batch)
    second = host.batches.one(ANN, batch).report_instance_uid
    assert second is not None
    assert filed() == [first, second]
    (before,) = metadata(host.archive.index, [second])[second]["0040A360"]["Value"]
    assert before["00081115"]["Value"][0]["00081199"]["Value"][0]["00081155"]["Value"] == [first]
    with pytest.raises(Conflict, match="nothing to resume"):
        host.batches.resume(ANN, batch)


def test_what_was_paused_goes_on_when_only_its_tasks_are_left(host: Host) -> None:
    batch = host.batches.create(ANN, new()).id
    host.steps()
    host.batches.pause(ANN, batch)
    host.work()
    host.batches.resume(ANN, batch)
    host.finish(batch)
    assert host.batches.one(ANN, batch).items == {"completed": STUDIES}


def test_a_query_is_one_line_of_bounded_length() -> None:
    for query in ("PatientID=\0", "PatientID=A\nB", "PatientID=" + "A" * 20_000):
        with pytest.raises(ValidationError, match="query"):
            new(query=query)


def test_what_fails_is_told(host: Host) -> None:
    batch = host.batches.create(ANN, new(query="PatientID=B1")).id
    host.steps()
    claim = host.archive.worklist.claim(["count"], "w", host.now, 30)
    assert claim is not None
    host.archive.worklist.fail(claim, "no bone at all", host.now)
    host.finish(batch)
    assert host.batches.one(ANN, batch).items == {"canceled": 1}
    assert host.batches.report(ANN, batch)["table"]["rows"][0][2:4] == ["failed", "no bone at all"]
    (item,) = host.batches.items(ANN, batch, "canceled")
    assert item.reason == "no bone at all"
    text = as_csv(Table(**host.batches.report(ANN, batch)["table"])).decode()
    assert text.splitlines()[0].startswith("Study,What,State,Reason")


def test_who_may_ask_for_what(host: Host) -> None:
    with pytest.raises(Forbidden):
        host.batches.create(Principal("bob", "token", frozenset({Right.QUERY})), new())
    with pytest.raises(InvalidInput, match="no such plug-in"):
        host.batches.create(ANN, new(plugin="nothing"))
    with pytest.raises(InvalidInput, match="threshold"):
        host.batches.preview(ANN, new(parameters={"threshold": 1e6}))
    for query, words in (
        ("PatientId=B1", "PatientId"), ("PatientID=", "without a value"), ("PatientID=*&StudyID", "without a value"),
        ("PatientID=B1&limit=1", "limit"), ("includefield=all", "includefield"),
    ):  # fmt: skip
        with pytest.raises(InvalidQuery, match=words):
            host.batches.preview(ANN, new(query=query))
    mine = host.batches.create(Principal("eve", "token", ALL_RIGHTS, "ward"), new())
    host.steps()
    assert host.batches.one(ANN, mine.id).items == {}, "studies of another scope are nobody's business"
    with pytest.raises(NotFound):
        host.batches.one(Principal("mel", "token", ALL_RIGHTS, "other"), mine.id)
    with pytest.raises(NotFound, match="no report"):
        host.batches.report(ANN, host.batches.create(ANN, new()).id)


def measured(study: str, value: float | None, version: str = "1") -> TaskResult:
    volume = Measurement(Code("118565006", "SCT", "Volume"), value or 0.0, Code("mL", "UCUM", "milliliter"))
    found = () if value is None else (Finding("1.2", "Air", None, (volume,)),)
    return TaskResult(study, study, "=cmd", "1.3", True, "", version, {}, found, "", ())


def test_old_against_new() -> None:
    new_ones = [measured("1", 4.0, "2"), measured("2", None, "2"), measured("3", 1.0, "2")]
    table = changes(new_ones, [measured("1", 3.5), measured("2", 2.0), None])
    assert [row[0:1] + row[3:] for row in table.rows] == [
        ("1", "Findings", "1", "1", "2", 1, 1, 0),
        ("1", "Volume", "mL", "1", "2", 3.5, 4.0, 0.5),
        ("2", "Findings", "1", "1", "2", 1, 0, -1),
        ("2", "Volume", "mL", "1", "2", 2.0, None, None),
    ]
    assert table.summary == "2 results replace older ones; 2 of them say something else."
    assert "'=cmd" in as_csv(table).decode(), "a spreadsheet must not run what a label says"
    for text in ("=1+1", "+1", "-1", "@x", "\t=1", "\n=1", "\uff1d1"):
        assert next(csv.reader(io.StringIO(as_csv(Table("", (text,), ())).decode(), newline=""))) == [f"'{text}"]


def test_a_reduction_that_fails_is_told_in_words(host: Host) -> None:
    from analysis.batch_report import ReduceFailed, make

    installed = host.registry.get("count")
    assert installed is not None
    with pytest.raises(ReduceFailed, match="AttributeError in the plug-in"):
        reduced(installed, installed.params({}), [measured("1", 2.0)])
    report = make(installed, installed.params({}), [measured("1", 2.0)], [None])
    assert report.by == "default"
    assert report.table.columns[-1] == "Air: Volume [mL]"
    assert report.table.rows[0][-1] == 2.0


def test_the_command_line_says_that_a_reduction_failed(
    host: Host, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = host.registry.get("count")
    assert installed is not None
    monkeypatch.setattr(installed.plugin, "reduce", print, raising=False)  # which its own process does not find
    batch = host.batches.create(ANN, new()).id
    host.steps()
    host.work()
    host.finish(batch)
    data = host.archive.settings.data
    with over_http(As(Starlette(routes=mount(rows(host.batches))))) as address:
        (data / "server.json").write_text(json.dumps({"pid": os.getpid(), "http": address.removeprefix("http://")}))
        assert cli.main(["analyze", "--report", str(batch), "--data", str(data)]) == 0
        table, told = capfdbinary.readouterr()
        assert len(list(csv.reader(io.StringIO(table.decode())))) == 1 + STUDIES
        assert told.decode().startswith("m3dicom: The plug-in's own reduction failed: AttributeError in the plug-in")
        out = data / "report.csv"
        watched = ["analyze", "--show", str(batch), "--watch", "--out", str(out), "--data", str(data)]
        assert cli.main(watched) == 0
        assert out.read_bytes() == table
        assert b"reduction failed" in capfdbinary.readouterr()[1]
        assert cli.main(["analyze", "--changes", str(batch), "--data", str(data)]) == 0
        assert capfdbinary.readouterr()[1] == b""


@pytest.mark.parametrize("cell", [10**30, float("nan"), float("inf"), "a\0b", "\x1b[31m"])
def test_a_table_that_cannot_be_kept_is_a_reduction_that_fails(cell: Any) -> None:
    from analysis.batch_report import ReduceFailed, sound

    kept = Table("Air", ("What", "Value"), (("a \u00e9\nb", 1e30), (None, 2**62)), "In words")
    assert sound(kept) is kept
    with pytest.raises(ReduceFailed, match="of its table"):
        sound(Table("Air", ("What",), ((cell,),)))
