"""WADO-URI (PS3.18 chapter 9): one instance by a query, as an object and as a picture."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import codestreams
import dicom_data
import imagecodecs
import numpy as np
import pytest
from dicomweb_server import Web, serving
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pacs import uids

ROWS, COLUMNS, FRAMES = 40, 60, 3
PIXELS = (np.arange(FRAMES * ROWS * COLUMNS, dtype=np.uint16) // 2).reshape(FRAMES, ROWS, COLUMNS)


def shaped(number: int, **attributes: Any) -> Dataset:
    """An instance of its own with a ramp of grey levels."""
    identity = {name: uids.derived("wado uri", name, number) for name in
                ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")}  # fmt: skip
    return dicom_data.image(number, Rows=ROWS, Columns=COLUMNS, **(identity | attributes))


SINGLE = shaped(1, PixelData=PIXELS[0].tobytes())
MANY = shaped(2, NumberOfFrames=FRAMES, PixelData=PIXELS.tobytes())


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with serving(tmp_path_factory.mktemp("uri")) as web:
        assert web.store(SINGLE, dicom_data.part10(MANY, ImplicitVRLittleEndian)).status_code == 200
        yield web


def ask(web: Web, ds: Dataset, accept: str | None = None, **parameters: Any) -> Any:
    query = {
        "requestType": "WADO", "studyUID": ds.StudyInstanceUID, "seriesUID": ds.SeriesInstanceUID,
        "objectUID": ds.SOPInstanceUID, **parameters,
    }  # fmt: skip
    return web.get("/wado", accept, params={name: value for name, value in query.items() if value is not None})


def picture(answer: Any) -> np.ndarray[Any, Any]:
    assert answer.status_code == 200, answer.text
    decode = {"image/jpeg": imagecodecs.jpeg8_decode, "image/png": imagecodecs.png_decode}
    return np.asarray(decode[answer.headers["content-type"]](answer.content))


def test_an_image_is_a_jpeg_unless_something_else_is_asked_for(web: Web) -> None:
    for accept in (None, "*/*", "image/avif,image/webp,*/*;q=0.8"):
        answer = ask(web, SINGLE, accept)
        assert answer.headers["content-type"] == "image/jpeg"
        assert picture(answer).shape == (ROWS, COLUMNS)
    for chosen in ({"contentType": "image/png"}, {"accept": "image/png"}, {"contentType": "image/foo,image/png"}):
        assert ask(web, SINGLE, **chosen).headers["content-type"] == "image/png"
    assert ask(web, SINGLE, contentType="image/png;q=0.5, image/jpeg").headers["content-type"] == "image/jpeg"


def test_the_object(web: Web) -> None:
    for ds, options in ((SINGLE, {}), (MANY, {"transferSyntax": ExplicitVRLittleEndian})):
        answer = ask(web, ds, contentType="application/dicom", **options)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("application/dicom")
        back = dcmread(io.BytesIO(answer.content))
        assert back.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert back == ds
    assert ask(web, SINGLE, "application/dicom").headers["content-type"].startswith("application/dicom")
    assert ask(web, SINGLE, contentType="application/dicom", transferSyntax="1.2.840.10008.1.2").status_code == 406


def test_an_object_in_another_transfer_syntax(web: Web) -> None:
    answer = ask(web, SINGLE, contentType="application/dicom", transferSyntax=codestreams.J2K)
    if answer.status_code == 406:  # as WADO-RS says for the same instance
        url = f"/studies/{SINGLE.StudyInstanceUID}/series/{SINGLE.SeriesInstanceUID}/instances/{SINGLE.SOPInstanceUID}"
        assert web.get(url, f"application/dicom; transfer-syntax={codestreams.J2K}").status_code == 406
        return
    back = dcmread(io.BytesIO(answer.content))
    assert back.file_meta.TransferSyntaxUID == codestreams.J2K
    assert np.array_equal(back.pixel_array, PIXELS[0])


def test_what_is_no_image_is_had_as_it_is(web: Web) -> None:
    ds = shaped(3, SOPClassUID="1.2.840.10008.5.1.4.1.1.66")
    del ds.PixelData, ds.Rows, ds.Columns
    assert web.store(ds).status_code == 200
    answer = ask(web, ds)
    assert answer.status_code == 200
    if answer.headers["content-type"].startswith("application/dicom"):
        assert dcmread(io.BytesIO(answer.content)) == ds
    assert ask(web, ds, contentType="image/jpeg", rows=10).status_code in (400, 406)


def test_frames(web: Web) -> None:
    window = {"windowCenter": 1800, "windowWidth": 3600}
    levels = [picture(ask(web, MANY, contentType="image/png", frameNumber=n, **window)).mean() for n in (1, 2, 3)]
    assert levels[0] < levels[1] < levels[2]
    assert picture(ask(web, MANY, contentType="image/png", **window)).mean() == levels[1]  # the middle
    for ds, number in ((MANY, "4"), (MANY, "0"), (MANY, "x"), (MANY, "1,2")):
        assert ask(web, ds, frameNumber=number).status_code == 400


def test_size_and_region(web: Web) -> None:
    for options, shape in (
        ({"rows": 20}, (20, 30)), ({"columns": 30}, (20, 30)), ({"rows": 20, "columns": 20}, (13, 20)),
        ({"region": "0,0,0.5,0.5"}, (20, 30)), ({"region": "0.5,0.5,1,1", "rows": 10}, (10, 15)),
    ):  # fmt: skip
        found = picture(ask(web, SINGLE, contentType="image/png", **options))
        assert all(abs(a - b) <= 1 for a, b in zip(found.shape, shape, strict=True)), (options, found.shape)
    how = {"contentType": "image/png", "windowCenter": 600, "windowWidth": 1200}
    whole = picture(ask(web, SINGLE, **how))
    corner = picture(ask(web, SINGLE, region="0.5,0.5,1,1", **how))
    assert np.abs(corner.astype(int) - whole[20:, 30:]).max() <= 2


def test_quality_and_window(web: Web) -> None:
    assert len(ask(web, SINGLE, imageQuality=10).content) < len(ask(web, SINGLE, imageQuality=95).content)
    dark = picture(ask(web, SINGLE, contentType="image/png", windowCenter=10_000, windowWidth=10))
    bright = picture(ask(web, SINGLE, contentType="image/png", windowCenter=-10_000, windowWidth=10))
    assert (dark.max(), bright.min()) == (0, 255)


def test_a_presentation_state(web: Web) -> None:
    ds = shaped(5, SOPClassUID="1.2.840.10008.5.1.4.1.1.11.1", Modality="PR", StudyInstanceUID=SINGLE.StudyInstanceUID)
    for name in ("PixelData", "Rows", "Columns"):
        delattr(ds, name)
    image, series, area, voi = Dataset(), Dataset(), Dataset(), Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = SINGLE.SOPClassUID, SINGLE.SOPInstanceUID
    series.SeriesInstanceUID, series.ReferencedImageSequence = SINGLE.SeriesInstanceUID, [image]
    area.DisplayedAreaTopLeftHandCorner, area.DisplayedAreaBottomRightHandCorner = [1, 1], [COLUMNS, ROWS]
    area.PresentationSizeMode, area.PresentationPixelSpacing = "SCALE TO FIT", [1, 1]
    voi.WindowCenter, voi.WindowWidth = 600, 1200
    ds.ReferencedSeriesSequence, ds.DisplayedAreaSelectionSequence, ds.SoftcopyVOILUTSequence = [series], [area], [voi]
    ds.PresentationLUTShape = "INVERSE"
    assert web.store(ds).status_code == 200
    state = {"presentationSeriesUID": ds.SeriesInstanceUID, "presentationUID": ds.SOPInstanceUID}
    plain = picture(ask(web, SINGLE, contentType="image/png", windowCenter=600, windowWidth=1200)).astype(int)
    inverse = picture(ask(web, SINGLE, contentType="image/png", **state)).astype(int)
    assert np.abs(inverse - (255 - plain)).max() <= 2
    assert ask(web, SINGLE, presentationUID=ds.SOPInstanceUID).status_code == 400
    assert ask(web, SINGLE, windowCenter=1, windowWidth=2, **state).status_code == 400
    assert ask(web, SINGLE, **(state | {"presentationUID": "1.2.3"})).status_code == 404
    of_no_state = {"presentationSeriesUID": SINGLE.SeriesInstanceUID, "presentationUID": SINGLE.SOPInstanceUID}
    assert ask(web, SINGLE, **of_no_state).status_code == 400


@pytest.mark.parametrize(
    ("parameters", "status"),
    [
        ({"requestType": None}, 400), ({"requestType": "wado"}, 400), ({"requestType": "X"}, 400),
        ({"studyUID": None}, 400), ({"seriesUID": None}, 400), ({"objectUID": None}, 400), ({"objectUID": "x"}, 400),
        ({"objectUID": "1.2.3"}, 404), ({"seriesUID": "1.2.3"}, 404),
        ({"contentType": "text/foo"}, 406), ({"contentType": "application/dicom+json"}, 406),
        ({"contentType": "application/dicom", "frameNumber": "1"}, 400),
        ({"contentType": "application/dicom", "rows": "1"}, 400),
        ({"contentType": "application/dicom", "transferSyntax": "no"}, 400),
        ({"contentType": "image/jpeg", "transferSyntax": ExplicitVRLittleEndian}, 400),
        ({"contentType": "application/dicom", "anonymize": "yes"}, 406), ({"anonymize": "yes"}, 406),
        ({"contentType": "application/dicom", "anonymize": "no"}, 400),
        ({"windowCenter": "40"}, 400), ({"windowWidth": "40"}, 400), ({"windowCenter": "a", "windowWidth": "b"}, 400),
        ({"windowCenter": "40", "windowWidth": "0"}, 400), ({"rows": "0"}, 400), ({"columns": "-1"}, 400),
        ({"rows": "1e3"}, 400), ({"region": "0,0,1"}, 400), ({"region": "0,0,1.5,1"}, 400),
        ({"region": "0.5,0,0.5,1"}, 400), ({"region": "nan,0,1,1"}, 400), ({"imageQuality": "0"}, 400),
        ({"imageQuality": "101"}, 400), ({"unknown": "ignored"}, 200),
    ],
)  # fmt: skip
def test_what_cannot_be_asked(web: Web, parameters: dict[str, Any], status: int) -> None:
    answer = ask(web, SINGLE, **parameters)
    assert answer.status_code == status, answer.text
    assert not (status >= 400 and answer.headers["content-type"].startswith("application/dicom"))


def test_rights(web: Web) -> None:
    assert ask(web, SINGLE).status_code == 200
    query = {"requestType": "WADO", "studyUID": SINGLE.StudyInstanceUID, "seriesUID": SINGLE.SeriesInstanceUID,
             "objectUID": SINGLE.SOPInstanceUID}  # fmt: skip
    for kind in ("image/jpeg", "application/dicom"):
        answer = web.get("/wado", params=query | {"contentType": kind}, headers={"X-Test-Rights": "query store"})
        assert answer.status_code == 403
