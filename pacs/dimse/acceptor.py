"""The DIMSE door: a listening socket, peers that have not yet asked for anything, and a bounded number of associations.

Connections wait for their A-ASSOCIATE-RQ in one selector without a thread each, so silent ones cost next to nothing
and cannot keep anybody out; beyond a number of them the oldest is dropped. TLS handshakes wait there too. A whole
request gets a thread, or a rejection that says "local limit exceeded"; one for nothing but C-ECHO has a reserve.
"""

from __future__ import annotations

import logging
import math
import resource
import selectors
import socket
import ssl
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pacs.dicom import walk
from pacs.dicom.sop_classes import STORAGE_SOP_CLASSES
from pacs.dicom.transfer_syntaxes import TRANSFER_SYNTAXES
from pacs.dimse.association import ARTIM_S, Association
from pacs.dimse.crew import Crew
from pacs.dimse.negotiation import Policy, is_verification_only
from pacs.dimse.services import SERVICES
from pacs.dimse.states import Action, State, on_pdu
from pacs.dimse.tls import fingerprint_of
from pacs.dimse.transport import Transport
from pacs.dimse.upper_layer import (
    HEADER_LENGTH,
    AbortSource,
    AssociateRequest,
    ProtocolError,
    Rejection,
    check_length,
    decode_header,
    decode_request,
    encode_abort,
    encode_reject,
)

if TYPE_CHECKING:
    from pacs.archive import Archive

log = logging.getLogger(__name__)

FIRST_PDU_S = 10.0
MAX_WAITING = 512
MAX_WAITING_BYTES = 16 << 20
ECHO_RESERVE = 16
ECHO_IDLE_S = 5.0
BACKLOG = 1024
ACCEPTED_AT_ONCE = 64
COMPLAINT_PERIOD_S = 5.0
_PERIOD_S = 0.25
_EVENTFUL = frozenset().union(*(service.sop_classes for service in SERVICES if service.events))


@dataclass(slots=True, eq=False)
class _Waiting:
    """A connection without an association: its request is still coming, or it was refused and has to close."""

    sock: socket.socket
    address: str
    deadline: float
    state: State = State.AWAIT_REQUEST
    read: bytearray = field(default_factory=bytearray)
    greeted: bool = True
    """Whether the TLS handshake, if any, is over."""


class Places:
    """How many associations there are, over all doors of a server and by address. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total = 0
        self._per_host: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """How many there are."""
        return self._total

    def taken(self, host: str) -> tuple[int, int]:
        """How many there are, and how many of them are from this address."""
        with self._lock:
            return self._total, self._per_host[host]

    def take(self, host: str) -> None:
        """One more."""
        with self._lock:
            self._total += 1
            self._per_host[host] += 1

    def leave(self, host: str) -> None:
        """One less."""
        with self._lock:
            self._total -= 1
            self._per_host[host] -= 1
            if self._per_host[host] <= 0:
                del self._per_host[host]


class Acceptor:
    """A running DIMSE door. Made by `serve`."""

    def __init__(
        self,
        archive: Archive,
        listener: socket.socket,
        policy: Policy,
        *,
        tls: ssl.SSLContext | None = None,
        places: Places | None = None,
        crew: Crew | None = None,
    ) -> None:
        self._archive = archive
        self._policy = policy
        self._listener = listener
        self.address: tuple[str, int] = listener.getsockname()[:2]
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._associations: set[Association] = set()
        self._tls = tls
        self._places = places or Places()
        self._crew = crew
        self._waiting: dict[_Waiting, None] = {}
        self._waiting_bytes = 0
        # Associations, spooled objects and the index need descriptors as well
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        unlimited = descriptors == resource.RLIM_INFINITY
        self._max_waiting = MAX_WAITING if unlimited else max(1, min(MAX_WAITING, descriptors // 4))
        self._complained_at = -math.inf
        self._selector = selectors.DefaultSelector()
        self._wake_receive, self._wake_send = socket.socketpair()
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(self._wake_receive, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="dimse acceptor", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether new associations are being accepted."""
        return self._thread.is_alive() and not self._closing.is_set()

    @property
    def associations(self) -> int:
        """How many associations there are now."""
        with self._lock:
            return len(self._associations)

    def close(self, drain_s: float = 10.0) -> None:
        """Accept nothing more, let messages being performed end within `drain_s` seconds, then cut the rest."""
        self.stop()
        for each in self._current():
            each.drain()
        deadline = time.monotonic() + drain_s
        for each in self._current():
            each.join(max(0.0, deadline - time.monotonic()))
        rest = self._current()
        for each in rest:
            each.cut()
        for each in rest:
            each.join(1.0)

    def stop(self) -> None:
        """Accept nothing more."""
        self._closing.set()
        with suppress(OSError):  # closed before
            self._wake_send.send(b"\0")
        self._thread.join()

    # --- the acceptor's thread ---

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                for key, _ in self._selector.select(_PERIOD_S if self._waiting else None):
                    if key.data is not None:
                        self._advance(key.data)
                    elif key.fileobj is self._listener:
                        self._accept()
                self._expire()
        except Exception:
            log.exception("the DIMSE door has failed")
        finally:
            for waiting in list(self._waiting):
                self._drop(waiting)
            self._selector.close()
            for sock in (self._listener, self._wake_receive, self._wake_send):
                sock.close()

    def _accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                sock, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if time.monotonic() - self._complained_at > COMPLAINT_PERIOD_S:
                    self._complained_at = time.monotonic()
                    log.warning("cannot accept connections: %s", error.strerror)
                if self._waiting:
                    self._drop(
                        next(iter(self._waiting))
                    )  # out of descriptors: the one silent the longest gives its own
                else:
                    self._closing.wait(0.05)
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if len(self._waiting) >= self._max_waiting:
                self._drop(next(iter(self._waiting)))
            host = str(address[0]).removeprefix("::ffff:")
            waiting = _Waiting(sock, host, time.monotonic() + FIRST_PDU_S)
            if self._tls is not None:
                try:
                    waiting.sock = sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
                except (OSError, ValueError):  # gone already
                    sock.close()
                    continue
                waiting.greeted = False
            self._waiting[waiting] = None
            self._selector.register(sock, selectors.EVENT_READ, waiting)

    def _advance(self, waiting: _Waiting) -> None:
        if waiting not in self._waiting:
            return
        try:
            if waiting.state is State.AWAIT_CLOSE:
                if not waiting.sock.recv(65536):
                    self._drop(waiting)
                return
            if not waiting.greeted:
                self._greet(waiting)
            request = self._read_request(waiting)
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
            return
        except ssl.SSLWantWriteError:
            self._selector.modify(waiting.sock, selectors.EVENT_WRITE, waiting)
        except ssl.SSLError as error:
            why = error.reason or type(error).__name__
            log.warning("TLS with %s failed: %s", waiting.address, why.lower().replace("_", " "))
            self._drop(waiting)
        except OSError:
            self._drop(waiting)
        except ProtocolError as error:
            log.warning("connection aborted: %s", error, extra={"address": waiting.address})
            # PS3.8 Table 9-10: whatever is not a request gets AA-1 in Sta2
            self._refuse(waiting, encode_abort(AbortSource.USER))
        else:
            if request is not None:
                self._admit(waiting, request)

    def _greet(self, waiting: _Waiting) -> None:
        """Go on with the TLS handshake. Raises ssl.SSLWantReadError and SSLWantWriteError until it is over."""
        assert isinstance(waiting.sock, ssl.SSLSocket)
        if self._selector.get_key(waiting.sock).events != selectors.EVENT_READ:
            self._selector.modify(waiting.sock, selectors.EVENT_READ, waiting)
        waiting.sock.do_handshake()
        waiting.greeted = True

    def _read_request(self, waiting: _Waiting) -> AssociateRequest | None:
        """The request, once it is whole. Takes no byte beyond it from the socket."""
        read = waiting.read
        wanted = HEADER_LENGTH
        while True:
            if len(read) >= HEADER_LENGTH:
                kind, length = decode_header(read)
                check_length(kind, length, 0)
                action, _ = on_pdu(State.AWAIT_REQUEST, kind)
                if action is Action.CLOSE:
                    raise ConnectionAbortedError
                if action is not Action.DECIDE:
                    raise ProtocolError(f"PDU type {kind} instead of A-ASSOCIATE-RQ")
                wanted = HEADER_LENGTH + length
                if len(read) == wanted:
                    return decode_request(memoryview(read)[HEADER_LENGTH:])
            got = waiting.sock.recv(wanted - len(read))
            if not got:
                raise ConnectionAbortedError
            read += got
            self._waiting_bytes += len(got)
            if self._waiting_bytes > MAX_WAITING_BYTES:
                raise ConnectionAbortedError

    def _admit(self, waiting: _Waiting, request: AssociateRequest) -> None:
        settings = self._archive.settings
        echo_only = is_verification_only(request)
        total, of_host = self._places.taken(waiting.address)
        excess = max(total - settings.max_associations, of_host - settings.max_associations_per_host)
        if excess >= (ECHO_RESERVE if echo_only else 0):
            log.warning("association rejected: local limit exceeded", extra={"address": waiting.address})
            self._refuse(waiting, encode_reject(Rejection.LOCAL_LIMIT_EXCEEDED))
            return
        idle_s = min(ECHO_IDLE_S, settings.association_idle_s) if excess >= 0 else settings.association_idle_s
        if self._handed_over(waiting, request, idle_s):
            return
        self._forget(waiting)
        association = Association(
            Transport(waiting.sock),
            request,
            archive=self._archive,
            policy=self._policy,
            address=waiting.address,
            idle_s=idle_s,
            tls=self._tls is not None,
            certificate=fingerprint_of(waiting.sock) if isinstance(waiting.sock, ssl.SSLSocket) else "",
            on_end=self._ended,
        )
        self._places.take(waiting.address)
        with self._lock:
            self._associations.add(association)
        try:
            association.start()
        except RuntimeError:  # the system has no more threads
            self._ended(association)
            waiting.sock.close()

    def _handed_over(self, waiting: _Waiting, request: AssociateRequest, idle_s: float) -> bool:
        """Whether another process serves it now."""
        if self._crew is None or self._tls is not None or _is_told_of_others(request):
            return False
        address = waiting.address
        self._places.take(address)
        if not self._crew.take(waiting.sock, address, idle_s, bytes(waiting.read), lambda: self._places.leave(address)):
            self._places.leave(address)
            return False
        self._drop(waiting)
        return True

    def _ended(self, association: Association) -> None:
        self._places.leave(association.address)
        with self._lock:
            self._associations.discard(association)

    def _refuse(self, waiting: _Waiting, last: bytes) -> None:
        """Send `last` and wait, without a thread, for the peer to close (Sta13)."""
        self._waiting_bytes -= len(waiting.read)
        waiting.read = bytearray()
        waiting.state = State.AWAIT_CLOSE
        waiting.deadline = time.monotonic() + ARTIM_S
        try:
            waiting.sock.send(last)
            socket.socket.shutdown(waiting.sock, socket.SHUT_WR)  # that of an SSLSocket would forget its keys
        except OSError:
            self._drop(waiting)

    def _expire(self) -> None:
        now = time.monotonic()
        for waiting in [each for each in self._waiting if each.deadline <= now]:
            self._drop(waiting)

    def _forget(self, waiting: _Waiting) -> None:
        if waiting in self._waiting:
            del self._waiting[waiting]
            self._waiting_bytes -= len(waiting.read)
            self._selector.unregister(waiting.sock)

    def _drop(self, waiting: _Waiting) -> None:
        self._forget(waiting)
        waiting.sock.close()

    def _current(self) -> list[Association]:
        with self._lock:
            return list(self._associations)


def serve(
    archive: Archive,
    *,
    host: str,
    port: int,
    ae_title: str,
    unknown_storage: bool = False,
    tls: ssl.SSLContext | None = None,
    places: Places | None = None,
    crew: Crew | None = None,
) -> Acceptor:
    """A running acceptor of `ae_title` on `host` and `port` (0 = any free one; `Acceptor.address` tells).

    It stores every Storage SOP Class of `pacs.dicom.sop_classes` in every transfer syntax of
    `pacs.dicom.transfer_syntaxes`; with `unknown_storage` also SOP classes that are in no table. With `tls` nothing
    else is spoken. Doors that share `places` share the limits of associations; with a `crew` they are handed over to
    its processes. Raises OSError where it cannot listen.
    """
    family = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
    listener = socket.create_server((host, port), family=family, backlog=BACKLOG)  # with SO_REUSEADDR
    walk.warm()
    agreed = policy(ae_title, unknown_storage=unknown_storage)
    return Acceptor(archive, listener, agreed, tls=tls, places=places, crew=crew)


def _is_told_of_others(request: AssociateRequest) -> bool:
    """Whether the peer may be sent events that others cause: the process that knows of them has to serve it."""
    return any(proposed.abstract_syntax in _EVENTFUL for proposed in request.contexts)


def policy(ae_title: str, *, unknown_storage: bool = False) -> Policy:
    """What is negotiated under this AE title."""
    return Policy(
        ae_title.strip(), STORAGE_SOP_CLASSES, TRANSFER_SYNTAXES, unknown_storage=unknown_storage, services=SERVICES
    )
