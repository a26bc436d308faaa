"""The chaos suite in short: a few tasks, each asked for twice, while everything dies once (long form: make prove)."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults.chaos import Chaos, run, tasks

pytestmark = pytest.mark.system


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("scaled", "kills", "count"), [(False, 2, 6), (True, 6, 6)], ids=["embedded", "scaled"])
def test_each_task_has_one_result_whatever_is_killed(tmp_path: Path, scaled: bool, kills: int, count: int) -> None:
    chaos = Chaos(tmp_path, scaled=scaled, workers=2)
    try:
        came = run(chaos, tasks(count, 2), kills)
    finally:
        chaos.close()
    assert came["results"] == came["tasks"] == count
    assert came["workitems"] == 2 * count
    assert set(chaos.killed) >= set(chaos.victims), "everything was killed, and each kill met somebody"
