"""Bodies of many instances that are alike: taken from their connection to the disk by the library alone.

Once one has come the usual way (`pacs.ingest`), what it has in common with those that follow is known
(`pacs.likeness`), and `pacs/native/inflow.c` takes them without the interpreter. Nobody sees them before the body has
ended as it should: then they join their series in one transaction. What is not exactly alike comes back to whoever
reads the body, byte for byte.
"""

from __future__ import annotations

import ctypes
import errno
import threading
from collections.abc import Callable
from contextlib import suppress
from ctypes import addressof, c_char
from typing import TYPE_CHECKING, Any, Final

from pacs.alike import Kept
from pacs.buffers import Memory
from pacs.errors import ArchiveError, Unavailable
from pacs.express import STRIP_BYTES, STRIP_RECORDS, strip_for
from pacs.index.joiner import Joiner
from pacs.likeness import Likeness, Parts, Seen, learned
from pacs.native import structures
from pacs.native.structures import SLOTS
from pacs.spool import IN_MEMORY_BYTES, failed
from pacs.storage.arrival import HEAD_BYTES
from pacs.storage.base import Locator
from pacs.storage.records import HEADER_BYTES, aligned
from pacs.storage.strips import Strip

if TYPE_CHECKING:
    from pacs.auth import Principal
    from pacs.dicom.part10 import HeaderReader
    from pacs.ingest import Prepared

MOST: Final = 8
"""So many bodies are taken this way at the same time: each holds two buffers. Others go the usual way."""

STAGING_BYTES: Final = 256 << 10
"""Room for what has come and belongs to nobody yet."""

_TAKEN_BYTES: Final = 512 << 10
"""Room for what is kept of instances until they join: some hundred of them."""

_IN_VAIN: Final = 4
"""After so many parts in a row that were not as expected, only every so-manieth is tried."""

_GROUP_LENGTH: Final = b"DICM\x02\x00\x00\x00UL\x04\x00"


class Taken:
    """One instance of a body, stored, and visible to nobody until it has joined."""

    __slots__ = ("error", "joined", "likeness", "locator", "sop_instance_uid", "told")

    def __init__(self, likeness: Likeness, told: structures.Taken) -> None:
        self.likeness: Final = likeness
        self.sop_instance_uid: Final = ctypes.string_at(told.uid.bytes, told.uid.size).decode("ascii")
        self.told = told
        key = ctypes.string_at(told.key.bytes, told.key.size).decode()
        self.locator: Final = Locator(key, told.offset, told.length)
        """Where its object is."""
        self.joined = False
        """Whether it is part of its series, durably."""
        self.error: ArchiveError | None = None
        """Why it is not, where nobody else can help."""

    def judge(self) -> None:
        """See whether it was written to its end: what was not is an error."""
        wrote = self.told.wrote
        if wrote != self.told.blocks:
            short = Unavailable("an object was not written to its end")
            self.error = failed(OSError(-wrote, ""), "store an object") if wrote < 0 else short


class _Batch:
    """Those that join in one transaction: they have the same in common."""

    def __init__(self, likeness: Likeness, room: Any) -> None:
        """`room` is where the library keeps them."""
        self.likeness: Final = likeness
        self.room = room
        self.names = Kept()
        self.taken: list[Taken] = []
        self._noted = 0

    def note(self, count: int) -> list[Taken]:
        """Those that the library has added, of `count` by now."""
        new = list[Taken]()
        for _ in range(count - len(self.taken)):
            told = structures.Taken.from_buffer(self.room, self._noted)
            self._noted += told.size
            new.append(Taken(self.likeness, told))
        self.taken += new
        return new

    def join(self, library: Any, joiner: Joiner) -> list[Taken]:
        """Those that have joined; of others it is known why not, unless they are to go the usual way."""
        if not self.taken:
            return []
        outcomes = bytearray([structures.UNUSUAL]) * len(self.taken)
        joins = False
        with suppress(ArchiveError):  # whoever files them the usual way is told
            joins = self.likeness.joins()
        if joins:
            to = (c_char * len(outcomes)).from_buffer(outcomes)
            terms = ctypes.byref(self.likeness.terms)
            library.m3_join_taken(joiner.address, terms, addressof(self.room), len(outcomes), addressof(to))
        if outcomes.count(structures.JOINED) < len(outcomes):
            self.likeness.look_again()
        for taken, outcome in zip(self.taken, outcomes, strict=True):
            taken.joined = outcome == structures.JOINED
            taken.judge()
        return [taken for taken in self.taken if taken.joined]


class Inflow:
    """What takes the alike instances of one body after the other. For one thread at a time."""

    def __init__(self, parts: Parts, library: Any, joiner: Joiner) -> None:
        """`joiner` writes to the index."""
        self._parts, self._library, self._joiner = parts, library, joiner
        self._room = ctypes.create_string_buffer(structures.room(library, structures.Inflow))
        self._followed = structures.Followed()
        self._packed = ctypes.create_string_buffer(structures.PACKED_ROOM)
        self._staging = ctypes.create_string_buffer(STAGING_BYTES)
        self._terms = terms = structures.Inflow.from_buffer(self._room)
        terms.followed, terms.packed = addressof(self._followed), addressof(self._packed)
        terms.staging, terms.staging_room = addressof(self._staging), STAGING_BYTES
        self.seen: Final = Seen()
        """For those that go the usual way."""
        self._likeness: Likeness | None = None
        self._unfit: object = None
        self._framing = b"", b""
        self._in_vain = 0
        self._memory: list[tuple[Memory, c_char, int]] = []
        self._strip: Strip | None = None
        self._batches: list[_Batch] = []
        self._rooms: list[Any] = []

    # --- what instances are like ---

    def learn(self, prepared: Prepared, header: HeaderReader) -> None:
        """Told of an instance that came the usual way, with the header of its file."""
        pattern = prepared.entry.scan.pattern
        if prepared.placed is None or pattern is None or pattern is self._unfit:
            self._likeness = None  # also where all of it was here already: others may be, too
            return
        if self._likeness is None or self._likeness.pattern is not pattern:
            self._likeness = learned(self._parts, prepared, self.seen.repeats.following)
        raw, at = header.header, header.sop_instance_uid_at
        size = len(raw) - at and int.from_bytes(raw[at - 2 : at], "little")
        if self._likeness is None or not self._write_meta(raw, at, size):
            self._likeness, self._unfit = None, pattern

    def _write_meta(self, raw: bytes, at: int, size: int) -> bool:
        terms, likeness = self._terms, self._likeness
        assert likeness is not None
        reach = likeness.terms.pattern.contents.reach
        if raw[128:140] != _GROUP_LENGTH or at < 152 or len(raw) > structures.META_ROOM - 64:
            return False
        if len(raw) + 64 + reach > STAGING_BYTES or likeness.stored.entry.locator.length > IN_MEMORY_BYTES:
            return False
        self._meta = ctypes.create_string_buffer(raw, len(raw))
        terms.meta, terms.meta_size = addressof(self._meta), len(raw)
        terms.uid_at, terms.uid_size = at, size
        return True

    def may_take(self, principal: Principal, study_instance_uid: str | None) -> bool:
        """Whether the next part may be one for the library, of this principal and addressed to this study."""
        likeness = self._likeness
        if likeness is None or likeness.stored.principal != principal:
            return False
        if study_instance_uid is not None and study_instance_uid != likeness.stored.study_instance_uid:
            return False
        self._in_vain += 1
        return self._in_vain <= _IN_VAIN or self._in_vain % _IN_VAIN == 0

    # --- a body ---

    def begin(self, fd: int, left: int, came: memoryview, framing: tuple[bytes, bytes]) -> bool:
        """Whether the library may take what follows: the content of a part, of which `came` has come.

        `left` bytes are still to come on the connection `fd`; `framing` is what ends a part's content, and what then is
        before the next one's. Where it may not, nothing has happened.
        """
        terms, likeness = self._terms, self._likeness
        assert likeness is not None
        if len(came) > STAGING_BYTES or not self._open():
            return False
        terms.alike = ctypes.pointer(likeness.terms)
        terms.fd, terms.left, terms.stage = fd, left, structures.AT_CONTENT
        terms.start, terms.end = 0, len(came)
        ctypes.memmove(self._staging, bytes(came), len(came))
        if framing != self._framing:
            self._framing = framing
            self._delimiter, self._head = (ctypes.create_string_buffer(each, len(each)) for each in framing)
            terms.delimiter, terms.delimiter_size = addressof(self._delimiter), len(framing[0])
            terms.head, terms.head_size = addressof(self._head), len(framing[1])
        self._taking = likeness
        return True

    def _open(self) -> bool:
        """Whether there is memory to take them into."""
        if self._memory:
            return True
        terms, store = self._terms, self._parts.store
        for slot in range(SLOTS):
            context = store.writes.take()
            if context is None:
                self._give_memory()
                return False
            memory = store.buffers.take()
            pin = c_char.from_buffer(memory.map, memory.start)
            self._memory.append((memory, pin, context))
            terms.memory[slot], terms.write[slot] = addressof(pin), context
        terms.room = min(IN_MEMORY_BYTES - HEAD_BYTES, self._parts.limit)
        terms.slot = 0
        return True

    def _add_batch(self, likeness: Likeness) -> None:
        room = self._rooms.pop() if self._rooms else ctypes.create_string_buffer(_TAKEN_BYTES)
        batch = _Batch(likeness, room)
        self._batches.append(batch)
        self._terms.taken, self._terms.taken_room, self._terms.count = addressof(batch.room), _TAKEN_BYTES, 0
        if self._strip is not None:
            self._terms.strip = strip_for(self._strip, batch.names, redo=False, at=self._terms.strip.at)

    def run(self, wait_s: float, until: float, most: int) -> tuple[int, list[Taken]]:
        """Take parts; why it stopped (QUIET, TURN, OTHER, UNLIKE, NEXT or LEFT), and what was taken.

        It stops where nothing comes for `wait_s`, and between two parts after the time `until` (time.monotonic) or
        `most` bytes.
        """
        terms, new = self._terms, list[Taken]()
        terms.patience_ms, terms.until, terms.most = int(wait_s * 1000), until, most
        self.came, self.waited_s = 0, 0.0
        if not self._batches or self._batches[-1].likeness is not self._taking:
            self._add_batch(self._taking)
        while True:
            flow = self._library.m3_inflow(addressof(terms))
            self.came += terms.came
            self.waited_s += terms.waited
            new += self._batches[-1].note(terms.count)
            if flow == structures.FULL:
                self._add_batch(self._taking)
                flow = structures.TURN
            elif flow == structures.NO_ROOM:
                if self._renew():
                    continue
                flow = structures.UNLIKE
            if new:
                self._in_vain = 0
                self.seen.repeats.worth_it()
            return flow, new

    def _renew(self) -> bool:
        """Whether there is a strip that holds the next record."""
        terms, store = self._terms, self._parts.store
        record = aligned(HEADER_BYTES + HEAD_BYTES + terms.size)
        follow = (terms.left + terms.end - terms.start) // (terms.size + terms.meta_size)
        self._leave_strip()
        try:
            strip = store.strip(max(record, min((1 + follow) * record, STRIP_RECORDS * record, STRIP_BYTES)))
        except ArchiveError:  # who stores the usual way is told
            return False
        if strip is None:
            return False
        self._strip = strip
        terms.strip = strip_for(strip, self._batches[-1].names, redo=False)
        return True

    def _leave_strip(self) -> None:
        self._library.m3_inflow_land(addressof(self._terms))
        strip, self._strip = self._strip, None
        if strip is not None:
            self._clean(strip)
            strip.close(self._terms.strip.at)
        self._terms.strip = structures.Strip()

    def _clean(self, strip: Strip) -> None:
        """Leave nothing of what was not written to its end."""
        all_taken = [taken for batch in self._batches for taken in batch.taken]
        for each in (taken.told for taken in all_taken if taken.locator.object_key == strip.name):
            if each.wrote != each.blocks and strip.at < each.offset < strip.end:
                strip.erase(each.offset - HEADER_BYTES, each.blocks)
                if each.wrote == -errno.EIO:
                    strip.broken()

    def handed_back(self, flow: int) -> bytes:
        """What has come and was not taken: content of a part, or what follows a delimiter where `flow` is NEXT."""
        terms = self._terms
        rest = self._staging.raw[terms.start : terms.end]
        if flow != structures.UNLIKE:
            return rest
        assert self._memory
        memory = self._memory[terms.slot][0]
        start = memory.start + HEADER_BYTES + HEAD_BYTES
        return b"".join((bytes(terms.meta_now[: terms.meta_now_size]), memory.map[start : start + terms.size], rest))

    # --- its end ---

    def join(self) -> None:
        """Make what was taken durable and visible. Each of them is told what became of it.

        One that is neither joined nor has an error has to go the usual way, and was not there before.
        """
        self._leave_strip()
        batches, self._batches = self._batches, []
        joined = [taken for batch in batches for taken in batch.join(self._library, self._joiner)]
        if len(joined) < sum(len(batch.taken) for batch in batches):
            self._likeness = None
        self._keep_room(batches)
        if not joined:
            return
        try:
            self._parts.index.make_durable()
        except ArchiveError as error:
            for taken in joined:
                taken.error = error
        self._parts.index.joined(len(joined))
        self._parts.events.publish()

    def leave(self) -> None:
        """Join nothing of what was taken: each of them that has no error has to go the usual way."""
        self._leave_strip()
        batches, self._batches = self._batches, []
        for taken in (taken for batch in batches for taken in batch.taken):
            taken.judge()
        self._keep_room(batches)

    def _keep_room(self, batches: list[_Batch]) -> None:
        self._rooms += [batch.room for batch in batches]
        del self._rooms[1:]

    def close(self) -> None:
        """Give back what a body needs, and leave nothing of what was to join later. May be called again."""
        self._leave_strip()
        for batch in self._batches:
            for taken in batch.taken:
                self._parts.store.forget(taken.locator)
        self._keep_room(self._batches)
        self._batches = []
        self._give_memory()

    def _give_memory(self) -> None:
        store, self._terms.memory = self._parts.store, (ctypes.c_void_p * SLOTS)()
        while self._memory:
            memory, pin, context = self._memory.pop()
            del pin
            store.buffers.give(memory)
            store.writes.give(context)


class Inflows:
    """The inflows of one process: as many as there are bodies that need one, up to MOST."""

    def __init__(self, make: Callable[[], Inflow | None]) -> None:
        """`make` makes one, or None where the library cannot."""
        self._make = make
        self._free: list[Inflow] = []
        self._made = 0
        self._lock = threading.Lock()

    def take(self) -> Inflow | None:
        """One for a body, the one used last; None where there is none left."""
        with self._lock:
            if self._free:
                return self._free.pop()
            if self._made >= MOST:
                return None
            self._made += 1
        made = self._make()
        if made is None:
            self._made = MOST
        return made

    def give(self, inflow: Inflow) -> None:
        """Have one back; what it has not joined is gone."""
        inflow.close()
        self._free.append(inflow)
