"""The viewer as a reader uses it: logging in, finding, uploading, reading, marking, on a desk and on a phone."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import RunningServer
from dicom_data import image, mammogram, part10, series
from highdicom import sr
from playwright.sync_api import expect
from pydicom import Dataset
from pydicom.sr.coding import Code
from visitor import Visit, Visitor, store

from pacs import uids

pytestmark = pytest.mark.browser

ROWS, COLUMNS = 64, 64
CT_STUDY = uids.derived("study", 31)
MG_STUDY = uids.derived("study", 32)
XSS_STUDY = uids.derived("study", 33)
SQUARE = (30, 18)  # row and column of the top left pixel of a bright 4 × 4 square in the mammogram
SHARED: dict[str, Any] = {"PatientName": "Browser^Bea", "PatientID": "BROWSER"}


def ct(z: int, **attributes: Any) -> Dataset:
    """A CT slice: dark on the left, 40 HU in the middle, bright on the right; a bar of four pixels per slice."""
    hu = np.full((ROWS, COLUMNS), -900, np.int32)
    hu[:, 21:43], hu[:, 43:] = 40, 900
    hu[24:28, : 4 * (z + 1)] = 900
    pixels = (hu + 1024).astype("<u2")
    where = {"ImagePositionPatient": [0, 0, z], "SOPInstanceUID": uids.derived("ct", z), "InstanceNumber": z + 1}
    own = {"StudyInstanceUID": CT_STUDY, "SeriesInstanceUID": uids.derived("ct series"), "StudyDescription": "Wedge"}
    return image(z, ROWS, COLUMNS, PixelData=pixels.tobytes(), **SHARED, **where, **own, **attributes)


def marked_mammogram() -> tuple[Dataset, Dataset]:
    """A mammogram with one bright square, and a report whose circle lies around it (PS3.16 TID 1500)."""
    pixels = np.full((160, 120), 300, np.uint16)
    row, column = SQUARE
    pixels[row : row + 4, column : column + 4] = 4000
    mg = mammogram(
        0, 160, 120, PixelData=pixels.astype("<u2").tobytes(), **SHARED, StudyDescription="Square",
        StudyInstanceUID=MG_STUDY, SeriesInstanceUID=uids.derived("mg series"), SOPInstanceUID=uids.derived("mg"),
    )  # fmt: skip
    source = sr.SourceImageForRegion(mg.SOPClassUID, mg.SOPInstanceUID)
    middle = np.array([[column + 2.0, row + 2.0], [column + 8.0, row + 2.0]])
    group = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(identifier="CL1"),
        referenced_region=sr.ImageRegion("CIRCLE", middle, source),
        finding_type=Code("129769006", "SCT", "Calcification Cluster"),
        measurements=[
            sr.Measurement(Code("111012", "DCM", "Certainty of Finding"), 90.0, Code("%", "UCUM", "Percent")),
        ],
        qualitative_evaluations=[
            sr.QualitativeEvaluation(
                Code("111005", "DCM", "Assessment Category"), Code("MA.II.A.5.4A", "BI", "4A - Low suspicion")
            ),
        ],
    )
    device = sr.DeviceObserverIdentifyingAttributes(uid=uids.derived("device"))
    context = sr.ObservationContext(sr.ObserverContext(Code("121007", "DCM", "Device"), device))
    content = sr.MeasurementReport(context, Code("363679005", "SCT", "Imaging procedure"), imaging_measurements=[group])
    report = sr.Comprehensive3DSR(
        [mg], content, uids.derived("sr series"), 100, uids.derived("sr"), 1, manufacturer="m3DICOM",
        series_description="Report",
    )  # fmt: skip
    return mg, report


@pytest.fixture(scope="module")
def studies(client: httpx.Client) -> None:
    """The studies that most tests look at."""
    store(client, *(part10(ct(z)) for z in range(5)))
    mg, report = marked_mammogram()
    out = io.BytesIO()
    report.save_as(out, enforce_file_format=True)
    store(client, part10(mg), out.getvalue())


def grey(visitor: Visitor, column: float, row: float = 0.5) -> float:
    """The mean grey of a spot of the first pane, given as shares of the image's width and height."""
    box = visitor.see(".pane .viewport").astype(float).mean(axis=2)
    side = min(box.shape)
    top, left = (box.shape[0] - side) / 2, (box.shape[1] - side) / 2
    y, x = round(top + row * side), round(left + column * side)
    return float(box[y - 3 : y + 4, x - 3 : x + 4].mean())


def test_a_login_link_works_once_and_leaves_the_address(visit: Visit, server: RunningServer, studies: None) -> None:
    link = server.login_link
    first = visit(logged_in=False)
    first.page.goto(link)
    first.page.wait_for_selector(".study-row")
    assert "login" not in first.page.url
    second = visit(logged_in=False)
    second.page.goto(link)
    assert second.page.locator(".login-card .field-problem").inner_text()
    second.page.fill("#token", "wrong")
    second.page.click("text=Log in")
    second.page.wait_for_selector("text=This token is not known")
    second.page.fill("#token", server.token)
    second.page.click("text=Log in")
    second.page.wait_for_selector(".study-row")
    second.page.click("[aria-label='Log out']")
    second.page.wait_for_selector(".login-card")


def test_the_list_is_searched(visit: Visit, studies: None) -> None:
    page = visit().page
    page.wait_for_selector(".study-row")
    rows = page.locator(".study-row")
    page.fill("#search-patientName", "browser, b")
    page.select_option("#search-modality", "MG")
    expect(rows).to_have_count(1)
    assert "Square" in rows.first.inner_text()
    assert rows.first.locator(".badge").all_inner_texts() == ["MG", "SR"]
    page.fill("#search-patientName", "nobody of this name")
    page.wait_for_selector("text=No study matches")
    page.click("text=Clear")
    expect(rows.nth(1)).to_be_visible()


def test_files_are_uploaded_by_picker_and_by_drop(visit: Visit, tmp_path: Path) -> None:
    page = visit().page
    study = uids.derived("study", 40)
    names = []
    for i, ds in enumerate(series(4, study=40, PatientName="Upload^Una")):
        (tmp_path / f"{i}.dcm").write_bytes(part10(ds))
        names.append(str(tmp_path / f"{i}.dcm"))
    (tmp_path / "notes.txt").write_text("no DICOM " * 40)
    page.set_input_files(".pick-files", [*names, str(tmp_path / "notes.txt")])
    page.wait_for_selector("text=4 of 5 stored, 1 not DICOM")
    assert page.locator(".upload-list li").count() == 5
    # The same UID with other content is refused, and the reason stands beside the file.
    changed = next(iter(series(1, study=40, PatientName="Upload^Other")))
    page.evaluate_handle(
        """bytes => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], 'other.dcm'));
          const how = { bubbles: true, cancelable: true, dataTransfer: transfer };
          for (const type of ['dragenter', 'dragover', 'drop'])
            document.body.dispatchEvent(new DragEvent(type, how));
        }""",
        list(part10(changed)),
    )
    page.wait_for_selector(".upload-refused")
    assert "already stored" in page.locator(".upload-refused").inner_text()
    page.click("text=Open the study")
    page.wait_for_selector(".pane[data-rendered]")
    assert study in page.url


def test_a_ct_is_read(visit: Visit, studies: None) -> None:
    reader = visit()
    page = reader.study(CT_STUDY)
    # Window 400 at 40: dark, middle grey, bright.
    assert grey(reader, 0.15) < 10
    assert 110 < grey(reader, 0.5) < 145
    assert grey(reader, 0.85) > 245
    assert "3 / 5" in page.locator(".hud-bl").inner_text()
    assert page.locator(".edge-right").inner_text() == "L"
    page.locator(".pane").focus()
    page.keyboard.press("Home")
    page.wait_for_selector("text=1 / 5")
    page.keyboard.press("ArrowDown")
    page.wait_for_selector("text=2 / 5")
    reader.settle()
    assert grey(reader, 0.09, 0.405) > 245  # the bar of slice 2 is 8 pixels long
    assert grey(reader, 0.18, 0.405) < 10
    page.select_option(".preset-menu", label="Lung  1500/-600")
    reader.settle()
    assert grey(reader, 0.15) == pytest.approx(255 * (-900 + 600 + 750) / 1500, abs=8)
    page.keyboard.press("i")
    reader.settle()
    assert grey(reader, 0.15) == pytest.approx(255 - 255 * (-900 + 600 + 750) / 1500, abs=8)
    page.keyboard.press("r")
    reader.settle()
    assert grey(reader, 0.15) < 10


def test_a_length_is_in_millimetres(visit: Visit, studies: None) -> None:
    reader = visit()
    page = reader.study(CT_STUDY)
    box = page.locator(".viewport").bounding_box()
    assert box is not None
    side = min(box["width"], box["height"])
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.keyboard.press("l")
    page.mouse.move(middle[0] - side / 4, middle[1])
    page.mouse.down()
    page.mouse.move(middle[0], middle[1], steps=4)
    page.mouse.move(middle[0] + side / 4, middle[1], steps=4)
    page.mouse.up()
    page.wait_for_selector(".svg-layer text")
    page.wait_for_timeout(500)  # the text follows the line
    words = page.locator(".svg-layer text").text_content() or ""
    assert words.endswith("mm")
    assert float(words.split()[0]) == pytest.approx(COLUMNS / 2 * 0.5, rel=0.03)
    page.keyboard.press("ArrowDown")  # the keys still work
    page.wait_for_selector("text=4 / 5")


def test_a_frame_that_does_not_come_is_shown_as_a_preview(visit: Visit, studies: None) -> None:
    reader = visit()
    reader.page.route("**/frames/1", lambda route: route.fulfill(status=500))
    reader.study(CT_STUDY)
    reader.page.wait_for_selector(".preview-badge:visible")
    assert grey(reader, 0.15) < 10
    assert grey(reader, 0.85) > 245


def test_marks_lie_where_the_report_says(visit: Visit, studies: None) -> None:
    reader = visit()
    page = reader.study(MG_STUDY)
    page.wait_for_selector("[data-id=CL1]")
    for zoomed in (False, True):
        if zoomed:
            page.keyboard.press("n")
            page.wait_for_selector(".finding[aria-current=true]")
            reader.settle()
        mark = page.locator(".marks g[data-mark=CL1] .line").bounding_box()
        view = page.locator(".viewport").bounding_box()
        assert mark is not None
        assert view is not None
        found = (mark["x"] + mark["width"] / 2 - view["x"], mark["y"] + mark["height"] / 2 - view["y"])
        page.keyboard.press("m")  # hide the marks, then look for the square itself
        reader.settle()
        seen = reader.see(".pane .viewport").astype(float).mean(axis=2)
        middle_of_pane = seen[60:-60, 40:-40]
        rows, columns = np.nonzero(middle_of_pane > 200)
        assert rows.size > 20
        square = (columns.mean() + 40.5, rows.mean() + 60.5)
        assert found == pytest.approx(square, abs=2.5)
        page.keyboard.press("m")
        reader.settle()
    assert page.locator(".finding").inner_text().split("\n")[0] == "CL1"


def test_names_are_text_and_nothing_else(visit: Visit, client: httpx.Client) -> None:
    evil, evil_name = "<img src=x onerror=alert(1)>", "<script>alert(1)</script>"  # PN splits at "="
    ds = image(
        0, 16, 16, StudyInstanceUID=XSS_STUDY, SeriesInstanceUID=uids.derived("xss series"),
        SOPInstanceUID=uids.derived("xss"), PatientName=evil_name, StudyDescription=evil, SeriesDescription=evil,
    )  # fmt: skip
    store(client, part10(ds))
    reader = visit()
    page = reader.page
    page.wait_for_selector(f"text={evil}")
    reader.study(XSS_STUDY)
    assert evil_name in page.locator(".hud-tl").inner_text()
    assert evil in page.locator(".hud-tr").inner_text()
    assert page.locator("img[src=x]").count() == 0


def test_the_keyboard_reaches_everything_and_gets_out_again(visit: Visit, studies: None) -> None:
    reader = visit()
    page = reader.page
    page.wait_for_selector(".study-row")
    page.locator(".study-row", has_text="Wedge").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".pane[data-rendered]", timeout=60_000)
    page.locator(".pane").focus()
    page.mouse.click(*_middle(page.locator(".viewport").bounding_box()))
    for _ in range(4):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('.pane') === null")
    page.locator(".analyse-button").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open] .plugin")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    assert page.evaluate("document.activeElement.classList.contains('analyse-button')")
    unnamed = page.evaluate(
        """[...document.querySelectorAll('button, input, select, a')].filter((e) => e.offsetParent &&
          !(e.textContent.trim() || e.ariaLabel || e.title || e.labels?.length)).map((e) => e.outerHTML)"""
    )
    assert unnamed == []


def _middle(box: Any) -> tuple[float, float]:
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_a_phone_has_room_for_everything(visit: Visit, studies: None, tmp_path: Path) -> None:
    reader = visit(width=360, height=740, phone=True)
    page = reader.page
    page.wait_for_selector(".study-row")
    wide = "document.documentElement.scrollWidth"
    assert page.evaluate(wide) <= 360
    reader.study(MG_STUDY)
    assert page.evaluate(wide) <= 360
    for button in page.locator(".toolbar button:visible, .study-bar :is(a, button):visible").all():
        box = button.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 361, button.get_attribute("aria-label")
        assert min(box["width"], box["height"]) >= 24  # WCAG 2.2, 2.5.8
    pane = page.locator(".pane").bounding_box()
    assert pane is not None
    assert pane["height"] > 500
    page.click("[aria-label='Results and tasks']")
    page.wait_for_selector("[data-drawer=side]")
    page.wait_for_selector("[data-id=CL1]:visible")
    page.click("[data-id=CL1]")
    page.wait_for_selector("[data-drawer=none]")
    page.click("[aria-label='Series']")
    page.locator(".series-card.kind-images").click()
    page.wait_for_selector("[data-drawer=none]")
    if os.environ.get("M3DICOM_SCREENSHOTS"):
        page.screenshot(path=str(Path(os.environ["M3DICOM_SCREENSHOTS"]) / "phone.png"))


def test_colours_can_be_read(visit: Visit) -> None:
    """Contrast of the palette's text on its grounds, WCAG 2.2 1.4.3: at least 4.5."""
    page = visit().page
    palette = page.evaluate(
        """() => { const style = getComputedStyle(document.documentElement);
          const of = (names) => Object.fromEntries(names.map((n) => [n, style.getPropertyValue('--' + n).trim()]));
          const texts = ['text', 'muted', 'accent', 'mark', 'good', 'bad'];
          return [of(texts), of(['ground', 'panel', 'raised', 'raised-2'])];
        }"""
    )

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    for name, text in palette[0].items():
        for ground_name, ground in palette[1].items():
            contrast = (luminance(text) + 0.05) / (luminance(ground) + 0.05)
            assert contrast >= 4.5, (name, ground_name, contrast)
