"""An HTTP client that sends exactly what it is told, and remembers request and answer without their secrets.

It is built on the standard library's `http.client`, so that nothing normalises a URL or adds a header on the way.
"""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import socket
import ssl
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

from conformance.check import NoAnswer
from conformance.multipart import Part, content_type, split

JSON = "application/dicom+json"
XML = "application/dicom+xml"
TOLD = (
    "content-type", "warning", "location", "content-location", "allow", "retry-after", "etag",
    "content-encoding", "content-range", "www-authenticate", "access-control-allow-origin",
)  # fmt: skip
"""The headers of an answer that a report shows."""
SECRET = ("authorization", "cookie", "proxy-authorization")


@dataclass(frozen=True)
class Answer:
    """A request and what came back."""

    method: str
    url: str
    sent: tuple[tuple[str, str], ...]
    status: int
    headers: tuple[tuple[str, str], ...]
    raw: bytes = field(repr=False)
    sent_bytes: int = 0

    @property
    def body(self) -> bytes:
        """The body without its Content-Encoding."""
        coding = self.header("Content-Encoding").lower()
        if not self.raw or coding in ("", "identity"):
            return self.raw
        try:
            return gzip.decompress(self.raw) if coding in ("gzip", "x-gzip") else zlib.decompress(self.raw)
        except (OSError, EOFError, zlib.error) as error:
            raise NoAnswer(f"the body is not {coding}: {error}") from error

    def header(self, name: str) -> str:
        """All values of a header, joined by commas; empty where it is absent."""
        return ", ".join(value for key, value in self.headers if key.lower() == name.lower())

    @property
    def type(self) -> str:
        """The media type without parameters, in lower case."""
        return content_type(self.header("Content-Type"))[0]

    @property
    def parameters(self) -> Mapping[str, str]:
        """The parameters of the media type; names in lower case, values unquoted."""
        return content_type(self.header("Content-Type"))[1]

    def json(self) -> Any:
        """The body as JSON (RFC 8259: no NaN, no duplicate keys). Raises ValueError, also for no JSON at all."""
        return json.loads(self.body.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_no_twice)

    def objects(self) -> list[dict[str, Any]]:
        """The DICOM JSON objects of the answer; empty for 204. Raises ValueError where it is no array of objects."""
        if self.status == 204 or not self.raw:
            return []
        found = self.json()
        if isinstance(found, dict):
            return [found]
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise ValueError("not an array of objects")
        return found

    def parts(self) -> list[Part]:
        """The parts of a multipart body. Raises ValueError where it is none, or broken."""
        return split(self.header("Content-Type"), self.body)

    @property
    def request(self) -> str:
        """The request in words, for a report."""
        lines = [f"{self.method} {self.url}"]
        lines += [f"{name}: {'…' if name.lower() in SECRET else value}" for name, value in self.sent]
        return "\n".join(lines) + (f"\n({self.sent_bytes} bytes)" if self.sent_bytes else "")

    @property
    def seen(self) -> str:
        """The answer in words, for a report: status, the headers that matter, the beginning of a short text."""
        lines = [str(self.status), *(f"{name}: {value}" for name, value in self.headers if name.lower() in TOLD)]
        text = self.body[:2000] if self.type.startswith(("text/", "application/json", JSON, XML)) else b""
        lines.append(" ".join(text.decode("utf-8", "replace").split())[:400] or f"({len(self.raw)} bytes)")
        return "\n".join(lines)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON (RFC 8259 section 6)")


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def xml(text: bytes) -> ElementTree.Element:
    """The root of an XML document. Raises ValueError where it is none, or brings a DOCTYPE (entities of its own)."""
    if b"<!DOCTYPE" in text:
        raise ValueError("the document has a DOCTYPE")
    try:
        return ElementTree.fromstring(text)  # noqa: S314  (no DOCTYPE, so no entities to expand)
    except ElementTree.ParseError as error:
        raise ValueError(f"not well-formed XML: {error}") from error


Query = str | Sequence[tuple[str, str]]


class Web:
    """A DICOMweb service under one base URL, asked over one kept connection."""

    def __init__(
        self,
        base: str,
        *,
        token: str = "",
        user: str = "",
        headers: Iterable[tuple[str, str]] = (),
        timeout_s: float = 60.0,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """`user` is `name:password` for Basic authentication; `headers` go with every request."""
        self.base = base.rstrip("/")
        self.timeout_s = timeout_s
        self.context = context
        self.secrets: list[tuple[str, str]] = list(headers)
        if token:
            self.secrets.append(("Authorization", f"Bearer {token}"))
        elif user:
            self.secrets.append(("Authorization", "Basic " + base64.b64encode(user.encode()).decode()))
        self._connections: dict[tuple[str, str], http.client.HTTPConnection] = {}
        self.unavailable: list[Answer] = []
        """The answers that were 503."""

    def close(self) -> None:
        """Give the connections back."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def get(self, path: str, query: Query = "", *, accept: str | None = JSON, **headers: str) -> Answer:
        """GET below the base; header names in keywords are written with `_` for `-`."""
        named = {name.replace("_", "-").title(): value for name, value in headers.items()}
        return self.request("GET", path, query, accept=accept, headers=named)

    def post(self, path: str, body: bytes, type: str, *, query: Query = "", accept: str | None = JSON) -> Answer:
        """POST a body of a media type."""
        return self.request("POST", path, query, accept=accept, headers={"Content-Type": type}, body=body)

    def request(
        self,
        method: str,
        path: str,
        query: Query = "",
        *,
        accept: str | None = JSON,
        headers: Mapping[str, str] | None = None,
        body: bytes | Iterable[bytes] | None = None,
        anonymous: bool = False,
    ) -> Answer:
        """The answer to one request; `path` is below the base, or a whole URL as the server wrote it.

        `accept=None` sends no Accept header at all. A body that is not bytes goes chunked. Credentials only go to the
        host of the base. Raises NoAnswer where none came, or a broken one.
        """
        url = path if path.startswith(("http://", "https://")) else self.base + path
        if query:
            url += ("&" if "?" in url else "?") + (query if isinstance(query, str) else encode(query))
        parts, home = urlsplit(url), urlsplit(self.base)
        sent = dict(headers or {})
        if accept is not None:
            sent.setdefault("Accept", accept)
        if (parts.scheme, parts.netloc) == (home.scheme, home.netloc) and not anonymous:
            sent = {**dict(self.secrets), **sent}
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        chunked = body is not None and not isinstance(body, bytes)
        for attempt in (1, 2):
            connection, fresh = self._connection(parts.scheme, parts.netloc)
            try:
                connection.request(method, target, body, headers=sent, encode_chunked=chunked)
                response = connection.getresponse()
                content = response.read()
                break
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                del self._connections[parts.scheme, parts.netloc]
                stale = isinstance(error, (http.client.BadStatusLine, ConnectionError, BrokenPipeError))
                if attempt == 2 or fresh or chunked or not stale:
                    shown = f"{method} {url}: {type(error).__name__} {error}".rstrip()
                    raise NoAnswer(shown) from error
        length = len(body) if isinstance(body, bytes) else 0
        secret = {name.lower() for name, _ in self.secrets}
        told = tuple((name, "…" if name.lower() in secret else value) for name, value in sent.items())
        answer = Answer(method, url, told, response.status, tuple(response.getheaders()), content, length)
        if answer.status == 503:
            self.unavailable.append(answer)
        return answer

    def _connection(self, scheme: str, place: str) -> tuple[http.client.HTTPConnection, bool]:
        kept = self._connections.get((scheme, place))
        if kept is not None and kept.sock is not None:
            return kept, False
        if scheme == "https":
            context = self.context or ssl.create_default_context()
            made: http.client.HTTPConnection = http.client.HTTPSConnection(
                place, timeout=self.timeout_s, context=context
            )
        else:
            made = http.client.HTTPConnection(place, timeout=self.timeout_s)
        self._connections[scheme, place] = made
        return made, True

    def reachable(self) -> None:
        """Nothing where somebody listens at the base, and speaks TLS that is trusted where that is HTTPS.

        Raises NoAnswer otherwise.
        """
        parts = urlsplit(self.base)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            plain = socket.create_connection((parts.hostname or "", port), timeout=min(self.timeout_s, 10))
        except OSError as error:
            raise NoAnswer(f"nothing listens at {parts.hostname}:{port}: {error}") from error
        with plain:
            if parts.scheme != "https":
                return
            tls = self.context or ssl.create_default_context()
            try:
                tls.wrap_socket(plain, server_hostname=parts.hostname).close()
            except OSError as error:
                hint = "; --ca names whom to trust, --insecure trusts anybody" if "CERTIFICATE" in str(error) else ""
                raise NoAnswer(f"no TLS with {parts.hostname}:{port}: {error}{hint}") from error

    def let_in(self) -> None:
        """Nothing where the credentials open the service. Raises NoAnswer where they, or the want of any, do not."""
        answer = self.get("/studies", "limit=1")
        if answer.status == 401:
            given = "the credentials that were given are" if self.secrets else "no credentials were given, which is"
            raise NoAnswer(f"{self.base} answers 401: {given} not enough (--token, --user, --header)")


def encode(pairs: Sequence[tuple[str, str]]) -> str:
    """A query string with everything percent-encoded that RFC 3986 reserves."""
    return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in pairs)
