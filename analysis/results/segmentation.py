"""Owns label maps as DICOM Segmentation (PS3.3 A.51): BINARY, one frame per source slice that holds the label, and
LABELMAP, one frame per slice with all labels."""

from __future__ import annotations

from collections.abc import Sequence

import highdicom as hd
import numpy as np
from pydicom import Dataset

from analysis.api import Code, LabelMap, Segment, Volume
from analysis.results import frames, provenance
from analysis.results.provenance import RunInfo

KIND = "SEG"
LABELMAP = "LABELMAP"


def instance_uid(run: RunInfo, kind: str = KIND) -> str:
    """SOP Instance UID of a task's Segmentation of a kind."""
    return run.instance_uid(kind)


def tracking_uid(run: RunInfo, segment: Segment) -> str:
    """Tracking UID of a segment: the same in Segmentation, surface and report."""
    return run.uid("tracking", segment.number)


def encode(run: RunInfo, value: LabelMap, family: Code = provenance.HISTOGRAM_ANALYSIS, kind: str = KIND) -> Dataset:
    """The Segmentation of a label map, finished: BINARY, or for the kind LABELMAP a Label Map Segmentation.

    Frames lie where their source slices lie, so tilt and uneven gaps stay true; slices without a label have no frame.
    KeyError when the run does not know a slice of the volume; ValueError for a label map without any voxel.
    """
    if not value.labels.any():
        raise ValueError("a label map without a voxel is no Segmentation")
    used = np.flatnonzero(value.labels.any(axis=(1, 2)))
    first, last = int(used[0]), int(used[-1]) + 1  # highdicom expands every slice it is given into every segment
    slices = frames.slices(run, value.volume)  # a KeyError for any, used or not
    ds = hd.seg.Segmentation(
        source_images=[_complete(each.image, value.volume) for each in slices[first:last]],
        pixel_array=value.labels[first:last],
        segmentation_type=hd.seg.SegmentationTypeValues[kind if kind == LABELMAP else "BINARY"],
        segment_descriptions=[_description(run, segment, family) for segment in value.segments],
        series_instance_uid=run.series_uid(kind),
        series_number=provenance.SERIES_NUMBERS[kind],
        sop_instance_uid=instance_uid(run, kind),
        instance_number=1,
        manufacturer=provenance.MANUFACTURER,
        manufacturer_model_name=run.plugin_title,
        software_versions=run.plugin_version,
        device_serial_number=run.plugin_id,
        content_label="SEGMENTATION",
        content_description=run.plugin_title[:64],
        omit_empty_frames=True,
    )
    if kind != LABELMAP and ds.Rows * ds.Columns < 8:
        ds.PixelData = _packed(ds)
    organization = run.uid("dimension organization", *([kind] if kind != KIND else []))
    for item in (*ds.DimensionOrganizationSequence, *ds.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    provenance.series(ds, run, kind, "SEG", f"{run.plugin_title}: labels{' (label map)' if kind != KIND else ''}")
    frames.refer(ds, slices[first:last])
    ds.PositionReferenceIndicator = slices[0].source.get("PositionReferenceIndicator", "")
    return provenance.finish(ds, run, run.source(value.volume.sop_instance_uids[0]))


def _packed(ds: Dataset) -> bytes:
    """Pixel data of frames of less than a byte, without the gaps that highdicom leaves between these (PS3.5 8.1.1)."""
    padded = np.frombuffer(ds.PixelData, np.uint8, int(ds.NumberOfFrames))
    bits = np.unpackbits(padded[:, None], axis=1, bitorder="little")[:, : ds.Rows * ds.Columns]
    raw = np.packbits(bits, bitorder="little").tobytes()
    return raw + b"\0" * (len(raw) % 2)


def _description(run: RunInfo, segment: Segment, family: Code) -> hd.seg.SegmentDescription:
    identification = hd.AlgorithmIdentificationSequence(
        name=run.plugin_title,
        family=_coded(family),
        version=run.plugin_version,
        source=provenance.MANUFACTURER,
        parameters=run.parameter_texts(),
    )
    description = hd.seg.SegmentDescription(
        segment_number=segment.number,
        segment_label=segment.label[:64],
        segmented_property_category=_coded(segment.category),
        segmented_property_type=_coded(segment.type),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=identification,
        tracking_uid=tracking_uid(run, segment),
        tracking_id=segment.label[:64],
    )
    description.RecommendedDisplayCIELabValue = cielab(segment.colour)
    return description


def _coded(code: Code) -> hd.sr.CodedConcept:
    return hd.sr.CodedConcept(code.value, code.scheme, code.meaning)


def _complete(ds: Dataset, volume: Volume) -> Dataset:
    """A slice, which is changed, as highdicom insists on it; its frame of reference is at least the volume's.

    A thickness that is not said is the slices' distance; what no image may say (a negative distance) is left out.
    """
    if not float(ds.get("SliceThickness") or 0) > 0:
        ds.pop("SliceThickness", None)
        gaps = np.linalg.norm(np.diff(volume.positions, axis=0), axis=1)
        ds.SliceThickness = f"{float(np.median(gaps)) if len(gaps) else 1.0:.8g}"
    if not float(ds.get("SpacingBetweenSlices") or 0) > 0:
        ds.pop("SpacingBetweenSlices", None)
    if ds.get("LossyImageCompression") not in ("00", "01"):
        ds.pop("LossyImageCompression", None)
    if not ds.get("FrameOfReferenceUID"):
        ds.pop("FrameOfReferenceUID", None)  # assigning to an element that is there would change the source
        ds.FrameOfReferenceUID = volume.frame_of_reference_uid
    return ds


def cielab(colour: Sequence[int]) -> list[int]:
    """An sRGB colour (0 to 255) as CIELab in the 16-bit coding of PS3.3 C.10.7.1.1."""
    rgb = np.asarray(colour, np.float64) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    # sRGB primaries, adapted from D65 to the D50 white that DICOM's CIELab is relative to
    xyz = _SRGB_TO_XYZ_D50 @ linear / _WHITE_D50
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    lightness, a, b = 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])
    scaled = (lightness * 65535 / 100, (a + 128) * 65535 / 255, (b + 128) * 65535 / 255)
    return [int(np.clip(round(v), 0, 65535)) for v in scaled]


def srgb(lab: Sequence[int]) -> tuple[int, int, int]:
    """The sRGB colour (0 to 255) of a CIELab value in DICOM's 16-bit coding, cut to what sRGB can show."""
    lightness, a, b = lab[0] * 100 / 65535, lab[1] * 255 / 65535 - 128, lab[2] * 255 / 65535 - 128
    fy = (lightness + 16) / 116
    f = np.array([fy + a / 500, fy, fy - b / 200])
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * _WHITE_D50
    linear = np.clip(np.linalg.solve(_SRGB_TO_XYZ_D50, xyz), 0, 1)
    rgb = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = (int(v) for v in np.rint(rgb * 255))
    return red, green, blue


_SRGB_TO_XYZ_D50 = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)
_WHITE_D50 = np.array([0.9642, 1.0, 0.8249])
