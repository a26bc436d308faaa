"""STOW-RS of metadata and bulk data (PS3.18 10.5.1, 10.5.2): JSON and XML, frames, pictures, documents, video."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterator
from typing import Any

import codestreams
import dicom_data
import imagecodecs
import numpy as np
import pytest
from dicomweb_server import Web, serving
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian

from dicomweb import xml_model
from pacs import uids

JSON, XML = "application/dicom+json", "application/dicom+xml"
OCTETS = "application/octet-stream"
MACRO = ("SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
         "PixelRepresentation", "PlanarConfiguration")  # fmt: skip
RNG = np.random.default_rng(4)
GREY = RNG.integers(0, 256, (24, 32), dtype=np.uint8)
WORDS = RNG.integers(0, 4096, (24, 32), dtype=np.uint16)
COLOUR = np.repeat(np.repeat(RNG.integers(0, 256, (3, 4, 3), dtype=np.uint8), 8, 0), 8, 1)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with serving(tmp_path_factory.mktemp("stow"), max_object_bytes=8 << 20) as web:
        yield web


def secondary(number: int, *without: str, **attributes: Any) -> dict[str, Any]:
    """Metadata of a Secondary Capture, the pixel data elsewhere ("pixels")."""
    ds = dicom_data.image(number, SOPClassUID="1.2.840.10008.5.1.4.1.1.7", **attributes)
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(ds, name, uids.derived("stow metadata", name, number))
    for name in (*without, "PixelData"):
        if name in ds:
            delattr(ds, name)
    metadata: dict[str, Any] = ds.to_json_dict()
    return metadata | {"7FE00010": {"vr": "OW", "BulkDataURI": "pixels"}}


def send(web: Web, metadata: Any, *bulk: tuple[str, str, bytes], kind: str = JSON, **headers: str) -> Any:
    """The answer to metadata (a data set, several, or a document) and (media type, location, content) of each part."""
    if isinstance(metadata, dict):
        metadata = [metadata]
    documents = (
        [json.dumps(metadata).encode()] if kind == JSON else [xml_model.dumps(each) for each in metadata]
    )  # fmt: skip
    body = b"".join(f"--b\r\nContent-Type: {kind}\r\n\r\n".encode() + document + b"\r\n" for document in documents)
    body += b"".join(
        f"--b\r\nContent-Type: {media_type}\r\nContent-Location: {location}\r\n\r\n".encode() + content + b"\r\n"
        for media_type, location, content in bulk
    )
    content_type = f'multipart/related; type="{kind}"; boundary=b'
    return web.client.post("/studies", content=body + b"--b--", headers={"Content-Type": content_type, **headers})


def address(answer: Any) -> str:
    assert answer.status_code == 200, answer.text
    [item] = answer.json()["00081199"]["Value"]
    return str(item["00081190"]["Value"][0])


def stored(web: Web, answer: Any) -> Dataset:
    """The instance as it was stored."""
    raw = web.get(address(answer), "application/dicom; transfer-syntax=*").content
    return dcmread(io.BytesIO(raw))


def reasons(answer: Any) -> list[int]:
    return [item["00081197"]["Value"][0] for item in answer.json().get("00081198", {}).get("Value", [])]


def test_xml_is_stored_as_json_is(web: Web) -> None:
    native = (OCTETS, "pixels", WORDS.tobytes())
    what: dict[str, Any] = {"PatientName": "Müller^Jörg=山田^太郎", "Rows": 24, "Columns": 32}
    from_json = stored(web, send(web, secondary(1, **what), native))
    identity = {tag: entry for tag, entry in secondary(2).items() if tag in ("00080018", "0020000D", "0020000E")}
    from_xml = stored(web, send(web, secondary(1, **what) | identity, native, kind=XML))
    assert from_xml.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert from_xml.PatientName == "Müller^Jörg=山田^太郎"
    assert np.array_equal(from_xml.pixel_array, WORDS)
    for ds in (from_json, from_xml):
        del ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID
    assert from_xml == from_json


def test_several_documents_and_an_answer_in_xml(web: Web) -> None:
    several = [secondary(3, Rows=24, Columns=32), secondary(4, Rows=24, Columns=32), {"00080060": {"vr": "CS"}}]
    answer = send(web, several, (OCTETS, "pixels", WORDS.tobytes()), kind=XML, Accept=XML)
    assert (answer.status_code, answer.headers["content-type"]) == (202, XML)
    assert answer.content.count(b'keyword="ReferencedSOPInstanceUID"') == 2
    assert b'keyword="OtherFailuresSequence"' in answer.content


def test_metadata_alone_needs_no_multipart(web: Web) -> None:
    for number, kind in ((5, JSON), (6, XML)):
        metadata = secondary(number)
        del metadata["7FE00010"]
        body = json.dumps([metadata]).encode() if kind == JSON else xml_model.dumps(metadata)
        answer = web.client.post("/studies", content=body, headers={"Content-Type": kind})
        assert answer.status_code == 200, answer.text


def test_one_bad_data_set_does_not_spoil_the_others(web: Web) -> None:
    answer = send(
        web, [secondary(7, Rows=24, Columns=32), {"0020000D": {"vr": "UI", "Value": [1]}}],
        (OCTETS, "pixels", WORDS.tobytes()),
    )  # fmt: skip
    assert answer.status_code == 202
    assert len(answer.json()["00081199"]["Value"]) == len(answer.json()["0008119A"]["Value"]) == 1


LOSSLESS = [
    ("image/jls", codestreams.JPEG_LS, imagecodecs.jpegls_encode(WORDS), WORDS),
    ("image/jp2", codestreams.J2K, imagecodecs.jpeg2k_encode(WORDS, reversible=True, codecformat="j2k"), WORDS),
    ("image/jp2", codestreams.J2K, imagecodecs.jpeg2k_encode(WORDS, reversible=True, codecformat="jp2"), WORDS),
    ("image/jphc", codestreams.HTJ2K, imagecodecs.htj2k_encode(WORDS), WORDS),
    ("image/jpeg", codestreams.LOSSLESS14, imagecodecs.ljpeg_encode(WORDS), WORDS),
    ("image/png", ExplicitVRLittleEndian, imagecodecs.png_encode(WORDS), WORDS),
    ("image/png", ExplicitVRLittleEndian, imagecodecs.png_encode(COLOUR), COLOUR),
]


@pytest.mark.parametrize(
    ("media_type", "ts", "codestream", "pixels"),
    LOSSLESS,
    ids=[f"{number} {case[0]}" for number, case in enumerate(LOSSLESS)],
)
def test_the_image_pixel_macro_is_derived(
    web: Web, media_type: str, ts: str, codestream: bytes, pixels: np.ndarray[Any, Any]
) -> None:
    number = 10 + next(at for at, case in enumerate(LOSSLESS) if case[2] is codestream)
    ds = stored(web, send(web, secondary(number, *MACRO), (media_type, "pixels", codestream)))
    assert ds.file_meta.TransferSyntaxUID == ts
    assert (ds.Rows, ds.Columns, ds.SamplesPerPixel) == (24, 32, pixels.shape[2] if pixels.ndim == 3 else 1)
    assert ds.PhotometricInterpretation == ("RGB" if pixels.ndim == 3 else "MONOCHROME2")
    assert "LossyImageCompression" not in ds
    url = f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}/frames/1"
    assert web.get(url, OCTETS).content == pixels.tobytes()


def test_a_consumer_jpeg(web: Web) -> None:
    for number, progressive in ((20, False), (21, True)):
        out = io.BytesIO()
        Image.fromarray(COLOUR).save(out, "JPEG", quality=95, progressive=progressive)
        ds = stored(web, send(web, secondary(number, *MACRO), ("image/jpeg", "pixels", out.getvalue())))
        expected = ExplicitVRLittleEndian if progressive else codestreams.BASELINE
        assert ds.file_meta.TransferSyntaxUID == expected
        assert ds.PhotometricInterpretation == ("RGB" if progressive else "YBR_FULL_422")
        assert ds.LossyImageCompression == "01"
        url = f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}/frames/1"
        shown = np.frombuffer(web.get(url, OCTETS).content, np.uint8).reshape(COLOUR.shape)
        assert np.abs(shown.astype(int) - COLOUR).mean() < 8


def test_a_moving_gif_becomes_frames(web: Web) -> None:
    out = io.BytesIO()
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    ds = stored(web, send(web, secondary(22, *MACRO), ("image/gif", "pixels", out.getvalue())))
    assert ds.NumberOfFrames == 2
    assert np.array_equal(ds.pixel_array, np.stack([GREY, 255 - GREY]))


def test_frames_as_parts(web: Web) -> None:
    several = [GREY, 255 - GREY, GREY[::-1].copy()]
    jls = [("image/jls", "pixels", imagecodecs.jpegls_encode(frame)) for frame in several]
    ds = stored(web, send(web, secondary(23, *MACRO), *jls))
    assert (ds.file_meta.TransferSyntaxUID, ds.NumberOfFrames) == (codestreams.JPEG_LS, 3)
    for number, frame in enumerate(several, 1):
        assert web.get(url_of(ds) + f"/frames/{number}", OCTETS).content == frame.tobytes()
    eight = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "Rows": 24, "Columns": 32, "NumberOfFrames": 3}
    native = [(OCTETS, "pixels", frame.tobytes()) for frame in several]
    assert np.array_equal(stored(web, send(web, secondary(24, **eight), *native)).pixel_array, np.stack(several))
    named = [(f"{OCTETS}; transfer-syntax={codestreams.JPEG_LS}", "pixels", each[2]) for each in jls]
    assert stored(web, send(web, secondary(25, *MACRO), *named)).NumberOfFrames == 3


def url_of(ds: Dataset) -> str:
    return f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"


@pytest.mark.parametrize(
    ("attributes", "media_type", "content", "reason"),
    [
        ({"Rows": 23, "Columns": 32}, "image/jls", imagecodecs.jpegls_encode(WORDS), 0xC000),
        ({"Rows": 24, "Columns": 32, "NumberOfFrames": 2}, "image/jls", imagecodecs.jpegls_encode(WORDS), 0xC000),
        ({"Rows": 24, "Columns": 32, "BitsAllocated": 8}, "image/png", imagecodecs.png_encode(WORDS), 0xC000),
        ({}, f"image/jpeg; transfer-syntax={codestreams.BASELINE}", imagecodecs.jpegls_encode(WORDS), 0xC122),
        ({}, "image/jxl", b"not known", 0xC122),
        ({}, "video/mpeg", b"not named", 0xC122),
        ({}, "image/png", b"\x89PNG but no more", 0x0110),
    ],
)
def test_pixels_that_do_not_fit(
    web: Web, attributes: dict[str, Any], media_type: str, content: bytes, reason: int
) -> None:
    without = () if attributes else MACRO
    answer = send(web, secondary(30, *without, **attributes), (media_type, "pixels", content))
    assert (answer.status_code, reasons(answer)) == (409, [reason]), answer.text


def test_an_encapsulated_document(web: Web) -> None:
    for number, (kind, sop_class) in enumerate(
        [("application/pdf", "1.2.840.10008.5.1.4.1.1.104.1"), ("model/stl", "1.2.840.10008.5.1.4.1.1.104.3")], 40
    ):
        content = b"a document of odd length" + b"!" * (number % 2 + 1)
        metadata = secondary(number, *MACRO)
        del metadata["7FE00010"]
        metadata |= {
            "00080016": {"vr": "UI", "Value": [sop_class]},
            "00420011": {"vr": "OB", "BulkDataURI": "document"},
        }
        ds = stored(web, send(web, metadata, (kind, "document", content)))
        assert ds.EncapsulatedDocument[: len(content)] == content
        assert ds.EncapsulatedDocumentLength == len(content)
        assert ds.MIMETypeOfEncapsulatedDocument == kind


def test_text_and_numbers_as_bulk_data(web: Web) -> None:
    metadata = secondary(50, Rows=24, Columns=32) | {
        "00104000": {"vr": "LT", "BulkDataURI": "text"},
        "00282000": {"vr": "OB", "BulkDataURI": "profile"},
        "00720078": {"vr": "UL", "BulkDataURI": "numbers"},
        "0040A730": {"vr": "SQ", "Value": [{"0040A160": {"vr": "UT", "BulkDataURI": "text"}}]},
        "00110010": {"vr": "LO", "Value": ["SYNTHETIC"]},
        "00111001": {"vr": "UN", "BulkDataURI": "unknown"},
    }
    ds = stored(
        web,
        send(
            web, metadata, (OCTETS, "pixels", WORDS.tobytes()), (OCTETS, "text", "lang…\\und breit ".encode()),
            (OCTETS, "profile", b"odd"), (OCTETS, "numbers", np.array([1, 1 << 31], "<u4").tobytes()),
            (OCTETS, "unknown", bytes(5001)),
        ),
    )  # fmt: skip
    assert ds.PatientComments == "lang…\\und breit"
    assert ds.ContentSequence[0].TextValue == "lang…\\und breit"
    assert (ds[0x00282000].value, ds[0x00720078].value) == (b"odd\0", [1, 1 << 31])
    assert (ds[0x00111001].VR, ds[0x00111001].value) == ("UN", bytes(5002))


def test_video_in_one_part(web: Web) -> None:
    track = b"\0\0\0\x20ftypisom" + b"\0" * 40 + b"avcC\x01\x64\x00\x29" + b"\0" * 99
    metadata = secondary(60, Rows=24, Columns=32, NumberOfFrames=25)
    ds = stored(web, send(web, metadata, ("video/mp4", "pixels", track)))
    assert ds.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.102"
    assert track in ds.PixelData


def test_file_meta_has_to_be_true(web: Web) -> None:
    ds = dicom_data.image(1, SOPInstanceUID=uids.derived("file meta", 1), StudyInstanceUID=uids.derived("file meta", 2))
    raw = dicom_data.part10(ds)
    for old in (ds.SOPInstanceUID, ds.SOPClassUID):
        assert raw.count(old.encode()) == 2
        changed = raw.replace(old.encode(), old.encode()[:-1] + (b"3" if old[-1] != "3" else b"4"), 1)
        answer = web.store(changed)
        assert (answer.status_code, reasons(answer)) == (409, [0xA900])
    assert web.store(raw).status_code == 200


def test_a_sop_class_that_is_nothing_to_store(web: Web) -> None:
    verification = "1.2.840.10008.1.1"
    ds = dicom_data.image(2, SOPClassUID=verification, SOPInstanceUID=uids.derived("no storage", 1))
    answer = web.store(ds)
    assert (answer.status_code, reasons(answer)) == (409, [0x0122])
    private = dicom_data.image(3, SOPClassUID="1.2.3.4.5", SOPInstanceUID=uids.derived("no storage", 2))
    assert web.store(private).status_code == 200


def test_many_values_cost_no_more_than_the_limit(web: Web) -> None:
    answer = send(web, secondary(70, Rows=24, Columns=32), (OCTETS, "pixels", b"\0" * (9 << 20)))
    assert answer.status_code == 413
    assert web.get(f"/studies/{uids.derived('stow metadata', 'StudyInstanceUID', 70)}/instances").status_code == 204


@pytest.mark.parametrize("seed", range(4))
def test_chunks_of_any_size(web: Web, seed: int) -> None:
    rng = np.random.default_rng(seed)
    boundary = f"chunks-{uuid.UUID(int=seed)}"
    metadata = secondary(80 + seed, *MACRO)
    parts = [(JSON, "", json.dumps(metadata).encode()), ("image/jls", "pixels", imagecodecs.jpegls_encode(WORDS))]
    body = b"".join(
        f"\r\n--{boundary}\r\nContent-Location: <{location}>\r\nContent-Type: {kind}\r\n\r\n".encode() + content
        for kind, location, content in parts
    )
    body += f"\r\n--{boundary}--".encode()

    def pieces() -> Iterator[bytes]:
        at = 0
        while at < len(body):
            size = int(rng.integers(1, 400))
            yield body[at : at + size]
            at += size

    header = {"Content-Type": f'multipart/related; boundary="{boundary}"; type={JSON}'}
    answer = web.client.post("/studies", content=pieces(), headers=header)
    assert np.array_equal(stored(web, answer).Rows, 24)
