"""How often readers found a plug-in right: counts of verdicts by plug-in version, with Wilson's interval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, Field

from analysis.api import Table

Z95 = 1.959963984540054
COUNTED = ("accepted", "rejected", "corrected", "missed")


class Share(BaseModel):
    """A share with its 95 % interval (Wilson 1927)."""

    value: float
    low: float
    high: float
    of: int = Field(description="Out of how many")


class Accuracy(BaseModel):
    """What readers say of one version of a plug-in; the latest verdict of each reader on each finding counts."""

    plugin: str
    version: str
    readers: int
    reports: int = Field(description="Reports that at least one reader said something of")
    findings: int = Field(description="Findings in these reports")
    judged: int = Field(description="Verdicts on findings: accepted, corrected and rejected")
    accepted: int
    rejected: int
    corrected: int
    missed: int = Field(description="Findings that readers added")
    precision: Share | None = Field(description="(accepted + corrected) / judged: there was something")
    unchanged: Share | None = Field(description="accepted / judged: nothing had to be changed")
    sensitivity: Share | None = Field(description="(accepted + corrected) / (accepted + corrected + missed)")


def wilson(hits: int, of: int, z: float = Z95) -> Share | None:
    """hits / of with Wilson's score interval, None of nothing."""
    if of <= 0:
        return None
    share = hits / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return Share(value=share, low=max(0.0, middle - half), high=min(1.0, middle + half), of=of)


def latest(rows: Iterable[Any]) -> dict[tuple[str, str, str], Any]:
    """Of verdicts in the order of time, the last of each reader on each finding of a report.

    A finding that the reader had added and now rejects was never the plug-in's: it is left out.
    """
    found: dict[tuple[str, str, str], Any] = {}
    added = set()
    for row in rows:
        key = (row.report_uid, row.tracking_uid, row.reader)
        found[key] = row
        if row.verdict == "missed":
            added.add(key)
        elif key in added and row.verdict == "rejected":
            del found[key]
    return found


def table(rows: Iterable[Any]) -> list[Accuracy]:
    """A line for each plug-in version, of verdicts in the order of time."""
    by_version: dict[tuple[str, str], list[Any]] = {}
    for row in latest(rows).values():
        by_version.setdefault((row.plugin, row.version), []).append(row)
    return [_line(plugin, version, found) for (plugin, version), found in sorted(by_version.items())]


def _line(plugin: str, version: str, rows: list[Any]) -> Accuracy:
    counts: Mapping[str, int] = {word: sum(row.verdict == word for row in rows) for word in COUNTED}
    right = counts["accepted"] + counts["corrected"]
    judged = right + counts["rejected"]
    return Accuracy(
        plugin=plugin,
        version=version,
        readers=len({row.reader for row in rows}),
        reports=len({row.report_uid for row in rows}),
        findings=sum({row.report_uid: row.findings for row in rows}.values()),
        judged=judged,
        **counts,
        precision=wilson(right, judged),
        unchanged=wilson(counts["accepted"], judged),
        sensitivity=wilson(right, right + counts["missed"]),
    )


def as_table(lines: Iterable[Accuracy]) -> Table:
    """The same as a table, for CSV."""
    plain = (
        "plugin",
        "version",
        "readers",
        "reports",
        "findings",
        "judged",
        "accepted",
        "rejected",
        "corrected",
        "missed",
    )
    shares = ("precision", "unchanged", "sensitivity")
    columns = (*plain, *(f"{share}{part}" for share in shares for part in ("", "_low", "_high")))
    rows = []
    for line in lines:
        cells: list[str | float | int | None] = [getattr(line, name) for name in plain]
        for name in shares:
            share: Share | None = getattr(line, name)
            cells += [None] * 3 if share is None else [share.value, share.low, share.high]
        rows.append(tuple(cells))
    return Table("Accuracy", columns, tuple(rows))
