"""Instances entering the index: study, series and instance rows made or brought up to date, in one transaction."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import Connection, Row, Select, insert, select, update

from pacs.dicom import json_model
from pacs.dicom.attributes import Level
from pacs.dicom.scanner import Scan
from pacs.errors import Conflict, DuplicateInstance
from pacs.index import rows, schema
from pacs.storage.arrival import Arrival
from pacs.storage.base import Locator

Found = Row[*tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Entry:
    """One instance ready to be filed: what its rows will hold."""

    scan: Scan
    transfer_syntax_uid: str
    digest: str
    locator: Locator
    dataset_offset: int
    arrival: Arrival
    columns: dict[str, Any] = field(init=False)
    row: bytes = field(init=False)
    json: bytes = field(init=False)
    frames: bytes | None = field(init=False)
    bulk: bytes = field(init=False)

    def __post_init__(self) -> None:
        """The costly part, done before the transaction begins."""
        s = self.scan
        made = {
            "columns": rows.columns(s.metadata, Level.IMAGE),
            "row": rows.instance_row(
                s.metadata, s.study_instance_uid, s.series_instance_uid, s.sop_instance_uid, self.transfer_syntax_uid
            ),
            "json": zlib.compress(s.metadata_json(), 1),
            "frames": None if s.frames is None else s.frames.to_bytes(),
            "bulk": orjson.dumps([(b.path, b.vr, b.offset, b.length) for b in s.bulk]),
        }
        for name, made_value in made.items():
            object.__setattr__(self, name, made_value)


def held(conn: Connection, sop_instance_uid: str) -> Found | None:
    """Digest, scope and object key of the instance under this UID, if one is here."""
    t, s = schema.instance.c, schema.study.c
    wanted = (
        select(t.digest, s.scope, s.study_instance_uid, t.object_key)
        .join_from(schema.instance, schema.study, s.id == t.study_key)
        .where(t.sop_instance_uid == sop_instance_uid)
    )
    return conn.execute(wanted).first()


def is_same(found: Found, entry_digest: str, sop_instance_uid: str) -> bool:
    """True when the very same content is held; raises DuplicateInstance when it is other content."""
    if found.digest == entry_digest:
        return True
    raise DuplicateInstance(
        "other content is stored under this SOP Instance UID; the first stays", about=sop_instance_uid
    )


def file(conn: Connection, entry: Entry) -> str | None:
    """The access scope of the study that the new instance is now part of, or None when the very same was here.

    Raises DuplicateInstance for other content under the same UID, Conflict for a study of another access scope.
    """
    scan = entry.scan
    found = held(conn, scan.sop_instance_uid)
    if found is not None:
        _allowed(entry, found.scope)
        is_same(found, entry.digest, scan.sop_instance_uid)
        return None
    study = _study(conn, entry)
    series = _series(conn, entry, study.id)
    _instance(conn, entry, study.id, series.id)
    _count_series(conn, entry, series)
    _count_study(conn, entry, study, new_series=series.number_of_instances == 0)
    scope: str = study.scope
    return scope


def _allowed(entry: Entry, scope: str) -> None:
    if entry.arrival.scope and entry.arrival.scope != scope:
        raise Conflict("the study belongs to another access scope", about=entry.scan.study_instance_uid)


def _locked(conn: Connection, wanted: Select[*tuple[Any, ...]]) -> Found | None:
    return conn.execute(wanted.with_for_update() if conn.dialect.name == "postgresql" else wanted).first()


def _study(conn: Connection, entry: Entry) -> Found:
    t = schema.study.c
    scan, arrival = entry.scan, entry.arrival
    wanted = select(
        t.id, t.scope, t.row, t.number_of_series, t.number_of_instances, t.last_instance_at, t.stable_at
    ).where(t.study_instance_uid == scan.study_instance_uid)
    found = _locked(conn, wanted)
    if found is not None:
        _allowed(entry, found.scope)
        return found
    levels = (Level.PATIENT, Level.STUDY)
    conn.execute(
        insert(schema.study).values(
            **rows.columns(scan.metadata, *levels)
            | {
                "study_instance_uid": scan.study_instance_uid,
                "scope": arrival.scope,
                "principal": arrival.principal,
                "number_of_series": 0,
                "number_of_instances": 0,
                "row": rows.study_row(rows.defaults(scan.metadata, *levels), scan.study_instance_uid, [], [], (0, 0)),
                "extra": rows.others(scan.metadata, *levels),
                "created_at": arrival.at,
            }
        )
    )
    made = _locked(conn, wanted)
    assert made is not None
    return made


def _series(conn: Connection, entry: Entry, study_key: int) -> Found:
    t = schema.series.c
    scan = entry.scan
    wanted = select(t.id, t.row, t.number_of_instances).where(
        t.study_key == study_key, t.series_instance_uid == scan.series_instance_uid
    )
    found = conn.execute(wanted).first()
    if found is not None:
        return found
    attributes = rows.defaults(scan.metadata, Level.SERIES)
    conn.execute(
        insert(schema.series).values(
            **rows.columns(scan.metadata, Level.SERIES)
            | {
                "study_key": study_key,
                "series_instance_uid": scan.series_instance_uid,
                "number_of_instances": 0,
                "row": rows.series_row(attributes, scan.study_instance_uid, scan.series_instance_uid, 0),
                "extra": rows.others(scan.metadata, Level.SERIES),
                "created_at": entry.arrival.at,
            }
        )
    )
    made = conn.execute(wanted).one()
    if requests := rows.request_columns(scan.metadata):
        conn.execute(insert(schema.series_request), [{"series_key": made.id, **request} for request in requests])
    return made


def _instance(conn: Connection, entry: Entry, study_key: int, series_key: int) -> None:
    scan, arrival = entry.scan, entry.arrival
    made = conn.execute(
        insert(schema.instance).values(
            **entry.columns
            | {
                "study_key": study_key,
                "series_key": series_key,
                "sop_instance_uid": scan.sop_instance_uid,
                "sop_class_uid": scan.sop_class_uid,
                "transfer_syntax_uid": entry.transfer_syntax_uid,
                "row": entry.row,
                "digest": entry.digest,
                "object_key": entry.locator.object_key,
                "object_offset": entry.locator.offset,
                "object_length": entry.locator.length,
                "dataset_offset": entry.dataset_offset,
                "principal": arrival.principal,
                "source_ae": arrival.source_ae,
                "result_of": arrival.result_of,
                "created_at": arrival.at,
            }
        )
    ).inserted_primary_key
    assert made is not None
    conn.execute(insert(schema.instance_metadata).values(instance_key=made[0], json=entry.json))
    conn.execute(insert(schema.instance_layout).values(instance_key=made[0], frames=entry.frames, bulk=entry.bulk))


def _count_series(conn: Connection, entry: Entry, series: Found) -> None:
    t = schema.series
    scan = entry.scan
    count = series.number_of_instances + 1
    row = rows.series_row(rows.loads(series.row), scan.study_instance_uid, scan.series_instance_uid, count)
    conn.execute(update(t).where(t.c.id == series.id).values(row=row, number_of_instances=count))


def _count_study(conn: Connection, entry: Entry, study: Found, *, new_series: bool) -> None:
    t = schema.study
    scan = entry.scan
    attributes = rows.loads(study.row)
    modalities = json_model.texts(attributes, "00080061")
    classes = json_model.texts(attributes, "00080062")
    modality = json_model.text(scan.metadata, "00080060")
    if new_series and modality and modality not in modalities:
        modalities.append(modality)
    if scan.sop_class_uid not in classes:
        classes.append(scan.sop_class_uid)
    counts = (study.number_of_series + new_series, study.number_of_instances + 1)
    changed: dict[str, Any] = {
        "row": rows.study_row(attributes, scan.study_instance_uid, modalities, classes, counts),
        "number_of_series": counts[0],
        "number_of_instances": counts[1],
    }
    if entry.arrival.result_of is None:  # our own results neither delay nor reopen a study
        changed |= {"last_instance_at": entry.arrival.at, "stable_at": None, "fingerprint": None}
    conn.execute(update(t).where(t.c.id == study.id).values(**changed))
