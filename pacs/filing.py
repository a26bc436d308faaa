"""Instances entering the index: study, series and instance rows made or brought up to date, in one transaction."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import Connection, Select, Table, bindparam, insert, select, update

from pacs import identity
from pacs.dicom import json_model
from pacs.dicom.attributes import Level
from pacs.dicom.scanner import Scan
from pacs.errors import Conflict, DuplicateInstance
from pacs.index import corrections, rows, schema
from pacs.index.engine import Index
from pacs.index.statement import Found, Statement
from pacs.storage.arrival import Arrival
from pacs.storage.base import Locator


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


def _insert(table: Table) -> Statement:
    """A full row in; its key comes back."""
    names = [column.name for column in table.columns if column.name != "id"]
    return Statement(insert(table).returning(*table.primary_key.columns), names)


def _select(wanted: Select[*tuple[Any, ...]]) -> tuple[Statement, Statement]:
    """The same without and with a lock on the row."""
    return Statement(wanted), Statement(wanted.with_for_update())


_s, _r, _i = schema.study.c, schema.series.c, schema.instance.c
_HELD = Statement(
    select(_i.digest, _i.object_key, _i.object_offset, _i.object_length, _s.scope)
    .join_from(schema.instance, schema.study, _s.id == _i.study_key)
    .where(_i.sop_instance_uid == bindparam("uid"))
)
_STUDY = _select(
    select(_s.id, _s.scope, _s.row, _s.number_of_series, _s.number_of_instances).where(
        _s.study_instance_uid == bindparam("uid")
    )
)
_SERIES = Statement(
    select(_r.id, _r.row, _r.number_of_instances).where(
        _r.study_key == bindparam("study"), _r.series_instance_uid == bindparam("uid")
    )
)
_INSERT_STUDY, _INSERT_SERIES = _insert(schema.study), _insert(schema.series)
_INSERT_INSTANCE = _insert(schema.instance)
_INSERT_METADATA, _INSERT_LAYOUT = (
    Statement(insert(table), table.columns.keys()) for table in (schema.instance_metadata, schema.instance_layout)
)
_COUNT_SERIES = Statement(
    update(schema.series)
    .where(_r.id == bindparam("key"))
    .values(row=bindparam("row_"), number_of_instances=bindparam("instances"))
)
_count_study = update(schema.study).where(_s.id == bindparam("key"))
_COUNTS: dict[str, Any] = {
    "row": bindparam("row_"),
    "number_of_series": bindparam("series"),
    "number_of_instances": bindparam("instances"),
}
_COUNT_STUDY = Statement(_count_study.values(**_COUNTS))
# Our own results neither delay nor reopen a study; whatever else arrives does.
_COUNT_UNSTABLE = Statement(
    _count_study.values(**_COUNTS, last_instance_at=bindparam("at"), stable_at=None, fingerprint=None)
)


def held(index: Index, sop_instance_uid: str) -> Found | None:
    """Digest, place and access scope of the instance under this UID, if one is here."""
    found = index.fetch(_HELD, {"uid": sop_instance_uid})
    return found[0] if found else None


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
    found = _HELD.first(conn, {"uid": scan.sop_instance_uid})
    if found is not None:
        _allowed(entry, found.scope)
        is_same(found, entry.digest, scan.sop_instance_uid)
        return None
    study = _study(conn, entry)
    series = _series(conn, entry, study.id)
    _instance(conn, entry, study.id, series.id)
    _count_up_series(conn, entry, series)
    _count_up_study(conn, entry, study, new_series=series.number_of_instances == 0)
    scope: str = study.scope
    return scope


def _allowed(entry: Entry, scope: str) -> None:
    if entry.arrival.scope and entry.arrival.scope != scope:
        raise Conflict("the study belongs to another access scope", about=entry.scan.study_instance_uid)


def _study(conn: Connection, entry: Entry) -> Found:
    scan, arrival = entry.scan, entry.arrival
    wanted = _STUDY[conn.dialect.name == "postgresql"]
    found = wanted.first(conn, {"uid": scan.study_instance_uid})
    if found is not None:
        _allowed(entry, found.scope)
        return found
    levels = (Level.PATIENT, Level.STUDY)
    made: dict[str, Any] = {
        **rows.columns(scan.metadata, *levels),
        "study_instance_uid": scan.study_instance_uid,
        "scope": arrival.scope,
        "principal": arrival.principal,
        "number_of_series": 0,
        "number_of_instances": 0,
        "row": rows.study_row(rows.defaults(scan.metadata, *levels), scan.study_instance_uid, [], [], (0, 0)),
        "extra": rows.others(scan.metadata, *levels),
        "created_at": arrival.at,
        "last_instance_at": None,
        "stable_at": None,
        "fingerprint": None,
    }
    _INSERT_STUDY.all(conn, made)
    if corrections.concerns(conn, scan.study_instance_uid, made["patient_id"]):
        identity.begin(conn, scan.study_instance_uid, arrival.at)
    (study,) = wanted.all(conn, {"uid": scan.study_instance_uid})
    return study


def _series(conn: Connection, entry: Entry, study_key: int) -> Found:
    scan = entry.scan
    which = {"study": study_key, "uid": scan.series_instance_uid}
    found = _SERIES.first(conn, which)
    if found is not None:
        return found
    attributes = rows.defaults(scan.metadata, Level.SERIES)
    made = {
        **rows.columns(scan.metadata, Level.SERIES),
        "study_key": study_key,
        "series_instance_uid": scan.series_instance_uid,
        "number_of_instances": 0,
        "row": rows.series_row(attributes, scan.study_instance_uid, scan.series_instance_uid, 0),
        "extra": rows.others(scan.metadata, Level.SERIES),
        "created_at": entry.arrival.at,
    }
    _INSERT_SERIES.all(conn, made)
    (series,) = _SERIES.all(conn, which)
    if requests := rows.request_columns(scan.metadata):
        conn.execute(insert(schema.series_request), [{"series_key": series.id, **request} for request in requests])
    return series


def _instance(conn: Connection, entry: Entry, study_key: int, series_key: int) -> None:
    scan, arrival = entry.scan, entry.arrival
    made = {
        **entry.columns,
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
    ((key,),) = _INSERT_INSTANCE.all(conn, made)
    _INSERT_METADATA.all(conn, {"instance_key": key, "json": entry.json})
    _INSERT_LAYOUT.all(conn, {"instance_key": key, "frames": entry.frames, "bulk": entry.bulk})


def _count_up_series(conn: Connection, entry: Entry, series: Found) -> None:
    scan = entry.scan
    count = series.number_of_instances + 1
    row = rows.series_row(rows.loads(series.row), scan.study_instance_uid, scan.series_instance_uid, count)
    _COUNT_SERIES.all(conn, {"key": series.id, "row_": row, "instances": count})


def _count_up_study(conn: Connection, entry: Entry, study: Found, *, new_series: bool) -> None:
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
    changed = {
        "key": study.id,
        "row_": rows.study_row(attributes, scan.study_instance_uid, modalities, classes, counts),
        "series": counts[0],
        "instances": counts[1],
    }
    if entry.arrival.result_of is None:
        _COUNT_UNSTABLE.all(conn, {**changed, "at": entry.arrival.at})
    else:
        _COUNT_STUDY.all(conn, changed)
