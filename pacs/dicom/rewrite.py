"""A data set written again in a native little-endian syntax, every value's bytes kept (PS3.5 section 7, A.1, A.2)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from pacs.dicom import dictionary
from pacs.dicom.transfer_syntaxes import TransferSyntax
from pacs.dicom.values import swapped, vrs
from pacs.errors import MalformedDataset

_UNDEFINED: Final = 0xFFFFFFFF
_ITEM: Final = 0xFFFEE000
_ITEM_END: Final = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
_SEQUENCE_END: Final = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
_DROPPED: Final = frozenset((0x7FE00001, 0x7FE00002, 0x7FE00003))
"""Extended Offset Tables and encapsulated lengths: they speak of fragments that are no more."""
_PIXELS: Final = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))
_CHOICES: Final = {"OB or OW": b"OW", "US or OW": b"OW", "US or SS or OW": b"OW"}
_MAX_DEPTH: Final = 64

Replacements = Mapping[int, tuple[bytes, int, Iterable[bytes]]]
"""Top-level elements that take the place of the stored ones: tag to VR, length in bytes, and the value in pieces."""


@dataclass(slots=True)
class _Open:
    """A sequence or item that has begun and is to be closed."""

    end: int
    undefined: bool
    sequence: bool
    explicit: bool
    little: bool
    signed: bool


def header(tag: int, vr: bytes, length: int) -> bytes:
    """An Explicit VR Little Endian element's header; UN where the VR has no room for the length (PS3.5 6.2.2)."""
    known = vrs(True).get(vr)
    if known is None or known.long or length > 0xFFFF:
        vr = vr if known is not None and known.long else b"UN"
        return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, length)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, length)


def implicit_header(tag: int, vr: bytes, length: int) -> bytes:
    """An Implicit VR Little Endian element's header."""
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, length)


def little_endian(
    data: memoryview,
    syntax: TransferSyntax,
    replacements: Replacements,
    *,
    signed: bool,
    bits_allocated: int,
    header: Callable[[int, bytes, int], bytes] = header,
) -> Iterator[bytes]:
    """The data set in pieces. `data` is inflated already; group lengths go, sequences get undefined length.

    `header` says whether it becomes explicit or, with `implicit_header`, implicit.

    `signed` is the top-level Pixel Representation, for US or SS; `bits_allocated` tells the words of big-endian pixel
    data. Raises MalformedDataset where the walk runs out of its bytes.
    """
    pending = dict(sorted(replacements.items()))
    explicit, little = syntax.explicit, syntax.little_endian
    stack: list[_Open] = []
    position, end = 0, len(data)
    try:
        while True:
            order = "<" if little else ">"
            if stack and position >= stack[-1].end and not stack[-1].undefined:
                last = stack.pop()
                yield _SEQUENCE_END if last.sequence else _ITEM_END
                if last.sequence:
                    explicit, little = last.explicit, last.little
                continue
            if position >= end:
                break
            group, number = struct.unpack_from(order + "HH", data, position)
            tag = group << 16 | number
            if stack and group == 0xFFFE and (stack[-1].sequence or number == 0xE00D):
                (length,) = struct.unpack_from(order + "I", data, position + 4)
                position += 8
                if tag == _ITEM:
                    yield struct.pack("<HHI", 0xFFFE, 0xE000, _UNDEFINED)
                    inner = stack[-1].end if length == _UNDEFINED else position + length
                    stack.append(_Open(inner, length == _UNDEFINED, False, explicit, little, stack[-1].signed))
                else:
                    stack[-1].end, stack[-1].undefined = position, False
                continue
            if stack and stack[-1].sequence:
                raise MalformedDataset(f"no item at offset {position}", about=f"{tag:08X}")
            vr, length, start, implicit = _element(
                data, position, tag, explicit, little, stack[-1] if stack else None, signed
            )
            top = not stack
            while top and pending and next(iter(pending)) < tag:
                yield from _replacement(next(iter(pending)), pending, header)
            if length == _UNDEFINED and vr != b"SQ":
                position = _after_fragments(data, start)
                if top and tag in pending:
                    yield from _replacement(tag, pending, header)
                else:
                    # A compressed icon cannot be told in a native syntax: its bytes would be taken for pixels.
                    yield header(tag, b"OB", 0)
                continue
            if vr == b"SQ" and (length == _UNDEFINED or length > 0):
                if len(stack) > 2 * _MAX_DEPTH:
                    raise MalformedDataset(f"sequences nested deeper than {_MAX_DEPTH}")
                yield header(tag, b"SQ", _UNDEFINED)
                until = (stack[-1].end if stack else end) if length == _UNDEFINED else start + length
                inherited = stack[-1].signed if stack else signed
                stack.append(_Open(until, length == _UNDEFINED, True, explicit, little, inherited))
                if implicit:
                    explicit, little = False, True
                position = start
                continue
            position = start + length
            if position > end:
                raise MalformedDataset(f"length {length} runs past the end", about=f"{tag:08X}")
            if tag == 0x00280103 and stack and length == 2:
                stack[-1].signed = data[start] != 0 if little else data[start + 1] != 0
            if number == 0 or (top and tag in _DROPPED and syntax.encapsulated):
                continue
            if top and tag in pending:
                yield from _replacement(tag, pending, header)
                continue
            yield header(tag, vr, length)
            unit = vrs(True)[vr].swap if vr in vrs(True) else 1
            if tag in _PIXELS and vr == b"OW":
                unit = max(2, bits_allocated // 8)
            value = data[start:position]
            yield swapped(value, unit) if unit > 1 and not little else bytes(value)
        for tag in list(pending):
            yield from _replacement(tag, pending, header)
    except (struct.error, IndexError):
        raise MalformedDataset(f"data set ends inside an element at offset {position}") from None
    if stack:
        raise MalformedDataset("data set ends inside a sequence")


def _replacement(
    tag: int,
    pending: dict[int, tuple[bytes, int, Iterable[bytes]]],
    header: Callable[[int, bytes, int], bytes],
) -> Iterator[bytes]:
    vr, length, pieces = pending.pop(tag)
    yield header(tag, vr, length)
    yield from pieces


def _element(
    data: memoryview, at: int, tag: int, explicit: bool, little: bool, around: _Open | None, signed: bool
) -> tuple[bytes, int, int, bool]:
    """VR to write, length, start of the value, and whether a sequence in it is implicit."""
    order = "<" if little else ">"
    if explicit:
        letters = bytes(data[at + 4 : at + 6])
        known = vrs(True).get(letters)
        if known is not None and not known.long:
            return letters, struct.unpack_from(order + "H", data, at + 6)[0], at + 8, False
        if letters.isalpha() and letters.isupper():
            (length,) = struct.unpack_from(order + "I", data, at + 8)
            if letters == b"UN" and length == _UNDEFINED:
                return b"SQ", length, at + 12, True
            return letters, length, at + 12, False
    (length,) = struct.unpack_from(order + "I", data, at + 4)
    spelled = dictionary.vr(tag)
    if spelled == "US or SS":
        vr = b"SS" if (around.signed if around else signed) else b"US"
    else:
        vr = b"UN" if spelled is None else _CHOICES.get(spelled) or spelled.encode("ascii")
    if length == _UNDEFINED and spelled is None:
        vr = b"SQ"
    if vr == b"SQ" and length not in (0, _UNDEFINED) and bytes(data[at + 8 : at + 12]) != b"\xfe\xff\x00\xe0":
        vr = b"UN"
    return vr, length, at + 8, explicit


def _after_fragments(data: memoryview, at: int) -> int:
    while True:
        group, number, length = struct.unpack_from("<HHI", data, at)
        at += 8
        if group == 0xFFFE and number == 0xE0DD:
            return at
        if group != 0xFFFE or number != 0xE000 or length > len(data) - at:
            raise MalformedDataset(f"no fragment at offset {at - 8}", about="7FE00010")
        at += length
