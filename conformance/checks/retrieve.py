"""WADO-RS: instances and metadata come back as they were stored (PS3.18 10.4): part D."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from conformance import codecs
from conformance.check import Blocked, Level, NotSupported, check
from conformance.checks.syntaxes import OBJECT, files, native, parts
from conformance.client import XML, Web, xml
from conformance.context import Context, text, values
from conformance.data import Sample, read, same_elements

SERVICE = "WADO-RS"
IGNORED = ("OriginalAttributesSequence", "InstanceCoercionDateTime", "LossyImageCompression")


def stored(c: Context, corpus: str) -> list[Sample]:
    """The samples of a corpus that the server took."""
    return [sample for sample in c.stored(corpus).values() if not sample.refused]


def first_metadata(c: Context, sample: Sample) -> tuple[dict[str, Any], str]:
    """The metadata of one instance, judged to be one object, and the request in words."""
    answer = c.web.get(sample.path + "/metadata")
    found = c.objects(answer)
    c.expect_equal("objects", len(found), 1, about=answer)
    return (found[0] if found else {}), answer.request


@check(
    "D01", "PS3.18 10.4.1.1.1", "study, series, instance: a part for each instance, no more, no less", service=SERVICE
)
def instances(c: Context) -> None:
    alpha = [sample for name, sample in c.stored("query").items() if name.startswith("alpha")]
    one = alpha[0]
    series = {sample.instance for sample in alpha if sample.series == one.series}
    for path, wanted in (
        (one.study_path, {sample.instance for sample in alpha}), (one.series_path, series), (one.path, {one.instance}),
    ):  # fmt: skip
        answer = c.web.get(path, accept=OBJECT)
        found = [str(read(file).SOPInstanceUID) for _, file in files(c, answer)]
        c.expect_equal("SOP Instance UIDs", sorted(found), sorted(wanted), about=answer)


@check("D02", "PS3.18 10.4.3", "unknown, or under another parent: 404", service=SERVICE)
def unknown(c: Context) -> None:
    sample, other = c.sample("images", "ct"), c.sample("query", "beta/CR/1")
    none = c.maker.uid("nothing")
    for path in (
        f"/studies/{none}", f"{sample.study_path}/series/{none}", f"{sample.series_path}/instances/{none}",
        f"/studies/{other.study}/series/{sample.series}/instances/{sample.instance}",
        f"/studies/{sample.study}/series/{other.series}/instances/{sample.instance}",
    ):  # fmt: skip
        c.expect_status(c.web.get(path, accept=OBJECT), 404)
        c.expect_status(c.web.get(path + "/metadata"), 404)


@check("D03", "PS3.18 10.4.3", "an instance that was deleted: 410 or 404", Level.CONDITIONAL, service=SERVICE)
def deleted(c: Context) -> None:
    sample = c.maker.sample("deleted", c.maker.dataset("deleted", "1", 1))
    c.store([sample])
    if c.web.request("DELETE", sample.path).status not in (200, 202, 204):
        raise NotSupported("DELETE of an instance is not offered (the standard has none)")
    c.expect_status(c.web.get(sample.path, accept=OBJECT), 404, 410)


@check("D06", "PS3.10 7.1", "each part is a Part 10 file whose meta information is true", service=SERVICE)
def part10(c: Context) -> None:
    for name in ("ct", "implicit", "deflated", "private"):
        sample = c.sample("images", name)
        answer = c.web.get(sample.path, accept=OBJECT)
        for _, file in files(c, answer):
            ds = read(file)
            meta = ds.file_meta
            uid = str(ds.get("SOPInstanceUID"))  # it reads right in the data set's own transfer syntax alone
            c.expect_equal(
                "SOP Instance UID, read by Transfer Syntax UID (0002,0010)", uid, sample.instance, about=answer
            )
            seen = (str(meta.MediaStorageSOPClassUID), str(meta.MediaStorageSOPInstanceUID))
            c.expect_equal("media storage UIDs", seen, (sample.sop_class, sample.instance), about=answer)
            c.expect("Implementation Class UID (0002,0012)", "ImplementationClassUID" in meta, about=answer)
            length = int.from_bytes(file[140:144], "little")
            tag = int.from_bytes(file[144 + length : 146 + length], "little")
            deflated = str(meta.TransferSyntaxUID) == codecs.DEFLATED
            c.expect("group length (0002,0000) leads to the data set", tag == 8 or deflated, tag, about=answer)


@check("D07", "PS3.18 10.4", "every element comes back as it was stored", service=SERVICE)
def elements(c: Context) -> None:
    judged = 0
    for corpus in ("images", "model", "charsets"):
        for sample in stored(c, corpus):
            answer = c.web.get(sample.path, accept=OBJECT)
            for _, file in files(c, answer):
                changes = same_elements(read(sample.file), read(file), IGNORED)
                judged += 1
                c.expect(f"{sample.name}: every element equal", not changes, "; ".join(changes), about=answer)
    if not judged:
        raise Blocked("nothing could be retrieved")


@check("D09", "PS3.5 7.8", "private elements stay, with their creator, in objects and metadata", service=SERVICE)
def private(c: Context) -> None:
    sample = c.sample("images", "private")
    for _, file in files(c, c.web.get(sample.path, accept=OBJECT)):
        got = read(file)
        c.expect_equal("(0009,1010)", str(got[0x00091010].value) if 0x00091010 in got else None, "private text",
                       about=f"GET {sample.path}")  # fmt: skip
    found, request = first_metadata(c, sample)
    c.expect_equal("00090010", values(found, "00090010"), ["ZZ CONFORMANCE"], about=request)
    c.expect("00091010", "00091010" in found, sorted(found), about=request)


@check("D09u", "PS3.4 B.4.1", "an instance of an unknown SOP class comes back", Level.CONDITIONAL, service=SERVICE)
def unknown_class(c: Context) -> None:
    sample = c.sample("images", "unknown")
    for _, file in files(c, c.web.get(sample.path, accept=OBJECT)):
        c.expect_equal("SOP Class UID", str(read(file).SOPClassUID), sample.sop_class, about=f"GET {sample.path}")


@check("D12", "PS3.18 10.4.1.1.2", "metadata of study, series and instance: an object for each instance",
       service=SERVICE)  # fmt: skip
def metadata(c: Context) -> None:
    alpha = [sample for name, sample in c.stored("query").items() if name.startswith("alpha")]
    one = alpha[0]
    series = {sample.instance for sample in alpha if sample.series == one.series}
    for path, wanted in (
        (one.study_path, {sample.instance for sample in alpha}), (one.series_path, series), (one.path, {one.instance}),
    ):  # fmt: skip
        answer = c.web.get(path + "/metadata")
        found = sorted(text(each, "00080018") for each in c.objects(answer))
        c.expect_equal("SOP Instance UIDs", found, sorted(wanted), about=answer)


@check("D12v", "PS3.18 10.4.1.1.2", "metadata has every attribute of the instance, with its values", service=SERVICE)
def metadata_values(c: Context) -> None:
    for name in ("ct", "report", "frames"):
        sample = c.sample("images", name)
        found, request = first_metadata(c, sample)
        sent = read(sample.file)
        missing = [str(each.tag) for each in sent if f"{each.tag:08X}" not in found]
        c.expect(f"{name}: every attribute that was stored", not missing, missing, about=request)
        for keyword in ("StudyInstanceUID", "Modality", "Rows", "BitsStored", "Manufacturer"):
            if keyword in sent:
                tag = f"{sent[keyword].tag:08X}"
                c.expect_equal(keyword, text(found, tag), str(sent[keyword].value), about=request)


@check("D13", "PS3.18 10.4.1.1.2", "metadata holds no pixels: Pixel Data is a BulkDataURI", service=SERVICE)
def no_pixels(c: Context) -> None:
    for name in ("ct", "large", "frames"):
        found, request = first_metadata(c, c.sample("images", name))
        element = found.get("7FE00010", {})
        good = "BulkDataURI" in element and "InlineBinary" not in element
        c.expect("7FE00010 with BulkDataURI, without InlineBinary", good, str(element)[:200], about=request)


@check("D14", "PS3.18 10.4.1.1.2", "metadata has no elements of group 0002", Level.ROBUSTNESS, service=SERVICE)
def no_meta(c: Context) -> None:
    found, request = first_metadata(c, c.sample("images", "ct"))
    meta = [tag for tag in found if tag.startswith("0002")]
    c.expect("no 0002xxxx", not meta and found, meta, about=request)


@check("D15", "PS3.19 A.1", "metadata as XML: a Native DICOM Model for each instance", Level.CONDITIONAL,
       service=SERVICE)  # fmt: skip
def as_xml(c: Context) -> None:
    sample = c.sample("query", "alpha/CT/1")
    answer = c.web.get(sample.series_path + "/metadata", accept=f'multipart/related; type="{XML}"')
    if answer.status == 406:
        raise NotSupported("406: no XML")
    found = []
    for part in parts(c, answer, XML):
        try:
            root = xml(part.content)
        except ValueError as error:
            c.expect("well-formed XML", False, error, about=answer)
            continue
        c.expect_equal("root element", root.tag.rpartition("}")[2], "NativeDicomModel", about=answer)
        attributes = [each for each in root if each.tag.endswith("DicomAttribute")]
        c.expect("each DicomAttribute has tag and vr, in order", attributes
                 and all(each.get("vr") and each.get("tag") for each in attributes)
                 and [each.get("tag") for each in attributes] == sorted(each.get("tag", "") for each in attributes),
                 about=answer)  # fmt: skip
        found += [value.text for each in attributes if each.get("tag") == "00080018" for value in each]
    wanted = [one.instance for one in c.stored("query").values() if one.series == sample.series]
    c.expect_equal("SOP Instance UIDs", sorted(map(str, found)), sorted(wanted), about=answer)


@check("D30", "PS3.18 8.7.3.5.2", "deflated, RLE and encapsulated uncompressed come in the default syntax",
       service=SERVICE)  # fmt: skip
def default_syntax(c: Context) -> None:
    chosen = [c.stored("images").get("deflated"), c.stored("syntaxes").get("RLE Lossless"),
              c.stored("syntaxes").get("Encapsulated Uncompressed"), c.stored("syntaxes").get("fragments")]  # fmt: skip
    judged = 0
    for sample in chosen:
        if sample is None or sample.refused:
            continue
        answer = c.web.get(sample.path, accept=OBJECT)
        for syntax, file in files(c, answer):
            judged += 1
            c.expect_equal(f"transfer syntax of {sample.name}", syntax, codecs.ELE, about=answer)
            c.expect_equal("pixels", bytes(read(file).PixelData), b"".join(native(sample)), about=answer)
    if not judged:
        raise NotSupported("none of them is stored")


@check("D32", "PS3.3 C.7.6.3.1.2", "decompressed colour: photometric interpretation and planes fit the pixels",
       service=SERVICE)  # fmt: skip
def colour(c: Context) -> None:
    sample = c.sample("syntaxes", "colour")
    answer = c.web.get(sample.path, accept=OBJECT)
    for syntax, file in files(c, answer):
        got = read(file)
        c.expect_equal("transfer syntax", syntax, codecs.ELE, about=answer)
        c.expect_equal("PhotometricInterpretation", got.PhotometricInterpretation, "RGB", about=answer)
        seen = bytes(got.PixelData)
        if got.get("PlanarConfiguration") == 1:
            third = len(seen) // 3
            seen = bytes(value for n in range(third) for value in (seen[n], seen[third + n], seen[2 * third + n]))
        c.expect_equal("pixels, as PlanarConfiguration orders them", seen, native(sample)[0], about=answer)


@check("D51", "PS3.18 8.7.8", "a study of many syntaxes in one: every part in it, or 406 (206)", service=SERVICE)
def mixed(c: Context) -> None:
    one = stored(c, "images")[0]
    answer = c.web.get(one.study_path, accept=f"{OBJECT}; transfer-syntax={codecs.RLE}")
    if c.expect_status(answer, 200, 206, 406) and answer.status != 406:
        for part in answer.parts():
            got = read(part.content)
            has = any(keyword in got for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"))
            syntax = str(got.file_meta.TransferSyntaxUID)
            c.expect(
                "pixel data in RLE; no other part with pixels", syntax == codecs.RLE or not has, syntax, about=answer
            )


@check("D53", "PS3.18 10.4", "fifty requests in a row of different frames give the right bytes", Level.ROBUSTNESS,
       service=SERVICE)  # fmt: skip
def many(c: Context) -> None:
    sample = c.sample("images", "frames")
    accept = 'multipart/related; type="application/octet-stream"'
    web = c.web

    def fetch(number: int) -> tuple[int, bytes]:
        own = Web(web.base, headers=web.secrets, timeout_s=web.timeout_s, context=web.context)
        try:
            answer = own.get(f"{sample.path}/frames/{number % 3 + 1}", accept=accept)
            return answer.status, answer.parts()[0].content if answer.status == 200 else b""
        finally:
            own.close()

    with ThreadPoolExecutor(10) as pool:
        found = list(pool.map(fetch, range(50)))
    good = [seen == (200, native(sample)[number % 3]) for number, seen in enumerate(found)]
    c.expect("all 200 with the right frame", all(good), f"{good.count(False)} of 50 wrong",
             about=f"GET {sample.path}/frames/1..3, ten at a time")  # fmt: skip
