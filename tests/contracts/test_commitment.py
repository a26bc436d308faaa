"""Storage commitment on every index: promises are made after reading again, reported until taken, and never lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dicom_data
import pytest

from pacs import commitment
from pacs.auth import SYSTEM, Principal, Right
from pacs.commitment import MAX_INSTANCES, Commitment, Commitments, Failure
from pacs.committing import Committing
from pacs.errors import (
    ArchiveError,
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    OutOfResources,
    PeerUnreachable,
    Quarantined,
    TooLarge,
    Unavailable,
)
from pacs.events import Events
from pacs.index import commitments as sql
from pacs.index.engine import Index
from pacs.ingest import Ingest
from pacs.settings import Settings
from pacs.storage.base import Locator, ObjectStore
from pacs.storage.files import FileStore
from pacs.storage.memory import MemoryStore
from pacs.storage.s3 import S3Store

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT = "1.2.840.10008.1.2.1"
MODALITY = Principal("CT1", "ae")
DEADLINE_S = 60.0


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Diary:
    """A reporter that writes down what it is told, and fails while it has a reason to."""

    def __init__(self) -> None:
        self.told: list[Commitment] = []
        self.tries = 0
        self.broken: ArchiveError | None = None

    def report(
        self,
        due: Sequence[Commitment],
        origins: Mapping[int, object],
        taken: Callable[[Commitment], None],
        failed: Callable[[Commitment, str], None],
    ) -> None:
        self.tries += 1
        for each in due:
            if self.broken is not None:
                raise self.broken
            self.told.append(each)
            taken(each)

    def close(self) -> None:
        """Nothing waits."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def commitments(index: Index, clock: Clock) -> Commitments:
    return Commitments(index, clock=clock)


@pytest.fixture
def diary() -> Diary:
    return Diary()


@pytest.fixture
def committing(
    commitments: Commitments, index: Index, memory: MemoryStore, clock: Clock, diary: Diary
) -> Iterator[Committing]:
    made = Committing(commitments, index, memory, hours=1, clock=clock)
    made.add_reporter("dimse", diary)
    yield made
    made.close()


def put_in(ingest: Ingest, count: int) -> list[tuple[str, str]]:
    """Instances stored, as (SOP Class UID, SOP Instance UID)."""
    pairs = []
    for ds in dicom_data.series(count, study=1):
        receiving = ingest.receive(EXPLICIT, CT, ds.SOPInstanceUID, "CT1")
        receiving.write(dicom_data.dataset_bytes(ds))
        ingest.store(receiving, principal=SYSTEM)
        pairs.append((CT, str(ds.SOPInstanceUID)))
    return pairs


def corrupt(store: ObjectStore, locator: Locator) -> None:
    """Let the last bit of an object tip over, behind the back of its store."""
    data = bytearray(store.read(locator))
    data[-1] ^= 1
    if isinstance(store, MemoryStore):
        store._objects[locator.object_key] = bytes(data)
    elif isinstance(store, S3Store):
        store._client.put_object(Bucket=store._bucket, Key=store._prefix + locator.object_key, Body=bytes(data))
    else:
        assert isinstance(store, FileStore)
        (path,) = store._objects.rglob(Path(locator.object_key).name)
        with path.open("r+b") as file:
            file.seek(locator.offset)
            file.write(data)


def until(condition: Callable[[], Any], step: Callable[[], object] = lambda: None) -> None:
    """Return once the condition holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        step()
        time.sleep(0.01)


def failures(commitment: Commitment) -> list[str | None]:
    return [item.failure for item in commitment.items]


def test_all_committed(
    ingest: Ingest, commitments: Commitments, committing: Committing, diary: Diary, clock: Clock
) -> None:
    pairs = put_in(ingest, 3)
    commitments.accept("1.2.3", pairs, peer="CT1", principal=MODALITY)
    until(lambda: diary.told)
    assert diary.told[0].complete
    assert [(item.sop_class_uid, item.sop_instance_uid) for item in diary.told[0].items] == pairs
    until(lambda: [each.state for each in commitments.listed()] == ["reported"])
    clock.now += 1000
    committing.step(clock.now)
    assert len(diary.told) == 1


def test_each_failure_has_its_reason(
    ingest: Ingest, commitments: Commitments, committing: Committing, diary: Diary, index: Index, memory: MemoryStore
) -> None:
    pairs = put_in(ingest, 4)
    with index.read() as conn:
        held = sql.stored(conn, [uid for _, uid in pairs])
    spoilt, lost = held[pairs[1][1]], held[pairs[2][1]]
    corrupt(memory, Locator(spoilt.object_key, spoilt.object_offset, spoilt.object_length))
    memory.delete(Locator(lost.object_key, lost.object_offset, lost.object_length))
    asked = [pairs[0], pairs[1], pairs[2], (MR, pairs[3][1]), (CT, "1.2.3.4")]
    commitments.accept("1.2.3", asked, peer="CT1", principal=MODALITY)
    until(lambda: diary.told)
    assert failures(diary.told[0]) == [
        "", Failure.PROCESSING, Failure.PROCESSING, Failure.CLASS_CONFLICT, Failure.NO_SUCH_INSTANCE,
    ]  # fmt: skip
    assert not diary.told[0].complete
    (listed,) = commitments.listed()
    assert (listed.total, listed.failed) == (5, 4)


def test_other_content_of_the_asker_in_quarantine_is_not_committed(
    commitments: Commitments, committing: Committing, diary: Diary, index: Index, memory: MemoryStore
) -> None:
    ingest = Ingest(memory, index, Events(), Settings(other_content="quarantine"))
    pairs = put_in(ingest, 1)
    other = next(dicom_data.series(1, study=1, StudyDescription="other"))
    receiving = ingest.receive(EXPLICIT, CT, other.SOPInstanceUID, "CT2")
    receiving.write(dicom_data.dataset_bytes(other))
    with pytest.raises(Quarantined):
        ingest.store(receiving, principal=SYSTEM)
    commitments.accept("1.2.1", pairs, peer="CT2", principal=MODALITY)
    commitments.accept("1.2.2", pairs, peer="CT1", principal=MODALITY)
    until(lambda: len(diary.told) == 2)
    assert {each.peer: failures(each) for each in diary.told} == {"CT2": [Failure.PROCESSING], "CT1": [""]}


@pytest.mark.parametrize("index_url", ["sqlite"], indirect=True)
def test_the_store_itself_is_read_again(
    commitments: Commitments, index: Index, store: ObjectStore, diary: Diary, clock: Clock
) -> None:
    archive_store: ObjectStore = getattr(store, "remote", store)
    pairs = put_in(Ingest(store, index, Events(), Settings()), 2)
    with index.read() as conn:
        held = sql.stored(conn, [uid for _, uid in pairs])
    spoilt = held[pairs[0][1]]
    locator = Locator(spoilt.object_key, spoilt.object_offset, spoilt.object_length)
    assert len(store.read(locator)) == locator.length  # a cache would know it from now on
    corrupt(archive_store, locator)
    committing = Committing(commitments, index, archive_store, clock=clock)
    committing.add_reporter("dimse", diary)
    commitments.accept("1.2.3", pairs, peer="CT1", principal=MODALITY)
    until(lambda: diary.told)
    assert failures(diary.told[0]) == [Failure.PROCESSING, ""]
    committing.close()


def test_what_another_scope_holds_is_not_there(
    ingest: Ingest, commitments: Commitments, committing: Committing, diary: Diary
) -> None:
    pairs = put_in(ingest, 1)
    commitments.accept("1.2.3", pairs, peer="CT1", principal=Principal("CT1", "ae", scope="elsewhere"))
    until(lambda: diary.told)
    assert failures(diary.told[0]) == [Failure.NO_SUCH_INSTANCE]


def test_the_same_request_again_is_one_and_another_under_its_uid_is_a_duplicate(
    ingest: Ingest, commitments: Commitments, committing: Committing, diary: Diary
) -> None:
    pairs = put_in(ingest, 2)
    first = commitments.accept("1.2.3", pairs, peer="CT1", principal=MODALITY)
    until(lambda: len(diary.told) == 1)
    until(lambda: commitments.listed("reported"))
    assert commitments.accept("1.2.3", pairs, peer="CT1", principal=MODALITY) == first
    until(lambda: len(diary.told) == 2)
    assert diary.told[1].complete
    until(lambda: not commitments.listed("asked", "due"))
    other = commitments.accept("1.2.3", pairs[:1], peer="CT1", principal=MODALITY)
    assert other != first
    until(lambda: len(diary.told) == 3)
    assert failures(diary.told[2]) == [Failure.DUPLICATE_TRANSACTION]
    # somebody else may use the same UID
    commitments.accept("1.2.3", pairs[:1], peer="CT2", principal=MODALITY)
    until(lambda: len(diary.told) == 4)
    assert diary.told[3].complete


def test_a_request_that_comes_as_the_verifier_ends_is_not_left_to_the_next_step(
    ingest: Ingest, commitments: Commitments, committing: Committing, diary: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = put_in(ingest, 1)
    verify_next, step, stepped = committing._verify_next, committing.step, threading.Event()
    late = ["1.2.4"]

    def stepping(now: float) -> None:
        step(now)
        stepped.set()

    def verifying() -> bool:
        found = verify_next()
        if not found and late:
            stepped.clear()
            commitments.accept(late.pop(), pairs, peer="CT2", principal=MODALITY)
            assert stepped.wait(DEADLINE_S)
        return found

    monkeypatch.setattr(committing, "step", stepping)
    monkeypatch.setattr(committing, "_verify_next", verifying)
    commitments.accept("1.2.3", pairs, peer="CT1", principal=MODALITY)
    until(lambda: len(diary.told) == 2)
    assert all(told.complete for told in diary.told)


def test_refusals(commitments: Commitments) -> None:
    with pytest.raises(Forbidden):
        commitments.accept("1.2", [(CT, "1.2")], peer="X", principal=Principal("X", "ae", frozenset({Right.QUERY})))
    with pytest.raises(InvalidInput):
        commitments.accept("1.2", [], peer="X", principal=MODALITY)
    with pytest.raises(TooLarge):
        commitments.accept("1.2", [(CT, "1.2")] * (MAX_INSTANCES + 1), peer="X", principal=MODALITY)
    assert commitments.listed() == []


def test_a_peer_that_asks_without_end(
    commitments: Commitments, committing: Committing, diary: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commitment, "MAX_WAITING", 3)
    monkeypatch.setattr(commitment, "MAX_UNDER_ONE_UID", 2)
    diary.broken = PeerUnreachable("away")
    for number in range(3):
        commitments.accept(f"1.2.{number}", [(CT, "1.2")], peer="CT1", principal=MODALITY)
    with pytest.raises(OutOfResources):
        commitments.accept("1.2.9", [(CT, "1.2")], peer="CT1", principal=MODALITY)
    commitments.accept("1.2.1", [(CT, "1.2")], peer="CT1", principal=MODALITY)  # the same again is not one more
    for number in range(3):
        commitments.accept("1.2.9", [(CT, "1.2")] * (number + 1), peer="CT2", principal=MODALITY)
    with pytest.raises(Conflict):
        commitments.accept("1.2.9", [(CT, "1.2.3")], peer="CT2", principal=MODALITY)
    assert len(commitments.listed()) == 6


def test_reported_again_until_taken_and_dead_in_the_end(
    ingest: Ingest, commitments: Commitments, committing: Committing, diary: Diary, clock: Clock, index: Index,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    diary.broken = PeerUnreachable("cannot connect")
    commitments.accept("1.2.3", put_in(ingest, 1), peer="CT1", principal=MODALITY)
    until(lambda: [each.attempt for each in commitments.listed("due")] == [1])
    assert commitments.listed("due")[0].message == "cannot connect"
    committing.step(clock.now)
    assert diary.tries == 1, "not before its time"
    for attempt in range(2, 6):
        clock.now += 100
        until(lambda: [each.attempt for each in commitments.listed()] == [attempt], lambda: committing.step(clock.now))  # noqa: B023
    assert diary.tries == 5
    clock.now += 7200
    until(lambda: commitments.listed("dead"), lambda: committing.step(clock.now))
    assert "given up" in caplog.text
    clock.now += 86400 * 365
    committing.step(clock.now)
    assert [each.state for each in commitments.listed()] == ["dead"], "a dead one is kept"
    diary.broken = None
    assert commitments.retry("CT1") == 1
    until(lambda: commitments.listed("reported"), lambda: committing.step(clock.now))
    assert diary.told[0].complete


def test_a_store_that_cannot_be_reached_is_no_verdict(
    ingest: Ingest, commitments: Commitments, index: Index, memory: MemoryStore, clock: Clock, diary: Diary
) -> None:
    class Down:
        """The store while the network is down."""

        up = False

        def __getattr__(self, name: str) -> Any:
            if not self.up:
                raise Unavailable("the store is down")
            return getattr(memory, name)

    store_now = Down()
    committing = Committing(commitments, index, store_now, hours=1, clock=clock)  # type: ignore[arg-type]
    committing.add_reporter("dimse", diary)
    commitments.accept("1.2.3", put_in(ingest, 1), peer="CT1", principal=MODALITY)
    until(lambda: [each.attempt for each in commitments.listed("asked")] == [1])
    store_now.up = True
    clock.now += 100
    until(lambda: diary.told, lambda: committing.step(clock.now))
    assert diary.told[0].complete
    committing.close()


def test_survives_a_process_that_died(
    ingest: Ingest, commitments: Commitments, index: Index, memory: MemoryStore, clock: Clock, diary: Diary
) -> None:
    number = commitments.accept("1.2.3", put_in(ingest, 2), peer="CT1", principal=MODALITY)
    # a process had verified one of them, and was killed with its lease held
    index.transact(lambda conn: sql.claim(conn, "asked", clock.now, clock.now + 120, "of the dead", busy=()))
    index.transact(lambda conn: sql.judge(conn, number, [(0, "")]))
    committing = Committing(commitments, index, memory, hours=1, clock=clock)
    committing.add_reporter("dimse", diary)
    committing.step(clock.now)
    if index.dialect == "postgresql":  # another process may be alive: its lease counts
        assert diary.told == []
        clock.now += 121
    until(lambda: diary.told, lambda: committing.step(clock.now))
    assert diary.told[0].complete
    committing.close()


def test_many_instances_and_many_peers_at_once(
    ingest: Ingest, commitments: Commitments, committing: Committing, diary: Diary
) -> None:
    pairs = put_in(ingest, 20)
    unknown = [(CT, f"1.2.3.{number}") for number in range(980)]
    threads = [
        threading.Thread(
            target=commitments.accept,
            args=(f"1.2.{number}", pairs + unknown),
            kwargs={"peer": f"CT{number % 4}", "principal": MODALITY},
        )
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: len(diary.told) == 8, lambda: committing.step(time.time()))
    for each in diary.told:
        assert failures(each) == [""] * 20 + [Failure.NO_SUCH_INSTANCE] * 980
    assert len({each.transaction_uid for each in diary.told}) == 8


def test_pending_studies_are_told(ingest: Ingest, commitments: Commitments, index: Index, diary: Diary) -> None:
    pairs = put_in(ingest, 1)
    study = str(next(dicom_data.series(1, study=1)).StudyInstanceUID)

    def pending() -> set[str]:
        with index.read() as conn:
            return sql.pending_studies(conn, [study, "1.2.3"])

    assert pending() == set()
    commitments.accept("1.2.3", pairs, peer="CT1", principal=MODALITY)
    assert pending() == {study}
    commitments.asking("PACS", pairs, "1.2.4")
    index.transact(lambda conn: sql.put(conn, 1, None, state="reported"))
    assert pending() == {study}
    commitments.answered("PACS", "1.2.4", [pairs[0][1]], {})
    assert pending() == set()


# --- what we ask of others --------------------------------------------------------------------------------------------


def test_an_answer_is_kept(commitments: Commitments) -> None:
    pairs = [(CT, "1.2.1"), (CT, "1.2.2"), (CT, "1.2.3")]
    commitments.asking("PACS", pairs, "1.9")
    with pytest.raises(Conflict):
        commitments.asking("PACS", pairs, "1.9")
    with pytest.raises(NotFound):
        commitments.answered("OTHER", "1.9", ["1.2.1"], {})
    asked = commitments.outcome("1.9")
    assert asked is not None
    assert (asked.state, failures(asked)) == ("asked", [None] * 3)
    commitments.answered("PACS", "1.9", ["1.2.1", "1.2.99"], {"1.2.2": "out of tape"})
    commitments.answered("PACS", "1.9", [], {"1.2.1": "second thoughts"})  # said twice: the first counts
    answered = commitments.outcome("1.9", "PACS")
    assert answered is not None
    assert (answered.state, failures(answered)) == ("answered", ["", "out of tape", "left out of the report"])
    assert commitments.outcome("1.10") is None


def test_what_is_never_answered_is_dead_in_the_end(commitments: Commitments, clock: Clock) -> None:
    commitments.asking("PACS", [(CT, "1.2.1")], "1.9")
    assert commitments.give_up_asking(clock.now - 10) == 0
    assert commitments.give_up_asking(clock.now + 10) == 1
    (listed,) = commitments.listed("dead")
    assert listed.message == "the peer never reported"
    commitments.answered("PACS", "1.9", ["1.2.1"], {})  # late, but true
    outcome = commitments.outcome("1.9")
    assert outcome is not None
    assert outcome.complete
