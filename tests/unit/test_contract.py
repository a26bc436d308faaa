"""What plug-ins may not hand out is refused before it is encoded, and the words name it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset

from analysis.api import (
    BrokenContract,
    Code,
    Image,
    ImageFindings,
    LabelMap,
    Mark,
    Measurement,
    Output,
    Segment,
    SegmentMeasurements,
    Surface,
    Turntable,
    Volume,
    VolumeRendering,
    VolumeReport,
)
from analysis.results import contract

BONE = Code("272673000", "SCT", "Bone")
ML = Code("mL", "UCUM", "milliliter")
ONE = Segment(1, "One", BONE, BONE)
LABELS = np.zeros((3, 4, 5), np.uint8)
LABELS[1, 1, 1] = 1
VOLUME = Volume(
    np.zeros((3, 4, 5), np.int16), np.zeros((3, 3)), np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), (1.0, 1.0),
    ("1.1", "1.2", "1.3"), "1.9",
)  # fmt: skip
MAP = LabelMap(VOLUME, LABELS, (ONE,))
IMAGE = Image(np.zeros((9, 9), np.uint16), None, False, "1.4")
MARK = Mark("A1", BONE, "point", np.array([[1.0, 2.0]]), 0.5)


FILM = Turntable(VOLUME, np.ones((2, 4, 4, 3), np.uint8), 1.0)
GREY = VolumeRendering(VOLUME, np.zeros((2, 4, 4), np.uint8), np.zeros(3), 1.0, -1000.0, 1000.0, 300.0)


def report(value: float, segment: Segment = ONE) -> VolumeReport:
    return VolumeReport(VOLUME, (SegmentMeasurements(segment, (Measurement(BONE, value, ML),)),))


def findings(*marks: Mark) -> ImageFindings:
    return ImageFindings(IMAGE, marks, "")


def test_what_is_in_order_passes() -> None:
    two = replace(MARK, identifier="A2", parent="A1", shape="circle", points=np.array([[1.0, 2.0], [2.0, 2.0]]))
    contract.examine(
        [("l", MAP), ("r", report(1.0)), ("f", findings()), ("f", findings(MARK, two)), ("t", FILM), ("v", GREY)]
    )


@pytest.mark.parametrize(
    ("emitted", "words"),
    [
        ([{"a": 1}], "what is no result: dict"),
        ([replace(MAP, labels=LABELS[1:])], "The labels are (2, 4, 5), and their volume (3, 4, 5)"),
        ([replace(MAP, labels=LABELS[1:], volume=replace(VOLUME, data=VOLUME.data[1:]))], "The labels are (2, 4, 5)"),
        ([replace(MAP, labels=LABELS * 0)], "without a voxel"),
        ([replace(MAP, labels=LABELS * 7)], "no segment: [7]"),
        ([replace(MAP, segments=(ONE, replace(ONE, number=3)))], "without a gap, not [1, 3]"),
        ([replace(MAP, segments=())], "without a gap, not []"),
        ([MAP, report(float("nan"))], "is no number: Bone"),
        ([MAP, VolumeReport(VOLUME, ())], "without a segment"),
        ([MAP, report(1.0, replace(ONE, number=2))], "Segment 2 is none of those"),
        ([MAP, Surface(VOLUME, replace(ONE, number=2), np.zeros((3, 3)), np.zeros((1, 3)), 0.1)], "Segment 2 is none"),
        ([replace(FILM, frames=FILM.frames * 0)], "nothing to be seen"),
        ([replace(FILM, frames=FILM.frames[..., 0])], "not uint8 of the shape (2, 4, 4)"),
        ([replace(GREY, data=GREY.data.astype(float))], "uint8, not float64"),
        ([replace(GREY, pitch=0.0)], "a pitch above 0 mm"),
        ([replace(GREY, high=-1000.0)], "low is not below high"),
        ([findings(MARK, MARK)], "an identifier of its own"),
        ([findings(replace(MARK, identifier=""))], "an identifier of its own"),
        ([findings(replace(MARK, parent="B"))], "The parent of mark A1"),
        ([findings(replace(MARK, parent="A1"))], "The parent of mark A1"),
        ([findings(replace(MARK, shape="polygon"))], "not the points of a polygon"),
        ([findings(replace(MARK, points=np.array([[np.nan, 1.0]])))], "not the points of a point"),
        ([findings(replace(MARK, score=2.0))], "The score of mark A1"),
    ],
)
def test_what_is_not_is_refused_in_words(emitted: list[Any], words: str) -> None:
    with pytest.raises(BrokenContract) as told:
        contract.examine([("given", each) for each in emitted])
    assert words in str(told.value)


def test_less_than_is_declared_is_no_result() -> None:
    made = [Dataset(), Dataset()]
    made[0].Modality, made[1].Modality = "SEG", "MG"
    outputs = [Output(name="l", kind="SEG"), Output(name="p", kind="SC"), Output(name="m", kind="M3D", optional=True)]
    contract.complete(outputs, made)
    contract.complete((), ())
    with pytest.raises(BrokenContract, match="declared, and not made: SR"):
        contract.complete([*outputs, Output(name="r", kind="SR")], made)
