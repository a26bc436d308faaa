"""Tasks from a study's arrival to filed results, and every way in which a task can go wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import dicom_data
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from servers import PostgreSQL
from task_plugins import TARGETS

from analysis import command_guard
from analysis.queue import Dispatcher, LocalQueue
from analysis.registry import Registry
from analysis.routes import describe
from analysis.runner import Runner, sweep
from analysis.trigger import Trigger
from analysis.worker import Worker
from pacs import uids
from pacs.archive import Archive, open_archive
from pacs.auth import SYSTEM, Principal
from pacs.dicom import ups, ups_task
from pacs.settings import Settings
from pacs.worklist import Worklist

USER = Principal("ann", "session")


@contextmanager
def opened(folder: Path, **settings: Any) -> Iterator[Archive]:
    """An archive with a worklist."""
    made = open_archive(Settings(data=folder, stable_after_s=0.0, lease_s=3.0, device="cpu", **settings))
    yield made.with_services(worklist=Worklist(made.index, made.events))
    made.close()


@contextmanager
def working(archive: Archive, registry: Registry) -> Iterator[Worker]:
    """One running worker of all plug-ins."""
    made = Worker(archive, registry, LocalQueue(archive.events), slots=1, name="tests")
    made.start()
    yield made
    made.stop()
    assert made._threads
    assert not any(thread.is_alive() for thread in made._threads)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with opened(tmp_path / "data") as made:
        yield made


@pytest.fixture(scope="module")
def registry() -> Registry:
    loaded = Registry.load(TARGETS)
    assert loaded.broken == ()
    return loaded


@pytest.fixture
def worker(archive: Archive, registry: Registry) -> Iterator[Worker]:
    with working(archive, registry) as made:
        yield made


@pytest.fixture(scope="module")
def hardened(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Iterator[Archive]:
    """One archive, with one worker, that many things go wrong in."""
    with opened(tmp_path_factory.mktemp("hardened") / "data") as made, working(made, registry):
        store(made, dicom_data.series(3))
        yield made


def store(archive: Archive, datasets: Iterable[Dataset], principal: Principal = USER) -> None:
    for ds in datasets:
        receiving = archive.ingest.receive_part10()
        receiving.write(dicom_data.part10(ds))
        archive.ingest.store(receiving, principal=principal)


def settle(archive: Archive, registry: Registry) -> int:
    """Let the studies become stable and the rules see them; how many Workitems were made."""
    archive.settle.claim_stable(time.time() + 1)
    return Trigger(archive, registry).step()


def ask(archive: Archive, plugin: str, *, study: int = 0, number: int = 0, **params: Any) -> str:
    references = [ups_task.References(uids.derived("study", study), uids.derived("series", study, number))]
    written = [ups_task.Parameter(name, name, value) for name, value in params.items()]
    attributes = ups_task.build(
        plugin=plugin, title=plugin, label=plugin, parameters=written, inputs=references, patient={}, now=time.time()
    )
    return archive.worklist.create(attributes, None, USER)


def item(archive: Archive, uid: str) -> dict[str, Any]:
    return archive.worklist.retrieve(uid, SYSTEM)


def state(archive: Archive, uid: str) -> str:
    return str(ups.value(item(archive, uid), ups.PROCEDURE_STEP_STATE))


def ended(archive: Archive, uid: str, timeout_s: float = 60) -> tuple[str, str]:
    """Final state and reason."""
    wait_until(lambda: state(archive, uid) in ("COMPLETED", "CANCELED"), timeout_s)
    return state(archive, uid), ups.progress_of(item(archive, uid))[2]


def wait_until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


def results(archive: Archive, uid: str) -> list[Dataset]:
    found = []
    for references in ups_task.outputs_of(item(archive, uid)):
        for _, sop_instance_uid in references.instances:
            [location] = archive.retrieve.locate(
                SYSTEM, references.study_instance_uid, references.series_instance_uid, sop_instance_uid
            )
            found.append(dcmread(BytesIO(b"".join(archive.retrieve.part10(location)))))
    return found


def all_workitems(archive: Archive) -> list[dict[str, Any]]:
    return archive.worklist.search({}, None, 0, SYSTEM)[0]


# From arrival to results ---------------------------------------------------------------------------------------------


def test_a_study_that_arrives_is_analysed_and_its_results_are_filed(
    archive: Archive, registry: Registry, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    store(archive, dicom_data.series(4))
    assert settle(archive, registry) == 1
    [made] = all_workitems(archive)
    uid = ups.value(made, ups.SOP_INSTANCE_UID)
    assert ups.value(made, ups.LABEL) == "Count: Series 1: Synthetic series (4 images)"
    assert ended(archive, uid) == ("COMPLETED", "")
    assert "computes with numpy" in caplog.text
    seg, sr = results(archive, uid)
    assert (seg.Modality, sr.Modality) == ("SEG", "SR")
    expected = sum(((np.arange(192) * 7 + z) % 4096 - 1024 > 300).sum() for z in range(4))
    assert int(seg.pixel_array.sum()) == expected
    assert seg.PatientID == "SYN-1"
    assert seg.StudyInstanceUID == uids.derived("study", 0)
    done = item(archive, uid)
    performed = Dataset.from_json(done).UnifiedProcedureStepPerformedProcedureSequence[0]
    assert performed.PerformedProcessingParametersSequence[0].NumericValue == 300
    kinds = [(c.kind, c.workitem_uid) for c in archive.changes.after(0, 1000)]
    assert kinds.count(("result", uid)) == 2
    assert kinds.count(("stable", None)) == 1
    # Results are not news for the rules: nothing more is made, however often one looks.
    assert settle(archive, registry) == 0
    assert len(all_workitems(archive)) == 1


def test_rules_make_nothing_twice_and_a_late_instance_supersedes(
    archive: Archive, registry: Registry, worker: Worker
) -> None:
    store(archive, dicom_data.series(3))
    assert settle(archive, registry) == 1
    first = ups.value(all_workitems(archive)[0], ups.SOP_INSTANCE_UID)
    assert ended(archive, first)[0] == "COMPLETED"
    trigger = Trigger(archive, registry)
    assert trigger.plan(uids.derived("study", 0), SYSTEM, time.time()) == []
    store(archive, list(dicom_data.series(4))[3:])
    assert settle(archive, registry) == 1
    second = next(u for w in all_workitems(archive) if (u := ups.value(w, ups.SOP_INSTANCE_UID)) != first)
    assert ended(archive, second)[0] == "COMPLETED"
    replaced = Dataset.from_json(item(archive, second)).ReplacedProcedureStepSequence[0]
    assert replaced.ReferencedSOPInstanceUID == first
    uids_of = [{ds.SOPInstanceUID for ds in results(archive, uid)} for uid in (first, second)]
    assert not uids_of[0] & uids_of[1]


def test_a_superseded_task_that_has_not_begun_is_cancelled(archive: Archive, registry: Registry) -> None:
    store(archive, dicom_data.series(3))
    settle(archive, registry)
    first = ups.value(all_workitems(archive)[0], ups.SOP_INSTANCE_UID)
    store(archive, list(dicom_data.series(4))[3:])
    settle(archive, registry)
    outcome, reason = ended(archive, first)
    assert outcome == "CANCELED"
    assert reason.startswith("superseded by 2.25.")


def test_rules_look_at_attributes(archive: Archive, registry: Registry, worker: Worker) -> None:
    mammograms = [dicom_data.mammogram(n, SeriesInstanceUID=uids.derived("mg", n)) for n in range(2)]
    store(archive, mammograms)
    assert settle(archive, registry) == 2
    for each in all_workitems(archive):
        assert ups_task.plugin_of(each) == "views"
        assert len(ups_task.references_of(each)[0].instances) == 1
        assert ended(archive, ups.value(each, ups.SOP_INSTANCE_UID)) == ("COMPLETED", "")
    store(archive, dicom_data.series(2, study=5))  # two slices: fewer than the plug-in asks for
    store(archive, dicom_data.series(3, study=6, Modality="MR"))
    assert settle(archive, registry) == 0


def test_the_same_task_again_keeps_what_is_filed(archive: Archive, registry: Registry, worker: Worker) -> None:
    store(archive, dicom_data.series(3))
    first = ask(archive, "count", threshold=100)
    assert ended(archive, first)[0] == "COMPLETED"
    made = [(ds.SOPInstanceUID, ds.ContentTime) for ds in results(archive, first)]
    time.sleep(1.1)  # another second, so that the bytes of a second run differ
    second = ask(archive, "count", threshold=100)
    assert ended(archive, second) == ("COMPLETED", "")
    assert [(ds.SOPInstanceUID, ds.ContentTime) for ds in results(archive, second)] == made
    other = ask(archive, "count", threshold=101)
    assert ended(archive, other)[0] == "COMPLETED"
    assert {ds.SOPInstanceUID for ds in results(archive, other)}.isdisjoint(uid for uid, _ in made)


def test_results_inherit_the_access_scope_of_their_study(archive: Archive, registry: Registry, worker: Worker) -> None:
    here, there = replace(USER, scope="here"), replace(USER, scope="there")
    store(archive, dicom_data.series(3), here)
    settle(archive, registry)
    [made] = archive.worklist.search({}, None, 0, here)[0]
    assert ended(archive, ups.value(made, ups.SOP_INSTANCE_UID))[0] == "COMPLETED"
    assert archive.worklist.search({}, None, 0, there) == ([], 0)
    assert describe(archive, registry, uids.derived("study", 0), there)[0]["matches"] == []
    assert len(describe(archive, registry, uids.derived("study", 0), here)[0]["matches"]) == 1


def test_plugins_are_described_with_what_they_take_of_a_study(archive: Archive, registry: Registry) -> None:
    store(archive, dicom_data.series(3))
    store(archive, [dicom_data.mammogram(50, StudyInstanceUID=uids.derived("study", 0), SeriesInstanceUID="1.2.9")])
    count, odd, _, views = describe(archive, registry, uids.derived("study", 0), USER)
    assert count["schema"]["properties"]["threshold"]["unit"] == "[hnsf'U]"
    [match] = count["matches"]
    assert match == {
        "input": "series", "label": "Series 1: Synthetic series (3 images)",
        "study_instance_uid": uids.derived("study", 0), "series_instance_uid": uids.derived("series", 0, 0),
    }  # fmt: skip
    assert odd["auto"] is False
    assert len(odd["matches"]) == 2
    assert views["matches"][0]["sop_instance_uids"] == [uids.derived("instance", 50)]
    assert views["matches"][0]["label"] == "Series 1, image 51 (L CC)"
    assert "matches" not in describe(archive, registry, None, USER)[0]


# How tasks end -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("refuse", "the series shows no bone at all"),
        ("babble", ("half ?, nothing  " + "." * 5000)[:1024]),
        ("crash", "The analysis stopped unexpectedly (SIGSEGV)."),
        ("exit", "The analysis stopped unexpectedly (status 3)."),
        ("raise", "The analysis failed because of an internal error (KeyError)."),
        ("undeclared", "The manifest declares no output named 'other'."),
        ("eat", "The analysis needed more than 500 MB of memory and was stopped."),
        ("spin", "The analysis took longer than 4 s and was stopped."),
        ("spin-in-c", "The analysis took longer than 4 s and was stopped."),
    ],
)
def test_what_goes_wrong_is_said_in_words(
    hardened: Archive, what: str, words: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    uid = ask(hardened, "odd" if what.startswith("spin") else "patient", what=what)
    assert ended(hardened, uid) == ("CANCELED", words)
    assert "Exception in thread" not in capfd.readouterr().err
    assert "Synthetic^Sam" not in caplog.text
    # The worker goes on, with the same or a new process.
    assert ended(hardened, ask(hardened, "count"))[0] == "COMPLETED"


def test_requests_that_cannot_be_done_are_refused_in_words(archive: Archive, worker: Worker) -> None:
    store(archive, dicom_data.series(3))
    store(archive, [dicom_data.image(9, ImagePositionPatient=[0, 0, 1], SeriesInstanceUID=uids.derived("series", 0, 0),
                                     SOPInstanceUID="1.2.3.9")])  # fmt: skip
    reasons = {
        "not \\(or no longer\\) stored": ask(archive, "count", study=77),
        "threshold": ask(archive, "count", threshold=99999),
        "several phases": ask(archive, "count"),
    }
    for words, uid in reasons.items():
        outcome, reason = ended(archive, uid)
        assert outcome == "CANCELED"
        assert re.search(words, reason), reason


def test_progress_is_visible_while_it_runs(archive: Archive, worker: Worker) -> None:
    store(archive, dicom_data.series(3))
    uid = ask(archive, "patient", what="slow")
    seen: list[int] = []

    def look() -> bool:
        percent, message, _ = ups.progress_of(item(archive, uid))
        if message.startswith("step") and percent not in seen:
            seen.append(percent)
        return state(archive, uid) == "COMPLETED"

    wait_until(look)
    assert len(seen) >= 3
    assert seen == sorted(seen)


@pytest.mark.parametrize("what", ["slow", "deaf", "spin", "spin-in-c"])
def test_cancelling_stops_any_code(hardened: Archive, what: str) -> None:
    archive = hardened
    uid = ask(archive, "patient", what=what)
    wait_until(lambda: state(archive, uid) == "IN PROGRESS")
    wait_until(lambda: ups.progress_of(item(archive, uid))[0] >= 9)
    before = [pid for pid in command_guard.descendants(os.getpid()) if _is_child(pid)]
    assert before
    archive.worklist.request_cancel(uid, "wrong series", USER)
    assert ended(archive, uid) == ("CANCELED", "wrong series")
    wait_until(lambda: not all(map(_runs, before)), 60)  # those of other plug-ins stay warm


def _is_child(pid: int) -> bool:
    try:
        return b"analysis.child" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_worker_takes_only_tasks_of_its_plug_ins(archive: Archive, registry: Registry) -> None:
    store(archive, dicom_data.series(3))
    other, own = ask(archive, "count"), ask(archive, "odd", what="refuse")
    worker = Worker(archive, registry, LocalQueue(archive.events), plugins=("odd",), slots=1)
    assert worker.post.plugins == {"odd": "1.0"}
    worker.start()
    assert ended(archive, own) == ("CANCELED", "the series shows no bone at all")
    assert worker.metrics.counts() == {"refused": 1}
    worker.stop()
    assert state(archive, other) == "SCHEDULED"


def test_a_worker_that_stops_hands_its_task_back(archive: Archive, registry: Registry) -> None:
    store(archive, dicom_data.series(3))
    first = Worker(archive, registry, LocalQueue(archive.events), slots=1)
    first.start()
    uid = ask(archive, "count", pause_s=30)
    wait_until(lambda: ups.progress_of(item(archive, uid))[1] == "counting")
    began = time.monotonic()
    first.stop()
    assert time.monotonic() - began < 4
    assert state(archive, uid) == "IN PROGRESS"
    claim = archive.worklist.claim(["count"], "next", time.time(), 3)
    assert claim is not None
    assert (claim.uid, claim.attempt) == (uid, 1)


def test_a_lost_lease_files_nothing_and_the_next_worker_does(archive: Archive, registry: Registry) -> None:
    store(archive, dicom_data.series(3))
    uid = ask(archive, "count", pause_s=1.5)
    slow = archive.worklist.claim(["count"], "slow", time.time(), 60)
    assert slow is not None
    runner = Runner(archive, registry)
    running = threading.Thread(target=lambda: (runner.run(slow, threading.Event()), runner.close()))
    running.start()
    wait_until(lambda: ups.progress_of(item(archive, uid))[1] == "counting")
    archive.worklist.release(slow, time.time())  # as the reaper does with one that is not heard of
    running.join()
    assert state(archive, uid) == "IN PROGRESS"
    assert [c.kind for c in archive.changes.after(0, 1000)].count("result") == 0
    Dispatcher(archive, LocalQueue(archive.events)).step(time.time())
    again = Worker(archive, registry, LocalQueue(archive.events), slots=1)
    again.start()
    assert ended(archive, uid)[0] == "COMPLETED"
    again.stop()
    assert [c.kind for c in archive.changes.after(0, 1000)].count("result") == 2


def test_a_task_for_a_plug_in_that_is_not_there_ends_with_that_reason(archive: Archive, registry: Registry) -> None:
    store(archive, dicom_data.series(3))
    uid = ask(archive, "nope")
    queue = LocalQueue(archive.events)
    Dispatcher(archive, queue).step(time.time())  # another process may know it
    assert state(archive, uid) == "SCHEDULED"
    Dispatcher(archive, queue, known=registry.ids, again_after_s=0).step(time.time() + 1)
    assert ended(archive, uid) == ("CANCELED", "no plug-in named nope is installed here")


def test_warm_processes_are_used_again_and_leave_nothing_behind(archive: Archive, registry: Registry) -> None:
    store(archive, dicom_data.series(3))
    runner = Runner(archive, registry)
    pids = []
    for threshold in (1, 2):
        ask(archive, "count", threshold=threshold)
        claim = archive.worklist.claim(["count"], "w", time.time(), 60)
        assert claim is not None
        runner.run(claim, threading.Event())
        pids.append(runner._children["task_plugins:Count", "cpu"].pid)
    assert pids[0] == pids[1]
    assert list((archive.settings.data / "scratch").rglob("*.dcm")) == []
    runner.close()
    assert not Path(f"/proc/{pids[0]}").exists()


def test_what_a_killed_worker_left_is_swept_also_where_the_next_has_its_number(tmp_path: Path) -> None:
    for number in (os.getpid(), 1 << 30, 1):  # ours as in a container that starts again, nobody's, somebody else's
        (tmp_path / str(number) / "task-1").mkdir(parents=True)
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    (tmp_path / str(os.getpid()) / "task-2").mkdir(parents=True)
    sweep(tmp_path)
    assert (tmp_path / str(os.getpid()) / "task-2").exists(), "of a worker of this process that is at work"


WORKER = """
import sys, threading
from pathlib import Path
from task_plugins import TARGETS
from analysis.queue import LocalQueue
from analysis.registry import Registry
from analysis.worker import Worker
from pacs.archive import open_archive
from pacs.settings import Settings
from pacs.worklist import Worklist

archive = open_archive(Settings(data=Path(sys.argv[1]), index=sys.argv[2], lease_s=2.0, device="cpu"))
archive = archive.with_services(worklist=Worklist(archive.index, archive.events))
Worker(archive, Registry.load(TARGETS), LocalQueue(archive.events), slots=1, name=sys.argv[3]).start()
threading.Event().wait()
"""


def test_a_worker_process_killed_in_the_middle_costs_time_and_nothing_else(
    tmp_path: Path, postgresql_cluster: PostgreSQL
) -> None:
    url = postgresql_cluster.new_database()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}

    def start(name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", WORKER, str(tmp_path / "data"), url, name]
        return subprocess.Popen(command, env=environment)

    with opened(tmp_path / "data", index=url) as archive:
        dispatcher = Dispatcher(archive, LocalQueue(archive.events))
        store(archive, dicom_data.series(3))
        uid = ask(archive, "count", pause_s=1.0)
        for attempt in (1, 2):
            process = start(f"victim-{attempt}")
            wait_until(lambda: ups.progress_of(item(archive, uid))[1] == "counting", 60)
            [child] = descendants(process.pid)
            process.kill()
            process.wait()
            wait_until(lambda child=child: not Path(f"/proc/{child}").exists(), 5)  # no orphan goes on computing
            wait_until(lambda: bool(archive.worklist.reap(time.time())), 20)
            assert state(archive, uid) == "IN PROGRESS"
        last = start("survivor")
        until = time.monotonic() + 60
        while state(archive, uid) != "COMPLETED":
            assert time.monotonic() < until
            dispatcher.step(time.time())
            time.sleep(0.1)
        last.kill()
        last.wait()
        assert [c.kind for c in archive.changes.after(0, 1000)].count("result") == 2
        assert len(results(archive, uid)) == 2
        step = Dataset.from_json(item(archive, uid)).UnifiedProcedureStepPerformedProcedureSequence[0]
        assert step.PerformedStationNameCodeSequence[0].CodeMeaning == "survivor-0"


def descendants(parent: int) -> list[int]:
    """The processes that `parent` has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(folder.name))
    return found
