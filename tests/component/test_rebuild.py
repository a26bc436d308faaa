"""The index made again from the store alone, and brought up to date after a restored backup."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dicom_data
import pytest
from rebuilding import MODALITY, assert_same, contents, make_again, store
from servers import postgresql, rclone
from sqlalchemy import Connection, insert

from pacs import rescan, uids
from pacs.archive import Archive, open_archive, open_store
from pacs.auth import SYSTEM
from pacs.errors import Conflict, Unavailable
from pacs.index import schema
from pacs.index.changes import Changes
from pacs.index.migrate import HALF_BUILT
from pacs.server import cli
from pacs.server.commands.rebuild import put_in_place
from pacs.settings import Settings


def fill(archive: Archive) -> None:
    """Studies by several senders at once, results, requests, a deletion of each kind, and one that came back."""

    def send(number: int) -> None:
        for ds in dicom_data.series(6, study=number, PatientName=f"Rebuilt^{number}=山田^太郎"):
            store(archive, ds, principal=replace(MODALITY, name=f"AE{number}"))
        store(archive, next(dicom_data.series(1, study=number, number=1, Modality="SR")))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store(archive, next(dicom_data.series(1, study=3, number=7)), principal=SYSTEM, result_of="1.2.3.4")
    store(archive, dicom_data.image(99, 600, 600, StudyInstanceUID="1.2.99"))  # more than a memory's worth
    removal = archive.removal
    removal.delete(SYSTEM, uids.derived("study", 0))
    first = uids.derived("instance", 1, 0, 0)
    removal.delete(SYSTEM, uids.derived("study", 1), uids.derived("series", 1, 0), first)
    removal.delete(SYSTEM, uids.derived("study", 2), uids.derived("series", 2, 1))
    store(archive, next(dicom_data.series(1, study=2, number=1, Modality="SR")))
    archive.settle.claim_stable(4e9)


@pytest.fixture(params=["files-sqlite", "s3-postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """An archive of each form."""
    if request.param == "files-sqlite":
        yield Settings(data=tmp_path / "data", stable_after_s=0)
        return
    with rclone() as s3, postgresql() as cluster, pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
        environment.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
        environment.setenv("NEXT_DATABASE", cluster.new_database())
        yield Settings(
            data=tmp_path / "data", stable_after_s=0, objects=f"s3://{s3.bucket}/archive", s3_endpoint=s3.endpoint,
            index=cluster.new_database(),
        )  # fmt: skip


def test_the_same_rows(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = open_archive(settings)
    fill(archive)
    archive.close()
    old = contents(settings.index_url)
    if settings.index == "sqlite":
        for path in settings.data.glob("index.db*"):
            path.unlink()
        fresh = settings
    else:
        fresh = replace(settings, index=os.environ["NEXT_DATABASE"])
    report = make_again(fresh)
    assert (report.refused, report.strange, report.gone) == ([], [], [])
    assert report.instances == len(old["instance"])
    assert_same(contents(fresh.index_url), old)

    again = open_archive(fresh)
    changes = Changes(again.index)
    told = [change.sop_instance_uid for change in changes.after(0, 1000) if change.kind in ("instance", "result")]
    assert sorted(map(str, told)) == sorted(row[2] for row in old["instance"])
    assert changes.cursor("anybody within") == changes.last()  # old news: nothing is sent or analysed again
    assert again.settle.claim_stable(4e9) == []  # they had come to rest, and were told so
    store(again, next(dicom_data.series(1, study=1)))  # what was deleted may come back, and the keys go on
    assert len(again.retrieve.locate(SYSTEM, uids.derived("study", 1))) == 7
    assert again.removal.delete(SYSTEM, uids.derived("study", 3)) == 8
    for location in again.retrieve.locate(SYSTEM, uids.derived("study", 2)):
        again.retrieve.dataset(location)
    again.close()


def test_an_interrupted_scan_goes_on_and_sees_what_changed_meanwhile(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "data", stable_after_s=1e9)
    archive = open_archive(settings)
    for ds in dicom_data.series(5):
        store(archive, ds)
    archive.close()
    staging = rescan.Staging(settings.data / "rebuild")
    objects = open_store(settings)
    rescan.scan(settings, objects, staging, processes=1, tell=lambda progress: None)
    objects.close()
    archive = open_archive(settings)
    archive.removal.delete(
        SYSTEM, uids.derived("study", 0), uids.derived("series", 0, 0), uids.derived("instance", 0, 0, 2)
    )
    for ds in dicom_data.series(4, study=1):
        store(archive, ds)
    archive.close()
    old = contents(settings.index_url)
    for path in settings.data.glob("index.db*"):
        path.unlink()
    seen: list[tuple[int, int]] = []
    objects = open_store(settings)
    rescan.scan(settings, objects, staging, processes=2, tell=lambda p: seen.append((p.done, p.total)))
    objects.close()
    assert (4, 8) in seen  # four were staged before, and still are there
    report = make_again(settings)
    assert report.instances == 8
    assert_same(contents(settings.index_url), old)


def test_what_cannot_be_used_is_listed_and_the_rest_is_there(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "data", stable_after_s=1e9)
    archive = open_archive(settings)
    for ds in dicom_data.series(5):
        store(archive, ds)
    places = [each.locator for each in archive.retrieve.locate(SYSTEM, uids.derived("study", 0))]
    archive.close()
    damaged, torn = places[1], max(places, key=lambda each: (each.object_key, each.offset))
    with (settings.data / "objects" / damaged.object_key).open("r+b") as file:
        file.seek(damaged.offset + damaged.length - 3)
        file.write(b"\xa5")
    with (settings.data / "objects" / torn.object_key).open("r+b") as file:
        file.truncate(torn.offset + torn.length // 2)
    for path in settings.data.glob("index.db*"):
        path.unlink()
    report = make_again(settings)
    assert report.instances == 3
    assert {each.locator for each in report.refused} == {damaged, torn}
    assert all("digest" in each.reason or "shorter" in each.reason for each in report.refused)


def test_a_live_or_filled_index_is_not_touched_and_the_old_one_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(data=tmp_path / "data", stable_after_s=1e9)
    archive = open_archive(settings)
    for ds in dicom_data.series(3):
        store(archive, ds)
    archive.close()
    arguments = ["rebuild", "--data", str(settings.data)]
    before = contents(settings.index_url)
    assert cli.main(arguments) == 1
    assert "nothing was changed" in capsys.readouterr().err
    assert contents(settings.index_url) == before
    assert cli.main([*arguments, "--force"]) == 0
    (kept,) = settings.data.glob("index-before-rebuild-*.db")
    assert contents(f"sqlite:///{kept}") == before
    assert contents(settings.index_url)["instance"] == before["instance"]
    (settings.data / "index.db").write_bytes(b"no database at all" * 1000)
    assert cli.main(arguments) == 1
    assert cli.main([*arguments, "--force"]) == 0
    assert contents(settings.index_url)["instance"] == before["instance"]


def test_nobody_opens_half_an_index_and_the_next_rebuild_begins_again(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "data", stable_after_s=1e9)
    archive = open_archive(settings)
    for ds in dicom_data.series(3):
        store(archive, ds)
    old = contents(settings.index_url)
    with pytest.raises(Conflict):
        make_again(settings)

    def half(conn: Connection) -> None:
        conn.execute(insert(schema.meta).values(name=HALF_BUILT, value="1"))

    archive.index.transact(half)
    archive.close()
    with pytest.raises(Unavailable, match="rebuild"):
        open_archive(settings)
    assert make_again(settings).instances == 3
    assert contents(settings.index_url)["instance"] == old["instance"]
    open_archive(settings).close()


def test_at_no_moment_is_there_no_index(tmp_path: Path) -> None:
    for name in ("index.db", "index.db-wal", "made.db"):
        (tmp_path / name).write_text(name)
    aside = put_in_place(tmp_path, tmp_path / "made.db")
    assert aside is not None
    assert (tmp_path / "index.db").read_text() == "made.db"
    assert aside.read_text() == "index.db"
    assert Path(f"{aside}-wal").read_text() == "index.db-wal"
    assert not (tmp_path / "index.db-wal").exists()


def test_a_restored_backup_is_brought_up_to_date(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "data", stable_after_s=1e9)
    archive = open_archive(settings)
    for study in range(3):
        for ds in dicom_data.series(3, study=study):
            store(archive, ds)
    archive.removal.delete(
        SYSTEM, uids.derived("study", 2), uids.derived("series", 2, 0), uids.derived("instance", 2, 0, 0)
    )
    archive.close()
    shutil.copy(settings.data / "index.db", settings.data / "backup.db")
    archive = open_archive(settings)
    archive.removal.delete(SYSTEM, uids.derived("study", 0))
    archive.removal.delete(
        SYSTEM, uids.derived("study", 1), uids.derived("series", 1, 0), uids.derived("instance", 1, 0, 0)
    )
    store(archive, next(dicom_data.series(1, study=2)))  # came back
    for ds in dicom_data.series(4, study=5):
        store(archive, ds)
    archive.close()
    now = contents(settings.index_url)
    for path in settings.data.glob("index.db*"):
        path.unlink()
    (settings.data / "backup.db").rename(settings.data / "index.db")
    for _ in range(2):  # the second time there is nothing left to do
        assert cli.main(["rebuild", "--add", "--data", str(settings.data)]) == 0
        assert_same(contents(settings.index_url), now)


def test_many_arrivals_in_any_order_make_one_index(tmp_path: Path) -> None:
    """The rows are a function of what is stored: who came first names its study, whoever was filed first."""
    settings = Settings(data=tmp_path / "data", stable_after_s=1e9)
    archive = open_archive(settings)
    prepared = []
    for number, ds in enumerate(dicom_data.series(6)):
        ds.PatientID, ds.SeriesDescription = f"ID{number}", f"Description {number}"
        receiving = archive.ingest.receive("1.2.840.10008.1.2.1")
        receiving.write(dicom_data.dataset_bytes(ds))
        prepared.append(archive.ingest.prepare(receiving, principal=MODALITY))
    random.Random(7).shuffle(prepared)
    for each in prepared:
        archive.ingest.file([each])
    archive.close()
    old = contents(settings.index_url)
    for path in settings.data.glob("index.db*"):
        path.unlink()
    make_again(settings)
    assert_same(contents(settings.index_url), old)


def test_staging_is_plain_sqlite(tmp_path: Path) -> None:
    staging = rescan.Staging(tmp_path / "rebuild")
    objects = open_store(Settings(data=tmp_path))
    rescan.scan(Settings(data=tmp_path), objects, staging, processes=1, tell=lambda progress: None)
    objects.close()
    with sqlite3.connect(tmp_path / "rebuild" / "stage-0.db") as stage:
        assert stage.execute("SELECT count(*) FROM object").fetchone() == (0,)
