"""What is reachable, misconfigured or slow: one function a part, each telling what it found and what to do about it.

Nothing is changed: what is written to find out whether it can be written is removed at once.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import sqlite3
import ssl
import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pacs import native
from pacs.errors import ArchiveError, NotFound
from pacs.server import attendant, beside, doors, ground, possible
from pacs.settings import AE, Settings

Level = Literal["ok", "slow", "advice", "wrong"]

SLOW_SYNC_MS, SLOW_QUERY_MS, SLOW_OBJECT_MS, SLOW_ECHO_MS = 30.0, 10.0, 250.0, 500.0
LITTLE_SPACE, NO_SPACE = 0.10, 0.02
LARGE_LOG_BYTES = 256 << 20
SKEW_S = 2.0
EXPIRES_SOON_DAYS = 30.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: how it is, in words, and what to do about it where something is to be done."""

    part: str
    level: Level
    said: str
    remedy: str = ""


Findings = Iterator[Finding]


def examine(settings: Settings) -> Findings:
    """Every finding, as it is found."""
    for part, check in CHECKS:
        try:
            yield from check(settings)
        except ArchiveError as error:
            yield Finding(part, "wrong", str(error), "see the setting that it names, in docs/settings.md")
        except Exception as error:  # one check that fails must not hide the others
            yield Finding(part, "wrong", f"cannot be examined: {type(error).__name__}: {error}", "report this")


def _median_ms(act: Callable[[], object], times: int = 5) -> float:
    took = []
    for _ in range(times):
        started = time.perf_counter()
        act()
        took.append((time.perf_counter() - started) * 1e3)
    return statistics.median(took)


def _timed(part: str, what: str, ms: float, slow_ms: float, remedy: str) -> Finding:
    said = f"{what} in {ms:.1f} ms"
    return Finding(part, "slow", said, remedy) if ms > slow_ms else Finding(part, "ok", said)


def settings_(settings: Settings) -> Findings:
    """Whether the settings can work together."""
    possible.refuse_impossible(settings)
    yield Finding("settings", "ok", f"data in {settings.data.absolute()}, objects {settings.objects}")
    open_to_all = settings.dimse and not settings.aes
    if open_to_all:
        yield Finding(
            "settings", "advice", "any AE title may call on the DIMSE door",
            "configure the AEs that may: [[aes]] tables in the settings file",
        )  # fmt: skip
    if native.load() is None:
        yield Finding("server", "advice", "the part in C is not compiled: Python does its work, slower",
                      "make install with a C compiler; or pip install ziglang, python -m pacs.native.make")  # fmt: skip
    else:
        yield Finding("server", "ok", "the part in C is compiled")
    zone = datetime.now().astimezone().tzname()
    now = datetime.now(UTC)
    yield Finding("clock", "ok" if now.year >= 2024 else "wrong", f"{now:%Y-%m-%d %H:%M:%S} UTC, time zone {zone}",
                  "" if now.year >= 2024 else "set the clock, and keep it by NTP")  # fmt: skip


def folder(settings: Settings) -> Findings:
    """The data folder: there, ours, with space, and how long a sync takes."""
    data = settings.data
    if not data.is_dir():
        yield Finding("folder", "wrong", f"{data.absolute()} does not exist",
                      "is --data right? `m3dicom serve` makes it")  # fmt: skip
        return
    mode = data.stat().st_mode & 0o777
    if mode & 0o007:
        yield Finding("folder", "advice", f"everybody on this machine may look into {data} (mode {mode:03o})",
                      f"chmod 700 {data}")  # fmt: skip
    use = shutil.disk_usage(data)
    free = use.free / use.total
    said = f"{use.free / 1e9:,.1f} GB free, {free:.0%} of the file system"
    if free < NO_SPACE:
        yield Finding("folder", "wrong", said, "make room or move the folder: soon nothing can be stored")
    elif free < LITTLE_SPACE:
        yield Finding("folder", "advice", said, "plan for more, or set retention rules")
    else:
        yield Finding("folder", "ok", said)
    probe = data / f"doctor-{uuid.uuid4().hex}"
    try:
        descriptor = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:

            def sync() -> None:
                os.pwrite(descriptor, os.urandom(4096), 0)
                os.fdatasync(descriptor)

            ms = _median_ms(sync, 7)
        finally:
            os.close(descriptor)
            probe.unlink()
    except OSError as error:
        yield Finding("folder", "wrong", f"nothing can be written to {data}: {error.strerror}",
                      "give the folder to the user that the server runs as")  # fmt: skip
        return
    yield _timed("folder", "4 kB written and synced", ms, SLOW_SYNC_MS,
                 "every store waits for this: a disk with a protected write cache is many times quicker")  # fmt: skip


def server(settings: Settings) -> Findings:
    """Whether one runs, and whether the ports are free where none does."""
    running = beside.running(settings)
    if running:
        yield Finding("server", "ok", f"runs as process {running['pid']}: HTTP {running['http']}, "
                      f"DIMSE {running['dimse'] or 'none'}")  # fmt: skip
        yield from _attendants(settings, int(running["pid"]))
        return
    yield Finding("server", "ok", "none runs on this data folder")
    for name, text in (("http", settings.http), ("dimse", settings.dimse), ("dimse_tls", settings.dimse_tls)):
        if text:
            try:
                doors.listen(doors.parse(text, name)).close()
            except ArchiveError as error:
                yield Finding(
                    "server", "wrong", error.reason, f"another program has the port: change the setting {name}"
                )


def _attendants(settings: Settings, pid: int) -> Findings:
    wanted = ground.attendants(settings)
    if not wanted:
        if settings.dimse:
            yield Finding("server", "ok", "serves DIMSE associations itself")
        return
    living = attendant.living(pid)
    sizes = [size for each in living if (size := _resident_mb(each))]
    said = f"{len(living)} of {wanted} attendants serve DIMSE associations"
    said += f", {max(sizes):.0f} MB each at most" if sizes else ""
    if len(living) < wanted:
        yield Finding("server", "advice", said, "one that ended is started again within seconds: see the server's log")
    else:
        yield Finding("server", "ok", said)


def _resident_mb(pid: int) -> float:
    """The memory of a process, what it shares with others included; 0 where it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
    except (OSError, IndexError):
        return 0.0


def index(settings: Settings) -> Findings:
    """The index database: reachable, sound, durable, quick."""
    if settings.index == "sqlite":
        path = settings.data / "index.db"
        if not path.exists():
            yield Finding(
                "index", "advice", "there is none yet", "`m3dicom serve` makes one, `m3dicom rebuild` from a store"
            )
            return
        yield from _sqlite(path)
    else:
        yield from _postgresql(settings)
    yield from _index_and_store(settings)


def _sqlite(path: Path) -> Findings:
    log_bytes = Path(f"{path}-wal").stat().st_size if Path(f"{path}-wal").exists() else 0
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as conn:
            (sound,) = conn.execute("PRAGMA quick_check(1)").fetchone()
            (instances,) = conn.execute("SELECT count(*) FROM instance").fetchone()
            ms = _median_ms(lambda: conn.execute("SELECT * FROM study ORDER BY id DESC LIMIT 1").fetchall())
    except sqlite3.Error as error:
        sound, instances, ms = str(error), 0, 0.0
    if sound != "ok":
        yield Finding("index", "wrong", f"SQLite says: {sound}",
                      "stop the server, then `m3dicom restore BACKUP`, or `m3dicom rebuild --force`")  # fmt: skip
        return
    yield Finding("index", "ok", f"SQLite {sqlite3.sqlite_version}, sound, {instances:,} instances")
    yield _timed("index", "a look-up", ms, SLOW_QUERY_MS, "is the disk of the data folder a network share?")
    if log_bytes > LARGE_LOG_BYTES:
        yield Finding("index", "advice", f"its write-ahead log has {log_bytes / 1e6:,.0f} MB",
                      "something reads for very long; it shrinks when the server stops")  # fmt: skip


def _postgresql(settings: Settings) -> Findings:
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import SQLAlchemyError

    engine = create_engine(
        settings.index_url, connect_args={"connect_timeout": 5, "application_name": "m3dicom doctor"}
    )
    try:
        with engine.connect() as conn:

            def show(name: str) -> str:
                return str(conn.execute(text(f"SHOW {name}")).scalar_one())

            version = show("server_version")
            yield Finding("index", "ok", f"PostgreSQL {version} is reachable")
            for name in ("fsync", "full_page_writes"):
                if show(name) != "on":
                    yield Finding("index", "wrong", f"{name} is off: a power failure loses what was acknowledged",
                                  f"set {name} = on in postgresql.conf")  # fmt: skip
            if show("synchronous_commit") == "off":
                yield Finding("index", "advice", "synchronous_commit is off there; m3DICOM turns it on for itself",
                              "set synchronous_commit = on")  # fmt: skip
            yield _timed("index", "a round trip", _median_ms(lambda: conn.execute(text("SELECT 1")).all()),
                         SLOW_QUERY_MS, "put the database nearer: each store makes several round trips")  # fmt: skip
            skew = float(conn.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()) - time.time()
            if abs(skew) > SKEW_S:
                yield Finding("clock", "wrong", f"the database's clock is {skew:+.1f} s from ours",
                              "keep both by NTP: leases and deadlines compare them")  # fmt: skip
    except SQLAlchemyError as error:
        said = f"PostgreSQL cannot be reached: {type(getattr(error, 'orig', error)).__name__}"
        yield Finding("index", "wrong", said, "is it running, and is the setting index right?")
    finally:
        engine.dispose()


def _has_schema(settings: Settings) -> bool:
    from sqlalchemy import create_engine, inspect
    from sqlalchemy.exc import SQLAlchemyError

    engine = create_engine(settings.index_url, connect_args={"connect_timeout": 5})
    try:
        with engine.connect() as conn:
            return inspect(conn).has_table("meta")
    except SQLAlchemyError:
        return False  # told already
    finally:
        engine.dispose()


def _index_and_store(settings: Settings) -> Findings:
    """Whether the index is as far as the store, and what is known to be damaged."""
    from pacs import behind
    from pacs.archive import open_store
    from pacs.index import damage
    from pacs.index.engine import open_index
    from pacs.index.migrate import unfinished
    from pacs.storage.files import FileStore

    if settings.index != "sqlite" and not _has_schema(settings):
        yield Finding(
            "index", "advice", "the database is empty", "`m3dicom serve` or `m3dicom rebuild` makes the tables"
        )
        return
    opened = open_index(settings.index_url)
    try:
        with opened.read() as conn:
            wanting = unfinished(conn)
            if wanting:
                yield Finding("index", "wrong", *wanting)
                return
            cases = len(damage.listed(conn))
        if cases:
            yield Finding("objects", "wrong", f"{cases} objects are damaged or missing", "m3dicom scrub --report")
        store = open_store(settings, cached=False, alone=False)
        try:
            records = behind.records(store, opened)
            objects = behind.objects(store, opened) if not records and isinstance(store, FileStore) else 0
        finally:
            store.close()
        if not records and not objects and not cases:
            yield Finding("index", "ok", "as far as the store; no damage is known")
        if objects:
            number = f"{objects} or more" if objects >= behind.ENOUGH else f"{objects}"
            yield Finding("index", "wrong", f"the store has {number} objects that the index does not know: it is older "
                          "than its store", "stop the server, then m3dicom rebuild --add")  # fmt: skip
        if records:
            yield Finding("index", "wrong", f"the store's journal has {records} records that the index does not know: "
                          "it is older than its store", "stop the server, then m3dicom rebuild --add")  # fmt: skip
    finally:
        opened.close()


def objects(settings: Settings) -> Findings:
    """The object store: reachable, honest, quick; advice for a bucket."""
    from pacs.archive import open_store

    if settings.objects == "files" and not settings.data.is_dir():
        return
    store = open_store(settings, cached=False, alone=False)
    name, data = f"doctor/{uuid.uuid4().hex}", os.urandom(1000)
    try:
        store.check()
        started = time.perf_counter()
        store.put_small(name, data)
        same = store.read_small(name) == data
        store.delete_small(name)
        ms = (time.perf_counter() - started) * 1e3
        try:
            store.read_small(name)
            gone = False
        except NotFound:
            gone = True
        if not same or not gone:
            yield Finding("objects", "wrong", "the store does not give back what was put, or keeps what was deleted",
                          "do not use this store")  # fmt: skip
        yield _timed("objects", "put, read and deleted", ms, SLOW_OBJECT_MS, "is the store far away, or throttled?")
    finally:
        store.close()
    if settings.objects.startswith("s3://"):
        yield from _bucket(settings)


def _bucket(settings: Settings) -> Findings:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, prefix = settings.objects.removeprefix("s3://").partition("/")
    client: Any = boto3.client("s3", endpoint_url=settings.s3_endpoint or None, region_name=settings.s3_region)
    key = f"{prefix.strip('/')}/doctor-{uuid.uuid4().hex}".lstrip("/")
    wrong_md5 = "AAAAAAAAAAAAAAAAAAAAAA=="
    try:
        try:
            client.put_object(Bucket=bucket, Key=key, Body=b"m3DICOM", ContentMD5=wrong_md5)
            yield Finding("objects", "advice", "the bucket takes objects whose checksum is wrong",
                          "m3DICOM verifies what it reads; run `m3dicom scrub` more often (scrub_per_day)")  # fmt: skip
        except (ClientError, BotoCoreError):
            yield Finding("objects", "ok", "the bucket refuses an object whose checksum is wrong")
        if settings.s3_sse:
            client.put_object(Bucket=bucket, Key=key, Body=b"m3DICOM", ServerSideEncryption=settings.s3_sse)
            told = client.head_object(Bucket=bucket, Key=key).get("ServerSideEncryption")
            if told != settings.s3_sse:
                yield Finding("objects", "wrong", f"asked to encrypt by {settings.s3_sse}, the bucket says {told}",
                              "mend the bucket's encryption, or the setting s3_sse")  # fmt: skip
        client.delete_object(Bucket=bucket, Key=key)
        try:
            status = client.get_bucket_versioning(Bucket=bucket).get("Status")
        except (ClientError, BotoCoreError):
            status = None
        if status != "Enabled":
            yield Finding("objects", "advice", "the bucket keeps no versions: what is deleted there is gone",
                          "turn on versioning, or replication, or object lock")  # fmt: skip
    finally:
        client.close()


def queue(settings: Settings) -> Findings:
    """Redis, where it is used."""
    from analysis.queue import open_queue
    from pacs.events import Events

    if settings.queue == "local":
        return
    opened = open_queue(settings.queue, Events())
    try:
        wrong = opened.health()
    finally:
        opened.close()
    if wrong:
        yield Finding("queue", "wrong", wrong, "is Redis running, and the setting queue right? Tasks wait meanwhile")
    else:
        yield Finding("queue", "ok", "Redis answers")


def tasks(settings: Settings) -> Findings:
    """Whether somebody takes the tasks that wait."""
    from pacs.index.engine import open_index
    from pacs.workforce import Workforce

    shared = settings.index != "sqlite"
    if not (_has_schema(settings) if shared else (settings.data / "index.db").exists()):
        return
    opened = open_index(settings.index_url)
    try:
        queues = Workforce(opened, shared=shared).queues(time.time())
    finally:
        opened.close()
    served = settings.workers > 0 and not shared  # by the server itself, which says so to nobody
    for queue in queues:
        if queue.waiting and not queue.posts and not served:
            said = f"{queue.waiting:,} tasks of {queue.plugin} wait, and no worker takes them"
            remedy = f"m3dicom worker --plugins {queue.plugin}" if shared else "set workers to 1 or more"
            yield Finding("tasks", "wrong", said, remedy)
        elif queue.stranded and queue.posts:
            said = f"{queue.stranded:,} tasks of {queue.plugin} wait for a worker that can take them: {queue.why}"
            yield Finding("tasks", "wrong", said, "start a worker with that version, or cancel them")
        if queue.dead:
            said = f"{queue.dead:,} tasks of {queue.plugin} were given up"
            yield Finding("tasks", "advice", said, "m3dicom tasks list --dead tells why")
    if shared:
        names = {post.name for queue in queues for post in queue.posts}
        yield Finding("tasks", "ok" if names else "advice", f"{len(names)} workers are there",
                      "" if names else "m3dicom worker, or m3dicom scale")  # fmt: skip


def peers(settings: Settings) -> Findings:
    """A C-ECHO to every AE that has an address."""
    callable_ = [ae for ae in settings.aes if ae.host and ae.port]
    with ThreadPoolExecutor(8) as pool:
        yield from pool.map(lambda ae: _echo(settings, ae), callable_)


def _echo(settings: Settings, ae: AE) -> Finding:
    from pacs.dimse import remotes
    from pacs.dimse.negotiation import IMPLICIT_LE, VERIFICATION
    from pacs.dimse.requestor import Requestor

    where = f"{ae.title} at {ae.host}:{ae.port}"
    started = time.perf_counter()
    try:
        with Requestor.open(remotes.remote(settings, ae), settings.aet, [(VERIFICATION, [IMPLICIT_LE])]) as assoc:
            reply = assoc.echo()
    except ArchiveError as error:
        return Finding("peers", "wrong", f"{where}: {error.reason}", "is it running, and does it know our AE title?")
    ms = (time.perf_counter() - started) * 1e3
    if reply.status != 0:
        return Finding("peers", "wrong", f"{where}: {reply.words}", "ask whoever runs it")
    return _timed("peers", f"{where} answers a C-ECHO", ms, SLOW_ECHO_MS, "is the network slow, or the peer?")


_VALIDITY = re.compile(
    rb"\x30[\x1e\x20\x22](?:\x17\x0d(\d{12})Z|\x18\x0f(\d{14})Z)(?:\x17\x0d(\d{12})Z|\x18\x0f(\d{14})Z)"
)


def expiry(pem: str) -> float:
    """When the first certificate of a PEM file ends, in Unix seconds (RFC 5280 4.1.2.5). Raises ValueError."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    first = pem[pem.index(begin) : pem.index(end) + len(end)]
    found = _VALIDITY.search(ssl.PEM_cert_to_DER_cert(first))
    if found is None:
        raise ValueError("no validity in the certificate")
    short, long = found[3], found[4]
    digits = long.decode() if long else ("20" if short[:2] < b"50" else "19") + short.decode()
    return datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=UTC).timestamp()


def certificates(settings: Settings) -> Findings:
    """How long our own certificate is good."""
    if not settings.tls_certificate:
        return
    try:
        ends = expiry(Path(settings.tls_certificate).read_text())
    except (OSError, ValueError) as error:
        yield Finding("certificate", "wrong", f"{settings.tls_certificate}: {error}", "see the setting tls_certificate")
        return
    days = (ends - time.time()) / 86_400
    said = f"{settings.tls_certificate} is good until {datetime.fromtimestamp(ends, UTC):%Y-%m-%d}"
    if days < 0:
        yield Finding("certificate", "wrong", said + ": it has expired", "get a new one")
    elif days < EXPIRES_SOON_DAYS:
        yield Finding("certificate", "advice", f"{said}: {days:.0f} days", "get a new one now")
    else:
        yield Finding("certificate", "ok", said)


def parts(settings: Settings) -> Findings:
    """The plug-ins and the viewer."""
    import viewer
    from analysis.registry import Registry

    ids = Registry.load(commands=settings.commands).ids
    yield Finding("plug-ins", "ok" if ids else "advice", ", ".join(ids) or "none is installed",
                  "" if ids else "install m3dicom with its plug-ins, or your own")  # fmt: skip
    if (viewer.STATIC / "index.html").is_file():
        yield Finding("viewer", "ok", "built")
    else:
        yield Finding("viewer", "advice", "not built: the start page says how", "python viewer/hatch_build.py")


CHECKS: tuple[tuple[str, Callable[[Settings], Findings]], ...] = (
    ("settings", settings_),
    ("folder", folder),
    ("server", server),
    ("index", index),
    ("objects", objects),
    ("queue", queue),
    ("tasks", tasks),
    ("peers", peers),
    ("certificate", certificates),
    ("parts", parts),
)
