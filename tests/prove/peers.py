"""The long runs of hostile and heavy peers: very large objects, and crowds at the DIMSE door."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conftest import RunningServer, start_server
from dimse_client import CT, EXPLICIT, Aborted, Association, Connection, Rejected
from faults.large import Watch, by_dimse, by_stow, read_back, settled
from prove.registry import Result, Run, proof

SIZE = 2 << 30
BEYOND_IDLE = 200 << 20
SILENT, CROWD = 500, 1000


@contextmanager
def _server() -> Iterator[RunningServer]:
    with tempfile.TemporaryDirectory(prefix="m3prove") as folder:
        server = start_server(Path(folder) / "data", settings={"M3DICOM_WORKERS": "0"})
        try:
            yield server
        finally:
            server.stop()


@proof("large", "An object of 2 GiB, by C-STORE and by STOW-RS, in at most 200 MB of memory above idle.")
def large(run: Run) -> Result:
    """Each door takes one, and WADO-RS gives it back whole."""
    rows: list[tuple[object, ...]] = [("door", "bytes", "seconds", "storing took MB", "reading took MB")]
    size = int(SIZE * run.scale)
    with _server() as server:
        token = server.token
        by_dimse(server, "1.2.3.1", 1 << 20)
        by_stow(server, "1.2.3.2", 1 << 20, token)
        for number in run.rounds(round(2 / run.scale)):
            settled(server)
            uid, began = f"1.2.3.{10 + number}", time.monotonic()
            with Watch(server.process.pid) as storing:
                answer = by_stow(server, uid, size, token) if number else by_dimse(server, uid, size)
            assert answer == (200 if number else 0), answer
            took = time.monotonic() - began
            with Watch(server.process.pid) as reading:
                got = read_back(server, uid, token)
            assert got > size - (4 << 20)
            assert max(storing.beyond_idle, reading.beyond_idle) <= BEYOND_IDLE, (storing.beyond_idle, got)
            figures = (f"{each.beyond_idle / 1e6:.0f}" for each in (storing, reading))
            rows.append(("STOW-RS" if number else "C-STORE", got, f"{took:.1f}", *figures))
    return Result(rows, "stored and read back whole within the bound")


@proof("flood", "1,000 associations at once and 500 silent peers: all answered or refused, C-ECHO works throughout.")
def flood(run: Run) -> Result:
    """A crowd that asks for associations at one moment, while others only hold connections open."""
    outcomes: Counter[str] = Counter()
    silent: list[Connection] = []
    held: list[Association] = []
    echoes: list[float] = []
    for _ in run.rounds(1):
        with _server() as server:
            silent += [Connection(server.dimse, timeout=60) for _ in range(SILENT)]
            barrier = threading.Barrier(CROWD)

            def visit(server: RunningServer = server, barrier: threading.Barrier = barrier) -> None:
                barrier.wait()
                try:
                    held.append(Association(server.dimse, contexts=((CT, (EXPLICIT,)),), timeout=60))
                    outcomes["accepted"] += 1
                except Rejected as refused:
                    outcomes[f"rejected {refused.args}"] += 1
                except (OSError, Aborted) as failed:
                    outcomes[type(failed).__name__] += 1

            began = time.monotonic()
            threads = [threading.Thread(target=visit) for _ in range(CROWD)]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                asked = time.monotonic()
                with Association(server.dimse, timeout=60) as assoc:
                    assert assoc.echo() == 0
                echoes.append(time.monotonic() - asked)
                time.sleep(0.05)
            took = time.monotonic() - began
            for each in [*silent, *held]:
                each.sock.close()
    assert sum(outcomes.values()) == CROWD
    assert set(outcomes) <= {"accepted", "rejected (2, 3, 2)"}, dict(outcomes)
    head = (
        "associations",
        "silent peers",
        "accepted",
        "refused (local limit)",
        "all answered after s",
        "slowest C-ECHO s",
    )
    refused = outcomes["rejected (2, 3, 2)"]
    row = (CROWD, SILENT, outcomes["accepted"], refused, f"{took:.1f}", f"{max(echoes):.2f}")
    return Result((head, row), f"everybody was answered; {len(echoes)} of {len(echoes)} C-ECHO succeeded meanwhile")
