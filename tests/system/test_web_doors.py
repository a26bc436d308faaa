"""The real server from a browser's side: CORS, WebSockets by token and by cookie, Workitems of both doors alike."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import RunningServer, start_server
from pydicom import Dataset
from pynetdicom import AE as PynetdicomAE
from pynetdicom.sop_class import UnifiedProcedureStepPull, UnifiedProcedureStepPush
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from pacs import uids
from pacs.dicom.ups_events import GLOBAL_UID

pytestmark = pytest.mark.system

PATIENCE_S = 60
VIEWER = "https://viewer.example"
NO_WORKERS = {"M3DICOM_WORKERS": "0"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    settings = {**NO_WORKERS, "M3DICOM_CORS_ORIGINS": VIEWER, "M3DICOM_TRUSTED_PROXIES": "127.0.0.1"}
    running = start_server(tmp_path_factory.mktemp("doors") / "data", settings=settings)
    try:
        yield running
    finally:
        assert running.stop() == 0


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with server.client() as http:
        yield http


def test_a_page_that_may(server: RunningServer, client: httpx.Client) -> None:
    asked = {
        "Origin": VIEWER,
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "authorization, range",
    }
    preflight = httpx.options(f"{server.dicomweb}/studies", headers=asked, timeout=60)  # which has no credentials
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == VIEWER
    assert preflight.headers["access-control-allow-headers"] == "authorization, range"
    assert {"GET", "POST", "DELETE"} <= set(preflight.headers["access-control-allow-methods"].split(", "))
    answer = client.get("/studies", headers={"Origin": VIEWER})
    assert answer.status_code in (200, 204)
    assert answer.headers["access-control-allow-origin"] == VIEWER
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert "Warning" in answer.headers["access-control-expose-headers"]
    assert "Origin" in answer.headers["vary"]
    refused = httpx.get(f"{server.dicomweb}/studies", headers={"Origin": VIEWER}, timeout=60)
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, VIEWER)


def test_pages_that_may_not(server: RunningServer, client: httpx.Client) -> None:
    for origin in ("https://elsewhere.example", "null", VIEWER + ".elsewhere.example"):
        asked = {"Origin": origin, "Access-Control-Request-Method": "GET"}
        preflight = client.options("/studies", headers=asked)
        assert preflight.status_code == 403
        answer = client.get("/studies", headers={"Origin": origin})
        assert not [name for name in (*preflight.headers, *answer.headers) if name.startswith("access-control")]
        assert "Origin" in answer.headers["vary"]
    elsewhere = httpx.get(f"{server.http}/api/session", headers={"Origin": VIEWER}, timeout=60)
    assert "access-control-allow-origin" not in elsewhere.headers


def test_capabilities_need_no_preflight_headers(client: httpx.Client) -> None:
    answer = client.options("/", headers={"Accept": "application/json", "X-Forwarded-Host": "pacs.example"})
    [resources] = answer.json()["application"]["resources"]
    assert resources["base"] == "http://pacs.example/dicom-web/"


def address(server: RunningServer, path: str) -> str:
    return server.dicomweb.replace("http", "ws", 1) + path


def bearer(server: RunningServer) -> dict[str, str]:
    return {"Authorization": f"Bearer {server.token}"}


def refused(address: str, **options: Any) -> int:
    with pytest.raises(InvalidStatus) as caught, connect(address, **options):
        pass
    return caught.value.response.status_code


def answers(socket: ClientConnection) -> bool:
    return socket.ping().wait(PATIENCE_S)


def test_who_may_open_a_connection(server: RunningServer) -> None:
    feed, token = address(server, "/changes"), server.token
    assert refused(feed) == 401
    assert refused(feed, additional_headers={"Authorization": "Bearer m3d_nobody"}) == 401
    assert refused(feed, subprotocols=["bearer.m3d_nobody"]) == 401
    with connect(feed, additional_headers={"Authorization": f"Bearer {token}"}) as socket:
        assert answers(socket)
    offered = ["dicom-events", f"bearer.{token}"]
    with connect(feed, subprotocols=offered, origin=VIEWER) as socket:  # as a page of a browser has to
        assert (socket.subprotocol, answers(socket)) == ("dicom-events", True)
    assert refused(feed, subprotocols=offered, origin="https://elsewhere.example") == 403
    login = httpx.post(f"{server.http}/api/login", json={"token": token}, timeout=60)
    cookie = {"Cookie": f"m3dicom_session={login.cookies['m3dicom_session']}"}
    assert refused(feed, additional_headers=cookie) == 403
    assert refused(feed, additional_headers=cookie, origin="https://elsewhere.example") == 403
    with connect(feed, additional_headers=cookie, origin=server.http) as socket:
        assert answers(socket)
    assert refused(address(server, "/nowhere"), additional_headers=bearer(server)) in (403, 404)


def test_a_revoked_token_ends_its_connection(server: RunningServer) -> None:
    token = server.command("token", "create", "--name", "short", "--rights", "query").strip().splitlines()[-1]
    with connect(address(server, "/changes"), additional_headers={"Authorization": f"Bearer {token}"}) as socket:
        server.command("token", "revoke", "--name", "short")
        with pytest.raises(ConnectionClosed) as caught:
            socket.recv(timeout=PATIENCE_S)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1008


def workitem() -> Dataset:
    ds = Dataset()
    ds.ProcedureStepState = "SCHEDULED"
    ds.ScheduledProcedureStepPriority = "LOW"
    ds.ProcedureStepLabel = "Read it"
    ds.ScheduledProcedureStepStartDateTime = "20260101120000"
    ds.InputReadinessState = "READY"
    return ds


def test_a_workitem_of_either_door_is_one_of_both(server: RunningServer, client: httpx.Client) -> None:
    subscribed = client.post(f"/workitems/{GLOBAL_UID}/subscribers/VIEWER")
    assert subscribed.status_code == 201
    ae = PynetdicomAE("PEER")
    for sop_class in (UnifiedProcedureStepPush, UnifiedProcedureStepPull):
        ae.add_requested_context(sop_class)
    host, port = server.dimse
    assoc = ae.associate(host, port, ae_title=server.ready["aet"])
    assert assoc.is_established
    with connect(subscribed.headers["content-location"], additional_headers=bearer(server)) as socket:

        def told() -> tuple[str, str]:
            event = json.loads(socket.recv(timeout=PATIENCE_S))
            return event["00001000"]["Value"][0], event["00741000"]["Value"][0]

        by_dimse, by_web, transaction = uids.new(), uids.new(), uids.new()
        status, _ = assoc.send_n_create(workitem(), UnifiedProcedureStepPush, by_dimse)
        assert status.Status == 0
        assert told() == (by_dimse, "SCHEDULED")
        claim = {"00741000": {"vr": "CS", "Value": ["IN PROGRESS"]}, "00081195": {"vr": "UI", "Value": [transaction]}}
        json_type = {"Content-Type": "application/dicom+json"}
        answer = client.put(f"/workitems/{by_dimse}/state", json=claim, headers=json_type)
        assert answer.status_code == 200
        assert told() == (by_dimse, "IN PROGRESS")
        status, held = assoc.send_n_get([0x00741000, 0x00081195], UnifiedProcedureStepPull, by_dimse)
        assert held.ProcedureStepState == "IN PROGRESS"
        assert "TransactionUID" not in held
        again = Dataset()
        again.ProcedureStepState, again.TransactionUID = "IN PROGRESS", uids.new()
        status, _ = assoc.send_n_action(again, 1, UnifiedProcedureStepPull, by_dimse)
        assert status.Status == 0xC301  # claimed over HTTP with another Transaction UID
        payload = json.loads(workitem().to_json())
        assert client.post(f"/workitems?{by_web}", json=payload, headers=json_type).status_code == 201
        assert told() == (by_web, "SCHEDULED")
        again.TransactionUID = uids.new()
        status, _ = assoc.send_n_action(again, 1, UnifiedProcedureStepPull, by_web)
        assert status.Status == 0
        assert told() == (by_web, "IN PROGRESS")
        again.ProcedureStepState = "CANCELED"
        assert assoc.send_n_action(again, 1, UnifiedProcedureStepPull, by_web)[0].Status == 0
        assert told() == (by_web, "CANCELED")
    assoc.release()
    assert client.get(f"/workitems/{by_web}").json()[0]["00741000"]["Value"] == ["CANCELED"]


def test_events_wait_for_who_is_away_even_while_the_server_starts_anew(
    server: RunningServer, client: httpx.Client, tmp_path: Path
) -> None:
    running = start_server(tmp_path / "data", settings=NO_WORKERS)
    try:
        headers = bearer(running)
        with running.client() as http:
            assert http.post(f"/workitems/{GLOBAL_UID}/subscribers/VIEWER").status_code == 201
            payload = json.loads(workitem().to_json())
            created = http.post("/workitems", json=payload, headers={"Content-Type": "application/dicom+json"})
            uid = created.headers["location"].rpartition("/")[2]
        assert running.stop() == 0
        running = start_server(tmp_path / "data", settings=NO_WORKERS)
        with connect(address(running, "/subscribers/VIEWER"), additional_headers=headers) as socket:
            event = json.loads(socket.recv(timeout=PATIENCE_S))
            assert (event["00001000"]["Value"][0], event["00001002"]["Value"][0]) == (uid, 1)
            status = [json.loads(socket.recv(timeout=PATIENCE_S))["00741242"]["Value"][0] for _ in range(2)]
            assert status == ["GOING DOWN", "RESTARTED"]
            assert running.stop() == 0  # an open connection does not keep it
    finally:
        running.stop()
