"""What plug-ins may not hand out is refused before it is encoded, and the words name it."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from pydicom import Dataset

import analysis
from analysis.api import (
    NO_UNIT,
    BrokenContract,
    Code,
    Image,
    ImageFindings,
    Input,
    LabelMap,
    Manifest,
    Mark,
    Measurement,
    OperatingPoint,
    Output,
    Segment,
    SegmentMeasurements,
    Surface,
    Turntable,
    Volume,
    VolumeRendering,
    VolumeReport,
)
from analysis.results import contract, contract_terms, places

NAN, INF = math.nan, math.inf
BONE = Code("272673000", "SCT", "Bone")
VOLUMES = Code("118565006", "SCT", "Volume")
ML = Code("mL", "UCUM", "milliliter")
ONE = Segment(1, "One", BONE, BONE)
LABELS = np.zeros((3, 4, 5), np.uint8)
LABELS[1, 1, 1] = 1
VOLUME = Volume(
    np.zeros((3, 4, 5), np.int16), np.zeros((3, 3)), np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), (1.0, 1.0),
    ("1.1", "1.2", "1.3"), "1.9",
)  # fmt: skip
FOREIGN = replace(VOLUME, sop_instance_uids=("1.1", "1.2", "1.77"))
OF_A_PRIOR = replace(VOLUME, sop_instance_uids=("1.1", "1.2", "1.5"))
MAP = LabelMap(VOLUME, LABELS, (ONE,))
IMAGE = Image(np.zeros((9, 8), np.uint16), None, False, "1.4")
MARK = Mark("A1", BONE, "point", np.array([[1.0, 2.0]]), 0.5)
B = replace(MARK, identifier="B", parent="A1")
RING = replace(MARK, shape="circle", points=np.array([[1.0, 2.0], [2.0, 2.0]]))
CORNERS = np.array([[0, 0, 0], [9, 0, 0], [0, 9, 0], [0, 0, 9]], np.float32)
PYRAMID = Surface(VOLUME, ONE, CORNERS, np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32), 0.1)
FILM = Turntable(VOLUME, np.ones((2, 4, 4, 3), np.uint8), 1.0)
GREY = VolumeRendering(VOLUME, np.zeros((2, 4, 4), np.uint8), np.zeros(3), 1.0, -1000.0, 1000.0, 300.0)


def instance(uid: str, rows: int, columns: int, study: str = "2.1") -> Dataset:
    ds = Dataset()
    ds.SOPInstanceUID, ds.StudyInstanceUID, ds.Rows, ds.Columns = uid, study, rows, columns
    return ds


SOURCES = [*(instance(uid, 4, 5) for uid in ("1.1", "1.2", "1.3")), instance("1.4", 9, 8), instance("1.5", 4, 5, "2.2")]


def report(value: float, segment: Segment = ONE, name: Code = VOLUMES, unit: Code = ML) -> VolumeReport:
    return VolumeReport(VOLUME, (SegmentMeasurements(segment, (Measurement(name, value, unit),)),))


def findings(*marks: Mark, **other: Any) -> ImageFindings:
    return replace(ImageFindings(IMAGE, marks, "Something seen"), **other)


def called(value: str = "A-1", scheme: str = "99ACME", meaning: str = "Shadow") -> Code:
    return Code(value, scheme, meaning)


def test_what_is_in_order_passes() -> None:
    two = replace(RING, identifier="A2", parent="A1")
    outline = replace(MARK, shape="polygon", points=np.array([[-2.0, 1.0], [6.0, 1.0], [6.0, 12.0]]))
    point = OperatingPoint(0.3, 0.2, "On phantoms")
    long = replace(
        MARK, finding=called("a value that needs more room"), measurements=(Measurement(called(), 3, NO_UNIT),)
    )
    contract.examine(
        [("l", MAP), ("r", report(1.0)), ("f", findings(MARK, two)), ("t", FILM), ("v", GREY), ("s", PYRAMID)], SOURCES
    )
    contract.examine([("f", findings(outline, operating_point=point))], SOURCES)
    contract.examine([("f", findings(long))], SOURCES)
    contract.examine([("f", findings())], SOURCES)
    contract.examine([("s", PYRAMID)], SOURCES)


BEYOND = "does not lie on its image of 8 columns and 9 rows"
WRONG: list[tuple[Any, str]] = [
    ([{"a": 1}], "what is no result: dict"),
    # Labels
    ([replace(MAP, labels=LABELS[1:])], "The labels are (2, 4, 5), and the slices of their volume (3, 4, 5)"),
    ([replace(MAP, labels=LABELS[:, :3], volume=replace(VOLUME, data=VOLUME.data[:, :3]))], "The labels are (3, 3, 5)"),
    ([replace(MAP, labels=LABELS * 0)], "without a voxel"),
    ([replace(MAP, labels=LABELS * 7)], "no segment: [7]"),
    ([replace(MAP, labels=LABELS.astype(float))], "Labels are uint8, not float64"),
    ([replace(MAP, labels=LABELS.tolist())], "Labels are uint8, not list"),
    ([replace(MAP, segments=(ONE, replace(ONE, number=3)))], "without a gap, not [1, 3]"),
    ([replace(MAP, segments=(ONE, replace(ONE, number=2)))], "segments without a voxel: [2]"),
    ([replace(MAP, segments=())], "without a gap, not []"),
    ([MAP, MAP], "more than one LabelMap"),
    # Volumes
    ([replace(MAP, volume=FOREIGN)], "Labels name an instance that the task was not given"),
    ([replace(FILM, volume=FOREIGN)], "Turntables name an instance that the task was not given"),
    ([replace(GREY, volume=OF_A_PRIOR)], "Volumes to look at are of another study than the task"),
    ([replace(PYRAMID, volume=replace(VOLUME, sop_instance_uids=()))], "of a volume without slices"),
    ([replace(PYRAMID, volume=replace(VOLUME, sop_instance_uids=("1.1",) * 3))], "has a slice twice"),
    ([replace(PYRAMID, volume=replace(VOLUME, frame_of_reference_uid=""))], "without a frame of reference"),
    ([replace(MAP, volume=replace(VOLUME, positions=VOLUME.positions * NAN))], "positions of a volume hold what is no"),
    ([replace(MAP, volume=replace(VOLUME, spacing=(1.0, 0.0)))], "spacing of a volume is 0 mm, not above 0"),
    # Segments
    ([replace(MAP, segments=(replace(ONE, label=""),))], "The label of segment 1 is empty"),
    ([replace(MAP, segments=(replace(ONE, label="x" * 65),))], "label of segment 1 has 65 characters"),
    ([replace(MAP, segments=(replace(ONE, label="a\\b"),))], "label of segment 1 has a backslash"),
    ([replace(MAP, segments=(replace(ONE, label="\ud800"),))], "label of segment 1 has a backslash or a control"),
    ([replace(MAP, segments=(replace(ONE, colour=(0, 0, 256)),))], "colour of segment 1 is not three numbers from 0"),
    ([replace(MAP, segments=(replace(ONE, colour=(0, -1, 0)),))], "colour of segment 1 is not three numbers from 0"),
    ([replace(MAP, segments=(replace(ONE, colour=(0, 1)),))], "colour of segment 1 is not three numbers from 0"),
    ([replace(PYRAMID, segment=replace(ONE, number=0))], "number of a segment is 0, not from 1 to 255"),
    # Surfaces
    ([MAP, replace(PYRAMID, segment=replace(ONE, number=2))], "Segment 2 is none of those"),
    ([MAP, replace(PYRAMID, segment=replace(ONE, label="Two"))], "Segment 1 is another here than in the label map"),
    ([PYRAMID, PYRAMID], "more than one surface of segment 1"),
    ([replace(PYRAMID, faces=PYRAMID.faces + 1)], "name a vertex that is not there: there are 4"),
    ([replace(PYRAMID, faces=PYRAMID.faces - 1)], "name a vertex that is not there"),
    ([replace(PYRAMID, faces=PYRAMID.faces[:0])], "of segment 1 are int32 of the shape (0, 3)"),
    ([replace(PYRAMID, faces=PYRAMID.faces.astype(float))], "The faces of the surface of segment 1 are float64"),
    ([replace(PYRAMID, vertices=CORNERS * NAN)], "vertices of the surface of segment 1 hold what is no number"),
    ([replace(PYRAMID, vertices=CORNERS.tolist())], "The vertices of the surface of segment 1 are no NumPy array"),
    ([replace(PYRAMID, vertices=CORNERS.astype(float) * 1e200)], "not in mm: they lie beyond any patient"),
    ([replace(PYRAMID, error_mm=INF)], "The error of the surface of segment 1 is no finite number"),
    ([replace(PYRAMID, error_mm=-1.0)], "The error of the surface of segment 1 is -1, not 0 or more"),
    # Reports
    ([report(1.0)], "without the label map that holds them"),
    ([MAP, report(NAN)], "The measurement 'Volume' of segment 1 is no finite number"),
    ([MAP, report(INF)], "The measurement 'Volume' of segment 1 is no finite number"),
    ([MAP, VolumeReport(VOLUME, ())], "without a segment"),
    ([MAP, VolumeReport(VOLUME, (SegmentMeasurements(ONE, ()),))], "no measurement of segment 1"),
    ([MAP, VolumeReport(VOLUME, report(1.0).groups * 2)], "of each segment in one group"),
    ([MAP, report(1.0), report(1.0)], "more than one VolumeReport"),
    ([MAP, report(1.0, replace(ONE, number=2))], "Segment 2 is none of those"),
    ([MAP, report(1.0, unit=called())], "The unit of the measurement 'Volume' of segment 1 is not of UCUM"),
    ([MAP, report(1.0, name=Code("112039", "DCM", "Tracking Identifier"))], "that reports use themselves: 112039"),
    ([MAP, replace(report(1.0), conclusion="\0")], "The conclusion of a report is no text"),
    # Pictures
    ([replace(FILM, frames=FILM.frames * 0)], "nothing to be seen"),
    ([replace(FILM, frames=FILM.frames[..., 0])], "The frames of a turntable are uint8 of the shape (2, 4, 4)"),
    ([replace(FILM, pitch=NAN)], "The pitch of a turntable is no finite number"),
    ([FILM, FILM], "more than one Turntable"),
    ([replace(GREY, data=GREY.data.astype(float))], "The voxels of a volume to look at are float64"),
    ([replace(GREY, data=GREY.data.astype(np.uint16))], "Pictures are uint8, not uint16"),
    ([replace(GREY, pitch=0.0)], "pitch of a volume to look at is 0 mm, not above 0"),
    ([replace(GREY, origin=np.array([0, INF, 0]))], "origin of a volume to look at hold what is no number"),
    ([replace(GREY, high=-1000.0)], "low is not below high"),
    ([replace(GREY, threshold=NAN)], "Threshold of a volume to look at is no finite number"),
    ([GREY, GREY], "more than one VolumeRendering"),
    # Findings on images
    ([findings(), findings(MARK)], "more than one findings on one image"),
    ([findings(image=replace(IMAGE, sop_instance_uid="1.77"))], "Findings name an instance that the task was"),
    ([findings(image=replace(IMAGE, sop_instance_uid="1.5"))], "Findings are of another study than the task"),
    ([findings(image=replace(IMAGE, frame_number=2))], "Findings on frame 2 of an image that has 1"),
    ([findings(image=replace(IMAGE, data=IMAGE.data[::2]))], "of (5, 8) pixels, of which the input has (9, 8)"),
    ([findings(spacing=(0.0, 0.1))], "The spacing of image findings is 0 mm, not above 0"),
    ([findings(spacing=(0.1, -0.1))], "The spacing of image findings is -0.1 mm, not above 0"),
    ([findings(spacing=(NAN, 0.1))], "The spacing of image findings is no finite number"),
    ([findings(spacing=(0.1,))], "The spacing of image findings has 1 numbers"),
    ([findings(spacing=None)], "does not have the types of analysis.api: TypeError"),
    ([findings(summary=" ")], "The summary of image findings is empty"),
    ([findings(summary="one\ntwo")], "The summary of image findings has a backslash or a control character"),
    ([findings(MARK, analysed=False)], "An image that was not analysed has no marks"),
    ([findings(operating_point=OperatingPoint(NAN, 0.1))], "threshold of an operating point is no finite number"),
    ([findings(operating_point=OperatingPoint(0.5, -1.0))], "of an operating point is -1, not 0 or more"),
    ([findings(operating_point=OperatingPoint(0.5, INF))], "of an operating point is no finite number"),
    ([findings(operating_point=OperatingPoint(0.5, None, "a\tb"))], "The basis of an operating point has a backslash"),
    # Marks
    ([findings(MARK, MARK)], "an identifier of its own"),
    ([findings(replace(MARK, identifier=""))], "The identifier of a mark is empty"),
    ([findings(replace(MARK, identifier=7))], "The identifier of a mark is no text, but int"),
    ([findings(replace(MARK, parent="B"))], "The parent of mark A1 is no other mark"),
    ([findings(replace(MARK, parent="A1"))], "The parent of mark A1 is no other mark"),
    ([findings(MARK, B, replace(B, identifier="C", parent="B"))], "there are two levels, no more"),
    ([findings(replace(MARK, shape="star"))], "The shape of mark A1 is none of point, circle, polygon"),
    ([findings(replace(MARK, shape="polygon"))], "not the points of a polygon"),
    ([findings(replace(MARK, shape="polygon", points=np.ones((9000, 2))))], "not the points of a polygon, but 9000"),
    ([findings(replace(MARK, points=np.array([[NAN, 1.0]])))], "points of mark A1 hold what is no number"),
    ([findings(replace(MARK, points=np.array([[1.0, 1.0, 1.0]])))], "of the shape (1, 3), not of the shape (n, 2)"),
    ([findings(replace(MARK, points=[[1.0, 2.0]]))], "The points of mark A1 are no NumPy array, but list"),
    ([findings(replace(MARK, points=np.array([[8.1, 2.0]])))], BEYOND),
    ([findings(replace(MARK, points=np.array([[2.0, -0.1]])))], BEYOND),
    ([findings(replace(RING, points=RING.points + 9))], BEYOND),
    ([findings(replace(MARK, shape="polygon", points=np.array([[9.0, 1], [9, 9], [12, 9]])))], BEYOND),
    ([findings(replace(RING, points=RING.points[[0, 0]]))], "a circle of no size"),
    ([findings(replace(MARK, score=2.0))], "The score of mark A1 is 2, not from 0 to 1"),
    ([findings(replace(MARK, score=NAN))], "The score of mark A1 is no finite number"),
    ([findings(replace(MARK, score="1"))], "The score of mark A1 is no finite number"),
    ([findings(replace(MARK, measurements=(Measurement(VOLUMES, NAN, ML),)))], "'Volume' of mark A1 is no finite"),
    # Codes
    ([findings(replace(MARK, finding="Bone"))], "The finding of mark A1 is no Code, but str"),
    ([findings(replace(MARK, finding=called("")))], "The value of the code of the finding of mark A1 is empty"),
    ([findings(replace(MARK, finding=called(scheme="")))], "The coding scheme of the finding of mark A1 is empty"),
    ([findings(replace(MARK, finding=called(scheme="9" * 17)))], "The coding scheme of the finding of mark A1 has 17"),
    ([findings(replace(MARK, finding=called(meaning="")))], "The meaning of the code of the finding of mark A1 is"),
    ([findings(replace(MARK, finding=called(meaning="x" * 65)))], "of the code of the finding of mark A1 has 65"),
    ([findings(replace(MARK, finding=called(meaning="a\\b")))], "of the code of the finding of mark A1 has"),
    ([findings(replace(MARK, finding=called(meaning="a\x1bb")))], "of the code of the finding of mark A1 has"),
    ([replace(MAP, segments=(replace(ONE, type=replace(BONE, meaning="Tooth")),))], "means 'Bone', not 'Tooth'"),
    ([MAP, report(1.0, name=replace(VOLUMES, meaning="Weight"))], "118565006 of SCT, means 'Volume', not 'Weight'"),
    ([MAP, report(1.0, unit=replace(ML, meaning="liter"))], "mL of UCUM, means 'milliliter', not 'liter'"),
    ([MAP, report(1.0, name=Code("999999", "DCM", "Volume"))], "999999, is none that DCM has"),
]  # fmt: skip


@pytest.mark.parametrize(("emitted", "words"), WRONG, ids=[f"{n} {words[:40]}" for n, (_, words) in enumerate(WRONG)])
def test_what_is_not_is_refused_in_words(emitted: list[Any], words: str) -> None:
    with pytest.raises(BrokenContract) as told:
        contract.examine([("given", each) for each in emitted], SOURCES)
    assert words in str(told.value)


@pytest.mark.parametrize(
    "known",
    [
        Code("272673000", "SCT", "bone structure (body structure)"),
        Code("mm", "UCUM", "millimetre"),
        Code("mL", "UCUM", "mL"),
        Code("{calcifications}", "UCUM", "calcifications"),
        Code("118565006", "99ACME", "what that scheme says"),
        Code("108369006", "SCT", "Tumour"),
        Code("397144001", "SCT", "4 - Suspicious"),
    ],
)
def test_a_meaning_may_be_spelt_as_people_spell_it(known: Code) -> None:
    contract_terms.code(known, "it")


def codes_in_the_source() -> Iterator[Code]:
    """Every code that a line of the product or an example writes in full."""
    root = Path(analysis.__file__).parent
    for path in (*root.rglob("*.py"), *root.parent.joinpath("examples").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Code":
                values = [each.value for each in node.args if isinstance(each, ast.Constant)]
                if len(values) == 3:
                    yield Code(*values)


def test_every_code_of_ours_means_what_the_tables_say() -> None:
    written = set(codes_in_the_source())
    assert len(written) > 80
    for each in written:
        contract_terms.code(each, "it")


def test_a_circle_that_crosses_the_border_stays_as_large_as_it_is() -> None:
    across = replace(RING, points=np.array([[7.0, 4.0], [10.0, 4.0]]))
    assert places.on_image(across, (9, 8)).tolist() == [[7.0, 4.0], [4.0, 4.0]]
    assert places.extent(across) == (4.0, 1.0, 10.0, 7.0)
    outline = replace(MARK, shape="polygon", points=np.array([[-2.0, 1.0], [6.0, 1.0], [6.0, 12.0]]))
    assert places.on_image(outline, (9, 8)).tolist() == [[0.0, 1.0], [6.0, 1.0], [6.0, 9.0]]


def test_less_than_is_declared_is_no_result() -> None:
    made = [Dataset(), Dataset()]
    made[0].Modality, made[1].Modality = "SEG", "MG"
    outputs = [Output(name="l", kind="SEG"), Output(name="p", kind="SC"), Output(name="m", kind="M3D", optional=True)]
    contract.complete(outputs, made)
    contract.complete((), ())
    with pytest.raises(BrokenContract, match="declared, and not made: SR"):
        contract.complete([*outputs, Output(name="r", kind="SR")], made)


@pytest.mark.parametrize("title", ["", " ", "a\\b", "a\x00b", "x" * 65])
def test_a_plug_in_has_a_name_that_its_results_can_carry(title: str) -> None:
    inputs = (Input(name="series"),)
    Manifest(id="a-plug-in", version="1.0", title="Lungs, in colour – ✓", inputs=inputs, outputs=())
    with pytest.raises(ValidationError):
        Manifest(id="a-plug-in", version="1.0", title=title, inputs=inputs, outputs=())
    with pytest.raises(ValidationError):
        Manifest(id="a-plug-in", version=title, title="Lungs", inputs=inputs, outputs=())
