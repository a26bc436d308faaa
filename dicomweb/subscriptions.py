"""Watching the worklist over HTTP (PS3.18 11.10 to 11.12): subscriptions, whose events `dicomweb.websocket` brings."""

from __future__ import annotations

import re
from functools import partial
from urllib.parse import quote

from dicomweb.answers import Answer
from dicomweb.calls import Call
from dicomweb.params import flag
from dicomweb.worklist import MAX_KEYS, add_key
from pacs.auth import Right
from pacs.dicom.ups_events import FILTERED_GLOBAL_UID
from pacs.errors import ActionUnsuitable, InvalidInput, InvalidQuery, NotFound

SOCKET = "/subscribers/"
_BETWEEN = re.compile(r",(?=[A-Za-z0-9.]+=)")


async def subscribe(call: Call) -> Answer:
    """POST /workitems/{workitem}/subscribers/{aetitle} (11.10): 201 with the WebSocket that brings the events.

    `workitem` may be the well-known UID of the worklist, or of a filter over it, whose matching keys stand in `filter`
    or in the query by themselves.
    """
    principal = call.principal(Right.QUERY)
    uid, receiver = call.uid("workitem"), call.params["aetitle"]
    lock = flag({"deletionlock": call.parameter("deletionlock") or "false"}, "deletionlock")
    keys: dict[str, str] = {}
    if uid == FILTERED_GLOBAL_UID:
        for name, value in call.query:
            if name == "filter":
                for pair in _BETWEEN.split(value):
                    key, _, text = pair.partition("=")
                    if not add_key(keys, key.strip(), text):
                        raise InvalidQuery("the filter names no attribute that can be matched")
            elif name != "deletionlock" and not add_key(keys, name, value):
                raise InvalidQuery("the query names no attribute that can be matched")
        if len(keys) > MAX_KEYS:
            raise InvalidQuery(f"more than {MAX_KEYS} matching keys")
    address = socket_address(call.service_root, receiver)
    await call.io(partial(call.archive.worklist.subscribe, uid, receiver, principal, lock=lock, keys=keys))
    return Answer(201, headers=[("Content-Location", address)])


async def unsubscribe(call: Call) -> Answer:
    """DELETE the same (11.11): 200; nothing more is told, and what waits to be told is dropped."""
    principal = call.principal(Right.QUERY)
    uid, receiver = call.uid("workitem"), call.params["aetitle"]
    if not await call.io(call.archive.worklist.unsubscribe, uid, receiver, principal):
        raise NotFound("there is no such subscription", about=uid)
    return Answer(200)


async def suspend(call: Call) -> Answer:
    """POST .../suspend (11.12): 200; no Workitem to come is watched, those that are there still are."""
    principal = call.principal(Right.QUERY)
    uid, receiver = call.uid("workitem"), call.params["aetitle"]
    try:
        ended = await call.io(call.archive.worklist.suspend, uid, receiver, principal)
    except ActionUnsuitable as error:
        raise InvalidInput(error.reason, about=uid) from None
    if not ended:
        raise NotFound("there is no such subscription", about=uid)
    return Answer(200)


def socket_address(service_root: str, receiver: str) -> str:
    """The ws or wss URL on which the events of an AE arrive."""
    return "ws" + service_root.removeprefix("http") + SOCKET + quote(receiver, safe="")
