"""File Meta Information: ours as pydicom reads it, and strangers' in chunks of any size."""

from __future__ import annotations

import io

import dicom_data
import pytest
import raw_dicom as raw
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread

from pacs import uids
from pacs.dicom import part10
from pacs.errors import MalformedDataset

META = raw.element(0x00020010, "UI", b"1.2.840.10008.1.2\0")


def file(meta: bytes, data: bytes = b"", preamble: bytes = b"\0" * 128) -> bytes:
    return preamble + b"DICM" + meta + data


def counted(meta: bytes) -> bytes:
    return raw.element(0x00020000, "UL", len(meta).to_bytes(4, "little")) + meta


def test_our_header_is_read_by_pydicom() -> None:
    ds = dicom_data.image()
    header = part10.header(ds.SOPClassUID, ds.SOPInstanceUID, raw.EXPLICIT, " MODALITY ")
    assert header[:128] == b"\0" * 128
    read = dcmread(io.BytesIO(header + dicom_data.dataset_bytes(ds)))
    assert read.PatientID == "SYN-1"
    assert read.file_meta.MediaStorageSOPClassUID == ds.SOPClassUID
    assert read.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
    assert read.file_meta.TransferSyntaxUID == raw.EXPLICIT
    assert read.file_meta.ImplementationClassUID == uids.IMPLEMENTATION_CLASS_UID
    assert read.file_meta.SourceApplicationEntityTitle == "MODALITY"
    assert read.file_meta.FileMetaInformationGroupLength == len(header) - 144
    assert part10.split(memoryview(header)) == (raw.EXPLICIT, len(header))


@given(st.lists(st.integers(1, 700), max_size=40))
@settings(max_examples=50, deadline=None)
def test_chunks_of_any_size(sizes: list[int]) -> None:
    whole = dicom_data.part10(dicom_data.image())
    reader = part10.HeaderReader()
    out, at = b"", 0
    for size in [*sizes, len(whole)]:
        chunk = whole[at : at + size]
        at += size
        piece = reader.feed(chunk)
        assert (piece is not None) == reader.complete
        out += bytes(piece or b"")
    reader.finish()
    assert reader.transfer_syntax_uid == raw.EXPLICIT
    assert reader.sop_instance_uid == dicom_data.image().SOPInstanceUID
    assert out == whole[reader.header_length :] == dicom_data.dataset_bytes(dicom_data.image())


def test_group_length_missing_or_without_sop_uids() -> None:
    data = raw.dataset()
    for meta in (META, counted(META), counted(META + raw.element(0x00020102, "OB", b"private!"))):
        transfer_syntax_uid, offset = part10.split(memoryview(file(meta, data)))
        assert transfer_syntax_uid == raw.IMPLICIT
        assert file(meta, data)[offset:] == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"DICM",
        b"<html>" * 40,
        file(b""),
        file(counted(META)[:-4]),
        file(counted(raw.element(0x00020002, "UI", b"1.2\0")), raw.dataset()),
        file(counted(META + META), raw.dataset()),
        file(counted(META)[:8] + b"\xff\xff\xff\x7f" + META, raw.dataset()),
        file(counted(META)[:8] + b"\x04\0\0\0" + META, raw.dataset()),
        file(counted(META)[:8] + b"\x40\0\0\0" + META, raw.dataset()),
        file(counted(raw.element(0x00020010, "OB", b"", length=1 << 31)), raw.dataset()),
        file(counted(raw.element(0x00020010, "UI", b"../../etc\0")), raw.dataset()),
        file(counted(raw.element(0x00020010, "  ", b"1.2\0")), raw.dataset()),
        file(raw.element(0x00020001, "OB", b"x" * (1 << 18)) + META, raw.dataset()),
    ],
)
def test_what_is_no_part10_file(data: bytes) -> None:
    reader = part10.HeaderReader()
    with pytest.raises(MalformedDataset):  # noqa: PT012  (either call may be the one that notices)
        reader.feed(data)
        reader.finish()
