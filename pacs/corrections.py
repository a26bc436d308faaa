"""Corrections of identity by a person: patients merged and corrected, studies relinked and corrected, all undoable.

Stored bytes stay as received. A correction is a record; the rows of its studies hold what it says (`pacs.identity`),
and objects and metadata get it on the way out, with the Original Attributes Sequence telling what was before
(`pacs.dicom.overlay`). Audit, change feed and journal hear of each in the same transaction.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, func, insert, select, update

from pacs import audit, identity, journal
from pacs.auth import Principal, Right
from pacs.correction_request import Changes, Request, checked, spoken
from pacs.dicom import json_model, ups_task
from pacs.dicom.attributes import by_tag
from pacs.dicom.matching import fold
from pacs.errors import Conflict, InvalidInput, NotFound
from pacs.events import Events
from pacs.index import changes, schema
from pacs.index import corrections as tables
from pacs.index.engine import Index
from pacs.index.statement import Found
from pacs.storage.base import ObjectStore

MAX_STUDIES = 10_000

_PATIENT = ("00100010", "00100020", "00100021", "00100022", "00100024", "00100030", "00100032", "00100040")
"""What says who a patient is (PS3.3 C.7.1.1): what a study takes over from the patient it is given to."""
_TYPE_2 = frozenset(("00100010", "00100020", "00100030", "00100040"))
"""Always present, if empty (PS3.3 Table C.7-1)."""


class Corrections:
    """Making, listing and undoing corrections. Safe from any thread."""

    def __init__(self, store: ObjectStore, index: Index, events: Events) -> None:
        self._index = index
        self._events = events
        self._journal = journal.Journal(store, index)

    def make(self, principal: Principal, request: Request) -> dict[str, Any]:
        """The correction as `of` tells it, once every door shows it.

        Raises Forbidden, InvalidInput for what cannot be, NotFound where there is no such study or patient, and
        Conflict where nothing would change.
        """
        principal.require(Right.ADMIN)
        given = checked(request)
        now = time.time()
        number = self._index.transact(lambda conn: _make(conn, principal, request, given, now))
        self._told()
        return self.of(principal, number)

    def undo(self, principal: Principal, number: int) -> dict[str, Any]:
        """The correction, once its studies are what they were before it.

        Raises Conflict when it is undone already, or when one after it holds for the same study: that goes first.
        """
        principal.require(Right.ADMIN)
        now = time.time()
        self._index.transact(lambda conn: _undo(conn, principal, number, now))
        self._told()
        return self.of(principal, number)

    def of(self, principal: Principal, number: int) -> dict[str, Any]:
        """One correction with the studies it holds for, and what each was before. Raises NotFound."""
        principal.require(Right.ADMIN)
        s = tables.correction_study
        with self._index.read() as conn:
            row = _visible(conn, principal, number)
            studies = conn.execute(
                select(s.c.study_instance_uid, s.c.before).where(s.c.correction_id == number).order_by(s.c.id)
            ).all()
        return _described(row) | {
            "studies": [
                {"study_instance_uid": each.study_instance_uid, "before": spoken(orjson.loads(each.before))}
                for each in studies
            ]
        }

    def listed(self, principal: Principal, study_instance_uid: str | None = None) -> list[dict[str, Any]]:
        """The corrections, the newest first, with how many studies each holds for; those of one study where given."""
        principal.require(Right.ADMIN)
        t, s = tables.correction, tables.correction_study
        number = select(func.count()).where(s.c.correction_id == t.c.id).scalar_subquery()
        wanted = select(t, number.label("number_of_studies")).order_by(t.c.id.desc()).limit(1000)
        if principal.scope:
            wanted = wanted.where(t.c.scope == principal.scope)
        if study_instance_uid is not None:
            theirs = select(s.c.correction_id).where(s.c.study_instance_uid == study_instance_uid)
            wanted = wanted.where(t.c.id.in_(theirs))
        with self._index.read() as conn:
            return [
                _described(row) | {"number_of_studies": row.number_of_studies} for row in conn.execute(wanted).all()
            ]

    def _told(self) -> None:
        self._events.publish()
        self._journal.export()


def _make(conn: Connection, principal: Principal, request: Request, given: Changes, now: float) -> int:
    folded = fold("LO", request.patient_id), fold("LO", request.issuer)
    if request.kind in ("study", "relink"):
        studies = [_study(conn, principal, request.study_instance_uid)]
    else:
        studies = _of_patient(conn, principal, *folded)
    changes_: dict[str, dict[str, Any] | None] = dict(given)
    if request.kind in ("merge", "relink"):
        changes_ = {**_patient(conn, principal, request, known=bool(given)), **changes_}
    if not any(_differs(study, changes_) for study in studies) and request.kind != "merge":
        raise Conflict("nothing would change")
    merge = request.kind == "merge"
    row = {
        "uuid": uuid.uuid4().hex,
        "kind": request.kind,
        "changes": orjson.dumps(changes_),
        "from_patient_id": folded[0] if merge else None,
        "from_issuer": folded[1] if merge else None,
        "scope": principal.scope,
        "principal": principal.name,
        "reason": request.reason,
        "at": now,
    }
    before = {study.study_instance_uid: identity.before(study, changes_) for study in studies}
    number = enter(conn, row, before)
    for uid, was in before.items():
        _carry(conn, uid, was, changes_, now)
    journal.record(conn, "correction", {**row, "changes": changes_, "studies": before}, at=now)
    _tell(conn, principal, studies, now, f"correction {number}, {request.kind}: {', '.join(sorted(changes_))}")
    return number


def enter(conn: Connection, row: Mapping[str, Any], studies: Mapping[str, Changes]) -> int:
    """The id of a new correction that holds for these studies; with each, what it was before."""
    t = tables.correction
    number = int(conn.execute(insert(t).values(**row).returning(t.c.id)).scalar_one())
    for uid, before in studies.items():
        identity.join(conn, number, uid, before)
        identity.redress(conn, uid)
    return number


def _undo(conn: Connection, principal: Principal, number: int, now: float) -> None:
    s = tables.correction_study
    row = _visible(conn, principal, number, lock=True)
    if row.undone_at is not None:
        raise Conflict(f"correction {number} is undone already")
    mine = conn.execute(select(s.c.study_instance_uid).where(s.c.correction_id == number).order_by(s.c.id)).scalars()
    studies = list(mine)
    held = [study for uid in sorted(studies) if (study := identity.locked(conn, uid)) is not None]
    for uid in studies:
        later = [each.id for each in tables.active(conn, uid) if each.id > number]
        if later:
            raise Conflict(f"correction {max(later)} came after it for the same study: undo that one first", about=uid)
    take_back(conn, number, now, principal.name)
    of_each = select(s.c.study_instance_uid, s.c.before).where(s.c.correction_id == number)
    for uid, was in conn.execute(of_each).all():
        _carry(conn, uid, orjson.loads(row.changes), orjson.loads(was), now)
    journal.record(conn, "correction undone", {"uuid": row.uuid, "by": principal.name}, at=now)
    _tell(conn, principal, held, now, f"correction {number} undone")


def take_back(conn: Connection, number: int, now: float, by: str) -> None:
    """Let a correction no longer hold."""
    t, s = tables.correction, tables.correction_study
    conn.execute(update(t).where(t.c.id == number).values(undone_at=now, undone_by=by))
    for uid in conn.execute(select(s.c.study_instance_uid).where(s.c.correction_id == number)).scalars().all():
        identity.redress(conn, uid)


def _carry(conn: Connection, study_instance_uid: str, was: Changes, now_is: Changes, now: float) -> None:
    """Let the study's Workitems, which repeat who the patient is, say the same; those that said otherwise stay so."""
    t = schema.workitem
    items = select(t.c.uid, t.c.attributes).where(t.c.study_instance_uid == study_instance_uid)
    for item in conn.execute(items.with_for_update() if conn.dialect.name == "postgresql" else items).all():
        held = orjson.loads(item.attributes)
        new = dict(held)
        for tag in ups_task.PATIENT_TAGS:
            if tag in now_is and held.get(tag) == was.get(tag):
                new[tag] = now_is[tag]
        new = {tag: entry for tag, entry in sorted(new.items()) if entry is not None}
        if new != held:
            changed = {
                "attributes": orjson.dumps(new),
                "patient_id": json_model.text(new, "00100020"),
                "updated_at": now,
                "revision": t.c.revision + 1,
            }
            conn.execute(update(t).where(t.c.uid == item.uid).values(**changed))


def _tell(conn: Connection, principal: Principal, studies: Sequence[Found], now: float, detail: str) -> None:
    uids_ = [(study.study_instance_uid, study.scope) for study in studies]
    audit.record_all(
        conn,
        [
            audit.row("Patient Record", principal, "success", now, study_instance_uid=uid, detail=detail)
            for uid, _ in uids_
        ]
        or [audit.row("Patient Record", principal, "success", now, detail=detail)],
    )
    changes.append_all(
        conn,
        [
            changes.row("corrected", at=now, principal=principal.name, scope=scope, study_instance_uid=uid)
            for uid, scope in uids_
        ],
    )


def _visible(conn: Connection, principal: Principal, number: int, *, lock: bool = False) -> Found:
    t = tables.correction
    wanted = select(t).where(t.c.id == number)
    if principal.scope:
        wanted = wanted.where(t.c.scope == principal.scope)
    if lock and conn.dialect.name == "postgresql":
        wanted = wanted.with_for_update()
    found = conn.execute(wanted).first()
    if found is None:
        raise NotFound("no such correction", about=str(number))
    return found


def _study(conn: Connection, principal: Principal, uid: str) -> Found:
    found = identity.locked(conn, uid)
    if found is None or (principal.scope and found.scope != principal.scope):
        raise NotFound("no such study is stored here", about=uid)
    return found


def _of_patient(conn: Connection, principal: Principal, patient_id: Any, issuer: Any) -> list[Found]:
    t = schema.study
    wanted = select(t).where(t.c.patient_id == patient_id).order_by(t.c.id).limit(MAX_STUDIES + 1)
    if issuer is not None:
        wanted = wanted.where(t.c.issuer_of_patient_id == issuer)
    if principal.scope:
        wanted = wanted.where(t.c.scope == principal.scope)
    found = list(conn.execute(wanted.with_for_update() if conn.dialect.name == "postgresql" else wanted).all())
    if not found:
        raise NotFound("no study of this patient is stored here")
    if len(found) > MAX_STUDIES:
        raise InvalidInput(f"more than {MAX_STUDIES} studies are of this patient")
    if issuer is None and len({study.issuer_of_patient_id for study in found}) > 1:
        raise Conflict("several issuers have given this Patient ID: say which one is meant")
    return found


def _patient(conn: Connection, principal: Principal, request: Request, *, known: bool) -> Changes:
    """What a study takes over from the patient it is given to: the newest study of that patient says it."""
    wanted_id, issuer = fold("LO", request.into_patient_id), fold("LO", request.into_issuer)
    try:
        held = identity.attributes(_of_patient(conn, principal, wanted_id, issuer)[-1])
    except NotFound:
        if request.kind == "merge" or not known:
            raise
        held = {"00100020": {"vr": "LO", "Value": [request.into_patient_id]}}
        if request.into_issuer:
            held["00100021"] = {"vr": "LO", "Value": [request.into_issuer]}
    vrs = {tag: row.vr for tag in _PATIENT if (row := by_tag(tag)) is not None}
    return {tag: held.get(tag) or ({"vr": vrs[tag]} if tag in _TYPE_2 else None) for tag in _PATIENT}


def _differs(study: Found, given: Changes) -> bool:
    held = identity.attributes(study)
    return any(held.get(tag) != entry and (held.get(tag) or entry) for tag, entry in given.items())


def _described(row: Found) -> dict[str, Any]:
    return {
        "id": row.id,
        "kind": row.kind,
        "changes": spoken(orjson.loads(row.changes)),
        "principal": row.principal,
        "reason": row.reason,
        "at": row.at,
        "undone_at": row.undone_at,
        "undone_by": row.undone_by,
    }


def _of_uuid(conn: Connection, uuid_: str) -> int | None:
    found = conn.execute(select(tables.correction.c.id).where(tables.correction.c.uuid == uuid_)).scalar()
    return None if found is None else int(found)


def _replay_correction(conn: Connection, record: journal.Record) -> None:
    facts = dict(record.facts)
    studies = facts.pop("studies")
    if _of_uuid(conn, facts["uuid"]) is None:
        enter(conn, facts | {"changes": orjson.dumps(facts["changes"])}, studies)


def _replay_joined(conn: Connection, record: journal.Record) -> None:
    number, uid = _of_uuid(conn, record.facts["uuid"]), record.facts["study_instance_uid"]
    t = tables.correction_study
    there = select(t.c.id).where(t.c.correction_id == number, t.c.study_instance_uid == uid)
    if number is not None and conn.execute(there).first() is None:
        identity.join(conn, number, uid, record.facts["before"])
        identity.redress(conn, uid)


def _replay_undone(conn: Connection, record: journal.Record) -> None:
    number = _of_uuid(conn, record.facts["uuid"])
    if number is not None:
        take_back(conn, number, record.at, record.facts["by"])


REPLAY = {
    "correction": _replay_correction,
    "correction joined": _replay_joined,
    "correction undone": _replay_undone,
}
"""What each record of ours in the journal does to an index that is made again."""
