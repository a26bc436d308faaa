"""Owns the picture of an image's findings: an RGB Secondary Capture with a mark and an id on each (PS3.3 A.8.1)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydicom import DataElement, Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import SecondaryCaptureImageStorage

from analysis.api import ImageFindings
from analysis.results import inherited, marked_picture, provenance
from analysis.results.marked_picture import DISCLAIMER, Picture
from analysis.results.provenance import RunInfo
from analysis.results.relations import SOURCE_IMAGE

Array = np.ndarray[Any, Any]

KIND = "SC"
LARGEST_SIDE = 4096


def encode(run: RunInfo, findings: ImageFindings) -> Dataset:
    """The finished Secondary Capture of one image's findings.

    Shown through the image's own modality and VOI look-up tables, MONOCHROME1 the right way round. Same matrix as the
    source unless a side is over 4096 pixels; then every second (third, …) pixel's mean, with the spacing to match.
    """
    source = run.source(findings.image.sop_instance_uid)
    factor = -(-max(findings.image.data.shape) // LARGEST_SIDE)
    grey = reduced(displayed(findings.image.data, source), factor)
    picture = marked_picture.paint(Picture(run, findings, source, grey, factor))
    spacing = tuple(mm * factor for mm in findings.spacing)
    number = 1 + [str(ds.SOPInstanceUID) for ds in run.sources].index(findings.image.sop_instance_uid)
    orientation = [str(value) for value in source.get("PatientOrientation") or ()]
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = SecondaryCaptureImageStorage, instance_uid(run, findings)
    ds.StudyInstanceUID, ds.InstanceNumber = source.StudyInstanceUID, number
    ds.PatientOrientation = orientation if len(orientation) == 2 else None
    inherited.say_side(ds, [source])
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.Rows, ds.Columns = picture.shape[:2]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    raw = picture.tobytes()
    ds["PixelData"] = DataElement("PixelData", "OB", raw + b"\0" * (len(raw) % 2))  # PS3.5 8.1.1: even length
    geometry(ds, source, spacing, factor)
    provenance.series(ds, run, KIND, str(source.get("Modality") or "OT"), f"{run.plugin_title}: marked images")
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.ConversionType = "WSD"
    ds.BurnedInAnnotation, ds.RecognizableVisualFeatures = "YES", "NO"
    ds.DerivationDescription = f"Marks of {run.plugin_title} {run.plugin_version}. {findings.summary}. {DISCLAIMER}"[
        :1024
    ]
    reference = provenance.reference(source)
    if findings.image.frame_number is not None:
        reference.ReferencedFrameNumber = findings.image.frame_number
    reference.PurposeOfReferenceCodeSequence = provenance.sequence(provenance.code(SOURCE_IMAGE))
    reference.SpatialLocationsPreserved = "YES" if factor == 1 else "NO"
    ds.SourceImageSequence = provenance.sequence(reference)
    ds.ContentDate, ds.ContentTime = run.date, run.time
    ds.DateOfSecondaryCapture, ds.TimeOfSecondaryCapture = run.date, run.time
    return provenance.finish(ds, run, source)


def instance_uid(run: RunInfo, findings: ImageFindings) -> str:
    """SOP Instance UID of the picture of these findings."""
    return run.instance_uid(KIND, findings.image.sop_instance_uid, findings.image.frame_number or 0)


def geometry(ds: Dataset, source: Dataset, spacing: Sequence[float], factor: int) -> None:
    """Pixel size as the source states it (PS3.3 10.7.1): never a calibration that the source does not claim."""
    for keyword in ("PixelSpacing", "PixelSpacingCalibrationType", "PixelSpacingCalibrationDescription"):
        if keyword in source:
            ds.add(copy.deepcopy(source[keyword]))
    if source.get("PixelSpacing") and factor > 1:
        ds.PixelSpacing = [f"{mm:.8g}" for mm in spacing]
    if ds.get("PixelSpacingCalibrationType") and not ds.get("PixelSpacingCalibrationDescription"):
        ds.PixelSpacingCalibrationDescription = "As stated by the source image"
    if not source.get("PixelSpacing"):
        # A length measured on the picture must not look like one in the patient: the detector's own size, no more.
        ds.NominalScannedPixelSpacing = [f"{mm:.8g}" for mm in spacing]


def displayed(data: Array, source: Dataset) -> Array:
    """`data` (stored values) as a viewer would first show it: uint8 (rows, columns), bright is dense.

    Modality look-up table, then the first window (LINEAR, LINEAR_EXACT or SIGMOID, PS3.3 C.11.2) or else the first VOI
    look-up table; without any, from the 1st to the 99.8th percentile. MONOCHROME1 is turned round.
    """
    said = "ModalityLUTSequence" in source or None not in (source.get("RescaleSlope"), source.get("RescaleIntercept"))
    values = np.asarray(apply_modality_lut(data, source) if said else data)
    if source.get("WindowWidth") is not None and source.get("WindowCenter") is not None:
        centre, width = (float(np.atleast_1d(source.get(name))[0]) for name in ("WindowCenter", "WindowWidth"))
        unit = _windowed(values.astype(np.float32), centre, width, str(source.get("VOILUTFunction") or "LINEAR"))
    elif "VOILUTSequence" in source:
        shown = np.asarray(apply_voi_lut(values, source), np.float32)
        top = 2 ** int(source.VOILUTSequence[0].LUTDescriptor[2]) - 1
        unit = shown / top
    else:
        sample = values[::7, ::7].astype(np.float32)
        low, high = np.percentile(sample, [1, 99.8])
        unit = (values.astype(np.float32) - low) / max(float(high - low), 1.0)
    grey = (np.clip(unit, 0, 1) * 255 + 0.5).astype(np.uint8)
    # With a Presentation LUT Shape of INVERSE the values are the other way round as well (PS3.3 C.11.6).
    inverted = source.get("PhotometricInterpretation") == "MONOCHROME1"
    return 255 - grey if inverted else grey


def _windowed(values: Array, centre: float, width: float, function: str) -> Array:
    width = max(width, 1.0)
    if function == "SIGMOID":
        result: Array = 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -60, 60)))
    elif function == "LINEAR_EXACT":
        result = (values - centre) / width + 0.5
    else:
        result = (values - (centre - 0.5)) / max(width - 1, 1.0) + 0.5
    return result


def reduced(grey: Array, factor: int) -> Array:
    """The mean of every factor x factor pixels, uint8; what fills no block is dropped."""
    if factor == 1:
        return grey
    rows, columns = grey.shape[0] // factor, grey.shape[1] // factor
    blocks = grey[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
    result: Array = blocks.mean(axis=(1, 3), dtype=np.float32).round().astype(np.uint8)
    return result
