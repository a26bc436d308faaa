"""WADO-RS: bulk data by their URIs, of instance, series and study, whole and in ranges (PS3.18 10.4.1.1.5): part D."""

from __future__ import annotations

import struct

from conformance import codecs
from conformance.check import Level, NotSupported, check
from conformance.checks.retrieve import first_metadata
from conformance.checks.syntaxes import OCTETS, frame_syntax, native, parts, pixels_of
from conformance.client import Answer
from conformance.context import Context
from conformance.data import Sample, ramp, read

SERVICE = "WADO-RS"
SINGLE = "application/octet-stream"


def uri(c: Context, sample: Sample, tag: str) -> str:
    """The BulkDataURI of an element, as an absolute URL; empty where it has none."""
    found, _ = first_metadata(c, sample)
    given = str(found.get(tag, {}).get("BulkDataURI", ""))
    if given and not given.startswith(("http://", "https://")):
        # PS3.18 F.2.2: a relative reference is relative to the resource that was asked.
        given = f"{c.web.base}{sample.path}/{given.lstrip('./')}"
    return given


def fetch(c: Context, url: str) -> Answer:
    """The answer for a bulk value, as multipart; as a single part where that is refused."""
    answer = c.web.request("GET", url, accept=OCTETS)
    return c.web.request("GET", url, accept=SINGLE) if answer.status in (400, 406) else answer


def value(c: Context, answer: Answer) -> bytes:
    """The one value of an answer, single or multipart."""
    found = parts(c, answer)
    c.expect_equal("parts", len(found), 1, about=answer)
    return found[0].content if found else b""


@check("D16", "PS3.18 10.4.1.1.5", "each BulkDataURI gives the exact bytes of the value", service=SERVICE)
def by_uri(c: Context) -> None:
    judged = 0
    pixels = ("7FE00010", "PixelData")
    for name, (tag, keyword) in {
        "ct": pixels, "large": pixels, "odd": pixels, "pdf": ("00420011", "EncapsulatedDocument"),
    }.items():  # fmt: skip
        sample = c.sample("images", name)
        given = uri(c, sample, tag)
        if not given and tag != "7FE00010":
            continue
        c.expect(f"BulkDataURI of {tag}", given, about=f"GET {sample.path}/metadata")
        if given:
            answer = fetch(c, given)
            judged += 1
            sent = bytes(read(sample.file)[keyword].value)
            seen = value(c, answer)
            good = seen in (sent, sent[:-1]) if name == "odd" else seen == sent
            c.expect(f"the {len(sent)} bytes of {name}", good, len(seen), about=answer)
    if not judged:
        c.expect("a BulkDataURI for Pixel Data", False, about="GET …/metadata")


@check("D16p", "PS3.18 10.4.1.1.5", "a large private value by its URI, or inline", service=SERVICE)
def private(c: Context) -> None:
    sample = c.sample("images", "private")
    found, request = first_metadata(c, sample)
    element = found.get("00091012", {})
    c.expect("BulkDataURI or InlineBinary", {"BulkDataURI", "InlineBinary"} & set(element), element, about=request)
    if "BulkDataURI" in element:
        answer = fetch(c, uri(c, sample, "00091012"))
        c.expect_equal("the value", value(c, answer), bytes(range(64)) * 64, about=answer)


@check("D17", "PS3.18 10.4.1.1.5", "all bulk data of an instance, a series, a study", Level.CONDITIONAL,
       service=SERVICE)  # fmt: skip
def all_values(c: Context) -> None:
    sample = c.sample("images", "large")
    first = c.web.get(sample.path + "/bulkdata", accept=OCTETS)
    if first.status in (404, 405, 501):
        raise NotSupported(f"GET …/bulkdata gives {first.status}")
    pixels = bytes(sample.dataset.PixelData)
    for path in (sample.path, sample.series_path, sample.study_path):
        answer = c.web.get(path + "/bulkdata", accept=OCTETS)
        found = parts(c, answer)
        c.expect("the pixel data among the parts", pixels in [part.content for part in found], len(found), about=answer)
        c.expect("Content-Location in each part", found and all(part.header("Content-Location") for part in found),
                 about=answer)  # fmt: skip


@check("A40", "PS3.18 8.7.8.1", "of parts of several kinds each has a media type that was asked for, and is of it",
       Level.CONDITIONAL, service=SERVICE)  # fmt: skip
def kinds_of_parts(c: Context) -> None:
    pixels = ramp(8, 8, top=4000, dtype="u2")
    plain = c.maker.image("kinds native", c.maker.dataset("kinds", "1", 1), pixels, bits_stored=12)
    packed = c.maker.image("kinds RLE", c.maker.dataset("kinds", "2", 2), pixels, codecs.RLE, bits_stored=12)
    c.store([plain, packed])
    if plain.refused or packed.refused:
        raise NotSupported(f"the server refuses to store it: {plain.refused or packed.refused}")
    asked = 'multipart/related; type="image/dicom-rle", multipart/related; type="application/octet-stream";q=0.5'
    answer = c.web.get(plain.study_path + "/pixeldata", accept=asked)
    if answer.status in (404, 405, 406, 501):
        raise NotSupported(f"GET …/pixeldata gives {answer.status} for two kinds of parts")
    found = parts(c, answer)
    c.expect_equal("parts", len(found), 2, about=answer)
    for part in found:
        known = part.type in ("image/dicom-rle", SINGLE)
        c.expect("a part of a type that was asked for", known, part.header("Content-Type"), about=answer)
        try:
            seen = pixels_of(part.content, frame_syntax(part), plain) if known else b""
        except (ValueError, LookupError, struct.error) as error:
            c.expect(f"a frame that is {part.type}", False, error, about=answer)
            continue
        c.expect_equal(f"pixels of {part.type}", seen, pixels.tobytes(), about=answer)


@check("D18", "PS3.18 10.4.1.1.6", "all pixel data of an instance, a series, a study", Level.CONDITIONAL,
       service=SERVICE)  # fmt: skip
def pixel_data(c: Context) -> None:
    sample = c.sample("images", "frames")
    if c.web.get(sample.path + "/pixeldata", accept=OCTETS).status in (404, 405, 501):
        raise NotSupported("GET …/pixeldata is not there")
    whole = b"".join(native(sample))
    for path in (sample.path, sample.series_path):
        answer = c.web.get(path + "/pixeldata", accept=OCTETS)
        seen = b"".join(part.content for part in parts(c, answer))
        c.expect("the pixels of all frames", seen.rstrip(b"\0") == whole.rstrip(b"\0"), len(seen), about=answer)


@check("D19", "RFC 9110 14.2", "a range of a bulk value: 206 with Content-Range, or 200 with the whole",
       Level.CONDITIONAL, service=SERVICE)  # fmt: skip
def ranges(c: Context) -> None:
    sample = c.sample("images", "large")
    given, whole = uri(c, sample, "7FE00010"), native(sample)[0]
    supported = False
    for asked, wanted in (
        ("bytes=0-99", whole[:100]),
        ("bytes=1000-1999", whole[1000:2000]),
        ("bytes=-10", whole[-10:]),
    ):
        answer = c.web.request("GET", given, accept=SINGLE, headers={"Range": asked})
        if not c.expect_status(answer, 200, 206) or answer.status == 200:
            continue
        supported = True
        c.expect_equal("the bytes asked for", answer.body, wanted, about=answer)
        at = whole.find(wanted)
        right = (
            f"bytes {at}-{at + len(wanted) - 1}/{len(whole)}"
            if asked != "bytes=-10"
            else answer.header("Content-Range")
        )
        c.expect_equal("Content-Range", answer.header("Content-Range"), right, about=answer)
    if not supported and not any(not finding.good for finding in c.findings):
        raise NotSupported("ranges are answered by the whole")


@check("D20", "RFC 9110 15.5.17", "a range past the end: 416", Level.CONDITIONAL, service=SERVICE)
def unsatisfiable(c: Context) -> None:
    sample = c.sample("images", "large")
    given = uri(c, sample, "7FE00010")
    plain = c.web.request("GET", given, accept=SINGLE, headers={"Range": "bytes=0-9"})
    if plain.status != 206:
        raise NotSupported("ranges are answered by the whole")
    answer = c.web.request("GET", given, accept=SINGLE, headers={"Range": "bytes=99999999-"})
    c.expect_status(answer, 416)
