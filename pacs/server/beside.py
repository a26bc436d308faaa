"""For commands that run beside a server on the same data folder: its credentials, where it is, and asking it."""

from __future__ import annotations

import getpass
import http.client
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from pacs.auth import ALL_RIGHTS, Auth
from pacs.errors import ArchiveError, InvalidInput, NotFound, PeerFailed, PeerUnreachable
from pacs.index.engine import open_index

if TYPE_CHECKING:
    from pacs.settings import Settings


@contextmanager
def credentials(settings: Settings) -> Iterator[Auth]:
    """Only the credentials, for commands that run beside a server. Raises InvalidInput where there is no archive."""
    require_archive(settings)
    index = open_index(settings.index_url)
    try:
        yield Auth(index, settings.aes)
    finally:
        index.close()


def require_archive(settings: Settings) -> None:
    """Nothing, or InvalidInput where no server has ever run on this data folder: a command must not make an archive."""
    if settings.index == "sqlite" and not (settings.data / "index.db").exists():
        raise InvalidInput(
            f"setting data: no archive in {settings.data.absolute()}; is --data right? `m3dicom serve` makes a new one"
        )


def running(settings: Settings) -> dict[str, Any]:
    """What the server on this data folder says of itself; empty when none runs."""
    try:
        found: dict[str, Any] = json.loads((settings.data / "server.json").read_text())
        os.kill(int(found["pid"]), 0)
    except (OSError, ValueError, KeyError):
        return {}
    return found


TOKEN_LIFETIME_S = 120.0
ANSWER_S = 600.0


def ask(settings: Settings, method: str, path: str, body: object = None) -> Any:
    """What the server running on this data folder answers to a request of its JSON API; None where it says nothing.

    It is asked with a token that is made for this and ends with it: whoever may write the credentials may do anything.
    Raises PeerUnreachable where no server runs, and the server's own reason in words.
    """
    told = ask_bytes(settings, path, method, body)
    return json.loads(told) if told else None


def ask_bytes(settings: Settings, path: str, method: str = "GET", body: object = None) -> bytes:
    """The same, with the answer as it came: a CSV, for one."""
    found = running(settings)
    if not found:
        raise PeerUnreachable(f"no server runs on {settings.data}; start one: m3dicom serve --data {settings.data}")
    with credentials(settings) as auth:
        token = auth.create_token(f"command line of {getpass.getuser()}", ALL_RIGHTS, lifetime_s=TOKEN_LIFETIME_S)
        try:
            return _asked(str(found["http"]), token, method, path, body)
        finally:
            with suppress(ArchiveError):  # it expires soon in any case
                auth.revoke(token)


def _asked(address: str, token: str, method: str, path: str, body: object) -> bytes:
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
    raw = None
    if body is not None:
        raw = json.dumps(body).encode()
        headers["Content-Type"] = "application/json"
    connection = http.client.HTTPConnection(address, timeout=ANSWER_S)
    try:
        connection.request(method, path, raw, headers)
        answer = connection.getresponse()
        told = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise PeerUnreachable(f"the server does not answer: {type(error).__name__}: {error}") from error
    finally:
        connection.close()
    if answer.status < 400:
        return told
    try:
        said: Any = json.loads(told) if told else None
    except ValueError:
        said = None
    reason = str(said.get("detail") or said.get("title")) if isinstance(said, dict) else f"HTTP status {answer.status}"
    kind: type[ArchiveError] = {400: InvalidInput, 404: NotFound}.get(answer.status, PeerFailed)
    raise kind(reason)
