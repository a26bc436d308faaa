"""Two processes behind one DIMSE door: spread, limited in one place, restarted, drained; on SQLite and PostgreSQL."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import dicom_data
import pytest
from conftest import ServerStarter
from dimse_client import CT, EXPLICIT, IMPLICIT, VERIFICATION, Association, Rejected, associate_request
from faults.away import descendants

from pacs import uids
from pacs.archive import Archive, open_archive
from pacs.auth import SYSTEM, Auth
from pacs.dimse import association
from pacs.dimse.acceptor import Acceptor, Places, policy, serve
from pacs.dimse.commit_module import STORAGE_COMMITMENT
from pacs.dimse.crew import Crew, attend
from pacs.errors import InvalidInput
from pacs.server import ground, possible
from pacs.server.attendant import Attendant, Nursery
from pacs.settings import Settings

CONTEXTS = ((CT, (EXPLICIT,)), (VERIFICATION, (IMPLICIT,)))


@dataclass
class Door:
    archive: Archive
    crew: Crew
    acceptor: Acceptor
    processes: list[Attendant]

    def associate(self, *more: tuple[str, tuple[str, ...]]) -> Association:
        return Association(self.acceptor.address, timeout=60, contexts=(*CONTEXTS, *more))


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery.started()
    yield made
    made.close()


@pytest.fixture
def door(request: pytest.FixtureRequest, tmp_path: Path, nursery: Nursery) -> Iterator[Door]:
    index = getattr(request, "param", "sqlite")
    if index == "postgresql":
        index = request.getfixturevalue("postgresql_cluster").new_database()
    settings = Settings(data=tmp_path, index=index, dimse_processes=2, max_associations=5, drain_s=30)
    archive = open_archive(settings)
    archive = archive.with_services(auth=Auth(archive.index))
    begun: list[Attendant] = []

    def start(line: socket.socket) -> Attendant:
        begun.append(nursery.start(line))
        return begun[-1]

    crew = Crew(settings, 2, start, archive.events.publish)
    acceptor = serve(archive, host="127.0.0.1", port=0, ae_title="M3DICOM", places=Places(), crew=crew)
    wait_until(lambda: crew.ready == 2)
    yield Door(archive, crew, acceptor, begun)
    acceptor.close(0)
    crew.close(5)
    archive.close()
    assert all(process.ended() for process in begun)
    if index == "sqlite":
        with closing(sqlite3.connect(tmp_path / "index.db")) as index_file:
            assert index_file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("door", ["sqlite", "postgresql"], indirect=True)
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


def test_news_of_one_process_wake_whoever_waits_in_the_server(door: Door) -> None:
    (ds,) = dicom_data.series(1)
    seen = door.archive.events.version
    with door.associate() as assoc:
        assert assoc.store(CT, ds.SOPInstanceUID, dicom_data.dataset_bytes(ds))[0x0900] == 0
    assert door.archive.events.wait(seen, 60) > seen


def test_who_may_be_told_of_what_others_do_is_served_by_the_server(door: Door) -> None:
    """Storage Commitment reports on the association that asked, which another process could not."""
    with door.associate((STORAGE_COMMITMENT, (IMPLICIT,))) as assoc:
        assert assoc.echo() == 0
        assert (door.crew.associations, door.acceptor.associations) == (0, 1)


def test_an_attendant_without_a_server_ends_at_once(tmp_path: Path, nursery: Nursery) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = nursery.start(theirs)
    with ours:
        ours.send(pickle.dumps(Settings(data=tmp_path)))
        assert ours.recv(64) == b"ready"
    assert process.ended(60)


def test_attendants_end_with_their_nursery_and_the_server_goes_on_without(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    nursery = Nursery.started()
    crew = Crew(settings, 2, nursery.start)
    try:
        wait_until(lambda: crew.ready == 2)
        nursery.close()
        wait_until(lambda: crew.ready == 0)
        one, other = socket.socketpair()
        with one, other:
            assert not crew.take(one, "", 1.0, b"", lambda: None)
    finally:
        crew.close(5)


class Silent:
    """A process that takes no part."""

    pid = 0

    def __init__(self) -> None:
        self.gone = False

    def ended(self, within_s: float = 0.0) -> bool:
        return self.gone

    def kill(self) -> None:
        self.gone = True


def test_what_one_did_last_is_looked_for_when_it_is_gone(tmp_path: Path) -> None:
    """It may have committed something and died before it told."""
    lines: list[socket.socket] = []
    process, told = Silent(), threading.Event()

    def start(line: socket.socket) -> Silent:
        lines.append(line.dup())
        return process

    crew = Crew(Settings(data=tmp_path), 1, start, told.set)
    try:
        lines[0].send(b"ready")
        wait_until(lambda: crew.ready == 1)
        assert not told.is_set()
        lines[0].close()
        assert told.wait(60)
    finally:
        process.kill()
        crew.close(0)


def test_a_connection_that_does_not_arrive_ends_alone(tmp_path: Path, nursery: Nursery) -> None:
    """The kernel leaves it out where the attendant may have no more files open."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = nursery.start(theirs)
    with ours:
        ours.settimeout(60)
        ours.send(pickle.dumps(Settings(data=tmp_path)))
        assert ours.recv(64) == b"ready"
        for number in (b"1", b"2"):
            ours.send(b'[%b,"127.0.0.1",60.0]\n' % number + associate_request())
            assert ours.recv(64) == b"ended " + number
        assert not process.ended()
    assert process.ended(60)


def test_without_threads_for_one_more_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(association.Association, "start", refuse)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    attending = threading.Thread(target=attend, args=(theirs, open_archive, policy))
    with ours, theirs:
        ours.settimeout(60)
        ours.send(pickle.dumps(Settings(data=tmp_path)))
        attending.start()
        try:
            assert ours.recv(64) == b"ready"
            one, other = socket.socketpair()
            with one, other:
                one.settimeout(60)
                socket.send_fds(ours, [b'[7,"127.0.0.1",60.0]\n' + associate_request()], [other.fileno()])
                other.close()
                assert ours.recv(64) == b"ended 7"
                assert one.recv(1) == b""
        finally:
            ours.send(b"stop")  # at the end of the line it would end this very process
            attending.join(60)
    assert not attending.is_alive()


def test_attendants_of_another_nursery_keep_the_next_server_waiting(start: ServerStarter) -> None:
    """Whoever may write to the data folder holds its lock, also after the first nursery was killed."""
    server = start(settings={"M3DICOM_DIMSE_PROCESSES": "2", "M3DICOM_WORKERS": "0"})

    def attendants() -> set[int]:
        children = set(descendants(server.process.pid, deep=False))
        return set(descendants(server.process.pid)) - children

    def held(pid: int) -> set[str]:
        found = set[str]()
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                found.add(Path(os.readlink(each)).name)
        return found

    wait_until(lambda: len(attendants()) == 2)
    before = attendants()
    (nursery,) = (each for each in descendants(server.process.pid, deep=False) if descendants(each))
    os.kill(nursery, signal.SIGKILL)
    wait_until(lambda: len(attendants() - before) == 2)
    for pid in attendants() - before:
        assert "attendants.lock" in held(pid)
        assert "server.lock" not in held(pid)


def test_how_many_serve_is_said_or_found() -> None:
    cores = len(os.sched_getaffinity(0))
    assert ground.attendants(Settings()) == (0 if cores == 1 else min(cores, ground.MOST_ATTENDANTS))
    assert ground.attendants(Settings(dimse_processes=1)) == 0
    assert ground.attendants(Settings(dimse_processes=3)) == 3
    assert ground.attendants(Settings(dimse_processes=3, dimse="")) == 0
    with pytest.raises(InvalidInput, match="dimse_processes"):
        possible.refuse_impossible(Settings(dimse_processes=-1))
