"""The bundled viewer: serves what `hatch_build.py` built, and says in words when it was not built."""

from __future__ import annotations

import mimetypes
import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import BaseRoute, Route

STATIC = Path(__file__).parent / "static"

_HASHED = re.compile(r"-[A-Za-z0-9_-]{8}\.[a-z0-9]+$")
_ENCODINGS = (("br", ".br"), ("gzip", ".gz"))
_TYPES = {".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm", ".svg": "image/svg+xml"}

_NOT_BUILT = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>m3DICOM</title></head>
<body><h1>The viewer is not built</h1>
<p>This server was installed without its viewer. DICOMweb, DIMSE and the analyses work all the same.</p>
<p>To build it: install Node.js 20.19 or later, run <code>python viewer/hatch_build.py</code> in the source tree
(or install again without <code>M3DICOM_SKIP_VIEWER</code>), then reload this page.</p></body></html>
"""


def routes(static: Path = STATIC) -> list[BaseRoute]:
    """The routes `/` and `/assets/…`, to be mounted last: hashed assets immutable, the page itself never cached.

    `static` is the folder that the build wrote; while it holds no page, `/` answers 503 and says how to build it.
    """

    async def page(request: Request) -> Response:
        if not (static / "index.html").is_file():
            return HTMLResponse(_NOT_BUILT, 503, {"Cache-Control": "no-store"})
        return _send(request, static / "index.html", "no-store")

    def where(request: Request) -> str:
        path: str | None = request.path_params.get("path")
        return "icon.svg" if path is None else f"assets/{path}"

    async def asset(request: Request) -> Response:
        path = (static / where(request)).resolve()
        if not path.is_relative_to(static.resolve()) or not path.is_file() or path.name.startswith("."):
            return Response(status_code=404)
        hashed = _HASHED.search(path.name) is not None
        return _send(request, path, "public, max-age=31536000, immutable" if hashed else "no-cache")

    return [
        Route("/", page, name="viewer"),
        Route("/icon.svg", asset, name="viewer-icon"),
        Route("/assets/{path:path}", asset, name="viewer-assets"),
    ]


def _send(request: Request, path: Path, cache_control: str) -> Response:
    """`path`, or its compressed copy where there is one that the client takes."""
    media_type = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    headers = {"Cache-Control": cache_control, "Vary": "Accept-Encoding"}
    accepted = _accepted(request.headers.get("accept-encoding", ""))
    for encoding, suffix in _ENCODINGS:
        compressed = path.with_name(path.name + suffix)
        if encoding in accepted and compressed.is_file():
            return FileResponse(compressed, media_type=media_type, headers=headers | {"Content-Encoding": encoding})
    return FileResponse(path, media_type=media_type, headers=headers)


def _accepted(header: str) -> set[str]:
    """The content codings that a client takes (RFC 9110 12.5.3), those with q=0 left out."""
    found = set()
    for entry in header.lower().split(","):
        coding, _, parameters = entry.strip().partition(";")
        if parameters.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            found.add(coding.strip())
    return found
