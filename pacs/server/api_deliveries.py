"""/api/deliveries: what is on its way to other systems, sending on demand, and trying dead letters again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pacs import uids
from pacs.auth import Right
from pacs.errors import InvalidInput
from pacs.index.deliveries import STATES
from pacs.json_api import NUMBER, TEXT, UID, Asked, Body, Field, Row

if TYPE_CHECKING:
    from pacs.forward import Forward

LISTED = 100
LISTED_AT_MOST = 1000
MAX_ID = 1 << 59


class Send(Body):
    """What is to be sent, and to whom: a study, a series or an instance."""

    to: str
    study_instance_uid: str
    series_instance_uid: str | None = None
    sop_instance_uid: str | None = None


class Retry(Body):
    """Which dead letters: by their ids, those for one destination, or all."""

    ids: list[int] | None = None
    to: str | None = None


_LISTED: dict[str, Any] = {
    "type": "object",
    "properties": {
        "destinations": {"type": "array", "items": TEXT},
        "counts": {"type": "array", "items": {"type": "object"}},
        "deliveries": {"type": "array", "items": {"type": "object"}},
    },
}
_SENT: dict[str, Any] = {"type": "object", "properties": {"to": TEXT, "instances": NUMBER}}
_RETRIED: dict[str, Any] = {"type": "object", "properties": {"tried_again": NUMBER}}


def rows(forward: Forward) -> list[Row]:
    """The rows of the return path."""

    def listed(asked: Asked) -> object:
        after, limit = asked.count("after", 0, MAX_ID), asked.count("limit", LISTED, LISTED_AT_MOST)
        if limit < 1:
            raise InvalidInput(f"limit is 1 to {LISTED_AT_MOST}, after an id")
        query = asked.query
        found = forward.listed(
            asked.principal, state=query.get("state"), study=query.get("study"), after=after, limit=limit
        )
        return {"destinations": forward.names, "counts": forward.counts(), "deliveries": found}

    def send(asked: Asked) -> object:
        body: Send = asked.body
        study = uids.checked(body.study_instance_uid, "study_instance_uid")
        series, instance = (
            None if value is None else uids.checked(value, name)
            for name, value in (
                ("series_instance_uid", body.series_instance_uid),
                ("sop_instance_uid", body.sop_instance_uid),
            )
        )
        return {"to": body.to, "instances": forward.request(asked.principal, body.to, study, series, instance)}

    def retry(asked: Asked) -> object:
        return {"tried_again": forward.retry(asked.principal, asked.body.ids, asked.body.to)}

    query = (
        Field("state", "Only these.", {"type": "string", "enum": list(STATES)}),
        Field("study", "Only of this Study Instance UID.", UID),
        Field("after", "Only with a greater id.", NUMBER),
        Field("limit", "At most so many.", {"type": "integer", "minimum": 1, "maximum": LISTED_AT_MOST}),
    )
    tag = "deliveries"
    return [
        Row("GET", "/api/deliveries", listed, "What is on its way, arrived, or given up.", tag, Right.READ, query,
            answer=_LISTED),
        Row("POST", "/api/deliveries", send, "Send a study, series or instance.", tag, Right.READ, body=Send,
            answer=_SENT, status=202, errors=(404,)),
        Row("POST", "/api/deliveries/retry", retry, "Try dead letters again.", tag, Right.ADMIN, body=Retry,
            answer=_RETRIED),
    ]  # fmt: skip
