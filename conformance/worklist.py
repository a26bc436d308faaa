"""Workitems of the suite's own and the transactions on them (PS3.18 chapter 11), for the checks of UPS-RS."""

from __future__ import annotations

import json
from typing import Any

from conformance.check import NotSupported
from conformance.client import JSON, Answer
from conformance.context import Context, text

STATE, TRANSACTION = "00741000", "00081195"


def code(value: str, meaning: str) -> dict[str, Any]:
    """An item of a code sequence."""
    return {
        "00080100": {"vr": "SH", "Value": [value]}, "00080102": {"vr": "SH", "Value": ["99ZZCONF"]},
        "00080104": {"vr": "LO", "Value": [meaning]},
    }  # fmt: skip


def payload(c: Context, **more: Any) -> dict[str, Any]:
    """A Workitem with what Table CC.2.5-3 of PS3.4 wants at creation; `t00741204=None` removes an element."""
    empty = {
        "00081080": "LO", "00081084": "SQ", "00100030": "DA", "00100040": "CS", "00380010": "LO", "00380014": "SQ",
        "0040A370": "SQ", "00404021": "SQ", "00404025": "SQ", "00404026": "SQ", "00404027": "SQ", "00741002": "SQ",
        "00741210": "SQ", "00741216": "SQ", "00081195": "UI",
    }  # fmt: skip
    made: dict[str, Any] = {tag: {"vr": vr} for tag, vr in empty.items()} | {
        "00080016": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.34.6.1"]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "ZZConformance^Workitem"}]},
        "00100020": {"vr": "LO", "Value": [c.maker.patient_id("ups")]},
        "00404005": {"vr": "DT", "Value": ["20240115120000"]},
        "00404018": {"vr": "SQ", "Value": [code("zz1", "conformance test")]},
        "00404041": {"vr": "CS", "Value": ["READY"]},
        STATE: {"vr": "CS", "Value": ["SCHEDULED"]},
        "00741200": {"vr": "CS", "Value": ["LOW"]},
        "00741202": {"vr": "LO", "Value": ["ZZ conformance"]},
        "00741204": {"vr": "LO", "Value": ["ZZ conformance test"]},
    }
    for name, element in more.items():
        tag = name.removeprefix("t")
        if element is None:
            made.pop(tag, None)
        else:
            made[tag] = element
    return dict(sorted(made.items()))


def final(c: Context) -> dict[str, Any]:
    """What has to be there before a Workitem can be COMPLETED (Table CC.2.5-3, final state)."""
    performed = {
        "00404028": {"vr": "SQ", "Value": [code("zzstation", "a station")]},
        "00404019": {"vr": "SQ", "Value": [code("zz1", "conformance test")]},
        "00404050": {"vr": "DT", "Value": ["20240115120000"]},
        "00404051": {"vr": "DT", "Value": ["20240115120100"]},
        "00404033": {"vr": "SQ"},
    }
    return {"00741216": {"vr": "SQ", "Value": [dict(sorted(performed.items()))]}}


def send(c: Context, method: str, path: str, body: Any = None, query: str = "") -> Answer:
    """A transaction with a DICOM JSON payload."""
    content = None if body is None else json.dumps([body]).encode()
    return c.web.request(method, path, query, headers={"Content-Type": JSON} if content else {}, body=content)


def served(c: Context) -> None:
    """Raises NotSupported where the server has no worklist."""

    def find() -> int:
        return c.web.get("/workitems", "limit=1").status

    status = c.fact("worklist", find)
    if status in (404, 405, 501):
        raise NotSupported(f"GET /workitems gives {status}: no Worklist Service")


def create(c: Context, name: str, **more: Any) -> str:
    """The UID of a Workitem that was made, judged to have been made."""
    served(c)
    uid = c.maker.uid("workitem", name)
    answer = send(c, "POST", "/workitems", payload(c, **more), uid)
    c.expect_status(answer, 201)
    if answer.status == 201:
        c.workitems.add(uid)
    return uid


def get(c: Context, uid: str) -> dict[str, Any]:
    """A Workitem, judged to be there."""
    answer = c.web.get(f"/workitems/{uid}")
    found = c.objects(answer)
    return found[0] if found else {}


def change(c: Context, uid: str, state: str, transaction: str = "") -> Answer:
    """The answer to Change Workitem State."""
    body: dict[str, Any] = {STATE: {"vr": "CS", "Value": [state]}}
    if transaction:
        body[TRANSACTION] = {"vr": "UI", "Value": [transaction]}
    return send(c, "PUT", f"/workitems/{uid}/state", dict(sorted(body.items())))


def claimed(c: Context, name: str) -> tuple[str, str]:
    """A Workitem in progress and its Transaction UID."""
    uid, transaction = create(c, name), c.maker.uid("transaction", name)
    c.expect_status(change(c, uid, "IN PROGRESS", transaction), 200)
    return uid, transaction


def completed(c: Context, name: str) -> tuple[str, str]:
    """A completed Workitem and its Transaction UID."""
    uid, transaction = claimed(c, name)
    c.expect_status(update(c, uid, final(c), transaction), 200)
    c.expect_status(change(c, uid, "COMPLETED", transaction), 200)
    return uid, transaction


def update(c: Context, uid: str, body: dict[str, Any], transaction: str = "", spelt: str = "transaction-uid") -> Answer:
    """The answer to Update Workitem; the name of the parameter has changed from edition to edition."""
    return send(c, "POST", f"/workitems/{uid}", body, f"{spelt}={transaction}" if transaction else "")


def state_of(c: Context, uid: str) -> str:
    """The Procedure Step State."""
    return text(get(c, uid), STATE)
