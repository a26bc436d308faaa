"""Synthetic DICOM for every test: patients that never lived, pixels from formulas, in any transfer syntax."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
)

from pacs import uids


def image(seed: int = 0, rows: int = 16, columns: int = 12, **attributes: Any) -> Dataset:
    """One CT slice; equal seeds give equal data sets. Keyword arguments set attributes by keyword; None removes one."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = uids.derived("instance", seed)
    ds.StudyInstanceUID = uids.derived("study", 0)
    ds.SeriesInstanceUID = uids.derived("series", 0)
    ds.FrameOfReferenceUID = uids.derived("frame", 0)
    ds.StudyDate, ds.StudyTime = "20260102", "030405"
    ds.AccessionNumber, ds.StudyID = "A1", "S1"
    ds.PatientName, ds.PatientID = "Synthetic^Sam", "SYN-1"
    ds.PatientBirthDate, ds.PatientSex = "19700101", "O"
    ds.ReferringPhysicianName = "Referrer^Rae"
    ds.StudyDescription, ds.SeriesDescription = "Synthetic study", "Synthetic series"
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "CT", 1, seed + 1
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.Rows, ds.Columns = rows, columns
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = -1024, 1, "HU"
    ds.WindowCenter, ds.WindowWidth = 40, 400
    ds.PixelSpacing, ds.SliceThickness = [0.5, 0.5], 1
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, seed], [1, 0, 0, 0, 1, 0]
    pixels = (np.arange(rows * columns, dtype=np.uint16).reshape(rows, columns) * 7 + seed) % 4096
    ds.PixelData = pixels.astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    for keyword, value in attributes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def mammogram(seed: int = 0, rows: int = 64, columns: int = 48, **attributes: Any) -> Dataset:
    """One digital mammogram for presentation with a flat synthetic breast."""
    pixels = np.full((rows, columns), 200, np.uint16)
    pixels[:, : columns // 2] = 2000
    defaults: dict[str, Any] = {
        "SOPClassUID": DigitalMammographyXRayImageStorageForPresentation,
        "Modality": "MG", "PresentationIntentType": "FOR PRESENTATION", "ImageLaterality": "L", "ViewPosition": "CC",
        "PatientOrientation": ["A", "R"], "ImagerPixelSpacing": [0.1, 0.1], "BodyPartExamined": "BREAST",
        "RescaleIntercept": 0, "RescaleType": "US", "WindowCenter": 2048, "WindowWidth": 4096,
        "PixelData": pixels.astype("<u2").tobytes(),
        "ImagePositionPatient": None, "ImageOrientationPatient": None, "FrameOfReferenceUID": None,
    }  # fmt: skip
    return image(seed, rows, columns, **(defaults | attributes))


def series(slices: int, study: int = 0, number: int = 0, **attributes: Any) -> Iterator[Dataset]:
    """`slices` CT slices of one series, 1 mm apart."""
    for z in range(slices):
        yield image(
            z,
            SOPInstanceUID=uids.derived("instance", study, number, z),
            StudyInstanceUID=uids.derived("study", study),
            SeriesInstanceUID=uids.derived("series", study, number),
            ImagePositionPatient=[0, 0, z],
            SeriesNumber=number + 1,
            **attributes,
        )


def part10(ds: Dataset, transfer_syntax_uid: str = ExplicitVRLittleEndian) -> bytes:
    """`ds` as a Part 10 file in the given (uncompressed or deflated) transfer syntax; leaves `ds` as it was.

    Pixel data is written as it is: for Explicit VR Big Endian give its words swapped.
    """
    whole = copy.deepcopy(ds)  # Dataset(ds) would share its elements
    whole.file_meta = FileMetaDataset()
    whole.file_meta.TransferSyntaxUID = transfer_syntax_uid
    out = io.BytesIO()
    dcmwrite(out, whole, enforce_file_format=True)
    return out.getvalue()


def dataset_bytes(ds: Dataset, transfer_syntax_uid: str = ExplicitVRLittleEndian) -> bytes:
    """The data set alone, as DIMSE carries it."""
    raw = part10(ds, transfer_syntax_uid)
    return raw[144 + int.from_bytes(raw[140:144], "little") :]
