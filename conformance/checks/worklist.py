"""UPS-RS: Workitems made, read, changed, claimed, finished and found (PS3.18 11.4 to 11.9, PS3.4 CC): part H."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from conformance.check import Level, check
from conformance.client import Web
from conformance.context import Context, text, values
from conformance.worklist import (
    STATE,
    TRANSACTION,
    change,
    claimed,
    code,
    completed,
    create,
    final,
    get,
    payload,
    send,
    served,
    state_of,
    update,
)

SERVICE = "UPS-RS"
REFUSED = (400, 409)
LABEL = "00741204"


@check("H01", "PS3.18 11.4.3", "a Workitem is made: 201 with its address", service=SERVICE)
def made(c: Context) -> None:
    served(c)
    answer = send(c, "POST", "/workitems", payload(c))
    c.expect_status(answer, 201)
    address = answer.header("Location") or answer.header("Content-Location")
    c.expect("Location or Content-Location", address, about=answer)
    if address:
        uid = address.rstrip("/").rpartition("/")[2]
        c.workitems.add(uid)
        c.expect_equal("state", state_of(c, uid), "SCHEDULED", about=f"GET {address}")


@check("H02", "PS3.18 11.4.1.2", "the UID that is given becomes that of the Workitem", service=SERVICE)
def named(c: Context) -> None:
    uid = create(c, "named")
    found = get(c, uid)
    c.expect_equal("label", text(found, LABEL), "ZZ conformance test", about=f"GET /workitems/{uid}")
    c.expect("SOP Instance UID, where it is told", text(found, "00080018") in ("", uid), text(found, "00080018"),
             about=f"GET /workitems/{uid}")  # fmt: skip


@check("H03", "PS3.18 11.4.3", "a UID that exists: 409", service=SERVICE)
def twice(c: Context) -> None:
    uid = create(c, "twice")
    c.expect_status(send(c, "POST", "/workitems", payload(c), uid), 409)


@check("H04", "PS3.4 CC.2.5.1.3", "a Workitem is made SCHEDULED and in no other state", service=SERVICE)
def other_state(c: Context) -> None:
    served(c)
    for state in ("IN PROGRESS", "COMPLETED", "CANCELED", "NONSENSE"):
        uid = c.maker.uid("workitem", state)
        answer = send(c, "POST", "/workitems", payload(c, t00741000={"vr": "CS", "Value": [state]}), uid)
        c.expect_status(answer, *REFUSED)


@check("H05", "PS3.4 Table CC.2.5-3", "without an attribute of type 1: 400", service=SERVICE)
def missing(c: Context) -> None:
    served(c)
    for tag in (STATE, "00741200", LABEL, "00404005", "00404041"):
        uid = c.maker.uid("workitem", "missing", tag)
        answer = send(c, "POST", "/workitems", payload(c, **{f"t{tag}": None}), uid)
        c.expect(f"400 without {tag}", answer.status in REFUSED, about=answer)


@check("H07", "PS3.18 11.5.3", "a Workitem never tells its Transaction UID", service=SERVICE)
def secret(c: Context) -> None:
    uid, transaction = claimed(c, "secret")
    answer = c.web.get(f"/workitems/{uid}")
    told = any(values(each, "00081195") for each in c.objects(answer))
    c.expect("not the Transaction UID", not told and transaction.encode() not in answer.body, about=answer)
    search = c.web.get("/workitems", f"00100020={c.maker.patient_id('ups')}&includefield=all")
    told = any(values(each, "00081195") for each in c.objects(search))
    c.expect("not the Transaction UID in a search", not told and transaction.encode() not in search.body, about=search)


@check("H08", "PS3.18 11.5.3", "an unknown Workitem: 404 for every transaction", service=SERVICE)
def unknown(c: Context) -> None:
    served(c)
    uid = c.maker.uid("workitem", "nothing")
    c.expect_status(c.web.get(f"/workitems/{uid}"), 404)
    c.expect_status(update(c, uid, {LABEL: {"vr": "LO", "Value": ["x"]}}), 404)
    c.expect_status(change(c, uid, "IN PROGRESS", c.maker.uid("t")), 404)
    c.expect_status(send(c, "POST", f"/workitems/{uid}/cancelrequest"), 404)


@check("H09", "PS3.18 11.6", "a scheduled Workitem is updated without a Transaction UID", service=SERVICE)
def updated(c: Context) -> None:
    uid = create(c, "updated")
    c.expect_status(update(c, uid, {LABEL: {"vr": "LO", "Value": ["changed"]}}), 200)
    c.expect_equal("label", text(get(c, uid), LABEL), "changed", about=f"POST /workitems/{uid}")


@check("H10", "PS3.18 11.6.1.2", "one in progress is updated with its Transaction UID, in a spelling of the standard",
       service=SERVICE)  # fmt: skip
def with_transaction(c: Context) -> None:
    uid, transaction = claimed(c, "in progress")
    # transaction (2014c), transaction-uid (2019b), Transaction-uid (2025e): one of them has to work, all may.
    answers = [
        update(c, uid, {LABEL: {"vr": "LO", "Value": [spelt]}}, transaction, spelt)
        for spelt in ("transaction", "transaction-uid", "Transaction-uid")
    ]
    c.expect("200 for one of the three spellings", any(answer.status == 200 for answer in answers),
             [answer.status for answer in answers], about=answers[-1])  # fmt: skip


@check("H10s", "PS3.18 11.6.1.2", "all three spellings of the parameter are taken", Level.ROBUSTNESS, service=SERVICE)
def spellings(c: Context) -> None:
    uid, transaction = claimed(c, "spellings")
    for spelt in ("transaction", "transaction-uid", "Transaction-uid"):
        c.expect_status(update(c, uid, {LABEL: {"vr": "LO", "Value": [spelt]}}, transaction, spelt), 200)
        c.expect_equal("label", text(get(c, uid), LABEL), spelt, about=f"POST /workitems/{uid}?{spelt}=…")


@check("H11", "PS3.18 11.6.3", "without the right Transaction UID one in progress is not updated", service=SERVICE)
def wrong_transaction(c: Context) -> None:
    uid, _ = claimed(c, "wrong")
    for transaction in ("", c.maker.uid("another")):
        answer = update(c, uid, {LABEL: {"vr": "LO", "Value": ["stolen"]}}, transaction)
        c.expect_status(answer, *REFUSED)
    c.expect_equal("label", text(get(c, uid), LABEL), "ZZ conformance test", about=f"POST /workitems/{uid}")


@check("H12", "PS3.18 11.6.3", "a final Workitem is not updated", service=SERVICE)
def final_update(c: Context) -> None:
    uid, transaction = completed(c, "final")
    answer = update(c, uid, {LABEL: {"vr": "LO", "Value": ["late"]}}, transaction)
    c.expect_status(answer, *REFUSED)
    c.expect_equal("label", text(get(c, uid), LABEL), "ZZ conformance test", about=answer)


@check("H13", "PS3.18 11.6.2", "an update does not change the state", service=SERVICE)
def update_of_state(c: Context) -> None:
    uid = create(c, "state by update")
    answer = update(c, uid, {STATE: {"vr": "CS", "Value": ["COMPLETED"]}})
    c.expect_status(answer, *REFUSED)
    c.expect_equal("state", state_of(c, uid), "SCHEDULED", about=answer)


@check("H14", "PS3.4 CC.2.6.2", "a sequence in an update replaces the whole sequence", service=SERVICE)
def sequence(c: Context) -> None:
    uid = create(c, "sequence")
    items = [code("zz2", "second"), code("zz3", "third")]
    c.expect_status(update(c, uid, {"00404018": {"vr": "SQ", "Value": items}}), 200)
    seen = [text(item, "00080100") for item in values(get(c, uid), "00404018")]
    c.expect_equal("codes", seen, ["zz2", "zz3"], about=f"POST /workitems/{uid}")


@check("H15", "PS3.4 Table CC.1.1-2", "SCHEDULED becomes IN PROGRESS, then COMPLETED with what is needed",
       service=SERVICE)  # fmt: skip
def life(c: Context) -> None:
    uid, transaction = claimed(c, "life")
    c.expect_equal("state", state_of(c, uid), "IN PROGRESS", about=f"PUT /workitems/{uid}/state")
    c.expect_status(update(c, uid, final(c), transaction), 200)
    c.expect_status(change(c, uid, "COMPLETED", transaction), 200)
    c.expect_equal("state", state_of(c, uid), "COMPLETED", about=f"PUT /workitems/{uid}/state")


@check("H16", "PS3.4 Table CC.1.1-2", "what the state table forbids is refused, and the state stays", service=SERVICE)
def forbidden(c: Context) -> None:
    uid = create(c, "forbidden")
    transaction = c.maker.uid("transaction", "forbidden")
    for state in ("COMPLETED", "CANCELED", "SCHEDULED", "NONSENSE"):
        c.expect_status(change(c, uid, state, transaction), *REFUSED)
    c.expect_equal("state", state_of(c, uid), "SCHEDULED", about=f"PUT /workitems/{uid}/state")
    c.expect_status(change(c, uid, "IN PROGRESS", transaction), 200)
    for state in ("IN PROGRESS", "SCHEDULED"):
        c.expect_status(change(c, uid, state, transaction), *REFUSED)
    c.expect_equal("state", state_of(c, uid), "IN PROGRESS", about=f"PUT /workitems/{uid}/state")


@check("H19", "PS3.4 CC.2.1.3", "COMPLETED without the final attributes is refused", service=SERVICE)
def unmet(c: Context) -> None:
    uid, transaction = claimed(c, "unmet")
    c.expect_status(change(c, uid, "COMPLETED", transaction), *REFUSED)
    c.expect_equal("state", state_of(c, uid), "IN PROGRESS", about=f"PUT /workitems/{uid}/state")


@check("H21", "PS3.4 Table CC.1.1-2", "COMPLETED to COMPLETED is a Warning, to CANCELED and back is refused",
       service=SERVICE)  # fmt: skip
def final_states(c: Context) -> None:
    uid, transaction = completed(c, "final states")
    again = change(c, uid, "COMPLETED", transaction)
    if c.expect_status(again, 200):
        c.expect("Warning: 299 …", "299" in again.header("Warning"), about=again)
    for state in ("CANCELED", "IN PROGRESS", "SCHEDULED"):
        c.expect_status(change(c, uid, state, transaction), *REFUSED)
    c.expect_equal("state", state_of(c, uid), "COMPLETED", about=f"PUT /workitems/{uid}/state")


@check("H22", "PS3.4 Table CC.1.1-2", "IN PROGRESS becomes CANCELED", service=SERVICE)
def canceled(c: Context) -> None:
    uid, transaction = claimed(c, "canceled")
    body = {"00741002": {"vr": "SQ", "Value": [{
        "00404052": {"vr": "DT", "Value": ["20240115120100"]},
        "0074100E": {"vr": "SQ", "Value": [code("zzr", "reason")]},
    }]}}  # fmt: skip
    c.expect_status(update(c, uid, body, transaction), 200)
    c.expect_status(change(c, uid, "CANCELED", transaction), 200)
    c.expect_equal("state", state_of(c, uid), "CANCELED", about=f"PUT /workitems/{uid}/state")


@check("H23", "PS3.18 11.7.3", "a change of state needs the right Transaction UID", service=SERVICE)
def state_transaction(c: Context) -> None:
    uid = create(c, "no transaction")
    c.expect_status(change(c, uid, "IN PROGRESS"), *REFUSED)
    uid, _ = claimed(c, "other transaction")
    for transaction in ("", c.maker.uid("another")):
        c.expect_status(change(c, uid, "CANCELED", transaction), *REFUSED)
    c.expect_equal("state", state_of(c, uid), "IN PROGRESS", about=f"PUT /workitems/{uid}/state")


@check("H25", "PS3.18 11.7.1", "the state also by .../state/{requester} and .../state?requester", Level.ROBUSTNESS,
       service=SERVICE)  # fmt: skip
def addresses(c: Context) -> None:
    for name, suffix, query in (("path", "/ZZREQUESTER", ""), ("query", "", "ZZREQUESTER")):
        uid = create(c, f"requester {name}")
        body = {
            TRANSACTION: {"vr": "UI", "Value": [c.maker.uid("t", name)]},
            STATE: {"vr": "CS", "Value": ["IN PROGRESS"]},
        }
        c.expect_status(send(c, "PUT", f"/workitems/{uid}/state{suffix}", body, query), 200)


@check("H26", "PS3.18 11.8.3", "a request to cancel a scheduled Workitem: it ends CANCELED", service=SERVICE)
def cancel_scheduled(c: Context) -> None:
    uid = create(c, "cancel scheduled")
    answer = send(c, "POST", f"/workitems/{uid}/cancelrequest")
    # Editions up to 2024e name SCHEDULED among the examples of 409; later ones cancel it (202).
    if c.expect_status(answer, 202, 200, 409) and answer.status != 409:
        c.expect_equal("state", state_of(c, uid), "CANCELED", about=answer)


@check("H27", "PS3.18 11.8.3", "a request to cancel one in progress does not change its state", service=SERVICE)
def cancel_in_progress(c: Context) -> None:
    uid, _ = claimed(c, "cancel in progress")
    answer = send(c, "POST", f"/workitems/{uid}/cancelrequest")
    c.expect_status(answer, 202, 409)
    c.expect_equal("state", state_of(c, uid), "IN PROGRESS", about=answer)


@check("H28", "PS3.18 11.8.3", "a request to cancel a completed Workitem: 409", service=SERVICE)
def cancel_completed(c: Context) -> None:
    uid, _ = completed(c, "cancel completed")
    c.expect_status(send(c, "POST", f"/workitems/{uid}/cancelrequest"), 409)
    c.expect_equal("state", state_of(c, uid), "COMPLETED", about=f"POST /workitems/{uid}/cancelrequest")


@check("H29", "PS3.18 11.8.3", "a request to cancel a canceled Workitem: a Warning 299, or 409", service=SERVICE)
def cancel_canceled(c: Context) -> None:
    uid = create(c, "cancel canceled")
    first = send(c, "POST", f"/workitems/{uid}/cancelrequest")
    if c.expect_status(first, 202, 200, 409) and state_of(c, uid) == "CANCELED":
        again = send(c, "POST", f"/workitems/{uid}/cancelrequest")
        c.expect_status(again, 200, 202, 409)
        warning = again.header("Warning")
        told = warning.startswith("299 ") and "CANCELED" in warning
        c.expect("Warning: 299 …: The UPS is already in the requested state of CANCELED.", told, about=again)


@check("H31", "PS3.18 11.9", "a search by keys of Table CC.2.5-3, sequences too", service=SERVICE)
def search(c: Context) -> None:
    one = create(c, "search one", t00741204={"vr": "LO", "Value": ["ZZ search one"]})
    two = create(c, "search two", t00741204={"vr": "LO", "Value": ["ZZ search two"]},
                 t00404018={"vr": "SQ", "Value": [code("zzsearch", "search")]})  # fmt: skip
    own = f"00100020={c.maker.patient_id('ups')}"
    for query, inside, outside in (
        (own, {one, two}, set()), (f"{own}&00741204=ZZ%20search%20one", {one}, {two}),
        (f"{own}&ProcedureStepLabel=ZZ%20search*", {one, two}, set()),
        (f"{own}&00404018.00080100=zzsearch", {two}, {one}),
        (f"{own}&ScheduledWorkitemCodeSequence.CodeValue=zzsearch", {two}, {one}),
        (f"{own}&ProcedureStepState=IN%20PROGRESS", set(), {one, two}),
    ):  # fmt: skip
        answer = c.web.get("/workitems", query)
        found = {text(each, "00080018") for each in c.objects(answer, 200, 204, 206)}
        c.expect("the Workitems that match, and none that does not", inside <= found and not outside & found, found,
                 about=answer)  # fmt: skip


@check("H32", "PS3.18 11.9.3", "a search without a match: 204; with bad syntax: 400", service=SERVICE)
def no_match(c: Context) -> None:
    served(c)
    c.expect_status(c.web.get("/workitems", f"00100020={c.maker.patient_id('nobody')}"), 204)
    c.expect_status(c.web.get("/workitems", "limit=abc"), 400)


@check("H33", "PS3.4 Table CC.2.5-3", "a found Workitem has the attributes that are always returned", service=SERVICE)
def result(c: Context) -> None:
    uid = create(c, "result")
    answer = c.web.get("/workitems", f"00100020={c.maker.patient_id('ups')}")
    found = next((each for each in c.objects(answer, 200, 206) if text(each, "00080018") == uid), {})
    c.expect("the Workitem", found, about=answer)
    missing_ = [
        tag for tag in ("00080016", "00080018", "00404005", "00404041", STATE, "00741200", LABEL) if tag not in found
    ]
    c.expect("class, UID, start, readiness, state, priority and label", not missing_, missing_, about=answer)


@check("H46", "PS3.4 CC.1.1", "of ten claims at once exactly one succeeds", service=SERVICE)
def race(c: Context) -> None:
    uid = create(c, "race")

    def claim(number: int) -> int:
        own = Web(c.web.base, headers=c.web.secrets, timeout_s=c.web.timeout_s, context=c.web.context)
        other = Context(own, None, c.maker, c.options)
        try:
            return change(other, uid, "IN PROGRESS", c.maker.uid("race", number)).status
        finally:
            own.close()

    with ThreadPoolExecutor(10) as pool:
        statuses = list(pool.map(claim, range(10)))
    c.expect("one 200, the others refused", statuses.count(200) == 1 and all(s in (200, *REFUSED) for s in statuses),
             statuses, about=f"PUT /workitems/{uid}/state")  # fmt: skip
