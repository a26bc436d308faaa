"""The rest of a request's body, read from the connection by who takes it in, while the event loop leaves it alone."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress

from pacs.errors import InvalidInput

WORTH_LENDING = 64 << 10
"""A shorter rest of a body comes as messages."""

PATIENCE_MS = 50
"""How long a thread waits for more of a body before it is let go, where nobody else wants it."""


class LentBody:
    """What `dicomweb.bodies.Lent` says. Its connection's transport is not read from meanwhile."""

    def __init__(
        self, fd: int, first: bytes, left: int, limits: tuple[float, int], on_return: Callable[[LentBody], None]
    ) -> None:
        """`fd` is the connection's; `limits` are a window in seconds and the bytes a second that have to come in it."""
        self.first = first
        self.left = left
        self.gone = False
        self._socket = socket.socket(fileno=os.dup(fd))
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._window_s, self._least = limits
        self._waited = 0.0
        self._came = 0
        self._on_return = on_return
        self._loop = asyncio.get_running_loop()

    async def ready(self) -> None:
        """Return when there is something to receive. Raises InvalidInput for a client that is gone or too slow."""
        if self._poll.poll(0):
            self._judge(something=True)
            return
        came: asyncio.Future[None] = self._loop.create_future()

        def tell() -> None:
            if not came.done():
                came.set_result(None)

        self._loop.add_reader(self._socket.fileno(), tell)
        began = self._loop.time()
        try:
            await asyncio.wait_for(came, max(0.0, self._window_s - self._waited))
        except TimeoutError:
            pass
        finally:
            self._loop.remove_reader(self._socket.fileno())
        self._waited += self._loop.time() - began
        self._judge(something=came.done() and not came.cancelled())

    def _judge(self, *, something: bool) -> None:
        """Nothing, or InvalidInput where too little came while it was waited for."""
        if self.gone:
            raise InvalidInput("the client left before the end of the body")
        if self._waited >= self._window_s:
            if not something or self._came < self._least * self._waited:
                raise InvalidInput(f"a body slower than {self._least} bytes a second")
            self._waited, self._came = 0.0, 0

    def receive(self, room: memoryview, wanted: Callable[[], bool]) -> int:
        """How many bytes came into `room`; 0 when none came for a while, or none are there and others want the thread.

        Blocks. Raises InvalidInput as `ready`.
        """
        if not (count := self._received(room)):
            began = time.monotonic()
            more = self._poll.poll(0 if wanted() else PATIENCE_MS)
            self._waited += time.monotonic() - began
            count = self._received(room) if more else 0
        self.left -= count
        self._came += count
        return count

    @property
    def fd(self) -> int:
        """The connection's, for who receives without this."""
        return self._socket.fileno()

    def took(self, count: int, waited_s: float) -> None:
        """Told by them how many bytes came, and how long they waited for them."""
        self.left -= count
        self._came += count
        self._waited += waited_s

    def lost(self) -> InvalidInput:
        """Told that nothing more comes; the error for it."""
        self.gone = True
        return InvalidInput("the client left before the end of the body")

    def _received(self, room: memoryview) -> int:
        try:
            count = self._socket.recv_into(room)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            count = 0
        if not count:
            raise self.lost()
        return count

    def give_back(self) -> None:
        """Let the server go on with the connection. May be called again."""
        if self._socket.fileno() >= 0:
            with suppress(OSError):
                self._socket.close()
            self._on_return(self)
