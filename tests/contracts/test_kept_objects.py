"""What is replaced, quarantined, corrected and removed keeps its bytes, or loses them, in every object store."""

from __future__ import annotations

import io
from pathlib import Path

import dicom_data
import pydicom
import pytest
from pydicom import Dataset

from pacs import uids
from pacs.auth import SYSTEM, Principal
from pacs.correction_request import Request
from pacs.corrections import Corrections
from pacs.errors import Quarantined
from pacs.events import Events
from pacs.index.engine import open_index
from pacs.ingest import Ingest
from pacs.keeping import Keeping
from pacs.removal import Removal
from pacs.retrieve import Retrieve
from pacs.settings import AE, Settings
from pacs.storage.base import ObjectStore
from pacs.storage.files import FileStore

EXPLICIT = "1.2.840.10008.1.2.1"
STUDY = uids.derived("study", 0)


def test_every_version_can_be_read_until_it_is_removed(store: ObjectStore, tmp_path: Path) -> None:
    for side in (16, 700) if isinstance(store, FileStore) else (16,):  # in a shared segment, and in a file of its own
        folder = tmp_path / f"index-{side}"
        folder.mkdir()
        versions_come_and_go(store, folder, side)


def versions_come_and_go(store: ObjectStore, tmp_path: Path, side: int) -> None:
    index = open_index(f"sqlite:///{tmp_path / 'index.db'}")
    aes = (AE(title="NEWER", other_content="replace"), AE(title="KEEPER", other_content="quarantine"))
    ingest = Ingest(store, index, Events(), Settings(data=tmp_path, aes=aes))
    removal, retrieve = Removal(store, index, Events()), Retrieve(store, index)
    keeping, corrections = Keeping(store, index, Events(), removal), Corrections(store, index, Events())
    versions = [dicom_data.image(rows=side, columns=side, StudyDescription=f"Version {n}") for n in range(3)]

    def send(ds: Dataset, title: str) -> None:
        receiving = ingest.receive(EXPLICIT, source_ae=title)
        receiving.write(dicom_data.dataset_bytes(ds))
        ingest.store(receiving, principal=Principal(title, "ae"))

    def shown() -> bytes:
        (location,) = retrieve.locate(SYSTEM, STUDY)
        return retrieve.dataset(location)

    try:
        send(versions[0], "NEWER")
        send(versions[1], "NEWER")
        with pytest.raises(Quarantined):
            send(versions[2], "KEEPER")
        assert shown() == dicom_data.dataset_bytes(versions[1])
        (waiting,) = keeping.listed(SYSTEM, "quarantined")
        keeping.bring_in(SYSTEM, waiting["id"], "right")
        assert shown() == dicom_data.dataset_bytes(versions[2])
        newest, oldest = keeping.listed(SYSTEM, "replaced")
        keeping.discard(SYSTEM, newest["id"], "not needed")
        keeping.bring_in(SYSTEM, oldest["id"], "it was right")
        assert shown() == dicom_data.dataset_bytes(versions[0])
        assert len(list(store.walk())) == 2
        made = corrections.make(SYSTEM, Request("study", "typo", STUDY, changes={"PatientID": "N"}))
        (location,) = retrieve.locate(SYSTEM, STUDY)
        corrected = pydicom.dcmread(io.BytesIO(b"".join(retrieve.part10(location))))
        assert (corrected.PatientID, corrected.PixelData) == ("N", versions[0].PixelData)
        corrections.undo(SYSTEM, made["id"])
        assert shown() == dicom_data.dataset_bytes(versions[0])
        removal.delete(SYSTEM, STUDY)
        assert list(store.walk()) == []
        assert list(store.small("journal/")) != []
    finally:
        index.close()
