"""The rows of a study under its corrections: what it was as received, and what every search is to see of it.

All functions work in the transaction of `conn` and lock the study's row first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from sqlalchemy import Connection, delete, insert, select, update

from pacs import audit, journal
from pacs.auth import SYSTEM
from pacs.dicom import json_model, overlay
from pacs.dicom.attributes import TABLE, Level
from pacs.index import changes, rows, schema
from pacs.index import corrections as tables
from pacs.index.statement import Found

LEVELS = (Level.PATIENT, Level.STUDY)
_MODALITIES, _CLASSES = "00080061", "00080062"
_COMPUTED = frozenset(a.tag for a in TABLE if a.computed) | {"0020000D"}
_COLUMNS = tuple(
    column
    for a in TABLE
    if a.level in LEVELS and a.column and not a.computed and "." not in a.tag and a.tag != "0020000D"
    for column in a.columns
)


def locked(conn: Connection, study_instance_uid: str) -> Found | None:
    """The study's row, held until the end of the transaction; None where there is none."""
    wanted = select(schema.study).where(schema.study.c.study_instance_uid == study_instance_uid)
    return conn.execute(wanted.with_for_update() if conn.dialect.name == "postgresql" else wanted).first()


def attributes(study: Found) -> dict[str, Any]:
    """What the row holds of patient and study level, as DICOM JSON, without what the archive computes."""
    held = rows.loads(study.row) | rows.loads(study.extra)
    return {tag: entry for tag, entry in held.items() if tag not in _COMPUTED}


def peel(conn: Connection, study_instance_uid: str) -> None:
    """Give the study's rows what was received, until `dress` is called: for changes below the corrections."""
    held = _corrected(conn, study_instance_uid)
    study = None if held is None else locked(conn, study_instance_uid)
    if held is None or study is None:
        return
    base = orjson.loads(held.base)
    _write(conn, study, base["columns"], base["row"], orjson.dumps(base["extra"]))


def dress(conn: Connection, study_instance_uid: str) -> None:
    """Give the rows of a study that holds what was received what its corrections say; without any, forget these."""
    gone = delete(tables.corrected_study).where(tables.corrected_study.c.study_instance_uid == study_instance_uid)
    conn.execute(gone)
    active = tables.active(conn, study_instance_uid)
    study = locked(conn, study_instance_uid)
    if study is None or not active:
        return
    revisions = [
        overlay.Revision(each.id, each.at, f"M3DICOM {each.principal}"[:64], orjson.loads(each.changes))
        for each in active
    ]
    received = attributes(study)
    base = {
        "columns": {name: getattr(study, name) for name in _COLUMNS},
        "row": {tag: entry for tag, entry in rows.loads(study.row).items() if tag not in _COMPUTED},
        "extra": rows.loads(study.extra),
    }
    conn.execute(
        insert(tables.corrected_study).values(
            study_instance_uid=study_instance_uid, overlay=overlay.dumps(revisions), base=orjson.dumps(base)
        )
    )
    changed = overlay.merged(revisions)
    now = {tag: entry for tag, entry in (received | changed).items() if entry is not None}
    named = {name for a in TABLE if a.tag in changed for name in a.columns}
    columns = {name: value for name, value in rows.columns(now, *LEVELS).items() if name in named}
    _write(conn, study, base["columns"] | columns, rows.defaults(now, *LEVELS), rows.others(now, *LEVELS))


def redress(conn: Connection, study_instance_uid: str) -> None:
    """Bring the study's rows in line with the corrections that hold for it now."""
    peel(conn, study_instance_uid)
    dress(conn, study_instance_uid)


def _corrected(conn: Connection, study_instance_uid: str) -> Found | None:
    t = tables.corrected_study
    return conn.execute(select(t).where(t.c.study_instance_uid == study_instance_uid)).first()


def _write(conn: Connection, study: Found, columns: dict[str, Any], attributes: dict[str, Any], extra: bytes) -> None:
    held = rows.loads(study.row)  # what is computed may have gone on since
    row = rows.study_row(
        dict(attributes), study.study_instance_uid, json_model.texts(held, _MODALITIES),
        json_model.texts(held, _CLASSES), (study.number_of_series, study.number_of_instances),
    )  # fmt: skip
    t = schema.study
    conn.execute(update(t).where(t.c.id == study.id).values(**columns, row=row, extra=extra))


def begin(conn: Connection, study_instance_uid: str, at: float) -> None:
    """Let a study that is new here (again) take part in its corrections, and in the merges of its patient."""
    joined = []
    dress(conn, study_instance_uid)
    while (study := locked(conn, study_instance_uid)) is not None and study.patient_id is not None:
        ids = tables.merges_of(conn, study.patient_id, study.issuer_of_patient_id, study.scope)
        t = tables.correction_study
        mine = set(
            conn.execute(select(t.c.correction_id).where(t.c.study_instance_uid == study_instance_uid)).scalars()
        )
        new = [number for number in ids if number not in mine]
        if not new:
            break
        t_ = tables.correction.c
        one = conn.execute(select(t_.uuid, t_.changes).where(t_.id == new[0])).one()
        was = before(study, orjson.loads(one.changes))
        join(conn, new[0], study_instance_uid, was)
        redress(conn, study_instance_uid)
        facts = {"uuid": one.uuid, "study_instance_uid": study_instance_uid, "before": was}
        journal.record(conn, "correction joined", facts, at=at)
        joined.append(new[0])
    if not joined:
        return
    detail = f"corrections {', '.join(map(str, joined))}"
    told = audit.row("Patient Record", SYSTEM, "success", at, study_instance_uid=study_instance_uid, detail=detail)
    audit.record_all(conn, [told])
    scope = "" if study is None else study.scope
    news = changes.row("corrected", at=at, principal=SYSTEM.name, scope=scope, study_instance_uid=study_instance_uid)
    changes.append_all(conn, [news])


def before(study: Found, changes_: Mapping[str, Any]) -> dict[str, Any]:
    """What the study's attributes are that a correction changes, None for one that is absent."""
    held = attributes(study)
    return {tag: held.get(tag) for tag in changes_}


def join(conn: Connection, correction_id: int, study_instance_uid: str, was: Mapping[str, Any]) -> None:
    """Make a correction hold for a study, whose attributes `was` tells. `redress` comes after."""
    conn.execute(
        insert(tables.correction_study).values(
            correction_id=correction_id, study_instance_uid=study_instance_uid, before=orjson.dumps(was)
        )
    )
