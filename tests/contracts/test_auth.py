"""Credentials on the real index: what is good for whom, for how long, and how often."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pacs.auth import ALL_RIGHTS, CLINICAL_RIGHTS, Auth, Principal, Right, drop_ended
from pacs.errors import Forbidden, InvalidInput, Unauthenticated
from pacs.index.engine import Index, open_index
from pacs.settings import AE


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = open_index(f"sqlite:///{tmp_path / 'index.db'}")
    yield index
    index.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def auth(index: Index, clock: Clock) -> Auth:
    return Auth(index, clock=clock)


def test_a_token_is_its_holder(auth: Auth) -> None:
    secret = auth.create_token("viewer", frozenset({Right.READ}), scope="ward-3")
    assert auth.authenticate(secret) == Principal("viewer", "token", frozenset({Right.READ}), "ward-3")
    assert [name for name, _, _ in auth.tokens()] == ["viewer"]


def test_wrong_secrets_and_wrong_kinds_are_refused(auth: Auth) -> None:
    secret = auth.create_token("viewer")
    for wrong, kind in ((secret + "x", "token"), ("", "token"), (secret, "session"), (secret, "link")):
        with pytest.raises(Unauthenticated):
            auth.authenticate(wrong, kind)


def test_expiry_is_kept_also_for_remembered_tokens(auth: Auth, clock: Clock) -> None:
    secret = auth.create_token("guest", lifetime_s=1.0)
    assert auth.authenticate(secret).name == "guest"
    assert [name for name, _, _ in auth.tokens()] == ["guest"]
    clock.now += 1.5
    with pytest.raises(Unauthenticated):
        auth.authenticate(secret)
    assert auth.tokens() == []


def test_revocation_ends_tokens_and_sessions_of_a_name(auth: Auth) -> None:
    token = auth.create_token("leaver")
    session = auth.open_session(token, 3600)
    other = auth.create_token("stayer")
    assert auth.revoke_named("leaver") == 2
    for secret, kind in ((token, "token"), (session, "session")):
        with pytest.raises(Unauthenticated):
            auth.authenticate(secret, kind)
    assert auth.authenticate(other).name == "stayer"


def test_another_process_learns_of_a_revocation_within_two_seconds(auth: Auth, index: Index, clock: Clock) -> None:
    elsewhere = Auth(index, clock=clock)
    secret = auth.create_token("leaver")
    elsewhere.authenticate(secret)
    auth.revoke(secret)
    clock.now += 2.1
    with pytest.raises(Unauthenticated):
        elsewhere.authenticate(secret)


def test_a_login_link_opens_one_session(auth: Auth, clock: Clock) -> None:
    code = auth.create_login_link("operator", ALL_RIGHTS, 60)
    session = auth.open_session(code, 3600)
    assert auth.authenticate(session, "session") == Principal("operator", "session", ALL_RIGHTS)
    with pytest.raises(Unauthenticated):
        auth.open_session(code, 3600)
    late = auth.create_login_link("operator", ALL_RIGHTS, 60)
    clock.now += 61
    with pytest.raises(Unauthenticated):
        auth.open_session(late, 3600)
    clock.now += 3600
    with pytest.raises(Unauthenticated):
        auth.authenticate(session, "session")


def test_a_session_does_not_outlive_its_token(auth: Auth, clock: Clock) -> None:
    session = auth.open_session(auth.create_token("guest", lifetime_s=10), 3600)
    clock.now += 9
    assert auth.authenticate(session, "session").name == "guest"
    clock.now += 2
    with pytest.raises(Unauthenticated):
        auth.authenticate(session, "session")


def test_ae_titles(index: Index) -> None:
    open_house = Auth(index)
    assert open_house.ae("ANY", "M3DICOM", "127.0.0.1") == Principal("ANY", "ae", CLINICAL_RIGHTS)
    strict = Auth(index, [AE("CT1", "127.0.0.1", 104, ("store",)), AE("WS1")])
    assert strict.ae("CT1", "M3DICOM", "127.0.0.1").rights == {Right.STORE}
    assert strict.ae("WS1", "M3DICOM", "10.0.0.9").rights == CLINICAL_RIGHTS
    for calling, address in (("CT1", "10.0.0.9"), ("CT2", "127.0.0.1")):
        with pytest.raises(Forbidden):
            strict.ae(calling, "M3DICOM", address)


@pytest.mark.parametrize(
    ("aes", "words"),
    [
        ([AE("CT1", rights=("fly",))], "CT1: 'fly' is not a valid Right"),
        ([AE("CT1"), AE("CT1 ")], "given twice"),
        ([AE("")], "1 to 16"),
        ([AE("A TITLE OF SEVENTEEN")], "1 to 16"),
    ],
)
def test_aes_that_cannot_be_are_refused(index: Index, aes: list[AE], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        Auth(index, aes)


def test_rights_are_required() -> None:
    reader = Principal("r", "token", frozenset({Right.READ}))
    reader.require(Right.READ)
    with pytest.raises(Forbidden, match="may not store"):
        reader.require(Right.STORE)


def test_ended_credentials_go_after_a_while(auth: Auth, clock: Clock, index: Index) -> None:
    auth.create_token("stays")
    auth.create_token("expires", lifetime_s=1.0)
    auth.revoke(auth.create_token("revoked"))
    clock.now += 100
    assert index.transact(lambda conn: drop_ended(conn, clock.now - 200)) == 0
    assert index.transact(lambda conn: drop_ended(conn, clock.now - 50)) == 2
    assert [name for name, _, _ in auth.tokens()] == ["stays"]
