"""Who takes which tasks and how much waits, on both databases; and that a claim does not read what waits behind."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import event

from analysis.scaling import Policy, wanted
from pacs import uids
from pacs.auth import SYSTEM
from pacs.dicom import ups_task
from pacs.events import Events
from pacs.index.engine import Index
from pacs.leases import AHEAD
from pacs.server import doctor
from pacs.server.commands.scale import Hook, Scaler
from pacs.settings import Settings
from pacs.tasks import Tasks
from pacs.workforce import GONE_AFTER_S, Attendance, Post, Workforce
from pacs.worklist import Worklist

T0 = 1_800_000_000.0
GPU = Post("box-1", {"bone": "1.0", "count": "1.0"}, "gpu:0", 1)


@pytest.fixture
def worklist(index: Index) -> Worklist:
    return Worklist(index, Events(), max_attempts=2, clock=lambda: T0)


def ask(worklist: Worklist, plugin: str, number: int, now: float = T0, version: str | None = None) -> str:
    attributes = ups_task.build(
        plugin=plugin, title=plugin, label=plugin, parameters=[], patient={}, now=now,
        inputs=[ups_task.References(uids.derived("study", number))],
    )  # fmt: skip
    return worklist.create(attributes, None, SYSTEM, version=version)


def test_queues_tell_what_waits_runs_and_was_given_up(index: Index, worklist: Worklist) -> None:
    workforce = Workforce(index, shared=True)
    assert workforce.queues(T0) == ()
    for number in range(3):
        ask(worklist, "count", number)
    ask(worklist, "bone", 9)
    workforce.attend(GPU, T0)
    claim = worklist.claim(["count"], "w", T0 + 1, 5)
    assert claim is not None
    bone, count = workforce.queues(T0 + 10)
    assert (bone.plugin, bone.waiting, bone.oldest_s, bone.running, bone.dead) == ("bone", 1, 10.0, 0, 0)
    assert (count.waiting, count.running, count.oldest_s, count.posts) == (2, 1, 10.0, (GPU,))
    worklist.reap(T0 + 7)  # its worker was lost: it waits again
    bone, count = workforce.queues(T0 + 10)
    assert (count.waiting, count.running) == (3, 0)
    lost = worklist.claim(["count"], "w", T0 + 20, 5)
    assert lost is not None
    worklist.fail(lost, "broken", T0 + 21)
    bone, count = workforce.queues(T0 + 30)
    assert (count.waiting, count.running, count.dead) == (2, 0, 1)


def test_a_worker_that_leaves_or_falls_silent_is_not_counted(index: Index) -> None:
    workforce = Workforce(index, shared=True)
    workforce.attend(GPU, T0)
    other = Post("box-2", {"count": "1.0"}, "cpu", 2)
    workforce.attend(other, T0 + 20)
    assert workforce.present(T0 + 20) == (GPU, other)
    assert workforce.present(T0 + GONE_AFTER_S + 1) == (other,)  # killed: it says no more that it is there
    workforce.leave("box-2")
    assert workforce.present(T0 + 20) == (GPU,)
    workforce.attend(other, T0 + 100)
    assert workforce.present(T0 + 20) == (GPU, other)
    workforce.attend(other, T0 + 1000)
    assert workforce.present(T0) == (other,), "one that was killed long ago is forgotten"
    workforce.leave("box-2")
    # Without other processes nothing is written, and the workers of this one are known all the same.
    alone = Workforce(index, shared=False)
    alone.attend(other, T0)
    assert alone.present(T0 + 1e6) == (other,)
    assert [queue.posts for queue in alone.queues(T0)] == [(other,)]
    alone.leave("box-2")
    assert workforce.present(T0) == ()


def test_attendance_says_so_until_it_is_closed(index: Index) -> None:
    workforce = Workforce(index, shared=True)
    attendance = Attendance(workforce, lambda: GPU, every_s=0.05)
    assert workforce.present(time.time()) == (GPU,)
    workforce.leave(GPU.name)
    until = time.monotonic() + 60
    while workforce.present(time.time()) != (GPU,):
        assert time.monotonic() < until
        time.sleep(0.01)
    attendance.close()
    assert workforce.present(time.time()) == ()


def test_a_task_is_taken_by_workers_of_the_version_that_it_was_made_for(index: Index, worklist: Worklist) -> None:
    workforce = Workforce(index, shared=True)
    tasks = Tasks(worklist, workforce, clock=lambda: T0 + 9)
    for_any = ask(worklist, "count", 1)
    for_1 = ask(worklist, "count", 2, version="1.0")
    for name in ("box-1", "box-2"):
        workforce.attend(Post(name, {"count": "2.0", "bone": "1.0"}, "cpu", 1), T0 + 1)
    (_, queue) = workforce.queues(T0 + 9)
    why = "it was made for version 1.0 of count, and the workers have 2.0"
    assert (queue.plugin, queue.waiting, queue.stranded, queue.why) == ("count", 2, 1, why)
    assert wanted(queue, 1, 0.0, Policy(per_worker=1, most=9)) == 1, "more workers of 2.0 would not help"
    assert {task.uid: task.waits_for for task in tasks.listed(SYSTEM)} == {for_any: "", for_1: why}
    newer = worklist.claim({"count": "2.0", "bone": "1.0"}, "box-1", T0 + 9, 30)
    assert newer is not None
    assert newer.uid == for_any
    assert worklist.claim({"count": "2.0", "bone": "1.0"}, "box-2", T0 + 9, 30) is None
    older = worklist.claim({"count": "1.0"}, "box-3", T0 + 9, 5)
    assert older is not None
    assert (older.uid, tasks.get(for_1, SYSTEM).waits_for) == (for_1, "")
    worklist.reap(T0 + 20)  # its worker was lost: it is still nothing for the others
    assert worklist.claim({"count": "2.0"}, "box-2", T0 + 25, 30) is None
    assert worklist.claim({"count": "1.0"}, "box-3", T0 + 25, 30) is not None
    for_0 = ask(worklist, "other", 3, version="0.1")
    assert tasks.get(for_0, SYSTEM).waits_for == "no worker takes tasks of other"


def test_a_flood_of_one_plug_in_does_not_silence_another(worklist: Worklist) -> None:
    flood = sorted(ask(worklist, "count", number) for number in range(AHEAD + 6))  # all of one age
    ask(worklist, "bone", 500)
    first = worklist.due_offers(T0, 10)
    assert [offer.plugin for offer in first].count("bone") == 1
    assert [offer.uid for offer in first if offer.plugin == "count"] == flood[:AHEAD]  # the heads of the queue
    assert worklist.due_offers(T0 + 1, 10) == []
    for _ in range(4):
        assert worklist.claim(["count"], "w", T0 + 1, 60) is not None
    assert [offer.uid for offer in worklist.due_offers(T0 + 2, 10)] == flood[AHEAD : AHEAD + 4]


def test_a_claim_reads_the_head_of_the_queue_alone(index: Index, worklist: Worklist) -> None:
    for number in range(40):
        ask(worklist, "count", number)
    statements: list[tuple[str, object]] = []

    def heard(_conn: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        statements.append((statement, parameters))

    from sqlalchemy.engine import Engine

    event.listen(Engine, "before_cursor_execute", heard)
    try:
        assert worklist.claim({"bone": "1.0", "count": "1.0"}, "w", T0 + 1, 60) is not None
    finally:
        event.remove(Engine, "before_cursor_execute", heard)
    asked = [(text, values) for text, values in statements if "AS heads" in text]
    assert len(asked) == 1
    if index.dialect == "sqlite":
        with index.read() as conn:
            plan = conn.exec_driver_sql("EXPLAIN QUERY PLAN " + asked[0][0], asked[0][1])  # type: ignore[arg-type]
            lines = [str(row[3]) for row in plan]
        assert not [line for line in lines if line.startswith("SCAN workitem")], lines
        walks = [line for line in lines if "workitem_claim (state=? AND plugin=? AND needs_version=?)" in line]
        assert len(walks) >= 4, lines  # for each plug-in its own version, and any


def test_a_hook_is_called_with_what_waits_and_what_is_wanted(
    index: Index, worklist: Worklist, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workforce, called = Workforce(index, shared=True), tmp_path / "called"
    for number in range(5):
        ask(worklist, "count", number)
    scaler = Scaler(workforce, ("bone", "count"), Policy(most=3), Hook(f"sh -c 'echo $0 $@ >> {called}'"))
    scaler.step(T0 + 10)
    assert called.read_text() == "count 5 10 2 0\n"
    for name in ("box-1", "box-2"):
        workforce.attend(Post(name, {"count": "1.0"}, "cpu", 1), T0 + 10)
    scaler.step(T0 + 11)
    assert called.read_text() == "count 5 10 2 0\n", "there are as many as are wanted"
    Scaler(workforce, ("count",), Policy(most=3, oldest_s=5), Hook("false")).step(T0 + 12)
    Scaler(workforce, ("count",), Policy(most=3, oldest_s=5), Hook("/no/such/program")).step(T0 + 12)
    assert [record.getMessage() for record in caplog.records if record.name == "m3dicom.scale"] == [
        "the hook ended with status 1", "the hook failed: FileNotFoundError",
    ]  # fmt: skip


def test_the_doctor_tells_of_tasks_that_nobody_takes(index: Index, index_url: str, tmp_path: Path) -> None:
    worklist = Worklist(index, Events())
    ask(worklist, "count", 1, time.time() - 1)
    shared = index.dialect != "sqlite"
    settings = Settings(data=tmp_path, index=index_url if shared else "sqlite", workers=0)
    found = [finding for finding in doctor.tasks(settings) if finding.level == "wrong"]
    assert [finding.said for finding in found] == ["1 tasks of count wait, and no worker takes them"]
    if shared:
        Workforce(index, shared=True).attend(Post("box", {"count": "1.0"}, "cpu", 1), time.time())
    else:
        settings = replace(settings, workers=1)  # the server's own
    assert [finding for finding in doctor.tasks(settings) if finding.level == "wrong"] == []
    if shared:
        ask(worklist, "count", 2, time.time() - 1, version="0.9")
        (finding,) = (finding for finding in doctor.tasks(settings) if finding.level == "wrong")
        assert finding.said.startswith("1 tasks of count wait for a worker that can take them: it was made for version")
