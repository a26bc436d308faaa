"""The scaled form: S3, PostgreSQL, Redis; a server that does not analyse and workers that do nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dicom_data
import httpx
import pytest
from conftest import COMMAND, RunningServer, start_server
from faults.load import wait_until
from scaled import scaled_settings, worker
from servers import free_port

from pacs.dicom import ups_task
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
        port = free_port()
        first = settings | {"M3DICOM_WORKER_METRICS": f"127.0.0.1:{port}"}
        with (
            worker(tmp_path / "w1", first, "--plugins", "microcalcification,bone-surface"),
            worker(tmp_path / "w2", settings, "--plugins", "microcalcification"),
        ):
            [item] = server.wait_for_tasks(1)
            wait_until(lambda: len(queue_of(server, client, "microcalcification")["workers"]) == 2, "two workers")
            assert len(queue_of(server, client, "bone-surface")["workers"]) == 1
            judge_metrics(server, client, f"http://127.0.0.1:{port}/metrics")
        assert queue_of(server, client, "microcalcification") is None, "workers that stop say so"
        assert item["00741000"]["Value"] == ["COMPLETED"], item
        study = str(breasts[0].StudyInstanceUID)
        modalities = [s["00080060"]["Value"][0] for s in client.get(f"/studies/{study}/series").json()]
        # Beside the two views: marked pictures, each and all in one, two reports, a presentation state of each side,
        # key images.
        assert sorted(modalities) == ["KO", "MG", "MG", "MG", "MG", "PR", "PR", "SR", "SR"]
        # The bytes come back from S3 as they went in.
        ds = breasts[0]
        address = f"/studies/{study}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}/frames/1"
        frame = client.get(address, headers={"Accept": "application/octet-stream"})
        assert frame.content == ds.PixelData
    assert not [path for path in (server.data / "objects").rglob("*") if path.is_file()], "objects belong to S3"


def queue_of(server: RunningServer, client: httpx.Client, plugin: str) -> dict[str, Any] | None:
    return next((each for each in client.get(f"{server.http}/api/queues").json() if each["plugin"] == plugin), None)


def judge_metrics(server: RunningServer, client: httpx.Client, door: str) -> None:
    """The server tells of all, a worker of itself too, and both only to those who may know."""
    scraper = server.command("token", "create", "--name", "prometheus", "--rights", "metrics").strip().splitlines()[-1]
    reader = server.command("token", "create", "--name", "reader", "--rights", "query").strip().splitlines()[-1]
    for address in (f"{server.http}/metrics", door):
        wait_until(lambda at=address: httpx.get(at).status_code == 401, "the door of the metrics")
        told = {
            name: httpx.get(address, headers={"Authorization": f"Bearer {token}"})
            for name, token in (("scraper", scraper), ("reader", reader), ("nobody", "x" * 43))
        }
        assert [told[name].status_code for name in ("scraper", "reader", "nobody")] == [200, 403, 401]
        assert told["scraper"].headers["content-type"].startswith("text/plain; version=0.0.4")
        assert 'm3dicom_tasks_workers{plugin="microcalcification"} 2\n' in told["scraper"].text
        assert 'm3dicom_tasks_waiting{plugin="microcalcification"} 0\n' in told["scraper"].text
    assert "m3dicom_worker_slots 1\n" in told["scraper"].text
    assert (
        httpx.get(f"{server.http}/dicom-web/studies", headers={"Authorization": f"Bearer {scraper}"}).status_code == 403
    )
    assert httpx.get(door.replace("/metrics", "/health/live")).status_code == 200


def test_a_scaler_starts_a_worker_for_what_waits_and_sends_it_home(
    server: RunningServer, settings: dict[str, str], tmp_path: Path
) -> None:
    plugin = "microcalcification"
    _, breasts = demo.studies(demo.SMALL)[0]
    inputs = ups_task.References(str(breasts[0].StudyInstanceUID), str(breasts[0].SeriesInstanceUID))
    attributes = ups_task.build(
        plugin=plugin, title=plugin, label="again", parameters=[ups_task.Parameter("threshold", "Threshold", 0.9)],
        inputs=[inputs], patient={}, now=time.time(),
    )  # fmt: skip
    with server.client() as client:
        assert stow(client, *(dicom_data.part10(ds) for ds in breasts)).status_code == 200  # there or not
        body = json.dumps([attributes])
        made = client.post("/workitems", content=body, headers={"Content-Type": "application/dicom+json"})
        assert made.status_code == 201, made.text
        queue = queue_of(server, client, plugin)
        assert queue is not None
        assert queue["waiting"] >= 1
        assert queue["workers"] == [], "nobody takes it, and that can be seen"
        with scaler(tmp_path / "scaler", settings, "--plugins", plugin, "--most", "1", "--idle-s", "0.5") as said:
            where = made.headers["Location"]
            wait_until(
                lambda: client.get(where).json()[0]["00741000"]["Value"] == ["COMPLETED"], "the task is done", 120
            )
            wait_until(lambda: any("one worker less" in line for line in said), "the worker is sent home", 120)
        assert sum("one worker more" in line for line in said) == 1
        assert queue_of(server, client, plugin) is None


@contextmanager
def scaler(data: Path, settings: dict[str, str], *arguments: str) -> Iterator[list[str]]:
    """`m3dicom scale` at work, and what it says; told to stop at the end."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("M3DICOM_")} | settings
    process = subprocess.Popen(
        [COMMAND, "scale", "--data", str(data), "--every-s", "0.2", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
    )  # fmt: skip
    said: list[str] = []

    def read() -> None:
        assert process.stdout is not None
        with process.stdout:
            said.extend(process.stdout)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield said
    finally:
        process.terminate()
        status = process.wait(60)
        reader.join(10)
        assert "Traceback" not in "".join(said), "".join(said)[-4000:]
        assert status == 0, "".join(said)[-4000:]


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


def test_a_worker_that_can_do_nothing_says_so(settings: dict[str, str], tmp_path: Path) -> None:
    run = subprocess.run(
        [COMMAND, "worker", "--data", str(tmp_path), "--device", "gpu"],
        env={k: v for k, v in os.environ.items() if not k.startswith("M3DICOM_")} | settings | {"M3DICOM_GPUS": "none"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    assert "no plug-in that is installed here can run with device gpu" in run.stderr


def test_a_worker_on_local_files_is_refused_in_words(tmp_path: Path) -> None:
    run = subprocess.run(
        [COMMAND, "worker", "--data", str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 1
    assert "PostgreSQL" in run.stderr
