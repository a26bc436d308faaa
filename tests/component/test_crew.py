"""Two processes behind one DIMSE door, on PostgreSQL: spread, limited in one place, restarted, drained."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import dicom_data
import pytest
from dimse_client import CT, EXPLICIT, IMPLICIT, VERIFICATION, Association, Rejected
from servers import PostgreSQL

from pacs import uids
from pacs.archive import Archive, open_archive
from pacs.auth import SYSTEM, Auth
from pacs.dimse.acceptor import Acceptor, Places, serve
from pacs.dimse.crew import Crew
from pacs.errors import InvalidInput
from pacs.server import attendant, compose
from pacs.settings import Settings

CONTEXTS = ((CT, (EXPLICIT,)), (VERIFICATION, (IMPLICIT,)))


@dataclass
class Door:
    archive: Archive
    crew: Crew
    acceptor: Acceptor
    processes: list[subprocess.Popen[bytes]]

    def associate(self) -> Association:
        return Association(self.acceptor.address, timeout=60, contexts=CONTEXTS)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def door(tmp_path: Path, postgresql_cluster: PostgreSQL) -> Iterator[Door]:
    settings = Settings(
        data=tmp_path, index=postgresql_cluster.new_database(), dimse_processes=2, max_associations=5, drain_s=30
    )
    archive = open_archive(settings)
    archive = archive.with_services(auth=Auth(archive.index))
    processes: list[subprocess.Popen[bytes]] = []

    def start(line: object) -> subprocess.Popen[bytes]:
        processes.append(attendant.start(line))  # type: ignore[arg-type]
        return processes[-1]

    crew = Crew(settings, 2, start)
    acceptor = serve(archive, host="127.0.0.1", port=0, ae_title="M3DICOM", places=Places(), crew=crew)
    wait_until(lambda: crew.ready == 2)
    yield Door(archive, crew, acceptor, processes)
    acceptor.close(0)
    crew.close(5)
    archive.close()
    assert all(process.poll() is not None for process in processes)


def test_associations_are_spread_and_what_they_store_is_one_archive(door: Door) -> None:
    failures: list[BaseException] = []

    def send(number: int, assoc: Association) -> None:
        try:
            for ds in dicom_data.series(5, study=1, number=number):
                status = assoc.store(CT, ds.SOPInstanceUID, dicom_data.dataset_bytes(ds))[0x0900]
                assert status == 0
            assoc.release()
        except BaseException as error:
            failures.append(error)

    assocs = [door.associate() for _ in range(4)]
    assert door.crew.associations == 4
    assert door.acceptor.associations == 0  # none is served by the acceptor itself
    threads = [threading.Thread(target=send, args=(n, assoc)) for n, assoc in enumerate(assocs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for assoc in assocs:
        assoc.sock.close()
    assert not failures
    assert len(door.archive.retrieve.locate(SYSTEM, uids.derived("study", 1))) == 20
    wait_until(lambda: door.crew.associations == 0)


def test_the_limit_counts_over_all_processes(door: Door) -> None:
    assocs = [door.associate() for _ in range(5)]
    with pytest.raises(Rejected):
        door.associate()
    with assocs.pop():
        pass  # released

    def again() -> bool:
        try:
            assocs.append(door.associate())
        except Rejected:
            return False
        return True

    wait_until(again)
    for assoc in assocs:
        assert assoc.echo() == 0
        assoc.sock.close()


def test_one_that_dies_takes_only_its_own_and_is_started_again(door: Door) -> None:
    first, second = door.associate(), door.associate()
    os.kill(door.processes[0].pid, signal.SIGKILL)
    wait_until(lambda: door.crew.associations == 1)
    lost = 0
    for assoc in (first, second):
        try:
            assert assoc.echo() == 0
        except (ConnectionError, OSError):
            lost += 1
        assoc.sock.close()
    assert lost == 1
    with door.associate() as meanwhile:
        assert meanwhile.echo() == 0
    wait_until(lambda: len(door.processes) == 3 and door.crew.ready == 2)


def test_what_is_being_performed_ends_before_they_do(door: Door) -> None:
    assoc = door.associate()
    (ds,) = dicom_data.series(1)
    message = assoc.store_message(CT, ds.SOPInstanceUID, dicom_data.dataset_bytes(ds))
    assoc.send(message[:-200])
    door.acceptor.stop()
    closing = threading.Thread(target=door.crew.close, args=(60.0,))
    time.sleep(0.2)  # the attendant has the beginning; were it late, the message would be cut and the test fail
    closing.start()
    assoc.send(message[-200:])
    assert assoc.response()[0][0x0900] == 0
    closing.join(120)
    assert len(door.archive.retrieve.locate(SYSTEM, ds.StudyInstanceUID)) == 1
    assoc.sock.close()


def test_sqlite_has_one_writing_process() -> None:
    with pytest.raises(InvalidInput, match="dimse_processes"):
        compose.refuse_impossible(Settings(dimse_processes=2))
    with pytest.raises(InvalidInput, match="dimse_processes"):
        compose.refuse_impossible(Settings(dimse_processes=0, index="postgresql+psycopg://x/y"))
