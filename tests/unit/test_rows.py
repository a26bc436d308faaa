"""Rows of the index: what a memory of earlier instances saves changes nothing in them."""

from __future__ import annotations

from typing import Any

import dicom_data
import raw_dicom as raw

from pacs.dicom import part10, scanner
from pacs.dicom.attributes import Level
from pacs.dicom.repeats import Repeats
from pacs.errors import ArchiveError
from pacs.index import rows


def written_whole(metadata: dict[str, Any], sop: str) -> bytes:
    """The row as other levels' rows are made: all attributes gathered, then written at once."""
    attributes = rows.defaults(metadata, Level.IMAGE)
    attributes["00080056"] = rows.value("CS", "ONLINE")
    attributes["00083002"] = rows.value("UI", raw.EXPLICIT)
    attributes["0020000D"] = rows.value("UI", "1.2")
    attributes["0020000E"] = rows.value("UI", "1.2.3")
    return rows.dumps(attributes, rows.instance_path("1.2", "1.2.3", sop))


def test_an_instances_row_and_columns_are_the_same_with_a_memory() -> None:
    repeats, folded, written = Repeats(), rows.Folded(), rows.Written()
    slices = [*dicom_data.series(4), *dicom_data.series(4, study=1, NumberOfFrames=1, ContentDate="20260304")]
    for ds in (*slices, *reversed(slices), *slices[::3]):
        data = memoryview(dicom_data.dataset_bytes(ds))
        scan = scanner.scan(data, raw.EXPLICIT, repeats=repeats)
        fresh = scanner.scan(data, raw.EXPLICIT).metadata
        where = ("1.2", "1.2.3", scan.sop_instance_uid, raw.EXPLICIT)
        assert rows.instance_row(scan.metadata, *where, written) == written_whole(fresh, scan.sop_instance_uid)
        assert rows.columns(scan.metadata, Level.IMAGE, before=folded) == rows.columns(fresh, Level.IMAGE)


def test_rows_of_every_kind_of_instance_are_written_alike() -> None:
    seen, written = 0, rows.Written()
    for path in raw.bundled_files():
        whole = memoryview(path.read_bytes())
        try:
            syntax, offset = part10.split(whole)
            metadata = scanner.read(whole[offset:], syntax)
        except ArchiveError:  # refused, as other tests say
            continue
        seen += 1
        expected = written_whole(metadata, "1.2.3.4")
        assert rows.instance_row(metadata, "1.2", "1.2.3", "1.2.3.4", raw.EXPLICIT) == expected, path.name
        assert rows.instance_row(metadata, "1.2", "1.2.3", "1.2.3.4", raw.EXPLICIT, written) == expected, path.name
    assert seen > 100
