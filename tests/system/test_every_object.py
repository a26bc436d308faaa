"""Every file of pydicom's own package, every transfer syntax and character set, by both doors and back out of both.

Each is stored, or refused in words, by either door alike; what is stored comes back byte for byte: over C-GET always,
over WADO-RS where the stored transfer syntax may leave by HTTP at all (PS3.18 8.7.3).
"""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dicom_data
import pytest
import raw_dicom as raw
from dicomweb_server import Web, serving
from dimse_client import Association
from faults.load import dataset_of
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as StudyRootGet

from pacs.auth import Auth
from pacs.dicom.transfer_syntaxes import TRANSFER_SYNTAXES
from pacs.dimse.acceptor import Acceptor, serve

pytestmark = pytest.mark.system
NOT_ON_THE_WEB = {raw.IMPLICIT, raw.BIG, raw.DEFLATED}
CHARACTER_SETS = (
    (b"", b"Doe^John"), (b"ISO_IR 100", "Müller^Änne".encode("latin-1")), (b"ISO_IR 101", b"Wa\xb3\xeasa^Lech"),
    (b"ISO_IR 144", "Люкceмбypг".encode("iso8859_5", "replace")), (b"ISO_IR 126", "Διονυσιος".encode("iso8859_7")),
    (b"ISO_IR 127", "قباني^لنزار".encode("iso8859_6")), (b"ISO_IR 138", "שרון^דבורה".encode("iso8859_8")),
    (b"ISO_IR 166", "นามสกุล".encode("tis-620")), (b"ISO_IR 13", b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3"),
    (rb"\ISO 2022 IR 87", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"),
    (rb"ISO 2022 IR 13\ISO 2022 IR 87", b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J"),
    (rb"\ISO 2022 IR 149", b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7"),
    (b"GB18030", "王^小东".encode("gb18030")), (b"GBK", "王^小东".encode("gbk")),
    (rb"\ISO 2022 IR 58", b"Z=\x1b$)A\xd0\xc2"),
    (b"ISO_IR 192", "Buc^Jérôme=山田".encode()), (b"NOBODY KNOWS", b"\xff\xfe^\x80"),
)  # fmt: skip


@dataclass(frozen=True)
class Item:
    """One object to store: a Part 10 file, and what its data set says of itself."""

    name: str
    file: bytes
    transfer_syntax_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str

    meta_sop_instance_uid: str

    @property
    def dataset(self) -> bytes:
        return dataset_of(self.file)

    @property
    def true(self) -> bool:
        """Whether its File Meta names the instance that its data set is (PS3.10 7.1); DIMSE sends no File Meta."""
        return self.meta_sop_instance_uid in ("", self.sop_instance_uid)


def item(name: str, file: bytes) -> Item:
    names = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
    with warnings.catch_warnings():  # pydicom's own files are odd in many ways
        warnings.simplefilter("ignore")
        ds = dcmread(io.BytesIO(file), stop_before_pixels=True, force=True)
        meta = ds.file_meta
        return Item(
            name,
            file,
            str(meta.get("TransferSyntaxUID", "")),
            *(str(ds.get(each, "")) for each in names),
            str(meta.get("MediaStorageSOPInstanceUID", "")),
        )


def bundled() -> Iterator[Item]:
    for path in raw.bundled_files():
        yield item(path.name, path.read_bytes())


def in_every_syntax() -> Iterator[Item]:
    """An image in each transfer syntax of the table; what is compressed holds bytes that nobody decodes here."""
    for number, syntax in enumerate(TRANSFER_SYNTAXES):
        ds = dicom_data.image(number, 8, 8)
        if TRANSFER_SYNTAXES[syntax].encapsulated:
            ds.PixelData = encapsulate([bytes(range(100)), b"second"])
            ds["PixelData"].VR = "OB"
            ds["PixelData"].is_undefined_length = True
        elif syntax not in (raw.EXPLICIT, raw.IMPLICIT, raw.BIG, raw.DEFLATED):  # pixel data that is elsewhere
            del ds.PixelData
        made = item(f"syntax {syntax}", dicom_data.part10(ds, syntax))
        if TRANSFER_SYNTAXES[syntax].deflated and syntax != raw.DEFLATED:  # JPIP's, which pydicom does not deflate
            deflate = zlib.compressobj(wbits=-15)
            deflated = padded(deflate.compress(made.dataset) + deflate.flush(), b"\0")
            made = replace(made, file=made.file[: -len(made.dataset)] + deflated)
        yield made


def in_every_character_set() -> Iterator[Item]:
    for number, (terms, name) in enumerate(CHARACTER_SETS):
        ds = dicom_data.image(1000 + number, 4, 4)
        ds.SpecificCharacterSet, ds.PatientName = "", "REPLACE"
        parts = dicom_data.part10(ds)
        parts = parts.replace(raw.element(0x00080005, "CS", b""), raw.element(0x00080005, "CS", padded(terms)))
        parts = parts.replace(raw.element(0x00100010, "PN", b"REPLACE "), raw.element(0x00100010, "PN", padded(name)))
        yield item(f"character set {terms!r}", parts)


def padded(value: bytes, by: bytes = b" ") -> bytes:
    return value + by * (len(value) % 2)


def without_repeats(items: Iterable[Item]) -> list[list[Item]]:
    """The items in groups, no SOP Instance UID twice in one: an archive keeps the first content of each."""
    groups: list[dict[str, Item]] = []
    for each in items:
        group = next((group for group in groups if each.sop_instance_uid not in group), None)
        if group is None:
            group = {}
            groups.append(group)
        group[each.sop_instance_uid] = each
    return [list(group.values()) for group in groups]


@contextmanager
def doors(data: Path) -> Iterator[tuple[Web, Acceptor]]:
    with serving(data) as web:
        archive = web.archive.with_services(auth=Auth(web.archive.index))
        acceptor = serve(archive, host="127.0.0.1", port=0, ae_title="M3DICOM", unknown_storage=True)
        yield web, acceptor
        acceptor.close(0)


def c_store(acceptor: Acceptor, each: Item) -> bool:
    """Whether C-STORE took it; where it did not, it said why."""
    contexts = ((each.sop_class_uid or "1.2.3", (each.transfer_syntax_uid or "1.2.3",)),)
    with Association(acceptor.address, contexts=contexts) as assoc:
        if assoc.results != [0]:
            assert assoc.results in ([3], [4]), each.name  # abstract or transfer syntax not supported
            return False
        answer = assoc.store(contexts[0][0], each.sop_instance_uid or "1.2.3", each.dataset)
    if answer[0x0900] == 0:
        return True
    assert answer.get(0x0902), f"{each.name}: {answer[0x0900]:04X}H without words"
    return False


def stow(web: Web, each: Item) -> bool:
    """Whether STOW-RS took it; where it did not, it gave a reason."""
    answer = web.store(each.file)
    if answer.status_code == 200:
        return True
    assert answer.status_code in (400, 409), f"{each.name}: {answer.status_code}"
    body = answer.json()
    failed = [item for tag in ("00081198", "0008119A") for item in body.get(tag, {}).get("Value", [])]
    assert body.get("detail") or all(item["00081197"]["Value"] for item in failed), each.name
    return False


def c_get(acceptor: Acceptor, each: Item) -> dict[str, tuple[str, bytes]]:
    """Transfer syntax and data set of everything that C-GET gives of the instance's study, as it came."""
    got: dict[str, tuple[str, bytes]] = {}

    def keep(event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        got[uid] = (str(event.context.transfer_syntax), event.request.DataSet.getvalue())
        return 0

    ae = AE("TESTER")
    ae.add_requested_context(StudyRootGet)
    ae.add_requested_context(each.sop_class_uid, [each.transfer_syntax_uid])
    role = build_role(each.sop_class_uid, scp_role=True, scu_role=True)
    host, port = acceptor.address
    assoc = ae.associate(
        host, port, ae_title="M3DICOM", ext_neg=[role], evt_handlers=[(evt.EVT_C_STORE, keep)], max_pdu=0
    )
    assert assoc.is_established
    try:
        keys = Dataset()
        keys.QueryRetrieveLevel, keys.StudyInstanceUID = "IMAGE", each.study_instance_uid
        keys.SeriesInstanceUID, keys.SOPInstanceUID = each.series_instance_uid, each.sop_instance_uid
        *_, (final, _) = assoc.send_c_get(keys, StudyRootGet)
        assert final.Status == 0, f"{each.name}: {final}"
    finally:
        assoc.release()
    return got


@pytest.mark.parametrize(
    ("items", "least"), [(bundled, 60), (in_every_syntax, len(TRANSFER_SYNTAXES)), (in_every_character_set, 17)]
)
def test_stored_by_both_doors_and_back_byte_for_byte(tmp_path: Path, items: Any, least: int) -> None:
    stored = refused = 0
    for number, group in enumerate(without_repeats(items())):
        with doors(tmp_path / str(number)) as (web, acceptor):
            for each in group:
                taken = c_store(acceptor, each)
                # What DIMSE has stored, STOW-RS finds to be the same; a file that contradicts itself it refuses.
                assert stow(web, each) == (taken and each.true), each.name
                stored, refused = stored + taken, refused + (not taken)
                if not taken:
                    continue
                assert c_get(acceptor, each) == {each.sop_instance_uid: (each.transfer_syntax_uid, each.dataset)}
                if each.transfer_syntax_uid not in NOT_ON_THE_WEB:
                    (listed,) = web.get("/instances", params={"SOPInstanceUID": each.sop_instance_uid}).json()
                    answer = web.get(listed["00081190"]["Value"][0], accept="application/dicom; transfer-syntax=*")
                    assert answer.status_code == 200, each.name
                    assert dataset_of(answer.content) == each.dataset, each.name
    assert stored >= least, f"{stored} stored, {refused} refused"
