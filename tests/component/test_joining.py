"""An instance that joins its series the quick way leaves the rows that the long way leaves."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dicom_data
import pytest
from sqlalchemy import select

from pacs import filing, ingest
from pacs.archive import Archive, open_archive
from pacs.auth import Principal
from pacs.errors import Unavailable
from pacs.index import joining, schema
from pacs.settings import Settings

SENDER = Principal("MODALITY", "ae", scope="")
OWN = {"object_key", "object_offset"}  # each archive has segments of its own
TABLES = (schema.study, schema.series, schema.instance, schema.instance_metadata, schema.audit, schema.change)


def rows(archive: Archive) -> dict[str, list[dict[str, Any]]]:
    with archive.index.read() as conn:
        return {
            table.name: [
                {name: value for name, value in row._mapping.items() if name not in OWN}
                for row in conn.execute(select(table).order_by(*table.primary_key.columns))
            ]
            for table in TABLES
        }


def sent() -> list[Any]:
    """Two series that grow in turn, then all that is not usual, and usual ones behind it."""
    first, second = list(dicom_data.series(5, number=0)), list(dicom_data.series(4, number=1))
    datasets = [each for pair in zip(first, second, strict=False) for each in pair]
    odd = {"StudyInstanceUID": first[0].StudyInstanceUID, "SeriesInstanceUID": first[0].SeriesInstanceUID}
    datasets += [
        dicom_data.image(50, SOPClassUID="1.2.840.10008.5.1.4.1.1.4", Modality="MR", **odd),
        dicom_data.image(51, SOPClassUID="1.2.840.10008.5.1.4.1.1.4", Modality="MR", **odd),
        dicom_data.image(52, PatientID="ANOTHER", **odd),
        dicom_data.image(53, InstanceNumber=None, PatientName="Ödön^Åke=山田^太郎", **odd),
        dicom_data.image(53, InstanceNumber=None, PatientName="Ödön^Åke=山田^太郎", **odd),
        dicom_data.image(54, PixelData=None, Rows=None, Columns=None, **odd),
        first[3],
        *dicom_data.series(3, study=1),
    ]
    return datasets


def stored(archive: Archive, datasets: list[Any]) -> list[str]:
    outcomes = list[str]()
    for ds in datasets:
        receiving = archive.ingest.receive_part10()
        receiving.write(dicom_data.part10(ds))
        outcomes.append(archive.ingest.store(receiving, principal=SENDER).outcome)
    return outcomes


def stored_together(archive: Archive, datasets: list[Any]) -> list[str]:
    """As `stored`, in bodies of several, of which all are prepared before one is filed."""
    outcomes = list[str]()
    for several in (datasets[at : at + 5] for at in range(0, len(datasets), 5)):
        prepared = []
        for ds in several:
            receiving = archive.ingest.receive_part10()
            receiving.write(dicom_data.part10(ds))
            prepared.append(archive.ingest.prepare(receiving, principal=SENDER, later=True))
        outcomes += [each.outcome for each in archive.ingest.file(prepared)]
    return outcomes


@pytest.mark.parametrize("store", [stored, stored_together])
def test_the_quick_way_leaves_what_the_long_way_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Callable[[Archive, list[Any]], list[str]]
) -> None:
    joined: list[bytes] = []
    found, outcomes = [], []
    quick, write = filing.join, joining.join

    def told(driver: Any, instance: Any, *rest: Any) -> None:
        joined.append(instance["sop_instance_uid"])
        write(driver, instance, *rest)

    monkeypatch.setattr(joining, "join", told)
    for name, way in (("quick", quick), ("long", lambda *_: None)):
        monkeypatch.setattr(filing, "join", way)
        clock = count(1_800_000_000)
        monkeypatch.setattr(ingest, "time", SimpleNamespace(time=lambda clock=clock: float(next(clock))))
        archive = open_archive(Settings(data=tmp_path / name))
        try:
            outcomes.append(store(archive, sent()))
            found.append(rows(archive))
        finally:
            archive.close()
    assert outcomes[0] == outcomes[1]
    assert set(outcomes[0]) == {"stored", "same"}
    assert found[0] == found[1]
    # All but: firsts of three series, a class new to its study, another patient, what is here already
    assert len(joined) == len(sent()) - 3 - 1 - 1 - 2


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = open_archive(Settings(data=tmp_path))
    try:
        first, second, third = dicom_data.series(3)
        stored(archive, [first])
        before = rows(archive)
        broken = joining.join

        def fails(driver: Any, *rest: Any) -> None:
            broken(driver, *rest)
            raise sqlite3.OperationalError("disk I/O error")

        monkeypatch.setattr(joining, "join", fails)
        with pytest.raises(Unavailable):
            stored(archive, [second])
        assert rows(archive) == before
        monkeypatch.setattr(joining, "join", broken)
        assert stored(archive, [second, third]) == ["stored", "stored"]
        assert [len(each) for each in rows(archive).values()] == [1, 1, 3, 3, 3, 3]
    finally:
        archive.close()


def test_keys_that_are_no_longer_right_are_not_believed(tmp_path: Path) -> None:
    """Study and series are removed and come again under other keys, and one's keys become another's."""
    archive = open_archive(Settings(data=tmp_path))
    try:
        ours, others = list(dicom_data.series(4, number=0)), list(dicom_data.series(3, study=1))
        assert stored(archive, ours[:2] + others[:2]) == ["stored"] * 4
        with archive.index.read() as conn:
            s = schema.series.c
            found = conn.execute(select(s.series_instance_uid, s.id, s.study_key)).all()
        keys, study_of = {row[0]: row[1] for row in found}, {row[0]: row[2] for row in found}
        mine, theirs = ours[0].SeriesInstanceUID, others[0].SeriesInstanceUID
        remembered = archive.ingest._keys
        assert {uid: each[:2] for uid, each in remembered.items()} == {
            uid: (study_of[uid], key) for uid, key in keys.items()
        }
        remembered[mine], remembered[theirs] = remembered[theirs], remembered[mine]
        assert stored(archive, [ours[2], others[2]]) == ["stored"] * 2
        remembered[mine] = filing.Known(9999, 9999, "", (None, None))
        assert stored(archive, [ours[3]]) == ["stored"]
        assert remembered[mine][:2] == (study_of[mine], keys[mine])
        with archive.index.read() as conn:
            i = schema.instance.c
            placed = conn.execute(select(i.sop_instance_uid, i.study_key, i.series_key)).all()
            counts = {row[0]: row[1] for row in conn.execute(select(s.series_instance_uid, s.number_of_instances))}
        assert {uid: (study, series) for uid, study, series in placed} == {
            ds.SOPInstanceUID: (study_of[ds.SeriesInstanceUID], keys[ds.SeriesInstanceUID]) for ds in ours + others
        }
        assert counts == {mine: 4, theirs: 3}
    finally:
        archive.close()
