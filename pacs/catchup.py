"""An index that is behind its store brought up to date: what came, went and was corrected after its backup was made.

The journal says what happened to objects, the store which ones there are. What the index lacks is filed as if it
arrived now, in the order in which it came, and is told in the change feed as new; what it has and the journal calls
deleted goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy import Connection, delete, select

from pacs import audit, filing, journal, recount, recovery, replay, rescan
from pacs.auth import SYSTEM
from pacs.errors import ArchiveError, DuplicateInstance, NotFound, Unavailable
from pacs.index import aside, changes, schema
from pacs.index.engine import Index
from pacs.index.migrate import mark_restoring, unmark_restoring
from pacs.rescan import Progress, Refused, Tell
from pacs.storage.arrival import HEAD_BYTES, arrival
from pacs.storage.base import Locator, ObjectStore

_AT_ONCE = 200


@dataclass(slots=True)
class Caught:
    """What was done: how many instances were added and removed, records replayed; what could not be added, and why."""

    added: int = 0
    removed: int = 0
    records: int = 0
    same: int = 0
    refused: list[Refused] = field(default_factory=list)
    missing: int = 0
    strange: list[str] = field(default_factory=list)


def catch_up(store: ObjectStore, index: Index, *, now: float, tell: Tell) -> Caught:
    """Add what the index lacks and remove what was deleted since; may be run again at any time.

    No server may run. Raises Unavailable, and Corrupt for a journal that cannot be read.
    """
    done = Caught()
    records = list(journal.read(store))
    with index.read() as conn:
        known = journal.known(conn)
    news = [each for each in records if each.uuid not in known]
    roles = replay.roles(records)
    index.transact(mark_restoring)  # whatever cuts this short: nobody opens what is half done
    done.removed = _remove(index, roles)
    # After what was deleted: its bytes are rightly gone. What a crash kept from being filed is filed below.
    recovery.recover(store, index, lambda locator: False)
    owned = _owned(index)
    waiting: list[Locator] = []
    there: set[tuple[str, int]] = set()
    for locator in store.walk():
        place = (locator.object_key, locator.offset)
        if place in owned:
            there.add(place)
        else:
            waiting.append(locator)
    done.missing = len(owned) - len(there)
    del owned, there
    _file(store, index, _ordered(store, waiting, done), roles, done, tell)
    index.transact(partial(_replay, news=news, done=done, now=now))
    return done


def _owned(index: Index) -> set[tuple[str, int]]:
    """Where the bytes lie that an instance, or something set aside, owns."""
    found: set[tuple[str, int]] = set()
    with index.read() as conn:
        for table in (schema.instance, aside.aside):
            found.update(map(tuple, conn.execute(select(table.c.object_key, table.c.object_offset))))
    return found


def _remove(index: Index, roles: replay.Roles) -> int:
    """How many instances went that the journal does not call live."""
    hidden = [sop for (sop, _), role in roles.items() if role != "live"]
    removed = 0
    for at in range(0, len(hidden), _AT_ONCE):
        some = set(hidden[at : at + _AT_ONCE])
        removed += index.transact(partial(_leave, uids=some, roles=roles))
    return removed


def _leave(conn: Connection, uids: set[str], roles: replay.Roles) -> int:
    i, s = schema.instance.c, schema.study.c
    wanted = (
        select(i.id, i.digest, i.sop_instance_uid, i.series_key, s.study_instance_uid)
        .join_from(schema.instance, schema.study, s.id == i.study_key)
        .where(i.sop_instance_uid.in_(uids))
    )
    held = conn.execute(wanted).all()
    gone = [row for row in held if roles.get((row.sop_instance_uid, row.digest), "live") != "live"]
    if gone:
        conn.execute(delete(schema.instance).where(i.id.in_([row.id for row in gone])))
    for study in sorted({row.study_instance_uid for row in gone}):
        keys = {row.series_key for row in gone if row.study_instance_uid == study}
        recount.after_leaving(conn, study, keys)
    return len(gone)


def _ordered(store: ObjectStore, waiting: Iterable[Locator], done: Caught) -> list[Locator]:
    """The objects in the order of their arrival; those without a head of ours are refused."""
    found: list[tuple[float, Locator]] = []
    for locator in waiting:
        try:
            found.append((arrival(store.read(locator, 0, HEAD_BYTES)).at, locator))
        except Unavailable:
            raise
        except ArchiveError as error:
            done.refused.append(Refused(locator, error.reason))
    return [locator for _, locator in sorted(found, key=lambda each: (each[0], each[1].object_key, each[1].offset))]


def _file(
    store: ObjectStore, index: Index, locators: Sequence[Locator], roles: replay.Roles, done: Caught, tell: Tell
) -> None:
    progress = Progress(total=len(locators))
    for locator in locators:
        try:
            entry = rescan.entry(store, locator)
            if roles.get((entry.scan.sop_instance_uid, entry.digest), "live") == "live":
                index.transact(partial(_add, entry=entry, done=done))  # durable one by one: the difference is small
        except (Unavailable, NotFound):
            raise
        except ArchiveError as error:
            done.refused.append(Refused(locator, error.reason))
        progress.done += 1
        progress.bytes += locator.length
        progress.refused = len(done.refused)
        tell(progress)


def _add(conn: Connection, entry: filing.Entry, done: Caught) -> None:
    if adopt(conn, entry):
        done.added += 1
    else:
        done.same += 1


def adopt(conn: Connection, entry: filing.Entry) -> bool:
    """Whether an object became an instance now, told as new; not when its very content is one already.

    Raises DuplicateInstance for other content under its SOP Instance UID, and Conflict.
    """
    (filed,) = filing.file_all(conn, [entry])
    if filed.held is not None:
        if filed.held.digest == entry.digest:
            return False
        raise DuplicateInstance("other content is in the index under this SOP Instance UID")
    came = entry.arrival
    new = changes.row(
        "instance" if came.result_of is None else "result", at=came.at, principal=came.principal, scope=filed.scope,
        study_instance_uid=entry.scan.study_instance_uid, series_instance_uid=entry.scan.series_instance_uid,
        sop_instance_uid=entry.scan.sop_instance_uid, workitem_uid=came.result_of,
    )  # fmt: skip
    changes.append_all(conn, [new])
    return True


def _replay(conn: Connection, news: Sequence[journal.Record], done: Caught, now: float) -> None:
    journal.adopt(conn, news)
    unmark_restoring(conn)
    done.strange = replay.replay(conn, news)
    done.records = len(news)
    detail = f"{done.added} instances added, {done.removed} removed, {len(news)} records, {len(done.refused)} refused"
    audit.record_all(conn, [audit.row("Index Caught Up", SYSTEM, "success", now, detail=detail)])
