"""The searchable and returnable attributes of the four query levels: one table, read by index, QIDO-RS and C-FIND.

A row with a `column` can be a matching key; `returned` says when it is in an answer without being asked for
(PS3.18 Tables 10.6.3-3 to 10.6.3-5). A top-level attribute that is not here belongs to the IMAGE level.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from pacs.dicom import dictionary


class Level(StrEnum):
    """The Query/Retrieve levels (PS3.4 C.6)."""

    PATIENT = "PATIENT"
    STUDY = "STUDY"
    SERIES = "SERIES"
    IMAGE = "IMAGE"


LEVELS = tuple(Level)


class Returned(StrEnum):
    """When an attribute is in a result without being named in includefield or the identifier."""

    ALWAYS = "always"  # with no Value where it is unknown
    KNOWN = "when known"
    ASKED = "when asked for"


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute, or one inside a sequence when `tag` and `keyword` have two parts joined by a dot.

    `column` names the index column that matching uses (four of them for VR PN, see `columns`); an attribute
    without one is only returned. `required` marks the matching keys of PS3.18 Table 10.6.1-5. `computed` values are
    kept by the archive and never taken from an object.
    """

    tag: str
    keyword: str
    vr: str
    level: Level
    column: str | None = None
    returned: Returned = Returned.ASKED
    required: bool = False
    computed: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """The index columns: one, or for a person's name one per component group (PS3.5 6.2.1) and one of its words."""
        if self.column is None:
            return ()
        return tuple(self.column + part for part in _NAME_COLUMNS[: None if self.vr == "PN" else 1])

    @property
    def matchable(self) -> bool:
        """Whether it can be a matching key."""
        return self.column is not None or self.tag in ("00080061", "00080062")


_NAME_COLUMNS = ("", "_ideographic", "_phonetic", "_words")

P, S, R, I = Level  # noqa: E741  the table below reads better with one letter per level
ALWAYS, KNOWN = Returned.ALWAYS, Returned.KNOWN

TABLE: tuple[Attribute, ...] = (
    Attribute("00100010", "PatientName", "PN", P, "patient_name", ALWAYS, required=True),
    Attribute("00100020", "PatientID", "LO", P, "patient_id", ALWAYS, required=True),
    Attribute("00100021", "IssuerOfPatientID", "LO", P, "issuer_of_patient_id"),
    Attribute("00100022", "TypeOfPatientID", "CS", P),
    Attribute("00100024", "IssuerOfPatientIDQualifiersSequence", "SQ", P),
    Attribute("00100030", "PatientBirthDate", "DA", P, "patient_birth_date", ALWAYS),
    Attribute("00100032", "PatientBirthTime", "TM", P, "patient_birth_time"),
    Attribute("00100040", "PatientSex", "CS", P, "patient_sex", ALWAYS),
    Attribute("00101000", "OtherPatientIDs", "LO", P),
    Attribute("00101001", "OtherPatientNames", "PN", P),
    Attribute("00101002", "OtherPatientIDsSequence", "SQ", P),
    Attribute("00102160", "EthnicGroup", "SH", P, "ethnic_group"),
    Attribute("00104000", "PatientComments", "LT", P),
    Attribute("00120010", "ClinicalTrialSponsorName", "LO", P),
    Attribute("00120020", "ClinicalTrialProtocolID", "LO", P, "clinical_trial_protocol_id"),
    Attribute("00120021", "ClinicalTrialProtocolName", "LO", P),
    Attribute("00120030", "ClinicalTrialSiteID", "LO", P),
    Attribute("00120040", "ClinicalTrialSubjectID", "LO", P, "clinical_trial_subject_id"),
    Attribute("00120062", "PatientIdentityRemoved", "CS", P, "patient_identity_removed"),
    Attribute("00120063", "DeidentificationMethod", "LO", P),
    Attribute("00120064", "DeidentificationMethodCodeSequence", "SQ", P),
    Attribute("00201200", "NumberOfPatientRelatedStudies", "IS", P, computed=True),
    Attribute("00201202", "NumberOfPatientRelatedSeries", "IS", P, computed=True),
    Attribute("00201204", "NumberOfPatientRelatedInstances", "IS", P, computed=True),
    Attribute("00080020", "StudyDate", "DA", S, "study_date", ALWAYS, required=True),
    Attribute("00080030", "StudyTime", "TM", S, "study_time", ALWAYS, required=True),
    Attribute("00080050", "AccessionNumber", "SH", S, "accession_number", ALWAYS, required=True),
    Attribute("00080051", "IssuerOfAccessionNumberSequence", "SQ", S),
    Attribute("00080056", "InstanceAvailability", "CS", S, None, ALWAYS, computed=True),
    Attribute("00080061", "ModalitiesInStudy", "CS", S, None, ALWAYS, required=True, computed=True),
    Attribute("00080062", "SOPClassesInStudy", "UI", S, None, ALWAYS, computed=True),
    Attribute("00080090", "ReferringPhysicianName", "PN", S, "referring_physician_name", ALWAYS, required=True),
    Attribute("00080201", "TimezoneOffsetFromUTC", "SH", S, None, KNOWN),
    Attribute("00081030", "StudyDescription", "LO", S, "study_description"),
    Attribute("00081032", "ProcedureCodeSequence", "SQ", S),
    Attribute("00081048", "PhysiciansOfRecord", "PN", S),
    Attribute("00081060", "NameOfPhysiciansReadingStudy", "PN", S),
    Attribute("00081080", "AdmittingDiagnosesDescription", "LO", S),
    Attribute("00081110", "ReferencedStudySequence", "SQ", S),
    Attribute("00081190", "RetrieveURL", "UR", S, None, ALWAYS, computed=True),
    Attribute("00101010", "PatientAge", "AS", S, "patient_age"),
    Attribute("00101020", "PatientSize", "DS", S),
    Attribute("00101030", "PatientWeight", "DS", S),
    Attribute("00102180", "Occupation", "SH", S),
    Attribute("001021B0", "AdditionalPatientHistory", "LT", S),
    Attribute("00120050", "ClinicalTrialTimePointID", "LO", S),
    Attribute("00120051", "ClinicalTrialTimePointDescription", "ST", S),
    Attribute("0020000D", "StudyInstanceUID", "UI", S, "study_instance_uid", ALWAYS, required=True),
    Attribute("00200010", "StudyID", "SH", S, "study_id", ALWAYS, required=True),
    Attribute("00201206", "NumberOfStudyRelatedSeries", "IS", S, None, ALWAYS, computed=True),
    Attribute("00201208", "NumberOfStudyRelatedInstances", "IS", S, None, ALWAYS, computed=True),
    Attribute("00321060", "RequestedProcedureDescription", "LO", S),
    Attribute("00380010", "AdmissionID", "LO", S, "admission_id"),
    Attribute("00080021", "SeriesDate", "DA", R, "series_date"),
    Attribute("00080031", "SeriesTime", "TM", R, "series_time"),
    Attribute("00080060", "Modality", "CS", R, "modality", ALWAYS, required=True),
    Attribute("00080070", "Manufacturer", "LO", R, "manufacturer"),
    Attribute("00080080", "InstitutionName", "LO", R, "institution_name"),
    Attribute("00081010", "StationName", "SH", R, "station_name"),
    Attribute("0008103E", "SeriesDescription", "LO", R, "series_description", KNOWN),
    Attribute("0008103F", "SeriesDescriptionCodeSequence", "SQ", R),
    Attribute("00081040", "InstitutionalDepartmentName", "LO", R, "institutional_department_name"),
    Attribute("00081050", "PerformingPhysicianName", "PN", R),
    Attribute("00081070", "OperatorsName", "PN", R),
    Attribute("00081090", "ManufacturerModelName", "LO", R, "manufacturer_model_name"),
    Attribute("00081111", "ReferencedPerformedProcedureStepSequence", "SQ", R),
    Attribute("00120060", "ClinicalTrialCoordinatingCenterName", "LO", R),
    Attribute("00180015", "BodyPartExamined", "CS", R, "body_part_examined"),
    Attribute("00181000", "DeviceSerialNumber", "LO", R, "device_serial_number"),
    Attribute("00181020", "SoftwareVersions", "LO", R),
    Attribute("00181030", "ProtocolName", "LO", R, "protocol_name"),
    Attribute("00185100", "PatientPosition", "CS", R, "patient_position"),
    Attribute("0020000E", "SeriesInstanceUID", "UI", R, "series_instance_uid", ALWAYS, required=True),
    Attribute("00200011", "SeriesNumber", "IS", R, "series_number", ALWAYS, required=True),
    Attribute("00200052", "FrameOfReferenceUID", "UI", R, "frame_of_reference_uid"),
    Attribute("00200060", "Laterality", "CS", R, "laterality"),
    Attribute("00201209", "NumberOfSeriesRelatedInstances", "IS", R, None, ALWAYS, computed=True),
    Attribute("00400244", "PerformedProcedureStepStartDate", "DA", R, "pps_start_date", KNOWN, required=True),
    Attribute("00400245", "PerformedProcedureStepStartTime", "TM", R, "pps_start_time", KNOWN, required=True),
    Attribute("00400253", "PerformedProcedureStepID", "SH", R, "pps_id"),
    Attribute("00400254", "PerformedProcedureStepDescription", "LO", R),
    Attribute("00400275", "RequestAttributesSequence", "SQ", R, None, KNOWN),
    Attribute(
        "00400275.00400009", "RequestAttributesSequence.ScheduledProcedureStepID", "SH", R,
        "scheduled_procedure_step_id", required=True,
    ),
    Attribute(
        "00400275.00401001", "RequestAttributesSequence.RequestedProcedureID", "SH", R,
        "requested_procedure_id", required=True,
    ),
    Attribute("00080016", "SOPClassUID", "UI", I, "sop_class_uid", ALWAYS, required=True),
    Attribute("00080018", "SOPInstanceUID", "UI", I, "sop_instance_uid", ALWAYS, required=True),
    Attribute("00080022", "AcquisitionDate", "DA", I, "acquisition_date"),
    Attribute("00080023", "ContentDate", "DA", I, "content_date"),
    Attribute("0008002A", "AcquisitionDateTime", "DT", I, "acquisition_datetime"),
    Attribute("00080032", "AcquisitionTime", "TM", I, "acquisition_time"),
    Attribute("00080033", "ContentTime", "TM", I, "content_time"),
    Attribute("00083002", "AvailableTransferSyntaxUID", "UI", I, "transfer_syntax_uid", KNOWN, computed=True),
    Attribute("00200012", "AcquisitionNumber", "IS", I, "acquisition_number"),
    Attribute("00200013", "InstanceNumber", "IS", I, "instance_number", ALWAYS, required=True),
    Attribute("00280008", "NumberOfFrames", "IS", I, "number_of_frames", KNOWN),
    Attribute("00280010", "Rows", "US", I, "rows", KNOWN),
    Attribute("00280011", "Columns", "US", I, "columns", KNOWN),
    Attribute("00280100", "BitsAllocated", "US", I, "bits_allocated", KNOWN),
    Attribute("0040A491", "CompletionFlag", "CS", I, "completion_flag"),
    Attribute("0040A493", "VerificationFlag", "CS", I, "verification_flag"),
    Attribute("00700080", "ContentLabel", "CS", I, "content_label"),
)  # fmt: skip


DATE_AND_TIME: tuple[tuple[str, str], ...] = (
    ("00080020", "00080030"),  # Study
    ("00080021", "00080031"),  # Series
    ("00080022", "00080032"),  # Acquisition
    ("00080023", "00080033"),  # Content
    ("00100030", "00100032"),  # Patient's Birth
    ("00400244", "00400245"),  # Performed Procedure Step Start
)
"""Dates and the times that belong to them: matched as one where that was agreed (PS3.4 C.2.2.2.5.4)."""


@cache
def _tags() -> dict[str, Attribute]:
    return {a.tag: a for a in TABLE}


@cache
def _keywords() -> dict[str, Attribute]:
    return {a.keyword: a for a in TABLE}


def by_tag(tag: str) -> Attribute | None:
    """The table row of a tag of eight hex digits (either case), or two joined by a dot; None when it has none."""
    return _tags().get(tag.upper())


def by_keyword(keyword: str) -> Attribute | None:
    """The table row of a keyword of PS3.6, or two joined by a dot; None when it has none."""
    return _keywords().get(keyword)


def of_level(level: Level) -> Iterator[Attribute]:
    """The rows of one level, ascending by tag, without those inside sequences."""
    return iter(sorted((a for a in TABLE if a.level is level and "." not in a.tag), key=lambda a: a.tag))


def held(tag: str, vr: str) -> Attribute:
    """A row for an attribute of no row of its own: matched, without a column, on what is held of the entity."""
    return Attribute(tag, dictionary.keyword(int(tag, 16)) or tag, vr, level_of(tag))


def level_of(tag: str) -> Level:
    """The level that a top-level attribute is taken from."""
    row = _tags().get(tag)
    return Level.IMAGE if row is None else row.level
