"""C-STORE and C-FIND on a real archive: bytes kept as they came, statuses that are true, matches at four levels."""

from __future__ import annotations

import hashlib
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import dicom_data
import pytest
from dimse_client import (
    BIG_ENDIAN,
    CT,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    PATIENT_FIND,
    STUDY_FIND,
    VERIFICATION,
    Association,
    command,
    implicit,
    item,
)
from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from pacs import uids
from pacs.archive import Archive, open_archive
from pacs.auth import SYSTEM, Auth
from pacs.dimse import find_scp
from pacs.dimse.acceptor import Acceptor, serve
from pacs.settings import AE, Settings

CONTEXTS = (
    (CT, (EXPLICIT,)), (VERIFICATION, (IMPLICIT,)), (STUDY_FIND, (IMPLICIT,)), (PATIENT_FIND, (EXPLICIT,)),
)  # fmt: skip
Door = Callable[..., Acceptor]


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    archive = open_archive(Settings(data=tmp_path))
    yield archive.with_services(auth=Auth(archive.index))
    archive.close()


@pytest.fixture
def door(archive: Archive) -> Iterator[Door]:
    """Open doors to the archive, with settings changed; all are closed at the end."""
    opened: list[Acceptor] = []

    def opener(**changes: Any) -> Acceptor:
        settings = replace(archive.settings, **changes)
        changed = archive.with_services(settings=settings, auth=Auth(archive.index, settings.aes))
        opened.append(serve(changed, host="127.0.0.1", port=0, ae_title="M3DICOM"))
        return opened[-1]

    yield opener
    for each in opened:
        each.close(0)


def kept(archive: Archive, ds: Dataset) -> bytes:
    (location,) = archive.retrieve.locate(SYSTEM, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
    return archive.retrieve.dataset(location)


def send(acceptor: Acceptor, *datasets: Dataset) -> None:
    with Association(acceptor.address, contexts=CONTEXTS) as assoc:
        for ds in datasets:
            assert assoc.store(CT, ds.SOPInstanceUID, dicom_data.dataset_bytes(ds))[0x0900] == 0


# --- C-STORE ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED])
@pytest.mark.parametrize("rows", [8, 900])
def test_stored_as_received(door: Door, archive: Archive, syntax: str, rows: int) -> None:
    ds = dicom_data.image(1, rows, 700)
    data = dicom_data.dataset_bytes(ds, syntax)
    with Association(door().address, contexts=((CT, (syntax,)),)) as assoc:
        fields = assoc.store(CT, ds.SOPInstanceUID, data)
        assert (fields[0x0900], fields[0x0100], fields[0x0120]) == (0, 0x8001, 1)
        assert (fields[0x0002], fields[0x1000]) == (CT, ds.SOPInstanceUID)
    (location,) = archive.retrieve.locate(SYSTEM, ds.StudyInstanceUID)
    assert location.transfer_syntax_uid == syntax
    part10 = b"".join(archive.retrieve.part10(location))
    assert hashlib.sha256(part10[-len(data) :]).digest() == hashlib.sha256(data).digest()


def test_the_same_again_is_success_and_other_content_is_not(door: Door, archive: Archive) -> None:
    ds = dicom_data.image(1)
    other = dicom_data.image(1, StudyDescription="changed")
    data = dicom_data.dataset_bytes(ds)
    with Association(door().address, contexts=CONTEXTS) as assoc:
        assert assoc.store(CT, ds.SOPInstanceUID, data)[0x0900] == 0
        assert assoc.store(CT, ds.SOPInstanceUID, data)[0x0900] == 0
        refused = assoc.store(CT, ds.SOPInstanceUID, dicom_data.dataset_bytes(other))
        assert refused[0x0900] == 0x0111
        assert 0 < len(refused[0x0902]) <= 64
    assert kept(archive, ds) == data


def test_statuses_and_the_association_goes_on(door: Door, archive: Archive, caplog: pytest.LogCaptureFixture) -> None:
    ds = dicom_data.image(1)
    data = dicom_data.dataset_bytes(ds)
    with Association(door().address, contexts=CONTEXTS) as assoc:
        other_uid = assoc.store(CT, "1.2.3", data)
        assert (other_uid[0x0900], other_uid[0x1000]) == (0xA900, "1.2.3")
        assert assoc.store(CT, ds.SOPInstanceUID, data[: len(data) // 2])[0x0900] == 0xC000
        assert assoc.store(CT, ds.SOPInstanceUID, b"")[0x0900] in (0xA900, 0xC000)
        assert assoc.store(CT, ds.SOPInstanceUID, b"garbage that is no data set")[0x0900] == 0xC000
        assert assoc.store(CT, "../../etc/passwd", data)[0x0900] == 0x0117
        assert assoc.store(CT, "", data)[0x0900] == 0x0117
        assert assoc.echo() == 0
        assert not list(archive.store.walk())
        assert f"C-STORE of {ds.SOPInstanceUID} from 'TESTER' refused: C000H" in caplog.text
        assert "C-STORE of an instance without a valid UID" in caplog.text
        assert "passwd" not in caplog.text
        assert str(ds.PatientName) not in caplog.text
        assert assoc.store(CT, ds.SOPInstanceUID, data)[0x0900] == 0


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({0x0002: VERIFICATION}, 0x0122),
        ({0x0002: ""}, 0x0122),
        ({0x0002: "1.2.840.10008.5.1.4.1.1.4"}, 0x0122),
        ({0x0700: b"\0\0\0\0"}, 0x0212),
        ({0x1000: b"\xff\xfe"}, 0x0212),
        ({0x0100: 0x0021}, 0x0211),
        ({0x0100: 0x0150}, 0x0211),
        ({0x0100: 0x7777}, 0x0211),
    ],
)
def test_bad_command_fields_are_answered(door: Door, fields: dict[int, Any], code: int) -> None:
    ds = dicom_data.image(1)
    good: dict[int, Any] = {0x0002: CT, 0x0100: 1, 0x0110: 9, 0x0700: 0, 0x0800: 1, 0x1000: ds.SOPInstanceUID}
    with Association(door().address, contexts=CONTEXTS) as assoc:
        assoc.send(assoc.message(1, command(good | fields), dicom_data.dataset_bytes(ds)))
        answer = assoc.response()[0]
        assert (answer[0x0900], answer[0x0120]) == (code, 9)
        assert answer[0x0100] == (good | fields)[0x0100] | 0x8000
        assert assoc.echo() == 0


def test_store_without_data_set(door: Door) -> None:
    fields = {0x0002: CT, 0x0100: 1, 0x0110: 9, 0x0700: 0, 0x0800: 0x0101, 0x1000: "1.2.3"}
    with Association(door().address, contexts=CONTEXTS) as assoc:
        assoc.send(assoc.message(1, command(fields)))
        assert assoc.response()[0][0x0900] == 0xC000
        assert assoc.echo() == 0


def test_not_authorised(door: Door) -> None:
    ds = dicom_data.image(1, 600, 600)
    acceptor = door(aes=(AE("READER", rights=("query", "read")), AE("TESTER")))
    with Association(acceptor.address, contexts=CONTEXTS, calling="READER") as assoc:
        assert assoc.store(CT, ds.SOPInstanceUID, dicom_data.dataset_bytes(ds))[0x0900] == 0x0124
        assert assoc.find(implicit({0x00080052: "STUDY"}))[0][0x0900] == 0
    with Association(
        door(aes=(AE("WRITER", rights=("store",)),)).address, contexts=CONTEXTS, calling="WRITER"
    ) as assoc:
        assert assoc.find(implicit({0x00080052: "STUDY"}))[0][0x0900] == 0x0124


def test_over_the_size_limit(tmp_path: Path) -> None:
    small = open_archive(Settings(data=tmp_path / "small", max_object_bytes=200_000))
    acceptor = serve(small.with_services(auth=Auth(small.index)), host="127.0.0.1", port=0, ae_title="M3DICOM")
    large, fitting = dicom_data.image(1, 600, 600), dicom_data.image(2, 100, 100)
    with Association(acceptor.address, contexts=CONTEXTS) as assoc:
        assert assoc.store(CT, large.SOPInstanceUID, dicom_data.dataset_bytes(large))[0x0900] == 0xA700
        assert assoc.store(CT, fitting.SOPInstanceUID, dicom_data.dataset_bytes(fitting))[0x0900] == 0
    acceptor.close(1)
    assert not [path for path in small.store.spool_dir.rglob("*") if path.is_file()]
    small.close()


def test_ten_associations_at_once(door: Door, archive: Archive) -> None:
    acceptor = door()
    failures: list[object] = []

    def sender(number: int) -> None:
        try:
            slices = [*dicom_data.series(20, study=1, number=number)]
            send(acceptor, *slices)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=sender, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert len(archive.retrieve.locate(SYSTEM, uids.derived("study", 1))) == 200


# --- C-FIND -----------------------------------------------------------------------------------------------------------


def matches(pending: list[tuple[int, bytes]], syntax: str = IMPLICIT) -> list[Dataset]:
    return [read_dataset(BytesIO(raw), syntax == IMPLICIT, syntax != BIG_ENDIAN) for _, raw in pending]


@pytest.fixture
def filled(door: Door) -> Acceptor:
    acceptor = door()
    send(
        acceptor,
        *dicom_data.series(3, study=1, PatientName="Müller^Änne", PatientID="P1", StudyDate="20260101"),
        *dicom_data.series(2, study=1, number=1, PatientName="Müller^Änne", PatientID="P1", StudyDate="20260101"),
        *dicom_data.series(1, study=2, PatientName="Doe^Jane", PatientID="P2", StudyDate="20260201"),
        *dicom_data.series(1, study=3, PatientName="Doe^Jane", PatientID="P2", StudyDate="20260301"),
    )
    return acceptor


S1 = uids.derived("study", 1)
R1 = uids.derived("series", 1, 0)


def test_study_root(filled: Acceptor) -> None:
    with Association(filled.address, contexts=CONTEXTS) as assoc:
        final, pending = assoc.find(
            implicit(
                {0x00080052: "STUDY", 0x00100010: "", 0x0020000D: S1, 0x00201206: "", 0x00201208: "", 0x00080061: ""}
            )
        )
        assert (final[0x0900], final[0x0100], final[0x0120], final[0x0800]) == (0, 0x8020, 1, 0x0101)
        (found,) = matches(pending)
        assert pending[0][0] == 0xFF00
        assert str(found.PatientName) == "Müller^Änne"
        assert (found.StudyInstanceUID, found.QueryRetrieveLevel, found.RetrieveAETitle) == (S1, "STUDY", "M3DICOM")
        assert (found.NumberOfStudyRelatedSeries, found.NumberOfStudyRelatedInstances) == (2, 5)
        assert found.ModalitiesInStudy == "CT"
        assert len(found) == 8

        _, pending = assoc.find(implicit({0x00080052: "SERIES", 0x0020000D: S1, 0x0020000E: "", 0x00201209: ""}))
        assert sorted(int(each.NumberOfSeriesRelatedInstances) for each in matches(pending)) == [2, 3]

        _, pending = assoc.find(
            implicit(
                {0x00080052: "IMAGE", 0x0020000D: S1, 0x0020000E: R1, 0x00080018: "", 0x00200013: "", 0x00180050: ""}
            )
        )
        assert sorted(int(each.InstanceNumber) for each in matches(pending)) == [1, 2, 3]
        assert {each.SOPInstanceUID for each in matches(pending)} == {
            uids.derived("instance", 1, 0, z) for z in range(3)
        }
        assert float(matches(pending)[0].SliceThickness) == 1


def written(syntax: str, **keys: Any) -> bytes:
    ds = Dataset()
    for keyword, value in keys.items():
        setattr(ds, keyword, value)
    out = DicomBytesIO()
    out.is_implicit_VR, out.is_little_endian = syntax == IMPLICIT, syntax != BIG_ENDIAN
    write_dataset(out, ds)
    return out.getvalue()


def test_patient_root(filled: Acceptor) -> None:
    with Association(filled.address, contexts=CONTEXTS) as assoc:
        final, pending = assoc.find(
            written(
                EXPLICIT,
                QueryRetrieveLevel="PATIENT",
                PatientName="doe*",
                PatientID="",
                NumberOfPatientRelatedStudies=None,
            ),
            PATIENT_FIND,
        )
        assert final[0x0900] == 0
        (found,) = matches(pending, EXPLICIT)
        assert (found.PatientID, found.NumberOfPatientRelatedStudies) == ("P2", 2)
        _, pending = assoc.find(
            written(EXPLICIT, QueryRetrieveLevel="STUDY", PatientID="P2", StudyInstanceUID="", StudyDate="20260215-"),
            PATIENT_FIND,
        )
        assert [each.StudyInstanceUID for each in matches(pending, EXPLICIT)] == [uids.derived("study", 3)]
        for level, keys, count in (
            ("SERIES", {"StudyInstanceUID": S1}, 2),
            ("IMAGE", {"StudyInstanceUID": S1, "SeriesInstanceUID": R1}, 3),
        ):
            final, pending = assoc.find(
                written(EXPLICIT, QueryRetrieveLevel=level, PatientID="P1", **keys), PATIENT_FIND
            )
            assert (final[0x0900], len(pending)) == (0, count)
        # the study is there, but it is not this patient's
        _, pending = assoc.find(
            written(EXPLICIT, QueryRetrieveLevel="SERIES", PatientID="P2", StudyInstanceUID=S1), PATIENT_FIND
        )
        assert pending == []


@pytest.mark.parametrize(
    ("keys", "count"),
    [
        ({0x00100010: "DOE^JANE"}, 2),
        ({0x00100010: "Doe*"}, 2),
        ({0x00100010: "*"}, 3),
        ({0x00100010: "Nobody"}, 0),
        ({0x00100020: "P?"}, 3),
        ({0x00080020: "20260101-20260201"}, 2),
        ({0x00080020: "-20260101"}, 1),
        ({0x0020000D: f"{S1}\\{uids.derived('study', 3)}\\1.2.3"}, 2),
        ({0x00080061: "CT"}, 3),
        ({0x00080061: "MG"}, 0),
        ({0x00080005: "ISO_IR 100", 0x00100010: "Müller^Änne".encode("latin-1")}, 1),
        ({0x00080005: "ISO_IR 192", 0x00100010: "müller*"}, 1),
    ],
)
def test_matching(filled: Acceptor, keys: dict[int, str | bytes], count: int) -> None:
    with Association(filled.address, contexts=CONTEXTS) as assoc:
        final, pending = assoc.find(implicit({0x00080052: "STUDY"} | keys))
        assert (final[0x0900], len(pending)) == (0, count)


@pytest.mark.parametrize(
    ("identifier", "code", "offending"),
    [
        (implicit({0x00100010: "*"}), 0xA900, 0x00080052),
        (implicit({0x00080052: "PATIENT"}), 0xA900, 0x00080052),
        (implicit({0x00080052: "SERIES"}), 0xA900, 0x0020000D),
        (implicit({0x00080052: "STUDY", 0x00080020: "tomorrow"}), 0xC000, 0x00080020),
        (implicit({0x00080052: "STUDY"})[:-1], 0xC000, 0x00080052),
        (b"\xff" * 100, 0xC000, None),
        (b"", 0xA900, 0x00080052),
        (implicit({0x00080052: "STUDY", 0x00100010: "x" * (1 << 20)}), 0xA700, None),
    ],
)
def test_bad_identifiers_are_answered(door: Door, identifier: bytes, code: int, offending: int | None) -> None:
    with Association(door().address, contexts=CONTEXTS) as assoc:
        final, pending = assoc.find(identifier)
        assert (final[0x0900], pending) == (code, [])
        if offending is not None:
            assert final[0x0901] == (offending >> 16).to_bytes(2, "little") + (offending & 0xFFFF).to_bytes(2, "little")
        assert assoc.echo() == 0


def test_relational_queries_when_negotiated(filled: Acceptor) -> None:
    identifier = implicit({0x00080052: "IMAGE", 0x00100020: "P2", 0x00080018: ""})
    items = item(0x56, len(STUDY_FIND).to_bytes(2) + STUDY_FIND.encode() + b"\1\1\1")
    with Association(filled.address, contexts=CONTEXTS, user_items=items) as assoc:
        answer = dict(assoc.user)[0x56]
        assert answer == len(STUDY_FIND).to_bytes(2) + STUDY_FIND.encode() + b"\1\1\1"
        final, pending = assoc.find(identifier)
        assert (final[0x0900], len(pending)) == (0, 2)
    with Association(filled.address, contexts=CONTEXTS) as assoc:
        assert assoc.find(identifier)[0][0x0900] == 0xA900


def agreed(flags: bytes) -> bytes:
    """A SOP Class Extended Negotiation sub-item for Study Root (PS3.4 C.5.1.1)."""
    return item(0x56, len(STUDY_FIND).to_bytes(2) + STUDY_FIND.encode() + flags)


UTF_8 = {0x00080005: "ISO_IR 192"}


@pytest.mark.parametrize(
    ("keys", "plain", "negotiated"),
    [
        ({**UTF_8, 0x00100010: "anna MUELLER"}, 0, 0),
        ({**UTF_8, 0x00100010: "anne MUELLER"}, 0, 1),
        ({0x00100010: "Jayne Dow"}, 0, 0),
        ({0x00100010: "jain doe"}, 0, 2),
        ({0x00100010: "=Doe"}, 0, 2),
        ({0x00100010: "*a*"}, 2, 3),  # without its accent, Ä is an A
        # from the first day at three to the last at two: study 1 only; apart, no time lies between three and two
        ({0x00080020: "20260101-20260201", 0x00080030: "0300-0200"}, 0, 1),
        ({0x00080020: "20260101-20260301", 0x00080030: "030405-030405"}, 3, 3),
        ({0x00080020: "20260101-20260201", 0x00080030: "04-"}, 0, 0),
        ({0x00100032: '""'}, None, 3),
        ({0x00081030: '""'}, 0, 0),
        ({0x00100020: 'P1\\""'}, 1, 1),
        ({0x00100020: "P1\\P2"}, 3, 3),
    ],
)
def test_matching_as_negotiated(
    filled: Acceptor, keys: dict[int, str | bytes], plain: int | None, negotiated: int
) -> None:
    for flags, count in ((b"", plain), (b"\0" * 7, plain), (b"\1" * 7, negotiated)):
        with Association(filled.address, contexts=CONTEXTS, user_items=agreed(flags) if flags else b"") as assoc:
            if flags:
                assert dict(assoc.user)[0x56][-7:] == (b"\1\1\1\0\0\1\1" if flags[0] else flags)
            final, pending = assoc.find(implicit({0x00080052: "STUDY", **keys}))
            if count is None:  # two quotation marks are no time
                assert final[0x0900] == 0xC000
            else:
                assert (final[0x0900], len(pending)) == (0, count)


def test_keys_of_lower_levels_where_queries_are_relational(filled: Acceptor) -> None:
    keys = {0x00080052: "STUDY", 0x00080060: "SR", 0x0020000D: ""}
    with Association(filled.address, contexts=CONTEXTS, user_items=agreed(b"\1")) as assoc:
        assert assoc.find(implicit(keys))[1] == []
        final, pending = assoc.find(implicit({**keys, 0x00080060: "CT", 0x00200013: "3"}))
        assert final[0x0900] == 0
        assert [status for status, _ in pending] == [0xFF01]  # matched, but of many children and not returned
        assert "Modality" not in matches(pending)[0]
    with Association(filled.address, contexts=CONTEXTS) as assoc:
        assert [status for status, _ in assoc.find(implicit(keys))[1]] == [0xFF01] * 3  # ignored


def test_keys_without_a_column_and_sequences_are_matched(filled: Acceptor) -> None:
    def count(**keys: Any) -> int:
        with Association(filled.address, contexts=CONTEXTS) as assoc:
            final, pending = assoc.find(written(IMPLICIT, QueryRetrieveLevel="STUDY", **keys), STUDY_FIND)
            assert final[0x0900] == 0
            assert {status for status, _ in pending} <= {0xFF00}
            return len(pending)

    code = Dataset()
    code.CodeValue, code.CodeMeaning = "X", ""
    assert count(NumberOfStudyRelatedInstances="5") == 1
    assert count(NumberOfStudyRelatedSeries="1") == 2
    assert count(ProcedureCodeSequence=[code]) == 0
    code.CodeValue = ""
    assert count(ProcedureCodeSequence=[code]) == 3
    image = {"StudyInstanceUID": S1, "SeriesInstanceUID": R1, "RescaleIntercept": "-1024"}
    with Association(filled.address, contexts=CONTEXTS) as assoc:
        _, pending = assoc.find(written(IMPLICIT, QueryRetrieveLevel="IMAGE", **image, KVP=None), STUDY_FIND)
        assert [status for status, _ in pending] == [0xFF00] * 3
        assert {float(found.RescaleIntercept) for found in matches(pending)} == {-1024.0}


def test_answers_are_in_the_character_set_asked_in(filled: Acceptor) -> None:
    latin = {0x00080005: "ISO_IR 100", 0x00080052: "STUDY", 0x00100010: "m\xfcl*".encode("latin-1")}
    with Association(filled.address, contexts=CONTEXTS) as assoc:
        (found,) = matches(assoc.find(implicit(latin))[1])
        assert (found.SpecificCharacterSet, str(found.PatientName)) == ("ISO_IR 100", "Müller^Änne")
        (found,) = matches(assoc.find(implicit({0x00080052: "STUDY", 0x00100010: "m?ller*"}))[1])
        assert (found.SpecificCharacterSet, str(found.PatientName)) == ("ISO_IR 192", "Müller^Änne")


def test_unsupported_optional_keys_are_said_and_left_out(filled: Acceptor) -> None:
    with Association(filled.address, contexts=CONTEXTS) as assoc:
        _, pending = assoc.find(implicit({0x00080052: "STUDY", 0x0020000D: S1, 0x00180050: "", 0x00080060: ""}))
        assert [status for status, _ in pending] == [0xFF01]
        (found,) = matches(pending)
        assert "Modality" not in found
        assert "SliceThickness" not in found


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED])
def test_responses_in_the_accepted_syntax(filled: Acceptor, syntax: str) -> None:
    raw = written(syntax, QueryRetrieveLevel="STUDY", PatientName="", StudyInstanceUID=S1)
    if syntax == DEFLATED:
        squeeze = zlib.compressobj(wbits=-15)
        raw = squeeze.compress(raw) + squeeze.flush()
    with Association(filled.address, contexts=((STUDY_FIND, (syntax,)),)) as assoc:
        _, ((_, found),) = assoc.find(raw)
    if syntax == DEFLATED:
        found = zlib.decompress(found, -15)
    back = read_dataset(BytesIO(found), syntax == IMPLICIT, syntax != BIG_ENDIAN)
    assert str(back.PatientName) == "Müller^Änne"
    assert back.StudyInstanceUID == S1


def test_many_matches_over_several_pages(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find_scp, "PAGE_ROWS", 30)
    monkeypatch.setattr(find_scp, "CANCEL_EVERY_ROWS", 7)
    acceptor = door()
    send(acceptor, *dicom_data.series(100, study=1))
    identifier = implicit({0x00080052: "IMAGE", 0x0020000D: S1, 0x0020000E: R1, 0x00080018: ""})
    with Association(acceptor.address, contexts=CONTEXTS, max_length=1024) as assoc:
        final, pending = assoc.find(identifier)
        assert final[0x0900] == 0
        assert len({found.SOPInstanceUID for found in matches(pending)}) == 100


def test_cancel(filled: Acceptor) -> None:
    identifier = implicit({0x00080052: "STUDY", 0x0020000D: ""})
    with Association(filled.address, contexts=CONTEXTS) as assoc:
        find = command({0x0002: STUDY_FIND, 0x0100: 0x20, 0x0110: 5, 0x0700: 0, 0x0800: 1})
        cancel = command({0x0100: 0x0FFF, 0x0120: 5, 0x0800: 0x0101})
        assoc.send(assoc.message(5, find, identifier) + assoc.message(5, cancel))
        fields, _ = assoc.response()
        assert (fields[0x0900], fields[0x0120], fields[0x0800]) == (0xFE00, 5, 0x0101)
        # for something else, or for nothing: no answer, no harm
        other = command({0x0100: 0x0FFF, 0x0120: 99, 0x0800: 0x0101})
        assoc.send(assoc.message(5, find, identifier) + assoc.message(5, other))
        statuses = [assoc.response()[0][0x0900] for _ in range(4)]
        assert statuses == [0xFF00] * 3 + [0]
        assoc.send(assoc.message(5, cancel))
        assert assoc.echo() == 0
