"""A processor that is kept from sleeping: when, for how long, and never where others want it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import unless

from pacs import native
from pacs.server import awake
from pacs.server.awake import ENOUGH, KEPT_S, SOON_S, TOGETHER_S, Awake, is_rationed

needs_library = unless(native.load() is not None, "the compiled part was not built")


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[Awake]:
    monkeypatch.setattr(awake, "is_rationed", lambda: False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(2)))
    made = Awake()
    yield made
    made.close()


def answer(kept: Awake, count: int, apart: float) -> float:
    """Tell of so many answers, the last of them now; when that was."""
    now = time.monotonic()
    for number in range(count):
        kept.answered(now - (count - 1 - number) * apart)
    return now


def thread() -> threading.Thread | None:
    return next((each for each in threading.enumerate() if each.name == "awake"), None)


@pytest.mark.parametrize(
    ("count", "apart"), [(ENOUGH, SOON_S / 2), (10 * ENOUGH, SOON_S * 1.1), (10 * ENOUGH, TOGETHER_S / 2)]
)
def test_nothing_is_kept_awake_for_few_requests_slow_ones_or_many_at_once(
    kept: Awake, count: int, apart: float
) -> None:
    answer(kept, count, apart)
    assert thread() is None


@needs_library
def test_after_many_requests_at_once_a_thread_of_the_lowest_priority_computes_nothing(kept: Awake) -> None:
    now = answer(kept, ENOUGH + 1, SOON_S / 2)
    assert kept._state.until == pytest.approx(now + KEPT_S)
    found = thread()
    assert found is not None
    assert found.native_id is not None
    until = time.monotonic() + 60
    while os.sched_getscheduler(found.native_id) != os.SCHED_IDLE or not kept._state.asleep:
        assert time.monotonic() < until, "it computes for ever"
        time.sleep(0.001)
    kept.close()
    assert not found.is_alive()
    answer(kept, ENOUGH + 1, SOON_S / 2)
    assert thread() is None


@needs_library
def test_where_others_want_the_processors_it_rests(kept: Awake) -> None:
    kept._state.processors = 0  # so that this thread itself is one too many
    until = time.monotonic() + 60
    while not kept.given_up:
        assert time.monotonic() < until, "never given up"
        now = answer(kept, ENOUGH + 1, SOON_S / 2)
        kept._state.until = now + 60  # whoever computes for others has longer than we have
        time.sleep(0.001)
    assert kept._state.rested > time.monotonic() - 60
    kept._state.until = 0
    kept._state.rested = time.monotonic() + 600
    answer(kept, ENOUGH + 1, SOON_S / 2)
    assert kept._state.until == 0, "it rests"


def test_one_processor_is_not_kept_awake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awake, "is_rationed", lambda: False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    alone = Awake()
    answer(alone, ENOUGH + 1, SOON_S / 2)
    assert thread() is None
    alone.close()


@pytest.mark.parametrize(
    ("groups", "files", "rationed"),
    [
        ("0::/a/b", {"a/b/cpu.max": "max 100000"}, False),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, True),
        ("0::/", {"cpu.max": "200000 100000"}, True),
        ("4:memory:/x\n1:cpu,cpuacct:/x", {"cpu/x/cpu.cfs_quota_us": "50000"}, True),
        ("4:memory:/x\n1:cpu,cpuacct:/x\n0::/", {"cpu/x/cpu.cfs_quota_us": "-1"}, False),
        ("", {}, False),
    ],
)
def test_a_ration_of_computing_time_is_not_spent_on_nothing(
    tmp_path: Path, groups: str, files: dict[str, str], rationed: bool
) -> None:
    (tmp_path / "own").write_text(groups)
    for name, text in files.items():
        place = tmp_path / "root" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    assert is_rationed(tmp_path / "root", tmp_path / "own") is rationed
    assert not is_rationed(tmp_path / "root", tmp_path / "missing")
