"""Pages of other origins in browsers: CORS (WHATWG Fetch 3.2) for those of the setting cors_origins, by default none.

It stands before authentication, since a preflight carries no credentials and a page has to be able to read a 401.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dicomweb import errors
from dicomweb.answers import Answer
from pacs.errors import InvalidInput

ANY = "*"
METHODS = "GET, HEAD, POST, PUT, DELETE, OPTIONS"
EXPOSED = (
    "Accept-Ranges, Allow, Content-Encoding, Content-Length, Content-Location, Content-Range, ETag, Link, Location, "
    "Retry-After, Warning, WWW-Authenticate"
)
PREFLIGHT_S = 600
"""How long a browser may remember a preflight."""

_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+(\s*,\s*[A-Za-z0-9!#$%&'*+.^_`|~-]+){0,63}")


def checked(origins: Iterable[str]) -> frozenset[str]:
    """The origins as browsers write them. Raises InvalidInput naming the one that is none."""
    found = set()
    for text in origins:
        origin = text.strip().lower()
        if origin != ANY and not _is_origin(origin):
            raise InvalidInput(
                f'setting cors_origins: {text!r} is neither an origin like "https://viewer.example" nor "*"'
            )
        found.add(origin)
    return frozenset(found)


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:  # "http://["
        return False
    return parts.scheme in ("http", "https") and parts.netloc != "" and f"{parts.scheme}://{parts.netloc}" == text


def is_allowed(origin: str | None, origins: frozenset[str]) -> bool:
    """Whether a page of that origin may read our answers."""
    return origin is not None and (ANY in origins or origin.lower() in origins)


def told(held: Sequence[tuple[bytes, bytes]], origin: str | None, origins: frozenset[str]) -> list[tuple[bytes, bytes]]:
    """The header fields of an answer, with those that say to a browser whether a page of `origin` may read it."""
    answer = MutableHeaders(raw=list(held))
    if origins:
        answer.add_vary_header("Origin")
        if origin is not None and is_allowed(origin, origins):
            for name, value in _allowed(origin, origins):
                answer[name] = value
            answer["Access-Control-Expose-Headers"] = EXPOSED
    return answer.raw


def _allowed(origin: str, origins: frozenset[str]) -> list[tuple[str, str]]:
    if origin.lower() in origins:
        return [("Access-Control-Allow-Origin", origin), ("Access-Control-Allow-Credentials", "true")]
    return [("Access-Control-Allow-Origin", ANY)]


class Cors:
    """ASGI middleware for every path below `prefix`: preflights are answered here, other answers get the headers.

    A named origin may use credentials; with "*" a page only reads what its own bearer token opens, never what a
    cookie would. Without any origin, nothing is added and preflights are refused.
    """

    def __init__(self, app: ASGIApp, origins: Iterable[str], prefix: str) -> None:
        self.app = app
        self.origins = checked(origins)
        self.prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not (path == self.prefix or path.startswith(self.prefix + "/")):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is not None and scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await self._preflight(origin, headers).send(receive, send)
            return
        if not self.origins:
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = told(message["headers"], origin, self.origins)
            await send(message)

        await self.app(scope, receive, with_headers)

    def _preflight(self, origin: str, headers: Headers) -> Answer:
        vary = ("Vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers")
        if not is_allowed(origin, self.origins):
            detail = "pages of this origin may not use the service; see the setting cors_origins"
            return Answer(403, errors.PROBLEM, [errors.problem(403, detail)], [vary])
        asked = headers.get("access-control-request-headers", "")
        fields = [
            *_allowed(origin, self.origins), vary,
            ("Access-Control-Allow-Methods", METHODS), ("Access-Control-Max-Age", str(PREFLIGHT_S)),
        ]  # fmt: skip
        if _NAMES.fullmatch(asked):
            fields.append(("Access-Control-Allow-Headers", asked))
        return Answer(204, headers=fields)
