"""TLS at the DIMSE door and towards peers: who is let in, and what silence, noise and floods do not do."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dicom_data
import pytest
from certificates import Authority, Certificate
from conftest import needed
from dimse_client import (
    CT,
    EXPLICIT,
    IMPLICIT,
    VERIFICATION,
    Association,
    Connection,
    Rejected,
    associate_request,
    command,
    pdu,
    pdv,
)  # fmt: skip
from pynetdicom import AE as OtherAE
from pynetdicom import evt

from pacs.archive import Archive, open_archive
from pacs.auth import SYSTEM, Auth
from pacs.dimse import acceptor as acceptor_module
from pacs.dimse import remotes, tls
from pacs.dimse.acceptor import Acceptor, Places, serve
from pacs.dimse.requestor import Requestor
from pacs.errors import InvalidInput, PeerRefused, PeerUnreachable
from pacs.settings import AE, Settings

DEADLINE_S = 60.0
CONTEXTS = ((CT, (EXPLICIT,)), (VERIFICATION, (IMPLICIT,)))
Door = Callable[..., Acceptor]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def ours(authority: Authority) -> Certificate:
    return authority.vouches_for("server")


@pytest.fixture(scope="module")
def theirs(authority: Authority) -> Certificate:
    return authority.vouches_for("modality")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Vouched for by somebody we do not know."""
    return Authority(tmp_path_factory.mktemp("elsewhere"), "Other Authority").vouches_for("stranger")


@pytest.fixture
def archive(tmp_path: Path, authority: Authority, ours: Certificate) -> Iterator[Archive]:
    settings = Settings(
        data=tmp_path / "data", dimse_tls="127.0.0.1:0", tls_certificate=str(ours.certificate), tls_key=str(ours.key),
        tls_ca=str(authority.pem),
    )  # fmt: skip
    archive = open_archive(settings)
    yield archive.with_services(auth=Auth(archive.index))
    archive.close()


@pytest.fixture
def door(archive: Archive) -> Iterator[Door]:
    """Open TLS doors to the archive, with settings changed; all are closed at the end."""
    opened: list[Acceptor] = []

    def opener(*, plain: bool = False, places: Places | None = None, **changes: Any) -> Acceptor:
        settings = replace(archive.settings, **changes)
        changed = archive.with_services(settings=settings, auth=Auth(archive.index, settings.aes))
        context = None if plain else tls.server_context(settings)
        opened.append(serve(changed, host="127.0.0.1", port=0, ae_title="M3DICOM", tls=context, places=places))
        return opened[-1]

    yield opener
    for each in opened:
        each.close(0)


def client(authority: Authority, certificate: Certificate | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.pem))
    if certificate is not None:
        context.load_cert_chain(certificate.certificate, certificate.key)
    return context


class SecureAssociation(Association):
    """An accepted association over TLS."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext, **request: Any) -> None:
        self._context = context
        super().__init__(address, **request)

    def connect(self, address: tuple[str, int], timeout: float) -> socket.socket:
        return self._context.wrap_socket(super().connect(address, timeout), server_hostname="127.0.0.1")


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def refused(acceptor: Acceptor, context: ssl.SSLContext) -> None:
    """The door does not answer; TLS 1.3 tells the client only when it asks for something."""
    with pytest.raises((ssl.SSLError, ConnectionError)), SecureAssociation(acceptor.address, context) as assoc:
        assoc.echo()


# --- who is let in ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_store_and_echo(
    door: Door, archive: Archive, authority: Authority, theirs: Certificate, version: ssl.TLSVersion
) -> None:
    context = client(authority, theirs)
    context.minimum_version = context.maximum_version = version
    ds = dicom_data.image(1, 900, 700)  # many records
    data = dicom_data.dataset_bytes(ds)
    with SecureAssociation(door().address, context, contexts=CONTEXTS) as assoc:
        assert assoc.echo() == 0
        assert assoc.store(CT, ds.SOPInstanceUID, data)[0x0900] == 0
        assert assoc.echo() == 0
    (location,) = archive.retrieve.locate(SYSTEM, ds.StudyInstanceUID)
    assert archive.retrieve.dataset(location) == data


def test_without_a_certificate_or_with_a_stranger_s(
    door: Door, authority: Authority, theirs: Certificate, stranger: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    acceptor = door()
    for certificate in (None, stranger):
        refused(acceptor, client(authority, certificate))
    assert "TLS with 127.0.0.1 failed" in caplog.text
    with SecureAssociation(door(tls_clients="optional").address, client(authority, None)) as assoc:
        assert assoc.echo() == 0
    refused(door(tls_clients="optional"), client(authority, stranger))


def test_old_versions_and_weak_suites_are_refused(door: Door, authority: Authority, theirs: Certificate) -> None:
    acceptor = door()
    for suites in ("ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES256-SHA", "AES128-GCM-SHA256"):
        context = client(authority, theirs)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(suites)
        refused(acceptor, context)
    hello = bytes.fromhex("16030100300100002c0301") + bytes(32) + bytes.fromhex("000004c013c00a0100")  # TLS 1.0
    with Connection(acceptor.address) as connection:
        answer = b""
        with contextlib.suppress(ConnectionError):  # what was not read makes the end a reset
            connection.send(hello + bytes(60))
            answer = connection.sock.recv(1000)
        assert answer[7:] == b"", "at most an alert"
    assert {each["name"] for each in tls.server_context(settings_of(acceptor)).get_ciphers()} >= {
        "TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES256-GCM-SHA384",
    }  # fmt: skip
    for each in tls.server_context(settings_of(acceptor)).get_ciphers():
        assert each["aead"]
        assert "ECDHE" in each["name"] or each["protocol"] == "TLSv1.3"


def settings_of(acceptor: Acceptor) -> Settings:
    found: Settings = acceptor._archive.settings
    return found


def test_an_ae_is_bound_to_its_certificate_and_to_tls(
    door: Door, authority: Authority, theirs: Certificate, ours: Certificate
) -> None:
    aes = (AE("BOUND", certificate=theirs.fingerprint), AE("SECURE", tls=True), AE("OPEN"))
    secure, plain = door(aes=aes), door(aes=aes, plain=True)
    for calling in ("BOUND", "SECURE", "OPEN"):
        with SecureAssociation(secure.address, client(authority, theirs), calling=calling) as assoc:
            assert assoc.echo() == 0
    for context, calling in ((client(authority, ours), "BOUND"), (client(authority, theirs), "STRANGER")):
        with pytest.raises(Rejected) as caught:
            SecureAssociation(secure.address, context, calling=calling)
        assert caught.value.args == (1, 1, 3)
    for calling in ("BOUND", "SECURE"):
        with pytest.raises(Rejected) as caught:
            Association(plain.address, calling=calling)
        assert caught.value.args == (1, 1, 3)
    with Association(plain.address, calling="OPEN") as assoc:
        assert assoc.echo() == 0


def test_the_doors_share_the_limits(door: Door, authority: Authority, theirs: Certificate) -> None:
    places = Places()
    limits = {"max_associations": 2, "places": places}
    secure, plain = door(**limits), door(plain=True, **limits)
    held = [
        Association(plain.address, contexts=CONTEXTS),
        SecureAssociation(secure.address, client(authority, theirs), contexts=CONTEXTS),
    ]
    for attempt in (
        lambda: Association(plain.address, contexts=CONTEXTS),
        lambda: SecureAssociation(secure.address, client(authority, theirs), contexts=CONTEXTS),
    ):
        with pytest.raises(Rejected) as caught:
            attempt()
        assert caught.value.args == (2, 3, 2)
    for each in held:
        each.release()
        each.sock.close()
    until(lambda: places.taken("127.0.0.1") == (0, 0))


# --- bad manners ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        associate_request(),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\xff\xff" + bytes(200),
        bytes(5000),
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
    ],
    ids=["plain DICOM", "HTTP", "a record that lies", "zeros", "a broken hello"],
)
def test_what_is_no_tls_is_cut(door: Door, authority: Authority, theirs: Certificate, sent: bytes) -> None:
    acceptor = door()
    with Connection(acceptor.address, timeout=DEADLINE_S) as connection:
        received = b""
        with contextlib.suppress(OSError):  # the door may have hung up already
            connection.send(sent)
            connection.sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while got := connection.sock.recv(1000):
                received += got
        assert received == b"" or received[0] == 0x15, "an alert, or nothing"
    with SecureAssociation(acceptor.address, client(authority, theirs)) as assoc:
        assert assoc.echo() == 0


def test_silent_and_half_handshakes_keep_nobody_out(
    door: Door, authority: Authority, theirs: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptor_module, "MAX_WAITING", 60)
    acceptor = door()
    outgoing = ssl.MemoryBIO()
    half = client(authority, theirs).wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="127.0.0.1")
    with contextlib.suppress(ssl.SSLWantReadError):
        half.do_handshake()
    hello = outgoing.read()
    silent = []
    try:
        for number in range(150):
            silent.append(Connection(acceptor.address))
            with contextlib.suppress(OSError):  # dropped already, being the oldest
                silent[-1].send(hello[: (0, 1, 5, 60, len(hello))[number % 5]])
        with SecureAssociation(acceptor.address, client(authority, theirs)) as assoc:
            assert assoc.echo() == 0
        assert acceptor.associations <= 2
    finally:
        for each in silent:
            each.sock.close()


def test_a_handshake_that_does_not_end_is_dropped(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor_module, "FIRST_PDU_S", 0.3)
    with Connection(door().address, timeout=DEADLINE_S) as connection:
        connection.send(b"\x16\x03\x01\x01")
        with contextlib.suppress(ConnectionError):
            assert connection.sock.recv(100) == b""


def test_handshake_byte_by_byte_and_request_with_it(door: Door, authority: Authority, theirs: Certificate) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    stream = client(authority, theirs).wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with Connection(door().address, timeout=DEADLINE_S) as connection:

        def flush() -> None:
            for byte in outgoing.read():
                connection.send(bytes((byte,)))

        while True:
            try:
                stream.do_handshake()
                break
            except ssl.SSLWantReadError:
                flush()
                incoming.write(connection.sock.recv(65536))
        # the end of the handshake, the request and a command travel together
        echo = command({0x0002: VERIFICATION, 0x0100: 0x30, 0x0110: 1, 0x0800: 0x0101})
        stream.write(associate_request() + pdu(4, pdv(1, 3, echo)))
        connection.send(outgoing.read())
        received = b""
        while len(received) < 6 or not received.endswith(struct.pack("<HHIH", 0, 0x0900, 2, 0)):
            try:
                received += stream.read(65536)
            except ssl.SSLWantReadError:
                incoming.write(connection.sock.recv(65536))
        assert received[0] == 2


def test_a_closing_door_says_so_within_tls(door: Door, authority: Authority, theirs: Certificate) -> None:
    acceptor = door()
    assoc = SecureAssociation(acceptor.address, client(authority, theirs))
    acceptor.close(5)
    ended = assoc.ended()
    assoc.sock.close()
    assert ended == (2, 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tls_certificate": ""}, "setting tls_certificate"),
        ({"tls_key": ""}, "setting tls_key"),
        ({"tls_ca": ""}, "setting tls_ca"),
        ({"tls_clients": "maybe"}, "setting tls_clients"),
        ({"tls_certificate": "/nowhere.pem"}, "No such file"),
        ({"tls_ca": "/nowhere.pem"}, "setting tls_ca"),
        ({"tls_ca": "/dev/null"}, "setting tls_ca"),
    ],
)
def test_settings_that_cannot_be(archive: Archive, changes: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        tls.server_context(replace(archive.settings, **changes))


def test_a_key_with_a_passphrase_or_of_another_certificate(
    archive: Archive, theirs: Certificate, tmp_path: Path
) -> None:
    locked = tmp_path / "locked.key"
    openssl = [
        needed("openssl"),
        "pkey",
        "-in",
        str(theirs.key),
        "-aes256",
        "-passout",
        "pass:secret",
        "-out",
        str(locked),
    ]
    subprocess.run(openssl, check=True, capture_output=True)
    for key in (locked, theirs.key):
        with pytest.raises(InvalidInput, match="tls_key"):
            tls.server_context(replace(archive.settings, tls_key=str(key)))


# --- other people's clients and servers -------------------------------------------------------------------------------


def test_dcmtk(
    door: Door, archive: Archive, authority: Authority, theirs: Certificate, stranger: Certificate, tmp_path: Path
) -> None:
    host, port = door(aes=(AE("DCMTK", certificate=theirs.fingerprint),)).address
    ds = dicom_data.image(7)
    (tmp_path / "slice.dcm").write_bytes(dicom_data.part10(ds))

    def run(program: str, certificate: Certificate, *rest: str, title: str = "DCMTK") -> int:
        line = [
            needed(program), "-aet", title, "-aec", "M3DICOM",
            "+tls", str(certificate.key), str(certificate.certificate), "+cf", str(authority.pem),
            host, str(port), *rest,
        ]  # fmt: skip
        return subprocess.run(line, capture_output=True, timeout=DEADLINE_S, check=False).returncode

    assert run("echoscu", theirs) == 0
    assert run("storescu", theirs, str(tmp_path / "slice.dcm")) == 0
    assert len(archive.retrieve.locate(SYSTEM, ds.StudyInstanceUID)) == 1
    assert run("echoscu", stranger) != 0
    assert run("echoscu", theirs, title="OTHER") != 0


def test_pynetdicom(door: Door, authority: Authority, theirs: Certificate) -> None:
    host, port = door().address
    ae = OtherAE("PYNETDICOM")
    ae.add_requested_context(VERIFICATION)
    assoc = ae.associate(host, port, ae_title="M3DICOM", tls_args=(client(authority, theirs), "127.0.0.1"))
    assert assoc.is_established
    assert assoc.send_c_echo().Status == 0
    assoc.release()


@pytest.fixture
def secure_peer(authority: Authority, theirs: Certificate) -> Iterator[int]:
    """The port of an SCP of somebody else's that speaks TLS and wants certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(theirs.certificate, theirs.key)
    context.load_verify_locations(authority.pem)
    context.verify_mode = ssl.CERT_REQUIRED
    ae = OtherAE("PEER")
    ae.add_supported_context(VERIFICATION)
    server = ae.start_server(
        ("127.0.0.1", 0), block=False, ssl_context=context, evt_handlers=[(evt.EVT_C_ECHO, lambda _: 0)]
    )
    yield server.server_address[1]
    server.shutdown()


def test_we_call_with_tls(
    archive: Archive, secure_peer: int, theirs: Certificate, ours: Certificate, stranger: Certificate
) -> None:
    def call(host: str = "127.0.0.1", **bound: Any) -> int:
        remote = remotes.remote(archive.settings, AE("PEER", host, secure_peer, **bound))
        with Requestor.open(remote, "M3DICOM", [(VERIFICATION, [IMPLICIT])]) as assoc:
            return assoc.echo().status

    assert call(tls=True) == 0
    assert call(host="localhost", tls=True) == 0
    assert call(certificate=":".join(theirs.fingerprint[at : at + 2].upper() for at in range(0, 64, 2))) == 0
    with pytest.raises(PeerRefused, match="another TLS certificate"):
        call(certificate=ours.fingerprint)
    with pytest.raises((PeerRefused, PeerUnreachable)):
        call()  # in plain


def test_a_peer_that_nobody_vouches_for_is_not_called(
    archive: Archive, secure_peer: int, stranger: Certificate
) -> None:
    unbelieving = replace(archive.settings, tls_ca=str(stranger.certificate))
    remote = remotes.remote(unbelieving, AE("PEER", "127.0.0.1", secure_peer, tls=True))
    with pytest.raises(PeerRefused, match="no TLS"):
        Requestor.open(remote, "M3DICOM", [(VERIFICATION, [IMPLICIT])])
