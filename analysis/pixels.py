"""Pixel values out of Part 10 files, in the child process: frames decoded, modality LUT applied, colour made grey."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.pixels import apply_modality_lut

from analysis.api import Array, NotAnalysable
from pacs.dicom import part10, scanner
from pacs.dicom.decode import PixelInfo, decode_frame
from pacs.dicom.deflated import inflate
from pacs.dicom.transfer_syntaxes import TRANSFER_SYNTAXES
from pacs.errors import ArchiveError

_LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as in PS3.3 C.7.6.3.1.2 for YBR_FULL


def attributes(path: Path) -> Mapping[str, Any]:
    """The DICOM JSON model of the instance at `path`, without bulk data. Raises NotAnalysable if unreadable."""
    try:
        with memoryview(path.read_bytes()) as whole:
            ts, offset = part10.split(whole)
            metadata = scanner.scan(whole[offset:], ts).metadata
    except ArchiveError as error:
        raise NotAnalysable(f"an instance of the input cannot be read: {error.reason}") from error
    return {tag: element for tag, element in metadata.items() if "BulkDataURI" not in element}


def frames(path: Path, numbers: Sequence[int]) -> Iterator[Array]:
    """The stored values of those frames (counted from 1), in that order: (rows, columns) or (rows, columns, 3).

    Colour is RGB. Raises NotAnalysable where they cannot be decoded.
    """
    try:
        with memoryview(path.read_bytes()) as whole:
            ts, offset = part10.split(whole)
            scan = scanner.scan(whole[offset:], ts)
            dataset = whole[offset:]
            if TRANSFER_SYNTAXES[ts].deflated:
                dataset = memoryview(inflate(bytes(dataset), scanner.Limits().inflated_bytes))
            info = PixelInfo.from_metadata(scan.metadata, ts)
            if scan.frames is None or info.photometric == "PALETTE COLOR":
                raise NotAnalysable("the images have no pixel values of their own, or only a palette's indices")
            for number in numbers:
                spans = scan.frames.spans(number)
                data = b"".join(dataset[start : start + length] for start, length in spans)
                yield decode_frame(scan.frames.cut_bits(number, data), info)
    except ArchiveError as error:
        raise NotAnalysable(f"the pixel data of an instance cannot be decoded: {error.reason}") from error


def modality(stored: Array, header: Dataset, slope: float, intercept: float, *, exact: bool) -> Array:
    """Stored values through the modality LUT (PS3.3 C.11.1): int32 where `exact`, else float32."""
    if stored.ndim != 2:
        raise NotAnalysable("the images are in colour")
    if "ModalityLUTSequence" in header:
        table: Array = apply_modality_lut(stored, header)
        return table.astype(np.int32 if exact else np.float32)
    if exact:
        return stored.astype(np.int32) * np.int32(slope) + np.int32(intercept)
    return stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)


def grey(stored: Array) -> Array:
    """A frame as uint16 or int16 (rows, columns); colour becomes its luminance. Raises NotAnalysable for 32 bits."""
    if stored.ndim == 3:
        stored = np.rint(stored[..., :3] @ _LUMINANCE).astype(stored.dtype)
    if stored.dtype.itemsize > 2 or stored.dtype.kind not in "iu":
        raise NotAnalysable("the pixels have more than 16 bits")
    return np.ascontiguousarray(stored, np.int16 if stored.dtype.kind == "i" else np.uint16)
