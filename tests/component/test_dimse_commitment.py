"""Storage Commitment over DIMSE: requests as SCP with reports on either association, requests of ours, bad manners."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dicom_data
import pytest
from dimse_client import CT, EXPLICIT, IMPLICIT, VERIFICATION, Association, command, implicit, item
from pydicom import Dataset
from pydicom.sequence import Sequence as ItemSequence
from pynetdicom import AE as OtherAE
from pynetdicom import build_role, evt
from pynetdicom.sop_class import StorageCommitmentPushModel

from pacs.archive import Archive, open_archive
from pacs.auth import SYSTEM, Auth
from pacs.commitment import Failure
from pacs.committing import Committing
from pacs.dimse import commit_module, commit_scu, outgoing
from pacs.dimse.acceptor import Acceptor, serve
from pacs.dimse.link import Timeouts
from pacs.errors import PeerFailed, PeerRefused, PeerUnreachable
from pacs.settings import AE, Settings

COMMIT = "1.2.840.10008.1.20.1"
WELL_KNOWN = "1.2.840.10008.1.20.1.1"
CONTEXTS = ((COMMIT, (EXPLICIT,)), (CT, (EXPLICIT,)), (VERIFICATION, (IMPLICIT,)))
DEADLINE_S = 60.0


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    archive = open_archive(Settings(data=tmp_path))
    yield archive.with_services(auth=Auth(archive.index))
    archive.close()


class House:
    """A running archive: its door, and what commits in the background."""

    def __init__(self, archive: Archive, **changes: Any) -> None:
        settings = replace(archive.settings, **changes)
        self.archive = archive.with_services(settings=settings, auth=Auth(archive.index, settings.aes))
        self.acceptor: Acceptor = serve(self.archive, host="127.0.0.1", port=0, ae_title="M3DICOM")
        self.committing = Committing(archive.commitments, archive.index, archive.uncached_store)
        self.committing.add_reporter("dimse", commit_scu.EventReporter(self.archive))

    def until(self, condition: Callable[[], Any]) -> None:
        """Let the background work until the condition holds."""
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            self.committing.step(time.time())
            time.sleep(0.01)

    def close(self) -> None:
        self.committing.close()
        self.acceptor.close(0)


@pytest.fixture
def house(archive: Archive) -> Iterator[Callable[..., House]]:
    opened: list[House] = []

    def opener(**changes: Any) -> House:
        opened.append(House(archive, **changes))
        return opened[-1]

    yield opener
    for each in opened:
        each.close()


def request(assoc: Association, dataset: bytes, *, action: int = 1, instance: str = WELL_KNOWN) -> dict[int, Any]:
    """The fields of the N-ACTION response."""
    fields: dict[int, int | str | bytes] = {
        0x0003: COMMIT, 0x0100: 0x130, 0x0110: assoc.next_id(), 0x0800: 1, 0x1001: instance, 0x1008: action,
    }  # fmt: skip
    assoc.send(assoc.message(assoc.accepted[COMMIT][0], command(fields), dataset))
    return assoc.response()[0]


def event(assoc: Association, status: int = 0) -> tuple[int, commit_module.Report]:
    """The next N-EVENT-REPORT on the association, answered."""
    fields, dataset = assoc.response()
    assert (fields[0x0100], fields[0x0002], fields[0x1000]) == (0x100, COMMIT, WELL_KNOWN)
    answer = {
        0x0002: COMMIT,
        0x0100: 0x8100,
        0x0120: fields[0x0110],
        0x0800: 0x0101,
        0x0900: status,
        0x1000: WELL_KNOWN,
    }
    assoc.send(assoc.message(assoc.accepted[COMMIT][0], command(answer)))
    return fields[0x1002], commit_module.read_report(dataset, assoc.accepted[COMMIT][1])


def stored(assoc: Association, count: int = 2) -> list[tuple[str, str]]:
    """Instances sent, as (SOP Class UID, SOP Instance UID)."""
    pairs = []
    for ds in dicom_data.series(count, study=1):
        assert assoc.store(CT, ds.SOPInstanceUID, dicom_data.dataset_bytes(ds))[0x0900] == 0
        pairs.append((CT, str(ds.SOPInstanceUID)))
    return pairs


# --- requests of others -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"])
def test_reported_on_the_same_association(house: Callable[..., House], archive: Archive, syntax: str) -> None:
    running = house()
    contexts = ((COMMIT, (syntax,)), (CT, (EXPLICIT,)), (VERIFICATION, (IMPLICIT,)))
    with Association(running.acceptor.address, contexts=contexts) as assoc:
        pairs = stored(assoc)
        answer = request(assoc, commit_module.request("1.2.3", pairs, syntax))
        assert (answer[0x0900], answer[0x0100], answer[0x0002], answer[0x1000], answer[0x1008]) == (
            0, 0x8130, COMMIT, WELL_KNOWN, 1,
        )  # fmt: skip
        kind, report = event(assoc)
        assert (kind, report.transaction_uid, report.failed) == (1, "1.2.3", {})
        assert list(report.committed) == [uid for _, uid in pairs]
        assert assoc.echo() == 0
        running.until(lambda: archive.commitments.listed("reported"))


def test_each_failure_has_its_reason(house: Callable[..., House]) -> None:
    with Association(house().acceptor.address, contexts=CONTEXTS) as assoc:
        (first, second) = stored(assoc)
        asked = [first, ("1.2.840.10008.5.1.4.1.1.4", second[1]), (CT, "1.2.3.4.5")]
        assert request(assoc, commit_module.request("1.2.3", asked, EXPLICIT))[0x0900] == 0
        kind, report = event(assoc)
        assert (kind, report.committed) == (2, (first[1],))
        assert report.failed == {second[1]: Failure.CLASS_CONFLICT, "1.2.3.4.5": Failure.NO_SUCH_INSTANCE}
        assert request(assoc, commit_module.request("1.2.3", [first], EXPLICIT))[0x0900] == 0
        kind, report = event(assoc)
        assert (kind, report.failed) == (2, {first[1]: Failure.DUPLICATE_TRANSACTION})


def test_the_report_as_bytes(house: Callable[..., House]) -> None:
    """Read with pydicom: PS3.4 Table J.3-3, nothing more and nothing less."""
    from io import BytesIO

    from pydicom.filereader import read_dataset

    with Association(house().acceptor.address, contexts=CONTEXTS) as assoc:
        (pair, _) = stored(assoc)
        request(assoc, commit_module.request("1.2.3", [pair, (CT, "1.2.9")], EXPLICIT))
        fields, raw = assoc.response()
        assert fields[0x1002] == 2
        report = read_dataset(BytesIO(raw), False, True)
        assert {element.keyword for element in report} == {
            "TransactionUID", "RetrieveAETitle", "ReferencedSOPSequence", "FailedSOPSequence",
        }  # fmt: skip
        assert report.RetrieveAETitle == "M3DICOM"
        (done,), (failed,) = report.ReferencedSOPSequence, report.FailedSOPSequence
        assert (done.ReferencedSOPClassUID, done.ReferencedSOPInstanceUID) == pair
        assert (failed.ReferencedSOPInstanceUID, failed.FailureReason) == ("1.2.9", 0x0112)


@pytest.mark.parametrize(
    ("dataset", "changes", "status"),
    [
        (implicit({0x00081195: "1.2.3"}), {}, 0x0115),
        (b"", {}, 0x0115),
        (b"\xff" * 100, {}, 0x0115),
        (commit_module.request("../../etc", [(CT, "1.2")], IMPLICIT), {}, 0x0115),
        (commit_module.request("1.2.3", [(CT, "not a uid")], IMPLICIT), {}, 0x0115),
        (commit_module.request("1.2.3", [("", "1.2")], IMPLICIT), {}, 0x0115),
        (commit_module.request("1.2.3", [(CT, "1.2")], IMPLICIT)[:-3], {}, 0x0115),
        (commit_module.request("1.2.3", [(CT, "1.2")], IMPLICIT), {"action": 2}, 0x0123),
        (commit_module.request("1.2.3", [(CT, "1.2")], IMPLICIT), {"instance": "1.2.3"}, 0x0112),
        (b"\0" * (33 << 20), {}, 0x0213),
    ],
    ids=["no sequence", "nothing", "noise", "transaction", "instance", "class", "cut", "action", "target", "too long"],
)
def test_bad_requests_are_answered(
    house: Callable[..., House], archive: Archive, dataset: bytes, changes: dict[str, Any], status: int
) -> None:
    contexts = ((COMMIT, (IMPLICIT,)), (VERIFICATION, (IMPLICIT,)))
    with Association(house().acceptor.address, contexts=contexts) as assoc:
        assert request(assoc, dataset, **changes)[0x0900] == status
        assert assoc.echo() == 0
    assert archive.commitments.listed() == []


def test_without_the_right_to_store(house: Callable[..., House], archive: Archive) -> None:
    running = house(aes=(AE("READER", rights=("query", "read")),))
    with Association(running.acceptor.address, contexts=CONTEXTS, calling="READER") as assoc:
        assert request(assoc, commit_module.request("1.2.3", [(CT, "1.2")], EXPLICIT))[0x0900] == 0x0124
    assert archive.commitments.listed() == []


def test_other_messages_come_before_the_answer_to_the_report(house: Callable[..., House]) -> None:
    running = house()
    with Association(running.acceptor.address, contexts=CONTEXTS) as assoc:
        pairs = stored(assoc, 1)
        request(assoc, commit_module.request("1.2.3", pairs, EXPLICIT))
        fields, _ = assoc.response()
        assert fields[0x0100] == 0x100
        assert assoc.echo() == 0  # the peer takes its time, and asks something itself
        answer = {0x0100: 0x8100, 0x0120: fields[0x0110], 0x0800: 0x0101, 0x0900: 0}
        assoc.send(assoc.message(assoc.accepted[COMMIT][0], command(answer)))
        assert assoc.echo() == 0
        running.until(lambda: running.archive.commitments.listed("reported"))
        # nobody was asked this
        answer[0x0120] = 77
        assoc.send(assoc.message(assoc.accepted[COMMIT][0], command(answer)))
        assert assoc.ended() == (0, 0)


def test_ten_thousand_instances(house: Callable[..., House]) -> None:
    with Association(house().acceptor.address, contexts=CONTEXTS, timeout=DEADLINE_S) as assoc:
        pairs = stored(assoc)
        asked = pairs + [(CT, f"1.2.826.0.1.3680043.8.498.{number}") for number in range(9_998)]
        assert request(assoc, commit_module.request("1.2.3", asked, EXPLICIT))[0x0900] == 0
        kind, report = event(assoc)
        assert (kind, list(report.committed), len(report.failed)) == (2, [uid for _, uid in pairs], 9_998)


class Asker:
    """Somebody else's SCU (pynetdicom) that takes reports at an acceptor of its own."""

    def __init__(self, *, scp_role: bool = True, status: int = 0) -> None:
        self.reports: list[tuple[int, Dataset]] = []
        self.status = status
        ae = OtherAE("ASKER")
        ae.add_supported_context(StorageCommitmentPushModel, scu_role=not scp_role, scp_role=scp_role)
        handlers = [(evt.EVT_N_EVENT_REPORT, self._take)]
        self._server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port: int = self._server.server_address[1]

    def _take(self, event: Any) -> tuple[int, Dataset]:
        self.reports.append((event.request.EventTypeID, event.event_information))
        return self.status, Dataset()

    def close(self) -> None:
        self._server.shutdown()


@pytest.fixture
def asker() -> Iterator[Callable[..., Asker]]:
    made: list[Asker] = []

    def maker(**options: Any) -> Asker:
        made.append(Asker(**options))
        return made[-1]

    yield maker
    for each in made:
        each.close()


def ask(running: House, pairs: list[tuple[str, str]], transaction_uid: str = "1.2.3") -> int:
    """The status of a request whose association ends at once."""
    with Association(running.acceptor.address, contexts=CONTEXTS, calling="ASKER") as assoc:
        return int(request(assoc, commit_module.request(transaction_uid, pairs, EXPLICIT))[0x0900])


def put(running: House) -> list[tuple[str, str]]:
    with Association(running.acceptor.address, contexts=CONTEXTS, calling="ASKER") as assoc:
        return stored(assoc)


def test_reported_on_an_association_of_our_own(house: Callable[..., House], asker: Callable[..., Asker]) -> None:
    peer = asker()
    running = house(aes=(AE("ASKER", "127.0.0.1", peer.port),))
    pairs = put(running)
    for number in range(3):
        assert ask(running, pairs, f"1.2.{number}") == 0
    running.until(lambda: len(running.archive.commitments.listed("reported")) == 3)
    # a report that crossed with the end of the association may have come twice, none may be missing
    assert {str(report.TransactionUID) for _, report in peer.reports} <= {"1.2.0", "1.2.1", "1.2.2"}
    for kind, report in peer.reports:
        assert kind == 1
        assert [str(each.ReferencedSOPInstanceUID) for each in report.ReferencedSOPSequence] == [
            uid for _, uid in pairs
        ]


def test_a_peer_that_comes_back_later_or_refuses_first(
    house: Callable[..., House], asker: Callable[..., Asker], archive: Archive
) -> None:
    peer = asker(status=0x0110)
    running = house(aes=(AE("ASKER", "127.0.0.1", peer.port),))
    archive.commitments.accept("1.2.3", put(running), peer="ASKER", principal=SYSTEM)
    running.until(lambda: archive.commitments.listed("due") and archive.commitments.listed("due")[0].attempt)
    assert "0110H" in archive.commitments.listed("due")[0].message
    peer.status = 0
    archive.commitments.retry()
    running.until(lambda: archive.commitments.listed("reported"))
    assert len(peer.reports) >= 2


def test_a_peer_that_does_not_let_us_be_scp(
    house: Callable[..., House], asker: Callable[..., Asker], archive: Archive
) -> None:
    peer = asker(scp_role=False)
    running = house(aes=(AE("ASKER", "127.0.0.1", peer.port),))
    archive.commitments.accept("1.2.3", put(running), peer="ASKER", principal=SYSTEM)
    running.until(lambda: archive.commitments.listed("due") and archive.commitments.listed("due")[0].attempt)
    assert peer.reports == []
    assert "SOP class is refused" in archive.commitments.listed("due")[0].message


def test_an_ae_without_an_address_gets_its_report_when_it_calls_again(
    house: Callable[..., House], archive: Archive
) -> None:
    running = house(aes=(AE("ASKER"),))
    pairs = put(running)
    archive.commitments.accept("1.2.3", pairs, peer="ASKER", principal=SYSTEM)
    running.until(lambda: archive.commitments.listed("due") and archive.commitments.listed("due")[0].attempt)
    assert "no AE of this title with host and port" in archive.commitments.listed("due")[0].message
    with Association(running.acceptor.address, contexts=CONTEXTS, calling="ASKER") as assoc:
        assert request(assoc, commit_module.request("1.2.4", pairs, EXPLICIT))[0x0900] == 0
        archive.commitments.retry()
        stepping = threading.Thread(
            target=running.until, args=(lambda: not archive.commitments.listed("asked", "due"),)
        )
        stepping.start()
        assert {event(assoc)[1].transaction_uid for _ in range(2)} == {"1.2.3", "1.2.4"}
        stepping.join()
    assert len(archive.commitments.listed("reported")) == 2


def test_a_peer_that_is_silent_on_its_association_is_told_on_ours(
    house: Callable[..., House], asker: Callable[..., Asker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "RESPONSE_S", 0.2)
    peer = asker()
    running = house(aes=(AE("ASKER", "127.0.0.1", peer.port),))
    pairs = put(running)
    with Association(running.acceptor.address, contexts=CONTEXTS, calling="ASKER") as assoc:
        assert request(assoc, commit_module.request("1.2.3", pairs, EXPLICIT))[0x0900] == 0
        fields, _ = assoc.response()
        assert fields[0x0100] == 0x100  # and no answer
        running.until(lambda: peer.reports)
        running.until(lambda: running.archive.commitments.listed("reported"))
        answer = {0x0100: 0x8100, 0x0120: fields[0x0110], 0x0800: 0x0101, 0x0900: 0}
        assoc.send(assoc.message(assoc.accepted[COMMIT][0], command(answer)))  # too late, and no harm
        assert assoc.echo() == 0


def test_stopping_does_not_wait_for_a_peer_that_hangs(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit_scu, "PATIENCE", Timeouts(response_s=1000))
    here, told = threading.Event(), threading.Event()

    def hang(event: Any) -> tuple[int, Dataset]:
        told.set()
        here.wait(1000)
        return 0, Dataset()

    ae = OtherAE("ASKER")
    ae.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, hang)])
    running = House(archive, aes=(AE("ASKER", "127.0.0.1", server.server_address[1]),))
    archive.commitments.accept("1.2.3", [(CT, "1.2.1")], peer="ASKER", principal=SYSTEM)
    try:
        running.until(told.is_set)
        closing = threading.Thread(target=running.close)
        closing.start()
        closing.join(2 * DEADLINE_S)
        assert not closing.is_alive()
        assert [each.state for each in archive.commitments.listed()] == ["due"]
    finally:
        here.set()
        server.shutdown()


# --- requests of ours -------------------------------------------------------------------------------------------------


class Keeper:
    """Somebody else's SCP (pynetdicom) that commits what it likes, here or at our door."""

    def __init__(self, *, answer: str, door: tuple[str, int] | None = None, status: int = 0) -> None:
        self.answer = answer
        self.door = door
        self.status = status
        self.answered: list[int] = []
        self._threads: list[threading.Thread] = []
        self._asked: Any = None
        ae = OtherAE("KEEPER")
        ae.add_supported_context(StorageCommitmentPushModel)
        handlers = [(evt.EVT_N_ACTION, self._action), (evt.EVT_DIMSE_SENT, self._sent)]
        self._server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.ae = AE("KEEPER", "127.0.0.1", self._server.server_address[1])

    def _action(self, event: Any) -> tuple[int, Dataset | None]:
        self._asked = event.action_information
        return self.status, None

    def _sent(self, event: Any) -> None:
        """Report once the response is on its way."""
        if type(event.message).__name__ == "N_ACTION_RSP" and self.answer != "never" and self.status == 0:
            self._threads.append(threading.Thread(target=self._report, args=(event.assoc, self._asked)))
            self._threads[-1].start()

    def _report(self, assoc: Any, asked: Dataset) -> None:
        report = Dataset()
        report.TransactionUID = asked.TransactionUID
        first, *rest = asked.ReferencedSOPSequence
        report.ReferencedSOPSequence = [first]
        for each in rest:
            each.FailureReason = 0x0213
        if rest:
            report.FailedSOPSequence = ItemSequence(rest)
        kind = 2 if rest else 1
        if self.answer == "here":
            status, _ = assoc.send_n_event_report(report, kind, StorageCommitmentPushModel, WELL_KNOWN)
            self.answered.append(status.Status)
            return
        assert self.door is not None
        ae = OtherAE("KEEPER")
        ae.add_requested_context(StorageCommitmentPushModel)
        roles = [build_role(StorageCommitmentPushModel, scp_role=True)]
        ours = ae.associate(*self.door, ae_title="M3DICOM", ext_neg=roles)
        status, _ = ours.send_n_event_report(report, kind, StorageCommitmentPushModel, WELL_KNOWN)
        self.answered.append(status.Status)
        ours.release()

    def close(self) -> None:
        for thread in self._threads:
            thread.join(DEADLINE_S)
        self._server.shutdown()


@pytest.mark.parametrize("answer", ["here", "at our door"])
def test_we_ask_and_are_told(house: Callable[..., House], archive: Archive, answer: str) -> None:
    running = house()
    keeper = Keeper(answer=answer, door=running.acceptor.address)
    try:
        pairs = [(CT, "1.2.1"), (CT, "1.2.2")]
        number = commit_scu.request(running.archive, keeper.ae, pairs, wait_s=DEADLINE_S)
        outcome = archive.commitments.outcome(number, "KEEPER")
        assert outcome is not None
        assert (outcome.state, outcome.complete) == ("answered", False)
        assert [each.failure for each in outcome.items] == ["", Failure.RESOURCES]
    finally:
        keeper.close()
    assert keeper.answered == [0]


def test_we_do_not_wait_for_ever_and_take_the_report_later(house: Callable[..., House], archive: Archive) -> None:
    running = house()
    keeper = Keeper(answer="never")
    try:
        number = commit_scu.request(running.archive, keeper.ae, [(CT, "1.2.1")], wait_s=0.2)
        outcome = archive.commitments.outcome(number)
        assert outcome is not None
        assert outcome.state == "asked"
    finally:
        keeper.close()
    report = Dataset()
    report.TransactionUID = number
    report.ReferencedSOPSequence = [Dataset()]
    report.ReferencedSOPSequence[0].ReferencedSOPClassUID = CT
    report.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.1"
    ae = OtherAE("KEEPER")
    ae.add_requested_context(StorageCommitmentPushModel)
    roles = [build_role(StorageCommitmentPushModel, scp_role=True)]
    assoc = ae.associate(*running.acceptor.address, ae_title="M3DICOM", ext_neg=roles)
    status, _ = assoc.send_n_event_report(report, 1, StorageCommitmentPushModel, WELL_KNOWN)
    assert status.Status == 0
    # said twice, the second time by mistake; for something nobody asked; of a kind nobody knows
    status, _ = assoc.send_n_event_report(report, 1, StorageCommitmentPushModel, WELL_KNOWN)
    assert status.Status == 0
    status, _ = assoc.send_n_event_report(report, 7, StorageCommitmentPushModel, WELL_KNOWN)
    assert status.Status == 0x0113
    report.TransactionUID = "1.2.3.4"
    status, _ = assoc.send_n_event_report(report, 1, StorageCommitmentPushModel, WELL_KNOWN)
    assert status.Status == 0x0115
    assoc.release()
    outcome = archive.commitments.outcome(number)
    assert outcome is not None
    assert outcome.complete


def test_peers_that_do_not_take_our_request(house: Callable[..., House], archive: Archive) -> None:
    running = house()
    keeper = Keeper(answer="here", status=0x0110)
    try:
        with pytest.raises(PeerFailed, match="0110H"):
            commit_scu.request(running.archive, keeper.ae, [(CT, "1.2.1")], transaction_uid="1.9.1")
    finally:
        keeper.close()
    with pytest.raises((PeerUnreachable, PeerRefused)):
        commit_scu.request(running.archive, keeper.ae, [(CT, "1.2.1")], transaction_uid="1.9.2")
    states = {each.transaction_uid: each.state for each in archive.commitments.listed()}
    assert states == {"1.9.1": "refused", "1.9.2": "refused"}


def test_an_event_without_the_role_of_an_scp(house: Callable[..., House]) -> None:
    with Association(house().acceptor.address, contexts=CONTEXTS) as assoc:
        report = commit_module.report("1.2.3", [], "X", EXPLICIT)
        fields: dict[int, int | str | bytes] = {
            0x0002: COMMIT, 0x0100: 0x100, 0x0110: 1, 0x0800: 1, 0x1000: WELL_KNOWN, 0x1002: 1,
        }  # fmt: skip
        assoc.send(assoc.message(assoc.accepted[COMMIT][0], command(fields), report))
        assert assoc.response()[0][0x0900] == 0x0211


# --- negotiation ------------------------------------------------------------------------------------------------------


def role(uid: str, scu: int, scp: int) -> bytes:
    return item(0x54, struct.pack(">H", len(uid)) + uid.encode() + bytes((scu, scp)))


@pytest.mark.parametrize(
    ("offered", "result", "answer"),
    [
        (b"", 0, None),
        (role(COMMIT, 1, 0), 0, b"\1\0"),
        (role(COMMIT, 0, 1), 0, b"\0\1"),
        (role(COMMIT, 1, 1), 0, b"\1\1"),
        (role(COMMIT, 0, 0), 1, None),
        (role(COMMIT, 0, 0) + role(COMMIT, 1, 0), 0, b"\1\0"),
        (role("1.2.3", 0, 1), 0, None),
    ],
)
def test_roles(house: Callable[..., House], offered: bytes, result: int, answer: bytes | None) -> None:
    with Association(house().acceptor.address, contexts=CONTEXTS, user_items=offered) as assoc:
        assert assoc.results[0] == result
        answers = [value[-2:] for kind, value in assoc.user if kind == 0x54]
        assert answers == ([] if answer is None else [answer])
        assert assoc.echo() == 0
