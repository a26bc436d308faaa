"""The long run of an S3 server that fails in every way at once."""

from __future__ import annotations

import os
import random
import tempfile
import threading
from pathlib import Path
from urllib.parse import urlsplit

from dicomweb_server import serving
from faults.load import Load, check
from faults.proxy import Proxy, Request
from prove.registry import Result, Run, proof
from servers import rclone

from pacs.auth import Auth
from pacs.dimse.acceptor import serve

OBJECTS = 2000
SHARE = 0.2
MIXED = ("503", "lost", "cut", "reset", "short", "stall")


def _mixed(dice: random.Random, lock: threading.Lock, request: Request) -> str | None:
    with lock:
        if dice.random() >= SHARE:
            return None
        # what stalls holds its sender for ten seconds: once in a while is enough
        return "stall" if dice.random() < 0.02 else dice.choice(MIXED[:-1])


@proof("s3-faults", "S3 with a fifth of all requests refused, lied about, cut or stalled: nothing promised is lost.")
def s3_faults(run: Run) -> Result:
    """Both doors store until so many objects are acknowledged; every one is read back and compared."""
    dice, lock, load = random.Random(7), threading.Lock(), Load(dimse=3, stow=1, sizes=(64, 200, 512))
    with rclone() as s3, tempfile.TemporaryDirectory(prefix="m3prove") as folder:
        port = urlsplit(s3.endpoint).port
        assert port is not None
        proxy = Proxy(port, lambda request: _mixed(dice, lock, request))
        os.environ |= {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
        objects = f"s3://{s3.bucket}/proof"
        with serving(Path(folder) / "data", objects=objects, s3_endpoint=proxy.endpoint, s3_cache_bytes=0) as web:
            archive = web.archive.with_services(auth=Auth(web.archive.index))
            acceptor = serve(archive, host="127.0.0.1", port=0, ae_title="M3DICOM")
            for _ in run.rounds(OBJECTS // 100):
                load.start(acceptor.address, web.url, "none")
                load.wait(100, 300)
                load.stop()
            proxy.fault = None
            there = check(web.client, load.book)
            acceptor.close(0)
        proxy.close()
    book = load.book
    rows = [("sent", "acknowledged", "lost", "there", "refused in between", "faults that struck")]
    struck = ", ".join(f"{name} {count}" for name, count in sorted(proxy.struck.items()))
    refused = ", ".join(f"{name} {count}" for name, count in sorted(book.answers.items())) or "none"
    rows.append((len(book.sent), len(book.promised), 0, there, refused, struck))  # type: ignore[arg-type]
    return Result(rows, "everything acknowledged is there, byte for byte; nothing hung")
