"""Results on their way into the archive: what fails its checks is quarantined, the rest tells where it is from."""

from __future__ import annotations

import time
from collections.abc import Iterator
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import dicom_data
import pytest
from pydicom import dcmread
from sqlalchemy import delete

from analysis import provenance_view
from analysis.queue import LocalQueue
from analysis.registry import Registry
from analysis.results import record
from analysis.worker import Worker
from pacs import uids
from pacs.archive import Archive, open_archive
from pacs.auth import ALL_RIGHTS, SYSTEM, Principal
from pacs.dicom import ups, ups_task
from pacs.errors import NotFound
from pacs.index import schema
from pacs.json_api import Asked, Reply
from pacs.settings import Settings
from pacs.worklist import Worklist

ADMIN = Principal("eve", "session", ALL_RIGHTS)
STUDY, SERIES = uids.derived("study", 0), uids.derived("series", 0, 0)
PLUGINS = {
    "count": "task_plugins:Count",
    "inside-out": "task_plugins:InsideOut",
    "review": "task_plugins:Review",
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """An archive with a series, and a worker for both plug-ins."""
    folder: Path = tmp_path_factory.mktemp("filing")
    made = open_archive(Settings(data=folder, device="cpu", result_forms=("LABELMAP", "OBJ")))
    with_worklist = made.with_services(worklist=Worklist(made.index, made.events))
    for ds in dicom_data.series(3):
        receiving = made.ingest.receive_part10()
        receiving.write(dicom_data.part10(ds))
        made.ingest.store(receiving, principal=SYSTEM)
    worker = Worker(with_worklist, Registry.load(PLUGINS), LocalQueue(made.events), slots=1, name="tests")
    worker.start()
    yield with_worklist
    worker.stop()
    made.close()


def ended(archive: Archive, plugin: str, *more: ups_task.References) -> str:
    """The UID of a Workitem of that plug-in on the series (and more), once it is in a final state."""
    inputs = [*more, ups_task.References(STUDY, SERIES)]
    attributes = ups_task.build(
        plugin=plugin, title=plugin, label=plugin, parameters=[], inputs=inputs, patient={}, now=time.time()
    )
    uid = archive.worklist.create(attributes, None, ADMIN)
    until = time.monotonic() + 90
    while state(archive, uid) not in ("COMPLETED", "CANCELED"):
        assert time.monotonic() < until, "it did not end in time"
        time.sleep(0.05)
    return uid


def state(archive: Archive, uid: str) -> str:
    return str(ups.value(archive.worklist.retrieve(uid, SYSTEM), ups.PROCEDURE_STEP_STATE))


def test_what_does_not_pass_is_quarantined_and_the_task_says_why(archive: Archive) -> None:
    before = {location.sop_instance_uid for location in archive.retrieve.locate(SYSTEM, STUDY)}
    uid = ended(archive, "inside-out")
    assert state(archive, uid) == "CANCELED"
    reason = ups.progress_of(archive.worklist.retrieve(uid, SYSTEM))[2]
    assert "did not pass their checks" in reason
    assert "inside out" in reason
    # Neither the faulty objects nor the sound ones of the task are to be found.
    assert {location.sop_instance_uid for location in archive.retrieve.locate(SYSTEM, STUDY)} == before
    # A task may be done twice, a moment later: each faulty result is held once.
    assert state(archive, ended(archive, "inside-out")) == "CANCELED"
    held = archive.keeping.listed(ADMIN, "quarantined", study=STUDY)
    assert sorted(row["sop_class_uid"][-5:] for row in held) == ["104.3", "104.4"]
    assert all("the surface is inside out" in row["reason"] for row in held)
    assert all("Synthetic" not in row["reason"] for row in held)
    # A person may still look at one, and decide to have it.
    number = held[0]["id"]
    assert archive.keeping.of(ADMIN, number)["held"] is False
    archive.keeping.bring_in(ADMIN, number, "wanted for teaching")
    found = archive.retrieve.locate(SYSTEM, STUDY, None, held[0]["sop_instance_uid"])
    assert [location.sop_instance_uid for location in found] == [held[0]["sop_instance_uid"]]


def test_a_result_tells_where_it_is_from(archive: Archive) -> None:
    uid = ended(archive, "count")
    assert state(archive, uid) == "COMPLETED"
    [row] = provenance_view.rows(archive)
    told = row.handler(Asked(ADMIN, {"uid": uid})) if row.handler else None
    assert isinstance(told, dict)
    assert told["plugin"] == {"id": "count", "version": "1.0", "title": "Count"}
    assert told["parameters"] == {"threshold": 300, "pause_s": 0}
    assert told["package"].startswith("task_plugins sha256:")
    assert told["backend"].startswith("numpy")
    assert [each["instances"] for each in told["inputs"]] == [3]
    kinds = sorted(each["kind"] for each in told["outputs"])
    assert kinds == ["Comprehensive 3D SR Storage", "Label Map Segmentation Storage", "Segmentation Storage"]
    # The same from any of its results, and as a page.
    result = told["outputs"][0]
    assert row.handler is not None
    assert row.handler(Asked(ADMIN, {"uid": result["sop_instance_uid"]})) == told
    reply = row.handler(Asked(ADMIN, {"uid": uid}, {"as": "html"}))
    assert isinstance(reply, Reply)
    assert reply.media_type.startswith("text/html")
    seen = Words()
    seen.feed(reply.content.decode())
    for word in ("Count 1.0", "COMPLETED", "threshold", told["package"], result["sop_instance_uid"]):
        assert word in seen.text
    assert "Synthetic^Sam" not in seen.text
    # Every object says it itself.
    location = archive.retrieve.locate(SYSTEM, STUDY, None, result["sop_instance_uid"])[0]
    ds = dcmread(BytesIO(b"".join(archive.retrieve.part10(location))))
    kept = record.read(ds.to_json_dict())
    assert kept is not None
    digests = {each.sop_instance_uid: each.digest for each in archive.retrieve.locate(SYSTEM, STUDY, SERIES)}
    assert kept["inputs"]["instances"] == digests
    assert kept["workitem"] == uid
    for unknown in ("1.2.3", location.study_instance_uid):
        with pytest.raises(NotFound, match="neither a Workitem nor a result"):
            row.handler(Asked(ADMIN, {"uid": unknown}))


def test_what_was_made_of_a_result_tells_how_that_one_came_to_be(archive: Archive) -> None:
    again = ended(archive, "count")  # an equal task may have made these results already: they are this one's, too
    view = provenance_view.View(archive)
    [report] = [each for each in view.of(again, ADMIN)["outputs"] if "SR" in each["kind"]]
    maker = view.of(report["sop_instance_uid"], ADMIN)
    first = maker["workitem"]
    read = ((report["sop_class_uid"], report["sop_instance_uid"]),)
    second = ended(archive, "review", ups_task.References(STUDY, report["series_instance_uid"], read))
    assert state(archive, second) == "COMPLETED"
    told = view.of(second, ADMIN)
    assert [(each["instances"], each["made_by"]) for each in told["inputs"]] == [(1, [first]), (3, [])]
    assert told["upwards"] == [maker]
    seen = Words()
    seen.feed(provenance_view.page(told))
    for word in ("Review 1.0", "Count 1.0", first, second):
        assert word in seen.text


def test_results_tell_where_they_are_from_without_their_workitem(archive: Archive) -> None:
    """An index that was made again from the objects knows of no Workitems."""
    uid = ended(archive, "count")
    view = provenance_view.View(archive)
    before = view.of(uid, ADMIN)
    result = before["outputs"][0]["sop_instance_uid"]
    maker = view.of(result, ADMIN)["workitem"]
    archive.index.transact(lambda conn: conn.execute(delete(schema.workitem)))
    told = view.of(result, ADMIN)
    assert (told["workitem"], told["state"], told["label"]) == (maker, "removed", "")
    for name in ("plugin", "parameters", "package", "backend", "inputs", "outputs", "upwards"):
        assert told[name] == before[name], name
    assert view.of(maker, ADMIN) == told
    assert "removed" in provenance_view.page(told)


class Words(HTMLParser):
    """The text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def handle_data(self, data: str) -> None:
        self.text += data + " "
