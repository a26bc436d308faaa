"""Care of stored bytes: read again, held against their digest; cases of damage told and kept; orphans put right.

An instance whose object is missing or spoilt keeps its row, is quarantined (`pacs.index.damage`; reading it is answered
with Corrupt) and is looked at again by every later scrub: bytes that were brought back end the case. An orphan is an
object that no row owns: a crash between object and index, or an index older than the store, leaves it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy import Connection, func, insert, literal, select, update

from pacs import audit, catchup, filing, journal, mending, replay, rescan
from pacs.auth import SYSTEM
from pacs.dicom import scanner
from pacs.errors import ArchiveError, Conflict, NotFound, Unavailable
from pacs.events import Events
from pacs.index import aside, damage, schema
from pacs.index.engine import Index
from pacs.index.statement import Found
from pacs.removal import Removal
from pacs.rescan import Progress, Tell
from pacs.storage.base import Locator, ObjectStore

log = logging.getLogger("m3dicom.scrub")

CURSOR = "scrub"
WRITTEN_S = 1.0
"""How long, in all, records are waited for that another process may be writing."""

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
        """How many objects there are to verify: those of instances, and those that are kept aside."""
        with self._index.read() as conn:
            tables = (schema.instance, aside.aside)
            return sum(int(conn.execute(select(func.count()).select_from(t)).scalar_one()) for t in tables)

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
        """The objects after the cursor, which moves behind them: several servers share the round."""

        def work(conn: Connection) -> list[Found]:
            c = schema.cursor.c
            at = conn.execute(select(c.seq).where(c.name == CURSOR)).scalar()
            seen, hidden = (schema.instance, schema.instance.c), (aside.aside, aside.aside.c)
            # Behind the instances comes what is kept aside: there the cursor is negative.
            since = at or 0
            turns = (
                ((seen, since, None), (hidden, 0, None), (seen, 0, since))
                if since >= 0
                else ((hidden, -since, None), (seen, 0, None), (hidden, 0, -since))
            )
            some: list[Found] = []
            for (table, t), after, until in turns:
                wanted = select(
                    t.id, t.sop_instance_uid, t.transfer_syntax_uid, t.digest, t.object_key, t.object_offset,
                    t.object_length, t.dataset_offset, literal(table is aside.aside).label("kept_aside"),
                ).where(t.id > after).order_by(t.id).limit(limit - len(some))  # fmt: skip
                if len(some) < limit:
                    some += conn.execute(wanted if until is None else wanted.where(t.id <= until))
            if some:
                last = -some[-1].id if some[-1].kept_aside else some[-1].id
                if at is None:
                    conn.execute(insert(schema.cursor).values(name=CURSOR, seq=last))
                else:
                    conn.execute(update(schema.cursor).where(c.name == CURSOR).values(seq=last))
            return some

        return self._index.transact(work)

    def _verify(self, row: Found, found: Verified) -> None:
        found.objects += 1
        found.bytes += row.object_length
        case = mending.wrong_with(self._store, row)
        if case is None:
            if self._index.transact(partial(self._heal, row=row)):
                found.healed += 1
            return
        now = self._clock()
        if self._index.transact(lambda conn: mending.note(conn, row, case, now, kept_aside=row.kept_aside)):
            where = (row.object_key, row.object_offset, row.object_length)
            found.damaged.append(damage.Damage(*case, now, *where, sop_instance_uid=row.sop_instance_uid))

    @staticmethod
    def _heal(conn: Connection, row: Found) -> bool:
        if not damage.forget(conn, row.object_key, row.object_offset):
            return False
        _note(conn, "Object Sound Again", row.sop_instance_uid, "the stored bytes match their digest")
        return True

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
        listed as a case, unless it is the spoilt copy of what is sound elsewhere: that goes, too. A case of an object
        that has an owner by now, or is no more, ends.
        """
        done = Orphans()
        roles = replay.roles(journal.read(self._store))
        progress = Progress()
        unreadable: list[Locator] = []
        for locator in self._unowned(progress, tell):
            try:
                entry = rescan.entry(self._store, locator)
            except (NotFound, Unavailable) as error:
                if isinstance(error, Unavailable):
                    raise
                continue
            except ArchiveError:
                unreadable.append(locator)
                continue
            if entry.arrival.at > self._clock() - older_than_s:
                done.young += 1
                continue
            which = (entry.scan.sop_instance_uid, entry.digest)
            mine = entry.arrival.result_of is None and roles.get(which, "live") == "live"
            if mine and self._adopt(entry):
                done.adopted += 1
                done.adopted_bytes += locator.length
            elif self._buried(locator, _content(entry.scan, entry.digest)):
                done.removed += 1
                done.removed_bytes += locator.length
        self._look_again(unreadable, done, older_than_s)
        self._removal.sweep()
        self._index.transact(self._end_cases)
        if done.adopted or done.removed:
            detail = f"{done.adopted} orphans adopted, {done.removed} removed"
            self._index.transact(lambda conn: _note(conn, "Orphans Swept", None, detail))
        return done

    def _look_again(self, unreadable: Sequence[Locator], done: Orphans, older_than_s: float) -> None:
        """List what still cannot be read; what can by now was being written by another process, and is young."""
        until = time.monotonic() + WRITTEN_S
        for locator in unreadable:
            while True:
                try:
                    rescan.entry(self._store, locator)
                    done.young += 1
                except NotFound:
                    pass
                except Unavailable:
                    raise
                except ArchiveError as error:
                    if time.monotonic() < until:
                        time.sleep(0.05)
                        continue
                    if self._is_spoilt_copy(locator, older_than_s):
                        done.removed += 1
                        done.removed_bytes += locator.length
                    else:
                        done.unusable += 1
                        listed = partial(self._list, locator=locator, reason=error.reason, now=self._clock())
                        self._index.transact(listed)
                break

    def _is_spoilt_copy(self, locator: Locator, older_than_s: float) -> bool:
        """Whether it was buried as a copy of what is sound elsewhere: that was healed and then the index made again."""
        try:
            found = mending.other_copy(self._store, self._index, locator)
        except NotFound:
            return False
        if found is None or found[1] > self._clock() - older_than_s:
            return False
        return self._buried(locator, _content(found[0], found[0].digest))

    def _end_cases(self, conn: Connection) -> None:
        """Forget what was once of no use and is somebody's object by now, or is no more."""
        d = damage.damage.c
        wanted = select(d.object_key, d.object_offset, d.object_length).where(d.kind == "unusable")
        for locator in [Locator(*row) for row in conn.execute(wanted)]:
            if _owner(conn, locator) or not self._store.holds(locator):
                damage.forget(conn, locator.object_key, locator.offset)

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

    def _buried(self, locator: Locator, of: dict[str, str]) -> bool:
        """Whether the object is to go: as a tombstone, so that the same content arriving now is not lost with it.

        `of` are the UIDs and the digest of its content.
        """
        place = {"object_key": locator.object_key, "object_offset": locator.offset, "object_length": locator.length}
        stone = {**of, **place, "state": "pending", "principal": SYSTEM.name, "at": self._clock()}

        def work(conn: Connection) -> bool:
            if _owner(conn, locator):
                return False
            conn.execute(insert(schema.tombstone).values(stone))
            return True

        return self._index.transact(work)

    def _list(self, conn: Connection, locator: Locator, reason: str, now: float) -> None:
        if not self._store.holds(locator):
            return  # removed since it was looked at: a damaged copy that was sent again, for one
        where = {"object_key": locator.object_key, "object_offset": locator.offset, "object_length": locator.length}
        damage.record(conn, {**where, "instance_key": None, "kind": "unusable", "reason": reason, "found_at": now})


def _content(of: Found | scanner.Scan, digest: str) -> dict[str, str]:
    names = ("study_instance_uid", "series_instance_uid", "sop_instance_uid")
    return {name: getattr(of, name) for name in names} | {"digest": digest}


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
