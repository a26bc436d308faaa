"""Rows and bytes brought to agree again: when a sync failed after its commit, and at a start after a crash.

The index commits while the disk syncs the object (`pacs.ingest`), and only both together are an answer. What was
committed and never became durable is taken back here: with an audit row and a line in the log, never silently.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, delete, select

from pacs import audit, recount
from pacs.auth import SYSTEM
from pacs.index import changes, schema
from pacs.index.aside import aside
from pacs.index.engine import Index
from pacs.index.statement import Found
from pacs.storage.base import Locator, ObjectStore

log = logging.getLogger(__name__)

_LOST = "its bytes had not reached the disk when the server stopped"

_s, _r, _i = schema.study.c, schema.series.c, schema.instance.c


def recover(store: ObjectStore, index: Index, refile: Callable[[Locator], bool]) -> tuple[int, int]:
    """How many instances were taken back, and how many filed again, at a start after a crash.

    Taken back is a row whose bytes had not reached the disk; filed again, by `refile`, an object whose rows had not
    (`Index.submit`, redoable). Only what lies behind the store's mark is looked at, however much there is.
    """
    lost = found = 0
    for unproven in store.unproven():
        there: set[tuple[int, int]] = set()
        for table in (schema.instance.c, aside.c, schema.tombstone.c):
            wanted = select(table.object_offset, table.object_length).where(
                table.object_key == unproven.object_key, table.object_offset >= unproven.since
            )
            with index.read() as conn:
                rows = {(row.object_offset, row.object_length) for row in conn.execute(wanted)}
            if table is not schema.tombstone.c:
                for place in sorted(rows - unproven.sound):
                    lost += take_back(index, Locator(unproven.object_key, *place), _LOST)
            there |= rows
        for place in unproven.redo:
            found += place not in there and refile(Locator(unproven.object_key, *place))
    index.make_durable()
    store.proven()
    if found:
        log.warning("%d instances are filed again: the server stopped before their rows were on the disk", found)
    return lost, found


def take_back(index: Index, locator: Locator, why: str) -> bool:
    """Whether something was filed at this place and is no longer: its bytes are not durable and never were."""
    taken = index.transact(lambda conn: _take_back(conn, locator, why))
    for uid in taken:
        log.error("instance %s is taken back: %s; it has to be sent again", uid, why)
    return bool(taken)


def _take_back(conn: Connection, locator: Locator, why: str) -> list[str]:
    def here(table: Any) -> tuple[Any, Any]:
        return table.object_key == locator.object_key, table.object_offset == locator.offset

    uids = (_s.study_instance_uid, _r.series_instance_uid, _i.sop_instance_uid)
    filed = conn.execute(
        select(*uids, _i.id, _i.series_key, _i.created_at, _i.result_of, _s.scope)
        .join_from(schema.instance, schema.series, _r.id == _i.series_key)
        .join(schema.study, _s.id == _i.study_key)
        .where(*here(_i))
    ).all()
    a = aside.c
    kept = conn.execute(
        select(a.id, a.study_instance_uid, a.series_instance_uid, a.sop_instance_uid).where(*here(a))
    ).all()
    now = time.time()
    for row in filed:
        conn.execute(delete(schema.instance).where(_i.id == row.id))
        recount.after_leaving(conn, row.study_instance_uid, [row.series_key])
    if kept:
        conn.execute(delete(aside).where(a.id.in_([row.id for row in kept])))
    lines = [
        audit.row("DICOM Instances Transferred", SYSTEM, "failure", now, detail=f"taken back: {why}", **_uids(row))
        for row in (*filed, *kept)
    ]
    audit.record_all(conn, lines)
    news = [changes.row("deleted", at=now, principal=SYSTEM.name, scope=row.scope, **_uids(row)) for row in filed]
    changes.append_all(conn, news)
    return [row.sop_instance_uid for row in (*filed, *kept)]


def _uids(row: Found) -> dict[str, str]:
    names = ("study_instance_uid", "series_instance_uid", "sop_instance_uid")
    return {name: getattr(row, name) for name in names}
