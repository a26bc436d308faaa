"""What happens around a running server: the disk fills up, the database restarts, the clock jumps. Short forms."""

from __future__ import annotations

import contextlib
import glob
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from conftest import RunningServer, ServerStarter, start_server
from faults.disk import Disk, LimitedFiles, small_file_system
from faults.load import Load, check, wait_until
from servers import missing, postgresql

pytestmark = pytest.mark.system
WEB = {"202", "503", "507"}
REFUSED = {"A700H"} | WEB
"""What a client is told while there is no room or no database; 202: some of a request was stored, the rest refused."""

GONE = {"Aborted", "ConnectionError", "RemoteProtocolError", "ReadError"}


def is_ready(server: RunningServer) -> bool:
    return httpx.get(f"{server.http}/health/ready", timeout=30).status_code == 200


def assert_no_traceback(server: RunningServer) -> None:
    text = "".join(server.output)
    at = text.find("Traceback")
    assert at < 0, text[max(at - 500, 0) : at + 3000]


@pytest.fixture(params=["small file system", "limited files"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    with ExitStack() as stack:
        limited: Disk = LimitedFiles(tmp_path)
        if request.param == "limited files":
            yield limited
        else:
            # Where nothing can be mounted the other way has to do, and is done twice.
            yield stack.enter_context(small_file_system(tmp_path / "disk")) or limited


def test_a_full_disk_refuses_and_recovers(disk: Disk) -> None:
    server = start_server(disk.folder / "data", settings={"M3DICOM_WORKERS": "0"})
    try:
        load, token = Load(sizes=(64, 512)), server.token
        with httpx.Client(base_url=server.dicomweb, headers={"Authorization": f"Bearer {token}"}, timeout=60) as client:
            load.start(server.dimse, server.dicomweb, token)
            load.wait(10)
            disk.fill(server.process.pid)
            answers = load.book.answers
            wait_until(lambda: answers.get("A700H", 0) > 10, "C-STORE was not refused")
            wait_until(lambda: sum(answers.get(each, 0) for each in WEB) > 5, "STOW-RS was not refused")
            load.stop()
            assert answers.keys() <= REFUSED
            check(client, load.book)
            disk.free(server.process.pid)
            wait_until(lambda: is_ready(server), "never ready again")
            load.start(server.dimse, server.dicomweb, token)
            load.wait(10)
            load.stop()
            load.resend(client, load.book.sent)
            assert check(client, load.book) == len(load.book.sent)
    finally:
        server.stop()
    assert_no_traceback(server)


def test_a_database_that_restarts_under_load(start: ServerStarter) -> None:
    with postgresql() as cluster:
        cluster.stop()
        cluster.start(fsync=True)
        server = start(settings={"M3DICOM_WORKERS": "0", "M3DICOM_INDEX": cluster.new_database()})
        load, token = Load(sizes=(64, 200)), server.token
        load.start(server.dimse, server.dicomweb, token)
        for _ in range(2):
            load.wait(10)
            cluster.stop()
            time.sleep(0.3)
            cluster.start(fsync=True)
        load.wait(10)
        load.stop()
        assert load.book.answers.keys() <= REFUSED | GONE
        wait_until(lambda: is_ready(server), "never ready again")
        with httpx.Client(base_url=server.dicomweb, headers={"Authorization": f"Bearer {token}"}, timeout=60) as client:
            load.resend(client, sorted(load.book.sent)[:60])
            assert check(client, load.book) >= len(load.book.promised)


def test_a_clock_that_jumps(tmp_path: Path) -> None:
    found = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
    if not found:
        missing("libfaketime (apt-get install faketime)")
    clock = tmp_path / "clock"
    clock.write_text("+0\n")
    settings = {
        "LD_PRELOAD": found[0], "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_RESET": "1",
    }  # fmt: skip
    server = start_server(tmp_path / "data", settings=settings)
    try:
        load, token = Load(sizes=(64, 200)), server.token
        load.start(server.dimse, server.dicomweb, token)
        for jump in ("+2h", "-3h", "+400d", "-5m"):
            load.wait(8)
            clock.write_text(f"{jump}\n")
        load.wait(8)
        load.stop()
        assert load.book.answers == {}
        with httpx.Client(base_url=server.dicomweb, headers={"Authorization": f"Bearer {token}"}, timeout=60) as client:
            assert check(client, load.book) == len(load.book.sent)
        # What is quiet is found quiet, whichever way the clock went.
        with contextlib.closing(sqlite3.connect(f"file:{server.data / 'index.db'}?mode=ro", uri=True)) as index:
            unstable = "SELECT count(*) FROM study WHERE stable_at IS NULL"
            wait_until(lambda: index.execute(unstable).fetchone() == (0,), "a study never became stable")
    finally:
        server.stop()
    assert_no_traceback(server)
