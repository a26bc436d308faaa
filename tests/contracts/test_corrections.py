"""What corrections of identity promise on every database: seen by every door, told, undone without a trace."""

from __future__ import annotations

import io
from typing import Any

import dicom_data
import orjson
import pydicom
import pytest
from pydicom import Dataset
from sqlalchemy import select

from pacs import journal, uids
from pacs.audit import Audit
from pacs.auth import SYSTEM, Principal, Right
from pacs.correction_request import Request
from pacs.corrections import REPLAY, Corrections
from pacs.dicom import ups_task
from pacs.dicom.attributes import Level
from pacs.dicom.matching import Query
from pacs.dicom.ups_task import References
from pacs.errors import Conflict, Forbidden, InvalidInput, NotFound
from pacs.events import Events
from pacs.index import corrections as tables
from pacs.index import schema
from pacs.index.changes import Changes
from pacs.index.engine import Index
from pacs.ingest import Ingest
from pacs.query import QueryService
from pacs.removal import Removal
from pacs.retrieve import Retrieve
from pacs.settings import Settings
from pacs.settle import Settle
from pacs.storage.memory import MemoryStore
from pacs.worklist import Worklist

EXPLICIT = "1.2.840.10008.1.2.1"
STUDY = [uids.derived("study", n) for n in range(4)]


def store(ingest: Ingest, ds: Dataset, principal: Principal = SYSTEM) -> None:
    receiving = ingest.receive(EXPLICIT, source_ae="CT1")
    receiving.write(dicom_data.dataset_bytes(ds))
    ingest.store(receiving, principal=principal)


def of_patient(study: int, patient: str = "A", **attributes: Any) -> Dataset:
    return next(dicom_data.series(1, study=study, PatientID=patient, **attributes))


@pytest.fixture
def corrections(memory: MemoryStore, index: Index) -> Corrections:
    return Corrections(memory, index, Events())


@pytest.fixture
def retrieve(memory: MemoryStore, index: Index) -> Retrieve:
    return Retrieve(memory, index)


def row(index: Index, study: str, level: Level = Level.STUDY) -> dict[str, Any]:
    found = QueryService(index).search(Query(level), SYSTEM).rows
    return next(each.attributes for each in found if each.study_instance_uid in (study, None))


def value(attributes: dict[str, Any], tag: str) -> Any:
    (only,) = attributes[tag]["Value"]
    return only


def told(retrieve: Retrieve, study: str) -> Dataset:
    """The one instance of a study as a file."""
    (location,) = retrieve.locate(SYSTEM, study)
    ds = pydicom.dcmread(io.BytesIO(b"".join(retrieve.part10(location))))
    same = pydicom.dcmread(io.BytesIO(b"".join(retrieve.pieces(location))), force=True, defer_size=None)
    assert same.PatientID == ds.PatientID
    json = orjson.loads(retrieve.metadata([location])[0].replace(b"\xff", b""))
    assert json["00100020"]["Value"] == [ds.PatientID]
    assert ("04000561" in json) == ("OriginalAttributesSequence" in ds)
    return ds


def studies(index: Index) -> list[Any]:
    with index.read() as conn:
        return [tuple(each) for each in conn.execute(select(schema.study).order_by(schema.study.c.id))]


def test_a_corrected_study_is_seen_so_by_every_door(
    ingest: Ingest, index: Index, corrections: Corrections, retrieve: Retrieve
) -> None:
    store(ingest, of_patient(0))
    (before,) = retrieve.locate(SYSTEM, STUDY[0])
    made = corrections.make(
        SYSTEM,
        Request(
            "study", "wrong order", STUDY[0],
            changes={
                "PatientName": "Right^Rita", "AccessionNumber": "B2", "StudyDescription": None, "PatientAge": "040Y",
            },
        ),
    )  # fmt: skip
    assert made["studies"][0]["before"] == {
        "PatientName": "Synthetic^Sam", "AccessionNumber": "A1", "StudyDescription": "Synthetic study",
        "PatientAge": None,
    }  # fmt: skip
    held = row(index, STUDY[0])
    assert value(held, "00100010") == {"Alphabetic": "Right^Rita"}
    assert value(held, "00080050") == "B2"
    ds = told(retrieve, STUDY[0])
    assert (str(ds.PatientName), ds.AccessionNumber, ds.PatientAge) == ("Right^Rita", "B2", "040Y")
    assert "StudyDescription" not in ds
    (item,) = ds.OriginalAttributesSequence
    assert item.ModifyingSystem == "M3DICOM m3dicom"
    assert item.SourceOfPreviousValues == "CT1"
    (was,) = item.ModifiedAttributesSequence
    assert (str(was.PatientName), was.StudyDescription) == ("Synthetic^Sam", "Synthetic study")
    (location,) = retrieve.locate(SYSTEM, STUDY[0])
    assert b"".join(retrieve.part10(location, as_received=True)).endswith(dicom_data.dataset_bytes(of_patient(0)))
    assert location.digest == before.digest
    assert location.version != before.version == before.digest
    (event,) = Audit(index).query("Patient Record")
    assert event.study_instance_uid == STUDY[0]
    assert "Rita" not in event.detail
    assert Changes(index).after(0)[-1].kind == "corrected"


def matching(index: Index, **columns: str) -> list[str]:
    t = schema.study.c
    with index.read() as conn:
        wanted = select(t.study_instance_uid).where(*(t[name] == text for name, text in columns.items())).order_by(t.id)
        return list(conn.execute(wanted).scalars())


def test_a_merge_takes_later_studies_along_and_is_undone_without_a_trace(
    ingest: Ingest, index: Index, corrections: Corrections, retrieve: Retrieve
) -> None:
    store(ingest, of_patient(0, "A", PatientName="Old^Anna", IssuerOfPatientID="WARD"))
    store(ingest, of_patient(1, "B", PatientName="True^Berta", PatientSex="F", PatientBirthDate="19600606"))
    first = studies(index)
    merge = corrections.make(SYSTEM, Request("merge", "same person", patient_id="A", into_patient_id="B"))
    assert [each["study_instance_uid"] for each in merge["studies"]] == [STUDY[0]]
    assert matching(index, patient_id="B") == STUDY[:2]
    (patient,) = QueryService(index).search(Query(Level.PATIENT), SYSTEM).rows
    assert value(patient.attributes, "00201200") == 2
    ds = told(retrieve, STUDY[0])
    assert (ds.PatientID, str(ds.PatientName), ds.PatientSex) == ("B", "True^Berta", "F")
    assert "IssuerOfPatientID" not in ds
    store(ingest, of_patient(2, "A", PatientName="Old^Anna", IssuerOfPatientID="WARD"))
    assert matching(index, patient_id="B") == STUDY[:3]
    assert str(told(retrieve, STUDY[2]).PatientName) == "True^Berta"
    assert [c.kind for c in Changes(index).after(0)].count("corrected") == 2
    corrections.undo(SYSTEM, merge["id"])
    assert studies(index)[:2] == first
    assert matching(index, patient_id="A") == [STUDY[0], STUDY[2]]
    assert told(retrieve, STUDY[2]).PatientID == "A"
    (location,) = retrieve.locate(SYSTEM, STUDY[0])
    assert location.overlay is None
    store(ingest, of_patient(3, "A", IssuerOfPatientID="WARD"))
    assert matching(index, patient_id="A") == [STUDY[0], STUDY[2], STUDY[3]]
    with pytest.raises(Conflict):
        corrections.undo(SYSTEM, merge["id"])


def test_merges_follow_each_other(ingest: Ingest, index: Index, corrections: Corrections, retrieve: Retrieve) -> None:
    for number, patient in enumerate("ABC"):
        store(ingest, of_patient(number, patient, PatientName=f"Name^{patient}"))
    first = corrections.make(SYSTEM, Request("merge", "x", patient_id="A", into_patient_id="B"))
    second = corrections.make(SYSTEM, Request("merge", "x", patient_id="B", into_patient_id="C"))
    assert matching(index, patient_id="C") == STUDY[:3]
    store(ingest, of_patient(3, "A"))
    assert matching(index, patient_id="C") == STUDY
    assert [i.ModifiedAttributesSequence[0].PatientID for i in told(retrieve, STUDY[3]).OriginalAttributesSequence] == [
        "A",
        "B",
    ]
    with pytest.raises(Conflict, match="undo that one first"):
        corrections.undo(SYSTEM, first["id"])
    corrections.undo(SYSTEM, second["id"])
    assert matching(index, patient_id="B") == [STUDY[0], STUDY[1], STUDY[3]]
    corrections.undo(SYSTEM, first["id"])
    assert matching(index, patient_id="A") == [STUDY[0], STUDY[3]]


def test_relinking_and_correcting_a_patient(ingest: Ingest, index: Index, corrections: Corrections) -> None:
    store(ingest, of_patient(0, "A"))
    store(ingest, of_patient(1, "B", PatientName="True^Berta"))
    with pytest.raises(NotFound):
        corrections.make(SYSTEM, Request("relink", "x", STUDY[0], into_patient_id="NOBODY"))
    corrections.make(SYSTEM, Request("relink", "x", STUDY[0], into_patient_id="B"))
    assert matching(index, patient_id="B") == STUDY[:2]
    corrections.make(SYSTEM, Request("patient", "x", patient_id="B", changes={"PatientBirthDate": "20000101"}))
    assert matching(index, patient_birth_date="20000101") == STUDY[:2]
    described = {"PatientName": "New^Nora", "PatientSex": "F"}
    corrections.make(SYSTEM, Request("relink", "x", STUDY[1], into_patient_id="C", changes=described))
    assert matching(index, patient_id="C", patient_sex="F") == [STUDY[1]]
    assert [each["number_of_studies"] for each in corrections.listed(SYSTEM)] == [1, 2, 1]
    assert len(corrections.listed(SYSTEM, STUDY[1])) == 2


def test_a_corrected_study_that_grows_or_comes_again_stays_corrected(
    ingest: Ingest, index: Index, memory: MemoryStore, corrections: Corrections, retrieve: Retrieve
) -> None:
    store(ingest, of_patient(0))
    made = corrections.make(SYSTEM, Request("study", "x", STUDY[0], changes={"PatientID": "N"}))
    late = next(dicom_data.series(1, number=1, PatientID="A", Modality="SR"))
    store(ingest, late)
    held = row(index, STUDY[0])
    assert (value(held, "00100020"), held["00080061"]["Value"], value(held, "00201208")) == ("N", ["CT", "SR"], 2)
    Removal(memory, index, Events()).delete(SYSTEM, STUDY[0])
    store(ingest, of_patient(0))
    assert told(retrieve, STUDY[0]).PatientID == "N"
    corrections.undo(SYSTEM, made["id"])
    assert matching(index, patient_id="A") == [STUDY[0]]
    assert told(retrieve, STUDY[0]).PatientID == "A"


def test_a_correction_does_not_make_analysis_run_again(ingest: Ingest, index: Index, corrections: Corrections) -> None:
    settle = Settle(index, Settings(stable_after_s=0))
    store(ingest, of_patient(0))
    assert len(settle.claim_stable(4e9)) == 1
    corrections.make(SYSTEM, Request("study", "x", STUDY[0], changes={"PatientID": "N"}))
    assert settle.claim_stable(5e9) == []


def test_workitems_of_the_study_say_who_the_patient_is(ingest: Ingest, index: Index, corrections: Corrections) -> None:
    store(ingest, of_patient(0))
    worklist = Worklist(index, Events())

    def item(patient: str, name: str) -> str:
        references = [References(STUDY[0], uids.derived("series", 0, 0), ())]
        held = {"00100020": {"vr": "LO", "Value": [patient]}, "00100010": {"vr": "PN", "Value": [{"Alphabetic": name}]}}
        made = ups_task.build(
            plugin="x", title="X", label="X", parameters=[], inputs=references, patient=held, now=1.0, replaces=None
        )
        return worklist.create(made, uids.new(), SYSTEM)

    ours, other = item("A", "Synthetic^Sam"), item("ELSE", "Else^Ernst")
    before = [worklist.retrieve(uid, SYSTEM) for uid in (ours, other)]
    made = corrections.make(
        SYSTEM, Request("study", "x", STUDY[0], changes={"PatientID": "N", "PatientName": "New^Nora"})
    )
    said = worklist.retrieve(ours, SYSTEM)
    assert (value(said, "00100020"), value(said, "00100010")) == ("N", {"Alphabetic": "New^Nora"})
    assert worklist.retrieve(other, SYSTEM) == before[1]
    corrections.undo(SYSTEM, made["id"])
    assert [worklist.retrieve(uid, SYSTEM) for uid in (ours, other)] == before


@pytest.mark.parametrize(
    "request_",
    [
        Request("study", "x", STUDY[0], changes={"StudyInstanceUID": "1.2.3"}),
        Request("study", "x", STUDY[0], changes={"Modality": "MR"}),
        Request("study", "x", STUDY[0], changes={"PatientBirthDate": "yesterday"}),
        Request("study", "x", STUDY[0], changes={"PatientID": "X" * 65}),
        Request("study", "x", STUDY[0], changes={"PatientID": "A\nB"}),
        Request("study", "", STUDY[0], changes={"PatientID": "N"}),
        Request("study", "x", "../etc", changes={"PatientID": "N"}),
        Request("patient", "x", patient_id="A", changes={"StudyDescription": "no patient's"}),
        Request("merge", "x", patient_id="A", into_patient_id="A"),
        Request("merge", "x", patient_id="A"),
        Request("move", "x", STUDY[0]),
    ],
)
def test_what_cannot_be_corrected_is_refused(
    ingest: Ingest, index: Index, corrections: Corrections, request_: Request
) -> None:
    store(ingest, of_patient(0))
    before = studies(index)
    with pytest.raises(InvalidInput):
        corrections.make(SYSTEM, request_)
    assert studies(index) == before


def test_correcting_needs_the_right_and_the_scope(ingest: Ingest, corrections: Corrections) -> None:
    store(ingest, of_patient(0), Principal("ct", "ae", scope="a"))
    asked = Request("study", "x", STUDY[0], changes={"PatientID": "N"})
    with pytest.raises(Forbidden):
        corrections.make(Principal("reader", "token"), asked)
    with pytest.raises(NotFound):
        corrections.make(Principal("other", "token", frozenset(Right), "b"), asked)
    with pytest.raises(Conflict, match="nothing would change"):
        corrections.make(SYSTEM, Request("study", "x", STUDY[0], changes={"PatientID": "A"}))
    made = corrections.make(Principal("own", "token", frozenset(Right), "a"), asked)
    with pytest.raises(NotFound):
        corrections.undo(Principal("other", "token", frozenset(Right), "b"), made["id"])


def test_the_journal_makes_the_same_again(
    ingest: Ingest, index: Index, memory: MemoryStore, corrections: Corrections
) -> None:
    store(ingest, of_patient(0, "A"))
    store(ingest, of_patient(1, "B"))
    plain = studies(index)
    corrections.make(SYSTEM, Request("merge", "x", patient_id="A", into_patient_id="B"))
    undone = corrections.make(SYSTEM, Request("study", "x", STUDY[1], changes={"StudyDescription": "Not this"}))
    store(ingest, of_patient(2, "A"))
    corrections.undo(SYSTEM, undone["id"])
    names = ("correction", "correction_study", "corrected_study")
    everything = {name: contents(index, name) for name in names}, studies(index)

    def forget(conn: Any) -> None:
        for name in reversed(names):
            conn.execute(schema.metadata.tables[name].delete())
        for table in (schema.study,):
            for each in plain:
                values = dict(zip([c.name for c in table.columns], each, strict=True))
                conn.execute(table.update().where(table.c.id == values["id"]).values(**values))

    index.transact(forget)
    Removal(memory, index, Events()).delete(SYSTEM, STUDY[2])
    store(ingest, of_patient(2, "A"))
    records = [record for record in journal.read(memory) if record.kind in REPLAY]
    for _ in range(2):
        index.transact(lambda conn: [REPLAY[record.kind](conn, record) for record in records] and None)
    got = {name: contents(index, name) for name in names}, studies(index)
    assert got[0] == everything[0]
    assert [each[1] for each in got[1]] == [each[1] for each in everything[1]]
    assert [each[4:] for each in got[1][:2]] == [each[4:] for each in everything[1][:2]]


def contents(index: Index, name: str) -> list[Any]:
    table = schema.metadata.tables[name]
    columns = [c for c in table.columns if c.name not in ("id", "correction_id", "overlay")]
    with index.read() as conn:
        found = [tuple(each) for each in conn.execute(select(*columns))]
        if name == "corrected_study":
            overlays = conn.execute(select(tables.corrected_study.c.overlay)).scalars()
            found += [tuple(sorted(str(r["changes"]) for r in orjson.loads(raw))) for raw in overlays]
    return sorted(found, key=repr)
