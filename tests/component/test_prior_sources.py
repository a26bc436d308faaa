"""Earlier studies over the wire: a PACS by C-FIND and C-MOVE to ourselves, a DICOMweb root by QIDO and WADO."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import dicom_data
import pytest
from dicomweb_server import Web, serving
from pydicom import Dataset
from servers import free_port

from analysis.prior_sources import DimseSource, Earlier, WebSource, source
from pacs import uids
from pacs.archive import Archive, open_archive
from pacs.auth import SYSTEM, Auth, Principal
from pacs.decoding import DecodingPool
from pacs.destinations import Destination
from pacs.dimse.acceptor import serve
from pacs.errors import InvalidInput, NotFound, PeerFailed, PeerUnreachable
from pacs.settings import AE, Settings

FIRST, SECOND = uids.derived("study", 1), uids.derived("study", 2)


def store(archive: Archive, *studies: list[Dataset]) -> None:
    for ds in (each for study in studies for each in study):
        receiving = archive.ingest.receive_part10()
        receiving.write(dicom_data.part10(ds))
        archive.ingest.store(receiving, principal=Principal("ann", "session"))


def old_studies() -> list[list[Dataset]]:
    """Two studies of our patient, one of somebody else, and one that is too old."""
    return [
        list(dicom_data.series(3, study=1, StudyDate="20250102")),
        list(dicom_data.series(2, study=2, StudyDate="20240102", Modality="MR")),
        list(dicom_data.series(2, study=3, StudyDate="20250102", PatientID="SYN-2")),
        list(dicom_data.series(2, study=4, StudyDate="19990102")),
    ]


@pytest.fixture
def places(tmp_path: Path) -> Iterator[tuple[Archive, Archive]]:
    """Our archive and that of an AE "OLD", each with a door that the other knows."""
    with ExitStack() as stack:
        ours, theirs = free_port(), free_port()
        made = []
        for name, port, other in (
            ("M3DICOM", ours, AE("OLD", host="127.0.0.1", port=theirs)),
            ("OLD", theirs, AE("M3DICOM", host="127.0.0.1", port=ours)),
        ):
            settings = Settings(data=tmp_path / name, aet=name, aes=(other,))
            opened = open_archive(settings)
            stack.callback(opened.close)
            archive = opened.with_services(auth=Auth(opened.index, settings.aes), decoding=DecodingPool(1))
            acceptor = serve(archive, host="127.0.0.1", port=port, ae_title=name)
            stack.callback(acceptor.close, 0)
            made.append(archive)
        store(made[1], *old_studies())
        yield made[0], made[1]


def instances(archive: Archive, study: str) -> int:
    try:
        return len(archive.retrieve.locate(SYSTEM, study, None))
    except NotFound:
        return 0


def test_a_pacs_is_asked_and_sends_to_us(places: tuple[Archive, Archive]) -> None:
    ours, _ = places
    old = source(ours, Destination("OLD", ("OLD",)))
    assert isinstance(old, DimseSource)
    offered = old.earlier("SYN-1", "", "20200101", "20260102")
    assert sorted(offered, key=lambda each: each.date) == [
        Earlier(SECOND, "20240102", "030405", frozenset({"MR"})),
        Earlier(FIRST, "20250102", "030405", frozenset({"CT"})),
    ]
    assert old.earlier("SYN-9", "", "20200101", "20260102") == []
    assert old.fetch(FIRST, "") == 3
    assert (instances(ours, FIRST), instances(ours, SECOND)) == (3, 0)
    assert old.fetch(FIRST, "") == 3  # here already
    with pytest.raises(InvalidInput, match="wildcards"):
        old.earlier("SYN*", "", "20200101", "20260102")


def test_a_pacs_that_does_not_know_us_or_is_away_is_said(places: tuple[Archive, Archive]) -> None:
    ours, _ = places
    stranger = replace(ours.settings, aet="STRANGER")
    with pytest.raises(Exception, match="OLD"):
        DimseSource(ours.with_services(settings=stranger), "OLD").earlier("SYN-1", "", "20200101", "20260102")
    away = replace(ours.settings, aes=(AE("OLD", host="127.0.0.1", port=free_port()),))
    with pytest.raises(PeerUnreachable):
        DimseSource(ours.with_services(settings=away), "OLD").earlier("SYN-1", "", "20200101", "20260102")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Web]:
    with serving(tmp_path / "root") as web:
        store(web.archive, *old_studies())
        yield web


def test_a_dicomweb_root_is_asked_and_read(tmp_path: Path, root: Web) -> None:
    ours = open_archive(Settings(data=tmp_path / "ours"))
    old = source(ours, Destination(root.url, ("web",)))
    assert isinstance(old, WebSource)
    offered = old.earlier("SYN-1", "", "20200101", "20260102")
    assert {each.study_instance_uid: each.modalities for each in offered} == {
        FIRST: frozenset({"CT"}), SECOND: frozenset({"MR"}),
    }  # fmt: skip
    assert old.fetch(FIRST, "") == 3
    assert old.fetch(FIRST, "") == 3  # here already
    [first, *_] = ours.retrieve.locate(SYSTEM, FIRST, None)
    [theirs] = [
        each for each in root.archive.retrieve.locate(SYSTEM, FIRST, None)
        if each.sop_instance_uid == first.sop_instance_uid
    ]  # fmt: skip
    assert first.digest == theirs.digest
    assert old.fetch(uids.derived("study", 99), "") == 0
    with pytest.raises(PeerFailed, match="404"):
        WebSource(ours, Destination(f"{root.url}/nowhere", ("web",))).fetch(FIRST, "")
    with pytest.raises(PeerUnreachable):
        WebSource(ours, Destination(f"http://127.0.0.1:{free_port()}", ("web",))).fetch(FIRST, "")
    with pytest.raises(InvalidInput, match="token file"):
        WebSource(ours, Destination(root.url, ("web",), token_file=str(tmp_path / "none"))).fetch(FIRST, "")
    ours.close()
