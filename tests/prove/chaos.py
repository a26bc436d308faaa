"""The long runs of the chaos suite: 500 tasks, each asked for twice, while everything is killed at random."""

from __future__ import annotations

import tempfile
from pathlib import Path

from faults.chaos import SETTINGS, Chaos, expected, tasks
from prove.registry import Result, Run, machine, proof

TASKS, STUDIES = 500, 25
KILLS = 60


def _run(run: Run, *, scaled: bool) -> Result:
    with tempfile.TemporaryDirectory(prefix="m3prove") as folder:
        chaos = Chaos(Path(folder), scaled=scaled, workers=2)
        wanted = tasks(TASKS, STUDIES)
        assert len({(study, expected((study, threshold))) for study, threshold in wanted}) == TASKS
        victims = list(chaos.victims)
        asked, deck = 0, []
        try:
            for number in run.rounds(KILLS):
                share = TASKS * (number + 1) // max(1, round(KILLS * run.scale))
                chaos.order(wanted[asked:share])
                asked = share
                deck = deck or chaos.dice.sample(victims, len(victims))
                chaos.turn(deck.pop())
            chaos.order(wanted[asked:])
            with machine():
                chaos.finish()
            came = chaos.judge()
        finally:
            chaos.close()
    rows = [("killed", "times"), *sorted(chaos.killed.items())]
    rows += [
        ("**what came out**", ""),
        ("tasks, each asked for twice", came["tasks"]),
        ("Workitems made of them, each done and naming the result", came["workitems"]),
        ("tasks whose two Workitems were done at the same time", came["together"]),
        ("runs that were begun", came["runs"]),
        ("results", came["results"]),
        ("tasks with two results", 0),
        ("tasks without a result", 0),
    ]
    run.note(
        f"- every result was read and has the voxels its task asks for; {came['again']} requests of the client got no"
    )
    run.notes[-1] += " definite answer and were sent again"
    run.note(f"- lease {SETTINGS['M3DICOM_LEASE_S']} s; max_attempts {SETTINGS['M3DICOM_MAX_ATTEMPTS']}: workers are")
    run.notes[-1] += " lost on purpose here, again and again; no process logged a traceback"
    return Result(rows, f"{came['results']} results of {came['tasks']} tasks: none twice, none lost")


@proof(
    "chaos",
    "500 tasks, each asked for twice, while workers, their children, Redis (no persistence), the server with its "
    "scheduler and PostgreSQL are killed -9 at random: 500 results, none twice, none lost.",
)
def chaos_scaled(run: Run) -> Result:
    """The scaled form: S3 (rclone), PostgreSQL, Redis with arq, workers in processes of their own."""
    return _run(run, scaled=True)


@proof(
    "chaos-embedded",
    "The same without Redis: one server on files and SQLite that analyses itself, killed -9 with all it has, and its "
    "children alone.",
)
def chaos_embedded(run: Run) -> Result:
    """The embedded form."""
    return _run(run, scaled=False)
