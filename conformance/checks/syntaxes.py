"""Transfer syntaxes over the web: asking for one, the defaults, and those that never leave (PS3.18 8.7.3): part A."""

from __future__ import annotations

from conformance import codecs
from conformance.check import Level, NotSupported, check
from conformance.client import Answer
from conformance.context import Context
from conformance.data import Sample, read
from conformance.multipart import Part, content_type

SERVICE = "WADO-RS"
OBJECT = 'multipart/related; type="application/dicom"'
OCTETS = 'multipart/related; type="application/octet-stream"'
NEVER = (codecs.ILE, codecs.EBE)


def parts(c: Context, answer: Answer, kind: str = "") -> list[Part]:
    """The parts of a 200 answer, having judged that it is one of multipart, rightly labelled; a single part as well."""
    if not c.expect_status(answer, 200):
        return []
    if answer.type != "multipart/related":
        found = [Part(answer.headers, answer.body)]
    else:
        try:
            found = answer.parts()
        except ValueError as error:
            c.expect("a multipart body (RFC 2046 5.1.1)", False, error, about=answer)
            return []
    if kind:
        c.expect(f"parts of {kind}", found and all(each.type == kind for each in found),
                 [each.type for each in found], about=answer)  # fmt: skip
    return found


def files(c: Context, answer: Answer) -> list[tuple[str, bytes]]:
    """The Part 10 files of an answer, with the Transfer Syntax UID that each names."""
    found = []
    for part in parts(c, answer, "application/dicom"):
        try:
            found.append((str(read(part.content).file_meta.TransferSyntaxUID), part.content))
        except ValueError as error:
            c.expect("a Part 10 file (PS3.10 7.1)", False, error, about=answer)
    return found


def native(sample: Sample) -> list[bytes]:
    """The frames of a sample as they are in Explicit VR Little Endian."""
    assert sample.pixels is not None
    return [frame.tobytes() for frame in sample.pixels]


def frame_syntax(part: Part) -> str:
    """The transfer syntax of a frame: as named, else the default of its media type (Table 8.7.3-6)."""
    defaults = {
        "application/octet-stream": codecs.ELE, "image/jpeg": codecs.LOSSLESS, "image/dicom-rle": codecs.RLE,
        "image/jls": codecs.JPEG_LS, "image/jp2": codecs.J2K, "image/jphc": codecs.HTJ2K, "image/jxl": codecs.JXL,
    }  # fmt: skip
    return part.parameters.get("transfer-syntax", defaults.get(part.type, ""))


def pixels_of(frame: bytes, syntax: str, sample: Sample) -> bytes:
    """The native bytes of a frame in a syntax. Raises LookupError where no decoder is installed."""
    assert sample.pixels is not None
    one = sample.pixels[0]
    if syntax in (codecs.ELE, codecs.UNCOMPRESSED):
        return frame
    if syntax == codecs.RLE:
        count = one.shape[0] * one.shape[1]
        return codecs.unpack_rle(frame, count, one.size // count, one.dtype.itemsize)
    return codecs.decode(frame, syntax).astype(one.dtype).tobytes()


@check("A06", "PS3.18 8.7.8.1", "an instance as */*: application/dicom", service=SERVICE)
def instance_as_anything(c: Context) -> None:
    found = files(c, c.web.get(c.sample("images", "ct").path, accept="*/*"))
    c.expect_equal("files", len(found), 1, about=f"GET {c.sample('images', 'ct').path}")


@check("A07", "PS3.18 8.7.8.1", "a frame as */*: the category's default", service=SERVICE)
def frame_as_anything(c: Context) -> None:
    sample = c.sample("images", "ct")
    answer = c.web.get(sample.path + "/frames/1", accept="*/*")
    for part in parts(c, answer, "application/octet-stream"):
        c.expect_equal("the frame", part.content, native(sample)[0], about=answer)


@check("A16", "PS3.18 8.7", "type=… quoted and unquoted mean the same", service=SERVICE)
def quoting(c: Context) -> None:
    path = c.sample("images", "ct").path
    quoted, bare = (c.web.get(path, accept=a) for a in (OBJECT, OBJECT.replace('"', "")))
    c.expect_equal("files", files(c, bare), files(c, quoted), about=bare)


@check("A17", "PS3.18 8.7", "white space around the semicolon of a parameter is allowed", service=SERVICE)
def spaces(c: Context) -> None:
    answer = c.web.get(c.sample("images", "ct").path, accept='multipart/related ;  type="application/dicom"')
    c.expect_equal("files", len(files(c, answer)), 1, about=answer)


@check("A18", "RFC 2387 3.1", 'type="*/*" of the Python client on frames', Level.ROBUSTNESS, service=SERVICE)
def any_part(c: Context) -> None:
    answer = c.web.get(c.sample("images", "ct").path + "/frames/1", accept='multipart/related; type="*/*"')
    c.expect_equal("parts", len(parts(c, answer)), 1, about=answer)


@check("A19", "PS3.18 8.7.3", "a frame as viewers ask: unquoted octet-stream with transfer-syntax=*", service=SERVICE)
def viewer(c: Context) -> None:
    for corpus, name in (("images", "ct"), ("syntaxes", "RLE Lossless")):
        sample = c.sample(corpus, name)
        accept = "multipart/related; type=application/octet-stream; transfer-syntax=*"
        answer = c.web.get(sample.path + "/frames/1", accept=accept)
        for part in parts(c, answer):
            syntax = part.parameters.get("transfer-syntax", answer.parameters.get("transfer-syntax", ""))
            syntax = syntax or frame_syntax(part)
            try:
                seen = pixels_of(part.content, syntax, sample)
            except ValueError as error:
                c.expect(f"a frame in the syntax it is labelled with ({syntax})", False, error, about=answer)
                continue
            c.expect_equal(f"pixels, in the syntax of the label ({syntax})", seen, native(sample)[0], about=answer)


@check("A21", "PS3.18 8.7.3", "Implicit VR Little Endian is never used on the web: 406", service=SERVICE)
def implicit(c: Context) -> None:
    for name in ("ct", "implicit"):
        path = c.sample("images", name).path
        c.expect_status(c.web.get(path, accept=f"{OBJECT}; transfer-syntax={codecs.ILE}"), 406)


@check("A22", "PS3.18 8.7.3", "Explicit VR Big Endian is never used on the web: 406", service=SERVICE)
def big_endian(c: Context) -> None:
    path = c.sample("images", "ct").path
    c.expect_status(c.web.get(path, accept=f"{OBJECT}; transfer-syntax={codecs.EBE}"), 406)


@check("A23", "PS3.18 8.7.3", "what is stored as Implicit VR leaves in another syntax, also for *", service=SERVICE)
def stored_implicit(c: Context) -> None:
    sample = c.sample("images", "implicit")
    for accept in (OBJECT, f"{OBJECT}; transfer-syntax=*"):
        answer = c.web.get(sample.path, accept=accept)
        for syntax, file in files(c, answer):
            c.expect("not Implicit VR Little Endian nor Big Endian", syntax not in NEVER, syntax, about=answer)
            c.expect_equal("pixels", bytes(read(file).PixelData), native(sample)[0], about=answer)


@check(
    "A24",
    "PS3.18 8.7.3.5.2",
    "no transfer-syntax: Explicit VR Little Endian, also of what is stored lossless",
    service=SERVICE,
)
def default_syntax(c: Context) -> None:
    for name in ("RLE Lossless", "JPEG-LS Lossless", "JPEG 2000 Lossless"):
        sample = c.sample("syntaxes", name) if name == "RLE Lossless" else c.stored("syntaxes").get(name)
        if sample is None or sample.refused:
            continue
        answer = c.web.get(sample.path, accept=OBJECT)
        for syntax, file in files(c, answer):
            c.expect_equal(f"transfer syntax of an object stored as {name}", syntax, codecs.ELE, about=answer)
            if syntax == codecs.ELE:
                c.expect_equal("pixels", bytes(read(file).PixelData), b"".join(native(sample)), about=answer)


@check("A25", "PS3.18 8.7.3", "what is held lossy only comes labelled with its true syntax", service=SERVICE)
def lossy(c: Context) -> None:
    sample = c.sample("syntaxes", "JPEG Baseline")
    answer = c.web.get(sample.path, accept=f"{OBJECT}; transfer-syntax=*")
    for syntax, file in files(c, answer):
        got = read(file)
        compressed = bytes(got.PixelData)[:4] == b"\xfe\xff\x00\xe0"
        c.expect("encapsulated pixels exactly where the syntax is a compressed one",
                 compressed == (syntax not in codecs.UNENCODED), syntax, about=answer)  # fmt: skip
        c.expect_equal("LossyImageCompression", got.get("LossyImageCompression"), "01", about=answer)


@check("A26", "PS3.18 8.7.8", "a transfer syntax that does not exist: 406", service=SERVICE)
def unknown_syntax(c: Context) -> None:
    sample = c.sample("images", "ct")
    c.expect_status(c.web.get(sample.path, accept=f"{OBJECT}; transfer-syntax=1.2.3.4.5"), 406)
    c.expect_status(c.web.get(sample.path + "/frames/1", accept=f"{OCTETS}; transfer-syntax=1.2.3.4.5"), 406)


@check("A28", "PS3.18 8.7.3.5.2", "transfer-syntax=*: some allowed syntax, with the right pixels", service=SERVICE)
def any_syntax(c: Context) -> None:
    for name in ("RLE Lossless", "empty-table", "many-fragments"):
        sample = c.sample("syntaxes", name)
        answer = c.web.get(sample.path, accept=f"{OBJECT}; transfer-syntax=*")
        for syntax, file in files(c, answer):
            c.expect("not Implicit VR Little Endian nor Big Endian", syntax not in NEVER, syntax, about=answer)
            got = read(file)
            if syntax == codecs.ELE:
                c.expect_equal("pixels", bytes(got.PixelData), b"".join(native(sample)), about=answer)
            elif syntax == sample.syntax:
                sent = read(sample.file)
                c.expect("encapsulated frames as they were sent",
                         bytes(got.PixelData) == bytes(sent.PixelData), about=answer)  # fmt: skip


@check(
    "A28s",
    "PS3.18 8.7.3.5.2",
    "transfer-syntax=* gives the stored syntax, bytes unchanged",
    Level.PRACTICE,
    service=SERVICE,
)
def stored_syntax(c: Context) -> None:
    for sample in c.stored("syntaxes").values():
        if sample.refused:
            continue
        answer = c.web.get(sample.path, accept=f"{OBJECT}; transfer-syntax=*")
        for syntax, file in files(c, answer):
            c.expect_equal(f"transfer syntax of {sample.name}", syntax, sample.syntax, about=answer)
            same = bytes(read(file).PixelData) == bytes(read(sample.file).PixelData)
            c.expect(f"Pixel Data of {sample.name} as it was sent", same, about=answer)


@check("A29", "PS3.18 8.7.3.5.1", "multipart: type= as the parts, boundary= legal, closing delimiter", service=SERVICE)
def labelled(c: Context) -> None:
    sample = c.sample("images", "frames")
    for path, accept in ((sample.path, OBJECT), (sample.path + "/frames/1,2", OCTETS), (sample.series_path, OBJECT)):
        answer = c.web.get(path, accept=accept)
        for part in parts(c, answer):
            whole = content_type(answer.parameters.get("type", ""))[0]
            c.expect_equal("type= of the whole", whole, part.type, about=answer)


@check("A31", "PS3.18 8.7.3.3", "each image type on frames: its default syntax, right pixels; else 406",
       Level.CONDITIONAL, service=SERVICE)  # fmt: skip
def image_types(c: Context) -> None:
    sample, served = c.sample("images", "implicit"), 0
    for kind in ("image/jpeg", "image/jls", "image/jp2", "image/dicom-rle", "image/jphc", "image/jxl"):
        answer = c.web.get(sample.path + "/frames/1", accept=f'multipart/related; type="{kind}"')
        if not c.expect_status(answer, 200, 406) or answer.status != 200:
            continue
        served += 1
        for part in parts(c, answer, kind):
            try:
                seen = pixels_of(part.content, frame_syntax(part), sample)
            except LookupError:
                continue
            except Exception as error:
                c.expect(f"a codestream of {frame_syntax(part)}", False, error, about=answer)
                continue
            # An 8-bit rendering would not do: these are pixel data of 12 bits.
            c.expect_equal(f"pixels of {kind}", seen, native(sample)[0], about=answer)
    if not served:
        raise NotSupported("every image type is answered by 406 for an uncompressed object")


@check("A32", "PS3.18 8.7.3.5", "a part in another syntax than its type's default says which", Level.CONDITIONAL,
       service=SERVICE)  # fmt: skip
def part_syntax(c: Context) -> None:
    sample = c.sample("syntaxes", "JPEG Baseline")
    answer = c.web.get(sample.path + "/frames/1", accept='multipart/related; type="image/jpeg"; transfer-syntax=*')
    if answer.status == 406:
        raise NotSupported("406: no image/jpeg of a frame stored as JPEG Baseline")
    for part in parts(c, answer, "image/jpeg"):
        c.expect("a JPEG codestream", part.content[:2] == b"\xff\xd8", part.content[:4], about=answer)
        if part.content == sample.frames[0] or part.content[:-1] == sample.frames[0]:
            label = part.parameters.get("transfer-syntax", answer.parameters.get("transfer-syntax", ""))
            c.expect_equal("transfer-syntax= of a JPEG Baseline frame", label, codecs.BASELINE, about=answer)


@check("A33", "PS3.18 8.7.2", "one instance as a single part", Level.CONDITIONAL, service=SERVICE)
def single_instance(c: Context) -> None:
    sample = c.sample("images", "ct")
    answer = c.web.get(sample.path, accept="application/dicom; transfer-syntax=*")
    if answer.status == 406:
        raise NotSupported("406: only multipart")
    if c.expect_status(answer, 200, 406):
        c.expect_equal("Content-Type", answer.type, "application/dicom", about=answer)
        c.expect_equal("SOP Instance UID", str(read(answer.body).SOPInstanceUID), sample.instance, about=answer)


@check("A34", "PS3.18 8.7.2", "one frame as a single part", Level.CONDITIONAL, service=SERVICE)
def single_frame(c: Context) -> None:
    sample = c.sample("images", "ct")
    answer = c.web.get(sample.path + "/frames/1", accept="application/octet-stream")
    if answer.status == 406:
        raise NotSupported("406: only multipart")
    if c.expect_status(answer, 200, 406) and answer.type != "multipart/related":
        c.expect_equal("the frame", answer.body, native(sample)[0], about=answer)


@check("A41", "PS3.18 8.7.3", "every compressed syntax asked for is right, or 406", Level.CONDITIONAL, service=SERVICE)
def every_syntax(c: Context) -> None:
    sample, served = c.sample("images", "implicit"), []
    for syntax, name in codecs.NAMES.items():
        if syntax in (*NEVER, *codecs.LOSSY):
            continue
        answer = c.web.get(sample.path, accept=f"{OBJECT}; transfer-syntax={syntax}")
        if not c.expect_status(answer, 200, 406) or answer.status == 406:
            continue
        for seen, file in files(c, answer):
            c.expect_equal("transfer syntax", seen, syntax, about=answer)
            served.append(name)
            got = read(file)
            if seen in codecs.UNENCODED:
                c.expect_equal("pixels", bytes(got.PixelData), native(sample)[0], about=answer)
    c.expect("Explicit VR Little Endian at least (Table 8.7.3-2)", codecs.NAMES[codecs.ELE] in served, served,
             about=f"GET {sample.path}")  # fmt: skip
