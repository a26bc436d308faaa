"""What ingest, settle and removal promise on every database."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import dicom_data
import pydicom
import pytest
from pydicom import Dataset
from sqlalchemy import Connection, delete, func, select

from pacs import filing, recount, uids
from pacs.audit import Audit
from pacs.auth import SYSTEM, Principal, Right
from pacs.dicom import part10
from pacs.dicom.attributes import Level
from pacs.dicom.matching import Query
from pacs.errors import (
    ArchiveError,
    Conflict,
    DatasetMismatch,
    DuplicateInstance,
    Forbidden,
    InvalidUID,
    MalformedDataset,
    NotFound,
    TooLarge,
    Unavailable,
    UnsupportedTransferSyntax,
)
from pacs.events import Events
from pacs.index import schema
from pacs.index.changes import Changes
from pacs.index.engine import Index
from pacs.ingest import Ingest, Prepared, Stored
from pacs.query import QueryService
from pacs.removal import Removal
from pacs.retrieve import Retrieve
from pacs.settings import Settings
from pacs.settle import Settle
from pacs.storage.arrival import HEAD_BYTES, arrival, content_digest
from pacs.storage.base import Locator
from pacs.storage.files import FileStore
from pacs.storage.memory import MemoryStore

EXPLICIT = "1.2.840.10008.1.2.1"
STUDY = uids.derived("study", 0)
AE = Principal("CT1", "ae")


def prepare(ingest: Ingest, ds: Dataset, principal: Principal = AE, **options: Any) -> Prepared:
    receiving = ingest.receive(EXPLICIT, source_ae=" CT1 ")
    receiving.write(dicom_data.dataset_bytes(ds))
    return ingest.prepare(receiving, principal=principal, **options)


def store(ingest: Ingest, ds: Dataset, principal: Principal = AE) -> Stored:
    return ingest.file([prepare(ingest, ds, principal)])[0]


def count(index: Index, *tables: str) -> list[int]:
    with index.read() as conn:
        return [
            conn.execute(select(func.count()).select_from(schema.metadata.tables[name])).scalar_one() for name in tables
        ]


def study_json(index: Index) -> dict[str, Any]:
    (row,) = QueryService(index).search(Query(Level.STUDY), SYSTEM).rows
    return row.attributes


EVERYTHING = ("study", "series", "instance", "instance_metadata", "change", "audit")


def test_a_stored_instance_is_whole(ingest: Ingest, index: Index, memory: MemoryStore) -> None:
    ds = dicom_data.image()
    stored = store(ingest, ds)
    assert stored.outcome == "stored"
    assert stored.sop_instance_uid == ds.SOPInstanceUID
    assert count(index, *EVERYTHING) == [1] * 6
    retrieve = Retrieve(memory, index)
    (location,) = retrieve.locate(SYSTEM, STUDY)
    assert retrieve.dataset(location) == dicom_data.dataset_bytes(ds)
    assert location.digest == content_digest(dicom_data.dataset_bytes(ds), EXPLICIT)
    (change,) = Changes(index).after(0)
    assert (change.kind, change.sop_instance_uid, change.principal) == ("instance", ds.SOPInstanceUID, "CT1")
    (event,) = Audit(index).query()
    assert (event.event, event.principal_kind, event.detail) == ("DICOM Instances Transferred", "ae", "CT1")
    assert list(memory.spool_dir.iterdir()) == []


def test_a_stored_object_is_a_part10_file_that_tells_how_it_came(ingest: Ingest, memory: MemoryStore) -> None:
    store(ingest, dicom_data.image(), Principal("CT1", "ae", scope="ward"))
    (here,) = memory.walk()
    key, raw = here.object_key, memory.read(here)
    assert raw[:128] == bytes(128)
    assert part10.split(memoryview(raw)) == (EXPLICIT, HEAD_BYTES)
    facts = arrival(raw)
    assert (facts.principal, facts.scope, facts.source_ae, facts.result_of) == ("CT1", "ward", "CT1", None)
    assert key.endswith(content_digest(raw[HEAD_BYTES:], EXPLICIT))
    assert not any(uid in key for uid in (STUDY, dicom_data.image().SOPInstanceUID))
    with pytest.raises(MalformedDataset):
        arrival(raw[:132])


def test_part10_files_lose_their_preamble_and_meta(ingest: Ingest, index: Index, memory: MemoryStore) -> None:
    raw = bytearray(dicom_data.part10(dicom_data.image()))
    raw[:4] = b"MZ\x90\0"
    for step in (1, 7, 100_000):
        receiving = ingest.receive_part10()
        for at in range(0, len(raw), step):
            receiving.write(raw[at : at + step])
        assert ingest.store(receiving, principal=AE).outcome == ("stored" if step == 1 else "same")
    retrieve = Retrieve(memory, index)
    (location,) = retrieve.locate(SYSTEM, STUDY)
    whole = b"".join(retrieve.part10(location))
    assert whole[:128] == bytes(128)
    assert b"CT1" not in whole[:HEAD_BYTES]
    assert pydicom.dcmread(pydicom.filebase.DicomBytesIO(whole)).PixelData == dicom_data.image().PixelData


def test_the_same_again_is_success_without_rows(ingest: Ingest, index: Index, memory: MemoryStore) -> None:
    store(ingest, dicom_data.image())
    before = count(index, *EVERYTHING)
    assert store(ingest, dicom_data.image()).outcome == "same"
    assert count(index, *EVERYTHING) == before
    assert len(list(memory.walk())) == 1


def test_other_content_under_a_known_uid_is_refused_and_the_first_stays(
    ingest: Ingest, index: Index, memory: MemoryStore
) -> None:
    store(ingest, dicom_data.image())
    other = dicom_data.image(PatientID="OTHER")
    with pytest.raises(DuplicateInstance, match="the first stays") as refused:
        store(ingest, other)
    assert refused.value.about == other.SOPInstanceUID
    retrieve = Retrieve(memory, index)
    assert retrieve.dataset(retrieve.locate(SYSTEM, STUDY)[0]) == dicom_data.dataset_bytes(dicom_data.image())
    assert len(list(memory.walk())) == 1


def test_of_many_contents_at_once_one_wins(ingest: Ingest, index: Index, memory: MemoryStore) -> None:
    outcomes: list[str] = []

    def one(number: int) -> None:
        try:
            ds = dicom_data.image(PatientID=f"P{number % 4}")
            outcomes.append(store(ingest, ds).outcome)
        except DuplicateInstance:
            outcomes.append("refused")

    threads = [threading.Thread(target=one, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {o: outcomes.count(o) for o in set(outcomes)} == {"stored": 1, "same": 3, "refused": 12}
    assert count(index, *EVERYTHING) == [1] * 6
    retrieve = Retrieve(memory, index)
    retrieve.dataset(retrieve.locate(SYSTEM, STUDY)[0])


def test_arrivals_that_wait_together_each_get_their_due(ingest: Ingest, index: Index) -> None:
    """New ones, one that is here already, one of another scope and other content, all behind one held transaction."""
    first, second, third, fourth = dicom_data.series(4)
    (other, *_) = dicom_data.series(1)
    store(ingest, first, Principal("CT1", "ae", scope="a"))
    other.PatientComments = "other content"
    arrivals = [
        (second, "a"), (third, "a"), (first, "a"), (fourth, "b"), (other, "a"), (second, "a"),
    ]  # fmt: skip
    begun, go, outcomes = threading.Event(), threading.Event(), dict[int, object]()

    def hold(_: Connection) -> None:
        begun.set()
        go.wait(60)

    def run(number: int) -> None:
        ds, scope = arrivals[number]
        receiving = ingest.receive(EXPLICIT)
        receiving.write(dicom_data.dataset_bytes(ds))
        try:
            outcomes[number] = ingest.store(receiving, principal=Principal("CT1", "ae", scope=scope)).outcome
        except ArchiveError as error:
            outcomes[number] = type(error)

    threads = [threading.Thread(target=lambda: index.transact(hold))]
    threads += [threading.Thread(target=run, args=(number,)) for number in range(len(arrivals))]
    threads[0].start()
    begun.wait(60)
    for thread in threads[1:]:
        thread.start()
    go.set()
    for thread in threads:
        thread.join()
    assert sorted([str(outcomes.pop(1)), *(str(outcomes.pop(n)) for n in (0, 5))]) == ["same", "stored", "stored"]
    assert outcomes == {2: "same", 3: Conflict, 4: DuplicateInstance}
    assert count(index, *EVERYTHING) == [1, 1, 3, 3, 3, 3]
    assert study_json(index)["00201208"] == {"vr": "IS", "Value": [3]}


def test_many_instances_of_one_study_at_once_are_counted(ingest: Ingest, index: Index) -> None:
    slices = [ds for number in range(4) for ds in dicom_data.series(5, number=number)]
    failures: list[BaseException] = []

    def one(part: list[Dataset]) -> None:
        try:
            for ds in part:
                store(ingest, ds)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one, args=(slices[n::8],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    row = study_json(index)
    assert (row["00201206"]["Value"], row["00201208"]["Value"]) == ([4], [20])
    series = QueryService(index).search(Query(Level.SERIES), SYSTEM).rows
    assert [each.attributes["00201209"]["Value"] for each in series] == [[5]] * 4


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"SOPInstanceUID": None}, MalformedDataset),
        ({"StudyInstanceUID": "1.2.3/../4"}, InvalidUID),
        ({"SeriesInstanceUID": ""}, MalformedDataset),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_what_is_no_instance_leaves_nothing(
    ingest: Ingest, index: Index, memory: MemoryStore, change: dict[str, Any], error: type[ArchiveError]
) -> None:
    ds = dicom_data.image()
    for keyword, value in change.items():
        if value is None:
            delattr(ds, keyword)
        else:
            ds[keyword] = pydicom.DataElement(keyword, "UI", value, validation_mode=0)
    receiving = ingest.receive(EXPLICIT)
    buffer = pydicom.filebase.DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    pydicom.filewriter.write_dataset(buffer, ds)
    receiving.write(buffer.getvalue())
    with pytest.raises(error):
        ingest.store(receiving, principal=AE)
    assert count(index, *EVERYTHING) == [0] * 6
    assert list(memory.walk()) == []
    assert list(memory.spool_dir.iterdir()) == []


def test_what_contradicts_its_command_or_address_is_refused(ingest: Ingest, memory: MemoryStore) -> None:
    ds = dicom_data.image()
    expectations: list[dict[str, str]] = [{"sop_class_uid": "1.2.840.10008.5.1.4.1.1.4"}, {"sop_instance_uid": "1.2.3"}]
    for expected in expectations:
        receiving = ingest.receive(EXPLICIT, **expected)
        receiving.write(dicom_data.dataset_bytes(ds))
        with pytest.raises(DatasetMismatch):
            ingest.store(receiving, principal=AE)
    with pytest.raises(DatasetMismatch):
        prepare(ingest, ds, study_instance_uid="1.2.3")
    receiving = ingest.receive(EXPLICIT, ds.SOPClassUID, ds.SOPInstanceUID)
    receiving.write(dicom_data.dataset_bytes(ds))
    assert ingest.store(receiving, principal=AE, study_instance_uid=STUDY).outcome == "stored"
    receiving = ingest.receive("1.2.3.4")
    with pytest.raises(UnsupportedTransferSyntax):
        ingest.store(receiving, principal=AE)
    receiving = ingest.receive_part10()
    receiving.write(b"no part 10")
    with pytest.raises(MalformedDataset):
        ingest.store(receiving, principal=AE)
    assert len(list(memory.walk())) == 1


def test_too_large_is_noticed_while_it_comes(memory: MemoryStore, index: Index) -> None:
    ingest = Ingest(memory, index, Events(), Settings(max_object_bytes=3_000_000))
    with ingest.receive(EXPLICIT) as receiving:
        receiving.write(bytes(2_000_000))
        with pytest.raises(TooLarge):
            receiving.write(bytes(1_000_001))
    receiving.abort()
    assert list(memory.spool_dir.iterdir()) == []


def test_storing_needs_the_right(ingest: Ingest) -> None:
    with pytest.raises(Forbidden):
        store(ingest, dicom_data.image(), Principal("reader", "token", frozenset({Right.READ})))


def test_filing_several_is_all_or_nothing(ingest: Ingest, index: Index) -> None:
    store(ingest, dicom_data.image(7))
    before = count(index, *EVERYTHING)
    good = [prepare(ingest, ds) for ds in dicom_data.series(3, study=1)]
    clash = prepare(ingest, dicom_data.image(8))
    store(ingest, dicom_data.image(8, PatientID="FIRST"))
    before = count(index, *EVERYTHING)
    with pytest.raises(DuplicateInstance):
        ingest.file([*good, clash])
    assert count(index, *EVERYTHING) == before

    def lost_the_lease(conn: Connection) -> None:
        raise Conflict("the lease is gone")

    with pytest.raises(Conflict):
        ingest.file(good, lost_the_lease)
    assert count(index, *EVERYTHING) == before
    seen: list[int] = []

    def look(conn: Connection) -> None:
        seen.append(conn.execute(select(func.count()).select_from(schema.instance)).scalar_one())

    assert [stored.outcome for stored in ingest.file(good, look)] == ["stored"] * 3
    assert seen[-1] == before[2] + 3


def test_news_wake_those_who_wait(memory: MemoryStore, index: Index) -> None:
    events = Events()
    store(Ingest(memory, index, events, Settings()), dicom_data.image())
    assert events.version == 1


def scoped(scope: str) -> Principal:
    return Principal(f"user-{scope}", "token", frozenset(Right), scope)


def test_scopes_are_apart(ingest: Ingest, index: Index, memory: MemoryStore) -> None:
    query, retrieve = QueryService(index), Retrieve(memory, index)
    store(ingest, dicom_data.image(), scoped("a"))
    store(ingest, next(dicom_data.series(1, study=1)), scoped("b"))
    for level in Level:
        assert len(query.search(Query(level), scoped("a")).rows) == 1
        assert len(query.search(Query(level), SYSTEM).rows) == (1 if level is Level.PATIENT else 2)
        assert query.search(Query(level), scoped("c")).rows == []
    with pytest.raises(NotFound):
        retrieve.locate(scoped("b"), STUDY)
    with pytest.raises(Conflict):
        store(ingest, dicom_data.image(1), scoped("b"))
    with pytest.raises(Conflict):
        store(ingest, dicom_data.image(0), scoped("b"))
    result = prepare(ingest, dicom_data.image(2), SYSTEM, result_of="1.2.3")
    ingest.file([result])
    assert len(query.search(Query(Level.IMAGE), scoped("a")).rows) == 2
    assert Changes(index).after(0)[-1].scope == "a"
    with pytest.raises(NotFound):
        Removal(memory, index, Events()).delete(scoped("b"), STUDY)


def test_a_study_is_told_stable_once_and_again_after_a_late_instance(
    ingest: Ingest, index: Index, memory: MemoryStore
) -> None:
    settle = Settle(index, Settings(stable_after_s=10))
    for ds in dicom_data.series(3):
        store(ingest, ds)
    with index.read() as conn:
        last = conn.execute(select(schema.study.c.last_instance_at)).scalar_one()
    assert settle.claim_stable(last + 9) == []
    (stable,) = settle.claim_stable(last + 10)
    assert stable.study_instance_uid == STUDY
    assert settle.claim_stable(last + 100) == []
    change = Changes(index).after(0)[-1]
    assert (change.kind, change.fingerprint, change.study_instance_uid) == ("stable", stable.fingerprint, STUDY)

    ingest.file([prepare(ingest, dicom_data.image(50), result_of="1.2.3")])
    assert Changes(index).after(0)[-1].kind == "result"
    assert settle.claim_stable(last + 1000) == []

    store(ingest, dicom_data.image(51))
    (again,) = settle.claim_stable(last + 1000)
    assert again.fingerprint != stable.fingerprint

    Removal(memory, index, Events()).delete(
        SYSTEM, STUDY, uids.derived("series", 0), dicom_data.image(51).SOPInstanceUID
    )
    store(ingest, dicom_data.image(50 + 2))
    (third,) = settle.claim_stable(last + 1000)
    assert third.fingerprint not in (stable.fingerprint, again.fingerprint)


def test_a_clock_that_was_put_back_does_not_hold_studies_up(ingest: Ingest, index: Index) -> None:
    settle = Settle(index, Settings(stable_after_s=10))
    store(ingest, dicom_data.image(0))
    with index.read() as conn:
        last = conn.execute(select(schema.study.c.last_instance_at)).scalar_one()
    earlier = last - 7200
    assert settle.claim_stable(last - 30) == []  # another host's clock may be so far ahead
    with index.read() as conn:
        assert conn.execute(select(schema.study.c.last_instance_at)).scalar_one() == last
    assert settle.claim_stable(earlier) == []
    assert settle.claim_stable(earlier + 9) == []
    (stable,) = settle.claim_stable(earlier + 10)
    assert stable.study_instance_uid == STUDY
    assert settle.claim_stable(last + 1000) == []


def test_our_own_results_that_come_back_trigger_nothing(ingest: Ingest, index: Index) -> None:
    store(ingest, dicom_data.image(0))
    settle = Settle(index, Settings(stable_after_s=10))
    (stable,) = settle.claim_stable(4e9)
    back = dicom_data.image(1)
    back.InstanceCreatorUID = uids.IMPLEMENTATION_CLASS_UID
    store(ingest, back)
    assert Changes(index).after(0)[-1].kind == "result"
    assert settle.claim_stable(4e9) == []
    other = dicom_data.image(2)
    other.InstanceCreatorUID = "1.2.3"
    store(ingest, other)
    assert Changes(index).after(0)[-1].kind == "instance"
    assert [each.study_instance_uid for each in settle.claim_stable(4e9)] == [stable.study_instance_uid]


def test_results_alone_never_make_a_study_stable(ingest: Ingest, index: Index) -> None:
    ingest.file([prepare(ingest, dicom_data.image(), result_of="1.2.3")])
    assert Settle(index, Settings(stable_after_s=0)).claim_stable(4e9) == []


def test_of_several_schedulers_one_tells(ingest: Ingest, index: Index) -> None:
    for study in range(5):
        store(ingest, next(dicom_data.series(1, study=study)))
    settle = Settle(index, Settings(stable_after_s=1))
    told: list[str] = []
    threads = [
        threading.Thread(target=lambda: told.extend(s.study_instance_uid for s in settle.claim_stable(4e9)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == sorted(uids.derived("study", n) for n in range(5))
    assert [c.kind for c in Changes(index).after(0)].count("stable") == 5


def test_removal_keeps_the_counts_true_and_leaves_a_tombstone(
    ingest: Ingest, index: Index, memory: MemoryStore
) -> None:
    removal, query = Removal(memory, index, Events()), QueryService(index)
    for ds in dicom_data.series(3):
        store(ingest, ds)
    report = next(dicom_data.series(1, number=1, Modality="SR"))
    store(ingest, report)
    assert study_json(index)["00080061"]["Value"] == ["CT", "SR"]
    with pytest.raises(Forbidden):
        removal.delete(AE, STUDY)
    with pytest.raises(NotFound):
        removal.delete(SYSTEM, STUDY, "1.2.3")
    first = uids.derived("instance", 0, 0, 0)
    assert removal.delete(SYSTEM, STUDY, uids.derived("series", 0, 0), first) == 1
    row = study_json(index)
    assert (row["00201206"]["Value"], row["00201208"]["Value"]) == ([2], [3])
    assert removal.delete(SYSTEM, STUDY, report.SeriesInstanceUID) == 1
    row = study_json(index)
    assert (row["00080061"]["Value"], row["00201206"]["Value"], row["00201208"]["Value"]) == (["CT"], [1], [2])
    (series,) = query.search(Query(Level.SERIES), SYSTEM).rows
    assert series.attributes["00201209"]["Value"] == [2]
    assert removal.delete(SYSTEM, STUDY) == 2
    assert query.search(Query(Level.STUDY), SYSTEM).rows == []
    assert list(memory.walk()) == []
    assert count(index, *EVERYTHING[:4], "tombstone") == [0, 0, 0, 0, 4]
    assert [c.kind for c in Changes(index).after(0)].count("deleted") == 4
    events = [e.event for e in Audit(index).query()]
    assert events[:3] == ["Study Deleted", "DICOM Instances Deleted", "DICOM Instances Deleted"]
    with pytest.raises(NotFound):
        Retrieve(memory, index).locate(SYSTEM, STUDY)


def test_what_was_removed_may_come_again(ingest: Ingest, index: Index, memory: MemoryStore) -> None:
    removal, retrieve = Removal(memory, index, Events()), Retrieve(memory, index)
    for _ in range(3):
        assert store(ingest, dicom_data.image()).outcome == "stored"
        retrieve.dataset(retrieve.locate(SYSTEM, STUDY)[0])
        removal.delete(SYSTEM, STUDY)
    assert removal.sweep() == 0


def test_a_removal_cut_short_is_finished_or_overtaken(ingest: Ingest, index: Index, memory: MemoryStore) -> None:
    class Cut(Removal):
        def _remove_bytes(self, gone: Sequence[Locator]) -> None:
            pass  # killed after the transaction

    for ds in (dicom_data.image(0), dicom_data.image(1)):
        store(ingest, ds)
    Cut(memory, index, Events()).delete(SYSTEM, STUDY)
    assert len(list(memory.walk())) == 2
    store(ingest, dicom_data.image(0))
    assert Removal(memory, index, Events()).sweep() == 1
    retrieve = Retrieve(memory, index)
    (location,) = retrieve.locate(SYSTEM, STUDY)
    assert retrieve.dataset(location) == dicom_data.dataset_bytes(dicom_data.image(0))
    assert len(list(memory.walk())) == 1


def test_bytes_removed_under_an_arrival_are_asked_for_again(ingest: Ingest, index: Index, memory: MemoryStore) -> None:
    removal = Removal(memory, index, Events())
    store(ingest, dicom_data.image())
    removal.delete(SYSTEM, STUDY)
    prepared = prepare(ingest, dicom_data.image())
    memory.delete(prepared.entry.locator)
    with pytest.raises(Unavailable, match="send it again"):
        ingest.file([prepared])
    assert store(ingest, dicom_data.image()).outcome == "stored"


def test_removal_and_arrival_race_without_loss(ingest: Ingest, index: Index, memory: MemoryStore) -> None:
    removal, retrieve = Removal(memory, index, Events()), Retrieve(memory, index)
    stop = threading.Event()
    failures: list[BaseException] = []

    def keep(run: Callable[[], object], allowed: type[ArchiveError]) -> None:
        while not stop.is_set():
            try:
                run()
            except allowed:
                continue
            except BaseException as error:
                failures.append(error)
                return

    threads = [
        threading.Thread(target=keep, args=(lambda: store(ingest, dicom_data.image()), Unavailable)),
        threading.Thread(target=keep, args=(lambda: store(ingest, dicom_data.image()), Unavailable)),
        threading.Thread(target=keep, args=(lambda: removal.delete(SYSTEM, STUDY), NotFound)),
    ]
    for thread in threads:
        thread.start()
    stop.wait(1.5)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    try:
        (location,) = retrieve.locate(SYSTEM, STUDY)
    except NotFound:
        return
    assert retrieve.dataset(location) == dicom_data.dataset_bytes(dicom_data.image())


@pytest.mark.parametrize("index_url", ["postgresql"], indirect=True)  # the one writer of SQLite has nobody to race
@pytest.mark.parametrize("end", ["stays", "is removed", "never was"])
def test_an_arrival_waits_for_the_study_that_another_is_making(ingest: Ingest, index: Index, end: str) -> None:
    """And then finds the very instance, or makes the study itself: in its first attempt."""
    first, second = (prepare(ingest, dicom_data.image()) for _ in range(2))
    attempts: list[int] = []
    filed: list[filing.Filed] = []

    def arrive(conn: Connection) -> None:
        attempts.append(conn.execute(select(func.pg_backend_pid())).scalar_one())
        filed.extend(filing.file_all(conn, [second.entry]))

    arrival = threading.Thread(target=index.transact, args=(arrive,))

    def make(conn: Connection) -> None:
        filing.file_all(conn, [first.entry])
        arrival.start()
        deadline = time.monotonic() + 60
        while not (attempts and conn.execute(select(func.cardinality(func.pg_blocking_pids(attempts[0])))).scalar()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        if end == "is removed":
            conn.execute(delete(schema.instance))
            recount.after_leaving(conn, STUDY, conn.execute(select(schema.series.c.id)).scalars())
        elif end == "never was":
            raise NotFound("undone")

    with suppress(NotFound):
        index.transact(make)
    arrival.join()
    assert len(attempts) == 1
    assert [each.new for each in filed] == [end != "stays"]
    assert count(index, "study", "series", "instance") == [1, 1, 1]
    assert study_json(index)["00201208"]["Value"] == [1]


def test_a_series_that_others_store_to_as_well_is_looked_at_again(index: Index, tmp_path: Path) -> None:
    """What a process remembers of a series that it began only saves looking: the transaction decides."""
    first, second, third = dicom_data.series(3)
    with closing(FileStore(tmp_path)) as files:
        ingest, neighbour = (Ingest(files, index, Events(), Settings(data=tmp_path)) for _ in range(2))
        store(ingest, first)
        for ds in (second, third):
            store(neighbour, ds)
        assert store(ingest, second).outcome == "same"
        third.PatientComments = "other content"
        with pytest.raises(DuplicateInstance, match="the first stays"):
            store(ingest, third)
        assert count(index, "instance", "change") == [3, 3]
        assert len(list(files.walk())) == 3
