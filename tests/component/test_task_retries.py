"""A task whose objects are away for a while: an S3 that answers 503 costs time, and then the task is done."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import dicom_data
import pytest
from faults.proxy import Proxy, sometimes
from servers import S3Server
from task_plugins import TARGETS

from analysis.registry import Registry
from analysis.runner import Runner
from pacs import uids
from pacs.archive import Archive, open_archive
from pacs.auth import SYSTEM, Principal
from pacs.dicom import ups_task
from pacs.settings import Settings
from pacs.storage.s3 import S3Store
from pacs.tasks import Tasks
from pacs.worklist import Worklist

USER = Principal("ann", "session")


@pytest.fixture
def proxy(rclone_server: S3Server) -> Iterator[Proxy]:
    port = urlsplit(rclone_server.endpoint).port
    assert port is not None
    made = Proxy(port)
    yield made
    made.close()


@pytest.fixture
def archive(
    proxy: Proxy, rclone_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Archive]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", rclone_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", rclone_server.secret_key)
    monkeypatch.setitem(S3Store.__init__.__kwdefaults__, "deadline_s", 2.0)
    objects = f"s3://{rclone_server.bucket}/{tmp_path.name}"
    settings = Settings(
        data=tmp_path / "data", objects=objects, s3_endpoint=proxy.endpoint, s3_cache_bytes=0, device="cpu"
    )
    opened = open_archive(settings)
    yield opened.with_services(worklist=Worklist(opened.index, opened.events))
    opened.close()


def test_a_store_that_is_away_costs_time_and_nothing_else(archive: Archive, proxy: Proxy) -> None:
    """Neither read nor written for a while: first inputs cannot be fetched, then results cannot be filed."""
    for ds in dicom_data.series(3):
        receiving = archive.ingest.receive_part10()
        receiving.write(dicom_data.part10(ds))
        archive.ingest.store(receiving, principal=USER)
    attributes = ups_task.build(
        plugin="count", title="Count", label="Count", parameters=[], patient={}, now=time.time(),
        inputs=[ups_task.References(uids.derived("study", 0), uids.derived("series", 0, 0))],
    )  # fmt: skip
    uid = archive.worklist.create(attributes, None, USER)
    tasks, runner = Tasks(archive.worklist), Runner(archive, Registry.load(TARGETS))
    try:
        for attempt, (away, pause) in enumerate((("GET", 5), ("PUT", 15), ("", 0)), 1):
            proxy.fault = sometimes("503", 1.0, methods=(away,)) if away else None
            claim = archive.worklist.claim(["count"], "tests", time.time() + 60, 600)
            assert claim is not None
            assert claim.attempt == attempt
            outcome = runner.run(claim, threading.Event())
            told = tasks.get(uid, SYSTEM)
            if away:
                assert outcome == "retried"
                assert told.state == "IN PROGRESS"
                assert told.message.startswith(f"waiting for a worker, attempt {attempt + 1} in {pause} s: ")
                assert archive.worklist.claim(["count"], "tests", time.time(), 600) is None
    finally:
        proxy.fault = None
        runner.close()
    assert (outcome, told.ended, told.attempt) == ("completed", "completed", 3)
    assert len(ups_task.outputs_of(archive.worklist.retrieve(uid, SYSTEM))) == 2
