"""A rebuild of the index in tests: how it is done, and what has to be the same afterwards."""

from __future__ import annotations

from typing import Any

import dicom_data
from sqlalchemy import select

from pacs import rebuild, rescan
from pacs.archive import Archive, open_store
from pacs.auth import Principal
from pacs.index import schema
from pacs.index.engine import open_index
from pacs.settings import Settings

MODALITY = Principal("MODALITY", "ae")


def store(archive: Archive, ds: Any, **how: Any) -> None:
    receiving = archive.ingest.receive("1.2.840.10008.1.2.1", source_ae="CT1")
    receiving.write(dicom_data.dataset_bytes(ds))
    prepared = archive.ingest.prepare(receiving, principal=how.pop("principal", MODALITY), **how)
    archive.ingest.file([prepared])


def contents(archive_url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table that a rebuild makes, without surrogate keys and what the scheduler noted."""
    index = open_index(archive_url)
    s, r, i = schema.study.c, schema.series.c, schema.instance.c
    skipped = {"id", "study_key", "series_key", "instance_key", "stable_at", "fingerprint"}

    def plain(table: Any) -> list[Any]:
        return [column for column in table.c if column.name not in skipped]

    with index.read() as conn:
        found = {
            "study": conn.execute(select(*plain(schema.study))).all(),
            "series": conn.execute(
                select(s.study_instance_uid, *plain(schema.series)).join_from(schema.series, schema.study)
            ).all(),
            "request": conn.execute(
                select(r.series_instance_uid, *plain(schema.series_request)).join_from(
                    schema.series_request, schema.series
                )
            ).all(),
            "instance": conn.execute(
                select(s.study_instance_uid, r.series_instance_uid, *plain(schema.instance))
                .join_from(schema.instance, schema.series, r.id == i.series_key)
                .join(schema.study, s.id == i.study_key)
            ).all(),
            "metadata": conn.execute(
                select(i.sop_instance_uid, schema.instance_metadata.c.json).join_from(
                    schema.instance_metadata, schema.instance
                )
            ).all(),
            "tombstone": conn.execute(select(*plain(schema.tombstone))).all(),
        }
    index.close()
    return {name: sorted((tuple(row) for row in rows), key=repr) for name, rows in found.items()}


def assert_same(made: dict[str, Any], old: dict[str, Any]) -> None:
    for name, rows in old.items():
        unlike = [pair for pair in zip(made[name], rows, strict=False) if pair[0] != pair[1]]
        assert made[name] == rows, f"{name}: {unlike[:2]}"
    assert old["instance"]


def make_again(settings: Settings) -> rebuild.Report:
    """The report of a rebuild into the index of the settings."""
    store_ = open_store(settings, cached=False)
    staging = rescan.Staging(settings.data / "rebuild")
    index = open_index(settings.index_url)
    try:
        rescan.scan(settings, store_, staging, processes=2, tell=lambda progress: None)
        return rebuild.rebuild(settings, store_, index, staging, tell=lambda progress: None)
    finally:
        index.close()
        store_.close()
