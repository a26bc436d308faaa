"""Instances that the library takes by itself: rows, bytes and answers of the usual way, whatever comes between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dicom_data
import pytest
import rebuilding
from dimse_client import CT, DEFLATED, EXPLICIT, IMPLICIT, VERIFICATION, Association
from pydicom import Dataset
from servers import missing
from sqlalchemy import func, select

from pacs import native
from pacs.archive import open_archive
from pacs.auth import SYSTEM, Auth
from pacs.dimse.acceptor import Acceptor, serve
from pacs.index import schema
from pacs.ingest import Ingest
from pacs.settings import Settings

CONTEXTS = ((CT, (EXPLICIT,)), (VERIFICATION, (IMPLICIT,)))


class Place:
    """An archive with its door, which counts what goes the usual way."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.archive = open_archive(Settings(data=folder))
        self.archive = self.archive.with_services(auth=Auth(self.archive.index))
        self.acceptor: Acceptor = serve(self.archive, host="127.0.0.1", port=0, ae_title="M3DICOM")
        self.usual = 0
        store = Ingest.store

        def counted(ingest: Ingest, *args: Any, **kwargs: Any) -> Any:
            self.usual += 1
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
        settings = self.archive.settings
        self.close()
        old = rebuilding.contents(settings.index_url)
        for path in settings.data.glob("index.db*"):
            path.unlink()
        rebuilding.make_again(settings)
        rebuilding.assert_same(rebuilding.contents(settings.index_url), old)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    if native.load() is None:
        missing("the compiled part (python -m pacs.native.make)")
    made = Place(tmp_path, monkeypatch)
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


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_rows_and_bytes_are_those_of_the_usual_way(place: Place, syntax: str) -> None:
    with place.associate(((CT, (syntax,)),)) as assoc:
        assert [send(assoc, ds, syntax) for ds in slices(40)] == [0] * 40
        assert [send(assoc, ds, syntax) for ds in slices(12, number=1)] == [0] * 12
    assert place.held == 52
    assert place.usual < 30, "the library has taken what it could"
    place.equals_rebuild()


def test_bytes_that_are_not_deflated_are_no_deflated_data_set(place: Place) -> None:
    several = slices(24)
    with place.associate(((CT, (DEFLATED,)),)) as assoc:
        assert [send(assoc, ds, DEFLATED) for ds in several[:20]] == [0] * 20
        for ds in several[20:]:
            assert send(assoc, ds, EXPLICIT) != 0, "as it would be inflated"
    assert place.held == 20


def test_a_series_that_was_removed_meanwhile_is_taken_again(place: Place) -> None:
    several = slices(60)
    with place.associate() as assoc:
        assert [send(assoc, ds) for ds in several[:20]] == [0] * 20
        with place.associate() as another:  # whose series has the next key
            assert send(another, slices(1, number=1)[0]) == 0
        place.archive.removal.delete(SYSTEM, str(several[0].StudyInstanceUID), str(several[0].SeriesInstanceUID))
        before = place.usual
        assert [send(assoc, ds) for ds in several[20:]] == [0] * 40
        assert place.usual - before < 20, "it was learned where the series is now"
    assert place.held == 41
    place.equals_rebuild()
