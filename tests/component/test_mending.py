"""A damaged copy is healed by the same content sent again: by C-STORE, by STOW-RS, and for a rebuild."""

from __future__ import annotations

import time
from pathlib import Path

import dicom_data
import pytest
from dicomweb_server import serving
from dimse_client import CT, EXPLICIT, Association
from rebuilding import contents, make_again, store

from pacs import uids
from pacs.archive import Archive, open_archive
from pacs.auth import SYSTEM, Auth
from pacs.dimse.acceptor import serve
from pacs.retrieve import Retrieve
from pacs.scrub import ORPHAN_AFTER_S, Scrub
from pacs.settings import Settings
from pacs.storage.arrival import HEAD_BYTES

STUDY = uids.derived("study", 0)


def spoil(archive: Archive) -> None:
    (held,) = archive.retrieve.locate(SYSTEM, STUDY)
    with (archive.settings.data / "objects" / held.locator.object_key).open("r+b") as file:
        file.seek(held.locator.offset + held.locator.length - 100)
        file.write(b"SPOILT!")


def is_sound(archive: Archive, data: bytes) -> None:
    (held,) = archive.retrieve.locate(SYSTEM, STUDY)
    assert Retrieve(archive.store, archive.index).dataset(held) == data


def test_by_c_store_and_for_a_rebuild(tmp_path: Path) -> None:
    ds = dicom_data.image()
    settings = Settings(data=tmp_path / "data")
    archive = open_archive(settings)
    store(archive, ds)
    spoil(archive)
    archive = archive.with_services(auth=Auth(archive.index))
    acceptor = serve(archive, host="127.0.0.1", port=0, ae_title="M3DICOM")
    try:
        with Association(acceptor.address, contexts=((CT, (EXPLICIT,)),)) as assoc:
            assert assoc.store(CT, ds.SOPInstanceUID, dicom_data.dataset_bytes(ds))[0x0900] == 0
    finally:
        acceptor.close(0)
    is_sound(archive, dicom_data.dataset_bytes(ds))
    archive.close()
    old = contents(settings.index_url)
    for path in settings.data.glob("index.db*"):
        path.unlink()
    make_again(settings)  # the bad bytes are still there
    assert contents(settings.index_url)["instance"] == old["instance"]
    archive = open_archive(settings)
    scrub = Scrub(archive.store, archive.index, clock=lambda: time.time() + 2 * ORPHAN_AFTER_S)
    assert [case.kind for case in scrub.cases()] == ["unusable"]
    done = scrub.orphans()  # a sound copy is there: the bad one is of no use to anybody
    assert (done.removed, done.unusable, list(scrub.cases())) == (1, 0, [])
    is_sound(archive, dicom_data.dataset_bytes(ds))
    assert len(list(archive.store.walk())) == 1
    archive.close()


@pytest.mark.parametrize("spoilt", ["the head", "the only copy", "both"])
def test_bad_bytes_stay_where_nothing_sound_is_known_to_be_the_same(tmp_path: Path, spoilt: str) -> None:
    archive = open_archive(Settings(data=tmp_path / "data"))
    ds = dicom_data.image()
    store(archive, ds)
    (kept,) = archive.retrieve.locate(SYSTEM, STUDY)
    whole = archive.store.read(kept.locator)
    if spoilt == "the only copy":
        whole = whole.replace(ds.SOPInstanceUID.encode(), dicom_data.image(1).SOPInstanceUID.encode())
    spool = archive.store.spool(HEAD_BYTES, None)
    spool.write(whole[HEAD_BYTES:])
    spool.fill_reserve(whole[:HEAD_BYTES])
    copied = archive.store.put("0/0/0-" + kept.digest, spool)
    copied.wait()
    twin = copied.locator
    with (archive.settings.data / "objects" / twin.object_key).open("r+b") as file:
        file.seek(twin.offset + twin.length - 100)
        file.write(b"SPOILT!")
        if spoilt == "the head":
            file.seek(twin.offset + 140)
            file.write(b"SPOILT!")
    if spoilt == "both":
        spoil(archive)
    done = Scrub(archive.store, archive.index, clock=lambda: time.time() + 2 * ORPHAN_AFTER_S).orphans()
    assert (done.removed, done.unusable) == (0, 1)
    assert {twin, kept.locator} == set(archive.store.walk())
    archive.close()


def test_by_stow(tmp_path: Path) -> None:
    ds = dicom_data.image()
    with serving(tmp_path) as web:
        assert web.store(ds).status_code == 200
        spoil(web.archive)
        assert web.store(ds).status_code == 200
        is_sound(web.archive, dicom_data.dataset_bytes(ds))
