"""A report as one HTML page that needs nothing else: totals, filters, and every check with its evidence."""

from __future__ import annotations

from html import escape

from conformance.check import Finding, Level, Outcome, Result
from conformance.report import totals
from conformance.run import Report

STYLE = """
:root{color-scheme:light dark;--ok:#1a7f37;--bad:#cf222e;--off:#6e7781;--line:#8884;--soft:#8881}
*{box-sizing:border-box}body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:0 auto;padding:1.5rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}p{margin:.3rem 0}
table{border-collapse:collapse;margin:.8rem 0}td,th{padding:.25rem .8rem;border-bottom:1px solid var(--line);
text-align:right}
td:first-child,th:first-child{text-align:left;padding-left:0}
.verdict{font-weight:600;padding:.5rem .8rem;border-left:.4rem solid;margin:1rem 0;background:var(--soft)}
.passed{color:var(--ok)}.failed,.error{color:var(--bad)}.not{color:var(--off)}
details{border-bottom:1px solid var(--line)}summary{display:grid;grid-template-columns:3.6rem 8rem 7rem 11rem 1fr;
gap:.6rem;padding:.3rem 0;cursor:pointer;align-items:baseline}summary:hover{background:var(--soft)}
summary b{font-variant-numeric:tabular-nums}summary small{color:var(--off)}
.evidence{padding:.2rem 0 1rem 4.2rem}.evidence p.reason{font-style:italic}
dl{display:grid;grid-template-columns:5.5rem 1fr;gap:.1rem .6rem;margin:.5rem 0;padding:.4rem .6rem;background:
var(--soft);border-left:3px solid var(--ok)}dl.bad{border-color:var(--bad)}dt{color:var(--off)}
dd{margin:0;white-space:pre-wrap;overflow-wrap:anywhere;font:12.5px/1.45 ui-monospace,monospace}
nav{position:sticky;top:0;background:Canvas;padding:.5rem 0;
border-bottom:1px solid var(--line);display:flex;gap:1rem;flex-wrap:wrap}
@media(max-width:50rem){summary{grid-template-columns:3.4rem 1fr}summary small{display:none}.evidence{padding-left:0}}
"""
SCRIPT = """
const boxes=[...document.querySelectorAll('nav input')],rows=[...document.querySelectorAll('details')];
const show=()=>{const on=new Set(boxes.filter(b=>b.checked).map(b=>b.value));
rows.forEach(r=>{r.hidden=!(on.has(r.dataset.outcome)&&on.has(r.dataset.level))})};
boxes.forEach(b=>b.addEventListener('change',show));
"""


def as_html(report: Report) -> str:
    """The page."""
    broken = len(report.broken)
    verdict = f"{broken or 'No'} mandatory check{'s' * (broken > 1)} failed"
    head = "".join(f"<th>{outcome}</th>" for outcome in Outcome)
    rows = "".join(
        f"<tr><td>{level}</td>" + "".join(f"<td>{count or '·'}</td>" for count in counts) + "</tr>"
        for level, counts in totals(report)
    )
    boxes = "".join(
        f'<label><input type="checkbox" value="{name}" checked> {name}</label>' for name in (*Outcome, *Level)
    )
    services = dict.fromkeys(result.check.service for result in report.results)
    parts = [
        f"<h2>{escape(service)}</h2>" + "".join(_row(each) for each in report.results if each.check.service == service)
        for service in services
    ]
    left = f"<p>Not deleted at the server: {len(report.left)} studies.</p>" if report.left else ""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>DICOM conformance: {escape(report.target)}</title><style>{STYLE}</style>"
        f"<h1>DICOM conformance</h1><p>{escape(report.target)}</p>"
        f"<p>{escape(report.started)}, {len(report.results)} checks in {report.seconds:.0f} s</p>"
        f'<p class="verdict {"failed" if broken else "passed"}">{verdict}</p>'
        f"<table><tr><th>level</th>{head}</tr>{rows}</table>{left}<nav>{boxes}</nav>"
        + "".join(parts)
        + f"<script>{SCRIPT}</script></html>\n"
    )


def _row(result: Result) -> str:
    check = result.check
    css = "not" if result.outcome in (Outcome.NOT_SUPPORTED, Outcome.NOT_APPLICABLE) else str(result.outcome)
    findings = "".join(_finding(finding) for finding in sorted(result.findings, key=lambda finding: finding.good))
    reason = f'<p class="reason">{escape(result.reason)}</p>' if result.reason else ""
    return (
        f'<details data-outcome="{result.outcome}" data-level="{check.level}"{" open" if result.breaks else ""}>'
        f'<summary><b>{check.id}</b><span class="{css}">{result.outcome}</span><small>{check.level}</small>'
        f"<small>{escape(check.section)}</small><span>{escape(check.title)}</span></summary>"
        f'<div class="evidence"><p><small>{escape(check.section)}, edition {escape(check.edition)}, '
        f"{result.seconds * 1000:.0f} ms</small></p>{reason}{findings}</div></details>"
    )


def _finding(finding: Finding) -> str:
    rows = (("request", finding.request), ("expected", finding.expected), ("seen", finding.seen))
    inner = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in rows if text)
    return f'<dl class="{"good" if finding.good else "bad"}">{inner}</dl>'
