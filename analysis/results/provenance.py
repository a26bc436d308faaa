"""Owns what every result object says of its origin: patient and study, equipment, algorithm, inputs, UIDs and numbers.

Encoders build their own modules and end with `finish`, so that the shared modules are the same in all objects of a
task and depend on nothing but the run: the same run gives the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any

from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ExplicitVRLittleEndian

from analysis.api import CODE_SCHEME, Code, Params
from analysis.results import inherited, record
from pacs import uids

MANUFACTURER = "m3DICOM"
PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")
ACQUISITION_EQUIPMENT = Code("109101", "DCM", "Acquisition Equipment")
HISTOGRAM_ANALYSIS = Code("123105", "DCM", "Histogram Analysis")
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
"""Algorithm families of PS3.16 CID 7162."""

SERIES_NUMBERS: Mapping[str, int] = MappingProxyType(
    {"SEG": 9001, "M3D": 9002, "SR": 9003, "SC": 9004, "PR": 9005, "KO": 9007, "CAD": 9008}
    | {"LABELMAP": 9009, "OBJ": 9010, "VR": 9011, "TURN": 9012, "MTL": 9013, "MARKED": 9014}
)
"""Series Number of a result series per kind of object: far above what modalities count, never secret."""

_MOST_TEXT = 10_000  # of parameters, in an LT of 10240 characters
_EQUIPMENT = (
    "Manufacturer", "InstitutionName", "StationName", "InstitutionalDepartmentName", "ManufacturerModelName",
    "DeviceSerialNumber", "SoftwareVersions",
)  # fmt: skip


@dataclass(frozen=True)
class RunInfo:
    """One run of one plug-in, as its results record it.

    task_key: the same for the same plug-in, version, parameters and inputs; all UIDs derive from it. when: the instant
    that the results carry. sources: the input instances without pixel data. input_digests: their digests; digests: the
    same by SOP Instance UID, where they are known so. params: by name; values print as they are recorded. package: the
    distribution that holds the plug-in, its version and digest.
    """

    task_key: str
    workitem_uid: str
    plugin_id: str
    plugin_version: str
    plugin_title: str
    params: Mapping[str, Any]
    backend: str
    when: datetime
    sources: tuple[Dataset, ...]
    input_digests: tuple[str, ...] = field(default=())
    digests: Mapping[str, str] = field(default_factory=dict)
    package: str = ""

    def uid(self, *names: str | int) -> str:
        """The UID that always belongs to this task key and these names."""
        return uids.derived(self.task_key, *names)

    def series_uid(self, kind: str) -> str:
        """Series Instance UID of this task's results of a kind ("SEG", "M3D", "SR", "SC")."""
        return self.uid("series", kind)

    def instance_uid(self, kind: str, *names: str | int) -> str:
        """SOP Instance UID of one result of a kind."""
        return self.uid("instance", kind, *names)

    @property
    def local_time(self) -> datetime:
        """`when` in the time zone of the source's dates (Timezone Offset From UTC), else in this host's."""
        if self.when.tzinfo is None:
            return self.when
        offset = str(self.sources[0].get("TimezoneOffsetFromUTC") or "") if self.sources else ""
        if len(offset) == 5 and offset[0] in "+-" and offset[1:].isdigit():
            minutes = int(offset[1:3]) * 60 + int(offset[3:])
            return self.when.astimezone(timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes)))
        return self.when.astimezone()

    @property
    def date(self) -> str:
        """The day as DICOM DA."""
        return self.local_time.strftime("%Y%m%d")

    @property
    def time(self) -> str:
        """The time of day as DICOM TM."""
        return self.local_time.strftime("%H%M%S")

    @property
    def datetime_text(self) -> str:
        """Date and time as DICOM DT, with its offset from UTC where it is known and not zero.

        DCMTK's dcmpschk takes "+0000" for an error, though PS3.5 6.2 allows it.
        """
        return self.local_time.strftime("%Y%m%d%H%M%S%z").removesuffix("+0000")

    def parameter_texts(self) -> dict[str, str]:
        """The parameters and the backend as text, in a stable order: what goes into Algorithm Parameters.

        That attribute has room for some thousand characters: of more, long values are cut. The record has all of them.
        """
        texts = {name: _text(value) for name, value in sorted(self.params.items())} | {"backend": self.backend}
        if sum(len(name) + len(text) + len("=; ") for name, text in texts.items()) <= _MOST_TEXT:
            return texts
        room = _MOST_TEXT // len(texts)
        least = len("=; ...")
        return {
            name: text if len(name) + len(text) < room - 3 else f"{text[: max(0, room - len(name) - least)]}..."
            for name, text in texts.items()
        }

    def source(self, sop_instance_uid: str) -> Dataset:
        """The source instance of that UID; KeyError where the run did not read it."""
        for ds in self.sources:
            if ds.SOPInstanceUID == sop_instance_uid:
                return ds
        raise KeyError(sop_instance_uid)

    def instances(self, slices: Iterable[str]) -> list[Dataset]:
        """The source instances of these slices, each once: several may be frames of one. KeyError as `source`."""
        return [self.source(uid) for uid in dict.fromkeys(slices)]


def params_dict(params: Params) -> dict[str, Any]:
    """A plug-in's typed parameters as RunInfo records them."""
    return params.model_dump(mode="json")


def code(value: Code) -> Dataset:
    """A code as the item of a code sequence (PS3.3 section 8)."""
    item = Dataset()
    urn = value.value.startswith("urn") or "://" in value.value
    keyword = "CodeValue" if len(value.value) <= 16 else "URNCodeValue" if urn else "LongCodeValue"
    setattr(item, keyword, value.value)
    item.CodingSchemeDesignator, item.CodeMeaning = value.scheme, value.meaning
    return item


def sequence(*items: Dataset) -> Any:
    """A sequence of these items."""
    return DicomSequence(items)


def reference(ds: Dataset) -> Dataset:
    """Referenced SOP Class and Instance UID of an instance."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    return item


def algorithm(run: RunInfo, family: Code = HISTOGRAM_ANALYSIS) -> Dataset:
    """Item of an Algorithm Identification Sequence (PS3.3 table 10-19)."""
    item = Dataset()
    item.AlgorithmFamilyCodeSequence = sequence(code(family))
    item.AlgorithmNameCodeSequence = sequence(code(Code(run.plugin_id, CODE_SCHEME, run.plugin_title)))
    item.AlgorithmName, item.AlgorithmVersion = run.plugin_title, run.plugin_version
    item.AlgorithmParameters = "; ".join(f"{name}={value}" for name, value in run.parameter_texts().items())
    item.AlgorithmSource = MANUFACTURER
    return item


def referenced_series(instances: Iterable[Dataset]) -> list[Dataset]:
    """Items of a Referenced Series Sequence over these instances, each once (PS3.3 C.12.2, one study)."""
    by_series: dict[str, dict[str, Dataset]] = {}
    for ds in instances:
        by_series.setdefault(str(ds.SeriesInstanceUID), {}).setdefault(str(ds.SOPInstanceUID), reference(ds))
    items = []
    for series_uid, references in by_series.items():
        item = Dataset()
        item.SeriesInstanceUID = series_uid
        item.ReferencedInstanceSequence = sequence(*references.values())
        items.append(item)
    return items


def series(ds: Dataset, run: RunInfo, kind: str, modality: str, description: str) -> None:
    """Set the series-level attributes of a result of this kind (PS3.3 C.7.3.1)."""
    ds.Modality = modality
    ds.SeriesInstanceUID = run.series_uid(kind)
    ds.SeriesNumber = SERIES_NUMBERS[kind]
    ds.SeriesDescription = description[:64]
    ds.SeriesDate, ds.SeriesTime = run.date, run.time


def evidence(instances: Sequence[Dataset]) -> Dataset:
    """The item of an evidence sequence that lists these instances, all of one study (PS3.3 C.17.2)."""
    item = Dataset()
    item.StudyInstanceUID = instances[0].StudyInstanceUID
    by_series: dict[str, list[Dataset]] = {}
    for ds in instances:
        by_series.setdefault(str(ds.SeriesInstanceUID), []).append(reference(ds))
    listed = []
    for series_instance_uid, references in by_series.items():
        one = Dataset()
        one.SeriesInstanceUID = series_instance_uid
        one.ReferencedSOPSequence = sequence(*references)
        listed.append(one)
    item.ReferencedSeriesSequence = sequence(*listed)
    return item


def finish(ds: Dataset, run: RunInfo, source: Dataset | None = None) -> Dataset:
    """`ds` with the modules that all results share, ready to be written.

    Patient and study attributes are those of `source` (default: the first source), as they are: with the source's
    Specific Character Set while our own text is ASCII, else in UTF-8. Instance, series and content times are the run's.
    """
    origin = source if source is not None else run.sources[0]
    for element in list(ds):
        if inherited.belongs(element.tag):
            del ds[element.tag]
    ds.InstanceCreationDate, ds.InstanceCreationTime = run.date, run.time
    ds.InstanceCreatorUID = uids.IMPLEMENTATION_CLASS_UID
    ds.SeriesDate, ds.SeriesTime = run.date, run.time
    for date, time in (("ContentDate", "ContentTime"), ("StructureSetDate", "StructureSetTime")):
        if date in ds:
            setattr(ds, date, run.date)
            setattr(ds, time, run.time)
    ds.Manufacturer, ds.ManufacturerModelName = MANUFACTURER, run.plugin_title
    ds.DeviceSerialNumber, ds.SoftwareVersions = run.plugin_id, run.plugin_version
    ds.ContributingEquipmentSequence = sequence(*_contributing_equipment(run, origin))
    character_set = origin.get("SpecificCharacterSet") if _is_ascii(ds) else "ISO_IR 192"
    if character_set:
        ds.SpecificCharacterSet = character_set
    elif "SpecificCharacterSet" in ds:
        del ds.SpecificCharacterSet
    for element in inherited.patient_and_study(origin):
        ds.add(element)
    for keyword in inherited.ALWAYS:
        if keyword not in ds:
            setattr(ds, keyword, None)
    ds.CodingSchemeIdentificationSequence = sequence(*_coding_schemes(ds, run, origin))
    record.write(ds, run)
    inherited.deidentified(ds)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID = uids.IMPLEMENTATION_CLASS_UID
    ds.file_meta.ImplementationVersionName = uids.IMPLEMENTATION_VERSION_NAME
    return ds


def part10(ds: Dataset) -> bytes:
    """A finished result as a Part 10 file in its transfer syntax; the same data set gives the same bytes."""
    out = io.BytesIO()
    dcmwrite(out, ds, enforce_file_format=True)
    return out.getvalue()


def _contributing_equipment(run: RunInfo, origin: Dataset) -> list[Dataset]:
    acquired = Dataset()
    acquired.PurposeOfReferenceCodeSequence = sequence(code(ACQUISITION_EQUIPMENT))
    for keyword in _EQUIPMENT:
        if origin.get(keyword):
            acquired.add(inherited.taken(origin[keyword]))
    if not acquired.get("Manufacturer"):  # Type 1 in this sequence (PS3.3 C.12.1)
        acquired.Manufacturer = "Unknown"
    ours = Dataset()
    ours.PurposeOfReferenceCodeSequence = sequence(code(PROCESSING_EQUIPMENT))
    ours.Manufacturer, ours.ManufacturerModelName = MANUFACTURER, run.plugin_title
    ours.DeviceSerialNumber, ours.SoftwareVersions = run.plugin_id, run.plugin_version
    ours.ContributionDateTime = run.datetime_text
    parameters = " ".join(f"{name}={value}" for name, value in run.parameter_texts().items())
    inputs = record.record(run)["inputs"]
    text = (
        f"{run.plugin_id} {run.plugin_version} task {run.task_key} workitem {run.workitem_uid} "
        f"{f'package {run.package} ' if run.package else ''}"
        f"inputs {inputs['count']} sha256:{inputs['digest']} {parameters}"
    )
    ours.ContributionDescription = text[:1024]
    return [acquired, *_earlier_equipment(origin), ours]


def _earlier_equipment(origin: Dataset) -> Iterator[Dataset]:
    """Who worked on the input before, as it says; not what breaks PS3.3 C.12.1 there."""
    for item in origin.get("ContributingEquipmentSequence") or ():
        if item.get("Manufacturer") and item.get("PurposeOfReferenceCodeSequence"):
            kept = Dataset()
            for element in item:
                kept.add(inherited.taken(element))
            yield kept


def _coding_schemes(ds: Dataset, run: RunInfo, origin: Dataset) -> Iterator[Dataset]:
    """Ours, and every other private scheme of the codes in `ds`: of the input, or the plug-in (PS3.3 C.12.1.1.5)."""
    ours = Dataset()
    ours.CodingSchemeDesignator = CODE_SCHEME
    ours.CodingSchemeName = "m3DICOM plug-ins and parameters"
    ours.CodingSchemeResponsibleOrganization = MANUFACTURER
    yield ours
    used = {str(each.value) for each in ds.iterall() if each.keyword == "CodingSchemeDesignator" and each.value}
    theirs = {str(each.value) for each in origin.iterall() if each.keyword == "CodingSchemeDesignator"}
    for designator in sorted(used - {CODE_SCHEME}):
        if designator.startswith("99") and len(designator) <= inherited.LENGTHS["SH"]:
            item = Dataset()
            item.CodingSchemeDesignator = designator
            whose = "Codes of the source images" if designator in theirs else f"Codes of the plug-in {run.plugin_id}"
            item.CodingSchemeName = whose
            yield item


def _is_ascii(ds: Dataset) -> bool:
    return all(str(element.value).isascii() for element in ds.iterall() if element.VR not in ("OB", "OW", "SQ"))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return repr(value).removesuffix(".0")  # all of its digits
    return "automatic" if value is None else str(value)
