"""UPS-RS: subscriptions and their events over WebSocket (PS3.18 11.10 to 11.12, 8.10, PS3.4 CC.2.3, CC.2.4): part H."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from conformance.check import Level, NoAnswer, NotSupported, check
from conformance.client import Answer
from conformance.context import Context, text, values
from conformance.websocket import Refused, Socket
from conformance.worklist import STATE, change, claimed, code, create, final, send, served, state_of, update

SERVICE = "UPS-RS events"
GLOBAL, FILTERED = "1.2.840.10008.5.1.4.34.5", "1.2.840.10008.5.1.4.34.5.1"
STATE_REPORT, CANCEL_REQUESTED, PROGRESS, ASSIGNED = 1, 2, 3, 5
WAIT_S = 30.0


def receiver(c: Context) -> str:
    """The AE title under which the suite subscribes."""
    title = c.dimse_or_none.calling if c.dimse_or_none else "CONFORMANCE"
    if title == c.options.listen.partition("@")[0]:  # there the server may tell its events over DIMSE instead
        return f"{title[:12]}.WEB"
    return title


def subscribe(c: Context, uid: str, query: str = "") -> Answer:
    """The answer to Subscribe. Raises NotSupported where the server has no subscriptions."""
    served(c)
    answer = send(c, "POST", f"/workitems/{uid}/subscribers/{receiver(c)}", None, query)
    if answer.status in (404, 405, 501) and uid in (GLOBAL, FILTERED):
        raise NotSupported(f"{answer.status} for a subscription")
    return answer


def unsubscribe(c: Context, uid: str) -> Answer:
    """The answer to Unsubscribe."""
    return send(c, "DELETE", f"/workitems/{uid}/subscribers/{receiver(c)}")


@contextmanager
def listening(c: Context, address: str = "") -> Iterator[Socket]:
    """The connection on which events come: as the subscription told it, else by the paths of the standard."""
    base = urlsplit(c.web.base)
    ws = f"{'wss' if base.scheme == 'https' else 'ws'}://{base.netloc}"
    told = address if address.startswith(("ws:", "wss:")) else ""
    who = receiver(c)
    paths = (
        f"{base.path}/subscribers/{who}",
        f"{base.path}/",
        f"/ws/subscribers/{who}",
        f"{base.path}/ws/subscribers/{who}",
    )
    places = [told] if told else [ws + path for path in paths]
    refusals = []
    for place in places:
        try:
            opened = Socket(place, c.web.secrets, timeout_s=c.web.timeout_s, context=c.web.context)
        except (Refused, NoAnswer) as error:
            refusals.append(f"{place}: {error}")
            continue
        with opened:
            yield opened
        return
    c.expect("101 Switching Protocols for a WebSocket", False, "; ".join(refusals), about=f"GET {places[0]}")
    raise NotSupported("no WebSocket could be opened")


def await_event(c: Context, socket: Socket, good: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first event that fits, others passed over; empty when none came in time."""
    until = time.monotonic() + min(WAIT_S, c.options.visible_s)
    while (left := until - time.monotonic()) > 0:
        message = socket.text(left)
        if message is None:
            break
        found = json.loads(message)
        event = found[0] if isinstance(found, list) and found else found
        if isinstance(event, dict) and good(event):
            return event
    return {}


def is_about(uid: str, kind: int, **more: str) -> Callable[[dict[str, Any]], bool]:
    """Whether an event is of this type, about this Workitem, with these values."""

    def fits(event: dict[str, Any]) -> bool:
        return (
            text(event, "00001000") == uid
            and text(event, "00001002") == str(kind)
            and all(text(event, tag.removeprefix("t")) == value for tag, value in more.items())
        )

    return fits


@contextmanager
def watching(c: Context, uid: str, query: str = "") -> Iterator[Socket]:
    """A subscription and the open connection of its events; given back at the end."""
    answer = subscribe(c, uid, query)
    c.expect_status(answer, 201, 200)
    try:
        with listening(c, answer.header("Content-Location")) as socket:
            yield socket
    finally:
        unsubscribe(c, uid)


@check("H34", "PS3.18 11.10.3", "a subscription: 201 with the address of the WebSocket", service=SERVICE)
def subscribed(c: Context) -> None:
    answer = subscribe(c, GLOBAL)
    c.expect_status(answer, 201)
    address = answer.header("Content-Location")
    c.expect("Content-Location: ws or wss", address.startswith(("ws:", "wss:")), address, about=answer)
    c.expect_status(unsubscribe(c, GLOBAL), 200)


@check("H35", "PS3.4 CC.2.3.3", "a deletion lock keeps a Workitem beyond its end, until it goes", Level.CONDITIONAL,
       service=SERVICE)  # fmt: skip
def deletion_lock(c: Context) -> None:
    uid, transaction = claimed(c, "locked")
    answer = subscribe(c, uid, "deletionlock=true")
    if answer.status in (405, 501) or "299" in answer.header("Warning"):
        raise NotSupported(f"{answer.status} {answer.header('Warning')}: no deletion lock")
    c.expect_status(answer, 201, 200)
    c.expect_status(update(c, uid, final(c), transaction), 200)
    c.expect_status(change(c, uid, "COMPLETED", transaction), 200)
    c.expect_equal("state", state_of(c, uid), "COMPLETED", about=f"GET /workitems/{uid} with a deletion lock")
    c.expect_status(unsubscribe(c, uid), 200)


@check("H37", "PS3.18 11.10.3", "a subscription to an unknown Workitem: 404", service=SERVICE)
def unknown(c: Context) -> None:
    subscribe(c, GLOBAL)
    unsubscribe(c, GLOBAL)
    c.expect_status(subscribe(c, c.maker.uid("workitem", "nothing")), 404)


@check("H40", "PS3.18 8.10.4", "the connection opens by RFC 6455", service=SERVICE)
def opens(c: Context) -> None:
    with watching(c, GLOBAL) as socket:
        c.expect("101 with the right Sec-WebSocket-Accept", socket.accepted, socket.fields, about=socket.request)


@check("H41", "PS3.18 8.10.5", "a state change comes as a text message of DICOM JSON with its attributes",
       service=SERVICE)  # fmt: skip
def state_report(c: Context) -> None:
    with watching(c, GLOBAL) as socket:
        uid, _ = claimed(c, "reported")
        event = await_event(c, socket, is_about(uid, STATE_REPORT, t00741000="IN PROGRESS"))
        c.expect("a UPS State Report that says IN PROGRESS", event, about=socket.request)
        for tag, wanted in (("00000002", "1.2.840.10008.5.1.4.34.6.4"), ("00000100", "256"), ("00001000", uid),
                            ("00001002", "1"), ("00404041", "READY")):  # fmt: skip
            c.expect_equal(tag, text(event, tag), wanted, about=socket.request)


@check("H42", "PS3.4 CC.2.4", "progress, and a request to cancel, are told to subscribers", service=SERVICE)
def other_events(c: Context) -> None:
    with watching(c, GLOBAL) as socket:
        uid, transaction = claimed(c, "progress")
        body = {"00741002": {"vr": "SQ", "Value": [{"00741004": {"vr": "DS", "Value": [40]}}]}}
        c.expect_status(update(c, uid, body, transaction), 200)
        event = await_event(c, socket, is_about(uid, PROGRESS))
        c.expect("a UPS Progress Report", event, about=socket.request)
        item: dict[str, Any] = next(iter(values(event, "00741002")), {})
        c.expect("the percentage in it", text(item, "00741004").startswith("40"), event, about=socket.request)
        c.expect_status(send(c, "POST", f"/workitems/{uid}/cancelrequest"), 202)
        event = await_event(c, socket, is_about(uid, CANCEL_REQUESTED))
        c.expect("a UPS Cancel Requested", event, about=socket.request)


@check("H43", "PS3.4 CC.2.3.3", "a subscription to one Workitem begins with its state", service=SERVICE)
def initial(c: Context) -> None:
    uid = create(c, "initial")
    answer = subscribe(c, uid)
    if answer.status in (405, 501):
        raise NotSupported(f"{answer.status} for a subscription")
    c.expect_status(answer, 201, 200)
    with listening(c, answer.header("Content-Location")) as socket:
        event = await_event(c, socket, is_about(uid, STATE_REPORT, t00741000="SCHEDULED"))
        c.expect("a UPS State Report that says SCHEDULED", event, about=socket.request)
    unsubscribe(c, uid)


@check("H36", "PS3.18 11.10.1", "a filtered global subscription tells of what matches only", Level.CONDITIONAL,
       service=SERVICE)  # fmt: skip
def filtered(c: Context) -> None:
    mark = f"ZZ {c.maker.run}"[:16]
    answer = subscribe(c, FILTERED, f"filter=00741204={mark.replace(' ', '%20')}")
    if answer.status in (400, 403, 409):
        raise NotSupported(f"{answer.status} for a filtered subscription")
    c.expect_status(answer, 201, 200)
    try:
        with listening(c, answer.header("Content-Location")) as socket:
            other = create(c, "filtered other")
            wanted = create(c, "filtered", t00741204={"vr": "LO", "Value": [mark]})
            seen: list[str] = []

            def is_ours(event: dict[str, Any]) -> bool:
                seen.append(text(event, "00001000"))
                return seen[-1] == wanted

            event = await_event(c, socket, is_ours)
            c.expect("an event of the Workitem that matches", event, seen, about=socket.request)
            c.expect("none of the other", other not in seen, seen, about=socket.request)
    finally:
        unsubscribe(c, FILTERED)


@check("H38", "PS3.18 11.11", "after unsubscribing no events come", service=SERVICE)
def unsubscribed(c: Context) -> None:
    uid = create(c, "unsubscribed")
    answer = subscribe(c, uid)
    if answer.status in (405, 501):
        raise NotSupported(f"{answer.status} for a subscription")
    c.expect_status(answer, 201, 200)
    c.expect_status(unsubscribe(c, uid), 200)
    marker = create(c, "marker")
    c.expect_status(subscribe(c, marker), 201, 200)
    with listening(c, answer.header("Content-Location")) as socket:
        c.expect_status(change(c, uid, "IN PROGRESS", c.maker.uid("u")), 200)
        c.expect_status(change(c, marker, "IN PROGRESS", c.maker.uid("m")), 200)
        seen: list[str] = []

        def is_marker(event: dict[str, Any]) -> bool:
            # The marker's change was made later: when it is told, the other's would have been.
            kind = text(event, STATE)
            if kind == "IN PROGRESS":
                seen.append(text(event, "00001000"))
            return seen[-1:] == [marker]

        event = await_event(c, socket, is_marker)
        c.expect("the event of the Workitem that is still watched", event, about=socket.request)
        c.expect("none of the other", uid not in seen, seen, about=socket.request)
    unsubscribe(c, marker)


@check("H39", "PS3.18 11.12", "a suspended global subscription watches no new Workitems, the old ones still",
       service=SERVICE)  # fmt: skip
def suspended(c: Context) -> None:
    with watching(c, GLOBAL) as socket:
        old = create(c, "old")
        c.expect(
            "a State Report of the first", await_event(c, socket, is_about(old, STATE_REPORT)), about=socket.request
        )
        answer = send(c, "POST", f"/workitems/{GLOBAL}/subscribers/{receiver(c)}/suspend")
        c.expect_status(answer, 200)
        new = create(c, "new")
        c.expect_status(change(c, new, "IN PROGRESS", c.maker.uid("new")), 200)
        c.expect_status(change(c, old, "IN PROGRESS", c.maker.uid("old")), 200)
        seen: list[str] = []

        def is_old(event: dict[str, Any]) -> bool:
            seen.append(text(event, "00001000"))
            return seen[-1] == old and text(event, STATE) == "IN PROGRESS"

        c.expect("the change of the old one", await_event(c, socket, is_old), seen, about=socket.request)
        c.expect("nothing of the new one", new not in seen, seen, about=socket.request)


@check("H45", "PS3.18 8.10.4.2", "a connection opened again brings events again", service=SERVICE)
def reconnected(c: Context) -> None:
    answer = subscribe(c, GLOBAL)
    address = answer.header("Content-Location")
    try:
        with listening(c, address):
            pass
        with listening(c, address) as socket:
            uid = create(c, "reconnected", t00404018={"vr": "SQ", "Value": [code("zz1", "again")]})
            event = await_event(c, socket, is_about(uid, STATE_REPORT))
            c.expect("a State Report after opening again", event, about=socket.request)
    finally:
        unsubscribe(c, GLOBAL)
