"""The HTTP application: who asks is settled here once, then DICOMweb, /api, health and the viewer are mounted."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio.to_thread
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dicomweb.cors import Cors
from dicomweb.dispatch import Service
from dicomweb.websocket import BEARER
from pacs.errors import Unauthenticated, Unavailable

if TYPE_CHECKING:
    from pacs.auth import Auth, Principal

SESSION_COOKIE = "m3dicom_session"
OPEN_PATHS = ("/api", "/api/openapi.json", "/api/login", "/api/logout")
GUARDED_PREFIXES = ("/dicom-web", "/api", "/metrics")
SMALL_BODY_BYTES = 64 << 10
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self'; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_HEADERS = [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in SECURITY_HEADERS.items()]
_GUARDED_HEADERS = [*_HEADERS, (b"cache-control", b"no-store")]


def problem(status: int, title: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """A problem+json answer (RFC 9457)."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return JSONResponse(body, status, headers, "application/problem+json")


async def small_json(request: Request, limit: int = SMALL_BODY_BYTES) -> dict[str, Any]:
    """The JSON object in the request's body; empty where there is none, or one of more than `limit` bytes."""
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > limit:
            return {}
    try:
        body = json.loads(raw)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def session_of(headers: Headers) -> str | None:
    """The session secret in the request's cookies."""
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(SESSION_COOKIE)
    except CookieError:
        return None
    return morsel.value if morsel else None


def from_same_origin(headers: Headers) -> bool:
    """Whether a browser vouches that the request comes from a page of ours; needed where a cookie is the credential."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = headers.get("origin")
    try:
        return origin is not None and urlsplit(origin).netloc == headers.get("host")
    except ValueError:  # "http://[" is the origin of no page
        return False


class Authentication:
    """ASGI middleware: under a guarded path, a principal in `request.state.principal`, or 401, 403 or 503.

    For a WebSocket, whose origin is judged where it is answered, these are the answers to its handshake.
    """

    def __init__(self, app: ASGIApp, auth: Auth) -> None:
        self.app = app
        self.auth = auth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or not _guarded(scope["path"]):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            credential = credential_of(scope, headers)
            by_cookie = credential[1] == "session"
            if by_cookie and scope.get("method", "GET") not in SAFE_METHODS and not from_same_origin(headers):
                await problem(403, "Forbidden", "the request comes from another site")(scope, receive, send)
                return
            principal = self.auth.remembered(*credential)
            if principal is None:
                principal = await anyio.to_thread.run_sync(self.auth.authenticate, *credential)
        except Unauthenticated as error:
            challenge = {"WWW-Authenticate": 'Bearer realm="m3dicom"'}
            await problem(401, "Unauthorized", error.reason, challenge)(scope, receive, send)
            return
        except Unavailable as error:  # nobody can be known while the index is away
            await problem(503, "Service Unavailable", error.reason, {"Retry-After": "5"})(scope, receive, send)
            return
        known(scope, self.auth, principal, credential)
        await self.app(scope, receive, send)


def known(scope: Scope, auth: Auth, principal: Principal, credential: tuple[str, str]) -> None:
    """Say in the ASGI state who asks, and by what."""
    again = partial(auth.authenticate, *credential)  # for answers that outlive a revocation
    scope.setdefault("state", {}).update(principal=principal, authenticate=again, credential=credential)


def credential_of(scope: Scope, headers: Headers) -> tuple[str, str]:
    """What a request shows of who asks, as `Auth.authenticate` takes it: a bearer token or a session.

    Raises Unauthenticated.
    """
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scope["type"] == "websocket":
        scheme, token = _socket_token(scope) or (scheme, token)
    if scheme:
        if scheme.lower() != "bearer":
            raise Unauthenticated("only bearer tokens are understood")
        return token.strip(), "token"
    session = session_of(headers)
    if session is None:
        raise Unauthenticated("a bearer token or a login is needed")
    return session, "session"


def _socket_token(scope: Scope) -> tuple[str, str] | None:
    """The token that a page gives as a subprotocol, since it cannot set header fields of a WebSocket."""
    offered = (name for name in scope.get("subprotocols", ()) if name.startswith(BEARER))
    return next((("bearer", name.removeprefix(BEARER)) for name in offered), None)


def _guarded(path: str) -> bool:
    return path not in OPEN_PATHS and any(path == p or path.startswith(p + "/") for p in GUARDED_PREFIXES)


Fields = Sequence[tuple[bytes, bytes]]


def secured(held: Fields, wanted: Fields = _GUARDED_HEADERS) -> list[tuple[bytes, bytes]]:
    """The header fields of an answer, by default of one that only a principal gets, with those of ours it lacks."""
    given = {name.lower() for name, _ in held}
    return [*held, *(field for field in wanted if field[0] not in given)]


class SecurityHeaders:
    """ASGI middleware: the headers that keep a browser from doing with an answer what it is not meant for."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        wanted = _GUARDED_HEADERS if _guarded(scope["path"]) else _HEADERS

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = secured(message.get("headers", ()), wanted)
            await send(message)

        await self.app(scope, receive, with_headers)


@dataclass(frozen=True)
class Health:
    """What keeps the server from its work (`problems`), and what is wrong without doing so (`warnings`), by name."""

    problems: dict[str, str]
    warnings: dict[str, str] = field(default_factory=dict)


def health_routes(health: Callable[[], Health]) -> list[BaseRoute]:
    """/health/live: this process answers. /health/ready: everything it needs does, or 503 naming what does not."""

    async def live(_: Request) -> JSONResponse:
        return JSONResponse({"status": "live"}, headers={"Cache-Control": "no-store"})

    async def ready(_: Request) -> JSONResponse:
        found = await anyio.to_thread.run_sync(health)
        body: dict[str, object] = {"status": "not ready" if found.problems else "ready"}
        body |= {"problems": found.problems} if found.problems else {}
        body |= {"warnings": found.warnings} if found.warnings else {}
        return JSONResponse(body, 503 if found.problems else 200, {"Cache-Control": "no-store"})

    return [Route("/health/live", live), Route("/health/ready", ready)]


class _Front:
    """ASGI application: requests of DICOMweb go there at once, past the router that all others are looked up in."""

    def __init__(self, services: Sequence[Service], app: ASGIApp) -> None:
        self.services = services
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            for service in self.services:
                if service.covers(scope["path"]):
                    await service(scope, receive, send)
                    return
        await self.app(scope, receive, send)


def application(auth: Auth, routes: Sequence[BaseRoute], cors_origins: Sequence[str] = ()) -> ASGIApp:
    """The whole application: `routes` behind authentication, every answer with the security headers.

    Pages of `cors_origins` may use the DICOMweb service from elsewhere.
    """

    async def not_found(request: Request, _: Exception) -> JSONResponse:
        return problem(404, "Not Found", "there is nothing at this address")

    async def not_possible(request: Request, error: Exception) -> JSONResponse:
        headers = error.headers if isinstance(error, HTTPException) else None  # Allow
        return problem(405, "Method Not Allowed", f"{request.method} is not possible here", dict(headers or {}))

    async def failed(request: Request, _: Exception) -> JSONResponse:
        return problem(500, "Internal Server Error", "the server failed; its log says where")

    app = _Front(
        [route for route in routes if isinstance(route, Service)],
        Starlette(routes=routes, exception_handlers={404: not_found, 405: not_possible, 500: failed}),
    )
    return SecurityHeaders(Cors(Authentication(app, auth), cors_origins, GUARDED_PREFIXES[0]))


def dumps(value: object) -> str:
    """Compact JSON for an event stream."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
