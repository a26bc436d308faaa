"""The judge of the chaos suite: what was lost, done twice, given up or mixed up does not pass."""

from __future__ import annotations

from typing import Any

import pytest
from faults.chaos import Asked, judged

ONE, TWO = (0, 300.0), (1, 300.0)


def item(uid: str, state: str, *, outputs: tuple[str, ...] = (), why: str = "", began: int = 0) -> dict[str, Any]:
    """A Workitem as UPS-RS gives it, that took 10 seconds where it was done."""
    made: dict[str, Any] = {"00080018": {"vr": "UI", "Value": [uid]}, "00741000": {"vr": "CS", "Value": [state]}}
    if why:
        made["00741002"] = {"vr": "SQ", "Value": [{"00741238": {"vr": "LT", "Value": [why]}}]}
    if outputs:
        instances = [{"00081155": {"vr": "UI", "Value": [uid]}} for uid in outputs]
        performed = {
            "00404033": {"vr": "SQ", "Value": [{"00081199": {"vr": "SQ", "Value": instances}}]},
            "00404050": {"vr": "DT", "Value": [f"202601021200{began:02}"]},
            "00404051": {"vr": "DT", "Value": [f"202601021200{began + 10:02}"]},
        }
        made["00741216"] = {"vr": "SQ", "Value": [performed]}
    return made


def good() -> tuple[list[tuple[str, Asked]], list[dict[str, Any]]]:
    """Results and Workitems of two tasks, each asked for twice: of one both were done at once, of the other in turn."""
    return [("r1", ONE), ("r2", TWO)], [
        item("w1", "COMPLETED", outputs=("r1",)), item("w2", "COMPLETED", outputs=("r1",), began=5),
        item("w3", "COMPLETED", outputs=("r2",)), item("w4", "COMPLETED", outputs=("r2",), began=20),
    ]  # fmt: skip


def judge(found: list[tuple[str, Asked]], items: list[dict[str, Any]]) -> int:
    return judged({ONE, TWO}, found, items, {"w1": ONE, "w2": ONE, "w4": TWO})


def test_one_result_for_each_task_passes() -> None:
    assert judge(*good()) == 1


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([("r1", ONE)], "1 of 2 tasks have no result"),
        ([("r1", ONE), ("r2", TWO), ("r3", TWO)], "1 tasks have more than one result"),
        ([("r1", ONE), ("r2", TWO), ("r2", TWO)], "a result is there twice"),
        ([("r1", ONE), ("r2", TWO), ("r3", (7, 1.0))], "nobody asked for"),
        ([("r1", TWO), ("r2", ONE)], "names the result of another"),
        ([("r1", ONE), ("r3", TWO)], "names a result that is not there"),
    ],
)
def test_planted_results_are_noticed(found: list[tuple[str, Asked]], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        judge(found, good()[1])


@pytest.mark.parametrize(
    ("number", "planted", "words"),
    [
        (3, None, "3 Workitems of 2 tasks"),
        (3, item("w3", "COMPLETED", outputs=("r2",)), "4 Workitems of 2 tasks"),
        (3, item("w4", "IN PROGRESS"), "left IN PROGRESS"),
        (3, item("w4", "CANCELED", why="tried 60 times"), "given up: tried 60 times"),
        (1, item("w2", "CANCELED", why="superseded by w1"), "given up: superseded by w1"),
        (1, item("w2", "COMPLETED", outputs=("r2",)), "names the result of another"),
        (0, item("w1", "COMPLETED", outputs=("r1", "r2")), "another number of results"),
        (2, item("w3", "COMPLETED", outputs=("r1",)), "not named by both its Workitems"),
    ],
)
def test_planted_workitems_are_noticed(number: int, planted: dict[str, Any] | None, words: str) -> None:
    found, items = good()
    items[number : number + 1] = [planted] if planted else []
    with pytest.raises(AssertionError, match=words):
        judge(found, items)
