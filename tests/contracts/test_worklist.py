"""The worklist and its leases on both databases: PS3.4 annex CC, and at-least-once work with exactly-once effect."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from pydicom import Dataset
from sqlalchemy import Connection, func, select

from pacs import uids
from pacs.auth import SYSTEM, Principal, Right
from pacs.dicom import ups, ups_task
from pacs.dicom.matching import PLAIN, Options
from pacs.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    InvalidQuery,
    InvalidUID,
    NotFound,
    PerformerUnreachable,
    StateConflict,
    TransactionMismatch,
)
from pacs.events import Events
from pacs.index import schema, workitems
from pacs.index.changes import Changes
from pacs.index.engine import Index
from pacs.worklist import Worklist

USER = Principal("ann", "session")
T0 = 1_767_312_245.0


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = T0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def worklist(index: Index, clock: Clock) -> Worklist:
    return Worklist(index, Events(), max_attempts=3, clock=clock)


def asked(plugin: str = "count", study: str = "1.2.3", priority: str = "MEDIUM", **changes: Any) -> dict[str, Any]:
    built = ups_task.build(
        plugin=plugin, title="Count", label=f"Count of {study}", priority=priority, now=T0,
        parameters=[ups_task.Parameter("threshold", "Threshold", 300)],
        inputs=[ups_task.References(study, f"{study}.4")],
        patient={"00100020": {"vr": "LO", "Value": [f"SYN-{study}"]},
                 "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Synthetic^Sam"}]}},
    )  # fmt: skip
    return {**built, **changes}


def state_of(worklist: Worklist, uid: str) -> str:
    return str(ups.value(worklist.retrieve(uid, SYSTEM), ups.PROCEDURE_STEP_STATE))


def reason_of(worklist: Worklist, uid: str) -> str:
    return ups.progress_of(worklist.retrieve(uid, SYSTEM))[2]


# The worklist for anybody --------------------------------------------------------------------------------------------


def test_create_and_retrieve(worklist: Worklist, index: Index) -> None:
    uid = worklist.create(asked(), None, USER)
    named = worklist.create(asked(study="1.2.4"), "1.2.3.9", USER)
    assert named == "1.2.3.9"
    found = worklist.retrieve(uid, USER)
    assert Dataset.from_json(found).SOPInstanceUID == uid
    assert ups.TRANSACTION_UID not in found
    with pytest.raises(Conflict):
        worklist.create(asked(), "1.2.3.9", USER)
    with pytest.raises(InvalidUID):
        worklist.create(asked(), "1.2.3.x", USER)
    with pytest.raises(NotFound):
        worklist.retrieve("1.2.3.10", USER)
    with pytest.raises(InvalidInput, match=ups.LABEL):
        worklist.create(asked(**{ups.LABEL: {"vr": "LO"}}), None, USER)
    assert [(c.kind, c.workitem_uid) for c in Changes(index).after(0)] == [("workitem", uid), ("workitem", named)]


def test_rights_and_scopes(worklist: Worklist) -> None:
    reader = Principal("rea", "token", frozenset({Right.QUERY}))
    with pytest.raises(Forbidden):
        worklist.create(asked(), None, reader)
    here, there = Principal("a", "token", scope="here"), Principal("b", "token", scope="there")
    uid = worklist.create(asked(), None, here)
    assert worklist.retrieve(uid, here)
    assert worklist.retrieve(uid, reader)
    for forbidden in (worklist.retrieve, lambda u, p: worklist.request_cancel(u, "", p)):
        with pytest.raises(NotFound):
            forbidden(uid, there)
    assert worklist.search({}, 10, 0, there) == ([], 0)
    assert worklist.moved_since(0, there) == []
    assert len(worklist.moved_since(0, here)) == 1


def test_a_task_is_made_once(worklist: Worklist) -> None:
    made = {worklist.create(asked(), None, SYSTEM, task="key") for _ in range(3)}
    assert len(made) == 1
    barrier, seen = threading.Barrier(8), []

    def race() -> None:
        barrier.wait()
        seen.append(worklist.create(asked(), None, SYSTEM, task="other key"))

    run_together(race, 8)
    assert len(seen) == 8
    assert len(set(seen)) == 1


def test_update(worklist: Worklist) -> None:
    uid = worklist.create(asked(), None, USER)
    worklist.update(uid, {ups.PRIORITY: ups.element("CS", "HIGH")}, None, USER)
    assert ups.value(worklist.retrieve(uid, USER), ups.PRIORITY) == "HIGH"
    with pytest.raises(InvalidInput):
        worklist.update(uid, {ups.PROCEDURE_STEP_STATE: ups.element("CS", "COMPLETED")}, None, USER)
    worklist.change_state(uid, "IN PROGRESS", "1.2.77", USER)
    with pytest.raises(TransactionMismatch):
        worklist.update(uid, {}, None, USER)
    progress = {ups.PROGRESS_SEQUENCE: ups.element("SQ", {ups.PROGRESS: ups.element("DS", 40)})}
    worklist.update(uid, progress, "1.2.77", USER)
    assert worklist.moved_since(0, USER)[0]["progress"] == 40
    worklist.change_state(uid, "CANCELED", "1.2.77", USER)
    with pytest.raises(StateConflict):
        worklist.update(uid, {}, "1.2.77", USER)


def test_an_outside_performer_takes_it_from_start_to_end(worklist: Worklist) -> None:
    uid = worklist.create(asked(), None, USER)
    with pytest.raises(StateConflict):
        worklist.change_state(uid, "COMPLETED", "1.2.77", USER)
    assert worklist.change_state(uid, "IN PROGRESS", "1.2.77", USER) is None
    with pytest.raises(TransactionMismatch):
        worklist.change_state(uid, "IN PROGRESS", "1.2.78", USER)
    with pytest.raises(StateConflict, match="final state"):
        worklist.change_state(uid, "COMPLETED", "1.2.77", USER)
    step = ups_task.performed(asked(), [], station="other", started=T0, ended=T0)
    performed = {ups.PERFORMED_PROCEDURE_SEQUENCE: step[ups.PERFORMED_PROCEDURE_SEQUENCE]}
    worklist.update(uid, performed, "1.2.77", USER)
    assert worklist.change_state(uid, "COMPLETED", "1.2.77", USER) is None
    assert "COMPLETED" in (worklist.change_state(uid, "COMPLETED", "1.2.77", USER) or "")
    with pytest.raises(InvalidInput):
        worklist.change_state(uid, "FAILED", "1.2.77", USER)


def test_an_outside_performers_claim_is_never_reaped_nor_taken(worklist: Worklist) -> None:
    uid = worklist.create(asked(), None, USER)
    worklist.change_state(uid, "IN PROGRESS", "1.2.77", USER)
    assert worklist.claim(["count"], "w", T0, 30) is None
    assert worklist.reap(T0 + 1e6) == 0
    assert worklist.due_offers(T0 + 1e6) == []
    with pytest.raises(PerformerUnreachable):
        worklist.request_cancel(uid, "no more", USER)
    worklist.subscribe(uid, "PERFORMER", USER)
    assert worklist.request_cancel(uid, "no more", USER) is None
    assert state_of(worklist, uid) == "IN PROGRESS"
    assert worklist.change_state(uid, "CANCELED", "1.2.77", USER) is None


def test_request_cancel(worklist: Worklist) -> None:
    uid = worklist.create(asked(), None, USER)
    assert worklist.request_cancel(uid, "wrong patient", USER) is None
    assert state_of(worklist, uid) == "CANCELED"
    assert reason_of(worklist, uid) == "wrong patient"
    assert "CANCELED" in (worklist.request_cancel(uid, "again", USER) or "")
    assert worklist.claim(["count"], "w", T0, 30) is None
    done = worklist.create(asked(), None, USER)
    claim = worklist.claim(["count"], "w", T0, 30)
    assert claim is not None
    worklist.complete(claim, [], T0 + 1)
    with pytest.raises(StateConflict, match="already COMPLETED"):
        worklist.request_cancel(done, "", USER)


def test_two_claims_at_once_have_one_winner(worklist: Worklist) -> None:
    uid = worklist.create(asked(), None, USER)
    barrier, outcomes = threading.Barrier(6), []

    def race() -> None:
        barrier.wait()
        try:
            worklist.change_state(uid, "IN PROGRESS", uids.new(), USER)
        except (StateConflict, TransactionMismatch):
            outcomes.append("refused")
        else:
            outcomes.append("won")

    run_together(race, 6)
    assert Counter(outcomes) == {"won": 1, "refused": 5}


def test_a_start_is_found_in_the_time_zone_that_the_workitem_names(worklist: Worklist) -> None:
    def made(start: str, zone: str) -> str:
        more = {ups.START_DATETIME: ups.element("DT", start), ups.TIMEZONE_OFFSET: ups.element("SH", zone)}
        return worklist.create(asked() | more | {ups.PRIORITY: ups.element("CS", "LOW")}, None, USER)

    tokyo, denver = made("20260303003000", "+0900"), made("20260302203000", "-0700")  # in UTC on the 2nd, on the 3rd
    names = {tokyo: "Tokyo", denver: "Denver", made("20260302233000+0100", "-0700"): "Berlin"}  # its own offset counts

    def found(key: str, **more: str) -> set[str]:
        rows, left = worklist.search({ups.START_DATETIME: key, **more}, None, 0, USER)
        assert left == 0
        return {names[str(ups.value(row, ups.SOP_INSTANCE_UID))] for row in rows}

    assert found("20260302") == {"Tokyo", "Berlin"}
    assert found("20260303") == {"Denver"}
    assert found("20260302153000") == {"Tokyo"}
    assert found("20260303003000+0900") == {"Tokyo"}
    assert found("20260302223000-") == {"Denver", "Berlin"}
    assert found("20260302", **{ups.PRIORITY: "HIGH"}) == set()
    assert found("20260303", **{"00100030": ""}) == {"Denver"}
    worklist.update(tokyo, {ups.START_DATETIME: ups.element("DT", "20260401003000")}, None, USER)
    assert found("20260331") == {"Tokyo"}


def test_search(worklist: Worklist, clock: Clock) -> None:
    made = []
    for n in range(5):
        clock.now = T0 + n
        made.append(worklist.create(asked(study=f"1.2.{n}", plugin="count" if n % 2 else "measure"), None, USER))
    worklist.request_cancel(made[0], "", USER)

    def found(limit: int | None = None, offset: int = 0, **keys: str) -> list[int]:
        by_path = {name.strip("_").replace("_", "."): text for name, text in keys.items()}
        rows, _ = worklist.search(by_path, limit, offset, USER)
        return [made.index(ups.value(row, ups.SOP_INSTANCE_UID)) for row in rows]

    assert found() == [4, 3, 2, 1, 0]
    assert found(_00741000="SCHEDULED") == [4, 3, 2, 1]
    assert found(_00404018_00080100="count") == [3, 1]
    assert found(_0020000D="1.2.2,1.2.3") == [3, 2]
    assert found(_00404021_0020000D="1.2.2") == [2]
    assert found(_00100020="SYN-1.2.1") == [1]
    assert found(_00100020="SYN-*.1") == [1]
    assert found(_00100010="synthetic^*") == [4, 3, 2, 1, 0]
    assert found(_00741204="Count of 1.2.?") == [4, 3, 2, 1, 0]
    assert found(_00404005="20260102-") == [4, 3, 2, 1, 0]
    assert found(_00404005="-20260101") == []
    assert found(_00404005="20260102") == [4, 3, 2, 1, 0]
    assert found(_00741000="*", _00741204="") == [4, 3, 2, 1, 0]
    assert found(limit=2, offset=1) == [3, 2]
    assert worklist.search({}, 2, 1, USER)[1] == 2
    assert worklist.search({ups.PATIENT_ID: "SYN-*"}, 2, 1, USER)[1] == 2
    assert worklist.search({}, 10, 99, USER) == ([], 0)
    for row in worklist.search({}, None, 0, USER)[0]:
        assert set(ups.TYPE_1) | set(ups.TYPE_2) <= set(row)
        assert ups.TRANSACTION_UID not in row
    for path, text in (
        ("00404005", "soon"),
        ("0040401X", "1"),
        ("00404018", "x"),
        ("00091001", "x"),
        ("00741004", "x"),
    ):
        with pytest.raises(InvalidQuery):
            worklist.search({path: text}, 1, 0, USER)
    foreign = ups.element("SQ", ups.code("110004", "DCM", "Computer Aided Detection"))
    made.append(worklist.create(asked(study="1.2.9", **{ups.WORKITEM_CODE_SEQUENCE: foreign}), None, USER))
    assert found(_00404018_00080100="110004") == [5]
    assert found(_00404018_00080100="count") == [3, 1]


@pytest.mark.parametrize(
    ("keys", "matching"),
    [
        ({"00741204": "Count of 1.2.3"}, 1), ({"00741204": "*1.2.?"}, 10), ({"00100020": "SYN-1.2.1*"}, 3),
        ({"00404018.00080100": "count"}, 12), ({"00404018.00080100": "count", "00741000": "SCHEDULED"}, 12),
        ({"00404021.0020000D": "1.2.5"}, 1), ({"00741200": "HIGH"}, 0), ({"00404005": "20260102-"}, 12),
        ({"00100010": "synthetic^sam"}, 12), ({"00404041": "READY", "00741202": "M3DICOM"}, 12),
        ({"0040A370.0020000D": "1.2.7"}, 1), ({"00404025.00080100": "CT1"}, 0), ({"00080018": "1.2.3.4.5"}, 0),
    ],
)  # fmt: skip
def test_a_search_reads_only_what_matches(
    worklist: Worklist, keys: dict[str, str], matching: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(12):
        worklist.create(asked(study=f"1.2.{n}"), None, USER)
    read: list[object] = []
    original = workitems.row
    monkeypatch.setattr(workitems, "row", lambda found: read.append(found) or original(found))
    rows, remaining = worklist.search(keys, 4, 0, USER)
    assert len(rows) + remaining == matching
    assert len(read) == min(matching, 4)


def test_what_a_search_finds_follows_the_workitem(worklist: Worklist) -> None:
    uid = worklist.create(asked(), None, USER)

    def found(**keys: str) -> bool:
        return bool(
            worklist.search({name.lstrip("t").replace("_", "."): text for name, text in keys.items()}, 1, 0, USER)[0]
        )

    station = ups.element("SQ", ups.code("CT1", "99X", "Scanner"), ups.code("CT2", "99Y", "Scanner"))
    assert not found(t00404025_00080100="CT1")
    worklist.update(uid, {"00404025": station, ups.LABEL: ups.element("LO", "New")}, None, USER)
    assert found(t00404025_00080100="CT1", t00741204="New")
    assert not found(t00741204="Count*")
    # In one item of a sequence (PS3.4 C.2.2.2.6)
    assert found(t00404025_00080100="CT1", t00404025_00080102="99X")
    assert not found(t00404025_00080100="CT1", t00404025_00080102="99Y")
    # On what no index holds
    assert found(t00404025_00080104="Scan*")
    assert not found(t00404025_00080104="Scan*", t00741000="CANCELED")
    worklist.update(uid, {"00404025": ups.element("SQ")}, None, USER)
    assert not found(t00404025_00080100="CT1")
    for options, expected in ((PLAIN, False), (Options(fuzzy=True), True)):
        rows, _ = worklist.search({ups.PATIENT_NAME: "sam synthetick"}, 1, 0, USER, options)
        assert bool(rows) is expected
    assert worklist.search({"00100030": '""'}, 1, 0, USER, Options(empty_values=True))[0]
    assert not worklist.search({"00100020": '""'}, 1, 0, USER, Options(empty_values=True))[0]
    assert worklist.search({"00100010": "synthetic^*=山*"}, 1, 0, USER)[0] == []


# Leases --------------------------------------------------------------------------------------------------------------


def test_claim_takes_the_most_urgent_then_the_oldest_of_its_plugins(worklist: Worklist, clock: Clock) -> None:
    order = []
    for n, (plugin, priority) in enumerate(
        [("a", "LOW"), ("a", "MEDIUM"), ("b", "HIGH"), ("a", "MEDIUM"), ("a", "HIGH")]
    ):
        clock.now = T0 + n
        order.append(worklist.create(asked(plugin, study=f"1.2.{n}", priority=priority), None, USER))
    claims = [worklist.claim(["a"], "w", T0 + 9, 30) for _ in range(5)]
    assert [order.index(c.uid) if c else None for c in claims] == [4, 1, 3, 0, None]
    last = worklist.claim(["a", "b"], "w", T0 + 9, 30)
    assert last is not None
    assert last.uid == order[2]
    assert ups_task.parameters_of(last.attributes) == {"threshold": 300}
    assert worklist.claim([], "w", T0 + 9, 30) is None


def test_a_start_in_the_future_or_missing_inputs_wait(worklist: Worklist) -> None:
    later = {ups.START_DATETIME: ups.element("DT", ups.dt(T0 + 100))}
    uid = worklist.create(asked(**later), None, USER)
    assert worklist.claim(["count"], "w", T0, 30) is None
    worklist.update(uid, {ups.INPUT_READINESS_STATE: ups.element("CS", "INCOMPLETE")}, None, USER)
    assert worklist.claim(["count"], "w", T0 + 200, 30) is None
    worklist.update(uid, {ups.INPUT_READINESS_STATE: ups.element("CS", "READY")}, None, USER)
    assert worklist.claim(["count"], "w", T0 + 200, 30) is not None


def test_progress_is_seen_while_it_runs(worklist: Worklist) -> None:
    uid = worklist.create(asked(), None, USER)
    claim = worklist.claim(["count"], "w", T0, 30)
    assert claim is not None
    assert worklist.heartbeat(claim, T0 + 1, 0.25, "smoothing") == "continue"
    assert ups.progress_of(worklist.retrieve(uid, USER)) == (25, "smoothing", "")
    [moved] = worklist.moved_since(T0 + 1, USER)
    assert moved == {
        "uid": uid, "state": "IN PROGRESS", "label": "Count of 1.2.3", "plugin": "count", "message": "smoothing",
        "study_instance_uid": "1.2.3", "progress": 25, "reason": "", "updated_at": T0 + 1, "ended": None,
        "superseded_by": None,
    }  # fmt: skip
    assert worklist.moved_since(T0 + 1.5, USER) == []


def test_cancelling_reaches_the_worker(worklist: Worklist) -> None:
    uid = worklist.create(asked(), None, USER)
    claim = worklist.claim(["count"], "w", T0, 30)
    assert claim is not None
    assert worklist.request_cancel(uid, "not needed", USER) is None
    assert state_of(worklist, uid) == "IN PROGRESS"
    assert worklist.verdict(claim) == "cancel"
    assert worklist.heartbeat(claim, T0 + 1) == "cancel"
    with pytest.raises(StateConflict):
        worklist.complete(claim, [], T0 + 1)
    worklist.fail(claim, "stopped", T0 + 2, retry=True)
    assert state_of(worklist, uid) == "CANCELED"
    assert reason_of(worklist, uid) == "not needed"


def test_completion_is_fenced_and_all_or_nothing(worklist: Worklist, index: Index) -> None:
    uid = worklist.create(asked(), None, USER)
    slow = worklist.claim(["count"], "slow", T0, 30)
    assert slow is not None
    assert worklist.reap(T0 + 31) == 1
    assert state_of(worklist, uid) == "IN PROGRESS"
    quick = worklist.claim(["count"], "quick", T0 + 32, 30)
    assert quick is not None
    assert (quick.uid, quick.attempt) == (uid, 2)

    def file(also: Callable[[Connection], None]) -> str:
        def work(conn: Connection) -> str:
            conn.execute(schema.cursor.insert().values(name="filed", seq=1))
            also(conn)
            return "filed"

        return index.transact(work)

    def filed() -> int:
        with index.read() as conn:
            return int(conn.execute(select(func.count()).where(schema.cursor.c.name == "filed")).scalar_one())

    assert worklist.heartbeat(slow, T0 + 33) == "lost"
    with pytest.raises(StateConflict, match="lease"):
        worklist.complete(slow, [], T0 + 33, file)
    assert filed() == 0
    outputs = [ups_task.References("1.2.3", "1.2.3.99", (("1.2.840.10008.5.1.4.1.1.66.4", "1.2.3.99.1"),))]
    assert worklist.complete(quick, outputs, T0 + 40, file) == "filed"
    assert filed() == 1
    done = worklist.retrieve(uid, USER)
    assert ups.value(done, ups.PROCEDURE_STEP_STATE) == "COMPLETED"
    assert list(ups_task.outputs_of(done)) == outputs
    assert ups.progress_of(done)[0] == 100
    worklist.fail(slow, "late", T0 + 41)
    worklist.fail(quick, "late", T0 + 41)
    assert state_of(worklist, uid) == "COMPLETED"


def test_a_task_whose_workers_die_ends_canceled_with_its_reason(worklist: Worklist) -> None:
    uid = worklist.create(asked(), None, USER)
    now = T0
    for attempt in (1, 2, 3):
        claim = worklist.claim(["count"], "w", now, 30)
        assert claim is not None
        assert claim.attempt == attempt
        assert worklist.reap(now + 29) == 0
        assert worklist.reap(now + 31) == 1
        now += 100
    assert worklist.claim(["count"], "w", now, 30) is None
    assert state_of(worklist, uid) == "CANCELED"
    assert reason_of(worklist, uid) == "its worker was lost 3 times"


def test_a_failure_is_retried_only_when_asked_for(worklist: Worklist) -> None:
    uid = worklist.create(asked(), None, USER)
    first = worklist.claim(["count"], "w", T0, 30)
    assert first is not None
    worklist.fail(first, "the store was away", T0 + 1, retry=True)
    second = worklist.claim(["count"], "w", T0 + 10, 30)
    assert second is not None
    worklist.fail(second, "the series has mixed orientations", T0 + 11)
    assert state_of(worklist, uid) == "CANCELED"
    assert reason_of(worklist, uid) == "the series has mixed orientations"


def test_a_worker_that_stops_hands_its_work_back(worklist: Worklist) -> None:
    worklist.create(asked(), None, USER)
    for _ in range(5):
        claim = worklist.claim(["count"], "w", T0, 30)
        assert claim is not None
        assert claim.attempt == 1
        worklist.release(claim, T0)
        assert worklist.heartbeat(claim, T0) == "lost"


def test_cancel_of_a_task_between_two_attempts_ends_it(worklist: Worklist) -> None:
    uid = worklist.create(asked(), None, USER)
    claim = worklist.claim(["count"], "w", T0, 30)
    assert claim is not None
    worklist.reap(T0 + 31)
    worklist.request_cancel(uid, "enough", USER)
    assert state_of(worklist, uid) == "CANCELED"
    other = worklist.create(asked(), None, USER)
    assert worklist.claim(["count"], "w", T0, 30) is not None
    worklist.request_cancel(other, "enough", USER)
    assert worklist.reap(T0 + 31) == 1
    assert (state_of(worklist, other), reason_of(worklist, other)) == ("CANCELED", "enough")


def test_offers_are_repeated_until_somebody_takes_it(worklist: Worklist) -> None:
    uid = worklist.create(asked(), None, USER)
    worklist.create(asked(**{ups.WORKITEM_CODE_SEQUENCE: {"vr": "SQ"}}), None, USER)  # no plug-in of ours
    [offer] = worklist.due_offers(T0, 10)
    assert (offer.uid, offer.plugin, offer.attempt) == (uid, "count", 0)
    assert worklist.due_offers(T0 + 9, 10) == []
    assert len(worklist.due_offers(T0 + 11, 10)) == 1
    claim = worklist.claim(["count"], "w", T0 + 12, 30)
    assert claim is not None
    assert worklist.due_offers(T0 + 30, 10) == []
    worklist.reap(T0 + 43)
    assert [o.attempt for o in worklist.due_offers(T0 + 43.5, 10)] == [1]


def test_hundred_tasks_and_eight_greedy_workers(worklist: Worklist) -> None:
    made = {worklist.create(asked(study=f"1.2.{n}"), None, USER) for n in range(40)}
    taken: list[str] = []

    def work() -> None:
        while (claim := worklist.claim(["count"], threading.current_thread().name, T0, 30)) is not None:
            taken.append(claim.uid)
            worklist.complete(claim, [], T0 + 1)

    run_together(work, 8)
    assert sorted(taken) == sorted(made)
    assert worklist.search({ups.PROCEDURE_STEP_STATE: "COMPLETED"}, 0, 0, USER)[1] == 40


def test_supersede(worklist: Worklist, clock: Clock) -> None:
    old = worklist.create(asked(), None, SYSTEM, task="old")
    clock.now += 1
    grown = ups_task.reference_item(ups_task.References("1.2.3", "1.2.3.4", (("1.2", "1.2.3.4.5"),)))
    new = worklist.create(asked(**{ups.INPUT_INFORMATION_SEQUENCE: ups.element("SQ", grown)}), None, SYSTEM, task="new")
    assert [row.uid for row in worklist.of_plugin("count", "1.2.3")] == [old, new]
    worklist.supersede(old, new)
    assert reason_of(worklist, old) == f"superseded by {new}"
    worklist.supersede(old, new)
    assert state_of(worklist, new) == "SCHEDULED"


def run_together(work: Callable[[], None], count: int) -> None:
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def test_events_wake_up(worklist: Worklist) -> None:
    events: Events = worklist._events
    before = events.version
    worklist.create(asked(), None, USER)
    assert events.version > before
