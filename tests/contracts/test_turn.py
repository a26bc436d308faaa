"""The turn to write to a shared index: one thread of one process has it, whichever way it is taken."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import missing

from pacs import native
from pacs.index.turn import Turn

WAIT_S = 60.0
KINDS = ("compiled", "Python")

Make = Callable[[str], Turn]


def library(kind: str) -> Any | None:
    found = native.load()
    if kind == "compiled" and found is None:
        missing("the compiled part (python -m pacs.native.make)")
    return found if kind == "compiled" else None


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made = list[Turn]()

    def turn(kind: str) -> Turn:
        made.append(Turn(tmp_path / "turn", library(kind)))
        return made[-1]

    yield turn
    for each in made:
        each.close()


@pytest.fixture(params=KINDS)
def turn(request: pytest.FixtureRequest, make: Make) -> Turn:
    return make(request.param)


@pytest.fixture(params=KINDS)
def other(request: pytest.FixtureRequest, make: Make) -> Turn:
    """That of another process: a file of its own, opened under the same name."""
    return make(request.param)


def elsewhere(work: Callable[[], Any]) -> Any:
    """What the work returns in another thread."""
    answers = list[Any]()
    thread = threading.Thread(target=lambda: answers.append(work()))
    thread.start()
    thread.join(WAIT_S)
    return answers[0]


def test_it_is_one_threads(turn: Turn) -> None:
    assert turn.take(wait=False)
    assert not elsewhere(lambda: turn.take(wait=False))
    turn.give()

    def use() -> bool:
        taken = turn.take(wait=False)
        turn.give()
        return taken

    assert elsewhere(use)


def test_it_is_one_processes(turn: Turn, other: Turn) -> None:
    with turn:
        assert not other.take(wait=False)
    with other:
        assert not turn.take(wait=False)
        assert not turn.take(wait=False)  # what could not be had is not half taken
    with turn:
        pass


def test_whoever_waits_gets_it_and_lets_others_run_meanwhile(turn: Turn, other: Turn) -> None:
    inside, most, times = 0, 0, 0
    lock = threading.Lock()

    def use(mine: Turn) -> None:
        nonlocal inside, most, times
        for _ in range(50):
            with mine:
                with lock:
                    inside += 1
                    most = max(most, inside)
                    times += 1
                with lock:
                    inside -= 1

    threads = [threading.Thread(target=use, args=(each,)) for each in (turn, turn, other, other)]
    with turn:
        for thread in threads:
            thread.start()
        assert times == 0
    for thread in threads:
        thread.join(WAIT_S)
    assert (inside, most, times) == (0, 1, 200)


def test_what_fails_gives_it_back(turn: Turn, other: Turn) -> None:
    with pytest.raises(ZeroDivisionError), turn:
        _ = 1 / 0
    assert other.take(wait=False)
    other.give()


def test_the_kernel_takes_it_back_from_a_process_that_dies(turn: Turn, tmp_path: Path) -> None:
    code = """if True:
        import fcntl, os, sys
        fcntl.flock(os.open(sys.argv[1], os.O_RDWR), fcntl.LOCK_EX)
        print(1, flush=True)
        sys.stdin.read()"""
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", code, str(tmp_path / "turn")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"1\n"
        assert not turn.take(wait=False)
        child.kill()
        assert turn.take()
        turn.give()


def test_a_thread_that_ends_with_it_leaves_it_to_the_others(make: Make) -> None:
    turn = make("compiled")
    if sys.platform != "linux":
        missing("a robust mutex")
    assert elsewhere(turn.take)
    assert turn.take()
    turn.give()
    with turn, pytest.raises(OSError, match="deadlock"):
        turn.take()
