#!/usr/bin/env python
"""How long a cancel takes of a task that computes without ever asking, until its state says so and its process is gone.

  cancel.py embedded [TIMES]      files and SQLite, the worker in the server's way, no Redis
  cancel.py scaled [TIMES]        PostgreSQL and Redis with arq, started here for the run

Half of the tasks are busy in Python, half within one call in C that holds the interpreter lock. Wall time from the
request: to CANCELED in the table, and until the process of the analysis and all that it started are gone.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]
os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)

import dicom_data  # noqa: E402
from task_plugins import ENDLESS  # noqa: E402

from analysis.queue import Dispatcher, open_queue  # noqa: E402
from analysis.registry import Registry  # noqa: E402
from analysis.worker import Worker  # noqa: E402
from pacs import uids  # noqa: E402
from pacs.archive import open_archive  # noqa: E402
from pacs.auth import SYSTEM, Principal  # noqa: E402
from pacs.dicom import ups_task  # noqa: E402
from pacs.settings import Settings  # noqa: E402
from pacs.tasks import Tasks  # noqa: E402
from pacs.worklist import Worklist  # noqa: E402

USER = Principal("bench", "session")


def wait(condition):
    """Return once it holds."""
    until = time.monotonic() + 60
    while not condition():
        if time.monotonic() > until:
            sys.exit("it did not happen within a minute")
        time.sleep(0.005)


def main():
    """Cancel so many tasks, one after another."""
    form, times = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 20
    with ExitStack() as stack:
        index, queue = "sqlite", "local"
        if form == "scaled":
            from redis_server import redis
            from servers import postgresql

            index, queue = stack.enter_context(postgresql()).new_database(), stack.enter_context(redis()).url
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        opened = open_archive(Settings(data=Path(folder) / "data", index=index, queue=queue, device="cpu"))
        stack.callback(opened.close)
        archive = opened.with_services(worklist=Worklist(opened.index, opened.events))
        port = open_queue(queue, archive.events)
        stack.callback(port.close)
        worker = Worker(archive, Registry.load(ENDLESS), port, slots=1, name="bench")
        worker.start()
        stack.callback(worker.stop)
        for ds in dicom_data.series(3):
            receiving = archive.ingest.receive_part10()
            receiving.write(dicom_data.part10(ds))
            archive.ingest.store(receiving, principal=USER)
        dispatcher, tasks = Dispatcher(archive, port), Tasks(archive.worklist)
        told, gone = [], []
        for number in range(times):
            how = ("python", "c")[number % 2]
            parameters = [ups_task.Parameter("how", "How", how), ups_task.Parameter("mark", "Mark", str(number))]
            asked = ups_task.build(
                plugin="endless", title="Endless", label="Endless", patient={}, now=time.time(), parameters=parameters,
                inputs=[ups_task.References(uids.derived("study", 0), uids.derived("series", 0, 0))],
            )  # fmt: skip
            uid = archive.worklist.create(asked, None, USER)

            def busy(uid=uid):
                dispatcher.step(time.time())
                return tasks.get(uid, SYSTEM).message == "busy"

            wait(busy)
            before = children()
            began = time.monotonic()
            archive.worklist.request_cancel(uid, "measured", USER)
            wait(lambda uid=uid: tasks.get(uid, SYSTEM).ended is not None)
            told.append(time.monotonic() - began)
            wait(lambda before=before: not any(Path(f"/proc/{pid}").exists() for pid in before))
            gone.append(time.monotonic() - began)
        for what, found in (("CANCELED", told), ("processes gone", gone)):
            print(f"{form}: {what}: median {statistics.median(found):.2f} s, longest {max(found):.2f} s of {times}")


def children():
    """The processes of analyses that this one has started."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"task_plugins:Endless" in (folder / "cmdline").read_bytes():
                found.add(folder.name)
        except OSError:
            continue
    return found


if __name__ == "__main__":
    main()
