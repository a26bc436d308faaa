"""What the subcommands that talk to another AE share: naming it, our own title, times, and how an end is told."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from pacs import settings as settings_module
from pacs.errors import InvalidInput
from pacs.server.commands import common

if TYPE_CHECKING:
    from pacs.dimse.requestor import Remote, Timeouts
    from pacs.settings import Settings

DONE, FAILED, SOME_FAILED = 0, 1, 3
"""Exit statuses: all of it; none of it (2 is wrong usage); some of it, the rest is named on stderr."""


def options(parser: argparse.ArgumentParser) -> None:
    """The options of every verb that talks to another AE."""
    common(parser)
    parser.add_argument(
        "--to", required=True, metavar="AE", help="the other AE: AET@HOST:PORT, or the title of a configured one"
    )
    parser.add_argument("--aet", metavar="TITLE", help="our AE title; default: the setting aet")
    parser.add_argument("--tls", action="store_true", help="speak TLS with AET@HOST:PORT (settings tls_…)")
    parser.add_argument("--timeout", metavar="S", type=float, default=120.0, help="seconds to wait for an answer")
    parser.add_argument("--connect-timeout", metavar="S", type=float, default=10.0, help="seconds for connecting")


def settings(chosen: argparse.Namespace) -> Settings:
    """The settings that the options name."""
    return settings_module.load(chosen.config, os.environ, {name: getattr(chosen, name) for name in ("data", "aet")})


def remote(chosen: argparse.Namespace, ours: Settings) -> Remote:
    """The AE that --to names. Raises InvalidInput for what is no address, NotFound for a title nobody configured."""
    from pacs.dimse import remotes
    from pacs.server import doors

    title, at, address = str(chosen.to).partition("@")
    if not at:
        return remotes.known(ours, title)
    if not 1 <= len(title.strip()) <= 16:
        raise InvalidInput(f"--to: {title!r} is no AE title of 1 to 16 characters")
    try:
        door = doors.parse(address, "to")
    except InvalidInput:
        raise InvalidInput(f"--to: {address!r} is not HOST:PORT") from None
    return remotes.named(ours, title.strip(), door.host, door.port, tls=chosen.tls)


def timeouts(chosen: argparse.Namespace) -> Timeouts:
    """The times that the options give."""
    from pacs.dimse.requestor import Timeouts

    if not (chosen.timeout > 0 and chosen.connect_timeout > 0):
        raise InvalidInput("times are more than 0 seconds")
    return Timeouts(connect_s=chosen.connect_timeout, response_s=chosen.timeout)
