"""Orthanc and GDCM as peers of a whole server: they send, ask, fetch, have things sent to them, and are asked."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dicom_data
import httpx
import pytest
from conftest import RunningServer, needed, start_server
from faults.load import dataset_of, wait_until
from orthanc import Orthanc, orthanc
from pydicom import dcmread
from servers import free_port

pytestmark = pytest.mark.system

GDCM = "GDCMSCU"
SLICES = 3


@dataclass(frozen=True)
class Room:
    """A server and the peers that it knows."""

    server: RunningServer
    orthanc: Orthanc
    web: httpx.Client


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    orthanc_port = free_port()
    aes = f'{{title = "ORTHANC", host = "127.0.0.1", port = {orthanc_port}}}, {{title = "{GDCM}"}}'
    server = start_server(
        tmp_path_factory.mktemp("peers") / "data", settings={"M3DICOM_AES": f"[{aes}]", "M3DICOM_WORKERS": "0"}
    )
    try:
        token = server.token
        known = {"m3": ("M3DICOM", *server.dimse)}
        web = {"m3": {"Url": f"{server.dicomweb}/", "HttpHeaders": {"Authorization": f"Bearer {token}"}}}
        with orthanc(orthanc_port, known, web) as peer:
            headers = {"Authorization": f"Bearer {token}"}
            with httpx.Client(base_url=server.dicomweb, headers=headers, timeout=120) as client:
                yield Room(server, peer, client)
    finally:
        server.stop()
    assert "Traceback" not in "".join(server.output)


def study(number: int) -> tuple[str, dict[str, bytes]]:
    """A study of its own: its UID, and its files by SOP Instance UID."""
    slices = list(dicom_data.series(SLICES, study=1000 + number, PatientID=f"PEER-{number}"))
    return slices[0].StudyInstanceUID, {ds.SOPInstanceUID: dicom_data.part10(ds) for ds in slices}


def held(web: httpx.Client, study_uid: str) -> dict[str, bytes]:
    """The data sets of a study in the server, as they are stored."""
    listed = web.get(f"/studies/{study_uid}/instances")
    found = {}
    for each in listed.json() if listed.status_code == 200 else []:
        answer = web.get(each["00081190"]["Value"][0], headers={"Accept": "application/dicom; transfer-syntax=*"})
        answer.raise_for_status()
        found[each["00080018"]["Value"][0]] = dataset_of(answer.content)
    return found


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def datasets(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: dataset_of(file) for name, file in files.items()}


def store(room: Room, files: dict[str, bytes], folder: Path) -> None:
    """Put files into the server as a modality would."""
    for name, file in files.items():
        (folder / f"{name}.dcm").write_bytes(file)
    host, port = room.server.dimse
    command = [needed("dcmsend"), "-aet", GDCM, "-aec", "M3DICOM", "+sd", host, str(port), str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


# --- Orthanc ----------------------------------------------------------------------------------------------------------


def test_orthanc_sends_and_commits(room: Room) -> None:
    uid, files = study(1)
    room.orthanc.clear()
    resources = [room.orthanc.upload(file) for file in files.values()]
    room.orthanc.post("/modalities/m3/echo", {})
    room.orthanc.post("/modalities/m3/store", {"Resources": resources, "Synchronous": True})
    assert held(room.web, uid) == datasets(files)
    asked = room.orthanc.post("/modalities/m3/storage-commitment", {"Resources": resources})
    where = f"/storage-commitment/{asked['ID']}"
    wait_until(lambda: room.orthanc.rest.get(where).json()["Status"] != "Pending", "no commitment was reported")
    report = room.orthanc.rest.get(where).json()
    assert report["Status"] == "Success"
    assert {each["SOPInstanceUID"] for each in report["Success"]} == files.keys()


def test_orthanc_commits_nothing_that_is_not_here(room: Room) -> None:
    uid, files = study(2)
    instances = [["1.2.840.10008.5.1.4.1.1.2", name] for name in files]
    asked = room.orthanc.post("/modalities/m3/storage-commitment", {"DicomInstances": instances})
    where = f"/storage-commitment/{asked['ID']}"
    wait_until(lambda: room.orthanc.rest.get(where).json()["Status"] != "Pending", "no commitment was reported")
    report = room.orthanc.rest.get(where).json()
    assert report["Status"] == "Failure"
    assert {each["SOPInstanceUID"] for each in report["Failures"]} == files.keys()
    assert {each["Description"] for each in report["Failures"]} == {
        "One or more of the elements in the Referenced SOP Instance Sequence was not available"
    }
    assert held(room.web, uid) == {}


def test_orthanc_asks_and_fetches(room: Room, tmp_path: Path) -> None:
    uid, files = study(3)
    store(room, files, tmp_path)
    room.orthanc.clear()
    query = room.orthanc.post(
        "/modalities/m3/query", {"Level": "Study", "Query": {"PatientID": "PEER-3", "StudyDescription": ""}}
    )
    (answer,) = room.orthanc.rest.get(f"/queries/{query['ID']}/answers", params={"expand": "1"}).json()
    assert answer["0020,000d"]["Value"] == uid
    room.orthanc.post(f"/queries/{query['ID']}/retrieve", {"TargetAet": "ORTHANC", "Synchronous": True})
    assert datasets(room.orthanc.files()) == datasets(files)


def test_orthanc_over_dicomweb(room: Room) -> None:
    uid, files = study(4)
    room.orthanc.clear()
    resources = [room.orthanc.upload(file) for file in files.values()]
    room.orthanc.post("/dicom-web/servers/m3/stow", {"Resources": resources, "Synchronous": True})
    assert held(room.web, uid) == datasets(files)
    room.orthanc.clear()
    room.orthanc.post("/dicom-web/servers/m3/retrieve", {"Resources": [{"Study": uid}], "Synchronous": True})
    assert datasets(room.orthanc.files()) == datasets(files)


def test_orthanc_is_asked_and_sent_to(room: Room, tmp_path: Path) -> None:
    uid, files = study(5)
    room.orthanc.clear()
    (tmp_path / "in").mkdir()
    for name, file in files.items():
        (tmp_path / "in" / f"{name}.dcm").write_bytes(file)
    peer = f"ORTHANC@127.0.0.1:{room.orthanc.dimse_port}"
    room.server.command("echo", "--to", peer)
    room.server.command("store", "--to", peer, str(tmp_path / "in"))
    assert datasets(room.orthanc.files()) == datasets(files)
    found = room.server.command("find", "--to", peer, "PatientID=PEER-5", "StudyInstanceUID=")
    assert uid in found
    room.server.command("move", "--to", peer, "--destination", "M3DICOM", "--study", uid)
    assert held(room.web, uid) == datasets(files)
    room.server.command("get", "--to", peer, "--study", uid, "--out", str(tmp_path / "out"))
    got = {ds.SOPInstanceUID: ds.PixelData for ds in map(dcmread, files_below(tmp_path / "out"))}
    assert got == {ds.SOPInstanceUID: ds.PixelData for ds in map(dcmread, files_below(tmp_path / "in"))}


# --- GDCM -------------------------------------------------------------------------------------------------------------


def gdcm(room: Room, *arguments: str) -> str:
    """What gdcmscu says. Debian's 3.0.21 aborts once it has released its association, whoever the peer is."""
    host, port = room.server.dimse
    command = [needed("gdcmscu"), "--aetitle", GDCM, "--call", "M3DICOM", *arguments, host, str(port)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    said = run.stdout + run.stderr
    assert run.returncode == 0 or (run.returncode == -signal.SIGABRT and "ProtocolStream" in run.stderr), said
    return said


def test_gdcm_echoes_stores_and_finds(room: Room, tmp_path: Path) -> None:
    # It cannot be sent to: in its C-MOVE it aborts on any C-STORE ("Should not happen (imp)"), of Orthanc's too.
    uid, files = study(6)
    for name, file in files.items():
        (tmp_path / f"{name}.dcm").write_bytes(file)
    assert "(0000,0900) ?? (US) 0 " in gdcm(room, "-D", "--echo")
    gdcm(room, "--store", "-r", "-i", str(tmp_path))
    assert held(room.web, uid) == datasets(files)
    found = gdcm(room, "-D", "--find", "--studyroot", "--study", "--key", "10,20=PEER-6", "--key", "20,d=")
    assert "C-Find was successful" in found
    assert "(0000,0900) ?? (US) 65280 " in found, "no pending response: nothing matched"
