"""A third party's package, installed beside us: its typed parameters from the schema to the result, and its batches."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import dicom_data
import httpx
import numpy as np
import pytest
from conftest import ROOT, RunningServer, _judge, start_server

from analysis.reports_read import findings
from pacs import uids
from pacs.dicom import ups, ups_task
from pacs.dicom.ups_task import Parameter, References

STUDIES = ("one", "two")
NAMELESS = {
    "00100010": "PN", "00100020": "LO", "00100030": "DA", "00100040": "CS", "00380010": "LO", "00380014": "SQ",
    "00081080": "LO", "00081084": "SQ",
}  # fmt: skip


def scan(name: str, radius: float) -> list[Any]:
    """A body of water with a ball of air in it, 12 slices of 32 x 32 voxels of 2 mm."""
    z, y, x = np.mgrid[:12, :32, :32]
    away = np.sqrt((z - 5.5) ** 2 + (y - 16) ** 2 + (x - 16) ** 2)
    voxels = np.where(np.hypot(y - 16, x - 16) < 13, 0, -1000)
    voxels[away < radius] = -1000
    # A shell of thin tissue: air for one threshold and none for another.
    voxels[(away >= radius) & (away < radius + 1)] = -450
    slices = []
    for number, plane in enumerate(voxels):
        ds = dicom_data.image(number, 32, 32)
        ds.StudyInstanceUID, ds.SeriesInstanceUID = uids.derived("air", name), uids.derived("air series", name)
        ds.SOPInstanceUID, ds.FrameOfReferenceUID = uids.derived("air", name, number), uids.derived("air frame", name)
        ds.PatientID, ds.PixelSpacing, ds.SliceThickness = f"AIR-{name}", [2, 2], 2
        ds.ImagePositionPatient = [0, 0, 2 * number]
        ds.PixelData = (plane + 1024).astype("<u2").tobytes()
        slices.append(ds)
    return slices


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("stranger")
    site = folder / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation",
         "--target", str(site), str(ROOT / "examples" / "air-spaces")],
        check=True, timeout=240,
    )  # fmt: skip
    # Nothing becomes stable here: what runs was asked for.
    path = os.pathsep.join([str(site), str(ROOT)])
    running = start_server(folder / "data", settings={"M3DICOM_STABLE_AFTER_S": "86400", "PYTHONPATH": path})
    with running.client() as http:
        for name, radius in zip(STUDIES, (4, 6), strict=True):
            for ds in scan(name, radius):
                body = dicom_data.part10(ds)
                http.post("/studies", content=body, headers={"Content-Type": "application/dicom"}).raise_for_status()
    yield running
    running.stop()
    _judge([running])


@pytest.fixture
def api(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.http, headers={"Authorization": f"Bearer {server.token}"}, timeout=60) as http:
        yield http


def workitem(**parameters: float) -> list[dict[str, Any]]:
    return [
        ups_task.build(
            plugin="air-spaces", title="Air spaces", label="Air",
            parameters=[Parameter(name, name, value) for name, value in parameters.items()],
            inputs=[References(uids.derived("air", "one"), uids.derived("air series", "one"))], patient={},
            now=time.time(),
        )
        | {tag: {"vr": vr} for tag, vr in NAMELESS.items()}
    ]  # fmt: skip


def asked(api: httpx.Client, body: list[dict[str, Any]]) -> httpx.Response:
    return api.post("/dicom-web/workitems", json=body, headers={"Content-Type": "application/dicom+json"})


def ended(api: httpx.Client, number: int) -> dict[str, Any]:
    until = time.monotonic() + 240
    while True:
        told: dict[str, Any] = api.get(f"/api/batches/{number}").json()
        if told["state"] in ("done", "failed", "cancelled"):
            return told
        assert time.monotonic() < until, told
        time.sleep(0.2)


def reports(api: httpx.Client, study: str) -> list[dict[str, Any]]:
    found = []
    for each in api.get(f"/dicom-web/studies/{study}/series?Modality=SR").json():
        found += api.get(f"/dicom-web/studies/{study}/series/{each['0020000E']['Value'][0]}/metadata").json()
    return found


def test_the_schema_is_the_model(api: httpx.Client) -> None:
    (plugin,) = (each for each in api.get("/api/plugins").json() if each["id"] == "air-spaces")
    threshold = plugin["schema"]["properties"]["threshold"]
    assert (threshold["type"], threshold["minimum"], threshold["maximum"], threshold["default"], threshold["unit"]) == (
        "number", -950, -100, -400, "[hnsf'U]",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"threshold": 100.0}, "threshold: Input should be less than or equal to -100"),
        ({"treshold": -300.0}, "treshold: Extra inputs are not permitted"),
    ],
)
def test_a_request_that_it_would_never_take_is_refused(api: httpx.Client, given: dict[str, Any], words: str) -> None:
    refused = asked(api, workitem(**given))
    assert refused.status_code == 400
    assert words in refused.text
    again = api.post("/api/batches", json={"plugin": "air-spaces", "query": "", "parameters": given})
    assert again.status_code == 400
    assert words in again.json()["detail"]


def test_from_the_request_to_the_result_and_on_to_batches(server: RunningServer, api: httpx.Client) -> None:
    study = uids.derived("air", "one")
    created = asked(api, workitem(threshold=-500.0))
    assert created.status_code == 201, created.text
    uid = created.headers["location"].rpartition("/")[2]
    (done,) = server.wait_for_tasks(1)
    assert done["00741000"]["Value"] == ["COMPLETED"], ups.progress_of(done)
    assert ups_task.parameters_of(done) == {"threshold": -500.0}
    performed = done["00741216"]["Value"][0]
    assert ups_task.parameters_of(performed, "00741212") == {"threshold": -500.0}
    (report,) = reports(api, study)
    recorded = str(report)
    assert "threshold=-500" in recorded
    assert "smallest_ml=0.1" in recorded
    (small,) = findings(report)

    # Other parameters over both studies: nothing is there yet, and one result to compare with.
    wanted = {
        "plugin": "air-spaces",
        "query": "ModalitiesInStudy=CT&PatientID=AIR-*",
        "parameters": {"threshold": -300},
    }
    preview = api.post("/api/batches/preview", json=wanted).json()
    assert (preview["studies"], preview["to_run"], preview["replacing"]) == (2, 2, 1)
    assert preview["estimate_s"] > 0
    started = api.post("/api/batches", json=wanted)
    assert started.status_code == 201
    batch = ended(api, started.json()["id"])
    assert (batch["state"], batch["items"], batch["progress"]) == ("done", {"completed": 2}, 1.0)
    told = api.get(f"/api/batches/{batch['id']}/report").json()
    assert told["by"] == "air-spaces", told["note"]
    assert "2 series thinner than -300 HU" in told["table"]["summary"]
    volumes = [row[2] for row in told["table"]["rows"]]
    assert volumes == sorted(volumes, reverse=True)
    assert [row[3] for row in told["table"]["rows"]] == [100, 50]

    # Old against new: the thin shell is air now.
    table = api.get(f"/api/batches/{batch['id']}/report", params={"format": "csv", "table": "changes"})
    assert table.headers["content-type"].startswith("text/csv")
    lines = list(csv.DictReader(io.StringIO(table.text)))
    (volume,) = (each for each in lines if each["Measurement"] == "Volume")
    before = next(each.value for each in small.measurements if each.name.meaning == "Volume")
    assert float(volume["Old"]) == pytest.approx(before)
    assert float(volume["New"]) > float(volume["Old"]) > 0
    assert float(volume["Difference"]) == pytest.approx(float(volume["New"]) - float(volume["Old"]))

    # The workitems said so, below what arrives, and nothing is made twice.
    items = {each["00080018"]["Value"][0]: each for each in server.wait_for_tasks(3)}
    assert len(items) == 3
    of_batch = [each for item_uid, each in items.items() if item_uid != uid]
    assert all(ups_task.parameters_of(each)["threshold"] == -300 for each in of_batch)
    assert all(each["00741200"]["Value"] == ["LOW"] for each in of_batch)

    # The report is in the archive, in a study of its own.
    (document,) = api.get(f"/dicom-web/studies/{batch['report_study_uid']}/metadata").json()
    assert document["00080016"]["Value"] == ["1.2.840.10008.5.1.4.1.1.88.22"]
    assert document["00100020"]["Value"] == [f"M3DICOM-BATCH-{batch['id']}"]
    assert "AIR-one" not in str(document)

    # The same again: done already; only what changed: nothing.
    again = ended(api, api.post("/api/batches", json=wanted).json()["id"])
    assert (again["state"], again["items"]) == ("done", {"completed": 2})
    none = ended(api, api.post("/api/batches", json={**wanted, "only_changed": True}).json()["id"])
    assert (none["state"], none["items"], none["unchanged"]) == ("done", {}, 2)
    assert len(server.wait_for_tasks(3)) == 3

    # A reader says what the program got right, also from the command line.
    (sr,) = (each for each in reports(api, study) if "threshold=-500" in str(each))
    tracked = findings(sr)[0].tracking_uid
    said = {"report": sr["00080018"]["Value"][0], "tracking_uid": tracked, "verdict": "accepted"}
    assert api.post("/api/verdicts", json=said).status_code == 201
    assert "1 judged: 1 accepted, 0 corrected, 0 rejected; 0 missed" in server.command("accuracy")
    assert "batch 1 done: 100% of air-spaces, 2 completed" in server.command("analyze")
    dry = server.command("analyze", "--plugin", "air-spaces", "--query", "PatientID=AIR-two", "--dry-run")
    assert "1 studies, 1 tasks" in dry
    assert "1 would be computed, 1 of them have other results already" in dry


def test_a_query_that_is_misspelt_is_refused(api: httpx.Client) -> None:
    refused = api.post("/api/batches", json={"plugin": "air-spaces", "query": "PatientId=AIR-one"})
    assert refused.status_code == 400
    assert "cannot be matched" in refused.json()["detail"] or "nothing that can be matched" in refused.json()["detail"]
