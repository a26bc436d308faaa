"""Who looked at what stands in the audit: once for a principal, a study and a quarter of an hour, whatever fails."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from pacs.accesses import EVENT, WINDOW_S, Accesses
from pacs.audit import Audit
from pacs.auth import SYSTEM, Principal
from pacs.errors import Unavailable
from pacs.index.engine import Index

ANN, BOB = (Principal(name, "session") for name in ("ann", "bob"))


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def told(index: Index) -> Callable[[], list[tuple[str, str | None]]]:
    return lambda: [(e.principal, e.study_instance_uid) for e in reversed(Audit(index).query(EVENT))]


def test_one_row_for_principal_study_and_quarter_of_an_hour(
    index: Index, clock: Clock, told: Callable[[], list[tuple[str, str | None]]]
) -> None:
    accesses = Accesses(index, clock=clock)
    for _ in range(3):
        for principal, study in ((ANN, "1.2"), (ANN, "1.3"), (BOB, "1.2"), (SYSTEM, "1.2")):
            accesses.note(principal, study)
    accesses.flush()
    assert told() == [("ann", "1.2"), ("ann", "1.3"), ("bob", "1.2")]
    clock.now += WINDOW_S
    accesses.note(ANN, "1.2")
    accesses.close()
    assert told()[3:] == [("ann", "1.2")]
    assert Audit(index).query(EVENT)[0].at == clock.now


def test_what_cannot_be_written_waits(
    index: Index, clock: Clock, told: Callable[[], list[tuple[str, str | None]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    accesses = Accesses(index, clock=clock)
    with monkeypatch.context() as broken:

        def fail(_work: object) -> None:
            raise Unavailable("the disk is full")

        broken.setattr(index, "transact", fail)
        accesses.note(ANN, "1.2")
        with pytest.raises(Unavailable):
            accesses.flush()
        accesses.note(BOB, "1.2")
    accesses.close()
    assert told() == [("ann", "1.2"), ("bob", "1.2")]


def test_many_at_once(index: Index, clock: Clock, told: Callable[[], list[tuple[str, str | None]]]) -> None:
    accesses = Accesses(index, clock=clock)
    start = threading.Barrier(8)

    def read() -> None:
        start.wait()
        for number in range(50):
            accesses.note(ANN, f"1.2.{number}")

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    accesses.close()
    assert sorted(told()) == sorted(("ann", f"1.2.{number}") for number in range(50))
