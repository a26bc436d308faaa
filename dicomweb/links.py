"""Under which URL the caller reaches the service, for links in answers: as configured, as a proxy says, or as asked.

Pure. What a request says about itself is believed of configured proxies alone, and never beyond what a host can be.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from starlette.datastructures import Headers
from starlette.types import Scope

from pacs.errors import InvalidInput

Network = IPv4Network | IPv6Network

_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]{1,64}){0,8}/?")
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_PORTS = {"http": 80, "https": 443}
_PAIR = re.compile(r'\s*([A-Za-z]+)\s*=\s*(?:"([^"\\]*)"|([^\s;,"]*))\s*(?:;|$)')


def networks(setting: Iterable[str]) -> tuple[Network, ...]:
    """The addresses and networks of the setting trusted_proxies. Raises InvalidInput naming the one that is none."""
    found = []
    for text in setting:
        try:
            found.append(ip_network(text.strip(), strict=False))
        except ValueError:
            raise InvalidInput(f"setting trusted_proxies: {text!r} is no address and no network") from None
    return tuple(found)


def is_url(setting: str) -> bool:
    """Whether the setting public_url is empty, or a URL that links can begin with."""
    scheme, separator, rest = setting.partition("://")
    host, slash, path = rest.partition("/")
    known = scheme in _PORTS and bool(separator) and _HOST.fullmatch(host) is not None
    return not setting or (known and _PREFIX.fullmatch(slash + path) is not None)


TOLD = (b"host", b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host")
"""The header fields on which the address depends where no proxy is trusted."""


def base(scope: Scope, headers: Headers, proxies: Sequence[Network] = ()) -> str:
    """Scheme, host, port and path prefix under which the caller reached the server.

    Raises InvalidInput for a Host header, or what a trusted proxy gives for it, that could carry anything but a host.
    """
    scheme = _SCHEMES.get(scope.get("scheme", "http"), "http")
    name, port = scope.get("server") or ("localhost", None)
    host = headers.get("host", f"{name}:{port}")
    prefix = scope.get("root_path", "")
    said = _forwarded(headers) if proxies and _is_trusted(scope, proxies) else {}
    if said:
        scheme = _SCHEMES.get(said.get("proto", scheme).lower(), scheme)
        host = said.get("host", host)
        if "port" in said and ":" not in host.rpartition("]")[2] and said["port"] != str(_PORTS[scheme]):
            host = f"{host}:{said['port']}"
        prefix = said.get("prefix", "").rstrip("/") + prefix
        if _PREFIX.fullmatch(prefix) is None:
            raise InvalidInput("the X-Forwarded-Prefix header is no path")
    if _HOST.fullmatch(host) is None:
        raise InvalidInput("the Host header is no host name")
    if not said and host in (name, "localhost") and port not in (None, _PORTS[scheme]) and not _is_proxied(headers):
        host = f"{host}:{port}"  # some clients, the Python one among them, leave the port out
    return f"{scheme}://{host}{prefix}"


def _is_trusted(scope: Scope, proxies: Sequence[Network]) -> bool:
    client = scope.get("client")
    try:
        address = ip_address(client[0]) if client else None
    except ValueError:  # a socket without an address
        return False
    return address is not None and any(address.version == each.version and address in each for each in proxies)


def _is_proxied(headers: Headers) -> bool:
    return any(name in headers for name in ("forwarded", "x-forwarded-for", "x-forwarded-host", "via"))


def _forwarded(headers: Headers) -> dict[str, str]:
    """What the nearest proxy says of the request that it got: proto, host, port, prefix, as far as it says it.

    In a list of several the last value is the one that our neighbour wrote; RFC 7239 goes before X-Forwarded-*.
    """
    said = {
        key: value
        for key in ("proto", "host", "port", "prefix")
        if (value := headers.get(f"x-forwarded-{key}", "").rpartition(",")[2].strip())
    }
    last = ",".join(headers.getlist("forwarded")).rpartition(",")[2]
    for found in _PAIR.finditer(last):
        key, value = found[1].lower(), found[2] or found[3]
        if key in ("proto", "host") and value:
            said[key] = value
    return said
