"""UPS-RS (PS3.18 11, PS3.4 CC) against the real worklist."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from dicomweb_server import Web, parts, serving

from dicomweb import xml_model
from pacs import uids
from pacs.auth import SYSTEM
from pacs.dicom.ups_events import EventType

JSON = "application/dicom+json"


def workitem(label: str = "Analysis", **more: Any) -> dict[str, Any]:
    return {
        "00741000": {"vr": "CS", "Value": ["SCHEDULED"]},
        "00741200": {"vr": "CS", "Value": ["MEDIUM"]},
        "00741204": {"vr": "LO", "Value": [label]},
        "00404005": {"vr": "DT", "Value": ["20260101120000"]},
        "00404041": {"vr": "CS", "Value": ["READY"]},
        "00100020": {"vr": "LO", "Value": ["SYN-1"]},
        "00404018": {"vr": "SQ", "Value": [code("bone_surface")]},
    } | {tag.lstrip("t"): element for tag, element in more.items()}


def code(value: str) -> dict[str, Any]:
    return {
        "00080100": {"vr": "SH", "Value": [value]},
        "00080102": {"vr": "SH", "Value": ["99M3DICOM"]},
        "00080104": {"vr": "LO", "Value": [value]},
    }


PERFORMED = {
    "00741216": {"vr": "SQ", "Value": [{
        "00404028": {"vr": "SQ", "Value": [code("station")]},
        "00404050": {"vr": "DT", "Value": ["20260101120000"]},
        "00404019": {"vr": "SQ", "Value": [code("bone_surface")]},
        "00404051": {"vr": "DT", "Value": ["20260101120100"]},
        "00404033": {"vr": "SQ"},
    }]}
}  # fmt: skip


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with serving(tmp_path_factory.mktemp("ups")) as web:
        yield web


def send(web: Web, method: str, path: str, payload: Any = None, **options: Any) -> httpx.Response:
    headers = {"Content-Type": JSON, **options.pop("headers", {})}
    return web.client.request(method, path, json=payload, headers=headers, **options)


def created(web: Web, **more: Any) -> str:
    answer = send(web, "POST", "/workitems", [workitem(**more)])
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == answer.headers["content-location"]
    base, _, uid = answer.headers["location"].rpartition("/")
    assert base == f"{web.url}/workitems"
    return uid


def state(uid: str, web: Web, target: str, transaction: str | None, suffix: str = "") -> httpx.Response:
    body = {"00741000": {"vr": "CS", "Value": [target]}}
    if transaction is not None:
        body["00081195"] = {"vr": "UI", "Value": [transaction]}
    return send(web, "PUT", f"/workitems/{uid}/state{suffix}", [body])


def state_of(web: Web, uid: str) -> str:
    answer = web.get(f"/workitems/{uid}", JSON)
    assert answer.status_code == 200
    [item] = answer.json()
    assert "00081195" not in item
    return str(item["00741000"]["Value"][0])


def test_created_and_retrieved(web: Web) -> None:
    uid = created(web)
    assert state_of(web, uid) == "SCHEDULED"
    [item] = web.get(f"/workitems/{uid}").json()
    assert item["00080018"]["Value"] == [uid]
    xml = web.get(f"/workitems/{uid}", "application/dicom+xml")
    assert xml.headers["content-type"] == "application/dicom+xml"
    assert web.get(f"/workitems/{uid}", "image/png").status_code == 406


def test_one_uid_may_be_given_and_not_two(web: Web) -> None:
    one, two = uids.new(), uids.new()
    assert send(web, "POST", f"/workitems?{one}&{two}", workitem()).status_code == 400
    assert web.get(f"/workitems/{one}").status_code == 404


@pytest.mark.parametrize("form", ["{}", "workitem={}", "uid={}"])
def test_the_uid_may_be_given(web: Web, form: str) -> None:
    uid = uids.new()
    answer = send(web, "POST", f"/workitems?{form.format(uid)}", workitem())
    assert answer.status_code == 201
    assert answer.headers["location"].endswith(uid)
    assert send(web, "POST", f"/workitems?{form.format(uid)}", workitem()).status_code == 409
    other = workitem(t00080018={"vr": "UI", "Value": [uids.new()]})
    assert send(web, "POST", f"/workitems?{form.format(uids.new())}", other).status_code == 400


@pytest.mark.parametrize(
    "payload",
    [
        workitem(t00741000={"vr": "CS", "Value": ["IN PROGRESS"]}),
        workitem(t00081195={"vr": "UI", "Value": ["1.2.3"]}),
        {tag: element for tag, element in workitem().items() if tag != "00741204"},
        workitem(t00404005={"vr": "DT", "Value": ["soon"]}),
        workitem(t00404021={"vr": "SQ", "Value": [{"0020000D": {"vr": "UI", "Value": ["1.2.x"]}}]}),
        {},
        [],
        [workitem(), workitem()],
        "text",
    ],
)
def test_workitems_that_are_none(web: Web, payload: Any) -> None:
    answer = send(web, "POST", "/workitems", payload)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"


def test_bodies_that_are_none(web: Web) -> None:
    for content, content_type, status in [
        (b"{", JSON, 400), (b"[" * 100_000, JSON, 400), (b"", JSON, 400), (b"\xff", JSON, 400),
        (b"{}", "text/plain", 415), (b"<x/>", "application/dicom+xml", 400),
        (b'{"00741000": {"vr": "XX"}}', JSON, 400), (b'{"00741204": {"vr": "LO", "Value": "x"}}', JSON, 400),
    ]:  # fmt: skip
        answer = web.client.post("/workitems", content=content, headers={"Content-Type": content_type})
        assert answer.status_code == status, content


def test_missing_attributes_are_named(web: Web) -> None:
    payload = {tag: element for tag, element in workitem().items() if tag != "00741204"}
    assert "Procedure Step Label" in send(web, "POST", "/workitems", payload).json()["detail"]


def test_unknown_workitems(web: Web) -> None:
    unknown = uids.new()
    assert web.get(f"/workitems/{unknown}").status_code == 404
    assert state(unknown, web, "IN PROGRESS", uids.new()).status_code == 404
    assert send(web, "PUT", f"/workitems/{unknown}", {"00741204": {"vr": "LO", "Value": ["x"]}}).status_code == 404
    assert send(web, "POST", f"/workitems/{unknown}/cancelrequest").status_code == 404
    assert web.get("/workitems/no-uid").status_code == 400


@pytest.mark.parametrize("name", ["transaction", "transaction-uid", "Transaction-uid", ""])
def test_updates(web: Web, name: str) -> None:
    uid, transaction = created(web), uids.new()
    label = [{"00741204": {"vr": "LO", "Value": ["New label"]}}]
    assert send(web, "PUT", f"/workitems/{uid}", label).status_code == 200
    assert web.get(f"/workitems/{uid}").json()[0]["00741204"]["Value"] == ["New label"]
    assert state(uid, web, "IN PROGRESS", transaction).status_code == 200
    query = f"{name}={transaction}" if name else transaction
    assert send(web, "PUT", f"/workitems/{uid}?{query}", label).status_code == 200
    for refused in (f"/workitems/{uid}", f"/workitems/{uid}?transaction={uids.new()}"):
        answer = send(web, "PUT", refused, label)
        assert answer.status_code == 400
        assert answer.headers["warning"].startswith(f"299 {web.url}: ")
    assert (
        send(web, "PUT", f"/workitems/{uid}?{query}", {"00741000": {"vr": "CS", "Value": ["COMPLETED"]}}).status_code
        == 400
    )
    sequence = {"00404018": {"vr": "SQ", "Value": [code("other")]}}
    assert send(web, "PUT", f"/workitems/{uid}?{query}", sequence).status_code == 200
    assert web.get(f"/workitems/{uid}").json()[0]["00404018"]["Value"] == sequence["00404018"]["Value"]


def test_the_whole_life(web: Web) -> None:
    uid, transaction = created(web), uids.new()
    assert state(uid, web, "COMPLETED", transaction).status_code == 409
    assert state(uid, web, "IN PROGRESS", None).status_code == 400
    assert state(uid, web, "IN PROGRESS", transaction).status_code == 200
    assert state(uid, web, "IN PROGRESS", transaction).status_code == 409
    assert state(uid, web, "SCHEDULED", transaction).status_code == 409
    assert state(uid, web, "COMPLETED", uids.new()).status_code == 400
    unfinished = state(uid, web, "COMPLETED", transaction)
    assert unfinished.status_code == 409
    assert "warning" in unfinished.headers
    assert send(web, "PUT", f"/workitems/{uid}?transaction={transaction}", PERFORMED).status_code == 200
    assert state(uid, web, "COMPLETED", transaction).status_code == 200
    assert state_of(web, uid) == "COMPLETED"
    again = state(uid, web, "COMPLETED", transaction)
    assert (again.status_code, "COMPLETED" in again.headers["warning"]) == (200, True)
    assert state(uid, web, "CANCELED", transaction).status_code == 409
    assert send(web, "PUT", f"/workitems/{uid}?transaction={transaction}", PERFORMED).status_code == 400
    cancel = send(web, "POST", f"/workitems/{uid}/cancelrequest")
    assert cancel.status_code == 409
    assert cancel.headers["warning"] == f"299 {web.url}: The UPS is already COMPLETED."


def test_states_that_are_none(web: Web) -> None:
    uid = created(web)
    assert state(uid, web, "DONE", uids.new()).status_code == 400
    assert send(web, "PUT", f"/workitems/{uid}/state", {}).status_code == 400
    assert state(uid, web, "IN PROGRESS", "not a uid").status_code == 400


@pytest.mark.parametrize("suffix", ["", "?M3DICOM", "/M3DICOM"])
def test_the_forms_of_the_state_address(web: Web, suffix: str) -> None:
    assert state(created(web), web, "IN PROGRESS", uids.new(), suffix).status_code == 200


def test_cancel_requests(web: Web) -> None:
    scheduled = created(web)
    reason = {"00741238": {"vr": "LT", "Value": ["not needed"]}}
    assert send(web, "POST", f"/workitems/{scheduled}/cancelrequest", [reason]).status_code == 202
    assert state_of(web, scheduled) == "CANCELED"
    again = send(web, "POST", f"/workitems/{scheduled}/cancelrequest")
    already = "The UPS is already in the requested state of CANCELED."
    assert again.headers["warning"] == f"299 {web.url}: {already}"
    claimed = created(web)
    state(claimed, web, "IN PROGRESS", uids.new())
    nobody = web.client.post(f"/workitems/{claimed}/cancelrequest")
    assert (nobody.status_code, "cannot be contacted" in nobody.headers["warning"]) == (409, True)
    web.archive.worklist.subscribe(claimed, "PERFORMER", SYSTEM)
    assert web.client.post(f"/workitems/{claimed}/cancelrequest").status_code == 202
    (_, asked) = web.archive.worklist.events_for("PERFORMER")
    assert (asked.type, asked.workitem_uid) == (EventType.CANCEL_REQUESTED, claimed)
    assert state_of(web, claimed) == "IN PROGRESS"


def test_one_of_two_claims_succeeds(web: Web) -> None:
    uid = created(web)
    codes: list[int] = []
    claims = [
        threading.Thread(target=lambda: codes.append(state(uid, web, "IN PROGRESS", uids.new()).status_code))
        for _ in range(4)
    ]
    for claim in claims:
        claim.start()
    for claim in claims:
        claim.join()
    assert sorted(codes)[0] == 200
    assert all(code in (400, 409) for code in sorted(codes)[1:])


def test_a_search_says_what_it_ignores(web: Web) -> None:
    created(web, t00741204={"vr": "LO", "Value": ["Said"]})
    answer = web.get("/workitems?Procedurestep=Said&includefield=Label,ProcedureStepLabel")
    told = answer.headers["warning"]
    assert "The parameter Procedurestep is nothing" in told
    assert "The includefield Label is no attribute" in told
    assert "warning" not in web.get("/workitems?ProcedureStepLabel=Said&includefield=all").headers


def test_the_warnings_of_the_standard(web: Web) -> None:
    def warned(answer: httpx.Response) -> str:
        return answer.headers["warning"].removeprefix(f"299 {web.url}: ")

    uid, transaction = created(web), uids.new()
    label = [{"00741204": {"vr": "LO", "Value": ["New label"]}}]
    assert warned(state(uid, web, "IN PROGRESS", None)) == "The Transaction UID is missing."
    early = state(uid, web, "COMPLETED", transaction)
    assert warned(early) == "The submitted request is inconsistent with the state of the UPS Instance."
    assert "not yet IN PROGRESS" in early.json()["detail"]
    assert state(uid, web, "IN PROGRESS", transaction).headers["content-location"] == f"{web.url}/workitems/{uid}"
    assert warned(state(uid, web, "CANCELED", uids.new())) == "The Transaction UID is incorrect."
    assert warned(send(web, "POST", f"/workitems/{uid}", label)) == "The Transaction UID is missing."
    wrong = send(web, "POST", f"/workitems/{uid}?{uids.new()}", label)
    assert warned(wrong) == "The Transaction UID is incorrect."
    assert warned(send(web, "POST", f"/workitems/{uid}/cancelrequest")) == "The performer cannot be contacted."
    assert state(uid, web, "CANCELED", transaction).status_code == 200
    again = state(uid, web, "CANCELED", transaction)
    assert (again.status_code, warned(again)) == (200, "The UPS is already in the requested state of CANCELED.")
    late = send(web, "POST", f"/workitems/{uid}?{transaction}", label)
    assert (late.status_code, warned(late)) == (
        400, "The submitted request is inconsistent with the current state of the Workitem.",
    )  # fmt: skip


def test_what_was_changed_at_creation_is_told(web: Web) -> None:
    plain = send(web, "POST", "/workitems", workitem())
    assert "warning" not in plain.headers
    other = workitem(t00080016={"vr": "UI", "Value": ["1.2.3"]})
    answer = send(web, "POST", "/workitems", other)
    assert answer.status_code == 201
    assert answer.headers["warning"] == f"299 {web.url}: The Workitem was created with modifications."


def test_a_workitem_that_is_claimed_at_once_was_not_modified(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    worklist = web.archive.worklist
    create = worklist.create

    def claimed(*asked: Any) -> str:
        uid = create(*asked)
        worklist.change_state(uid, "IN PROGRESS", uids.new(), SYSTEM)
        return uid

    monkeypatch.setattr(worklist, "create", claimed)
    answer = send(web, "POST", "/workitems", workitem())
    assert (answer.status_code, answer.headers.get("warning")) == (201, None)


def test_the_whole_life_in_xml(web: Web) -> None:
    def xml(method: str, path: str, dataset: dict[str, Any]) -> httpx.Response:
        headers = {"Content-Type": "application/dicom+xml"}
        return web.client.request(method, path, content=xml_model.dumps(dataset), headers=headers)

    answer = xml("POST", "/workitems", workitem("Étude"))
    assert answer.status_code == 201, answer.text
    path = "/workitems/" + answer.headers["location"].rpartition("/")[2]
    transaction = uids.new()

    def to(target: str) -> dict[str, Any]:
        return {
            "00081195": {"vr": "UI", "Value": [transaction]},
            "00741000": {"vr": "CS", "Value": [target]},
        }

    assert xml("PUT", path + "/state", to("IN PROGRESS")).status_code == 200
    assert xml("POST", f"{path}?transaction-uid={transaction}", PERFORMED).status_code == 200
    assert xml("PUT", path + "/state", to("COMPLETED")).status_code == 200
    [item] = web.get(path).json()
    assert item["00741204"]["Value"] == ["Étude"]
    assert item["00741216"]["Value"][0]["00404050"]["Value"] == ["20260101120000"]
    assert item["00741000"]["Value"] == ["COMPLETED"]


def test_removed_workitems_are_gone(web: Web) -> None:
    uid = created(web)
    assert send(web, "POST", f"/workitems/{uid}/cancelrequest").status_code == 202
    while web.archive.worklist.forget(time.time() + 100 * 86_400, 1.0):
        pass
    assert web.get(f"/workitems/{uid}").status_code == 410
    assert state(uid, web, "IN PROGRESS", uids.new()).status_code == 410
    assert send(web, "PUT", f"/workitems/{uid}", {"00741204": {"vr": "LO", "Value": ["x"]}}).status_code == 410


def test_requests_that_are_too_large(web: Web) -> None:
    label = "x" * (17 << 20)
    answer = send(web, "POST", "/workitems", workitem(label))
    assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")
    many = "&".join(f"0010{n:04X}=x" for n in range(300))
    assert web.client.get(f"/workitems?{many}").status_code == 400


def test_search(tmp_path_factory: pytest.TempPathFactory) -> None:
    with serving(tmp_path_factory.mktemp("search")) as web:
        assert web.get("/workitems").status_code == 204
        name = {"vr": "PN", "Value": [{"Alphabetic": "Synthetic^Sam"}]}
        others = [{"vr": "LO", "Value": ["A", "B"][: n + 1]} for n in range(4)]
        uid = [created(web, label=f"Label {n}", t00100010=name, t00101000=others[n]) for n in range(4)]
        state(uid[0], web, "IN PROGRESS", uids.new())

        def found(**query: Any) -> set[str]:
            answer = web.get("/workitems", params=query)
            assert answer.status_code in (200, 204)
            items = answer.json() if answer.status_code == 200 else []
            assert all("00081195" not in item for item in items)
            return {item["00741204"]["Value"][0][-1] for item in items}

        assert found() == {"0", "1", "2", "3"}
        assert found(ProcedureStepState="SCHEDULED") == found(**{"00741000": "SCHEDULED"}) == {"1", "2", "3"}
        assert found(ProcedureStepLabel="Label 2") == {"2"}
        assert found(ProcedureStepLabel="Label*") == {"0", "1", "2", "3"}
        assert found(**{"ScheduledWorkitemCodeSequence.CodeValue": "bone_surface"}) == {"0", "1", "2", "3"}
        assert found(**{"00404018.00080100": "none"}) == set()
        assert found(SOPInstanceUID=f"{uid[1]},{uid[2]}") == {"1", "2"}
        assert found(includefield="all", foo="bar", limit=10) == {"0", "1", "2", "3"}
        assert found(PatientName="sam synthetick", fuzzymatching="true") == {"0", "1", "2", "3"}
        assert found(ProcedureStepLabel="Label 1\\Label 3", multiplevaluematching="true") == {"1", "3"}
        assert found(OtherPatientIDs="A\\B", multiplevaluematching="true") == {"1", "2", "3"}  # both of them
        assert found(PatientBirthDate='""', emptyvaluematching="true") == {"0", "1", "2", "3"}
        for misspelt in ("00404018", "ProcedureStepLabe"):
            said = web.get("/workitems", params={misspelt: "x", "includefield": "all"}).headers.get_list("warning")
            assert len(said) == 1
            assert misspelt in said[0]
        assert "warning" not in web.get("/workitems", params={"includefield": "all", "limit": 10}).headers
        page = web.get("/workitems", params={"limit": 1, "offset": 1})
        assert len(page.json()) == 1
        assert "2 additional" in page.headers["warning"]
        assert web.get("/workitems", params={"limit": 0}).status_code == 204
        assert len(parts(web.get("/workitems", 'multipart/related; type="application/dicom+xml"'))) == 4
        for query in ("limit=x", "limit=1&limit=2", "00741000=a&00741000=b", "ScheduledProcedureStepStartDateTime=x"):
            assert web.client.get(f"/workitems?{query}").status_code == 400
        assert web.get("/workitems", headers={"X-Test-Rights": "store"}).status_code == 403
        assert send(web, "POST", "/workitems", workitem(), headers={"X-Test-Rights": "query"}).status_code == 403
