"""How tasks end, are tried again, replaced and taken up once more, on SQLite and PostgreSQL."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, select, text

from pacs.auth import SYSTEM, Principal, Right
from pacs.dicom import ups, ups_task
from pacs.errors import Forbidden, InvalidInput, NotFound, StateConflict
from pacs.events import Events
from pacs.index import schema
from pacs.index.engine import Index
from pacs.leases import LONGEST_PAUSE_S, Claim, pause
from pacs.tasks import Tasks
from pacs.worklist import Worklist

USER = Principal("ann", "session")
T0 = 1_767_312_245.0


class Clock:
    """A clock that tests move."""

    now = T0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def worklist(index: Index, clock: Clock) -> Worklist:
    return Worklist(index, Events(), max_attempts=3, retry_hours=1.0, clock=clock)


@pytest.fixture
def tasks(worklist: Worklist, clock: Clock) -> Tasks:
    return Tasks(worklist, clock=clock)


def asked(series: str = "1.2.3.4", threshold: int = 300, **more: Any) -> dict[str, Any]:
    return ups_task.build(
        plugin="count", title="Count", label="Count", parameters=[ups_task.Parameter("threshold", "T", threshold)],
        inputs=[ups_task.References("1.2.3", series)], patient={}, **({"now": T0} | more),
    )  # fmt: skip


def claimed(worklist: Worklist, now: float = T0) -> Claim:
    found = worklist.claim(["count"], "w", now, 30)
    assert found is not None
    return found


def failed(worklist: Worklist, series: str = "1.2.3.4", task: str | None = None) -> str:
    uid = worklist.create(asked(series), None, USER, task=task)
    worklist.fail(claimed(worklist), "it broke", T0)
    return uid


def ended(tasks: Tasks, uid: str) -> tuple[str, str | None, str]:
    found = tasks.get(uid, SYSTEM)
    return found.state, found.ended, found.reason


# Trying again --------------------------------------------------------------------------------------------------------


def test_pauses_grow_and_have_an_end() -> None:
    assert [pause(n) for n in (1, 2, 3, 4)] == [5, 15, 45, 135]
    assert pause(50) == pause(5000) == LONGEST_PAUSE_S


def test_a_cause_that_passes_is_tried_again_further_and_further_apart_until_time_is_up(
    worklist: Worklist, tasks: Tasks
) -> None:
    uid = worklist.create(asked(), None, USER)
    now, tries = T0, 0
    while (claim := worklist.claim(["count"], "w", now, 30)) is not None:
        tries += 1
        assert claim.attempt == tries
        worklist.fail(claim, "the store was away", now, retry=True)
        if tasks.get(uid, SYSTEM).state != "IN PROGRESS":
            break
        assert tasks.get(uid, SYSTEM).message.endswith("the store was away")
        waits = pause(tries)
        assert worklist.claim(["count"], "w", now + waits - 0.1, 30) is None
        now += waits
    assert tries > 8  # many more than a task that its workers die of
    assert now >= T0 + 3600
    assert ended(tasks, uid) == ("CANCELED", "failed", f"the store was away (tried {tries} times)")


def test_a_success_in_between_is_a_success(worklist: Worklist, tasks: Tasks) -> None:
    uid = worklist.create(asked(), None, USER)
    worklist.fail(claimed(worklist), "the store was away", T0, retry=True)
    worklist.complete(claimed(worklist, T0 + 5), [], T0 + 6)
    assert ended(tasks, uid) == ("COMPLETED", "completed", "")


def test_a_task_that_its_processes_die_of_is_tried_so_many_times_only(worklist: Worklist, tasks: Tasks) -> None:
    uid = worklist.create(asked(), None, USER)
    worklist.fail(claimed(worklist), "the store was away", T0, retry=True)  # does not count among the losses
    now = T0 + 10
    for _ in range(3):
        worklist.fail(claimed(worklist, now), "its process was killed", now, retry=True, lost=True)
        now += 10
    assert ended(tasks, uid) == ("CANCELED", "failed", "its process was killed 3 times")


def test_why_a_task_ended_is_one_of_few_words(worklist: Worklist, tasks: Tasks, clock: Clock) -> None:
    refused = worklist.create(asked("1.1"), None, USER)
    worklist.fail(claimed(worklist), "no bone", T0, refused=True)
    running = worklist.create(asked("1.2"), None, USER)
    claim = claimed(worklist)
    worklist.request_cancel(running, "wrong series", USER)
    worklist.fail(claim, "stopped", T0)
    waiting = worklist.create(asked("1.3"), None, USER)
    worklist.request_cancel(waiting, "not needed", USER)
    expiring = {ups.EXPIRATION_DATETIME: ups.element("DT", ups.dt(T0 + 60))}
    expired = worklist.create(asked("1.4") | expiring, None, USER)
    begun = worklist.create(asked("1.5", priority="HIGH") | expiring, None, USER)
    assert claimed(worklist).uid == begun
    assert worklist.expire(T0 + 59) == 0
    assert worklist.expire(T0 + 60) == 1
    assert worklist.expire(T0 + 61) == 0
    assert ended(tasks, refused) == ("CANCELED", "refused", "no bone")
    assert ended(tasks, running) == ("CANCELED", "cancelled", "wrong series")
    assert ended(tasks, waiting) == ("CANCELED", "cancelled", "not needed")
    assert ended(tasks, expired) == ("CANCELED", "expired", f"expired: not begun by {ups.dt(T0 + 60)}")
    assert tasks.get(begun, SYSTEM).state == "IN PROGRESS"
    assert tasks.listed(SYSTEM, ended="failed") == []
    assert [task.uid for task in tasks.listed(SYSTEM, ended="refused")] == [refused]
    with pytest.raises(InvalidInput):
        tasks.listed(SYSTEM, ended="dead")
    with pytest.raises(InvalidInput, match="DT"):
        worklist.create(asked("1.6") | {ups.EXPIRATION_DATETIME: ups.element("DT", "tomorrow")}, None, USER)


def test_nothing_waits_for_the_clock_after_it_was_put_back(worklist: Worklist, tasks: Tasks, clock: Clock) -> None:
    year = 365 * 86_400.0
    clock.now = ahead = T0 + year
    for series in ("1.1", "1.2"):
        worklist.create(asked(series, now=ahead, priority="HIGH"), None, USER)
    failing = claimed(worklist, ahead)
    worklist.fail(failing, "the store was away", ahead, retry=True)  # again in 5 s
    asleep, working = failing.uid, claimed(worklist, ahead).uid  # the worker of the second dies with the old clock
    fresh = worklist.create(asked("1.3", now=ahead), None, USER)
    planned = worklist.create(asked("1.4", now=ahead + 3600, priority="HIGH"), None, USER)
    clock.now = T0
    assert worklist.reap(T0) == 0
    assert claimed(worklist, T0 + 1).uid == fresh
    assert claimed(worklist, T0 + 6).uid == asleep
    assert worklist.reap(T0 + 29) == 0
    assert worklist.reap(T0 + 31) == 1
    assert claimed(worklist, T0 + 32).uid == working
    assert worklist.claim(["count"], "w", T0 + 33, 30) is None
    assert claimed(worklist, ahead + 3600).uid == planned  # as somebody asked


# Superseding ---------------------------------------------------------------------------------------------------------


def test_of_requests_for_the_same_that_come_at_once_one_waits(worklist: Worklist, tasks: Tasks) -> None:
    together = threading.Barrier(6, timeout=60)

    def request(_: int) -> str:
        together.wait()
        return worklist.create(asked(), None, USER)

    with ThreadPoolExecutor(6) as threads:
        made = set(threads.map(request, range(6)))
    assert len(made) == 6
    (left,) = tasks.listed(SYSTEM, state="SCHEDULED")
    assert left.uid in made
    assert [task.ended for task in tasks.listed(SYSTEM, state="CANCELED")] == ["superseded"] * 5


def test_a_newer_request_for_the_same_replaces_the_one_that_waits(worklist: Worklist, tasks: Tasks) -> None:
    old = worklist.create(asked(), None, USER)
    other = [worklist.create(asked(threshold=301), None, USER), worklist.create(asked("1.2.3.5"), None, USER)]
    elsewhere = worklist.create(asked(), None, replace(USER, scope="there"))
    new = worklist.create(asked(), None, USER)
    assert ended(tasks, old) == ("CANCELED", "superseded", f"superseded by {new}")
    assert tasks.get(old, SYSTEM).superseded_by == new
    for uid in (*other, elsewhere, new):
        assert tasks.get(uid, SYSTEM).state == "SCHEDULED"


def test_what_is_more_urgent_due_sooner_or_begun_is_not_replaced(worklist: Worklist, tasks: Tasks) -> None:
    running = worklist.create(asked("1.1"), None, USER)
    claimed(worklist)
    urgent = worklist.create(asked("1.2", priority="HIGH"), None, USER)
    soon = worklist.create(asked("1.3"), None, USER)
    for series, more in (("1.1", {}), ("1.2", {"priority": "LOW"}), ("1.3", {"now": T0 + 3600})):
        worklist.create(asked(series, **more), None, USER)
    states = [tasks.get(uid, SYSTEM).state for uid in (running, urgent, soon)]
    assert states == ["IN PROGRESS", "SCHEDULED", "SCHEDULED"]
    raised = worklist.create(asked("1.3", priority="HIGH"), None, USER)
    assert tasks.get(soon, SYSTEM).superseded_by == raised


def output(number: int) -> list[ups_task.References]:
    return [ups_task.References("1.2.3", "1.2.3.90", (("1.2.840.10008.5.1.4.1.1.66.4", f"1.2.3.90.{number}"),))]


def test_other_results_of_the_same_request_supersede_the_older_ones(
    worklist: Worklist, tasks: Tasks, index: Index
) -> None:
    first = worklist.create(asked(), None, USER)
    worklist.complete(claimed(worklist), output(1), T0)
    same = worklist.create(asked(), None, USER)
    worklist.complete(claimed(worklist), output(1), T0 + 1)
    assert tasks.get(first, SYSTEM).superseded_by is None  # the very same results
    newer = worklist.create(asked(), None, USER)
    assert tasks.get(first, SYSTEM).superseded_by is None  # not before there are others
    worklist.complete(claimed(worklist), output(2), T0 + 2)
    assert [tasks.get(uid, SYSTEM).superseded_by for uid in (first, same, newer)] == [newer, newer, None]
    told = worklist.retrieve(first, USER)
    assert ups.value(told, ups.PROCEDURE_STEP_STATE) == "COMPLETED"
    assert ups.progress_of(told)[1] == f"superseded by {newer}"
    assert list(ups_task.outputs_of(told)) == output(1)  # still listed
    replacing = worklist.create(asked("1.2.3.6", replaces=newer), None, SYSTEM)
    worklist.fail(claimed(worklist), "it broke", T0 + 3)
    assert tasks.get(newer, SYSTEM).superseded_by is None  # what failed replaces nothing
    again = tasks.requeue([replacing], USER)[replacing]
    assert again != replacing


def test_who_began_earlier_and_took_longer_supersedes_nothing(worklist: Worklist, tasks: Tasks) -> None:
    slow = worklist.create(asked(), None, USER)
    of_slow = claimed(worklist)
    quick = worklist.create(asked(), None, USER)
    of_quick = claimed(worklist, T0 + 5)  # it has seen an instance that came meanwhile
    worklist.complete(of_quick, output(2), T0 + 6)
    worklist.complete(of_slow, output(1), T0 + 9)
    assert [tasks.get(uid, SYSTEM).superseded_by for uid in (slow, quick)] == [quick, None]


def test_what_is_wanted_twice_is_done_once_and_stays_while_one_wants_it(
    worklist: Worklist, tasks: Tasks, index: Index
) -> None:
    def joined(uid: str, priority: str, rule: str | None = None) -> str | None:
        return index.transact(lambda conn: worklist.join(conn, uid, priority, rule))

    batch = {"task": "key", "version": "1", "again": "2.25.2"}
    made = worklist.create(asked(priority="LOW"), "2.25.1", USER, **batch)
    other = worklist.create(asked("1.9"), None, USER)
    assert joined(made, "HIGH") == made
    assert [tasks.get(made, SYSTEM).priority, tasks.get(made, SYSTEM).rule] == ["HIGH", None]
    assert worklist.withdraw(made, "its batch was cancelled")
    assert not worklist.withdraw(other, "it is somebody's request")
    assert ended(tasks, made) == ("CANCELED", "cancelled", "its batch was cancelled")
    assert worklist.create(asked(), "2.25.1", USER, **batch) == "2.25.2"
    assert joined("2.25.2", "LOW", "a rule") == "2.25.2"
    assert not worklist.withdraw("2.25.2", "its batch was cancelled")
    claims = {claim.uid: claim for claim in (claimed(worklist), claimed(worklist))}
    assert claims.keys() == {other, "2.25.2"}
    worklist.fail(claims["2.25.2"], "it broke", T0)
    assert joined("2.25.2", "HIGH") is None
    assert worklist.create(asked(), "2.25.1", USER, **{**batch, "again": "2.25.3"}) == "2.25.3"
    assert tasks.get("2.25.2", SYSTEM).superseded_by == "2.25.3"  # no dead letter any more
    request = worklist.create(asked(), None, USER)
    assert joined("2.25.3", "HIGH") == request
    assert tasks.get(request, SYSTEM).priority == "HIGH"
    urgent = {ups.PRIORITY: "HIGH", ups.PROCEDURE_STEP_STATE: "SCHEDULED"}
    assert worklist.search(urgent, None, 0, USER)[0] == [worklist.retrieve(request, USER)]


def test_two_that_end_at_the_same_moment_see_each_other(worklist: Worklist, tasks: Tasks, index: Index) -> None:
    """One has marked what it saw and not committed yet when the other one looks."""

    def waiting(conn: Connection) -> int:
        here = "database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        locks = f"SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory' AND {here}"
        return int(conn.execute(text(locks)).scalar_one())

    for number, (slow, quick) in enumerate(((1.0, 2.0), (4.0, 3.0))):
        series = f"1.2.3.{number}"
        first = worklist.create(asked(series), None, USER)
        of_first = claimed(worklist, T0 + slow)
        second = worklist.create(asked(series), None, USER)
        of_second = claimed(worklist, T0 + quick)
        looked = threading.Event()

        def late(also: Callable[[Connection], None], looked: threading.Event = looked) -> None:
            def work(conn: Connection) -> None:
                also(conn)
                looked.set()
                until = time.monotonic() + 60
                while index.dialect == "postgresql":  # of which many write at a time
                    with index.read() as other:
                        if waiting(other):
                            return
                    assert time.monotonic() < until
                    time.sleep(0.01)

            index.transact(work)

        with ThreadPoolExecutor(1) as beside:
            ending = beside.submit(worklist.complete, of_first, output(number), T0 + 9, late)
            assert looked.wait(60)
            worklist.complete(of_second, output(number + 10), T0 + 9)
            ending.result(60)
        marked = [tasks.get(uid, SYSTEM).superseded_by for uid in (first, second)]
        assert marked == ([second, None] if slow < quick else [None, first])


def test_who_may_wait_longer_is_not_replaced_by_who_may_expire(worklist: Worklist, tasks: Tasks) -> None:
    def expiring(after_s: float) -> dict[str, Any]:
        return asked() | {ups.EXPIRATION_DATETIME: ups.element("DT", ups.dt(T0 + after_s))}

    for_ever = worklist.create(asked(), None, USER)
    short, longer = (worklist.create(expiring(s), None, USER) for s in (60, 120))
    assert tasks.get(short, SYSTEM).superseded_by == longer
    assert worklist.expire(T0 + 121) == 1
    assert [tasks.get(uid, SYSTEM).state for uid in (for_ever, longer)] == ["SCHEDULED", "CANCELED"]


def test_what_was_done_before_it_was_told_of_its_successor_is_superseded_too(worklist: Worklist, tasks: Tasks) -> None:
    old = worklist.create(asked("1.2.3.4"), None, SYSTEM)
    slow = claimed(worklist)
    new = worklist.create(asked("1.2.3.5", replaces=old), None, SYSTEM)
    worklist.complete(claimed(worklist), output(2), T0 + 1)
    worklist.complete(slow, output(1), T0 + 2)  # after the newer one, which did not find it COMPLETED
    worklist.supersede(old, new)
    assert tasks.get(old, SYSTEM).superseded_by == new
    assert tasks.get(new, SYSTEM).superseded_by is None


@pytest.mark.parametrize(
    ("start", "zone", "due"),
    [
        ("20260102120000", None, "20260102120000"),
        ("20260102120000", "+0530", "20260102063000"),
        ("20260102120000", "-0800", "20260102200000"),
        ("20260102120000+0100", "-0800", "20260102110000"),  # its own offset goes first
    ],
)
def test_a_start_is_in_the_time_zone_that_the_workitem_names(
    worklist: Worklist, tasks: Tasks, start: str, zone: str | None, due: str
) -> None:
    more = {"00080201": ups.element("SH", zone)} if zone else {}
    uid = worklist.create(asked() | more | {ups.START_DATETIME: ups.element("DT", start)}, None, USER)
    at = ups.from_dt(due)
    assert tasks.get(uid, SYSTEM).start_at == at
    assert worklist.claim(["count"], "w", at - 1, 30) is None
    assert claimed(worklist, at).uid == uid


@pytest.mark.parametrize("zone", ["CET", "+2500", "+01:00", "+0１00"])
def test_a_time_zone_that_is_none_is_refused(worklist: Worklist, zone: str) -> None:
    with pytest.raises(InvalidInput, match="Timezone"):
        worklist.create(asked() | {"00080201": ups.element("SH", zone)}, None, USER)


# Dead letters --------------------------------------------------------------------------------------------------------


def test_a_dead_letter_is_requeued_as_a_workitem_that_replaces_it(
    worklist: Worklist, tasks: Tasks, index: Index, clock: Clock
) -> None:
    uid = failed(worklist, task="key")
    assert [(task.uid, task.reason) for task in tasks.listed(SYSTEM, ended="failed")] == [(uid, "it broke")]
    clock.now += 100
    [(old, new)] = tasks.requeue([uid], USER).items()
    assert old == uid
    assert tasks.listed(SYSTEM, ended="failed") == []
    assert ended(tasks, uid) == ("CANCELED", "superseded", "it broke")
    claim = claimed(worklist, T0 + 100)
    assert (claim.uid, claim.attempt) == (new, 1)
    assert ups_task.parameters_of(claim.attributes) == {"threshold": 300}
    [replaced] = ups.items(claim.attributes, ups.REPLACED_PROCEDURE_STEP_SEQUENCE)
    assert ups.value(replaced, ups.REFERENCED_SOP_INSTANCE_UID) == uid
    assert worklist.create(asked(), None, SYSTEM, task="key") == new  # rules find the new one
    with pytest.raises(StateConflict):
        tasks.requeue([uid], USER)
    assert events_of(index, uid)[-1] == ("dead letter requeued", "ann")


def test_a_dead_letter_taken_up_again_replaces_what_it_would_have_replaced(worklist: Worklist, tasks: Tasks) -> None:
    old = worklist.create(asked("1.2.3.4"), None, SYSTEM)
    worklist.complete(claimed(worklist), output(1), T0)
    dead = worklist.create(asked("1.2.3.5", replaces=old), None, SYSTEM)
    worklist.fail(claimed(worklist), "it broke", T0)
    new = tasks.requeue([dead], USER)[dead]
    worklist.complete(claimed(worklist), output(2), T0 + 1)
    assert tasks.get(old, SYSTEM).superseded_by == new


def test_a_dead_letter_that_several_take_up_at_once_is_one_task(worklist: Worklist, tasks: Tasks) -> None:
    uid, together = failed(worklist), threading.Barrier(6)

    def take_up(number: int) -> dict[str, str]:
        together.wait(60)
        try:
            return tasks.requeue([], USER, plugin="count") if number % 2 else tasks.requeue([uid], USER)
        except StateConflict:
            return {}

    with ThreadPoolExecutor(6) as threads:
        made = [found[uid] for found in threads.map(take_up, range(6)) if found]
    assert [task.uid for task in tasks.listed(SYSTEM, state="SCHEDULED")] == made
    assert len(made) == 1
    assert tasks.get(uid, SYSTEM).superseded_by == made[0]


def test_dead_letters_of_a_plugin_go_together_and_others_are_none(
    worklist: Worklist, tasks: Tasks, index: Index
) -> None:
    dead = [failed(worklist, f"1.2.3.{n}") for n in range(4, 7)]
    waiting = worklist.create(asked("1.2.3.9"), None, USER)
    assert tasks.discard([dead[0]], USER) == [dead[0]]
    assert ended(tasks, dead[0]) == ("CANCELED", "discarded", "it broke")
    assert events_of(index, dead[0])[-1] == ("dead letter discarded", "ann")
    with pytest.raises(StateConflict):
        tasks.requeue([dead[1], waiting], USER)  # all or none
    assert len(tasks.listed(SYSTEM, ended="failed")) == 2
    assert set(tasks.requeue([], USER, plugin="count")) == set(dead[1:])
    assert tasks.requeue([], USER, plugin="count") == {}
    with pytest.raises(InvalidInput):
        tasks.requeue([], USER)
    with pytest.raises(NotFound):
        tasks.discard(["1.2.3.99"], USER)


def test_rights_and_scopes(worklist: Worklist, tasks: Tasks) -> None:
    here, there = replace(USER, scope="here"), replace(USER, scope="there")
    uid = worklist.create(asked(), None, here)
    worklist.fail(claimed(worklist), "it broke", T0)
    assert tasks.listed(there) == []
    assert tasks.requeue([], there, plugin="count") == {}
    with pytest.raises(NotFound):
        tasks.get(uid, there)
    with pytest.raises(NotFound):
        tasks.requeue([uid], there)
    with pytest.raises(Forbidden):
        tasks.discard([uid], replace(here, rights=frozenset({Right.QUERY})))
    new = tasks.requeue([uid], USER)[uid]
    assert {task.uid for task in tasks.listed(here)} == {uid, new}
    assert tasks.listed(here, state="SCHEDULED", plugin="count", study="1.2.3", limit=1)[0].uid == new


def events_of(index: Index, uid: str) -> list[tuple[str, str]]:
    t = schema.audit.c
    with index.read() as conn:
        found = conn.execute(select(t.event, t.principal).where(t.workitem_uid == uid).order_by(t.seq))
        return [(row.event, row.principal) for row in found]
