"""The objects that a run stores, in groups that are stored when the first check needs them: CORPORA."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
from pydicom import Dataset

from conformance import codecs
from conformance.data import (
    CR,
    CT,
    FAMILY,
    GSPS,
    MF_BIT,
    MF_BYTE,
    MF_COLOUR,
    MF_WORD,
    MR,
    PARAMETRIC,
    PDF,
    RAW,
    SC,
    SEG,
    SR,
    Maker,
    Sample,
    element,
    items,
    ramp,
    with_elements,
)

JAPANESE = "ZZYamada^Tarou=山田^太郎=やまだ^たろう"
REQUESTED = "ZZSPS1"


def query(maker: Maker) -> list[Sample]:
    """Five studies of one accession number that differ in everything a search can match."""
    made: list[Sample] = []

    def add(study: str, modality: str, series: int, number: int, sop_class: str, **attributes: object) -> None:
        ds = maker.dataset(study, f"{modality}{series}", number, sop_class, Modality=modality, **attributes)
        ds.AccessionNumber = maker.accession
        ds.SeriesNumber, ds.InstanceNumber = series, number
        name = f"{study}/{modality}/{number}"
        if sop_class == SR:
            made.append(maker.sample(name, report(ds)))
        else:
            made.append(maker.image(name, ds, ramp(8, 8, top=4000, dtype="u2"), bits_stored=12))

    alpha = {"PatientName": f"{FAMILY}^Alpha^Ann", "StudyDate": "20240105", "StudyTime": "080000", "StudyID": "ZZA1"}
    for number in (1, 2, 3):
        add("alpha", "CT", 1, number, CT, SeriesDescription="axial", **alpha)
    add("alpha", "SR", 2, 1, SR, **alpha)
    request = Dataset()
    request.RequestedProcedureID, request.ScheduledProcedureStepID = "ZZRP1", REQUESTED
    add("beta", "CR", 7, 1, CR, PatientName=f"{FAMILY}^Beta", StudyDate="20240131", StudyTime="100000.500000",
        StudyID="ZZB1", RequestAttributesSequence=[request], PerformedProcedureStepStartDate="20240131",
        PerformedProcedureStepStartTime="095900")  # fmt: skip
    add("gamma", "MR", 1, 1, MR, PatientName=f"{FAMILY}^Gamma", StudyDate="20240201", StudyTime="120000",
        StudyID="", ReferringPhysicianName="ZZRef^Gamma", PatientID=maker.patient_id("Gamma").upper())  # fmt: skip
    add("delta", "CT", 1, 1, CT, PatientName="", StudyDate="20240115", StudyTime="143000", StudyID="ZZD1")
    add("epsilon", "OT", 1, 1, SC, SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName=JAPANESE,
        StudyDate="20231231", StudyTime="235959", StudyID="ZZE1")  # fmt: skip
    return made


def report(ds: Dataset) -> Dataset:
    """The data set as a small Enhanced SR (PS3.3 A.35.2) with one text."""

    def code(value: str, scheme: str, meaning: str) -> Dataset:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
        return item

    ds.CompletionFlag, ds.VerificationFlag, ds.ContentDate, ds.ContentTime = "COMPLETE", "UNVERIFIED", "20240105", "09"
    ds.ReferencedPerformedProcedureStepSequence, ds.PerformedProcedureCodeSequence = [], []
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    ds.ConceptNameCodeSequence = [code("11528-7", "LN", "Radiology Report")]
    item = Dataset()
    item.RelationshipType, item.ValueType, item.TextValue = "CONTAINS", "TEXT", "Nothing but a conformance test."
    item.ConceptNameCodeSequence = [code("121071", "DCM", "Finding")]
    ds.ContentSequence = [item]
    return ds


def images(maker: Maker) -> list[Sample]:
    """One object for each way in which pixels, or none, can lie in an object that needs no codec."""
    made: list[Sample] = []

    def add(name: str, pixels: object, sop_class: str, syntax: str = codecs.ELE, **options: object) -> Sample:
        ds = maker.dataset("images", name, 1, sop_class, SeriesNumber=len(made) + 1)
        made.append(maker.image(name, ds, pixels, syntax, **options))  # type: ignore[arg-type]
        return made[-1]

    signed = ramp(16, 20, top=1500, low=-1024, dtype="i2")
    ct = maker.dataset("images", "ct", 1, CT, Modality="CT", SeriesNumber=1)
    ct.RescaleSlope, ct.RescaleIntercept, ct.WindowCenter, ct.WindowWidth = "1", "0", "40", "400"
    made.append(maker.image("ct", ct, signed, bits_stored=16))
    add("signed12", ramp(16, 20, top=2000, low=-2000, dtype="i2"), SC, bits_stored=12)
    add("implicit", ramp(16, 16, top=4000, dtype="u2"), SC, codecs.ILE, bits_stored=12)
    add("deflated", ramp(16, 16, top=4000, dtype="u2"), SC, codecs.DEFLATED, bits_stored=12)
    add("odd", ramp(5, 5), SC)
    add("frames", ramp(12, 10, 3), MF_BYTE)
    add("colour", np.stack([ramp(16, 16), ramp(16, 16, top=128), ramp(16, 16, top=64)], -1), SC)
    add("colour-frames", np.stack([ramp(8, 8, 2), ramp(8, 8, 2, top=128), ramp(8, 8, 2, top=64)], -1), MF_COLOUR)
    add("bits", (np.arange(75).reshape(3, 5, 5) % 3 == 0), MF_BIT)
    seg = maker.dataset("images", "segmentation", 1, SEG, Modality="SEG", SeriesNumber=50, SegmentationType="BINARY")
    made.append(maker.image("segmentation", seg, np.arange(63).reshape(3, 3, 7) % 4 == 1))
    add("float", ramp(6, 6, top=3).astype("f4") / 7, PARAMETRIC)
    add("double", ramp(6, 6, top=3).astype("f8") / 7, PARAMETRIC)
    add("monochrome1", ramp(16, 16), SC, photometric="MONOCHROME1")
    wide = add("large", ramp(256, 256, top=4000, dtype="u2"), SC, bits_stored=12)
    wide.dataset.WindowCenter = None
    private = add("private", ramp(8, 8), SC)
    with_elements(private, [
        (0x00091010, "LO", b"private text"), (0x00090010, "LO", b"ZZ CONFORMANCE"), (0x00091011, "UN", b"\1\2\3\4"),
        (0x00091012, "OB", bytes(range(64)) * 64), (0x00091013, "SQ", items(element(0x00080100, "SH", b"X"))),
    ])  # fmt: skip
    made.append(maker.sample("raw", maker.dataset("images", "raw", 1, RAW, Modality="OT", SeriesNumber=60)))
    text = report(maker.dataset("images", "report", 1, SR, Modality="SR", SeriesNumber=61))
    made.append(maker.sample("report", text))
    pdf = maker.dataset(
        "images", "pdf", 1, PDF, Modality="DOC", SeriesNumber=62, MIMETypeOfEncapsulatedDocument="application/pdf"
    )
    pdf.EncapsulatedDocument, pdf.DocumentTitle, pdf.BurnedInAnnotation = small_pdf(), "conformance", "NO"
    made.append(maker.sample("pdf", pdf))
    unknown = maker.dataset("images", "unknown", 1, maker.uid("a private SOP class"), SeriesNumber=63)
    made.append(maker.sample("unknown", unknown))
    return made


def small_pdf() -> bytes:
    """A whole PDF of one empty page; its length is even."""
    objects = (
        b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 100 100]>>",
    )  # fmt: skip
    out, places = b"%PDF-1.4\n", []
    for number, each in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj%s endobj\n" % (number, each)
    start = len(out)
    out += b"xref\n0 4\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"trailer<</Size 4/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % start
    return out + b"\n" * (len(out) % 2)


def syntaxes(maker: Maker) -> list[Sample]:
    """Frames in every encapsulated transfer syntax for which there is an encoder, and the ways of encapsulation."""
    made: list[Sample] = []
    deep, flat = ramp(24, 20, 3, top=4000, dtype="u2"), ramp(24, 20, 3)
    shallow = (codecs.BASELINE, codecs.JXL_LOSSY, codecs.J2K_LOSSY, codecs.HTJ2K_LOSSY)
    for number, (syntax, title) in enumerate(codecs.NAMES.items()):
        if syntax in codecs.UNENCODED:
            continue
        byte = syntax in shallow
        ds = maker.dataset("syntaxes", title, 1, MF_BYTE if byte else MF_WORD, SeriesNumber=number + 1)
        if syntax in codecs.LOSSY:
            ds.LossyImageCompression = "01"
            ds.LossyImageCompressionRatio = "2"
        pixels, bits = (flat, 8) if byte else (deep, 12)
        try:
            made.append(maker.image(title, ds, pixels, syntax, bits_stored=bits))
        except LookupError:
            continue
    for number, (name, options) in enumerate(ENCAPSULATIONS.items()):
        ds = maker.dataset("syntaxes", name, 1, MF_WORD, SeriesNumber=number + 101)
        made.append(maker.image(name, ds, deep, codecs.RLE, bits_stored=12, **options))  # type: ignore[arg-type]
    single = maker.dataset("syntaxes", "fragments", 1, SC, SeriesNumber=120)
    made.append(maker.image("fragments", single, deep[:1], codecs.RLE, bits_stored=12, fragments=3, offsets="empty"))
    colour = maker.dataset("syntaxes", "colour", 1, SC, SeriesNumber=121)
    rgb = np.stack([ramp(16, 16), ramp(16, 16, top=128), ramp(16, 16, top=64)], -1)
    made.append(maker.image("colour", colour, rgb, codecs.RLE))
    return made


ENCAPSULATIONS: dict[str, dict[str, object]] = {
    "empty-table": {"offsets": "empty"},
    "many-fragments": {"offsets": "basic", "fragments": 3},
    "extended-table": {"offsets": "extended"},
}

ALPHABETS = {
    "": "Roe^Jane", "ISO_IR 100": "Müller^Jörg", "ISO_IR 101": "Wałęsa^Ćma", "ISO_IR 109": "Ċetta^Ġorġ",
    "ISO_IR 110": "Ķirsis^Ēriks", "ISO_IR 144": "Люкceмбypг^Анна", "ISO_IR 127": "قباني^لنزار",
    "ISO_IR 126": "Διονυσιος^Α", "ISO_IR 138": "שרון^דבורה", "ISO_IR 148": "Çavuşoğlu^Ayşe",
    "ISO_IR 203": "Œuvre^Zoé€", "ISO_IR 13": "ﾔﾏﾀﾞ^ﾀﾛｳ", "ISO_IR 166": "นามสกุล^ชื่อ", "ISO_IR 192": "Wang^小东=王^小东",
    "GB18030": "Wang^XiaoDong=王^小东", "GBK": "Wang^XiaoDong=王^小东",
    "\\ISO 2022 IR 87": JAPANESE.removeprefix("ZZ"), "\\ISO 2022 IR 149": "Hong^Gildong=洪^吉洞=홍^길동",
    "\\ISO 2022 IR 58": "Zhang^XiaoDong=张^小东", "ISO 2022 IR 13\\ISO 2022 IR 87": "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    "\\ISO 2022 IR 159": "Yoshi^Otto=丂^丄", "ISO 2022 IR 100\\ISO 2022 IR 144": "Müller^Анна",
}  # fmt: skip
"""A name in each Specific Character Set of PS3.3 C.12.1.1.2."""


def charsets(maker: Maker) -> list[Sample]:
    """A study for each Specific Character Set, with a name that needs it."""
    made: list[Sample] = []
    for terms, name in ALPHABETS.items():
        ds = maker.dataset(f"charset {terms}", "1", 1, RAW, PatientName=f"ZZ{name}", PatientID=None)
        if terms:
            ds.SpecificCharacterSet = terms.split("\\") if "\\" in terms else terms
        ds.PatientID = maker.patient_id(f"cs{len(made)}")
        ds.StudyDescription = name.split("=")[0].replace("^", " ")
        written = ENCODED.get(terms)
        if written is None:
            made.append(maker.sample(terms or "default", ds))
            continue
        ds.PatientName, ds.StudyDescription = f"{FAMILY}^Charset", "conformance test"
        sample = maker.sample(terms, ds)
        sample.file = with_elements(sample, [(0x00100010, "PN", b"ZZ" + written)]).file
        made.append(sample)
    return made


ENCODED = {
    "ISO_IR 203": ALPHABETS["ISO_IR 203"].encode("iso8859-15"),
    "ISO_IR 13": ALPHABETS["ISO_IR 13"].encode("shift_jis"),
    "\\ISO 2022 IR 58": b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab",  # PS3.5 annex K
}
"""Names that are written byte by byte, because not every version of pydicom encodes them."""


def model(maker: Maker) -> list[Sample]:
    """Objects whose values are hard to say in JSON (PS3.18 annex F)."""
    plain = maker.sample("plain", maker.dataset("model", "plain", 1, RAW, PatientName="ZZDoe^John^^^"))
    with_elements(plain, [
        (0x00080008, "CS", b"ORIGINAL\\\\PRIMARY"),  # three values, the second empty
        (0x00080090, "PN", b""), (0x00081048, "PN", b"ZZOne^A\\\\ZZTwo^B"), (0x00081032, "SQ", b""),
        (0x00081110, "SQ", items(b"")), (0x00081140, "SQ", items(
            element(0x00081150, "UI", b"1.2.840.10008.5.1.4.1.1.2") + element(0x00081155, "UI", b"2.25.99"))),
        (0x00102160, "SH", b"A\\B"), (0x001021B0, "LT", b"one\\value"), (0x00101010, "AS", b"030Y"),
        (0x00180050, "DS", b"0.1234567890123456"), (0x00181150, "IS", b"+12"), (0x00180060, "DS", b"1E400"),
        (0x00189073, "FD", struct.pack("<d", 0.1)), (0x00189087, "FD", struct.pack("<d", 1e-300)),
        (0x00280009, "AT", struct.pack("<HH", 0x0018, 0x1063)),
        (0x00186016, "UL", struct.pack("<I", 4294967295)), (0x0018605A, "FL", struct.pack("<f", 0.1)),
        (0x00082112, "SQ", b""), (0x00190010, "LO", b"ZZ CONFORMANCE"), (0x00191001, "UN", b"\0\1\2\3"),
        (0x00191002, "SV", struct.pack("<q", -(2**63))), (0x00191003, "UV", struct.pack("<Q", 2**64 - 1)),
        (0x00191004, "OV", struct.pack("<Q", 2**63)), (0x00191005, "SS", struct.pack("<h", -5)),
        (0x00191006, "UR", b"http://example.org/a%5Cb"), (0x00191007, "UC", b"one\\two"),
        (0x00191008, "OW", struct.pack("<2H", 1, 258)), (0x00200020, "CS", b""),
    ])  # fmt: skip
    ideographic = maker.sample("ideographic", maker.dataset("ideographic", "1", 1, RAW))
    with_elements(ideographic, [(0x00080005, "CS", b"ISO_IR 192"), (0x00100010, "PN", "=ZZ山田^太郎=".encode())])
    sign = maker.dataset("model", "sign", 5, SC, SeriesNumber=5)
    signed = maker.image("sign", sign, ramp(8, 8, top=100, low=-100, dtype="i2"))
    with_elements(signed, [(0x00280106, "SS", struct.pack("<h", -100)), (0x00280107, "SS", struct.pack("<h", 100))])
    return [plain, ideographic, signed]


def not_numbers(maker: Maker) -> list[Sample]:
    """Floating-point values that JSON has no numbers for, and digits that are none."""
    nan = maker.sample("nan", maker.dataset("model", "nan", 2, RAW))
    inf = struct.pack("<ddd", float("nan"), float("inf"), float("-inf"))
    with_elements(nan, [(0x00189073, "FD", inf), (0x0018605A, "FL", struct.pack("<f", float("nan")))])
    illegal = maker.sample("illegal", maker.dataset("model", "illegal", 3, RAW))
    with_elements(illegal, [(0x00180050, "DS", b"abc"), (0x00181150, "IS", b"1.5"), (0x00080020, "DA", b"2020.01.01")])
    return [nan, illegal]


def nested(maker: Maker) -> list[Sample]:
    """Sequences in sequences, sixty levels deep."""
    deep = maker.sample("deep", maker.dataset("model", "deep", 4, RAW))
    value = b""
    for _ in range(60):
        value = items(element(0x0040A730, "SQ", value))
    with_elements(deep, [(0x0040A730, "SQ", value)])
    return [deep]


def states(maker: Maker) -> list[Sample]:
    """An image, and two Grayscale Softcopy Presentation States of it (PS3.3 A.33.1): one dark, one bright."""
    ct = maker.dataset("states", "image", 1, CT, Modality="CT")
    made = [maker.image("image", ct, ramp(32, 32, top=2000, dtype="u2"), bits_stored=12)]
    for name, centre in (("dark", "1900"), ("bright", "100")):
        ds = maker.dataset("states", name, 1, GSPS, Modality="PR", SeriesNumber=2, ContentLabel="ZZ", InstanceNumber=1)
        ds.ContentDescription, ds.ContentCreatorName = "conformance", ""
        ds.PresentationCreationDate, ds.PresentationCreationTime = "20240115", "101500"
        reference, within, area, voi = Dataset(), Dataset(), Dataset(), Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = CT, ct.SOPInstanceUID
        within.SeriesInstanceUID, within.ReferencedImageSequence = ct.SeriesInstanceUID, [reference]
        ds.ReferencedSeriesSequence = [within]
        area.DisplayedAreaTopLeftHandCorner, area.DisplayedAreaBottomRightHandCorner = [1, 1], [32, 32]
        area.PresentationSizeMode, area.PresentationPixelAspectRatio = "SCALE TO FIT", [1, 1]
        ds.DisplayedAreaSelectionSequence = [area]
        voi.WindowCenter, voi.WindowWidth = centre, "200"
        ds.SoftcopyVOILUTSequence = [voi]
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
        ds.PresentationLUTShape = "IDENTITY"
        made.append(maker.sample(name, ds))
    return made


CORPORA: dict[str, Callable[[Maker], list[Sample]]] = {
    "query": query, "images": images, "syntaxes": syntaxes, "charsets": charsets, "model": model,
    "not numbers": not_numbers, "nested": nested, "states": states,
}  # fmt: skip
