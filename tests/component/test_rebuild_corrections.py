"""Whatever a person or a policy decided is decided in an index that is made again from the store alone."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from typing import Any

import dicom_data
import orjson
import pydicom
from pydicom import Dataset
from pydicom.sequence import Sequence
from rebuilding import assert_same, contents, make_again, store
from sqlalchemy import select

from pacs import uids
from pacs.archive import open_archive
from pacs.auth import SYSTEM, Principal
from pacs.correction_request import Request
from pacs.errors import DuplicateInstance, NotFound
from pacs.index import aside as kept_aside
from pacs.index import corrections as tables
from pacs.index.engine import open_index
from pacs.settings import AE, Settings

STUDY = [uids.derived("study", n) for n in range(6)]
NEWER, KEEPER = Principal("NEWER", "ae"), Principal("KEEPER", "ae")


def decided(index_url: str) -> dict[str, list[Any]]:
    """What was decided, without surrogate keys."""
    index = open_index(index_url)
    with index.read() as conn:
        found: dict[str, list[Any]] = {"aside": [tuple(row)[1:] for row in conn.execute(select(kept_aside.aside))]}
        found["correction"] = [tuple(row)[1:] for row in conn.execute(select(tables.correction))]
        t, c = tables.correction_study.c, tables.correction.c
        of_each = select(c.uuid, t.study_instance_uid, t.before).where(c.id == t.correction_id)
        found["study"] = [tuple(row) for row in conn.execute(of_each)]
        found["base"] = [
            (row.study_instance_uid, orjson.loads(row.base), [r["changes"] for r in orjson.loads(row.overlay)])
            for row in conn.execute(select(tables.corrected_study))
        ]
        found["keep"] = [tuple(row) for row in conn.execute(select(tables.study_keep))]
    index.close()
    return {name: sorted(rows, key=repr) for name, rows in found.items()}


def note(*rejected: Dataset) -> Dataset:
    """A rejection note for quality reasons."""
    made = dicom_data.image(
        90, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.59", Modality="KO", SeriesInstanceUID="1.2.99", PixelData=None
    )
    title = Dataset()
    title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning = "113001", "DCM", "Rejected"
    made.ConceptNameCodeSequence = Sequence([title])
    evidence = []
    for ds in rejected:
        study, series, instance = Dataset(), Dataset(), Dataset()
        instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
        series.SeriesInstanceUID, series.ReferencedSOPSequence = ds.SeriesInstanceUID, Sequence([instance])
        study.StudyInstanceUID, study.ReferencedSeriesSequence = ds.StudyInstanceUID, Sequence([series])
        evidence.append(study)
    made.CurrentRequestedProcedureEvidenceSequence = Sequence(evidence)
    return made


def one(study: int, z: int = 0, **attributes: Any) -> Dataset:
    return list(dicom_data.series(z + 1, study=study, **attributes))[z]


def test_decisions_survive_a_rebuild(tmp_path: Path) -> None:
    aes = (AE(title="NEWER", other_content="replace"), AE(title="KEEPER", other_content="quarantine"))
    settings = Settings(data=tmp_path / "data", stable_after_s=0, aes=aes)
    archive = open_archive(settings)
    keeping, corrections = archive.keeping, archive.corrections
    for number in range(4):
        for ds in dicom_data.series(3, study=number, PatientID=f"P{number}", PatientName=f"Name^{number}"):
            store(archive, ds)
    for version in ("a", "b"):
        store(archive, one(0, StudyDescription=version, PatientID="P0"), principal=NEWER)
    for version in ("a", "Synthetic study"):  # the second came before: what it is shown as is its first arrival
        ds = one(0, 2, StudyDescription=version, PatientID="P0", PatientName="Name^0")
        store(archive, ds, principal=NEWER)
    store(archive, one(1, 1, StudyDescription="kept aside", PatientID="P1"), principal=KEEPER)
    store(archive, one(1, 2, StudyDescription="accepted", PatientID="P1"), principal=KEEPER)
    store(archive, one(2, 0, StudyDescription="turned down", PatientID="P2"), principal=KEEPER)
    waiting = {each["sop_instance_uid"]: each["id"] for each in keeping.listed(SYSTEM, "quarantined")}
    keeping.bring_in(SYSTEM, waiting[one(1, 2).SOPInstanceUID], "accepted")
    keeping.discard(SYSTEM, waiting[one(2, 0).SOPInstanceUID], "turned down")
    oldest = keeping.listed(SYSTEM, "replaced", instance=one(0).SOPInstanceUID)[-1]
    keeping.bring_in(SYSTEM, oldest["id"], "restored")
    store(archive, note(one(3, 0), one(3, 1), one(3, 9)))
    hidden = {each["sop_instance_uid"]: each["id"] for each in keeping.listed(SYSTEM, "rejected")}
    keeping.bring_in(SYSTEM, hidden[one(3, 1).SOPInstanceUID], "not that one")
    corrections.make(SYSTEM, Request("merge", "one person", patient_id="P0", into_patient_id="P1"))
    undone = corrections.make(SYSTEM, Request("study", "no", STUDY[2], changes={"PatientID": "WRONG"}))
    store(archive, one(4, PatientID="P0"))  # follows the merge
    corrections.make(
        SYSTEM, Request("study", "typo", STUDY[2], changes={"StudyDescription": "Größe", "PatientAge": None})
    )
    with suppress(Exception):
        corrections.undo(SYSTEM, undone["id"])  # not the last one: refused
    store(archive, one(2, 8, PatientID="P2"))  # a late image of a corrected study
    archive.removal.delete(SYSTEM, STUDY[2], one(2, 0).SeriesInstanceUID, one(2, 0).SOPInstanceUID)
    archive.retention.keep(SYSTEM, STUDY[1], "teaching file")
    archive.settle.claim_stable(4e9)
    shown = [sent(archive, uid) for uid in (*STUDY[:5],)]
    archive.close()
    old, was = contents(settings.index_url), decided(settings.index_url)
    assert {name: len(rows) for name, rows in was.items()} == {
        "aside": 6, "correction": 3, "study": 4, "base": 3, "keep": 1,
    }  # fmt: skip
    for path in settings.data.glob("index.db*"):
        path.unlink()
    report = make_again(settings)
    assert (report.refused, report.strange, report.copies) == ([], [], 0)
    assert_same(contents(settings.index_url), old)
    made = decided(settings.index_url)
    for name, rows in was.items():
        assert made[name] == rows, name
    again = open_archive(settings)
    assert [sent(again, uid) for uid in (*STUDY[:5],)] == shown
    for rejected in (one(3, 0), one(3, 9)):
        try:
            store(again, rejected)
        except DuplicateInstance:
            continue
        raise AssertionError("a rejected instance came again")
    store(again, one(5, PatientID="P0"))
    (ds,) = sent(again, STUDY[5])
    assert pydicom.dcmread(io.BytesIO(ds), stop_before_pixels=True).PatientID == "P1"
    for correction in again.corrections.listed(SYSTEM):
        again.corrections.undo(SYSTEM, correction["id"])
    assert b"P0" in sent(again, STUDY[0])[0]
    again.close()


def sent(archive: Any, study: str) -> list[bytes]:
    """The instances of a study as they leave."""
    try:
        found = archive.retrieve.locate(SYSTEM, study)
    except NotFound:
        return []
    return [b"".join(archive.retrieve.part10(location)) for location in found]
