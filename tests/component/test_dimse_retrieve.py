"""C-GET and C-MOVE on a real archive: what is selected, what a peer gets, and counts that are true when things fail."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dicom_data
import pydicom
import pytest
from dimse_client import CT, DEFLATED, EXPLICIT, IMPLICIT, implicit
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from raw_dicom import bundled
from servers import free_port, missing, stop, wait_for_port

from pacs.archive import Archive, open_archive
from pacs.auth import SYSTEM, Auth, Principal, Right
from pacs.correction_request import Request
from pacs.corrections import Corrections
from pacs.decoding import DecodingPool
from pacs.dicom.attributes import Level
from pacs.dimse.acceptor import Acceptor, serve
from pacs.dimse.messages import Command, Tag, encode_command
from pacs.dimse.negotiation import Context
from pacs.dimse.requestor import Remote, Reply, Requestor
from pacs.dimse.upper_layer import Role
from pacs.selection import Selection, locate
from pacs.settings import AE, Settings

PATIENT_GET, PATIENT_MOVE = "1.2.840.10008.5.1.4.1.2.1.3", "1.2.840.10008.5.1.4.1.2.1.2"
STUDY_GET, STUDY_MOVE = "1.2.840.10008.5.1.4.1.2.2.3", "1.2.840.10008.5.1.4.1.2.2.2"
JPEG_LOSSLESS, BASELINE = "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.50"
SC = "1.2.840.10008.5.1.4.1.1.7"
MG = "1.2.840.10008.5.1.4.1.1.1.2"
Opener = Callable[..., Acceptor]
COUNTS = (Tag.COMPLETED_SUB_OPERATIONS, Tag.FAILED_SUB_OPERATIONS, Tag.WARNING_SUB_OPERATIONS)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    opened = open_archive(Settings(data=tmp_path / "archive"))
    archive = opened.with_services(auth=Auth(opened.index), decoding=DecodingPool(1))
    yield archive
    archive.close()


@pytest.fixture
def door(archive: Archive) -> Iterator[Opener]:
    """Open a door to the archive for these AEs; all are closed at the end."""
    opened: list[Acceptor] = []

    def opener(*aes: AE) -> Acceptor:
        settings = replace(archive.settings, aes=(AE("TESTER"), *aes))
        changed = archive.with_services(settings=settings, auth=Auth(archive.index, settings.aes))
        opened.append(serve(changed, host="127.0.0.1", port=0, ae_title="M3DICOM"))
        return opened[-1]

    yield opener
    for each in opened:
        each.close(0)


def keep(archive: Archive, *datasets: Dataset, syntax: str = EXPLICIT, scope: str = "") -> None:
    principal = Principal("tests", "system", frozenset(Right), scope)
    for ds in datasets:
        receiving = archive.ingest.receive(syntax, ds.SOPClassUID, ds.SOPInstanceUID, "TESTER")
        receiving.write(memoryview(dicom_data.dataset_bytes(ds, syntax)))
        archive.ingest.store(receiving, principal=principal)


def keep_file(archive: Archive, path: Path) -> Dataset:
    ds = pydicom.dcmread(path)
    raw = path.read_bytes()
    start = 144 + int.from_bytes(raw[140:144], "little")
    receiving = archive.ingest.receive(ds.file_meta.TransferSyntaxUID, ds.SOPClassUID, ds.SOPInstanceUID, "TESTER")
    receiving.write(memoryview(raw[start:]))
    archive.ingest.store(receiving, principal=SYSTEM)
    return ds


def identifier(level: str, **keys: str | list[str]) -> bytes:
    """An identifier in Implicit VR Little Endian; lists become several values."""
    values: dict[int, str | bytes] = {0x00080052: level}
    for keyword, value in keys.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None
        values[tag] = value if isinstance(value, str) else "\\".join(value)
    return implicit(values)


def failed_uids(reply: Reply) -> list[str]:
    from io import BytesIO

    from pydicom.filereader import read_dataset

    if reply.dataset is None:
        return []
    ds = read_dataset(BytesIO(reply.dataset), True, True)
    uids = ds.FailedSOPInstanceUIDList
    return [uids] if isinstance(uids, str) else list(uids)


class Kept:
    """A sink that keeps what comes, and answers as it is told."""

    def __init__(self, into: dict[str, bytes], uid: str, status: int) -> None:
        self._into, self._uid, self._status = into, uid, status
        self._data = bytearray()

    def write(self, piece: memoryview) -> object:
        return self._data.extend(piece)

    def finish(self) -> int:
        self._into[self._uid] = bytes(self._data)
        return self._status

    def abort(self) -> None:
        pass


def get(
    acceptor: Acceptor,
    keys: bytes,
    *,
    model: str = STUDY_GET,
    contexts: Sequence[tuple[str, Sequence[str]]] = ((CT, [EXPLICIT]),),
    status: Callable[[str], int] = lambda uid: 0,
    **options: Any,
) -> tuple[Reply, dict[str, bytes], list[Reply]]:
    """The final reply, the data sets received and the pending replies of a C-GET."""
    received: dict[str, bytes] = {}
    order: list[Command] = []

    def receive(command: Command, context: Context) -> Kept:
        order.append(command)
        return Kept(received, command.sop_instance_uid, status(command.sop_instance_uid))

    roles = [Role(abstract, False, True) for abstract in dict.fromkeys(each[0] for each in contexts)]
    remote = Remote("M3DICOM", *acceptor.address)
    with Requestor.open(remote, "TESTER", [(model, [IMPLICIT]), *contexts], roles=roles, **options) as assoc:
        *pending, final = assoc.get(assoc.context(model), keys, receive)
    return final, received, pending


def move(acceptor: Acceptor, keys: bytes, to: str, *, model: str = STUDY_MOVE) -> tuple[Reply, list[Reply]]:
    with Requestor.open(Remote("M3DICOM", *acceptor.address), "TESTER", [(model, [IMPLICIT])]) as assoc:
        *pending, final = assoc.move(assoc.context(model), keys, to)
    return final, pending


def counts(reply: Reply) -> tuple[int, ...]:
    return tuple(reply.count(tag) for tag in COUNTS)


@contextmanager
def storescp(folder: Path, *options: str) -> Iterator[int]:
    """A DCMTK storescp that writes into `folder`; its port."""
    program = shutil.which("storescp") or missing("storescp")
    folder.mkdir()
    port = free_port()
    process = subprocess.Popen(
        [str(program), "-od", str(folder), *options, str(port)],
        env={**os.environ, "TCP_NODELAY": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for_port(port, process)
        yield port
    finally:
        stop(process)


# --- what is selected -------------------------------------------------------------------------------------------------


def test_every_level_and_lists_of_uids(archive: Archive, door: Opener) -> None:
    first, second = list(dicom_data.series(3)), list(dicom_data.series(2, number=1))
    other = list(dicom_data.series(2, study=1, PatientID="SYN-2"))
    keep(archive, *first, *second, *other)
    acceptor, study = door(), first[0].StudyInstanceUID

    def uids_of(keys: bytes, model: str = STUDY_GET) -> set[str]:
        final, received, _ = get(acceptor, keys, model=model)
        assert final.status == 0
        assert counts(final) == (len(received), 0, 0)
        assert Tag.REMAINING_SUB_OPERATIONS not in final.command.numbers
        return set(received)

    def sop(*datasets: Dataset) -> set[str]:
        return {ds.SOPInstanceUID for ds in datasets}

    assert uids_of(identifier("STUDY", StudyInstanceUID=study)) == sop(*first, *second)
    both = [study, other[0].StudyInstanceUID]
    assert uids_of(identifier("STUDY", StudyInstanceUID=both)) == sop(*first, *second, *other)
    series = second[0].SeriesInstanceUID
    assert uids_of(identifier("SERIES", StudyInstanceUID=study, SeriesInstanceUID=series)) == sop(*second)
    wanted = [first[0].SOPInstanceUID, first[2].SOPInstanceUID]
    keys = {"StudyInstanceUID": study, "SeriesInstanceUID": first[0].SeriesInstanceUID, "SOPInstanceUID": wanted}
    assert uids_of(identifier("IMAGE", **keys)) == set(wanted)
    assert uids_of(identifier("PATIENT", PatientID="SYN-2"), PATIENT_GET) == sop(*other)
    assert uids_of(identifier("STUDY", PatientID="SYN-1", StudyInstanceUID=study), PATIENT_GET) == sop(*first, *second)
    assert uids_of(identifier("STUDY", PatientID="SYN-2", StudyInstanceUID=study), PATIENT_GET) == set()
    assert uids_of(identifier("STUDY", StudyInstanceUID="1.2.3", PatientName="ignored")) == set()


def test_a_model_broken_is_refused_unless_relational(archive: Archive, door: Opener) -> None:
    first = list(dicom_data.series(2))
    keep(archive, *first)
    acceptor, series = door(), first[0].SeriesInstanceUID
    for model, keys in (
        (STUDY_GET, identifier("SERIES", SeriesInstanceUID=series)),
        (STUDY_GET, identifier("PATIENT", PatientID="SYN-1")),
        (STUDY_GET, identifier("STUDY")),
        (STUDY_GET, identifier("STUDY", StudyInstanceUID="*")),
        (STUDY_GET, identifier("NONSENSE", StudyInstanceUID="1.2.3")),
        (PATIENT_GET, identifier("STUDY", StudyInstanceUID=first[0].StudyInstanceUID)),
        (PATIENT_GET, identifier("PATIENT", PatientID=["SYN-1", "SYN-2"])),
    ):
        final, received, pending = get(acceptor, keys, model=model)
        assert (final.status, received, pending) == (0xA900, {}, [])
    final, received, _ = get(acceptor, identifier("SERIES", SeriesInstanceUID=series), extended=[(STUDY_GET, b"\1")])
    assert (final.status, len(received)) == (0, 2)
    assert get(acceptor, b"garbage that is no data set")[0].status >> 12 == 0xC


# --- what a peer gets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, DEFLATED])
def test_bytes_are_those_stored(archive: Archive, door: Opener, syntax: str) -> None:
    small, large = dicom_data.image(1), dicom_data.image(2, 900, 700)
    keep(archive, small, large, syntax=syntax)
    keys = identifier("STUDY", StudyInstanceUID=small.StudyInstanceUID)
    final, received, pending = get(door(), keys, contexts=[(CT, [syntax])])
    assert final.status == 0
    assert received == {each.SOPInstanceUID: dicom_data.dataset_bytes(each, syntax) for each in (small, large)}
    assert pending
    assert all(each.status == 0xFF00 for each in pending)
    assert pending[0].count(Tag.REMAINING_SUB_OPERATIONS) == 1


def test_made_over_into_what_the_peer_accepts(archive: Archive, door: Opener) -> None:
    jpeg = keep_file(archive, bundled("SC_rgb_rle.dcm"))
    keys = identifier("STUDY", StudyInstanceUID=jpeg.StudyInstanceUID)
    acceptor = door()
    stored = jpeg.file_meta.TransferSyntaxUID
    for accepted in (EXPLICIT, IMPLICIT):
        final, received, _ = get(acceptor, keys, contexts=[(jpeg.SOPClassUID, [accepted])])
        assert (final.status, len(received)) == (0, 1)
        ds = _decoded(received[jpeg.SOPInstanceUID], accepted)
        assert ds.pixel_array.shape == jpeg.pixel_array.shape
        assert abs(ds.pixel_array.astype(int) - jpeg.pixel_array.astype(int)).max() <= 2
    kept = get(acceptor, keys, contexts=[(jpeg.SOPClassUID, [EXPLICIT]), (jpeg.SOPClassUID, [stored])])[1]
    assert kept[jpeg.SOPInstanceUID] in bundled("SC_rgb_rle.dcm").read_bytes()
    final, received, _ = get(acceptor, keys, contexts=[(jpeg.SOPClassUID, [DEFLATED])])
    assert (final.status, received, failed_uids(final)) == (0xA702, {}, [jpeg.SOPInstanceUID])
    assert "does not accept" in final.command.comment


def test_implicit_is_explicit_word_for_word(archive: Archive, door: Opener) -> None:
    ds = dicom_data.image(1)
    ds.RequestAttributesSequence = [Dataset()]
    ds.RequestAttributesSequence[0].ScheduledProcedureStepID = "S1"
    keep(archive, ds)
    keys = identifier("STUDY", StudyInstanceUID=ds.StudyInstanceUID)
    _, received, _ = get(door(), keys, contexts=[(CT, [IMPLICIT])])
    assert _decoded(received[ds.SOPInstanceUID], IMPLICIT) == _decoded(dicom_data.dataset_bytes(ds), EXPLICIT)


def _decoded(raw: bytes, syntax: str) -> Dataset:
    from io import BytesIO

    from pydicom.dataset import FileMetaDataset
    from pydicom.filereader import read_dataset

    ds = read_dataset(BytesIO(raw), syntax == IMPLICIT, True)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    for _ in ds.iterall():  # read all of it now
        pass
    return ds


def test_a_corrected_study_goes_out_as_corrected(archive: Archive, door: Opener) -> None:
    images = list(dicom_data.series(2))
    keep(archive, *images)
    corrections = Corrections(archive.store, archive.index, archive.events)
    request = Request("patient", "typing error", patient_id="SYN-1", changes={"PatientID": "SYN-9"})
    corrections.make(SYSTEM, request)
    final, received, _ = get(door(), identifier("PATIENT", PatientID="SYN-9"), model=PATIENT_GET)
    assert (final.status, len(received)) == (0, 2)
    for ds in images:
        got = _decoded(received[ds.SOPInstanceUID], EXPLICIT)
        assert (got.PatientID, got.PixelData) == ("SYN-9", ds.PixelData)
    assert get(door(), identifier("PATIENT", PatientID="SYN-1"), model=PATIENT_GET)[1] == {}


# --- counts when things fail ------------------------------------------------------------------------------------------


def test_refused_warned_and_unwanted_instances_are_counted(archive: Archive, door: Opener) -> None:
    images = list(dicom_data.series(4))
    scan = dicom_data.mammogram(9, StudyInstanceUID=images[0].StudyInstanceUID)
    keep(archive, *images, scan)
    answers = {images[0].SOPInstanceUID: 0xA700, images[1].SOPInstanceUID: 0xB000}
    keys = identifier("STUDY", StudyInstanceUID=images[0].StudyInstanceUID)
    final, received, _ = get(door(), keys, status=lambda uid: answers.get(uid, 0))
    assert (final.status, counts(final)) == (0xB000, (2, 2, 1))
    assert set(failed_uids(final)) == {images[0].SOPInstanceUID, scan.SOPInstanceUID}
    assert len(received) == 4


def test_what_is_corrupt_is_not_sent(archive: Archive, door: Opener) -> None:
    images = list(dicom_data.series(3))
    keep(archive, *images)
    (location,) = archive.retrieve.locate(SYSTEM, images[1].StudyInstanceUID, None, images[1].SOPInstanceUID)
    damage(archive, location)
    keys = identifier("STUDY", StudyInstanceUID=images[0].StudyInstanceUID)
    final, received, _ = get(door(), keys)
    assert (final.status, counts(final)) == (0xB000, (2, 1, 0))
    assert failed_uids(final) == [images[1].SOPInstanceUID]
    assert images[1].SOPInstanceUID not in received


def damage(archive: Archive, location: Any) -> None:
    """Flip a byte of the stored pixels, behind the archive's back."""
    at = location.locator.offset + location.dataset_offset + location.size - 100
    root = archive.settings.data
    (path,) = [each for each in root.rglob(f"*{Path(location.locator.object_key).name}*") if each.is_file()]
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0xFF]))


def test_only_what_the_asker_may_see(archive: Archive, door: Opener) -> None:
    mine = dicom_data.image(1)
    keep(archive, mine, scope="ward")
    keys = identifier("STUDY", StudyInstanceUID=mine.StudyInstanceUID)
    assert len(get(door(), keys)[1]) == 1
    selection = Selection(Level.STUDY, study_instance_uids=(mine.StudyInstanceUID,))
    for scope, seen in (("", 1), ("ward", 1), ("other ward", 0)):
        asker = Principal("asker", "token", frozenset({Right.READ}), scope)
        assert len(locate(archive.index, asker, selection)) == seen
    settings = replace(archive.settings, aes=(AE("TESTER", rights=("query", "store")),))
    changed = archive.with_services(settings=settings, auth=Auth(archive.index, settings.aes))
    acceptor = serve(changed, host="127.0.0.1", port=0, ae_title="M3DICOM")
    try:
        final, received, _ = get(acceptor, keys)
        assert (final.status, received) == (0x0124, {})
    finally:
        acceptor.close(0)


@pytest.mark.parametrize("room", [0, 10_000])
def test_without_memory_to_spare_instances_are_streamed(archive: Archive, door: Opener, room: int) -> None:
    images = [dicom_data.image(at, 64 + 600 * (at % 2), 700) for at in range(4)]
    keep(archive, *images)
    held = archive.retrieve.held
    assert held.take(held.left - room)
    keys = identifier("STUDY", StudyInstanceUID=images[0].StudyInstanceUID)
    final, received, _ = get(door(), keys)
    assert (final.status, counts(final)) == (0, (4, 0, 0))
    assert received == {ds.SOPInstanceUID: dicom_data.dataset_bytes(ds) for ds in images}
    (location,) = archive.retrieve.locate(SYSTEM, images[1].StudyInstanceUID, None, images[1].SOPInstanceUID)
    damage(archive, location)
    final, received, _ = get(door(), keys)
    assert (final.status, counts(final), failed_uids(final)) == (0xB000, (3, 1, 0), [images[1].SOPInstanceUID])
    until_given_back(archive, room)


def until_given_back(archive: Archive, left: int) -> None:
    deadline = time.monotonic() + 60
    while archive.retrieve.held.left != left:
        assert time.monotonic() < deadline, f"{archive.retrieve.held.left} of {left} bytes were given back"
        time.sleep(0.01)


def test_a_peer_that_goes_away_gives_the_memory_back(archive: Archive, door: Opener) -> None:
    images = list(dicom_data.series(8))
    keep(archive, *images)
    acceptor, whole = door(), archive.retrieve.held.left
    contexts = [(STUDY_GET, [IMPLICIT]), (CT, [EXPLICIT])]
    remote = Remote("M3DICOM", *acceptor.address)
    with Requestor.open(remote, "TESTER", contexts, roles=[Role(CT, False, True)]) as assoc:

        def receive(command: Command, _: Context) -> Kept:
            raise ConnectionError("enough")

        keys = identifier("STUDY", StudyInstanceUID=images[0].StudyInstanceUID)
        with pytest.raises(ConnectionError):
            list(assoc.get(assoc.context(STUDY_GET), keys, receive))
        assoc.abort()
    until_given_back(archive, whole)
    deadline = time.monotonic() + 60
    while not (ended := archive.audit.query("DICOM Instances Transferred")) or "C-GET" not in ended[0].detail:
        assert time.monotonic() < deadline, "the audit says nothing of the end"
        time.sleep(0.01)
    assert (ended[0].outcome, ended[0].detail) == ("failure", "C-GET to TESTER: 0 of 8 sent, 0 failed, broken off")


def test_cancel_between_two_instances(archive: Archive, door: Opener) -> None:
    images = list(dicom_data.series(12))
    keep(archive, *images)
    acceptor = door()
    received: dict[str, bytes] = {}
    remote = Remote("M3DICOM", *acceptor.address)
    contexts = [(STUDY_GET, [IMPLICIT]), (CT, [EXPLICIT])]
    with Requestor.open(remote, "TESTER", contexts, roles=[Role(CT, False, True)]) as assoc:
        context = assoc.context(STUDY_GET)

        def receive(command: Command, _: Context) -> Kept:
            if len(received) == 2:
                assoc.cancel(context)
            return Kept(received, command.sop_instance_uid, 0)

        keys = identifier("STUDY", StudyInstanceUID=images[0].StudyInstanceUID)
        final = list(assoc.get(context, keys, receive))[-1]
        assert final.status == 0xFE00
        assert len(received) == 3
        assert counts(final) == (3, 0, 0)
        assert final.count(Tag.REMAINING_SUB_OPERATIONS) == 9


# --- C-MOVE -----------------------------------------------------------------------------------------------------------


def test_move_to_another_archive(archive: Archive, door: Opener, tmp_path: Path) -> None:
    images = list(dicom_data.series(5))
    keep(archive, *images)
    jpeg = keep_file(archive, bundled("SC_rgb_rle.dcm"))
    there = open_archive(Settings(data=tmp_path / "there"))
    there = there.with_services(auth=Auth(there.index))
    acceptor = serve(there, host="127.0.0.1", port=0, ae_title="THERE")
    try:
        host, port = acceptor.address
        ours = door(AE("THERE", host=host, port=port))
        keys = identifier("STUDY", StudyInstanceUID=[images[0].StudyInstanceUID, jpeg.StudyInstanceUID])
        final, pending = move(ours, keys, "THERE")
        assert (final.status, counts(final), final.dataset) == (0, (6, 0, 0), None)
        assert pending[0].count(Tag.REMAINING_SUB_OPERATIONS) == 5
        for ds in (*images, jpeg):
            (here,) = archive.retrieve.locate(SYSTEM, ds.StudyInstanceUID, None, ds.SOPInstanceUID)
            (copy,) = there.retrieve.locate(SYSTEM, ds.StudyInstanceUID, None, ds.SOPInstanceUID)
            assert copy.digest == here.digest
        events = archive.audit.query("Begin Transferring DICOM Instances")
        assert {each.study_instance_uid for each in events} == {images[0].StudyInstanceUID, jpeg.StudyInstanceUID}
        assert all("C-MOVE to THERE" in each.detail and each.principal == "TESTER" for each in events)
        sent = [each for each in archive.audit.query("DICOM Instances Transferred") if "THERE" in each.detail]
        assert {each.outcome for each in sent} == {"success"}
        assert "6 of 6 sent, 0 failed" in sent[0].detail
    finally:
        acceptor.close(0)
        there.close()


def test_unknown_and_dead_destinations(archive: Archive, door: Opener) -> None:
    images = list(dicom_data.series(3))
    keep(archive, *images)
    acceptor = door(AE("DEAD", host="127.0.0.1", port=free_port()), AE("MUTE"))
    keys = identifier("STUDY", StudyInstanceUID=images[0].StudyInstanceUID)
    for unknown in ("NOBODY", "MUTE"):
        final, pending = move(acceptor, keys, unknown)
        assert (final.status, pending) == (0xA801, [])
    final, _ = move(acceptor, keys, "DEAD")
    assert (final.status, counts(final)) == (0xA702, (0, 3, 0))
    assert set(failed_uids(final)) == {ds.SOPInstanceUID for ds in images}
    assert "cannot connect" in final.command.comment
    assert move(acceptor, identifier("STUDY", StudyInstanceUID="1.2.3"), "DEAD")[0].status == 0


def test_storescp_that_reads_only_implicit(archive: Archive, door: Opener, tmp_path: Path) -> None:
    images = list(dicom_data.series(3))
    keep(archive, *images)
    jpeg = keep_file(archive, bundled("SC_rgb_rle.dcm"))
    with storescp(tmp_path / "got", "+xi") as port:
        acceptor = door(AE("STORESCP", host="127.0.0.1", port=port))
        keys = identifier("STUDY", StudyInstanceUID=[images[0].StudyInstanceUID, jpeg.StudyInstanceUID])
        final, _ = move(acceptor, keys, "STORESCP")
        assert (final.status, counts(final)) == (0, (4, 0, 0))
    got = [pydicom.dcmread(path) for path in (tmp_path / "got").iterdir()]
    assert {ds.SOPInstanceUID for ds in got} == {ds.SOPInstanceUID for ds in (*images, jpeg)}
    assert all(ds.pixel_array.any() for ds in got)


class Scripted:
    """A destination that takes some instances and then does as it is told, from its own plain listener."""

    def __init__(self, takes: int, then: str, lives: int = 1) -> None:
        self.takes, self.then, self.lives = takes, then, lives
        self.commands: list[dict[int, Any]] = []
        self.associations = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        from dimse_client import Connection, decode_command, pdu, pdv

        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.associations += 1
            peer = Connection.__new__(Connection)
            peer.sock, peer.over = sock, False
            try:
                _, body = peer.read_pdu()
                peer.send(_accept_all(body))
                taken, raw, message = 0, b"", {}
                while True:
                    kind, body = peer.read_pdu()
                    if kind == 5:
                        peer.send(pdu(6, bytes(4)))
                        break
                    control = body[5]
                    if control & 1:
                        raw += body[6:]
                        if control & 2:
                            message, raw = decode_command(raw), b""
                            self.commands.append(message)
                            if taken == self.takes and self.associations <= self.lives:
                                break
                    elif control & 2:
                        taken += 1
                        answer = {
                            0x0100: 0x8001, 0x0120: message[0x0110], 0x0800: 0x0101, 0x0900: 0,
                            0x0002: message[0x0002], 0x1000: message[0x1000],
                        }  # fmt: skip
                        peer.send(pdu(4, pdv(body[4], 3, encode_command(answer))))
            except (OSError, ConnectionError):
                pass
            if self.then == "close":
                sock.close()
            if self.then == "abort":
                sock.sendall(pdu(7, bytes((0, 0, 0, 0))))
                sock.close()
            if self.associations >= self.lives and self.then == "gone":
                self.listener.close()
                sock.close()
                return


def _accept_all(body: bytes) -> bytes:
    import struct

    from dimse_client import item, pdu

    at, contexts = 68, b""
    while at < len(body):
        kind, length = struct.unpack_from(">BxH", body, at)
        value = body[at + 4 : at + 4 + length]
        if kind == 0x20:
            inner = 4
            while value[inner] != 0x40:
                inner += 4 + struct.unpack_from(">H", value, inner + 2)[0]
            size = struct.unpack_from(">H", value, inner + 2)[0]
            contexts += item(0x21, bytes((value[0], 0, 0, 0)) + item(0x40, value[inner + 4 : inner + 4 + size]))
        at += 4 + length
    user = item(0x50, item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3"))
    return pdu(2, body[:68] + item(0x10, b"1.2.840.10008.3.1.1.1") + contexts + user)


def test_the_sub_operations_say_who_asked(archive: Archive, door: Opener) -> None:
    images = list(dicom_data.series(2))
    keep(archive, *images)
    peer = Scripted(100, "close")
    acceptor = door(AE("PEER", host="127.0.0.1", port=peer.port))
    keys = identifier("STUDY", StudyInstanceUID=images[0].StudyInstanceUID)
    with Requestor.open(Remote("M3DICOM", *acceptor.address), "TESTER", [(STUDY_MOVE, [IMPLICIT])]) as assoc:
        final = list(assoc.move(assoc.context(STUDY_MOVE), keys, "PEER", priority=1))[-1]
    assert final.status == 0
    assert [each[0x1030].strip() for each in peer.commands] == [b"TESTER", b"TESTER"]
    assert [each[0x1031] for each in peer.commands] == [1, 1]
    assert [each[0x0700] for each in peer.commands] == [1, 1]
    assert peer.associations == 1
    peer.listener.close()


@pytest.mark.parametrize("then", ["close", "abort"])
def test_an_association_lost_midway_is_opened_again(archive: Archive, door: Opener, then: str) -> None:
    images = list(dicom_data.series(6))
    keep(archive, *images)
    peer = Scripted(2, then)
    acceptor = door(AE("PEER", host="127.0.0.1", port=peer.port))
    final, _ = move(acceptor, identifier("STUDY", StudyInstanceUID=images[0].StudyInstanceUID), "PEER")
    assert (final.status, counts(final)) == (0xB000, (5, 1, 0))
    assert failed_uids(final) == [images[2].SOPInstanceUID]
    assert peer.associations == 2
    peer.listener.close()


def test_a_destination_gone_midway(archive: Archive, door: Opener) -> None:
    images = list(dicom_data.series(6))
    keep(archive, *images)
    peer = Scripted(2, "gone")
    acceptor = door(AE("PEER", host="127.0.0.1", port=peer.port))
    final, _ = move(acceptor, identifier("STUDY", StudyInstanceUID=images[0].StudyInstanceUID), "PEER")
    assert (final.status, counts(final)) == (0xB000, (2, 4, 0))
    assert failed_uids(final) == [ds.SOPInstanceUID for ds in images[2:]]


def test_more_sop_classes_than_one_association_carries(archive: Archive, door: Opener, tmp_path: Path) -> None:
    from pacs.dicom.sop_classes import STORAGE_SOP_CLASSES

    classes = sorted(STORAGE_SOP_CLASSES)[:70]
    images = [dicom_data.image(at, 4, 4, SOPClassUID=uid) for at, uid in enumerate(classes)]
    keep(archive, *images)
    there = open_archive(Settings(data=tmp_path / "there"))
    there = there.with_services(auth=Auth(there.index))
    acceptor = serve(there, host="127.0.0.1", port=0, ae_title="THERE")
    try:
        host, port = acceptor.address
        keys = identifier("STUDY", StudyInstanceUID=images[0].StudyInstanceUID)
        final, _ = move(door(AE("THERE", host=host, port=port)), keys, "THERE")
        assert (final.status, counts(final)) == (0, (70, 0, 0))
        assert len(there.retrieve.locate(SYSTEM, images[0].StudyInstanceUID)) == 70
    finally:
        acceptor.close(0)
        there.close()


# --- real clients -----------------------------------------------------------------------------------------------------


def test_getscu_and_movescu(archive: Archive, door: Opener, tmp_path: Path) -> None:
    getscu, movescu = (shutil.which(name) or missing(name) for name in ("getscu", "movescu"))
    images = [*dicom_data.series(3), *dicom_data.series(2, number=1)]
    keep(archive, *images)
    environment = {**os.environ, "TCP_NODELAY": "1"}
    (tmp_path / "got").mkdir()
    (tmp_path / "moved").mkdir()
    port = free_port()
    host, door_port = (acceptor := door(AE("MOVESCU", host="127.0.0.1", port=port))).address
    study = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={images[0].StudyInstanceUID}"]
    common = ["-aet", "TESTER", "-aec", "M3DICOM", *study, host, str(door_port)]
    done = subprocess.run(
        [str(getscu), "-v", "-S", "-od", str(tmp_path / "got"), *common],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    moved = subprocess.run(
        [str(movescu), "-v", "-S", "-aem", "MOVESCU", "+P", str(port), "-od", str(tmp_path / "moved"), *common],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert moved.returncode == 0, moved.stderr
    for folder in ("got", "moved"):
        got = {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, (tmp_path / folder).iterdir())}
        assert {uid: ds.PixelData for uid, ds in got.items()} == {ds.SOPInstanceUID: ds.PixelData for ds in images}
    assert acceptor.alive


def test_pynetdicom_gets_and_moves(archive: Archive, door: Opener) -> None:
    pynetdicom = pytest.importorskip("pynetdicom")
    images = list(dicom_data.series(4))
    keep(archive, *images)
    stored: list[tuple[str, Any, Any]] = []

    def on_store(event: Any) -> int:
        request = event.request
        stored.append((request.AffectedSOPInstanceUID, request.MoveOriginatorApplicationEntityTitle, event.dataset))
        return 0

    handlers = [(pynetdicom.evt.EVT_C_STORE, on_store)]
    destination = pynetdicom.AE("PEER")
    destination.add_supported_context(CT, [IMPLICIT])
    server = destination.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        host, port = door(AE("PEER", host="127.0.0.1", port=server.socket.getsockname()[1])).address
        client = pynetdicom.AE("TESTER")
        for model in (STUDY_GET, STUDY_MOVE):
            client.add_requested_context(model)
        client.add_requested_context(CT, [EXPLICIT])
        assoc = client.associate(
            host, port, ae_title="M3DICOM", ext_neg=[pynetdicom.build_role(CT, scp_role=True)], evt_handlers=handlers
        )
        assert assoc.is_established
        query = Dataset()
        query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", images[0].StudyInstanceUID
        *_, (final, _) = assoc.send_c_get(query, STUDY_GET)
        assert (final.Status, final.NumberOfCompletedSuboperations) == (0, 4)
        assert [uid for uid, _, _ in stored] == [ds.SOPInstanceUID for ds in images]
        stored.clear()
        *_, (final, _) = assoc.send_c_move(query, "PEER", STUDY_MOVE)
        assert (final.Status, final.NumberOfCompletedSuboperations) == (0, 4)
        assert {origin for _, origin, _ in stored} == {"TESTER"}
        assert [ds.PixelData for _, _, ds in stored] == [ds.PixelData for ds in images]
        assoc.release()
    finally:
        server.shutdown()
