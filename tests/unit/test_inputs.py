"""Instances to volumes and images: the place of every slice, in words where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import dicom_data
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from analysis import inputs
from analysis.api import NotAnalysable, Volume
from pacs import uids

Read = Callable[[Iterable[Dataset]], list[inputs.Instance]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Write data sets to files and read them as the child does."""

    def reader(datasets: Iterable[Dataset]) -> list[inputs.Instance]:
        found = []
        for n, ds in enumerate(datasets):
            path = tmp_path / f"{n}.dcm"
            path.write_bytes(dicom_data.part10(ds))
            found.append(inputs.read(path))
        return found

    return reader


def volume_of(read: Read, datasets: Iterable[Dataset]) -> Volume:
    return inputs.volume(read(datasets))[0]


def test_slices_in_any_order_come_out_along_the_normal(read: Read) -> None:
    shuffled = [dicom_data.image(z) for z in (3, 0, 4, 1, 2)]
    volume, used = inputs.volume(read(shuffled))
    assert volume.data.shape == (5, 16, 12)
    assert volume.data.dtype == np.int16
    assert volume.positions[:, 2].tolist() == [0, 1, 2, 3, 4]
    assert volume.sop_instance_uids == tuple(uids.derived("instance", z) for z in range(5))
    assert len(used) == 5
    expected = (np.arange(16 * 12).reshape(16, 12) * 7 + 2) % 4096 - 1024
    assert np.array_equal(volume.data[2], expected)
    assert volume.spacing == (0.5, 0.5)
    assert volume.attributes["00100020"]["Value"] == ["SYN-1"]
    assert "7FE00010" not in volume.attributes


def test_feet_first_normal_turns_the_order(read: Read) -> None:
    made = [dicom_data.image(z, ImageOrientationPatient=[1, 0, 0, 0, -1, 0]) for z in range(4)]
    volume = volume_of(read, made)
    assert volume.positions[:, 2].tolist() == [3, 2, 1, 0]
    assert volume.column.tolist() == [0, -1, 0]


def test_tilt_and_uneven_gaps_stay(read: Read) -> None:
    angle = np.deg2rad(20)
    orientation = [1, 0, 0, 0, np.cos(angle), -np.sin(angle)]
    heights = [0, 2.5, 5, 10, 15]  # base of the skull finer than the rest
    made = [
        dicom_data.image(
            n, ImagePositionPatient=[-10, -20, z], ImageOrientationPatient=[f"{c:.6f}" for c in orientation]
        )
        for n, z in enumerate(heights)
    ]
    volume = volume_of(read, made)
    assert np.array_equal(volume.positions, [[-10, -20, z] for z in heights])
    assert np.allclose(volume.column, orientation[3:], atol=1e-6)


def test_unequal_rescale_is_applied_slice_by_slice(read: Read) -> None:
    made = [
        dicom_data.image(z, RescaleSlope=s, RescaleIntercept=i) for z, (s, i) in enumerate([(1, -1024), (0.5, 3.25)])
    ]
    volume = volume_of(read, made)
    assert volume.data.dtype == np.float32
    stored = (np.arange(16 * 12).reshape(16, 12) * 7 + 1) % 4096
    assert np.array_equal(volume.data[1], (stored * 0.5 + 3.25).astype(np.float32))
    assert volume.data[0].min() == -1024


def test_values_beyond_int16_become_float32(read: Read) -> None:
    volume = volume_of(read, [dicom_data.image(z, RescaleSlope=30) for z in range(2)])
    assert volume.data.dtype == np.float32
    stored = (np.arange(16 * 12).reshape(16, 12) * 7) % 4096
    assert np.array_equal(volume.data[0], (stored * 30 - 1024).astype(np.float32))


def test_signed_and_implicit(tmp_path: Path) -> None:
    pixels = np.arange(-96, 96, dtype=np.int16).reshape(16, 12)
    found = []
    for z in range(2):
        ds = dicom_data.image(z, PixelRepresentation=1, RescaleIntercept=0, BitsStored=16, HighBit=15)
        ds.PixelData = pixels.astype("<i2").tobytes()
        path = tmp_path / f"{z}.dcm"
        path.write_bytes(dicom_data.part10(ds, ImplicitVRLittleEndian))
        found.append(inputs.read(path))
    volume, _ = inputs.volume(found)
    assert np.array_equal(volume.data[1], pixels)


def scout(**changes: Any) -> Dataset:
    return dicom_data.image(99, rows=32, columns=40, ImageOrientationPatient=[0, 1, 0, 0, 0, -1], **changes)


def test_localisers_are_left_out(read: Read) -> None:
    named = [*dicom_data.series(3), scout(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])]
    volume, used = inputs.volume(read(named))
    assert len(volume.positions) == 3
    assert len(used) == 3
    unnamed = [*dicom_data.series(20), scout()]
    assert len(volume_of(read, unnamed).positions) == 20


def mixed_orientation() -> list[Dataset]:
    turned = [dicom_data.image(9 + z, ImageOrientationPatient=[0, 1, 0, 0, 0, -1]) for z in range(3)]
    return [*dicom_data.series(3), *turned]


@pytest.mark.parametrize(
    ("datasets", "words"),
    [
        (mixed_orientation(), "orientations"),
        ([*dicom_data.series(3), *(dicom_data.image(9 + z, rows=8) for z in range(3))], "rows"),
        ([dicom_data.image(z, PixelSpacing=[0.5 + z, 0.5]) for z in range(4)], "pixel spacings"),
        ([*dicom_data.series(3), dicom_data.image(7, ImagePositionPatient=[0, 0, 1])], "several phases"),
        ([dicom_data.image(0)], "at least 2"),
        ([], "at least 2"),
        ([dicom_data.image(z, ImagePositionPatient=None) for z in range(3)], "ImagePositionPatient"),
        ([dicom_data.image(z, ImageOrientationPatient=[0, 0, 0, 0, 0, 0]) for z in range(3)], "perpendicular"),
        ([dicom_data.image(z, ImagePositionPatient=[0, 0, p]) for z, p in enumerate([0, 1, 2, 3, 40])], "missing"),
        ([dicom_data.image(z, PixelSpacing=[0, 0.5]) for z in range(3)], "not positive"),
        ([dicom_data.image(z, SamplesPerPixel=3, PhotometricInterpretation="RGB") for z in range(3)], "colour"),
        ([dicom_data.image(z, PixelData=b"\0" * 10) for z in range(3)], "cannot be decoded"),
    ],
)  # fmt: skip
def test_what_is_no_volume_is_refused_in_words(read: Read, datasets: list[Dataset], words: str) -> None:
    with pytest.raises(NotAnalysable, match=words):
        inputs.volume(read(datasets))


def test_enhanced_multi_frame_ct(read: Read) -> None:
    moved = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept")
    ds = dicom_data.image(0, SOPClassUID=EnhancedCTImageStorage, NumberOfFrames=4, **dict.fromkeys(moved))
    pixels = np.arange(4 * 16 * 12, dtype=np.uint16).reshape(4, 16, 12)
    ds.PixelData = pixels.tobytes()
    shared, measures, orientation, rescale = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [0.4, 0.6]
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    rescale.RescaleSlope, rescale.RescaleIntercept = 2, -1000
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([orientation])
    shared.PixelValueTransformationSequence = Sequence([rescale])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for z in (3, 2, 1, 0):
        frame, place = Dataset(), Dataset()
        place.ImagePositionPatient = [0, 0, z]
        frame.PlanePositionSequence = Sequence([place])
        frames.append(frame)
    ds.PerFrameFunctionalGroupsSequence = Sequence(frames)
    volume = volume_of(read, [ds])
    assert volume.spacing == (0.4, 0.6)
    assert volume.positions[:, 2].tolist() == [0, 1, 2, 3]
    assert np.array_equal(volume.data, pixels[::-1].astype(int) * 2 - 1000)


def test_mammograms(read: Read) -> None:
    first = dicom_data.mammogram(1, PhotometricInterpretation="MONOCHROME1")
    second = dicom_data.mammogram(0, PixelSpacing=None)
    images = inputs.images(read([first, second]))
    assert [image.inverted for image in images] == [False, True]
    assert images[0].spacing == (0.1, 0.1)
    assert images[1].spacing == (0.5, 0.5)
    assert images[0].data.dtype == np.uint16
    assert images[0].data[0, 0] == 2000
    assert images[0].frame_number is None
    with pytest.raises(NotAnalysable, match="no images"):
        inputs.images([])


def test_a_film_saved_in_colour_becomes_grey(read: Read) -> None:
    rgb = np.zeros((16, 12, 3), np.uint8)
    rgb[:, :6] = (200, 200, 200)
    rgb[:, 6:] = (255, 0, 0)
    ds = dicom_data.image(
        0, SOPClassUID=SecondaryCaptureImageStorage, SamplesPerPixel=3, PhotometricInterpretation="RGB",
        PlanarConfiguration=0, BitsAllocated=8, BitsStored=8, HighBit=7, PixelData=rgb.tobytes(), PixelSpacing=None,
        ImagePositionPatient=None, ImageOrientationPatient=None,
    )  # fmt: skip
    [image] = inputs.images(read([ds]))
    assert image.spacing is None
    assert image.data.dtype == np.uint16
    assert (image.data[0, 0], image.data[0, 6]) == (200, 76)


@pytest.mark.parametrize("transfer_syntax_uid", [RLELossless, DeflatedExplicitVRLittleEndian])
def test_compressed_slices_are_the_same_slices(tmp_path: Path, transfer_syntax_uid: str) -> None:
    found = []
    for ds in dicom_data.series(3):
        if transfer_syntax_uid == RLELossless:
            ds.file_meta = FileMetaDataset()
            ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            ds.compress(RLELossless, generate_instance_uid=False)
        path = tmp_path / f"{ds.InstanceNumber}.dcm"
        path.write_bytes(dicom_data.part10(ds, transfer_syntax_uid))
        found.append(inputs.read(path))
    volume, _ = inputs.volume(found)
    for z in range(3):
        assert np.array_equal(volume.data[z], (np.arange(16 * 12).reshape(16, 12) * 7 + z) % 4096 - 1024)
