"""`m3dicom analyze`: one plug-in over all studies of a query, on the running server."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacs import settings as settings_module
from pacs.errors import InvalidInput
from pacs.server.commands import common

if TYPE_CHECKING:
    from pacs.server.commands import Verbs
    from pacs.settings import Settings

LOOK_S = 1.0
FINAL = ("done", "failed", "cancelled")


def add(verbs: Verbs) -> None:
    """The verb."""
    verb = verbs.add_parser(
        "analyze",
        help="compute a plug-in over all studies of a query",
        description="Starts a batch on the running server, or looks after one. Without --plugin it lists batches.",
    )
    common(verb)
    new = verb.add_argument_group("a new batch")
    new.add_argument("--plugin", metavar="ID", help="what to compute; `m3dicom plugin list` names them")
    new.add_argument("--query", metavar="Q", default=None,
                     help='which studies: "ModalitiesInStudy=CT&StudyDate=20200101-"; "" = all')  # fmt: skip
    new.add_argument("--parameters", metavar="JSON", default="{}", help="of the plug-in; others keep their defaults")
    new.add_argument(
        "--priority", choices=("low", "medium", "high"), default="low", help="low: what arrives goes first"
    )
    new.add_argument("--rate", metavar="N/min", type=rate, help="at most so many tasks a minute (or N/h, N/s)")
    new.add_argument(
        "--at-once", metavar="N", type=int, default=100, help="at most so many tasks that are not finished"
    )
    new.add_argument("--only-changed", action="store_true",
                     help="leave out what has results of this version with these parameters")  # fmt: skip
    new.add_argument("--dry-run", action="store_true", help="tell what would be computed, and do nothing")
    known = verb.add_argument_group("a batch that is there")
    known.add_argument("--show", metavar="N", type=int, help="how far batch N is")
    known.add_argument("--pause", metavar="N", type=int, help="make no more tasks of batch N")
    known.add_argument("--resume", metavar="N", type=int, help="go on with batch N; what failed is tried again")
    verb.add_argument("--version", metavar="V", help="of the plug-in: refuse another, or resume a batch with this one")
    known.add_argument("--cancel", metavar="N", type=int, help="end batch N and its tasks")
    known.add_argument("--report", metavar="N", type=int, help="what batch N came to, as CSV")
    known.add_argument("--changes", metavar="N", type=int, help="old against new of batch N, as CSV")
    verb.add_argument("--watch", action="store_true", help="stay until it is done; 1 when a task failed")
    verb.add_argument("--out", metavar="FILE", type=Path, help="write the CSV there")
    verb.add_argument("--json", action="store_true", help="answers as JSON")
    verb.set_defaults(run=_run)


def rate(text: str) -> float:
    """A number of tasks a minute: "30/min", "2/s", "600/h", or a bare number of them."""
    number, _, per = text.partition("/")
    factors = {"": 1.0, "min": 1.0, "m": 1.0, "s": 60.0, "h": 1 / 60}
    try:
        value = float(number) * factors[per.strip()]
    except (ValueError, KeyError):
        raise argparse.ArgumentTypeError(f"{text!r} is no rate: write 30/min") from None
    if not 0 < value <= 100_000:
        raise argparse.ArgumentTypeError("a rate is more than 0 and at most 100000/min")
    return value


def _run(chosen: argparse.Namespace) -> int:
    from pacs.server import beside

    settings: Settings = settings_module.load(chosen.config, os.environ, {"data": chosen.data})
    asked = [
        name for name in ("show", "pause", "resume", "cancel", "report", "changes") if getattr(chosen, name) is not None
    ]
    if len(asked) > 1 or (asked and chosen.plugin):
        raise InvalidInput("one thing at a time: --plugin, --show, --pause, --resume, --cancel, --report or --changes")
    if chosen.plugin:
        return _new(settings, chosen)
    if not asked:
        if chosen.query is not None or chosen.dry_run:
            raise InvalidInput("--plugin is needed: what to compute")
        return _list(settings, chosen)
    name, number = asked[0], getattr(chosen, asked[0])
    if name in ("report", "changes"):
        return _csv(settings, chosen, number, "table" if name == "report" else "changes")
    method = "GET" if name == "show" else "POST"
    body = {"version": chosen.version} if name == "resume" else None
    told = beside.ask(settings, method, f"/api/batches/{number}" + ("" if name == "show" else f"/{name}"), body)
    return _after(settings, chosen, told)


def _new(settings: Settings, chosen: argparse.Namespace) -> int:
    from pacs.server import beside

    if chosen.query is None:
        raise InvalidInput('--query is needed: which studies; --query "" means all')
    try:
        parameters = json.loads(chosen.parameters)
    except ValueError:
        raise InvalidInput("--parameters is no JSON") from None
    body = {
        "plugin": chosen.plugin, "version": chosen.version, "query": chosen.query,
        "parameters": parameters, "priority": chosen.priority.upper(),
        "rate_per_minute": chosen.rate, "at_once": chosen.at_once, "only_changed": chosen.only_changed,
    }  # fmt: skip
    if chosen.dry_run:
        told = beside.ask(settings, "POST", "/api/batches/preview", body)
        if chosen.json:
            print(json.dumps(told))
            return 0
        print(f"{told['plugin']} {told['version']}: {told['studies']} studies, {told['tasks']} tasks")
        print(f"  {told['to_run']} would be computed, {told['replacing']} of them have other results already")
        print(f"  {told['there']} are done, {told['open']} wait or run, {told['unchanged']} are left out as unchanged")
        print(f"  {duration(told['estimate_s'])}")
        for each in told["examples"]:
            print(f"    {each['study_instance_uid']}\t{each['label']}")
        if told["to_run"] > len(told["examples"]):
            print(f"    and {told['to_run'] - len(told['examples'])} more")
        return 0
    return _after(settings, chosen, beside.ask(settings, "POST", "/api/batches", body))


def duration(seconds: float | None) -> str:
    """An estimate in words."""
    if seconds is None:
        return "how long that takes is not known: none was computed yet"
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


def _after(settings: Settings, chosen: argparse.Namespace, told: dict[str, Any]) -> int:
    from pacs.server import beside

    said = ""
    while True:
        words = _words(told)
        if not chosen.json and words != said:
            print(words, flush=True)
            said = words
        if not chosen.watch or told["state"] in FINAL:
            break
        time.sleep(LOOK_S)
        told = beside.ask(settings, "GET", f"/api/batches/{told['id']}")
    if chosen.json:
        print(json.dumps(told))
    if chosen.watch and told["state"] == "done" and chosen.out:
        _csv(settings, chosen, told["id"], "table")
    wrong = told["state"] == "failed" or told["items"].get("failed") or told["items"].get("canceled")
    return 1 if chosen.watch and (wrong or told["state"] == "cancelled") else 0


def _words(told: dict[str, Any]) -> str:
    items = ", ".join(f"{number} {state}" for state, number in sorted(told["items"].items())) or "no tasks yet"
    more = f" ({told['unchanged']} unchanged)" if told["unchanged"] else ""
    left = f", {duration(told['estimate_s'])} left" if told["estimate_s"] else ""
    reason = f": {told['reason']}" if told["reason"] else ""
    return (
        f"batch {told['id']} {told['state']}{reason}: {told['progress']:.0%} of {told['plugin']}, {items}{more}{left}"
    )


def _list(settings: Settings, chosen: argparse.Namespace) -> int:
    from pacs.server import beside

    for told in beside.ask(settings, "GET", "/api/batches?limit=1000"):
        print(json.dumps(told) if chosen.json else _words(told))
    return 0


def _csv(settings: Settings, chosen: argparse.Namespace, number: int, table: str) -> int:
    """Write a table of the report; why it is not the one that the plug-in makes goes to standard error."""
    from pacs.server import beside

    note = beside.ask(settings, "GET", f"/api/batches/{number}/report")["note"] if table == "table" else ""
    content = beside.ask_bytes(settings, f"/api/batches/{number}/report?format=csv&table={table}")
    if chosen.out:
        chosen.out.write_bytes(content)
    else:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    if note:
        print(f"m3dicom: {note}; this is the default table", file=sys.stderr)
    return 0
