"""What a person does with what is kept aside: looks at it, makes it the instance (again), or removes it for good."""

from __future__ import annotations

import time
import zlib
from typing import Any

from sqlalchemy import select

from pacs import aside, contents, journal
from pacs.auth import Principal, Right
from pacs.contents import Content
from pacs.errors import Corrupt, InvalidInput, NotFound
from pacs.events import Events
from pacs.index import aside as tables
from pacs.index import rows, schema
from pacs.index.engine import Index
from pacs.index.statement import Found
from pacs.removal import Removal
from pacs.storage.arrival import content_digest
from pacs.storage.base import Locator, ObjectStore

_TOLD = (
    "id", "state", "study_instance_uid", "series_instance_uid", "sop_instance_uid", "sop_class_uid", "digest",
    "principal", "source_ae", "received_at", "at", "by", "reason", "note_uid",
)  # fmt: skip
MAX_TEXT = 200


class Keeping:
    """Quarantined newcomers, old versions and rejected instances. Safe from any thread."""

    def __init__(self, store: ObjectStore, index: Index, events: Events, removal: Removal) -> None:
        self._store = store
        self._index = index
        self._events = events
        self._removal = removal
        self._journal = journal.Journal(store, index)

    def listed(
        self, principal: Principal, state: str | None = None, *, instance: str | None = None, study: str | None = None
    ) -> list[dict[str, Any]]:
        """What is aside, the newest first: "quarantined", "replaced" (old versions), "rejected", or all; no names.

        Raises Forbidden.
        """
        principal.require(Right.ADMIN)
        with self._index.read() as conn:
            found = tables.listed(conn, state, instance=instance, study=study)
        return [_told(row) for row in found if not principal.scope or row.scope == principal.scope]

    def of(self, principal: Principal, number: int) -> dict[str, Any]:
        """One of them, with the attributes in which it differs from the instance that is held under its UID, as text.

        Raises Forbidden and NotFound.
        """
        row = self._row(principal, number)
        mine = _content(self._store, row)
        held = self._held(row.sop_instance_uid)
        return _told(row) | {
            "held": held is not None,
            "differences": {} if held is None else contents.differences(held, mine),
        }

    def bring_in(self, principal: Principal, number: int, reason: str) -> dict[str, Any]:
        """Make it the instance, what is held under its UID an old version; how it was listed.

        Raises Forbidden, NotFound, InvalidInput without a reason, Conflict, and Corrupt for bytes that are not right.
        """
        row = self._row(principal, number)
        why = _reason(reason)
        entry, now = aside.entry_of(self._store, row), time.time()
        self._index.transact(lambda conn: aside.bring_in(conn, row, entry, principal, now, why))
        self._journal.export()
        self._events.publish()
        return _told(row)

    def discard(self, principal: Principal, number: int, reason: str) -> dict[str, Any]:
        """Remove it for good; how it was listed. Raises Forbidden, NotFound and InvalidInput without a reason."""
        row = self._row(principal, number)
        self._removal.discard(principal, [number], _reason(reason))
        return _told(row)

    def _row(self, principal: Principal, number: int) -> Found:
        principal.require(Right.ADMIN)
        with self._index.read() as conn:
            row = tables.of_id(conn, number)
        if row is None or (principal.scope and row.scope != principal.scope):
            raise NotFound("nothing is kept aside under this number", about=str(number))
        return row

    def _held(self, sop_instance_uid: str) -> Content | None:
        i, m = schema.instance.c, schema.instance_metadata.c
        wanted = (
            select(
                m.json, i.transfer_syntax_uid, i.object_key, i.object_offset, i.object_length, i.dataset_offset,
                i.digest, i.sop_instance_uid,
            )
            .join_from(schema.instance, schema.instance_metadata, m.instance_key == i.id)
            .where(i.sop_instance_uid == sop_instance_uid)
        )  # fmt: skip
        with self._index.read() as conn:
            row = conn.execute(wanted).first()
        if row is None:
            return None
        try:
            return _content(self._store, row)
        except (Corrupt, NotFound, InvalidInput):  # spoilt: what the index knows of it is told all the same
            return Content(rows.loads(zlib.decompress(row.json)), row.transfer_syntax_uid, {})


def _content(store: ObjectStore, row: Found) -> Content:
    """Raises NotFound without an object, Corrupt when its bytes do not match their digest."""
    data = memoryview(store.read(Locator(row.object_key, row.object_offset, row.object_length)))[row.dataset_offset :]
    if content_digest(data, row.transfer_syntax_uid) != row.digest:
        raise Corrupt("the stored bytes do not match their digest", about=row.sop_instance_uid)
    return contents.of(data, row.transfer_syntax_uid)


def _told(row: Found) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _TOLD}


def _reason(text: str) -> str:
    text = " ".join(text.split())
    if not text or len(text) > MAX_TEXT:
        raise InvalidInput(f"a reason of 1 to {MAX_TEXT} characters is needed")
    return text
