"""`m3dicom rebuild`: the index made again from the object store, or brought up to date after a restored backup."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pacs import settings as settings_module
from pacs.server.commands import common

if TYPE_CHECKING:
    from pacs.index.engine import Index
    from pacs.rebuild import Report
    from pacs.rescan import Refused
    from pacs.server.commands import Verbs
    from pacs.settings import Settings
    from pacs.storage.base import ObjectStore

_MOST_PROCESSES = 8  # one file each is attached to one connection


def add(verbs: Verbs) -> None:
    """The verb `rebuild`."""
    parser = verbs.add_parser("rebuild", help="make the index again from the object store alone")
    common(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--force", action="store_true", help="SQLite: move an index that is there aside and make a new one"
    )
    how.add_argument("--add", action="store_true", help="keep the index (a restored backup) and add what it lacks")
    parser.add_argument("--processes", type=int, metavar="N", help="that scan objects; default: one a processor")
    parser.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    from pacs.archive import open_store
    from pacs.server import ground

    settings = settings_module.load(chosen.config, os.environ, {"data": chosen.data})
    beside_nobody(settings)
    with ground.sole_owner(settings):
        store = open_store(settings, cached=False)
        try:
            if chosen.add:
                return catch_up(settings, store)
            count = min(max(chosen.processes or os.cpu_count() or 1, 1), _MOST_PROCESSES)
            if settings.index == "sqlite":
                return _whole_sqlite(settings, store, count, force=chosen.force)
            return _whole_postgresql(settings, store, count, force=chosen.force)
        finally:
            store.close()


def beside_nobody(settings: Settings) -> None:
    """Nothing, or InvalidInput where a server or worker is connected to the PostgreSQL database of these settings."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import SQLAlchemyError

    from pacs.errors import InvalidInput, Unavailable

    if settings.index == "sqlite":
        return
    engine = create_engine(settings.index_url, connect_args={"connect_timeout": 5})
    asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'm3dicom'"
    try:
        with engine.connect() as conn:
            others = conn.execute(text(asked)).scalar_one()
    except SQLAlchemyError as error:
        raise Unavailable(f"the index cannot be reached: {type(error).__name__}") from error
    finally:
        engine.dispose()
    if others:
        raise InvalidInput("servers or workers are connected to this index: stop them first")


@contextmanager
def _opened(url: str) -> Iterator[Index]:
    from pacs.index.engine import open_index

    index = open_index(url)
    try:
        yield index
    finally:
        index.close()


def _held(settings: Settings) -> bool:
    """Whether there is an index with something in it, or one that cannot be read."""
    from pacs.errors import ArchiveError
    from pacs.rebuild import is_empty

    if settings.index == "sqlite" and not (settings.data / "index.db").exists():
        return False
    try:
        with _opened(settings.index_url) as index:
            return not is_empty(index)
    except ArchiveError:
        return True


_NOT_EMPTY = (
    "there is an index already, and nothing was changed.\n"
    "  To add what it lacks (after restoring a backup):  m3dicom rebuild --add\n"
)


def _whole_sqlite(settings: Settings, store: ObjectStore, processes: int, *, force: bool) -> int:
    from pacs.errors import Conflict

    if _held(settings) and not force:
        raise Conflict(_NOT_EMPTY + "  To move it aside and make a new one:               m3dicom rebuild --force")
    staging = settings.data / "rebuild"
    staging.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = staging / "index.db"
    for stale in staging.glob("index.db*"):
        stale.unlink()
    report = _scan_and_fill(settings, store, staging, f"sqlite:///{made.resolve()}", processes)
    aside = put_in_place(settings.data, made)
    shutil.rmtree(staging)
    if aside is not None:
        print(f"The old index is kept as {aside}.")
    return _tell(report)


def put_in_place(data: Path, made: Path) -> Path | None:
    """Where the old index is kept, once the new one has its name; at no moment is there none."""
    old = data / "index.db"
    aside = None
    if old.exists():
        aside = data / f"index-before-rebuild-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.db"
        for ending in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.rename(f"{old}{ending}", f"{aside}{ending}")
        os.link(old, aside)
    os.replace(made, old)
    folder = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return aside


def _whole_postgresql(settings: Settings, store: ObjectStore, processes: int, *, force: bool) -> int:
    from pacs.errors import Conflict, InvalidInput
    from pacs.index.migrate import is_half_built

    if force:
        raise InvalidInput(
            "--force is for SQLite: name a new, empty database in the setting index; the old one stays as it is"
        )
    with _opened(settings.index_url) as index, index.read() as conn:
        half = is_half_built(conn)
    if not half and _held(settings):
        raise Conflict(_NOT_EMPTY + "  To make a new one: name a new, empty database in the setting index")
    staging = settings.data / "rebuild"
    report = _scan_and_fill(settings, store, staging, settings.index_url, processes)
    shutil.rmtree(staging)
    return _tell(report)


def _scan_and_fill(settings: Settings, store: ObjectStore, folder: Path, url: str, processes: int) -> Report:
    from pacs import rebuild, rescan
    from pacs.server.progress import Bar

    store.unproven()  # what a crash tore is no object
    staging = rescan.Staging(folder)
    reading = Bar("objects read")
    rescan.scan(
        settings, store, staging, processes=processes,
        tell=lambda p: reading.show(p.done, p.total, p.bytes, p.refused),
    )  # fmt: skip
    reading.end()
    writing = Bar("instances written")
    with _opened(url) as index:
        report = rebuild.rebuild(settings, store, index, staging, tell=lambda p: writing.show(p.done, p.total))
    writing.end()
    store.proven()
    return report


def catch_up(settings: Settings, store: ObjectStore) -> int:
    """Add to the index what it lacks, and say what was done; the exit status."""
    from pacs import catchup
    from pacs.errors import InvalidInput
    from pacs.index.migrate import is_half_built
    from pacs.server.progress import Bar

    if settings.index == "sqlite" and not (settings.data / "index.db").exists():
        raise InvalidInput("there is no index: restore the backup first, or make one with `m3dicom rebuild`")
    bar = Bar("objects filed")
    with _opened(settings.index_url) as index:
        with index.read() as conn:
            if is_half_built(conn):
                raise InvalidInput("a rebuild of this index was cut short: run `m3dicom rebuild`")
        done = catchup.catch_up(
            store, index, now=time.time(), tell=lambda p: bar.show(p.done, p.total, p.bytes, p.refused)
        )
    bar.end()
    print(f"{done.added} instances added, {done.removed} removed, {done.records} records replayed.")
    if done.missing:
        print(f"m3dicom: {done.missing} instances have no object: `m3dicom scrub --all` lists them", file=sys.stderr)
    return _complain(done.refused, done.strange) or int(done.missing > 0)


def _tell(report: Report) -> int:
    print(f"{report.studies} studies, {report.series} series, {report.instances} instances are in the index.")
    if report.records:
        print(f"{report.records} records of deletions and corrections were replayed.")
    if report.gone:
        print(f"{len(report.gone)} deleted objects were still there; they go when the server starts.")
    if report.copies:
        print(f"{report.copies} further copies of the same content are not needed: m3dicom scrub --orphans")
    if not report.refused:
        print("Nothing was refused.")
    print("Tokens and logins are those of the database backup, if one was restored; else make new ones.")
    return _complain(report.refused, report.strange)


def _complain(refused: Sequence[Refused], strange: Sequence[str]) -> int:
    for kind in strange:
        print(f"m3dicom: records of the kind {kind!r} are not understood and were kept as they are", file=sys.stderr)
    for each in refused:
        print(f"not usable: {each.locator.object_key} at {each.locator.offset}: {each.reason}", file=sys.stderr)
    if refused:
        print(f"m3dicom: {len(refused)} objects are in the store and not in the index", file=sys.stderr)
    return 1 if refused or strange else 0
