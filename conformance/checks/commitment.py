"""Storage Commitment over the web (PS3.18 chapter 13, annex J) and the services of chapters 14 and 15: part I."""

from __future__ import annotations

import json
import time
from typing import Any

from conformance.check import Level, NotSupported, check
from conformance.client import JSON, Answer
from conformance.context import Context, text, values
from conformance.data import Sample

SERVICE = "commitment"
WAIT_S = 60.0


def reference(sop_class: str, uid: str) -> dict[str, Any]:
    """An item of the Referenced SOP Sequence."""
    return {"00081150": {"vr": "UI", "Value": [sop_class]}, "00081155": {"vr": "UI", "Value": [uid]}}


def request(c: Context, transaction: str, items: list[dict[str, Any]]) -> Answer:
    """The answer to a request of commitment. Raises NotSupported where there is no such service."""
    body = json.dumps([{"00081199": {"vr": "SQ", "Value": items}}]).encode()
    answer = c.web.post(f"/commitment-requests/{transaction}", body, JSON)
    if answer.status in (404, 405, 501):
        raise NotSupported(f"POST /commitment-requests gives {answer.status}")
    return answer


def settled(c: Context, transaction: str, answer: Answer) -> Answer:
    """The answer with the result: the first, or the one of later checks (13.5) after a 202."""
    until = time.monotonic() + WAIT_S
    while answer.status == 202 and time.monotonic() < until:
        c.expect_equal("length of a 202's payload", len(answer.raw), 0, about=answer)
        time.sleep(0.2)
        answer = c.web.get(f"/commitment-requests/{transaction}")
    return answer


def result(c: Context, answer: Answer) -> dict[str, Any]:
    """The Storage Commitment Response Module of an answer, judged."""
    found = c.objects(answer)
    return found[0] if found else {}


def good(c: Context) -> Sample:
    """A stored instance."""
    return c.sample("query", "beta/CR/1")


@check("I01", "PS3.18 13.4.3", "a stored instance is committed: 200, or 202 and 200 later", Level.CONDITIONAL,
       service=SERVICE)  # fmt: skip
def committed(c: Context) -> None:
    sample, transaction = good(c), c.maker.uid("commit", 1)
    answer = request(c, transaction, [reference(sample.sop_class, sample.instance)])
    c.expect_status(answer, 200, 202)
    answer = settled(c, transaction, answer)
    found = result(c, answer)
    kept = [text(item, "00081155") for item in values(found, "00081199")]
    c.expect_equal("Referenced SOP Sequence", kept, [sample.instance], about=answer)
    c.expect("no Failed SOP Sequence", not values(found, "00081198"), about=answer)


@check("I03", "PS3.18 13.4.3", "the same Transaction UID again: 409", Level.CONDITIONAL, service=SERVICE)
def twice(c: Context) -> None:
    sample, transaction = good(c), c.maker.uid("commit", 3)
    items = [reference(sample.sop_class, sample.instance)]
    c.expect_status(settled(c, transaction, request(c, transaction, items)), 200)
    c.expect_status(request(c, transaction, items), 409)


@check("I04", "PS3.18 13.4.3", "a payload that is none: 400", Level.CONDITIONAL, service=SERVICE)
def bad(c: Context) -> None:
    sample = good(c)
    request(c, c.maker.uid("commit", 40), [reference(sample.sop_class, sample.instance)])
    c.expect_status(c.web.post(f"/commitment-requests/{c.maker.uid('commit', 41)}", b"no JSON", JSON), 400)
    c.expect_status(c.web.post(f"/commitment-requests/{c.maker.uid('commit', 42)}", b"[{}]", JSON), 400)


@check("I05", "PS3.18 J.2", "known and unknown: each in its sequence, with the reason", Level.CONDITIONAL,
       service=SERVICE)  # fmt: skip
def mixed(c: Context) -> None:
    sample, transaction = good(c), c.maker.uid("commit", 5)
    other = c.sample("query", "gamma/MR/1")
    nothing = c.maker.uid("nothing")
    answer = settled(c, transaction, request(c, transaction, [
        reference(sample.sop_class, sample.instance), reference(sample.sop_class, nothing),
        reference(sample.sop_class, other.instance),
    ]))  # fmt: skip
    found = result(c, answer)
    kept = [text(item, "00081155") for item in values(found, "00081199")]
    failed = {text(item, "00081155"): text(item, "00081197") for item in values(found, "00081198")}
    c.expect_equal("Referenced SOP Sequence", kept, [sample.instance], about=answer)
    c.expect_equal("reason for an unknown instance: 0112H", failed.get(nothing), str(0x0112), about=answer)
    c.expect_equal("reason for another class: 0119H", failed.get(other.instance), str(0x0119), about=answer)


@check("I06", "PS3.18 13.5", "the result of a request can be asked for; an unknown one: 404", Level.CONDITIONAL,
       service=SERVICE)  # fmt: skip
def asked(c: Context) -> None:
    sample, transaction = good(c), c.maker.uid("commit", 6)
    first = settled(c, transaction, request(c, transaction, [reference(sample.sop_class, sample.instance)]))
    c.expect_status(first, 200)
    again = c.web.get(f"/commitment-requests/{transaction}")
    found = result(c, again)
    kept = [text(item, "00081155") for item in values(found, "00081199")]
    c.expect_equal("Referenced SOP Sequence", kept, [sample.instance], about=again)
    c.expect_status(c.web.get(f"/commitment-requests/{c.maker.uid('commit', 'never')}"), 404)


@check("I08", "PS3.18 14.4", "scheduled procedure steps: 200, 204 or 4xx by the table", Level.CONDITIONAL,
       service=SERVICE)  # fmt: skip
def scheduled(c: Context) -> None:
    answer = c.web.get("/modality-scheduled-procedure-steps", f"00100020={c.maker.patient_id('nobody')}")
    if answer.status in (404, 405, 501):
        raise NotSupported(f"GET /modality-scheduled-procedure-steps gives {answer.status}")
    c.expect_status(answer, 200, 204)


@check("I11", "PS3.18 15.6", "performed procedure steps: an unknown one is 404 or 410", Level.CONDITIONAL,
       service=SERVICE)  # fmt: skip
def performed(c: Context) -> None:
    listed = c.web.request("OPTIONS", f"/modality-performed-procedure-steps/{c.maker.uid('mpps')}")
    answer = c.web.get(f"/modality-performed-procedure-steps/{c.maker.uid('mpps')}")
    allowed = listed.header("Allow") + answer.header("Allow")
    if answer.status in (405, 501) or "POST" not in allowed:
        raise NotSupported(f"GET /modality-performed-procedure-steps gives {answer.status}")
    c.expect_status(answer, 404, 410)
