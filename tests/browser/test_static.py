"""How the built viewer is served: cached for good, compressed, never from outside its folder; in words if not built."""

from __future__ import annotations

import gzip
from pathlib import Path

import anyio
import httpx
import pytest
from starlette.applications import Starlette

import viewer
from viewer import hatch_build


def get(static: Path, path: str, encoding: str = "identity") -> httpx.Response:
    """What the routes answer; the body as it goes over the wire."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(Starlette(routes=viewer.routes(static)))
        async with httpx.AsyncClient(transport=transport, base_url="http://viewer") as client:
            request = client.build_request("GET", path, headers={"Accept-Encoding": encoding})
            answer = await client.send(request, stream=True)
            answer.extensions["raw"] = b"".join([chunk async for chunk in answer.aiter_raw()])
            return answer

    return anyio.run(ask)


@pytest.fixture
def static(tmp_path: Path) -> Path:
    """A built viewer of three files, with a secret beside it."""
    folder = tmp_path / "static"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("<p>viewer</p>")
    (folder / ".sources").write_text("digest")
    script = folder / "assets" / "index-AbCd1234.js"
    script.write_text("plain")
    script.with_name(script.name + ".gz").write_bytes(gzip.compress(b"plain"))
    script.with_name(script.name + ".br").write_bytes(b"br")
    (tmp_path / "secret").write_text("secret")
    return folder


def test_assets_are_immutable_and_compressed(static: Path) -> None:
    page = get(static, "/")
    assert page.extensions["raw"] == b"<p>viewer</p>"
    assert page.headers["cache-control"] == "no-store"
    script = "/assets/index-AbCd1234.js"
    zipped = get(static, script, "gzip")
    assert gzip.decompress(zipped.extensions["raw"]) == b"plain"
    assert zipped.headers["content-encoding"] == "gzip"
    assert zipped.headers["content-type"].startswith("text/javascript")
    assert "immutable" in zipped.headers["cache-control"]
    assert zipped.headers["vary"] == "Accept-Encoding"
    assert get(static, script, "br, gzip").headers["content-encoding"] == "br"
    plain = get(static, script, "br;q=0, gzip;q=0")
    assert "content-encoding" not in plain.headers
    assert plain.extensions["raw"] == b"plain"


@pytest.mark.parametrize("path", ["../.sources", "..%2F..%2Fsecret", "%2e%2e/.sources", "..%2f.sources", ""])
def test_nothing_outside_is_served(static: Path, path: str) -> None:
    assert get(static, f"/assets/{path}").status_code == 404


def test_a_viewer_that_is_not_built_says_so(tmp_path: Path) -> None:
    answer = get(tmp_path, "/")
    assert answer.status_code == 503
    assert b"hatch_build.py" in answer.extensions["raw"]


def test_the_build_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(hatch_build.ViewerNotBuilt, match=r"Install Node\.js"):
        hatch_build.build(force=True)


def test_the_lock_names_no_registry() -> None:
    lock = (hatch_build.WEB / "package-lock.json").read_text()
    assert '"resolved"' not in lock
