"""`m3dicom doctor` on archives that are well and on archives that are not."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import dicom_data
import httpx
import pytest
from conftest import ServerStarter, needed
from servers import PostgreSQL, S3Server, free_port

from pacs import journal, uids
from pacs.archive import open_archive
from pacs.auth import SYSTEM
from pacs.scrub import Scrub
from pacs.server import cli, doctor
from pacs.settings import AE, Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An archive with something in it, and doors that are free."""
    made = Settings(data=tmp_path / "data", http=f"127.0.0.1:{free_port()}", dimse=f"127.0.0.1:{free_port()}")
    archive = open_archive(made)
    for ds in dicom_data.series(2):
        receiving = archive.ingest.receive("1.2.840.10008.1.2.1")
        receiving.write(dicom_data.dataset_bytes(ds))
        archive.ingest.store(receiving, principal=SYSTEM)
    archive.close()
    return made


def wrong(settings: Settings) -> list[doctor.Finding]:
    """What is wrong; each has a remedy."""
    found = [each for each in doctor.examine(settings) if each.level == "wrong"]
    assert all(each.remedy for each in found)
    return found


def said(found: list[doctor.Finding]) -> str:
    return "\n".join(f"{each.part}: {each.said}" for each in found)


def change(settings: Settings, **values: Any) -> Settings:
    return Settings(**({name: getattr(settings, name) for name in ("data", "http", "dimse")} | values))


def test_a_healthy_archive(settings: Settings) -> None:
    found = list(doctor.examine(settings))
    assert wrong(settings) == []
    assert {"settings", "clock", "folder", "server", "index", "objects", "plug-ins", "viewer"} <= {
        f.part for f in found
    }
    assert "2 instances" in said(found)
    assert not [path for path in settings.data.rglob("*doctor*") if path.is_file()]


def test_beside_a_running_server_and_as_json(start: ServerStarter, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start()
    found = json.loads(server.command("doctor", "--json"))
    assert any(each["part"] == "server" and "runs as process" in each["said"] for each in found)
    with server.client() as client:
        assert client.get("/studies").status_code in (200, 204)


def test_nothing_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--data", str(tmp_path / "dta")]) == 1
    assert "--data right?" in capsys.readouterr().out
    assert not (tmp_path / "dta").exists()


def test_a_spoilt_index_and_settings_that_cannot_be(settings: Settings) -> None:
    assert "aes" not in said(wrong(settings))
    assert "behind_tls_proxy" in said(wrong(change(settings, http="0.0.0.0:0")))
    path = settings.data / "index.db"
    raw = bytearray(path.read_bytes())
    raw[8192:20480] = b"\xff" * 12288
    path.write_bytes(raw)
    assert "index: " in said(wrong(settings))


def test_ports_and_peers(settings: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"{port}" in said(wrong(change(settings, dimse=f"127.0.0.1:{port}")))
    gone = AE("GONE", host="127.0.0.1", port=free_port())
    (peer,) = [each for each in wrong(change(settings, aes=(gone,))) if each.part == "peers"]
    assert "GONE" in peer.said


def test_a_peer_that_answers(settings: Settings, start: ServerStarter) -> None:
    server = start("other")
    host, port = server.dimse
    found = list(doctor.examine(change(settings, aes=(AE(server.ready["aet"], host=host, port=port),))))
    (peer,) = [each for each in found if each.part == "peers"]
    assert peer.level in ("ok", "slow")
    assert "answers a C-ECHO" in peer.said


def test_an_index_older_than_its_store_and_damage(settings: Settings) -> None:
    archive = open_archive(settings)
    (first, _) = archive.retrieve.locate(SYSTEM, uids.derived("study", 0))
    archive.store.delete(first.locator)
    Scrub(archive.store, archive.index).verify(2)
    record = journal.Record(99, "f" * 32, "deleted", 1.0, {"instances": [], "principal": "x"})
    archive.store.put_small(record.name, record.to_bytes())
    archive.close()
    told = said(wrong(settings))
    assert "1 objects are damaged" in told
    assert "older than its store" in told


def test_certificates(settings: Settings, tmp_path: Path) -> None:
    command = [needed("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
               "-subj", "/CN=archive", "-keyout", str(tmp_path / "key.pem")]  # fmt: skip
    for days in (10, 400, 9000, 20000):  # both forms of a date (RFC 5280 4.1.2.5)
        pem = tmp_path / f"{days}.pem"
        subprocess.run([*command, "-days", str(days), "-out", str(pem)], check=True, capture_output=True)
        assert abs(doctor.expiry(pem.read_text()) - time.time() - days * 86_400) < 86_400
    (soon,) = doctor.certificates(change(settings, tls_certificate=str(tmp_path / "10.pem")))
    (good,) = doctor.certificates(change(settings, tls_certificate=str(tmp_path / "400.pem")))
    assert (soon.level, good.level) == ("advice", "ok")
    (missing,) = doctor.certificates(change(settings, tls_certificate=str(tmp_path / "none.pem")))
    assert missing.level == "wrong"


def test_postgresql_and_s3(
    settings: Settings, postgresql_cluster: PostgreSQL, moto_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", moto_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", moto_server.secret_key)
    scaled = change(
        settings, index=postgresql_cluster.new_database(), objects=f"s3://{moto_server.bucket}/doctor",
        s3_endpoint=moto_server.endpoint,
    )  # fmt: skip
    told = said(wrong(scaled))
    assert "fsync is off" in told  # the tests' own cluster is a bad one
    assert "objects" not in told
    everything = said(list(doctor.examine(scaled)))
    assert "the database is empty" in everything
    assert "keeps no versions" in everything
    away = change(settings, index=f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/none")
    assert "index: PostgreSQL cannot be reached" in said(wrong(away))


def test_attendants_are_told_of(start: ServerStarter) -> None:
    running = start(settings={"M3DICOM_DIMSE_PROCESSES": "2", "M3DICOM_WORKERS": "0"})
    settings = Settings(data=running.data, dimse=running.dimse, dimse_processes=2)

    def lines() -> list[str]:
        return [each.said for each in doctor.server(settings) if "attendant" in each.said]

    until = time.monotonic() + 60
    while not lines()[0].startswith("2 of 2 attendants serve") and time.monotonic() < until:
        time.sleep(0.1)
    assert lines()[0].startswith("2 of 2 attendants serve")
    assert "MB each" in lines()[0]
    told = httpx.get(f"{running.http}/metrics", headers={"Authorization": f"Bearer {running.token}"})
    assert told.status_code == 200
    assert 'm3dicom_dimse_attendants{state="wanted"} 2' in told.text
    assert "m3dicom_dimse_associations 0" in told.text
