"""Owns what is to be looked at of a volume, as multi-frame Secondary Captures (PS3.3 A.8.3, A.8.5) for any PACS.

The volume itself in few grey slices, each in its place, of which the X3D volume is a rendition; and a turntable, which
plays as a film of true colour frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from pydicom import DataElement, Dataset
from pydicom.tag import Tag
from pydicom.uid import (
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
)

from analysis.api import Code, Turntable, Volume, VolumeRendering
from analysis.results import provenance
from analysis.results.drawing import AMBER, WHITE, Canvas
from analysis.results.provenance import RunInfo
from analysis.results.relations import SOURCE_IMAGE

VOLUME, TURNTABLE = "VR", "TURN"
DISCLAIMER = "Not for diagnosis"
HOUNSFIELD = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
_LONG_SIDE = 384
_FRAME_MS = 120
_SIDES = ("A", "L", "P", "R")  # where the eye is, a quarter turn apart


def encode_volume(run: RunInfo, value: VolumeRendering) -> Dataset:
    """The finished grey volume: one frame a slice, from inferior to superior, each with its place in the patient.

    Stored values are Hounsfield units by the Real World Value Mapping; the window is around what is solid.
    """
    source = run.source(value.volume.sop_instance_uids[0])
    ds = Dataset()
    ds.SOPClassUID = MultiFrameGrayscaleByteSecondaryCaptureImageStorage
    ds.SOPInstanceUID = run.instance_uid(VOLUME)
    _image(ds, run, source, value.data, value.volume)
    provenance.series(ds, run, VOLUME, "OT", f"{run.plugin_title}: volume to look at")
    ds.FrameOfReferenceUID = source.get("FrameOfReferenceUID") or value.volume.frame_of_reference_uid
    ds.PositionReferenceIndicator = source.get("PositionReferenceIndicator", "")
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.PresentationLUTShape = "IDENTITY"
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"  # C.8.6.3: the identity, nothing else
    slope = (value.high - value.low) / 255
    ds.RealWorldValueMappingSequence = provenance.sequence(_mapping(value.low, slope))
    # Half of the window is what is solid, so that its centre says from where on (see `renditions`).
    ds.WindowCenter = f"{(value.threshold - value.low) / slope:.6g}"
    ds.WindowWidth = f"{max(2.0, min(255.0, 2 * 300 / slope)):.6g}"
    z = value.origin[2] + value.pitch * np.arange(len(value.data))
    if len(z) > 1:  # PS3.3 C.8.6.3: with one frame there is nothing to point to
        ds.FrameIncrementPointer = Tag("SliceLocationVector")
        ds.SliceLocationVector = [f"{each:.6g}" for each in z]
    ds.DerivationDescription = (
        f"Resampled to {value.pitch:.3g} mm for volume rendering by {run.plugin_title} {run.plugin_version}. "
        f"{DISCLAIMER}."
    )
    _places(ds, value, z)
    return provenance.finish(ds, run, source)


def _mapping(low: float, slope: float) -> Dataset:
    item = Dataset()
    item.LUTExplanation, item.LUTLabel = "Stored value to Hounsfield units", "HU"
    item.MeasurementUnitsCodeSequence = provenance.sequence(provenance.code(HOUNSFIELD))
    item.add_new("RealWorldValueFirstValueMapped", "US", 0)
    item.add_new("RealWorldValueLastValueMapped", "US", 255)
    item.RealWorldValueIntercept, item.RealWorldValueSlope = float(low), float(slope)
    return item


def _places(ds: Dataset, value: VolumeRendering, z: Sequence[float]) -> None:
    """Functional groups (PS3.3 C.7.6.16): the slices go upwards in the patient."""
    measures, orientation, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [f"{value.pitch:.8g}"] * 2
    measures.SliceThickness = measures.SpacingBetweenSlices = f"{value.pitch:.8g}"
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence = provenance.sequence(measures)
    shared.PlaneOrientationSequence = provenance.sequence(orientation)
    ds.SharedFunctionalGroupsSequence = provenance.sequence(shared)
    frames = []
    for height in z:
        position, frame = Dataset(), Dataset()
        position.ImagePositionPatient = [f"{each:.8g}" for each in (*value.origin[:2], height)]
        frame.PlanePositionSequence = provenance.sequence(position)
        frames.append(frame)
    ds.PerFrameFunctionalGroupsSequence = provenance.sequence(*frames)


def encode_turntable(run: RunInfo, value: Turntable) -> Dataset:
    """The finished film round the patient: a frame per view, each with the side it shows, a scale bar and what it is.

    ValueError for frames on which there is nothing to be seen.
    """
    if not value.frames.any():
        raise ValueError("a turntable without a picture")
    source = run.source(value.volume.sop_instance_uids[0])
    factor = max(1, -(-_LONG_SIDE // max(value.frames.shape[1:3])))
    views = len(value.frames)
    frames = np.stack([_drawn(run, value, view, factor) for view in range(views)])
    ds = Dataset()
    ds.SOPClassUID = MultiFrameTrueColorSecondaryCaptureImageStorage
    ds.SOPInstanceUID = run.instance_uid(TURNTABLE)
    _image(ds, run, source, frames, value.volume)
    provenance.series(ds, run, TURNTABLE, "OT", f"{run.plugin_title}: turntable")
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.BurnedInAnnotation = "YES"
    if views > 1:
        ds.FrameIncrementPointer = Tag("FrameTime")
        ds.FrameTime, ds.RecommendedDisplayFrameRate = _FRAME_MS, round(1000 / _FRAME_MS)
        ds.StartTrim, ds.StopTrim = 1, views
    ds.DerivationDescription = (
        f"Volume rendering in {views} views, from anterior round by the left, by {run.plugin_title} "
        f"{run.plugin_version}. {DISCLAIMER}."
    )
    return provenance.finish(ds, run, source)


def _image(ds: Dataset, run: RunInfo, source: Dataset, frames: np.ndarray[Any, Any], volume: Volume) -> None:
    """What both have in common: 8-bit pixels, what they were made of, and when."""
    ds.StudyInstanceUID, ds.InstanceNumber = source.StudyInstanceUID, 1
    ds.NumberOfFrames, ds.Rows, ds.Columns = frames.shape[:3]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    raw = np.ascontiguousarray(frames).tobytes()
    ds["PixelData"] = DataElement("PixelData", "OB", raw + b"\0" * (len(raw) % 2))  # PS3.5 8.1.1: even length
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.ConversionType = "WSD"
    ds.LossyImageCompression = "01" if source.get("LossyImageCompression") == "01" else "00"
    for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if ds.LossyImageCompression == "01" and keyword in source:
            ds[keyword] = source[keyword]
    ds.BurnedInAnnotation = "NO"
    ds.RecognizableVisualFeatures = "NO" if source.get("RecognizableVisualFeatures") == "NO" else "YES"
    ds.PatientOrientation = None  # differs by frame
    side = str(source.get("Laterality") or source.get("ImageLaterality") or "")
    ds.Laterality = side if side in ("L", "R") else None  # else it is not even known whether the part is paired
    references = []
    sources = run.instances(volume.sop_instance_uids)
    for each in sources:
        reference = provenance.reference(each)
        reference.PurposeOfReferenceCodeSequence = provenance.sequence(provenance.code(SOURCE_IMAGE))
        references.append(reference)
    ds.SourceImageSequence = provenance.sequence(*references)
    ds.ReferencedSeriesSequence = provenance.sequence(*provenance.referenced_series(sources))
    ds.ContentDate, ds.ContentTime = run.date, run.time
    ds.DateOfSecondaryCapture, ds.TimeOfSecondaryCapture = run.date, run.time


def _drawn(run: RunInfo, value: Turntable, view: int, factor: int) -> np.ndarray[Any, Any]:
    """One view, enlarged, with where the eye is, a scale bar, and what made it."""
    picture = Image.fromarray(value.frames[view])
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC)
    canvas = Canvas(np.zeros((picture.height, picture.width), np.uint8))
    canvas.image.paste(picture)
    turn = view / len(value.frames) * 4
    quarter = round(turn) % 4
    side = _SIDES[quarter] if abs(turn - round(turn)) < 1e-6 else _SIDES[int(turn)] + _SIDES[(int(turn) + 1) % 4]
    canvas.words((6, 4, 60, 24), side, AMBER, 16.0)
    length = next((mm for mm in (100, 50, 20, 10, 5) if mm * factor / value.pitch < canvas.width / 3), 2)
    pixels = length * factor / value.pitch
    right, bottom = canvas.width - 8, canvas.height - 8
    canvas.line([(right - pixels, bottom - 4), (right - pixels, bottom), (right, bottom), (right, bottom - 4)], WHITE)
    text = f"{length} mm"
    width, height = canvas.text_size(text, 10.0)
    canvas.words((right - width, bottom - height - 8, right, bottom), text, WHITE, 10.0)
    words = f"{run.plugin_title} {run.plugin_version}\n{DISCLAIMER}"
    width, height = canvas.text_size(words, 10.0)
    canvas.words((6, canvas.height - height - 6, 6 + width, canvas.height - 6), words, WHITE, 10.0)
    return canvas.pixels()
