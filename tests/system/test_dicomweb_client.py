"""A real DICOMweb client, the Python package dicomweb-client, against the service, as a hospital's script uses it."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

import dicom_data
import imagecodecs
import numpy as np
import pytest
from dicomweb_client import DICOMwebClient
from dicomweb_server import Web, serving
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from requests import HTTPError

from pacs import uids

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def slices() -> list[Dataset]:
    return list(dicom_data.series(4, study=3, PatientName="Client^Clara"))


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with serving(tmp_path_factory.mktemp("client")) as web:
        yield web


@pytest.fixture(scope="module")
def client(web: Web, slices: list[Dataset]) -> Iterator[DICOMwebClient]:
    """A client of a service in which it has stored the slices."""
    client = DICOMwebClient(web.url)
    files = [as_file(ds) for ds in slices]
    stored = client.store_instances(files)
    assert [item.ReferencedSOPInstanceUID for item in stored.ReferencedSOPSequence] == [
        ds.SOPInstanceUID for ds in slices
    ]
    yield client
    client._session.close()


def as_file(ds: Dataset) -> Dataset:
    return dcmread(BytesIO(dicom_data.part10(ds)))


def names(ds: Dataset) -> tuple[str, str, str]:
    return ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID


def test_searches(client: DICOMwebClient, slices: list[Dataset]) -> None:
    study, series, _ = names(slices[0])
    found = client.search_for_studies(
        search_filters={"PatientName": "Client*"}, fields=["StudyDescription", "00081030"], limit=5, fuzzymatching=True
    )
    assert [Dataset.from_json(item).StudyInstanceUID for item in found] == [study]
    assert found[0]["00081030"]["Value"] == ["Synthetic study"]
    assert len(client.search_for_series(study)) == 1
    assert len(client.search_for_instances(study, series)) == 4
    assert len(client.search_for_instances(study, series, limit=2, offset=1, get_remaining=True)) == 3
    assert client.search_for_studies(search_filters={"PatientID": "nobody"}) == []


def test_objects(client: DICOMwebClient, slices: list[Dataset]) -> None:
    study, series, instance = names(slices[2])
    for found in (client.retrieve_study(study), client.retrieve_series(study, series)):
        assert [ds.SOPInstanceUID for ds in found] == [ds.SOPInstanceUID for ds in slices]
    assert client.retrieve_instance(study, series, instance) == slices[2]
    assert len(list(client.iter_series(study, series))) == 4
    explicit = (("application/dicom", ExplicitVRLittleEndian),)
    assert client.retrieve_instance(study, series, instance, media_types=explicit) == slices[2]


def test_metadata_and_bulk_data(client: DICOMwebClient, slices: list[Dataset]) -> None:
    study, series, instance = names(slices[0])
    assert len(client.retrieve_study_metadata(study)) == 4
    assert len(client.retrieve_series_metadata(study, series)) == 4
    metadata = client.retrieve_instance_metadata(study, series, instance)
    uri = metadata["7FE00010"]["BulkDataURI"]
    assert client.retrieve_bulkdata(uri) == [slices[0].PixelData]
    octets = ("application/octet-stream",)
    assert client.retrieve_bulkdata(uri, media_types=octets) == [slices[0].PixelData]
    assert client.retrieve_bulkdata(uri, media_types=octets, byte_range=(0, 9))[0][:10] == slices[0].PixelData[:10]


def test_frames(client: DICOMwebClient, slices: list[Dataset]) -> None:
    study, series, instance = names(slices[3])
    for media_types in (None, ("application/octet-stream",)):
        found = client.retrieve_instance_frames(study, series, instance, [1], media_types=media_types)
        assert found == [slices[3].PixelData]


def test_rendered(client: DICOMwebClient, slices: list[Dataset]) -> None:
    study, series, instance = names(slices[1])
    jpeg = client.retrieve_instance_rendered(study, series, instance)
    assert imagecodecs.jpeg8_decode(jpeg).shape == (16, 12)
    png = client.retrieve_instance_frames_rendered(study, series, instance, [1], media_types=("image/png",))
    assert imagecodecs.png_decode(png).shape == (16, 12)
    windowed = client.retrieve_instance_rendered(
        study, series, instance, media_types=("image/png",), params={"window": "0,2000,linear", "viewport": "8,8"}
    )
    assert imagecodecs.png_decode(windowed).shape == (8, 6)
    assert client.retrieve_series_rendered(study, series, media_types=("image/jpeg",))


def test_an_implicit_object_comes_back_readable(client: DICOMwebClient) -> None:
    ds = dicom_data.image(1, StudyInstanceUID=uids.derived("implicit", 1), SOPInstanceUID=uids.derived("implicit", 2))
    client.store_instances([dcmread(BytesIO(dicom_data.part10(ds, ImplicitVRLittleEndian)))])
    back = client.retrieve_instance(*names(ds))
    assert back.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert np.array_equal(back.pixel_array, np.frombuffer(ds.PixelData, "<u2").reshape(16, 12))


def test_deletion(client: DICOMwebClient) -> None:
    ds = dicom_data.image(2, StudyInstanceUID=uids.derived("gone", 1), SOPInstanceUID=uids.derived("gone", 2))
    client.store_instances([as_file(ds)])
    client.delete_study(ds.StudyInstanceUID)
    assert client.search_for_studies(search_filters={"StudyInstanceUID": ds.StudyInstanceUID}) == []


def test_iterators(client: DICOMwebClient, slices: list[Dataset]) -> None:
    study, series, instance = names(slices[1])
    assert [ds.SOPInstanceUID for ds in client.iter_study(study)] == [ds.SOPInstanceUID for ds in slices]
    assert list(client.iter_instance_frames(study, series, instance, [1])) == [slices[1].PixelData]
    [metadata] = [each for each in client.retrieve_series_metadata(study, series)
                  if each["00080018"]["Value"] == [instance]]  # fmt: skip
    assert list(client.iter_bulkdata(metadata["7FE00010"]["BulkDataURI"])) == [slices[1].PixelData]


def test_every_level_of_search_without_a_study(client: DICOMwebClient, slices: list[Dataset]) -> None:
    study, series, instance = names(slices[0])
    found = client.search_for_series(search_filters={"SeriesInstanceUID": series})
    assert found[0]["0020000D"]["Value"] == [study]
    found = client.search_for_instances(search_filters={"SOPInstanceUID": instance}, fields=["PatientName", "00080060"])
    assert (found[0]["00100010"]["Value"][0]["Alphabetic"], found[0]["00080060"]["Value"]) == ("Client^Clara", ["CT"])
    emptied = client.search_for_studies(
        search_filters={"PatientComments": ""}, additional_params={"emptyvaluematching": "true"}
    )
    assert study in [each["0020000D"]["Value"][0] for each in emptied]


def test_storing_into_a_study_and_being_refused(client: DICOMwebClient, slices: list[Dataset]) -> None:
    ds = dicom_data.image(3, StudyInstanceUID=uids.derived("client", 1), SOPInstanceUID=uids.derived("client", 2))
    stored = client.store_instances([as_file(ds)], study_instance_uid=ds.StudyInstanceUID)
    assert stored.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == ds.SOPInstanceUID
    other = dicom_data.image(4, StudyInstanceUID=uids.derived("client", 3), SOPInstanceUID=uids.derived("client", 4))
    with pytest.raises(HTTPError, match="409"):
        client.store_instances([as_file(other)], study_instance_uid=slices[0].StudyInstanceUID)


def test_deleting_a_series_and_an_instance(client: DICOMwebClient) -> None:
    pair = [
        dicom_data.image(
            number,
            StudyInstanceUID=uids.derived("parts", "study"),
            SeriesInstanceUID=uids.derived("parts", "series", number),
            SOPInstanceUID=uids.derived("parts", "instance", number),
        )
        for number in (1, 2)
    ]
    client.store_instances([as_file(ds) for ds in pair])
    study, series, instance = names(pair[0])
    client.delete_instance(study, series, instance)
    assert len(client.search_for_instances(study)) == 1
    client.delete_series(*names(pair[1])[:2])
    assert client.search_for_series(study) == []
