"""DICOMweb on an archive whose objects are in S3: what is asked of S3, and how much of it at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import dicom_data
import pytest
from dicomweb_server import Web, parts, serving
from faults.proxy import Proxy, Request
from pydicom import Dataset
from servers import S3Server

from pacs.storage.cache import BLOCK

OBJECTS = 'multipart/related; type="application/dicom"; transfer-syntax=*'
BYTES = 'multipart/related; type="application/octet-stream"'
AT_ONCE = 8


@pytest.fixture(scope="module")
def proxy(moto_server: S3Server) -> Iterator[Proxy]:
    port = urlsplit(moto_server.endpoint).port
    assert port is not None
    proxy = Proxy(port)
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def study() -> list[Dataset]:
    return list(dicom_data.series(2 * AT_ONCE, study=31, rows=32, columns=32))


@pytest.fixture(scope="module")
def web(
    proxy: Proxy, moto_server: S3Server, study: list[Dataset], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Web]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", moto_server.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", moto_server.secret_key)
        objects = f"s3://{moto_server.bucket}/web"
        folder = tmp_path_factory.mktemp("s3web")
        with serving(folder, objects=objects, s3_endpoint=proxy.endpoint, s3_cache_bytes=0) as web:
            assert web.store(*study).status_code == 200
            yield web


@pytest.fixture
def asked(proxy: Proxy) -> Iterator[list[Request]]:
    """The requests that S3 gets during a test."""
    found: list[Request] = []
    proxy.before = found.append
    yield found
    proxy.before = None


def where(ds: Dataset) -> str:
    return f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"


def test_searches_and_metadata_ask_s3_for_nothing(web: Web, study: list[Dataset], asked: list[Request]) -> None:
    one = where(study[0])
    series = one.partition("/instances")[0]
    for path in ("/studies", "/series", "/instances", f"{series}/instances", f"{series}/metadata", f"{one}/metadata",
                 "/instances?includefield=all&RescaleSlope=1"):  # fmt: skip
        assert web.get(path).status_code == 200
    assert asked == []


def test_a_frame_is_one_ranged_request(web: Web, proxy: Proxy, asked: list[Request]) -> None:
    size, count = 1 << 20, 5
    pixels = b"".join(bytes([n]) * size for n in range(count))
    ds = dicom_data.image(
        3, 1024, 512, NumberOfFrames=count, PixelData=pixels, StudyInstanceUID="1.2.31.1", SOPInstanceUID="1.2.31.2"
    )
    ds["PixelData"].VR = "OW"
    assert web.store(ds).status_code == 200
    asked.clear()
    [(_, content)] = parts(web.get(f"{where(ds)}/frames/3", BYTES))
    assert content == pixels[2 * size : 3 * size]
    [request] = asked
    first, last = map(int, request.range.removeprefix("bytes=").split("-"))
    assert request.method == "GET"
    assert last - first + 1 <= 2 * BLOCK  # the blocks of the read cache that it lies in, no more
    many = web.get(f"/studies/{ds.StudyInstanceUID}", OBJECTS)  # in pieces, each fetched ahead
    assert ds.PixelData in many.content
    assert len(asked) == 1 + len(many.content) // BLOCK + 1


def test_a_study_is_fetched_ahead_and_comes_in_order(web: Web, proxy: Proxy, study: list[Dataset]) -> None:
    one_by_one = [web.get(where(ds), "application/dicom; transfer-syntax=*").content for ds in study]
    together = threading.Barrier(AT_ONCE)  # S3 answers nobody before so many have asked
    proxy.before = lambda _: together.wait(60)
    try:
        answer = web.get(f"/studies/{study[0].StudyInstanceUID}", OBJECTS)
    finally:
        proxy.before = None
    assert [raw for _, raw in parts(answer)] == one_by_one
