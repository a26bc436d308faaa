"""What a batch comes to: a table by the plug-in's own `reduce` or by default, and old against new."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter

from analysis.api import Measurement, Params, Table, TaskResult
from analysis.process import without_secrets
from analysis.registry import Installed

log = logging.getLogger("m3dicom.batch")

MOST_COLUMNS = 50
MOST = 2**63
"""Whole numbers of a table are smaller than this."""
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f\ud800-\udfff]")
RESULTS = TypeAdapter(list[TaskResult])
TABLE = TypeAdapter(Table)

Cell = str | float | int | None
Key = tuple[str, str, str]
"""Identifier of the finding, name of the measurement, unit."""

CHANGES = ("Study", "What", "Finding", "Measurement", "Unit", "Old version", "New version", "Old", "New", "Difference")


@dataclass(frozen=True)
class Report:
    """Both tables; `by` says who made the first: the plug-in's id or "default"; `note`, why not the plug-in."""

    table: Table
    changes: Table
    by: str
    note: str = ""


def make(
    installed: Installed, params: Params, results: Sequence[TaskResult], old: Sequence[TaskResult | None]
) -> Report:
    """The report on these results; `old` are those that each replaces. A `reduce` that fails is told, never fatal."""
    changed = changes(results, old)
    if getattr(installed.plugin, "reduce", None) is None:
        return Report(default(installed, results), changed, "default")
    try:
        return Report(reduced(installed, params, results), changed, installed.id)
    except ReduceFailed as error:
        log.warning("plug-in %s cannot reduce a batch: %s", installed.id, error)
        return Report(default(installed, results), changed, "default", f"The plug-in's own reduction failed: {error}")


# By the plug-in ------------------------------------------------------------------------------------------------------


class ReduceFailed(Exception):
    """A plug-in's `reduce` gave no table; the message says why, in words."""


def reduced(installed: Installed, params: Params, results: Sequence[TaskResult]) -> Table:
    """What the plug-in's `reduce` says, run in a process of its own under its declared limits. Raises ReduceFailed."""
    task = {
        "params": params.model_dump(mode="json"),
        "memory_mb": installed.manifest.resources.memory_mb,
        "results": RESULTS.dump_python(list(results), mode="json"),
    }
    environment = without_secrets(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "analysis.reducing", installed.target],
            input=json.dumps(task).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=installed.manifest.resources.timeout_s,
            check=False,
        )
        said = json.loads(done.stdout) if done.stdout else {}
        if "table" in said:
            return sound(TABLE.validate_python(said["table"]))
        raise ReduceFailed(str(said.get("failed") or f"its process ended with {done.returncode}"))
    except subprocess.TimeoutExpired:
        raise ReduceFailed("it took longer than the plug-in's time limit") from None
    except (OSError, ValueError) as error:
        raise ReduceFailed(f"{type(error).__name__}") from error


def sound(table: Table) -> Table:
    """The table where it can be kept, as CSV and in a document (VR UT, PS3.5 6.2). Raises ReduceFailed."""
    cells = [cell for row in table.rows for cell in row]
    texts = [table.title, table.summary, *table.columns, *(cell for cell in cells if isinstance(cell, str))]
    if any(map(_CONTROLS.search, texts)):
        raise ReduceFailed("a text of its table has control characters")
    numbers = [cell for cell in cells if isinstance(cell, int | float)]
    if not all(math.isfinite(each) if isinstance(each, float) else abs(each) < MOST for each in numbers):
        raise ReduceFailed("a number of its table is none, or too large")
    return table


# By default ----------------------------------------------------------------------------------------------------------


def default(installed: Installed, results: Sequence[TaskResult]) -> Table:
    """A row for each result: how many findings, and the measurements that most results have."""
    several = Counter(key for result in results for key in dict.fromkeys(key for key, _ in _numbers(result)))
    keys = [key for key, _ in several.most_common(MOST_COLUMNS)]
    keys.sort(key=lambda key: next(n for n, known in enumerate(several) if known == key))
    rows = []
    for result in results:
        values = dict(_numbers(result))
        state = "completed" if result.completed else "failed"
        own = (result.study_instance_uid, result.label, state, result.reason, result.version, len(result.findings))
        rows.append((*own, *(values[key].value if key in values else None for key in keys)))
    done = sum(result.completed for result in results)
    left_out = len(several) - len(keys)
    return Table(
        title=f"{installed.manifest.title} {installed.manifest.version}",
        columns=("Study", "What", "State", "Reason", "Version", "Findings", *(_column(key) for key in keys)),
        rows=tuple(rows),
        summary=f"{len(results)} tasks, {done} completed, {sum(len(r.findings) for r in results)} findings."
        + (f" {left_out} measurements of single findings are left out here." if left_out else ""),
    )


def changes(results: Sequence[TaskResult], old: Sequence[TaskResult | None]) -> Table:
    """What each result says that the one before it said otherwise: number of findings, and every measurement."""
    rows: list[tuple[Cell, ...]] = []
    compared = differing = 0
    for new, before in zip(results, old, strict=True):
        if before is None or not new.completed:
            continue
        compared += 1
        found = list(_compared(new, before))
        differing += any(difference != 0 for *_, difference in found)
        rows += [
            (new.study_instance_uid, new.label, *key, before.version, new.version, was, now, difference)
            for key, was, now, difference in found
        ]
    words = f"{compared} results replace older ones; {differing} of them say something else." if compared else (
        "There were no older results to compare with."
    )  # fmt: skip
    return Table("Old against new", CHANGES, tuple(rows), words)


def _compared(new: TaskResult, old: TaskResult) -> Iterator[tuple[Key, Cell, Cell, Cell]]:
    yield ("", "Findings", "1"), len(old.findings), len(new.findings), len(new.findings) - len(old.findings)
    was, now = dict(_numbers(old)), dict(_numbers(new))
    for key in dict.fromkeys((*now, *was)):
        before, after = was.get(key), now.get(key)
        difference = round(after.value - before.value, 9) if before is not None and after is not None else None
        yield key, None if before is None else before.value, None if after is None else after.value, difference


def _numbers(result: TaskResult) -> Iterator[tuple[Key, Measurement]]:
    for finding in result.findings:
        for each in finding.measurements:
            yield (finding.identifier, each.name.meaning or each.name.value, each.unit.value), each


def _column(key: Key) -> str:
    identifier, name, unit = key
    return f"{identifier}: {name}" + (f" [{unit}]" if unit != "1" else "")


def as_csv(table: Table) -> bytes:
    """The table as CSV (RFC 4180) in UTF-8; what a spreadsheet would take for a formula gets an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([_safe(name) for name in table.columns])
    for row in table.rows:
        writer.writerow([_safe(cell) for cell in row])
    return out.getvalue().encode()


_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # and the full-width ones


def _safe(cell: Cell) -> Cell:
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in _FORMULA else cell
