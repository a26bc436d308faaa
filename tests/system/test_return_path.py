"""The return path as a stranger sees it: a server that is killed while it delivers still delivers everything."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import dicom_data
import httpx
import pytest
from conftest import needed, start_server
from pydicom import Dataset, dcmread

INSTANCES = 60


def until(so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not so():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.05)


@dataclass
class Peer:
    """DCMTK's storescp: what it got lies in a folder."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [needed("storescp"), "--fork", "+xa", "-aet", "PACS", "-od", str(self.folder), str(self.port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until(self._listens, "storescp listens")

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)

    def received(self) -> dict[str, Dataset]:
        found = {}
        for path in self.folder.iterdir():
            ds = dcmread(path, force=True)
            if "PixelData" in ds:  # the file is whole
                found[str(ds.SOPInstanceUID)] = ds
        return found


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    folder = tmp_path / "received"
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = Peer(folder, port)
    yield made
    made.stop()


def settings(peer: Peer) -> dict[str, str]:
    me = '{title = "DCMSEND"}'
    pacs = f'{{title = "PACS", host = "127.0.0.1", port = {peer.port}}}'
    rule = '{name = "pacs", to = "PACS", what = "all", sources = ["DCMSEND"]}'
    return {"M3DICOM_AES": f"[{me}, {pacs}]", "M3DICOM_FORWARD": f"[{rule}]", "M3DICOM_WORKERS": "0"}


def states(http: httpx.Client) -> list[str]:
    told = http.get(http.base_url.join("/api/deliveries"), params={"limit": 1000}).json()
    return [each["state"] for each in told["deliveries"]]


def test_a_server_killed_while_it_delivers_delivers_everything(tmp_path: Path, peer: Peer) -> None:
    images = [dicom_data.image(seed, 64, 64) for seed in range(INSTANCES)]
    files = tmp_path / "files"
    files.mkdir()
    for number, ds in enumerate(images):
        (files / f"{number}.dcm").write_bytes(dicom_data.part10(ds))
    peer.start()
    first = start_server(tmp_path / "data", settings=settings(peer))
    first.dcmsend(files)
    until(lambda: len(list(peer.folder.iterdir())) > 0, "the first delivery")
    first.stop(signal.SIGKILL)
    second = start_server(tmp_path / "data", settings=settings(peer))
    try:
        http = second.client()
        until(lambda: states(http) == ["delivered"] * INSTANCES, "all are delivered")
        received = peer.received()
        assert set(received) == {ds.SOPInstanceUID for ds in images}
        assert all(received[ds.SOPInstanceUID].PixelData == ds.PixelData for ds in images)
        # A person sends it again, and sees what became of it
        said = second.command("forward", "send", "--to", "pacs", "--study", images[0].StudyInstanceUID)
        assert f"{INSTANCES} instances on their way" in said
        until(lambda: states(http) == ["delivered"] * INSTANCES, "all are delivered again")
        assert f"PACS\tdelivered\t{INSTANCES}" in second.command("forward", "list")
        http.close()
    finally:
        second.stop()
