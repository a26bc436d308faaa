"""Instances entering the index: study, series and instance rows made or brought up to date, in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from functools import cache, partial
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, Dialect, Table, bindparam, insert, select, update

from pacs import identity, packing, recount
from pacs.dicom import json_model
from pacs.dicom.attributes import Level
from pacs.dicom.scanner import Scan
from pacs.errors import Conflict, DuplicateInstance
from pacs.index import corrections, joining, rows, schema
from pacs.index.engine import Index
from pacs.index.statement import Found, Statement
from pacs.storage.arrival import Arrival
from pacs.storage.base import Locator

Patient = tuple[str | None, str | None]


@dataclass(slots=True)
class Before:
    """What a thread has filed before: of an instance like the last one little is new."""

    folded: rows.Folded = field(default_factory=dict)
    written: rows.Written = field(default_factory=dict)
    packed: packing.Packer = field(default_factory=packing.packer)
    patient: tuple[Any, Any, Patient] = (None, None, (None, None))
    """Patient ID and its issuer, as they were written and folded."""

    def patient_of(self, metadata: rows.Metadata) -> Patient:
        """Patient ID and its issuer, folded as in the index."""
        written, issued = metadata.get("00100020"), metadata.get("00100021")
        if self.patient[0] is not written or self.patient[1] is not issued:
            number, issuer = (rows.folded("LO", json_model.text(metadata, tag)) for tag in ("00100020", "00100021"))
            self.patient = written, issued, (str(number) if number else None, str(issuer) if issuer else None)
        return self.patient[2]


@dataclass(frozen=True, slots=True)
class Entry:
    """One instance ready to be filed: what its rows will hold."""

    scan: Scan
    transfer_syntax_uid: str
    digest: str
    locator: Locator
    dataset_offset: int
    arrival: Arrival
    before: InitVar[Before | None] = None
    columns: dict[str, Any] = field(init=False)
    patient: Patient = field(init=False)
    """Patient ID and its issuer, folded as in the index."""
    row: bytes = field(init=False)
    json: bytes = field(init=False)
    frames: bytes | None = field(init=False)
    bulk: bytes = field(init=False)

    def __post_init__(self, before: Before | None) -> None:
        """The costly part, done before the transaction begins."""
        before = before or Before()
        s, made = self.scan, partial(object.__setattr__, self)
        made("columns", rows.columns(s.metadata, Level.IMAGE, before=before.folded))
        made("patient", before.patient_of(s.metadata))
        made(
            "row",
            rows.instance_row(
                s.metadata,
                s.study_instance_uid,
                s.series_instance_uid,
                s.sop_instance_uid,
                self.transfer_syntax_uid,
                before.written,
            ),
        )
        made("json", before.packed(s.metadata_json()))
        made("frames", None if s.frames is None else s.frames.to_bytes())
        made("bulk", orjson.dumps([(b.path, b.vr, b.offset, b.length) for b in s.bulk]))


MAX_KEYS = 1024
"""So many series are remembered by their keys."""


class Known(NamedTuple):
    """What a series was found to be part of: the keys of its study and itself, access scope and patient."""

    study: int
    series: int
    scope: str
    patient: Patient


Keys = dict[str, Known]
"""By Series Instance UID, as it was the last time. A hint, never trusted."""


def remember(keys: Keys, series_instance_uid: str, known: Known) -> None:
    """Keep what is known of a series, of at most `MAX_KEYS`."""
    if len(keys) >= MAX_KEYS:
        keys.clear()
    keys[series_instance_uid] = known


class _Insert:
    """A full row in; its key comes back."""

    def __init__(self, table: Table) -> None:
        names = [column.name for column in table.columns if column.name != "id"]
        self._sqlite = Statement(insert(table).inline(), names)  # RETURNING would cost it half as much again
        self._postgresql = Statement(insert(table).returning(*table.primary_key.columns), names)

    def __call__(self, conn: Connection, values: dict[str, Any]) -> int:
        return (self._sqlite if conn.dialect.name == "sqlite" else self._postgresql).key(conn, values)


_s, _r, _i = schema.study.c, schema.series.c, schema.instance.c
_HELD = Statement(
    select(_i.digest, _i.object_key, _i.object_offset, _i.object_length, _s.scope)
    .join_from(schema.instance, schema.study, _s.id == _i.study_key)
    .where(_i.sop_instance_uid == bindparam("uid"))
)
_LOCK = Statement(select(_s.id).where(_s.study_instance_uid == bindparam("study")).with_for_update())
_ELSEWHERE = Statement(select(_r.id).where(_r.series_instance_uid == bindparam("uid")).limit(1))
_INSERT_STUDY, _INSERT_SERIES, _INSERT_INSTANCE = map(_Insert, (schema.study, schema.series, schema.instance))


@cache
def _insert_study_unless_there() -> Statement:
    """For PostgreSQL, where others may insert it at the same time: it waits for them, and returns nothing if so."""
    from sqlalchemy.dialects.postgresql import insert as insert_into  # no other database has to load it

    new = insert_into(schema.study).on_conflict_do_nothing(index_elements=[_s.study_instance_uid]).returning(_s.id)
    return Statement(new, [column.name for column in schema.study.columns if column.name != "id"])


_INSERT_METADATA = Statement(insert(schema.instance_metadata), schema.instance_metadata.columns.keys())
_COUNT_SERIES = Statement(
    update(schema.series)
    .where(_r.id == bindparam("key"))
    .values(row=bindparam("row_"), number_of_instances=bindparam("instances"))
)
_counted = update(schema.study).where(_s.id == bindparam("key")).values(
    row=bindparam("row_"),
    number_of_series=bindparam("series"),
    number_of_instances=bindparam("instances"),
    last_instance_at=bindparam("last"),
)  # fmt: skip
_COUNT_STUDY = Statement(_counted)
_UNSETTLE = Statement(_counted.values(stable_at=None, fingerprint=None))
"""The same for a study that was stable: apart, since an index of these columns would be written for each instance."""


@dataclass(frozen=True, slots=True)
class Filed:
    """What became of an entry: now part of a study of this access scope, or `held`, with the row that is there.

    A new one may contradict what is here: its patient is not that of its study, its series is known in another study.
    """

    scope: str
    held: Found | None = None
    other_patient: bool = False
    known_series: bool = False
    buried: bool = True
    """Whether something may have been removed under this UID before."""
    begins: bool = False
    """Whether it is the first of its series."""
    known: Known | None = None
    """What its series is part of, of a new one."""

    @property
    def new(self) -> bool:
        """Whether it has become visible."""
        return self.held is None

    @property
    def odd(self) -> bool:
        """Whether it contradicts what is here."""
        return self.other_patient or self.known_series


def held(index: Index, sop_instance_uid: str) -> Found | None:
    """Digest, place and access scope of the instance under this UID, if one is here."""
    found = index.fetch(_HELD, {"uid": sop_instance_uid})
    return found[0] if found else None


def looked_up(index: Index, scan: Scan) -> Known | None:
    """Study and series of the instance as the index has them; None where its series is not here."""
    which = {"study": scan.study_instance_uid, "series": scan.series_instance_uid, "sop": scan.sop_instance_uid}
    found = index.fetch(joining.HERE, which)
    if not found or found[0].series_id is None:
        return None
    here = found[0]
    return Known(here.id, here.series_id, here.scope, (here.patient_id, here.issuer_of_patient_id))


def is_same(found: Found, entry_digest: str, sop_instance_uid: str) -> bool:
    """True when the very same content is held; raises DuplicateInstance when it is other content."""
    if found.digest == entry_digest:
        return True
    raise DuplicateInstance("other content is held under this UID; the first stays", about=sop_instance_uid)


def file(conn: Connection, entry: Entry) -> str | None:
    """The access scope of the study that the new instance is now part of, or None when the very same was here.

    Raises DuplicateInstance for other content under the same UID, Conflict for a study of another access scope.
    """
    (filed,) = file_all(conn, [entry])
    if filed.held is None:
        return filed.scope
    is_same(filed.held, entry.digest, entry.scan.sop_instance_uid)
    return None


def file_all(conn: Connection, entries: Sequence[Entry]) -> list[Filed]:
    """What became of each entry. Those whose SOP Instance UID is held, whatever the content, leave everything as it is.

    Studies and series are read and written once, however many instances they get. Raises Conflict for a study of
    another access scope, with nothing written of that entry and the ones after it.
    """
    filing = Filing(conn)
    filed = [filing.take(entry) for entry in entries]
    filing.write()
    return filed


Record = Callable[[str], tuple[Mapping[str, Any], Mapping[str, Any]]]
"""From the access scope of a study to the rows of audit and changes that tell of an arrival in it."""


def join(conn: Connection, entry: Entry, record: Record, keys: Keys) -> str | None:
    """The access scope of the study, whose series had others before: the usual case, quick. All is as `Filing` does it.

    None, with nothing written, where anything is not usual: `file_all` knows what to do then. `keys` is the caller's
    memory.
    """
    scan, arrival = entry.scan, entry.arrival
    if conn.dialect.name != "sqlite" or arrival.result_of is not None:
        return None
    driver: Any = conn.connection.driver_connection
    here = _remembered(driver, conn.dialect, scan, keys)
    if here is None:
        return None
    (
        study, scope, row, _, instances, last, stable_at, fingerprint, patient_id, issuer, came,
        series, series_row, series_instances, series_came, held, buried,
    ) = here  # fmt: skip
    if (
        series is None or held is not None or buried is not None
        or stable_at is not None or fingerprint is not None
        or (arrival.scope and arrival.scope != scope)
        or other_patient(entry.patient, (patient_id, issuer))
        or arrival.at < came or arrival.at < series_came
        or not rows.names_classes(row, (scan.sop_class_uid,))
    ):  # fmt: skip
        return None
    audit, change = record(scope)
    in_series, in_study = series_instances + 1, instances + 1
    joining.join(
        driver,
        instance_row(entry, study, series),
        entry.json,
        joining.Counted(series, rows.recounted(series_row, rows.SERIES_INSTANCES, in_series), in_series),
        joining.Counted(study, rows.recounted(row, rows.STUDY_INSTANCES, in_study), in_study),
        arrival.at if last is None else max(last, arrival.at),
        audit,
        change,
    )
    return str(scope)


def _remembered(driver: Any, dialect: Dialect, scan: Scan, keys: Keys) -> tuple[Any, ...] | None:
    """What `joining.HERE` finds, by the keys of the last time where they still are right."""
    series = scan.series_instance_uid
    which: dict[str, Any] = {"study": scan.study_instance_uid, "series": series, "sop": scan.sop_instance_uid}
    known = keys.get(series)
    if known is not None:
        which["study_key"], which["series_key"] = known.study, known.series
        here = joining.STILL_HERE.first_on_driver(driver, dialect, which)
        if here is not None:
            return here
        keys.pop(series, None)
    here = joining.HERE.first_on_driver(driver, dialect, which)
    if here is not None:
        study_key, scope, _, _, _, _, _, _, patient_id, issuer, _, series_key, *_ = here
        if series_key is not None:
            remember(keys, series, Known(study_key, series_key, scope, (patient_id, issuer)))
    return here


@dataclass(slots=True)
class _Series:
    """A series row as it will be."""

    id: int
    row: bytes
    instances: int
    came: float


@dataclass(slots=True)
class _Study:
    """A study row as it will be."""

    id: int
    uid: str
    scope: str
    patient: tuple[str | None, str | None]
    row: bytes
    number_of_series: int
    instances: int
    last: float | None
    stable: bool
    came: float
    series: dict[str, _Series] = field(default_factory=dict)
    modalities: set[str] = field(default_factory=set)
    """Those of new series."""
    classes: set[str] = field(default_factory=set)
    unsettled: bool = False


class Filing:
    """Entries on their way into the index within one transaction: taken one by one, written all at once."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._studies: dict[str, _Study] = {}
        self._taken: dict[str, tuple[Entry, _Study, _Series]] = {}
        self._overtaken: dict[str, set[int]] = {}

    def take(self, entry: Entry) -> Filed:
        """What will become of the entry once it is written. Raises Conflict, and then nothing is taken."""
        scan = entry.scan
        uid = scan.sop_instance_uid
        if uid in self._taken:
            self.write()
        known = self._studies.get(scan.study_instance_uid)
        while True:
            here = self._here(entry)
            if here is None or here.held is not None:
                found = _HELD.first(self._conn, {"uid": uid})
                if found is not None:
                    _allowed(entry, found.scope)
                    return Filed(found.scope, found)
            if here is None and _insert_study(self._conn, entry):
                here = self._here(entry)
            if here is not None:
                break
            # Others were quicker and made the study; maybe they have filed this very instance, or are gone again.
        if known is None:
            _allowed(entry, here.scope)
            known = self._studies[scan.study_instance_uid] = _study(scan.study_instance_uid, here)
        else:
            _allowed(entry, known.scope)
        series, elsewhere = known.series.get(scan.series_instance_uid), False
        begins = series is None and here.series_id is None
        if series is None:
            elsewhere = self._begin_series(entry, known, here)
            series = known.series[scan.series_instance_uid]
        self._taken[uid] = entry, known, series
        buried = here.buried is not None
        place = Known(known.id, series.id, known.scope, known.patient)
        return Filed(known.scope, None, other_patient(entry.patient, known.patient), elsewhere, buried, begins, place)

    def _here(self, entry: Entry) -> Found | None:
        scan = entry.scan
        which = {
            "study": scan.study_instance_uid, "series": scan.series_instance_uid, "sop": scan.sop_instance_uid
        }  # fmt: skip
        to_lock = self._conn.dialect.name == "postgresql" and scan.study_instance_uid not in self._studies
        if to_lock and _LOCK.first(self._conn, which) is None:
            # A study that others make right now is not read unlocked: they may go on to change or remove it.
            return None
        return joining.HERE.first(self._conn, which)

    def write(self) -> None:
        """Make rows of everything taken."""
        if not self._taken:
            return
        made = [(self._instance(*taken), taken[0]) for taken in self._taken.values()]
        _INSERT_METADATA.each(self._conn, [{"instance_key": key, "json": entry.json} for key, entry in made])
        for study in self._studies.values():
            self._count(study)
        self._studies.clear()
        self._taken.clear()
        overtaken, self._overtaken = self._overtaken, {}
        for uid, keys in overtaken.items():
            recount.after_leaving(self._conn, uid, keys)

    def _begin_series(self, entry: Entry, study: _Study, here: Found) -> bool:
        """Have the series among those of its study; whether it is new here and yet known in another study."""
        scan = entry.scan
        uid = scan.series_instance_uid
        if here.series_id is not None:
            study.series[uid] = _Series(here.series_id, here.series_row, here.series_instances, here.series_created_at)
            return False
        elsewhere = _ELSEWHERE.first(self._conn, {"uid": uid}) is not None
        study.series[uid] = _insert_series(self._conn, entry, study.id)
        study.number_of_series += 1
        if modality := json_model.text(scan.metadata, "00080060"):
            study.modalities.add(modality)
        return elsewhere

    def _instance(self, entry: Entry, study: _Study, series: _Series) -> int:
        scan, arrival = entry.scan, entry.arrival
        key = _INSERT_INSTANCE(self._conn, instance_row(entry, study.id, series.id))
        if arrival.at < study.came or arrival.at < series.came:
            # It came first and is filed later. Whoever came first names study and series: the rows do not depend on
            # who won a race, and an index made again from the store has the same.
            self._overtaken.setdefault(study.uid, set()).add(series.id)
        series.instances += 1
        study.instances += 1
        study.classes.add(scan.sop_class_uid)
        if arrival.result_of is None:
            # Our own results neither delay nor reopen a study; whatever else arrives does.
            study.last = arrival.at if study.last is None else max(study.last, arrival.at)
            study.unsettled = study.stable
        return key

    def _count(self, study: _Study) -> None:
        for series in study.series.values():
            row = rows.recounted(series.row, rows.SERIES_INSTANCES, series.instances)
            _COUNT_SERIES.all(self._conn, {"key": series.id, "row_": row, "instances": series.instances})
        if not study.modalities and rows.names_classes(study.row, study.classes):
            row = rows.recounted(study.row, rows.STUDY_SERIES, study.number_of_series)
            row = rows.recounted(row, rows.STUDY_INSTANCES, study.instances)
        else:
            held = rows.loads(study.row)
            modalities, classes = (set(json_model.texts(held, tag)) for tag in ("00080061", rows.SOP_CLASSES))
            row = rows.study_row(
                held, study.uid, list(modalities | study.modalities), list(classes | study.classes),
                (study.number_of_series, study.instances),
            )  # fmt: skip
        changed = {
            "key": study.id, "row_": row, "series": study.number_of_series, "instances": study.instances,
            "last": study.last,
        }  # fmt: skip
        (_UNSETTLE if study.unsettled else _COUNT_STUDY).all(self._conn, changed)


def instance_row(entry: Entry, study_key: int, series_key: int) -> dict[str, Any]:
    """The row of the entry, by the names of the columns, with the keys of its study and series."""
    scan, arrival, locator = entry.scan, entry.arrival, entry.locator
    return {
        **entry.columns,
        "study_key": study_key,
        "series_key": series_key,
        "sop_instance_uid": scan.sop_instance_uid,
        "sop_class_uid": scan.sop_class_uid,
        "transfer_syntax_uid": entry.transfer_syntax_uid,
        "row": entry.row,
        "digest": entry.digest,
        "object_key": locator.object_key,
        "object_offset": locator.offset,
        "object_length": locator.length,
        "dataset_offset": entry.dataset_offset,
        "principal": arrival.principal,
        "source_ae": arrival.source_ae,
        "result_of": arrival.result_of,
        "created_at": arrival.at,
        "bulk": entry.bulk,
        "frames": entry.frames,
    }


def _study(uid: str, found: Found) -> _Study:
    return _Study(
        found.id, uid, found.scope, (found.patient_id, found.issuer_of_patient_id), found.row,
        found.number_of_series, found.number_of_instances, found.last_instance_at,
        found.stable_at is not None or found.fingerprint is not None, found.created_at,
    )  # fmt: skip


def other_patient(here: tuple[str | None, str | None], there: tuple[str | None, str | None]) -> bool:
    """Whether two Patient IDs are of different patients; an issuer that only one of them names tells nothing."""
    return here != there and (here[0] != there[0] or None not in (here[1], there[1]))


def _allowed(entry: Entry, scope: str) -> None:
    if entry.arrival.scope and entry.arrival.scope != scope:
        raise Conflict("the study belongs to another access scope", about=entry.scan.study_instance_uid)


def _insert_study(conn: Connection, entry: Entry) -> bool:
    """Whether a row of the study was made; it is not where others have made one meanwhile."""
    scan, arrival = entry.scan, entry.arrival
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
    if conn.dialect.name == "sqlite":
        _INSERT_STUDY(conn, made)
    elif _insert_study_unless_there().first(conn, made) is None:
        return False
    if corrections.concerns(conn, scan.study_instance_uid, made["patient_id"]):
        identity.begin(conn, scan.study_instance_uid, arrival.at)
    return True


def _insert_series(conn: Connection, entry: Entry, study_key: int) -> _Series:
    scan = entry.scan
    attributes = rows.defaults(scan.metadata, Level.SERIES)
    row = rows.series_row(attributes, scan.study_instance_uid, scan.series_instance_uid, 0)
    made = {
        **rows.columns(scan.metadata, Level.SERIES),
        "study_key": study_key,
        "series_instance_uid": scan.series_instance_uid,
        "number_of_instances": 0,
        "row": row,
        "extra": rows.others(scan.metadata, Level.SERIES),
        "created_at": entry.arrival.at,
    }
    key = _INSERT_SERIES(conn, made)
    if requests := rows.request_columns(scan.metadata):
        conn.execute(insert(schema.series_request), [{"series_key": key, **request} for request in requests])
    return _Series(key, row, 0, entry.arrival.at)
