"""Where each frame of an instance lies in its data set, made once on arrival (PS3.5 section 8 and annex A.4)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from pacs.errors import MalformedDataset, NotFound

if TYPE_CHECKING:  # NumPy is loaded where pixels are encapsulated: processes that receive others do without its 12 MB
    import numpy as np
    import numpy.typing as npt

_HEADER = struct.Struct("<4sQIQI")
_MAGIC_NATIVE = b"FTN1"
_MAGIC_ENCAPSULATED = b"FTE1"
_ITEM_HEADER = 8

CODESTREAM_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\xff\x0a", b"\0\0\0\x0cJXL ", b"\0\0\0\x0cjP  ")
"""How a JPEG, JPEG-LS, JPEG 2000 or JPEG XL frame begins; tells frames apart where no offset table does."""


@dataclass(frozen=True)
class FrameTable:
    """The byte spans of every frame; offsets count from the start of the (inflated) data set.

    Native pixel data is one run of `frame_bits` for each frame. Encapsulated pixel data is a run of fragments, each
    behind an 8-byte item header; `fragment_lengths` holds their lengths and `first_fragments` the index of the fragment
    with which each frame begins, or None where every frame has exactly one.
    """

    encapsulated: bool
    number_of_frames: int
    offset: int
    """Of the first frame's first byte: native pixels, or the first fragment's value."""
    frame_bits: int = 0
    fragment_lengths: npt.NDArray[np.uint32] = field(default=None, compare=False)  # type: ignore[arg-type]  # native
    first_fragments: npt.NDArray[np.uint32] | None = field(default=None, compare=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FrameTable) and self.to_bytes() == other.to_bytes()

    def __hash__(self) -> int:
        return hash((self.encapsulated, self.number_of_frames, self.offset, self.frame_bits))

    @cached_property
    def _fragment_offsets(self) -> npt.NDArray[np.int64]:
        import numpy as np

        steps = self.fragment_lengths.astype(np.int64) + _ITEM_HEADER
        offsets: npt.NDArray[np.int64] = self.offset + np.cumsum(steps) - steps
        return offsets

    def spans(self, frame_number: int) -> tuple[tuple[int, int], ...]:
        """(offset, length) of each piece of the frame, counted from 1; joined they are the frame.

        For native frames that do not end on a byte (1-bit SEG) the piece covers all bytes that hold a bit of it, and
        `cut_bits` takes the frame out of them. Raises NotFound beyond the last frame.
        """
        if not 1 <= frame_number <= self.number_of_frames:
            raise NotFound(f"frame {frame_number} of {self.number_of_frames}")
        if not self.encapsulated:
            first = (frame_number - 1) * self.frame_bits
            start, end = first // 8, (first + self.frame_bits + 7) // 8
            return ((self.offset + start, end - start),)
        first, last = frame_number - 1, frame_number
        if self.first_fragments is not None:
            first = int(self.first_fragments[frame_number - 1])
            last = (
                int(self.first_fragments[frame_number])
                if frame_number < self.number_of_frames
                else len(self.fragment_lengths)
            )
        return tuple(
            (int(self._fragment_offsets[index]), int(self.fragment_lengths[index])) for index in range(first, last)
        )

    def cut_bits(self, frame_number: int, data: bytes) -> bytes:
        """The frame out of the bytes that `spans` names: byte aligned, bits beyond its end zero (PS3.5 8.1.1).

        Frames that are whole bytes, and encapsulated ones, come back as they are.
        """
        if self.encapsulated or self.frame_bits % 8 == 0:
            return data
        import numpy as np

        shift = (frame_number - 1) * self.frame_bits % 8
        bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[shift : shift + self.frame_bits]
        return np.packbits(bits, bitorder="little").tobytes()

    def to_bytes(self) -> bytes:
        """A compact form for the index: 28 bytes, and for encapsulated pixel data 4 for each fragment."""
        if not self.encapsulated:
            return _HEADER.pack(_MAGIC_NATIVE, self.offset, self.number_of_frames, self.frame_bits, 0)
        starts = b"" if self.first_fragments is None else self.first_fragments.astype("<u4").tobytes()
        return (
            _HEADER.pack(
                _MAGIC_ENCAPSULATED, self.offset, self.number_of_frames, len(starts), len(self.fragment_lengths)
            )
            + self.fragment_lengths.astype("<u4").tobytes()
            + starts
        )

    @classmethod
    def from_bytes(cls, raw: bytes) -> FrameTable:
        """The table that `to_bytes` wrote. Raises MalformedDataset on anything else."""
        try:
            magic, offset, frames, extra, fragments = _HEADER.unpack_from(raw)
            if magic == _MAGIC_NATIVE:
                return cls(False, frames, offset, frame_bits=extra)
            if magic != _MAGIC_ENCAPSULATED:
                raise ValueError
            import numpy as np

            lengths = np.frombuffer(raw, "<u4", fragments, _HEADER.size)
            starts = np.frombuffer(raw, "<u4", frames, _HEADER.size + 4 * fragments) if extra else None
        except (struct.error, ValueError):
            raise MalformedDataset("not a frame table") from None
        return cls(True, frames, offset, fragment_lengths=lengths, first_fragments=starts)


def native(
    offset: int,
    length: int,
    *,
    number_of_frames: int,
    rows: int,
    columns: int,
    samples: int,
    bits_allocated: int,
    subsampled: bool = False,
) -> FrameTable:
    """The table of native pixel data of `length` bytes.

    `subsampled` is YBR_FULL_422 (PS3.3 C.7.6.3.1.2): two samples for each pixel. Trailing padding is tolerated; too few
    bytes, or an image without extent, raise MalformedDataset.
    """
    frame_bits = rows * columns * (2 if subsampled else samples) * bits_allocated
    if not (rows > 0 and columns > 0 and samples > 0 and bits_allocated > 0 and number_of_frames > 0):
        raise MalformedDataset("image without extent: Rows, Columns, samples, bits or frames is zero", about="00280010")
    needed = (frame_bits * number_of_frames + 7) // 8
    if length < needed:
        raise MalformedDataset(f"pixel data holds {length} of {needed} bytes", about="7FE00010")
    return FrameTable(False, number_of_frames, offset, frame_bits=frame_bits)


def encapsulated(
    dataset: memoryview,
    offset: int,
    lengths: Sequence[int],
    *,
    number_of_frames: int,
    basic_offsets: Sequence[int] = (),
    extended_offsets: Sequence[int] = (),
) -> FrameTable:
    """The table of encapsulated pixel data whose first fragment's value starts at `offset`.

    `lengths` are those of the fragments after the Basic Offset Table item. Frames are told apart, in this order, by:
    one fragment for each; a single frame; the Extended, then the Basic Offset Table (PS3.5 A.4); how codestreams begin.
    Raises MalformedDataset if there are too few fragments or no way to tell.
    """
    import numpy as np

    fragment_lengths = np.asarray(lengths, np.uint32)
    count = len(lengths)
    if count < number_of_frames:
        raise MalformedDataset(f"{number_of_frames} frames in {count} fragments", about="7FE00010")
    if count == number_of_frames:
        return FrameTable(True, number_of_frames, offset, fragment_lengths=fragment_lengths)
    starts: list[int] | None = [0] if number_of_frames == 1 else None
    where = np.cumsum(fragment_lengths.astype(np.int64) + _ITEM_HEADER)
    places = {0: 0} | {int(position): index + 1 for index, position in enumerate(where[:-1])}
    for table in (extended_offsets, basic_offsets):
        if starts is None and len(table) == number_of_frames and table[0] == 0:
            found = [places.get(entry, -1) for entry in table]
            if all(early < late for early, late in pairwise(found)) and -1 not in found:
                starts = found
    if starts is None:
        begins = [
            index
            for position, index in places.items()
            if bytes(dataset[offset + position : offset + position + 8]).startswith(CODESTREAM_STARTS)
        ]
        if len(begins) == number_of_frames and begins[0] == 0:
            starts = begins
    if starts is None:
        raise MalformedDataset(
            f"{number_of_frames} frames in {count} fragments and no offset table that fits", about="7FE00010"
        )
    return FrameTable(
        True,
        number_of_frames,
        offset,
        fragment_lengths=fragment_lengths,
        first_fragments=np.asarray(starts, np.uint32),
    )
