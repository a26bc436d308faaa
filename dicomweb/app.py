"""The DICOMweb service as routes: dispatch by method, errors as problem+json, one place where failures are reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import anyio
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.types import Message, Receive, Scope, Send

from dicomweb import capabilities, errors, links
from dicomweb.answers import Answer
from dicomweb.calls import MADE, PREPARING_THREADS, RECEIVING_THREADS, RECEIVING_TO_DISK, Call, Rendition, Waits, Web
from dicomweb.dispatch import Prompt, Service
from dicomweb.media_types import NotAcceptable
from dicomweb.routes import SOCKETS, TABLE, UNSUPPORTED, Row
from dicomweb.websocket import Door
from pacs.errors import ArchiveError

if TYPE_CHECKING:
    from pacs.archive import Archive

DEFAULT_ROOT = "/dicom-web"

AT_ONCE = ("QIDO-RS", "WADO-RS")
"""The services whose handlers change nothing before they first wait: they may be begun, and begun again."""


def create(archive: Archive, *, root: str = DEFAULT_ROOT, renditions: Mapping[str, Rendition]) -> list[BaseRoute]:
    """The resources of PS3.18 under `root`: the paths of `dicomweb.routes.TABLE` as one route, then its WebSockets.

    Who asks is expected in the ASGI state as `principal`. `renditions` make the `rendered` resource of instances that
    are no images, by media type. Raises InvalidInput for the setting trusted_proxies.
    """
    root = root.rstrip("/")
    proxies = links.networks(archive.settings.trusted_proxies)
    cpu = anyio.CapacityLimiter(max(2, archive.settings.decoders))
    to_disk = archive.settings.objects == "files"
    receiving = anyio.CapacityLimiter(RECEIVING_TO_DISK if to_disk else RECEIVING_THREADS)
    waits_for_nobody = to_disk and archive.index.dialect == "sqlite"
    preparing = None if waits_for_nobody else ThreadPoolExecutor(PREPARING_THREADS, "stow")
    web = Web(archive, root, dict(renditions), proxies, cpu=cpu, receiving=receiving, preparing=preparing)
    paths: dict[str, dict[str, Row]] = {}
    for row in TABLE:
        paths.setdefault(row.path, {})[row.method] = row
    resources = {path: Endpoint(web, path, rows) for path, rows in paths.items()}
    return [Service(root, {"/": Endpoint(web, "/", {}), **resources}, Nothing(web)), *_sockets(web)]


def _sockets(web: Web) -> Sequence[BaseRoute]:
    doors: dict[type[Door], Door] = {}
    made = []
    for row in SOCKETS:
        door = doors.setdefault(row.door, row.door(web))
        made.append(WebSocketRoute((web.root + row.path.rstrip("/")) or "/", door))
        if row.path == "/":
            made.append(WebSocketRoute(web.root + "/", door))
    return made


class Endpoint(Prompt):
    """The ASGI application of one path: its methods, HEAD for GET, OPTIONS, 405 with Allow for the others."""

    def __init__(self, web: Web, path: str, rows: Mapping[str, Row]) -> None:
        self.web = web
        self.path = path
        self.rows = dict(rows)
        self.allow = capabilities.allowed(self.rows)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        made: Answer | None = scope.get("state", {}).pop(MADE, None)
        method = scope["method"]
        head = method == "HEAD"
        answer = made or await self._answered("GET" if head else method, Call(self.web, scope, receive))
        await answer.send(receive, send, head=head)

    def at_once(self, scope: Scope) -> Answer | None:
        """The answer to a GET where that can be made without waiting for anything; None where it cannot.

        It is what `__call__` would have sent: the handler is the same, and runs here to its end or not at all.
        """
        row = self.rows.get("GET")
        if row is None or row.service not in AT_ONCE:
            return None
        answering = self._answered("GET", Call(self.web, scope, _no_body, prompt=True))
        try:
            answering.send(None)
        except StopIteration as ended:
            answer: Answer = ended.value
            return answer
        except Waits:
            return None
        answering.close()
        return None

    async def _answered(self, method: str, call: Call) -> Answer:
        try:
            return await self._answer(method, call)
        except ArchiveError as error:
            code = errors.status(error)
            if code >= 500:
                errors.report(error, method, self.path)
            return _problem(code, errors.detail(error), error.about, errors.extra_headers(error))
        except Exception as error:
            errors.report(error, method, self.path)
            return _problem(500, "the server failed; its log says where")

    async def _answer(self, method: str, call: Call) -> Answer:
        row = self.rows.get(method)
        if row is not None:
            call.principal(row.right)
            return await row.handler(call)
        if method == "OPTIONS":
            return await call.io(self._options, call)
        return _problem(405, f"{call.scope['method']} is not possible here", headers=[("Allow", self.allow)])

    def _options(self, call: Call) -> Answer:
        """Retrieve Capabilities (PS3.18 8.9) of the service, or of one resource and what is below it."""
        headers = [("Allow", self.allow)]
        try:
            offer = call.choose(capabilities.OFFERS)
        except NotAcceptable:
            if self.path == "/":
                raise
            return Answer(204, headers=headers)
        tree = capabilities.description(TABLE, SOCKETS, UNSUPPORTED, call.service_root, self.path)
        body = capabilities.wadl(tree) if offer.media_type == capabilities.WADL else capabilities.json(tree)
        return call.text(body, offer.media_type, headers)


class Nothing(Endpoint):
    """What is asked for at an address that names no resource."""

    def __init__(self, web: Web) -> None:
        super().__init__(web, "(none)", {})

    async def _answer(self, method: str, call: Call) -> Answer:
        return _problem(404, "there is no such resource")


async def _no_body() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


def _problem(code: int, detail: str, about: str = "", headers: list[tuple[str, str]] | None = None) -> Answer:
    return Answer(code, errors.PROBLEM, [errors.problem(code, detail, about)], headers or [])
