"""`m3dicom retention` and `m3dicom keep`: what rules would remove and why, and studies that they must not touch."""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pacs import settings as settings_module
from pacs.server.commands import common

if TYPE_CHECKING:
    from pacs.server.commands import Verbs


def add(verbs: Verbs) -> None:
    """Both verbs."""
    retention = verbs.add_parser("retention", help="what the retention rules would remove now, and what stays and why")
    common(retention)
    retention.add_argument("--dry-run", action="store_true", help="said for clarity: this command removes nothing")
    retention.add_argument("--json", action="store_true", help="one JSON object a line")
    retention.set_defaults(run=_retention)

    keep = verbs.add_parser("keep", help="mark a study: no retention rule touches it; without one, list them")
    common(keep)
    keep.add_argument("study", nargs="?", metavar="STUDY", help="Study Instance UID")
    keep.add_argument("--reason", default="", help="why; needed to mark one")
    keep.add_argument("--release", action="store_true", help="take the mark away")
    keep.set_defaults(run=_keep)


def _ask(chosen: argparse.Namespace, method: str, path: str, body: object = None) -> Any:
    from pacs.server import beside

    settings = settings_module.load(chosen.config, os.environ, {"data": chosen.data})
    return beside.ask(settings, method, path, body)


def _retention(chosen: argparse.Namespace) -> int:
    found = _ask(chosen, "GET", "/api/retention")
    for each in found:
        if chosen.json:
            print(json.dumps(each, ensure_ascii=False))
            continue
        size = f"{each['instances']} instances, {each['bytes'] / 1e6:.1f} MB"
        fate = f"stays: {each['stays']}" if each["stays"] else "goes"
        print(f"{each['rule']}\t{each['study_instance_uid']}\t{each['what']}\t{size}\t{each['why']}\t{fate}")
    if not chosen.json:
        going = [each for each in found if not each["stays"]]
        print(f"{len(going)} go, {len(found) - len(going)} stay; nothing was removed by this command")
    return 0


def _keep(chosen: argparse.Namespace) -> int:
    if chosen.study is None:
        for each in _ask(chosen, "GET", "/api/kept"):
            print(f"{each['study_instance_uid']}\t{each['principal']}\t{each['reason']}")
        return 0
    path = f"/api/studies/{quote(chosen.study, safe='')}/keep"
    if chosen.release:
        _ask(chosen, "DELETE", path)
        print("released")
    else:
        _ask(chosen, "PUT", path, {"reason": chosen.reason})
        print("kept")
    return 0
