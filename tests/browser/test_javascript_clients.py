"""The JavaScript clients that viewers are made of, unmodified: dicomweb-client and dcmjs, in a real browser."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dicom_data
import imagecodecs
import numpy as np
import pytest
from conftest import RunningServer
from playwright.sync_api import Browser, Page, Route
from pydicom import Dataset, dcmread

pytestmark = pytest.mark.browser

CLIENTS = Path(__file__).resolve().parents[1] / "clients_js" / "node_modules"
SCRIPTS = {
    "dicomweb-client.js": CLIENTS / "dicomweb-client" / "build" / "dicomweb-client.js",
    "dcmjs.js": CLIENTS / "dcmjs" / "build" / "dcmjs.js",
}
PAGE = '<!doctype html><script src="dicomweb-client.js"></script><script src="dcmjs.js"></script>'
TOOLS = """
window.base64 = (buffer) => {
  let text = '';
  for (const byte of new Uint8Array(buffer)) text += String.fromCharCode(byte);
  return btoa(text);
};
window.bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
"""


@pytest.fixture(scope="module")
def slices() -> list[Dataset]:
    return list(dicom_data.series(3, study=71, PatientName="Script^Jo", StudyDescription="from a browser"))


@pytest.fixture(scope="module")
def page(browser: Browser, server: RunningServer, slices: list[Dataset]) -> Iterator[Page]:
    """A page of the server's own origin with the clients loaded, and `client` in it, which has stored the slices."""
    for script in SCRIPTS.values():
        if not script.is_file():
            message = "the JavaScript clients are not installed: run npm ci in tests/clients_js"
            pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)

    def serve(route: Route) -> None:
        name = route.request.url.rsplit("/", 1)[1]
        if name in SCRIPTS:
            route.fulfill(path=SCRIPTS[name], content_type="text/javascript")
        else:
            route.fulfill(body=PAGE, content_type="text/html")

    context = browser.new_context()
    page = context.new_page()
    page.route("**/clients/*", serve)
    page.goto(f"{server.http}/clients/page")
    page.evaluate(TOOLS)
    page.evaluate(
        """([url, token]) => {
          const headers = { Authorization: `Bearer ${token}` };
          window.client = new DICOMwebClient.api.DICOMwebClient({ url, headers });
        }""",
        [server.dicomweb, server.token],
    )
    files = [base64.b64encode(dicom_data.part10(ds)).decode() for ds in slices]
    page.evaluate("(files) => client.storeInstances({ datasets: files.map(bytes) })", files)
    yield page
    context.close()


def names(ds: Dataset) -> dict[str, str]:
    return {
        "studyInstanceUID": ds.StudyInstanceUID,
        "seriesInstanceUID": ds.SeriesInstanceUID,
        "sopInstanceUID": ds.SOPInstanceUID,
    }


def fetched(page: Page, call: str, options: dict[str, Any]) -> list[bytes]:
    """The buffers that a call of the client gives."""
    script = f"async (o) => [].concat(await client.{call}(o)).map(base64)"
    return [base64.b64decode(each) for each in page.evaluate(script, options)]


def test_searches(page: Page, slices: list[Dataset]) -> None:
    study = slices[0].StudyInstanceUID
    query = {"PatientName": "script*", "includefield": "00081030,00080060", "fuzzymatching": True, "limit": 101}
    found = page.evaluate("(o) => client.searchForStudies(o)", {"queryParams": query})
    assert [item["0020000D"]["Value"] for item in found] == [[study]]
    assert found[0]["00081030"]["Value"] == ["from a browser"]
    options = {"studyInstanceUID": study}
    assert len(page.evaluate("(o) => client.searchForSeries(o)", options)) == 1
    assert len(page.evaluate("(o) => client.searchForInstances(o)", options)) == 3
    assert page.evaluate("(o) => client.searchForStudies(o)", {"queryParams": {"PatientID": "nobody"}}) == []


def test_metadata_becomes_data_sets(page: Page, slices: list[Dataset]) -> None:
    where = names(slices[0])
    for call, count in (("retrieveStudyMetadata", 3), ("retrieveSeriesMetadata", 3)):
        assert len(page.evaluate(f"(o) => client.{call}(o)", where)) == count
    natural = page.evaluate(
        """async (o) => {
          const [metadata] = await client.retrieveInstanceMetadata(o);
          return dcmjs.data.DicomMetaDictionary.naturalizeDataset(metadata);
        }""",
        where,
    )
    assert natural["SOPInstanceUID"] == slices[0].SOPInstanceUID
    assert (natural["Rows"], natural["Columns"]) == (slices[0].Rows, slices[0].Columns)
    assert natural["PatientName"][0]["Alphabetic"] == "Script^Jo"
    assert natural["PixelData"]["BulkDataURI"].startswith("http")


def test_objects(page: Page, slices: list[Dataset]) -> None:
    where = names(slices[1])
    [one] = fetched(page, "retrieveInstance", where)
    assert dcmread(io.BytesIO(one)) == slices[1]
    for call in ("retrieveSeries", "retrieveStudy"):
        found = {dcmread(io.BytesIO(raw)).SOPInstanceUID for raw in fetched(page, call, where)}
        assert found == {ds.SOPInstanceUID for ds in slices}
    read = page.evaluate(
        """async (o) => {
          const message = dcmjs.data.DicomMessage.readFile(await client.retrieveInstance(o));
          return dcmjs.data.DicomMetaDictionary.naturalizeDataset(message.dict).SOPInstanceUID;
        }""",
        where,
    )
    assert read == slices[1].SOPInstanceUID


def test_frames_and_bulk_data(page: Page, slices: list[Dataset]) -> None:
    pixels = slices[2].PixelData
    where = names(slices[2])
    frames = where | {"frameNumbers": [1]}
    assert fetched(page, "retrieveInstanceFrames", frames) == [pixels]
    octets = [{"mediaType": "application/octet-stream", "transferSyntaxUID": "*"}]
    assert fetched(page, "retrieveInstanceFrames", frames | {"mediaTypes": octets}) == [pixels]
    uri = page.evaluate("async (o) => (await client.retrieveInstanceMetadata(o))[0]['7FE00010'].BulkDataURI", where)
    assert fetched(page, "retrieveBulkData", {"BulkDataURI": uri}) == [pixels]
    [part] = fetched(page, "retrieveBulkData", {"BulkDataURI": uri, "byteRange": [0, 9]})
    assert part[:10] == pixels[:10]


def test_pictures(page: Page, slices: list[Dataset]) -> None:
    where = names(slices[0])
    shape = (slices[0].Rows, slices[0].Columns)
    [jpeg] = fetched(page, "retrieveInstanceRendered", where)
    assert np.asarray(imagecodecs.jpeg8_decode(jpeg)).shape == shape
    png = {"mediaTypes": [{"mediaType": "image/png"}], "queryParams": {"viewport": "6,8"}}
    [small] = fetched(page, "retrieveInstanceFramesRendered", where | png | {"frameNumbers": [1]})
    assert np.asarray(imagecodecs.png_decode(small)).shape == (8, 6)


def test_what_dcmjs_writes_is_stored(page: Page, slices: list[Dataset]) -> None:
    where = names(slices[0])
    made = page.evaluate(
        """async (o) => {
          const { DicomMessage, DicomMetaDictionary, DicomDict } = dcmjs.data;
          const message = DicomMessage.readFile(await client.retrieveInstance(o));
          const data = DicomMetaDictionary.naturalizeDataset(message.dict);
          data.SOPInstanceUID = DicomMetaDictionary.uid();
          data.SeriesInstanceUID = DicomMetaDictionary.uid();
          data.SeriesDescription = 'Größe 大小';
          data.SpecificCharacterSet = 'ISO_IR 192';
          const meta = DicomMetaDictionary.naturalizeDataset(message.meta);
          meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID;
          const out = new DicomDict(DicomMetaDictionary.denaturalizeDataset(meta));
          out.dict = DicomMetaDictionary.denaturalizeDataset(data);
          const studyInstanceUID = o.studyInstanceUID;
          await client.storeInstances({ datasets: [out.write()], studyInstanceUID });
          const seriesInstanceUID = data.SeriesInstanceUID;
          return client.retrieveSeriesMetadata({ studyInstanceUID, seriesInstanceUID });
        }""",
        where,
    )
    assert [item["0008103E"]["Value"] for item in made] == [["Größe 大小"]]


def test_errors_reach_the_client(page: Page) -> None:
    status = page.evaluate(
        """() => client.retrieveStudyMetadata({ studyInstanceUID: '1.2.3' }).then(() => 200, (e) => e.status)"""
    )
    assert status == 404
