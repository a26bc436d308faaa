"""GET /api/plugins over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dicom_data
import httpx
import pytest
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send
from task_plugins import TARGETS

from analysis.registry import Registry
from analysis.routes import rows
from pacs import uids
from pacs.archive import Archive, open_archive
from pacs.auth import Principal, Right
from pacs.server.api_mount import mount
from pacs.settings import Settings
from pacs.worklist import Worklist


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    made = open_archive(Settings(data=tmp_path / "data"))
    yield made.with_services(worklist=Worklist(made.index, made.events))
    made.close()


async def ask(archive: Archive, path: str, principal: Principal) -> httpx.Response:
    inner = Starlette(routes=mount(rows(archive, Registry.load(TARGETS))))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["principal"] = principal
        await inner(scope, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        return await client.get(path)


def test_plugins_and_their_matches(archive: Archive) -> None:
    import anyio

    for ds in dicom_data.series(3):
        receiving = archive.ingest.receive_part10()
        receiving.write(dicom_data.part10(ds))
        archive.ingest.store(receiving, principal=Principal("ann", "session"))

    def get(path: str, rights: frozenset[Right] = frozenset({Right.QUERY})) -> httpx.Response:
        return anyio.run(ask, archive, path, Principal("ann", "session", rights))

    listed: list[dict[str, Any]] = get("/api/plugins").json()
    assert [each["id"] for each in listed] == ["count", "odd", "patient", "views"]
    assert listed[0]["schema"]["properties"]["threshold"]["default"] == 300
    assert "matches" not in listed[0]
    found = get(f"/api/plugins?study={uids.derived('study', 0)}").json()
    assert [len(each["matches"]) for each in found] == [1, 1, 1, 0]
    assert get("/api/plugins?study=1.2.999").json()[0]["matches"] == []
    assert get("/api/plugins?study=x").status_code == 400
    refused = get("/api/plugins", frozenset())
    assert refused.status_code == 403
    assert refused.headers["content-type"] == "application/problem+json"
