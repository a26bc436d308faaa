"""Structured reports for people: every content item of the tree as HTML or as plain text (PS3.3 C.17.3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Final

from pacs.dicom.json_model import text, texts
from pacs.dicom.lookup import Metadata, items

PREFIX: Final = "1.2.840.10008.5.1.4.1.1.88."
"""SOP classes of structured reports and key object selections begin so (PS3.4 B.5)."""

MAX_DEPTH: Final = 64
_POINTS_SHOWN: Final = 12
_STYLE: Final = (
    "body{font:15px/1.45 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#1b1b1b}"
    "h1{font-size:1.5em}dl{display:grid;grid-template-columns:max-content 1fr;gap:.1em 1em;color:#444}"
    "dt{font-weight:600}dd{margin:0}ul{list-style:none;padding-left:1.2em;border-left:1px solid #ccc}"
    ".n{font-weight:600}.r{color:#777;font-size:.85em}.u{color:#777;font-size:.85em;word-break:break-all}"
    ".v{white-space:pre-wrap}"
)
_HEAD: Final = (
    ("Patient", "00100010"), ("Patient ID", "00100020"), ("Birth date", "00100030"), ("Sex", "00100040"),
    ("Study date", "00080020"), ("Accession number", "00080050"), ("Study", "00081030"), ("Series", "0008103E"),
    ("Content date", "00080023"), ("Completion", "0040A491"), ("Verification", "0040A493"),
    ("Manufacturer", "00080070"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Line:
    """One content item: how deep it lies, how it relates to what holds it, its concept, its value, what it names."""

    depth: int
    relationship: str
    name: str
    value: str
    detail: str = ""


def html(metadata: Metadata) -> bytes:
    """The report as an HTML page of its own, UTF-8; nothing in it is loaded or run."""
    lines = list(content(metadata))
    title = escape(lines[0].name or "Report")
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in _facts(metadata))
    out = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body><h1>{title}</h1>\n<dl>{facts}</dl>\n",
    ]
    depth = 0
    for line in lines[1:]:
        if line.depth > depth:
            out.append("\n<ul>" * (line.depth - depth))
        else:
            out.append("</li>\n" + "</ul></li>\n" * (depth - line.depth))
        depth = line.depth
        out.append(f"<li>{_html(line)}")
    out.append("</li></ul>" * depth)
    out.append("\n</body></html>\n")
    return "".join(out).encode()


def plain(metadata: Metadata) -> bytes:
    """The report as text, UTF-8, an item a line, indented by its depth."""
    lines = list(content(metadata))
    out = [lines[0].name or "Report", "", *(f"{name}: {value}" for name, value in _facts(metadata)), ""]
    for line in lines[1:]:
        indent = "  " * (line.depth - 1)
        value = line.value.replace("\r\n", "\n").replace("\n", "\n" + indent + "  ")
        parts = [f"{line.name}: {value}" if line.name and value else line.name or value]
        if line.detail:
            parts.append(f"({line.detail})")
        out.append(indent + " ".join(part for part in parts if part))
    return ("\n".join(out) + "\n").encode()


def content(metadata: Metadata) -> Iterator[Line]:
    """The content items, each before what it holds; the first is the root."""
    stack: list[tuple[int, Metadata]] = [(0, metadata)]
    while stack:
        depth, item = stack.pop()
        yield _line(depth, item)
        if depth < MAX_DEPTH:
            stack.extend((depth + 1, child) for child in reversed(items(item, "0040A730")))


def _html(line: Line) -> str:
    relationship = f' <span class="r">{escape(line.relationship.lower())}</span>' if line.relationship else ""
    name = f'<span class="n">{escape(line.name)}</span>' if line.name else ""
    value = f' <span class="v">{escape(line.value)}</span>' if line.value else ""
    detail = f' <span class="u">{escape(line.detail)}</span>' if line.detail else ""
    return f"{name}{value}{detail}{relationship if not name else ''}"


def _facts(metadata: Metadata) -> Iterator[tuple[str, str]]:
    for label, tag in _HEAD:
        value = text(metadata, tag)
        if value:
            yield label, _name(value) if tag == "00100010" else value


def _name(value: str) -> str:
    """A PN as people write it: the groups one after the other, components apart (PS3.5 6.2.1)."""
    return " = ".join(" ".join(filter(None, group.split("^"))) for group in value.split("="))


def _meaning(item: Metadata, sequence: str) -> str:
    for code in items(item, sequence)[:1]:
        value = next((v for tag in ("00080100", "00080119", "00080120") if (v := text(code, tag))), "")
        return text(code, "00080104") or value
    return ""


def _line(depth: int, item: Metadata) -> Line:
    value, detail = _value(item)
    return Line(depth, text(item, "0040A010") or "", _meaning(item, "0040A043"), value, detail)


def _value(item: Metadata) -> tuple[str, str]:
    match text(item, "0040A040"):
        case "TEXT":
            return text(item, "0040A160") or "", ""
        case "NUM":
            return _measured(item), ""
        case "CODE":
            code = next(iter(items(item, "0040A168")), {})
            return _meaning(item, "0040A168"), " ".join(filter(None, (text(code, "00080100"), text(code, "00080102"))))
        case "PNAME":
            return _name(text(item, "0040A123") or ""), ""
        case "DATETIME":
            return text(item, "0040A120") or "", ""
        case "DATE":
            return text(item, "0040A121") or "", ""
        case "TIME":
            return text(item, "0040A122") or "", ""
        case "UIDREF":
            return "", text(item, "0040A124") or ""
        case "COMPOSITE" | "IMAGE" | "WAVEFORM" as kind:
            return kind.capitalize(), "; ".join(map(_reference, items(item, "00081199")))
        case "SCOORD" | "SCOORD3D" as kind:
            points = texts(item, "00700022")
            more = ", …" if len(points) > _POINTS_SHOWN else ""
            where = f"{text(item, '00700023') or kind} ({', '.join(points[:_POINTS_SHOWN])}{more})"
            return where, text(item, "30060024") or ""
        case "TCOORD":
            places = next((p for tag in ("0040A132", "0040A138", "0040A13A") if (p := texts(item, tag))), [])
            return f"{text(item, '0040A130') or 'TCOORD'} ({', '.join(places[:_POINTS_SHOWN])})", ""
        case "CONTAINER" | "TABLE":
            return "", ""
        case None | "":
            places = texts(item, "0040DB73")
            return (f"see item {'.'.join(places)}" if places else ""), ""
        case other:
            return f"({other})", ""


def _measured(item: Metadata) -> str:
    for measured in items(item, "0040A300")[:1]:
        unit = _meaning(measured, "004008EA")
        for code in items(measured, "004008EA")[:1]:
            symbol = text(code, "00080100") or ""
            unit = "" if symbol == "1" else (symbol if len(symbol) <= len(unit) else unit)
        return " ".join(filter(None, (text(measured, "0040A30A"), unit)))
    return _meaning(item, "0040A301")  # why there is no number


def _reference(item: Metadata) -> str:
    frames = texts(item, "00081160")
    return (text(item, "00081155") or "") + (f" frames {', '.join(frames)}" if frames else "")
