"""What one data set holds, out of bytes nobody vouches for: identifiers, DICOM JSON, bulk data and frame places.

The pass itself is `pacs.dicom.walk`: iterative, with caps on depth, elements and lengths, so that hostile bytes cost no
more than honest ones; pixel data is never copied. PS3.5 sections 7 and 8, annex A.
"""

from __future__ import annotations

import struct
from binascii import a2b_base64
from dataclasses import dataclass, field
from typing import Any

from pacs import uids
from pacs.dicom import frames, json_model
from pacs.dicom.deflated import inflate
from pacs.dicom.patterns import Pattern
from pacs.dicom.repeats import Repeats, Walked
from pacs.dicom.transfer_syntaxes import TRANSFER_SYNTAXES
from pacs.dicom.walk import DEFAULT_LIMITS, BulkValue, Limits, Walk
from pacs.errors import MalformedDataset, UnsupportedTransferSyntax

__all__ = ["DEFAULT_LIMITS", "BulkValue", "Limits", "Repeats", "Scan", "read", "scan"]


@dataclass(frozen=True, slots=True)
class Scan:
    """What one data set holds. `metadata` is the DICOM JSON model, ascending, with `BulkRef` as BulkDataURI."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    metadata: dict[str, Any]
    bulk: tuple[BulkValue, ...]
    frames: frames.FrameTable | None
    json: bytes | None = field(default=None, compare=False, repr=False)
    pattern: Pattern | None = field(default=None, compare=False, repr=False)
    """What it has in common with others, where that is known: an instance of a series with those before it."""

    def metadata_json(self) -> bytes:
        """The metadata as JSON; each BulkDataURI begins with the byte 0xFF for the instance's own address."""
        return json_model.dumps(self.metadata) if self.json is None else self.json


def scan(
    dataset: bytes | memoryview,
    transfer_syntax_uid: str,
    limits: Limits = DEFAULT_LIMITS,
    repeats: Repeats | None = None,
) -> Scan:
    """What the data set holds; its bytes come without preamble and File Meta, and deflated ones are inflated inside.

    With `repeats`, the memory of the calling thread, it is the quicker found the more it resembles the one before; the
    limits are the default ones then, and values are shared. Raises UnsupportedTransferSyntax, MalformedDataset (with
    tag and offset), InvalidUID or TooLarge.
    """
    walk, metadata, json, pattern = _walked(dataset, transfer_syntax_uid, limits, repeats)
    sop_class, sop_instance, study, series = _identifiers(metadata, pattern)
    frame_table = _frame_table(walk, metadata, pattern)
    return Scan(sop_class, sop_instance, study, series, metadata, tuple(walk.bulk), frame_table, json, pattern)


def read(dataset: bytes | memoryview, transfer_syntax_uid: str, limits: Limits = DEFAULT_LIMITS) -> dict[str, Any]:
    """The metadata of any data set, identifiers of a query included: nothing in it is required. Raises as `scan`."""
    return _walked(dataset, transfer_syntax_uid, limits)[1]


def _walked(
    dataset: bytes | memoryview, transfer_syntax_uid: str, limits: Limits, repeats: Repeats | None = None
) -> Walked:
    syntax = TRANSFER_SYNTAXES.get(transfer_syntax_uid)
    if syntax is None:
        raise UnsupportedTransferSyntax("unknown transfer syntax", about=transfer_syntax_uid[:64])
    view = memoryview(inflate(dataset, limits.inflated_bytes) if syntax.deflated else dataset)
    view = view.cast("B") if view.format != "B" else view
    if repeats is not None:
        return repeats.walk(view, syntax)
    walk = Walk(view, syntax, limits)
    return walk, walk.run(), None, None


_IDENTIFIERS = (
    ("00080016", "SOP Class UID"),
    ("00080018", "SOP Instance UID"),
    ("0020000D", "Study Instance UID"),
    ("0020000E", "Series Instance UID"),
)


def _identifiers(metadata: dict[str, Any], pattern: Pattern | None) -> list[str]:
    """The UIDs of SOP class, instance, study and series. Raises MalformedDataset or InvalidUID."""
    if pattern is None:
        return [_uid(metadata, tag, name) for tag, name in _IDENTIFIERS]
    shared = pattern.memory.get("identifiers")
    if shared is not None:
        return [uid or _uid(metadata, *which) for uid, which in zip(shared, _IDENTIFIERS, strict=True)]
    found = [_uid(metadata, *which) for which in _IDENTIFIERS]
    pattern.memory["identifiers"] = [
        None if tag in pattern.differing else uid for uid, (tag, _) in zip(found, _IDENTIFIERS, strict=True)
    ]
    return found


def _uid(metadata: dict[str, Any], tag: str, name: str) -> str:
    entry = metadata.get(tag)
    values = entry.get("Value") if entry is not None and entry["vr"] == "UI" else json_model.texts(metadata, tag)
    if not values or not values[0]:
        raise MalformedDataset(f"{name} is missing or empty", about=tag)
    if len(values) > 1:
        raise MalformedDataset(f"{name} has {len(values)} values", about=tag)
    return uids.checked(values[0], name)


_IMAGE = frozenset(("00280002", "00280004", "00280008", "00280010", "00280011", "00280100"))


def _frame_table(walk: Walk, metadata: dict[str, Any], pattern: Pattern | None) -> frames.FrameTable | None:
    """Where the frames of the top-level pixel data lie; None without pixel data or without any image attributes."""
    if pattern is None or pattern.differing & _IMAGE or walk.pixels is None:
        return _made_frame_table(walk, metadata)
    start, table = pattern.memory.get("frames", (-1, None))
    if start != walk.pixels.offset:  # of the same length, in every data set of the pattern
        table = _made_frame_table(walk, metadata)
        pattern.memory["frames"] = walk.pixels.offset, table
    found: frames.FrameTable | None = table
    return found


def _made_frame_table(walk: Walk, metadata: dict[str, Any]) -> frames.FrameTable | None:
    if walk.pixels is None:
        return None
    number_of_frames = _integer(metadata, "00280008", 1) or 1
    if walk.syntax.encapsulated:
        return frames.encapsulated(
            walk.data,
            walk.first_fragment,
            walk.fragments,
            number_of_frames=1 if walk.syntax.video else number_of_frames,
            basic_offsets=walk.offset_table,
            extended_offsets=_extended_offsets(walk, metadata),
        )
    rows, columns = _integer(metadata, "00280010", -1), _integer(metadata, "00280011", -1)
    if rows == -1 and columns == -1:
        return None
    samples = _integer(metadata, "00280002", 1)
    bits = {"7FE00008": 32, "7FE00009": 64}.get(walk.pixels.path) or _integer(metadata, "00280100", -1)
    whole = rows * columns * samples * bits * number_of_frames
    photometric = json_model.text(metadata, "00280004")
    return frames.native(
        walk.pixels.offset,
        walk.pixels.length,
        number_of_frames=number_of_frames,
        rows=rows,
        columns=columns,
        samples=samples,
        bits_allocated=bits,
        # Some writers name it and yet write all samples.
        subsampled=photometric in ("YBR_FULL_422", "YBR_PARTIAL_422") and walk.pixels.length * 8 < whole,
    )


def _extended_offsets(walk: Walk, metadata: dict[str, Any]) -> tuple[int, ...]:
    """The values of Extended Offset Table (7FE0,0001); () where there is none."""
    entry = metadata.get("7FE00001", {})
    raw = b""
    if "InlineBinary" in entry:
        raw = a2b_base64(entry["InlineBinary"])
    elif "BulkDataURI" in entry:
        where = next(value for value in walk.bulk if value.path == "7FE00001")
        raw = bytes(walk.data[where.offset : where.offset + where.length])
    return struct.unpack(f"<{len(raw) // 8}Q", raw[: len(raw) // 8 * 8])


def _integer(metadata: dict[str, Any], tag: str, default: int) -> int:
    """The one integer of an image attribute; `default` where it is absent or empty. Raises MalformedDataset."""
    entry = metadata.get(tag)
    if entry is None or len(entry) == 1:
        return default
    values = entry.get("Value", ())
    if len(values) == 1 and isinstance(values[0], int) and 0 <= values[0] < 1 << 31:
        return values[0]
    raise MalformedDataset("image attribute that is no single number", about=tag)
