"""The AEs of the settings as callers: by title, from an address that is theirs, with a certificate that is theirs."""

from __future__ import annotations

import ipaddress
import re
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from pacs.errors import Forbidden, InvalidInput

if TYPE_CHECKING:
    from pacs.settings import AE

RESOLVED_S = 60.0
"""How long the addresses of a host name are believed."""

OTHER_CONTENT = ("", "refuse", "quarantine", "replace")
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_])?\.?")


class KnownAEs:
    """Who may call. Safe from any thread. Raises InvalidInput naming the AE that cannot be.

    Without any AE everybody may call, as on a loopback address.
    """

    def __init__(self, aes: Sequence[AE], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._aes: dict[str, AE] = {}
        self._resolved: dict[str, tuple[float, frozenset[str]]] = {}
        for ae in aes:
            title = ae.title.strip()
            if not 1 <= len(title) <= 16 or title in self._aes:
                raise InvalidInput(f"setting aes: title {ae.title!r} is given twice or not of 1 to 16 characters")
            _check(title, ae)
            self._aes[title] = ae

    def __bool__(self) -> bool:
        return bool(self._aes)

    def get(self, title: str) -> AE | None:
        """The AE of that title."""
        return self._aes.get(title.strip())

    def judge(self, title: str, address: str, *, tls: bool, certificate: str) -> AE | None:
        """The AE that calls; None where nobody in particular is known. Raises Forbidden, saying what is wrong.

        `address` is the peer's IP address, `certificate` the SHA-256 of the one it has shown (hex; "" = none).
        """
        if not self._aes:
            return None
        ae = self._aes.get(title)
        if ae is None:
            raise Forbidden("the calling AE title is not configured")
        allowed = ae.addresses or ((ae.host,) if ae.host else ())
        if allowed and not any(self._is_at(address, where) for where in allowed):
            raise Forbidden("the calling AE title belongs to another address")
        # Who is set up for TLS is not believed without it: a title is easily forged
        if (ae.tls or ae.certificate) and not tls:
            raise Forbidden("the calling AE title is only answered on the TLS door")
        if ae.certificate and fingerprint(ae.certificate) != certificate:
            raise Forbidden("the calling AE title belongs to another certificate")
        return ae

    def _is_at(self, address: str, where: str) -> bool:
        caller = ipaddress.ip_address(address.partition("%")[0])
        if "/" in where:
            return caller in ipaddress.ip_network(where, strict=False)
        try:
            return caller == ipaddress.ip_address(where)
        except ValueError:
            return str(caller) in self._addresses(where)

    def _addresses(self, host: str) -> frozenset[str]:
        now = self._clock()
        until, found = self._resolved.get(host, (0.0, frozenset[str]()))
        if until <= now:
            with suppress(OSError, UnicodeError):  # a name server that is down does not make the last answer wrong
                found = frozenset(str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(host, None))
            self._resolved[host] = now + RESOLVED_S, found
        return found


def fingerprint(text: str) -> str:
    """A SHA-256 fingerprint as 64 hex digits, however it was written. Raises InvalidInput."""
    digits = re.sub(r"^sha-?256( fingerprint)?[=: ]", "", text.strip().lower()).replace(":", "").replace(" ", "")
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise InvalidInput(f"{text!r} is no SHA-256 fingerprint of 64 hex digits")
    return digits


def _check(title: str, ae: AE) -> None:
    try:
        if ae.certificate:
            fingerprint(ae.certificate)
        for where in ae.addresses:
            _check_address(where)
        if ae.host:
            if "/" in ae.host:
                raise InvalidInput(f"host {ae.host!r} is a network; give it under addresses")
            _check_address(ae.host)
        if ae.other_content not in OTHER_CONTENT:
            raise InvalidInput(f"other_content {ae.other_content!r} is none of {', '.join(OTHER_CONTENT[1:])}")
    except InvalidInput as error:
        raise InvalidInput(f"setting aes: {title}: {error.reason}") from None


def _check_address(where: str) -> None:
    try:
        if "/" in where:
            ipaddress.ip_network(where, strict=False)
            return
        ipaddress.ip_address(where)
    except ValueError:
        if "/" in where or re.fullmatch(r"[0-9.]+|.*:.*", where) or not _NAME.fullmatch(where):
            raise InvalidInput(f"{where!r} is no host name, address or network") from None
