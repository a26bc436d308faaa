"""What results take over from their sources: as it is where it is lawful, and lawful where it was not."""

from __future__ import annotations

from datetime import UTC, datetime

import dicom_data
import pytest
from pydicom import Dataset, config
from pydicom.uid import SecondaryCaptureImageStorage

from analysis.results import provenance, record


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """An instance as real archives hold them, with values that their VR forbids."""
    monkeypatch.setattr(config.settings, "reading_validation_mode", config.IGNORE)
    monkeypatch.setattr(config.settings, "writing_validation_mode", config.IGNORE)
    ds = dicom_data.image(3, PatientBirthDate="00000000", StudyID="A STUDY ID OF TOO MANY", Manufacturer="")
    ds.PatientIdentityRemoved = "YES"
    ds.DeidentificationMethod = ""
    return ds


def result(source: Dataset) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    when = datetime(2026, 1, 2, tzinfo=UTC)
    run = provenance.RunInfo("k" * 64, "1.2", "test", "1.0", "Test", {}, "numpy", when, (source,))
    return provenance.finish(ds, run)


def test_unlawful_values_are_cut_or_left_empty(source: Dataset) -> None:
    made = result(source)
    assert made.PatientBirthDate is None
    assert made.StudyID == "A STUDY ID OF TO"
    assert made.ContributingEquipmentSequence[0].Manufacturer == "Unknown"
    assert made.DeidentificationMethod == "Not stated by the source images"


def test_lawful_values_are_kept_to_the_letter(source: Dataset) -> None:
    made = result(source)
    for keyword in ("PatientName", "PatientID", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber"):
        assert made[keyword] == source[keyword]


def test_the_source_stays_as_it_was(source: Dataset) -> None:
    result(source)
    assert (source.PatientBirthDate, source.StudyID) == ("00000000", "A STUDY ID OF TOO MANY")


@pytest.mark.parametrize("params", [{"text": "x" * 20_000, "other": 3}, {f"p{n}": "y" * 900 for n in range(30)}])
def test_parameters_of_any_length_fit_into_the_algorithm_and_are_whole_in_the_record(params: dict[str, object]) -> None:
    when = datetime(2026, 1, 2, tzinfo=UTC)
    run = provenance.RunInfo("k" * 64, "1.2", "test", "1.0", "Test", params, "numpy", when, ())
    text = provenance.algorithm(run).AlgorithmParameters  # a warning, were it too long
    assert all(f"{name}=" in text for name in params)
    assert text.endswith("backend=numpy") or "backend=numpy;" in text
    assert record.record(run)["parameters"] == params
