"""Answers that are ready: given again only while they are still true, and only to whom they were given before."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dicom_data
import httpx
import pytest
import uvicorn
from dicomweb_server import multipart
from servers import unless

import dicomweb.app
from dicomweb.dispatch import Service
from pacs.archive import Archive
from pacs.auth import CLINICAL_RIGHTS, Auth
from pacs.index import wal
from pacs.index.engine import open_index
from pacs.server import at_hand, http, opening, shelf, wire
from pacs.server.prompt import Prompt
from pacs.settings import Settings


class Counted(shelf.Shelf):
    """A shelf that counts what it gave out."""

    given = 0

    def find(self, *asked: Any) -> list[bytes] | None:
        found = super().find(*asked)
        self.given += found is not None
        return found


class CountedAtHand(at_hand.AtHand):
    """The same of what is at hand."""

    given = 0

    def find(self, *asked: Any) -> bytes | None:
        found = super().find(*asked)
        self.given += found is not None
        return found


@dataclass
class Server:
    archive: Archive
    shelf: Counted
    port: int
    token: str
    config: uvicorn.Config

    def get(self, path: str, accept: str = "application/dicom+json", token: str = "", **headers: str) -> httpx.Response:
        """The answer to a request on a connection of its own, with exactly the same fields each time."""
        fields = {"Authorization": f"Bearer {token or self.token}", "Accept": accept, **headers}
        return httpx.get(f"http://127.0.0.1:{self.port}/dicom-web{path}", headers=fields, timeout=60)

    def store(self, *objects: Any) -> None:
        body = multipart([dicom_data.part10(each) for each in objects], "b")
        kind = 'multipart/related; type="application/dicom"; boundary=b'
        fields = {"Authorization": f"Bearer {self.token}", "Content-Type": kind}
        url = f"http://127.0.0.1:{self.port}/dicom-web/studies"
        assert httpx.post(url, content=body, headers=fields, timeout=60).status_code == 200


@pytest.fixture(params=["long way", "at once"])
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    archive = opening.build(Settings(data=tmp_path, decoders=1))
    ready = Counted(archive.index, archive.auth)
    ready.at_hand = CountedAtHand(archive.index, ready.lines, lambda: ready._clock())
    routes = dicomweb.app.create(archive, renditions={})
    app = http.application(archive.auth, routes)
    services = [route for route in routes if isinstance(route, Service)]
    quick = Prompt(services, archive.auth, ready) if request.param == "at once" else None
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        shelf.Shelving(app, ready),
        log_level="warning",
        lifespan="off",
        http=wire.protocol(ready, quick),
        server_header=False,
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until = time.monotonic() + 60
    while not running.started:
        assert time.monotonic() < until, "the server did not start"
        time.sleep(0.01)
    made = Server(
        archive, ready, listener.getsockname()[1], archive.auth.create_token("tests", CLINICAL_RIGHTS), config
    )
    made.store(*dicom_data.series(3, study=1, PatientID="P1"))
    yield made
    running.should_exit = True
    thread.join(30)
    listener.close()
    archive.close()


def until_ready(server: Server, path: str, **options: Any) -> httpx.Response:
    """The answer from the shelf: a credential is remembered for seconds only, so it may take another try."""
    until = time.monotonic() + 60
    while True:
        before = server.shelf.given
        answer = server.get(path, **options)
        if server.shelf.given > before:
            return answer
        assert time.monotonic() < until, "never ready"


SERIES = "/studies/{0}/series"


@pytest.mark.parametrize("path", ["/studies", "/studies?PatientID=P1", "/studies?PatientID=nobody", "metadata"])
def test_the_same_answer_until_something_changes(server: Server, path: str) -> None:
    if path == "metadata":
        path = f"/studies/{next(dicom_data.series(1, study=1)).StudyInstanceUID}/metadata"
    made = server.get(path)
    ready = until_ready(server, path)
    assert (ready.status_code, ready.content) == (made.status_code, made.content)
    names = [name for name, _ in made.headers.raw]
    assert [name for name, _ in ready.headers.raw] == names
    assert {name: value for name, value in ready.headers.items() if name != "date"} == {
        name: value for name, value in made.headers.items() if name != "date"
    }
    assert until_ready(server, path, accept="application/dicom+xml").headers.get("content-type") != JSON_TYPE
    server.store(dicom_data.image(77, PatientID="P1", SOPInstanceUID="1.2.3.77", **same_place()))
    given = server.shelf.given
    changed = server.get(path)
    assert server.shelf.given == given, "an answer from before the change"
    assert (changed.content == made.content) is (made.status_code == 204)


JSON_TYPE = "application/dicom+json"


def same_place() -> dict[str, str]:
    ds = next(dicom_data.series(1, study=1))
    return {"StudyInstanceUID": ds.StudyInstanceUID, "SeriesInstanceUID": ds.SeriesInstanceUID}


def test_who_reads_on_stands_in_the_audit_of_each_quarter_of_an_hour(server: Server) -> None:
    study = next(dicom_data.series(1, study=1)).StudyInstanceUID
    until_ready(server, f"/studies/{study}/metadata")
    server.shelf._clock = lambda: time.time() + 900.0
    given = server.shelf.given
    assert server.get(f"/studies/{study}/metadata").status_code == 200
    assert server.shelf.given == given, "nobody notes who reads what is ready"


def test_a_credential_that_ended_opens_nothing(server: Server) -> None:
    until_ready(server, "/studies")
    server.archive.auth.revoke(server.token)
    assert server.get("/studies").status_code == 401


def test_everybody_gets_his_own(server: Server) -> None:
    other = server.archive.auth.create_token("others", CLINICAL_RIGHTS, scope="elsewhere")
    assert until_ready(server, "/studies").status_code == 200
    assert until_ready(server, "/studies", token=other).status_code == 204
    assert until_ready(server, "/studies").status_code == 200


def test_requests_in_one_go_are_answered_in_their_order(server: Server) -> None:
    def request(path: str, last: bool = False) -> bytes:
        return (
            f"GET /dicom-web{path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nAccept: {JSON_TYPE}\r\n"
            f"Authorization: Bearer {server.token}\r\n{'Connection: close' if last else 'X: y'}\r\n\r\n"
        ).encode()

    paths = ["/studies", "/instances", "/studies?PatientID=P1", "/series", "/instances", "/studies"] * 5
    with socket.create_connection(("127.0.0.1", server.port), 60) as sock:
        sock.sendall(b"".join(map(request, paths)) + request("/series", last=True))
        raw = b""
        while piece := sock.recv(1 << 16):
            raw += piece
    counts = [len(json.loads(part.partition(b"\r\n\r\n")[2])) for part in raw.split(b"HTTP/1.1 200 OK\r\n")[1:]]
    assert counts == [{"/instances": 3}.get(path, 1) for path in [*paths, "/series"]]


def test_a_ready_answer_does_not_end_the_wait_for_the_next_one(server: Server) -> None:
    server.config.timeout_keep_alive = 0  # as long as a connection may be idle, which it is not while one answer is due
    head = f"Host: 127.0.0.1:{server.port}\r\nAccept: {JSON_TYPE}\r\nAuthorization: Bearer {server.token}\r\n"
    first = f"GET /dicom-web/studies HTTP/1.1\r\n{head}\r\n"
    until = time.monotonic() + 60
    for number in range(10**6):
        before = server.shelf.given
        second = f"GET /dicom-web/instances?PatientID=nobody{number} HTTP/1.1\r\n{head}Connection: close\r\n\r\n"
        raw = b""
        with socket.create_connection(("127.0.0.1", server.port), 60) as sock:
            sock.sendall(f"{first}{second}".encode())
            while piece := sock.recv(1 << 16):
                raw += piece
        assert raw.count(b"HTTP/1.1 20") == 2, raw[:2000]
        if server.shelf.given > before:
            return
        assert time.monotonic() < until, "never ready"


def test_what_is_kept_of_requests_is_counted(server: Server) -> None:
    held = server.shelf._ready.bytes_held
    server.get("/studies?PatientID=nobody", **{"X-Long": "x" * 30_000})
    assert server.shelf._ready.bytes_held == held, "kept though it was asked for only once"
    until = time.monotonic() + 60
    while server.shelf._ready.bytes_held <= held:
        assert time.monotonic() < until, "never kept"
        server.get("/studies?PatientID=nobody", **{"X-Long": "x" * 30_000})
    assert server.shelf._ready.bytes_held > held + 30_000


class Client:
    """One connection that stays, and sends the same bytes for the same thing."""

    def __init__(self, server: Server, address: str = "127.0.0.1", token: str = "") -> None:
        self.server = server
        self.socket = socket.create_connection(("127.0.0.1", server.port), 60, source_address=(address, 0))
        self.stream = self.socket.makefile("rb")
        self.fields = (
            f"Host: 127.0.0.1:{server.port}\r\nAccept: {JSON_TYPE}\r\nAuthorization: Bearer {token or server.token}\r\n"
        )

    def get(self, path: str, pieces: int = 1) -> tuple[int, dict[str, str], bytes]:
        """Status, header fields and body; the request is sent in so many pieces."""
        request = f"GET /dicom-web{path} HTTP/1.1\r\n{self.fields}\r\n".encode()
        size = -(-len(request) // pieces)
        for at in range(0, len(request), size):
            self.socket.sendall(request[at : at + size])
        status = int(self.stream.readline().split()[1])
        fields = {}
        while line := self.stream.readline().strip():
            name, _, value = line.decode().partition(": ")
            fields[name] = value
        return status, fields, self.stream.read(int(fields.get("content-length", 0)))

    def until_at_hand(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """The first answer that was at hand: a credential is remembered for seconds only."""
        until = time.monotonic() + 60
        while True:
            before = self.given
            answer = self.get(path)
            if self.given > before:
                return answer
            assert time.monotonic() < until, "never at hand"

    @property
    def given(self) -> int:
        assert isinstance(self.server.shelf.at_hand, CountedAtHand)
        return self.server.shelf.at_hand.given

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()
        self.socket.close()


needs_pulse = unless(wal.functions(("sqlite3_exec",)) is not None, "SQLite is inside of Python")
at_once = pytest.mark.parametrize("server", ["at once"], indirect=True)


@needs_pulse
@at_once
def test_the_same_bytes_get_the_same_answer_until_somebody_commits(server: Server) -> None:
    with Client(server) as client:
        for path in ("/studies", "/instances?PatientID=P1", "/studies?PatientID=nobody"):
            made = client.get(path)
            for _ in range(3):  # not only once
                again = client.until_at_hand(path)
                assert (again[0], again[2]) == (made[0], made[2])
                assert {name for name in again[1] if name != "date"} == {name for name in made[1] if name != "date"}
        seen = len(json.loads(client.until_at_hand("/instances?PatientID=P1")[2]))
        server.store(dicom_data.image(77, PatientID="P1", SOPInstanceUID="1.2.3.77", **same_place()))
        before = client.given
        assert len(json.loads(client.get("/instances?PatientID=P1")[2])) == seen + 1
        assert client.given == before, "an answer from before the change"
        assert len(json.loads(client.until_at_hand("/instances?PatientID=P1")[2])) == seen + 1


@needs_pulse
@at_once
def test_a_revocation_by_another_process_ends_what_is_at_hand(server: Server) -> None:
    other = open_index(f"sqlite:///{server.archive.settings.data / 'index.db'}")
    try:
        with Client(server) as client:
            client.until_at_hand("/studies")
            given = client.given
            Auth(other).revoke(server.token)
            server.archive.auth._clock = lambda: time.time() + 2.5  # a credential is remembered for two seconds
            assert client.get("/studies")[0] == 401
            assert client.get("/studies")[0] == 401
            assert client.given == given
    finally:
        other.close()


@needs_pulse
@at_once
def test_what_is_at_hand_is_for_one_address_and_one_credential(server: Server) -> None:
    other = server.archive.auth.create_token("others", CLINICAL_RIGHTS, scope="elsewhere")
    with Client(server) as client, Client(server, "127.0.0.2") as away, Client(server, token=other) as stranger:
        client.until_at_hand("/studies")
        given = client.given
        assert stranger.get("/studies")[0] == 204
        assert away.get("/studies")[0] == away.get("/studies")[0] == 200
        assert client.given == given, "given to somebody else"
        assert away.until_at_hand("/studies")[0] == 200
        assert stranger.until_at_hand("/studies")[0] == 204


@needs_pulse
@at_once
def test_what_is_at_hand_ends_with_the_credential_and_the_quarter_of_an_hour(server: Server) -> None:
    with Client(server) as client:
        client.until_at_hand("/studies")
        given = client.given
        now = time.time()
        server.shelf._clock = lambda: now + 900.0
        assert client.get("/studies")[0] == 200
        server.shelf._clock = lambda: now + 2.5
        assert client.get("/studies")[0] == 200
        server.shelf._clock = lambda: now - 900.0
        assert client.get("/studies")[0] == 200
        assert client.given == given


@needs_pulse
@at_once
def test_answers_at_hand_tell_the_time(server: Server) -> None:
    with Client(server) as client:
        first = client.until_at_hand("/studies")[1]["date"]
        until = time.monotonic() + 60
        while client.until_at_hand("/studies")[1]["date"] == first:
            assert time.monotonic() < until, "the clock stands still"


@needs_pulse
@at_once
def test_a_request_in_pieces_or_with_more_behind_it_is_read_as_ever(server: Server) -> None:
    with Client(server) as client:
        _, _, body = client.until_at_hand("/studies")
        assert client.get("/studies", pieces=3)[2] == body
        both = f"GET /dicom-web/studies HTTP/1.1\r\n{client.fields}\r\n" * 2
        client.socket.sendall(both.encode())
        client.socket.sendall(b"GET /dicom-web/studies HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        raw = client.stream.read()
        assert raw.count(b"HTTP/1.1 200") == 2
        assert raw.count(b"HTTP/1.1 401") == 1
        assert raw.count(body) == 2


@needs_pulse
@at_once
def test_what_is_at_hand_is_bounded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_hand, "HELD_BYTES", 8000)
    held = server.shelf.at_hand
    with Client(server) as client:
        for number in range(20):
            client.until_at_hand(f"/studies?PatientID=nobody{number}")
            assert 0 < held._total <= 8000
    assert 0 < len(held._held) < 20
