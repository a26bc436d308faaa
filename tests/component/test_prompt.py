"""Answers that are made where the request was read: the very bytes of those that go the long way."""

from __future__ import annotations

import http.client as http_client
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import dicom_data
import httpx
import pytest
import uvicorn
from dicomweb_server import multipart
from starlette.types import Scope

import dicomweb.app
from dicomweb.answers import Answer
from dicomweb.dispatch import Service
from pacs.accesses import EVENT, window_of
from pacs.archive import Archive
from pacs.auth import CLINICAL_RIGHTS, Right
from pacs.server import http, opening, shelf, wire
from pacs.server.prompt import Prompt
from pacs.settings import Settings

JSON = "application/dicom+json"
FRAMES = 'multipart/related; type="application/octet-stream"'


class Counted(Prompt):
    """One that counts what it answered."""

    asked = given = 0

    def answer(self, scope: Scope) -> Answer | None:
        found = super().answer(scope)
        self.asked += 1
        self.given += found is not None
        return found


@dataclass
class Servers:
    """The same archive behind two doors, one of which answers at once where it can."""

    archive: Archive
    prompt: Counted
    long_way: int
    at_once: int
    token: str


@contextmanager
def listening(protocol: type[wire.BoundedHttp], app: object) -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="warning", lifespan="off", http=protocol, server_header=False)  # type: ignore[arg-type]
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until = time.monotonic() + 60
    while not running.started:
        assert time.monotonic() < until, "the server did not start"
        time.sleep(0.01)
    yield listener.getsockname()[1]
    running.should_exit = True
    thread.join(30)
    listener.close()


class Nothing(shelf.Shelf):
    """A shelf on which nothing stays, so that every answer is made."""

    def keep(self, *_: object) -> None:
        """Nothing."""


LONG = dicom_data.image(7, 512, 512, StudyInstanceUID="1.2.3.7", SeriesInstanceUID="1.2.3.7.1")
LONG_FRAME = f"/studies/1.2.3.7/series/1.2.3.7.1/instances/{LONG.SOPInstanceUID}/frames/1"


def doors(stack: ExitStack, archive: Archive, token: str, origins: Sequence[str] = ()) -> Servers:
    """Both doors of an archive, whose answers pages of these origins may read."""
    routes = dicomweb.app.create(archive, renditions={})
    ready = Nothing(archive.index, archive.auth)
    app = shelf.Shelving(http.application(archive.auth, routes, origins), ready)
    prompt = Counted([each for each in routes if isinstance(each, Service)], archive.auth, ready, origins)
    far = stack.enter_context(listening(wire.protocol(ready), app))
    near = stack.enter_context(listening(wire.protocol(ready, prompt), app))
    return Servers(archive, prompt, far, near, token)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    archive = opening.build(Settings(data=tmp_path_factory.mktemp("data"), decoders=1))
    token = archive.auth.create_token("tests", CLINICAL_RIGHTS)
    with ExitStack() as stack:
        stack.callback(archive.close)
        made = doors(stack, archive, token)
        stored = [*dicom_data.series(3, study=1, PatientID="P1"), LONG]
        body = multipart([dicom_data.part10(each) for each in stored], "b")
        kind = 'multipart/related; type="application/dicom"; boundary=b'
        answer = httpx.post(
            f"http://127.0.0.1:{made.at_once}/dicom-web/studies", content=body, timeout=60,
            headers={"Authorization": f"Bearer {token}", "Content-Type": kind},
        )  # fmt: skip
        assert answer.status_code == 200
        yield made


def get(servers: Servers, port: int, path: str, accept: str, **headers: str) -> httpx.Response:
    fields = {"Authorization": f"Bearer {servers.token}", "Host": "archive.example", "Accept": accept, **headers}
    return httpx.get(f"http://127.0.0.1:{port}/dicom-web{path}", headers=fields, timeout=60)


def made_at_once(servers: Servers, path: str, accept: str, *, like: str = "", **headers: str) -> httpx.Response:
    """The answer, once it came at once: what has not proven quick yet goes the long way, and so may every one.

    `like` is an address of the same kind that has an answer.
    """
    until = time.monotonic() + 60
    while True:
        if like:
            assert get(servers, servers.at_once, like, FRAMES if "frames" in like else JSON).status_code < 300
        before = servers.prompt.given
        answer = get(servers, servers.at_once, path, accept, **headers)
        if servers.prompt.given > before:
            return answer
        assert time.monotonic() < until, "never at once"


def as_sent(answer: httpx.Response) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, header fields in their order, and body; without the clock and the random boundary."""
    boundary = re.search(rb"boundary=([0-9a-f]{32})", b"".join(value for _, value in answer.headers.raw))
    random = boundary[1] if boundary else b"\0"
    fields = [(name.lower(), value.replace(random, b"")) for name, value in answer.headers.raw if name != b"date"]
    return answer.status_code, fields, answer.content.replace(random, b"")


FIRST = next(dicom_data.series(1, study=1))
STUDY = f"/studies/{FIRST.StudyInstanceUID}"
SERIES = f"{STUDY}/series/{FIRST.SeriesInstanceUID}"
INSTANCE = f"{SERIES}/instances/{FIRST.SOPInstanceUID}"


@pytest.mark.parametrize(
    ("path", "accept"),
    [
        ("/studies", JSON),
        ("/studies?PatientID=P1", JSON),
        ("/studies?PatientID=P%2A", JSON),
        ("/studies?00100020=P1&includefield=all", "application/json"),
        ("/studies?StudyDate=20000101-20301231&limit=1", JSON),
        ("/studies?PatientID=nobody", JSON),
        ("/studies?NoSuchThing=1&AccessionNumber=", "*/*"),
        ("/instances?limit=1&offset=1", JSON),
        (f"{STUDY}/series", "application/dicom+xml"),
        (f"{SERIES}/instances?includefield=Rows,PatientName", 'multipart/related; type="application/dicom+xml"'),
        (f"{SERIES}/metadata", JSON),
        (f"{INSTANCE}/frames/1", FRAMES),
        (f"{INSTANCE}/frames/1", "application/octet-stream"),
        (LONG_FRAME, FRAMES),
        (LONG_FRAME, "application/octet-stream"),
        (INSTANCE, 'multipart/related; type="application/dicom"'),
        (INSTANCE, "application/dicom"),
    ],
)  # fmt: skip
def test_the_same_answer_either_way(servers: Servers, path: str, accept: str) -> None:
    # What a random boundary compresses to differs.
    plain = {"Accept-Encoding": "identity"} if accept.startswith("multipart") else {}
    long_way = get(servers, servers.long_way, path, accept, **plain)
    assert as_sent(made_at_once(servers, path, accept, **plain)) == as_sent(long_way)


@pytest.mark.parametrize(
    ("path", "accept", "like"),
    [
        ("/studies?limit=x", JSON, "/studies?limit=1"),
        ("/studies?StudyDate=tomorrow", JSON, "/studies?StudyDate=20200101"),
        ("/studies/not-a-uid/series", JSON, f"{STUDY}/series"),
        ("/studies", "text/plain", "/studies"),
        ("/studies/1.2.3.4.5/metadata", JSON, f"{STUDY}/metadata"),
        (f"{INSTANCE}/frames/2", FRAMES, f"{INSTANCE}/frames/1"),
        (f"{INSTANCE}/frames/0", FRAMES, f"{INSTANCE}/frames/1"),
    ],
)
def test_the_same_refusal_either_way(servers: Servers, path: str, accept: str, like: str) -> None:
    long_way = get(servers, servers.long_way, path, accept)
    assert 400 <= long_way.status_code < 500
    assert as_sent(made_at_once(servers, path, accept, like=like)) == as_sent(long_way)


def test_metadata_that_the_client_has(servers: Servers) -> None:
    tag = get(servers, servers.long_way, f"{SERIES}/metadata", JSON).headers["etag"]
    answer = made_at_once(servers, f"{SERIES}/metadata", JSON, **{"If-None-Match": tag})
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)


def test_compressed_where_that_is_taken(servers: Servers) -> None:
    path = f"{SERIES}/metadata"
    plain = made_at_once(servers, path, JSON, **{"Accept-Encoding": "identity"})
    small = made_at_once(servers, path, JSON, **{"Accept-Encoding": "gzip"})
    assert small.headers["content-encoding"] == "gzip"
    assert small.content == plain.content


def test_rights_and_scopes_hold(servers: Servers) -> None:
    made_at_once(servers, "/studies", JSON)
    auth = servers.archive.auth
    storing = {"Authorization": f"Bearer {auth.create_token('modality', frozenset({Right.STORE}))}"}
    elsewhere = {"Authorization": f"Bearer {auth.create_token('other', CLINICAL_RIGHTS, scope='elsewhere')}"}
    assert made_at_once(servers, "/studies", JSON, **storing).status_code == 403
    assert made_at_once(servers, "/studies", JSON, **elsewhere).status_code == 204
    assert made_at_once(servers, f"{SERIES}/metadata", JSON, **elsewhere).status_code == 404
    assert made_at_once(servers, f"{INSTANCE}/frames/1", FRAMES, **elsewhere).status_code == 404


def test_who_is_not_known_goes_the_long_way(servers: Servers) -> None:
    before = servers.prompt.given
    for wrong in ("Bearer nobody", "Basic eDp5", "Bearer"):
        answer = get(servers, servers.at_once, "/studies", JSON, Authorization=wrong)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert servers.prompt.given == before


def test_one_request_after_the_other_on_one_connection(servers: Servers) -> None:
    """Whoever sends the same header fields again gets what a connection of its own would bring, in the same order."""
    asked = [
        "/studies", "/studies?PatientID=P1", "/studies?PatientID=P%2A&limit=1", "/studies?limit=x", f"{STUDY}/series",
        f"{SERIES}/metadata", f"{INSTANCE}/metadata", "/nothing", "/studies?PatientID=nobody", STUDY,
        f"{INSTANCE}/rendered", "/workitems", "/studies",
    ]  # fmt: skip
    plain = {"Accept-Encoding": "identity"}
    fields = {"Authorization": f"Bearer {servers.token}", "Host": "archive.example", "Accept": "*/*", **plain}
    alone = [get(servers, servers.long_way, path, "*/*", **plain) for path in asked]
    connection = http_client.HTTPConnection("127.0.0.1", servers.at_once, timeout=60)
    for _ in range(3):  # what is not known yet, or quick, is the second time
        for path, expected in zip(asked, alone, strict=True):
            connection.request("GET", f"/dicom-web{path}", headers=fields)
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == expected.status_code, path
            assert len(body) == len(expected.content), path
            kept = {name.lower(): value for name, value in answer.getheaders()}
            assert kept.keys() == {name.lower() for name in expected.headers}, path
            if "boundary" not in kept.get("content-type", ""):
                assert body == expected.content, path
    connection.close()


def test_requests_that_come_in_pieces_or_together_on_one_connection(servers: Servers) -> None:
    fields = f"Host: archive.example\r\nAuthorization: Bearer {servers.token}\r\nAccept: {JSON}\r\n".encode()
    first = b"GET /dicom-web/studies?limit=1 HTTP/1.1\r\n" + fields + b"\r\n"
    second = b"GET /dicom-web/studies?PatientID=nobody HTTP/1.1\r\n" + fields + b"\r\n"
    last = b"GET /dicom-web/studies?limit=x HTTP/1.1\r\n" + fields + b"Connection: close\r\n\r\n"
    pieces = [first, second, first + second, first[:9], first[9:], second + first[:70], first[70:], second, last]
    with socket.create_connection(("127.0.0.1", servers.at_once), 60) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        got = b""
        for piece in pieces:
            before = got.count(b"HTTP/1.1 ")
            sock.sendall(piece)
            due = before + piece.count(b"\r\n\r\n")
            while got.count(b"HTTP/1.1 ") < due:
                more = sock.recv(1 << 16)
                assert more, got
                got += more
        while more := sock.recv(1 << 16):
            got += more
    statuses = [int(each[:3]) for each in got.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [200, 204, 200, 204, 200, 204, 200, 204, 400]


def test_a_token_that_was_revoked_ends_on_a_connection_that_knows_it(servers: Servers) -> None:
    token = servers.archive.auth.create_token("leaving", CLINICAL_RIGHTS)
    connection = http_client.HTTPConnection("127.0.0.1", servers.at_once, timeout=60)

    def status() -> int:
        connection.request("GET", "/dicom-web/studies", headers={"Authorization": f"Bearer {token}", "Accept": JSON})
        answer = connection.getresponse()
        answer.read()
        return answer.status

    assert [status() for _ in range(5)] == [200] * 5
    servers.archive.auth.revoke(token)
    assert status() == 401
    connection.close()


def test_pages_of_elsewhere_are_told_the_same_either_way(servers: Servers) -> None:
    with ExitStack() as stack:
        open_doors = doors(stack, servers.archive, servers.token, ["https://viewer.example", "*"])
        for path, accept, like in (
            ("/studies", JSON, ""),
            (f"{INSTANCE}/frames/1", FRAMES, ""),
            ("/studies?limit=x", JSON, "/studies?limit=1"),
        ):
            for origin in ("https://Viewer.example", "https://elsewhere.example", ""):
                fields = {"Origin": origin} if origin else {}
                answer = made_at_once(open_doors, path, accept, like=like, **fields)
                assert as_sent(answer) == as_sent(get(open_doors, open_doors.long_way, path, accept, **fields))
                assert "Origin" in answer.headers["vary"]
                assert ("access-control-allow-origin" in answer.headers) is bool(origin)
                assert ("access-control-allow-credentials" in answer.headers) is ("iewer" in origin)


def test_what_changes_something_is_not_begun(servers: Servers) -> None:
    made_at_once(servers, "/studies", JSON)
    before = servers.prompt.given
    url = f"http://127.0.0.1:{servers.at_once}/dicom-web"
    fields = {"Authorization": f"Bearer {servers.token}"}
    assert httpx.head(f"{url}/studies", headers=fields, timeout=60).content == b""
    assert httpx.options(f"{url}/studies", headers=fields, timeout=60).status_code == 200
    assert httpx.delete(f"{url}{STUDY}", headers=fields, timeout=60).status_code == 403
    assert httpx.get(f"{url}/workitems", headers=fields, timeout=60).status_code == 204
    assert servers.prompt.given == before


@pytest.mark.parametrize("path", [f"{INSTANCE}/rendered", f"{INSTANCE}/frames/1/thumbnail"])
def test_what_was_begun_and_goes_the_long_way_is_one_access(servers: Servers, path: str) -> None:
    archive, prompt, name = servers.archive, servers.prompt, f"reader of {path[-9:]}"
    fields = {"Authorization": f"Bearer {archive.auth.create_token(name, CLINICAL_RIGHTS)}"}

    def begun() -> bool:
        before = prompt.asked, prompt.given
        assert get(servers, servers.at_once, path, "*/*", **fields).status_code == 200
        return (prompt.asked, prompt.given) == (before[0] + 1, before[1])

    until = time.monotonic() + 60
    while not begun():  # who asks is not known at once the first time
        assert time.monotonic() < until, "never begun"
    archive.accesses.flush()
    seen = [row.at for row in archive.audit.query(EVENT) if row.principal == name]
    assert len(seen) == len(set(map(window_of, seen))) > 0
