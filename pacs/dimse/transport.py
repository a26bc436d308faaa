"""One peer's TCP connection: bytes in through one reused buffer, under deadlines and a minimum rate; bytes out.

Nothing here joins or copies what it passes on: fragments go to their sink as views of the buffer.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from ctypes import addressof, c_char
from typing import Protocol

from pacs.native import Wire

TICK_S = 1.0
"""How late a deadline may be noticed."""

SMALL_BUFFER = 16 << 10
LARGE_BUFFER = 256 << 10  # fits the second-level cache, and holds what loopback and 10 GbE deliver at a time

SEND_STALL_S = 20.0
MAX_PARTS = 1000  # what the kernel takes in one call (IOV_MAX is 1024)
MIN_BYTES_PER_S = 10_000
RATE_WINDOW_S = 30.0


class Sink(Protocol):
    """Where the bytes of a data set go."""

    def room(self, wanted: int) -> memoryview | None:
        """Memory for the next bytes, at most `wanted` of them, until `filled` is called; None: they go to `write`."""

    def filled(self, count: int) -> None:
        """So many bytes are in the memory that `room` gave."""

    def write(self, piece: memoryview) -> None:
        """Take the next bytes; they are gone afterwards."""


class Disconnected(Exception):
    """The peer closed the connection, or it broke."""


class Stalled(Exception):
    """The peer sends or reads too slowly to be waited for."""


class Transport:
    """A connected socket with one buffer. Used by one thread, but for `interrupt`."""

    def __init__(self, sock: socket.socket) -> None:
        if isinstance(sock, ssl.SSLSocket):
            sock.settimeout(TICK_S)
        else:  # the kernel keeps the time: a timeout of Python's own costs a poll for each read and write
            sock.settimeout(None)
            tick = struct.pack("@ll", int(TICK_S), int(TICK_S % 1 * 1e6))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, tick)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, tick)
        # One call for a whole fragment where the kernel can: each return is a fight for the interpreter lock
        self._whole = 0 if isinstance(sock, ssl.SSLSocket) else socket.MSG_WAITALL
        self._sock = sock
        self._buffer = bytearray(SMALL_BUFFER)
        self._view = memoryview(self._buffer)
        self._pinned: c_char | None = None  # the buffer's first byte, while the library knows where it is
        self._start = self._end = 0
        self._spoiled = False
        self._deadline = 0.0
        self._metered = False
        self._waited = 0.0
        self._received = 0
        self._interrupted = False

    @property
    def encrypted(self) -> bool:
        """Whether the bytes on the socket are others than those that `take` gives."""
        return isinstance(self._sock, ssl.SSLSocket)

    def lend(self, wire: Wire) -> None:
        """Have the library read from the socket and out of the buffer, until `returned` is called."""
        if self._pinned is None:
            self._pinned = c_char.from_buffer(self._buffer)
            wire.buffer, wire.size = addressof(self._pinned), len(self._buffer)
        wire.fd, wire.start, wire.end, wire.deadline = self._sock.fileno(), self._start, self._end, self._deadline

    def returned(self, wire: Wire) -> None:
        """Take over how far the library has come."""
        self._start, self._end, self._deadline = wire.start, wire.end, wire.deadline

    def expect(self, within_s: float) -> None:
        """From now on, what is waited for has to come within this time."""
        self._deadline = time.monotonic() + within_s

    def meter(self, on: bool) -> None:
        """Begin or end watching the minimum rate; only time spent waiting for the peer counts."""
        self._metered = on
        self._waited, self._received = 0.0, 0

    def take(self, count: int, ahead: int | None = None) -> memoryview:
        """The next `count` bytes, valid until the next call. Raises Disconnected and Stalled.

        `ahead` is how much is received at most, `count` or more: what follows may have a better place than our buffer.
        """
        if count > len(self._buffer):
            self._resize(count)
        while self._end - self._start < count:
            self._receive(ahead)
        self._start += count
        return self._view[self._start - count : self._start]

    def pump(self, count: int, sink: Callable[[memoryview], object]) -> None:
        """Hand the next `count` bytes to `sink`, piece by piece as they come; a piece is valid during its call only."""
        if count > SMALL_BUFFER and len(self._buffer) < LARGE_BUFFER:
            self._resize(LARGE_BUFFER)
        while count:
            if self._start == self._end:
                self._receive()
            piece = min(count, self._end - self._start)
            begin, self._start = self._start, self._start + piece
            count -= piece
            sink(self._view[begin : self._start])

    def pour(self, count: int, sink: Sink) -> None:
        """The next `count` bytes into memory of the sink, or to its `write` where it has none to give."""
        while count:
            place = sink.room(count)
            if place is None:
                self.pump(count, sink.write)
                return
            with place:
                got = min(self._end - self._start, len(place))
                if got:
                    place[:got] = self._view[self._start : self._start + got]
                    self._start += got
                else:
                    got = self._receive_into(place, self._whole)
            sink.filled(got)
            count -= got

    def pending(self) -> bool:
        """Whether something has come that was not taken yet. Raises Disconnected where the socket is gone."""
        return self.readable(None, 0)

    def readable(self, bell: int | None, within_s: float) -> bool:
        """Whether something of the peer's comes within this time, or has come; the descriptor `bell` ends the wait.

        The end of the connection counts as something. Raises Disconnected where the socket is gone.
        """
        if self._start < self._end:
            return True
        if isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
            return True
        poll = select.poll()
        try:
            poll.register(self._sock, select.POLLIN)
        except (OSError, ValueError) as error:
            raise Disconnected from error
        if bell is not None:
            poll.register(bell, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(max(0.0, within_s) * 1000)}
        if self._sock.fileno() not in ready:
            return False
        return self._read_record() if isinstance(self._sock, ssl.SSLSocket) else True

    def _read_record(self) -> bool:
        """Whether what TLS has received holds bytes for us: it may be a part of a record, or a session ticket."""
        self._start = self._end = 0
        self._sock.settimeout(0)
        try:
            self._end = self._sock.recv_into(self._view)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except OSError as error:
            raise Disconnected from error
        finally:
            self._sock.settimeout(TICK_S)
        if not self._end:
            raise Disconnected
        return True

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """All of `data` to the peer. Raises Stalled where it reads nothing for SEND_STALL_S, and Disconnected."""
        if self._spoiled:
            raise Disconnected
        rest = memoryview(data)
        deadline = time.monotonic() + SEND_STALL_S
        while rest:
            try:
                sent = self._sock.send(rest)
            except (TimeoutError, BlockingIOError):
                if time.monotonic() >= deadline:
                    self._spoiled = True
                    raise Stalled from None
                continue
            except OSError as error:
                raise Disconnected from error
            rest = rest[sent:]
            if rest:
                deadline = time.monotonic() + SEND_STALL_S

    def send_all(self, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        """Every part in order, none of them copied or joined. Raises Stalled and Disconnected as `send` does."""
        if self._spoiled:
            raise Disconnected
        if isinstance(self._sock, ssl.SSLSocket):  # which encrypts piece by piece anyway
            self.send(b"".join(parts))
            return
        first, rest = 0, memoryview(b"")  # `rest` is what is left of the part before `first`
        deadline = time.monotonic() + SEND_STALL_S
        while rest or first < len(parts):
            batch = [rest, *parts[first : first + MAX_PARTS]] if rest else parts[first : first + MAX_PARTS]
            try:
                sent = self._sock.sendmsg(batch)
            except (TimeoutError, BlockingIOError):
                if time.monotonic() >= deadline:
                    self._spoiled = True
                    raise Stalled from None
                continue
            except OSError as error:
                raise Disconnected from error
            deadline = time.monotonic() + SEND_STALL_S
            if rest:
                taken = min(sent, len(rest))
                rest, sent = rest[taken:], sent - taken
            while first < len(parts) and sent >= len(parts[first]) and not rest:
                sent -= len(parts[first])
                first += 1
            if sent:
                rest, first = memoryview(parts[first])[sent:], first + 1

    def spoil(self) -> None:
        """Send nothing more, ever: a PDU was begun that cannot be ended, and whatever follows would be taken for it."""
        self._spoiled = True

    def linger(self, seconds: float, *, sending: bool) -> None:
        """Wait for the peer to close, reading and forgetting what it still sends; close at the latest after `seconds`.

        PS3.8 9.2, Sta13. Closing at once would make the kernel answer late bytes with a reset, and the reset would
        overtake our last PDU. Unless `sending`, the peer is told that nothing more will come.
        """
        with suppress(OSError):
            if not sending:
                socket.socket.shutdown(self._sock, socket.SHUT_WR)
            deadline = time.monotonic() + seconds
            while (left := deadline - time.monotonic()) > 0:
                self._sock.settimeout(left)
                if not self._sock.recv_into(self._buffer):
                    break
        self.close()

    def close(self) -> None:
        """Close the socket, whatever state it is in."""
        self._sock.close()

    def interrupt(self, *, at_once: bool) -> None:
        """From another thread: let a waiting read end as if the peer had closed; `at_once` ends writes as well."""
        self._interrupted = True
        if isinstance(self._sock, ssl.SSLSocket) and not at_once:
            return  # TLS without its read side could not say goodbye; the read ends within TICK_S
        with suppress(OSError):
            # The method of an SSLSocket would let what follows go in plain
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR if at_once else socket.SHUT_RD)

    def _resize(self, size: int) -> None:
        grown = bytearray(size)
        held = self._end - self._start
        grown[:held] = self._view[self._start : self._end]
        self._buffer, self._view, self._pinned = grown, memoryview(grown), None
        self._start, self._end = 0, held

    def _receive(self, at_most: int | None = None) -> None:
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start:
            held = self._end - self._start
            self._buffer[:held] = self._buffer[self._start : self._end]
            self._start, self._end = 0, held
        end = len(self._buffer) if at_most is None else self._end + at_most
        self._end += self._receive_into(self._view[self._end : end])

    def _receive_into(self, place: memoryview, flags: int = 0) -> int:
        """How many bytes came, at least one."""
        begun = now = time.monotonic()
        count = -1
        while count < 0:
            try:
                count = self._sock.recv_into(place, 0, flags)
            except (TimeoutError, BlockingIOError):
                if self._interrupted:
                    raise Disconnected from None
            except OSError as error:
                raise Disconnected from error
            now = time.monotonic()
            if now >= self._deadline:
                raise Stalled
        if count == 0:
            raise Disconnected
        if self._metered:
            self._waited += now - begun
            self._received += count
            if self._waited >= RATE_WINDOW_S:
                if self._received < self._waited * MIN_BYTES_PER_S:
                    raise Stalled
                self._waited, self._received = 0.0, 0
        return count
