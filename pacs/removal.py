"""Instances leaving the archive: rows first, in one transaction with audit, change and tombstone, then the bytes.

A tombstone keeps what was removed, by whom and when; it is "pending" until the bytes are gone, so that a crash in
between is made good by `sweep`. Content that is stored again meanwhile keeps its bytes: both sides hold the
tombstone's row while they decide (`pacs.ingest`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import astuple

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from pacs import aside, audit, identity, journal, recount
from pacs.auth import Principal, Right
from pacs.errors import NotFound
from pacs.events import Events
from pacs.index import aside as kept_aside
from pacs.index import changes, damage, schema
from pacs.index.engine import Index
from pacs.index.statement import Found
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

    def delete(
        self,
        principal: Principal,
        study: str,
        series: str | None = None,
        instance: str | None = None,
        *,
        why: str = "",
        unless: Callable[[Connection], bool] | None = None,
    ) -> int:
        """How many instances of the study, series or instance were removed; nobody sees them any more.

        Their old versions, and what was rejected of them, go too. `why` goes into the audit. `unless` is asked in the
        same transaction, once the study is locked: true, and nothing is removed. Raises NotFound when there are none
        that the principal may see, and Forbidden.
        """
        principal.require(Right.DELETE)

        def work(conn: Connection) -> tuple[int, list[Locator]]:
            identity.locked(conn, study)
            if unless is not None and unless(conn):
                return 0, []
            return self._delete(conn, principal, study, series, instance, why)

        removed, gone = self._index.transact(work)
        self._told(gone)
        return removed

    def discard(self, principal: Principal, numbers: Sequence[int], why: str) -> int:
        """How many of the objects that are kept aside under these numbers were removed; see `pacs.aside`.

        Raises Forbidden, and NotFound when none of them is there.
        """
        principal.require(Right.DELETE)
        t, now = kept_aside.aside.c, time.time()

        def work(conn: Connection) -> list[Locator]:
            wanted = select(kept_aside.aside).where(t.id.in_(numbers)).order_by(t.id)
            found = conn.execute(wanted.with_for_update() if conn.dialect.name == "postgresql" else wanted).all()
            if not found:
                raise NotFound("nothing is kept aside under this number")
            gone = self._bury(conn, principal, found, now)
            aside.forget(conn, found, now)
            told = [
                audit.row(
                    "DICOM Instances Deleted", principal, "success", now, detail=f"{row.state}; {why}",
                    study_instance_uid=row.study_instance_uid, series_instance_uid=row.series_instance_uid,
                    sop_instance_uid=row.sop_instance_uid,
                )
                for row in found
            ]  # fmt: skip
            audit.record_all(conn, told)
            return gone

        gone = self._index.transact(work)
        self._told(gone)
        return len(gone)

    def _told(self, gone: Sequence[Locator]) -> None:
        self._events.publish()
        self._journal.export()  # before the bytes go, and before anybody is told: a rebuild must not bring it back
        self._remove_bytes(gone)

    def sweep(self) -> int:
        """How many objects were removed whose removal had been cut short."""
        t = schema.tombstone.c
        with self._index.read() as conn:
            wanted = select(t.object_key, t.object_offset, t.object_length).where(t.state == "pending").distinct()
            gone = [Locator(*found) for found in conn.execute(wanted)]
        self._remove_bytes(gone)
        return len(gone)

    def _delete(
        self, conn: Connection, principal: Principal, study: str, series: str | None, instance: str | None, why: str
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
                    s.study_instance_uid,
                )
                .join_from(schema.instance, schema.series, r.id == i.series_key)
                .join(schema.study, s.id == i.study_key)
                .where(i.study_key == held.id, *conditions)
            ).all()
        )
        apart = _apart(conn, principal, study, series, instance)
        if not gone and not apart:
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
        places = self._bury(conn, principal, [*gone, *apart], now)
        aside.forget(conn, apart, now)
        event = "Study Deleted" if series is None else "DICOM Instances Deleted"
        detail = (
            f"{len(gone)} instances" + (f", {len(apart)} kept aside" if apart else "") + (f"; {why}" if why else "")
        )
        whole = audit.row(
            event, principal, "success", now, detail=detail,
            study_instance_uid=study, series_instance_uid=series, sop_instance_uid=instance,
        )  # fmt: skip
        audit.record_all(conn, [whole])
        scope = "" if held is None else held.scope
        news = [changes.row("deleted", at=now, principal=principal.name, scope=scope, **name) for name in names]
        changes.append_all(conn, news)
        return len(gone) or len(apart), places

    @staticmethod
    def _bury(conn: Connection, principal: Principal, gone: Sequence[Found], now: float) -> list[Locator]:
        """Where the bytes lie that are to go, once tombstones and journal know of them."""
        stones = [
            {name: getattr(each, name) for name in _FACTS}
            | {"principal": principal.name, "at": now, "state": "pending"}
            for each in gone
        ]
        conn.execute(insert(schema.tombstone), stones)
        for each in gone:  # a case ends with its object
            damage.forget(conn, each.object_key, each.object_offset)
        for at in range(0, len(stones), _AT_ONCE):
            some = [{name: stone[name] for name in _FACTS} for stone in stones[at : at + _AT_ONCE]]
            journal.record(conn, "deleted", {"instances": some, "principal": principal.name}, at=now)
        return [Locator(each.object_key, each.object_offset, each.object_length) for each in gone]

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
                        damage.forget(conn, locator.object_key, locator.offset)  # a case ends with its object
                self._store.delete(*mine)

            self._index.transact(work)


def _apart(conn: Connection, principal: Principal, study: str, series: str | None, instance: str | None) -> list[Found]:
    """Old versions and rejected instances of what is removed; a quarantined newcomer waits for its person."""
    t = kept_aside.aside.c
    wanted = select(kept_aside.aside).where(t.study_instance_uid == study, t.state != kept_aside.QUARANTINED)
    for column, value in ((t.series_instance_uid, series), (t.sop_instance_uid, instance)):
        if value is not None:
            wanted = wanted.where(column == value)
    if principal.scope:
        wanted = wanted.where(t.scope == principal.scope)
    return list(conn.execute(wanted.order_by(t.id)).all())
