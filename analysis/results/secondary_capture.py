"""Owns the picture of an image's findings: an RGB Secondary Capture with a mark and an id on each (PS3.3 A.8.1)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydicom import DataElement, Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import SecondaryCaptureImageStorage

from analysis.api import Code, ImageFindings, Mark
from analysis.results import provenance
from analysis.results.drawing import AMBER, CYAN, WHITE, Box, Canvas
from analysis.results.provenance import RunInfo

Array = np.ndarray[Any, Any]

KIND = "SC"
DISCLAIMER = "CADe result, not for primary diagnosis"
LARGEST_SIDE = 4096
SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")
_CIRCLE_MM = 2.2
_MARGIN_MM = 2.0
_INSETS = 4
_TEXT, _SMALL = 17.0, 13.0


def encode(run: RunInfo, findings: ImageFindings) -> Dataset:
    """The finished Secondary Capture of one image's findings.

    Shown through the image's own modality and VOI look-up tables, MONOCHROME1 the right way round. Same matrix as the
    source unless a side is over 4096 pixels; then every second (third, …) pixel's mean, with the spacing to match.
    """
    source = run.source(findings.image.sop_instance_uid)
    factor = -(-max(findings.image.data.shape) // LARGEST_SIDE)
    grey = reduced(displayed(findings.image.data, source), factor)
    picture = paint(run, findings, grey, factor, source)
    spacing = tuple(mm * factor for mm in findings.spacing)
    number = 1 + [str(ds.SOPInstanceUID) for ds in run.sources].index(findings.image.sop_instance_uid)
    laterality = _laterality(source)
    orientation = [str(value) for value in source.get("PatientOrientation") or ()]
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = SecondaryCaptureImageStorage, instance_uid(run, findings)
    ds.StudyInstanceUID, ds.InstanceNumber = source.StudyInstanceUID, number
    ds.PatientOrientation = orientation if len(orientation) == 2 else None
    if laterality:
        ds.ImageLaterality = laterality
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.Rows, ds.Columns = picture.shape[:2]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    raw = picture.tobytes()
    ds["PixelData"] = DataElement("PixelData", "OB", raw + b"\0" * (len(raw) % 2))  # PS3.5 8.1.1: even length
    _geometry(ds, source, spacing, factor)
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


def _geometry(ds: Dataset, source: Dataset, spacing: Sequence[float], factor: int) -> None:
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


def paint(run: RunInfo, findings: ImageFindings, grey: Array, factor: int, source: Dataset) -> Array:
    """The picture: uint8 (rows, columns, 3)."""
    air = grey < max(24, int(np.percentile(grey[::9, ::9], 10)) + 12)
    canvas = Canvas(grey, air)
    pitch = findings.spacing[1] * factor
    chest_left = float(grey[:, : canvas.width // 2].mean()) >= float(grey[:, canvas.width // 2 :].mean())
    far = canvas.width if chest_left else 0
    _header(canvas, run, findings, source, far)
    _scale_bar(canvas, pitch, far)

    groups = [mark for mark in findings.marks if mark.parent is None]
    children = {group.identifier: [m for m in findings.marks if m.parent == group.identifier] for group in groups}
    boxes = {group.identifier: _extent(group, factor, _MARGIN_MM / pitch) for group in groups}
    for mark in findings.marks:
        if mark.shape == "polygon":
            canvas.brackets(boxes[mark.identifier] if mark.parent is None else _extent(mark, factor, 0), AMBER)
        else:
            x, y = mark.points[0] / factor
            canvas.circle(float(x), float(y), _CIRCLE_MM / 2 / pitch, CYAN)
    for place, group in enumerate(groups):
        _caption(
            canvas, group, children[group.identifier], boxes[group.identifier], far, pitch, factor, place < _INSETS
        )
    # Circles and leader lines cross: whatever they run over, the calcifications themselves stay as they were.
    canvas.restore([m.points[0] / factor for m in findings.marks if m.shape != "polygon"], 0.4 / pitch)
    return canvas.pixels()


def _header(canvas: Canvas, run: RunInfo, findings: ImageFindings, source: Dataset, far: int) -> None:
    view = " ".join(filter(None, (_laterality(source), _view(source))))
    date = str(source.get("ContentDate") or source.get("StudyDate") or "")
    when = f"{date[:4]}-{date[4:6]}-{date[6:8]}" if len(date) == 8 else ""
    threshold = run.params.get("threshold")
    lines = [
        "   ".join(filter(None, (view, when))),
        f"{run.plugin_title} {run.plugin_version}",
        f"Threshold {threshold:g}" if isinstance(threshold, int | float) else "",
        findings.summary,
        DISCLAIMER,
    ]
    for size in (_TEXT, _SMALL, 9.0):
        for text in ("\n".join(filter(None, lines)), "\n".join(filter(None, lines)).replace(", ", ",\n")):
            box = canvas.place(canvas.text_size(text, size), (far, 0))
            if box is not None:
                canvas.words(box, text, WHITE, size)
                return
    # The breast fills the picture: the corner farthest from the chest wall costs least.
    text = "\n".join(filter(None, lines))
    width, height = canvas.text_size(text, 9.0)
    left = max(0, canvas.width - width - 6 * canvas.unit) if far else 6 * canvas.unit
    canvas.words((left, 6 * canvas.unit, left + width, 6 * canvas.unit + height), text, WHITE, 9.0)


def _scale_bar(canvas: Canvas, pitch: float, far: int) -> None:
    length = next((mm for mm in (20, 10, 5, 2) if mm / pitch < 0.25 * canvas.width), 1)
    pixels, text = round(length / pitch), f"{length} mm"
    width, height = canvas.text_size(text, _SMALL)
    rise = 8 * canvas.unit
    size = (max(pixels, width), height + 2 * rise)
    box = canvas.place(size, (far, canvas.height))
    if box is None:
        left = canvas.width - size[0] - 6 * canvas.unit if far else 6 * canvas.unit
        top = canvas.height - size[1] - 6 * canvas.unit
        box = (left, top, left + size[0], top + size[1])
    left, _, _, bottom = box
    ends = (left, bottom - canvas.unit), (left + pixels, bottom - canvas.unit)
    canvas.line([(ends[0][0], bottom - rise), ends[0], ends[1], (ends[1][0], bottom - rise)], WHITE)
    canvas.words((left, box[1], left + width, box[1] + height), text, WHITE, _SMALL)
    canvas.take(box, 4 * canvas.unit)


def _extent(mark: Mark, factor: int, margin: float) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) around a mark, in pixels of the picture."""
    points = mark.points / factor
    low, high = points.min(axis=0) - margin, points.max(axis=0) + margin
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _caption(
    canvas: Canvas, group: Mark, members: Sequence[Mark], extent: tuple[float, float, float, float], far: int,
    pitch: float, factor: int, enlarge: bool,
) -> None:  # fmt: skip
    """Id, score and count of a cluster on air with a leader line; the cluster enlarged with ids where there is room."""
    middle = ((extent[0] + extent[2]) / 2, (extent[1] + extent[3]) / 2)
    text = f"{group.identifier}   {100 * group.score:.0f} %" + (f"   {len(members)} MC" if members else "")
    width, height = canvas.text_size(text, _TEXT)
    box: Box | None = None
    block: Box | None = None
    side_mm = max(8.0, (max(extent[2] - extent[0], extent[3] - extent[1])) * pitch)
    for share in (0.34, 0.27, 0.21, 0.16) if enlarge else ():
        side = round(share * min(canvas.width, canvas.height))
        if side < 1.25 * side_mm / pitch:
            break
        block = canvas.place((max(side, width), side + height + 4 * canvas.unit), middle, 6.0)
        if block is not None:
            _inset(canvas, block, side, group, members, middle, side_mm / pitch, factor)
            box = (block[0], block[3] - height, block[0] + width, block[3])
            break
    else:
        box = canvas.place((width, height), middle, 6.0)
    if box is None:
        box = canvas.place((width, height), middle, 6.0)
    if box is None:  # no air at all: beside the brackets, towards the skin
        x = extent[2] + 4 * canvas.unit if far else extent[0] - width - 4 * canvas.unit
        left = int(min(max(0, x), canvas.width - width))
        top = int(min(max(0, extent[1]), canvas.height - height))
        canvas.words((left, top, left + width, top + height), text, AMBER, _TEXT)
        return
    canvas.words(box, text, AMBER, _TEXT)
    _leader(canvas, block or box, extent, middle)


def _leader(canvas: Canvas, box: Box, extent: tuple[float, float, float, float], middle: tuple[float, float]) -> None:
    """A thin line from the side of the caption that faces the brackets to their nearest side, never into them."""
    gap = 3 * canvas.unit
    start_x = min(max(middle[0], box[0] - gap), box[2] + gap)
    inside = box[0] - gap < start_x < box[2] + gap
    start_y = (box[1] - gap if middle[1] < box[1] else box[3] + gap) if inside else (box[1] + box[3]) / 2
    start = (start_x, start_y)
    end_x = min(max(start[0], extent[0]), extent[2])
    end_y = min(max(start[1], extent[1]), extent[3])
    canvas.line([start, (end_x, end_y)], AMBER, 0.5)


def _inset(
    canvas: Canvas, box: Box, side: int, group: Mark, members: Sequence[Mark], middle: tuple[float, float],
    reach: float, factor: int,
) -> None:  # fmt: skip
    """The cluster enlarged in a square at the top of `box`, each calcification with its id."""
    half = reach / 2
    square = (box[0], box[1], box[0] + side, box[1] + side)
    corner = (middle[0] - half, middle[1] - half)
    zoom = canvas.inset(square, (*corner, corner[0] + reach, corner[1] + reach), AMBER)
    name = canvas.text_size(f"{group.identifier} x{zoom:.0f}", 9.0)
    canvas.words(
        (square[0] + 3 * canvas.unit, square[1] + 3 * canvas.unit, square[0] + name[0], square[1] + name[1]),
        f"x{zoom:.1f}", WHITE, 9.0,
    )  # fmt: skip
    taken: list[tuple[float, float, float, float]] = []
    spots = [((m.points[0] / factor - corner) * zoom + square[:2], m) for m in members]
    radius = 4.0 * canvas.unit
    rings = [(x - radius, y - radius, x + radius, y + radius) for (x, y), _ in spots]
    for (x, y), _ in spots:
        canvas.circle(float(x), float(y), radius, CYAN, 0.6)
    for (x, y), mark in spots:
        width, height = canvas.text_size(mark.identifier, 8.0)
        best, least, far_off = (0.0, 0.0, 0.0, 0.0), np.inf, False
        for turn in range(64):
            angle, away = turn * np.pi / 8, radius * (1.4, 3.0, 5.0, 8.0)[turn // 16]
            cx, cy = x + np.cos(angle) * (away + width / 2), y + np.sin(angle) * (away + height / 2)
            place = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
            outside = place[0] < square[0] or place[1] < square[1] or place[2] > square[2] or place[3] > square[3]
            cost = sum(_overlap(place, other) for other in (*taken, *rings)) + 1e9 * outside + 0.05 * away
            if cost < least:
                best, least, far_off = place, cost, turn >= 16
        taken.append(best)
        if far_off:
            end = (min(max(x, best[0]), best[2]), min(max(y, best[1]), best[3]))
            length = max(float(np.hypot(end[0] - x, end[1] - y)), 1.0)
            start = (x + (end[0] - x) * radius / length, y + (end[1] - y) * radius / length)
            canvas.line([start, end], CYAN, 0.3)
        box_of_text = (round(best[0]), round(best[1]), round(best[2]), round(best[3]))
        canvas.words(box_of_text, mark.identifier, CYAN, 8.0)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)


def _laterality(source: Dataset) -> str:
    text = str(source.get("ImageLaterality") or source.get("Laterality") or "")
    return text if text in ("L", "R", "B") else ""


def _view(source: Dataset) -> str:
    return str(source.get("ViewPosition") or "")
