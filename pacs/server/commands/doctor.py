"""`m3dicom doctor`: what is reachable, misconfigured or slow, with a remedy for each."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING

from pacs import settings as settings_module
from pacs.server.commands import common

if TYPE_CHECKING:
    from pacs.server.commands import Verbs

_SIGNS = {"ok": "  ok  ", "slow": " slow ", "advice": "advice", "wrong": "WRONG "}


def add(verbs: Verbs) -> None:
    """The verb `doctor`."""
    parser = verbs.add_parser("doctor", help="say what is reachable, misconfigured or slow; changes nothing")
    common(parser)
    parser.add_argument("--json", action="store_true", help="a JSON array of findings")
    parser.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    from pacs.server import doctor

    settings = settings_module.load(chosen.config, os.environ, {"data": chosen.data})
    found = []
    for each in doctor.examine(settings):
        found.append(each)
        if not chosen.json:
            print(f"[{_SIGNS[each.level]}] {each.part}: {each.said}", flush=True)
            if each.remedy and each.level != "ok":
                print(f"         -> {each.remedy}", flush=True)
    if chosen.json:
        print(json.dumps([asdict(each) for each in found], indent=1))
    return 1 if any(each.level == "wrong" for each in found) else 0
