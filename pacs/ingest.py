"""Instances entering the archive: received, checked, made durable, and only then seen.

Object first, then index, then news: the bytes go to a place of their own in the object store, one transaction makes
the instance exist, and success is answered when both are on the disk. The same content again is success; other
content under a known SOP Instance UID is refused, kept aside or takes its place, as the policy for its sender says.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from sqlalchemy import Connection, bindparam, select, update

from pacs import aside, audit, contents, discrepancies, filing, journal, mending, native, recovery, young
from pacs.auth import Principal, Right
from pacs.dicom import json_model, rejection, scanner
from pacs.dicom.part10 import HeaderReader
from pacs.dicom.sop_classes import may_be_stored
from pacs.dicom.transfer_syntaxes import TRANSFER_SYNTAXES
from pacs.errors import (
    ArchiveError,
    Conflict,
    Corrupt,
    DatasetMismatch,
    DuplicateInstance,
    InvalidInput,
    NotFound,
    OutOfResources,
    Quarantined,
    TooLarge,
    Unavailable,
    UnsupportedClass,
    UnsupportedTransferSyntax,
)
from pacs.events import Events
from pacs.express import Express
from pacs.index import aside as kept_aside
from pacs.index import changes, schema
from pacs.index.engine import Index
from pacs.index.joiner import Joiner
from pacs.index.statement import Found, Statement
from pacs.index.writer import Pending
from pacs.inflow import Inflow, Inflows, Taken
from pacs.likeness import Parts, Seen
from pacs.native import structures
from pacs.settings import Settings
from pacs.spool import Spool
from pacs.storage.arrival import HEAD_BYTES, Arrival, content_digest, content_suffix, head
from pacs.storage.base import Locator, ObjectStore, Placed, object_key
from pacs.storage.files import FileStore
from pacs.uids import IMPLEMENTATION_CLASS_UID

log = logging.getLogger(__name__)

_t = schema.tombstone.c
_tombstones = select(_t.digest, _t.object_key, _t.object_offset, _t.state).where(
    _t.sop_instance_uid == bindparam("uid")
)
_TOMBSTONES = (Statement(_tombstones), Statement(_tombstones.with_for_update()))

_PLAIN = ("stored", "same")
MAX_COMPARED_BYTES = 32 << 20
"""Longest instance of which it is found out whether other bytes say the same."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of one instance.

    "same": this very content was here already. "replaced": it took the place of other content under its UID.
    "quarantined": it did not, and is kept aside until a person decides: nobody sees it, so this is no success.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    outcome: aside.Outcome


@dataclass(frozen=True, slots=True)
class Prepared:
    """An instance whose bytes are checked and stored, and which nobody can see yet.

    They are durable once `placed.wait` returns; without `placed` the very content was here already, and is durable.
    """

    entry: filing.Entry
    principal: Principal
    placed: Placed | None = None

    @property
    def rejects(self) -> rejection.Note | None:
        """The rejection note that it is, or None."""
        return rejection.note(self.entry.scan.sop_class_uid, self.entry.scan.metadata)

    @property
    def sop_class_uid(self) -> str:
        """Its SOP Class UID."""
        return self.entry.scan.sop_class_uid

    @property
    def sop_instance_uid(self) -> str:
        """Its SOP Instance UID."""
        return self.entry.scan.sop_instance_uid

    @property
    def study_instance_uid(self) -> str:
        """Its Study Instance UID."""
        return self.entry.scan.study_instance_uid

    @property
    def series_instance_uid(self) -> str:
        """Its Series Instance UID."""
        return self.entry.scan.series_instance_uid


@dataclass(slots=True)
class Receiving:
    """One object on its way in. To be given to `prepare` or `store`, or aborted."""

    spool: Spool
    transfer_syntax_uid: str
    sop_class_uid: str | None = None
    sop_instance_uid: str | None = None
    source_ae: str = ""
    header: HeaderReader | None = field(default=None, repr=False)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes; they may be reused afterwards.

        Raises TooLarge, OutOfResources, Unavailable, and MalformedDataset for a broken File Meta Information.
        """
        if self.header is None:
            self.spool.write(data)
        elif (dataset := self.header.feed(data)) is not None:
            self.spool.write(dataset)

    def room(self, wanted: int) -> memoryview | None:
        """Memory to receive the next bytes into, to be announced by `filled`; None where `write` has to be used."""
        return self.spool.room(wanted) if self.header is None else None

    def filled(self, count: int) -> None:
        """The next `count` bytes are where `room` said. Raises TooLarge, OutOfResources or Unavailable."""
        self.spool.filled(count)

    def abort(self) -> None:
        """Forget the bytes. May be called again, and after the end."""
        self.spool.discard()

    def __enter__(self) -> Receiving:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()


_Answer = tuple[list["Stored"], bool]
"""What became of them, and whether the journal has something to export."""


@dataclass(frozen=True, slots=True)
class _Arrival:
    """One instance to be filed, in one go with others that wait at the same time (see `pacs.index.writer`)."""

    ingest: Ingest
    prepared: Prepared

    def __call__(self, conn: Connection) -> _Answer:
        return self.ingest.joined(conn, self.prepared) or self.ingest._filed(conn, [self.prepared])

    def ready(self) -> None:
        """Have the bytes on the disk before the turn to write, which others wait for, too."""
        _land([self.prepared])

    @staticmethod
    def together(conn: Connection, arrivals: Sequence[_Arrival]) -> list[_Answer | None]:
        return arrivals[0].ingest.filed_together(conn, [each.prepared for each in arrivals])


class _Mine(threading.local):
    """What a thread has stored before."""

    def __init__(self) -> None:
        self.seen = Seen()
        self.last: Prepared | None = None
        """What was stored last, of which nothing was said but that."""


class Ingest:
    """The one door by which instances enter. Safe from any thread."""

    def __init__(self, store: ObjectStore, index: Index, events: Events, settings: Settings) -> None:
        self._store = store
        self._index = index
        self._events = events
        self._settings = settings
        self._journal = journal.Journal(store, index)
        # What is stored one by one is committed without a sync of its own where the store can tell it again.
        self._redoes = index.dialect == "sqlite" and store.redoes(index.make_durable)
        self._mine = _Mine()
        self._inflows = Inflows(self._inflow)
        self._young = young.Series()
        self._keys: filing.Keys = {}
        self._policies = {ae.title.strip(): ae.other_content for ae in settings.aes if ae.other_content}

    def receive(
        self,
        transfer_syntax_uid: str,
        sop_class_uid: str | None = None,
        sop_instance_uid: str | None = None,
        source_ae: str = "",
    ) -> Receiving:
        """A place for the bytes of a data set; the UIDs, where given, are what it has to hold."""
        return Receiving(self._spool(), transfer_syntax_uid, sop_class_uid, sop_instance_uid, source_ae)

    def receive_part10(self) -> Receiving:
        """A place for the bytes of a Part 10 file; its preamble and File Meta are read and not kept."""
        return Receiving(self._spool(), "", header=HeaderReader())

    def _spool(self) -> Spool:
        return self._store.spool(HEAD_BYTES, self._settings.max_object_bytes)

    def prepare(
        self,
        receiving: Receiving,
        *,
        principal: Principal,
        study_instance_uid: str | None = None,
        result_of: str | None = None,
        redo: bool = False,
        later: bool = False,
        seen: Seen | None = None,
    ) -> Prepared:
        """The instance, its bytes checked and stored but not yet visible; uses `receiving` up.

        `study_instance_uid` is the study it was addressed to, `result_of` the Workitem whose result it is; with `redo`
        it is going to be filed at once and alone, and is filed again where a crash takes its rows; with `later` its
        bytes may be on their way when this returns: the caller has `placed.land` them, or files them. `seen` is what
        was stored before where that is not the thread's business. Raises
        Forbidden, MalformedDataset, DatasetMismatch, InvalidUID, UnsupportedTransferSyntax, DuplicateInstance,
        TooLarge, OutOfResources or Unavailable; nothing is kept then.
        """
        try:
            return self._prepare(
                receiving, principal, study_instance_uid, result_of, redo, later, seen or self._mine.seen
            )
        finally:
            receiving.abort()

    def _prepare(
        self,
        receiving: Receiving,
        principal: Principal,
        study_instance_uid: str | None,
        result_of: str | None,
        redo: bool,
        later: bool,
        seen: Seen,
    ) -> Prepared:
        principal.require(Right.STORE)
        if receiving.header is not None:
            receiving.header.finish()
            receiving.transfer_syntax_uid = receiving.header.transfer_syntax_uid
        ts = receiving.transfer_syntax_uid
        if ts not in TRANSFER_SYNTAXES:
            raise UnsupportedTransferSyntax("unknown transfer syntax", about=ts[:64])
        spool = receiving.spool
        with spool.view() as view, view[HEAD_BYTES:] as dataset:
            scan = scanner.scan(dataset, ts, repeats=seen.repeats)
        if not may_be_stored(scan.sop_class_uid):
            raise UnsupportedClass("nothing of this SOP class is stored", about=scan.sop_class_uid)
        self._expect("SOP Class UID", scan.sop_class_uid, receiving.sop_class_uid)
        self._expect("SOP Instance UID", scan.sop_instance_uid, receiving.sop_instance_uid)
        self._expect("Study Instance UID", scan.study_instance_uid, study_instance_uid)
        digest = spool.digest(content_suffix(ts))
        result_of = result_of or _made_by_us(scan.metadata)
        arrival = Arrival(principal.name, principal.scope, receiving.source_ae.strip(), result_of, time.time())
        found = None
        if not (self._redoes and self._young.lacks(scan.series_instance_uid, scan.sop_instance_uid)):
            found = filing.held(self._index, scan.sop_instance_uid)
            (self._young.absent if found is None else self._young.forget)(scan.series_instance_uid)
        if found is not None and found.digest != digest and (row := self._encoded_otherwise(found, scan, ts, spool)):
            locator = Locator(row.object_key, row.object_offset, row.object_length)
            entry = filing.Entry(scan, row.transfer_syntax_uid, row.digest, locator, row.dataset_offset, arrival)
            return Prepared(entry, principal)
        if found is not None and (found.digest == digest or self._policy(principal, result_of) == "refuse"):
            filing.is_same(found, digest, scan.sop_instance_uid)
            locator = self._sound(found, scan, spool, principal)
            return Prepared(filing.Entry(scan, ts, digest, locator, HEAD_BYTES, arrival), principal)
        spool.fill_reserve(head(scan.sop_class_uid, scan.sop_instance_uid, ts, arrival))
        key = ""
        if self._store.keyed:
            key = object_key(scan.study_instance_uid, scan.series_instance_uid, scan.sop_instance_uid, digest)
        placed = self._store.put(key, spool, redo=redo, later=later)
        try:
            entry = filing.Entry(scan, ts, digest, placed.locator, HEAD_BYTES, arrival, seen.before)
            return Prepared(entry, principal, placed)
        except BaseException:
            placed.withdraw()
            raise

    def _encoded_otherwise(self, found: Found, scan: scanner.Scan, ts: str, spool: Spool) -> Found | None:
        """What is held, durable and just verified, where it says the same as what is spooled, encoded otherwise.

        Routers send on in other transfer syntaxes than they received. None also where that cannot be told: pixels are
        not decoded for it, and long objects are not read.
        """
        row = mending.held(self._index, scan.sop_instance_uid)
        if row is None or row.digest != found.digest or not contents.comparable(row.transfer_syntax_uid, ts):
            return None
        locator = Locator(row.object_key, row.object_offset, row.object_length)
        remote: ObjectStore = getattr(self._store, "remote", self._store)
        of = partial(contents.of, inflated_bytes=MAX_COMPARED_BYTES)
        alike = False
        with spool.view() as view, view[HEAD_BYTES:] as dataset:
            if max(len(dataset), locator.length) <= MAX_COMPARED_BYTES:
                with suppress(Corrupt, NotFound, TooLarge):
                    self._store.settle(locator)
                    held = memoryview(remote.read(locator))[row.dataset_offset :]
                    if content_digest(held, row.transfer_syntax_uid) == row.digest:
                        alike = contents.same(of(held, row.transfer_syntax_uid), of(dataset, ts, scan))
        return row if alike else None

    def _sound(self, found: Found, scan: scanner.Scan, spool: Spool, principal: Principal) -> Locator:
        """Where the very content that is spooled lies, durable and just verified: healed by it where it is damaged."""
        locator = Locator(found.object_key, found.object_offset, found.object_length)
        self._store.settle(locator)
        if principal.scope and principal.scope != found.scope:
            return locator  # it is going to be refused
        remote: ObjectStore = getattr(self._store, "remote", self._store)
        uid = scan.sop_instance_uid
        row = mending.held(self._index, uid)
        if row is None or row.digest != found.digest:
            raise Unavailable("the same instance was being removed or replaced; send it again", about=uid)
        if (case := mending.wrong_with(remote, row)) is None:
            return Locator(row.object_key, row.object_offset, row.object_length)
        log.error("instance %s: %s; the same content was sent again and heals it", uid, case[1])
        came = Arrival(row.principal, row.scope, row.source_ae, row.result_of, row.created_at)
        spool.fill_reserve(head(scan.sop_class_uid, uid, row.transfer_syntax_uid, came))
        key = mending.new_key(row.study_instance_uid, row.series_instance_uid, uid, row.digest)
        placed = self._store.put(key, spool)
        try:
            placed.wait()
            if not self._index.transact(lambda conn: mending.mend(conn, row, placed.locator, principal)):
                placed.withdraw()
                raise Unavailable("the same instance was being healed or removed; send it again", about=uid)
        finally:
            placed.filed()  # where the commit is in doubt, the bytes stay: a row may name them
        return placed.locator

    def _policy(self, principal: Principal, result_of: str | None) -> str:
        """What happens to other content under a known UID: "refuse", "quarantine" or "replace"."""
        if result_of is not None and principal.kind == "system":
            return "refuse"  # a run of ours at the same time was quicker
        own = self._policies.get(principal.name) if principal.kind == "ae" else None
        return own or self._settings.other_content

    @staticmethod
    def _expect(name: str, got: str, expected: str | None) -> None:
        if expected is not None and got != expected:
            raise DatasetMismatch(f"{name} is not the one it was sent with", about=got)

    def file(self, prepared: Sequence[Prepared], also: Callable[[Connection], None] | None = None) -> list[Stored]:
        """What became of each instance, once all of them are durable and visible: one transaction, all or nothing.

        `also` runs in the same transaction, after the instances; whatever it raises undoes everything. Raises
        DuplicateInstance, Conflict, OutOfResources or Unavailable.
        """

        for each in prepared:
            if each.placed is not None:
                each.placed.wait()
        return self._told(prepared, self._submit(prepared, also).result())

    def hold_back(self, held: Sequence[tuple[Prepared, str]]) -> None:
        """Keep instances aside from the beginning, each with its reason in words, durably; all or nothing.

        What is here already under its UID stays as it is. Raises OutOfResources or Unavailable.
        """
        new = [(prepared, reason) for prepared, reason in held if prepared.placed is not None]
        for prepared, _ in new:
            if prepared.placed is not None:
                prepared.placed.wait()

        def keep(conn: Connection) -> None:
            for prepared, reason in new:
                aside.hold_back(conn, prepared.entry, prepared.principal, reason)

        self._index.submit(keep).result()
        self._journal.export()
        self._events.publish()

    def _submit(
        self, prepared: Sequence[Prepared], also: Callable[[Connection], None] | None = None, *, redoable: bool = False
    ) -> Pending[_Answer]:
        if also is None and len(prepared) == 1 and prepared[0].rejects is None:
            return self._index.submit(_Arrival(self, prepared[0]), redoable=redoable)
        return self._index.submit(lambda conn: self._filed(conn, prepared, also))

    def joined(self, conn: Connection, prepared: Prepared) -> _Answer | None:
        """What became of an instance that simply joins its series; None for any other, with nothing written."""
        news = partial(self.news, prepared)
        if prepared.placed is None or filing.join(conn, prepared.entry, news, self._keys) is None:
            return None
        prepared.placed.land()  # the disk had the time of all this for it
        return [_stored(prepared, "stored")], False

    def _filed(
        self, conn: Connection, prepared: Sequence[Prepared], also: Callable[[Connection], None] | None = None
    ) -> _Answer:
        again: list[dict[str, object]] = []
        stored, news, recorded = list[Stored](), list[tuple[Prepared, str]](), False
        for each in prepared:
            # One alone has been tried before (see `_Arrival`); a rejection note does more than join
            if also is None and len(prepared) > 1 and each.rejects is None:
                self._record(conn, news)  # told in the order in which they came
                news.clear()
                if (answer := self.joined(conn, each)) is not None:
                    stored += answer[0]
                    continue
            outcome, scope, odd = self._file(conn, each, again)
            stored.append(_stored(each, outcome))
            recorded = recorded or odd
            if outcome == "stored":
                news.append((each, scope))
        if also is not None:
            also(conn)
        self._record(conn, news)
        if again:
            journal.record(conn, "stored again", {"instances": again})
        _land(prepared)
        return stored, bool(again) or recorded

    def filed_together(self, conn: Connection, prepared: Sequence[Prepared]) -> list[_Answer | None]:
        """What became of instances that arrived at the same time: rows that they share are written once.

        None for one that is here already or is not allowed: nothing was written, `_filed` knows what to do with it.
        """
        taking = filing.Filing(conn)
        taken = dict[int, filing.Filed]()
        for at, each in enumerate(prepared):
            with suppress(Conflict):
                filed = taking.take(each.entry)
                if filed.new:
                    taken[at] = filed
        taking.write()
        answers: list[_Answer | None] = [None] * len(prepared)
        for at, filed in taken.items():
            again: list[dict[str, object]] = []
            entry = prepared[at].entry
            if filed.begins:
                self._young.begun(entry.scan.series_instance_uid)
            if filed.buried:
                self._outlive_removal(conn, entry, again)
            if filed.odd:
                discrepancies.note(conn, entry, filed, prepared[at].principal)
            if again:
                journal.record(conn, "stored again", {"instances": again})
            answers[at] = [_stored(prepared[at], "stored")], bool(again) or filed.odd
        self._record(conn, [(prepared[at], filed.scope) for at, filed in taken.items()])
        _land(prepared)
        return answers

    @staticmethod
    def _record(conn: Connection, news: Sequence[tuple[Prepared, str]]) -> None:
        if not news:
            return
        audit.record_all(conn, [_audit_row(p) for p, _ in news])
        changes.append_all(conn, [_change_row(p, scope) for p, scope in news])

    def _told(self, prepared: Sequence[Prepared], answer: _Answer) -> list[Stored]:
        """What became of them, told to those who wait for news."""
        stored, recorded = answer
        for each, outcome in zip(prepared, stored, strict=True):
            self._young.came(outcome.series_instance_uid, outcome.sop_instance_uid)
            if outcome.outcome != "stored":
                self._young.forget(outcome.series_instance_uid)
            if outcome.outcome != "stored" and each.placed is not None:  # all the others may be here already
                self._yield_to_the_first(each, each.placed)
        if recorded:
            self._index.make_durable()  # what a person or policy decided cannot be told from the objects alone
            self._journal.export()
        self._events.publish()
        return stored

    def _yield_to_the_first(self, prepared: Prepared, placed: Placed) -> None:
        """Give back bytes of which others have filed their own; theirs have to be durable before we say so."""
        found = filing.held(self._index, prepared.sop_instance_uid)
        if found is not None and found.digest != prepared.entry.digest:
            with self._index.read() as conn:
                found = kept_aside.of_content(conn, prepared.sop_instance_uid, prepared.entry.digest)
        if found is not None:
            first = Locator(found.object_key, found.object_offset, found.object_length)
            self._store.settle(first)
            if first != placed.locator:
                placed.withdraw()
            uid = prepared.sop_instance_uid
            row = mending.held(self._index, uid)
            remote: ObjectStore = getattr(self._store, "remote", self._store)
            if row is not None and row.digest == prepared.entry.digest and mending.wrong_with(remote, row):
                raise Unavailable("the same instance is here, damaged; sent once more it heals", about=uid)

    def _file(
        self, conn: Connection, prepared: Prepared, again: list[dict[str, object]]
    ) -> tuple[aside.Outcome, str, bool]:
        """What becomes of one instance, the access scope of its study, and whether its bytes alone do not tell all."""
        entry, principal = prepared.entry, prepared.principal
        (filed,) = filing.file_all(conn, [entry])
        if filed.known is not None:
            filing.remember(self._keys, entry.scan.series_instance_uid, filed.known)
        if filed.begins:
            self._young.begun(entry.scan.series_instance_uid)
        outcome: aside.Outcome = "stored" if filed.new else "same"
        if filed.held is not None and filed.held.digest != entry.digest:
            if prepared.placed is not None:
                prepared.placed.wait()  # durable before what it replaces leaves
            outcome = aside.other_content(conn, entry, principal, self._policy(principal, entry.arrival.result_of))
        if outcome == "replaced" or (outcome == "stored" and filed.buried):
            self._outlive_removal(conn, entry, again)
        if filed.odd:
            discrepancies.note(conn, entry, filed, principal)
        if outcome == "stored" and (note := prepared.rejects) is not None and self._settings.rejection_notes:
            aside.reject(conn, note, entry, principal)
        return outcome, filed.scope, filed.odd or outcome not in _PLAIN or prepared.rejects is not None

    def _outlive_removal(self, conn: Connection, entry: filing.Entry, again: list[dict[str, object]]) -> None:
        """Keep a removal of the same content from taking the bytes of this arrival (see `pacs.removal`).

        `again` is told of content that was removed before: without a word about it, an index made again would leave
        it out.
        """
        t, locator = schema.tombstone, entry.locator
        stones = _TOMBSTONES[conn.dialect.name == "postgresql"].all(conn, {"uid": entry.scan.sop_instance_uid})
        if any(stone.state == aside.REFUSED_AGAIN for stone in stones):
            raise DuplicateInstance("this instance was rejected by a rejection note", about=entry.scan.sop_instance_uid)
        if not any(stone.digest == entry.digest for stone in stones):
            return
        here = {"object_key": locator.object_key, "object_offset": locator.offset}
        if any((s.object_key, s.object_offset) == tuple(here.values()) and s.state != "kept" for s in stones):
            if not self._store.holds(locator):  # a removal may have taken them after our put
                raise Unavailable("the same instance was being removed; send it again")
            ours = (t.c.object_key == locator.object_key, t.c.object_offset == locator.offset)
            conn.execute(update(t).where(*ours).values(state="kept"))
        again.append({"sop_instance_uid": entry.scan.sop_instance_uid, "digest": entry.digest, **here})

    def store(self, receiving: Receiving, *, principal: Principal, study_instance_uid: str | None = None) -> Stored:
        """What became of one instance, durable and visible: `prepare` and `file` in one. Raises Quarantined, too.

        The index commits while the disk syncs the bytes; both are awaited. Where the sync fails, the row is taken back.
        """
        prepared = self.prepare(
            receiving, principal=principal, study_instance_uid=study_instance_uid, redo=self._redoes
        )
        placed = prepared.placed
        try:
            pending = self._submit([prepared], redoable=self._redoes and placed is not None)
            if placed is not None:
                self._wait_for_bytes(placed, pending)
            answer = pending.result()
        except Conflict:
            self._young.forget(prepared.series_instance_uid)
            if placed is not None:
                placed.withdraw()
            raise
        finally:
            if placed is not None:
                placed.filed()
        (stored,) = self._told([prepared], answer)
        self._mine.last = prepared if stored.outcome == "stored" else None
        if stored.outcome == "quarantined":
            raise Quarantined(stored.sop_instance_uid)
        return stored

    def _wait_for_bytes(self, placed: Placed, pending: Pending[_Answer]) -> None:
        try:
            placed.wait()
        except (OutOfResources, Unavailable):
            with suppress(ArchiveError):
                pending.result()
            recovery.take_back(self._index, placed.locator, "its bytes could not be written to the disk")
            self._events.publish()
            placed.withdraw()
            raise

    def express(self) -> Express | None:
        """What takes the instances of one association that are alike; None where nothing can but this."""
        needed = self._needed()
        return None if needed is None else Express(*needed)

    def inflow(self) -> Inflow | None:
        """What takes the instances of one body that are alike, to be given to `done`; None where nothing can."""
        return self._inflows.take()

    def done(self, inflow: Inflow) -> None:
        """Have an inflow back: what it has not joined is gone."""
        self._inflows.give(inflow)

    def again(self, taken: Taken) -> Receiving:
        """One that an inflow has taken and that could not join, to go the usual way; its place is given up.

        Raises OutOfResources, or Unavailable where it cannot be read.
        """
        like = taken.likeness.stored
        receiving = self.receive(like.entry.transfer_syntax_uid, like.sop_class_uid, taken.sop_instance_uid)
        try:
            for piece in self._store.chunks(taken.locator, HEAD_BYTES):
                receiving.write(piece)
        except BaseException:
            receiving.abort()
            raise
        finally:
            if isinstance(self._store, FileStore):
                self._store.forget(taken.locator)
        return receiving

    def _inflow(self) -> Inflow | None:
        needed = self._needed()
        return None if needed is None else Inflow(*needed)

    def _needed(self) -> tuple[Parts, Any, Joiner] | None:
        """What the library needs to store instances by itself; None where it cannot."""
        library = native.load()
        if not self._redoes or library is None or not isinstance(self._store, FileStore):
            return None
        joiner = self._index.joiner() if structures.declared(library) else None
        if joiner is None:
            return None
        parts = Parts(
            self._store, self._index, self._events, self._young, self._keys, self.news, self._settings.max_object_bytes
        )
        return parts, library, joiner

    def is_like(self, express: Express) -> bool:
        """Whether instances like the last one of this thread may go through `express`."""
        last, repeats = self._mine.last, self._mine.seen.repeats
        if express.has_taken():
            repeats.worth_it()
        return last is not None and express.learn(last, repeats.following)

    def learns_anew(self, express: Express) -> bool:
        """Whether what has come whole, and is not like what came before, joins its series by `express` all the same.

        So begins the next series where others store it, too: of its first instance here only the header is read.
        """
        like = express.waiting()
        if like is None:
            return False
        seen, entry = self._mine.seen, like.entry
        seen.repeats.worth_it()
        try:
            with express.dataset() as dataset:
                scan = scanner.scan(dataset, entry.transfer_syntax_uid, repeats=seen.repeats)
                locator = replace(entry.locator, length=HEAD_BYTES + len(dataset))
        except ArchiveError:  # it goes the usual way, and is refused in words
            return False
        if scan.sop_class_uid != entry.scan.sop_class_uid or scan.pattern in (None, entry.scan.pattern):
            return False
        if scan.series_instance_uid not in self._keys:
            if (known := filing.looked_up(self._index, scan)) is None:
                return False
            filing.remember(self._keys, scan.series_instance_uid, known)
        arrival = replace(entry.arrival, result_of=_made_by_us(scan.metadata), at=time.time())
        came = filing.Entry(scan, entry.transfer_syntax_uid, entry.digest, locator, HEAD_BYTES, arrival, seen.before)
        prepared = Prepared(came, like.principal)
        if not express.learn_anew(prepared, seen.repeats.following):
            return False
        self._mine.last = prepared
        return True

    def news(self, prepared: Prepared, scope: str) -> tuple[Mapping[str, object], Mapping[str, object]]:
        """The rows of audit and changes that tell of an arrival in a study of this access scope."""
        return _audit_row(prepared), _change_row(prepared, scope)

    def refile(self, locator: Locator) -> bool:
        """Whether an object was filed again of which a crash took the rows (see `pacs.recovery`).

        It is not where anything else is held under its UID, or it is refused: then it had never been filed.
        """
        from pacs import rescan  # which needs the archive, and is needed after a crash only

        try:
            entry = rescan.entry(self._store, locator)
            if filing.held(self._index, entry.scan.sop_instance_uid) is not None:
                return False
            came = entry.arrival
            principal = Principal(came.principal, "ae" if came.source_ae else "token", scope=came.scope)
            prepared = [Prepared(entry, principal)]
            self._told(prepared, self._submit(prepared).result())
        except (Conflict, InvalidInput, NotFound, Corrupt) as error:
            log.warning("an object that a crash left is not filed again: %s", error)
            return False
        return True


def _land(prepared: Sequence[Prepared]) -> None:
    """Return when the bytes of all can be read: nobody is to see an instance before. Raises as `Placed.land`."""
    for each in prepared:
        if each.placed is not None:
            each.placed.land()


def _made_by_us(metadata: Mapping[str, Any]) -> str | None:
    """Our Implementation Class UID for a result of ours that comes back from another system: it triggers nothing."""
    mine = json_model.text(metadata, "00080014") == IMPLEMENTATION_CLASS_UID  # Instance Creator UID
    return IMPLEMENTATION_CLASS_UID if mine else None


def _stored(prepared: Prepared, outcome: aside.Outcome) -> Stored:
    scan = prepared.entry.scan
    return Stored(
        scan.sop_class_uid,
        scan.sop_instance_uid,
        scan.study_instance_uid,
        scan.series_instance_uid,
        outcome,
    )


def _audit_row(prepared: Prepared) -> dict[str, object]:
    entry = prepared.entry
    return audit.row(
        "DICOM Instances Transferred", prepared.principal, "success", entry.arrival.at,
        study_instance_uid=prepared.study_instance_uid, series_instance_uid=prepared.series_instance_uid,
        sop_instance_uid=prepared.sop_instance_uid, workitem_uid=entry.arrival.result_of,
        detail=entry.arrival.source_ae,
    )  # fmt: skip


def _change_row(prepared: Prepared, scope: str) -> dict[str, object]:
    arrival = prepared.entry.arrival
    return changes.row(
        "instance" if arrival.result_of is None else "result",
        at=arrival.at,
        principal=arrival.principal,
        scope=scope,
        study_instance_uid=prepared.study_instance_uid,
        series_instance_uid=prepared.series_instance_uid,
        sop_instance_uid=prepared.sop_instance_uid,
        workitem_uid=arrival.result_of,
    )
