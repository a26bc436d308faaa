"""Workitem events over WebSocket (PS3.18 8.10, 11.13): to whoever listens for an AE, in order, and nothing is lost.

An event is forgotten only when the connection has outlived it by more than a keepalive takes to notice a loss, or
ended in order. So whoever is cut off gets again what may not have arrived.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

import anyio.to_thread
import orjson
from starlette.types import Scope

from dicomweb.calls import Web
from dicomweb.websocket import CERTAIN_S, POLICY, Door, Ended, Feed, again, news
from pacs.auth import Principal
from pacs.dicom.ups import element
from pacs.errors import ArchiveError, Forbidden
from pacs.index.subscriptions import Event

log = logging.getLogger("m3dicom.dicomweb")

UPS_EVENT = "1.2.840.10008.5.1.4.34.6.4"
N_EVENT_REPORT = 0x0100
HAS_DATASET = 1

LEASE_S = 60.0
"""How long an AE's open connections hold what is for it, instead of its DIMSE door, when their process is lost."""
RENEW_S = 20.0
PAGE = 100

T = TypeVar("T")


class Notifications(Door):
    """Workitem events of the AE that the address names, or of all that are the principal's (PS3.18 8.10.4)."""

    def __init__(self, web: Web) -> None:
        super().__init__(web)
        self._process = secrets.token_hex(8)
        self._serving: Counter[str] = Counter()
        self._renewed: dict[str, float] = {}

    async def _feed(self, scope: Scope, principal: Principal) -> Feed:
        receiver = scope["path_params"].get("aetitle")
        if receiver is not None:
            await self.io(self.archive.worklist.listen, receiver, principal)
        return WorkitemEvents(self, principal, scope["state"].get("authenticate"), receiver)

    async def io(self, work: Callable[..., T], *args: Any) -> T:
        """`work` done in a thread where it may wait for the index."""
        return await anyio.to_thread.run_sync(work, *args, limiter=self.web.io)

    def join(self, receiver: str) -> None:
        """One connection more for the AE."""
        self._serving[receiver] += 1

    def waiting(self, receiver: str, after: int, principal: Principal) -> list[Event]:
        """Events for the AE beyond `after`, within the principal's scope; none while somebody else sends to it. Blocks.

        Raises Forbidden where the AE has become somebody else's since the connection was opened.
        """
        self.archive.worklist.listen(receiver, principal)
        now = time.time()
        if now - self._renewed.get(receiver, 0.0) > RENEW_S:
            if not self.archive.worklist.begin_listening(receiver, self._process, now, LEASE_S):
                return []
            self._renewed[receiver] = now
        return self.archive.worklist.events_for(receiver, after, PAGE, listener=principal)

    def leave(self, receiver: str) -> None:
        """One connection less; after the last one of all processes the AE's own door may be used again. Blocks."""
        self._serving[receiver] -= 1
        if self._serving[receiver] <= 0:
            del self._serving[receiver]
            self._renewed.pop(receiver, None)
            self.archive.worklist.end_listening(receiver, self._process, time.time())


class WorkitemEvents(Feed):
    """The events of one AE, or with None of all that are the principal's."""

    def __init__(
        self,
        door: Notifications,
        principal: Principal,
        authenticate: Callable[[], Principal] | None,
        receiver: str | None,
    ) -> None:
        self._door = door
        self._worklist = door.archive.worklist
        self._principal = principal
        self._authenticate = authenticate
        self._receiver = receiver
        self._upto: dict[str, int] = {}
        self._on_their_way: deque[tuple[float, str, int]] = deque()

    async def messages(self) -> AsyncGenerator[str, None]:
        """Event reports, an AE's in the order in which things happened."""
        async for _ in news(self._door.archive):
            self._principal = await again(self._door, self._principal, self._authenticate)
            await self._confirm(time.monotonic() - CERTAIN_S)
            for receiver in await self._receivers():
                if receiver not in self._upto:
                    self._upto[receiver] = 0
                    self._door.join(receiver)
                while events := await self._waiting(receiver):
                    for event in events:
                        yield report(event)
                        self._upto[receiver] = event.seq
                        self._on_their_way.append((time.monotonic(), receiver, event.seq))

    async def _waiting(self, receiver: str) -> list[Event]:
        try:
            return await self._door.io(self._door.waiting, receiver, self._upto[receiver], self._principal)
        except Forbidden:
            raise Ended(POLICY) from None

    async def _receivers(self) -> list[str]:
        return [self._receiver] if self._receiver else await self._door.io(self._worklist.receivers_of, self._principal)

    async def _confirm(self, before: float) -> None:
        """Forget what was sent before that moment."""
        certain: dict[str, int] = {}
        while self._on_their_way and self._on_their_way[0][0] <= before:
            _, receiver, seq = self._on_their_way.popleft()
            certain[receiver] = seq
        for receiver, seq in certain.items():
            await self._door.io(self._worklist.taken, receiver, seq)

    async def end(self, in_order: bool) -> None:
        """Forget what has certainly arrived, and leave the AEs to others."""
        try:
            await self._confirm(time.monotonic() - (0.0 if in_order else CERTAIN_S))
            for receiver in self._upto:
                await self._door.io(self._door.leave, receiver)
        except ArchiveError as error:  # what was sent is told again
            log.warning("Workitem events: %s", error)


def report(event: Event) -> str:
    """A Workitem event as the text of a frame (PS3.18 8.10.5): the command elements of PS3.7, and what happened."""
    fields = {
        "00000002": element("UI", UPS_EVENT),
        "00000100": element("US", N_EVENT_REPORT),
        "00000110": element("US", (event.seq - 1) % 0xFFFF + 1),
        "00000800": element("US", HAS_DATASET),
        "00001000": element("UI", event.workitem_uid),
        "00001002": element("US", int(event.type)),
    }
    return orjson.dumps(fields | event.information).decode()
