"""One task a device: placing, refusing, falling back, memory, on devices that are not there but behave as if."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dicom_data
import numpy as np
import pytest

from analysis import device
from analysis.api import Resources
from analysis.command_guard import descendants
from analysis.devices import CPU, Device, Devices, configured
from analysis.process import Child, Limits, TaskFailed, TaskLost, TaskStopped
from analysis.queue import LocalQueue
from analysis.registry import Registry
from analysis.runner import Runner
from analysis.worker import Worker
from pacs import uids
from pacs.archive import Archive, open_archive
from pacs.auth import Principal
from pacs.dicom import ups, ups_task
from pacs.errors import InvalidInput, Unavailable
from pacs.settings import Settings
from pacs.worklist import Worklist

SMALL, LARGE = Device("fake:0", 8_000), Device("fake:1", 24_000)
TARGETS = {
    name: f"device_plugins:{name}"
    for name in ("anywhere", "only_gpu", "needs_16_gb", "needs_a_cluster", "needs_a_cluster_or_cpu", "on_cpu")
}
USER = Principal("ann", "session")


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    made = open_archive(Settings(data=tmp_path / "data", lease_s=5.0, gpus="none"))
    yield made.with_services(worklist=Worklist(made.index, made.events))
    made.close()


def registry() -> Registry:
    loaded = Registry.load(TARGETS)
    assert loaded.broken == ()
    return loaded


def test_the_setting_names_devices() -> None:
    assert configured("none") == []
    assert configured("0:24000, GPU-4f:81000") == [Device("gpu:0", 24_000), Device("gpu:GPU-4f", 81_000)]
    assert configured("fake0:8000") == [Device("fake:0", 8_000)]
    for wrong in ("0", "0:many", "0;rm:1", ":5"):
        with pytest.raises(InvalidInput, match="setting gpus"):
            configured(wrong)
    assert Devices.of("cpu", "0:24000").all == ()
    assert [each.id for each in Devices.of("auto", "0:8000,1:24000").all] == ["gpu:1", "gpu:0"]
    assert Device("gpu:GPU-4f").environment == {"CUDA_VISIBLE_DEVICES": "GPU-4f"}
    assert CPU.environment == {"CUDA_VISIBLE_DEVICES": ""}


def test_the_driver_is_asked_where_cupy_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        """#!/bin/sh
case "$*" in
"--query-gpu=uuid,memory.total --format=csv,noheader,nounits") echo "GPU-a, 24576"; echo "GPU-b, 81559" ;;
"--query-compute-apps=pid,used_memory -i GPU-a --format=csv,noheader,nounits")
    echo "77, 3000"; echo "78, 100"; echo "79, [N/A]" ;;
*) exit 2 ;;
esac
"""
    )
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    installed: list[object] = [None]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: installed[0])
    assert configured("auto") == [], "a GPU that nothing here can compute on"
    installed[0] = object()
    assert configured("auto") == [Device("gpu:GPU-a", 24_576), Device("gpu:GPU-b", 81_559)]
    assert [Device("gpu:GPU-a").used_mb(pid) for pid in (77, 78, 79, 80)] == [3000 - 1024, 0, 0, 0]
    assert Device("gpu:GPU-c").used_mb(77) == 0
    assert Device("cpu").used_mb(77) == 0


def test_where_tasks_may_run() -> None:
    gpu, must = Resources(gpu=True), Resources(gpu=True, gpu_optional=False)
    large = Resources(gpu=True, gpu_memory_mb=16_000)
    huge = Resources(gpu=True, gpu_memory_mb=100_000)
    two, none = Devices([SMALL, LARGE]), Devices()
    assert two.place(Resources(), None) is CPU
    assert two.place(gpu, LARGE) is LARGE
    assert two.place(gpu, None) is None, "what can use a device waits for one"
    assert two.place(large, SMALL) is None, "a device that is too small is none"
    assert two.place(huge, LARGE) is CPU, "no device is large enough, and it runs without"
    assert none.place(gpu, None) is CPU
    assert none.place(must, None) is None
    assert two.place(huge.model_copy(update={"gpu_optional": False}), LARGE) is None
    assert Devices(needed=True).place(gpu, None) is None, 'with the setting "gpu" nothing falls back'
    assert [two.ever(each) for each in (gpu, must, large, huge)] == [True] * 4
    assert [none.ever(each) for each in (gpu, must)] == [True, False]


def _hold(folder: str, told: Any, go_on: Any) -> None:
    held = Devices([SMALL], folder=Path(folder)).take()
    told.put(held is not None)
    go_on.wait()


def test_a_device_is_held_by_one_over_processes_and_freed_by_a_kill(tmp_path: Path) -> None:
    ours = Devices([SMALL, LARGE], folder=tmp_path)
    first, second = ours.take(), ours.take()
    assert first is not None
    assert second is not None
    assert (first.device, second.device) == (LARGE, SMALL)
    assert ours.take() is None
    second.release()
    context = multiprocessing.get_context("spawn")
    told, go_on = context.Queue(), context.Event()
    other = context.Process(target=_hold, args=(str(tmp_path), told, go_on))
    other.start()
    assert told.get(timeout=60)
    assert ours.take() is None, "another process has it"
    other.kill()
    other.join()
    again = ours.take()
    assert again is not None
    assert again.device == SMALL
    again.release()
    first.release()


def test_a_worker_serves_what_its_devices_can(archive: Archive) -> None:
    port = LocalQueue(archive.events)
    without = Worker(archive, registry(), port, devices=Devices())
    assert without.plugins == ("anywhere", "needs-16-gb", "needs-a-cluster-or-cpu", "on-cpu")
    with_both = Worker(archive, registry(), port, devices=Devices([SMALL, LARGE]))
    assert set(with_both.plugins) == set(registry().ids) - {"needs-a-cluster"}
    with pytest.raises(InvalidInput, match="plug-in needs-a-cluster needs a GPU with 900000 MB"):
        Worker(archive, registry(), port, plugins=("needs-a-cluster",), devices=Devices([LARGE]))


def ask(archive: Archive, plugin: str) -> str:
    references = [ups_task.References(uids.derived("study", 0), uids.derived("series", 0, 0))]
    attributes = ups_task.build(
        plugin=plugin, title=plugin, label=plugin, parameters=[], inputs=references, patient={}, now=time.time()
    )
    return archive.worklist.create(attributes, None, USER)


def test_tasks_are_placed_one_a_device_and_told_so(archive: Archive, tmp_path: Path) -> None:
    for ds in dicom_data.series(3):
        receiving = archive.ingest.receive_part10()
        receiving.write(dicom_data.part10(ds))
        archive.ingest.store(receiving, principal=USER)
    asked = [ask(archive, plugin) for plugin in ("only-gpu", "needs-16-gb", "needs-a-cluster-or-cpu", "on-cpu")]
    worker = Worker(
        archive, registry(), LocalQueue(archive.events), slots=2, devices=Devices([SMALL, LARGE], folder=tmp_path)
    )
    worker.start()
    until = time.monotonic() + 120
    for uid in asked:
        while (state := ups.value(item := archive.worklist.retrieve(uid, USER), ups.PROCEDURE_STEP_STATE)) not in (
            "COMPLETED", "CANCELED",
        ):  # fmt: skip
            assert time.monotonic() < until
            time.sleep(0.02)
        assert state == "COMPLETED", ups.progress_of(item)
    worker.stop()
    seen = [str(places.get(uid)) for uid in asked for places in [backends(archive)]]
    assert "as device" in seen[0]
    assert "as device 1" in seen[1]
    assert "as device" not in seen[2] + seen[3]


def backends(archive: Archive) -> dict[str, str]:
    """By Workitem, what its result says that it was computed with."""
    found = {}
    for item in archive.worklist.search({}, None, 0, USER)[0]:
        for references in ups_task.outputs_of(item):
            [location] = archive.retrieve.locate(
                USER, references.study_instance_uid, references.series_instance_uid, references.instances[0][1]
            )
            raw = b"".join(archive.retrieve.part10(location))
            start = raw.find(b"numpy ")
            found[str(ups.value(item, ups.SOP_INSTANCE_UID))] = raw[start : start + 40].decode("latin-1")
    return found


def task_in(folder: Path) -> dict[str, Any]:
    """A task on three slices, as a child takes it."""
    (folder / "out").mkdir()
    paths = [folder / f"{number}.dcm" for number in range(3)]
    for path, ds in zip(paths, dicom_data.series(3), strict=True):
        path.write_bytes(dicom_data.part10(ds))
    return {
        "workitem_uid": "1.2", "task_key": "0" * 64, "params": {}, "input_digests": [], "when": 1.8e9,
        "out": str(folder / "out"), "inputs": [{"name": "series", "files": [str(path) for path in paths]}],
    }  # fmt: skip


def test_a_plug_in_that_was_replaced_on_the_disk_makes_nothing_in_the_name_of_the_old_one(tmp_path: Path) -> None:
    child = Child("device_plugins:anywhere", "cpu", 1, version="0.9")  # which is what the worker has in its memory
    with pytest.raises(Unavailable, match=r"version 1\.0 was installed over 0\.9 .* has to be started again"):
        child.run(task_in(tmp_path), Limits(60, 8_000), lambda progress, words: "continue")
    assert not Path(f"/proc/{child.pid}").exists()


def test_who_takes_more_of_a_device_than_declared_is_ended(tmp_path: Path) -> None:
    child = Child("device_plugins:greedy", "fake:0", 1)
    task = task_in(tmp_path)
    limits = Limits(60, 8_000, SMALL, 600)
    with pytest.raises(TaskFailed, match="needed more than 600 MB of GPU memory"):
        child.run(task, limits, lambda progress, words: "continue")
    assert not Path(f"/proc/{child.pid}").exists()


class Pool:
    """CuPy's memory pool, as far as it is asked."""

    def __init__(self) -> None:
        self.limit: int | None = None
        self.freed = 0

    def set_limit(self, size: int) -> None:
        self.limit = size

    def free_all_blocks(self) -> None:
        self.freed += 1


def test_the_memory_pool_of_a_device_gets_the_declared_limit() -> None:
    class Cupy:
        pool, pinned = Pool(), Pool()

        def get_default_memory_pool(self) -> Pool:
            return self.pool

        def get_default_pinned_memory_pool(self) -> Pool:
            return self.pinned

    cupy = Cupy()
    backend = device.Backend("gpu", cupy, np, "cupy 99")  # type: ignore[arg-type]
    backend.limit(700)
    backend.free()
    assert (cupy.pool.limit, cupy.pool.freed, cupy.pinned.freed) == (700 << 20, 1, 1)
    device.choose("cpu").limit(700)  # on NumPy there is nothing to limit
    device.choose("cpu").free()


@pytest.mark.parametrize(
    ("size_mb", "end"), [(1, TaskStopped), (1200, TaskFailed), (1, TaskLost)], ids=["stopped", "memory", "killed"]
)
def test_what_a_plug_in_started_ends_with_it(tmp_path: Path, size_mb: int, end: type[Exception]) -> None:
    child = Child("device_plugins:parent", "cpu", 1, {"PID_FILE": str(tmp_path / "pid"), "MEMORY_MB": str(size_mb)})
    task = task_in(tmp_path)
    started = 0

    def check(progress: float, words: str) -> str:
        nonlocal started
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"):
            started += 1
            if end is TaskLost:
                os.kill(child.pid, signal.SIGKILL)  # as the kernel does when memory runs out
            if started == 1 and end is TaskStopped:
                os.killpg(os.getpgid(child.pid), signal.SIGTERM)  # as a service is stopped: the worker sees to that
        return "stop" if started > 3 and end is TaskStopped else "continue"

    with pytest.raises(end, match="more than 1000 MB of memory" if end is TaskFailed else None):
        child.run(task, Limits(60, 1_000), check)  # type: ignore[arg-type]
    _ends(int((tmp_path / "pid").read_text()))


WORKER = """
import json, sys
from analysis.process import Child, Limits
child = Child("device_plugins:parent", "cpu", 1, {"PID_FILE": sys.argv[1], "MEMORY_MB": "1"})
child.run(json.loads(sys.argv[2]), Limits(600, 8_000), lambda progress, words: "continue")
"""


def test_what_a_plug_in_started_ends_with_a_worker_that_is_killed(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", WORKER, str(pid), json.dumps(task_in(tmp_path))]
    with subprocess.Popen(command, env=environment) as worker:
        until = time.monotonic() + 60
        while not (pid.exists() and pid.read_text().endswith("\n")):
            assert worker.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        started = descendants(worker.pid)
        assert int(pid.read_text()) in started
        worker.kill()
    for each in started:
        _ends(each)


def _ends(pid: int) -> None:
    until = time.monotonic() + 60
    while _alive(pid):
        assert time.monotonic() < until, "what the plug-in started outlives it"
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_runners_tell_which_processes_are_on_which_device(archive: Archive) -> None:
    runner = Runner(archive, registry())
    assert runner.children == []
    worker = Worker(archive, registry(), LocalQueue(archive.events), devices=Devices([SMALL]))
    assert worker.states == [(SMALL, False, 0)]
    assert SMALL.used_mb(os.getpid()) > 10
    runner.close()
