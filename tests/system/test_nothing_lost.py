"""What was acknowledged is there, whatever happens: the short forms of the long runs in tests/prove."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from faults.kills import KillLoop, files_and_sqlite, s3_and_postgresql
from faults.load import BrokenPromise

pytestmark = pytest.mark.system
Backend = Callable[[], AbstractContextManager[dict[str, str]]]


@pytest.mark.parametrize("backend", [files_and_sqlite, s3_and_postgresql])
def test_kill_9_in_ingest(tmp_path: Path, backend: Backend) -> None:
    with backend() as settings:
        loop = KillLoop(tmp_path / "data", settings, seed=3)
        try:
            for _ in range(2):
                loop.turn()
            assert loop.finish() > 0
        finally:
            loop.close()


def test_killed_attendants_take_nothing_along_and_their_rows_are_those_of_a_rebuild(tmp_path: Path) -> None:
    """Several processes write to one SQLite index: one of them killed at a time, then all."""
    loop = KillLoop(tmp_path / "data", {"M3DICOM_WORKERS": "0", "M3DICOM_DIMSE_PROCESSES": "3"}, seed=9)
    try:
        while not (loop.attendants_killed and loop.kills > loop.attendants_killed):
            loop.turn()
        assert loop.finish() > 0
    finally:
        loop.close()
    assert loop.compare() > 0


def test_power_loss_takes_only_what_was_not_promised(tmp_path: Path) -> None:
    loop = KillLoop(tmp_path / "data", {"M3DICOM_WORKERS": "0"}, seed=4, power=True)
    try:
        for _ in range(2):
            loop.turn()
        assert loop.finish() > 0
        assert sum(each.ranges + each.names for each in loop.lost) > 0, "nothing was under way when the power went"
    finally:
        loop.close()


def test_a_disk_that_does_not_sync_is_found_out(tmp_path: Path) -> None:
    loop = KillLoop(tmp_path / "data", {"M3DICOM_WORKERS": "0", "DEAF_DISK": "1"}, seed=5, power=True)
    try:
        with pytest.raises(BrokenPromise):  # noqa: PT012
            for _ in range(3):
                loop.turn()
    finally:
        loop.close()
