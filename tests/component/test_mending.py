"""A damaged copy is healed by the same content sent again: by C-STORE, by STOW-RS, and for a rebuild."""

from __future__ import annotations

from pathlib import Path

import dicom_data
from dicomweb_server import serving
from dimse_client import CT, EXPLICIT, Association
from rebuilding import contents, make_again, store

from pacs import uids
from pacs.archive import Archive, open_archive
from pacs.auth import SYSTEM, Auth
from pacs.dimse.acceptor import serve
from pacs.retrieve import Retrieve
from pacs.settings import Settings

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


def test_by_stow(tmp_path: Path) -> None:
    ds = dicom_data.image()
    with serving(tmp_path) as web:
        assert web.store(ds).status_code == 200
        spoil(web.archive)
        assert web.store(ds).status_code == 200
        is_sound(web.archive, dicom_data.dataset_bytes(ds))
