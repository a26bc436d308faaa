"""The real server while fifty clients download a study at once, all of them slowly: what it holds stays flat."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import dicom_data
import numpy as np
import pytest
from conftest import RunningServer, start_server

pytestmark = pytest.mark.system

CLIENTS = 50
MOST_MB = 200
INSTANCES, SIDE = 12, 1024  # 2 MiB each
SETTINGS = {"M3DICOM_WORKERS": "0", "M3DICOM_STABLE_AFTER_S": "3600"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    running = start_server(tmp_path / "data", settings=SETTINGS)
    yield running
    assert running.stop() == 0


def resident_mb(server: RunningServer) -> float:
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_fifty_downloads_at_once(server: RunningServer, tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    folder = tmp_path / "files"
    folder.mkdir()
    for z, ds in enumerate(dicom_data.series(INSTANCES, study=9, rows=SIDE, columns=SIDE)):
        ds.PixelData = rng.integers(0, 4096, (SIDE, SIDE), "<u2").tobytes()
        (folder / f"{z}.dcm").write_bytes(dicom_data.part10(ds))
    server.dcmsend(folder)
    study = ds.StudyInstanceUID
    where, token = urlsplit(server.dicomweb), server.token
    request = (
        f"GET {where.path}/studies/{study} HTTP/1.1\r\nHost: {where.netloc}\r\nAuthorization: Bearer {token}\r\n"
        'Accept: multipart/related; type="application/dicom"; transfer-syntax=*\r\nConnection: close\r\n\r\n'
    ).encode()
    half, go_on = threading.Barrier(CLIENTS + 1), threading.Event()
    received: list[int] = []
    size = sum(each.stat().st_size for each in folder.iterdir())

    def download() -> None:
        with socket.create_connection((where.hostname, where.port), 120) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            sock.sendall(request)
            count = 0
            while count < size // 2:
                count += len(sock.recv(1 << 16))
            half.wait(120)
            go_on.wait(120)  # the server has to keep what this client does not take
            while piece := sock.recv(1 << 20):
                count += len(piece)
            received.append(count)

    idle = resident_mb(server)
    clients = [threading.Thread(target=download) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    half.wait(120)
    stalled = resident_mb(server)
    go_on.set()
    for client in clients:
        client.join(120)
    after = resident_mb(server)
    assert len(received) == CLIENTS
    assert min(received) > INSTANCES * SIDE * SIDE * 2
    assert stalled - idle < MOST_MB, f"{idle:.0f} MB idle, {stalled:.0f} MB with {CLIENTS} downloads half-way"
    assert after - idle < MOST_MB
    print(f"{idle:.0f} MB idle, {stalled:.0f} MB half-way, {after:.0f} MB after")
