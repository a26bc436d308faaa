"""Stored bytes verified again: damage found, quarantined and healed; orphans adopted or removed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import dicom_data
import pytest
from servers import S3Server
from sqlalchemy import Connection

from pacs import aside, filing, rescan, uids
from pacs import scrub as scrub_module
from pacs.archive import Archive, open_archive
from pacs.auth import SYSTEM, Principal
from pacs.dicom.attributes import Level
from pacs.dicom.matching import Query
from pacs.errors import Conflict, Corrupt
from pacs.index import damage
from pacs.retrieve import InstanceLocation
from pacs.scrub import Background, Scrub
from pacs.server import cli, doctor
from pacs.settings import Settings
from pacs.storage.base import Locator, ObjectStore

MODALITY = Principal("MODALITY", "ae")
STUDY = uids.derived("study", 0)


def prepare(archive: Archive, ds: Any, **how: Any) -> Any:
    receiving = archive.ingest.receive("1.2.840.10008.1.2.1")
    receiving.write(dicom_data.dataset_bytes(ds))
    return archive.ingest.prepare(receiving, principal=MODALITY, **how)


def locations(archive: Archive) -> list[InstanceLocation]:
    return archive.retrieve.locate(SYSTEM, STUDY)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """An archive on files with one series of ten."""
    made = open_archive(Settings(data=tmp_path / "data"))
    for ds in dicom_data.series(10):
        made.ingest.file([prepare(made, ds)])
    yield made
    made.close()


def overwrite(archive: Archive, locator: Locator, at: int, data: bytes) -> bytes:
    """What was there."""
    path = archive.settings.data / "objects" / locator.object_key
    with path.open("r+b") as file:
        file.seek(locator.offset + at)
        old = file.read(len(data))
        file.seek(locator.offset + at)
        file.write(data)
    return old


def test_damage_is_found_told_and_ended(archive: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    scrub = Scrub(archive.store, archive.index)
    assert (scrub.verify(10).objects, scrub.cases()) == (10, [])
    held = locations(archive)
    spoilt, missing = held[3], held[7]
    old = overwrite(archive, spoilt.locator, spoilt.dataset_offset + spoilt.size - 4, b"\xde\xad\xbe\xef")
    archive.store.delete(missing.locator)
    found = scrub.verify(10)
    assert sorted((case.kind, case.sop_instance_uid) for case in found.damaged) == sorted(
        [("corrupt", spoilt.sop_instance_uid), ("missing", missing.sop_instance_uid)]
    )
    assert len(locations(archive)) == 10  # the rows stay
    again = open_archive(archive.settings)
    for location in (spoilt, missing):
        for read in (
            lambda location=location: again.retrieve.frame(location, 1),
            lambda location=location: again.retrieve.dataset(location),
            lambda location=location: list(again.retrieve.part10(location)),
        ):
            with pytest.raises(Corrupt):
                read()
    assert again.retrieve.frame(held[4], 1)
    again.close()
    events = [event.sop_instance_uid for event in archive.audit.query("Object Damaged")]
    assert sorted(map(str, events)) == sorted([spoilt.sop_instance_uid, missing.sop_instance_uid])
    scrub.verify(10)
    assert len(archive.audit.query("Object Damaged")) == 2  # told once

    assert cli.main(["scrub", "--report", "--data", str(archive.settings.data)]) == 1
    told = capsys.readouterr().out
    assert "2 cases" in told
    assert spoilt.sop_instance_uid in told
    overwrite(archive, spoilt.locator, spoilt.dataset_offset + spoilt.size - 4, old)
    assert cli.main(["scrub", "--all", "--data", str(archive.settings.data)]) == 1
    assert [case.sop_instance_uid for case in scrub.cases()] == [missing.sop_instance_uid]
    again = open_archive(archive.settings)
    assert again.retrieve.frame(spoilt, 1)
    again.close()
    assert len(archive.audit.query("Object Sound Again")) == 1
    archive.removal.delete(SYSTEM, STUDY)
    assert list(scrub.cases()) == []  # a case ends with its instance


def test_what_is_kept_aside_is_verified_too(archive: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    spoilt, missing = locations(archive)[2:4]

    def hide(conn: Connection) -> None:
        found = aside._instances(conn, [spoilt.sop_instance_uid, missing.sop_instance_uid], lock=False)
        aside.take_out(conn, found, "replaced", "somebody", 1.0, "for a test")

    archive.index.transact(hide)
    scrub = Scrub(archive.store, archive.index)
    assert scrub.count() == 10
    found = scrub.verify(10)
    assert (found.objects, found.damaged) == (10, [])
    overwrite(archive, spoilt.locator, spoilt.dataset_offset + spoilt.size - 7, b"SPOILT!")
    archive.store.delete(missing.locator)
    assert cli.main(["scrub", "--all", "--data", str(archive.settings.data)]) == 1
    assert "10 objects verified" in capsys.readouterr().out
    assert sorted((case.kind, case.sop_instance_uid, case.kept_aside) for case in scrub.cases()) == [
        ("corrupt", spoilt.sop_instance_uid, "replaced"), ("missing", missing.sop_instance_uid, "replaced"),
    ]  # fmt: skip
    assert len(archive.audit.query("Object Damaged")) == 2
    assert cli.main(["scrub", "--report", "--data", str(archive.settings.data)]) == 1
    assert spoilt.sop_instance_uid in capsys.readouterr().out
    assert "2 objects are damaged" in " ".join(finding.said for finding in doctor.index(archive.settings))
    archive.removal.delete(SYSTEM, STUDY)
    assert list(scrub.cases()) == []  # a case ends with its object


def test_every_instance_has_its_turn(archive: Archive) -> None:
    scrub = Scrub(archive.store, archive.index)
    turns = [[row.sop_instance_uid for row in scrub._next(4)] for _ in range(5)]
    assert all(len(turn) == 4 for turn in turns)
    assert len({uid for turn in turns for uid in turn}) == 10
    assert sorted(uid for turn in turns for uid in turn) == sorted(
        2 * [each.sop_instance_uid for each in locations(archive)]
    )


def test_in_the_background_a_share_a_day(archive: Archive) -> None:
    verified: list[int] = []

    class Counting(Scrub):
        def verify(self, limit: int, **how: Any) -> Any:
            verified.append(limit)
            return super().verify(limit, **how)

    background = Background(Counting(archive.store, archive.index), 100.0)
    for hour in range(49):
        background.step(hour * 3600.0)
        until = time.monotonic() + 60
        while background._running is not None and not background._running.done():
            assert time.monotonic() < until
            time.sleep(0.005)
    background.close()
    assert 18 <= sum(verified) <= 20  # ten a day, for two days
    never = Background(Scrub(archive.store, archive.index), 0.0)
    never.step(0.0)
    never.step(1e6)
    assert never._running is None
    never.close()


def test_orphans_are_adopted_or_removed(archive: Archive) -> None:
    lost = prepare(archive, next(dicom_data.series(1, study=5)))  # a crash came before the index
    copied = locations(archive)[0]
    source = archive.store.read(copied.locator)
    spool = archive.store.spool(1024, None)
    spool.write(source[1024:])
    spool.fill_reserve(source[:1024])
    copy = archive.store.put("0/0/0-" + copied.digest, spool)
    copy.wait()
    result = prepare(archive, next(dicom_data.series(1, study=6)), result_of="1.2.3")
    rival = dicom_data.image(
        0, StudyInstanceUID=STUDY, SOPInstanceUID=copied.sop_instance_uid, PatientName="Other^Content"
    )
    receiving = archive.ingest.receive("1.2.840.10008.1.2.1")
    receiving.write(dicom_data.dataset_bytes(rival))
    other = None
    with suppress(Conflict):  # refused before anything was kept
        other = archive.ingest.prepare(receiving, principal=MODALITY)
    scrub = Scrub(archive.store, archive.index)
    young = scrub.orphans()
    assert (young.adopted, young.removed) == (0, 0)
    assert young.young == (3 if other is None else 4)

    late = Scrub(archive.store, archive.index, clock=lambda: time.time() + 90_000)
    done = late.orphans()
    assert (done.adopted, done.removed, done.young, done.unusable) == (1, 2 if other is None else 3, 0, 0)
    assert done.adopted_bytes == lost.entry.locator.length
    (adopted,) = archive.retrieve.locate(SYSTEM, uids.derived("study", 5))
    assert archive.retrieve.dataset(adopted) == dicom_data.dataset_bytes(next(dicom_data.series(1, study=5)))
    assert archive.changes.after(0, 1000)[-1].sop_instance_uid == adopted.sop_instance_uid
    assert not archive.store.holds(copy.locator)
    assert not archive.store.holds(result.entry.locator)
    assert len(archive.query.search(Query(Level.STUDY), SYSTEM).rows) == 2
    assert len(locations(archive)) == 10
    for location in locations(archive):
        archive.retrieve.dataset(location)
    assert late.orphans().removed == 0


def test_a_case_ends_with_what_it_was_about(archive: Archive) -> None:
    """An index made again lists what it cannot use; of that some is put right later, and some goes."""
    lost = prepare(archive, next(dicom_data.series(1, study=5))).entry.locator
    torn = prepare(archive, next(dicom_data.series(1, study=6))).entry.locator
    overwrite(archive, torn, torn.length - 4, b"\xde\xad\xbe\xef")
    for place in (lost, torn, Locator("gone", 0, 2000)):
        where = {"object_key": place.object_key, "object_offset": place.offset, "object_length": place.length}
        case = {**where, "instance_key": None, "kind": "unusable", "reason": "for a test", "found_at": 1.0}
        archive.index.transact(lambda conn, case=case: damage.record(conn, case))
    late = Scrub(archive.store, archive.index, clock=lambda: time.time() + 90_000)
    done = late.orphans()
    assert (done.adopted, done.unusable) == (1, 1)
    assert [(case.object_key, case.object_offset) for case in late.cases()] == [(torn.object_key, torn.offset)]


def test_what_was_deleted_is_not_adopted(archive: Archive) -> None:
    first = locations(archive)[0]
    copy = archive.store.read(first.locator)
    archive.removal.delete(SYSTEM, STUDY)
    spool = archive.store.spool(1024, None)
    spool.write(copy[1024:])
    spool.fill_reserve(copy[:1024])
    archive.store.put("0/0/0-" + first.digest, spool).wait()
    done = Scrub(archive.store, archive.index, clock=lambda: time.time() + 90_000).orphans()
    assert (done.adopted, done.removed) == (0, 1)
    assert archive.query.search(Query(Level.STUDY), SYSTEM).rows == []


def test_a_damaged_copy_that_came_again_is_no_case(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes go a moment after it was healed; whoever looks for orphans before or meanwhile has nothing to list."""
    scrub, looked, real = Scrub(archive.store, archive.index), list[Locator](), rescan.entry
    monkeypatch.setattr(scrub_module, "WRITTEN_S", 0)

    def entry(store: ObjectStore, locator: Locator) -> filing.Entry:
        looked.append(locator)
        try:
            return real(store, locator)
        finally:
            if len(looked) == 4:
                archive.removal.sweep()  # as the server does it

    monkeypatch.setattr(rescan, "entry", entry)
    for number, ds in enumerate(dicom_data.series(2)):
        (held,) = (each for each in locations(archive) if each.sop_instance_uid == ds.SOPInstanceUID)
        overwrite(archive, held.locator, held.dataset_offset + held.size - 4, b"\xde\xad\xbe\xef")
        archive.ingest.file([prepare(archive, ds)])
        scrub.orphans(older_than_s=0)
        assert looked[2 * number :] == [held.locator] * 2
        assert list(scrub.cases()) == []


def test_what_another_process_is_writing_is_no_damage(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two records without rows: one is whole when it is looked at for the second time, the other never is."""
    places = [prepare(archive, next(dicom_data.series(1, study=n))).entry.locator for n in (5, 6)]
    looked: Counter[Locator] = Counter()
    real = rescan.entry

    def half_written(store: ObjectStore, locator: Locator) -> filing.Entry:
        looked[locator] += 1
        if locator == places[1] or (locator == places[0] and looked[locator] == 1):
            raise Corrupt("its digest is another")
        return real(store, locator)

    monkeypatch.setattr(rescan, "entry", half_written)
    scrub = Scrub(archive.store, archive.index)
    done = scrub.orphans()
    assert (done.unusable, done.young) == (1, 1)
    assert [case.object_offset for case in scrub.cases()] == [places[1].offset]


def test_orphans_in_s3_that_arrive_again_while_they_go(
    rclone_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There equal content shares its place: the removal of an orphan and its arrival must not cross."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", rclone_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", rclone_server.secret_key)
    settings = Settings(
        data=tmp_path / "data", objects=f"s3://{rclone_server.bucket}/orphans", s3_endpoint=rclone_server.endpoint
    )
    archive = open_archive(settings)
    orphan = prepare(archive, next(dicom_data.series(1)), result_of="1.2.3")
    again = prepare(archive, next(dicom_data.series(1)))
    late = Scrub(archive.uncached_store, archive.index, clock=lambda: time.time() + 90_000)
    monkeypatch.setattr(late._removal, "sweep", lambda: archive.ingest.file([again]) and 0)
    late.orphans()
    monkeypatch.undo()
    archive.removal.sweep()
    (location,) = locations(archive)
    assert location.locator == orphan.entry.locator
    assert archive.retrieve.dataset(location) == dicom_data.dataset_bytes(next(dicom_data.series(1)))
    archive.close()


def test_a_mistyped_folder_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "dta"
    for arguments in (["scrub", "--all"], ["token", "create", "--name", "x"], ["login-link"]):
        assert cli.main([*arguments, "--data", str(wrong)]) == 1
        assert "--data right?" in capsys.readouterr().err
    assert not wrong.exists()
