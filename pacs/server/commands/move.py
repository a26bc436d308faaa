"""`m3dicom move`: let another AE send something to a third one."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from pacs.server import peers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pacs.dimse.requestor import Remote, Reply
    from pacs.server.commands import Verbs


def add(verbs: Verbs) -> None:
    """Add the verb."""
    move = verbs.add_parser("move", help="let another AE send instances to a third one (C-MOVE)")
    peers.options(move)
    move.add_argument("--destination", required=True, metavar="TITLE", help="AE title that the instances go to")
    selection(move)
    move.set_defaults(run=_move)


def selection(parser: argparse.ArgumentParser) -> None:
    """The options that say what is retrieved."""
    parser.add_argument("--patient", default="", metavar="ID", help="Patient ID")
    for name in ("study", "series", "instance"):
        parser.add_argument(f"--{name}", action="append", default=[], metavar="UID", help=f"{name}; may be given often")
    parser.add_argument("--patient-root", action="store_true", help="use the Patient Root model")
    parser.add_argument("--priority", choices=("medium", "high", "low"), default="medium")


PRIORITIES = {"medium": 0, "high": 1, "low": 2}  # PS3.7 E.1


def _move(chosen: argparse.Namespace) -> int:
    from pacs.dimse import queries
    from pacs.dimse.negotiation import EXPLICIT_LE, IMPLICIT_LE
    from pacs.dimse.requestor import Requestor

    level, keys = queries.unique_keys(chosen.patient, chosen.study, chosen.series, chosen.instance)
    settings = peers.settings(chosen)
    remote = peers.remote(chosen, settings)
    model = queries.model(level, queries.MOVE, patient_root=chosen.patient_root)
    with Requestor.open(
        remote, settings.aet, [(model, [EXPLICIT_LE, IMPLICIT_LE])], timeouts=peers.timeouts(chosen)
    ) as assoc:
        context = assoc.context(model)
        identifier = queries.identifier(level, keys, context.transfer_syntax)
        replies = assoc.move(context, identifier, chosen.destination, PRIORITIES[chosen.priority])
        return outcome(replies, remote, context.transfer_syntax)


def outcome(replies: Iterable[Reply], remote: Remote, transfer_syntax_uid: str) -> int:
    """Follow a retrieval to its end, showing how far it is; the exit status."""
    from pacs.dicom import json_model
    from pacs.dimse import queries
    from pacs.dimse.messages import Tag
    from pacs.errors import PeerFailed
    from pacs.server.progress import Bar

    bar, final = Bar("instances"), None
    for reply in replies:
        final = reply
        done = reply.count(Tag.COMPLETED_SUB_OPERATIONS) + reply.count(Tag.WARNING_SUB_OPERATIONS)
        failed = reply.count(Tag.FAILED_SUB_OPERATIONS)
        bar.show(done + failed, done + failed + reply.count(Tag.REMAINING_SUB_OPERATIONS), refused=failed)
    bar.end()
    if final is None:
        raise PeerFailed(f"{remote} does not say how the retrieval ended")
    done = final.count(Tag.COMPLETED_SUB_OPERATIONS) + final.count(Tag.WARNING_SUB_OPERATIONS)
    failed = final.count(Tag.FAILED_SUB_OPERATIONS)
    for uid in json_model.texts(queries.decoded(final.dataset, transfer_syntax_uid), "00080058"):
        print(f"m3dicom: {uid} failed", file=sys.stderr)
    warned = final.count(Tag.WARNING_SUB_OPERATIONS)
    print(f"{done} instances{f', {warned} with a warning' if warned else ''}, {failed} failed; {remote}: {final.words}")
    if final.status == 0 or (final.status == 0xB000 and not failed):
        return peers.DONE
    return peers.SOME_FAILED if done else peers.FAILED
