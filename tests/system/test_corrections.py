"""Corrections, versions, quarantine, rejection and retention of a real server, by every door and its own commands."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dicom_data
import httpx
import pydicom
import pytest
from conftest import RunningServer, start_server
from pydicom import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import (
    CTImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
)

from pacs import uids

pytestmark = pytest.mark.system

FIND, GET = StudyRootQueryRetrieveInformationModelFind, StudyRootQueryRetrieveInformationModelGet
DEADLINE_S = 60.0
AES = '[{title="STRICT"}, {title="KEEPER", other_content="quarantine"}, {title="NEWER", other_content="replace"}]'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    settings = {"M3DICOM_AES": AES, "M3DICOM_WORKERS": "0"}
    running = start_server(tmp_path_factory.mktemp("corrections") / "data", settings=settings)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def web(server: RunningServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


class Modality:
    """A DIMSE peer under a title of its own."""

    def __init__(self, server: RunningServer, title: str) -> None:
        self._server = server
        self._ae = AE(title)
        for syntax in (CTImageStorage, FIND, GET):
            self._ae.add_requested_context(syntax)

    def _associated(self, use: Callable[[Any], Any], **options: Any) -> Any:
        host, port = self._server.dimse
        association = self._ae.associate(host, port, ae_title=self._server.ready["aet"], **options)
        assert association.is_established
        try:
            return use(association)
        finally:
            association.release()

    def store(self, ds: Dataset) -> tuple[int, str]:
        """Status and Error Comment of a C-STORE."""
        whole = pydicom.dcmread(io.BytesIO(dicom_data.part10(ds)))
        answer = self._associated(lambda association: association.send_c_store(whole))
        return answer.Status, str(answer.get("ErrorComment", ""))

    def find(self, study: str) -> Dataset:
        """What C-FIND says of a study."""
        asked = Dataset()
        asked.QueryRetrieveLevel, asked.StudyInstanceUID = "STUDY", study
        asked.PatientID = asked.PatientName = asked.AccessionNumber = ""
        found = self._associated(lambda association: list(association.send_c_find(asked, FIND)))
        (match,) = [identifier for status, identifier in found if status.Status in (0xFF00, 0xFF01)]
        return match

    def get(self, study: str) -> list[Dataset]:
        """The instances of a study by C-GET."""
        asked = Dataset()
        asked.QueryRetrieveLevel, asked.StudyInstanceUID = "STUDY", study
        received: list[Dataset] = []

        def take(event: evt.Event) -> int:
            received.append(event.dataset)
            return 0

        def use(association: Any) -> int:
            return [status.Status for status, _ in association.send_c_get(asked, GET)][-1]

        role = build_role(CTImageStorage, scu_role=False, scp_role=True)
        assert self._associated(use, ext_neg=[role], evt_handlers=[(evt.EVT_C_STORE, take)]) == 0
        return received


def one(study: int, **attributes: Any) -> Dataset:
    return next(dicom_data.series(1, study=study, **attributes))


def patients_by_every_door(server: RunningServer, web: httpx.Client, study: str) -> set[tuple[str, str]]:
    """Patient ID and name of a study as C-FIND, QIDO-RS, metadata, WADO-RS and C-GET have them."""
    found = Modality(server, "STRICT").find(study)
    (row,) = web.get("/studies", params={"StudyInstanceUID": study}).json()
    (metadata,) = web.get(f"/studies/{study}/metadata").json()
    url = f"/studies/{study}/series/{metadata['0020000E']['Value'][0]}/instances/{metadata['00080018']['Value'][0]}"
    answer = web.get(url, headers={"Accept": "application/dicom"})
    part10 = pydicom.dcmread(io.BytesIO(answer.content))
    (got,) = Modality(server, "STRICT").get(study)
    told = {(str(ds.PatientID), str(ds.PatientName)) for ds in (found, part10, got)}
    for json_ in (row, metadata):
        told.add((json_["00100020"]["Value"][0], json_["00100010"]["Value"][0]["Alphabetic"]))
    assert got.get("OriginalAttributesSequence") == part10.get("OriginalAttributesSequence")
    assert ("04000561" in metadata) == ("OriginalAttributesSequence" in part10)
    return told


def test_a_merge_by_command_is_seen_by_every_door_and_undone(server: RunningServer, web: httpx.Client) -> None:
    wrong, right = uids.derived("study", 1), uids.derived("study", 2)
    modality = Modality(server, "STRICT")
    assert modality.store(one(1, PatientID="P1", PatientName="Old^Name"))[0] == 0
    assert modality.store(one(2, PatientID="P2", PatientName="Right^Name"))[0] == 0
    tag = web.get(f"/studies/{wrong}/metadata").headers["etag"]
    said = server.command("correct", "merge", "P1", "--into", "P2", "--reason", "same person")
    number = said.split()[1]
    assert patients_by_every_door(server, web, wrong) == {("P2", "Right^Name")}
    assert patients_by_every_door(server, web, right) == {("P2", "Right^Name")}
    fresh = web.get(f"/studies/{wrong}/metadata", headers={"If-None-Match": tag})
    assert (fresh.status_code, fresh.headers["etag"] != tag) == (200, True)
    listed = [json.loads(line) for line in server.command("correct", "list", "--json").splitlines()]
    assert [each["reason"] for each in listed] == ["same person"]
    shown = json.loads(server.command("correct", "show", number))
    assert shown["studies"][0]["before"]["PatientID"] == "P1"
    assert "undo that" not in server.command("correct", "undo", number)
    assert patients_by_every_door(server, web, wrong) == {("P1", "Old^Name")}
    assert web.get(f"/studies/{wrong}/metadata").headers["etag"] == tag


def test_a_study_corrected_over_http(server: RunningServer, web: httpx.Client) -> None:
    study = uids.derived("study", 3)
    Modality(server, "STRICT").store(one(3, PatientID="P3"))
    api = f"{server.http}/api/corrections"
    body = {"kind": "study", "study_instance_uid": study, "reason": "typo", "changes": {"PatientName": "Müller^Jörg"}}
    made = web.post(api, json=body)
    assert made.status_code == 200
    assert patients_by_every_door(server, web, study) == {("P3", "Müller^Jörg")}
    assert web.post(api, json=body).status_code == 409
    assert web.post(api, json=body | {"changes": {"Modality": "MR"}}).status_code == 400
    assert web.post(api, json=body | {"study_instance_uid": "1.2.3"}).status_code == 404
    assert web.post(f"{api}/{made.json()['id']}/undo").json()["undone_by"] == "tests"
    assert web.get(api, params={"study": study}).json()[0]["undone_at"]
    reader = server.command("token", "create", "--name", "reader").strip().splitlines()[-1]
    assert httpx.get(api, headers={"Authorization": f"Bearer {reader}"}).status_code == 403
    assert httpx.get(api).status_code == 401


def test_other_content_by_the_policy_of_its_sender(server: RunningServer, web: httpx.Client) -> None:
    study, first = uids.derived("study", 4), one(4)
    assert Modality(server, "STRICT").store(first) == (0, "")
    for description in ("Second", "Third"):
        assert Modality(server, "STRICT").store(one(4, StudyDescription=description))[0] == 0x0111
    status, comment = Modality(server, "KEEPER").store(one(4, StudyDescription="Second"))
    assert (status, "kept aside" in comment) == (0x0111, True)
    assert Modality(server, "NEWER").store(one(4, StudyDescription="Third")) == (0, "")
    assert Modality(server, "KEEPER").store(one(4, StudyDescription="Third")) == (0, "")

    def described() -> str:
        (row,) = web.get("/studies", params={"StudyInstanceUID": study, "includefield": "StudyDescription"}).json()
        (ds,) = Modality(server, "STRICT").get(study)
        assert row["00081030"]["Value"] == [ds.StudyDescription]
        return str(ds.StudyDescription)

    assert described() == "Third"
    (waiting,) = (json.loads(line) for line in server.command("quarantine", "list", "--json").splitlines())
    assert waiting["source_ae"] == "KEEPER"
    differences = json.loads(server.command("quarantine", "show", str(waiting["id"])))["differences"]
    assert differences["StudyDescription"] == {"held": "Third", "aside": "Second"}
    server.command("quarantine", "accept", str(waiting["id"]), "--reason", "checked")
    assert described() == "Second"
    versions = web.get(f"{server.http}/api/instances/{first.SOPInstanceUID}/versions").json()
    assert len(versions) == 2
    oldest = versions[-1]["id"]
    answer = web.post(f"{server.http}/api/versions/{oldest}", json={"decision": "restore", "reason": "it was right"})
    assert answer.status_code == 200
    assert described() == "Synthetic study"
    listed = server.command("versions", "list", str(first.SOPInstanceUID))
    assert len(listed.splitlines()) == 2
    wrong = web.post(f"{server.http}/api/quarantine/{versions[0]['id']}", json={"decision": "reject", "reason": "x"})
    assert wrong.status_code == 404


def test_stow_says_that_a_quarantined_instance_is_not_stored(tmp_path: Path) -> None:
    running = start_server(
        tmp_path / "data", settings={"M3DICOM_OTHER_CONTENT": "quarantine", "M3DICOM_WORKERS": "0"}
    )  # fmt: skip
    try:
        with running.client() as client:

            def stow(ds: Dataset) -> httpx.Response:
                headers = {"Content-Type": "application/dicom", "Accept": "application/dicom+json"}
                return client.post("/studies", content=dicom_data.part10(ds), headers=headers)

            assert stow(one(5)).status_code == 200
            refused = stow(one(5, StudyDescription="Other"))
            assert refused.status_code == 409
            (item,) = refused.json()["00081198"]["Value"]
            assert item["00081197"]["Value"] == [0x0111]
            (waiting,) = client.get(f"{running.http}/api/quarantine").json()
            assert client.get(f"/studies/{uids.derived('study', 5)}/metadata").json()[0]["00081030"]["Value"] == [
                "Synthetic study"
            ]
            running.command("quarantine", "reject", str(waiting["id"]), "--reason", "sent by mistake")
            assert client.get(f"{running.http}/api/quarantine").json() == []
    finally:
        running.stop()


def test_discrepancies_are_listed_and_settled(server: RunningServer, web: httpx.Client) -> None:
    modality = Modality(server, "STRICT")
    modality.store(one(6, PatientID="P6"))
    other = one(6, PatientID="P66")
    other.SOPInstanceUID = uids.new()
    assert modality.store(other)[0] == 0
    found = [json.loads(line) for line in server.command("discrepancies", "list", "--json").splitlines()]
    (mine,) = [each for each in found if each["study_instance_uid"] == other.StudyInstanceUID]
    assert (mine["kind"], mine["found"][0], mine["held"][0]) == ("patient", "P66", "P6")
    server.command("discrepancies", "settle", str(mine["id"]))
    assert mine["id"] not in [each["id"] for each in web.get(f"{server.http}/api/discrepancies").json()]


def test_rules_remove_what_they_said_and_leave_what_is_kept(tmp_path: Path) -> None:
    toml = tmp_path / "settings.toml"
    toml.write_text("workers = 0\nstable_after_s = 0.2\n")
    running = start_server(tmp_path / "data", arguments=("--config", str(toml)))
    studies = [uids.derived("study", n) for n in (7, 8)]
    try:
        for number in (7, 8):
            Modality(running, "ANY").store(one(number, StudyDate="19990101"))
        running.command("keep", studies[0], "--reason", "teaching file")
        assert studies[0] in running.command("keep")
        assert "nothing was removed" in running.command("retention", "--dry-run")
    finally:
        assert running.stop() == 0
    toml.write_text(
        "workers = 0\nstable_after_s = 0.2\n"
        '[[retention]]\nname = "old"\ndays = 3650\ncounted_from = "study"\n'
    )  # fmt: skip
    running = start_server(tmp_path / "data", arguments=("--config", str(toml)))
    try:
        with running.client() as client:
            until = time.monotonic() + DEADLINE_S
            while client.get(f"/studies/{studies[1]}/metadata").status_code != 404:
                assert time.monotonic() < until, "the rule did nothing"
                time.sleep(0.1)
            assert client.get(f"/studies/{studies[0]}/metadata").status_code == 200
            (stays,) = (json.loads(line) for line in running.command("retention", "--json").splitlines())
            assert (stays["study_instance_uid"], stays["stays"]) == (studies[0], "a person keeps it")
            running.command("keep", studies[0], "--release")
            assert client.get(f"{running.http}/api/kept").json() == []
    finally:
        running.stop()
