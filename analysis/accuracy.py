"""How often readers found a plug-in right: counts of verdicts by plug-in version, with Wilson's interval."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
from pydantic import BaseModel, Field

from analysis.api import Table

Z95 = 1.959963984540054
KINDS = {"measurements": "number", "codes": "code", "texts": "text"}
CORRECTED = {"numbers": "measurements", "codes": "codes", "texts": "texts", "places": "shape"}
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
    corrected_numbers: int = Field(description="Of the corrected, those with another number")
    corrected_codes: int = Field(description="Of the corrected, those with another category, assessment or kind")
    corrected_texts: int = Field(description="Of the corrected, those with other words")
    corrected_places: int = Field(description="Of the corrected, those that lie elsewhere")
    missed: int = Field(description="Findings that readers added")
    statements: int = Field(description="Verdicts on what reports say of an image or of the whole: with findings?")
    statements_accepted: int
    precision: Share | None = Field(description="(accepted + corrected) / judged: there was something")
    unchanged: Share | None = Field(description="accepted / judged: nothing had to be changed")
    sensitivity: Share | None = Field(description="(accepted + corrected) / (accepted + corrected + missed)")
    statements_right: Share | None = Field(description="statements_accepted / statements")


class Correction(BaseModel):
    """What readers made of one thing that a plug-in version says: all corrections of it by which they still stand."""

    plugin: str
    version: str
    kind: str = Field(description="number, code or text")
    name: str = Field(description="Code Meaning of what was corrected")
    unit: str
    corrections: int
    mean_difference: float | None = Field(description="Of numbers: corrected minus computed")
    mean_absolute_difference: float | None
    most_often: str = Field(description="Of codes: the change that was made most often, with how often")


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


def corrections(rows: Iterable[Any], reader: str | None = None) -> list[Correction]:
    """What was corrected how often and by how much, of verdicts in the order of time, the latest of each reader."""
    found: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in latest(rows).values():
        if row.verdict != "corrected" or reader not in (None, row.reader):
            continue
        told = orjson.loads(row.corrected)
        for list_, kind in KINDS.items():
            for each in told.get(list_, ()):
                key = (row.plugin, row.version, kind, each["meaning"] or each["code"], each["unit"])
                found.setdefault(key, []).append(each)
    return [_correction(key, found[key]) for key in sorted(found)]


def _correction(key: tuple[str, ...], made: list[Mapping[str, Any]]) -> Correction:
    plugin, version, kind, name, unit = key
    differences = [each["value"] - each["was"] for each in made if kind == "number" and each["was"] is not None]
    changed = Counter(
        f"{each['was']['meaning']} → {each['value']['meaning']}" for each in made if kind == "code" and each["was"]
    )
    words, often = next(iter(sorted(changed.items(), key=lambda item: (-item[1], item[0]))), ("", 0))
    return Correction(
        plugin=plugin, version=version, kind=kind, name=name, unit=unit, corrections=len(made),
        mean_difference=_mean(differences), mean_absolute_difference=_mean([abs(each) for each in differences]),
        most_often=f"{words} ({often})" if words else "",
    )  # fmt: skip


def _mean(numbers: Sequence[float]) -> float | None:
    """Their mean; None of nothing, and where it is more than a number can hold: readers may write 1e308."""
    try:
        mean = math.fsum(numbers) / len(numbers)
    except (ZeroDivisionError, OverflowError, ValueError):  # ValueError: of infinities of both signs
        return None
    return mean if math.isfinite(mean) else None


def _line(plugin: str, version: str, everything: list[tuple[str, Any]]) -> Accuracy:
    rows = [row for _, row in everything]
    said = [(word, row) for word, row in everything if row.finding]
    statements = [word for word, row in everything if not row.finding]
    counts: Mapping[str, int] = {word: sum(each == word for each, _ in said) for word in COUNTED}
    told = [orjson.loads(row.corrected) for word, row in said if word == "corrected"]
    kinds = {f"corrected_{name}": sum(tag in each for each in told) for name, tag in CORRECTED.items()}
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
        **kinds,
        statements=len(statements),
        statements_accepted=statements.count("accepted"),
        precision=wilson(right, judged),
        unchanged=wilson(counts["accepted"], judged),
        sensitivity=wilson(right, right + counts["missed"]),
        statements_right=wilson(statements.count("accepted"), len(statements)),
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
        *(f"corrected_{name}" for name in CORRECTED),
        "missed",
        "statements",
        "statements_accepted",
    )
    shares = ("precision", "unchanged", "sensitivity", "statements_right")
    columns = (*plain, *(f"{share}{part}" for share in shares for part in ("", "_low", "_high")))
    rows = []
    for line in lines:
        cells: list[str | float | int | None] = [getattr(line, name) for name in plain]
        for name in shares:
            share: Share | None = getattr(line, name)
            cells += [None] * 3 if share is None else [share.value, share.low, share.high]
        rows.append(tuple(cells))
    return Table("Accuracy", columns, tuple(rows))


def corrections_as_table(lines: Iterable[Correction]) -> Table:
    """The corrections as a table, for CSV."""
    columns = tuple(Correction.model_fields)
    return Table("Corrections", columns, tuple(tuple(getattr(line, name) for name in columns) for line in lines))
