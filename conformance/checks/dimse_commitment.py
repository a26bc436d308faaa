"""Storage Commitment Push Model (PS3.4 annex J) and Modality Performed Procedure Step (PS3.4 annex F): L13 to L15."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from pydicom import Dataset

from conformance.ae import BOTH, Entity, Held, held
from conformance.check import Level, NotSupported, check
from conformance.context import Context
from conformance.data import MR
from conformance.dimse import VERIFICATION, Association, Message
from conformance.pdu import Context as Proposed
from conformance.scp import COMMITMENT
from conformance.wire import Silent

rule = partial(check, service="Commitment", needs="dimse")

WELL_KNOWN = "1.2.840.10008.1.20.1.1"
MPPS = "1.2.840.10008.3.1.2.3.3"
Pair = tuple[str, str]


def request(transaction: str, pairs: Sequence[Pair]) -> Dataset:
    """The Action Information of PS3.4 table J.3-1."""
    ds = Dataset()
    ds.TransactionUID = transaction
    ds.ReferencedSOPSequence = [_item(*pair) for pair in pairs]
    return ds


def _item(sop_class: str, instance: str) -> Dataset:
    ds = Dataset()
    ds.ReferencedSOPClassUID, ds.ReferencedSOPInstanceUID = sop_class, instance
    return ds


def start(run: Context) -> tuple[Entity, Held]:
    """The server and its data. Raises NotSupported where it commits nothing."""
    entity = Entity(run)
    with entity.open(COMMITMENT, VERIFICATION) as assoc:
        assoc.context(COMMITMENT)
    data = held(entity)
    entity.target.said.clear()
    return entity, data


def ask(assoc: Association, dataset: Dataset, **fields: Any) -> Message:
    """The response to the N-ACTION."""
    target: dict[str, Any] = {"RequestedSOPInstanceUID": WELL_KNOWN, "ActionTypeID": 1, **fields}
    return assoc.ask("N-ACTION", COMMITMENT, dataset, **target)


def commit(entity: Entity, transaction: str, pairs: Sequence[Pair]) -> tuple[Message, Message | None]:
    """The response to a request, and the report, which may come on the same association or on one of the server's."""
    listener = entity.listener if entity.run.options.listen else None
    mark = listener.mark() if listener else 0
    until = time.monotonic() + entity.run.options.visible_s
    with entity.open(Proposed(COMMITMENT, BOTH)) as assoc:
        early: list[Message] = []

        def reported(message: Message) -> None:
            early.append(message)
            assoc.answer(message, 0)

        assoc.on_request = reported
        answer = ask(assoc, request(transaction, pairs))
        if answer.status != 0:
            return answer, None
        if early:
            return answer, early[0]
        assoc.sock.settimeout(1.0)
        while time.monotonic() < until:
            if listener and (report := _arrived(entity, mark)):
                return answer, report
            try:
                message = assoc.receive()
            except Silent:
                continue
            assoc.answer(message, 0)
            return answer, message
    return answer, None


def _arrived(entity: Entity, mark: int) -> Message | None:
    new = entity.listener.wait(lambda _: True, mark)
    reports = (each.message for each in new if each.message.name == "N-EVENT-REPORT-RQ")
    return next((each for each in reports if each.fields.get("AffectedSOPClassUID") == COMMITMENT), None)


def pairs_of(ds: Dataset, keyword: str) -> list[Pair]:
    """The references of a sequence, sorted."""
    items = ds.get(keyword) or []
    return sorted((str(each.get("ReferencedSOPClassUID")), str(each.get("ReferencedSOPInstanceUID"))) for each in items)


def reported(entity: Entity, answer: Message, report: Message | None, event: int) -> Dataset | None:
    """Judge the response and the report; the report's data set."""
    entity.status(answer, 0)
    kind = "all were committed (1)" if event == 1 else "some failed (2)"
    if not entity.expect(f"an N-EVENT-REPORT within {entity.run.options.visible_s:g} s", report):
        return None
    assert report is not None
    entity.expect(f"Event Type ID: {kind}", report.number("EventTypeID") == event, report.number("EventTypeID"))
    about = report.fields.get("AffectedSOPClassUID"), report.fields.get("AffectedSOPInstanceUID")
    entity.expect("of the class and its well-known instance", about == (COMMITMENT, WELL_KNOWN), about)
    entity.expect("a well-formed command set", not report.faults, report.faults)
    return report.dataset()


@rule("L13", "PS3.4 J.3.2, J.3.3", "Commitment of what is stored is reported for all of it", Level.CONDITIONAL)
def all_committed(run: Context) -> None:
    entity, data = start(run)
    pairs = sorted((each.sop_class, each.instance) for each in data.of("one"))
    transaction = run.maker.uid("transaction", 1)
    answer, report = commit(entity, transaction, pairs)
    ds = reported(entity, answer, report, 1)
    if ds is None:
        return
    entity.expect(
        "the Transaction UID of the request", ds.get("TransactionUID") == transaction, ds.get("TransactionUID")
    )
    entity.expect("just the instances that were asked for", pairs_of(ds, "ReferencedSOPSequence") == pairs,
                  len(ds.get("ReferencedSOPSequence") or []))  # fmt: skip
    entity.expect("no Failed SOP Sequence", not ds.get("FailedSOPSequence"))


@rule("L14", "PS3.4 J.3.3, PS3.3 C.14.1.1", "What is not stored so is reported as failed, with the reason",
      Level.CONDITIONAL)  # fmt: skip
def some_failed(run: Context) -> None:
    entity, data = start(run)
    good, other = data.of("one", "ct")[:2]
    unknown = run.maker.uid("never stored")
    pairs = [(good.sop_class, good.instance), (MR, other.instance), (good.sop_class, unknown)]
    transaction = run.maker.uid("transaction", 2)
    ds = reported(entity, *commit(entity, transaction, pairs), 2)
    if ds is None:
        return
    entity.expect(
        "the Transaction UID of the request", ds.get("TransactionUID") == transaction, ds.get("TransactionUID")
    )
    entity.expect("the good one in Referenced SOP Sequence", pairs_of(ds, "ReferencedSOPSequence") == pairs[:1],
                  pairs_of(ds, "ReferencedSOPSequence"))  # fmt: skip
    failed = ds.get("FailedSOPSequence") or []
    reasons = {str(each.get("ReferencedSOPInstanceUID")): each.get("FailureReason") for each in failed}
    entity.expect("the two others in Failed SOP Sequence", set(reasons) == {other.instance, unknown}, sorted(reasons))
    entity.expect("0112H for what is not stored", reasons.get(unknown) == 0x0112, reasons.get(unknown))
    entity.expect("0119H for another class", reasons.get(other.instance) == 0x0119, reasons.get(other.instance))


@rule("L14a", "PS3.7 10.1.4.1.10", "Commitment of another action or instance is refused", Level.CONDITIONAL)
def wrong_action(run: Context) -> None:
    entity, data = start(run)
    sample = data.of("two")[0]
    with entity.open(COMMITMENT) as assoc:
        sent = request(run.maker.uid("transaction", 3), [(sample.sop_class, sample.instance)])
        entity.status(ask(assoc, sent, ActionTypeID=77), range(0x0100, 0x0300))
        entity.status(ask(assoc, sent, RequestedSOPInstanceUID="2.25.1"), range(0x0100, 0x0300))


@rule("L14b", "PS3.4 table J.3-1", "A request without a Transaction UID is refused", Level.CONDITIONAL)
def no_transaction(run: Context) -> None:
    entity, data = start(run)
    sample = data.of("two")[0]
    with entity.open(COMMITMENT) as assoc:
        sent = request("", [(sample.sop_class, sample.instance)])
        del sent.TransactionUID
        entity.status(ask(assoc, sent), range(0x0100, 0x0300))


@rule("L15", "PS3.4 F.7", "A performed procedure step is made, completed, and then stays as it is", Level.CONDITIONAL)
def performed_step(run: Context) -> None:
    entity = Entity(run)
    with entity.open(MPPS, VERIFICATION) as assoc:
        if not assoc.accepts(MPPS):
            raise NotSupported("Modality Performed Procedure Step is not accepted")
        uid = run.maker.uid("mpps")
        made = assoc.ask("N-CREATE", MPPS, _step(run), AffectedSOPInstanceUID=uid)
        entity.status(made, 0)
        again = assoc.ask("N-CREATE", MPPS, _step(run), AffectedSOPInstanceUID=uid)
        entity.status(again, 0x0111)
        done = Dataset()
        done.PerformedProcedureStepStatus = "COMPLETED"
        done.PerformedProcedureStepEndDate, done.PerformedProcedureStepEndTime = "20240115", "090000"
        series = Dataset()
        series.SeriesInstanceUID, series.ProtocolName = run.maker.uid("mpps series"), "ZZ"
        series.RetrieveAETitle = series.SeriesDescription = series.PerformingPhysicianName = series.OperatorsName = ""
        series.ReferencedImageSequence = series.ReferencedNonImageCompositeSOPInstanceSequence = []
        done.PerformedSeriesSequence = [series]
        entity.status(assoc.ask("N-SET", MPPS, done, RequestedSOPInstanceUID=uid), 0)
        late = assoc.ask("N-SET", MPPS, done, RequestedSOPInstanceUID=uid)
        entity.status(late, 0x0110)
        entity.expect("Error ID A710H (PS3.4 table F.7.2-2)", late.number("ErrorID") == 0xA710, late.number("ErrorID"))


def _step(run: Context) -> Dataset:
    ds = Dataset()
    ds.PatientName, ds.PatientID = "ZZConformance^Step", run.maker.patient_id("MPPS")
    ds.PatientBirthDate, ds.PatientSex = "", "O"
    ds.PerformedProcedureStepID, ds.PerformedStationAETitle = "ZZ1", "ZZSTATION"
    ds.PerformedStationName = ds.PerformedLocation = ds.PerformedProcedureStepDescription = ""
    ds.PerformedProcedureTypeDescription = ds.StudyID = ""
    ds.PerformedProcedureStepStartDate, ds.PerformedProcedureStepStartTime = "20240115", "080000"
    ds.PerformedProcedureStepEndDate = ds.PerformedProcedureStepEndTime = ""
    ds.PerformedProcedureStepStatus, ds.Modality = "IN PROGRESS", "CT"
    ds.ProcedureCodeSequence = ds.ReferencedPatientSequence = ds.PerformedProtocolCodeSequence = []
    ds.PerformedSeriesSequence = []
    asked = Dataset()
    asked.StudyInstanceUID = run.maker.uid("mpps study")
    asked.AccessionNumber = asked.RequestedProcedureID = asked.RequestedProcedureDescription = ""
    asked.ScheduledProcedureStepID = asked.ScheduledProcedureStepDescription = ""
    asked.ReferencedStudySequence = asked.ScheduledProtocolCodeSequence = []
    ds.ScheduledStepAttributesSequence = [asked]
    return ds
