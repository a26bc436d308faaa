"""A real redis-server for tests, on a unix socket, gone with the test process."""

from __future__ import annotations

import ctypes
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers import missing


class Redis:
    """One redis-server that can be killed and started again; without persistence unless asked for."""

    def __init__(self, folder: Path, program: str) -> None:
        self.folder = folder
        self.socket = folder / "redis.sock"
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address as the setting `queue` takes it."""
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [
            self._program, "--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700", "--save", "",
            "--appendonly", "no", "--dir", str(self.folder), "--logfile", str(self.folder / "log"),
        ]  # fmt: skip
        libc = ctypes.CDLL(None)
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            preexec_fn=lambda: libc.prctl(1, signal.SIGKILL),  # dies with us, also when we are killed
        )
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(str(self.socket))
                    probe.sendall(b"PING\r\n")
                    if probe.recv(16).startswith(b"+PONG"):
                        return
                except OSError:
                    time.sleep(0.01)
        raise TimeoutError("redis-server does not answer")

    def kill(self) -> None:
        """Kill it as a crash would; everything it held is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self.socket.unlink(missing_ok=True)


@contextmanager
def redis() -> Iterator[Redis]:
    """A running redis-server, gone afterwards."""
    program = shutil.which("redis-server")
    if program is None:
        missing("redis-server (apt-get install redis-server)")
    assert program is not None
    with tempfile.TemporaryDirectory(prefix="m3redis") as folder:
        server = Redis(Path(folder), program)
        server.start()
        try:
            yield server
        finally:
            server.kill()


@pytest.fixture
def redis_server() -> Iterator[Redis]:
    """A redis-server for one test."""
    with redis() as server:
        yield server
