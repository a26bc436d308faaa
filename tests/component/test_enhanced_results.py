"""Results of multi-frame images (Enhanced CT): every object refers to the frames that it was made of."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import highdicom
import numpy as np
import result_objects
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian, SegmentationStorage

from analysis import inputs
from analysis.api import LabelMap
from analysis.evaluation import ct_phantom
from analysis.kit.context import LocalContext
from analysis.plugins.bone_surface import BoneSurfaceParams, plugin
from analysis.results import checks, provenance
from analysis.results.encode import FORMS, encode

MOVED = {
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices",
    "RescaleSlope", "RescaleIntercept", "RescaleType",
}  # fmt: skip


def holding(**values: object) -> Dataset:
    """A data set with these attributes."""
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def enhanced(slices: Sequence[Dataset]) -> Dataset:
    """The same slices as frames of one instance (PS3.3 A.38)."""
    first = slices[0]
    ds = copy.deepcopy(first)
    for keyword in MOVED & {element.keyword for element in first}:
        del ds[keyword]
    ds.SOPClassUID, ds.SOPInstanceUID = EnhancedCTImageStorage, f"{first.SOPInstanceUID}.9"
    ds.NumberOfFrames, ds.PixelData = len(slices), b"".join(each.PixelData for each in slices)
    values = holding(RescaleSlope=first.RescaleSlope, RescaleIntercept=first.RescaleIntercept, RescaleType="HU")
    ds.SharedFunctionalGroupsSequence = [
        holding(
            PixelMeasuresSequence=[holding(PixelSpacing=first.PixelSpacing, SliceThickness="1.7")],
            PlaneOrientationSequence=[holding(ImageOrientationPatient=first.ImageOrientationPatient)],
            PixelValueTransformationSequence=[values],
        )
    ]
    ds.PerFrameFunctionalGroupsSequence = [
        holding(PlanePositionSequence=[holding(ImagePositionPatient=each.ImagePositionPatient)]) for each in slices
    ]
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def test_a_volume_of_frames_has_every_result(tmp_path: Path) -> None:
    """Two instances of one series, the frames of one upside down, as scanners may number them."""
    series = ct_phantom.ct_series(result_objects._scan())
    instances = [enhanced(series[:5]), enhanced(series[:4:-1])]
    paths = [tmp_path / f"{number}.dcm" for number in range(2)]
    for path, ds in zip(paths, instances, strict=True):
        path.write_bytes(provenance.part10(ds))
    volume, used = inputs.volume([inputs.read(path) for path in paths])
    host = LocalContext({"series": volume})
    plugin.run(host, BoneSurfaceParams(views=1, max_triangles=1000))
    run = result_objects.run_on([each.header for each in used])
    results = encode(run, host.emitted, FORMS)
    files = [provenance.part10(ds) for ds in results]
    assert checks.examine(files, run.sources) == []
    assert len({ds.SOPClassUID for ds in results}) == 8
    # Each frame of the labels lies where the frame lies that it names, and holds what was found there.
    labels = next(value for _, value in host.emitted if isinstance(value, LabelMap))
    (tmp_path / "labels.dcm").write_bytes(files[0])
    read = highdicom.seg.segread(tmp_path / "labels.dcm")
    assert (read.SOPClassUID, len(read.SegmentSequence)) == (SegmentationStorage, 1)
    known = {ds.SOPInstanceUID: ds for ds in instances}
    seen = set()
    for frame, pixels in zip(read.PerFrameFunctionalGroupsSequence, read.pixel_array, strict=True):
        [named] = frame.DerivationImageSequence[0].SourceImageSequence
        source = known[named.ReferencedSOPInstanceUID].PerFrameFunctionalGroupsSequence[named.ReferencedFrameNumber - 1]
        place = frame.PlanePositionSequence[0].ImagePositionPatient
        assert place == source.PlanePositionSequence[0].ImagePositionPatient
        at = int(np.linalg.norm(volume.positions - np.array(place, float), axis=1).argmin())
        assert np.array_equal(pixels > 0, labels.labels[at] > 0)
        seen.add((named.ReferencedSOPInstanceUID, named.ReferencedFrameNumber))
    assert len({uid for uid, _ in seen}) == 2
    # Models, pictures and reports name each instance once.
    for file in files[1:]:
        (tmp_path / "other.dcm").write_bytes(file)
        other = dcmread(tmp_path / "other.dcm")
        for keyword in ("SourceInstanceSequence", "SourceImageSequence"):
            listed = [item.ReferencedSOPInstanceUID for item in other.get(keyword, ())]
            assert len(set(listed)) == len(listed)
