"""The archive: its services bundled, without logic of its own.

DIMSE, DICOMweb and workers are guests of the same object, in one process or in many.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from pacs import behind, recovery
from pacs.accesses import Accesses
from pacs.ahead import ReadAhead
from pacs.audit import Audit
from pacs.commitment import Commitments
from pacs.corrections import Corrections
from pacs.discrepancies import Discrepancies
from pacs.errors import InvalidInput
from pacs.events import Events
from pacs.index.changes import Changes
from pacs.index.engine import Index, open_index
from pacs.ingest import Ingest
from pacs.keeping import Keeping
from pacs.query import QueryService
from pacs.removal import Removal
from pacs.retention import Retention
from pacs.retrieve import Retrieve
from pacs.settings import Settings
from pacs.settle import Settle
from pacs.storage.base import ObjectStore
from pacs.storage.files import FileStore
from pacs.storage.memory import MemoryStore

if TYPE_CHECKING:
    from pacs.decoding import DecodingPool
    from pacs.worklist import Worklist


@dataclass(frozen=True)
class Archive:
    """Every service of one archive. `worklist`, `auth` and `decoding` are put in by `pacs.server`."""

    settings: Settings
    store: ObjectStore
    index: Index
    events: Events
    ingest: Ingest
    query: QueryService
    retrieve: Retrieve
    settle: Settle
    changes: Changes
    removal: Removal
    audit: Audit
    accesses: Accesses
    commitments: Commitments
    corrections: Corrections
    keeping: Keeping
    discrepancies: Discrepancies
    retention: Retention
    worklist: Worklist = None  # type: ignore[assignment]
    auth: Any = None
    decoding: DecodingPool = None  # type: ignore[assignment]

    def with_services(self, **services: Any) -> Self:
        """The same archive with further services put in."""
        return replace(self, **services)

    @property
    def uncached_store(self) -> ObjectStore:
        """The store itself: what is verified is read from there, not from a cache."""
        beneath: ObjectStore = getattr(self.store, "remote", self.store)
        return beneath

    def close(self) -> None:
        """Let go of everything, in order: decoders, readers, index, store."""
        if self.decoding is not None:
            self.decoding.close()
        self.retrieve.close()
        self.accesses.close()
        self.index.close()
        self.store.close()


def open_archive(settings: Settings, events: Events | None = None, *, alone: bool = True) -> Archive:
    """The archive that `settings` describe: store and index opened, schema made, what a crash left swept away.

    Without `alone` a server is using the same data folder.

    Raises InvalidInput for settings that cannot be and Unavailable where a store or database cannot be reached, or the
    index is not whole or older than its store (`pacs.behind`).
    """
    events = events or Events()
    store = open_store(settings, alone=alone)
    try:
        index = open_index(settings.index_url)
        if alone:  # else beside a server that has asked
            try:
                behind.refuse(store, index, newest=True)
            except BaseException:
                index.close()
                raise
        ingest = Ingest(store, index, events, settings)
        recovery.recover(store, index, ingest.refile)
    except BaseException:
        store.close()
        raise
    removal = Removal(store, index, events)
    accesses = Accesses(index)
    return Archive(
        settings=settings,
        store=store,
        index=index,
        events=events,
        ingest=ingest,
        query=QueryService(index),
        retrieve=Retrieve(store, index, ReadAhead() if settings.objects.startswith("s3://") else None, accesses),
        settle=Settle(index, settings),
        changes=Changes(index),
        removal=removal,
        audit=Audit(index),
        accesses=accesses,
        commitments=Commitments(index),
        corrections=Corrections(store, index, events),
        keeping=Keeping(store, index, events, removal),
        discrepancies=Discrepancies(index),
        retention=Retention(store, index, removal, settings.retention),
    )


def open_store(settings: Settings, *, cached: bool = True, alone: bool = True) -> ObjectStore:
    """The store of the setting `objects`: "files", "s3://BUCKET/PREFIX", or "memory" for trying things out.

    With `cached` reads from S3 go through the local cache; without `alone` a server may be using the same data folder.
    Raises InvalidInput for anything else and Unavailable where it cannot be reached.
    """
    if settings.objects == "files":
        return FileStore(settings.data, alone=alone)
    if settings.objects == "memory":
        return MemoryStore()
    if settings.objects.startswith("s3://"):
        from pacs.storage.cache import CachedStore

        try:
            from pacs.storage.s3 import S3Store  # boto3 is an extra: only where it is wanted
        except ImportError:
            raise InvalidInput("setting objects: S3 needs the extra m3dicom[s3]") from None

        bucket, _, prefix = settings.objects.removeprefix("s3://").partition("/")
        remote = S3Store(
            bucket,
            prefix.strip("/"),
            spool_dir=settings.data / ("spool" if alone else "spool-beside"),
            endpoint=settings.s3_endpoint,
            region=settings.s3_region,
            sse=settings.s3_sse,
        )
        return CachedStore(remote, settings.data / "cache", settings.s3_cache_bytes) if cached else remote
    raise InvalidInput(f'setting objects: {settings.objects!r} is neither "files" nor "s3://BUCKET/PREFIX"')
