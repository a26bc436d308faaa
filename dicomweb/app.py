"""The DICOMweb service as routes: dispatch by method, errors as problem+json, one place where failures are reported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import anyio
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from dicomweb import errors
from dicomweb.answers import Answer
from dicomweb.calls import Call, Rendition, Web
from dicomweb.routes import TABLE, Handler
from pacs.errors import ArchiveError

if TYPE_CHECKING:
    from pacs.archive import Archive

DEFAULT_ROOT = "/dicom-web"


def create(archive: Archive, *, root: str = DEFAULT_ROOT, renditions: Mapping[str, Rendition]) -> list[BaseRoute]:
    """The routes of PS3.18 under `root`, one for each path of `dicomweb.routes.TABLE`.

    Who asks is expected in the ASGI state as `principal`. `renditions` make the `rendered` resource of instances that
    are no images, by media type.
    """
    root = root.rstrip("/")
    web = Web(archive, root, dict(renditions), cpu=anyio.CapacityLimiter(max(2, archive.settings.decoders)))
    methods: dict[str, dict[str, Handler]] = {}
    for row in TABLE:
        methods.setdefault(row.path, {})[row.method] = row.handler
    routes = [Route(root + path, Endpoint(web, path, handlers)) for path, handlers in methods.items()]
    nothing = Endpoint(web, "/", {})
    return [*routes, Route(root or "/", nothing), Route(root + "/{rest:path}", nothing)]


class Endpoint:
    """The ASGI application of one path: its methods, HEAD for GET, 405 with Allow for the others."""

    def __init__(self, web: Web, path: str, methods: Mapping[str, Handler]) -> None:
        self.web = web
        self.path = path
        self.methods = dict(methods)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"]
        head = method == "HEAD"
        handler = self.methods.get("GET" if head else method)
        try:
            if handler is not None:
                answer = await handler(Call(self.web, scope, receive))
            elif self.methods:
                allowed = sorted({*self.methods, *(("HEAD",) if "GET" in self.methods else ())})
                answer = _problem(405, f"{method} is not possible here", headers=[("Allow", ", ".join(allowed))])
            else:
                answer = _problem(404, "there is no such resource")
        except ArchiveError as error:
            code = errors.status(error)
            if code >= 500:
                errors.report(error, method, self.path)
            answer = _problem(code, error.reason, error.about, errors.extra_headers(error))
        except Exception as error:
            errors.report(error, method, self.path)
            answer = _problem(500, "the server failed; its log says where")
        await answer.send(receive, send, head=head)


def _problem(code: int, detail: str, about: str = "", headers: list[tuple[str, str]] | None = None) -> Answer:
    return Answer(code, errors.PROBLEM, [errors.problem(code, detail, about)], headers or [])
