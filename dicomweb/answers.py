"""What goes back over HTTP: status, headers, and bodies whole or streamed, in several messages and never joined."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import anyio
import anyio.to_thread
from starlette.types import Receive, Send

Buffer = bytes | bytearray | memoryview

GZIP_FROM_BYTES = 1024
GZIP_LEVEL = 1  # metadata shrinks eightfold at level 1 already; higher levels cost more time than they save
WHOLE_BYTES = 1 << 20
"""An answer that is smaller is made before its headers go out."""
BATCH_BYTES = 512 << 10
"""What is made at a time of a long answer; about three times as much is in memory for each client."""

COMMON_HEADERS = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]


class BrokenAnswer(Exception):
    """The body failed after its beginning was sent: the connection must end without the end of the body."""


@dataclass(slots=True)
class Answer:
    """One HTTP answer. `body` is complete; `more`, where given, is pulled in worker threads and follows it.

    `more` is a blocking iterator; it is pulled in batches of about `batch` bytes under `limiter` and closed in the end.
    """

    status: int = 200
    content_type: str = ""
    body: Sequence[Buffer] = ()
    headers: list[tuple[str, str]] = field(default_factory=list)
    more: Iterator[Buffer] | None = None
    length: int | None = None  # of a streamed body, where known
    limiter: anyio.CapacityLimiter | None = None
    batch: int = BATCH_BYTES

    async def send(self, receive: Receive, send: Send, *, head: bool = False) -> None:
        """Send it, or only its headers where `head`. Raises BrokenAnswer."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.fields()})
        try:
            if head:
                await send({"type": "http.response.body", "body": b""})
            elif self.more is None:
                await self._whole(send)
            else:
                await self._streamed(self.more, receive, send)
        finally:
            await self.close()

    def fields(self) -> list[tuple[bytes, bytes]]:
        """Its header fields, names in lower case."""
        headers = [*COMMON_HEADERS, *((n.lower().encode("ascii"), v.encode("latin-1")) for n, v in self.headers)]
        if self.content_type:
            headers.append((b"content-type", self.content_type.encode("latin-1")))
        if self.length is not None:
            headers.append((b"content-length", b"%d" % self.length))
        elif self.more is None and self.status not in (204, 304):
            headers.append((b"content-length", b"%d" % sum(map(len, self.body))))
        return headers

    async def close(self) -> None:
        """Give back what the body still holds."""
        close = getattr(self.more, "close", None)
        if close is not None:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(close, limiter=self.limiter)

    async def _whole(self, send: Send) -> None:
        last = len(self.body) - 1
        if last < 0:
            await send({"type": "http.response.body", "body": b""})
        for index, piece in enumerate(self.body):
            await send({"type": "http.response.body", "body": piece, "more_body": index < last})

    async def _streamed(self, more: Iterator[Buffer], receive: Receive, send: Send) -> None:
        failure: Exception | None = None
        gone = False
        # While one batch is sent, the next one is made; no more than these two are in memory.
        made, batches = anyio.create_memory_object_stream[list[Buffer]](0)

        async def watch() -> None:
            # Some servers swallow what is sent to a client that left: only receive() tells.
            nonlocal gone
            while (await receive())["type"] != "http.disconnect":
                pass
            gone = True
            group.cancel_scope.cancel()

        async def make() -> None:
            nonlocal failure
            with made:
                try:
                    while batch := await anyio.to_thread.run_sync(pull, more, self.batch, limiter=self.limiter):
                        await made.send(batch)
                except anyio.BrokenResourceError:
                    pass
                except Exception as error:
                    failure = error

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            group.start_soon(make)
            with batches:
                await _send_all(self.body, send)
                self.body = ()
                async for batch in batches:
                    await _send_all(batch, send)
            group.cancel_scope.cancel()
        if failure is not None:
            raise BrokenAnswer(type(failure).__name__) from failure
        if not gone:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_all(pieces: Sequence[Buffer], send: Send) -> None:
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})


def pull(pieces: Iterator[Buffer], batch_bytes: int = BATCH_BYTES) -> list[Buffer]:
    """The next pieces, about `batch_bytes` together; empty at the end. Blocks."""
    batch: list[Buffer] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece)
        if size >= batch_bytes:
            break
    return batch


def compressed(body: bytes) -> bytes:
    """`body` in gzip, the same bytes for the same body. Blocks for about 10 ms per megabyte."""
    return gzip.compress(body, GZIP_LEVEL, mtime=0)
