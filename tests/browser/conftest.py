"""Chromium on the real server: the built viewer, logged in, with every script error counted as a failure."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from conftest import RunningServer, start_server
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, StorageState, expect, sync_playwright

import viewer

sys.path.append(str(Path(__file__).resolve().parent))  # at the end: the conftest.py above this one is imported by name

from visitor import Visit, Visitor

FLAGS = """
    --no-sandbox --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync
    --use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader
    --disable-gpu-compositing --disable-gpu-rasterization
""".split()  # noqa: SIM905 (a command line reads best as one)
# Only WebGL goes through the software rasteriser: pages that did, too, kept a processor busy with every spinner.

PATIENCE_MS = 60_000
expect.set_options(timeout=PATIENCE_MS)


def _missing(what: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium with a software rasteriser, so that pixels are the same everywhere.

    Per module: while Playwright's synchronous API is open its event loop counts as running, and no other test in this
    process could start one.
    """
    path = shutil.which("chromium") or shutil.which("google-chrome") or ""
    if not path:
        _missing("chromium is not installed")
    if not (viewer.STATIC / "index.html").is_file():
        _missing("the viewer is not built: run python viewer/hatch_build.py")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server for the browser tests of a module, without analyses that start by themselves."""
    server = start_server(tmp_path_factory.mktemp("browser") / "data", settings={"M3DICOM_STABLE_AFTER_S": "86400"})
    yield server
    server.stop()
    text = "".join(server.output)
    assert "Traceback" not in text, text[-4000:]


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[httpx.Client]:
    """An HTTP client with a token."""
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def session(browser: Browser, server: RunningServer) -> StorageState:
    """The cookies of somebody who followed a login link."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(server.login_link)
    page.wait_for_selector("header.top")
    kept = context.storage_state()
    page.goto("about:blank")  # ends the event stream
    context.close()
    assert kept["cookies"]
    return kept


@pytest.fixture
def visit(browser: Browser, server: RunningServer, session: StorageState) -> Iterator[Visit]:
    """Make visitors, logged in unless told otherwise; no script may have failed on any page."""
    contexts: list[BrowserContext] = []
    visitors: list[Visitor] = []

    def make(*, width: int = 1280, height: int = 800, logged_in: bool = True, phone: bool = False) -> Visitor:
        context = browser.new_context(
            viewport={"width": width, "height": height}, has_touch=phone, is_mobile=phone, locale="en-GB",
            storage_state=session if logged_in else None,
        )  # fmt: skip
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        visitor = Visitor(context.new_page(), server.http)
        visitors.append(visitor)

        def heard(message: ConsoleMessage) -> None:
            if "Content Security Policy" in message.text or "Trusted Type" in message.text:
                visitor.problems.append(message.text)

        visitor.page.on("pageerror", lambda error: visitor.problems.append(str(error)))
        visitor.page.on("console", heard)
        visitor.page.on("dialog", lambda dialog: visitor.problems.append(f"a dialog: {dialog.message}"))
        if logged_in:
            visitor.page.goto(server.http)
            visitor.page.wait_for_selector("header.top")
        return visitor

    yield make
    for visitor in visitors:
        visitor.page.goto("about:blank")  # ends the event stream
    for context in contexts:
        context.close()
    problems = [problem for visitor in visitors for problem in visitor.problems]
    assert not problems, problems
