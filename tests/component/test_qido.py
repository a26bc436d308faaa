"""QIDO-RS (PS3.18 10.6) and what all resources share, against the real archive."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import dicom_data
import pytest
from dicomweb_server import Web, parts, serving
from pydicom import Dataset

from dicomweb.app import Endpoint, create
from dicomweb.dispatch import Service
from dicomweb.routes import TABLE
from pacs import uids

JSON = "application/dicom+json"
XML = "application/dicom+xml"
NATIVE = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"
STUDY_TAGS = [
    "00080020", "00080030", "00080050", "00080061", "00080090", "00081190", "00100010", "00100020", "00100030",
    "00100040", "0020000D", "00200010", "00201206", "00201208",
]  # fmt: skip


def objects() -> Iterator[Dataset]:
    """Five studies: 0 with two series (CT, SR), the others with one CT slice each."""
    yield from dicom_data.series(2, study=0, PatientID="P0", PatientName="Doe^John", StudyDate="20240101")
    person = {"PatientID": "P0", "PatientName": "Doe^John", "StudyDate": "20240101"}
    yield from dicom_data.series(1, study=0, number=1, Modality="SR", SeriesDescription=None, **person)
    names = ["Doe^Jane", "山田^太郎", "", "Roe^Richard"]
    dates = ["20240110", "20240131", "20240201", None]
    for n, (name, date) in enumerate(zip(names, dates, strict=True), 1):
        yield from dicom_data.series(1, study=n, PatientID=f"P{n}", PatientName=name, StudyDate=date)


def study(number: int) -> str:
    return uids.derived("study", number)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with serving(tmp_path_factory.mktemp("qido")) as web:
        assert web.store(*objects()).status_code == 200
        yield web


def found(web: Web, path: str, tag: str = "00100020", **query: Any) -> set[str]:
    answer = web.get(path, params=query)
    assert answer.status_code in (200, 204), answer.text
    return {item[tag]["Value"][0] for item in answer.json()} if answer.status_code == 200 else set()


def test_studies(web: Web) -> None:
    answer = web.get("/studies")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == JSON
    assert answer.headers["x-content-type-options"] == "nosniff"
    items = answer.json()
    assert len(items) == 5
    for item in items:
        assert list(item) == sorted(item)
        assert set(STUDY_TAGS) <= set(item)
        [url] = item["00081190"]["Value"]
        assert url == f"{web.url}/studies/{item['0020000D']['Value'][0]}"
        assert web.client.get(url).status_code == 200
    [first] = [item for item in items if item["00100020"]["Value"] == ["P0"]]
    assert (first["00201206"]["Value"], first["00201208"]["Value"]) == ([2], [3])
    assert sorted(first["00080061"]["Value"]) == ["CT", "SR"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"PatientID": "P0"}, {"P0"}), ({"00100020": "P0"}, {"P0"}), ({"PatientID": "p0"}, set()),
        ({"PatientName": "*"}, {"P0", "P1", "P2", "P3", "P4"}), ({"PatientName": "doe*"}, {"P0", "P1"}),
        ({"PatientName": "Do?^J*"}, {"P0", "P1"}), ({"PatientName": "山田*"}, {"P2"}),
        ({"StudyDate": "20240101-20240131"}, {"P0", "P1", "P2"}), ({"StudyDate": "-20240101"}, {"P0"}),
        ({"StudyDate": "20240131-"}, {"P2", "P3"}), ({"ModalitiesInStudy": "SR"}, {"P0"}),
        ({"ModalitiesInStudy": "C*"}, {"P0", "P1", "P2", "P3", "P4"}),
        ({"PatientID": "P0", "PatientName": "Roe*"}, set()),
        ({"StudyInstanceUID": f"{study(1)},{study(2)}"}, {"P1", "P2"}),
        ({"StudyInstanceUID": f"{study(1)}\\{study(2)}"}, {"P1", "P2"}),
        ({"PatientName": '""', "emptyvaluematching": "true"}, {"P3"}),
        ({"Modality": "SR"}, {"P0"}), ({"foo": "bar"}, {"P0", "P1", "P2", "P3", "P4"}),
        ({"PatientID": "' OR 1=1 --"}, set()), ({"PatientName": "%"}, set()), ({"PatientName": "_*"}, set()),
    ],
)  # fmt: skip
def test_matching(web: Web, query: dict[str, str], expected: set[str]) -> None:
    assert found(web, "/studies", **query) == expected


def test_percent_encoding_is_decoded_once(web: Web) -> None:
    for raw in ("PatientName=%2A", "PatientName=*", "PatientName=Doe%5EJ%2A&fuzzymatching=false"):
        assert web.client.get(f"/studies?{raw}").status_code == 200
    assert web.client.get("/studies?PatientName=%252A").status_code == 204
    assert web.client.get("/studies?PatientName=%FF").status_code == 400


@pytest.mark.parametrize(
    ("path", "count"),
    [
        ("/series", 6), ("/instances", 7), ("/studies/{}/series", 2), ("/studies/{}/instances", 3),
        ("/studies/{}/series/{}/instances", 2), ("/series?Modality=SR", 1), ("/instances?PatientID=P0", 3),
    ],
)  # fmt: skip
def test_the_other_resources(web: Web, path: str, count: int) -> None:
    answer = web.get(path.format(study(0), uids.derived("series", 0, 0)))
    assert len(answer.json()) == count
    for item in answer.json():
        [url] = item["00081190"]["Value"]
        assert web.client.get(url).status_code == 200


def test_attributes_of_upper_levels_in_relational_searches(web: Web) -> None:
    series = web.get("/series").json()[0]
    assert {"00080060", "0020000E", "00200011", "00201209", *STUDY_TAGS} <= set(series)
    instance = web.get("/instances").json()[0]
    assert {"00080016", "00080018", "00200013", "00280010", "00280011", "00080060", "00100020"} <= set(instance)


def test_the_timezone_is_returned_at_every_level_where_it_is_known(web: Web) -> None:
    with_zone = dicom_data.image(1, StudyInstanceUID="1.2.77", SOPInstanceUID="1.2.77.1", TimezoneOffsetFromUTC="+0100")
    assert web.store(with_zone).status_code == 200
    try:
        for path in ("/studies", "/series", "/studies/1.2.77/series", "/instances", "/studies/1.2.77/instances"):
            [found] = web.get(path, params={"StudyInstanceUID": "1.2.77"} if "1.2.77" not in path else None).json()
            assert found["00080201"] == {"vr": "SH", "Value": ["+0100"]}, path
            assert list(found) == sorted(found)
        assert "00080201" not in web.get(f"/studies/{study(1)}/instances").json()[0]
    finally:
        assert web.client.delete("/studies/1.2.77").status_code == 204


def test_includefield(web: Web) -> None:
    def tags(path: str, query: str) -> set[str]:
        return set(web.client.get(f"{path}?{query}").json()[0])

    assert "00081030" not in tags("/studies", "")
    by_keyword, by_tag = tags("/studies", "includefield=StudyDescription"), tags("/studies", "includefield=00081030")
    assert by_keyword == by_tag
    assert "00081030" in by_tag
    path = f"/studies/{study(0)}/series"
    both = {"0008103E", "00200052"}
    assert both <= tags(path, "includefield=0008103E%2C00200052")
    assert both <= tags(path, "includefield=0008103E&includefield=FrameOfReferenceUID")
    assert "00200052" not in tags("/studies", "includefield=FrameOfReferenceUID")
    assert "00280002" not in tags("/series", "includefield=SamplesPerPixel")
    assert "00081030" in tags("/studies", "includefield=all")
    assert "00081030" in tags("/studies", "StudyDescription=Synthetic*")
    assert tags("/studies", "includefield=NoSuchThing") == tags("/studies", "")


def test_paging(web: Web) -> None:
    whole = web.get("/studies").json()
    assert web.get("/studies").json() == whole
    answer = web.get("/studies", params={"limit": 2})
    assert answer.json() == whole[:2]
    assert answer.headers["warning"].startswith(f"299 {web.url}: There are 3 additional results")
    pages = [web.get("/studies", params={"limit": 2, "offset": at}).json() for at in (0, 2, 4)]
    assert [item for page in pages for item in page] == whole
    for query in ({"limit": 0}, {"offset": 5}, {"offset": 500, "limit": 5}, {"PatientID": "nobody"}):
        answer = web.get("/studies", params=query)
        assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize(
    "query",
    [
        "limit=abc", "limit=-1", "offset=-1", "limit=1&limit=2", "PatientID=1&PatientID=2", "StudyDate=2024-01-01",
        "StudyDate=-", "fuzzymatching=maybe", "StudyInstanceUID=1.2.*", "&".join(f"x{i}=1" for i in range(300)),
    ],
)  # fmt: skip
def test_nonsense_is_refused(web: Web, query: str) -> None:
    answer = web.client.get(f"/studies?{query}")
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 400


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"PatientName": "jane DO", "fuzzymatching": "true"}, set()),
        ({"PatientName": "jon doe", "fuzzymatching": "true"}, {"P0", "P1"}),
        ({"PatientName": "*oe*", "fuzzymatching": "true"}, {"P0", "P1", "P4"}),
        ({"PatientID": "P0\\P3", "multiplevaluematching": "true"}, {"P0", "P3"}),
        ({"PatientName": 'Roe*\\""', "emptyvaluematching": "true", "multiplevaluematching": "true"}, {"P3", "P4"}),
        ({"NumberOfStudyRelatedSeries": "2"}, {"P0"}),
        ({"ProcedureCodeSequence.CodeValue": "NONE"}, set()),
        ({"StudyDate": "20240101-20240131", "StudyTime": "000000-235959"}, {"P0", "P1", "P2"}),
    ],
)
def test_matching_that_was_asked_for(web: Web, query: dict[str, str], expected: set[str]) -> None:
    answer = web.get("/studies", params=query)
    assert "warning" not in answer.headers
    assert ({item["00100020"]["Value"][0] for item in answer.json()} if answer.content else set()) == expected


def test_nothing_of_the_query_gets_into_the_header(web: Web) -> None:
    for name in ("00080005.%0D%0ASet-Cookie:%20a=b", "00180060.%E5%B1%B1"):
        answer = web.client.get(f"/studies?{name}=1")
        assert answer.status_code == 200
        assert "set-cookie" not in answer.headers
        assert answer.headers["warning"].endswith(" cannot be matched here and has been ignored.")


@pytest.mark.parametrize(
    ("accept", "status", "content_type"),
    [
        (JSON, 200, JSON), (f"{JSON}, application/json", 200, JSON), ("application/json", 200, JSON),
        ("foo/bar, Application/DICOM+JSON", 200, JSON), ("image/jpeg", 406, "application/problem+json"),
        (f"{JSON};q=0", 406, "application/problem+json"), ("", 200, JSON),
    ],
)  # fmt: skip
def test_negotiation(web: Web, accept: str, status: int, content_type: str) -> None:
    answer = web.get("/studies", accept)
    assert (answer.status_code, answer.headers["content-type"]) == (status, content_type)


def test_the_accept_parameter_comes_first(web: Web) -> None:
    assert web.get("/studies?accept=application/dicom%2Bjson", XML).headers["content-type"] == JSON
    assert web.get("/studies?accept=image/foo", JSON).headers["content-type"] == JSON


def test_xml(web: Web) -> None:
    answer = web.get("/studies", f'multipart/related; type="{XML}"')
    found = parts(answer)
    assert len(found) == 5
    for headers, content in found:
        assert headers["content-type"] == XML
        root = ElementTree.fromstring(content)  # our own bytes
        assert root.tag == f"{NATIVE}NativeDicomModel"
        keywords = [attribute.get("keyword") for attribute in root]
        assert "StudyInstanceUID" in keywords
    one = web.get("/studies", XML, params={"PatientID": "P2"})
    assert one.headers["content-type"] == XML
    name = ElementTree.fromstring(one.content).find(f"{NATIVE}DicomAttribute[@tag='00100010']/{NATIVE}PersonName")
    assert name is not None
    assert [each.text for each in name.iter() if each.text] == ["山田", "太郎"]


def test_gzip_where_the_client_takes_it(web: Web) -> None:
    plain = web.get("/studies", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    with web.client.stream("GET", "/studies", headers={"Accept-Encoding": "gzip"}) as answer:
        raw = b"".join(answer.iter_raw())
        assert answer.headers["content-encoding"] == "gzip"
    assert gzip.decompress(raw) == plain.content
    xml = web.get("/studies", XML, headers={"Accept-Encoding": "gzip"})
    assert (xml.headers["content-encoding"], xml.headers["vary"]) == ("gzip", "Accept, Accept-Encoding")
    assert len(parts(xml)) == len(plain.json())
    small = web.get("/studies", params={"limit": 1}, headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in small.headers


def test_head(web: Web) -> None:
    head, get = web.client.head("/studies"), web.client.get("/studies")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


def test_what_is_not_there(web: Web) -> None:
    assert web.get("/studies/").json() == web.get("/studies").json()  # a slash at the end makes no other resource
    for path in ("/nothing", "/studies//series", "/studies/1.2/nothing"):
        answer = web.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json"), path
    put = web.client.put("/studies")
    assert (put.status_code, put.headers["allow"]) == (405, "GET, HEAD, OPTIONS, POST")
    assert web.get("/studies/not-a-uid/series").status_code == 400
    assert web.get("/studies/1.2.3/series").status_code == 204


def test_rights(web: Web) -> None:
    answer = web.get("/studies", headers={"X-Test-Rights": "store"})
    assert answer.status_code == 403
    assert "P0" not in answer.text


def test_links_follow_the_host_that_was_asked(web: Web) -> None:
    answer = web.get("/studies", params={"limit": 1}, headers={"Host": "pacs.example:8443"})
    assert answer.json()[0]["00081190"]["Value"][0].startswith("http://pacs.example:8443/dicom-web/studies/")
    host, port = web.url.removeprefix("http://").removesuffix("/dicom-web").split(":")
    without = web.get("/studies", params={"limit": 1}, headers={"Host": host})
    assert without.json()[0]["00081190"]["Value"][0].startswith(web.url)
    proxied = web.get("/studies", params={"limit": 1}, headers={"Host": host, "X-Forwarded-For": "10.0.0.1"})
    assert proxied.json()[0]["00081190"]["Value"][0].startswith(f"http://{host}/dicom-web/")
    for hostile in (b'evil"x', b"a/b", b"a b", b"a@b", b"[::1", b"a:b", b""):
        with socket.create_connection((host, int(port)), timeout=10) as peer:
            peer.sendall(b"GET /dicom-web/studies HTTP/1.1\r\nConnection: close\r\nHost: " + hostile + b"\r\n\r\n")
            assert peer.makefile("rb").read().startswith(b"HTTP/1.1 400"), hostile


def test_the_configured_url_wins(web: Web, tmp_path_factory: pytest.TempPathFactory) -> None:
    with serving(tmp_path_factory.mktemp("public"), public_url="https://pacs.example/imaging/") as public:
        assert public.store(dicom_data.image()).status_code == 200
        [url] = public.get("/studies", headers={"Host": "evil.example"}).json()[0]["00081190"]["Value"]
        assert url.startswith("https://pacs.example/imaging/dicom-web/studies/")


def test_visible_at_once_and_gone_at_once(web: Web) -> None:
    [ds] = dicom_data.series(1, study=77)
    assert web.store(ds).status_code == 200
    assert len(web.get("/studies", params={"StudyInstanceUID": study(77)}).json()) == 1
    path = f"/studies/{study(77)}"
    assert web.client.delete(path, headers={"X-Test-Rights": "query read store"}).status_code == 403
    assert web.client.delete(path).status_code == 204
    assert web.get("/studies", params={"StudyInstanceUID": study(77)}).status_code == 204
    assert web.get(path).status_code == 404
    assert web.client.delete(path).status_code == 404


def test_the_table_is_what_is_routed(web: Web) -> None:
    [service] = [route for route in create(web.archive, root="/x", renditions={}) if isinstance(route, Service)]
    for row in TABLE:
        found = service.find(row.path)
        assert isinstance(found, Endpoint), row.path
        assert (found.path, found.rows[row.method]) == (row.path, row)
    assert service.find("/nothing") is None
    assert service.find("/studies//series") is None
