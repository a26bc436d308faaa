"""The archive as settings compose it: embedded on files and SQLite, scaled on S3 and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dicom_data
import pytest
from servers import postgresql, rclone

from pacs import uids
from pacs.archive import Archive, open_archive
from pacs.auth import SYSTEM
from pacs.dicom.attributes import Level
from pacs.dicom.matching import Query
from pacs.errors import InvalidInput, Unavailable
from pacs.events import Events
from pacs.settings import Settings


@pytest.fixture(scope="module")
def scaled() -> Iterator[dict[str, str]]:
    """Settings of a running S3 server and PostgreSQL cluster."""
    with rclone() as s3, postgresql() as cluster, pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
        environment.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
        yield {"objects": f"s3://{s3.bucket}/archive", "s3_endpoint": s3.endpoint, "index": cluster.new_database()}


def use(archive: Archive) -> None:
    for ds in dicom_data.series(4):
        receiving = archive.ingest.receive_part10()
        receiving.write(dicom_data.part10(ds))
        archive.ingest.store(receiving, principal=SYSTEM)
    study = uids.derived("study", 0)
    (row,) = archive.query.search(Query(Level.STUDY), SYSTEM).rows
    assert row.attributes["00201208"]["Value"] == [4]
    for location, ds in zip(archive.retrieve.locate(SYSTEM, study), dicom_data.series(4), strict=True):
        assert archive.retrieve.frame(location, 1) == ds.PixelData
        assert archive.retrieve.dataset(location) == dicom_data.dataset_bytes(ds)
    (stable,) = archive.settle.claim_stable(4e9)
    assert stable.study_instance_uid == study
    assert [change.kind for change in archive.changes.after(0)] == ["instance"] * 4 + ["stable"]
    archive.store.check()


def test_embedded(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "data")
    events = Events()
    archive = open_archive(settings, events)
    use(archive)
    assert events.version == 4
    archive.close()
    again = open_archive(settings)
    assert len(again.retrieve.locate(SYSTEM, uids.derived("study", 0))) == 4
    assert again.removal.delete(SYSTEM, uids.derived("study", 0)) == 4
    assert list(again.store.walk()) == []
    again.close()


def test_scaled_in_two_processes_worth_of_archives(tmp_path: Path, scaled: dict[str, str]) -> None:
    first = open_archive(Settings(data=tmp_path / "a", **scaled))  # type: ignore[arg-type]
    second = open_archive(Settings(data=tmp_path / "b", **scaled))  # type: ignore[arg-type]
    use(first)
    locations = second.retrieve.locate(SYSTEM, uids.derived("study", 0))
    assert len(b"".join(second.retrieve.part10(locations[0]))) > 500
    assert second.settle.claim_stable(4e9) == []
    assert second.removal.delete(SYSTEM, uids.derived("study", 0)) == 4
    assert first.query.search(Query(Level.STUDY), SYSTEM).rows == []
    assert list(first.store.walk()) == []
    for archive in (first, second):
        archive.close()


def test_what_cannot_be_is_told_in_words(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    with pytest.raises(InvalidInput, match="setting objects"):
        open_archive(replace(settings, objects="ftp://x"))
    with pytest.raises(InvalidInput, match="setting index"):
        open_archive(replace(settings, index="oracle://x"))
    (tmp_path / "blocked").write_text("a file, no folder")
    with pytest.raises(Unavailable, match="folder"):
        open_archive(replace(settings, data=tmp_path / "blocked"))
