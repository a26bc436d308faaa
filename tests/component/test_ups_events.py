"""Subscriptions over HTTP and events over WebSocket (PS3.18 8.10, 11.10 to 11.13), on a real server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from dicomweb_server import Web, serving
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from dicomweb import notifications, websocket
from pacs import uids
from pacs.auth import Principal, Right
from pacs.dicom.ups_events import FILTERED_GLOBAL_UID, GLOBAL_UID
from pacs.errors import Forbidden

PATIENCE_S = 60
JSON = "application/dicom+json"
STATE_REPORT, CANCEL_REQUESTED, PROGRESS_REPORT, SCP_STATUS_CHANGE, ASSIGNED = range(1, 6)


def workitem(label: str = "Analysis", **more: Any) -> dict[str, Any]:
    return {
        "00741000": {"vr": "CS", "Value": ["SCHEDULED"]},
        "00741200": {"vr": "CS", "Value": ["MEDIUM"]},
        "00741204": {"vr": "LO", "Value": [label]},
        "00404005": {"vr": "DT", "Value": ["20260101120000"]},
        "00404041": {"vr": "CS", "Value": ["READY"]},
        **{tag.lstrip("t"): element for tag, element in more.items()},
    }


@pytest.fixture
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with serving(tmp_path_factory.mktemp("events"), cors_origins=("https://viewer.example",)) as web:
        yield web


def send(web: Web, method: str, path: str, payload: Any = None, **query: str) -> httpx.Response:
    headers = {"Content-Type": JSON} if payload is not None else {}
    return web.client.request(method, path, json=payload, headers=headers, params=query or None)


def created(web: Web, label: str = "Analysis", **more: Any) -> str:
    answer = send(web, "POST", "/workitems", workitem(label, **more))
    assert answer.status_code == 201, answer.text
    return answer.headers["location"].rpartition("/")[2]


def subscribed(web: Web, uid: str, aet: str = "VIEWER", **query: str) -> str:
    answer = send(web, "POST", f"/workitems/{uid}/subscribers/{aet}", **query)
    assert answer.status_code == 201, answer.text
    return answer.headers["content-location"]


def claimed(web: Web, uid: str) -> str:
    transaction = uids.new()
    change(web, uid, "IN PROGRESS", transaction)
    return transaction


def change(web: Web, uid: str, state: str, transaction: str) -> None:
    body = {"00741000": {"vr": "CS", "Value": [state]}, "00081195": {"vr": "UI", "Value": [transaction]}}
    answer = send(web, "PUT", f"/workitems/{uid}/state", body)
    assert answer.status_code == 200, answer.text


class Event:
    """One event report as a client reads it."""

    def __init__(self, text: str | bytes) -> None:
        assert isinstance(text, str), "a text frame is due (PS3.18 8.10.5)"
        self.dataset = json.loads(text)
        assert self["00000002"] == "1.2.840.10008.5.1.4.34.6.4"
        assert self["00000100"] == 0x0100
        assert all(entry["vr"] for entry in self.dataset.values())

    def __getitem__(self, tag: str) -> Any:
        return self.dataset[tag]["Value"][0]

    @property
    def what(self) -> tuple[str, int]:
        return self["00001000"], self["00001002"]


def read(socket: ClientConnection) -> Event:
    return Event(socket.recv(timeout=PATIENCE_S))


def wait_for(condition: Callable[[], Any]) -> Any:
    until = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < until
        time.sleep(0.05)
    return found


def test_the_life_of_a_workitem_as_its_watcher_hears_it(web: Web) -> None:
    uid = created(web)
    address = subscribed(web, uid)
    assert address == web.url.replace("http", "ws", 1) + "/subscribers/VIEWER"
    with connect(address) as socket:
        first = read(socket)
        assert (first.what, first["00741000"], first["00404041"]) == ((uid, STATE_REPORT), "SCHEDULED", "READY")
        transaction = claimed(web, uid)
        assert read(socket)["00741000"] == "IN PROGRESS"
        progress = {"00741002": {"vr": "SQ", "Value": [
            {"00741004": {"vr": "DS", "Value": [40]}, "00741006": {"vr": "ST", "Value": ["half of it"]}},
        ]}}  # fmt: skip
        assert send(web, "POST", f"/workitems/{uid}", progress, transaction=transaction).status_code == 200
        told = read(socket)
        assert told.what == (uid, PROGRESS_REPORT)
        assert told["00741002"]["00741004"]["Value"] == [40]
        reason = {"00741238": {"vr": "LT", "Value": ["not needed"]}}
        assert send(web, "POST", f"/workitems/{uid}/cancelrequest", reason, requester="RIS").status_code == 202
        asked = read(socket)
        assert (asked.what, asked["00741236"], asked["00741238"]) == ((uid, CANCEL_REQUESTED), "RIS", "not needed")
        assigned = {"00404025": {"vr": "SQ", "Value": [{
            "00080100": {"vr": "SH", "Value": ["CT1"]}, "00080102": {"vr": "SH", "Value": ["99SYN"]},
            "00080104": {"vr": "LO", "Value": ["CT 1"]},
        }]}}  # fmt: skip
        assert send(web, "POST", f"/workitems/{uid}", assigned, transaction=transaction).status_code == 200
        assert read(socket).what == (uid, ASSIGNED)
        web.archive.worklist.announce("RESTARTED", time.time())
        restarted = read(socket)
        assert (restarted.what, restarted["00741242"]) == ((GLOBAL_UID, SCP_STATUS_CHANGE), "RESTARTED")
        change(web, uid, "CANCELED", transaction)
        ended = read(socket)
        assert (ended.what, ended["00741000"]) == ((uid, STATE_REPORT), "CANCELED")
        assert send(web, "DELETE", f"/workitems/{uid}/subscribers/VIEWER").status_code == 200
        assert send(web, "DELETE", f"/workitems/{uid}/subscribers/VIEWER").status_code == 404


def test_the_whole_worklist_and_its_suspension(web: Web) -> None:
    before = created(web)
    address = subscribed(web, GLOBAL_UID, deletionlock="true")
    with connect(address) as socket:
        assert read(socket).what == (before, STATE_REPORT)  # a deletion lock tells how things stand
        after = created(web)
        assert read(socket).what == (after, STATE_REPORT)
        assert send(web, "POST", f"/workitems/{GLOBAL_UID}/subscribers/VIEWER/suspend").status_code == 200
        created(web, "unseen")
        claimed(web, after)
        event = read(socket)
        assert (event.what, event["00741000"]) == ((after, STATE_REPORT), "IN PROGRESS")
        assert send(web, "DELETE", f"/workitems/{GLOBAL_UID}/subscribers/VIEWER").status_code == 200
        claimed(web, before)
        last = created(web)
        subscribed(web, last)
        assert read(socket).what == (last, STATE_REPORT)  # and nothing of `before`
    assert set(web.archive.worklist.subscriptions_of("VIEWER")) == {last}


@pytest.mark.parametrize(
    "query",
    [
        {"filter": "ProcedureStepLabel=Bones*,00741200=HIGH"},
        {"ProcedureStepLabel": "Bones*", "00741200": "HIGH"},
        {"filter": "ProcedureStepLabel=Bones*", "ScheduledProcedureStepPriority": "HIGH"},
    ],
)
def test_a_filtered_worklist(web: Web, query: dict[str, str]) -> None:
    high = {"t00741200": {"vr": "CS", "Value": ["HIGH"]}}
    with connect(subscribed(web, FILTERED_GLOBAL_UID, **query)) as socket:
        for label, more in (("Bones 1", {}), ("Heart", high)):
            created(web, label, **more)
        wanted = created(web, "Bones 2", **high)
        assert read(socket).what == (wanted, STATE_REPORT)


@pytest.mark.parametrize(
    ("uid", "aet", "query", "status"),
    [
        (FILTERED_GLOBAL_UID, "VIEWER", {}, 400),
        (FILTERED_GLOBAL_UID, "VIEWER", {"filter": "NoSuchAttribute=1"}, 400),
        (FILTERED_GLOBAL_UID, "VIEWER", {"ScheduledProcedureStepStartDateTime": "soon"}, 400),
        (GLOBAL_UID, "VIEWER", {"deletionlock": "perhaps"}, 400),
        (GLOBAL_UID, "A TITLE OF SEVENTEEN", {}, 400),
        (GLOBAL_UID, "BACK%5CSLASH", {}, 400),
        ("1.2.3.4", "VIEWER", {}, 404),
        ("no-uid", "VIEWER", {}, 400),
    ],
)
def test_subscriptions_that_cannot_be(web: Web, uid: str, aet: str, query: dict[str, str], status: int) -> None:
    answer = web.client.post(f"/workitems/{uid}/subscribers/{aet}?{urlencode(query)}")
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


def test_suspending_what_is_not_there(web: Web) -> None:
    uid = created(web)
    assert send(web, "POST", f"/workitems/{uid}/subscribers/VIEWER/suspend").status_code == 400
    assert send(web, "POST", f"/workitems/{GLOBAL_UID}/subscribers/VIEWER/suspend").status_code == 404
    assert send(web, "DELETE", f"/workitems/{GLOBAL_UID}/subscribers/VIEWER").status_code == 404


def test_who_is_cut_off_hears_again_what_may_not_have_arrived(web: Web) -> None:
    uid = created(web)
    address = subscribed(web, uid)
    with connect(address) as socket:
        assert read(socket)["00741000"] == "SCHEDULED"
        socket.socket.shutdown(2)  # the network is gone: no goodbye
    transaction = claimed(web, uid)
    with connect(address) as socket:
        assert [read(socket)["00741000"] for _ in range(2)] == ["SCHEDULED", "IN PROGRESS"]
        socket.close()  # in order: what was sent has arrived
    wait_for(lambda: not web.archive.worklist.events_for("VIEWER"))
    change(web, uid, "CANCELED", transaction)
    with connect(address) as socket:
        assert read(socket)["00741000"] == "CANCELED"


def test_what_was_sent_long_ago_is_forgotten(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "CERTAIN_S", 0.0)
    uid = created(web)
    with connect(subscribed(web, uid)) as socket:
        read(socket)
        wait_for(lambda: not web.archive.worklist.events_for("VIEWER"))


def test_two_who_listen_for_the_same_ae_both_hear(web: Web) -> None:
    uid = created(web)
    address = subscribed(web, uid)
    with connect(address) as one, connect(address) as other:
        claimed(web, uid)
        for socket in (one, other):
            assert [read(socket)["00741000"] for _ in range(2)] == ["SCHEDULED", "IN PROGRESS"]
    assert not web.archive.worklist.due_receivers(0.0)


@pytest.mark.parametrize("path", ["", "/", "/ws/subscribers/VIEWER", "/subscribers/VIEWER"])
def test_the_addresses_of_the_connection(web: Web, path: str) -> None:
    uid = created(web)
    root = web.url.replace("http", "ws", 1)
    with connect(root + path) as socket:  # open before anything is subscribed
        subscribed(web, uid)
        assert read(socket).what == (uid, STATE_REPORT)
        socket.send("nothing that means anything")
        claimed(web, uid)
        assert read(socket)["00741000"] == "IN PROGRESS"


def refused(address: str, **options: Any) -> int:
    with pytest.raises(InvalidStatus) as caught, connect(address, **options):
        pass
    assert caught.value.response.headers["content-type"] == "application/problem+json"
    return caught.value.response.status_code


def test_whose_pages_may_listen(web: Web) -> None:
    address = subscribed(web, created(web))
    host = web.url.split("/")[2]
    for origin in ("https://viewer.example", f"http://{host}"):
        with connect(address, origin=origin):
            pass
    for origin in ("https://elsewhere.example", "null", "https://viewer.example.elsewhere.example", "http://["):
        assert refused(address, origin=origin) == 403


def test_who_may_not_query_does_not_listen(web: Web) -> None:
    address = subscribed(web, created(web))
    assert refused(address, additional_headers={"X-Test-Rights": "store"}) == 403
    assert refused(address.replace("VIEWER", "A%20TITLE%20OF%20SEVENTEEN")) == 400


def test_the_events_of_an_ae_belong_to_who_subscribed_it(web: Web) -> None:
    one, other = (Principal(name, "token", frozenset({Right.QUERY})) for name in ("one", "other"))
    operator = Principal("operator", "session", frozenset({Right.QUERY, Right.ADMIN}))
    worklist, uid = web.archive.worklist, created(web)
    worklist.subscribe(uid, "VIEWER", one)
    for attempt in (
        lambda: worklist.subscribe(uid, "VIEWER", other),
        lambda: worklist.listen("VIEWER", other),
        lambda: worklist.unsubscribe(uid, "VIEWER", other),
        lambda: worklist.suspend(GLOBAL_UID, "VIEWER", other),
    ):
        with pytest.raises(Forbidden):
            attempt()
    worklist.listen("VIEWER", one)
    worklist.listen("VIEWER", operator)
    assert (worklist.receivers_of(one), worklist.receivers_of(other)) == (["VIEWER"], [])
    worklist.subscribe(uid, "MODALITY", Principal("GATEWAY", "ae"))
    with pytest.raises(Forbidden):
        worklist.listen("MODALITY", one)
    worklist.listen("MODALITY", Principal("MODALITY", "token", frozenset({Right.QUERY})))


def test_who_listens_first_owns_nothing(web: Web) -> None:
    squatter, clinic = (Principal(name, "token", frozenset({Right.QUERY})) for name in ("tests", "clinic"))
    worklist, uid = web.archive.worklist, created(web)
    address = subscribed(web, created(web)).replace("VIEWER", "CONSOLE")
    with connect(address, additional_headers={"X-Test-Rights": "query"}) as socket:
        worklist.listen("CONSOLE", squatter)
        assert "CONSOLE" not in worklist.receivers_of(squatter)
        worklist.subscribe(uid, "CONSOLE", clinic)  # and the connection hears nothing of it
        with pytest.raises(ConnectionClosed) as caught:
            socket.recv(timeout=PATIENCE_S)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == websocket.POLICY
    assert worklist.unsubscribe(uid, "CONSOLE", clinic)
    worklist.subscribe(uid, "CONSOLE", squatter)  # it was nobody's again


def test_the_end_of_the_server_ends_the_connections(web: Web) -> None:
    with connect(subscribed(web, created(web))) as socket:
        read(socket)
        web.archive.events.close()
        with pytest.raises(ConnectionClosed) as caught:
            socket.recv(timeout=PATIENCE_S)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == websocket.GOING_AWAY
