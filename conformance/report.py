"""A report as text, JSON and JUnit XML, and as a row of a Markdown table."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from conformance.check import Level, Outcome, Result
from conformance.run import Report

MARKS = {
    Outcome.PASSED: "ok", Outcome.FAILED: "FAILED", Outcome.NOT_SUPPORTED: "not supported",
    Outcome.NOT_APPLICABLE: "not applicable", Outcome.ERROR: "ERROR",
}  # fmt: skip


WIDTH = 180
"""How many characters of what was seen go into a table."""
SHOWN = 4
"""How many failures of one check a terminal shows; the other forms have all."""


def line(result: Result) -> str:
    """One check in a line, and what was wrong with it in the lines below."""
    check = result.check
    text = f"{check.id:6} {MARKS[result.outcome]:15} {check.level:12} {check.section}: {check.title}"
    if result.reason:
        text += f"\n       {result.reason}"
    for finding in result.failures[:SHOWN]:
        text += f"\n       request:  {_indent(finding.request)}"
        text += f"\n       expected: {_indent(finding.expected)}\n       seen:     {_indent(finding.seen)}"
    more = len(result.failures) - SHOWN
    return text + (f"\n       and {more} more like these" if more > 0 else "")


def _indent(text: str) -> str:
    return text.strip().replace("\n", "\n                 ")


def totals(report: Report) -> list[tuple[str, list[int]]]:
    """For each level, how many checks came out how (in the order of Outcome)."""
    return [(level, [report.count(outcome, level) for outcome in Outcome]) for level in Level]


def summary(report: Report) -> str:
    """The totals, the verdict and what is left behind, for a terminal."""
    lines = [" " * 13 + "".join(f"{outcome:>16}" for outcome in Outcome)]
    lines += [f"{level:13}" + "".join(f"{count:16}" for count in counts) for level, counts in totals(report)]
    if report.broken:
        lines.append(f"mandatory checks that failed: {', '.join(result.check.id for result in report.broken)}")
    else:
        lines.append("no mandatory check failed")
    if report.left:
        lines.append(f"studies of the suite that are still at the server (Patient IDs ZZCONF-…): {len(report.left)}")
        lines += [f"  {uid}" for uid in report.left[:SHOWN]]
        more = len(report.left) - SHOWN
        lines += [f"  and {more} more, which the JSON report (--json) lists"] if more > 0 else []
    return "\n".join(lines)


def as_data(report: Report) -> dict[str, Any]:
    """The whole report as plain data, for JSON."""
    return {
        "target": report.target, "started": report.started, "seconds": round(report.seconds, 1),
        "totals": {level: dict(zip(map(str, Outcome), counts, strict=True)) for level, counts in totals(report)},
        "mandatory_failures": [result.check.id for result in report.broken],
        "left_at_the_server": list(report.left),
        "checks": [
            {
                "id": result.check.id, "section": result.check.section, "edition": result.check.edition,
                "level": result.check.level, "service": result.check.service, "title": result.check.title,
                "outcome": result.outcome, "reason": result.reason, "seconds": round(result.seconds, 3),
                "findings": [
                    {"request": f.request, "expected": f.expected, "seen": f.seen, "good": f.good}
                    for f in result.findings
                ],
            }
            for result in report.results
        ],
    }  # fmt: skip


def as_json(report: Report) -> str:
    """The report as JSON."""
    return json.dumps(as_data(report), indent=1, ensure_ascii=False) + "\n"


def as_junit(report: Report) -> str:
    """The report as JUnit XML: mandatory failures are failures, what is not judged is skipped, the rest is output."""
    suites = ElementTree.Element("testsuites", name="DICOM conformance")
    for service in sorted({result.check.service for result in report.results}):
        results = [result for result in report.results if result.check.service == service]
        suite = ElementTree.SubElement(
            suites, "testsuite", name=service, tests=str(len(results)),
            failures=str(sum(r.breaks and r.outcome is Outcome.FAILED for r in results)),
            errors=str(sum(r.breaks and r.outcome is Outcome.ERROR for r in results)),
            skipped=str(sum(r.outcome in (Outcome.NOT_SUPPORTED, Outcome.NOT_APPLICABLE) for r in results)),
        )  # fmt: skip
        for result in results:
            case = ElementTree.SubElement(
                suite, "testcase", classname=f"{service}.{result.check.level}",
                name=f"{result.check.id} {result.check.title} ({result.check.section})", time=f"{result.seconds:.3f}",
            )  # fmt: skip
            about = _clean(line(result))
            if result.breaks:
                kind = "failure" if result.outcome is Outcome.FAILED else "error"
                ElementTree.SubElement(case, kind, message=result.check.title).text = about
            elif result.outcome in (Outcome.NOT_SUPPORTED, Outcome.NOT_APPLICABLE):
                ElementTree.SubElement(case, "skipped", message=_clean(f"{result.outcome}: {result.reason}"))
            elif result.outcome is not Outcome.PASSED:
                ElementTree.SubElement(case, "system-out").text = about
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _clean(text: str) -> str:
    """Text without the characters that XML 1.0 forbids."""
    return re.sub(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]", "\N{REPLACEMENT CHARACTER}", text)


def as_markdown(title: str, report: Report) -> str:
    """A section of a document: totals, every check that was not passed, and how many were."""
    head = ["level", *map(str, Outcome)]
    lines = [f"## {title}", "", f"{len(report.results)} checks.", "", _row(head), _row(["---"] * len(head))]
    lines += [_row([level, *map(str, counts)]) for level, counts in totals(report)]
    for outcome, heading in (
        (Outcome.FAILED, "Failed"), (Outcome.ERROR, "Could not be carried out"),
        (Outcome.NOT_SUPPORTED, "Not supported"), (Outcome.NOT_APPLICABLE, "Not applicable"),
    ):  # fmt: skip
        chosen = [result for result in report.results if result.outcome is outcome]
        if chosen:
            lines += ["", f"### {heading}", "", _row(["check", "level", "section", "what", "seen"]), _row(["---"] * 5)]
            lines += [_row(_cells(result)) for result in chosen]
    return "\n".join(lines) + "\n"


def _cells(result: Result) -> list[str]:
    check, seen = result.check, result.reason
    if result.failures:
        first = result.failures[0]
        seen = f"expected {first.expected}; seen {' '.join(first.seen.split()) or 'otherwise'}"
    return [check.id, str(check.level), check.section, check.title, _short(_steady(seen))]


def _short(text: str) -> str:
    """As much as fits into a table."""
    return text if len(text) <= WIDTH else f"{text[:WIDTH]}…"


def _steady(text: str) -> str:
    """The text without what differs between two runs: UIDs of the run, ports, dates."""
    text = re.sub(r"2\.25\.\d{10,}", "2.25.…", text)
    text = re.sub(r"(127\.0\.0\.1|localhost):\d+", r"\1", text)
    text = re.sub(r"boundary=\S+", "boundary=…", text)
    return re.sub(r"ZZCONF-\w+|\bZ[YZ][0-9a-f]{8}\b", "ZZ…", text)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
