"""`m3dicom tasks` and `m3dicom rules`: how tasks end, dead letters, and what rules do with a study and why not."""

from __future__ import annotations

import argparse
import json
import os
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from pacs import settings as settings_module
from pacs.server.commands import common

if TYPE_CHECKING:
    from pacs.server.commands import Verbs

ENDS = ("completed", "cancelled", "superseded", "refused", "failed", "expired", "discarded")


def add(verbs: Verbs) -> None:
    """Both verbs and their own verbs."""
    tasks = verbs.add_parser("tasks", help="see tasks and why they ended; take up or discard dead letters")
    inner = tasks.add_subparsers(required=True, metavar="VERB")

    listing = inner.add_parser("list", help="tasks, the last changed first")
    common(listing)
    listing.add_argument("--dead", action="store_true", help="only dead letters: what failed for good")
    listing.add_argument("--ended", choices=ENDS, help="only what ended so")
    listing.add_argument("--plugin", metavar="ID", help="only of this plug-in")
    listing.add_argument("--study", metavar="UID", help="only of this study")
    listing.add_argument("--limit", type=int, default=100, metavar="N", help="at most so many (default: 100)")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    listing.set_defaults(run=_list)

    show = inner.add_parser("show", help="all that is known of a task")
    common(show)
    show.add_argument("uid", metavar="UID", help="the Workitem's UID")
    show.set_defaults(run=_show)

    for name, what in (("requeue", "take dead letters up again"), ("discard", "take dead letters off the list")):
        verb = inner.add_parser(name, help=what)
        common(verb)
        verb.add_argument("uids", nargs="*", metavar="UID", help="which; or --plugin")
        verb.add_argument("--plugin", metavar="ID", help="all dead letters of this plug-in")
        verb.set_defaults(run=_take_up if name == "requeue" else _discard)

    rules = verbs.add_parser("rules", help="see the rules that start plug-ins, and what they would do")
    inner = rules.add_subparsers(required=True, metavar="VERB")
    shown = inner.add_parser("list", help="the rules of the settings, and the plug-ins' own")
    common(shown)
    shown.set_defaults(run=_rules)
    test = inner.add_parser("test", help="what each rule would do with a study now, and why not")
    common(test)
    test.add_argument("study", metavar="STUDY", help="Study Instance UID")
    test.set_defaults(run=_test)
    waiting = inner.add_parser("waiting", help="what rules wait for")
    common(waiting)
    waiting.set_defaults(run=_waiting)


def _ask(chosen: argparse.Namespace, method: str, path: str, body: object = None) -> Any:
    from pacs.server import beside

    settings = settings_module.load(chosen.config, os.environ, {"data": chosen.data})
    return beside.ask(settings, method, path, body)


def _at(moment: float | None) -> str:
    return "" if moment is None else f"{datetime.fromtimestamp(moment):%Y-%m-%d %H:%M:%S}"


def _list(chosen: argparse.Namespace) -> int:
    ended = "failed" if chosen.dead else chosen.ended
    asked = {"ended": ended, "plugin": chosen.plugin, "study": chosen.study, "limit": chosen.limit}
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    for task in _ask(chosen, "GET", f"/api/tasks?{query}"):
        if chosen.json:
            print(json.dumps(task))
        else:
            state = task["ended"] or task["state"].lower()
            print(f"{task['uid']}\t{state}\t{task['plugin']}\t{_at(task['updated_at'])}\t{task['attempt']} tries"
                  f"\t{task['reason'] or task['waits_for'] or task['message']}")  # fmt: skip
    return 0


def _show(chosen: argparse.Namespace) -> int:
    for name, value in _ask(chosen, "GET", f"/api/tasks/{quote(chosen.uid, safe='')}").items():
        shown = _at(value) if name.endswith("_at") else value
        if shown not in (None, ""):
            print(f"{name:20}{shown}")
    return 0


def _take_up(chosen: argparse.Namespace) -> int:
    told = _ask(chosen, "POST", "/api/tasks/requeue", {"uids": chosen.uids, "plugin": chosen.plugin})
    for old, new in told["requeued"].items():
        print(f"{old}\t{new}")
    print(f"{len(told['requeued'])} taken up again")
    return 0


def _discard(chosen: argparse.Namespace) -> int:
    told = _ask(chosen, "POST", "/api/tasks/discard", {"uids": chosen.uids, "plugin": chosen.plugin})
    print(f"{len(told['discarded'])} discarded")
    return 0


def _rules(chosen: argparse.Namespace) -> int:
    for rule in _ask(chosen, "GET", "/api/rules"):
        origin = "the plug-in's own" if rule["own"] else "of the settings"
        tests = [*rule["when"], *(f"results of {each}" for each in rule["results_of"])]
        print(f"{rule['rule']}\t{rule['plugin']}\t{origin}\t{rule['priority']}\t{'; '.join(tests)}")
    return 0


def _test(chosen: argparse.Namespace) -> int:
    for told in _ask(chosen, "GET", f"/api/rules/test?{urlencode({'study': chosen.study})}"):
        until = f" until {_at(told['until'])}" if told["until"] else ""
        print(f"{told['rule']}\t{told['plugin']}\t{told['verdict']}{until}\t{told['why']}")
        for task in told["tasks"]:
            print(f"\t{task}")
    return 0


def _waiting(chosen: argparse.Namespace) -> int:
    for wait in _ask(chosen, "GET", "/api/rules/waiting"):
        print(f"{wait['rule']}\t{wait['study_instance_uid']}\tsince {_at(wait['since'])}"
              f"\tuntil {_at(wait['due_at'])}\t{wait['answer'] or wait['why']}")  # fmt: skip
    return 0
