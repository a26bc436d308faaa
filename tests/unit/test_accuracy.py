"""Accuracy out of verdicts: Wilson's interval against published numbers, and which verdicts count."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from analysis.accuracy import as_table, corrections, table, wilson


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson(hits: int, of: int, low: float, high: float) -> None:
    share = wilson(hits, of)
    assert share is not None
    assert (share.low, share.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_of_nothing_there_is_no_share() -> None:
    assert wilson(0, 0) is None
    assert table([]) == []


def said(
    tracking: str, verdict: str, reader: str = "ann", report: str = "r1", version: str = "1.0", finding: int = 1,
    corrected: bytes = b"{}",
) -> Any:  # fmt: skip
    return SimpleNamespace(
        tracking_uid=tracking,
        verdict=verdict,
        reader=reader,
        report_uid=report,
        plugin="p",
        version=version,
        findings=5,
        finding=finding,
        corrected=corrected,
    )


def test_the_latest_verdict_of_each_reader_counts() -> None:
    rows = [
        said("a", "rejected"), said("a", "accepted"), said("b", "rejected"), said("b", "rejected", "bob"),
        said("c", "corrected", report="r2"), said("m", "missed"), said("n", "missed"), said("n", "rejected"),
        said("a", "accepted", version="2.0", report="r3"),
    ]  # fmt: skip
    first, second = table(rows)
    assert (first.version, first.readers, first.reports, first.findings) == ("1.0", 2, 2, 10)
    assert (first.judged, first.accepted, first.rejected, first.corrected, first.missed) == (4, 1, 2, 1, 1)
    assert first.precision is not None
    assert first.precision.value == 0.5
    assert first.sensitivity is not None
    assert first.sensitivity.value == pytest.approx(2 / 3)
    assert (second.version, second.judged) == ("2.0", 1)
    assert len(as_table([first, second]).rows[0]) == len(as_table([]).columns)


@pytest.mark.parametrize("values", [(1.7e308, 1.7e308), (1.7e308, -1.7e308, -1e308), (1.7e308, 1e308, 1e308)])
def test_numbers_that_nobody_can_mean_cost_only_their_mean(values: tuple[float, ...]) -> None:
    rows = [
        said("a", "corrected", f"reader {number}", corrected=orjson.dumps({"measurements": [
            {"code": "c", "meaning": "Volume", "value": value, "was": -value, "unit": "mm3"}]}))
        for number, value in enumerate(values)
    ]  # fmt: skip
    (found,) = corrections(rows)
    assert (found.corrections, found.mean_difference, found.mean_absolute_difference) == (len(values), None, None)
