"""Tasks under kill -9: workers, their children, Redis, the server with its scheduler, and PostgreSQL die at random.

Every task is asked for twice, in two Workitems both of which are done, and each request is made twice under its UID.
What has to be true in the end: one result for each task, none twice, none lost, each right, and both Workitems name it.
The embedded form (SQLite, no Redis) is treated alike; there the server is all there is, with its children.
"""

from __future__ import annotations

import os
import queue
import random
import signal
import subprocess
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import dicom_data
import httpx
import numpy as np
import orjson
from conftest import COMMAND, RunningServer, start_server
from faults import chaos_plugin
from faults.away import descendants
from faults.kills import _alive
from faults.load import wait_until
from pydicom import dcmread
from redis_server import Redis, redis
from servers import PostgreSQL, postgresql, rclone
from sqlalchemy import create_engine, text

from pacs import uids
from pacs.dicom import ups, ups_task

PLUGIN = "tally"
DEFAULT = 300.0
SLICES = 3
QUIET_S = 180.0
"""So long nothing may move before it is said that nothing will."""

TWIN_AFTER = 6
"""So many kills lie between a task and its twin, of half of them; of the others it is next in the queue."""

ATTEMPTS = 60
"""A task is given up once its worker was lost so often: here it is lost on purpose, again and again."""

SETTINGS = {
    "M3DICOM_LEASE_S": "3", "M3DICOM_MAX_ATTEMPTS": str(ATTEMPTS), "M3DICOM_DIMSE": "", "M3DICOM_DEVICE": "cpu",
}  # fmt: skip
SETTLED = ("COMPLETED", "CANCELED")

Asked = tuple[int, float]
"""A task: the number of its study, and the threshold."""


def expected(asked: Asked) -> int:
    """How many voxels the result of a task has to have."""
    first = (np.arange(16 * 12) * 7)[None] + np.arange(SLICES)[:, None]
    return int((first % 4096 - 1024 > asked[1]).sum())


class Asking:
    """A client that sends studies and asks for tasks, each until it has a definite answer; a thread of its own."""

    def __init__(self, chaos: Chaos) -> None:
        self._chaos = chaos
        self._orders: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self.errors: list[BaseException] = []
        self.again = 0
        self.uids: dict[str, Asked] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def study(self, number: int) -> None:
        """Send a study; a rule makes its first task."""
        self._orders.put(lambda: self._send(number))

    def task(self, asked: Asked, copy: int) -> None:
        """Ask for a task, under a UID of the client's own, so that asking again after a lost answer is safe."""
        self._orders.put(lambda: self._ask(asked, uids.derived("chaos", *asked, copy), twin=copy > 0))

    @property
    def idle(self) -> bool:
        """Whether all that was ordered is done."""
        return self._orders.unfinished_tasks == 0

    def close(self) -> None:
        """End, after what is under way."""
        self._orders.put(None)
        self._thread.join(60)

    def _run(self) -> None:
        while (order := self._orders.get()) is not None:
            try:
                order()
            except BaseException as error:
                self.errors.append(error)
            finally:
                self._orders.task_done()

    def _send(self, number: int) -> None:
        body = b"".join(
            b"--b\r\nContent-Type: application/dicom\r\n\r\n" + dicom_data.part10(ds) + b"\r\n"
            for ds in dicom_data.series(SLICES, study=number)
        )
        kind = 'multipart/related; type="application/dicom"; boundary=b'
        self._until("/studies", body + b"--b--\r\n", kind, (200,))

    def _ask(self, asked: Asked, uid: str, *, twin: bool) -> None:
        number, threshold = asked
        written = [ups_task.Parameter("threshold", "Threshold", threshold)]
        references = [ups_task.References(uids.derived("study", number), uids.derived("series", number, 0))]
        attributes = ups_task.build(
            plugin=PLUGIN, title="Tally", label=f"Tally {number} {threshold:g}", parameters=written,
            inputs=references, patient={}, now=time.time(),
        )  # fmt: skip
        if twin:  # what may wait for less long than the other does not supersede it: both are done
            attributes[ups.EXPIRATION_DATETIME] = ups.element("DT", ups.dt(time.time() + 86_400))
        self.uids[uid] = asked
        body, kind = orjson.dumps([attributes]), "application/dicom+json"
        self._until(f"/workitems?{uid}", body, kind, (201, 409))
        self._until(f"/workitems?{uid}", body, kind, (409,))  # the same once more makes nothing

    def _until(self, path: str, body: bytes, kind: str, good: tuple[int, ...]) -> None:
        until = time.monotonic() + QUIET_S
        while True:
            try:
                answer = self._chaos.http.post(path, content=body, headers={"Content-Type": kind})
                if answer.status_code in good:
                    return
                assert answer.status_code in (202, 503), (path.partition("?")[0], answer.status_code, answer.text[:500])
            except (httpx.HTTPError, RuntimeError):
                pass  # the server is gone, or its client was replaced
            self.again += 1
            assert time.monotonic() < until, f"no definite answer to POST {path.partition('?')[0]}"
            time.sleep(0.1)


class Services:
    """What the scaled form stands on, on this machine, to be killed and started again: PostgreSQL and Redis; and S3."""

    def __init__(self, stack: ExitStack) -> None:
        s3 = stack.enter_context(rclone())
        self.postgresql: PostgreSQL = stack.enter_context(postgresql())
        self.postgresql.stop()
        self.postgresql.start(fsync=True)
        self.redis: Redis = stack.enter_context(redis())
        self.index = self.postgresql.new_database()
        self.settings = {
            "M3DICOM_INDEX": self.index,
            "M3DICOM_OBJECTS": f"s3://{s3.bucket}/objects",
            "M3DICOM_S3_ENDPOINT": s3.endpoint,
            "M3DICOM_QUEUE": self.redis.url,
            "AWS_ACCESS_KEY_ID": s3.access_key,
            "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        }

    def kill_postgresql(self) -> None:
        """kill -9 of every process of it, as far as they are told apart from others by their parent."""
        folder = self.postgresql.folder / "data"
        first = int((folder / "postmaster.pid").read_text().split()[0])
        everybody = [first, *descendants(first)]
        for pid in everybody:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(map(_alive, everybody)), "PostgreSQL outlives kill -9")
        # In a container whose first process reaps nobody, it would seem to live on to the next one.
        for left in (folder / "postmaster.pid", *self.postgresql.folder.glob(".s.PGSQL.*")):
            left.unlink()


class Chaos:
    """A deployment of one form, the tasks that are asked of it, and what is killed meanwhile."""

    def __init__(self, folder: Path, *, scaled: bool, seed: int = 1, workers: int = 2) -> None:
        self.dice = random.Random(seed)
        self.killed: Counter[str] = Counter()
        self.output: list[str] = []
        self.scaled = scaled
        self._folder = folder
        self._stack = ExitStack()
        self._services = Services(self._stack) if scaled else None
        self._settings = SETTINGS | chaos_plugin.installed(folder / "plug-in")
        self._settings |= self._services.settings if self._services else {}
        self._settings["M3DICOM_WORKERS"] = "0" if scaled else "2"
        self.http = httpx.Client()
        self._token = ""
        self.server = self._start_server()
        self._workers: list[subprocess.Popen[bytes]] = []
        self._logs: dict[int, Path] = {}
        self._hired = 0
        for _ in range(workers if scaled else 0):
            self._hire()
        self.asking = Asking(self)
        self.planned: set[Asked] = set()
        self._twins: deque[tuple[int, Asked, int]] = deque()
        self._orders = 0

    # What runs

    def _start_server(self) -> RunningServer:
        server = start_server(self._folder / "server", settings=self._settings)
        self._token = self._token or server.token
        old = self.http
        headers = {"Authorization": f"Bearer {self._token}"}
        self.http = httpx.Client(base_url=f"{server.http}/dicom-web", headers=headers, timeout=60)
        old.close()
        return server

    def _hire(self) -> None:
        self._hired += 1
        path = self._folder / f"worker-{self._hired}.log"
        clean = {k: v for k, v in os.environ.items() if not k.startswith("M3DICOM_")}
        command = [COMMAND, "worker", "--data", str(self._folder / f"worker-{self._hired}"), "--plugins", PLUGIN]
        environment = clean | self._settings | {"M3DICOM_WORKERS": "1"}
        with path.open("wb") as log:
            one = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self._workers.append(one)
        self._logs[one.pid] = path

    # What is killed

    @property
    def victims(self) -> dict[str, Callable[[], None]]:
        """What can be killed in this form, by what the report calls it."""
        common = {"child of a worker": self._kill_child, "server with its scheduler": self._kill_server}
        if not self._services:
            return common
        return common | {
            "worker": self._kill_worker,
            "worker, told to stop (SIGTERM)": self._stop_worker,
            "Redis, all it held lost": self._kill_redis,
            "PostgreSQL": self._kill_postgresql,
        }

    def _kill_child(self) -> None:
        # Each turn asks for a task, and whoever does it has a child; one that ended by itself is not a kill.
        found: list[int] = []
        while not found:
            wait_until(lambda: bool(self._children()), "no worker has a child", QUIET_S)
            for pid in self.dice.sample(children := self._children(), min(1, len(children))):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    found.append(pid)

    def _children(self) -> list[int]:
        parents = [each.pid for each in self._workers] if self.scaled else [self.server.process.pid]
        return [pid for parent in parents for pid in descendants(parent) if _is_child(pid)]

    def _kill_server(self) -> None:
        everybody = descendants(self.server.process.pid)
        self.server.process.kill()
        self.server.process.wait()
        wait_until(lambda: not any(map(_alive, everybody)), "children outlive their server")
        self.output.append("".join(self.server.output))
        self._pause()
        self.server = self._start_server()

    def _kill_worker(self) -> None:
        self._end_worker(signal.SIGKILL)

    def _stop_worker(self) -> None:
        assert self._end_worker(signal.SIGTERM) == 0, "a worker that was told to stop failed"

    def _end_worker(self, number: int) -> int:
        started = [each for each in self._workers if self._works(each)]
        one = self.dice.choice(started or self._workers)
        wait_until(lambda: self._works(one), "a worker does not start")
        self._workers.remove(one)
        self._hire()  # workers are added while others run
        one.send_signal(number)
        return one.wait(60)

    def _works(self, worker: subprocess.Popen[bytes]) -> bool:
        return "worker: plug-ins" in self._logs[worker.pid].read_text(errors="replace")

    def _kill_redis(self) -> None:
        assert self._services is not None
        self._services.redis.kill()
        self._pause()
        self._services.redis.start()

    def _kill_postgresql(self) -> None:
        assert self._services is not None
        self._services.kill_postgresql()
        self._pause()
        self._services.postgresql.start(fsync=True)

    def _pause(self) -> None:
        time.sleep(self.dice.uniform(0.0, 1.0))

    # The run

    def order(self, tasks: list[Asked]) -> None:
        """Ask for each of these twice; a study's first task is made by a rule when the study has arrived.

        Of half of them the twin comes at once, so that both are mostly done at the same time, of the others later.
        """
        self._orders += 1
        while self._twins and self._twins[0][0] <= self._orders:
            self.asking.task(*self._twins.popleft()[1:])
        for asked in tasks:
            number, threshold = asked
            if asked in self.planned:
                continue
            if not any(number == other for other, _ in self.planned):
                self.asking.study(number)
            self.planned.add(asked)
            if threshold != DEFAULT:
                self.asking.task(asked, 0)
            if len(self.planned) % 2:
                self.asking.task(asked, 1)
            else:
                self._twins.append((self._orders + TWIN_AFTER, asked, 1))

    def turn(self, victim: str) -> None:
        """Kill one thing in the middle of the work."""
        for one in list(self._workers):
            if one.poll() is not None:  # it ended by itself; whoever runs workers starts another
                self._workers.remove(one)
                self._hire()
                self.killed["worker that ended by itself, replaced"] += 1
        open_before: tuple[int, int] | None = None
        with suppress(httpx.HTTPError):
            open_before = self._open()
        wait_until(lambda: self._open() != open_before or self._open() == (0, 0), "nothing moves", QUIET_S)
        time.sleep(self.dice.uniform(0.0, 0.5))
        self.victims[victim]()
        self.killed[victim] += 1

    def _items(self) -> list[dict[str, Any]]:
        answer = self.http.get("/workitems", params={"includefield": "all"})
        assert answer.status_code in (200, 204), answer.text[:500]
        return list(answer.json()) if answer.status_code == 200 else []

    def _open(self) -> tuple[int, int]:
        """How many Workitems wait, now or for later, and how many are under way."""
        answer = self.http.get(f"{self.server.http}/api/queues")
        if answer.status_code == 503:
            raise httpx.HTTPError("the database is away")
        assert answer.status_code == 200, answer.text[:500]
        ours = [each for each in answer.json() if each["plugin"] == PLUGIN]
        return sum(each["waiting"] + each["later"] for each in ours), sum(each["running"] for each in ours)

    def finish(self) -> None:
        """Ask for the twins that are left, and wait until everything has ended."""
        while self._twins:
            self.asking.task(*self._twins.popleft()[1:])
        moved, last = time.monotonic(), None
        while True:
            with suppress(httpx.HTTPError):
                now = self._open()
                if now == (0, 0) and self.asking.idle and self._ruled():
                    break
                if now != last:
                    moved, last = time.monotonic(), now
            assert time.monotonic() - moved < QUIET_S, f"nothing moves any more: {last}"
            time.sleep(0.2)
        assert not self.asking.errors, self.asking.errors

    def _ruled(self) -> bool:
        """Whether the rule has seen every study."""
        made = sum(item["00080018"]["Value"][0] not in self.asking.uids for item in self._items())
        return made >= len({number for number, _ in self.planned})

    def judge(self) -> dict[str, int]:
        """What came out, all of it checked: counts for a report."""
        results = self.http.get("/instances", params={"Modality": "SEG", "includefield": "SeriesInstanceUID"}).json()
        found: list[tuple[str, Asked]] = []
        by_series = {uids.derived("series", number, 0): number for number, _ in self.planned}
        voxels = {(asked[0], expected(asked)): asked for asked in self.planned}
        assert len(voxels) == len(self.planned), "two tasks of one study would have the same result"
        for each in results:
            study, series, uid = (each[tag]["Value"][0] for tag in ("0020000D", "0020000E", "00080018"))
            raw = self.http.get(
                f"/studies/{study}/series/{series}/instances/{uid}",
                headers={"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'},
            ).content
            start = raw.index(b"\r\n\r\n") + 4
            ds = dcmread(BytesIO(raw[start : raw.rindex(b"\r\n--")]))
            number = by_series[ds.ReferencedSeriesSequence[0].SeriesInstanceUID]
            found.append((uid, voxels[number, int((ds.pixel_array > 0).sum())]))
        items = self._items()
        together = judged(self.planned, found, items, self.asking.uids)
        self._judge_logs()
        runs = self._runs()
        assert runs >= len(items), f"{runs} runs for {len(items)} Workitems, each of which has to be done"
        return {
            "tasks": len(self.planned), "workitems": len(items), "together": together, "results": len(found),
            "runs": runs, "again": self.asking.again,
        }  # fmt: skip

    def _runs(self) -> int:
        engine = create_engine(
            self._services.index if self._services else f"sqlite:///{self._folder / 'server' / 'index.db'}"
        )
        try:
            with engine.connect() as conn:
                return int(conn.execute(text("SELECT sum(attempt) FROM workitem")).scalar_one())
        finally:
            engine.dispose()

    def _judge_logs(self) -> None:
        said = [*self.output, "".join(self.server.output)]
        said += [path.read_text(errors="replace") for path in self._folder.glob("worker-*.log")]
        for each in said:
            assert "Traceback" not in each, each[-6000:]

    def close(self) -> None:
        """End everything."""
        self.asking.close()
        self.http.close()
        processes = [*self._workers, self.server.process]
        for one in processes:
            one.terminate()
        for one in processes:
            one.wait(60)
        self._stack.close()


def judged(
    planned: set[Asked],
    found: Sequence[tuple[str, Asked]],
    items: Sequence[Mapping[str, Any]],
    asked_by_uid: Mapping[str, Asked],
) -> int:
    """How many tasks were done twice at the same time. AssertionError where one was lost, given up or mixed up.

    planned: the tasks, each asked for twice; found: SOP Instance UID of each result, and whose result its pixels are;
    items: the Workitems (PS3.18 F.2), two of each task, and both have to name its one result; asked_by_uid: what those
    of them ask for that have a UID of the client.
    """
    by_uid = dict(found)
    assert len(by_uid) == len(found), "a result is there twice"
    lost = planned - set(by_uid.values())
    twice = [asked for asked, count in Counter(by_uid.values()).items() if count > 1]
    assert not lost, f"{len(lost)} of {len(planned)} tasks have no result"
    assert not twice, f"{len(twice)} tasks have more than one result"
    assert len(by_uid) == len(planned), "there are results of tasks that nobody asked for"
    named = {item["00080018"]["Value"][0] for item in items}
    assert len(named) == len(items) == 2 * len(planned), f"{len(items)} Workitems of {len(planned)} tasks"
    done: dict[Asked, list[tuple[float, float]]] = {}
    for item in items:
        uid, state = item["00080018"]["Value"][0], item["00741000"]["Value"][0]
        if state == "CANCELED":
            why = item["00741002"]["Value"][0].get("00741238", {}).get("Value", [""])[0]
            raise AssertionError(f"a task was given up: {why}")
        assert state == "COMPLETED", f"a task was left {state}"
        performed = item["00741216"]["Value"][0]
        outputs = [i["00081155"]["Value"][0] for o in performed["00404033"]["Value"] for i in o["00081199"]["Value"]]
        assert len(outputs) == 1, "a Workitem names another number of results than one"
        assert outputs[0] in by_uid, "a Workitem names a result that is not there"
        asked = by_uid[outputs[0]]
        assert asked_by_uid.get(uid, asked) == asked, "a Workitem names the result of another"
        began, ended = (ups.from_dt(performed[tag]["Value"][0]) for tag in ("00404050", "00404051"))
        done.setdefault(asked, []).append((began, ended))
    assert done.keys() == planned, "a result is there that no Workitem names"
    assert all(len(times) == 2 for times in done.values()), "a result is not named by both its Workitems"
    return sum(max(a[0], b[0]) < min(a[1], b[1]) for a, b in done.values())


def _is_child(pid: int) -> bool:
    try:
        return b"analysis.child" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def tasks(count: int, studies: int) -> list[Asked]:
    """So many tasks on so many studies, each with a result of its own; the first of each study is that of the rule."""
    each = -(-count // studies)
    thresholds = [DEFAULT, *(float(-1020 + 14 * n) for n in range(each))]
    thresholds = [t for n, t in enumerate(thresholds) if not n or expected((0, t)) != expected((0, DEFAULT))]
    return [(number, thresholds[n]) for n in range(each) for number in range(studies)][:count]


def run(
    chaos: Chaos, wanted: list[Asked], kills: int, said: Callable[[int], None] = lambda _: None
) -> Mapping[str, int]:
    """The whole of it: tasks asked for bit by bit while things are killed, each kind as often; what came out."""
    victims = list(chaos.victims)
    deck: list[str] = []
    for number in range(kills):
        chaos.order(wanted[number * len(wanted) // kills : (number + 1) * len(wanted) // kills])
        if not deck:
            deck = chaos.dice.sample(victims, len(victims))
        chaos.turn(deck.pop())
        said(number + 1)
    chaos.finish()
    return chaos.judge()
