"""A whole server under bad manners on both doors: floods, very large objects, bodies and headers that lie or crawl."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator

import dicom_data
import httpx
import pytest
import raw_dicom as raw
from conftest import RunningServer, start_server
from dimse_client import CT, DEFLATED, EXPLICIT, Aborted, Association, Connection, Rejected
from faults.large import Watch, by_dimse, by_stow, read_back, settled

pytestmark = pytest.mark.system
SIZE = 160 << 20
BEYOND_IDLE = 80 << 20
"""Half the object: whoever held all of it in memory would be found out."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    server = start_server(tmp_path_factory.mktemp("hostile") / "data", settings={"M3DICOM_WORKERS": "0"})
    yield server
    server.stop()
    text = "".join(server.output)
    assert "Traceback" not in text, text[text.index("Traceback") - 500 :][:4000]


@pytest.fixture(scope="module")
def token(server: RunningServer) -> str:
    return server.token


def echoes(server: RunningServer) -> None:
    with Association(server.dimse, timeout=60) as assoc:
        assert assoc.echo() == 0


def is_well(server: RunningServer, token: str) -> None:
    echoes(server)
    answer = httpx.get(f"{server.dicomweb}/studies?limit=1", headers={"Authorization": f"Bearer {token}"}, timeout=60)
    assert answer.status_code in (200, 204)


# --- large objects ----------------------------------------------------------------------------------------------------


def test_a_large_object_by_dimse_costs_little_memory(server: RunningServer, token: str) -> None:
    by_dimse(server, "1.2.3.10", 1 << 20)  # what is loaded once is loaded now
    settled(server)
    with Watch(server.process.pid) as watch:
        assert by_dimse(server, "1.2.3.11", SIZE) == 0
    assert watch.beyond_idle < BEYOND_IDLE
    assert read_back(server, "1.2.3.11", token) > SIZE - (2 << 20)


def test_a_large_object_by_stow_costs_little_memory(server: RunningServer, token: str) -> None:
    by_stow(server, "1.2.3.12", 1 << 20, token)
    settled(server)
    with Watch(server.process.pid) as watch:
        assert by_stow(server, "1.2.3.13", SIZE, token) == 200
        assert read_back(server, "1.2.3.13", token) > SIZE - (2 << 20)
    assert watch.beyond_idle < BEYOND_IDLE


# --- floods -----------------------------------------------------------------------------------------------------------


def test_echo_through_a_flood(server: RunningServer, token: str) -> None:
    silent: list[Connection] = []
    held: list[Association] = []
    try:
        for _ in range(120):
            silent.append(Connection(server.dimse, timeout=60))
        outcomes: list[str] = []

        def visit() -> None:
            try:
                held.append(Association(server.dimse, contexts=((CT, (EXPLICIT,)),), timeout=60))
                outcomes.append("accepted")
            except (Rejected, Aborted) as refused:
                outcomes.append(type(refused).__name__ + str(refused.args))

        crowd = [threading.Thread(target=visit) for _ in range(80)]
        for thread in crowd:
            thread.start()
        for _ in range(5):
            echoes(server)
        for thread in crowd:
            thread.join(60)
        assert len(outcomes) == 80, "somebody was neither accepted nor refused"
        assert set(outcomes) <= {"accepted", "Rejected(2, 3, 2)"}
        echoes(server)
    finally:
        for each in [*silent, *held]:
            each.sock.close()
    is_well(server, token)


# --- objects ----------------------------------------------------------------------------------------------------------


def nested(depth: int) -> bytes:
    opening = raw.element(0x00081115, "SQ", length=raw.UNDEFINED) + struct.pack("<HHI", 0xFFFE, 0xE000, raw.UNDEFINED)
    return raw.dataset() + opening * depth


def bomb() -> bytes:
    plain = raw.dataset() + raw.element(0x7FE00010, "OW", length=600 << 20)
    deflate = zlib.compressobj(9, wbits=-15)
    out = [deflate.compress(plain)]
    out += [deflate.compress(bytes(1 << 20)) for _ in range(600)]
    return b"".join((*out, deflate.flush()))


def lying(value: bytes) -> bytes:
    """A data set with this SOP Instance UID."""
    uid = raw.element(0x00080018, "UI", value + b"\0" * (len(value) % 2))
    return raw.element(0x00080016, "UI", CT.encode() + b"\0" * (len(CT) % 2)) + uid + raw.PARENTS


@pytest.mark.parametrize(
    ("syntax", "dataset"),
    [
        (EXPLICIT, nested(20_000)),
        (DEFLATED, bomb()),
        (EXPLICIT, raw.dataset(after=raw.element(0x7FE00010, "OW", b"xx", length=0x7FFFFFFE))),
        (EXPLICIT, lying(b"../../../../etc/passwd")),
        (EXPLICIT, lying(b"1.2.3\0/../x")),
        (EXPLICIT, lying(b"1." + b"2" * 5000)),
    ],
    ids=["nested", "bomb", "length", "traversal", "nul", "long"],
)
def test_hostile_objects_are_refused_by_both_doors(
    server: RunningServer, token: str, syntax: str, dataset: bytes
) -> None:
    settled(server)
    with Watch(server.process.pid) as watch:
        with Association(server.dimse, contexts=((CT, (syntax,)),), timeout=120) as assoc:
            status = assoc.store(CT, "1.2.3.4", dataset)[0x0900]
        assert status in (0xA700, 0xA900, 0xC000), f"{status:04X}H"
        small = dicom_data.part10(dicom_data.image(0, 4, 4, SOPInstanceUID="1.2.3.5"))
        meta = small[: 144 + int.from_bytes(small[140:144], "little")]
        file = with_syntax(meta, syntax)
        answer = httpx.post(
            f"{server.dicomweb}/studies", content=file + dataset, timeout=120,
            headers={"Content-Type": "application/dicom", "Authorization": f"Bearer {token}"},
        )  # fmt: skip
        assert answer.status_code in (400, 409, 413), answer.text[:300]
    assert watch.beyond_idle < 200 << 20
    is_well(server, token)
    found = httpx.get(
        f"{server.dicomweb}/instances",
        params={"SOPInstanceUID": "1.2.3.4"},
        headers={"Authorization": f"Bearer {token}"},
    )
    assert found.status_code == 204


def with_syntax(meta: bytes, syntax: str) -> bytes:
    """The same File Meta with another transfer syntax."""
    old = raw.element(0x00020010, "UI", EXPLICIT.encode() + b"\0" * (len(EXPLICIT) % 2))
    new = raw.element(0x00020010, "UI", syntax.encode() + b"\0" * (len(syntax) % 2))
    group = meta[144:].replace(old, new)
    return meta[:140] + struct.pack("<I", len(group)) + group


# --- HTTP -------------------------------------------------------------------------------------------------------------


def http(server: RunningServer, sent: bytes, within_s: float = 60) -> bytes:
    """Everything that comes back until the server closes, or has been silent for a second after an answer."""
    host, _, port = server.ready["http"].rpartition(":")
    got = bytearray()
    with socket.create_connection((host, int(port)), within_s) as sock, contextlib.suppress(OSError):
        sock.sendall(sent)
        while piece := sock.recv(65536):
            got += piece
            sock.settimeout(1)
    return bytes(got)


@pytest.mark.parametrize("hosts", [b"", b"Host: x\r\nHost: y\r\n", b"Host: x\r\nHOST: x\r\n"])
def test_a_request_names_one_host(server: RunningServer, token: str, hosts: bytes) -> None:
    who = b"Authorization: Bearer " + token.encode() + b"\r\n"
    for path in (b"/dicom-web/studies", b"/health/live"):
        assert http(server, b"GET " + path + b" HTTP/1.1\r\n" + hosts + who + b"\r\n").startswith(b"HTTP/1.1 400 ")
    is_well(server, token)


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 40\r\n",
        b"Content-Length: 5\r\nContent-Length: 50\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: 5, 6\r\n",
        b" Content-Length: 5\r\n",
    ],
)
def test_what_could_be_read_in_two_ways_is_answered_once(server: RunningServer, token: str, head: bytes) -> None:
    smuggled = b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Smuggled: yes\r\n\r\n"
    body = b"0\r\n\r\n" + smuggled
    request = b"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token.encode() + b"\r\n"
    got = http(server, request + b"Content-Type: application/dicom\r\n" + head + b"\r\n" + body)
    assert b'{"status":"live"}' not in got.split(b"\r\n\r\n", 1)[-1].replace(b" ", b""), got[:600]
    is_well(server, token)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n",
        b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(50_000)) + b"\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"GET / HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
        b"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\nxx",
    ],
    ids=["long field", "long path", "many fields", "version", "tls", "nul", "length", "chunk"],
)
def test_extreme_requests_are_refused_and_cost_little(server: RunningServer, token: str, request_bytes: bytes) -> None:
    with Watch(server.process.pid) as watch:
        got = http(server, request_bytes)
    assert got == b"" or got.startswith(b"HTTP/1.1 4"), got[:200]
    assert watch.beyond_idle < 50 << 20
    is_well(server, token)


def test_slow_bodies_hold_nobody_up(server: RunningServer, token: str) -> None:
    host, _, port = server.ready["http"].rpartition(":")
    request = b"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nContent-Type: application/dicom\r\n"
    slow = [socket.create_connection((host, int(port)), 60) for _ in range(60)]
    try:
        for number, sock in enumerate(slow):
            # some send half a header, the others a body that never ends
            authorised = request + b"Content-Length: 9999\r\nAuthorization: Bearer " + token.encode() + b"\r\n\r\nx"
            sock.sendall(request[:40] if number % 2 else authorised)
        time.sleep(0.2)
        for _ in range(3):
            is_well(server, token)
        file = dicom_data.part10(dicom_data.image(77, 16, 16))
        headers = {"Content-Type": "application/dicom", "Authorization": f"Bearer {token}"}
        assert httpx.post(f"{server.dicomweb}/studies", content=file, headers=headers, timeout=60).status_code == 200
    finally:
        for sock in slow:
            sock.close()
    is_well(server, token)
