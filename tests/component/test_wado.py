"""WADO-RS (PS3.18 10.4) against the real archive: objects, metadata, frames, bulk data, rendered images."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import dicom_data
import httpx
import imagecodecs
import numpy as np
import pytest
from dicomweb_server import Web, parts, serving
from PIL import Image
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from dicomweb import several
from dicomweb.offers import FRAME_DEFAULTS
from pacs import uids
from pacs.auth import SYSTEM
from pacs.errors import NotFound, Undecodable
from pacs.retrieve import HASTE_BYTES
from pacs.scrub import Scrub

JSON = "application/dicom+json"
XML = "application/dicom+xml"
OBJECTS = 'multipart/related; type="application/dicom"'
BYTES = 'multipart/related; type="application/octet-stream"'
STL = "1.2.840.10008.5.1.4.1.1.104.3"


def instance(name: str, **attributes: Any) -> Dataset:
    """An image of a series of its own in the study of `name`."""
    identity = {
        "SOPInstanceUID": uids.derived("wado instance", name),
        "StudyInstanceUID": uids.derived("wado study", name),
        "SeriesInstanceUID": uids.derived("wado series", name),
    }
    ds = dicom_data.image(7, **(identity | attributes))
    if "PixelData" in ds:
        ds["PixelData"].VR = "OW"
    return ds


def path(ds: Dataset) -> str:
    return f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"


def multiframe(name: str, frames: int = 5) -> Dataset:
    pixels = np.arange(frames * 8 * 6, dtype="<u2").reshape(frames, 8, 6) * 3 % 4096
    return instance(name, Rows=8, Columns=6, NumberOfFrames=frames, PixelData=pixels.tobytes())


def pixels_of(ds: Dataset) -> np.ndarray:
    """Native 16-bit pixels as (rows, columns), or (frames, rows, columns)."""
    pixels = np.frombuffer(ds.PixelData, "<u2").reshape(-1, ds.Rows, ds.Columns)
    return pixels if "NumberOfFrames" in ds else pixels[0]


def native(ds: Dataset, ts: str) -> bytes:
    """The instance as a file; pydicom leaves it to us to turn the pixels around (PS3.5 7.3)."""
    whole = deepcopy(ds)
    if ts == ExplicitVRBigEndian:
        whole.PixelData = pixels_of(ds).astype(">u2").tobytes()
    return dicom_data.part10(whole, ts)


def encapsulated(ds: Dataset, ts: str, frames: list[bytes]) -> bytes:
    whole = deepcopy(ds)
    whole.PixelData = encapsulate(frames)
    whole["PixelData"].is_undefined_length = True
    whole["PixelData"].VR = "OB"
    whole.file_meta = FileMetaDataset()
    whole.file_meta.TransferSyntaxUID = ts
    out = io.BytesIO()
    dcmwrite(out, whole, enforce_file_format=True)
    return out.getvalue()


def rle(frame: np.ndarray) -> bytes:
    """PS3.5 annex G, every byte plane one segment of literal runs."""
    planes = [frame.astype(">u2").tobytes()[at::2] for at in range(2)]
    segments = []
    for plane in planes:
        packed = imagecodecs.packbits_encode(plane)
        segments.append(packed + b"\0" * (len(packed) % 2))
    offsets = [64, 64 + len(segments[0])]
    header = np.array([2, *offsets, *[0] * 13], "<u4").tobytes()
    return header + b"".join(segments)


def broken(data: bytes) -> bytes:
    """A JPEG 2000 codestream that is one at the front only."""
    return data[: len(data) // 2] + b"\0" * (len(data) - len(data) // 2)


def scene(_: Any, locations: list[Any]) -> bytes:
    """A stand-in for a rendition: takes Encapsulated STL only."""
    if any(location.sop_class_uid != STL for location in locations):
        raise NotFound("no model")
    return b"<X3D>" + b" " * 5000 + f"{len(locations)}</X3D>".encode()


COMPRESSED = multiframe("compressed")
CODESTREAMS = [
    imagecodecs.jpeg2k_encode(frame, level=0, reversible=True, codecformat="j2k") for frame in pixels_of(COMPRESSED)
]


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with serving(tmp_path_factory.mktemp("wado"), renditions={"model/x3d+xml": scene}) as web:
        yield web


@pytest.fixture(scope="module")
def study(web: Web) -> list[Dataset]:
    """Three slices of one series, stored."""
    slices = list(dicom_data.series(3, study=5))
    assert web.store(*slices).status_code == 200
    return slices


def stored(web: Web, ds: Dataset, raw: bytes | None = None) -> str:
    assert web.store(raw or ds).status_code == 200
    return path(ds)


def read(raw: bytes) -> Dataset:
    assert raw[:128] == b"\0" * 128
    return dcmread(io.BytesIO(raw))


# Objects -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", [OBJECTS, "*/*", "multipart/related; type=application/dicom; transfer-syntax=*"])
@pytest.mark.parametrize("level", ["study", "series", "instance"])
def test_objects(web: Web, study: list[Dataset], level: str, accept: str) -> None:
    first = study[0]
    where = {
        "study": f"/studies/{first.StudyInstanceUID}",
        "series": f"/studies/{first.StudyInstanceUID}/series/{first.SeriesInstanceUID}",
        "instance": path(first),
    }[level]
    answer = web.get(where, accept)
    assert answer.status_code == 200
    assert 'type="application/dicom"' in answer.headers["content-type"]
    found = parts(answer)
    assert len(found) == (1 if level == "instance" else 3)
    for (headers, raw), ds in zip(found, study, strict=False):
        assert headers["content-type"] == f"application/dicom; transfer-syntax={ExplicitVRLittleEndian}"
        back = read(raw)
        assert back.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert back.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
        assert back == ds


def test_one_object_alone(web: Web, study: list[Dataset]) -> None:
    answer = web.get(path(study[1]), "application/dicom")
    assert answer.headers["content-type"].startswith("application/dicom;")
    assert read(answer.content) == study[1]
    assert web.get(f"/studies/{study[1].StudyInstanceUID}", "application/dicom").status_code == 406


# JPEG Baseline takes 8 bits, and these have 12.
@pytest.mark.parametrize("ts", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.3", JPEGBaseline8Bit, MPEG4HP41])
def test_transfer_syntaxes_that_cannot_be_had(web: Web, study: list[Dataset], ts: str) -> None:
    for where in (path(study[0]), f"/studies/{study[0].StudyInstanceUID}"):
        assert web.get(where, f"{OBJECTS}; transfer-syntax={ts}").status_code == 406


LOSSLESS = [
    HTJ2KLossless, HTJ2KLosslessRPCL, JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1, RLELossless,
    DeflatedExplicitVRLittleEndian,
]  # fmt: skip


@pytest.mark.parametrize("ts", LOSSLESS)
def test_objects_are_encoded_as_asked(web: Web, study: list[Dataset], ts: str) -> None:
    found = parts(web.get(f"/studies/{study[0].StudyInstanceUID}", f"{OBJECTS}; transfer-syntax={ts}"))
    assert len(found) == 3
    for (headers, raw), ds in zip(found, study, strict=True):
        assert headers["content-type"] == f"application/dicom; transfer-syntax={ts}"
        back = read(raw)
        assert (back.file_meta.TransferSyntaxUID, back.SOPInstanceUID) == (ts, ds.SOPInstanceUID)
        assert np.array_equal(decoded(back), pixels_of(ds))


def decoded(ds: Dataset) -> np.ndarray:
    """The pixels, by imagecodecs where pydicom has no decoder."""
    decode = {HTJ2KLossless: imagecodecs.htj2k_decode, HTJ2KLosslessRPCL: imagecodecs.htj2k_decode,
              JPEGLosslessSV1: imagecodecs.jpeg_decode}.get(ds.file_meta.TransferSyntaxUID)  # fmt: skip
    return ds.pixel_array if decode is None else decode(get_frame(ds.PixelData, 0, number_of_frames=1))


def test_what_becomes_lossy_is_another_instance(web: Web, study: list[Dataset]) -> None:
    ts = "1.2.840.10008.1.2.4.91"
    for _ in range(2):
        [(_, raw)] = parts(web.get(path(study[0]), f"{OBJECTS}; transfer-syntax={ts}"))
        back = read(raw)
        assert back.SOPInstanceUID == back.file_meta.MediaStorageSOPInstanceUID != study[0].SOPInstanceUID
        assert back.LossyImageCompression == "01"
        assert back.SOPInstanceUID == uids.derived(
            study[0].SOPInstanceUID, "lossy compression on retrieval", ts
        )  # the same wish, the same UID


def without_pixels(name: str, number: int, **attributes: Any) -> Dataset:
    """A report of the study of `name`."""
    ds = instance(name, Modality="SR", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33", **attributes)
    ds.SeriesInstanceUID += f".{number}"
    ds.SOPInstanceUID += f".{number}"
    for keyword in ("PixelData", "Rows", "Columns"):
        delattr(ds, keyword)
    return ds


@pytest.mark.parametrize("ts", [JPEG2000Lossless, RLELossless, JPEGBaseline8Bit])
@pytest.mark.parametrize("held_in", [ExplicitVRLittleEndian, JPEG2000Lossless])
def test_what_has_no_pixels_comes_uncompressed_with_images_that_are_compressed(web: Web, ts: str, held_in: str) -> None:
    name = f"with a report {ts} {held_in}"
    pixels = np.arange(8 * 6, dtype="u1").reshape(8, 6)
    image = instance(name, Rows=8, Columns=6, BitsAllocated=8, BitsStored=8, HighBit=7, PixelData=pixels.tobytes())
    report = without_pixels(name, 1)
    codestream = imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True, codecformat="j2k")
    raw = encapsulated(image, held_in, [codestream]) if held_in == JPEG2000Lossless else dicom_data.part10(image)
    assert web.store(raw, dicom_data.part10(report, ImplicitVRLittleEndian)).status_code == 200
    where = f"/studies/{image.StudyInstanceUID}"
    answer = web.get(where, f"{OBJECTS}; transfer-syntax={ts}")
    assert (answer.status_code, "warning" in answer.headers) == (200, False)
    found = {read(content).Modality: (headers["content-type"], read(content)) for headers, content in parts(answer)}
    assert {modality: said for modality, (said, _) in found.items()} == {
        "CT": f"application/dicom; transfer-syntax={ts}",
        "SR": f"application/dicom; transfer-syntax={ExplicitVRLittleEndian}",
    }
    assert all(ds.file_meta.TransferSyntaxUID == said.rpartition("=")[2] for said, ds in found.values())
    assert found["SR"][1] == report
    if ts != JPEGBaseline8Bit:
        assert np.array_equal(found["CT"][1].pixel_array, pixels)
    # There is nothing of what was asked for in the report's own series.
    assert web.get(f"{where}/series/{report.SeriesInstanceUID}", f"{OBJECTS}; transfer-syntax={ts}").status_code == 406
    assert len(parts(web.get(where, f"{OBJECTS}; transfer-syntax={DeflatedExplicitVRLittleEndian}"))) == 2


def test_images_that_do_not_fit_into_a_transfer_syntax_are_left_out_and_named(web: Web) -> None:
    fits = instance("some fit")
    overlay = instance("some fit", BitsStored=12, HighBit=11, BitsAllocated=16)  # which is found in the pixels only
    overlay.SOPInstanceUID += ".1"
    shape = [("US", overlay.Rows), ("US", overlay.Columns), ("CS", "G"), ("SS", [1, 1]), ("US", 16), ("US", 12)]
    for element, (vr, value) in zip((0x10, 0x11, 0x40, 0x50, 0x100, 0x102), shape, strict=True):
        overlay.add_new((0x6000, element), vr, value)
    bits = instance("some fit", Rows=8, Columns=8, BitsAllocated=1, BitsStored=1, HighBit=0, PixelData=b"\x55" * 8)
    bits.SOPInstanceUID += ".2"
    assert web.store(fits, overlay, bits).status_code == 200
    where = f"/studies/{fits.StudyInstanceUID}/series/{fits.SeriesInstanceUID}"
    for _ in range(2):  # the second time it is known
        answer = web.get(where, f"{OBJECTS}; transfer-syntax={JPEG2000Lossless}")
        said = answer.headers["warning"]
        assert (answer.status_code, overlay.SOPInstanceUID in said, bits.SOPInstanceUID in said) == (206, True, True)
        assert "2 or more of 3 instances are left out" in said
        assert "they do not fit into the transfer syntax asked for" in said
        assert [read(content).SOPInstanceUID for _, content in parts(answer)] == [fits.SOPInstanceUID]
    assert len(parts(web.get(where, OBJECTS))) == 3
    for ds in (overlay, bits):
        assert web.get(path(ds), f"{OBJECTS}; transfer-syntax={JPEG2000Lossless}").status_code == 406


@pytest.mark.parametrize("ts", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize("asked", ["", "; transfer-syntax=*", f"; transfer-syntax={ExplicitVRLittleEndian}"])
def test_what_is_native_leaves_in_explicit_little_endian(web: Web, ts: str, asked: str) -> None:
    ds = instance(f"native {ts}")
    where = stored(web, ds, native(ds, ts))
    [(_, raw)] = parts(web.get(where, OBJECTS + asked))
    back = read(raw)
    assert back.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert back == ds
    [(_, pixels)] = parts(web.get(f"{where}/frames/1", BYTES))
    assert pixels == ds.PixelData
    assert web.get(f"{where}/bulkdata/7FE00010", "application/octet-stream").content == ds.PixelData


def test_compressed_objects(web: Web) -> None:
    where = stored(web, COMPRESSED, encapsulated(COMPRESSED, JPEG2000Lossless, CODESTREAMS))
    for asked in ("*", JPEG2000Lossless):
        [(headers, raw)] = parts(web.get(where, f"{OBJECTS}; transfer-syntax={asked}"))
        assert headers["content-type"].endswith(JPEG2000Lossless)
        assert read(raw).file_meta.TransferSyntaxUID == JPEG2000Lossless
    [(headers, raw)] = parts(web.get(where, OBJECTS))
    back = read(raw)
    assert back.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert np.array_equal(back.pixel_array, pixels_of(COMPRESSED))


def test_a_study_of_several_syntaxes(web: Web) -> None:
    plain = multiframe("mixed")
    compressed = multiframe("mixed")
    compressed.SOPInstanceUID += ".1"
    raw = encapsulated(compressed, JPEG2000Lossless, CODESTREAMS)
    assert web.store(plain, raw).status_code == 200
    where = f"/studies/{plain.StudyInstanceUID}"
    kinds = [headers["content-type"] for headers, _ in parts(web.get(where, f"{OBJECTS}; transfer-syntax=*"))]
    assert [kind.rpartition("=")[2] for kind in kinds] == [ExplicitVRLittleEndian, JPEG2000Lossless]
    assert len(parts(web.get(where, OBJECTS))) == 2
    for headers, raw in parts(web.get(where, f"{OBJECTS}; transfer-syntax={JPEG2000Lossless}")):
        assert headers["content-type"].endswith(JPEG2000Lossless)
        assert np.array_equal(read(raw).pixel_array, pixels_of(plain))


@pytest.mark.parametrize(
    "where",
    [
        "/studies/1.2.3", "/studies/1.2.3/metadata", "/studies/{0}/series/1.2.3", "/studies/1.2.3/series/{1}",
        "/studies/{0}/series/{1}/instances/1.2.3", "/studies/{0}/series/1.2.3/instances/{2}",
        "/studies/{0}/series/{1}/instances/{2}/frames/2", "/studies/{0}/series/{1}/instances/{2}/bulkdata/00091001",
        "/studies/{0}/series/{1}/instances/1.2.3/rendered",
    ],
)  # fmt: skip
def test_what_is_not_there(web: Web, study: list[Dataset], where: str) -> None:
    ds = study[0]
    answer = web.get(where.format(ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID))
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


def test_rights(web: Web, study: list[Dataset]) -> None:
    for below in ("", "/metadata", "/frames/1", "/rendered", "/bulkdata/7FE00010", "/bulkdata"):
        assert web.get(path(study[0]) + below, headers={"X-Test-Rights": "query store"}).status_code == 403


@pytest.mark.parametrize(
    "path", ["", "/metadata", "/series/{series}", "/series/{series}/metadata", "/rendered", "/thumbnail", "/bulkdata"]
)
def test_who_reads_is_in_the_audit(tmp_path: Path, path: str) -> None:
    ds = dicom_data.image(1)
    with serving(tmp_path) as web:
        assert web.store(ds).status_code == 200
        for _ in range(2):
            where = f"/studies/{ds.StudyInstanceUID}{path.format(series=ds.SeriesInstanceUID)}"
            assert web.get(where, "*/*").status_code == 200
        assert web.get("/studies/1.2.3/metadata").status_code == 404
        web.archive.accesses.flush()
        told = [(e.principal, e.study_instance_uid) for e in web.archive.audit.query("DICOM Instances Accessed")]
        assert told == [("tests", ds.StudyInstanceUID)]


def test_damage_on_the_disk_is_an_error(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as web:
        ds = instance("damaged")
        where = stored(web, ds)
        [kept] = [p for p in (tmp_path / "data").rglob("*") if p.is_file() and ds.PixelData in p.read_bytes()]
        raw = kept.read_bytes()
        end = raw.index(ds.PixelData) + len(ds.PixelData)
        kept.chmod(0o600)
        kept.write_bytes(raw[: end - 10] + b"\xaa" * 10)
        assert web.get(where, OBJECTS).status_code == 500
        kept.write_bytes(raw[: end - 10])
        assert web.get(where, OBJECTS).status_code == 500
        assert web.get(f"{where}/frames/1", BYTES).status_code == 500


def test_damage_far_into_a_long_answer_breaks_the_connection(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as web:
        ds = instance("long", Rows=1024, Columns=1024, PixelData=bytes(2 << 20))
        slices = []
        for n in range(3):
            ds.SOPInstanceUID = uids.derived("long", n)
            ds.InstanceNumber = n + 1
            slices.append(dicom_data.part10(ds))
        assert web.store(*slices).status_code == 200
        (where,) = web.archive.retrieve.locate(SYSTEM, ds.StudyInstanceUID, None, uids.derived("long", 2))
        with (tmp_path / "data" / "objects" / where.locator.object_key).open("r+b") as segment:
            segment.seek(where.locator.offset + where.locator.length - 10)
            segment.write(b"\xaa" * 10)
        whole = {"Accept": OBJECTS}
        with web.client.stream("GET", f"/studies/{ds.StudyInstanceUID}", headers=whole) as answer:
            assert answer.status_code == 200
            with pytest.raises(httpx.RemoteProtocolError):
                answer.read()


def test_a_quarantined_instance_is_left_out_of_its_study_and_named(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as web:
        slices = list(dicom_data.series(3, study=6))
        assert web.store(*slices).status_code == 200
        where = f"/studies/{slices[0].StudyInstanceUID}"
        held = {each.sop_instance_uid: each for each in web.archive.retrieve.locate(SYSTEM, slices[0].StudyInstanceUID)}
        spoilt = held[slices[1].SOPInstanceUID].locator
        with (tmp_path / "data" / "objects" / spoilt.object_key).open("r+b") as segment:
            segment.seek(spoilt.offset + spoilt.length - 10)
            segment.write(b"\xaa" * 10)
        [found] = Scrub(web.archive.store, web.archive.index).verify(3).damaged
        assert found.sop_instance_uid == slices[1].SOPInstanceUID
        answer = web.get(where, OBJECTS)
        assert (answer.status_code, slices[1].SOPInstanceUID in answer.headers["warning"]) == (206, True)
        assert [read(raw) for _, raw in parts(answer)] == [slices[0], slices[2]]
        assert web.get(path(slices[1]), OBJECTS).status_code == 500


def test_a_client_that_leaves(web: Web, study: list[Dataset]) -> None:
    large = instance("large", Rows=4096, Columns=4096, PixelData=bytes(32 << 20))
    where = stored(web, large)
    for _ in range(3):
        with web.client.stream("GET", where, headers={"Accept": OBJECTS}) as answer:
            next(answer.iter_raw())
    assert web.get(path(study[0]), OBJECTS).status_code == 200
    wait_for_haste(web)


def test_pieces_are_large_while_few_read(web: Web) -> None:
    large = instance("pieces", Rows=2048, Columns=2048, PixelData=bytes(range(256)) * (32 << 10))
    where, haste = stored(web, large), web.archive.retrieve.haste
    wait_for_haste(web)
    in_large_ones = web.get(where, "application/dicom").content
    wait_for_haste(web)
    assert haste.take(HASTE_BYTES)  # as if many read
    try:
        in_small_ones = web.get(where, "application/dicom").content
        assert haste.left == 0
    finally:
        haste.give(HASTE_BYTES)
    assert in_large_ones == in_small_ones
    assert read(in_large_ones).PixelData == large.PixelData


def wait_for_haste(web: Web) -> None:
    """Until every answer has given back what it held."""
    deadline = time.monotonic() + 60
    while web.archive.retrieve.haste.left != HASTE_BYTES:
        assert time.monotonic() < deadline, "something was kept"
        time.sleep(0.01)


# Metadata ------------------------------------------------------------------------------------------------------------


def test_metadata(web: Web, study: list[Dataset]) -> None:
    first = study[0]
    where = f"/studies/{first.StudyInstanceUID}"
    for below, count in (("", 3), (f"/series/{first.SeriesInstanceUID}", 3)):
        assert len(web.get(f"{where}{below}/metadata", JSON).json()) == count
    answer = web.get(path(first) + "/metadata", JSON)
    assert answer.headers["content-type"] == JSON
    [item] = answer.json()
    assert list(item) == sorted(item)
    assert not any(tag.startswith("0002") for tag in item)
    assert item["7FE00010"] == {"vr": "OW", "BulkDataURI": f"{web.url}{path(first)}/bulkdata/7FE00010"}
    expected = json.loads(json.dumps(first.to_json_dict()))
    del expected["7FE00010"]
    back = Dataset.from_json({tag: element for tag, element in item.items() if tag != "7FE00010"})
    assert back == Dataset.from_json(expected)


def test_metadata_that_has_not_changed(web: Web) -> None:
    ds = instance("etag")
    where = stored(web, ds) + "/metadata"
    first = web.get(where)
    tag = first.headers["etag"]
    same = web.get(where, headers={"If-None-Match": f'"other", {tag}'})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    assert same.headers["vary"] == "Accept, Accept-Encoding"
    for weakly in (tag.removeprefix("W/"), "*"):  # RFC 9110 13.1.2
        assert web.get(where, headers={"If-None-Match": weakly}).status_code == 304
    assert web.get(where, XML).headers["etag"] != tag
    series = f"/studies/{ds.StudyInstanceUID}/metadata"
    tag = web.get(series).headers["etag"]
    ds.SOPInstanceUID += ".1"
    assert web.store(ds).status_code == 200
    again = web.get(series, headers={"If-None-Match": tag})
    assert again.status_code == 200
    assert again.headers["etag"] != tag


def test_metadata_in_xml(web: Web, study: list[Dataset]) -> None:
    found = parts(web.get(f"/studies/{study[0].StudyInstanceUID}/metadata", f'multipart/related; type="{XML}"'))
    assert [headers["content-type"] for headers, _ in found] == [XML] * 3
    namespace = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"
    root = ElementTree.fromstring(found[0][1])
    uri = root.find(f"{namespace}DicomAttribute[@keyword='PixelData']/{namespace}BulkData")
    assert uri is not None
    assert web.client.get(uri.attrib["uri"]).content == study[0].PixelData


@pytest.mark.parametrize(("accept", "status"), [("image/jpeg", 406), (f"{JSON};q=0", 406), ("*/*", 200), (BYTES, 406)])
def test_negotiation_of_metadata(web: Web, study: list[Dataset], accept: str, status: int) -> None:
    assert web.get(path(study[0]) + "/metadata", accept).status_code == status


# Frames --------------------------------------------------------------------------------------------------------------


def test_frames_in_the_order_asked_for(web: Web) -> None:
    ds = multiframe("order")
    where = stored(web, ds)
    expected = [frame.astype("<u2").tobytes() for frame in pixels_of(ds)]
    found = parts(web.get(f"{where}/frames/3,1,2", BYTES))
    assert [content for _, content in found] == [expected[2], expected[0], expected[1]]
    assert {headers["content-type"] for headers, _ in found} == {
        f"application/octet-stream; transfer-syntax={ExplicitVRLittleEndian}"
    }
    for accept in ('multipart/related; type="*/*"', "*/*", f"{BYTES}; transfer-syntax=*"):
        assert parts(web.get(f"{where}/frames/5", accept))[0][1] == expected[4]
    alone = web.get(f"{where}/frames/2", "application/octet-stream")
    assert (alone.content, alone.headers["content-length"]) == (expected[1], str(len(expected[1])))
    assert web.get(f"{where}/frames/1,2", "application/octet-stream").status_code == 406


@pytest.mark.parametrize(("frames", "status"), [("0", 400), ("x", 400), ("1,,2", 400), ("6", 404), ("1,6", 404)])
def test_frames_that_are_none(web: Web, frames: str, status: int) -> None:
    assert web.get(f"{stored(web, multiframe('order'))}/frames/{frames}").status_code == status


def test_frames_of_what_has_none(web: Web) -> None:
    report = instance("report", PixelData=None, Rows=None, Columns=None, Modality="SR")
    where = stored(web, report)
    assert web.get(f"{where}/frames/1").status_code == 404
    assert web.get(f"{where}/rendered").status_code == 406


def test_compressed_frames(web: Web) -> None:
    where = stored(web, COMPRESSED, encapsulated(COMPRESSED, JPEG2000Lossless, CODESTREAMS))
    kind = f"image/jp2; transfer-syntax={JPEG2000Lossless}"
    unquoted = "multipart/related; type=application/octet-stream; transfer-syntax=*"
    for accept in (unquoted, "multipart/related; type=image/jp2", 'multipart/related; type="image/*"',
                   f"multipart/related; type=image/jp2; transfer-syntax={JPEG2000Lossless}"):  # fmt: skip
        answer = web.get(f"{where}/frames/2,1", accept)
        assert 'type="image/jp2"' in answer.headers["content-type"]
        for (headers, content), codestream in zip(parts(answer), (CODESTREAMS[1], CODESTREAMS[0]), strict=True):
            assert headers["content-type"] == kind
            assert content.rstrip(b"\0") == codestream.rstrip(b"\0")
    alone = web.get(f"{where}/frames/1", "image/jp2")
    assert alone.headers["content-type"] == kind
    for accept in (BYTES, "*/*"):
        found = parts(web.get(f"{where}/frames/3,1", accept))
        decoded = [np.frombuffer(content, "<u2").reshape(8, 6) for _, content in found]
        assert np.array_equal(decoded[0], pixels_of(COMPRESSED)[2])
        assert np.array_equal(decoded[1], pixels_of(COMPRESSED)[0])
    assert web.get(f"{where}/frames/1", "multipart/related; type=image/gif").status_code == 406


@pytest.mark.parametrize(("kind", "ts"), sorted(FRAME_DEFAULTS.items()))
@pytest.mark.parametrize("source", ["native", "compressed"])
def test_frames_are_encoded_as_asked(web: Web, kind: str, ts: str, source: str) -> None:
    ds = COMPRESSED if source == "compressed" else multiframe("to be encoded")
    raw = encapsulated(ds, JPEG2000Lossless, CODESTREAMS) if source == "compressed" else None
    where = stored(web, ds, raw)
    for accept in (f"multipart/related; type={kind}", f'multipart/related; type="{kind}"; transfer-syntax={ts}'):
        [(headers, content)] = parts(web.get(f"{where}/frames/2", accept))
        assert headers["content-type"] == f"{kind}; transfer-syntax={ts}"
        if kind != "image/dicom-rle":
            decode = {"image/jpeg": "jpeg", "image/jls": "jpegls", "image/jp2": "jpeg2k", "image/jphc": "htj2k",
                      "image/jxl": "jpegxl"}[kind]  # fmt: skip
            assert np.array_equal(getattr(imagecodecs, f"{decode}_decode")(content), pixels_of(ds)[1])
    alone = web.get(f"{where}/frames/2", kind)
    assert alone.headers["content-type"] == f"{kind}; transfer-syntax={ts}"
    assert alone.content == content


@pytest.mark.parametrize("ts", [JPEGLSLossless, RLELossless])
def test_other_codecs(web: Web, ts: str) -> None:
    ds = multiframe(f"codec {ts}")
    encode = imagecodecs.jpegls_encode if ts == JPEGLSLossless else rle
    where = stored(web, ds, encapsulated(ds, ts, [encode(frame) for frame in pixels_of(ds)]))
    [(_, content)] = parts(web.get(f"{where}/frames/4", BYTES))
    assert content == pixels_of(ds)[3].astype("<u2").tobytes()


def test_a_frame_that_cannot_be_decoded_is_not_to_be_had_decoded(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    ds = multiframe("undecodable")
    frames = [broken(CODESTREAMS[0])[:40], *CODESTREAMS[1:]]
    where = stored(web, ds, encapsulated(ds, JPEG2000Lossless, frames))
    for below in ("/frames/1", "/frames/1/rendered", "/frames/1/thumbnail", "/frames/2,1", ""):
        answer = web.get(where + below)
        assert (answer.status_code, answer.headers["content-type"]) == (406, "application/problem+json"), below
        assert "JPEG 2000 codestream" in (told := answer.json()["detail"]), told
        assert "transfer-syntax=*" in told
    assert not caplog.records  # it is no failure of the server's
    [(_, raw)] = parts(web.get(f"{where}/frames/1", f"{BYTES}; transfer-syntax=*"))
    assert raw.startswith(frames[0])
    [(_, whole)] = parts(web.get(where, f"{OBJECTS}; transfer-syntax=*"))
    assert read(whole).NumberOfFrames == 5
    [(_, other)] = parts(web.get(f"{where}/frames/2", BYTES))
    assert other == pixels_of(ds)[1].tobytes()
    assert web.get(f"{where}/frames/2/rendered").status_code == 200


def some_undecodable(web: Web, name: str, bad: Sequence[int], count: int = 3) -> tuple[str, list[Dataset]]:
    """A study of one series in JPEG 2000, of which these cannot be decoded."""
    made = []
    for number in range(count):
        ds = multiframe(name)
        ds.SOPInstanceUID = uids.derived(name, number)
        ds.InstanceNumber = number + 1
        frames = [*CODESTREAMS[:4], broken(CODESTREAMS[4])[:40] if number in bad else CODESTREAMS[4]]
        stored(web, ds, encapsulated(ds, JPEG2000Lossless, frames))
        made.append(ds)
    return f"/studies/{made[0].StudyInstanceUID}", made


def test_one_of_several_that_cannot_be_decoded_is_left_out_and_named(web: Web) -> None:
    where, made = some_undecodable(web, "one of three", [1])
    for below in ("", f"/series/{made[0].SeriesInstanceUID}"):
        for syntax in ("", f"; transfer-syntax={RLELossless}"):
            answer = web.get(where + below, OBJECTS + syntax)
            assert answer.status_code == 206  # PS3.18 Table 8.5-1: some of the representations, but not all
            assert answer.headers["warning"].startswith(f"299 {web.url}: ")
            assert made[1].SOPInstanceUID in answer.headers["warning"]
            found = [read(raw) for _, raw in parts(answer)]
            assert [ds.SOPInstanceUID for ds in found] == [made[0].SOPInstanceUID, made[2].SOPInstanceUID]
            assert np.array_equal(found[0].pixel_array, pixels_of(made[0]))
    whole = web.get(where, f"{OBJECTS}; transfer-syntax=*")
    assert (whole.status_code, len(parts(whole)), "warning" in whole.headers) == (200, 3, False)
    alone = web.get(path(made[1]), OBJECTS)
    huge = multiframe("one of three")  # larger than a frame may be: its attributes tell, and no decoder is asked
    huge.SOPInstanceUID, huge.Rows = uids.derived("one of three", "huge"), 60000
    huge.Columns, huge.InstanceNumber = 60000, 4
    stored(web, huge, encapsulated(huge, JPEG2000Lossless, CODESTREAMS))
    for syntax in ("", f"; transfer-syntax={RLELossless}"):
        answer = web.get(where, OBJECTS + syntax)
        found = [read(raw).SOPInstanceUID for _, raw in parts(answer)]
        assert (answer.status_code, found) == (206, [made[0].SOPInstanceUID, made[2].SOPInstanceUID])
        assert huge.SOPInstanceUID in answer.headers["warning"]
    assert (alone.status_code, "JPEG 2000" in alone.json()["detail"]) == (406, True)
    nothing, _ = some_undecodable(web, "all of three", [0, 1, 2])
    assert web.get(nothing, OBJECTS).status_code == 406
    wait_for_haste(web)


def test_one_that_is_found_out_too_late_is_left_out_the_next_time(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(several, "FORESEEN_BYTES", 100)
    where, made = some_undecodable(web, "too late", [2, 3], count=5)
    with web.client.stream("GET", where, headers={"Accept": OBJECTS}) as answer:
        assert answer.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):  # whoever was told that all is well may not take this for all
            answer.read()
    again = web.get(where, OBJECTS)
    assert (again.status_code, made[2].SOPInstanceUID in again.headers["warning"]) == (206, True)
    left = [each.SOPInstanceUID for number, each in enumerate(made) if number not in (2, 3)]
    assert [read(raw).SOPInstanceUID for _, raw in parts(again)] == left
    wait_for_haste(web)


def test_one_bit_frames(web: Web) -> None:
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 2, (3, 5, 7), dtype=np.uint8)
    packed = np.packbits(bits.ravel(), bitorder="little").tobytes()
    ds = instance(
        "bits", Rows=5, Columns=7, NumberOfFrames=3, BitsAllocated=1, BitsStored=1, HighBit=0,
        PixelData=packed + b"\0" * (len(packed) % 2),
    )  # fmt: skip
    where = stored(web, ds)
    for (_, content), frame in zip(parts(web.get(f"{where}/frames/1,2,3", BYTES)), bits, strict=True):
        assert content == np.packbits(frame.ravel(), bitorder="little").tobytes()


def test_fifty_requests_at_once(web: Web) -> None:
    ds = multiframe("parallel", frames=50)
    where = stored(web, ds)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: web.get(f"{where}/frames/{n}", BYTES), range(1, 51)))
    for answer, frame in zip(answers, pixels_of(ds), strict=True):
        assert parts(answer)[0][1] == frame.astype("<u2").tobytes()


# Bulk data -----------------------------------------------------------------------------------------------------------


def test_bulk_data(web: Web) -> None:
    ds = instance("bulk")
    ds.add_new(0x00091001, "OB", bytes(range(256)) * 8)
    ds.add_new(0x00090010, "LO", "TESTS")
    item = Dataset()
    item.add_new(0x00091001, "OB", b"\7" * 3000)
    item.add_new(0x00090010, "LO", "TESTS")
    ds.add_new(0x00082112, "SQ", [item])
    where = stored(web, ds)
    [metadata] = web.get(f"{where}/metadata").json()
    inner = metadata["00082112"]["Value"][0]["00091001"]["BulkDataURI"]
    assert web.client.get(inner, headers={"Accept": "application/octet-stream"}).content == b"\7" * 3000
    uri = metadata["00091001"]["BulkDataURI"]
    [(headers, content)] = parts(web.client.get(uri, headers={"Accept": BYTES}))
    assert (headers["content-location"], content) == (uri, bytes(range(256)) * 8)
    everything = parts(web.get(f"{where}/bulkdata", BYTES))
    assert {headers["content-location"] for headers, _ in everything} == {
        uri, inner, metadata["7FE00010"]["BulkDataURI"]
    }  # fmt: skip
    [(_, pixels)] = parts(web.get(f"{where}/pixeldata", BYTES))
    assert pixels == ds.PixelData
    for bad in ("7FE0001", "x", "../../etc/passwd", "7FE00010/1"):
        assert web.get(f"{where}/bulkdata/{bad}").status_code in (400, 404)


def test_ranges(web: Web) -> None:
    ds = instance("range")
    where = f"{stored(web, ds)}/bulkdata/7FE00010"
    whole = ds.PixelData
    answer = web.get(where, headers={"Range": "bytes=0-9"})
    assert (answer.status_code, answer.content) == (206, whole[:10])
    assert answer.headers["content-range"] == f"bytes 0-9/{len(whole)}"
    assert web.get(where, headers={"Range": "bytes=-7"}).content == whole[-7:]
    every = web.get(where, headers={"Range": "bytes=0-"})  # RFC 9110 15.3.7: a range, too
    assert (every.status_code, every.content) == (206, whole)
    assert every.headers["content-range"] == f"bytes 0-{len(whole) - 1}/{len(whole)}"
    assert web.get(where, headers={"Range": "bytes=0-1,3-4"}).content == whole
    tag = answer.headers["etag"]
    assert web.get(where, headers={"Range": "bytes=0-9", "If-Range": tag}).content == whole[:10]
    for other in ('"x"', f"W/{tag}", "Sun, 22 Nov 2026 00:00:00 GMT"):
        changed = web.get(where, headers={"Range": "bytes=0-9", "If-Range": other})
        assert (changed.status_code, changed.content) == (200, whole), other
    assert web.get(where, headers={"If-None-Match": tag}).status_code == 304
    in_parts = web.get(where, BYTES, headers={"Range": "bytes=0-9"})
    assert (in_parts.status_code, parts(in_parts)[0][1]) == (200, whole)
    beyond = web.get(where, headers={"Range": f"bytes={len(whole)}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(whole)}")


def test_ranges_of_swapped_words(web: Web) -> None:
    ds = instance("swapped")
    where = f"{stored(web, ds, native(ds, ExplicitVRBigEndian))}/bulkdata/7FE00010"
    for first, last in ((0, 9), (1, 1), (3, 8), (383, 383)):
        assert web.get(where, headers={"Range": f"bytes={first}-{last}"}).content == ds.PixelData[first : last + 1]


def test_compressed_pixel_data_as_bulk_data(web: Web) -> None:
    where = stored(web, COMPRESSED, encapsulated(COMPRESSED, JPEG2000Lossless, CODESTREAMS))
    expected = [frame.astype("<u2").tobytes() for frame in pixels_of(COMPRESSED)]
    assert [content for _, content in parts(web.get(f"{where}/bulkdata/7FE00010", BYTES))] == expected
    assert [content for _, content in parts(web.get(f"{where}/pixeldata", BYTES))] == expected
    for accept in (f"{BYTES}; transfer-syntax=*", "multipart/related; type=image/jp2"):
        answer = web.get(f"{where}/pixeldata", accept)
        assert 'type="image/jp2"' in answer.headers["content-type"]
        for (headers, content), codestream in zip(parts(answer), CODESTREAMS, strict=True):
            assert headers["content-type"] == f"image/jp2; transfer-syntax={JPEG2000Lossless}"
            assert headers["content-location"] == f"{web.url}{where}/bulkdata/7FE00010"
            assert content.rstrip(b"\0") == codestream.rstrip(b"\0")
    assert web.get(f"{where}/pixeldata", "multipart/related; type=image/gif").status_code == 406


# Rendered ------------------------------------------------------------------------------------------------------------


def picture(answer: httpx.Response, kind: str) -> np.ndarray:
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind), answer.text[:500]
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def test_rendered(web: Web) -> None:
    ds = instance("rendered")
    where = stored(web, ds)
    hu = pixels_of(ds).astype(float) - 1024
    expected = np.clip(((hu - 39.5) / 399 + 0.5) * 255, 0, 255)  # PS3.3 C.11.2.1.2.1
    assert np.abs(picture(web.get(f"{where}/rendered", "image/png"), "image/png") - expected).max() <= 1
    for accept in ("*/*", "image/jpeg", "image/*"):
        assert np.abs(picture(web.get(f"{where}/rendered", accept), "image/jpeg") - expected).mean() < 6
    assert picture(web.get(f"{where}/frames/1/rendered", "image/png"), "image/png").shape == (16, 12)
    assert web.get(f"{where}/rendered", "*/*;q=0.1, image/png").headers["content-type"] == "image/png"
    assert web.get(f"{where}/rendered?accept=image/png,image/jpeg;q=0.5").headers["content-type"] == "image/png"
    for accept in (JSON, "image/webp", "model/x3d+xml"):
        answer = web.get(f"{where}/rendered", accept)
        assert (answer.status_code, "image/jpeg, image/png" in answer.json()["detail"]) == (406, True)


def test_rendering_parameters(web: Web) -> None:
    ds = instance("parameters", Rows=64, Columns=64, PixelData=(np.arange(4096, dtype="<u2")).tobytes())
    where = f"{stored(web, ds)}/rendered"
    linear = picture(web.get(where, "image/png", params={"window": "1024,4096,linear-exact"}), "image/png")
    expected = np.clip((pixels_of(ds) - 1024.0 - 1024) / 4096 + 0.5, 0, 1) * 255
    assert np.abs(linear - expected).max() <= 1
    assert picture(web.get(where, "image/png", params={"viewport": "32,48"}), "image/png").shape == (32, 32)
    region = picture(web.get(where, "image/png", params={"viewport": "10,20,5,6,10,20"}), "image/png")
    assert region.shape == (20, 10)
    small, large = (len(web.get(where, params={"quality": q}).content) for q in (5, 100))
    assert small < large
    warned = web.get(where, params={"annotation": "patient,shoe-size"})
    assert (warned.status_code, "shoe-size" in warned.headers["warning"]) == (200, True)


@pytest.mark.parametrize(
    "query", ["quality=0", "quality=101", "quality=x", "window=a,b", "window=40", "window=40,0", "viewport=0,0",
              "viewport=x", "viewport=1,2,3", "quality=1&quality=2", "viewport=10,10,999,999,5,5"]
)  # fmt: skip
def test_rendering_parameters_that_are_none(web: Web, query: str) -> None:
    assert web.client.get(f"{stored(web, instance('rendered'))}/rendered?{query}").status_code == 400


def test_rendered_frames_and_representatives(web: Web, study: list[Dataset]) -> None:
    ds = multiframe("rendered frames")
    where = stored(web, ds)
    one = picture(web.get(f"{where}/frames/2/rendered", "image/png"), "image/png")
    two = parts(web.get(f"{where}/frames/1,2/rendered", "multipart/related; type=image/png"))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(two[1][1]))), one)
    assert web.get(f"{where}/frames/6/rendered").status_code == 404
    middle = web.get(f"{path(study[1])}/rendered", "image/png").content
    for level in (f"/studies/{ds_study(study)}", f"/studies/{ds_study(study)}/series/{study[0].SeriesInstanceUID}"):
        assert web.get(f"{level}/rendered", "image/png").content == middle


def ds_study(slices: list[Dataset]) -> str:
    return str(slices[0].StudyInstanceUID)


def test_colour(web: Web) -> None:
    rgb = np.zeros((16, 16, 3), np.uint8)
    rgb[:, :8] = (200, 30, 60)
    ds = instance(
        "colour", Rows=16, Columns=16, SamplesPerPixel=3, PhotometricInterpretation="YBR_FULL_422",
        PlanarConfiguration=0, BitsAllocated=8, BitsStored=8, HighBit=7, WindowCenter=None, WindowWidth=None,
        RescaleSlope=None, RescaleIntercept=None, RescaleType=None, PixelData=rgb.tobytes(),
    )  # fmt: skip
    codestream = imagecodecs.jpeg8_encode(rgb, level=95)
    where = stored(web, ds, encapsulated(ds, JPEGBaseline8Bit, [codestream]))
    shown = picture(web.get(f"{where}/rendered", "image/png"), "image/png").astype(int)
    assert np.abs(shown[:, :7] - rgb[:, :7]).max() <= 6
    [(_, raw)] = parts(web.get(where, OBJECTS))
    back = read(raw)
    assert (back.PhotometricInterpretation, back.PlanarConfiguration) == ("RGB", 0)
    assert np.abs(back.pixel_array[:, :7].astype(int) - rgb[:, :7]).max() <= 6
    [(headers, content)] = parts(web.get(f"{where}/frames/1", "multipart/related; type=image/jpeg"))
    assert headers["content-type"] == f"image/jpeg; transfer-syntax={JPEGBaseline8Bit}"
    assert content.rstrip(b"\0") == codestream.rstrip(b"\0")


def test_a_model_that_is_none_is_not_to_be_had_as_a_scene(tmp_path: Path) -> None:
    def scene(_archive: object, _locations: object) -> bytes:
        raise Undecodable("no binary STL")

    with serving(tmp_path, renditions={"model/x3d+xml": scene}) as web:
        ds = instance("no model", SOPClassUID=STL, Modality="M3D", PixelData=None, Rows=None, Columns=None)
        assert web.store(ds).status_code == 200
        answer = web.get(f"{path(ds)}/rendered", "model/x3d+xml")
        assert (answer.status_code, "no binary STL" in answer.json()["detail"]) == (406, True)


def test_renditions_of_what_is_no_image(web: Web) -> None:
    model = {"SOPClassUID": STL, "Modality": "M3D", "PixelData": None, "Rows": None, "Columns": None}
    one, two = instance("model", **model), instance("model", **model)
    two.SOPInstanceUID += ".1"
    assert web.store(one, two).status_code == 200
    series = f"/studies/{one.StudyInstanceUID}/series/{one.SeriesInstanceUID}/rendered"
    for accept in ("model/x3d+xml", "*/*"):
        answer = web.get(series, accept, headers={"Accept-Encoding": "gzip"})
        assert answer.headers["content-type"] == "model/x3d+xml"
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.text.endswith("2</X3D>")
    assert web.get(f"{path(one)}/rendered", "model/x3d+xml").text.endswith("1</X3D>")
    assert web.get(series, "image/jpeg").status_code == 406
