"""The scaled form: S3, PostgreSQL, Redis; a server that does not analyse and workers that do nothing else."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import dicom_data
import httpx
import pytest
from conftest import COMMAND, RunningServer, start_server
from scaled import scaled_settings, worker

from pacs.server import demo

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def settings() -> Iterator[dict[str, str]]:
    with scaled_settings() as found:
        yield found


@pytest.fixture(scope="module")
def server(settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    server = start_server(tmp_path_factory.mktemp("scaled") / "data", settings=settings | {"M3DICOM_WORKERS": "0"})
    try:
        yield server
    finally:
        status = server.stop()
        text = "".join(server.output)
        assert "Traceback" not in text, text[-4000:]
        assert status == 0


def stow(client: httpx.Client, *part10s: bytes) -> httpx.Response:
    body = b"".join(b"--b\r\nContent-Type: application/dicom\r\n\r\n" + raw + b"\r\n" for raw in part10s) + b"--b--\r\n"
    return client.post(
        "/studies", content=body, headers={"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}
    )


def test_two_workers_turn_a_mammogram_into_marks(
    server: RunningServer, settings: dict[str, str], tmp_path: Path
) -> None:
    _, breasts = demo.studies(demo.SMALL)[0]
    with server.client() as client:
        assert client.get(f"{server.http}/health/ready").json() == {"status": "ready"}
        assert stow(client, *(dicom_data.part10(ds) for ds in breasts)).status_code == 200
        with worker(tmp_path / "w1", settings), worker(tmp_path / "w2", settings, "--plugins", "microcalcification"):
            [item] = server.wait_for_tasks(1)
        assert item["00741000"]["Value"] == ["COMPLETED"], item
        study = str(breasts[0].StudyInstanceUID)
        modalities = [s["00080060"]["Value"][0] for s in client.get(f"/studies/{study}/series").json()]
        # Beside the two views: marked pictures, two reports, a presentation state of each side, the key images.
        assert sorted(modalities) == ["KO", "MG", "MG", "MG", "PR", "PR", "SR", "SR"]
        # The bytes come back from S3 as they went in.
        ds = breasts[0]
        address = f"/studies/{study}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}/frames/1"
        frame = client.get(address, headers={"Accept": "application/octet-stream"})
        assert frame.content == ds.PixelData
    assert not [path for path in (server.data / "objects").rglob("*") if path.is_file()], "objects belong to S3"


def test_a_second_server_shares_everything(server: RunningServer, settings: dict[str, str], tmp_path: Path) -> None:
    token = server.token
    with server.client() as client:
        assert stow(client, dicom_data.part10(dicom_data.image(7))).status_code == 200
    second = start_server(tmp_path / "second", settings=settings | {"M3DICOM_WORKERS": "0"})
    try:
        headers = {"Authorization": f"Bearer {token}"}
        uid = str(dicom_data.image(7).StudyInstanceUID)
        assert httpx.get(f"{second.dicomweb}/studies/{uid}/metadata", headers=headers).status_code == 200
    finally:
        assert second.stop() == 0


def test_a_worker_on_local_files_is_refused_in_words(tmp_path: Path) -> None:
    run = subprocess.run(
        [COMMAND, "worker", "--data", str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 1
    assert "PostgreSQL" in run.stderr
