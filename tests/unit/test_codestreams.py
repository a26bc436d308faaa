"""What compressed frames tell of themselves, and headers that are cut, damaged or lie."""

from __future__ import annotations

from typing import Any

import codestreams as made
import imagecodecs
import numpy as np
import pytest

from pacs.dicom.codestreams import is_progressive, read
from pacs.errors import UnsupportedTransferSyntax

RNG = np.random.default_rng(7)
WORDS = RNG.integers(0, 4096, (12, 20), dtype=np.uint16)
COLOUR = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)
STREAMS: dict[str, tuple[str, bytes]] = {
    "baseline": (made.BASELINE, imagecodecs.jpeg8_encode(COLOUR)),
    "lossless": (made.LOSSLESS14, imagecodecs.ljpeg_encode(WORDS)),
    "jpeg-ls": (made.JPEG_LS, imagecodecs.jpegls_encode(WORDS)),
    "near": (made.NEAR, imagecodecs.jpegls_encode(COLOUR, level=3)),
    "jp2": (made.J2K, imagecodecs.jpeg2k_encode(COLOUR, codecformat="jp2", reversible=True)),
    "j2k": (made.J2K_LOSSY, imagecodecs.jpeg2k_encode(COLOUR, level=30, codecformat="j2k")),
    "htj2k": (made.HTJ2K, imagecodecs.htj2k_encode(WORDS)),
}


def value(attributes: dict[str, Any], tag: str) -> Any:
    return attributes[tag]["Value"][0]


@pytest.mark.parametrize("name", STREAMS)
def test_syntax_and_shape(name: str) -> None:
    ts, data = STREAMS[name]
    found = read(data, "image/x")
    assert found.transfer_syntax_uid == ts
    assert (value(found.attributes, "00280010"), value(found.attributes, "00280011")) == (12, 20)
    assert value(found.attributes, "00280002") == (3 if name in ("baseline", "near", "jp2", "j2k") else 1)
    assert ("00282110" in found.attributes) == (name in ("baseline", "near", "j2k"))
    assert read(data, "image/x", ts).transfer_syntax_uid == ts
    assert bytes(found.data) == data[len(data) - len(found.data) :]


def test_colour_transforms_are_named() -> None:
    assert value(read(STREAMS["jp2"][1], "image/jp2").attributes, "00280004") == "YBR_RCT"
    assert value(read(STREAMS["j2k"][1], "image/jp2").attributes, "00280004") == "YBR_ICT"
    assert value(read(STREAMS["baseline"][1], "image/jpeg").attributes, "00280004") == "YBR_FULL_422"
    full = imagecodecs.jpeg8_encode(COLOUR, subsampling="444")
    assert value(read(full, "image/jpeg").attributes, "00280004") == "YBR_FULL"
    signed = imagecodecs.jpeg2k_encode(WORDS.astype(np.int16), codecformat="j2k", reversible=True)
    assert value(read(signed, "image/jp2").attributes, "00280103") == 1


def test_names_that_contradict() -> None:
    assert read(STREAMS["jp2"][1], "image/jp2", made.J2K_LOSSY).transfer_syntax_uid == made.J2K_LOSSY
    for name, ts in (("baseline", made.JPEG_LS), ("j2k", made.J2K), ("near", made.JPEG_LS), ("jp2", made.HTJ2K)):
        with pytest.raises(UnsupportedTransferSyntax):
            read(STREAMS[name][1], "image/x", ts)
    with pytest.raises(UnsupportedTransferSyntax):
        read(b"no such stream", "image/jls", made.JPEG_LS)


@pytest.mark.parametrize("name", STREAMS)
def test_no_other_error_for_what_is_cut_or_damaged(name: str) -> None:
    _, data = STREAMS[name]
    head = data[:220]
    for cut in range(len(head)):
        damaged = bytearray(data)
        damaged[cut] ^= 0xFF
        for each in (data[:cut], bytes(damaged), data[:cut] + b"\xff" * 8):
            try:
                read(each, "image/x")
            except UnsupportedTransferSyntax:
                continue
    assert not is_progressive(data)
