"""`m3dicom commitments`: what was asked and promised, what nobody took, and reporting that once more."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pacs import settings as settings_module
from pacs.server.commands import common

if TYPE_CHECKING:
    from pacs.commitment import Commitments
    from pacs.server.commands import Verbs

STATES = ("asked", "due", "reported", "dead", "answered", "refused")


def add(verbs: Verbs) -> None:
    """The verb and its own verbs."""
    parser = verbs.add_parser("commitments", help="storage commitments: asked, promised, and never taken")
    inner = parser.add_subparsers(required=True, metavar="VERB")
    listing = inner.add_parser("list", help="storage commitments, the newest first")
    common(listing)
    listing.add_argument("--state", choices=STATES, action="append", help="only these; may be repeated")
    listing.add_argument("--limit", type=int, default=100, metavar="N", help="at most so many; default: 100")
    listing.set_defaults(run=_list)
    retry = inner.add_parser("retry", help="report dead and waiting ones again, by the running server")
    common(retry)
    retry.add_argument("--peer", metavar="TITLE", help="only those of this AE")
    retry.set_defaults(run=_retry)


@contextmanager
def _commitments(chosen: argparse.Namespace) -> Iterator[Commitments]:
    from pacs.commitment import Commitments
    from pacs.index.engine import open_index
    from pacs.server import beside

    settings = settings_module.load(chosen.config, os.environ, {"data": chosen.data})
    beside.require_archive(settings)
    index = open_index(settings.index_url)
    try:
        yield Commitments(index)
    finally:
        index.close()


def _list(chosen: argparse.Namespace) -> int:
    with _commitments(chosen) as commitments:
        for each in commitments.listed(*(chosen.state or ()), limit=max(1, chosen.limit)):
            way = "asked of" if each.direction == "out" else "asked by"
            since = f"{datetime.fromtimestamp(each.created_at, UTC):%Y-%m-%d %H:%M} UTC"
            judged = f"{each.total} instances, {each.failed} not committed"
            tries = f"\t{each.attempt} tries: {each.message}" if each.message else ""
            print(f"{each.state}\t{way} {each.peer}\t{each.transaction_uid}\t{judged}\tsince {since}{tries}")
    return 0


def _retry(chosen: argparse.Namespace) -> int:
    with _commitments(chosen) as commitments:
        print(f"{commitments.retry(chosen.peer)} to be reported")
    return 0
