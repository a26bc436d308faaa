"""A DICOMweb server that takes bodies from their connections, and a client of it that speaks plain sockets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

import dicomweb.app
from pacs.archive import Archive
from pacs.auth import CLINICAL_RIGHTS
from pacs.server import http, opening, shelf, wire
from pacs.settings import Settings

MULTIPART = 'multipart/related; type="application/dicom"; boundary=b'


@dataclass
class Door:
    archive: Archive
    port: int
    token: str

    def head(self, length: int | None, content_type: str = MULTIPART, *more: str) -> bytes:
        size = ["Transfer-Encoding: chunked"] if length is None else [f"Content-Length: {length}"]
        fields = [
            f"Host: 127.0.0.1:{self.port}",
            f"Authorization: Bearer {self.token}",
            f"Content-Type: {content_type}",
        ]
        return "\r\n".join(["POST /dicom-web/studies HTTP/1.1", *fields, *size, *more, "", ""]).encode()

    @property
    def search(self) -> bytes:
        return (
            "GET /dicom-web/instances?includefield=SOPInstanceUID HTTP/1.1\r\n"
            f"Host: 127.0.0.1:{self.port}\r\nAuthorization: Bearer {self.token}\r\nConnection: close\r\n\r\n"
        ).encode()

    @contextmanager
    def connection(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), 60) as sock:
            yield sock


@contextmanager
def opened(folder: Path) -> Iterator[Door]:
    """The door of a new archive in the folder."""
    archive = opening.build(Settings(data=folder, decoders=1))
    app = http.application(archive.auth, dicomweb.app.create(archive, renditions={}))
    ready = shelf.Shelf(archive.index, archive.auth)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="warning", lifespan="off", http=wire.protocol(ready), server_header=False)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until = time.monotonic() + 60
    while not running.started:
        assert time.monotonic() < until, "the server did not start"
        time.sleep(0.01)
    yield Door(archive, listener.getsockname()[1], archive.auth.create_token("tests", CLINICAL_RIGHTS))
    running.should_exit = True
    thread.join(30)
    listener.close()
    archive.close()


def answers(sock: socket.socket) -> list[tuple[int, bytes]]:
    """Status and body of all that comes until the connection ends."""
    raw = b""
    while piece := sock.recv(1 << 16):
        raw += piece
    found = []
    while raw:
        head, _, rest = raw.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        length = int(fields.get(b"content-length", b"0"))
        status = int(head.split()[1])
        if status != 100:
            found.append((status, rest[:length]))
        raw = rest[length:]
    return found
