"""What is too much, and what is not there now: 406, 413, 206 and 503 where they are due (PS3.18 8.5, 8.7.8, 10.4.3)."""

from __future__ import annotations

import numpy as np

from conformance import codecs
from conformance.check import Blocked, Level, NotApplicable, NotSupported, check
from conformance.checks.search_paging import own
from conformance.checks.syntaxes import OBJECT
from conformance.context import Context, text
from conformance.data import MF_BYTE, SC, Sample, describe, part10, ramp, read

FRAMES, SIDE = 257, 4096
"""Together more bytes than the length of a value can say (2^32 - 2)."""


def vast(c: Context) -> Sample:
    """An object of some 160 kB whose pixels take more than 4 GiB: one empty codestream for every frame."""
    ds = c.maker.dataset("vast", "1", 1, MF_BYTE)
    plane = np.zeros((1, SIDE, SIDE), np.uint8)
    describe(ds, plane, 8, "")
    try:
        (frame,) = codecs.encode_frames(plane, codecs.JPEG_LS, ds)
    except LookupError as error:
        raise NotApplicable(str(error)) from error
    ds.NumberOfFrames = FRAMES
    value, _ = codecs.encapsulated([frame] * FRAMES, 1, "basic")
    ds.add_new("PixelData", "OB", value)
    ds["PixelData"].is_undefined_length = True
    return Sample("vast", ds, part10(ds, codecs.JPEG_LS), codecs.JPEG_LS)


@check("A27", "PS3.18 8.7.8.1 note 1", "what would not fit into a value without compression: 406", Level.ROBUSTNESS,
       service="negotiation", last=2)  # fmt: skip
def too_long_for_a_value(c: Context) -> None:
    sample = vast(c)
    c.store([sample])
    if sample.refused:
        raise NotSupported(f"the server refuses to store it: {sample.refused}")
    answer = c.web.get(sample.path, accept=f"{OBJECT}; transfer-syntax={codecs.ELE}")
    c.expect_status(answer, 406, 413)
    stored = c.web.get(sample.path, accept=f"{OBJECT}; transfer-syntax=*")
    if c.expect_status(stored, 200, 406) and stored.status == 200:
        syntax = str(read(stored.parts()[0].content).file_meta.TransferSyntaxUID)
        c.expect("as it is stored it can be had", syntax not in codecs.UNENCODED, syntax, about=stored)
    c.expect_status(c.web.get(sample.path + "/metadata"), 200)


@check("B14", "RFC 9110 10.2.3", "an answer that says to come later says when: 503 with Retry-After", Level.ROBUSTNESS,
       service="common", last=1)  # fmt: skip
def retry_after(c: Context) -> None:
    for _ in range(3):
        c.web.get("/studies", "limit=1")
    found = c.web.unavailable
    if not found:
        raise NotApplicable("no request of this run was answered by 503")
    for answer in found:
        c.expect("Retry-After", answer.header("Retry-After"), about=answer)


@check("C61", "PS3.18 10.6.3.1", "a limit above what the server gives: all, or a Warning, or 413", Level.CONDITIONAL,
       service="QIDO-RS")  # fmt: skip
def limit_above(c: Context) -> None:
    answer = c.web.get("/studies", own(c, "limit=999999999"))
    found = c.objects(answer, 200, 413)
    if answer.status == 200:
        missing = 5 - len({text(each, "0020000D") for each in found})
        said = answer.header("Warning").startswith("299 ") and f"{missing} " in answer.header("Warning")
        c.expect("five studies, or a Warning 299 with the number of the others", missing == 0 or said,
                 f"{missing} missing", about=answer)  # fmt: skip


@check("D04", "PS3.18 10.4.3", "a study of which not every instance can be had so: 206 for a part of it, 200 for all",
       Level.CONDITIONAL, service="WADO-RS")  # fmt: skip
def part_of_a_study(c: Context) -> None:
    samples = [c.maker.image("part native", c.maker.dataset("part", "1", 1, SC), ramp(8, 8))]
    try:
        lossy = c.maker.dataset("part", "2", 2, SC, LossyImageCompression="01", LossyImageCompressionRatio="2")
        samples.append(c.maker.image("part lossy", lossy, ramp(8, 8), codecs.BASELINE))
    except LookupError as error:
        raise NotApplicable(str(error)) from error
    c.store(samples)
    if any(sample.refused for sample in samples):
        raise Blocked("the data of this check could not be stored")
    # A lossy image can be had as it is or, decoded, without loss; nobody can be asked to lose it once more.
    judged = 0
    for syntax in ("*", codecs.RLE, codecs.ELE, codecs.BASELINE):
        answer = c.web.get(samples[0].study_path, accept=f"{OBJECT}; transfer-syntax={syntax}")
        if not c.expect_status(answer, 200, 206, 406) or answer.status == 406:
            continue
        judged += 1
        count = len({str(read(part.content).SOPInstanceUID) for part in answer.parts()})
        wanted = "both instances with 200" if answer.status == 200 else "one instance with 206"
        c.expect(wanted, count == (2 if answer.status == 200 else 1), f"{count} instances", about=answer)
    if not judged:
        raise NotSupported("every transfer syntax is answered by 406 for the whole study")
