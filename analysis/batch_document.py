"""The report of a batch as DICOM: an Enhanced SR (PS3.16 TID 2000) in a study of its own, that names every result.

It is about many patients and belongs to none: its "patient" is the batch. Numbers stand in it as the results have them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydicom import Dataset
from pydicom.uid import EnhancedSRStorage

from analysis.api import Code, Params, Table, TaskResult
from analysis.batch_report import Report
from analysis.registry import Installed
from analysis.reports_read import metadata
from analysis.results import content, provenance
from analysis.results.content import CONTAINS, INFERRED, MODIFIER, OBSERVATION
from analysis.results.provenance import MANUFACTURER, RunInfo
from pacs import uids
from pacs.auth import ALL_RIGHTS, Principal
from pacs.dicom import ups
from pacs.errors import DuplicateInstance

if TYPE_CHECKING:
    from sqlalchemy import Row

    from pacs.archive import Archive

TITLE = Code("11528-7", "LN", "Radiology Report")
PROCEDURE = Code("121064", "DCM", "Current Procedure Descriptions")
DESCRIPTION, CONCLUSION = Code("121065", "DCM", "Procedure Description"), Code("121077", "DCM", "Conclusion")
FINDINGS, FINDING = Code("121070", "DCM", "Findings"), Code("121071", "DCM", "Finding")
SUMMARY = Code("121111", "DCM", "Summary")
LANGUAGE = Code("121049", "DCM", "Language of Content Item and Descendants")
ENGLISH = Code("en", "RFC5646", "English")
MOST_FINDINGS = 20  # of one result
MOST_RESULTS = 2000
"""Of larger batches the document has the summary and the first results; the CSV has all."""


def file(
    archive: Archive, row: Row[Any], installed: Installed, params: Params, report: Report,
    results: Sequence[TaskResult], earlier: Mapping[str, Mapping[str, Any]],
) -> tuple[str, str]:  # fmt: skip
    """The Study and SOP Instance UID of the report, filed. Filing it again changes nothing.

    `earlier` is the report (DICOM JSON by SOP Instance UID) that the batch had before it was resumed: the new one names
    it as its predecessor (PS3.3 C.17.2.3). Raises ArchiveError.
    """
    run = RunInfo(
        task_key=f"batch {row.uid} {row.round}",
        workitem_uid=row.uid,
        plugin_id=installed.id,
        plugin_version=installed.manifest.version,
        plugin_title=installed.manifest.title,
        params=provenance.params_dict(params),
        backend="batch",
        when=datetime.fromtimestamp(row.updated_at, UTC),
        sources=(_patient(row),),
    )
    shown = results[:MOST_RESULTS]
    known = metadata(archive.index, [uid for each in shown for uid in each.sop_instance_uids])
    ds = encode(run, row.id, row.query, report, shown, known, len(results) - len(shown))
    if earlier:
        before = [_named(uid, found) for uid, found in earlier.items()]
        ds.PredecessorDocumentsSequence = provenance.sequence(provenance.evidence(before))
    principal = Principal("m3dicom", "system", ALL_RIGHTS, row.scope)
    with archive.ingest.receive_part10() as receiving:
        receiving.write(provenance.part10(ds))
        with suppress(DuplicateInstance):  # filed before a crash, at another second
            archive.ingest.store(receiving, principal=principal)
    return str(ds.StudyInstanceUID), str(ds.SOPInstanceUID)


def _patient(row: Row[Any]) -> Dataset:
    """What patient and study the report says it is of: none but the batch itself."""
    ds = Dataset()
    when = datetime.fromtimestamp(row.created_at, UTC)
    ds.PatientName, ds.PatientID = f"BATCH^{row.id}^{row.plugin.upper()}"[:64], f"M3DICOM-BATCH-{row.id}"
    ds.PatientBirthDate, ds.PatientSex = None, None
    ds.StudyInstanceUID, ds.StudyID = uids.derived("batch study", row.uid), f"BATCH{row.id}"[:16]
    ds.StudyDate, ds.StudyTime = when.strftime("%Y%m%d"), when.strftime("%H%M%S")
    ds.StudyDescription = f"Report of batch {row.id}"
    ds.AccessionNumber = ds.ReferringPhysicianName = None
    return ds


def encode(
    run: RunInfo, number: int, query: str, report: Report, results: Sequence[TaskResult],
    known: dict[str, dict[str, Any]], left_out: int,
) -> Dataset:  # fmt: skip
    """The finished document. `known` are the results' own attributes (DICOM JSON) by SOP Instance UID."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = EnhancedSRStorage, run.instance_uid("SR")
    ds.StudyInstanceUID, ds.InstanceNumber = run.sources[0].StudyInstanceUID, 1
    provenance.series(ds, run, "SR", "SR", f"{run.plugin_title}: batch {number}")
    ds.ReferencedPerformedProcedureStepSequence = provenance.sequence()
    ds.PerformedProcedureCodeSequence = provenance.sequence()
    ds.CompletionFlag, ds.VerificationFlag, ds.PreliminaryFlag = "COMPLETE", "UNVERIFIED", "FINAL"
    ds.ContentDate, ds.ContentTime = run.date, run.time
    named = [_named(uid, known[uid]) for each in results for uid in each.sop_instance_uids if uid in known]
    if named:
        by_study: dict[str, list[Dataset]] = {}
        for each in named:
            by_study.setdefault(str(each.StudyInstanceUID), []).append(each)
        ds.PertinentOtherEvidenceSequence = provenance.sequence(*map(provenance.evidence, by_study.values()))
    words = [report.table.summary, report.changes.summary, report.note]
    if left_out:
        words.append(f"{left_out} further results are in the CSV only.")
    content.document(
        ds,
        TITLE,
        "2000",
        [
            content.code(MODIFIER, LANGUAGE, ENGLISH),
            content.code(OBSERVATION, Code("121005", "DCM", "Observer Type"), Code("121007", "DCM", "Device")),
            content.uid(
                OBSERVATION, Code("121012", "DCM", "Device Observer UID"),
                uids.derived("device", run.plugin_id, run.plugin_version),
            ),
            content.text(OBSERVATION, Code("121013", "DCM", "Device Observer Name"), run.plugin_id),
            content.text(OBSERVATION, Code("121014", "DCM", "Device Observer Manufacturer"), MANUFACTURER),
            content.text(OBSERVATION, Code("121015", "DCM", "Device Observer Model Name"), run.plugin_title),
            content.container(
                CONTAINS, PROCEDURE,
                [content.text(CONTAINS, DESCRIPTION, _procedure(run, number, query))],
            ),
            content.container(CONTAINS, FINDINGS, _findings(report.table, results)),
            content.container(
                CONTAINS, SUMMARY, [content.text(CONTAINS, CONCLUSION, " ".join(filter(None, words)))]
            ),
        ],
    )  # fmt: skip
    return provenance.finish(ds, run, run.sources[0])


def _findings(table: Table, results: Sequence[TaskResult]) -> Iterator[Dataset]:
    """What each task found, with its numbers; and a table of the plug-in's own, line by line."""
    for result in results:
        said = result.conclusion or f"{len(result.findings)} findings." if result.completed else result.reason
        words = f"{result.label} in study {result.study_instance_uid}: {said}"
        yield content.text(CONTAINS, FINDING, words[:1024])
        for found in result.findings[:MOST_FINDINGS]:
            what = found.finding.meaning if found.finding is not None else ""
            named = " ".join(dict.fromkeys(filter(None, (found.identifier, what))))
            line = content.text(CONTAINS, FINDING, f"{named or 'Finding'} in study {result.study_instance_uid}")
            if found.measurements:
                line.ContentSequence = provenance.sequence(*(content.number(INFERRED, m) for m in found.measurements))
            yield line
    if not results or table.columns[:2] != ("Study", "What"):
        for row in table.rows[:MOST_RESULTS]:
            cells = (f"{name}: {value}" for name, value in zip(table.columns, row, strict=True) if value is not None)
            yield content.text(CONTAINS, FINDING, "; ".join(cells)[:1024] or "No result")
        if not results and not table.rows:
            yield content.text(CONTAINS, FINDING, "No study had anything to compute.")


def _procedure(run: RunInfo, number: int, query: str) -> str:
    parameters = ", ".join(f"{name}={value}" for name, value in run.parameter_texts().items() if name != "backend")
    asked = (
        ", ".join(part.partition("=")[0] for part in query.split("&") if part) or "everything"
    )  # values may be names
    return f"Batch {number}: {run.plugin_title} {run.plugin_version} ({parameters}) on studies selected by {asked}."


def _named(uid: str, found: Mapping[str, Any]) -> Dataset:
    ds = Dataset()
    ds.SOPInstanceUID = uid
    ds.SOPClassUID = str(ups.value(found, "00080016"))
    ds.StudyInstanceUID = str(ups.value(found, "0020000D"))
    ds.SeriesInstanceUID = str(ups.value(found, "0020000E"))
    return ds
