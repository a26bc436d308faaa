"""`m3dicom accuracy`: what readers say of the findings of each plug-in version, as a table."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any
from urllib.parse import urlencode

from pacs import settings as settings_module
from pacs.server.commands import common


def add(verbs: Any) -> None:
    """The verb."""
    verb = verbs.add_parser("accuracy", help="how often readers found each plug-in right")
    common(verb)
    verb.add_argument("--plugin", metavar="ID", help="only of this plug-in")
    verb.add_argument("--reader", metavar="NAME", help="only by this reader")
    shape = verb.add_mutually_exclusive_group()
    shape.add_argument("--csv", action="store_true", help="as CSV")
    shape.add_argument("--json", action="store_true", help="as JSON")
    verb.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    from pacs.server import beside

    settings = settings_module.load(chosen.config, os.environ, {"data": chosen.data})
    asked = {name: value for name in ("plugin", "reader") if (value := getattr(chosen, name))}
    if chosen.csv:
        sys.stdout.buffer.write(beside.ask_bytes(settings, "/api/accuracy?" + urlencode(asked | {"format": "csv"})))
        return 0
    told = beside.ask(settings, "GET", "/api/accuracy?" + urlencode(asked))
    if chosen.json:
        print(json.dumps(told))
        return 0
    if not told:
        print("No reader has said anything of any finding yet.")
    for each in told:
        print(f"{each['plugin']} {each['version']}")
        print(f"  {each['findings']} findings in {each['reports']} reports that were read by {each['readers']} readers")
        print(f"  {each['judged']} judged: {each['accepted']} accepted, {each['corrected']} corrected,"
              f" {each['rejected']} rejected; {each['missed']} missed")  # fmt: skip
        print(f"  precision   {_of(each['precision'])}")
        print(f"  sensitivity {_of(each['sensitivity'])}")
    return 0


def _of(share: dict[str, float] | None) -> str:
    if share is None:
        return "unknown"
    return f"{share['value']:.1%} (95 % interval {share['low']:.1%} to {share['high']:.1%}, {share['of']} cases)"
