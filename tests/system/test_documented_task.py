"""The Workitem of docs/tasks.md, posted as it stands there."""

from __future__ import annotations

import re

import pytest
from conftest import ROOT, ServerStarter
from dicom_data import part10

from pacs.server import demo

pytestmark = pytest.mark.system


def test_the_documented_workitem_runs(start: ServerStarter) -> None:
    server = start(settings={"M3DICOM_STABLE_AFTER_S": "86400"})  # no rule asks for the same
    _, head = demo.studies(demo.SMALL)[1]
    page = (ROOT / "docs" / "tasks.md").read_text()
    workitem = re.search(r"```json\n(.*?)```", page, re.DOTALL)
    assert workitem is not None
    body = workitem[1].replace("STUDY", str(head[0].StudyInstanceUID)).replace("SERIES", str(head[0].SeriesInstanceUID))
    with server.client() as client:
        stow = (
            b"".join(b"--b\r\nContent-Type: application/dicom\r\n\r\n" + part10(ds) + b"\r\n" for ds in head) + b"--b--"
        )
        kind = 'multipart/related; type="application/dicom"; boundary=b'
        assert client.post("/studies", content=stow, headers={"Content-Type": kind}).status_code == 200
        answer = client.post("/workitems", content=body, headers={"Content-Type": "application/dicom+json"})
        assert answer.status_code == 201, answer.text
        uid = answer.headers["location"].rsplit("/", 1)[1]
        server.wait_for_tasks(1)
        [item] = client.get(f"/workitems/{uid}").json()
    assert item["00741000"]["Value"] == ["COMPLETED"], item
    assert len(item["00741216"]["Value"][0]["00404033"]["Value"]) >= 3
