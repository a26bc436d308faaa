"""What journal records mean for an index that is made again: which objects it shows, and what happened to them.

Every kind of record has a word here or in the module that records it (`REPLAYERS`): `ROLES` says what its objects are
from then on, `REPLAY` does to the tables what was done when it happened. Both come in the order of the records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

from sqlalchemy import Connection, insert, update

from pacs.index import schema
from pacs.journal import Facts, Record

Role = Literal["live", "aside", "gone"]
Roles = dict[tuple[str, str], Role]
"""By SOP Instance UID and digest; what is not named is live."""

REPLAYERS = ("pacs.replay", "pacs.aside", "pacs.corrections", "pacs.retention")
"""Modules that may have `ROLES` and `REPLAY`."""


def deleted(facts: Facts) -> Iterable[tuple[str, str, Role]]:
    """Deleted instances are gone."""
    return [(each["sop_instance_uid"], each["digest"], "gone") for each in facts["instances"]]


def stored_again(facts: Facts) -> Iterable[tuple[str, str, Role]]:
    """What was stored again after its deletion is there."""
    return [(each["sop_instance_uid"], each["digest"], "live") for each in facts["instances"]]


def bury(conn: Connection, record: Record) -> None:
    """Tombstones of deleted instances; their bytes are taken for removed (`pacs.rebuild` knows those that stayed)."""
    named = ("study_instance_uid", "series_instance_uid", "sop_instance_uid", "digest")
    placed = ("object_key", "object_offset", "object_length")
    rows = [
        {name: each[name] for name in (*named, *placed)}
        | {"state": "removed", "principal": record.facts["principal"], "at": record.at}
        for each in record.facts["instances"]
    ]
    if rows:
        conn.execute(insert(schema.tombstone), rows)


def outlive(conn: Connection, record: Record) -> None:
    """Where the same bytes were stored again in the same place, the tombstone says so."""
    t = schema.tombstone
    for each in record.facts["instances"]:
        here = (t.c.object_key == each["object_key"], t.c.object_offset == each["object_offset"])
        conn.execute(update(t).where(*here).values(state="kept"))


ROLES: Mapping[str, Callable[[Facts], Iterable[tuple[str, str, Role]]]] = {
    "deleted": deleted,
    "stored again": stored_again,
}
REPLAY: Mapping[str, Callable[[Connection, Record], None]] = {"deleted": bury, "stored again": outlive}


def _tables(name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for module in REPLAYERS:
        if find_spec(module) is not None:
            found |= getattr(import_module(module), name, {})
    return found


def roles(records: Iterable[Record]) -> Roles:
    """What every object that a record names is now: the last word wins."""
    meanings = _tables("ROLES")
    found: Roles = {}
    for record in records:
        if (meaning := meanings.get(record.kind)) is not None:
            found.update({(sop, digest): role for sop, digest, role in meaning(record.facts)})
    return found


def replay(conn: Connection, records: Iterable[Record]) -> list[str]:
    """Do to the tables what the records tell; the kinds that nothing here understands, each once."""
    doing = _tables("REPLAY")
    understood = set(doing) | set(_tables("ROLES"))
    strange = []
    for record in records:
        if record.kind in doing:
            doing[record.kind](conn, record)
        elif record.kind not in understood and record.kind not in strange:
            strange.append(record.kind)
    return strange
