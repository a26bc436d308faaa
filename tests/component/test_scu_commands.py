"""The subcommands that talk to other AEs, against our own door and DCMTK's: what they do, print and exit with."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dicom_data
import orjson
import pydicom
import pynetdicom
import pytest
from certificates import Authority
from dimse_client import EXPLICIT
from pydicom import Dataset
from raw_dicom import bundled
from servers import free_port, missing, stop, wait_for_port

from pacs.archive import Archive, open_archive
from pacs.auth import SYSTEM, Auth
from pacs.committing import Committing
from pacs.dimse import tls
from pacs.dimse.acceptor import Acceptor, serve
from pacs.dimse.commit_scu import EventReporter
from pacs.server import cli
from pacs.settings import AE, Settings


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    opened = open_archive(Settings(data=tmp_path / "archive"))
    yield opened.with_services(auth=Auth(opened.index))
    opened.close()


@pytest.fixture
def door(archive: Archive) -> Iterator[Acceptor]:
    acceptor = serve(archive, host="127.0.0.1", port=0, ae_title="PACS")
    yield acceptor
    acceptor.close(0)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # what a command without --data would touch


def at(acceptor: Acceptor, title: str = "PACS") -> str:
    host, port = acceptor.address
    return f"{title}@{host}:{port}"


def written(folder: Path, *datasets: Dataset) -> Path:
    folder.mkdir()
    for number, ds in enumerate(datasets):
        (folder / f"{number}.dcm").write_bytes(dicom_data.part10(ds))
    return folder


def test_echo(door: Acceptor, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["echo", "--to", at(door), "--count", "2"]) == 0
    out = capsys.readouterr().out
    assert out.count("0000H in ") == 2
    assert "M3DICOM_" in out


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("PACS@127.0.0.1:{free}", "cannot connect to PACS@127.0.0.1:{free}: connection refused"),
        ("WRONG@127.0.0.1:{port}", "rejects the association: it is not the AE title that was called"),
        ("NOBODY", "no AE of this title with host and port is configured"),
        ("PACS@nowhere", "--to: 'nowhere' is not HOST:PORT"),
        ("PACS-WITH-A-LONG-NAME@127.0.0.1:104", "is no AE title of 1 to 16 characters"),
    ],
)
def test_what_cannot_be_reached_is_told(
    door: Acceptor, capsys: pytest.CaptureFixture[str], to: str, words: str
) -> None:
    values = {"free": free_port(), "port": door.address[1]}
    assert cli.main(["echo", "--to", to.format(**values)]) == 1
    error = capsys.readouterr().err
    assert words.format(**values) in error
    assert "Traceback" not in error


def test_store_find_get_and_move(
    archive: Archive, door: Acceptor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = list(dicom_data.series(3))
    folder = written(tmp_path / "in", *images)
    shutil.copy(bundled("SC_rgb_rle.dcm"), folder / "rle.dcm")
    (folder / "notes.txt").write_text("nothing to see")
    assert cli.main(["store", "--to", at(door), str(folder)]) == 0
    done = capsys.readouterr()
    assert "4 of 4 instances sent to PACS@127.0.0.1" in done.out
    assert "1 skipped" in done.out
    assert "notes.txt is left out" in done.err
    study = images[0].StudyInstanceUID
    assert len(archive.retrieve.locate(SYSTEM, study)) == 3

    assert cli.main(["find", "--to", at(door), "PatientID=SYN-1", "StudyInstanceUID", "StudyDate"]) == 0
    found = capsys.readouterr()
    assert found.out.splitlines()[0].split() == ["PatientID", "StudyInstanceUID", "StudyDate"]
    assert found.out.splitlines()[1].split() == ["SYN-1", study, "20260102"]
    assert "1 found" in found.err
    assert cli.main(["find", "--to", at(door), "--json", "--level", "IMAGE", "--relational", "SOPInstanceUID"]) == 0
    rows = [orjson.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 4
    assert {ds.SOPInstanceUID for ds in images} <= {row["00080018"]["Value"][0] for row in rows}
    assert cli.main(["find", "--to", at(door), "--level", "SERIES", "--limit", "1", "--relational"]) == 0
    assert "1 found" in capsys.readouterr().err
    assert cli.main(["find", "--to", at(door), "PatientID=NOBODY"]) == 0
    assert "0 found" in capsys.readouterr().err

    rle = pydicom.dcmread(bundled("SC_rgb_rle.dcm"))
    out = ["--study", study, "--study", rle.StudyInstanceUID, "--out", str(tmp_path / "out")]
    assert cli.main(["get", "--to", at(door), *out]) == 0
    assert "4 instances, 0 failed" in capsys.readouterr().out
    got = {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, (tmp_path / "out").iterdir())}
    assert {uid: ds.PixelData for uid, ds in got.items()} == {ds.SOPInstanceUID: ds.PixelData for ds in [*images, rle]}
    assert got[rle.SOPInstanceUID].file_meta.TransferSyntaxUID == rle.file_meta.TransferSyntaxUID

    assert cli.main(["get", "--to", at(door), "--patient", "SYN-1", "--data", str(tmp_path / "mine")]) == 0
    mine = open_archive(Settings(data=tmp_path / "mine"))
    try:
        assert {each.source_ae for each in mine.retrieve.locate(SYSTEM, study)} == {"PACS"}
        assert len(mine.retrieve.locate(SYSTEM, study)) == 3
    finally:
        mine.close()
    assert cli.main(["move", "--to", at(door), "--study", study, "--destination", "NOBODY"]) == 1
    assert "A801H" in capsys.readouterr().out
    assert cli.main(["get", "--to", at(door), "--study", "1.2.3", "--out", str(tmp_path / "out")]) == 0
    assert "0 instances, 0 failed" in capsys.readouterr().out


def test_move_between_two_others(archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = list(dicom_data.series(3))
    there = open_archive(Settings(data=tmp_path / "there"))
    there = there.with_services(auth=Auth(there.index))
    target = serve(there, host="127.0.0.1", port=0, ae_title="THERE")
    host, port = target.address
    settings = replace(archive.settings, aes=(AE("M3DICOM"), AE("THERE", host=host, port=port)))
    changed = archive.with_services(settings=settings, auth=Auth(archive.index, settings.aes))
    source = serve(changed, host="127.0.0.1", port=0, ae_title="PACS")
    try:
        assert cli.main(["store", "--to", at(source), str(written(tmp_path / "in", *images))]) == 0
        study = images[0].StudyInstanceUID
        assert cli.main(["move", "--to", at(source), "--study", study, "--destination", "THERE"]) == 0
        assert "3 instances, 0 failed" in capsys.readouterr().out
        assert len(there.retrieve.locate(SYSTEM, study)) == 3
        target.close(0)
        assert cli.main(["move", "--to", at(source), "--study", study, "--destination", "THERE"]) == 1
        told = capsys.readouterr()
        assert "0 instances, 3 failed" in told.out
        assert all(f"{ds.SOPInstanceUID} failed" in told.err for ds in images)
    finally:
        source.close(0)
        target.close(0)
        there.close()


def test_what_is_refused_is_named(door: Acceptor, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, other = dicom_data.image(1), dicom_data.image(1, StudyDescription="other content")
    assert cli.main(["store", "--to", at(door), str(written(tmp_path / "a", first))]) == 0
    both = written(tmp_path / "b", other, dicom_data.image(2))
    assert cli.main(["store", "--to", at(door), str(both)]) == 3
    told = capsys.readouterr()
    assert "1 of 2 instances sent" in told.out
    assert f"{both / '0.dcm'}: refused with 0111H" in told.err
    assert cli.main(["store", "--to", at(door), str(both / "0.dcm")]) == 1
    assert cli.main(["store", "--to", at(door), str(tmp_path / "nothing")]) == 1
    assert "nothing to send" in capsys.readouterr().err


def test_wrong_usage_is_told(door: Acceptor, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["find", "--to", at(door), "NoSuchKeyword=1"]) == 1
    assert "'NoSuchKeyword' is neither a keyword of PS3.6 nor a tag" in capsys.readouterr().err
    assert cli.main(["get", "--to", at(door), "--out", "out"]) == 1
    assert "say what to retrieve" in capsys.readouterr().err
    assert cli.main(["get", "--to", at(door), "--study", "1.2"]) == 1
    assert "say where to" in capsys.readouterr().err
    assert not Path("data").exists()
    assert cli.main(["move", "--to", at(door), "--study", "1.2", "--study", "1.3", "--series", "1.4",
                     "--destination", "X"]) == 1  # fmt: skip
    assert "only one study can be named" in capsys.readouterr().err
    with pytest.raises(SystemExit) as usage:
        cli.main(["echo"])
    assert usage.value.code == 2


def test_over_tls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "authority").mkdir()
    authority = Authority(tmp_path / "authority")
    ours, theirs = authority.vouches_for("server"), authority.vouches_for("client")
    settings = Settings(
        data=tmp_path / "archive", dimse_tls="127.0.0.1:0", tls_certificate=str(ours.certificate),
        tls_key=str(ours.key), tls_ca=str(authority.pem),
    )  # fmt: skip
    opened = open_archive(settings)
    archive = opened.with_services(auth=Auth(opened.index))
    acceptor = serve(archive, host="127.0.0.1", port=0, ae_title="PACS", tls=tls.server_context(settings))
    (tmp_path / "client.toml").write_text(
        f"tls_certificate = '{theirs.certificate}'\ntls_key = '{theirs.key}'\ntls_ca = '{authority.pem}'\n"
    )
    to = ["--to", at(acceptor), "--tls", "--config", str(tmp_path / "client.toml")]
    try:
        assert cli.main(["echo", *to]) == 0
        assert "with TLSv1.3 " in capsys.readouterr().out
        large = dicom_data.image(1, 1500, 1500)  # more than one TLS record and PDU
        assert cli.main(["store", *to, str(written(tmp_path / "in", large))]) == 0
        get = ["get", *to, "--study", large.StudyInstanceUID, "--out", str(tmp_path / "out")]
        assert cli.main(get) == 0
        (path,) = (tmp_path / "out").iterdir()
        assert pydicom.dcmread(path).PixelData == large.PixelData
        capsys.readouterr()
        assert cli.main(["echo", "--to", at(acceptor), "--tls"]) == 1
        assert "no TLS with PACS@127.0.0.1" in capsys.readouterr().err
    finally:
        acceptor.close(0)
        archive.close()


# --- DCMTK as the other side ------------------------------------------------------------------------------------------


@contextmanager
def dcmqrscp(folder: Path, sink_port: int) -> Iterator[int]:
    """DCMTK's archive with one storage area, which knows an AE named SINK; its port."""
    program = shutil.which("dcmqrscp") or missing("dcmqrscp")
    area = folder / "area"
    area.mkdir(parents=True)
    port = free_port()
    (folder / "qr.cfg").write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        f"HostTable BEGIN\nsink = (SINK, 127.0.0.1, {sink_port})\nHostTable END\n"
        "VendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nQR {area} RW (200, 1024mb) ANY\nAETable END\n"
    )
    process = subprocess.Popen(
        [str(program), "-c", str(folder / "qr.cfg")], env={**os.environ, "TCP_NODELAY": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for_port(port, process)
        yield port
    finally:
        stop(process)


def test_dcmtk_as_archive(tmp_path: Path, archive: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    images = list(dicom_data.series(4))
    sink = serve(archive, host="127.0.0.1", port=0, ae_title="SINK")
    try:
        with dcmqrscp(tmp_path / "qr", sink.address[1]) as port:
            to = ["--to", f"QR@127.0.0.1:{port}"]
            assert cli.main(["echo", *to]) == 0
            assert cli.main(["store", *to, str(written(tmp_path / "in", *images))]) == 0
            study = images[0].StudyInstanceUID
            capsys.readouterr()
            assert cli.main(["find", *to, "PatientID=SYN-1", "PatientName", "StudyInstanceUID"]) == 0
            assert f"SYN-1      Synthetic^Sam  {study}" in capsys.readouterr().out
            assert cli.main(["get", *to, "--study", study, "--out", str(tmp_path / "out")]) == 0
            assert "4 instances, 0 failed" in capsys.readouterr().out
            got = {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, (tmp_path / "out").iterdir())}
            assert {uid: ds.PixelData for uid, ds in got.items()} == {ds.SOPInstanceUID: ds.PixelData for ds in images}
            assert cli.main(["move", *to, "--study", study, "--destination", "SINK"]) == 0
            assert "4 instances, 0 failed" in capsys.readouterr().out
            assert len(archive.retrieve.locate(SYSTEM, study)) == 4
    finally:
        sink.close(0)


def test_storescp_that_takes_only_explicit_gets_decoded_pixels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = shutil.which("storescp") or missing("storescp")
    port = free_port()
    got = tmp_path / "got"
    got.mkdir()
    process = subprocess.Popen(
        [str(program), "+xe", "-od", str(got), str(port)],
        env={**os.environ, "TCP_NODELAY": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for_port(port, process)
        assert cli.main(["store", "--to", f"ANY@127.0.0.1:{port}", str(bundled("SC_rgb_rle.dcm"))]) == 0
    finally:
        stop(process)
    (path,) = got.iterdir()
    assert (pydicom.dcmread(path).pixel_array == pydicom.dcmread(bundled("SC_rgb_rle.dcm")).pixel_array).all()


# --- storage commitment -----------------------------------------------------------------------------------------------


@contextmanager
def committing(archive: Archive) -> Iterator[None]:
    """The background that verifies and reports, stepping as the server's scheduler lets it."""
    made = Committing(archive.commitments, archive.index, archive.store, hours=1.0)
    made.add_reporter("dimse", EventReporter(archive))
    stopped = threading.Event()

    def run() -> None:
        while not stopped.wait(0.05):
            made.step(time.time())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        made.close()


def test_commit(archive: Archive, door: Acceptor, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = list(dicom_data.series(3))
    folder = written(tmp_path / "in", *images)
    assert cli.main(["store", "--to", at(door), str(folder / "0.dcm"), str(folder / "1.dcm")]) == 0
    with committing(archive):
        to = ["--to", at(door), "--wait", "60"]
        assert cli.main(["commit", *to, str(folder / "0.dcm"), str(folder / "1.dcm")]) == 0
        assert "2 of 2 instances committed by PACS" in capsys.readouterr().out
        assert cli.main(["commit", *to, str(folder)]) == 3
        told = capsys.readouterr()
        assert "2 of 3 instances committed by PACS" in told.out
        assert f"{images[2].SOPInstanceUID}: no such object instance" in told.err
        mine = open_archive(Settings(data=tmp_path / "mine"))
        receiving = mine.ingest.receive(EXPLICIT, images[0].SOPClassUID, images[0].SOPInstanceUID, "TESTER")
        receiving.write(memoryview(dicom_data.dataset_bytes(images[0])))
        mine.ingest.store(receiving, principal=SYSTEM)
        mine.close()
        study = ["--study", images[0].StudyInstanceUID, "--data", str(tmp_path / "mine")]
        assert cli.main(["commit", *to, *study]) == 0
        assert "1 of 1 instances committed by PACS" in capsys.readouterr().out


def test_a_report_on_an_association_of_the_peer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = list(dicom_data.series(2))
    folder = written(tmp_path / "in", *images)
    port = free_port()
    model = "1.2.840.10008.1.20.1"
    reporters: list[threading.Thread] = []
    statuses: list[int] = []

    def report(asked: Dataset) -> None:
        client = pynetdicom.AE("PACS")
        client.add_requested_context(model)
        role = pynetdicom.build_role(model, scu_role=False, scp_role=True)
        assoc = client.associate("127.0.0.1", port, ae_title="M3DICOM", ext_neg=[role])
        status, _ = assoc.send_n_event_report(asked, 1, model, "1.2.840.10008.1.20.1.1")
        statuses.append(status.Status)
        assoc.release()

    def on_action(event: Any) -> tuple[int, None]:
        reporters.append(threading.Thread(target=report, args=(event.action_information,)))
        reporters[-1].start()
        return 0, None

    pacs = pynetdicom.AE("PACS")
    pacs.add_supported_context(model)
    handlers = [(pynetdicom.evt.EVT_N_ACTION, on_action)]
    server = pacs.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        to = f"PACS@127.0.0.1:{server.socket.getsockname()[1]}"
        listen = ["--listen", f"127.0.0.1:{port}", "--wait", "60"]
        assert cli.main(["commit", "--to", to, *listen, str(folder)]) == 0
        assert "2 of 2 instances committed by PACS" in capsys.readouterr().out
        for thread in reporters:
            thread.join()
        assert statuses == [0]
    finally:
        server.shutdown()
