"""Other people's DICOM clients at our door: pynetdicom and DCMTK send, ask and get true answers."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dicom_data
import imagecodecs
import numpy as np
import pytest
from conftest import needed
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
)
from pynetdicom import AE, StoragePresentationContexts, build_role
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation, UserIdentityNegotiation
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)

from pacs import uids
from pacs.archive import Archive, open_archive
from pacs.auth import SYSTEM, Auth
from pacs.dimse.acceptor import Acceptor, serve
from pacs.settings import Settings

pytestmark = pytest.mark.system

PATIENT_ROOT, STUDY_ROOT = PatientRootQueryRetrieveInformationModelFind, StudyRootQueryRetrieveInformationModelFind
S1, R1 = uids.derived("study", 1), uids.derived("series", 1, 0)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    archive = open_archive(Settings(data=tmp_path / "data"))
    yield archive.with_services(auth=Auth(archive.index))
    archive.close()


@pytest.fixture
def acceptor(archive: Archive) -> Iterator[Acceptor]:
    acceptor = serve(archive, host="127.0.0.1", port=0, ae_title="M3DICOM")
    yield acceptor
    acceptor.close(1)


COMPRESSED = {
    JPEG2000Lossless: lambda pixels: imagecodecs.jpeg2k_encode(pixels, reversible=True, level=0, codecformat="J2K"),
    JPEG2000: lambda pixels: imagecodecs.jpeg2k_encode(pixels, level=30, codecformat="J2K"),
    JPEGLSLossless: imagecodecs.jpegls_encode,
    JPEGLosslessSV1: imagecodecs.ljpeg_encode,
}
PLAIN = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)


def part10(seed: int, syntax: str) -> bytes:
    """A file of one CT slice in a plain or compressed transfer syntax."""
    ds = dicom_data.image(seed, 64, 64)
    if syntax in COMPRESSED:
        pixels = np.frombuffer(ds.PixelData, "<u2").reshape(64, 64)
        ds.PixelData = encapsulate([COMPRESSED[syntax](pixels)])
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    elif syntax == ExplicitVRBigEndian:
        ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    return dicom_data.part10(ds, syntax)


def dataset(file: bytes) -> bytes:
    return file[144 + int.from_bytes(file[140:144], "little") :]


def run(acceptor: Acceptor, program: str, *arguments: str | Path) -> str:
    """The output of a DCMTK program that talks to the acceptor."""
    host, port = acceptor.address
    command = [needed(program), "-aec", "M3DICOM", host, str(port), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def filled(archive: Archive, acceptor: Acceptor, tmp_path: Path) -> Acceptor:
    """The acceptor, with three studies of two patients behind it that dcmsend brought."""
    folder = tmp_path / "files"
    folder.mkdir()
    for study, count, name, patient in (
        (1, 3, "Müller^Änne", "P1"),
        (2, 2, "Doe^Jane", "P2"),
        (3, 1, "Doe^Jane", "P2"),
    ):
        for number, ds in enumerate(dicom_data.series(count, study=study, PatientName=name, PatientID=patient)):
            (folder / f"{study}-{number}.dcm").write_bytes(dicom_data.part10(ds))
    run(acceptor, "dcmsend", "+sd", folder)
    return acceptor


def kept(archive: Archive) -> dict[str, tuple[str, bytes]]:
    """Transfer syntax and data set of every instance of the default study."""
    locations = archive.retrieve.locate(SYSTEM, uids.derived("study", 0))
    return {each.sop_instance_uid: (each.transfer_syntax_uid, archive.retrieve.dataset(each)) for each in locations}


# --- DCMTK ------------------------------------------------------------------------------------------------------------


def test_echoscu(acceptor: Acceptor) -> None:
    run(acceptor, "echoscu", "--repeat", "3")
    run(acceptor, "echoscu", "--propose-ts", "3", "--propose-pc", "128")
    run(acceptor, "echoscu", "--abort")


@pytest.mark.parametrize(
    ("syntax", "option"),
    [
        (ImplicitVRLittleEndian, "-xi"),
        (ExplicitVRLittleEndian, "-xe"),
        (ExplicitVRBigEndian, "-xb"),
        (JPEGLosslessSV1, "-xs"),
        (JPEG2000Lossless, "-xv"),
        (JPEG2000, "-xw"),
        (JPEGLSLossless, "-xt"),
    ],
)
def test_storescu_and_dcmsend_keep_every_byte(
    archive: Archive, acceptor: Acceptor, tmp_path: Path, syntax: UID, option: str
) -> None:
    # dcmsend sends whatever is not compressed in Explicit VR Little Endian
    sent = syntax if syntax in COMPRESSED else ExplicitVRLittleEndian
    first, second = part10(0, syntax), part10(1, syntax)
    (tmp_path / "0.dcm").write_bytes(first)
    (tmp_path / "1.dcm").write_bytes(second)
    run(acceptor, "storescu", option, "-R", tmp_path / "0.dcm")
    run(acceptor, "dcmsend", "-dn", tmp_path / "1.dcm")
    held = kept(archive)
    assert held[uids.derived("instance", 0)] == (syntax, dataset(first))
    assert held[uids.derived("instance", 1)] == (sent, dataset(part10(1, sent)))


def test_storescu_deflated(archive: Archive, acceptor: Acceptor, tmp_path: Path) -> None:
    (tmp_path / "0.dcm").write_bytes(part10(0, ExplicitVRLittleEndian))
    run(acceptor, "storescu", "-xd", tmp_path / "0.dcm")
    syntax, _ = kept(archive)[uids.derived("instance", 0)]
    (location,) = archive.retrieve.locate(SYSTEM, uids.derived("study", 0))
    whole = dcmread(io.BytesIO(b"".join(archive.retrieve.part10(location))))
    assert syntax == DeflatedExplicitVRLittleEndian
    assert whole.PixelData == dicom_data.image(0, 64, 64).PixelData


def test_dcmsend_many_syntaxes_at_once(archive: Archive, acceptor: Acceptor, tmp_path: Path) -> None:
    files = {seed: part10(seed, syntax) for seed, syntax in enumerate((ExplicitVRLittleEndian, *COMPRESSED))}
    for seed, data in files.items():
        (tmp_path / f"{seed}.dcm").write_bytes(data)
    run(acceptor, "dcmsend", "-dn", "+sd", tmp_path)
    assert {uid: data for uid, (_, data) in kept(archive).items()} == {
        uids.derived("instance", seed): dataset(data) for seed, data in files.items()
    }


def test_findscu_at_four_levels(filled: Acceptor, tmp_path: Path) -> None:
    def find(name: str, model: str, *keys: str) -> list[Dataset]:
        folder = tmp_path / name
        folder.mkdir()
        run(filled, "findscu", "-X", "-od", folder, model, *[part for key in keys for part in ("-k", key)])
        return [dcmread(path, force=True) for path in sorted(folder.glob("*.dcm"))]

    patients = find("p", "-P", "QueryRetrieveLevel=PATIENT", "PatientName=*", "PatientID=")
    assert {each.PatientID for each in patients} == {"P1", "P2"}
    studies = find("s", "-S", "QueryRetrieveLevel=STUDY", "PatientName=DOE*", "StudyInstanceUID=", "StudyDate=")
    assert {each.StudyInstanceUID for each in studies} == {uids.derived("study", 2), uids.derived("study", 3)}
    series = find("r", "-S", "QueryRetrieveLevel=SERIES", f"StudyInstanceUID={S1}", "SeriesInstanceUID=", "Modality=CT")
    assert [each.SeriesInstanceUID for each in series] == [R1]
    images = find(
        "i", "-P", "QueryRetrieveLevel=IMAGE", "PatientID=P1", f"StudyInstanceUID={S1}", f"SeriesInstanceUID={R1}",
        "SOPInstanceUID=", "InstanceNumber=",
    )  # fmt: skip
    assert sorted(int(each.InstanceNumber) for each in images) == [1, 2, 3]


# --- pynetdicom -------------------------------------------------------------------------------------------------------


def associate(acceptor: Acceptor, contexts: list[tuple[str, list[str]]], **options: Any) -> Any:
    ae = AE("PYNETDICOM")
    for abstract, syntaxes in contexts:
        ae.add_requested_context(abstract, syntaxes)
    host, port = acceptor.address
    assoc = ae.associate(host, port, ae_title="M3DICOM", **options)
    assert assoc.is_established
    return assoc


def test_pynetdicom_stores_every_plain_syntax(archive: Archive, acceptor: Acceptor) -> None:
    assoc = associate(acceptor, [(CTImageStorage, [syntax]) for syntax in PLAIN] + [(Verification, [PLAIN[0]])])
    assert assoc.send_c_echo().Status == 0
    for seed, syntax in enumerate(PLAIN):
        ds = dcmread(io.BytesIO(part10(seed, syntax)))
        assert assoc.send_c_store(ds).Status == 0
    assoc.release()
    assert assoc.is_released
    held = kept(archive)
    for seed, syntax in enumerate(PLAIN):
        assert held[uids.derived("instance", seed)][0] == syntax
        if syntax != DeflatedExplicitVRLittleEndian:
            assert held[uids.derived("instance", seed)][1] == dataset(part10(seed, syntax))


def test_pynetdicom_proposes_everything_it_knows(acceptor: Acceptor) -> None:
    identity = UserIdentityNegotiation()
    identity.user_identity_type, identity.primary_field, identity.secondary_field = 2, b"user", b"pass"
    identity.positive_response_requested = False
    everything = [
        (str(each.abstract_syntax), [str(t) for t in each.transfer_syntax]) for each in StoragePresentationContexts
    ]
    assoc = associate(
        acceptor, [*everything[:127], (Verification, [ImplicitVRLittleEndian])],
        ext_neg=[build_role(CTImageStorage, scu_role=True, scp_role=False), identity],
    )  # fmt: skip
    assert not assoc.rejected_contexts
    assert assoc.send_c_echo().Status == 0
    assoc.release()


@pytest.mark.parametrize(
    ("model", "level", "keys", "count"),
    [
        (PATIENT_ROOT, "PATIENT", {"PatientID": "P2", "PatientName": ""}, 1),
        (PATIENT_ROOT, "STUDY", {"PatientID": "P2", "StudyInstanceUID": ""}, 2),
        (PATIENT_ROOT, "SERIES", {"PatientID": "P1", "StudyInstanceUID": S1, "SeriesInstanceUID": ""}, 1),
        (
            PATIENT_ROOT,
            "IMAGE",
            {"PatientID": "P1", "StudyInstanceUID": S1, "SeriesInstanceUID": R1, "SOPInstanceUID": ""},
            3,
        ),
        (STUDY_ROOT, "STUDY", {"PatientName": "müller*", "StudyInstanceUID": "", "ModalitiesInStudy": "CT"}, 1),
        (STUDY_ROOT, "SERIES", {"StudyInstanceUID": S1, "Modality": ""}, 1),
        (STUDY_ROOT, "IMAGE", {"StudyInstanceUID": S1, "SeriesInstanceUID": R1, "InstanceNumber": "2"}, 1),
    ],
)
@pytest.mark.parametrize("syntax", PLAIN)
def test_pynetdicom_finds(
    filled: Acceptor, model: UID, level: str, keys: dict[str, str], count: int, syntax: UID
) -> None:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(ds, keyword, value)
    assoc = associate(filled, [(model, [syntax])])
    *pending, (final, _) = assoc.send_c_find(ds, model)
    assoc.release()
    assert final.Status == 0
    assert [status.Status for status, _ in pending] == [0xFF00] * count
    for _, match in pending:
        assert match.QueryRetrieveLevel == level
        assert match.RetrieveAETitle == "M3DICOM"
        assert set(keys) <= set(match.dir())


def test_pynetdicom_relational_queries(filled: Acceptor) -> None:
    option = SOPClassExtendedNegotiation()
    option.sop_class_uid, option.service_class_application_information = STUDY_ROOT, b"\1\0\0\0\0"
    assoc = associate(filled, [(STUDY_ROOT, [ImplicitVRLittleEndian])], ext_neg=[option])
    ds = Dataset()
    ds.QueryRetrieveLevel, ds.PatientID, ds.SOPInstanceUID = "IMAGE", "P2", ""
    *pending, (final, _) = assoc.send_c_find(ds, STUDY_ROOT)
    assoc.release()
    assert (final.Status, len(pending)) == (0, 3)
