"""Verdicts and batches in the viewer: by key and by button, kept over a reload; a look ahead before a batch."""

from __future__ import annotations

import io

import httpx
import pytest
from conftest import RunningServer
from dicom_data import part10, series
from playwright.sync_api import expect
from test_viewer import MG_STUDY, SQUARE, marked_mammogram
from visitor import Visit, store

from pacs import uids

pytestmark = pytest.mark.browser
OLD, NEW = (f".marks g[data-place={kind}] .line" for kind in ("outdated", "corrected"))


@pytest.fixture(scope="module")
def read(client: httpx.Client) -> None:
    """A mammogram with one finding, and a CT."""
    mg, report = marked_mammogram()
    out = io.BytesIO()
    report.save_as(out, enforce_file_format=True)
    store(client, part10(mg), out.getvalue(), *(part10(ds) for ds in series(3)))


def test_a_reader_judges_a_finding(visit: Visit, read: None, server: RunningServer) -> None:
    reader = visit()
    page = reader.study(MG_STUDY)
    page.wait_for_selector("[data-id=CL1]")
    page.keyboard.press("x")
    expect(page.locator(".notice")).to_contain_text("Choose a finding first")
    page.keyboard.press("n")
    page.wait_for_selector(".finding[data-id=CL1][aria-current=true]")
    page.keyboard.press("a")
    expect(page.locator(".verdict-slot .verdict")).to_have_text("Accepted")
    expect(page.locator('[data-verdict="accepted"]')).to_have_attribute("aria-pressed", "true")
    page.locator('[data-verdict="rejected"]').click()
    expect(page.locator(".verdict-slot .verdict")).to_have_text("Rejected")
    # The verdicts are documents of the archive, told at the finding and not as reports of their own.
    page.reload()
    page.wait_for_selector("[data-id=CL1]")
    expect(page.locator(".finding .verdict")).to_have_text("Rejected")
    expect(page.locator(".report-picker")).to_have_count(0)
    token = {"Authorization": f"Bearer {server.token}"}
    said = httpx.get(f"{server.http}/api/verdicts", params={"study": MG_STUDY}, headers=token).json()
    assert [(each["verdict"], each["counts"]) for each in said] == [("accepted", False), ("rejected", True)]


def test_a_reader_corrects_whatever_a_finding_says(visit: Visit, read: None, server: RunningServer) -> None:
    reader = visit()
    page = reader.study(MG_STUDY)
    page.wait_for_selector("[data-id=CL1]")
    page.keyboard.press("n")
    page.wait_for_selector(".finding[data-id=CL1][aria-current=true]")
    page.keyboard.press("c")
    dialog = page.locator("dialog")
    category = dialog.get_by_label("Assessment Category")
    expect(category.locator("option:checked")).to_have_text("4A - Low suspicion")
    expect(category.locator("option")).to_have_count(11)  # those of BI-RADS, and another code
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_contain_text("Nothing was changed")
    category.select_option(label="3 - Probably Benign")
    dialog.get_by_label("Certainty of Finding").fill("a lot")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_contain_text("a number is needed")
    dialog.get_by_label("Certainty of Finding").fill("40,5")
    dialog.get_by_label("Finding", exact=True).select_option(label="Another code…")
    for label, text in (("In words", "Vascular calcification"), ("Code", "129766003"), ("Coding scheme", "SCT")):
        dialog.get_by_role("textbox", name=label, exact=True).fill(text)
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_contain_text("give a reason")
    dialog.get_by_label("Reason").fill("A vessel, as two years ago")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_have_count(0)
    expect(page.locator(".verdict-slot .verdict")).to_have_text("Corrected")
    expect(page.locator(".verdict-line")).to_contain_text("Certainty of Finding 90 → 40.5 %")
    expect(page.locator(".verdict-line")).to_contain_text("4A - Low suspicion → 3 - Probably Benign")
    expect(page.locator(".verdict-line")).to_contain_text("A vessel, as two years ago")
    # Again: the form begins with what was corrected, and says what was computed.
    page.locator('[data-verdict="corrected"]').click()
    expect(category.locator("option:checked")).to_have_text("3 - Probably Benign")
    expect(dialog).to_contain_text("Computed: 4A - Low suspicion")
    page.keyboard.press("Escape")
    # A verdict that is no correction is given its reason afterwards.
    page.keyboard.press("x")
    expect(page.locator(".verdict-slot .verdict")).to_have_text("Rejected")
    page.get_by_role("button", name="Reason…").click()
    dialog.get_by_label("Reason").fill("An artefact")
    dialog.get_by_role("button", name="Save").click()
    expect(page.locator(".verdict-line")).to_contain_text("An artefact")
    token = {"Authorization": f"Bearer {server.token}"}
    said = httpx.get(f"{server.http}/api/verdicts", params={"study": MG_STUDY}, headers=token).json()
    (corrected,) = (each["corrected"] for each in said if each["verdict"] == "corrected")
    assert {each["meaning"] for each in corrected["codes"]} == {"Finding", "Assessment Category"}
    assert [each["value"] for each in corrected["measurements"]] == [40.5]


def test_a_corrected_place_stands_beside_the_computed_one(visit: Visit, read: None, server: RunningServer) -> None:
    token = {"Authorization": f"Bearer {server.token}"}
    visitor = visit()
    page = visitor.study(MG_STUDY)
    page.wait_for_selector("[data-id=CL1]")
    page.keyboard.press("n")
    page.wait_for_selector(".finding[data-id=CL1][aria-current=true]")
    page.keyboard.press("a")
    expect(page.locator(".verdict-slot .verdict")).to_have_text("Accepted")
    marks = page.locator(".marks g[data-mark=CL1]")
    expect(marks).to_have_count(1)
    expect(marks).to_have_attribute("data-place", "computed")
    known = httpx.get(f"{server.http}/api/verdicts", params={"study": MG_STUDY}, headers=token).json()
    (said,) = (v for v in known if v["counts"])
    column, row = SQUARE[1] + 2.0, SQUARE[0] + 2.0
    place = {"shape": "circle", "points": [[column + 40, row], [column + 46, row]]}
    finding = {"report": said["report_uid"], "tracking_uid": said["tracking_uid"], "comment": "Lies beside it"}
    # As the reader of this page, through the API.
    status = page.evaluate(
        """given => fetch('/api/verdicts', {
            method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify(given),
        }).then(answer => answer.status)""",
        {**finding, "verdict": "corrected", **place},
    )
    assert status in (200, 201)
    # The computed place is faint, the corrected one clear, each says which it is, and both are in view.
    page.reload()
    page.wait_for_selector("[data-id=CL1]")
    page.keyboard.press("n")
    expect(marks).to_have_count(2)
    old, new = (page.locator(f".marks g[data-place={kind}]") for kind in ("outdated", "corrected"))
    expect(old).to_have_css("opacity", "0.55")
    expect(new).to_have_css("opacity", "1")
    expect(old.locator(".line")).to_have_css("stroke-dasharray", "4px, 3px")
    expect(page.locator(".mark-label.mark-corrected")).to_have_text("CL1 corrected")
    expect(page.locator(".mark-label.mark-outdated")).to_have_text("CL1 computed")
    expect(page.locator(".verdict-line")).to_contain_text("its place, drawn clear (computed: faint)")
    visitor.settle()
    pane, here, there = (page.locator(at).bounding_box() for at in (".pane", OLD, NEW))
    assert pane is not None
    assert here is not None
    assert there is not None
    for box in (here, there):
        assert pane["x"] < box["x"]
        assert box["x"] + box["width"] < pane["x"] + pane["width"]
    # Two circles of 12 pixels across, 40 pixels apart.
    assert there["x"] - here["x"] == pytest.approx(40 / 12 * here["width"], rel=0.2)  # its line is in the width, too
    assert there["y"] == pytest.approx(here["y"], abs=2)
    # Correcting a number by the form leaves the place as it is; accepting takes it back.
    page.keyboard.press("c")
    dialog = page.locator("dialog")
    dialog.get_by_label("Certainty of Finding").fill("50")
    dialog.get_by_role("button", name="Save").click()
    expect(page.locator(".verdict-line")).to_contain_text("90 → 50 %; its place")
    expect(new).to_have_count(1)
    page.keyboard.press("a")
    expect(marks).to_have_count(1)
    expect(marks).to_have_attribute("data-place", "computed")


def test_what_only_a_reader_has_seen_is_marked(visit: Visit, read: None, server: RunningServer) -> None:
    missed = {
        "report": uids.derived("sr"), "verdict": "missed", "image": uids.derived("mg"), "shape": "circle",
        "points": [[60, 60], [66, 60]], "finding": {"value": "4147007", "scheme": "SCT", "meaning": "Mass"},
    }  # fmt: skip
    token = {"Authorization": f"Bearer {server.token}"}
    httpx.post(f"{server.http}/api/verdicts", json=missed, headers=token, timeout=60).raise_for_status()
    page = visit().study(MG_STUDY)
    row = page.locator('.finding[data-id="Missed: Mass"]')
    row.click()
    expect(page.locator('[data-mark="Missed: Mass"]').first).to_be_attached()
    expect(page.locator(".verdict-slot .verdict")).to_have_text("Missed")
    page.keyboard.press("x")  # withdrawn
    expect(page.locator(".verdict-slot .verdict")).to_have_text("Rejected")


def test_batches(visit: Visit, read: None) -> None:
    reader = visit()
    page = reader.open("#/batches")
    expect(page.locator(".batches")).to_contain_text("No batches yet.")
    page.get_by_role("button", name="New batch").click()
    dialog = page.locator("dialog")
    dialog.get_by_label("Studies").fill("PatientID=NOBODY")
    dialog.get_by_role("button", name="Look ahead").click()
    expect(dialog.get_by_role("status")).to_contain_text("0 studies: 0 to compute")
    dialog.get_by_label("Studies").fill("PatientId=NOBODY")
    dialog.get_by_role("button", name="Start").click()
    expect(dialog.get_by_role("alert").last).to_contain_text("PatientId")
    dialog.get_by_label("Studies").fill("PatientID=NOBODY")
    dialog.get_by_role("button", name="Start").click()
    expect(page.locator("[data-batch] .task-state")).to_have_text("Done", timeout=60_000)
    expect(page.get_by_role("link", name="Report in the archive")).to_be_visible()
