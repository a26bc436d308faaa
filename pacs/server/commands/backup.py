"""`m3dicom backup` and `m3dicom restore`: a consistent copy of the index, and the way back from it.

The objects are not in it: they are backed up as files or by the bucket's own means. What the index alone holds (tasks,
audit, credentials, deliveries, subscriptions) comes back from here; what was stored, deleted or corrected after the
backup comes back from the store and its journal (`pacs.catchup`).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pacs import settings as settings_module
from pacs.errors import InvalidInput, OutOfResources, Unavailable
from pacs.server.commands import common

if TYPE_CHECKING:
    from pacs.server.commands import Verbs
    from pacs.settings import Settings

_COUNTED = ("study", "instance", "workitem", "audit", "credential")


def add(verbs: Verbs) -> None:
    """The verbs `backup` and `restore`."""
    backup = verbs.add_parser("backup", help="a consistent copy of the index, while the server runs")
    common(backup)
    backup.add_argument("folder", metavar="DIR", type=Path, help="gets index-TIME.db, or index-TIME.dump of PostgreSQL")
    backup.add_argument("--keep", metavar="N", type=int, default=0, help="remove all but the newest N copies in DIR")
    backup.set_defaults(run=_backup)
    restore = verbs.add_parser("restore", help="put a copy in the index's place and add what came after it")
    common(restore)
    restore.add_argument("file", metavar="FILE", type=Path, help="what `m3dicom backup` has made")
    restore.set_defaults(run=_restore)


def _backup(chosen: argparse.Namespace) -> int:
    from pacs.server import beside

    settings = settings_module.load(chosen.config, os.environ, {"data": chosen.data})
    beside.require_archive(settings)
    started = time.monotonic()
    suffix = "db" if settings.index == "sqlite" else "dump"
    try:
        chosen.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        target = chosen.folder / f"index-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.{suffix}"
        draft = target.with_suffix(".part")
        draft.touch(mode=0o600)
        try:
            counts = _copy_sqlite(settings, draft) if suffix == "db" else _dump(settings, draft)
            _make_durable(draft, target)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutOfResources(f"cannot write to {chosen.folder}: {error.strerror}") from error
    size = target.stat().st_size / 1e6
    print(f"{target}: {size:,.1f} MB in {time.monotonic() - started:.1f} s{counts}")
    if chosen.keep > 0:
        for old in sorted(chosen.folder.glob(f"index-*.{suffix}"))[: -chosen.keep]:
            old.unlink()
            print(f"removed {old}")
    return 0


def _copy_sqlite(settings: Settings, draft: Path) -> str:
    """Copy within one read transaction: writers go on meanwhile, and what they write is not in the copy."""
    try:
        with (
            closing(sqlite3.connect(settings.data / "index.db", timeout=30)) as source,
            closing(sqlite3.connect(draft)) as copy,
        ):
            source.backup(copy, pages=-1)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, without a log beside it
            return _checked(copy)
    except sqlite3.Error as error:
        raise Unavailable(f"the index cannot be copied: {error}") from error


def _checked(copy: sqlite3.Connection) -> str:
    """What a copy holds, in words. Raises Unavailable where it is not sound."""
    (found,) = copy.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise Unavailable(f"the copy is not sound: {found}")
    counts = [f"{copy.execute(f'SELECT count(*) FROM {name}').fetchone()[0]} {name}" for name in _COUNTED]  # noqa: S608
    return "; " + ", ".join(counts)


def _dump(settings: Settings, draft: Path) -> str:
    command, environment = _program("pg_dump", settings)
    command += ["--format=custom", "--no-owner", "--no-privileges", f"--file={draft}"]
    with tempfile.TemporaryFile() as said:
        if subprocess.run(command, env=environment, stdout=said, stderr=said, check=False).returncode:
            raise _failed("pg_dump", said)
    return ""


def _program(name: str, settings: Settings) -> tuple[list[str], dict[str, str]]:
    """The command, and its environment: one of PostgreSQL's own programs on the index; the password is no argument."""
    from sqlalchemy.engine import make_url

    path = shutil.which(name)
    if path is None:
        raise InvalidInput(f"{name} is missing: install PostgreSQL's client programs, of the server's version or newer")
    url = make_url(settings.index_url)
    environment = dict(os.environ) | ({"PGPASSWORD": str(url.password)} if url.password else {})
    where = url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
    return [path, f"--dbname={where}"], environment


def _failed(program: str, said: IO[bytes]) -> Unavailable:
    said.seek(0)
    lines = said.read().decode(errors="replace").strip().splitlines()
    return Unavailable(f"{program} failed: {lines[-1] if lines else ''}")


def _load(file: Path, settings: Settings) -> None:
    """Load a dump and mark the index as one that has not caught up, in one transaction: cut short, nothing is there.

    The transaction is committed by the last words alone, so that a pipe that ends too early undoes it.
    """
    from pacs.index.migrate import RESTORING

    reader = shutil.which("pg_restore")
    if reader is None:
        raise InvalidInput("pg_restore is missing: install PostgreSQL's client programs")
    command, environment = _program("psql", settings)
    command += ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--file=-"]
    read = [reader, "--no-owner", "--no-privileges", "--file=-", str(file)]
    with (
        tempfile.TemporaryFile() as reader_said,
        tempfile.TemporaryFile() as writer_said,
        subprocess.Popen(read, stdout=subprocess.PIPE, stderr=reader_said) as reading,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=writer_said
        ) as writing,
    ):
        assert reading.stdout is not None
        assert writing.stdin is not None
        with suppress(BrokenPipeError):  # its exit status tells more
            writing.stdin.write(b"BEGIN;\n")
            shutil.copyfileobj(reading.stdout, writing.stdin, 1 << 20)
            reading.stdout.close()
            if reading.wait() == 0:
                writing.stdin.write(f"\nINSERT INTO public.meta VALUES ('{RESTORING}', '1');\nCOMMIT;\n".encode())
        with suppress(BrokenPipeError):
            writing.stdin.close()
        reading.stdout.close()
        wrote, was_read = writing.wait(), reading.wait()
        if wrote:
            raise _failed("psql", writer_said)
        if was_read:
            raise _failed("pg_restore", reader_said)


def _make_durable(draft: Path, target: Path) -> None:
    _sync(draft)
    draft.replace(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _restore(chosen: argparse.Namespace) -> int:
    from pacs.archive import open_store
    from pacs.server import ground
    from pacs.server.commands import rebuild

    settings = settings_module.load(chosen.config, os.environ, {"data": chosen.data})
    if not chosen.file.is_file():
        raise InvalidInput(f"no such file: {chosen.file}")
    rebuild.beside_nobody(settings)
    started = time.monotonic()
    with ground.sole_owner(settings):
        if settings.index == "sqlite":
            _put_back_sqlite(settings, chosen.file)
        else:
            _put_back_postgresql(settings, chosen.file)
        print(f"Restored in {time.monotonic() - started:.1f} s; adding what came after the backup.")
        store = open_store(settings, cached=False)
        try:
            status = rebuild.catch_up(settings, store)
        finally:
            store.close()
    print(f"Done in {time.monotonic() - started:.1f} s. Start the server: m3dicom serve --data {settings.data}")
    return status


def _put_back_sqlite(settings: Settings, file: Path) -> None:
    from pacs.index.migrate import RESTORING
    from pacs.server.commands.rebuild import put_in_place

    draft = settings.data / "index.restored"
    try:
        shutil.copyfile(file, draft)
        draft.chmod(0o600)
        with closing(sqlite3.connect(draft)) as copy:
            _checked(copy)
            copy.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?, '1')", (RESTORING,))
            copy.commit()  # whoever opens it before it has caught up with the store is refused
        _sync(draft)
    except (sqlite3.Error, OSError, Unavailable) as error:
        draft.unlink(missing_ok=True)
        raise InvalidInput(f"{file} is no sound copy of an index: {error}") from error
    aside = put_in_place(settings.data, draft)
    if aside is not None:
        print(f"The index that was there is kept as {aside}.")


def _put_back_postgresql(settings: Settings, file: Path) -> None:
    from sqlalchemy import create_engine, inspect, text
    from sqlalchemy.exc import SQLAlchemyError

    from pacs.index.migrate import RESTORING

    engine = create_engine(settings.index_url, connect_args={"connect_timeout": 5})
    try:
        with engine.connect() as conn:
            filled = inspect(conn).has_table("meta")
            begun = filled and conn.execute(text("SELECT 1 FROM meta WHERE name = :it"), {"it": RESTORING}).first()
    except SQLAlchemyError as error:
        raise Unavailable(f"the index cannot be reached: {type(error).__name__}") from error
    finally:
        engine.dispose()
    if begun:
        raise InvalidInput("a restore into this database was cut short: `m3dicom rebuild --add` completes it")
    if filled:
        raise InvalidInput("the database is not empty: name a new one in the setting index, and restore into that")
    _load(file, settings)
    print(f"{file} is restored.", file=sys.stderr)
