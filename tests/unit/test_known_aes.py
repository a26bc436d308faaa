"""Who may call: titles, addresses in every spelling, certificates, and no way around TLS."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from pacs.errors import Forbidden, InvalidInput
from pacs.known_aes import RESOLVED_S, KnownAEs, fingerprint
from pacs.settings import AE

PRINT = "ab" * 32


@pytest.mark.parametrize(
    ("ae", "address", "welcome"),
    [
        (AE("CT"), "203.0.113.9", True),
        (AE("CT", host="10.1.2.3"), "10.1.2.3", True),
        (AE("CT", host="10.1.2.3"), "10.1.2.4", False),
        (AE("CT", host="10.1.2.3", addresses=("10.9.0.0/16",)), "10.9.200.1", True),
        (AE("CT", host="10.1.2.3", addresses=("10.9.0.0/16",)), "10.1.2.3", False),
        (AE("CT", addresses=("10.9.0.0/16", "192.0.2.7")), "192.0.2.7", True),
        (AE("CT", addresses=("10.9.7.7/16",)), "10.9.1.1", True),
        (AE("CT", addresses=("10.9.0.0/16",)), "10.10.0.1", False),
        (AE("CT", addresses=("2001:db8::/32",)), "2001:db8:0:1::5", True),
        (AE("CT", addresses=("2001:DB8:0::5",)), "2001:db8::5", True),
        (AE("CT", addresses=("fe80::/10",)), "fe80::1%eth0", True),
        (AE("CT", addresses=("2001:db8::/32",)), "10.0.0.1", False),
        (AE("CT", host="localhost"), "127.0.0.1", True),
        (AE("CT", host="localhost"), "127.0.0.2", False),
    ],
)
def test_addresses(ae: AE, address: str, welcome: bool) -> None:
    known = KnownAEs([ae])
    if welcome:
        assert known.judge("CT", address, tls=False, certificate="") is ae
    else:
        with pytest.raises(Forbidden, match="another address"):
            known.judge("CT", address, tls=False, certificate="")


@pytest.mark.parametrize(
    ("ae", "tls", "certificate", "words"),
    [
        (AE("CT", tls=True), True, "", ""),
        (AE("CT", tls=True), False, "", "only answered on the TLS door"),
        (AE("CT", certificate=PRINT), True, PRINT, ""),
        (AE("CT", certificate="AB:" * 31 + "AB"), True, PRINT, ""),
        (AE("CT", certificate=PRINT), False, "", "only answered on the TLS door"),
        (AE("CT", certificate=PRINT), True, "", "another certificate"),
        (AE("CT", certificate=PRINT), True, "cd" * 32, "another certificate"),
        (AE("MR"), True, PRINT, "not configured"),
    ],
)
def test_certificates(ae: AE, tls: bool, certificate: str, words: str) -> None:
    known = KnownAEs([ae])
    if not words:
        assert known.judge("CT", "10.0.0.1", tls=tls, certificate=certificate) is ae
        return
    with pytest.raises(Forbidden, match=words):
        known.judge("CT", "10.0.0.1", tls=tls, certificate=certificate)


def test_without_aes_nobody_is_anybody() -> None:
    assert KnownAEs([]).judge("WHO", "10.0.0.1", tls=False, certificate="") is None


def test_names_are_looked_up_now_and_then_and_their_last_answer_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    answers: list[Any] = ["10.0.0.1", OSError("the name server is down"), "10.0.0.2"]

    def look_up(host: str, *_: object) -> list[Any]:
        asked.append(host)
        answer = answers[len(asked) - 1]
        if isinstance(answer, OSError):
            raise answer
        return [(socket.AF_INET, 0, 0, "", (answer, 0))]

    now = 0.0
    known = KnownAEs([AE("CT", host="ct.example")], clock=lambda: now)
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    for _ in range(3):
        known.judge("CT", "10.0.0.1", tls=False, certificate="")
    assert asked == ["ct.example"]
    now += RESOLVED_S + 1
    known.judge("CT", "10.0.0.1", tls=False, certificate="")
    now += RESOLVED_S + 1
    known.judge("CT", "10.0.0.2", tls=False, certificate="")
    with pytest.raises(Forbidden):
        known.judge("CT", "10.0.0.1", tls=False, certificate="")
    assert len(asked) == 3


@pytest.mark.parametrize(
    "text",
    [
        PRINT, PRINT.upper(), ":".join([PRINT[:2]] * 32), f"SHA256 Fingerprint={PRINT}", f"sha256:{PRINT}",
        f" {PRINT}\n",
    ],
)  # fmt: skip
def test_fingerprints_as_tools_print_them(text: str) -> None:
    assert fingerprint(text) == PRINT


@pytest.mark.parametrize("text", ["", "ab" * 20, "zz" * 32, PRINT + "00"])
def test_what_is_no_fingerprint(text: str) -> None:
    with pytest.raises(InvalidInput):
        fingerprint(text)


@pytest.mark.parametrize("where", ["", "10.0.0.256", "10.0.0.0/33", "a b", "-x", "http://x", "::g", "x/24"])
def test_what_is_no_address(where: str) -> None:
    with pytest.raises(InvalidInput, match="setting aes: CT"):
        KnownAEs([AE("CT", addresses=(where,))])
