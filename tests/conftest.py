"""Fixtures that every kind of test shares: a real server, started as a stranger would start it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).resolve().parent))

from servers import moto_server, postgresql_cluster, rclone_server  # noqa: E402, F401  (fixtures for all)

COMMAND = str(Path(sys.executable).with_name("m3dicom"))


def needed(program: str) -> str:
    """The path of a program that tests need; fails in words where it is missing."""
    path = shutil.which(program)
    assert path, f"{program} is missing: run `make packages`"
    return path


@dataclass
class RunningServer:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    data: Path
    ready: dict[str, Any]
    environment: dict[str, str]
    output: list[str] = field(default_factory=list)

    @property
    def http(self) -> str:
        return f"http://{self.ready['http']}"

    @property
    def dicomweb(self) -> str:
        return f"{self.http}/dicom-web"

    @property
    def dimse(self) -> tuple[str, int]:
        host, _, port = self.ready["dimse"].rpartition(":")
        return host, int(port)

    @property
    def login_link(self) -> str:
        """A fresh one-time login link."""
        return self.command("login-link").strip().splitlines()[-1]

    @cached_property
    def token(self) -> str:
        """A bearer token with every right of a clinician and of an administrator.

        As from `m3dicom token create`, but without a process of its own for each of a hundred servers.
        """
        from pacs import settings
        from pacs.auth import Right
        from pacs.server import beside

        rights = ("query", "read", "store", "delete", "process", "admin")
        with beside.credentials(settings.load(None, self.environment, {"data": self.data})) as auth:
            return auth.create_token("tests", frozenset(map(Right, rights)))

    def command(self, *arguments: str) -> str:
        """The output of `m3dicom ARGUMENTS` on this server's data."""
        run = subprocess.run(
            [COMMAND, *arguments, "--data", str(self.data)],
            capture_output=True, text=True, env=self.environment, timeout=120, check=False,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        return run.stdout

    def client(self, **options: Any) -> httpx.Client:
        """An HTTP client with a token, rooted at the DICOMweb root."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.Client(base_url=self.dicomweb, headers=headers, timeout=60, **options)

    def dcmsend(self, *paths: Path | str) -> None:
        """Send files and folders with DCMTK's dcmsend."""
        host, port = self.dimse
        command = [needed("dcmsend"), "-aec", self.ready["aet"], "+sd", "+r", host, str(port), *map(str, paths)]
        environment = {**os.environ, "TCP_NODELAY": "1"}
        run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
        assert run.returncode == 0, run.stderr + run.stdout

    def wait_for_tasks(self, count: int, timeout_s: float = 240, client: httpx.Client | None = None) -> list[dict]:
        """All Workitems, once at least `count` are COMPLETED or CANCELED and none is under way."""
        until = time.monotonic() + timeout_s
        with client or self.client() as http:
            while True:
                answer = http.get("/workitems", params={"includefield": "all"})
                items = answer.json() if answer.status_code == 200 else []
                states = [item["00741000"]["Value"][0] for item in items]
                if len(states) >= count and all(state in ("COMPLETED", "CANCELED") for state in states):
                    return items
                assert time.monotonic() < until, f"tasks after {timeout_s} s: {states}"
                time.sleep(0.25)

    def stop(self, number: int = signal.SIGINT, timeout_s: float = 60) -> int:
        """Stop it; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout_s)


def start_server(
    data: Path,
    *,
    settings: dict[str, str] | None = None,
    arguments: Sequence[str] = (),
    timeout_s: float = 120,
    command: Sequence[str] = (COMMAND,),
) -> RunningServer:
    """A server on free loopback ports, ready to be asked; `command` may be another one with the same arguments."""
    ready_file = data.parent / f"{data.name}.ready.json"
    ready_file.unlink(missing_ok=True)
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("M3DICOM_")},
        "M3DICOM_STABLE_AFTER_S": "0.5",
        "PYTHONUNBUFFERED": "1",
        **(settings or {}),
    }
    process = subprocess.Popen(
        [*command, "serve", "--data", str(data), "--http", "127.0.0.1:0", "--dimse", "127.0.0.1:0",
         "--ready-file", str(ready_file), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
    )  # fmt: skip
    output: list[str] = []

    def read() -> None:
        assert process.stdout is not None
        with process.stdout:
            output.extend(process.stdout)

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    until = time.monotonic() + timeout_s
    while not ready_file.exists():
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            reading.join(10)  # its last words are what one wants to know
            raise AssertionError("the server did not start:\n" + "".join(output))
        time.sleep(0.05)
    return RunningServer(process, data, json.loads(ready_file.read_text()), environment, output)


ServerStarter = Callable[..., RunningServer]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[ServerStarter]:
    """Start servers; all are stopped at the end, and none may have logged a traceback."""
    started: list[RunningServer] = []

    def starter(name: str = "data", **options: Any) -> RunningServer:
        server = start_server(tmp_path / name, **options)
        started.append(server)
        return server

    yield starter
    for server in started:
        server.stop()
    _judge(started)


@pytest.fixture(scope="module")
def running_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server for the tests of a module."""
    server = start_server(tmp_path_factory.mktemp("server") / "data")
    yield server
    server.stop()
    _judge([server])


def _judge(servers: Sequence[RunningServer]) -> None:
    for server in servers:
        text = "".join(server.output)
        assert not re.search(r"Traceback|Task exception was never retrieved", text), text[-4000:]
