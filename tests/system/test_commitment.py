"""Storage Commitment on a real server: a promise survives kill -9, and is told to whoever comes back."""

from __future__ import annotations

import signal
import socket
import time
from typing import Any

import dicom_data
import pytest
from conftest import ServerStarter
from dimse_client import CT, EXPLICIT, Association, command
from pydicom import Dataset
from pynetdicom import AE as OtherAE
from pynetdicom import evt
from pynetdicom.sop_class import StorageCommitmentPushModel

from pacs.dimse import commit_module

pytestmark = pytest.mark.system

COMMIT = "1.2.840.10008.1.20.1"
WELL_KNOWN = "1.2.840.10008.1.20.1.1"
DEADLINE_S = 60.0


def test_a_report_is_not_lost_with_the_process(start: ServerStarter) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    settings = {"M3DICOM_AES": f'[{{title = "CT1", host = "127.0.0.1", port = {port}}}]', "M3DICOM_WORKERS": "0"}
    server = start(settings=settings)
    uids = []
    contexts = ((COMMIT, (EXPLICIT,)), (CT, (EXPLICIT,)))
    with Association(server.dimse, contexts=contexts, calling="CT1") as assoc:
        for ds in dicom_data.series(3, study=1):
            assert assoc.store(CT, ds.SOPInstanceUID, dicom_data.dataset_bytes(ds))[0x0900] == 0
            uids.append(str(ds.SOPInstanceUID))
    for number in range(3):
        with Association(server.dimse, contexts=contexts, calling="CT1") as assoc:
            asked = commit_module.request(f"1.2.{number}", [(CT, uid) for uid in [*uids, "1.2.3"]], EXPLICIT)
            fields: dict[int, int | str | bytes] = {
                0x0003: COMMIT, 0x0100: 0x130, 0x0110: 1, 0x0800: 1, 0x1001: WELL_KNOWN, 0x1008: 1,
            }  # fmt: skip
            assoc.send(assoc.message(assoc.accepted[COMMIT][0], command(fields), asked))
            assert assoc.response()[0][0x0900] == 0
            if number == 2:
                server.process.send_signal(signal.SIGKILL)
                server.process.wait()
                assoc.over = True
    reports: dict[str, Dataset] = {}

    def take(event: Any) -> tuple[int, Dataset]:
        reports[str(event.event_information.TransactionUID)] = event.event_information
        return 0, Dataset()

    ae = OtherAE("CT1")
    ae.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
    modality = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, take)])
    try:
        again = start(settings=settings)
        deadline = time.monotonic() + DEADLINE_S
        while again.command("commitments", "list").count("reported\tasked by CT1") < 3:
            assert time.monotonic() < deadline, again.command("commitments", "list")
            again.command("commitments", "retry", "--peer", "CT1")
    finally:
        modality.shutdown()
    # the peer may have hung up before a report that it got was noted: then it gets it twice, and never not at all
    for transaction_uid in ("1.2.1", "1.2.2"):
        report = reports[transaction_uid]
        assert [str(each.ReferencedSOPInstanceUID) for each in report.ReferencedSOPSequence] == uids
        assert [each.FailureReason for each in report.FailedSOPSequence] == [0x0112]
