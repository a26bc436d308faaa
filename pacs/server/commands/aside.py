"""`m3dicom quarantine`, `versions`, `rejected` and `discrepancies`: what waits for a person, and deciding on it."""

from __future__ import annotations

import argparse
import json
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pacs import settings as settings_module
from pacs.server.commands import common

if TYPE_CHECKING:
    from pacs.server.commands import Verbs


def add(verbs: Verbs) -> None:
    """The four verbs and their own verbs."""
    _kind(
        verbs, "quarantine", "/api/quarantine", "other content under known UIDs, waiting for a person",
        accept=("accept", "make it the instance; what is there becomes an old version"),
        reject=("reject", "remove it for good"),
    )  # fmt: skip
    _kind(
        verbs, "versions", "/api/versions", "old versions of replaced instances",
        restore=("restore", "make it the instance again"), remove=("remove", "remove it for good"),
    )  # fmt: skip
    _kind(
        verbs, "rejected", "/api/rejections", "instances that a rejection note has hidden",
        restore=("restore", "show it again, and let it come again"), remove=("remove", "remove it for good"),
    )  # fmt: skip

    parser = verbs.add_parser("discrepancies", help="arrivals whose patient or study contradicts what is known")
    inner = parser.add_subparsers(required=True, metavar="VERB")
    listing = inner.add_parser("list", help="those that nobody has settled")
    common(listing)
    listing.add_argument("--all", action="store_true", help="settled ones, too")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    listing.set_defaults(run=_discrepancies)
    settle = inner.add_parser("settle", help="mark one as looked at")
    common(settle)
    settle.add_argument("id", type=int)
    settle.set_defaults(run=_settle)


def _kind(verbs: Verbs, name: str, path: str, words: str, **decisions: tuple[str, str]) -> None:
    inner = verbs.add_parser(name, help=words).add_subparsers(required=True, metavar="VERB")
    listing = inner.add_parser("list", help="all of them, the newest first")
    common(listing)
    if name == "versions":
        listing.add_argument("instance", metavar="INSTANCE", help="SOP Instance UID")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    listing.set_defaults(run=_list, path=path)
    show = inner.add_parser("show", help="one of them, and how it differs from the instance that is held")
    common(show)
    show.add_argument("id", type=int)
    show.set_defaults(run=_show, path=path)
    for verb, (decision, meaning) in decisions.items():
        deciding = inner.add_parser(verb, help=meaning)
        common(deciding)
        deciding.add_argument("id", type=int)
        deciding.add_argument("--reason", required=True, help="recorded in the audit")
        deciding.set_defaults(run=_decide, path=path, decision=decision)


def _ask(chosen: argparse.Namespace, method: str, path: str, body: object = None) -> Any:
    from pacs.server import beside

    settings = settings_module.load(chosen.config, os.environ, {"data": chosen.data})
    return beside.ask(settings, method, path, body)


def _list(chosen: argparse.Namespace) -> int:
    instance = getattr(chosen, "instance", None)
    path = chosen.path if instance is None else f"/api/instances/{quote(instance, safe='')}/versions"
    for each in _ask(chosen, "GET", path):
        if chosen.json:
            print(json.dumps(each, ensure_ascii=False))
        else:
            sender = each["source_ae"] or each["principal"]
            print(f"{each['id']}\t{_time(each['at'])}\t{each['sop_instance_uid']}\tfrom {sender}\t{each['reason']}")
    return 0


def _show(chosen: argparse.Namespace) -> int:
    print(json.dumps(_ask(chosen, "GET", f"{chosen.path}/{chosen.id}"), ensure_ascii=False, indent=2))
    return 0


def _decide(chosen: argparse.Namespace) -> int:
    body = {"decision": chosen.decision, "reason": chosen.reason}
    done = _ask(chosen, "POST", f"{chosen.path}/{chosen.id}", body)
    print(f"{chosen.decision}: {done['sop_instance_uid']}")
    return 0


def _discrepancies(chosen: argparse.Namespace) -> int:
    for each in _ask(chosen, "GET", "/api/discrepancies" + ("?all=true" if chosen.all else "")):
        if chosen.json:
            print(json.dumps(each, ensure_ascii=False))
            continue
        facts = f"{_plain(each['found'])} came, {_plain(each['held'])} is known"
        settled = "\tsettled" if each["settled_at"] else ""
        print(f"{each['id']}\t{_time(each['at'])}\t{each['kind']}\t{each['study_instance_uid']}\t{facts}{settled}")
    return 0


def _settle(chosen: argparse.Namespace) -> int:
    _ask(chosen, "POST", f"/api/discrepancies/{chosen.id}/settle", {})
    print(f"settled: {chosen.id}")
    return 0


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else " ".join(filter(None, value)) or "(none)"


def _time(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"
