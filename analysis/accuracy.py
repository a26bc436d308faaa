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
    """Of verdicts in the order of time, the last of each reader on each finding of a report."""
    return {(row.report_uid, row.tracking_uid, row.reader): row for row in rows}


def table(rows: Iterable[Any], reader: str | None = None) -> list[Accuracy]:
    """A line for each plug-in version, of verdicts in the order of time; with `reader`, of what that one says.

    A finding that some reader has added is none of the plug-in's: who accepts or corrects it says that it was missed,
    too, and who rejects it says nothing of the plug-in.
    """
    known = list(rows)
    added = {(row.report_uid, row.tracking_uid) for row in known if row.verdict == "missed"}
    by_version: dict[tuple[str, str], list[tuple[str, Any]]] = {}
    for (report, finding, who), row in latest(known).items():
        word = row.verdict
        if (report, finding) in added:
            word = "withdrawn" if word == "rejected" else "missed"
        if reader in (None, who):
            by_version.setdefault((row.plugin, row.version), []).append((word, row))
    return [_line(plugin, version, found) for (plugin, version), found in sorted(by_version.items())]


def _line(plugin: str, version: str, said: list[tuple[str, Any]]) -> Accuracy:
    rows = [row for _, row in said]
    counts: Mapping[str, int] = {word: sum(each == word for each, _ in said) for word in COUNTED}
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
