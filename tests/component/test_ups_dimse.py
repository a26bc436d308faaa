"""Unified Procedure Steps by DIMSE, with pynetdicom as the other side: Push, Pull, Watch, Query, Event (PS3.4 CC)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, Sequence, config
from pynetdicom import AE, build_role, evt
from pynetdicom import Association as PeerAssociation
from pynetdicom.dimse_primitives import N_SET
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation
from pynetdicom.sop_class import (
    UnifiedProcedureStepEvent,
    UnifiedProcedureStepPull,
    UnifiedProcedureStepPush,
    UnifiedProcedureStepQuery,
    UnifiedProcedureStepWatch,
)
from servers import free_port

from analysis.requests import Requests
from pacs import settings as settings_of
from pacs import uids
from pacs.archive import Archive, open_archive
from pacs.audit import Audit
from pacs.auth import SYSTEM, Auth
from pacs.dicom import ups
from pacs.dicom.ups_events import FILTERED_GLOBAL_UID, GLOBAL_UID
from pacs.dimse import association
from pacs.dimse.acceptor import Acceptor, serve
from pacs.dimse.ups_events import EventCourier
from pacs.worklist import Worklist

PUSH, PULL, WATCH, QUERY, EVENT = (
    UnifiedProcedureStepPush, UnifiedProcedureStepPull, UnifiedProcedureStepWatch, UnifiedProcedureStepQuery,
    UnifiedProcedureStepEvent,
)  # fmt: skip


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    archive = open_archive(settings_of.Settings(data=tmp_path / "data"))
    yield archive.with_services(auth=Auth(archive.index), worklist=Worklist(archive.index, archive.events))
    archive.close()


@pytest.fixture
def acceptor(archive: Archive) -> Iterator[Acceptor]:
    acceptor = serve(archive, host="127.0.0.1", port=0, ae_title="M3DICOM")
    yield acceptor
    acceptor.close(1)


@contextmanager
def associated(acceptor: Acceptor, *classes: str, title: str = "SCU", **options: Any) -> Iterator[PeerAssociation]:
    ae = AE(ae_title=title)
    for each in classes:
        ae.add_requested_context(each)
    host, port = acceptor.address
    assoc = ae.associate(host, port, ae_title="M3DICOM", **options)
    assert assoc.is_established
    assert {context.abstract_syntax for context in assoc.accepted_contexts} == set(classes)
    yield assoc
    assoc.release()


def code(value: str, scheme: str = "99X") -> Dataset:
    ds = Dataset()
    ds.CodeValue, ds.CodingSchemeDesignator, ds.CodeMeaning = value, scheme, value
    return ds


def workitem(label: str = "Bone", **more: Any) -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.PatientName, ds.PatientID = "Müller^Sam", "SYN-1"
    ds.PatientBirthDate = ds.PatientSex = ds.AdmissionID = ""
    ds.ScheduledProcedureStepPriority, ds.ProcedureStepLabel = "MEDIUM", label
    ds.ProcedureStepState, ds.InputReadinessState = "SCHEDULED", "READY"
    ds.ScheduledProcedureStepStartDateTime = "20260101120000"
    ds.ScheduledWorkitemCodeSequence = Sequence([code("bone")])
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    return ds


def made(assoc: PeerAssociation, **more: Any) -> str:
    uid = uids.new()
    status, _ = assoc.send_n_create(workitem(**more), PUSH, uid)
    assert status.Status == 0x0000, status
    return uid


def action(**attributes: Any) -> Dataset:
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def act(assoc: PeerAssociation, number: int, uid: str, meta: str, **attributes: Any) -> int:
    status, _ = assoc.send_n_action(action(**attributes) if attributes else None, number, PUSH, uid, meta_uid=meta)
    return int(status.Status)


def performed() -> Dataset:
    step = Dataset()
    step.PerformedStationNameCodeSequence = Sequence([code("station")])
    step.PerformedProcedureStepStartDateTime = "20260101120000"
    step.PerformedWorkitemCodeSequence = Sequence([code("bone")])
    step.PerformedProcedureStepEndDateTime = "20260101120100"
    step.OutputInformationSequence = Sequence([])
    return action(UnifiedProcedureStepPerformedProcedureSequence=Sequence([step]))


def test_from_push_to_pull_to_its_end(acceptor: Acceptor, archive: Archive) -> None:
    with associated(acceptor, PUSH, PULL) as assoc:
        uid = made(assoc)
        assert assoc.send_n_create(workitem(), PUSH, uid)[0].Status == 0x0111
        held = archive.worklist.retrieve(uid, SYSTEM)
        assert ups.value(held, ups.PATIENT_NAME) == {"Alphabetic": "Müller^Sam"}
        transaction = uids.new()

        def state(to: str, given: str = transaction) -> int:
            return act(assoc, 1, uid, PULL, ProcedureStepState=to, TransactionUID=given)

        def change(ds: Dataset, given: str | None = transaction) -> int:
            if given is not None:
                ds.TransactionUID = given
            return int(assoc.send_n_set(ds, PUSH, uid, meta_uid=PULL)[0].Status)

        assert change(action(ProcedureStepLabel="New"), None) == 0x0000
        assert state("COMPLETED") == 0xC310
        assert state("IN PROGRESS") == 0x0000
        assert state("IN PROGRESS") == 0xC302
        assert state("SCHEDULED") == 0xC303
        assert state("CANCELED", uids.new()) == 0xC301
        assert state("COMPLETED") == 0xC304
        assert change(action(ProcedureStepLabel="Newer"), None) == 0xC301
        assert change(action(ProcedureStepState="COMPLETED")) == 0x0106
        assert change(performed()) == 0x0000
        status, found = assoc.send_n_get([0x00741204, 0x00741000, 0x00081195], PUSH, uid, meta_uid=PULL)
        assert status.Status == 0x0001  # not every attribute asked for is there to be had
        assert (found.ProcedureStepLabel, found.ProcedureStepState, len(found)) == ("New", "IN PROGRESS", 2)
        assert state("COMPLETED") == 0x0000
        assert state("COMPLETED") == 0xB306
        assert state("CANCELED") == 0xC300
        assert change(performed()) == 0xC300
        assert act(assoc, 2, uid, PUSH) == 0xC311
        status, found = assoc.send_n_get([], PUSH, uid, meta_uid=PULL)
        assert status.Status == 0x0000
        assert found.PatientName == "Müller^Sam"
        assert "TransactionUID" not in found
        for number, meta in ((1, PUSH), (2, PULL), (3, PULL), (9, PUSH)):
            assert act(assoc, number, uid, meta) == 0x0123
        unknown = uids.new()
        assert act(assoc, 1, unknown, PULL, ProcedureStepState="IN PROGRESS", TransactionUID=transaction) == 0xC307
        assert assoc.send_n_get([], PUSH, unknown, meta_uid=PULL)[0].Status == 0xC307
        assert act(assoc, 1, uid, PULL) == 0x0120


def referring(study: str) -> Dataset:
    with config.disable_value_validation():
        ds = Dataset()
        ds.StudyInstanceUID = study
    return ds


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"ProcedureStepState": "IN PROGRESS"}, 0xC309),
        ({"ProcedureStepLabel": ""}, 0x0121),
        ({"ProcedureStepLabel": None}, 0x0120),
        ({"ScheduledProcedureStepPriority": "SOON"}, 0x0106),
        ({"TransactionUID": "1.2.3"}, 0x0106),
        ({"WorklistLabel": "", "SOPInstanceUID": "1.2.3"}, 0x0106),
        ({"InputInformationSequence": Sequence([referring("not a UID")])}, 0x0106),
        ({"ScheduledProcedureStepModificationDateTime": "20200101"}, 0xB300),
    ],
)
def test_what_is_created_is_checked(acceptor: Acceptor, change: dict[str, Any], expected: int) -> None:
    ds = workitem()
    for keyword, value in change.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    with associated(acceptor, PUSH) as assoc:
        assert assoc.send_n_create(ds, PUSH, uids.new())[0].Status == expected


def parameter(name: str, value: object) -> Dataset:
    ds = Dataset()
    ds.ValueType, ds.NumericValue, ds.ConceptNameCodeSequence = "NUMERIC", value, Sequence([code(name, "99M3DICOM")])
    return ds


@pytest.mark.parametrize(
    ("name", "value", "expected"), [("threshold_hu", 300, 0x0000), ("threshold_hu", 90000, 0x0106), ("x", 1, 0x0106)]
)
def test_parameters_that_the_plugin_never_takes_are_refused(
    acceptor: Acceptor, archive: Archive, name: str, value: object, expected: int
) -> None:
    archive.worklist.judge = Requests().judge
    bone = Sequence([code("bone-surface", "99M3DICOM")])
    with associated(acceptor, PUSH, PULL) as assoc:
        more = {"ScheduledProcessingParametersSequence": Sequence([parameter(name, value)])}
        asked = workitem(**more, ScheduledWorkitemCodeSequence=bone)
        assert assoc.send_n_create(asked, PUSH, uids.new())[0].Status == expected
        uid = made(assoc, ScheduledWorkitemCodeSequence=bone)
        assert assoc.send_n_set(action(**more), PUSH, uid, meta_uid=PULL)[0].Status == expected  # nor afterwards


def test_actions_and_changes_with_bad_parameters_change_nothing(acceptor: Acceptor, archive: Archive) -> None:
    with associated(acceptor, PUSH, PULL, WATCH) as assoc:
        uid, given = made(assoc), uids.new()
        before = archive.worklist.retrieve(uid, SYSTEM)
        assert act(assoc, 9, uid, PULL, ProcedureStepState="IN PROGRESS") == 0x0123
        assert act(assoc, 1, uid, PULL) == 0x0120
        assert act(assoc, 1, uid, PULL, TransactionUID=given) == 0x0120
        assert act(assoc, 1, uid, PULL, TransactionUID=given, ProcedureStepState="DONE") == 0x0106
        assert act(assoc, 1, uid, PULL, ProcedureStepState="IN PROGRESS") == 0xC301
        assert act(assoc, 1, uids.new(), PULL, ProcedureStepState="IN PROGRESS", TransactionUID=given) == 0xC307
        assert act(assoc, 2, uids.new(), PUSH) == 0xC307
        assert act(assoc, 3, uid, WATCH, DeletionLock="TRUE") == 0x0120
        assert act(assoc, 3, uid, WATCH, ReceivingAE="SCU", DeletionLock="MAYBE") == 0x0106
        assert act(assoc, 5, uid, WATCH, ReceivingAE="SCU") == 0xC314
        for change, expected in (
            ({"ProcedureStepState": "COMPLETED"}, 0x0106),
            ({"PatientID": "SYN-2"}, 0x0106),
            ({"ProcedureStepLabel": ""}, 0x0106),
            ({"ScheduledProcedureStepPriority": "STAT"}, 0x0106),
        ):
            assert assoc.send_n_set(action(**change), PUSH, uid, meta_uid=PULL)[0].Status == expected
        assert archive.worklist.retrieve(uid, SYSTEM) == before
        assert assoc.is_established


def test_a_change_of_nothing_is_answered_by_the_state(
    acceptor: Acceptor, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a Modification List at all (Command Data Set Type 0101H) there is nothing to refuse but the request."""
    with associated(acceptor, PUSH, PULL) as assoc:
        uid, transaction = made(assoc), uids.new()
        before = archive.worklist.retrieve(uid, SYSTEM)

        def changed(of: str) -> int:
            request = N_SET()
            request.MessageID, request.RequestedSOPClassUID, request.RequestedSOPInstanceUID = 7, PUSH, of
            context = next(each for each in assoc.accepted_contexts if each.abstract_syntax == PULL)
            assoc._reactor_checkpoint.clear()
            try:
                assoc.dimse.send_msg(request, context.context_id)
                _, answer = assoc.dimse.get_msg(block=True)
            finally:
                assoc._reactor_checkpoint.set()
            assert answer is not None
            return int(answer.Status)

        assert changed(uid) == 0x0000
        assert archive.worklist.retrieve(uid, SYSTEM).keys() == before.keys()
        assert changed(uids.new()) == 0xC307
        assert act(assoc, 1, uid, PULL, ProcedureStepState="IN PROGRESS", TransactionUID=transaction) == 0x0000
        assert changed(uid) == 0xC301, "it is somebody's, and nothing shows that it is the caller's"
        archive.worklist.change_state(made_final := uid, "CANCELED", transaction, SYSTEM)
        assert changed(made_final) == 0xC300
        # pynetdicom announces an empty data set as one that follows, and sends none.
        monkeypatch.setattr(association, "EMPTY_AFTER_S", 0.2)
        assert assoc.send_n_set(Dataset(), PUSH, made(assoc), meta_uid=PULL)[0].Status == 0x0000
        assert assoc.send_n_set(Dataset(), PUSH, uids.new(), meta_uid=PULL)[0].Status == 0xC307
        assert act(assoc, 1, made(assoc), PULL) == 0x0120
        assert assoc.is_established


def test_a_start_is_found_in_the_time_zone_of_the_request(acceptor: Acceptor) -> None:
    with associated(acceptor, PUSH, QUERY) as assoc:
        made(assoc, ScheduledProcedureStepStartDateTime="20260303003000", TimezoneOffsetFromUTC="+0900")
        for zone, day, number in (("+0900", "20260303", 1), ("+0900", "20260302", 0), ("-0500", "20260302", 1)):
            keys = action(ScheduledProcedureStepStartDateTime=day, TimezoneOffsetFromUTC=zone)
            assert len([row for _, row in assoc.send_c_find(keys, QUERY) if row is not None]) == number, (zone, day)


def test_the_archive_gives_a_uid(acceptor: Acceptor, archive: Archive) -> None:
    with associated(acceptor, PUSH) as assoc:
        given: list[str] = []
        assoc.bind(evt.EVT_DIMSE_RECV, lambda event: given.append(event.message.command_set.AffectedSOPInstanceUID))
        status, _ = assoc.send_n_create(workitem(), PUSH, None)
        assert status.Status == 0x0000
        assert archive.worklist.retrieve(given[0], SYSTEM)


def test_cancel_of_a_scheduled_one(acceptor: Acceptor, archive: Archive) -> None:
    with associated(acceptor, PUSH, WATCH) as assoc:
        uid = made(assoc)
        reason = Sequence([code("110514", "DCM")])
        said = {"ReasonForCancellation": "wrong patient", "ProcedureStepDiscontinuationReasonCodeSequence": reason}
        assert act(assoc, 2, uid, WATCH, **said) == 0x0000
        assert act(assoc, 2, uid, PUSH, **said) == 0xB304
    held = archive.worklist.retrieve(uid, SYSTEM)
    assert ups.value(held, ups.PROCEDURE_STEP_STATE) == "CANCELED"
    (progress,) = ups.items(held, ups.PROGRESS_SEQUENCE)
    assert ups.value(progress, ups.REASON_FOR_CANCELLATION) == "wrong patient"
    (why,) = ups.items(progress, ups.DISCONTINUATION_REASON_CODE_SEQUENCE)
    assert ups.code_value(why) == ("110514", "DCM")


@pytest.mark.parametrize("meta", [PULL, WATCH, QUERY])
def test_find(acceptor: Acceptor, meta: str) -> None:
    with associated(acceptor, PUSH, meta) as assoc:
        station = Sequence([code("CT1"), code("CT2", "99Y")])
        made(assoc, label="A", ScheduledStationNameCodeSequence=station)
        made(assoc, label="B", ScheduledProcedureStepStartDateTime="20260201", PatientName="Doe^Jane")
        made(assoc, label="C", ScheduledProcedureStepPriority="HIGH", ScheduledStationNameCodeSequence=[code("CT2")])

        def found(expected: int = 0xFF00, **keys: Any) -> list[Dataset]:
            rows = []
            for status, identifier in assoc.send_c_find(action(**{"ProcedureStepLabel": "", **keys}), meta):
                if status.Status == 0x0000:
                    assert identifier is None
                    return sorted(rows, key=lambda row: str(row.ProcedureStepLabel))
                assert status.Status == expected
                rows.append(identifier)
            raise AssertionError

        def labels(**keys: Any) -> str:
            return "".join(row.ProcedureStepLabel for row in found(**keys))

        assert labels() == "ABC"
        assert labels(ProcedureStepState="SCHEDULED") == "ABC"
        assert labels(ScheduledProcedureStepPriority="HIGH") == "C"
        assert labels(ScheduledProcedureStepStartDateTime="20260115-") == "B"
        assert labels(PatientName="m*", SpecificCharacterSet="ISO_IR 192") == "AC"
        assert labels(PatientName="MÜLLER^SAM", SpecificCharacterSet="ISO_IR 192") == "AC"
        assert labels(ScheduledStationNameCodeSequence=[action(CodeValue="CT2")]) == "AC"
        both = action(CodeValue="CT2", CodingSchemeDesignator="99X")  # in one item (PS3.4 C.2.2.2.6)
        assert labels(ScheduledStationNameCodeSequence=[both]) == "C"
        assert labels(ProcedureStepLabel="A\\C") == "AC"
        assert labels(ProcedureStepState="COMPLETED") == ""
        (row,) = found(
            PatientName="müller*", ScheduledStationNameCodeSequence=[action(CodeValue="CT1", CodeMeaning="")],
            SpecificCharacterSet="ISO_IR 100", TransactionUID="", AdmissionID="",
        )  # fmt: skip
        assert row.SpecificCharacterSet == "ISO_IR 100"
        assert row.PatientName == "Müller^Sam"
        assert [item.CodeMeaning for item in row.ScheduledStationNameCodeSequence] == ["CT1", "CT2"]
        assert row.SOPClassUID == PUSH
        assert row.SOPInstanceUID
        assert row.AdmissionID == ""
        assert not {"TransactionUID", "PatientID", "RetrieveAETitle", "QueryRetrieveLevel"} & set(row.dir())
        for bad in (
            {"ScheduledProcedureStepStartDateTime": "20260231"},
            {"ScheduledStationNameCodeSequence": [both, both]},
        ):
            statuses = [s.Status for s, _ in assoc.send_c_find(action(**bad), meta)]
            assert len(statuses) == 1
            assert statuses[0] & 0xF000 == 0xC000


def test_find_as_negotiated(acceptor: Acceptor) -> None:
    asked = SOPClassExtendedNegotiation()
    asked.sop_class_uid, asked.service_class_application_information = PULL, b"\1" * 7
    keys = {"PatientName": "sam MUELLER", "SpecificCharacterSet": "ISO_IR 192"}
    for ext_neg, count in (([], 0), ([asked], 1)):
        with associated(acceptor, PUSH, PULL, ext_neg=ext_neg) as assoc:
            if ext_neg:
                (answer,) = assoc.acceptor.sop_class_extended.values()
                assert answer == b"\1\1\1\0\0\1\1"
            else:
                made(assoc)
            found = [status.Status for status, _ in assoc.send_c_find(action(**keys), PULL)]
            assert found == [0xFF00] * count + [0x0000]
            found = [status.Status for status, _ in assoc.send_c_find(action(AdmissionID='""'), PULL)]
            assert found == [0xFF00] * count + [0x0000]


def test_subscriptions(acceptor: Acceptor, archive: Archive) -> None:
    with associated(acceptor, PUSH, WATCH) as assoc:
        uid = made(assoc)

        def watch(number: int, of: str, **more: Any) -> int:
            return act(assoc, number, of, WATCH, **{"ReceivingAE": "SCU", **more})

        assert watch(3, uid, DeletionLock="TRUE") == 0x0000
        assert archive.worklist.subscriptions_of("SCU") == {uid: True}
        assert watch(3, uid, DeletionLock="FALSE", ReceivingAE="STRANGER") == 0xC308
        assert watch(3, uids.new(), DeletionLock="FALSE") == 0xC307
        assert watch(3, uid, DeletionLock="PERHAPS") == 0x0106
        assert act(assoc, 3, uid, WATCH, DeletionLock="TRUE") == 0x0120
        assert watch(5, uid) == 0xC314
        assert watch(4, uid) == 0x0000
        assert archive.worklist.subscriptions_of("SCU") == {}
        assert watch(3, GLOBAL_UID, DeletionLock="FALSE") == 0x0000
        assert watch(5, GLOBAL_UID) == 0x0000
        made(assoc)
        assert archive.worklist.subscriptions_of("SCU") == {uid: False}
        assert watch(4, GLOBAL_UID) == 0x0000
        assert watch(3, FILTERED_GLOBAL_UID, DeletionLock="TRUE") == 0x0106
        keys = {"ScheduledWorkitemCodeSequence": [action(CodeValue="other")], "PatientID": "SYN*"}
        assert watch(3, FILTERED_GLOBAL_UID, DeletionLock="TRUE", **keys) == 0x0000
        made(assoc)
        new = made(assoc, ScheduledWorkitemCodeSequence=[code("other")])
        assert archive.worklist.subscriptions_of("SCU") == {new: True}


def step_until(courier: EventCourier, done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        courier.step(time.time())
        time.sleep(0.02)


class Receiver:
    """A UPS Event SCU: keeps what it is told, and answers with the next of `answers`, else success."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int, Dataset]] = []
        self.answers: list[int] = []

    def told(self, event: evt.Event) -> tuple[int, None]:
        assert event.request.AffectedSOPClassUID == PUSH
        answer = self.answers.pop(0) if self.answers else 0x0000
        if answer == 0x0000:
            uid, kind = str(event.request.AffectedSOPInstanceUID), int(event.event_type)
            self.events.append((uid, kind, event.event_information))
        return answer, None

    @property
    def kinds(self) -> list[tuple[int, str]]:
        return [(kind, str(ds.get("ProcedureStepState", ds.get("SCPStatus", "")))) for _, kind, ds in self.events]


@contextmanager
def listening(receiver: Receiver, title: str, port: int) -> Iterator[None]:
    ae = AE(ae_title=title)
    ae.add_supported_context(EVENT, scu_role=True, scp_role=True)
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, receiver.told)])
    yield
    server.shutdown()


@pytest.mark.parametrize("calls", [True, False])
def test_events_on_an_association_of_the_receiver(acceptor: Acceptor, archive: Archive, calls: bool) -> None:
    receiver, courier = Receiver(), EventCourier(archive, calls=calls)
    try:
        handlers = [(evt.EVT_N_EVENT_REPORT, receiver.told)]
        with associated(acceptor, EVENT, PUSH, WATCH, title="LISTENER", evt_handlers=handlers) as assoc:
            uid = made(assoc)
            assert act(assoc, 3, uid, WATCH, ReceivingAE="LISTENER", DeletionLock="FALSE") == 0x0000
            assert act(assoc, 2, uid, PUSH, ReasonForCancellation="wrong") == 0x0000
            step_until(courier, lambda: len(receiver.events) >= 3 + calls)
            restarted = [(4, "RESTARTED")] if calls else []
            assert receiver.kinds == [(1, "SCHEDULED"), (1, "IN PROGRESS"), (1, "CANCELED"), *restarted]
            assert receiver.events[2][2].ReasonForCancellation == "wrong"
            assert receiver.events[2][2].InputReadinessState == "READY"
            assert {each[0] for each in receiver.events[:3]} == {uid}
            step_until(courier, lambda: not archive.worklist.events_for("LISTENER"))
    finally:
        courier.close()


def test_events_to_a_configured_ae_that_is_away_for_a_while(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pacs.subscriptions.RETRY_S", (0.05,))
    monkeypatch.setattr("pacs.dimse.ups_events.LAST_WORDS_S", 60.0)
    port = free_port()
    known = (settings_of.AE("SCU"), settings_of.AE("ELSEWHERE", host="127.0.0.1", port=port))
    settings = replace(archive.settings, aes=known)
    archive = archive.with_services(settings=settings, auth=Auth(archive.index, known))
    acceptor = serve(archive, host="127.0.0.1", port=0, ae_title="M3DICOM")
    receiver, courier = Receiver(), EventCourier(archive)
    try:
        with associated(acceptor, PUSH, WATCH, PULL) as assoc:
            assert act(assoc, 3, GLOBAL_UID, WATCH, ReceivingAE="ELSEWHERE", DeletionLock="TRUE") == 0x0000
            uid = made(assoc)
            transaction = uids.new()
            assert act(assoc, 1, uid, PULL, ProcedureStepState="IN PROGRESS", TransactionUID=transaction) == 0x0000
            progress = action(ProcedureStepProgress="40", ProcedureStepProgressDescription="half way")
            update = action(ProcedureStepProgressInformationSequence=[progress], TransactionUID=transaction)
            assert assoc.send_n_set(update, PUSH, uid, meta_uid=PULL)[0].Status == 0x0000
            assert act(assoc, 2, uid, WATCH, ContactDisplayName="Ann") == 0x0000
        step_until(courier, lambda: _failures(archive) >= 2)  # nobody listens
        assert receiver.events == []
        with listening(receiver, "ELSEWHERE", port):
            step_until(courier, lambda: not archive.worklist.events_for("ELSEWHERE"))
            assert receiver.kinds == [(1, "SCHEDULED"), (1, "IN PROGRESS"), (3, ""), (2, ""), (4, "RESTARTED")]
            assert receiver.events[2][2].ProcedureStepProgressInformationSequence[0].ProcedureStepProgress == 40
            asked = receiver.events[3][2]
            assert (asked.RequestingAE, asked.ContactDisplayName) == ("SCU", "Ann")
            # An event that is refused is tried again, and given up with a trace; those behind it follow
            receiver.answers = [0x0110] * 3
            archive.worklist.change_state(uid, "CANCELED", transaction, SYSTEM)
            other = archive.worklist.create(archive.worklist.retrieve(uid, SYSTEM) | _anew(), None, SYSTEM)
            step_until(courier, lambda: not archive.worklist.events_for("ELSEWHERE"))
            assert receiver.events[-1][0] == other
            assert receiver.kinds[5:] == [(1, "SCHEDULED")]
            (dropped,) = Audit(archive.index).query("workitem events dropped")
            assert (dropped.workitem_uid, "STATE_REPORT" in dropped.detail) == (uid, True)
            courier.close()
            assert receiver.kinds[-1] == (4, "GOING DOWN")
    finally:
        courier.close()
        acceptor.close(1)


def _failures(archive: Archive) -> int:
    from pacs.index import subscriptions

    with archive.index.read() as conn:
        return subscriptions.failures(conn, "ELSEWHERE")


def _anew() -> dict[str, Any]:
    empty = {tag: ups.element("SQ") for tag in (ups.PROGRESS_SEQUENCE, ups.PERFORMED_PROCEDURE_SEQUENCE)}
    new = {ups.SOP_INSTANCE_UID: ups.element("UI"), ups.PROCEDURE_STEP_STATE: ups.element("CS", "SCHEDULED")}
    return empty | new


def test_roles_are_answered(acceptor: Acceptor) -> None:
    """Whoever opens an association for events is SCU of UPS Event; as SCP it has nothing to do here."""
    with associated(acceptor, EVENT, ext_neg=[build_role(EVENT, scu_role=True, scp_role=True)]) as assoc:
        (context,) = assoc.accepted_contexts
        assert (context.as_scu, context.as_scp) == (True, False)


def test_rights(archive: Archive) -> None:
    aes = (settings_of.AE("SCU", rights=("query",)),)
    changed = archive.with_services(auth=Auth(archive.index, aes))
    acceptor = serve(changed, host="127.0.0.1", port=0, ae_title="M3DICOM")
    try:
        with associated(acceptor, PUSH, WATCH) as assoc:
            assert assoc.send_n_create(workitem(), PUSH, uids.new())[0].Status == 0x0124
            uid = archive.worklist.create(_from(workitem()), None, SYSTEM)
            assert act(assoc, 2, uid, PUSH) == 0x0124
            assert act(assoc, 3, uid, WATCH, ReceivingAE="SCU", DeletionLock="FALSE") == 0x0000
    finally:
        acceptor.close(1)


def _from(ds: Dataset) -> dict[str, Any]:
    return {tag: entry for tag, entry in ds.to_json_dict().items() if tag != "00080005"}


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
