"""An instance that C alone joins to its series leaves the rows that Python leaves, whoever else writes."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from ctypes import addressof, byref, c_char, c_uint64, c_void_p, cast
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dicom_data
import pytest
from servers import missing
from sqlalchemy import Connection, insert, select, update

from pacs import filing, ingest, native
from pacs.archive import Archive, open_archive
from pacs.auth import Principal
from pacs.buffers import Memory
from pacs.index import joiner, rows, schema
from pacs.index.engine import Index, open_index
from pacs.native.structures import BLOB, INTEGER, NULL, REAL, TEXT, Joining, Value
from pacs.settings import Settings

JOINED, UNUSUAL, UNWRITTEN, UNJOINED = range(4)
SENDER = Principal("MODALITY", "ae", scope="")
TABLES = (schema.study, schema.series, schema.instance, schema.instance_metadata, schema.audit, schema.change)
OWN = {"object_key", "object_offset"}  # each archive has segments of its own
WAIT_S = 60.0

pytestmark = pytest.mark.usefixtures("library")


@pytest.fixture
def library() -> Any:
    found = native.load()
    if found is None:
        missing("the compiled part (python -m pacs.native.make)")
    return found


def value(held: Any, alive: list[bytes]) -> Value:
    """As SQLite is told it; `alive` keeps what it refers to."""
    match held:
        case None:
            return Value(NULL)
        case float():
            return Value(REAL, real=held)
        case int():
            return Value(INTEGER, integer=held)
    raw = held.encode() if isinstance(held, str) else bytes(held)
    alive.append(raw)  # what is empty may lie nowhere
    return Value(TEXT if isinstance(held, str) else BLOB, len(raw), bytes=cast(raw, c_void_p).value if raw else None)


class Arriving:
    """The arguments of m3_join, from what each parameter is called."""

    def __init__(self, values: Mapping[str, Any], patient: filing.Patient = (None, None), scope: str = "") -> None:
        self.values = dict(values)
        self.patient = patient
        self.scope = scope
        self.write = self.length = 0

    def but(self, **changed: Any) -> Arriving:
        return Arriving({**self.values, **changed}, self.patient, self.scope)

    def join(self, index: Index) -> int:
        found = index.joiner()
        assert found is not None
        v = self.values
        which = {
            "sop": v["i_sop_instance_uid"], "series": v["a_series_instance_uid"], "study": v["a_study_instance_uid"],
            "study_key": v["i_study_key"], "series_key": v["i_series_key"],
        }  # fmt: skip
        alive: list[bytes] = []
        lookup = (Value * len(joiner.LOOKUP))(*(value(which[name], alive) for name in joiner.LOOKUP))
        columns = (Value * len(joiner.COLUMNS))(*(value(v.get(name), alive) for name in joiner.COLUMNS))
        study = [value(each, alive) for each in (self.scope, *self.patient, v["i_sop_class_uid"])]
        at = joiner.COLUMNS.index
        self.told = Joining(
            lookup, len(lookup), columns, len(columns),
            at("series_row"), at("series_instances"), at("study_row"), at("study_instances"), at("last"),
            *study, v["i_created_at"], self.write, self.length,
        )  # fmt: skip
        return int(native.load().m3_join(found.address, byref(self.told)))  # type: ignore[union-attr]


def arriving(entry: filing.Entry, news: tuple[Mapping[str, Any], Mapping[str, Any]], keys: filing.Known) -> Arriving:
    audit, change = news
    return Arriving(
        {f"i_{name}": held for name, held in filing.instance_row(entry, keys.study, keys.series).items()}
        | {f"a_{name}": held for name, held in audit.items()}
        | {f"c_{name}": held for name, held in change.items()}
        | {"json": entry.json, "study": keys.study, "series": keys.series},
        entry.patient,
    )


def table_rows(index: Index) -> dict[str, list[dict[str, Any]]]:
    with index.read() as conn:
        return {
            table.name: [
                {name: held for name, held in row._mapping.items() if name not in OWN}
                for row in conn.execute(select(table).order_by(*table.primary_key.columns))
            ]
            for table in TABLES
        }


def prepared(archive: Archive, ds: Any) -> ingest.Prepared:
    receiving = archive.ingest.receive_part10()
    receiving.write(dicom_data.part10(ds))
    return archive.ingest.prepare(receiving, principal=SENDER, redo=True)


def stored(archive: Archive, ds: Any) -> None:
    receiving = archive.ingest.receive_part10()
    receiving.write(dicom_data.part10(ds))
    archive.ingest.store(receiving, principal=SENDER)


def joined(archive: Archive, ds: Any) -> None:
    """Stored as by `stored`, but for the last step: that is done in C."""
    ready = prepared(archive, ds)
    assert ready.placed is not None
    ready.placed.wait()
    news = ingest._audit_row(ready), ingest._change_row(ready, "")
    arrival = arriving(ready.entry, news, archive.ingest._keys[ready.series_instance_uid])
    assert arrival.join(archive.index) == JOINED
    ready.placed.filed()
    archive.index.joined(1)


def test_c_leaves_the_rows_that_python_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, others = list(dicom_data.series(13)), list(dicom_data.series(3, study=1, PatientID=""))
    odd: list[dict[str, Any]] = [
        {"PatientName": "Ödön^Åke=山田^太郎"}, {"InstanceNumber": None}, {"PixelData": None, "Rows": None},
    ]  # fmt: skip
    here = {"StudyInstanceUID": first[0].StudyInstanceUID, "SeriesInstanceUID": "1.2.3.4"}
    second = [dicom_data.image(70 + n, **here, **each) for n, each in enumerate(({}, *odd))]
    begin, rest = [*first[:2], *second[:2], *others[:2]], [*first[2:], *second[2:], *others[2:]]
    found = []
    for name, way in (("python", stored), ("c", joined)):
        clock = count(1_800_000_000)
        monkeypatch.setattr(ingest, "time", SimpleNamespace(time=lambda clock=clock: next(clock) + 0.1))
        archive = open_archive(Settings(data=tmp_path / name))
        try:
            for ds in begin:
                stored(archive, ds)
            for ds in rest:
                way(archive, ds)
            found.append(table_rows(archive.index))
        finally:
            archive.close()
    assert len(found[0]["instance"]) == len(begin) + len(rest)
    assert found[0] == found[1]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Arriving]:
    """An index of two series of one study with an instance each, and what arrives in the first of them."""
    folder = tmp_path_factory.mktemp("template")
    archive = open_archive(Settings(data=folder, index=f"sqlite:///{folder}/index.db"))
    for ds in (*dicom_data.series(2, number=0), *dicom_data.series(1, number=1)):
        stored(archive, ds)
    third = prepared(archive, list(dicom_data.series(3, number=0))[2])
    assert third.placed is not None
    third.placed.wait()
    news = ingest._audit_row(third), ingest._change_row(third, "")
    arrival = arriving(third.entry, news, archive.ingest._keys[third.series_instance_uid])
    third.placed.withdraw()
    archive.close()
    return folder / "index.db", arrival


@pytest.fixture
def index(template: tuple[Path, Arriving], tmp_path: Path) -> Iterator[Index]:
    opened = copied(template[0], tmp_path)
    yield opened
    opened.close()


def copied(database: Path, folder: Path) -> Index:
    (folder / "index.db").write_bytes(database.read_bytes())
    return open_index(f"sqlite:///{folder}/index.db")


@pytest.fixture
def arrival(template: tuple[Path, Arriving]) -> Arriving:
    return template[1].but()


def set_study(conn: Connection, **values: Any) -> None:
    conn.execute(update(schema.study).values(**values))


def other_class(conn: Connection, uid: bytes) -> None:
    row = conn.execute(select(schema.study.c.row)).scalar_one()
    assert b'"1.2.840.10008.5.1.4.1.1.2"' in row
    set_study(conn, row=row.replace(b"1.2.840.10008.5.1.4.1.1.2", uid))


def buried(conn: Connection, uid: str) -> None:
    held = {c.name: "" for c in schema.tombstone.columns if c.name != "id"} | {"object_offset": 0, "object_length": 0}
    conn.execute(insert(schema.tombstone), {**held, "sop_instance_uid": uid, "at": 0.0})


UNUSUALLY: dict[str, Callable[[Connection, Arriving], Any]] = {
    "held": lambda conn, a: conn.execute(
        update(schema.instance).where(schema.instance.c.id == 3).values(sop_instance_uid=a.values["i_sop_instance_uid"])
    ),
    "buried": lambda conn, a: buried(conn, a.values["i_sop_instance_uid"]),
    "stable": lambda conn, _: set_study(conn, stable_at=1.0),
    "fingerprint": lambda conn, _: set_study(conn, fingerprint="x"),
    "other scope": lambda conn, _: set_study(conn, scope="theirs"),
    "other patient": lambda conn, _: set_study(conn, patient_id="another"),
    "no patient": lambda conn, _: set_study(conn, patient_id=None),
    "issuer told": lambda conn, _: set_study(conn, issuer_of_patient_id="hospital"),
    "study came later": lambda conn, a: set_study(conn, created_at=a.values["i_created_at"] + 1),
    "series came later": lambda conn, a: conn.execute(
        update(schema.series).values(created_at=a.values["i_created_at"] + 1)
    ),
    "class not named": lambda conn, _: other_class(conn, b"1.2.840.10008.5.1.4.1.1.4"),
    "longer class": lambda conn, _: other_class(conn, b"1.2.840.10008.5.1.4.1.1.2.1"),
    "class with more before": lambda conn, _: other_class(conn, b"1.1.2.840.10008.5.1.4.1.1.2"),
    "row without a count": lambda conn, _: set_study(conn, row=b'{"00080062":{"Value":["1.2.840.10008.5.1.4.1.1.2"]}}'),
    "other study": lambda conn, _: set_study(conn, study_instance_uid="1.2.3"),
    "other series": lambda conn, _: conn.execute(
        update(schema.series).where(schema.series.c.id == 1).values(series_instance_uid="1.2.3")
    ),
    "series gone": lambda conn, _: conn.execute(schema.series.delete().where(schema.series.c.id == 1)),
}


@pytest.mark.parametrize("how", UNUSUALLY)
def test_what_is_not_usual_is_left_to_python(index: Index, arrival: Arriving, how: str) -> None:
    index.transact(lambda conn: UNUSUALLY[how](conn, arrival))
    before = table_rows(index)
    assert arrival.join(index) == UNUSUAL
    assert table_rows(index) == before


@pytest.mark.parametrize(("before", "after"), [(None, 0.0), (-1.0, 0.0), (5.0, 5.0)])
def test_the_last_arrival_of_a_study_is_its_latest(
    index: Index, arrival: Arriving, before: float | None, after: float
) -> None:
    at = arrival.values["i_created_at"]
    index.transact(lambda conn: set_study(conn, last_instance_at=None if before is None else at + before))
    assert arrival.join(index) == JOINED
    assert table_rows(index)["study"][0]["last_instance_at"] == at + after


def test_what_sqlite_refuses_leaves_nothing(index: Index, arrival: Arriving) -> None:
    before = table_rows(index)
    assert arrival.but(i_digest=None).join(index) == UNJOINED  # NOT NULL, in the middle of the trigger
    assert arrival.but(a_detail=None).join(index) == UNJOINED  # near its end
    assert table_rows(index) == before
    assert arrival.join(index) == JOINED
    assert [len(table_rows(index)[name]) for name in ("instance", "audit", "change")] == [4, 4, 4]


class Object:
    """A file, and memory that is written to it beside its caller."""

    def __init__(self, path: Path) -> None:
        self.memory = Memory(4096)
        view = memoryview(self.memory.map)[self.memory.start :][:4096]
        view[:] = bytes(range(256)) * 16
        self.from_ = addressof(c_char.from_buffer(view))
        path.touch()
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        except OSError:
            self.fd = os.open(path, os.O_RDWR)
        self.context = c_uint64()
        assert native.load().m3_write_open(byref(self.context)) == 0  # type: ignore[union-attr]

    def begin(self, arrival: Arriving, length: int = 4096) -> None:
        assert native.load().m3_write_begin(self.context, self.fd, self.from_, 4096, 0) == 0  # type: ignore[union-attr]
        arrival.write, arrival.length = self.context.value, length


def test_nothing_is_seen_whose_bytes_could_not_be_written(tmp_path: Path, index: Index, arrival: Arriving) -> None:
    bytes_ = Object(tmp_path / "object")
    before = table_rows(index)
    bytes_.begin(arrival, length=8192)  # as of a disk that takes less
    assert arrival.join(index) == UNWRITTEN
    assert arrival.told.wrote == 4096
    unusual = arrival.but(i_study_key=99)
    for length, outcome in ((8192, UNWRITTEN), (4096, UNUSUAL)):
        bytes_.begin(unusual, length)
        assert unusual.join(index) == outcome
        assert unusual.told.wrote == 4096
    assert table_rows(index) == before
    bytes_.begin(arrival)
    assert arrival.join(index) == JOINED
    assert arrival.told.wrote == 4096
    assert (tmp_path / "object").read_bytes() == bytes(range(256)) * 16
    os.close(bytes_.fd)


def numbered(arrival: Arriving, prefix: str, number: int) -> Arriving:
    """Another one of its kind, in one of the two series."""
    series = number % 2 + 1
    uid = f"{prefix}.{number}"
    at = arrival.values["i_created_at"] + number
    return arrival.but(
        i_series_key=series, series=series, i_sop_instance_uid=uid, i_created_at=at, a_sop_instance_uid=uid,
        a_series_instance_uid=dicom_data.uids.derived("series", 0, series - 1),
    )  # fmt: skip


def run_all(*works: Callable[[], None]) -> None:
    failures = list[BaseException]()
    start = threading.Barrier(len(works))

    def run(work: Callable[[], None]) -> None:
        try:
            start.wait(WAIT_S)
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert failures == []
    assert not any(thread.is_alive() for thread in threads)


EACH = 40


def test_threads_processes_and_python_lose_nothing(index: Index, arrival: Arriving, tmp_path: Path) -> None:
    other = open_index(f"sqlite:///{tmp_path}/index.db")  # as another process has it: the turn is a file of its own
    noted: list[int] = []

    def joins(where: Index, prefix: str) -> None:
        own = Object(tmp_path / prefix)
        for n in range(EACH):
            one = numbered(arrival, prefix, n)
            own.begin(one)
            assert one.join(where) == JOINED
            where.joined(1)
            again = numbered(arrival, prefix, n)
            assert again.join(where) == UNUSUAL  # it is seen by everybody who comes later
        os.close(own.fd)

    def transacts(where: Index) -> None:
        for n in range(EACH):
            noted.append(where.transact(partial(note, n=n)))

    def note(conn: Connection, n: int) -> int:
        made = conn.execute(insert(schema.cursor), {"name": f"{threading.get_ident()} {n}", "seq": n})
        return int(made.rowcount)

    run_all(
        *(partial(joins, index, f"1.9.{n}") for n in range(4)), *(partial(joins, other, f"1.8.{n}") for n in range(2)),
        partial(transacts, index), partial(transacts, other),
    )  # fmt: skip
    other.close()
    assert sum(noted) == 2 * EACH
    found = table_rows(index)
    assert len(found["instance"]) == len(found["instance_metadata"]) == len(found["audit"]) == 3 + 6 * EACH
    assert [s["number_of_instances"] for s in found["series"]] == [2 + 3 * EACH, 1 + 3 * EACH]
    for row, tag in ((found["study"][0], rows.STUDY_INSTANCES), *((s, rows.SERIES_INSTANCES) for s in found["series"])):
        assert rows.loads(row["row"])[tag]["Value"] == [row["number_of_instances"]]
    assert found["study"][0]["number_of_instances"] == 3 + 6 * EACH
    assert found["study"][0]["last_instance_at"] == arrival.values["i_created_at"] + EACH - 1
    with sqlite3.connect(tmp_path / "index.db") as conn:
        assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    conn.close()


def test_those_who_wait_go_together_and_the_unusual_hurt_nobody(
    index: Index, arrival: Arriving, tmp_path: Path
) -> None:
    ways = [numbered(arrival, "1.7", n) for n in range(12)]
    ways[3] = ways[3].but(i_study_key=99)
    ways[5] = ways[5].but(i_sop_instance_uid=ways[7].values["i_sop_instance_uid"], i_series_key=2)
    outcomes: dict[int, int] = {}
    holds, goes = threading.Event(), threading.Event()

    def hold(_: Connection) -> None:
        holds.set()
        assert goes.wait(WAIT_S)

    holder = threading.Thread(target=lambda: index.transact(hold))
    holder.start()
    assert holds.wait(WAIT_S)
    threads = [
        threading.Thread(target=lambda n=n, way=way: outcomes.update({n: way.join(index)}))
        for n, way in enumerate(ways)
    ]
    for thread in threads:
        thread.start()
    goes.set()
    for thread in (*threads, holder):
        thread.join(WAIT_S)
    assert outcomes[3] == UNUSUAL
    assert sorted((outcomes[5], outcomes[7])) == [JOINED, UNUSUAL]
    assert sum(outcome == JOINED for outcome in outcomes.values()) == 10
    assert table_rows(index)["study"][0]["number_of_instances"] == 3 + 10


def test_one_that_fails_in_company_is_told_so_like_all_the_others(index: Index, arrival: Arriving) -> None:
    """Whoever is in its transaction can try again, and nothing was written of anybody in it."""
    left = [numbered(arrival, "1.6", n) for n in range(8)]
    left[2] = left[2].but(i_digest=None)
    outcomes: dict[int, int] = {}
    run_all(*(partial(lambda n, way: outcomes.update({n: way.join(index)}), n, way) for n, way in enumerate(left)))
    assert outcomes[2] == UNJOINED
    assert set(outcomes.values()) <= {JOINED, UNJOINED}
    written = sum(outcome == JOINED for outcome in outcomes.values())
    assert table_rows(index)["study"][0]["number_of_instances"] == 3 + written
    for n, outcome in outcomes.items():
        assert left[n].but(i_digest="again").join(index) == (UNUSUAL if outcome == JOINED else JOINED)


def test_who_comes_after_the_end_is_refused(template: tuple[Path, Arriving], tmp_path: Path) -> None:
    index = copied(template[0], tmp_path)
    arrival = template[1].but()
    assert arrival.join(index) == JOINED
    index.close()
    assert arrival.join(index) == UNUSUAL
    fresh = copied(template[0], tmp_path)
    fresh.close()
    assert fresh.joiner() is None


def test_without_the_compiled_part_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "load", lambda: None)
    index = open_index(f"sqlite:///{tmp_path}/index.db")
    assert index.joiner() is None
    index.close()
