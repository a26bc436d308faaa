"""WADO-RS: frames, native and compressed, of every organisation (PS3.18 10.4.1.1.6, 8.7.3.3): part D."""

from __future__ import annotations

import numpy as np

from conformance.check import Level, NotSupported, check
from conformance.checks.retrieve import stored
from conformance.checks.syntaxes import OCTETS, frame_syntax, native, parts, pixels_of
from conformance.codecs import ELE, RLE
from conformance.context import Context
from conformance.data import MF_WORD, Sample, ramp

SERVICE = "WADO-RS"
ANY = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'


def expect_frames(c: Context, sample: Sample, numbers: str = "", wanted: list[bytes] | None = None) -> None:
    """Judge native frames of a sample, byte for byte; all of them unless numbers are given."""
    right = native(sample) if wanted is None else wanted
    numbers = numbers or ",".join(str(number + 1) for number in range(len(right)))
    answer = c.web.get(f"{sample.path}/frames/{numbers}", accept=OCTETS)
    found = parts(c, answer, "application/octet-stream")
    c.expect_equal("parts", len(found), len(right), about=answer)
    for number, (part, frame) in enumerate(zip(found, right, strict=False), 1):
        c.expect_equal(f"part {number} of {sample.name}", part.content, frame, about=answer)


@check("D21", "PS3.18 10.4.1.1.6", "frame 1 of a single-frame image", service=SERVICE)
def single(c: Context) -> None:
    expect_frames(c, c.sample("images", "ct"))


@check("D22", "PS3.18 10.4.1.1.6", "several frames come in the order in which they were asked", service=SERVICE)
def ordered(c: Context) -> None:
    sample = c.sample("images", "frames")
    one, two, three = native(sample)
    expect_frames(c, sample, "3,1,2", [three, one, two])
    expect_frames(c, sample, "2%2C1", [two, one])


@check("D23", "PS3.18 10.4.1.1.6", "what is no list of frame numbers: 400", service=SERVICE)
def bad_lists(c: Context) -> None:
    path = c.sample("images", "frames").path
    for numbers in ("0", "x", "-1"):
        c.expect_status(c.web.get(f"{path}/frames/{numbers}", accept=OCTETS), 400, 404)
    c.expect_status(c.web.get(f"{path}/frames/1,,2", accept=OCTETS), 400)


@check("D24", "PS3.18 10.4.3", "a frame beyond the last: 404 (400)", service=SERVICE)
def beyond(c: Context) -> None:
    c.expect_status(c.web.get(c.sample("images", "frames").path + "/frames/4", accept=OCTETS), 404, 400)
    c.expect_status(c.web.get(c.sample("images", "frames").path + "/frames/1,4", accept=OCTETS), 404, 400)


@check("D25", "PS3.18 10.4.3", "frames of an object without pixels: 404 (400, 406)", service=SERVICE)
def no_pixels(c: Context) -> None:
    c.expect_status(c.web.get(c.sample("images", "report").path + "/frames/1", accept=OCTETS), 404, 400, 406)


@check("D26", "PS3.18 8.7.3.3.2", "native frames: rows x columns x samples, little endian, without padding",
       service=SERVICE)  # fmt: skip
def uncompressed(c: Context) -> None:
    for name in (
        "signed12",
        "odd",
        "frames",
        "colour",
        "colour-frames",
        "large",
        "monochrome1",
        "implicit",
        "deflated",
    ):
        expect_frames(c, c.sample("images", name))


@check("D27", "PS3.5 8.1.1", "frames of one bit a pixel: each aligned to its own first byte, bits right",
       service=SERVICE)  # fmt: skip
def bits(c: Context) -> None:
    for name in ("bits", "segmentation"):
        sample = c.sample("images", name)
        assert sample.pixels is not None
        answer = c.web.get(f"{sample.path}/frames/1,2,3", accept=OCTETS)
        found = parts(c, answer, "application/octet-stream")
        c.expect_equal("parts", len(found), 3, about=answer)
        size = sample.pixels[0].size
        for part, pixels in zip(found, sample.pixels, strict=False):
            seen = np.unpackbits(np.frombuffer(part.content, np.uint8), bitorder="little")[:size]
            c.expect_equal(f"length of a frame of {name}", len(part.content), -(-size // 8), about=answer)
            c.expect(f"bits of {name}, least significant first", np.array_equal(seen, pixels.ravel()), about=answer)


@check("D28", "PS3.18 8.7.3.3", "compressed frames are bare codestreams: no items, no offset table", service=SERVICE)
def codestreams(c: Context) -> None:
    judged = 0
    for sample in stored(c, "syntaxes"):
        answer = c.web.get(
            f"{sample.path}/frames/2,3" if len(sample.frames) > 2 else f"{sample.path}/frames/1", accept=ANY
        )
        if answer.status == 406:
            continue
        wanted = sample.frames[1:3] if len(sample.frames) > 2 else sample.frames[:1]
        for part, frame in zip(parts(c, answer), wanted, strict=False):
            syntax = part.parameters.get("transfer-syntax", answer.parameters.get("transfer-syntax", ""))
            c.expect(
                "no item tag at the beginning", part.content[:4] != b"\xfe\xff\x00\xe0", part.content[:8], about=answer
            )
            if syntax == sample.syntax:
                judged += 1
                same = part.content[: len(frame)] == frame and len(part.content) - len(frame) in (0, 1)
                c.expect(f"the codestream of {sample.name} as it was stored", same, len(part.content), about=answer)
    if not judged:
        raise NotSupported("no frame comes in the syntax in which it was stored")


@check("D29", "PS3.5 A.4", "frames in several fragments, with every kind of offset table", service=SERVICE)
def fragments(c: Context) -> None:
    for name in ("empty-table", "many-fragments", "extended-table", "fragments"):
        expect_frames(c, c.sample("syntaxes", name))


@check("D29s", "PS3.5 A.4", "each lossless syntax: frames decode to the right pixels", Level.CONDITIONAL,
       service=SERVICE)  # fmt: skip
def decoded(c: Context) -> None:
    judged = 0
    for sample in stored(c, "syntaxes"):
        if "LossyImageCompression" in sample.dataset:
            continue
        answer = c.web.get(f"{sample.path}/frames/1", accept=OCTETS)
        if not c.expect_status(answer, 200, 406) or answer.status == 406:
            continue
        for part in parts(c, answer):
            syntax = frame_syntax(part) or ELE
            judged += 1
            try:
                seen = pixels_of(part.content, syntax, sample)
            except LookupError:
                continue
            c.expect_equal(f"pixels of {sample.name}", seen, native(sample)[0], about=answer)
    if not judged:
        raise NotSupported("no compressed object can be had as native frames")


@check("D31", "PS3.3 C.7.6.24", "float and double float pixels, and signed ones of 12 bits in 16", service=SERVICE)
def floats(c: Context) -> None:
    for name in ("float", "double", "signed12"):
        expect_frames(c, c.sample("images", name))


@check("D54", "PS3.18 8.5", "a codestream that cannot be decoded: 4xx, and the frame beside it is given",
       Level.ROBUSTNESS, service=SERVICE, last=1)  # fmt: skip
def undecodable(c: Context) -> None:
    ds = c.maker.dataset("undecodable", "s", 1, MF_WORD)
    sample = c.maker.image("undecodable", ds, ramp(24, 20, 2, top=4000, dtype="u2"), RLE, bits_stored=12)
    frame = sample.frames[0]
    sample.file = sample.file.replace(frame, b"\xff" * len(frame), 1)  # an RLE header of 4294967295 segments
    c.store([sample])
    if sample.refused:
        raise NotSupported(f"it is refused when it is stored: {sample.refused}")
    if c.web.get(f"{sample.path}/frames/2", accept=OCTETS).status != 200:
        raise NotSupported("no compressed object can be had as native frames")
    answer = c.web.get(f"{sample.path}/frames/1", accept=OCTETS)
    c.expect("status 4xx", 400 <= answer.status < 500, about=answer)
    answer = c.web.get(f"{sample.path}/frames/1/rendered", accept="image/jpeg")
    c.expect("status 4xx (501: frames are not rendered)", 400 <= answer.status < 500 or answer.status == 501,
             about=answer)  # fmt: skip
    expect_frames(c, sample, "2", [native(sample)[1]])
