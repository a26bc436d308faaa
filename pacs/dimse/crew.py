"""Associations served by several processes behind one door: accepted in one place, handed over as open sockets.

One acceptor reads every A-ASSOCIATE-RQ, keeps the limits, and gives the connection to the attendant that has the
fewest: a process of its own, with its own interpreter lock, archive and database connections. An attendant that ends
is started again; while there is none, the acceptor serves by itself. TLS connections stay with the acceptor, and so do
those of peers to whom others may want to say something (Storage Commitment, UPS): who says it is in that process.
"""

from __future__ import annotations

import logging
import os
import pickle
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import orjson

from pacs.dicom import walk
from pacs.dimse.association import Association
from pacs.dimse.transport import Transport
from pacs.dimse.upper_layer import HEADER_LENGTH, decode_request
from pacs.events import Events

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.dimse.negotiation import Policy
    from pacs.settings import Settings

log = logging.getLogger(__name__)

RESTART_S = 1.0
"""How long after its last start an attendant that ended is started again, at the earliest."""

MAX_HANDED_OVER = 64 << 10
"""A longer A-ASSOCIATE-RQ is served by the acceptor itself: one datagram would not hold it everywhere."""

NEWS_S = 0.05
"""How often an attendant tells of news, at most: who waits for them looks at what all have written meanwhile."""

KILLED_S = 10.0
"""How long a killed process is waited for: the kernel may have to end what it was doing."""

_READY, _ENDED, _NEWS, _STOP, _PERIOD_S = b"ready", b"ended ", b"news", b"stop", 0.25


class Process(Protocol):
    """An attendant's process."""

    @property
    def pid(self) -> int:
        """Its number."""

    def ended(self, within_s: float = 0.0) -> bool:
        """Whether it ends within that time, or has ended."""

    def kill(self) -> None:
        """End it at once; nothing where it has ended."""


@dataclass(slots=True, eq=False)
class _Attendant:
    process: Process
    line: socket.socket
    started_at: float
    ready: bool = False
    serving: dict[int, Callable[[], None]] = field(default_factory=dict)
    """What to call when the association of this number has ended."""


class Crew:
    """The attendants of one server. Safe from any thread."""

    def __init__(
        self,
        settings: Settings,
        count: int,
        start: Callable[[socket.socket], Process],
        on_news: Callable[[], None] = lambda: None,
    ) -> None:
        """Start `count` of them: `start` makes a process that runs `attend` on the socket it is given.

        `on_news` is called after they have changed something in the archive. Raises OSError where none can be started.
        """
        self._settings = settings
        self._start = start
        self._on_news = on_news
        self._lock = threading.Lock()
        self._number = 0
        self._closing = False
        self._selector = selectors.DefaultSelector()
        self._crew = [self._begin() for _ in range(count)]
        self._thread = threading.Thread(target=self._run, name="dimse crew", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> int:
        """How many attendants serve."""
        with self._lock:
            return sum(each.ready for each in self._crew)

    @property
    def processes(self) -> list[int]:
        """The process ids of the attendants."""
        with self._lock:
            return [each.process.pid for each in self._crew]

    @property
    def associations(self) -> int:
        """How many associations they have."""
        with self._lock:
            return sum(len(each.serving) for each in self._crew)

    def take(
        self, sock: socket.socket, address: str, idle_s: float, request: bytes, on_end: Callable[[], None]
    ) -> bool:
        """Whether an attendant has the connection now, whose A-ASSOCIATE-RQ is `request`; it calls `on_end` then."""
        if len(request) > MAX_HANDED_OVER:
            return False
        with self._lock:
            self._number += 1
            message = orjson.dumps([self._number, address, idle_s]) + b"\n" + request
            for each in sorted(self._crew, key=lambda each: len(each.serving)):
                if not each.ready or self._closing:
                    continue
                try:
                    socket.send_fds(each.line, [message], [sock.fileno()])
                except OSError:  # ending, or overrun
                    continue
                each.serving[self._number] = on_end
                return True
        return False

    def close(self, drain_s: float) -> None:
        """Let them finish the messages being performed within `drain_s` seconds, then end them."""
        with self._lock:
            self._closing = True
            for each in self._crew:
                with suppress(OSError):
                    each.line.send(_STOP)
        deadline = time.monotonic() + drain_s + 2.0
        for each in self._crew:
            if not each.process.ended(max(0.0, deadline - time.monotonic())):
                each.process.kill()
                each.process.ended(KILLED_S)
        self._thread.join()
        self._selector.close()
        for each in self._crew:
            each.line.close()

    def _begin(self) -> _Attendant:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                process = self._start(theirs)
        except BaseException:
            ours.close()
            raise
        made = _Attendant(process, ours, time.monotonic())
        ours.send(pickle.dumps(self._settings))
        ours.setblocking(False)
        self._selector.register(ours, selectors.EVENT_READ, made)
        return made

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select(_PERIOD_S):
                self._hear(key.data)
            with self._lock:
                if self._closing and all(each.process.ended() for each in self._crew):
                    return
                for at, each in enumerate(self._crew):
                    if self._closing or time.monotonic() - each.started_at < RESTART_S:
                        continue
                    # What it said last has to be heard first: whose associations have ended
                    if each.process.ended() and each.line not in self._selector.get_map():
                        try:
                            self._crew[at] = self._begin()
                            each.line.close()
                        except OSError as error:
                            log.error("cannot start a DIMSE attendant: %s", error.strerror)
                            each.started_at = time.monotonic()

    def _hear(self, each: _Attendant) -> None:
        try:
            said = each.line.recv(64)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            said = b""
        over: list[Callable[[], None]] = [self._on_news] if said == _NEWS else []
        with self._lock:
            if said == _READY:
                each.ready = True
            elif said.startswith(_ENDED):
                over += [each.serving.pop(int(said[len(_ENDED) :]))]
            elif not said and each.line in self._selector.get_map():
                self._selector.unregister(each.line)
                each.ready = False
                over += [*each.serving.values(), self._on_news]  # what it did last it may not have told
                each.serving.clear()
                if not self._closing:
                    log.error("a DIMSE attendant has ended; another is started")
        for call in over:
            call()


def attend(
    line: socket.socket, open_archive: Callable[[Settings, Events], Archive], policy: Callable[[str], Policy]
) -> None:
    """Serve the associations that come over `line` until the server says stop; then drain as the settings say.

    Where the server is gone without a word, so is this process: another one may be about to start on the same data.
    """
    settings: Settings = pickle.loads(line.recv(1 << 20))  # noqa: S301  our own parent's
    events = Events()
    archive = open_archive(settings, events)
    lock, serving = threading.Lock(), set[Association]()
    walk.warm()
    agreed = policy(settings.aet)
    threading.Thread(target=_relay, args=(line, lock, events), name="news", daemon=True).start()
    line.send(_READY)
    try:
        while True:
            try:
                message, descriptors, _, _ = socket.recv_fds(line, MAX_HANDED_OVER + 4096, 1)
            except ConnectionError:
                message = b""
            if not message:
                os._exit(1)
            if message == _STOP:
                break
            head, _, request = message.partition(b"\n")
            number, address, idle_s = orjson.loads(head)

            def ended(association: Association | None, number: int = number) -> None:
                with lock, suppress(OSError):
                    if association is not None:
                        serving.discard(association)
                    line.send(_ENDED + str(number).encode())

            if not descriptors:  # we have as many as we may: the kernel has closed this one
                log.error("an association is lost: no more files may be open")
                ended(None)
                continue
            transport = Transport(socket.socket(fileno=descriptors[0]))
            association = Association(
                transport,
                decode_request(memoryview(request)[HEADER_LENGTH:]),
                archive=archive,
                policy=agreed,
                address=address,
                idle_s=idle_s,
                on_end=ended,
            )
            with lock:
                serving.add(association)
            try:
                association.start()
            except RuntimeError:  # the system has no more threads; the others go on
                log.error("an association is lost: no more threads")
                transport.close()
                ended(association)
        _drain(serving, lock, settings.drain_s)
    finally:
        archive.close()


def _relay(line: socket.socket, lock: threading.Lock, events: Events) -> None:
    """Tell the server that there are news, for as long as it listens."""
    seen = 0
    with suppress(OSError):
        while True:
            if (now := events.wait(seen, 60.0)) > seen:
                with lock:
                    line.send(_NEWS)
            seen = now
            time.sleep(NEWS_S)


def _drain(serving: set[Association], lock: threading.Lock, drain_s: float) -> None:
    with lock:
        rest = list(serving)
    for each in rest:
        each.drain()
    deadline = time.monotonic() + drain_s
    for each in rest:
        each.join(max(0.0, deadline - time.monotonic()))
    for each in rest:
        each.cut()
    for each in rest:
        each.join(1.0)
