"""C-STOREs that a peer sends one like the other: taken, filed and answered by the library alone.

Once some have come the usual way (`pacs.ingest`), what they have in common is known (`pacs.likeness`), and
`pacs/native/express.c` does the same for those that follow without the interpreter. What is not exactly like them comes
back here, and goes the usual way.
"""

from __future__ import annotations

import ctypes
import errno
from ctypes import addressof, c_char, sizeof
from typing import TYPE_CHECKING, Any, Final, Protocol

from pacs import digest, native
from pacs.alike import Kept
from pacs.buffers import Memory
from pacs.errors import ArchiveError
from pacs.index.joiner import Joiner
from pacs.likeness import Likeness, Parts, learned, value_of
from pacs.native import DONE, structures
from pacs.spool import IN_MEMORY_BYTES, Spool
from pacs.storage.arrival import HEAD_BYTES
from pacs.storage.records import HEADER_BYTES, aligned
from pacs.storage.strips import Strip

if TYPE_CHECKING:
    from pacs.dicom.repeats import Following
    from pacs.ingest import Prepared

STRIP_BYTES: Final = 8 << 20
STRIP_RECORDS: Final = 64
"""A strip is made for so many records, up to so many bytes."""

SPELL_MS: Final = 50
"""So long the library takes one after the other before it says so: those who wait for news learn of it then."""
PAUSE_MS: Final = 10
"""Unless for so long none came."""


class Like(Protocol):
    """A message with gaps for Message ID and SOP Instance UID."""

    @property
    def raw(self) -> bytes:
        """All of it."""

    @property
    def number_at(self) -> int:
        """Where the number is."""

    @property
    def uid_at(self) -> int:
        """Where the UID is."""

    @property
    def room(self) -> int:
        """How long the UID is, padded."""


class Express:
    """The passage of one association's instances through the library. For the thread of that association."""

    def __init__(self, parts: Parts, library: Any, joiner: Joiner) -> None:
        """`joiner` writes to the index."""
        self._parts = parts
        self._library = library
        self._room = ctypes.create_string_buffer(structures.room(library, structures.Express))
        self._followed = structures.Followed()
        self._packed = ctypes.create_string_buffer(structures.PACKED_ROOM)
        self.terms = structures.Express.from_buffer(self._room)
        """What the library is told, and tells."""
        self.address = addressof(self.terms)
        self._likeness: Likeness | None = None
        self._last: Likeness | None = None
        self._name = Kept()
        self._asked: tuple[Like, Like] | None = None
        self._unfit: object = None
        self._strip: Strip | None = None
        self._memory: Memory | None = None
        self._pin: c_char | None = None
        self._length = self._taken = self._told = 0
        self.terms.followed, self.terms.packed = addressof(self._followed), addressof(self._packed)
        self.terms.joiner = joiner.address
        self.terms.spell_ms, self.terms.pause_ms = SPELL_MS, PAUSE_MS

    # --- what instances are like ---

    def learn(self, stored: Prepared, known: Following | None) -> bool:
        """Whether those that follow may be taken: they are like `stored`, which followed the pattern `known`."""
        pattern = stored.entry.scan.pattern
        if pattern is None or pattern is self._unfit:
            return False
        if self._likeness is not None and self._likeness.pattern is pattern:
            return True
        self._likeness = made = learned(self._parts, stored, known, self._last)
        self._last = made or self._last
        if made is None or not made.joins():
            self._likeness, self._unfit = None, pattern
            return False
        self._follow(made)
        return True

    def waiting(self) -> Prepared | None:
        """What the data set was expected to be like that has come whole and is not; None where that is not so.

        Or none was taken since the last surprise: most likely the next one is none that many follow.
        """
        terms = self.terms
        whole = terms.outcome == DONE and terms.hashed and not terms.stage
        return self._likeness.stored if whole and self._likeness is not None and self.has_taken() else None

    def learn_anew(self, came: Prepared, known: Following | None) -> bool:
        """Whether it may be taken after all: it joins its series, and others are like `came`, which is read from it."""
        made = learned(self._parts, came, known, self._last)
        if made is None or not made.joins():
            return False
        self._likeness = self._last = made
        self._follow(made)
        self.terms.stage = structures.TO_FOLLOW
        return True

    def _follow(self, made: Likeness) -> None:
        self.terms.alike = ctypes.pointer(made.terms)
        self._length = made.stored.entry.locator.length

    def answers(self, request: Like, reply: Like) -> None:
        """Told what their command sets are like, and the responses."""
        terms = self.terms
        if self._asked == (request, reply):
            return
        self._asked = request, reply
        self._reply = ctypes.create_string_buffer(reply.raw, len(reply.raw))
        self._request = request.raw
        terms.like, terms.like_size = ctypes.cast(ctypes.c_char_p(self._request), ctypes.c_void_p), len(request.raw)
        terms.number_at, terms.uid_at, terms.uid_room = request.number_at, request.uid_at, request.room
        terms.reply, terms.reply_size = addressof(self._reply), len(reply.raw)
        terms.reply_number_at, terms.reply_uid_at = reply.number_at, reply.uid_at

    def unsent(self) -> bytes:
        """What is left of the last response."""
        return self._reply.raw[len(self._reply) - self.terms.unsent :]

    # --- where they go ---

    def open(self) -> bool:
        """Whether there is a place for them, still or anew. Followed by `close`."""
        self.terms.size = self.terms.stage = 0
        if self._memory is not None and self._strip is not None:
            return True
        self.close()
        context = self._parts.store.writes.take()
        if context is None:
            return False
        self.terms.write = context
        self._remember(self._parts.store.buffers.take())
        self.terms.room = min(IN_MEMORY_BYTES - HEAD_BYTES, self._parts.limit)
        return self.renew()

    def _remember(self, memory: Memory) -> None:
        self._memory = memory
        self._pin = c_char.from_buffer(memory.map, memory.start)
        self.terms.memory = addressof(self._pin)

    def renew(self) -> bool:
        """Whether there is a strip that holds the next record."""
        terms, store = self.terms, self._parts.store
        record = aligned(HEADER_BYTES + max(HEAD_BYTES + terms.size, self._length))
        count = min(STRIP_RECORDS, max(1, STRIP_BYTES // record))  # nothing is left that has to be given back
        try:
            if self._strip is not None:
                self._leave_strip()
            strip = store.strip(count * record)
        except ArchiveError:  # who stores the usual way is told
            return False
        if strip is None:
            return False
        self._strip, self._name = strip, Kept()
        terms.strip = strip_for(strip, self._name, redo=True)
        return True

    def _leave_strip(self) -> None:
        strip, self._strip = self._strip, None
        if strip is not None:
            strip.close(self.terms.strip.at)

    def tell(self) -> None:
        """Let others know of the instances that were stored since."""
        count, self._told = self.terms.stored - self._told, self.terms.stored
        if count:
            self._parts.index.joined(count)
            self._parts.events.publish()

    def has_taken(self) -> bool:
        """Whether instances went through since this was asked last."""
        before, self._taken = self._taken, self.terms.stored
        return before != self._taken

    def dataset(self) -> memoryview:
        """What has come of a data set, valid until `close`."""
        assert self._memory is not None
        start = self._memory.start + HEADER_BYTES + HEAD_BYTES
        return memoryview(self._memory.map)[start : start + self.terms.size]

    def give(self, spool: Spool) -> bool:
        """Whether a spool that is still empty has that now, hashed as it is, and we its memory: nothing is copied."""
        if self._memory is None or not self.terms.hashed or (spool.lead, spool.reserve) != (HEADER_BYTES, HEAD_BYTES):
            return False
        hashed = native.Hash.from_buffer_copy(self._room, sizeof(structures.Express))
        self._remember(spool.exchange(self._memory, self.terms.size, digest.Compiled(self._library, hashed)))
        return True

    def undo(self) -> None:
        """Leave nothing of an instance that goes the usual way after all."""
        terms = self.terms
        if terms.erase_size and self._strip is not None:
            self._strip.erase(terms.strip.at, terms.erase_size)
            terms.strip.at += terms.erase_size
            terms.erase_size = 0
            if terms.joined == structures.UNWRITTEN and terms.alike.contents.joining.wrote == -errno.EIO:
                self._strip.broken()
                self._leave_strip()
            if self._likeness is not None:
                self._likeness.look_again()
            self._likeness = None  # study or series may have gone elsewhere: the next one is not written in vain, too

    def close(self) -> None:
        """Give back what `open` took. May be called again."""
        self._leave_strip()
        self._pin = None
        memory, self._memory = self._memory, None
        if memory is not None:
            self._parts.store.buffers.give(memory)
            self._parts.store.writes.give(self.terms.write)


def strip_for(strip: Strip, kept: Kept, *, redo: bool, at: int = 0) -> structures.Strip:
    """A strip as the library fills it, further on from `at` where it was begun.

    With `redo` its records are filed again where a crash takes their rows. `kept` has its name.
    """
    made = structures.Strip(at or strip.at, strip.end, fd=strip.fd, redo=redo, name=value_of(strip.name, kept))
    made.nonce[:] = list(strip.nonce)
    return made
