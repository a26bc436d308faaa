"""The tables of transfer syntaxes and SOP classes against pydicom's and pynetdicom's registries."""

from __future__ import annotations

from pydicom._uid_dict import UID_dictionary
from pydicom.uid import UID
from pynetdicom import AllStoragePresentationContexts

from pacs.dicom.sop_classes import STORAGE_SOP_CLASSES, is_storage
from pacs.dicom.transfer_syntaxes import TABLE, TRANSFER_SYNTAXES


def test_transfer_syntaxes_agree_with_pydicom() -> None:
    assert len(TABLE) == len(TRANSFER_SYNTAXES)
    for row in TABLE:
        known = UID_dictionary.get(row.uid)
        if known is not None:
            assert (row.name, row.keyword) == (known[0], known[4])
            uid = UID(row.uid)
            assert row.encapsulated == (uid.is_encapsulated and "JPIP" not in row.name)
            assert row.deflated == uid.is_deflated or "JPIP" in row.name
            assert row.explicit == (not uid.is_implicit_VR)
            assert row.little_endian == uid.is_little_endian
        assert not row.video or row.codec is None
    missing = {
        uid for uid, row in UID_dictionary.items() if row[1] == "Transfer Syntax" and uid not in TRANSFER_SYNTAXES
    }
    # Not data sets as we store them: MIME and XML encodings, Papyrus, and the flows of SMPTE ST 2110.
    assert all(uid.startswith(("1.2.840.10008.1.2.6", "1.2.840.10008.1.2.7", "1.2.840.10008.1.20")) for uid in missing)


def test_every_storage_class_of_the_registries_is_known() -> None:
    for context in AllStoragePresentationContexts:
        assert is_storage(str(context.abstract_syntax)), context.abstract_syntax
    for uid, name in STORAGE_SOP_CLASSES.items():
        assert uid.startswith("1.2.840.10008.5.1."), uid
        assert "Storage" in name
    assert not is_storage("1.2.840.10008.1.20.1")
    assert not is_storage("1.2.840.10008.5.1.4.1.2.2.1")
