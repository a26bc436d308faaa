"""Result objects, broken on purpose: each copy has one defect, which our own checks have to find before it is filed.

python tests/broken_results.py FOLDER     writes all of them, for other validators
"""

from __future__ import annotations

import copy
import io
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import result_objects
from pydicom import DataElement, Dataset, dcmread
from pydicom.tag import Tag

from analysis.results import provenance
from analysis.results.encapsulated_stl import binary_stl, read_binary_stl

SEG, LABELMAP, STL, OBJ, MTL = "66.4", "66.7", "104.3", "104.4", "104.5"
VOLUME, TURNTABLE, MARKED, PICTURE, REPORT, CAD, KEY, STATE = (
    "7.2",
    "7.4",
    "7.4*",
    "7",
    "88.34",
    "88.50",
    "88.59",
    "11.1",
)
_PREFIX = "1.2.840.10008.5.1.4.1.1."


@dataclass(frozen=True)
class Broken:
    """One broken copy. what: the defect in words; of: the SOP class it is made of; how: what is done to it."""

    what: str
    of: str
    how: Callable[[Dataset], None]

    @property
    def sop_class_uid(self) -> str:
        """Of what it is made."""
        return _PREFIX + self.of.removesuffix("*")

    def of_set(self, results: Sequence[Dataset], files: Sequence[bytes]) -> tuple[int, list[bytes]]:
        """Which of the results is broken, and all of them as files; `files`: the true ones."""
        number = next(n for n, ds in enumerate(results) if ds.SOPClassUID == self.sop_class_uid)
        files, ds = list(files), dcmread(io.BytesIO(files[number]))
        self.how(ds)
        files[number] = written(ds)
        return number, files


def written(ds: Dataset) -> bytes:
    """The bytes of an object that pydicom would refuse to write as it is."""
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=False)
    return out.getvalue()


def _delete(*keywords: str) -> Callable[[Dataset], None]:
    """Without an attribute, which lies in the first items of the sequences before it."""

    def change(ds: Dataset) -> None:
        for keyword in keywords[:-1]:
            ds = ds[keyword].value[0]
        del ds[keywords[-1]]

    return change


def _set(*steps: Any) -> Callable[[Dataset], None]:
    """With another value of an attribute, which lies in the first items of the sequences before it."""

    def change(ds: Dataset) -> None:
        for keyword in steps[:-2]:
            ds = ds[keyword].value[0]
        vr = ds[steps[-2]].VR if steps[-2] in ds else None
        if vr is None:
            setattr(ds, steps[-2], steps[-1])
        else:
            ds[steps[-2]] = DataElement(Tag(steps[-2]), vr, steps[-1], validation_mode=0)

    return change


def _items(ds: Dataset) -> list[tuple[Dataset, Dataset]]:
    """(parent, item) of every content item."""
    found = []
    for item in ds.get("ContentSequence") or ():
        found.append((ds, item))
        found += _items(item)
    return found


def _named(code: str) -> Callable[[Dataset], bool]:
    return lambda item: (item.get("ConceptNameCodeSequence") or [Dataset()])[0].get("CodeValue") == code


def _without(code: str, under: str = "") -> Callable[[Dataset], None]:
    """Without the first content item of that concept (below one of another)."""

    def change(ds: Dataset) -> None:
        for parent, item in _items(ds):
            if _named(code)(item) and (not under or _named(under)(parent)):
                parent.ContentSequence.remove(item)
                return
        raise LookupError(code)

    return change


def _item(code: str, how: Callable[[Dataset], None]) -> Callable[[Dataset], None]:
    """With the first content item of that concept changed."""

    def change(ds: Dataset) -> None:
        how(next(item for _, item in _items(ds) if _named(code)(item)))

    return change


def _name(*steps: str) -> Callable[[Dataset], None]:
    return _set("ConceptNameCodeSequence", *steps)


def _value(*steps: str) -> Callable[[Dataset], None]:
    return _set("ConceptCodeSequence", *steps)


_UNIT = ("MeasurementUnitsCodeSequence", "CodingSchemeDesignator")


def _first(kind: str, how: Callable[[Dataset], None]) -> Callable[[Dataset], None]:
    """With the first content item of that value type changed."""

    def change(ds: Dataset) -> None:
        how(next(item for _, item in _items(ds) if item.get("ValueType") == kind))

    return change


def _mesh(how: Callable[[np.ndarray], np.ndarray]) -> Callable[[Dataset], None]:
    """With other triangles (n, 3, 3) in an STL."""

    def change(ds: Dataset) -> None:
        corners = how(read_binary_stl(ds.EncapsulatedDocument))
        document = binary_stl(corners.reshape(-1, 3), np.arange(3 * len(corners), dtype=np.int32).reshape(-1, 3))
        ds.EncapsulatedDocument, ds.EncapsulatedDocumentLength = document + b"\0" * (len(document) % 2), len(document)

    return change


def _text(old: bytes, new: bytes) -> Callable[[Dataset], None]:
    """With other text in an OBJ or MTL of the same length."""

    def change(ds: Dataset) -> None:
        assert old in ds.EncapsulatedDocument
        ds.EncapsulatedDocument = ds.EncapsulatedDocument.replace(old, new, 1)

    return change


def _frame(number: int, how: Callable[[Dataset], None]) -> Callable[[Dataset], None]:
    return lambda ds: how(ds.PerFrameFunctionalGroupsSequence[number])


def _without_last_frame(ds: Dataset) -> None:
    ds.PerFrameFunctionalGroupsSequence.pop()


def _strange_segment(ds: Dataset) -> None:
    """Of one segment alone its number is shared by all frames."""
    for groups in (*ds.SharedFunctionalGroupsSequence, *ds.PerFrameFunctionalGroupsSequence):
        for item in groups.get("SegmentIdentificationSequence") or ():
            item.ReferencedSegmentNumber = 9


def _same_place(ds: Dataset) -> None:
    frames = ds.PerFrameFunctionalGroupsSequence
    frames[1].PlanePositionSequence = copy.deepcopy(frames[0].PlanePositionSequence)


def _cut(keyword: str, length: int) -> Callable[[Dataset], None]:
    return lambda ds: _set(keyword, ds[keyword].value[:-length])(ds)


def _unlisted(ds: Dataset) -> None:
    instances = ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    named = ds.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    instances.remove(next(i for i in instances if i.ReferencedSOPInstanceUID == named.ReferencedSOPInstanceUID))


def _without_prior(ds: Dataset) -> None:
    """No list of evidence names another study."""
    for name in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence"):
        if name in ds:
            setattr(ds, name, [each for each in ds[name].value if each.StudyInstanceUID == ds.StudyInstanceUID])


def _without_evidence(ds: Dataset) -> None:
    """Every list without the instance that the first IMAGE item refers to."""
    image = next(item for _, item in _items(ds) if item.get("ValueType") == "IMAGE")
    uid = image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    for name in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence"):
        for study in ds.get(name) or ():
            for series in study.ReferencedSeriesSequence:
                kept = [each for each in series.ReferencedSOPSequence if each.ReferencedSOPInstanceUID != uid]
                series.ReferencedSOPSequence = kept


def _strange_pixel(ds: Dataset) -> None:
    pixels = bytearray(ds.PixelData)
    pixels[0] = 77
    ds.PixelData = bytes(pixels)


def _meta(ds: Dataset) -> None:
    ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"


BROKEN: tuple[Broken, ...] = (
    Broken("a segment without its label", SEG, _delete("SegmentSequence", "SegmentLabel")),
    Broken("segment numbers with a gap", SEG, lambda ds: _set("SegmentNumber", 5)(ds.SegmentSequence[-1])),
    Broken("a frame of a segment that is not described", SEG, _strange_segment),
    Broken("functional groups of one frame too few", SEG, _without_last_frame),
    Broken("pixel data cut short", SEG, _cut("PixelData", 64)),
    Broken("two frames in one place", SEG, _same_place),
    Broken("a frame without its place", SEG, _frame(2, _delete("PlanePositionSequence"))),
    Broken(
        "dimension index values one too few", SEG,
        _frame(0, _set("FrameContentSequence", "DimensionIndexValues", [1])),
    ),
    Broken(
        "rows and columns that are not perpendicular", SEG,
        _set("SharedFunctionalGroupsSequence", "PlaneOrientationSequence", "ImageOrientationPatient",
             [1, 0, 0, 0.6, 0.8, 0]),
    ),
    Broken("a source that is used and not listed", SEG, _unlisted),
    Broken("a category code without its meaning", SEG,
           _delete("SegmentSequence", "SegmentedPropertyCategoryCodeSequence", "CodeMeaning")),
    Broken("pixels of a segment that is not described", LABELMAP, _strange_pixel),
    Broken("another segmentation type than the SOP class", LABELMAP, _set("SegmentationType", "BINARY")),
    Broken("STL cut short", STL, _cut("EncapsulatedDocument", 100)),
    Broken("STL inside out", STL, _mesh(lambda corners: corners[:, ::-1])),
    Broken("STL without triangles", STL, _mesh(lambda corners: corners[:0])),
    Broken("STL in metres beyond any patient", STL, _mesh(lambda corners: corners * np.float32(1e4))),
    Broken("STL with a hole", STL, _mesh(lambda corners: corners[len(corners) // 20 :])),
    Broken("a model without its unit", STL, _delete("MeasurementUnitsCodeSequence")),
    Broken("the MIME type of another format", STL, _set("MIMETypeOfEncapsulatedDocument", "model/obj")),
    Broken("no frame of reference", STL, _delete("FrameOfReferenceUID")),
    Broken("OBJ that names a vertex that is not there", OBJ, _text(b"\nf 1 ", b"\nf 0 ")),
    Broken("OBJ with a coordinate that is no number", OBJ, _text(b"\nv ", b"\nv x")),
    Broken(
        "OBJ whose materials are lost", OBJ,
        _set("ReferencedInstanceSequence", "ReferencedSOPInstanceUID", "1.2.9"),
    ),
    Broken("MTL with a colour beyond white", MTL, _text(b"Kd 0", b"Kd 7")),
    Broken("fewer slice locations than frames", VOLUME, _cut("SliceLocationVector", 1)),
    Broken("a frame increment pointer into the void", VOLUME, _set("FrameIncrementPointer", Tag("FrameTimeVector"))),
    Broken("a grey picture without its rescale slope", VOLUME, _delete("RescaleSlope")),
    Broken("colour without its planar configuration", TURNTABLE, _delete("PlanarConfiguration")),
    Broken("more frames than pixels", TURNTABLE, _set("NumberOfFrames", 5)),
    Broken("a picture that may or may not have words in it", TURNTABLE, _set("BurnedInAnnotation", "MAYBE")),
    Broken("a high bit that is not the highest", PICTURE, _set("HighBit", 6)),
    Broken("a picture of nothing that was analysed", PICTURE,
           _set("SourceImageSequence", "ReferencedSOPInstanceUID", "1.2.9")),
    Broken("a source of another SOP class", PICTURE,
           _set("SourceImageSequence", "ReferencedSOPClassUID", _PREFIX + "2")),
    Broken("a report without its language", REPORT, _without("121049")),
    Broken("a group without its tracking UID", REPORT, _without("112040", "125007")),
    Broken("a group without the algorithm's version", REPORT, _without("111003", "125007")),
    Broken("a number without its unit", REPORT,
           _first("NUM", _delete("MeasuredValueSequence", "MeasurementUnitsCodeSequence"))),
    Broken("a report without its image library", REPORT, _without("111028")),
    Broken("an image that is no evidence", REPORT, _without_evidence),
    Broken("a relationship that the SOP class does not know", REPORT,
           _first("NUM", _set("RelationshipType", "SELECTED FROM"))),
    Broken("no template named", REPORT, _delete("ContentTemplateSequence")),
    Broken("a finding without its rendering intent", CAD, _without("111056", "111059")),
    Broken("a finding without its centre", CAD, _without("111010", "111059")),
    Broken("a finding without the algorithm's name", CAD, _without("111001", "111059")),
    Broken("findings, and a summary that says none", CAD,
           _item("111017", _set("ConceptCodeSequence", "CodeValue", "111241"))),
    Broken("a place on an item that is not there", CAD,
           _first("SCOORD", _set("ContentSequence", "ReferencedContentItemIdentifier", [1, 2, 99]))),
    Broken("a place outside of its image", CAD, _first("SCOORD", _set("GraphicData", [9000.0, 5.0]))),
    Broken("a count that is not that of the findings", CAD,
           _item("111038", _set("MeasuredValueSequence", "NumericValue", "8"))),
    Broken("a certainty of 140 percent", CAD, _item("111012", _set("MeasuredValueSequence", "NumericValue", "140"))),
    Broken("no summary of detections", CAD, _without("111064")),
    Broken("an image of unknown side", CAD, _without("111027")),
    Broken("an annotation on no layer", STATE, _set("GraphicLayerSequence", "GraphicLayer", "OTHER")),
    Broken("a graphic of fewer points than it says", STATE,
           _set("GraphicAnnotationSequence", "GraphicObjectSequence", "NumberOfGraphicPoints", 7)),
    Broken("no displayed area", STATE, _delete("DisplayedAreaSelectionSequence")),
    Broken("a key object that selects nothing", KEY,
           lambda ds: _set("ContentSequence", [i for i in ds.ContentSequence if "ReferencedSOPSequence" not in i])(ds)),
    Broken("a key image that is no evidence", KEY, _without_evidence),
    Broken("another patient", SEG, _set("PatientID", "SOMEBODY ELSE")),
    Broken("another study", STL, _set("StudyInstanceUID", "1.2.3.4.5")),
    Broken("a UID with a leading zero", SEG, _set("FrameOfReferenceUID", "1.2.03.4")),
    Broken("a date with dashes", REPORT, _set("ContentDate", "2026-01-03")),
    Broken("File Meta of another instance", CAD, _meta),
    Broken("the other results are not named", SEG, _delete("RelatedSeriesSequence")),
    Broken("a private code of no known scheme", STL, _delete("CodingSchemeIdentificationSequence")),
    Broken("an algorithm without its version", SEG,
           _delete("SegmentSequence", "SegmentationAlgorithmIdentificationSequence", "AlgorithmVersion")),
    Broken("a dimension of no functional group", SEG, _delete("DimensionIndexSequence", "FunctionalGroupPointer")),
    Broken("slices of no thickness", SEG,
           _delete("SharedFunctionalGroupsSequence", "PixelMeasuresSequence", "SliceThickness")),
    Broken("a negative spacing between slices", SEG,
           _set("SharedFunctionalGroupsSequence", "PixelMeasuresSequence", "SpacingBetweenSlices", "-3")),
    Broken("another series of no study", SEG, _delete("RelatedSeriesSequence", "StudyInstanceUID")),
    Broken("a segmentation that is of no image type", SEG, _set("ImageType", ["WRONG", "PRIMARY"])),
    Broken("a character set that is empty", STL, _set("SpecificCharacterSet", "")),
    Broken("a value mapping without its unit", VOLUME,
           _delete("RealWorldValueMappingSequence", "MeasurementUnitsCodeSequence")),
    Broken("a window without its width", VOLUME, _delete("WindowWidth")),
    Broken("a pointer to the next of one frame", TURNTABLE, _set("FrameIncrementPointer", Tag("FrameTime"))),
    Broken("a direction of no patient", PICTURE, _set("PatientOrientation", ["X", "F"])),
    Broken("a text whose place is in no unit", STATE,
           _delete("GraphicAnnotationSequence", "TextObjectSequence", "BoundingBoxAnnotationUnits")),
    Broken("a rescale slope without its intercept", STATE, _delete("RescaleIntercept")),
    Broken("a graphic in units that are none", STATE,
           _set("GraphicAnnotationSequence", "GraphicObjectSequence", "GraphicAnnotationUnits", "MM")),
    Broken("a summary that no one can read", CAD, _item("111017", _set("ConceptCodeSequence", "CodeValue", "1"))),
    Broken("a side without its meaning", CAD, _item("111027", _delete("ConceptCodeSequence", "CodeMeaning"))),
    Broken("evidence of no series", CAD,
           _delete("CurrentRequestedProcedureEvidenceSequence", "ReferencedSeriesSequence", "SeriesInstanceUID")),
    Broken("a prior that is not listed with its study", SEG,
           _delete("StudiesContainingOtherReferencedInstancesSequence")),
    Broken("a prior in a study that is not its own", VOLUME,
           _set("StudiesContainingOtherReferencedInstancesSequence", "StudyInstanceUID", "1.2.3.4.6")),
    Broken("a prior that is not named", REPORT, _without_prior),
    Broken("fewer labels than pictures", MARKED, _cut("FrameLabelVector", 1)),
    Broken("the other results are not named", MARKED, _delete("RelatedSeriesSequence")),
    Broken("a name of another scheme", REPORT, _item("126010", _name("CodingSchemeDesignator", "SCT"))),
    Broken("a name that means something else", REPORT,
           _item("112039", _name("CodeMeaning", "Tracking Unique Identifier"))),
    Broken("a name whose code there is not", REPORT, _item("121015", _name("CodeValue", "121020"))),
    Broken("a measurement that means something else", REPORT,
           _first("NUM", _name("CodeMeaning", "Area"))),
    Broken("a procedure of another scheme", REPORT, _item("121058", _value("CodingSchemeDesignator", "SRT"))),
    Broken("a unit of no unit system", REPORT,
           _first("NUM", _set("MeasuredValueSequence", *_UNIT, "SCT"))),
    Broken("a view that means another", CAD, _item("111031", _set("ConceptCodeSequence", "CodeMeaning", "oblique"))),
    Broken("a name of another scheme", CAD, _item("111064", _name("CodingSchemeDesignator", "SCT"))),
    Broken("a title that means another", KEY, _name("CodeMeaning", "Rejected for Quality Reasons")),
    Broken("a name of another scheme", KEY, _item("113012", _name("CodingSchemeDesignator", "99DCM"))),
    Broken("a purpose that PS3.16 does not have", PICTURE,
           _set("SourceImageSequence", "PurposeOfReferenceCodeSequence", "CodeValue", "121999")),
)  # fmt: skip

VOLUME_KINDS = frozenset({SEG, LABELMAP, STL, OBJ, MTL, VOLUME, TURNTABLE})


def results() -> dict[bool, tuple[list[Dataset], list[Dataset], list[bytes]]]:
    """Inputs, results and their files, by whether they are of a volume."""
    made = {True: result_objects.volume_results(), False: result_objects.mammogram_results()}
    return {volume: (*each, [provenance.part10(ds) for ds in each[1]]) for volume, each in made.items()}


def of_volume(each: Broken) -> bool:
    """Of which set a broken copy is made: reports and others there are in both are those of mammograms."""
    return each.of in VOLUME_KINDS


def main(folder: Path) -> None:
    """Write every broken copy, and the originals beside."""
    (folder / "originals").mkdir(parents=True, exist_ok=True)
    (folder / "broken").mkdir(exist_ok=True)
    made = results()
    for volume, (_, _, originals) in made.items():
        for number, data in enumerate(originals):
            (folder / "originals" / f"{volume}-{number}.dcm").write_bytes(data)
    for number, each in enumerate(BROKEN, 1):
        index, files = each.of_set(*made[of_volume(each)][1:])
        (folder / "broken" / f"{number:02d}.dcm").write_bytes(files[index])


NAMES = {
    SEG: "Segmentation", LABELMAP: "label map", STL: "STL", OBJ: "OBJ", MTL: "MTL", VOLUME: "grey volume",
    MARKED: "pictures",
    TURNTABLE: "turntable", PICTURE: "picture", REPORT: "TID 1500", CAD: "CAD SR", KEY: "Key Object", STATE: "GSPS",
}  # fmt: skip


def compare(folder: Path) -> None:
    """Print what other validators find in each broken copy, as Markdown."""
    script = Path(__file__).with_name("validate_results.sh")
    command = ["bash", str(script), "--skip-set", str(folder / "broken")]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found: dict[int, set[str]] = {}
    for line in said.splitlines():
        told = re.match(r"(\S+)\s+(\d+)\.dcm\s+ERROR: (.*)", line)
        if told and told[1] != "younger":  # those are our own checks
            found.setdefault(int(told[2]), set()).add(told[1])
    print("| object | defect | found by others |\n|---|---|---|")
    for number, each in enumerate(BROKEN, 1):
        print(f"| {NAMES[each.of]} | {each.what} | {', '.join(sorted(found.get(number, ()))) or 'none'} |")
    print(f"\n{len(found)} of {len(BROKEN)} are found by others.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    if "--compare" in sys.argv:
        compare(Path(sys.argv[1]))
