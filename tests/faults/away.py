"""How long a server that was killed is away: until the first C-ECHO and the first C-STORE, and who had the machine."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dimse_client import IMPLICIT, VERIFICATION, Aborted, Association, Rejected

_TICK = os.sysconf("SC_CLK_TCK")
_PERIOD_S = 0.01


@dataclass(frozen=True)
class Away:
    """One kill and what came after it, in seconds since the kill."""

    echo_s: float
    """Until a C-ECHO was answered, on an association of its own."""
    store_s: float
    """Until a C-STORE was acknowledged, on an association that was begun after the kill."""
    cpu_s: float
    """What all processes of the new server had of the processors by then."""
    waited_s: float
    """How long the thread that opens the doors was ready to run while others had the processors."""
    strangers: float
    """The share of the machine that processes had which have nothing to do with this: 0 to 1."""

    @property
    def s(self) -> float:
        """Until both were answered."""
        return max(self.echo_s, self.store_s)


class Watch:
    """Watches for the return of a server, from the moment it is killed on, in a thread of its own."""

    def __init__(self, address: tuple[str, int], first_store: Callable[[float], float | None], ours: list[int]) -> None:
        """`first_store(since)`: when a C-STORE was answered whose association began later; `ours`: also of this run."""
        self._address = address
        self._first_store = first_store
        self._ours = [os.getpid(), *ours]
        self._killed = self._gone = time.monotonic()
        self._before = 0.0, 0.0
        self._server: int | None = None
        self._over = threading.Event()
        self._found: Away | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def gone(self) -> None:
        """Told once the old server is no more: what is answered from now on is the new one's."""
        self._gone = time.monotonic()
        self._before = _busy(), self._own()
        self._thread.start()

    def started(self, server: int) -> None:
        """Told the process id of the new server."""
        self._server = server

    def result(self, within_s: float = 120) -> Away:
        """What was seen, once all of it was."""
        self._thread.join(within_s)
        self._over.set()
        assert self._found is not None, "no C-ECHO or no C-STORE was answered after the start"
        return self._found

    def _run(self) -> None:
        echo: float | None = None
        while not self._over.wait(_PERIOD_S):
            if echo is None and self._echoes():
                echo = time.monotonic()
            stored = self._first_store(self._gone)
            if echo is not None and stored is not None and self._server is not None:
                self._found = self._seen(echo, stored, self._server)
                return

    def _echoes(self) -> bool:
        try:
            with Association(self._address, contexts=((VERIFICATION, (IMPLICIT,)),), timeout=60) as assoc:
                return assoc.echo() == 0
        except (OSError, Aborted, Rejected):
            return False

    def _seen(self, echo: float, stored: float, server: int) -> Away:
        busy, own = _busy() - self._before[0], self._own() - self._before[1]
        took = (time.monotonic() - self._gone) * (os.cpu_count() or 1)
        waited = int(Path(f"/proc/{server}/schedstat").read_text().split()[1]) / 1e9
        return Away(
            echo_s=echo - self._killed,
            store_s=stored - self._killed,
            cpu_s=sum(map(_cpu_s, (server, *descendants(server)))),
            waited_s=waited,
            strangers=max(0.0, busy - own) / took,
        )

    def _own(self) -> float:
        everybody = {each for pid in self._ours for each in (pid, *descendants(pid))}
        return sum(map(_cpu_s, everybody))


def descendants(pid: int, *, deep: bool = True) -> list[int]:
    """The process ids of the children of a process and, if `deep`, of theirs."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *(descendants(int(child)) if deep else ())]
    return found


def named(*arguments: str) -> list[int]:
    """The process ids of those in whose command line these arguments follow one another."""
    wanted = b"\0" + b"\0".join(each.encode() for each in arguments) + b"\0"
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if wanted in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def spread(seconds: Iterable[float]) -> str:
    """Least, median and most, in words."""
    ordered = sorted(seconds)
    return f"{ordered[0]:.2f} / {ordered[len(ordered) // 2]:.2f} / {ordered[-1]:.2f}" if ordered else "-"


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process and of its children that have ended."""
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / _TICK
    return 0.0


def _busy() -> float:
    """CPU seconds of the whole machine since it was started, those included that its host took for others."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split(None, 9)[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICK
