"""Processes that serve DIMSE associations (`pacs.dimse.crew`), forked from one that has loaded all they need.

The nursery is itself forked from the server before the server has any thread, so that loaded code is in memory once for
all of them; or it is a program, `python -m pacs.server.attendant FD`, where there are threads already. It forks an
attendant for each connection that it is sent, and answers with a descriptor by which its end can be waited for.
Whoever's parent dies is killed by the kernel: nobody goes on writing beside the next server.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import logging
import os
import random
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pacs.dimse import crew
from pacs.errors import Unavailable

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.decoding import DecodingPool
    from pacs.dimse.negotiation import Policy
    from pacs.events import Events
    from pacs.settings import Settings

log = logging.getLogger("m3dicom.attendant")

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
NURSERY, ATTENDANT = b"m3dicom-nursery", b"m3dicom-dimse"
"""What `ps` shows; at most 15 bytes."""


class Attendant:
    """One attendant, as the server sees it (`pacs.dimse.crew.Process`)."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = pidfd

    def ended(self, within_s: float = 0.0) -> bool:
        """Whether it ends within that time, or has ended."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(within_s * 1000))

    def kill(self) -> None:
        """End it at once; nothing where it has ended."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def __del__(self) -> None:
        os.close(self._pidfd)


class Nursery:
    """Where attendants come from. Safe from any thread; those that live are killed by `close`."""

    def __init__(self, line: socket.socket, process: subprocess.Popen[bytes] | int) -> None:
        self._line = line
        self._process = process
        self._lock = threading.Lock()

    @classmethod
    def forked(cls, settings: Settings, not_theirs: Sequence[int] = ()) -> Self:
        """One that shares what this process has loaded; it closes the descriptors that are `not_theirs`.

        For a process that has one thread only. Raises OSError.
        """
        _load(settings)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        with theirs:
            pid = os.fork()
            if pid == 0:
                ours.close()
                for descriptor in not_theirs:
                    os.close(descriptor)
                _run(_nurse, theirs, parent)
        return cls(ours, pid)

    @classmethod
    def started(cls, theirs_too: Sequence[int] = ()) -> Self:
        """One that is a program of its own; it and its attendants hold the descriptors `theirs_too`. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "pacs.server.attendant", str(theirs.fileno()), str(os.getpid())]
            passed = (theirs.fileno(), *theirs_too)
            process = subprocess.Popen(command, pass_fds=passed, stdin=subprocess.DEVNULL)
        return cls(ours, process)

    def start(self, line: socket.socket) -> Attendant:
        """A new attendant at the other end of `line`. Raises OSError where there can be none."""
        with self._lock:
            socket.send_fds(self._line, [b"attend"], [line.fileno()])
            said, descriptors, _, _ = socket.recv_fds(self._line, 64, 1)
        if not descriptors:
            raise OSError(errno.EAGAIN, said.decode() or "their nursery has ended")
        return Attendant(int(said), descriptors[0])

    def close(self) -> None:
        """End it, and all who came from it."""
        self._line.close()
        if isinstance(self._process, int):
            os.waitpid(self._process, 0)
        else:
            self._process.wait()


def living(server: int) -> list[int]:
    """The process ids of the attendants of a server, as /proc tells them; the newest last."""
    parents: dict[int, int] = {}
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            name, _, rest = (folder / "stat").read_bytes().partition(b" (")[2].rpartition(b") ")
            parents[int(folder.name)] = int(rest.split()[1])
            if name == ATTENDANT and not rest.startswith(b"Z"):
                found.append(int(folder.name))
    return sorted(each for each in found if parents.get(parents[each]) == server)


def main() -> int:
    """A nursery on the descriptor, for the parent, that the command line names."""
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
    _load()
    _run(_nurse, socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
    return 0


def _load(settings: Settings | None = None) -> None:
    """Have in memory what a server with these settings and its attendants need: after the fork they share it."""
    from pacs import archive, auth, worklist
    from pacs.dimse import acceptor

    del acceptor, archive, auth, worklist
    if settings is not None and settings.objects.startswith("s3://") and find_spec("boto3"):
        from pacs.storage import s3

        s3.warm()
    if settings is not None and settings.index != "sqlite" and find_spec("psycopg"):
        import psycopg

        del psycopg


def _prepare() -> None:
    """Make, before attendants are forked, what each would make for its first instance."""
    from sqlalchemy import make_url

    from pacs.dicom import walk
    from pacs.index.statement import Statement

    walk.warm()
    dialect = make_url("postgresql+psycopg://" if "psycopg" in sys.modules else "sqlite://").get_dialect()()
    for each in gc.get_objects():
        if isinstance(each, Statement):
            each.prepare(dialect)
    gc.freeze()  # a collection after the fork would write to every object, and so make a copy of it


def _run(work: object, line: socket.socket, parent: int) -> None:
    """The life of a forked process: it never returns to what its parent was doing."""
    status = 1
    try:
        _call_this(ATTENDANT if work is _attend else NURSERY)
        _end_with(parent)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # the server hears them, and tells us
        assert callable(work)
        work(line)
        status = 0
    except ConnectionError:
        pass  # the server is gone
    except Unavailable as error:  # of the database or the store, while this one started: another is started soon
        log.warning("a DIMSE attendant ends: %s", error)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _call_this(name: bytes) -> None:
    """The name of this process, for those who look for it."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NAME, name, 0, 0, 0)


def _end_with(parent: int) -> None:
    """Be killed when the parent dies."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it was quicker
        os._exit(1)


def _nurse(line: socket.socket) -> None:
    _prepare()  # the server goes on meanwhile
    selector = selectors.DefaultSelector()
    selector.register(line, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is not line:
                selector.unregister(key.fileobj)
                os.close(key.fd)
                os.waitpid(key.data, 0)
                continue
            said, descriptors, _, _ = socket.recv_fds(line, 64, 1)
            if not said:
                return
            try:
                pid, pidfd = _bear(line, selector, descriptors[0])
            except OSError as error:
                line.send((error.strerror or "fork").encode())
            else:
                selector.register(pidfd, selectors.EVENT_READ, pid)
                socket.send_fds(line, [str(pid).encode()], [pidfd])
            os.close(descriptors[0])


def _bear(line: socket.socket, selector: selectors.BaseSelector, descriptor: int) -> tuple[int, int]:
    """The process id of a new attendant, and a descriptor of its life."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        line.close()
        selector.close()
        random.seed()
        _run(_attend, socket.socket(fileno=descriptor), parent)
    return pid, os.pidfd_open(pid)


def _attend(line: socket.socket) -> None:
    crew.attend(line, _open, _policy)


class _Decoding:
    """The sandboxed children that transcode, of a pool that is made when first asked: it loads what reads pixels."""

    def __init__(self, children: int) -> None:
        self._children = children
        self._lock = threading.Lock()
        self._pool: DecodingPool | None = None

    def transcode(self, *what: Any) -> Any:
        """As `DecodingPool.transcode`."""
        with self._lock:
            if self._pool is None:
                from pacs.decoding import DecodingPool

                self._pool = DecodingPool(self._children)
        return self._pool.transcode(*what)

    def close(self) -> None:
        """End its children."""
        if self._pool is not None:
            self._pool.close()


def _open(settings: Settings, events: Events) -> Archive:
    """The archive with what associations need that are handed over (`pacs.dimse.services`)."""
    from pacs.archive import open_archive
    from pacs.auth import Auth
    from pacs.server import collector
    from pacs.worklist import Worklist

    archive = open_archive(settings, events, alone=False)
    archive = archive.with_services(
        auth=Auth(archive.index, settings.aes),
        worklist=Worklist(archive.index, events),
        decoding=_Decoding(settings.decoders),
    )
    collector.settle()
    return archive


def _policy(ae_title: str) -> Policy:
    from pacs.dimse.acceptor import policy

    return policy(ae_title)


if __name__ == "__main__":
    sys.exit(main())
