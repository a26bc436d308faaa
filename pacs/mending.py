"""Stored bytes held against their digest: bad ones noted as damage, and put right by the same content sent again.

The sound bytes go to a place of their own, never over the bad ones: no cache, nor anybody who reads just now, mixes
the two. The instance's row moves to them in one transaction, which ends the case and buries the bad bytes.
"""

from __future__ import annotations

import logging
import time
import uuid
import zlib

from sqlalchemy import Connection, bindparam, insert, select, update

from pacs import audit
from pacs.auth import SYSTEM, Principal
from pacs.dicom.part10 import HeaderReader
from pacs.digest import Digest
from pacs.errors import Corrupt, MalformedDataset, NotFound
from pacs.index import aside, damage, schema
from pacs.index.engine import Index
from pacs.index.statement import Found, Statement
from pacs.storage.arrival import HEAD_BYTES, arrival, content_suffix
from pacs.storage.base import Locator, ObjectStore, object_key

log = logging.getLogger(__name__)

_s, _r, _i = schema.study.c, schema.series.c, schema.instance.c
_WHOLE = Statement(
    select(
        _i.id, _s.study_instance_uid, _r.series_instance_uid, _i.sop_instance_uid, _i.transfer_syntax_uid, _i.digest,
        _i.object_key, _i.object_offset, _i.object_length, _i.dataset_offset, _i.principal, _s.scope, _i.source_ae,
        _i.result_of, _i.created_at,
    )
    .join_from(schema.instance, schema.series, _r.id == _i.series_key)
    .join(schema.study, _s.id == _i.study_key)
    .where(_i.sop_instance_uid == bindparam("uid"))
)  # fmt: skip


def held(index: Index, sop_instance_uid: str) -> Found | None:
    """The instance under this UID with all that the head of its object tells, if one is here."""
    found = index.fetch(_WHOLE, {"uid": sop_instance_uid})
    return found[0] if found else None


def check(store: ObjectStore, row: Found) -> None:
    """Nothing where the object of a row is what was stored; raises NotFound or Corrupt, and Unavailable.

    `store` is the store itself, no cache.
    """
    locator = Locator(row.object_key, row.object_offset, row.object_length)
    hashed = Digest()
    left = locator.length - row.dataset_offset
    for chunk in store.chunks(locator, row.dataset_offset):
        hashed.update(chunk)
        left -= len(chunk)
    hashed.update(content_suffix(row.transfer_syntax_uid))
    if left:
        raise Corrupt("the object is shorter than it was stored")
    if hashed.hexdigest() != row.digest:
        raise Corrupt("the object does not match its digest")


def wrong_with(store: ObjectStore, row: Found) -> tuple[str, str] | None:
    """The kind of damage and its reason, or None for a sound object. Raises Unavailable."""
    try:
        check(store, row)
    except NotFound:
        return "missing", "the object is not in the store"
    except Corrupt as error:
        return "corrupt", error.reason
    return None


def other_copy(store: ObjectStore, index: Index, locator: Locator) -> tuple[Found, float] | None:
    """The instance that has what these bytes were before they were spoilt, sound, and when they arrived (Unix seconds).

    None where that cannot be told: where their head is spoilt too, or nothing sound is known to be the same. Blocks;
    raises Unavailable.
    """
    head, reader = store.read(locator, 0, min(HEAD_BYTES, locator.length)), HeaderReader()
    mine = store.recorded(locator)
    if mine is not None and zlib.crc32(head) != mine.head:
        return None
    try:
        reader.feed(head)
        at = arrival(head).at
    except MalformedDataset:
        return None
    row = held(index, reader.sop_instance_uid)
    if row is None or row.transfer_syntax_uid != reader.transfer_syntax_uid:
        return None
    its = Locator(row.object_key, row.object_offset, row.object_length)
    if its == locator or wrong_with(store, row) is not None:
        return None
    if mine is None:
        return (row, at) if locator.object_key.endswith(f"-{row.digest}") else None
    recorded = store.recorded(its)
    return (row, at) if recorded is not None and recorded.digest == mine.digest else None


def note(conn: Connection, row: Found, case: tuple[str, str], now: float, *, kept_aside: bool = False) -> bool:
    """Whether the case is recorded, with an audit row where it is new; not where the row has gone or moved meanwhile.

    `row` is that of an instance, or with `kept_aside` one of those that nobody sees.
    """
    t = aside.aside.c if kept_aside else schema.instance.c
    place = (t.object_key == row.object_key, t.object_offset == row.object_offset)
    if conn.execute(select(t.id).where(t.id == row.id, *place)).first() is None:
        return False
    kind, reason = case
    values = {
        "object_key": row.object_key, "object_offset": row.object_offset, "object_length": row.object_length,
        "instance_key": None if kept_aside else row.id, "kind": kind, "reason": reason, "found_at": now,
    }  # fmt: skip
    if damage.record(conn, values):
        told = audit.row(
            "Object Damaged", SYSTEM, "failure", now, sop_instance_uid=row.sop_instance_uid,
            detail=f"kept aside; {reason}" if kept_aside else reason,
        )  # fmt: skip
        audit.record_all(conn, [told])
        what = "kept aside" if kept_aside else "quarantined"
        log.error("instance %s: %s; it is %s", row.sop_instance_uid, reason, what)
    return True


def new_key(study_instance_uid: str, series_instance_uid: str, sop_instance_uid: str, digest: str) -> str:
    """A key that equal content does not have: what lies there is bad."""
    return object_key(study_instance_uid, series_instance_uid, f"{sop_instance_uid} {uuid.uuid4().hex}", digest)


def mend(conn: Connection, row: Found, sound: Locator, principal: Principal) -> bool:
    """Whether the instance lies at `sound` from now on; not where its row has gone or moved meanwhile."""
    t, now = schema.instance.c, time.time()
    mine = (t.id == row.id, t.digest == row.digest)
    place = (t.object_key == row.object_key, t.object_offset == row.object_offset)
    moved = update(schema.instance).where(*mine, *place).values(
        object_key=sound.object_key, object_offset=sound.offset, object_length=sound.length, dataset_offset=HEAD_BYTES
    )  # fmt: skip
    if conn.execute(moved).rowcount != 1:
        return False
    damage.forget(conn, row.object_key, row.object_offset)
    uids = {name: getattr(row, name) for name in ("study_instance_uid", "series_instance_uid", "sop_instance_uid")}
    # No word in the journal: an index made again takes the sound object, and refuses the bad one.
    stone = {
        "digest": row.digest, "object_key": row.object_key, "object_offset": row.object_offset,
        "object_length": row.object_length, "state": "pending", "principal": SYSTEM.name, "at": now,
    }  # fmt: skip
    conn.execute(insert(schema.tombstone).values(**uids, **stone))
    detail = "healed by the same content sent again"
    audit.record_all(conn, [audit.row("Object Sound Again", principal, "success", now, detail=detail, **uids)])
    return True
