"""`m3dicom forward`: send studies to other systems, see what is on its way, try dead letters again."""

from __future__ import annotations

import argparse
import json
import os
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from pacs import settings as settings_module
from pacs.server.commands import common

if TYPE_CHECKING:
    from pacs.server.commands import Verbs
    from pacs.settings import Settings


def add(verbs: Verbs) -> None:
    """The verb and its own verbs."""
    verb = verbs.add_parser("forward", help="send studies to other systems, and see what became of it")
    inner = verb.add_subparsers(required=True, metavar="VERB")

    send = inner.add_parser("send", help="send a study, series or instance to a destination of the settings")
    common(send)
    send.add_argument("--to", required=True, metavar="NAME", help="name of a [[forward]] entry, or an AE title")
    send.add_argument("--study", required=True, metavar="UID", help="Study Instance UID")
    send.add_argument("--series", metavar="UID", help="only this series")
    send.add_argument("--instance", metavar="UID", help="only this instance")
    send.set_defaults(run=_send)

    listing = inner.add_parser("list", help="deliveries: how many in which state, and the open and dead ones")
    common(listing)
    listing.add_argument("--state", choices=("pending", "sending", "sent", "delivered", "dead"), help="only these")
    listing.add_argument("--study", metavar="UID", help="only of this study")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    listing.set_defaults(run=_list)

    retry = inner.add_parser("retry", help="try dead letters again")
    common(retry)
    retry.add_argument("--to", metavar="NAME", help="only those for this destination or rule")
    retry.add_argument("--id", type=int, action="append", metavar="N", help="only this one; may be repeated")
    retry.set_defaults(run=_retry)


def _settings(chosen: argparse.Namespace) -> Settings:
    return settings_module.load(chosen.config, os.environ, {"data": chosen.data})


def _send(chosen: argparse.Namespace) -> int:
    from pacs.server import beside

    body = {
        "to": chosen.to,
        "study_instance_uid": chosen.study,
        "series_instance_uid": chosen.series,
        "sop_instance_uid": chosen.instance,
    }
    told = beside.ask(_settings(chosen), "POST", "/api/deliveries", body)
    print(f"{told['instances']} instances on their way to {told['to']}; `m3dicom forward list` tells how far")
    return 0


def _list(chosen: argparse.Namespace) -> int:
    from pacs.server import beside

    settings = _settings(chosen)
    asked = {name: value for name in ("state", "study") if (value := getattr(chosen, name)) is not None}
    after = 0
    shown_counts = False
    while True:
        query = urlencode({**asked, "after": after, "limit": 1000})
        told: dict[str, Any] = beside.ask(settings, "GET", f"/api/deliveries?{query}")
        if not chosen.json and not shown_counts:
            for each in told["counts"]:
                print(f"{each['destination']}\t{each['state']}\t{each['number']}")
            shown_counts = True
        for each in told["deliveries"]:
            if chosen.json:
                print(json.dumps(each))
            elif asked or each["state"] != "delivered":
                at = f"{datetime.fromtimestamp(each['updated_at']):%Y-%m-%d %H:%M:%S}"
                print(f"{each['id']}\t{each['state']}\t{each['destination']}\t{each['sop_instance_uid']}\t{at}"
                      f"\t{each['attempt']} tries\t{each['reason']}")  # fmt: skip
            after = each["id"]
        if len(told["deliveries"]) < 1000:
            return 0


def _retry(chosen: argparse.Namespace) -> int:
    from pacs.server import beside

    told = beside.ask(_settings(chosen), "POST", "/api/deliveries/retry", {"to": chosen.to, "ids": chosen.id})
    print(f"{told['tried_again']} tried again")
    return 0
