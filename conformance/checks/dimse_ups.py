"""Unified Procedure Steps over DIMSE (PS3.4 annex CC): Push, Pull, Watch, Query and Event, M01 to M08."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from pydicom import Dataset

from conformance.ae import BOTH, Entity
from conformance.check import Level, check
from conformance.context import Context
from conformance.dimse import Association, Message
from conformance.pdu import Context as Proposed
from conformance.scp import UPS_EVENT, Arrived

rule = partial(check, level=Level.CONDITIONAL, service="UPS DIMSE", needs="dimse")

PUSH: Final = "1.2.840.10008.5.1.4.34.6.1"
WATCH: Final = "1.2.840.10008.5.1.4.34.6.2"
PULL: Final = "1.2.840.10008.5.1.4.34.6.3"
QUERY: Final = "1.2.840.10008.5.1.4.34.6.5"
CLASSES: Final = (PUSH, WATCH, PULL, QUERY)
TRANSACTION_UID: Final = 0x00081195
CHANGE, CANCEL, SUBSCRIBE, UNSUBSCRIBE, SUSPEND = range(1, 6)
GENERAL_FAILURE: Final = range(0x0100, 0x0300)


def fresh() -> str:
    """A UID that nobody has used."""
    return f"2.25.{uuid.uuid4().int}"


def code(value: str) -> Dataset:
    """A coded concept of the suite's own."""
    ds = Dataset()
    ds.CodeValue, ds.CodingSchemeDesignator, ds.CodeMeaning = value, "99ZZCONF", value
    return ds


def workitem(run: Context, **changes: Any) -> Dataset:
    """What an SCU gives with N-CREATE (PS3.4 table CC.2.5-3); None takes an attribute out."""
    ds = Dataset()
    ds.TransactionUID = ""
    ds.PatientName, ds.PatientID = "ZZConformance^Workitem", run.maker.patient_id("UPS")
    ds.PatientBirthDate, ds.PatientSex = "", "O"
    ds.AdmissionID = ds.AdmittingDiagnosesDescription = ""
    ds.IssuerOfAdmissionIDSequence = ds.AdmittingDiagnosesCodeSequence = ds.ReferencedRequestSequence = []
    ds.ScheduledProcedureStepPriority, ds.ProcedureStepLabel, ds.WorklistLabel = "MEDIUM", "ZZ conformance", "ZZCONF"
    ds.ScheduledProcessingParametersSequence = ds.ScheduledStationNameCodeSequence = []
    ds.ScheduledStationClassCodeSequence = ds.ScheduledStationGeographicLocationCodeSequence = []
    ds.ScheduledProcedureStepStartDateTime = "20240115080000"
    ds.ScheduledWorkitemCodeSequence = [code("ZZ1")]
    ds.CommentsOnTheScheduledProcedureStep = ""
    ds.InputReadinessState, ds.ProcedureStepState = "READY", "SCHEDULED"
    ds.InputInformationSequence = []
    ds.ProcedureStepProgressInformationSequence = ds.UnifiedProcedureStepPerformedProcedureSequence = []
    return changed(ds, **changes)


def changed(ds: Dataset, **changes: Any) -> Dataset:
    """The data set with attributes set by keyword; None takes one out."""
    for keyword, value in changes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def performed() -> Dataset:
    """What has to be there before a Workitem may be COMPLETED (PS3.4 table CC.2.5-3, final state)."""
    step = Dataset()
    step.PerformedStationNameCodeSequence = [code("ZZSTATION")]
    step.PerformedProcedureStepStartDateTime, step.PerformedProcedureStepEndDateTime = (
        "20240115080000",
        "20240115080100",
    )
    step.PerformedWorkitemCodeSequence = [code("ZZ1")]
    step.OutputInformationSequence = []
    return changed(Dataset(), UnifiedProcedureStepPerformedProcedureSequence=[step])


@dataclass
class Steps:
    """Workitems on one association with all the SOP classes that were accepted."""

    entity: Entity
    assoc: Association

    def ask(self, command: str, context: str, dataset: Dataset | None, **fields: Any) -> Message:
        """The final response; the Workitem's class is UPS Push on every context (PS3.4 CC.3.1)."""
        return self.assoc.ask(command, context, dataset, sop_class=PUSH, **fields)

    def create(self, dataset: Dataset, uid: str) -> Message:
        """N-CREATE."""
        return self.ask("N-CREATE", PUSH, dataset, AffectedSOPInstanceUID=uid)

    def new(self, **changes: Any) -> str:
        """A Workitem that was made; its UID."""
        uid = fresh()
        self.entity.status(self.create(workitem(self.entity.run, **changes), uid), 0, 0xB300)
        return uid

    def act(self, number: int, uid: str, context: str, **attributes: Any) -> Message:
        """N-ACTION."""
        sent = changed(Dataset(), **attributes) if attributes else None
        return self.ask("N-ACTION", context, sent, RequestedSOPInstanceUID=uid, ActionTypeID=number)

    def state(self, uid: str, state: str, transaction: str) -> Message:
        """Change the state."""
        return self.act(CHANGE, uid, PULL, ProcedureStepState=state, TransactionUID=transaction)

    def set(self, uid: str, dataset: Dataset, transaction: str | None = None) -> Message:
        """N-SET."""
        if transaction is not None:
            dataset.TransactionUID = transaction
        return self.ask("N-SET", PULL, dataset, RequestedSOPInstanceUID=uid)

    def get(self, uid: str, *tags: int) -> Message:
        """N-GET of these attributes, or of all."""
        fields: dict[str, Any] = {"AttributeIdentifierList": list(tags)} if tags else {}
        return self.ask("N-GET", PULL, None, RequestedSOPInstanceUID=uid, **fields)

    def is_in(self, uid: str, state: str) -> None:
        """Judge the state that N-GET tells."""
        got = self.get(uid, 0x00741000).dataset().get("ProcedureStepState")
        self.entity.expect(f"Procedure Step State {state}", got == state, got)


def with_steps(judge: Callable[[Steps], None]) -> Callable[[Context], None]:
    """The check that `judge` is, on an association; not supported where Push and Pull are not accepted."""

    def function(run: Context) -> None:
        entity = Entity(run)
        with entity.open(*[Proposed(each, BOTH) for each in CLASSES]) as assoc:
            for each in (PUSH, PULL):
                assoc.context(each)
            judge(Steps(entity, assoc))

    return function


@rule("M01", "PS3.4 CC.2.5", "N-CREATE makes a Workitem, once")
@with_steps
def create(steps: Steps) -> None:
    run, entity = steps.entity.run, steps.entity
    uid = fresh()
    answer = steps.create(workitem(run), uid)
    entity.status(answer, 0, 0xB300)
    about = answer.fields.get("AffectedSOPInstanceUID", uid)
    entity.expect("Affected SOP Instance UID, where given", about == uid, about)
    entity.expect("a well-formed command set", not answer.faults, answer.faults)
    entity.status(steps.create(workitem(run), uid), 0x0111)
    steps.is_in(uid, "SCHEDULED")


@rule("M01a", "PS3.4 CC.2.5.1.3, CC.2.5.4", "N-CREATE in another state than SCHEDULED: C309H")
@with_steps
def create_in_progress(steps: Steps) -> None:
    run = steps.entity.run
    sent = workitem(run, ProcedureStepState="IN PROGRESS")
    steps.entity.status(steps.create(sent, fresh()), 0xC309)


@rule("M01b", "PS3.4 table CC.2.5-3, PS3.7 10.1.5.1.6", "N-CREATE without a Type 1 attribute is refused")
@with_steps
def create_incomplete(steps: Steps) -> None:
    run = steps.entity.run
    for keyword in ("ProcedureStepLabel", "ScheduledProcedureStepPriority", "InputReadinessState"):
        sent = workitem(run, **{keyword: None})
        steps.entity.target.note(f"without {keyword}")
        steps.entity.status(steps.create(sent, fresh()), GENERAL_FAILURE, range(0xC300, 0xC320))


@rule("M02", "PS3.4 CC.2.6", "N-SET needs the Transaction UID of who performs, and nothing changes in the end")
@with_steps
def change(steps: Steps) -> None:
    entity, uid, transaction = steps.entity, steps.new(), "2.25.42"
    entity.status(steps.set(uid, changed(Dataset(), WorklistLabel="ZZ2")), 0, 0x0001, 0xB300)
    got = steps.get(uid, 0x00741202).dataset().get("WorklistLabel")
    entity.expect("the value is there", got == "ZZ2", got)
    entity.status(steps.state(uid, "IN PROGRESS", transaction), 0)
    label = changed(Dataset(), WorklistLabel="ZZ3")
    entity.status(steps.set(uid, label, "2.25.43"), 0xC301)
    entity.status(steps.set(uid, changed(Dataset(), WorklistLabel="ZZ3")), 0xC301)
    entity.status(steps.set(uid, performed(), transaction), 0, 0x0001, 0xB300)
    entity.status(steps.state(uid, "COMPLETED", transaction), 0)
    entity.status(steps.set(uid, changed(Dataset(), WorklistLabel="ZZ4"), transaction), 0xC300)
    got = steps.get(uid, 0x00741202).dataset().get("WorklistLabel")
    entity.expect("the value is still there", got == "ZZ2", got)
    entity.status(steps.set(entity.run.maker.uid("no ups"), changed(Dataset(), WorklistLabel="ZZ5")), 0xC307)


@rule("M03", "PS3.4 table CC.1.1-2", "Each change of state is taken or refused as the table says")
@with_steps
def states(steps: Steps) -> None:
    entity, transaction = steps.entity, "2.25.42"
    uid = steps.new()
    entity.status(steps.state(uid, "COMPLETED", transaction), 0xC310)
    entity.status(steps.state(uid, "CANCELED", transaction), 0xC310)
    entity.status(steps.state(uid, "SCHEDULED", transaction), 0xC303)
    entity.status(steps.state(uid, "IN PROGRESS", transaction), 0)
    entity.status(steps.state(uid, "IN PROGRESS", transaction), 0xC302)
    entity.status(steps.state(uid, "SCHEDULED", transaction), 0xC303)
    entity.status(steps.state(uid, "COMPLETED", "2.25.43"), 0xC301)
    entity.status(steps.state(uid, "COMPLETED", transaction), 0xC304)
    steps.is_in(uid, "IN PROGRESS")
    entity.status(steps.set(uid, performed(), transaction), 0, 0x0001, 0xB300)
    entity.status(steps.state(uid, "COMPLETED", transaction), 0)
    steps.is_in(uid, "COMPLETED")
    entity.status(steps.state(uid, "COMPLETED", transaction), 0xB306)
    entity.status(steps.state(uid, "CANCELED", transaction), 0xC300)
    entity.status(steps.state(uid, "IN PROGRESS", transaction), 0xC300)
    uid = steps.new()
    entity.status(steps.state(uid, "IN PROGRESS", transaction), 0)
    entity.status(steps.set(uid, _discontinued(), transaction), 0, 0x0001, 0xB300)
    entity.status(steps.state(uid, "CANCELED", transaction), 0)
    entity.status(steps.state(uid, "CANCELED", transaction), 0xB304)
    entity.status(steps.state(uid, "COMPLETED", transaction), 0xC300)
    entity.status(steps.state(entity.run.maker.uid("no ups"), "IN PROGRESS", transaction), 0xC307)


def _discontinued() -> Dataset:
    progress = Dataset()
    progress.ProcedureStepCancellationDateTime = "20240115080200"
    progress.ReasonForCancellation = "conformance test"
    return changed(Dataset(), ProcedureStepProgressInformationSequence=[progress])


@rule("M04", "PS3.4 CC.2.2, CC.1.1-2", "A request to cancel ends what is scheduled, and is refused for what is over")
@with_steps
def cancel(steps: Steps) -> None:
    entity, transaction = steps.entity, "2.25.42"
    uid = steps.new()
    entity.status(steps.act(CANCEL, uid, PUSH, ReasonForCancellation="conformance test"), 0)
    steps.is_in(uid, "CANCELED")
    entity.status(steps.act(CANCEL, uid, PUSH), 0xB304)
    uid = steps.new()
    entity.status(steps.state(uid, "IN PROGRESS", transaction), 0)
    asked = steps.act(CANCEL, uid, PUSH)
    entity.status(asked, 0, 0xC312, 0xC313)
    entity.status(steps.set(uid, performed(), transaction), 0, 0x0001, 0xB300)
    entity.status(steps.state(uid, "COMPLETED", transaction), 0)
    entity.status(steps.act(CANCEL, uid, PUSH), 0xC311)
    entity.status(steps.act(CANCEL, entity.run.maker.uid("no ups"), PUSH), 0xC307)


@rule("M05", "PS3.4 CC.2.3", "Who watches: subscriptions to one Workitem and to all")
@with_steps
def subscriptions(steps: Steps) -> None:
    entity = steps.entity
    steps.assoc.context(WATCH)
    aet = entity.target.calling
    uid = steps.new()
    watch = partial(steps.act, context=WATCH)
    entity.status(watch(SUBSCRIBE, uid, ReceivingAE=aet, DeletionLock="FALSE"), 0)
    entity.status(watch(UNSUBSCRIBE, uid, ReceivingAE=aet), 0)
    entity.status(watch(SUBSCRIBE, entity.run.maker.uid("no ups"), ReceivingAE=aet, DeletionLock="FALSE"), 0xC307)
    everything = "1.2.840.10008.5.1.4.34.5"
    entity.status(watch(SUBSCRIBE, everything, ReceivingAE=aet, DeletionLock="FALSE"), 0)
    entity.status(watch(SUSPEND, everything, ReceivingAE=aet), 0)
    entity.status(watch(UNSUBSCRIBE, everything, ReceivingAE=aet), 0)


@rule("M05a", "PS3.4 table CC.2.3-2", "A Receiving AE that nobody knows: C308H")
@with_steps
def unknown_receiver(steps: Steps) -> None:
    steps.assoc.context(WATCH)
    uid = steps.new()
    answer = steps.act(SUBSCRIBE, uid, WATCH, ReceivingAE="ZZNOWHERE", DeletionLock="FALSE")
    steps.entity.status(answer, 0xC308)


@rule("M06", "PS3.4 CC.2.7, CC.2.5.1.3", "N-GET gives what was asked for, and never the Transaction UID")
@with_steps
def retrieve(steps: Steps) -> None:
    entity, uid = steps.entity, steps.new()
    entity.status(steps.state(uid, "IN PROGRESS", "2.25.42"), 0)
    answer = steps.get(uid, 0x00741000, 0x00741204)
    entity.status(answer, 0)
    ds = answer.dataset()
    entity.expect("the two attributes", (ds.get("ProcedureStepState"), ds.get("ProcedureStepLabel")) ==
                  ("IN PROGRESS", "ZZ conformance"), ds)  # fmt: skip
    entity.expect("and no others", len([each for each in ds if each.keyword != "SpecificCharacterSet"]) == 2, len(ds))
    for tags in ((), (TRANSACTION_UID, 0x00741000)):
        answer = steps.get(uid, *tags)
        entity.status(answer, 0, 0x0001, 0x0107)
        got = answer.dataset().get("TransactionUID")
        entity.expect("no Transaction UID", not got, got)
    entity.status(steps.get(entity.run.maker.uid("no ups"), 0x00741000), 0xC307, 0x0112)


@rule("M07", "PS3.4 CC.2.8", "C-FIND finds Workitems by their attributes, and does not tell the Transaction UID")
@with_steps
def search(steps: Steps) -> None:
    entity = steps.entity
    label = f"ZZ{fresh()[-20:]}"
    uid, other = steps.new(ProcedureStepLabel=label), steps.new(ProcedureStepLabel=label + "x")
    entity.status(steps.state(other, "IN PROGRESS", "2.25.42"), 0)

    def found(**keys: Any) -> list[str]:
        asked = Dataset()
        asked.SOPInstanceUID = asked.PatientID = asked.ProcedureStepLabel = asked.ProcedureStepState = ""
        asked.TransactionUID = ""
        changed(asked, **keys)
        *pending, final = steps.assoc.request("C-FIND", PULL, asked, sop_class=PUSH)
        entity.status(final, 0)
        results = [each.dataset() for each in pending]
        entity.expect("no Transaction UID in a response", not any(each.get("TransactionUID") for each in results))
        return sorted(str(each.get("SOPInstanceUID")) for each in results)

    for wanted, keys in (
        ([uid], {"ProcedureStepLabel": label}),
        (sorted((uid, other)), {"ProcedureStepLabel": label + "*"}),
        ([other], {"ProcedureStepLabel": label + "*", "ProcedureStepState": "IN PROGRESS"}),
        ([], {"ProcedureStepLabel": label, "ProcedureStepState": "COMPLETED"}),
        ([uid], {"SOPInstanceUID": uid}),
    ):
        got = found(**keys)
        entity.expect(f"{keys}: {len(wanted)} Workitems", got == wanted, len(got))


@rule("M08", "PS3.4 CC.2.4, CC.2.3.3", "Who watches hears of the state at once and of every change")
@with_steps
def events(steps: Steps) -> None:
    entity = steps.entity
    steps.assoc.context(WATCH)
    listener, aet, transaction = entity.listener, entity.title, "2.25.42"
    uid = steps.new()
    mark = listener.mark()
    wait = entity.run.options.visible_s

    def heard(new: list[Arrived]) -> list[str]:
        return [
            str(each.message.dataset().get("ProcedureStepState")) for each in new
            if each.message.fields.get("AffectedSOPInstanceUID") == uid and each.message.number("EventTypeID") == 1
        ]  # fmt: skip

    entity.status(steps.act(SUBSCRIBE, uid, WATCH, ReceivingAE=aet, DeletionLock="FALSE"), 0)
    first = listener.wait(lambda new: bool(heard(new)), mark, wait)
    entity.expect(
        "an initial UPS State Report: SCHEDULED", heard(first)[:1] == ["SCHEDULED"], heard(first) or "nothing"
    )
    entity.status(steps.state(uid, "IN PROGRESS", transaction), 0)
    entity.status(steps.set(uid, performed(), transaction), 0, 0x0001, 0xB300)
    entity.status(steps.state(uid, "COMPLETED", transaction), 0)
    new = listener.wait(lambda new: "COMPLETED" in heard(new), mark, wait)
    entity.expect("State Reports for IN PROGRESS and COMPLETED", heard(new)[-2:] == ["IN PROGRESS", "COMPLETED"],
                  heard(new))  # fmt: skip
    for each in new:
        if each.message.fields.get("AffectedSOPInstanceUID") == uid:
            about = each.message.fields.get("AffectedSOPClassUID")
            good = each.message.name == "N-EVENT-REPORT-RQ" and about in (PUSH, UPS_EVENT) and not each.message.faults
            entity.expect("an N-EVENT-REPORT of the UPS class, well formed", good, about)
            entity.expect("no Transaction UID in it", not each.message.dataset().get("TransactionUID"))
