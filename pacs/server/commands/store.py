"""`m3dicom store`: send files and folders to another AE."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pacs.server import peers

if TYPE_CHECKING:
    from pacs.dimse.files import File
    from pacs.server.commands import Verbs


def add(verbs: Verbs) -> None:
    """Add the verb."""
    store = verbs.add_parser("store", help="send files and folders to another AE (C-STORE)")
    peers.options(store)
    store.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="Part 10 files, and folders of them")
    store.set_defaults(run=_store)


def _store(chosen: argparse.Namespace) -> int:
    from contextlib import closing
    from functools import partial

    from pacs.decoding import DecodingPool
    from pacs.dimse import files
    from pacs.dimse.requestor import Requestor
    from pacs.dimse.sending import send_all
    from pacs.server.progress import Bar

    settings = peers.settings(chosen)
    remote = peers.remote(chosen, settings)
    found, skipped = _read(chosen.paths)
    if not found:
        print("m3dicom: nothing to send", file=sys.stderr)
        return peers.FAILED
    waits = peers.timeouts(chosen)
    bar = Bar("instances")
    sent = failed = size = 0
    pool = DecodingPool(1)
    try:
        outcomes = send_all(
            lambda contexts: Requestor.open(remote, settings.aet, contexts, timeouts=waits),
            found,
            partial(files.prepare, pool),
        )
        with closing(outcomes):
            for outcome in outcomes:
                file = outcome.location
                assert isinstance(file, files.File)
                if outcome.taken:
                    sent, size = sent + 1, size + file.size
                else:
                    failed += 1
                    print(f"m3dicom: {file.path}: {outcome.reason}", file=sys.stderr)
                bar.show(sent + failed, len(found), size, failed)
    finally:
        pool.close()
    bar.end()
    rest = f", {failed} failed" if failed else ""
    rest += f", {skipped} skipped" if skipped else ""
    print(f"{sent} of {len(found)} instances sent to {remote}{rest}")
    if sent == len(found):
        return peers.DONE
    return peers.SOME_FAILED if sent else peers.FAILED


def _read(paths: list[Path]) -> tuple[list[File], int]:
    """The files that can be sent, those of one SOP class together, and how many were skipped, each in words."""
    from pacs.dimse import files
    from pacs.errors import ArchiveError, MalformedDataset

    found, skipped = list[files.File](), 0
    for path in files.walk(paths):
        try:
            found.append(files.read(path))
        except (MalformedDataset, ArchiveError) as error:
            skipped += 1
            print(f"m3dicom: {path} is left out: {error}", file=sys.stderr)
    return found, skipped
