"""Rules from arrival to Workitem: what they wait for, what comes late, earlier studies, results that others take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import dicom_data
import pytest
from pydicom import DataElement, Dataset, dcmread
from servers import PostgreSQL
from sqlalchemy import Connection, update
from task_plugins import BUILDING, TARGETS

from analysis import plans, trigger
from analysis.api import Context, Manifest, Params
from analysis.matching import Candidate, candidates
from analysis.prior_sources import Earlier
from analysis.priors import Priors
from analysis.queue import Dispatcher, LocalQueue
from analysis.registry import Installed, Registry
from analysis.requests import Requests
from analysis.trigger import Trigger
from analysis.worker import Worker
from pacs import uids
from pacs.archive import Archive, open_archive
from pacs.auth import SYSTEM, Principal
from pacs.dicom import ups, ups_task
from pacs.errors import OutOfResources, PeerUnreachable, Unavailable
from pacs.index import rule_waits, schema
from pacs.settings import AE, Rule, Settings
from pacs.tasks import Task, Tasks
from pacs.workforce import Post, Workforce
from pacs.worklist import Worklist

USER = Principal("ann", "session")
STUDY = uids.derived("study", 0)


@pytest.fixture(scope="module")
def registry() -> Registry:
    loaded = Registry.load({**TARGETS, **BUILDING})
    assert loaded.broken == ()
    return loaded


class Place:
    """An archive with rules, whose clock tests move: `now` is ahead of the arrivals by what it says."""

    def __init__(self, archive: Archive, registry: Registry, priors: Priors | None = None) -> None:
        self.archive = archive
        self.registry = registry
        self.trigger = Trigger(archive, registry, priors=priors)
        self.tasks = Tasks(archive.worklist)

    def store(self, datasets: Iterable[Dataset], source_ae: str = "", principal: Principal = USER) -> None:
        for ds in datasets:
            receiving = self.archive.ingest.receive_part10()
            receiving.source_ae = source_ae
            receiving.write(dicom_data.part10(ds))
            self.archive.ingest.store(receiving, principal=principal)

    def settle(self, ahead_s: float = 1.0) -> int:
        """Let the studies come to rest and the rules look, `ahead_s` from now; how many Workitems were made."""
        self.archive.settle.claim_stable(time.time() + 1)
        return self.trigger.step(time.time() + ahead_s)

    def all(self) -> list[Task]:
        return sorted(self.tasks.listed(SYSTEM), key=lambda task: task.created_at)

    def waits(self) -> list[rule_waits.Wait]:
        with self.archive.index.read() as conn:
            return rule_waits.listed(conn, "")

    def comments(self, task: Task) -> str:
        return str(ups.value(self.archive.worklist.retrieve(task.uid, SYSTEM), ups.COMMENTS) or "")

    def given(self, task: Task) -> list[ups_task.References]:
        return list(ups_task.references_of(self.archive.worklist.retrieve(task.uid, SYSTEM)))

    def done(self, count: int) -> list[Task]:
        """All tasks, once so many of them are in their final state; the rules look on meanwhile."""
        until = time.monotonic() + 60
        while len([task for task in self.all() if task.ended is not None]) < count:
            assert time.monotonic() < until, [(task.state, task.reason) for task in self.all()]
            self.trigger.step(time.time() + 1)
            time.sleep(0.05)
        return self.all()

    def results(self, uid: str) -> list[Dataset]:
        found = []
        for references in ups_task.outputs_of(self.archive.worklist.retrieve(uid, SYSTEM)):
            for location in self.archive.retrieve.locate(
                SYSTEM, references.study_instance_uid, references.series_instance_uid
            ):
                found.append(dcmread(BytesIO(b"".join(self.archive.retrieve.part10(location)))))
        return found


Opened = Callable[..., Any]


@pytest.fixture
def opened(tmp_path: Path, registry: Registry) -> Opened:
    @contextmanager
    def open_place(*configured: Rule, work: bool = False, index: str = "sqlite", **more: Any) -> Iterator[Place]:
        settings = Settings(
            data=tmp_path / "data", stable_after_s=0.0, lease_s=3.0, device="cpu", rules=configured, index=index
        )
        priors, plugins = more.pop("priors", None), more.pop("registry", registry)
        archive = open_archive(replace(settings, **more))
        archive = archive.with_services(worklist=Worklist(archive.index, archive.events))
        worker = Worker(archive, plugins, LocalQueue(archive.events), slots=1, name="tests")
        place = Place(archive, plugins, None if priors is None else priors(archive))
        try:
            if work:
                worker.start()
            yield place
        finally:
            worker.stop()
            place.trigger.close()
            archive.close()

    return open_place


@pytest.fixture(params=["sqlite", "postgresql"])
def index(request: pytest.FixtureRequest) -> str:
    """Each kind of index."""
    if request.param == "sqlite":
        return "sqlite"
    cluster: PostgreSQL = request.getfixturevalue("postgresql_cluster")
    return cluster.new_database()


def slices(count: int, first: int = 0, **attributes: Any) -> list[Dataset]:
    return list(dicom_data.series(count, **attributes))[first:]


ALONE = (Rule("no views", plugin="views", run=False), Rule("no comparison", plugin="compare", run=False))
"""Leaves the plug-in "count" to the test."""


# What is taken -------------------------------------------------------------------------------------------------------


def test_a_rule_names_what_it_takes_with_parameters_and_priority(opened: Opened) -> None:
    rule = Rule(
        "thin", plugin="count", when=("SliceThickness <= 1.5", "SeriesDescription like *series* or Modality = PT"),
        sources=("CT1",), parameters=("threshold = 400",), priority="HIGH",
    )  # fmt: skip
    with opened(rule, *ALONE) as place:
        place.store(slices(3), source_ae="CT1")
        place.store(slices(3, study=1, SliceThickness=5), source_ae="CT1")
        place.store(slices(3, study=2), source_ae="CT2")
        assert place.settle() == 1
        [task] = place.all()
        assert (task.study_instance_uid, task.rule, task.priority) == (STUDY, "thin", "HIGH")
        asked = place.archive.worklist.retrieve(task.uid, SYSTEM)
        assert ups_task.parameters_of(asked) == {"threshold": 400, "pause_s": 0}
        assert task.version == "1.0"


def test_a_rule_of_one_access_scope(opened: Opened) -> None:
    with opened(Rule("here", plugin="count", scopes=("here",)), *ALONE) as place:
        place.store(slices(3), principal=replace(USER, scope="here"))
        place.store(slices(3, study=1), principal=replace(USER, scope="there"))
        assert place.settle() == 1
        assert [task.study_instance_uid for task in place.all()] == [STUDY]


def test_two_rules_of_a_plugin_do_not_supersede_one_another(opened: Opened) -> None:
    soft = Rule("soft", plugin="count", parameters=("threshold = 40",))
    with opened(Rule("bone", plugin="count"), soft, *ALONE) as place:
        place.store(slices(3))
        assert place.settle() == 2
        assert {(task.rule, task.state) for task in place.all()} == {("bone", "SCHEDULED"), ("soft", "SCHEDULED")}
        place.store(slices(4, first=3))
        assert place.settle() == 2
        ended = {(task.rule, task.ended) for task in place.all()}
        assert ended == {("bone", "superseded"), ("bone", None), ("soft", "superseded"), ("soft", None)}


# What is waited for --------------------------------------------------------------------------------------------------


def test_quiet_time_of_a_rule_is_waited_for_also_across_a_restart(opened: Opened, index: str) -> None:
    rule = Rule("calm", plugin="count", quiet_s=300)
    with opened(rule, *ALONE, index=index) as place:
        place.store(slices(3))
        assert place.settle() == 0
        [wait] = place.waits()
        assert wait.why == "nothing new has to come for 300 s"
        assert wait.due_at == pytest.approx(time.time() + 300, abs=60)
    with opened(rule, *ALONE, index=index) as place:
        assert place.trigger.step(time.time() + 200) == 0
        assert place.trigger.step(time.time() + 301) == 1
        assert place.waits() == []
        assert place.trigger.step(time.time() + 400) == 0


def test_what_comes_while_a_rule_waits_makes_it_wait_anew(opened: Opened) -> None:
    with opened(Rule("calm", plugin="count", quiet_s=300), *ALONE) as place:
        place.store(slices(3))
        assert place.settle() == 0
        place.store(slices(4, first=3))
        assert place.trigger.step(time.time() + 301) == 0  # not yet at rest
        assert place.waits() == []
        assert place.settle() == 0
        assert place.settle(301) == 1
        assert len(place.given(place.all()[0])[0].instances) == 4


def test_expected_counts_are_waited_for_and_said_where_they_do_not_come(opened: Opened, index: str) -> None:
    with opened(Rule("whole", plugin="count", expect=("5",), wait_s=600), *ALONE, index=index) as place:
        place.store(slices(3))
        assert place.settle() == 0
        [wait] = place.waits()
        assert wait.why == "3 of 5 instances are here"
        place.store(slices(5, first=3))
        assert place.settle() == 1
        assert place.waits() == []
        [whole] = place.all()
        assert place.comments(whole) == ""
        place.store(slices(4, study=1))
        assert place.settle() == 0
        assert place.settle(601) == 1
        short = place.all()[-1]
        assert place.comments(short) == "4 of 5 instances are here; nothing more came for 600 s"
        assert len(place.given(short)[0].instances) == 4


@pytest.mark.parametrize(
    ("expect", "attributes", "why"),
    [
        ("ImagesInAcquisition", {"ImagesInAcquisition": 4, "AcquisitionNumber": 2}, "3 of 4 images of acquisition 2"),
        ("NumberOfSeriesRelatedInstances", {"NumberOfSeriesRelatedInstances": 4}, "3 of 4 instances of the series"),
        ("NumberOfStudyRelatedInstances", {"NumberOfStudyRelatedInstances": 4}, "3 of 4 instances of the study"),
        ("NumberOfStudyRelatedSeries", {"NumberOfStudyRelatedSeries": 2}, "1 of 2 series"),
        ("4 of ImageType contains AXIAL", {}, "3 of 4 instances with ImageType contains AXIAL"),
    ],
)
def test_counts_that_the_instances_tell(opened: Opened, expect: str, attributes: dict[str, Any], why: str) -> None:
    with opened(Rule("whole", plugin="count", expect=(expect,)), *ALONE) as place:
        place.store(slices(3, **attributes))
        assert place.settle() == 0
        assert place.waits()[0].why == f"{why} are here"
        if expect == "NumberOfStudyRelatedSeries":
            place.store(slices(1, number=1, Modality="MR", **attributes))
        place.store(slices(4, first=3, **attributes))
        assert place.settle() == 1
        assert place.waits() == []


def test_four_views_of_a_mammogram(opened: Opened) -> None:
    four = ("2 of ViewPosition = CC", "2 of ViewPosition = MLO")
    with opened(Rule("four views", plugin="views", expect=four), Rule("no", plugin="compare", run=False)) as place:
        views = [("L", "CC"), ("R", "CC"), ("L", "MLO"), ("R", "MLO")]
        images = [
            dicom_data.mammogram(n, ImageLaterality=side, ViewPosition=view, SeriesInstanceUID=uids.derived("mg", n))
            for n, (side, view) in enumerate(views)
        ]
        place.store(images[:3])
        assert place.settle() == 0
        assert place.waits()[0].why == "1 of 2 instances with ViewPosition = MLO are here"
        place.store(images[3:])
        assert place.settle() == 4


def test_what_comes_late_is_left_alone_where_the_rule_says_so(opened: Opened) -> None:
    with opened(Rule("once", plugin="count", late=False), *ALONE) as place:
        place.store(slices(3))
        assert place.settle() == 1
        place.store(slices(4, first=3))
        assert place.settle() == 0


def test_late_images_reopen_an_analysis_and_its_results_are_superseded(opened: Opened) -> None:
    with opened(Rule("count", plugin="count"), *ALONE, Rule("no", plugin="review", run=False), work=True) as place:
        place.store(slices(3))
        place.settle()
        [first] = place.done(1)
        assert (first.ended, first.superseded_by) == ("completed", None)
        place.store(slices(4, first=3))
        place.settle()
        old, new = place.done(2)
        assert old.uid == first.uid
        assert (old.ended, old.superseded_by, new.ended) == ("completed", new.uid, "completed")
        assert ups.progress_of(place.archive.worklist.retrieve(old.uid, SYSTEM))[1] == f"superseded by {new.uid}"
        assert len(place.results(old.uid)) == len(place.results(new.uid)) == 2  # the old ones are still there
        replaced = ups.items(place.archive.worklist.retrieve(new.uid, SYSTEM), ups.REPLACED_PROCEDURE_STEP_SEQUENCE)
        assert [ups.value(each, ups.REFERENCED_SOP_INSTANCE_UID) for each in replaced] == [old.uid]


def test_what_was_asked_for_with_other_parameters_is_not_superseded_by_a_rule(opened: Opened) -> None:
    with opened(Rule("count", plugin="count"), *ALONE) as place:
        place.store(slices(3))
        made = {}
        for threshold in (300, 400):
            attributes = ups_task.build(
                plugin="count", title="Count", label="Count", patient={}, now=time.time(), priority="LOW",
                parameters=[ups_task.Parameter("threshold", "T", threshold), ups_task.Parameter("pause_s", "P", 0)],
                inputs=[ups_task.References(STUDY, uids.derived("series", 0, 0))],
            )  # fmt: skip
            made[threshold] = place.archive.worklist.create(attributes, None, USER, task=f"batch {threshold}")
        assert place.settle() == 1
        assert place.tasks.get(made[300], SYSTEM).ended == "superseded"
        assert place.tasks.get(made[400], SYSTEM).state == "SCHEDULED"


def test_late_images_stop_a_task_that_runs_on_the_old_ones(opened: Opened) -> None:
    pausing = Rule("count", plugin="count", parameters=("pause_s = 600",))
    with opened(pausing, *ALONE, work=True) as place:
        place.store(slices(3))
        place.settle()
        until = time.monotonic() + 60
        while place.all()[0].message != "counting":
            assert time.monotonic() < until
            time.sleep(0.05)
        place.store(slices(4, first=3))
        assert place.settle() == 1
        old, new = place.done(1)
        assert (old.state, old.ended, old.superseded_by) == ("CANCELED", "superseded", new.uid)
        assert place.results(old.uid) == []
        place.archive.worklist.request_cancel(new.uid, "enough", SYSTEM)
        place.done(2)


def test_a_newer_version_of_a_plugin_supersedes_older_results(opened: Opened) -> None:
    rules = (*ALONE, Rule("no", plugin="review", run=False))
    with opened(*rules, work=True) as place:
        place.store(slices(3))
        place.settle()
        [old] = place.done(1)
    newer = Registry.load({**TARGETS, **BUILDING, "count": "task_plugins:NewerCount"})
    with opened(*rules, work=True, registry=newer) as place:
        [made] = place.trigger.plan(STUDY, SYSTEM, time.time())
        place.done(2)
        task, old = place.tasks.get(made, SYSTEM), place.tasks.get(old.uid, SYSTEM)
        assert (task.version, task.ended, old.version) == ("2.0", "completed", "1.0")
        assert (old.state, old.ended, old.superseded_by) == ("COMPLETED", "completed", made)
        replaced = ups.items(place.archive.worklist.retrieve(made, SYSTEM), ups.REPLACED_PROCEDURE_STEP_SEQUENCE)
        assert ups.value(replaced[0], ups.REFERENCED_SOP_INSTANCE_UID) == old.uid
        uids_of = [{ds.SOPInstanceUID for ds in place.results(uid)} for uid in (old.uid, made)]
        assert [len(found) for found in uids_of] == [2, 2]
        assert uids_of[0].isdisjoint(uids_of[1])


def test_a_database_that_is_away_for_a_moment_loses_no_task(
    opened: Opened, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(*ALONE, index=index) as place:
        place.store(slices(3))
        add, failures = place.archive.worklist.add, iter([Unavailable("away"), OutOfResources("full")])

        def failing(*given: Any, **named: Any) -> None:
            for error in failures:
                raise error
            add(*given, **named)

        monkeypatch.setattr(place.archive.worklist, "add", failing)
        for _ in range(2):
            with pytest.raises((Unavailable, OutOfResources)):
                place.settle()
        assert place.settle() == 1


def test_a_rule_does_not_wait_for_the_clock_after_it_was_put_back(opened: Opened, index: str) -> None:
    with opened(Rule("count", plugin="count", expect=("300",), wait_s=300), *ALONE, index=index) as place:
        place.store(slices(3))
        assert place.settle() == 0
        year, t, s = 365 * 86_400.0, rule_waits.t, schema.study.c

        def move(conn: Connection) -> None:  # as if all this had happened with the clock a year ahead
            later = {"since": t.since + year, "due_at": t.due_at + year}
            conn.execute(update(rule_waits.rule_wait).values(**later))
            conn.execute(update(schema.study).values(last_instance_at=s.last_instance_at + year))

        place.archive.index.transact(move)
        assert place.settle(2) == 0
        assert place.settle(250) == 0
        assert place.settle(310) == 1
        assert place.comments(place.all()[0]).startswith("3 of 300 instances are here")


@pytest.mark.parametrize("told", ["9" * 5000, "3e2", "300 "])
def test_what_an_image_says_of_the_number_of_images_stops_nobody(opened: Opened, told: str) -> None:
    rule = Rule("count", plugin="count", expect=("ImagesInAcquisition",), wait_s=300)
    with opened(rule, *ALONE) as place:
        odd = slices(3, study=1)
        for ds in odd:
            ds.add(DataElement(0x00201002, "IS", told, already_converted=True))
        place.store(odd)
        place.store(slices(3))
        assert place.settle() == (1 if told == "300 " else 2)


def test_a_study_that_nobody_can_judge_stops_no_other_one(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = plans.judge

    def stumbling(rule: Any, about: plans.Study, *more: Any) -> plans.Verdict:
        if about.study_instance_uid == STUDY:
            raise RecursionError("deep")
        return judge(rule, about, *more)

    monkeypatch.setattr(plans, "judge", stumbling)
    with opened(*ALONE) as place:
        place.store(slices(3))
        place.store(slices(3, study=1))
        assert place.settle() == 1
        assert place.settle() == 0


def test_a_task_of_somebody_else_that_names_no_study_stops_nobody(opened: Opened) -> None:
    with opened(*ALONE) as place:
        place.store(slices(3))
        worklist, transaction = place.archive.worklist, uids.new()
        asked = ups_task.build(
            plugin="count", title="Count", label="Count", parameters=[], inputs=[ups_task.References(STUDY)],
            patient={}, now=time.time(),
        )  # fmt: skip
        asked |= {
            ups.STUDY_INSTANCE_UID: ups.element("UI"),
            ups.INPUT_INFORMATION_SEQUENCE: ups.element("SQ", {ups.SERIES_INSTANCE_UID: ups.element("UI", "1.2")}),
        }
        uid = worklist.create(asked, None, USER)
        worklist.change_state(uid, "IN PROGRESS", transaction, USER)
        done = ups_task.performed(asked, [], station="x", started=time.time(), ended=time.time())
        worklist.update(
            uid, {ups.PERFORMED_PROCEDURE_SEQUENCE: done[ups.PERFORMED_PROCEDURE_SEQUENCE]}, transaction, USER
        )
        worklist.change_state(uid, "COMPLETED", transaction, USER)
        assert place.settle() == 1


def test_a_crash_between_making_and_superseding_leaves_nothing_half_done(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(*ALONE) as place:
        place.store(slices(3))
        assert place.settle() == 1
        place.store(slices(4, first=3))
        with monkeypatch.context() as crashing:

            def crash(conn: object, uid: str, by: str) -> None:
                raise Unavailable("the process ends here")

            crashing.setattr(place.archive.worklist, "supersede_within", crash)
            with pytest.raises(Unavailable):
                place.settle()
        assert [task.state for task in place.all()] == ["SCHEDULED"], "nobody has seen the newer one"
        assert place.settle() == 1
        old, new = place.all()
        assert (old.ended, old.superseded_by, new.state) == ("superseded", new.uid, "SCHEDULED")


def test_a_process_that_stood_still_makes_nothing_of_what_it_had_read(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its look and its Workitem more arrives, and another server makes one of all of it."""
    with opened(*ALONE) as place:
        place.store(slices(3))
        other, looks = Trigger(place.archive, place.registry), 0

        def stalled(*given: Any) -> list[Candidate]:
            nonlocal looks
            looks += 1
            found = candidates(*given)
            if looks == 1:
                place.store(slices(4, first=3))
                place.archive.settle.claim_stable(time.time() + 1)
                assert other.step(time.time() + 1) == 1
            return found

        monkeypatch.setattr(trigger, "candidates", stalled)
        assert place.settle() == 0
        (only,) = place.all()
        assert (only.state, only.superseded_by) == ("SCHEDULED", None)
        assert [len(each.instances) for each in place.given(only)] == [4]
        assert looks == 3, "who finds that something came looks again"


def test_what_a_server_without_the_plug_in_has_read_is_still_news_to_one_that_has_it(opened: Opened) -> None:
    with opened(*ALONE) as place:
        assert place.settle() == 0  # both are there before anything arrives
        other = Trigger(place.archive, Registry(each for each in place.registry if each.id in ("views", "compare")))
        assert other.step(time.time()) == 0
        place.store(slices(3))
        place.archive.settle.claim_stable(time.time() + 1)
        assert other.step(time.time() + 1) == 0
        assert place.trigger.step(time.time() + 1) == 1
        (task,) = place.all()
        later = Trigger(place.archive, Registry(each for each in place.registry if each.id != "review"))
        assert later.step(time.time() + 2) == 0, "rules that are new do not look at all that ever came"
        assert place.all() == [task]


def test_what_was_made_for_a_version_that_nobody_has_is_made_anew(opened: Opened) -> None:
    with opened(*ALONE) as place:
        place.store(slices(3))
        assert place.settle() == 1
        (old,) = place.all()
        now, workforce = time.time(), Workforce(place.archive.index, shared=False)
        newer = Registry(
            Installed(each.target, Renewed(each.manifest.model_copy(update={"version": "9.9"}), each.plugin.params))
            for each in place.registry
        )

        def look(**workers: str) -> int:
            """What a server with the newer version makes while there are workers with these."""
            for name, version in workers.items():
                workforce.attend(Post(name, {"count": version}, "cpu", 1), now)
            return Trigger(place.archive, newer, workforce=workforce).step(now)

        assert old.version is not None
        assert look() == 0, "nobody is there: whoever comes may have the older one"
        assert look(box=old.version, other="9.9") == 0, "somebody has the older one"
        assert look(box="9.9") == 1
        _, new = place.all()
        assert (new.version, new.rule, place.tasks.get(old.uid, SYSTEM).superseded_by) == ("9.9", "count", new.uid)
        assert look() == 0
        worklist = place.archive.worklist
        assert worklist.claim({"count": old.version}, "box", now + 9, 30) is None
        claim = worklist.claim({"count": "9.9"}, "box", now + 9, 30)
        assert claim is not None
        assert claim.uid == new.uid


@dataclass(frozen=True)
class Renewed:
    """A plug-in of another version."""

    manifest: Manifest
    params: type[Params]

    def run(self, ctx: Context, params: Params) -> None:
        raise AssertionError("nobody runs it")


# Results that others take --------------------------------------------------------------------------------------------


def test_results_start_what_asks_for_them_once_and_nothing_else(opened: Opened) -> None:
    with opened(*ALONE, work=True) as place:
        place.store(slices(3))
        place.settle()
        count, review = place.done(2)
        assert [(task.rule, task.ended) for task in (count, review)] == [
            ("count", "completed"),
            ("review", "completed"),
        ]
        report = next(ds for ds in place.results(count.uid) if ds.Modality == "SR")
        references = place.given(review)
        assert references[0].instances == ((report.SOPClassUID, report.SOPInstanceUID),)
        assert len(references[1].instances) == 3
        _, made = place.results(review.uid)
        assert "read TID 1500" in str(made)
        for _ in range(3):  # neither results nor the end of tasks make anything more
            place.settle()
        assert len(place.all()) == 2
        place.store(slices(4, first=3))  # what comes late goes through the whole chain
        place.settle()
        chain = place.done(4)
        assert [task.superseded_by for task in chain] == [chain[2].uid, chain[3].uid, None, None]


def test_each_result_of_a_task_is_built_on_and_none_takes_the_place_of_another(opened: Opened) -> None:
    with opened(Rule("no views", plugin="views", run=False), work=True) as place:
        place.trigger = Trigger(place.archive, Registry.load({**TARGETS, "each": "task_plugins:Each"}))

        def all_are_made(count: int) -> bool:
            place.settle()
            return len(place.all()) == count

        for number, more in enumerate((slices(3), slices(4, first=3)), 1):
            place.store(more)
            place.settle()
            last = [task for task in place.done(number) if task.plugin == "count"][-1]
            until_true(partial(all_are_made, 3 * number))
            built = [task for task in place.all() if task.plugin == "each" and task.superseded_by is None]
            assert len(built) == 2
            assert {place.given(task)[0].instances[0][1] for task in built} == {
                str(ds.SOPInstanceUID) for ds in place.results(last.uid)
            }


# Earlier studies -----------------------------------------------------------------------------------------------------


def earlier(count: int = 3, study: int = 1, **attributes: Any) -> list[Dataset]:
    """An earlier study of the same patient."""
    return slices(count, study=study, **({"StudyDate": "20250102"} | attributes))


ONLY = (Rule("no count", plugin="count", run=False), Rule("no views", plugin="views", run=False))


def test_an_earlier_study_here_becomes_the_second_input(opened: Opened) -> None:
    with opened(*ONLY, work=True) as place:
        place.store(earlier(study=1))
        place.store(earlier(study=2, StudyDate="20240102"))
        place.store(earlier(study=3, PatientID="SYN-2"))
        place.store(earlier(study=4, IssuerOfPatientID="elsewhere"))
        place.store(earlier(study=5, Modality="MR"))
        assert place.settle() == 3 + 1  # each is somebody's current study first
        place.store(slices(4))
        place.settle()
        task = next(task for task in place.done(5) if task.study_instance_uid == STUDY)
        now, before = place.given(task)
        assert (now.study_instance_uid, before.study_instance_uid) == (STUDY, uids.derived("study", 1))
        _, report = place.results(task.uid)
        assert report.StudyInstanceUID == STUDY
        assert "follow-up" in str(report)
        first = next(task for task in place.all() if task.study_instance_uid == uids.derived("study", 2))
        assert place.comments(first) == "no earlier study fits"
        assert "first" in str(place.results(first.uid)[1])


class Shelf:
    """A source of earlier studies that is slow to answer: another place, with its own studies."""

    def __init__(self, place: Place, *datasets: list[Dataset]) -> None:
        self.place = place
        self.kept = {str(each[0].StudyInstanceUID): each for each in datasets}
        self.asked: list[str] = []
        self.fetched: list[str] = []
        self.answer = threading.Event()

    def earlier(self, patient_id: str, issuer: str, since: str, until: str) -> list[Earlier]:
        self.asked.append(patient_id)
        assert self.answer.wait(60)
        return [
            Earlier(uid, str(each[0].StudyDate), str(each[0].StudyTime), frozenset({str(each[0].Modality)}))
            for uid, each in self.kept.items()
        ]

    def fetch(self, study_instance_uid: str, scope: str) -> int:
        self.fetched.append(study_instance_uid)
        self.place.store(self.kept[study_instance_uid])
        return len(self.kept[study_instance_uid])


ASKING = Rule("compare", plugin="compare", priors_from=("OLD",), wait_s=300)
OLD = AE("OLD", host="127.0.0.1", port=104)


def until_true(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


def test_an_earlier_study_is_fetched_before_the_rule_runs_and_starts_nothing_itself(opened: Opened) -> None:
    shelves: list[Shelf] = []
    with opened(ASKING, *ONLY, aes=(OLD,), priors=lambda archive: Priors(archive, lambda _: shelves[0])) as place:
        fitting, other = earlier(study=1), earlier(study=2, Modality="MR", StudyDate="20250601")
        later = slices(3, study=3, StudyDate="20270101")
        shelf = Shelf(place, fitting, other, later)
        shelves.append(shelf)
        place.store(slices(4))
        assert place.settle() == 0
        assert place.settle() == 0  # asked once
        until_true(lambda: shelf.asked == ["SYN-1"])
        assert place.waits()[0].why == "OLD: asked for earlier studies"
        shelf.answer.set()
        until_true(lambda: place.waits() != [] and place.waits()[0].answer is not None)
        assert shelf.fetched == [uids.derived("study", 1)]
        assert place.waits()[0].answer == "OLD: 1 study fetched"
        until_true(lambda: place.settle() == 1)
        [task] = place.all()
        assert [each.study_instance_uid for each in place.given(task)] == [STUDY, uids.derived("study", 1)]
        assert place.comments(task) == ""
        assert place.settle() == 0  # the fetched study is nobody's current one
        place.store(fitting)  # nor when the very same is sent once more
        assert place.settle() == 0
        assert shelf.asked == ["SYN-1"]
        place.store(earlier(4, study=1))  # but when more of it comes by itself
        until_true(lambda: place.settle() >= 0 and len(place.all()) == 2)
        assert place.all()[1].study_instance_uid == uids.derived("study", 1)


def requested(place: Place, *studies: str) -> str:
    """A request for a comparison of these studies."""
    place.archive.worklist.judge = Requests(lambda: place.registry).judge
    attributes = ups_task.build(
        plugin="compare", title="Compare", label="Compare", parameters=[], patient={}, now=time.time(),
        inputs=[ups_task.References(study) for study in studies],
    )  # fmt: skip
    return place.archive.worklist.create(attributes, None, USER)


def test_a_request_gets_the_earlier_study_that_a_rule_would_look_for(opened: Opened) -> None:
    shelves: list[Any] = []
    rule = Rule("compare", plugin="compare", run=False, priors_from=("OLD",), wait_s=300)
    with opened(rule, *ONLY, aes=(OLD,), priors=lambda archive: Priors(archive, lambda _: shelves[-1])) as place:
        shelves.append(shelf := Shelf(place, earlier(study=1)))
        place.store(slices(4))
        assert place.settle() == 0
        worklist = place.archive.worklist
        unwanted = requested(place, STUDY)
        assert place.tasks.get(unwanted, SYSTEM).waits_for == "its inputs are INCOMPLETE"
        worklist.request_cancel(unwanted, "not wanted", USER)
        uid = requested(place, STUDY)
        assert worklist.claim(["compare"], "w", time.time() + 9, 30) is None
        place.settle()
        until_true(lambda: shelf.asked == ["SYN-1"])
        assert [(wait.rule, wait.about, wait.why) for wait in place.waits()] == [
            ("requests: compare", uid, "OLD: asked for earlier studies")
        ]
        shelf.answer.set()
        until_true(lambda: place.settle() == 0 and place.waits() == [])
        assert [each.study_instance_uid for each in place.given(place.tasks.get(uid, SYSTEM))] == [
            STUDY, uids.derived("study", 1),
        ]  # fmt: skip
        claim = worklist.claim(["compare"], "w", time.time() + 9, 30)
        assert claim is not None
        assert (claim.uid, shelf.fetched) == (uid, [uids.derived("study", 1)])
        both = requested(place, STUDY, uids.derived("study", 1))
        assert place.tasks.get(both, SYSTEM).waits_for == "", "it names the earlier one itself"
        place.store(slices(3, study=7, PatientID="SYN-7"))
        place.settle()
        shelves.append(Away())
        alone = requested(place, uids.derived("study", 7))
        until_true(lambda: place.settle() == 0 and place.waits() == [])
        task = place.tasks.get(alone, SYSTEM)
        assert (task.waits_for, place.comments(task)) == ("", "no earlier study fits (OLD: OLD does not answer)")


def test_what_is_arriving_by_itself_is_nobodys_earlier_study_alone(opened: Opened) -> None:
    shelves: list[Shelf] = []
    with opened(ASKING, *ONLY, aes=(OLD,), priors=lambda archive: Priors(archive, lambda _: shelves[0])) as place:
        head = earlier(study=1)
        shelf = Shelf(place, head)
        shelf.answer.set()
        shelves.append(shelf)
        place.store(slices(4))
        place.archive.settle.claim_stable(time.time() + 1)
        place.store(head[:1])  # it is on its way from its scanner when the other one's rule asks for it
        place.trigger.step(time.time() + 1)
        until_true(lambda: shelf.fetched == [uids.derived("study", 1)])
        until_true(lambda: place.settle() >= 0 and len(place.all()) == 2)
        assert {task.study_instance_uid for task in place.all()} == {STUDY, uids.derived("study", 1)}


def test_what_could_not_be_fetched_is_somebodys_current_study_when_it_comes(opened: Opened) -> None:
    class Empty(Shelf):
        def fetch(self, study_instance_uid: str, scope: str) -> int:
            self.fetched.append(study_instance_uid)
            raise PeerUnreachable("OLD has gone")

    shelves: list[Shelf] = []
    with opened(ASKING, *ONLY, aes=(OLD,), priors=lambda archive: Priors(archive, lambda _: shelves[0])) as place:
        shelves.append(Empty(place, earlier(study=1)))
        shelves[0].answer.set()
        place.store(slices(4))
        until_true(lambda: place.settle() == 1)
        assert shelves[0].fetched == [uids.derived("study", 1)]
        place.store(earlier(study=1))
        until_true(lambda: place.settle() >= 0 and len(place.all()) == 2)
        assert {task.study_instance_uid for task in place.all()} == {STUDY, uids.derived("study", 1)}


class Away:
    """A source that is not there."""

    def earlier(self, *_: str) -> list[Earlier]:
        raise PeerUnreachable("OLD does not answer")

    def fetch(self, study_instance_uid: str, scope: str) -> int:
        raise AssertionError("nothing was offered")


def test_without_an_earlier_study_it_runs_and_says_why(opened: Opened) -> None:
    with opened(ASKING, *ONLY, aes=(OLD,), priors=lambda archive: Priors(archive, lambda _: Away())) as place:
        place.store(slices(3))
        until_true(lambda: place.settle() == 1)
        [task] = place.all()
        assert place.comments(task) == "no earlier study fits (OLD: OLD does not answer)"


def test_an_answer_is_waited_for_so_long_and_a_question_is_asked_again_after_a_restart(opened: Opened) -> None:
    shelves: list[Shelf] = []
    asking = {"aes": (OLD,), "priors": lambda archive: Priors(archive, lambda _: shelves[-1])}
    with opened(ASKING, *ONLY, **asking) as place:
        shelves.append(Shelf(place))
        place.store(slices(3))
        assert place.settle() == 0
        until_true(lambda: shelves[0].asked == ["SYN-1"])
    with opened(ASKING, *ONLY, **asking) as place:
        shelves.append(Shelf(place))
        assert place.settle() == 0
        until_true(lambda: shelves[1].asked == ["SYN-1"])
        assert place.settle(200) == 0
        assert place.settle(302) == 1
        assert place.comments(place.all()[0]) == "no earlier study fits (OLD: no answer within 300 s)"
        for shelf in shelves:
            shelf.answer.set()


def test_a_start_to_come_is_kept_across_a_restart(opened: Opened, index: str) -> None:
    with opened(*ONLY, index=index) as place:
        asked = ups_task.build(
            plugin="count", title="Count", label="Count", parameters=[], inputs=[ups_task.References(STUDY)],
            patient={}, now=time.time() + 3600,
        )  # fmt: skip
        uid = place.archive.worklist.create(asked, None, USER)
    with opened(*ONLY, index=index) as place:
        worklist = place.archive.worklist
        assert worklist.claim(["count"], "w", time.time() + 3000, 30) is None
        assert worklist.due_offers(time.time() + 3000) == []
        claim = worklist.claim(["count"], "w", time.time() + 3601, 30)
        assert claim is not None
        assert claim.uid == uid


def test_the_dispatcher_ends_what_expired(opened: Opened) -> None:
    with opened(*ONLY, *ALONE[1:]) as place:
        asked = ups_task.build(
            plugin="count", title="Count", label="Count", parameters=[], inputs=[ups_task.References(STUDY)],
            patient={}, now=time.time(),
        ) | {ups.EXPIRATION_DATETIME: ups.element("DT", ups.dt(time.time() + 3600))}  # fmt: skip
        uid = place.archive.worklist.create(asked, None, USER)
        dispatcher = Dispatcher(place.archive, LocalQueue(place.archive.events))
        dispatcher.step(time.time())
        assert place.tasks.get(uid, SYSTEM).state == "SCHEDULED"
        dispatcher.step(time.time() + 3601)
        assert place.tasks.get(uid, SYSTEM).ended == "expired"
