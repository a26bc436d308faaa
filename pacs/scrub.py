"""Care of stored bytes: read again, held against their digest; cases of damage told and kept; orphans put right.

An instance whose object is missing or spoilt keeps its row, is quarantined (`pacs.index.damage`; reading it is answered
with Corrupt) and is looked at again by every later scrub: bytes that were brought back end the case. An orphan is an
object that no row owns: a crash between object and index, or an index older than the store, leaves it.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from pacs import audit, catchup, filing, journal, replay, rescan
from pacs.auth import SYSTEM
from pacs.errors import ArchiveError, Conflict, Corrupt, NotFound, Unavailable
from pacs.events import Events
from pacs.index import aside, damage, schema
from pacs.index.engine import Index
from pacs.index.statement import Found
from pacs.removal import Removal
from pacs.rescan import Progress, Tell
from pacs.storage.arrival import content_suffix
from pacs.storage.base import Locator, ObjectStore

log = logging.getLogger("m3dicom.scrub")

CURSOR = "scrub"
ORPHAN_AFTER_S = 86_400.0
_AT_ONCE = 100
_DAY_S = 86_400.0


@dataclass(slots=True)
class Verified:
    """What a scrub read and found. `healed` are cases that ended."""

    objects: int = 0
    bytes: int = 0
    damaged: list[damage.Damage] = field(default_factory=list)
    healed: int = 0


@dataclass(slots=True)
class Orphans:
    """What became of objects that no row owned: how many and how many bytes of each kind."""

    adopted: int = 0
    adopted_bytes: int = 0
    removed: int = 0
    removed_bytes: int = 0
    young: int = 0
    unusable: int = 0


class Scrub:
    """Verifying what one index says of one store. Safe from any thread, and beside a running server."""

    def __init__(
        self, store: ObjectStore, index: Index, *, bytes_per_s: float = 0.0, clock: Callable[[], float] = time.time
    ) -> None:
        """`store` is the store itself, no cache; more than `bytes_per_s` are not read, 0 = as fast as it goes."""
        self._store = store
        self._index = index
        self._rate = bytes_per_s
        self._clock = clock
        self._stop = threading.Event()
        self._removal = Removal(store, index, Events())

    def stop(self) -> None:
        """End a verification in hand after the present object."""
        self._stop.set()

    def count(self) -> int:
        """How many instances there are."""
        with self._index.read() as conn:
            return int(conn.execute(select(func.count()).select_from(schema.instance)).scalar_one())

    def verify(self, limit: int, *, tell: Tell | None = None) -> Verified:
        """Verify the next `limit` instances, going round: whoever was verified longest ago comes next.

        Raises Unavailable when the store cannot be reached; what was verified until then counts.
        """
        found = Verified()
        progress = Progress(total=limit)
        while found.objects < limit and not self._stop.is_set():
            some = self._next(min(_AT_ONCE, limit - found.objects))
            if not some:
                break
            for row in some:
                started = time.monotonic()
                self._verify(row, found)
                progress.done, progress.bytes, progress.refused = found.objects, found.bytes, len(found.damaged)
                if tell is not None:
                    tell(progress)
                if self._rate and self._stop.wait(row.object_length / self._rate - (time.monotonic() - started)):
                    break
        return found

    def _next(self, limit: int) -> list[Found]:
        """The instances after the cursor, which moves behind them: several servers share the round."""

        def work(conn: Connection) -> list[Found]:
            i, c = schema.instance.c, schema.cursor.c
            at = conn.execute(select(c.seq).where(c.name == CURSOR)).scalar()
            wanted = select(
                i.id, i.sop_instance_uid, i.transfer_syntax_uid, i.digest, i.object_key, i.object_offset,
                i.object_length, i.dataset_offset,
            ).order_by(i.id).limit(limit)  # fmt: skip
            some = list(conn.execute(wanted.where(i.id > (at or 0))))
            if len(some) < limit and at:
                some += list(conn.execute(wanted.where(i.id <= at).limit(limit - len(some))))
            if some and at is None:
                conn.execute(insert(schema.cursor).values(name=CURSOR, seq=some[-1].id))
            elif some:
                conn.execute(update(schema.cursor).where(c.name == CURSOR).values(seq=some[-1].id))
            return some

        return self._index.transact(work)

    def _verify(self, row: Found, found: Verified) -> None:
        locator = Locator(row.object_key, row.object_offset, row.object_length)
        found.objects += 1
        found.bytes += row.object_length
        try:
            self._check(locator, row)
        except NotFound:
            case = ("missing", "the object is not in the store")
        except Corrupt as error:
            case = ("corrupt", error.reason)
        else:
            if self._index.transact(partial(self._heal, row=row)):
                found.healed += 1
            return
        told = self._index.transact(partial(self._quarantine, row=row, case=case, now=self._clock()))
        if told is not None:
            found.damaged.append(told)

    def _check(self, locator: Locator, row: Found) -> None:
        """Nothing, or NotFound or Corrupt."""
        hashed = hashlib.sha256()
        left = locator.length - row.dataset_offset
        for chunk in self._store.chunks(locator, row.dataset_offset):
            hashed.update(chunk)
            left -= len(chunk)
        hashed.update(content_suffix(row.transfer_syntax_uid))
        if left:
            raise Corrupt("the object is shorter than it was stored")
        if hashed.hexdigest() != row.digest:
            raise Corrupt("the object does not match its digest")

    @staticmethod
    def _heal(conn: Connection, row: Found) -> bool:
        if not damage.forget(conn, row.object_key, row.object_offset):
            return False
        _note(conn, "Object Sound Again", row.sop_instance_uid, "the stored bytes match their digest")
        return True

    @staticmethod
    def _quarantine(conn: Connection, row: Found, case: tuple[str, str], now: float) -> damage.Damage | None:
        i = schema.instance.c
        place = (i.object_key == row.object_key, i.object_offset == row.object_offset)
        if conn.execute(select(i.id).where(i.id == row.id, *place)).first() is None:
            return None  # it was removed, or moved, while it was read
        kind, reason = case
        where = {name: getattr(row, name) for name in ("object_key", "object_offset", "object_length")}
        values = {**where, "instance_key": row.id, "kind": kind, "reason": reason, "found_at": now}
        if damage.record(conn, values):
            _note(conn, "Object Damaged", row.sop_instance_uid, reason, "failure")
            log.error("instance %s: %s; it is quarantined", row.sop_instance_uid, reason)
        return damage.Damage(kind, reason, now, **where, sop_instance_uid=row.sop_instance_uid)

    def cases(self) -> Sequence[damage.Damage]:
        """Every open case, oldest first."""
        with self._index.read() as conn:
            return damage.listed(conn)

    # Orphans

    def orphans(self, *, older_than_s: float = ORPHAN_AFTER_S, tell: Tell | None = None) -> Orphans:
        """Put right what no row owns, if it arrived `older_than_s` ago or earlier.

        Sound ones under a SOP Instance UID that nothing here has are adopted: nobody was told that they are stored,
        yet nobody said that they should go, and an index restored from a backup looks just like that. Further copies,
        results of tasks that never completed, and what the journal calls deleted are removed. What cannot be read is
        listed as a case.
        """
        done = Orphans()
        roles = replay.roles(journal.read(self._store))
        progress = Progress()
        for locator in self._unowned(progress, tell):
            try:
                entry = rescan.entry(self._store, locator)
            except (NotFound, Unavailable) as error:
                if isinstance(error, Unavailable):
                    raise
                continue
            except ArchiveError as error:
                done.unusable += 1
                self._index.transact(partial(self._list, locator=locator, reason=error.reason, now=self._clock()))
                continue
            if entry.arrival.at > self._clock() - older_than_s:
                done.young += 1
                continue
            which = (entry.scan.sop_instance_uid, entry.digest)
            mine = entry.arrival.result_of is None and roles.get(which, "live") == "live"
            if mine and self._adopt(entry):
                done.adopted += 1
                done.adopted_bytes += locator.length
            elif self._index.transact(partial(self._bury, entry=entry, now=self._clock())):
                done.removed += 1
                done.removed_bytes += locator.length
        self._removal.sweep()
        if done.adopted or done.removed:
            detail = f"{done.adopted} orphans adopted, {done.removed} removed"
            self._index.transact(lambda conn: _note(conn, "Orphans Swept", None, detail))
        return done

    def _unowned(self, progress: Progress, tell: Tell | None) -> Iterator[Locator]:
        some: list[Locator] = []
        for locator in self._store.walk():
            some.append(locator)
            progress.done += 1
            progress.bytes += locator.length
            if len(some) == _AT_ONCE:
                yield from self._not_owned(some)
                some = []
                if tell is not None:
                    tell(progress)
        yield from self._not_owned(some)

    def _not_owned(self, some: Sequence[Locator]) -> list[Locator]:
        with self._index.read() as conn:
            return [locator for locator in some if not _owner(conn, locator)]

    def _adopt(self, entry: filing.Entry) -> bool:
        try:
            return self._index.transact(partial(catchup.adopt, entry=entry))
        except Conflict:
            return False  # its sender was told that it is refused

    @staticmethod
    def _bury(conn: Connection, entry: filing.Entry, now: float) -> bool:
        """Whether the object is to go: as a tombstone, so that the same content arriving now is not lost with it."""
        if _owner(conn, entry.locator):
            return False
        scan, where = entry.scan, entry.locator
        stone = {
            "study_instance_uid": scan.study_instance_uid,
            "series_instance_uid": scan.series_instance_uid,
            "sop_instance_uid": scan.sop_instance_uid,
            "digest": entry.digest,
            "object_key": where.object_key,
            "object_offset": where.offset,
            "object_length": where.length,
            "state": "pending",
            "principal": SYSTEM.name,
            "at": now,
        }
        conn.execute(insert(schema.tombstone).values(stone))
        return True

    @staticmethod
    def _list(conn: Connection, locator: Locator, reason: str, now: float) -> None:
        where = {"object_key": locator.object_key, "object_offset": locator.offset, "object_length": locator.length}
        damage.record(conn, {**where, "instance_key": None, "kind": "unusable", "reason": reason, "found_at": now})


def _owner(conn: Connection, locator: Locator) -> bool:
    for table in (schema.instance.c, aside.aside.c):
        here = (table.object_key == locator.object_key, table.object_offset == locator.offset)
        if conn.execute(select(table.id).where(*here).limit(1)).first() is not None:
            return True
    return False


def _note(conn: Connection, event: str, sop_instance_uid: str | None, detail: str, outcome: str = "success") -> None:
    row = audit.row(event, SYSTEM, outcome, time.time(), sop_instance_uid=sop_instance_uid, detail=detail)
    audit.record_all(conn, [row])


class Background:
    """A slow scrub beside everything else: a share of all instances a day, on a thread of its own."""

    def __init__(self, scrub: Scrub, percent_per_day: float) -> None:
        self._scrub = scrub
        self._share = percent_per_day / 100
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="scrub")
        self._last: float | None = None
        self._due = 0.0
        self._running: Future[Any] | None = None

    def step(self, now: float) -> None:
        """Begin the next few when they are due. Returns at once."""
        since, self._last = (0.0 if self._last is None else max(now - self._last, 0.0)), now
        if not self._share or (self._running is not None and not self._running.done()):
            return
        self._due += since / _DAY_S
        if self._due * _DAY_S >= 60:  # about once a minute
            a_day = self._scrub.count() * self._share
            number = int(a_day * self._due)
            if number:
                self._due -= number / a_day
                self._running = self._pool.submit(self._run, number)

    def _run(self, number: int) -> None:
        try:
            self._scrub.verify(number)
        except ArchiveError as error:
            log.warning("scrub: %s; trying again later", error)
        except Exception:
            log.exception("scrub failed; trying again later")

    def close(self) -> None:
        """Stop after the object in hand."""
        self._scrub.stop()
        with suppress(RuntimeError):
            self._pool.shutdown(wait=True, cancel_futures=True)
