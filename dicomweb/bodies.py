"""A request's body read from its connection by those who take it in: no message for each piece, and no copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pacs.errors import InvalidInput

LEND = "lend"
"""In the ASGI state: what lends the rest of the body (`Lend`), where the server can."""


class Lent(Protocol):
    """The rest of a body whose length is known. To be given back, whatever happened."""

    first: bytes
    """What had come before; whoever takes it leaves nothing here."""

    left: int
    """How many bytes are still to come behind that."""

    async def ready(self) -> None:
        """Return when there is something to receive. Raises InvalidInput for a client that is gone or too slow."""

    def receive(self, room: memoryview, wanted: Callable[[], bool]) -> int:
        """How many bytes came into `room`; 0 when none came for a while, or none are there and others want the thread.

        Blocks. Raises InvalidInput as `ready`.
        """

    @property
    def fd(self) -> int:
        """The connection's, for who receives without `receive`; it does not block."""

    def took(self, count: int, waited_s: float) -> None:
        """Told by them how many bytes came, and how long they waited for them."""

    def lost(self) -> InvalidInput:
        """Told by them that nothing more comes; the error for it."""

    def give_back(self) -> None:
        """Let the server go on with the connection: what is left of the body is passed over."""


class Lend(Protocol):
    """How a body is lent."""

    def __call__(self) -> Lent | None:
        """The rest of the body, None where it has to be asked for message by message."""
