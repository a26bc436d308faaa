"""The journal: what happened to the store beyond arrivals, kept beside the objects so that the index can be made again.

An object tells by itself how it came (`pacs.storage.arrival`). That it was deleted, replaced by another version or
corrected is a record here: a row in the transaction that does it, and a small sidecar in the store, written after the
commit and before anybody is told. Records are replayed in the order of their sequence numbers; whoever records takes
the locks of what it changes first, so that the order of records is the order of the changes.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, func, insert, select, text, update

from pacs.errors import Corrupt
from pacs.index.engine import Index
from pacs.index.journal import journal
from pacs.storage.base import ObjectStore

PREFIX = "journal/"
_AT_ONCE = 200

Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """One thing that happened. `at` is in Unix seconds; what the facts hold belongs to the kind."""

    seq: int
    uuid: str
    kind: str
    at: float
    facts: dict[str, Any]

    @property
    def name(self) -> str:
        """The name of its sidecar: in the order of what happened, and never that of another record."""
        return f"{PREFIX}{self.seq:020}-{self.uuid}.json"

    def to_bytes(self) -> bytes:
        """The content of its sidecar."""
        whole = {"seq": self.seq, "uuid": self.uuid, "kind": self.kind, "at": self.at, "facts": self.facts}
        return orjson.dumps(whole)

    @classmethod
    def from_bytes(cls, data: bytes, about: str = "") -> Record:
        """The record of a sidecar. Raises Corrupt when it is none."""
        try:
            return cls(**orjson.loads(data))
        except (ValueError, TypeError):
            raise Corrupt("a journal record cannot be read", about=about) from None


def record(conn: Connection, kind: str, facts: Facts, *, at: float | None = None) -> None:
    """Add a record to the transaction of `conn`; call `Journal.export` once it is committed, before answering.

    `facts` are what JSON can hold: UIDs, digests, locators, names of principals.
    """
    row = {
        "uuid": uuid.uuid4().hex,
        "kind": kind,
        "facts": orjson.dumps(facts),
        "at": time.time() if at is None else at,
    }
    conn.execute(insert(journal).values(**row, exported_at=None))


class Journal:
    """Writing records into the store, and reading them there. Safe from any thread and any process."""

    def __init__(self, store: ObjectStore, index: Index) -> None:
        self._store = store
        self._index = index

    def export(self) -> int:
        """How many committed records were written into the store: all that waited, each durable on return.

        A record may be written twice, always with the same name and content. Raises Unavailable or OutOfResources;
        what is left then is written by a later call (the scheduler makes one each round).
        """
        t = journal.c
        waiting = select(t.seq, t.uuid, t.kind, t.at, t.facts).where(t.exported_at.is_(None)).order_by(t.seq)
        written = 0
        while True:
            with self._index.read() as conn:
                rows = conn.execute(waiting.limit(_AT_ONCE)).all()
            if not rows:
                return written
            self._index.make_durable()  # what arrives may be redoable: no sidecar may outlive its row
            for row in rows:
                entry = Record(row.seq, row.uuid, row.kind, row.at, orjson.loads(row.facts))
                self._store.put_small(entry.name, entry.to_bytes())
            done = [row.seq for row in rows]
            marked = update(journal).where(t.seq.in_(done)).values(exported_at=time.time())
            self._index.transact(lambda conn, marked=marked: conn.execute(marked) and None)  # type: ignore[misc]
            written += len(rows)

    def waiting(self) -> int:
        """How many committed records are not in the store yet."""
        with self._index.read() as conn:
            return int(conn.execute(select(func.count()).where(journal.c.exported_at.is_(None))).scalar_one())

    def records(self) -> Iterator[Record]:
        """Every record in the store, in order. Raises Corrupt for one that cannot be read."""
        return read(self._store)


def read(store: ObjectStore) -> Iterator[Record]:
    """Every record in the store, in order. Raises Corrupt for one that cannot be read."""
    for name in sorted(store.small(PREFIX)):
        yield Record.from_bytes(store.read_small(name), name)


def known(conn: Connection) -> set[str]:
    """The UUIDs of the records that this index has."""
    return set(conn.execute(select(journal.c.uuid)).scalars())


def last_name(conn: Connection) -> str:
    """The name of the last record that this index has; "" where it has none."""
    last = conn.execute(select(journal.c.seq, journal.c.uuid).order_by(journal.c.seq.desc()).limit(1)).first()
    return f"{PREFIX}{last.seq:020}-{last.uuid}.json" if last is not None else ""


def adopt(conn: Connection, records: Sequence[Record]) -> None:
    """Add records that were read from the store to an index that does not have them; later ones count on from there.

    The sequence number of one that another record has taken meanwhile (a restored index that went on without them) is
    not kept: its sidecar stays as it is, and its UUID tells that it is known.
    """
    taken = set(conn.execute(select(journal.c.seq)).scalars())
    now = time.time()
    late = []
    for each in records:
        row = {
            "uuid": each.uuid,
            "kind": each.kind,
            "facts": orjson.dumps(each.facts),
            "at": each.at,
            "exported_at": now,
        }
        if each.seq in taken:
            late.append(row)
        else:
            taken.add(each.seq)
            conn.execute(insert(journal).values(**row, seq=each.seq))
    if conn.dialect.name == "postgresql" and taken:
        conn.execute(text("SELECT setval(pg_get_serial_sequence('journal', 'seq'), (SELECT max(seq) FROM journal))"))
    for row in late:
        conn.execute(insert(journal).values(**row))
