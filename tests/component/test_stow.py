"""STOW-RS (PS3.18 10.5 and Annex I) against the real archive."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import dicom_data
import imagecodecs
import numpy as np
import pytest
from dicomweb_server import EVERYBODY, Web, multipart, serving
from pydicom import dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dicomweb.multipart import Parser
from dicomweb.stow import PREPARING_AT_ONCE, WRITING_AT_ONCE, Intake, Taking
from pacs import uids
from pacs.archive import Archive
from pacs.budget import Budget
from pacs.errors import OutOfResources, Unavailable
from pacs.storage.base import Placed

JSON = "application/dicom+json"


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with serving(tmp_path_factory.mktemp("stow"), max_object_bytes=4 << 20) as web:
        yield web


def fresh(number: int, **attributes: Any) -> Any:
    """An instance of a study of its own."""
    identity = {
        "SOPInstanceUID": uids.derived("stow instance", number),
        "StudyInstanceUID": uids.derived("stow study", number),
        "SeriesInstanceUID": uids.derived("stow series", number),
    }
    return dicom_data.image(number, **(identity | attributes))


def with_uid(ds: Any, old: str, new: bytes) -> bytes:
    """The instance as a file in which one UID has become other bytes."""
    new += b"\0" * (len(new) % 2)
    held = old.encode() + b"\0" * (len(old) % 2)
    raw = dicom_data.part10(ds)
    found = b"UI" + len(held).to_bytes(2, "little") + held
    assert found in raw
    return raw.replace(found, b"UI" + len(new).to_bytes(2, "little") + new)


def study_of(ds: Any) -> str:
    return f"/studies/{ds.StudyInstanceUID}"


def reasons(answer: Any, tag: str = "00081198") -> list[int]:
    return [item["00081197"]["Value"][0] for item in answer.json().get(tag, {}).get("Value", [])]


def test_all_stored(web: Web) -> None:
    slices = list(dicom_data.series(3, study=9))
    answer = web.store(*slices)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == JSON
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert list(body) == sorted(body)
    assert "00081198" not in body
    assert body["00081190"] == {"vr": "UR", "Value": [f"{web.url}/studies/{slices[0].StudyInstanceUID}"]}
    for ds, item in zip(slices, body["00081199"]["Value"], strict=True):
        assert item["00081150"] == {"vr": "UI", "Value": [ds.SOPClassUID]}
        assert item["00081155"] == {"vr": "UI", "Value": [ds.SOPInstanceUID]}
        assert web.client.get(item["00081190"]["Value"][0]).status_code == 200
    found = web.get(f"{study_of(slices[0])}/instances")
    assert len(found.json()) == 3
    assert answer.headers["location"] == web.url + study_of(slices[0])  # PS3.18 Table 10.5.3-2


def test_some_stored_some_not(web: Web) -> None:
    good, bad = fresh(1), fresh(2)
    answer = web.store(good, with_uid(bad, bad.SeriesInstanceUID, b"1.2.no"))
    assert answer.status_code == 202
    assert len(answer.json()["00081199"]["Value"]) == 1
    assert reasons(answer) == [0xC000]
    assert web.get(study_of(good) + "/metadata").status_code == 200
    assert web.get(study_of(bad) + "/metadata").status_code == 404


def test_another_study_than_addressed(web: Web) -> None:
    mine, other = fresh(3), fresh(4)
    refused = web.store(other, path=study_of(mine))
    assert (refused.status_code, reasons(refused)) == (409, [0xA900])
    assert web.store(mine, other, path=study_of(mine)).status_code == 202
    assert web.get(study_of(other) + "/metadata").status_code == 404


def test_the_same_again_and_other_content(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    assert web.store(fresh(5)).status_code == 200
    before = web.get(study_of(fresh(5)) + "/metadata").content
    assert web.store(fresh(5)).status_code == 200
    other = web.store(fresh(5, PatientComments="changed"), fresh(6))
    assert (other.status_code, reasons(other)) == (202, [0x0111])
    assert f"STOW-RS of {fresh(5).SOPInstanceUID} by " in caplog.text
    assert "changed" not in caplog.text
    assert web.store(fresh(5, PatientComments="changed")).status_code == 409
    assert web.get(study_of(fresh(5)) + "/metadata").content == before
    assert len(web.get(study_of(fresh(5)) + "/instances").json()) == 1


def test_one_instance_twice_in_a_body(web: Web) -> None:
    assert web.store(fresh(7), fresh(7)).status_code == 200
    answer = web.store(fresh(8), fresh(8, PatientComments="other"), fresh(9))
    assert (answer.status_code, reasons(answer)) == (202, [0x0111])


def test_ten_clients_store_the_same_at_once(web: Web) -> None:
    codes = []
    clients = [threading.Thread(target=lambda: codes.append(web.store(fresh(10)).status_code)) for _ in range(10)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert codes == [200] * 10
    assert len(web.get(study_of(fresh(10)) + "/instances").json()) == 1


def test_a_part_that_is_no_dicom(web: Web) -> None:
    answer = web.store(b"this is not DICOM" * 20, fresh(11))
    assert answer.status_code == 202
    assert reasons(answer, "0008119A") == [0xC000]
    assert web.store(b"nothing here is DICOM" * 20).status_code == 400


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("text/plain", b"x", 415),
        ("multipart/form-data; boundary=b", b"x", 415),
        ("application/x-www-form-urlencoded", b"a=b", 415),
        ('multipart/related; type="application/pdf"; boundary=b', b"x", 415),
        ('multipart/related; type="application/dicom+xml"; boundary=b', b"x", 400),
        ("application/dicom+json", b"", 400),
        ('multipart/related; type="application/dicom"', b"x", 400),
        ('multipart/related; type="application/dicom"; boundary=b', b"no boundary in it", 400),
        ('multipart/related; type="application/dicom"; boundary=b', b"--b--", 400),
        ('multipart/related; type="application/dicom"; boundary=b', b"", 400),
        ('multipart/related; type="application/dicom"; boundary=b', b"--b\r\n\r\n\r\n--b--", 400),
        ("application/dicom", b"", 400),
        ("application/dicom", b"x" * 500, 400),
    ],
)
def test_bodies_that_are_none(web: Web, content_type: str, body: bytes, status: int) -> None:
    answer = web.client.post("/studies", content=body, headers={"Content-Type": content_type})
    assert answer.status_code == status
    assert answer.headers["content-type"] in ("application/problem+json", JSON)


def test_no_content_type(web: Web) -> None:
    assert web.client.post("/studies", content=b"x").status_code == 415


def test_a_body_without_its_end_stores_nothing(web: Web) -> None:
    first, second = fresh(12), fresh(13)
    body = multipart([dicom_data.part10(first), dicom_data.part10(second)], "b")
    header = {"Content-Type": "multipart/related; type=application/dicom; boundary=b"}
    for cut in (10, 200):
        assert web.client.post("/studies", content=body[:-cut], headers=header).status_code == 400
    for ds in (first, second):
        assert web.get(study_of(ds) + "/instances").status_code == 204


def test_preamble_epilogue_and_parts_without_or_with_odd_types(web: Web) -> None:
    odd = multipart([dicom_data.part10(fresh(14))], "b", "application/dicom; transfer-syntax=1.2.840.10008.1.2.1")
    plain = b"--b\r\n\r\n" + dicom_data.part10(fresh(15)) + b"\r\n"
    body = b"a preamble\r\n" + plain + odd + b"\r\nan epilogue"
    header = {"Content-Type": 'Multipart/Related; Type="application/dicom"; Boundary="b"'}
    answer = web.client.post("/studies", content=body, headers=header)
    assert (answer.status_code, len(answer.json()["00081199"]["Value"])) == (200, 2)


def test_a_chunked_body(web: Web) -> None:
    body = multipart([dicom_data.part10(fresh(16))], "b")
    pieces = (body[i : i + 1000] for i in range(0, len(body), 1000))
    header = {"Content-Type": "multipart/related; type=application/dicom; boundary=b"}
    assert web.client.post("/studies", content=pieces, headers=header).status_code == 200


def test_one_instance_without_multipart(web: Web) -> None:
    ds = fresh(17)
    answer = web.client.post(study_of(ds), content=dicom_data.part10(ds), headers={"Content-Type": "application/dicom"})
    assert answer.status_code == 200
    assert answer.json()["00081199"]["Value"][0]["00081155"]["Value"] == [ds.SOPInstanceUID]
    assert answer.headers["location"] == answer.json()["00081199"]["Value"][0]["00081190"]["Value"][0]


def test_only_what_was_made_in_one_place_has_an_address(web: Web) -> None:
    assert "location" not in web.store(fresh(18), fresh(19)).headers
    assert "location" not in web.store(fresh(18), path=study_of(fresh(19))).headers


@pytest.mark.parametrize("ts", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_every_native_transfer_syntax(web: Web, ts: str) -> None:
    number = 20 + [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian].index(ts)  # type: ignore[arg-type]
    assert web.store(dicom_data.part10(fresh(number), ts)).status_code == 200
    found = web.get(study_of(fresh(number)) + "/metadata").json()
    assert found[0]["00100010"]["Value"] == [{"Alphabetic": "Synthetic^Sam"}]


@pytest.mark.parametrize(
    ("accept", "status", "content_type"),
    [
        (JSON, 200, JSON), ("application/dicom+xml", 200, "application/dicom+xml"), ("*/*", 200, JSON),
        ("image/png", 406, "application/problem+json"),
    ],
)  # fmt: skip
def test_the_answer_is_negotiated(web: Web, accept: str, status: int, content_type: str) -> None:
    answer = web.store(fresh(30), Accept=accept)
    assert (answer.status_code, answer.headers["content-type"]) == (status, content_type)
    if content_type == "application/dicom+xml":
        assert b'keyword="ReferencedSOPSequence"' in answer.content


def test_missing_identifiers(web: Web) -> None:
    for name in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        ds = fresh(31)
        raw = dicom_data.part10(ds).replace(str(getattr(ds, name)).encode(), b" " * len(getattr(ds, name)))
        assert web.store(raw).status_code in (400, 409)


@pytest.mark.parametrize("uid", [b"1.2." + b"3" * 62, b"1.2.a", b"../../etc/passwd", b"1..2", b"1.2 OR 1=1", b"-rf"])
def test_uids_that_are_none(web: Web, uid: bytes) -> None:
    ds = fresh(34)
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        answer = web.store(with_uid(ds, getattr(ds, name), uid), fresh(33))
        assert answer.status_code == 202
        assert reasons(answer) + reasons(answer, "0008119A") == [0xC000]
    assert web.get(study_of(ds) + "/instances").status_code == 204


def test_compressed_request_bodies_are_refused(web: Web) -> None:
    refused = web.store(fresh(35), **{"Content-Encoding": "gzip"})
    assert (refused.status_code, refused.headers["accept-encoding"]) == (415, "identity")
    assert "accept-encoding" not in web.client.post("/studies", content=b"x").headers


def test_too_large(web: Web) -> None:
    large = fresh(36, PixelData=b"\0" * (5 << 20), Rows=1024, Columns=2560)
    assert web.store(fresh(37), large).status_code == 413
    assert web.get(study_of(fresh(37)) + "/instances").status_code == 204
    raw = dicom_data.part10(large)
    assert web.client.post("/studies", content=raw, headers={"Content-Type": "application/dicom"}).status_code == 413


def test_rights(web: Web) -> None:
    assert web.store(fresh(38), **{"X-Test-Rights": "query read"}).status_code == 403
    assert web.get(study_of(fresh(38)) + "/instances").status_code == 204


def test_many_instances_in_one_body(web: Web) -> None:
    slices = list(dicom_data.series(300, study=40))
    answer = web.store(*slices)
    assert answer.status_code == 200
    stored = [item["00081155"]["Value"][0] for item in answer.json()["00081199"]["Value"]]
    assert stored == [ds.SOPInstanceUID for ds in slices]


class Failing:
    """The object store of an archive, with writing that fails."""

    def __init__(self, store: Any, error: Exception) -> None:
        self._store = store
        self._error = error

    def put(self, key: str, spool: Any, *, redo: bool = False, later: bool = False) -> None:
        raise self._error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.mark.parametrize(
    ("error", "status"), [(OutOfResources("no space left"), 507), (Unavailable("cannot be reached"), 503)]
)
def test_a_store_that_cannot_take_it(tmp_path: Path, error: Exception, status: int) -> None:
    def broken(archive: Archive) -> Archive:
        archive.ingest._store = Failing(archive.store, error)  # type: ignore[assignment]
        return replace(archive)

    with serving(tmp_path / "data", replace=broken) as web:
        answer = web.store(fresh(1))
        assert (answer.status_code, reasons(answer)) == (status, [0xA700])
        assert web.get("/studies").status_code == 204


def described(ds: Any, location: str = "pixels") -> bytes:
    """The instance as DICOM JSON with its pixel data elsewhere."""
    metadata = ds.to_json_dict()
    metadata["7FE00010"] = {"vr": "OW", "BulkDataURI": location}
    return json.dumps([metadata]).encode()


def mixed(*found: tuple[str, str, bytes]) -> dict[str, Any]:
    """A body of parts with media type, location and content."""
    body = b"".join(
        f"--b\r\nContent-Type: {kind}\r\nContent-Location: {location}\r\n\r\n".encode() + content + b"\r\n"
        for kind, location, content in found
    )
    header = {"Content-Type": f'multipart/related; type="{JSON}"; boundary=b'}
    return {"content": body + b"--b--", "headers": header}


def test_metadata_and_bulk_data(web: Web) -> None:
    ds = fresh(50, PatientName="Müller^Jörg")
    answer = web.client.post(
        "/studies",
        **mixed((JSON, "", described(ds)), ("application/octet-stream", "pixels", ds.PixelData)),
    )
    assert answer.status_code == 200, answer.text
    raw = web.get(answer.json()["00081199"]["Value"][0]["00081190"]["Value"][0], "application/dicom").content
    back = dcmread(io.BytesIO(raw))
    assert back.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    ds["PixelData"].VR = "OW"
    assert back.to_json_dict() == ds.to_json_dict()


def test_metadata_without_its_bulk_data(web: Web) -> None:
    one, two = fresh(51), fresh(52)
    both = json.loads(described(one)) + json.loads(described(two, "http://169.254.169.254/latest"))
    parts = ((JSON, "", json.dumps(both).encode()), ("application/octet-stream", "pixels", one.PixelData))
    answer = web.client.post("/studies", **mixed(*parts))
    assert (answer.status_code, reasons(answer)) == (202, [0xC000])
    assert web.get(study_of(two) + "/instances").status_code == 204


@pytest.mark.parametrize(
    "metadata", [b"", b"{", b"[" * 10_000, b"[1]", b'[{"0008": 1}]', b'[{"00080018": {"vr": "UI", "Value": [1]}}]']
)
def test_metadata_that_is_none(web: Web, metadata: bytes) -> None:
    assert web.client.post("/studies", **mixed((JSON, "", metadata))).status_code == 400


def test_compressed_bulk_data(web: Web) -> None:
    ds = fresh(53, Rows=16, Columns=16, BitsAllocated=8, BitsStored=8, HighBit=7, PixelData=b"\0" * 256)
    codestream = imagecodecs.jpeg8_encode(np.zeros((16, 16), np.uint8))
    kind = "image/jpeg; transfer-syntax=1.2.840.10008.1.2.4.50"
    answer = web.client.post("/studies", **mixed((JSON, "", described(ds)), (kind, "pixels", codestream)))
    assert answer.status_code == 200, answer.text
    [url] = answer.json()["00081199"]["Value"][0]["00081190"]["Value"]
    frame = web.get(f"{url}/frames/1", "image/jpeg")
    assert frame.status_code == 200
    assert frame.content.rstrip(b"\0") == codestream.rstrip(b"\0")
    unknown = (JSON, "", described(fresh(54))), ("image/jpeg", "pixels", b"no codestream of any kind")
    refused = web.client.post("/studies", **mixed(*unknown))
    assert (refused.status_code, reasons(refused)) == (409, [0xC122])


class OnTheirWay:
    """The object store of an archive, where bytes that may land later do so when they are waited for."""

    def __init__(self, store: Any, fails: int = 0) -> None:
        self._store = store
        self.flying: set[int] = set()
        self.most = self.puts = 0
        self._fails = fails

    def put(self, key: str, spool: Any, *, redo: bool = False, later: bool = False) -> Any:
        placed = self._store.put(key, spool, redo=redo)
        assert later
        self.puts += 1
        number, store = self.puts, self
        self.flying.add(number)
        self.most = max(self.most, len(self.flying))

        class Flying(Placed):
            def land(self) -> None:
                store.flying.discard(number)
                if number == store._fails:
                    raise Unavailable("cannot be written")
                placed.land()

            def wait(self) -> None:
                self.land()
                placed.wait()

            def filed(self) -> None:
                placed.filed()

            def withdraw(self) -> None:
                placed.withdraw()

        return Flying(placed.locator)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_what_the_disk_refuses_later_is_told_of_its_instance_alone(tmp_path: Path) -> None:
    stores = []

    def slow(archive: Archive) -> Archive:
        stores.append(OnTheirWay(archive.store, fails=2))
        archive.ingest._store = stores[0]  # type: ignore[assignment]
        return replace(archive)

    slices = list(dicom_data.series(9, study=41))
    with serving(tmp_path / "data", replace=slow) as web:
        answer = web.store(*slices)
        assert answer.status_code == 202
        assert [item["00081155"]["Value"] for item in answer.json()["00081198"]["Value"]] == [
            [slices[1].SOPInstanceUID]
        ]
        assert len(answer.json()["00081199"]["Value"]) == len(slices) - 1
        assert len(web.get(f"{study_of(slices[0])}/instances").json()) == len(slices) - 1
        [store] = stores
        assert store.puts == len(slices)
        assert store.most == WRITING_AT_ONCE + 1, "each of them holds a buffer"
        broken = multipart([dicom_data.part10(fresh(number)) for number in range(60, 65)], "b")[:-4]
        kind = 'multipart/related; type="application/dicom"; boundary=b'
        assert web.client.post("/studies", content=broken, headers={"Content-Type": kind}).status_code == 400
        assert store.puts == len(slices) + 5
        assert not store.flying, "somebody still owns memory that the disk reads"


class Crowd(ThreadPoolExecutor):
    """Threads, and how many instances were on their way to being prepared at one time."""

    most = now = 0

    def submit(self, *work: Any, **more: Any) -> Future[Any]:
        self.now += 1
        self.most = max(self.most, self.now)
        future = super().submit(*work, **more)
        future.add_done_callback(self._left)
        return future

    def _left(self, _: Future[Any]) -> None:
        self.now -= 1


def test_many_small_parts_are_taken_a_few_at_a_time(web: Web) -> None:
    small = dicom_data.part10(dicom_data.image(1, 2, 2))
    count = 8 * PREPARING_AT_ONCE
    with Crowd(count) as crowd:
        taking = Taking(web.archive, Intake(web.archive, EVERYBODY, None), Parser("b"), crowd, Budget(0))
        taking.feed([multipart([small] * count, "b")])
        stored = taking.finish()
        taking.close()
    assert len(stored) == count
    assert crowd.most <= PREPARING_AT_ONCE + 1, "each of them holds a buffer"  # one may be over and not counted yet


def test_what_is_on_its_way_to_the_disk_is_counted_and_given_back(web: Web) -> None:
    room = Budget(1)
    for first, tail in ((70, 0), (80, 4)):
        taking = Taking(web.archive, Intake(web.archive, EVERYBODY, None), Parser("b"), None, room)
        body = multipart([dicom_data.part10(fresh(number)) for number in range(first, first + 4)], "b")
        taking.feed([body[: len(body) - tail]])
        assert room.left == 0
        if not tail:
            assert len(taking.finish()) == 4
        taking.close()
        assert room.left == 1
