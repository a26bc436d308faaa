"""The index made again from 100,000 small objects on local files, and whole folders imported: objects a second."""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path

import dicom_data
from prove.registry import Result, Run, machine, proof

from pacs import rebuild, rescan
from pacs.archive import open_archive, open_store
from pacs.auth import SYSTEM
from pacs.importing import Direct, Import
from pacs.index.engine import open_index
from pacs.settings import Settings
from pacs.storage.arrival import HEAD_BYTES, Arrival, content_digest, head
from pacs.storage.base import object_key

OBJECTS, FILES = 100_000, 5_000
PER_STUDY, PER_SERIES = 100, 50
LEAST = 2_000.0
SYNTAX = "1.2.840.10008.1.2.1"


def numbered(count: int) -> list[tuple[str, str, str]]:
    """UIDs of as many instances, all of the same length."""
    return [(f"1.2.9{n // PER_STUDY:08}", f"1.3.9{n // PER_SERIES:08}", f"1.4.9{n:08}") for n in range(count)]


def made(uids: tuple[str, str, str], template: bytes, of: tuple[str, str, str]) -> bytes:
    """The template with other UIDs."""
    for old, new in zip(of, uids, strict=True):
        template = template.replace(old.encode(), new.encode())
    return template


def fill(settings: Settings, count: int) -> int:
    """Put objects into the store that no index knows; the size of each."""
    store = open_store(settings)
    (first, *_), held = numbered(1), None
    study, series, sop = first
    ds = dicom_data.image(0, 64, 64, StudyInstanceUID=study, SeriesInstanceUID=series, SOPInstanceUID=sop)
    template, sop_class = dicom_data.dataset_bytes(ds), str(ds.SOPClassUID)
    for number, each in enumerate(numbered(count)):
        data = made(each, template, first)
        spool = store.spool(HEAD_BYTES, None)
        spool.write(data)
        spool.fill_reserve(head(sop_class, each[2], SYNTAX, Arrival("CT1", "", "CT1", None, 1.7e9 + number / 100)))
        held = store.put(object_key(*each, content_digest(data, SYNTAX)), spool)
    if held is not None:
        held.wait()
    store.close()
    return HEAD_BYTES + len(template)


def cpu_s() -> float:
    """What this process and those that it has ended have taken."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in both)


@proof("rebuild", f"the index is made again from the objects alone, at {LEAST:,.0f} a second or more on files")
def rebuild_whole(run: Run) -> Result:
    """Fill a store, make its index, count, and read some of it back."""
    count = max(1000, round(OBJECTS * run.scale))
    with tempfile.TemporaryDirectory(prefix="m3prove") as folder, machine():
        settings = Settings(data=Path(folder) / "data")
        size = fill(settings, count)
        run.say(f"{count:,} objects of {size:,} bytes are there")
        store = open_store(settings)
        staging = rescan.Staging(settings.data / "rebuild")
        began, worked = time.monotonic(), cpu_s()
        rescan.scan(settings, store, staging, processes=2, tell=lambda progress: None)
        scanned = time.monotonic()
        index = open_index(settings.index_url)
        report = rebuild.rebuild(settings, store, index, staging, tell=lambda progress: None)
        index.close()
        written, worked = time.monotonic(), cpu_s() - worked
        store.close()
        assert (report.instances, report.studies, report.refused) == (count, -(-count // PER_STUDY), [])
        archive = open_archive(settings)
        for study in ("1.2.900000000", f"1.2.9{(count - 1) // PER_STUDY:08}"):
            for location in archive.retrieve.locate(SYSTEM, study):
                archive.retrieve.dataset(location)
        archive.close()
    rate = count / (written - began)
    rows = [
        ("objects", "bytes each", "read and scanned/s (2 processes)", "rows written/s", "all, objects/s",
         "CPU of all processes, us each"),
        (f"{count:,}", f"{size:,}", f"{count / (scanned - began):,.0f}", f"{count / (written - scanned):,.0f}",
         f"{rate:,.0f}", f"{worked / count * 1e6:,.0f}"),
    ]  # fmt: skip
    assert rate >= LEAST, f"{rate:,.0f} objects a second, {worked / count * 1e6:,.0f} us of CPU each"
    return Result(rows, f"{rate:,.0f} objects a second, every instance there.")


@proof("import", "m3dicom import stores whole folders directly, every file durable before it counts")
def import_folder(run: Run) -> Result:
    """Write small files and import them."""
    count = max(200, round(FILES * run.scale))
    with tempfile.TemporaryDirectory(prefix="m3prove") as folder, machine():
        root = Path(folder) / "files"
        (first, *_) = numbered(1)
        ds = dicom_data.image(0, 64, 64, StudyInstanceUID=first[0], SeriesInstanceUID=first[1], SOPInstanceUID=first[2])
        template = dicom_data.part10(ds)
        for number, each in enumerate(numbered(count)):
            path = root / f"{number // 500:04}" / f"{number:06}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(made(each, template, first))
        archive = open_archive(Settings(data=Path(folder) / "data"))
        rates = []
        for _ in range(2):
            began = time.monotonic()
            counts = Import(Direct(archive.ingest), threads=4, tell=lambda told: None).run(
                [root], lambda progress: None
            )
            rates.append(count / (time.monotonic() - began))
            assert counts.failed == 0
        assert counts.of["same"] == count
        archive.close()
    rows = [
        ("files", "first time, files/s", "again, files/s"),
        (f"{count:,}", f"{rates[0]:,.0f}", f"{rates[1]:,.0f}"),
    ]
    return Result(rows, f"{rates[0]:,.0f} files a second; again {rates[1]:,.0f}.")
