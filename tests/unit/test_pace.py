"""Which look-ups are made on the event loop: those whose kind has proven quick, whatever came of the last one."""

from __future__ import annotations

import pytest

from dicomweb.kept import QUICK_S, Pace
from pacs.errors import NotFound


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_last_of_a_kind_decides() -> None:
    clock = Clock()
    pace = Pace(clock)

    def work(lasts: float, fails: bool = False) -> str:
        clock.now += lasts
        if fails:
            raise NotFound("nothing is there")
        return "made"

    assert not pace.is_quick("search")
    assert pace.timed("search", lambda: work(QUICK_S / 2)) == "made"
    assert pace.is_quick("search")
    assert not pace.is_quick("frame")
    pace.timed("search", lambda: work(QUICK_S * 2))
    assert not pace.is_quick("search")
    for lasts in (QUICK_S / 2, QUICK_S * 2):  # what is not there takes its time, too
        with pytest.raises(NotFound):
            pace.timed("search", lambda lasts=lasts: work(lasts, fails=True))  # type: ignore[misc]
        assert pace.is_quick("search") is (lasts < QUICK_S)
