"""How a server starts: without libraries that only few requests need, and with doors that answer at once."""

from __future__ import annotations

import socket
import subprocess
import sys

from pacs.server import doors

HEAVY = (
    *("pydicom", "highdicom", "pynetdicom", "scipy", "boto3", "skimage", "sklearn"),
    *("numpy", "imagecodecs", "PIL", "cc3d", "meshoptimizer", "psycopg", "redis", "arq", "psutil"),
)


def test_doors_open_without_what_only_few_requests_need() -> None:
    code = f"""
import sys
import pacs.server.processes, pacs.dimse.acceptor
from analysis.registry import Registry
assert Registry.load().ids
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert said.stdout.strip() == "[]"


def test_dimse_doors_open_without_the_web() -> None:
    """What `m3dicom serve` has loaded when associations are served already (`pacs.server.cli`)."""
    code = """
import sys
from pacs.server import cli, collector, ground
cli._parser("serve")
from pacs.server import attendant
attendant._load()
from pacs.server import opening
web = ("dicomweb", "starlette", "uvicorn", "pydantic", "analysis", "viewer", "http.client", "pacs.care")
print([name for name in web if name in sys.modules], "sqlalchemy.dialects.postgresql" in sys.modules)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert said.stdout.strip() == "[] False"


def test_commands_are_quick_to_say_what_there_is() -> None:
    code = """
import sys
from pacs.server import cli
cli._parser("")
print([name for name in ("sqlalchemy", "pacs.archive", "starlette") if name in sys.modules])
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert said.stdout.strip() == "[]"


def test_answers_do_not_wait_for_acknowledgements() -> None:
    with (
        doors.listen(doors.parse("127.0.0.1:0", "http")) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
