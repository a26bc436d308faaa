"""What a retrieval selects, on every database: single keys, long lists, order, and what an asker may see."""

from __future__ import annotations

import dicom_data
import pytest
from pydicom import Dataset

from pacs import uids
from pacs.auth import SYSTEM, Principal, Right
from pacs.dicom.attributes import Level
from pacs.errors import Forbidden
from pacs.index.engine import Index
from pacs.ingest import Ingest
from pacs.retrieve import Retrieve
from pacs.selection import Selection, locate
from pacs.storage.memory import MemoryStore


@pytest.fixture
def kept(ingest: Ingest) -> list[Dataset]:
    """Two series of a study, stored last instance first, and a study of another patient in another ward."""
    mine = [*dicom_data.series(3), *dicom_data.series(2, number=1)]
    theirs = list(dicom_data.series(2, study=1, PatientID="SYN-2"))
    ward = Principal("ward", "token", frozenset(Right), "ward")
    for principal, datasets in ((SYSTEM, mine[::-1]), (ward, theirs)):
        for ds in datasets:
            receiving = ingest.receive("1.2.840.10008.1.2.1")
            receiving.write(memoryview(dicom_data.dataset_bytes(ds)))
            ingest.store(receiving, principal=principal)
    return [*mine, *theirs]


def found(index: Index, selection: Selection, principal: Principal = SYSTEM) -> list[str]:
    return [each.sop_instance_uid for each in locate(index, principal, selection)]


def of(datasets: list[Dataset]) -> list[str]:
    return [ds.SOPInstanceUID for ds in datasets]


def test_single_keys_and_their_order(index: Index, kept: list[Dataset]) -> None:
    study, second = kept[0].StudyInstanceUID, kept[3].SeriesInstanceUID
    assert found(index, Selection(Level.STUDY, "", (study,))) == of(kept[:5])
    assert found(index, Selection(Level.STUDY, "SYN-1", (study,))) == of(kept[:5])
    assert found(index, Selection(Level.STUDY, "SYN-2", (study,))) == []
    assert found(index, Selection(Level.PATIENT, "SYN-2")) == of(kept[5:])
    assert found(index, Selection(Level.SERIES, "", (study,), (second,))) == of(kept[3:5])
    assert found(index, Selection(Level.IMAGE, sop_instance_uids=(kept[4].SOPInstanceUID,))) == of(kept[4:5])


def test_lists_longer_than_a_statement_takes_at_once(index: Index, kept: list[Dataset]) -> None:
    others = tuple(uids.derived("nobody", number) for number in range(1200))
    wanted = (*others[:600], kept[1].SOPInstanceUID, *others[600:], kept[6].SOPInstanceUID, kept[1].SOPInstanceUID)
    assert found(index, Selection(Level.IMAGE, sop_instance_uids=wanted)) == of([kept[1], kept[6]])
    studies = (kept[0].StudyInstanceUID, kept[5].StudyInstanceUID)
    assert sorted(found(index, Selection(Level.STUDY, "", studies))) == sorted(of(kept))
    assert found(index, Selection(Level.STUDY, "SYN-2", studies)) == of(kept[5:])


def test_scope_and_right(index: Index, kept: list[Dataset]) -> None:
    studies = (kept[0].StudyInstanceUID, kept[5].StudyInstanceUID)
    for scope, seen in (("ward", kept[5:]), ("elsewhere", [])):
        asker = Principal("asker", "token", frozenset({Right.READ}), scope)
        assert found(index, Selection(Level.STUDY, "", studies), asker) == of(seen)
        assert found(index, Selection(Level.STUDY, "", studies[1:]), asker) == of(seen)
    with pytest.raises(Forbidden):
        locate(index, Principal("asker", "ae", frozenset({Right.QUERY})), Selection(Level.STUDY, "", studies))


def test_they_are_what_retrieve_finds(index: Index, memory: MemoryStore, kept: list[Dataset]) -> None:
    retrieve = Retrieve(memory, index)
    for ours in locate(index, SYSTEM, Selection(Level.STUDY, "", (kept[0].StudyInstanceUID,))):
        (theirs,) = retrieve.locate(SYSTEM, ours.study_instance_uid, None, ours.sop_instance_uid)
        assert (ours.locator, ours.digest, ours.size, ours.overlay) == (
            theirs.locator, theirs.digest, theirs.size, theirs.overlay,
        )  # fmt: skip
        assert retrieve.dataset(ours) == b"".join(retrieve.pieces(theirs))
