"""A reader's verdict as DICOM: a verified TID 1500 report of one finding that succeeds the report it judges.

Comprehensive 3D SR (PS3.3 A.35.13): the reader is Person Observer and Verifying Observer, the judged report the
predecessor, the finding its own measurement group with what the reader has corrected, and the verdict a qualitative
evaluation of it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, cast

from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage

from analysis.api import CODE_SCHEME, Code
from analysis.reports_read import (
    CODE,
    FLOAT,
    MEASURED,
    MEASUREMENT_GROUP,
    NUMBER,
    TEXT,
    TRACKING_ID,
    TRACKING_UID,
    Item,
)
from analysis.results import content, inherited, provenance
from analysis.results.content import CONTAINS, MODIFIER, OBSERVATION
from analysis.results.provenance import RunInfo
from analysis.verdict_fields import Kind, said, same
from analysis.verdict_models import VERDICT, Other, OtherCode, OtherNumber
from pacs import uids
from pacs.dicom import ups
from pacs.errors import InvalidInput

TITLE = Code("126000", "DCM", "Imaging Measurement Report")
IMAGING_MEASUREMENTS = Code("126010", "DCM", "Imaging Measurements")
GROUP = Code(MEASUREMENT_GROUP, "DCM", "Measurement Group")
PROCEDURE_REPORTED = Code("121058", "DCM", "Procedure reported")
IMAGING_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")
COMMENT = Code("121106", "DCM", "Comment")
FINDING = Code("121071", "DCM", "Finding")
IMAGE_REGION = Code("111030", "DCM", "Image Region")
VALUES: Mapping[str, Code] = {
    "accepted": Code("accepted", CODE_SCHEME, "Accepted: right as it is"),
    "rejected": Code("rejected", CODE_SCHEME, "Rejected: there is no such finding"),
    "corrected": Code("corrected", CODE_SCHEME, "Corrected: right but for what is changed here"),
    "missed": Code("missed", CODE_SCHEME, "Missed: found by the reader only"),
}
_NUMBERS = {NUMBER, FLOAT, "0040A162", "0040A163"}  # and Rational Numerator and Denominator Value
GRAPHICS = {"point": "POINT", "circle": "CIRCLE", "polygon": "POLYLINE"}
SERIES_NUMBER = 9100
LANGUAGE = Code("121049", "DCM", "Language of Content Item and Descendants")
ENGLISH = Code("en-US", "RFC5646", "English (United States)")


def dataset(metadata: Mapping[str, Any]) -> Dataset:
    """An instance's attributes from the index as a Dataset."""
    return Dataset.from_json(json.dumps(dict(metadata)), lambda *_: b"")


def tracking(group: Dataset) -> tuple[str, str]:
    """Tracking Unique Identifier and Tracking Identifier of a group, "" where it has none."""
    found = {_name(item): item for item in group.get("ContentSequence") or ()}
    uid, label = found.get((TRACKING_UID, "DCM")), found.get((TRACKING_ID, "DCM"))
    return str(uid.UID) if uid is not None else "", str(label.TextValue) if label is not None else ""


def _name(item: Dataset) -> tuple[str, str]:
    """Value and scheme of a content item's concept name; a value beyond 16 characters is a Long Code Value."""
    code = item.get("ConceptNameCodeSequence")
    if not code:
        return "", ""
    value = code[0].get("CodeValue") or code[0].get("LongCodeValue") or ""
    return str(value), str(code[0].get("CodingSchemeDesignator") or "")


def corrected(group: Item, others: Sequence[Other]) -> Item:
    """A copy of the group (DICOM JSON) with other numbers, codes and texts.

    Raises InvalidInput for what the group does not say, or says already.
    """
    changed = copy.deepcopy(dict(group))
    known = list(said(changed))
    done: set[tuple[str, str, str, int]] = set()
    for other in others:
        kind: Kind = "number" if isinstance(other, OtherNumber) else "code" if isinstance(other, OtherCode) else "text"
        word = {"number": "measurement", "code": "coded value", "text": "text"}[kind]
        named = f"{word} {other.code} of {other.scheme}"
        found = [each for each in known if each.key[:3] == (kind, other.code, other.scheme)]
        if other.position is not None:
            found = [each for each in found if each.position == other.position]
        if not found:
            raise InvalidInput(f"the finding has no {named}")
        if len(found) > 1:
            raise InvalidInput(f'the finding has {len(found)} of {named}: "position" says which')
        if found[0].key in done:
            raise InvalidInput(f"a {word} is corrected twice: {other.code} of {other.scheme}")
        done.add(found[0].key)
        value = Code(**other.value.model_dump()) if isinstance(other, OtherCode) else other.value
        if same(found[0].value, value):
            raise InvalidInput(f"that is what the finding says: {named}")
        _rewrite(found[0].item, value)
    return changed


def _rewrite(item: Item, value: float | str | Code) -> None:
    """Give a content item (DICOM JSON) another value."""
    told: dict[str, Any] = dict(item)
    if isinstance(value, Code):
        told[CODE] = ups.element("SQ", ups.code(value.value, value.scheme, value.meaning))
    elif isinstance(value, str):
        told[TEXT] = ups.element("UT", value)
    else:
        measured = {tag: held for tag, held in item[MEASURED]["Value"][0].items() if tag not in _NUMBERS}
        text = content.decimal(value)
        measured[NUMBER] = ups.element("DS", text)
        if FLOAT in item[MEASURED]["Value"][0] or float(text) != value:
            measured[FLOAT] = ups.element("FD", value)
        told[MEASURED] = {"vr": "SQ", "Value": [measured]}
    cast("dict[str, Any]", item).update(told)


def placed(group: Dataset, shape: str, points: Sequence[Sequence[float]]) -> Dataset:
    """The group with its outline elsewhere. Raises InvalidInput where it has none, or several."""
    regions = [each for each in group.ContentSequence if each.ValueType == "SCOORD"]
    if len(regions) != 1:
        raise InvalidInput("the finding has no outline on one image that could be corrected")
    _place(regions[0], shape, points)
    return group


def _place(region: Dataset, shape: str, points: Sequence[Sequence[float]]) -> None:
    needed = {"point": (1, 1), "circle": (2, 2), "polygon": (3, 10_000)}.get(shape)
    if needed is None or not needed[0] <= len(points) <= needed[1]:
        raise InvalidInput("a point has 1 point, a circle 2 (centre and edge), a polygon 3 or more")
    if len({tuple(point) for point in points}) < min(needed[0], 3):
        raise InvalidInput("a circle has another point on its edge than its centre, a polygon 3 corners or more")
    outline = [*points, points[0]] if shape == "polygon" and list(points[0]) != list(points[-1]) else list(points)
    region.GraphicType = GRAPHICS[shape]
    region.GraphicData = [float(number) for point in outline for number in point]


def missed(
    tracking_uid: str,
    label: str,
    finding: Code,
    shape: str,
    points: Sequence[Sequence[float]],
    image: Dataset,
    frame: int | None = None,
) -> Dataset:
    """The group (TID 1410) of a finding that only the reader has seen, on an image. Raises InvalidInput."""
    region = Dataset()
    region.RelationshipType, region.ValueType = CONTAINS, "SCOORD"
    region.ConceptNameCodeSequence = provenance.sequence(provenance.code(IMAGE_REGION))
    _place(region, shape, points)
    selected = content.image(content.SELECTED, image)
    if frame is not None:
        selected.ReferencedSOPSequence[0].ReferencedFrameNumber = frame
    region.ContentSequence = provenance.sequence(selected)
    items = [
        content.text(OBSERVATION, Code(TRACKING_ID, "DCM", "Tracking Identifier"), label),
        content.uid(OBSERVATION, Code(TRACKING_UID, "DCM", "Tracking Unique Identifier"), tracking_uid),
        content.code(CONTAINS, FINDING, finding),
        region,
    ]
    return content.container(CONTAINS, GROUP, items)


def encode(
    report: Dataset, group: Dataset, *, uid: str, verdict: str, comment: str, reader: str, number: int, when: float,
    also: Sequence[Dataset] = (),
) -> Dataset:  # fmt: skip
    """The finished document: `group` of `report`, as the reader leaves it, with the verdict.

    `also` are instances that the group may refer to and the report does not.
    """
    group = copy.deepcopy(group)
    evaluations = [content.code(CONTAINS, VERDICT, VALUES[verdict])]
    if comment:
        evaluations.append(content.text(CONTAINS, COMMENT, comment))
    group.ContentSequence = provenance.sequence(*group.ContentSequence, *evaluations)
    run = _run(report, uid, when)
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = Comprehensive3DSRStorage, uid
    ds.StudyInstanceUID, ds.InstanceNumber = report.StudyInstanceUID, number
    ds.Modality, ds.SeriesNumber = "SR", SERIES_NUMBER
    ds.SeriesInstanceUID = uids.derived("verdict series", report.SOPInstanceUID, reader)
    ds.SeriesDescription = f"Verdicts: {report.get('SeriesDescription') or 'report'}"[:64]
    ds.ReferencedPerformedProcedureStepSequence = provenance.sequence()
    ds.PerformedProcedureCodeSequence = provenance.sequence()
    ds.ContentDate, ds.ContentTime = run.date, run.time
    ds.CompletionFlag, ds.VerificationFlag, ds.PreliminaryFlag = "COMPLETE", "VERIFIED", "FINAL"
    observer = Dataset()
    observer.VerifyingObserverName = person(reader)
    observer.VerifyingObserverIdentificationCodeSequence = provenance.sequence()
    observer.VerifyingOrganization = _organization(report)
    observer.VerificationDateTime = _instant(run)
    ds.VerifyingObserverSequence = provenance.sequence(observer)
    ds.PredecessorDocumentsSequence = provenance.sequence(provenance.evidence([report]))
    referenced = list(_referenced(report, group, also))
    if referenced:
        ds.CurrentRequestedProcedureEvidenceSequence = provenance.sequence(provenance.evidence(referenced))
    name = content._item(OBSERVATION, "PNAME", Code("121008", "DCM", "Person Observer Name"))
    name.PersonName = person(reader)
    content.document(
        ds,
        TITLE,
        "1500",
        [
            content.code(MODIFIER, LANGUAGE, ENGLISH),
            content.code(OBSERVATION, Code("121005", "DCM", "Observer Type"), Code("121006", "DCM", "Person")),
            name,
            content.code(MODIFIER, PROCEDURE_REPORTED, IMAGING_PROCEDURE),
            content.container(CONTAINS, IMAGING_MEASUREMENTS, [group]),
        ],
    )
    finished = provenance.finish(ds, run, run.sources[0])
    equipment = [each for each in finished.ContributingEquipmentSequence if each.get("Manufacturer") != "Unknown"]
    finished.ContributingEquipmentSequence = provenance.sequence(*equipment)
    del finished.SeriesDate, finished.SeriesTime  # Type 3; all that a reader says of a report is one series
    return finished


def part10(ds: Dataset) -> bytes:
    """The finished document as a file."""
    return provenance.part10(ds)


def instance(sop_class_uid: str, sop_instance_uid: str, study_instance_uid: str, series_instance_uid: str) -> Dataset:
    """What a document says of an instance that it refers to."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class_uid, sop_instance_uid
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study_instance_uid, series_instance_uid
    return ds


def person(name: str) -> str:
    """The name of an account as PN, all of it as the family name (PS3.5 6.2.1.1)."""
    plain = "".join(" " if letter in "\\^=" or not letter.isprintable() else letter for letter in name)
    return f"{plain[:63] or 'Unknown'}^"


def _instant(run: RunInfo) -> str:
    """When, to the microsecond: which verdict is the later one is read out of the document again."""
    text = run.datetime_text
    return f"{text[:14]}.{run.when.microsecond:06}{text[14:]}"


def _organization(report: Dataset) -> str:
    for each in report.get("ContributingEquipmentSequence") or ():
        if each.get("InstitutionName"):
            return str(each.InstitutionName)[:64]
    return "Not stated"


def _run(report: Dataset, uid: str, when: float) -> RunInfo:
    origin = Dataset()
    for element in inherited.patient_and_study(report):
        origin.add(element)
    for keyword in ("SpecificCharacterSet", "ContributingEquipmentSequence", "TimezoneOffsetFromUTC"):
        if keyword in report:
            origin.add(copy.deepcopy(report[keyword]))
    origin.SOPClassUID, origin.SOPInstanceUID = report.SOPClassUID, report.SOPInstanceUID
    origin.SeriesInstanceUID = report.SeriesInstanceUID
    return RunInfo(
        task_key=f"verdict {uid}",
        workitem_uid="",
        plugin_id="m3dicom.verdict",
        plugin_version=version("m3dicom"),
        plugin_title="Reader's verdict",
        params={},
        backend="reader",
        when=datetime.fromtimestamp(when, UTC),
        sources=(origin,),
    )


def _referenced(report: Dataset, group: Dataset, also: Sequence[Dataset]) -> Iterator[Dataset]:
    """What the group refers to, as the report's evidence knows it, or `also`."""
    wanted = {str(e.value) for e in group.iterall() if e.keyword == "ReferencedSOPInstanceUID"}
    seen: set[str] = set()
    for keyword in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence"):
        for study in report.get(keyword) or ():
            for series in study.get("ReferencedSeriesSequence") or ():
                for each in series.get("ReferencedSOPSequence") or ():
                    uid = str(each.ReferencedSOPInstanceUID)
                    if uid in wanted and uid not in seen:
                        seen.add(uid)
                        found = Dataset()
                        found.SOPClassUID, found.SOPInstanceUID = each.ReferencedSOPClassUID, uid
                        found.StudyInstanceUID = study.StudyInstanceUID
                        found.SeriesInstanceUID = series.SeriesInstanceUID
                        yield found
    yield from (each for each in also if each.SOPInstanceUID in wanted and each.SOPInstanceUID not in seen)
