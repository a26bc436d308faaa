"""What an association asks of the peer that opened it: requests from other threads, and those not yet answered.

An event for a peer that is waiting (Storage Commitment, UPS) is put in from outside and goes out when the association
is between messages; its response comes whenever the peer likes, other requests of the peer before it.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from pacs.dimse import status
from pacs.dimse.messages import Command
from pacs.dimse.operation import Request

RESPONSE_S = 60.0
"""How long a peer may take to answer an event before it counts as not taken."""

MAX_WAITING = 1000
"""Requests waiting for one association; a peer that takes no more gets them elsewhere."""


class Outgoing:
    """Requests waiting to be sent on one association, and those sent. All but `offer` belongs to its thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Request] = deque()
        self._sent: dict[int, tuple[float, Request]] = {}
        self._given_up: set[int] = set()
        self._open = True
        self._pipe: tuple[int, int] | None = None

    def offer(self, request: Request) -> bool:
        """From any thread: whether `request` was taken; where it was, its `done` will be called."""
        with self._lock:
            if not self._open or len(self._waiting) >= MAX_WAITING:
                return False
            self._waiting.append(request)
            if self._pipe is not None:
                with suppress(BlockingIOError):  # full of wake-ups: one more is not missed
                    os.write(self._pipe[1], b"\0")
            return True

    def bell(self) -> int:
        """The descriptor that becomes readable when something was offered."""
        with self._lock:
            if self._pipe is None:
                self._pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
                if self._waiting:
                    os.write(self._pipe[1], b"\0")
            return self._pipe[0]

    def next(self) -> Request | None:
        """The next request to send, unless one is unanswered: one at a time was agreed (PS3.7 D.3.3.3)."""
        with self._lock:
            if self._pipe is not None:
                with suppress(BlockingIOError):
                    os.read(self._pipe[0], 4096)
            return self._waiting.popleft() if self._waiting and not self._sent else None

    def sent(self, message_id: int, request: Request) -> None:
        """`request` is on its way as `message_id`."""
        self._sent[message_id] = time.monotonic() + RESPONSE_S, request

    def answered(self, response: Command) -> bool:
        """Whether `response` answers something that was asked here."""
        number = response.responded_to or 0
        if number in self._given_up:
            self._given_up.discard(number)
            return True
        _, request = self._sent.pop(number, (0.0, None))
        if request is None:
            return False
        _tell(request.done, response)
        return True

    def expire(self) -> None:
        """Give up what the peer has not answered in time; a late answer is still understood."""
        for number in [each for each, (deadline, _) in self._sent.items() if deadline <= time.monotonic()]:
            _, request = self._sent.pop(number)
            self._given_up.add(number)
            _tell(request.done, None)

    def close(self) -> None:
        """The association is over: whoever waits for a response hears that there will be none."""
        with self._lock:
            self._open = False
            left = [request for _, request in self._sent.values()] + list(self._waiting)
            self._waiting.clear()
            self._sent.clear()
            pipe, self._pipe = self._pipe, None
        if pipe is not None:
            for descriptor in pipe:
                os.close(descriptor)
        for request in left:
            _tell(request.done, None)


def _tell(done: Callable[[Command | None], None], response: Command | None) -> None:
    try:
        done(response)
    except Exception as error:
        status.report("whoever asked a peer something cannot take its answer", error)
