"""Result objects that the server holds (reports, segmentations, captures, models): what PS3.3 and PS3.16 say of them.

They are those of the studies in --results, or else what a search finds; the suite's own test objects are left out.
"""

from __future__ import annotations

from functools import partial

from pydicom import Dataset

from conformance import objects
from conformance.check import Level, NoAnswer, NotApplicable, check
from conformance.context import Context, text
from conformance.data import read
from conformance.objects import DOCUMENTS, MAMMOGRAPHY_CAD, REPORTS, RESULTS, SECONDARY, SEGMENTATION, WITH_TREE

rule = partial(check, level=Level.CONDITIONAL, service="Results", needs="dicomweb")

FOUND_STUDIES = 5
"""In how many studies a search looks for results."""
MEASUREMENT_REPORT, CAD_REPORT = "1500", "4000"
ALGORITHM_NAME, ALGORITHM_VERSION = ("111001", "DCM"), ("111003", "DCM")
GROUP = ("125007", "DCM")
Held = dict[str, list[Dataset]]


def held(run: Context) -> Held:
    """Every object of the studies with results, by study. Raises NotApplicable where there is none."""
    found: Held = run.fact("results", lambda: _fetch(run))
    if not any(results(found)):
        raise NotApplicable("no result objects: give the Study Instance UIDs of some with --results")
    return found


def results(found: Held, *classes: str) -> list[Dataset]:
    """The result objects, of these SOP classes where given."""
    wanted = classes or RESULTS
    return [ds for instances in found.values() for ds in instances if str(ds.get("SOPClassUID")) in wanted]


def wanted(run: Context, *classes: str) -> list[Dataset]:
    """The result objects of these classes. Raises NotApplicable where there is none."""
    found = results(held(run), *classes)
    if not found:
        raise NotApplicable("no result object of this kind")
    return found


def _fetch(run: Context) -> Held:
    studies = list(run.options.results)
    if not studies:
        for modality in ("SEG", "SR", "M3D", "KO", "PR"):
            answer = run.web.get("/studies", f"ModalitiesInStudy={modality}&limit=50")
            if answer.status == 200:
                studies += [text(each, "0020000D") for each in answer.objects()
                            if not text(each, "00100020").startswith("ZZCONF")]  # fmt: skip
        studies = list(dict.fromkeys(studies))[:FOUND_STUDIES]
    found: Held = {}
    for study in studies:
        answer = run.web.get(f"/studies/{study}", accept='multipart/related; type="application/dicom"')
        if answer.status != 200:
            raise NoAnswer(f"study {study} cannot be retrieved: {answer.status}")
        found[study] = [read(part.content) for part in answer.parts()]
    return found


def judge(run: Context, ds: Dataset, expected: str, good: object, seen: object = "") -> bool:
    """Judge one thing of one object."""
    return run.expect(expected, good, seen, about=f"{ds.get('Modality', '?')} {ds.get('SOPInstanceUID')}")


@rule("N01", "PS3.3 annex A", "Results have every Type 1 and Type 2 attribute of their IOD's modules")
def modules(run: Context) -> None:
    for ds in results(held(run)):
        lacks = objects.missing(ds)
        judge(run, ds, "nothing missing", not lacks, ", ".join(lacks))


@rule("N04", "PS3.16 TID 1500, 4000, 1204, 1002", "Reports say their template, language and observer")
def report_head(run: Context) -> None:
    for ds in wanted(run, *REPORTS):
        root = objects.concept(ds)
        named = objects.template(ds)
        if root == ("126000", "DCM") or named == MEASUREMENT_REPORT:
            judge(run, ds, "Content Template Sequence: 1500 of DCMR", named == MEASUREMENT_REPORT, named)
            judge(run, ds, "title: Imaging Measurement Report (126000, DCM)", root[1] and root[0], root)
        elif str(ds.SOPClassUID) == MAMMOGRAPHY_CAD:
            judge(run, ds, "Content Template Sequence: 4000 of DCMR", named == CAD_REPORT, named)
            judge(run, ds, "title: Mammography CAD Report (111036, DCM)", root == ("111036", "DCM"), root)
        else:
            judge(run, ds, "a coded title", all(root), root)
            continue
        names = {objects.concept(each) for each in objects.content(ds)}
        judge(run, ds, "Language of Content Item and Descendants (121049, DCM)", ("121049", "DCM") in names)
        types = [each for each in objects.content(ds) if objects.concept(each) == ("121005", "DCM")]
        devices = [each for each in types if _code(each) == ("121007", "DCM")]
        if devices:  # TID 1004
            judge(run, ds, "Device Observer UID (121012, DCM)", ("121012", "DCM") in names)


def _code(item: Dataset) -> tuple[str, str]:
    value = next(iter(item.get("ConceptCodeSequence") or []), Dataset())
    return str(value.get("CodeValue", "")), str(value.get("CodingSchemeDesignator", ""))


@rule("N04a", "PS3.3 C.17.3.2", "Content items have a value of their type and, but for containers' sake, a name")
def content_items(run: Context) -> None:
    values = {
        "TEXT": "TextValue", "CODE": "ConceptCodeSequence", "NUM": "MeasuredValueSequence", "UIDREF": "UID",
        "PNAME": "PersonName", "DATETIME": "DateTime", "DATE": "Date", "TIME": "Time", "IMAGE": "ReferencedSOPSequence",
        "COMPOSITE": "ReferencedSOPSequence", "SCOORD": "GraphicType", "SCOORD3D": "GraphicType",
    }  # fmt: skip
    for ds in wanted(run, *WITH_TREE):
        wrong = []
        for each in objects.content(ds):
            kind = str(each.get("ValueType", ""))
            by_reference = "ReferencedContentItemIdentifier" in each
            if not each.get("RelationshipType"):
                wrong.append(f"{kind} without Relationship Type")
            if by_reference:
                continue
            keyword = values.get(kind)
            if not kind or (keyword and keyword not in each):
                wrong.append(f"{kind or 'an item'} without {keyword or 'Value Type'}")
            if kind not in ("IMAGE", "COMPOSITE", "WAVEFORM", "CONTAINER") and not all(objects.concept(each)):
                wrong.append(f"{kind} without a name")
        judge(run, ds, "every item whole", not wrong, wrong[:5])


@rule("N05", "PS3.16 TID 1410, 1411, 4019", "Measurements say which algorithm made them", level=Level.PRACTICE)
def algorithms(run: Context) -> None:
    judged = False
    for ds in wanted(run, *REPORTS):
        for group in objects.content(ds):
            if objects.concept(group) != GROUP or group.get("ValueType") != "CONTAINER":
                continue
            names = {objects.concept(each) for each in objects.content(group)}
            judged = judge(run, ds, "Algorithm Name (111001, DCM) and Version (111003, DCM) in each Measurement Group",
                           {ALGORITHM_NAME, ALGORITHM_VERSION} <= names) or True  # fmt: skip
    if not judged:
        raise NotApplicable("no measurement groups")


@rule("N05a", "PS3.3 C.18.1, PS3.16 TID 300", "Measured numbers have a value and a unit")
def numbers(run: Context) -> None:
    judged = False
    for ds in wanted(run, *REPORTS):
        for each in objects.content(ds):
            for measured in each.get("MeasuredValueSequence") or []:
                units = next(iter(measured.get("MeasurementUnitsCodeSequence") or []), Dataset())
                good = measured.get("NumericValue") is not None and units.get("CodeValue")
                judged = judge(run, ds, "Numeric Value and Measurement Units Code", good, measured) or True
    if not judged:
        raise NotApplicable("no numeric content items")


@rule("N06", "PS3.3 C.17.2, C.8.20", "What results refer to is there, as the class that they say", level=Level.PRACTICE)
def resolvable(run: Context) -> None:
    found = held(run)
    here = {str(ds.SOPInstanceUID): str(ds.SOPClassUID) for instances in found.values() for ds in instances}
    for ds in results(found):
        for _, instance in sorted(objects.references(ds)):
            if instance not in here:
                answer = run.web.get("/instances", f"SOPInstanceUID={instance}")
                classes = [text(each, "00080016") for each in answer.objects()] if answer.status == 200 else []
                here[instance] = next(iter(classes), "")
        broken = [uid for sop_class, uid in objects.references(ds) if here[uid] != sop_class]
        judge(run, ds, "every reference leads to an instance of its class", not broken, broken[:3])


@rule("N07", "PS3.3 C.17.2.3", "Evidence lists every instance that the content refers to")
def evidence(run: Context) -> None:
    for ds in wanted(run, *WITH_TREE):
        lacks = objects.tree_references(ds) - objects.evidence(ds)
        judge(run, ds, "no reference outside the evidence sequences", not lacks, sorted(lacks)[:3])


@rule("N08", "PS3.3 C.7.1.1, C.7.2.1", "Results share patient and study with their sources, in series of their own")
def same_study(run: Context) -> None:
    keys = ("PatientID", "PatientName", "StudyID", "StudyDate", "AccessionNumber")
    for study, instances in held(run).items():
        sources = [ds for ds in instances if str(ds.get("SOPClassUID")) not in RESULTS]
        for ds in results({study: instances}):
            judge(
                run,
                ds,
                "Study Instance UID of the study it is in",
                ds.get("StudyInstanceUID") == study,
                ds.get("StudyInstanceUID"),
            )
            series = {str(each.SOPClassUID) for each in instances if each.SeriesInstanceUID == ds.SeriesInstanceUID}
            judge(run, ds, "no instance of another class in its series", len(series) == 1, sorted(series))
            for source in sources[:1]:
                differ = [key for key in keys if str(ds.get(key, "")) != str(source.get(key, ""))]
                judge(run, ds, "patient and study as in the source images", not differ, differ)


@rule("N09", "PS3.3 C.8.20", "Segmentations: segments, frames and their geometry fit together")
def segmentations(run: Context) -> None:
    for ds in wanted(run, SEGMENTATION):
        frames = ds.get("PerFrameFunctionalGroupsSequence") or []
        count = int(ds.get("NumberOfFrames", 0))
        judge(run, ds, "one functional group item for each frame", len(frames) == count, f"{len(frames)} for {count}")
        size = int(ds.get("Rows", 0)) * int(ds.get("Columns", 0)) * int(ds.get("BitsAllocated", 0)) * count
        if not ds.file_meta.TransferSyntaxUID.is_encapsulated:
            needed = (size + 7) // 8
            judge(run, ds, "Pixel Data as long as its frames", len(ds.PixelData) == needed + needed % 2,
                  f"{len(ds.PixelData)} bytes for {needed}")  # fmt: skip
        numbers = [each.get("SegmentNumber") for each in ds.get("SegmentSequence") or []]
        judge(run, ds, "Segment Numbers from 1, one more each", numbers == list(range(1, len(numbers) + 1)), numbers)
        for each in ds.get("SegmentSequence") or []:
            kind = each.get("SegmentAlgorithmType")
            whole = all(each.get(key) for key in ("SegmentLabel", "SegmentedPropertyCategoryCodeSequence",
                                                  "SegmentedPropertyTypeCodeSequence"))  # fmt: skip
            good = whole and kind in ("AUTOMATIC", "SEMIAUTOMATIC", "MANUAL")
            judge(run, ds, "segments with label, category, type and algorithm type", good, kind)
            judge(
                run, ds, "Segment Algorithm Name, unless manual", kind == "MANUAL" or each.get("SegmentAlgorithmName")
            )
        shared = next(iter(ds.get("SharedFunctionalGroupsSequence") or []), Dataset())
        for keyword in ("SegmentIdentificationSequence", "FrameContentSequence"):
            lacks = sum(1 for each in frames if not each.get(keyword) and not shared.get(keyword))
            judge(run, ds, f"{keyword} for every frame", not lacks, f"{lacks} frames without")
        named = {
            item.get("ReferencedSegmentNumber") for each in (shared, *frames)
            for item in each.get("SegmentIdentificationSequence") or []
        }  # fmt: skip
        judge(run, ds, "frames of no other segments than are described", named <= set(numbers), sorted(named))
        if ds.get("FrameOfReferenceUID"):
            for keyword in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"):
                lacks = sum(1 for each in frames if not each.get(keyword) and not shared.get(keyword))
                judge(run, ds, f"{keyword} for every frame", not lacks, f"{lacks} frames without")
        else:
            lacks = sum(1 for each in frames if not each.get("DerivationImageSequence"))
            judge(run, ds, "without a Frame of Reference, Derivation Image for every frame", not lacks, lacks)


@rule(
    "N11",
    "PS3.3 C.8.6.1, C.7.6.1.1.3",
    "Captures that derive from images say so, and burnt-in annotation",
    level=Level.PRACTICE,
)
def captures(run: Context) -> None:
    for ds in wanted(run, *SECONDARY):
        judge(
            run,
            ds,
            "Burned In Annotation YES or NO",
            ds.get("BurnedInAnnotation") in ("YES", "NO"),
            ds.get("BurnedInAnnotation"),
        )
        if next(iter(ds.get("ImageType") or []), "") == "DERIVED":
            judge(run, ds, "Source Image Sequence", ds.get("SourceImageSequence"))
            judge(
                run,
                ds,
                "Derivation Description or Code",
                ds.get("DerivationDescription") or ds.get("DerivationCodeSequence"),
            )


@rule("N12", "PS3.3 C.18.6, PS3.16 TID 4000", "Marks lie inside the images that they are on")
def marks(run: Context) -> None:
    found = held(run)
    images = {str(ds.SOPInstanceUID): ds for instances in found.values() for ds in instances}
    judged = False
    for ds in wanted(run, *REPORTS):
        for each in objects.content(ds):
            if each.get("ValueType") != "SCOORD":
                continue
            points = [float(value) for value in each.get("GraphicData") or []]
            for _, uid in objects.references(each):
                if uid in images and "Columns" in images[uid]:
                    image = images[uid]
                    pairs = list(zip(points[::2], points[1::2], strict=False))
                    inside = pairs and all(0 <= x <= image.Columns and 0 <= y <= image.Rows for x, y in pairs)
                    judged = judge(run, ds, f"within {image.Columns} x {image.Rows}", inside, points[:8]) or True
    if not judged:
        raise NotApplicable("no coordinates on images of these studies")


@rule("N13", "PS3.3 C.24, A.85", "Encapsulated documents are what they say they are")
def documents(run: Context) -> None:
    begins = {"application/pdf": (b"%PDF-",), "text/XML": (b"<", b"\xef\xbb\xbf<")}
    for ds in wanted(run, *DOCUMENTS):
        data = bytes(ds.get("EncapsulatedDocument") or b"")
        kind = str(ds.get("MIMETypeOfEncapsulatedDocument"))
        if kind == "model/stl":
            count = int.from_bytes(data[80:84], "little")
            fits = count > 0 and 84 + 50 * count <= len(data) <= 85 + 50 * count
            judge(run, ds, "a binary STL of as many triangles as it says", fits, f"{count} in {len(data)} bytes")
        elif kind in begins:
            judge(run, ds, f"{kind}", data.startswith(begins[kind]), data[:8])
        else:
            judge(run, ds, "a media type and a document", kind and data, kind)


@rule("N14", "PS3.3 C.12.1.1.2", "Text beyond ASCII has its Specific Character Set")
def character_sets(run: Context) -> None:
    for ds in results(held(run)):
        name = str(ds.get("PatientName", ""))
        judge(run, ds, "a name without replacement characters", "\ufffd" not in name, name)
        if not name.isascii():
            judge(run, ds, "Specific Character Set", ds.get("SpecificCharacterSet"), ds.get("SpecificCharacterSet"))


@rule("N15", "PS3.5 9", "Every result has a UID of its own, and is there once")
def unique(run: Context) -> None:
    every = [str(ds.SOPInstanceUID) for instances in held(run).values() for ds in instances]
    twice = sorted({uid for uid in every if every.count(uid) > 1})
    run.expect("no SOP Instance UID twice", not twice, twice, about="all instances of the studies with results")
    bad = [
        uid
        for uid in every
        if len(uid) > 64 or not all(part.isdigit() and part == str(int(part)) for part in uid.split("."))
    ]
    run.expect("well-formed UIDs (PS3.5 9.1)", not bad, bad, about="all instances of the studies with results")
