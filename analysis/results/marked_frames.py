"""Owns the pictures of a task's findings as one multi-frame Secondary Capture (PS3.3 A.8.5), to be leafed through.

Of every image a frame without marks, then the marked one in the same place, so that one step shows what the marks lie
on; then the clusters enlarged, with every id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydicom import DataElement, Dataset
from pydicom.tag import Tag
from pydicom.uid import MultiFrameTrueColorSecondaryCaptureImageStorage

from analysis.api import ImageFindings
from analysis.results import inherited, marked_picture, provenance
from analysis.results.marked_picture import DISCLAIMER, Picture
from analysis.results.provenance import RunInfo
from analysis.results.relations import SOURCE_IMAGE
from analysis.results.secondary_capture import displayed, reduced

Array = np.ndarray[Any, Any]

KIND = "MARKED"
LARGEST_SIDE = 2048
MOST_BYTES = 1 << 28
"""Of the frames without and with marks."""
_LABEL = 16  # characters of a Frame Label (SH)


def encode(run: RunInfo, findings: Sequence[ImageFindings], captures: Sequence[Dataset]) -> Dataset:
    """The finished object of these images' findings: no side longer than 2048 pixels, and smaller ones of very many.

    captures: the marked picture of each image by itself, which is a frame here where it is of the same size. Smaller
    images stand at their chest wall in frames of the size of the largest. Frame Label Vector says what each is.
    """
    sources = [run.source(each.image.sop_instance_uid) for each in findings]
    factor = max(-(-max(each.image.data.shape) // LARGEST_SIDE) for each in findings)
    while 3 * sum(2 * each.image.data.size // factor**2 for each in findings) > MOST_BYTES:
        factor += 1
    whole = [
        Picture(run, each, source, displayed(each.image.data, source))
        for each, source in zip(findings, sources, strict=True)
    ]
    small = [Picture(run, p.findings, p.source, reduced(p.grey, factor), factor) for p in whole]
    shape = (max(p.grey.shape[0] for p in small), max(p.grey.shape[1] for p in small))
    labels: list[str] = []
    frames: list[Array] = []
    for number, (full, picture, capture) in enumerate(zip(whole, small, captures, strict=True), 1):
        name = picture.name or f"Image {number}"
        for label, drawn in (("plain", marked_picture.plain(picture)), ("marked", _marked(picture, capture))):
            labels.append(f"{name} {label}"[:_LABEL])
            frames.append(_within(drawn, shape, left=picture.chest_left))
        for label, drawn in marked_picture.details(full, shape):
            labels.append((label if picture.name else f"{name} {label}")[:_LABEL])
            frames.append(drawn)
    first = sources[0]
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = MultiFrameTrueColorSecondaryCaptureImageStorage, run.instance_uid(KIND)
    ds.StudyInstanceUID, ds.InstanceNumber = first.StudyInstanceUID, 1
    ds.PatientOrientation = None  # differs by frame
    inherited.say_side(ds, sources)
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.NumberOfFrames, ds.Rows, ds.Columns = len(frames), *shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    raw = b"".join(frame.tobytes() for frame in frames)
    ds["PixelData"] = DataElement("PixelData", "OB", raw + b"\0" * (len(raw) % 2))  # PS3.5 8.1.1: even length
    provenance.series(ds, run, KIND, str(first.get("Modality") or "OT"), f"{run.plugin_title}: plain, marked, enlarged")
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.ConversionType = "WSD"
    ds.BurnedInAnnotation, ds.RecognizableVisualFeatures = "YES", "NO"
    ds.FrameIncrementPointer, ds.FrameLabelVector = Tag("FrameLabelVector"), labels
    words = f"Each image without and with the marks of {run.plugin_title} {run.plugin_version}, its clusters enlarged"
    ds.DerivationDescription = f"{words}. {DISCLAIMER}"[:1024]
    references = []
    for each, source in zip(findings, sources, strict=True):
        reference = provenance.reference(source)
        if each.image.frame_number is not None:
            reference.ReferencedFrameNumber = each.image.frame_number
        reference.PurposeOfReferenceCodeSequence = provenance.sequence(provenance.code(SOURCE_IMAGE))
        reference.SpatialLocationsPreserved = "NO"
        references.append(reference)
    ds.SourceImageSequence = provenance.sequence(*references)
    ds.ContentDate, ds.ContentTime = run.date, run.time
    ds.DateOfSecondaryCapture, ds.TimeOfSecondaryCapture = run.date, run.time
    return provenance.finish(ds, run, first)


def _marked(picture: Picture, capture: Dataset) -> Array:
    if (capture.Rows, capture.Columns) != picture.grey.shape:
        return marked_picture.paint(picture)
    pixels = np.frombuffer(capture.PixelData, np.uint8, capture.Rows * capture.Columns * 3)
    return pixels.reshape(capture.Rows, capture.Columns, 3)


def _within(picture: Array, shape: tuple[int, int], *, left: bool) -> Array:
    """A picture in a black one of that shape, at its top, and at its left or right."""
    rows, columns = picture.shape[:2]
    if (rows, columns) == shape:
        return picture
    frame = np.zeros((*shape, 3), np.uint8)
    start = 0 if left else shape[1] - columns
    frame[:rows, start : start + columns] = picture
    return frame
