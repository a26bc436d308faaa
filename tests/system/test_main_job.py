"""The main job as a stranger would try it: demo studies in, results out, over DIMSE and DICOMweb only."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, RunningServer, needed, start_server
from pydicom import Dataset, dcmread

from analysis.evaluation.surface_error import surface_error
from pacs.server import demo

pytestmark = pytest.mark.system

STL = "1.2.840.10008.5.1.4.1.1.104.3"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
VOLUME, TURNTABLE = "1.2.840.10008.5.1.4.1.1.7.2", "1.2.840.10008.5.1.4.1.1.7.4"
SC = "1.2.840.10008.5.1.4.1.1.7"
SR = "1.2.840.10008.5.1.4.1.1.88.34"
CAD_SR = "1.2.840.10008.5.1.4.1.1.88.50"
KEY_OBJECT = "1.2.840.10008.5.1.4.1.1.88.59"
GSPS = "1.2.840.10008.5.1.4.1.1.11.1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server on which `m3dicom demo --small` ran and whose tasks have ended."""
    server = start_server(tmp_path_factory.mktemp("main_job") / "data")
    try:
        print(server.command("demo", "--small"))
        server.wait_for_tasks(2)
        yield server
    finally:
        assert server.stop() == 0
        text = "".join(server.output)
        assert "Traceback" not in text, text[-4000:]


def tag(item: dict[str, Any], *path: str) -> Any:
    """The first value down a path of tags in DICOM JSON."""
    for step in path[:-1]:
        item = item[step]["Value"][0]
    return item[path[-1]]["Value"][0]


@pytest.fixture(scope="module")
def results(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Dataset]]:
    """Every result object, by SOP Class, as retrieved over WADO-RS; also written to a folder for the validators."""
    folder = tmp_path_factory.mktemp("results")
    found: dict[str, list[Dataset]] = {}
    with server.client() as client:
        for item in server.wait_for_tasks(2):
            assert tag(item, "00741000") == "COMPLETED", item
            for output in item["00741216"]["Value"][0]["00404033"]["Value"]:
                study, series = tag(output, "0020000D"), tag(output, "0020000E")
                for sop in output["00081199"]["Value"]:
                    address = f"/studies/{study}/series/{series}/instances/{tag(sop, '00081155')}"
                    answer = client.get(address, headers={"Accept": "application/dicom; transfer-syntax=*"})
                    assert answer.status_code == 200, answer.text
                    ds = dcmread(io.BytesIO(answer.content))
                    (folder / f"{ds.Modality}-{ds.SOPInstanceUID[-8:]}.dcm").write_bytes(answer.content)
                    found.setdefault(str(ds.SOPClassUID), []).append(ds)
    found["folder"] = [folder]  # type: ignore[list-item]
    return found


def test_every_kind_of_result_is_there(results: dict[str, list[Dataset]]) -> None:
    assert set(results) - {"folder"} == {SEG, STL, SR, SC, CAD_SR, GSPS, KEY_OBJECT, VOLUME, TURNTABLE}
    assert len(results[VOLUME]) == 1
    film, pictures = sorted(results[TURNTABLE], key=lambda ds: "FrameLabelVector" in ds)
    assert "FrameTime" in film
    assert {label.split()[-1] for label in pictures.FrameLabelVector} >= {"plain", "marked"}
    assert len(results[SR]) == 2
    assert len(results[CAD_SR]) == len(results[KEY_OBJECT]) == 1
    assert len(results[GSPS]) == 2  # both breasts have clusters


def test_the_bone_surface_lies_where_the_phantom_says(results: dict[str, list[Dataset]]) -> None:
    """Mean exact distance below 0.1 mm, over the vertices of the archived STL."""
    bone = next(ds for ds in results[STL] if "bone" in str(ds.DocumentTitle).lower())
    raw = bone.EncapsulatedDocument
    count = int.from_bytes(raw[80:84], "little")
    triangles = np.frombuffer(raw, np.dtype([("n", "<f4", 3), ("v", "<f4", (3, 3)), ("a", "<u2")]), count, 84)["v"]
    faces = np.arange(3 * count, dtype=np.int32).reshape(-1, 3)
    error = surface_error(triangles.reshape(-1, 3), faces, demo.ct_truth(demo.SMALL).bone_distance)
    assert error.mean < 0.1, error


def test_the_reports_carry_measurements_and_marks(results: dict[str, list[Dataset]]) -> None:
    text = {ds.Modality + ds.SOPInstanceUID[-4:]: str(ds.ContentSequence) for ds in results[SR]}
    assert any("Volume" in t for t in text.values())
    assert any("CL1" in t for t in text.values())


def scoords(item: Dataset) -> Iterator[tuple[str, np.ndarray]]:
    """Referenced SOP Instance UID and points of every coordinate item of a content tree."""
    for child in item.get("ContentSequence", ()):
        if child.ValueType == "SCOORD":
            image = child.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
            yield str(image), np.array(child.GraphicData).reshape(-1, 2)
        yield from scoords(child)


def test_every_implanted_cluster_is_found_and_little_else(results: dict[str, list[Dataset]]) -> None:
    """Each implanted cluster has a mark within its radius and 1 mm; marks elsewhere are at most one."""
    report = next(ds for ds in results[SR] if "icrocalcification" in str(ds.SeriesDescription))
    marks = list(scoords(report))
    stray = 0
    for made, ds in zip(demo.mammograms(demo.SMALL), demo.studies(demo.SMALL)[0][1], strict=True):
        spacing = made.acquisition.spacing
        centres = np.array([points.mean(axis=0) for uid, points in marks if uid == ds.SOPInstanceUID]).reshape(-1, 2)
        near = np.zeros(len(centres), bool)
        assert made.truth.clusters
        for cluster in made.truth.clusters:
            gaps = np.hypot(centres[:, 0] - cluster.column, centres[:, 1] - cluster.row) * spacing
            assert (gaps < cluster.radius + 1).any(), f"a cluster of {cluster.count} was missed"
            near |= gaps < cluster.radius + 1
        stray += int((~near).sum())
    assert stray <= 1


def test_results_belong_to_the_study_of_their_source(server: RunningServer, results: dict[str, list[Dataset]]) -> None:
    with server.client() as client:
        for objects in (results[SEG], results[SC]):
            study = client.get(f"/studies?StudyInstanceUID={objects[0].StudyInstanceUID}").json()[0]
            assert tag(study, "00100020") == objects[0].PatientID
            assert len(study["00080061"]["Value"]) > 1


def test_the_model_is_a_rendition(server: RunningServer, results: dict[str, list[Dataset]]) -> None:
    stl = results[STL][0]
    series = f"/studies/{stl.StudyInstanceUID}/series/{stl.SeriesInstanceUID}"
    with server.client() as client:
        for address in (f"{series}/rendered", f"{series}/instances/{stl.SOPInstanceUID}/rendered"):
            headers = {"Accept": "model/x3d+xml", "Accept-Encoding": "gzip"}
            with client.stream("GET", address, headers=headers) as answer:
                wire = b"".join(answer.iter_raw())
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("model/x3d+xml")
            assert answer.headers["content-encoding"] == "gzip"
            assert b"<X3D" in gzip.decompress(wire)[:600]


def test_the_volume_is_a_rendition_and_the_turntable_a_picture(
    server: RunningServer, results: dict[str, list[Dataset]]
) -> None:
    [volume], [turntable] = results[VOLUME], [ds for ds in results[TURNTABLE] if "FrameTime" in ds]
    with server.client() as client:
        address = f"/studies/{volume.StudyInstanceUID}/series/{volume.SeriesInstanceUID}"
        scene = client.get(f"{address}/rendered", headers={"Accept": "model/x3d+xml"})
        assert scene.status_code == 200
        assert b"<VolumeData" in scene.content
        assert client.get(f"{address}/rendered", headers={"Accept": "model/gltf-binary"}).status_code == 406
        address = f"/studies/{turntable.StudyInstanceUID}/series/{turntable.SeriesInstanceUID}"
        picture = client.get(f"{address}/instances/{turntable.SOPInstanceUID}/frames/7/rendered")
        assert picture.headers["content-type"] == "image/jpeg"


def test_independent_validators_find_no_error(results: dict[str, list[Dataset]]) -> None:
    folder: Path = results["folder"][0]  # type: ignore[assignment]
    for program in ("dciodvfy", "dsrdump", "java"):
        needed(program)
    run = subprocess.run(
        ["bash", str(ROOT / "tests" / "validate_results.sh"), "--skip-set", str(folder)],
        capture_output=True, text=True, env=os.environ, check=False, timeout=240,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-2000:]


def test_dimse_finds_what_the_web_shows(server: RunningServer, results: dict[str, list[Dataset]]) -> None:
    host, port = server.dimse
    study = str(results[SEG][0].StudyInstanceUID)
    run = subprocess.run(
        [needed("findscu"), "-S", "-aec", "M3DICOM", host, str(port), "-k", "QueryRetrieveLevel=SERIES",
         "-k", f"StudyInstanceUID={study}", "-k", "Modality", "-k", "SeriesInstanceUID"],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    for modality in ("CT", "SEG", "M3D", "SR"):
        assert f"[{modality}" in run.stdout + run.stderr


def test_the_same_studies_again_change_nothing(server: RunningServer) -> None:
    with server.client() as client:
        before = client.get("/instances?limit=100000").json()
        tasks = client.get("/workitems").json()
        server.command("demo", "--small")
        import time

        time.sleep(3)
        assert len(client.get("/instances?limit=100000").json()) == len(before)
        assert len(client.get("/workitems").json()) == len(tasks)
