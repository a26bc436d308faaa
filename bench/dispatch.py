#!/usr/bin/env python
"""What the platform adds to a task: claim, lease, inputs fetched and decoded, results filed, with 10,000 waiting.

  dispatch.py embedded            files and SQLite, the worker in the server's way, no Redis
  dispatch.py scaled              PostgreSQL, Redis with arq, S3 (rclone), all started here for the run

The plug-in does nothing at all ("nothing"), or labels 2 slices of 64 x 64 ("labels": one Segmentation is encoded and
filed), so that the whole time of a task is overhead. One worker with one slot and a warm child process; wall time from
the first claim to the last completion, over the tasks, and CPU of the worker's process and its children.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

from analysis.api import Code, Input, LabelMap, Manifest, Output, Params, Resources, Segment  # noqa: E402

DENSE = Segment(
    1, "Dense", Code("49755003", "SCT", "Morphologically Abnormal Structure"), Code("272673000", "SCT", "Bone")
)


class Number(Params):
    """A number, so that each task is another one."""

    number: int = 0


class Nothing:
    """Reads its input, and that is all."""

    params = Number
    name, outputs = "nothing", ()

    def __init__(self):
        self.manifest = Manifest(
            id=self.name, version="1.0", title=self.name, inputs=(Input(name="series"),), outputs=self.outputs,
            resources=Resources(memory_mb=2000, timeout_s=60), auto=False,
        )  # fmt: skip

    def run(self, ctx, params):
        """Do nothing."""


class Labels(Nothing):
    """One Segmentation."""

    name, outputs = "labels", (Output(name="labels", kind="SEG"),)

    def run(self, ctx, params):
        """Emit a LabelMap."""
        volume = ctx.inputs["series"]
        ctx.emit("labels", LabelMap(volume, (volume.data > params.number % 4000 - 2000).astype(np.uint8), (DENSE,)))


@contextmanager
def settings(mode: str) -> Iterator[dict[str, object]]:
    """The settings of either form."""
    if mode == "embedded":
        yield {}
        return
    from redis_server import redis
    from servers import postgresql, rclone

    with ExitStack() as stack:
        s3, cluster = stack.enter_context(rclone()), stack.enter_context(postgresql())
        cluster.stop()
        cluster.start(fsync=True)
        os.environ |= {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
        yield {
            "index": cluster.new_database(), "queue": stack.enter_context(redis()).url,
            "objects": f"s3://{s3.bucket}/objects", "s3_endpoint": s3.endpoint,
        }  # fmt: skip


def measure(mode: str, plugin: str, waiting: int, tasks: int, folder: Path) -> str:
    """A line with what one task takes."""
    import dicom_data

    from analysis.queue import Dispatcher, open_queue
    from analysis.registry import Registry
    from analysis.worker import Worker
    from pacs import uids
    from pacs.archive import open_archive
    from pacs.auth import SYSTEM
    from pacs.dicom import ups_task
    from pacs.settings import Settings
    from pacs.worklist import Worklist

    with settings(mode) as chosen:
        archive = open_archive(Settings(data=folder / "data", device="cpu", workers=1, **chosen))
        archive = archive.with_services(worklist=Worklist(archive.index, archive.events))
        try:
            for ds in dicom_data.series(2, Rows=64, Columns=64, PixelData=bytes(2 * 64 * 64)):
                with archive.ingest.receive_part10() as receiving:
                    receiving.write(dicom_data.part10(ds))
                    archive.ingest.store(receiving, principal=SYSTEM)
            inputs = [ups_task.References(uids.derived("study", 0), uids.derived("series", 0, 0))]

            def ask(number: int) -> None:
                written = [ups_task.Parameter("number", "Number", number)]
                attributes = ups_task.build(
                    plugin=plugin, title=plugin, label=plugin, parameters=written, inputs=inputs, patient={},
                    now=time.time(),
                )  # fmt: skip
                archive.worklist.create(attributes, None, SYSTEM)

            with ThreadPoolExecutor(8) as pool:
                list(pool.map(ask, range(waiting)))
            registry = Registry.load({"nothing": "dispatch:Nothing", "labels": "dispatch:Labels"})
            assert registry.broken == (), registry.broken
            port = open_queue(chosen.get("queue", "local"), archive.events)
            dispatcher = Dispatcher(archive, port)
            over = threading.Event()

            def dispatch() -> None:
                while not over.wait(0.5):  # as the server's scheduler does
                    dispatcher.step(time.time())

            scheduler = threading.Thread(target=dispatch)
            scheduler.start()
            worker = Worker(archive, registry, port, slots=1)
            worker.start()

            def done() -> int:
                return sum(worker.metrics.counts().values())

            while done() < 20:  # warm
                time.sleep(0.01)
            began, first, cpu = time.perf_counter(), done(), cpu_s(worker)
            while done() < first + tasks:
                time.sleep(0.005)
            wall, ended, cpu = time.perf_counter() - began, done(), cpu_s(worker) - cpu
            outcomes = worker.metrics.counts()
            worker.stop()
            over.set()
            scheduler.join()
            port.close()
        finally:
            archive.close()
    assert set(outcomes) == {"completed"}, outcomes
    count = ended - first
    return f"| {mode} | {plugin} | {waiting:,} | {count} | {1e3 * wall / count:.1f} | {1e3 * cpu / count:.1f} |"


def cpu_s(worker: object) -> float:
    """CPU seconds of this process and of the plug-ins' processes."""
    ticks = 0
    for pid in [os.getpid(), *(pid for runner in worker._runners for _, pid in runner.children)]:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", nargs="*", default=["embedded", "scaled"])
    parser.add_argument("--waiting", type=int, default=10_000, help="tasks in the queue (10,000)")
    parser.add_argument("--tasks", type=int, default=300, help="of these measured (300)")
    parser.add_argument("--plugin", default="nothing,labels")
    given = parser.parse_args()
    print("| form | plug-in | waiting | measured | wall ms a task | CPU ms a task |\n|---|---|---:|---:|---:|---:|")
    for mode in given.mode:
        for plugin in given.plugin.split(","):
            with tempfile.TemporaryDirectory(prefix="m3dispatch") as folder:
                print(measure(mode, plugin, given.waiting, given.tasks, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
