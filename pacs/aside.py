"""Other content under a known UID, old versions and rejected instances: kept, seen by nobody, brought back by a person.

Everything here works in the transaction of `conn`, which also tells audit, change feed and journal. One content is an
instance or aside, never both; the bytes stay where they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import Connection, insert, select, update

from pacs import audit, filing, journal, recount
from pacs.auth import Principal
from pacs.dicom import scanner
from pacs.dicom.rejection import Note
from pacs.errors import Corrupt, DuplicateInstance, InvalidInput, NotFound
from pacs.index import aside as tables
from pacs.index import changes, schema
from pacs.index.aside import QUARANTINED, REJECTED, REPLACED
from pacs.index.statement import Found
from pacs.storage.arrival import Arrival, content_digest
from pacs.storage.base import Locator, ObjectStore

POLICIES = ("refuse", "quarantine", "replace")
Outcome = Literal["same", "stored", "quarantined", "replaced"]
REFUSED_AGAIN = "rejected"
"""State of a tombstone that keeps a rejected instance from coming again."""
MAX_NAMED = 50_000
_AT_ONCE = 500


def other_content(conn: Connection, entry: filing.Entry, principal: Principal, policy: str) -> Outcome:
    """What becomes of an entry under whose SOP Instance UID other content is held, by the policy of who sent it.

    "refuse" raises DuplicateInstance. A result of ours is never replaced, and replaces nothing: what comes back changed
    is quarantined, so that it cannot set our analysis off again.
    """
    uid, now = entry.scan.sop_instance_uid, entry.arrival.at
    held = _held(conn, uid)
    if held is None:
        return "stored" if filing.file_all(conn, [entry])[0].new else "same"
    if held.digest == entry.digest:
        return "same"
    if policy not in ("quarantine", "replace"):
        raise DuplicateInstance("other content is held under this UID; the first stays", about=uid)
    if policy == "replace" and held.result_of is None and entry.arrival.result_of is None:
        kept = tables.of_content(conn, uid, entry.digest)
        if kept is not None and tables.drop(conn, uid, entry.digest):  # else it is being removed, and its bytes with it
            entry = _as_kept(entry, kept)
        replace(conn, entry, held, principal, now, f"replaced by what {principal.name} sent")
        return "replaced"
    if tables.of_content(conn, uid, entry.digest) is None:
        row = row_of(entry, QUARANTINED, principal.name, now, "other content under a known SOP Instance UID")
        tables.add(conn, row)
        journal.record(conn, QUARANTINED, {"aside": [row]}, at=now)
        _change(conn, "quarantined", principal, now, held.scope, row)
    _audit(conn, "DICOM Instances Quarantined", principal, now, entry, entry.arrival.source_ae)
    return "quarantined"


def hold_back(conn: Connection, entry: filing.Entry, principal: Principal, reason: str) -> None:
    """Keep an entry aside from the beginning, with what is wrong with it: nobody sees it until a person decides.

    A task may be done twice: of a result that is held back already the first copy stays.
    """
    now = entry.arrival.at
    earlier = tables.listed(conn, QUARANTINED, instance=entry.scan.sop_instance_uid)
    if entry.arrival.result_of is not None and any(row.result_of is not None for row in earlier):
        return
    row = row_of(entry, QUARANTINED, principal.name, now, reason)
    tables.add(conn, row)
    journal.record(conn, QUARANTINED, {"aside": [row]}, at=now)
    _change(conn, "quarantined", principal, now, entry.arrival.scope, row)
    _audit(conn, "DICOM Instances Quarantined", principal, now, entry, reason)


def replace(
    conn: Connection, entry: filing.Entry, held: Found | None, principal: Principal, now: float, reason: str,
    *, kind: str = "replaced", allowed: Sequence[str] = (),
) -> None:  # fmt: skip
    """Make the entry the instance, and what is held under its UID an old version."""
    old = [] if held is None else take_out(conn, [held], REPLACED, principal.name, now, reason)
    tables.drop(conn, entry.scan.sop_instance_uid, entry.digest)
    (filed,) = filing.file_all(conn, [entry])
    assert filed.new, "its place was just made free"
    # What came back may have come before all that names its study and series now.
    new = _instances(conn, [entry.scan.sop_instance_uid], lock=False)
    _settle(conn, new, now, also=False)
    if held is not None:
        _settle(conn, [held], now, also=held.study_instance_uid != entry.scan.study_instance_uid)
    live = [[entry.scan.sop_instance_uid, entry.digest]]
    journal.record(conn, kind, {"aside": old, "live": live, "allowed": list(allowed)}, at=now)
    _audit(conn, f"DICOM Instances {kind.capitalize()}", principal, now, entry, reason)
    _change(conn, kind, principal, now, filed.scope, row_of(entry, "", "", now, ""))


def reject(conn: Connection, note: Note, entry: filing.Entry, principal: Principal) -> int:
    """How many instances a rejection note that just arrived has hidden; those it names that are not here cannot come.

    Only what the principal may see is hidden, and whoever has an access scope keeps nothing else from coming. Raises
    InvalidInput for a note that names more than `MAX_NAMED`.
    """
    now, note_uid = entry.arrival.at, entry.scan.sop_instance_uid
    named = [each for each in note.instances if each[2] != note_uid]
    if len(named) > MAX_NAMED:
        raise InvalidInput(f"a rejection note may name at most {MAX_NAMED} instances", about=note_uid)
    found: list[Found] = []
    for at in range(0, len(named), _AT_ONCE):
        rows = _instances(conn, [sop for _, _, sop in named[at : at + _AT_ONCE]], lock=True)
        found += [row for row in rows if not principal.scope or row.scope == principal.scope]
    hidden = {row.sop_instance_uid for row in found}
    reason = f"{note.reason} ({note.code})"
    rows_ = take_out(conn, found, REJECTED, principal.name, now, reason, note_uid)
    _settle(conn, found, now, also=True)
    refused = [
        {"study_instance_uid": study, "series_instance_uid": series, "sop_instance_uid": sop}
        for study, series, sop in named
        if not principal.scope or sop in hidden
    ]
    _refuse(conn, refused, principal.name, now)
    journal.record(conn, REJECTED, {"aside": rows_, "refused": refused, "by": principal.name}, at=now)
    detail = f"{reason}: {len(rows_)} of {len(named)} instances were here"
    _audit(conn, "DICOM Instances Rejected", principal, now, entry, detail)
    news = [_news("rejected", principal, now, row.scope, row._mapping) for row in found]
    changes.append_all(conn, news)
    return len(rows_)


def take_out(
    conn: Connection, found: Sequence[Found], state: str, by: str, now: float, reason: str, note_uid: str | None = None
) -> list[dict[str, Any]]:
    """The rows of these instances, which are aside from now on. `_settle` has to make their studies true again."""
    made = []
    for row in found:
        each = {name: getattr(row, name) for name in tables.COLUMNS if name in row._fields}
        each |= {
            "state": state, "received_at": row.created_at, "at": now, "by": by, "reason": reason, "note_uid": note_uid,
        }  # fmt: skip
        tables.add(conn, each)
        made.append(each)
    for at in range(0, len(found), _AT_ONCE):
        keys = [row.id for row in found[at : at + _AT_ONCE]]
        conn.execute(schema.instance.delete().where(schema.instance.c.id.in_(keys)))
    return made


def row_of(entry: filing.Entry, state: str, by: str, now: float, reason: str) -> dict[str, Any]:
    """The row that keeps an entry aside."""
    scan, arrival, where = entry.scan, entry.arrival, entry.locator
    return {
        "state": state, "study_instance_uid": scan.study_instance_uid, "series_instance_uid": scan.series_instance_uid,
        "sop_instance_uid": scan.sop_instance_uid, "sop_class_uid": scan.sop_class_uid,
        "transfer_syntax_uid": entry.transfer_syntax_uid, "digest": entry.digest, "object_key": where.object_key,
        "object_offset": where.offset, "object_length": where.length, "dataset_offset": entry.dataset_offset,
        "principal": arrival.principal, "scope": arrival.scope, "source_ae": arrival.source_ae,
        "result_of": arrival.result_of, "received_at": arrival.at, "at": now, "by": by, "reason": reason,
        "note_uid": None,
    }  # fmt: skip


def entry_of(store: ObjectStore, row: Found) -> filing.Entry:
    """The entry that a row aside would be filed as. Raises Corrupt when its bytes do not match their digest."""
    locator = Locator(row.object_key, row.object_offset, row.object_length)
    data = memoryview(store.read(locator))[row.dataset_offset :]
    if content_digest(data, row.transfer_syntax_uid) != row.digest:
        raise Corrupt("the stored bytes do not match their digest", about=row.sop_instance_uid)
    scan = scanner.scan(data, row.transfer_syntax_uid)
    return filing.Entry(scan, row.transfer_syntax_uid, row.digest, locator, row.dataset_offset, _arrival(row))


def _arrival(row: Found) -> Arrival:
    return Arrival(row.principal, row.scope, row.source_ae, row.result_of, row.received_at)


def _as_kept(entry: filing.Entry, row: Found) -> filing.Entry:
    """An entry with the bytes and the arrival of the first copy of its content: the one that a rebuild finds."""
    where = Locator(row.object_key, row.object_offset, row.object_length)
    return dataclasses.replace(entry, locator=where, dataset_offset=row.dataset_offset, arrival=_arrival(row))


def bring_in(conn: Connection, row: Found, entry: filing.Entry, principal: Principal, now: float, reason: str) -> None:
    """Make what is aside the instance again, whatever is held under its UID an old version. Raises NotFound."""
    held = _held(conn, row.sop_instance_uid)
    if not tables.drop(conn, row.sop_instance_uid, row.digest):
        raise NotFound("it is not aside any more", about=row.sop_instance_uid)
    allow(conn, [row.sop_instance_uid])
    kind = "replaced" if row.state == QUARANTINED else "restored"
    replace(conn, entry, held, principal, now, reason, kind=kind, allowed=[row.sop_instance_uid])
    _unstable(conn, row.study_instance_uid, now)


def forget(conn: Connection, found: Iterable[Found], now: float) -> None:
    """Drop rows aside whose bytes are about to go (`pacs.removal`)."""
    gone = [[row.sop_instance_uid, row.digest] for row in found]
    for uid, digest in gone:
        tables.drop(conn, uid, digest)
    if gone:
        journal.record(conn, "aside removed", {"gone": gone}, at=now)


def allow(conn: Connection, sop_instance_uids: Sequence[str]) -> None:
    """Let rejected instances come again."""
    t = schema.tombstone
    mine = t.c.sop_instance_uid.in_(sop_instance_uids), t.c.state == REFUSED_AGAIN
    conn.execute(update(t).where(*mine).values(state="kept"))


def _refuse(conn: Connection, refused: Sequence[Mapping[str, str]], by: str, now: float) -> None:
    empty = {"digest": "", "object_key": "", "object_offset": 0, "object_length": 0}
    if refused:
        stones = [{**each, **empty, "state": REFUSED_AGAIN, "principal": by, "at": now} for each in refused]
        conn.execute(insert(schema.tombstone), stones)


def _held(conn: Connection, sop_instance_uid: str) -> Found | None:
    """The instance under a UID with its study locked; others may have replaced it while we waited for the lock."""
    for _ in range(2):
        found = _instances(conn, [sop_instance_uid], lock=True)
        if found:
            return found[0]
        if not _instances(conn, [sop_instance_uid], lock=False):
            break
    return None


def _instances(conn: Connection, sop_instance_uids: Sequence[str], *, lock: bool) -> list[Found]:
    s, r, i = schema.study.c, schema.series.c, schema.instance.c
    wanted = (
        select(
            i.id, i.series_key, s.study_instance_uid, r.series_instance_uid, i.sop_instance_uid, i.sop_class_uid,
            i.transfer_syntax_uid, i.digest, i.object_key, i.object_offset, i.object_length, i.dataset_offset,
            i.principal, s.scope, i.source_ae, i.result_of, i.created_at,
        )
        .join_from(schema.instance, schema.series, r.id == i.series_key)
        .join(schema.study, s.id == i.study_key)
        .where(i.sop_instance_uid.in_(sop_instance_uids))
        .order_by(s.id, i.id)
    )  # fmt: skip
    if lock and conn.dialect.name == "postgresql":
        wanted = wanted.with_for_update(of=[schema.study, schema.instance])
    return list(conn.execute(wanted).all())


def _settle(conn: Connection, left: Sequence[Found], now: float, *, also: bool) -> None:
    """Make the studies that instances left true again, and where `also`, unstable."""
    series: dict[str, set[int]] = {}
    for row in left:
        series.setdefault(row.study_instance_uid, set()).add(row.series_key)
    for uid, keys in sorted(series.items()):
        recount.after_leaving(conn, uid, keys)
        if also:
            _unstable(conn, uid, now)


def _unstable(conn: Connection, study_instance_uid: str, now: float) -> None:
    """What a study holds has changed: analysis looks at it again once it is quiet."""
    t = schema.study
    changed = update(t).where(t.c.study_instance_uid == study_instance_uid, t.c.last_instance_at.is_not(None))
    conn.execute(changed.values(stable_at=None, fingerprint=None))


def _audit(conn: Connection, event: str, principal: Principal, now: float, entry: filing.Entry, detail: str) -> None:
    scan = entry.scan
    row = audit.row(
        event, principal, "success", now, detail=detail, study_instance_uid=scan.study_instance_uid,
        series_instance_uid=scan.series_instance_uid, sop_instance_uid=scan.sop_instance_uid,
    )  # fmt: skip
    audit.record_all(conn, [row])


def _news(kind: str, principal: Principal, now: float, scope: str, row: Mapping[str, Any]) -> dict[str, object]:
    return changes.row(
        kind, at=now, principal=principal.name, scope=scope, study_instance_uid=row["study_instance_uid"],
        series_instance_uid=row["series_instance_uid"], sop_instance_uid=row["sop_instance_uid"],
    )  # fmt: skip


def _change(conn: Connection, kind: str, principal: Principal, now: float, scope: str, row: Mapping[str, Any]) -> None:
    changes.append_all(conn, [_news(kind, principal, now, scope, row)])


def _roles(facts: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What a record says of each content: (SOP Instance UID, digest, "live", "aside" or "gone")."""
    yield from ((row["sop_instance_uid"], row["digest"], "aside") for row in facts.get("aside", ()))
    yield from ((uid, digest, "live") for uid, digest in facts.get("live", ()))
    yield from ((uid, digest, "gone") for uid, digest in facts.get("gone", ()))


def _replay(conn: Connection, record: journal.Record) -> None:
    facts = record.facts
    for uid, digest in [*facts.get("live", ()), *facts.get("gone", ())]:
        tables.drop(conn, uid, digest)
    for row in facts.get("aside", ()):
        tables.add(conn, row)
    if facts.get("allowed"):
        allow(conn, facts["allowed"])
    t = schema.tombstone
    new = []
    for each in facts.get("refused", ()):
        there = select(t.c.id).where(
            t.c.sop_instance_uid == each["sop_instance_uid"], t.c.at == record.at, t.c.object_key == ""
        )
        if conn.execute(there).first() is None:
            new.append(each)
    _refuse(conn, new, facts.get("by", ""), record.at)


KINDS = (QUARANTINED, REPLACED, "restored", REJECTED, "aside removed")
ROLES = dict.fromkeys(KINDS, _roles)
REPLAY = dict.fromkeys(KINDS, _replay)
"""What each record of ours in the journal says of objects, and does to an index that is made again."""
