"""Capabilities (PS3.18 8.9, Annex H): everything in the routes table is told, and nothing else; rights; links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from dicomweb_server import Web, serving
from lxml import etree

from dicomweb.parameters import TABLE as PARAMETERS
from dicomweb.routes import SOCKETS, TABLE, UNSUPPORTED, Row
from pacs.auth import ALL_RIGHTS

WADL = "application/vnd.sun.wadl+xml"
NS = {"w": "http://wadl.dev.java.net/2009/02"}
UID = "1.2.3"


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with serving(tmp_path_factory.mktemp("capabilities"), trusted_proxies=("127.0.0.0/8",)) as web:
        yield web


def methods(tree: etree._Element) -> dict[tuple[str, str], etree._Element]:
    """(method, path template) of everything described; UPGRADE where it is a GET that opens a WebSocket."""
    found = {}
    for method in tree.iterfind(".//w:method", NS):
        upgrades = method.find("w:request/w:param[@name='Upgrade']", NS) is not None
        path = [node.get("path").strip("/") for node in method.iterancestors(f"{{{NS['w']}}}resource")]
        found[
            "UPGRADE" if upgrades else method.get("name"), "/" + "/".join(reversed([part for part in path if part]))
        ] = method
    return found


def plain(path: str) -> str:
    return path.replace(":path}", "}")


def concrete(path: str) -> str:
    """A path with a UID in place of each template."""
    return re.sub(r"\{[^}]+\}", UID, path).replace("/frames/" + UID, "/frames/1")


def test_the_description_is_the_table(web: Web) -> None:
    answer = web.client.request("OPTIONS", "/", headers={"Accept": WADL})
    assert (answer.status_code, answer.headers["content-type"]) == (200, WADL)
    tree = etree.fromstring(answer.content)
    assert tree.tag == f"{{{NS['w']}}}application"
    assert [node.get("base") for node in tree.iterfind("w:resources", NS)] == [web.url + "/"]
    found = methods(tree)
    assert set(found) == {(row.method, plain(row.path)) for row in TABLE} | {("UPGRADE", row.path) for row in SOCKETS}
    ids = [node.get("id") for node in tree.iter(f"{{{NS['w']}}}method")]
    assert len(set(ids)) == len(ids)
    for row in TABLE:
        method = found[row.method, plain(row.path)]
        names = {node.get("name") for node in method.iterfind("w:request/w:param", NS)}
        assert names >= set(row.parameters)
        taken = [node.get("mediaType") for node in method.iterfind("w:request/w:representation", NS)]
        given = [node.get("mediaType") for node in method.iterfind("w:response/w:representation", NS)]
        assert (taken, given) == (list(row.payloads), list(row.media_types))
        assert set(row.parameters) <= set(PARAMETERS)
    templates = {node.get("name") for node in tree.iterfind(".//w:param[@style='template']", NS)}
    assert templates >= {"study", "series", "instance", "frames", "workitem"}
    keys = {n.get("name") for n in found["GET", "/studies"].iterfind("w:request/w:param", NS)}
    assert keys >= {"PatientName", "StudyDate", "ModalitiesInStudy", "fuzzymatching", "emptyvaluematching"}
    assert "SOPInstanceUID" not in keys


def test_json_says_the_same(web: Web) -> None:
    answer = web.client.request("OPTIONS", "", headers={"Accept": "application/json"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    (resources,) = answer.json()["application"]["resources"]

    def walk(path: str, nodes: list[dict]) -> Iterator[tuple[str, str]]:
        for node in nodes:
            here = f"{path}/{node['path'].strip('/')}".rstrip("/")
            for method in node.get("method", []):
                upgrades = method.get("request", [{}])[0].get("param", [{}])[0].get("name") == "Upgrade"
                yield "UPGRADE" if upgrades else method["name"], here or "/"
            yield from walk(here, node.get("resource", []))

    expected = {(row.method, plain(row.path)) for row in TABLE} | {("UPGRADE", row.path) for row in SOCKETS}
    assert set(walk("", resources["resource"])) == expected


@pytest.mark.parametrize("accept", ["*/*", "application/*", "text/plain;q=1, application/vnd.sun.wadl+xml;q=0.1"])
def test_wadl_is_the_default(web: Web, accept: str) -> None:
    answer = web.client.request("OPTIONS", "/", headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, WADL)


def test_what_cannot_be_told_is_406(web: Web) -> None:
    assert web.client.request("OPTIONS", "/", headers={"Accept": "image/png"}).status_code == 406


@pytest.mark.parametrize("path", sorted({row.path for row in TABLE}))
def test_every_resource_says_what_it_allows(web: Web, path: str) -> None:
    rows = [row for row in TABLE if row.path == path]
    expected = (
        {row.method for row in rows} | {"OPTIONS"} | ({"HEAD"} if any(r.method == "GET" for r in rows) else set())
    )
    answer = web.client.request("OPTIONS", concrete(path), headers={"Accept": WADL})
    assert answer.status_code == 200
    assert set(answer.headers["allow"].split(", ")) == expected
    own = {key for key in methods(etree.fromstring(answer.content)) if key[0] != "UPGRADE"}
    below = plain(path)
    everything = {(row.method, plain(row.path)) for row in TABLE}
    assert own == {(method, each) for method, each in everything if each == below or each.startswith(below + "/")}
    no_wadl = web.client.request("OPTIONS", concrete(path), headers={"Accept": "application/dicom+json"})
    assert (no_wadl.status_code, no_wadl.headers["allow"], no_wadl.content) == (204, answer.headers["allow"], b"")
    wrong = web.client.request("PATCH", concrete(path))
    assert (wrong.status_code, wrong.headers["allow"]) == (405, answer.headers["allow"])
    assert wrong.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.method} {row.path}")
def test_nobody_gets_further_without_the_right_of_the_table(web: Web, row: Row) -> None:
    others = " ".join(right for right in ALL_RIGHTS if right != row.right)
    answer = web.client.request(row.method, concrete(row.path), headers={"X-Test-Rights": others})
    assert answer.status_code == 403
    allowed = web.client.request(row.method, concrete(row.path), headers={"X-Test-Rights": row.right})
    assert allowed.status_code != 403


def test_what_is_not_here_is_404(web: Web) -> None:
    for path in ("/nowhere", "/modality-scheduled-procedure-steps", "/studies/1.2/nothing"):
        for method in ("GET", "OPTIONS", "POST"):
            answer = web.client.request(method, path)
            assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


def base_of(web: Web, **headers: str) -> str:
    answer = web.client.request("OPTIONS", "/", headers={"Accept": "application/json", **headers})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["application"]["resources"][0]["base"])


def test_links_are_those_of_the_proxy_that_is_trusted(web: Web, tmp_path: pytest.TempPathFactory) -> None:
    told = {
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "forged.example, pacs.example",
        "X-Forwarded-Port": "8443",
    }
    assert base_of(web, **told) == "https://pacs.example:8443/dicom-web/"
    assert base_of(web, **told, **{"X-Forwarded-Prefix": "/imaging/"}) == "https://pacs.example:8443/imaging/dicom-web/"
    assert base_of(web, Forwarded='for=10.0.0.1, for="[::1]";proto=https;host="h.example:444"') == (
        "https://h.example:444/dicom-web/"
    )
    assert base_of(web, Host="asked.example") == "http://asked.example/dicom-web/"
    for wrong in ({"X-Forwarded-Host": 'x"><a'}, {"X-Forwarded-Prefix": "/a b"}, {"Host": "a/b"}):
        answer = web.client.request("OPTIONS", "/", headers={"Accept": "application/json", **wrong})
        assert answer.status_code == 400


def test_links_of_nobody_else_s_making(tmp_path_factory: pytest.TempPathFactory) -> None:
    told = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "forged.example", "Host": "asked.example:81"}
    with serving(tmp_path_factory.mktemp("asked"), trusted_proxies=("192.0.2.0/24", "2001:db8::/32")) as web:
        assert base_of(web, **told) == "http://asked.example:81/dicom-web/"
    with serving(tmp_path_factory.mktemp("fixed"), public_url="https://public.example/pacs/") as web:
        assert base_of(web, **told) == "https://public.example/pacs/dicom-web/"


def test_the_page_names_every_resource() -> None:
    page = (Path(__file__).parents[2] / "docs/dicomweb.md").read_text()
    study, series, instance = ("/studies/{study}", "/series/{series}", "/instances/{instance}")
    for row in TABLE:
        path = plain(row.path)
        below = path.removeprefix(study).removeprefix(series).removeprefix(instance)
        endings = [f"`{below}`", f"`{instance}{below}`"] if path.startswith(study) and below else []
        levels = row.method == "GET" and path in (study, study + series, study + series + instance)
        named = any(each in page for each in (f"`{row.method} {path}", *endings))
        assert levels or named, f"docs/dicomweb.md does not tell of {row.method} {path}"
    for socket in SOCKETS:
        assert socket.path == "/" or f"{socket.path}`" in page or f"{socket.path}?" in page
    for service in UNSUPPORTED:
        assert f"(chapter {service.section})" in page
