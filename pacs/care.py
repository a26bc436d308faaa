"""What a server does beside everything else: the journal written out, ended credentials removed, a slow scrub."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pacs import behind
from pacs.auth import drop_ended
from pacs.errors import ArchiveError
from pacs.journal import Journal
from pacs.scrub import Background, Scrub

if TYPE_CHECKING:
    from pacs.archive import Archive

log = logging.getLogger("m3dicom.care")

CREDENTIALS_EVERY_S = 3600.0
CREDENTIALS_KEPT_S = 86_400.0  # after their end; each command that asks the server makes one
BYTES_PER_S = 50e6  # nobody waits for a scrub: it leaves the disk to those who do


class Care:
    """Called by the scheduler; several servers on one index share the work."""

    def __init__(self, archive: Archive) -> None:
        self._index = archive.index
        self._removal = archive.removal
        self._begun = False
        self._credentials_at = 0.0
        self._store = archive.uncached_store
        self._journal = Journal(archive.uncached_store, archive.index)
        scrub = Scrub(archive.uncached_store, archive.index, bytes_per_s=BYTES_PER_S)
        self._scrub = Background(scrub, archive.settings.scrub_per_day)

    def step(self, now: float) -> None:
        """One round. What a crash or an unreachable store kept out of the journal is written as soon as it can be.

        Raises Unavailable in the first rounds, for as long as the index is behind its store or that cannot be told:
        what comes after this in the scheduler (retention) does not act then.
        """
        if not self._begun:
            behind.refuse(self._store, self._index)  # all of the journal: the start has looked at its end
            self._removal.sweep()  # what a crash cut short
            self._begun = True
        try:
            self._journal.export()
        except ArchiveError as error:
            log.warning("the journal cannot be written: %s; trying again", error)
        if now >= self._credentials_at:
            self._credentials_at = now + CREDENTIALS_EVERY_S
            self._index.transact(lambda conn: drop_ended(conn, now - CREDENTIALS_KEPT_S))
        self._scrub.step(now)

    def close(self) -> None:
        """Stop after the object in hand."""
        self._scrub.close()
