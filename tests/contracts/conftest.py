"""Every implementation of each interface, for the suites that all of them have to pass."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import PostgreSQL, S3Server, moto_server, postgresql_cluster, rclone_server

from pacs.events import Events
from pacs.index.engine import Index, open_index
from pacs.ingest import Ingest
from pacs.settings import Settings
from pacs.storage.base import ObjectStore
from pacs.storage.cache import CachedStore
from pacs.storage.files import FileStore
from pacs.storage.memory import MemoryStore
from pacs.storage.s3 import S3Store

__all__ = ["moto_server", "postgresql_cluster", "rclone_server"]


def s3_store(server: S3Server, folder: Path, **options: object) -> S3Store:
    """A store in the server's bucket, under a prefix of its own."""
    return S3Store(
        server.bucket, folder.name, spool_dir=folder / "spool", endpoint=server.endpoint,
        access_key=server.access_key, secret_key=server.secret_key, **options,
    )  # fmt: skip


@pytest.fixture(params=["memory", "files", "s3-moto", "s3-rclone", "s3-cached"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    """Every object store."""
    made: ObjectStore
    match request.param:
        case "memory":
            made = MemoryStore()
        case "files":
            made = FileStore(tmp_path)
        case "s3-moto":
            made = s3_store(request.getfixturevalue("moto_server"), tmp_path)
        case "s3-rclone":
            made = s3_store(request.getfixturevalue("rclone_server"), tmp_path)
        case _:
            remote = s3_store(request.getfixturevalue("moto_server"), tmp_path)
            made = CachedStore(remote, tmp_path / "cache", 10 << 20, block=1000)
    yield made
    made.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def index_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of each kind; with an index in it where that is all that the test looks at."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'index.db'}"
    cluster: PostgreSQL = request.getfixturevalue("postgresql_cluster")
    return cluster.new_index() if "index" in request.fixturenames else cluster.new_database()


@pytest.fixture
def index(index_url: str) -> Iterator[Index]:
    """An empty index of each kind."""
    made = open_index(index_url)
    yield made
    made.close()


@pytest.fixture
def memory() -> Iterator[MemoryStore]:
    """A store where it does not matter which."""
    made = MemoryStore()
    yield made
    made.close()


@pytest.fixture
def ingest(memory: MemoryStore, index: Index) -> Ingest:
    """The door of an archive on each kind of index."""
    return Ingest(memory, index, Events(), Settings(stable_after_s=1))
