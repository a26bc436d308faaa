"""User identity negotiation (PS3.7 D.3.3.7): tokens as passcode and as JWT, what is no identity, and malformed ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dicom_data
import pytest
from dimse_client import (
    CT,
    EXPLICIT,
    IMPLICIT,
    STUDY_FIND,
    VERIFICATION,
    Aborted,
    Association,
    Rejected,
    implicit,
    item,
)  # fmt: skip
from pynetdicom import AE as OtherAE
from pynetdicom.pdu_primitives import UserIdentityNegotiation

from pacs.archive import Archive, open_archive
from pacs.auth import SYSTEM, Auth, Right
from pacs.dimse.acceptor import Acceptor, serve
from pacs.settings import AE, Settings

CONTEXTS = ((CT, (EXPLICIT,)), (VERIFICATION, (IMPLICIT,)), (STUDY_FIND, (IMPLICIT,)))
RESPONSE = 0x59
QUERY_STUDIES = implicit({0x00080052: "STUDY", 0x0020000D: ""})
Door = Callable[..., Acceptor]


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    archive = open_archive(Settings(data=tmp_path))
    yield archive.with_services(auth=Auth(archive.index))
    archive.close()


@pytest.fixture
def door(archive: Archive) -> Iterator[Door]:
    opened: list[Acceptor] = []

    def opener(mode: str, **changes: Any) -> Acceptor:
        settings = replace(archive.settings, dimse_identity=mode, **changes)
        changed = archive.with_services(settings=settings, auth=Auth(archive.index, settings.aes))
        opened.append(serve(changed, host="127.0.0.1", port=0, ae_title="M3DICOM"))
        return opened[-1]

    yield opener
    for each in opened:
        each.close(0)


@pytest.fixture
def token(archive: Archive) -> str:
    made: str = archive.auth.create_token("reader", frozenset({Right.QUERY, Right.READ}))
    return made


def offered(kind: int, primary: str | bytes, secondary: str | bytes = b"", *, asked: bool = True) -> bytes:
    first, second = (each.encode() if isinstance(each, str) else each for each in (primary, secondary))
    return item(0x58, bytes((kind, asked)) + len(first).to_bytes(2) + first + len(second).to_bytes(2) + second)


def answer(acceptor: Acceptor, identity: bytes, **request: Any) -> bytes | None:
    """The server response, None where there is none; the association works."""
    with Association(acceptor.address, contexts=CONTEXTS, user_items=identity, **request) as assoc:
        assert assoc.echo() == 0
        return dict(assoc.user).get(RESPONSE)


def rejected(acceptor: Acceptor, identity: bytes) -> None:
    with pytest.raises(Rejected) as caught:
        Association(acceptor.address, contexts=CONTEXTS, user_items=identity)
    assert caught.value.args == (1, 1, 1)


def test_a_good_token(door: Door, token: str) -> None:
    for acceptor in (door("check"), door("require")):
        assert answer(acceptor, offered(2, "reader", token)) == b"\0\0"
        assert answer(acceptor, offered(2, "reader", token, asked=False)) is None
        assert answer(acceptor, offered(5, token)) == b"\0\0"
    # and where nobody looks, nobody answers
    assert answer(door("ignore"), offered(2, "reader", token)) is None


@pytest.mark.parametrize(
    "identity",
    [
        lambda token: offered(2, "reader", "m3d_wrong"),
        lambda token: offered(2, "somebody", token),
        lambda token: offered(2, "", token),
        lambda token: offered(2, "reader", ""),
        lambda token: offered(2, "", ""),
        lambda token: offered(2, b"\xff\xfe", token),
        lambda token: offered(5, ""),
        lambda token: offered(5, token[:-1]),
        lambda token: offered(5, token.upper()),
        lambda token: offered(5, "x" * 60_000),
        lambda token: offered(5, "eyJhbGciOiJub25lIn0.eyJzdWIiOiJyZWFkZXIifQ."),
    ],
)
def test_a_wrong_one_is_rejected(
    door: Door, token: str, identity: Callable[[str], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    acceptor = door("check")
    rejected(acceptor, identity(token))
    assert token not in caplog.text
    assert answer(acceptor, b"") is None


@pytest.mark.parametrize("kind", [0, 1, 3, 4, 6, 255])
def test_what_proves_nothing_is_no_identity(door: Door, kind: int) -> None:
    assert answer(door("check"), offered(kind, "reader")) is None
    assert answer(door("check"), offered(kind, "")) is None
    rejected(door("require"), offered(kind, "reader"))


def test_none_where_one_is_required(door: Door) -> None:
    rejected(door("require"), b"")


@pytest.mark.parametrize(
    "sub_item", [b"", b"\2", b"\2\1", b"\2\1\0\4us", b"\2\1\0\0", b"\2\1\xff\xffuser", b"\2\1\0\0\0\4pa"]
)
@pytest.mark.parametrize("mode", ["ignore", "check"])
def test_broken_off_is_aborted(door: Door, mode: str, sub_item: bytes) -> None:
    acceptor = door(mode)
    with pytest.raises(Aborted):
        Association(acceptor.address, contexts=CONTEXTS, user_items=item(0x58, sub_item))
    assert answer(acceptor, b"") is None


def test_a_revoked_token(door: Door, archive: Archive, token: str) -> None:
    archive.auth.revoke_named("reader")
    rejected(door("check"), offered(5, token))


def test_rights_are_those_that_both_have(door: Door, archive: Archive, token: str) -> None:
    everything: str = archive.auth.create_token("root", frozenset(Right))
    acceptor = door("check", aes=(AE("STORER", rights=("store",)), AE("TESTER")))
    ds = dicom_data.image(1)
    data = dicom_data.dataset_bytes(ds)
    for calling, secret, may_store, may_query in (
        ("TESTER", token, False, True), ("TESTER", everything, True, True),
        ("STORER", token, False, False), ("STORER", everything, True, False),
    ):  # fmt: skip
        with Association(acceptor.address, contexts=CONTEXTS, calling=calling, user_items=offered(5, secret)) as assoc:
            assert assoc.store(CT, ds.SOPInstanceUID, data)[0x0900] == (0 if may_store else 0x0124)
            assert assoc.find(QUERY_STUDIES)[0][0x0900] == (0 if may_query else 0x0124)
    (event, *_) = [each for each in archive.audit.query() if each.sop_instance_uid == ds.SOPInstanceUID]
    assert (event.principal, event.principal_kind) == ("root", "token")
    (location,) = archive.retrieve.locate(SYSTEM, ds.StudyInstanceUID)
    assert location.source_ae == "TESTER", "who sent it is the AE all the same"


def test_pynetdicom(door: Door, token: str) -> None:
    host, port = door("require").address
    ae = OtherAE("PYNETDICOM")
    ae.add_requested_context(VERIFICATION)
    identity = UserIdentityNegotiation()
    identity.user_identity_type = 2
    identity.primary_field, identity.secondary_field = b"reader", token.encode()
    identity.positive_response_requested = True
    assoc = ae.associate(host, port, ae_title="M3DICOM", ext_neg=[identity])
    assert assoc.is_established
    assert any(
        isinstance(each, UserIdentityNegotiation) and each.server_response == b""
        for each in assoc.acceptor.user_information
    )
    assert assoc.send_c_echo().Status == 0
    assoc.release()
    identity.secondary_field = b"wrong"
    assoc = ae.associate(host, port, ae_title="M3DICOM", ext_neg=[identity])
    assert assoc.is_rejected


def test_requests_that_offer_two(door: Door, token: str) -> None:
    """The standard allows one; the last is taken, and a wrong one is never hidden behind a good one."""
    acceptor = door("check")
    rejected(acceptor, offered(5, token) + offered(5, "wrong"))
