"""Rows of series and studies made true again after instances left them: counts, and who names them.

Of all that is left, the instance that came first names its series and its study: what only one that has left said is
not said any longer, and an index made again from the store says the same. What is left empty goes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update

from pacs import identity
from pacs.dicom import json_model
from pacs.dicom.attributes import Level
from pacs.index import rows, schema
from pacs.index.statement import Found


def after_leaving(conn: Connection, study_instance_uid: str, series_keys: Iterable[int]) -> bool:
    """Whether the study is still there, once it and those of its series are true again; corrections stay in force."""
    identity.peel(conn, study_instance_uid)
    study = identity.locked(conn, study_instance_uid)
    if study is None:
        return False
    for key in sorted(set(series_keys)):
        _series(conn, key, study_instance_uid)
    there = _study(conn, study)
    identity.dress(conn, study_instance_uid)
    return there


def _series(conn: Connection, key: int, study_instance_uid: str) -> None:
    t, i = schema.series, schema.instance.c
    uid = conn.execute(select(t.c.series_instance_uid).where(t.c.id == key)).scalar()
    if uid is None:
        return
    left = int(conn.execute(select(func.count()).where(i.series_key == key)).scalar_one())
    if not left:
        conn.execute(delete(t).where(t.c.id == key))
        return
    came, metadata = _earliest(conn, i.series_key == key)
    changed = {
        **rows.columns(metadata, Level.SERIES),
        "row": rows.series_row(rows.defaults(metadata, Level.SERIES), study_instance_uid, uid, left),
        "number_of_instances": left,
        "extra": rows.others(metadata, Level.SERIES),
        "created_at": came.created_at,
    }
    conn.execute(update(t).where(t.c.id == key).values(changed))
    requests = schema.series_request
    conn.execute(delete(requests).where(requests.c.series_key == key))
    if found := rows.request_columns(metadata):
        conn.execute(insert(requests), [{"series_key": key, **request} for request in found])


def _study(conn: Connection, held: Found) -> bool:
    t, r, i = schema.study, schema.series.c, schema.instance.c
    series = conn.execute(select(r.row, r.number_of_instances).where(r.study_key == held.id)).all()
    if not series:
        conn.execute(delete(t).where(t.c.id == held.id))
        return False
    classes = conn.execute(select(i.sop_class_uid).where(i.study_key == held.id).distinct()).scalars().all()
    modalities = {json_model.text(rows.loads(each.row), "00080060") for each in series}
    counts = (len(series), sum(each.number_of_instances for each in series))
    came, metadata = _earliest(conn, i.study_key == held.id)
    attributes = rows.defaults(metadata, *identity.LEVELS)
    named = [m for m in modalities if m]
    outside = select(func.max(i.created_at)).where(i.study_key == held.id, i.result_of.is_(None)).scalar_subquery()
    changed = {
        **rows.columns(metadata, *identity.LEVELS),
        "row": rows.study_row(attributes, held.study_instance_uid, named, list(classes), counts),
        "number_of_series": counts[0],
        "number_of_instances": counts[1],
        "extra": rows.others(metadata, *identity.LEVELS),
        "principal": came.principal,
        "created_at": came.created_at,
        "last_instance_at": outside,
    }
    conn.execute(update(t).where(t.c.id == held.id).values(changed))
    return True


def _earliest(conn: Connection, which: ColumnElement[bool]) -> tuple[Found, dict[str, Any]]:
    """The instance that came first, with its metadata."""
    i, held = schema.instance.c, schema.instance_metadata.c
    wanted = (
        select(i.created_at, i.principal, held.json)
        .join_from(schema.instance, schema.instance_metadata, held.instance_key == i.id)
        .where(which)
        .order_by(i.created_at, i.sop_instance_uid)
        .limit(1)
    )
    came = conn.execute(wanted).one()
    return came, rows.loads(zlib.decompress(came.json))
