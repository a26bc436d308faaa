"""A process of its own that serves DIMSE associations (`pacs.dimse.crew`): `python -m pacs.server.attendant FD`.

It is started, restarted and ended by the server, from which it gets its settings and its connections.
"""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from pacs.dimse import crew

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.dimse.negotiation import Policy
    from pacs.settings import Settings

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def start(line: socket.socket) -> subprocess.Popen[bytes]:
    """A new attendant at the other end of `line`."""
    command = [sys.executable, "-m", "pacs.server.attendant", str(line.fileno())]
    return subprocess.Popen(command, pass_fds=(line.fileno(),), stdin=subprocess.DEVNULL)


def main() -> int:
    """Serve until the server closes the line."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the server hears them, and tells us by closing the line
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
    crew.attend(socket.socket(fileno=int(sys.argv[1])), _open, _policy)
    return 0


def _open(settings: Settings) -> Archive:
    from pacs.dimse.ups_events import deliver_beside
    from pacs.server import collector, compose

    archive = compose.build(settings, alone=False)
    deliver_beside(archive)
    collector.settle()
    return archive


def _policy(ae_title: str) -> Policy:
    from pacs.dimse.acceptor import policy

    return policy(ae_title)


if __name__ == "__main__":
    sys.exit(main())
