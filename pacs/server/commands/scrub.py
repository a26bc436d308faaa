"""`m3dicom scrub`: stored objects read again and held against their digests; cases listed; orphans put right."""

from __future__ import annotations

import argparse
import math
import os
import sys
from typing import TYPE_CHECKING

from pacs import settings as settings_module
from pacs.server.commands import common

if TYPE_CHECKING:
    from pacs.scrub import Scrub
    from pacs.server.commands import Verbs


def add(verbs: Verbs) -> None:
    """The verb `scrub`."""
    parser = verbs.add_parser("scrub", help="read stored objects again and verify them; beside a server, or without")
    common(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--share", metavar="PERCENT", type=_percent, help="verify the next so many of all instances")
    what.add_argument("--all", action="store_true", help="verify every instance")
    what.add_argument("--report", action="store_true", help="list what is damaged, and verify nothing")
    what.add_argument("--orphans", action="store_true", help="adopt or remove objects that no instance owns")
    parser.add_argument("--megabytes-per-s", metavar="N", type=float, default=0.0, help="read no more than that")
    parser.add_argument("--hours", metavar="N", type=float, default=24.0, help="leave younger orphans alone (24)")
    parser.set_defaults(run=_run)


def _percent(text: str) -> float:
    number = float(text)
    if not 0 < number <= 100:
        raise ValueError(text)
    return number


def _run(chosen: argparse.Namespace) -> int:
    from pacs.archive import open_store
    from pacs.index.engine import open_index
    from pacs.scrub import Scrub
    from pacs.server import beside

    settings = settings_module.load(chosen.config, os.environ, {"data": chosen.data})
    beside.require_archive(settings)
    store = open_store(settings, cached=False, alone=False)
    try:
        index = open_index(settings.index_url)
        try:
            scrub = Scrub(store, index, bytes_per_s=chosen.megabytes_per_s * 1e6)
            if chosen.report:
                return _report(scrub)
            if chosen.orphans:
                return _orphans(scrub, chosen.hours * 3600)
            return _verify(scrub, 100.0 if chosen.all else chosen.share)
        finally:
            index.close()
    finally:
        store.close()


def _verify(scrub: Scrub, percent: float) -> int:
    from pacs.server.progress import Bar

    bar = Bar("objects verified")
    limit = math.ceil(scrub.count() * percent / 100)
    found = scrub.verify(limit, tell=lambda p: bar.show(p.done, p.total, p.bytes, p.refused))
    bar.end()
    print(f"{found.objects} objects verified, {found.bytes / 1e6:,.0f} MB; {found.healed} cases ended.")
    if found.damaged:
        print(f"m3dicom: {len(found.damaged)} objects are damaged and quarantined:", file=sys.stderr)
        for case in found.damaged:
            print(f"{case.kind}: instance {case.sop_instance_uid}: {case.reason}", file=sys.stderr)
    return 1 if found.damaged else 0


def _report(scrub: Scrub) -> int:
    from datetime import UTC, datetime

    cases = scrub.cases()
    for case in cases:
        since = f"{datetime.fromtimestamp(case.found_at, UTC):%Y-%m-%d %H:%M} UTC"
        who = (
            f"instance {case.sop_instance_uid} of study {case.study_instance_uid}"
            if case.sop_instance_uid
            else "orphan"
        ) + (f", kept aside: {case.kept_aside}" if case.kept_aside else "")
        print(f"{case.kind}\tsince {since}\t{who}\t{case.object_key} at {case.object_offset}\t{case.reason}")
    print(f"{len(cases)} cases." if cases else "Nothing is known to be damaged.")
    return 1 if cases else 0


def _orphans(scrub: Scrub, older_than_s: float) -> int:
    from pacs.server.progress import Bar

    bar = Bar("objects looked at")
    done = scrub.orphans(older_than_s=older_than_s, tell=lambda p: bar.show(p.done, p.total, p.bytes))
    bar.end()
    print(f"{done.adopted} orphans adopted ({done.adopted_bytes / 1e6:,.1f} MB), {done.removed} removed "
          f"({done.removed_bytes / 1e6:,.1f} MB), {done.young} too young to judge.")  # fmt: skip
    if done.unusable:
        print(f"m3dicom: {done.unusable} cannot be read: `m3dicom scrub --report` lists them", file=sys.stderr)
    return 1 if done.unusable else 0
