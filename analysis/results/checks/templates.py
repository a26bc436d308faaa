"""Owns the check of SR documents against their templates (PS3.16): TID 1500 and 1600, TID 4000, TID 2010."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from pydicom import Dataset

from analysis.results.checks import trees
from analysis.results.checks.trees import children, concept, value

_ALGORITHM = (("111001", "an algorithm name"), ("111003", "an algorithm version"))
_INTENTS = frozenset({"111150", "111151", "111152"})
_CAD_VALUES: Mapping[str, tuple[str, frozenset[str]]] = MappingProxyType(
    {
        "111017": ("DCM", frozenset({"111241", "111242", "111243", "111244", "111245"})),  # CID 6047
        "111064": ("DCM", frozenset({"111222", "111223", "111224", "111225"})),  # CID 6042
        "111065": ("DCM", frozenset({"111222", "111223", "111224", "111225"})),
        "111027": ("SCT", frozenset({"73056007", "80248007", "63762007"})),  # CID 6022
        "111059": ("SCT", frozenset({"129769006", "129770007"})),  # of CID 6014: what is written here
        "111056": ("DCM", _INTENTS),  # CID 6034
    }
)
"""Scheme and values of coded items of TID 4000 and below, by what they are about."""


def defects(ds: Dataset) -> Iterator[str]:
    """What is missing or too much in a document by the template it names, in words."""
    kind = str(ds.get("SOPClassUID"))
    if kind not in trees.SR_CLASSES:
        return
    named = [str(each.get("TemplateIdentifier")) for each in ds.get("ContentTemplateSequence") or ()]
    template, title, check = _TEMPLATES[kind]
    if named != [template]:
        yield f"the document does not name its template, TID {template}"
    if concept(ds)[0] not in title:
        yield f"the title is none of TID {template}"
    yield from check(ds)


def _one(item: Dataset, code: str, words: str, *, most: int = 1) -> Iterator[str]:
    found = len(children(item, code))
    if found == 0:
        yield f"{words} is missing"
    elif found > most:
        yield f"{words} is there {found} times"


# TID 1500, Measurement Report ----------------------------------------------------------------------------------------


def _measurement_report(ds: Dataset) -> Iterator[str]:
    yield from _one(ds, "121049", "TID 1500: the language")
    yield from _one(ds, "121058", "TID 1500: the procedure reported")
    yield from _observer(ds)
    yield from _image_library(ds)
    measured, evaluated = children(ds, "126010"), children(ds, "C0034375")
    if not measured and not evaluated:
        yield "TID 1500: neither measurements nor qualitative evaluations"
    tracking: list[str] = []
    for container in measured:
        groups = children(container, "125007")
        if not groups:
            yield "TID 1500: imaging measurements without a group"
        for number, group in enumerate(groups, 1):
            yield from (f"TID 1500: group {number}: {words}" for words in _group(group))
            tracking += [str(each.get("UID")) for each in children(group, "112040")]
    if len(set(tracking)) < len(tracking):
        yield "TID 1500: two groups with one tracking UID"


def _observer(ds: Dataset) -> Iterator[str]:
    """TID 1001, 1002 and 1004: a device observed, and which."""
    kinds = [value(each)[0] for each in children(ds, "121005")]
    if kinds != ["121007"]:
        yield "TID 1002: the observer is not said to be a device"
    if not children(ds, "121012"):
        yield "TID 1004: the device observer has no UID"


def _image_library(ds: Dataset) -> Iterator[str]:
    libraries = children(ds, "111028")
    if len(libraries) != 1:
        yield "TID 1600: the image library is missing"
        return
    groups = children(libraries[0], "126200")
    if not groups:
        yield "TID 1600: an image library without a group"
    for group in groups:
        if not any(item.get("ValueType") == "IMAGE" for item in group.get("ContentSequence") or ()):
            yield "TID 1600: a group of the image library without an image"
        if not children(group, "121139"):
            yield "TID 1602: a group of the image library without its modality"


def _group(group: Dataset) -> Iterator[str]:
    yield from _one(group, "112039", "the tracking identifier")
    yield from _one(group, "112040", "the tracking UID")
    for code, words in _ALGORITHM:
        yield from _one(group, code, words)
    content = group.get("ContentSequence") or ()
    regions = [item for item in content if item.get("ValueType") in ("SCOORD", "SCOORD3D")]
    segments = children(group, "121191")
    sources = children(group, "260753009", "121112", "121233", "121232")
    if not regions and not segments and not sources:
        yield "it is about neither a region, a segment nor an image"
    if segments and not sources:
        yield "a segment without what it was segmented from"
    for segment in segments:
        references = segment.get("ReferencedSOPSequence") or [Dataset()]
        if references[0].get("ReferencedSegmentNumber") is None:
            yield "a referenced segment without its number"
    if (regions or segments) and not children(group, "121071"):
        yield "what was found is not said"
    numbers = [item for item in content if item.get("ValueType") == "NUM"]
    evaluations = [item for item in content if item.get("ValueType") == "CODE" and concept(item)[0] == "111017"]
    if not numbers and not evaluations:
        yield "neither a measurement nor an evaluation"


# TID 4000, Mammography CAD Document Root -----------------------------------------------------------------------------


def _mammography_cad(ds: Dataset) -> Iterator[str]:
    yield from _one(ds, "121049", "TID 4000: the language")
    for code, words in (
        ("111028", "the image library"),
        ("111017", "the summary of processing and findings"),
        ("111064", "the summary of detections"),
        ("111065", "the summary of analyses"),
    ):
        yield from _one(ds, code, f"TID 4000: {words}")
    for library in children(ds, "111028"):
        images = library.get("ContentSequence") or ()
        if not images:
            yield "TID 4000: an empty image library"
        for image in images:
            yield from _one(image, "111027", "TID 4020: the laterality of an image")
            yield from _one(image, "111031", "TID 4020: the view of an image")
    yield from _cad_values(ds)
    found = [value(each)[0] for each in children(ds, "111017")]
    impressions = [each for summary in children(ds, "111017") for each in children(summary, "111034")]
    if found in (["111242"], ["111244"]) and not impressions:
        yield "TID 4000: with findings, and none is there"
    if found in (["111241"], ["111243"], ["111245"]) and impressions:
        yield "TID 4000: without findings, and some are there"
    for impression in impressions:
        yield from _intent(impression, "TID 4003: an impression")
        findings = children(impression, "111059")
        if not findings:
            yield "TID 4003: an impression without a finding"
        for finding in findings:
            yield from _finding(finding)
    for summary in children(ds, "111064"):
        yield from _detections(summary)


def _cad_values(ds: Dataset) -> Iterator[str]:
    for _, _, item in trees.walk(ds):
        code, scheme = concept(item)
        if code not in _CAD_VALUES or item.get("ValueType") != "CODE":
            continue
        allowed = _CAD_VALUES[code]
        if scheme != "DCM" or value(item)[1] != allowed[0] or value(item)[0] not in allowed[1]:
            yield f"TID 4000: an item about {code} with a code that its context group does not have"


def _intent(item: Dataset, words: str) -> Iterator[str]:
    intents = [value(each)[0] for each in children(item, "111056")]
    if len(intents) != 1 or intents[0] not in _INTENTS:
        yield f"{words} without its rendering intent"


def _finding(finding: Dataset) -> Iterator[str]:
    """TID 4006 and 4010: a cluster, or one calcification."""
    cluster = value(finding)[0] == "129769006"
    words = "TID 4006: a cluster" if cluster else "TID 4006: a calcification"
    yield from _intent(finding, words)
    for code, what in _ALGORITHM:
        yield from _one(finding, code, f"{words}: {what}")
    centres = children(finding, "111010")
    if len(centres) != 1 or centres[0].get("GraphicType") != "POINT":
        yield f"{words} without its centre"
    for number in children(finding, "111012"):
        measured = (number.get("MeasuredValueSequence") or [Dataset()])[0]
        unit = (measured.get("MeasurementUnitsCodeSequence") or [Dataset()])[0]
        if unit.get("CodeValue") != "%" or not 0 <= float(measured.get("NumericValue") or -1) <= 100:
            yield f"{words} with a certainty that is no percentage"
    if not cluster:
        return
    counts = children(finding, "111038")
    if len(counts) != 1:
        yield f"{words} without the number of its calcifications"
    members = [each for each in children(finding, "111059") if each.get("RelationshipType") == "INFERRED FROM"]
    for count in counts:
        said = (count.get("MeasuredValueSequence") or [Dataset()])[0].get("NumericValue")
        if said is not None and float(said) != len(members):
            yield f"{words} of {len(members)} calcifications that counts {float(said):g}"
    for member in members:
        yield from _finding(member)


def _detections(summary: Dataset) -> Iterator[str]:
    """TID 4015 and 4017: which detections were performed, by what, on which images; success is what is listed so."""
    said = value(summary)[0]
    if said == "111225":
        return
    listed = (bool(children(summary, "111063")), bool(children(summary, "111025")))
    if listed != {"111222": (True, False), "111223": (True, True), "111224": (False, True)}.get(said):
        yield "TID 4015: a summary of detections that is not that of those listed"
    performed = [each for kind in children(summary, "111063", "111025") for each in children(kind, "111022")]
    if not performed:
        yield "TID 4015: no detection is listed"
    for each in performed:
        for code, words in _ALGORITHM:
            yield from _one(each, code, f"TID 4017: {words} of a detection")
        if not any("ReferencedContentItemIdentifier" in child for child in each.get("ContentSequence") or ()):
            yield "TID 4017: a detection on no image"


# TID 2010, Key Object Selection --------------------------------------------------------------------------------------


def _key_object(ds: Dataset) -> Iterator[str]:
    items = ds.get("ContentSequence") or ()
    if not any(item.get("ValueType") in ("IMAGE", "COMPOSITE", "WAVEFORM") for item in items):
        yield "TID 2010: no object is selected"
    if any(item.get("ValueType") == "IMAGE" and concept(item)[0] for item in items):
        yield "TID 2010: a selected image has a concept name"
    if len(children(ds, "113012")) > 1:
        yield "TID 2010: more than one description"


_Check = Callable[[Dataset], Iterator[str]]
_TEMPLATES: Mapping[str, tuple[str, frozenset[str], _Check]] = MappingProxyType(
    {
        trees.COMPREHENSIVE_3D: ("1500", frozenset({"126000", "126001"}), _measurement_report),
        trees.CAD: ("4000", frozenset({"111036"}), _mammography_cad),
        trees.KEY_OBJECT: ("2010", frozenset({"113000"}), _key_object),
    }
)
