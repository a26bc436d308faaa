"""The drill: store, back up, store more, lose the index, restore, and everything is there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import dicom_data
import pytest
from conftest import COMMAND, ServerStarter
from servers import postgresql, rclone
from sqlalchemy import create_engine, inspect

from pacs import behind, journal, uids
from pacs.archive import Archive, open_archive
from pacs.auth import SYSTEM, Auth
from pacs.care import Care
from pacs.dicom.attributes import Level
from pacs.dicom.matching import Query
from pacs.errors import DuplicateInstance, NotFound, Unavailable
from pacs.index.engine import open_index
from pacs.server import cli, doctor
from pacs.settings import Settings
from pacs.storage.memory import MemoryStore


def put(archive: Archive, study: int, slices: int) -> None:
    for ds in dicom_data.series(slices, study=study):
        receiving = archive.ingest.receive("1.2.840.10008.1.2.1")
        receiving.write(dicom_data.dataset_bytes(ds))
        archive.ingest.store(receiving, principal=SYSTEM)


def test_the_drill_on_sqlite_beside_a_running_server(start: ServerStarter, tmp_path: Path) -> None:
    server = start()
    folder = tmp_path / "files"
    folder.mkdir()

    def send(study: int, slices: int) -> None:
        for number, ds in enumerate(dicom_data.series(slices, study=study)):
            (folder / f"{study}-{number}").write_bytes(dicom_data.part10(ds))
        assert cli.main(["import", str(folder), "--data", str(server.data)]) == 0
        for path in folder.iterdir():
            path.unlink()

    token = server.token
    for study in range(3):
        send(study, 3)
    headers = {"Authorization": f"Bearer {token}"}
    with server.client() as client:
        client.headers.update(headers)
        item = {
            "00741204": {"vr": "LO", "Value": ["The drill"]},
            "00404041": {"vr": "CS", "Value": ["READY"]},
            "00741000": {"vr": "CS", "Value": ["SCHEDULED"]},
            "00404005": {"vr": "DT", "Value": ["20300101000000"]},
            "00741200": {"vr": "CS", "Value": ["LOW"]},
            "00404021": {"vr": "SQ"},
            "00404018": {"vr": "SQ"},
        }
        made = client.post("/workitems", json=[item], headers={"Content-Type": "application/dicom+json"})
        assert made.status_code == 201, made.text
        workitem = "/workitems/" + made.headers["location"].rsplit("/", 1)[1]
    told = server.command("backup", str(tmp_path / "backups"))
    assert "9 instance" in told
    send(7, 4)
    with server.client() as client:
        assert client.delete(f"/studies/{uids.derived('study', 1)}").status_code < 300
    server.process.send_signal(signal.SIGKILL)
    server.process.wait(60)
    for path in server.data.glob("index.db*"):
        path.unlink()

    began = time.monotonic()
    (copy,) = (tmp_path / "backups").glob("index-*.db")
    assert cli.main(["restore", str(copy), "--data", str(server.data)]) == 0
    print(f"restored in {time.monotonic() - began:.1f} s")
    again = start()
    with again.client() as client:
        client.headers.update(headers)  # the token of before is good
        counts = {
            study["0020000D"]["Value"][0]: study["00201208"]["Value"][0] for study in client.get("/studies").json()
        }
        assert counts == {uids.derived("study", 0): 3, uids.derived("study", 2): 3, uids.derived("study", 7): 4}
        assert client.get(workitem).json()[0]["00741204"]["Value"] == ["The drill"]
    archive = open_archive(replace(Settings(), data=again.data))
    events = [event.event for event in archive.audit.query(limit=10_000)]
    assert events.count("DICOM Instances Transferred") >= 9  # those of the backup
    assert "Index Caught Up" in events
    archive.close()


def test_a_copy_is_consistent_while_others_write(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "data")
    archive = open_archive(settings)
    put(archive, 0, 2)
    stop = threading.Event()

    def write() -> None:
        study = 100
        while not stop.is_set():
            put(archive, study, 3)
            study += 1

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(3):
            assert cli.main(["backup", str(tmp_path / "backups"), "--keep", "1", "--data", str(settings.data)]) == 0
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    archive.close()
    (copy,) = (tmp_path / "backups").iterdir()
    assert cli.main(["restore", str(copy), "--data", str(settings.data)]) == 0
    restored = open_archive(settings)
    studies = restored.query.search(Query(Level.STUDY), SYSTEM).rows
    assert len(studies) > 1
    for study in studies:
        assert study.attributes["00201208"]["Value"] == [
            len(restored.retrieve.locate(SYSTEM, str(study.study_instance_uid)))
        ]
    restored.close()


def test_the_drill_on_postgresql_and_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with rclone() as s3, postgresql() as cluster:
        environment = {
            "AWS_ACCESS_KEY_ID": s3.access_key,
            "AWS_SECRET_ACCESS_KEY": s3.secret_key,
            "M3DICOM_OBJECTS": f"s3://{s3.bucket}/drill",
            "M3DICOM_S3_ENDPOINT": s3.endpoint,
            "M3DICOM_INDEX": cluster.new_database(),
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        settings = Settings(
            data=tmp_path / "data", objects=environment["M3DICOM_OBJECTS"], s3_endpoint=s3.endpoint,
            index=environment["M3DICOM_INDEX"],
        )  # fmt: skip
        archive = open_archive(settings)
        secret = Auth(archive.index).create_token("drill")
        put(archive, 0, 3)
        put(archive, 1, 3)
        assert cli.main(["backup", str(tmp_path / "backups"), "--data", str(settings.data)]) == 0
        put(archive, 2, 5)
        archive.removal.delete(SYSTEM, uids.derived("study", 0))
        assert cli.main(["rebuild", "--add", "--data", str(settings.data)]) == 1  # a server is connected
        archive.close()

        monkeypatch.setenv("M3DICOM_INDEX", cluster.new_database())
        (dump,) = (tmp_path / "backups").glob("index-*.dump")
        assert cli.main(["restore", str(dump), "--data", str(settings.data)]) == 0
        assert cli.main(["restore", str(dump), "--data", str(settings.data)]) == 1  # never over what is there
        restored = open_archive(replace(settings, index=os.environ["M3DICOM_INDEX"]))
        assert Auth(restored.index).authenticate(secret).name == "drill"
        assert len(restored.retrieve.locate(SYSTEM, uids.derived("study", 1))) == 3
        assert len(restored.retrieve.locate(SYSTEM, uids.derived("study", 2))) == 5
        with pytest.raises(NotFound):
            restored.retrieve.locate(SYSTEM, uids.derived("study", 0))
        put(restored, 3, 1)
        restored.close()


def test_what_is_no_copy_is_not_restored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(data=tmp_path / "data")
    archive = open_archive(settings)
    put(archive, 0, 1)
    archive.close()
    (tmp_path / "wrong").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    assert cli.main(["restore", str(tmp_path / "wrong"), "--data", str(settings.data)]) == 1
    assert "no sound copy" in capsys.readouterr().err
    assert cli.main(["restore", str(tmp_path / "none"), "--data", str(settings.data)]) == 1
    archive = open_archive(settings)
    assert len(archive.retrieve.locate(SYSTEM, uids.derived("study", 0))) == 1
    archive.close()


# An index older than its store: a copy put back by hand, or a restore that was cut short


def restore_stopped(settings: Settings, copy: Path, there: Callable[[], bool], *, on: str) -> None:
    """Run `m3dicom restore` until the copy is in place, and it wants to say so, to a full pipe; kill it there."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"x")
    except BlockingIOError:
        os.set_blocking(writing, True)
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | {on: writing}
    process = subprocess.Popen(
        [COMMAND, "restore", str(copy), "--data", str(settings.data)],
        env={**os.environ, "PYTHONUNBUFFERED": "1"}, **streams,
    )  # fmt: skip
    try:
        until = time.monotonic() + 60
        while not there():
            assert process.poll() is None, "it ended before the copy was in place"
            assert time.monotonic() < until
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait(60)
        os.close(reading)
        os.close(writing)


def run(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [COMMAND, *arguments, "--data", str(settings.data)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def assert_refused(settings: Settings, words: str, remedy: str) -> None:
    """Neither the server nor anything else opens the index, and the doctor knows why."""
    with pytest.raises(Unavailable) as refused:
        open_archive(settings)
    assert words in str(refused.value)
    assert remedy in str(refused.value)
    served = run(settings, "serve", "--http", "127.0.0.1:0", "--dimse", "127.0.0.1:0")
    assert served.returncode != 0
    assert remedy in served.stderr
    wrong = [each for each in doctor.index(settings) if each.level == "wrong"]
    assert any(remedy in each.remedy for each in wrong), wrong


@pytest.mark.parametrize("again", ["restore", "rebuild --add"])
def test_a_restore_that_was_killed_leaves_no_index_that_anybody_opens(tmp_path: Path, again: str) -> None:
    settings = Settings(data=tmp_path / "data")
    archive = open_archive(settings)
    put(archive, 0, 2)
    assert run(settings, "backup", str(tmp_path / "backups")).returncode == 0
    put(archive, 1, 3)
    archive.close()
    (copy,) = (tmp_path / "backups").iterdir()
    path = settings.data / "index.db"
    old = path.stat().st_ino
    restore_stopped(settings, copy, lambda: path.stat().st_ino != old, on="stdout")
    assert_refused(settings, "restore", "m3dicom rebuild --add")
    arguments = ["restore", str(copy)] if again == "restore" else again.split()
    done = run(settings, *arguments)
    assert done.returncode == 0, done.stderr
    archive = open_archive(settings)
    assert len(archive.retrieve.locate(SYSTEM, uids.derived("study", 0))) == 2
    assert len(archive.retrieve.locate(SYSTEM, uids.derived("study", 1))) == 3
    archive.close()
    assert [each for each in doctor.index(settings) if each.level == "wrong"] == []


def test_a_restore_to_postgresql_that_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with postgresql() as cluster:
        settings = Settings(data=tmp_path / "data", index=cluster.new_database())
        monkeypatch.setenv("M3DICOM_INDEX", settings.index)
        archive = open_archive(settings)
        put(archive, 0, 2)
        assert run(settings, "backup", str(tmp_path / "backups")).returncode == 0
        put(archive, 1, 3)
        archive.close()
        (copy,) = (tmp_path / "backups").iterdir()
        settings = replace(settings, index=cluster.new_database())
        monkeypatch.setenv("M3DICOM_INDEX", settings.index)
        engine = create_engine(settings.index)
        restore_stopped(settings, copy, lambda: inspect(engine).has_table("meta"), on="stderr")
        engine.dispose()
        assert_refused(settings, "restore", "m3dicom rebuild --add")
        twice = run(settings, "restore", str(copy))
        assert twice.returncode == 1
        assert "m3dicom rebuild --add" in twice.stderr
        done = run(settings, "rebuild", "--add")
        assert done.returncode == 0, done.stderr
        archive = open_archive(settings)
        assert len(archive.retrieve.locate(SYSTEM, uids.derived("study", 1))) == 3
        archive.close()


def test_a_copy_put_back_by_hand_is_refused_where_it_does_not_know_the_journal(tmp_path: Path) -> None:
    """Else a rule of retention removes a study that a person keeps."""
    settings = Settings(data=tmp_path / "data")
    archive = open_archive(settings)
    put(archive, 0, 2)
    archive.close()
    shutil.copy(settings.data / "index.db", tmp_path / "copy.db")
    archive = open_archive(settings)
    archive.retention.keep(SYSTEM, uids.derived("study", 0), "teaching")
    archive.close()
    for path in settings.data.glob("index.db*"):
        path.unlink()
    shutil.copy(tmp_path / "copy.db", settings.data / "index.db")

    assert_refused(settings, "older than its store", "m3dicom rebuild --add")
    done = run(settings, "rebuild", "--add")
    assert done.returncode == 0, done.stderr
    archive = open_archive(settings)
    assert [kept["study_instance_uid"] for kept in archive.retention.kept(SYSTEM)] == [uids.derived("study", 0)]
    archive.close()

    for path in settings.data.glob("index.db*"):  # nor is none beside a journal
        path.unlink()
    with pytest.raises(Unavailable, match="m3dicom rebuild"):
        open_archive(settings)
    done = run(settings, "rebuild")
    assert done.returncode == 0, done.stderr
    open_archive(settings).close()


def test_a_record_of_another_server_while_one_starts_is_known(tmp_path: Path) -> None:
    index = open_index(f"sqlite:///{tmp_path / 'index.db'}")

    class Shared(MemoryStore):
        """Another server has just recorded something when the names are listed."""

        def small(self, prefix: str = "", after: str = "") -> Iterator[str]:
            index.transact(lambda conn: journal.record(conn, "deleted", {"instances": []}))
            journal.Journal(self, index).export()
            return super().small(prefix, after)

    store = Shared()
    assert behind.records(store, index) == 0
    assert len(list(MemoryStore.small(store, journal.PREFIX))) == 1
    store.put_small(f"{journal.PREFIX}{7:020}-{'f' * 32}.json", b"{}")
    assert behind.records(store, index) == 1
    index.close()


def test_an_older_index_that_went_on_is_found_after_the_start(tmp_path: Path) -> None:
    """The start looks at the journal's end; whoever acts on what the index knows waits for the rest of it."""
    archive = open_archive(Settings(data=tmp_path))
    archive.store.put_small(f"{journal.PREFIX}{1:020}-{'f' * 32}.json", b"{}")
    for _ in range(2):
        archive.index.transact(lambda conn: journal.record(conn, "deleted", {"instances": []}))
    journal.Journal(archive.store, archive.index).export()
    assert behind.records(archive.store, archive.index, newest=True) == 0
    assert behind.records(archive.store, archive.index) == 1
    archive.close()
    archive = open_archive(Settings(data=tmp_path))
    care = Care(archive)
    for _ in range(2):
        with pytest.raises(Unavailable, match="m3dicom rebuild"):
            care.step(time.time())
    archive.store.delete_small(f"{journal.PREFIX}{1:020}-{'f' * 32}.json")
    care.step(time.time())
    care.close()
    archive.close()


def test_the_doctor_knows_of_objects_that_a_copy_put_back_by_hand_lacks(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "data")
    archive = open_archive(settings)
    put(archive, 0, 2)
    archive.close()
    shutil.copy(settings.data / "index.db", tmp_path / "copy.db")
    archive = open_archive(settings)
    put(archive, 1, 1)
    other = next(dicom_data.series(1, study=1))
    other.PatientID = "OTHER"
    receiving = archive.ingest.receive("1.2.840.10008.1.2.1")
    receiving.write(dicom_data.dataset_bytes(other))
    with pytest.raises(DuplicateInstance):
        archive.ingest.store(receiving, principal=SYSTEM)
    put(archive, 2, 2)
    archive.removal.delete(SYSTEM, uids.derived("study", 2))
    told = [each.said for each in doctor.index(settings) if each.level == "wrong"]
    assert told == []  # beside a server
    archive.close()
    assert [each for each in doctor.index(settings) if each.level == "wrong"] == []
    for path in settings.data.glob("index.db*"):
        path.unlink()
    shutil.copy(tmp_path / "copy.db", settings.data / "index.db")
    (settings.data / "small" / "journal").rename(tmp_path / "journal")  # a store of which only objects came after it
    wrong = [each for each in doctor.index(settings) if each.level == "wrong"]
    assert ["1 object" in each.said for each in wrong] == [True], wrong
    assert "m3dicom rebuild --add" in wrong[0].remedy
    (tmp_path / "journal").rename(settings.data / "small" / "journal")
    assert run(settings, "rebuild", "--add").returncode == 0
    assert [each for each in doctor.index(settings) if each.level == "wrong"] == []
