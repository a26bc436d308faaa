"""Whether an index is behind its store: what the store's journal and objects tell that the index does not know.

Such an index (a copy that somebody put back by hand, a new one beside an old store) would act on what it does not know:
a rule would remove what a person keeps. So nobody opens it; `m3dicom rebuild --add` brings it up to date.
"""

from __future__ import annotations

import re

from sqlalchemy import Connection, select

from pacs import journal
from pacs.errors import ArchiveError, Unavailable
from pacs.index import aside, migrate, schema
from pacs.index.engine import Index
from pacs.storage.base import Locator, ObjectStore
from pacs.storage.files import FileStore

_RECORD = re.compile(rf"{journal.PREFIX}\d+-([0-9a-f]+)\.json")
ENOUGH = 100
"""So many objects that the index does not know are counted; more say no more."""
_LOOKED_AT = 5000


def refuse(store: ObjectStore, index: Index, *, newest: bool = False) -> None:
    """Nothing, or Unavailable in words for an index that is not whole, or older than its store.

    With `newest` only the journal's records behind the last one that the index knows are looked for: all that is needed
    where nobody has written to an older index since it was put back, and as quick after years as on the first day.
    """
    with index.read() as conn:
        unfinished = migrate.unfinished(conn)
    if unfinished:
        raise Unavailable(f"{unfinished[0]}: run `{unfinished[1]}`")
    number = records(store, index, newest=newest)
    if not number:
        return
    with index.read() as conn:
        filled = conn.execute(select(schema.instance.c.id).limit(1)).first() is not None
    how = "`m3dicom rebuild --add` brings it up to date" if filled else "`m3dicom rebuild` makes it from the store"
    raise Unavailable(
        f"the index is older than its store: the journal there has {number} records that it does not know; {how}, "
        "`m3dicom restore FILE` puts a backup in its place and adds what came after it"
    )


def records(store: ObjectStore, index: Index, *, newest: bool = False) -> int:
    """How many records the store's journal has that the index does not know: none where it is as far as the store.

    Names are listed and nothing is read; with `newest` those behind the last one of the index. The store comes first: a
    server that shares the index commits a record before it exports it, so that one which is listed is in the index by
    then.
    """
    after = ""
    if newest:
        with index.read() as conn:
            after = journal.last_name(conn)
    there = {found[1] for name in store.small(journal.PREFIX, after) if (found := _RECORD.fullmatch(name))}
    if not there:
        return 0
    with index.read() as conn:
        return len(there - journal.known(conn))


def objects(store: FileStore, index: Index) -> int:
    """How many of the newest objects nothing in the index knows; `ENOUGH` is the most that are counted.

    Only sealed segments are looked at: all in them was filed, or withdrawn, before they were sealed. What a scrub would
    remove (results of tasks that never completed, rivals, what the journal calls deleted) does not count.
    """
    from pacs import replay, rescan  # they need an archive, and that needs this module

    found, strange = 0, list[Locator]()
    looked = 0
    for several in store.sealed():
        looked += len(several)
        with index.read() as conn:
            owned = _owned(conn, several[0].object_key) if several else set()
        strange += [each for each in several if each.offset not in owned]
        if looked >= _LOOKED_AT or len(strange) >= ENOUGH:
            break
    roles = replay.roles(journal.read(store)) if strange else {}
    for locator in strange:
        if found >= ENOUGH:
            break
        try:
            entry = rescan.entry(store, locator)
        except Unavailable:
            raise
        except ArchiveError:
            continue  # gone meanwhile, or no data set: not what somebody misses
        uid = entry.scan.sop_instance_uid
        if entry.arrival.result_of is None and roles.get((uid, entry.digest), "live") == "live":
            with index.read() as conn:
                found += not _has(conn, uid) and locator.offset not in _owned(conn, locator.object_key)
    return found


def _owned(conn: Connection, object_key: str) -> set[int]:
    """Where in a segment the objects lie that a row tells of, those that are being removed too."""
    owned: set[int] = set()
    for table in (schema.instance.c, aside.aside.c, schema.tombstone.c):
        owned.update(conn.execute(select(table.object_offset).where(table.object_key == object_key)).scalars())
    return owned


def _has(conn: Connection, sop_instance_uid: str) -> bool:
    return any(
        conn.execute(select(table.id).where(table.sop_instance_uid == sop_instance_uid).limit(1)).first() is not None
        for table in (schema.instance.c, aside.aside.c)
    )
