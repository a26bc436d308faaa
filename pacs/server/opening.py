"""What a start opens first: the archive, whole again after a crash, and the DIMSE doors.

A modality does not wait for what only the web needs (`pacs.server.compose`): that is loaded while associations are
served already.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from pacs.archive import Archive, open_archive
from pacs.auth import Auth
from pacs.decoding import DecodingPool
from pacs.dimse import crew, tls
from pacs.dimse.acceptor import Acceptor, Places
from pacs.dimse.acceptor import serve as serve_dimse
from pacs.errors import InvalidInput
from pacs.server import doors
from pacs.server.ground import StartAttendant, attendants
from pacs.server.possible import refuse_impossible
from pacs.worklist import Hold, Worklist

if TYPE_CHECKING:
    from pacs.events import Events
    from pacs.settings import Settings


@dataclass(frozen=True)
class Opened:
    """A server whose DIMSE doors answer; at `http` callers wait until the rest is there."""

    archive: Archive
    http: socket.socket
    acceptors: Mapping[str, Acceptor]
    """The DIMSE doors by the names of their settings."""
    places: Places
    crew: crew.Crew | None
    attendants: int


def open_doors(settings: Settings, start_attendant: StartAttendant, stack: ExitStack) -> Opened:
    """The archive and its doors, until `stack` is closed.

    The data folder is held meanwhile, by whoever has `start_attendant` from `pacs.server.ground.prepare`. Raises
    InvalidInput for settings that cannot work together and for doors that cannot be opened, Unavailable as
    `pacs.archive.open_archive`.
    """
    refuse_impossible(settings)
    http = doors.listen(doors.parse(settings.http, "http"))
    stack.callback(http.close)
    archive = build(settings)
    stack.callback(archive.close)
    count, hands, places = attendants(settings), None, Places()
    if count:
        hands = crew.Crew(settings, count, start_attendant, archive.events.publish)
        stack.callback(hands.close, settings.drain_s)
    acceptors: dict[str, Acceptor] = {}
    for name in ("dimse", "dimse_tls"):
        if not getattr(settings, name):
            continue
        door = doors.parse(getattr(settings, name), name)
        context = tls.server_context(settings) if name == "dimse_tls" else None
        try:
            acceptors[name] = serve_dimse(
                archive, host=door.host, port=door.port, ae_title=settings.aet, tls=context, places=places, crew=hands
            )
        except OSError as error:
            raise InvalidInput(f"cannot listen on {door}: {error.strerror}") from error
        stack.callback(acceptors[name].close, 0.0)
    return Opened(archive, http, acceptors, places, hands, count)


def build(settings: Settings, *, events: Events | None = None) -> Archive:
    """The archive that `settings` describe, with everything that belongs to it. Raises as `open_archive`."""
    archive = open_archive(settings, events)
    worklist = Worklist(
        archive.index, archive.events, max_attempts=settings.max_attempts, retry_hours=settings.retry_hours
    )
    worklist.judge = _judge(settings)
    return archive.with_services(
        auth=Auth(archive.index, settings.aes),
        worklist=worklist,
        decoding=DecodingPool(settings.decoders),
    )


def _judge(settings: Settings) -> Callable[[Mapping[str, Any]], Hold | None]:
    """What judges a request for an analysis; the plug-ins are looked for when the first one comes."""

    @cache
    def judge() -> Callable[[Mapping[str, Any]], Hold | None]:
        from analysis.registry import Registry
        from analysis.requests import Requests

        return Requests(lambda: Registry.load(commands=settings.commands)).judge

    return lambda attributes: judge()(attributes)
