"""Cancelling for real, embedded and scaled: what never asks is ended with all that it started, and nothing is filed."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import dicom_data
import pytest
from redis_server import redis
from servers import postgresql
from task_plugins import ENDLESS

from analysis.queue import Dispatcher, open_queue
from analysis.registry import Registry
from analysis.worker import Worker
from pacs import uids
from pacs.archive import Archive, open_archive
from pacs.auth import SYSTEM, Principal
from pacs.dicom import ups_task
from pacs.settings import Settings
from pacs.tasks import Tasks
from pacs.worklist import Worklist

USER = Principal("ann", "session")


@dataclass
class Form:
    """A running archive with a worker."""

    archive: Archive
    dispatcher: Dispatcher


@pytest.fixture(scope="module")
def form(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Form]:
    """SQLite and the task table; PostgreSQL and arq on Redis."""
    with ExitStack() as stack:
        scaled = request.param == "scaled"
        index = stack.enter_context(postgresql()).new_database() if scaled else "sqlite"
        queue = stack.enter_context(redis()).url if scaled else "local"
        settings = Settings(data=tmp_path_factory.mktemp("cancel") / "data", index=index, queue=queue, device="cpu")
        opened = open_archive(settings)
        stack.callback(opened.close)
        archive = opened.with_services(worklist=Worklist(opened.index, opened.events))
        port = open_queue(queue, archive.events)
        stack.callback(port.close)
        worker = Worker(archive, Registry.load(ENDLESS), port, slots=1, name="tests")
        worker.start()
        stack.callback(worker.stop)
        for ds in dicom_data.series(3):
            receiving = archive.ingest.receive_part10()
            receiving.write(dicom_data.part10(ds))
            archive.ingest.store(receiving, principal=USER)
        yield Form(archive, Dispatcher(archive, port))


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.05)


def alive(mark: str) -> bool:
    """Whether a process with this mark in its command line runs."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "cmdline").read_bytes():
                return (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            continue
    return False


def children() -> set[str]:
    """The analysis processes of this test, by id."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"task_plugins:Endless" in (folder / "cmdline").read_bytes():
                found.add(folder.name)
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("form", "how"), [("embedded", "family"), ("scaled", "c"), ("scaled", "family")], indirect=["form"]
)
def test_what_is_busy_for_ever_is_ended_with_all_it_started(form: Form, how: str) -> None:
    archive, tasks, mark = form.archive, Tasks(form.archive.worklist), uuid.uuid4().hex
    attributes = ups_task.build(
        plugin="endless", title="Endless", label="Endless", patient={}, now=time.time(),
        parameters=[ups_task.Parameter("how", "How", how), ups_task.Parameter("mark", "Mark", mark)],
        inputs=[ups_task.References(uids.derived("study", 0), uids.derived("series", 0, 0))],
    )  # fmt: skip
    uid = archive.worklist.create(attributes, None, USER)

    def busy() -> bool:
        form.dispatcher.step(time.time())
        return tasks.get(uid, SYSTEM).message == "busy"

    until(busy, "it is busy")
    if how == "family":
        until(lambda: alive(mark), "what it started runs")
    before = children()
    archive.worklist.request_cancel(uid, "wrong series", USER)
    until(lambda: tasks.get(uid, SYSTEM).ended is not None, "the task has ended")
    told = tasks.get(uid, SYSTEM)
    assert (told.state, told.ended, told.reason) == ("CANCELED", "cancelled", "wrong series")
    until(lambda: not before & children(), "its process is gone")
    until(lambda: not alive(mark), "what it started is gone")
    assert ups_task.outputs_of(archive.worklist.retrieve(uid, SYSTEM)) == ()
    assert "result" not in {change.kind for change in archive.changes.after(0, 1000)}
