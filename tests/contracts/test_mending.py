"""The same content sent again heals a stored copy that is damaged, in every object store and on every database."""

from __future__ import annotations

from pathlib import Path

import dicom_data
import pytest
from sqlalchemy import select

from pacs import uids
from pacs.audit import Audit
from pacs.auth import SYSTEM, Principal
from pacs.events import Events
from pacs.index import schema
from pacs.index.engine import Index, open_index
from pacs.ingest import Ingest
from pacs.removal import Removal
from pacs.retrieve import Retrieve
from pacs.scrub import Scrub
from pacs.settings import Settings
from pacs.storage.arrival import HEAD_BYTES
from pacs.storage.base import Locator, ObjectStore
from pacs.storage.files import FileStore
from pacs.storage.memory import MemoryStore

STUDY = uids.derived("study", 0)
AE = Principal("CT1", "ae")


def spoil(store: ObjectStore, locator: Locator, folder: Path) -> None:
    """Other bytes where the object lies."""
    if isinstance(store, FileStore):
        with (folder / "objects" / locator.object_key).open("r+b") as file:
            file.seek(locator.offset + locator.length - 100)
            file.write(b"SPOILT!")
        return
    remote = getattr(store, "remote", store)
    data = bytearray(remote.read(locator))
    data[-100:-93] = b"SPOILT!"
    spool = remote.spool(HEAD_BYTES, None)
    spool.write(bytes(data[HEAD_BYTES:]))
    spool.fill_reserve(bytes(data[:HEAD_BYTES]))
    remote.put(locator.object_key, spool).wait()


def heals(store: ObjectStore, index: Index, folder: Path, *, known: bool, gone: bool = False) -> None:
    ingest, retrieve = Ingest(store, index, Events(), Settings(data=folder)), Retrieve(store, index)
    scrub = Scrub(getattr(store, "remote", store), index)
    ds = dicom_data.image()

    def send() -> str:
        receiving = ingest.receive("1.2.840.10008.1.2.1", source_ae="CT1")
        receiving.write(dicom_data.dataset_bytes(ds))
        return ingest.store(receiving, principal=AE).outcome

    assert send() == "stored"
    (bad,) = retrieve.locate(SYSTEM, STUDY)
    if gone:
        store.delete(bad.locator)
    else:
        spoil(store, bad.locator, folder)
    if known:
        assert len(scrub.verify(1).damaged) == 1
    assert send() == "same"
    (sound,) = Retrieve(store, index).locate(SYSTEM, STUDY)
    assert sound.locator != bad.locator
    assert Retrieve(store, index).dataset(sound) == dicom_data.dataset_bytes(ds)
    assert scrub.cases() == []
    assert (scrub.verify(1).damaged, scrub.verify(1).healed) == ([], 0)
    (told,) = Audit(index).query("Object Sound Again")
    assert (told.sop_instance_uid, told.detail) == (ds.SOPInstanceUID, "healed by the same content sent again")
    Removal(store, index, Events()).sweep()
    assert list(store.walk()) == [sound.locator]  # the bad bytes are given up
    assert send() == "same"
    assert list(store.walk()) == [sound.locator]
    with index.read() as conn:
        assert conn.execute(select(schema.tombstone.c.state)).scalars().all() == ["removed"]


@pytest.mark.parametrize("known", [True, False])
def test_in_every_store(store: ObjectStore, tmp_path: Path, known: bool) -> None:
    index = open_index(f"sqlite:///{tmp_path / 'index.db'}")
    try:
        heals(store, index, tmp_path, known=known)
    finally:
        index.close()


def test_on_every_database(index: Index, memory: MemoryStore, tmp_path: Path) -> None:
    heals(memory, index, tmp_path, known=True)


def test_an_object_that_is_gone(index: Index, memory: MemoryStore, tmp_path: Path) -> None:
    heals(memory, index, tmp_path, known=False, gone=True)
