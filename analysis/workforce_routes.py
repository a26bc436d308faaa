"""GET /api/queues: by plug-in what waits, runs and was given up, and which workers take it."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pacs.auth import Right
from pacs.json_api import Row

if TYPE_CHECKING:
    from pacs.workforce import Workforce

_COUNT = {"type": "integer", "minimum": 0}
_WORKER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "version": {"type": "string", "description": "Of the plug-in"},
        "device": {"type": "string"},
        "slots": _COUNT,
    },
    "required": ["name", "version", "device", "slots"],
}
_QUEUE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "plugin": {"type": "string"},
        "waiting": _COUNT | {"description": "Tasks that a worker could take now"},
        "oldest_s": {"type": "number", "description": "How long the oldest of them has waited, in seconds"},
        "later": _COUNT | {"description": "Not due, or inputs not ready"},
        "running": _COUNT,
        "dead": _COUNT | {"description": "Given up after the last attempt"},
        "stranded": _COUNT | {"description": "Of those that wait, the ones that none of the workers can take"},
        "why": {"type": "string", "description": "What these wait for, in words"},
        "workers": {"type": "array", "items": _WORKER, "description": "Empty: nobody takes these tasks"},
    },
    "required": ["plugin", "waiting", "oldest_s", "later", "running", "dead", "stranded", "why", "workers"],
}


def rows(workforce: Workforce) -> list[Row]:
    """The row of the JSON API."""
    return [
        Row(
            "GET",
            "/api/queues",
            lambda _: described(workforce, time.time()),
            "Tasks by plug-in: how many wait, run and were given up, and which workers take them.",
            tag="tasks",
            right=Right.QUERY,
            answer={"type": "array", "items": _QUEUE},
        )
    ]


def described(workforce: Workforce, now: float) -> list[dict[str, Any]]:
    """The queues as JSON. Raises Unavailable."""
    found = []
    for queue in workforce.queues(now):
        told = asdict(queue)
        posts = told.pop("posts")
        workers = [
            {"name": post["name"], "version": post["plugins"][queue.plugin], "device": post["device"],
             "slots": post["slots"]}
            for post in posts
        ]  # fmt: skip
        found.append(told | {"oldest_s": round(queue.oldest_s, 1), "workers": workers})
    return found
