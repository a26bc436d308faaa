"""Watching the worklist: who is told what, in which order, and that nothing of it is lost (PS3.4 CC.2.3, CC.2.4)."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from typing import Any

import pytest
from sqlalchemy import Connection

from pacs.audit import Audit
from pacs.auth import SYSTEM, Principal
from pacs.dicom import ups, ups_task
from pacs.dicom.ups_events import FILTERED_GLOBAL_UID, GLOBAL_UID, EventType
from pacs.errors import ActionUnsuitable, InvalidInput, InvalidQuery, NotFound
from pacs.events import Events
from pacs.index import subscriptions
from pacs.index.engine import Index
from pacs.worklist import Worklist

T0 = 1_770_000_000.0
USER = Principal("ann", "session")


class Clock:
    def __init__(self) -> None:
        self.now = T0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def worklist(index: Index, clock: Clock) -> Worklist:
    return Worklist(index, Events(), clock=clock)


_SERIES = itertools.count(4)


def asked(plugin: str = "count", **changes: Any) -> dict[str, Any]:
    built = ups_task.build(
        plugin=plugin, title=plugin, label="Count", now=T0, parameters=[],
        inputs=[ups_task.References("1.2.1", f"1.2.1.{next(_SERIES)}")],  # nobody asks for the same twice
        patient={"00100020": {"vr": "LO", "Value": ["SYN"]}},
    )  # fmt: skip
    return {**built, **changes}


def told(worklist: Worklist, receiver: str, after: int = 0) -> list[tuple[str, EventType, str]]:
    """(Workitem UID, type, what it says in one word) of each event that waits."""
    return [(e.workitem_uid, e.type, said(e.information)) for e in worklist.events_for(receiver, after, 1000)]


def said(information: Mapping[str, Any]) -> str:
    progress = next(iter(ups.items(information, ups.PROGRESS_SEQUENCE)), {})
    found = (
        ups.value(information, ups.PROCEDURE_STEP_STATE), ups.value(progress, ups.PROGRESS),
        ups.value(information, "00741236"), ups.value(information, "00741242"),
    )  # fmt: skip
    return next((str(each) for each in found if each is not None), "")


STATE, PROGRESS, CANCEL = EventType.STATE_REPORT, EventType.PROGRESS_REPORT, EventType.CANCEL_REQUESTED


def performed() -> dict[str, Any]:
    step = ups_task.performed(asked(), [], station="other", started=T0, ended=T0)
    return {ups.PERFORMED_PROCEDURE_SEQUENCE: step[ups.PERFORMED_PROCEDURE_SEQUENCE]}


def test_a_workitem_from_start_to_end(worklist: Worklist) -> None:
    uid = worklist.create(asked(), None, USER)
    other = worklist.create(asked(), None, USER)
    worklist.subscribe(uid, "WATCHER", USER)
    worklist.change_state(uid, "IN PROGRESS", "1.2.77", USER)
    worklist.change_state(other, "IN PROGRESS", "1.2.78", USER)
    progress = ups.element("SQ", {ups.PROGRESS: ups.element("DS", 40), "00741006": ups.element("ST", "half way")})
    worklist.update(uid, {ups.PROGRESS_SEQUENCE: progress}, "1.2.77", USER)
    worklist.update(uid, {ups.LABEL: ups.element("LO", "New")}, "1.2.77", USER)
    reason = ups.element("SQ", ups.code("110513", "DCM", "Discontinued"))
    request = {ups.DISCONTINUATION_REASON_CODE_SEQUENCE: reason, "0074100C": ups.element("LO", "Ann")}
    assert worklist.request_cancel(uid, "no more", USER, requesting_ae="ASKER", request=request) is None
    worklist.update(uid, performed(), "1.2.77", USER)
    worklist.change_state(uid, "COMPLETED", "1.2.77", USER)
    worklist.change_state(uid, "COMPLETED", "1.2.77", USER)  # a warning, no change
    assert told(worklist, "WATCHER") == [
        (uid, STATE, "SCHEDULED"), (uid, STATE, "IN PROGRESS"), (uid, PROGRESS, "40"), (uid, CANCEL, "ASKER"),
        (uid, STATE, "COMPLETED"),
    ]  # fmt: skip
    events = worklist.events_for("WATCHER")
    assert [event.seq for event in events] == sorted({event.seq for event in events})
    assert events[0].information == {"00404041": ups.element("CS", "READY"), "00741000": ups.element("CS", "SCHEDULED")}
    assert ups.items(events[2].information, ups.PROGRESS_SEQUENCE) == progress["Value"]
    assert {**request, "00741236": ups.element("AE", "ASKER"), "00741238": ups.element("LT", "no more")} == dict(
        events[3].information
    )


def test_a_cancelled_one_is_taken_first(worklist: Worklist) -> None:
    uid = worklist.create(asked(), None, USER)
    worklist.subscribe(uid, "WATCHER", USER)
    worklist.request_cancel(uid, "wrong patient", USER)
    assert told(worklist, "WATCHER") == [(uid, STATE, s) for s in ("SCHEDULED", "IN PROGRESS", "CANCELED")]
    last = worklist.events_for("WATCHER")[-1].information
    assert ups.value(last, ups.REASON_FOR_CANCELLATION) == "wrong patient"
    assert ups.items(last, ups.DISCONTINUATION_REASON_CODE_SEQUENCE)


def test_a_worker_of_ours_is_watched_as_well(worklist: Worklist) -> None:
    worklist.subscribe(GLOBAL_UID, "WATCHER", SYSTEM)
    uid = worklist.create(asked(), None, USER)
    first = worklist.claim(["count"], "w", T0, 30)
    assert first is not None
    assert worklist.heartbeat(first, T0 + 1, 0.25, "reading") == "continue"
    assert worklist.heartbeat(first, T0 + 2, 0.25, "reading") == "continue"
    worklist.fail(first, "out of memory", T0 + 3, retry=True)
    again = worklist.claim(["count"], "w", T0 + 10, 30)
    assert again is not None
    worklist.complete(again, [], T0 + 11)
    seen = told(worklist, "WATCHER")
    assert [each for each in seen if each[1] is STATE] == [
        (uid, STATE, s) for s in ("SCHEDULED", "IN PROGRESS", "COMPLETED")
    ]
    assert [each[2] for each in seen if each[1] is PROGRESS] == ["25", "0", "100"]
    ended = worklist.create(asked(), None, USER)
    claim = worklist.claim(["count"], "w", T0, 30)
    assert claim is not None
    worklist.request_cancel(ended, "enough", USER, requesting_ae="ASKER")
    worklist.fail(claim, "asked to stop", T0 + 20)
    seen = [each for each in told(worklist, "WATCHER") if each[0] == ended]
    assert seen == [
        (ended, STATE, "SCHEDULED"), (ended, STATE, "IN PROGRESS"), (ended, CANCEL, "ASKER"),
        (ended, STATE, "CANCELED"),
    ]  # fmt: skip


def test_assignment(worklist: Worklist) -> None:
    worklist.subscribe(GLOBAL_UID, "WATCHER", SYSTEM)
    station = ups.element("SQ", ups.code("CT1", "99X", "Scanner"))
    uid = worklist.create(asked(**{"00404025": station}), None, USER)
    human = ups.code("JD", "99X", "Doe")
    performers = ups.element("SQ", {"00404009": ups.element("SQ", human), "00404036": ups.element("LO", "Clinic")})
    worklist.update(uid, {"00404034": performers}, None, USER)
    worklist.update(uid, {"00404034": performers}, None, USER)
    assigned = [e.information for e in worklist.events_for("WATCHER") if e.type is EventType.ASSIGNED]
    assert assigned == [
        {"00404025": station},
        {"00404009": ups.element("SQ", human), "00404025": station, "00404036": ups.element("LO", "Clinic")},
    ]


@pytest.mark.parametrize("lock", [True, False])
def test_global_subscriptions(worklist: Worklist, lock: bool) -> None:
    old = [worklist.create(asked(), None, USER) for _ in range(3)]
    worklist.subscribe(old[0], "WATCHER", SYSTEM, lock=not lock)
    worklist.subscribe(GLOBAL_UID, "WATCHER", SYSTEM, lock=lock)
    # What names a Workitem goes before what is said globally (PS3.4 CC.2.3.1)
    assert worklist.subscriptions_of("WATCHER") == {old[0]: not lock, old[1]: lock, old[2]: lock}
    # PS3.4 CC.2.4.3: State Reports of all there are, only with a lock
    assert told(worklist, "WATCHER")[1:] == ([(uid, STATE, "SCHEDULED") for uid in old] if lock else [])
    new = worklist.create(asked(), None, USER)
    assert worklist.subscriptions_of("WATCHER")[new] is lock
    worklist.subscribe(GLOBAL_UID, "WATCHER", SYSTEM, lock=not lock)
    assert worklist.subscriptions_of("WATCHER") == dict.fromkeys([*old, new], not lock)
    worklist.unsubscribe(old[1], "WATCHER", SYSTEM)
    worklist.suspend(GLOBAL_UID, "WATCHER", SYSTEM)
    worklist.create(asked(), None, USER)
    assert worklist.subscriptions_of("WATCHER") == dict.fromkeys([old[0], old[2], new], not lock)
    worklist.unsubscribe(GLOBAL_UID, "WATCHER", SYSTEM)
    worklist.request_cancel(old[0], "", USER)
    assert worklist.subscriptions_of("WATCHER") == {}
    assert told(worklist, "WATCHER") == []


def test_filtered_subscriptions(worklist: Worklist) -> None:
    old = worklist.create(asked("measure"), None, USER)
    worklist.create(asked("count"), None, USER)
    keys = {"00404018.00080100": "measure", ups.PATIENT_ID: "S*"}
    worklist.subscribe(FILTERED_GLOBAL_UID, "WATCHER", SYSTEM, lock=True, keys=keys)
    assert told(worklist, "WATCHER") == [(old, STATE, "SCHEDULED")]
    new = worklist.create(asked("measure"), None, USER)
    worklist.create(asked("count"), None, USER)
    worklist.create(asked("measure", **{ups.PATIENT_ID: ups.element("LO", "OTHER")}), None, USER)
    assert worklist.subscriptions_of("WATCHER") == {old: True, new: True}
    with pytest.raises(InvalidInput):
        worklist.subscribe(FILTERED_GLOBAL_UID, "WATCHER", SYSTEM)
    with pytest.raises(InvalidQuery):
        worklist.subscribe(FILTERED_GLOBAL_UID, "WATCHER", SYSTEM, keys={"00404005": "soon"})
    worklist.suspend(FILTERED_GLOBAL_UID, "WATCHER", SYSTEM)
    worklist.create(asked("measure"), None, USER)
    assert worklist.subscriptions_of("WATCHER") == {old: True, new: True}


def test_what_cannot_be_subscribed(worklist: Worklist) -> None:
    uid = worklist.create(asked(), None, Principal("a", "token", scope="here"))
    for unknown in ("1.2.3", "nonsense"):
        with pytest.raises(NotFound):
            worklist.subscribe(unknown, "WATCHER", USER)
        with pytest.raises(NotFound):
            worklist.unsubscribe(unknown, "WATCHER", USER)
    there = Principal("b", "token", scope="there")
    with pytest.raises(NotFound):
        worklist.subscribe(uid, "WATCHER", there)
    worklist.subscribe(GLOBAL_UID, "WATCHER", there, lock=True)
    worklist.request_cancel(uid, "", USER)
    worklist.create(asked(), None, Principal("a", "token", scope="here"))
    assert told(worklist, "WATCHER") == []
    with pytest.raises(ActionUnsuitable):
        worklist.suspend(uid, "WATCHER", USER)
    for title in ("", "A" * 17, "A\\B", " A"):
        with pytest.raises(InvalidInput):
            worklist.subscribe(uid, title, USER)


def test_nobody_hears_of_workitems_beyond_their_scope_whoever_subscribed_the_ae(worklist: Worklist) -> None:
    here, there = (Principal(scope, "token", scope=scope) for scope in ("here", "there"))
    worklist.listen("WATCHER", here)
    worklist.subscribe(GLOBAL_UID, "WATCHER", Principal("WATCHER", "ae"))
    mine = worklist.create(asked(), None, here)
    other = worklist.create(asked(), None, there)
    worklist.announce("GOING DOWN", T0)
    assert {uid for uid, _, _ in told(worklist, "WATCHER")} == {mine, other, GLOBAL_UID}
    listener = Principal("WATCHER", "ae", scope="here")
    assert [e.workitem_uid for e in worklist.events_for("WATCHER", listener=listener)] == [mine, GLOBAL_UID]


def test_who_is_not_the_owner_by_now_reads_nothing(worklist: Worklist) -> None:
    """Between being allowed to listen and reading, the AE may have become somebody else's."""
    one, other = (Principal(name, "token") for name in ("one", "other"))
    uid = worklist.create(asked(), None, one)
    worklist.listen("CONSOLE", other)  # it is nobody's
    worklist.subscribe(uid, "CONSOLE", one)
    assert worklist.events_for("CONSOLE", listener=other) == []
    assert [e.workitem_uid for e in worklist.events_for("CONSOLE", listener=one)] == [uid]


def test_subscribing_twice_is_one_subscription(worklist: Worklist) -> None:
    uid = worklist.create(asked(), None, USER)
    worklist.subscribe(uid, "WATCHER", USER)
    worklist.subscribe(uid, "WATCHER", USER, lock=True)
    worklist.change_state(uid, "IN PROGRESS", "1.2.77", USER)
    assert [each[2] for each in told(worklist, "WATCHER")] == ["SCHEDULED", "SCHEDULED", "IN PROGRESS"]
    assert worklist.subscriptions_of("WATCHER") == {uid: True}


def test_what_fails_tells_nothing(worklist: Worklist, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = worklist.create(asked(), None, USER)
    worklist.subscribe(uid, "WATCHER", USER)
    original = subscriptions.publish

    def breaks(conn: Connection, *args: Any) -> None:
        original(conn, *args)
        raise RuntimeError("the process ends here")

    monkeypatch.setattr(subscriptions, "publish", breaks)
    with pytest.raises(RuntimeError):
        worklist.change_state(uid, "IN PROGRESS", "1.2.77", USER)
    monkeypatch.undo()
    assert len(told(worklist, "WATCHER")) == 1
    assert ups.value(worklist.retrieve(uid, USER), ups.PROCEDURE_STEP_STATE) == "SCHEDULED"


def test_events_are_taken_in_order_by_one_at_a_time(worklist: Worklist, index: Index) -> None:
    uid = worklist.create(asked(), None, USER)
    worklist.subscribe(uid, "WATCHER", USER)
    worklist.request_cancel(uid, "", USER)
    assert worklist.due_receivers(T0) == ["WATCHER"]
    assert worklist.begin_delivery("WATCHER", "one", T0, 30)
    assert not worklist.begin_delivery("WATCHER", "two", T0 + 29, 30)
    assert worklist.begin_delivery("WATCHER", "one", T0 + 29, 30)
    assert worklist.due_receivers(T0 + 30) == []
    first, *rest = worklist.events_for("WATCHER")
    worklist.taken("WATCHER", first.seq)
    assert Worklist(index, Events()).events_for("WATCHER") == rest  # durable, whoever asks
    assert worklist.events_for("WATCHER", after=rest[0].seq) == rest[1:]
    assert worklist.events_for("WATCHER", limit=1) == rest[:1]
    worklist.end_delivery("WATCHER", "one")
    assert worklist.begin_delivery("WATCHER", "two", T0 + 30, 30)
    assert worklist.begin_delivery("WATCHER", "three", T0 + 61, 30)  # "two" was not heard of any more
    worklist.end_delivery("WATCHER", "two")
    assert not worklist.begin_delivery("WATCHER", "two", T0 + 62, 30)
    worklist.taken("WATCHER", rest[-1].seq)
    assert worklist.due_receivers(T0 + 1e6) == []


def test_who_listens_at_several_doors_is_sent_to_by_all_and_by_nobody_else(worklist: Worklist) -> None:
    uid = worklist.create(asked(), None, USER)
    worklist.subscribe(uid, "WATCHER", USER)
    assert worklist.begin_listening("WATCHER", "one", T0, 60)
    assert worklist.begin_listening("WATCHER", "two", T0 + 10, 60)
    worklist.end_listening("WATCHER", "one", T0 + 11)
    assert worklist.due_receivers(T0 + 12) == []  # the other has it still
    assert not worklist.begin_delivery("WATCHER", "door", T0 + 12, 30)
    worklist.end_listening("WATCHER", "one", T0 + 13)  # twice is once
    assert not worklist.begin_delivery("WATCHER", "door", T0 + 14, 30)
    worklist.end_listening("WATCHER", "two", T0 + 15)
    assert worklist.begin_delivery("WATCHER", "door", T0 + 16, 30)
    assert not worklist.begin_listening("WATCHER", "one", T0 + 17, 60)
    worklist.end_delivery("WATCHER", "door")
    assert worklist.begin_listening("WATCHER", "one", T0 + 18, 60)
    assert worklist.begin_listening("WATCHER", "two", T0 + 70, 60)
    worklist.end_listening("WATCHER", "two", T0 + 79)  # and "one" was not heard of any more
    assert worklist.due_receivers(T0 + 80) == ["WATCHER"]


def test_who_cannot_be_reached_is_left_alone_longer_each_time(worklist: Worklist) -> None:
    uid = worklist.create(asked(), None, USER)
    worklist.subscribe(uid, "WATCHER", USER)
    waits = [worklist.unreachable("WATCHER", "does not answer", T0) for _ in range(7)]
    assert waits == sorted(waits)
    assert waits[0] < waits[4] == waits[6]
    assert worklist.due_receivers(T0 + waits[6] - 1) == []
    assert worklist.due_receivers(T0 + waits[6] + 1) == ["WATCHER"]
    worklist.taken("WATCHER", worklist.events_for("WATCHER")[0].seq)
    worklist.request_cancel(uid, "", USER)
    assert worklist.due_receivers(T0) == ["WATCHER"]


def test_nothing_is_dropped_silently(worklist: Worklist, index: Index, clock: Clock) -> None:
    uid = worklist.create(asked(), None, USER)
    worklist.subscribe(uid, "WATCHER", USER)
    clock.now += 7200
    worklist.change_state(uid, "IN PROGRESS", "1.2.77", USER)
    assert worklist.drop_stale(clock.now, hours=3) == 0
    assert worklist.drop_stale(clock.now, hours=1) == 1
    (event,) = worklist.events_for("WATCHER")
    worklist.refused("WATCHER", event, "status 0110H")
    assert told(worklist, "WATCHER") == []
    noted = Audit(index).query("workitem events dropped")
    assert [(each.outcome, each.workitem_uid) for each in noted] == [("failure", uid), ("failure", None)]
    assert "WATCHER" in noted[1].detail


def test_a_restart_is_told_to_those_who_watch(worklist: Worklist) -> None:
    uid = worklist.create(asked(), None, USER)
    worklist.subscribe(uid, "ONE", USER)
    worklist.subscribe(GLOBAL_UID, "ALL", SYSTEM)
    worklist.subscribe(uid, "GONE", USER)
    worklist.unsubscribe(uid, "GONE", USER)
    worklist.announce("RESTARTED", T0)
    for receiver in ("ONE", "ALL"):
        last = worklist.events_for(receiver)[-1]
        assert (last.workitem_uid, last.type) == (GLOBAL_UID, EventType.SCP_STATUS_CHANGE)
        assert {tag: ups.value(last.information, tag) for tag in last.information} == {
            "00741242": "RESTARTED", "00741244": "WARM START", "00741246": "WARM START",
        }  # fmt: skip
    assert told(worklist, "GONE") == []


def test_a_deletion_lock_keeps_a_workitem(worklist: Worklist, clock: Clock) -> None:
    free, held, open_ = (worklist.create(asked(), None, USER) for _ in range(3))
    worklist.subscribe(held, "WATCHER", USER, lock=True)
    worklist.subscribe(free, "WATCHER", USER)
    for uid in (free, held):
        worklist.request_cancel(uid, "", USER)
    assert worklist.forget(clock.now + 86_400 * 1.5, days=2) == 0
    assert worklist.forget(clock.now + 86_400 * 3, days=2) == 1
    with pytest.raises(NotFound):
        worklist.retrieve(free, USER)
    assert worklist.retrieve(held, USER)
    assert worklist.retrieve(open_, USER)
    assert worklist.subscriptions_of("WATCHER") == {held: True}
    worklist.unsubscribe(held, "WATCHER", USER)
    assert worklist.forget(clock.now + 86_400 * 3, days=2) == 1


def test_events_of_many_changes_at_once_are_seen_in_order(worklist: Worklist, index: Index) -> None:
    worklist.subscribe(GLOBAL_UID, "WATCHER", SYSTEM)
    stop, seen = threading.Event(), []

    def read() -> None:
        after = 0
        while True:
            last = stop.is_set()
            for event in worklist.events_for("WATCHER", after):
                seen.append(event.seq)
                after = event.seq
            if last:
                return

    reader = threading.Thread(target=read)
    reader.start()
    makers = [
        threading.Thread(target=lambda: [worklist.create(asked(), None, USER) for _ in range(15)]) for _ in range(4)
    ]
    for each in makers:
        each.start()
    for each in makers:
        each.join()
    stop.set()
    reader.join()
    assert seen == [event.seq for event in worklist.events_for("WATCHER", 0, 1000)]
    assert len(seen) == 60
