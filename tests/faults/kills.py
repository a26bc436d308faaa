"""kill -9 again and again in the middle of ingest, and what has to be true after each."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import httpx
import rebuilding
from conftest import COMMAND, RunningServer, start_server
from faults.load import Load, check, wait_until
from faults.power import Lost, lose, lose_log, watcher
from servers import postgresql, rclone

from pacs.settings import Settings

IN_THE_START = 0.1
"""Of all kills, those that come while the server still recovers from the one before."""

ONLY_AN_ATTENDANT = 0.4
"""In so many turns one of the processes that serve associations is killed first, and the server goes on."""


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


def descendants(pid: int, *, deep: bool = True) -> list[int]:
    """The process ids of the children of a process and, if `deep`, of theirs."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *(descendants(int(child)) if deep else ())]
    return found


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


class KillLoop:
    """A server that is killed and started again under load."""

    def __init__(self, data: Path, settings: Mapping[str, str], seed: int = 1, *, power: bool = False) -> None:
        """With `power`, each kill is a loss of power: what was not synced by then is taken away (`faults.power`)."""
        self.load = Load()
        self.lost: list[Lost] = []
        self.ready_after: list[float] = []
        self.kills = self.attendants_killed = 0
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
        if not self._record and self._dice.random() < ONLY_AN_ATTENDANT and self._kill_an_attendant():
            time.sleep(self._dice.uniform(0.05, 0.9))
            if self._dice.random() < 0.5:
                check(self.client, self.load.book, self.load.stop())
                return
        self._kill()
        studies = self.load.stop()
        while not self._record and self._dice.random() < IN_THE_START:
            self._kill_in_the_start()
        self.server = self._start()
        check(self.client, self.load.book, studies)

    def _kill(self) -> None:
        everybody = descendants(self.server.process.pid)
        self.server.process.kill()
        self.server.process.wait()
        self._gone(everybody)
        self.kills += 1
        self._judge()
        if self._record:
            self.lost.append(lose(self._data, self._record, self._dice))
            if self._watcher:
                self.log_writes_lost += lose_log(self._data / "index.db", self._wal_record, self._dice)

    def _kill_an_attendant(self) -> bool:
        """Whether there was one to be killed: they are the children of a child of the server."""
        children = set(descendants(self.server.process.pid, deep=False))
        attendants = sorted(set(descendants(self.server.process.pid)) - children)
        if not attendants:
            return False
        one = self._dice.choice(attendants)
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
        self._gone([one])
        self.kills += 1
        self.attendants_killed += 1
        return True

    @staticmethod
    def _gone(pids: list[int]) -> None:
        """Wait for the kernel to have ended them; nobody may reap those whose parent was killed."""
        wait_until(lambda: not any(map(_alive, pids)), "attendants outlive their server")

    def _judge(self) -> None:
        """A killed server may have been cut short, but nothing may have gone wrong in it before."""
        said = "".join(self.server.output)
        assert "Traceback" not in said, said[-8000:]

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

    def compare(self) -> int:
        """How many rows a rebuild from the objects alone makes, all of them as they are in the index on SQLite.

        The server is stopped for it, and objects that no answer was given for are put right first: of what is there
        twice, a rebuild would take the copy that came first.
        """
        self.close()
        self._judge()
        sweep = [COMMAND, "scrub", "--data", str(self._data), "--orphans", "--hours", "0"]
        subprocess.run(sweep, check=True, stdout=subprocess.DEVNULL)
        settings = Settings(data=self._data)
        index = self._data / "index.db"
        with closing(sqlite3.connect(index)) as opened:
            assert opened.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        old = rebuilding.contents(settings.index_url)
        del old["tombstone"]  # of the copies just removed
        index.rename(index.with_suffix(".old"))
        rebuilding.make_again(settings)
        rebuilding.assert_same(rebuilding.contents(settings.index_url), old)
        return sum(map(len, old.values()))

    def times(self) -> tuple[float, float]:
        """Median and maximum of the seconds from start to ready after a kill."""
        return statistics.median(self.ready_after), max(self.ready_after)
