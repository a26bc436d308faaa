"""The DICOMweb service on a real archive behind a real HTTP server, for tests that are a client of it."""

from __future__ import annotations

import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dicom_data
import httpx
import uvicorn
from pydicom import Dataset
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

import dicomweb.app
from pacs.archive import Archive, open_archive
from pacs.auth import ALL_RIGHTS, Principal, Right
from pacs.decoding import DecodingPool
from pacs.settings import Settings
from pacs.worklist import Worklist

EVERYBODY = Principal("tests", "token", ALL_RIGHTS)


class As:
    """ASGI middleware: the principal that the header X-Test-Rights describes; every right without it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            given = dict(scope["headers"]).get(b"x-test-rights")
            rights = ALL_RIGHTS if given is None else frozenset(map(Right, given.decode().split()))
            scope.setdefault("state", {})["principal"] = Principal("tests", "token", rights)
        await self.app(scope, receive, send)


@dataclass
class Web:
    """A running service: its archive, its URL and a client of it."""

    archive: Archive
    url: str
    client: httpx.Client

    def get(self, path: str, accept: str | None = None, **options: Any) -> httpx.Response:
        """The answer to a GET, with an Accept header where given (httpx itself sends */*)."""
        headers = {**options.pop("headers", {}), **({} if accept is None else {"Accept": accept})}
        return self.client.get(path, headers=headers, **options)

    def store(self, *objects: Dataset | bytes, path: str = "/studies", **headers: str) -> httpx.Response:
        """The answer to a STOW-RS request with these instances."""
        boundary = uuid.uuid4().hex
        body = multipart([o if isinstance(o, bytes) else dicom_data.part10(o) for o in objects], boundary)
        content_type = f'multipart/related; type="application/dicom"; boundary={boundary}'
        return self.client.post(path, content=body, headers={"Content-Type": content_type, **headers})


def multipart(contents: list[bytes], boundary: str, content_type: str = "application/dicom") -> bytes:
    """A multipart body of these parts."""
    head = f"--{boundary}\r\nContent-Type: {content_type}\r\n\r\n".encode()
    return b"".join(head + content + b"\r\n" for content in contents) + f"--{boundary}--\r\n".encode()


def parts(answer: httpx.Response) -> list[tuple[dict[str, str], bytes]]:
    """Header fields (names in lower case) and content of each part of a multipart answer."""
    content_type = answer.headers["content-type"]
    assert content_type.startswith("multipart/related"), content_type
    boundary = content_type.split("boundary=")[1].strip('"').encode()
    pieces = (b"\r\n" + answer.content).split(b"\r\n--" + boundary)
    assert pieces[-1].startswith(b"--")
    found = []
    for piece in pieces[1:-1]:
        head, _, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        fields = (line.partition(":") for line in head.decode().split("\r\n"))
        found.append(({name.lower(): value.strip() for name, _, value in fields}, content))
    return found


@contextmanager
def serving(
    data: Path,
    *,
    renditions: Mapping[str, Callable[..., bytes]] | None = None,
    replace: Callable[[Archive], Archive] = lambda archive: archive,
    **settings: Any,
) -> Iterator[Web]:
    """A service on an archive under `data`; `replace` may put other parts into the archive."""
    archive = open_archive(Settings(data=data, **settings))
    archive = archive.with_services(
        worklist=Worklist(archive.index, archive.events), decoding=DecodingPool(archive.settings.decoders)
    )
    app = As(Starlette(routes=dicomweb.app.create(replace(archive), renditions=renditions or {})))
    try:
        with over_http(app) as address, httpx.Client(base_url=f"{address}/dicom-web", timeout=60) as client:
            yield Web(archive, f"{address}/dicom-web", client)
    finally:
        archive.close()


@contextmanager
def over_http(app: ASGIApp) -> Iterator[str]:
    """The root address of a real HTTP server that serves `app`."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        log_level="warning",
        lifespan="off",
        http="httptools",
        server_header=False,
        proxy_headers=False,
        ws="websockets-sansio",
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        until = time.monotonic() + 20
        while not server.started:
            assert time.monotonic() < until, "the server did not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
