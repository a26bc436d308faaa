"""Owns the Grayscale Softcopy Presentation State of an image's findings (PS3.3 A.33.1): marks over the untouched image.

Any PACS workstation draws it, and the reader takes the marks off with one key: nothing is burnt in.
"""

from __future__ import annotations

import copy

import numpy as np
from pydicom import Dataset
from pydicom.uid import GrayscaleSoftcopyPresentationStateStorage

from analysis.api import ImageFindings, Mark
from analysis.results import provenance
from analysis.results.provenance import RunInfo

KIND = "PR"
LAYER = "CADE"
_AMBER_LAB = (53970, 33400, 52400)  # PCS-Values of the viewer's amber (PS3.3 C.10.7.1.1)
_CIRCLE_MM = 1.1
_VOI = ("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction", "VOILUTSequence")
_MODALITY = ("ModalityLUTSequence", "RescaleIntercept", "RescaleSlope", "RescaleType")


def encode(run: RunInfo, findings: ImageFindings) -> Dataset:
    """The finished presentation state of one image that has marks.

    Look-up tables are the image's own, so that the picture is the one the modality meant; the whole image is shown.
    """
    source = run.source(findings.image.sop_instance_uid)
    rows, columns = findings.image.data.shape
    ds = Dataset()
    ds.SOPClassUID = GrayscaleSoftcopyPresentationStateStorage
    ds.SOPInstanceUID = run.instance_uid(KIND, findings.image.sop_instance_uid, findings.image.frame_number or 0)
    ds.StudyInstanceUID = source.StudyInstanceUID
    ds.InstanceNumber = 1 + [str(each.SOPInstanceUID) for each in run.sources].index(findings.image.sop_instance_uid)
    provenance.series(ds, run, KIND, "PR", f"{run.plugin_title}: marks")
    side = str(source.get("ImageLaterality") or source.get("Laterality") or "")
    if side in ("L", "R"):
        # Laterality belongs to the series, so each side has one of its own (PS3.3 C.7.3.1).
        ds.Laterality = side
        ds.SeriesInstanceUID = run.uid("series", KIND, side)
        ds.SeriesNumber = provenance.SERIES_NUMBERS[KIND] + ("RL".index(side))
    ds.PresentationCreationDate, ds.PresentationCreationTime = run.date, run.time
    ds.ContentLabel, ds.ContentDescription = LAYER, findings.summary[:64]
    ds.ContentCreatorName = f"{provenance.MANUFACTURER}^{run.plugin_title}"[:64]
    image = provenance.reference(source)
    if findings.image.frame_number is not None:
        image.ReferencedFrameNumber = findings.image.frame_number
    series = Dataset()
    series.SeriesInstanceUID = source.SeriesInstanceUID
    series.ReferencedImageSequence = provenance.sequence(image)
    ds.ReferencedSeriesSequence = provenance.sequence(series)
    ds.DisplayedAreaSelectionSequence = provenance.sequence(_whole(source, rows, columns))
    ds.GraphicLayerSequence = provenance.sequence(_layer(run))
    ds.GraphicAnnotationSequence = provenance.sequence(_annotation(run, findings, image))
    _look_up_tables(ds, source)
    return provenance.finish(ds, run, source)


def _whole(source: Dataset, rows: int, columns: int) -> Dataset:
    """The whole image, scaled to fit (PS3.3 C.10.4); pixels are square, or in the ratio that the image says."""
    area = Dataset()
    area.DisplayedAreaTopLeftHandCorner, area.DisplayedAreaBottomRightHandCorner = [1, 1], [columns, rows]
    area.PresentationSizeMode = "SCALE TO FIT"
    ratio = source.get("PixelAspectRatio")
    area.PresentationPixelAspectRatio = [int(each) for each in ratio] if ratio else [1, 1]
    return area


def _layer(run: RunInfo) -> Dataset:
    layer = Dataset()
    layer.GraphicLayer, layer.GraphicLayerOrder = LAYER, 1
    layer.GraphicLayerRecommendedDisplayCIELabValue = list(_AMBER_LAB)
    layer.GraphicLayerDescription = f"{run.plugin_title} {run.plugin_version}"[:64]
    return layer


def _annotation(run: RunInfo, findings: ImageFindings, image: Dataset) -> Dataset:
    annotation = Dataset()
    annotation.ReferencedImageSequence = provenance.sequence(copy.deepcopy(image))
    annotation.GraphicLayer = LAYER
    annotation.GraphicObjectSequence = provenance.sequence(*(_shape(findings, mark) for mark in findings.marks))
    named = [mark for mark in findings.marks if mark.parent is None]
    annotation.TextObjectSequence = provenance.sequence(*(_name(findings, mark) for mark in named))
    return annotation


def _shape(findings: ImageFindings, mark: Mark) -> Dataset:
    """One mark (PS3.3 C.10.5.1.2): PIXEL units, the corner of the first pixel is 0\\0, as in an SR."""
    rows, columns = findings.image.data.shape
    corner = np.array([columns, rows], np.float64)
    points = np.clip(np.asarray(mark.points, np.float64), 0.0, corner)
    shape = Dataset()
    shape.GraphicAnnotationUnits, shape.GraphicDimensions = "PIXEL", 2
    if mark.shape == "polygon":
        if not np.array_equal(points[0], points[-1]):
            points = np.concatenate([points, points[:1]])
        shape.GraphicType = "POLYLINE"
    else:
        if mark.shape == "point":
            # A dot would hide the calcification: a small circle goes around it.
            edge = points[0] + np.array([_CIRCLE_MM / findings.spacing[1] / 2, 0.0])
            points = np.stack([points[0], edge])
        shape.GraphicType = "CIRCLE"
    shape.NumberOfGraphicPoints = len(points)
    shape.GraphicData = [float(each) for each in points.ravel()]
    shape.GraphicFilled = "N"
    return shape


def _name(findings: ImageFindings, mark: Mark) -> Dataset:
    """The id of a mark beside it, anchored at its right-hand side."""
    rows, columns = findings.image.data.shape
    points = np.clip(np.asarray(mark.points, np.float64), 0.0, np.array([columns, rows], np.float64))
    anchor = points[int(np.argmax(points[:, 0]))]
    text = Dataset()
    text.AnchorPointAnnotationUnits = "PIXEL"
    text.UnformattedTextValue = f"{mark.identifier} {100 * mark.score:.0f}%"
    text.AnchorPoint = [float(each) for each in anchor]
    text.AnchorPointVisibility = "N"
    return text


def _look_up_tables(ds: Dataset, source: Dataset) -> None:
    """Modality, VOI and presentation look-up tables as the image has them (PS3.3 C.11.1, C.11.8, C.11.6)."""
    for keyword in _MODALITY:
        if source.get(keyword) not in (None, ""):
            ds.add(copy.deepcopy(source[keyword]))
    if "RescaleSlope" in ds or "RescaleIntercept" in ds:  # one without the other means the identity for the other
        ds.RescaleIntercept, ds.RescaleSlope = ds.get("RescaleIntercept", 0), ds.get("RescaleSlope", 1)
        ds.RescaleType = ds.get("RescaleType", "US")
    if "ModalityLUTSequence" in ds:
        for keyword in ("RescaleIntercept", "RescaleSlope", "RescaleType"):
            ds.pop(keyword, None)
    voi = Dataset()
    for keyword in _VOI:
        if source.get(keyword) not in (None, "", []):
            voi.add(copy.deepcopy(source[keyword]))
    if ("WindowWidth" in voi) != ("WindowCenter" in voi):
        for keyword in _VOI[:4]:
            voi.pop(keyword, None)
    if "WindowWidth" in voi or "VOILUTSequence" in voi:
        ds.SoftcopyVOILUTSequence = provenance.sequence(voi)
    ds.PresentationLUTShape = "INVERSE" if source.get("PhotometricInterpretation") == "MONOCHROME1" else "IDENTITY"
