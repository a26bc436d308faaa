"""`m3dicom echo`: whether another AE answers, as what, and how fast."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pacs.server import peers

if TYPE_CHECKING:
    from pacs.server.commands import Verbs


def add(verbs: Verbs) -> None:
    """Add the verb."""
    echo = verbs.add_parser("echo", help="ask another AE whether it is there (C-ECHO)")
    peers.options(echo)
    echo.add_argument("--count", type=int, default=1, metavar="N", help="ask so often on one association")
    echo.set_defaults(run=_echo)


def _echo(chosen: argparse.Namespace) -> int:
    import time

    from pacs.dimse.negotiation import IMPLICIT_LE, VERIFICATION
    from pacs.dimse.requestor import Requestor

    settings = peers.settings(chosen)
    remote = peers.remote(chosen, settings)
    begun = time.perf_counter()
    with Requestor.open(
        remote, settings.aet, [(VERIFICATION, [IMPLICIT_LE])], timeouts=peers.timeouts(chosen)
    ) as assoc:
        opened = time.perf_counter()
        for _ in range(max(1, chosen.count)):
            asked = time.perf_counter()
            reply = assoc.echo()
            took = (time.perf_counter() - asked) * 1e3
            print(f"{remote}: {reply.words} in {took:.1f} ms", flush=True)
            if reply.status != 0:
                return peers.FAILED
        user = assoc.accept.user
    secure = f" with {assoc.security}" if assoc.security else ""
    name = "".join(char if char.isprintable() else "?" for char in user.implementation_version_name)
    print(
        f"association in {(opened - begun) * 1e3:.1f} ms{secure}; it is {name or 'unnamed'}"
        f" ({user.implementation_class_uid}) and reads PDUs of {user.max_length or 'any number of'} bytes"
    )
    return peers.DONE
