"""From settings to parts that know each other: the only place where one implementation is chosen over another."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from starlette.routing import BaseRoute

from pacs.auth import Auth
from pacs.errors import ArchiveError, InvalidInput
from pacs.index.engine import open_index
from pacs.server import doors

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.settings import Settings

DICOMWEB_ROOT = "/dicom-web"
Routes = list[BaseRoute]


def refuse_impossible(settings: Settings, *, doors_open: bool = True) -> None:
    """Nothing, or InvalidInput in words for settings that cannot work together or would be unsafe."""
    if settings.objects != "files" and not settings.objects.startswith("s3://"):
        raise InvalidInput(f'setting objects: {settings.objects!r} is neither "files" nor s3://BUCKET/PREFIX')
    if settings.index != "sqlite" and not settings.index.startswith("postgresql"):
        raise InvalidInput('setting index: it must be "sqlite" or a postgresql+psycopg:// URL')
    if settings.queue != "local" and not settings.queue.startswith(("redis://", "rediss://", "unix://")):
        raise InvalidInput('setting queue: it must be "local" or a redis:// or unix:// URL')
    if settings.index == "sqlite" and settings.queue != "local":
        raise InvalidInput("a Redis queue serves several processes, SQLite only one: use PostgreSQL as index")
    if settings.device not in ("auto", "cpu", "gpu"):
        raise InvalidInput('setting device: it must be "auto", "cpu" or "gpu"')
    if not doors_open:
        if settings.index == "sqlite" or settings.objects == "files":
            raise InvalidInput("workers of their own need what all can reach: PostgreSQL as index and S3 for objects")
        return
    if not doors.parse(settings.http, "http").is_loopback and not settings.behind_tls_proxy:
        raise InvalidInput(
            f"setting http: {settings.http} is open to the network without TLS; put a TLS proxy in front and set "
            "behind_tls_proxy, or keep to a loopback address"
        )
    if settings.dimse and not doors.parse(settings.dimse, "dimse").is_loopback and not settings.aes:
        raise InvalidInput(f"setting dimse: {settings.dimse} is open to the network; configure the AEs that may call")


def build(settings: Settings) -> Archive:
    """The archive that `settings` describe, with everything that belongs to it."""
    from pacs.archive import open_archive

    return open_archive(settings)


@contextmanager
def credentials(settings: Settings) -> Iterator[Auth]:
    """Only the credentials, for commands that run beside a server."""
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    index = open_index(settings.index_url)
    try:
        yield Auth(index, settings.aes)
    finally:
        index.close()


def running(settings: Settings) -> dict[str, Any]:
    """What the server on this data folder says of itself; empty when none runs."""
    try:
        found: dict[str, Any] = json.loads((settings.data / "server.json").read_text())
        os.kill(int(found["pid"]), 0)
    except (OSError, ValueError, KeyError):
        return {}
    return found


def problems(archive: Archive) -> dict[str, str]:
    """What the archive needs and cannot reach, by name; empty when all is well."""
    found = {}
    for name, check in (("objects", archive.store.check), ("index", archive.index.check)):
        try:
            check()
        except ArchiveError as error:
            found[name] = error.reason
    return found


__all__ = ["DICOMWEB_ROOT", "build", "credentials", "problems", "refuse_impossible", "replace", "running"]
