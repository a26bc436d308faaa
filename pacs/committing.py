"""Storage commitment in the background: every instance that a request lists is read again, and the outcome reported.

Each instance is looked up, made sure to be on the disk, and read from the store itself (not from a cache) against its
digest. The outcome is reported to whoever asked, again and again until it was taken, over restarts; what nobody takes
within `commitment_hours` is dead: listed, logged and audited, never dropped. How a report travels belongs to the
`Reporter` of the door that the request came through.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import Connection, Row

from pacs import audit, mending
from pacs.auth import SYSTEM
from pacs.commitment import Commitment, Commitments, Failure, commitment_of
from pacs.digest import Digest
from pacs.errors import ArchiveError, Corrupt, NotFound, Unavailable
from pacs.index import commitments as sql
from pacs.storage.arrival import content_suffix
from pacs.storage.base import Locator, ObjectStore

if TYPE_CHECKING:
    from pacs.index.engine import Index

log = logging.getLogger(__name__)

LEASE_S = 120.0
PAGE = 200
SAVE_EVERY_S = 5.0
TURN_S = 10.0
"""A request is verified for so long before the next one gets its turn."""

REPORTERS = 8
_SPOILT = "the object does not match its digest"
KEEP_DAYS = 90.0
"""Requests that came to their end are forgotten after this long; dead ones are kept."""


class Reporter(Protocol):
    """A way to tell somebody what became of their requests."""

    def report(
        self,
        due: Sequence[Commitment],
        origins: Mapping[int, object],
        taken: Callable[[Commitment], None],
        failed: Callable[[Commitment, str], None],
    ) -> None:
        """Report each of `due`, all of one peer, and say once for each what became of it, now or later, on any thread.

        `origins` holds what `accept` was given for those that came in this process. What is raised fails the rest.
        """

    def close(self) -> None:
        """From another thread: let reports that wait for a peer fail."""


class Fetched:
    """The reporter of doors whose askers come back for the answer: there is nobody to tell."""

    def report(
        self,
        due: Sequence[Commitment],
        origins: Mapping[int, object],
        taken: Callable[[Commitment], None],
        failed: Callable[[Commitment, str], None],
    ) -> None:
        """Every answer counts as told, for it can be had from now on."""
        for each in due:
            taken(each)

    def close(self) -> None:
        """Nothing waits."""


class Committing:
    """Verifies and reports the requests of `commitments`. Safe from any thread; `now` is in Unix seconds."""

    def __init__(
        self,
        commitments: Commitments,
        index: Index,
        store: ObjectStore,
        *,
        hours: float = 72.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._commitments = commitments
        self._index = index
        self._store = store
        self._patience_s = hours * 3600
        self._clock = clock
        self._reporters: dict[str, Reporter] = {}
        self._lock = threading.Lock()
        self._claiming = threading.Lock()
        self._busy: set[str] = set()
        self._verifying = self._look_again = False
        self._closed = False
        self._swept_at = 0.0
        self._verifier = ThreadPoolExecutor(1, "commitment verifier")
        self._pool = ThreadPoolExecutor(REPORTERS, "commitment reporter")
        commitments.on_request = self._nudge
        if index.dialect == "sqlite":  # no other process can have leases
            index.transact(sql.release_all)

    def add_reporter(self, door: str, reporter: Reporter) -> None:
        """From now on, requests of `door` are reported by `reporter`."""
        self._reporters[door] = reporter

    def step(self, now: float) -> None:
        """Begin what is due: verifying, reporting, forgetting. Never waits for store or peer."""
        with self._lock:
            if self._closed:
                return
            # The verifier may just have found nothing more to do: what came since is not left to the next step.
            self._look_again, self._verifying = self._verifying, True
            verify = not self._look_again
        if verify:
            self._verifier.submit(self._verify_all)
        self._report_all(now)
        if now - self._swept_at > 3600:
            self._swept_at = now
            self._index.transact(lambda conn: sql.forget(conn, now - KEEP_DAYS * 86400))
            self._commitments.give_up_asking(now - self._patience_s)

    def close(self) -> None:
        """Finish what is in hand and stop; the rest goes on after the next start."""
        with self._lock:
            self._closed = True
        for reporter in self._reporters.values():
            reporter.close()
        self._verifier.shutdown(wait=True, cancel_futures=True)
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _nudge(self) -> None:
        """Look at once instead of at the next step; nothing depends on it."""
        try:
            self._pool.submit(self._step_quietly)
        except RuntimeError:  # closing
            return

    def _step_quietly(self) -> None:
        try:
            self.step(self._clock())
        except ArchiveError as error:
            log.warning("storage commitment: %s; trying again", error)

    # --- verifying ---

    def _verify_all(self) -> None:
        try:
            while True:
                while not self._closed and self._verify_next():
                    pass
                with self._lock:
                    if self._closed or not self._look_again:
                        self._verifying = False
                        return
                    self._look_again = False
        except ArchiveError as error:
            log.warning("storage commitment: %s; trying again", error)
        except Exception:
            log.exception("storage commitment: verifying failed; trying again")
        with self._lock:
            self._verifying = False

    def _verify_next(self) -> bool:
        """Whether there was a request to verify."""
        token, now = secrets.token_hex(16), self._clock()
        rows = self._index.transact(lambda conn: sql.claim(conn, "asked", now, now + LEASE_S, token, busy=()))
        if not rows:
            return False
        row = rows[0]
        try:
            done = self._verify(row, token)
        except ArchiveError as error:
            late = now - row.created_at > self._patience_s
            wait, why = _wait(row.attempt), error.reason
            log.warning("storage commitment %s: %s", row.transaction_uid, why)

            def again(conn: Connection) -> None:
                if late:  # no promise can be made, and no answer would be worse
                    left = [(each.position, Failure.PROCESSING) for each in sql.instances(conn, row.id, unjudged=True)]
                    sql.judge(conn, row.id, left)
                    sql.put(conn, row.id, token, state="due", not_before=now, created_at=now, attempt=0, message=why)
                else:
                    sql.put(conn, row.id, token, not_before=now + wait, attempt=row.attempt + 1, message=why)

            self._index.transact(again)
            return True
        if done:
            self._nudge()
        return True

    def _verify(self, row: Row[Any], token: str) -> bool:
        """Judge the instances of a request; whether it is through. After a while it is the turn of the next."""
        begun = time.monotonic()
        while time.monotonic() - begun < TURN_S and not self._closed:
            verdicts = self._verdicts(row)
            now = self._clock()
            if not verdicts:
                return self._index.transact(
                    lambda conn, now=now: sql.put(  # type: ignore[misc]
                        conn, row.id, token, state="due", not_before=now, created_at=now, attempt=0, message=""
                    )
                )
            if not self._index.transact(lambda conn, now=now, found=verdicts: _save(conn, row.id, token, now, found)):  # type: ignore[misc]
                return False  # somebody else has it
        now = self._clock()
        self._index.transact(lambda conn: sql.put(conn, row.id, token, not_before=now))
        return False

    def _verdicts(self, row: Row[Any]) -> list[tuple[int, str]]:
        """Verdicts on the next instances, as many as a few seconds give; none where all are judged."""
        with self._index.read() as conn:
            page = sql.instances(conn, row.id, unjudged=True, limit=PAGE)
            named = [each.sop_instance_uid for each in page]
            held, contested = sql.stored(conn, named), sql.contested(conn, named, row.peer)
        verdicts, since = list[tuple[int, str]](), time.monotonic()
        for each in page:
            if each.sop_instance_uid in contested:  # what the asker has sent is not what is stored
                verdicts.append((each.position, Failure.PROCESSING))
                continue
            verdicts.append((each.position, self._judge(each, held.get(each.sop_instance_uid), row.scope)))
            if self._closed or time.monotonic() - since > SAVE_EVERY_S:
                break
        return verdicts

    def _judge(self, asked: Row[Any], held: Row[Any] | None, scope: str) -> str:
        """Why the instance is not committed, or ""; raises Unavailable where that cannot be told now."""
        if held is None or (scope and held.scope != scope):
            return Failure.NO_SUCH_INSTANCE
        places = (
            (asked.study_instance_uid, held.study_instance_uid),
            (asked.series_instance_uid, held.series_instance_uid),
        )
        if any(named and named != real for named, real in places):
            return Failure.NO_SUCH_INSTANCE
        if held.sop_class_uid != asked.sop_class_uid:
            return Failure.CLASS_CONFLICT
        locator = Locator(held.object_key, held.object_offset, held.object_length)
        digest, left, missing = Digest(), locator.length - held.dataset_offset, False
        try:
            self._store.settle(locator)  # visible is not yet durable: the index may have been the quicker one
            for piece in self._store.chunks(locator, held.dataset_offset, left):
                digest.update(piece)
                left -= len(piece)
        except (NotFound, Corrupt) as error:
            left, missing = -1, isinstance(error, NotFound)
        digest.update(content_suffix(held.transfer_syntax_uid))
        if left == 0 and digest.hexdigest() == held.digest:
            return ""
        with self._index.read() as conn:
            again = sql.stored(conn, [asked.sop_instance_uid]).get(asked.sop_instance_uid)
        if again is None:
            return Failure.NO_SUCH_INSTANCE  # removed meanwhile
        if again.object_key != held.object_key or again.object_offset != held.object_offset:
            return self._judge(asked, again, scope)  # moved meanwhile
        log.error("storage commitment: the stored bytes of %s do not match their digest", asked.sop_instance_uid)
        case = ("missing", "the object is not in the store") if missing else ("corrupt", _SPOILT)
        self._index.transact(lambda conn: mending.note(conn, held, case, self._clock()))
        return Failure.PROCESSING

    # --- reporting ---

    def _report_all(self, now: float) -> None:
        with self._claiming:  # one thread at a time finds out which peers are free
            while not self._closed:
                with self._lock:
                    busy = tuple(self._busy)
                token = secrets.token_hex(16)

                def work(conn: Connection, busy: tuple[str, ...] = busy, token: str = token) -> list[Row[Any]]:
                    return sql.claim(conn, "due", now, now + LEASE_S, token, busy=busy)

                rows = self._index.transact(work)
                if not rows:
                    return
                with self._lock:
                    self._busy.add(rows[0].peer)
                try:
                    self._pool.submit(self._report, rows, token)
                except RuntimeError:  # closing
                    return

    def _report(self, rows: list[Row[Any]], token: str) -> None:
        """Have one peer told of all its requests that are due."""
        left, peer = {row.id: row for row in rows}, rows[0].peer

        def ended(number: int, end: Callable[[Row[Any]], None]) -> None:
            row = left.pop(number, None)
            try:
                if row is not None:
                    end(row)
            except ArchiveError as error:  # it stays due, and is reported once more
                log.warning("storage commitment %s: %s", row and row.transaction_uid, error.reason)
            finally:
                if not left:
                    with self._lock:
                        self._busy.discard(peer)
            if not left:
                self._nudge()

        def taken(commitment: Commitment) -> None:
            ended(commitment.id, lambda row: self._taken(commitment, token))

        def failed(number: int, why: str) -> None:
            ended(number, lambda row: self._failed(row, token, why))

        why = "the report ended without an answer"
        try:
            with self._index.read() as conn:
                due = [commitment_of(row, sql.instances(conn, row.id)) for row in rows]
            reporter = self._reporters.get(rows[0].door)
            if reporter is None:
                raise Unavailable(f"nothing here reports to the door {rows[0].door!r}")
            origins = {row.id: self._commitments.origin(row.id, peer) for row in rows}
            reporter.report(due, origins, taken, lambda commitment, why: failed(commitment.id, why))
            return
        except ArchiveError as error:
            why = error.reason
        except Exception:
            log.exception("storage commitment: reporting to %r failed", peer)
            why = "internal error, see the log of the server"
        for number in list(left):
            failed(number, why)

    def _taken(self, commitment: Commitment, token: str) -> None:
        now = self._clock()

        def work(conn: Connection) -> None:
            if sql.put(conn, commitment.id, token, state="reported", message="", ended_at=now):
                bad = sum(item.failure != "" for item in commitment.items)
                detail = (
                    f"transaction {commitment.transaction_uid} reported to {commitment.peer}: "
                    f"{commitment.total - bad} committed, {bad} not"
                )
                outcome = "failure" if bad else "success"
                audit.record_all(conn, [audit.row("Storage Commitment Result", SYSTEM, outcome, now, detail=detail)])

        self._index.transact(work)
        self._commitments.forget_origin(commitment.id)

    def _failed(self, row: Row[Any], token: str, why: str) -> None:
        now = self._clock()
        dead = now - row.created_at > self._patience_s
        wait = _wait(row.attempt)

        def work(conn: Connection) -> None:
            values: dict[str, Any] = {"attempt": row.attempt + 1, "message": why[:200]}
            values |= {"state": "dead", "ended_at": now} if dead else {"not_before": now + wait}
            if sql.put(conn, row.id, token, **values):
                sql.postpone(conn, row.peer, now + min(wait, 60.0))
                if dead:
                    detail = f"transaction {row.transaction_uid} was never taken by {row.peer}: {why}"[:400]
                    audit.record_all(
                        conn, [audit.row("Storage Commitment Result", SYSTEM, "failure", now, detail=detail)]
                    )

        self._index.transact(work)
        say = "given up; see `m3dicom commitments`" if dead else f"trying again in {wait:.0f} s"
        log.log(
            logging.ERROR if dead else logging.WARNING,
            "storage commitment %s to %r not reported: %s; %s", row.transaction_uid, row.peer, why, say,
        )  # fmt: skip


def _save(conn: Connection, number: int, token: str, now: float, verdicts: list[tuple[int, str]]) -> bool:
    held = sql.renew(conn, number, token, now + LEASE_S)
    if held:
        sql.judge(conn, number, verdicts)
    return held


def _wait(attempt: int) -> float:
    """Seconds before the next attempt after `attempt` failed ones: a second, doubled up to an hour."""
    return float(min(2.0 ** min(attempt, 20), 3600.0))
