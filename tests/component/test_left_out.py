"""Answers of several parts or one of many, where some cannot be had: 206 and a Warning, another one, or 406."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dicom_data
import httpx
import imagecodecs
import numpy as np
import pytest
from dicomweb_server import Web, parts, serving
from PIL import Image
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

from dicomweb import several
from pacs import uids
from pacs.auth import SYSTEM
from pacs.errors import Undecodable
from pacs.retrieve import HASTE_BYTES
from pacs.scrub import Scrub

BYTES = "multipart/related; type=application/octet-stream"
PNGS = "multipart/related; type=image/png"
STL = "1.2.840.10008.5.1.4.1.1.104.3"
PIXELS = np.arange(8 * 6, dtype="<u2").reshape(8, 6) * 3
GOOD = imagecodecs.jpeg2k_encode(PIXELS, level=0, reversible=True, codecformat="j2k")
BAD = GOOD[:40] + b"\0" * (len(GOOD) - 40)


def compressed(name: str, frames: Sequence[bytes], number: int = 1, **attributes: Any) -> Dataset:
    """An image of the study and series of `name`, in JPEG 2000."""
    identity = {
        "SOPInstanceUID": uids.derived("left out", name, number),
        "StudyInstanceUID": uids.derived("left out study", name),
        "SeriesInstanceUID": uids.derived("left out series", name),
        "InstanceNumber": number, "Rows": 8, "Columns": 6,
    }  # fmt: skip
    ds = dicom_data.image(7, **(identity | attributes))
    if len(frames) > 1:
        ds.NumberOfFrames = len(frames)
    ds.PixelData = encapsulate(list(frames))
    ds["PixelData"].is_undefined_length = True
    ds["PixelData"].VR = "OB"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    return ds


def stored(web: Web, *objects: Dataset) -> tuple[str, list[str]]:
    """The series that they are, and their UIDs."""
    files = []
    for ds in objects:
        out = io.BytesIO()
        dcmwrite(out, ds, enforce_file_format=True)
        files.append(out.getvalue())
    assert web.store(*files).status_code == 200
    where = f"/studies/{objects[0].StudyInstanceUID}/series/{objects[0].SeriesInstanceUID}"
    return where, [ds.SOPInstanceUID for ds in objects]


def warned(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text[:500]
    return str(answer.headers["warning"])


def scene(_archive: object, locations: Sequence[Any]) -> bytes:
    raise Undecodable("no binary STL", about=locations[0].sop_instance_uid)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with serving(tmp_path_factory.mktemp("left_out"), renditions={"model/x3d+xml": scene}) as web:
        yield web
        assert web.archive.retrieve.haste.left == HASTE_BYTES  # what was made ahead has been given back


@pytest.fixture(scope="module")
def three(web: Web) -> tuple[str, list[str]]:
    """A series of which the image in the middle cannot be decoded."""
    return stored(web, *(compressed("three", [BAD if n == 2 else GOOD], n) for n in (1, 2, 3)))


@pytest.mark.parametrize("below", ["bulkdata", "pixeldata"])
@pytest.mark.parametrize("level", ["series", "study"])
def test_values_of_one_that_cannot_be_decoded(web: Web, three: tuple[str, list[str]], below: str, level: str) -> None:
    where, names = three
    where = where if level == "series" else where.partition("/series")[0]
    for _ in range(2):  # the second time it is known
        answer = web.get(f"{where}/{below}", BYTES)
        assert f"1 or more of 3 values are left out, among them {names[1]}: " in warned(answer, 206)
        found = parts(answer)
        assert [content for _, content in found] == [PIXELS.tobytes()] * 2
        located = [headers["content-location"].split("/instances/")[1].split("/")[0] for headers, _ in found]
        assert located == [names[0], names[2]]
    as_stored = web.get(f"{where}/{below}", f"{BYTES}; transfer-syntax=*")
    assert (as_stored.status_code, len(parts(as_stored)), "warning" in as_stored.headers) == (200, 3, False)
    alone = web.get(f"{three[0]}/instances/{names[1]}/{below}", BYTES)
    assert (alone.status_code, "transfer-syntax=*" in alone.json()["detail"]) == (406, True)


def test_pixel_data_is_given_with_all_its_frames_or_not_at_all(web: Web) -> None:
    where, names = stored(web, compressed("whole", [GOOD, GOOD, BAD], 1), compressed("whole", [GOOD, GOOD], 2))
    answer = web.get(f"{where}/pixeldata", BYTES)
    assert names[0] in warned(answer, 206)
    assert [names[1] in headers["content-location"] for headers, _ in parts(answer)] == [True, True]


def test_values_that_are_not_in_the_media_type_asked_for(web: Web) -> None:
    native = dicom_data.image(
        7, StudyInstanceUID=uids.derived("left out study", "types"), SOPInstanceUID=uids.derived("types", 1),
        SeriesInstanceUID=uids.derived("left out series", "types"),
    )  # fmt: skip
    assert web.store(native).status_code == 200
    where, names = stored(web, compressed("types", [GOOD], 2))
    answer = web.get(f"{where}/pixeldata", "multipart/related; type=image/jp2")
    assert f"{native.SOPInstanceUID}: they cannot be had in the media types asked for" in warned(answer, 206)
    [(headers, content)] = parts(answer)
    assert names[0] in headers["content-location"]
    assert content.rstrip(b"\0") == GOOD.rstrip(b"\0")
    assert web.get(f"{where}/pixeldata", "multipart/related; type=video/mp4").status_code == 406


def test_frames_asked_for_by_number_are_all_there_or_none(web: Web) -> None:
    """Who asked for 1, 2 and 3 takes the second part for frame 2."""
    where, [name] = stored(web, compressed("by number", [GOOD, GOOD, BAD, GOOD]))
    for below in ("frames/1,2,3", "frames/1,2,3,4"):
        for suffix, accept in (("", BYTES), ("/rendered", PNGS)):
            answer = web.get(f"{where}/instances/{name}/{below}{suffix}", accept)
            assert (answer.status_code, "transfer-syntax=*" in answer.json()["detail"]) == (406, True)
    assert "frame 3: " in web.get(f"{where}/instances/{name}/frames/4,3", BYTES).json()["detail"]
    sound = web.get(f"{where}/instances/{name}/frames/4,2", BYTES)
    assert (sound.status_code, [content for _, content in parts(sound)]) == (200, [PIXELS.tobytes()] * 2)


@pytest.mark.parametrize(("limit", "most"), [("FORESEEN_BYTES", 100), ("FORESEEN_PARTS", 2)])
def test_a_frame_that_is_found_out_too_late_breaks_the_answer_once(
    web: Web, monkeypatch: pytest.MonkeyPatch, limit: str, most: int
) -> None:
    monkeypatch.setattr(several, limit, most)
    where, [name] = stored(web, compressed(f"late {limit}", [GOOD, GOOD, BAD, GOOD]))
    for below, accept, status in (("frames/1,2,3", BYTES, 406), ("rendered", PNGS, 206)):
        with web.client.stream("GET", f"{where}/instances/{name}/{below}", headers={"Accept": accept}) as answer:
            assert answer.status_code == 200
            with pytest.raises(httpx.RemoteProtocolError):
                answer.read()
        assert web.get(f"{where}/instances/{name}/{below}", accept).status_code == status


def test_pictures_of_what_can_be_drawn(web: Web, three: tuple[str, list[str]]) -> None:
    where, names = three
    for base in (where, where.partition("/series")[0]):
        answer = web.get(f"{base}/rendered", PNGS)
        assert f"1 or more of 3 pictures are left out, among them {names[1]}: " in warned(answer, 206)
        located = [headers["content-location"] for headers, _ in parts(answer)]
        assert located == [f"{web.url}{where}/instances/{names[n]}/frames/1/rendered" for n in (0, 2)]
    some, [name] = stored(web, compressed("pictures", [BAD, GOOD, BAD, GOOD]))
    answer = web.get(f"{some}/instances/{name}/rendered", PNGS)
    assert f"2 or more of 4 pictures are left out, among them frame 1 of {name}, frame 3 of" in warned(answer, 206)
    assert ["/frames/2/" in headers["content-location"] for headers, _ in parts(answer)] == [True, False]
    none, _ = stored(web, *(compressed("none", [BAD], n) for n in (1, 2)))
    assert web.get(f"{none}/rendered", PNGS).status_code == 406


@pytest.mark.parametrize("below", ["rendered", "thumbnail"])
def test_one_picture_for_many_is_of_one_that_can_be_drawn(web: Web, three: tuple[str, list[str]], below: str) -> None:
    where, names = three
    for base in (where, where.partition("/series")[0]):
        answer = web.get(f"{base}/{below}", "image/png")
        assert f"This is {names[0]}, instead of {names[1]}: " in warned(answer, 200)
        assert Image.open(io.BytesIO(answer.content)).size[1] == (8 if below == "rendered" else 128)
    assert web.get(f"{where}/instances/{names[1]}/{below}", "image/png").status_code == 406
    some, [name] = stored(web, compressed("one picture", [BAD, BAD, GOOD]))
    answer = web.get(f"{some}/instances/{name}/{below}", "image/png")
    assert f"This is frame 3 of {name}, instead of frame " in warned(answer, 200)
    assert web.get(f"{some}/instances/{name}/frames/2/{below}", "image/png").status_code == 406
    none, _ = stored(web, *(compressed("no picture", [BAD], n) for n in (1, 2)))
    assert web.get(f"{none}/{below}", "image/png").status_code == 406


def test_what_is_quarantined_is_left_out_everywhere(tmp_path: Path) -> None:
    with serving(tmp_path) as web:
        slices = list(dicom_data.series(3))
        assert web.store(*slices).status_code == 200
        where = f"/studies/{slices[0].StudyInstanceUID}/series/{slices[0].SeriesInstanceUID}"
        bad = slices[1].SOPInstanceUID
        (held,) = (each for each in web.archive.retrieve.locate(SYSTEM, slices[0].StudyInstanceUID)
                   if each.sop_instance_uid == bad)  # fmt: skip
        with (web.archive.settings.data / "objects" / held.locator.object_key).open("r+b") as file:
            file.seek(held.locator.offset + held.locator.length - 4)
            file.write(b"\xde\xad\xbe\xef")
        Scrub(web.archive.store, web.archive.index).verify(3)
        for below, accept in (("bulkdata", BYTES), ("pixeldata", BYTES), ("rendered", PNGS)):
            answer = web.get(f"{where}/{below}", accept)
            assert f"{bad}: the stored bytes are damaged" in warned(answer, 206)
            assert len(parts(answer)) == 2
        for below in ("rendered", "thumbnail"):
            assert bad in warned(web.get(f"{where}/{below}"), 200)


@pytest.mark.parametrize("accept", ["*/*", "model/*", "model/stl", "model/x3d+xml, model/stl;q=0.5"])
def test_a_model_that_no_scene_can_be_made_of_is_given_as_it_was_put_in(web: Web, accept: str) -> None:
    text = b"solid tooth\nendsolid tooth\n\0"
    ds = dicom_data.image(
        0, SOPClassUID=STL, Modality="M3D", SOPInstanceUID=uids.derived("text model"), EncapsulatedDocument=text,
        StudyInstanceUID=uids.derived("text model", 1), SeriesInstanceUID=uids.derived("text model", 2),
        EncapsulatedDocumentLength=len(text) - 1, MIMETypeOfEncapsulatedDocument="model/stl",
    )  # fmt: skip
    for keyword in ("PixelData", "Rows", "Columns"):
        delattr(ds, keyword)
    assert web.store(ds).status_code == 200
    where = f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"
    for base in (where, where.partition("/instances")[0], where.partition("/series")[0]):
        answer = web.get(f"{base}/rendered", accept)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "model/stl")
        assert answer.content == text[:-1]
    only = web.get(f"{where}/rendered", "model/x3d+xml")
    assert (only.status_code, "no binary STL" in only.json()["detail"]) == (406, True)


def test_one_document_for_many_is_one_that_is_there(web: Web) -> None:
    made = []
    for number, content in enumerate((b"", b"%PDF-1.7\n")):
        ds = dicom_data.image(
            0, SOPClassUID="1.2.840.10008.5.1.4.1.1.104.1", Modality="DOC", SOPInstanceUID=uids.derived("pdf", number),
            StudyInstanceUID=uids.derived("pdf", "study"), SeriesInstanceUID=uids.derived("pdf", "series"),
            EncapsulatedDocument=content, InstanceNumber=number, MIMETypeOfEncapsulatedDocument="application/pdf",
        )  # fmt: skip
        for keyword in ("PixelData", "Rows", "Columns"):
            delattr(ds, keyword)
        made.append(ds)
    assert web.store(*made).status_code == 200
    answer = web.get(f"/studies/{made[0].StudyInstanceUID}/rendered")
    assert f"This is {made[1].SOPInstanceUID}" in warned(answer, 200)
    assert (answer.headers["content-type"], answer.content.rstrip(b"\0")) == ("application/pdf", b"%PDF-1.7\n")
