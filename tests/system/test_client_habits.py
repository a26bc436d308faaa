"""What clients in hospitals really send, byte for byte where it matters: viewers, scripts and other archives.

Recorded on the wire from OHIF 3.12 with Cornerstone, the Python and JavaScript clients, dcm4che and scripts of
hosted services; a library between us and the socket would tidy these requests up.
"""

from __future__ import annotations

import http.client
import json
import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit

import dicom_data
import imagecodecs
import pytest
from dicomweb_server import Web, multipart, serving
from pydicom import Dataset

from pacs import uids

pytestmark = pytest.mark.system

JSON = "application/dicom+json"
WORKITEM = {
    "00741000": {"vr": "CS", "Value": ["SCHEDULED"]},
    "00741200": {"vr": "CS", "Value": ["MEDIUM"]},
    "00741204": {"vr": "LO", "Value": ["habit"]},
    "00404005": {"vr": "DT", "Value": ["20260101120000"]},
    "00404041": {"vr": "CS", "Value": ["READY"]},
    "00404018": {
        "vr": "SQ",
        "Value": [{tag: {"vr": "SH", "Value": ["HABIT"]} for tag in ("00080100", "00080102")}
                  | {"00080104": {"vr": "LO", "Value": ["habit"]}}],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def slices() -> list[Dataset]:
    return list(dicom_data.series(3, study=81, PatientName="Habit^Harry", PatientID="HABIT"))


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, slices: list[Dataset]) -> Iterator[Web]:
    with serving(tmp_path_factory.mktemp("habits")) as web:
        assert web.store(*slices).status_code == 200
        yield web


def sent(
    web: Web, target: str, accept: str | None = JSON, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, header fields (names in lower case) and body; `target` goes out as it is written."""
    root = urlsplit(web.url)
    connection = http.client.HTTPConnection(root.hostname or "", root.port, timeout=60)
    try:
        connection.putrequest(method, root.path + target, skip_accept_encoding=True)
        for name, value in ({} if accept is None else {"Accept": accept} | headers).items():
            connection.putheader(name.replace("_", "-"), value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def found(web: Web, target: str, accept: str | None = JSON) -> list[dict[str, dict[str, object]]]:
    status, headers, body = sent(web, target, accept)
    assert (status, headers["content-type"]) == (200, JSON), (status, body[:300])
    answer: list[dict[str, dict[str, object]]] = json.loads(body)
    return answer


def url_of(ds: Dataset) -> str:
    return f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"


def test_the_study_list_of_ohif(web: Web, slices: list[Dataset]) -> None:
    base = "/studies?limit=101&offset=0&fuzzymatching=true&includefield=00081030%2C00080060"
    [study] = found(web, base)
    assert {"00081030", "00080061", "00201206", "00201208"} <= study.keys()
    for key in ("StudyInstanceUID", "0020000D"):
        assert found(web, f"{base}&{key}={slices[0].StudyInstanceUID}") == [study]
    for name in ("*Habit*", "%2AHabit%2A", "Habit%5EHarry", "habit*"):
        assert found(web, f"{base}&PatientName={name}") == [study]
    assert found(web, f"{base}&00100020=HABIT") == [study]
    status, _, body = sent(web, f"{base}&PatientID=nobody")
    assert (status, body) == (204, b"")


def test_the_series_list_of_ohif(web: Web, slices: list[Dataset]) -> None:
    study = slices[0].StudyInstanceUID
    [series] = found(web, f"/studies/{study}/series?includefield=00080021%2C00080031%2C0008103E%2C00200011")
    assert {"00080060", "0020000E", "00201209", "00200011"} <= series.keys()
    metadata = found(web, f"/studies/{study}/series/{slices[0].SeriesInstanceUID}/metadata")
    assert {item["00080018"]["Value"][0] for item in metadata} == {ds.SOPInstanceUID for ds in slices}  # type: ignore[index]


def test_wildcards_and_lists_percent_encoded(web: Web, slices: list[Dataset]) -> None:
    mine, other = slices[0].StudyInstanceUID, "1.2.3"
    for separator in (",", "%2C", "\\", "%5C", "%5c"):
        assert len(found(web, f"/studies?StudyInstanceUID={mine}{separator}{other}")) == 1, separator
    for everything in ("*", "%2A", "%2a", ""):
        assert len(found(web, f"/studies?PatientName={everything}")) == 1
    assert len(found(web, "/studies?ModalitiesInStudy=C%2A")) == 1


@pytest.mark.parametrize(
    "accept",
    [
        "multipart/related; type=application/octet-stream; transfer-syntax=*",
        'multipart/related; type="application/octet-stream"; transfer-syntax=*',
        'multipart/related; type="application/octet-stream"',
        'multipart/related; type="*/*"',
        "multipart/related; type=*/*",
        'multipart/related ;  type="application/octet-stream"',
        'Multipart/Related;Type="application/octet-stream";Transfer-Syntax=1.2.840.10008.1.2.1',
        'multipart/related; type="image/jls"; transfer-syntax=1.2.840.10008.1.2.4.80, '
        'multipart/related; type="*/*"; q=0.1',
        "*/*",
    ],
)
def test_a_frame_by_every_spelling(web: Web, slices: list[Dataset], accept: str) -> None:
    status, headers, body = sent(web, url_of(slices[0]) + "/frames/1", accept)
    assert status == 200, body
    assert headers["content-type"].startswith("multipart/related")
    boundary = headers["content-type"].split("boundary=")[1].split(";")[0].strip('"').encode()
    head, _, content = body.partition(b"\r\n\r\n")
    assert b"transfer-syntax=" in head  # by which Cornerstone chooses its decoder
    content = content[: content.rindex(b"\r\n--" + boundary)]
    if b"1.2.840.10008.1.2.4.80" in head:
        assert imagecodecs.jpegls_decode(content).tobytes() == slices[0].PixelData
    else:
        assert content == slices[0].PixelData


@pytest.mark.parametrize("accept", ['application/octet-stream; transfer-syntax="*"', "application/octet-stream"])
def test_a_frame_alone(web: Web, slices: list[Dataset], accept: str) -> None:
    status, headers, body = sent(web, url_of(slices[0]) + "/frames/1", accept)
    assert (status, body) == (200, slices[0].PixelData)
    assert headers["content-type"].startswith("application/octet-stream")


def test_bulk_data_in_ranges(web: Web, slices: list[Dataset]) -> None:
    [metadata] = found(web, url_of(slices[0]) + "/metadata", f"{JSON}, application/json")
    target = str(metadata["7FE00010"]["BulkDataURI"]).removeprefix(web.url)
    for accept in ('multipart/related; type="application/octet-stream"', 'multipart/related; type="*/*"'):
        status, _, body = sent(web, target, accept, Range="bytes=0-9")
        assert status in (200, 206)
        assert slices[0].PixelData[:10] in body
    status, headers, body = sent(web, target, "application/octet-stream", Range="bytes=0-9")
    assert (status, body) == (206, slices[0].PixelData[:10])
    assert headers["content-range"] == f"bytes 0-9/{len(slices[0].PixelData)}"


def test_objects_of_the_python_client(web: Web, slices: list[Dataset]) -> None:
    study = f"/studies/{slices[0].StudyInstanceUID}"
    one = 'multipart/related; type="application/dicom"'
    every = ", ".join(f"{one}; transfer-syntax={ts}" for ts in ("*", "1.2.840.10008.1.2.1"))
    for target, accept in ((study, one), (url_of(slices[0]), f"{one}; transfer-syntax=*"), (url_of(slices[0]), every)):
        status, headers, body = sent(web, target, accept)
        assert (status, body.count(b"DICM") > 0) == (200, True)
        assert 'type="application/dicom"' in headers["content-type"]
    assert len(found(web, "/studies?includefield=00081030&includefield=StudyID", f"{JSON}, application/json")) == 1


def test_a_picture_for_whoever_says_nothing_of_its_type(web: Web, slices: list[Dataset]) -> None:
    for accept in ("*/*", None, "image/avif,image/webp,image/apng,image/*,*/*;q=0.8"):
        status, headers, body = sent(web, url_of(slices[0]) + "/rendered", accept)
        assert (status, headers["content-type"], body[:3]) == (200, "image/jpeg", b"\xff\xd8\xff")


def chunked(web: Web, body: bytes, content_type: str) -> int:
    """The status of a request whose body comes in chunks, without a Content-Length."""
    root = urlsplit(web.url)
    connection = http.client.HTTPConnection(root.hostname or "", root.port, timeout=60)
    pieces = (body[at : at + 777] for at in range(0, len(body), 777))
    try:
        connection.request("POST", root.path + "/studies", body=pieces, headers={"Content-Type": content_type},
                           encode_chunked=True)  # fmt: skip
        return connection.getresponse().status
    finally:
        connection.close()


def another(number: int) -> bytes:
    names = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    return dicom_data.part10(dicom_data.image(1, **{name: uids.derived("habit", name, number) for name in names}))


def test_uploads_as_clients_write_them(web: Web) -> None:
    boundary = str(uuid.UUID(int=5))
    quoted = f'multipart/related; type="application/dicom"; boundary="{boundary}"'
    assert chunked(web, multipart([another(1)], boundary), quoted) == 200  # the Python client
    syntax = "application/dicom; transfer-syntax=1.2.840.10008.1.2.1"  # dcm4che
    plain = f"multipart/related;type=application/dicom;boundary={boundary}"
    assert chunked(web, multipart([another(2)], boundary, syntax), plain) == 200
    status, _, _ = sent(web, "/studies", JSON, "POST", another(3), Content_Type="application/dicom")
    assert status == 200  # scripts for hosted services
    long = "a" * 73  # Orthanc's client goes beyond the 70 that are allowed
    plain = f"multipart/related; type=application/dicom; boundary={long}"
    assert chunked(web, multipart([another(4)], long), plain) == 200


@pytest.mark.parametrize("spelling", ["transaction", "transaction-uid", "Transaction-uid"])
def test_three_spellings_of_the_transaction(web: Web, spelling: str) -> None:
    workitem = uids.derived("habit workitem", spelling)
    body = json.dumps([WORKITEM]).encode()
    assert sent(web, f"/workitems?{workitem}", JSON, "POST", body, Content_Type=JSON)[0] == 201
    transaction = uids.derived("habit transaction", spelling)
    state = [{"00741000": {"vr": "CS", "Value": ["IN PROGRESS"]}, "00081195": {"vr": "UI", "Value": [transaction]}}]
    claim = json.dumps(state).encode()
    assert sent(web, f"/workitems/{workitem}/state", JSON, "PUT", claim, Content_Type=JSON)[0] == 200
    update = json.dumps([{"00404021": {"vr": "SQ"}}]).encode()
    where = f"/workitems/{workitem}?{spelling}="
    assert sent(web, where + transaction, JSON, "PUT", update, Content_Type=JSON)[0] == 200
    assert sent(web, where + "1.2.3", JSON, "PUT", update, Content_Type=JSON)[0] == 400
