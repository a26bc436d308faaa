"""kill -9 again and again in the middle of ingest, and what has to be true after each."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
from conftest import COMMAND, RunningServer, start_server
from faults.load import Load, check, wait_until
from faults.power import Lost, lose, lose_log, watcher
from servers import postgresql, rclone

IN_THE_START = 0.1
"""Of all kills, those that come while the server still recovers from the one before."""


@contextmanager
def files_and_sqlite() -> Iterator[dict[str, str]]:
    """The settings of the embedded form."""
    yield {"M3DICOM_WORKERS": "0"}


@contextmanager
def s3_and_postgresql() -> Iterator[dict[str, str]]:
    """The settings of the scaled form: rclone's S3 over real files, PostgreSQL with fsync on."""
    with ExitStack() as stack:
        s3 = stack.enter_context(rclone())
        cluster = stack.enter_context(postgresql())
        cluster.stop()
        cluster.start(fsync=True)
        yield {
            "M3DICOM_WORKERS": "0",
            "M3DICOM_INDEX": cluster.new_database(),
            "M3DICOM_OBJECTS": f"s3://{s3.bucket}/objects",
            "M3DICOM_S3_ENDPOINT": s3.endpoint,
            "AWS_ACCESS_KEY_ID": s3.access_key,
            "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        }


class KillLoop:
    """A server that is killed and started again under load."""

    def __init__(self, data: Path, settings: Mapping[str, str], seed: int = 1, *, power: bool = False) -> None:
        """With `power`, each kill is a loss of power: what was not synced by then is taken away (`faults.power`)."""
        self.load = Load()
        self.lost: list[Lost] = []
        self.ready_after: list[float] = []
        self.kills = 0
        self.acknowledged = 0
        """How many instances were promised, what `finish` sends again left out."""
        self.client = httpx.Client()
        self._data = data
        self._settings = dict(settings)
        self._dice = random.Random(seed)
        self._record = data.parent / "writes" if power else None
        self._watcher = watcher(data.parent) if power else None
        self._wal_record = data.parent / "log writes"
        self.log_writes_lost = 0
        if self._watcher:
            self._settings |= {"LD_PRELOAD": str(self._watcher), "WALSYNC": str(self._wal_record)}
        self._token = ""
        self.server = self._start()
        self.ready_after.clear()  # the first start makes the schema; none was killed before it

    def _start(self) -> RunningServer:
        began = time.monotonic()
        launcher = str(Path(__file__).with_name("power.py"))
        command = (sys.executable, launcher, str(self._record)) if self._record else (COMMAND,)
        server = start_server(self._data, settings=self._settings, command=command)
        self.ready_after.append(time.monotonic() - began)
        self._token = self._token or server.token
        self.client.close()
        headers = {"Authorization": f"Bearer {self._token}"}
        self.client = httpx.Client(base_url=server.dicomweb, headers=headers, timeout=120)
        return server

    def turn(self) -> None:
        """Load, kill, start, check what came in this turn."""
        self.load.start(self.server.dimse, self.server.dicomweb, self._token)
        time.sleep(self._dice.uniform(0.05, 0.9))
        self._kill()
        studies = self.load.stop()
        while not self._record and self._dice.random() < IN_THE_START:
            self._kill_in_the_start()
        self.server = self._start()
        check(self.client, self.load.book, studies)

    def _kill(self) -> None:
        self.server.process.kill()
        self.server.process.wait()
        self.kills += 1
        if self._record:
            self.lost.append(lose(self._data, self._record, self._dice))
            if self._watcher:
                self.log_writes_lost += lose_log(self._data / "index.db", self._wal_record, self._dice)

    def _kill_in_the_start(self) -> None:
        command = [COMMAND, "serve", "--data", str(self._data), "--http", "127.0.0.1:0", "--dimse", "127.0.0.1:0"]
        environment = {**os.environ, **self._settings}
        silent = subprocess.DEVNULL
        process = subprocess.Popen(command, env=environment, stdout=silent, stderr=silent)
        time.sleep(self._dice.uniform(0.1, 1.5))
        process.kill()
        process.wait()
        self.kills += 1

    def finish(self) -> int:
        """How many instances there are in the end, once all was checked, sent again and counted."""
        book = self.load.book
        self.acknowledged = len(book.promised)
        before = check(self.client, book)
        some = sorted(book.promised)[::10]
        self.load.resend(self.client, some)
        assert check(self.client, book) == before, "the count changed when what was there was sent again"
        self.load.resend(self.client, set(book.sent) - book.promised)
        assert check(self.client, book) == len(book.sent)
        spool = [path for path in (self._data / "spool").rglob("*") if path.is_file()]
        assert not spool, f"half objects are left: {spool[:3]}"
        wait_until(lambda: httpx.get(f"{self.server.http}/health/ready").status_code == 200, "never ready")
        return before

    def close(self) -> None:
        """Stop the server."""
        self.client.close()
        self.server.stop()

    def times(self) -> tuple[float, float]:
        """Median and maximum of the seconds from start to ready after a kill."""
        return statistics.median(self.ready_after), max(self.ready_after)
