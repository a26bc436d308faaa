"""kill -9 again and again in the middle of ingest, and what has to be true after each."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import rebuilding
from conftest import COMMAND, RunningServer, start_server
from faults.away import Away, Watch, descendants, named
from faults.load import Load, check, wait_until
from faults.power import Lost, lose, lose_log, watcher
from servers import held_port, postgresql, rclone

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


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


class KillLoop:
    """A server that is killed and started again, on the same ports, while its clients go on."""

    def __init__(self, data: Path, settings: Mapping[str, str], seed: int = 1, *, power: bool = False) -> None:
        """With `power`, each kill is a loss of power: what was not synced by then is taken away (`faults.power`)."""
        self.load = Load()
        self.lost: list[Lost] = []
        self.away: list[Away] = []
        self.ready_after: list[float] = []
        """Seconds from a kill until all doors answered, those of the web included."""
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
        self._ports = ExitStack()
        doors = [f"--{door}=127.0.0.1:{self._ports.enter_context(held_port())}" for door in ("http", "dimse")]
        self._doors = tuple(doors)
        index = urlsplit(settings.get("M3DICOM_INDEX", ""))
        self._database = named("-p", str(index.port)) if index.port else []
        try:
            self.server = self._start()  # it makes the schema; none was killed before it
        except BaseException:
            self._ports.close()
            raise

    def _start(self) -> RunningServer:
        launcher = str(Path(__file__).with_name("power.py"))
        command = (sys.executable, launcher, str(self._record)) if self._record else (COMMAND,)
        server = start_server(self._data, settings=self._settings, arguments=self._doors, command=command)
        self._token = self._token or server.token
        self.client.close()
        headers = {"Authorization": f"Bearer {self._token}"}
        self.client = httpx.Client(base_url=server.dicomweb, headers=headers, timeout=120)
        return server

    def turn(self) -> None:
        """Load, kill, start while the load goes on, and check what came in this turn."""
        self.load.start(self.server.dimse, self.server.dicomweb, self._token)
        time.sleep(self._dice.uniform(0.05, 0.9))
        if not self._record and self._dice.random() < ONLY_AN_ATTENDANT and self._kill_an_attendant():
            time.sleep(self._dice.uniform(0.05, 0.9))
            if self._dice.random() < 0.5:
                check(self.client, self.load.book, self.load.stop())
                return
        studies = self._lose_power() if self._record else self._kill()
        check(self.client, self.load.book, studies)

    def _kill(self) -> set[str]:
        """The studies that were sent to in this turn, after a kill and the return of the server."""
        everybody = descendants(self.server.process.pid)
        watch = Watch(self.server.dimse, self.load.first_store, self._database)
        killed = time.monotonic()
        self._end(everybody)
        again = False
        while self._dice.random() < IN_THE_START:
            self._kill_in_the_start()
            again = True
        if again:
            watch, killed = Watch(self.server.dimse, self.load.first_store, self._database), time.monotonic()
        watch.gone()
        self.server = self._start()
        watch.started(self.server.process.pid)
        self.ready_after.append(time.monotonic() - killed)
        self.away.append(watch.result())
        time.sleep(self._dice.uniform(0.05, 0.3))
        return self.load.stop()

    def _lose_power(self) -> set[str]:
        """The same after a loss of power."""
        assert self._record is not None
        self._end(descendants(self.server.process.pid))
        studies = self.load.stop()
        self.lost.append(lose(self._data, self._record, self._dice))
        if self._watcher:
            self.log_writes_lost += lose_log(self._data / "index.db", self._wal_record, self._dice)
        self.server = self._start()
        return studies

    def _end(self, everybody: list[int]) -> None:
        self.server.process.kill()
        self.server.process.wait()
        self.kills += 1
        self._judge()
        self._gone(everybody)

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
        command = [COMMAND, "serve", "--data", str(self._data), *self._doors]
        environment = {**os.environ, **self._settings}
        silent = subprocess.DEVNULL
        process = subprocess.Popen(command, env=environment, stdout=silent, stderr=silent)
        time.sleep(self._dice.uniform(0.1, 1.5))
        everybody = descendants(process.pid)
        process.kill()
        process.wait()
        self._gone(everybody)
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
        self._ports.close()

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
