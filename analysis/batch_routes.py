"""/api/batches: looking ahead, starting, following and ending batches, and what came of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analysis.batch_models import Batch, Item, NewBatch, Preview, Resume
from analysis.batch_report import TABLE, as_csv
from pacs.auth import Right
from pacs.index.batches import ITEM_STATES, STATES
from pacs.json_api import NUMBER, TEXT, Asked, Field, Reply, Row

if TYPE_CHECKING:
    from analysis.batch import Batches

MOST_LISTED = 1000
_OWN = "For whoever asked for the batch, and administrators; a refusal is audited."
_LIMIT = Field("limit", "At most so many.", {"type": "integer", "minimum": 1, "maximum": MOST_LISTED})
_TABLE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "title": TEXT,
        "columns": {"type": "array", "items": TEXT},
        "rows": {"type": "array", "items": {"type": "array"}},
        "summary": TEXT,
    },
}
_REPORT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "table": _TABLE, "changes": _TABLE,
        "by": {"type": "string", "description": "Who made the table: the plug-in's id, or default"}, "note": TEXT,
    },
}  # fmt: skip


def rows(batches: Batches) -> list[Row]:
    """The rows of the JSON API."""

    def listed(asked: Asked) -> object:
        before = asked.count("before", 0, 1 << 59) or None
        limit = max(1, asked.count("limit", 50, MOST_LISTED))
        return batches.listed(asked.principal, asked.query.get("state"), before, limit)

    def items(asked: Asked) -> object:
        after, limit = asked.count("after", 0, 1 << 59), max(1, asked.count("limit", 100, MOST_LISTED))
        return batches.items(asked.principal, asked.number(), asked.query.get("state"), after, limit)

    def report(asked: Asked) -> object:
        found = batches.report(asked.principal, asked.number())
        if asked.query.get("format") != "csv":
            return found
        which = asked.query.get("table", "table")
        content = as_csv(TABLE.validate_python(found[which]))
        return Reply(content, "text/csv; charset=utf-8", f"batch-{asked.number()}-{which}.csv")

    tag = "batches"
    many = {"type": "string", "enum": list(STATES)}
    return [
        Row("GET", "/api/batches", listed, "Batches, the newest first.", tag, Right.QUERY,
            (Field("state", "Only these.", many), Field("before", "Only with a lower id.", NUMBER), _LIMIT),
            answer=list[Batch]),
        Row("POST", "/api/batches", lambda asked: batches.create(asked.principal, asked.body),
            "Compute a plug-in over all studies of a query.", tag, Right.PROCESS, body=NewBatch, answer=Batch,
            status=201,
            description="Workitems are made one by one, as rate and number at once allow, and never twice for the same "
            "plug-in, version, parameters and instances."),
        Row("POST", "/api/batches/preview", lambda asked: batches.preview(asked.principal, asked.body),
            "What such a batch would do now.", tag, Right.PROCESS, body=NewBatch, answer=Preview),
        Row("GET", "/api/batches/{id}", lambda asked: batches.one(asked.principal, asked.number()),
            "One batch, and how far it is.", tag, Right.QUERY, answer=Batch),
        Row("GET", "/api/batches/{id}/items", items, "Its tasks in order.", tag, Right.QUERY,
            (Field("state", "Only these.", {"type": "string", "enum": list(ITEM_STATES)}),
             Field("after", "Only with a greater id.", NUMBER), _LIMIT),
            answer=list[Item]),
        Row("POST", "/api/batches/{id}/pause", lambda asked: batches.pause(asked.principal, asked.number()),
            "Make no more Workitems; those that there are go on.", tag, Right.PROCESS, answer=Batch, errors=(409,),
            description=_OWN),
        Row("POST", "/api/batches/{id}/resume",
            lambda asked: batches.resume(asked.principal, asked.number(), asked.body.version),
            "Go on; what failed or was cancelled is tried again.", tag, Right.PROCESS, body=Resume, answer=Batch,
            errors=(409,), description=f"{_OWN} A batch is bound to the version of the plug-in that it was made with: "
            "where another is installed, name it, and all of it is done with that."),
        Row("POST", "/api/batches/{id}/cancel", lambda asked: batches.cancel(asked.principal, asked.number()),
            "End it, and its Workitems that are not finished.", tag, Right.PROCESS, answer=Batch, errors=(409,),
            description=_OWN),
        Row("GET", "/api/batches/{id}/report", report, "What it came to, once it is done.", tag, Right.READ,
            (Field("format", "json (default) or csv.", {"type": "string", "enum": ["json", "csv"]}),
             Field("table", "Of CSV: the results, or old against new.",
                   {"type": "string", "enum": ["table", "changes"]})),
            answer=_REPORT, also=("text/csv",)),
    ]  # fmt: skip
