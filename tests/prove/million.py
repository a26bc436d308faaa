"""Cost grows with work: an index of a million instances, copied from what was really stored, against an empty one."""

from __future__ import annotations

import sqlite3
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dicom_data
from conftest import ROOT, RunningServer, start_server
from prove.registry import Result, Run, proof

from pacs.archive import open_archive
from pacs.auth import SYSTEM
from pacs.settings import Settings

sys.path.insert(0, str(ROOT / "bench"))
import common
import dimse
import fill
from bench_query import study_keys

INSTANCES = 1_000_000
PER_SERIES, SERIES = 100, 2
ROUNDS, SENT = 5, 1500
LEAST = 0.8
NUMBER = "100000000"
SETTINGS = {"M3DICOM_WORKERS": "0", "M3DICOM_STABLE_AFTER_S": "3600"}


def make_index(data: Path, instances: int) -> tuple[int, float]:
    """Studies and seconds: an index of at least `instances` rows, copies of the rows of one real study.

    UIDs, Patient ID and names differ from study to study; all tables that ingest writes to get their rows.
    """
    began = time.monotonic()
    archive = open_archive(Settings(data=data))
    study = f"1.2.826.0.1.3680043.10.1453.{NUMBER}"
    for number in range(SERIES):
        ds = next(iter(dicom_data.series(1)))
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study, f"{study}.{number}"
        ds.SOPInstanceUID, ds.PatientID, ds.PatientName = f"{study}.{number}.1000", f"M{NUMBER}", f"Million^M{NUMBER}"
        receiving = archive.ingest.receive("1.2.840.10008.1.2.1", source_ae="MILLION")
        receiving.write(dicom_data.dataset_bytes(ds))
        archive.ingest.store(receiving, principal=SYSTEM)
    archive.close()
    db = sqlite3.connect(data / "index.db", isolation_level=None)
    db.execute("PRAGMA synchronous=OFF")
    db.execute("PRAGMA cache_size=-1000000")
    studies = -(-instances // (PER_SERIES * SERIES))
    _copies(db, studies)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    return studies, time.monotonic() - began


def _copies(db: sqlite3.Connection, studies: int) -> None:
    names = ("study", "series", "instance", "instance_metadata", "change", "audit")
    columns = {name: [row[1] for row in db.execute(f"PRAGMA table_info({name})")] for name in names}
    held = {
        name: [dict(zip(columns[name], row, strict=True)) for row in db.execute(f"SELECT * FROM {name} ORDER BY 1")]
        for name in names
    }
    news = [row for row in held["change"] if row["kind"] == "instance"]
    told = [row for row in held["audit"] if row["sop_instance_uid"]]
    for row in held["instance_metadata"]:
        row["json"] = zlib.decompress(row["json"])
    statements = {name: f"INSERT INTO {name} VALUES ({','.join('?' * len(columns[name]))})" for name in names}
    key = 1 + max(row["id"] for row in held["instance"])
    series_key, change, event = (1 + max(row[n] for row in held[t]) for t, n in _KEYS)
    for at in range(1, studies + 1):
        made: dict[str, list[tuple[Any, ...]]] = {name: [] for name in names}

        def put(name: str, row: dict[str, Any], *swaps: tuple[str, str], **changed: object) -> None:
            whole = {column: _swapped(value, swaps) for column, value in row.items()} | changed
            made[name].append(tuple(whole[column] for column in columns[name]))  # noqa: B023

        number = (NUMBER, str(int(NUMBER) + at))
        study_key = at + 1
        counts = {"number_of_series": SERIES, "number_of_instances": SERIES * PER_SERIES}
        many = _counted(held["study"][0], SERIES * PER_SERIES, "00201208")
        put("study", many, number, id=study_key, stable_at=float(at), fingerprint="0" * 64, **counts)
        for part in range(SERIES):
            one = _counted(held["series"][part], PER_SERIES, "00201209")
            put("series", one, number, id=series_key, study_key=study_key, number_of_instances=PER_SERIES)
            for slice_number in range(PER_SERIES):
                swaps = (number, (f".{part}.1000", f".{part}.{1000 + slice_number}"))
                keys = {"id": key, "study_key": study_key, "series_key": series_key, "object_offset": key * 8192}
                put("instance", held["instance"][part], *swaps, **keys)
                json = zlib.compress(_swapped(held["instance_metadata"][part]["json"], swaps), 1)
                put("instance_metadata", held["instance_metadata"][part], instance_key=key, json=json)
                put("change", news[part], *swaps, seq=change)
                put("audit", told[part], *swaps, seq=event)
                key, change, event = key + 1, change + 1, event + 1
            series_key += 1
        if at % 100 == 1:
            db.execute("BEGIN")
        for name in names:
            db.executemany(statements[name], made[name])
        if at % 100 == 0 or at == studies:
            db.execute("COMMIT")
    db.execute("INSERT OR REPLACE INTO cursor VALUES ('trigger', ?)", (change - 1,))


_KEYS = (("series", "id"), ("change", "seq"), ("audit", "seq"))


def _swapped(value: Any, swaps: tuple[tuple[str, str], ...]) -> Any:
    for old, new in swaps:
        if isinstance(value, str):
            value = value.replace(old, new)
        elif isinstance(value, bytes):
            value = value.replace(old.encode(), new.encode())
    return value


def _counted(row: dict[str, Any], count: int, tag: str) -> dict[str, Any]:
    before = b'"%b":{"vr":"IS","Value":[' % tag.encode()
    head, _, rest = row["row"].partition(before)
    return row | {"row": head + before + b"%d" % count + rest[rest.index(b"]") :]}


def _rates(run: Run, servers: dict[str, RunningServer], ways: int, first: int) -> dict[str, list[float]]:
    """Instances a second of each server in turn, new ones each time."""
    rates: dict[str, list[float]] = {name: [] for name in servers}
    for number in range(ROUNDS):
        for name, server in servers.items():
            host, port = server.dimse
            target = common.Target(f"name={name},dimse={host}:{port}:M3DICOM")
            begins = first + number * SENT
            began = time.monotonic()
            failures = sum(bad for bad, _ in fill.send(target, begins, SENT, ways))
            rates[name].append(SENT / (time.monotonic() - began))
            assert failures == 0
    run.say(f"x{ways}: " + ", ".join(f"{name} {statistics.median(got):.0f}/s" for name, got in rates.items()))
    return rates


def _latency(call: Callable[[int], object], times: int = 200) -> float:
    """The median in milliseconds."""
    took = []
    for number in range(times):
        began = time.perf_counter()
        call(number)
        took.append((time.perf_counter() - began) * 1e3)
    return statistics.median(took)


def _queries(server: RunningServer, patient: Callable[[int], str]) -> Iterator[tuple[str, float]]:
    contexts = ((dimse.STUDY_FIND, (dimse.IMPLICIT,)),)
    assoc = dimse.Association(*server.dimse, "M3DICOM", contexts=contexts)
    assert len(assoc.find(study_keys({0x00100020: patient(7).encode()}))) == 1
    yield (
        "C-FIND of a patient, p50 ms",
        _latency(lambda n: assoc.find(study_keys({0x00100020: patient(n).encode()}))),
    )
    assoc.release()
    with server.client() as http:
        asked = {"PatientID": patient(7)}
        assert len(http.get("/studies", params=asked).json()) == 1
        yield "QIDO-RS of a patient, p50 ms", _latency(lambda n: http.get("/studies", params={"PatientID": patient(n)}))
        yield "QIDO-RS, first page of 20 studies, p50 ms", _latency(lambda _: http.get("/studies?limit=20").read(), 50)


@proof(
    "million",
    "Cost grows with work: ingest into an index of 1,000,000 instances at 80 % of the empty one's rate or more.",
)
def million(run: Run) -> Result:
    """The index is made by rows; both servers then get the same new instances in turn."""
    wanted = max(10_000, round(INSTANCES * run.scale))
    with tempfile.TemporaryDirectory(prefix="m3prove") as folder:
        large, empty = Path(folder) / "large", Path(folder) / "empty"
        large.mkdir()
        studies, seconds = make_index(large, wanted)
        size = (large / "index.db").stat().st_size / 1e9
        run.note(f"- {wanted} instances in {studies} studies made in {seconds:.0f} s, index of {size:.2f} GB")
        servers, ready = {}, {}
        for name, data in (("empty", empty), ("large", large)):
            began = time.monotonic()
            servers[name] = start_server(data, settings=SETTINGS)
            ready[name] = time.monotonic() - began
        try:
            head = ("", "empty index", f"{wanted} instances", "ratio")
            rows = [head, ("ready after s", f"{ready['empty']:.2f}", f"{ready['large']:.2f}", "")]
            worst = 1.0
            for ways in (1, 4):
                rates = _rates(run, servers, ways, ways * 1_000_000)
                few, many = (statistics.median(rates[name]) for name in ("empty", "large"))
                worst = min(worst, many / few)
                rows.append((f"tiles/s, {ways} associations", f"{few:.0f}", f"{many:.0f}", f"{many / few:.2f}"))
            first = dict(_queries(servers["empty"], lambda n: f"PFI{10_000 + n % 10:07d}"))
            second = dict(_queries(servers["large"], lambda n: f"M{int(NUMBER) + 1 + n * 7 % studies}"))
            rows += [
                (name, f"{first[name]:.2f}", f"{second[name]:.2f}", f"{first[name] / second[name]:.2f}")
                for name in first
            ]
        finally:
            for server in servers.values():
                server.stop()
        assert worst >= LEAST, f"ingest at {worst:.2f} of the empty index's rate"
        return Result(rows, f"ingest at {worst:.2f} of the empty index's rate")
