"""The index made again from the object store alone: studies, series, instances, frames, metadata and deletions.

`pacs.rescan` has staged what every object says of itself; here the staged objects are put in the order of their
arrival, those that the journal calls deleted or set aside are left out, and the rows are written study by study. Row
for row they are those of the lost index, keys apart: the earliest arrival names a study and a series.
"""

from __future__ import annotations

import sqlite3
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import orjson
from sqlalchemy import Connection, Table, delete, func, insert, select, update

from pacs import audit, journal, replay, rescan
from pacs.auth import SYSTEM
from pacs.dicom import json_model
from pacs.dicom.attributes import Level
from pacs.errors import Conflict
from pacs.index import changes, damage, rows, schema
from pacs.index.engine import Index
from pacs.index.migrate import HALF_BUILT, is_half_built
from pacs.index.statement import Statement
from pacs.rescan import Progress, Refused, Staging, Tell
from pacs.settings import Settings
from pacs.settle import fingerprint_of
from pacs.storage.arrival import HEAD_BYTES
from pacs.storage.base import Locator, ObjectStore

_AT_ONCE = 1000
_LIGHT = ("stage", "n", "sop", "digest", "study", "series", "sop_class", "at", "scope", "result_of")
_FILED = ("study", "series", "series_request", "instance", "instance_metadata")
_TABLES = tuple(schema.metadata.tables[name] for name in _FILED)
_INSERT = {t.name: Statement(insert(t), t.columns.keys()) for t in _TABLES}
_EMPTY: dict[str, dict[str, Any]] = {t.name: dict.fromkeys(t.columns.keys()) for t in _TABLES}
_CHOOSE = """
CREATE TEMP TABLE ranked AS
    SELECT stage, n, sop, digest, study, series, sop_class, at, scope, result_of, object_key, object_offset,
           object_length,
           ROW_NUMBER() OVER (PARTITION BY sop ORDER BY role IS NULL, at, object_key, object_offset) AS place
    FROM seen JOIN todo USING (n) LEFT JOIN role USING (sop, digest) WHERE coalesce(role, 'live') = 'live';
CREATE TEMP TABLE first AS SELECT study, min(at) AS at FROM ranked WHERE place = 1 GROUP BY study;
CREATE TEMP TABLE chosen AS
    SELECT r.* FROM ranked AS r JOIN first USING (study) WHERE place = 1 ORDER BY first.at, study, r.at, sop;
CREATE TEMP TABLE other AS
    SELECT r.object_key, r.object_offset, r.object_length, r.digest = c.digest AS same
    FROM ranked AS r JOIN ranked AS c ON c.sop = r.sop AND c.place = 1 WHERE r.place > 1;
"""


@dataclass(slots=True)
class Report:
    """What a rebuild made, and every object that is in the store and not in the index, with the reason."""

    studies: int = 0
    series: int = 0
    instances: int = 0
    records: int = 0
    set_aside: int = 0
    copies: int = 0
    refused: list[Refused] = field(default_factory=list)
    gone: list[Locator] = field(default_factory=list)  # deleted, and their bytes are still there
    strange: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Chosen:
    """One staged object that becomes an instance; the heavy part is fetched when it is written."""

    stage: int
    n: int
    sop: str
    digest: str
    study: str
    series: str
    sop_class: str
    at: float
    scope: str
    result_of: str | None
    locator: Locator


def is_empty(index: Index) -> bool:
    """Whether an index has neither instances nor anything else that somebody could miss."""
    with index.read() as conn:
        tables = (schema.instance, schema.study, schema.tombstone, schema.workitem, schema.audit)
        return all(conn.execute(select(func.count()).select_from(table)).scalar_one() == 0 for table in tables)


def rebuild(settings: Settings, store: ObjectStore, index: Index, staging: Staging, *, tell: Tell) -> Report:
    """Fill an empty index from what was staged; what was left there by a rebuild that was cut short goes first.

    Raises Conflict for an index that is not empty.
    """
    with index.read() as conn:
        begun = is_half_built(conn)
    if begun:
        index.transact(_wipe)
    elif not is_empty(index):
        raise Conflict("the index is not empty; nothing was changed")
    index.transact(lambda conn: conn.execute(insert(schema.meta).values(name=HALF_BUILT, value="1")) and None)
    records = list(journal.read(store))
    report = Report(records=len(records))
    plan = staging.open()
    try:
        _choose(plan, replay.roles(records), report)
        _Writing(plan, index, settings, report, tell).run()
    finally:
        plan.close()
    index.transact(lambda conn: _finish(conn, records, report))
    return report


def _wipe(conn: Connection) -> None:
    for table in reversed(schema.metadata.sorted_tables):
        if table is not schema.meta:
            conn.execute(delete(table))
    conn.execute(delete(schema.meta).where(schema.meta.c.name == HALF_BUILT))


def _choose(plan: sqlite3.Connection, roles: replay.Roles, report: Report) -> None:
    """Order what becomes an instance in the table `chosen`; report the rest."""
    plan.execute("CREATE TEMP TABLE role (sop TEXT, digest TEXT, role TEXT, PRIMARY KEY (sop, digest))")
    plan.executemany("INSERT INTO role VALUES (?, ?, ?)", [(*which, role) for which, role in roles.items()])
    plan.executescript(_CHOOSE)
    bad = "SELECT object_key, object_offset, object_length, reason FROM bad JOIN todo USING (n)"
    report.refused += [Refused(Locator(*each[:3]), each[3]) for each in plan.execute(bad)]
    for key, offset, length, same in plan.execute("SELECT * FROM other"):
        report.copies += same
        if not same:
            reason = "other content under a SOP Instance UID that an earlier object has"
            report.refused.append(Refused(Locator(key, offset, length), reason))
    gone = (
        "SELECT object_key, object_offset, object_length FROM seen JOIN todo USING (n) JOIN role USING (sop, digest) "
    )
    report.gone += [Locator(*where) for where in plan.execute(gone + "WHERE role = 'gone'")]
    hidden = "SELECT role, count(*) FROM seen JOIN role USING (sop, digest) GROUP BY role"
    counts = dict(plan.execute(hidden).fetchall())
    report.set_aside = counts.get("aside", 0)


def _finish(conn: Connection, records: Sequence[journal.Record], report: Report) -> None:
    """Deletions and corrections, the journal itself, and the mark that the index is whole."""
    now = time.time()
    journal.adopt(conn, records)
    report.strange = replay.replay(conn, records)
    t = schema.tombstone
    for each in report.gone:  # a crash kept their removal from ending: it is done when a server starts
        here = (t.c.object_key == each.object_key, t.c.object_offset == each.offset, t.c.state == "removed")
        conn.execute(update(t).where(*here).values(state="pending"))
    for refused in report.refused:
        damage.record(conn, {**_place(refused.locator), "kind": "unusable", "reason": refused.reason, "found_at": now})
    if conn.dialect.name == "postgresql":
        for table in (schema.study, schema.series, schema.instance):
            top = select(func.max(table.c.id)).scalar_subquery()
            conn.execute(select(func.setval(func.pg_get_serial_sequence(table.name, "id"), func.coalesce(top, 1))))
    # Whoever reads the feed within the archive goes on from here: what is old news must not be sent or analysed again.
    last = conn.execute(select(func.coalesce(func.max(schema.change.c.seq), 0))).scalar_one()
    conn.execute(insert(schema.meta).values(name=changes.FLOOR, value=str(last)))
    detail = f"{report.instances} instances, {report.records} records, {len(report.refused)} refused"
    audit.record_all(conn, [audit.row("Index Rebuilt", SYSTEM, "success", now, detail=detail)])
    conn.execute(delete(schema.meta).where(schema.meta.c.name == HALF_BUILT))


def _place(locator: Locator) -> dict[str, Any]:
    where = {"object_key": locator.object_key, "object_offset": locator.offset, "object_length": locator.length}
    return {**where, "instance_key": None}


class _Writing:
    """From chosen objects to rows, in batches of one transaction each."""

    def __init__(self, plan: sqlite3.Connection, index: Index, settings: Settings, report: Report, tell: Tell) -> None:
        self._plan = plan
        self._index = index
        self._settings = settings
        self._report = report
        self._tell = tell
        self._now = time.time()
        self._batch: dict[str, list[dict[str, Any]]] = {name: [] for name in (*_FILED, "change")}

    def run(self) -> None:
        """Write everything."""
        total = self._plan.execute("SELECT count(*) FROM chosen").fetchone()[0]
        for study, held in groupby(self._chosen(), key=lambda each: each.study):
            self._study(study, list(held))
            self._tell(Progress(self._report.instances, total))
        self._write()

    def _chosen(self) -> Iterator[_Chosen]:
        wanted = f"SELECT {', '.join(_LIGHT)}, object_key, object_offset, object_length FROM chosen ORDER BY rowid"  # noqa: S608
        for row in self._plan.execute(wanted):
            yield _Chosen(**dict(zip(_LIGHT, row, strict=False)), locator=Locator(*row[len(_LIGHT) :]))

    def _payload(self, some: Sequence[_Chosen]) -> dict[int, sqlite3.Row]:
        found: dict[int, sqlite3.Row] = {}
        for stage in {each.stage for each in some}:
            numbers = [each.n for each in some if each.stage == stage]
            marks = ",".join("?" * len(numbers))
            cursor = self._plan.execute(f"SELECT * FROM s{stage}.object WHERE n IN ({marks})", numbers)  # noqa: S608
            cursor.row_factory = sqlite3.Row
            found |= {row["n"]: row for row in cursor}
        return found

    def _study(self, uid: str, held: list[_Chosen]) -> None:
        report = self._report
        scope = held[0].scope
        for stranger in [each for each in held if each.scope not in ("", scope)]:
            report.refused.append(Refused(stranger.locator, "its study belongs to another access scope"))
            held.remove(stranger)
        report.studies += 1
        study_key = report.studies
        series: dict[str, list[_Chosen]] = {}
        for each in held:
            series.setdefault(each.series, []).append(each)
        modalities: list[str] = []
        keys: dict[str, int] = {}
        for series_uid, members in series.items():
            report.series += 1
            keys[series_uid] = report.series
            modality = self._series(report.series, study_key, members)
            if modality and modality not in modalities:
                modalities.append(modality)
        self._study_row(study_key, held, modalities, len(series))
        for at in range(0, len(held), _AT_ONCE):
            some = held[at : at + _AT_ONCE]
            payload = self._payload(some)
            for each in some:
                report.instances += 1
                self._instance(report.instances, study_key, keys[each.series], each, payload[each.n], scope)
            if len(self._batch["instance"]) >= _AT_ONCE:
                self._write()

    def _naming(self, first: _Chosen) -> tuple[sqlite3.Row, dict[str, Any]]:
        row = self._payload([first])[first.n]
        return row, rescan.metadata_of(zlib.decompress(row["json"]))

    def _study_row(self, key: int, held: Sequence[_Chosen], modalities: list[str], number_of_series: int) -> None:
        came, metadata = self._naming(held[0])
        levels = (Level.PATIENT, Level.STUDY)
        classes = list({each.sop_class for each in held})
        counts = (number_of_series, len(held))
        from_outside = [each.at for each in held if each.result_of is None]
        last = max(from_outside) if from_outside else None
        # A study that has come to rest long ago is not told as stable again.
        stable = last is not None and last <= self._now - self._settings.stable_after_s
        mark = fingerprint_of((each.sop, each.digest) for each in held if each.result_of is None)
        uid = held[0].study
        made = {
            **rows.columns(metadata, *levels),
            "id": key,
            "study_instance_uid": uid,
            "scope": came["scope"],
            "principal": came["principal"],
            "number_of_series": counts[0],
            "number_of_instances": counts[1],
            "row": rows.study_row(rows.defaults(metadata, *levels), uid, modalities, classes, counts),
            "extra": rows.others(metadata, *levels),
            "created_at": came["at"],
            "last_instance_at": last,
            "stable_at": self._now if stable else None,
            "fingerprint": mark if stable else None,
        }
        self._add(schema.study, made)

    def _series(self, key: int, study_key: int, members: Sequence[_Chosen]) -> str | None:
        came, metadata = self._naming(members[0])
        uid, study_uid = members[0].series, members[0].study
        made = {
            **rows.columns(metadata, Level.SERIES),
            "id": key,
            "study_key": study_key,
            "series_instance_uid": uid,
            "number_of_instances": len(members),
            "row": rows.series_row(rows.defaults(metadata, Level.SERIES), study_uid, uid, len(members)),
            "extra": rows.others(metadata, Level.SERIES),
            "created_at": came["at"],
        }
        self._add(schema.series, made)
        for request in rows.request_columns(metadata):
            self._batch["series_request"].append({"series_key": key, **request})
        return json_model.text(metadata, "00080060")

    def _instance(self, key: int, study_key: int, series_key: int, each: _Chosen, row: sqlite3.Row, scope: str) -> None:
        made = {
            **orjson.loads(row["columns"]),
            "id": key,
            "study_key": study_key,
            "series_key": series_key,
            "sop_instance_uid": each.sop,
            "sop_class_uid": each.sop_class,
            "transfer_syntax_uid": row["ts"],
            "row": row["row"],
            "digest": each.digest,
            "object_key": each.locator.object_key,
            "object_offset": each.locator.offset,
            "object_length": each.locator.length,
            "dataset_offset": HEAD_BYTES,
            "principal": row["principal"],
            "source_ae": row["source_ae"],
            "result_of": each.result_of,
            "created_at": each.at,
            "frames": row["frames"],
            "bulk": row["bulk"],
        }
        self._add(schema.instance, made)
        self._add(schema.instance_metadata, {"instance_key": key, "json": row["json"]})
        self._batch["change"].append(
            changes.row(
                "instance" if each.result_of is None else "result", at=each.at, principal=row["principal"], scope=scope,
                study_instance_uid=each.study, series_instance_uid=each.series, sop_instance_uid=each.sop,
                workitem_uid=each.result_of,
            )
        )  # fmt: skip

    def _add(self, table: Table, values: dict[str, Any]) -> None:
        self._batch[table.name].append(_EMPTY[table.name] | values)

    def _write(self) -> None:
        batch, self._batch = self._batch, {name: [] for name in self._batch}

        def work(conn: Connection) -> None:
            for name in _FILED:
                if name == "series_request":
                    if batch[name]:
                        conn.execute(insert(schema.series_request), batch[name])
                else:
                    _INSERT[name].each(conn, batch[name])
            changes.append_all(conn, batch["change"])

        self._index.transact(work)
