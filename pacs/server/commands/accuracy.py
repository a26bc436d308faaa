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
    verb.add_argument("--corrections", action="store_true", help="what was corrected, how often, and by how much")
    shape = verb.add_mutually_exclusive_group()
    shape.add_argument("--csv", action="store_true", help="as CSV")
    shape.add_argument("--json", action="store_true", help="as JSON")
    verb.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    from pacs.server import beside

    settings = settings_module.load(chosen.config, os.environ, {"data": chosen.data})
    asked = {name: value for name in ("plugin", "reader") if (value := getattr(chosen, name))}
    path = "/api/accuracy/corrections?" if chosen.corrections else "/api/accuracy?"
    if chosen.csv:
        sys.stdout.buffer.write(beside.ask_bytes(settings, path + urlencode(asked | {"format": "csv"})))
        return 0
    told = beside.ask(settings, "GET", path + urlencode(asked))
    if chosen.json:
        print(json.dumps(told))
        return 0
    if chosen.corrections:
        _corrections(told)
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
        if each["statements"]:
            print(f"  of images   {_of(each['statements_right'])}")
    return 0


def _corrections(told: list[dict[str, Any]]) -> None:
    if not told:
        print("No reader has corrected anything yet.")
    for each in told:
        unit = f" {each['unit']}" if each["unit"] else ""
        print(f"{each['plugin']} {each['version']}: {each['name']}, corrected {each['corrections']} times")
        if each["mean_difference"] is not None:
            print(f"  corrected minus computed {each['mean_difference']:+.4g}{unit} on average,"
                  f" {each['mean_absolute_difference']:.4g}{unit} whichever way")  # fmt: skip
        if each["most_often"]:
            print(f"  most often {each['most_often']}")


def _of(share: dict[str, float] | None) -> str:
    if share is None:
        return "unknown"
    return f"{share['value']:.1%} (95 % interval {share['low']:.1%} to {share['high']:.1%}, {share['of']} cases)"
