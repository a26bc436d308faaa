"""GET /metrics for Prometheus: a route of the server, and a door of its own for a worker, which has no other.

Both ask for a bearer token with the right `metrics` (or `admin`): how much waits for whom is nobody else's business.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from analysis.metrics import CONTENT_TYPE, Family, text
from pacs.auth import Principal, Right
from pacs.errors import Forbidden, Unauthenticated, Unavailable
from pacs.server.http import problem

if TYPE_CHECKING:
    from pacs.auth import Auth
    from pacs.dimse.acceptor import Places
    from pacs.dimse.crew import Crew
    from pacs.server.doors import Door

PATH = "/metrics"
Exposition = Callable[[], str]


def _allowed(principal: Principal) -> None:
    if Right.ADMIN not in principal.rights:
        principal.require(Right.METRICS)


def of_dimse(places: Places, crew: Crew | None, wanted: int) -> str:
    """The metrics of the DIMSE doors: associations, and the attendants that serve them."""
    families = [Family("m3dicom_dimse_associations", "gauge", "Associations that are open.", [({}, places.total)])]
    if crew is not None:
        states = [({"state": "serving"}, crew.ready), ({"state": "wanted"}, wanted)]
        told = "Processes that serve associations, and how many there should be."
        families.append(Family("m3dicom_dimse_attendants", "gauge", told, states))
    return text(families)


def route(exposition: Exposition) -> Route:
    """The route of a server; who asks is settled before."""

    async def metrics(request: Request) -> Response:
        try:
            _allowed(request.state.principal)
            told = await anyio.to_thread.run_sync(exposition)
        except Forbidden as error:
            return problem(403, "Forbidden", error.reason)
        except Unavailable as error:
            return problem(503, "Service Unavailable", error.reason, {"Retry-After": "5"})
        return PlainTextResponse(told, media_type=CONTENT_TYPE, headers={"Cache-Control": "no-store"})

    return Route(PATH, metrics)


class MetricsDoor:
    """The HTTP door of a worker: /metrics, and /health/live for those who watch over processes."""

    def __init__(self, door: Door, auth: Auth, exposition: Exposition) -> None:
        """Open it. Raises OSError where the address is taken."""

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                if self.path == "/health/live":
                    self._answer(200, "live\n")
                elif self.path.partition("?")[0] != PATH:
                    self._answer(404, "there is nothing at this address\n")
                else:
                    self._metrics()

            def _metrics(self) -> None:
                scheme, _, token = self.headers.get("Authorization", "").partition(" ")
                try:
                    if scheme.lower() != "bearer":
                        raise Unauthenticated("a bearer token is needed")
                    _allowed(auth.authenticate(token.strip(), "token"))
                    self._answer(200, exposition())
                except Unauthenticated as error:
                    self._answer(401, f"{error.reason}\n")
                except Forbidden as error:
                    self._answer(403, f"{error.reason}\n")
                except Unavailable as error:
                    self._answer(503, f"{error.reason}\n")

            def _answer(self, status: int, text: str) -> None:
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", CONTENT_TYPE)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Cache-Control", "no-store")
                if status == 401:
                    self.send_header("WWW-Authenticate", 'Bearer realm="m3dicom"')
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Scrapes are no news."""

        self._server = ThreadingHTTPServer((door.host, door.port), Handler)
        self._server.daemon_threads = True
        self.address = f"{door.host}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
