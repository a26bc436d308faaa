"""Instances leaving the archive: rows first, in one transaction with audit, change and tombstone, then the bytes.

A tombstone keeps what was removed, by whom and when; it is "pending" until the bytes are gone, so that a crash in
between is made good by `sweep`. Content that is stored again meanwhile keeps its bytes: both sides hold the
tombstone's row while they decide (`pacs.ingest`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import astuple

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from pacs import audit, journal, recount
from pacs.auth import Principal, Right
from pacs.errors import NotFound
from pacs.events import Events
from pacs.index import changes, schema
from pacs.index.engine import Index
from pacs.journal import Journal
from pacs.storage.base import Locator, ObjectStore

_AT_ONCE = 500
_OBJECTS_AT_ONCE = 20  # arrivals wait that long
_PLACE = ("object_key", "object_offset", "object_length")
_FACTS = ("study_instance_uid", "series_instance_uid", "sop_instance_uid", "digest", *_PLACE)


class Removal:
    """Removing what is stored. Safe from any thread."""

    def __init__(self, store: ObjectStore, index: Index, events: Events) -> None:
        self._store = store
        self._index = index
        self._events = events
        self._journal = Journal(store, index)

    def delete(self, principal: Principal, study: str, series: str | None = None, instance: str | None = None) -> int:
        """How many instances of the study, series or instance were removed; nobody sees them any more.

        Raises NotFound when there are none that the principal may see, and Forbidden.
        """
        principal.require(Right.DELETE)
        removed, gone = self._index.transact(lambda conn: self._delete(conn, principal, study, series, instance))
        self._events.publish()
        self._journal.export()  # before the bytes go, and before anybody is told: a rebuild must not bring it back
        self._remove_bytes(gone)
        return removed

    def sweep(self) -> int:
        """How many objects were removed whose removal had been cut short."""
        t = schema.tombstone.c
        with self._index.read() as conn:
            wanted = select(t.object_key, t.object_offset, t.object_length).where(t.state == "pending").distinct()
            gone = [Locator(*found) for found in conn.execute(wanted)]
        self._remove_bytes(gone)
        return len(gone)

    def _delete(
        self, conn: Connection, principal: Principal, study: str, series: str | None, instance: str | None
    ) -> tuple[int, list[Locator]]:
        s, r, i = schema.study.c, schema.series.c, schema.instance.c
        owner = select(s.id, s.scope).where(s.study_instance_uid == study)
        if principal.scope:
            owner = owner.where(s.scope == principal.scope)
        held = conn.execute(owner.with_for_update() if conn.dialect.name == "postgresql" else owner).first()
        conditions: list[ColumnElement[bool]] = []
        if series is not None:
            conditions.append(r.series_instance_uid == series)
        if instance is not None:
            conditions.append(i.sop_instance_uid == instance)
        gone = (
            ()
            if held is None
            else conn.execute(
                select(
                    i.id,
                    i.series_key,
                    i.sop_instance_uid,
                    i.digest,
                    i.object_key,
                    i.object_offset,
                    i.object_length,
                    r.series_instance_uid,
                )
                .join_from(schema.instance, schema.series, r.id == i.series_key)
                .where(i.study_key == held.id, *conditions)
            ).all()
        )
        if held is None or not gone:
            raise NotFound("nothing is stored here", about=instance or series or study)
        for at in range(0, len(gone), _AT_ONCE):
            conn.execute(delete(schema.instance).where(i.id.in_([each.id for each in gone[at : at + _AT_ONCE]])))
        recount.after_leaving(conn, study, {each.series_key for each in gone})
        now = time.time()
        names = [
            {
                "study_instance_uid": study,
                "series_instance_uid": each.series_instance_uid,
                "sop_instance_uid": each.sop_instance_uid,
            }
            for each in gone
        ]
        stones = [
            {
                **name,
                "principal": principal.name,
                "at": now,
                "digest": each.digest,
                "object_key": each.object_key,
                "object_offset": each.object_offset,
                "object_length": each.object_length,
                "state": "pending",
            }
            for name, each in zip(names, gone, strict=True)
        ]
        conn.execute(insert(schema.tombstone), stones)
        for at in range(0, len(stones), _AT_ONCE):
            some = [
                {name: held for name, held in stone.items() if name in _FACTS} for stone in stones[at : at + _AT_ONCE]
            ]
            journal.record(conn, "deleted", {"instances": some, "principal": principal.name}, at=now)
        event = "Study Deleted" if series is None else "DICOM Instances Deleted"
        detail = f"{len(gone)} instances"
        whole = audit.row(
            event, principal, "success", now, detail=detail,
            study_instance_uid=study, series_instance_uid=series, sop_instance_uid=instance,
        )  # fmt: skip
        audit.record_all(conn, [whole])
        news = [changes.row("deleted", at=now, principal=principal.name, scope=held.scope, **name) for name in names]
        changes.append_all(conn, news)
        return len(gone), [Locator(each.object_key, each.object_offset, each.object_length) for each in gone]

    def _remove_bytes(self, gone: Sequence[Locator]) -> None:
        t = schema.tombstone
        for at in range(0, len(gone), _OBJECTS_AT_ONCE):
            some = sorted(gone[at : at + _OBJECTS_AT_ONCE], key=astuple)

            def work(conn: Connection, some: list[Locator] = some) -> None:
                # Within the transaction: the row lock, or the one writer of SQLite, keeps an arrival waiting.
                mine = []
                for locator in some:
                    here = (t.c.object_key == locator.object_key, t.c.object_offset == locator.offset)
                    claimed = update(t).where(*here, t.c.state == "pending").values(state="removed")
                    if conn.execute(claimed).rowcount:
                        mine.append(locator)
                self._store.delete(*mine)

            self._index.transact(work)
