"""The pages of docs/ that are made from the code: `python -m pacs.server.documents write`, or `check` for CI."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path

from pacs.server import statement
from pacs.settings import AE, PREFIX, Forward, Retention, Rule, Settings

ROOT = Path(__file__).resolve().parents[2]


def settings_page() -> str:
    """docs/settings.md: every setting with its variable, default and meaning."""
    lines = [
        "# Settings",
        "",
        "Every setting has a default that runs on a laptop. They are read from a TOML file (`--config FILE.toml`),",
        f"then from environment variables (`{PREFIX}` and the name in capitals), then from the command line; the",
        "last one wins.",
        "A name that is not in this table is an error. This page is made from `pacs/settings.py` by `make docs`.",
        "",
        "| setting | variable | default | meaning |",
        "|---|---|---|---|",
    ]
    for setting in fields(Settings):
        default = setting.default if setting.default is not MISSING else ""
        shown = str(default) if default not in ("", ()) else "(empty)"
        meaning = setting.metadata["doc"].replace("|", "/")
        lines.append(f"| `{setting.name}` | `{PREFIX}{setting.name.upper()}` | `{shown}` | {meaning} |")
    lines += [
        "",
        "## Known AEs",
        "",
        "Without any, every calling AE title is accepted on a loopback address. Once one is given, others are refused:",
        "",
        "```toml",
        "[[aes]]",
        'title = "MODALITY1"',
        'host = "10.1.2.3"',
        "port = 104",
        'rights = ["query", "store"]',
        "```",
        "",
        *_keys(AE, "its application entity title"),
        "",
        "## Forwarding",
        "",
        "Where results and studies are sent on to ([forwarding.md](forwarding.md)):",
        "",
        "```toml",
        "[[forward]]",
        'name = "pacs"',
        'to = "PACS"        # an [[aes]] entry with host and port',
        "commitment = true",
        "```",
        "",
        *_keys(Forward, "what people call it"),
        "",
        "## Rules",
        "",
        "What runs by itself, on what, and when ([tasks.md](tasks.md#rules)); `m3dicom rules test` tells before:",
        "",
        "```toml",
        "[[rules]]",
        'name = "thin-slices"',
        'plugin = "bone-surface"',
        'when = ["SliceThickness <= 1.5", "BodyPartExamined in HEAD, JAW"]',
        'parameters = ["threshold_hu = 400"]',
        "```",
        "",
        *_keys(Rule, "what Workitems, log and `m3dicom rules` call it"),
        "",
        "## Retention",
        "",
        "What may be removed, and when ([corrections.md](corrections.md#retention)); `m3dicom retention` tells before:",
        "",
        "```toml",
        "[[retention]]",
        'name = "ct-10-years"',
        "days = 3653",
        'modality = ["CT"]',
        "```",
        "",
        *_keys(Retention, "what audit and log call it"),
        "",
    ]
    return "\n".join(lines)


def _keys(table: type, first: str) -> list[str]:
    """What a table of a list setting may hold."""
    name, *others = fields(table)
    lines = ["| key | default | meaning |", "|---|---|---|", f"| `{name.name}` | | {first} |"]
    for key in others:
        shown = ", ".join(key.default) if isinstance(key.default, tuple) else str(key.default)
        lines.append(f"| `{key.name}` | `{shown or '(empty)'}` | {key.metadata['doc']} |")
    return lines


PAGES: dict[str, Callable[[], str]] = {
    "docs/settings.md": settings_page,
    "docs/conformance-statement.md": statement.page,
}


def main(verb: str) -> int:
    """Write every page, or say which are stale (exit status 1)."""
    stale = []
    for name, page in PAGES.items():
        path = ROOT / name
        text = page()
        if verb == "write":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(name)
    if stale:
        print(f"stale: {', '.join(stale)}; run `make docs`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) == 2 else "check"))
