"""Lookup tables in the DICOM JSON model: modality, VOI and palette colour (PS3.3 C.11.1, C.11.2, C.7.6.3.1.5)."""

from __future__ import annotations

from binascii import a2b_base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from pacs.dicom.late import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

Metadata = Mapping[str, Any]

_MAX_ENTRIES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Table:
    """A lookup table: `entries` from the input value `first` on, of `bits` bits; input beyond takes the nearest end."""

    first: int
    bits: int
    entries: npt.NDArray[np.uint16]

    def __call__(self, values: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
        if values.dtype.kind in "iu":
            values = values.astype(np.int64)  # a difference of small integers need not fit into them
        index = np.clip(values - self.first, 0, len(self.entries) - 1).astype(np.intp)
        looked_up: npt.NDArray[np.uint16] = self.entries[index]
        return looked_up

    def beginning_within(self, values: npt.NDArray[Any]) -> Table:
        """The table with a first input value that such values can have.

        Where values may be negative it is signed (PS3.3 C.11.2.1.1), but Explicit VR files often have it as US: one
        beyond all the values was negative.
        """
        wrong = self.first > 0x7FFF and values.size > 0 and values.min() < 0 and values.max() < self.first
        return replace(self, first=self.first - 0x10000) if wrong else self

    @property
    def top(self) -> int:
        """The largest entry that there can be: by the descriptor, or by the entries where these need more bits."""
        return int((1 << max(self.bits, int(self.entries.max()).bit_length())) - 1)


def values(metadata: Metadata, tag: str) -> list[Any]:
    """The values of an attribute; [] where it is absent, empty or not held inline."""
    entry = metadata.get(tag)
    found = entry.get("Value") if isinstance(entry, dict) else None
    return found if isinstance(found, list) else []


def items(metadata: Metadata, tag: str) -> list[Metadata]:
    """The items of a sequence; [] where there are none."""
    return [item for item in values(metadata, tag) if isinstance(item, dict)]


def number(metadata: Metadata, tag: str, place: int = 0) -> float | None:
    """One value as a number, or None where it is absent or is no number."""
    found = values(metadata, tag)
    try:
        value = float(found[place])
    except (IndexError, TypeError, ValueError):
        return None
    return value if np.isfinite(value) else None


def table(metadata: Metadata, descriptor: str, data: str, segmented: str = "") -> Table | None:
    """The table of a descriptor (number of entries, first input value, bits) and its data; None if it is not whole."""
    described = values(metadata, descriptor)
    if len(described) != 3 or not all(isinstance(each, int) for each in described):
        return None
    count, first, bits = described
    # PS3.3 C.11.1.1.1: 65536 entries are written as 0, and as a negative number where the VR is SS.
    count = count & 0xFFFF or _MAX_ENTRIES
    if not 1 <= bits <= 16:
        return None
    entries = _entries(metadata, data, count, bits)
    if entries is None and segmented:
        words = _words(metadata, segmented)
        entries = None if words is None else _expanded(words, count, bits)
    if entries is None or len(entries) < count:
        return None
    return Table(first, bits, entries[:count])


def _words(metadata: Metadata, tag: str) -> npt.NDArray[np.uint16] | None:
    entry = metadata.get(tag)
    if not isinstance(entry, dict):
        return None
    if "InlineBinary" in entry:
        raw = a2b_base64(entry["InlineBinary"])
        return np.frombuffer(raw[: len(raw) // 2 * 2], "<u2").astype(np.uint16)
    found = values(metadata, tag)
    if found and all(isinstance(each, int) for each in found):
        return (np.array(found, np.int64) & 0xFFFF).astype(np.uint16)
    return None


def _entries(metadata: Metadata, tag: str, count: int, bits: int) -> npt.NDArray[np.uint16] | None:
    words = _words(metadata, tag)
    if words is not None and bits <= 8 and len(words) == (count + 1) // 2 < count:
        return np.frombuffer(words.astype("<u2").tobytes(), np.uint8).astype(np.uint16)  # two entries in a word
    return words


def _expanded(words: npt.NDArray[np.uint16], count: int, bits: int) -> npt.NDArray[np.uint16] | None:
    """PS3.3 C.7.9.2: discrete, linear and indirect segments written out; None if they make no sense.

    Segments of 8-bit entries come as bytes, and from some writers as words. An indirect segment names a byte offset,
    for which others give the number of the entry. What comes out whole, in this order, is what was meant.
    """
    as_bytes = np.frombuffer(words.astype("<u2").tobytes(), np.uint8)
    wide, narrow = words.tolist(), as_bytes.tolist()
    ways = [(wide, 2, False), (wide, 1, False)]
    for data, unit, is_narrow in ways if bits > 8 else [(narrow, 1, True), *ways]:
        found = _run_out(data, count, unit, is_narrow)
        if found is not None:
            return np.array(found, np.int64).astype(np.uint16)
    return None


def _run_out(raw: list[int], count: int, unit: int, narrow: bool) -> list[int] | None:
    """`count` entries out of segments, None if they give more, fewer or nothing. `unit` bytes make one of `raw`."""
    out: list[int] = []

    def run(at: int, segments: int, nested: bool) -> bool:
        while segments and at + 1 < len(raw) and len(out) < count:
            opcode, length = raw[at], raw[at + 1]
            if opcode == 0:
                out.extend(raw[at + 2 : at + 2 + length])
                at += 2 + length
            elif opcode == 1 and at + 2 < len(raw) and out:
                out.extend(round(float(step)) for step in np.linspace(out[-1], raw[at + 2], length + 1)[1:])
                at += 3
            elif opcode == 2 and at + (5 if narrow else 3) < len(raw) and not nested:
                if narrow:
                    offset = int.from_bytes(bytes(raw[at + 2 : at + 6]), "little")
                else:
                    offset = raw[at + 2] | raw[at + 3] << 16
                if offset % unit or offset // unit >= at or not run(offset // unit, length, True):
                    return False
                at += 6 if narrow else 4
            else:
                return False
            segments -= 1
        return True

    return out if run(0, -1, False) and len(out) == count else None
