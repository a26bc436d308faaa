"""`m3dicom find`: ask another AE what it has, as a table or as DICOM JSON lines."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pacs.server import peers

if TYPE_CHECKING:
    from pacs.server.commands import Verbs

_LEVELS = ("PATIENT", "STUDY", "SERIES", "IMAGE")
_WIDEST = 64


def add(verbs: Verbs) -> None:
    """Add the verb."""
    find = verbs.add_parser(
        "find",
        help="ask another AE what it has (C-FIND)",
        epilog="example: m3dicom find --to PACS@10.0.0.7:104 PatientName='Doe*' StudyDate=20260101- StudyInstanceUID",
    )
    peers.options(find)
    find.add_argument("--level", choices=_LEVELS, default="STUDY", help="what is listed (default: STUDY)")
    find.add_argument("--patient-root", action="store_true", help="use the Patient Root model")
    find.add_argument("--relational", action="store_true", help="negotiate relational queries")
    find.add_argument("--fuzzy", action="store_true", help="negotiate fuzzy matching of names")
    find.add_argument("--limit", type=int, default=0, metavar="N", help="stop after so many (by C-CANCEL)")
    find.add_argument("--json", action="store_true", help="print one DICOM JSON object a line")
    find.add_argument("keys", nargs="*", metavar="KEY[=VALUE]", help="keyword to match, or to show when without value")
    find.set_defaults(run=_find)


def _find(chosen: argparse.Namespace) -> int:
    from pacs.dicom.attributes import Level
    from pacs.dimse import queries

    level = Level(chosen.level)
    keys = queries.parse(chosen.keys)
    if not keys or all(keys.values()):
        keys = dict.fromkeys(queries.SHOWN[level], "") | keys
    rows = _rows(chosen, level, keys)
    if chosen.json:
        return _print_json(rows)
    return _print_table(rows, list(keys))


def _rows(chosen: argparse.Namespace, level: Any, keys: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The matches. Raises PeerFailed where the peer does not end the query well."""
    from contextlib import closing

    from pacs.dimse import queries
    from pacs.dimse.negotiation import EXPLICIT_LE, IMPLICIT_LE
    from pacs.dimse.requestor import Requestor
    from pacs.errors import PeerFailed

    settings = peers.settings(chosen)
    remote = peers.remote(chosen, settings)
    model = queries.model(level, queries.FIND, patient_root=chosen.patient_root)
    asked = bytes((chosen.relational, 0, chosen.fuzzy))
    extended = [(model, asked)] if any(asked) else []
    with Requestor.open(
        remote, settings.aet, [(model, [EXPLICIT_LE, IMPLICIT_LE])], extended=extended, timeouts=peers.timeouts(chosen)
    ) as assoc:
        agreed = dict(assoc.accept.user.extended).get(model, b"").ljust(3, b"\0")
        for wanted, position, name in ((chosen.relational, 0, "relational queries"), (chosen.fuzzy, 2, "fuzzy names")):
            if wanted and not agreed[position]:
                print(f"m3dicom: {remote} does not support {name}", file=sys.stderr)
        context = assoc.context(model)
        with closing(assoc.find(context, queries.identifier(level, keys, context.transfer_syntax))) as replies:
            for number, reply in enumerate(replies, 1):
                if not reply.pending:
                    if reply.status != 0:
                        raise PeerFailed(f"{remote} ends the query with {reply.words}")
                    return
                yield queries.decoded(reply.dataset, context.transfer_syntax)
                if number == chosen.limit:
                    return


def _print_json(rows: Iterator[dict[str, Any]]) -> int:
    import orjson

    for row in rows:
        sys.stdout.write(orjson.dumps(row).decode() + "\n")
        sys.stdout.flush()
    return peers.DONE


def _print_table(rows: Iterator[dict[str, Any]], names: Sequence[str]) -> int:
    table = [[_cell(row, name) for name in names] for row in rows]
    widths = [min(_WIDEST, max([len(name), *(len(line[at]) for line in table)])) for at, name in enumerate(names)]
    if table:
        print("  ".join(name.ljust(width) for name, width in zip(names, widths, strict=True)).rstrip())
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print(f"{len(table)} found", file=sys.stderr)
    return peers.DONE


def _cell(row: dict[str, Any], name: str) -> str:
    """The values under a name, within sequences where it has dots; unprintable characters never reach a terminal."""
    from pacs.dicom import json_model
    from pacs.dimse import queries

    *outer, last = (queries.tag(part) for part in name.split("."))
    items = [row]
    for each in outer:
        items = [item for one in items for item in one.get(each, {}).get("Value") or () if isinstance(item, dict)]
    text = "\\".join(value for item in items for value in json_model.texts(item, last))
    return "".join(char if char.isprintable() else "?" for char in text)
