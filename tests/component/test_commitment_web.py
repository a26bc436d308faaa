"""Storage commitment over the web (PS3.18 13, Annex J) against what is really stored."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import dicom_data
import httpx
import pytest
from dicomweb_server import Web, parts, serving
from pydicom import Dataset

from dicomweb import commitment, xml_input, xml_model
from pacs import uids
from pacs.committing import Committing, Fetched

JSON = "application/dicom+json"
XML = "application/dicom+xml"
PATIENCE_S = 60


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with serving(tmp_path_factory.mktemp("commitment")) as web:
        archive = web.archive
        made = Committing(archive.commitments, archive.index, archive.uncached_store)
        made.add_reporter(commitment.DOOR, Fetched())
        try:
            yield web
        finally:
            made.close()


@pytest.fixture(scope="module")
def held(web: Web) -> list[Dataset]:
    """Two series of one study, two instances each."""
    datasets = [*dicom_data.series(2, study=5), *dicom_data.series(2, study=5, number=1)]
    assert web.store(*datasets).status_code == 200
    return datasets


def reference(ds: Dataset, **other: str) -> dict[str, Any]:
    return {
        "00081150": {"vr": "UI", "Value": [other.get("sop_class", str(ds.SOPClassUID))]},
        "00081155": {"vr": "UI", "Value": [other.get("uid", str(ds.SOPInstanceUID))]},
    }


def flat(*references: dict[str, Any]) -> dict[str, Any]:
    return {"00081199": {"vr": "SQ", "Value": list(references)}}


def ui(uid: str) -> dict[str, Any]:
    return {"vr": "UI", "Value": [uid]}


def ask(web: Web, payload: dict[str, Any], transaction: str | None = None, **headers: str) -> httpx.Response:
    path = f"/commitment-requests/{transaction or uids.new()}"
    return web.client.post(path, json=payload, headers={"Content-Type": JSON, **headers})


def answered(web: Web, payload: dict[str, Any]) -> dict[str, Any]:
    """The result, at once or by coming back for it."""
    answer = ask(web, payload)
    until = time.monotonic() + PATIENCE_S
    while answer.status_code == 202:
        assert (answer.content, answer.headers["retry-after"]) == (b"", "5")
        assert time.monotonic() < until
        time.sleep(0.1)
        answer = web.client.get(answer.request.url)
    assert (answer.status_code, answer.headers["content-type"]) == (200, JSON), answer.text
    [module] = answer.json()
    again = web.client.get(answer.request.url)
    assert again.json() == [module]
    return module


def test_known_unknown_and_of_another_class(web: Web, held: list[Dataset]) -> None:
    unknown = uids.new()
    module = answered(web, flat(
        reference(held[0]), reference(held[1]), reference(held[2], uid=unknown),
        reference(held[3], sop_class="1.2.840.10008.5.1.4.1.1.4"),
    ))  # fmt: skip
    committed = [item["00081155"]["Value"][0] for item in module["00081199"]["Value"]]
    assert committed == [held[0].SOPInstanceUID, held[1].SOPInstanceUID]
    failed = {item["00081155"]["Value"][0]: item["00081197"]["Value"][0] for item in module["00081198"]["Value"]}
    assert failed == {unknown: 0x0112, held[3].SOPInstanceUID: 0x0119}
    assert "00081195" not in module  # it stands in the address (13.4.1.1)


def test_bytes_are_read_before_it_is_said(web: Web) -> None:
    sound, spoilt = dicom_data.image(77), dicom_data.image(78, ImageComments="here a bit will fall over")
    assert web.store(sound, spoilt).status_code == 200
    found = 0
    for path in web.archive.settings.data.rglob("*"):
        content = path.read_bytes() if path.is_file() and "index" not in path.name else b""
        if (at := content.find(b"a bit will fall over")) >= 0:
            found += 1
            with path.open("r+b") as file:
                file.seek(at)
                file.write(b"A")
    assert found
    module = answered(web, flat(reference(sound), reference(spoilt)))
    assert [item["00081155"]["Value"][0] for item in module["00081199"]["Value"]] == [sound.SOPInstanceUID]
    [failed] = module["00081198"]["Value"]
    assert (failed["00081155"]["Value"][0], failed["00081197"]["Value"][0]) == (spoilt.SOPInstanceUID, 0x0110)


def by_study(ds: Dataset, instances: list[Dataset], *, level: str = "instance") -> dict[str, Any]:
    """A request by study, series and class that is spelt out down to `level`."""
    study: dict[str, Any] = {"0020000D": ui(str(ds.StudyInstanceUID))}
    series: dict[str, Any] = {"0020000E": ui(str(ds.SeriesInstanceUID))}
    of_class: dict[str, Any] = {"00081150": ui(str(ds.SOPClassUID))}
    if level == "instance":
        of_class["0008114A"] = {"vr": "SQ", "Value": [{"00081155": ui(str(each.SOPInstanceUID))} for each in instances]}
    if level in ("class", "instance"):
        series["00081112"] = {"vr": "SQ", "Value": [of_class]}
    if level != "study":
        study["00081115"] = {"vr": "SQ", "Value": [series]}
    return {"00081110": {"vr": "SQ", "Value": [study]}}


def tree(module: dict[str, Any], tag: str) -> dict[str, Any]:
    """{study: {series: {class: {instance: failure reason or None}}}}"""

    def under(item: dict[str, Any], sequence: str) -> list[dict[str, Any]]:
        return item.get(sequence, {}).get("Value", [])

    return {
        study["0020000D"]["Value"][0]: {
            series["0020000E"]["Value"][0]: {
                of_class["00081150"]["Value"][0]: {
                    each["00081155"]["Value"][0]: each.get("00081197", {}).get("Value", [None])[0]
                    for each in under(of_class, "0008114A")
                }
                for of_class in under(series, "00081112")
            }
            for series in under(study, "00081115")
        }
        for study in under(module, tag)
    }


def test_by_study_series_and_class(web: Web, held: list[Dataset]) -> None:
    one, two, other, _ = held
    payload = by_study(one, [one, two, other])  # which is in another series
    module = answered(web, payload)
    assert "00081199" not in module
    sop_class = str(one.SOPClassUID)
    expected = {sop_class: {str(one.SOPInstanceUID): None, str(two.SOPInstanceUID): None}}
    assert tree(module, "00081110") == {one.StudyInstanceUID: {one.SeriesInstanceUID: expected}}
    assert tree(module, "0008119B") == {
        one.StudyInstanceUID: {one.SeriesInstanceUID: {sop_class: {str(other.SOPInstanceUID): 0x0112}}}
    }


@pytest.mark.parametrize(("level", "count"), [("study", 4), ("series", 2), ("class", 2)])
def test_whatever_is_stored_there(web: Web, held: list[Dataset], level: str, count: int) -> None:
    module = answered(web, by_study(held[0], [], level=level))
    [series] = tree(module, "00081110").values()
    committed = [uid for classes in series.values() for found in classes.values() for uid in found]
    assert sorted(committed) == sorted(str(ds.SOPInstanceUID) for ds in held[:count])
    assert "0008119B" not in module


def test_a_study_that_is_not_here(web: Web, held: list[Dataset]) -> None:
    unknown = Dataset()
    unknown.StudyInstanceUID = unknown.SeriesInstanceUID = uids.new()
    unknown.SOPClassUID = held[0].SOPClassUID
    for level in ("study", "series", "class"):
        module = answered(web, by_study(unknown, [], level=level))
        assert list(module) == ["0008119B"]
        [item] = module["0008119B"]["Value"]
        for sequence in {"study": (), "series": ("00081115",), "class": ("00081115", "00081112")}[level]:
            [item] = item[sequence]["Value"]
        assert item["00081197"]["Value"] == [0x0112]


def test_a_transaction_uid_is_used_once(web: Web, held: list[Dataset]) -> None:
    transaction, payload = uids.new(), flat(reference(held[0]))
    codes: list[int] = []
    asking = [
        threading.Thread(target=lambda: codes.append(ask(web, payload, transaction).status_code)) for _ in range(3)
    ]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(PATIENCE_S)
    assert sorted(codes)[0] in (200, 202)
    assert sorted(codes)[1:] == [409, 409]


def test_in_xml(web: Web, held: list[Dataset]) -> None:
    transaction = uids.new()
    answer = web.client.post(
        f"/commitment-requests/{transaction}", content=xml_model.dumps(flat(reference(held[0]))),
        headers={"Content-Type": XML, "Accept": XML},
    )  # fmt: skip
    until = time.monotonic() + PATIENCE_S
    while answer.status_code == 202 and time.monotonic() < until:
        answer = web.get(f"/commitment-requests/{transaction}", XML)
    assert (answer.status_code, answer.headers["content-type"]) == (200, XML)
    module = xml_input.loads(answer.content)
    assert module["00081199"]["Value"][0]["00081155"]["Value"] == [str(held[0].SOPInstanceUID)]
    [(head, content)] = parts(web.get(f"/commitment-requests/{transaction}", f'multipart/related; type="{XML}"'))
    assert (head["content-type"], xml_input.loads(content)) == (XML, module)


@pytest.mark.parametrize(
    "payload",
    [
        {}, {"00081199": {"vr": "SQ"}}, {"00081199": {"vr": "SQ", "Value": [{}]}},
        {"00081199": {"vr": "SQ", "Value": [{"00081150": {"vr": "UI", "Value": ["1.2"]}}]}},
        {"00081199": {"vr": "SQ", "Value": [{"00081150": ui("1.2"), "00081155": ui("no uid")}]}},
        {"00081110": {"vr": "SQ", "Value": [{}]}},
        {"00081195": ui("1.2.3"), "00081199": {"vr": "SQ", "Value": [{"00081150": ui("1.2"), "00081155": ui("1.3")}]}},
    ],
)  # fmt: skip
def test_requests_that_are_none(web: Web, payload: dict[str, Any]) -> None:
    answer = ask(web, payload)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")


def test_what_else_is_refused(web: Web, held: list[Dataset], monkeypatch: pytest.MonkeyPatch) -> None:
    payload = flat(reference(held[0]))
    assert ask(web, payload, "no-uid").status_code == 400
    assert web.client.get(f"/commitment-requests/{uids.new()}").status_code == 404
    assert ask(web, payload, Accept="image/png").status_code == 406
    assert web.client.post(f"/commitment-requests/{uids.new()}", content=b"x").status_code == 415
    assert ask(web, payload, **{"X-Test-Rights": "query"}).status_code == 403
    monkeypatch.setattr("pacs.commitment.MAX_WAITING", 0)
    full = ask(web, payload)
    assert (full.status_code, full.headers["retry-after"]) == (503, "5")
