"""What data sets of a pattern are like, in the form in which the library follows it (pacs/native/follow.c).

`pacs.dicom.repeats` is the reference: it finds the pattern, and what the library does not follow goes there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ctypes import c_char_p, c_void_p, cast
from typing import Any, Final

from pacs.dicom.repeats import Following
from pacs.native import structures as native

READERS: Final = {
    **dict.fromkeys(("AE", "AS", "CS", "DA", "DT", "TM", "UI"), native.CODES),
    **dict.fromkeys(("LO", "SH"), native.STRINGS),
    **dict.fromkeys(("LT", "ST"), native.STRING),
    "IS": native.INTEGERS,
    "DS": native.DECIMALS,
    "US": native.US,
    "SS": native.SS,
    "UL": native.UL,
    "SL": native.SL,
}
FOLDS: Final = {
    "IS": native.INTEGER_COLUMN,
    "US": native.INTEGER_COLUMN,
    "DA": native.DATE_COLUMN,
    "TM": native.TIME_COLUMN,
    "DT": native.DATETIME_COLUMN,
}
SOP_INSTANCE_UID: Final = "00080018"
_ADDRESS: Final = "00081190"
_MOST_TEXT: Final = native.TEXT_ROOM - (8 << 10)
"""The JSON of what does not differ: the rest is left for what does."""

Member = tuple[str, str, bytes | None, bool]
"""Of a row: tag, VR, what is written of it (None where the data set tells), whether it is there without a value."""


class Kept:
    """Bytes that the library is told of by their addresses: they stay for as long as this does."""

    def __init__(self) -> None:
        self._kept: list[Any] = []

    def at(self, data: bytes) -> int:
        """The address of the bytes."""
        self._kept.append(data)
        return cast(c_char_p(data), c_void_p).value or 0

    def hold(self, thing: Any) -> Any:
        """The thing itself, kept."""
        self._kept.append(thing)
        return thing


def pattern(
    known: Following, columns: Mapping[str, tuple[str, int]], members: Sequence[Member], address: bytes,
    kept: Kept,
) -> native.Pattern | None:  # fmt: skip
    """The pattern for the library; None where something differs that only Python reads.

    `columns` has, by tag, the VR and the place of what is searched; `members` are those of the row, ascending;
    `address` is its RetrieveURL up to the SOP Instance UID, which ends it.
    """
    whole = known.whole
    syntax = known.syntax
    # Of a deflated data set the library would look at other bytes than those that were read
    if not syntax.little_endian or syntax.deflated or len(whole.steps) > native.MOST_STEPS:
        return None
    if sum(len(text) for *_, text in whole.steps) + len(whole.json) > _MOST_TEXT:
        return None
    places = {key: at for at, (_, _, key, *_) in enumerate(whole.steps)}
    if SOP_INSTANCE_UID not in places:
        return None
    steps = (native.Step * len(whole.steps))()
    for at, (run, begins, key, vr, _, limit, _, text) in enumerate(whole.steps):
        searched = columns.get(key)
        if vr not in READERS or (searched is not None and (searched[0] != vr or vr not in FOLDS)):
            return None
        step = steps[at]
        step.run, step.run_size, step.text, step.text_size = kept.at(run), len(run), kept.at(text), len(text)
        step.limit, step.reader, step.vr = limit, READERS[vr], vr.encode("ascii")
        step.begins[: len(begins)] = list(begins)
        step.fold, step.column = (FOLDS[vr], searched[1]) if searched is not None else (native.NO_COLUMN, 0)
    vrs = {key: vr for _, _, key, vr, *_ in whole.steps}
    if any(vrs[tag] != vr for tag, vr, written, _ in members if written is None and tag != _ADDRESS):
        return None
    pieces = _pieces(members, address, places, kept)
    run = whole.run + whole.tail.header
    return native.Pattern(
        kept.hold(steps), kept.hold(pieces), kept.at(run), kept.at(whole.json), len(steps), len(pieces), len(run),
        len(whole.json), syntax.explicit, known.reach, places[SOP_INSTANCE_UID], whole.tail.length,
    )  # fmt: skip


def _pieces(members: Sequence[Member], address: bytes, steps: Mapping[str, int], kept: Kept) -> Any:
    made = list[tuple[bytes, int, bool]]()
    text = b"{"
    for tag, _, written, always in members:
        if tag == _ADDRESS:
            made.append((text + b'"00081190":{"vr":"UR","Value":["' + address, native.ITS_UID, True))
            text = b'"]},'
        elif written is None:
            made += ((text, native.NO_STEP, True), (b'"%b":' % tag.encode("ascii"), steps[tag], always))
            text = b""
        elif written:
            text += written + b","
    made.append((text, native.NO_STEP, True))
    pieces = (native.Piece * len(made))()
    for piece, (text, step, always) in zip(pieces, made, strict=True):
        piece.text, piece.size, piece.step, piece.always = kept.at(text), len(text), step, always
    return pieces
