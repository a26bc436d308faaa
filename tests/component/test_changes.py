"""The change feed: ordered, resumable, waiting, on a WebSocket, within what the asker may know."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import dicom_data
import httpx
import pytest
from dicomweb_server import Web, serving
from starlette.types import Message
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from dicomweb import changes
from dicomweb.calls import Call
from dicomweb.calls import Web as CallWeb
from pacs.archive import open_archive
from pacs.auth import SYSTEM, Principal, Right
from pacs.errors import Unauthenticated
from pacs.index.changes import Change
from pacs.server import api
from pacs.settings import Settings

PATIENCE_S = 60


@pytest.fixture
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with serving(tmp_path_factory.mktemp("changes")) as web:
        yield web


def feed(web: Web, **query: Any) -> dict[str, Any]:
    answer = web.get("/changes", params=query)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json"), answer.text
    body = answer.json()
    assert answer.headers["link"] == f'<{web.url}/changes?since={body["last"]}>; rel="next"'
    return body


def stored(web: Web, number: int) -> dict[str, str]:
    ds = dicom_data.image(number)
    assert web.store(ds).status_code == 200
    return {
        "study_instance_uid": str(ds.StudyInstanceUID),
        "series_instance_uid": str(ds.SeriesInstanceUID),
        "sop_instance_uid": str(ds.SOPInstanceUID),
    }


def test_in_order_and_from_any_point(web: Web) -> None:
    assert feed(web) == {"changes": [], "last": 0, "more": False}
    named = [stored(web, number) for number in range(5)]
    whole = feed(web)
    assert [{name: each[name] for name in named[0]} for each in whole["changes"]] == named
    assert {each["kind"] for each in whole["changes"]} == {"instance"}
    sequence = [each["seq"] for each in whole["changes"]]
    assert sequence == sorted(set(sequence))
    assert all(each["at"].endswith("Z") for each in whole["changes"])
    pages, since = [], 0
    while (page := feed(web, since=since, limit=2))["changes"]:
        pages.append(page)
        since = page["last"]
    assert [each for page in pages for each in page["changes"]] == whole["changes"]
    assert [page["more"] for page in pages] == [True, True, False]
    assert feed(web, since="now")["changes"] == []
    uid = named[0]["sop_instance_uid"]
    place = "/studies/{study_instance_uid}/series/{series_instance_uid}/instances/{sop_instance_uid}"
    assert web.client.delete(place.format(**named[0])).status_code == 204
    [gone] = feed(web, since=whole["last"])["changes"]
    assert (gone["kind"], gone["sop_instance_uid"]) == ("deleted", uid)


def test_what_was_told_keeps_its_number_whatever_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An arrival is answered before the log of the index is synced: its objects tell it again. Numbers they do not."""
    synced: list[str] = []
    sync = os.fdatasync

    def watched(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        sync(fd)

    archive = open_archive(Settings(data=tmp_path))
    try:
        monkeypatch.setattr(os, "fdatasync", watched)
        ds = dicom_data.image(1)
        receiving = archive.ingest.receive("1.2.840.10008.1.2.1")
        receiving.write(dicom_data.dataset_bytes(ds))
        archive.ingest.store(receiving, principal=SYSTEM)
        log = str(tmp_path.resolve() / "index.db-wal")
        assert any(each.endswith(".seg") for each in synced)
        assert log not in synced
        found = changes.page(archive, SYSTEM, 0, 10)
        assert [each["sop_instance_uid"] for each in found.entries] == [ds.SOPInstanceUID]
        assert log in synced
        synced.clear()
        assert changes.page(archive, SYSTEM, found.last, 10).entries == []
        assert synced == []
        assert [each.sop_instance_uid for each in api._durable_changes(archive, 0)] == [ds.SOPInstanceUID]
        assert log in synced  # the viewer's stream counts with the same numbers
    finally:
        archive.close()


def test_waiting_for_news(web: Web) -> None:
    answers: list[httpx.Response] = []
    waiter = threading.Thread(target=lambda: answers.append(web.get("/changes", params={"wait": 60}, timeout=90)))
    waiter.start()
    named = stored(web, 1)
    waiter.join(PATIENCE_S + 30)
    [entry] = answers[0].json()["changes"]
    assert entry["sop_instance_uid"] == named["sop_instance_uid"]
    assert feed(web, since=entry["seq"], wait=1)["changes"] == []


def test_a_wait_does_not_outlive_the_credential(web: Web) -> None:
    """Who was let in and is revoked meanwhile hears nothing any more."""
    asked: list[int] = []

    def revoked() -> Principal:
        asked.append(1)
        raise Unauthenticated("the token was revoked")

    async def answered() -> None:
        state = {"principal": Principal("gone", "token"), "authenticate": revoked}
        scope = {
            "type": "http", "method": "GET", "path": "/changes", "path_params": {}, "headers": [],
            "query_string": b"since=now&wait=60", "state": state,
        }  # fmt: skip
        await changes.retrieve(Call(CallWeb(web.archive, "", {}), scope, receive))

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    with pytest.raises(Unauthenticated):
        anyio.run(answered)
    assert asked


def test_following_on_a_websocket_and_going_on_after_a_loss(web: Web) -> None:
    address = web.url.replace("http", "ws", 1) + "/changes"
    first = stored(web, 1)
    with connect(address + "?since=0") as socket:
        got = json.loads(socket.recv(timeout=PATIENCE_S))
        assert got["sop_instance_uid"] == first["sop_instance_uid"]
        socket.socket.shutdown(2)
    missed = stored(web, 2)
    with connect(f"{address}?since={got['seq']}") as socket:
        assert json.loads(socket.recv(timeout=PATIENCE_S))["sop_instance_uid"] == missed["sop_instance_uid"]
        live = stored(web, 3)
        assert json.loads(socket.recv(timeout=PATIENCE_S))["sop_instance_uid"] == live["sop_instance_uid"]
    with connect(address) as socket:  # from now on
        last = stored(web, 4)
        assert json.loads(socket.recv(timeout=PATIENCE_S))["sop_instance_uid"] == last["sop_instance_uid"]
    with pytest.raises(InvalidStatus) as caught, connect(address + "?since=999999"):
        pass
    assert caught.value.response.status_code == 410


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("since=x", 400),
        ("since=-1", 400),
        ("since=1&since=2", 400),
        ("limit=x", 400),
        ("wait=x", 400),
        ("after=1", 400),
        ("since=99", 410),
    ],
)
def test_what_cannot_be_asked(web: Web, query: str, status: int) -> None:
    answer = web.client.get(f"/changes?{query}")
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


def test_only_what_the_asker_may_know() -> None:
    def change(kind: str, scope: str = "") -> Change:
        return Change(1, kind, "1.2", None, None, None, "CT1", 0.0, scope=scope)

    reader = Principal("r", "token", frozenset({Right.QUERY}))
    limited = Principal("l", "token", frozenset({Right.QUERY, Right.ADMIN}), scope="north")
    operator = Principal("o", "token", frozenset({Right.QUERY, Right.ADMIN}))
    for kind, told in (("instance", True), ("deleted", True), ("quarantined", False), ("discrepancy", False)):
        assert changes.is_visible(change(kind), reader) is told
        assert changes.is_visible(change(kind), operator)
        assert not changes.is_visible(change(kind, "south"), limited)
        assert changes.is_visible(change(kind, "north"), limited)
    assert "principal" not in changes.entry(change("instance"))
    assert changes.entry(change("instance")) == {
        "seq": 1, "kind": "instance", "at": "1970-01-01T00:00:00.000Z", "study_instance_uid": "1.2",
    }  # fmt: skip


def test_rights(web: Web) -> None:
    assert web.get("/changes", headers={"X-Test-Rights": "store"}).status_code == 403
    assert web.get("/changes", "application/dicom+xml").status_code == 406
