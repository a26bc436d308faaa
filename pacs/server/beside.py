"""For commands that run beside a server on the same data folder: its credentials, and where it can be reached."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pacs.auth import Auth
from pacs.index.engine import open_index

if TYPE_CHECKING:
    from pacs.settings import Settings


@contextmanager
def credentials(settings: Settings) -> Iterator[Auth]:
    """Only the credentials, for commands that run beside a server."""
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    index = open_index(settings.index_url)
    try:
        yield Auth(index, settings.aes)
    finally:
        index.close()


def running(settings: Settings) -> dict[str, Any]:
    """What the server on this data folder says of itself; empty when none runs."""
    try:
        found: dict[str, Any] = json.loads((settings.data / "server.json").read_text())
        os.kill(int(found["pid"]), 0)
    except (OSError, ValueError, KeyError):
        return {}
    return found
