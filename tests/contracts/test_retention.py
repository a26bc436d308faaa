"""What retention promises on every database: told before, never what is needed, each deletion in the audit."""

from __future__ import annotations

from typing import Any

import dicom_data
import pytest
from sqlalchemy import insert, select, update

from pacs import journal, uids
from pacs.audit import Audit
from pacs.auth import SYSTEM, Principal
from pacs.errors import Conflict, Forbidden, InvalidInput, NotFound
from pacs.events import Events
from pacs.index import aside as kept_aside
from pacs.index import schema
from pacs.index.changes import Changes
from pacs.index.corrections import study_keep
from pacs.index.engine import Index
from pacs.ingest import Ingest
from pacs.removal import Removal
from pacs.retention import REPLAY, Retention, check
from pacs.settings import AE, Settings
from pacs.settings import Retention as Rule
from pacs.settle import Settle
from pacs.storage.memory import MemoryStore

EXPLICIT = "1.2.840.10008.1.2.1"
STUDY = [uids.derived("study", n) for n in range(8)]
LATER = 1e10  # long after whatever arrives during a test


def store(ingest: Ingest, study: int, number: int = 0, *, ae: str = "CT1", result: bool = False, **more: Any) -> None:
    ds = next(dicom_data.series(1, study=study, number=number, **more))
    receiving = ingest.receive(EXPLICIT, source_ae=ae)
    receiving.write(dicom_data.dataset_bytes(ds))
    principal = SYSTEM if result else Principal(ae, "ae")
    ingest.file([ingest.prepare(receiving, principal=principal, result_of="1.2.3" if result else None)])


def rest(index: Index) -> None:
    Settle(index, Settings(stable_after_s=0)).claim_stable(LATER)


def held(index: Index) -> list[str]:
    with index.read() as conn:
        found = conn.execute(select(schema.study.c.study_instance_uid).order_by(schema.study.c.id)).scalars()
        return [f"study {STUDY.index(uid)}" for uid in found]


@pytest.fixture
def removal(memory: MemoryStore, index: Index) -> Removal:
    return Removal(memory, index, Events())


def rules(memory: MemoryStore, index: Index, removal: Removal, *rules: Rule) -> Retention:
    return Retention(memory, index, removal, rules)


def test_age_source_and_modality_choose_and_the_dry_run_tells(
    ingest: Ingest, index: Index, memory: MemoryStore, removal: Removal
) -> None:
    store(ingest, 0)
    store(ingest, 1, ae="CT2")
    store(ingest, 2, Modality="MR")
    store(ingest, 3)
    store(ingest, 3, 1, Modality="SR", result=True)  # our own results count for neither source nor modality
    store(ingest, 4)
    store(ingest, 4, 1, ae="CT2")
    rest(index)
    rule = Rule("old-ct", days=10, source=("CT1",), modality=("CT",))
    retention = rules(memory, index, removal, rule)
    with index.read() as conn:
        last = max(conn.execute(select(schema.study.c.last_instance_at)).scalars())
    assert list(retention.due(last + 9 * 86_400)) == []
    told = retention.preview(SYSTEM, LATER)
    assert [(d.study_instance_uid, d.instances, d.why, d.stays) for d in told] == [
        (STUDY[0], 1, "older than 10 days", ""), (STUDY[3], 2, "older than 10 days", ""),
    ]  # fmt: skip
    assert sum(d.bytes for d in told) > 3000
    assert held(index) == [f"study {n}" for n in range(5)]
    assert retention.step(LATER) == 2
    assert held(index) == ["study 1", "study 2", "study 4"]
    events = Audit(index).query("Study Deleted")
    assert {event.principal for event in events} == {"retention old-ct"}
    assert {event.detail for event in events} == {
        "1 instances; retention rule old-ct: older than 10 days",
        "2 instances; retention rule old-ct: older than 10 days",
    }
    assert {c.principal for c in Changes(index).after(0) if c.kind == "deleted"} == {"retention old-ct"}
    assert retention.step(LATER + 1) == 0
    store(ingest, 5)
    rest(index)
    assert retention.step(LATER + 2) == 0, "once a minute is enough"
    assert retention.step(LATER + 61) == 1


def test_what_somebody_needs_stays(ingest: Ingest, index: Index, memory: MemoryStore, removal: Removal) -> None:
    for study in range(4):
        store(ingest, study)
    rest(index)
    retention = rules(memory, index, removal, Rule("all", days=1))
    retention.keep(SYSTEM, STUDY[0], "teaching file")
    index.transact(lambda conn: conn.execute(insert(schema.workitem).values(workitem(STUDY[1]))) and None)
    store(ingest, 2, 1)  # not at rest any more
    stays = {d.study_instance_uid: d.stays for d in retention.preview(SYSTEM, LATER)}
    assert stays == {
        STUDY[0]: "a person keeps it", STUDY[1]: "a Workitem is open", STUDY[2]: "the study is not at rest",
        STUDY[3]: "",
    }  # fmt: skip
    assert retention.step(LATER) == 1
    assert held(index) == ["study 0", "study 1", "study 2"]
    assert [each["reason"] for each in retention.kept(SYSTEM)] == ["teaching file"]
    t = schema.workitem
    index.transact(lambda conn: conn.execute(update(t).values(state="COMPLETED")) and None)
    retention.release(SYSTEM, STUDY[0])
    rest(index)
    assert retention.step(LATER + 60) == 3
    assert [event.event for event in Audit(index).query() if event.event.startswith("Study ")].count("Study Kept") == 1


def workitem(study: str) -> dict[str, Any]:
    return {
        "uid": uids.new(), "state": "SCHEDULED", "study_instance_uid": study, "priority": 1, "attributes": b"{}",
        "label": "", "attempt": 0, "cancel_requested": 0, "created_at": 1.0, "updated_at": 1.0, "revision": 0,
        "principal": "tests", "scope": "",
    }  # fmt: skip


def test_by_size_the_oldest_go_down_to_the_watermark(
    ingest: Ingest, index: Index, memory: MemoryStore, removal: Removal
) -> None:
    for study in range(5):
        store(ingest, study)
    rest(index)
    t, s = schema.instance, schema.study
    # Instances of 1 GB each cannot be made here: the index is told that they are.
    index.transact(lambda conn: conn.execute(update(t).values(object_length=1_000_000_000)) and None)
    index.transact(
        lambda conn: [
            conn.execute(update(s).where(s.c.study_instance_uid == uid).values(last_instance_at=100.0 - n))
            for n, uid in enumerate(STUDY[:5])
        ] and None
    )  # fmt: skip
    retention = rules(memory, index, removal, Rule("disk", above_gb=4, down_to_gb=3))
    retention.keep(SYSTEM, STUDY[4], "the oldest, kept")
    told = retention.preview(SYSTEM, LATER)
    assert [(d.study_instance_uid, bool(d.stays)) for d in told] == [
        (STUDY[4], True), (STUDY[3], False), (STUDY[2], False),
    ]  # fmt: skip
    assert told[0].why == "5.0 GB are stored, more than 4; down to 3"
    assert retention.step(LATER) == 2
    assert held(index) == ["study 0", "study 1", "study 4"]
    assert retention.preview(SYSTEM, LATER) == []


def test_results_or_what_was_received_may_go_alone(
    ingest: Ingest, index: Index, memory: MemoryStore, removal: Removal
) -> None:
    store(ingest, 0)
    store(ingest, 0, 1, Modality="SR", result=True)
    rest(index)

    def instances() -> list[str | None]:
        with index.read() as conn:
            return list(conn.execute(select(schema.instance.c.result_of)).scalars())

    assert rules(memory, index, removal, Rule("no-results", what="results", days=1)).step(LATER) == 1
    assert instances() == [None]
    store(ingest, 0, 1, Modality="SR", result=True)
    assert rules(memory, index, removal, Rule("results-only", what="received", days=1)).step(LATER) == 1
    assert instances() == ["1.2.3"]


def test_study_date_and_what_is_kept_aside(ingest: Ingest, index: Index, memory: MemoryStore, removal: Removal) -> None:
    aes = (AE(title="NEW", other_content="replace"),)
    replacing = Ingest(memory, index, Events(), Settings(aes=aes))
    store(ingest, 0, StudyDate="19990101")
    store(ingest, 1, StudyDate="20260101")
    store(ingest, 2, StudyDate="")
    store(replacing, 1, ae="NEW", StudyDate="20260101", StudyDescription="Other")
    rest(index)
    by_date = rules(memory, index, removal, Rule("legal", days=3650, counted_from="study"))
    now = 1_780_000_000.0  # 2026
    assert by_date.step(now) == 1
    assert held(index) == ["study 1", "study 2"]
    versions = rules(memory, index, removal, Rule("versions", what="versions", days=30))
    assert versions.step(now) == 0
    assert versions.step(LATER) == 1
    with index.read() as conn:
        assert conn.execute(select(kept_aside.aside)).all() == []
    assert len(list(memory.walk())) == 2
    assert held(index) == ["study 1", "study 2"]


def test_keeping_is_for_administrators_and_survives_a_rebuild(
    ingest: Ingest, index: Index, memory: MemoryStore, removal: Removal
) -> None:
    store(ingest, 0)
    retention = rules(memory, index, removal)
    with pytest.raises(Forbidden):
        retention.keep(Principal("reader", "token"), STUDY[0], "x")
    with pytest.raises(NotFound):
        retention.keep(SYSTEM, "1.2.3", "x")
    with pytest.raises(InvalidInput):
        retention.keep(SYSTEM, STUDY[0], " ")
    with pytest.raises(Conflict):
        retention.release(SYSTEM, STUDY[0])
    retention.keep(SYSTEM, STUDY[0], "law suit")
    retention.release(SYSTEM, STUDY[0])
    retention.keep(SYSTEM, STUDY[0], "law suit, again")
    before = retention.kept(SYSTEM)
    index.transact(lambda conn: conn.execute(study_keep.delete()) and None)
    for record in journal.read(memory):
        index.transact(lambda conn, record=record: REPLAY[record.kind](conn, record))
    assert retention.kept(SYSTEM) == before


@pytest.mark.parametrize(
    "rule",
    [
        Rule("x"),
        Rule("x", days=1, above_gb=2, down_to_gb=1),
        Rule("x", above_gb=1, down_to_gb=1),
        Rule("x", what="everything", days=1),
        Rule("x", days=1, counted_from="birth"),
        Rule("x", what="versions", days=1, modality=("CT",)),
    ],
)
def test_rules_that_cannot_be_meant_are_refused(rule: Rule) -> None:
    with pytest.raises(InvalidInput, match="'x'"):
        check([rule])
    with pytest.raises(InvalidInput, match="twice"):
        check([Rule("x", days=1), Rule("x", days=2)])
