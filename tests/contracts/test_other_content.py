"""Other content under a known SOP Instance UID, rejection notes and discrepancies, on every database."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Any

import dicom_data
import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence
from sqlalchemy import func, select

from pacs import aside, journal, uids
from pacs.audit import Audit
from pacs.auth import ALL_RIGHTS, SYSTEM, Principal
from pacs.dicom.attributes import Level
from pacs.dicom.matching import Query
from pacs.discrepancies import Discrepancies
from pacs.errors import ArchiveError, Conflict, DuplicateInstance, Forbidden, NotFound, Quarantined
from pacs.events import Events
from pacs.index import aside as tables
from pacs.index import schema
from pacs.index.changes import Changes
from pacs.index.engine import Index
from pacs.ingest import Ingest, Stored
from pacs.keeping import Keeping
from pacs.query import QueryService, Row
from pacs.removal import Removal
from pacs.retrieve import Retrieve
from pacs.settings import AE, Settings
from pacs.settle import Settle
from pacs.storage.memory import MemoryStore

EXPLICIT, IMPLICIT, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99"
STUDY = uids.derived("study", 0)
SOP = uids.derived("instance", 0)
KOS = "1.2.840.10008.5.1.4.1.1.88.59"
AES = tuple(AE(title=name.upper(), other_content=name) for name in aside.POLICIES)
POLICIES = {name: Principal(name.upper(), "ae") for name in aside.POLICIES}
Opened = Callable[..., Ingest]


@pytest.fixture
def ingest(memory: MemoryStore, index: Index) -> Ingest:
    return Ingest(memory, index, Events(), Settings(stable_after_s=0, aes=AES))


@pytest.fixture
def retrieve(memory: MemoryStore, index: Index) -> Retrieve:
    return Retrieve(memory, index)


@pytest.fixture
def keeping(memory: MemoryStore, index: Index) -> Keeping:
    return Keeping(memory, index, Events(), Removal(memory, index, Events()))


def store(
    ingest: Ingest, ds: Dataset, principal: Principal = POLICIES["refuse"], syntax: str = EXPLICIT, **options: Any
) -> Stored:
    receiving = ingest.receive(syntax, source_ae=principal.name)
    receiving.write(dicom_data.dataset_bytes(ds, syntax))
    if options:
        return ingest.file([ingest.prepare(receiving, principal=principal, **options)])[0]
    return ingest.store(receiving, principal=principal)


def shown(retrieve: Retrieve, study: str = STUDY) -> list[bytes]:
    return [retrieve.dataset(location) for location in retrieve.locate(SYSTEM, study)]


def studies(index: Index) -> list[Row]:
    wanted = Query(Level.STUDY, include=frozenset({"00081030"}))
    return QueryService(index).search(wanted, SYSTEM).rows


def rows(index: Index, table: Any) -> list[Any]:
    with index.read() as conn:
        return list(conn.execute(select(table).order_by(table.c.id)).all())


def replayed_to_the_same(index: Index, memory: MemoryStore) -> None:
    """Check that the journal alone makes the rows aside and the refusals again."""

    def state() -> Any:
        stones = [(s.sop_instance_uid, s.state) for s in rows(index, schema.tombstone) if s.object_key == ""]
        return sorted(tables.as_dict(row).items() for row in rows(index, tables.aside)), sorted(stones)

    before = state()

    def forget(conn: Any) -> None:
        conn.execute(tables.aside.delete())
        conn.execute(schema.tombstone.delete().where(schema.tombstone.c.object_key == ""))

    index.transact(forget)
    records = [record for record in journal.read(memory) if record.kind in aside.REPLAY]
    assert records
    for _ in range(2):
        index.transact(lambda conn: [aside.REPLAY[record.kind](conn, record) for record in records] and None)
    assert state() == before
    roles = {(uid, digest): role for r in records for uid, digest, role in aside.ROLES[r.kind](r.facts)}
    assert {key for key, role in roles.items() if role == "aside"} == {
        (row.sop_instance_uid, row.digest) for row in rows(index, tables.aside)
    }


def test_quarantined_until_a_person_accepts(
    ingest: Ingest, index: Index, memory: MemoryStore, retrieve: Retrieve, keeping: Keeping
) -> None:
    first, other = dicom_data.image(), dicom_data.image(StudyDescription="Other")
    store(ingest, first)
    settle = Settle(index, Settings(stable_after_s=0))
    (stable,) = settle.claim_stable(4e9)
    for _ in range(2):
        with pytest.raises(Quarantined) as told:
            store(ingest, other, POLICIES["quarantine"])
        assert told.value.about == SOP
    assert shown(retrieve) == [dicom_data.dataset_bytes(first)]
    assert len(QueryService(index).search(Query(Level.IMAGE), SYSTEM).rows) == 1
    (waiting,) = keeping.listed(SYSTEM, "quarantined")
    assert (waiting["sop_instance_uid"], waiting["source_ae"]) == (SOP, "QUARANTINE")
    assert keeping.of(SYSTEM, waiting["id"])["differences"] == {
        "StudyDescription": {"held": "Synthetic study", "aside": "Other"}
    }
    assert len(list(memory.walk())) == 2
    assert [c.kind for c in Changes(index).after(0)].count("quarantined") == 1
    assert len(Audit(index).query("DICOM Instances Quarantined")) == 2
    assert settle.claim_stable(4e9) == []
    replayed_to_the_same(index, memory)
    (waiting,) = keeping.listed(SYSTEM, "quarantined")
    keeping.bring_in(SYSTEM, waiting["id"], "the right one")
    assert shown(retrieve) == [dicom_data.dataset_bytes(other)]
    assert keeping.listed(SYSTEM, "quarantined") == []
    assert [each["reason"] for each in keeping.listed(SYSTEM, "replaced")] == ["the right one"]
    (study,) = studies(index)
    assert study.attributes["00081030"]["Value"] == ["Other"]
    assert study.attributes["00201208"]["Value"] == [1]
    (again,) = settle.claim_stable(4e9)
    assert again.fingerprint != stable.fingerprint
    replayed_to_the_same(index, memory)


def test_other_pixels_alone_are_told(ingest: Ingest, keeping: Keeping) -> None:
    first, other = dicom_data.image(), dicom_data.image()
    other.PixelData = bytes([other.PixelData[0] ^ 1]) + other.PixelData[1:]
    store(ingest, first)
    with pytest.raises(Quarantined):
        store(ingest, other, POLICIES["quarantine"])
    (waiting,) = keeping.listed(SYSTEM)
    assert keeping.of(SYSTEM, waiting["id"])["differences"] == {
        "PixelData": {
            side: f"{len(ds.PixelData)} bytes, SHA-256 {hashlib.sha256(ds.PixelData).hexdigest()}"
            for side, ds in (("held", first), ("aside", other))
        }
    }


def test_quarantined_and_turned_down(
    ingest: Ingest, index: Index, memory: MemoryStore, retrieve: Retrieve, keeping: Keeping
) -> None:
    store(ingest, dicom_data.image())
    with pytest.raises(Quarantined):
        store(ingest, dicom_data.image(StudyDescription="Other"), POLICIES["quarantine"])
    (waiting,) = keeping.listed(SYSTEM)
    with pytest.raises(Forbidden):
        keeping.discard(Principal("reader", "token"), waiting["id"], "no")
    keeping.discard(SYSTEM, waiting["id"], "sent by mistake")
    assert keeping.listed(SYSTEM) == []
    assert len(list(memory.walk())) == 1
    (event,) = Audit(index).query("DICOM Instances Deleted")
    assert "sent by mistake" in event.detail
    with pytest.raises(NotFound):
        keeping.discard(SYSTEM, waiting["id"], "twice")
    with pytest.raises(Quarantined):
        store(ingest, dicom_data.image(StudyDescription="Other"), POLICIES["quarantine"])
    assert len(keeping.listed(SYSTEM)) == 1
    assert shown(retrieve) == [dicom_data.dataset_bytes(dicom_data.image())]


def test_replaced_with_the_old_version_listed_and_restored(
    ingest: Ingest, index: Index, memory: MemoryStore, retrieve: Retrieve, keeping: Keeping
) -> None:
    versions = [dicom_data.image(StudyDescription=f"Version {n}", rows=16 + n) for n in range(3)]
    datasets = [dicom_data.dataset_bytes(ds) for ds in versions]
    settle = Settle(index, Settings(stable_after_s=0))
    fingerprints = []
    for number, ds in enumerate(versions):
        assert store(ingest, ds, POLICIES["replace"]).outcome == ("replaced" if number else "stored")
        assert store(ingest, ds, POLICIES["replace"]).outcome == "same"
        assert shown(retrieve) == [datasets[number]]
        fingerprints += [each.fingerprint for each in settle.claim_stable(4e9)]
    assert len(set(fingerprints)) == 3
    kept = keeping.listed(SYSTEM, "replaced", instance=SOP)
    assert len(kept) == 2
    (study,) = studies(index)
    assert study.attributes["00081030"]["Value"] == ["Version 2"]
    (instance,) = QueryService(index).search(Query(Level.IMAGE), SYSTEM).rows
    assert instance.attributes["00280010"]["Value"] == [18]
    assert b"Version 2" in retrieve.metadata(retrieve.locate(SYSTEM, STUDY))[0]
    assert [c.kind for c in Changes(index).after(0)].count("replaced") == 2
    replayed_to_the_same(index, memory)
    kept = keeping.listed(SYSTEM, "replaced", instance=SOP)
    keeping.bring_in(SYSTEM, kept[-1]["id"], "the first was right")
    assert shown(retrieve) == [datasets[0]]
    assert [each.fingerprint for each in settle.claim_stable(4e9)] == fingerprints[:1]
    assert store(ingest, versions[1], POLICIES["replace"]).outcome == "replaced"
    assert shown(retrieve) == [datasets[1]]
    assert len(keeping.listed(SYSTEM, "replaced")) == 2
    replayed_to_the_same(index, memory)
    Removal(memory, index, Events()).delete(SYSTEM, STUDY)
    assert keeping.listed(SYSTEM) == []
    assert list(memory.walk()) == []


@pytest.mark.parametrize(("held", "policy"), [(EXPLICIT, "refuse"), (IMPLICIT, "quarantine"), (DEFLATED, "replace")])
def test_the_same_in_another_encoding_is_no_other_content(
    ingest: Ingest, index: Index, memory: MemoryStore, retrieve: Retrieve, policy: str, held: str
) -> None:
    item = Dataset()
    item.CodeValue, item.CodeMeaning = "1", "Größe"
    ds = dicom_data.image(ProcedureCodeSequence=Sequence([item]), SmallestImagePixelValue=0)
    store(ingest, ds, syntax=held)
    for syntax in (EXPLICIT, IMPLICIT, DEFLATED):
        assert store(ingest, ds, POLICIES[policy], syntax).outcome == "same"
    ds.ProcedureCodeSequence.is_undefined_length = True  # the same transfer syntax, other bytes
    assert store(ingest, ds, POLICIES[policy], held).outcome == "same"
    ds.ProcedureCodeSequence.is_undefined_length = False
    assert shown(retrieve) == [dicom_data.dataset_bytes(ds, held)]
    assert (len(list(memory.walk())), rows(index, tables.aside)) == (1, [])
    pixels = bytearray(ds.PixelData)
    pixels[7] ^= 1
    for name, value in (("PixelData", bytes(pixels)), ("PatientWeight", 70)):
        other = dicom_data.image(**{"ProcedureCodeSequence": Sequence([item]), name: value})
        try:
            outcome = store(ingest, other, POLICIES[policy], IMPLICIT).outcome
        except (DuplicateInstance, Quarantined) as refused:
            outcome = type(refused).__name__
        assert outcome == {"refuse": "DuplicateInstance", "quarantine": "Quarantined", "replace": "replaced"}[policy]


def test_an_encoding_that_cannot_be_compared_is_other_content(
    ingest: Ingest, memory: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = dicom_data.image()
    store(ingest, ds)
    with pytest.raises(DuplicateInstance):
        store(ingest, ds, syntax="1.2.840.10008.1.2.2")  # words the other way round
    (locator,) = memory.walk()
    memory._objects[locator.object_key] = memory._objects[locator.object_key][:-1] + b"!"
    with pytest.raises(DuplicateInstance):
        store(ingest, ds, syntax=IMPLICIT)  # what is held is spoilt: nobody is told that it is safe
    large = dicom_data.image(1, rows=64, columns=64, PixelData=bytes(8192))
    store(ingest, large, syntax=DEFLATED)
    assert len(dicom_data.dataset_bytes(large, DEFLATED)) < 2000
    monkeypatch.setattr("pacs.ingest.MAX_COMPARED_BYTES", 4000)  # less than it has when it is inflated
    large.add_new(0x00081032, "SQ", [])
    with pytest.raises(DuplicateInstance):
        store(ingest, large, syntax=DEFLATED)


def test_what_moves_to_another_study_leaves_the_first_whole(
    ingest: Ingest, index: Index, retrieve: Retrieve, keeping: Keeping
) -> None:
    store(ingest, dicom_data.image(0, StudyDescription="Named by the first"))
    store(ingest, dicom_data.image(1, StudyDescription="Named by the second"))
    elsewhere = dicom_data.image(0, StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.4")
    with pytest.raises(DuplicateInstance):
        store(ingest, elsewhere)
    assert store(ingest, elsewhere, POLICIES["replace"]).outcome == "replaced"
    by_uid = {row.study_instance_uid: row.attributes for row in studies(index)}
    assert by_uid[STUDY]["00201208"]["Value"] == by_uid["1.2.3"]["00201208"]["Value"] == [1]
    assert by_uid[STUDY]["00081030"]["Value"] == ["Named by the second"]
    (old,) = keeping.listed(SYSTEM, "replaced")
    keeping.bring_in(SYSTEM, old["id"], "back")
    with pytest.raises(NotFound):
        retrieve.locate(SYSTEM, "1.2.3")
    assert len(shown(retrieve)) == 2


def test_results_of_ours_are_never_replaced(ingest: Ingest, retrieve: Retrieve, keeping: Keeping) -> None:
    store(ingest, dicom_data.image(), SYSTEM, result_of="1.2.3")
    with pytest.raises(Quarantined):
        store(ingest, dicom_data.image(StudyDescription="coerced"), POLICIES["replace"])
    assert shown(retrieve) == [dicom_data.dataset_bytes(dicom_data.image())]
    assert len(keeping.listed(SYSTEM, "quarantined")) == 1


@pytest.mark.parametrize("policy", aside.POLICIES)
def test_of_many_contents_from_many_sides_nothing_is_lost(
    ingest: Ingest, index: Index, memory: MemoryStore, retrieve: Retrieve, policy: str
) -> None:
    outcomes: list[str] = []
    versions = [dicom_data.image(StudyDescription=f"Version {n}") for n in range(6)]

    def one(number: int) -> None:
        try:
            outcomes.append(store(ingest, versions[number % 6], POLICIES[policy]).outcome)
        except Quarantined:
            outcomes.append("quarantined")
        except DuplicateInstance:
            outcomes.append("refused")
        except ArchiveError as error:
            outcomes.append(f"failed: {error}")

    threads = [threading.Thread(target=one, args=(number,)) for number in range(18)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    count = {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}
    assert outcomes.count("stored") == 1
    assert sum(count.values()) == 18
    (now,) = shown(retrieve)
    everything = [dicom_data.dataset_bytes(ds) for ds in versions]
    assert now in everything
    digests = {row.digest for row in rows(index, tables.aside)}
    if policy == "refuse":
        assert (count["same"], count["refused"], digests) == (2, 15, set())
        return
    # Every content that came is either the instance or aside, once; nothing else is in the store.
    (held,) = rows(index, schema.instance)
    assert len(digests | {held.digest}) == 6
    assert len(rows(index, tables.aside)) == 5
    assert set(count) <= {"same", "stored", "replaced" if policy == "replace" else "quarantined"}
    assert len({(each.object_key, each.offset) for each in memory.walk()}) == 6
    with index.read() as conn:
        assert conn.execute(select(schema.study.c.number_of_instances)).scalar_one() == 1
        assert conn.execute(select(func.count()).select_from(schema.instance_metadata)).scalar_one() == 1


def note(code: str, *rejected: Dataset, seed: int = 90) -> Dataset:
    """A rejection note (PS3.3 A.35.4) on these instances."""

    def code_item(value: str) -> Dataset:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", "Rejected"
        return item

    references = []
    for ds in rejected:
        instance, series, study = Dataset(), Dataset(), Dataset()
        instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
        series.SeriesInstanceUID, series.ReferencedSOPSequence = ds.SeriesInstanceUID, Sequence([instance])
        study.StudyInstanceUID, study.ReferencedSeriesSequence = ds.StudyInstanceUID, Sequence([series])
        references.append(study)
    made = dicom_data.image(seed, SOPClassUID=KOS, Modality="KO", SeriesInstanceUID="1.2.99", PixelData=None)
    made.ConceptNameCodeSequence = Sequence([code_item(code)])
    made.CurrentRequestedProcedureEvidenceSequence = Sequence(references)
    return made


@pytest.mark.parametrize("code", ["113001", "113037", "113038", "113039"])
def test_a_rejection_note_hides_what_it_names(
    ingest: Ingest, index: Index, memory: MemoryStore, retrieve: Retrieve, keeping: Keeping, code: str
) -> None:
    for seed in range(3):
        store(ingest, dicom_data.image(seed))
    rejected, later = dicom_data.image(1), dicom_data.image(7)
    key_object = note(code, rejected, later)
    store(ingest, key_object)
    left = {location.sop_instance_uid for location in retrieve.locate(SYSTEM, STUDY)}
    assert left == {uids.derived("instance", n) for n in (0, 2, 90)}
    (study,) = QueryService(index).search(Query(Level.STUDY), SYSTEM).rows
    assert study.attributes["00201208"]["Value"] == [3]
    (hidden,) = keeping.listed(SYSTEM, "rejected")
    assert (hidden["note_uid"], code in hidden["reason"]) == (key_object.SOPInstanceUID, True)
    for ds in (rejected, later):
        with pytest.raises(DuplicateInstance, match="rejected"):
            store(ingest, ds, POLICIES["replace"])
    (event,) = Audit(index).query("DICOM Instances Rejected")
    assert "1 of 2 instances were here" in event.detail
    assert [c.kind for c in Changes(index).after(0)].count("rejected") == 1
    replayed_to_the_same(index, memory)
    (hidden,) = keeping.listed(SYSTEM, "rejected")
    keeping.bring_in(SYSTEM, hidden["id"], "rejected by mistake")
    assert len(retrieve.locate(SYSTEM, STUDY)) == 4
    assert store(ingest, rejected).outcome == "same"
    replayed_to_the_same(index, memory)


def test_an_ordinary_key_object_rejects_nothing(ingest: Ingest, retrieve: Retrieve) -> None:
    store(ingest, dicom_data.image(1))
    store(ingest, note("113000", dicom_data.image(1)))
    assert len(retrieve.locate(SYSTEM, STUDY)) == 2


def test_a_note_hides_nothing_of_another_scope(ingest: Ingest, retrieve: Retrieve) -> None:
    store(ingest, dicom_data.image(1), Principal("a", "token", ALL_RIGHTS, "a"))
    foreign = note("113001", dicom_data.image(1))
    foreign.StudyInstanceUID = "1.2.77"
    store(ingest, foreign, Principal("b", "token", ALL_RIGHTS, "b"))
    assert len(retrieve.locate(SYSTEM, STUDY)) == 1
    store(ingest, note("113001", dicom_data.image(2), seed=91), Principal("a", "token", ALL_RIGHTS, "a"))
    assert store(ingest, dicom_data.image(2)).outcome == "stored"


def test_contradicting_patients_and_series_are_listed(ingest: Ingest, index: Index) -> None:
    listed = Discrepancies(index)
    store(ingest, dicom_data.image(0))
    for seed in (1, 2):
        store(ingest, dicom_data.image(seed, PatientID="OTHER"))
    store(ingest, dicom_data.image(3, StudyInstanceUID="1.2.3"))
    series, patient = listed.listed(SYSTEM)
    assert (patient["kind"], patient["found"], patient["held"]) == ("patient", ["OTHER", ""], ["SYN-1", ""])
    assert (series["kind"], series["study_instance_uid"], series["held"]) == ("series", "1.2.3", [STUDY])
    assert [c.kind for c in Changes(index).after(0)].count("discrepancy") == 2
    assert not any("OTHER" in event.detail for event in Audit(index).query("Discrepancy"))
    listed.settle(SYSTEM, patient["id"])
    assert [each["kind"] for each in listed.listed(SYSTEM)] == ["series"]
    with pytest.raises(Conflict):
        listed.settle(SYSTEM, patient["id"])
    with pytest.raises(Forbidden):
        listed.listed(Principal("reader", "token"))
