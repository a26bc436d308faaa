"""Storage commitment: a durable promise that instances are kept, given after their bytes were read again.

A request is a row before it is answered; `pacs.committing` verifies and reports it. What we ask of other archives is
kept here too, with their answer. Nothing here knows a protocol.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row

from pacs import audit
from pacs.auth import SYSTEM, Principal, Right
from pacs.errors import Conflict, InvalidInput, NotFound, OutOfResources, TooLarge
from pacs.index import commitments as sql
from pacs.index.order import in_order

if TYPE_CHECKING:
    from pacs.index.engine import Index

log = logging.getLogger(__name__)

MAX_INSTANCES = 100_000
"""Instances in one request; more are refused, and the peer asks in parts."""

MAX_WAITING = 2000
"""Requests of one peer that wait to be verified or reported."""

MAX_UNDER_ONE_UID = 16


class Failure(StrEnum):
    """Why an instance is not committed (PS3.3 C.14.1.1)."""

    PROCESSING = "processing failure"
    NO_SUCH_INSTANCE = "no such object instance"
    RESOURCES = "resource limitation"
    CLASS_NOT_SUPPORTED = "referenced SOP Class not supported"
    CLASS_CONFLICT = "class / instance conflict"
    DUPLICATE_TRANSACTION = "duplicate Transaction UID"


@dataclass(frozen=True, slots=True)
class Item:
    """One instance of a request; `failure` is None while it is not judged and "" once it is committed.

    Study and series are those that the asker names, and empty where they do not.
    """

    sop_class_uid: str
    sop_instance_uid: str
    failure: str | None = None
    study_instance_uid: str = ""
    series_instance_uid: str = ""


@dataclass(frozen=True, slots=True)
class Commitment:
    """A request and how far it is: see `pacs.index.commitments` for the states. Times are Unix seconds."""

    id: int
    direction: str
    door: str
    peer: str
    transaction_uid: str
    state: str
    total: int
    attempt: int
    message: str
    created_at: float
    items: tuple[Item, ...] = ()
    failed: int = 0

    @property
    def complete(self) -> bool:
        """Whether every instance is committed."""
        return all(item.failure == "" for item in self.items)


class Commitments:
    """The storage commitments of one archive. Safe from any thread; `now` is in Unix seconds."""

    def __init__(self, index: Index, *, clock: Callable[[], float] = time.time) -> None:
        self._index = index
        self._clock = clock
        self._lock = threading.Lock()
        self._origins: dict[int, weakref.ref[Any]] = {}
        self._latest: dict[str, weakref.ref[Any]] = {}
        self.on_request: Callable[[], None] = lambda: None
        """Called after each request that was taken: the background may begin at once."""

    # --- what others ask of us ---

    def accept(
        self,
        transaction_uid: str,
        instances: Sequence[tuple[str, str]],
        *,
        peer: str,
        principal: Principal,
        door: str = "dimse",
        origin: object = None,
        places: Sequence[tuple[str, str]] = (),
        once: bool = False,
    ) -> int:
        """Take a request for (SOP Class UID, SOP Instance UID) pairs; its id, once it is durable.

        The same request again counts as the first one, which is then reported again; other instances under a
        Transaction UID in use are all reported as a duplicate transaction (PS3.4 J.3.2). Raises Forbidden, TooLarge,
        InvalidInput, OutOfResources where too many wait, and Conflict for a Transaction UID used again and again, or
        used at all where `once`. `places` are the Study and Series Instance UID of each, where the asker names them:
        what is elsewhere is not committed.
        """
        principal.require(Right.STORE)
        if not instances:
            raise InvalidInput("no instance is listed", about="00081199")
        if len(instances) > MAX_INSTANCES:
            raise TooLarge(f"more than {MAX_INSTANCES} instances in one request")
        now = self._clock()

        def work(conn: Connection) -> int:
            if once:
                in_order(conn)  # two at once would both find it unused
                if sql.is_in_use(conn, transaction_uid):
                    raise Conflict("the Transaction UID is in use", about=transaction_uid)
            known = sql.under(conn, "in", peer, transaction_uid)
            if len(known) > MAX_UNDER_ONE_UID:
                raise Conflict("the Transaction UID was used too often", about=transaction_uid)
            for row in known:
                if row.total != len(instances):
                    continue
                held = [(each.sop_class_uid, each.sop_instance_uid) for each in sql.instances(conn, row.id)]
                if held == list(instances):
                    if row.state in ("reported", "dead"):  # asked anew, judged anew
                        everything = [(at, None) for at in range(len(held))]
                        if row.serial == 0:
                            sql.judge(conn, row.id, everything)
                        state = "asked" if row.serial == 0 else "due"
                        sql.put(conn, row.id, None, state=state, not_before=now, created_at=now, attempt=0, message="")
                    return int(row.id)
            if sql.waiting(conn, peer) >= MAX_WAITING:
                raise OutOfResources(f"{MAX_WAITING} requests of this peer wait; ask again later")
            values = {
                "direction": "in", "door": door, "peer": peer, "transaction_uid": transaction_uid,
                "serial": len(known), "principal": principal.name, "principal_kind": principal.kind,
                "scope": principal.scope, "state": "due" if known else "asked", "not_before": now, "created_at": now,
            }  # fmt: skip
            number = sql.add(conn, values, instances, Failure.DUPLICATE_TRANSACTION if known else None, places)
            detail = f"transaction {transaction_uid}, {len(instances)} instances"
            audit.record_all(conn, [audit.row("Storage Commitment Request", principal, "success", now, detail=detail)])
            return number

        number = self._index.transact(work)
        if origin is not None:
            with self._lock:
                self._origins[number] = self._latest[peer] = weakref.ref(origin)
        self.on_request()
        return number

    def origin(self, number: int, peer: str) -> Any:
        """What `accept` was given for a request, or else for the peer's latest, while that is still there."""
        with self._lock:
            first, second = self._origins.get(number), self._latest.get(peer)
        return (first and first()) or (second and second())

    def forget_origin(self, number: int) -> None:
        """The request has come to its end."""
        with self._lock:
            self._origins.pop(number, None)

    def asked(self, transaction_uid: str, door: str, principal: Principal) -> Commitment:
        """The request under a Transaction UID that came through `door`, with its instances, for who asked it.

        Raises NotFound; administrators see everybody's.
        """
        principal.require(Right.STORE)
        with self._index.read() as conn:
            for row in sql.listed(conn, (), 100, direction="in", transaction_uid=transaction_uid):
                theirs = row.peer == principal.name or Right.ADMIN in principal.rights
                if row.door == door and theirs and principal.scope in ("", row.scope):
                    return commitment_of(row, sql.instances(conn, row.id))
        raise NotFound("nothing was asked under this Transaction UID", about=transaction_uid)

    def members(
        self, principal: Principal, study: str, series: str | None = None, sop_class: str | None = None
    ) -> list[tuple[str, str, str]]:
        """(Series Instance UID, SOP Class UID, SOP Instance UID) of what is stored of a study, or of a part of it.

        Raises TooLarge for more than one request may list.
        """
        with self._index.read() as conn:
            found = sql.members(conn, study, series, sop_class, principal.scope, MAX_INSTANCES + 1)
        if len(found) > MAX_INSTANCES:
            raise TooLarge(f"more than {MAX_INSTANCES} instances in one request")
        return found

    # --- what we ask of others ---

    def asking(self, peer: str, instances: Sequence[tuple[str, str]], transaction_uid: str) -> None:
        """Note durably that `peer` is about to be asked. Raises Conflict where the Transaction UID is not new."""
        now = self._clock()

        def work(conn: Connection) -> None:
            if sql.under(conn, "out", peer, transaction_uid):
                raise Conflict("Transaction UID was used before", about=transaction_uid)
            values = {
                "direction": "out", "door": "dimse", "peer": peer, "transaction_uid": transaction_uid, "serial": 0,
                "principal": SYSTEM.name, "principal_kind": SYSTEM.kind, "scope": "", "state": "asked",
                "not_before": now, "created_at": now,
            }  # fmt: skip
            sql.add(conn, values, instances, None)

        self._index.transact(work)

    def refused(self, peer: str, transaction_uid: str, why: str) -> None:
        """Note that the peer did not take the request."""
        self._index.transact(lambda conn: self._end_asked(conn, peer, transaction_uid, "refused", why))

    def answered(self, peer: str, transaction_uid: str, committed: Sequence[str], failed: Mapping[str, str]) -> None:
        """Keep the report of `peer`, durably: SOP Instance UIDs it committed, and why it did not commit others.

        What it leaves out counts as failed. A report that comes again changes nothing. Raises NotFound where `peer`
        was never asked this.
        """
        taken = frozenset(committed)

        def work(conn: Connection) -> None:
            rows = sql.under(conn, "out", peer, transaction_uid)
            if not rows:
                raise NotFound("nothing was asked under this Transaction UID", about=transaction_uid)
            if rows[0].state != "answered":
                verdicts = []
                for each in sql.instances(conn, rows[0].id):
                    why = failed.get(each.sop_instance_uid)
                    if why is None:
                        why = "" if each.sop_instance_uid in taken else "left out of the report"
                    verdicts.append((each.position, why))
                sql.judge(conn, rows[0].id, verdicts)
                self._end_asked(conn, peer, transaction_uid, "answered", "")

        self._index.transact(work)

    def outcome(self, transaction_uid: str, peer: str | None = None, *, direction: str = "out") -> Commitment | None:
        """The request under a Transaction UID with all its instances; None where there is none."""
        with self._index.read() as conn:
            for row in sql.listed(conn, (), 1, direction=direction, transaction_uid=transaction_uid, peer=peer):
                return commitment_of(row, sql.instances(conn, row.id))
        return None

    def listed(self, *states: str, limit: int = 1000) -> list[Commitment]:
        """Requests in these states (none given = all), the newest first, without their instances."""
        with self._index.read() as conn:
            return [commitment_of(row) for row in sql.listed(conn, states, limit)]

    def retry(self, peer: str | None = None) -> int:
        """Report dead and waiting requests again at once; how many."""
        now = self._clock()

        def work(conn: Connection) -> int:
            rows = sql.listed(conn, ("dead", "due"), 100_000, direction="in", peer=peer)
            for row in rows:
                sql.put(conn, row.id, None, state="due", not_before=now, created_at=now, attempt=0)
            return len(rows)

        return self._index.transact(work)

    def _end_asked(self, conn: Connection, peer: str, transaction_uid: str, state: str, why: str) -> None:
        now = self._clock()
        for row in sql.under(conn, "out", peer, transaction_uid):
            sql.put(conn, row.id, None, state=state, message=why[:200], ended_at=now)
            detail = f"transaction {transaction_uid} asked of {peer}: {state}"
            outcome = "failure" if state == "refused" else "success"
            audit.record_all(conn, [audit.row("Storage Commitment Result", SYSTEM, outcome, now, detail=detail)])

    def give_up_asking(self, before: float) -> int:
        """How many requests of ours from before that time were never answered, and are dead now."""
        now = self._clock()

        def work(conn: Connection) -> list[Row[Any]]:
            rows = sql.listed(conn, ("asked",), 1000, direction="out", before=before)
            for row in rows:
                sql.put(conn, row.id, None, state="dead", message="the peer never reported", ended_at=now)
                detail = f"transaction {row.transaction_uid} asked of {row.peer} was never answered"
                audit.record_all(conn, [audit.row("Storage Commitment Result", SYSTEM, "failure", now, detail=detail)])
            return rows

        given_up = self._index.transact(work)
        for row in given_up:
            log.error("storage commitment %s: %r never reported", row.transaction_uid, row.peer)
        return len(given_up)


def commitment_of(row: Row[Any], instances: Sequence[Row[Any]] = ()) -> Commitment:
    items = tuple(
        Item(
            each.sop_class_uid, each.sop_instance_uid, each.failure,
            each.study_instance_uid or "", each.series_instance_uid or "",
        )
        for each in instances
    )  # fmt: skip
    return Commitment(
        row.id, row.direction, row.door, row.peer, row.transaction_uid, row.state, row.total, row.attempt, row.message,
        row.created_at, items, getattr(row, "failed", 0),
    )  # fmt: skip
