"""Instances that a peer sends one like the other, and an archive with a door that tells which way they went."""

from __future__ import annotations

import errno
import os
import pty
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import dicom_data
import pytest
import rebuilding
from dimse_client import CT, EXPLICIT, IMPLICIT, VERIFICATION, Association, command, pdu, pdv
from pydicom import Dataset
from servers import missing
from sqlalchemy import func, select

from pacs import native
from pacs.archive import Archive, open_archive, open_store
from pacs.auth import Auth
from pacs.dimse.acceptor import Acceptor, serve
from pacs.index import schema
from pacs.index.engine import Index
from pacs.ingest import Ingest
from pacs.settings import Settings

CONTEXTS = ((CT, (EXPLICIT,)), (VERIFICATION, (IMPLICIT,)))


class Archived(Protocol):
    """What has an archive."""

    @property
    def archive(self) -> Archive:
        """It."""


class Place:
    """An archive with its door, which counts what goes the usual way."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.archive = open_archive(Settings(data=folder, **settings))
        self.archive = self.archive.with_services(auth=Auth(self.archive.index))
        self.acceptor: Acceptor = serve(self.archive, host="127.0.0.1", port=0, ae_title="M3DICOM")
        self.usual = 0
        store = Ingest.store

        def counted(ingest: Ingest, *args: Any, **kwargs: Any) -> Any:
            self.usual += ingest is self.archive.ingest
            return store(ingest, *args, **kwargs)

        monkeypatch.setattr(Ingest, "store", counted)

    def associate(self, contexts: Any = CONTEXTS) -> Association:
        return Association(self.acceptor.address, contexts=contexts)

    @property
    def held(self) -> int:
        with self.archive.index.read() as conn:
            return int(conn.execute(select(func.count()).select_from(schema.instance)).scalar_one())

    def close(self) -> None:
        self.acceptor.close(0)
        self.archive.close()

    def equals_rebuild(self) -> None:
        """Close; an index made again from the objects has the same rows."""
        self.close()
        equals_rebuild(self.archive.settings)


def equals_rebuild(settings: Settings) -> None:
    """Of an archive that is closed: an index made again from the objects has the same rows."""
    old = rebuilding.contents(settings.index_url)
    for path in settings.data.glob("index.db*"):
        path.unlink()
    rebuilding.make_again(settings)
    rebuilding.assert_same(rebuilding.contents(settings.index_url), old)


@contextmanager
def opened(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Iterator[Place]:
    """An archive of which something goes by the library."""
    if native.load() is None:
        missing("the compiled part (python -m pacs.native.make)")
    made = Place(folder, monkeypatch, **settings)
    yield made
    made.close()


def send(assoc: Association, ds: Dataset, syntax: str = EXPLICIT) -> int:
    sop_class, uid = str(ds.SOPClassUID), str(ds.SOPInstanceUID)
    return int(assoc.store(sop_class, uid, dicom_data.dataset_bytes(ds, syntax))[0x0900])


def slices(count: int, number: int = 0, **attributes: Any) -> list[Dataset]:
    """A series whose instances differ in numbers, positions, times and texts of many lengths."""
    made = []
    for at, ds in enumerate(dicom_data.series(count, number=number, **attributes)):
        ds.SOPInstanceUID = f"1.2.3.{number + 1}.{1000 + at}"
        ds.InstanceNumber = at * 7 - 3
        ds.AcquisitionNumber = [1, 22, 333][at % 3]
        ds.ContentDate = f"2024011{at % 10}"
        ds.ContentTime = ["101112", "101112.5", "235959.123456"][at % 3]
        ds.AcquisitionDateTime = ["20240110101112.250000", "20240110101113"][at % 2]
        ds.SliceLocation = [0, "-0.5", "12.500", "+7", "123456.789", "1e3", "00.125"][at % 7]
        ds.ImagePositionPatient = [-1.5 * at, 0.25, 100 + at]
        ds.ImageComments = f"slice {at}"
        ds.ImageType = ["ORIGINAL", "PRIMARY", ["AXIAL", "LOCALIZER"][at % 2]]
        made.append(ds)
    return made


def of(ds: Dataset) -> tuple[str, bytes]:
    return str(ds.SOPInstanceUID), dicom_data.dataset_bytes(ds)


def pieces(assoc: Association, uid: str, data: bytes, size: int, first: int = 0, priority: int = 0) -> bytes:
    """A C-STORE-RQ whose data set comes in PDUs of `size`; `first` bytes of its command set have a PDU of their own."""
    fields: dict[int, int | str | bytes] = {
        0x0002: CT, 0x0100: 1, 0x0110: assoc.next_id(), 0x0700: priority, 0x0800: 1, 0x1000: uid,
    }  # fmt: skip
    raw = command(fields)
    made = [pdu(4, pdv(1, 1, raw[:first]))] if first else []
    made.append(pdu(4, pdv(1, 3, raw[first:])))
    for at in range(0, len(data), size):
        made.append(pdu(4, pdv(1, 0 if at + size < len(data) else 2, data[at : at + size])))
    return b"".join(made)


def message(assoc: Association, uid: str, data: bytes, priority: int = 0) -> bytes:
    """A C-STORE-RQ in PDUs as long as they may be."""
    return pieces(assoc, uid, data, 60_000, priority=priority)


TABLES = (schema.study, schema.series, schema.instance, schema.instance_metadata, schema.audit, schema.change)
OF_ITS_OWN = {"object_key", "object_offset", "created_at", "at", "last_instance_at", "stable_at"}


def table_rows(place: Archived, index: Index | None = None) -> dict[str, list[dict[str, Any]]]:
    """All that a store leaves in the index of the place, or in another one, without times, and places in segments."""
    with (index or place.archive.index).read() as conn:
        return {
            table.name: [
                {name: held for name, held in row._mapping.items() if name not in OF_ITS_OWN}
                for row in conn.execute(select(table).order_by(*table.primary_key.columns))
            ]
            for table in TABLES
        }


def records(place: Archived) -> int:
    """How many objects are in the store of a place that is closed."""
    store = open_store(place.archive.settings, cached=False)
    try:
        return sum(1 for _ in store.walk())
    finally:
        store.close()


# --- a disk that fails ---


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """Of what this process writes beyond, the system takes nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def dead() -> Iterator[int]:
    """A descriptor on which the kernel fails every write with EIO: a terminal that was hung up."""
    master, slave = pty.openpty()
    os.close(master)
    with pytest.raises(OSError) as failure:  # noqa: PT011
        os.write(slave, b"\0")
    assert failure.value.errno == errno.EIO
    yield slave
    os.close(slave)


def past_the_cache(folder: Path) -> Iterator[int]:
    """The descriptors by which this process writes to segments in a folder past the page cache."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            path = Path(os.readlink(f"/proc/self/fd/{name}"))
            flags = Path(f"/proc/self/fdinfo/{name}").read_text().split("flags:")[1].split()[0]
            if path.is_relative_to(folder) and path.suffix == ".seg" and int(flags, 8) & os.O_DIRECT:
                yield int(name)
