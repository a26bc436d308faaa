"""An analysis from its form to its model, and from a mammogram to marks: asked, followed, told, looked at, stopped."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest
from conftest import RunningServer
from playwright.sync_api import expect
from visitor import Visit

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def phantoms(server: RunningServer, client: httpx.Client) -> tuple[str, str]:
    """The study UIDs of the CT phantom and of the mammograms, which `m3dicom demo` sent."""
    server.command("demo", "--small")
    ct, mg = (client.get("/studies", params={"ModalitiesInStudy": each}).json() for each in ("CT", "MG"))
    return ct[0]["0020000D"]["Value"][0], mg[0]["0020000D"]["Value"][0]


def started(page: Any, **fields: str) -> None:
    page.click(".analyse-button")
    page.wait_for_selector("dialog[open] form")
    for name, value in fields.items():
        page.fill(f"#parameter-{name}", value)
    page.click("dialog[open] .form-foot button")


def test_a_bone_model_from_form_to_pixels(visit: Visit, client: httpx.Client, phantoms: tuple[str, str]) -> None:
    reader = visit()
    page = reader.study(phantoms[0])
    # Out of bounds is said beside the field, and nothing is asked of the server.
    started(page, threshold_hu="99999")
    page.wait_for_selector("#parameter-threshold_hu-problem:not(:empty)")
    assert "3000" in page.locator("#parameter-threshold_hu-problem").inner_text()
    page.fill("#parameter-threshold_hu", "450")
    page.click("dialog[open] .form-foot button")
    page.wait_for_selector(".task")
    page.wait_for_selector(".notice-done", timeout=180_000)
    item = next(
        each for each in client.get("/workitems", params={"includefield": "all"}).json()
        if each["00404021"]["Value"][0]["0020000D"]["Value"] == [phantoms[0]]
    )  # fmt: skip
    numbers = [each["0040A30A"]["Value"][0] for each in item["00741210"]["Value"] if "0040A30A" in each]
    assert 450 in [float(number) for number in numbers]
    page.click(".notice-done a")
    page.wait_for_selector(".model-canvas[data-rendered]", timeout=60_000)
    reader.settle(".model-canvas")
    before = reader.see(".model-canvas").astype(int)
    assert (before.max(axis=2) > 90).mean() > 0.05  # not only background
    assert int(page.locator(".triangle-count").inner_text().split()[0].replace(",", "")) > 500
    page.click("text=Superior")
    reader.settle(".model-canvas")
    assert np.abs(reader.see(".model-canvas").astype(int) - before).mean() > 2
    for box in page.locator(".labels input[type=checkbox]").all():
        box.uncheck()
    reader.settle(".model-canvas")
    assert (reader.see(".model-canvas").max(axis=2) > 90).mean() < 0.02
    with page.expect_download() as download:
        page.click("text=X3D scene")
    assert b"<X3D" in download.value.path().read_bytes()[:2000]
    with page.expect_download() as download:
        page.locator(".downloads button").nth(1).click()
    raw = download.value.path().read_bytes()
    assert len(raw) == 84 + 50 * int.from_bytes(raw[80:84], "little")


def test_marks_of_a_mammogram(visit: Visit, phantoms: tuple[str, str]) -> None:
    reader = visit()
    page = reader.study(phantoms[1])
    started(page)
    page.wait_for_selector(".notice-done", timeout=180_000)
    page.click(".notice-done a")
    page.wait_for_selector(".pane[data-rendered]", timeout=60_000)
    page.click("#tab-findings")
    page.wait_for_selector("[data-id=CL1]")
    page.locator("[data-id=CL1]").first.click()
    page.wait_for_selector(".mark-chosen")
    # The marked copy stands beside its original, and both move together.
    page.locator(".series-card.kind-capture", has_text="marked images").click()
    expect(page.locator(".pane")).to_have_count(2)
    expect(page.locator(".hud-br").nth(1)).to_contain_text("Zoom")
    reader.settle()
    zooms = [words.split("Zoom ")[1] for words in page.locator(".hud-br").all_inner_texts()]
    assert zooms[0] == zooms[1]
    # The copy has marks burned in: it is in colour, the original without the viewer's marks is not.
    page.keyboard.press("m")
    reader.settle()
    left, right = (reader.see(page.locator(".pane .viewport").nth(i)).astype(int) for i in (0, 1))
    assert np.ptp(right[80:-80, 40:-40], axis=2).max() > 60
    assert np.ptp(left[80:-80, 40:-40], axis=2).max() < 12


def test_a_task_is_stopped(visit: Visit, phantoms: tuple[str, str]) -> None:
    reader = visit()
    page = reader.study(phantoms[0])
    started(page, threshold_hu="451")
    page.wait_for_selector(".task button:has-text('Cancel')")
    page.locator(".task button:has-text('Cancel')").first.click()
    page.wait_for_selector(".notice-error, .notice-done", timeout=60_000)
    reader.open("#/tasks")
    page.wait_for_selector(".task")
    assert page.locator(".task .task-state").first.inner_text() in ("Stopped", "Finished")
