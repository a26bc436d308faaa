"""Object stores, and which of them the settings ask for."""

from __future__ import annotations

from pacs.errors import InvalidInput
from pacs.settings import Settings
from pacs.storage.base import Locator, ObjectStore
from pacs.storage.files import FileStore
from pacs.storage.memory import MemoryStore

__all__ = ["FileStore", "Locator", "MemoryStore", "ObjectStore", "open_store"]


def open_store(settings: Settings) -> ObjectStore:
    """The store of the setting `objects`: "files", "s3://BUCKET/PREFIX", or "memory" for trying things out.

    Raises InvalidInput for anything else and Unavailable where it cannot be reached.
    """
    if settings.objects == "files":
        return FileStore(settings.data)
    if settings.objects == "memory":
        return MemoryStore()
    if settings.objects.startswith("s3://"):
        from pacs.storage.cache import CachedStore  # boto3 is an extra: only where it is wanted
        from pacs.storage.s3 import S3Store

        bucket, _, prefix = settings.objects.removeprefix("s3://").partition("/")
        remote = S3Store(
            bucket,
            prefix.strip("/"),
            spool_dir=settings.data / "spool",
            endpoint=settings.s3_endpoint,
            region=settings.s3_region,
            sse=settings.s3_sse,
        )
        return CachedStore(remote, settings.data / "cache", settings.s3_cache_bytes)
    raise InvalidInput(f'setting objects: {settings.objects!r} is neither "files" nor "s3://BUCKET/PREFIX"')
