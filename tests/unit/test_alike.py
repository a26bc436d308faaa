"""What the library makes of a data set that follows a pattern is what Python makes of it, byte for byte, or nothing."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from contextlib import suppress
from ctypes import byref, c_char_p, c_void_p, cast, string_at
from functools import partial
from typing import Any

import dicom_data
import pytest
import raw_dicom
from pydicom import Dataset
from pydicom.tag import Tag
from servers import missing

from pacs import alike, filing, native
from pacs.dicom import json_model, scanner
from pacs.dicom.attributes import Level
from pacs.dicom.repeats import Repeats
from pacs.dicom.scanner import Scan
from pacs.errors import ArchiveError
from pacs.index import joining, rows
from pacs.native import structures
from pacs.storage.arrival import Arrival
from pacs.storage.base import Locator

EXPLICIT, IMPLICIT, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
ARRIVAL = Arrival("MODALITY", "", "CT1", None, 1.0)


@pytest.fixture(scope="module")
def library() -> Any:
    found = native.load()
    if found is None or not structures.declared(found):
        missing("the compiled part (python -m pacs.native.make)")
    return found


def entry_of(scan: Scan, syntax: str) -> filing.Entry:
    return filing.Entry(scan, syntax, "0" * 64, Locator("key", 0, 1), 1024, ARRIVAL)


class Follower:
    """The library, told what the last data set of a memory is like; `follow` is None where it leaves it to Python."""

    def __init__(self, library: Any, repeats: Repeats, scan: Scan, syntax: str) -> None:
        self._library = library
        known = repeats.following
        assert known is not None
        assert scan.pattern is known.whole.pattern
        differing = known.whole.pattern.differing
        self.columns = {
            tag: (vr, joining.COLUMNS.index(f"i_{names[0]}"))
            for tag, vr, names in rows.sourced(Level.IMAGE)
            if tag in differing and tag != "00080018"
        }
        members = rows.instance_members(
            scan.metadata, scan.study_instance_uid, scan.series_instance_uid, syntax, differing
        )
        path = rows.instance_path(scan.study_instance_uid, scan.series_instance_uid, "").encode()
        self._kept = alike.Kept()
        self.pattern = alike.pattern(known, self.columns, members, json_model.HERE + path, self._kept)
        self._followed = structures.Followed()

    def follow(self, data: bytes) -> tuple[bytes, bytes, int, dict[str, Any]] | None:
        assert self.pattern is not None
        out = self._followed
        if not self._library.m3_follow(byref(self.pattern), cast(c_char_p(data), c_void_p), len(data), byref(out)):
            return None
        columns: dict[str, Any] = {}
        for at in range(self.pattern.step_count):
            step, found = self.pattern.steps[at], out.steps[at]
            if step.fold == structures.NO_COLUMN:
                continue
            match found.folded.kind:
                case structures.NULL:
                    value: Any = None
                case structures.INTEGER:
                    value = found.folded.integer
                case _:
                    value = string_at(found.folded.bytes, found.folded.size).decode()
            columns[joining.COLUMNS[step.column].removeprefix("i_")] = value
        return bytes(out.json)[: out.json_size], bytes(out.row)[: out.row_size], out.place, columns


def agrees(follower: Follower, data: bytes, syntax: str) -> bool:
    """Whether the library follows; fails where it makes something else of the data set than Python alone."""
    found = follower.follow(data)
    if found is None:
        return False
    scan = scanner.scan(memoryview(data), syntax)
    entry = entry_of(scan, syntax)
    json, row, place, columns = found
    assert json == scan.metadata_json()
    assert row == entry.row
    assert place == scan.bulk[-1].offset
    assert columns == {name: entry.columns[name] for name in columns}
    return True


def image(**attributes: Any) -> Dataset:
    ds = dicom_data.image(1, PatientID="P1", PatientName="Doe^Jane")
    for name, value in attributes.items():
        setattr(ds, name, value)
    return ds


def written(syntax: str, **attributes: Any) -> bytes:
    return dicom_data.dataset_bytes(image(**attributes), syntax)


def taught(library: Any, syntax: str, first: bytes, second: bytes) -> Follower:
    """The library after two data sets that differ in what is to differ."""
    repeats = Repeats()
    for data in (first, second, second):
        scan = scanner.scan(memoryview(data), syntax, repeats=repeats)
    return Follower(library, repeats, scan, syntax)


UL, SL, SS, US = (partial(struct.pack, f"<{code}") for code in "LlhH")
VALUES: dict[str, tuple[str, list[bytes]]] = {
    "InstanceNumber": ("IS", [b"0", b"1", b"-7", b"12345", b"", b" 5 ", b"5\\6", b"5.0"]),
    "AcquisitionNumber": ("IS", [b"+5", b"007", b"12", b"x1", b"123456789012", b"1234567890123", b"-0"]),
    "AcquisitionDate": ("DA", [b"20240131", b"20240228", b"20240229", b"2024.01.31", b"20241301", b"", b"00240131"]),
    "ContentTime": ("TM", [b"101112", b"101112.5", b"10", b"235960", b"240000", b"10:11:12", b"101112.1234567",
                           b"101112."]),
    "AcquisitionDateTime": ("DT", [b"20240110101112.25", b"20240110101112", b"2024", b"20240110101112+0100",
                                   b"20240230101112", b"20240430101112", b"20240110101112.250000", b"00010110101112"]),
    "SliceLocation": ("DS", [b"0", b"1.5", b"-0", b"0.0", b"-0.0", b"+1", b"-1.50", b".5", b"5.", b"1e3", b"1E-2",
                             b"0.001",
                             b"0.0009", b"00012.5", b"123456789012345", b"1234567890123456", b"0.1234567890123",
                             b"-12345.678901234", b"NaN", b"1 2", b"", b"  12.5", b"-"]),
    "ImagePositionPatient": ("DS", [b"1\\2\\3", b"-1.5\\0.5\\0.25", b"-1.5\\\\0.25", b"\\\\", b"1\\2\\3\\"]),
    "ImageComments": ("LT", [b"plain", b"more", b'a "quote"', b"tab\there", b"tilde ~", b"back\\slash", b"Gr\xf6\xdfe",
                             b" led and trailed  ", b"", b"\x1b$B", b"delete \x7f"]),
    "ProtocolName": ("LO", [b"one", b"another", b"one\\two", b" led", b"~", b""]),
    "ImageType": ("CS", [b"ORIGINAL\\PRIMARY", b"DERIVED\\PRIMARY", b"DERIVED\\\\AXIAL", b"", b"\\", b"A~B", b'A"B']),
    "LossyImageCompression": ("CS", [b"00", b"01", b"", b" 01 "]),
    "RepresentativeFrameNumber": ("US", [US(0), US(1), US(65535), US(1) + US(2), b"\0"]),
    "PixelIntensityRelationshipSign": ("SS", [SS(1), SS(-1), SS(-32768)]),
    "RegionFlags": ("UL", [UL(0), UL(1), UL(4294967295)]),
    "ReferencePixelX0": ("SL", [SL(-1), SL(1), SL(-2147483648), SL(1) + SL(2), b"\0\0"]),
    "SOPInstanceUID": ("UI", [b"1.2.3.4", b"1.2.3.45", b"1.2.3.456.789"]),
}  # fmt: skip


def elements(data: bytes, explicit: bool) -> Iterator[tuple[int, bytes]]:
    """Tag and all bytes of each element of a data set without sequences."""
    at = 0
    while at < len(data):
        group, number = struct.unpack_from("<HH", data, at)
        if not explicit:
            end = at + 8 + struct.unpack_from("<I", data, at + 4)[0]
        elif data[at + 4 : at + 6] in (b"OW", b"OB"):
            end = at + 12 + struct.unpack_from("<I", data, at + 8)[0]
        else:
            end = at + 8 + struct.unpack_from("<H", data, at + 6)[0]
        yield group << 16 | number, data[at:end]
        at = end


def raw(syntax: str, **values: bytes) -> bytes:
    """A data set with these values as they are, padded to even length; of the others each has its first."""
    explicit = syntax == EXPLICIT
    found = dict(elements(written(syntax, SpecificCharacterSet="ISO_IR 100"), explicit))
    for name, (vr, choice) in VALUES.items():
        value = values.get(name, choice[0])
        value += (b"\0" if vr == "UI" else b" ") * (len(value) & 1)
        tag = int(Tag(name))
        found[tag] = raw_dicom.element(tag, vr, value) if explicit else raw_dicom.implicit(tag, value)
    return b"".join(element for _, element in sorted(found.items()))


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_every_value_of_every_kind(library: Any, syntax: str) -> None:
    random_ = random.Random(1)
    second = {name: choice[1] for name, (_, choice) in VALUES.items()}
    follower = taught(library, syntax, raw(syntax), raw(syntax, **second))
    assert agrees(follower, raw(syntax), syntax)
    assert agrees(follower, raw(syntax, **second), syntax)
    assert not agrees(follower, raw(syntax, SliceLocation=b"1e3"), syntax)
    for name, (_, choice) in VALUES.items():
        for value in choice:
            with suppress(ArchiveError):  # which no one stores
                agrees(follower, raw(syntax, **{name: value}), syntax)
    for _ in range(100):
        assert agrees(
            follower, raw(syntax, **{name: random_.choice(each[1][:2]) for name, each in VALUES.items()}), syntax
        )


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_damaged_data_sets(library: Any, syntax: str) -> None:
    ones = [written(syntax, SOPInstanceUID=f"1.2.3.{n}", InstanceNumber=n, SliceLocation=n / 2) for n in (1, 2)]
    follower = taught(library, syntax, *ones)
    whole = ones[0]
    assert agrees(follower, whole, syntax)
    assert not agrees(follower, whole + b"\0\0", syntax)
    assert not agrees(follower, whole[:-2], syntax)
    random_ = random.Random(2)
    head = len(whole) - 1024
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(random_.randint(1, 3)):
            at = random_.randrange(max(head, 0))
            data[at] = random_.choice((0, 1, 32, 48, 92, 255, data[at] ^ 1, random_.randrange(256)))
        if follower.follow(bytes(data)) is not None:
            assert agrees(follower, bytes(data), syntax)


def test_what_python_alone_reads_makes_no_pattern(library: Any) -> None:
    ones = [written(EXPLICIT, SOPInstanceUID=f"1.2.3.{n}", OperatorsName=f"A^{n}") for n in (1, 2)]
    assert taught(library, EXPLICIT, *ones).pattern is None
    ones = [written(BIG, SOPInstanceUID=f"1.2.3.{n}") for n in (1, 2)]
    assert taught(library, BIG, *ones).pattern is None
